//! Compaction: a pure [`Policy`] says what to merge, [`RunningMerge`] does it a few mebibytes at a time.
//!
//! Every policy can take over whatever another one left: all of them see the same picture, sorted runs from the newest to the oldest
//! (the tables of L0 one by one, then each level as one run), and each of their choices keeps that order.
//!
//! # Invariants
//!
//! 1. A merge takes runs that are neighbours in age. Of the target level it takes every table that overlaps what comes in.
//! 2. A tombstone is dropped only if nothing older can hold its key: no level below the target, and no table of L0 that is older
//!    than the inputs.
//! 3. Inputs stay part of the store until the edit that names the outputs is durable.

mod eager;
mod leveled;
mod plain_log;
#[cfg(test)]
mod tests;
mod tiered;
mod window;

use std::sync::Arc;

use bytes::Bytes;

use super::cursor::{Cursor, Reading, RunCursor};
use super::merge::Merge;
use super::table::{Origin, Shelf, Table, TableBuilder, TableMeta};
use super::value_log::{Pointer, Stored};
use super::version::{Run, Version};
use crate::base::text::human_size;
use crate::disk::{LEVELS, Purpose};
use crate::engine::wal::Segment;
use crate::engine::{KeyRange, Options, PolicyKind, Result, Work};

pub use eager::Eager;
pub use leveled::Leveled;
pub use plain_log::NeverMerge;
pub use tiered::Tiered;
pub use window::TimeWindow;

/// What a policy sees.
pub struct Levels<'a> {
    /// The tables of every level, L0 newest first, the others by key.
    pub tables: [Vec<&'a TableMeta>; LEVELS],
    /// Seconds since 1970.
    pub now_seconds: u64,
}

/// One sorted run.
#[derive(Clone, Debug, PartialEq)]
pub struct SortedRun {
    /// Where it lies. A table of L0 is a run of its own; of any other level there is one.
    pub level: usize,
    /// Its tables.
    pub numbers: Vec<u64>,
    /// Their bytes.
    pub bytes: u64,
    /// Seconds since 1970 of its newest batch.
    pub newest_seconds: u64,
}

impl<'a> Levels<'a> {
    /// Bytes of a level.
    pub fn bytes(&self, level: usize) -> u64 {
        self.tables[level].iter().map(|table| table.bytes).sum()
    }

    /// The lowest level below L0 that holds anything.
    pub fn lowest(&self) -> Option<usize> {
        (1..LEVELS).rev().find(|level| !self.tables[*level].is_empty())
    }

    /// All sorted runs, newest first.
    pub fn runs(&self) -> Vec<SortedRun> {
        let run = |level: usize, tables: &[&TableMeta]| SortedRun {
            level,
            numbers: tables.iter().map(|table| table.number).collect(),
            bytes: tables.iter().map(|table| table.bytes).sum(),
            newest_seconds: tables.iter().map(|table| table.newest_seconds).max().unwrap_or(0),
        };
        let upper = self.tables[0].iter().map(|table| run(0, &[*table]));
        let lower = (1..LEVELS).filter(|level| !self.tables[*level].is_empty());
        upper.chain(lower.map(|level| run(level, &self.tables[level]))).collect()
    }

    /// All of L0 merged into `level`, where nothing lies between; moved if the tables of L0 overlap nothing, nor each other.
    pub fn empty_l0(&self, level: usize) -> Choice {
        let upper = &self.tables[0];
        let (Some(start), Some(end)) =
            (upper.iter().map(|table| &table.smallest).min(), upper.iter().map(|table| &table.largest).max())
        else {
            return Choice::Nothing;
        };
        let lower = self.overlapping(level, start, end);
        let mut sorted: Vec<&TableMeta> = upper.clone();
        sorted.sort_by(|a, b| a.smallest.cmp(&b.smallest));
        let apart = sorted.windows(2).all(|pair| pair[0].largest < pair[1].smallest);
        let movable = apart && lower.is_empty() && !self.could_drop(upper, level);
        let mut inputs = vec![(0, upper.iter().map(|table| table.number).collect())];
        if !lower.is_empty() {
            inputs.push((level, lower.iter().map(|table| table.number).collect()));
        }
        let job = Job { inputs, into: level, cursor: None };
        if movable { Choice::Move(job) } else { Choice::Merge(job) }
    }

