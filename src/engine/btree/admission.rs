//! Admission: decides whether a batch may come in, and makes space for it in the file.

use std::time::Duration;

use super::allocation_unit::Units;
use super::bound::LogRoom;
use super::freemap::SpaceNeeds;
use super::options::Torn;
use super::tree::Tree;
use super::writer::Writer;
use crate::engine::wal::{RECORD_OVERHEAD_BYTES, SPARES_IDLE};
use crate::engine::{Batch, Cause, Error, Result, SpaceClaim, Tier, WorkClass};

/// Number of failures of background work in a row after which a delete gets the error.
const TRIES_FOR_SPACE: u32 = 4;
/// Time after which a refused batch is tried again if no signal comes before.
pub const RETRY_AFTER: Duration = Duration::from_millis(20);

impl Writer {
    /// Refuses a batch that is over a limit, and makes space for `needs`, or for none if the batch is to be buffered. False if it must not be
    /// buffered, since only its immediate needs are known to fit.
    pub(super) fn make_room(&self, batch: &Batch, needs: Option<SpaceNeeds>, tier: Tier) -> Result<bool> {
        let bytes_max = self.core.options.dirty_bytes_max;
        let (is_full, image_bytes, owed_bytes, inside_bytes, held_units) = {
            let tree = self.core.tree.read();
            let is_full =
                tree.dirty_bytes() >= bytes_max || needs.is_none() && self.bounds.is_too_much_waiting(&tree);
            let inside_bytes = Self::inside_bytes(&tree);
            (is_full, tree.image_bytes_max(), tree.buffer_owes(), inside_bytes, tree.held_units())
        };
        if is_full {
            return Err(self.busy(Cause::DirtyPages, batch));
        }
        // Bytes that are logged at once; with torn=image that includes the leaf of every operation.
        let mut bytes = batch.bytes();
        if self.core.options.torn == Torn::Image {
            bytes += batch.operations().len() as u64 * self.core.pager.page_bytes() as u64;
        }
        let record_bytes = bytes + RECORD_OVERHEAD_BYTES;
        let pages = needs.map_or(0, |needs| needs.pages);
        if let LogRoom::Full { for_all } = self.bounds.log_room(record_bytes, pages) {
            if for_all {
                self.merger.want_all();
            }
            return Err(self.busy(Cause::LogSpace, batch));
        }
        let owed_bytes_max = image_bytes + owed_bytes;
        let claim = match () {
            () if batch.uses_reserve => SpaceClaim::Release,
            () if self.fits_inside(inside_bytes, bytes + owed_bytes_max) => SpaceClaim::Inside,
            () => SpaceClaim::Growth,
        };
        let is_held = |needs: SpaceNeeds| match claim {
            SpaceClaim::Growth => false,
            SpaceClaim::Inside => {
                self.has_units(needs, owed_bytes) && self.bounds.is_held(batch.encoded_bytes_max(), needs)
            }
            SpaceClaim::Release => self.bounds.is_held(batch.encoded_bytes_max(), needs),
        };
        // If space is short, page images are left out; the checkpoint makes them.
        let claimed_bytes = if batch.uses_reserve { batch.bytes() } else { bytes };
        let admit = || self.core.guard.admit(claimed_bytes, owed_bytes_max, claim);
        let admitted = match admit() {
            Err(Error::NoSpace) if needs.is_none() && claim != SpaceClaim::Growth => return Ok(false),
            Err(Error::NoSpace) if needs.is_some_and(is_held) => Ok(()),
            // Other programs may take what is given back, so the log keeps the files that it needs to go on.
            Err(Error::NoSpace) if self.core.log.give_back_but(SPARES_IDLE) => admit(),
            other => other,
        };
        match admitted {
            // For the buffer an upper bound is counted; once it is merged, the true need is known.
            Err(Error::NoSpace) if owed_bytes > 0 => {
                self.merger.want_all();
                return Err(self.busy(Cause::DirtyPages, batch));
            }
            Err(error) => return Err(self.refused(error, batch)),
            Ok(()) => {}
        }
        let mut needs = needs.unwrap_or_default();
        if !batch.uses_reserve {
            needs.units += held_units;
        }
        let taken = self.core.take_space(needs, tier);
        taken.map(|()| true).map_err(|error| self.refused(error, batch))
    }

    /// Whether the file has units for `needs` and for the `owed_bytes` of buffer merges without growing.
    fn has_units(&self, needs: SpaceNeeds, owed_bytes: u64) -> bool {
        let needs = SpaceNeeds { units: needs.units + Units::within_bytes(owed_bytes), ..needs };
        needs.lacking(&self.core.tree.read().space).is_none()
    }

    /// Free bytes inside the file of `tree`, the tail included.
    fn inside_bytes(tree: &Tree) -> u64 {
        tree.space.available_units().bytes()
    }

    /// Whether a change of `bytes` surely fits into `inside_bytes` of the file. Values are rounded up to units, and pages split; twice as much
    /// and some pages are enough.
    fn fits_inside(&self, inside_bytes: u64, bytes: u64) -> bool {
        inside_bytes >= 2 * bytes + 8 * self.core.pager.page_bytes() as u64
    }

    /// The answer to a batch for which there is no space. It shall wait for a checkpoint if that frees a segment of the log or enough units, or
    /// for a vacuum if much of the file is free but not its end. A batch that gives space back waits as long as anything is dirty, since a
    /// checkpoint also frees pages that are free only then, and the log. So does a batch that fits into the file.
    pub(super) fn refused(&self, error: Error, batch: &Batch) -> Error {
        if !matches!(error, Error::NoSpace) {
            return error;
        }
        let is_sparse = self.vacuumer.is_worth_it();
        if is_sparse {
            self.vacuumer.ask_unasked();
        }
        let (frees_log, frees_units, is_inside, is_dirty) = {
            let tree = self.core.tree.read();
            let frees_log = self.core.log_bytes(&tree) >= self.core.options.common.log_segment_bytes;
            let frees_units = tree.space.waiting_units().bytes() >= batch.bytes();
            let is_inside = self.fits_inside(Self::inside_bytes(&tree), batch.bytes());
            (frees_log, frees_units, is_inside, self.core.is_dirty(&tree))
        };
        let frees_all = (batch.uses_reserve || is_inside) && is_dirty;
        let helps = is_sparse || frees_log || frees_units || frees_all;
        if !helps {
            // The running checkpoint releases units that were freed before it, and may cut the file.
            let waits = self.checkpointer.is_settling() || batch.awaits_space;
            return if waits { self.busy(Cause::Space, batch) } else { error };
        }
        // Without anything dirty there is no checkpoint to wait for before the vacuum.
        if is_dirty {
            self.merger.want_all();
        }
        self.busy(Cause::Space, batch)
    }

    /// The answer to a batch that must wait for background work: `Busy`, or the error of that work if the wait would not end.
    fn busy(&self, cause: Cause, batch: &Batch) -> Error {
        self.core.wake_signal.notify(WorkClass::Flush);
        // A batch that gives space back is worth some tries.
        let tries = if batch.uses_reserve { TRIES_FOR_SPACE } else { 1 };
        if let Err(error) = self.core.failure.check(tries, || self.core.guard.free_bytes()) {
            return error;
        }
        self.stalls.begin(cause, true, self.core.clock.elapsed());
        Error::Busy { cause, retry_after: RETRY_AFTER }
    }
}
