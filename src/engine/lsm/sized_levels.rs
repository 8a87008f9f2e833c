//! The levels of a store of which only sizes are known. Policies, jobs, subcompactions and edits are those of a real one; tables have no
//! files, and what a subcompaction makes of its inputs is the caller's to say.
//!
//! Work is done in the order in which one thread does it that finds nothing else to do: as many subcompactions begin as may be worked on at
//! once, and a step is made of each in turn. That order decides what a policy sees when it chooses the next.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::Options;
use super::compaction::{Choice, Compaction, Policy, PolicyInForce};
use super::compactor::{CompactionJob, JobId, Subcompaction, step_bytes};
use super::manifest::{Edit, ManifestState};
use super::table::{Table, TableStore};
use super::version::Version;
use crate::disk::{LEVELS, SimDisk};
use crate::engine::{Lsn, Result, WakeSignal};

pub use super::compactor::Subcompaction as SizedMerge;
pub use super::memtable::{key_cost, value_cost};
pub use super::space_budget::{BALLAST_SHARE, ballast_bytes_max};
pub use super::table::{SizedEntry, TableMeta, TableNumber, TableSizer};

/// A table of which only sizes are known.
pub struct SizedTable {
    /// Its metadata; the number and what its batches were are set by the levels.
    pub meta: TableMeta,
    /// Its partitions: the first key of each, and its bytes of blocks.
    pub partitions: Vec<(Bytes, u64)>,
}

/// A subcompaction of which a step is still to be made: what it has made of its inputs waits for its end.
struct Resting {
    subcompaction: Subcompaction,
    outputs: Vec<Arc<Table>>,
    steps: u64,
}

/// Says what a subcompaction makes of its inputs: the tables, and the key and value bytes that it merged, with 16 more an entry.
pub trait Merger {
    /// The tables that come of `merge`, and its bytes.
    fn merge(&mut self, merge: &mut SizedMerge) -> (Vec<SizedTable>, u64);

    /// The number that one of them has got, in their order.
    fn name(&mut self, number: TableNumber);

    /// Tables that went into another level as they are, or were dropped unread where there is none.
    fn moved(&mut self, numbers: &[TableNumber], into: Option<usize>);

    /// A table is gone.
    fn remove(&mut self, number: TableNumber);
}

/// The levels.
pub struct SizedLevels {
    options: Options,
    policy: PolicyInForce,
    version: Version,
    cursors: [Bytes; LEVELS],
    table_store: Arc<TableStore>,
    next_number: u64,
    /// Grows with each table that is added to L0.
    age: u64,
    jobs: Vec<CompactionJob>,
    resting: VecDeque<Resting>,
    manifest: ManifestBytes,
    table_bytes: u64,
    table_bytes_peak: u64,
    written_bytes: u64,
    read_bytes: u64,
}

/// The size of the manifest, and what was written to it.
struct ManifestBytes {
    /// Bytes of a key beyond those of its rank, on average.
    more_key_bytes: u64,
    bytes: u64,
    bytes_max: u64,
    growth_bytes: u64,
    written_bytes: u64,
}

impl ManifestBytes {
    fn append(&mut self, edit: &Edit, whole: impl FnOnce() -> u64) {
        let mut encoded = Vec::new();
        edit.encode(&mut encoded);
        let keys = 2 * edit.added.len() + edit.cursors.len();
        let bytes = encoded.len() as u64 + 9 + keys as u64 * self.more_key_bytes;
        (self.bytes, self.written_bytes) = (self.bytes + bytes, self.written_bytes + bytes);
        if self.bytes > self.bytes_max {
            let whole_bytes = whole();
            self.bytes_max = self.bytes.max(whole_bytes) * 4 + self.growth_bytes;
            (self.bytes, self.written_bytes) = (whole_bytes, self.written_bytes + whole_bytes);
            self.bytes_max = self.bytes * 4 + self.growth_bytes;
        }
    }
}

impl SizedLevels {
    /// Empty levels of a store with `options`. Keys here stand for ones of `key_bytes` on average.
    pub fn new(options: &Options, key_bytes: u64) -> SizedLevels {
        let next_number = TableNumber::new(1);
        let wake_signal = Arc::new(WakeSignal::new());
        let table_store = TableStore::new(SimDisk::new(), wake_signal, options.clone(), next_number);
        let growth_bytes = options.block_bytes;
        SizedLevels {
            policy: PolicyInForce::new(options),
            version: Version::empty(),
            cursors: Default::default(),
            table_store,
            next_number: 1,
            age: 0,
            jobs: Vec::new(),
            resting: VecDeque::new(),
            manifest: ManifestBytes {
                more_key_bytes: key_bytes.saturating_sub(size_of::<u32>() as u64),
                bytes: 0,
                bytes_max: growth_bytes,
                growth_bytes,
                written_bytes: 0,
            },
            table_bytes: 0,
            table_bytes_peak: 0,
            written_bytes: 0,
            read_bytes: 0,
            options: options.clone(),
        }
    }

