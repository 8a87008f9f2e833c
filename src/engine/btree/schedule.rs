//! What flush work is done next: verification, checkpoints, compaction, sweeps of the change buffer.
//!
//! 1. Who waits for a verification gets it.
//! 2. A checkpoint on its way goes on, step by step.
//! 3. Else a compaction makes a step, unless it needs a checkpoint first, or a sweep is on its way for one.
//! 4. A checkpoint is due when it is asked for, when pages or values press, by age, and by log bytes. If it is asked for or by age, it
//!    must bring what waits in the buffer, too: then sweeps come first, with checkpoints between them whenever they have
//!    made enough pages dirty.
//!
//! All of that is decided in one place, by [`next`], which is a pure function. The engine says what the state is, and has its
//! components do what is decided.

use std::time::Duration;

use crate::engine::Pending;

/// What a compaction needs to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wants {
    /// There is none, and nobody waits for one.
    Nothing,
    /// Its next step.
    Step,
    /// A checkpoint before that.
    Checkpoint,
}

/// What there is to decide about, at one moment: a field for each thing that counts, which all are read together.
pub struct State<'a> {
    /// Commands wait for a verification.
    pub is_verify_asked: bool,
    /// A checkpoint is on its way.
    pub is_checkpoint_running: bool,
    /// What a compaction needs to go on. It is asked only where nothing goes first, since it looks at the disk.
    pub compaction: &'a dyn Fn() -> Wants,
    /// Commands wait for a checkpoint.
    pub is_asked: bool,
    /// And what could not be read is to be tried again first.
    pub is_retry_asked: bool,
    /// A sweep is on its way, for the checkpoint that comes after it.
    pub is_sweeping: bool,
    /// A checkpoint would change the durable state.
    pub is_dirty: bool,
    /// So much is dirty that one should begin.
    pub is_pressing: bool,
    /// The log is as long as it may be, or a batch waits until it is shorter.
    pub is_log_due: bool,
    /// Age of the oldest change that no checkpoint has taken up.
    pub age: Duration,
    /// The age at which one comes by itself.
    pub age_max: Duration,
    /// So much waits in the change buffer that it should come into pages.
    pub is_much_waiting: bool,
    /// Nothing waits there of what a sweep that begins now, or is on its way, is for.
    pub is_swept: bool,
    /// Whether a sweep may make more pages dirty; asked only where that matters, since it looks at the disk, too.
    pub has_room_to_sweep: &'a dyn Fn() -> bool,
}

/// What is done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Nothing: until there is a signal, or until then.
    Rest(Pending),
    /// A verification.
    Verify,
    /// The next unit of the checkpoint on its way.
    Advance,
    /// A step of a compaction.
    Compact,
    /// What could not be read is tried again.
    Retry,
    /// A step of a sweep, which goes on or begins.
    Sweep,
    /// A checkpoint begins.
    Checkpoint {
        /// Why, for the event log.
        reason: &'static str,
        /// It only takes up what the sweep has made dirty so far; the sweep goes on after it, and who waits goes on waiting.
        is_part: bool,
    },
    /// Nothing is to be brought home: who waits for that is told so.
    Answer,
}

