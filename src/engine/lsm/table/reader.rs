//! Reads a table. Its top is in memory; indexes and filters of its parts are resident while the cache can spare the memory, else
//! they come from the cache or the disk as blocks do.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::ops::{Deref, Range};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;

use super::block::{Block, Item};
use super::compression::{expand, is_compressed};
use super::filter::Filter;
use super::index::Index;
use super::parts::{Lent, Resident, Top};
use super::rebuild::rebuild;
use super::{
    KIND_BLOCK, KIND_FILTER, KIND_FOOTER, KIND_INDEX, KIND_TOP, MAGIC, TRAILER_BYTES, TableMeta, TableStore,
    VERSION, table_name,
};
use crate::base::varint;
use crate::disk::{File, Gone, Purpose};
use crate::engine::cache::{BlockCache, CacheKind};
use crate::engine::lsm::value_log::{self, Pointer};
use crate::engine::lsm::{Slot, place};
use crate::engine::wal::Segment;
use crate::engine::{Error, Result, Tier, Work, frame};

/// How far to go for what is not resident.
#[derive(Clone, Copy)]
pub struct Access<'a> {
    /// Where to look first and what to keep in; without, only the disk is asked.
    pub cache: Option<&'a BlockCache>,
    /// How far to go.
    pub tier: Tier,
    /// Of requests to the disk.
    pub purpose: Purpose,
    /// Counts the bytes that came from the disk.
    pub read_bytes: Option<&'a Cell<u64>>,
}

impl<'a> Access<'a> {
    /// Through `cache`, for a point read.
    pub fn get(cache: &'a BlockCache, tier: Tier) -> Access<'a> {
        Access { cache: Some(cache), tier, purpose: Purpose::Get, read_bytes: None }
    }

    /// Counts bytes that are read from the disk.
    pub fn count(&self, bytes: u64) {
        if let Some(counter) = self.read_bytes {
            counter.set(counter.get() + bytes);
        }
    }
}

/// Of a top that is not looked for together with the parts before it so much is read.
const TOP_BYTES: u64 = 4 << 10;

/// Memory of an open table beside its keys, top, parts and lists: itself, its places in the manifest and in the version, and what every
/// room of the disk below keeps of its file. Measured, and held to what the heap says by `tests/memory.rs`.
const OPEN_BYTES: u64 = 1488;

/// The end of a table's file, as far as it was read.
struct Tail<'a> {
    purpose: Purpose,
    name: &'a dyn Fn() -> String,
    file: &'a dyn File,
    start: u64,
    bytes: Vec<u8>,
}

impl Tail<'_> {
    /// Reads what is missing of everything from `start` on.
    fn reach(&mut self, start: u64) -> Result<()> {
        if start < self.start {
            let mut bytes = vec![0; (self.start - start) as usize];
            let context = |error| Error::io(format!("reading {}", (self.name)()), error);
            self.file.read_at(self.purpose, start, &mut bytes).map_err(context)?;
            bytes.append(&mut self.bytes);
            (self.start, self.bytes) = (start, bytes);
        }
        Ok(())
    }

    /// Some of what was read.
    fn slice(&self, range: Range<u64>) -> &[u8] {
        &self.bytes[(range.start - self.start) as usize..(range.end - self.start) as usize]
    }
}

/// An open table; reads as its [`TableMeta`].
pub struct Table {
    meta: TableMeta,
    file: Arc<dyn File>,
    top: Top,
    has_filter: bool,
    /// Of every part, or of none.
    resident: Vec<Resident>,
    /// What it took from the table store's memory.
    resident_bytes: u64,
    /// What it takes whatever is resident of it.
    open_bytes: u64,
    /// Holds the segments of [`TableMeta::values`], in the same order.
    segments: Vec<Arc<Segment>>,
    table_store: Arc<TableStore>,
    obsolete: AtomicBool,
    /// Why nothing of it can be read, if that is so.
    lost: Option<Error>,
}

impl Deref for Table {
    type Target = TableMeta;
    fn deref(&self) -> &TableMeta {
        &self.meta
    }
}

