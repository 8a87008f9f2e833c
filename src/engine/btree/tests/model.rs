//! The tree against a map: any mixture of batches, checkpoints and reopening.

use super::*;

#[test]
fn random_operations_match_the_model() {
    for seed in 0..8 {
        let mut prng = Prng::new(seed);
        let options = match seed % 4 {
            0 => Options { common: Common { cache_bytes: 0, ..tiny().common }, ..tiny() },
            1 => tiny(),
            2 => Options {
                page_bytes: 8 << 10,
                common: Common { cache_bytes: 1 << 20, ..tiny().common },
                ..tiny()
            },
            _ => Options { page_bytes: 64 << 10, dirty_bytes_max: 1 << 20, ..tiny() },
        };
        let mut disk = SimDisk::new();
        let mut engine = open_on(disk.clone(), &options).unwrap();
        let model = MemEngine::new();
        let mut splits = 0;
        for step in 0..500 {
            match prng.below(20) {
                0..11 => {
                    let batch = random_batch(&mut prng);
                    apply(&engine, &batch).unwrap();
                    model.apply(&batch, Tier::Disk).unwrap();
                }
                11..14 => {
                    let key = random_key(&mut prng);
                    let wanted = model.get(&key, Tier::Disk).unwrap();
                    assert_eq!(engine.get(&key, Tier::Disk).unwrap(), wanted, "seed {seed} step {step}");
                    match engine.get(&key, Tier::Memory) {
                        Err(Error::WouldBlock) => {}
                        found => assert_eq!(found.unwrap(), wanted),
                    }
                }
                14..16 => {
                    let (start, end) = (random_key(&mut prng), random_key(&mut prng));
                    let range = KeyRange { start: &start, end: (!prng.one_in(3)).then_some(end.as_slice()) };
                    let limit = 1 + prng.below(40) as usize;
                    let list = |engine: &dyn Engine| {
                        let mut list = Vec::new();
                        let visit: &mut Visit<'_> = &mut |key, value| {
                            list.push((key.to_vec(), value.to_vec()));
                            if list.len() < limit {
                                ControlFlow::Continue(())
                            } else {
                                ControlFlow::Break(())
                            }
                        };
                        engine.scan(range, Tier::Disk, visit).unwrap();
                        list
                    };
                    assert_eq!(list(&*engine), list(&model), "seed {seed} step {step}");
                }
                16 | 17 => drop(engine.work(WorkClass::Flush).unwrap()),
                // In any state of a running checkpoint.
                18 if prng.one_in(2) => {
                    engine.verifier.verify().unwrap_or_else(|e| panic!("seed {seed} step {step}: {e}"))
                }
                18 if prng.one_in(3) => run(&*engine, Command::Checkpoint).unwrap(),
                18 if prng.one_in(3) => run(&*engine, Command::Compact).unwrap(),
                19 if prng.one_in(6) => {
                    splits += engine.shape().tree.unwrap().splits;
                    if prng.one_in(2) {
                        engine.close().unwrap();
                    }
                    disk = disk.kill();
                    engine = open_on(disk.clone(), &options).unwrap();
                    run(&*engine, Command::Verify).unwrap_or_else(|e| panic!("seed {seed} step {step}: {e}"));
                }
                _ => drop(engine.work(WorkClass::Log).unwrap()),
            }
        }
        run(&*engine, Command::Verify).unwrap();
        let wanted: Map = model.contents().iter().map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
        assert_eq!(contents(&*engine).unwrap(), wanted);
        // When everything is deleted, every unit is free.
        for key in wanted.keys() {
            let mut batch = Batch::new(0);
            batch.delete(key.clone());
            apply(&engine, &batch).unwrap();
        }
        run(&*engine, Command::Checkpoint).unwrap();
        run(&*engine, Command::Verify).unwrap();
        let tree = engine.shape().tree.unwrap();
        assert_eq!((tree.height, tree.leaf_pages, tree.inner_pages, tree.extent_bytes), (0, 0, 0, 0));
        splits += tree.splits;
        assert!((splits > 0 || options.page_bytes > 8 << 10) && (tree.merges > 0 || wanted.is_empty()));
    }
}
