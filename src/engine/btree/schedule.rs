//! The order of flush work: verification, checkpoints, vacuum, merges of the change buffer.
//!
//! 1. A verification that is asked for comes first.
//! 2. A running checkpoint continues, step by step.
//! 3. Otherwise a vacuum makes a step, unless it needs a checkpoint first, or a buffer merge is running for a checkpoint.
//! 4. A checkpoint is due when it is asked for, when there are too many dirty pages or values, by age, and by bytes of the log. If it is asked
//!    for or due by age, it must include the buffered puts: then buffer merges come first, with a checkpoint in between whenever they have made
//!    enough pages dirty.
//!
//! The pure function [`next`] decides all of this in one place. The engine describes its state, and has its components carry out the decision.

use std::time::Duration;

use crate::engine::Pending;

/// The need of a vacuum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VacuumNeed {
    /// No vacuum is running or asked for.
    Nothing,
    /// It can make its next step.
    Step,
    /// It needs a checkpoint first.
    Checkpoint,
}

/// The state on which the decision depends, at one moment. Each field is one condition; [`next`] reads all of them together.
pub struct FlushState<'a> {
    /// Commands wait for a verification.
    pub is_verify_asked: bool,
    /// A checkpoint is running.
    pub is_checkpoint_running: bool,
    /// The need of the vacuum. It looks at the disk, so it is called only if nothing goes first.
    pub vacuum: &'a dyn Fn() -> VacuumNeed,
    /// Commands wait for a checkpoint.
    pub is_asked: bool,
    /// Before that checkpoint, unreadable ranges are to be tried again.
    pub is_retry_asked: bool,
    /// A buffer merge is running, for the checkpoint that follows it.
    pub is_merging: bool,
    /// A checkpoint would change the durable state.
    pub is_dirty: bool,
    /// So much is dirty that a checkpoint should begin.
    pub is_pressing: bool,
    /// The log is near its bound, or a batch waits for a shorter log.
    pub is_log_due: bool,
    /// Age of the oldest change that no checkpoint has frozen.
    pub age: Duration,
    /// Age at which a checkpoint is due.
    pub age_max: Duration,
    /// So much is buffered that a merge should begin.
    pub is_much_waiting: bool,
    /// Nothing is buffered that the running merge, or one that begins now, has to apply.
    pub is_merged: bool,
    /// Whether a merge may make more pages dirty. It looks at the disk, so it is called only if that matters.
    pub has_room_to_merge: &'a dyn Fn() -> bool,
}

/// The next piece of flush work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushWork {
    /// None, until there is a signal or for the given time.
    Rest(Pending),
    /// A verification.
    Verify,
    /// The next unit of the running checkpoint.
    Advance,
    /// A step of a vacuum.
    Vacuum,
    /// Another try to read the unreadable ranges.
    Retry,
    /// A step of a buffer merge, which continues or begins.
    MergeBuffer,
    /// The begin of a checkpoint.
    Checkpoint {
        /// The reason, for the event log.
        reason: &'static str,
        /// It only writes the pages that the running merge has made dirty so far; the merge continues after it, and commands continue to
        /// wait.
        is_part: bool,
    },
    /// There is nothing to write: commands that wait for a checkpoint are answered.
    Answer,
}