impl Table {
    /// A table whose parts are known; they stay in memory if there is room for them, or if there is but one.
    pub(super) fn new(
        meta: TableMeta,
        file: Arc<dyn File>,
        top: Top,
        parts: Vec<Resident>,
        segments: Vec<Arc<Segment>>,
        table_store: Arc<TableStore>,
    ) -> Table {
        let open_bytes = OPEN_BYTES + (meta.smallest.len() + meta.largest.len()) as u64;
        table_store.note_open(open_bytes);
        let mut resident_bytes =
            top.bytes() + size_of_val(&*meta.values) as u64 + size_of_val(&*segments) as u64;
        table_store.take_memory(resident_bytes, true);
        let bytes = parts.iter().map(Resident::bytes).sum();
        let resident = if table_store.take_memory(bytes, parts.len() == 1) { parts } else { Vec::new() };
        resident_bytes += if resident.is_empty() { 0 } else { bytes };
        // A filter that knows nothing is but one byte.
        let filter = top.filter(0);
        let has_filter = filter.end - filter.start > frame::HEADER_BYTES as u64 + 1;
        let obsolete = AtomicBool::new(false);
        Table {
            meta,
            file,
            top,
            has_filter,
            resident,
            resident_bytes,
            open_bytes,
            segments,
            table_store,
            obsolete,
            lost: None,
        }
    }

    /// A table of which nothing is known but what the manifest says: whoever needs something of it gets `error`.
    pub(super) fn lost(
        meta: &TableMeta,
        segments: Vec<Arc<Segment>>,
        table_store: Arc<TableStore>,
        error: Error,
    ) -> Table {
        let top = Top::whole(meta.parts.data_bytes);
        let mut table = Table::new(meta.clone(), Arc::new(Gone), top, Vec::new(), segments, table_store);
        table.lost = Some(error);
        table
    }

    /// A table whose footer or top cannot be read: its index is made anew from its blocks, which lie where the manifest says. Also the
    /// first of those that does not check, if there is one. `error` if that cannot be done, or memory is short.
    pub(super) fn rebuild(
        meta: &TableMeta,
        file: Arc<dyn File>,
        segments: Vec<Arc<Segment>>,
        table_store: Arc<TableStore>,
        error: Error,
    ) -> Result<(Table, Option<Error>)> {
        let found = rebuild(meta.number, &*file, 0..meta.parts.data_bytes, Purpose::Recovery);
        let is_known =
            found.keys.as_ref().is_some_and(|(first, last)| *first >= meta.smallest && *last <= meta.largest);
        let is_all = || {
            let (first, last) = found.keys.as_ref().map_or((&[][..], &[][..]), |(a, b)| (a, b));
            found.entries == meta.entries && *first == meta.smallest && *last == meta.largest
        };
        let bytes = found.index.bytes();
        if !is_known || found.gap.is_none() && !is_all() || !table_store.has_memory_for_rebuilt(bytes) {
            return Err(error);
        }
        let top = Top::whole(meta.parts.data_bytes);
        let parts = vec![Resident { index: Arc::new(found.index), filter: Filter::default() }];
        Ok((Table::new(meta.clone(), file, top, parts, segments, table_store), found.gap))
    }

