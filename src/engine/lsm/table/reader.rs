//! Reads a table. Index and filter of an open table are in memory, blocks come from the cache or the disk.

use std::collections::VecDeque;
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;

use super::block::{Block, Item};
use super::compression::{expand, is_compressed};
use super::filter::Filter;
use super::index::Index;
use super::{
    KIND_BLOCK, KIND_FILTER, KIND_FOOTER, KIND_INDEX, MAGIC, Shelf, TRAILER_BYTES, TableMeta, VERSION,
    table_name,
};
use crate::base::varint;
use crate::disk::{File, Purpose};
use crate::engine::cache::BlockCache;
use crate::engine::lsm::value_log::{self, Pointer};
use crate::engine::lsm::{Slot, place};
use crate::engine::wal::Segment;
use crate::engine::{Error, Result, Tier, frame};

/// An open table; reads as its [`TableMeta`].
pub struct Table {
    meta: TableMeta,
    file: Arc<dyn File>,
    index: Index,
    filter: Filter,
    /// Holds the segments of [`TableMeta::values`], in the same order.
    segments: Vec<Arc<Segment>>,
    shelf: Arc<Shelf>,
    obsolete: AtomicBool,
}

impl Deref for Table {
    type Target = TableMeta;
    fn deref(&self) -> &TableMeta {
        &self.meta
    }
}

impl Table {
    /// A table whose parts are known.
    pub(super) fn new(
        meta: TableMeta,
        file: Arc<dyn File>,
        index: Index,
        filter: Filter,
        segments: Vec<Arc<Segment>>,
        shelf: Arc<Shelf>,
    ) -> Table {
        Table { meta, file, index, filter, segments, shelf, obsolete: AtomicBool::new(false) }
    }

    /// Reads footer, index and filter from `file`; everything must check and agree with `expected`.
    pub(super) fn open(
        purpose: Purpose,
        expected: &TableMeta,
        file: Arc<dyn File>,
        segments: Vec<Arc<Segment>>,
        shelf: Arc<Shelf>,
    ) -> Result<Table> {
        let number = expected.number;
        let name = || table_name(number);
        let damaged = |offset: u64, what: &str| Error::corrupt(name(), offset, what);
        let read = |range: Range<u64>| {
            let mut bytes = vec![0; (range.end - range.start) as usize];
            let context = |error| Error::io(format!("reading {}", name()), error);
            file.read_at(purpose, range.start, &mut bytes).map_err(context)?;
            Ok::<_, Error>(bytes)
        };
        let size = file.size().map_err(|error| Error::io(format!("reading {}", name()), error))?;
        if size != expected.bytes || size < TRAILER_BYTES {
            return Err(damaged(size, &format!("it should have {} bytes", expected.bytes)));
        }
        let trailer_start = size - TRAILER_BYTES;
        let trailer = read(trailer_start..size)?;
        let footer_bytes = u64::from(u32::from_le_bytes([trailer[0], trailer[1], trailer[2], trailer[3]]));
        let footer_start = trailer_start
            .checked_sub(footer_bytes)
            .filter(|_| trailer[4..] == MAGIC[..])
            .ok_or_else(|| damaged(trailer_start, "a trailer that does not check"))?;
        let footer = read(footer_start..trailer_start)?;
        let (filter_start, index_start) = frame::decode(&footer, place(number, footer_start))
            .and_then(|(kind, mut payload)| {
                let version = varint::take(&mut payload)?;
                let meta = TableMeta::decode(&mut payload, size)?;
                let (filter, index) = (varint::take(&mut payload)?, varint::take(&mut payload)?);
                let fits =
                    kind == KIND_FOOTER && version == VERSION && meta == *expected && payload.is_empty();
                (fits && filter <= index && index <= footer_start).then_some((filter, index))
            })
            .ok_or_else(|| {
                damaged(footer_start, "a footer that does not check or is not what the manifest says")
            })?;
        let parts = read(filter_start..footer_start)?;
        let (filter_part, index_part) = parts.split_at((index_start - filter_start) as usize);
        let filter = frame::decode(filter_part, place(number, filter_start))
            .and_then(|(kind, payload)| Filter::decode(payload).filter(|_| kind == KIND_FILTER))
            .ok_or_else(|| damaged(filter_start, "a filter that does not check"))?;
        let index = frame::decode(index_part, place(number, index_start))
            .and_then(|(kind, payload)| Index::decode(payload).filter(|_| kind == KIND_INDEX))
            .filter(|index| index.len() > 0 && index.start(index.len()) == filter_start)
            .ok_or_else(|| damaged(index_start, "an index that does not check"))?;
        Ok(Table::new(expected.clone(), file, index, filter, segments, shelf))
    }

    /// What can be known without reading.
    pub fn meta(&self) -> &TableMeta {
        &self.meta
    }

    /// Whether it has a filter.
    pub fn has_filter(&self) -> bool {
        self.filter.is_some()
    }

