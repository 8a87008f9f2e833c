//! Opening a map, loading groups, and dropping them.

use std::sync::atomic::Ordering::Relaxed;

use super::bits::{GROUP_UNITS, GroupBits};
use super::changes::{MOVES, leaving_in};
use super::group::{EXACT_UNITS, LoadedGroup, class_of};
use super::page::{CHILDREN, HOME_UNITS, MapEntry, groups_of, height_of};
use super::runs::{unit_of, units_between};
use super::{FreeMap, MapPage, UnitRun};
use crate::base::varint;
use crate::engine::Result;
use crate::engine::btree::allocation_unit::{FIRST_UNIT, UNIT_BYTES, UnitNumber, Units};

/// Free units in memory, beyond those that are needed, below which another group is loaded.
const SLACK_UNITS: Units = Units::new(64);

/// More units than are ever cut off a file: 8 TiB.
const CUT_UNITS_MAX: Units = Units::new(1 << 31);
/// End of the largest possible file: 256 TiB. Its map takes 190 MiB of memory at least.
const END_MAX: UnitNumber = UnitNumber::new(1 << 36);

/// A group that is to be loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupRequest {
    group: usize,
    /// The entry of its page.
    pub entry: MapEntry,
}

impl FreeMap {
    /// Opens the map of a durable state whose used part ends at `end`, with the entry `root`, in a file up to `file_end`. `read` reads a page and
    /// returns `None` if that fails: then no unit below that page is free.
    pub fn open(
        root: MapEntry,
        end: UnitNumber,
        file_end: UnitNumber,
        read: &mut dyn FnMut(&MapEntry) -> Result<Option<Vec<u8>>>,
    ) -> Result<FreeMap> {
        let mut map = FreeMap::new(end, file_end);
        let height = height_of(groups_of(end));
        map.set_entry(height, 0, Some(root).filter(|root| root.is_possible(end)));
        for level in (1..=height).rev() {
            for index in 0..map.pages.levels[level].len() {
                let entry = map.pages.levels[level][index].entry;
                if entry.unit.is_none() {
                    continue;
                }
                let bytes = read(&entry)?;
                let count = map.pages.levels[level - 1].len();
                for child in (index * CHILDREN..(index + 1) * CHILDREN).take_while(|child| *child < count) {
                    let at = child % CHILDREN * super::page::ENTRY_BYTES;
                    let entry = bytes.as_ref().and_then(|bytes| MapEntry::decode(bytes.get(at..)?, end));
                    map.set_entry(level - 1, child, entry);
                }
            }
        }
        let mut longest = Units::ZERO;
        for (group, page) in map.groups.iter().zip(&map.pages.levels[0]) {
            if !group.is_lost {
                map.free_units += Units::from(page.entry.free_units);
                longest = longest.max(Units::from(page.entry.longest_units));
            }
        }
        map.sleeping_longest.store(longest.get(), Relaxed);
        Ok(map)
    }

    /// Sets the entry of a page; `None` if it is not known.
    fn set_entry(&mut self, level: usize, index: usize, entry: Option<MapEntry>) {
        let known = entry.filter(|entry| !entry.is_lost());
        let entry = entry.unwrap_or_default();
        if let Some(page) = self.pages.levels[level].get_mut(index) {
            *page = MapPage { entry, home: UnitNumber::NONE };
            if let Some((home, _)) = entry.home() {
                self.pages.set_home(level, index, home);
            }
            if known.is_none() {
                self.lose_below(level, index);
            }
        }
    }

    /// Marks all groups below a page as lost.
    fn lose_below(&mut self, level: usize, index: usize) {
        let groups = CHILDREN.pow(level as u32);
        for group in index.saturating_mul(groups)..(index + 1).saturating_mul(groups).min(self.groups.len()) {
            self.lost_groups += usize::from(!self.groups[group].is_lost);
            self.groups[group].is_lost = true;
        }
    }

    /// A map of which nothing can be read: all units below `end` count as used.
    pub fn lost(end: UnitNumber, file_end: UnitNumber) -> FreeMap {
        let mut map = FreeMap::new(end, file_end);
        (0..map.groups.len()).for_each(|group| map.lose_below(0, group));
        map
    }

    /// The map of a file with these free runs, which stores of version 1 keep. The next checkpoint writes all of its pages.
    pub fn from_runs(runs: &[UnitRun], end: UnitNumber, file_end: UnitNumber) -> FreeMap {
        let mut map = FreeMap::new(end, file_end);
        runs.iter().rev().for_each(|(start, units)| map.give_back(*start, *units));
        map
    }

