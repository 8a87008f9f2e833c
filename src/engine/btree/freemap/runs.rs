//! Free runs of all groups that are in memory, and the index that finds a run by its length.
//!
//! A run belongs to the group in which it begins, with its whole length. The index has the groups with runs of each class; the place in the
//! group is searched for in the bits. A run ends before a group that is not in memory.

use std::sync::Arc;

use super::bits::{GROUP_UNITS, GroupBits};
use super::group::{EXACT_UNITS, LoadedGroup, class_of, classes, longest_of, shortest_of};
use super::{FreeMap, UnitRun};
use crate::engine::btree::allocation_unit::{UnitNumber, Units};

/// Largest number of groups that are searched for a length within the bounds of a class.
const CLASS_GROUPS: usize = 8;
const LENGTH: usize = GROUP_UNITS.get() as usize;

/// The group of a unit, and the index of the unit in it.
pub fn split(unit: UnitNumber) -> (usize, usize) {
    ((unit.get() / GROUP_UNITS.get()) as usize, (unit.get() % GROUP_UNITS.get()) as usize)
}

/// The unit at index `at` of a group.
pub fn unit_of(group: usize, at: usize) -> UnitNumber {
    UnitNumber::new(group as u64 * GROUP_UNITS.get() + at as u64)
}

/// Units from index `from` to index `to` of a group.
pub fn units_between(from: usize, to: usize) -> Units {
    Units::new((to - from) as u64)
}

/// The units of `start..start + units` by group: group, first index, end index.
pub fn by_group(start: UnitNumber, units: Units) -> impl Iterator<Item = (usize, usize, usize)> {
    let end = start + units;
    let mut at = start;
    std::iter::from_fn(move || {
        let (group, from) = (at < end).then(|| split(at))?;
        let to = (end - unit_of(group, 0)).min(GROUP_UNITS).get() as usize;
        at = unit_of(group, to);
        Some((group, from, to))
    })
}

impl FreeMap {
    pub(super) fn bits(&self, group: usize) -> Option<&GroupBits> {
        self.groups.get(group)?.loaded.as_ref().map(|loaded| &*loaded.free)
    }

    /// Whether a unit can be taken.
    pub(super) fn is_free(&self, unit: UnitNumber) -> bool {
        let (group, at) = split(unit);
        self.bits(group).is_some_and(|bits| bits.has(at))
    }

    /// Number of free units in a run of units, as far as groups are in memory.
    pub fn free_within(&self, (start, units): UnitRun) -> Units {
        let count =
            |(group, from, to)| self.bits(group).map_or(Units::ZERO, |bits| bits.count_between(from, to));
        by_group(start, units).map(count).sum()
    }

    /// End of the free run that `unit` lies in.
    pub(super) fn run_end(&self, unit: UnitNumber) -> UnitNumber {
        let (mut group, mut at) = split(unit);
        loop {
            let used = match self.groups.get(group).and_then(|group| group.loaded.as_ref()) {
                Some(loaded) if loaded.units == GROUP_UNITS => LENGTH,
                Some(loaded) => loaded.free.next_used(at),
                None => 0,
            };
            if used < LENGTH {
                return unit_of(group, used.max(at));
            }
            (group, at) = (group + 1, 0);
        }
    }

    /// Start of the free run that `unit` lies in.
    pub(super) fn run_start(&self, unit: UnitNumber) -> UnitNumber {
        let (mut group, at) = split(unit);
        let mut end = at + 1;
        loop {
            let first = match self.groups.get(group).and_then(|group| group.loaded.as_ref()) {
                Some(loaded) if loaded.units == GROUP_UNITS => 0,
                Some(loaded) => loaded.free.free_before(end),
                None => end,
            };
            if first > 0 || group == 0 || !self.is_free(unit_of(group - 1, LENGTH - 1)) {
                return unit_of(group, first);
            }
            (group, end) = (group - 1, LENGTH);
        }
    }

    /// Enters a run into the index.
    pub(super) fn count(&mut self, start: UnitNumber, units: Units) {
        let ((group, at), class) = (split(start), class_of(units));
        let Some(loaded) = self.groups[group].loaded.as_mut() else { return };
        let is_first = loaded.count(class, at / 64);
        self.index.add(class, group, is_first);
    }

    /// Takes a run out of the index.
    pub(super) fn uncount(&mut self, start: UnitNumber, units: Units) {
        let ((group, _), class) = (split(start), class_of(units));
        self.index.forget_next(|first| first == start);
        let Some(loaded) = self.groups[group].loaded.as_mut() else { return };
        let is_last = loaded.uncount(class);
        self.index.remove(class, group, 1, is_last);
    }

    /// Changes the bits of units, all of them in groups that are in memory.
    pub(super) fn set_free(&mut self, start: UnitNumber, units: Units, is_free: bool) {
        for (group, from, to) in by_group(start, units) {
            if let Some(loaded) = self.groups[group].loaded.as_mut() {
                let (bits, units) = (Arc::make_mut(&mut loaded.free), units_between(from, to));
                if is_free {
                    bits.set(from, to);
                    loaded.units += units;
                } else {
                    bits.clear(from, to);
                    loaded.units -= units;
                }
            }
            self.mark_changed(group);
        }
        match is_free {
            true => self.free_units += units,
            false => self.free_units -= units,
        }
    }

