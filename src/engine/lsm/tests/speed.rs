//! Benchmarks.

use super::*;
use crate::base::metric::Since;
use crate::engine::lsm::table::TableMeta;

/// `cargo test --release --lib lsm::tests::speed -- --ignored --nocapture`
#[test]
#[ignore = "a benchmark: 256 MiB on the disk of the target directory"]
fn speed() {
    use crate::base::clock::SystemClock;
    use crate::disk::{Access, OsDisk};
    use crate::engine::Worker;
    const VALUES: u64 = 65_536;
    let home = tempfile::tempdir_in(concat!(env!("CARGO_MANIFEST_DIR"), "/target")).unwrap();
    let disk = Metered::new(OsDisk::open(home.path(), Access::Write).unwrap());
    let clock = Arc::new(SystemClock::new());
    let engine = open(disk.clone(), clock.clone(), &Options::default()).unwrap();
    let worker = Worker::start(engine.clone()).unwrap();
    let mut prng = Prng::new(1);
    let block: Vec<u8> = (0..8192).map(|_| prng.bits() as u8).collect();
    let key = |index: u64| [&b"b"[..], &7u64.to_be_bytes(), &index.to_be_bytes()].concat();
    let report = |what: &str, count: u64, since: Duration, bytes: u64| {
        let seconds = (clock.elapsed() - since).as_secs_f64();
        let rate = count as f64 / seconds;
        println!("{what:<14} {rate:>9.0} a second, {:>6.0} MB/s", bytes as f64 / seconds / 1e6);
    };
    for (what, is_random) in [("fillseq", false), ("overwrite", true)] {
        let since = clock.elapsed();
        for index in 0..VALUES / 8 {
            let mut batch = Batch::new(0);
            for part in 0..8 {
                let at = if is_random { prng.below(VALUES) } else { index * 8 + part };
                let from = prng.below(4096) as usize;
                batch.put(key(at), Bytes::copy_from_slice(&block[from..from + 4096]));
            }
            while let Err(error) = engine.apply(&batch, Tier::Disk) {
                assert!(matches!(error, Error::Busy { .. }), "{error}");
                let seen = engine.wake_signal().seen(WorkClass::Room);
                engine.wake_signal().wait(WorkClass::Room, seen, Duration::from_millis(1));
            }
        }
        report(what, VALUES, since, VALUES * 4096);
        sync(&*engine).unwrap();
        report("  with sync", VALUES, since, VALUES * 4096);
        run(&*engine, Command::Flush).unwrap();
        while engine.shape().debt.pending_compaction_bytes > Some(0) || !engine.shape().jobs.is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        report("  settled", VALUES, since, VALUES * 4096);
        let total = disk.snapshot().total();
        println!(
            "  written in all {} MiB; stalls {:?}",
            total.write_bytes >> 20,
            engine.shape().stalls.by_cause
        );
    }
    for (what, miss) in [("get", false), ("get warm", false), ("get missing", true)] {
        let since = clock.elapsed();
        for _ in 0..VALUES {
            let mut key = key(prng.below(VALUES));
            if miss {
                key.push(1);
            }
            assert_eq!(engine.get(&key, Tier::Disk).unwrap().is_some(), !miss);
        }
        report(what, VALUES, since, VALUES * 4096);
    }
    let since = clock.elapsed();
    for _ in 0..4096 {
        let at = prng.below(VALUES - 32);
        let (start, end, mut count) = (key(at), key(at + 32), 0);
        let range = KeyRange { start: &start, end: Some(&end) };
        engine
            .scan(range, Tier::Disk, &mut |_, _| {
                count += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(count, 32);
    }
    report("scan 32", 4096, since, 4096 * 32 * 4096);
    worker.stop();
    engine.close().unwrap();
}

/// `cargo test --release --lib lsm::tests::values_written_once -- --ignored --nocapture`
#[test]
#[ignore = "a benchmark: 512 MiB on the disk of the target directory, twice"]
fn values_written_once() {
    use crate::base::clock::SystemClock;
    use crate::disk::{Access, OsDisk};
    use crate::engine::Worker;
    const WRITES: u64 = 512;
    const BLOCK_BYTES: usize = 4096;
    let mut prng = Prng::new(1);
    let content = Bytes::from((0..1 << 20).map(|_| prng.bits() as u8).collect::<Vec<u8>>());
    for value_log in [false, true] {
        let home = tempfile::tempdir_in(concat!(env!("CARGO_MANIFEST_DIR"), "/target")).unwrap();
        let disk = Metered::new(OsDisk::open(home.path(), Access::Write).unwrap());
        let clock = Arc::new(SystemClock::new());
        let options = Options { value_log, ..Options::default() };
        let engine = open(disk.clone(), clock.clone(), &options).unwrap();
        let worker = Worker::start(engine.clone()).unwrap();
        let key = |index: u64| [&b"b"[..], &7u64.to_be_bytes(), &index.to_be_bytes()].concat();
        let blocks = ((1 << 20) / BLOCK_BYTES) as u64;
        let since = clock.elapsed();
        for write in 0..WRITES {
            let mut batch = Batch::new(0);
            for block in 0..blocks {
                let from = block as usize * BLOCK_BYTES;
                batch.put(key(write * blocks + block), content.slice(from..from + BLOCK_BYTES));
            }
            while let Err(error) = engine.apply(&batch, Tier::Disk) {
                assert!(matches!(error, Error::Busy { .. }), "{error}");
                let seen = engine.wake_signal().seen(WorkClass::Room);
                engine.wake_signal().wait(WorkClass::Room, seen, Duration::from_millis(1));
            }
        }
        run(&*engine, Command::Flush).unwrap();
        sync(&*engine).unwrap();
        let seconds = (clock.elapsed() - since).as_secs_f64();
        while engine.shape().debt.pending_compaction_bytes > Some(0) || !engine.shape().jobs.is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let settled = (clock.elapsed() - since).as_secs_f64();
        let written = disk.snapshot().total().write_bytes as f64 / (WRITES << 20) as f64;
        let before = (clock.elapsed(), disk.snapshot().of(Purpose::Scan));
        let mut count = 0;
        let range = KeyRange { start: b"b", end: None };
        engine
            .scan(range, Tier::Disk, &mut |_, value| {
                count += value.len();
                ControlFlow::Continue(())
            })
            .unwrap();
        let scan = disk.snapshot().of(Purpose::Scan).since(&before.1);
        println!(
            "value_log={value_log}: {written:.3} bytes at the disk a byte, {:.0} MB/s synced, {:.0} MB/s settled, \
             scan {:.0} MB/s in {} requests",
            (WRITES << 20) as f64 / 1e6 / seconds,
            (WRITES << 20) as f64 / 1e6 / settled,
            count as f64 / 1e6 / (clock.elapsed() - before.0).as_secs_f64(),
            scan.reads,
        );
        assert_eq!(count as u64, WRITES << 20);
        assert!(!value_log || written <= 1.1);
        worker.stop();
        engine.close().unwrap();
    }
}

/// Processor time of this thread.
fn thread_time() -> Duration {
    let times = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(times.split_whitespace().next().unwrap().parse().unwrap())
}

/// `cargo test --release --lib lsm::tests::speed::point_reads -- --ignored --nocapture`; processor time, so that it can be run beside others.
#[test]
#[ignore = "a benchmark of a minute"]
fn point_reads() {
    const KEYS: u64 = 1_000_000;
    let options = Options {
        memtable_bytes: 16 << 20,
        table_bytes: 16 << 20,
        level_base_bytes: 64 << 20,
        common: Common { cache_bytes: 512 << 20, ..Common::default() },
        ..Options::default()
    };
    let engine = open_with(SimDisk::new(), &options).unwrap();
    let mut prng = Prng::new(1);
    for _ in 0..KEYS {
        let mut batch = Batch::new(0);
        batch.put(format!("{:016x}", prng.below(KEYS) * 2).into_bytes(), vec![7; 100]);
        apply_patiently(&*engine, &batch).unwrap();
    }
    settle(&*engine).unwrap();
    contents(&*engine).unwrap();
    let levels = engine.shape().levels.into_iter().map(|level| level.files);
    println!("tables by level: {:?}", levels.collect::<Vec<_>>());
    for (what, odd) in [("warming", 0), ("present", 0), ("missing", 1), ("missing", 1), ("present", 0)] {
        let mut prng = Prng::new(2);
        let keys: Vec<Vec<u8>> =
            (0..KEYS).map(|_| format!("{:016x}", prng.below(KEYS) * 2 + odd).into_bytes()).collect();
        let began = thread_time();
        let found = keys.iter().filter(|key| engine.get(key, Tier::Disk).unwrap().is_some()).count();
        println!("{what}: {} ns, {found} found", (thread_time() - began).as_nanos() as u64 / KEYS);
    }
}

/// `cargo test --release --lib lsm::tests::speed::edits -- --ignored --nocapture`; processor time of what follows every flush and merge.
#[test]
#[ignore = "a benchmark of half a minute"]
fn edits() {
    const ROUNDS: u32 = 400;
    let key = |number: u64| Bytes::from(format!("inode {:016x} block {:016x}", number / 7, number * 4));
    let table = |number: u64, at: u64, span: u64| {
        let (smallest, largest) = (key(at), key(at + span - 1));
        let (bytes, entries, tombstones) = (64 << 20, 16 << 10, 5);
        TableStore::stub(&TableMeta {
            number: TableNumber::new(number),
            bytes,
            entries,
            tombstones,
            logical_bytes: bytes,
            first_lsn: Lsn::new(number),
            last_lsn: Lsn::new(number),
            newest_seconds: number,
            tombstone_seconds: number,
            smallest,
            largest,
            ..TableMeta::default()
        })
    };
    for policy in [PolicyKind::LEVELED, PolicyKind::TIERED] {
        let mut options = Options { policy, ..Options::default() };
        options.policies.leveled.dynamic_levels = true;
        let engine = open_with(SimDisk::new(), &options).unwrap();
        for tables in [500, 5000, 20_000] {
            let mut levels: [Vec<Arc<Table>>; LEVELS] = Default::default();
            levels[6] = (0..tables).map(|at| table(at, at * 10, 10)).collect();
            levels[5] = (0..tables / 8).map(|at| table(tables + at, at * 80, 80)).collect();
            levels[0] = (0..2).map(|at| table(2 * tables + at, 0, tables * 10)).collect();
            let mut version = Version::new(levels).unwrap();
            let mut prng = Prng::new(9);
            let mut next = 3 * tables;
            let mut times = [Duration::ZERO; 4];
            for _ in 0..ROUNDS {
                let old = version.level(6).find(&key(prng.below(tables) * 10)).unwrap().clone();
                next += 1;
                let new = table(next, 0, 1);
                let new = TableStore::stub(&TableMeta {
                    smallest: old.smallest.clone(),
                    largest: old.largest.clone(),
                    ..new.meta().clone()
                });
                let began = thread_time();
                let mut edited = version.edit(&[(6, old.clone())], &[(6, new)]).unwrap();
                times[0] += thread_time() - began;
                let began = thread_time();
                engine.levels.versions.assess(&mut edited);
                times[1] += thread_time() - began;
                let began = thread_time();
                let choice = engine
                    .levels
                    .core
                    .mutable_options
                    .policy()
                    .choose(&engine.levels.versions.picture(&edited), &Default::default());
                times[2] += thread_time() - began;
                assert!(policy == PolicyKind::TIERED || choice.compaction().is_some());
                let keys: Vec<Bytes> = (0..1000).map(|_| key(prng.below(tables * 10))).collect();
                let began = thread_time();
                let found = keys.iter().filter(|key| edited.level(6).find(key).is_some()).count();
                times[3] += (thread_time() - began) / 1000;
                assert_eq!(found, 1000);
                version = edited;
            }
            let [edit, assess, choose, find] = times.map(|time| (time / ROUNDS).as_nanos() as f64 / 1e3);
            println!(
                "{policy:?} {tables}: edit {edit:.1} us, assess {assess:.1}, choose {choose:.1}, find {find:.3}"
            );
        }
    }
}
