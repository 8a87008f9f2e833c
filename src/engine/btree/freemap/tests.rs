//! The map against a plain set of units, and the pages that its checkpoints write, read and keep.

use std::cell::Cell;
use std::collections::BTreeSet;

use super::super::allocation_unit::literal::{unit_count, unit_number};
use super::super::allocation_unit::{UNIT_BYTES, UnitMap};
use super::group::CLASSES;
use super::page::{CHILDREN, pages_of};
use super::*;
use crate::base::prng::Prng;
use crate::engine::Error;

/// The end of a file that need not grow.
const HUGE: UnitNumber = UnitNumber::new(1 << 40);

/// A file of which only the pages of the map are kept.
#[derive(Default)]
struct Store {
    pages: UnitMap<Vec<u8>>,
    root: MapEntry,
    end: UnitNumber,
    /// The end in the state of the last checkpoint, durable or not.
    next_end: UnitNumber,
    /// Pages written by the last checkpoint.
    written: Vec<UnitNumber>,
    /// Pages read so far.
    read: Cell<u64>,
}

impl Store {
    fn read(&self, entry: &MapEntry) -> Option<Vec<u8>> {
        self.read.set(self.read.get() + 1);
        self.pages.get(&entry.unit).filter(|bytes| crc32fast::hash(bytes) == entry.crc).cloned()
    }

    /// Writes the pages of a checkpoint; nothing of it is durable yet.
    fn write(&mut self, map: &mut FreeMap) -> MapChanges {
        while let Some(request) = map.wanted_for_homes() {
            map.admit(&request, self.read(&request.entry).as_deref());
        }
        let room = map.map_units_max(Units::ZERO);
        if let Some(end) = map.missing(room) {
            map.set_file_end(end);
        }
        let before = map.end();
        let mut changes = map.freeze();
        assert!(map.end() - before <= room, "{} of {room}", map.end() - before);
        self.next_end = map.end();
        map.set_leaving(changes.sort());
        self.written.clear();
        for nth in 0..changes.group_count() {
            if let Some((unit, bytes)) = changes.group_page(nth, |entry| Ok(self.read(entry))).unwrap() {
                assert_ne!(self.root.unit, unit, "the durable root");
                self.written.push(unit);
                self.pages.insert(unit, bytes);
            }
        }
        for nth in 0..changes.page_count() {
            let (unit, bytes) = changes.page(nth, map);
            self.written.push(unit);
            self.pages.insert(unit, bytes);
        }
        changes
    }

    fn commit(&mut self, map: &mut FreeMap, changes: &MapChanges) {
        self.root = changes.root(map);
        self.end = self.next_end;
        map.commit(changes);
    }

    fn release(map: &mut FreeMap, changes: &MapChanges) {
        for nth in 0..changes.group_count() {
            let (group, freed) = changes.freed(nth);
            map.release(group, &freed);
        }
        map.end_release();
    }

    fn checkpoint(&mut self, map: &mut FreeMap) {
        let changes = self.write(map);
        self.commit(map, &changes);
        Self::release(map, &changes);
        self.drain(map);
    }

    /// The map of the last durable state.
    fn open(&self) -> FreeMap {
        FreeMap::open(self.root, self.end, self.end.max(HUGE), &mut |entry| Ok(self.read(entry))).unwrap()
    }

    fn load(&self, map: &mut FreeMap, units: Units, piece: Units) {
        while let Some(request) = map.wanted(units, piece) {
            map.admit(&request, self.read(&request.entry).as_deref());
        }
    }

    /// The last step of a checkpoint.
    fn drain(&self, map: &mut FreeMap) {
        while let Some(request) = map.wanted_at_end() {
            map.admit(&request, self.read(&request.entry).as_deref());
        }
    }

    /// All unused runs, the map's own units included.
    fn unused(&self, map: &FreeMap) -> Vec<UnitRun> {
        let mut read = |entry: &MapEntry| {
            self.read(entry).ok_or_else(|| Error::corrupt("map", entry.unit.offset(), "damaged"))
        };
        map.unused(&mut read).unwrap()
    }

