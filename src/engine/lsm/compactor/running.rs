//! A merge while it runs: a job cut into *slices* of the key space, which are merged on their own, side by side or one after
//! another, and become part of the store one by one.
//!
//! 1. The job is cut at keys that give slices of about equal size, never inside a table of the target level.
//! 2. A slice merges what its range holds of every input. Its outputs come into the target level in one edit.
//! 3. With that edit every input leaves that is *passed*: all slices that it reaches into are done, and so with every older input
//!    that it overlaps. So the space of most inputs comes back while the merge still runs, and what a merge needs beside its inputs
//!    is little more than what it brings down.
//!
//! Cutting one merge gives every thread work where there is but one merge to do, as out of L0; merges of other jobs may run beside
//! it all the same, as far as [`Claim`]s allow.
//!
//! # Invariants
//!
//! 1. While a slice is done and another is not, every key of the done one is found as before: an input that stays lies above the
//!    outputs and holds the same newest entry or a newer one, or the tombstone for which an entry was dropped.
//! 2. An input leaves only with or after every older input that it overlaps: a tombstone that was dropped never leaves before
//!    what it deletes.
//! 3. A table of the target level reaches into one slice only, so outputs never overlap what stays there.
//! 4. Outputs in L0 are runs of their own: such a job is one slice, and one table.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::base::text::human_size;
use crate::disk::{LEVELS, Purpose};
use crate::engine::lsm::Options;
use crate::engine::lsm::compaction::{Claim, Job};
use crate::engine::lsm::cursor::{Cursor, Reading, RunCursor};
use crate::engine::lsm::merge::Merge;
use crate::engine::lsm::run::Run;
use crate::engine::lsm::survivors::{Moved, Writing};
use crate::engine::lsm::table::{Origin, Table, TableBuilder, TableStore};
use crate::engine::lsm::value_log::{Pointer, Stored};
use crate::engine::lsm::version::Version;
use crate::engine::wal::Segment;
use crate::engine::{KeyRange, Lsn, Result, Work};

/// First and last keys of the tables of one sorted run.
type Ranges = Vec<(Bytes, Bytes)>;

/// What is older than the outputs of a merge, passed through in the order of keys. Only ranges: no file is kept for it.
struct Below {
    runs: Arc<[Ranges]>,
    at: Vec<usize>,
}

impl Below {
    fn new(runs: &Arc<[Ranges]>) -> Below {
        Below { runs: runs.clone(), at: vec![0; runs.len()] }
    }

    /// Whether any of it can hold `key`; keys must ascend from call to call.
    fn may_hold(&mut self, key: &[u8]) -> bool {
        self.runs.iter().zip(&mut self.at).any(|(run, at)| {
            while run.get(*at).is_some_and(|(_, largest)| &largest[..] < key) {
                *at += 1;
            }
            run.get(*at).is_some_and(|(smallest, _)| &smallest[..] <= key)
        })
    }
}

/// What is known of a slice wherever it is.
struct Extent {
    /// Its first key; empty for the first slice.
    start: Bytes,
    /// Bytes of inputs in it, about.
    bytes: u64,
    is_begun: bool,
    is_done: bool,
    /// Key and value bytes merged, and bytes of outputs, after its last step.
    done_bytes: u64,
    output_bytes: u64,
}

