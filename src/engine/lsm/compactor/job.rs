//! A compaction while it runs: a job cut into *subcompactions* of the key space, which are merged on their own, side by side or one
//! after another, and become part of the store one by one.
//!
//! 1. The job is cut at keys that give subcompactions of about equal size, never inside a table of the target level.
//! 2. A subcompaction merges what its range holds of every input. Its outputs come into the target level in one edit.
//! 3. With that edit every input leaves that is *passed*: all subcompactions that it reaches into are done, and so is every older
//!    input that it overlaps. So the space of most inputs comes back while the job still runs, and what a job needs beside its inputs
//!    is little more than what it brings down.
//!
//! Cutting one job gives every thread work where there is but one compaction to do, as out of L0; other jobs may run beside it all
//! the same, as far as [`CompactionClaim`]s allow.
//!
//! # Invariants
//!
//! 1. While a subcompaction is done and another is not, every key of the done one is found as before: an input that stays lies above
//!    the outputs and holds the same newest entry or a newer one, or the tombstone for which an entry was dropped.
//! 2. An input leaves only with or after every older input that it overlaps: a tombstone that was dropped never leaves before
//!    what it deletes.
//! 3. A table of the target level reaches into one subcompaction only, so outputs never overlap what stays there.
//! 4. Outputs in L0 are runs of their own: such a job is one subcompaction, and one table.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::boundaries::Lower;
use super::subcompaction::{Input, Subcompaction, TableRanges, Target};
use crate::base::text::human_size;
use crate::disk::LEVELS;
use crate::engine::Lsn;
use crate::engine::lsm::Options;
use crate::engine::lsm::compaction::{Compaction, CompactionClaim};
use crate::engine::lsm::run::Run;
use crate::engine::lsm::table::{Origin, Table, TableStore};
use crate::engine::lsm::version::Version;

/// Purpose of a job beside bringing its inputs into the target level.
enum Goal {
    /// None.
    Compact,
    /// It rewrites its one input without the entries that newer tables have deleted or replaced.
    Clean {
        /// Tables that are newer than the input, newest first.
        shadows: Vec<(usize, Arc<Table>)>,
        /// LSN of the newest batch whose deletes are in those tables.
        lsn: Lsn,
    },
    /// It moves values out of a segment that is mostly garbage.
    CollectValues,
}

/// Inputs of a job.
struct JobInput {
    /// Tables that are still part of the store, newest first.
    tables: Vec<(usize, Arc<Table>)>,
    /// Bytes and number of all of them at the beginning.
    bytes: u64,
    files: usize,
    /// Key and value bytes that all steps together will have merged.
    merge_bytes: u64,
}

/// State of a subcompaction as its job sees it, whoever is working on it.
struct SubcompactionState {
    /// Its first key; empty for the first subcompaction.
    start: Bytes,
    /// Bytes of inputs in it, about.
    bytes: u64,
    is_begun: bool,
    is_done: bool,
    /// Key and value bytes merged, and bytes of outputs, after its last step.
    done_bytes: u64,
    output_bytes: u64,
}

/// Changes that the edits of a job have made to the store so far.
#[derive(Default)]
struct Installed {
    /// Bytes and number of outputs that are part of the store.
    bytes: u64,
    files: u64,
    /// Bytes of inputs that are no longer part of it.
    released_bytes: u64,
}

/// Tells running jobs apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobId(u64);

impl JobId {
    /// The one that follows.
    pub const fn next(self) -> JobId {
        JobId(self.0 + 1)
    }
}

/// A compaction between its start and the edit of its last subcompaction.
pub struct CompactionJob {
    /// Tells it from others.
    pub id: JobId,
    /// Its inputs and its target level.
    pub compaction: Compaction,
    /// Whether a command asked for it.
    pub is_command: bool,
    /// Clock time at which it began.
    pub began: Duration,
    /// The claim with which it began.
    claim: CompactionClaim,
    goal: Goal,
    input: JobInput,
    subcompactions: Vec<SubcompactionState>,
    target: Target,
    installed: Installed,
    /// Bytes that it may take at once beside its inputs.
    need_bytes: u64,
}

