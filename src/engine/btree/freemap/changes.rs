//! The checkpoint of the map.
//!
//! 1. [`FreeMap::freeze`], under the latch: the units that were retired so far are free in the new state; pages that must be written get
//!    their places; bits that changed are shared with the checkpoint, and copied before they change again (copy on write).
//! 2. [`MapChanges`], without a lock: the new version of each page is made and written to the unit of its home that the durable state does
//!    not refer to: first the groups, then the pages above them, then the root's entry for the meta page.
//! 3. [`FreeMap::commit`], under the latch: the new pages are those of the durable state.
//! 4. [`FreeMap::release`], under the latch, one group at a time: the units that this checkpoint freed can be taken.
//!
//! Giving a page a home, or a lower one, takes and frees units, which changes other groups; so step 1 repeats until nothing is left to
//! do. It terminates because each page gets at most one home, and moves at most once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::bits::GroupBits;
use super::page::{CHILDREN, HOME_UNITS, MapEntry, groups_of, height_of, parents_of};
use super::runs::{by_group, unit_of};
use super::{FreeMap, MapPage, UnitRun, coalesce_runs};
use crate::engine::Result;
use crate::engine::btree::allocation_unit::{UnitNumber, Units};

/// Largest number of pages behind the limit that one checkpoint moves.
pub const MOVES: usize = 64;

/// The bits of a group at a freeze, without the retired units.
enum GroupBase {
    /// In memory: free units, and withheld ones.
    Bits(Arc<GroupBits>, Option<Arc<GroupBits>>),
    /// On the disk, in its page.
    Page(MapEntry),
    /// No unit was free.
    None,
}

/// A group whose page the checkpoint writes.
struct GroupChange {
    group: usize,
    /// The place of the new page.
    place: MapEntry,
    base: GroupBase,
}

/// The pages of the map that a checkpoint writes.
pub struct MapChanges {
    groups: Vec<GroupChange>,
    /// Pages above the groups in ascending order: level, index, place of the new page.
    pages: Vec<(usize, usize, MapEntry)>,
    /// Units that this checkpoint frees; ascending once they are sorted.
    leaving: Arc<Vec<UnitRun>>,
    /// Entries of the pages that were made.
    entries: HashMap<(usize, usize), MapEntry>,
    /// Level of the root.
    height: usize,
}

impl FreeMap {
    /// Begins a checkpoint, in whose state all retired units are free. The file must have room for [`FreeMap::map_units_max`].
    pub fn freeze(&mut self) -> MapChanges {
        debug_assert!(self.freed.leaving.is_empty(), "one checkpoint at a time");
        self.drop_behind_end();
        self.move_homes();
        let mut above = std::mem::take(&mut self.pages.stale);
        let (mut at, mut height) = (0, 0);
        loop {
            while let Some(group) = self.changed.get(at).copied() {
                self.house(0, group);
                above.insert((1, group / CHILDREN));
                at += 1;
            }
            let before = height;
            height = height_of(groups_of(self.end));
            for level in 1..=height {
                // A new root above the root so far.
                if self.pages.levels[level][0].home.is_none()
                    && !self.pages.levels[level - 1][0].home.is_none()
                {
                    above.insert((level, 0));
                }
                let pages: Vec<usize> =
                    above.range((level, 0)..(level + 1, 0)).map(|(_, index)| *index).collect();
                for index in pages {
                    self.house(level, index);
                    above.insert((level + 1, index / CHILDREN));
                }
            }
            if at == self.changed.len() && height == before && height == height_of(groups_of(self.end)) {
                break;
            }
        }
        let mut groups = Vec::with_capacity(at);
        for group in std::mem::take(&mut self.changed) {
            let page = self.pages.levels[0][group];
            let state = &mut self.groups[group];
            state.is_changed = false;
            if state.is_lost {
                continue;
            }
            state.is_pending = true;
            let base = match &state.loaded {
                Some(loaded) => GroupBase::Bits(loaded.free.clone(), loaded.held.clone()),
                None if !page.entry.unit.is_none() => GroupBase::Page(page.entry),
                None => GroupBase::None,
            };
            groups.push(GroupChange { group, place: page.next(), base });
        }
        let pages = above.into_iter().filter(|(level, _)| *level <= height);
        let pages =
            pages.map(|(level, index)| (level, index, self.pages.levels[level][index].next())).collect();
        self.freed.leaving = Arc::new(std::mem::take(&mut self.freed.retired));
        self.freed.leaving_units = std::mem::take(&mut self.freed.retired_units);
        MapChanges { groups, pages, leaving: self.freed.leaving.clone(), entries: HashMap::default(), height }
    }

