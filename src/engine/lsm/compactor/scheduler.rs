//! The choice of the next compaction, and whether there is room for it. In this order: a command, cleaning, the policy, a damaged table,
//! a segment of the log that is to be emptied. Moves and drops, which read nothing, are done here at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::cleaner::Cleaner;
use super::collector::Collector;
use super::job::CompactionJob;
use super::running::RunningJobs;
use super::subcompaction::Subcompaction;
use crate::base::text::human_size;
use crate::engine::lsm::commands::PendingCommand;
use crate::engine::lsm::compaction::{Choice, Compaction, Levels, Policy, full, whole_level};
use crate::engine::lsm::core::Core;
use crate::engine::lsm::manifest::Edit;
use crate::engine::lsm::table::{Table, TableMeta, TableNumber};
use crate::engine::lsm::version::Version;
use crate::engine::lsm::version_set::VersionSet;
use crate::engine::{Error, Pending, Result, WorkClass, is_short_of_files};

/// Number of files that compactions leave to a flush and the log.
const FLUSH_FILES: u64 = 2;
/// Time after which to look again whether there is space for a compaction.
const RETRY: Duration = Duration::from_secs(1);

/// Why a compaction begins.
#[derive(Clone, Copy)]
enum Reason {
    /// A command asks for it.
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

/// Result of looking for the next compaction.
enum Next {
    Nothing,
    NoSpace,
    Moved,
    Started,
}

/// Chooses compactions. Every caller holds the lock of the running jobs.
pub struct Scheduler {
    core: Arc<Core>,
    versions: Arc<VersionSet>,
    cleaner: Arc<Cleaner>,
    collector: Arc<Collector>,
    dropped_bytes: AtomicU64,
}

impl Scheduler {
    /// The scheduler of the store whose versions are `versions`.
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

    /// The subcompaction of which to do a step; without one, when to ask again.
    pub fn next_subcompaction(&self, running: &mut RunningJobs) -> Result<(Option<Subcompaction>, Pending)> {
        let next_try = self.versions.set_aside().next_try();
        let mut pending = next_try.map_or(Pending::Idle, Pending::After);
        if running.begun_subcompactions() < self.core.options.merge_threads {
            if !running.jobs.iter().any(CompactionJob::has_waiting_subcompaction) {
                match self.look_for_compaction(running)? {
                    Next::Moved => return Ok((None, Pending::More)),
                    Next::NoSpace => pending = Pending::After(RETRY),
                    Next::Nothing | Next::Started => {}
                }
            }
            if let Some(subcompaction) = running.jobs.iter_mut().find_map(CompactionJob::begin_subcompaction)
            {
                // There may be more: another subcompaction, or another merge.
                self.core.wake_signal.notify(WorkClass::Merge);
                return Ok((Some(subcompaction), Pending::More));
            }
        }
        let longest = (!running.resting.is_empty()).then(|| running.resting.remove(0));
        Ok((longest, pending))
    }

    /// Looks for a compaction beside those that run, and notes whether writers gain anything from waiting for the space that compactions
    /// give back.
    fn look_for_compaction(&self, running: &mut RunningJobs) -> Result<Next> {
        let changes = self.core.space.shortage.changes();
        running.cleaning_waits = false;
        let next = self.next_compaction(running)?;
        let is_idle = matches!(next, Next::Nothing | Next::NoSpace) && running.jobs.is_empty();
        // What waits for the end of a job to be cleaned gives some back after it.
        let gives_back = |job: &CompactionJob| job.frees() || job.is_halfway();
        let is_exhausted = !running.cleaning_waits && !running.jobs.iter().any(gives_back);
        self.core.space.shortage.note_look(changes, is_idle, is_exhausted);
        Ok(next)
    }