    /// Whether it may hold a key with this hash.
    pub fn may_contain(&self, hash: u64) -> bool {
        self.filter.may_contain(hash)
    }

    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        self.index.len()
    }

    /// The block where a search for `key` begins.
    pub fn find_block(&self, key: &[u8]) -> usize {
        self.index.find(key)
    }

    /// A key that no entry of block `ordinal` is below.
    pub fn fence(&self, ordinal: usize) -> &[u8] {
        self.index.fence(ordinal)
    }

    /// How many blocks from `ordinal` on, at least one, lie within `bytes` and may hold keys below `end`.
    pub fn blocks_within(&self, ordinal: usize, bytes: u64, end: Option<&[u8]>) -> usize {
        let start = self.index.start(ordinal);
        let fits = |next: &usize| {
            self.index.start(*next + 1) - start <= bytes
                && end.is_none_or(|end| self.index.fence(*next) < end)
        };
        1 + (ordinal + 1..self.blocks()).take_while(fits).count()
    }

    /// What the table knows of `key`, which lies between its first and its last.
    pub fn get(&self, key: &[u8], cache: &BlockCache, tier: Tier) -> Result<Option<Slot>> {
        let ordinal = self.index.find(key);
        let block = match self.cached(ordinal, cache)? {
            Some(block) => block,
            None if tier == Tier::Memory => return Err(Error::WouldBlock),
            None => {
                let block = self.check(ordinal, self.read(ordinal, 1, Purpose::Get)?)?;
                cache.count_miss();
                self.keep(ordinal, &block, cache);
                block
            }
        };
        match block.get(key).map_err(|_| self.damaged(ordinal))? {
            None => Ok(None),
            Some(Item::Tombstone) => Ok(Some(None)),
            Some(Item::Value(value)) => Ok(Some(Some(value))),
            Some(Item::Pointer(bytes)) => match self.follow(Some(&bytes), ordinal)? {
                Some((pointer, segment)) => Ok(Some(Some(value_log::read(pointer, &segment, cache, tier)?))),
                None => Err(self.damaged(ordinal)),
            },
        }
    }

    /// What an encoded pointer of block `ordinal`, if there is one, points to.
    pub fn follow(&self, bytes: Option<&[u8]>, ordinal: usize) -> Result<Option<(Pointer, Arc<Segment>)>> {
        let Some(bytes) = bytes else { return Ok(None) };
        let pointer = Pointer::decode(bytes).ok_or_else(|| self.damaged(ordinal))?;
        let after = self.segments.partition_point(|segment| segment.start() <= pointer.position);
        let segment = after.checked_sub(1).map(|index| self.segments[index].clone());
        Ok(Some((pointer, segment.ok_or_else(|| self.damaged(ordinal))?)))
    }

    /// Segments of the log that hold values of it.
    pub fn segments(&self) -> &[Arc<Segment>] {
        &self.segments
    }

    /// Block `ordinal` if the cache has it.
    pub fn cached(&self, ordinal: usize, cache: &BlockCache) -> Result<Option<Block>> {
        match cache.get(self.meta.number, self.index.start(ordinal)) {
            Some(payload) => Ok(Some(Block::parse(payload).map_err(|_| self.damaged(ordinal))?)),
            None => Ok(None),
        }
    }

    /// Keeps block `ordinal` in the cache.
    fn keep(&self, ordinal: usize, block: &Block, cache: &BlockCache) {
        cache.insert(self.meta.number, self.index.start(ordinal), block.payload().clone());
    }

    /// The frames of `count` blocks from `first` on, by one request, unchecked.
    fn read(&self, first: usize, count: usize, purpose: Purpose) -> Result<Bytes> {
        let start = self.index.start(first);
        let mut bytes = vec![0; (self.index.start(first + count) - start) as usize];
        let context = |error| Error::io(format!("reading {}", table_name(self.meta.number)), error);
        self.file.read_at(purpose, start, &mut bytes).map_err(context)?;
        Ok(bytes.into())
    }

    /// Block `ordinal` out of its frame; it shares its memory unless it is compressed.
    fn check(&self, ordinal: usize, bytes: Bytes) -> Result<Block> {
        let payload = match frame::decode(&bytes, place(self.meta.number, self.index.start(ordinal))) {
            Some((kind, payload)) if payload.len() + frame::HEADER_BYTES == bytes.len() => {
                if is_compressed(kind) {
                    let block = expand(kind, payload).ok_or_else(|| self.damaged(ordinal))?;
                    return Block::parse(block.into()).map_err(|_| self.damaged(ordinal));
                }
                if kind != KIND_BLOCK {
                    return Err(self.damaged(ordinal));
                }
                payload
            }
            _ => return Err(self.damaged(ordinal)),
        };
        Block::parse(bytes.slice_ref(payload)).map_err(|_| self.damaged(ordinal))
    }

    /// `count` blocks from `first` on, by one request. With a cache they are kept there and the request counts as a miss.
    pub fn read_blocks(
        &self,
        first: usize,
        count: usize,
        purpose: Purpose,
        cache: Option<&BlockCache>,
    ) -> Result<VecDeque<Block>> {
        let bytes = self.read(first, count, purpose)?;
        if let Some(cache) = cache {
            cache.count_miss();
        }
        let base = self.index.start(first);
        let one = |ordinal| {
            let range =
                (self.index.start(ordinal) - base) as usize..(self.index.start(ordinal + 1) - base) as usize;
            let Some(cache) = cache else { return self.check(ordinal, bytes.slice(range)) };
            // A cached block owns its memory: a slice would keep all of what was read.
            let block = self.check(ordinal, Bytes::copy_from_slice(&bytes[range]))?;
            self.keep(ordinal, &block, cache);
            Ok(block)
        };
        (first..first + count).map(one).collect()
    }

    /// The error for a block that does not check.
    pub fn damaged(&self, ordinal: usize) -> Error {
        Error::corrupt(table_name(self.meta.number), self.index.start(ordinal), "a block that does not check")
    }

    /// No version needs it any more: its file is removed after the last reader.
    pub fn retire(&self) {
        if !self.obsolete.swap(true, Relaxed) {
            self.shelf.retire(self.meta.bytes);
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        if *self.obsolete.get_mut() {
            self.shelf.discard(self.meta.number, self.meta.bytes);
        }
    }
}
