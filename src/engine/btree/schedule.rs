//! What flush work is done next: verification, checkpoints, vacuum, merges of the change buffer.
//!
//! 1. Who waits for a verification gets it.
//! 2. A checkpoint on its way goes on, step by step.
//! 3. Else a vacuum makes a step, unless it needs a checkpoint first, or a buffer merge is on its way for one.
//! 4. A checkpoint is due when it is asked for, when pages or values press, by age, and by log bytes. If it is asked for or by age, it
//!    must bring what waits in the buffer, too: then buffer merges come first, with checkpoints between them whenever they have
//!    made enough pages dirty.
//!
//! All of that is decided in one place, by [`next`], which is a pure function. The engine says what the state is, and has its
//! components do what is decided.

use std::time::Duration;

use crate::engine::Pending;

/// What a vacuum needs to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VacuumNeed {
    /// There is none, and nobody waits for one.
    Nothing,
    /// Its next step.
    Step,
    /// A checkpoint before that.
    Checkpoint,
}

/// What there is to decide about, at one moment: a field for each thing that counts, which all are read together.
pub struct FlushState<'a> {
    /// Commands wait for a verification.
    pub is_verify_asked: bool,
    /// A checkpoint is on its way.
    pub is_checkpoint_running: bool,
    /// What a vacuum needs to go on. It is asked only where nothing goes first, since it looks at the disk.
    pub vacuum: &'a dyn Fn() -> VacuumNeed,
    /// Commands wait for a checkpoint.
    pub is_asked: bool,
    /// And what could not be read is to be tried again first.
    pub is_retry_asked: bool,
    /// A buffer merge is on its way, for the checkpoint that comes after it.
    pub is_merging: bool,
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
    /// Nothing waits there of what a buffer merge that begins now, or is on its way, is for.
    pub is_merged: bool,
    /// Whether a buffer merge may make more pages dirty; asked only where that matters, since it looks at the disk, too.
    pub has_room_to_merge: &'a dyn Fn() -> bool,
}

/// What is done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlushWork {
    /// Nothing: until there is a signal, or until then.
    Rest(Pending),
    /// A verification.
    Verify,
    /// The next unit of the checkpoint on its way.
    Advance,
    /// A step of a vacuum.
    Vacuum,
    /// What could not be read is tried again.
    Retry,
    /// A step of a buffer merge, which goes on or begins.
    MergeBuffer,
    /// A checkpoint begins.
    Checkpoint {
        /// Why, for the event log.
        reason: &'static str,
        /// It only takes up what the buffer merge has made dirty so far; the merge goes on after it, and who waits goes on waiting.
        is_part: bool,
    },
    /// Nothing is to be brought home: who waits for that is told so.
    Answer,
}

/// The decision.
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
    // It must bring what waits in the buffer, too.
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
