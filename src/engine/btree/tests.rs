use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::base::clock::{ManualClock, SystemClock};
use crate::base::prng::Prng;
use crate::disk::{Fault, Faulty, Kind as Request, Latch, Metered, SimDisk};
use crate::engine::Operation;
use crate::engine::{Kind, Lookups, MemEngine, PageCount, PageKind, PageTraffic, Worker, run, settle, sync};

mod buffer;
mod damage;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn tiny() -> Options {
    Options { reserve_bytes: 0, ..Options::tiny(Kind::Btree) }
}

fn open_on(disk: Arc<dyn Disk>, options: &Options) -> Result<Arc<BtreeEngine>> {
    open(disk, Arc::new(ManualClock::default()), options)
}

fn contents(engine: &dyn Engine) -> Result<Map> {
    let mut map = Map::new();
    engine.scan(KeyRange::ALL, Tier::Disk, &mut |key, value| {
        assert!(map.insert(key.to_vec(), value.to_vec()).is_none(), "a key visited twice");
        ControlFlow::Continue(())
    })?;
    Ok(map)
}

fn random_key(prng: &mut Prng) -> Vec<u8> {
    let number = prng.below(120) as u8;
    // Long keys make inner pages split too.
    let mut key = vec![b'k', number / 40];
    key.resize(2 + usize::from(number % 4) * 50, number);
    key.push(number);
    key
}

fn random_value(prng: &mut Prng) -> Vec<u8> {
    let length = match prng.below(8) {
        0..3 => prng.below(120),
        3 => 700 + prng.below(400),
        4 => 2046 + prng.below(4),
        5 => 4094 + prng.below(4),
        6 => prng.below(3),
        _ => 2048 + prng.below(9000),
    };
    let mut value = prng.bits().to_le_bytes().to_vec();
    value.resize(length as usize, prng.bits() as u8);
    value
}

fn random_batch(prng: &mut Prng) -> Batch {
    let mut batch = Batch::new(1);
    // Phases of growth and of decline, so that pages split and leave.
    let deletes = if prng.one_in(3) { 80 } else { 25 };
    for _ in 0..1 + prng.below(4) {
        let key = random_key(prng);
        if prng.below(100) < deletes {
            batch.delete(key);
        } else {
            batch.put(key, random_value(prng));
        }
    }
    batch
}

fn follow(map: &mut Map, batch: &Batch) {
    for operation in batch.operations() {
        match operation {
            Operation::Put { key, value } => drop(map.insert(key.to_vec(), value.to_vec())),
            Operation::Delete { key } => drop(map.remove(&key[..])),
        }
    }
}

/// Applies a batch, doing checkpoint work while the engine is busy.
fn apply(engine: &BtreeEngine, batch: &Batch) -> Result<Position> {
    for _ in 0..100 {
        match engine.apply(batch, Tier::Disk) {
            Err(Error::Busy { .. }) => drop(engine.work(Class::Flush)?),
            other => return other,
        }
    }
    panic!("busy for ever");
}

#[test]
fn random_operations_match_the_model() {
    for seed in 0..8 {
        let mut prng = Prng::new(seed);
        let options = match seed % 4 {
            0 => Options { cache_bytes: 0, ..tiny() },
            1 => tiny(),
            2 => Options { cache_bytes: 1 << 20, page_bytes: 8 << 10, ..tiny() },
            _ => Options { page_bytes: 64 << 10, dirty_bytes_max: 1 << 20, ..tiny() },
        };
        let mut disk = SimDisk::new();
        let mut engine = open_on(disk.clone(), &options).unwrap();
        let model = MemEngine::new();
        let mut splits = 0;
        for step in 0..500 {
            match prng.below(20) {
                0..11 => {
                    let batch = random_batch(&mut prng);
                    apply(&engine, &batch).unwrap();
                    model.apply(&batch, Tier::Disk).unwrap();
                }
                11..14 => {
                    let key = random_key(&mut prng);
                    let wanted = model.get(&key, Tier::Disk).unwrap();
                    assert_eq!(engine.get(&key, Tier::Disk).unwrap(), wanted, "seed {seed} step {step}");
                    match engine.get(&key, Tier::Memory) {
                        Err(Error::WouldBlock) => {}
                        found => assert_eq!(found.unwrap(), wanted),
                    }
                }
                14..16 => {
                    let (start, end) = (random_key(&mut prng), random_key(&mut prng));
                    let range = KeyRange { start: &start, end: (!prng.one_in(3)).then_some(end.as_slice()) };
                    let limit = 1 + prng.below(40) as usize;
                    let list = |engine: &dyn Engine| {
                        let mut list = Vec::new();
                        let visit: &mut Visit<'_> = &mut |key, value| {
                            list.push((key.to_vec(), value.to_vec()));
                            if list.len() < limit {
                                ControlFlow::Continue(())
                            } else {
                                ControlFlow::Break(())
                            }
                        };
                        engine.scan(range, Tier::Disk, visit).unwrap();
                        list
                    };
                    assert_eq!(list(&*engine), list(&model), "seed {seed} step {step}");
                }
                16 | 17 => drop(engine.work(Class::Flush).unwrap()),
                // In whatever state a checkpoint on its way may be.
                18 if prng.one_in(2) => {
                    engine.verify().unwrap_or_else(|e| panic!("seed {seed} step {step}: {e}"))
                }
                18 if prng.one_in(3) => run(&*engine, Command::Checkpoint).unwrap(),
                18 if prng.one_in(3) => run(&*engine, Command::Compact).unwrap(),
                19 if prng.one_in(6) => {
                    splits += engine.shape().tree.unwrap().splits;
                    if prng.one_in(2) {
                        engine.close().unwrap();
                    }
                    disk = disk.kill();
                    engine = open_on(disk.clone(), &options).unwrap();
                    run(&*engine, Command::Verify).unwrap_or_else(|e| panic!("seed {seed} step {step}: {e}"));
                }
                _ => drop(engine.work(Class::Log).unwrap()),
            }
        }
        run(&*engine, Command::Verify).unwrap();
        let wanted: Map = model.contents().iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
        assert_eq!(contents(&*engine).unwrap(), wanted);
        // Everything deleted gives every unit back.
        for key in wanted.keys() {
            let mut batch = Batch::new(0);
            batch.delete(key.clone());
            apply(&engine, &batch).unwrap();
        }
        run(&*engine, Command::Checkpoint).unwrap();
        run(&*engine, Command::Verify).unwrap();
        let tree = engine.shape().tree.unwrap();
        assert_eq!((tree.height, tree.leaf_pages, tree.inner_pages, tree.extent_bytes), (0, 0, 0, 0));
        splits += tree.splits;
        assert!((splits > 0 || options.page_bytes > 8 << 10) && (tree.merges > 0 || wanted.is_empty()));
    }
}

