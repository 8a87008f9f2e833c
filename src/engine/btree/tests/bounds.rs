//! The bound of the log, and the cost of opening that follows from it.

use super::*;
use crate::disk::Overlay;

/// Segments, pages and dirty bytes in the proportions of a mount, about a hundred times smaller.
fn scaled(mode: Mode) -> Options {
    mode.of(Options {
        dirty_bytes_max: 512 << 10,
        checkpoint_log_bytes: 1 << 20,
        common: Common { log_segment_bytes: 64 << 10, cache_bytes: 256 << 10, ..tiny().common },
        ..tiny()
    })
}

/// Applies a batch, and does the work that it waits for, until it is accepted or refused.
fn patiently(engine: &BtreeEngine, batch: &Batch) -> Result<Lsn> {
    for _ in 0..3000 {
        match engine.apply(batch, Tier::Disk) {
            Err(Error::Busy { .. }) => _ = engine.work(WorkClass::Flush)?,
            other => return other,
        }
    }
    panic!("a batch waits for ever");
}

fn small(number: u64, version: u8) -> Batch {
    let mut batch = Batch::new(1);
    batch.put([b"small".as_slice(), &number.to_be_bytes()].concat(), vec![version; 200]);
    batch
}

fn large(number: u64, version: u8) -> Batch {
    let mut batch = Batch::new(1);
    batch.put([b"large".as_slice(), &number.to_be_bytes()].concat(), vec![version; 20_000]);
    batch
}

/// A tree much larger than its dirty bytes, so that small puts are buffered, and some large values.
fn store_with_waiting_puts(options: &Options) -> (Arc<SimDisk>, Arc<BtreeEngine>) {
    let sim = SimDisk::new();
    let engine = open_on(sim.clone(), options).unwrap();
    for number in 0..4000u64 {
        patiently(&engine, &small(number, 1)).unwrap();
    }
    for number in 0..50u64 {
        patiently(&engine, &large(number, 0)).unwrap();
    }
    run(&*engine, Command::Checkpoint).unwrap();
    (sim, engine)
}

fn log_file_bytes(disk: &SimDisk) -> u64 {
    let files = disk.list().unwrap();
    files.iter().filter(|info| info.name.starts_with("log.")).map(|info| info.bytes).sum()
}

fn used_bytes(sim: &SimDisk) -> u64 {
    let space = sim.space().unwrap();
    space.total_bytes - space.free_bytes
}

#[test]
fn puts_that_wait_hold_no_more_of_the_log_than_its_bound_and_cost_no_space_at_opening() {
    for (mode, waiters) in MODES.into_iter().flat_map(|mode| [1, 200, 2000].map(|waiters| (mode, waiters))) {
        let what = format!("{mode:?}, {waiters} waiters");
        let options = scaled(mode);
        let (sim, engine) = store_with_waiting_puts(&options);
        let mut model = contents(&*engine).unwrap();
        let before = engine.shape().tree.unwrap().checkpoints;
        let (mut most, mut unreleased) = (0, 0);
        for step in 0..600u64 {
            if step < waiters {
                for nth in 0..=waiters / 600 {
                    let batch = small((step * 4 + nth) * 79 % 4000, 2);
                    patiently(&engine, &batch).unwrap();
                    follow(&mut model, &batch);
                }
            }
            let batch = large(step % 50, step as u8);
            patiently(&engine, &batch).unwrap();
            follow(&mut model, &batch);
            if step % 3 == 0 {
                engine.work(WorkClass::Flush).unwrap();
                engine.work(WorkClass::Log).unwrap();
            }
            most = most.max(log_file_bytes(&sim));
            unreleased = unreleased.max(engine.core.log.unreleased_bytes());
        }
        assert!(
            engine.shape().tree.unwrap().checkpoints > before + 5,
            "12 MB went through 512 KiB of dirty bytes"
        );
        let bound = options.checkpoint_log_bytes + options.common.log_segment_bytes;
        assert!(most <= bound, "{what}: {most} bytes of log, bound {bound}");
        assert!(unreleased <= options.checkpoint_log_bytes, "{what}: {unreleased} bytes at most");
        assert!(unreleased > options.checkpoint_log_bytes / 4, "{what}: {unreleased} bytes at most");
        // After a kill no byte of the disk is free: the values must not need new places.
        let mut disk = sim.kill();
        for _ in 0..3 {
            disk.set_capacity(Some(used_bytes(&disk)));
            let engine = open_on(disk.clone(), &options).unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(contents(&*engine).unwrap(), model, "{what}");
            let dirty = engine.shape().memory.dirty_bytes.unwrap();
            assert!(dirty <= options.dirty_bytes_max, "{what}: {dirty} dirty bytes after opening");
            disk = disk.kill();
            disk.set_capacity(Some(used_bytes(&disk)));
            let (requests, view) = (disk.requests(), Overlay::new(disk.clone()));
            let engine =
                open_on(view, &options).unwrap_or_else(|error| panic!("{what}, only to read: {error}"));
            assert_eq!(contents(&*engine).unwrap(), model, "{what}");
            assert_eq!(disk.requests(), requests, "{what}: nothing is written or taken below");
        }
    }
}

