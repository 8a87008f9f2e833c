//! Blocks, indexes and filters of tables in memory, within a limit, with what is held and found counted.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use async_trait::async_trait;
use kvfs::engine::Cache;
use quick_cache::Weighter;
use slatedb::db_cache::{CachedEntry, CachedKey, DbCache};

/// Memory of an entry beside what it holds.
const ENTRY_BYTES: u64 = 96;
/// Usual size of an entry; only the number of shards depends on it.
const USUAL_BYTES: u64 = 4096;

#[derive(Clone)]
struct ByBytes;

impl Weighter<CachedKey, CachedEntry> for ByBytes {
    fn weight(&self, _: &CachedKey, entry: &CachedEntry) -> u64 {
        entry.size() as u64 + ENTRY_BYTES
    }
}

/// The cache.
pub struct Blocks {
    entries: quick_cache::sync::Cache<CachedKey, CachedEntry, ByBytes>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl Blocks {
    /// Holds up to `bytes_max`.
    pub fn new(bytes_max: u64) -> Blocks {
        let count = usize::try_from(bytes_max / USUAL_BYTES).unwrap_or(usize::MAX).max(1);
        let entries = quick_cache::sync::Cache::with_weighter(count, bytes_max, ByBytes);
        Blocks { entries, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// What it holds, and what it was asked.
    pub fn shape(&self) -> Cache {
        let mut shape =
            Cache { bytes: self.entries.weight(), bytes_max: self.entries.capacity(), ..Cache::default() };
        (shape.all.hits, shape.all.misses) = (self.hits.load(Relaxed), self.misses.load(Relaxed));
        shape
    }

    fn find(&self, key: &CachedKey) -> Option<CachedEntry> {
        let found = self.entries.get(key);
        if found.is_some() { &self.hits } else { &self.misses }.fetch_add(1, Relaxed);
        found
    }
}

#[async_trait]
impl DbCache for Blocks {
    async fn get_block(&self, key: &CachedKey) -> Result<Option<CachedEntry>, slatedb::Error> {
        Ok(self.find(key))
    }

    async fn get_index(&self, key: &CachedKey) -> Result<Option<CachedEntry>, slatedb::Error> {
        Ok(self.find(key))
    }

    async fn get_filter(&self, key: &CachedKey) -> Result<Option<CachedEntry>, slatedb::Error> {
        Ok(self.find(key))
    }

    async fn get_stats(&self, key: &CachedKey) -> Result<Option<CachedEntry>, slatedb::Error> {
        Ok(self.find(key))
    }

    async fn insert(&self, key: CachedKey, value: CachedEntry) {
        self.entries.insert(key, value);
    }

    async fn remove(&self, key: &CachedKey) {
        self.entries.remove(key);
    }

    fn entry_count(&self) -> u64 {
        self.entries.len() as u64
    }
}
