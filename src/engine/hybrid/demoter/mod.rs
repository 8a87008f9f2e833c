//! Demotion: when the tree holds more than `hot`, a hand goes round the key space and brings down what is cold.
//!
//! 1. Begin a watch at the hand, and read entries from there on. Those whose heat is above the threshold stay, and their values are not read.
//! 2. Write the others, tombstones among them, to tables. A tombstone below which nothing can lie is not written, nor is a clean entry.
//! 3. Make the log durable as far as entries were read, then the tables, then the edit of the manifest that names them.
//! 4. Remove from the tree, some at a time, those entries that no batch has changed since. End the watch.
//!
//! Until step 4 an entry is in both places, and the upper one counts; so a crash or an error at any moment is harmless. The threshold rises whenever
//! the hand has gone round and the tree is still too large, and falls when it is small enough.
//!
//! Tombstones are cold whatever is done with their keys. Where they stand for much of what the levels hold, or a batch found no room, the hand goes
//! round for them alone, in a *sweep*: the space of what they delete comes back only once they are below.
//!
//! A command brings everything down in one round of the hand, however hot it is. While demotion is held, nothing goes down, whoever asks.
//!
//! # Invariants
//!
//! 1. Entries come into the levels here alone, one step at a time: what lies below a key changes during a watch only.
//! 2. A key leaves the tree only if its newest value is below, or nothing is, and it is a tombstone.

mod counters;
mod step;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use self::counters::Demoted;
use self::step::Cold;
use super::heat::{HEAT_MAX, Heat};
use crate::base::clock::Clock;
use crate::base::text::human_size;
use crate::engine::btree::BtreeEngine;
use crate::engine::lsm::LevelStore;
use crate::engine::{Done, Error, HybridShape, Pending, Result};

/// Bytes of keys and values that a step brings down, about.
const STEP_BYTES: u64 = 4 << 20;
/// Share of the tree that a step brings down at most, one part in so many.
const STEP_SHARE: u64 = 2;
/// Keys that are removed from the tree by one batch, at most.
const REMOVALS_MAX: usize = 256;
/// Part of `hot` below it down to which the tree is emptied once it is over it, one part in so many.
const SLACK_SHARE: u64 = 2;
/// Part of `hot` above it at which writers stop, one part in so many.
const MARGIN_SHARE: u64 = 4;
/// Share of the bytes of the levels that tombstones in the tree stand for when a sweep begins, one part in so many.
const SWEEP_SHARE: u64 = 16;
/// Records that have come down from which on their mean size says something.
const RECORDS_MIN: u64 = 1000;
/// In place of a number that nobody knows.
const UNKNOWN: u64 = u64::MAX;
/// When to go round again where nothing could be brought down.
const REST: Duration = Duration::from_secs(1);

/// Bytes of keys and values that a step brings down from a tree of `hot_bytes`, about.
pub fn step_bytes(hot_bytes: u64) -> u64 {
    STEP_BYTES.min(hot_bytes / STEP_SHARE).max(1)
}

/// Bytes that go down from a tree of `hot_bytes` once it is over it, about, before it is small enough.
pub fn round_bytes(hot_bytes: u64) -> u64 {
    (hot_bytes / SLACK_SHARE).max(1)
}

/// Entries that were brought down and are still to be removed from the tree.
struct Removal {
    keys: Vec<Bytes>,
    /// Those before are removed.
    at: usize,
    /// Keys of the next batch: fewer where the log or the dirty pages have no room for more.
    count: usize,
}

#[derive(Default)]
struct State {
    /// Key at which the next step begins.
    hand: Vec<u8>,
    /// Entries with more heat stay.
    threshold: u8,
    /// The tree is over its bound, or was and is not small enough yet.
    is_emptying: bool,
    /// Something was brought down since the hand began to go round.
    has_moved: bool,
    /// The hand goes round for tombstones: how many deletes had left when it began.
    sweep: Option<u64>,
    /// The hand goes round for everything: who waits for the end of it.
    all: Option<Vec<Done>>,
    /// Those who wait for the end of the step, which ends the round.
    ended: Vec<Done>,
    /// When the hand began to go round.
    round_began: Option<Duration>,
    removal: Option<Removal>,
}

