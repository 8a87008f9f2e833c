//! Values in the log.

use super::*;
use crate::base::metric::Since;

#[test]
fn a_released_segment_with_needed_values_is_never_used_again() {
    let options = Options { value_log: true, value_gc_percent: 0, ..Options::tiny() };
    let disk = SimDisk::new();
    let mut engine = open_with(disk.clone(), &options).unwrap();
    let put = |engine: &LsmEngine, key: &str, byte: u8| {
        let mut batch = Batch::new(0);
        batch.put(key.as_bytes().to_vec(), vec![byte; 500]);
        apply_patiently(engine, &batch).unwrap();
    };
    put(&engine, "needed", 1);
    run(&*engine, Command::Flush).unwrap();
    for round in 0..200u8 {
        put(&engine, "other", round);
        if round % 7 == 0 {
            run(&*engine, Command::Compact).unwrap();
        }
        if round % 50 == 49 {
            engine = open_with(disk.crash(u64::from(round)), &options).unwrap_or(engine);
        }
    }
    settle(&*engine).unwrap();
    assert_eq!(engine.get(b"needed", Tier::Disk).unwrap().unwrap(), vec![1; 500]);
    run(&*engine, Command::Verify).unwrap();
    check_space(&engine, &disk);
}

#[test]
fn moving_values_of_one_table_in_l0_undoes_no_delete() {
    let options = Options {
        value_log: true,
        value_threshold_bytes: 200,
        value_gc_percent: 90,
        memtable_bytes: 1 << 20,
        l0_trigger: 9,
        l0_slowdown: 10,
        ..Options::tiny()
    };
    let engine = open_with(SimDisk::new(), &options).unwrap();
    let put = |key: &str, bytes: usize| {
        let mut batch = Batch::new(0);
        batch.put(key.to_string(), vec![7; bytes]);
        engine.apply(&batch, Tier::Disk).unwrap();
    };
    put("deleted", 10);
    run(&*engine, Command::Flush).unwrap();
    let mut batch = Batch::new(0);
    batch.delete("deleted");
    engine.apply(&batch, Tier::Disk).unwrap();
    // One value in a segment of other things: most of the segment is garbage as soon as it is flushed.
    put("value", 300);
    (0..100).for_each(|number| put(&format!("small{number}"), 100));
    run(&*engine, Command::Flush).unwrap();
    settle(&*engine).unwrap();
    let shape = engine.shape();
    assert!(shape.value_log.moved_bytes > 0 && shape.levels[0].files >= 2, "{shape:?}");
    assert_eq!(engine.get(b"deleted", Tier::Disk).unwrap(), None, "a delete was undone");
    assert_eq!(engine.get(b"value", Tier::Disk).unwrap().unwrap(), vec![7; 300]);
    // The log ends with moved values now, behind the last batch. No flush ever comes to them, so none may wait for them.
    for command in [Command::Flush, Command::Compact] {
        let (sender, receiver) = mpsc::channel();
        engine.run(command, Box::new(move |result| sender.send(result).unwrap()));
        (0..100).for_each(|_| settle(&*engine).unwrap());
        assert!(receiver.try_recv().is_ok_and(|result| result.is_ok()), "{command:?} waits for ever");
    }
}

#[test]
fn neighbours_in_the_log_are_read_together_by_a_scan() {
    let options = Options {
        value_log: true,
        memtable_bytes: 1 << 20,
        common: Common { log_segment_bytes: 1 << 20, cache_bytes: 0, ..Common::tiny() },
        ..Options::tiny()
    };
    let sim = SimDisk::new();
    let disk = Metered::new(sim);
    let engine = open_with(disk.clone(), &options).unwrap();
    for number in 0..64u8 {
        let mut batch = Batch::new(0);
        batch.put(vec![b'k', number], vec![number; 4096]);
        engine.apply(&batch, Tier::Disk).unwrap();
    }
    run(&*engine, Command::Flush).unwrap();
    let before = disk.snapshot().of(Purpose::Scan);
    assert_eq!(contents(&*engine).unwrap().len(), 64);
    let scan = disk.snapshot().of(Purpose::Scan).since(&before);
    assert!(scan.reads <= 12 && scan.read_bytes < 64 * 4096 * 11 / 10, "{scan:?}");
}

