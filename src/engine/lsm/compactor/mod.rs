//! Merge work: asks the policy, runs merges side by side a few mebibytes a call, and makes their results part of the store.
//!
//! 1. A call takes a *slice* of a merge: while fewer than `merge_threads` are begun, the next one of a merge that runs, else the
//!    first one of a merge that the policy chooses beside those; else the one that rested longest.
//! 2. It merges a step of the slice with no lock held. So one thread does all begun slices in turn, and more threads do them at
//!    once.
//! 3. A slice that has come to its end is installed; then it rests no more, and the merge ends with its last slice.
//!
//! # Invariants
//!
//! 1. Merges that run have claims that do not meet, see [`super::compaction`]. Moves and drops meet none either. A merge lets go of
//!    its target level slice by slice.
//! 2. What a merge takes out of the store is decided under the lock of `merging` and the manifest, where slices are installed one
//!    by one. A step whose merge was given up meanwhile finds it gone there, and removes its files.
//! 3. A merge begins only if what it needs, bytes and files, is free beside what those that run may still take.

pub mod cleaner;
mod collector;
mod merging;
mod running;
mod scheduler;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use parking_lot::Mutex;

use super::commands::Task;
use super::core::Core;
use super::manifest::Edit;
use super::survivors::Survivors;
use super::table::Table;
use super::throttle::Throttle;
use super::version_set::VersionSet;
use crate::disk::{Metered, Snapshot};
use crate::engine::wal::LogShape;
use crate::engine::{Cause, Error, Lsn, Pending, Result, ValueLog};
use cleaner::Cleaner;
use collector::Collector;
use merging::Merging;
use running::{RunningJob, Slice};
use scheduler::Scheduler;

/// Key and value bytes merged in one unit of work.
const UNIT_BYTES: u64 = 4 << 20;
/// When to look again whether merges are still paused, should no signal come.
const PAUSE: Duration = Duration::from_secs(1);
/// When to look again whether a flush still has the disk.
const YIELD: Duration = Duration::from_millis(5);

/// Merges tables.
pub struct Compactor {
    core: Arc<Core>,
    versions: Arc<VersionSet>,
    scheduler: Scheduler,
    cleaner: Arc<Cleaner>,
    collector: Arc<Collector>,
    /// What passes to the disk, for the rates.
    traffic: Arc<Metered>,
    merging: Mutex<Merging>,
    /// What merges do right now, one line each, for reports.
    activity: Mutex<Vec<String>>,
}

impl Compactor {
    /// Of the store that `versions` are of. Values that leave the log go to `survivors`; `traffic` is the disk below.
    pub fn new(
        core: Arc<Core>,
        versions: Arc<VersionSet>,
        survivors: Arc<Survivors>,
        traffic: Arc<Metered>,
    ) -> Compactor {
        let cleaner = Arc::new(Cleaner::new(core.clone()));
        let collector = Arc::new(Collector::new(core.clone(), versions.clone(), survivors));
        let scheduler = Scheduler::new(core.clone(), versions.clone(), cleaner.clone(), collector.clone());
        let (merging, activity) = (Mutex::default(), Mutex::default());
        Compactor { core, versions, scheduler, cleaner, collector, traffic, merging, activity }
    }

    /// What merges do right now, one line each.
    pub fn activity(&self) -> Vec<String> {
        self.activity.lock().clone()
    }

    /// What has passed to the disk.
    pub fn traffic(&self) -> Snapshot {
        self.traffic.snapshot()
    }

    /// What reports say of values in the log, of which `live_bytes` are needed.
    pub fn value_log(&self, log: &LogShape, live_bytes: u64) -> ValueLog {
        self.collector.shape(log, live_bytes)
    }

    /// Bytes of tables that were dropped unread.
    pub fn dropped_bytes(&self) -> u64 {
        self.scheduler.dropped_bytes()
    }

    /// Gives up the merges that run; nobody may be working on them.
    pub fn stop(&self) {
        self.merging.lock().give_all_up();
    }

    /// What empties segments of the log.
    #[cfg(test)]
    pub fn collector(&self) -> &Collector {
        &self.collector
    }

