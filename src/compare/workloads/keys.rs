//! Keys, and the order in which they are asked for; the same for every engine.
//!
//! Keys have the shape of a filesystem's metadata: a big-endian directory number with 64 entries each, then a name, 16 to
//! 24 bytes in all, ascending with their index.

use crate::base::prng::{Prng, mix};

/// Bytes of the key of `index`.
pub fn key_bytes(index: u64) -> u64 {
    16 + mix(index) % 9
}

/// The key of `index`.
pub fn key(index: u64) -> Vec<u8> {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut target = Vec::with_capacity(24);
    target.extend_from_slice(&(index >> 6).to_be_bytes());
    target.extend((0..8).rev().map(|digit| HEX[((index >> (digit * 4)) & 15) as usize]));
    let random = mix(index);
    target.extend((0..random % 9).map(|letter| b'a' + ((random >> (8 + letter * 5)) % 26) as u8));
    target
}

/// A key that lies between those of `index` and `index + 1` and is never present.
pub fn missing_key(index: u64) -> Vec<u8> {
    let mut target = key(index);
    target.truncate(16);
    target.extend_from_slice(b"~gone");
    target
}

/// A bijection of `0..count` without visible order: three rounds on the next power of two, repeated while the result lies
/// outside.
pub fn shuffled(index: u64, count: u64) -> u64 {
    let bits = count.next_power_of_two().trailing_zeros();
    let (mask, shift) = ((1u64 << bits) - 1, (bits / 2).max(1));
    let mut x = index;
    loop {
        for factor in [0x9E37_79B9_7F4A_7C15u64, 0xBF58_476D_1CE4_E5B9, 0x94D0_49BB_1331_11EB] {
            x = x.wrapping_mul(factor | 1) & mask;
            x ^= x >> shift;
        }
        if x < count {
            return x;
        }
    }
}

/// Which index comes next.
pub enum Picker {
    /// Every index alike.
    Uniform(Prng, u64),
    /// A few far more often than others.
    Zipf(Zipf),
    /// Some, spread over the key space, alike.
    Scattered {
        /// Chooses among them.
        random: Prng,
        /// How many.
        some: u64,
        /// Number of keys.
        count: u64,
    },
    /// Every index of `0..count` once, at the place that the function gives its turn; then from the beginning.
    Each {
        /// Number of keys.
        count: u64,
        /// The place of a turn.
        place: fn(u64, u64) -> u64,
        /// The next turn.
        turn: u64,
    },
}

impl Picker {
    /// Uniform over `0..count`.
    pub fn uniform(count: u64, seed: u64) -> Picker {
        Picker::Uniform(Prng::new(seed), count)
    }

    /// Uniform over one index of `share` of `0..count`, at places without visible order.
    pub fn scattered(count: u64, share: u64, seed: u64) -> Picker {
        Picker::Scattered { random: Prng::new(seed), some: (count / share).max(1), count }
    }

    /// Zipfian over `0..count` with exponent 0.99, the hot ones spread over the key space.
    pub fn zipf(count: u64, seed: u64) -> Picker {
        Picker::zipf_elsewhere(count, seed, 0)
    }

    /// The same; for each `place` other keys are the hot ones.
    pub fn zipf_elsewhere(count: u64, seed: u64, place: u64) -> Picker {
        Picker::Zipf(Zipf::new(count, 0.99, seed, place))
    }

    /// Every index once, `place(turn, count)` at each turn.
    pub fn each(count: u64, place: fn(u64, u64) -> u64) -> Picker {
        Picker::Each { count, place, turn: 0 }
    }

    /// The next index.
    pub fn pick(&mut self) -> u64 {
        match self {
            Picker::Each { count, place, turn } => {
                *turn += 1;
                place((*turn - 1) % *count, *count)
            }
            Picker::Uniform(random, count) => random.below(*count),
            Picker::Scattered { random, some, count } => shuffled(random.below(*some), *count),
            Picker::Zipf(zipf) => zipf.pick(),
        }
    }
}

