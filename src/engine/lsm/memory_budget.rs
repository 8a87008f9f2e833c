//! The memory that memtables, tables and the cache share.

use std::sync::Arc;

use super::Options;
use super::table::TableStore;
use crate::engine::cache::BlockCache;

/// Divides the memory of a store: the cache gets what the rest leaves.
pub struct MemoryBudget {
    cache: Arc<BlockCache>,
    table_store: Arc<TableStore>,
    /// Limit of memory for everything together.
    bytes_max: u64,
    /// Limit of memory for memtables.
    memtable_bytes_max: u64,
    /// Limit of memory for the cache.
    cache_bytes_max: u64,
}

impl MemoryBudget {
    /// The budget that `options` give `cache` and the tables of `table_store`.
    pub fn new(cache: Arc<BlockCache>, table_store: Arc<TableStore>, options: &Options) -> MemoryBudget {
        let memtable_bytes_max = options.memtables_bytes_max();
        let bytes_max = options.common.memory_bytes_max(memtable_bytes_max);
        MemoryBudget {
            cache,
            table_store,
            bytes_max,
            memtable_bytes_max,
            cache_bytes_max: options.common.cache_bytes,
        }
    }

    /// Bytes that memtables, cache, and pinned indexes and filters may take together.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Bytes that memtables may take of it.
    pub fn memtable_bytes_max(&self) -> u64 {
        self.memtable_bytes_max
    }

    /// Makes the cache as small as the rest requires: `memtable_bytes` of memtables, open tables, and their pinned indexes and filters. It
    /// keeps an eighth of its share in any case: without a cache every read of a very large store would go to the disk.
    pub fn balance(&self, memtable_bytes: u64) {
        let memtables = self.memtable_bytes_max.max(memtable_bytes);
        let room = self.bytes_max.saturating_sub(memtables).min(self.cache_bytes_max);
        self.cache.set_bytes_max(room.saturating_sub(self.table_store.pinned_bytes()).max(room / 8));
    }
}