    /// Drops groups behind the end, and pages that have no others below them.
    fn drop_behind_end(&mut self) {
        let mut count = groups_of(self.end);
        if count == self.groups.len() {
            return;
        }
        for group in self.groups.drain(count..) {
            self.loaded_groups -= usize::from(group.loaded.is_some());
            self.lost_groups -= usize::from(group.is_lost);
        }
        self.changed.retain(|group| *group < count);
        let height = height_of(count);
        for level in 0..self.pages.levels.len() {
            let left = if level <= height { count } else { 0 };
            for index in left..self.pages.levels[level].len() {
                let page = self.pages.levels[level][index];
                if !page.home.is_none() {
                    self.pages.homes.remove(&page.home);
                    self.retire(page.home, HOME_UNITS);
                    self.pages.stale.insert((level + 1, index / CHILDREN));
                }
            }
            self.pages.levels[level].truncate(left);
            count = parents_of(count);
        }
        let is_there = |(level, index): &(usize, usize)| {
            self.pages.levels.get(*level).is_some_and(|pages| *index < pages.len())
        };
        let stale = std::mem::take(&mut self.pages.stale);
        self.pages.stale = stale.into_iter().filter(is_there).collect();
    }

    /// Moves pages that lie behind the limit, or among withheld units, to a lower place, if there is one.
    fn move_homes(&mut self) {
        let limit = self.limit();
        let (from, units) = self.withheld.unwrap_or((limit, Units::ZERO));
        let behind = self.pages.homes.range(limit.saturating_sub(Units::ONE)..).rev().take(MOVES);
        let within = self.pages.homes.range(from.saturating_sub(Units::ONE)..from + units).rev();
        let mut moving: Vec<(UnitNumber, (usize, usize))> =
            behind.chain(within).map(|(home, page)| (*home, *page)).collect();
        moving.sort_unstable();
        moving.dedup();
        for (home, (level, index)) in moving.into_iter().rev() {
            if level == 0 && self.groups[index].is_lost {
                continue;
            }
            let most = if home + HOME_UNITS > limit { home } else { UnitNumber::MAX };
            let Some(to) = self.take_below(HOME_UNITS, most) else { continue };
            self.pages.homes.remove(&home);
            self.pages.set_home(level, index, to);
            self.retire(home, HOME_UNITS);
            match level {
                0 => self.mark_changed(index),
                _ => _ = self.pages.stale.insert((level, index)),
            }
        }
    }

    /// Gives a page its two units if it has none.
    fn house(&mut self, level: usize, index: usize) {
        let is_lost = level == 0 && self.groups[index].is_lost;
        if self.pages.levels[level][index].home.is_none() && !is_lost {
            let home = self.take_low(HOME_UNITS);
            self.pages.set_home(level, index, home);
        }
    }

    /// Replaces the list of leaving units by the sorted one; returns the old list, to be dropped without the latch.
    pub fn set_leaving(&mut self, leaving: Arc<Vec<UnitRun>>) -> Arc<Vec<UnitRun>> {
        std::mem::replace(&mut self.freed.leaving, leaving)
    }

    /// The entry of a page that the checkpoint does not write.
    fn entry(&self, level: usize, index: usize) -> MapEntry {
        let entry = self.pages.levels[level].get(index).map(|page| page.entry).unwrap_or_default();
        let is_lost = level == 0 && self.groups.get(index).is_some_and(|group| group.is_lost);
        if is_lost && entry.unit.is_none() { entry.lost() } else { entry }
    }

    /// Notes that the state of `changes` is durable.
    pub fn commit(&mut self, changes: &MapChanges) {
        for ((level, index), entry) in &changes.entries {
            let before = std::mem::replace(&mut self.pages.levels[*level][*index].entry, *entry);
            if *level == 0 && entry.is_lost() {
                self.pages.levels[0][*index].entry.free_units = before.free_units;
                self.lose(*index);
                self.pages.levels[0][*index].entry = *entry;
            } else if *level == 0 && self.groups[*index].loaded.is_none() {
                // A group that is not in memory is changed by checkpoints only.
                let units = Units::from(entry.free_units.saturating_sub(before.free_units));
                self.free_units += units;
                self.freed.leaving_units = self.freed.leaving_units.saturating_sub(units);
            }
        }
    }

    /// Lets the units that the checkpoint freed in `group` be taken: those of `freed`.
    pub fn release(&mut self, group: usize, freed: &GroupBits) {
        let state = &mut self.groups[group];
        state.is_pending = false;
        if state.is_lost {
            return;
        }
        if state.loaded.is_none() {
            let longest = u64::from(self.pages.levels[0][group].entry.longest_units);
            self.sleeping_longest.fetch_max(longest, Relaxed);
            return;
        }
        let units = freed.count();
        if units.is_zero() {
            return;
        }
        self.freed.leaving_units = self.freed.leaving_units.saturating_sub(units);
        self.detach(group);
        if let Some(loaded) = self.groups[group].loaded.as_mut() {
            let before = loaded.units;
            Arc::make_mut(&mut loaded.free).add(freed);
            loaded.units = loaded.free.count();
            self.free_units += loaded.units - before;
        }
        self.hold_group(group);
        self.attach(group);
        self.drain_end();
    }

