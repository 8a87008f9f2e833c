//! Options of SlateDB, and what they are in its own words.

use std::path::PathBuf;
use std::time::Duration;

use kvfs::base::text::{BadText, Field, When, exact_duration, parse_duration};
use kvfs::engine::{Common, OwnOptions};
use slatedb::config::{
    CompactionWorkerOptions, CompactorOptions, CompressionCodec, DbReaderOptions,
    GarbageCollectorDirectoryOptions, GarbageCollectorOptions, ObjectStoreCacheOptions, Settings,
};

use crate::options::{cache_bytes, choice, field, has_common, memory, size};

/// Time between two looks of the writer, of who plans merges and of who does them, each for itself, for what others wrote. A writer that idles
/// so asks 49 times a minute, 0.85 dollars a month at AWS, where SlateDB's own second and five seconds made 166 and 3.02 dollars. In return one that
/// is fenced and neither writes nor syncs notices within this time, and a merge begins up to twice as late.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Time between two looks for garbage: four listings, each at the price of a PUT.
const COLLECT_EVERY: Duration = Duration::from_secs(1800);
/// Tables that are not merged yet and may hold one key, before writes wait for merges: four times SlateDB's own, since merges begin later.
const TABLES_A_KEY_MAX: usize = 32;
/// Kinds of keys, each of which has tables of its own.
const KINDS_MAX: usize = 8;

/// Names of compressions, as options have them.
const COMPRESSIONS: [&str; 3] = ["none", "lz4", "zstd"];

/// Options of the engine.
#[derive(Clone, Debug, PartialEq)]
pub struct SlateOptions {
    pub common: Common,
    /// URL of the server, where it is not the one that the scheme stands for; empty without.
    pub endpoint: String,
    /// Region of the bucket; empty where the environment or the profile says it.
    pub region: String,
    /// Bytes at which what is in memory becomes a table.
    pub memtable_bytes: u64,
    /// A place in [`COMPRESSIONS`].
    compression: usize,
    /// Directory of a cache of objects; empty without.
    pub cache_directory: PathBuf,
    /// Bytes that the cache of objects takes at most.
    pub cache_directory_bytes: u64,
    /// Time after which a reader looks for what is new.
    pub refresh: Duration,
    /// Whether to write though somebody else does, who then can no more.
    pub takeover: bool,
}

impl Default for SlateOptions {
    fn default() -> SlateOptions {
        SlateOptions {
            common: Common::default(),
            endpoint: String::new(),
            region: String::new(),
            memtable_bytes: 64 << 20,
            compression: 0,
            cache_directory: PathBuf::new(),
            cache_directory_bytes: 16 << 30,
            refresh: Duration::from_secs(1),
            takeover: false,
        }
    }
}

/// A word that is used as it is.
macro_rules! text {
    ($name:literal, $member:ident, $help:literal) => {
        Field {
            name: $name,
            when: When::Mount,
            help: $help,
            set: |options, text| {
                options.$member = text.to_string();
                Ok(())
            },
            get: |options| options.$member.clone(),
        }
    };
}

impl OwnOptions for SlateOptions {
    const FIELDS: &'static [Field<SlateOptions>] = &[
        memory!(),
        text!(
            "endpoint",
            endpoint,
            "URL of the server, as in http://127.0.0.1:8333; without it the environment (AWS_ENDPOINT_URL), or the provider's own."
        ),
        text!(
            "region",
            region,
            "Region of the bucket; without it the environment's or the profile's, or us-east-1."
        ),
        size!("memtable", memtable_bytes, "Bytes of changes in memory that become a table."),
        choice!("compression", Format, compression, COMPRESSIONS, "Compression of tables: none, lz4, zstd."),
        Field {
            name: "cache_dir",
            when: When::Mount,
            help: "Directory on this machine in which what was read of the object store is kept, also for the next mount.",
            set: |options, text| {
                let path = PathBuf::from(text);
                if !text.is_empty() && !path.is_absolute() {
                    return Err(
                        "takes an absolute path: the daemon has a working directory of its own".into()
                    );
                }
                options.cache_directory = path;
                Ok(())
            },
            get: |options| options.cache_directory.display().to_string(),
        },
        size!("cache_size", cache_directory_bytes, "Bytes that cache_dir holds at most."),
        field!(
            "refresh",
            Mount,
            refresh,
            "Time after which a mount with ro looks for what is new, and for which the kernel may believe what it knows.",
            parse_duration,
            exact_duration
        ),
        Field {
            name: "takeover",
            when: When::Once,
            help: "Write also if another mount does: it is told that it no longer may, and what it has not synced is lost.",
            set: |options, text| {
                options.takeover = kvfs::base::text::parse_switch(text)?;
                Ok(())
            },
            get: |options| kvfs::base::text::switch(options.takeover),
        },
    ];

    fn tiny() -> SlateOptions {
        SlateOptions {
            common: Common { cache_bytes: 256 << 10, ..Common::tiny() },
            memtable_bytes: 64 << 10,
            ..SlateOptions::default()
        }
    }

    has_common!();

    fn divide(&mut self, memory_bytes: u64) {
        self.common.cache_bytes = memory_bytes / 2;
        // One is filled while another is sent.
        self.memtable_bytes = memory_bytes / 8;
    }

    fn validate(&self) -> Result<(), BadText> {
        const MEMTABLE_BYTES_MIN: u64 = 4 << 10;
        if self.memtable_bytes < MEMTABLE_BYTES_MIN {
            return Err(format!("memtable={} is less than {MEMTABLE_BYTES_MIN}", self.memtable_bytes).into());
        }
        if self.refresh < Duration::from_millis(100) {
            return Err("refresh is at least 100ms: each look is requests to the object store".into());
        }
        self.common.validate(self.unflushed_bytes(), "what is not written yet")
    }
}