/// The zipfian generator of Gray and others (1994) as YCSB uses it, ranks scrambled over the key space.
pub struct Zipf {
    count: u64,
    theta: f64,
    alpha: f64,
    zeta: f64,
    eta: f64,
    random: Prng,
    /// Added to a rank before it is scrambled.
    place: u64,
}

impl Zipf {
    fn new(count: u64, theta: f64, seed: u64, place: u64) -> Zipf {
        let sum = |terms: u64| (1..=terms).map(|i| (i as f64).powf(-theta)).sum::<f64>();
        let (zeta, first_two) = (sum(count), sum(2));
        let eta = (1.0 - (2.0 / count as f64).powf(1.0 - theta)) / (1.0 - first_two / zeta);
        let place = place << 40;
        Zipf { count, theta, alpha: 1.0 / (1.0 - theta), zeta, eta, random: Prng::new(seed), place }
    }

    fn pick(&mut self) -> u64 {
        let unit = (self.random.bits() >> 11) as f64 / (1u64 << 53) as f64;
        let rank = if unit * self.zeta < 1.0 {
            0
        } else if unit * self.zeta < 1.0 + 0.5f64.powf(self.theta) {
            1
        } else {
            (self.count as f64 * (self.eta * unit - self.eta + 1.0).powf(self.alpha)) as u64
        };
        mix(rank.min(self.count - 1) + self.place) % self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_ascend_and_missing_keys_lie_between() {
        for index in 0..5_000 {
            let (before, absent, after) = (key(index), missing_key(index), key(index + 1));
            assert!(before < absent && absent < after, "index {index}");
            assert_eq!(before.len() as u64, key_bytes(index));
        }
    }

    #[test]
    fn shuffling_visits_every_index_once() {
        for count in [1, 2, 1_000, 1_024, 4_097] {
            let mut picker = Picker::each(count, shuffled);
            let mut seen: Vec<u64> = (0..count).map(|_| picker.pick()).collect();
            assert_eq!(picker.pick(), seen[0], "from the beginning again");
            seen.sort_unstable();
            assert_eq!(seen, (0..count).collect::<Vec<_>>(), "count {count}");
        }
    }

    #[test]
    fn a_hundredth_of_the_keys_takes_most_zipfian_picks() {
        let mut picker = Picker::zipf(10_000, 7);
        let mut counts = vec![0u32; 10_000];
        (0..100_000).for_each(|_| counts[picker.pick() as usize] += 1);
        counts.sort_unstable_by(|a, b| b.cmp(a));
        let hot: u32 = counts[..100].iter().sum();
        assert!((45_000..65_000).contains(&hot), "the hottest hundredth took {hot} of 100,000");
    }

    #[test]
    fn some_are_as_many_as_were_asked_for_and_lie_everywhere() {
        let mut picker = Picker::scattered(10_000, 100, 7);
        let seen: std::collections::BTreeSet<u64> = (0..10_000).map(|_| picker.pick()).collect();
        assert_eq!(seen.len(), 100);
        assert!((0..4).all(|part| seen.range(part * 2500..(part + 1) * 2500).count() > 10), "{seen:?}");
    }

    #[test]
    fn elsewhere_others_are_hot() {
        let hottest = |place| {
            let mut picker = Picker::zipf_elsewhere(10_000, 7, place);
            let mut counts = vec![0u32; 10_000];
            (0..100_000).for_each(|_| counts[picker.pick() as usize] += 1);
            let mut keys: Vec<usize> = (0..10_000).collect();
            keys.sort_unstable_by_key(|key| std::cmp::Reverse(counts[*key]));
            keys[..100].iter().copied().collect::<std::collections::HashSet<usize>>()
        };
        let (one, other) = (hottest(0), hottest(1));
        assert!(one.intersection(&other).count() < 10, "{one:?} {other:?}");
    }
}