    /// Chooses and begins the next compaction, if there is one.
    fn next_compaction(&self, running: &mut RunningJobs) -> Result<Next> {
        // Only read here: what is installed later is still claimed.
        let version = self.versions.superversion().version.clone();
        let flushed = self.versions.flushed();
        if self.core.commands.is_compact_due(flushed) {
            if !running.jobs.is_empty() {
                return Ok(Next::Nothing);
            }
            let level = self.core.commands.start_compact(flushed);
            let compaction = level.map_or_else(|| full(&version), |level| whole_level(&version, level));
            let numbers = compaction
                .iter()
                .flat_map(|compaction| &compaction.inputs)
                .flat_map(|(_, numbers)| numbers)
                .copied();
            let damage = self.versions.set_aside().why(numbers);
            let Some(compaction) = compaction.filter(|_| damage.is_none()) else {
                let result = damage.map_or(Ok(()), Err);
                self.core
                    .commands
                    .end(&result, |task| matches!(task, PendingCommand::Compact { is_started: true, .. }));
                return Ok(Next::Moved);
            };
            if self.begin(&version, compaction, Reason::Command, running)? {
                return Ok(Next::Started);
            }
            // It may fit when what is deleted is gone.
            let begun = self.clean(&version, &self.versions.picture(&version), running)?;
            return if begun { Ok(Next::Started) } else { Err(Error::NoSpace) };
        }
        if !self.core.mutable_options.auto_compact() {
            return Ok(Next::Nothing);
        }
        let cursors = self.versions.cursors();
        let mut levels = self.versions.picture(&version);
        levels.claims = running.claims();
        if self.core.space.shortage.is_cleaning_wanted() {
            if self.clean(&version, &levels, running)? {
                return Ok(Next::Started);
            }
            // A merge that the policy wants may take the room that they need, and take them along for nothing.
            if running.cleaning_waits && self.core.space.shortage.is_refused() {
                return Ok(Next::Nothing);
            }
            if running.jobs.is_empty() {
                self.core.space.shortage.set_unasked(false);
            }
        }
        match self.core.mutable_options.policy().choose(&levels, &cursors) {
            Choice::Drop(compaction) => {
                self.drop_tables(&version, &compaction)?;
                Ok(Next::Moved)
            }
            Choice::Nothing => match self.own_compaction(&version, &levels) {
                Some((reason, compaction)) => {
                    let begun = self.begin(&version, compaction, reason, running)?;
                    Ok(if begun { Next::Started } else { Next::NoSpace })
                }
                None => {
                    if running.jobs.is_empty() {
                        running.waiting = None;
                    }
                    Ok(Next::Nothing)
                }
            },
            Choice::Move(compaction) => {
                self.move_tables(&version, &compaction)?;
                Ok(Next::Moved)
            }
            Choice::Merge(compaction) => {
                let smaller = smaller_compactions(&version, &compaction);
                if self.begin(&version, compaction, Reason::Policy, running)? {
                    return Ok(Next::Started);
                }
                for compaction in smaller {
                    let is_free = levels.is_free(&compaction);
                    if is_free && self.begin(&version, compaction, Reason::Short, running)? {
                        return Ok(Next::Started);
                    }
                }
                Ok(Next::NoSpace)
            }
        }
    }

    /// A compaction that the policy does not ask for, and its reason: of a table whose filter, index or footer is damaged, or of one with
    /// values in a segment of the log that is to be emptied.
    fn own_compaction(&self, version: &Version, levels: &Levels) -> Option<(Reason, Compaction)> {
        let flaws = self.core.table_store.flaws();
        let is_flawed = |table: &Table| flaws.iter().any(|(number, _)| *number == table.number);
        let tables = (!flaws.is_empty()).then(|| version.tables()).into_iter().flatten();
        let flawed = tables.filter(|(_, table)| is_flawed(table));
        let mut mends = flawed.map(|(level, table)| Compaction::rewrite(level, table));
        match mends.find(|compaction| levels.is_free(compaction)) {
            Some(compaction) => Some((Reason::Damage, compaction)),
            None => Some((Reason::Values, self.collector.compaction(version, levels)?)),
        }
    }

