//! Places that move forward through sorted entries: of a memtable, or of a run of tables.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::{Arc, Weak};

use bytes::Bytes;

use super::memtable::{Copied, Memtable};
use super::run::{Run, RunPosition};
use super::table::{Block, BlockCursor, Index, ReadOptions, Table};
use super::value_log::{Pointer, StoredValue};
use crate::disk::Purpose;
use crate::engine::cache::BlockCache;
use crate::engine::wal::Segment;
use crate::engine::{Error, KeyRange, Lsn, Result, Tier};

/// Entries that are copied out of a memtable at first, and at most, at a time.
const COPY: std::ops::RangeInclusive<usize> = 16..=512;
/// A scan that goes on reads this much ahead at first and, twice as much every time, at most. So one that ends soon has
/// read little that it did not need.
const SCAN_BYTES: std::ops::RangeInclusive<u64> = 8 << 10..=256 << 10;
/// A merge reads this much at once.
const MERGE_BYTES: u64 = 256 << 10;

/// The way by which a cursor gets at blocks.
#[derive(Clone)]
pub enum Reading {
    /// From the cache, and as far as `tier` allows from the disk.
    Cached {
        /// The cache.
        cache: Arc<BlockCache>,
        /// Whether the disk may be asked.
        tier: Tier,
    },
    /// From the disk in long pieces that are kept by nobody.
    Direct(Purpose),
}

/// A place in sorted entries, or their end.
pub enum Cursor {
    /// In a memtable.
    Memory(MemoryCursor),
    /// In tables that do not overlap.
    Run(Box<RunCursor>),
}

impl Cursor {
    /// The current key; `None` at the end.
    pub fn key(&self) -> Option<&[u8]> {
        match self {
            Cursor::Memory(cursor) => cursor.key(),
            Cursor::Run(cursor) => cursor.valid.then(|| cursor.block.key()),
        }
    }

    /// The current value; `None` for a tombstone.
    pub fn value(&self) -> Option<StoredValue<'_>> {
        match self {
            Cursor::Memory(cursor) => cursor.value().map(|(value, _)| StoredValue::Value(value)),
            Cursor::Run(cursor) => match &cursor.pointer {
                Some((pointer, segment)) => Some(StoredValue::Pointer(*pointer, segment)),
                None => cursor.block.value().map(StoredValue::Value),
            },
        }
    }

    /// Whether what it goes through is gone: it has no current entry, though there may be more.
    pub fn is_lost(&self) -> bool {
        matches!(self, Cursor::Memory(MemoryCursor { is_lost: true, .. }))
    }

    /// Goes to the next entry.
    pub fn advance(&mut self) -> Result<()> {
        match self {
            Cursor::Memory(cursor) => {
                cursor.advance();
                Ok(())
            }
            Cursor::Run(cursor) => cursor.advance(),
        }
    }

    /// Goes forward to the first entry at or behind `key`.
    pub fn seek(&mut self, key: &[u8]) -> Result<()> {
        if self.key().is_none_or(|at| at >= key) {
            return Ok(());
        }
        match self {
            Cursor::Memory(cursor) => {
                cursor.seek(key);
                Ok(())
            }
            Cursor::Run(cursor) => cursor.seek(key),
        }
    }
}

/// A place in a memtable. Entries are copied in pieces, so that its lock is not held while they are used, nor the memtable kept: when
/// it was flushed and freed meanwhile, the cursor is *lost*. It has no current entry then, and what it stood for lies in a table.
pub struct MemoryCursor {
    memtable: Weak<Memtable>,
    end: Option<Bytes>,
    entries: Copied,
    index: usize,
    limit: usize,
    is_lost: bool,
}

impl MemoryCursor {
    /// The first entry of `range`.
    pub fn new(memtable: &Arc<Memtable>, range: KeyRange<'_>) -> MemoryCursor {
        let (mut entries, limit) = (Copied::default(), *COPY.start());
        memtable.copy(Bound::Included(range.start), range.end, limit, &mut entries);
        let end = range.end.map(Bytes::copy_from_slice);
        MemoryCursor { memtable: Arc::downgrade(memtable), end, entries, index: 0, limit, is_lost: false }
    }

    /// The current key; `None` at the end.
    pub fn key(&self) -> Option<&[u8]> {
        self.entries.key(self.index)
    }

    /// The current value, and its LSN in the log if a table may point to it there, else 0; `None` for a tombstone.
    pub fn value(&self) -> Option<(&[u8], Lsn)> {
        self.entries.value(self.index)
    }

    /// Goes to the next entry.
    pub fn advance(&mut self) {
        self.index += 1;
        if self.index == self.entries.len()
            && self.entries.has_more()
            && let Some(last) = self.entries.key(self.index - 1).map(<[u8]>::to_vec)
        {
            self.limit = (self.limit * 2).min(*COPY.end());
            self.copy(Bound::Excluded(&last));
        }
    }

    fn seek(&mut self, key: &[u8]) {
        self.index = self.entries.find(key);
        if self.index == self.entries.len() && self.entries.has_more() {
            self.limit = *COPY.start();
            self.copy(Bound::Included(key));
        }
    }

    fn copy(&mut self, from: Bound<&[u8]>) {
        match self.memtable.upgrade() {
            Some(memtable) => memtable.copy(from, self.end.as_deref(), self.limit, &mut self.entries),
            None => (self.entries, self.is_lost) = (Copied::default(), true),
        }
        self.index = 0;
    }
}

