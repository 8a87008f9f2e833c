//! The LSM-tree by size: memtable and log as the writer counts them, tables as their builder makes them, levels, policies and jobs the real
//! ones over tables of which only sizes are known. A batch is followed by all the work that it causes.

mod entries;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::cache::SizedCache;
use super::keys::Keys;
use super::log::SizedLog;
use super::model::{Model, Sizes};
use crate::base::varint;
use crate::disk::LEVELS;
use crate::engine::lsm::Options;
use crate::engine::lsm::sized_levels::{
    BALLAST_SHARE, Merger, SizedLevels, SizedMerge, SizedTable, TableMeta, TableNumber, ballast_bytes_max,
    key_cost, value_cost,
};
use crate::engine::{Result, ballast_change};
use entries::{Entries, EntriesBuilder, key, rank};

type Map<K, V> = HashMap<K, V, foldhash::fast::FixedState>;

/// Bytes of tables that a flush beside writers makes durable a second. It only decides whether the log is synced before a segment of it is free
/// again. That of the machine of `docs/advise.md`.
const FLUSH_BYTES_PER_SECOND: u64 = 340 << 20;
/// Bytes of blocks that a scan reads at once from the second piece on.
const SCAN_PIECE_BYTES: u64 = 8 << 10;

/// The memtable that is being written.
#[derive(Default)]
struct Memtable {
    /// Bytes of the newest value of each key; `None` for a tombstone.
    entries: Map<u32, Option<u32>>,
    bytes: u64,
    /// End of the log before its first batch.
    first: u64,
}

/// Entries of every table, and what came of the merge that was last done.
struct Tables {
    keys: Arc<Keys>,
    options: Options,
    entries: Map<u64, Entries>,
    unnamed: std::collections::VecDeque<Entries>,
}

/// The model.
pub struct LsmModel {
    options: Options,
    keys: Arc<Keys>,
    log: SizedLog,
    memtable: Memtable,
    levels: SizedLevels,
    tables: Tables,
    cache: SizedCache,
    now: Duration,
    batch: BatchBytes,
    sizes: Sizes,
    ballast_bytes: u64,
    /// Whether it runs on the clock of a recording, where flushes are done beside the writers.
    is_live: bool,
    /// The share of absent keys that a filter lets through.
    false_positives: f64,
    /// Numbers of tables that a get asks; kept for its capacity.
    asked: Vec<u64>,
    /// When the flush that runs will have ended, and up to where it lets go of the log then.
    flushing: Option<(Duration, u64)>,
}

/// A batch as its record in the log counts it.
#[derive(Default)]
pub(super) struct BatchBytes {
    operations: u64,
    payload_bytes: u64,
    logical_bytes: u64,
}

impl BatchBytes {
    /// Adds a change; a delete has no value.
    pub(super) fn add(&mut self, key_bytes: u64, value_bytes: Option<u64>) {
        self.operations += 1;
        self.payload_bytes += 1 + varint::length(key_bytes) + key_bytes;
        self.payload_bytes += value_bytes.map_or(0, |bytes| varint::length(bytes) + bytes);
        self.logical_bytes += key_bytes + value_bytes.unwrap_or(0);
    }

    /// Whether nothing was added.
    pub(super) fn is_empty(&self) -> bool {
        self.operations == 0
    }

    /// Bytes of the payload, and those that are asked for it.
    pub(super) fn record(&self) -> (u64, u64) {
        let payload_bytes = 1 + varint::length(self.operations) + self.payload_bytes;
        (payload_bytes, self.logical_bytes + 11 + self.operations * 21)
    }
}

