//! Which units of the file are free: runs of units, and the *tail* behind the last unit that was ever used.
//!
//! A unit is in one of these states:
//! ```text
//! tail ─take→ used ─give_back (no durable state knows it)→ free ─take→ used
//!             used ─retire→ retired ─freeze→ leaving ─release (checkpoint durable)→ free
//! ```
//! Consecutive takes give consecutive units: the next run begins where the last one ended, else in the largest free run, else
//! in the tail. So what is written together lies together. Pages and the free map, which nobody reads in a row, go into the lowest
//! holes instead, so that they neither cut up runs of values nor keep the end of the file in use.
//!
//! # Invariants
//!
//! 1. Runs in `free` do not touch each other or the tail.
//! 2. Who takes has made sure that the tail is long enough ([`FreeMap::missing`]), so taking cannot fail.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::varint;

/// Upper bound of a run's encoded size: units and gaps below 2^35.
const RUN_BYTES_MAX: u64 = 10;

/// Runs that a search from below looks at.
const LOW_RUNS: usize = 256;

/// A run of units.
pub type Run = (u64, u64);

/// The free units of one file.
#[derive(Default)]
pub struct FreeMap {
    free: BTreeMap<u64, u64>,
    by_length: BTreeSet<(u64, u64)>,
    free_units: u64,
    retired: Vec<Run>,
    leaving: Vec<Run>,
    end: u64,
    file_units: u64,
    cursor: u64,
}

impl FreeMap {
    /// A file of `file_units` of which everything from `end` on is unused.
    pub fn new(end: u64, file_units: u64) -> FreeMap {
        FreeMap { end, file_units, ..FreeMap::default() }
    }

    /// Units below are used or in the map.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The file has grown.
    pub fn set_file_units(&mut self, units: u64) {
        self.file_units = self.file_units.max(units);
    }

    /// The file has been cut to `units`, not below its end.
    pub fn cut(&mut self, units: u64) {
        debug_assert!(units >= self.end);
        self.file_units = units;
    }

    /// Units of the file behind its end.
    pub fn tail_units(&self) -> u64 {
        self.file_units - self.end
    }

    /// Units below the end that something lies in.
    pub fn used_units(&self) -> u64 {
        let waiting: u64 = self.retired.iter().chain(&self.leaving).map(|(_, units)| units).sum();
        self.end - super::FIRST_UNIT - self.free_units - waiting
    }

    /// Units that can be taken now.
    pub fn available_units(&self) -> u64 {
        self.free_units + (self.file_units - self.end)
    }

    /// How far the file must grow (its new size in units) so that `units` fit into the tail however the free runs lie; `None`
    /// if they do already.
    pub fn missing(&self, units: u64) -> Option<u64> {
        (self.file_units - self.end < units).then_some(self.end + units)
    }

    /// Units that the encoded map takes at most when `more` runs are added to it.
    pub fn map_units_max(&self, more: u64) -> u64 {
        let runs = self.free.len() as u64 + self.retired.len() as u64 + self.leaving.len() as u64 + more;
        (runs * RUN_BYTES_MAX + 16).div_ceil(super::UNIT_BYTES) + 1
    }

    /// Takes `units` consecutive units.
    pub fn take(&mut self, units: u64) -> u64 {
        let near = self.free.get(&self.cursor).filter(|length| **length >= units);
        let found = match near {
            Some(length) => Some((self.cursor, *length)),
            None => self
                .by_length
                .last()
                .filter(|(length, _)| *length >= units)
                .map(|(length, start)| (*start, *length)),
        };
        let start = match found {
            Some((start, length)) => {
                self.remove(start, length);
                if length > units {
                    self.add(start + units, length - units);
                }
                start
            }
            None => {
                let start = self.end;
                self.end += units;
                debug_assert!(self.end <= self.file_units, "invariant 2");
                start
            }
        };
        self.cursor = start + units;
        start
    }

    /// Takes `units` consecutive units as low as a short search finds them.
    pub fn take_low(&mut self, units: u64) -> u64 {
        self.take_below(units, u64::MAX).unwrap_or_else(|| self.take(units))
    }

    /// The same, all of them below `limit`; `None` where the search finds none.
    pub fn take_below(&mut self, units: u64, limit: u64) -> Option<u64> {
        let mut runs = self.free.iter().take(LOW_RUNS);
        let found = runs.find(|(_, length)| **length >= units).map(|(start, length)| (*start, *length));
        let (start, length) = found.filter(|(start, _)| start + units <= limit)?;
        self.remove(start, length);
        if length > units {
            self.add(start + units, length - units);
        }
        Some(start)
    }

    fn add(&mut self, start: u64, length: u64) {
        self.free.insert(start, length);
        self.by_length.insert((length, start));
        self.free_units += length;
    }

    fn remove(&mut self, start: u64, length: u64) {
        self.free.remove(&start);
        self.by_length.remove(&(length, start));
        self.free_units -= length;
    }