/// Brings down what is cold.
pub struct Demoter {
    tree: Arc<BtreeEngine>,
    levels: Arc<LevelStore>,
    heat: Arc<Heat>,
    clock: Arc<dyn Clock>,
    hot_bytes: AtomicU64,
    state: Mutex<State>,
    /// The error of the last step, if it failed, and the bytes of the disk that were free then.
    trouble: Mutex<Option<(Error, u64)>>,
    /// A batch found no room.
    is_sweep_asked: AtomicBool,
    /// Tombstones that deletes had left when the last sweep began; [`UNKNOWN`] before the first, since the tree may have had some when it was opened.
    swept: AtomicU64,
    /// Nothing goes down.
    is_held: AtomicBool,
    /// Who asks for everything to go down.
    asked: Mutex<Vec<Done>>,
    /// See [`Demoter::driven_out`].
    driven_out: AtomicU8,
    counters: Demoted,
}

impl Demoter {
    /// Keeps `tree` at `hot_bytes`, or little more; what is cold by `heat` goes to `levels`.
    pub fn new(
        tree: Arc<BtreeEngine>,
        levels: Arc<LevelStore>,
        heat: Arc<Heat>,
        clock: Arc<dyn Clock>,
        hot_bytes: u64,
    ) -> Demoter {
        let hot_bytes = AtomicU64::new(hot_bytes);
        let (state, trouble, counters) = Default::default();
        let swept = AtomicU64::new(UNKNOWN);
        let (is_sweep_asked, is_held, asked, driven_out) = Default::default();
        Demoter {
            tree,
            levels,
            heat,
            clock,
            hot_bytes,
            state,
            trouble,
            is_sweep_asked,
            swept,
            is_held,
            asked,
            driven_out,
            counters,
        }
    }

    /// Bytes that the tree shall hold at most.
    pub fn hot_bytes(&self) -> u64 {
        self.hot_bytes.load(Relaxed)
    }

    /// Changes what the tree shall hold at most.
    pub fn set_hot_bytes(&self, bytes: u64) {
        self.hot_bytes.store(bytes, Relaxed);
    }

    /// Asks for a sweep, since a batch found no room, unless all tombstones went down in the last one.
    pub fn ask_sweep(&self) {
        if self.has_unswept() {
            self.is_sweep_asked.store(true, Relaxed);
        }
    }

    /// Whether tombstones are still to go down, and nothing is known to be in the way.
    pub fn may_sweep(&self) -> bool {
        self.has_unswept() && self.trouble().is_none()
    }

    fn has_unswept(&self) -> bool {
        self.tree.buried() != self.swept.load(Relaxed)
    }

    /// Whether tombstones should go down although the tree is within its bound.
    pub fn is_sweep_due(&self) -> bool {
        let (buried, swept) = (self.tree.buried(), self.swept.load(Relaxed));
        let tombstones = if swept == UNKNOWN { buried } else { buried - swept };
        if tombstones == 0 {
            return false;
        }
        let (bytes, entries) = self.levels.weight();
        let deleted_bytes = tombstones.saturating_mul(bytes / entries.max(1));
        deleted_bytes >= step_bytes(self.hot_bytes()).max(bytes / SWEEP_SHARE)
    }

    /// Asks for everything to go down; `done` is called once what the tree holds now is below, or has been changed since.
    pub fn ask_all(&self, done: Done) {
        if self.is_held() {
            let why = "demotion is held: write `release demote` to .stats first";
            return done(Err(Error::Invalid(why.to_string())));
        }
        self.asked.lock().push(done);
        self.counters.all_bytes.fetch_max(1, Relaxed);
    }

    /// Whether nothing goes down.
    pub fn is_held(&self) -> bool {
        self.is_held.load(Relaxed)
    }

    /// Holds demotion, or lets it go on.
    pub fn set_held(&self, is_held: bool) {
        self.is_held.store(is_held, Relaxed);
    }

    /// Heat up to which records go down now.
    pub fn threshold(&self) -> u64 {
        self.counters.threshold.load(Relaxed)
    }

    /// The command that runs, for the list of jobs.
    pub fn activity(&self) -> Option<String> {
        let bytes = self.counters.all_bytes.load(Relaxed).checked_sub(1)?;
        let held = if self.is_held() { ", held" } else { "" };
        Some(format!(
            "demote {} so far, the tree has {}{held}",
            human_size(bytes),
            human_size(self.tree.tree_bytes())
        ))
    }