    /// Begins to clean the table that gives most back of those that can be cleaned in the room there is; whether there is one. Notes
    /// whether others wait for jobs that run.
    fn clean(&self, version: &Version, levels: &Levels, running: &mut RunningJobs) -> Result<bool> {
        for job in self.cleaner.jobs(version, levels, running)? {
            let Some(job) = job else {
                running.cleaning_waits = true;
                continue;
            };
            let missing_bytes = job.need_bytes().saturating_sub(running.free_bytes(&self.core.table_store)?);
            if missing_bytes > 0 {
                self.core.space.guard.give_ballast(missing_bytes);
            }
            if self.begin_job(version, job, Reason::Deleted, running)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Begins a compaction if there is space for it; whether there is.
    fn begin(
        &self,
        version: &Version,
        compaction: Compaction,
        reason: Reason,
        running: &mut RunningJobs,
    ) -> Result<bool> {
        let mut job = CompactionJob::new(version, compaction, &self.core.table_store, &self.core.options);
        if matches!(reason, Reason::Values) {
            job.collect();
        }
        self.begin_job(version, job, reason, running)
    }

    /// The same for a job that is made ready.
    fn begin_job(
        &self,
        version: &Version,
        mut job: CompactionJob,
        reason: Reason,
        running: &mut RunningJobs,
    ) -> Result<bool> {
        let gives_back = matches!(reason, Reason::Deleted);
        if !self.has_space(&mut job, gives_back, running)? {
            return Ok(false);
        }
        let policy = self.core.mutable_options.policy();
        let (from, into) = (job.compaction.from_level(), job.compaction.into);
        let files = |(_, numbers): &(usize, Vec<TableNumber>)| numbers.len() as u64;
        let inputs: u64 = job.compaction.inputs.iter().map(files).sum();
        let overlaps: u64 = job.compaction.inputs.iter().filter(|(level, _)| *level == into).map(files).sum();
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
            ("bytes", job.input_bytes().into()),
            ("overlapping_files", overlaps.into()),
            ("into_level_files", (version.level(into).len() as u64).into()),
            ("slices", (job.subcompactions() as u64).into()),
        ];
        self.core.record("merge_begin", fields);
        (job.began, job.is_command) = (self.core.clock.elapsed(), matches!(reason, Reason::Command));
        running.add(job);
        self.core.space.guard.look_again();
        Ok(true)
    }

    /// Whether the bytes and files that `job` needs are free beside those that running jobs may still take, and, unless it `gives_back` space, what
    /// lies above the levels. Where few files can be made, it makes do with fewer.
    fn has_space(
        &self,
        job: &mut CompactionJob,
        gives_back: bool,
        running: &mut RunningJobs,
    ) -> Result<bool> {
        let space = self.core.table_store.space()?;
        if is_short_of_files(&space) {
            job.spare_files();
        }
        let bytes = job.need_bytes();
        let above_bytes = if gives_back { 0 } else { self.core.space.above_owed_bytes() };
        let owed_bytes = running.owed_bytes() + above_bytes;
        let free_bytes = space.room_bytes().saturating_sub(owed_bytes);
        let slots = self.core.options.merge_threads;
        let owed_files: u64 = running.jobs.iter().map(|job| job.need_files(slots)).sum();
        let (files, free_files) = (job.need_files(slots), space.room_files().saturating_sub(owed_files));
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
        if fits && !running.is_warned && policy.outgrows_disk() && 2 * bytes > free_bytes {
            running.is_warned = true;
            log::warn!(
                "policy={}: a merge of {} has {} free beside it; soon none will fit",
                policy.name(),
                human_size(bytes),
                human_size(free_bytes)
            );
        }
        if !fits && running.waiting.is_none() {
            log::warn!("{text}");
        }
        running.waiting = (!fits).then_some(text);
        Ok(fits)
    }

    /// Moves tables to another level without reading them.
    fn move_tables(&self, version: &Version, compaction: &Compaction) -> Result<()> {
        let moved = version.inputs(compaction);
        let added: Vec<(usize, Arc<Table>)> =
            moved.iter().map(|(_, table)| (compaction.into, table.clone())).collect();
        let edit =
            Edit::replace(&moved, &added, compaction.cursor.as_ref(), self.core.table_store.next_number());
        self.versions.change().install(&edit, &moved, &added, None)?;
        let bytes: u64 = moved.iter().map(|(_, table)| table.bytes).sum();
        self.core.levels[compaction.into].moved_bytes.fetch_add(bytes, Relaxed);
        let fields = vec![
            ("from_level", (compaction.from_level() as u64).into()),
            ("into_level", (compaction.into as u64).into()),
            ("files", (moved.len() as u64).into()),
            ("bytes", bytes.into()),
        ];
        self.core.record("move", fields);
        Ok(())
    }

    /// Takes expired tables out of the store.
    fn drop_tables(&self, version: &Version, compaction: &Compaction) -> Result<()> {
        let dropped = version.inputs(compaction);
        let edit =
            Edit::replace(&dropped, &[], compaction.cursor.as_ref(), self.core.table_store.next_number());
        self.versions.change().install(&edit, &dropped, &[], None)?;
        let bytes: u64 = dropped.iter().map(|(_, table)| table.bytes).sum();
        self.dropped_bytes.fetch_add(bytes, Relaxed);
        let fields = vec![("files", (dropped.len() as u64).into()), ("bytes", bytes.into())];
        self.core.record("drop", fields);
        Ok(())
    }
}

/// Smaller compactions in place of one out of L0 that does not fit: of its oldest table alone, or of two neighbours in L0.
fn smaller_compactions(version: &Version, compaction: &Compaction) -> Vec<Compaction> {
    let mut smaller = Vec::new();
    let l0: Vec<&TableMeta> = version.level(0).iter().map(|table| table.meta()).collect();
    let takes = |table: &TableMeta| {
        compaction.inputs.iter().any(|(level, numbers)| *level == 0 && numbers.contains(&table.number))
    };
    // A compaction over several levels takes them as a whole: a part of it would put new entries below older ones.
    let is_plain = compaction.into > 0
        && compaction.inputs.iter().all(|(level, _)| *level == 0 || *level == compaction.into);
    if let Some(oldest) = l0.last().filter(|table| is_plain && l0.len() > 1 && takes(table)) {
        let lower = version.level(compaction.into).overlapping(&oldest.smallest, &oldest.largest);
        let lower = lower.map(|table| table.meta()).collect();
        smaller.push(Compaction::new(
            vec![(0, vec![oldest]), (compaction.into, lower)],
            compaction.into,
            None,
        ));
    }
    let pairs = l0.windows(2).filter(|pair| pair.iter().all(|table| takes(table)));
    if let Some(pair) = pairs.min_by_key(|pair| pair[0].bytes + pair[1].bytes) {
        smaller.push(Compaction::new(vec![(0, pair.to_vec())], 0, None));
    }
    smaller
}
