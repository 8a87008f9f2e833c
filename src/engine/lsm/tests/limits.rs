//! Limits: writers that wait, merges that do not fit, and who learns what of it.

use super::full_disk::{delete, log_bytes, on_a_small_disk};
use super::*;
use crate::disk::{Fault, Faulty};

#[test]
fn writers_are_delayed_then_stopped_and_let_go_again() {
    let clock = Arc::new(ManualClock::default());
    let engine = open(SimDisk::new(), clock.clone(), &Options::tiny()).unwrap();
    let mut number = 0;
    let mut fill = |engine: &LsmEngine| loop {
        let mut batch = Batch::new(0);
        number += 1;
        batch.put(format!("key{}", number % 7).into_bytes(), vec![0; 500]);
        if let Err(error) = engine.apply(&batch, Tier::Disk) {
            return error;
        }
    };
    assert!(matches!(fill(&engine), Error::Busy { cause: Cause::Memtables, .. }));
    let seen = engine.wake_signal().seen(WorkClass::Room);
    // Flushes alone pile up L0: first the rate, then the door.
    let mut slowed = 0;
    loop {
        while engine.work(WorkClass::Flush).unwrap() == Pending::More {}
        match fill(&engine) {
            Error::Busy { cause: Cause::Memtables, .. } => {}
            Error::Busy { cause: Cause::L0Files, retry_after } if engine.shape().debt.l0_files < 10 => {
                slowed += 1;
                assert!(retry_after < Duration::from_millis(2), "{retry_after:?}");
                clock.advance(retry_after);
            }
            Error::Busy { cause: Cause::L0Files, .. } => break,
            error => panic!("{error}"),
        }
    }
    assert!(slowed > 0 && engine.wake_signal().seen(WorkClass::Room) > seen);
    let stalls = engine.shape().stalls;
    assert_eq!(stalls.now, Some(Cause::L0Files));
    assert!(stalls.by_cause.of(Cause::L0Files).slowdowns > 0);
    assert!(stalls.by_cause.of(Cause::Memtables).stops > 0);
    settle(&*engine).unwrap();
    let mut batch = Batch::new(0);
    batch.put(&b"k"[..], &b"v"[..]);
    engine.apply(&batch, Tier::Disk).unwrap();
    assert_eq!(engine.shape().stalls.now, None);
}

#[test]
fn a_full_disk_refuses_data_and_keeps_what_it_has() {
    let disk = SimDisk::new();
    let engine = open_tiny(disk.clone()).unwrap();
    disk.set_capacity(Some(80 << 10));
    let (mut prng, mut model) = (Prng::new(6), Model::new());
    let refused = (1..5000).find_map(|number| {
        let batch = random_batch(&mut prng, number);
        match apply_patiently(&*engine, &batch) {
            Ok(_) => {
                apply_to(&mut model, &batch);
                for filler in 0..4 {
                    let mut more = Batch::new(0);
                    let key = format!("fill{number}-{filler}").into_bytes();
                    more.put(key, vec![7; 200]);
                    if apply_patiently(&*engine, &more).is_ok() {
                        apply_to(&mut model, &more);
                    }
                }
                None
            }
            Err(error) => Some(error),
        }
    });
    assert!(matches!(refused, Some(Error::NoSpace)), "{refused:?}");
    assert_eq!(contents(&*engine).unwrap(), model);
    assert_eq!(contents(&*open_tiny(disk.kill()).unwrap()).unwrap(), model);
    disk.set_capacity(None);
    settle(&*engine).unwrap();
    run(&*engine, Command::Verify).unwrap();
    assert_eq!(contents(&*engine).unwrap(), model);
}

#[test]
fn a_writer_learns_why_there_is_no_room() {
    let faulty = Faulty::new(SimDisk::new());
    let engine = open_tiny(Latch::new(faulty.clone())).unwrap();
    faulty.inject(Fault::Fail { kind: None, purpose: Some(Purpose::Flush), nth: 0, errno: libc::EIO });
    let fill = || {
        (0..1000).find_map(|number: u32| {
            let mut batch = Batch::new(0);
            batch.put(number.to_be_bytes().to_vec(), vec![0; 100]);
            engine.apply(&batch, Tier::Disk).err()
        })
    };
    assert!(matches!(fill(), Some(Error::Busy { cause: Cause::Memtables, .. })));
    assert!(engine.work(WorkClass::Flush).is_err());
    let error = fill();
    assert!(matches!(error, Some(Error::Io { .. } | Error::Poisoned(_))), "{error:?}");
}