    /// Whether the tree is over its bound.
    pub fn is_due(&self) -> bool {
        self.tree.tree_bytes() > self.hot_bytes()
    }

    /// Whether the tree is so far over its bound that writers stop.
    pub fn is_pressing(&self) -> bool {
        let hot_bytes = self.hot_bytes();
        self.tree.tree_bytes() > hot_bytes + hot_bytes / MARGIN_SHARE
    }

    /// The error of the last step, if it failed; a want of space only as long as no more is free than then.
    pub fn trouble(&self) -> Option<Error> {
        let (error, free_bytes) = self.trouble.lock().clone()?;
        let is_past = matches!(error, Error::NoSpace) && self.levels.free_bytes() > free_bytes;
        (!is_past).then_some(error)
    }

    /// What it has done so far, and its threshold now.
    pub fn report(&self) -> HybridShape {
        HybridShape { demote_held: self.is_held(), ..self.counters.shape() }
    }

    /// Ends a step that has not ended: what it brought down stays in the tree, too.
    pub fn stop(&self) {
        let mut state = self.state.lock();
        if let Some(removal) = state.removal.take() {
            self.end(&removal);
        }
        let closed = || Err(Error::Invalid("the store is closed".to_string()));
        let (all, ended) = (state.all.take(), std::mem::take(&mut state.ended));
        drop(state);
        let asked = std::mem::take(&mut *self.asked.lock());
        all.into_iter().flatten().chain(ended).chain(asked).for_each(|done| done(closed()));
    }

    /// Result of `work`, which is told `hot`, done while nothing is brought down, if the tree is within its bound; `None` if not.
    pub fn exclusively<T>(&self, work: impl FnOnce(u64) -> T) -> Option<T> {
        let state = self.state.try_lock()?;
        (state.removal.is_none() && !state.is_emptying && !self.is_due()).then(|| work(self.hot_bytes()))
    }

    /// Heat up to which records had to leave the tree lately; it halves when all heat does.
    pub fn driven_out(&self) -> u8 {
        self.driven_out.load(Relaxed)
    }

    /// One unit of work.
    pub fn work(&self) -> Result<Pending> {
        // Who is at it does all there is.
        let Some(mut state) = self.state.try_lock() else { return Ok(Pending::Idle) };
        if self.heat.cool() {
            self.driven_out.store(self.driven_out() / 2, Relaxed);
            let (bytes, entries) = self.levels.weight();
            if entries >= RECORDS_MIN {
                self.heat.fit(bytes / entries);
            }
        }
        let worked = match &mut state.removal {
            Some(removal) => self.remove(removal),
            None if self.is_held() => return Ok(Pending::Idle),
            None => self.bring_down(&mut state),
        };
        match worked {
            Err(Error::Busy { retry_after, .. }) => Ok(Pending::After(retry_after)),
            Err(error) => {
                if let Some(removal) = state.removal.take() {
                    self.end(&removal);
                }
                *self.trouble.lock() = Some((error.clone(), self.levels.free_bytes()));
                self.counters.all_bytes.store(0, Relaxed);
                let (all, ended) = (state.all.take(), std::mem::take(&mut state.ended));
                drop(state);
                all.into_iter().flatten().chain(ended).for_each(|done| done(Err(error.clone())));
                // Who needs the room hears it from the batch that finds none.
                if let Error::NoSpace = error { Ok(Pending::After(REST)) } else { Err(error) }
            }
            Ok(pending) => {
                if pending == Pending::More {
                    *self.trouble.lock() = None;
                }
                if state.removal.as_ref().is_some_and(|removal| removal.at == removal.keys.len()) {
                    state.removal = None;
                    self.tree.end_watch();
                    let ended = std::mem::take(&mut state.ended);
                    drop(state);
                    ended.into_iter().for_each(|done| done(Ok(())));
                }
                Ok(pending)
            }
        }
    }

    /// Removes some of what was brought down.
    fn remove(&self, removal: &mut Removal) -> Result<Pending> {
        let to = removal.keys.len().min(removal.at + removal.count);
        let keys = &removal.keys[removal.at..to];
        let removed = match self.tree.remove_unchanged(keys, self.levels.log_lsn()) {
            Err(error @ Error::Busy { .. }) => {
                removal.count = (keys.len() / 2).max(1);
                return Err(error);
            }
            removed => removed?,
        };
        removal.count = REMOVALS_MAX.min(2 * removal.count);
        self.counters.removed.fetch_add(removed, Relaxed);
        self.counters.stayed.fetch_add(keys.len() as u64 - removed, Relaxed);
        removal.at = to;
        Ok(Pending::More)
    }

