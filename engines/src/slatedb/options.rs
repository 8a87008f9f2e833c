//! Options of SlateDB, and what they are in its own words.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kvfs::base::text::{BadText, Field, When, exact_duration, parse_duration};
use kvfs::engine::{Common, Error, OwnOptions, Price, Result};
use slatedb::config::{
    CompactionWorkerOptions, CompactorOptions, CompressionCodec, DbReaderOptions,
    GarbageCollectorDirectoryOptions, GarbageCollectorOptions, ObjectStoreCacheOptions, Settings,
};

use url::Url;

use crate::options::{cache_bytes, choice, field, has_common, memory, size};

/// Names of compressions, as options have them.
const COMPRESSIONS: [&str; 3] = ["none", "lz4", "zstd"];

/// Price tables that have names.
const PRICES: [&str; 2] = ["none", "aws"];

/// Tables without order that a key may lie in before writers wait for merges.
const L0_TABLES_MAX: usize = 32;
/// Merges that run at once: each waits for two looks before it runs, so several share the wait.
const MERGES_MAX: u64 = 4;
/// Memory for each of them.
const MERGE_SHARE_BYTES: u64 = 64 << 20;
/// Kinds of keys at most: see [`super::kinds`].
const KINDS: usize = 8;
/// Time between two looks for garbage: four listings, each at the price of a PUT.
const COLLECT_EVERY: Duration = Duration::from_secs(1800);

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
    /// Time between two looks of a writer for what others have changed, and for tables to merge.
    poll: Duration,
    /// Prices: one of [`PRICES`], or the path of a file.
    price: String,
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
            poll: Duration::ZERO,
            price: PRICES[0].to_string(),
            refresh: Duration::from_secs(1),
            takeover: false,
        }
    }
}

/// A word, or nothing.
macro_rules! text {
    ($name:literal, $member:ident, $help:literal, $takes:literal, $is_one:expr) => {
        Field {
            name: $name,
            when: When::Mount,
            help: $help,
            set: |options, text| {
                let is_one: fn(&str) -> bool = $is_one;
                if !text.is_empty() && !is_one(text) {
                    return Err($takes.into());
                }
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
            "URL of the server, as in http://127.0.0.1:8333; without it the environment (AWS_ENDPOINT_URL), or the provider's own.",
            "takes a URL, as in http://127.0.0.1:8333",
            |text| Url::parse(text)
                .is_ok_and(|url| ["http", "https"].contains(&url.scheme()) && url.username().is_empty())
        ),
        text!(
            "region",
            region,
            "Region of the bucket; without it the environment's or the profile's, or us-east-1.",
            "takes a name, as in eu-central-1",
            |text| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
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
            "poll",
            Mount,
            poll,
            "Time between two looks for tables to merge, and for a mount that has taken over: each is about seven requests. 0 for 10s with \
             memtables of 64M, and in proportion with others.",
            parse_duration,
            exact_duration
        ),
        field!(
            "refresh",
            Mount,
            refresh,
            "Time after which a mount with ro looks for what is new, and for which the kernel may believe what it knows.",
            parse_duration,
            exact_duration
        ),
        Field {
            name: "price",
            when: When::Mount,
            help: "What requests and storage cost, for .stats: aws (S3 Standard in us-east-1), none, or the path of a file of prices.",
            set: |options, text| {
                if !PRICES.contains(&text) && !Path::new(text).is_absolute() {
                    return Err(format!(
                        "takes {}, or the absolute path of a file of prices: the daemon has a working directory of its own",
                        PRICES.join(", ")
                    )
                    .into());
                }
                options.price = text.to_string();
                Ok(())
            },
            get: |options| options.price.clone(),
        },
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
            poll: Duration::from_millis(50),
            ..SlateOptions::default()
        }
    }

    has_common!();

    fn divide(&mut self, memory_bytes: u64) {
        self.common.cache_bytes = memory_bytes / 4;
        // One is filled while others are sent, and what is sent is there twice.
        self.memtable_bytes = memory_bytes / 32;
    }

    fn validate(&self) -> std::result::Result<(), BadText> {
        const MEMTABLE_BYTES_MIN: u64 = 4 << 10;
        if self.memtable_bytes < MEMTABLE_BYTES_MIN {
            return Err(format!("memtable={} is less than {MEMTABLE_BYTES_MIN}", self.memtable_bytes).into());
        }
        if !self.poll.is_zero() && self.poll < Duration::from_millis(10) {
            return Err("poll is at least 10ms: each look is requests to the object store".into());
        }
        if self.refresh < Duration::from_millis(100) {
            return Err("refresh is at least 100ms: each look is requests to the object store".into());
        }
        self.common.validate(self.unflushed_bytes(), "what is not written yet")
    }
}

