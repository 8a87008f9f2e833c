//! The source of pages that the tree works over: pages and values that are in memory, and the answer for those that are not.
//!
//! A search looks into a [`PageSource`] (the pool of clean pages) and into what its own call has read ([`LoadedPieces`]). Where neither has
//! the page or value, the search stops with a [`Miss`]; the caller reads what is missing without holding a lock, and searches again.

use std::sync::Arc;

use bytes::Bytes;

use super::allocation_unit::{PageNumber, UnitMap, UnitNumber};
use super::page::{Extent, Page};
use super::value::Value;
use crate::engine::Error;

/// Clean pages and values by their first unit. It may drop anything at any time, so a caller that needs several at once keeps them.
pub trait PageSource {
    /// The page or value at `unit`, if it is in memory.
    fn pooled(&self, unit: UnitNumber) -> Option<Piece>;

    /// Whether the page or value at `unit` is in memory. Does not count as a lookup.
    fn has(&self, unit: UnitNumber) -> bool;

    /// Drops the page or value at `unit`, which changes or is gone.
    fn forget(&self, unit: UnitNumber);

    /// The checksum that a leaf keeps of `value`.
    fn checksum(&self, value: &Bytes) -> u32;
}

/// A page or value that a search needs and that is not in memory.
#[derive(Clone, Copy, Debug)]
pub enum Miss {
    /// A page.
    Page(PageNumber),
    /// The value of an extent.
    Value(Extent),
}

impl Miss {
    /// The first unit of the page or value.
    pub fn unit(&self) -> UnitNumber {
        match self {
            Miss::Page(number) => number.unit(),
            Miss::Value(extent) => extent.unit,
        }
    }
}

/// A page or value of the file, in memory.
#[derive(Clone)]
pub enum Piece {
    /// A page.
    Page(Arc<Page>),
    /// The value of an extent.
    Value(Value),
}

/// Pages and values that one call has read from the disk, valid for one epoch of the tree. With them a call makes progress however small the
/// pool is.
#[derive(Default)]
pub struct LoadedPieces {
    /// The epoch in which it was read.
    pub epoch: u64,
    pieces: UnitMap<Piece>,
    /// Errors of what could not be read, by first unit.
    failed: UnitMap<Error>,
}

impl LoadedPieces {
    /// Adds what was read at `unit` in `epoch`; drops everything of another epoch.
    pub fn add(&mut self, epoch: u64, unit: UnitNumber, piece: Piece) {
        self.begin(epoch);
        self.pieces.insert(unit, piece);
    }

    /// Notes that what lies at `unit` cannot be read in `epoch`; drops everything of another epoch.
    pub fn fail(&mut self, epoch: u64, unit: UnitNumber, error: Error) {
        self.begin(epoch);
        self.failed.insert(unit, error);
    }

    fn begin(&mut self, epoch: u64) {
        if self.epoch != epoch {
            self.pieces.clear();
            self.failed.clear();
            self.epoch = epoch;
        }
    }

    /// The error with which `unit` could not be read in `epoch`, if there was one.
    pub fn failure(&self, epoch: u64, unit: UnitNumber) -> Option<&Error> {
        if self.epoch == epoch { self.failed.get(&unit) } else { None }
    }

    /// Keeps the pages for the next part of a scan, unless they are more than `count_max`; drops the values.
    pub fn keep_pages(&mut self, count_max: usize) {
        self.pieces.retain(|_, piece| matches!(piece, Piece::Page(_)));
        if self.pieces.len() > count_max {
            self.pieces.clear();
        }
    }

    /// The page or value that was read at `unit` in `epoch`.
    pub fn get(&self, epoch: u64, unit: UnitNumber) -> Option<&Piece> {
        if self.epoch == epoch { self.pieces.get(&unit) } else { None }
    }
}

/// Whether `error` says that a read failed, and not that something is not in memory or that there is no space. Background work continues
/// around such a place, whatever the cause; whether the medium is damaged is another question ([`Error::is_damage`]).
pub fn is_unreadable(error: &Error) -> bool {
    matches!(error, Error::Corrupt { .. } | Error::Io { .. })
}