/// A store whose policy wants a merge, on a disk that has no room for it.
fn short_of_room_for_a_merge() -> (Arc<SimDisk>, Arc<LsmEngine>) {
    let disk = SimDisk::new();
    let engine = open_tiny(disk.clone()).unwrap();
    let mut prng = Prng::new(3);
    while engine.shape().debt.l0_files < 4 {
        if engine.apply(&random_batch(&mut prng, 1), Tier::Disk).is_err() {
            engine.work(WorkClass::Flush).unwrap();
        }
    }
    let used: u64 = disk.list().unwrap().iter().map(|info| info.bytes).sum();
    disk.set_capacity(Some(used + 100));
    (disk, engine)
}

#[test]
fn a_merge_that_would_not_fit_waits() {
    let (disk, engine) = short_of_room_for_a_merge();
    let found = contents(&*engine).unwrap();
    assert!(matches!(engine.work(WorkClass::Merge), Ok(Pending::After(_))));
    assert!(engine.shape().jobs[0].contains("waits"), "{:?}", engine.shape().jobs);
    disk.set_capacity(None);
    settle(&*engine).unwrap();
    assert!(engine.shape().jobs.is_empty() && engine.shape().debt.l0_files < 2);
    assert_eq!(contents(&*engine).unwrap(), found);
}

#[test]
fn a_merge_that_begins_or_has_just_ended_is_not_one_that_found_no_space() {
    let (disk, engine) = short_of_room_for_a_merge();
    assert!(matches!(engine.work(WorkClass::Merge), Ok(Pending::After(_))));
    let shortage = &engine.levels.core.space.shortage;
    assert!(shortage.has_merge_trouble());
    disk.set_capacity(None);
    // Who deletes while the first step is done waits for it.
    let ControlFlow::Continue((subcompaction, _)) = engine.levels.compactor.take_subcompaction().unwrap()
    else {
        panic!("it fits")
    };
    assert!(!shortage.has_merge_trouble());
    let mut running = engine.levels.compactor.running_jobs();
    running.stepping -= 1;
    running.resting.push(subcompaction);
    // Another one finds no space meanwhile; when the first one has ended, nobody knows whether it still does not.
    running.waiting = Some("no space for another".to_string());
    drop(running);
    while !engine.levels.compactor.running_jobs().jobs.is_empty() {
        assert_eq!(engine.work(WorkClass::Merge).unwrap(), Pending::More);
        assert!(!shortage.has_merge_trouble());
    }
}

/// A store of four tables of one window, and the number of its keys.
fn with_a_window_to_merge(disk: Arc<SimDisk>) -> (Arc<LsmEngine>, u32) {
    let engine = open_with(disk, &on_a_small_disk(PolicyKind::TIME_WINDOW, false)).unwrap();
    let mut number = 0u32;
    while engine.shape().debt.l0_files < 4 {
        let mut batch = Batch::new(0);
        batch.put(number.to_be_bytes().to_vec(), vec![7; 16 << 10]);
        if engine.apply(&batch, Tier::Disk).is_ok() {
            number += 1;
        } else {
            engine.work(WorkClass::Flush).unwrap();
        }
    }
    (engine, number)
}

/// What is deleted lies in tables that a merge has, which began before and holds no tombstone.
#[test]
fn who_could_have_room_after_a_merge_that_has_just_begun_waits_for_it() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(24 << 20));
    let (engine, number) = with_a_window_to_merge(disk.clone());
    let ControlFlow::Continue((subcompaction, _)) = engine.levels.compactor.take_subcompaction().unwrap()
    else {
        panic!("four tables of a window are merged")
    };
    (0..number).for_each(|number| delete(&engine, number).unwrap());
    run(&*engine, Command::Flush).unwrap();
    let full_bytes = level_bytes(&engine);
    let mut batch = Batch::new(0);
    batch.put(&b"new"[..], vec![7; 16 << 10]);
    for _ in 0..4 {
        // Others take what is free, also what the log keeps for use again.
        engine.log.give_back();
        let space = disk.space().unwrap();
        disk.set_capacity(Some(space.total_bytes - space.free_bytes));
        engine.levels.core.space.guard.look_again();
        let refused = engine.apply(&batch, Tier::Disk).unwrap_err();
        assert!(matches!(refused, Error::Busy { cause: Cause::Space, .. }), "{refused}");
        engine.work(WorkClass::Merge).unwrap();
    }
    // A batch was refused meanwhile, and it was looked for what can be cleaned.
    assert!(
        !engine.levels.core.space.shortage.outlook().is_exhausted,
        "what the merge holds is cleaned after it"
    );
    let mut running = engine.levels.compactor.running_jobs();
    assert_eq!(running.jobs.len(), 1, "no merge of the policy takes the room meanwhile");
    // It finds no room, and lets its tables go: now they are cleaned.
    running.stepping -= 1;
    running.give_up(subcompaction.job);
    drop(running);
    while engine.work(WorkClass::Merge).unwrap() == Pending::More {}
    let left_bytes = level_bytes(&engine);
    assert!(left_bytes < full_bytes / 8, "{left_bytes} of {full_bytes}");
}

