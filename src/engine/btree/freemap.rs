//! Which units of the file are free: runs of units, and the *tail* behind the last unit that was ever used.
//!
//! A unit is in one of these states:
//! ```text
//! tail ─take→ used ─give_back (no durable state knows it)→ free ─take→ used
//!             used ─retire→ retired ─freeze→ leaving ─(checkpoint durable)→ returning ─give_back_some→ free
//! ```
//! Consecutive takes give consecutive units: the next run begins where the last one ended; else at the lowest long run, so that
//! what is written together lies together and the end of the file drains; else in the smallest hole that fits, so that values of
//! one unit do not eat the holes that pages leave behind; else in the tail. Pages and the free map, which nobody reads in a row, go
//! into the lowest hole that fits.
//!
//! A checkpoint may release hundreds of thousands of runs. They come back in parts ([`FreeMap::give_back_some`]), sorted and joined
//! beforehand, so that the latch of the tree is never held for long.
//!
//! # Invariants
//!
//! 1. Runs in `free` do not touch each other or the tail.
//! 2. Who takes has made sure that the tail is long enough ([`FreeMap::missing`]), so taking cannot fail.

use std::collections::{BTreeMap, BTreeSet};

use crate::base::varint;

/// Upper bound of a run's encoded size: units and gaps below 2^35.
const RUN_BYTES_MAX: u64 = 10;

/// Runs of up to so many units have a class for each length.
const EXACT_UNITS: u64 = 64;
/// Runs of a class of several lengths that a search for one of them looks at.
const CLASS_RUNS: usize = 64;
/// A run from here on is worth beginning a row of values in: 64 KiB.
const LONG_UNITS: u64 = 16;

/// A run of units.
pub type Run = (u64, u64);

/// The free units of one file.
pub struct FreeMap {
    free: BTreeMap<u64, u64>,
    /// The starts of the runs of each class.
    classes: Vec<BTreeSet<u64>>,
    /// Bit i: there are runs of class i.
    filled: u128,
    free_units: u64,
    retired: Vec<Run>,
    leaving: Vec<Run>,
    /// Released, but not in `free` yet; ascending.
    returning: Vec<Run>,
    /// Free in every state, but not to be taken now.
    withheld: Vec<Run>,
    /// Units of the four before.
    waiting_units: u64,
    end: u64,
    file_units: u64,
    cursor: u64,
}

/// The class of runs of `units`: their length up to [`EXACT_UNITS`], then one for each power of two.
fn class_of(units: u64) -> usize {
    match units {
        0..=EXACT_UNITS => units.max(1) as usize - 1,
        _ => (EXACT_UNITS + u64::from((units - 1).ilog2() - EXACT_UNITS.ilog2())) as usize,
    }
}

/// Sorts runs and joins those that touch.
pub fn join_runs(runs: &mut Vec<Run>) {
    runs.sort_unstable();
    runs.dedup_by(|next, run| {
        let touches = run.0 + run.1 == next.0;
        if touches {
            run.1 += next.1;
        }
        touches
    });
}

impl FreeMap {
    /// A file of `file_units` of which everything from `end` on is unused.
    pub fn new(end: u64, file_units: u64) -> FreeMap {
        FreeMap {
            free: BTreeMap::new(),
            classes: vec![BTreeSet::new(); u128::BITS as usize],
            filled: 0,
            free_units: 0,
            retired: Vec::new(),
            leaving: Vec::new(),
            returning: Vec::new(),
            withheld: Vec::new(),
            waiting_units: 0,
            end,
            file_units,
            cursor: 0,
        }
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
        self.end - super::FIRST_UNIT - self.free_units - self.waiting_units
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
        let waiting = self.retired.len() + self.leaving.len() + self.returning.len() + self.withheld.len();
        let runs = (self.free.len() + waiting) as u64 + more;
        (runs * RUN_BYTES_MAX + 16).div_ceil(super::UNIT_BYTES) + 1
    }

