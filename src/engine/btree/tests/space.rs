//! Merged pages, vacuum, and the end of the file.

use super::*;
use crate::base::event_log::Field;

#[test]
fn sparse_neighbours_merge_until_pages_are_well_filled() {
    for keep in [10, 50, 200] {
        let engine = open_on(SimDisk::new(), &tiny()).unwrap();
        fill(&engine, 3000, 60);
        let full = engine.shape().tree.unwrap();
        assert!(full.height >= 3 && full.fill > 0.8, "{full:?}");
        thin_out(&engine, 3000, keep);
        run(&*engine, Command::Checkpoint).unwrap();
        run(&*engine, Command::Verify).unwrap();
        let thin = engine.shape().tree.unwrap();
        assert!(thin.fill > 0.25, "one of {keep}: {thin:?}");
        assert!(u64::from(keep) > 100 || thin.inner_pages < full.inner_pages, "{thin:?}");
        assert_eq!(contents(&*engine).unwrap().len(), 3000 / keep as usize);
    }
}

#[test]
fn vacuum_cuts_the_file_to_what_is_in_use() {
    for mode in MODES {
        let sim = SimDisk::new();
        let engine = open_on(sim.clone(), &with(mode)).unwrap();
        let size = || sim.open(allocation_unit::FILE).unwrap().size().unwrap();
        fill(&engine, 600, 5000);
        run(&*engine, Command::Checkpoint).unwrap();
        let full = size();
        thin_out(&engine, 600, 10);
        run(&*engine, Command::Checkpoint).unwrap();
        let loose = size();
        // Reads and changes continue meanwhile.
        let (sender, ended) = std::sync::mpsc::channel();
        engine.run(Command::Compact, Box::new(move |result| sender.send(result).unwrap()));
        let mut model = contents(&*engine).unwrap();
        let mut steps = 0u32;
        while ended.try_recv().map(|result| result.unwrap()).is_err() {
            steps += 1;
            engine.work(WorkClass::Flush).unwrap();
            let (key, value) = (long_key(steps * 70 % 600), vec![1; 3000]);
            let mut batch = Batch::new(0);
            batch.put(key.clone(), value.clone());
            if engine.apply(&batch, Tier::Disk).is_ok() {
                model.insert(key, value);
            }
            assert!(steps < 2000);
            if steps.is_multiple_of(16) {
                engine.verifier.verify().unwrap();
                assert_eq!(contents(&*engine).unwrap(), model);
            }
        }
        run(&*engine, Command::Compact).unwrap();
        run(&*engine, Command::Verify).unwrap();
        assert_eq!(contents(&*engine).unwrap(), model);
        let used = engine.core.tree.read().space.used_units().bytes();
        assert!(size() < used + used / 8 + (100 << 10), "{mode:?}: {full} {loose} {} used {used}", size());
        assert!(size() < full / 4 && steps > 10, "{mode:?}: {full} {loose} {}", size());
        let engine = open_on(sim.crash(1), &tiny()).unwrap();
        run(&*engine, Command::Verify).unwrap();
        assert_eq!(contents(&*engine).unwrap(), model);
    }
}

/// Pages of four units, values of one and of five.
fn with_small_holes(sim: &Arc<SimDisk>, options: &Options) -> (Arc<BtreeEngine>, Map) {
    let engine = open_on(sim.clone(), options).unwrap();
    let value = |key: u32| vec![key as u8; if key % 7 == 3 { 20_000 } else { 3000 }];
    let mut model = Map::new();
    for key in 0..6000 {
        let mut batch = Batch::new(0);
        batch.put(long_key(key), value(key));
        apply(&engine, &batch).unwrap();
        model.insert(long_key(key), value(key));
    }
    run(&*engine, Command::Checkpoint).unwrap();
    // Every second key of the first group, and all keys of the one in the middle.
    for key in (0..5200).filter(|key| *key >= 2000 || key % 2 == 0) {
        let mut batch = Batch::new(0);
        batch.delete(long_key(key));
        apply(&engine, &batch).unwrap();
        model.remove(&long_key(key));
    }
    run(&*engine, Command::Checkpoint).unwrap();
    (engine, model)
}

