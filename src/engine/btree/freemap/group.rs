//! A group in memory: its bits, and the number of runs of each class that begin in it.

use std::sync::Arc;

use super::bits::GroupBits;
use crate::engine::btree::allocation_unit::Units;

/// Number of classes of runs; the class of a run depends on its length.
pub const CLASSES: usize = u128::BITS as usize;
/// Length up to which each length of a run is a class of its own.
pub const EXACT_UNITS: Units = Units::new(EXACT);
const EXACT: u64 = 64;

/// Memory of the bits and the index of a group.
pub const GROUP_BYTES: u64 = (size_of::<LoadedGroup>() + size_of::<GroupBits>()) as u64;

/// The class of a run of `units`: one class per length up to [`EXACT_UNITS`], then one per power of two.
pub fn class_of(units: Units) -> usize {
    match units.get() {
        units @ 0..=EXACT => units.max(1) as usize - 1,
        units => (EXACT + u64::from((units - 1).ilog2() - EXACT.ilog2())) as usize,
    }
}

/// Length of the shortest run of a class.
pub fn shortest_of(class: usize) -> Units {
    Units::new(match class as u64 {
        class @ 0..EXACT => class + 1,
        class => (1 << (class - EXACT + u64::from(EXACT.ilog2())).min(63)) + 1,
    })
}

/// Length of the longest run of a class.
pub fn longest_of(class: usize) -> Units {
    shortest_of(class + 1) - Units::ONE
}

/// The bits of a group, and an index of the runs that begin in it. A run that continues in the next group counts with its whole length.
pub struct LoadedGroup {
    /// Units that can be taken.
    pub free: Arc<GroupBits>,
    /// Number of units that can be taken.
    pub units: Units,
    /// Units that are free but withheld.
    pub held: Option<Arc<GroupBits>>,
    /// Bit i is set if runs of class i begin in the group.
    pub filled: u128,
    /// Number of runs of each class.
    runs: [u16; CLASSES],
    /// For each class, the word before which no run of it begins.
    low: [u16; CLASSES],
}

impl LoadedGroup {
    /// A group with an empty index.
    pub fn new(free: GroupBits) -> LoadedGroup {
        let units = free.count();
        LoadedGroup {
            free: Arc::new(free),
            units,
            held: None,
            filled: 0,
            runs: [0; CLASSES],
            low: [0; CLASSES],
        }
    }

    /// Counts a run of `class` that begins in `word`; true if it is the only one.
    pub fn count(&mut self, class: usize, word: usize) -> bool {
        let word = word as u16;
        self.runs[class] += 1;
        let is_first = self.runs[class] == 1;
        self.low[class] = if is_first { word } else { self.low[class].min(word) };
        self.filled |= 1 << class;
        is_first
    }

    /// Uncounts a run of `class`; true if it was the last one.
    pub fn uncount(&mut self, class: usize) -> bool {
        self.runs[class] = self.runs[class].saturating_sub(1);
        let is_last = self.runs[class] == 0;
        if is_last {
            self.filled &= !(1 << class);
        }
        is_last
    }

    /// Number of runs of `class`.
    pub fn runs(&self, class: usize) -> u64 {
        u64::from(self.runs[class])
    }

    /// Empties the index.
    pub fn clear(&mut self) {
        self.filled = 0;
        self.runs = [0; CLASSES];
    }

    /// The word before which no run of the classes in the set `of` begins.
    pub fn low(&self, of: u128) -> usize {
        let lows = classes(self.filled & of).map(|class| self.low[class]);
        usize::from(lows.min().unwrap_or_default())
    }

    /// Notes that no run of the classes in the set `of` begins before `word`.
    pub fn set_low(&mut self, of: u128, word: usize) {
        for class in classes(self.filled & of) {
            self.low[class] = self.low[class].max(word as u16);
        }
    }
}

/// The classes in a set, whose bits are set.
pub fn classes(mut set: u128) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let class = (set != 0).then(|| set.trailing_zeros() as usize)?;
        set &= set - 1;
        Some(class)
    })
}

/// A group of the file, in memory or not.
#[derive(Default)]
pub struct Group {
    /// Bits and index, if they are in memory.
    pub loaded: Option<Box<LoadedGroup>>,
    /// Whether units were taken or freed since the last freeze.
    pub is_changed: bool,
    /// Whether the running checkpoint writes its page and has not released its units yet.
    pub is_pending: bool,
    /// Whether its page cannot be read: all its units count as used.
    pub is_lost: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_has_a_class_and_longer_ones_no_lower_class() {
        let lengths = (1..2000).chain((4..49).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, (1 << bit) + 1]));
        let mut sorted: Vec<Units> = lengths.map(Units::new).collect();
        sorted.sort_unstable();
        assert!(sorted.windows(2).all(|pair| class_of(pair[0]) <= class_of(pair[1])));
        assert!(class_of(Units::new(1 << 49)) + 1 < CLASSES);
        assert!((1..=EXACT).all(|length| class_of(Units::new(length)) as u64 == length - 1));
        for units in sorted {
            assert!((shortest_of(class_of(units))..=longest_of(class_of(units))).contains(&units), "{units}");
        }
    }
}