/// A job between its start and the edit of its last slice.
pub struct RunningJob {
    /// Tells jobs apart.
    pub id: u64,
    /// What it does.
    pub job: Job,
    /// What it has to itself at first.
    claim: Claim,
    /// Whether a command asked for it.
    pub is_command: bool,
    /// Clock time at which it began.
    pub began: Duration,
    /// Bytes and number of its inputs.
    pub input_bytes: u64,
    input_files: usize,
    /// What all steps together will have merged.
    total_bytes: u64,
    /// Inputs that are still part of the store, newest first.
    inputs: Vec<(usize, Arc<Table>)>,
    slices: Vec<Extent>,
    /// Bytes and number of outputs that are part of the store.
    pub installed_bytes: u64,
    /// How many those are.
    pub installed_files: u64,
    released_bytes: u64,
    need_bytes: u64,
    /// For a job that only cleans its one input: what is newer than it, newest first, and up to where that is looked at.
    shadows: Vec<(usize, Arc<Table>)>,
    cleans: Option<Lsn>,
    collects: bool,
    origin: Origin,
    below: Arc<[Ranges]>,
    /// Whether nothing at all is older than its outputs.
    is_bottom: bool,
    table_store: Arc<TableStore>,
    table_bytes: u64,
}

impl RunningJob {
    /// Makes `job` on the tables of `version` ready; reads nothing.
    pub fn new(version: &Version, job: Job, table_store: &Arc<TableStore>, options: &Options) -> RunningJob {
        let inputs = version.inputs(&job);
        let range = |table: &Arc<Table>| (table.smallest.clone(), table.largest.clone());
        // Only what lies in its range is of interest.
        let lower = (job.into + 1..LEVELS).map(|level| version.level(level));
        let mut below: Vec<Ranges> = lower
            .clone()
            .map(|run| run.overlapping(&job.smallest, &job.largest).map(range).collect())
            .collect();
        // Tables of L0 that are older than the oldest input are older than the output as well.
        let oldest = inputs.iter().rev().find(|(level, _)| *level == 0);
        let older = oldest.map(|(_, oldest)| version.level(0).after(oldest));
        below.extend(older.into_iter().flatten().map(|table| vec![range(table)]));
        below.retain(|ranges| !ranges.is_empty());
        let is_bottom = below.is_empty() && lower.clone().all(Run::is_empty);
        let slice_bytes = options.slice_tables.saturating_mul(options.table_bytes);
        let slices = if job.into == 0 || slice_bytes == 0 {
            extents(&inputs, job.into, u64::MAX)
        } else {
            extents(&inputs, job.into, slice_bytes)
        };
        let bytes_of = |table: &Arc<Table>| table.bytes;
        let input_bytes = inputs.iter().map(|(_, table)| bytes_of(table)).sum();
        let mut running = RunningJob {
            id: 0,
            claim: job.claim(),
            job,
            is_command: false,
            began: Duration::ZERO,
            input_bytes,
            input_files: inputs.len(),
            total_bytes: inputs.iter().map(|(_, table)| table.logical_bytes + 16 * table.entries).sum(),
            origin: Origin::of(inputs.iter().map(|(_, table)| table.meta())),
            inputs,
            slices,
            installed_bytes: 0,
            installed_files: 0,
            released_bytes: 0,
            need_bytes: input_bytes,
            shadows: Vec::new(),
            cleans: None,
            collects: false,
            below: below.into(),
            is_bottom,
            table_store: table_store.clone(),
            table_bytes: options.table_bytes,
        };
        // A slice may end with a short table of its own: a block pays for what each table has beside its entries.
        let ends_bytes = (running.slices.len() as u64 - 1) * options.block_bytes;
        running.need_bytes = running.estimate_need(options.merge_threads) + ends_bytes;
        running
    }

    /// Makes it write only what none of `shadows`, which are newer than its one input, know better: everything up to `lsn` is in
    /// them. About `left_bytes` are left of the input.
    pub fn clean(&mut self, shadows: Vec<(usize, Arc<Table>)>, left_bytes: u64, lsn: Lsn) {
        (self.shadows, self.need_bytes, self.cleans) = (shadows, left_bytes, Some(lsn));
    }

    /// Up to where its input is cleaned of what was deleted, if it is all that it does.
    pub fn cleans(&self) -> Option<Lsn> {
        self.cleans
    }

    /// Notes that it moves values out of a segment which is mostly garbage.
    pub fn collect(&mut self) {
        self.collects = true;
    }