    /// Marks `group` as lost: its bits cannot be read.
    pub(super) fn lose(&mut self, group: usize) {
        let state = &mut self.groups[group];
        if !state.is_lost {
            state.is_lost = true;
            self.lost_groups += 1;
            let units = Units::from(self.pages.levels[0][group].entry.free_units);
            self.free_units = self.free_units.saturating_sub(units);
        }
    }

    fn is_asleep(&self, group: usize) -> bool {
        let state = &self.groups[group];
        state.loaded.is_none()
            && !state.is_lost
            && !state.is_pending
            && unit_of(group, 0) < self.end
            && self.pages.levels[0][group].entry.free_units > 0
    }

    /// The group to be loaded before `units` are taken in pieces of up to `piece`: the lowest one where a piece fits; `None` if the groups in
    /// memory have enough.
    pub fn wanted(&self, units: Units, piece: Units) -> Option<GroupRequest> {
        let longest = Units::new(self.sleeping_longest.load(Relaxed));
        let piece = piece.clamp(Units::ONE, GROUP_UNITS);
        let has_rows = self.index.filled >> class_of(EXACT_UNITS) != 0;
        let piece = match () {
            // Long runs first, as when taking.
            () if longest >= EXACT_UNITS && !has_rows => piece.max(EXACT_UNITS),
            () if longest < piece || self.index.useful_units(piece) >= units + SLACK_UNITS => return None,
            () => piece,
        };
        let mut longest = Units::ZERO;
        for group in 0..self.groups.len() {
            if self.is_asleep(group) {
                let entry = self.pages.levels[0][group].entry;
                if Units::from(entry.longest_units) >= piece {
                    return Some(GroupRequest { group, entry });
                }
                longest = longest.max(Units::from(entry.longest_units));
            }
        }
        // Groups that a checkpoint writes count again once they are released.
        self.sleeping_longest.store(longest.get(), Relaxed);
        None
    }

    /// Whether pages of the map lie behind the limit.
    pub fn has_homes_behind(&self) -> bool {
        self.pages.homes.last_key_value().is_some_and(|(home, _)| *home + HOME_UNITS > self.limit())
    }

    /// The group to be loaded so that pages of the map behind the limit find lower places.
    pub fn wanted_for_homes(&self) -> Option<GroupRequest> {
        let behind =
            self.pages.homes.range(self.limit().saturating_sub(Units::ONE)..).take(MOVES).count() as u64;
        if behind == 0 { None } else { self.wanted(HOME_UNITS * behind, HOME_UNITS) }
    }

    /// The group to be loaded so that the end of the used part can move down to the last used unit.
    pub fn wanted_at_end(&self) -> Option<GroupRequest> {
        let group = groups_of(self.end).checked_sub(1).filter(|group| self.is_asleep(*group))?;
        Some(GroupRequest { group, entry: self.pages.levels[0][group].entry })
    }

    /// The next group before `limit` with free units, if fewer than `count_max` groups are in memory.
    pub fn wanted_below(&self, limit: UnitNumber, count_max: usize) -> Option<GroupRequest> {
        let count = groups_of(limit).min(self.groups.len());
        let group = (0..count).find(|group| self.is_asleep(*group))?;
        let entry = self.pages.levels[0][group].entry;
        (self.loaded_groups < count_max).then_some(GroupRequest { group, entry })
    }

    /// Puts a group into memory; `bytes` are those of its page, `None` if it cannot be read.
    pub fn admit(&mut self, request: &GroupRequest, bytes: Option<&[u8]>) {
        let group = request.group;
        if !self.is_asleep(group) || self.pages.levels[0][group].entry != request.entry {
            return;
        }
        let end = self.end.saturating_since(unit_of(group, 0)).min(GROUP_UNITS).get() as usize;
        let bits = bytes.map(GroupBits::decode).filter(|bits| {
            let is_below = bits.next_free(end).is_none();
            let is_above =
                group > 0 || bits.next_free(0).is_none_or(|first| unit_of(group, first) >= FIRST_UNIT);
            is_below && is_above && bits.count() == Units::from(request.entry.free_units)
        });
        let Some(bits) = bits else { return self.lose(group) };
        self.detach(group);
        self.groups[group].loaded = Some(Box::new(LoadedGroup::new(bits)));
        self.loaded_groups += 1;
        self.hold_group(group);
        self.attach(group);
        self.drain_end();
    }

