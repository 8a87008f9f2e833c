//! Written bytes by class of key. The class is the key's first byte, which means nothing to an engine.
//!
//! Counted is what reached tables (LSM) or the file (B-tree) on behalf of entries, without the log and without copies of pages:
//! - LSM: a block is divided among its entries by what each takes in it before compression; filters, indexes and footers belong
//!   to no class. So the sum over classes is the bytes of all blocks, exactly.
//! - B-tree: of what is written of a leaf each class has the share that its cells have of the page; free room, headers, inner
//!   pages, free map and meta pages belong to no class. A value out of line belongs to its key's class with all its units.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

const CLASSES: usize = 256;

/// Bytes by class.
#[derive(Clone, PartialEq, Eq)]
pub struct ClassBytes(Box<[u64; CLASSES]>);

impl Default for ClassBytes {
    fn default() -> ClassBytes {
        ClassBytes(Box::new([0; CLASSES]))
    }
}

impl fmt::Debug for ClassBytes {
    /// The entries that are not 0.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl ClassBytes {
    /// Classes that have any, with their bytes.
    pub fn iter(&self) -> impl Iterator<Item = (u8, u64)> {
        (0..=u8::MAX).zip(self.0.iter().copied()).filter(|(_, bytes)| *bytes > 0)
    }

    /// Adds to a class.
    pub fn add(&mut self, class: u8, bytes: u64) {
        self.0[usize::from(class)] += bytes;
    }

    /// Bytes since `earlier`.
    pub fn since(&self, earlier: &ClassBytes) -> ClassBytes {
        let pairs = self.0.iter().zip(earlier.0.iter());
        let mut growth = ClassBytes::default();
        pairs.zip(growth.0.iter_mut()).for_each(|((now, before), to)| *to = now.saturating_sub(*before));
        growth
    }
}

/// Counts from many threads.
pub struct ClassMeter(Box<[AtomicU64; CLASSES]>);

impl Default for ClassMeter {
    fn default() -> ClassMeter {
        ClassMeter(Box::new([const { AtomicU64::new(0) }; CLASSES]))
    }
}

impl ClassMeter {
    /// `bytes` of a class were written.
    pub fn add(&self, class: u8, bytes: u64) {
        self.0[usize::from(class)].fetch_add(bytes, Relaxed);
    }

    /// The counts so far.
    pub fn snapshot(&self) -> ClassBytes {
        ClassBytes(Box::new(std::array::from_fn(|class| self.0[class].load(Relaxed))))
    }
}

/// The class of a key.
pub fn class_of(key: &[u8]) -> u8 {
    key.first().copied().unwrap_or(0)
}

/// Bytes of the entries of one block or page, class by class, in the order in which they come.
#[derive(Default)]
pub struct Shares(Vec<(u8, u64)>);

impl Shares {
    /// An entry of `key` takes `bytes`.
    pub fn add(&mut self, key: &[u8], bytes: u64) {
        let class = class_of(key);
        match self.0.last_mut() {
            Some((last, sum)) if *last == class => *sum += bytes,
            _ => self.0.push((class, bytes)),
        }
    }

    /// Divides `bytes` that were written of something of `whole` bytes: each class gets its part, rounded so that classes that
    /// take the whole get all. Then it is empty again.
    pub fn divide(&mut self, bytes: u64, whole: u64) -> impl Iterator<Item = (u8, u64)> {
        let (mut before, mut given) = (0, 0);
        self.0.drain(..).map(move |(class, part)| {
            before += part;
            let until = (u128::from(bytes) * u128::from(before) / u128::from(whole.max(1))) as u64;
            let share = until - given;
            given = until;
            (class, share)
        })
    }

    /// The sum of what was added.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|(_, bytes)| bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up_to_the_whole() {
        let mut shares = Shares::default();
        for (key, bytes) in [(&b"a1"[..], 3), (b"a2", 4), (b"b", 5), (b"", 1), (b"c", 7)] {
            shares.add(key, bytes);
        }
        assert_eq!(shares.total(), 20);
        let divided: Vec<_> = shares.divide(101, 20).collect();
        assert_eq!(divided.iter().map(|(_, bytes)| bytes).sum::<u64>(), 101);
        assert_eq!(divided, [(b'a', 35), (b'b', 25), (0, 5), (b'c', 36)]);
        assert_eq!(shares.total(), 0);
        shares.add(b"a", 10);
        assert_eq!(shares.divide(10, 100).collect::<Vec<_>>(), [(b'a', 1)], "most of the page is empty");
        let meter = ClassMeter::default();
        meter.add(7, 3);
        let first = meter.snapshot();
        meter.add(7, 4);
        assert_eq!(meter.snapshot().since(&first).iter().collect::<Vec<_>>(), [(7, 4)]);
    }
}