/// What was asked and what was promised, as far as a workload came.
#[derive(Default)]
struct History {
    /// Batches with their positions; the last may lack one, because the disk failed it.
    batches: Vec<(Option<Position>, Batch)>,
    synced: Position,
}

impl History {
    /// The states that a store whose log ends at `end` may have.
    fn states(&self, end: Position) -> Vec<Map> {
        let mut map = Map::new();
        let mut states = Vec::new();
        for (position, batch) in &self.batches {
            match position {
                Some(position) if *position <= end => follow(&mut map, batch),
                Some(_) => break,
                None => {
                    states.push(map.clone());
                    follow(&mut map, batch);
                }
            }
        }
        states.push(map);
        states
    }
}

const TORN: [Torn; 3] = [Torn::Image, Torn::DoubleWrite, Torn::Delta];

fn with(torn: Torn) -> Options {
    Options { torn, ..tiny() }
}

/// What a workload does.
#[derive(Clone)]
struct Work<'a> {
    /// The modes of which each opening takes one.
    modes: &'a [Torn],
    options: Options,
    batch: fn(&mut Prng) -> Batch,
    seed: u64,
    steps: u64,
}

impl Work<'_> {
    fn new(modes: &[Torn], seed: u64, steps: u64) -> Work<'_> {
        // Pages of more than one unit are written in parts.
        let page_bytes = if seed.is_multiple_of(3) { 16 << 10 } else { 4 << 10 };
        let options = Options { page_bytes, dirty_bytes_max: 128 << 10, ..tiny() };
        Work { modes, options, batch: random_batch, seed, steps }
    }
}

/// Splits, frees, checkpoints, syncs and reopens (each time in one of the modes) until the disk refuses.
fn workload_in(work: &Work<'_>, disk: &Arc<dyn Disk>, history: &mut History) -> Result<()> {
    let Work { modes, options, batch, seed, steps } = work.clone();
    let mut prng = Prng::new(seed);
    let mode = |prng: &mut Prng| {
        let torn = modes[prng.below(modes.len() as u64) as usize];
        Options { torn, ..options.clone() }
    };
    let mut engine = open_on(disk.clone(), &mode(&mut prng))?;
    for _ in 0..steps {
        let batch = batch(&mut prng);
        loop {
            history.batches.push((None, batch.clone()));
            match engine.apply(&batch, Tier::Disk) {
                Ok(position) => {
                    history.batches.last_mut().unwrap().0 = Some(position);
                    break;
                }
                Err(Error::Busy { .. }) => {
                    history.batches.pop();
                    engine.work(Class::Flush)?;
                }
                Err(Error::NoSpace) => {
                    history.batches.pop();
                    return Err(Error::NoSpace);
                }
                Err(error) => return Err(error),
            }
        }
        if prng.one_in(5) {
            let position = engine.position();
            sync(&*engine)?;
            history.synced = position;
        }
        if prng.one_in(3) {
            engine.work(Class::Flush)?;
        }
        if prng.one_in(12) {
            run(&*engine, Command::Checkpoint)?;
        }
        if prng.one_in(15) {
            run(&*engine, Command::Compact)?;
        }
        if prng.one_in(20) {
            engine = open_on(disk.clone(), &mode(&mut prng))?;
        }
    }
    engine.close()?;
    history.synced = engine.position();
    Ok(())
}

/// The workload in the default mode.
fn workload(disk: &Arc<dyn Disk>, seed: u64, steps: u64, history: &mut History) -> Result<()> {
    workload_in(&Work::new(&[Torn::Delta], seed, steps), disk, history)
}

/// Opens what a crash left and holds it to the promise; returns the engine.
fn recovered(disk: Arc<SimDisk>, history: &History, what: &str) -> Arc<BtreeEngine> {
    recovered_in(&tiny(), disk, history, what)
}

fn recovered_in(options: &Options, disk: Arc<SimDisk>, history: &History, what: &str) -> Arc<BtreeEngine> {
    let engine = open_on(disk, options).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(engine.position() >= history.synced, "{what}: an acknowledged sync is lost");
    let found = contents(&*engine).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(history.states(engine.position()).contains(&found), "{what}: not a prefix");
    run(&*engine, Command::Verify).unwrap_or_else(|error| panic!("{what}: {error}"));
    engine
}

fn crash_everywhere(modes: &[Torn], seed: u64, steps: u64, images: u64) {
    crash_everywhere_in(&Work::new(modes, seed, steps), images);
}

