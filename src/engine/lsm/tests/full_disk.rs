//! Full disks: what is deleted there comes back, whatever others take, and whoever ends it.

use super::*;
use crate::engine::lsm::compactor::cleaner::{Cleaned, tombstones_above};

/// Bytes of log files.
pub(super) fn log_bytes(disk: &SimDisk) -> u64 {
    let files = disk.list().unwrap().into_iter();
    files.filter(|info| wal::is_segment(&info.name)).map(|info| info.bytes).sum()
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

pub(super) fn delete(engine: &LsmEngine, number: u32) -> Result<()> {
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
pub(super) fn on_a_small_disk(policy: PolicyKind, value_log: bool) -> Options {
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
            let room_bytes =
                disk.space().unwrap().free_bytes + engine.levels.core.space.guard.ballast_bytes();
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
        assert!(!engine.levels.core.space.shortage.is_cleaning_wanted(), "{policy:?}");
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
        engine.levels.core.space.want_space();
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

/// A table may be cleaned only once most of it is deleted: until then what was set aside for that is there for those who delete, also after cleaning
/// was given it, has tried in vain and given up.
#[test]
fn what_was_set_aside_and_is_of_no_use_to_merges_is_there_for_deletes() {
    let key = |number: u32| [&number.to_be_bytes()[..], &[7; 500]].concat();
    for policy in PolicyKind::ALL {
        let disk = SimDisk::new();
        disk.set_capacity(Some(24 << 20));
        let engine = open_with(disk.clone(), &on_a_small_disk(policy, false)).unwrap();
        let full = (0..).find(|number| {
            let mut batch = Batch::new(0);
            batch.put(key(*number), vec![*number as u8; 16 << 10]);
            matches!(apply_patiently(&*engine, &batch), Err(Error::NoSpace))
        });
        settle(&*engine).unwrap();
        others_take_all(&disk);
        let guard = &engine.levels.core.space.guard;
        assert!(guard.ballast_bytes() > 0 && guard.give_ballast(u64::MAX), "{policy:?}");
        // More than fits into what the log has.
        let mut batch = Batch::new(0);
        batch.uses_reserve = true;
        (0..full.unwrap().min(400)).for_each(|number| batch.delete(key(number)));
        for round in 0.. {
            match engine.apply(&batch, Tier::Disk) {
                Ok(_) => break,
                Err(Error::Busy { .. }) => engine.work(WorkClass::Merge).map(drop).unwrap(),
                Err(error) => panic!("{policy:?}: {error}"),
            }
            assert!(round < 1000, "{policy:?}");
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
    assert!(engine.levels.core.space.guard.ballast_bytes() > 0);
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
    let segment_bytes = engine.log.segment_bytes();
    assert!(segment_bytes < options.common.log_segment_bytes);
    for number in 0..60u64 {
        let mut batch = Batch::new(0);
        batch.put(number.to_be_bytes().to_vec(), vec![number as u8; 1 << 20]);
        apply_patiently(&*engine, &batch).unwrap();
        run(&*engine, Command::Flush).unwrap();
    }
    let (ballast, most) =
        (engine.levels.core.space.guard.ballast_bytes(), options.memtable_bytes + 2 * segment_bytes);
    assert!((60 << 20) / 8 > most, "the store is large enough to need it all");
    assert!(ballast > 0 && ballast <= most, "{ballast} of {most}");
    let file = disk.list().unwrap().into_iter().find(|file| file.name == "ballast").unwrap();
    assert_eq!(engine.shape().space.ballast_bytes, file.bytes_allocated);
}