    /// Frees units that no durable state refers to.
    pub fn give_back(&mut self, mut start: u64, mut units: u64) {
        if let Some((before, length)) = self.free.range(..start).next_back().map(|(a, b)| (*a, *b))
            && before + length == start
        {
            self.remove(before, length);
            (start, units) = (before, units + length);
        }
        if let Some(length) = self.free.get(&(start + units)).copied() {
            self.remove(start + units, length);
            units += length;
        }
        if start + units == self.end {
            self.end = start;
        } else {
            self.add(start, units);
        }
    }

    /// Frees units that the last checkpoint still refers to: they can be taken after the next one.
    pub fn retire(&mut self, start: u64, units: u64) {
        self.retired.push((start, units));
    }

    /// A checkpoint begins: what was retired so far is free in its state.
    pub fn freeze(&mut self) {
        self.leaving.append(&mut self.retired);
    }

    /// The checkpoint is durable.
    pub fn release(&mut self) {
        for (start, units) in std::mem::take(&mut self.leaving) {
            self.give_back(start, units);
        }
    }

    /// Every run that is not used: free, retired and leaving; sorted.
    pub fn unused(&self) -> Vec<Run> {
        let free = self.free.iter().map(|(start, units)| (*start, *units));
        let mut runs: Vec<Run> =
            free.chain(self.retired.iter().copied()).chain(self.leaving.iter().copied()).collect();
        runs.sort_unstable();
        runs
    }

    /// The map as the checkpoint that was just frozen will see it: free and leaving runs.
    pub fn encode(&self) -> Vec<u8> {
        let free = self.free.iter().map(|(start, units)| (*start, *units));
        let mut runs: Vec<Run> = free.chain(self.leaving.iter().copied()).collect();
        runs.sort_unstable();
        let mut bytes = Vec::new();
        varint::put(&mut bytes, runs.len() as u64);
        let mut end = 0;
        for (start, units) in runs {
            varint::put(&mut bytes, start - end);
            varint::put(&mut bytes, units);
            end = start + units;
        }
        bytes
    }

    /// Reads an encoded map of a file whose tail begins at `end`; `None` if it is not one.
    pub fn decode(mut source: &[u8], end: u64, file_units: u64) -> Option<FreeMap> {
        let mut map = FreeMap::new(end, file_units);
        let count = varint::take(&mut source)?;
        let mut at = 0u64;
        let mut runs = Vec::new();
        for _ in 0..count {
            let start = at.checked_add(varint::take(&mut source)?)?;
            let units = varint::take(&mut source)?;
            at = start.checked_add(units)?;
            if start < super::FIRST_UNIT || units == 0 || at > end {
                return None;
            }
            runs.push((start, units));
        }
        runs.into_iter().for_each(|(start, units)| map.give_back(start, units));
        source.is_empty().then_some(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    #[test]
    fn no_unit_is_used_twice_and_none_is_lost() {
        let mut prng = Prng::new(1);
        let mut map = FreeMap::new(2, 100_000);
        let mut used: Vec<Run> = Vec::new();
        for step in 0..3000 {
            match prng.below(10) {
                0..6 => {
                    let units = 1 + prng.below(5);
                    let start = if prng.one_in(3) { map.take_low(units) } else { map.take(units) };
                    used.push((start, units));
                    let limit = prng.below(60);
                    let low = map.take_below(units, limit);
                    used.extend(low.map(|start| (start, units)));
                    assert!(low.is_none_or(|start| start + units <= limit));
                }
                6 if step % 40 == 0 => map.freeze(),
                7 if step % 40 == 0 => map.release(),
                kind if !used.is_empty() => {
                    let (start, units) = used.swap_remove(prng.below(used.len() as u64) as usize);
                    if kind == 8 { map.retire(start, units) } else { map.give_back(start, units) }
                }
                _ => {}
            }
            if step % 50 == 0 {
                let mut runs: Vec<Run> = used.iter().copied().chain(map.unused()).collect();
                runs.sort_unstable();
                let mut at = 2;
                for (start, units) in runs {
                    assert_eq!(start, at, "step {step}");
                    at += units;
                }
                assert_eq!(at, map.end());
                assert_eq!(map.used_units(), used.iter().map(|(_, units)| units).sum::<u64>());
            }
        }
        map.freeze();
        let bytes = map.encode();
        assert!(bytes.len() as u64 <= map.map_units_max(0) * super::super::UNIT_BYTES);
        let back = FreeMap::decode(&bytes, map.end(), 100_000).unwrap();
        map.release();
        assert_eq!(back.unused(), map.unused());
        for cut in 0..bytes.len() {
            assert!(FreeMap::decode(&bytes[..cut], 200_000, 200_000).is_none(), "cut {cut}");
        }
    }

    #[test]
    fn what_is_taken_together_lies_together() {
        let mut map = FreeMap::new(2, 10_000);
        let holes: Vec<u64> = (0..400).map(|_| map.take(1)).collect();
        assert!(holes.windows(2).all(|pair| pair[1] == pair[0] + 1));
        holes[..50].iter().step_by(2).for_each(|unit| map.give_back(*unit, 1));
        (100..200).for_each(|index| map.give_back(holes[index], 1));
        map.take(1);
        let again: Vec<u64> = (0..99).map(|_| map.take(1)).collect();
        assert!(again.windows(2).all(|pair| pair[1] == pair[0] + 1), "the long run first");
    }
}
