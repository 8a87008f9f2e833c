//! The change buffer: readers and crashes must not see a difference.

use super::*;

/// The tree soon outgrows half of the dirty bytes, and then small puts are buffered.
fn crowded() -> Options {
    Options { dirty_bytes_max: 32 << 10, checkpoint_log_bytes: 64 << 10, ..tiny() }
}

fn small_key(prng: &mut Prng) -> Vec<u8> {
    format!("key {:04}", prng.below(600)).into_bytes()
}

/// Mostly small puts; at times a delete or a large value of the same keys, which are not buffered.
pub(super) fn small_batch(prng: &mut Prng) -> Batch {
    let mut batch = Batch::new(1);
    let (deletes, large) = (prng.one_in(6), prng.one_in(12));
    for _ in 0..1 + prng.below(12) {
        let key = small_key(prng);
        let length = 8 + prng.below(120) as usize;
        match (deletes && prng.one_in(2), large && prng.one_in(4)) {
            (true, _) => batch.delete(key),
            (_, true) => batch.put(key, vec![prng.bits() as u8; 2000 + length]),
            _ => batch.put(key, vec![prng.bits() as u8; length]),
        }
    }
    batch
}

fn small_work<'a>(modes: &'a [Mode], seed: u64, steps: u64) -> Workload<'a> {
    let page_bytes = if seed.is_multiple_of(3) { 8 << 10 } else { 4 << 10 };
    let options = Options { page_bytes, ..crowded() };
    Workload { modes, options, batch: small_batch, seed, steps, tear: Tear::Sectors }
}

fn waiting(engine: &BtreeEngine) -> u64 {
    engine.core.tree.read().buffer.len()
}

#[test]
fn puts_that_wait_are_seen_like_any_others() {
    for seed in 0..4 {
        let mut prng = Prng::new(seed);
        let options = Options {
            torn: if seed == 3 { Torn::Doublewrite } else { Torn::Delta },
            common: Common { cache_bytes: if seed % 2 == 0 { 0 } else { 64 << 10 }, ..crowded().common },
            ..crowded()
        };
        let mut disk = SimDisk::new();
        let mut engine = open_on(disk.clone(), &options).unwrap();
        let mut model = Map::new();
        let (mut most, mut merged) = (0, false);
        for step in 0..2000 {
            let what = format!("seed {seed} step {step}");
            match prng.below(20) {
                0..11 => {
                    let batch = small_batch(&mut prng);
                    apply(&engine, &batch).unwrap();
                    follow(&mut model, &batch);
                    most = most.max(waiting(&engine));
                }
                11..14 => {
                    let key = small_key(&mut prng);
                    let found = engine.get(&key, Tier::Disk).unwrap();
                    assert_eq!(found.as_deref(), model.get(&key).map(Vec::as_slice), "{what}");
                }
                14 => {
                    let (start, end) = (small_key(&mut prng), small_key(&mut prng));
                    let range = KeyRange { start: &start, end: (!prng.one_in(3)).then_some(end.as_slice()) };
                    let mut found = Vec::new();
                    engine
                        .scan(range, Tier::Disk, &mut |key, value| {
                            found.push((key.to_vec(), value.to_vec()));
                            ControlFlow::Continue(())
                        })
                        .unwrap();
                    let wanted: Vec<_> = model
                        .iter()
                        .filter(|(key, _)| **key >= start && range.is_before_end(key))
                        .map(|(key, value)| (key.clone(), value.clone()))
                        .collect();
                    assert_eq!(found, wanted, "{what}");
                }
                15..18 => {
                    let before = waiting(&engine);
                    engine.work(WorkClass::Flush).unwrap();
                    merged |= waiting(&engine) < before;
                }
                18 if step % 8 == 0 => {
                    run(&*engine, Command::Checkpoint).unwrap();
                    assert_eq!(waiting(&engine), 0, "{what}");
                    assert_eq!(log_bytes(&engine), 0, "{what}");
                    run(&*engine, Command::Verify).unwrap();
                }
                19 if step % 8 == 0 => {
                    if prng.one_in(2) {
                        engine.close().unwrap();
                    }
                    disk = disk.kill();
                    engine = open_on(disk.clone(), &options).unwrap();
                    run(&*engine, Command::Verify).unwrap();
                }
                _ => drop(engine.work(WorkClass::Log).unwrap()),
            }
        }
        assert_eq!(contents(&*engine).unwrap(), model);
        assert!(most > 50 && merged, "seed {seed}: {most} waited at most, merged {merged}");
        // A tree that loses everything else keeps the buffered puts.
        apply(&engine, &{
            let mut batch = Batch::new(1);
            batch.put(&b"a key"[..], &b"its value"[..]);
            batch
        })
        .unwrap();
        for key in model.keys() {
            let mut batch = Batch::new(0);
            batch.delete(key.clone());
            apply(&engine, &batch).unwrap();
        }
        let last = Map::from([(b"a key".to_vec(), b"its value".to_vec())]);
        assert_eq!(contents(&*engine).unwrap(), last);
        run(&*engine, Command::Checkpoint).unwrap();
        run(&*engine, Command::Verify).unwrap();
        assert_eq!(contents(&*engine).unwrap(), last);
    }
}

