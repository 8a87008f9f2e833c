//! The part of the map for vacuum: the emptiest window of the file, and units that are withheld.

use std::sync::Arc;

use super::bits::{GROUP_UNITS, GroupBits};
use super::runs::{by_group, split, unit_of, units_between};
use super::{FreeMap, UnitRun};
use crate::engine::btree::allocation_unit::{UnitNumber, Units};

impl FreeMap {
    /// Withholds the units between `from` and `to`: until [`FreeMap::end_withholding`] they are not taken, even if they are or become free.
    /// Runs that reach beyond are withheld whole.
    pub fn withhold(&mut self, from: UnitNumber, to: UnitNumber) {
        if from >= to {
            return;
        }
        let (mut from, mut to) = match self.withheld {
            Some((start, units)) => (from.min(start), to.max(start + units)),
            None => (from, to),
        };
        if self.is_free(from) {
            from = self.run_start(from);
        }
        if self.is_free(to - Units::ONE) {
            to = self.run_end(to - Units::ONE);
        }
        self.withheld = Some((from, to - from));
        for (group, from, to) in by_group(from, to.min(self.end).saturating_since(from)) {
            if self.bits(group).is_some_and(|bits| bits.next_free(from).is_some_and(|at| at < to)) {
                self.detach(group);
                self.hold_group(group);
                self.attach(group);
            }
        }
    }

    /// Sets aside the free units of a group that are withheld. The group is detached.
    pub(super) fn hold_group(&mut self, group: usize) {
        let Some((start, units)) = self.withheld else { return };
        let base = unit_of(group, 0);
        let index = |unit: UnitNumber| (unit.clamp(base, base + GROUP_UNITS) - base).get() as usize;
        let Some(loaded) = self.groups.get_mut(group).and_then(|group| group.loaded.as_mut()) else { return };
        let taken = Arc::make_mut(&mut loaded.free).split_off(index(start), index(start + units));
        let count = taken.count();
        if !count.is_zero() {
            let held = loaded.held.get_or_insert_with(|| Arc::new(GroupBits::none()));
            Arc::make_mut(held).add(&taken);
            loaded.units -= count;
            self.free_units -= count;
            self.held_units += count;
        }
    }

    /// Sets aside the withheld part of a run that is given back; returns the rest.
    pub(super) fn hold_back(&mut self, start: UnitNumber, units: Units) -> Vec<UnitRun> {
        let end = start + units;
        let (from, to) = match self.withheld {
            Some((from, length)) => (from.clamp(start, end), (from + length).clamp(start, end)),
            None => return vec![(start, units)],
        };
        for (group, from, to) in by_group(from, to - from) {
            if let Some(loaded) = self.groups[group].loaded.as_mut() {
                let held = loaded.held.get_or_insert_with(|| Arc::new(GroupBits::none()));
                Arc::make_mut(held).set(from, to);
                self.held_units += units_between(from, to);
            }
            self.mark_changed(group);
        }
        [(start, from - start), (to, end - to)].into_iter().filter(|(_, units)| !units.is_zero()).collect()
    }

    /// Lets the withheld units of one group be taken again. True if there are more groups.
    pub fn end_withholding(&mut self) -> bool {
        let Some((from, units)) = self.withheld else { return false };
        let groups = split(from).0..=split(from + units - Units::ONE).0;
        let is_held = |group: &usize| {
            let state = self.groups.get(*group).and_then(|group| group.loaded.as_ref());
            state.is_some_and(|loaded| loaded.held.is_some())
        };
        let mut waiting = groups.filter(is_held);
        let (group, more) = (waiting.next(), waiting.next().is_some());
        drop(waiting);
        if let Some(group) = group {
            self.detach(group);
            if let Some(loaded) = self.groups[group].loaded.as_mut()
                && let Some(held) = loaded.held.take()
            {
                Arc::make_mut(&mut loaded.free).add(&held);
                loaded.units += held.count();
                self.free_units += held.count();
                self.held_units -= held.count();
            }
            self.attach(group);
        }
        if !more {
            self.withheld = None;
            self.drain_end();
        }
        more
    }

    /// The window of `units` between `from` and `to` with the most free units, as far as groups are in memory.
    pub fn emptiest(&self, units: Units, from: UnitNumber, to: UnitNumber) -> Option<UnitRun> {
        let mut best = None;
        let mut window = std::collections::VecDeque::new();
        let mut free_units = Units::ZERO;
        for (start, length) in self.free_runs(from, to) {
            window.push_back((start, length));
            free_units += length;
            // A window that begins with a free run is emptied with the least work.
            while let Some((first, dropped)) = window.front().copied()
                && start + length > first + units
                && window.len() > 1
            {
                window.pop_front();
                free_units -= dropped;
            }
            let Some((first, _)) = window.front().copied() else { continue };
            if first + units <= to && best.is_none_or(|(most, _)| free_units > most) {
                best = Some((free_units, first));
            }
        }
        best.map(|(_, first)| (first, units))
    }

    /// Free runs that begin between `from` and `to`, ascending, as far as groups are in memory.
    pub(super) fn free_runs(
        &self,
        from: UnitNumber,
        to: UnitNumber,
    ) -> impl Iterator<Item = UnitRun> + use<'_> {
        let mut at = from;
        if !from.is_none() && self.is_free(from) && self.is_free(from - Units::ONE) {
            at = self.run_end(from);
        }
        std::iter::from_fn(move || {
            let start = self.next_free(at).filter(|start| *start < to)?;
            at = self.run_end(start);
            Some((start, at - start))
        })
    }

    /// The first free unit from `at` on.
    fn next_free(&self, at: UnitNumber) -> Option<UnitNumber> {
        let (mut group, mut from) = split(at);
        while group < self.groups.len() {
            if let Some(next) = self.bits(group).and_then(|bits| bits.next_free(from)) {
                return Some(unit_of(group, next));
            }
            (group, from) = (group + 1, 0);
        }
        None
    }
}