    /// Bytes of all tables, and the most that there were at once, outputs of merges among them.
    pub fn table_bytes(&self) -> (u64, u64) {
        (self.table_bytes, self.table_bytes_peak)
    }

    /// From here on the peak is that of what comes.
    pub fn forget_peak(&mut self) {
        self.table_bytes_peak = self.table_bytes;
    }

    /// Bytes of the manifest.
    pub fn manifest_bytes(&self) -> u64 {
        self.manifest.bytes
    }

    /// Bytes that were written to tables and to the manifest.
    pub fn written_bytes(&self) -> u64 {
        self.written_bytes + self.manifest.written_bytes
    }

    /// Bytes that merges have read.
    pub fn merge_read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// The tables of a level, in the order in which they are searched.
    pub fn tables(&self, level: usize) -> impl Iterator<Item = &TableMeta> {
        self.version.level(level).iter().map(|table| table.meta())
    }

    /// The table of a level below L0 that may hold `key`.
    pub fn find<'a>(&'a self, level: usize, key: &'a [u8]) -> Option<&'a TableMeta> {
        self.version.level(level).overlapping(key, key).next().map(|table| table.meta())
    }

    fn table(&mut self, sized: SizedTable, last_lsn: Lsn, tombstone_seconds: u64) -> Arc<Table> {
        let mut meta = sized.meta;
        meta.number = TableNumber::new(self.next_number);
        self.next_number += 1;
        meta.last_lsn = last_lsn;
        meta.tombstone_seconds = if meta.tombstones > 0 { tombstone_seconds } else { 0 };
        meta.newest_seconds = tombstone_seconds;
        self.written_bytes += meta.bytes;
        Arc::new(Table::sized(&meta, &sized.partitions, self.table_store.clone()))
    }

    fn append(&mut self, edit: &Edit) {
        let (version, cursors) = (&self.version, &self.cursors);
        let more_key_bytes = self.manifest.more_key_bytes;
        self.manifest.append(edit, || {
            let mut state = ManifestState { cursors: cursors.clone(), ..ManifestState::default() };
            state.tables = version
                .tables()
                .map(|(level, table)| ((level, table.number), table.meta().clone()))
                .collect();
            state.encode(1).len() as u64 + 2 * state.tables.len() as u64 * more_key_bytes
        });
    }

    fn replace(
        &mut self,
        leaving: &[(usize, Arc<Table>)],
        added: &[(usize, Arc<Table>)],
        cursor: Option<&(usize, Bytes)>,
    ) -> Result<()> {
        self.version = self.version.edit(leaving, added)?;
        if let Some((level, key)) = cursor {
            self.cursors[*level] = key.clone();
        }
        let edit = Edit::replace(leaving, added, cursor, TableNumber::new(self.next_number));
        self.append(&edit);
        Ok(())
    }

    /// A flush: `table` becomes the newest of L0, at a time in seconds. Its number.
    pub fn flush(&mut self, table: SizedTable, now_seconds: u64) -> Result<TableNumber> {
        self.age += 1;
        let table = self.table(table, Lsn::new(self.age), now_seconds);
        let number = table.number;
        self.table_bytes += table.bytes;
        self.table_bytes_peak = self.table_bytes_peak.max(self.table_bytes);
        self.version = self.version.edit(&[], &[(0, table.clone())])?;
        let edit = Edit {
            added: vec![(0, table.meta().clone())],
            log_lsn: Some(Lsn::new(1 << 34)),
            next_number: Some(TableNumber::new(self.next_number)),
            ..Edit::default()
        };
        self.append(&edit);
        Ok(number)
    }

    /// Does all merges that the policy wants, at a time in seconds.
    pub fn merge(&mut self, merger: &mut impl Merger, now_seconds: u64) -> Result<()> {
        loop {
            if (self.resting.len() as u64) < self.options.merge_threads {
                if !self.jobs.iter().any(CompactionJob::has_waiting_subcompaction)
                    && self.choose(merger, now_seconds)?
                {
                    continue;
                }
                let begun = self.jobs.iter_mut().find_map(CompactionJob::begin_subcompaction);
                if let Some(subcompaction) = begun {
                    let resting = self.begin(subcompaction, merger, now_seconds);
                    self.step(resting, merger)?;
                    continue;
                }
            }
            let Some(resting) = self.resting.pop_front() else { return Ok(()) };
            self.step(resting, merger)?;
        }
    }

