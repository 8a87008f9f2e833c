//! The memory that memtables, tables and the cache share.

use std::sync::Arc;

use super::Options;
use super::table::TableStore;
use crate::engine::cache::BlockCache;

/// Divides the memory of a store: the cache gives way for what cannot.
pub struct MemoryBudget {
    cache: Arc<BlockCache>,
    table_store: Arc<TableStore>,
    /// What everything may take together.
    bytes_max: u64,
    /// What of that memtables may take.
    memtable_bytes_max: u64,
    /// What of it the cache may take.
    cache_bytes_max: u64,
}

impl MemoryBudget {
    /// As `options` say, for `cache` and the tables of `table_store`.
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

    /// What memtables, cache, and resident indexes and filters may take together, in bytes.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// What memtables may take of it, in bytes.
    pub fn memtable_bytes_max(&self) -> u64 {
        self.memtable_bytes_max
    }

    /// Lets the cache give way for what cannot: `memtable_bytes` of memtables, tables, and what is resident of those. It keeps an eighth
    /// of its share in any case: without a cache every read of a very large store would go to the disk.
    pub fn balance(&self, memtable_bytes: u64) {
        let memtables = self.memtable_bytes_max.max(memtable_bytes);
        let room = self.bytes_max.saturating_sub(memtables).min(self.cache_bytes_max);
        self.cache.set_bytes_max(room.saturating_sub(self.table_store.pinned_bytes()).max(room / 8));
    }
}