    /// Takes `units` consecutive units.
    pub fn take(&mut self, units: u64) -> u64 {
        let near = self.free.get(&self.cursor).filter(|length| **length >= units).map(|_| self.cursor);
        let found = near
            .or_else(|| self.lowest(units.max(EXACT_UNITS)))
            .or_else(|| self.longest(units.max(LONG_UNITS)))
            .or_else(|| self.smallest(units));
        let start = match found {
            Some(start) => self.take_at(start, units),
            None => self.take_tail(units),
        };
        self.cursor = start + units;
        start
    }

    /// Takes `units` consecutive units in the lowest hole that fits.
    pub fn take_low(&mut self, units: u64) -> u64 {
        self.take_below(units, u64::MAX).unwrap_or_else(|| self.take_tail(units))
    }

    /// The same, all of them below `limit`; `None` where there is no such hole.
    pub fn take_below(&mut self, units: u64, limit: u64) -> Option<u64> {
        let start = self.lowest(units).filter(|start| start + units <= limit)?;
        Some(self.take_at(start, units))
    }

    /// Takes `units` of the tail, if it has them.
    pub fn take_beyond(&mut self, units: u64) -> Option<u64> {
        (self.tail_units() >= units).then(|| self.take_tail(units))
    }

    fn take_at(&mut self, start: u64, units: u64) -> u64 {
        let length = self.remove(start);
        if length > units {
            self.add(start + units, length - units);
        }
        start
    }

    fn take_tail(&mut self, units: u64) -> u64 {
        let start = self.end;
        self.end += units;
        debug_assert!(self.end <= self.file_units, "invariant 2");
        start
    }

    /// Classes with runs, from that of `units` on, whose runs need not all be as long.
    fn classes_from(&self, units: u64) -> impl DoubleEndedIterator<Item = usize> + use<> {
        let first = class_of(units);
        let filled = self.filled >> first << first;
        (first..u128::BITS as usize).filter(move |class| filled >> class & 1 == 1)
    }

    /// The lowest run of `class` that has `units`, as far as a short search finds one.
    fn lowest_of(&self, class: usize, units: u64) -> Option<u64> {
        let fits = |start: &&u64| self.free.get(*start).is_some_and(|length| *length >= units);
        self.classes[class].iter().take(CLASS_RUNS).find(fits).copied()
    }

    /// The lowest run that has `units`.
    fn lowest(&self, units: u64) -> Option<u64> {
        self.classes_from(units).filter_map(|class| self.lowest_of(class, units)).min()
    }

    /// A run of the longest class that has `units`.
    fn longest(&self, units: u64) -> Option<u64> {
        self.classes_from(units).rev().find_map(|class| self.lowest_of(class, units))
    }

    /// A run of the shortest class that has `units`.
    fn smallest(&self, units: u64) -> Option<u64> {
        self.classes_from(units).find_map(|class| self.lowest_of(class, units))
    }

    fn add(&mut self, start: u64, length: u64) {
        let class = class_of(length);
        self.free.insert(start, length);
        self.classes[class].insert(start);
        self.filled |= 1 << class;
        self.free_units += length;
    }

    /// Takes a run out of the map; returns its length.
    fn remove(&mut self, start: u64) -> u64 {
        let length = self.free.remove(&start).unwrap_or_default();
        let class = class_of(length);
        self.classes[class].remove(&start);
        if self.classes[class].is_empty() {
            self.filled &= !(1 << class);
        }
        self.free_units -= length;
        length
    }

