//! Compaction: a pure [`Policy`] says what to merge, [`RunningMerge`] does it a few mebibytes at a time.
//!
//! # Invariants
//!
//! 1. A merge takes, with a table of a level, every table of the target level that overlaps it; L0 gives all its tables.
//! 2. A tombstone is dropped only if nothing older can hold its key: no level below the target, and no table of L0 that is older
//!    than the inputs.
//! 3. Inputs stay part of the store until the edit that names the outputs is durable.

mod leveled;

use std::sync::Arc;

use bytes::Bytes;

use super::cursor::{Cursor, Reading, RunCursor};
use super::merge::Merge;
use super::table::{Shelf, Table, TableBuilder, TableMeta};
use super::value_log::{Pointer, Stored};
use super::version::{Run, Version};
use crate::base::text::human_size;
use crate::disk::{LEVELS, Purpose};
use crate::engine::wal::Segment;
use crate::engine::{KeyRange, Result};

pub use leveled::Leveled;

/// What a policy sees: the tables of every level, L0 newest first, the others by key.
pub struct Levels<'a>(pub [Vec<&'a TableMeta>; LEVELS]);

impl<'a> Levels<'a> {
    /// Bytes of a level.
    pub fn bytes(&self, level: usize) -> u64 {
        self.0[level].iter().map(|table| table.bytes).sum()
    }

    /// Tables of a level that overlap `start..=end`.
    pub fn overlapping(&self, level: usize, start: &[u8], end: &[u8]) -> Vec<&'a TableMeta> {
        let tables = &self.0[level];
        // Levels below L0 are sorted and apart: both ends ascend.
        let from = if level == 0 { 0 } else { tables.partition_point(|table| &table.largest[..] < start) };
        let near = tables[from..].iter().take_while(|table| level == 0 || &table.smallest[..] <= end);
        near.filter(|table| table.overlaps(start, end)).copied().collect()
    }
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
}

/// Decides what to merge. Pure: no disk, no clock, no state.
pub trait Policy: Send + Sync {
    /// Its name in reports.
    fn name(&self) -> &'static str;
    /// The next job. `cursors` are what earlier jobs left to remember.
    fn choose(&self, levels: &Levels<'_>, cursors: &[Bytes; LEVELS]) -> Choice;
    /// Bytes that a level should hold at most; 0 if it is not measured in bytes.
    fn target_bytes(&self, level: usize) -> u64;
    /// How urgent a level is; from 1 on it must be merged down.
    fn score(&self, levels: &Levels<'_>, level: usize) -> f64;
    /// Bytes that merges must still write until all is well.
    fn pending_bytes(&self, levels: &Levels<'_>) -> u64;
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
    /// Begins `job` on the tables of `version`, cutting outputs at `table_bytes`.
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
            let first = self.inputs.iter().map(|(_, table)| table.first_position).min().unwrap_or(0);
            let last = self.inputs.iter().map(|(_, table)| table.last_position).max().unwrap_or(0);
            self.outputs.push(builder.finish(first, last)?);
        }
        Ok(())
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
        let bytes: u64 = self.inputs.iter().map(|(_, table)| table.bytes).sum();
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
