//! The conductor of flush work: it looks at the state, lets [`schedule`] decide what comes next, and calls the component whose work it is.

use super::BtreeEngine;
use super::checkpoint::Turn;
use super::page_compression::ReadyPages;
use super::schedule::{self, FlushState, FlushWork};
use crate::engine::{Error, Lsn, Pending, Result, Work as Cost};

/// The part of the state that is needed to carry out the decision.
struct Seen {
    /// Number of commands that waited for a checkpoint. Later ones may have buffered puts of their own.
    asked: usize,
    /// The LSN up to which the running merge applies batches, if one was running.
    target: Option<Lsn>,
    /// The LSN up to which a merge that continues or begins now applies batches.
    until: Lsn,
}

impl BtreeEngine {
    /// Does one unit of flush work.
    pub(super) fn flush(&self) -> Result<Pending> {
        let worked = self.flush_some();
        if self.checkpointer.is_new_trouble(worked.is_err())
            && let Err(error) = &worked
        {
            self.core.record("error", vec![("what", format!("checkpoint: {error}").into())]);
        }
        worked
    }

    fn flush_some(&self) -> Result<Pending> {
        // A thread that has the turn does all the work there is.
        let Some(mut turn) = self.checkpointer.turn() else { return Ok(Pending::Idle) };
        let (work, seen) = self.decide(turn.is_some());
        match work {
            FlushWork::Rest(pending) => return Ok(pending),
            FlushWork::Verify => self.verifier.answer(),
            FlushWork::Advance => self.advance(&mut turn)?,
            FlushWork::Vacuum => self.vacuumer.step()?,
            FlushWork::Retry => self.unreadable.retry(),
            FlushWork::MergeBuffer => self.merge_buffer(&mut turn, &seen)?,
            FlushWork::Checkpoint { reason, is_part: true } => {
                self.merger.aim(seen.target, Some(seen.until));
                self.begin(&mut turn, reason, 0, false)?;
            }
            FlushWork::Checkpoint { reason, is_part: false } => {
                self.merger.aim(seen.target, None);
                self.begin(&mut turn, reason, seen.asked, seen.target.is_some())?;
            }
            FlushWork::Answer => {
                // No merge is needed; a batch that waits for space may be waiting for a vacuum.
                self.merger.aim(seen.target, None);
                let result = self.core.pager.check();
                self.checkpointer.take_asked(seen.asked).into_iter().for_each(|done| done(result.clone()));
                result?;
            }
        }
        Ok(Pending::More)
    }

    /// Decides what comes next; `is_running` says whether a checkpoint is running.
    fn decide(&self, is_running: bool) -> (FlushWork, Seen) {
        let core = &self.core;
        let asked = self.checkpointer.asked();
        let target = self.merger.target();
        let (vacuum, has_room_to_merge) = (|| self.vacuumer.needs(), || self.merger.has_room());
        let (until, state) = {
            let tree = core.tree.read();
            let until = target.unwrap_or_else(|| core.log.end());
            let state = FlushState {
                is_verify_asked: self.verifier.is_asked(),
                is_checkpoint_running: is_running,
                vacuum: &vacuum,
                is_asked: asked > 0,
                is_retry_asked: self.unreadable.is_retry_asked(),
                is_merging: target.is_some(),
                is_dirty: core.is_dirty(&tree),
                is_pressing: self.bounds.is_pressing(&tree),
                is_log_due: self.bounds.is_log_due(&tree),
                age: core.age.dirty_age(core.clock.elapsed()),
                age_max: core.options.checkpoint_age,
                is_much_waiting: self.bounds.is_much_waiting(&tree),
                is_merged: tree.buffer.is_settled(until),
                has_room_to_merge: &has_room_to_merge,
            };
            (until, state)
        };
        // Without the latch, since looking at the disk takes it.
        (schedule::next(&state), Seen { asked, target, until })
    }

    /// Makes a step of the buffer merge, or begins a checkpoint of the pages that it has made dirty.
    fn merge_buffer(&self, turn: &mut Turn<'_>, seen: &Seen) -> Result<()> {
        self.merger.aim(seen.target, Some(seen.until));
        let span = self.core.pager.cpu().span(Cost::Checkpoint);
        let merged = self.merger.step();
        span.end(0);
        match merged {
            Ok(true) => Ok(()),
            Ok(false) => self.begin(turn, "change buffer", 0, false),
            Err(error) => {
                let asked = self.checkpointer.asked();
                let waiters = self.checkpointer.take_asked(asked);
                waiters.into_iter().for_each(|done| done(Err(error.clone())));
                Err(error)
            }
        }
    }

    /// Begins a checkpoint for `reason`, and for the first `asked` commands that wait for one; `merged` if it ends a buffer merge.
    fn begin(&self, turn: &mut Turn<'_>, reason: &'static str, asked: usize, merged: bool) -> Result<()> {
        let waiters = self.checkpointer.take_asked(asked);
        // A vacuum has its own places for pages.
        let together = !self.vacuumer.is_running();
        let mut ready = ReadyPages::default();
        let collected = match together {
            true => self.core.pager.check().and_then(|()| self.collector.collect_some(&mut ready)),
            false => self.core.pager.check(),
        };
        let begun = collected.and_then(|()| {
            self.core.compress_dirty(&mut ready);
            self.checkpointer.freeze(reason, merged, together, ready)
        });
        match begun {
            Ok(mut running) => {
                running.waiters = waiters;
                **turn = Some(running);
                self.advance(turn)
            }
            Err(error) => {
                self.note_want_of_space(&error);
                waiters.into_iter().for_each(|done| done(Err(error.clone())));
                Err(error)
            }
        }
    }

    /// Does the next unit of the running checkpoint.
    fn advance(&self, turn: &mut Turn<'_>) -> Result<()> {
        let Some(running) = turn.as_mut() else { return Ok(()) };
        let pager = &self.core.pager;
        let (span, before) = (pager.cpu().span(Cost::Checkpoint), pager.checkpoint_bytes());
        let advanced = self.checkpointer.advance(running);
        span.end(pager.checkpoint_bytes() - before);
        match advanced {
            Ok(false) => {}
            Ok(true) => {
                self.core.failure.clear();
                let waiters = turn.take().map(|running| running.waiters).unwrap_or_default();
                waiters.into_iter().for_each(|done| done(Ok(())));
            }
            Err(error) => {
                // The checkpoint stays and is tried again; commands that wait for it get the error now.
                self.note_want_of_space(&error);
                let waiters = std::mem::take(&mut running.waiters);
                waiters.into_iter().for_each(|done| done(Err(error.clone())));
                return Err(error);
            }
        }
        Ok(())
    }

    fn note_want_of_space(&self, error: &Error) {
        if matches!(error, Error::NoSpace) {
            self.core.failure.note(error, self.core.guard.free_bytes());
        }
    }
}