    /// Takes the runs of a group and those that touch it out of the index, so that its bits can be changed as a whole.
    pub(super) fn detach(&mut self, group: usize) {
        let (start, end) = (unit_of(group, 0), unit_of(group + 1, 0));
        if group > 0 && self.is_free(start - Units::ONE) {
            let first = self.run_start(start - Units::ONE);
            self.uncount(first, self.run_end(first) - first);
        }
        if self.is_free(end) && !self.is_free(end - Units::ONE) {
            self.uncount(end, self.run_end(end) - end);
        }
        self.index.forget_next_in(group);
        let Some(loaded) = self.groups[group].loaded.as_mut() else { return };
        let mut gone: Vec<(usize, u64)> = Vec::new();
        gone.extend(classes(loaded.filled).map(|class| (class, loaded.runs(class))));
        loaded.clear();
        for (class, count) in gone {
            self.index.remove(class, group, count, true);
        }
    }

    /// Enters the runs of a group and those that touch it into the index again.
    pub(super) fn attach(&mut self, group: usize) {
        let (start, end) = (unit_of(group, 0), unit_of(group + 1, 0));
        let mut at = start;
        if group > 0 && self.is_free(start - Units::ONE) {
            let first = self.run_start(start - Units::ONE);
            at = self.run_end(first);
            self.count(first, at - first);
        }
        while at < end {
            let (_, from) = split(at);
            let Some(next) = self.bits(group).and_then(|bits| bits.next_free(from)) else { break };
            let first = unit_of(group, next);
            at = self.run_end(first);
            self.count(first, at - first);
        }
        if self.is_free(end) && !self.is_free(end - Units::ONE) {
            self.count(end, self.run_end(end) - end);
        }
    }

    /// The lowest run of `least..=most` units that begins in `group`.
    fn find(&mut self, group: usize, least: Units, most: Units) -> Option<UnitRun> {
        let base = unit_of(group, 0);
        let bits = self.bits(group)?;
        let goes_on = bits.has(LENGTH - 1) && self.is_free(base + GROUP_UNITS);
        // Runs before `first` and from `last` on reach into other groups.
        let last = if goes_on { bits.free_before(LENGTH) } else { LENGTH };
        let comes_in = group > 0 && bits.has(0) && self.is_free(base - Units::ONE);
        let first = if comes_in { bits.next_used(0) } else { 0 };
        let loaded = self.groups[group].loaded.as_ref()?;
        let of = u128::MAX >> class_of(least) << class_of(least);
        let of = of & u128::MAX >> (u128::BITS as usize - 1 - class_of(most));
        let mut at = first.max(loaded.low(of) * 64);
        if at > 0 && at < LENGTH && bits.has(at - 1) {
            at = bits.next_used(at);
        }
        let mut found = None;
        while let Some(start) = match least == most && least <= EXACT_UNITS {
            true => bits.next_exact(at, least.get() as usize),
            false => bits.next_window(at, least.min(EXACT_UNITS).get() as usize),
        } {
            if start >= last {
                break;
            }
            at = bits.next_used(start);
            if (least..=most).contains(&units_between(start, at)) {
                found = Some((unit_of(group, start), units_between(start, at)));
                break;
            }
        }
        let found = found.or_else(|| {
            let start = (goes_on && last >= first).then(|| unit_of(group, last))?;
            let units = self.run_end(start) - start;
            (least..=most).contains(&units).then_some((start, units))
        });
        // No such run begins before this word.
        let whole = classes(of).filter(|class| shortest_of(*class) >= least && longest_of(*class) <= most);
        let whole = whole.fold(0, |set, class| set | 1 << class);
        let word = found.map_or(LENGTH - 1, |(start, _)| split(start).1) / 64;
        if let Some(loaded) = self.groups[group].loaded.as_mut() {
            loaded.set_low(whole, word);
        }
        found
    }

    /// The lowest run of `class` with at least `units`, as far as a short search finds it.
    fn lowest_of(&mut self, class: usize, units: Units) -> Option<UnitRun> {
        let (least, most) = (shortest_of(class).max(units), longest_of(class));
        let groups: Vec<u32> = match shortest_of(class) >= units {
            true => self.index.lowest_group(class).into_iter().collect(),
            false => self.index.groups[class].iter().take(CLASS_GROUPS).copied().collect(),
        };
        groups.into_iter().find_map(|group| self.find(group as usize, least, most))
    }

    /// The lowest run with at least `units`.
    pub(super) fn lowest(&mut self, units: Units) -> Option<UnitRun> {
        let class = class_of(units);
        let (sure, rest) = match shortest_of(class) >= units {
            true => (self.index.classes_from(units), 0),
            false => (self.index.classes_from(units) & !(1 << class), self.index.filled & 1 << class),
        };
        let group = classes(sure).filter_map(|class| self.index.lowest_group(class)).min();
        let found = group.and_then(|group| self.find(group as usize, units, Units::new(u64::MAX >> 1)));
        let other = if rest == 0 { None } else { self.lowest_of(class, units) };
        found.into_iter().chain(other).min()
    }

    /// A run of the longest class, with at least `units`.
    pub(super) fn longest(&mut self, units: Units) -> Option<UnitRun> {
        let mut from: Vec<usize> = classes(self.index.classes_from(units)).collect();
        from.reverse();
        from.into_iter().find_map(|class| self.lowest_of(class, units))
    }

    /// A run of the shortest class with at least `units`.
    pub(super) fn smallest(&mut self, units: Units) -> Option<UnitRun> {
        classes(self.index.classes_from(units)).find_map(|class| self.lowest_of(class, units))
    }

    /// Whether the bits of a group can be changed: it is in memory, or can be made since none of its units was ever free.
    pub(super) fn is_open(&mut self, group: usize) -> bool {
        let has_page = !self.pages.levels[0][group].entry.unit.is_none();
        let state = &mut self.groups[group];
        if state.loaded.is_none() && !has_page && !state.is_pending && !state.is_lost {
            state.loaded = Some(Box::new(LoadedGroup::new(GroupBits::none())));
            self.loaded_groups += 1;
        }
        self.groups[group].loaded.is_some()
    }
}
