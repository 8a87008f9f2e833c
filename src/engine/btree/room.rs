//! Room: whether a batch may come in, and space in the file for it before it does.

use std::sync::atomic::Ordering::Relaxed;

use super::checkpoint::copy_record_bytes_max;
use super::freemap::FreeMap;
use super::tree::{Needs, Tree};
use super::{BtreeEngine, CUT_UNITS_MIN, UNIT_BYTES, recovery};
use crate::disk::Purpose;
use crate::engine::btree::{Options, Torn};
use crate::engine::wal::{RECORD_OVERHEAD_BYTES, SPARES_IDLE};
use crate::engine::{Batch, Cause, Error, Result, SpaceClaim, SpaceGuard, Tier};

/// The part of the reserve that the file may hold behind its end.
const AHEAD_SHARE: u64 = 8;
/// The map takes two units at a time.
const MAP_PIECE_UNITS: u64 = 2;

/// Units that the file grows ahead of its use, where it ends at `end`: little of what is kept free, which the log needs, but enough that a
/// mount and deletes find room where others have taken every byte of the disk.
pub fn ahead_units(guard: &SpaceGuard, options: &Options, end: u64) -> u64 {
    let bytes = (guard.spare_bytes() / 2).max(guard.reserve_bytes() / AHEAD_SHARE);
    recovery::growth_units(options, end).min(bytes / UNIT_BYTES)
}

impl Needs {
    /// How far the file must grow so that a change which needs this finds it in `space`, with what the map then needs; `None` if it does.
    pub fn lacking(&self, space: &FreeMap) -> Option<u64> {
        space.lacking(self.units + space.map_units_max(self.units), self.piece_units.max(MAP_PIECE_UNITS))
    }
}