    /// Ends a removal whatever is left of it.
    fn end(&self, removal: &Removal) {
        self.counters.stayed.fetch_add((removal.keys.len() - removal.at) as u64, Relaxed);
        self.tree.end_watch();
    }

    /// Makes steps 1 to 3, if the tree is too large.
    fn bring_down(&self, state: &mut State) -> Result<Pending> {
        let (bytes, hot_bytes) = (self.tree.tree_bytes(), self.hot_bytes());
        let enough_bytes = hot_bytes.saturating_sub(round_bytes(hot_bytes));
        state.is_emptying = bytes > hot_bytes || state.is_emptying && bytes > enough_bytes;
        if state.sweep.is_none() && (self.is_sweep_asked.swap(false, Relaxed) || self.is_sweep_due()) {
            state.sweep = Some(self.tree.buried());
            state.hand.clear();
        }
        if state.all.is_none() {
            let asked = std::mem::take(&mut *self.asked.lock());
            if !asked.is_empty() {
                state.all = Some(asked);
                state.hand.clear();
                self.counters.all_bytes.store(1, Relaxed);
            }
        }
        let is_all = state.all.is_some();
        let (cold, step_bytes) = match (state.is_emptying, state.sweep) {
            _ if is_all => (Cold::UpTo(HEAT_MAX), step_bytes(hot_bytes)),
            (true, _) => (Cold::UpTo(state.threshold), step_bytes(hot_bytes).min(bytes - enough_bytes)),
            (false, Some(_)) => (Cold::Nothing, step_bytes(hot_bytes)),
            (false, None) => {
                state.threshold = state.threshold.saturating_sub(1);
                return Ok(Pending::Idle);
            }
        };
        if let Some(wait) = self.levels.ingest_wait() {
            return Ok(Pending::After(wait));
        }
        // Beside the entries, a table has an index and filters.
        let is_sweeping = !is_all && state.sweep.is_some();
        let has_room = matches!(cold, Cold::UpTo(_)) && self.levels.has_room(2 * step_bytes, false)?;
        let (cold, step_bytes) = match has_room {
            true => (cold, step_bytes),
            // What gives space back goes down where nothing else may.
            false if is_sweeping => (Cold::Nothing, self.sweep_bytes(step_bytes)?),
            false => return Err(Error::NoSpace),
        };
        if state.hand.is_empty() {
            state.round_began = Some(self.clock.elapsed());
        }
        self.tree.begin_watch(&state.hand);
        let found = match self.write_down(&state.hand, cold, step_bytes) {
            Ok(found) => found,
            Err(error) => {
                self.tree.end_watch();
                return Err(error);
            }
        };
        self.counters.count(&found);
        state.has_moved |= !found.keys.is_empty();
        if is_all {
            self.counters.all_bytes.fetch_add(found.bytes, Relaxed);
        } else if found.is_cooler {
            self.driven_out.fetch_max(state.threshold, Relaxed);
        }
        self.counters.threshold.store(u64::from(state.threshold), Relaxed);
        let is_round = found.next.is_none();
        state.hand = found.next.unwrap_or_default();
        state.removal = Some(Removal { keys: found.keys, at: 0, count: REMOVALS_MAX });
        if is_round && let Some(buried) = state.sweep.take() {
            self.swept.store(buried, Relaxed);
        }
        if is_round && let Some(began) = state.round_began.take() {
            self.counters.note_round(self.clock.elapsed().saturating_sub(began));
        }
        if is_round && let Some(all) = state.all.take() {
            state.ended = all;
            state.has_moved = false;
            self.counters.all_bytes.store(0, Relaxed);
        } else if is_round && state.is_emptying && matches!(cold, Cold::UpTo(_)) {
            let has_moved = std::mem::take(&mut state.has_moved);
            if state.threshold == HEAT_MAX && !has_moved {
                return Ok(Pending::After(REST));
            }
            state.threshold = HEAT_MAX.min(state.threshold * 2 + 1);
        }
        Ok(Pending::More)
    }
}
