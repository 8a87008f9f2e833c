//! Merge work: asks the policy, runs one merge at a time a few mebibytes a call, and makes its result part of the store.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::compaction::{Choice, Job, RunningMerge, full, whole_level};
use super::manifest::Edit;
use super::table::Table;
use super::throttle::Throttle;
use super::version::Version;
use super::{LsmEngine, Task};
use crate::base::journal::Field;
use crate::base::text::human_size;
use crate::engine::{Cause, Error, Pending, Result};

/// Key and value bytes merged in one unit of work.
const UNIT_BYTES: u64 = 4 << 20;
/// When to look again whether there is space for a merge.
const RETRY: Duration = Duration::from_secs(1);
/// When to look again whether merges are still paused, should the bell not ring.
const PAUSE: Duration = Duration::from_secs(1);
/// When to look again whether a flush still has the disk.
const YIELD: Duration = Duration::from_millis(5);

/// Merges of a store.
#[derive(Default)]
pub struct Merging {
    running: Option<Box<RunningMerge>>,
    /// Damaged inputs: merging them again would find the same damage.
    blocked: Option<Error>,
    /// What a merge waits for, if there is no space for it.
    waiting: Option<String>,
    /// Clock time at which the running merge began.
    began: Duration,
    throttle: Throttle,
    /// Whether it was said that merges may soon not fit.
    warned: bool,
}

/// What came of looking for the next merge.
enum Next {
    Nothing,
    NoSpace,
    Moved,
    Started(Box<RunningMerge>),
}

impl LsmEngine {
    /// One unit of merge work.
    pub(super) fn merge_work(&self) -> Result<Pending> {
        let Some(mut merging) = self.merging.try_lock() else { return Ok(Pending::Idle) };
        if let Some(wait) = self.merge_pause(&merging) {
            return Ok(Pending::After(wait));
        }
        let result = self.merge_unit(&mut merging);
        merging.throttle.charge(&self.rates, &self.traffic.snapshot(), self.clock.elapsed());
        self.report_merge(&merging);
        self.troubles.lock().merge = match &result {
            Err(error) => Some(error.clone()),
            Ok(_) => merging.waiting.as_ref().map(|_| Error::NoSpace),
        };
        if let Err(error) = &result {
            if matches!(error, Error::Corrupt { .. }) {
                if merging.blocked.is_none() {
                    self.journal.record(self.clock.now(), "error", vec![("what", error.to_string().into())]);
                }
                merging.blocked = Some(error.clone());
            }
            self.end_commands(&Err(error.clone()), |task| matches!(task, Task::Compact { .. }));
        }
        result
    }

    /// How long no merge step may begin: merges are paused, the rates are used up, or writers wait for a flush, which then has the disk for itself.
    fn merge_pause(&self, merging: &Merging) -> Option<Duration> {
        if self.switches.paused.load(Relaxed) {
            return Some(PAUSE);
        }
        if let Some(wait) = merging.throttle.wait(&self.rates, self.clock.elapsed()) {
            return Some(wait);
        }
        let stalls_on_flush = self.stalls.is_waiting(Cause::Memtables) && !self.view().immutables.is_empty();
        // Where L0 slows writers down already, merges are as urgent as the flush.
        let l0_files = self.view().version.level(0).len() as u64;
        (stalls_on_flush && l0_files < self.options.l0_slowdown).then_some(YIELD)
    }

