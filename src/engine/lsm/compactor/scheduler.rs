//! What to merge next: what a command asks for, what is to be cleaned, what the policy chooses, a damaged table, or a segment of the log
//! that is to be emptied, in this order; and whether there is room for it. What goes unread is done here at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::cleaner::Cleaner;
use super::collector::Collector;
use super::merging::Merging;
use super::running::{RunningJob, Slice};
use crate::base::text::human_size;
use crate::engine::lsm::commands::Task;
use crate::engine::lsm::compaction::{Choice, Job, Levels, Policy, full, whole_level};
use crate::engine::lsm::core::Core;
use crate::engine::lsm::manifest::Edit;
use crate::engine::lsm::table::{Table, TableMeta};
use crate::engine::lsm::version::Version;
use crate::engine::lsm::version_set::VersionSet;
use crate::engine::{Error, Pending, Result, WorkClass};

/// Files that merges leave to a flush and the log.
const FLUSH_FILES: u64 = 2;
/// When to look again whether there is space for a merge.
const RETRY: Duration = Duration::from_secs(1);

/// Why a merge begins.
#[derive(Clone, Copy)]
enum Reason {
    /// It was asked for.
    Command,
    /// Much of a table is deleted, and the disk is full.
    Deleted,
    /// The policy chose it.
    Policy,
    /// The policy chose a larger one, for which there is no space.
    Short,
    /// A footer, filter or index is damaged.
    Damage,
    /// A segment of the log is mostly garbage.
    Values,
}

impl Reason {
    /// Its name in the event log.
    fn name(self) -> &'static str {
        match self {
            Reason::Command => "command",
            Reason::Deleted => "deleted",
            Reason::Policy => "policy",
            Reason::Short => "space is short",
            Reason::Damage => "damage",
            Reason::Values => "values",
        }
    }
}

/// What came of looking for the next merge.
enum Next {
    Nothing,
    NoSpace,
    Moved,
    Started,
}

/// Chooses merges. Every call has the lock of those that run.
pub struct Scheduler {
    core: Arc<Core>,
    versions: Arc<VersionSet>,
    cleaner: Arc<Cleaner>,
    collector: Arc<Collector>,
    dropped_bytes: AtomicU64,
}

impl Scheduler {
    /// Of the store that `versions` are of.
    pub fn new(
        core: Arc<Core>,
        versions: Arc<VersionSet>,
        cleaner: Arc<Cleaner>,
        collector: Arc<Collector>,
    ) -> Scheduler {
        Scheduler { core, versions, cleaner, collector, dropped_bytes: AtomicU64::new(0) }
    }

    /// Bytes of tables that were dropped unread.
    pub fn dropped_bytes(&self) -> u64 {
        self.dropped_bytes.load(Relaxed)
    }

    /// The slice to go on with; without one, what is left to do.
    pub fn next_slice(&self, merging: &mut Merging) -> Result<(Option<Slice>, Pending)> {
        let next_try = self.versions.set_aside().next_try();
        let mut pending = next_try.map_or(Pending::Idle, Pending::After);
        if merging.begun_slices() < self.core.options.merge_threads {
            if !merging.jobs.iter().any(RunningJob::has_waiting_slice) {
                match self.look_for_merge(merging)? {
                    Next::Moved => return Ok((None, Pending::More)),
                    Next::NoSpace => pending = Pending::After(RETRY),
                    Next::Nothing | Next::Started => {}
                }
            }
            if let Some(slice) = merging.jobs.iter_mut().find_map(RunningJob::begin_slice) {
                // There may be more: another slice, or another merge.
                self.core.wake_signal.notify(WorkClass::Merge);
                return Ok((Some(slice), Pending::More));
            }
        }
        let longest = (!merging.resting.is_empty()).then(|| merging.resting.remove(0));
        Ok((longest, pending))
    }

