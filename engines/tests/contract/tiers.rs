//! Where nothing may wait nothing does, and syncs come when `sync=` says.

use std::time::Duration;

use kvfs::engine::Cause;

use super::*;

#[test]
fn nothing_waits_where_nothing_may_and_syncs_are_shared() {
    for kind in others() {
        let home = tempfile::tempdir().unwrap();
        let engine = open(kind, &Options::tiny(kind), home.path());
        let mut batch = Batch::new(0);
        batch.put(&b"key"[..], &b"value"[..]);
        assert!(matches!(engine.apply(&batch, Tier::Memory), Err(Error::WouldBlock)), "{kind}");
        // RocksDB knows without the disk that nothing is there; no other engine says what it knows.
        let found = engine.get(b"key", Tier::Memory);
        assert!(
            matches!(found, Err(Error::WouldBlock)) || kind.name == "rocksdb" && found.unwrap().is_none(),
            "{kind}"
        );
        assert_eq!(engine.get(b"key", Tier::Disk).unwrap(), None, "{kind}: a refused batch changes nothing");
        assert_eq!(engine.apply(&Batch::new(0), Tier::Memory).unwrap(), engine.lsn(), "{kind}");

        let (sender, answers) = mpsc::channel();
        for _ in 0..3 {
            let sender = sender.clone();
            let lsn = engine.apply(&batch, Tier::Disk).unwrap();
            engine.sync_to(lsn, Box::new(move |result| sender.send(result).unwrap()));
        }
        assert!(answers.try_recv().is_err(), "{kind}: a sync is work");
        assert_eq!(engine.work(WorkClass::Log).unwrap(), Pending::More, "{kind}");
        assert_eq!(answers.try_iter().filter(Result::is_ok).count(), 3, "{kind}: one sync for all");
        engine.close().unwrap();
    }
}

/// What is in memtables or in the block cache is answered where nothing may wait; what lies in files alone is not.
#[test]
fn rocksdb_answers_from_memory() {
    let Some(kind) = others().into_iter().find(|kind| kind.name == "rocksdb") else { return };
    for blob in ["off", "on"] {
        let home = tempfile::tempdir().unwrap();
        let options =
            Options::tiny(kind).with(&format!("blob={blob},cache=4M,write_buffer_size=1M")).unwrap();
        let engine = open(kind, &options, home.path());
        let value = vec![7; 2000];
        for number in 0u32..100 {
            apply(&*engine, &put(number.to_be_bytes().to_vec(), value.clone())).unwrap();
        }
        let (key, near) =
            (50u32.to_be_bytes(), KeyRange { start: &50u32.to_be_bytes(), end: Some(&52u32.to_be_bytes()) });
        let count = |engine: &dyn Engine| {
            let mut count = 0;
            let scanned = engine.scan(near, Tier::Memory, &mut |_, _| {
                count += 1;
                ControlFlow::Continue(())
            });
            scanned.map(|()| count)
        };
        assert_eq!(engine.get(&key, Tier::Memory).unwrap().as_deref(), Some(&value[..]), "in a memtable");
        assert_eq!(count(&*engine).unwrap(), 2);
        engine.close().unwrap();
        drop(engine);

        let engine = open(kind, &options, home.path());
        assert!(
            matches!(engine.get(&key, Tier::Memory), Err(Error::WouldBlock)),
            "blob={blob}: in files alone"
        );
        assert!(matches!(count(&*engine), Err(Error::WouldBlock)), "blob={blob}: in files alone");
        assert_eq!(engine.get(&key, Tier::Disk).unwrap().as_deref(), Some(&value[..]));
        contents(&*engine, near);
        assert_eq!(
            engine.get(&key, Tier::Memory).unwrap().as_deref(),
            Some(&value[..]),
            "blob={blob}: in the cache"
        );
        assert_eq!(count(&*engine).unwrap(), 2, "blob={blob}: in the cache");
        engine.close().unwrap();
    }
}

