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

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::compaction::{Choice, Claim, Job, Levels, RunningJob, Slice, full, whole_level};
use super::manifest::Edit;
use super::table::{Table, TableMeta};
use super::throttle::Throttle;
use super::version::Version;
use super::{LsmEngine, Task};
use crate::base::text::human_size;
use crate::engine::{Cause, Class, Error, Pending, Result};

/// Key and value bytes merged in one unit of work.
const UNIT_BYTES: u64 = 4 << 20;
/// Files that merges leave to a flush and the log.
const FLUSH_FILES: u64 = 2;
/// When to look again whether there is space for a merge.
const RETRY: Duration = Duration::from_secs(1);
/// When to look again whether merges are still paused, should the bell not ring.
const PAUSE: Duration = Duration::from_secs(1);
/// When to look again whether a flush still has the disk.
const YIELD: Duration = Duration::from_millis(5);

/// Merges of a store.
#[derive(Default)]
pub struct Merging {
    /// Those that run, in the order of their start.
    pub jobs: Vec<RunningJob>,
    /// Begun slices between two steps, the one that rested longest first.
    pub resting: Vec<Slice>,
    /// Begun slices of which a step is being done.
    pub stepping: u64,
    next_id: u64,
    /// What a merge waits for, if there is no space for it.
    waiting: Option<String>,
    throttle: Throttle,
    /// Whether it was said that merges may soon not fit.
    warned: bool,
}

impl Merging {
    /// What merges that run have to themselves.
    pub fn claims(&self) -> Vec<Claim> {
        self.jobs.iter().flat_map(RunningJob::claims).collect()
    }

    /// Why nothing is merged, if that is so: while something runs, it may make space.
    fn trouble(&self) -> Option<Error> {
        self.waiting.as_ref().filter(|_| self.jobs.is_empty()).map(|_| Error::NoSpace)
    }

    /// Gives up a merge.
    fn give_up(&mut self, id: u64) {
        self.jobs.retain(|job| job.id != id);
        self.resting.extract_if(.., |slice| slice.job == id).for_each(|slice| slice.abandon());
    }
}

/// What came of looking for the next merge.
enum Next {
    Nothing,
    NoSpace,
    Moved,
    Started,
}

impl LsmEngine {
    /// One unit of merge work.
    pub(super) fn merge_work(&self) -> Result<Pending> {
        let (mut slice, is_command) = {
            let mut merging = self.merging.lock();
            if let Some(wait) = self.merge_pause(&merging) {
                return Ok(Pending::After(wait));
            }
            match self.next_slice(&mut merging) {
                Ok((Some(slice), _)) => {
                    merging.stepping += 1;
                    self.report_merges(&merging);
                    let is_command = merging.jobs.iter().any(|job| job.id == slice.job && job.is_command);
                    (slice, is_command)
                }
                Ok((None, pending)) => {
                    // What others do now says whether merges are in trouble.
                    if merging.stepping == 0 {
                        self.note_merges(merging.trouble());
                    }
                    self.report_merges(&merging);
                    return Ok(pending);
                }
                Err(error) => return self.fail_merge(&mut merging, None, error),
            }
        };
        let is_thorough = is_command || self.shortage.is_refused();
        let sparse = self.sparse_segments(&self.view().version, is_thorough).into_keys().collect();
        let mut move_value = |pointer, segment: &_| self.move_value(&sparse, pointer, segment);
        // Small tables, small steps: a merge of some of them is seen half way.
        let step_bytes =
            self.mutable_options.rates().step_bytes(UNIT_BYTES.min((self.options.table_bytes / 2).max(1)));
        let stepped = slice.step(step_bytes, &mut move_value);
        let ready = match stepped {
            Ok(true) => self.make_durable(&slice).map(|()| true),
            other => other,
        };
        let mut merging = self.merging.lock();
        merging.stepping -= 1;
        merging.throttle.charge(self.mutable_options.rates(), &self.traffic.snapshot(), self.clock.elapsed());
        let id = slice.job;
        let cleans = merging.jobs.iter().find(|job| job.id == id).and_then(RunningJob::cleans);
        let mut is_out_of_room = false;
        let result = match ready {
            Ok(true) => self.install_slice(&mut merging, slice),
            Ok(false) => {
                match merging.jobs.iter_mut().find(|job| job.id == id) {
                    Some(job) => {
                        job.note(&slice);
                        merging.resting.push(slice);
                        is_out_of_room = cleans.is_some() && !self.claim_more(&mut merging, id)?;
                        if is_out_of_room { Err(Error::NoSpace) } else { Ok(()) }
                    }
                    // It was given up meanwhile.
                    None => {
                        slice.abandon();
                        Ok(())
                    }
                }
            }
            Err(error) => {
                slice.abandon();
                Err(error)
            }
        };
        match result {
            Ok(()) => {
                self.note_merges(merging.trouble());
                self.report_merges(&merging);
                Ok(Pending::More)
            }
            Err(error) => {
                if let (Error::NoSpace, Some(position)) = (&error, cleans) {
                    let mut refused_bytes = 0;
                    if !is_out_of_room {
                        // A disk that refused what it says it has is not asked for that again, but for what is set aside on it.
                        refused_bytes = self.free_bytes(&merging)?;
                        if let Some(job) = merging.jobs.iter().find(|job| job.id == id) {
                            self.space.give_ballast(job.need_bytes());
                        }
                    }
                    let mut cleaned = self.cleaned.lock();
                    for job in merging.jobs.iter().filter(|job| job.id == id) {
                        let numbers = job.job.inputs.iter().flat_map(|(_, numbers)| numbers);
                        let bytes = job.need_bytes().max(refused_bytes);
                        numbers.for_each(|number| cleaned.fail(*number, position, bytes));
                    }
                    drop(cleaned);
                    merging.give_up(id);
                    self.report_merges(&merging);
                    return Ok(Pending::More);
                }
                self.fail_merge(&mut merging, Some(id), error)
            }
        }
    }