/// With the memory that the log was written with, opening costs no more than reading the log twice, plus the cost of a small store. With
/// an eighth of it, values and pages are written in between, and puts all over the tree are merged: that reads each leaf, 1 MB in all, and
/// writes it twice.
#[test]
fn opening_reads_and_writes_no_more_than_a_few_times_the_log() {
    for (mode, memory) in MODES.into_iter().flat_map(|mode| [1, 8].map(|memory| (mode, memory))) {
        let what = format!("{mode:?}, memory / {memory}");
        let options = scaled(mode);
        let (sim, engine) = store_with_waiting_puts(&options);
        let (times, fixed_bytes) = if memory == 1 { (2, 256 << 10) } else { (4, 3 << 20) };
        for step in 0..200u64 {
            for nth in 0..4 {
                patiently(&engine, &small((step * 4 + nth) * 79 % 4000, 2)).unwrap();
            }
            patiently(&engine, &large(step % 50, step as u8)).unwrap();
            if step % 10 < 9 {
                continue;
            }
            let log_bytes = engine.core.log.unreleased_bytes();
            let metered = Metered::new(sim.kill());
            let opened = Options { dirty_bytes_max: options.dirty_bytes_max / memory, ..options.clone() };
            let _opened = open_on(metered.clone(), &opened).unwrap();
            let total = metered.snapshot().total();
            let moved = total.read_bytes + total.write_bytes;
            assert!(
                moved <= times * log_bytes + fixed_bytes,
                "{what} step {step}: {moved} bytes for a log of {log_bytes}"
            );
        }
    }
}

#[test]
fn a_single_put_that_waits_lets_the_log_go() {
    let options = scaled(Mode::DELTA);
    let (sim, engine) = store_with_waiting_puts(&options);
    patiently(&engine, &small(7, 9)).unwrap();
    // There is never a buffer merge: checkpoints begin because of large values.
    for step in 0..300u64 {
        patiently(&engine, &large(step % 50, step as u8)).unwrap();
    }
    assert_eq!(engine.core.tree.read().buffer.len(), 1);
    let behind = engine.core.log.end() - engine.core.tree.read().durable.recovery_lsn;
    assert!(
        behind <= 2 * options.dirty_bytes_max,
        "{behind} bytes behind the recovery LSN, for 6 MB written"
    );
    let opened = open_on(sim.kill(), &options).unwrap();
    assert_eq!(opened.core.tree.read().buffer.len(), 1);
    assert_eq!(contents(&*opened).unwrap(), contents(&*engine).unwrap());
}

#[test]
fn a_store_that_was_closed_or_left_alone_is_opened_without_its_log() {
    let options = scaled(Mode::DELTA);
    let (sim, engine) = store_with_waiting_puts(&options);
    for number in 0..500 {
        patiently(&engine, &small(number * 8, 3)).unwrap();
    }
    run(&*engine, Command::Checkpoint).unwrap();
    let model = contents(&*engine).unwrap();
    let disk = sim.kill();
    let engine = open_on(disk.clone(), &options).unwrap();
    assert_eq!((engine.shape().tree.unwrap().recovery_bytes, engine.is_dirty()), (0, false));
    assert_eq!(contents(&*engine).unwrap(), model);
    patiently(&engine, &small(8, 4)).unwrap();
    engine.close().unwrap();
    let engine = open_on(disk.crash(1), &options).unwrap();
    assert_eq!(engine.shape().tree.unwrap().recovery_bytes, 0);
    run(&*engine, Command::Verify).unwrap();
}

/// Gives the newest meta page of the store the format from before `replay_all`.
fn make_old(sim: &SimDisk) {
    let file = sim.open(allocation_unit::FILE).unwrap();
    let mut meta = pager::read_meta(&*file).unwrap();
    meta.sequence += 1;
    let payload = meta.encode()[crate::engine::frame::HEADER_BYTES..][..19 * 8].to_vec();
    let mut slot = crate::engine::frame::encode(1, meta.offset(), &payload);
    slot.resize(meta::META_BYTES, 0);
    file.write_at(Purpose::Manifest, meta.offset(), &slot).unwrap();
}

/// Makes a whole checkpoint without a buffer merge.
fn checkpoint_without_merge(engine: &BtreeEngine) {
    let mut job = Some(engine.checkpointer.freeze("command", false, true, Default::default()).unwrap());
    while !engine.checkpointer.advance(job.as_mut().unwrap()).unwrap() {}
}

#[test]
fn a_log_of_an_older_store_is_replayed_whole() {
    for is_old in [true, false] {
        let options = scaled(Mode::DELTA);
        let (sim, engine) = store_with_waiting_puts(&options);
        patiently(&engine, &small(7, 9)).unwrap();
        // An older program had set aside a delete and logged it again; the pages lack it.
        let mut delete = Batch::new(0);
        delete.delete([b"large".as_slice(), &3u64.to_be_bytes()].concat());
        engine.core.log.append_batch(FIRST_KIND, Purpose::Wal, &delete).unwrap();
        patiently(&engine, &large(4, 44)).unwrap();
        checkpoint_without_merge(&engine);
        let state = engine.core.tree.read().durable;
        assert!(state.recovery_lsn < state.lsn);
        let disk = sim.kill();
        if is_old {
            make_old(&disk);
        }
        for _ in 0..2 {
            let engine = open_on(disk.kill(), &options).unwrap();
            let get = |batch: &Batch| engine.get(batch.operations()[0].key(), Tier::Disk).unwrap();
            assert_eq!(get(&small(7, 0)).unwrap(), vec![9; 200]);
            assert_eq!(get(&large(4, 0)).unwrap(), vec![44; 20_000]);
            assert_eq!(get(&delete).is_none(), is_old, "what an older store has");
            // The next state may still begin in that part of the log.
            checkpoint_without_merge(&engine);
            run(&*engine, Command::Verify).unwrap();
        }
    }
}