    /// Ends the release. Returns the list of leaving units, to be dropped without the latch.
    pub fn end_release(&mut self) -> Arc<Vec<UnitRun>> {
        // The rest belongs to groups that cannot be read: those units stay used.
        self.freed.leaving_units = Units::ZERO;
        std::mem::take(&mut self.freed.leaving)
    }
}

impl MapPage {
    /// The next place of the page: the unit of its home that the durable state does not refer to.
    fn next(&self) -> MapEntry {
        let side = if self.entry.unit == self.home { Units::ONE } else { Units::ZERO };
        MapEntry { unit: self.home + side, side, ..MapEntry::default() }
    }
}

impl MapChanges {
    /// Number of groups whose pages are written.
    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// Number of pages above the groups that are written.
    pub fn page_count(&self) -> usize {
        self.pages.len()
    }

    /// Sorts and coalesces the leaving units, for [`FreeMap::set_leaving`].
    pub fn sort(&mut self) -> Arc<Vec<UnitRun>> {
        let mut runs = self.leaving.to_vec();
        coalesce_runs(&mut runs);
        self.leaving = Arc::new(runs);
        self.leaving.clone()
    }

    /// The `nth` group, and the units of it that the checkpoint frees.
    pub fn freed(&self, nth: usize) -> (usize, GroupBits) {
        let group = self.groups[nth].group;
        (group, leaving_in(&self.leaving, group))
    }

    /// Makes the new page of the `nth` group: its place, and its bytes; `None` if the old page cannot be read. `read` reads a page.
    pub fn group_page(
        &mut self,
        nth: usize,
        read: impl FnOnce(&MapEntry) -> Result<Option<Vec<u8>>>,
    ) -> Result<Option<(UnitNumber, Vec<u8>)>> {
        let GroupChange { group, place, base } = &self.groups[nth];
        let mut bits = match base {
            GroupBase::Bits(free, held) => {
                let mut bits = (**free).clone();
                held.iter().for_each(|held| bits.add(held));
                bits
            }
            GroupBase::Page(entry) => match read(entry)? {
                Some(bytes) => GroupBits::decode(&bytes),
                None => {
                    self.entries.insert((0, *group), place.lost());
                    return Ok(None);
                }
            },
            GroupBase::None => GroupBits::none(),
        };
        bits.add(&leaving_in(&self.leaving, *group));
        let bytes = bits.encode();
        let entry = MapEntry {
            crc: crc32fast::hash(&bytes),
            free_units: bits.count().get() as u16,
            longest_units: bits.longest() as u16,
            ..*place
        };
        self.entries.insert((0, *group), entry);
        Ok(Some((place.unit, bytes)))
    }

    /// Makes the `nth` page above the groups: its place, and its bytes. The pages before it must have been made.
    pub fn page(&mut self, nth: usize, map: &FreeMap) -> (UnitNumber, Vec<u8>) {
        let (level, index, place) = self.pages[nth];
        let mut bytes = Vec::with_capacity(CHILDREN * super::page::ENTRY_BYTES);
        for child in index * CHILDREN..(index + 1) * CHILDREN {
            let made = self.entries.get(&(level - 1, child)).copied();
            made.unwrap_or_else(|| map.entry(level - 1, child)).encode(&mut bytes);
        }
        self.entries.insert((level, index), MapEntry { crc: crc32fast::hash(&bytes), ..place });
        (place.unit, bytes)
    }

    /// The entry of the root, once all pages have been made.
    pub fn root(&self, map: &FreeMap) -> MapEntry {
        let made = self.entries.get(&(self.height, 0)).copied();
        made.unwrap_or_else(|| map.entry(self.height, 0))
    }
}

/// The units of `group` in `runs`, which are sorted.
pub fn leaving_in(runs: &[UnitRun], group: usize) -> GroupBits {
    let (start, end) = (unit_of(group, 0), unit_of(group + 1, 0));
    let first = runs.partition_point(|(first, units)| *first + *units <= start);
    let mut bits = GroupBits::none();
    for (first, units) in runs[first..].iter().take_while(|(first, _)| *first < end) {
        for (_, from, to) in by_group(*first, *units).filter(|(part, _, _)| *part == group) {
            bits.set(from, to);
        }
    }
    bits
}
