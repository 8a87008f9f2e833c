//! Compaction work: asks the policy, runs jobs side by side a few mebibytes a call, and makes their results part of the store.
//!
//! 1. A call takes a *subcompaction*: while fewer than `merge_threads` are begun, the next one of a job that runs, else the
//!    first one of a compaction that the policy chooses beside those; otherwise the one that rested longest.
//! 2. It merges a step of the subcompaction with no lock held. So one thread does all begun subcompactions in turn, and more threads do them at
//!    once.
//! 3. A subcompaction that has come to its end is installed, and the job ends with its last subcompaction.
//! 4. Outputs end where tables of the level below do ([`boundaries`]).
//!
//! # Invariants
//!
//! 1. The claims of running jobs do not meet, see [`super::compaction`]. Moves and drops meet none either. A job lets go of its target
//!    level subcompaction by subcompaction.
//! 2. Which inputs leave the store is decided under the locks of `running` and of the manifest, where subcompactions are installed one
//!    by one. A step whose job was given up meanwhile finds it gone there, and removes its files.
//! 3. A job begins only if the bytes and files that it needs are free beside those that running jobs may still take.

mod boundaries;
pub mod cleaner;
mod collector;
mod job;
mod running;
mod scheduler;
mod subcompaction;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use parking_lot::Mutex;

use super::Options;
use super::commands::PendingCommand;
use super::core::Core;
use super::manifest::Edit;
use super::survivors::Survivors;
use super::table::Table;
use super::throttle::Throttle;
use super::version_set::VersionSet;
use crate::disk::{DiskCounters, Metered};
use crate::engine::wal::{Log, LogShape};
use crate::engine::{Cause, Error, Lsn, Pending, Result, ValueLog};
use cleaner::Cleaner;
use collector::Collector;
pub use job::{CompactionJob, JobId};
use running::RunningJobs;
use scheduler::Scheduler;
pub use subcompaction::Subcompaction;

/// Key and value bytes merged in one unit of work.
const UNIT_BYTES: u64 = 4 << 20;
/// When to look again whether merges are still paused, should no signal come.
const PAUSE: Duration = Duration::from_secs(1);
/// When to look again whether a flush still has the disk.
const YIELD: Duration = Duration::from_millis(5);

/// Key and value bytes of a step of a subcompaction, where no rate says less. Small tables, small steps: tests see a compaction of some of
/// them half way.
pub fn step_bytes(options: &Options) -> u64 {
    UNIT_BYTES.min((options.table_bytes / 2).max(1))
}

/// Merges tables.
pub struct Compactor {
    core: Arc<Core>,
    versions: Arc<VersionSet>,
    scheduler: Scheduler,
    cleaner: Arc<Cleaner>,
    collector: Arc<Collector>,
    /// Traffic to the disk, for the rate limits.
    traffic: Arc<Metered>,
    running: Mutex<RunningJobs>,
    /// One line for each job that runs, for reports.
    activity: Mutex<Vec<String>>,
}

impl Compactor {
    /// The compactor of the store whose versions are `versions`. Values that leave `log`, if there is one, go to `survivors`; `traffic` is the
    /// disk below.
    pub fn new(
        core: Arc<Core>,
        versions: Arc<VersionSet>,
        survivors: Arc<Survivors>,
        log: Option<Arc<Log>>,
        traffic: Arc<Metered>,
    ) -> Compactor {
        let cleaner = Arc::new(Cleaner::new(core.clone()));
        let collector = Arc::new(Collector::new(core.clone(), versions.clone(), survivors, log));
        let scheduler = Scheduler::new(core.clone(), versions.clone(), cleaner.clone(), collector.clone());
        let (running, activity) = (Mutex::default(), Mutex::default());
        Compactor { core, versions, scheduler, cleaner, collector, traffic, running, activity }
    }

    /// One line for each job that runs.
    pub fn activity(&self) -> Vec<String> {
        self.activity.lock().clone()
    }

    /// Traffic to the disk so far.
    pub fn traffic(&self) -> DiskCounters {
        self.traffic.snapshot()
    }