    /// Reads footer and parts from `file`; footer and top must check and agree with `expected`, and all parts if it is opened to be
    /// verified. Of a table with several parts these are read only if they may stay in memory, or if it is opened to be verified. All of it is one request, but where the top
    /// is longer than thought or memory is short.
    pub(super) fn open(
        purpose: Purpose,
        expected: &TableMeta,
        file: Arc<dyn File>,
        segments: Vec<Arc<Segment>>,
        table_store: Arc<TableStore>,
    ) -> Result<Table> {
        let number = expected.number;
        let name = || table_name(number);
        let damaged = |offset: u64, what: &str| Error::corrupt(name(), offset, what);
        let size = file.size().map_err(|error| Error::io(format!("reading {}", name()), error))?;
        if size != expected.bytes || size < TRAILER_BYTES {
            return Err(damaged(size, &format!("it should have {} bytes", expected.bytes)));
        }
        let trailer_start = size - TRAILER_BYTES;
        // What the frames take is near to what they take in memory.
        let parts_bytes = expected.parts.filter_bytes.saturating_add(expected.parts.index_bytes);
        let is_wanted = purpose == Purpose::Verify || table_store.has_memory(parts_bytes);
        let footer_bytes = size.saturating_sub(expected.parts.data_bytes).saturating_sub(parts_bytes);
        let likely_bytes = footer_bytes.saturating_add(if is_wanted { parts_bytes } else { TOP_BYTES });
        let mut tail = Tail { purpose, name: &name, file: &*file, start: size, bytes: Vec::new() };
        tail.reach(size.saturating_sub(likely_bytes).min(trailer_start))?;
        let trailer = tail.slice(trailer_start..size);
        let footer_bytes = u64::from(u32::from_le_bytes([trailer[0], trailer[1], trailer[2], trailer[3]]));
        let footer_start = trailer_start
            .checked_sub(footer_bytes)
            .filter(|_| trailer[4..] == MAGIC[..])
            .ok_or_else(|| damaged(trailer_start, "a trailer that does not check"))?;
        tail.reach(footer_start)?;
        let footer = tail.slice(footer_start..trailer_start);
        let framed =
            frame::decode(footer, place(number, footer_start)).filter(|(kind, _)| *kind == KIND_FOOTER);
        let top_start = framed
            .and_then(|(_, mut payload)| Some((varint::take(&mut payload)?, payload)))
            .map(|(version, payload)| match version {
                VERSION => Ok(payload),
                other => Err(Error::format(name(), other, VERSION)),
            })
            .transpose()?
            .and_then(|mut payload| {
                let meta = TableMeta::decode(&mut payload, size)?;
                let top = varint::take(&mut payload)?;
                let fits = meta == *expected && payload.is_empty();
                (fits && top <= footer_start).then_some(top)
            })
            .ok_or_else(|| {
                damaged(footer_start, "a footer that does not check or is not what the manifest says")
            })?;
        tail.reach(top_start)?;
        let bytes = tail.slice(top_start..footer_start);
        let top = frame::decode(bytes, place(number, top_start))
            .filter(|(kind, payload)| *kind == KIND_TOP && payload.len() + frame::HEADER_BYTES == bytes.len())
            .and_then(|(_, payload)| Top::decode(payload, top_start))
            .ok_or_else(|| damaged(top_start, "a top that does not check"))?;
        let mut table = Table::new(expected.clone(), file.clone(), top, Vec::new(), segments, table_store);
        if is_wanted || table.top.parts() == 1 {
            tail.reach(table.top.filter(0).start)?;
            let part = |part| {
                let filter = table.parse_filter(part, tail.slice(table.top.filter(part)));
                let index = table.parse_index(part, tail.slice(table.top.index(part)));
                let (filter, index) = match purpose {
                    Purpose::Verify => (filter?, index?),
                    _ => (table.mend_filter(filter)?, table.mend_index(part, index, purpose)?),
                };
                Ok(Resident { index: Arc::new(index), filter })
            };
            let parts: Vec<Resident> = (0..table.top.parts()).map(part).collect::<Result<_>>()?;
            let bytes: u64 = parts.iter().map(Resident::bytes).sum();
            table.table_store.take_memory(bytes, true);
            table.resident_bytes += bytes;
            table.resident = parts;
        }
        Ok(table)
    }

    fn parse_filter(&self, part: usize, bytes: &[u8]) -> Result<Filter> {
        let start = self.top.filter(part).start;
        frame::decode(bytes, place(self.meta.number, start))
            .filter(|(kind, payload)| {
                *kind == KIND_FILTER && payload.len() + frame::HEADER_BYTES == bytes.len()
            })
            .and_then(|(_, payload)| Filter::decode(payload))
            .ok_or_else(|| {
                Error::corrupt(table_name(self.meta.number), start, "a filter that does not check")
            })
    }