    /// Checks that used and unused runs cover the whole file, each unit once.
    fn check(&self, map: &FreeMap, used: &[UnitRun], what: &str) {
        let mut runs: Vec<UnitRun> = used.iter().copied().chain(self.unused(map)).collect();
        runs.sort_unstable();
        let mut at = FIRST_UNIT;
        for (start, units) in runs {
            assert_eq!(start, at, "{what}");
            at += units;
        }
        assert_eq!(at, map.end(), "{what}");
        let own = HOME_UNITS * map.pages.homes.len() as u64;
        assert_eq!(map.used_units(), used.iter().map(|(_, units)| *units).sum::<Units>() + own, "{what}");
        check_index(map, what);
    }
}

/// Checks the index of runs against the bits.
fn check_index(map: &FreeMap, what: &str) {
    let mut runs = [0; CLASSES];
    let mut groups = vec![BTreeSet::new(); CLASSES];
    for (start, units) in map.free_runs(UnitNumber::NONE, map.end()) {
        let class = group::class_of(units);
        runs[class] += 1;
        groups[class].insert(runs::split(start).0 as u32);
    }
    assert_eq!(runs, map.index.runs, "{what}");
    assert_eq!(groups, map.index.groups, "{what}");
    for (class, groups) in groups.iter().enumerate() {
        assert_eq!(map.index.filled >> class & 1 == 1, !groups.is_empty(), "{what}");
    }
    let mut counted = map.groups.iter().filter_map(|group| group.loaded.as_ref());
    assert!(counted.all(|loaded| loaded.units == loaded.free.count()), "{what}");
    let loaded = map.groups.iter().filter(|group| group.loaded.is_some()).count();
    assert_eq!(loaded, map.loaded_groups, "{what}");
    assert!(!map.is_free(map.end() - Units::ONE), "{what}: a run touches the tail");
    let free: Units = (0..map.groups.len())
        .map(|group| match map.bits(group) {
            Some(bits) => bits.count(),
            None if map.groups[group].is_lost => Units::ZERO,
            None => Units::from(map.pages.levels[0][group].entry.free_units),
        })
        .sum();
    assert_eq!(free, map.free_units, "{what}");
}

/// Takes, frees, checkpoints that are cut off anywhere, groups that are loaded and dropped, reopening.
fn follow_a_model(seed: u64) {
    let mut prng = Prng::new(seed);
    let mut store = Store { end: FIRST_UNIT, ..Store::default() };
    let mut map = FreeMap::new(FIRST_UNIT, HUGE);
    // Used runs: those that no durable state knows, and the others.
    let (mut fresh, mut old): (Vec<UnitRun>, Vec<UnitRun>) = (Vec::new(), Vec::new());
    let (mut durable, mut next): (Vec<UnitRun>, Vec<UnitRun>) = (Vec::new(), Vec::new());
    let mut running: Option<(MapChanges, bool)> = None;
    for step in 0..2500 {
        let what = format!("seed {seed} step {step}");
        match prng.below(100) {
            0..40 => {
                // Now and then enough to pass the end of a group.
                let units = unit_count(match prng.below(40) {
                    0 => 9000 + prng.below(30_000),
                    1..4 => 1 + prng.below(300),
                    _ => 1 + prng.below(6),
                });
                if prng.one_in(2) {
                    store.load(&mut map, units, units);
                }
                let start = if prng.one_in(3) { map.take_low(units) } else { map.take(units) };
                fresh.push((start, units));
                let limit = unit_number(prng.below(1 + map.end().get()));
                let low = map.take_below(units, limit);
                assert!(low.is_none_or(|start| start + units <= limit));
                fresh.extend(low.map(|start| (start, units)));
            }
            40..62 if !fresh.is_empty() => {
                let (start, units) = fresh.swap_remove(prng.below(fresh.len() as u64) as usize);
                map.give_back(start, units);
            }
            62..86 if !old.is_empty() => {
                let (start, units) = old.swap_remove(prng.below(old.len() as u64) as usize);
                map.retire(start, units);
            }
            86 => {
                let from = FIRST_UNIT + unit_count(prng.below(map.end().get()));
                map.withhold(from, from + unit_count(prng.below(50_000)));
            }
            87 => while map.end_withholding() {},
            88 => {
                for group in map.droppable(prng.below(3) as usize) {
                    map.drop_group(group);
                }
            }
            89..96 => match running.take() {
                None => {
                    let changes = store.write(&mut map);
                    old.append(&mut fresh);
                    next = old.clone();
                    running = Some((changes, false));
                }
                Some((changes, false)) => {
                    store.commit(&mut map, &changes);
                    durable = next.clone();
                    running = Some((changes, true));
                }
                Some((changes, true)) => Store::release(&mut map, &changes),
            },
            // Everything since the last durable state is lost.
            96 if prng.one_in(6) => {
                if let Some((_, is_committed)) = running.take()
                    && !is_committed
                {
                    // Pages that were being written may have any content.
                    for unit in store.written.clone() {
                        if prng.one_in(2) {
                            store.pages.insert(unit, vec![prng.bits() as u8; UNIT_BYTES as usize]);
                        }
                    }
                }
                map = store.open();
                store.drain(&mut map);
                (fresh, old) = (Vec::new(), durable.clone());
            }
            _ => {}
        }
        if step % 25 == 0 {
            let used: Vec<UnitRun> = fresh.iter().chain(&old).copied().collect();
            store.check(&map, &used, &what);
        }
    }
}