/// It has begun and written nothing yet, however long that takes: what it may take comes back all the same.
#[test]
fn who_has_room_beside_what_a_merge_may_take_waits_before_it_has_written_anything() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(64 << 20));
    let (engine, _) = with_a_window_to_merge(disk.clone());
    let ControlFlow::Continue((subcompaction, _)) = engine.levels.compactor.take_subcompaction().unwrap()
    else {
        panic!("four tables of a window are merged")
    };
    run(&*engine, Command::Flush).unwrap();
    let budget = &engine.levels.core.space;
    let owed_bytes = budget.merge_owed_bytes();
    assert!(owed_bytes > 256 << 10 && budget.temporary_bytes() == 0, "{owed_bytes}");
    // Room for a memtable and the reserve, but not for the merge beside them.
    engine.log.give_back();
    let space = disk.space().unwrap();
    let used_bytes = space.total_bytes - space.free_bytes;
    disk.set_capacity(Some(used_bytes + budget.guard.reserve_bytes() + (512 << 10)));
    engine.levels.core.space.guard.look_again();
    let mut batch = Batch::new(0);
    batch.put(&b"new"[..], vec![7; 16 << 10]);
    for _ in 0..4 {
        let refused = engine.apply(&batch, Tier::Disk).unwrap_err();
        assert!(matches!(refused, Error::Busy { cause: Cause::Space, .. }), "{refused}");
        engine.work(WorkClass::Merge).unwrap();
    }
    let mut running = engine.levels.compactor.running_jobs();
    running.stepping -= 1;
    running.resting.push(subcompaction);
    drop(running);
    while engine.work(WorkClass::Merge).unwrap() == Pending::More {}
    apply_patiently(&*engine, &batch).unwrap();
}

/// It would end what lies above: changes that were taken there could not be written any more.
#[test]
fn a_merge_that_gives_no_space_back_leaves_what_others_owe() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(64 << 20));
    let (engine, _) = with_a_window_to_merge(disk.clone());
    let free_bytes = disk.space().unwrap().free_bytes;
    let begins = || {
        let taken = engine.levels.compactor.take_subcompaction().unwrap();
        matches!(taken, ControlFlow::Continue(_))
    };
    engine.levels.note_above(free_bytes);
    assert!(!begins());
    engine.levels.note_above(0);
    assert!(begins());
}

/// Who looked before a batch was refused found no space: that says nothing of what can be cleaned for it.
#[test]
fn who_is_refused_waits_until_somebody_has_looked_for_it() {
    let disk = SimDisk::new();
    let (engine, _) = with_a_window_to_merge(disk.clone());
    run(&*engine, Command::Flush).unwrap();
    engine.log.give_back();
    let space = disk.space().unwrap();
    disk.set_capacity(Some(space.total_bytes - space.free_bytes));
    engine.levels.core.space.guard.look_again();
    let mut batch = Batch::new(0);
    batch.put(&b"new"[..], vec![7; 200]);
    let refused = || engine.apply(&batch, Tier::Disk).unwrap_err();
    let shortage = &engine.levels.core.space.shortage;
    let looked = shortage.changes();
    assert!(matches!(engine.work(WorkClass::Merge), Ok(Pending::After(_))));
    // The first one has it looked for what can be cleaned.
    assert!(matches!(refused(), Error::Busy { .. }));
    // A look that began before comes to its end now.
    shortage.note_look(looked, true, true);
    shortage.note_merge(Some(engine.levels.core.space.trouble(Error::NoSpace)));
    assert!(matches!(refused(), Error::Busy { .. }));
    let _ = engine.work(WorkClass::Merge);
    assert!(matches!(refused(), Error::NoSpace));
}

