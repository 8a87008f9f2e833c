//! Reads a table. Its top-level index is in memory. Indexes and filters of its partitions are pinned while the cache can spare the
//! memory, else they come from the cache or the disk as blocks do.

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
use super::partitions::{PinnedOrLoaded, PinnedPartition, TopIndex};
use super::rebuild::rebuild;
use super::{
    KIND_BLOCK, KIND_FILTER, KIND_FOOTER, KIND_INDEX, KIND_TOP_INDEX, MAGIC, TRAILER_BYTES, TableMeta,
    TableStore, VERSION,
};
use crate::base::varint;
use crate::disk::{Disk, File, Gone, Purpose};
use crate::engine::cache::{BlockCache, CacheKind};
use crate::engine::lsm::Slot;
use crate::engine::lsm::value_log::{self, Pointer};
use crate::engine::wal::Segment;
use crate::engine::{Error, Result, Tier, Work, frame};

/// How a read gets at blocks, indexes and filters that are not pinned.
#[derive(Clone, Copy)]
pub struct ReadOptions<'a> {
    /// The cache to look into first, and to keep in what was read; without one, only the disk is asked.
    pub cache: Option<&'a BlockCache>,
    /// Whether the disk may be asked.
    pub tier: Tier,
    /// Purpose of requests to the disk.
    pub purpose: Purpose,
    /// Counter of the bytes that came from the disk.
    pub read_bytes: Option<&'a Cell<u64>>,
}

impl<'a> ReadOptions<'a> {
    /// Through `cache`, for a point read.
    pub fn get(cache: &'a BlockCache, tier: Tier) -> ReadOptions<'a> {
        ReadOptions { cache: Some(cache), tier, purpose: Purpose::Get, read_bytes: None }
    }

    /// Counts bytes that are read from the disk.
    pub fn count(&self, bytes: u64) {
        if let Some(counter) = self.read_bytes {
            counter.set(counter.get() + bytes);
        }
    }
}

/// Bytes read from the end of a file for a top-level index whose partitions are not read with it.
const TOP_INDEX_BYTES: u64 = 4 << 10;

/// Memory of an open table beside its keys, top-level index, partitions and lists: itself, its places in the manifest and in the version, and what every
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
    top: TopIndex,
    has_filter: bool,
    /// All partitions, or none.
    pinned: Vec<PinnedPartition>,
    /// Memory that it took from the table store's share.
    pinned_bytes: u64,
    /// Memory that an open table takes in any case.
    open_bytes: u64,
    /// Holds the segments of [`TableMeta::values`], in the same order.
    segments: Vec<Arc<Segment>>,
    table_store: Arc<TableStore>,
    obsolete: AtomicBool,
    /// The reason why nothing of it can be read, if that is so.
    lost: Option<Error>,
}

impl Deref for Table {
    type Target = TableMeta;
    fn deref(&self) -> &TableMeta {
        &self.meta
    }
}

