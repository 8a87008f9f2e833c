//! What is told of an engine of others where the disk below is full or cannot be written, where it is mounted to be read, and where it stalls.

use std::fs::{self, File};
use std::io::Write;
use std::time::{Duration, Instant};

use kvfs::base::prng::Prng;

use crate::host::{Engine, Mount, able, other_engine, root, until};

/// Bytes of a file: several of them are less than any engine keeps for itself.
const FILE_BYTES: usize = 1 << 20;
/// Bytes that others take of the disk until it is full.
const BALLAST_BYTES: usize = 32 << 20;

/// The content of file `number`, nothing that could be compressed.
fn content(number: usize) -> Vec<u8> {
    let mut prng = Prng::new(number as u64);
    (0..FILE_BYTES / 8).flat_map(|_| prng.bits().to_le_bytes()).collect()
}

fn write_durably(mount: &Mount, number: usize) -> std::io::Result<()> {
    let mut file = File::create(mount.mnt().join(number.to_string()))?;
    file.write_all(&content(number))?;
    file.sync_all()
}

fn is_there(mount: &Mount, number: usize) -> bool {
    fs::read(mount.mnt().join(number.to_string())).unwrap() == content(number)
}

/// Runs `what` while something is mounted over the store's directory, which `kvfs` is not to see any more afterwards, however it ends.
fn over_the_store(mount: &Mount, command: &str, what: impl FnOnce()) {
    mount.sh(command);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(what));
    mount.sh(
        r#""$KVFS" umount "$MNT" 2> /dev/null || umount -l "$MNT" 2> /dev/null || true; umount -l "$STORE""#,
    );
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// ENOSPC, nothing lost that was durable, and then what the engine promises: it goes on when there is room, or after the next mount.
fn a_full_disk(engine: Engine) {
    if !able(&["mount", "umount"]) || !root() {
        return;
    }
    let mount = Mount::place(engine, "memory=16M");
    fs::create_dir(mount.store()).unwrap();
    over_the_store(&mount, r#"mount -t tmpfs -o size=192m,mode=755 kvfs-test "$STORE""#, || {
        mount.start();
        let ballast = mount.store().join("ballast");
        fs::write(&ballast, vec![1; BALLAST_BYTES]).unwrap();
        let mut count = 0;
        let error = loop {
            match write_durably(&mount, count) {
                Ok(()) => count += 1,
                Err(error) => break error,
            }
            assert!(count < 400, "192 MiB took 400 MiB");
        };
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC), "after {count} files");
        assert!(count >= 20, "full after {count} files");
        let goes_on = mount.promises("survives_full_disk");
        fs::remove_file(&ballast).unwrap();
        if !goes_on {
            // What stands still at the first merge without room needs room for that merge.
            mount.sh(r#"mount -o remount,size=512m "$STORE""#);
        }
        if goes_on {
            assert!((0..count).all(|number| is_there(&mount, number)));
            let again = until(Duration::from_secs(20), || write_durably(&mount, 1000).is_ok());
            assert!(again, "{:?}", write_durably(&mount, 1000));
        } else {
            let refused = write_durably(&mount, 1000).expect_err("it takes nothing more");
            assert!([Some(libc::EIO), Some(libc::EROFS)].contains(&refused.raw_os_error()), "{refused}");
            let text = fs::read_to_string(mount.mnt().join(".stats")).unwrap();
            assert!(text.contains("full disk") && text.contains("mount it anew"), "{text}");
        }
        // What it could not make durable any more is told, and lost.
        mount.sh(r#""$KVFS" umount "$MNT" || true"#);
        assert!(until(Duration::from_secs(20), || !mount.mounted()));
        mount.start();
        assert!((0..count).all(|number| is_there(&mount, number)));
        write_durably(&mount, 1001).unwrap();
        assert!(is_there(&mount, 1001) && (!goes_on || is_there(&mount, 1000)));
        mount.stop_clean();
    });
}