impl Merger for Tables {
    fn merge(&mut self, merge: &mut SizedMerge) -> (Vec<SizedTable>, u64) {
        let (start, end) = merge.range();
        let (start, end) = (rank(start), end.map(rank));
        let table_bytes = merge.target_bytes();
        // A sorted run each: tables of L0 alone, those of a level one after the other.
        let mut runs: Vec<(usize, Vec<u64>)> = Vec::new();
        for (level, number) in merge.inputs() {
            match runs.last_mut() {
                Some((last, run)) if *last == level && level > 0 => run.push(number.number()),
                _ => runs.push((level, vec![number.number()])),
            }
        }
        let entries = &self.entries;
        let mut sources: Vec<Source<'_>> = runs
            .into_iter()
            .map(|(_, run)| Source::new(run.iter().filter_map(|number| entries.get(number)).collect(), start))
            .collect();
        let (mut outputs, mut builder) = (Vec::new(), None::<EntriesBuilder>);
        let mut done_bytes = 0;
        let mut finish = |builder: &mut Option<EntriesBuilder>| {
            outputs.extend(builder.take().and_then(|builder| builder.finish(&self.keys)));
        };
        while let Some(next) = sources.iter().filter_map(Source::rank).min() {
            if end.is_some_and(|end| next >= end) {
                break;
            }
            let mut newest = None;
            for source in &mut sources {
                if source.rank() == Some(next) {
                    if newest.is_none() {
                        newest = source.value();
                    }
                    source.advance();
                }
            }
            let Some(value) = newest else { break };
            done_bytes += self.keys.bytes(next) + value.unwrap_or(0) + 16;
            let name = key(next);
            if value.is_none() && !merge.keeps_tombstone(&name) {
                continue;
            }
            let bytes = builder.as_ref().map_or(0, EntriesBuilder::bytes);
            if merge.ends_before(&name, bytes) {
                finish(&mut builder);
            }
            let target = builder.get_or_insert_with(|| EntriesBuilder::new(&self.options));
            target.add(&self.keys, next, value);
            if target.bytes() >= table_bytes {
                merge.note_end();
                finish(&mut builder);
            }
        }
        finish(&mut builder);
        let (tables, entries): (Vec<SizedTable>, Vec<Entries>) = outputs.into_iter().unzip();
        self.unnamed.extend(entries);
        (tables, done_bytes)
    }

    fn name(&mut self, number: TableNumber) {
        if let Some(entries) = self.unnamed.pop_front() {
            self.entries.insert(number.number(), entries);
        }
    }

    fn moved(&mut self, _: &[TableNumber], _: Option<usize>) {}

    fn remove(&mut self, number: TableNumber) {
        self.entries.remove(&number.number());
    }
}

/// A sorted run that is merged.
struct Source<'a> {
    rest: std::vec::IntoIter<&'a Entries>,
    cursor: Option<entries::Cursor<'a>>,
}

impl<'a> Source<'a> {
    fn new(run: Vec<&'a Entries>, start: u32) -> Source<'a> {
        let mut source = Source { rest: run.into_iter(), cursor: None };
        source.skip(start);
        source
    }

    /// Goes to the next table that has an entry from `start` on.
    fn skip(&mut self, start: u32) {
        loop {
            self.cursor = self.rest.next().map(|entries| entries.from(start));
            if self.cursor.as_ref().is_none_or(|cursor| cursor.rank().is_some()) {
                return;
            }
        }
    }

    #[inline]
    fn rank(&self) -> Option<u32> {
        self.cursor.as_ref()?.rank()
    }

    #[inline]
    fn value(&self) -> Option<Option<u64>> {
        Some(self.cursor.as_ref()?.entry()?.1)
    }

    #[inline]
    fn advance(&mut self) {
        if let Some(cursor) = &mut self.cursor {
            cursor.advance();
            if cursor.rank().is_none() {
                self.skip(0);
            }
        }
    }
}

impl LsmModel {
    /// An empty store with `options` for `keys`. If it `is_live`, writers do not wait for flushes, and what a flush lets go of is free when
    /// it has ended.
    pub fn new(options: &Options, keys: &Arc<Keys>, is_live: bool) -> LsmModel {
        let common = &options.common;
        let mut model = LsmModel {
            log: SizedLog::new(common.log_segment_bytes, common.sync),
            memtable: Memtable::default(),
            levels: SizedLevels::new(options, keys.mean_bytes()),
            tables: Tables {
                keys: keys.clone(),
                options: options.clone(),
                entries: HashMap::default(),
                unnamed: Default::default(),
            },
            cache: SizedCache::new(0),
            now: Duration::ZERO,
            batch: BatchBytes::default(),
            sizes: Sizes::default(),
            ballast_bytes: 0,
            is_live,
            false_positives: false_positives(options.bloom_bits),
            asked: Vec::new(),
            flushing: None,
            keys: keys.clone(),
            options: options.clone(),
        };
        model.share_memory();
        model
    }

