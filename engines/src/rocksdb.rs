//! RocksDB: leveled or universal compaction, with large values in blob files if `blob=on`.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kvfs::base::clock::Clock;
use kvfs::base::text::{BadText, Field, When};
use kvfs::engine::{
    Batch, Common, Descriptor, Engine, Error, Home, KeyRange, Kind, Operation, OwnOptions, Promise, Result,
    Visit,
};
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompactionStyle, DBCompressionType, ErrorKind, Options,
    WaitForCompactOptions, WriteBatch,
};

use crate::adapter::{Adapter, Store, failed};
use crate::options::{count, size, switch};

const COMPACTIONS: [&str; 2] = ["leveled", "universal"];

/// The engine.
pub static ENGINE: Descriptor = Descriptor {
    name: "rocksdb",
    help: "RocksDB, an LSM-tree in C++",
    keeps: true,
    options: || kvfs::engine::Options::new(Kind::of(&ENGINE), RocksDbOptions::default()),
    tiny: || kvfs::engine::Options::new(Kind::of(&ENGINE), RocksDbOptions::tiny()),
    home: Home::Directory(open),
    is_file: |_| false,
    salvage: None,
    writes_in_place: false,
    variants: ("compaction", || COMPACTIONS.to_vec()),
};

#[derive(Clone, Debug, PartialEq)]
struct RocksDbOptions {
    common: Common,
    /// A place in [`COMPACTIONS`].
    compaction: usize,
    write_buffer_bytes: u64,
    write_buffer_count: u64,
    level_base_bytes: u64,
    table_bytes: u64,
    block_bytes: u64,
    background_jobs: u64,
    separates: bool,
}

impl Default for RocksDbOptions {
    fn default() -> RocksDbOptions {
        RocksDbOptions {
            common: Common::default(),
            compaction: 0,
            write_buffer_bytes: 64 << 20,
            write_buffer_count: 2,
            level_base_bytes: 256 << 20,
            table_bytes: 64 << 20,
            block_bytes: 4 << 10,
            background_jobs: 2,
            separates: false,
        }
    }
}

impl OwnOptions for RocksDbOptions {
    const FIELDS: &'static [Field<RocksDbOptions>] = &[
        Field {
            name: "compaction",
            when: When::Mount,
            help: "How sorted runs are merged: leveled or universal.",
            set: |options, text| {
                let found = COMPACTIONS.iter().position(|name| *name == text);
                options.compaction = found.ok_or("takes leveled or universal")?;
                Ok(())
            },
            get: |options| COMPACTIONS[options.compaction].to_string(),
        },
        size!("write_buffer_size", write_buffer_bytes, "Bytes of a memtable."),
        count!("max_write_buffer_number", write_buffer_count, "Memtables at most."),
        size!("max_bytes_for_level_base", level_base_bytes, "Bytes of the first level below level 0."),
        size!("target_file_size_base", table_bytes, "Bytes of a table file."),
        size!("block_size", block_bytes, "Bytes of a block."),
        count!("max_background_jobs", background_jobs, "Flushes and compactions at once."),
        switch!("blob", separates, "Values of 1 KiB and more lie in blob files."),
    ];

    fn tiny() -> RocksDbOptions {
        RocksDbOptions {
            common: Common { cache_bytes: 256 << 10, ..Common::tiny() },
            write_buffer_bytes: 64 << 10,
            level_base_bytes: 256 << 10,
            table_bytes: 64 << 10,
            ..RocksDbOptions::default()
        }
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn common_mut(&mut self) -> &mut Common {
        &mut self.common
    }

    fn divide(&mut self, memory_bytes: u64) {
        self.common.cache_bytes = memory_bytes / 2;
        (self.write_buffer_bytes, self.table_bytes) = (memory_bytes / 4, memory_bytes / 4);
        self.level_base_bytes = memory_bytes;
    }

    fn validate(&self) -> std::result::Result<(), BadText> {
        let sizes = [self.write_buffer_bytes, self.level_base_bytes, self.table_bytes, self.block_bytes];
        if sizes.contains(&0) || self.write_buffer_count < 2 || self.background_jobs < 2 {
            return Err(
                "sizes must be above 0, max_write_buffer_number and max_background_jobs at least 2".into()
            );
        }
        self.common.validate(self.write_buffer_bytes * self.write_buffer_count, "memtables")
    }
}

