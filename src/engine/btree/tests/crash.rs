//! Crashes at any request, killed processes, requests that fail, full disks.

use super::*;

/// The batches of a workload, and the LSN up to which they are durable.
#[derive(Default)]
pub(super) struct History {
    /// Batches with their LSNs; the last may lack one, because the disk failed it.
    pub(super) batches: Vec<(Option<Lsn>, Batch)>,
    pub(super) synced: Lsn,
}

impl History {
    /// The states that a store whose log ends at `end` may have.
    fn states(&self, end: Lsn) -> Vec<Map> {
        let mut map = Map::new();
        let mut states = Vec::new();
        for (lsn, batch) in &self.batches {
            match lsn {
                Some(lsn) if *lsn <= end => follow(&mut map, batch),
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

/// The parameters of a workload.
#[derive(Clone)]
pub(super) struct Workload<'a> {
    /// The modes, of which each opening takes one.
    pub(super) modes: &'a [Mode],
    pub(super) options: Options,
    pub(super) batch: fn(&mut Prng) -> Batch,
    pub(super) seed: u64,
    pub(super) steps: u64,
    /// The result of writes during a power cut.
    pub(super) tear: Tear,
}

impl Workload<'_> {
    pub(super) fn new(modes: &[Mode], seed: u64, steps: u64) -> Workload<'_> {
        // Pages of more than one unit are written in parts.
        let page_bytes = if seed.is_multiple_of(3) { 16 << 10 } else { 4 << 10 };
        let options = Options { page_bytes, dirty_bytes_max: 128 << 10, ..tiny() };
        Workload { modes, options, batch: random_batch, seed, steps, tear: Tear::Sectors }
    }
}

/// Splits, frees, checkpoints, syncs and reopens (each time in one of the modes) until the disk refuses.
pub(super) fn workload_in(work: &Workload<'_>, disk: &Arc<dyn Disk>, history: &mut History) -> Result<()> {
    let Workload { modes, options, batch, seed, steps, .. } = work.clone();
    let mut prng = Prng::new(seed);
    let mode = |prng: &mut Prng| {
        let mode = modes[prng.below(modes.len() as u64) as usize];
        mode.of(Options { ..options.clone() })
    };
    let mut engine = open_on(disk.clone(), &mode(&mut prng))?;
    for _ in 0..steps {
        let batch = batch(&mut prng);
        loop {
            history.batches.push((None, batch.clone()));
            match engine.apply(&batch, Tier::Disk) {
                Ok(lsn) => {
                    history.batches.last_mut().unwrap().0 = Some(lsn);
                    break;
                }
                Err(Error::Busy { .. }) => {
                    history.batches.pop();
                    engine.work(WorkClass::Flush)?;
                }
                Err(Error::NoSpace) => {
                    history.batches.pop();
                    return Err(Error::NoSpace);
                }
                Err(error) => return Err(error),
            }
        }
        if prng.one_in(5) {
            let lsn = engine.lsn();
            sync(&*engine)?;
            history.synced = lsn;
        }
        if prng.one_in(3) {
            engine.work(WorkClass::Flush)?;
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
    history.synced = engine.lsn();
    Ok(())
}

/// The workload in the default mode.
pub(super) fn workload(disk: &Arc<dyn Disk>, seed: u64, steps: u64, history: &mut History) -> Result<()> {
    workload_in(&Workload::new(&[Mode::DELTA], seed, steps), disk, history)
}

/// Opens the store after a crash and checks the promise of durability; returns the engine.
pub(super) fn recovered(disk: Arc<SimDisk>, history: &History, what: &str) -> Arc<BtreeEngine> {
    recovered_in(&tiny(), disk, history, what)
}

pub(super) fn recovered_in(
    options: &Options,
    disk: Arc<SimDisk>,
    history: &History,
    what: &str,
) -> Arc<BtreeEngine> {
    let engine = open_on(disk, options).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(engine.lsn() >= history.synced, "{what}: an acknowledged sync is lost");
    let found = contents(&*engine).unwrap_or_else(|error| panic!("{what}: {error}"));
    assert!(history.states(engine.lsn()).contains(&found), "{what}: not a prefix");
    run(&*engine, Command::Verify).unwrap_or_else(|error| panic!("{what}: {error}"));
    engine
}

fn crash_everywhere(modes: &[Mode], seed: u64, steps: u64, images: u64) {
    crash_everywhere_in(&Workload::new(modes, seed, steps), images);
}

pub(super) fn crash_everywhere_in(work: &Workload<'_>, images: u64) {
    let seed = work.seed;
    // Any mode opens a store of another mode.
    let other = |at: u64| with(Mode::nth(at));
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
            let crashed = sim.crash_as(image, work.tear);
            // Power fails again during recovery, and only the second recovery ends.
            crashed.stop_at(Prng::new(stop * 8 + image).below(24));
            let _ = open_on(crashed.clone(), &other(stop + image));
            let disk = crashed.crash_as(image + 1, work.tear);
            let engine = recovered_in(&other(stop / 3 + image), disk.clone(), &history, &what);
            let mut batch = Batch::new(0);
            batch.put(&b"after"[..], vec![7; 3000]);
            apply(&engine, &batch).unwrap();
            if image % 2 == 0 {
                run(&*engine, Command::Checkpoint).unwrap();
            }
            sync(&*engine).unwrap();
            let engine = open_on(disk.crash_as(image + 2, work.tear), &other(stop / 9)).unwrap();
            assert_eq!(engine.get(b"after", Tier::Disk).unwrap().unwrap(), vec![7; 3000], "{what}");
            run(&*engine, Command::Verify).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }
}

#[test]
fn a_crash_at_any_request_leaves_a_prefix_that_holds_every_sync() {
    crash_everywhere(&[Mode::DELTA], 1, 40, 3);
}

#[test]
fn a_crash_at_any_request_leaves_a_prefix_with_other_batches() {
    crash_everywhere(&[Mode::DELTA], 2, 50, 2);
}

#[test]
fn a_crash_at_any_request_leaves_a_prefix_where_pages_are_written_in_parts() {
    crash_everywhere(&[Mode::DELTA], 12, 40, 2);
}

#[test]
fn a_crash_at_any_request_is_repaired_from_the_doublewrite_area() {
    crash_everywhere(&[Mode::DOUBLEWRITE], 1, 40, 3);
}

#[test]
fn a_crash_at_any_request_is_repaired_from_images_of_batches() {
    crash_everywhere(&[Mode::IMAGE], 1, 30, 3);
}

#[test]
fn a_crash_at_any_request_leaves_a_prefix_where_nothing_is_overwritten() {
    for seed in [1, 2, 12] {
        crash_everywhere(&[Mode::COW], seed, 40, 2);
        crash_everywhere(&[Mode::COW_EXTENT], seed, 60, 2);
    }
}

#[test]
fn a_crash_at_any_request_leaves_a_prefix_where_modes_change_at_every_opening() {
    crash_everywhere(&MODES, 9, 40, 2);
}

#[test]
fn a_crash_at_any_request_may_leave_nonsense_in_every_unit_that_was_being_written() {
    for (modes, seed) in [
        (&[Mode::DELTA][..], 12),
        (&[Mode::DOUBLEWRITE], 1),
        (&[Mode::IMAGE], 3),
        (&[Mode::COW, Mode::COW_EXTENT], 6),
        (&MODES, 9),
    ] {
        crash_everywhere_in(&Workload { tear: Tear::Nonsense, ..Workload::new(modes, seed, 30) }, 2);
    }
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
        history.synced = history.batches.iter().filter_map(|(lsn, _)| *lsn).max().unwrap_or(Lsn::ZERO);
        recovered(sim.kill(), &history, &format!("stop {stop}"));
    }
}

#[test]
fn any_request_may_fail_once() {
    fail_every_request(&Workload::new(&[Mode::DELTA], 4, 40));
}

#[test]
fn any_request_may_fail_once_where_pages_are_compressed() {
    fail_every_request(&Workload::new(&[Mode::COW, Mode::COW_EXTENT, Mode::DELTA], 6, 40));
}

fn fail_every_request(work: &Workload<'_>) {
    for kind in
        [Request::Read, Request::Write, Request::Sync, Request::SyncNames, Request::Name, Request::Allocate]
    {
        for nth in 0.. {
            let sim = SimDisk::new();
            let faulty = Faulty::new(sim.clone());
            faulty.inject(Fault::Fail { kind: Some(kind), purpose: None, nth, errno: libc::EIO });
            let mut history = History::default();
            let disk: Arc<dyn Disk> = Latch::new(faulty.clone());
            let result = workload_in(work, &disk, &mut history);
            if faulty.hits() == 0 {
                result.unwrap();
                assert!(nth > 0, "{kind:?} never asked");
                break;
            }
            // A spare log segment that cannot be removed does no harm. Puts for a page that cannot be read are set aside until it can.
            let may_heal = matches!(kind, Request::Name | Request::Read);
            assert!(result.is_err() || may_heal, "{kind:?} {nth} failed and nobody said so");
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
                        Err(Error::Busy { .. }) => drop(engine.work(WorkClass::Flush)),
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
                let _ = engine.work(WorkClass::Flush);
            }
            // Reads continue, and every accepted batch is there.
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
        if sim.list().unwrap().iter().any(|info| info.name == allocation_unit::FILE) {
            let again = sim.kill();
            again.set_capacity(None);
            let engine = recovered(again, &history, &format!("capacity {capacity}"));
            run(&*engine, Command::Checkpoint).unwrap();
            run(&*engine, Command::Verify).unwrap();
        }
    }
    assert!(refused > 20, "{refused}");
}
