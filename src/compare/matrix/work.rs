//! The work of every contender, byte for byte the same: a key set that is loaded, then puts, then gets.
//!
//! 1. The key set has `data_bytes / entry_bytes` keys once the run has ended.
//! 2. *Load*, before the first mark: the keys that the run will not insert, in ascending order.
//! 3. *Run*: one put a batch. A share of the puts, spread evenly, overwrites a key that is there; each of the others inserts one.
//! 4. *Gets* of keys of the set, at random.
//!
//! Keys are 16 hexadecimal digits. All of it follows from the seed.

use crate::base::text::BadText;
use std::fmt;
use std::str::FromStr;

use crate::base::prng::Prng;

/// Bytes of a key.
pub const KEY_BYTES: u64 = 16;

/// In which order the run meets the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Anywhere in the key space.
    Random,
    /// Inserts ascend, overwrites go round and round through what is there.
    Sequential,
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Order::Random => "random",
            Order::Sequential => "sequential",
        })
    }
}

impl FromStr for Order {
    type Err = BadText;
    fn from_str(text: &str) -> Result<Order, BadText> {
        match text {
            "random" => Ok(Order::Random),
            "sequential" => Ok(Order::Sequential),
            _ => Err("takes random or sequential".into()),
        }
    }
}

/// A point of the matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Point {
    /// Key and value bytes of the whole key set.
    pub data_bytes: u64,
    /// Bytes of a value.
    pub value_bytes: u64,
    /// Puts in a hundred that overwrite a key, 0 to 100.
    pub update_percent: u64,
}

impl Point {
    /// Bytes of key and value together.
    pub fn entry_bytes(&self) -> u64 {
        KEY_BYTES + self.value_bytes
    }
}

/// The work at one point.
#[derive(Clone, Debug)]
pub struct Work {
    /// Where.
    pub point: Point,
    /// Order of keys.
    pub order: Order,
    /// Seed of everything random.
    pub seed: u64,
    /// Share of a value that repeats.
    pub repeat_percent: u64,
    /// Keys of the set once the run has ended.
    pub keys: u64,
    /// Of these, keys that are there before the run.
    pub loaded: u64,
    /// Puts of the run.
    pub puts: u64,
}

impl Work {
    /// The work at `point`: `puts_max` puts, or fewer where they would be more than `volume_bytes` or would insert more keys than
    /// the set has; never none.
    pub fn new(point: Point, order: Order, seed: u64, puts_max: u64, volume_bytes: u64) -> Work {
        let keys = (point.data_bytes / point.entry_bytes()).max(1);
        let insert_percent = 100 - point.update_percent.min(100);
        let puts_of_keys = (keys * 100).checked_div(insert_percent).unwrap_or(u64::MAX);
        let puts = puts_max.min(volume_bytes / point.entry_bytes()).min(puts_of_keys).max(1);
        let mut work = Work { point, order, seed, repeat_percent: 0, keys, loaded: keys, puts };
        work.loaded = keys - (puts - work.updates_before(puts));
        work
    }

    /// Overwrites among the first `puts` puts.
    fn updates_before(&self, puts: u64) -> u64 {
        puts * self.point.update_percent.min(100) / 100
    }

    /// The number of key `index`, by which keys are ordered; different for different indices.
    fn number(&self, index: u64) -> u64 {
        match self.order {
            // The generator maps states to numbers one to one.
            Order::Random => Prng::new(self.seed.wrapping_add(index)).bits(),
            Order::Sequential => index,
        }
    }

    /// The text of key `index`.
    pub fn key(&self, index: u64) -> Vec<u8> {
        text(self.number(index))
    }

    /// The keys of the load, ascending.
    pub fn load(&self) -> impl Iterator<Item = Vec<u8>> + use<> {
        let mut numbers: Vec<u64> = (0..self.loaded).map(|index| self.number(index)).collect();
        numbers.sort_unstable();
        numbers.into_iter().map(text)
    }

    /// The keys of the run, in order.
    pub fn puts(&self) -> impl Iterator<Item = Vec<u8>> {
        let mut prng = Prng::new(!self.seed);
        let mut present = self.loaded;
        (0..self.puts).map(move |put| {
            let updates = self.updates_before(put);
            let index = if self.updates_before(put + 1) == updates {
                present += 1;
                present - 1
            } else if self.order == Order::Random {
                prng.below(present)
            } else {
                updates % present
            };
            self.key(index)
        })
    }

    /// `count` keys of the set at random.
    pub fn gets(&self, count: u64) -> impl Iterator<Item = Vec<u8>> {
        let mut prng = Prng::new(self.seed ^ 0x6765_7473);
        (0..count).map(move |_| self.key(prng.below(self.keys)))
    }
}

fn text(number: u64) -> Vec<u8> {
    format!("{number:016x}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_run_ends_with_the_whole_key_set_whatever_the_share() {
        for order in [Order::Random, Order::Sequential] {
            for update_percent in [0, 1, 33, 50, 99, 100] {
                for (data_bytes, puts_max, volume) in
                    [(0, 10, 1 << 20), (50_000, 100, 1 << 20), (9_000, 9_999, 5_000)]
                {
                    let point = Point { data_bytes, value_bytes: 84, update_percent };
                    let work = Work::new(point, order, 7, puts_max, volume);
                    let mut keys: BTreeSet<Vec<u8>> = work.load().collect();
                    assert_eq!(keys.len() as u64, work.loaded);
                    assert!(work.load().is_sorted());
                    let (mut puts, mut updates) = (0, 0);
                    for key in work.puts() {
                        assert_eq!(key.len() as u64, KEY_BYTES);
                        puts += 1;
                        updates += u64::from(!keys.insert(key));
                    }
                    assert_eq!((puts, updates), (work.puts, work.puts * update_percent / 100), "{work:?}");
                    assert_eq!(keys.len() as u64, work.keys, "{work:?}");
                    assert!(puts <= puts_max && puts * 100 <= volume.max(100), "{work:?}");
                    assert!(work.gets(50).all(|key| keys.contains(&key)));
                }
            }
        }
    }

    #[test]
    fn the_seed_decides_everything() {
        let point = Point { data_bytes: 10_000, value_bytes: 84, update_percent: 50 };
        let keys = |seed| Work::new(point, Order::Random, seed, 100, 1 << 20).puts().collect::<Vec<_>>();
        assert_eq!(keys(1), keys(1));
        assert_ne!(keys(1), keys(2));
    }
}