struct RocksDb {
    db: DB,
    cache: Cache,
    cache_bytes: u64,
    compaction: usize,
}

/// Its errors are texts, with a kind beside them.
fn rocksdb_failed(what: &str, error: rocksdb::Error) -> Error {
    match error.kind() {
        ErrorKind::Corruption => Error::corrupt(what, 0, error.into_string()),
        // The number of the system's error is not handed on.
        ErrorKind::IOError if error.as_ref().contains("No space left on device") => Error::NoSpace,
        _ => failed(what, error),
    }
}

fn open(directory: &Path, clock: Arc<dyn Clock>, options: &kvfs::engine::Options) -> Result<Arc<dyn Engine>> {
    let own: &RocksDbOptions = options.own()?;
    let mut how = Options::default();
    how.create_if_missing(true);
    how.set_write_buffer_size(own.write_buffer_bytes as usize);
    how.set_max_write_buffer_number(own.write_buffer_count as i32);
    how.set_max_bytes_for_level_base(own.level_base_bytes);
    how.set_target_file_size_base(own.table_bytes);
    how.set_max_background_jobs(own.background_jobs as i32);
    how.set_bytes_per_sync(1 << 20);
    how.set_compression_type(DBCompressionType::None);
    let cache = Cache::new_hyper_clock_cache(own.common.cache_bytes as usize, 0);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&cache);
    table.set_bloom_filter(10.0, false);
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
        how.set_min_blob_size(1024);
        how.set_enable_blob_gc(true);
        how.set_blob_cache(&cache);
        how.set_blob_file_size(own.table_bytes);
        how.set_blob_gc_force_threshold(0.5);
    }
    let db = DB::open(&how, directory).map_err(|error| rocksdb_failed("opening the database", error))?;
    let (cache_bytes, compaction) = (own.common.cache_bytes, own.compaction);
    Ok(Adapter::open(RocksDb { db, cache, cache_bytes, compaction }, clock, options))
}

impl Store for RocksDb {
    fn kind(&self) -> Kind {
        Kind::of(&ENGINE)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let value = self.db.get_pinned(key).map_err(|error| rocksdb_failed("a read", error))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, range: KeyRange<'_>, visit: &mut Visit<'_>) -> Result<()> {
        let mut cursor = self.db.raw_iterator();
        cursor.seek(range.start);
        while let Some((key, value)) = cursor.item() {
            if !range.is_before_end(key) || visit(key, value).is_break() {
                break;
            }
            cursor.next();
        }
        cursor.status().map_err(|error| rocksdb_failed("a scan", error))
    }

    fn apply(&self, batch: &Batch) -> Result<()> {
        let applied = match batch.operations() {
            [Operation::Put { key, value }] => self.db.put(key, value),
            [Operation::Delete { key }] => self.db.delete(key),
            operations => {
                let mut changes = WriteBatch::default();
                for operation in operations {
                    match operation {
                        Operation::Put { key, value } => changes.put(key, value),
                        Operation::Delete { key } => changes.delete(key),
                    }
                }
                self.db.write(changes)
            }
        };
        applied.map_err(|error| rocksdb_failed("a write", error))
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

    fn promise(&self) -> Promise {
        Promise::WHOLE
    }

    fn variant(&self) -> &'static str {
        COMPACTIONS[self.compaction]
    }

    fn jobs(&self) -> Vec<String> {
        let count = |name| self.db.property_int_value(name).ok().flatten().unwrap_or(0);
        let jobs = [
            (count("rocksdb.num-running-compactions"), "compactions"),
            (count("rocksdb.num-running-flushes"), "flushes"),
            (count("rocksdb.compaction-pending"), "compactions due"),
        ];
        jobs.into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect()
    }

    fn cache_bytes(&self) -> [u64; 2] {
        [self.cache.get_usage() as u64, self.cache_bytes]
    }
}