/// `sync=fsync` syncs when asked, `sync=interval:TIME` what is older than that, and `sync=always` leaves it to the filesystem, which asks before it
/// answers. What is owed is shown in bytes.
#[test]
fn syncs_come_when_the_option_says() {
    for kind in others() {
        for (sync, is_unasked) in [("fsync", false), ("interval:20ms", true), ("always", false)] {
            let home = tempfile::tempdir().unwrap();
            let options = Options::tiny(kind).with(&format!("sync={sync}")).unwrap();
            let engine = open(kind, &options, home.path());
            engine::sync(&*engine).unwrap();
            apply(&*engine, &put(&b"key"[..], vec![1; 1000])).unwrap();
            let debt = engine.shape().debt;
            assert_eq!(debt.unsynced_bytes, 1003, "{kind}, sync={sync}");
            std::thread::sleep(Duration::from_millis(40));
            assert!(engine.shape().debt.oldest_unsynced >= Duration::from_millis(40), "{kind}, sync={sync}");
            let pending = engine.work(WorkClass::Log).unwrap();
            assert_eq!(pending == Pending::More, is_unasked, "{kind}, sync={sync}: {pending:?}");
            let unsynced = engine.shape().debt.unsynced_bytes;
            assert_eq!(unsynced == 0, is_unasked, "{kind}, sync={sync}: {unsynced}");
            engine::sync(&*engine).unwrap();
            assert_eq!(engine.shape().debt.unsynced_bytes, 0, "{kind}, sync={sync}");
            engine.close().unwrap();
        }
    }
}

/// RocksDB, written to faster than it merges, refuses a batch with the cause, and says so of itself until a batch gets through.
#[test]
fn a_stall_of_rocksdb_is_seen_with_its_cause() {
    let Some(kind) = others().into_iter().find(|kind| kind.name == "rocksdb") else { return };
    let list =
        "level0_file_num_compaction_trigger=1,level0_slowdown_writes_trigger=1,level0_stop_writes_trigger=1";
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let engine = open(kind, &Options::tiny(kind).with(list).unwrap(), home.path());
    let mut random = Prng::new(3);
    let mut batch = || {
        let value: Vec<u8> = (0..16 << 10).map(|_| random.bits() as u8).collect();
        put(random.bits().to_be_bytes().to_vec(), value)
    };
    let refused = (0..20_000).find_map(|_| match engine.apply(&batch(), Tier::Disk) {
        Err(Error::Busy { cause, .. }) => Some(cause),
        other => {
            other.unwrap();
            None
        }
    });
    let cause = refused.unwrap_or_else(|| panic!("{kind} took 320 MB without a stall"));
    let stalls = engine.shape().stalls;
    assert!(stalls.now.is_some() && stalls.by_cause.of(cause).stops > 0, "{kind}, {cause}: {stalls:?}");
    std::thread::sleep(Duration::from_millis(5));
    apply(&*engine, &batch()).unwrap();
    let stalls = engine.shape().stalls;
    assert!(
        stalls.now.is_none() && stalls.by_cause.of(cause).waited >= Duration::from_millis(5),
        "{kind}: {stalls:?}"
    );
    engine.close().unwrap();
}

/// fjall, flushed faster than it merges, delays writes from twenty runs in level 0 on, and is never let come to where it halts within a write.
#[test]
fn a_delay_of_fjall_is_seen_with_its_cause() {
    let Some(kind) = others().into_iter().find(|kind| kind.name == "fjall") else { return };
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    // A merge of level 0 rewrites much more than a flush writes.
    let options = Options::tiny(kind).with("max_memtable_size=32K,table_target_size=64M").unwrap();
    let engine = open(kind, &options, home.path());
    let mut random = Prng::new(3);
    let mut most = 0;
    for _ in 0..40_000 {
        let value: Vec<u8> = (0..4 << 10).map(|_| random.bits() as u8).collect();
        apply(&*engine, &put(random.bits().to_be_bytes().to_vec(), value)).unwrap();
        let shape = engine.shape();
        most = most.max(shape.statistics.of("l0_table_count").and_then(|it| it.value.number()).unwrap());
        if shape.stalls.by_cause.of(Cause::L0Files).slowdowns > 0 {
            assert!((20..=30).contains(&most), "{most} runs in level 0");
            return engine.close().unwrap();
        }
        assert!(most <= 21, "{most} runs in level 0, and no delay");
    }
    panic!("{kind} took 160 MB and never had more than {most} runs in level 0");
}
