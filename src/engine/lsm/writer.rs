//! The path of a batch: limits, space, log, memtable; and the change from a full memtable to a new one.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::core::Core;
use super::deleted_ranges::DeletedRanges;
use super::memtable::Memtable;
use super::shortage::RECORDS_BYTES;
use super::stall::{Load, Pace, Pressure, pressure};
use super::version::Superversion;
use super::version_set::VersionSet;
use crate::disk::Purpose;
use crate::engine::wal::{self, Log};
use crate::engine::{Batch, Cause, Error, Lsn, Pending, Result, SpaceClaim, WorkClass};

/// Time after which a stopped batch may ask again, should no signal come before.
const RETRY: Duration = Duration::from_millis(50);

/// Time after which to look again whether deletes have come to an end.
const DELETES_AGAIN: Duration = Duration::from_secs(1);

/// Bytes that a short segment of the log takes for a batch.
fn log_need_bytes(batch: &Batch) -> u64 {
    batch.encoded_bytes_max() as u64 + 2 * RECORDS_BYTES
}

/// Takes the batches. One at a time holds its lock, for memory and one write to the log.
pub struct Writer {
    core: Arc<Core>,
    versions: Arc<VersionSet>,
    /// Ranges of deleted keys that scans have proven; each batch changes them.
    deleted_ranges: Arc<DeletedRanges>,
    log: Arc<Log>,
    /// Held by the one who applies a batch.
    pace: Mutex<Pace>,
}

impl Writer {
    /// The writer of the store whose versions are `versions`, to `log`.
    pub fn new(
        core: Arc<Core>,
        versions: Arc<VersionSet>,
        deleted_ranges: Arc<DeletedRanges>,
        log: Arc<Log>,
    ) -> Writer {
        Writer { core, versions, deleted_ranges, log, pace: Mutex::default() }
    }

    /// Applies a batch; the LSN behind it.
    pub fn apply(&self, batch: &Batch) -> Result<Lsn> {
        if batch.is_empty() {
            return Ok(self.log.end());
        }
        batch.check()?;
        let mut pace = self.pace.lock();
        let superversion = self.make_room(&pace);
        let full = self.is_due(&superversion.mutable);
        let rate = self
            .admit(&pace, &superversion, full, batch.uses_reserve)
            .map_err(|error| self.refused(error, batch))?;
        self.admit_space(&pace, batch, &superversion).map_err(|error| self.refused(error, batch))?;
        let threshold = self.core.options.value_log_threshold();
        let is_separate = |value: &bytes::Bytes| threshold.is_some_and(|least| value.len() as u64 >= least);
        let has_separate = batch.operations().iter().filter_map(|it| it.value()).any(is_separate);
        let purpose = if has_separate { Purpose::ValueLog } else { Purpose::Wal };
        let append = || self.log.append_batch(wal::FIRST_KIND, purpose, batch);
        let lsn = match append() {
            Err(Error::NoSpace) if self.shortens_log(&pace) => return Err(self.wait_for_space()),
            Err(Error::NoSpace) if batch.uses_reserve && self.gives_space(&superversion) => {
                return Err(self.wait_for_space());
            }
            Err(Error::NoSpace)
                if batch.uses_reserve && self.core.space.guard.give_ballast(log_need_bytes(batch)) =>
            {
                append().map_err(|error| self.refused(error, batch))?
            }
            appended => appended.map_err(|error| self.refused(error, batch))?,
        };
        superversion.mutable.apply(batch, lsn, threshold);
        // Still under the writer's lock: in the order of batches.
        self.deleted_ranges.change(batch);
        if batch.uses_reserve {
            self.core.space.note_deletes();
        }
        if let Some(rate) = rate {
            pace.pass(self.core.clock.elapsed(), batch.bytes(), rate);
        }
        // Now rather than with the next batch, which may be long in coming.
        drop(superversion);
        self.make_room(&pace);
        drop(pace);
        self.core.stalls.end(|| self.core.clock.elapsed());
        Ok(lsn)
    }