    fn parse_index(&self, part: usize, bytes: &[u8]) -> Result<Index> {
        let start = self.top.index(part).start;
        frame::decode(bytes, place(self.meta.number, start))
            .filter(|(kind, payload)| {
                *kind == KIND_INDEX && payload.len() + frame::HEADER_BYTES == bytes.len()
            })
            .and_then(|(_, mut payload)| {
                let index = Index::decode(&mut payload, self.top.blocks_start(part))?;
                payload.is_empty().then_some(index)
            })
            .filter(|index| index.len() > 0 && index.start(index.len()) == self.top.blocks_start(part + 1))
            .ok_or_else(|| {
                Error::corrupt(table_name(self.meta.number), start, "an index that does not check")
            })
    }

    /// A filter that was read, or one that knows nothing where it is damaged: reads go on without.
    fn mend_filter(&self, read: Result<Filter>) -> Result<Filter> {
        read.or_else(|error| self.note_flaw(error).map(|()| Filter::default()))
    }

    /// The index of a part that was read, or one that is made anew from its blocks where it is damaged.
    fn mend_index(&self, part: usize, read: Result<Index>, purpose: Purpose) -> Result<Index> {
        read.or_else(|error| {
            self.note_flaw(error)?;
            let range = self.top.blocks_start(part)..self.top.blocks_start(part + 1);
            Ok(rebuild(self.meta.number, &*self.file, range, purpose).index)
        })
    }

    /// Notes that a filter or an index is damaged; any other error comes back.
    fn note_flaw(&self, error: Error) -> Result<()> {
        if !error.is_damage() {
            return Err(error);
        }
        self.table_store.note_flaw(self.meta.number, error);
        Ok(())
    }

    /// Something of a part that is not resident.
    fn get_parsed<T: std::any::Any + Send + Sync>(
        &self,
        piece: CacheKind,
        range: Range<u64>,
        access: Access<'_>,
        parse: impl FnOnce(Result<Bytes>) -> Result<T>,
        weigh: impl FnOnce(&T) -> u64,
    ) -> Result<Arc<T>> {
        let number = self.meta.number;
        if let Some(cache) = access.cache {
            if let Some(found) = cache.get_parsed(piece, number, range.start) {
                return Ok(found);
            }
            if access.tier == Tier::Memory {
                return Err(Error::WouldBlock);
            }
        }
        access.count(range.end - range.start);
        let parsed = Arc::new(parse(self.read(range.clone(), access.purpose))?);
        if let Some(cache) = access.cache {
            cache.count_miss(piece);
            cache.insert_parsed(number, range.start, parsed.clone(), weigh(&parsed));
        }
        Ok(parsed)
    }

    /// How many parts it has; at least one.
    pub fn parts(&self) -> usize {
        self.top.parts()
    }

    /// Keys all over it in order, each with the bytes of blocks from there to the next. Reads nothing.
    pub fn samples(&self) -> impl Iterator<Item = (&[u8], u64)> {
        (0..self.parts()).map(|part| {
            (self.part_fence(part), self.top.blocks_start(part + 1) - self.top.blocks_start(part))
        })
    }

    /// The one part that may hold `key`.
    pub fn part_of(&self, key: &[u8]) -> usize {
        self.top.find(key)
    }

    /// A key that no entry of a part is below.
    pub fn part_fence(&self, part: usize) -> &[u8] {
        if part == 0 { &self.meta.smallest } else { self.top.fence(part) }
    }

