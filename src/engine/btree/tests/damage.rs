//! Damage behind valid checksums: verification must report it, and no code may panic or loop because of it.

use super::page::Extent;
use super::*;
use crate::engine::btree::meta::{MapPlace, Meta, TreeCounts};
use crate::engine::btree::page::{CellValue, HEADER_BYTES, Page, checksum};

const PAGE: usize = 4096;

/// A settled store of a few levels with values in and out of line.
fn store() -> Arc<SimDisk> {
    let sim = SimDisk::new();
    let options = Options { page_bytes: PAGE as u64, ..tiny() };
    let engine = open_on(sim.clone(), &options).unwrap();
    for number in 0..900u32 {
        let mut batch = Batch::new(0);
        let length = if number % 90 == 7 { 5000 } else { 60 };
        batch.put(long_key(number), vec![number as u8; length]);
        apply(&engine, &batch).unwrap();
    }
    // Holes for the free map.
    for number in (0..900u32).filter(|number| number % 90 == 7).step_by(2) {
        let mut batch = Batch::new(0);
        batch.delete(long_key(number));
        apply(&engine, &batch).unwrap();
    }
    run(&*engine, Command::Checkpoint).unwrap();
    run(&*engine, Command::Verify).unwrap();
    assert!(engine.shape().tree.unwrap().height >= 3);
    engine.close().unwrap();
    sim
}

/// The data file of a store, which can be changed.
struct Image {
    sim: Arc<SimDisk>,
    bytes: Vec<u8>,
    meta: Meta,
}

impl Image {
    fn of(sim: &SimDisk) -> Image {
        let sim = sim.kill();
        let file = sim.open(allocation_unit::FILE).unwrap();
        let mut bytes = vec![0; file.size().unwrap() as usize];
        file.read_at(Purpose::Recovery, 0, &mut bytes).unwrap();
        let meta = Meta::newest(&bytes).unwrap();
        Image { sim, bytes, meta }
    }

    fn raw(&mut self, unit: UnitNumber) -> &mut [u8] {
        &mut self.bytes[unit.offset() as usize..][..PAGE]
    }

    fn page(&self, unit: UnitNumber) -> Page {
        let bytes = self.bytes[unit.offset() as usize..][..PAGE].to_vec();
        Page::decode(PageNumber::at(unit), bytes).unwrap()
    }

    /// Units of the pages of a level, in the order of keys.
    fn level(&self, level: u8) -> Vec<UnitNumber> {
        let mut units = vec![self.meta.root.unit()];
        while self.page(units[0]).level() > level {
            let children = |unit: &UnitNumber| {
                let page = self.page(*unit);
                (0..=page.count()).map(|index| page.child(index).unit()).collect::<Vec<_>>()
            };
            units = units.iter().flat_map(children).collect();
        }
        units
    }

    /// Sets the checksum of the page at `unit`.
    fn reseal(&mut self, unit: UnitNumber) {
        let crc = checksum(PageNumber::at(unit), self.raw(unit));
        self.raw(unit)[..4].copy_from_slice(&crc.to_le_bytes());
    }

    /// Offset of the cell in slot `index` in its page.
    fn cell(&mut self, unit: UnitNumber, index: usize) -> usize {
        let at = HEADER_BYTES + 2 * index;
        usize::from(u16::from_le_bytes(self.raw(unit)[at..at + 2].try_into().unwrap()))
    }

    /// The entry of the free map's only page.
    fn map(&mut self) -> &mut freemap::MapEntry {
        match &mut self.meta.map {
            MapPlace::Pages(root) => root,
            MapPlace::Runs { .. } => panic!("a map of the version before"),
        }
    }

    /// Changes the free map and sets its checksum.
    fn change_map(&mut self, change: impl FnOnce(&mut freemap::GroupBits)) {
        let unit = self.map().unit;
        let mut bits = freemap::GroupBits::decode(self.raw(unit));
        change(&mut bits);
        self.raw(unit).copy_from_slice(&bits.encode());
        let root = self.map();
        root.crc = crc32fast::hash(&bits.encode());
        root.free_units = bits.count().get() as u16;
        root.longest_units = bits.longest() as u16;
    }