/// Puts `rounds` values that are never overwritten, each among 15 of 40 that are overwritten again and again.
fn mix(engine: &LsmEngine, rounds: std::ops::Range<u64>, has_cold: bool) {
    for round in rounds {
        for part in 0..16 {
            let mut batch = Batch::new(0);
            match part {
                0 if has_cold => {
                    batch.put(format!("cold{round:06}"), vec![round as u8; VALUE_BYTES as usize])
                }
                _ => batch
                    .put(format!("hot{}", (round * 15 + part) % 40), vec![round as u8; VALUE_BYTES as usize]),
            }
            apply_patiently(engine, &batch).unwrap();
        }
    }
}

const VALUE_BYTES: u64 = 300;

#[test]
fn what_never_died_is_moved_once_and_keeps_no_garbage() {
    const ROUNDS: u64 = 1500;
    let options = Options {
        value_log: true,
        value_threshold_bytes: 100,
        memtable_bytes: 8 << 10,
        table_bytes: 8 << 10,
        common: Common { log_segment_bytes: 16 << 10, ..Common::tiny() },
        ..Options::tiny()
    };
    let disk = SimDisk::new();
    let mut engine = open_with(disk.clone(), &options).unwrap();
    let settled = |engine: &LsmEngine| {
        run(engine, Command::Flush).unwrap();
        settle(engine).unwrap();
        run(engine, Command::Compact).unwrap();
        settle(engine).unwrap();
        engine.shape().value_log
    };
    mix(&engine, 0..ROUNDS, true);
    let first = settled(&engine);
    let cold_bytes = ROUNDS * VALUE_BYTES;
    println!("moved {} of {cold_bytes} bytes that never died; {first:?}", first.moved_bytes);
    // Once out of the segments that they were written to, with a few of the others that lived just then.
    assert!(first.moved_bytes <= cold_bytes * 3 / 2, "{first:?}");
    // What is kept is mostly alive, but for a few segments at the end.
    assert!(first.live_bytes >= cold_bytes);
    let bound = |live_bytes: u64| live_bytes * 2 + 6 * options.common.log_segment_bytes;
    assert!(first.bytes <= bound(first.live_bytes), "{first:?}");
    // Whatever else happens, and however often the store is opened again, it lies still.
    let (mut moved, mut rounds) = (0, ROUNDS);
    for _ in 0..4 {
        engine.close().unwrap();
        engine = open_with(disk.clone(), &options).unwrap();
        mix(&engine, rounds..rounds + ROUNDS / 4, false);
        rounds += ROUNDS / 4;
        let now = settled(&engine);
        moved += now.moved_bytes;
        println!("moved {moved}; {now:?}");
        assert!(now.bytes <= bound(now.live_bytes), "{now:?}");
    }
    assert!(moved <= 16 * options.common.log_segment_bytes, "{moved}");
    run(&*engine, Command::Verify).unwrap();
    // What dies there is given back as well.
    for round in (0..ROUNDS).filter(|round| round % 4 > 0) {
        let mut batch = Batch::new(0);
        batch.delete(format!("cold{round:06}"));
        apply_patiently(&*engine, &batch).unwrap();
    }
    let last = settled(&engine);
    println!("{last:?}");
    assert!(last.bytes <= bound(last.live_bytes) && last.live_bytes < cold_bytes / 3, "{last:?}");
    for round in (0..ROUNDS).step_by(4) {
        let found = engine.get(format!("cold{round:06}").as_bytes(), Tier::Disk).unwrap();
        assert_eq!(found.unwrap(), vec![round as u8; VALUE_BYTES as usize]);
    }
}

