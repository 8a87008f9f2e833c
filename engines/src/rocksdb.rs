//! RocksDB: leveled or universal compaction, with large values in blob files if `blob=on`.

mod options;
mod statistics;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvfs::base::clock::Clock;
use kvfs::disk::{Access, Disk, OsDisk};
use kvfs::engine::cache::CacheKind;
use kvfs::engine::{
    Batch, Cause, Descriptor, Engine, Error, Filter, Home, KeyRange, Kind, Lookups, Memory, Operation,
    OwnOptions, Promise, Result, Shape, Visit,
};
use rocksdb::statistics::{StatsLevel, Ticker};
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompactionStyle, ErrorKind, Options, ReadOptions, ReadTier,
    WaitForCompactOptions, WriteBatch, WriteOptions,
};

use crate::adapter::{Adapter, Pressure, RETRY_AFTER, Store, failed, jobs};
use options::{COMPACTIONS, RocksDbOptions};
use statistics::{property, statistics};

/// Bytes pending compaction from which RocksDB delays writes (`soft_pending_compaction_bytes_limit`), and at which it stops them.
const PENDING_BYTES: [u64; 2] = [64 << 30, 256 << 30];

/// Time between two tries of a write that was refused for what was gone a moment later: RocksDB itself looks so often.
const PAUSE: Duration = Duration::from_millis(1);

/// The engine.
pub static ENGINE: Descriptor = Descriptor {
    name: "rocksdb",
    help: "RocksDB, an LSM-tree in C++",
    keeps: true,
    options: || kvfs::engine::Options::new(Kind::of(&ENGINE), RocksDbOptions::default()),
    tiny: || kvfs::engine::Options::new(Kind::of(&ENGINE), RocksDbOptions::tiny()),
    home: Home::Directory(open),
    remote: None,
    is_file: |_| false,
    salvage: None,
    has_snapshots: false,
    writes_in_place: false,
    variants: &[("compaction", || COMPACTIONS.to_vec())],
};

struct RocksDb {
    db: DB,
    cache: Cache,
    directory: PathBuf,
    options: RocksDbOptions,
    /// What it was opened with, which has its statistics.
    how: Options,
}

/// Its errors are texts, with a kind beside them.
fn rocksdb_failed(what: &str, error: rocksdb::Error) -> Error {
    match error.kind() {
        ErrorKind::Corruption => Error::corrupt(what, 0, error.into_string()),
        // It was asked for what is in memory.
        ErrorKind::Incomplete => Error::WouldBlock,
        // The number of the system's error is not handed on.
        _ if error.as_ref().contains("No space left on device") => Error::NoSpace,
        _ => failed(what, error),
    }
}

/// Reads that are answered from memory or not at all.
fn cached() -> ReadOptions {
    let mut how = ReadOptions::default();
    how.set_read_tier(ReadTier::BlockCache);
    how
}

fn open(directory: &Path, clock: Arc<dyn Clock>, options: &kvfs::engine::Options) -> Result<Arc<dyn Engine>> {
    let own: &RocksDbOptions = options.own()?;
    let mut how = Options::default();
    how.create_if_missing(true);
    how.enable_statistics();
    how.set_statistics_level(StatsLevel::ExceptHistogramOrTimers);
    how.set_write_buffer_size(own.write_buffer_bytes as usize);
    how.set_max_write_buffer_number(own.write_buffer_count as i32);
    how.set_max_bytes_for_level_base(own.level_base_bytes);
    how.set_level_zero_file_num_compaction_trigger(own.level0_trigger as i32);
    how.set_level_zero_slowdown_writes_trigger(own.level0_slowdown as i32);
    how.set_level_zero_stop_writes_trigger(own.level0_stop as i32);
    how.set_soft_pending_compaction_bytes_limit(PENDING_BYTES[0] as usize);
    how.set_hard_pending_compaction_bytes_limit(PENDING_BYTES[1] as usize);
    how.set_target_file_size_base(own.table_bytes);
    how.set_max_background_jobs(own.background_jobs as i32);
    how.set_bytes_per_sync(1 << 20);
    how.set_compression_type(own.compression());
    let cache = Cache::new_hyper_clock_cache(own.cache_bytes() as usize, 0);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&cache);
    if own.bloom_bits > 0 {
        table.set_bloom_filter(own.bloom_bits as f64, false);
    }
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_block_size(own.block_bytes as usize);
    table.set_format_version(6);
    how.set_block_based_table_factory(&table);
    if COMPACTIONS[own.compaction] == "universal" {
        how.set_compaction_style(DBCompactionStyle::Universal);
    }
    if own.separates {
        how.set_enable_blob_files(true);
        how.set_blob_compression_type(own.compression());
        how.set_min_blob_size(own.blob_bytes_min);
        how.set_enable_blob_gc(true);
        how.set_blob_cache(&cache);
        how.set_blob_file_size(own.table_bytes);
        how.set_blob_gc_force_threshold(0.5);
    }
    let db = DB::open(&how, directory).map_err(|error| rocksdb_failed("opening the database", error))?;
    Ok(Adapter::open(
        RocksDb { db, cache, directory: directory.to_path_buf(), options: own.clone(), how },
        clock,
        options,
    ))
}

