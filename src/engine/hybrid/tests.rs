//! Tests of the hybrid as a whole. The tests of all engines have it in their tables, too: crashes and failures at every request among them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use super::*;
use crate::base::clock::ManualClock;
use crate::base::prng::Prng;
use crate::disk::{Metered, Purpose, SimDisk, Tear};
use crate::engine::{Background, Common, Inspect, OwnOptions, run, settle, sync};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn tiny() -> Options {
    let tree =
        btree::Options { common: Common { reserve_bytes: 0, ..Common::tiny() }, ..btree::Options::tiny() };
    Options { tree, ..<Options as OwnOptions>::tiny() }
}

fn open_on(disk: Arc<SimDisk>, options: &Options) -> Arc<HybridEngine> {
    open(disk, Arc::new(ManualClock::default()), options).unwrap()
}

fn contents(engine: &HybridEngine) -> Map {
    let mut map = Map::new();
    let scanned = engine.scan(KeyRange::ALL, Tier::Disk, &mut |key, value| {
        assert!(map.insert(key.to_vec(), value.to_vec()).is_none(), "a key visited twice");
        assert_eq!(map.last_key_value().map(|(key, _)| &key[..]), Some(key), "in order");
        ControlFlow::Continue(())
    });
    scanned.unwrap();
    map
}

fn key(number: u64) -> Vec<u8> {
    format!("key {number:05}").into_bytes()
}

/// Puts and deletes of a few keys, some of them far more often than others.
fn random_batch(prng: &mut Prng, map: &mut Map, number: u64) -> Batch {
    let mut batch = Batch::new(1);
    for _ in 0..1 + prng.below(4) {
        let key = key(if prng.one_in(2) { prng.below(10) } else { prng.below(400) });
        if prng.one_in(4) {
            map.remove(&key);
            batch.delete(key);
        } else {
            let bytes = [10, 100, 1000, 3000, 5000][prng.below(5) as usize];
            let mut value = number.to_le_bytes().to_vec();
            value.resize(bytes, number as u8);
            map.insert(key.clone(), value.clone());
            batch.put(key, value);
        }
    }
    batch
}

