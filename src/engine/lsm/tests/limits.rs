//! Limits: writers that wait, full disks, merges that do not fit, and who learns what of it.

use super::*;
use crate::disk::{Fault, Faulty};
use crate::engine::lsm::compactor::cleaner::{Cleaned, tombstones_above};

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
    let shortage = &engine.core.space.shortage;
    assert!(shortage.has_merge_trouble());
    disk.set_capacity(None);
    // Who deletes while the first step is done waits for it.
    let ControlFlow::Continue((subcompaction, _)) = engine.compactor.take_subcompaction().unwrap() else {
        panic!("it fits")
    };
    assert!(!shortage.has_merge_trouble());
    let mut running = engine.compactor.running_jobs();
    running.stepping -= 1;
    running.resting.push(subcompaction);
    // Another one finds no space meanwhile; when the first one has ended, nobody knows whether it still does not.
    running.waiting = Some("no space for another".to_string());
    drop(running);
    while !engine.compactor.running_jobs().jobs.is_empty() {
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
    let ControlFlow::Continue((subcompaction, _)) = engine.compactor.take_subcompaction().unwrap() else {
        panic!("four tables of a window are merged")
    };
    (0..number).for_each(|number| delete(&engine, number).unwrap());
    run(&*engine, Command::Flush).unwrap();
    let full_bytes = level_bytes(&engine);
    let mut batch = Batch::new(0);
    batch.put(&b"new"[..], vec![7; 16 << 10]);
    for _ in 0..4 {
        // Others take what is free, also what the log keeps for use again.
        engine.core.log.give_back();
        let space = disk.space().unwrap();
        disk.set_capacity(Some(space.total_bytes - space.free_bytes));
        engine.core.space.guard.look_again();
        let refused = engine.apply(&batch, Tier::Disk).unwrap_err();
        assert!(matches!(refused, Error::Busy { cause: Cause::Space, .. }), "{refused}");
        engine.work(WorkClass::Merge).unwrap();
    }
    // A batch was refused meanwhile, and it was looked for what can be cleaned.
    assert!(!engine.core.space.shortage.outlook().is_exhausted, "what the merge holds is cleaned after it");
    let mut running = engine.compactor.running_jobs();
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
    let ControlFlow::Continue((subcompaction, _)) = engine.compactor.take_subcompaction().unwrap() else {
        panic!("four tables of a window are merged")
    };
    run(&*engine, Command::Flush).unwrap();
    let budget = &engine.core.space;
    let owed_bytes = budget.merge_owed_bytes();
    assert!(owed_bytes > 256 << 10 && budget.temporary_bytes() == 0, "{owed_bytes}");
    // Room for a memtable and the reserve, but not for the merge beside them.
    engine.core.log.give_back();
    let space = disk.space().unwrap();
    let used_bytes = space.total_bytes - space.free_bytes;
    disk.set_capacity(Some(used_bytes + budget.guard.reserve_bytes() + (512 << 10)));
    engine.core.space.guard.look_again();
    let mut batch = Batch::new(0);
    batch.put(&b"new"[..], vec![7; 16 << 10]);
    for _ in 0..4 {
        let refused = engine.apply(&batch, Tier::Disk).unwrap_err();
        assert!(matches!(refused, Error::Busy { cause: Cause::Space, .. }), "{refused}");
        engine.work(WorkClass::Merge).unwrap();
    }
    let mut running = engine.compactor.running_jobs();
    running.stepping -= 1;
    running.resting.push(subcompaction);
    drop(running);
    while engine.work(WorkClass::Merge).unwrap() == Pending::More {}
    apply_patiently(&*engine, &batch).unwrap();
}

/// Who looked before a batch was refused found no space: that says nothing of what can be cleaned for it.
#[test]
fn who_is_refused_waits_until_somebody_has_looked_for_it() {
    let disk = SimDisk::new();
    let (engine, _) = with_a_window_to_merge(disk.clone());
    run(&*engine, Command::Flush).unwrap();
    engine.core.log.give_back();
    let space = disk.space().unwrap();
    disk.set_capacity(Some(space.total_bytes - space.free_bytes));
    engine.core.space.guard.look_again();
    let mut batch = Batch::new(0);
    batch.put(&b"new"[..], vec![7; 200]);
    let refused = || engine.apply(&batch, Tier::Disk).unwrap_err();
    let shortage = &engine.core.space.shortage;
    let looked = shortage.changes();
    assert!(matches!(engine.work(WorkClass::Merge), Ok(Pending::After(_))));
    // The first one has it looked for what can be cleaned.
    assert!(matches!(refused(), Error::Busy { .. }));
    // A look that began before comes to its end now.
    shortage.note_look(looked, true, true);
    shortage.note_merge(Some(engine.core.space.trouble(Error::NoSpace)));
    assert!(matches!(refused(), Error::Busy { .. }));
    let _ = engine.work(WorkClass::Merge);
    assert!(matches!(refused(), Error::NoSpace));
}

