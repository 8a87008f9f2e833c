//! The contenders: one small trait, one file each. A new one needs a file here and a line in [`NAMES`] and [`open`].

#[cfg(feature = "fjall")]
mod fjall;
mod kvfs;
#[cfg(feature = "lmdb")]
mod lmdb;
#[cfg(feature = "redb")]
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::path::Path;
use std::time::Duration;

/// Result of anything here; the error is a sentence for the person who runs the benchmark.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// What every contender is given alike.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Write buffer or memtable.
    pub memtable_bytes: u64,
    /// Block cache or page cache of the engine.
    pub cache_bytes: u64,
    /// Target size of the first sorted level.
    pub level_base_bytes: u64,
    /// Target size of a table file.
    pub table_bytes: u64,
    /// Size of the values to come, for engines that choose a block size by it.
    pub value_bytes: u64,
    /// Size of the whole data set, for engines that must know it.
    pub data_bytes: u64,
    /// Size of a log segment, for engines that keep some ready.
    pub log_segment_bytes: u64,
    /// Background threads.
    pub threads: usize,
}

/// One change.
pub enum Change<'a> {
    /// Sets the value of a key.
    Put(&'a [u8], &'a [u8]),
    /// Removes a key.
    Delete(&'a [u8]),
}

/// A storage engine that is measured.
pub trait Contender: Send + Sync {
    /// Applies all changes or none. When it returns with `durable`, they survive a power cut; without, only those before the
    /// last [`Contender::sync`] must.
    fn write(&self, changes: &[Change<'_>], durable: bool) -> Result<()>;

    /// Reads the value of `key` into `target`, which is cleared first; false if the key is absent.
    fn get(&self, key: &[u8], target: &mut Vec<u8>) -> Result<bool>;

    /// Visits up to `count` entries from the key `from` on; the number of entries and their key and value bytes.
    fn scan(&self, from: &[u8], count: usize) -> Result<(u64, u64)>;

    /// Makes everything written so far durable.
    fn sync(&self) -> Result<()>;

    /// Writes out what is buffered and waits until no background work is left. Returns how much of that time was only spent
    /// on making sure that none is: it is not counted.
    fn settle(&self) -> Result<Duration>;

    /// How long writers were held back so far, as far as the engine says.
    fn stalled(&self) -> Duration {
        Duration::ZERO
    }

    /// What the engine says of itself, for `--verbose`.
    fn report(&self) -> String {
        String::new()
    }

    /// Closes it in order.
    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// Every contender that is built in, ours first.
pub const NAMES: &[&str] = &[
    "lsm",
    "btree",
    "mem",
    #[cfg(feature = "rocksdb")]
    "rocksdb",
    #[cfg(feature = "rocksdb")]
    "rocksdb-universal",
    #[cfg(feature = "rocksdb")]
    "rocksdb-blob",
    #[cfg(feature = "fjall")]
    "fjall",
    #[cfg(feature = "fjall")]
    "fjall-blob",
    #[cfg(feature = "redb")]
    "redb",
    #[cfg(feature = "lmdb")]
    "lmdb",
    #[cfg(feature = "sqlite")]
    "sqlite",
];

/// Whether `name` is one of our engines, with or without options.
pub fn is_ours(name: &str) -> bool {
    matches!(base(name), "lsm" | "btree" | "mem")
}

/// The name without our options: `lsm` of `lsm:bloom_bits=0`.
pub fn base(name: &str) -> &str {
    name.split_once(':').map_or(name, |(base, _)| base)
}

/// Whether a reopened store has what was written; the model in memory does not.
pub fn keeps_data(name: &str) -> bool {
    base(name) != "mem"
}

/// Opens the contender `name` in `directory`, which exists.
pub fn open(name: &str, directory: &Path, settings: &Settings) -> Result<Box<dyn Contender>> {
    match name {
        _ if is_ours(name) => kvfs::open(name, directory, settings),
        #[cfg(feature = "rocksdb")]
        "rocksdb" | "rocksdb-universal" | "rocksdb-blob" => rocksdb::open(name, directory, settings),
        #[cfg(feature = "fjall")]
        "fjall" | "fjall-blob" => fjall::open(name, directory, settings),
        #[cfg(feature = "redb")]
        "redb" => redb::open(directory, settings),
        #[cfg(feature = "lmdb")]
        "lmdb" => lmdb::open(directory, settings),
        #[cfg(feature = "sqlite")]
        "sqlite" => sqlite::open(directory, settings),
        _ => Err(format!("no engine '{name}' in this build; it has {}", NAMES.join(", ")).into()),
    }
}
