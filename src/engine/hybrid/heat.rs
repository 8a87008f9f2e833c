//! Heat: how often each record was read or written lately, roughly, in a memory that does not grow with the store.
//!
//! Every record has two of many counters, by the hash of its key; its heat is the smaller one. A touch raises both up to [`HEAT_MAX`], so that who
//! is hottest writes no shared memory. After as many touches as there are counters all are halved, so that the average is between two and four, since a
//! touch raises two: far below the most, else chance alone would make records look hot.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use crate::engine::Histogram;
use crate::engine::lsm::hash;

/// The most heat.
pub const HEAT_MAX: u8 = 15;
/// Bytes of the tree for which there is a counter: a block of a file, or some tens of small records, of which few are hot.
const RECORD_BYTES: u64 = 1 << 10;
/// Counters at least and at most.
const COUNTERS: std::ops::RangeInclusive<u64> = 1 << 10..=1 << 26;

/// Counters that a report looks at, at most.
const SHOWN: usize = 1 << 16;

/// The heat of records.
pub struct Heat {
    counters: Box<[AtomicU8]>,
    touches: AtomicU64,
}

impl Heat {
    /// Heat for a tree of up to `hot_bytes`; every record is cold.
    pub fn new(hot_bytes: u64) -> Heat {
        let count = (hot_bytes / RECORD_BYTES).clamp(*COUNTERS.start(), *COUNTERS.end()).next_power_of_two();
        Heat { counters: (0..count).map(|_| AtomicU8::new(0)).collect(), touches: AtomicU64::new(0) }
    }

    fn of(&self, key: &[u8]) -> [&AtomicU8; 2] {
        let (hash, mask) = (hash(key), self.counters.len() as u64 - 1);
        [hash, hash.rotate_left(32)].map(|hash| &self.counters[(hash & mask) as usize])
    }

    /// A point read or a write met `key`. Of touches at the same moment some may be lost.
    pub fn touch(&self, key: &[u8]) {
        let mut is_counted = false;
        for counter in self.of(key) {
            let heat = counter.load(Relaxed);
            if heat < HEAT_MAX {
                counter.store(heat + 1, Relaxed);
                is_counted = true;
            }
        }
        if is_counted {
            self.touches.fetch_add(1, Relaxed);
        }
    }

    /// The heat of `key`: 0 to [`HEAT_MAX`].
    pub fn heat(&self, key: &[u8]) -> u8 {
        let [one, two] = self.of(key);
        one.load(Relaxed).min(two.load(Relaxed))
    }

    /// The counters by what they say, or as many as [`SHOWN`] of them.
    pub fn histogram(&self) -> Histogram {
        let mut histogram = Histogram::default();
        let stride = (self.counters.len() / SHOWN).max(1);
        let shown = self.counters.iter().step_by(stride).map(|counter| counter.load(Relaxed));
        shown.for_each(|heat| histogram.buckets[usize::from(heat)] += 1);
        histogram
    }

    /// Halves all heat if it is time; whether it was. Called by background work.
    pub fn cool(&self) -> bool {
        let is_due = self.touches.load(Relaxed) >= self.counters.len() as u64;
        if is_due {
            self.touches.store(0, Relaxed);
            self.counters.iter().for_each(|counter| counter.store(counter.load(Relaxed) / 2, Relaxed));
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_touched_often_is_hotter_than_the_rest_and_cools_down() {
        let heat = Heat::new(1 << 20);
        let key = |number: u64| number.to_be_bytes();
        for round in 0..200u64 {
            (0..20).for_each(|number| heat.touch(&key(number)));
            heat.touch(&key(1000 + round));
        }
        let shown = heat.histogram();
        assert_eq!(shown.count(), 1024);
        assert!(
            (20..=80).contains(&shown.buckets[usize::from(HEAT_MAX)]) && shown.buckets[16] == 0,
            "{shown:?}"
        );
        let cold = (1000..1200).filter(|number| heat.heat(&key(*number)) <= 2).count();
        assert!((0..20).all(|number| heat.heat(&key(number)) == HEAT_MAX) && cold > 180, "{cold} cold");
        for number in 0..100_000 {
            heat.touch(&key(10_000 + number));
            heat.cool();
        }
        assert!((0..20).all(|number| heat.heat(&key(number)) < HEAT_MAX));
    }
}