    /// The index of a part.
    pub fn index(&self, part: usize, access: Access<'_>) -> Result<Lent<'_, Index>> {
        if let Some(resident) = self.resident.get(part) {
            return Ok(Lent::Resident(&resident.index));
        }
        if let Some(error) = &self.lost {
            return Err(error.clone());
        }
        let parse = |bytes: Result<Bytes>| {
            self.mend_index(part, bytes.and_then(|bytes| self.parse_index(part, &bytes)), access.purpose)
        };
        let index = self.get_parsed(CacheKind::Index, self.top.index(part), access, parse, Index::bytes)?;
        Ok(Lent::Got(index))
    }

    /// Whether it has filters.
    pub fn has_filter(&self) -> bool {
        self.has_filter
    }

    /// Whether a part may hold a key with this hash.
    pub fn may_contain(&self, part: usize, hash: u64, access: Access<'_>) -> Result<bool> {
        if let Some(resident) = self.resident.get(part) {
            return Ok(resident.filter.may_contain(hash));
        }
        let range = self.top.filter(part);
        if access.purpose == Purpose::Get
            && access.tier == Tier::Disk
            && let Some(cache) = access.cache
            && ![range.start, range.end].into_iter().any(|offset| cache.has(self.meta.number, offset))
        {
            match self.read_part(part, access, cache) {
                // Each by itself then: one may be whole.
                Err(error) if error.is_damage() => {}
                other => return other.map(|filter| filter.may_contain(hash)),
            }
        }
        let parse =
            |bytes: Result<Bytes>| self.mend_filter(bytes.and_then(|bytes| self.parse_filter(part, &bytes)));
        let filter = self.get_parsed(CacheKind::Filter, range, access, parse, Filter::bytes)?;
        Ok(filter.may_contain(hash))
    }

    /// Reads filter and index of a part, which lie side by side, by one request: who asks the one for a key will mostly need the
    /// other. The request counts as the filter's miss.
    fn read_part(&self, part: usize, access: Access<'_>, cache: &BlockCache) -> Result<Arc<Filter>> {
        let number = self.meta.number;
        let (for_filter, for_index) = (self.top.filter(part), self.top.index(part));
        access.count(for_index.end - for_filter.start);
        let bytes = self.read(for_filter.start..for_index.end, access.purpose)?;
        let (filter, index) = bytes.split_at((for_filter.end - for_filter.start) as usize);
        let filter = Arc::new(self.parse_filter(part, filter)?);
        let index = Arc::new(self.parse_index(part, index)?);
        cache.count_miss(CacheKind::Filter);
        cache.insert_parsed(number, for_filter.start, filter.clone(), filter.bytes());
        cache.insert_parsed(number, for_index.start, index.clone(), index.bytes());
        Ok(filter)
    }

    /// What can be known without reading.
    pub fn meta(&self) -> &TableMeta {
        &self.meta
    }

    /// Where the block begins that holds `key`, which lies in `part` if anywhere.
    pub fn block_offset(&self, part: usize, key: &[u8], access: Access<'_>) -> Result<u64> {
        let index = self.index(part, access)?;
        Ok(index.start(index.find(key)))
    }

    /// What it knows of `key`, which lies in `part` if anywhere.
    pub fn get(&self, part: usize, key: &[u8], access: Access<'_>) -> Result<Option<Slot>> {
        let index = self.index(part, access)?;
        let ordinal = index.find(key);
        let start = index.start(ordinal);
        let cached = access.cache.map_or(Ok(None), |cache| self.cached(start, cache))?;
        let block = match cached {
            Some(block) => block,
            None if access.tier == Tier::Memory => return Err(Error::WouldBlock),
            None => {
                let range = start..index.start(ordinal + 1);
                access.count(range.end - range.start);
                let block = self.check(start, self.read(range, access.purpose)?)?;
                if let Some(cache) = access.cache {
                    cache.count_miss(CacheKind::Data);
                    self.keep(start, &block, cache);
                }
                block
            }
        };
        match block.get(key).map_err(|_| self.damaged(start))? {
            None => Ok(None),
            Some(Item::Tombstone) => Ok(Some(None)),
            Some(Item::Value(value)) => Ok(Some(Some(value))),
            Some(Item::Pointer(bytes)) => match self.follow(Some(&bytes), start)? {
                Some((pointer, segment)) => Ok(Some(Some(value_log::read(pointer, &segment, access)?))),
                None => Err(self.damaged(start)),
            },
        }
    }

    /// What an encoded pointer of the block at `start`, if there is one, points to.
    pub fn follow(&self, bytes: Option<&[u8]>, start: u64) -> Result<Option<(Pointer, Arc<Segment>)>> {
        let Some(bytes) = bytes else { return Ok(None) };
        let pointer = Pointer::decode(bytes).ok_or_else(|| self.damaged(start))?;
        let after = self.segments.partition_point(|segment| segment.start() <= pointer.lsn);
        let segment = after.checked_sub(1).map(|index| self.segments[index].clone());
        Ok(Some((pointer, segment.ok_or_else(|| self.damaged(start))?)))
    }

    /// Segments of the log that hold values of it.
    pub fn segments(&self) -> &[Arc<Segment>] {
        &self.segments
    }

    /// The block at `start` if the cache has it.
    pub fn cached(&self, start: u64, cache: &BlockCache) -> Result<Option<Block>> {
        match cache.get(CacheKind::Data, self.meta.number, start) {
            Some(payload) => Ok(Some(Block::parse(payload).map_err(|_| self.damaged(start))?)),
            None => Ok(None),
        }
    }

    /// Keeps the block at `start` in the cache.
    fn keep(&self, start: u64, block: &Block, cache: &BlockCache) {
        cache.insert(self.meta.number, start, block.payload().clone());
    }

    /// Frames by one request, unchecked.
    fn read(&self, range: Range<u64>, purpose: Purpose) -> Result<Bytes> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        match self.file.read_at(purpose, range.start, &mut bytes) {
            Ok(()) => Ok(bytes.into()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(Error::corrupt(table_name(self.meta.number), range.start, "its file ends before"))
            }
            Err(error) => Err(Error::io(format!("reading {}", table_name(self.meta.number)), error)),
        }
    }

