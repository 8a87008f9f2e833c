//! The way of a batch: limits, space, log, memtable; and the change from a full memtable to a new one.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use parking_lot::MutexGuard;

use super::cleaning::RECORDS_BYTES;
use super::memtable::Memtable;
use super::shortage::Trouble;
use super::stall::{Load, Pace, Pressure, pressure};
use super::version::View;
use super::{LsmEngine, wal};
use crate::disk::Purpose;
use crate::engine::{Batch, Cause, Class, Error, Position, Result, SpaceClaim};

/// When a stopped batch may ask again, should the bell not ring before.
const RETRY: Duration = Duration::from_millis(50);

/// What a short segment of the log takes for a batch.
fn log_need_bytes(batch: &Batch) -> u64 {
    batch.encoded_bytes_max() as u64 + 2 * RECORDS_BYTES
}

impl LsmEngine {
    /// Applies a batch.
    pub(super) fn write(&self, batch: &Batch) -> Result<Position> {
        if batch.is_empty() {
            return Ok(self.log.end());
        }
        batch.check()?;
        let mut pace = self.writer.lock();
        let view = self.make_room(&pace);
        let full = self.is_due(&view.mutable);
        let rate =
            self.admit(&pace, &view, full, batch.uses_reserve).map_err(|error| self.refused(error, batch))?;
        self.admit_space(&pace, batch, &view).map_err(|error| self.refused(error, batch))?;
        let threshold = self.options.value_log_threshold();
        let is_separate = |value: &bytes::Bytes| threshold.is_some_and(|least| value.len() as u64 >= least);
        let has_separate = batch.operations().iter().filter_map(|it| it.value()).any(is_separate);
        let purpose = if has_separate { Purpose::ValueLog } else { Purpose::Wal };
        let append = || self.log.append_batch(wal::FIRST_KIND, purpose, batch);
        let position = match append() {
            Err(Error::NoSpace) if self.shortens_log(&pace) => return Err(self.wait_for_space()),
            Err(Error::NoSpace) if batch.uses_reserve && self.gives_space(&view) => {
                return Err(self.wait_for_space());
            }
            Err(Error::NoSpace) if batch.uses_reserve && self.space.give_ballast(log_need_bytes(batch)) => {
                append().map_err(|error| self.refused(error, batch))?
            }
            appended => appended.map_err(|error| self.refused(error, batch))?,
        };
        view.mutable.apply(batch, position, threshold);
        // Still under the writer's lock: in the order of batches.
        self.gaps.change(batch);
        if batch.uses_reserve {
            self.note_deletes();
        }
        if let Some(rate) = rate {
            pace.pass(self.clock.elapsed(), batch.bytes(), rate);
        }
        // Now rather than with the next batch, which may be long in coming.
        drop(view);
        self.make_room(&pace);
        drop(pace);
        self.stalls.end(|| self.clock.elapsed());
        Ok(position)
    }

    /// Whether a batch may come in now, and at which rate if that is limited.
    fn admit(
        &self,
        pace: &Pace,
        view: &View,
        memtables_full: bool,
        uses_reserve: bool,
    ) -> Result<Option<f64>> {
        let version = &view.version;
        let load = Load {
            memtables_full,
            l0_files: version.counted().l0_files,
            pending_bytes: version.counted().pending_bytes,
            merges_help: self.limits_off(version).is_none(),
        };
        let (cause, is_stop, retry_after) = match pressure(load, &self.options) {
            Pressure::Free => return Ok(None),
            Pressure::Stop { cause } => {
                // Waiting is no use while the work that would end it fails: the caller gets its error.
                self.forget_troubles();
                let troubles = self.shortage.troubles();
                let trouble = if cause == Cause::Memtables { troubles.flush } else { troubles.merge };
                match trouble.map(|trouble| trouble.error) {
                    // What gives space back is only held to the space that there is.
                    Some(Error::NoSpace) if uses_reserve && cause != Cause::Memtables => return Ok(None),
                    // A merge has taken the space that the flush needs, and gives it back.
                    Some(Error::NoSpace) if uses_reserve && self.gives_space(view) => (cause, true, RETRY),
                    Some(error) => return Err(error),
                    None => (cause, true, RETRY),
                }
            }
            // Nor is slowing down.
            Pressure::Slow { .. } if self.shortage.has_merge_trouble() => return Ok(None),
            Pressure::Slow { cause, rate } => match pace.wait(self.clock.elapsed()) {
                None => return Ok(Some(rate)),
                Some(wait) => (cause, false, wait),
            },
        };
        self.stalls.begin(cause, is_stop, self.clock.elapsed());
        Err(Error::Busy { cause, retry_after })
    }

    /// What could not be done for want of space is tried again once there is more than there was: others may have given it back.
    fn forget_troubles(&self) {
        let (flush, merge) = self.shortage.forget_past(self.space.free_bytes());
        if flush {
            self.bell.ring(Class::Flush);
        }
        if merge {
            self.bell.ring(Class::Merge);
        }
    }

    /// Notes what is free where something could not be done.
    pub(super) fn trouble(&self, error: Error) -> Trouble {
        Trouble { error, free_bytes: self.space.free_bytes() }
    }