#[test]
fn lists_of_segments_are_counted_as_memory() {
    let options = Options { value_log: true, value_gc_percent: 0, ..Options::tiny() };
    let disk = SimDisk::new();
    let engine = open_with(disk.clone(), &options).unwrap();
    for number in 0..400u64 {
        let mut batch = Batch::new(0);
        // Next to each other in the log, far from each other in tables.
        batch.put(number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes().to_vec(), vec![7; 3000]);
        apply_patiently(&*engine, &batch).unwrap();
    }
    run(&*engine, Command::Compact).unwrap();
    let check = |engine: &LsmEngine| {
        let superversion = engine.superversion();
        let segments: usize = superversion.version.tables().map(|(_, table)| table.segments().len()).sum();
        let list_bytes = segments as u64 * (16 + 8);
        let memory = engine.shape().memory;
        assert!(
            segments > 300 && memory.resident_bytes.unwrap() > list_bytes,
            "{segments} segments, {memory:?}"
        );
        assert!(memory.used_bytes >= memory.resident_bytes, "{memory:?}");
    };
    check(&engine);
    engine.close().unwrap();
    drop(engine);
    check(&open_with(disk.kill(), &options).unwrap());
}

/// The header frame of a manifest of `version`, with the generation that the one on `disk` has.
fn put_manifest_version(disk: &SimDisk, version: u64) {
    let file = disk.open(manifest::NAME).unwrap();
    let bytes = crate::disk::read_all(&*file, Purpose::Verify).unwrap();
    let (_, payload) = crate::engine::frame::decode(&bytes, 0).unwrap();
    let mut payload = payload.to_vec();
    payload[b"kvfs lsm manifest".len()] = version as u8;
    file.write_at(Purpose::Manifest, 0, &crate::engine::frame::encode(1, 0, &payload)).unwrap();
}

#[test]
fn a_store_of_the_version_without_files_of_survivors_is_opened_and_collected() {
    let options = Options { value_log: true, value_gc_percent: 0, ..Options::tiny() };
    let disk = SimDisk::new();
    let engine = open_with(disk.clone(), &options).unwrap();
    let mut model = Model::new();
    let put = |engine: &LsmEngine, model: &mut Model, key: String, byte: u8| {
        let mut batch = Batch::new(0);
        batch.put(key, vec![byte; 300]);
        apply_patiently(engine, &batch).unwrap();
        apply_to(model, &batch);
    };
    for round in 0..100u8 {
        put(&engine, &mut model, format!("cold{round}"), round);
        (0..3).for_each(|hot| put(&engine, &mut model, format!("hot{hot}"), round));
        if round % 10 == 9 {
            // A value that was moved when these lay in the log.
            let moved = |target: &mut Vec<u8>| target.extend_from_slice(&[round; 300]);
            engine.log.append(MOVED_KIND, Purpose::ValueLogGc, 300, moved).unwrap();
        }
    }
    // Not flushed: replay goes over some of these records.
    let disk = disk.kill();
    put_manifest_version(&disk, 3);
    assert!(disk.list().unwrap().iter().all(|info| survivors::ValuesNumber::of_file(&info.name).is_none()));
    let options = Options { value_gc_percent: 50, ..options };
    let engine = open_with(disk.clone(), &options).unwrap();
    assert_eq!(contents(&*engine).unwrap(), model);
    run(&*engine, Command::Compact).unwrap();
    settle(&*engine).unwrap();
    assert!(engine.shape().value_log.moved_bytes > 0);
    assert_eq!(contents(&*engine).unwrap(), model);
    engine.close().unwrap();
    let engine = open_with(disk.kill(), &options).unwrap();
    assert_eq!(contents(&*engine).unwrap(), model);
    run(&*engine, Command::Verify).unwrap();
    // A version from the future is not taken for this one.
    let disk = disk.kill();
    put_manifest_version(&disk, 5);
    assert!(matches!(open_with(disk, &options), Err(Error::Invalid(_))));
}