    fn merge_unit(&self, merging: &mut Merging) -> Result<Pending> {
        if let Some(error) = &merging.blocked {
            return Err(error.clone());
        }
        let mut merge = match merging.running.take() {
            Some(merge) => merge,
            None => match self.next_merge(merging)? {
                Next::Nothing => return Ok(Pending::Idle),
                Next::NoSpace => return Ok(Pending::After(RETRY)),
                Next::Moved => return Ok(Pending::More),
                Next::Started(merge) => {
                    merging.began = self.clock.elapsed();
                    merge
                }
            },
        };
        let sparse = self.sparse_segments(&self.view().version).into_keys().collect();
        let mut move_value = |pointer, segment: &_| self.move_value(&sparse, pointer, segment);
        match merge.step(self.rates.step_bytes(UNIT_BYTES), &mut move_value) {
            Ok(false) => merging.running = Some(merge),
            Ok(true) => {
                let fields = self.describe_end(&merge, merging.began);
                let moved_bytes = merge.moved_bytes;
                self.install_merge(*merge)?;
                self.journal.record(self.clock.now(), "merge_end", fields);
                if moved_bytes > 0 {
                    self.pass_moved_values()?;
                }
                self.end_commands(&Ok(()), |task| matches!(task, Task::Compact { is_started: true, .. }));
            }
            Err(error) => {
                merge.abandon();
                return Err(error);
            }
        }
        Ok(Pending::More)
    }

    /// Looks for something to merge.
    fn next_merge(&self, merging: &mut Merging) -> Result<Next> {
        let version = self.view().version.clone();
        if let Some(level) = self.start_commands() {
            let job = level.map_or_else(|| full(&version), |level| whole_level(&version, level));
            let Some(job) = job else {
                self.end_commands(&Ok(()), |task| matches!(task, Task::Compact { is_started: true, .. }));
                return Ok(Next::Moved);
            };
            if !self.has_space(&version, &job, merging)? {
                return Err(Error::NoSpace);
            }
            return Ok(Next::Started(self.start(&version, job, "command")?));
        }
        if !self.switches.auto_compact.load(Relaxed) {
            return Ok(Next::Nothing);
        }
        let cursors = self.manifest.lock().state().cursors.clone();
        match self.policy().choose(&version.picture(self.now_seconds()), &cursors) {
            Choice::Drop(job) => {
                self.drop_tables(&version, &job)?;
                Ok(Next::Moved)
            }
            Choice::Nothing => match self.collect_job(&version) {
                Some(job) if self.has_space(&version, &job, merging)? => {
                    Ok(Next::Started(self.start(&version, job, "values")?))
                }
                Some(_) => Ok(Next::NoSpace),
                None => {
                    merging.waiting = None;
                    Ok(Next::Nothing)
                }
            },
            Choice::Move(job) => {
                self.move_tables(&version, &job)?;
                Ok(Next::Moved)
            }
            Choice::Merge(job) if self.has_space(&version, &job, merging)? => {
                Ok(Next::Started(self.start(&version, job, "policy")?))
            }
            Choice::Merge(job) => {
                for job in parts(&version, &job) {
                    if self.has_space(&version, &job, merging)? {
                        return Ok(Next::Started(self.start(&version, job, "space is short")?));
                    }
                }
                Ok(Next::NoSpace)
            }
        }
    }

    fn start(&self, version: &Version, job: Job, reason: &str) -> Result<Box<RunningMerge>> {
        let policy = self.policy();
        let inputs = tables(version, &job);
        let into = job.into;
        let from = job.inputs.first().map_or(0, |(level, _)| *level);
        let bytes: u64 = inputs.iter().map(|(_, table)| table.bytes).sum();
        let overlaps = inputs.iter().filter(|(level, _)| *level == into).count() as u64;
        let trigger = match (reason, from) {
            ("command", _) => "asked for".to_string(),
            ("values", _) => "a log segment is mostly garbage".to_string(),
            (_, 0) if policy.name() == "leveled" => {
                format!("l0_files {} of {}", version.level(0).len(), self.options.l0_trigger)
            }
            _ => format!("score {:.2} of L{from}", policy.scores(&version.picture(self.now_seconds()))[from]),
        };
        let merge = RunningMerge::start(version, job, &self.shelf, self.options.table_bytes)?;
        let fields = vec![
            ("reason", reason.into()),
            ("policy", policy.name().into()),
            ("trigger", trigger.into()),
            ("from_level", (from as u64).into()),
            ("into_level", (into as u64).into()),
            ("files", (inputs.len() as u64).into()),
            ("bytes", bytes.into()),
            ("overlapping_files", overlaps.into()),
            ("into_level_files", (version.level(into).len() as u64).into()),
        ];
        self.journal.record(self.clock.now(), "merge_begin", fields);
        self.meters.merge_owed_bytes.store(bytes, Relaxed);
        self.space.look_again();
        Ok(Box::new(merge))
    }