    /// Whether there is space for a batch beside what flushes and the running merge still have to write. If not, free segments of
    /// the log go, and a flush comes if that makes more of them free: those who wait for it, as for files that are about to go, need
    /// give nothing back. Nor one that would fit after the merge that runs.
    fn admit_space(&self, writer: &MutexGuard<'_, Pace>, batch: &Batch, view: &View) -> Result<()> {
        let (bytes, flush_bytes) = (batch.bytes(), view.flush_bytes());
        let owed_bytes = flush_bytes + self.meters.merge_owed_bytes.load(Relaxed);
        let claim = if batch.uses_reserve { SpaceClaim::Release } else { SpaceClaim::Growth };
        let admit = || self.space.admit(bytes, owed_bytes, claim);
        let result = match admit() {
            // In files that are there already it takes no space until it is flushed.
            Err(Error::NoSpace) if batch.uses_reserve && self.log.fits(batch.encoded_bytes_max() as u64) => {
                Ok(())
            }
            Err(Error::NoSpace) if self.log.give_back() => admit(),
            result => result,
        };
        if !matches!(result, Err(Error::NoSpace)) {
            if result.is_ok() && claim == SpaceClaim::Growth {
                self.shortage.note_room();
            }
            return result;
        }
        if self.shortens_log(writer) || self.brings_deletes_down(writer) {
            return Err(self.wait_for_space());
        }
        let gives_space = self.gives_space(view);
        let is_running = self.meters.temporary_bytes.load(Relaxed) > 0;
        let fits_after = || is_running && self.space.admit(bytes, flush_bytes, SpaceClaim::Growth).is_ok();
        let comes =
            || self.shelf.obsolete_bytes() > 0 || !self.shortage.outlook().is_exhausted || fits_after();
        if gives_space && (batch.uses_reserve || comes()) {
            return Err(self.wait_for_space());
        }
        // The log takes it, and the flush that comes next makes up for it.
        if batch.uses_reserve && self.space.ballast_bytes() >= log_need_bytes(batch) {
            return Ok(());
        }
        // What was on its way when it was refused may have come before it was looked for.
        admit()
    }

    /// What a batch is told that failed with `error`. Before the first one is told that there is no space, merges look for what they can
    /// clean; that they have found nothing is what the next one hears.
    fn refused(&self, error: Error, batch: &Batch) -> Error {
        match error {
            Error::NoSpace if self.want_space() || batch.awaits_space => self.wait_for_space(),
            error => error,
        }
    }

    /// Whether a flush is on its way after which much can be cleaned; one begins if there is none and that is so.
    fn brings_deletes_down(&self, writer: &MutexGuard<'_, Pace>) -> bool {
        if self.shortage.has_flush_trouble() {
            return false;
        }
        let view = self.view();
        if self.deletes_in_memory(&view, false) {
            return true;
        }
        let is_worth_it = view.immutables.is_empty() && self.deletes_in_memory(&view, true);
        if is_worth_it && self.versions.retired().count() + 1 < self.options.memtable_count_max {
            self.rotate(writer);
        }
        is_worth_it
    }

    /// Whether a flush is on its way that lets go of whole segments of the log; one begins if there is none and it would.
    fn shortens_log(&self, writer: &MutexGuard<'_, Pace>) -> bool {
        if self.shortage.has_flush_trouble() {
            return false;
        }
        let view = self.view();
        let frees = |memtable: &Memtable| self.log.frees(memtable.last());
        if view.immutables.iter().any(|memtable| frees(memtable)) {
            return true;
        }
        let is_worth_it = view.immutables.is_empty() && frees(&view.mutable);
        // A reader may still look at one that was flushed: then at the next try.
        if is_worth_it && self.versions.retired().count() + 1 < self.options.memtable_count_max {
            self.rotate(writer);
        }
        is_worth_it
    }

    /// Whether background work is about to give space back: files that nobody needs any more go, a memtable waits to be flushed
    /// and may be what merges need, or a merge runs. Between two merges nobody knows yet: a delete may be quicker than the one who
    /// looks for the next.
    fn gives_space(&self, view: &View) -> bool {
        let merges = !self.mutable_options.is_paused() && !self.shortage.has_merge_trouble();
        let is_flushing = !self.shortage.has_flush_trouble() && !view.immutables.is_empty();
        self.shelf.obsolete_bytes() > 0 || merges && (is_flushing || !self.shortage.outlook().is_idle)
    }

    fn wait_for_space(&self) -> Error {
        self.space.look_again();
        self.stalls.begin(Cause::Space, true, self.clock.elapsed());
        Error::Busy { cause: Cause::Space, retry_after: RETRY }
    }

    /// Whether a memtable is to be flushed. With `auto_flush=off` only when all that memtables may take together is used.
    fn is_due(&self, memtable: &Memtable) -> bool {
        if self.mutable_options.auto_flush() {
            return memtable.due(&self.options).is_some();
        }
        let bytes = memtable.bytes().max(memtable.log_bytes());
        bytes >= self.options.memtable_bytes * (self.options.memtable_count_max - 1)
    }

    /// Starts a new memtable where a setting that was changed makes that due.
    pub(super) fn make_due(&self) {
        self.make_room(&self.writer.lock());
    }

    /// Starts a new memtable if the mutable one is full and another is free; the view afterwards.
    fn make_room(&self, writer: &MutexGuard<'_, Pace>) -> Arc<View> {
        let view = self.view();
        // A flushed one that a reader is just looking at takes its memory all the same.
        let others = || view.immutables.len() as u64 + self.versions.retired().count();
        if self.is_due(&view.mutable) && others() + 1 < self.options.memtable_count_max {
            self.rotate(writer);
            return self.view();
        }
        view
    }

    /// Makes the mutable memtable immutable, unless it is empty. The writer lock must be held.
    fn rotate(&self, _writer: &MutexGuard<'_, Pace>) {
        if self.versions.rotate() {
            self.bell.ring(Class::Flush);
        }
    }

    /// Makes the mutable memtable immutable whatever its size; the position up to which a flush is then due. That is the end
    /// of the last batch, not of the log: moved values may follow, and no flush ever comes to them.
    pub(super) fn rotate_now(&self) -> Position {
        let writer = self.writer.lock();
        self.rotate(&writer);
        self.view().mutable.first()
    }
}
