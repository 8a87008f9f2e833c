//! Damage that merges and collection meet: it stays where it is, and everything else goes on.

use super::*;

/// Damages the first block of a table, as a failing medium would.
fn damage(disk: &SimDisk, number: TableNumber) {
    assert!(disk.flip_bit(&number.file_name(), 8 * 20), "table.{number}");
}

/// The numbers of the tables, newest first.
fn numbers(engine: &LsmEngine) -> Vec<TableNumber> {
    engine.superversion().version.tables().map(|(_, table)| table.number).collect()
}

/// Applies a batch, which must come in after not too much work.
pub(super) fn apply_soon(engine: &LsmEngine, batch: &Batch) {
    for _ in 0..500 {
        match engine.apply(batch, Tier::Disk) {
            Ok(_) => return,
            Err(Error::Busy { .. }) => {
                engine.work(WorkClass::Flush).unwrap();
                engine.work(WorkClass::Merge).unwrap();
                engine.work(WorkClass::Reclaim).unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
    panic!("a writer waits for ever: {:?}", engine.shape().debt);
}

/// Every key is what it was, or cannot be read; how many cannot.
pub(super) fn unreadable(engine: &LsmEngine, model: &Model) -> usize {
    let mut count = 0;
    for key in (0..150).map(|number| format!("key{number}").into_bytes()) {
        match engine.get(&key, Tier::Disk) {
            Ok(found) => assert_eq!(found.as_deref(), model.get(&key).map(|value| &value[..])),
            Err(error) => {
                assert!(error.is_damage(), "{error}");
                count += 1;
            }
        }
    }
    count
}

/// Applies `count` random batches, with some background work in between.
pub(super) fn write_some(engine: &LsmEngine, prng: &mut Prng, model: &mut Model, count: u64) {
    for number in 0..count {
        let batch = random_batch(prng, number);
        apply_soon(engine, &batch);
        apply_to(model, &batch);
        if number % 3 == 0 {
            engine.work(WorkClass::Flush).unwrap();
            engine.work(WorkClass::Merge).unwrap();
        }
    }
}

#[test]
fn a_damaged_table_is_gone_around_under_every_policy() {
    let (mut aside, mut in_l0) = (0, 0);
    for (seed, policy) in PolicyKind::ALL.into_iter().cycle().enumerate().take(60) {
        let value_log = seed % 4 == 3;
        let options = Options {
            policy,
            value_log,
            policies: merging_early(seed % 3 == 2),
            merge_threads: 1 + seed as u64 % 3,
            ..Options::tiny()
        };
        let disk = SimDisk::new();
        let mut engine = open_with(disk.clone(), &options).unwrap();
        let (mut prng, mut model) = (Prng::new(seed as u64), Model::new());
        write_some(&engine, &mut prng, &mut model, 300);
        let tables = numbers(&engine);
        let victim = tables[(seed * 7) % tables.len().min(1 + seed)];
        damage(&disk, victim);
        engine.levels.reader.drop_caches();
        write_some(&engine, &mut prng, &mut model, 1500);
        settle(&*engine).unwrap();
        let shape = engine.shape();
        assert!(
            stuck(policy) == StuckTables::Stay || shape.levels[0].files < 30,
            "{policy:?}: {:?}",
            shape.levels
        );
        let lost = unreadable(&engine, &model);
        if let Some(what) = &shape.damage {
            aside += 1;
            in_l0 += usize::from(engine.superversion().version.level(0).iter().any(|it| it.number == victim));
            assert!(what.starts_with(&victim.file_name()), "{what}");
            assert!(lost < 40, "{lost} keys");
            let events = engine.levels.core.event_log.events();
            assert_eq!(events.iter().filter(|event| event.name == "set_aside").count(), 1);
            // At rest nothing is tried again.
            let before = engine.levels.compactor.traffic();
            (0..50).for_each(|_| assert_eq!(engine.work(WorkClass::Merge).unwrap(), Pending::Idle));
            assert_eq!(engine.levels.compactor.traffic().since(&before).total(), Default::default());
            assert!(matches!(run(&*engine, Command::Compact), Err(Error::Corrupt { .. })));
        }
        // It is found again.
        engine = open_with(disk.kill(), &options).unwrap();
        write_some(&engine, &mut prng, &mut model, 300);
        settle(&*engine).unwrap();
        assert!(unreadable(&engine, &model) <= lost, "{policy:?} seed {seed}");
    }
    println!("{aside} set aside, {in_l0} of them in L0");
    assert!(aside > 25 && in_l0 > 5, "{aside} set aside, {in_l0} of them in L0");
}

#[test]
fn a_table_that_the_disk_refused_to_read_is_merged_later() {
    let disk = Faulty::new(SimDisk::new());
    let clock = Arc::new(ManualClock::default());
    let options = Options::tiny();
    let engine = open(disk.clone(), clock.clone(), &options).unwrap();
    let (mut prng, mut model) = (Prng::new(4), Model::new());
    for number in 0..150 {
        let batch = random_batch(&mut prng, number);
        apply_soon(&engine, &batch);
        apply_to(&mut model, &batch);
    }
    while engine.work(WorkClass::Flush).unwrap() == Pending::More {}
    disk.inject(Fault::Fail {
        kind: Some(crate::disk::Request::Read),
        purpose: None,
        nth: 0,
        errno: libc::EIO,
    });
    settle(&*engine).unwrap();
    assert_eq!(disk.hits(), 1);
    let shape = engine.shape();
    assert!(shape.damage.unwrap().starts_with("reading table."), "{:?}", shape.levels);
    assert!(matches!(engine.work(WorkClass::Merge).unwrap(), Pending::After(_)));
    clock.advance(Duration::from_secs(1));
    assert_eq!(engine.shape().damage, None);
    settle(&*engine).unwrap();
    assert_eq!(contents(&*engine).unwrap(), model);
    assert!(engine.shape().levels[0].files < options.l0_trigger);
}

#[test]
fn a_value_that_cannot_be_read_stays_where_it_is() {
    let options =
        Options { value_log: true, value_threshold_bytes: 100, value_gc_percent: 90, ..Options::tiny() };
    let disk = SimDisk::new();
    let engine = open_with(disk.clone(), &options).unwrap();
    let put = |key: &str, bytes: Vec<u8>| {
        let mut batch = Batch::new(0);
        batch.put(key.to_string(), bytes);
        apply_soon(&engine, &batch);
    };
    engine.set("auto_compact", "off").unwrap();
    // Marked, so that it is found in the file.
    put("damaged", vec![0xA5; 300]);
    put("beside", vec![7; 300]);
    for round in 0..40 {
        put("garbage", vec![round; 300]);
    }
    run(&*engine, Command::Flush).unwrap();
    let mut found = None;
    for info in disk.list().unwrap().into_iter().filter(|info| wal::is_segment(&info.name)) {
        let bytes = crate::disk::read_all(&*disk.open(&info.name).unwrap(), Purpose::Verify).unwrap();
        if let Some(at) = bytes.windows(300).position(|window| window == [0xA5; 300]) {
            assert!(disk.flip_bit(&info.name, 8 * (at as u64 + 9)));
            found = Some(info.name);
        }
    }
    let name = found.unwrap();
    engine.levels.reader.drop_caches();
    engine.set("auto_compact", "on").unwrap();
    (0..40).for_each(|round| put(&format!("other{round}"), vec![round; 300]));
    run(&*engine, Command::Flush).unwrap();
    settle(&*engine).unwrap();
    let shape = engine.shape();
    assert!(shape.damage.as_ref().is_some_and(|what| what.starts_with(&name)), "{:?}", shape.damage);
    assert!(matches!(engine.get(b"damaged", Tier::Disk), Err(Error::Corrupt { .. })));
    assert_eq!(engine.get(b"beside", Tier::Disk).unwrap().unwrap(), vec![7; 300]);
    assert_eq!(engine.get(b"other39", Tier::Disk).unwrap().unwrap(), vec![39; 300]);
    let before = engine.levels.compactor.traffic();
    (0..50).for_each(|_| assert_eq!(engine.work(WorkClass::Merge).unwrap(), Pending::Idle));
    assert_eq!(engine.levels.compactor.traffic().since(&before).total(), Default::default());
}
