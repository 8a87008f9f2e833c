//! Copy-on-write: before a page is changed, it and every page above it move to free places, so that a checkpoint overwrites nothing that
//! the durable state refers to, and needs no copies of pages.
//!
//! # Invariants
//!
//! 1. In a tree that works like this, every dirty page is fresh, and so is every page above a fresh one: its parent has a new reference to it.
//! 2. A page that is compressed is never changed in its place, in no tree: where others are overwritten, it moves, and takes a whole page's place.

use super::{Pins, Tree};
use crate::engine::PageCause;
use crate::engine::btree::allocation_unit::{PageNumber, Units};
use crate::engine::btree::freemap::SpaceNeeds;
use crate::engine::btree::source::PageSource;

/// Changes for whose copies units are held back, so that deletes find room in a full file: a delete copies at most the pages of its path and
/// a neighbour of each.
const HELD_PATHS: u64 = 16;

impl Tree {
    /// Adds what a change of the pages in `pins` takes: units for those that move, and room in the log for those that stay in place.
    pub(super) fn need_copies(&self, pins: &Pins, needs: &mut SpaceNeeds) {
        let pages = pins.len() as u64;
        match self.is_copy_on_write {
            true => needs.units += self.page_units() * pages,
            false => {
                needs.pages = pages;
                needs.units +=
                    self.page_units() * pins.keys().filter(|number| number.is_compressed()).count() as u64;
            }
        }
    }

    /// Units that only changes may take that give space back.
    pub fn held_units(&self) -> Units {
        let moves = self.is_copy_on_write || !self.counts.saved_units.is_zero();
        if moves { self.page_units() * (HELD_PATHS * 2 * self.height) } else { Units::ZERO }
    }

    /// Moves the page `number` and the pages on the `way` to it, which are all in memory, to free places, as far as they may not be changed where
    /// they are; sets their new numbers. `cause` is why the page changes. Returns whether any was moved.
    pub(super) fn own(
        &mut self,
        way: &mut [(PageNumber, usize)],
        number: &mut PageNumber,
        mut cause: PageCause,
        pins: &mut Pins,
        source: &impl PageSource,
    ) -> bool {
        if !self.is_copy_on_write && self.counts.saved_units.is_zero() {
            return false;
        }
        let (mut child, mut has_moved) = (None, false);
        for depth in (0..=way.len()).rev() {
            let (place, index) = match way.get_mut(depth) {
                Some((place, index)) => (place, *index),
                None => (&mut *number, 0),
            };
            let moves = match self.is_copy_on_write {
                true => !self.fresh.contains(place),
                false => place.is_compressed(),
            };
            if moves {
                let to = PageNumber::at(self.space.take_low(self.page_units()));
                self.move_page(*place, to, cause, pins, source);
                *place = to;
                has_moved = true;
            }
            if let Some(child) = child {
                self.page_mut(*place, cause, pins, source).set_child(index, child);
            }
            if self.is_copy_on_write && !moves {
                return has_moved;
            }
            (child, cause) = (moves.then_some(*place), PageCause::Path);
        }
        self.root = child.unwrap_or(self.root);
        has_moved
    }
}