impl RocksDb {
    fn is_leveled(&self) -> bool {
        COMPACTIONS[self.options.compaction] == "leveled"
    }

    fn scan_with(&self, mut how: ReadOptions, range: KeyRange<'_>, visit: &mut Visit<'_>) -> Result<()> {
        // Without its end it would look for the next key that is there, over all that was deleted behind the range.
        if let Some(end) = range.end {
            how.set_iterate_upper_bound(end);
        }
        let mut cursor = self.db.raw_iterator_opt(how);
        cursor.seek(range.start);
        while let Some((key, value)) = cursor.item() {
            if visit(key, value).is_break() {
                break;
            }
            cursor.next();
        }
        cursor.status().map_err(|error| rocksdb_failed("a scan", error))
    }

    fn property(&self, name: &std::ffi::CStr) -> u64 {
        property(&self.db, name).unwrap_or(0)
    }

    fn write(&self, batch: &Batch, how: &WriteOptions) -> std::result::Result<(), rocksdb::Error> {
        match batch.operations() {
            [Operation::Put { key, value }] => self.db.put_opt(key, value, how),
            [Operation::Delete { key }] => self.db.delete_opt(key, how),
            operations => {
                let mut changes = WriteBatch::default();
                for operation in operations {
                    match operation {
                        Operation::Put { key, value } => changes.put(key, value),
                        Operation::Delete { key } => changes.delete(key),
                    }
                }
                self.db.write_opt(changes, how)
            }
        }
    }

    /// Whether a flush or a compaction has met an error since it was opened.
    fn has_failed(&self) -> bool {
        self.property(c"rocksdb.background-errors") > 0
    }

    fn lookups(&self, hits: Ticker, misses: Ticker) -> Lookups {
        Lookups { hits: self.how.get_ticker_count(hits), misses: self.how.get_ticker_count(misses) }
    }
}