    /// Whether a batch may come in now, and at which rate if that is limited.
    fn admit(
        &self,
        pace: &Pace,
        superversion: &Superversion,
        memtables_full: bool,
        uses_reserve: bool,
    ) -> Result<Option<f64>> {
        let version = &superversion.version;
        let load = Load {
            memtables_full,
            l0_files: version.counted().l0_files,
            pending_bytes: version.counted().pending_bytes,
            merges_help: self.core.mutable_options.limits_off(version.lowers_l0).is_none(),
        };
        let (cause, is_stop, retry_after) = match pressure(load, &self.core.options) {
            Pressure::Free => return Ok(None),
            Pressure::Stop { cause } => {
                // Waiting is no use while the work that would end it fails: the caller gets its error.
                self.core.space.forget_troubles();
                let troubles = self.core.space.shortage.troubles();
                let trouble = if cause == Cause::Memtables { troubles.flush } else { troubles.merge };
                match trouble.map(|trouble| trouble.error) {
                    // What gives space back is only held to the space that there is.
                    Some(Error::NoSpace) if uses_reserve && cause != Cause::Memtables => return Ok(None),
                    // A merge has taken the space that the flush needs, and gives it back.
                    Some(Error::NoSpace) if uses_reserve && self.gives_space(superversion) => {
                        (cause, true, RETRY)
                    }
                    Some(error) => return Err(error),
                    None => (cause, true, RETRY),
                }
            }
            // Nor is slowing down.
            Pressure::Slow { .. } if self.core.space.shortage.has_merge_trouble() => return Ok(None),
            Pressure::Slow { cause, rate } => match pace.wait(self.core.clock.elapsed()) {
                None => return Ok(Some(rate)),
                Some(wait) => (cause, false, wait),
            },
        };
        self.core.stalls.begin(cause, is_stop, self.core.clock.elapsed());
        Err(Error::Busy { cause, retry_after })
    }

