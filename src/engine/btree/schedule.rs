//! When there is flush work, and which: verification, compaction, sweeps of the change buffer, checkpoints.
//!
//! 1. A checkpoint on its way goes first, step by step.
//! 2. Else a compaction makes a step, unless it or anything else wants a checkpoint.
//! 3. A checkpoint is due when it is asked for, when pages or values press, by age, and by log bytes. If it is asked for or by age, it
//!    must bring what waits in the buffer, too: then sweeps come first, with checkpoints between them whenever they have
//!    made enough pages dirty.
//!
//! What is decided is decided by two pure functions, [`due`] and [`plan`]; the engine says what they see, and does as they say.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::compact::Compaction;
use super::{BtreeEngine, UNIT_BYTES, buffer};
use crate::engine::{Error, Pending, Result, Work};

/// What speaks for a checkpoint.
#[derive(Clone, Copy, Debug, Default)]
struct Demand {
    /// Commands wait for one.
    is_asked: bool,
    /// A compaction needs one before it goes on.
    is_forced: bool,
    /// A sweep is on its way, for the checkpoint that comes after it.
    is_sweeping: bool,
    /// One would change the durable state.
    is_dirty: bool,
    /// So much is dirty that one should begin.
    is_pressing: bool,
    /// The log is as long as it may be, or a batch waits until it is shorter.
    is_log_due: bool,
    /// Age of the oldest change that no checkpoint has taken up.
    age: Duration,
    /// The age at which one comes by itself.
    age_max: Duration,
}

impl Demand {
    /// Whether the next checkpoint must bring what waits in the buffer, too.
    fn is_for_all(&self) -> bool {
        self.is_forced || self.is_asked || self.age >= self.age_max
    }
}

/// What waits in the change buffer.
#[derive(Clone, Copy, Debug, Default)]
struct Waiting {
    /// So much that it should come into pages.
    is_much: bool,
    /// Nothing of what a sweep that begins now, or is on its way, is for.
    is_settled: bool,
}

/// What is to be done next where no checkpoint runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Plan {
    /// A step of a sweep.
    Sweep,
    /// A checkpoint.
    Checkpoint {
        /// Why, for the journal.
        reason: &'static str,
        /// It only takes up what the sweep has made dirty so far; the sweep goes on after it, and who waits goes on waiting.
        is_part: bool,
    },
}

/// Whether a checkpoint is due now, or else when.
fn due(demand: &Demand) -> Pending {
    if demand.is_forced || demand.is_asked || demand.is_sweeping {
        return Pending::More;
    }
    if !demand.is_dirty {
        return Pending::Idle;
    }
    if demand.is_pressing || demand.is_log_due || demand.age >= demand.age_max {
        return Pending::More;
    }
    Pending::After(demand.age_max - demand.age)
}

/// What is to be done now that a checkpoint is due; `has_room` is whether a sweep may make more pages dirty, and is only asked where that
/// matters.
fn plan(demand: &Demand, waiting: &Waiting, has_room: impl FnOnce() -> bool) -> Plan {
    let is_part = is_part(demand, waiting);
    if is_part && has_room() {
        return Plan::Sweep;
    }
    let reason = match () {
        () if is_part => "change buffer",
        () if demand.is_forced => "compaction",
        () if demand.is_asked => "command",
        () if demand.is_pressing => "dirty pages",
        () if demand.is_log_due => "log",
        () => "age",
    };
    Plan::Checkpoint { reason, is_part }
}

/// Whether a sweep is to go on, or to begin.
fn is_part(demand: &Demand, waiting: &Waiting) -> bool {
    (demand.is_sweeping || demand.is_for_all() || waiting.is_much) && !waiting.is_settled
}

impl BtreeEngine {
    /// What speaks for a checkpoint now.
    fn demand(&self, is_forced: bool) -> Demand {
        Demand {
            is_asked: !self.commands.lock().checkpoint.is_empty(),
            is_forced,
            is_sweeping: self.target.lock().is_some(),
            is_dirty: self.is_dirty(),
            is_pressing: self.is_pressing(),
            is_log_due: self.is_log_due(),
            age: self.dirty_age(),
            age_max: self.options.checkpoint_age,
        }
    }

    /// Begins a sweep, lets it go on or ends it, as `demand` and what waits in the buffer want it; both, as they were then.
    fn aim_sweep(&self, demand: Demand) -> (Demand, Waiting) {
        let tree = self.tree.read();
        // Held until it is decided: others ask for sweeps, too.
        let mut target = self.target.lock();
        let until = target.unwrap_or_else(|| self.log.end());
        let waiting =
            Waiting { is_much: self.is_much_waiting(&tree), is_settled: tree.buffer.is_settled(until) };
        let demand = Demand { is_sweeping: target.is_some(), ..demand };
        *target = is_part(&demand, &waiting).then_some(until);
        (demand, waiting)
    }