/// Each writes to its directory when it is opened: on a disk that cannot be written it is refused for that, also to be read.
fn a_read_only_disk(engine: Engine) {
    if !able(&["mount", "umount"]) || !root() {
        return;
    }
    let mount = Mount::new(engine, "");
    write_durably(&mount, 1).unwrap();
    mount.stop();
    let bound = r#"mount --bind "$STORE" "$STORE"; mount -o remount,bind,ro "$STORE""#;
    over_the_store(&mount, bound, || {
        for more in ["", "ro"] {
            let output = mount.try_start(more);
            let text = String::from_utf8_lossy(&output.stderr);
            let says =
                format!("the disk below is read-only; engine={} writes to its directory", engine.name());
            assert!(!output.status.success() && text.contains(&says), "-o {more:?}: {text}");
            assert!(text.contains("mount a copy on a disk that can be written"), "{text}");
        }
    });
    mount.start();
    assert!(is_there(&mount, 1));
    mount.stop_clean();
}

/// A mount with `ro` takes no file and no command that would write, and nobody waits for one.
fn a_read_only_mount(engine: Engine) {
    if !able(&[]) || !root() {
        return;
    }
    let mount = Mount::new(engine, "");
    write_durably(&mount, 1).unwrap();
    mount.stop();
    let output = mount.try_start("ro");
    assert!(output.status.success(), "{output:?}");
    assert!(is_there(&mount, 1));
    // Where the kernel has been told to let writers through.
    mount.sh(r#""$KVFS" mount "$STORE" "$MNT" -o remount,rw"#);
    let mut stats = File::options().write(true).open(mount.mnt().join(".stats")).unwrap();
    for command in ["flush wait", "compact wait", "checkpoint wait", "flush"] {
        let refused = stats.write(command.as_bytes()).expect_err(command);
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS), "{command}");
    }
    drop(stats);
    let refused = write_durably(&mount, 2).expect_err("a store that is read only");
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    mount.stop_clean();
}

/// LMDB: who has more to hold than may be held waits while a commit for others is made, and the report says for what and for how long.
fn a_stall(engine: Engine) {
    if !able(&[]) || engine.name() != "lmdb" {
        return;
    }
    let mount = Mount::new(engine, "memory=4M");
    let stalls = |mount: &Mount| mount.json()["stalls"]["by_cause"]["dirty_pages"].clone();
    let is_stalled = |mount: &Mount| stalls(mount)["times"].as_u64().is_some_and(|times| times > 0);
    let begun = Instant::now();
    while !is_stalled(&mount) {
        assert!(begun.elapsed() < Duration::from_secs(60), "{:#}", stalls(&mount));
        std::thread::scope(|scope| {
            for number in 0..8 {
                let mount = &mount;
                scope.spawn(move || match number % 2 {
                    0 => write_durably(mount, number).unwrap(),
                    _ => fs::write(mount.mnt().join(number.to_string()), content(number)).unwrap(),
                });
            }
        });
    }
    let waited = stalls(&mount)["waited_ns"].as_u64();
    assert!(waited.is_some_and(|waited| waited > 0), "{:#}", stalls(&mount));
    assert!((0..8).all(|number| is_there(&mount, number)));
    assert_eq!(mount.json()["state"], "OK");
    mount.stop_clean();
}

/// SQLite: the log is made anew when a store is opened that was closed, and its name is durable before anything relies on it. SQLite sees to that
/// only with a sync of its own, and makes none where nothing is written.
fn the_name_of_a_log(engine: Engine) {
    if !able(&["strace"]) || engine.name() != "sqlite" {
        return;
    }
    let mount = Mount::new(engine, "");
    mount.stop();
    mount.sh(r#"strace -f -y -e trace=openat,fsync -o trace "$KVFS" check "$STORE""#);
    let trace = fs::read_to_string(mount.host().join("trace")).unwrap();
    let is_made = |line: &str| line.contains("/kv.sqlite-wal\"") && line.contains("O_CREAT");
    let made = trace.lines().position(is_made).unwrap_or_else(|| panic!("no log was made: {trace}"));
    let name = format!("<{}>", mount.engine_directory().display());
    let is_synced = |line: &str| line.contains("fsync(") && line.contains(&name);
    assert!(trace.lines().skip(made).any(is_synced), "no sync of {name} behind the log: {trace}");
}

other_engine!(a_full_disk, a_read_only_disk, a_read_only_mount, a_stall, the_name_of_a_log);
