//! Tests of reads: partitions of tables, filters, memory, explanations.

use std::ops::ControlFlow;

use super::table::TableNumber;
use super::*;
use crate::base::clock::ManualClock;
use crate::base::prng::Prng;
use crate::disk::{Disk, File, FileInfo, Metered, Purpose, SimDisk, Space};
use crate::engine::cache::CacheKind;
use crate::engine::{Common, Error, Kind, run, settle};

fn key(index: u64) -> Vec<u8> {
    format!("key{index:08}").into_bytes()
}

fn apply(engine: &dyn Engine, batch: &Batch) {
    while let Err(error) = engine.apply(batch, Tier::Disk) {
        assert!(matches!(error, Error::Busy { .. }), "{error}");
        settle(engine).unwrap();
    }
}

fn fill(engine: &dyn Engine, keys: impl Iterator<Item = u64>, value_bytes: usize) {
    for index in keys {
        let mut batch = Batch::new(0);
        batch.put(key(index), vec![index as u8; value_bytes]);
        apply(engine, &batch);
    }
}

/// Small tables of many partitions, and a cache of `cache_bytes`.
fn many_partitions(cache_bytes: u64) -> Options {
    Options {
        memtable_bytes: 64 << 10,
        table_bytes: 64 << 10,
        level_base_bytes: 128 << 10,
        part_blocks: 4,
        common: Common { cache_bytes, ..Common::tiny() },
        ..Options::tiny()
    }
}

#[test]
fn partitions_that_are_not_pinned_come_through_the_cache() {
    const KEYS: u64 = 4000;
    let disk = SimDisk::new();
    let open_it = |cache_bytes| {
        open(disk.clone(), Arc::new(ManualClock::default()), &many_partitions(cache_bytes)).unwrap()
    };
    let engine = open_it(16 << 10);
    fill(&*engine, (0..KEYS).map(|index| index * 2), 40);
    run(&*engine, Command::Compact).unwrap();
    run(&*engine, Command::Verify).unwrap();
    engine.close().unwrap();
    drop(engine);
    let all = |engine: &LsmEngine| {
        let mut found = 0;
        engine.scan(KeyRange::ALL, Tier::Disk, &mut |seen, value| {
            assert_eq!((seen, value), (&key(found * 2)[..], &vec![(found * 2) as u8; 40][..]));
            found += 1;
            ControlFlow::Continue(())
        })?;
        assert_eq!(found, KEYS);
        Ok::<_, Error>(())
    };
    let mut pinned = Vec::new();
    for cache_bytes in [1 << 20, 64 << 10] {
        let engine = open_it(cache_bytes);
        let mut prng = Prng::new(5);
        for step in 0..3000 {
            let index = prng.below(2 * KEYS);
            if step % 5 == 0 {
                match engine.get(&key(index), Tier::Memory) {
                    Ok(found) => assert_eq!(found.is_some(), index.is_multiple_of(2)),
                    Err(error) => assert!(matches!(error, Error::WouldBlock), "{error}"),
                }
            }
            let found = engine.get(&key(index), Tier::Disk).unwrap();
            assert_eq!(found.is_some(), index.is_multiple_of(2), "key {index}");
            let shape = engine.shape();
            assert!(
                shape.cache.bytes + shape.memory.resident_bytes.unwrap() <= cache_bytes,
                "{:?}",
                shape.cache
            );
        }
        all(&engine).unwrap();
        let shape = engine.shape();
        let is_asked = |kind: CacheKind| shape.cache.kinds.of(kind) != crate::engine::Lookups::default();
        let is_small = cache_bytes < 1 << 20;
        assert_eq!((is_asked(CacheKind::Index), is_asked(CacheKind::Filter)), (is_small, is_small));
        let [data, index, filter, _] = CacheKind::ALL.map(|kind| shape.cache.kinds.of(kind));
        assert_eq!(shape.cache.all.misses, data.misses + index.misses + filter.misses);
        assert!(!is_small || index.hits > 0 && filter.hits > 0 && index.misses > 0, "{:?}", shape.cache);
        pinned.push(shape.memory.resident_bytes.unwrap());
        engine.close().unwrap();
    }
    assert!(pinned[1] < pinned[0], "{pinned:?}");
}

