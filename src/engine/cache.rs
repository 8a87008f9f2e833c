//! Blocks of files that never change, kept in memory: sharded, weighted by bytes, and not washed out by one scan.
//!
//! A block is found by file number and offset. A file number is never used twice, so nothing has to be invalidated:
//! blocks of removed files are simply not asked for any more and leave as others come.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use quick_cache::sync::{Cache as Sharded, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, Weighter};

use super::Cache;

/// What an entry costs beside its bytes.
const ENTRY_BYTES: u64 = 96;
/// Expected size of a block; only the number of shards depends on it.
const BLOCK_BYTES: u64 = 4096;

/// File number and offset.
type Place = (u64, u64);

#[derive(Clone)]
struct ByBytes;

impl Weighter<Place, Bytes> for ByBytes {
    fn weight(&self, _: &Place, block: &Bytes) -> u64 {
        block.len() as u64 + ENTRY_BYTES
    }
}

/// A cache of blocks.
pub struct BlockCache {
    blocks: Sharded<Place, Bytes, ByBytes>,
    bytes_max: u64,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl BlockCache {
    /// A cache of at most `bytes_max` bytes.
    pub fn new(bytes_max: u64) -> BlockCache {
        let items = (bytes_max / BLOCK_BYTES).max(1) as usize;
        let (hasher, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
        BlockCache {
            blocks: Sharded::with(items, bytes_max, ByBytes, hasher, lifecycle),
            bytes_max,
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    /// The block at `offset` of file `number`, if it is here; counts a hit.
    pub fn get(&self, number: u64, offset: u64) -> Option<Bytes> {
        let found = self.blocks.get(&(number, offset));
        self.hits.fetch_add(u64::from(found.is_some()), Relaxed);
        found
    }

    /// Keeps a block. `block` should own its memory: a slice would keep all of what it was cut from.
    pub fn insert(&self, number: u64, offset: u64, block: Bytes) {
        self.blocks.insert((number, offset), block);
    }

    /// Forgets every block.
    pub fn clear(&self) {
        self.blocks.clear();
    }

    /// Counts one request that went to the disk because its block was not here.
    pub fn count_miss(&self) {
        self.misses.fetch_add(1, Relaxed);
    }

    /// Size and counters now.
    pub fn shape(&self) -> Cache {
        Cache {
            bytes: self.blocks.weight(),
            bytes_max: self.bytes_max,
            hits: self.hits.load(Relaxed),
            misses: self.misses.load(Relaxed),
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
            cache.insert(1, offset, vec![offset as u8; 1000].into());
            cache.insert(2, 0, vec![7; 10].into());
            assert_eq!(cache.get(2, 0).map(|block| block[0]), Some(7));
        }
        let shape = cache.shape();
        assert!(shape.bytes <= 1 << 20 && shape.bytes > 1 << 19, "{shape:?}");
        assert_eq!((shape.hits, shape.misses), (2000, 0));
        assert!(cache.get(1, 0).is_none_or(|block| block[0] == 0));
        assert!(cache.get(3, 0).is_none());
        cache.clear();
        assert_eq!((cache.shape().bytes, cache.get(2, 0)), (0, None));
    }
}