    /// Looks for something to merge beside what runs, and notes whether there is any use in waiting for the space that merges
    /// give back.
    fn look_for_merge(&self, merging: &mut Merging) -> Result<Next> {
        let changes = self.core.space.shortage.changes();
        let next = self.next_merge(merging)?;
        let is_idle = matches!(next, Next::Nothing | Next::NoSpace) && merging.jobs.is_empty();
        // What waits for the end of a merge to be cleaned gives some back after it.
        let is_exhausted = !merging.jobs.iter().any(|job| job.frees() || job.is_halfway());
        self.core.space.shortage.note_look(changes, is_idle, is_exhausted);
        Ok(next)
    }

    /// What to merge next.
    fn next_merge(&self, merging: &mut Merging) -> Result<Next> {
        // Only read here: what is installed later is still claimed.
        let version = self.versions.superversion().version.clone();
        let flushed = self.versions.flushed();
        if self.core.commands.is_compact_due(flushed) {
            if !merging.jobs.is_empty() {
                return Ok(Next::Nothing);
            }
            let level = self.core.commands.start_compact(flushed);
            let job = level.map_or_else(|| full(&version), |level| whole_level(&version, level));
            let numbers = job.iter().flat_map(|job| &job.inputs).flat_map(|(_, numbers)| numbers).copied();
            let damage = self.versions.set_aside().why(numbers);
            let Some(job) = job.filter(|_| damage.is_none()) else {
                let result = damage.map_or(Ok(()), Err);
                self.core
                    .commands
                    .end(&result, |task| matches!(task, Task::Compact { is_started: true, .. }));
                return Ok(Next::Moved);
            };
            if self.begin(&version, job, Reason::Command, merging)? {
                return Ok(Next::Started);
            }
            // It may fit when what is deleted is gone.
            let begun = self.clean(&version, &self.versions.picture(&version), merging)?;
            return if begun { Ok(Next::Started) } else { Err(Error::NoSpace) };
        }
        if !self.core.mutable_options.auto_compact() {
            return Ok(Next::Nothing);
        }
        let cursors = self.versions.cursors();
        let mut levels = self.versions.picture(&version);
        levels.claims = merging.claims();
        if self.core.space.shortage.is_cleaning_wanted() {
            if self.clean(&version, &levels, merging)? {
                return Ok(Next::Started);
            }
            if merging.jobs.is_empty() {
                self.core.space.shortage.set_unasked(false);
            }
        }
        match self.core.mutable_options.policy().choose(&levels, &cursors) {
            Choice::Drop(job) => {
                self.drop_tables(&version, &job)?;
                Ok(Next::Moved)
            }
            Choice::Nothing => match self.own_job(&version, &levels) {
                Some((reason, job)) => {
                    let begun = self.begin(&version, job, reason, merging)?;
                    Ok(if begun { Next::Started } else { Next::NoSpace })
                }
                None => {
                    if merging.jobs.is_empty() {
                        merging.waiting = None;
                    }
                    Ok(Next::Nothing)
                }
            },
            Choice::Move(job) => {
                self.move_tables(&version, &job)?;
                Ok(Next::Moved)
            }
            Choice::Merge(job) => {
                let smaller = smaller_jobs(&version, &job);
                if self.begin(&version, job, Reason::Policy, merging)? {
                    return Ok(Next::Started);
                }
                for job in smaller {
                    let is_free = levels.is_free(&job);
                    if is_free && self.begin(&version, job, Reason::Short, merging)? {
                        return Ok(Next::Started);
                    }
                }
                Ok(Next::NoSpace)
            }
        }
    }

