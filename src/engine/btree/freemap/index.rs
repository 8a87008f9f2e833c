//! The index of free runs: which groups have runs of a length.

use std::collections::BTreeSet;

use super::group::{CLASSES, class_of, classes, shortest_of};
use super::runs::split;
use super::{NO_RUN, UnitRun};
use crate::engine::btree::allocation_unit::{UnitNumber, Units};

/// The runs of all groups in memory by class, and two runs that are probably used next.
pub struct RunIndex {
    /// For each class of runs, the groups with such runs.
    pub groups: Vec<BTreeSet<u32>>,
    /// Bit i is set if there are runs of class i.
    pub filled: u128,
    /// Number of runs of each class.
    pub runs: [u64; CLASSES],
    /// The rest of the run from which units were taken last, if nothing else has changed it.
    pub row: UnitRun,
    /// The run that grew last when units were given back, if nothing else has changed it.
    pub coalesced: UnitRun,
}

impl RunIndex {
    /// An empty index.
    pub fn new() -> RunIndex {
        RunIndex {
            groups: vec![BTreeSet::new(); CLASSES],
            filled: 0,
            runs: [0; CLASSES],
            row: NO_RUN,
            coalesced: NO_RUN,
        }
    }

    /// Counts a run of `class` in `group`; `is_first` if it is the only one there.
    pub fn add(&mut self, class: usize, group: usize, is_first: bool) {
        self.runs[class] += 1;
        if is_first {
            self.groups[class].insert(group as u32);
            self.filled |= 1 << class;
        }
    }

    /// Uncounts `count` runs of `class` in `group`; `is_last` if there are no others there.
    pub fn remove(&mut self, class: usize, group: usize, count: u64, is_last: bool) {
        self.runs[class] -= count;
        if is_last {
            self.groups[class].remove(&(group as u32));
            if self.groups[class].is_empty() {
                self.filled &= !(1 << class);
            }
        }
    }

    /// Forgets the runs to be used next, if they satisfy `is_changed` by their first unit.
    pub fn forget_next(&mut self, is_changed: impl Fn(UnitNumber) -> bool) {
        for known in [&mut self.row, &mut self.coalesced] {
            if is_changed(known.0) {
                *known = NO_RUN;
            }
        }
    }

    /// Forgets the runs to be used next, if they begin in `group`.
    pub fn forget_next_in(&mut self, group: usize) {
        self.forget_next(|start| split(start).0 == group);
    }

    /// The set of classes with runs, from the class of `units` on; runs of that class may be shorter than `units`.
    pub fn classes_from(&self, units: Units) -> u128 {
        let first = class_of(units);
        self.filled >> first << first
    }

    /// The lowest group with runs of `class`.
    pub fn lowest_group(&self, class: usize) -> Option<u32> {
        self.groups[class].first().copied()
    }

    /// Lower bound of the units in runs of at least `piece` units.
    pub fn useful_units(&self, piece: Units) -> Units {
        classes(self.classes_from(piece)).map(|class| shortest_of(class) * self.runs[class]).sum()
    }

    /// Units that can surely be taken from runs in pieces of up to `piece`: what is left of a run is shorter than a piece.
    pub fn sure_units(&self, piece: Units) -> Units {
        // A class whose runs need not all fit is searched only in part, so it does not count.
        let first = (class_of(piece)..).find(|class| shortest_of(*class) >= piece).unwrap_or(CLASSES);
        let least = shortest_of(first);
        let of = classes(self.classes_from(least));
        of.map(|class| (shortest_of(class) - least + Units::ONE) * self.runs[class]).sum()
    }
}
