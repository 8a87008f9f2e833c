//! Room: whether a batch may come in, and space in the file for it before it does.

use super::tree::Needs;
use super::{BtreeEngine, CUT_UNITS_MIN, UNIT_BYTES, recovery};
use crate::disk::Purpose;
use crate::engine::wal::RECORD_OVERHEAD_BYTES;
use crate::engine::{Batch, Cause, Error, Result, SpaceClaim, Tier, Torn};

/// The part of the reserve that the file may hold behind its end.
const AHEAD_SHARE: u64 = 8;

impl BtreeEngine {
    /// Refuses a batch that is over a limit, and takes space for what it needs; `None` if it will wait in the buffer.
    pub(super) fn make_room(&self, batch: &Batch, needs: Option<Needs>, tier: Tier) -> Result<()> {
        let bytes_max = self.options.dirty_bytes_max;
        let (is_full, image_bytes, owed_bytes, inside_bytes) = {
            let tree = self.tree.read();
            let is_full =
                tree.dirty_bytes() >= bytes_max || needs.is_none() && self.is_too_much_waiting(&tree);
            let inside_bytes = tree.space.available_units() * UNIT_BYTES;
            (is_full, tree.image_bytes_max(), tree.buffer_owes(), inside_bytes)
        };
        if is_full {
            return Err(self.busy(Cause::DirtyPages, batch));
        }
        // What goes to the log at once: in one mode the leaf of every operation, too.
        let mut bytes = batch.bytes();
        if self.options.torn == Torn::Image {
            bytes += batch.operations().len() as u64 * self.pager.page_bytes() as u64;
        }
        let record_bytes = bytes + RECORD_OVERHEAD_BYTES;
        if self.is_log_full(record_bytes, needs.map_or(0, |needs| needs.pages)) {
            return Err(self.busy(Cause::LogSpace, batch));
        }
        let owed_bytes_max = image_bytes + owed_bytes;
        let claim = match () {
            () if batch.uses_reserve => SpaceClaim::Release,
            // Values are rounded up to units, and pages split: twice as much and some pages are surely enough.
            () if inside_bytes >= 2 * (bytes + owed_bytes_max) + 8 * self.pager.page_bytes() as u64 => {
                SpaceClaim::Inside
            }
            () => SpaceClaim::Growth,
        };
        // The log may have room for it, and for the copies of all pages that then wait for a checkpoint, in the files that it has:
        // then who gives space back needs none, however full the disk is. Only copies in an area of their own do.
        let is_held = || {
            let changed_pages = 2 * batch.operations().len() as u64 + 4;
            claim == SpaceClaim::Release
                && self.options.torn != Torn::DoubleWrite
                && self.log.fits(bytes + owed_bytes_max + changed_pages * 2 * self.pager.page_bytes() as u64)
        };
        let admit = || self.guard.admit(bytes, owed_bytes_max, claim);
        let admitted = match admit() {
            Err(Error::NoSpace) if is_held() => Ok(()),
            Err(Error::NoSpace) if self.log.give_back() => admit(),
            other => other,
        };
        match admitted {
            // The buffer owes the most it can; once it is empty, what is left is known.
            Err(Error::NoSpace) if owed_bytes > 0 => {
                self.target.lock().get_or_insert_with(|| self.log.end());
                return Err(self.busy(Cause::DirtyPages, batch));
            }
            Err(error) => return Err(self.refused(error, batch)),
            Ok(()) => {}
        }
        self.take_space(needs.unwrap_or_default(), tier).map_err(|error| self.refused(error, batch))
    }

    /// What a batch is told for which there is no space: to wait for a checkpoint if that frees a segment of the log or units enough, or
    /// for a compaction if much of the file is free but not its end, so that it could not be cut. One that gives space back waits as
    /// long as there is anything to bring home: that also frees pages which are free only then.
    pub(super) fn refused(&self, error: Error, batch: &Batch) -> Error {
        if !matches!(error, Error::NoSpace) {
            return error;
        }
        let is_sparse = self.is_sparse();
        if is_sparse {
            self.compact_unasked();
        }
        let frees_log = self.log_bytes() >= self.options.log_segment_bytes;
        let frees_units = self.tree.read().space.waiting_units() * UNIT_BYTES >= batch.bytes();
        let helps = is_sparse || frees_log || frees_units || batch.uses_reserve && self.is_dirty();
        if !helps {
            // A checkpoint on its way gives back what was freed before it, and may cut the file.
            let is_settling = self.job.try_lock().is_none_or(|job| job.is_some());
            let waits = is_settling || batch.awaits_space;
            return if waits { self.busy(Cause::Space, batch) } else { error };
        }
        self.target.lock().get_or_insert_with(|| self.log.end());
        self.busy(Cause::Space, batch)
    }