#[test]
fn no_unit_is_used_twice_and_none_is_lost() {
    (0..12).for_each(follow_a_model);
}

#[test]
fn what_is_taken_together_lies_together() {
    let mut map = FreeMap::new(FIRST_UNIT, unit_number(10_000));
    let holes: Vec<UnitNumber> = (0..400).map(|_| map.take(Units::ONE)).collect();
    assert!(holes.windows(2).all(|pair| pair[1] == pair[0] + Units::ONE));
    holes[..50].iter().step_by(2).for_each(|unit| map.give_back(*unit, Units::ONE));
    (100..200).for_each(|index| map.give_back(holes[index], Units::ONE));
    map.take(Units::ONE);
    let again: Vec<UnitNumber> = (0..99).map(|_| map.take(Units::ONE)).collect();
    assert!(again.windows(2).all(|pair| pair[1] == pair[0] + Units::ONE), "the long run first");
}

#[test]
fn a_run_goes_on_from_group_to_group() {
    let mut map = FreeMap::new(FIRST_UNIT, unit_number(1 << 20));
    map.take(GROUP_UNITS * 5);
    let border = runs::unit_of(2, 0);
    let low = border - unit_count(40);
    map.give_back(low, unit_count(40));
    map.give_back(border, unit_count(30));
    check_index(&map, "two parts");
    assert_eq!(map.take(unit_count(70)), low);
    map.give_back(low, unit_count(70));
    // Over a group that is free whole.
    let first = runs::unit_of(1, 0) - unit_count(5);
    map.give_back(first, low - first);
    map.give_back(border + unit_count(30), GROUP_UNITS);
    check_index(&map, "four parts");
    let units = border + unit_count(30) + GROUP_UNITS - first;
    assert_eq!(map.free_runs(UnitNumber::NONE, map.end()).collect::<Vec<_>>(), [(first, units)]);
    assert_eq!(map.take_low(units), first);
    assert_eq!(map.free_runs(UnitNumber::NONE, map.end()).count(), 0);
    check_index(&map, "taken");
}

/// A file of pages of four units and values of one: values are overwritten at random, pages come and go, and a checkpoint
/// releases what was freed. Their number stays.
fn churn(checkpoints: u32) -> (UnitNumber, UnitNumber) {
    let mut prng = Prng::new(9);
    let (mut map, mut store) = (FreeMap::new(FIRST_UNIT, unit_number(1 << 30)), Store::default());
    let mut values: Vec<UnitNumber> = (0..50_000).map(|_| map.take(Units::ONE)).collect();
    let mut pages: Vec<UnitNumber> = (0..1500).map(|_| map.take_low(unit_count(4))).collect();
    let mut first_end = UnitNumber::NONE;
    for checkpoint in 0..checkpoints {
        for _ in 0..10_000 {
            let nth = prng.below(values.len() as u64) as usize;
            map.retire(values[nth], Units::ONE);
            store.load(&mut map, Units::ONE, Units::ONE);
            values[nth] = map.take(Units::ONE);
        }
        for _ in 0..100 {
            let nth = prng.below(pages.len() as u64) as usize;
            map.retire(pages[nth], unit_count(4));
            store.load(&mut map, unit_count(4), unit_count(4));
            pages[nth] = map.take_low(unit_count(4));
        }
        store.checkpoint(&mut map);
        if checkpoint == 4 {
            first_end = map.end();
        }
    }
    (first_end, map.end())
}

