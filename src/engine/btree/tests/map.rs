//! The free map: its cost in large files, stores of version 1, and pages of it that cannot be read.

use super::*;
use crate::engine::btree::meta::{MapPlace, Meta};

/// A file of `count` values of one unit each, every second of them deleted, after a checkpoint.
fn with_holes(sim: &Arc<SimDisk>, count: u32) -> Arc<BtreeEngine> {
    let engine = open_on(sim.clone(), &large()).unwrap();
    let mut put = Batch::new(0);
    for key in 0..count {
        put.put(key.to_be_bytes().to_vec(), vec![key as u8; 3000]);
        if put.bytes() > 200_000 || key + 1 == count {
            apply(&engine, &std::mem::take(&mut put)).unwrap();
        }
    }
    run(&*engine, Command::Checkpoint).unwrap();
    for keys in (0..count).step_by(2).collect::<Vec<_>>().chunks(100) {
        let mut batch = Batch::new(0);
        keys.iter().for_each(|key| batch.delete(key.to_be_bytes().to_vec()));
        apply(&engine, &batch).unwrap();
    }
    run(&*engine, Command::Checkpoint).unwrap();
    engine
}

fn overwrite(engine: &BtreeEngine, key: u32) {
    let mut batch = Batch::new(0);
    batch.put(key.to_be_bytes().to_vec(), vec![1; 3000]);
    apply(engine, &batch).unwrap();
}

#[test]
fn a_checkpoint_and_opening_cost_the_same_in_a_file_ten_times_as_long() {
    let [small, long] = [3000, 36_000].map(|count| {
        let sim = SimDisk::new();
        let engine = with_holes(&sim, count);
        let written = |engine: &BtreeEngine| {
            let tree = engine.shape().tree.unwrap();
            let read = tree.pages.read.of_kind(PageKind::FreeMap).bytes;
            (tree.pages.written.of_kind(PageKind::FreeMap).bytes, read)
        };
        let mut most = (0, 0);
        for round in 0..20 {
            let before = written(&engine);
            overwrite(&engine, round * 2 + 1);
            run(&*engine, Command::Checkpoint).unwrap();
            let after = written(&engine);
            most = (most.0.max(after.0 - before.0), most.1.max(after.1 - before.1));
        }
        engine.close().unwrap();
        let engine = open_on(sim.kill(), &large()).unwrap();
        run(&*engine, Command::Verify).unwrap();
        let tree = engine.shape().tree.unwrap();
        let opening = tree.pages.read.of(PageKind::FreeMap, PageCause::Recovery).bytes;
        if count > 30_000 {
            // So many units need another group; in tier Memory that is refused.
            let needs = freemap::SpaceNeeds { units: Units::new(5000), piece_units: Units::ONE, pages: 0 };
            let load = |tier| engine.core.load_room(needs, tier, Purpose::Get);
            assert!(matches!(load(Tier::Memory), Err(Error::WouldBlock)));
            load(Tier::Disk).unwrap();
            load(Tier::Memory).unwrap();
        }
        println!(
            "{count} values: a checkpoint writes {} and reads {} bytes of the map, opening reads {opening}",
            most.0, most.1
        );
        (most, opening)
    });
    // A group in which units were freed, one from which units were taken, and the page above them.
    assert!(long.0.0 <= 3 * UNIT_BYTES && long.0.1 <= 2 * UNIT_BYTES, "{long:?}");
    assert!(small.0.0 <= UNIT_BYTES && small.0.1 <= UNIT_BYTES, "{small:?}");
    assert!(long.1 <= 2 * UNIT_BYTES && small.1 <= UNIT_BYTES, "{small:?} {long:?}");
}

/// A store that a program of version 1 has left: after a checkpoint, with a list of free runs, and with batches behind it in the log. See
/// `tests/README.md`.
fn store_of_the_version_before() -> Arc<SimDisk> {
    let sim = SimDisk::new();
    let home = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/btree/runs");
    let mut names: Vec<_> = std::fs::read_dir(home).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.sort();
    for path in names {
        let file = sim.create(path.file_name().unwrap().to_str().unwrap()).unwrap();
        file.write_at(Purpose::Recovery, 0, &std::fs::read(&path).unwrap()).unwrap();
        file.sync(Purpose::Recovery).unwrap();
    }
    sim.sync_names().unwrap();
    sim
}