    /// The first leaf with an extent: its unit, the index of the cell, the extent.
    fn extent(&self) -> (UnitNumber, usize, Extent) {
        let found = self.level(0).into_iter().find_map(|unit| {
            let page = self.page(unit);
            (0..page.count()).find_map(|index| match page.cell_value(index) {
                CellValue::Extent(extent) => Some((unit, index, extent)),
                CellValue::Inline(_) | CellValue::Tombstone => None,
            })
        });
        found.expect("a value out of line")
    }

    /// The store with the changed file.
    fn disk(mut self) -> Arc<SimDisk> {
        let (at, slot) = (self.meta.offset() as usize, self.meta.encode());
        self.bytes[at..at + slot.len()].copy_from_slice(&slot);
        let file = self.sim.open(allocation_unit::FILE).unwrap();
        file.write_at(Purpose::Recovery, 0, &self.bytes).unwrap();
        self.sim
    }
}

/// Reads everything in any order.
fn contents_of(engine: &BtreeEngine) -> Result<()> {
    engine.scan(KeyRange::ALL, Tier::Disk, &mut |_, _| ControlFlow::Continue(()))
}

#[test]
fn a_check_names_every_planted_defect() {
    let sim = store();
    type Plant = fn(&mut Image);
    let defects: &[(&str, Plant)] = &[
        ("the page's checksum does not fit", |image| {
            let unit = image.level(0)[3];
            image.raw(unit)[PAGE - 1] ^= 1;
        }),
        ("the value's checksum does not fit", |image| {
            let (_, _, extent) = image.extent();
            image.raw(extent.unit)[9] ^= 1;
        }),
        ("keys out of order", |image| {
            let unit = image.level(0)[2];
            let slots = &mut image.raw(unit)[HEADER_BYTES..HEADER_BYTES + 4];
            slots.rotate_left(2);
            image.reseal(unit);
        }),
        ("keys out of order", |image| {
            let unit = image.level(1)[0];
            let slots = &mut image.raw(unit)[HEADER_BYTES..HEADER_BYTES + 4];
            slots.rotate_left(2);
            image.reseal(unit);
        }),
        // The first key of a leaf in the middle is moved before its neighbours.
        ("a key outside the range", |image| {
            let unit = image.level(0)[5];
            let at = image.cell(unit, 0) + 4;
            image.raw(unit)[at] = 0;
            image.reseal(unit);
        }),
        // The separator between two pages is lowered to nothing.
        ("a key outside the range", |image| {
            let unit = image.level(1)[0];
            let at = image.cell(unit, 0) + 10;
            image.raw(unit)[at] = 0;
            image.reseal(unit);
        }),
        // Two pages change places below their parent.
        ("a key outside the range", |image| {
            let unit = image.level(1)[0];
            let (first, second) = (image.cell(unit, 0) + 2, image.cell(unit, 1) + 2);
            let raw = image.raw(unit);
            (0..8).for_each(|byte| raw.swap(first + byte, second + byte));
            image.reseal(unit);
        }),
        ("a page of another level than its parent says", |image| {
            let unit = image.level(1)[1];
            image.raw(unit)[page::LEVEL] = 2;
            image.reseal(unit);
        }),
        ("a page of another level than its parent says", |image| {
            let (parent, deep) = (image.level(2)[0], image.level(0)[4]);
            let at = image.cell(parent, 0) + 2;
            image.raw(parent)[at..at + 8].copy_from_slice(&deep.get().to_le_bytes());
            image.reseal(parent);
        }),
        ("an empty leaf", |image| {
            let unit = image.level(0)[1];
            let used = (PAGE - image.raw(unit).len() + image.page(unit).used_bytes()) as u32;
            let slots = 2 * image.page(unit).count() as u32;
            let raw = image.raw(unit);
            let garbage = u32::from_le_bytes(raw[12..16].try_into().unwrap()) + used - slots;
            raw[12..16].copy_from_slice(&garbage.to_le_bytes());
            raw[6..8].fill(0);
            image.reseal(unit);
        }),
        ("an extent whose length does not fit its units", |image| {
            let (unit, index, _) = image.extent();
            let at = image.cell(unit, index) + 4 + image.page(unit).key(index).len() + 8;
            image.raw(unit)[at] += 1;
            image.reseal(unit);
        }),
        ("an extent whose length does not fit its units, or nowhere", |image| {
            let (unit, index, _) = image.extent();
            let at = image.cell(unit, index) + 4 + image.page(unit).key(index).len() + 7;
            image.raw(unit)[at] = 0xff;
            image.reseal(unit);
        }),
        ("a unit that is used twice", |image| {
            let leaf = image.level(0)[2].get() as usize;
            image.change_map(|map| map.set(leaf, leaf + 1));
        }),
        ("units that nobody knows", |image| {
            image.change_map(|map| {
                let free = map.next_free(0).unwrap();
                map.clear(free, free + 1);
            });
        }),
        ("the checksum of a page of the free map does not fit", |image| {
            let unit = image.map().unit;
            image.raw(unit)[9] ^= 1;
        }),
        ("units that nobody knows at the end", |image| image.meta.end += Units::ONE),
        ("counts differ", |image| {
            image.meta.counts =
                TreeCounts { leaf_bytes: image.meta.counts.leaf_bytes + 1, ..image.meta.counts };
        }),
    ];
    for (index, (name, plant)) in defects.iter().enumerate() {
        let mut image = Image::of(&sim);
        plant(&mut image);
        let engine = open_on(image.disk(), &tiny()).unwrap();
        // A reader may or may not meet the damage; it must not panic.
        let _ = contents_of(&engine);
        let found = run(&*engine, Command::Verify).map_err(|error| error.to_string());
        assert!(found.as_ref().is_err_and(|error| error.contains(name)), "{index} {name}: {found:?}");
    }
}

