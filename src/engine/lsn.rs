//! The log sequence number: how the history of a store is counted.

use std::fmt;
use std::ops::{Add, AddAssign, Sub};
use std::sync::atomic::{AtomicU64, Ordering};

/// A place in the history of a store: with our engines, the number of log bytes up to the end of a batch. Grows with every batch; our
/// engines go on counting when they are opened again, others may begin anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Lsn(u64);

impl Lsn {
    /// Before everything.
    pub const ZERO: Lsn = Lsn(0);
    /// After everything.
    pub const MAX: Lsn = Lsn(u64::MAX);

    /// From the number that a format or an engine has for it.
    pub const fn new(number: u64) -> Lsn {
        Lsn(number)
    }

    /// The number, as formats store it.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// Its eight bytes in a format.
    pub const fn to_le_bytes(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }

    /// Bytes of history between `earlier` and here; 0 if that is not earlier.
    pub const fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The same; `None` if `start` is not earlier.
    pub const fn checked_bytes_since(self, start: Lsn) -> Option<u64> {
        self.0.checked_sub(start.0)
    }

    /// So many bytes further back, at most to the beginning.
    pub const fn back_by(self, bytes: u64) -> Lsn {
        Lsn(self.0.saturating_sub(bytes))
    }

    /// So many bytes further on; never past the end of numbers.
    pub const fn on_by(self, bytes: u64) -> Lsn {
        Lsn(self.0.saturating_add(bytes))
    }
}

impl Add<u64> for Lsn {
    type Output = Lsn;

    fn add(self, bytes: u64) -> Lsn {
        Lsn(self.0 + bytes)
    }
}

impl AddAssign<u64> for Lsn {
    fn add_assign(&mut self, bytes: u64) {
        self.0 += bytes;
    }
}

/// Bytes of history between two places, of which the second must not be later.
impl Sub for Lsn {
    type Output = u64;

    fn sub(self, earlier: Lsn) -> u64 {
        self.0 - earlier.0
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// One that threads share.
#[derive(Debug, Default)]
pub struct AtomicLsn(AtomicU64);

impl AtomicLsn {
    /// Holds `lsn`.
    pub const fn new(lsn: Lsn) -> AtomicLsn {
        AtomicLsn(AtomicU64::new(lsn.0))
    }

    /// The LSN that it holds.
    pub fn load(&self, ordering: Ordering) -> Lsn {
        Lsn(self.0.load(ordering))
    }

    /// Holds `lsn` from now on.
    pub fn store(&self, lsn: Lsn, ordering: Ordering) {
        self.0.store(lsn.0, ordering);
    }

    /// Goes on by so many bytes; what it holds then.
    pub fn advance(&self, bytes: u64, ordering: Ordering) -> Lsn {
        Lsn(self.0.fetch_add(bytes, ordering) + bytes)
    }
}