    /// The block at `start` out of its frame; it shares its memory unless it is compressed.
    fn check(&self, start: u64, bytes: Bytes) -> Result<Block> {
        let cpu = self.table_store.cpu();
        let decode = || frame::decode(&bytes, place(self.meta.number, start));
        let payload = match cpu.sample(Work::Checksum, bytes.len() as u64, decode) {
            Some((kind, payload)) if payload.len() + frame::HEADER_BYTES == bytes.len() => {
                if is_compressed(kind) {
                    let expanded = cpu.sample(Work::Expand, payload.len() as u64, || expand(kind, payload));
                    let block = expanded.ok_or_else(|| self.damaged(start))?;
                    return Block::parse(block.into()).map_err(|_| self.damaged(start));
                }
                if kind != KIND_BLOCK {
                    return Err(self.damaged(start));
                }
                payload
            }
            _ => return Err(self.damaged(start)),
        };
        Block::parse(bytes.slice_ref(payload)).map_err(|_| self.damaged(start))
    }

    /// Blocks of `index` by one request: from `first` on, at least one, as many as lie within `bytes` and may hold keys below
    /// `end`. With a cache they are kept there and the request counts as a miss.
    pub fn read_blocks(
        &self,
        index: &Index,
        first: usize,
        bytes: u64,
        end: Option<&[u8]>,
        purpose: Purpose,
        cache: Option<&BlockCache>,
    ) -> Result<VecDeque<Block>> {
        let base = index.start(first);
        let fits = |next: &usize| {
            index.start(*next + 1) - base <= bytes && end.is_none_or(|end| index.fence(*next) < end)
        };
        let count = 1 + (first + 1..index.len()).take_while(fits).count();
        let bytes = self.read(base..index.start(first + count), purpose)?;
        if let Some(cache) = cache {
            cache.count_miss(CacheKind::Data);
        }
        let one = |ordinal| {
            let start = index.start(ordinal);
            let range = (start - base) as usize..(index.start(ordinal + 1) - base) as usize;
            let Some(cache) = cache else { return self.check(start, bytes.slice(range)) };
            // A cached block owns its memory: a slice would keep all of what was read.
            let block = self.check(start, Bytes::copy_from_slice(&bytes[range]))?;
            self.keep(start, &block, cache);
            Ok(block)
        };
        (first..first + count).map(one).collect()
    }

    /// The error for a block at `start` that does not check.
    pub fn damaged(&self, start: u64) -> Error {
        Error::corrupt(table_name(self.meta.number), start, "a block that does not check")
    }

    /// No version needs it any more: its file is removed after the last reader.
    pub fn retire(&self) {
        if !self.obsolete.swap(true, Relaxed) {
            self.table_store.retire(self.meta.bytes);
        }
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        self.table_store.give_memory(self.resident_bytes);
        self.table_store.note_closed(self.open_bytes);
        if *self.obsolete.get_mut() {
            self.table_store.forget_flaw(self.meta.number);
            self.table_store.discard(self.meta.number, self.meta.bytes);
        }
    }
}
