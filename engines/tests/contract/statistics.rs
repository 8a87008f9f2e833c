//! What engines say of themselves, under their own names.

use std::collections::BTreeSet;

use kvfs::base::metric::Since;
use kvfs::engine::{Amount, Shape};

use super::*;

fn number(shape: &Shape, name: &str) -> Option<u64> {
    shape.statistics.of(name).unwrap_or_else(|| panic!("{} has no {name}", shape.engine)).value.number()
}

/// Names are told once, each with a sentence; what counts grows by what was done and is subtracted from a mark.
#[test]
fn they_count_what_was_done() {
    // The statistic that grows with bytes or pages written, and the least that it grows by for 2 MB.
    let writes = |engine: &str| match engine {
        "rocksdb" => Some(("rocksdb.wal.bytes", 2_000_000)),
        "sqlite" => Some(("SQLITE_DBSTATUS_CACHE_WRITE", 2_000_000 / 4096)),
        "lmdb" => Some(("me_last_txnid", 1)),
        _ => None,
    };
    for kind in others() {
        let home = tempfile::tempdir().unwrap();
        let engine = open(kind, &Options::tiny(kind), home.path());
        let before = engine.shape();
        for number in 0u32..1000 {
            apply(&*engine, &put(number.to_be_bytes().to_vec(), vec![number as u8; 2000])).unwrap();
        }
        engine::run(&*engine, Command::Flush).unwrap();
        contents(&*engine, KeyRange::ALL);
        let after = engine.shape();
        assert_eq!(after.engine, kind.name);
        let names: BTreeSet<&str> = after.statistics.iter().map(|(name, _)| name).collect();
        assert!(names.len() >= 9 && names.len() == after.statistics.iter().count(), "{kind}: {names:?}");
        for (name, statistic) in after.statistics.iter() {
            assert!(
                statistic.help.ends_with('.') && statistic.help.is_ascii(),
                "{kind} {name}: {}",
                statistic.help
            );
            assert!(["bytes", "bytes/s", "count", "pages", "us"].contains(&statistic.unit), "{kind} {name}");
            // Levels come with their first file.
            let old = before.statistics.of(name).map(|statistic| statistic.value);
            assert!(old.is_some() || name.contains("level"), "{kind} {name}");
            if let (Some(Amount::Counter(Some(old))), Amount::Counter(Some(new))) = (old, statistic.value) {
                assert!(new >= old, "{kind}: {name} went from {old} to {new}");
            }
        }
        let grown = after.since(&before);
        for (name, statistic) in grown.statistics.iter() {
            let now = after.statistics.of(name).unwrap().value;
            match (now, before.statistics.of(name).map(|statistic| statistic.value)) {
                (Amount::Counter(Some(now)), Some(Amount::Counter(Some(then)))) => {
                    assert_eq!(statistic.value.number(), Some(now - then), "{kind} {name}");
                }
                _ => assert_eq!(statistic.value, now, "{kind} {name}"),
            }
        }
        if let Some((name, least)) = writes(kind.name) {
            assert!(number(&grown, name) >= Some(least), "{kind}: {name} {:?}", number(&grown, name));
        }
        engine.close().unwrap();
    }
}

/// What nobody measures is nothing, not 0.
#[test]
fn what_is_not_measured_is_no_number() {
    for kind in others() {
        let home = tempfile::tempdir().unwrap();
        let any = home.path().join("any");
        std::fs::create_dir(&any).unwrap();
        let engine = open(kind, &Options::tiny(kind), &any);
        apply(&*engine, &put(&b"key"[..], vec![1; 5000])).unwrap();
        let Shape { debt, probes, memory, .. } = engine.shape();
        assert!(probes.is_none() && debt.replay_bytes.is_none(), "{kind}");
        assert!(memory.limit_bytes > Some(0) && memory.used_bytes.is_some(), "{kind}: {memory:?}");
        let (has_memtables, holds) = (["rocksdb", "fjall"].contains(&kind.name), kind.name == "lmdb");
        assert_eq!(memory.resident_bytes.is_some(), kind.name == "rocksdb", "{kind}: {memory:?}");
        for told in [memory.memtable_bytes, memory.memtable_bytes_max, memory.immutable_memtables] {
            assert_eq!(told.is_some(), has_memtables, "{kind}: {memory:?}");
        }
        for told in [memory.dirty_bytes, memory.dirty_bytes_max] {
            assert_eq!(told.is_some(), holds, "{kind}: {memory:?}");
        }
        assert_eq!(debt.pending_compaction_bytes.is_some(), kind.name == "rocksdb", "{kind}");
        assert_eq!(
            debt.dirty_bytes.is_some_and(|bytes| bytes >= 5000),
            ["rocksdb", "lmdb"].contains(&kind.name),
            "{kind}: {:?}",
            debt.dirty_bytes
        );
        engine.close().unwrap();
        if kind.name == "rocksdb" {
            for (compaction, is_estimated) in [("leveled", true), ("universal", false)] {
                let place = home.path().join(compaction);
                let options = Options::tiny(kind).with(&format!("compaction={compaction}")).unwrap();
                let engine = open(kind, &options, &place);
                let pending = number(&engine.shape(), "rocksdb.estimate-pending-compaction-bytes");
                assert_eq!(pending.is_some(), is_estimated, "{compaction}: {pending:?}");
                engine.close().unwrap();
            }
        }
        if kind.name == "redb" {
            // Its trees are walked where all of them are read anyhow, and not before: a flush of a large store would read for seconds.
            let engine = open(kind, &Options::tiny(kind), home.path());
            apply(&*engine, &put(&b"key"[..], vec![1; 5000])).unwrap();
            assert_eq!(number(&engine.shape(), "stats.stored_bytes"), None);
            engine::run(&*engine, Command::Flush).unwrap();
            assert_eq!(number(&engine.shape(), "stats.stored_bytes"), None);
            for (command, least_bytes) in [(Command::Compact, 5003), (Command::Verify, 10006)] {
                engine::run(&*engine, command).unwrap();
                assert!(number(&engine.shape(), "stats.stored_bytes") >= Some(least_bytes), "{command:?}");
                apply(&*engine, &put(&b"yek"[..], vec![1; 5000])).unwrap();
            }
            engine.close().unwrap();
        }
    }
}