fn crash_everywhere_in(work: &Work<'_>, images: u64) {
    let seed = work.seed;
    // Any mode opens what another left.
    let other = |at: u64| with(TORN[(at % 3) as usize]);
    let whole = SimDisk::new();
    let mut history = History::default();
    let disk: Arc<dyn Disk> = whole.clone();
    workload_in(work, &disk, &mut history).unwrap();
    for stop in 0..=whole.requests() {
        let sim = SimDisk::new();
        sim.stop_at(stop);
        let mut history = History::default();
        let disk: Arc<dyn Disk> = sim.clone();
        let _ = workload_in(work, &disk, &mut history);
        for image in 0..images {
            let what = format!("seed {seed} stop {stop} image {image}");
            let crashed = sim.crash(image);
            // Power goes again during the recovery, and only then it comes to its end.
            crashed.stop_at(Prng::new(stop * 8 + image).below(24));
            let _ = open_on(crashed.clone(), &other(stop + image));
            let disk = crashed.crash(image + 1);
            let engine = recovered_in(&other(stop / 3 + image), disk.clone(), &history, &what);
            let mut batch = Batch::new(0);
            batch.put(&b"after"[..], vec![7; 3000]);
            apply(&engine, &batch).unwrap();
            if image % 2 == 0 {
                run(&*engine, Command::Checkpoint).unwrap();
            }
            sync(&*engine).unwrap();
            let engine = open_on(disk.crash(image + 2), &other(stop / 9)).unwrap();
            assert_eq!(engine.get(b"after", Tier::Disk).unwrap().unwrap(), vec![7; 3000], "{what}");
            run(&*engine, Command::Verify).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }
}

#[test]
fn a_crash_at_any_request_leaves_a_prefix_that_holds_every_sync() {
    crash_everywhere(&[Torn::Delta], 1, 40, 3);
}

#[test]
fn a_crash_at_any_request_leaves_a_prefix_with_other_batches() {
    crash_everywhere(&[Torn::Delta], 2, 50, 2);
}

#[test]
fn a_crash_at_any_request_leaves_a_prefix_where_pages_are_written_in_parts() {
    crash_everywhere(&[Torn::Delta], 12, 40, 2);
}

#[test]
fn a_crash_at_any_request_is_repaired_from_the_double_write_area() {
    crash_everywhere(&[Torn::DoubleWrite], 1, 40, 3);
}

#[test]
fn a_crash_at_any_request_is_repaired_from_images_of_batches() {
    crash_everywhere(&[Torn::Image], 1, 30, 3);
}

#[test]
fn a_crash_at_any_request_leaves_a_prefix_where_modes_change_at_every_opening() {
    crash_everywhere(&TORN, 9, 40, 2);
}

/// What each mode writes for the same changes, and where it is counted.
#[test]
fn each_mode_writes_its_copies_where_it_says() {
    let written = |torn: Torn| {
        let sim = SimDisk::new();
        let metered = Metered::new(sim.clone());
        let options = Options { dirty_bytes_max: 4 << 20, checkpoint_log_bytes: 4 << 20, ..with(torn) };
        let engine = open_on(metered.clone(), &options).unwrap();
        let fill = |version: u8| {
            for key in 0..200u8 {
                let mut batch = Batch::new(0);
                batch.put(vec![key], vec![version; 100]);
                engine.apply(&batch, Tier::Disk).unwrap();
            }
        };
        fill(1);
        run(&*engine, Command::Checkpoint).unwrap();
        let before = metered.snapshot();
        fill(2);
        run(&*engine, Command::Checkpoint).unwrap();
        run(&*engine, Command::Verify).unwrap();
        assert_eq!(engine.shape().variant, torn.name());
        let snapshot = metered.snapshot().since(&before);
        [Purpose::PageImage, Purpose::DoubleWrite, Purpose::Checkpoint, Purpose::Wal]
            .map(|purpose| snapshot.of(purpose).write_bytes)
    };
    let [image, double, delta] = TORN.map(written);
    // The same pages go home in every mode; what changed of each has one copy at least.
    let home = delta[2];
    assert!(image[2] == home && double[2] == home && home > 4 * 4096);
    assert!((home / 2..home + home / 8).contains(&delta[0]) && delta[1] == 0, "{delta:?}");
    assert!((home..home + 2 * 4096).contains(&double[1]) && double[0] == 0, "{double:?}");
    assert!(image[0] >= 200 * 4096 && image[1] == 0, "{image:?}");
    // A segment header more or less.
    assert!(delta[3].abs_diff(double[3]) <= 64 << 10 && image[3] >= delta[3]);
}

#[test]
fn a_killed_process_loses_nothing_that_was_applied() {
    let whole = SimDisk::new();
    let disk: Arc<dyn Disk> = whole.clone();
    workload(&disk, 3, 50, &mut History::default()).unwrap();
    for stop in 0..=whole.requests() {
        let sim = SimDisk::new();
        sim.stop_at(stop);
        let mut history = History::default();
        let disk: Arc<dyn Disk> = sim.clone();
        let _ = workload(&disk, 3, 50, &mut history);
        history.synced = history.batches.iter().filter_map(|(position, _)| *position).max().unwrap_or(0);
        recovered(sim.kill(), &history, &format!("stop {stop}"));
    }
}

#[test]
fn any_request_may_fail_once() {
    for kind in
        [Request::Read, Request::Write, Request::Sync, Request::SyncNames, Request::Name, Request::Allocate]
    {
        for nth in 0.. {
            let sim = SimDisk::new();
            let faulty = Faulty::new(sim.clone());
            faulty.inject(Fault::Fail { kind: Some(kind), purpose: None, nth, errno: libc::EIO });
            let mut history = History::default();
            let disk: Arc<dyn Disk> = Latch::new(faulty.clone());
            let result = workload(&disk, 4, 40, &mut history);
            if faulty.hits() == 0 {
                result.unwrap();
                assert!(nth > 0, "{kind:?} never asked");
                break;
            }
            // A spare log segment that cannot be removed does no harm.
            assert!(result.is_err() || kind == Request::Name, "{kind:?} {nth} failed and nobody said so");
            recovered(sim.kill(), &history, &format!("kill after failed {kind:?} {nth}"));
            recovered(sim.crash(nth), &history, &format!("crash after failed {kind:?} {nth}"));
        }
    }
}

#[test]
fn a_request_that_fails_in_a_checkpoint_is_tried_again() {
    for (purpose, kind) in [
        (Purpose::Checkpoint, Request::Write),
        (Purpose::Manifest, Request::Write),
        (Purpose::Checkpoint, Request::Sync),
    ] {
        for nth in 0..12 {
            let sim = SimDisk::new();
            let faulty = Faulty::new(sim.clone());
            let latch = Latch::new(faulty.clone());
            let engine = open_on(latch, &tiny()).unwrap();
            faulty.inject(Fault::Fail { kind: Some(kind), purpose: Some(purpose), nth, errno: libc::EIO });
            let mut prng = Prng::new(nth);
            let mut model = Map::new();
            for _ in 0..60 {
                let batch = random_batch(&mut prng);
                loop {
                    match engine.apply(&batch, Tier::Disk) {
                        Ok(_) => break follow(&mut model, &batch),
                        Err(Error::Busy { .. }) => drop(engine.work(Class::Flush)),
                        Err(Error::Poisoned(_)) => {
                            assert!(kind == Request::Sync, "{purpose:?} {nth}");
                            break;
                        }
                        Err(error) => panic!("{purpose:?} {nth}: {error}"),
                    }
                    if kind == Request::Sync && faulty.hits() > 0 {
                        break;
                    }
                }
                let _ = engine.work(Class::Flush);
            }
            // Reads go on; what was accepted is all there.
            assert_eq!(contents(&*engine).unwrap(), model, "{purpose:?} {nth}");
            assert_eq!(engine.close().is_ok(), kind == Request::Write || faulty.hits() == 0);
            let engine = open_on(sim.kill(), &tiny()).unwrap();
            assert_eq!(contents(&*engine).unwrap(), model, "{purpose:?} {nth}");
            run(&*engine, Command::Verify).unwrap();
        }
    }
}

#[test]
fn a_full_disk_refuses_batches_and_leaves_the_store_whole() {
    let mut refused = 0;
    for capacity in (10 << 10..400 << 10).step_by(3000) {
        let sim = SimDisk::new();
        sim.set_capacity(Some(capacity));
        let mut history = History::default();
        let disk: Arc<dyn Disk> = Latch::new(sim.clone());
        match workload(&disk, 5, 120, &mut history) {
            Err(Error::NoSpace) => refused += 1,
            Err(error) => panic!("capacity {capacity}: {error}"),
            Ok(()) => {}
        }
        if sim.list().unwrap().iter().any(|info| info.name == meta::FILE) {
            let again = sim.kill();
            again.set_capacity(None);
            let engine = recovered(again, &history, &format!("capacity {capacity}"));
            run(&*engine, Command::Checkpoint).unwrap();
            run(&*engine, Command::Verify).unwrap();
        }
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn the_meter_equals_the_witness() {
    let sim = SimDisk::new();
    let metered = Metered::new(sim.clone());
    let disk: Arc<dyn Disk> = metered.clone();
    workload(&disk, 6, 200, &mut History::default()).unwrap();
    let engine = open_on(disk, &tiny()).unwrap();
    run(&*engine, Command::Verify).unwrap();
    let before = metered.snapshot();
    contents(&*engine).unwrap();
    let snapshot = metered.snapshot();
    let (total, witness) = (snapshot.total(), sim.witness());
    assert_eq!((total.reads, total.read_bytes), (witness.reads, witness.read_bytes));
    assert_eq!((total.writes, total.write_bytes), (witness.writes, witness.write_bytes));
    assert_eq!(total.syncs, witness.syncs);
    for purpose in [
        Purpose::Wal,
        Purpose::Checkpoint,
        Purpose::PageImage,
        Purpose::Manifest,
        Purpose::Get,
        Purpose::Verify,
    ] {
        let counters = snapshot.of(purpose);
        assert!(counters.writes + counters.reads > 0, "{purpose:?}");
    }
    let scanned = snapshot.since(&before);
    assert_eq!(scanned.total().reads, scanned.of(Purpose::Scan).reads);
    assert_eq!(scanned.total().writes, 0);
}

/// Bytes and pages of a direction, summed by kind and by cause, which must agree.
fn all_pages(traffic: &PageTraffic) -> PageCount {
    let sum = |counts: &[PageCount]| PageCount {
        pages: counts.iter().map(|count| count.pages).sum(),
        bytes: counts.iter().map(|count| count.bytes).sum(),
    };
    let by_kind = sum(&PageKind::ALL.map(|kind| traffic.of_kind(kind)));
    assert_eq!(by_kind, sum(&PageCause::ALL.map(|cause| traffic.of_cause(cause))));
    by_kind
}

#[test]
fn pages_by_kind_and_by_cause_add_up_to_what_the_disk_has_taken() {
    for torn in [Torn::Delta, Torn::DoubleWrite, Torn::Image] {
        // With failures, which count nowhere, and killed processes, so that opening repairs pages.
        let sim = SimDisk::new();
        for (round, fault) in [None, Some(40), Some(90), None].into_iter().enumerate() {
            let faulty = Faulty::new(sim.clone());
            let metered = Metered::new(faulty.clone());
            let disk: Arc<dyn Disk> = metered.clone();
            if let Some(nth) = fault {
                let kind = Some(Request::Write);
                faulty.inject(Fault::Fail { kind, purpose: None, nth, errno: libc::EIO });
            }
            let Ok(engine) = open_on(disk, &with(torn)) else { continue };
            let mut prng = Prng::new(round as u64);
            for step in 0..150 {
                let batch = random_batch(&mut prng);
                // A failure is what this is about.
                drop(apply(&engine, &batch));
                match step % 40 {
                    9 | 19 => drop(run(&*engine, Command::Checkpoint)),
                    29 => drop(run(&*engine, Command::Compact)),
                    _ => drop(engine.work(Class::Flush)),
                }
            }
            drop(contents(&*engine));
            drop(run(&*engine, Command::Verify));
            let tree = engine.shape().tree.unwrap();
            let door = metered.snapshot();
            let bytes = |purposes: &[Purpose], of: fn(&crate::disk::Counters) -> u64| -> u64 {
                purposes.iter().map(|purpose| of(&door.of(*purpose))).sum()
            };
            use Purpose::*;
            let written = bytes(&[Checkpoint, PageImage, DoubleWrite, Manifest, Recovery], |c| c.write_bytes);
            assert_eq!(all_pages(&tree.pages_written).bytes, written, "{torn:?} round {round}");
            let read = bytes(&[Checkpoint, Get, Scan, Verify], |c| c.read_bytes);
            let at_opening = tree.pages_read.of_cause(PageCause::Recovery).bytes;
            assert_eq!(all_pages(&tree.pages_read).bytes - at_opening, read, "{torn:?} round {round}");
            let copies = |cause| tree.pages_written.of_cause(cause).bytes;
            let images = copies(PageCause::Image) + copies(PageCause::Delta);
            assert_eq!(images, door.of(PageImage).write_bytes);
            assert_eq!(copies(PageCause::DoubleWrite), door.of(DoubleWrite).write_bytes);
            assert_eq!(copies(PageCause::Eviction), 0);
            let extents = tree.pages_written.of(PageKind::Extent, PageCause::Compaction);
            assert!(extents.bytes % UNIT_BYTES == 0);
        }
    }
}

#[test]
fn a_split_is_at_least_three_page_writes() {
    for torn in [Torn::Delta, Torn::DoubleWrite, Torn::Image] {
        let engine = open_on(SimDisk::new(), &with(torn)).unwrap();
        let tree = || engine.shape().tree.unwrap();
        let (mut splits, mut prng) = (0, Prng::new(3));
        for _ in 0..600 {
            let before = tree();
            let mut batch = Batch::new(0);
            batch.put(format!("k{:08}", prng.below(1 << 24)), vec![7; 100]);
            apply(&engine, &batch).unwrap();
            run(&*engine, Command::Checkpoint).unwrap();
            let after = tree();
            let split = after.splits - before.splits;
            let pages = after.pages_written.since(&before.pages_written).of_cause(PageCause::Split).pages;
            // Two splits in a row, of a leaf and of the page above it, share a page.
            assert!(
                pages >= if split > 0 { 2 * split + 1 } else { 0 },
                "{torn:?}: {pages} pages, {split} splits"
            );
            splits += split;
        }
        assert!(splits > 15, "{splits}");
    }
}

#[test]
fn a_turned_bit_is_never_served() {
    let sim = SimDisk::new();
    let options = tiny();
    let mut model = Map::new();
    let engine = open_on(sim.clone(), &options).unwrap();
    let mut prng = Prng::new(7);
    for _ in 0..150 {
        let batch = random_batch(&mut prng);
        apply(&engine, &batch).unwrap();
        follow(&mut model, &batch);
    }
    engine.close().unwrap();
    drop(engine);
    let file_bytes = sim.open(meta::FILE).unwrap().size().unwrap();
    let mut caught = 0;
    for _ in 0..400 {
        let damaged = sim.kill();
        damaged.flip_bit(meta::FILE, prng.below(file_bytes * 8));
        let Ok(engine) = open_on(damaged, &options) else {
            caught += 1;
            continue;
        };
        match contents(&*engine) {
            Ok(found) => assert_eq!(found, model),
            Err(Error::Corrupt { file, .. }) => {
                caught += 1;
                assert_eq!(file, meta::FILE);
                assert!(matches!(run(&*engine, Command::Verify), Err(Error::Corrupt { .. })));
            }
            Err(error) => panic!("{error}"),
        }
        for (key, value) in &model {
            if let Ok(found) = engine.get(key, Tier::Disk) {
                assert_eq!(found.as_deref(), Some(&value[..]));
            }
        }
    }
    assert!(caught > 50, "{caught}");
}

#[test]
fn ascending_keys_fill_pages_and_sequential_values_are_read_in_few_requests() {
    let sim = SimDisk::new();
    let options = Options { cache_bytes: 16 << 20, dirty_bytes_max: 8 << 20, ..tiny() };
    let engine = open_on(sim.clone(), &options).unwrap();
    // There are keys behind those that grow: the split is at the right edge of the file, not of the tree.
    for key in 0..20 {
        let mut batch = Batch::new(0);
        batch.put(format!("z{key:06}"), vec![1; 20]);
        apply(&engine, &batch).unwrap();
    }
    for block in 0..512u32 {
        let mut batch = Batch::new(0);
        batch.put([&b"d/file/"[..], &block.to_be_bytes()].concat(), vec![block as u8; 4096]);
        apply(&engine, &batch).unwrap();
    }
    engine.close().unwrap();
    let engine = open_on(sim.clone(), &options).unwrap();
    let fill = engine.shape().tree.unwrap().fill;
    assert!(fill > 0.75, "{fill}");
    let before = sim.witness();
    let (start, end) =
        ([&b"d/file/"[..], &64u32.to_be_bytes()].concat(), [&b"d/file/"[..], &96u32.to_be_bytes()].concat());
    let range = KeyRange { start: &start, end: Some(&end) };
    assert!(matches!(engine.scan(range, Tier::Memory, &mut |_, _| panic!()), Err(Error::WouldBlock)));
    let mut blocks = 0;
    engine
        .scan(range, Tier::Disk, &mut |_, value| {
            assert_eq!(value, [64 + blocks; 4096]);
            blocks += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(blocks, 32);
    let reads = sim.witness().reads - before.reads;
    assert!(reads <= 8, "{reads} reads");
    engine.scan(range, Tier::Memory, &mut |_, _| ControlFlow::Continue(())).unwrap();
}

/// Few checkpoints, and memory for all.
fn large() -> Options {
    Options {
        cache_bytes: 16 << 20,
        dirty_bytes_max: 32 << 20,
        checkpoint_log_bytes: 64 << 20,
        log_segment_bytes: 4 << 20,
        ..tiny()
    }
}

/// Reads blocks `from..to` of the file of `file_block`, and checks them.
fn read_blocks(engine: &BtreeEngine, from: u32, to: u32) {
    let (start, end) = (file_block(from), file_block(to));
    let range = KeyRange { start: &start, end: Some(&end) };
    let mut blocks = from;
    let visit: &mut Visit<'_> = &mut |_, value| {
        assert_eq!(value, [blocks as u8; 4096]);
        blocks += 1;
        ControlFlow::Continue(())
    };
    // As a mount does: in memory first.
    match engine.scan(range, Tier::Memory, visit) {
        Err(Error::WouldBlock) => {
            engine.scan(range, Tier::Disk, visit).unwrap();
        }
        other => other.unwrap(),
    }
    assert_eq!(blocks, to);
}

fn file_block(block: u32) -> Vec<u8> {
    [&b"d/file/"[..], &u64::from(block).to_be_bytes()].concat()
}

#[test]
fn a_file_that_is_read_in_a_row_is_read_ahead_in_large_requests_and_no_further_than_its_end() {
    let metered = Metered::new(SimDisk::new());
    let options = Options { cache_bytes: 32 << 20, ..large() };
    let engine = open_on(metered.clone(), &options).unwrap();
    for block in (0..2048u32).step_by(32) {
        let mut batch = Batch::new(0);
        (block..block + 32).for_each(|block| batch.put(file_block(block), vec![block as u8; 4096]));
        apply(&engine, &batch).unwrap();
    }
    // Another file behind it.
    for block in 0..64u32 {
        let mut batch = Batch::new(0);
        batch.put([&b"d/gile/"[..], &u64::from(block).to_be_bytes()].concat(), vec![1; 4096]);
        apply(&engine, &batch).unwrap();
    }
    engine.close().unwrap();
    let homes = metered.snapshot().of(Purpose::Checkpoint);
    assert!(homes.write_bytes / homes.writes > 400 << 10, "{homes:?}");
    let scanned = |engine: &BtreeEngine, reads: &dyn Fn(&BtreeEngine)| {
        let before = metered.snapshot();
        reads(engine);
        metered.snapshot().since(&before).of(Purpose::Scan)
    };
    let engine = open_on(metered.clone(), &options).unwrap();
    let row =
        scanned(&engine, &|engine| (0..2048).step_by(32).for_each(|at| read_blocks(engine, at, at + 32)));
    let leaves = engine.shape().tree.unwrap().leaves.misses;
    assert!(row.reads - leaves < 20, "{row:?} for 64 scans");
    assert!(row.read_bytes < (8 << 20) + (400 << 10), "{row:?}: read twice, or too far");
    // Here and there: nothing ahead.
    let engine = open_on(metered.clone(), &options).unwrap();
    let there = |engine: &BtreeEngine| {
        [0, 700, 200, 1500, 1000].iter().for_each(|at| read_blocks(engine, *at, at + 8))
    };
    let scattered = scanned(&engine, &there);
    assert!(scattered.read_bytes < (5 * 8 + 5 * 4) * 4096, "{scattered:?}");
    // A damaged value that nobody asked for.
    let sim = SimDisk::new();
    let engine = open_on(sim.clone(), &options).unwrap();
    for block in 0..128u32 {
        let mut batch = Batch::new(0);
        batch.put(file_block(block), vec![block as u8; 4096]);
        apply(&engine, &batch).unwrap();
    }
    engine.close().unwrap();
    let mut bytes = vec![0; sim.open(meta::FILE).unwrap().size().unwrap() as usize];
    sim.open(meta::FILE).unwrap().read_at(Purpose::Recovery, 0, &mut bytes).unwrap();
    let at = bytes.windows(4096).position(|window| window == [110; 4096]).unwrap();
    assert!(sim.flip_bit(meta::FILE, at as u64 * 8 + 5));
    let engine = open_on(sim, &options).unwrap();
    read_blocks(&engine, 0, 32);
    read_blocks(&engine, 32, 64);
    read_blocks(&engine, 64, 96);
}

#[test]
fn a_long_scan_reads_many_leaves_with_a_request() {
    let metered = Metered::new(SimDisk::new());
    let options = large();
    let engine = open_on(metered.clone(), &options).unwrap();
    fill(&engine, 4000, 100);
    engine.close().unwrap();
    let engine = open_on(metered.clone(), &options).unwrap();
    let leaves = engine.shape().tree.unwrap().leaf_pages;
    let before = metered.snapshot();
    assert_eq!(contents(&*engine).unwrap().len(), 4000);
    let scan = metered.snapshot().since(&before).of(Purpose::Scan);
    assert!(leaves > 200 && scan.reads < leaves / 4, "{scan:?} for {leaves} leaves");
}

/// Shares all but its end with the others, so that inner pages fill, too.
fn long_key(number: u32) -> Vec<u8> {
    [&[7; 200][..], &number.to_be_bytes()].concat()
}

/// Deletes all but every `nth` of `count` keys.
fn thin_out(engine: &BtreeEngine, count: u32, nth: u32) {
    for key in (0..count).filter(|key| key % nth != 0) {
        let mut batch = Batch::new(0);
        batch.delete(long_key(key));
        apply(engine, &batch).unwrap();
    }
}

fn fill(engine: &BtreeEngine, count: u32, value_bytes: usize) {
    for key in 0..count {
        let mut batch = Batch::new(0);
        batch.put(long_key(key), vec![key as u8; value_bytes]);
        apply(engine, &batch).unwrap();
    }
}

#[test]
fn sparse_neighbours_join_until_pages_are_well_filled() {
    for keep in [10, 50, 200] {
        let engine = open_on(SimDisk::new(), &tiny()).unwrap();
        fill(&engine, 3000, 60);
        let full = engine.shape().tree.unwrap();
        assert!(full.height >= 3 && full.fill > 0.8, "{full:?}");
        thin_out(&engine, 3000, keep);
        run(&*engine, Command::Checkpoint).unwrap();
        run(&*engine, Command::Verify).unwrap();
        let thin = engine.shape().tree.unwrap();
        assert!(thin.fill > 0.25, "one of {keep}: {thin:?}");
        assert!(u64::from(keep) > 100 || thin.inner_pages < full.inner_pages, "{thin:?}");
        assert_eq!(contents(&*engine).unwrap().len(), 3000 / keep as usize);
    }
}

#[test]
fn compaction_cuts_the_file_to_what_is_in_use() {
    for torn in TORN {
        let sim = SimDisk::new();
        let engine = open_on(sim.clone(), &with(torn)).unwrap();
        let size = || sim.open(meta::FILE).unwrap().size().unwrap();
        fill(&engine, 600, 5000);
        run(&*engine, Command::Checkpoint).unwrap();
        let full = size();
        thin_out(&engine, 600, 10);
        run(&*engine, Command::Checkpoint).unwrap();
        let loose = size();
        // Reads and changes go on beside it.
        let (sender, ended) = std::sync::mpsc::channel();
        engine.run(Command::Compact, Box::new(move |result| sender.send(result).unwrap()));
        let mut model = contents(&*engine).unwrap();
        let mut steps = 0u32;
        while ended.try_recv().map(|result| result.unwrap()).is_err() {
            steps += 1;
            engine.work(Class::Flush).unwrap();
            let (key, value) = (long_key(steps * 70 % 600), vec![1; 3000]);
            let mut batch = Batch::new(0);
            batch.put(key.clone(), value.clone());
            if engine.apply(&batch, Tier::Disk).is_ok() {
                model.insert(key, value);
            }
            assert!(steps < 2000);
            if steps.is_multiple_of(16) {
                engine.verify().unwrap();
                assert_eq!(contents(&*engine).unwrap(), model);
            }
        }
        run(&*engine, Command::Compact).unwrap();
        run(&*engine, Command::Verify).unwrap();
        assert_eq!(contents(&*engine).unwrap(), model);
        let used = engine.tree.read().space.used_units() * UNIT_BYTES;
        assert!(size() < used + used / 8 + (100 << 10), "{torn:?}: {full} {loose} {} used {used}", size());
        assert!(size() < full / 4 && steps > 10, "{torn:?}: {full} {loose} {}", size());
        let engine = open_on(sim.crash(1), &tiny()).unwrap();
        run(&*engine, Command::Verify).unwrap();
        assert_eq!(contents(&*engine).unwrap(), model);
    }
}

#[test]
fn a_file_whose_end_became_free_is_cut_at_a_checkpoint() {
    let sim = SimDisk::new();
    let engine = open_on(sim.clone(), &tiny()).unwrap();
    let size = || sim.open(meta::FILE).unwrap().size().unwrap();
    fill(&engine, 300, 9000);
    run(&*engine, Command::Checkpoint).unwrap();
    let full = size();
    thin_out(&engine, 300, 300);
    run(&*engine, Command::Checkpoint).unwrap();
    // The free map itself found no place but at the end; the next one does.
    fill(&engine, 1, 10);
    run(&*engine, Command::Checkpoint).unwrap();
    assert!(size() < full / 4, "{full} {}", size());
    fill(&engine, 300, 9000);
    engine.close().unwrap();
    let engine = open_on(sim.crash(3), &tiny()).unwrap();
    assert_eq!(contents(&*engine).unwrap().len(), 300);
    run(&*engine, Command::Verify).unwrap();
}

#[test]
fn a_long_scan_leaves_hot_pages_and_the_way_to_them_in_memory() {
    let sim = SimDisk::new();
    let options = Options { cache_bytes: 384 << 10, dirty_bytes_max: 1 << 20, ..tiny() };
    let engine = open_on(sim.clone(), &options).unwrap();
    fill(&engine, 2000, 600);
    engine.close().unwrap();
    let engine = open_on(sim.clone(), &options).unwrap();
    let warm =
        || (0..40).for_each(|key| assert!(engine.get(&long_key(key * 50), Tier::Disk).unwrap().is_some()));
    (0..10).for_each(|_| warm());
    let before = engine.shape().tree.unwrap();
    assert_eq!(contents(&*engine).unwrap().len(), 2000);
    let scanned = engine.shape().tree.unwrap();
    assert!(scanned.leaves.misses - before.leaves.misses > 200, "{scanned:?}");
    warm();
    let after = engine.shape().tree.unwrap();
    assert!(after.leaves.misses - scanned.leaves.misses <= 10, "{scanned:?} {after:?}");
    assert!(after.inner.misses - before.inner.misses <= 8, "{before:?} {after:?}");
    assert!(after.inner.hits > before.inner.hits && after.extents == Lookups::default());
}

#[test]
fn what_is_to_settle_is_what_a_checkpoint_writes_and_opening_says_what_it_replayed() {
    for torn in TORN {
        let sim = SimDisk::new();
        let metered = Metered::new(sim.clone());
        let options = Options {
            page_bytes: 16 << 10,
            dirty_bytes_max: 4 << 20,
            checkpoint_log_bytes: 4 << 20,
            ..with(torn)
        };
        let engine = open_on(metered.clone(), &options).unwrap();
        fill(&engine, 60, 1500);
        run(&*engine, Command::Checkpoint).unwrap();
        fill(&engine, 3, 1500);
        fill(&engine, 2, 9000);
        let tree = engine.shape().tree.unwrap();
        let before = metered.snapshot();
        // Images of batches are in the log already.
        run(&*engine, Command::Checkpoint).unwrap();
        let written = metered.snapshot().since(&before);
        let of = |purpose| written.of(purpose).write_bytes;
        let counted = of(Purpose::Checkpoint) + of(Purpose::PageImage) + of(Purpose::DoubleWrite);
        assert!(tree.settle_bytes.abs_diff(counted) <= 4096 + 1000, "{torn:?} {counted} {tree:?}");
        assert_eq!(engine.shape().tree.unwrap().settle_bytes, 0);
        fill(&engine, 3, 1500);
        let tree = open_on(sim.kill(), &options).unwrap().shape().tree.unwrap();
        assert!(tree.recovery_bytes > 3 * 1500, "{tree:?}");
    }
}

#[test]
fn limits_answer_busy_with_their_cause_and_commands_what_they_are() {
    let engine = open_on(SimDisk::new(), &tiny()).unwrap();
    let mut batch = Batch::new(0);
    batch.put(&b"key"[..], vec![1; 5000]);
    let mut refused = None;
    for index in 0..100u8 {
        let mut batch = Batch::new(0);
        batch.put(vec![index], vec![1; 5000]);
        if let Err(Error::Busy { cause, .. }) = engine.apply(&batch, Tier::Memory) {
            refused = Some(cause);
            break;
        }
    }
    assert_eq!(refused, Some(Cause::LogSpace));
    assert_eq!(engine.shape().stalls.now, Some(Cause::LogSpace));
    let seen = engine.bell().seen(Class::Room);
    settle(&*engine).unwrap();
    assert!(engine.bell().seen(Class::Room) > seen);
    assert_eq!(engine.shape().memory.dirty_bytes, 0);
    engine.apply(&batch, Tier::Disk).unwrap();
    assert_eq!(engine.shape().stalls.now, None);

    let engine = open_on(SimDisk::new(), &Options { checkpoint_log_bytes: 1 << 30, ..tiny() }).unwrap();
    let causes = (0..100u8).find_map(|index| {
        let mut batch = Batch::new(0);
        batch.put(vec![index], vec![1; 5000]);
        engine.apply(&batch, Tier::Memory).err()
    });
    assert!(matches!(causes, Some(Error::Busy { cause: Cause::DirtyPages, .. })), "{causes:?}");
    let mut long = Batch::new(0);
    long.put(vec![1; 2000], &b""[..]);
    assert!(matches!(engine.apply(&long, Tier::Disk), Err(Error::Invalid(_))));
}

#[test]
fn a_checkpoint_starts_when_changes_grow_old() {
    let clock = Arc::new(ManualClock::default());
    let engine = open(SimDisk::new(), clock.clone(), &tiny()).unwrap();
    assert_eq!(engine.work(Class::Flush).unwrap(), Pending::Idle);
    let mut batch = Batch::new(0);
    batch.put(&b"key"[..], &b"value"[..]);
    apply(&engine, &batch).unwrap();
    assert_eq!(engine.work(Class::Flush).unwrap(), Pending::After(Duration::from_secs(30)));
    clock.advance(Duration::from_secs(30));
    settle(&*engine).unwrap();
    let shape = engine.shape();
    assert_eq!((shape.tree.unwrap().checkpoints, shape.memory.dirty_bytes), (1, 0));
    assert_eq!(engine.work(Class::Flush).unwrap(), Pending::Idle);
}

#[test]
fn the_stored_page_size_counts_and_a_missing_data_file_is_damage() {
    let sim = SimDisk::new();
    let engine = open_on(sim.clone(), &Options { page_bytes: 8192, ..tiny() }).unwrap();
    let mut batch = Batch::new(0);
    batch.put(&b"key"[..], vec![5; 1500]);
    apply(&engine, &batch).unwrap();
    engine.close().unwrap();
    let engine = open_on(sim.clone(), &tiny()).unwrap();
    assert_eq!(engine.shape().tree.unwrap().page_bytes, 8192);
    assert_eq!(engine.get(b"key", Tier::Disk).unwrap().unwrap(), vec![5; 1500]);
    drop(engine);
    sim.remove(meta::FILE).unwrap();
    assert!(matches!(open_on(sim, &tiny()), Err(Error::Corrupt { .. })));
}

/// The requests of a checkpoint, in their order, are the crash protocol.
#[test]
fn a_checkpoint_makes_these_requests() {
    let sim = SimDisk::new();
    let engine = open_on(sim.clone(), &Options { log_segment_bytes: 1 << 20, ..tiny() }).unwrap();
    let mut batch = Batch::new(0);
    batch.put(&b"a"[..], vec![1; 100]);
    apply(&engine, &batch).unwrap();
    run(&*engine, Command::Checkpoint).unwrap();
    batch.put(&b"b"[..], vec![2; 5000]);
    apply(&engine, &batch).unwrap();
    sim.start_trace();
    run(&*engine, Command::Checkpoint).unwrap();
    // The image is record 3 of the log; the page is not new, the value is.
    let trace: Vec<String> = sim
        .trace()
        .lines()
        .filter(|line| !line.starts_with("allocate"))
        .map(|line| line.split(" @").next().unwrap_or(line).to_string())
        .collect();
    assert_eq!(
        trace,
        [
            "write btree.pages checkpoint",
            "write btree.pages manifest",
            "write log.0 page_image",
            "sync btree.pages checkpoint",
            "sync log.0 wal",
            "write btree.pages manifest",
            "sync btree.pages manifest",
            "write btree.pages checkpoint",
            "sync btree.pages checkpoint",
            "write btree.pages manifest",
        ]
    );
}

/// Bytes written per logical byte, settled before and after, with data eight times the dirty bound.
#[test]
#[ignore = "prints figures"]
fn write_amplification_of_each_mode() {
    for torn in [Torn::Delta, Torn::DoubleWrite, Torn::Image] {
        let metered = Metered::new(SimDisk::new());
        let options = Options {
            dirty_bytes_max: 8 << 20,
            checkpoint_log_bytes: 16 << 20,
            log_segment_bytes: 1 << 20,
            page_bytes: 16 << 10,
            cache_bytes: 8 << 20,
            ..with(torn)
        };
        let engine = open_on(metered.clone(), &options).unwrap();
        let mut prng = Prng::new(1);
        let measure = |name: &str, puts: u64, value_bytes: usize, next: &mut dyn FnMut(u64) -> String| {
            run(&*engine, Command::Checkpoint).unwrap();
            let before = metered.snapshot();
            let mut logical_bytes = 0;
            for index in 0..puts {
                let mut batch = Batch::new(0);
                batch.put(next(index), vec![index as u8; value_bytes]);
                logical_bytes += batch.bytes();
                apply(&engine, &batch).unwrap();
                // About what a worker does beside the writer.
                if index % 16 == 0 {
                    engine.work(Class::Flush).unwrap();
                }
            }
            run(&*engine, Command::Checkpoint).unwrap();
            let written = metered.snapshot().since(&before);
            let share = |purpose| written.of(purpose).write_bytes as f64 / logical_bytes as f64;
            let home = written.of(Purpose::Checkpoint);
            println!(
                "{:11} {name:24} W {:6.2}: log {:.2} images {:.2} double {:.2} home {:.2}, {} B a request",
                torn.name(),
                written.total().write_bytes as f64 / logical_bytes as f64,
                share(Purpose::Wal),
                share(Purpose::PageImage),
                share(Purpose::DoubleWrite),
                share(Purpose::Checkpoint),
                home.write_bytes / home.writes.max(1),
            );
        };
        measure("sequential 4 KiB", 16 << 10, 4096, &mut |index| format!("b/file/{index:012}"));
        measure("random overwrite 4 KiB", 16 << 10, 4096, &mut |_| {
            format!("b/file/{:012}", prng.below(16 << 10))
        });
        let mut prng = Prng::new(2);
        let mut small = |_: u64| format!("k{:015}", prng.below(500_000));
        // An image of every change is slow to make, and the same for each.
        let (new, again) = if torn == Torn::Image { (40_000, 4000) } else { (500_000, 100_000) };
        measure("random 100 B, new", new, 100, &mut small);
        measure("random 100 B, overwrite", again, 100, &mut small);
        let tree = engine.shape().tree.unwrap();
        println!(
            "{:11} {} leaves, fill {:.2}, {} splits",
            torn.name(),
            tree.leaf_pages,
            tree.fill,
            tree.splits
        );
    }
}

#[test]
fn readers_writers_and_checkpoints_at_once_never_see_old_bytes() {
    check_at_once(Duration::from_millis(700));
}

#[test]
#[ignore = "long: a minute of readers, a writer and checkpoints"]
fn readers_writers_and_checkpoints_at_once_never_see_old_bytes_for_a_minute() {
    check_at_once(Duration::from_secs(60));
}

fn check_at_once(span: Duration) {
    let sim = SimDisk::new();
    let options = Options { cache_bytes: 64 << 10, ..tiny() };
    let engine = open(sim.clone(), Arc::new(SystemClock::new()), &options).unwrap();
    let worker = Worker::start(engine.clone(), 0).unwrap();
    let stop = AtomicBool::new(false);
    let value = |key: u8, version: u64| {
        let mut value = version.to_le_bytes().to_vec();
        value.resize([40, 900, 2500, 9000][usize::from(key % 4)], key);
        value
    };
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let (engine, stop) = (&engine, &stop);
            scope.spawn(move || {
                let mut prng = Prng::new(reader);
                let mut newest = [0u64; 64];
                let mut check = |key: u8, bytes: &[u8]| {
                    let version = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                    assert!(bytes[8..].iter().all(|byte| *byte == key));
                    assert!(version >= newest[usize::from(key)], "key {key} went back");
                    newest[usize::from(key)] = version;
                };
                while !stop.load(Relaxed) {
                    let key = prng.below(64) as u8;
                    if prng.one_in(4) {
                        let visit: &mut Visit<'_> = &mut |key, bytes| {
                            check(key[0], bytes);
                            ControlFlow::Continue(())
                        };
                        engine.scan(KeyRange { start: &[key], end: None }, Tier::Disk, visit).unwrap();
                    } else if let Some(bytes) = engine.get(&[key], Tier::Disk).unwrap() {
                        check(key, &bytes);
                    }
                }
            });
        }
        let mut prng = Prng::new(9);
        let started = std::time::Instant::now();
        let mut version = 0;
        while started.elapsed() < span {
            version += 1;
            let mut batch = Batch::new(0);
            for _ in 0..3 {
                let key = prng.below(64) as u8;
                if prng.one_in(5) {
                    batch.delete(vec![key])
                } else {
                    batch.put(vec![key], value(key, version))
                }
            }
            let seen = engine.bell().seen(Class::Room);
            while let Err(error) = engine.apply(&batch, Tier::Disk) {
                assert!(matches!(error, Error::Busy { .. }), "{error}");
                engine.bell().wait(Class::Room, seen, RETRY_AFTER);
            }
        }
        stop.store(true, Relaxed);
        assert!(version > 200, "{version}");
    });
    worker.stop();
    run(&*engine, Command::Verify).unwrap();
    assert!(engine.shape().tree.unwrap().checkpoints > 5);
    engine.close().unwrap();
}