fn apply(engine: &HybridEngine, batch: &Batch) {
    for _ in 0..10_000 {
        match engine.apply(batch, Tier::Disk) {
            Ok(_) => return,
            Err(Error::Busy { .. }) => {
                for class in [WorkClass::Flush, WorkClass::Merge, WorkClass::Reclaim] {
                    Engine::work(engine, class).unwrap();
                }
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("a batch never gets in");
}

fn demoted(engine: &HybridEngine) -> [u64; 4] {
    let shape = Inspect::shape(engine).hybrid.unwrap();
    let dropped = shape.dropped_tombstones + shape.dropped_clean;
    [shape.demoted_entries, dropped, shape.removed_entries, shape.stayed_entries]
}

/// Batches come in between the steps of a demotion, and the process is killed there; the store agrees with a map all the time, and what came into the
/// levels or was dropped has left the tree or stayed there.
#[test]
fn it_is_a_map_whatever_comes_between_the_steps_of_a_demotion() {
    let (mut seen, mut promoted) = ([0; 4], 0);
    for seed in 0..8 {
        let (mut disk, mut prng, mut map) = (SimDisk::new(), Prng::new(seed), Map::new());
        let mut engine = open_on(disk.clone(), &tiny());
        for number in 0..600 {
            let batch = random_batch(&mut prng, &mut map, number);
            apply(&engine, &batch);
            for _ in 0..prng.below(4) {
                let classes = [WorkClass::Flush, WorkClass::Merge, WorkClass::Merge, WorkClass::Reclaim];
                Engine::work(&*engine, classes[prng.below(4) as usize]).unwrap();
            }
            let wanted = key(prng.below(400));
            let found = engine.get(&wanted, Tier::Disk).unwrap();
            assert_eq!(found.as_deref(), map.get(&wanted).map(|value| &value[..]), "seed {seed}, {number}");
            // Some are read again and again.
            (0..prng.below(12)).for_each(|_| drop(engine.get(&wanted, Tier::Disk).unwrap()));
            let explained = Inspect::explain(&*engine, &wanted, Tier::Disk).unwrap();
            let verdict = explained.last().map(|probe| probe.verdict);
            assert_eq!(verdict == Some("hit"), found.is_some(), "{explained:?}");
            match prng.below(80) {
                0 | 1 => assert_eq!(contents(&engine), map, "seed {seed}, {number}"),
                2 => {
                    disk = disk.kill();
                    engine = open_on(disk.clone(), &tiny());
                    assert_eq!(contents(&engine), map, "seed {seed}, {number}: killed");
                }
                3 => {
                    sync(&*engine).unwrap();
                    disk = disk.crash_as(number, Tear::Sectors);
                    engine = open_on(disk.clone(), &tiny());
                    assert_eq!(contents(&engine), map, "seed {seed}, {number}: without power");
                }
                4 => {
                    engine.close().unwrap();
                    engine = open_on(disk.clone(), &tiny());
                }
                5 => {
                    settle(&*engine).unwrap();
                    let [demoted, dropped, removed, stayed] = demoted(&engine);
                    assert_eq!(
                        demoted + dropped,
                        removed + stayed,
                        "what was brought down has left or stayed"
                    );
                    let shape = Inspect::shape(&*engine).hybrid.unwrap();
                    let cold_bytes: u64 = engine.levels.list_tables().iter().map(|table| table.bytes).sum();
                    let tree_bytes = engine.tree.tree_bytes();
                    assert_eq!((shape.hot_bytes, shape.hot_bytes_max), (tree_bytes, 32 << 10));
                    assert!(tree_bytes <= shape.hot_bytes_max, "{tree_bytes} bytes");
                    assert_eq!(shape.cold_bytes, cold_bytes);
                    promoted += shape.promoted_entries;
                    let share = shape.hot_share().unwrap_or(0.0);
                    assert!((share * (tree_bytes + cold_bytes) as f64 - tree_bytes as f64).abs() < 1.0);
                    assert!(shape.threshold <= u64::from(heat::HEAT_MAX));
                    assert!(shape.demoted_bytes >= shape.demoted_entries * key(0).len() as u64);
                    seen = [seen[0] + demoted, seen[1] + dropped, seen[2] + removed, seen[3] + stayed];
                }
                6 if prng.one_in(4) => run(&*engine, Command::Compact).unwrap(),
                7 if prng.one_in(2) => run(&*engine, Command::Verify).unwrap(),
                _ => {}
            }
        }
        run(&*engine, Command::Verify).unwrap();
        assert_eq!(contents(&engine), map, "seed {seed}");
    }
    assert!(seen.iter().all(|count| *count > 0) && promoted > 0, "{seen:?} {promoted}");
}

/// What is written between its copy below and its removal stays in the tree.
#[test]
fn a_key_that_was_written_meanwhile_is_not_removed() {
    let mut options = tiny();
    options.tree.checkpoint_log_bytes = 1 << 20;
    options.tree.dirty_bytes_max = 1 << 20;
    let engine = open_on(SimDisk::new(), &options);
    let put = |number: u64, byte: u8| {
        let mut batch = Batch::new(0);
        batch.put(key(number), vec![byte; 3000]);
        engine.apply(&batch, Tier::Disk).unwrap();
    };
    (0..9).for_each(|number| put(number, 1));
    // One unit brings entries down, the next one removes them from the tree.
    while demoted(&engine)[0] == 0 {
        assert_eq!(engine.demoter.work().unwrap(), Pending::More);
    }
    let mut batch = Batch::new(0);
    batch.delete(key(0));
    (1..9).for_each(|number| batch.put(key(number), vec![2; 10]));
    engine.apply(&batch, Tier::Disk).unwrap();
    settle(&*engine).unwrap();
    let [demoted, _, removed, stayed] = demoted(&engine);
    assert!(stayed > 0 && demoted == removed + stayed, "{demoted} {removed} {stayed}");
    assert_eq!(engine.get(&key(0), Tier::Disk).unwrap(), None);
    for number in 1..9 {
        assert_eq!(engine.get(&key(number), Tier::Disk).unwrap().as_deref(), Some(&[2; 10][..]));
    }
}

/// A key that nothing below has leaves no tombstone; one that may be there does, until nothing older is left.
#[test]
fn tombstones_are_where_something_may_lie_below() {
    let engine = open_on(SimDisk::new(), &tiny());
    let change = |numbers: std::ops::Range<u64>, bytes: Option<usize>| {
        for number in numbers {
            let mut batch = Batch::new(0);
            match bytes {
                Some(bytes) => batch.put(key(number), vec![7; bytes]),
                None => batch.delete(key(number)),
            }
            apply(&engine, &batch);
        }
    };
    change(0..5, Some(3000));
    change(0..5, None);
    assert_eq!(engine.tree.tree_bytes(), 0, "nothing lies below");
    change(0..100, Some(3000));
    settle(&*engine).unwrap();
    assert!(demoted(&engine)[0] > 50);
    change(0..100, None);
    assert!(contents(&engine).is_empty(), "tombstones cover what lies below");
    // The tree is far below its bound, and they go down all the same: what they delete takes space.
    Background::set(&*engine, "hot", "1G").unwrap();
    engine.demoter.ask_sweep();
    settle(&*engine).unwrap();
    run(&*engine, Command::Compact).unwrap();
    let shape = Inspect::shape(&*engine);
    assert_eq!((engine.tree.tree_bytes(), shape.debt.tombstones), (0, 0));
    assert!(shape.levels.iter().all(|level| level.files == 0) && contents(&engine).is_empty());
}

/// Where the levels are and the tree is not, the tree was lost: a new one would show old values.
#[test]
fn a_lost_tree_is_damage_and_no_new_store() {
    let disk = SimDisk::new();
    open_on(disk.clone(), &tiny()).close().unwrap();
    disk.remove(btree::PAGES_NAME).unwrap();
    for name in disk.list().unwrap().into_iter().filter(|info| info.name.starts_with("log.")) {
        disk.remove(&name.name).unwrap();
    }
    let opened = open(disk, Arc::new(ManualClock::default()), &tiny());
    assert!(matches!(opened, Err(Error::Corrupt { .. })));
}

/// A full disk takes deletes, and has room again after them, also where the tree is many times as large as what is kept free: what goes down from it, and
/// what is merged below it, leave deletes their part.
#[test]
fn a_full_disk_takes_deletes_and_has_room_after_them() {
    for hot_bytes in [32 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20] {
        let options = Options { hot_bytes, ..<Options as OwnOptions>::tiny() };
        let (count, again) = fill_delete_and_fill(&options);
        assert!(count > 500 && again > count / 4 * 3, "{again} fit after {count} were deleted");
    }
}

/// Fills a disk of 4 MiB, deletes everything and fills it again; how many records it took each time.
fn fill_delete_and_fill(options: &Options) -> (u64, u64) {
    let disk = SimDisk::new();
    disk.set_capacity(Some(4 << 20));
    let engine = open_on(disk.clone(), options);
    let attempt = |batch: &Batch| {
        for _ in 0..2000 {
            match engine.apply(batch, Tier::Disk) {
                Err(Error::Busy { .. }) => {
                    for class in [WorkClass::Flush, WorkClass::Merge, WorkClass::Reclaim] {
                        // What finds no room is tried again.
                        let _ = Engine::work(&*engine, class);
                    }
                }
                other => return other.map(drop),
            }
        }
        panic!("{batch:?} waits for ever: {:?}", Inspect::shape(&*engine).stalls);
    };
    let put = |number: u64| {
        let mut batch = Batch::new(0);
        batch.put(key(number), vec![number as u8; 3000]);
        attempt(&batch)
    };
    let count = (0..).find(|number| put(*number).is_err()).unwrap();
    for _ in 0..50 {
        let _ = settle(&*engine);
    }
    for number in 0..count {
        let mut batch = Batch::new(0);
        batch.delete(key(number));
        batch.uses_reserve = true;
        attempt(&batch).unwrap_or_else(|error| panic!("delete {number} of {count}: {error}"));
    }
    for _ in 0..50 {
        let _ = settle(&*engine);
    }
    assert!(contents(&engine).is_empty());
    (count, (0..).find(|number| put(count + *number).is_err()).unwrap())
}

/// A point read counts for the tree if it answers, with a tombstone too, and for the levels otherwise.
#[test]
fn reads_are_counted_by_the_half_that_answers() {
    let engine = open_on(SimDisk::new(), &tiny());
    for number in 0..100 {
        let mut batch = Batch::new(0);
        batch.put(key(number), vec![7; 3000]);
        apply(&engine, &batch);
    }
    settle(&*engine).unwrap();
    let (mut above, mut below, mut structures) = (0, 0, 0);
    let before = Inspect::shape(&*engine).probes.unwrap().buckets;
    for number in 0..120 {
        let explained = Inspect::explain(&*engine, &key(number), Tier::Disk).unwrap();
        // Behind the line on heat come pages, values outside of them, and tables; the filter of some says no.
        let is_asked = |probe: &&Probe| {
            let is_table =
                probe.structure.starts_with('L') && !["filtered", "out-of-range"].contains(&probe.verdict);
            probe.structure.contains(" page ") || is_table
        };
        structures += explained.iter().filter(is_asked).count() as u64;
        engine.get(&key(number), Tier::Disk).unwrap();
        let is_table = |structure: &str| structure.starts_with('L');
        *if explained.iter().any(|probe| is_table(&probe.structure)) { &mut below } else { &mut above } += 1;
    }
    let after = Inspect::shape(&*engine).probes.unwrap().buckets;
    assert_eq!((after.count() - before.count(), after.sum() - before.sum()), (120, structures));
    let shape = Inspect::shape(&*engine).hybrid.unwrap();
    assert_eq!((shape.tree_reads, shape.level_reads), (above, below));
    assert!(above > 0 && below > 20, "{above} {below}");
    assert_eq!(shape.hot_read_share(), Some(above as f64 / 120.0));
}

/// A record that is read often below is copied into the tree, where it is overwritten as any other; one that has an entry there is not; and the copy
/// leaves the tree without being written to a table.
#[test]
fn what_is_read_often_below_is_copied_into_the_tree_and_leaves_it_without_a_write() {
    let engine = open_on(SimDisk::new(), &tiny());
    let put = |number: u64, byte: u8| {
        let mut batch = Batch::new(0);
        batch.put(key(number), vec![byte; 1000 + 2000 * (number % 2) as usize]);
        apply(&engine, &batch);
    };
    let read = |number: u64| engine.get(&key(number), Tier::Disk).unwrap().map(|value| value[0]);
    (0..100).for_each(|number| put(number, 1));
    Background::set(&*engine, "hot", "1").unwrap();
    settle(&*engine).unwrap();
    assert_eq!(engine.tree.tree_bytes(), 0, "all went down");
    Background::set(&*engine, "hot", "1M").unwrap();
    for _ in 0..20 {
        (0..4).for_each(|number| assert_eq!(read(number), Some(1)));
    }
    // Written after it was noted, and gone down again before the copy would be made.
    put(3, 2);
    settle(&*engine).unwrap();
    let shape = Inspect::shape(&*engine).hybrid.unwrap();
    assert_eq!((shape.promoted_entries, shape.promoted_bytes > 3000), (3, true));
    let before = shape.tree_reads;
    assert_eq!((read(0), read(1), read(2), read(3)), (Some(1), Some(1), Some(1), Some(2)));
    assert_eq!(Inspect::shape(&*engine).hybrid.unwrap().tree_reads, before + 4, "the tree has them");
    put(2, 3);
    run(&*engine, Command::Checkpoint).unwrap();
    run(&*engine, Command::Verify).unwrap();
    let (demoted, clean) = (shape.demoted_entries, shape.dropped_clean);
    Background::set(&*engine, "hot", "1").unwrap();
    settle(&*engine).unwrap();
    let shape = Inspect::shape(&*engine).hybrid.unwrap();
    assert_eq!(
        (shape.demoted_entries - demoted, shape.dropped_clean - clean),
        (2, 2),
        "two were overwritten"
    );
    assert_eq!((read(0), read(1), read(2), read(3)), (Some(1), Some(1), Some(3), Some(2)));
}

/// Reads of everything alike, of far more than the tree holds, do not turn it over: what comes in is hotter than what it drives out.
#[test]
fn reads_of_everything_alike_bring_hardly_anything_into_the_tree() {
    for (bytes, count) in [(100, 20_000), (3000, 1000)] {
        let mut options = Options { promote_heat: Options::default().promote_heat, ..tiny() };
        (options.hot_bytes, options.levels.table_bytes, options.levels.level_base_bytes) =
            (256 << 10, 64 << 10, 1 << 20);
        (options.tree.checkpoint_log_bytes, options.tree.dirty_bytes_max) = (4 << 20, 1 << 20);
        options.tree.common.log_segment_bytes = 64 << 10;
        let engine = open_on(SimDisk::new(), &options);
        for number in 0..count {
            let mut batch = Batch::new(0);
            batch.put(key(number), vec![1; bytes]);
            apply(&engine, &batch);
        }
        settle(&*engine).unwrap();
        let mut prng = Prng::new(bytes as u64);
        let before = Inspect::shape(&*engine).hybrid.unwrap();
        for number in 0..40_000 {
            engine.get(&key(prng.below(count)), Tier::Disk).unwrap();
            if number % 50 == 0 {
                settle(&*engine).unwrap();
            }
        }
        let shape = Inspect::shape(&*engine).hybrid.unwrap();
        let (reads, promoted) = (shape.level_reads - before.level_reads, shape.promoted_entries);
        assert!(
            reads > 20_000 && promoted < reads / 50,
            "{promoted} of {reads} for {bytes} bytes: {shape:?}"
        );
    }
}

/// A command brings everything down, however hot it is, and ends when that is done; held, nothing goes down, and writers hear why they wait.
#[test]
fn everything_goes_down_by_command_and_nothing_while_it_is_held() {
    let engine = open_on(SimDisk::new(), &tiny());
    let put = |number: u64| {
        let mut batch = Batch::new(0);
        batch.put(key(number), vec![number as u8; 3000]);
        engine.apply(&batch, Tier::Disk)
    };
    (0..4).for_each(|number| assert!(put(number).is_ok()));
    (0..20).for_each(|_| drop(engine.get(&key(0), Tier::Disk).unwrap()));
    assert_eq!(Inspect::shape(&*engine).hybrid.unwrap().round_time, None);
    run(&*engine, Command::Demote).unwrap();
    let shape = Inspect::shape(&*engine);
    let hybrid = shape.hybrid.unwrap();
    assert_eq!((engine.tree.tree_bytes(), hybrid.demoted_entries, hybrid.removed_entries), (0, 4, 4));
    assert_eq!((hybrid.round_time, hybrid.threshold, &shape.jobs[..]), (Some(Duration::ZERO), 0, &[][..]));
    // The key is hot, and below none the less.
    let explained = Inspect::explain(&*engine, &key(0), Tier::Disk).unwrap();
    assert_eq!((explained[0].verdict, explained.last().unwrap().verdict), ("hot", "hit"), "{explained:?}");

    Background::set(&*engine, "demote_held", "on").unwrap();
    let held = run(&*engine, Command::Demote);
    assert!(matches!(&held, Err(Error::Invalid(why)) if why.contains("release demote")), "{held:?}");
    let stopped = (4..100).map(put).find_map(|put| {
        settle(&*engine).unwrap();
        // Checkpoints go on.
        put.err()
            .filter(|error| !matches!(error, Error::Busy { cause: Cause::LogSpace | Cause::DirtyPages, .. }))
    });
    assert!(matches!(stopped, Some(Error::Busy { cause: Cause::HotFull, .. })), "{stopped:?}");
    let shape = Inspect::shape(&*engine);
    assert!(shape.hybrid.unwrap().demote_held && shape.stalls.now == Some(Cause::HotFull));
    assert_eq!(shape.hybrid.unwrap().demoted_entries, 4);
    Background::set(&*engine, "demote_held", "off").unwrap();
    settle(&*engine).unwrap();
    assert!(!engine.demoter.is_due());
    put(100).unwrap();
    assert_eq!(Inspect::shape(&*engine).stalls.now, None);

    // Who waits for a command hears of the end of the store.
    let (sender, receiver) = std::sync::mpsc::channel();
    Background::run(&*engine, Command::Demote, Box::new(move |result| sender.send(result).unwrap()));
    engine.close().unwrap();
    assert!(matches!(receiver.try_recv().unwrap(), Err(Error::Invalid(_))));
}

/// Scans that continue each other read the values of the tree ahead, a few requests for all of them.
#[test]
fn scans_that_continue_each_other_read_values_ahead() {
    let mut options = Options { hot_bytes: 1 << 30, ..tiny() };
    options.tree.common.cache_bytes = 8 << 20;
    (options.tree.checkpoint_log_bytes, options.tree.dirty_bytes_max) = (4 << 20, 1 << 20);
    let disk = Metered::new(SimDisk::new());
    let engine = open(disk.clone(), Arc::new(ManualClock::default()), &options).unwrap();
    for number in 0..64 {
        let mut batch = Batch::new(0);
        batch.put(key(number), vec![number as u8; 3000]);
        apply(&engine, &batch);
    }
    run(&*engine, Command::Checkpoint).unwrap();
    run(&*engine, Command::DropCaches).unwrap();
    let reads = || disk.snapshot().of(Purpose::Scan).reads;
    let before = reads();
    for number in (0..64).step_by(4) {
        let (start, end, mut count) = (key(number), key(number + 4), 0);
        let range = KeyRange { start: &start, end: Some(&end) };
        let scanned = engine.scan(range, Tier::Disk, &mut |_, value| {
            assert_eq!(value, [(number + count) as u8; 3000]);
            count += 1;
            ControlFlow::Continue(())
        });
        assert_eq!((scanned.unwrap(), count), ((), 4));
    }
    assert!(reads() - before <= 8, "{} reads for 16 scans", reads() - before);
}