    /// Whether so much below the end of the file is free, and was not when the last compaction left it there, that one is worth it.
    pub(super) fn is_sparse(&self) -> bool {
        let (end, used) = self.extent_of_use();
        let before = self.compacted.lock().filter(|(compacted_end, _)| *compacted_end == end);
        let used_before = before.map_or(end, |(_, used)| used);
        used_before.saturating_sub(used) > (end / 4).max(4 * CUT_UNITS_MIN)
    }

    /// The end of the file in units, and how many below it are in use.
    fn extent_of_use(&self) -> (u64, u64) {
        let space = &self.tree.read().space;
        (space.end(), space.used_units())
    }

    /// A compaction has ended: the next is worth it when there is more to gain.
    pub(super) fn note_compacted(&self) {
        *self.compacted.lock() = Some(self.extent_of_use());
    }

    /// Starts a compaction if none is on its way.
    pub(super) fn compact_unasked(&self) {
        let mut commands = self.commands.lock();
        if commands.compact.is_empty() && self.compaction.try_lock().is_some_and(|running| running.is_none())
        {
            commands.compact.push(Box::new(|result| match result {
                Ok(()) => log::info!("the disk is full, and the file was compacted"),
                Err(error) => log::warn!("the disk is full, and the file cannot be compacted: {error}"),
            }));
        }
    }

    /// Units that the file grows ahead of its use, where it ends at `end`: little of what is kept free, which the log needs, but enough
    /// that a mount and deletes find room where others have taken every byte of the disk.
    pub(super) fn ahead_units(&self, end: u64) -> u64 {
        let bytes = (self.guard.spare_bytes() / 2).max(self.guard.reserve_bytes() / AHEAD_SHARE);
        recovery::growth_units(&self.options, end).min(bytes / UNIT_BYTES)
    }

    /// Takes space in the file for what a change needs. The writer's lock is held.
    pub(super) fn take_space(&self, needs: Needs, tier: Tier) -> Result<()> {
        self.load_room(needs, tier, Purpose::Get)?;
        let missing = {
            let space = &self.tree.read().space;
            space.missing(needs.units + space.map_units_max(needs.units))
        };
        if let Some(units) = missing {
            let units = self.pager.grow(units, self.ahead_units(units))?;
            self.tree.write().space.set_file_units(units);
        }
        Ok(())
    }

    /// Whether space for `needs` would take more than a quarter of what is free on the disk.
    pub(super) fn is_large_growth(&self, needs: Needs) -> bool {
        let growth_units = {
            let tree = self.tree.read();
            let units = needs.units + tree.space.map_units_max(needs.units);
            units.saturating_sub(tree.space.tail_units())
        };
        growth_units > 0 && growth_units * UNIT_BYTES > self.guard.free_bytes() / 4
    }

    /// Cuts the file where much of its end is free.
    pub(super) fn shrink(&self) -> Result<()> {
        let _writer = self.lock_writer();
        self.load_end()?;
        let units = {
            let tree = self.tree.read();
            let ahead = self.ahead_units(tree.space.end());
            (tree.space.tail_units() > 2 * ahead + CUT_UNITS_MIN).then_some(tree.space.end() + ahead)
        };
        if let Some(units) = units {
            self.pager.cut(units)?;
            self.tree.write().space.cut(units);
        }
        Ok(())
    }

    /// Grows the file before a batch has to.
    pub(super) fn grow_ahead(&self) -> Result<()> {
        let (missing, wanted) = {
            let tree = self.tree.read();
            let ahead = self.ahead_units(tree.space.end());
            (tree.space.missing(ahead / 2), tree.space.end() + ahead)
        };
        if missing.is_some() {
            match self.pager.grow(wanted, 0) {
                Ok(units) => self.tree.write().space.set_file_units(units),
                // The batch that needs it will say so.
                Err(Error::NoSpace) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
