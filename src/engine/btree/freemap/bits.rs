//! The bitmap of a group: one bit per unit, set if the unit is free. It takes one unit of the file.

use crate::engine::btree::allocation_unit::{UNIT_BYTES, Units};

/// Units of a group, as many as a unit has bits: 128 MiB of the file.
pub const GROUP_UNITS: Units = Units::new(UNIT_BYTES * 8);
/// Units of a group, as an index.
const LENGTH: usize = GROUP_UNITS.get() as usize;
const WORDS: usize = LENGTH / 64;
/// Longest run that is searched for word by word.
const WINDOW: usize = 64;

/// The free units of a group. Units are named by their index in the group.
#[derive(Clone, PartialEq, Eq)]
pub struct GroupBits([u64; WORDS]);

/// A word whose bits from `from` up to, not including, `to` are set.
fn mask(from: usize, to: usize) -> u64 {
    let below = |at: usize| if at >= 64 { u64::MAX } else { (1 << at) - 1 };
    below(to) & !below(from)
}

impl GroupBits {
    /// A bitmap in which no unit is free.
    pub fn none() -> GroupBits {
        GroupBits([0; WORDS])
    }

    /// Decodes a unit of the file; missing bytes count as zeros.
    pub fn decode(bytes: &[u8]) -> GroupBits {
        let mut bits = GroupBits::none();
        for (word, bytes) in bits.0.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        }
        bits
    }

    /// The bytes as they lie in the file.
    pub fn encode(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_le_bytes()).collect()
    }

    /// Whether a unit is free.
    pub fn has(&self, at: usize) -> bool {
        self.0[at / 64] >> (at % 64) & 1 == 1
    }

    /// Calls `change` with each word of `from..to` and with the mask of its bits in that range.
    fn words(&mut self, from: usize, to: usize, mut change: impl FnMut(&mut u64, u64)) {
        if from < to {
            for index in from / 64..=(to - 1) / 64 {
                let start = index * 64;
                change(&mut self.0[index], mask(from.max(start) - start, to.min(start + 64) - start));
            }
        }
    }

    /// Sets the bits of `from..to`: they are free.
    pub fn set(&mut self, from: usize, to: usize) {
        self.words(from, to, |word, bits| *word |= bits);
    }

    /// Clears the bits of `from..to`: they are not free.
    pub fn clear(&mut self, from: usize, to: usize) {
        self.words(from, to, |word, bits| *word &= !bits);
    }

    /// Moves the set bits of `from..to` into a bitmap of their own.
    pub fn split_off(&mut self, from: usize, to: usize) -> GroupBits {
        let mut taken = self.clone();
        taken.clear(0, from);
        taken.clear(to, LENGTH);
        self.clear(from, to);
        taken
    }

    /// Sets the bits that are set in `other`.
    pub fn add(&mut self, other: &GroupBits) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, bits)| *word |= bits);
    }

    /// Number of free units.
    pub fn count(&self) -> Units {
        Units::new(self.0.iter().map(|word| u64::from(word.count_ones())).sum())
    }

    /// Number of free units from `from` up to `to`.
    pub fn count_between(&self, from: usize, to: usize) -> Units {
        let (mut at, mut count) = (from, 0);
        while let Some(start) = self.next_free(at).filter(|start| *start < to) {
            at = self.next_used(start).min(to);
            count += at - start;
        }
        Units::new(count as u64)
    }

    /// The first free unit from `from` on.
    pub fn next_free(&self, from: usize) -> Option<usize> {
        let mut index = from / 64;
        let mut word = self.0.get(index)? & mask(from % 64, 64);
        while word == 0 {
            index += 1;
            word = *self.0.get(index)?;
        }
        Some(index * 64 + word.trailing_zeros() as usize)
    }

    /// The first used unit from `from` on, or the end of the group.
    pub fn next_used(&self, from: usize) -> usize {
        let mut index = from / 64;
        if index >= WORDS {
            return LENGTH;
        }
        let mut word = !self.0[index] & mask(from % 64, 64);
        while word == 0 {
            index += 1;
            if index == WORDS {
                return LENGTH;
            }
            word = !self.0[index];
        }
        index * 64 + word.trailing_zeros() as usize
    }

    /// Start of the free run that ends before `to`; `to` if there is none.
    pub fn free_before(&self, to: usize) -> usize {
        let mut at = to;
        while at > 0 {
            let index = (at - 1) / 64;
            let word = !self.0[index] & mask(0, at - index * 64);
            if word != 0 {
                return index * 64 + 64 - word.leading_zeros() as usize;
            }
            at = index * 64;
        }
        0
    }

    /// The free runs: first unit, and the end.
    pub fn runs(&self) -> impl Iterator<Item = (usize, usize)> + use<'_> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = self.next_free(at)?;
            at = self.next_used(start);
            Some((start, at))
        })
    }

    /// Length of the longest free run.
    pub fn longest(&self) -> usize {
        self.runs().map(|(start, end)| end - start).max().unwrap_or(0)
    }

    fn two_words(&self, index: usize) -> u128 {
        let next = self.0.get(index + 1).copied().unwrap_or_default();
        u128::from(next) << 64 | u128::from(self.0[index])
    }

    /// The first place from `from` on at which `units` (at most 64) adjacent units are free.
    pub fn next_window(&self, from: usize, units: usize) -> Option<usize> {
        let units = units.min(WINDOW);
        let mut bits = mask(from % 64, 64);
        for index in from / 64..WORDS {
            let windows = windows(self.two_words(index), units) as u64 & bits;
            if windows != 0 {
                return Some(index * 64 + windows.trailing_zeros() as usize);
            }
            bits = u64::MAX;
        }
        None
    }

    /// Start of the first free run from `from` on that has exactly `units` (at most 64).
    pub fn next_exact(&self, from: usize, units: usize) -> Option<usize> {
        let mut bits = mask(from % 64, 64);
        for index in from / 64..WORDS {
            if self.0[index] != 0 {
                let two = self.two_words(index);
                let before = if index == 0 { 0 } else { self.0[index - 1] >> 63 };
                let starts = self.0[index] & !(self.0[index] << 1 | before);
                let at_least = windows(two, units);
                let longer = at_least & at_least >> 1;
                let found = starts & at_least as u64 & !(longer as u64) & bits;
                if found != 0 {
                    return Some(index * 64 + found.trailing_zeros() as usize);
                }
            }
            bits = u64::MAX;
        }
        None
    }
}

