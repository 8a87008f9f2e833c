//! Options of RocksDB, under its own names.

use kvfs::base::text::{BadText, Field};
use kvfs::engine::{Common, OwnOptions};
use rocksdb::DBCompressionType;

use crate::options::{cache_bytes, choice, count, has_common, memory, size, switch};

/// How blocks, and values in blob files, are compressed.
const COMPRESSIONS: [(&str, DBCompressionType); 3] =
    [("none", DBCompressionType::None), ("lz4", DBCompressionType::Lz4), ("zstd", DBCompressionType::Zstd)];
const COMPRESSION_NAMES: [&str; 3] = [COMPRESSIONS[0].0, COMPRESSIONS[1].0, COMPRESSIONS[2].0];
/// How sorted runs are merged.
pub const COMPACTIONS: [&str; 2] = ["leveled", "universal"];

#[derive(Clone, Debug, PartialEq)]
pub struct RocksDbOptions {
    pub common: Common,
    /// A place in [`COMPACTIONS`].
    pub compaction: usize,
    /// A place in [`COMPRESSIONS`].
    compression: usize,
    pub write_buffer_bytes: u64,
    pub write_buffer_count: u64,
    pub level_base_bytes: u64,
    pub level0_trigger: u64,
    pub level0_slowdown: u64,
    pub level0_stop: u64,
    pub table_bytes: u64,
    pub block_bytes: u64,
    pub bloom_bits: u64,
    pub background_jobs: u64,
    pub separates: bool,
    pub blob_bytes_min: u64,
}

impl Default for RocksDbOptions {
    fn default() -> RocksDbOptions {
        RocksDbOptions {
            common: Common::default(),
            compaction: 0,
            compression: 0,
            write_buffer_bytes: 64 << 20,
            write_buffer_count: 2,
            level_base_bytes: 256 << 20,
            level0_trigger: 4,
            level0_slowdown: 20,
            level0_stop: 36,
            table_bytes: 64 << 20,
            block_bytes: 4 << 10,
            bloom_bits: 10,
            background_jobs: 2,
            separates: false,
            blob_bytes_min: 1 << 10,
        }
    }
}

impl OwnOptions for RocksDbOptions {
    const FIELDS: &'static [Field<RocksDbOptions>] = &[
        memory!(),
        choice!(
            "compaction",
            Mount,
            compaction,
            COMPACTIONS,
            "How sorted runs are merged: leveled or universal."
        ),
        choice!(
            "compression",
            Mount,
            compression,
            COMPRESSION_NAMES,
            "How blocks, and values in blob files, are compressed, at every level: none, lz4 or zstd. What is there already stays as it is until \
             a compaction rewrites it."
        ),
        size!("write_buffer_size", write_buffer_bytes, "Bytes of a memtable."),
        count!("max_write_buffer_number", write_buffer_count, "Memtables at most."),
        size!("max_bytes_for_level_base", level_base_bytes, "Bytes of the first level below level 0."),
        count!(
            "level0_file_num_compaction_trigger",
            level0_trigger,
            "Files in level 0 (universal: sorted runs) at which a compaction begins."
        ),
        count!("level0_slowdown_writes_trigger", level0_slowdown, "The same from which writes are delayed."),
        count!("level0_stop_writes_trigger", level0_stop, "The same at which writes stop."),
        size!("target_file_size_base", table_bytes, "Bytes of a table file."),
        size!("block_size", block_bytes, "Bytes of a block."),
        count!("bloom_bits", bloom_bits, "Bits of a bloom filter for each key; 0 for no filters."),
        count!("max_background_jobs", background_jobs, "Flushes and compactions at once."),
        switch!("blob", separates, "Large values lie in blob files."),
        size!("min_blob_size", blob_bytes_min, "Bytes from which a value is large."),
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

    has_common!();

    fn divide(&mut self, memory_bytes: u64) {
        self.common.cache_bytes = memory_bytes / 2;
        (self.write_buffer_bytes, self.table_bytes) = (memory_bytes / 4, memory_bytes / 4);
        self.level_base_bytes = memory_bytes;
    }

    fn validate(&self) -> std::result::Result<(), BadText> {
        let sizes = [
            ("write_buffer_size", self.write_buffer_bytes),
            ("max_bytes_for_level_base", self.level_base_bytes),
            ("target_file_size_base", self.table_bytes),
            ("block_size", self.block_bytes),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, bytes)| *bytes == 0) {
            return Err(format!("{name}=0: it takes bytes, such as 64M").into());
        }
        for (name, count) in [
            ("max_write_buffer_number", self.write_buffer_count),
            ("max_background_jobs", self.background_jobs),
        ] {
            if !(2..=1024).contains(&count) {
                return Err(format!("{name}={count} is not from 2 to 1024").into());
            }
        }
        let [trigger, slowdown, stop] = [self.level0_trigger, self.level0_slowdown, self.level0_stop];
        if trigger == 0 || trigger > slowdown || slowdown > stop || stop > i32::MAX as u64 {
            return Err(format!(
                "level0_file_num_compaction_trigger={trigger}, level0_slowdown_writes_trigger={slowdown} and \
                 level0_stop_writes_trigger={stop} do not ascend from 1"
            )
            .into());
        }
        if self.bloom_bits > 100 {
            return Err(format!("bloom_bits={} is not from 0 to 100", self.bloom_bits).into());
        }
        self.common.validate(self.buffers_bytes(), "memtables")
    }
}

impl RocksDbOptions {
    /// Bytes of all memtables at most.
    pub fn buffers_bytes(&self) -> u64 {
        self.write_buffer_bytes.saturating_mul(self.write_buffer_count)
    }

    /// How blocks, and values in blob files, are compressed.
    pub fn compression(&self) -> DBCompressionType {
        COMPRESSIONS[self.compression].1
    }

    /// Bytes of the block cache.
    pub fn cache_bytes(&self) -> u64 {
        cache_bytes(&self.common, self.buffers_bytes())
    }
}