    /// Whether a sweep may make more pages dirty before the next checkpoint.
    fn has_room_to_sweep(&self) -> bool {
        let pages_max = buffer::share(self.options.dirty_bytes_max, buffer::PAGES_SHARE);
        let active_bytes = self.tree.read().active_bytes();
        // Pages that a sweep changes need copies in the log.
        let frees_log = self.is_log_near() && (active_bytes > 0 || self.is_again_worth_it());
        let lacks_room = || active_bytes > 0 && self.lacks_room_for_copies(self.sweep_pages_max());
        active_bytes < pages_max && !frees_log && !lacks_room()
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
            let due = due(&self.demand(forced));
            if due != Pending::More {
                return Ok(due);
            }
            if self.is_retry_asked.swap(false, Relaxed) {
                self.retry_aside();
            }
            // Those who ask from here on may have waiting puts of their own.
            let asked = self.commands.lock().checkpoint.len();
            let (demand, waiting) = self.aim_sweep(Demand { is_asked: asked > 0, ..self.demand(forced) });
            let (reason, is_part) = match plan(&demand, &waiting, || self.has_room_to_sweep()) {
                Plan::Checkpoint { reason, is_part } => (reason, is_part),
                Plan::Sweep => {
                    let span = self.pager.cpu().span(Work::Checkpoint);
                    let swept = self.sweep_some();
                    span.end(0);
                    match swept {
                        Ok(true) => return Ok(Pending::More),
                        Ok(false) => ("change buffer", true),
                        Err(error) => {
                            let waiters = std::mem::take(&mut self.commands.lock().checkpoint);
                            waiters.into_iter().for_each(|done| done(Err(error.clone())));
                            return Err(error);
                        }
                    }
                }
            };
            let mut waiters = match is_part {
                true => Vec::new(),
                false => self.commands.lock().checkpoint.drain(..asked).collect(),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens: words for what is so, and an arrow to what is done.
    const CASES: &str = "
        -> idle
        dirty -> in 7s
        dirty old -> checkpoint age
        old -> idle
        dirty pressing -> checkpoint dirty pages
        dirty log -> checkpoint log
        dirty pressing log old -> checkpoint dirty pages
        asked -> checkpoint command
        forced -> checkpoint compaction
        forced asked dirty -> checkpoint compaction
        waiting dirty -> in 7s
        waiting dirty old -> sweep
        waiting asked -> sweep
        waiting forced -> sweep
        waiting much dirty pressing -> sweep
        waiting dirty pressing -> checkpoint dirty pages
        waiting dirty log -> checkpoint log
        waiting asked full -> checkpoint change buffer, the sweep goes on
        sweeping waiting -> sweep
        sweeping waiting full -> checkpoint change buffer, the sweep goes on
        sweeping -> checkpoint age
        sweeping asked dirty -> checkpoint command
    ";

    #[test]
    fn what_is_done_next() {
        for case in CASES.lines().map(str::trim).filter(|case| !case.is_empty()) {
            let (words, expected) = case.split_once("->").unwrap();
            let has = |word: &str| words.split_whitespace().any(|it| it == word);
            let known = "asked forced sweeping dirty pressing log old waiting much full";
            assert!(words.split_whitespace().all(|word| known.split(' ').any(|it| it == word)), "{case}");
            let demand = Demand {
                is_asked: has("asked"),
                is_forced: has("forced"),
                is_sweeping: has("sweeping"),
                is_dirty: has("dirty"),
                is_pressing: has("pressing"),
                is_log_due: has("log"),
                age: Duration::from_secs(if has("old") { 10 } else { 3 }),
                age_max: Duration::from_secs(10),
            };
            let waiting = Waiting { is_much: has("much"), is_settled: !has("waiting") };
            let done = match due(&demand) {
                Pending::Idle => "idle".to_string(),
                Pending::After(rest) => format!("in {}s", rest.as_secs()),
                Pending::More => match plan(&demand, &waiting, || !has("full")) {
                    Plan::Sweep => "sweep".to_string(),
                    Plan::Checkpoint { reason, is_part: false } => format!("checkpoint {reason}"),
                    Plan::Checkpoint { reason, is_part: true } => {
                        format!("checkpoint {reason}, the sweep goes on")
                    }
                },
            };
            assert_eq!(done, expected.trim(), "{case}");
        }
    }
}