/// Decides what comes next.
pub fn next(state: &FlushState<'_>) -> FlushWork {
    if state.is_verify_asked {
        return FlushWork::Verify;
    }
    if state.is_checkpoint_running {
        return FlushWork::Advance;
    }
    // A buffer merge ends with the checkpoint it is for.
    let is_forced = !state.is_merging
        && match (state.vacuum)() {
            VacuumNeed::Step => return FlushWork::Vacuum,
            VacuumNeed::Checkpoint => true,
            VacuumNeed::Nothing => false,
        };
    let is_old = state.age >= state.age_max;
    if !(is_forced || state.is_asked || state.is_merging) {
        if !state.is_dirty {
            return FlushWork::Rest(Pending::Idle);
        }
        if !(state.is_pressing || state.is_log_due || is_old) {
            return FlushWork::Rest(Pending::After(state.age_max - state.age));
        }
    }
    if state.is_retry_asked {
        return FlushWork::Retry;
    }
    // The checkpoint must include the buffered puts.
    let is_for_all = is_forced || state.is_asked || is_old;
    let is_part = (state.is_merging || is_for_all || state.is_much_waiting) && !state.is_merged;
    if is_part && (state.has_room_to_merge)() {
        return FlushWork::MergeBuffer;
    }
    let reason = match () {
        () if is_part => "change buffer",
        // The word that events have always had for it.
        () if is_forced => "compaction",
        () if !state.is_dirty => return FlushWork::Answer,
        () if state.is_asked => "command",
        () if state.is_pressing => "dirty pages",
        () if state.is_log_due => "log",
        () => "age",
    };
    FlushWork::Checkpoint { reason, is_part }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One case per line: words for the state, an arrow, and the expected work.
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
        waiting dirty old -> merge
        waiting asked -> merge
        waiting much dirty pressing -> merge
        waiting dirty pressing -> checkpoint dirty pages
        waiting dirty log -> checkpoint log
        waiting asked full -> checkpoint change buffer, the merge goes on
        merging waiting -> merge
        merging waiting full -> checkpoint change buffer, the merge goes on
        merging -> answer
        merging dirty -> checkpoint age
        merging asked dirty -> checkpoint command
        step -> vacuum
        step asked dirty pressing -> vacuum
        forced -> checkpoint compaction
        forced asked dirty -> checkpoint compaction
        waiting forced -> merge
        waiting forced full -> checkpoint change buffer, the merge goes on
        merging waiting step -> merge
        merging dirty step -> checkpoint age
        running step asked waiting dirty pressing -> advance
        verify running step asked dirty -> verify
    ";
    const WORDS: &str =
        "verify running step forced asked retry merging dirty pressing log old waiting much full";

    #[test]
    fn what_is_done_next() {
        for case in CASES.lines().map(str::trim).filter(|case| !case.is_empty()) {
            let (words, expected) = case.split_once("->").unwrap();
            let has = |word: &str| words.split_whitespace().any(|it| it == word);
            let is_known = |word: &str| WORDS.split(' ').any(|it| it == word);
            assert!(words.split_whitespace().all(is_known), "{case}");
            let vacuum = || match () {
                () if has("step") => VacuumNeed::Step,
                () if has("forced") => VacuumNeed::Checkpoint,
                () => VacuumNeed::Nothing,
            };
            let work = next(&FlushState {
                is_verify_asked: has("verify"),
                is_checkpoint_running: has("running"),
                vacuum: &vacuum,
                is_asked: has("asked"),
                is_retry_asked: has("retry"),
                is_merging: has("merging"),
                is_dirty: has("dirty"),
                is_pressing: has("pressing"),
                is_log_due: has("log"),
                age: Duration::from_secs(if has("old") { 10 } else { 3 }),
                age_max: Duration::from_secs(10),
                is_much_waiting: has("much"),
                is_merged: !has("waiting"),
                has_room_to_merge: &|| !has("full"),
            });
            let done = match work {
                FlushWork::Rest(Pending::After(rest)) => format!("rest for {}s", rest.as_secs()),
                FlushWork::Rest(_) => "rest".to_string(),
                FlushWork::Checkpoint { reason, is_part: false } => format!("checkpoint {reason}"),
                FlushWork::Checkpoint { reason, is_part: true } => {
                    format!("checkpoint {reason}, the merge goes on")
                }
                FlushWork::MergeBuffer => "merge".to_string(),
                other => format!("{other:?}").to_lowercase(),
            };
            assert_eq!(done, expected.trim(), "{case}");
        }
    }

    #[test]
    fn the_disk_is_asked_only_where_it_matters() {
        let never = || -> VacuumNeed { panic!("asked") };
        let state = FlushState {
            is_verify_asked: false,
            is_checkpoint_running: true,
            vacuum: &never,
            is_asked: true,
            is_retry_asked: false,
            is_merging: false,
            is_dirty: true,
            is_pressing: true,
            is_log_due: true,
            age: Duration::ZERO,
            age_max: Duration::from_secs(10),
            is_much_waiting: true,
            is_merged: true,
            has_room_to_merge: &|| panic!("asked"),
        };
        assert_eq!(next(&state), FlushWork::Advance);
        let state = FlushState { is_checkpoint_running: false, vacuum: &|| VacuumNeed::Nothing, ..state };
        assert_eq!(next(&state), FlushWork::Checkpoint { reason: "command", is_part: false });
        let state = FlushState { is_merging: true, vacuum: &never, ..state };
        assert_eq!(next(&state), FlushWork::Checkpoint { reason: "command", is_part: false });
    }
}
