//! The extents of the file in which there are pages, as far as that is known since the store was opened: from what checkpoints have written, and
//! from pages that were read. Collection reads no others, since most of a file may be values.

use std::collections::BTreeSet;

use parking_lot::Mutex;

use super::allocation_unit::{UnitNumber, Units};
use super::freemap::UnitRun;
use super::options::{Options, Placement};
use super::source::Piece;

/// The known extents, by number.
pub struct PageExtents {
    /// `None` where nothing is collected.
    numbers: Option<Mutex<BTreeSet<u64>>>,
    units: Units,
}

impl PageExtents {
    /// None known yet, with the extents of `options`.
    pub fn new(options: &Options) -> PageExtents {
        let numbers = (options.pages == Placement::CowExtent).then(Mutex::default);
        PageExtents { numbers, units: options.extent_units() }
    }

    /// Units of an extent.
    pub fn units(&self) -> Units {
        self.units
    }

    /// The extent with this number.
    pub fn extent(&self, number: u64) -> UnitRun {
        (UnitNumber::NONE + self.units * number, self.units)
    }

    /// Notes what lies at `unit`, if it is a page.
    pub fn note(&self, unit: UnitNumber, piece: &Piece) {
        if let (Some(numbers), Piece::Page(_)) = (&self.numbers, piece) {
            numbers.lock().insert(unit.get() / self.units.get());
        }
    }

    /// Notes that there are no pages in an extent that the tree refers to.
    pub fn forget(&self, number: u64) {
        if let Some(numbers) = &self.numbers {
            numbers.lock().remove(&number);
        }
    }

    /// The first known extent from number `from` on that `suits`.
    pub fn find(&self, from: u64, suits: impl Fn(UnitRun) -> bool) -> Option<u64> {
        self.numbers.as_ref()?.lock().range(from..).find(|number| suits(self.extent(**number))).copied()
    }
}