impl Store for RocksDb {
    fn kind(&self) -> Kind {
        Kind::of(&ENGINE)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let value = self.db.get_pinned(key).map_err(|error| rocksdb_failed("a read", error))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn get_cached(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let value =
            self.db.get_pinned_opt(key, &cached()).map_err(|error| rocksdb_failed("a read", error))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, range: KeyRange<'_>, visit: &mut Visit<'_>) -> Result<()> {
        self.scan_with(ReadOptions::default(), range, visit)
    }

    fn scan_cached(&self, range: KeyRange<'_>, visit: &mut Visit<'_>) -> Result<()> {
        self.scan_with(cached(), range, visit)
    }

    fn apply(&self, batch: &Batch) -> Result<()> {
        // Writes may be stopped between a look at the pressure and this: what would wait for ever on a full disk is answered instead.
        let mut how = WriteOptions::default();
        how.set_no_slowdown(true);
        loop {
            match self.write(batch, &how) {
                Err(error) if error.kind() == ErrorKind::Incomplete => match self.pressure()? {
                    Some(Pressure { cause, is_stopped: true }) => {
                        return Err(Error::Busy { cause, retry_after: RETRY_AFTER });
                    }
                    // A delay is RocksDB's own.
                    Some(_) => how.set_no_slowdown(false),
                    // It was gone again before it was looked at.
                    None => std::thread::sleep(PAUSE),
                },
                written => return written.map_err(|error| rocksdb_failed("a write", error)),
            }
        }
    }

    fn sync(&self) -> Result<()> {
        self.db.flush_wal(true).map_err(|error| rocksdb_failed("a sync", error))
    }

    fn settle(&self) -> Result<()> {
        let fail = |error| rocksdb_failed("a flush", error);
        self.db.flush().map_err(fail)?;
        let mut how = WaitForCompactOptions::default();
        how.set_flush(true);
        self.db.wait_for_compact(&how).map_err(fail)
    }

    fn compact(&self) -> Result<()> {
        self.db.compact_range(None::<&[u8]>, None::<&[u8]>);
        self.settle()
    }

    /// Every block of every table and every value of blob files is read from the disk and verified; nothing of it stays in the cache.
    fn verify(&self) -> Result<()> {
        let mut how = ReadOptions::default();
        how.set_verify_checksums(true);
        how.fill_cache(false);
        self.scan_with(how, KeyRange::ALL, &mut |_, _| std::ops::ControlFlow::Continue(()))
    }

    /// Memtables are written, so that nothing of the log is read when it is opened again; where they cannot be, the log is enough.
    fn close(&self) -> Result<()> {
        if self.has_failed() {
            return Ok(());
        }
        match self.db.flush().map_err(|error| rocksdb_failed("a flush", error)) {
            Err(Error::NoSpace) => Ok(()),
            flushed => flushed,
        }
    }

    fn promise(&self) -> Promise {
        Promise::WHOLE
    }

    /// The cause by the rule by which RocksDB itself delays and stops writes.
    fn pressure(&self) -> Result<Option<Pressure>> {
        let is_stopped = self.property(c"rocksdb.is-write-stopped") > 0;
        if !is_stopped && self.property(c"rocksdb.actual-delayed-write-rate") == 0 {
            return Ok(None);
        }
        // A flush that found no room is tried again when somebody has made some, and until then a write would wait.
        let has_room = || {
            let space = OsDisk::open(&self.directory, Access::Read).and_then(|disk| disk.space());
            space.map_or(true, |space| space.free_bytes >= self.options.buffers_bytes())
        };
        if is_stopped && self.has_failed() && !has_room() {
            return Err(Error::NoSpace);
        }
        let count = self.options.write_buffer_count;
        let memtables_max = if is_stopped { count } else { count - 1 };
        let pending_bytes = self.property(c"rocksdb.estimate-pending-compaction-bytes");
        let cause = if (is_stopped || count > 3)
            && self.property(c"rocksdb.num-immutable-mem-table") >= memtables_max
        {
            Cause::Memtables
        } else if pending_bytes >= PENDING_BYTES[usize::from(is_stopped)] {
            Cause::PendingBytes
        } else {
            Cause::L0Files
        };
        Ok(Some(Pressure { cause, is_stopped }))
    }

    fn describe(&self, shape: &mut Shape) {
        shape.variant = COMPACTIONS[self.options.compaction];
        // Universal compaction says that one is due as long as there are as many runs as may start one, also where it finds none.
        let due = if shape.variant == "leveled" { self.property(c"rocksdb.compaction-pending") } else { 0 };
        shape.jobs = jobs([
            (self.property(c"rocksdb.num-running-compactions"), "compactions"),
            (self.property(c"rocksdb.num-running-flushes"), "flushes"),
            (due, "compactions due"),
        ]);
        let cache = &mut shape.cache;
        (cache.bytes, cache.bytes_max) = (self.cache.get_usage() as u64, self.options.cache_bytes());
        cache.all = self.lookups(Ticker::BlockCacheHit, Ticker::BlockCacheMiss);
        for (kind, hits, misses) in [
            (CacheKind::Data, Ticker::BlockCacheDataHit, Ticker::BlockCacheDataMiss),
            (CacheKind::Index, Ticker::BlockCacheIndexHit, Ticker::BlockCacheIndexMiss),
            (CacheKind::Filter, Ticker::BlockCacheFilterHit, Ticker::BlockCacheFilterMiss),
            (CacheKind::Value, Ticker::BlobDbCacheHit, Ticker::BlobDbCacheMiss),
        ] {
            *cache.kinds.of_mut(kind) = self.lookups(hits, misses);
        }
        let [useful, perhaps, found] =
            [Ticker::BloomFilterUseful, Ticker::BloomFilterFullPositive, Ticker::BloomFilterFullTruePositive]
                .map(|ticker| self.how.get_ticker_count(ticker));
        shape.filter =
            Filter { checks: useful + perhaps, useful, false_positives: perhaps.saturating_sub(found) };
        let resident_bytes = self.property(c"rocksdb.estimate-table-readers-mem");
        let memtable_bytes = self.property(c"rocksdb.cur-size-all-mem-tables");
        let memtable_bytes_max = self.options.buffers_bytes();
        shape.memory = Memory {
            limit_bytes: Some(self.options.cache_bytes() + memtable_bytes_max),
            used_bytes: Some(
                self.property(c"rocksdb.size-all-mem-tables") + resident_bytes + shape.cache.bytes,
            ),
            resident_bytes: Some(resident_bytes),
            memtable_bytes: Some(memtable_bytes),
            memtable_bytes_max: Some(memtable_bytes_max),
            immutable_memtables: Some(self.property(c"rocksdb.num-immutable-mem-table")),
            ..Memory::default()
        };
        // An empty memtable has some memory, too.
        let entries = self.property(c"rocksdb.num-entries-active-mem-table")
            + self.property(c"rocksdb.num-entries-imm-mem-tables");
        shape.debt.dirty_bytes = Some(if entries > 0 { memtable_bytes } else { 0 });
        // It estimates them for leveled compaction alone.
        shape.debt.pending_compaction_bytes =
            property(&self.db, c"rocksdb.estimate-pending-compaction-bytes").filter(|_| self.is_leveled());
        shape.statistics =
            statistics(&self.db, &self.how, self.is_leveled(), self.options.separates).into_iter().collect();
    }
}