fn contents_of_the_version_before() -> Map {
    let bytes = |key: u32| [3000, 20, 300, 6000][key as usize % 4];
    let key = |key: u32| format!("key {key:04}").into_bytes();
    let mut map: Map = (0..60).filter(|n| n % 3 != 1).map(|n| (key(n), vec![n as u8; bytes(n)])).collect();
    map.insert(key(100), vec![100; 5000]);
    map.remove(&key(3));
    map.insert(key(8), vec![8; 2500]);
    map
}

fn place_of_map(sim: &SimDisk) -> MapPlace {
    let mut bytes = vec![0; 4096 + 512];
    sim.open(allocation_unit::FILE).unwrap().read_at(Purpose::Recovery, 0, &mut bytes).unwrap();
    Meta::newest(&bytes).unwrap().map
}

#[test]
fn a_store_of_the_version_before_opens_and_its_first_checkpoint_writes_the_new_form() {
    let options = Options { common: Common { log_segment_bytes: 16 << 10, ..tiny().common }, ..tiny() };
    let model = contents_of_the_version_before();
    let sim = store_of_the_version_before();
    assert!(matches!(place_of_map(&sim), MapPlace::Runs { run: (_, units), .. } if !units.is_zero()));
    let engine = open_on(sim.clone(), &options).unwrap();
    run(&*engine, Command::Verify).unwrap();
    assert_eq!(contents(&*engine).unwrap(), model);
    assert!(matches!(place_of_map(&sim), MapPlace::Runs { .. }), "opening changes nothing of it");
    let free = engine.core.tree.read().space.available_units();
    run(&*engine, Command::Checkpoint).unwrap();
    assert!(matches!(place_of_map(&sim), MapPlace::Pages(root) if !root.unit.is_none()));
    assert!(engine.core.tree.read().space.available_units() + Units::new(8) > free);
    run(&*engine, Command::Verify).unwrap();
    engine.close().unwrap();
    let engine = open_on(sim.kill(), &options).unwrap();
    run(&*engine, Command::Verify).unwrap();
    assert_eq!(contents(&*engine).unwrap(), model);

    // A crash at any request of that checkpoint does no harm.
    let whole = sim.requests();
    for stop in 0..=whole {
        let sim = store_of_the_version_before();
        let before = sim.requests();
        sim.stop_at(before + stop);
        if let Ok(engine) = open_on(sim.clone(), &options) {
            let _ = run(&*engine, Command::Checkpoint);
            let _ = engine.close();
        }
        for image in 0..3 {
            let what = format!("stop {stop} image {image}");
            let engine = open_on(sim.crash_as(image, Tear::Nonsense), &options).unwrap();
            assert_eq!(contents(&*engine).unwrap(), model, "{what}");
            run(&*engine, Command::Verify).unwrap_or_else(|error| panic!("{what}: {error}"));
        }
        if stop > whole - before {
            break;
        }
    }

    // Salvaged, too.
    let mut found = Map::new();
    let losses = salvage(store_of_the_version_before(), &options, &mut |operation| {
        match operation {
            Operation::Put { key, value } => drop(found.insert(key.to_vec(), value.to_vec())),
            Operation::Delete { key } => drop(found.remove(&key[..])),
        }
        Ok(())
    });
    assert!(losses.unwrap().is_empty());
    assert_eq!(found, model);
}

#[test]
fn a_damaged_list_of_the_version_before_refuses_nothing_and_is_named() {
    let options = Options { common: Common { log_segment_bytes: 16 << 10, ..tiny().common }, ..tiny() };
    let sim = store_of_the_version_before();
    let MapPlace::Runs { run: (unit, _), .. } = place_of_map(&sim) else { panic!("a list") };
    assert!(sim.flip_bit(allocation_unit::FILE, unit.offset() * 8 + 3));
    let engine = open_on(sim.clone(), &options).unwrap();
    assert_eq!(contents(&*engine).unwrap(), contents_of_the_version_before());
    assert!(engine.shape().damage.is_some_and(|damage| damage.contains("free map")));
    assert!(run(&*engine, Command::Verify).is_err());
    for round in 0..30 {
        overwrite(&engine, round);
        run(&*engine, Command::Checkpoint).unwrap();
    }
    drop(engine);
    let engine = open_on(sim.kill(), &options).unwrap();
    assert!(run(&*engine, Command::Verify).is_err(), "a check still says so");
    (0..30).for_each(|round| assert!(engine.get(&u32::to_be_bytes(round), Tier::Disk).unwrap().is_some()));
}