#[test]
fn a_file_of_constant_data_stops_growing() {
    let (early, late) = churn(400);
    assert!(
        late.get() <= early.get() + early.get() / 50,
        "the end of the file went from {early} to {late} units"
    );
}

#[test]
fn what_is_withheld_is_not_taken_until_it_is_let_go() {
    let (mut map, mut store) = (FreeMap::new(FIRST_UNIT, unit_number(10_000)), Store::default());
    let units: Vec<UnitNumber> = (0..200).map(|_| map.take(Units::ONE)).collect();
    units[..100].iter().step_by(2).for_each(|unit| map.give_back(*unit, Units::ONE));
    units[140..150].iter().for_each(|unit| map.give_back(*unit, Units::ONE));
    assert_eq!(
        map.emptiest(unit_count(12), FIRST_UNIT, unit_number(200)),
        Some((units[140], unit_count(12)))
    );
    let before = map.used_units();
    map.withhold(units[20], units[145]);
    assert_eq!(map.used_units(), before);
    assert_eq!(
        (0..10).map(|_| map.take_low(Units::ONE)).collect::<Vec<_>>(),
        (0..10).map(|n| units[2 * n]).collect::<Vec<_>>()
    );
    let beyond = map.end();
    assert_eq!(map.take_low(Units::ONE), beyond, "what is withheld is not taken");
    // Units that become free there are not taken, either.
    map.give_back(units[60] + Units::ONE, Units::ONE);
    assert_eq!(map.take_low(Units::ONE), beyond + Units::ONE);
    store.checkpoint(&mut map);
    assert_eq!(store.unused(&store.open()), store.unused(&map));
    while map.end_withholding() {}
    assert_eq!(map.take_low(unit_count(10)), units[140]);
    assert_eq!(map.take_low(Units::ONE), units[20]);
}

/// A file of so many groups of units of which every second is free, durable.
fn with_holes(groups: u64) -> (FreeMap, Store) {
    let (mut map, mut store) = (FreeMap::new(FIRST_UNIT, HUGE), Store::default());
    let units = (GROUP_UNITS * groups).get();
    map.take(unit_count(units - 100));
    (2..units - 100).step_by(2).for_each(|unit| map.give_back(unit_number(unit), Units::ONE));
    store.checkpoint(&mut map);
    (map, store)
}

#[test]
fn a_checkpoint_writes_what_changed_however_large_the_file_is() {
    for (groups, height) in [(1, 0), (12, 1), (300, 2)] {
        let (mut map, mut store) = with_holes(groups);
        assert!(store.written.len() as u64 >= groups, "everything changed");
        store.checkpoint(&mut map);
        assert!(store.written.is_empty(), "nothing changed");
        for _ in 0..20 {
            let taken: Vec<UnitNumber> = (0..100).map(|_| map.take_low(Units::ONE)).collect();
            map.retire(taken[0] + Units::ONE, Units::ONE);
            store.checkpoint(&mut map);
            assert_eq!(store.written.len(), 1 + height, "{groups} groups: the group, and the pages above it");
        }
        // Opening reads the pages above the groups; after that, only needed pages are read.
        store.read.set(0);
        let mut map = store.open();
        assert_eq!(store.read.get(), pages_of(groups as usize) - groups, "{groups} groups opened");
        store.load(&mut map, unit_count(100), Units::ONE);
        assert_eq!(store.read.get(), pages_of(groups as usize) - groups + 1);
        check_index(&map, "opened");
        assert_eq!(map.loaded_groups, 1);
        let unit = map.take_low(Units::ONE);
        map.retire(unit + Units::ONE, Units::ONE);
        store.checkpoint(&mut map);
        assert_eq!(store.written.len(), 1 + height);
    }
}

#[test]
fn random_changes_cost_a_page_for_each_group_at_most() {
    let (mut map, mut store) = with_holes(40);
    let mut prng = Prng::new(4);
    for _ in 0..5 {
        // Half of them are double frees, which only a damaged page can cause: they do no harm.
        let units = (GROUP_UNITS * 40).get();
        (0..50_000).for_each(|_| map.retire(unit_number(3 + prng.below(units - 8)), Units::ONE));
        store.checkpoint(&mut map);
        assert!(store.written.len() <= 41 + 1, "{}", store.written.len());
        check_index(&map, "freed at random");
    }
}