#[test]
fn a_flipped_bit_in_a_partition_that_is_read_later_is_an_error_or_read_around() {
    let disk = SimDisk::new();
    let options = many_partitions(4 << 10);
    let engine = open(disk.clone(), Arc::new(ManualClock::default()), &options).unwrap();
    fill(&*engine, 0..300, 40);
    engine.close().unwrap();
    let blocks_end = {
        let version = engine.superversion().version.clone();
        let (_, first) = version.tables().min_by_key(|(_, table)| table.number.file_name()).unwrap();
        first.sizes.data_bytes
    };
    drop(engine);
    let tables: Vec<String> = disk.list().unwrap().into_iter().map(|info| info.name).collect();
    let name = tables.into_iter().find(|name| TableNumber::of_file(name).is_some()).unwrap();
    let file = disk.open(&name).unwrap();
    let bytes = crate::disk::read_all(&*file, Purpose::Verify).unwrap();
    let mut prng = Prng::new(1);
    let (mut refused, mut around) = (0, 0);
    for _ in 0..400 {
        // Most of it blocks, so the end, with indexes and filters, is hit more often.
        let at = if prng.one_in(4) { prng.below(bytes.len() as u64) } else { bytes.len() as u64 * 3 / 4 };
        let at = (at + prng.below(bytes.len() as u64 / 4)).min(bytes.len() as u64 - 1) as usize;
        let damaged = [bytes[at] ^ (1 << prng.below(8))];
        file.write_at(Purpose::Verify, at as u64, &damaged).unwrap();
        let read = || {
            let engine = open(disk.clone(), Arc::new(ManualClock::default()), &options)?;
            for index in 0..300 {
                assert_eq!(engine.get(&key(index), Tier::Disk)?.as_deref(), Some(&vec![index as u8; 40][..]));
                engine.get(format!("key{index:08}x").as_bytes(), Tier::Disk)?;
            }
            engine.scan(KeyRange::ALL, Tier::Disk, &mut |_, _| ControlFlow::Continue(()))
        };
        match read() {
            Err(Error::Corrupt { .. }) if (at as u64) < blocks_end => refused += 1,
            Ok(()) if at as u64 >= blocks_end => around += 1,
            other => panic!("a bit of byte {at} of {}: {other:?}", bytes.len()),
        }
        file.write_at(Purpose::Verify, at as u64, &bytes[at..at + 1]).unwrap();
    }
    assert!(refused > 50 && around > 50, "{refused} refused, {around} read around");
}

#[test]
fn filters_of_a_store_are_wrong_at_most_twelve_times_in_a_thousand() {
    let limits = Options { l0_trigger: 100, l0_slowdown: 100, l0_stop: 100, ..many_partitions(1 << 20) };
    let options = Options { part_blocks: 128, ..limits };
    let engine = open(SimDisk::new(), Arc::new(ManualClock::default()), &options).unwrap();
    let mut prng = Prng::new(6);
    fill(&*engine, (0..20_000).map(|_| prng.below(50_000) * 2), 40);
    settle(&*engine).unwrap();
    (0..20_000).for_each(|_| {
        let absent = key(prng.below(50_000) * 2 + 1);
        assert_eq!(engine.get(&absent, Tier::Disk).unwrap(), None);
    });
    let filter = engine.shape().filter;
    assert!(filter.checks > 200_000 && filter.useful + filter.false_positives == filter.checks, "{filter:?}");
    let share = filter.false_positives as f64 / filter.checks as f64;
    println!("{} questions, {share:.4} wrong", filter.checks);
    assert!(share <= 0.012, "{share}");
}

#[test]
fn an_explanation_says_what_every_structure_answered_and_what_was_read() {
    let disk = SimDisk::new();
    let options = Options { part_blocks: 128, ..many_partitions(64 << 10) };
    let open_it = || open(disk.clone(), Arc::new(ManualClock::default()), &options).unwrap();
    let engine = open_it();
    fill(&*engine, (0..1000).map(|index| index * 2), 40);
    run(&*engine, Command::Compact).unwrap();
    let mut batch = Batch::new(0);
    batch.delete(key(4));
    batch.put(key(900), &b"newer"[..]);
    apply(&*engine, &batch);
    run(&*engine, Command::Flush).unwrap();
    let say = |engine: &LsmEngine, of: &[u8]| {
        let probes = engine.explain(of, Tier::Disk).unwrap();
        let read: u64 = probes.iter().map(|probe| probe.read_bytes).sum();
        (probes.iter().map(|probe| probe.verdict).collect::<Vec<_>>(), read)
    };
    drop(engine);
    let engine = open_it();
    assert_eq!(engine.shape().levels[0].files, 1);
    assert_eq!(say(&engine, &key(4)).0, ["miss", "tombstone"]);
    assert_eq!(say(&engine, &key(900)).0, ["miss", "hit"]);
    let (verdicts, read) = say(&engine, &key(600));
    assert_eq!(verdicts, ["miss", "filtered", "hit"]);
    assert!((40..1000).contains(&read), "one block: {read}");
    assert_eq!(say(&engine, &key(600)).1, 0, "now it is in the cache");
    assert_eq!(say(&engine, b"zebra").0, ["miss", "out-of-range", "out-of-range"]);
    assert_eq!(say(&engine, &key(601)), (vec!["miss", "filtered", "filtered"], 0));
    let wrong =
        (0..1000).map(|index| key(index * 2 + 1)).find(|key| say(&engine, key).0.contains(&"false-positive"));
    assert!(wrong.is_some(), "one in a hundred");
}