/// Upper bound of the size of a vacuumed file.
fn vacuumed_bytes_max(engine: &BtreeEngine) -> u64 {
    let used = engine.core.tree.read().space.used_units();
    let ahead = growth::growth_units(&engine.core.options, engine.core.tree.read().space.end());
    (FIRST_UNIT + used + used / 32 + Units::new(16) + ahead).offset()
}

#[test]
fn holes_that_are_too_small_for_a_page_do_not_keep_the_file_long() {
    for mode in MODES {
        let sim = SimDisk::new();
        let options = mode.of(Options { page_bytes: 16 << 10, dirty_bytes_max: 1 << 20, ..large() });
        let (engine, model) = with_small_holes(&sim, &options);
        let size = || sim.open(allocation_unit::FILE).unwrap().size().unwrap();
        let loose = size();
        run(&*engine, Command::Compact).unwrap();
        run(&*engine, Command::Verify).unwrap();
        let bound = vacuumed_bytes_max(&engine);
        assert!(size() <= bound && size() < loose / 3, "{mode:?}: {loose} -> {}, at most {bound}", size());
        assert_eq!(contents(&*engine).unwrap(), model);
        let events = engine.core.event_log.events();
        let ended = events.iter().rev().find(|event| event.name == "compact").unwrap();
        let field = |name: &str| match ended.fields.iter().find(|(field, _)| *field == name) {
            Some((_, Field::Count(count))) => *count,
            other => panic!("{name}: {other:?}"),
        };
        assert_eq!((field("file_bytes_after"), field("unreadable")), (size(), 0));
        assert!(field("file_bytes_before") >= loose - (1 << 20), "{} {loose}", field("file_bytes_before"));
        let engine = open_on(sim.crash(1), &options).unwrap();
        run(&*engine, Command::Verify).unwrap();
        assert_eq!(contents(&*engine).unwrap(), model);
    }
}

#[test]
fn what_cannot_be_read_keeps_no_vacuum_from_the_rest() {
    let sim = SimDisk::new();
    let options = Options {
        page_bytes: 16 << 10,
        dirty_bytes_max: 1 << 20,
        common: Common { cache_bytes: 0, ..large().common },
        ..large()
    };
    let (engine, model) = with_small_holes(&sim, &options);
    let size = || sim.open(allocation_unit::FILE).unwrap().size().unwrap();
    let loose = size();
    // A leaf in the middle of the first group, and the value of another.
    let (leaf, value) = {
        let mut loaded = LoadedPieces::default();
        let tree = engine.core.tree.read();
        let mut find = |key: u32| loop {
            let (mut leaf, mut extent) = (UnitNumber::NONE, None);
            let walked = tree.leaf(&engine.core.pager, &loaded, &long_key(key), |at, page| {
                leaf = at.unit();
                if let (true, Ok(index)) = (page.is_leaf(), page.search(&long_key(key)))
                    && let page::CellValue::Extent(found) = page.cell_value(index)
                {
                    extent = Some(found.unit);
                }
            });
            match walked {
                Ok(_) => return (leaf, extent.unwrap()),
                Err(Stop::Miss(miss)) => {
                    let (unit, piece) = engine.core.pager.read(miss, Purpose::Get).unwrap();
                    loaded.add(tree.epoch, unit, piece);
                }
                Err(Stop::Failed(error)) => panic!("{error}"),
            }
        };
        (find(1001).0, find(5701).1)
    };
    for unit in [leaf, value] {
        assert!(sim.flip_bit(allocation_unit::FILE, (unit.offset() + 9) * 8));
    }
    run(&*engine, Command::Compact).unwrap();
    // Only that value lies so far behind; it stays in place.
    assert_eq!(engine.core.tree.read().space.end(), value + Units::new(5));
    assert!(size() < loose);
    let free = {
        let tree = engine.core.tree.read();
        tree.space
            .unused(&mut |entry| engine.core.pager.check_map_page(entry.unit, entry.crc, Purpose::Verify))
            .unwrap()
    };
    assert!(free.iter().any(|(_, units)| *units > Units::new(5000)));
    for unit in [leaf, value] {
        assert!(sim.flip_bit(allocation_unit::FILE, (unit.offset() + 9) * 8));
    }
    assert_eq!(contents(&*engine).unwrap(), model);
    run(&*engine, Command::Verify).unwrap();
}

