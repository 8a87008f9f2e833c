//! Pieces of files that never change, kept in memory: sharded, weighted by bytes, and not washed out by one scan.
//!
//! A piece is found by file number and offset. A file number is never used twice, so nothing has to be invalidated:
//! pieces of removed files are simply not asked for any more and leave as others come.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use quick_cache::sync::{Cache as Sharded, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, Weighter};

use super::{Cache, LookupMeter};
use crate::base::metric::{Each, labels};

/// Memory of an entry beside its bytes.
const ENTRY_BYTES: u64 = 96;
/// Expected size of a piece; only the number of shards depends on it.
const PIECE_BYTES: u64 = 4096;

/// Kind of a piece, counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::VariantArray, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum CacheKind {
    /// A block of entries.
    Data,
    /// An index of blocks.
    Index,
    /// A filter.
    Filter,
    /// A value of its own.
    Value,
}

labels! { CacheKind "<kind>" "kind" }

/// The key of a piece: a file and an offset in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CacheKey {
    file: u64,
    offset: u64,
}

impl CacheKey {
    /// The piece at `offset` of the file of number `file`.
    pub const fn new(file: u64, offset: u64) -> CacheKey {
        CacheKey { file, offset }
    }
}

#[derive(Clone)]
enum Content {
    Bytes(Bytes),
    /// Something that was read from bytes, and the memory it takes.
    Parsed(Arc<dyn Any + Send + Sync>, u64),
}

#[derive(Clone)]
struct ByBytes;

impl Weighter<CacheKey, Content> for ByBytes {
    fn weight(&self, _: &CacheKey, content: &Content) -> u64 {
        let bytes = match content {
            Content::Bytes(bytes) => bytes.len() as u64,
            Content::Parsed(_, bytes) => *bytes,
        };
        bytes + ENTRY_BYTES
    }
}

/// A cache of pieces of files.
pub struct BlockCache {
    pieces: Sharded<CacheKey, Content, ByBytes>,
    bytes_max: AtomicU64,
    counters: [LookupMeter; CacheKind::ALL.len()],
}

impl BlockCache {
    /// A cache of at most `bytes_max` bytes.
    pub fn new(bytes_max: u64) -> BlockCache {
        let items = (bytes_max / PIECE_BYTES).max(1) as usize;
        let (hasher, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
        BlockCache {
            pieces: Sharded::with(items, bytes_max, ByBytes, hasher, lifecycle),
            bytes_max: AtomicU64::new(bytes_max),
            counters: Default::default(),
        }
    }

    /// Keeps at most `bytes_max` bytes from now on; what is too much leaves at once.
    pub fn set_bytes_max(&self, bytes_max: u64) {
        if self.bytes_max.swap(bytes_max, Relaxed) != bytes_max {
            self.pieces.set_capacity(bytes_max);
        }
    }

    fn find(&self, piece: CacheKind, key: CacheKey) -> Option<Content> {
        let found = self.pieces.get(&key);
        self.counters[piece as usize].hits.fetch_add(u64::from(found.is_some()), Relaxed);
        found
    }

    /// The bytes of `key`, if they are here; counts a hit.
    pub fn get(&self, piece: CacheKind, key: CacheKey) -> Option<Bytes> {
        match self.find(piece, key)? {
            Content::Bytes(bytes) => Some(bytes),
            Content::Parsed(..) => None,
        }
    }

    /// The content that was parsed from the bytes of `key`, if it is here; counts a hit.
    pub fn get_parsed<T: Any + Send + Sync>(&self, piece: CacheKind, key: CacheKey) -> Option<Arc<T>> {
        match self.find(piece, key)? {
            Content::Bytes(_) => None,
            Content::Parsed(parsed, _) => parsed.downcast().ok(),
        }
    }

    /// Whether something is here under `key`. Counts nothing, and is no use of it.
    pub fn has(&self, key: CacheKey) -> bool {
        self.pieces.contains_key(&key)
    }

    /// Keeps bytes. They should own their memory: a slice would keep all of what it was cut from.
    pub fn insert(&self, key: CacheKey, bytes: Bytes) {
        self.pieces.insert(key, Content::Bytes(bytes));
    }

    /// Keeps something that takes `bytes` of memory.
    pub fn insert_parsed<T: Any + Send + Sync>(&self, key: CacheKey, parsed: Arc<T>, bytes: u64) {
        self.pieces.insert(key, Content::Parsed(parsed, bytes));
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.pieces.clear();
    }

    /// Counts one request that went to the disk because its piece was not here.
    pub fn count_miss(&self, piece: CacheKind) {
        self.counters[piece as usize].misses.fetch_add(1, Relaxed);
    }

    /// Size and counters now.
    pub fn shape(&self) -> Cache {
        let kinds = Each::from_fn(|kind| self.counters[kind].snapshot());
        Cache {
            bytes: self.pieces.weight(),
            bytes_max: self.bytes_max.load(Relaxed),
            all: kinds.total(),
            kinds,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_no_more_than_it_may_and_keeps_what_is_used() {
        let cache = BlockCache::new(1 << 20);
        for offset in 0..2000 {
            cache.insert(CacheKey::new(1, offset), vec![offset as u8; 1000].into());
            cache.insert(CacheKey::new(2, 0), vec![7; 10].into());
            assert_eq!(cache.get(CacheKind::Data, CacheKey::new(2, 0)).map(|block| block[0]), Some(7));
        }
        let shape = cache.shape();
        assert!(shape.bytes <= 1 << 20 && shape.bytes > 1 << 19, "{shape:?}");
        assert_eq!((shape.all.hits, shape.all.misses), (2000, 0));
        assert!(cache.get(CacheKind::Data, CacheKey::new(1, 0)).is_none_or(|block| block[0] == 0));
        assert!(cache.get(CacheKind::Data, CacheKey::new(3, 0)).is_none());
        cache.set_bytes_max(1 << 18);
        let shape = cache.shape();
        assert!(shape.bytes <= 1 << 18 && shape.bytes > 0, "{shape:?}");
        cache.clear();
        assert_eq!(cache.shape().bytes, 0);
        assert!(cache.get(CacheKind::Data, CacheKey::new(2, 0)).is_none());
    }

    #[test]
    fn kinds_of_pieces_are_counted_apart() {
        let cache = BlockCache::new(1 << 20);
        cache.insert_parsed(CacheKey::new(1, 0), Arc::new("an index".to_string()), 8);
        let found: Option<Arc<String>> = cache.get_parsed(CacheKind::Index, CacheKey::new(1, 0));
        assert_eq!(found.as_deref().map(String::as_str), Some("an index"));
        assert!(cache.get_parsed::<u64>(CacheKind::Filter, CacheKey::new(1, 0)).is_none(), "another type");
        cache.count_miss(CacheKind::Filter);
        let [data, index, filter, value] = CacheKind::ALL.map(|kind| cache.shape().kinds.of(kind));
        assert_eq!((index.hits, filter.misses), (1, 1));
        assert_eq!(data.hits + data.misses + value.hits + value.misses + index.misses, 0);
    }
}