/// The decision.
pub fn next(state: &State<'_>) -> Work {
    if state.is_verify_asked {
        return Work::Verify;
    }
    if state.is_checkpoint_running {
        return Work::Advance;
    }
    // A sweep ends with the checkpoint it is for.
    let is_forced = !state.is_sweeping
        && match (state.compaction)() {
            Wants::Step => return Work::Compact,
            Wants::Checkpoint => true,
            Wants::Nothing => false,
        };
    let is_old = state.age >= state.age_max;
    if !(is_forced || state.is_asked || state.is_sweeping) {
        if !state.is_dirty {
            return Work::Rest(Pending::Idle);
        }
        if !(state.is_pressing || state.is_log_due || is_old) {
            return Work::Rest(Pending::After(state.age_max - state.age));
        }
    }
    if state.is_retry_asked {
        return Work::Retry;
    }
    // It must bring what waits in the buffer, too.
    let is_for_all = is_forced || state.is_asked || is_old;
    let is_part = (state.is_sweeping || is_for_all || state.is_much_waiting) && !state.is_swept;
    if is_part && (state.has_room_to_sweep)() {
        return Work::Sweep;
    }
    let reason = match () {
        () if is_part => "change buffer",
        () if is_forced => "compaction",
        () if !state.is_dirty => return Work::Answer,
        () if state.is_asked => "command",
        () if state.is_pressing => "dirty pages",
        () if state.is_log_due => "log",
        () => "age",
    };
    Work::Checkpoint { reason, is_part }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What happens: words for what is so, and an arrow to what is done.
    const CASES: &str = "
        -> rest
        dirty -> rest for 7s
        dirty old -> checkpoint age
        old -> rest
        dirty pressing -> checkpoint dirty pages
        dirty log -> checkpoint log
        dirty pressing log old -> checkpoint dirty pages
        asked -> answer
        asked dirty -> checkpoint command
        asked retry -> retry
        dirty retry -> rest for 7s
        dirty old retry -> retry
        waiting dirty -> rest for 7s
        waiting dirty old -> sweep
        waiting asked -> sweep
        waiting much dirty pressing -> sweep
        waiting dirty pressing -> checkpoint dirty pages
        waiting dirty log -> checkpoint log
        waiting asked full -> checkpoint change buffer, the sweep goes on
        sweeping waiting -> sweep
        sweeping waiting full -> checkpoint change buffer, the sweep goes on
        sweeping -> answer
        sweeping dirty -> checkpoint age
        sweeping asked dirty -> checkpoint command
        step -> compact
        step asked dirty pressing -> compact
        forced -> checkpoint compaction
        forced asked dirty -> checkpoint compaction
        waiting forced -> sweep
        waiting forced full -> checkpoint change buffer, the sweep goes on
        sweeping waiting step -> sweep
        sweeping dirty step -> checkpoint age
        running step asked waiting dirty pressing -> advance
        verify running step asked dirty -> verify
    ";
    const WORDS: &str =
        "verify running step forced asked retry sweeping dirty pressing log old waiting much full";

    #[test]
    fn what_is_done_next() {
        for case in CASES.lines().map(str::trim).filter(|case| !case.is_empty()) {
            let (words, expected) = case.split_once("->").unwrap();
            let has = |word: &str| words.split_whitespace().any(|it| it == word);
            let is_known = |word: &str| WORDS.split(' ').any(|it| it == word);
            assert!(words.split_whitespace().all(is_known), "{case}");
            let compaction = || match () {
                () if has("step") => Wants::Step,
                () if has("forced") => Wants::Checkpoint,
                () => Wants::Nothing,
            };
            let work = next(&State {
                is_verify_asked: has("verify"),
                is_checkpoint_running: has("running"),
                compaction: &compaction,
                is_asked: has("asked"),
                is_retry_asked: has("retry"),
                is_sweeping: has("sweeping"),
                is_dirty: has("dirty"),
                is_pressing: has("pressing"),
                is_log_due: has("log"),
                age: Duration::from_secs(if has("old") { 10 } else { 3 }),
                age_max: Duration::from_secs(10),
                is_much_waiting: has("much"),
                is_swept: !has("waiting"),
                has_room_to_sweep: &|| !has("full"),
            });
            let done = match work {
                Work::Rest(Pending::After(rest)) => format!("rest for {}s", rest.as_secs()),
                Work::Rest(_) => "rest".to_string(),
                Work::Checkpoint { reason, is_part: false } => format!("checkpoint {reason}"),
                Work::Checkpoint { reason, is_part: true } => {
                    format!("checkpoint {reason}, the sweep goes on")
                }
                other => format!("{other:?}").to_lowercase(),
            };
            assert_eq!(done, expected.trim(), "{case}");
        }
    }

    #[test]
    fn the_disk_is_asked_only_where_it_matters() {
        let never = || -> Wants { panic!("asked") };
        let state = State {
            is_verify_asked: false,
            is_checkpoint_running: true,
            compaction: &never,
            is_asked: true,
            is_retry_asked: false,
            is_sweeping: false,
            is_dirty: true,
            is_pressing: true,
            is_log_due: true,
            age: Duration::ZERO,
            age_max: Duration::from_secs(10),
            is_much_waiting: true,
            is_swept: true,
            has_room_to_sweep: &|| panic!("asked"),
        };
        assert_eq!(next(&state), Work::Advance);
        let state = State { is_checkpoint_running: false, compaction: &|| Wants::Nothing, ..state };
        assert_eq!(next(&state), Work::Checkpoint { reason: "command", is_part: false });
        let state = State { is_sweeping: true, compaction: &never, ..state };
        assert_eq!(next(&state), Work::Checkpoint { reason: "command", is_part: false });
    }
}