impl Table {
    /// A table whose partitions are known; they stay in memory if there is room for them, or if there is but one.
    pub(super) fn new(
        meta: TableMeta,
        file: Arc<dyn File>,
        top: TopIndex,
        partitions: Vec<PinnedPartition>,
        segments: Vec<Arc<Segment>>,
        table_store: Arc<TableStore>,
    ) -> Table {
        let open_bytes = OPEN_BYTES + (meta.smallest.len() + meta.largest.len()) as u64;
        table_store.note_open(open_bytes);
        let mut pinned_bytes =
            top.bytes() + size_of_val(&*meta.values) as u64 + size_of_val(&*segments) as u64;
        table_store.take_memory(pinned_bytes, true);
        let bytes = partitions.iter().map(PinnedPartition::bytes).sum();
        let pinned =
            if table_store.take_memory(bytes, partitions.len() == 1) { partitions } else { Vec::new() };
        pinned_bytes += if pinned.is_empty() { 0 } else { bytes };
        // A filter that knows nothing is but one byte.
        let filter = top.filter(0);
        let has_filter = filter.end - filter.start > frame::HEADER_BYTES as u64 + 1;
        let obsolete = AtomicBool::new(false);
        Table {
            meta,
            file,
            top,
            has_filter,
            pinned,
            pinned_bytes,
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
        let top = TopIndex::whole(meta.sizes.data_bytes);
        let mut table = Table::new(meta.clone(), Arc::new(Gone), top, Vec::new(), segments, table_store);
        table.lost = Some(error);
        table
    }

    /// A table whose footer or top-level index cannot be read: its index is made anew from its blocks, which lie where the manifest says. Also the
    /// first of those that does not check, if there is one. `error` if that cannot be done, or memory is short.
    pub(super) fn rebuild(
        meta: &TableMeta,
        file: Arc<dyn File>,
        segments: Vec<Arc<Segment>>,
        table_store: Arc<TableStore>,
        error: Error,
    ) -> Result<(Table, Option<Error>)> {
        let found = rebuild(meta.number, &*file, 0..meta.sizes.data_bytes, Purpose::Recovery);
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
        let top = TopIndex::whole(meta.sizes.data_bytes);
        let partitions = vec![PinnedPartition { index: Arc::new(found.index), filter: Filter::default() }];
        Ok((Table::new(meta.clone(), file, top, partitions, segments, table_store), found.gap))
    }

    /// Reads footer, top-level index and partitions from `file`. Footer and top-level index must check and agree with `expected`, and so
    /// must all partitions if the table is opened to be verified. Of a table with several partitions these are read only if they may stay
    /// in memory, or if it is opened to be verified. All of it is one request, except where the top-level index is longer than thought or
    /// memory is short.
    pub(super) fn open(
        purpose: Purpose,
        expected: &TableMeta,
        file: Arc<dyn File>,
        segments: Vec<Arc<Segment>>,
        table_store: Arc<TableStore>,
    ) -> Result<Table> {
        let number = expected.number;
        let name = || number.file_name();
        let damaged = |offset: u64, what: &str| Error::corrupt(name(), offset, what);
        let size = file.size().map_err(|error| Error::io(format!("reading {}", name()), error))?;
        if size != expected.bytes || size < TRAILER_BYTES {
            return Err(damaged(size, &format!("it should have {} bytes", expected.bytes)));
        }
        let trailer_start = size - TRAILER_BYTES;
        // What the frames take is near to what they take in memory.
        let partitions_bytes = expected.sizes.filter_bytes.saturating_add(expected.sizes.index_bytes);
        let is_wanted = purpose == Purpose::Verify || table_store.has_memory(partitions_bytes);
        let footer_bytes = size.saturating_sub(expected.sizes.data_bytes).saturating_sub(partitions_bytes);
        let likely_bytes =
            footer_bytes.saturating_add(if is_wanted { partitions_bytes } else { TOP_INDEX_BYTES });
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
            frame::decode(footer, number.frame_place(footer_start)).filter(|(kind, _)| *kind == KIND_FOOTER);
        let top_index_start = framed
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
        tail.reach(top_index_start)?;
        let bytes = tail.slice(top_index_start..footer_start);
        let top = frame::decode(bytes, number.frame_place(top_index_start))
            .filter(|(kind, payload)| {
                *kind == KIND_TOP_INDEX && payload.len() + frame::HEADER_BYTES == bytes.len()
            })
            .and_then(|(_, payload)| TopIndex::decode(payload, top_index_start))
            .ok_or_else(|| damaged(top_index_start, "a top-level index that does not check"))?;
        let mut table = Table::new(expected.clone(), file.clone(), top, Vec::new(), segments, table_store);
        if is_wanted || table.top.partitions() == 1 {
            tail.reach(table.top.filter(0).start)?;
            let partition = |partition| {
                let filter = table.parse_filter(partition, tail.slice(table.top.filter(partition)));
                let index = table.parse_index(partition, tail.slice(table.top.index(partition)));
                let (filter, index) = match purpose {
                    Purpose::Verify => (filter?, index?),
                    _ => (table.mend_filter(filter)?, table.mend_index(partition, index, purpose)?),
                };
                Ok(PinnedPartition { index: Arc::new(index), filter })
            };
            let partitions: Vec<PinnedPartition> =
                (0..table.top.partitions()).map(partition).collect::<Result<_>>()?;
            let bytes: u64 = partitions.iter().map(PinnedPartition::bytes).sum();
            table.table_store.take_memory(bytes, true);
            table.pinned_bytes += bytes;
            table.pinned = partitions;
        }
        Ok(table)
    }

    fn parse_filter(&self, partition: usize, bytes: &[u8]) -> Result<Filter> {
        let start = self.top.filter(partition).start;
        frame::decode(bytes, self.meta.number.frame_place(start))
            .filter(|(kind, payload)| {
                *kind == KIND_FILTER && payload.len() + frame::HEADER_BYTES == bytes.len()
            })
            .and_then(|(_, payload)| Filter::decode(payload))
            .ok_or_else(|| {
                Error::corrupt(self.meta.number.file_name(), start, "a filter that does not check")
            })
    }

    fn parse_index(&self, partition: usize, bytes: &[u8]) -> Result<Index> {
        let start = self.top.index(partition).start;
        frame::decode(bytes, self.meta.number.frame_place(start))
            .filter(|(kind, payload)| {
                *kind == KIND_INDEX && payload.len() + frame::HEADER_BYTES == bytes.len()
            })
            .and_then(|(_, mut payload)| {
                let index = Index::decode(&mut payload, self.top.blocks_start(partition))?;
                payload.is_empty().then_some(index)
            })
            .filter(|index| {
                index.len() > 0 && index.start(index.len()) == self.top.blocks_start(partition + 1)
            })
            .ok_or_else(|| {
                Error::corrupt(self.meta.number.file_name(), start, "an index that does not check")
            })
    }

    /// A filter that was read, or one that knows nothing where it is damaged: reads go on without.
    fn mend_filter(&self, read: Result<Filter>) -> Result<Filter> {
        read.or_else(|error| self.note_flaw(error).map(|()| Filter::default()))
    }

    /// The index of a partition that was read, or one that is made anew from its blocks where it is damaged.
    fn mend_index(&self, partition: usize, read: Result<Index>, purpose: Purpose) -> Result<Index> {
        read.or_else(|error| {
            self.note_flaw(error)?;
            let range = self.top.blocks_start(partition)..self.top.blocks_start(partition + 1);
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

    /// An index or a filter that is not pinned.
    fn get_parsed<T: std::any::Any + Send + Sync>(
        &self,
        piece: CacheKind,
        range: Range<u64>,
        access: ReadOptions<'_>,
        parse: impl FnOnce(Result<Bytes>) -> Result<T>,
        weigh: impl FnOnce(&T) -> u64,
    ) -> Result<Arc<T>> {
        let key = self.meta.number.cache_key(range.start);
        if let Some(cache) = access.cache {
            if let Some(found) = cache.get_parsed(piece, key) {
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
            cache.insert_parsed(key, parsed.clone(), weigh(&parsed));
        }
        Ok(parsed)
    }

    /// Number of partitions; at least one.
    pub fn partitions(&self) -> usize {
        self.top.partitions()
    }

    /// Keys all over it in order, each with the bytes of blocks from there to the next. Reads nothing.
    pub fn samples(&self) -> impl Iterator<Item = (&[u8], u64)> {
        (0..self.partitions()).map(|partition| {
            (
                self.partition_fence(partition),
                self.top.blocks_start(partition + 1) - self.top.blocks_start(partition),
            )
        })
    }

    /// The one partition that may hold `key`.
    pub fn partition_of(&self, key: &[u8]) -> usize {
        self.top.find(key)
    }

    /// A key that no entry of a partition is below.
    pub fn partition_fence(&self, partition: usize) -> &[u8] {
        if partition == 0 { &self.meta.smallest } else { self.top.fence(partition) }
    }

    /// The index of a partition.
    pub fn index(&self, partition: usize, access: ReadOptions<'_>) -> Result<PinnedOrLoaded<'_, Index>> {
        if let Some(pinned) = self.pinned.get(partition) {
            return Ok(PinnedOrLoaded::Pinned(&pinned.index));
        }
        if let Some(error) = &self.lost {
            return Err(error.clone());
        }
        let parse = |bytes: Result<Bytes>| {
            self.mend_index(
                partition,
                bytes.and_then(|bytes| self.parse_index(partition, &bytes)),
                access.purpose,
            )
        };
        let index =
            self.get_parsed(CacheKind::Index, self.top.index(partition), access, parse, Index::bytes)?;
        Ok(PinnedOrLoaded::Loaded(index))
    }

    /// Whether it has filters.
    pub fn has_filter(&self) -> bool {
        self.has_filter
    }

    /// Whether a partition may hold a key with this hash.
    pub fn may_contain(&self, partition: usize, hash: u64, access: ReadOptions<'_>) -> Result<bool> {
        if let Some(pinned) = self.pinned.get(partition) {
            return Ok(pinned.filter.may_contain(hash));
        }
        let range = self.top.filter(partition);
        if access.purpose == Purpose::Get
            && access.tier == Tier::Disk
            && let Some(cache) = access.cache
            && ![range.start, range.end]
                .into_iter()
                .any(|offset| cache.has(self.meta.number.cache_key(offset)))
        {
            match self.read_partition(partition, access, cache) {
                // Each by itself then: one may be whole.
                Err(error) if error.is_damage() => {}
                other => return other.map(|filter| filter.may_contain(hash)),
            }
        }
        let parse = |bytes: Result<Bytes>| {
            self.mend_filter(bytes.and_then(|bytes| self.parse_filter(partition, &bytes)))
        };
        let filter = self.get_parsed(CacheKind::Filter, range, access, parse, Filter::bytes)?;
        Ok(filter.may_contain(hash))
    }

    /// Reads filter and index of a partition, which lie side by side, by one request: who asks the one for a key will mostly need the
    /// other. The request counts as the filter's miss.
    fn read_partition(
        &self,
        partition: usize,
        access: ReadOptions<'_>,
        cache: &BlockCache,
    ) -> Result<Arc<Filter>> {
        let number = self.meta.number;
        let (for_filter, for_index) = (self.top.filter(partition), self.top.index(partition));
        access.count(for_index.end - for_filter.start);
        let bytes = self.read(for_filter.start..for_index.end, access.purpose)?;
        let (filter, index) = bytes.split_at((for_filter.end - for_filter.start) as usize);
        let filter = Arc::new(self.parse_filter(partition, filter)?);
        let index = Arc::new(self.parse_index(partition, index)?);
        cache.count_miss(CacheKind::Filter);
        cache.insert_parsed(number.cache_key(for_filter.start), filter.clone(), filter.bytes());
        cache.insert_parsed(number.cache_key(for_index.start), index.clone(), index.bytes());
        Ok(filter)
    }

    /// Copies its file, whole and durable, to the same name of `into`.
    pub fn copy_into(&self, into: &dyn Disk) -> Result<()> {
        let name = self.number.file_name();
        let copied = into.create(&name).and_then(|target| {
            crate::disk::copy(&*self.file, self.bytes, &*target)?;
            target.sync(Purpose::Fork)
        });
        copied.map_err(|error| Error::io(format!("copying {name}"), error))
    }

    /// Its metadata, which is known without reading.
    pub fn meta(&self) -> &TableMeta {
        &self.meta
    }

    /// Start of the block that holds `key`, which lies in `partition` if anywhere.
    pub fn block_offset(&self, partition: usize, key: &[u8], access: ReadOptions<'_>) -> Result<u64> {
        let index = self.index(partition, access)?;
        Ok(index.start(index.find(key)))
    }

    /// Its entry of `key`, which lies in `partition` if anywhere.
    pub fn get(&self, partition: usize, key: &[u8], access: ReadOptions<'_>) -> Result<Option<Slot>> {
        let index = self.index(partition, access)?;
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

    /// The pointer that `bytes` of the block at `start` encode, if there are any, and the segment that it leads into.
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
        match cache.get(CacheKind::Data, self.meta.number.cache_key(start)) {
            Some(payload) => Ok(Some(Block::parse(payload).map_err(|_| self.damaged(start))?)),
            None => Ok(None),
        }
    }

    /// Keeps the block at `start` in the cache.
    fn keep(&self, start: u64, block: &Block, cache: &BlockCache) {
        cache.insert(self.meta.number.cache_key(start), block.payload().clone());
    }

    /// Frames by one request, unchecked.
    fn read(&self, range: Range<u64>, purpose: Purpose) -> Result<Bytes> {
        let mut bytes = vec![0; (range.end - range.start) as usize];
        match self.file.read_at(purpose, range.start, &mut bytes) {
            Ok(()) => Ok(bytes.into()),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(Error::corrupt(self.meta.number.file_name(), range.start, "its file ends before"))
            }
            Err(error) => Err(Error::io(format!("reading {}", self.meta.number.file_name()), error)),
        }
    }

    /// The block at `start` out of its frame; it shares its memory unless it is compressed.
    fn check(&self, start: u64, bytes: Bytes) -> Result<Block> {
        let cpu = self.table_store.cpu();
        let decode = || frame::decode(&bytes, self.meta.number.frame_place(start));
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
        Error::corrupt(self.meta.number.file_name(), start, "a block that does not check")
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
        self.table_store.give_memory(self.pinned_bytes);
        self.table_store.note_closed(self.open_bytes);
        if *self.obsolete.get_mut() {
            self.table_store.forget_flaw(self.meta.number);
            self.table_store.discard(self.meta.number, self.meta.bytes);
        }
    }
}