impl CompactionJob {
    /// Makes `compaction` on the tables of `version` ready; reads nothing.
    pub fn new(
        version: &Version,
        compaction: Compaction,
        table_store: &Arc<TableStore>,
        options: &Options,
    ) -> CompactionJob {
        let tables = version.inputs(&compaction);
        let (older, is_bottom) = older_ranges(version, &compaction, &tables);
        let subcompaction_bytes = match options.slice_tables.saturating_mul(options.table_bytes) {
            bytes if compaction.into > 0 && bytes > 0 => bytes,
            _ => u64::MAX,
        };
        let subcompactions = cut(&tables, compaction.into, subcompaction_bytes);
        let input = JobInput {
            bytes: tables.iter().map(|(_, table)| table.bytes).sum(),
            files: tables.len(),
            merge_bytes: tables.iter().map(|(_, table)| table.logical_bytes + 16 * table.entries).sum(),
            tables,
        };
        let target = Target {
            level: compaction.into,
            older,
            lower: lower(version, &compaction),
            is_bottom,
            origin: Origin::of(input.tables.iter().map(|(_, table)| table.meta())),
            table_store: table_store.clone(),
            table_bytes: options.table_bytes,
        };
        let mut job = CompactionJob {
            id: JobId::default(),
            claim: compaction.claim(),
            compaction,
            is_command: false,
            began: Duration::ZERO,
            goal: Goal::Compact,
            input,
            subcompactions,
            target,
            installed: Installed::default(),
            need_bytes: 0,
        };
        // A subcompaction may end with a short table of its own: a block pays for what each table has beside its entries.
        let ends_bytes = (job.subcompactions.len() as u64 - 1) * options.block_bytes;
        job.need_bytes = job.estimate_need(options.merge_threads) + ends_bytes;
        job
    }

    /// Makes it write only those entries of its one input that none of the newer tables `shadows` replaces or deletes. Batches up to `lsn`
    /// are in those tables. About `left_bytes` are left of the input.
    pub fn clean(&mut self, shadows: Vec<(usize, Arc<Table>)>, left_bytes: u64, lsn: Lsn) {
        self.goal = Goal::Clean { shadows, lsn };
        self.need_bytes = left_bytes;
    }

    /// LSN of the newest batch of whose deletes it cleans its input; `None` if it is no cleaning.
    pub fn cleans(&self) -> Option<Lsn> {
        if let Goal::Clean { lsn, .. } = self.goal { Some(lsn) } else { None }
    }

    /// Notes that it moves values out of a segment which is mostly garbage.
    pub fn collect(&mut self) {
        self.goal = Goal::CollectValues;
    }

    /// Whether it surely gives space back.
    pub fn frees(&self) -> bool {
        let has_tombstones = || self.input.tables.iter().any(|(_, table)| table.tombstones > 0);
        !matches!(self.goal, Goal::Compact) || has_tombstones()
    }

    /// Bytes that it may take at once beside its inputs, if `threads` subcompactions run at once: everything that stays up to its end, and
    /// the largest subcompactions while they are written or wait for a neighbour.
    fn estimate_need(&self, threads: u64) -> u64 {
        let input = &self.input;
        let lowest = input.tables.last().map_or(0, |(level, _)| *level);
        if self.subcompactions.len() == 1 || lowest == 0 {
            return input.bytes;
        }
        let (mut upper_bytes, mut lower_bytes) = (0, vec![0; self.subcompactions.len()]);
        for (level, table) in &input.tables {
            if *level == lowest {
                self.reach(table).for_each(|number| lower_bytes[number] += table.bytes);
            } else {
                upper_bytes += table.bytes;
            }
        }
        let largest = lower_bytes.into_iter().max().unwrap_or(0);
        input.bytes.min(upper_bytes + largest.saturating_mul(threads + 1))
    }