#[test]
fn a_crash_at_any_request_leaves_a_prefix_while_puts_wait() {
    crash_everywhere_in(&small_work(&[Mode::DELTA], 1, 60), 1);
    crash_everywhere_in(&small_work(&[Mode::DELTA], 3, 40), 1);
}

#[test]
fn a_crash_at_any_request_may_leave_nonsense_while_puts_wait() {
    crash_everywhere_in(&Workload { tear: Tear::Nonsense, ..small_work(&[Mode::DELTA], 3, 40) }, 1);
}

#[test]
fn a_crash_at_any_request_leaves_a_prefix_while_puts_wait_and_modes_change() {
    crash_everywhere_in(&small_work(&MODES, 2, 60), 1);
}

#[test]
fn a_killed_process_loses_no_put_that_waits() {
    for seed in 0..12 {
        let sim = SimDisk::new();
        let disk: Arc<dyn Disk> = sim.clone();
        let mut history = History::default();
        sim.stop_at(40 + seed * 37);
        let _ = workload_in(&small_work(&MODES, seed, 200), &disk, &mut history);
        history.synced = history.batches.iter().filter_map(|(lsn, _)| *lsn).max().unwrap_or(Lsn::ZERO);
        recovered(sim.kill(), &history, &format!("seed {seed}"));
    }
}

#[test]
fn a_full_disk_makes_no_put_wait_for_ever_and_loses_none() {
    for nth in 0..40 {
        let sim = SimDisk::new();
        let faulty = Faulty::new(sim.clone());
        let kind = Some(Request::Allocate);
        faulty.inject(Fault::Fail { kind, purpose: None, nth, errno: libc::ENOSPC });
        let disk: Arc<dyn Disk> = Latch::new(faulty.clone());
        let mut history = History::default();
        let result = workload_in(&small_work(&[Mode::DELTA], 1, 150), &disk, &mut history);
        if let Err(error) = &result {
            assert!(matches!(error, Error::NoSpace), "allocation {nth}: {error}");
        }
        if sim.list().unwrap().iter().any(|info| info.name == allocation_unit::FILE) {
            let engine = recovered_in(&crowded(), sim.kill(), &history, &format!("allocation {nth}"));
            run(&*engine, Command::Checkpoint).unwrap();
            run(&*engine, Command::Verify).unwrap();
        }
    }
}

/// A store whose tree outgrew its dirty bytes: keys 0..count with values of 100 bytes, all in their pages.
fn filled(disk: Arc<dyn Disk>, options: &Options, count: u64) -> Arc<BtreeEngine> {
    let engine = open_on(disk, options).unwrap();
    for number in 0..count {
        put(&engine, number, 1);
    }
    run(&*engine, Command::Checkpoint).unwrap();
    engine
}

fn put(engine: &BtreeEngine, number: u64, version: u8) {
    let mut batch = Batch::new(1);
    batch.put(number.to_be_bytes().to_vec(), vec![version; 100]);
    apply(engine, &batch).unwrap();
}

#[test]
fn puts_in_random_order_write_a_page_for_many() {
    let disk = Metered::new(SimDisk::new());
    let options = Options {
        dirty_bytes_max: 256 << 10,
        checkpoint_log_bytes: 4 << 20,
        common: Common { log_segment_bytes: 256 << 10, cache_bytes: 64 << 10, ..tiny().common },
        ..tiny()
    };
    let engine = filled(disk.clone(), &options, 8000);
    let leaves = engine.shape().tree.unwrap().leaf_pages;
    assert!(leaves * 4096 > 3 * options.dirty_bytes_max);
    let written = || engine.shape().tree.unwrap().pages.written.of_kind(PageKind::Leaf).pages;
    let before = written();
    let mut prng = Prng::new(4);
    for _ in 0..8000 {
        put(&engine, prng.below(8000), 2);
    }
    run(&*engine, Command::Checkpoint).unwrap();
    // Each leaf counts twice: its copy, and the page.
    let pages = (written() - before) / 2;
    assert!(pages * 3 < 8000, "{pages} pages written for 8000 puts into {leaves} leaves");
    run(&*engine, Command::Verify).unwrap();
}