#[test]
fn a_file_whose_end_became_free_is_cut_at_a_checkpoint() {
    let sim = SimDisk::new();
    let engine = open_on(sim.clone(), &tiny()).unwrap();
    let size = || sim.open(allocation_unit::FILE).unwrap().size().unwrap();
    fill(&engine, 300, 9000);
    run(&*engine, Command::Checkpoint).unwrap();
    let full = size();
    thin_out(&engine, 300, 300);
    run(&*engine, Command::Checkpoint).unwrap();
    // The page of the free map found a place only at the end; the next vacuum finds a better one.
    fill(&engine, 1, 10);
    run(&*engine, Command::Checkpoint).unwrap();
    assert!(size() < full / 4, "{full} {}", size());
    fill(&engine, 300, 9000);
    engine.close().unwrap();
    let engine = open_on(sim.crash(3), &tiny()).unwrap();
    assert_eq!(contents(&*engine).unwrap().len(), 300);
    run(&*engine, Command::Verify).unwrap();
}

/// Puts one or two entries of a few sizes until there is no space, then deletes everything in another order.
fn fill_and_empty(seed: u64, options: &Options, capacity: u64) {
    let sim = SimDisk::new();
    sim.set_capacity(Some(capacity));
    let engine = open_on(sim.clone(), options).unwrap();
    let mut prng = Prng::new(seed);
    // Each batch is tried until it is accepted or refused; waiting must end.
    let apply = |batch: &Batch| {
        for _ in 0..2000 {
            match engine.apply(batch, Tier::Disk) {
                Err(Error::Busy { .. }) => _ = engine.work(WorkClass::Flush),
                other => return other,
            }
        }
        panic!("seed {seed}: a batch waits for ever");
    };
    let mut keys = Vec::new();
    loop {
        let mut batch = Batch::new(1);
        for _ in 0..1 + prng.below(2) {
            let key = [&prng.bits().to_be_bytes()[..], b"/name"].concat();
            batch.put(key.clone(), vec![7; [20, 60, 250, 700][prng.below(4) as usize]]);
            keys.push(key);
        }
        match apply(&batch) {
            Ok(_) => {}
            Err(Error::NoSpace) => break,
            Err(error) => panic!("seed {seed}: {error}"),
        }
        if prng.one_in(50) {
            engine.work(WorkClass::Log).unwrap();
        }
    }
    let count = keys.len();
    assert!(count > 200, "seed {seed}: full after {count} entries");
    for at in (1..count).rev() {
        keys.swap(at, prng.below(at as u64 + 1) as usize);
    }
    for (nth, key) in keys.into_iter().enumerate() {
        let mut batch = Batch::new(1);
        batch.delete(key);
        batch.uses_reserve = true;
        apply(&batch).unwrap_or_else(|error| {
            panic!("{:?} seed {seed}: delete {nth} of {count}: {error}", options.variant())
        });
    }
    assert!(contents(&*engine).unwrap().is_empty());
    // The freed room can be used, whether the file could be cut or not.
    for nth in 0..count as u64 / 2 {
        let mut batch = Batch::new(1);
        batch.put(nth.to_be_bytes().to_vec(), vec![9; 200]);
        apply(&batch)
            .unwrap_or_else(|error| panic!("{:?} seed {seed}: put {nth}: {error}", options.variant()));
    }
    // Another program takes the rest of the disk: a batch that waits then gets an error, and does not wait for ever.
    let space = sim.space().unwrap();
    sim.set_capacity(Some(space.total_bytes - space.free_bytes));
    for nth in 0..200u64 {
        let mut batch = Batch::new(1);
        match prng.one_in(2) {
            true => batch.put(prng.bits().to_be_bytes().to_vec(), vec![9; 300]),
            false => {
                batch.delete(nth.to_be_bytes().to_vec());
                batch.uses_reserve = true;
            }
        }
        match apply(&batch) {
            Ok(_) | Err(Error::NoSpace) => {}
            Err(error) => panic!("{:?} seed {seed}: {error}", options.variant()),
        }
    }
    sim.set_capacity(None);
    run(&*engine, Command::Checkpoint).unwrap();
    run(&*engine, Command::Verify).unwrap();
}