    /// Its claims now. Outputs of subcompactions that are done are part of the target level as any other table: in their ranges the job
    /// lets go of that level, and its tables may go further down while the rest is merged.
    pub fn claims(&self) -> Vec<CompactionClaim> {
        let whole = &self.claim;
        let is_free = |it: &SubcompactionState| it.is_done && whole.from < whole.into;
        let mut claims = Vec::new();
        let mut from = 0;
        for alike in self.subcompactions.chunk_by(|a, b| is_free(a) == is_free(b)) {
            let to = from + alike.len();
            let smallest = alike[0].start.clone().max(whole.smallest.clone());
            let next = self.subcompactions.get(to).map(|next| next.start.clone());
            let largest = next.unwrap_or_else(|| whole.largest.clone()).min(whole.largest.clone());
            let into = if is_free(&alike[0]) { whole.into - 1 } else { whole.into };
            claims.push(CompactionClaim { into, smallest, largest, ..whole.clone() });
            from = to;
        }
        claims
    }

    /// The subcompactions that a table reaches into.
    fn reach(&self, table: &Table) -> std::ops::RangeInclusive<usize> {
        let number_of = |key: &Bytes| self.subcompactions.partition_point(|it| it.start <= key).max(1) - 1;
        number_of(&table.smallest)..=number_of(&table.largest)
    }

    /// The next subcompaction that was not begun.
    pub fn begin_subcompaction(&mut self) -> Option<Subcompaction> {
        let number = self.subcompactions.iter().position(|it| !it.is_begun)?;
        self.subcompactions[number].is_begun = true;
        let tables = self.input.tables.iter().filter(|(_, table)| self.reach(table).contains(&number));
        let bytes = self.subcompactions[number].bytes;
        let table_bytes = match (self.target.level, self.subcompactions.len()) {
            // A table of L0 is a run.
            (0, _) => u64::MAX,
            (_, 1) => self.target.table_bytes,
            // Equal tables: a short one at the end of each subcompaction would add up.
            _ => bytes.div_ceil(bytes.div_ceil(self.target.table_bytes.max(1)).max(1)),
        };
        let input = Input {
            tables: tables.cloned().collect(),
            shadows: match &self.goal {
                Goal::Clean { shadows, .. } => shadows.clone(),
                _ => Vec::new(),
            },
            start: self.subcompactions[number].start.clone(),
            end: self.subcompactions.get(number + 1).map(|next| next.start.clone()),
        };
        Some(Subcompaction::new(self.id, number, input, Target { table_bytes, ..self.target.clone() }))
    }

    /// Whether some of its subcompactions are installed and others not.
    pub fn is_halfway(&self) -> bool {
        self.subcompactions.iter().any(|it| it.is_done)
    }

    /// Its inputs that are still part of the store, with their levels.
    pub fn inputs(&self) -> &[(usize, Arc<Table>)] {
        &self.input.tables
    }

    /// Bytes of all its inputs.
    pub fn input_bytes(&self) -> u64 {
        self.input.bytes
    }

    /// Whether a subcompaction was not begun.
    pub fn has_waiting_subcompaction(&self) -> bool {
        self.subcompactions.iter().any(|it| !it.is_begun)
    }

    /// Number of subcompactions that it is cut into.
    pub fn subcompactions(&self) -> usize {
        self.subcompactions.len()
    }

    /// Takes note of how far a subcompaction is.
    pub fn note(&mut self, subcompaction: &Subcompaction) {
        let state = &mut self.subcompactions[subcompaction.number];
        (state.done_bytes, state.output_bytes) = (subcompaction.done_bytes(), subcompaction.output_bytes());
    }