#[test]
fn nonsense_behind_good_checksums_is_an_error_and_no_panic() {
    let sim = store();
    let mut prng = Prng::new(11);
    let mut refused = 0;
    for round in 0..250 {
        let mut image = Image::of(&sim);
        match round % 5 {
            0 => {
                let at = prng.below(image.meta.end.get() + 100) as usize;
                image.change_map(|map| if map.has(at) { map.clear(at, at + 1) } else { map.set(at, at + 1) });
                match prng.below(6) {
                    0 => image.map().free_units += 1,
                    1 => image.map().longest_units = 0xFFFF,
                    2 => image.map().side = Units::new(prng.below(3)),
                    _ => {}
                }
            }
            1 => {
                let next = image.meta.root.unit().get() + 1;
                let wild = [0, 1, 7, next, 1 << 20, u64::MAX / 3][prng.below(6) as usize];
                let wild_unit = UnitNumber::new(wild);
                match prng.below(4) {
                    0 => image.meta.root = PageNumber::at(wild_unit),
                    1 => image.map().unit = wild_unit,
                    2 => {
                        let run = (image.map().unit, Units::new([1, wild][prng.below(2) as usize]));
                        let bytes = [wild, 1, 30][prng.below(3) as usize];
                        image.meta.map = MapPlace::Runs { run, bytes, crc: 5 };
                    }
                    _ => image.meta.end = wild_unit,
                }
                let meta = &mut image.meta;
                if prng.one_in(3) {
                    meta.height = prng.below(6);
                }
            }
            kind => {
                let level = if kind == 2 { 1 } else { 0 };
                let units = image.level(level);
                let unit = units[prng.below(units.len() as u64) as usize];
                for _ in 0..1 + prng.below(3) {
                    let near = HEADER_BYTES + 2 * image.page(unit).count();
                    let at = match prng.below(3) {
                        0 => 5 + prng.below(near as u64 - 5) as usize,
                        1 => image.cell(unit, 0) + prng.below(14) as usize,
                        _ => prng.below(PAGE as u64) as usize,
                    };
                    image.raw(unit)[at.min(PAGE - 1)] = prng.bits() as u8;
                    // Mostly the page is refused at once: then no further change is made.
                    image.reseal(unit);
                    if Page::decode(PageNumber::at(unit), image.raw(unit).to_vec()).is_err() {
                        break;
                    }
                }
            }
        }
        let disk = image.disk();
        disk.set_capacity(Some(64 << 20));
        let Ok(engine) = open_on(disk, &tiny()) else {
            refused += 1;
            continue;
        };
        refused += u64::from(run(&*engine, Command::Verify).is_err());
        let mut entries = 0;
        let _ = engine.scan(KeyRange::ALL, Tier::Disk, &mut |_, _| {
            entries += 1;
            assert!(entries <= 900, "round {round}: a key visited twice");
            ControlFlow::Continue(())
        });
        for number in (0..900).step_by(50) {
            let _ = engine.get(&long_key(number), Tier::Disk);
        }
    }
    assert!(refused > 120, "{refused}");
}