#[test]
fn memory_is_honoured_under_load() {
    for kind in [Kind::LSM, Kind::BTREE, Kind::HYBRID] {
        for (memory, text) in [(2u64 << 20, "2M"), (8 << 20, "8M")] {
            let mut options = kind.default_options();
            options.set("memory", text).unwrap().unwrap();
            options.validate().unwrap();
            // An option of the B-tree alone.
            let _ = options.set("checkpoint_log", "4M");
            let disk = Metered::new(SimDisk::new());
            let engine = crate::engine::open(disk, Arc::new(ManualClock::default()), &options).unwrap();
            let mut prng = Prng::new(9);
            let (mut most, mut least_cache) = (0, u64::MAX);
            for step in 0..20_000u64 {
                let mut batch = Batch::new(0);
                let bytes = if prng.one_in(20) { 8000 } else { 300 };
                batch.put(key(prng.below(30_000)), vec![step as u8; bytes]);
                apply(&*engine, &batch);
                engine.get(&key(prng.below(30_000)), Tier::Disk).unwrap();
                if step % 50 == 0 {
                    let mut left = 30;
                    let mut visit = |_: &[u8], _: &[u8]| {
                        left -= 1;
                        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                    };
                    let start = key(prng.below(30_000));
                    engine.scan(KeyRange { start: &start, end: None }, Tier::Disk, &mut visit).unwrap();
                    engine.work(WorkClass::Merge).unwrap();
                    let shape = engine.shape();
                    assert_eq!(shape.memory.limit_bytes.unwrap(), memory);
                    most = most.max(shape.memory.used_bytes.unwrap());
                    least_cache = least_cache.min(shape.cache.bytes_max);
                }
            }
            assert!(most <= memory + memory / 10, "{kind}: {most} of {memory}");
            assert!(most >= memory / 2, "{kind}: only {most} of {memory} are used");
            assert!(least_cache >= memory / 4, "{kind}: a cache of {least_cache}");
        }
    }
}

