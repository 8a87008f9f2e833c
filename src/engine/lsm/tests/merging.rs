//! Merges side by side: what runs at once, what is installed half way, and the space that it takes.

use super::*;

/// No two merges that run meet, nor share a table; what they work on is part of the store.
fn check_running(engine: &LsmEngine) -> (usize, usize) {
    let running = engine.levels.compactor.running_jobs();
    let claims: Vec<_> = running.jobs.iter().map(|job| job.claims()).collect();
    for (index, of_one) in claims.iter().enumerate() {
        let others = || claims[index + 1..].iter().flatten();
        assert!(of_one.iter().all(|claim| !others().any(|other| other.meets(claim))), "{claims:?}");
    }
    let inputs: Vec<TableNumber> =
        running.jobs.iter().flat_map(|job| job.inputs()).map(|it| it.1.number).collect();
    let mut once = inputs.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), inputs.len(), "a table in two merges");
    let version = engine.superversion().version.clone();
    let present: Vec<TableNumber> = version.tables().map(|(_, table)| table.number).collect();
    assert!(inputs.iter().all(|number| present.contains(number)));
    let slots = running.resting.len() as u64 + running.stepping;
    assert!(slots <= engine.levels.core.options.merge_threads);
    let halfway = running.jobs.iter().filter(|job| job.installed().1 > 0).count();
    (running.jobs.len(), halfway)
}

/// Batches and single steps of merges in turn; after each of those the store is held against a map.
fn step_by_step(options: &Options, seed: u64) -> (usize, usize) {
    let engine = open_with(SimDisk::new(), options).unwrap();
    let (mut prng, mut model) = (Prng::new(seed), Model::new());
    let (mut several, mut halfway) = (0, 0);
    for number in 1..=500 {
        let batch = random_batch(&mut prng, number);
        while engine.apply(&batch, Tier::Disk).is_err() {
            engine.work(WorkClass::Flush).unwrap();
            engine.work(WorkClass::Merge).unwrap();
        }
        apply_to(&mut model, &batch);
        if prng.one_in(90) {
            engine.run(Command::Compact, Box::new(|result| result.unwrap()));
        }
        engine.work(WorkClass::Flush).unwrap();
        engine.work(WorkClass::Merge).unwrap();
        let running = check_running(&engine);
        several += usize::from(running.0 > 1);
        halfway += running.1;
        if running != (0, 0) {
            assert_eq!(contents(&*engine).unwrap(), model, "seed {seed} after {number}");
        }
        engine.work(WorkClass::Reclaim).unwrap();
    }
    settle(&*engine).unwrap();
    assert_eq!(contents(&*engine).unwrap(), model);
    assert_eq!(engine.shape().space.temporary_bytes, 0);
    (several, halfway)
}

#[test]
fn merges_run_at_once_where_they_do_not_meet_and_no_half_of_one_is_ever_seen() {
    let tiny = Options { policies: merging_early(false), slice_tables: 1, ..Options::tiny() };
    for policy in PolicyKind::ALL {
        let (mut several, mut halfway) = (0, 0);
        for seed in 0..4 {
            for value_log in [false, true] {
                let options =
                    Options { policy, value_log, merge_threads: 2 + seed, l0_trigger: 3, ..tiny.clone() };
                let seen = step_by_step(&options, seed);
                several += seen.0;
                halfway += seen.1;
            }
        }
        println!(
            "{policy:?}: {several} times several merges, {halfway} times one that was installed in part"
        );
        assert!(several > 20 || policy != PolicyKind::LEVELED, "{policy:?}: {several}");
        // Only a merge below L0 has subcompactions.
        assert!(halfway > 20 || stuck(policy) != StuckTables::BySize, "{halfway}");
    }
}