    /// Whether it surely gives space back.
    pub fn frees(&self) -> bool {
        self.cleans.is_some() || self.collects || self.inputs.iter().any(|(_, table)| table.tombstones > 0)
    }

    /// Bytes that it may take beside its inputs at once, if `slots` slices run at once: all that stays up to its end, and the largest
    /// slices as they are written or wait for a neighbour.
    fn estimate_need(&self, slots: u64) -> u64 {
        let lowest = self.inputs.last().map_or(0, |(level, _)| *level);
        if self.slices.len() == 1 || lowest == 0 {
            return self.input_bytes;
        }
        let (mut upper_bytes, mut lower_bytes) = (0, vec![0; self.slices.len()]);
        for (level, table) in &self.inputs {
            if *level == lowest {
                self.reach(table).for_each(|slice| lower_bytes[slice] += table.bytes);
            } else {
                upper_bytes += table.bytes;
            }
        }
        let largest = lower_bytes.into_iter().max().unwrap_or(0);
        self.input_bytes.min(upper_bytes + largest.saturating_mul(slots + 1))
    }

    /// What it has to itself. Of slices that are done the outputs are part of the target level as any other table: it lets go of that
    /// level there, and what lies in it may go on down while the rest is merged.
    pub fn claims(&self) -> Vec<Claim> {
        let whole = &self.claim;
        let is_free = |slice: &Extent| slice.is_done && whole.from < whole.into;
        let mut claims = Vec::new();
        let mut from = 0;
        for slices in self.slices.chunk_by(|a, b| is_free(a) == is_free(b)) {
            let to = from + slices.len();
            let smallest = slices[0].start.clone().max(whole.smallest.clone());
            let next = self.slices.get(to).map(|next| next.start.clone());
            let largest = next.unwrap_or_else(|| whole.largest.clone()).min(whole.largest.clone());
            let into = if is_free(&slices[0]) { whole.into - 1 } else { whole.into };
            claims.push(Claim { into, smallest, largest, ..whole.clone() });
            from = to;
        }
        claims
    }

    /// The slices that a table reaches into.
    fn reach(&self, table: &Table) -> std::ops::RangeInclusive<usize> {
        let slice_of = |key: &Bytes| self.slices.partition_point(|slice| slice.start <= key).max(1) - 1;
        slice_of(&table.smallest)..=slice_of(&table.largest)
    }

    /// The next slice that was not begun.
    pub fn begin_slice(&mut self) -> Option<Slice> {
        let number = self.slices.iter().position(|slice| !slice.is_begun)?;
        self.slices[number].is_begun = true;
        let inputs = self.inputs.iter().filter(|(_, table)| self.reach(table).contains(&number));
        let bytes = self.slices[number].bytes;
        let table_bytes = match (self.job.into, self.slices.len()) {
            // A table of L0 is a run.
            (0, _) => u64::MAX,
            (_, 1) => self.table_bytes,
            // Equal tables: a short one at the end of each slice would add up.
            _ => bytes.div_ceil(bytes.div_ceil(self.table_bytes.max(1)).max(1)),
        };
        Some(Slice {
            job: self.id,
            number,
            into: self.job.into,
            inputs: inputs.cloned().collect(),
            shadows: self.shadows.clone(),
            shadow_sources: 0,
            start: self.slices[number].start.clone(),
            end: self.slices.get(number + 1).map(|next| next.start.clone()),
            outputs: Vec::new(),
            merge: Merge::new(Vec::new()),
            is_open: false,
            builder: None,
            below: Below::new(&self.below),
            is_bottom: self.is_bottom,
            origin: self.origin,
            table_store: self.table_store.clone(),
            table_bytes,
            done_bytes: 0,
            moved_bytes: 0,
            writing: BTreeMap::new(),
        })
    }

    /// Whether some of its slices are installed and others not.
    pub fn is_halfway(&self) -> bool {
        self.slices.iter().any(|slice| slice.is_done)
    }