/// Overwrites the same eight keys for ever, as a database does with its log; no memtable is ever full of them.
fn overwrite(engine: &LsmEngine, rounds: u32, value_bytes: usize) -> Result<()> {
    for round in 0..rounds {
        let mut batch = Batch::new(0);
        batch.put(format!("hot{}", round % 8).into_bytes(), vec![round as u8; value_bytes]);
        loop {
            match engine.apply(&batch, Tier::Disk) {
                // As little as a background thread would do in time.
                Err(Error::Busy { .. }) => drop(engine.work(WorkClass::Flush)?),
                other => break other.map(drop)?,
            }
        }
        if round % 50 == 0 {
            settle(engine)?;
        }
    }
    Ok(())
}

#[test]
fn the_log_of_what_is_overwritten_for_ever_has_a_bound() {
    for value_log in [false, true] {
        let options = Options { memtable_bytes: 16 << 10, value_log, ..Options::tiny() };
        let disk = SimDisk::new();
        let engine = open_with(disk.clone(), &options).unwrap();
        for _ in 0..20 {
            overwrite(&engine, 100, 300).unwrap();
            let replay_bytes = engine.shape().debt.replay_bytes.unwrap();
            assert!(replay_bytes <= 2 * options.memtable_bytes + 400, "{replay_bytes} bytes, {value_log}");
        }
        settle(&*engine).unwrap();
        // What is free of it goes when the log has rested.
        settle(&*engine).unwrap();
        let most = 2 * options.memtable_bytes + 6 * options.common.log_segment_bytes;
        assert!(log_bytes(&disk) <= most, "{} bytes of log, {value_log}", log_bytes(&disk));
        let reasons = engine.event_log().unwrap().events();
        assert!(reasons.iter().any(|event| format!("{event:?}").contains("\"log\"")), "{reasons:?}");
    }
}

#[test]
fn overwriting_fills_no_disk() {
    for value_log in [false, true] {
        // A memtable takes more than the whole disk does.
        let options = Options { memtable_bytes: 1 << 20, value_log, ..Options::tiny() };
        let disk = SimDisk::new();
        disk.set_capacity(Some(160 << 10));
        let engine = open_with(disk.clone(), &options).unwrap();
        overwrite(&engine, 3000, 300).unwrap_or_else(|error| panic!("{error}, value_log={value_log}"));
        let found = contents(&*engine).unwrap();
        assert_eq!(found.len(), 8);
        assert_eq!(contents(&*open_with(disk.kill(), &options).unwrap()).unwrap(), found);
    }
}

#[test]
fn what_another_policy_left_stops_no_writer() {
    let options = Options { policy: PolicyKind::LOG, ..Options::tiny() };
    let disk = SimDisk::new();
    let mut engine = open_with(disk.clone(), &options).unwrap();
    let put = |engine: &LsmEngine, number: u64| {
        let mut batch = Batch::new(0);
        batch.put(number.to_be_bytes().to_vec(), vec![0; 500]);
        let applied = engine.apply(&batch, Tier::Disk);
        while engine.work(WorkClass::Flush).unwrap() == Pending::More {}
        applied
    };
    assert!((0..200).all(|number| put(&engine, number).is_ok()));
    assert!(engine.shape().debt.l0_files > 4 * options.l0_stop);
    // At a switch, and at a mount with another policy.
    for is_open in [true, false] {
        if is_open {
            engine.set("policy", "leveled").unwrap();
        } else {
            let leveled = Options { policy: PolicyKind::LEVELED, ..options.clone() };
            engine = open_with(disk.kill(), &leveled).unwrap();
        }
        let before = engine.shape().debt.l0_files;
        put(&engine, 7).unwrap();
        // Nothing merges: what comes on top is limited as ever.
        let refused = (0..200).find_map(|number| put(&engine, number).err());
        assert!(matches!(refused, Some(Error::Busy { cause: Cause::L0Files, .. })), "{refused:?}");
        let more = engine.shape().debt.l0_files - before;
        assert!((options.l0_slowdown..options.l0_stop).contains(&more), "{more} files");
    }
    settle(&*engine).unwrap();
    assert_eq!(engine.superversion().version.forgiven, Default::default());
    assert_eq!(engine.shape().debt.l0_files, 0);
}