/// Bytes of log files.
fn log_bytes(disk: &SimDisk) -> u64 {
    let files = disk.list().unwrap().into_iter();
    files.filter(|info| wal::is_segment(&info.name)).map(|info| info.bytes).sum()
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

fn used_bytes(disk: &SimDisk) -> u64 {
    disk.list().unwrap().iter().map(|info| info.bytes).sum()
}

/// Puts values of `value_bytes` under numbers from 0 on until the disk is full; returns how many were taken.
fn fill(engine: &LsmEngine, value_bytes: usize) -> u32 {
    for number in 0u32.. {
        let mut batch = Batch::new(0);
        batch.put(number.to_be_bytes().to_vec(), vec![number as u8; value_bytes]);
        match apply_patiently(engine, &batch) {
            Ok(_) => {}
            Err(Error::NoSpace) => return number,
            Err(error) => panic!("{error}"),
        }
    }
    0
}

fn delete(engine: &LsmEngine, number: u32) -> Result<()> {
    let mut batch = Batch::new(0);
    batch.uses_reserve = true;
    batch.delete(number.to_be_bytes().to_vec());
    apply_patiently(engine, &batch).map(drop)
}

#[test]
fn a_small_disk_holds_mostly_data_and_lets_all_of_it_be_deleted() {
    const DISK_BYTES: u64 = 96 << 20;
    let disk = SimDisk::new();
    disk.set_capacity(Some(DISK_BYTES));
    let options =
        Options { common: Common { cache_bytes: 1 << 20, ..Common::default() }, ..Options::default() };
    let engine = open_with(disk.clone(), &options).unwrap();
    let count = fill(&engine, 64 << 10);
    let share = u64::from(count) * (64 << 10) * 100 / DISK_BYTES;
    assert!(share >= 70, "{share} % of the disk are data");
    for number in 0..count {
        delete(&engine, number).unwrap_or_else(|error| panic!("{number} of {count}: {error}"));
    }
    settle(&*engine).unwrap();
    assert!(contents(&*engine).unwrap().is_empty());
    assert!(contents(&*open_with(disk.kill(), &options).unwrap()).unwrap().is_empty());
}

/// Puts values of `value_bytes` under numbers from `first` on as a writer does who waits only while he is told to, with little work
/// done for each try; how many of `count` are taken.
fn put_more(engine: &LsmEngine, first: u32, count: u32, value_bytes: usize) -> u32 {
    for number in 0..count {
        let mut batch = Batch::new(0);
        batch.put((first + number).to_be_bytes().to_vec(), vec![number as u8; value_bytes]);
        loop {
            match engine.apply(&batch, Tier::Disk) {
                Ok(_) => break,
                Err(Error::Busy { .. }) => {
                    for class in [WorkClass::Flush, WorkClass::Merge, WorkClass::Reclaim] {
                        // A flush without space says so, and is tried again.
                        let done = engine.work(class);
                        assert!(matches!(done, Ok(_) | Err(Error::NoSpace)), "{done:?}");
                    }
                }
                Err(Error::NoSpace) => return number,
                Err(error) => panic!("{error}"),
            }
        }
    }
    count
}

/// Settings for a disk of 24 MiB.
fn on_a_small_disk(policy: PolicyKind, value_log: bool) -> Options {
    Options {
        policy,
        value_log,
        memtable_bytes: 256 << 10,
        table_bytes: 256 << 10,
        level_base_bytes: 1 << 20,
        common: Common {
            log_segment_bytes: 128 << 10,
            reserve_bytes: 1 << 20,
            cache_bytes: 1 << 20,
            ..Common::default()
        },
        ..Options::default()
    }
}

/// Number and bytes of the tables that hold every key of a range below `count`, of which every second one was deleted.
fn uncleaned(engine: &LsmEngine, count: u32) -> Vec<(TableNumber, u64)> {
    let number = |key: &[u8]| u32::from_be_bytes(key.try_into().unwrap());
    let superversion = engine.superversion();
    let tables = superversion.version.tables().map(|(_, table)| table);
    let whole = tables.filter(|table| {
        let (first, last) = (number(&table.smallest), number(&table.largest));
        let is_whole = table.entries == u64::from(last - first) + 1;
        last < count && last > first && is_whole && table.tombstones == 0
    });
    whole.map(|table| (table.number, table.bytes)).collect()
}

#[test]
fn after_deletes_on_a_full_disk_writers_wait_for_the_room() {
    const VALUE_BYTES: usize = 16 << 10;
    let all = PolicyKind::ALL.into_iter().map(|policy| (policy, false));
    for (policy, value_log) in all.chain([(PolicyKind::LEVELED, true)]) {
        let options = on_a_small_disk(policy, value_log);
        let disk = SimDisk::new();
        disk.set_capacity(Some(24 << 20));
        let engine = open_with(disk.clone(), &options).unwrap();
        let count = fill(&engine, VALUE_BYTES);
        assert!(count > 600, "{policy:?}: full after {count}");
        // Every second one goes; nobody does any work meanwhile but what is waited for.
        for number in (0..count).step_by(2) {
            delete(&engine, number)
                .unwrap_or_else(|error| panic!("{policy:?}: {number} of {count}: {error}"));
        }
        let taken = put_more(&engine, count, count / 4, VALUE_BYTES);
        let what = format!("{policy:?}, value_log={value_log}");
        // What is left of a table of time-window, which is as large as a window is, may not fit into the room that there is.
        if policy == PolicyKind::TIME_WINDOW {
            let room_bytes = disk.space().unwrap().free_bytes + engine.core.space.guard.ballast_bytes();
            for (number, bytes) in uncleaned(&engine, count) {
                assert!(
                    bytes / 2 + (128 << 10) > room_bytes,
                    "{what}: table {number} of {bytes} bytes fits into {room_bytes}"
                );
            }
            assert!(taken >= count / 8, "{what}: {taken} of {count} are written again");
        } else {
            assert_eq!(taken, count / 4, "{what}: of {count} are written again");
        }
        // And it ends: what is full answers.
        let more = put_more(&engine, 2 * count, count, VALUE_BYTES);
        assert!(more < count / 2, "{policy:?}, value_log={value_log}: {more} more of {count}");
        // A flush waits for a table that is tried in the room there is.
        let settled =
            (0..1000).map(|_| settle(&*engine)).find(|settled| !matches!(settled, Err(Error::NoSpace)));
        settled.expect("a flush waits for ever").unwrap();
        let read_bytes = disk.witness().read_bytes;
        for number in 0..20 {
            assert_eq!(put_more(&engine, 4 * count + number, 1, VALUE_BYTES), 0, "{policy:?}");
        }
        let read_bytes = disk.witness().read_bytes - read_bytes;
        assert!(read_bytes < 1 << 20, "{policy:?}: {read_bytes} bytes are read to say that the disk is full");
        let found = contents(&*engine).unwrap();
        assert_eq!(found.len() as u32, count / 2 + taken + more, "{policy:?}");
        run(&*engine, Command::Verify).unwrap();
        assert_eq!(contents(&*open_with(disk.kill(), &options).unwrap()).unwrap(), found);
    }
}

/// Whatever the policy makes of tables: one of which little is left is found, also where it is larger than all the room there is.
#[test]
fn what_was_deleted_in_one_piece_comes_back_on_a_full_disk() {
    for policy in PolicyKind::ALL {
        let options = on_a_small_disk(policy, false);
        let disk = SimDisk::new();
        disk.set_capacity(Some(24 << 20));
        let engine = open_with(disk, &options).unwrap();
        let count = fill(&engine, 16 << 10);
        for number in (0..count).filter(|number| number % 256 > 7) {
            delete(&engine, number)
                .unwrap_or_else(|error| panic!("{policy:?}: {number} of {count}: {error}"));
        }
        let taken = put_more(&engine, count, count, 16 << 10);
        println!("{policy:?}: {taken} of {count} are written again");
        assert!(taken >= count * 3 / 4, "{policy:?}: {taken} of {count} are written again");
        run(&*engine, Command::Verify).unwrap();
    }
}

/// Nobody writes, nor has anyone been refused.
#[test]
fn more_than_what_is_free_comes_back_by_itself_once_it_is_deleted() {
    for policy in [PolicyKind::LEVELED, PolicyKind::TIERED, PolicyKind::EAGER] {
        let options = Options { memtable_bytes: 1 << 20, ..on_a_small_disk(policy, false) };
        let disk = SimDisk::new();
        disk.set_capacity(Some(24 << 20));
        let engine = open_with(disk.clone(), &options).unwrap();
        // Twenty of 24 MiB.
        assert_eq!(put_more(&engine, 0, 1280, 16 << 10), 1280);
        settle(&*engine).unwrap();
        let full_bytes = disk.space().unwrap().free_bytes;
        for number in 0..1280 {
            delete(&engine, number).unwrap();
        }
        assert!(!engine.core.space.shortage.is_cleaning_wanted(), "{policy:?}");
        for _ in 0..3 {
            settle(&*engine).unwrap();
        }
        let free_bytes = disk.space().unwrap().free_bytes;
        assert!(
            free_bytes > full_bytes + (17 << 20),
            "{policy:?}: {full_bytes} bytes free, then {free_bytes}"
        );
    }
}

#[test]
fn a_disk_that_refuses_what_it_says_it_has_is_not_asked_for_ever() {
    for policy in [PolicyKind::LEVELED, PolicyKind::TIME_WINDOW] {
        let options = on_a_small_disk(policy, false);
        let sim = SimDisk::new();
        sim.set_capacity(Some(8 << 20));
        let disk = Faulty::new(sim.clone());
        let engine = open_with(disk.clone(), &options).unwrap();
        let count = fill(&engine, 16 << 10);
        for number in (0..count).step_by(2) {
            delete(&engine, number).unwrap();
        }
        engine.writer.rotate_now();
        while engine.flusher.flush().unwrap() {}
        // A quota of which the disk says nothing, say.
        sim.set_capacity(Some(16 << 20));
        disk.inject(Fault::FullAfter { bytes: 0 });
        engine.core.space.want_space();
        let rounds = (0..1000).find(|_| !matches!(engine.work(WorkClass::Merge), Ok(Pending::More)));
        let (refused, tables) = (disk.hits(), engine.superversion().version.tables().count() as u64);
        assert!(rounds.is_some() && refused > 0, "{policy:?}: {refused} requests refused");
        assert!(
            refused <= 4 * tables,
            "{policy:?}: {refused} requests refused of a store of {tables} tables"
        );
    }
}

/// Others take every byte that is left.
fn others_take_all(disk: &SimDisk) {
    let free_bytes = disk.space().unwrap().free_bytes;
    let name = format!("others{}", disk.list().unwrap().len());
    disk.create(&name).unwrap().allocate(free_bytes).unwrap();
}

#[test]
fn what_is_deleted_comes_back_without_a_byte_from_others() {
    const VALUE_BYTES: usize = 16 << 10;
    for (policy, value_log) in
        PolicyKind::ALL.into_iter().flat_map(|policy| [(policy, false), (policy, true)])
    {
        let options = on_a_small_disk(policy, value_log);
        // Filled by others while it is open, closed, or killed.
        for state in ["open", "closed", "killed"] {
            let what = format!("{policy:?}, value_log={value_log}, {state}");
            let mut disk = SimDisk::new();
            disk.set_capacity(Some(24 << 20));
            let mut engine = open_with(disk.clone(), &options).unwrap();
            let count = fill(&engine, VALUE_BYTES);
            if state != "open" {
                if state == "closed" {
                    engine.close().unwrap_or_else(|error| panic!("{what}: {error}"));
                }
                drop(engine);
                disk = disk.kill();
                others_take_all(&disk);
                engine = open_with(disk.clone(), &options).unwrap();
            }
            others_take_all(&disk);
            for number in 0..count {
                delete(&engine, number)
                    .unwrap_or_else(|error| panic!("{what}: {number} of {count}: {error}"));
            }
            engine.close().unwrap_or_else(|error| panic!("{what}: {error}"));
            drop(engine);
            let disk = disk.kill();
            others_take_all(&disk);
            let engine = open_with(disk.clone(), &options).unwrap();
            let again = fill(&engine, VALUE_BYTES);
            assert!(again >= count - count / 20, "{what}: {again} of {count} are written again");
        }
    }
}

#[test]
fn a_crash_at_any_request_while_a_full_disk_is_emptied_costs_nothing() {
    const VALUE_BYTES: usize = 16 << 10;
    let options = Options {
        memtable_bytes: 128 << 10,
        table_bytes: 128 << 10,
        ..on_a_small_disk(PolicyKind::LEVELED, false)
    };
    let full = SimDisk::new();
    full.set_capacity(Some(8 << 20));
    let engine = open_with(full.clone(), &options).unwrap();
    let count = fill(&engine, VALUE_BYTES);
    assert!(engine.core.space.guard.ballast_bytes() > 0);
    engine.close().unwrap();
    drop(engine);
    others_take_all(&full);
    // Opens, deletes what is left and closes; what it came to.
    let empty = |disk: &Arc<SimDisk>| -> Result<()> {
        let engine = open_with(disk.clone(), &options)?;
        for number in 0..count {
            delete(&engine, number)?;
        }
        engine.close()
    };
    let whole = full.kill();
    let before = whole.requests();
    empty(&whole).unwrap();
    let requests = whole.requests() - before;
    assert!(requests > 100, "{requests} requests");
    for at in (0..requests).step_by((requests / 60) as usize) {
        for is_power_cut in [false, true] {
            let what = format!("request {at} of {requests}, power cut: {is_power_cut}");
            let disk = full.kill();
            disk.stop_at(disk.requests() + at);
            empty(&disk).unwrap_err();
            let disk = if is_power_cut { disk.crash(at) } else { disk.kill() };
            let free_bytes = disk.space().unwrap().free_bytes;
            others_take_all(&disk);
            empty(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
            let engine = open_with(disk.kill(), &options).unwrap();
            let again = fill(&engine, VALUE_BYTES);
            // What new data leaves free, an eighth of the disk, others have taken, and what had come back.
            let taken = (free_bytes / VALUE_BYTES as u64) as u32;
            assert!(again + taken >= count - count / 6, "{what}: {again} of {count} are written again");
        }
    }
}

#[test]
fn what_was_written_together_and_is_deleted_together_comes_back() {
    const VALUE_BYTES: usize = 16 << 10;
    // What is left of a window may be larger than the room that there is.
    for policy in PolicyKind::ALL.into_iter().filter(|policy| *policy != PolicyKind::TIME_WINDOW) {
        let options = on_a_small_disk(policy, false);
        let disk = SimDisk::new();
        disk.set_capacity(Some(24 << 20));
        let engine = open_with(disk.clone(), &options).unwrap();
        let count = fill(&engine, VALUE_BYTES);
        for number in 0..count / 2 {
            delete(&engine, number)
                .unwrap_or_else(|error| panic!("{policy:?}: {number} of {count}: {error}"));
        }
        let taken = put_more(&engine, count, count, VALUE_BYTES);
        assert!(taken >= count / 2 - count / 20, "{policy:?}: {taken} of {count} are written again");
    }
}

#[test]
fn a_full_disk_is_compacted_once_everything_is_deleted() {
    for disk_bytes in [24 << 20, 96 << 20] {
        let disk = SimDisk::new();
        disk.set_capacity(Some(disk_bytes));
        let options =
            Options { common: Common { cache_bytes: 1 << 20, ..Common::default() }, ..Options::default() };
        let engine = open_with(disk.clone(), &options).unwrap();
        let count = fill(&engine, 64 << 10);
        for number in 0..count {
            delete(&engine, number).unwrap_or_else(|error| panic!("{number} of {count}: {error}"));
        }
        run(&*engine, Command::Compact).unwrap();
        assert_eq!(level_bytes(&engine), 0, "of {disk_bytes}");
    }
}

#[test]
fn what_was_killed_on_a_full_disk_is_opened_without_a_free_byte() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(100 << 10));
    let count = fill(&open_tiny(disk.clone()).unwrap(), 200);
    // And others take the rest.
    let mut disk = disk.kill();
    disk.set_capacity(Some(used_bytes(&disk)));
    let mut deleted = 0;
    for life in 0..5 {
        let engine = open_tiny(disk.clone()).unwrap_or_else(|error| panic!("life {life}: {error}"));
        assert_eq!(contents(&*engine).unwrap().len() as u32, count - deleted);
        if delete(&engine, deleted).is_ok() {
            deleted += 1;
        }
        assert!(deleted > 0, "what the log has room for is taken");
        // Nothing is lost when it cannot be closed as it should be.
        let closed = engine.close();
        assert!(matches!(closed, Ok(()) | Err(Error::NoSpace)), "{closed:?}");
        drop(engine);
        disk = disk.crash(life);
        disk.set_capacity(Some(used_bytes(&disk)));
    }
    // The reserve is enough to empty it.
    disk.set_capacity(Some(used_bytes(&disk) + (16 << 10)));
    let engine = open_tiny(disk.clone()).unwrap();
    for number in deleted..count {
        delete(&engine, number).unwrap_or_else(|error| panic!("{number} of {count}: {error}"));
    }
    settle(&*engine).unwrap();
    run(&*engine, Command::Verify).unwrap();
    assert!(contents(&*engine).unwrap().is_empty());
}