/// Processor time to fill a value log of about so many segments, with tables that point into very many of them, and to open it.
fn fill_and_open(segments: u64) -> (Duration, Duration) {
    let options = Options {
        value_log: true,
        value_threshold_bytes: 200,
        memtable_bytes: 128 << 10,
        table_bytes: 32 << 10,
        level_base_bytes: 128 << 10,
        l0_trigger: 4,
        block_bytes: 4 << 10,
        common: Common { log_segment_bytes: 8 << 10, cache_bytes: 1 << 20, ..Common::tiny() },
        ..Options::tiny()
    };
    let disk = SimDisk::new();
    let engine = open_with(disk.clone(), &options).unwrap();
    let mut prng = Prng::new(segments);
    let began = cpu_time();
    for _ in 0..segments * 24 {
        let mut batch = Batch::new(0);
        batch.put(prng.bits().to_be_bytes().to_vec(), vec![7; 300]);
        apply_patiently(&*engine, &batch).unwrap();
    }
    engine.close().unwrap();
    let kept = engine.shape().value_log.segments;
    drop(engine);
    let filled = cpu_time();
    let engine = open_with(disk, &options).unwrap();
    let opened = cpu_time() - filled;
    let version = engine.superversion().version.clone();
    let pairs: usize = version.tables().map(|(_, table)| table.values.len()).sum();
    let tables = version.tables().count();
    println!(
        "{kept} segments, {tables} tables, {pairs} pairs: filled in {:?}, opened in {opened:?}",
        filled - began
    );
    (filled - began, opened)
}

#[test]
#[ignore = "long: processor time, to be compared on a quiet machine"]
fn filling_a_value_log_costs_what_is_written_and_not_what_is_kept() {
    let (few, _) = fill_and_open(400);
    let many = fill_and_open(1600).0.min(fill_and_open(1600).0);
    // Four times as much, in levels that are one deeper. Copies of what all tables need made it twenty times and more.
    assert!(many < few * 16, "{few:?} for 400 segments, {many:?} for 1600");
}

#[test]
#[ignore = "long: a measurement"]
fn filling_and_opening_value_logs_of_many_segments() {
    for segments in [500, 1000, 2000, 4000] {
        fill_and_open(segments);
    }
}

/// What a version says of the segments that are needed is what its tables say, and an edit shares with the version before what it
/// does not change.
#[test]
fn an_edit_of_a_version_costs_what_it_changes() {
    let options = Options { value_log: true, memtable_bytes: 4 << 10, ..Options::tiny() };
    let engine = open_with(SimDisk::new(), &options).unwrap();
    let mut prng = Prng::new(5);
    for number in 0..600 {
        apply_patiently(&*engine, &random_batch(&mut prng, number)).unwrap();
        let old = engine.superversion().version.clone();
        if prng.one_in(2) {
            engine.work(WorkClass::Flush).unwrap()
        } else {
            engine.work(WorkClass::Merge).unwrap()
        };
        let version = engine.superversion().version.clone();
        let mut needed = BTreeMap::new();
        for (start, bytes) in version.tables().flat_map(|(_, table)| table.values.iter()) {
            *needed.entry(*start).or_default() += *bytes;
        }
        assert_eq!(version.needed().iter().collect::<BTreeMap<_, u64>>(), needed);
        assert_eq!(version.needed().bytes(), needed.values().sum::<u64>());
        let numbers = |version: &version::Version, level| -> Vec<TableNumber> {
            version.level(level).iter().map(|table| table.number).collect()
        };
        for level in (0..LEVELS).filter(|level| numbers(&old, *level) == numbers(&version, *level)) {
            let is_edit = !Arc::ptr_eq(&old, &version);
            let is_shared = old.level(level).is_shared(version.level(level));
            assert!(is_shared || is_edit && version.level(level).is_empty(), "L{level} was copied");
        }
        let change = engine.levels.versions.change();
        for (level, table) in version.tables() {
            let written = &change.state().tables[&(level, table.number)];
            assert!(Arc::ptr_eq(&written.values, &table.values) || table.values.is_empty());
        }
    }
    assert!(!engine.superversion().version.needed().is_empty());
}
