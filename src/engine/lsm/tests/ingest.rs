//! Tables from elsewhere.

use super::*;
use crate::engine::SpaceGuard;

/// Random entries of ascending keys: values, and tombstones.
fn entries(prng: &mut Prng, number: u64) -> Vec<(Vec<u8>, Slot)> {
    let (first, length, gap) = (prng.below(200), 1 + prng.below(30), 1 + prng.below(8));
    let entry = |nth| {
        let key = format!("key {:04}", first + nth * gap).into_bytes();
        // A few make a table.
        let value = || Bytes::from(format!("ingested {number} {}", "x".repeat(400)));
        (key, (!prng.one_in(3)).then(value))
    };
    (0..length).map(entry).collect()
}

/// Levels alone, on `disk`.
fn open_alone(disk: &Arc<SimDisk>, options: &Options) -> LevelStore {
    let guard = SpaceGuard::new(disk.clone(), 0, options.common.log_segment_bytes).unwrap();
    let clock = Arc::new(ManualClock::default());
    open_levels(disk.clone(), clock, options, Arc::default(), Arc::new(guard), Arc::default()).unwrap()
}

fn ingest(levels: &LevelStore, entries: &[(Vec<u8>, Slot)]) -> Result<u64> {
    let mut tables = NewTables::new(levels, Purpose::Demote, Lsn::ZERO);
    entries.iter().try_for_each(|(key, value)| tables.add(key, value.as_deref()))?;
    tables.ingest(Lsn::ZERO)
}

fn follow(model: &mut Model, entries: &[(Vec<u8>, Slot)]) {
    for (key, value) in entries {
        match value {
            Some(value) => drop(model.insert(key.clone(), value.to_vec())),
            None => drop(model.remove(key)),
        }
    }
}

fn found(levels: &LevelStore) -> Model {
    let mut found = Model::new();
    let visit = &mut |key: &[u8], value: &[u8]| {
        assert!(found.insert(key.to_vec(), value.to_vec()).is_none(), "each key once");
        ControlFlow::Continue(())
    };
    levels.scan(KeyRange::ALL, Tier::Disk, visit).unwrap();
    found
}

/// Runs a command to its end.
fn run_alone(levels: &LevelStore, command: Command) {
    let (sender, receiver) = mpsc::channel();
    levels.run(command, Lsn::ZERO, Box::new(move |result| sender.send(result).unwrap()));
    for _ in 0..10_000 {
        if let Ok(result) = receiver.try_recv() {
            return result.unwrap();
        }
        levels.merge().unwrap();
        levels.reclaim().unwrap();
    }
    panic!("{command:?} never ends");
}

/// Whatever policy is in force and whichever merges are half done, what comes from elsewhere is newer than what is there, and lies as deep as
/// it may.
#[test]
fn tables_from_elsewhere_are_newer_than_all_others_and_lie_low() {
    for (policy, seed) in PolicyKind::ALL.into_iter().flat_map(|policy| [(policy, 1), (policy, 2)]) {
        let (disk, mut prng, mut model) = (SimDisk::new(), Prng::new(seed), Model::new());
        let options = Options { policy, policies: merging_early(false), ..Options::tiny() };
        let mut levels = open_alone(&disk, &options);
        let mut into = [0u64; LEVELS];
        for number in 0..300 {
            let (entries, before) = (entries(&mut prng, number), levels.core.table_store.next_number());
            ingest(&levels, &entries).unwrap();
            follow(&mut model, &entries);
            let version = levels.versions.superversion().version.clone();
            version
                .tables()
                .filter(|(_, table)| table.number >= before)
                .for_each(|(level, _)| into[level] += 1);
            // A scan proves that keys are deleted which may come again.
            assert_eq!(found(&levels), model, "{policy:?}, {number}");
            for _ in 0..prng.below(6) {
                levels.merge().unwrap();
            }
            assert_eq!(found(&levels), model, "{policy:?}, {number}");
            if prng.one_in(25) {
                run_alone(&levels, Command::Verify);
                levels.close();
                levels = open_alone(&disk, &options);
            }
        }
        assert!(into[0] > 0 && into[1..].iter().sum::<u64>() > 0, "{policy:?}: {into:?}");
        run_alone(&levels, Command::Compact);
        run_alone(&levels, Command::Verify);
        assert_eq!(found(&levels), model, "{policy:?}");
    }
}

/// Power is lost at each request of an edit that brings tables: afterwards all of them are there, or none, and no file is left over.
#[test]
fn tables_come_all_or_not_at_all() {
    let (mut all, mut none) = (0, 0);
    for stop in 0.. {
        let (disk, mut prng, mut model) = (SimDisk::new(), Prng::new(5), Model::new());
        let levels = open_alone(&disk, &Options::tiny());
        for number in 0..20 {
            let entries = entries(&mut prng, number);
            ingest(&levels, &entries).unwrap();
            follow(&mut model, &entries);
        }
        let entries = entries(&mut prng, 99);
        disk.stop_at(disk.requests() + stop);
        let is_done = ingest(&levels, &entries).is_ok();
        let after = disk.crash_as(stop, Tear::Sectors);
        drop(levels);
        let levels = open_alone(&after, &Options::tiny());
        let (found, mut with) = (found(&levels), model.clone());
        follow(&mut with, &entries);
        assert!(found == with || !is_done && found == model, "after {stop} requests");
        all += u64::from(found == with);
        none += u64::from(found == model);
        let held: u64 = levels.list_tables().iter().map(|table| table.bytes).sum();
        assert_eq!(table_bytes(&after), held, "nothing is left over");
        if is_done {
            break;
        }
    }
    assert!(all > 0 && none > 0, "{all} {none}");
}