    /// Whether there is space for a batch beside what flushes and running compactions still have to write. If not, free segments of the
    /// log are removed, and a flush begins if that frees more of them. A batch waits for that, for files that are about to be removed, and
    /// for running compactions after which it would fit.
    fn admit_space(
        &self,
        writer: &MutexGuard<'_, Pace>,
        batch: &Batch,
        superversion: &Superversion,
    ) -> Result<()> {
        let (bytes, flush_bytes) = (batch.bytes(), superversion.flush_bytes());
        let owed_bytes = flush_bytes + self.core.space.merge_owed_bytes();
        let claim = if batch.uses_reserve { SpaceClaim::Release } else { SpaceClaim::Growth };
        let admit = || self.core.space.guard.admit(bytes, owed_bytes, claim);
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
                self.core.space.shortage.note_room();
            }
            return result;
        }
        if self.shortens_log(writer) || self.brings_deletes_down(writer) {
            return Err(self.wait_for_space());
        }
        let gives_space = self.gives_space(superversion);
        // One that has just begun has taken nothing yet.
        let is_running = self.core.space.merge_owed_bytes() > 0 || self.core.space.temporary_bytes() > 0;
        let fits_after = || {
            is_running && self.core.space.guard.fits(bytes, flush_bytes, self.core.space.temporary_bytes())
        };
        let comes = || {
            self.core.table_store.obsolete_bytes() > 0
                || !self.core.space.shortage.outlook().is_exhausted
                || fits_after()
        };
        if gives_space && (batch.uses_reserve || comes()) {
            return Err(self.wait_for_space());
        }
        // What was given up for a merge that had no use for it is set aside again, before others take it.
        if batch.uses_reserve && !is_running {
            self.core.space.keep_ballast(&superversion.version);
        }
        // The log takes it, and the flush that comes next makes up for it.
        if batch.uses_reserve && self.core.space.guard.ballast_bytes() >= log_need_bytes(batch) {
            return Ok(());
        }
        // What was on its way when it was refused may have come before it was looked for.
        admit()
    }

    /// The answer to a batch that failed with `error`. Before the first batch hears that there is no space, compaction looks for tables to
    /// clean; if it finds none, the next batch hears so.
    fn refused(&self, error: Error, batch: &Batch) -> Error {
        let Error::NoSpace = error else { return error };
        let is_first = self.core.space.want_space();
        let switches = &self.core.mutable_options;
        if is_first && !switches.is_paused() && switches.auto_compact() || batch.awaits_space {
            return self.wait_for_space();
        }
        error
    }

    /// Whether a flush is on its way after which much can be cleaned; one begins if there is none and that is so.
    fn brings_deletes_down(&self, writer: &MutexGuard<'_, Pace>) -> bool {
        if self.core.space.shortage.has_flush_trouble() {
            return false;
        }
        let superversion = self.versions.superversion();
        if self.core.space.deletes_in_memory(&superversion, false) {
            return true;
        }
        let is_worth_it =
            superversion.immutables.is_empty() && self.core.space.deletes_in_memory(&superversion, true);
        if is_worth_it && self.versions.retired().count() + 1 < self.core.options.memtable_count_max {
            self.rotate(writer);
        }
        is_worth_it
    }

    /// Whether a flush is on its way that lets go of whole segments of the log; one begins if there is none and it would.
    fn shortens_log(&self, writer: &MutexGuard<'_, Pace>) -> bool {
        if self.core.space.shortage.has_flush_trouble() {
            return false;
        }
        let superversion = self.versions.superversion();
        let frees = |memtable: &Memtable| self.log.frees(memtable.last());
        if superversion.immutables.iter().any(|memtable| frees(memtable)) {
            return true;
        }
        let is_worth_it = superversion.immutables.is_empty() && frees(&superversion.mutable);
        // A reader may still look at one that was flushed: then at the next try.
        if is_worth_it && self.versions.retired().count() + 1 < self.core.options.memtable_count_max {
            self.rotate(writer);
        }
        is_worth_it
    }

    /// Whether background work is about to give space back: files that nobody needs any more go, a memtable waits to be flushed
    /// and may be what merges need, or a merge runs. Between two merges nobody knows yet: a delete may be quicker than the one who
    /// looks for the next.
    fn gives_space(&self, superversion: &Superversion) -> bool {
        let merges = !self.core.mutable_options.is_paused() && !self.core.space.shortage.has_merge_trouble();
        let is_flushing =
            !self.core.space.shortage.has_flush_trouble() && !superversion.immutables.is_empty();
        self.core.table_store.obsolete_bytes() > 0
            || merges && (is_flushing || !self.core.space.shortage.outlook().is_idle)
    }

    fn wait_for_space(&self) -> Error {
        self.core.space.guard.look_again();
        self.core.stalls.begin(Cause::Space, true, self.core.clock.elapsed());
        Error::Busy { cause: Cause::Space, retry_after: RETRY }
    }

    /// Whether a memtable is to be flushed. With `auto_flush=off` only when all that memtables may take together is used.
    fn is_due(&self, memtable: &Memtable) -> bool {
        if self.core.mutable_options.auto_flush() {
            return memtable.due(&self.core.options).is_some();
        }
        let bytes = memtable.bytes().max(memtable.log_bytes());
        bytes >= self.core.options.memtable_bytes * (self.core.options.memtable_count_max - 1)
    }

    /// Starts a new memtable where a setting that was changed makes that due.
    pub fn make_due(&self) {
        self.make_room(&self.pace.lock());
    }

    /// Starts a new memtable if the mutable one is full and another is free; the superversion afterwards.
    fn make_room(&self, writer: &MutexGuard<'_, Pace>) -> Arc<Superversion> {
        let superversion = self.versions.superversion();
        // A flushed one that a reader is just looking at takes its memory all the same.
        let others = || superversion.immutables.len() as u64 + self.versions.retired().count();
        if self.is_due(&superversion.mutable) && others() + 1 < self.core.options.memtable_count_max {
            self.rotate(writer);
            return self.versions.superversion();
        }
        superversion
    }

    /// Makes the mutable memtable immutable, unless it is empty. The writer lock must be held.
    fn rotate(&self, _writer: &MutexGuard<'_, Pace>) {
        if self.versions.rotate() {
            self.core.wake_signal.notify(WorkClass::Flush);
        }
    }

    /// Makes the mutable memtable immutable whatever its size; the LSN up to which a flush is then due. That is the end
    /// of the last batch, not of the log: moved values may follow, and no flush ever comes to them.
    pub fn rotate_now(&self) -> Lsn {
        let writer = self.pace.lock();
        self.rotate(&writer);
        self.versions.superversion().mutable.first()
    }
    /// Has a memtable flushed to which no more deletes come, if they give much back and more is deleted than is free. Returns when to
    /// look again.
    pub fn flush_last_deletes(&self) -> Pending {
        let (superversion, space) = (self.versions.superversion(), &self.core.space);
        let tombstones = superversion.mutable.tombstones();
        match space.shortage.deletes_have_ended(tombstones) {
            None => return Pending::Idle,
            Some(false) => return Pending::After(DELETES_AGAIN),
            Some(true) => {}
        }
        if space.deletes_in_memory(&superversion, true)
            && space.is_more_deleted_than_free(&superversion.version, tombstones)
        {
            self.rotate_now();
        }
        Pending::Idle
    }
}