/// Who waits until a store has settled asks whether jobs are left. Runs that are half as large each are what universal compaction leaves alone.
#[test]
fn a_store_that_has_settled_has_no_jobs() {
    for kind in others() {
        let variants = if kind.name == "rocksdb" { vec!["leveled", "universal"] } else { vec![""] };
        for variant in variants {
            let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
            let mut options = Options::tiny(kind);
            set_map(&mut options);
            if kind.name == "rocksdb" {
                options = options.with(&format!("compaction={variant},write_buffer_size=8M")).unwrap();
            }
            let engine = open(kind, &options, home.path());
            let mut random = Prng::new(5);
            for entries in [1600, 800, 400, 200] {
                for _ in 0..entries {
                    let value: Vec<u8> = (0..1000).map(|_| random.bits() as u8).collect();
                    apply(&*engine, &put(random.bits().to_be_bytes().to_vec(), value)).unwrap();
                }
                engine::run(&*engine, Command::Flush).unwrap();
            }
            let began = std::time::Instant::now();
            while !engine.shape().jobs.is_empty() {
                let jobs = engine.shape().jobs;
                assert!(began.elapsed().as_secs() < 20, "{kind} {variant}: {jobs:?}");
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            engine.close().unwrap();
        }
    }
}

/// Space is blocks on the disk: a refill right behind a mass delete finds the pages that this freed.
#[test]
fn lmdb_fills_again_what_a_mass_delete_freed() {
    use std::os::unix::fs::MetadataExt;
    let Some(kind) = others().into_iter().find(|kind| kind.name == "lmdb") else { return };
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let engine = open(kind, &Options::tiny(kind), home.path());
    let keys: Vec<Vec<u8>> = (0u32..2000).map(|number| number.to_be_bytes().to_vec()).collect();
    let fill = |byte: u8| {
        let mut batch = Batch::new(0);
        keys.iter().for_each(|key| batch.put(key.clone(), vec![byte; 4000]));
        apply(&*engine, &batch).unwrap();
        engine::sync(&*engine).unwrap();
    };
    let occupied = || home.path().join("data.mdb").metadata().unwrap().blocks() * 512;
    fill(1);
    let full_bytes = occupied();
    let mut batch = Batch::new(0);
    keys.iter().for_each(|key| batch.delete(key.clone()));
    batch.put(&b"what stays"[..], &b"is small"[..]);
    apply(&*engine, &batch).unwrap();
    fill(2);
    let refilled_bytes = occupied();
    assert!(refilled_bytes <= full_bytes + full_bytes / 4, "{full_bytes} bytes became {refilled_bytes}");
    assert!(number(&engine.shape(), "me_last_pgno").unwrap() * 4096 <= refilled_bytes + (1 << 20));
    engine.close().unwrap();
}

/// A scan ends where its range does: it does not look for the next key that is still there, over all that was deleted behind it.
#[test]
fn a_scan_reads_nothing_behind_its_range() {
    const SCANS: u64 = 20;
    for kind in others() {
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let engine = open(kind, &Options::tiny(kind), home.path());
        let key = |number: u32| [&b"b"[..], &number.to_be_bytes()].concat();
        for number in 0..4000 {
            apply(&*engine, &put(key(number), vec![number as u8; 1000])).unwrap();
        }
        engine::run(&*engine, Command::Flush).unwrap();
        let mut deletes = Batch::new(0);
        (0..4000).for_each(|number| deletes.delete(key(number)));
        apply(&*engine, &deletes).unwrap();
        apply(&*engine, &put(&b"c"[..], &b"is there"[..])).unwrap();
        let asked = || {
            let all = engine.shape().cache.all;
            all.hits + all.misses
        };
        let before = asked();
        for _ in 0..SCANS {
            assert!(contents(&*engine, KeyRange { start: b"a", end: Some(b"b") }).is_empty(), "{kind}");
        }
        let blocks = (asked() - before) / SCANS;
        assert!(blocks <= 40, "{kind}: {blocks} blocks or pages a scan of nothing");
        assert_eq!(contents(&*engine, KeyRange { start: b"a", end: Some(b"d") }).len(), 1, "{kind}");
        engine.close().unwrap();
    }
}