    /// Asks the policy; whether it chose what reads nothing, which is done at once.
    fn choose(&mut self, merger: &mut impl Merger, now_seconds: u64) -> Result<bool> {
        let mut levels = self.version.picture(now_seconds);
        levels.claims = self.jobs.iter().flat_map(CompactionJob::claims).collect();
        match self.policy.choose(&levels, &self.cursors) {
            Choice::Nothing => Ok(false),
            Choice::Merge(compaction) => {
                let mut job = CompactionJob::new(&self.version, compaction, &self.table_store, &self.options);
                job.id = self.jobs.last().map_or(JobId::default(), |job| job.id).next();
                self.jobs.push(job);
                Ok(false)
            }
            Choice::Move(compaction) => self.take_along(&compaction, Some(compaction.into), merger),
            Choice::Drop(compaction) => self.take_along(&compaction, None, merger),
        }
    }

    fn take_along(
        &mut self,
        compaction: &Compaction,
        into: Option<usize>,
        merger: &mut impl Merger,
    ) -> Result<bool> {
        let leaving = self.version.inputs(compaction);
        let numbers: Vec<TableNumber> = leaving.iter().map(|(_, table)| table.number).collect();
        let added: Vec<(usize, Arc<Table>)> = match into {
            Some(into) => leaving.iter().map(|(_, table)| (into, table.clone())).collect(),
            None => Vec::new(),
        };
        self.replace(&leaving, &added, compaction.cursor.as_ref())?;
        merger.moved(&numbers, into);
        if into.is_none() {
            self.gone(&leaving, merger);
        }
        Ok(true)
    }

    fn begin(
        &mut self,
        mut subcompaction: Subcompaction,
        merger: &mut impl Merger,
        now_seconds: u64,
    ) -> Resting {
        let (tables, done_bytes) = merger.merge(&mut subcompaction);
        let origin = subcompaction.origin();
        let seconds = if origin.tombstone_seconds > 0 { origin.tombstone_seconds } else { now_seconds };
        let outputs: Vec<Arc<Table>> =
            tables.into_iter().map(|table| self.table(table, origin.last_lsn, seconds)).collect();
        outputs.iter().for_each(|table| merger.name(table.number));
        let steps = 1 + done_bytes / step_bytes(&self.options);
        Resting { subcompaction, outputs, steps }
    }

    /// Makes a step; with the last one its outputs become part of the store.
    fn step(&mut self, mut resting: Resting, merger: &mut impl Merger) -> Result<()> {
        resting.steps -= 1;
        if resting.steps > 0 {
            self.resting.push_back(resting);
            return Ok(());
        }
        let Resting { mut subcompaction, outputs, .. } = resting;
        let Some(at) = self.jobs.iter().position(|job| job.id == subcompaction.job) else { return Ok(()) };
        let output_bytes: u64 = outputs.iter().map(|table| table.bytes).sum();
        let waiting = self.resting.iter().flat_map(|resting| &resting.outputs).map(|table| table.bytes);
        let waiting_bytes: u64 = waiting.sum();
        self.table_bytes += output_bytes;
        self.table_bytes_peak = self.table_bytes_peak.max(self.table_bytes + waiting_bytes);
        subcompaction.set_outputs(outputs);
        let job = &mut self.jobs[at];
        let (into, is_last) = (job.compaction.into, job.is_last(subcompaction.number));
        let added: Vec<(usize, Arc<Table>)> =
            subcompaction.outputs().iter().map(|table| (into, table.clone())).collect();
        let leaving = job.leaving(subcompaction.number);
        let cursor = job.compaction.cursor.clone().filter(|_| is_last);
        job.end_subcompaction(&subcompaction, &leaving);
        if is_last {
            self.jobs.remove(at);
        }
        if is_last || !added.is_empty() || !leaving.is_empty() {
            self.replace(&leaving, &added, cursor.as_ref())?;
        }
        self.read_bytes += leaving.iter().map(|(_, table)| table.bytes).sum::<u64>();
        self.gone(&leaving, merger);
        Ok(())
    }

    fn gone(&mut self, leaving: &[(usize, Arc<Table>)], merger: &mut impl Merger) {
        for (_, table) in leaving {
            self.table_bytes -= table.bytes;
            merger.remove(table.number);
        }
    }
}