/// Fills a store, writes a part of it anew, and compacts: bytes of tables before, and at most while it was compacted.
fn compact_with(slice_tables: u64, policy: PolicyKind) -> (u64, u64, u64) {
    let disk = SimDisk::new();
    let options = Options { slice_tables, policy, ..Options::tiny() };
    let engine = open_with(disk.clone(), &options).unwrap();
    let mut prng = Prng::new(9);
    for (count, keys) in [(4000u64, 4000), (300, 4000)] {
        for number in 0..count {
            let mut batch = Batch::new(0);
            let index = if count == keys { number } else { prng.below(keys) };
            batch.put(format!("key{index:05}").into_bytes(), vec![number as u8; 60]);
            apply_patiently(&*engine, &batch).unwrap();
        }
        if count == keys {
            run(&*engine, Command::Compact).unwrap();
        }
        run(&*engine, Command::Flush).unwrap();
        settle(&*engine).unwrap();
    }
    let before = table_bytes(&disk);
    engine.run(Command::Compact, Box::new(|result| result.unwrap()));
    let mut most = before;
    loop {
        let pending = engine.work(WorkClass::Merge).unwrap();
        most = most.max(table_bytes(&disk));
        while engine.levels.core.table_store.reclaim() {}
        let (told, beside) =
            (engine.shape().space.temporary_bytes, table_bytes(&disk).saturating_sub(before));
        // An output is counted before the last bytes of it are written.
        assert!(told.abs_diff(beside) <= 4096, "{told} bytes reported beside the inputs, {beside} are there");
        if pending == Pending::Idle {
            break;
        }
    }
    let shape = engine.shape();
    assert_eq!(shape.levels.iter().map(|level| level.runs).sum::<u64>(), 1);
    (before, most - before, shape.space.temporary_peak_bytes)
}

#[test]
fn a_merge_of_many_tables_needs_little_space_beside_them() {
    for policy in [PolicyKind::LEVELED, PolicyKind::EAGER, PolicyKind::TIERED] {
        let (before, whole, reported) = compact_with(0, policy);
        // What is compacted is there twice; the run of the other policies had been merged to the end before.
        assert!(policy == PolicyKind::EAGER || whole * 10 > before * 8, "{policy:?}: {whole} of {before}");
        let (before, cut, cut_reported) = compact_with(2, policy);
        println!(
            "{policy:?}: {before} bytes; most beside them {whole} (reported {reported}) whole, {cut} \
             (reported {cut_reported}) in subcompactions"
        );
        assert!(cut * 3 < before && cut_reported * 3 < before, "{policy:?}: {cut} of {before}");
    }
}

#[test]
fn several_merges_begin_only_as_far_as_there_is_space_for_all_of_them() {
    let disk = SimDisk::new();
    let options = Options { slice_tables: 1, merge_threads: 4, ..Options::tiny() };
    let engine = open_with(disk.clone(), &options).unwrap();
    let (mut prng, mut model) = (Prng::new(3), Model::new());
    let (mut steps, mut waited, mut failed) = (0, 0, 0);
    for number in 1..=1500 {
        let batch = random_batch(&mut prng, number);
        while let Err(error) = engine.apply(&batch, Tier::Disk) {
            assert!(matches!(error, Error::Busy { .. }), "{error}");
            disk.set_capacity(None);
            engine.work(WorkClass::Flush).unwrap();
            // So little is free that only some of what is due fits.
            let used: u64 = disk.list().unwrap().iter().map(|info| info.bytes).sum();
            let owed = engine.levels.core.space.merge_owed_bytes();
            disk.set_capacity(Some(used + owed + 3000 + prng.below(12_000)));
            for _ in 0..8 {
                steps += 1;
                match engine.work(WorkClass::Merge) {
                    Ok(Pending::After(_)) => waited += 1,
                    Ok(_) => {}
                    Err(error) => {
                        assert!(matches!(error, Error::NoSpace), "{error}");
                        failed += 1;
                    }
                }
                check_running(&engine);
                engine.work(WorkClass::Reclaim).unwrap();
            }
            disk.set_capacity(None);
            if prng.one_in(3) {
                settle(&*engine).unwrap();
            }
        }
        apply_to(&mut model, &batch);
    }
    settle(&*engine).unwrap();
    assert_eq!(contents(&*engine).unwrap(), model);
    println!("{steps} steps, {waited} waited for space, {failed} failed");
    assert!(waited > 20 && failed == 0, "{steps} steps, {waited} waited, {failed} failed");
}