    /// Its inputs that are still part of the store, with their levels.
    pub fn inputs(&self) -> &[(usize, Arc<Table>)] {
        &self.inputs
    }

    /// Whether a slice was not begun.
    pub fn has_waiting_slice(&self) -> bool {
        self.slices.iter().any(|slice| !slice.is_begun)
    }

    /// How many slices it is cut into.
    pub fn slices(&self) -> usize {
        self.slices.len()
    }

    /// Takes note of how far a slice is.
    pub fn note(&mut self, slice: &Slice) {
        let extent = &mut self.slices[slice.number];
        (extent.done_bytes, extent.output_bytes) = (slice.done_bytes, slice.output_bytes());
    }

    /// The inputs that leave the store in one edit with the outputs of slice `number`.
    pub fn leaving(&self, number: usize) -> Vec<(usize, Arc<Table>)> {
        let is_done = |slice: usize| slice == number || self.slices[slice].is_done;
        let (mut kept, mut leaving): (Vec<&(usize, Arc<Table>)>, Vec<_>) = (Vec::new(), Vec::new());
        for input in self.inputs.iter().rev() {
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

    /// Whether slice `number` is the last one that is not done.
    pub fn is_last(&self, number: usize) -> bool {
        self.slices.iter().enumerate().all(|(slice, extent)| slice == number || extent.is_done)
    }

    /// The edit that names the outputs of `slice`, and that `leaving` are gone, is durable.
    pub fn end_slice(&mut self, slice: &Slice, leaving: &[(usize, Arc<Table>)]) {
        self.slices[slice.number].is_done = true;
        self.slices[slice.number].output_bytes = 0;
        self.installed_bytes += slice.output_bytes();
        self.installed_files += slice.outputs.len() as u64;
        self.released_bytes += leaving.iter().map(|(_, table)| table.bytes).sum::<u64>();
        self.inputs.retain(|(_, table)| leaving.iter().all(|(_, gone)| gone.number != table.number));
    }

    /// Bytes that it takes now beside what its inputs took.
    pub fn temporary_bytes(&self) -> u64 {
        let running: u64 = self.slices.iter().map(|slice| slice.output_bytes).sum();
        (self.installed_bytes + running).saturating_sub(self.released_bytes)
    }

    /// Bytes that it may take at once beside its inputs.
    pub fn need_bytes(&self) -> u64 {
        self.need_bytes
    }

    /// Claims so many bytes in place of what it seemed to take.
    pub fn claim(&mut self, need_bytes: u64) {
        self.need_bytes = need_bytes;
    }

    /// Files that it may make before it removes any, if `slots` slices run at once: each may end with a short one.
    pub fn need_files(&self, slots: u64) -> u64 {
        if self.job.into == 0 {
            return 1;
        }
        self.need_bytes.div_ceil(self.table_bytes.max(1)) + slots.min(self.slices.len() as u64)
    }

    /// Bytes that it may still take beside those that it takes now.
    pub fn owed_bytes(&self) -> u64 {
        let left_bytes = self.input_bytes - self.input_bytes * self.done_percent() / 100;
        self.need_bytes.saturating_sub(self.temporary_bytes()).min(left_bytes)
    }

    fn done_percent(&self) -> u64 {
        let done: u64 = self.slices.iter().map(|slice| slice.done_bytes).sum();
        (done * 100 / self.total_bytes.max(1)).min(100)
    }

    /// One line for reports.
    pub fn describe(&self) -> String {
        let done = self.slices.iter().filter(|slice| slice.is_done).count();
        let slices = match self.slices.len() {
            1 => String::new(),
            count => format!(" {done} of {count} slices"),
        };
        if let (Some(_), into) = (self.cleans, self.job.into) {
            let (size, done) = (human_size(self.input_bytes), self.done_percent());
            return format!("clean L{into} {} files {size} {done}%{slices}", self.input_files);
        }
        format!(
            "compact L{}→L{} {} files {} {}%{slices}",
            self.job.from_level(),
            self.job.into,
            self.input_files,
            human_size(self.input_bytes),
            self.done_percent()
        )
    }
}

/// Cuts the key space into slices of about `slice_bytes` of inputs, none inside an input of level `into`.
fn extents(inputs: &[(usize, Arc<Table>)], into: usize, slice_bytes: u64) -> Vec<Extent> {
    let new = |start: Bytes| Extent {
        start,
        bytes: 0,
        is_begun: false,
        is_done: false,
        done_bytes: 0,
        output_bytes: 0,
    };
    let total: u64 = inputs.iter().map(|(_, table)| table.bytes).sum();
    let count = total / slice_bytes.max(1);
    let mut slices = vec![new(Bytes::new())];
    if count < 2 {
        slices[0].bytes = total;
        return slices;
    }
    let each = total / count;
    let lower: Vec<&Arc<Table>> =
        inputs.iter().filter(|(level, _)| *level == into).map(|(_, table)| table).collect();
    let is_inside = |key: &[u8]| {
        let table = lower.get(lower.partition_point(|table| &table.largest[..] < key));
        table.is_some_and(|table| &table.smallest[..] < key)
    };
    let mut samples: Vec<(&[u8], u64)> = inputs.iter().flat_map(|(_, table)| table.samples()).collect();
    samples.sort_unstable();
    for (key, bytes) in samples {
        let open = slices.len() - 1;
        if slices[open].bytes >= each && key > &slices[open].start[..] && !is_inside(key) {
            slices.push(new(Bytes::copy_from_slice(key)));
        }
        if let Some(slice) = slices.last_mut() {
            slice.bytes += bytes;
        }
    }
    slices
}

/// A slice of a job between its first and its last entry. Dropped early, it leaves no files but outputs that are complete.
pub struct Slice {
    /// The job.
    pub job: u64,
    /// Which slice of it.
    pub number: usize,
    into: usize,
    /// What reaches into it, newest first.
    inputs: Vec<(usize, Arc<Table>)>,
    /// What is newer than all of them: the first sources, of which nothing is written.
    shadows: Vec<(usize, Arc<Table>)>,
    shadow_sources: usize,
    start: Bytes,
    end: Option<Bytes>,
    /// Outputs that are complete.
    pub outputs: Vec<Arc<Table>>,
    merge: Merge,
    is_open: bool,
    builder: Option<TableBuilder>,
    below: Below,
    is_bottom: bool,
    origin: Origin,
    table_store: Arc<TableStore>,
    table_bytes: u64,
    /// Key and value bytes merged so far.
    done_bytes: u64,
    /// Bytes of values that were moved.
    pub moved_bytes: u64,
    /// The files that those went to, by where each starts: as long as the slice is, nobody takes them for done.
    writing: BTreeMap<Lsn, Writing>,
}

/// Moves a value, or leaves it.
pub type MoveValue<'a> = dyn FnMut(Pointer, &Arc<Segment>) -> Result<Option<Moved>> + 'a;

impl Slice {
    /// Where in the inputs the slice begins, and how many sources are shadows.
    fn open(&self) -> Result<(Merge, usize)> {
        let range = KeyRange { start: &self.start, end: self.end.as_deref() };
        // Of shadows only what lies over the inputs is of interest.
        let first = self.inputs.iter().map(|(_, table)| &table.smallest[..]).min().unwrap_or_default();
        let mut sources = self.sources(&self.shadows, KeyRange { start: range.start.max(first), ..range })?;
        let shadow_sources = sources.len();
        sources.extend(self.sources(&self.inputs, range)?);
        Ok((Merge::new(sources), shadow_sources))
    }

    fn sources(&self, tables: &[(usize, Arc<Table>)], range: KeyRange<'_>) -> Result<Vec<Cursor>> {
        let reading = Reading::Direct(Purpose::Compact { into: self.into as u8 });
        let mut sources = Vec::new();
        for tables in tables.chunk_by(|(above, _), (below, _)| above == below) {
            let level = tables[0].0;
            let tables = tables.iter().map(|(_, table)| table.clone());
            // L0 is newest first, as sources must be; deeper levels are one sorted run each.
            let runs: Vec<Run> =
                if level == 0 { tables.map(Run::one).collect() } else { vec![Run::of(level, tables)?] };
            for run in runs {
                sources.push(Cursor::Run(Box::new(RunCursor::new(run, range, reading.clone())?)));
            }
        }
        Ok(sources)
    }

    /// Merges about `bytes` of keys and values; true when everything is merged and every output is durable but for its
    /// name.
    /// `move_value` is asked for every value in the log and says where it lies now, if it was moved.
    pub fn step(&mut self, bytes: u64, move_value: &mut MoveValue<'_>) -> Result<bool> {
        let (table_store, before) = (self.table_store.clone(), self.written_bytes());
        let span = table_store.cpu().span(Work::Merge);
        let ended = self.merge_entries(bytes, move_value)?;
        span.end(self.written_bytes() - before);
        Ok(ended)
    }

    fn merge_entries(&mut self, bytes: u64, move_value: &mut MoveValue<'_>) -> Result<bool> {
        if !self.is_open {
            (self.merge, self.shadow_sources) = self.open()?;
            self.is_open = true;
        }
        let (start, mut budget) = (self.done_bytes, bytes);
        // Behind the last input shadows go on alone.
        let last = self.inputs.iter().map(|(_, table)| &table.largest).max();
        let last = last.filter(|_| self.shadow_sources > 0).cloned();
        while self.done_bytes - start < budget {
            let entry = match self.merge.next()? {
                Some(entry)
                    if self.end.as_deref().is_none_or(|end| entry.key < end)
                        && last.as_ref().is_none_or(|last| entry.key <= &last[..]) =>
                {
                    entry
                }
                _ => {
                    self.end_table()?;
                    return Ok(true);
                }
            };
            // An entry costs more than its bytes: a run of tombstones must not make a unit endless.
            self.done_bytes += (entry.key.len() + entry.value.map_or(0, |value| value.len())) as u64 + 16;
            if entry.source < self.shadow_sources {
                continue;
            }
            if entry.value.is_none() && !self.below.may_hold(entry.key) {
                continue;
            }
            let builder = match &mut self.builder {
                Some(builder) => builder,
                empty => {
                    let purpose = Purpose::Compact { into: self.into as u8 };
                    empty.insert(self.table_store.create(purpose, self.is_bottom)?)
                }
            };
            let moved = match entry.value {
                Some(Stored::Pointer(pointer, segment)) => move_value(pointer, segment)?,
                _ => None,
            };
            if let (Some(Stored::Pointer(pointer, _)), Some(moved)) = (entry.value, moved) {
                let Moved { lsn, segment, writing } = moved;
                let pointer = Pointer { lsn, ..pointer };
                builder.add(entry.key, Some(Stored::Pointer(pointer, &segment)))?;
                self.writing.insert(segment.start(), writing);
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
            self.outputs.push(builder.finish(self.origin)?);
        }
        Ok(())
    }

    /// Bytes of its outputs so far.
    pub fn output_bytes(&self) -> u64 {
        let done: u64 = self.outputs.iter().map(|table| table.bytes).sum();
        done + self.builder.as_ref().map_or(0, TableBuilder::bytes)
    }

    /// Those of them that are in files.
    fn written_bytes(&self) -> u64 {
        let done: u64 = self.outputs.iter().map(|table| table.bytes).sum();
        done + self.builder.as_ref().map_or(0, TableBuilder::written_bytes)
    }

    /// Removes outputs when the slice ends without becoming part of the store.
    pub fn abandon(self) {
        self.outputs.iter().for_each(|table| table.retire());
    }
}