#[test]
fn millions_of_free_runs_take_little_memory() {
    let (map, store) = with_holes(80);
    assert_eq!(map.index.runs.iter().sum::<u64>(), (GROUP_UNITS * 40).get() - 51);
    // Five kilobytes a group of 16,384 runs: less than half a byte a run.
    assert!(map.memory_bytes() < 80 * 6000 + (64 << 10), "{}", map.memory_bytes());
    let opened = store.open();
    assert!(opened.memory_bytes() < 80 * 150, "{}", opened.memory_bytes());
    assert_eq!(opened.available_units() - opened.tail_units(), GROUP_UNITS * 40 - unit_count(51));
}

#[test]
fn groups_that_equal_their_pages_are_dropped_over_a_bound() {
    let (mut map, mut store) = with_holes(20);
    assert!(map.loaded_groups == 20 && map.droppable(20).is_empty());
    let unused = store.unused(&map);
    map.take_low(Units::ONE);
    for group in map.droppable(4) {
        drop(map.drop_group(group));
    }
    check_index(&map, "dropped");
    assert_eq!(map.loaded_groups, 4);
    assert!(map.groups[0].loaded.is_some(), "the one that changed stays");
    // Freeing units of the other groups does not load them.
    map.retire(runs::unit_of(7, 1), Units::ONE);
    let changes = store.write(&mut map);
    store.commit(&mut map, &changes);
    Store::release(&mut map, &changes);
    assert_eq!(map.loaded_groups, 4);
    let mut again = store.unused(&map);
    let missing: Vec<UnitRun> =
        unused.iter().copied().filter(|run| again.binary_search(run).is_err()).collect();
    assert!(missing.len() <= 4, "{missing:?}");
    again = store.unused(&store.open());
    assert_eq!(again, store.unused(&map));
}

#[test]
fn what_is_behind_comes_forward_and_the_end_of_the_file_drains() {
    let (mut map, mut store) = (FreeMap::new(FIRST_UNIT, HUGE), Store::default());
    let thousand = unit_count(1000);
    let runs: Vec<UnitNumber> = (0..600).map(|_| map.take(thousand)).collect();
    map.retire(runs[599], thousand);
    store.checkpoint(&mut map);
    assert!(
        map.end() > unit_number(590_000) && map.pages.homes.len() == 2,
        "{} {:?}",
        map.end(),
        map.pages.homes
    );
    runs[3..599].iter().for_each(|start| map.retire(*start, thousand));
    store.checkpoint(&mut map);
    store.checkpoint(&mut map);
    store.checkpoint(&mut map);
    store.checkpoint(&mut map);
    // Three runs, and one page of one group.
    assert!(map.end() <= map.limit(), "{} {:?}", map.end(), map.pages.homes);
    assert_eq!((map.groups.len(), map.pages.homes.len()), (1, 1));
    store.check(&map, &[(FIRST_UNIT, unit_count(3000))], "drained");
    let opened = store.open();
    store.check(&opened, &[(FIRST_UNIT, unit_count(3000))], "opened");
}

/// The unit of each page of the durable state, by level and index.
fn places(map: &FreeMap) -> Vec<((usize, usize), UnitNumber)> {
    let level = |(level, pages): (usize, &Vec<MapPage>)| {
        let place = |(index, page): (usize, &MapPage)| ((level, index), page.entry.unit);
        pages.iter().enumerate().map(place).collect::<Vec<_>>()
    };
    map.pages.levels.iter().enumerate().flat_map(level).collect()
}

