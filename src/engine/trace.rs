//! The live trace: the last reads that the filesystem asked of the engine, with every structure that each of them asked.
//!
//! A traced point read asks its structures one by one first and notes them, and is answered then; so what it had to read is in
//! its trace, the cache is asked twice, and what the cache does not keep is read twice. While it is off, a read costs one
//! relaxed load more.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::Probe;

/// Reads that are remembered.
const READS_MAX: usize = 64;

/// A read that was traced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TracedRead {
    /// Counts every traced read since tracing began; the first is 1.
    pub number: u64,
    /// The key, or the first key of the range.
    pub key: Vec<u8>,
    /// The question.
    pub asked: Asked,
}

/// The question of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A point read: structures in order, up to where it stopped.
    Get(Vec<Probe>),
    /// A scan: sorted sources are merged, so there is no order of structures.
    Scan {
        /// Entries visited.
        entries: u64,
        /// Their keys and values.
        bytes: u64,
    },
}

/// Remembers the last reads while it is on.
#[derive(Default)]
pub struct ReadTrace {
    /// One read in so many is traced; 0 is off.
    every: AtomicU64,
    asked: AtomicU64,
    reads: Mutex<(u64, VecDeque<TracedRead>)>,
}

impl ReadTrace {
    /// Traces one read in `every` from now on, or none with 0. Turning it on forgets what was traced before.
    pub fn set(&self, every: u64) {
        if every > 0 {
            *self.reads.lock() = Default::default();
        }
        self.every.store(every, Relaxed);
    }

    /// One read in so many is traced now; 0 is none.
    pub fn every(&self) -> u64 {
        self.every.load(Relaxed)
    }

    /// Whether the read that begins is to be traced.
    pub(super) fn wants(&self) -> bool {
        match self.every.load(Relaxed) {
            0 => false,
            every => self.asked.fetch_add(1, Relaxed).is_multiple_of(every),
        }
    }

    /// Notes a read.
    pub(super) fn note(&self, key: &[u8], asked: Asked) {
        let (last, reads) = &mut *self.reads.lock();
        if reads.len() == READS_MAX {
            reads.pop_front();
        }
        *last += 1;
        reads.push_back(TracedRead { number: *last, key: key.to_vec(), asked });
    }

    /// The reads that are remembered, the newest last.
    pub fn reads(&self) -> Vec<TracedRead> {
        self.reads.lock().1.iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_so_many_is_wanted_and_the_last_ones_are_kept() {
        let trace = ReadTrace::default();
        assert!(!trace.wants());
        trace.set(4);
        assert_eq!((0..100).filter(|_| trace.wants()).count(), 25);
        for number in 0..100u8 {
            trace.note(&[number], Asked::Get(Vec::new()));
        }
        let reads = trace.reads();
        assert_eq!((reads.len(), reads[0].number, &reads[0].key[..]), (64, 37, &[36u8][..]));
        trace.set(0);
        assert!(!trace.wants() && trace.reads().len() == 64, "what was traced stays to be read");
        trace.set(1);
        assert!(trace.reads().is_empty());
    }
}