    /// Gives up the merge that failed. If one of its inputs could not be read, that one is set aside and the others go on.
    fn fail_merge(&self, merging: &mut Merging, id: Option<u64>, error: Error) -> Result<Pending> {
        let is_command = merging.jobs.iter().any(|job| Some(job.id) == id && job.is_command);
        id.into_iter().for_each(|id| merging.give_up(id));
        let is_aside = id.is_some() && self.set_table_aside(&error);
        if is_command || !is_aside {
            self.commands.end(&Err(error.clone()), |task| matches!(task, Task::Compact { .. }));
        }
        let trouble = if is_aside { merging.trouble() } else { Some(error.clone()) };
        self.note_merges(trouble);
        self.report_merges(merging);
        if is_aside { Ok(Pending::More) } else { Err(error) }
    }

    /// Notes why merges cannot go on, if that is so.
    fn note_merges(&self, error: Option<Error>) {
        let trouble = error.map(|error| self.trouble(error));
        self.shortage.note_merge(trouble);
    }

    /// How long no merge step may begin: merges are paused, the rates are used up, or writers wait for a flush, which then has the disk for itself.
    fn merge_pause(&self, merging: &Merging) -> Option<Duration> {
        if self.mutable_options.is_paused() {
            return Some(PAUSE);
        }
        if let Some(wait) = merging.throttle.wait(self.mutable_options.rates(), self.clock.elapsed()) {
            return Some(wait);
        }
        // A flush that has no space waits for merges in its turn.
        let is_flushing = !self.view().immutables.is_empty() && !self.shortage.has_flush_trouble();
        let stalls_on_flush = self.stalls.is_waiting(Cause::Memtables) && is_flushing;
        // Where L0 slows writers down already, merges are as urgent as the flush.
        let l0_files = self.view().version.level(0).len() as u64;
        (stalls_on_flush && l0_files < self.options.l0_slowdown).then_some(YIELD)
    }

