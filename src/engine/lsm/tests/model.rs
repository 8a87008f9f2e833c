//! The engine against a map, and what its meters say against what the disk saw.

use super::*;

#[test]
fn it_behaves_as_a_map_through_flushes_merges_and_reopening() {
    for (seed, options) in (0..6).flat_map(|seed| variants().into_iter().map(move |it| (seed, it))) {
        let disk = SimDisk::new();
        let mut engine = open_with(disk.clone(), &options).unwrap();
        let (mut prng, mut model) = (Prng::new(seed), Model::new());
        let mut deepest = 0;
        for number in 1..=1200 {
            let batch = random_batch(&mut prng, number);
            apply_patiently(&*engine, &batch).unwrap();
            apply_to(&mut model, &batch);
            let key = random_key(&mut prng);
            match engine.get(&key, Tier::Memory) {
                Err(Error::WouldBlock) => {}
                found => assert_eq!(found.unwrap().as_deref(), model.get(&key).map(|value| &value[..])),
            }
            assert_eq!(
                engine.get(&key, Tier::Disk).unwrap().as_deref(),
                model.get(&key).map(|value| &value[..])
            );
            if prng.one_in(20) {
                let (start, end) = (random_key(&mut prng), random_key(&mut prng));
                let (range, mut left) = (KeyRange { start: &start, end: Some(&end) }, prng.below(40));
                let wanted: Vec<Vec<u8>> = if start < end {
                    model
                        .range(start.clone()..end.clone())
                        .map(|(key, _)| key.clone())
                        .take(left as usize + 1)
                        .collect()
                } else {
                    Vec::new()
                };
                for tier in [Tier::Memory, Tier::Disk] {
                    let mut found = Vec::new();
                    let before = left;
                    let result = engine.scan(range, tier, &mut |key, value| {
                        assert_eq!(model.get(key).map(|value| &value[..]), Some(value));
                        found.push(key.to_vec());
                        if left == 0 {
                            return ControlFlow::Break(());
                        }
                        left -= 1;
                        ControlFlow::Continue(())
                    });
                    left = before;
                    match result {
                        Err(Error::WouldBlock) if tier == Tier::Memory => {}
                        result => assert_eq!(result.map(|()| found).unwrap(), wanted),
                    }
                }
            }
            match prng.below(60) {
                0..10 => drop(engine.work(WorkClass::Flush).unwrap()),
                10..20 => drop(engine.work(WorkClass::Merge).unwrap()),
                20 => settle(&*engine).unwrap(),
                21 => engine = open_with(disk.clone(), &options).unwrap(),
                22 => {
                    engine.close().unwrap();
                    engine = open_with(disk.clone(), &options).unwrap();
                    assert_eq!(engine.shape().debt.replay_bytes, Some(0));
                }
                23 if prng.one_in(8) => run(&*engine, Command::Compact).unwrap(),
                _ => {}
            }
            let used = engine.shape().levels.iter().rposition(|level| level.files > 0);
            deepest = deepest.max(used.unwrap_or(0));
        }
        assert_eq!(contents(&*engine).unwrap(), model);
        run(&*engine, Command::Verify).unwrap();
        assert!(
            deepest >= 2 || options.value_log || options.compression != Compression::None.into(),
            "the workload reached only L{deepest}"
        );
        let values = engine.shape().value_log;
        assert_eq!(values.moved_bytes > 0, options.value_log, "{values:?}");
        settle(&*engine).unwrap();
        check_space(&engine, &disk);
    }
}

#[test]
fn the_meter_agrees_with_the_witness_the_cache_and_the_levels() {
    variants().iter().for_each(compare_with_witness);
}

fn compare_with_witness(options: &Variant) {
    let sim = SimDisk::new();
    let disk = Metered::new(sim.clone());
    let engine = open_with(disk.clone(), options).unwrap();
    let mut prng = Prng::new(8);
    for number in 1..=600 {
        apply_patiently(&*engine, &random_batch(&mut prng, number)).unwrap();
        engine.get(&random_key(&mut prng), Tier::Disk).unwrap();
        if number % 50 == 0 {
            contents(&*engine).unwrap();
        }
        if number % 10 == 0 {
            settle(&*engine).unwrap();
        }
    }
    let (snapshot, witness, shape) = (disk.snapshot(), sim.witness(), engine.shape());
    let total = snapshot.total();
    assert_eq!(
        (total.writes, total.write_bytes, total.syncs),
        (witness.writes, witness.write_bytes, witness.syncs)
    );
    assert_eq!((total.reads, total.read_bytes), (witness.reads, witness.read_bytes));
    assert_eq!(shape.cache.all.misses, snapshot.of(Purpose::Get).reads + snapshot.of(Purpose::Scan).reads);
    assert!(
        shape.cache.all.misses > 0 && shape.cache.all.hits > 0 && shape.cache.bytes <= shape.cache.bytes_max
    );
    let into_l0 = snapshot.of(Purpose::Flush) + snapshot.of(Purpose::Compact { into: 0 });
    assert_eq!(shape.levels[0].traffic.write_bytes, into_l0.write_bytes);
    let moved = snapshot.of(Purpose::ValueLogGc);
    assert_eq!(moved.read_bytes, shape.value_log.moved_bytes);
    assert!(moved.write_bytes >= moved.read_bytes && (moved.writes > 0) == options.value_log);
    assert_eq!(snapshot.of(Purpose::ValueLog).writes > 0, options.value_log);
    for level in &shape.levels[1..] {
        let metered = snapshot.of(Purpose::Compact { into: level.level as u8 });
        assert_eq!(level.traffic.write_bytes, metered.write_bytes, "L{}", level.level);
        assert!(metered.read_bytes <= level.traffic.read_bytes, "L{}", level.level);
    }
    assert_eq!(shape.probes.unwrap().count(), 600);
    assert!(shape.filter.checks > 0 && shape.filter.useful <= shape.filter.checks);
    assert_eq!(table_bytes(&sim), level_bytes(&engine) + shape.space.obsolete_bytes);
}

#[test]
fn a_reader_keeps_its_files_until_it_is_done() {
    let disk = SimDisk::new();
    let engine = open_tiny(disk.clone()).unwrap();
    let (mut prng, mut model) = (Prng::new(7), Model::new());
    for number in 1..=200 {
        let batch = random_batch(&mut prng, number);
        apply_patiently(&*engine, &batch).unwrap();
        apply_to(&mut model, &batch);
    }
    let mut seen = 0;
    engine
        .scan(KeyRange::ALL, Tier::Disk, &mut |key, value| {
            if seen == 0 {
                run(&*engine, Command::Compact).unwrap();
                settle(&*engine).unwrap();
                assert!(engine.shape().space.obsolete_bytes > 0);
            }
            assert_eq!(model.get(key).map(|value| &value[..]), Some(value));
            seen += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen, model.len());
    settle(&*engine).unwrap();
    assert_eq!(engine.shape().space.obsolete_bytes, 0);
}
