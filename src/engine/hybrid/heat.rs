//! Heat: how often each record was read or written lately, roughly, in a memory that does not grow with the store.
//!
//! Every record has two of many counters, by the hash of its key; its heat is the smaller one. A touch raises both up to [`HEAT_MAX`], so that who
//! is hottest writes no shared memory. After as many touches as there are counters all are halved, so that the average is between two and four, since a
//! touch raises two: far below the most, else chance alone would make records look hot.
//!
//! There are some counters for each record that the tree can hold. How large records are is seen from what has come down, and when that has changed
//! much, all heat begins anew with another number of counters.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering::Relaxed};

use crate::engine::Histogram;
use crate::engine::lsm::hash;

/// The most heat.
pub const HEAT_MAX: u8 = 15;
/// Counters for each record that the tree can hold, by measurement: with fewer, what is hot and what is cold share them.
const COUNTERS_PER_RECORD: u64 = 4;
/// Bytes of a record before any has come down.
const RECORD_BYTES: u64 = 4 << 10;
/// Bytes of the smallest records that have as many counters as others.
const RECORD_BYTES_MIN: u64 = 256;
/// Counters at least and at most.
const COUNTERS: std::ops::RangeInclusive<u64> = 1 << 10..=1 << 26;
/// Their number changes when it should be so many times larger or smaller.
const CHANGE_TIMES: u64 = 4;

/// Counters that a report looks at, at most.
const SHOWN: usize = 1 << 16;

/// The heat of records.
pub struct Heat {
    hot_bytes: u64,
    /// As many as there are for the smallest records; the first few are in use.
    counters: Box<[AtomicU8]>,
    /// How many are in use, a power of two.
    count: AtomicU64,
    touches: AtomicU64,
}

/// Counters for a tree of up to `hot_bytes` of records of `record_bytes`.
fn count(hot_bytes: u64, record_bytes: u64) -> u64 {
    let counters = hot_bytes.saturating_mul(COUNTERS_PER_RECORD) / record_bytes.max(RECORD_BYTES_MIN);
    counters.clamp(*COUNTERS.start(), *COUNTERS.end()).next_power_of_two()
}

impl Heat {
    /// Heat for a tree of up to `hot_bytes`; every record is cold.
    pub fn new(hot_bytes: u64) -> Heat {
        let most = count(hot_bytes, RECORD_BYTES_MIN);
        Heat {
            hot_bytes,
            counters: (0..most).map(|_| AtomicU8::new(0)).collect(),
            count: AtomicU64::new(count(hot_bytes, RECORD_BYTES)),
            touches: AtomicU64::new(0),
        }
    }

    /// Those in use.
    fn counters(&self) -> &[AtomicU8] {
        &self.counters[..self.count.load(Relaxed) as usize]
    }

    /// Fits the number of counters to records of `record_bytes` on average; where it changes, every record is cold again.
    pub fn fit(&self, record_bytes: u64) {
        let (now, then) = (count(self.hot_bytes, record_bytes), self.count.load(Relaxed));
        if now >= then.saturating_mul(CHANGE_TIMES) || now <= then / CHANGE_TIMES {
            self.count.store(now, Relaxed);
            self.counters().iter().for_each(|counter| counter.store(0, Relaxed));
            self.touches.store(0, Relaxed);
        }
    }

    fn of(&self, key: &[u8]) -> [&AtomicU8; 2] {
        let (hash, counters) = (hash(key), self.counters());
        let mask = counters.len() as u64 - 1;
        [hash, hash.rotate_left(32)].map(|hash| &counters[(hash & mask) as usize])
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
        let counters = self.counters();
        let stride = (counters.len() / SHOWN).max(1);
        let shown = counters.iter().step_by(stride).map(|counter| counter.load(Relaxed));
        shown.for_each(|heat| histogram.buckets[usize::from(heat)] += 1);
        histogram
    }

    /// Halves all heat if it is time; whether it was. Called by background work.
    pub fn cool(&self) -> bool {
        let counters = self.counters();
        let is_due = self.touches.load(Relaxed) >= counters.len() as u64;
        if is_due {
            self.touches.store(0, Relaxed);
            counters.iter().for_each(|counter| counter.store(counter.load(Relaxed) / 2, Relaxed));
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_more_counters_for_smaller_records() {
        let heat = Heat::new(1 << 20);
        let count = || heat.histogram().count();
        heat.touch(b"some");
        for (record_bytes, counters) in
            [(4 << 10, 1 << 10), (2 << 10, 1 << 10), (1100, 1 << 12), (600, 1 << 12)]
        {
            heat.fit(record_bytes);
            assert_eq!(count(), counters, "{record_bytes}");
        }
        assert_eq!(heat.heat(b"some"), 0, "it begins anew");
        heat.fit(100);
        (0..9).for_each(|_| heat.touch(b"some"));
        heat.fit(300);
        assert_eq!((count(), heat.heat(b"some")), (1 << 14, 9), "too little has changed");
        heat.fit(4 << 10);
        assert_eq!((count(), heat.heat(b"some")), (1 << 10, 0));
    }

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