    /// Whether writing `tables` anew into `level` would get rid of much: at least half of the entries of one are tombstones, and
    /// nothing below `level` holds keys of its range.
    pub fn could_drop(&self, tables: &[&TableMeta], level: usize) -> bool {
        tables.iter().any(|table| {
            let is_bottom = (level + 1..LEVELS)
                .all(|level| self.overlapping(level, &table.smallest, &table.largest).is_empty());
            is_dense(table) && is_bottom
        })
    }

    /// Tables of a level that overlap `start..=end`.
    pub fn overlapping(&self, level: usize, start: &[u8], end: &[u8]) -> Vec<&'a TableMeta> {
        let tables = &self.tables[level];
        // Levels below L0 are sorted and apart: both ends ascend.
        let from = if level == 0 { 0 } else { tables.partition_point(|table| &table.largest[..] < start) };
        let near = tables[from..].iter().take_while(|table| level == 0 || &table.smallest[..] <= end);
        near.filter(|table| table.overlaps(start, end)).copied().collect()
    }
}

/// Whether a table holds so many tombstones that scans of its range are slow: they are half of its entries or more.
pub fn is_dense(table: &TableMeta) -> bool {
    table.tombstones > 0 && table.tombstones * 2 >= table.entries
}

/// A merge of `runs[from..to]` of all `runs`, newest first. The result lies as low as it may: right above the next older run.
pub fn merge_runs(runs: &[SortedRun], from: usize, to: usize) -> Choice {
    let mut inputs: Vec<(usize, Vec<u64>)> = Vec::new();
    for run in &runs[from..to] {
        match inputs.last_mut() {
            Some((level, numbers)) if *level == run.level => numbers.extend(&run.numbers),
            _ => inputs.push((run.level, run.numbers.clone())),
        }
    }
    let into = runs.get(to).map_or(LEVELS - 1, |older| older.level.saturating_sub(1));
    Choice::Merge(Job { inputs, into, cursor: None })
}

/// Tables to bring into a level.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Levels from above, and the numbers of the tables taken from each.
    pub inputs: Vec<(usize, Vec<u64>)>,
    /// The target level.
    pub into: usize,
    /// What to remember for the next choice: a level, and where this job ends in it.
    pub cursor: Option<(usize, Bytes)>,
}

/// What a policy wants done next.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    /// All is well.
    Nothing,
    /// Tables change their level without being read.
    Move(Job),
    /// Tables are merged.
    Merge(Job),
    /// Tables are expired: they go unread. Nothing older may hold their keys.
    Drop(Job),
}

