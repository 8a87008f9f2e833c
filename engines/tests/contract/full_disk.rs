//! A full disk is told as one, and what was there before can be read.

use std::process::Command as Program;

use super::*;

/// A filesystem in memory of 24 MiB, mounted for as long as this lives; `None`, with a word, for who may not mount.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Option<Small> {
        let home = tempfile::tempdir().unwrap();
        let mounted = Program::new("mount")
            .args(["-t", "tmpfs", "-o", "size=24m", "kvfs-test"])
            .arg(home.path())
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Small(home)),
            other => {
                eprintln!("skipped: only root can mount a small filesystem: {other:?}");
                None
            }
        }
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // What cannot be unmounted is told by the directory that cannot be removed.
        let _ = Program::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_told_as_one_and_what_was_synced_is_there() {
    for kind in others() {
        let Some(small) = Small::mount() else { return };
        let mut options = Options::tiny(kind);
        set_map(&mut options);
        let engine = open(kind, &options, small.0.path());
        let (mut random, mut acknowledged, mut end) = (Prng::new(5), 0u32, None);
        while end.is_none() && acknowledged < 2000 {
            let value: Vec<u8> = (0..32 << 10).map(|_| random.bits() as u8).collect();
            let done = apply(&*engine, &put(acknowledged.to_be_bytes().to_vec(), value));
            match done.and_then(|_| engine::sync(&*engine)) {
                Ok(()) => acknowledged += 1,
                Err(error) => end = Some(error),
            }
        }
        let error = end.unwrap_or_else(|| panic!("{kind} never filled 24 MiB"));
        assert!(matches!(error, Error::NoSpace), "{kind}: {error:?}");
        assert!(acknowledged >= 100, "{kind} took {acknowledged}");
        // Some do without the rest until they are opened again; none may lose what was acknowledged.
        let _ = engine.close();
        drop(engine);
        let engine = open(kind, &options, small.0.path());
        for number in 0..acknowledged {
            let found = engine.get(&number.to_be_bytes(), Tier::Disk).unwrap();
            assert_eq!(found.map(|value| value.len()), Some(32 << 10), "{kind}: {number} of {acknowledged}");
        }
        // A look at a full disk ends as it can.
        let _ = engine.close();
    }
}
