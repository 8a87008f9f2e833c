//! When there is flush work, and which: verification, compaction, sweeps of the change buffer, checkpoints.
//!
//! 1. A checkpoint on its way goes first, step by step.
//! 2. Else a compaction makes a step, unless it or anything else wants a checkpoint.
//! 3. A checkpoint is due when it is asked for, when pages or values press, by age, and by log bytes. If it is asked for or by age, it
//!    must bring what waits in the buffer, too: then sweeps come first, with checkpoints between them whenever they have
//!    made enough pages dirty.

use std::sync::atomic::Ordering::Relaxed;

use super::compact::Compaction;
use super::{BtreeEngine, UNIT_BYTES, buffer};
use crate::engine::{Error, Pending, Result, Work};

impl BtreeEngine {
    /// Whether a checkpoint is due now, or else when.
    fn due(&self) -> Pending {
        if !self.commands.lock().checkpoint.is_empty() || self.target.lock().is_some() {
            return Pending::More;
        }
        if !self.is_dirty() {
            return Pending::Idle;
        }
        let age = self.dirty_age();
        if self.is_pressing() || self.is_log_due() || age >= self.options.checkpoint_age {
            return Pending::More;
        }
        Pending::After(self.options.checkpoint_age - age)
    }

    /// Whether the next checkpoint must bring what waits in the buffer, too.
    fn is_due_for_all(&self) -> bool {
        !self.commands.lock().checkpoint.is_empty() || self.dirty_age() >= self.options.checkpoint_age
    }

    /// Whether a checkpoint would change the durable state.
    pub(super) fn is_dirty(&self) -> bool {
        self.log_bytes() > 0 || self.tree.read().active_bytes() > 0
    }

    /// Whether so much is dirty that a checkpoint should begin: three quarters of the bound if it is pages, half if it is values,
    /// the share of the buffer that begins a sweep.
    pub(super) fn is_pressing(&self) -> bool {
        let (tree, bytes_max) = (self.tree.read(), self.options.dirty_bytes_max);
        // What is set aside is no work.
        let room_bytes = bytes_max.saturating_sub(tree.buffer.aside.bytes());
        (tree.pressing_bytes() + tree.buffer.bytes()) * 4 >= room_bytes * 3 || self.is_much_waiting(&tree)
    }

    /// One unit of checkpoint work.
    pub(super) fn flush(&self) -> Result<Pending> {
        // Another thread at it does all there is.
        let Some(mut job) = self.job.try_lock() else { return Ok(Pending::Idle) };
        let verify = std::mem::take(&mut self.commands.lock().verify);
        if !verify.is_empty() {
            let result = self.verify();
            verify.into_iter().for_each(|done| done(result.clone()));
            return Ok(Pending::More);
        }
        if job.is_none() {
            let mut forced = false;
            // A sweep ends with the checkpoint it is for.
            let is_sweeping = self.target.lock().is_some();
            if !is_sweeping && self.step_compaction(&mut forced)? && !forced {
                return Ok(Pending::More);
            }
            let due = self.due();
            if due != Pending::More && !forced {
                return Ok(due);
            }
            if self.is_retry_asked.swap(false, Relaxed) {
                self.retry_aside();
            }
            // Those who ask from here on may have waiting puts of their own.
            let asked = self.commands.lock().checkpoint.len();
            let is_part = self.must_sweep(forced || self.is_due_for_all());
            let pages_max = buffer::share(self.options.dirty_bytes_max, buffer::PAGES_SHARE);
            let active_bytes = self.tree.read().active_bytes();
            // Pages that a sweep changes need copies in the log.
            let frees_log = self.is_log_near() && (active_bytes > 0 || self.is_again_worth_it());
            let lacks_room = || active_bytes > 0 && self.lacks_room_for_copies(self.sweep_pages_max());
            let is_room = active_bytes < pages_max && !frees_log && !lacks_room();
            if is_part && is_room {
                let span = self.pager.cpu().span(Work::Checkpoint);
                let swept = self.sweep_some();
                span.end(0);
                match swept {
                    Ok(true) => return Ok(Pending::More),
                    Ok(false) => {}
                    Err(error) => {
                        let waiters = std::mem::take(&mut self.commands.lock().checkpoint);
                        waiters.into_iter().for_each(|done| done(Err(error.clone())));
                        return Err(error);
                    }
                }
            }
            let mut waiters = match is_part {
                true => Vec::new(),
                false => self.commands.lock().checkpoint.drain(..asked).collect(),
            };
            let reason = match () {
                () if is_part => "change buffer",
                () if forced => "compaction",
                () if !waiters.is_empty() => "command",
                () if self.is_pressing() => "dirty pages",
                () if self.is_log_due() => "log",
                () => "age",
            };
            let begun = self.check().and_then(|()| match self.is_dirty() || forced {
                false => Ok(None),
                true => self.freeze(reason, &mut waiters, is_sweeping && !is_part).map(Some),
            });
            if matches!(begun, Ok(None)) {
                // There is nothing to sweep for: who waits for space may be waiting for a compaction.
                *self.target.lock() = None;
            }
            match begun {
                Ok(begun) => *job = begun,
                Err(error) => {
                    self.note_want_of_space(&error);
                    waiters.into_iter().for_each(|done| done(Err(error.clone())));
                    return Err(error);
                }
            }
            waiters.into_iter().for_each(|done| done(Ok(())));
        }
        let Some(running) = job.as_mut() else { return Ok(Pending::More) };
        let (span, before) = (self.pager.cpu().span(Work::Checkpoint), self.pager.checkpoint_bytes());
        let advanced = self.advance(running);
        span.end(self.pager.checkpoint_bytes() - before);
        match advanced {
            Ok(false) => {}
            Ok(true) => {
                self.note(None);
                let waiters = job.take().map(|job| job.waiters).unwrap_or_default();
                waiters.into_iter().for_each(|done| done(Ok(())));
            }
            Err(error) => {
                // The job stays and is tried again; who waits for it learns of the error now.
                self.note_want_of_space(&error);
                let waiters = std::mem::take(&mut running.waiters);
                waiters.into_iter().for_each(|done| done(Err(error.clone())));
                return Err(error);
            }
        }
        Ok(Pending::More)
    }

    fn note_want_of_space(&self, error: &Error) {
        if matches!(error, Error::NoSpace) {
            self.note(Some(error));
        }
    }

    /// One step of a compaction, if one was asked for; whether there was one. It ends with its first error.
    fn step_compaction(&self, checkpoint: &mut bool) -> Result<bool> {
        let mut running = self.compaction.lock();
        if running.is_none() {
            let waiters = std::mem::take(&mut self.commands.lock().compact);
            if waiters.is_empty() {
                return Ok(false);
            }
            let (end, tail) = {
                let tree = self.tree.read();
                (tree.space.end(), tree.space.tail_units())
            };
            let (end_bytes, file_bytes) = (end * UNIT_BYTES, (end + tail) * UNIT_BYTES);
            *running = Some(Compaction::new(waiters, self.clock.elapsed(), end_bytes, file_bytes));
        }
        let Some(mut compaction) = running.take() else { return Ok(false) };
        match self.compact(&mut compaction, checkpoint) {
            Ok(true) => *running = Some(compaction),
            Ok(false) => {
                let fields = self.describe_compaction(&compaction);
                self.journal.record(self.clock.now(), "compact", fields);
                self.note_compacted();
                compaction.end(Ok(()));
            }
            Err(error) => {
                self.end_withholding();
                self.note_compacted();
                compaction.end(Err(error.clone()));
                return Err(error);
            }
        }
        Ok(true)
    }
}