    /// The inputs that leave the store in one edit with the outputs of subcompaction `number`.
    pub fn leaving(&self, number: usize) -> Vec<(usize, Arc<Table>)> {
        let is_done = |other: usize| other == number || self.subcompactions[other].is_done;
        let (mut kept, mut leaving): (Vec<&(usize, Arc<Table>)>, Vec<_>) = (Vec::new(), Vec::new());
        for input in self.input.tables.iter().rev() {
            let (level, table) = input;
            let covers = |(below, older): &&(usize, Arc<Table>)| {
                (below != level || *level == 0) && older.overlaps(&table.smallest, &table.largest)
            };
            if self.reach(table).all(is_done) && !kept.iter().any(covers) {
                leaving.push(input.clone());
            } else {
                kept.push(input);
            }
        }
        leaving
    }

    /// Whether subcompaction `number` is the last one that is not done.
    pub fn is_last(&self, number: usize) -> bool {
        self.subcompactions.iter().enumerate().all(|(other, state)| other == number || state.is_done)
    }

    /// Takes note that the edit with the outputs of `subcompaction`, by which `leaving` are gone, is durable.
    pub fn end_subcompaction(&mut self, subcompaction: &Subcompaction, leaving: &[(usize, Arc<Table>)]) {
        let state = &mut self.subcompactions[subcompaction.number];
        (state.is_done, state.output_bytes) = (true, 0);
        self.installed.bytes += subcompaction.output_bytes();
        self.installed.files += subcompaction.outputs().len() as u64;
        self.installed.released_bytes += leaving.iter().map(|(_, table)| table.bytes).sum::<u64>();
        self.input.tables.retain(|(_, table)| leaving.iter().all(|(_, gone)| gone.number != table.number));
    }

    /// Bytes and number of outputs that are part of the store.
    pub fn installed(&self) -> (u64, u64) {
        (self.installed.bytes, self.installed.files)
    }

    /// Bytes that it takes now beside what its inputs took.
    pub fn temporary_bytes(&self) -> u64 {
        let running: u64 = self.subcompactions.iter().map(|it| it.output_bytes).sum();
        (self.installed.bytes + running).saturating_sub(self.installed.released_bytes)
    }

    /// Bytes that it may take at once beside its inputs.
    pub fn need_bytes(&self) -> u64 {
        self.need_bytes
    }

    /// Corrects the estimate of the bytes that it needs.
    pub fn set_need_bytes(&mut self, need_bytes: u64) {
        self.need_bytes = need_bytes;
    }

    /// Has outputs end by their size alone: fewer files than where they end by what lies below, see [`super::boundaries`].
    pub fn spare_files(&mut self) {
        self.target.lower = Arc::new([]);
    }

    /// Files that it may make before it removes any, if `threads` subcompactions run at once: each may end with a short one.
    pub fn need_files(&self, threads: u64) -> u64 {
        if self.target.level == 0 {
            return 1;
        }
        let tables = self.need_bytes.div_ceil(self.target.table_bytes.max(1));
        // Half full between two boundaries, and as many short ones as there may be gaps.
        let tables =
            if self.target.lower.is_empty() { tables } else { 2 * tables + self.target.lower.len() as u64 };
        tables + threads.min(self.subcompactions.len() as u64)
    }

    /// Bytes that it may still take beside those that it takes now.
    pub fn owed_bytes(&self) -> u64 {
        let left_bytes = self.input.bytes - self.input.bytes * self.done_percent() / 100;
        self.need_bytes.saturating_sub(self.temporary_bytes()).min(left_bytes)
    }

    fn done_percent(&self) -> u64 {
        let done_bytes: u64 = self.subcompactions.iter().map(|it| it.done_bytes).sum();
        (done_bytes * 100 / self.input.merge_bytes.max(1)).min(100)
    }

