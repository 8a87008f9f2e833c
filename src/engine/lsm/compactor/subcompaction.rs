//! A subcompaction: the part of a compaction that lies in one range of keys. It merges what its range holds of every input, a few
//! mebibytes a step, and its outputs come into the target level in one edit.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::boundaries::{Boundaries, Lower};
use super::job::JobId;
use crate::disk::Purpose;
use crate::engine::lsm::cursor::{Cursor, Reading, RunCursor};
use crate::engine::lsm::merging_cursor::MergingCursor;
use crate::engine::lsm::run::Run;
use crate::engine::lsm::survivors::{MovedValue, WriterToken};
use crate::engine::lsm::table::{Origin, Table, TableBuilder, TableNumber, TableStore};
use crate::engine::lsm::value_log::{Pointer, StoredValue};
use crate::engine::wal::Segment;
use crate::engine::{KeyRange, Lsn, Result, Work};

/// First and last keys of the tables of one sorted run.
pub type TableRanges = Vec<(Bytes, Bytes)>;

/// The target of a compaction: where its outputs go, and what lies below them.
#[derive(Clone)]
pub struct Target {
    /// The target level.
    pub level: usize,
    /// Ranges of everything that is older than the outputs, run by run. Only ranges: no file is kept for it.
    pub older: Arc<[TableRanges]>,
    /// The tables of the level below the target that lie in its range; empty where outputs end by their size alone.
    pub lower: Arc<[Lower]>,
    /// Whether nothing at all is older than the outputs.
    pub is_bottom: bool,
    /// LSNs and times of the batches that their entries come from.
    pub origin: Origin,
    /// Makes their files.
    pub table_store: Arc<TableStore>,
    /// Bytes after which an output ends.
    pub table_bytes: u64,
}

/// Inputs of a subcompaction.
pub struct Input {
    /// Tables that reach into its range, newest first.
    pub tables: Vec<(usize, Arc<Table>)>,
    /// Tables that are newer than all of them: the first sources, of which nothing is written.
    pub shadows: Vec<(usize, Arc<Table>)>,
    /// The first key of its range; empty for the first subcompaction.
    pub start: Bytes,
    /// The first key behind its range; `None` for the last subcompaction.
    pub end: Option<Bytes>,
}

/// The entries of an input, from the first step on.
struct Entries {
    merge: MergingCursor,
    /// The first so many sources are shadows.
    shadow_sources: usize,
    /// The last key of the tables: behind it shadows go on alone. `None` without shadows.
    last: Option<Bytes>,
}

impl Input {
    /// Opens it for a compaction into `level`.
    fn open(&self, level: usize) -> Result<Entries> {
        let range = KeyRange { start: &self.start, end: self.end.as_deref() };
        // Of shadows only what lies over the inputs is of interest.
        let first = self.tables.iter().map(|(_, table)| &table.smallest[..]).min().unwrap_or_default();
        let over_inputs = KeyRange { start: range.start.max(first), ..range };
        let shadows = sources(&self.shadows, over_inputs, level)?;
        let shadow_sources = shadows.len();
        let all = shadows.into_iter().chain(sources(&self.tables, range, level)?).collect();
        let last = self.tables.iter().map(|(_, table)| &table.largest).max();
        let last = last.filter(|_| shadow_sources > 0).cloned();
        Ok(Entries { merge: MergingCursor::new(all), shadow_sources, last })
    }

    fn is_before_end(&self, key: &[u8]) -> bool {
        self.end.as_deref().is_none_or(|end| key < end)
    }
}