#[test]
fn of_a_group_whose_page_cannot_be_read_nothing_is_taken_and_the_rest_goes_on() {
    let (map, store) = with_holes(12);
    for ((level, index), unit) in places(&map).into_iter().filter(|(_, unit)| !unit.is_none()) {
        let mut store =
            Store { pages: store.pages.clone(), root: store.root, end: store.end, ..Store::default() };
        store.pages.get_mut(&unit).unwrap()[77] ^= 1;
        let mut map = store.open();
        let groups = CHILDREN.pow(level as u32);
        let end = map.end();
        let damaged = runs::unit_of(index * groups, 0)..runs::unit_of((index + 1) * groups, 0);
        // More than the others have.
        let mut taken = BTreeSet::new();
        for _ in 0..6 * GROUP_UNITS.get() {
            store.load(&mut map, Units::ONE, Units::ONE);
            let start = map.take_low(Units::ONE);
            assert!(taken.insert(start));
            assert!(start >= end || !damaged.contains(&start), "{level} {index}: {start}");
        }
        assert!(map.damage().is_some() && map.lost_group() == Some(damaged.start), "{level} {index}");
        // Units that are freed there stay used; checkpoints continue, and so does the next state.
        map.retire(damaged.start + unit_count(3), Units::ONE);
        map.retire(runs::unit_of((index * groups + 3) % 12, 3), Units::ONE);
        store.checkpoint(&mut map);
        check_index(&map, "damaged");
        let again = store.open();
        let is_known = again.lost_group().is_some() || store.unused_is_damaged(&again);
        assert!(is_known, "{level} {index}: nobody would know any more");
    }
}

impl Store {
    fn unused_is_damaged(&self, map: &FreeMap) -> bool {
        let mut read = |entry: &MapEntry| {
            self.read(entry).ok_or_else(|| Error::corrupt("map", entry.unit.offset(), "damaged"))
        };
        map.unused(&mut read).is_err()
    }
}

#[test]
fn a_list_of_runs_of_the_version_before_is_read_and_nonsense_is_not() {
    let mut bytes = Vec::new();
    let runs = [(5u64, 3u64), (100, 40_000), (70_000, 1)];
    crate::base::varint::put(&mut bytes, runs.len() as u64);
    let mut end = 0;
    for (start, units) in runs {
        crate::base::varint::put(&mut bytes, start - end);
        crate::base::varint::put(&mut bytes, units);
        end = start + units;
    }
    let run = |(start, units)| (unit_number(start), unit_count(units));
    let (runs, end) = (runs.map(run), unit_number(80_000));
    assert_eq!(read_runs(&bytes, end).unwrap(), runs);
    assert!(read_runs(&bytes, unit_number(70_000)).is_none(), "behind the end");
    (0..bytes.len()).for_each(|cut| assert!(read_runs(&bytes[..cut], end).is_none(), "cut {cut}"));
    let (mut map, mut store) = (FreeMap::from_runs(&runs, end, end), Store::default());
    let mut used = [(2, 3), (8, 92), (40_100, 29_900), (70_001, 9999)].map(run);
    map.retire(unit_number(8), Units::ONE);
    used[1] = run((9, 91));
    store.check(&map, &used, "read");
    store.checkpoint(&mut map);
    store.check(&store.open(), &used, "written");
    // A run that reaches the end of the file becomes tail.
    let end = unit_number(20);
    assert_eq!(FreeMap::from_runs(&[(5, 3), (9, 11)].map(run), end, end).end(), unit_number(9));
}

/// Measures how long the latch of the tree is held when a checkpoint releases many runs.
#[test]
#[ignore = "long: a measurement"]
fn releasing_many_runs_measured() {
    let mut map = FreeMap::new(FIRST_UNIT, unit_number(1 << 30));
    let units: Vec<UnitNumber> = (0..1_200_000).map(|_| map.take(Units::ONE)).collect();
    let mut prng = Prng::new(3);
    let mut freed: Vec<UnitNumber> = units.into_iter().step_by(2).collect();
    for at in (1..freed.len()).rev() {
        freed.swap(at, prng.below(at as u64 + 1) as usize);
    }
    freed.iter().for_each(|unit| map.retire(*unit, Units::ONE));
    let mut store = Store::default();
    let started = std::time::Instant::now();
    let changes = store.write(&mut map);
    println!(
        "frozen, sorted and made: {} bytes in {:?}",
        store.written.len() as u64 * UNIT_BYTES,
        started.elapsed()
    );
    store.commit(&mut map, &changes);
    let mut longest = std::time::Duration::ZERO;
    for nth in 0..changes.group_count() {
        let (group, bits) = changes.freed(nth);
        let started = std::time::Instant::now();
        map.release(group, &bits);
        longest = longest.max(started.elapsed());
    }
    println!("given back in {} parts, the longest {longest:?}", changes.group_count());
}