    /// The merges that run.
    #[cfg(test)]
    pub fn merging(&self) -> parking_lot::MutexGuard<'_, Merging> {
        self.merging.lock()
    }

    /// One unit of merge work.
    pub fn work(&self) -> Result<Pending> {
        let (mut slice, is_command) = match self.take_slice()? {
            ControlFlow::Continue(taken) => taken,
            ControlFlow::Break(pending) => return Ok(pending),
        };
        let ready = self.step(&mut slice, is_command);
        let mut merging = self.merging.lock();
        merging.stepping -= 1;
        let rates = self.core.mutable_options.rates();
        merging.throttle.charge(rates, &self.traffic.snapshot(), self.core.clock.elapsed());
        let id = slice.job;
        let cleans = merging.job(id).and_then(RunningJob::cleans);
        let mut is_out_of_room = false;
        let result = match ready {
            Ok(true) => self.install(&mut merging, slice),
            Ok(false) => match merging.job_mut(id) {
                Some(job) => {
                    job.note(&slice);
                    merging.resting.push(slice);
                    is_out_of_room = cleans.is_some() && !self.cleaner.claim_more(&mut merging, id)?;
                    if is_out_of_room { Err(Error::NoSpace) } else { Ok(()) }
                }
                // It was given up meanwhile.
                None => {
                    slice.abandon();
                    Ok(())
                }
            },
            Err(error) => {
                slice.abandon();
                Err(error)
            }
        };
        match (result, cleans) {
            (Ok(()), _) => {
                self.note_trouble(merging.trouble());
                self.report(&merging);
                Ok(Pending::More)
            }
            (Err(Error::NoSpace), Some(lsn)) => {
                self.give_cleaning_up(&mut merging, id, lsn, is_out_of_room)?;
                Ok(Pending::More)
            }
            (Err(error), _) => self.fail(&mut merging, Some(id), error),
        }
    }

    /// The slice of which a step is to be done now, and whether a command waits for it; `Break` if there is none.
    pub(super) fn take_slice(&self) -> Result<ControlFlow<Pending, (Slice, bool)>> {
        let mut merging = self.merging.lock();
        if let Some(wait) = self.pause(&merging) {
            return Ok(ControlFlow::Break(Pending::After(wait)));
        }
        match self.scheduler.next_slice(&mut merging) {
            Ok((Some(slice), _)) => {
                merging.stepping += 1;
                // What was found before it began holds no more: it may give space back.
                self.core.space.shortage.forget_merge_shortage();
                self.report(&merging);
                let is_command = merging.job(slice.job).is_some_and(|job| job.is_command);
                Ok(ControlFlow::Continue((slice, is_command)))
            }
            Ok((None, pending)) => {
                // What others do now says whether merges are in trouble.
                if merging.stepping == 0 {
                    self.note_trouble(merging.trouble());
                }
                self.report(&merging);
                Ok(ControlFlow::Break(pending))
            }
            Err(error) => self.fail(&mut merging, None, error).map(ControlFlow::Break),
        }
    }

    /// Merges a step of a slice, with no lock held; whether it has come to its end, and what it wrote is durable.
    fn step(&self, slice: &mut Slice, is_command: bool) -> Result<bool> {
        let is_thorough = is_command || self.core.space.shortage.is_refused();
        let version = self.versions.superversion().version.clone();
        let sparse = self.collector.sparse_segments(&version, is_thorough).into_keys().collect();
        drop(version);
        let mut move_value = |pointer, segment: &_| self.collector.move_value(&sparse, pointer, segment);
        // Small tables, small steps: a merge of some of them is seen half way.
        let most_bytes = UNIT_BYTES.min((self.core.options.table_bytes / 2).max(1));
        let step_bytes = self.core.mutable_options.rates().step_bytes(most_bytes);
        let is_ready = slice.step(step_bytes, &mut move_value)?;
        if is_ready {
            if slice.moved_bytes > 0 {
                self.collector.sync()?;
            }
            if !slice.outputs.is_empty() {
                self.core.table_store.sync_names()?;
            }
        }
        Ok(is_ready)
    }

    /// Gives up a merge that cleans a table and found no room for what batches up to `lsn` have left of it: as far as was known,
    /// or the disk refused it.
    fn give_cleaning_up(&self, merging: &mut Merging, id: u64, lsn: Lsn, is_out_of_room: bool) -> Result<()> {
        let mut refused_bytes = 0;
        if !is_out_of_room {
            // A disk that refused what it says it has is not asked for that again, but for what is set aside on it.
            refused_bytes = merging.free_bytes(&self.core.table_store)?;
            if let Some(job) = merging.job(id) {
                self.core.space.guard.give_ballast(job.need_bytes());
            }
        }
        if let Some(job) = merging.job(id) {
            self.cleaner.fail(job, lsn, refused_bytes);
        }
        merging.give_up(id);
        self.report(merging);
        Ok(())
    }

    /// Gives up the merge that failed. If one of its inputs could not be read, that one is set aside and the others go on.
    fn fail(&self, merging: &mut Merging, id: Option<u64>, error: Error) -> Result<Pending> {
        let is_command = id.and_then(|id| merging.job(id)).is_some_and(|job| job.is_command);
        id.into_iter().for_each(|id| merging.give_up(id));
        let is_aside = id.is_some() && self.versions.set_table_aside(&error);
        if is_command || !is_aside {
            self.core.commands.end(&Err(error.clone()), |task| matches!(task, Task::Compact { .. }));
        }
        let trouble = if is_aside { merging.trouble() } else { Some(error.clone()) };
        self.note_trouble(trouble);
        self.report(merging);
        if is_aside { Ok(Pending::More) } else { Err(error) }
    }

    /// Notes why merges cannot go on, if that is so.
    fn note_trouble(&self, error: Option<Error>) {
        let trouble = error.map(|error| self.core.space.trouble(error));
        self.core.space.shortage.note_merge(trouble);
    }

    /// How long no merge step may begin: merges are paused, the rates are used up, or writers wait for a flush, which then has the disk for itself.
    fn pause(&self, merging: &Merging) -> Option<Duration> {
        if self.core.mutable_options.is_paused() {
            return Some(PAUSE);
        }
        if let Some(wait) =
            merging.throttle.wait(self.core.mutable_options.rates(), self.core.clock.elapsed())
        {
            return Some(wait);
        }
        // A flush that has no space waits for merges in its turn.
        let is_flushing = !self.versions.superversion().immutables.is_empty()
            && !self.core.space.shortage.has_flush_trouble();
        let stalls_on_flush = self.core.stalls.is_waiting(Cause::Memtables) && is_flushing;
        // Where L0 slows writers down already, merges are as urgent as the flush.
        let l0_files = self.versions.superversion().version.level(0).len() as u64;
        (stalls_on_flush && l0_files < self.core.options.l0_slowdown).then_some(YIELD)
    }

    /// What a merge did that is done.
    fn record_end(&self, merge: &RunningJob) {
        let duration = self.core.clock.elapsed().saturating_sub(merge.began);
        let fields = vec![
            ("from_level", (merge.job.from_level() as u64).into()),
            ("into_level", (merge.job.into as u64).into()),
            ("bytes_in", merge.input_bytes.into()),
            ("bytes_out", merge.installed_bytes.into()),
            ("files_out", merge.installed_files.into()),
            ("duration_ns", (duration.as_nanos() as u64).into()),
        ];
        self.core.record("merge_end", fields);
    }

    /// Makes the outputs of a slice part of the store in place of the inputs that are passed, and ends the merge with its last one.
    fn install(&self, merging: &mut Merging, slice: Slice) -> Result<()> {
        let Some(at) = merging.jobs.iter().position(|job| job.id == slice.job) else {
            slice.abandon();
            return Ok(());
        };
        let merge = &mut merging.jobs[at];
        let (into, is_last) = (merge.job.into, merge.is_last(slice.number));
        let added: Vec<(usize, Arc<Table>)> =
            slice.outputs.iter().map(|table| (into, table.clone())).collect();
        let leaving = merge.leaving(slice.number);
        let cursor = merge.job.cursor.as_ref().filter(|_| is_last);
        if is_last || !added.is_empty() || !leaving.is_empty() {
            let mut change = self.versions.change();
            let edit = Edit::replace(&leaving, &added, cursor, self.core.table_store.next_number());
            if let Err(error) = change.install(&edit, &leaving, &added, None) {
                // After a failed sync the edit may be durable all the same: then the files stay.
                if !change.is_failed() {
                    slice.abandon();
                }
                return Err(error);
            }
        }
        let meter = &self.core.levels[into];
        for (level, table) in &leaving {
            if *level < into {
                meter.in_bytes.fetch_add(table.bytes, Relaxed);
            }
        }
        meter.write_bytes.fetch_add(slice.output_bytes(), Relaxed);
        merge.note(&slice);
        merge.end_slice(&slice, &leaving);
        if let Some(lsn) = merge.cleans() {
            self.cleaner.pass(&slice.outputs, lsn);
        }
        if is_last {
            let merge = merging.jobs.remove(at);
            // Whether what waited for space fits now, nobody has looked yet.
            merging.waiting = None;
            self.record_end(&merge);
            if merge.is_command {
                self.core
                    .commands
                    .end(&Ok(()), |task| matches!(task, Task::Compact { is_started: true, .. }));
            }
        }
        Ok(())
    }

    /// Keeps what reports say of the merges that run.
    fn report(&self, merging: &Merging) {
        let jobs = &merging.jobs;
        let temporary_bytes = jobs.iter().map(RunningJob::temporary_bytes).sum();
        self.core.space.note_merges(temporary_bytes, merging.owed_bytes());
        let rates = self.core.mutable_options.rates().describe();
        let running = jobs.iter().map(|merge| merge.describe() + &rates);
        let waiting = merging.waiting.clone().filter(|_| jobs.is_empty());
        *self.activity.lock() = running.chain(waiting).collect();
    }
}
