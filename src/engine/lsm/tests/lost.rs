//! Tables and segments of the log that are missing, short or damaged when the store is opened: it opens, and only who needs them is told.

use super::aside::{apply_soon, unreadable, write_some};
use super::*;

/// What becomes of a file while nobody looks.
#[derive(Clone, Copy, Debug)]
enum Loss {
    Missing,
    Short,
    Longer,
    Garbage,
    BadFooter,
    BadIndex,
}

const LOSSES: [Loss; 6] =
    [Loss::Missing, Loss::Short, Loss::Longer, Loss::Garbage, Loss::BadFooter, Loss::BadIndex];

fn lose(disk: &SimDisk, name: &str, loss: Loss, table: &table::TableMeta) {
    let file = disk.open(name).unwrap();
    let size = file.size().unwrap();
    let garbage = |from: u64, to: u64| {
        let bytes: Vec<u8> = (from..to).map(|at| (at * 7 + at / 3) as u8).collect();
        file.write_at(Purpose::Flush, from, &bytes).unwrap();
    };
    match loss {
        Loss::Missing => disk.remove(name).unwrap(),
        Loss::Short => file.set_size(size / 2).unwrap(),
        Loss::Longer => file.set_size(size + 100).unwrap(),
        Loss::Garbage => garbage(0, size),
        Loss::BadFooter => garbage(size - 30, size),
        Loss::BadIndex => garbage(table.sizes.data_bytes, size - 60),
    }
}

#[test]
fn a_table_that_is_lost_refuses_nothing_but_its_own_keys() {
    let (mut lost_keys, mut whole, mut in_l0) = (0, 0, 0);
    for seed in 0..90 {
        let policy = PolicyKind::ALL[seed % PolicyKind::ALL.len()];
        let loss = LOSSES[seed / PolicyKind::ALL.len() % LOSSES.len()];
        let options = Options {
            policy,
            value_log: seed % 4 == 3,
            policies: merging_early(seed % 3 == 2),
            common: Common { cache_bytes: if seed % 2 == 0 { 0 } else { 64 << 10 }, ..Common::tiny() },
            ..Options::tiny()
        };
        let disk = SimDisk::new();
        let mut engine = open_with(disk.clone(), &options).unwrap();
        let (mut prng, mut model) = (Prng::new(seed as u64), Model::new());
        write_some(&engine, &mut prng, &mut model, 300);
        engine.close().unwrap();
        let version = engine.superversion().version.clone();
        let tables: Vec<_> = version.tables().collect();
        let (level, victim) = tables[seed * 7 % tables.len()];
        let name = victim.number.file_name();
        lose(&disk, &name, loss, victim.meta());
        // It stays so however often it is opened.
        for round in 0..3 {
            engine = open_with(disk.kill(), &options).unwrap();
            let damage = engine.shape().damage.expect("damage that is not told");
            assert!(damage.starts_with(&name), "{loss:?}: {damage}");
            let lost = unreadable(&engine, &model);
            // A short file may still have all of its blocks.
            let is_whole = !damage.contains("kvfs check --repair");
            assert!(!is_whole || lost == 0, "{loss:?}: {lost} keys");
            assert!(
                is_whole || matches!(loss, Loss::Missing | Loss::Short | Loss::Garbage),
                "{loss:?}: {damage}"
            );
            if round == 0 {
                lost_keys += lost;
                whole += usize::from(lost == 0);
            }
            let events = engine.levels.core.event_log.events();
            let told = events.iter().filter(|event| event.name == "set_aside").count();
            assert_eq!(told, usize::from(!is_whole));
            // Keys that lie elsewhere are all there.
            for (key, value) in &model {
                if !victim.overlaps(key, key) {
                    assert_eq!(engine.get(key, Tier::Disk).unwrap().as_deref(), Some(&value[..]));
                }
            }
            assert!(
                matches!(run(&*engine, Command::Verify), Err(error) if error.to_string().starts_with(&name))
            );
        }
        write_some(&engine, &mut prng, &mut model, 1000);
        settle(&*engine).unwrap();
        let shape = engine.shape();
        assert!(
            stuck(policy) == StuckTables::Stay || shape.levels[0].files < 30,
            "{policy:?}: {:?}",
            shape.levels
        );
        let lost = unreadable(&engine, &model);
        match shape.damage {
            // It was written anew, or what it held was overwritten and it has expired.
            None => assert_eq!(lost, 0, "{policy:?} {loss:?}"),
            Some(damage) => {
                in_l0 += usize::from(level == 0);
                assert!(damage.starts_with(&name), "{damage}");
                assert!(matches!(run(&*engine, Command::Compact), Err(Error::Corrupt { .. })));
            }
        }
        // What was written since is in other tables.
        let mut batch = Batch::new(0);
        batch.put(victim.smallest.clone(), b"new".to_vec());
        batch.put(victim.largest.clone(), b"new".to_vec());
        apply_soon(&engine, &batch);
        engine.close().unwrap();
        for key in [&victim.smallest, &victim.largest] {
            assert_eq!(engine.get(key, Tier::Disk).unwrap().unwrap(), &b"new"[..]);
        }
    }
    println!("{lost_keys} keys lost, nothing in {whole}; {in_l0} stay in L0");
    assert!(lost_keys > 300 && whole > 30 && in_l0 > 3, "{lost_keys} {whole} {in_l0}");
}

