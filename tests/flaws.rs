//! Mistakes that textbook LSM-trees make, each of which loses or confuses data or makes a limit useless. One test a mistake.

use std::sync::Arc;

use kvfs::base::clock::ManualClock;
use kvfs::disk::{Metered, Purpose, SimDisk};
use kvfs::engine::{self, Batch, Command, Engine, Kind, Options, Tier, WorkClass, lsm};

fn open(sim: &Arc<SimDisk>, options: &Options) -> Arc<dyn Engine> {
    engine::open(sim.clone(), Arc::new(ManualClock::default()), options).unwrap()
}

fn put(engine: &dyn Engine, key: &str, value: &[u8]) {
    let mut batch = Batch::new(0);
    batch.put(key.to_string(), value.to_vec());
    while engine.apply(&batch, Tier::Disk).is_err() {
        engine::settle(engine).unwrap();
    }
}

fn get(engine: &dyn Engine, key: &str) -> Option<Vec<u8>> {
    engine.get(key.as_bytes(), Tier::Disk).unwrap().map(|value| value.to_vec())
}

#[test]
fn a_flush_does_not_throw_away_the_log_of_newer_batches() {
    let (sim, options) = (SimDisk::new(), Options::tiny(Kind::LSM).with("memtable=1").unwrap());
    let engine = open(&sim, &options);
    put(&*engine, "old", b"1");
    // It is in the same segment of the log, and not in the table that the flush writes.
    let options = options.with("memtable=1M").unwrap();
    drop(engine);
    let engine = open(&sim, &options);
    put(&*engine, "new", b"2");
    engine.work(WorkClass::Flush).unwrap();
    engine.work(WorkClass::Reclaim).unwrap();
    let engine = open(&sim.kill(), &options);
    assert_eq!((get(&*engine, "old"), get(&*engine, "new")), (Some(b"1".to_vec()), Some(b"2".to_vec())));
}

#[test]
fn a_cached_value_is_never_anothers_nor_an_older_one() {
    let (sim, options) = (SimDisk::new(), Options::tiny(Kind::LSM).with("cache=1M").unwrap());
    let engine = open(&sim, &options);
    let name = |number: u32| format!("key{number:05}");
    (0..3000).for_each(|number| put(&*engine, &name(number), &number.to_be_bytes()));
    engine::settle(&*engine).unwrap();
    for _ in 0..2 {
        (0..3000)
            .for_each(|number| assert_eq!(get(&*engine, &name(number)), Some(number.to_be_bytes().to_vec())));
    }
    for number in (0..3000).step_by(7) {
        put(&*engine, &name(number), b"newer");
        assert_eq!(
            get(&*engine, &name(number)),
            Some(b"newer".to_vec()),
            "read from the cache before the memtable"
        );
    }
}

#[test]
fn a_merge_takes_away_only_what_it_read() {
    let (sim, options) = (SimDisk::new(), Options::tiny(Kind::LSM));
    let engine = open(&sim, &options);
    for number in 0..400u32 {
        put(&*engine, &format!("key{:03}", number * 7 % 400), &[number as u8; 100]);
        // After every single unit of work everything is still there.
        engine.work(WorkClass::Flush).unwrap();
        engine.work(WorkClass::Merge).unwrap();
        engine.work(WorkClass::Reclaim).unwrap();
        if number % 20 == 0 {
            let there =
                (0..=number).filter(|done| get(&*engine, &format!("key{:03}", done * 7 % 400)).is_some());
            assert_eq!(there.count() as u32, number + 1, "keys after {number} puts");
        }
    }
    assert!(engine.shape().levels[2].files > 1, "merges of single tables out of L1");
}

#[test]
fn no_value_means_deleted() {
    for kind in [Kind::LSM, Kind::BTREE, Kind::HYBRID] {
        let (sim, options) = (SimDisk::new(), Options::tiny(kind));
        let engine = open(&sim, &options);
        let values: [&[u8]; 5] = [b"", b"DELETE", b"DELETED", b"__TOMBSTONE__", b"\0"];
        let check = |engine: &dyn Engine| {
            for (index, value) in values.iter().enumerate() {
                assert_eq!(get(engine, &format!("key{index}")).as_deref(), Some(*value), "{kind}");
            }
        };
        values.iter().enumerate().for_each(|(index, value)| put(&*engine, &format!("key{index}"), value));
        check(&*engine);
        engine::run(&*engine, Command::Compact).unwrap();
        check(&*engine);
        drop(engine);
        check(&*open(&sim.kill(), &options));
    }
}

#[test]
fn the_limit_of_bytes_is_fed_by_what_merges_really_move() {
    let clock = Arc::new(ManualClock::default());
    let disk = Metered::new(SimDisk::new());
    let options = Options::tiny(Kind::LSM).with("rate=1000").unwrap();
    let engine = engine::open(disk.clone(), clock.clone(), &options).unwrap();
    let merged = || (0..7).map(|into| disk.snapshot().of(Purpose::Compact { into }).write_bytes).sum::<u64>();
    for round in 0..10_000u32 {
        if merged() > 0 {
            break;
        }
        clock.advance(std::time::Duration::from_secs(1));
        let mut batch = Batch::new(0);
        // Spread, so that tables overlap and are merged, not moved.
        batch.put(round.wrapping_mul(0x9E37_79B1).to_be_bytes().to_vec(), vec![1; 500]);
        // A refusal is as good: L0 is full because merges wait.
        let _ = engine.apply(&batch, Tier::Disk);
        engine.work(WorkClass::Flush).unwrap();
        engine.work(WorkClass::Merge).unwrap();
    }
    assert!(merged() > 0, "nothing was merged");
    // The clock stands still, so what was merged is never paid for, and nothing more is.
    let before = merged();
    for _ in 0..100 {
        engine.work(WorkClass::Merge).unwrap();
    }
    assert_eq!(merged(), before);
    clock.advance(std::time::Duration::from_secs(1000));
    for _ in 0..100 {
        engine.work(WorkClass::Merge).unwrap();
    }
    assert!(merged() >= before, "what is paid for goes on");
}

#[test]
fn l1_holds_its_base_and_not_ten_times_that() {
    let (sim, options) = (SimDisk::new(), lsm::Options::default());
    let levels = open(&sim, &options.clone().into()).shape().levels;
    assert_eq!(levels[1].target_bytes, options.level_base_bytes);
    assert_eq!(levels[2].target_bytes, options.level_base_bytes * options.level_multiplier);
}