/// Walks through a damaged store in every way. Each walk must end.
fn walk_everywhere(disk: Arc<SimDisk>, what: &str) {
    let options = Options { page_bytes: PAGE as u64, ..tiny() };
    let salvaged = disk.kill();
    let Ok(engine) = open_on(disk, &options) else { return };
    let mut entries = 0;
    let _ = engine.scan(KeyRange::ALL, Tier::Disk, &mut |_, _| {
        entries += 1;
        assert!(entries <= 900, "{what}: a key visited twice");
        ControlFlow::Continue(())
    });
    for number in (0..900).step_by(20) {
        let key = long_key(number);
        let _ = engine.get(&key, Tier::Disk);
        let _ = engine.explain(&key, Tier::Disk);
        let _ = engine.scan(
            KeyRange { start: &key, end: Some(&long_key(number + 9)) },
            Tier::Disk,
            &mut |_, _| ControlFlow::Continue(()),
        );
    }
    let found = run(&*engine, Command::Verify);
    assert!(matches!(found, Err(Error::Corrupt { .. })), "{what}: {found:?}");
    let _ = run(&*engine, Command::Compact);
    for number in (0..900).step_by(50) {
        let mut batch = Batch::new(0);
        batch.put(long_key(number), vec![1; 10]);
        batch.delete(long_key(number + 1));
        let _ = engine.apply(&batch, Tier::Disk);
    }
    let _ = engine.close();
    drop(engine);
    salvage(salvaged, &options, &mut |_| Ok(())).unwrap();
}

#[test]
fn no_walk_goes_round_in_circles() {
    let sim = store();
    // A child that is its parent, the root, a page of the same level, the one beside it, or a leaf of another parent.
    for target in 0..5 {
        for level in 1..3 {
            let mut image = Image::of(&sim);
            let units = image.level(level);
            let (parent, root) = (units[0], image.meta.root.unit());
            let target = match target {
                0 => parent,
                1 => root,
                2 => units[units.len() - 1],
                3 => image.page(parent).child(0).unit(),
                _ => *image.level(level - 1).last().unwrap(),
            };
            let at = image.cell(parent, 1) + 2;
            image.raw(parent)[at..at + 8].copy_from_slice(&target.get().to_le_bytes());
            image.reseal(parent);
            walk_everywhere(image.disk(), &format!("level {level}, child {target}"));
        }
    }
    // Separators out of order, each pair in turn.
    let count = Image::of(&sim).page(Image::of(&sim).level(1)[0]).count();
    for slot in 0..count - 1 {
        let mut image = Image::of(&sim);
        let unit = image.level(1)[0];
        let at = HEADER_BYTES + 2 * slot;
        image.raw(unit)[at..at + 4].rotate_left(2);
        image.reseal(unit);
        walk_everywhere(image.disk(), &format!("slots {slot} and the next"));
    }
    // All of them above the range that the parent gives the page.
    let mut image = Image::of(&sim);
    let unit = image.level(1)[0];
    for slot in 0..count {
        let at = image.cell(unit, slot) + 10;
        image.raw(unit)[at] = 0xF0;
    }
    image.reseal(unit);
    walk_everywhere(image.disk(), "separators that are too high");
}