impl BtreeEngine {
    /// Refuses a batch that is over a limit, and takes space for what it needs; `None` if it will wait in the buffer. False if it may not
    /// wait, since only what it needs now is known to fit.
    pub(super) fn make_room(&self, batch: &Batch, needs: Option<Needs>, tier: Tier) -> Result<bool> {
        let bytes_max = self.options.dirty_bytes_max;
        let (is_full, image_bytes, owed_bytes, inside_bytes) = {
            let tree = self.tree.read();
            let is_full =
                tree.dirty_bytes() >= bytes_max || needs.is_none() && self.is_too_much_waiting(&tree);
            (is_full, tree.image_bytes_max(), tree.buffer_owes(), Self::inside_bytes(&tree))
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
            () if self.fits_inside(inside_bytes, bytes + owed_bytes_max) => SpaceClaim::Inside,
            () => SpaceClaim::Growth,
        };
        let is_held = |needs: Needs| match claim {
            SpaceClaim::Growth => false,
            SpaceClaim::Inside => {
                self.has_units(needs, owed_bytes) && self.is_held(batch.encoded_bytes_max(), needs)
            }
            SpaceClaim::Release => self.is_held(batch.encoded_bytes_max(), needs),
        };
        let admit = || self.guard.admit(bytes, owed_bytes_max, claim);
        let admitted = match admit() {
            Err(Error::NoSpace) if needs.is_none() && claim != SpaceClaim::Growth => return Ok(false),
            Err(Error::NoSpace) if needs.is_some_and(is_held) => Ok(()),
            // Where others take every byte of the disk, what it gives back is gone: the log keeps what it needs to go on.
            Err(Error::NoSpace) if self.log.give_back_but(SPARES_IDLE) => admit(),
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
        let taken = self.take_space(needs.unwrap_or_default(), tier);
        taken.map(|()| true).map_err(|error| self.refused(error, batch))
    }

    /// Whether the file has units for `needs` and beside them for what sweeps owe, without growing.
    fn has_units(&self, needs: Needs, owed_bytes: u64) -> bool {
        let needs = Needs { units: needs.units + owed_bytes / UNIT_BYTES, ..needs };
        needs.lacking(&self.tree.read().space).is_none()
    }

    /// Bytes of the file that nothing lies in, of `tree`.
    fn inside_bytes(tree: &Tree) -> u64 {
        tree.space.available_units() * UNIT_BYTES
    }

    /// Whether a change of `bytes` surely fits into `inside_bytes` of the file: values are rounded up to units, and pages split. Twice as
    /// much and some pages are enough.
    fn fits_inside(&self, inside_bytes: u64, bytes: u64) -> bool {
        inside_bytes >= 2 * bytes + 8 * self.pager.page_bytes() as u64
    }

    /// Whether the files that there are have room for a record with `payload_bytes` of a change that needs `needs`, for the copies of all
    /// pages that then wait for a checkpoint, and for what waits in the buffer, logged again: then nothing of the disk is needed, however
    /// full it is.
    fn is_held(&self, payload_bytes: usize, needs: Needs) -> bool {
        let (copies, again_bytes) = {
            let tree = self.tree.read();
            // What waits changes its leaf and what is above that, at most every leaf once.
            let swept_pages = 2 * tree.buffer.len().min(tree.counts.leaf_pages);
            (tree.copies_max() + needs.pages + swept_pages, self.again_log_bytes(&tree))
        };
        let again_record_bytes = if again_bytes > 0 { self.again_record_bytes_max() } else { 0 };
        let copy_record_bytes = copy_record_bytes_max(self.pager.page_bytes());
        let logged_copies = if self.has_area_for(copies) { 0 } else { copies };
        let copies_bytes = logged_copies * copy_record_bytes + self.copies_left_bytes.load(Relaxed);
        let record_bytes_max = copy_record_bytes.max(again_record_bytes);
        self.log.holds(payload_bytes as u64, copies_bytes + again_bytes, record_bytes_max)
    }

    /// Whether the copies of `pages` pages more, which background work changes, would find no room when a checkpoint makes them: neither
    /// in the files that there are, nor on the disk.
    pub(super) fn lacks_room_for_copies(&self, pages: u64) -> bool {
        let needs = Needs { pages, ..Needs::default() };
        let owed_bytes = {
            let tree = self.tree.read();
            tree.image_bytes_max() + pages * self.pager.page_bytes() as u64
        };
        self.guard.free_bytes() < 2 * owed_bytes + self.log.segment_bytes() && !self.is_held(0, needs)
    }

    /// What a batch is told for which there is no space: to wait for a checkpoint if that frees a segment of the log or units enough, or
    /// for a compaction if much of the file is free but not its end, so that it could not be cut. One that gives space back waits as
    /// long as there is anything to bring home: that also frees pages which are free only then, and the log. So does one that fits into
    /// the file.
    pub(super) fn refused(&self, error: Error, batch: &Batch) -> Error {
        if !matches!(error, Error::NoSpace) {
            return error;
        }
        let is_sparse = self.is_sparse();
        if is_sparse {
            self.compact_unasked();
        }
        let frees_log = self.log_bytes() >= self.options.common.log_segment_bytes;
        let frees_units = self.tree.read().space.waiting_units() * UNIT_BYTES >= batch.bytes();
        let is_inside = || self.fits_inside(Self::inside_bytes(&self.tree.read()), batch.bytes());
        let frees_all = (batch.uses_reserve || is_inside()) && self.is_dirty();
        let helps = is_sparse || frees_log || frees_units || frees_all;
        if !helps {
            // A checkpoint on its way gives back what was freed before it, and may cut the file.
            let is_settling = self.job.try_lock().is_none_or(|job| job.is_some());
            let waits = is_settling || batch.awaits_space;
            return if waits { self.busy(Cause::Space, batch) } else { error };
        }
        // Without anything to bring home there is no checkpoint that the compaction could wait for.
        if self.is_dirty() {
            self.target.lock().get_or_insert_with(|| self.log.end());
        }
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

    /// See [`ahead_units`].
    pub(super) fn ahead_units(&self, end: u64) -> u64 {
        ahead_units(&self.guard, &self.options, end)
    }

    /// Takes space in the file for what a change needs: the free end of the file, or free runs before it. The writer's lock is held.
    pub(super) fn take_space(&self, needs: Needs, tier: Tier) -> Result<()> {
        self.load_room(needs, tier, Purpose::Get)?;
        self.grow_if(|tree| needs.lacking(&tree.space))
    }

    /// Takes space behind the end of the file, for `units` and what of the map comes with them. The writer's lock is held.
    pub(super) fn take_end(&self, units: u64) -> Result<()> {
        self.grow_if(|tree| tree.space.missing(units + tree.space.map_units_max(units)))
    }

    fn grow_if(&self, missing: impl Fn(&Tree) -> Option<u64>) -> Result<()> {
        let missing = missing(&self.tree.read());
        if let Some(units) = missing {
            let units = self.pager.grow(units, self.ahead_units(units))?;
            self.tree.write().space.set_file_units(units);
        }
        Ok(())
    }

    /// Whether space for `needs` would take more than a quarter of what is free on the disk.
    pub(super) fn is_large_growth(&self, needs: Needs) -> bool {
        let growth_units = {
            let space = &self.tree.read().space;
            needs.lacking(space).map_or(0, |units| units - space.end() - space.tail_units())
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