#[test]
fn what_gives_space_back_is_done_on_a_full_disk() {
    for mode in MODES {
        for seed in 0..4 {
            let options = mode.of(Options {
                dirty_bytes_max: 128 << 10,
                checkpoint_log_bytes: 128 << 10,
                common: Common { reserve_bytes: 96 << 10, log_segment_bytes: 16 << 10, ..tiny().common },
                ..tiny()
            });
            fill_and_empty(seed, &options, (1 << 20) + seed * 37_000);
        }
    }
}

/// Pages are longer in the room that a change must find than in the file.
#[test]
fn what_gives_space_back_is_done_on_a_full_disk_with_compressed_pages() {
    for (seed, mode) in (0..).zip([Mode::COW, Mode::COW_EXTENT]) {
        let options = mode.of(Options {
            page_bytes: 16 << 10,
            dirty_bytes_max: 512 << 10,
            checkpoint_log_bytes: 256 << 10,
            common: Common { reserve_bytes: 256 << 10, log_segment_bytes: 32 << 10, ..tiny().common },
            ..tiny()
        });
        fill_and_empty(seed, &options, (2 << 20) + seed * 37_000);
    }
}

/// Random overwrites, checkpoint after checkpoint: pages of a checkpoint lie together, also when every extent has lost pages one by one.
#[test]
fn pages_are_written_together_and_what_is_mostly_dead_is_collected() {
    let run_in = |mode: Mode| {
        let metered = Metered::new(SimDisk::new());
        let options =
            mode.of(Options { dirty_bytes_max: 512 << 10, checkpoint_log_bytes: 1 << 20, ..large() });
        let engine = open_on(metered.clone(), &options).unwrap();
        let (mut prng, mut model) = (Prng::new(1), Map::new());
        let mut put = |engine: &BtreeEngine, key: u64, version: u32| {
            let (key, value) = (format!("key{key:08}").into_bytes(), vec![version as u8; 200]);
            let mut batch = Batch::new(0);
            batch.put(key.clone(), value.clone());
            apply(engine, &batch).unwrap();
            model.insert(key, value);
        };
        (0..8000).for_each(|key| put(&engine, key, 0));
        run(&*engine, Command::Checkpoint).unwrap();
        let (before, tree) = (metered.snapshot(), engine.shape().tree.unwrap());
        for version in 0..60_000 {
            put(&engine, prng.below(8000), version);
            if version % 8 == 0 {
                engine.work(WorkClass::Flush).unwrap();
            }
        }
        run(&*engine, Command::Checkpoint).unwrap();
        run(&*engine, Command::Verify).unwrap();
        assert_eq!(contents(&*engine).unwrap(), model, "{mode:?}");
        let written = metered.snapshot().since(&before).of(Purpose::Checkpoint);
        let shape = engine.shape().tree.unwrap();
        let pages = shape.pages.written.since(&tree.pages.written);
        let space = &engine.core.tree.read().space;
        let used_share = space.used_units().get() as f64 / (space.end() - FIRST_UNIT).get() as f64;
        (
            written.write_bytes / written.writes,
            pages.of_cause(PageCause::Vacuum).bytes,
            written.write_bytes,
            used_share,
        )
    };
    let (alone_bytes, alone_moved, ..) = run_in(Mode::COW);
    let (request_bytes, moved_bytes, bytes, used_share) = run_in(Mode::COW_EXTENT);
    assert_eq!(alone_moved, 0);
    assert!(request_bytes > 4 * alone_bytes, "{request_bytes} bytes a request, {alone_bytes} alone");
    assert!(moved_bytes > 0 && moved_bytes < bytes / 2, "{moved_bytes} of {bytes} bytes moved");
    assert!(used_share > 0.4, "{used_share}");
}