#[test]
fn values_in_the_log_are_collected_on_a_full_disk() {
    let options = Options {
        value_log: true,
        common: Common { reserve_bytes: 64 << 10, ..Common::tiny() },
        ..Options::tiny()
    };
    let disk = SimDisk::new();
    disk.set_capacity(Some(256 << 10));
    let engine = open_with(disk.clone(), &options).unwrap();
    let count = fill(&engine, 400);
    let full = log_bytes(&disk);
    for number in (0..count).filter(|number| number % 4 != 0) {
        delete(&engine, number).unwrap_or_else(|error| panic!("{number} of {count}: {error}"));
    }
    run(&*engine, Command::Compact).unwrap();
    settle(&*engine).unwrap();
    let (left, live) = (log_bytes(&disk), u64::from(count / 4) * 400);
    assert!(
        left <= 2 * live + 10 * options.common.log_segment_bytes,
        "{full} → {left} bytes of log, {live} live"
    );
    assert!(fill(&engine, 400) > count / 3, "there is room again");
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

#[test]
fn deletes_that_lie_among_values_are_cleaned_as_well() {
    const VALUE_BYTES: usize = 16 << 10;
    let options = Options {
        memtable_bytes: 16 << 20,
        table_bytes: 256 << 10, // The tombstones take a hundredth of the parts.
        part_blocks: 4,
        compression: Compression::None.into(),
        common: Common { reserve_bytes: 1 << 20, cache_bytes: 1 << 20, ..Common::default() },
        ..Options::default()
    };
    let disk = SimDisk::new();
    disk.set_capacity(Some(64 << 20));
    let engine = open_with(disk.clone(), &options).unwrap();
    assert_eq!(put_more(&engine, 0, 600, VALUE_BYTES), 600);
    run(&*engine, Command::Compact).unwrap();
    // One memtable: all that was there goes, and half as much comes.
    (0..600).for_each(|number| delete(&engine, number).unwrap());
    assert_eq!(put_more(&engine, 600, 300, VALUE_BYTES), 300);
    run(&*engine, Command::Flush).unwrap();
    let version = engine.superversion().version.clone();
    let above = tombstones_above(&version, &Cleaned::default(), 0);
    assert!(version.level(1).len() > 30);
    for (_, table) in version.tables().filter(|(level, _)| *level == 1) {
        let (above, entries) = (above[&table.number], table.entries as f64);
        assert!(above.likely < entries / 16.0, "{} of {entries} seem deleted", above.likely);
        assert!(above.most >= entries, "{} of {entries} may be", above.most);
    }
    // Others take the rest of the disk, but for the reserve and as much again.
    let space = disk.space().unwrap();
    disk.set_capacity(Some(space.total_bytes - space.free_bytes + (2 << 20)));
    let taken = put_more(&engine, 900, 450, VALUE_BYTES);
    assert_eq!(taken, 450, "in the room of 600");
}

/// The segments of the log are shorter on a small disk than the option says, and so is what is set aside for them.
#[test]
fn the_ballast_counts_the_segments_that_the_log_has() {
    let disk = SimDisk::new();
    disk.set_capacity(Some(100 << 20));
    let options = Options { memtable_bytes: 1 << 20, table_bytes: 1 << 20, ..Options::default() };
    let engine = open_with(disk.clone(), &options).unwrap();
    let segment_bytes = engine.core.log.segment_bytes();
    assert!(segment_bytes < options.common.log_segment_bytes);
    for number in 0..60u64 {
        let mut batch = Batch::new(0);
        batch.put(number.to_be_bytes().to_vec(), vec![number as u8; 1 << 20]);
        apply_patiently(&*engine, &batch).unwrap();
        run(&*engine, Command::Flush).unwrap();
    }
    let (ballast, most) =
        (engine.core.space.guard.ballast_bytes(), options.memtable_bytes + 2 * segment_bytes);
    assert!((60 << 20) / 8 > most, "the store is large enough to need it all");
    assert!(ballast > 0 && ballast <= most, "{ballast} of {most}");
    let file = disk.list().unwrap().into_iter().find(|file| file.name == "ballast").unwrap();
    assert_eq!(engine.shape().space.ballast_bytes, file.bytes_allocated);
}