    /// One line for reports.
    pub fn describe(&self) -> String {
        let (files, into) = (self.input.files, self.target.level);
        let (size, percent) = (human_size(self.input.bytes), self.done_percent());
        let done = self.subcompactions.iter().filter(|it| it.is_done).count();
        let progress = match self.subcompactions.len() {
            1 => String::new(),
            count => format!(" {done} of {count} subcompactions"),
        };
        if self.cleans().is_some() {
            return format!("clean L{into} {files} files {size} {percent}%{progress}");
        }
        let from = self.compaction.from_level();
        format!("compact L{from}→L{into} {files} files {size} {percent}%{progress}")
    }
}

/// Ranges of the tables of `version` that are older than the outputs of `compaction`, run by run, and whether nothing at all is older.
fn older_ranges(
    version: &Version,
    compaction: &Compaction,
    inputs: &[(usize, Arc<Table>)],
) -> (Arc<[TableRanges]>, bool) {
    let range = |table: &Arc<Table>| (table.smallest.clone(), table.largest.clone());
    // Only what lies in its range is of interest.
    let lower = (compaction.into + 1..LEVELS).map(|level| version.level(level));
    let mut older: Vec<TableRanges> = lower
        .clone()
        .map(|run| run.overlapping(&compaction.smallest, &compaction.largest).map(range).collect())
        .collect();
    // Tables of L0 that are older than the oldest input are older than the output as well.
    let oldest = inputs.iter().rev().find(|(level, _)| *level == 0);
    let behind = oldest.map(|(_, oldest)| version.level(0).after(oldest));
    older.extend(behind.into_iter().flatten().map(|table| vec![range(table)]));
    older.retain(|ranges| !ranges.is_empty());
    let is_bottom = older.is_empty() && lower.clone().all(Run::is_empty);
    (older.into(), is_bottom)
}

/// The tables of `version` that the outputs of `compaction` will be merged with one day.
fn lower(version: &Version, compaction: &Compaction) -> Arc<[Lower]> {
    // A table of L0 is a run, and ends with its last key.
    if compaction.into == 0 || compaction.into + 1 == LEVELS {
        return Arc::new([]);
    }
    let lower = |table: &Arc<Table>| Lower {
        smallest: table.smallest.clone(),
        largest: table.largest.clone(),
        bytes: table.bytes,
    };
    version
        .level(compaction.into + 1)
        .overlapping(&compaction.smallest, &compaction.largest)
        .map(lower)
        .collect()
}

/// Cuts the key space into subcompactions of about `bytes` of inputs, none inside an input of level `into`.
fn cut(inputs: &[(usize, Arc<Table>)], into: usize, bytes: u64) -> Vec<SubcompactionState> {
    let new = |start: Bytes| SubcompactionState {
        start,
        bytes: 0,
        is_begun: false,
        is_done: false,
        done_bytes: 0,
        output_bytes: 0,
    };
    let total_bytes: u64 = inputs.iter().map(|(_, table)| table.bytes).sum();
    let count = total_bytes / bytes.max(1);
    let mut cut = vec![new(Bytes::new())];
    if count < 2 {
        cut[0].bytes = total_bytes;
        return cut;
    }
    let each_bytes = total_bytes / count;
    let lower: Vec<&Arc<Table>> =
        inputs.iter().filter(|(level, _)| *level == into).map(|(_, table)| table).collect();
    let is_inside = |key: &[u8]| {
        let table = lower.get(lower.partition_point(|table| &table.largest[..] < key));
        table.is_some_and(|table| &table.smallest[..] < key)
    };
    let mut samples: Vec<(&[u8], u64)> = inputs.iter().flat_map(|(_, table)| table.samples()).collect();
    samples.sort_unstable();
    for (key, bytes) in samples {
        let open = cut.len() - 1;
        if cut[open].bytes >= each_bytes && key > &cut[open].start[..] && !is_inside(key) {
            cut.push(new(Bytes::copy_from_slice(key)));
        }
        if let Some(last) = cut.last_mut() {
            last.bytes += bytes;
        }
    }
    cut
}
