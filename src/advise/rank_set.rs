//! A set of ranks: a bit each, and a bit for each word of bits, so that the next member is found without a look at every rank before it.

/// The set.
#[derive(Debug, Default)]
pub struct RankSet {
    words: Vec<u64>,
    /// Whether a word has any bit.
    summary: Vec<u64>,
}

impl RankSet {
    /// An empty set of ranks below `count`.
    pub fn new(count: u32) -> RankSet {
        let words = (count as usize).div_ceil(64);
        RankSet { words: vec![0; words], summary: vec![0; words.div_ceil(64)] }
    }

    /// Adds or removes a rank.
    pub fn set(&mut self, rank: u32, is_member: bool) {
        let (word, bit) = (rank as usize / 64, 1u64 << (rank % 64));
        let (in_summary, summary_bit) = (word / 64, 1u64 << (word % 64));
        if is_member {
            self.words[word] |= bit;
            self.summary[in_summary] |= summary_bit;
        } else {
            self.words[word] &= !bit;
            if self.words[word] == 0 {
                self.summary[in_summary] &= !summary_bit;
            }
        }
    }

    /// The lowest member that is not below `from`.
    pub fn next(&self, from: u32) -> Option<u32> {
        let word = from as usize / 64;
        let here = self.words.get(word)? & (u64::MAX << (from % 64));
        if here != 0 {
            return Some(word as u32 * 64 + here.trailing_zeros());
        }
        let next = word + 1;
        let mut at = next / 64;
        let mut bits = self.summary.get(at)? & (u64::MAX << (next % 64));
        while bits == 0 {
            at += 1;
            bits = *self.summary.get(at)?;
        }
        let word = at * 64 + bits.trailing_zeros() as usize;
        Some(word as u32 * 64 + self.words[word].trailing_zeros())
    }

    /// The members in `from..end`, in their order.
    pub fn range(&self, from: u32, end: u32) -> impl Iterator<Item = u32> + use<'_> {
        let mut at = from;
        std::iter::from_fn(move || {
            let next = self.next(at).filter(|next| *next < end)?;
            at = next + 1;
            Some(next)
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::base::prng::Prng;

    #[test]
    fn the_next_member_is_that_of_a_sorted_set() {
        let mut prng = Prng::new(5);
        for count in [1, 63, 64, 65, 20_000] {
            let (mut set, mut wanted) = (RankSet::new(count), BTreeSet::new());
            for _ in 0..600 {
                let rank = prng.below(u64::from(count)) as u32;
                let is_member = !prng.one_in(3);
                set.set(rank, is_member);
                if is_member {
                    wanted.insert(rank)
                } else {
                    wanted.remove(&rank)
                };
                let from = prng.below(u64::from(count)) as u32;
                assert_eq!(set.next(from), wanted.range(from..).next().copied());
            }
            let (from, end) = (count / 3, count - count / 4);
            assert!(set.range(from, end).eq(wanted.range(from..end.max(from)).copied()));
        }
    }
}