    /// What memtables and the indexes and filters of tables leave is the cache's.
    fn share_memory(&mut self) {
        let all = self.options.common.memory_bytes_max(self.options.memtables_bytes_max());
        let pinned: u64 = (0..LEVELS)
            .flat_map(|level| self.levels.tables(level))
            .map(|table| table.bytes - table.sizes.data_bytes)
            .sum();
        let memtables = self.options.memtables_bytes_max();
        self.cache.set_bytes_max(all.saturating_sub(memtables + pinned).max(all / 16));
    }

    fn change(&mut self, rank: u32, value_bytes: Option<u64>) {
        let key_bytes = self.keys.bytes(rank);
        self.batch.add(key_bytes, value_bytes);
        let value = value_bytes.map(|bytes| bytes.min(u64::from(u32::MAX)) as u32);
        self.memtable.bytes += value_cost(value_bytes);
        match self.memtable.entries.insert(rank, value) {
            Some(old) => self.memtable.bytes -= value_cost(old.map(u64::from)),
            None => self.memtable.bytes += key_cost(key_bytes),
        }
    }

    fn is_due(&self) -> bool {
        let (memtable, options) = (&self.memtable, &self.options);
        memtable.bytes >= options.memtable_bytes
            || options.memtable_entries > 0 && memtable.entries.len() as u64 >= options.memtable_entries
            || self.log.end() - memtable.first >= options.memtable_bytes
    }

    fn flush(&mut self) -> Result<()> {
        let mut sorted: Vec<(u32, Option<u32>)> = self.memtable.entries.drain().collect();
        sorted.sort_unstable();
        let mut builder = EntriesBuilder::new(&self.options);
        for (rank, value) in sorted {
            builder.add(&self.keys, rank, value.map(u64::from));
        }
        (self.memtable.bytes, self.memtable.first) = (0, self.log.end());
        let Some((table, entries)) = builder.finish(&self.keys) else { return Ok(()) };
        let bytes = table.meta.bytes;
        let number = self.levels.flush(table, self.now.as_secs())?;
        self.tables.entries.insert(number.number(), entries);
        self.end_flush();
        match self.is_live {
            true => {
                let nanos = bytes * 1_000_000_000 / FLUSH_BYTES_PER_SECOND;
                self.flushing = Some((self.now + Duration::from_nanos(nanos), self.log.end()));
            }
            false => self.log.release(self.log.end()),
        }
        let wanted_bytes = ballast_bytes_max(&self.options, self.log.segment_bytes())
            .min(self.levels.table_bytes().0 / BALLAST_SHARE);
        let reserve_bytes = self.options.common.reserve_bytes;
        if let Some(bytes) = ballast_change(wanted_bytes, self.ballast_bytes, reserve_bytes) {
            self.ballast_bytes = bytes;
        }
        self.sizes.note_space(self.space_bytes());
        Ok(())
    }

    /// A flush that runs is over, and lets go of the log.
    fn end_flush(&mut self) {
        if let Some((_, until)) = self.flushing.take() {
            self.log.release(until);
        }
    }

    /// Bytes of all files beside tables.
    fn other_bytes(&self) -> u64 {
        self.levels.manifest_bytes() + self.log.file_bytes() + self.ballast_bytes
    }

    fn space_bytes(&self) -> u64 {
        self.levels.table_bytes().0 + self.other_bytes()
    }

    fn merge(&mut self) -> Result<()> {
        self.levels.merge(&mut self.tables, self.now.as_secs())?;
        self.sizes.note_space(self.levels.table_bytes().1 + self.other_bytes());
        self.share_memory();
        Ok(())
    }

    /// Reads the block of the table `number` that may hold `rank`.
    fn read_block(&mut self, number: u64, rank: u32) {
        let Some(entries) = self.tables.entries.get(&number) else { return };
        let place = entries.block(rank);
        if !self.cache.use_piece(number << 32 | u64::from(place.block), place.bytes) {
            self.sizes.read_bytes += place.bytes;
            self.sizes.read_requests += 1;
        }
    }

    /// Whether a filter of the table `number` lets a key through that the table has not, by a hash of both.
    fn is_fooled(&self, number: u64, rank: u32) -> bool {
        let mixed = (u64::from(rank) ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15))
            .wrapping_mul(0xD6E8_FEB8_6659_FD93);
        ((mixed >> 32) as f64) < self.false_positives * f64::from(u32::MAX)
    }