    /// The report on values in the log, of which `live_bytes` are needed.
    pub fn value_log(&self, log: &LogShape, live_bytes: u64) -> ValueLog {
        self.collector.shape(log, live_bytes)
    }

    /// Bytes of tables that were dropped unread.
    pub fn dropped_bytes(&self) -> u64 {
        self.scheduler.dropped_bytes()
    }

    /// Gives up all running jobs; nobody may be working on them.
    pub fn stop(&self) {
        self.running.lock().give_all_up();
    }

    /// The component that empties segments of the log.
    #[cfg(test)]
    pub fn collector(&self) -> &Collector {
        &self.collector
    }

    /// The running jobs.
    #[cfg(test)]
    pub fn running_jobs(&self) -> parking_lot::MutexGuard<'_, RunningJobs> {
        self.running.lock()
    }

    /// One unit of merge work.
    pub fn work(&self) -> Result<Pending> {
        let (mut subcompaction, is_command) = match self.take_subcompaction()? {
            ControlFlow::Continue(taken) => taken,
            ControlFlow::Break(pending) => return Ok(pending),
        };
        let ready = self.step(&mut subcompaction, is_command);
        let mut running = self.running.lock();
        running.stepping -= 1;
        let rates = self.core.mutable_options.rates();
        running.throttle.charge(rates, &self.traffic.snapshot(), self.core.clock.elapsed());
        let id = subcompaction.job;
        let cleans = running.job(id).and_then(CompactionJob::cleans);
        let mut is_out_of_room = false;
        let result = match ready {
            Ok(true) => self.install(&mut running, subcompaction),
            Ok(false) => match running.job_mut(id) {
                Some(job) => {
                    job.note(&subcompaction);
                    running.resting.push(subcompaction);
                    is_out_of_room = cleans.is_some() && !self.cleaner.claim_more(&mut running, id)?;
                    if is_out_of_room { Err(Error::NoSpace) } else { Ok(()) }
                }
                // It was given up meanwhile.
                None => {
                    subcompaction.abandon();
                    Ok(())
                }
            },
            Err(error) => {
                subcompaction.abandon();
                Err(error)
            }
        };
        match (result, cleans) {
            (Ok(()), _) => {
                self.note_trouble(running.trouble());
                self.report(&running);
                Ok(Pending::More)
            }
            (Err(Error::NoSpace), Some(lsn)) => {
                self.give_cleaning_up(&mut running, id, lsn, is_out_of_room)?;
                Ok(Pending::More)
            }
            (Err(error), _) => self.fail(&mut running, Some(id), error),
        }
    }

    /// The subcompaction of which a step is to be done now, and whether a command waits for it; `Break` if there is none.
    pub(super) fn take_subcompaction(&self) -> Result<ControlFlow<Pending, (Subcompaction, bool)>> {
        let mut running = self.running.lock();
        if let Some(wait) = self.pause(&running) {
            return Ok(ControlFlow::Break(Pending::After(wait)));
        }
        match self.scheduler.next_subcompaction(&mut running) {
            Ok((Some(subcompaction), _)) => {
                running.stepping += 1;
                // What was found before it began holds no more: it may give space back.
                self.core.space.shortage.forget_merge_shortage();
                self.report(&running);
                let is_command = running.job(subcompaction.job).is_some_and(|job| job.is_command);
                Ok(ControlFlow::Continue((subcompaction, is_command)))
            }
            Ok((None, pending)) => {
                // What others do now says whether merges are in trouble.
                if running.stepping == 0 {
                    self.note_trouble(running.trouble());
                }
                self.report(&running);
                Ok(ControlFlow::Break(pending))
            }
            Err(error) => self.fail(&mut running, None, error).map(ControlFlow::Break),
        }
    }

    /// Merges a step of a subcompaction, with no lock held; whether it has come to its end, and what it wrote is durable.
    fn step(&self, subcompaction: &mut Subcompaction, is_command: bool) -> Result<bool> {
        let is_thorough = is_command || self.core.space.shortage.is_refused();
        let version = self.versions.superversion().version.clone();
        let sparse = self.collector.sparse_segments(&version, is_thorough).into_keys().collect();
        drop(version);
        let mut move_value = |pointer, segment: &_| self.collector.move_value(&sparse, pointer, segment);
        let step_bytes = self.core.mutable_options.rates().step_bytes(step_bytes(&self.core.options));
        let is_ready = subcompaction.step(step_bytes, &mut move_value)?;
        if is_ready {
            if subcompaction.moved_bytes() > 0 {
                self.collector.sync()?;
            }
            if !subcompaction.outputs().is_empty() {
                self.core.table_store.sync_names()?;
            }
        }
        Ok(is_ready)
    }

    /// Gives up a job that cleans a table of the entries that batches up to `lsn` have deleted, and found no room for the rest of the
    /// table: either less was free than it takes, or the disk refused a request.
    fn give_cleaning_up(
        &self,
        running: &mut RunningJobs,
        id: JobId,
        lsn: Lsn,
        is_out_of_room: bool,
    ) -> Result<()> {
        let mut refused_bytes = 0;
        if !is_out_of_room {
            // A disk that refused what it says it has is not asked for that again, but for what is set aside on it.
            refused_bytes = running.free_bytes(&self.core.table_store)?;
            if let Some(job) = running.job(id) {
                self.core.space.guard.give_ballast(job.need_bytes());
            }
        }
        if let Some(job) = running.job(id) {
            self.cleaner.fail(job, lsn, refused_bytes);
        }
        running.give_up(id);
        self.report(running);
        Ok(())
    }

    /// Gives up the job that failed. If one of its inputs could not be read, that table is set aside and the other jobs go on.
    fn fail(&self, running: &mut RunningJobs, id: Option<JobId>, error: Error) -> Result<Pending> {
        let is_command = id.and_then(|id| running.job(id)).is_some_and(|job| job.is_command);
        id.into_iter().for_each(|id| running.give_up(id));
        let is_aside = id.is_some() && self.versions.set_table_aside(&error);
        if is_command || !is_aside {
            self.core
                .commands
                .end(&Err(error.clone()), |task| matches!(task, PendingCommand::Compact { .. }));
        }
        let trouble = if is_aside { running.trouble() } else { Some(error.clone()) };
        self.note_trouble(trouble);
        self.report(running);
        if is_aside { Ok(Pending::More) } else { Err(error) }
    }

    /// Notes why compaction cannot go on, if that is so.
    fn note_trouble(&self, error: Option<Error>) {
        let trouble = error.map(|error| self.core.space.trouble(error));
        self.core.space.shortage.note_merge(trouble);
    }

    /// The time for which no step may begin: merges are paused, the rates are used up, or writers wait for a flush, which then has the
    /// disk for itself.
    fn pause(&self, running: &RunningJobs) -> Option<Duration> {
        if self.core.mutable_options.is_paused() {
            return Some(PAUSE);
        }
        if let Some(wait) =
            running.throttle.wait(self.core.mutable_options.rates(), self.core.clock.elapsed())
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

    /// Records the end of a job in the event log.
    fn record_end(&self, job: &CompactionJob) {
        let (bytes_out, files_out) = job.installed();
        let duration = self.core.clock.elapsed().saturating_sub(job.began);
        let fields = vec![
            ("from_level", (job.compaction.from_level() as u64).into()),
            ("into_level", (job.compaction.into as u64).into()),
            ("bytes_in", job.input_bytes().into()),
            ("bytes_out", bytes_out.into()),
            ("files_out", files_out.into()),
            ("duration_ns", (duration.as_nanos() as u64).into()),
        ];
        self.core.record("merge_end", fields);
    }

    /// Makes the outputs of a subcompaction part of the store in place of the inputs that are passed, and ends the job with its last one.
    fn install(&self, running: &mut RunningJobs, subcompaction: Subcompaction) -> Result<()> {
        let Some(at) = running.jobs.iter().position(|job| job.id == subcompaction.job) else {
            subcompaction.abandon();
            return Ok(());
        };
        let job = &mut running.jobs[at];
        let (into, is_last) = (job.compaction.into, job.is_last(subcompaction.number));
        let added: Vec<(usize, Arc<Table>)> =
            subcompaction.outputs().iter().map(|table| (into, table.clone())).collect();
        let leaving = job.leaving(subcompaction.number);
        let cursor = job.compaction.cursor.as_ref().filter(|_| is_last);
        if is_last || !added.is_empty() || !leaving.is_empty() {
            let mut change = self.versions.change();
            let edit = Edit::replace(&leaving, &added, cursor, self.core.table_store.next_number());
            if let Err(error) = change.install(&edit, &leaving, &added, None) {
                // After a failed sync the edit may be durable all the same: then the files stay.
                if !change.is_failed() {
                    subcompaction.abandon();
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
        meter.write_bytes.fetch_add(subcompaction.output_bytes(), Relaxed);
        job.note(&subcompaction);
        job.end_subcompaction(&subcompaction, &leaving);
        if let Some(lsn) = job.cleans() {
            self.cleaner.pass(subcompaction.outputs(), lsn);
        }
        if is_last {
            let job = running.jobs.remove(at);
            // Whether what waited for space fits now, nobody has looked yet.
            running.waiting = None;
            self.record_end(&job);
            if job.is_command {
                self.core
                    .commands
                    .end(&Ok(()), |task| matches!(task, PendingCommand::Compact { is_started: true, .. }));
            }
        }
        Ok(())
    }

    /// Time for which the rates are used up.
    pub fn rate_wait(&self) -> Option<Duration> {
        let rates = self.core.mutable_options.rates();
        self.running.lock().throttle.wait(rates, self.core.clock.elapsed())
    }

    /// Makes tables from elsewhere part of the store; see [`LevelStore::ingest`](super::level_store::LevelStore::ingest).
    ///
    /// A level may take a table if no other one of it or above it overlaps the table, and no job that runs has the range to itself there: the
    /// outputs of a job may reach over the gaps between its inputs.
    pub fn ingest(&self, tables: &[Arc<Table>], log_lsn: Lsn) -> Result<()> {
        let mut running = self.running.lock();
        let rates = self.core.mutable_options.rates();
        running.throttle.charge(rates, &self.traffic.snapshot(), self.core.clock.elapsed());
        let mut change = self.versions.change();
        let mut levels = self.versions.picture(&self.versions.superversion().version);
        levels.claims = running.claims();
        let place = |table: &Arc<Table>| (levels.lowest_free(&table.smallest, &table.largest), table.clone());
        let added: Vec<(usize, Arc<Table>)> = tables.iter().map(place).collect();
        let next_number = self.core.table_store.next_number();
        let edit = Edit { log_lsn: Some(log_lsn), ..Edit::replace(&[], &added, None, next_number) };
        if let Err(error) = change.install(&edit, &[], &added, None) {
            // After a failed sync the edit may be durable all the same: then the files stay.
            if !change.is_failed() {
                tables.iter().for_each(|table| table.retire());
            }
            return Err(error);
        }
        for (level, table) in &added {
            let meter = &self.core.levels[*level];
            meter.in_bytes.fetch_add(table.bytes, Relaxed);
            meter.write_bytes.fetch_add(table.bytes, Relaxed);
        }
        Ok(())
    }

    /// Keeps the lines of reports on running jobs.
    fn report(&self, running: &RunningJobs) {
        let jobs = &running.jobs;
        let temporary_bytes = jobs.iter().map(CompactionJob::temporary_bytes).sum();
        self.core.space.note_merges(temporary_bytes, running.owed_bytes());
        let rates = self.core.mutable_options.rates().describe();
        let lines = jobs.iter().map(|job| job.describe() + &rates);
        let waiting = running.waiting.clone().filter(|_| jobs.is_empty());
        *self.activity.lock() = lines.chain(waiting).collect();
    }
}