    /// Whether a group equals its page, so that it can be dropped.
    fn can_go(&self, group: usize) -> bool {
        let state = &self.groups[group];
        let loaded = state.loaded.as_ref().filter(|loaded| loaded.held.is_none());
        loaded.is_some() && !state.is_changed && !state.is_pending
    }

    /// Groups to be dropped so that `count_max` are in memory: those that equal their pages and have the fewest free units.
    pub fn droppable(&self, count_max: usize) -> Vec<usize> {
        let count = self.loaded_groups.saturating_sub(count_max);
        if count == 0 {
            return Vec::new();
        }
        let mut groups: Vec<usize> = (0..self.groups.len()).filter(|group| self.can_go(*group)).collect();
        groups.sort_by_key(|group| self.pages.levels[0][*group].entry.free_units);
        groups.truncate(count);
        groups
    }

    /// Takes a group out of memory if it still equals its page; the caller drops it without the latch.
    pub fn drop_group(&mut self, group: usize) -> Option<Box<LoadedGroup>> {
        if group >= self.groups.len() || !self.can_go(group) {
            return None;
        }
        self.detach(group);
        let dropped = self.groups[group].loaded.take();
        self.loaded_groups -= 1;
        self.attach(group);
        let entry = self.pages.levels[0][group].entry;
        self.sleeping_longest.fetch_max(u64::from(entry.longest_units), Relaxed);
        dropped
    }

    /// All runs that hold neither pages of the tree nor values, sorted: free units, those that will be free, and the homes of the map's pages.
    /// `read` reads a page; all of them are read.
    pub fn unused(&self, read: &mut dyn FnMut(&MapEntry) -> Result<Vec<u8>>) -> Result<Vec<UnitRun>> {
        let mut leaving = self.freed.leaving.to_vec();
        super::coalesce_runs(&mut leaving);
        let mut runs = self.freed.retired.clone();
        for (level, pages) in self.pages.levels.iter().enumerate() {
            for (index, page) in pages.iter().enumerate() {
                let bytes = if !page.entry.unit.is_none() { Some(read(&page.entry)?) } else { None };
                runs.extend((!page.home.is_none()).then_some((page.home, HOME_UNITS)));
                let Some(state) = self.groups.get(index).filter(|_| level == 0) else { continue };
                let mut bits = match (&state.loaded, bytes) {
                    (Some(loaded), _) => {
                        let mut bits = (*loaded.free).clone();
                        loaded.held.iter().for_each(|held| bits.add(held));
                        bits
                    }
                    (None, Some(bytes)) => GroupBits::decode(&bytes),
                    (None, None) => GroupBits::none(),
                };
                if state.is_pending {
                    // The page has them once it is durable.
                    bits.add(&leaving_in(&leaving, index));
                }
                let run = |(from, to)| (unit_of(index, from), units_between(from, to));
                runs.extend(bits.runs().map(run));
            }
        }
        runs.sort_unstable();
        Ok(runs)
    }

    /// The first unit of the first lost group.
    pub fn lost_group(&self) -> Option<UnitNumber> {
        self.groups.iter().position(|group| group.is_lost).map(|group| unit_of(group, 0))
    }
}

/// The largest possible end of a state whose file ends at `file_end` now: a free end may have been cut off, but only so much.
pub fn end_max(file_end: UnitNumber) -> UnitNumber {
    file_end.saturating_add(CUT_UNITS_MAX).min(END_MAX)
}

/// Decodes the free map of a store of version 1 whose tail begins at `end`; `None` if it is not valid.
pub fn read_runs(mut source: &[u8], end: UnitNumber) -> Option<Vec<UnitRun>> {
    let count = varint::take(&mut source)?;
    let mut at = UnitNumber::NONE;
    let mut runs = Vec::new();
    for _ in 0..count {
        let start = at.checked_add(Units::new(varint::take(&mut source)?))?;
        let units = Units::new(varint::take(&mut source)?);
        at = start.checked_add(units)?;
        if start < FIRST_UNIT || units.is_zero() || at > end {
            return None;
        }
        runs.push((start, units));
    }
    source.is_empty().then_some(runs)
}

const _: () = assert!(UNIT_BYTES as usize == CHILDREN * super::page::ENTRY_BYTES);