/// Cursors over `tables`, one for each sorted run, newest first.
fn sources(tables: &[(usize, Arc<Table>)], range: KeyRange<'_>, into: usize) -> Result<Vec<Cursor>> {
    let reading = Reading::Direct(Purpose::Compact { into: into as u8 });
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

/// Ranges of the tables that are older than the outputs, passed through in the order of keys.
struct OlderRanges {
    runs: Arc<[TableRanges]>,
    /// The next range of each run.
    at: Vec<usize>,
}

impl OlderRanges {
    fn new(runs: &Arc<[TableRanges]>) -> OlderRanges {
        OlderRanges { runs: runs.clone(), at: vec![0; runs.len()] }
    }

    /// Whether any of those tables can hold `key`; keys must ascend from call to call.
    fn may_hold(&mut self, key: &[u8]) -> bool {
        self.runs.iter().zip(&mut self.at).any(|(run, at)| {
            while run.get(*at).is_some_and(|(_, largest)| &largest[..] < key) {
                *at += 1;
            }
            run.get(*at).is_some_and(|(smallest, _)| &smallest[..] <= key)
        })
    }
}

/// Outputs of a subcompaction.
struct Output {
    target: Target,
    older: OlderRanges,
    boundaries: Boundaries,
    /// Tables that are complete.
    tables: Vec<Arc<Table>>,
    /// The table that is being written.
    builder: Option<TableBuilder>,
}

impl Output {
    /// Whether an entry goes into an output: a tombstone only where something older can hold its key.
    fn wants(&mut self, key: &[u8], value: Option<StoredValue<'_>>) -> bool {
        value.is_some() || self.older.may_hold(key)
    }

    /// Adds an entry to the table that is being written.
    fn add(&mut self, key: &[u8], value: Option<StoredValue<'_>>) -> Result<()> {
        let bytes = self.builder.as_ref().map_or(0, TableBuilder::bytes);
        if self.boundaries.end_before(key, bytes, self.target.table_bytes) {
            self.end_table()?;
        }
        let builder = match &mut self.builder {
            Some(builder) => builder,
            empty => {
                let purpose = Purpose::Compact { into: self.target.level as u8 };
                empty.insert(self.target.table_store.create(purpose, self.target.is_bottom)?)
            }
        };
        builder.add(key, value)?;
        if builder.bytes() < self.target.table_bytes {
            return Ok(());
        }
        self.boundaries.end();
        self.end_table()
    }

    fn end_table(&mut self) -> Result<()> {
        if let Some(builder) = self.builder.take() {
            self.tables.push(builder.finish(self.target.origin)?);
        }
        Ok(())
    }

    /// Bytes of complete tables, and of the one that is being written as `count` counts them.
    fn bytes(&self, count: fn(&TableBuilder) -> u64) -> u64 {
        let complete: u64 = self.tables.iter().map(|table| table.bytes).sum();
        complete + self.builder.as_ref().map_or(0, count)
    }
}

/// A subcompaction between its first and its last entry. Dropped early, it leaves no files but outputs that are complete.
pub struct Subcompaction {
    /// Its job.
    pub job: JobId,
    /// Which subcompaction of it.
    pub number: usize,
    input: Input,
    entries: Option<Entries>,
    output: Output,
    /// Key and value bytes merged so far.
    done_bytes: u64,
    /// Bytes of values that were moved.
    moved_bytes: u64,
    /// Tokens of the files of survivors that those went to, by where each starts: as long as they are held, those files do not count as
    /// complete.
    writing: BTreeMap<Lsn, WriterToken>,
}

/// Moves a value, or leaves it.
pub type MoveValue<'a> = dyn FnMut(Pointer, &Arc<Segment>) -> Result<Option<MovedValue>> + 'a;

impl Subcompaction {
    /// Subcompaction `number` of job `job`, which merges `input` into `target`. Reads nothing yet.
    pub fn new(job: JobId, number: usize, input: Input, target: Target) -> Subcompaction {
        let older = OlderRanges::new(&target.older);
        Subcompaction {
            job,
            number,
            input,
            entries: None,
            output: Output {
                boundaries: Boundaries::new(&target.lower),
                target,
                older,
                tables: Vec::new(),
                builder: None,
            },
            done_bytes: 0,
            moved_bytes: 0,
            writing: BTreeMap::new(),
        }
    }

    /// Its inputs, newest first, with their levels.
    pub fn inputs(&self) -> impl Iterator<Item = (usize, TableNumber)> {
        self.input.tables.iter().map(|(level, table)| (*level, table.number))
    }

    /// The first key of its range, empty for the first subcompaction of a job, and the first key behind it.
    pub fn range(&self) -> (&[u8], Option<&[u8]>) {
        (&self.input.start, self.input.end.as_deref())
    }

    /// Bytes after which an output ends.
    pub fn target_bytes(&self) -> u64 {
        self.output.target.table_bytes
    }

    /// LSNs and times of the batches that its entries come from.
    pub fn origin(&self) -> Origin {
        self.output.target.origin
    }

    /// Whether a tombstone goes into an output; keys must ascend from call to call.
    pub fn keeps_tombstone(&mut self, key: &[u8]) -> bool {
        self.output.older.may_hold(key)
    }

    /// Whether an output that has `bytes` ends before `key`, see [`super::boundaries`]; keys must ascend from call to call.
    pub fn ends_before(&mut self, key: &[u8], bytes: u64) -> bool {
        self.output.boundaries.end_before(key, bytes, self.output.target.table_bytes)
    }

    /// Notes that an output has ended with its size.
    pub fn note_end(&mut self) {
        self.output.boundaries.end();
    }

    /// Sets its outputs, for a caller who has made them.
    pub fn set_outputs(&mut self, tables: Vec<Arc<Table>>) {
        self.output.tables = tables;
    }

    /// Outputs that are complete.
    pub fn outputs(&self) -> &[Arc<Table>] {
        &self.output.tables
    }

    /// Bytes of its outputs so far.
    pub fn output_bytes(&self) -> u64 {
        self.output.bytes(TableBuilder::bytes)
    }

    /// Bytes of its outputs that are in files.
    fn written_bytes(&self) -> u64 {
        self.output.bytes(TableBuilder::written_bytes)
    }

    /// Key and value bytes merged so far.
    pub fn done_bytes(&self) -> u64 {
        self.done_bytes
    }

    /// Bytes of values that were moved to survivors.
    pub fn moved_bytes(&self) -> u64 {
        self.moved_bytes
    }

    /// Merges about `bytes` of keys and values; true when everything is merged and every output is durable but for its name.
    /// `move_value` is asked for every value in the log and says where it lies now, if it was moved.
    pub fn step(&mut self, bytes: u64, move_value: &mut MoveValue<'_>) -> Result<bool> {
        let (table_store, before) = (self.output.target.table_store.clone(), self.written_bytes());
        let span = table_store.cpu().span(Work::Merge);
        let ended = self.merge_entries(bytes, move_value)?;
        span.end(self.written_bytes() - before);
        Ok(ended)
    }

    fn merge_entries(&mut self, bytes: u64, move_value: &mut MoveValue<'_>) -> Result<bool> {
        let entries = match &mut self.entries {
            Some(entries) => entries,
            unopened => unopened.insert(self.input.open(self.output.target.level)?),
        };
        let (start, mut budget) = (self.done_bytes, bytes);
        while self.done_bytes - start < budget {
            let entry = match entries.merge.next()? {
                Some(entry)
                    if self.input.is_before_end(entry.key)
                        && entries.last.as_ref().is_none_or(|last| entry.key <= &last[..]) =>
                {
                    entry
                }
                _ => {
                    self.output.end_table()?;
                    return Ok(true);
                }
            };
            // An entry costs more than its bytes: a run of tombstones must not make a step endless.
            self.done_bytes += (entry.key.len() + entry.value.map_or(0, |value| value.len())) as u64 + 16;
            if entry.source < entries.shadow_sources || !self.output.wants(entry.key, entry.value) {
                continue;
            }
            let moved = match entry.value {
                Some(StoredValue::Pointer(pointer, segment)) => {
                    move_value(pointer, segment)?.map(|moved| (pointer, moved))
                }
                _ => None,
            };
            let Some((pointer, MovedValue { lsn, segment, writing })) = moved else {
                self.output.add(entry.key, entry.value)?;
                continue;
            };
            let pointer = Pointer { lsn, ..pointer };
            self.output.add(entry.key, Some(StoredValue::Pointer(pointer, &segment)))?;
            self.writing.insert(segment.start(), writing);
            self.moved_bytes += pointer.bytes;
            budget = budget.saturating_sub(pointer.bytes);
        }
        Ok(false)
    }

    /// Removes outputs when the subcompaction ends without becoming part of the store.
    pub fn abandon(self) {
        self.output.tables.iter().for_each(|table| table.retire());
    }
}