#[test]
fn a_merge_that_fails_leaves_the_others_and_what_it_has_done() {
    for nth in 0..60 {
        let sim = SimDisk::new();
        let faulty = Faulty::new(sim.clone());
        let options = Options { slice_tables: 1, merge_threads: 3, ..Options::tiny() };
        let engine = open_with(faulty.clone(), &options).unwrap();
        let (mut prng, mut model) = (Prng::new(nth), Model::new());
        let purpose = Some(Purpose::Compact { into: 1 + (nth % 2) as u8 });
        faulty.inject(Fault::Fail { kind: None, purpose, nth, errno: libc::EIO });
        let mut failed = 0;
        for number in 1..=400 {
            let batch = random_batch(&mut prng, number);
            while engine.apply(&batch, Tier::Disk).is_err() {
                engine.work(WorkClass::Flush).unwrap();
                failed += usize::from(engine.work(WorkClass::Merge).is_err());
                check_running(&engine);
            }
            apply_to(&mut model, &batch);
            failed += usize::from(engine.work(WorkClass::Merge).is_err());
        }
        settle(&*engine).unwrap();
        assert!(failed <= 1);
        assert_eq!(contents(&*engine).unwrap(), model, "request {nth}");
        assert_eq!(contents(&*open_with(sim.kill(), &options).unwrap()).unwrap(), model, "request {nth}");
        let shape = engine.shape();
        assert_eq!(
            table_bytes(&sim),
            level_bytes(&engine) + shape.space.obsolete_bytes,
            "a file is left over"
        );
    }
}

/// The levels from which merges run, and whether those have installed anything.
fn running_levels(engine: &LsmEngine) -> Vec<(usize, bool)> {
    let running = engine.levels.compactor.running_jobs();
    running.jobs.iter().map(|job| (job.compaction.inputs[0].0, job.installed().1 > 0)).collect()
}

#[test]
fn a_level_is_merged_down_where_a_merge_into_it_is_done() {
    let options = Options { slice_tables: 1, merge_threads: 3, ..Options::tiny() };
    let engine = open_with(SimDisk::new(), &options).unwrap();
    let (mut prng, mut model, mut both) = (Prng::new(1), Model::new(), 0);
    for number in 1..=3000u64 {
        // Levels of many tables.
        let mut batch = Batch::new(0);
        batch.put(format!("key{:04}", prng.below(3000)).into_bytes(), vec![number as u8; 60]);
        while engine.apply(&batch, Tier::Disk).is_err() {
            engine.work(WorkClass::Flush).unwrap();
            engine.work(WorkClass::Merge).unwrap();
            check_running(&engine);
            let levels = running_levels(&engine);
            both += usize::from(levels.contains(&(0, true)) && levels.iter().any(|(level, _)| *level == 1));
        }
        apply_to(&mut model, &batch);
        if number % 100 == 0 {
            assert_eq!(contents(&*engine).unwrap(), model);
        }
    }
    settle(&*engine).unwrap();
    assert_eq!(contents(&*engine).unwrap(), model);
    println!("{both} steps");
    assert!(both > 0, "L1 waits for the end of every merge into it");
}

#[test]
fn flushes_are_merged_beside_a_merge_of_everything() {
    let options = Options {
        policy: PolicyKind::TIERED,
        policies: merging_early(false),
        slice_tables: 1,
        merge_threads: 2,
        l0_slowdown: 500,
        l0_stop: 1000,
        ..Options::tiny()
    };
    let engine = open_with(SimDisk::new(), &options).unwrap();
    let (mut prng, mut model) = (Prng::new(1), Model::new());
    let mut write = |count, model: &mut Model| {
        for number in 0..count {
            let batch = random_batch(&mut prng, number);
            while engine.apply(&batch, Tier::Disk).is_err() {
                engine.work(WorkClass::Flush).unwrap();
            }
            apply_to(model, &batch);
        }
        while engine.work(WorkClass::Flush).unwrap() == Pending::More {}
    };
    write(200, &mut model);
    settle(&*engine).unwrap();
    write(1000, &mut model);
    // The first step begins a merge of everything.
    engine.work(WorkClass::Merge).unwrap();
    let into = engine.levels.compactor.running_jobs().jobs[0].compaction.into;
    assert!(into > 0 && engine.levels.compactor.running_jobs().jobs.len() == 1);
    let inputs = engine.levels.compactor.running_jobs().jobs[0].inputs().len();
    write(200, &mut model);
    let mut beside = 0;
    while !running_levels(&engine).is_empty() && beside == 0 {
        engine.work(WorkClass::Merge).unwrap();
        check_running(&engine);
        let running = engine.levels.compactor.running_jobs();
        beside += running.jobs.iter().filter(|job| job.compaction.into == 0).count();
        assert!(beside == 0 || running.jobs.iter().any(|job| job.compaction.into == into), "not beside it");
    }
    assert!(beside > 0, "nothing beside a merge of {inputs} tables");
    assert_eq!(contents(&*engine).unwrap(), model);
    settle(&*engine).unwrap();
    assert_eq!(contents(&*engine).unwrap(), model);
}

