//! Reads a table. Its top-level index is in memory. Indexes and filters of its partitions are pinned while the cache can spare the
//! memory, else they come from the cache or the disk as blocks do.

mod open;

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
use super::{KIND_BLOCK, KIND_FILTER, KIND_INDEX, TableMeta, TableStore};
use crate::disk::{Disk, File, Purpose};
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

/// Memory of an open table beside its keys, top-level index, partitions and lists: itself, its places in the manifest and in the version, and what every
/// room of the disk below keeps of its file. Measured, and held to what the heap says by `tests/memory.rs`.
const OPEN_BYTES: u64 = 1488;

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

    /// Copies its file, whole, to the same name of `into`; the copy, which is not synced.
    pub fn copy_into(&self, into: &dyn Disk) -> Result<Arc<dyn File>> {
        let name = self.number.file_name();
        let copied = into.create(&name).and_then(|target| {
            crate::disk::copy(&*self.file, self.bytes, &*target)?;
            Ok(target)
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
