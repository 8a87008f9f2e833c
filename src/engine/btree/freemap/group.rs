//! A group in memory: its bits, and how many runs of each class begin in it.

use std::sync::Arc;

use super::bits::GroupBits;
use crate::engine::btree::allocation_unit::Units;

/// Classes of runs, by length.
pub const CLASSES: usize = u128::BITS as usize;
/// Runs of up to so many units have a class for each length.
pub const EXACT_UNITS: Units = Units::new(EXACT);
const EXACT: u64 = 64;

/// Memory of a group's bits and index.
pub const GROUP_BYTES: u64 = (size_of::<LoadedGroup>() + size_of::<GroupBits>()) as u64;

/// The class of runs of `units`: their length up to [`EXACT_UNITS`], then one for each power of two.
pub fn class_of(units: Units) -> usize {
    match units.get() {
        units @ 0..=EXACT => units.max(1) as usize - 1,
        units => (EXACT + u64::from((units - 1).ilog2() - EXACT.ilog2())) as usize,
    }
}

/// The shortest run of a class.
pub fn shortest_of(class: usize) -> Units {
    Units::new(match class as u64 {
        class @ 0..EXACT => class + 1,
        class => (1 << (class - EXACT + u64::from(EXACT.ilog2())).min(63)) + 1,
    })
}

/// The longest run of a class.
pub fn longest_of(class: usize) -> Units {
    shortest_of(class + 1) - Units::ONE
}

/// The bits of a group, and an index of the runs that begin in it. A run that goes on in the next group counts with all its length.
pub struct LoadedGroup {
    /// What can be taken.
    pub free: Arc<GroupBits>,
    /// How much that is.
    pub units: Units,
    /// What is free, but withheld.
    pub held: Option<Arc<GroupBits>>,
    /// Bit i: runs of class i begin here.
    pub filled: u128,
    runs: [u16; CLASSES],
    /// No run of the class begins in a word before this one.
    low: [u16; CLASSES],
}

impl LoadedGroup {
    /// A group whose runs are not counted yet.
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

    /// A run of `class` begins in `word`; true if there was none of it.
    pub fn count(&mut self, class: usize, word: usize) -> bool {
        let word = word as u16;
        self.runs[class] += 1;
        let is_first = self.runs[class] == 1;
        self.low[class] = if is_first { word } else { self.low[class].min(word) };
        self.filled |= 1 << class;
        is_first
    }

    /// One run of `class` less; true if there is none of it any more.
    pub fn uncount(&mut self, class: usize) -> bool {
        self.runs[class] = self.runs[class].saturating_sub(1);
        let is_last = self.runs[class] == 0;
        if is_last {
            self.filled &= !(1 << class);
        }
        is_last
    }

    /// Runs of `class`.
    pub fn runs(&self, class: usize) -> u64 {
        u64::from(self.runs[class])
    }

    /// Forgets every run.
    pub fn clear(&mut self) {
        self.filled = 0;
        self.runs = [0; CLASSES];
    }

    /// The word before which no run of the classes in `of` begins.
    pub fn low(&self, of: u128) -> usize {
        let lows = classes(self.filled & of).map(|class| self.low[class]);
        usize::from(lows.min().unwrap_or_default())
    }

    /// No run of the classes in `of` begins before `word`.
    pub fn set_low(&mut self, of: u128, word: usize) {
        for class in classes(self.filled & of) {
            self.low[class] = self.low[class].max(word as u16);
        }
    }
}

/// The classes whose bits are set.
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
    /// Its bits, if they are in memory.
    pub loaded: Option<Box<LoadedGroup>>,
    /// Units of it were taken or freed since the last checkpoint froze.
    pub is_changed: bool,
    /// A checkpoint writes its page; what leaves with it has not come back yet.
    pub is_pending: bool,
    /// Its page cannot be read: what was free counts as used.
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