#[test]
fn a_page_of_the_map_that_cannot_be_read_costs_its_free_units_and_nothing_else() {
    for mode in MODES {
        let sim = SimDisk::new();
        let options = with(mode);
        let mut model = {
            let engine = open_on(sim.clone(), &options).unwrap();
            fill(&engine, 200, 5000);
            thin_out(&engine, 200, 2);
            engine.close().unwrap();
            contents(&*engine).unwrap()
        };
        let MapPlace::Pages(root) = place_of_map(&sim) else { panic!("pages") };
        assert!(sim.flip_bit(allocation_unit::FILE, root.unit.offset() * 8 + 100));
        let engine = open_on(sim.clone(), &options).unwrap();
        assert_eq!(contents(&*engine).unwrap(), model);
        let checked = run(&*engine, Command::Verify).unwrap_err().to_string();
        assert!(checked.contains("free map"), "{checked}");
        let mut prng = Prng::new(3);
        for step in 0..200 {
            let batch = random_batch(&mut prng);
            apply(&engine, &batch).unwrap_or_else(|error| panic!("{mode:?} {step}: {error}"));
            follow(&mut model, &batch);
            if step % 20 == 0 {
                run(&*engine, Command::Checkpoint).unwrap();
            }
        }
        run(&*engine, Command::Compact).unwrap();
        assert_eq!(contents(&*engine).unwrap(), model);
        let shape = engine.shape();
        assert!(shape.damage.is_some_and(|damage| damage.contains("free map")), "{mode:?}");
        assert!(engine.event_log().unwrap().events().iter().any(|event| event.name == "error"));
        // Also behind a crash, and without it.
        let engine = open_on(sim.crash(1), &options).unwrap();
        assert!(run(&*engine, Command::Verify).is_err(), "{mode:?}");
        assert_eq!(contents(&*engine).unwrap(), model);
        let mut found = Map::new();
        let losses = salvage(sim.kill(), &options, &mut |operation| {
            match operation {
                Operation::Put { key, value } => drop(found.insert(key.to_vec(), value.to_vec())),
                Operation::Delete { key } => drop(found.remove(&key[..])),
            }
            Ok(())
        });
        assert!(losses.unwrap().is_empty(), "{mode:?}");
        assert_eq!(found, model);
    }
}

/// Every request for a page of the map may fail once, and once more: a page is tried twice.
#[test]
fn a_read_of_the_map_may_fail() {
    for purpose in [Purpose::Recovery, Purpose::Get, Purpose::PageWrite, Purpose::Checkpoint] {
        for (nth, twice) in (0..12).flat_map(|nth| [(nth, false), (nth, true)]) {
            let sim = SimDisk::new();
            let options = Options { common: Common { cache_bytes: 1 << 20, ..tiny().common }, ..tiny() };
            let engine = open_on(sim.clone(), &options).unwrap();
            fill(&engine, 100, 5000);
            thin_out(&engine, 100, 3);
            engine.close().unwrap();
            let mut model = contents(&*engine).unwrap();
            let faulty = Faulty::new(sim.kill());
            for again in 0..1 + u64::from(twice) {
                let fault = Fault::Fail {
                    kind: Some(Request::Read),
                    purpose: Some(purpose),
                    nth: nth + again,
                    errno: libc::EIO,
                };
                faulty.inject(fault);
            }
            let disk: Arc<dyn Disk> = Latch::new(faulty.clone());
            let Ok(engine) = open_on(disk, &options) else { continue };
            let mut prng = Prng::new(nth);
            for _ in 0..30 {
                let batch = random_batch(&mut prng);
                match apply(&engine, &batch) {
                    Ok(_) => follow(&mut model, &batch),
                    Err(Error::Io { .. }) => {}
                    Err(error) => panic!("{purpose:?} {nth}: {error}"),
                }
                let _ = run(&*engine, Command::Checkpoint);
            }
            let _ = run(&*engine, Command::Compact);
            assert_eq!(contents(&*engine).unwrap(), model, "{purpose:?} {nth} {twice}");
        }
    }
}