    /// The slice to go on with; without one, what is left to do.
    fn next_slice(&self, merging: &mut Merging) -> Result<(Option<Slice>, Pending)> {
        let next_try = self.set_aside.next_try(self.clock.elapsed());
        let mut pending = next_try.map_or(Pending::Idle, Pending::After);
        if merging.resting.len() as u64 + merging.stepping < self.options.merge_threads {
            if !merging.jobs.iter().any(RunningJob::has_waiting_slice) {
                match self.look_for_merge(merging)? {
                    Next::Moved => return Ok((None, Pending::More)),
                    Next::NoSpace => pending = Pending::After(RETRY),
                    Next::Nothing | Next::Started => {}
                }
            }
            if let Some(slice) = merging.jobs.iter_mut().find_map(RunningJob::begin_slice) {
                // There may be more: another slice, or another merge.
                self.bell.ring(Class::Merge);
                return Ok((Some(slice), Pending::More));
            }
        }
        let longest = (!merging.resting.is_empty()).then(|| merging.resting.remove(0));
        Ok((longest, pending))
    }

    /// Looks for something to merge beside what runs, and notes whether there is any use in waiting for the space that merges
    /// give back.
    fn look_for_merge(&self, merging: &mut Merging) -> Result<Next> {
        let changes = self.shortage.changes();
        let next = self.next_merge(merging)?;
        let is_idle = matches!(next, Next::Nothing | Next::NoSpace) && merging.jobs.is_empty();
        // What waits for the end of a merge to be cleaned gives some back after it.
        let is_exhausted = !merging.jobs.iter().any(|job| job.frees() || job.is_halfway());
        self.shortage.note_look(changes, is_idle, is_exhausted);
        Ok(next)
    }