    /// What a merge that has written everything did.
    fn describe_end(&self, merge: &RunningMerge, began: Duration) -> Vec<(&'static str, Field)> {
        let read: u64 = merge.inputs.iter().map(|(_, table)| table.bytes).sum();
        let duration = self.clock.elapsed().saturating_sub(began);
        vec![
            ("from_level", (merge.job.inputs.first().map_or(0, |(level, _)| *level) as u64).into()),
            ("into_level", (merge.job.into as u64).into()),
            ("bytes_in", read.into()),
            ("bytes_out", merge.output_bytes().into()),
            ("files_out", (merge.outputs.len() as u64).into()),
            ("duration_ns", (duration.as_nanos() as u64).into()),
        ]
    }

    /// Marks the compact commands whose flush is done and that one merge serves, the first of them and its like; what they ask
    /// for, a level or everything.
    fn start_commands(&self) -> Option<Option<usize>> {
        let flushed = self.flushed.load(Relaxed);
        let mut served = None;
        for (task, _) in self.commands.lock().iter_mut() {
            if let Task::Compact { position, level, is_started } = task
                && (*is_started || *position <= flushed)
            {
                *is_started = *served.get_or_insert(*level) == *level;
            }
        }
        served
    }

    /// Whether the outputs of `job` would fit beside its inputs.
    fn has_space(&self, version: &Version, job: &Job, merging: &mut Merging) -> Result<bool> {
        let bytes: u64 = tables(version, job).iter().map(|(_, table)| table.bytes).sum();
        let free_bytes = self.shelf.free_bytes()?;
        let fits = bytes <= free_bytes;
        let text =
            format!("a merge of {} waits: only {} are free", human_size(bytes), human_size(free_bytes));
        // An eager merge writes a copy of nearly everything: time to say so before it does not fit.
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
        let moved = tables(version, job);
        let added: Vec<(usize, Arc<Table>)> =
            moved.iter().map(|(_, table)| (job.into, table.clone())).collect();
        self.install(&mut self.manifest.lock(), &self.edit(job, &moved, &added), &added, None)?;
        let bytes: u64 = moved.iter().map(|(_, table)| table.bytes).sum();
        self.meters.levels[job.into].moved_bytes.fetch_add(bytes, Relaxed);
        let fields = vec![
            ("from_level", (job.inputs.first().map_or(0, |(level, _)| *level) as u64).into()),
            ("into_level", (job.into as u64).into()),
            ("files", (moved.len() as u64).into()),
            ("bytes", bytes.into()),
        ];
        self.journal.record(self.clock.now(), "move", fields);
        Ok(())
    }

    /// Takes expired tables out of the store.
    fn drop_tables(&self, version: &Version, job: &Job) -> Result<()> {
        let dropped = tables(version, job);
        self.install(&mut self.manifest.lock(), &self.edit(job, &dropped, &[]), &[], None)?;
        let bytes: u64 = dropped.iter().map(|(_, table)| table.bytes).sum();
        self.meters.dropped_bytes.fetch_add(bytes, Relaxed);
        let fields = vec![("files", (dropped.len() as u64).into()), ("bytes", bytes.into())];
        self.journal.record(self.clock.now(), "drop", fields);
        Ok(())
    }

