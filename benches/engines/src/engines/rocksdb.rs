//! RocksDB: leveled, universal, or leveled with blob files for values of 1 KiB and more.

use std::path::Path;
use std::time::Duration;

use rocksdb::statistics::{StatsLevel, Ticker};
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompactionStyle, DBCompressionType, Options, WaitForCompactOptions,
    WriteBatch, WriteOptions,
};

use super::{Change, Contender, Result, Settings};

/// Time in which files that nobody needs are removed once compactions have ended.
const PURGE: Duration = Duration::from_millis(200);

struct RocksDb {
    db: DB,
    options: Options,
}

/// Opens the variant `name` in `directory`.
pub fn open(name: &str, directory: &Path, settings: &Settings) -> Result<Box<dyn Contender>> {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.set_write_buffer_size(settings.memtable_bytes as usize);
    options.set_max_write_buffer_number(3);
    options.set_max_bytes_for_level_base(settings.level_base_bytes);
    options.set_target_file_size_base(settings.table_bytes);
    options.set_max_background_jobs(settings.threads as i32);
    options.set_bytes_per_sync(1 << 20);
    options.set_compression_type(DBCompressionType::None);
    options.enable_statistics();
    options.set_statistics_level(StatsLevel::ExceptDetailedTimers);
    let cache = Cache::new_hyper_clock_cache(settings.cache_bytes as usize, 0);
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&cache);
    table.set_bloom_filter(10.0, false);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_block_size(if settings.value_bytes >= 4096 { 16 << 10 } else { 4 << 10 });
    table.set_format_version(6);
    options.set_block_based_table_factory(&table);
    match name {
        "rocksdb-universal" => options.set_compaction_style(DBCompactionStyle::Universal),
        "rocksdb-blob" => {
            options.set_enable_blob_files(true);
            options.set_min_blob_size(1024);
            options.set_enable_blob_gc(true);
            options.set_blob_cache(&cache);
            options.set_blob_file_size(settings.table_bytes);
            options.set_blob_gc_force_threshold(0.5);
        }
        _ => {}
    }
    let db = DB::open(&options, directory)?;
    Ok(Box::new(RocksDb { db, options }))
}

impl Contender for RocksDb {
    fn write(&self, changes: &[Change<'_>], durable: bool) -> Result<()> {
        let mut how = WriteOptions::default();
        how.set_sync(durable);
        match changes {
            [Change::Put(key, value)] => self.db.put_opt(key, value, &how)?,
            [Change::Delete(key)] => self.db.delete_opt(key, &how)?,
            _ => {
                let mut batch = WriteBatch::default();
                for change in changes {
                    match change {
                        Change::Put(key, value) => batch.put(key, value),
                        Change::Delete(key) => batch.delete(key),
                    }
                }
                self.db.write_opt(batch, &how)?;
            }
        }
        Ok(())
    }

    fn get(&self, key: &[u8], target: &mut Vec<u8>) -> Result<bool> {
        target.clear();
        let value = self.db.get_pinned(key)?;
        if let Some(value) = &value {
            target.extend_from_slice(value);
        }
        Ok(value.is_some())
    }

    fn scan(&self, from: &[u8], count: usize) -> Result<(u64, u64)> {
        let mut cursor = self.db.raw_iterator();
        cursor.seek(from);
        let (mut entries, mut bytes) = (0, 0);
        while entries < count as u64
            && let Some((key, value)) = cursor.item()
        {
            entries += 1;
            bytes += (key.len() + value.len()) as u64;
            cursor.next();
        }
        cursor.status()?;
        Ok((entries, bytes))
    }

    fn sync(&self) -> Result<()> {
        Ok(self.db.flush_wal(true)?)
    }

    fn settle(&self) -> Result<Duration> {
        self.db.flush()?;
        let mut how = WaitForCompactOptions::default();
        how.set_flush(true);
        self.db.wait_for_compact(&how)?;
        // Files that nobody needs are removed just after; there is no call that waits for it.
        std::thread::sleep(PURGE);
        Ok(PURGE)
    }

    fn stalled(&self) -> Duration {
        Duration::from_micros(self.options.get_ticker_count(Ticker::StallMicros))
    }

    fn report(&self) -> String {
        self.db.property_value("rocksdb.stats").ok().flatten().unwrap_or_default()
    }
}
