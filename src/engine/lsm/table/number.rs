//! Numbers of tables.

use std::fmt;

use crate::engine::cache::CacheKey;
use crate::engine::lsm::place;

const PREFIX: &str = "table.";

/// The number of a table. No two tables of a store ever have the same, not even one after the other.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct TableNumber(u64);

impl TableNumber {
    /// From the number that a format has for it.
    pub const fn new(number: u64) -> TableNumber {
        TableNumber(number)
    }

    /// The number, as formats store it.
    pub const fn number(self) -> u64 {
        self.0
    }

    /// The number that follows.
    pub const fn next(self) -> TableNumber {
        TableNumber(self.0 + 1)
    }

    /// The name of the table's file.
    pub fn file_name(self) -> String {
        format!("{PREFIX}{self}")
    }

    /// The number of the table whose file is called `name`; `None` if that is no table's.
    pub fn of_file(name: &str) -> Option<TableNumber> {
        name.strip_prefix(PREFIX)?.parse().ok().map(TableNumber)
    }

    /// The place of the frame at `offset` of the table's file, which the frame's checksum covers.
    pub fn frame_place(self, offset: u64) -> u64 {
        place(self.0, offset)
    }

    /// The key under which the cache keeps the piece at `offset` of the table's file.
    pub const fn cache_key(self, offset: u64) -> CacheKey {
        CacheKey::new(self.0, offset)
    }
}

impl fmt::Display for TableNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// The plain number, so that texts of compactions stay short.
impl fmt::Debug for TableNumber {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}