#[test]
fn a_table_that_the_disk_refuses_to_read_refuses_no_mount() {
    let disk = SimDisk::new();
    let engine = open_tiny(disk.clone()).unwrap();
    let mut model = Model::new();
    let mut prng = Prng::new(8);
    for number in 0..200 {
        let batch = random_batch(&mut prng, number);
        apply_soon(&engine, &batch);
        apply_to(&mut model, &batch);
    }
    engine.close().unwrap();
    let files = engine.superversion().version.tables().count();
    drop(engine);
    let refuse = |nth, count, errno| {
        let faulty = Faulty::new(disk.kill());
        for _ in 0..count {
            let (kind, purpose) = (Some(crate::disk::Request::Read), Some(Purpose::Recovery));
            faulty.inject(Fault::Fail { kind, purpose, nth, errno });
        }
        open_with(faulty, &Options::tiny())
    };
    // The end of a table once, then also its blocks. What is read before is the manifest and the log.
    for failures in [1, 200] {
        let (mut refused, mut lost) = (0, 0);
        for nth in 0.. {
            match refuse(nth, failures, libc::EIO) {
                Ok(engine) if engine.shape().damage.is_none() => break,
                Ok(engine) => {
                    lost += 1;
                    unreadable(&engine, &model);
                }
                Err(Error::Io { context, .. }) => {
                    assert!(
                        lost == 0 && (context.contains("log.") || context.contains("manifest")),
                        "{context}"
                    );
                    refused += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert!(refused > 0 && lost >= files && files > 2, "{refused} {lost}");
        // That a file may not be read for want of memory is no damage.
        assert!(matches!(refuse(refused, 1, libc::ENOMEM), Err(Error::Io { .. })));
    }
}

/// A store with values in several segments of the log, closed.
fn values(options: &Options) -> (Arc<SimDisk>, Model) {
    let disk = SimDisk::new();
    let engine = open_with(disk.clone(), options).unwrap();
    let mut model = Model::new();
    for number in 0..60u8 {
        let mut batch = Batch::new(0);
        batch.put(format!("key{number:02}").into_bytes(), vec![number; 300]);
        batch.put(format!("small{number:02}").into_bytes(), vec![number; 20]);
        // What is overwritten makes garbage, so that the others are moved.
        batch.put(format!("key-hot{}", number % 3).into_bytes(), vec![number; 900]);
        apply_patiently(&*engine, &batch).unwrap();
        apply_to(&mut model, &batch);
    }
    run(&*engine, Command::Flush).unwrap();
    settle(&*engine).unwrap();
    engine.close().unwrap();
    (disk, model)
}

#[test]
fn a_segment_that_is_lost_costs_its_values_alone() {
    let options = Options {
        value_log: true,
        value_threshold_bytes: 100,
        value_gc_percent: 50,
        common: Common { log_segment_bytes: 4 << 10, ..Common::tiny() },
        ..Options::tiny()
    };
    let (disk, model) = values(&options);
    let needed: Vec<Lsn> = {
        let engine = open_with(disk.kill(), &options).unwrap();
        engine.superversion().version.needed().iter().map(|(start, _)| start).collect()
    };
    let apart = needed.iter().filter(|start| survivors::is_survivor(**start)).count();
    assert!(apart > 1 && needed.len() > apart, "{needed:?}");
    let is_value_file =
        |name: &str| wal::is_segment(name) || survivors::ValuesNumber::of_file(name).is_some();
    let mut losses = 0;
    for info in disk.list().unwrap().into_iter().filter(|info| is_value_file(&info.name)) {
        for how in 0..5 {
            let damaged = disk.kill();
            let file = damaged.open(&info.name).unwrap();
            match how {
                0 => damaged.remove(&info.name).unwrap(),
                1 => file.set_size(info.bytes / 2).unwrap(),
                // Both headers, and then also the first record.
                2 => file.write_at(Purpose::Wal, 0, &[0xA5; 1024]).unwrap(),
                3 => file.write_at(Purpose::Wal, 0, &[0xA5; 1100]).unwrap(),
                _ => file.set_size(0).unwrap(),
            }
            let place = format!("{} in way {how}", info.name);
            let mut before = 0;
            for round in 0..3 {
                let engine = match open_with(damaged.clone(), &options) {
                    Ok(engine) => engine,
                    // Where the log is still needed for itself.
                    Err(Error::Corrupt { .. }) if round == 0 => break,
                    Err(error) => panic!("{place}: {error}"),
                };
                let mut lost = 0;
                for (key, value) in &model {
                    match engine.get(key, Tier::Disk) {
                        Ok(found) => assert_eq!(found.as_deref(), Some(&value[..]), "{place}"),
                        Err(error) => {
                            assert!(matches!(error, Error::Corrupt { .. }), "{place}: {error}");
                            assert!(key.starts_with(b"key"), "{place}");
                            lost += 1;
                        }
                    }
                }
                assert!(
                    how != 2 || lost == 0 || !wal::is_segment(&info.name),
                    "{place}: {lost} values without a header"
                );
                assert!(lost < 20 && (round == 0 || lost == before), "{place}: {before}, {lost} values");
                let damage = engine.shape().damage;
                let is_gone = how == 0 || wal::is_segment(&info.name) && how != 1;
                assert!(!is_gone || damage.is_some() == (lost > 0), "{place}: {damage:?}");
                assert_eq!(run(&*engine, Command::Verify).is_err(), lost > 0, "{place}");
                // Everything else goes on: segments are used and emptied, merges copy the pointers that lead nowhere.
                for number in 0..40u8 {
                    let mut batch = Batch::new(0);
                    batch.put(format!("other{number}").into_bytes(), vec![number; 300]);
                    apply_patiently(&*engine, &batch).unwrap();
                }
                run(&*engine, Command::Compact).unwrap();
                settle(&*engine).unwrap();
                engine.close().unwrap();
                losses += usize::from(lost > 0);
                before = lost;
            }
        }
    }
    assert!(losses > 10, "{losses}");
    // A repair finds values of a segment whose headers are gone.
    let damaged = disk.kill();
    for info in disk.list().unwrap().into_iter().filter(|info| wal::is_segment(&info.name)).take(3) {
        damaged.open(&info.name).unwrap().write_at(Purpose::Wal, 0, &[0xA5; 1024]).unwrap();
    }
    let mut found = Model::new();
    let told = salvage(&*damaged, &mut |operation| {
        if let Some(value) = operation.value() {
            found.insert(operation.key().to_vec(), value.to_vec());
        }
        Ok(())
    });
    assert!(told.is_ok());
    assert_eq!(found, model);
}

#[test]
fn a_segment_that_the_disk_refuses_to_read_once_costs_nothing() {
    let options = Options { value_log: true, value_gc_percent: 0, ..Options::tiny() };
    let put = |engine: &LsmEngine, model: &mut Model, number: u64| {
        let mut batch = Batch::new(0);
        batch.put(format!("key{number:04}"), vec![number as u8; 300]);
        apply_patiently(engine, &batch).unwrap();
        apply_to(model, &batch);
    };
    let (mut opened, mut refused) = (0, 0);
    // The last segment holds values of tables, and those that were never flushed, or none of them.
    for unflushed in [0, 2] {
        let disk = SimDisk::new();
        let (engine, mut model) = (open_with(disk.clone(), &options).unwrap(), Model::new());
        (0..40).for_each(|number| put(&engine, &mut model, number));
        run(&*engine, Command::Flush).unwrap();
        (40..40 + unflushed).for_each(|number| put(&engine, &mut model, number));
        for nth in 0.. {
            let (disk, mut model) = (disk.kill(), model.clone());
            let faulty = Faulty::new(disk.clone());
            let kind = Some(crate::disk::Request::Read);
            faulty.inject(Fault::Fail { kind, purpose: Some(Purpose::Recovery), nth, errno: libc::EIO });
            let engine = open_with(faulty.clone(), &options);
            if faulty.hits() == 0 {
                break;
            }
            match engine {
                Ok(engine) => {
                    opened += 1;
                    (100..140).for_each(|number| put(&engine, &mut model, number));
                    run(&*engine, Command::Flush).unwrap();
                }
                Err(error) => {
                    refused += 1;
                    assert!(error.to_string().contains("Input/output error"), "{error}");
                }
            }
            for _ in 0..2 {
                let engine = open_with(disk.kill(), &options).unwrap();
                assert_eq!(contents(&*engine).unwrap(), model, "read {nth} failed, {unflushed} not flushed");
            }
        }
    }
    assert!(opened > 4 && refused > 4, "{opened} opened, {refused} refused");
}