#[test]
fn a_turned_bit_in_the_doublewrite_area_is_refused_when_it_is_needed_and_ignored_else() {
    let options = with(Mode::DOUBLEWRITE);
    let (mut needed, mut ignored) = (0, 0);
    for stop in (40..400).step_by(9) {
        let sim = SimDisk::new();
        let mut history = History::default();
        sim.stop_at(stop);
        let disk: Arc<dyn Disk> = sim.clone();
        let _ = workload_in(&Workload::new(&[Mode::DOUBLEWRITE], 3, 120), &disk, &mut history);
        let sim = sim.kill();
        let Ok(file) = sim.open(doublewrite::FILE) else { continue };
        // A part of the space behind the copies.
        let size = file.size().unwrap().min(32 << 10);
        let mut bytes = vec![0; 4096 + 512];
        sim.open(allocation_unit::FILE).unwrap().read_at(Purpose::Recovery, 0, &mut bytes).unwrap();
        let meta = Meta::newest(&bytes).unwrap();
        let mut prng = Prng::new(stop);
        for _ in 0..6 {
            let damaged = sim.kill();
            let bit = prng.below(size * 8);
            damaged.flip_bit(doublewrite::FILE, bit);
            match open_on(damaged.clone(), &options) {
                Err(Error::Corrupt { file, .. }) => {
                    assert_eq!(file, doublewrite::FILE);
                    assert!(bit / 8 < meta.doublewrite_bytes, "stop {stop}: a copy that nobody needs");
                    needed += 1;
                }
                Err(error) => panic!("{error}"),
                // The bit is not needed, or lies in the zeros behind the page numbers.
                Ok(_) => {
                    recovered_in(&options, damaged, &history, &format!("stop {stop} bit {bit}"));
                    ignored += 1;
                }
            }
        }
    }
    assert!(needed > 3 && ignored > 20, "{needed} {ignored}");
}

#[test]
fn a_disk_that_is_full_at_any_allocation_leaves_the_store_whole() {
    for mode in MODES {
        for nth in 0.. {
            let sim = SimDisk::new();
            let faulty = Faulty::new(sim.clone());
            let kind = Some(Request::Allocate);
            faulty.inject(Fault::Fail { kind, purpose: None, nth, errno: libc::ENOSPC });
            let disk: Arc<dyn Disk> = Latch::new(faulty.clone());
            let mut history = History::default();
            let result = workload_in(&Workload::new(&[mode], 5, 60), &disk, &mut history);
            if let Err(error) = &result {
                assert!(matches!(error, Error::NoSpace), "{mode:?} allocation {nth}: {error}");
            }
            if faulty.hits() == 0 {
                assert!(nth > 3, "{mode:?} asked for space {nth} times");
                break;
            }
            if sim.list().unwrap().iter().any(|info| info.name == allocation_unit::FILE) {
                let what = format!("{mode:?} allocation {nth}");
                let engine = recovered_in(&with(mode), sim.kill(), &history, &what);
                run(&*engine, Command::Checkpoint).unwrap();
                run(&*engine, Command::Verify).unwrap();
            }
        }
    }
}

#[test]
fn a_turned_bit_is_never_served() {
    let sim = SimDisk::new();
    let options = tiny();
    let mut model = Map::new();
    let engine = open_on(sim.clone(), &options).unwrap();
    let mut prng = Prng::new(7);
    for _ in 0..150 {
        let batch = random_batch(&mut prng);
        apply(&engine, &batch).unwrap();
        follow(&mut model, &batch);
    }
    engine.close().unwrap();
    drop(engine);
    let file_bytes = sim.open(allocation_unit::FILE).unwrap().size().unwrap();
    let mut caught = 0;
    for _ in 0..400 {
        let damaged = sim.kill();
        damaged.flip_bit(allocation_unit::FILE, prng.below(file_bytes * 8));
        let Ok(engine) = open_on(damaged, &options) else {
            caught += 1;
            continue;
        };
        match contents(&*engine) {
            Ok(found) => assert_eq!(found, model),
            Err(Error::Corrupt { file, .. }) => {
                caught += 1;
                assert_eq!(file, allocation_unit::FILE);
                assert!(matches!(run(&*engine, Command::Verify), Err(Error::Corrupt { .. })));
            }
            Err(error) => panic!("{error}"),
        }
        for (key, value) in &model {
            if let Ok(found) = engine.get(key, Tier::Disk) {
                assert_eq!(found.as_deref(), Some(&value[..]));
            }
        }
    }
    assert!(caught > 50, "{caught}");
}