    fn install_merge(&self, merge: RunningMerge) -> Result<()> {
        let into = merge.job.into;
        let added: Vec<(usize, Arc<Table>)> =
            merge.outputs.iter().map(|table| (into, table.clone())).collect();
        let moved = if merge.moved_bytes > 0 { self.log.sync_now() } else { Ok(()) };
        let result = moved.and_then(|()| self.shelf.sync_names()).and_then(|()| {
            let mut manifest = self.manifest.lock();
            let result =
                self.install(&mut manifest, &self.edit(&merge.job, &merge.inputs, &added), &added, None);
            // After a failed sync the edit may be durable all the same: then the files stay.
            if result.is_err() && manifest.is_failed() { Ok(result) } else { result.map(Ok) }
        });
        match result {
            Ok(result) => result?,
            Err(error) => {
                merge.abandon();
                return Err(error);
            }
        }
        let meter = &self.meters.levels[into];
        for (level, table) in &merge.inputs {
            meter.read_bytes.fetch_add(table.bytes, Relaxed);
            if *level < into {
                meter.in_bytes.fetch_add(table.bytes, Relaxed);
            }
        }
        meter.write_bytes.fetch_add(merge.output_bytes(), Relaxed);
        Ok(())
    }

    fn edit(&self, job: &Job, removed: &[(usize, Arc<Table>)], added: &[(usize, Arc<Table>)]) -> Edit {
        Edit {
            removed: removed.iter().map(|(level, table)| (*level, table.number)).collect(),
            added: added.iter().map(|(level, table)| (*level, table.meta().clone())).collect(),
            next_number: Some(self.shelf.next_number()),
            cursors: job.cursor.iter().cloned().collect(),
            ..Edit::default()
        }
    }

    /// Keeps what reports say of the running merge.
    fn report_merge(&self, merging: &Merging) {
        let bytes = merging.running.as_ref().map_or(0, |merge| merge.output_bytes());
        let owed_bytes =
            merging.running.as_ref().map_or(0, |merge| merge.input_bytes().saturating_sub(bytes));
        self.meters.merge_owed_bytes.store(owed_bytes, Relaxed);
        self.meters.temporary_bytes.store(bytes, Relaxed);
        self.meters.temporary_peak_bytes.fetch_max(bytes, Relaxed);
        let running = merging.running.as_ref().map(|merge| merge.describe() + &self.rates.describe());
        self.activity.lock().merge = running.or_else(|| merging.waiting.clone());
    }

    /// Gives up the running merge.
    pub(super) fn stop_merging(&self) {
        if let Some(merge) = self.merging.lock().running.take() {
            merge.abandon();
        }
    }
}

/// Smaller merges in place of one out of L0 that does not fit: its oldest table alone, or two neighbours in L0.
fn parts(version: &Version, job: &Job) -> Vec<Job> {
    let mut parts = Vec::new();
    let l0 = version.level(0);
    let takes = |table: &Table| {
        job.inputs.iter().any(|(level, numbers)| *level == 0 && numbers.contains(&table.number))
    };
    // A job over several levels takes them as a whole: a part of it would put new over old.
    let is_plain = job.into > 0 && job.inputs.iter().all(|(level, _)| *level == 0 || *level == job.into);
    if let Some(oldest) = l0.last().filter(|table| is_plain && l0.len() > 1 && takes(table)) {
        let lower = version.level(job.into).iter();
        let lower = lower.filter(|table| table.overlaps(&oldest.smallest, &oldest.largest));
        let lower: Vec<u64> = lower.map(|table| table.number).collect();
        let mut inputs = vec![(0, vec![oldest.number])];
        if !lower.is_empty() {
            inputs.push((job.into, lower));
        }
        parts.push(Job { inputs, into: job.into, cursor: None });
    }
    let pairs = l0.windows(2).filter(|pair| pair.iter().all(|table| takes(table)));
    if let Some(pair) = pairs.min_by_key(|pair| pair[0].bytes + pair[1].bytes) {
        let numbers = pair.iter().map(|table| table.number).collect();
        parts.push(Job { inputs: vec![(0, numbers)], into: 0, cursor: None });
    }
    parts
}

/// The tables of a job with their levels.
fn tables(version: &Version, job: &Job) -> Vec<(usize, Arc<Table>)> {
    let of_level = |(level, numbers): &(usize, Vec<u64>)| {
        let (level, numbers) = (*level, numbers.clone());
        let chosen = version.level(level).iter().filter(move |table| numbers.contains(&table.number));
        chosen.map(move |table| (level, table.clone())).collect::<Vec<_>>()
    };
    job.inputs.iter().flat_map(of_level).collect()
}