    /// What to merge where the policy wants nothing, and why: a table whose directions are damaged, or one with values in a segment of
    /// the log that is to be emptied.
    fn own_job(&self, version: &Version, levels: &Levels) -> Option<(Reason, Job)> {
        let flaws = self.core.table_store.flaws();
        let is_flawed = |table: &Table| flaws.iter().any(|(number, _)| *number == table.number);
        let tables = (!flaws.is_empty()).then(|| version.tables()).into_iter().flatten();
        let flawed = tables.filter(|(_, table)| is_flawed(table));
        let mut mends = flawed.map(|(level, table)| Job::rewrite(level, table));
        match mends.find(|job| levels.is_free(job)) {
            Some(job) => Some((Reason::Damage, job)),
            None => Some((Reason::Values, self.collector.job(version, levels)?)),
        }
    }

    /// Begins to clean the table that gives most back of those that can be cleaned in the room there is; whether there is one.
    fn clean(&self, version: &Version, levels: &Levels, merging: &mut Merging) -> Result<bool> {
        for merge in self.cleaner.jobs(version, levels, merging)? {
            let missing_bytes =
                merge.need_bytes().saturating_sub(merging.free_bytes(&self.core.table_store)?);
            if missing_bytes > 0 {
                self.core.space.guard.give_ballast(missing_bytes);
            }
            if self.begin_merge(version, merge, Reason::Deleted, merging)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Begins a merge if there is space for it; whether there is.
    fn begin(&self, version: &Version, job: Job, reason: Reason, merging: &mut Merging) -> Result<bool> {
        let mut merge = RunningJob::new(version, job, &self.core.table_store, &self.core.options);
        if matches!(reason, Reason::Values) {
            merge.collect();
        }
        self.begin_merge(version, merge, reason, merging)
    }

    /// The same for one that is made ready.
    fn begin_merge(
        &self,
        version: &Version,
        mut merge: RunningJob,
        reason: Reason,
        merging: &mut Merging,
    ) -> Result<bool> {
        if !self.has_space(&merge, merging)? {
            return Ok(false);
        }
        let policy = self.core.mutable_options.policy();
        let (from, into) = (merge.job.from_level(), merge.job.into);
        let files = |(_, numbers): &(usize, Vec<u64>)| numbers.len() as u64;
        let inputs: u64 = merge.job.inputs.iter().map(files).sum();
        let overlaps: u64 = merge.job.inputs.iter().filter(|(level, _)| *level == into).map(files).sum();
        let trigger = match reason {
            Reason::Command => "asked for".to_string(),
            Reason::Damage => "a footer, filter or index is damaged".to_string(),
            Reason::Values => "a log segment is mostly garbage".to_string(),
            Reason::Deleted => "the disk is full, and much of a table is deleted".to_string(),
            Reason::Policy | Reason::Short => policy.trigger(&self.versions.picture(version), from),
        };
        let fields = vec![
            ("reason", reason.name().into()),
            ("policy", policy.name().into()),
            ("trigger", trigger.into()),
            ("from_level", (from as u64).into()),
            ("into_level", (into as u64).into()),
            ("files", inputs.into()),
            ("bytes", merge.input_bytes.into()),
            ("overlapping_files", overlaps.into()),
            ("into_level_files", (version.level(into).len() as u64).into()),
            ("slices", (merge.slices() as u64).into()),
        ];
        self.core.record("merge_begin", fields);
        (merge.began, merge.is_command) = (self.core.clock.elapsed(), matches!(reason, Reason::Command));
        merging.add(merge);
        self.core.space.guard.look_again();
        Ok(true)
    }

    /// Whether what `merge` needs is free beside what those that run may still take.
    fn has_space(&self, merge: &RunningJob, merging: &mut Merging) -> Result<bool> {
        let bytes = merge.need_bytes();
        let owed_bytes = merging.owed_bytes();
        let space = self.core.table_store.space()?;
        let free_bytes = space.room_bytes().saturating_sub(owed_bytes);
        let slots = self.core.options.merge_threads;
        let owed_files: u64 = merging.jobs.iter().map(|job| job.need_files(slots)).sum();
        let (files, free_files) = (merge.need_files(slots), space.room_files().saturating_sub(owed_files));
        let has_files = files + FLUSH_FILES <= free_files;
        let fits = bytes <= free_bytes && has_files;
        let text = if has_files {
            format!("a merge of {} waits: only {} are free", human_size(bytes), human_size(free_bytes))
        } else {
            format!(
                "a merge to {files} files waits: only {free_files} can be made on the disk below (inodes)"
            )
        };
        let policy = self.core.mutable_options.policy();
        if fits && !merging.is_warned && policy.outgrows_disk() && 2 * bytes > free_bytes {
            merging.is_warned = true;
            log::warn!(
                "policy={}: a merge of {} has {} free beside it; soon none will fit",
                policy.name(),
                human_size(bytes),
                human_size(free_bytes)
            );
        }
        if !fits && merging.waiting.is_none() {
            log::warn!("{text}");
        }
        merging.waiting = (!fits).then_some(text);
        Ok(fits)
    }

    /// Takes tables to another level as they are.
    fn move_tables(&self, version: &Version, job: &Job) -> Result<()> {
        let moved = version.inputs(job);
        let added: Vec<(usize, Arc<Table>)> =
            moved.iter().map(|(_, table)| (job.into, table.clone())).collect();
        let edit = Edit::replace(&moved, &added, job.cursor.as_ref(), self.core.table_store.next_number());
        self.versions.change().install(&edit, &moved, &added, None)?;
        let bytes: u64 = moved.iter().map(|(_, table)| table.bytes).sum();
        self.core.levels[job.into].moved_bytes.fetch_add(bytes, Relaxed);
        let fields = vec![
            ("from_level", (job.from_level() as u64).into()),
            ("into_level", (job.into as u64).into()),
            ("files", (moved.len() as u64).into()),
            ("bytes", bytes.into()),
        ];
        self.core.record("move", fields);
        Ok(())
    }

    /// Takes expired tables out of the store.
    fn drop_tables(&self, version: &Version, job: &Job) -> Result<()> {
        let dropped = version.inputs(job);
        let edit = Edit::replace(&dropped, &[], job.cursor.as_ref(), self.core.table_store.next_number());
        self.versions.change().install(&edit, &dropped, &[], None)?;
        let bytes: u64 = dropped.iter().map(|(_, table)| table.bytes).sum();
        self.dropped_bytes.fetch_add(bytes, Relaxed);
        let fields = vec![("files", (dropped.len() as u64).into()), ("bytes", bytes.into())];
        self.core.record("drop", fields);
        Ok(())
    }
}

/// Smaller merges in place of one out of L0, should it not fit: its oldest table alone, or two neighbours in L0.
fn smaller_jobs(version: &Version, job: &Job) -> Vec<Job> {
    let mut jobs = Vec::new();
    let l0: Vec<&TableMeta> = version.level(0).iter().map(|table| table.meta()).collect();
    let takes = |table: &TableMeta| {
        job.inputs.iter().any(|(level, numbers)| *level == 0 && numbers.contains(&table.number))
    };
    // A job over several levels takes them as a whole: a part of it would put new over old.
    let is_plain = job.into > 0 && job.inputs.iter().all(|(level, _)| *level == 0 || *level == job.into);
    if let Some(oldest) = l0.last().filter(|table| is_plain && l0.len() > 1 && takes(table)) {
        let lower = version.level(job.into).overlapping(&oldest.smallest, &oldest.largest);
        let lower = lower.map(|table| table.meta()).collect();
        jobs.push(Job::new(vec![(0, vec![oldest]), (job.into, lower)], job.into, None));
    }
    let pairs = l0.windows(2).filter(|pair| pair.iter().all(|table| takes(table)));
    if let Some(pair) = pairs.min_by_key(|pair| pair[0].bytes + pair[1].bytes) {
        jobs.push(Job::new(vec![(0, pair.to_vec())], 0, None));
    }
    jobs
}