#[test]
fn a_scan_that_is_held_open_keeps_no_memtable_in_memory() {
    let options = Options { memtable_bytes: 64 << 10, ..many_partitions(64 << 10) };
    let (disk, clock) = (SimDisk::new(), Arc::new(ManualClock::default()));
    let engine = open(disk, clock, &options).unwrap();
    const KEYS: u64 = 350;
    fill(&*engine, 0..KEYS, 40);
    for index in (0..KEYS).step_by(7) {
        let mut batch = Batch::new(0);
        batch.delete(key(index));
        apply(&*engine, &batch);
    }
    assert_eq!(engine.shape().levels[0].files, 0, "all of it is in memory");
    let (mut at, mut memtables, mut number) = (0, Vec::new(), 0);
    engine
        .scan(KeyRange::ALL, Tier::Disk, &mut |seen, value| {
            at += u64::from(at % 7 == 0);
            assert_eq!((seen, value), (&key(at)[..], &vec![at as u8; 40][..]));
            at += 1;
            // Keys behind all that is scanned, in more than one memtable a step.
            for _ in 0..200 {
                let mut batch = Batch::new(0);
                batch.put(format!("later{number}").into_bytes(), vec![7; 400]);
                number += 1;
                apply(&*engine, &batch);
                let superversion = engine.superversion();
                if memtables.last().is_none_or(|(first, _)| *first != superversion.mutable.first()) {
                    memtables.push((superversion.mutable.first(), Arc::downgrade(&superversion.mutable)));
                }
                let alive: Vec<_> = memtables.iter().filter_map(|(_, memtable)| memtable.upgrade()).collect();
                let bytes: u64 = alive.iter().map(|memtable| memtable.bytes()).sum();
                let limit = options.memtable_bytes * options.memtable_count_max + 1000;
                assert!(bytes <= limit, "{bytes} bytes in {} memtables", alive.len());
                assert_eq!(
                    engine.shape().memory.memtable_bytes.unwrap() + engine.levels.versions.retired().bytes(),
                    bytes
                );
            }
            if at < KEYS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .unwrap();
    assert!(at == KEYS && memtables.len() > 100, "{} memtables", memtables.len());
}

/// What is done while a scan waits for the disk.
type Meanwhile = Arc<parking_lot::Mutex<Option<Box<dyn FnMut() + Send>>>>;

/// A disk whose scans take long enough for something to be done meanwhile.
struct Slow {
    disk: Arc<SimDisk>,
    meanwhile: Meanwhile,
}

struct SlowFile {
    file: Arc<dyn File>,
    meanwhile: Meanwhile,
}

impl Disk for Slow {
    fn create(&self, name: &str) -> std::io::Result<Arc<dyn File>> {
        let file = self.disk.create(name)?;
        Ok(Arc::new(SlowFile { file, meanwhile: self.meanwhile.clone() }))
    }
    fn open(&self, name: &str) -> std::io::Result<Arc<dyn File>> {
        self.disk.open(name)
    }
    fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> std::io::Result<()> {
        self.disk.remove(name)
    }
    fn list(&self) -> std::io::Result<Vec<FileInfo>> {
        self.disk.list()
    }
    fn sync_names(&self) -> std::io::Result<()> {
        self.disk.sync_names()
    }
    fn space(&self) -> std::io::Result<Space> {
        self.disk.space()
    }
}

impl File for SlowFile {
    fn read_at(&self, purpose: Purpose, offset: u64, target: &mut [u8]) -> std::io::Result<()> {
        if purpose == Purpose::Scan
            && let Some(mut meanwhile) = self.meanwhile.lock().take()
        {
            meanwhile();
        }
        self.file.read_at(purpose, offset, target)
    }
    fn write_at(&self, purpose: Purpose, offset: u64, source: &[u8]) -> std::io::Result<()> {
        self.file.write_at(purpose, offset, source)
    }
    fn write_pieces_at(&self, purpose: Purpose, offset: u64, pieces: &[&[u8]]) -> std::io::Result<()> {
        self.file.write_pieces_at(purpose, offset, pieces)
    }
    fn sync(&self, purpose: Purpose) -> std::io::Result<()> {
        self.file.sync(purpose)
    }
    fn size(&self) -> std::io::Result<u64> {
        self.file.size()
    }
    fn set_size(&self, bytes: u64) -> std::io::Result<()> {
        self.file.set_size(bytes)
    }
    fn allocate(&self, bytes: u64) -> std::io::Result<()> {
        self.file.allocate(bytes)
    }
}

#[test]
fn a_scan_that_waits_for_the_disk_keeps_no_memtable_in_memory() {
    let meanwhile = Meanwhile::default();
    let disk = Arc::new(Slow { disk: SimDisk::new(), meanwhile: meanwhile.clone() });
    let options = Options { memtable_bytes: 64 << 10, ..many_partitions(64 << 10) };
    let engine = open(disk, Arc::new(ManualClock::default()), &options).unwrap();
    fill(&*engine, 0..50, 40);
    run(&*engine, Command::Flush).unwrap();
    fill(&*engine, 50..100, 40);
    engine.levels.reader.drop_caches();
    let (writer, memtable) = (engine.clone(), Arc::downgrade(&engine.superversion().mutable));
    *meanwhile.lock() = Some(Box::new(move || {
        run(&*writer, Command::Flush).unwrap();
        writer.work(WorkClass::Reclaim).unwrap();
        assert!(memtable.upgrade().is_none(), "the scan keeps the memtable");
    }));
    let mut at = 0;
    engine
        .scan(KeyRange::ALL, Tier::Disk, &mut |seen, _| {
            assert_eq!(seen, &key(at)[..]);
            at += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert!(at == 100 && meanwhile.lock().is_none());
}

#[test]
fn a_scan_in_memory_passes_only_so_many_tombstones() {
    let options = Options { memtable_bytes: 8 << 20, gap_tombstones: 64, ..many_partitions(1 << 20) };
    let engine = open(SimDisk::new(), Arc::new(ManualClock::default()), &options).unwrap();
    for first in (0..20_000).step_by(100) {
        let mut batch = Batch::new(0);
        (first..first + 100).for_each(|index| batch.delete(key(index)));
        engine.apply(&batch, Tier::Disk).unwrap();
    }
    fill(&*engine, 20_000..20_001, 40);
    let scan = |tier| {
        let mut seen = 0;
        let result = engine.scan(KeyRange::ALL, tier, &mut |_, _| {
            seen += 1;
            ControlFlow::Continue(())
        });
        (result.map(|()| seen), engine.shape().scan_runs.tombstones)
    };
    let (result, before) = scan(Tier::Memory);
    assert!(matches!(result, Err(Error::WouldBlock)), "{result:?}");
    assert!(before < 5000, "{before} tombstones on a dispatch thread");
    let (result, passed) = scan(Tier::Disk);
    assert_eq!(result.unwrap(), 1);
    assert!(passed - before < 20_000, "{passed}: what was passed was proven");
    // Nothing is left of the row.
    assert_eq!(scan(Tier::Memory).0.unwrap(), 1);
}
