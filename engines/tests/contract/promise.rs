//! Each engine keeps what it promises of a crash, and promises no less than it keeps; of a full disk: `full_disk.rs`.

use super::*;

/// Batches, of which the first half is synced.
const BATCHES: u32 = 40;

/// A copy of the directory of an open engine is what `kill -9` leaves: what is in the page cache stays, what is in the process goes.
fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let (entry, to) = (entry.as_ref().unwrap(), to.join(entry.as_ref().unwrap().file_name()));
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir(&to).unwrap();
            copy(&entry.path(), &to);
        } else {
            std::fs::copy(entry.path(), &to).unwrap();
        }
    }
}

#[test]
fn a_kill_leaves_what_was_promised_and_no_more() {
    for kind in others() {
        for sync in ["fsync", "always"] {
            let options = Options::tiny(kind).with(&format!("sync={sync}")).unwrap();
            let (home, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let engine = open(kind, &options, home.path());
            for number in 0..BATCHES {
                let mut batch = put(number.to_be_bytes().to_vec(), vec![number as u8; 100]);
                batch.put([&b"twin of "[..], &number.to_be_bytes()].concat(), vec![number as u8; 10]);
                apply(&*engine, &batch).unwrap();
                if number + 1 == BATCHES / 2 {
                    engine::sync(&*engine).unwrap();
                }
            }
            copy(home.path(), killed.path());
            let promise = engine.promise();
            engine.close().unwrap();
            drop(engine);

            let engine = open(kind, &options, killed.path());
            let all = contents(&*engine, KeyRange::ALL);
            let is_there = |key: &[u8]| all.iter().any(|(found, _)| found == key);
            let there: Vec<bool> = (0..BATCHES).map(|number| is_there(&number.to_be_bytes())).collect();
            let twins: Vec<bool> = (0..BATCHES)
                .map(|number| is_there(&[&b"twin of "[..], &number.to_be_bytes()].concat()))
                .collect();
            assert_eq!(there, twins, "{kind}, sync={sync}: a batch is all or nothing");
            let count = there.iter().take_while(|is_there| **is_there).count() as u32;
            assert!(
                there[count as usize..].iter().all(|is_there| !is_there),
                "{kind}, sync={sync}: no prefix: {there:?}"
            );
            match promise.survives_kill {
                true => assert_eq!(count, BATCHES, "{kind}, sync={sync}: lost what it promised"),
                false => assert_eq!(
                    count,
                    BATCHES / 2,
                    "{kind}, sync={sync}: it keeps more, or less, than it says"
                ),
            }
            engine.close().unwrap();
        }
    }
}

/// Who weakens something says so, with the way out; with `sync=always` nothing that was answered is lost.
#[test]
fn what_is_weaker_is_said_and_sync_always_is_the_way_out() {
    for kind in others() {
        let promise = |sync: &str| {
            let home = tempfile::tempdir().unwrap();
            let engine = open(kind, &Options::tiny(kind).with(sync).unwrap(), home.path());
            let promise = engine.promise();
            engine.close().unwrap();
            promise
        };
        let usual = promise("sync=interval:1s");
        let is_whole = usual.prefix && usual.survives_kill && usual.survives_full_disk;
        assert_eq!(usual.weaker.is_none(), is_whole, "{kind}: {usual:?}");
        assert_eq!(usual.way_out.is_none(), is_whole, "{kind}: {usual:?}");
        assert_eq!(usual.warning(kind.name).is_none(), is_whole, "{kind}");
        assert_eq!(is_whole, ["rocksdb", "sqlite"].contains(&kind.name), "{kind}: {usual:?}");
        let always = promise("sync=always");
        assert!(always.prefix, "{kind}: {always:?}");
        assert_eq!(always.weaker.is_none(), always.survives_full_disk, "{kind}: {always:?}");
        // A line of the report holds them.
        for text in [usual.weaker, usual.way_out].into_iter().flatten() {
            assert!(text.len() <= 80 && text.is_ascii(), "{text}");
        }
    }
}