impl SlateOptions {
    /// Bytes of changes that memory holds at most.
    fn unflushed_bytes(&self) -> u64 {
        self.memtable_bytes.saturating_mul(3)
    }

    /// Bytes of the cache of blocks.
    pub fn cache_bytes(&self) -> u64 {
        cache_bytes(&self.common, self.unflushed_bytes())
    }

    /// Bytes that memory holds at most.
    pub fn memory_bytes_max(&self) -> u64 {
        self.common.memory_bytes_max(self.unflushed_bytes())
    }

    fn codec(&self) -> Option<CompressionCodec> {
        match COMPRESSIONS[self.compression] {
            "lz4" => Some(CompressionCodec::Lz4),
            "zstd" => Some(CompressionCodec::Zstd),
            _ => None,
        }
    }

    /// What a database is opened with to write. What is due to be sent is for kvfs to say, with `sync=`.
    pub fn settings(&self) -> Settings {
        let codec = self.codec();
        Settings {
            flush_interval: None,
            l0_sst_size_bytes: self.memtable_bytes as usize,
            max_unflushed_bytes: self.unflushed_bytes() as usize,
            compression_codec: codec,
            manifest_poll_interval: LOOK_EVERY,
            l0_max_ssts: TABLES_A_KEY_MAX * KINDS_MAX,
            l0_max_ssts_per_key: TABLES_A_KEY_MAX,
            compactor_options: Some(CompactorOptions {
                poll_interval: LOOK_EVERY,
                // Tables that do not overlap are moved by name: blocks that are written in order are never merged.
                enable_trivial_move: true,
                worker: Some(CompactionWorkerOptions {
                    compactions_poll_interval: LOOK_EVERY,
                    compression_codec: codec,
                    ..Default::default()
                }),
                ..Default::default()
            }),
            garbage_collector_options: None,
            object_store_cache_options: self.disk_cache(),
            ..Settings::default()
        }
    }

    /// How what is obsolete goes. Without `has_if_match` the store cannot replace an object on condition.
    pub fn garbage_options(&self, has_if_match: bool) -> GarbageCollectorOptions {
        let folder =
            || Some(GarbageCollectorDirectoryOptions { interval: Some(COLLECT_EVERY), ..Default::default() });
        GarbageCollectorOptions {
            boundary_files_enabled: has_if_match,
            manifest_options: folder(),
            wal_options: folder(),
            compacted_options: folder(),
            compactions_options: folder(),
            // What it would do is only logged, at the price of a listing.
            wal_fence_options: None,
            // No store is a clone of another.
            detach_options: None,
            ..GarbageCollectorOptions::default()
        }
    }

    /// What a database is opened with to read.
    pub fn reader_options(&self) -> DbReaderOptions {
        DbReaderOptions {
            manifest_poll_interval: self.refresh,
            checkpoint_lifetime: (self.refresh * 4).max(Duration::from_secs(600)),
            object_store_cache_options: self.disk_cache(),
            ..DbReaderOptions::default()
        }
    }

    /// Bytes of the log that a reader keeps: as much as there is of it before it becomes a table.
    pub fn log_cache_bytes(&self) -> u64 {
        self.memtable_bytes.saturating_mul(2)
    }

    fn disk_cache(&self) -> ObjectStoreCacheOptions {
        let has_cache = !self.cache_directory.as_os_str().is_empty();
        ObjectStoreCacheOptions {
            root_folder: has_cache.then(|| self.cache_directory.clone()),
            max_cache_size_bytes: Some(self.cache_directory_bytes as usize),
            ..ObjectStoreCacheOptions::default()
        }
    }
}