    /// Asks a table for a key; whether it has it.
    fn ask(&mut self, number: u64, rank: u32) -> bool {
        let holds = self.tables.entries.get(&number).is_some_and(|entries| entries.get(rank).is_some());
        if holds || self.is_fooled(number, rank) {
            self.read_block(number, rank);
        }
        holds
    }
}

/// The share of absent keys that a filter of `bits` a key lets through: that of a Bloom filter, and a half more since a key's bits lie in one
/// line.
fn false_positives(bits: u64) -> f64 {
    if bits == 0 {
        return 1.0;
    }
    let probes = ((bits * 6 + 5) / 10).clamp(1, 16) as f64;
    let share = (1.0 - (-probes / bits as f64).exp()).powf(probes);
    (share * 1.5).min(1.0)
}

impl Model for LsmModel {
    fn put(&mut self, rank: u32, value_bytes: u64) {
        self.change(rank, Some(value_bytes));
    }

    fn delete(&mut self, rank: u32) {
        self.change(rank, None);
    }

    fn end_batch(&mut self, elapsed: Duration) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let (payload_bytes, payload_bytes_max) = std::mem::take(&mut self.batch).record();
        self.log.append(payload_bytes, payload_bytes_max, self.now);
        self.now += elapsed;
        let is_due = self.is_due();
        if self.flushing.is_some_and(|(end, _)| end <= self.now) {
            self.end_flush();
        }
        self.log.work(self.now);
        if is_due {
            self.flush()?;
            self.merge()?;
            self.log.work(self.now);
        }
        Ok(())
    }

    fn get(&mut self, rank: u32, _: bool) {
        if self.memtable.entries.contains_key(&rank) {
            return;
        }
        let name = key(rank);
        let mut asked = std::mem::take(&mut self.asked);
        asked.clear();
        let upper = self.levels.tables(0).filter(|table| table.overlaps(&name, &name));
        asked.extend(upper.map(|table| table.number.number()));
        let lower = (1..LEVELS).filter_map(|level| self.levels.find(level, &name));
        asked.extend(lower.map(|table| table.number.number()));
        asked.iter().find(|number| self.ask(**number, rank));
        self.asked = asked;
    }

    fn scan(&mut self, from: u32, to: u32) {
        let (first, last) = (key(from), key(to.max(from)));
        for level in 0..LEVELS {
            let tables: Vec<TableMeta> =
                self.levels.tables(level).filter(|table| table.overlaps(&first, &last)).cloned().collect();
            for table in tables {
                let Some(entries) = self.tables.entries.get(&table.number.number()) else { continue };
                let (from, to) = (from.max(rank(&table.smallest)), to.min(rank(&table.largest)));
                let mut missed_bytes = 0;
                for place in entries.blocks(from, to.max(from)) {
                    let piece = table.number.number() << 32 | u64::from(place.block);
                    if !self.cache.use_piece(piece, place.bytes) {
                        missed_bytes += place.bytes;
                    }
                }
                self.sizes.read_bytes += missed_bytes;
                self.sizes.read_requests += missed_bytes.div_ceil(SCAN_PIECE_BYTES);
            }
        }
    }

    fn sync(&mut self) {
        self.log.sync(true);
    }

    fn settle(&mut self) -> Result<()> {
        self.flush()?;
        self.end_flush();
        self.log.sync(true);
        self.log.work(self.now);
        self.merge()?;
        self.log.work(self.now);
        Ok(())
    }

    fn forget_peaks(&mut self) {
        self.levels.forget_peak();
        self.sizes.space_bytes_peak = 0;
    }

    fn sizes(&mut self) -> Sizes {
        let space_bytes = self.space_bytes();
        self.sizes.note_space(space_bytes);
        self.sizes.log_bytes = self.log.written_bytes();
        self.sizes.written_bytes = self.log.written_bytes() + self.levels.written_bytes();
        self.sizes.background_read_bytes = self.levels.merge_read_bytes();
        self.sizes.space_bytes = space_bytes;
        self.sizes.log_file_bytes = self.log.file_bytes();
        self.sizes
    }
}