    /// What to merge next.
    fn next_merge(&self, merging: &mut Merging) -> Result<Next> {
        // Only read here: what is installed later is still claimed.
        let version = self.view().version.clone();
        let flushed = self.flushed.load(Relaxed);
        if self.commands.is_compact_due(flushed) {
            if !merging.jobs.is_empty() {
                return Ok(Next::Nothing);
            }
            let level = self.commands.start_compact(flushed);
            let job = level.map_or_else(|| full(&version), |level| whole_level(&version, level));
            let numbers = job.iter().flat_map(|job| &job.inputs).flat_map(|(_, numbers)| numbers).copied();
            let damage = self.set_aside.why(numbers, self.clock.elapsed());
            let Some(job) = job.filter(|_| damage.is_none()) else {
                let result = damage.map_or(Ok(()), Err);
                self.commands.end(&result, |task| matches!(task, Task::Compact { is_started: true, .. }));
                return Ok(Next::Moved);
            };
            if self.begin(&version, job, "command", merging)? {
                return Ok(Next::Started);
            }
            // It may fit when what is deleted is gone.
            let begun = self.begin_cleaning(&version, &self.picture(&version), merging)?;
            return if begun { Ok(Next::Started) } else { Err(Error::NoSpace) };
        }
        if !self.mutable_options.auto_compact() {
            return Ok(Next::Nothing);
        }
        let cursors = self.versions.cursors();
        let mut levels = self.picture(&version);
        levels.claims = merging.claims();
        if self.shortage.is_cleaning_wanted() {
            if self.begin_cleaning(&version, &levels, merging)? {
                return Ok(Next::Started);
            }
            if merging.jobs.is_empty() {
                self.shortage.set_unasked(false);
            }
        }
        match self.policy().choose(&levels, &cursors) {
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
                if self.begin(&version, job, "policy", merging)? {
                    return Ok(Next::Started);
                }
                for job in smaller {
                    let is_free = levels.is_free(&job);
                    if is_free && self.begin(&version, job, "space is short", merging)? {
                        return Ok(Next::Started);
                    }
                }
                Ok(Next::NoSpace)
            }
        }
    }

    /// What to merge where the policy wants nothing, and why: a table whose directions are damaged, or one with values in a segment of
    /// the log that is to be emptied.
    fn own_job(&self, version: &Version, levels: &Levels) -> Option<(&'static str, Job)> {
        let flaws = self.shelf.flaws();
        let is_flawed = |table: &Table| flaws.iter().any(|(number, _)| *number == table.number);
        let tables = (!flaws.is_empty()).then(|| version.tables()).into_iter().flatten();
        let flawed = tables.filter(|(_, table)| is_flawed(table));
        let mut mends = flawed.map(|(level, table)| Job::rewrite(level, table));
        match mends.find(|job| levels.is_free(job)) {
            Some(job) => Some(("damage", job)),
            None => Some(("values", self.collect_job(version, levels)?)),
        }
    }

    /// Begins a merge if there is space for it; whether there is.
    fn begin(&self, version: &Version, job: Job, reason: &str, merging: &mut Merging) -> Result<bool> {
        let mut merge = RunningJob::new(version, job, &self.shelf, &self.options);
        if reason == "values" {
            merge.collect();
        }
        self.begin_merge(version, merge, reason, merging)
    }

    /// The same for one that is made ready.
    pub(super) fn begin_merge(
        &self,
        version: &Version,
        mut merge: RunningJob,
        reason: &str,
        merging: &mut Merging,
    ) -> Result<bool> {
        if !self.has_space(&merge, merging)? {
            return Ok(false);
        }
        let policy = self.policy();
        let (from, into) = (merge.job.from_level(), merge.job.into);
        let files = |(_, numbers): &(usize, Vec<u64>)| numbers.len() as u64;
        let inputs: u64 = merge.job.inputs.iter().map(files).sum();
        let overlaps: u64 = merge.job.inputs.iter().filter(|(level, _)| *level == into).map(files).sum();
        let trigger = match (reason, from) {
            ("command", _) => "asked for".to_string(),
            ("damage", _) => "a footer, filter or index is damaged".to_string(),
            ("values", _) => "a log segment is mostly garbage".to_string(),
            ("deleted", _) => "the disk is full, and much of a table is deleted".to_string(),
            (_, 0) if policy.name() == "leveled" => {
                format!("l0_files {} of {}", version.level(0).len(), self.options.l0_trigger)
            }
            _ => format!("score {:.2} of L{from}", policy.scores(&self.picture(version))[from]),
        };
        let fields = vec![
            ("reason", reason.into()),
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
        self.journal.record(self.clock.now(), "merge_begin", fields);
        merging.next_id += 1;
        (merge.id, merge.began, merge.is_command) =
            (merging.next_id, self.clock.elapsed(), reason == "command");
        merging.jobs.push(merge);
        self.space.look_again();
        Ok(true)
    }

    /// What a merge did that is done.
    fn record_end(&self, merge: &RunningJob) {
        let duration = self.clock.elapsed().saturating_sub(merge.began);
        let fields = vec![
            ("from_level", (merge.job.from_level() as u64).into()),
            ("into_level", (merge.job.into as u64).into()),
            ("bytes_in", merge.input_bytes.into()),
            ("bytes_out", merge.installed_bytes.into()),
            ("files_out", merge.installed_files.into()),
            ("duration_ns", (duration.as_nanos() as u64).into()),
        ];
        self.journal.record(self.clock.now(), "merge_end", fields);
    }

    /// Bytes that are free beside what merges that run may still take.
    pub(super) fn free_bytes(&self, merging: &Merging) -> Result<u64> {
        let owed_bytes: u64 = merging.jobs.iter().map(RunningJob::owed_bytes).sum();
        Ok(self.shelf.space()?.room_bytes().saturating_sub(owed_bytes))
    }

    /// Whether what `merge` needs is free beside what those that run may still take.
    fn has_space(&self, merge: &RunningJob, merging: &mut Merging) -> Result<bool> {
        let bytes = merge.need_bytes();
        let owed_bytes: u64 = merging.jobs.iter().map(RunningJob::owed_bytes).sum();
        let space = self.shelf.space()?;
        let free_bytes = space.room_bytes().saturating_sub(owed_bytes);
        let slots = self.options.merge_threads;
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
        // An eager merge of a store that is one slice writes a copy of it: time to say so before it does not fit.
        if fits && !merging.warned && self.policy().name() == "eager" && 2 * bytes > free_bytes {
            merging.warned = true;
            log::warn!(
                "policy=eager: a merge of {} has {} free beside it; soon none will fit",
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

    fn move_tables(&self, version: &Version, job: &Job) -> Result<()> {
        let moved = version.inputs(job);
        let added: Vec<(usize, Arc<Table>)> =
            moved.iter().map(|(_, table)| (job.into, table.clone())).collect();
        self.install(
            &mut self.versions.change(),
            &self.edit(&moved, &added, job.cursor.as_ref()),
            &moved,
            &added,
            None,
        )?;
        let bytes: u64 = moved.iter().map(|(_, table)| table.bytes).sum();
        self.meters.levels[job.into].moved_bytes.fetch_add(bytes, Relaxed);
        let fields = vec![
            ("from_level", (job.from_level() as u64).into()),
            ("into_level", (job.into as u64).into()),
            ("files", (moved.len() as u64).into()),
            ("bytes", bytes.into()),
        ];
        self.journal.record(self.clock.now(), "move", fields);
        Ok(())
    }

    /// Takes expired tables out of the store.
    fn drop_tables(&self, version: &Version, job: &Job) -> Result<()> {
        let dropped = version.inputs(job);
        let edit = self.edit(&dropped, &[], job.cursor.as_ref());
        self.install(&mut self.versions.change(), &edit, &dropped, &[], None)?;
        let bytes: u64 = dropped.iter().map(|(_, table)| table.bytes).sum();
        self.meters.dropped_bytes.fetch_add(bytes, Relaxed);
        let fields = vec![("files", (dropped.len() as u64).into()), ("bytes", bytes.into())];
        self.journal.record(self.clock.now(), "drop", fields);
        Ok(())
    }

    /// Makes outputs and their names durable, and values that were moved.
    fn make_durable(&self, slice: &Slice) -> Result<()> {
        if slice.moved_bytes > 0 {
            self.survivors.sync()?;
        }
        if slice.outputs.is_empty() { Ok(()) } else { self.shelf.sync_names() }
    }

    /// Makes the outputs of a slice part of the store in place of the inputs that are passed, and ends the merge with its last one.
    fn install_slice(&self, merging: &mut Merging, slice: Slice) -> Result<()> {
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
            let edit = self.edit(&leaving, &added, cursor);
            if let Err(error) = self.install(&mut change, &edit, &leaving, &added, None) {
                // After a failed sync the edit may be durable all the same: then the files stay.
                if !change.is_failed() {
                    slice.abandon();
                }
                return Err(error);
            }
        }
        let meter = &self.meters.levels[into];
        for (level, table) in &leaving {
            if *level < into {
                meter.in_bytes.fetch_add(table.bytes, Relaxed);
            }
        }
        meter.write_bytes.fetch_add(slice.output_bytes(), Relaxed);
        merge.note(&slice);
        merge.end_slice(&slice, &leaving);
        if let Some(position) = merge.cleans() {
            let mut cleaned = self.cleaned.lock();
            slice.outputs.iter().for_each(|table| cleaned.pass(table.number, position));
        }
        if is_last {
            let merge = merging.jobs.remove(at);
            self.record_end(&merge);
            if merge.is_command {
                self.commands.end(&Ok(()), |task| matches!(task, Task::Compact { is_started: true, .. }));
            }
        }
        Ok(())
    }

    fn edit(
        &self,
        removed: &[(usize, Arc<Table>)],
        added: &[(usize, Arc<Table>)],
        cursor: Option<&(usize, bytes::Bytes)>,
    ) -> Edit {
        Edit {
            removed: removed.iter().map(|(level, table)| (*level, table.number)).collect(),
            added: added.iter().map(|(level, table)| (*level, table.meta().clone())).collect(),
            next_number: Some(self.shelf.next_number()),
            cursors: cursor.into_iter().cloned().collect(),
            ..Edit::default()
        }
    }

    /// Keeps what reports say of the merges that run.
    fn report_merges(&self, merging: &Merging) {
        let jobs = &merging.jobs;
        let temporary_bytes = jobs.iter().map(RunningJob::temporary_bytes).sum();
        self.meters.merge_owed_bytes.store(jobs.iter().map(RunningJob::owed_bytes).sum(), Relaxed);
        self.meters.temporary_bytes.store(temporary_bytes, Relaxed);
        self.meters.temporary_peak_bytes.fetch_max(temporary_bytes, Relaxed);
        let running = jobs.iter().map(|merge| merge.describe() + &self.mutable_options.rates().describe());
        self.activity.lock().merges =
            running.chain(merging.waiting.clone().filter(|_| jobs.is_empty())).collect();
    }

    /// Gives up the merges that run; nobody may be working on them.
    pub(super) fn stop_merging(&self) {
        let mut merging = self.merging.lock();
        merging.jobs.clear();
        merging.resting.drain(..).for_each(|slice| slice.abandon());
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