impl SlateOptions {
    /// Time between two looks. Tables come the faster the smaller they are, and until they are merged writers may have to wait.
    fn poll(&self) -> Duration {
        const USUAL_BYTES: u64 = 64 << 20;
        const USUAL: Duration = Duration::from_secs(10);
        if !self.poll.is_zero() {
            return self.poll;
        }
        USUAL
            .mul_f64(self.memtable_bytes.min(USUAL_BYTES) as f64 / USUAL_BYTES as f64)
            .max(Duration::from_millis(100))
    }

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

    /// The prices; `None` where nobody said any.
    pub fn prices(&self) -> Result<Option<Price>> {
        let read = |text: &str| match text {
            "none" => Ok(None),
            "aws" => Ok(Some(Price::aws())),
            path => Price::read(Path::new(path)).map(Some),
        };
        read(&self.price).map_err(|problem| Error::Invalid(format!("price: {problem}")))
    }

    fn codec(&self) -> Option<CompressionCodec> {
        match COMPRESSIONS[self.compression] {
            "lz4" => Some(CompressionCodec::Lz4),
            "zstd" => Some(CompressionCodec::Zstd),
            _ => None,
        }
    }

    /// What a database is opened with to write. What is due to be sent is for kvfs to say, with `sync=`.
    ///
    /// Idle, it asks whether there is a newer manifest, or a merge to be done, every `poll` in three places: 49 requests a minute were counted at 10 s, 0.85
    /// dollars a month at what Amazon asks, and 166 with its own defaults. Who is fenced and idle notices after as long. Between two looks tables that are not merged pile up, so more of them
    /// are allowed than it allows by default.
    pub fn settings(&self) -> Settings {
        let codec = self.codec();
        // Each holds ten megabytes of what it writes.
        let merges_max = (self.memory_bytes_max() / MERGE_SHARE_BYTES).clamp(1, MERGES_MAX) as usize;
        // What merges read ahead and write is beside the memtables, and in proportion to them.
        let fetch_bytes = (self.memtable_bytes / 32).clamp(64 << 10, 2 << 20) as usize;
        let worker = CompactionWorkerOptions {
            compactions_poll_interval: self.poll(),
            max_concurrent_compactions: merges_max,
            max_subcompactions: 1,
            max_fetch_tasks: 2,
            bytes_to_fetch: fetch_bytes,
            compression_codec: codec,
            ..CompactionWorkerOptions::default()
        };
        Settings {
            flush_interval: None,
            manifest_poll_interval: self.poll(),
            l0_sst_size_bytes: self.memtable_bytes as usize,
            l0_flush_parallelism: merges_max,
            // Each memtable becomes a table of every kind of key.
            l0_max_ssts: L0_TABLES_MAX * KINDS,
            l0_max_ssts_per_key: L0_TABLES_MAX,
            max_unflushed_bytes: self.unflushed_bytes() as usize,
            compression_codec: codec,
            compactor_options: Some(CompactorOptions {
                poll_interval: self.poll(),
                // Tables of ascending blocks do not overlap: they are put into a run as they are.
                enable_trivial_move: true,
                max_concurrent_compactions: merges_max,
                worker: Some(worker),
                ..CompactorOptions::default()
            }),
            garbage_collector_options: None,
            object_store_cache_options: self.disk_cache(),
            ..Settings::default()
        }
    }

    /// How what is obsolete goes. Without `has_if_match` the store cannot replace an object on condition.
    pub fn garbage_options(&self, has_if_match: bool) -> GarbageCollectorOptions {
        let every = GarbageCollectorDirectoryOptions { interval: Some(COLLECT_EVERY), ..Default::default() };
        GarbageCollectorOptions {
            manifest_options: Some(every),
            wal_options: Some(every),
            compacted_options: Some(every),
            compactions_options: Some(every),
            // An object that keeps who was fenced from writing must stay, and no store of ours has parents.
            wal_fence_options: None,
            detach_options: None,
            boundary_files_enabled: has_if_match,
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
        let usual = ObjectStoreCacheOptions::default();
        // It makes room only after it has taken some: by up to a part it is larger than it is told to be.
        let bytes_max = self.cache_directory_bytes;
        let told_bytes = bytes_max.saturating_sub(usual.part_size_bytes as u64).max(bytes_max / 2);
        ObjectStoreCacheOptions {
            root_folder: has_cache.then(|| self.cache_directory.clone()),
            max_cache_size_bytes: Some(told_bytes as usize),
            ..usual
        }
    }
}