impl Reading {
    fn access(&self) -> ReadOptions<'_> {
        let (cache, tier, purpose) = match self {
            Reading::Cached { cache, tier } => (Some(&**cache), *tier, Purpose::Scan),
            Reading::Direct(purpose) => (None, Tier::Disk, *purpose),
        };
        ReadOptions { cache, tier, purpose, read_bytes: None }
    }
}

/// A place in tables that do not overlap. Its fields are the place (table, partition, block, entry), the loaded index and block there, and
/// the read-ahead; a step forward changes several of them together.
pub struct RunCursor {
    tables: Run,
    table: RunPosition,
    partition: usize,
    /// The index of the partition, once it is needed.
    index: Option<Arc<Index>>,
    /// The block in the partition.
    ordinal: usize,
    /// Start of the block.
    start: u64,
    block: BlockCursor,
    valid: bool,
    /// If the value of the current entry lies in the log: where.
    pointer: Option<(Pointer, Arc<Segment>)>,
    reading: Reading,
    /// No block is read that only holds keys from here on.
    end: Option<Bytes>,
    /// Blocks behind the current one that were read with it.
    ahead: VecDeque<Block>,
    /// Read-ahead: bytes behind the next block that are read with it. 0 until the cursor goes on from one block to another.
    ahead_bytes: u64,
}

impl RunCursor {
    /// The first entry of `range` in `tables`.
    pub fn new(tables: Run, range: KeyRange<'_>, reading: Reading) -> Result<RunCursor> {
        let mut cursor = RunCursor {
            tables,
            table: RunPosition::default(),
            partition: 0,
            index: None,
            ordinal: 0,
            start: 0,
            block: BlockCursor::default(),
            valid: false,
            pointer: None,
            reading,
            end: range.end.map(Bytes::copy_from_slice),
            ahead: VecDeque::new(),
            ahead_bytes: 0,
        };
        cursor.seek(range.start)?;
        Ok(cursor)
    }

    fn advance(&mut self) -> Result<()> {
        let Some(table) = self.tables.get(self.table) else { return Ok(()) };
        self.valid = self.block.advance().map_err(|_| table.damaged(self.start))?;
        if self.valid {
            self.pointer = table.follow(self.block.pointer(), self.start)?;
            return Ok(());
        }
        self.ordinal += 1;
        self.ahead_bytes = self.ahead_bytes.max(*SCAN_BYTES.start());
        self.settle(b"")
    }

    /// Goes forward to the first entry at or behind `key`.
    fn seek(&mut self, key: &[u8]) -> Result<()> {
        self.valid = false;
        self.table = self.tables.seek(key).max(self.table);
        self.ahead.clear();
        self.ahead_bytes = 0;
        self.index = None;
        self.ordinal = 0;
        let Some(table) = self.tables.get(self.table).cloned() else { return Ok(()) };
        self.partition = table.partition_of(key);
        if self.is_before_end(table.partition_fence(self.partition)) {
            self.ordinal = self.index(&table)?.find(key);
            self.settle(key)?;
        }
        Ok(())
    }

    fn is_before_end(&self, key: &[u8]) -> bool {
        self.end.as_ref().is_none_or(|end| key < &end[..])
    }

    /// The index of the current partition.
    fn index(&mut self, table: &Table) -> Result<Arc<Index>> {
        if let Some(index) = &self.index {
            return Ok(index.clone());
        }
        let index = table.index(self.partition, self.reading.access())?.into_shared();
        self.index = Some(index.clone());
        Ok(index)
    }

    /// Goes to the first entry at or behind `start` from the current block on.
    fn settle(&mut self, start: &[u8]) -> Result<()> {
        self.valid = false;
        while let Some(table) = self.tables.get(self.table).cloned() {
            if self.partition == table.partitions() {
                (self.table, self.partition) = (self.tables.next(self.table), 0);
                continue;
            }
            if self.ordinal == 0 && !self.is_before_end(table.partition_fence(self.partition)) {
                break;
            }
            let index = self.index(&table)?;
            if self.ordinal == index.len() {
                (self.partition, self.ordinal, self.index) = (self.partition + 1, 0, None);
                continue;
            }
            if self.ordinal > 0 && !self.is_before_end(index.fence(self.ordinal)) {
                break;
            }
            self.start = index.start(self.ordinal);
            let block = self.load(&table, &index)?;
            if self.block.enter(block, start).map_err(|_| table.damaged(self.start))? {
                self.pointer = table.follow(self.block.pointer(), self.start)?;
                self.valid = true;
                break;
            }
            self.ordinal += 1;
            self.ahead_bytes = self.ahead_bytes.max(*SCAN_BYTES.start());
        }
        Ok(())
    }

    /// The current block.
    fn load(&mut self, table: &Table, index: &Index) -> Result<Block> {
        if let Some(block) = self.ahead.pop_front() {
            return Ok(block);
        }
        let (cache, purpose, bytes) = match &self.reading {
            Reading::Direct(purpose) => (None, *purpose, MERGE_BYTES),
            Reading::Cached { cache, tier } => match (table.cached(self.start, cache)?, tier) {
                (Some(block), _) => return Ok(block),
                (None, Tier::Memory) => return Err(Error::WouldBlock),
                (None, Tier::Disk) => {
                    let bytes = self.ahead_bytes;
                    self.ahead_bytes = (bytes * 2).min(*SCAN_BYTES.end());
                    (Some(&**cache), Purpose::Scan, bytes)
                }
            },
        };
        let end = self.end.as_deref();
        self.ahead = table.read_blocks(index, self.ordinal, bytes, end, purpose, cache)?;
        // It holds at least the one block that was asked for.
        self.ahead.pop_front().ok_or_else(|| table.damaged(self.start))
    }
}