/// Decides what to merge. Pure: no disk, no clock, no state.
pub trait Policy: Send + Sync {
    /// Its name in reports.
    fn name(&self) -> &'static str;
    /// The next job. `cursors` are what earlier jobs left to remember.
    fn choose(&self, levels: &Levels<'_>, cursors: &[Bytes; LEVELS]) -> Choice;
    /// Bytes that each level should hold at most; 0 if it is not measured in bytes.
    fn target_bytes(&self, levels: &Levels<'_>) -> [u64; LEVELS] {
        let _ = levels;
        [0; LEVELS]
    }
    /// How urgent each level is; from 1 on it must be merged down.
    fn scores(&self, levels: &Levels<'_>) -> [f64; LEVELS];
    /// Bytes that merges must still write until all is well.
    fn pending_bytes(&self, levels: &Levels<'_>) -> u64;
    /// Whether one of its merges would make the runs in L0 fewer: else waiting for that would last for ever.
    fn lowers_l0(&self, levels: &Levels<'_>) -> bool;
    /// From which time on, in seconds since 1970, tables belong to the current window; entries whose key an older table holds are
    /// late. `None` without windows.
    fn window_start(&self, now_seconds: u64) -> Option<u64> {
        let _ = now_seconds;
        None
    }
}

/// The policy that `options` ask for.
pub fn policy(options: &Options) -> Arc<dyn Policy> {
    match options.policy {
        PolicyKind::Leveled => Arc::new(Leveled::new(options)),
        PolicyKind::Tiered => Arc::new(Tiered::new(options)),
        PolicyKind::TimeWindow => Arc::new(TimeWindow::new(options)),
        PolicyKind::Log => Arc::new(NeverMerge),
        PolicyKind::Eager => Arc::new(Eager),
    }
}

/// Everything into one sorted run in the lowest level that holds anything; `None` if it is that already and holds no
/// tombstones.
pub fn full(version: &Version) -> Option<Job> {
    let used: Vec<usize> = (0..LEVELS).filter(|level| !version.level(*level).is_empty()).collect();
    let into = (*used.last()?).max(1);
    let clean = version.level(into).iter().all(|table| table.tombstones == 0);
    let numbers = |level: &usize| version.level(*level).iter().map(|table| table.number).collect();
    (used != [into] || !clean).then(|| Job {
        inputs: used.iter().map(|level| (*level, numbers(level))).collect(),
        into,
        cursor: None,
    })
}

/// A level wholly into the next, with everything there that lies between its first and its last key; `None` if it is empty.
/// `level` must not be the last.
pub fn whole_level(version: &Version, level: usize) -> Option<Job> {
    let upper = version.level(level);
    let start = upper.iter().map(|table| &table.smallest).min()?;
    let end = upper.iter().map(|table| &table.largest).max()?;
    let numbers = |tables: &mut dyn Iterator<Item = &Arc<Table>>| tables.map(|table| table.number).collect();
    let mut inputs: Vec<(usize, Vec<u64>)> = vec![(level, numbers(&mut upper.iter()))];
    let lower = version.level(level + 1).iter();
    let lower: Vec<u64> = numbers(&mut lower.filter(|table| table.overlaps(start, end)));
    if !lower.is_empty() {
        inputs.push((level + 1, lower));
    }
    Some(Job { inputs, into: level + 1, cursor: None })
}

/// Levels below the target of a merge, passed through in the order of keys.
struct Below(Vec<(Run, usize)>);

impl Below {
    /// Whether they hold nothing at all.
    fn is_empty(&self) -> bool {
        self.0.iter().all(|(run, _)| run.is_empty())
    }

    /// Whether any of them can hold `key`; keys must ascend from call to call.
    fn may_hold(&mut self, key: &[u8]) -> bool {
        self.0.iter_mut().any(|(run, at)| {
            while run.get(*at).is_some_and(|table| &table.largest[..] < key) {
                *at += 1;
            }
            run.get(*at).is_some_and(|table| &table.smallest[..] <= key)
        })
    }
}

/// A merge between its first and its last entry. Dropped early, it leaves no files.
pub struct RunningMerge {
    /// What it does.
    pub job: Job,
    /// Its inputs with their levels.
    pub inputs: Vec<(usize, Arc<Table>)>,
    /// Outputs that are complete.
    pub outputs: Vec<Arc<Table>>,
    merge: Merge,
    builder: Option<TableBuilder>,
    below: Below,
    shelf: Arc<Shelf>,
    table_bytes: u64,
    /// Key and value bytes merged so far.
    done_bytes: u64,
    /// Bytes of values that were appended to the log again.
    pub moved_bytes: u64,
}

/// Moves a value in the log, or leaves it.
pub type MoveValue<'a> = dyn FnMut(Pointer, &Arc<Segment>) -> Result<Option<(Pointer, Arc<Segment>)>> + 'a;

impl RunningMerge {
    /// Begins `job` on the tables of `version`, cutting outputs at `table_bytes`, but for L0, where a table is a run.
    pub fn start(version: &Version, job: Job, shelf: &Arc<Shelf>, table_bytes: u64) -> Result<RunningMerge> {
        let reading = Reading::Direct(Purpose::Compact { into: job.into as u8 });
        let mut inputs = Vec::new();
        let mut sources = Vec::new();
        for (level, numbers) in &job.inputs {
            let chosen = version.level(*level).iter().filter(|table| numbers.contains(&table.number));
            let tables: Vec<Arc<Table>> = chosen.cloned().collect();
            inputs.extend(tables.iter().map(|table| (*level, table.clone())));
            // L0 is newest first, as sources must be; deeper levels are one sorted run each.
            let runs = if *level == 0 {
                tables.into_iter().map(|table| Run::from([table])).collect()
            } else {
                vec![tables.into()]
            };
            for run in runs {
                let cursor = RunCursor::new(run, KeyRange::ALL, reading.clone())?;
                sources.push(Cursor::Run(Box::new(cursor)));
            }
        }
        let mut below: Vec<(Run, usize)> =
            (job.into + 1..LEVELS).map(|level| (version.level(level).clone(), 0)).collect();
        // Tables of L0 that are older than the oldest input are older than the output as well.
        let l0 = version.level(0);
        let is_input = |table: &Arc<Table>| {
            inputs.iter().any(|(level, input)| *level == 0 && input.number == table.number)
        };
        if let Some(oldest) = l0.iter().rposition(is_input) {
            below.extend(l0[oldest + 1..].iter().map(|table| (Run::from([table.clone()]), 0)));
        }
        let below = Below(below);
        let table_bytes = if job.into == 0 { u64::MAX } else { table_bytes };
        Ok(RunningMerge {
            job,
            inputs,
            outputs: Vec::new(),
            merge: Merge::new(sources),
            builder: None,
            below,
            shelf: shelf.clone(),
            table_bytes,
            done_bytes: 0,
            moved_bytes: 0,
        })
    }

    /// Merges about `bytes` of keys and values; true when everything is merged and every output is durable but for its
    /// name.
    /// `move_value` is asked for every value in the log and says where it lies now, if it was moved.
    pub fn step(&mut self, bytes: u64, move_value: &mut MoveValue<'_>) -> Result<bool> {
        let (shelf, before) = (self.shelf.clone(), self.output_bytes());
        let span = shelf.cpu().span(Work::Merge);
        let ended = self.merge_entries(bytes, move_value)?;
        span.end(self.output_bytes() - before);
        Ok(ended)
    }

    fn merge_entries(&mut self, bytes: u64, move_value: &mut MoveValue<'_>) -> Result<bool> {
        let (start, mut budget) = (self.done_bytes, bytes);
        while self.done_bytes - start < budget {
            let Some(entry) = self.merge.next()? else {
                self.end_table()?;
                return Ok(true);
            };
            // An entry costs more than its bytes: a run of tombstones must not make a unit endless.
            self.done_bytes += (entry.key.len() + entry.value.map_or(0, |value| value.len())) as u64 + 16;
            if entry.value.is_none() && !self.below.may_hold(entry.key) {
                continue;
            }
            let builder = match &mut self.builder {
                Some(builder) => builder,
                empty => {
                    let purpose = Purpose::Compact { into: self.job.into as u8 };
                    empty.insert(self.shelf.create(purpose, self.below.is_empty())?)
                }
            };
            let moved = match entry.value {
                Some(Stored::Pointer(pointer, segment)) => move_value(pointer, segment)?,
                _ => None,
            };
            if let Some((pointer, segment)) = moved {
                builder.add(entry.key, Some(Stored::Pointer(pointer, &segment)))?;
                self.moved_bytes += pointer.bytes;
                budget = budget.saturating_sub(pointer.bytes);
            } else {
                builder.add(entry.key, entry.value)?;
            }
            if builder.bytes() >= self.table_bytes {
                self.end_table()?;
            }
        }
        Ok(false)
    }

    fn end_table(&mut self) -> Result<()> {
        if let Some(builder) = self.builder.take() {
            let origin = Origin::of(self.inputs.iter().map(|(_, table)| table.meta()));
            self.outputs.push(builder.finish(origin)?);
        }
        Ok(())
    }

    /// Bytes of its inputs.
    pub fn input_bytes(&self) -> u64 {
        self.inputs.iter().map(|(_, table)| table.bytes).sum()
    }

    /// Bytes of its outputs so far.
    pub fn output_bytes(&self) -> u64 {
        let done: u64 = self.outputs.iter().map(|table| table.bytes).sum();
        done + self.builder.as_ref().map_or(0, TableBuilder::bytes)
    }

    /// Removes outputs when the merge ends without becoming part of the store.
    pub fn abandon(self) {
        self.outputs.iter().for_each(|table| table.retire());
    }

    /// One line for reports.
    pub fn describe(&self) -> String {
        let bytes = self.input_bytes();
        let total: u64 = self.inputs.iter().map(|(_, table)| table.logical_bytes + 16 * table.entries).sum();
        format!(
            "compact L{}→L{} {} files {} {}%",
            self.job.inputs.first().map_or(0, |(level, _)| *level),
            self.job.into,
            self.inputs.len(),
            human_size(bytes),
            self.done_bytes * 100 / total.max(1)
        )
    }
}
