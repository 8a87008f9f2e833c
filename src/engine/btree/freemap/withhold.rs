//! What vacuum asks of the map: where the emptiest window is, and that nothing is put into it.

use std::sync::Arc;

use super::bits::{GROUP_UNITS, GroupBits};
use super::runs::{by_group, split};
use super::{FreeMap, UnitRun};

impl FreeMap {
    /// Lets nobody take what is free between `from` and `to`, or becomes free there, before [`FreeMap::end_withholding`]. Runs
    /// that reach beyond are withheld whole.
    pub fn withhold(&mut self, from: u64, to: u64) {
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
        if self.is_free(to - 1) {
            to = self.run_end(to - 1);
        }
        self.withheld = Some((from, to - from));
        for (group, from, to) in by_group(from, to.min(self.end).saturating_sub(from)) {
            if self.bits(group).is_some_and(|bits| bits.next_free(from).is_some_and(|at| at < to)) {
                self.detach(group);
                self.hold_group(group);
                self.attach(group);
            }
        }
    }

    /// Holds back what is free of a detached group and withheld.
    pub(super) fn hold_group(&mut self, group: usize) {
        let Some((start, units)) = self.withheld else { return };
        let base = group as u64 * GROUP_UNITS;
        let from = start.clamp(base, base + GROUP_UNITS) - base;
        let to = (start + units).clamp(base, base + GROUP_UNITS) - base;
        let Some(loaded) = self.groups.get_mut(group).and_then(|group| group.loaded.as_mut()) else { return };
        let taken = Arc::make_mut(&mut loaded.free).split_off(from as usize, to as usize);
        let count = taken.count();
        if count > 0 {
            let held = loaded.held.get_or_insert_with(|| Arc::new(GroupBits::none()));
            Arc::make_mut(held).add(&taken);
            loaded.units -= count;
            self.free_units -= count;
            self.held_units += count;
        }
    }

    /// Holds back what of a run that is given back is withheld; returns the rest.
    pub(super) fn hold_back(&mut self, start: u64, units: u64) -> Vec<UnitRun> {
        let end = start + units;
        let (from, to) = match self.withheld {
            Some((from, length)) => (from.clamp(start, end), (from + length).clamp(start, end)),
            None => return vec![(start, units)],
        };
        for (group, from, to) in by_group(from, to - from) {
            if let Some(loaded) = self.groups[group].loaded.as_mut() {
                let held = loaded.held.get_or_insert_with(|| Arc::new(GroupBits::none()));
                Arc::make_mut(held).set(from, to);
                self.held_units += (to - from) as u64;
            }
            self.mark_changed(group);
        }
        [(start, from - start), (to, end - to)].into_iter().filter(|(_, units)| *units > 0).collect()
    }

    /// What was withheld can be taken again: that of one group. True if there is more.
    pub fn end_withholding(&mut self) -> bool {
        let Some((from, units)) = self.withheld else { return false };
        let groups = split(from).0..=split(from + units - 1).0;
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

    /// The run of `units` between `from` and `to` of which the most is free, as far as groups are in memory; `None` if there is no
    /// such run.
    pub fn emptiest(&self, units: u64, from: u64, to: u64) -> Option<UnitRun> {
        let mut best = None;
        let mut window = std::collections::VecDeque::new();
        let mut free_units = 0;
        for (start, length) in self.free_runs(from, to) {
            window.push_back((start, length));
            free_units += length;
            // What begins where a run ends is what can be emptied with the least work.
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

    /// Runs that begin between `from` and `to`, ascending, as far as groups are in memory.
    pub(super) fn free_runs(&self, from: u64, to: u64) -> impl Iterator<Item = UnitRun> + use<'_> {
        let mut at = from;
        if from > 0 && self.is_free(from) && self.is_free(from - 1) {
            at = self.run_end(from);
        }
        std::iter::from_fn(move || {
            let start = self.next_free(at).filter(|start| *start < to)?;
            at = self.run_end(start);
            Some((start, at - start))
        })
    }

    /// The first free unit from `at` on.
    fn next_free(&self, at: u64) -> Option<u64> {
        let (mut group, mut from) = split(at);
        while group < self.groups.len() {
            if let Some(next) = self.bits(group).and_then(|bits| bits.next_free(from)) {
                return Some(group as u64 * GROUP_UNITS + next as u64);
            }
            (group, from) = (group + 1, 0);
        }
        None
    }
}