/// The pages on the path to the key `number`, root first.
fn way_to(engine: &BtreeEngine, number: u64) -> Vec<PageNumber> {
    let tree = engine.core.tree.read();
    let mut loaded = LoadedPieces::default();
    loop {
        let mut way = Vec::new();
        match tree.leaf(&engine.core.pager, &loaded, &number.to_be_bytes(), |page, _| way.push(page)) {
            Ok(_) => return way,
            Err(Stop::Miss(miss)) => {
                let (unit, piece) = engine.core.pager.read(miss, Purpose::Get).unwrap();
                loaded.add(tree.epoch, unit, piece);
            }
            Err(Stop::Failed(error)) => panic!("{error}"),
        }
    }
}

/// Flips bits of a page, or flips them back.
fn turn(sim: &SimDisk, page: PageNumber) {
    (0..64).for_each(|bit| assert!(sim.flip_bit(allocation_unit::FILE, (page.offset() + 100) * 8 + bit)));
}

/// Random puts until a whole buffer merge must have passed; returns how many were refused.
fn busy_hours(engine: &BtreeEngine, puts: u64) -> u64 {
    let (mut prng, mut refused) = (Prng::new(6), 0);
    for _ in 0..puts {
        let mut batch = Batch::new(1);
        batch.put(prng.below(1000).to_be_bytes().to_vec(), vec![3; 100]);
        match apply(engine, &batch) {
            Ok(_) => {}
            Err(Error::Corrupt { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    refused
}

#[test]
fn a_page_that_cannot_be_read_stops_nothing_but_its_own_keys() {
    // A leaf; the page above it.
    for above in [1, 2] {
        let sim = SimDisk::new();
        let options = Options { common: Common { cache_bytes: 0, ..crowded().common }, ..crowded() };
        let engine = filled(sim.clone(), &options, 1000);
        let way = way_to(&engine, 500);
        assert!(way.len() >= 2);
        // With an unreadable root nothing is left to work on.
        let damaged = way[(way.len() - above).max(1)];
        turn(&sim, damaged);
        put(&engine, 500, 7);
        let refused = busy_hours(&engine, 5000);
        assert!(refused > 0 && refused < 2500, "{refused} of 5000 puts refused");
        // The key with a buffered put has it; a read of its neighbour fails, and so do new puts.
        let check = |engine: &BtreeEngine, what: &str| {
            let get = |number: u64| engine.get(&number.to_be_bytes(), Tier::Disk);
            let seen = get(500).unwrap_or_else(|error| panic!("{what}: {error}")).unwrap();
            assert!(seen == vec![7; 100] || seen == vec![3; 100], "{what}: {seen:?}");
            let failing = (0..1000).filter(|number| get(*number).is_err()).count();
            assert!(failing < 500, "{what}: {failing} of 1000 keys cannot be read");
            let mut batch = Batch::new(1);
            batch.put(500u64.to_be_bytes().to_vec(), vec![9; 100]);
            batch.put(10u64.to_be_bytes().to_vec(), vec![9; 100]);
            assert!(matches!(engine.apply(&batch, Tier::Disk), Err(Error::Corrupt { .. })), "{what}");
            let sentence = engine.shape().damage.unwrap();
            assert!(
                sentence.contains(allocation_unit::FILE) && sentence.contains("check --repair"),
                "{sentence}"
            );
        };
        check(&engine, "at once");
        // Checkpoints succeed, and changes that are set aside neither keep the log nor cause work.
        for round in 0..3 {
            busy_hours(&engine, 500);
            run(&*engine, Command::Checkpoint).unwrap();
            assert_eq!(log_bytes(&engine), 0, "round {round}");
            assert!(!engine.is_dirty());
            let kept = engine.core.log.end() - engine.core.tree.read().durable.recovery_lsn;
            assert!(kept < 200 << 10, "round {round}: {kept} bytes of log for what was set aside");
        }
        check(&engine, "after checkpoints");
        engine.close().unwrap();
        let mut disk = sim;
        for round in 0..3 {
            disk = if round == 1 { disk.crash(round) } else { disk.kill() };
            let engine = open_on(disk.clone(), &options).unwrap();
            busy_hours(&engine, 300);
            run(&*engine, Command::Checkpoint).unwrap();
            check(&engine, "opened again");
            if round == 2 {
                // The disk can read the page again: a checkpoint that is asked for finds out.
                turn(&disk, damaged);
                run(&*engine, Command::Checkpoint).unwrap();
                assert_eq!(engine.shape().damage, None);
                assert_eq!(contents(&*engine).unwrap().len(), 1000);
                put(&engine, 500, 9);
                run(&*engine, Command::Checkpoint).unwrap();
                run(&*engine, Command::Verify).unwrap();
                assert!(!engine.is_dirty());
                let seen = engine.get(&500u64.to_be_bytes(), Tier::Disk).unwrap().unwrap();
                assert_eq!(seen, vec![9; 100]);
            }
        }
    }
}

#[test]
fn opening_sets_aside_what_the_log_has_for_a_page_that_cannot_be_read() {
    for mode in MODES {
        let sim = SimDisk::new();
        let options = mode.of(Options { common: Common { cache_bytes: 0, ..large().common }, ..large() });
        let engine = filled(sim.clone(), &options, 1000);
        let damaged = *way_to(&engine, 500).last().unwrap();
        // Puts, deletes and large values of that leaf and of others, in batches together; the leaf is dirty when the process ends.
        for number in 480..520u64 {
            let mut batch = Batch::new(1);
            match number % 3 {
                0 => batch.delete(number.to_be_bytes().to_vec()),
                1 => batch.put(number.to_be_bytes().to_vec(), vec![5; 100]),
                _ => batch.put(number.to_be_bytes().to_vec(), vec![5; 5000]),
            }
            batch.put((number % 40).to_be_bytes().to_vec(), vec![6; 50]);
            apply(&engine, &batch).unwrap();
        }
        let model = contents(&*engine).unwrap();
        sync(&*engine).unwrap();
        let disk = sim.kill();
        turn(&disk, damaged);
        for round in 0..3 {
            let disk_of_round = disk.kill();
            let engine = open_on(disk_of_round.clone(), &options).unwrap();
            assert!(engine.shape().damage.is_some(), "{mode:?}");
            for number in (0..1000u64).map(u64::to_be_bytes) {
                match engine.get(&number, Tier::Disk) {
                    Ok(found) => assert_eq!(
                        found.as_ref().map(|value| &value[..]),
                        model.get(&number[..]).map(|value| &value[..])
                    ),
                    Err(error) => assert!(matches!(error, Error::Corrupt { .. }), "{error}"),
                }
            }
            let of_500 = engine.get(&500u64.to_be_bytes(), Tier::Disk).unwrap().unwrap();
            assert_eq!(of_500, vec![5; 5000], "{mode:?}");
            if round > 0 {
                engine.close().unwrap();
                let mut kinds = Vec::new();
                let mut note = |kind, _, _| {
                    kinds.push(kind);
                    Ok(())
                };
                crate::engine::wal::salvage::salvage(&*disk_of_round, None, Lsn::ZERO, &mut note).unwrap();
                // As FORMAT.md says.
                assert!(kinds.contains(&5), "{mode:?}: what is set aside is in the log: kinds {kinds:?}");
                // Whether the store was closed or not, a repair of the page brings everything back.
                turn(&disk, damaged);
                let engine = open_on(disk.kill(), &options).unwrap();
                assert_eq!(contents(&*engine).unwrap(), model, "{mode:?}");
                run(&*engine, Command::Verify).unwrap();
                turn(&disk, damaged);
            }
        }
    }
}

#[test]
fn a_neighbour_that_cannot_be_read_does_not_hinder_deletes() {
    let sim = SimDisk::new();
    let options = Options { common: Common { cache_bytes: 0, ..large().common }, ..large() };
    let engine = filled(sim.clone(), &options, 1000);
    let leaves: Vec<PageNumber> = (0..1000).map(|number| *way_to(&engine, number).last().unwrap()).collect();
    let at = (0..1000).find(|at| leaves[*at] == leaves[500]).unwrap();
    let end = (500..1000).find(|at| leaves[*at] != leaves[500]).unwrap();
    turn(&sim, leaves[end]);
    for number in at..end {
        let mut batch = Batch::new(1);
        batch.delete((number as u64).to_be_bytes().to_vec());
        apply(&engine, &batch).unwrap_or_else(|error| panic!("{number} of {at}..{end}: {error}"));
    }
    run(&*engine, Command::Checkpoint).unwrap();
}

#[test]
fn a_buffer_merge_that_ends_late_does_not_ask_for_log_that_is_gone() {
    let sim = SimDisk::new();
    let options = Options { dirty_bytes_max: 128 << 10, checkpoint_log_bytes: 256 << 10, ..crowded() };
    let engine = filled(sim.clone(), &options, 1500);
    (0..300).for_each(|number| put(&engine, number * 5, 2));
    assert_eq!(waiting(&engine), 300);
    // A buffer merge has begun when its puts leave the buffer in another way, and a checkpoint releases the log.
    engine.merger.step().unwrap();
    for number in 0..300u64 {
        let mut batch = Batch::new(1);
        batch.delete((number * 5).to_be_bytes().to_vec());
        apply(&engine, &batch).unwrap();
    }
    assert_eq!(waiting(&engine), 0);
    run(&*engine, Command::Checkpoint).unwrap();
    let recovery_lsn = engine.core.tree.read().durable.recovery_lsn;
    (0..20).for_each(|number| put(&engine, number * 7, 3));
    while waiting(&engine) > 0 {
        engine.merger.step().unwrap();
    }
    put(&engine, 1, 4);
    let mut job = Some(engine.checkpointer.freeze("command", false, true, Default::default()).unwrap());
    while !engine.checkpointer.advance(job.as_mut().unwrap()).unwrap() {}
    assert!(engine.core.tree.read().durable.recovery_lsn >= recovery_lsn);
    let engine = open_on(sim.kill(), &options).unwrap();
    assert_eq!(engine.get(&1u64.to_be_bytes(), Tier::Disk).unwrap().unwrap(), vec![4; 100]);
    run(&*engine, Command::Verify).unwrap();
}

#[test]
fn readers_and_buffer_merges_at_once_never_see_old_bytes() {
    let options = Options {
        dirty_bytes_max: 128 << 10,
        common: Common { cache_bytes: 64 << 10, ..crowded().common },
        ..crowded()
    };
    let engine = open(SimDisk::new(), Arc::new(SystemClock::new()), &options).unwrap();
    let worker = Worker::start(engine.clone()).unwrap();
    let stop = AtomicBool::new(false);
    const KEYS: u64 = 3000;
    let value = |number: u64, version: u64| {
        let mut value = version.to_le_bytes().to_vec();
        value.resize(8 + number as usize % 100, number as u8);
        value
    };
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let (engine, stop) = (&engine, &stop);
            scope.spawn(move || {
                let mut prng = Prng::new(reader);
                let mut newest = vec![0u64; KEYS as usize];
                let mut check = |key: &[u8], bytes: &[u8]| {
                    let number = u64::from_be_bytes(key.try_into().unwrap());
                    let version = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                    assert_eq!(bytes, value(number, version));
                    assert!(version >= newest[number as usize], "key {number} went back");
                    newest[number as usize] = version;
                };
                while !stop.load(Relaxed) {
                    let key = prng.below(KEYS).to_be_bytes();
                    if prng.one_in(8) {
                        let mut left = 300;
                        let visit: &mut Visit<'_> = &mut |key, bytes| {
                            check(key, bytes);
                            left -= 1;
                            if left > 0 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
                        };
                        engine.scan(KeyRange { start: &key, end: None }, Tier::Disk, visit).unwrap();
                    } else if let Some(bytes) = engine.get(&key, Tier::Disk).unwrap() {
                        check(&key, &bytes);
                    }
                }
            });
        }
        let mut prng = Prng::new(9);
        let started = std::time::Instant::now();
        let mut version = 0;
        while started.elapsed() < Duration::from_millis(900) {
            version += 1;
            let mut batch = Batch::new(0);
            for _ in 0..4 {
                let number = prng.below(KEYS);
                match prng.below(200) {
                    0 => batch.delete(number.to_be_bytes().to_vec()),
                    _ => batch.put(number.to_be_bytes().to_vec(), value(number, version)),
                }
            }
            let seen = engine.wake_signal().seen(WorkClass::Room);
            while let Err(error) = engine.apply(&batch, Tier::Disk) {
                assert!(matches!(error, Error::Busy { .. }), "{error}");
                engine.wake_signal().wait(WorkClass::Room, seen, RETRY_AFTER);
            }
        }
        stop.store(true, Relaxed);
    });
    worker.stop();
    run(&*engine, Command::Verify).unwrap();
    engine.close().unwrap();
}