    /// Frees units that no durable state refers to.
    pub fn give_back(&mut self, mut start: u64, mut units: u64) {
        if let Some((before, length)) = self.free.range(..start).next_back().map(|(a, b)| (*a, *b))
            && before + length == start
        {
            self.remove(before);
            (start, units) = (before, units + length);
        }
        if self.free.contains_key(&(start + units)) {
            units += self.remove(start + units);
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
        self.waiting_units += units;
    }

    /// Lets nobody take what is free between `from` and `to` before [`FreeMap::end_withholding`].
    pub fn withhold(&mut self, from: u64, to: u64) {
        if from >= to {
            return;
        }
        let before = self.free.range(..from).next_back().filter(|(start, length)| *start + *length > from);
        let first = before.map_or(from, |(start, _)| *start);
        let runs: Vec<u64> = self.free.range(first..to).map(|(start, _)| *start).collect();
        for start in runs {
            let length = self.remove(start);
            self.withheld.push((start, length));
            self.waiting_units += length;
        }
    }

    /// What was withheld can be taken again.
    pub fn end_withholding(&mut self) {
        for (start, length) in std::mem::take(&mut self.withheld) {
            self.waiting_units -= length;
            self.give_back(start, length);
        }
    }

    /// The run of `units` between `from` and `to` of which the most is free; `None` if there is no such run.
    pub fn emptiest(&self, units: u64, from: u64, to: u64) -> Option<Run> {
        let mut best = None;
        let mut window = std::collections::VecDeque::new();
        let mut free_units = 0;
        for (start, length) in self.free.range(from..to.max(from)) {
            window.push_back((*start, *length));
            free_units += length;
            // What begins where a run ends is what can be emptied with the least work.
            while let Some((first, dropped)) = window.front().copied()
                && *start + *length > first + units
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

    /// A checkpoint begins: what was retired so far is free in its state.
    pub fn freeze(&mut self) {
        self.leaving.append(&mut self.retired);
    }

    /// The checkpoint is durable: what leaves with it, to be given to [`FreeMap::set_returning`] once it is sorted and joined.
    pub fn take_leaving(&mut self) -> Vec<Run> {
        let mut runs = std::mem::take(&mut self.leaving);
        runs.append(&mut self.returning);
        runs
    }

    /// What [`FreeMap::give_back_some`] gives back; ascending.
    pub fn set_returning(&mut self, runs: Vec<Run>) {
        self.returning = runs;
    }

    /// Frees up to `count` runs of those that were released, the last in the file first; false if there are no more.
    pub fn give_back_some(&mut self, count: usize) -> bool {
        for _ in 0..count {
            let Some((start, units)) = self.returning.pop() else { return false };
            self.waiting_units -= units;
            self.give_back(start, units);
        }
        !self.returning.is_empty()
    }

    fn waiting(&self) -> impl Iterator<Item = Run> {
        self.retired.iter().chain(&self.leaving).chain(&self.returning).chain(&self.withheld).copied()
    }

    /// Every run that is not used: free, and what will be; sorted.
    pub fn unused(&self) -> Vec<Run> {
        let free = self.free.iter().map(|(start, units)| (*start, *units));
        let mut runs: Vec<Run> = free.chain(self.waiting()).collect();
        runs.sort_unstable();
        runs
    }

    /// The map as the checkpoint that was just frozen will see it: all but what was retired since.
    pub fn encode(&self) -> Vec<u8> {
        let leaving = self.leaving.iter().chain(&self.returning).chain(&self.withheld);
        let mut leaving: Vec<Run> = leaving.copied().collect();
        join_runs(&mut leaving);
        let mut leaving = leaving.into_iter().peekable();
        let mut free = self.free.iter().map(|(start, units)| (*start, *units)).peekable();
        let ascending = std::iter::from_fn(|| match (free.peek(), leaving.peek()) {
            (Some(run), Some(other)) if other < run => leaving.next(),
            (None, _) => leaving.next(),
            _ => free.next(),
        });
        let (mut count, mut runs, mut end) = (0, Vec::new(), 0);
        for (start, units) in ascending {
            varint::put(&mut runs, start - end);
            varint::put(&mut runs, units);
            count += 1;
            end = start + units;
        }
        let mut bytes = Vec::with_capacity(runs.len() + 10);
        varint::put(&mut bytes, count);
        bytes.extend_from_slice(&runs);
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

    fn release(map: &mut FreeMap) {
        let mut runs = map.take_leaving();
        join_runs(&mut runs);
        map.set_returning(runs);
        while map.give_back_some(3) {}
    }

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
                7 if step % 40 == 0 => release(&mut map),
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
        release(&mut map);
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

    #[test]
    fn every_length_has_a_class_and_longer_ones_no_lower_class() {
        let lengths = (1..2000).chain((4..49).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit, (1 << bit) + 1]));
        let mut sorted: Vec<u64> = lengths.collect();
        sorted.sort_unstable();
        assert!(sorted.windows(2).all(|pair| class_of(pair[0]) <= class_of(pair[1])));
        assert!(class_of(1 << 48) < u128::BITS as usize);
        assert!((1..=EXACT_UNITS).all(|length| class_of(length) as u64 == length - 1));
    }

    /// A file of pages of four units and values of one: values are overwritten at random, pages come and go, and a checkpoint
    /// releases what was freed. Their number stays.
    fn churn(checkpoints: u32) -> (u64, u64) {
        let mut prng = Prng::new(9);
        let mut map = FreeMap::new(2, 1 << 30);
        let mut values: Vec<u64> = (0..50_000).map(|_| map.take(1)).collect();
        let mut pages: Vec<u64> = (0..1500).map(|_| map.take_low(4)).collect();
        let mut first_end = 0;
        for checkpoint in 0..checkpoints {
            for _ in 0..10_000 {
                let nth = prng.below(values.len() as u64) as usize;
                map.retire(values[nth], 1);
                values[nth] = map.take(1);
            }
            for _ in 0..100 {
                let nth = prng.below(pages.len() as u64) as usize;
                map.retire(pages[nth], 4);
                pages[nth] = map.take_low(4);
            }
            map.freeze();
            release(&mut map);
            if checkpoint == 4 {
                first_end = map.end();
            }
        }
        (first_end, map.end())
    }

    #[test]
    fn a_file_of_constant_data_stops_growing() {
        let (early, late) = churn(400);
        assert!(late <= early + early / 50, "the end of the file went from {early} to {late} units");
    }

    #[test]
    fn what_is_withheld_is_not_taken_until_it_is_let_go() {
        let mut map = FreeMap::new(2, 10_000);
        let units: Vec<u64> = (0..200).map(|_| map.take(1)).collect();
        units[..100].iter().step_by(2).for_each(|unit| map.give_back(*unit, 1));
        units[140..150].iter().for_each(|unit| map.give_back(*unit, 1));
        assert_eq!(map.emptiest(12, 2, 200), Some((units[140], 12)));
        let before = map.used_units();
        map.withhold(units[20], units[145]);
        assert_eq!(map.used_units(), before);
        assert_eq!(
            (0..10).map(|_| map.take_low(1)).collect::<Vec<_>>(),
            (0..10).map(|n| units[2 * n]).collect::<Vec<_>>()
        );
        let beyond = map.end();
        assert_eq!(map.take_low(1), beyond, "what is withheld is not taken");
        let durable = FreeMap::decode(&map.encode(), map.end(), 10_000).unwrap();
        assert_eq!(durable.unused(), map.unused());
        map.end_withholding();
        assert_eq!(map.take_low(10), units[140]);
        assert_eq!(map.take_low(1), units[20]);
    }

    /// Measures what the latch of the tree is held for when a checkpoint releases many runs.
    #[test]
    #[ignore = "long: a measurement"]
    fn releasing_many_runs_measured() {
        let mut map = FreeMap::new(2, 1 << 30);
        let units: Vec<u64> = (0..1_200_000).map(|_| map.take(1)).collect();
        let mut prng = Prng::new(3);
        let mut freed: Vec<u64> = units.into_iter().step_by(2).collect();
        for at in (1..freed.len()).rev() {
            freed.swap(at, prng.below(at as u64 + 1) as usize);
        }
        freed.iter().for_each(|unit| map.retire(*unit, 1));
        map.freeze();
        let started = std::time::Instant::now();
        let bytes = map.encode().len();
        println!("encoded, readers go on: {bytes} bytes in {:?}", started.elapsed());
        let mut runs = map.take_leaving();
        let started = std::time::Instant::now();
        join_runs(&mut runs);
        println!("sorted without the latch: {:?}", started.elapsed());
        map.set_returning(runs);
        let (mut parts, mut longest) = (0, std::time::Duration::ZERO);
        loop {
            let started = std::time::Instant::now();
            let more = map.give_back_some(super::super::checkpoint::RELEASE_RUNS);
            longest = longest.max(started.elapsed());
            parts += 1;
            if !more {
                break;
            }
        }
        println!("given back in {parts} parts, the longest {longest:?}");
    }
}