/// The bits at which `units` adjacent set bits begin; those too near to the upper end are not found.
fn windows(bits: u128, units: usize) -> u128 {
    let (mut found, mut length) = (bits, 1);
    while length < units {
        let step = length.min(units - length);
        found &= found >> step;
        length += step;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    /// Bits with runs of many lengths, and the same as a list.
    fn sample(seed: u64) -> (GroupBits, Vec<bool>) {
        let mut prng = Prng::new(seed);
        let (mut bits, mut list) = (GroupBits::none(), vec![false; LENGTH]);
        let mut at = 0;
        while at < LENGTH {
            let most = [3, 70, 300, 4000][prng.below(4) as usize];
            let end = (at + 1 + prng.below(most) as usize).min(LENGTH);
            if prng.one_in(2) {
                bits.set(at, end);
                list[at..end].fill(true);
            }
            at = end;
        }
        (bits, list)
    }

    #[test]
    fn every_search_finds_what_a_list_of_flags_does() {
        for seed in 0..12 {
            let (mut bits, mut list) = sample(seed);
            let mut prng = Prng::new(seed + 100);
            assert_eq!(GroupBits::decode(&bits.encode()).encode(), bits.encode());
            for _ in 0..60 {
                let from = prng.below(LENGTH as u64) as usize;
                let to = (from + prng.below(500) as usize).min(LENGTH);
                match prng.below(3) {
                    0 => {
                        bits.set(from, to);
                        list[from..to].fill(true);
                    }
                    1 => {
                        bits.clear(from, to);
                        list[from..to].fill(false);
                    }
                    _ => {
                        let taken = bits.split_off(from, to);
                        assert!(
                            (0..LENGTH).all(|at| taken.has(at) == ((from..to).contains(&at) && list[at]))
                        );
                        assert!((from..to).all(|at| !bits.has(at)));
                        bits.add(&taken);
                    }
                }
                assert!((0..LENGTH).all(|at| bits.has(at) == list[at]));
                let free = list[from..].iter().position(|free| *free).map(|at| from + at);
                assert_eq!(bits.next_free(from), free);
                let used = list[from..].iter().position(|free| !*free).map_or(LENGTH, |at| from + at);
                assert_eq!(bits.next_used(from), used);
                assert_eq!(
                    bits.free_before(from),
                    list[..from].iter().rposition(|free| !*free).map_or(0, |at| at + 1)
                );
                let runs: Vec<(usize, usize)> = bits.runs().collect();
                assert_eq!(
                    runs.iter().map(|(start, end)| end - start).sum::<usize>() as u64,
                    bits.count().get()
                );
                assert_eq!(runs.iter().map(|(start, end)| end - start).max().unwrap_or(0), bits.longest());
                let units = 1 + prng.below(64) as usize;
                let exact = runs.iter().find(|(start, end)| *start >= from && end - start == units);
                assert_eq!(
                    bits.next_exact(from, units),
                    exact.map(|(start, _)| *start),
                    "{units} from {from}"
                );
                let window = runs.iter().find(|(start, end)| *end >= from.max(*start) + units);
                assert_eq!(bits.next_window(from, units), window.map(|(start, _)| from.max(*start)));
            }
        }
    }
}