/// Of what a merge has installed there are copies in its inputs until it ends; they leave then, so they are no reason to drop anything.
#[test]
fn what_a_merge_has_installed_is_not_cleaned_by_its_inputs() {
    let options = Options {
        slice_tables: 1,
        merge_threads: 4,
        l0_trigger: 1,
        memtable_bytes: 64 << 10,
        level_base_bytes: 1 << 20,
        ..Options::tiny()
    };
    let key = |number: u32| format!("key{number:04}").into_bytes();
    let engine = open_with(SimDisk::new(), &options).unwrap();
    let mut model = Model::new();
    let write = |model: &mut Model, batch: Batch| {
        engine.apply(&batch, Tier::Disk).unwrap();
        apply_to(model, &batch);
    };
    // The second one is merged with the first one, to tables of the size that is wanted.
    for round in 0..2 {
        let mut batch = Batch::new(0);
        (0..400).for_each(|number| batch.put(key(number), vec![round; 60]));
        write(&mut model, batch);
        engine.writer.rotate_now();
        settle(&*engine).unwrap();
    }
    let mut batch = Batch::new(0);
    (0..400).filter(|number| number % 2 == 0).for_each(|number| batch.put(key(number), vec![2; 60]));
    (0..400).filter(|number| number % 2 == 1).for_each(|number| batch.delete(key(number)));
    write(&mut model, batch);
    engine.writer.rotate_now();
    while engine.work(WorkClass::Flush).unwrap() == Pending::More {}
    let mut beside = 0;
    loop {
        let pending = engine.work(WorkClass::Merge).unwrap();
        check_running(&engine);
        if running_levels(&engine).contains(&(0, true)) {
            engine.levels.core.space.want_space();
            beside += 1;
        }
        assert!(contents(&*engine).unwrap() == model, "not what was written");
        if pending != Pending::More {
            break;
        }
    }
    assert!(beside > 0, "no merge was seen half way");
}

/// As files are written one after the other: blocks ascend, and the records of inodes and directories, which lie before all blocks, are
/// written again and again. What is merged there has nothing to do with older blocks.
#[test]
fn blocks_that_ascend_are_moved_down_although_records_before_them_change() {
    let options = Options {
        memtable_bytes: 64 << 10,
        table_bytes: 64 << 10,
        level_base_bytes: 256 << 10,
        ..Options::default()
    };
    let engine = open_with(SimDisk::new(), &options).unwrap();
    for number in 0..1500u32 {
        let mut batch = Batch::new(0);
        batch.put([&[0x10], &(number % 300).to_be_bytes()[..]].concat(), vec![1; 100]);
        batch.put([&[0x40], &number.to_be_bytes()[..]].concat(), vec![2; 4096]);
        apply_patiently(&*engine, &batch).unwrap();
    }
    settle(&*engine).unwrap();
    let levels = &engine.shape().levels;
    let (moved_bytes, written_bytes) = (levels[2].traffic.moved_bytes, levels[2].traffic.write_bytes);
    assert!(moved_bytes > 4 << 20 && written_bytes < moved_bytes / 8, "{moved_bytes} {written_bytes}");
    run(&*engine, Command::Verify).unwrap();
}
