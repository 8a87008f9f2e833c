//! What the tree works over: a source of pages and values that are in memory, and a word for what is not.
//!
//! A search looks into a [`PageSource`] (the pool of clean pages) and into what its own call has [`LoadedPieces`]. Where neither has
//! something it stops with a [`Miss`]; whoever asked reads that without holding any lock, and asks again.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::allocation_unit::{PageNumber, UnitNumber};
use super::page::{Extent, Page};
use super::value::Value;
use crate::engine::Error;

/// Clean pages and values by their first unit. It may forget anything at any time, so whoever needs several at once holds them.
pub trait PageSource {
    /// What lies at `unit`, if it is in memory.
    fn pooled(&self, unit: UnitNumber) -> Option<Piece>;

    /// Whether it is; counts as no request.
    fn has(&self, unit: UnitNumber) -> bool;

    /// What lies at `unit` changes, or nothing lies there any more.
    fn forget(&self, unit: UnitNumber);

    /// The checksum that a leaf keeps of `value`.
    fn checksum(&self, value: &Bytes) -> u32;
}

/// Something that is not in memory.
#[derive(Clone, Copy, Debug)]
pub enum Miss {
    /// A page.
    Page(PageNumber),
    /// The value of an extent.
    Value(Extent),
}

impl Miss {
    /// Its first unit.
    pub fn unit(&self) -> UnitNumber {
        match self {
            Miss::Page(number) => number.unit(),
            Miss::Value(extent) => extent.unit,
        }
    }
}

/// Something of the file in memory.
#[derive(Clone)]
pub enum Piece {
    /// A page.
    Page(Arc<Page>),
    /// The value of an extent.
    Value(Value),
}

/// What one call has read from the disk so far, good for one epoch of the tree; keeps the call going however small the pool is.
#[derive(Default)]
pub struct LoadedPieces {
    /// The epoch in which it was read.
    pub epoch: u64,
    pieces: HashMap<UnitNumber, Piece>,
    /// What could not be read, by first unit.
    failed: HashMap<UnitNumber, Error>,
}

impl LoadedPieces {
    /// Adds what was read at `unit` in `epoch`; forgets what is of another epoch.
    pub fn add(&mut self, epoch: u64, unit: UnitNumber, piece: Piece) {
        self.begin(epoch);
        self.pieces.insert(unit, piece);
    }

    /// Notes that what lies at `unit` cannot be read in `epoch`; forgets what is of another epoch.
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

    /// Why what lies at `unit` cannot be read in `epoch`, if that is known.
    pub fn failure(&self, epoch: u64, unit: UnitNumber) -> Option<&Error> {
        if self.epoch == epoch { self.failed.get(&unit) } else { None }
    }

    /// Keeps pages for the next part of a scan, unless they are more than `count_max`; forgets values.
    pub fn keep_pages(&mut self, count_max: usize) {
        self.pieces.retain(|_, piece| matches!(piece, Piece::Page(_)));
        if self.pieces.len() > count_max {
            self.pieces.clear();
        }
    }

    /// What was read at `unit`, if it was in `epoch`.
    pub fn get(&self, epoch: u64, unit: UnitNumber) -> Option<&Piece> {
        if self.epoch == epoch { self.pieces.get(&unit) } else { None }
    }
}

/// Whether `error` says that something could not be read, and not that it is not in memory or that there is no space. Work goes on
/// around it, whatever the cause; whether the medium is damaged is another question ([`Error::is_damage`]).
pub fn is_unreadable(error: &Error) -> bool {
    matches!(error, Error::Corrupt { .. } | Error::Io { .. })
}
