//! Replay with less memory than the log was written with: its checkpoints, crashes in them, and its cost.

use super::change_buffer::small_batch;
use super::crash::recovered_in;
use super::*;

/// So much memory and log that a whole workload must be replayed.
fn roomy(mode: Mode) -> Options {
    mode.of(Options {
        dirty_bytes_max: 4 << 20,
        checkpoint_log_bytes: 16 << 20,
        common: Common { log_segment_bytes: 64 << 10, cache_bytes: 1 << 20, ..tiny().common },
        ..tiny()
    })
}

/// So little memory that the replay takes many checkpoints.
fn tight(mode: Mode) -> Options {
    mode.of(Options { dirty_bytes_max: 32 << 10, checkpoint_log_bytes: 64 << 10, ..tiny() })
}

/// Batches of every kind: small puts, deletes, large values.
fn mixed_batch(prng: &mut Prng) -> Batch {
    if prng.one_in(2) { small_batch(prng) } else { random_batch(prng) }
}

/// A store that was closed in the middle, with buffered puts if `waits`, and then used until a power cut or a kill.
fn interrupted(mode: Mode, seed: u64, steps: u64, waits: bool) -> (Arc<SimDisk>, History) {
    let sim = SimDisk::new();
    let mut history = History::default();
    let disk: Arc<dyn Disk> = sim.clone();
    let options = if waits { tight(mode) } else { roomy(mode) };
    let modes = [mode];
    let work = Workload { modes: &modes, options, batch: mixed_batch, seed, steps, tear: Tear::Sectors };
    sim.stop_at(if waits { 300 + seed * 71 } else { u64::MAX });
    let _ = workload_without_end(&work, &disk, &mut history);
    (sim, history)
}

/// As [`workload_in`], but the engine is neither opened anew nor closed.
fn workload_without_end(work: &Workload<'_>, disk: &Arc<dyn Disk>, history: &mut History) -> Result<()> {
    let engine = open_on(disk.clone(), &work.modes[0].of(work.options.clone()))?;
    let mut prng = Prng::new(work.seed);
    for _ in 0..work.steps {
        let batch = (work.batch)(&mut prng);
        history.batches.push((None, batch.clone()));
        loop {
            match engine.apply(&batch, Tier::Disk) {
                Ok(lsn) => break history.batches.last_mut().unwrap().0 = Some(lsn),
                Err(Error::Busy { .. }) => _ = engine.work(WorkClass::Flush)?,
                Err(error) => return Err(error),
            }
        }
        if prng.one_in(6) {
            let lsn = engine.lsn();
            sync(&*engine)?;
            history.synced = lsn;
        }
        if prng.one_in(3) && work.options.dirty_bytes_max < 1 << 20 {
            engine.work(WorkClass::Flush)?;
        }
    }
    Ok(())
}

#[test]
fn replay_keeps_within_the_dirty_bytes_that_it_has_now() {
    for mode in MODES {
        for seed in 0..3 {
            let (sim, history) = interrupted(mode, seed, 1500, false);
            let options = tight(Mode::nth(seed));
            let engine = recovered_in(&options, sim.kill(), &history, &format!("{mode:?} seed {seed}"));
            let shape = engine.shape();
            let tree = shape.tree.unwrap();
            assert!(tree.checkpoints > 10, "{mode:?} seed {seed}: {} checkpoints", tree.checkpoints);
            let (dirty, most) = (shape.memory.dirty_bytes.unwrap(), options.dirty_bytes_max);
            assert!(dirty <= most, "{mode:?} seed {seed}: {dirty} dirty bytes, at most {most}");
            assert!(tree.recovery_bytes > 10 * most, "{tree:?}");
        }
    }
}

#[test]
fn a_crash_at_any_request_of_a_replay_is_gone_on_from() {
    for (nth, mode) in MODES.into_iter().enumerate() {
        for (seed, tear, waits) in
            [(0, Tear::Sectors, false), (1, Tear::Nonsense, true), (2, Tear::Nonsense, false)]
        {
            let (sim, history) =
                interrupted(mode, seed + 10 * nth as u64, if waits { 400 } else { 50 }, waits);
            let base = if seed == 2 { sim.crash_as(seed, tear) } else { sim.kill() };
            let other = |at: u64| tight(Mode::nth(at));
            // With dirty bytes of two pages even a few changes are too many.
            let few = |at: u64| Options { dirty_bytes_max: 12 << 10, ..other(at) };
            let whole = base.kill();
            let engine = open_on(whole.clone(), &few(nth as u64)).unwrap();
            assert!(waits || engine.shape().tree.unwrap().checkpoints > 2, "{mode:?} seed {seed}");
            for stop in 0..=whole.requests() {
                let what = format!("{mode:?} seed {seed} stop {stop}");
                let disk = base.kill();
                disk.stop_at(stop);
                let _ = open_on(disk.clone(), &few(nth as u64));
                for image in 0..2 {
                    // Power fails a second time, at another request.
                    let crashed = disk.crash_as(stop + image, tear);
                    crashed.stop_at(Prng::new(stop * 2 + image).below(60));
                    let _ = open_on(crashed.clone(), &few(stop + image));
                    recovered_in(&other(image), crashed.crash_as(image, tear), &history, &what);
                }
                recovered_in(&other(stop), disk.kill(), &history, &format!("{what}, killed"));
            }
        }
    }
}

#[test]
fn a_request_of_a_replay_may_fail_once() {
    for mode in MODES {
        let (sim, history) = interrupted(mode, 5, 60, false);
        for errno in [libc::EIO, libc::ENOSPC] {
            for nth in 0.. {
                let base = sim.kill();
                let faulty = Faulty::new(base.clone());
                faulty.inject(Fault::Fail { kind: None, purpose: None, nth, errno });
                let disk: Arc<dyn Disk> = Latch::new(faulty.clone());
                let options = Options { dirty_bytes_max: 12 << 10, ..tight(mode) };
                let what = format!("{mode:?}: request {nth} fails with {errno}");
                let opened = open_on(disk, &options).is_ok();
                if faulty.hits() == 0 {
                    assert!(opened && nth > 50, "{what}");
                    break;
                }
                recovered_in(&tight(mode), base.kill(), &history, &what);
                recovered_in(&tight(mode), base.crash(nth), &history, &what);
            }
        }
    }
}

#[test]
fn a_disk_without_room_for_checkpoints_is_opened_all_the_same() {
    for mode in MODES {
        let (sim, history) = interrupted(mode, 7, 600, false);
        let disk = sim.kill();
        // As in a store from before a part of the area was kept.
        disk.remove(doublewrite::FILE).unwrap();
        let space = disk.space().unwrap();
        disk.set_capacity(Some(space.total_bytes - space.free_bytes));
        let options = tight(mode);
        let engine = recovered_in(&options, disk.clone(), &history, &format!("{mode:?}"));
        // Where nothing is overwritten, no room for copies is needed.
        let is_too_much = engine.shape().memory.dirty_bytes.unwrap() > options.dirty_bytes_max;
        assert_eq!(is_too_much, mode.pages == Placement::InPlace, "{mode:?}");
        disk.set_capacity(None);
        run(&*engine, Command::Checkpoint).unwrap();
        run(&*engine, Command::Verify).unwrap();
    }
}
