//! Copy-on-write: before a page is changed, it and every page above it move to free places, so that a checkpoint overwrites nothing that
//! the durable state refers to, and needs no copies of pages.
//!
//! # Invariants
//!
//! 1. In a tree that works like this, every dirty page is fresh, and so is every page above a fresh one: its parent has a new reference to it.

use super::{Pins, Tree};
use crate::engine::PageCause;
use crate::engine::btree::allocation_unit::{PageNumber, Units};
use crate::engine::btree::freemap::SpaceNeeds;
use crate::engine::btree::source::PageSource;

/// Changes for whose copies units are held back, so that deletes find room in a full file: a delete copies at most the pages of its path and
/// a neighbour of each.
const HELD_PATHS: u64 = 16;

impl Tree {
    /// Adds what a change of the pages in `pins` takes: units for their copies, or room in the log, if they stay in place.
    pub(super) fn need_copies(&self, pins: &Pins, needs: &mut SpaceNeeds) {
        let pages = pins.len() as u64;
        match self.is_copy_on_write {
            true => needs.units += self.page_units() * pages,
            false => needs.pages = pages,
        }
    }

    /// Units that only changes may take that give space back.
    pub fn held_units(&self) -> Units {
        if self.is_copy_on_write { self.page_units() * (HELD_PATHS * 2 * self.height) } else { Units::ZERO }
    }

    /// In a tree that copies on write, moves the page `number` and the pages on the `way` to it, which are all in memory, to free places, as far
    /// as they are not at one already; sets their new numbers. `cause` is why the page changes.
    pub(super) fn own(
        &mut self,
        way: &mut [(PageNumber, usize)],
        number: &mut PageNumber,
        mut cause: PageCause,
        pins: &mut Pins,
        source: &impl PageSource,
    ) {
        if !self.is_copy_on_write {
            return;
        }
        let mut child = None;
        for depth in (0..=way.len()).rev() {
            let (place, index) = match way.get_mut(depth) {
                Some((place, index)) => (place, *index),
                None => (&mut *number, 0),
            };
            let is_fresh = self.fresh.contains(place);
            if !is_fresh {
                let to = PageNumber::at(self.space.take_low(self.page_units()));
                self.move_page(*place, to, cause, pins, source);
                *place = to;
            }
            if let Some(child) = child {
                self.page_mut(*place, cause, pins, source).set_child(index, child);
            }
            if is_fresh {
                return;
            }
            (child, cause) = (Some(*place), PageCause::Path);
        }
        self.root = child.unwrap_or(self.root);
    }
}
