//! fjall: a leveled LSM-tree, with large values in files of their own if `blob=on`.

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use fjall::compaction::Leveled;
use fjall::config::{BlockSizePolicy, CompressionPolicy};
use fjall::{
    AbstractTree, CompressionType, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions,
    PersistMode,
};
use kvfs::base::clock::Clock;
use kvfs::base::text::{BadText, Field, exact_size, switch};
use kvfs::disk::{Access, Disk, OsDisk};
use kvfs::engine::{
    Batch, Cause, Common, Descriptor, Engine, Error, Home, KeyRange, Kind, Lookups, Memory, Operation,
    Options, OwnOptions, Promise, Result, Shape, Statistic, Visit,
};
use parking_lot::Mutex;

use crate::adapter::{Adapter, Pressure, RETRY_AFTER, Store, failed, jobs};
use crate::options::{cache_bytes, choice, count, has_common, memory, size, switch};

/// How blocks and large values are compressed.
const COMPRESSIONS: [&str; 2] = ["none", "lz4"];
/// Memtables that wait for their flush at which writes are stopped. At one more fjall halts them within the call, and if the flush fails it never goes on.
const SEALED_MEMTABLES_MAX: usize = 3;
/// Those and the one that is written to.
const MEMTABLES_MAX: u64 = SEALED_MEMTABLES_MAX as u64 + 1;
/// Sorted runs in level 0 from which fjall delays writes.
const L0_RUNS_DELAYED: usize = 20;
/// Sorted runs in level 0 at which writes are stopped; at one more fjall halts them as it does for memtables.
const L0_RUNS_MAX: usize = 29;
/// Time between two looks whether a flush has ended.
const PAUSE: Duration = Duration::from_millis(10);

/// The engine.
pub static ENGINE: Descriptor = Descriptor {
    name: "fjall",
    help: "fjall, a leveled LSM-tree",
    keeps: true,
    options: || Options::new(Kind::of(&ENGINE), FjallOptions::default()),
    tiny: || Options::new(Kind::of(&ENGINE), FjallOptions::tiny()),
    home: Home::Directory(open),
    remote: None,
    is_file: |_| false,
    salvage: None,
    has_snapshots: false,
    writes_in_place: false,
    variants: &[],
};

#[derive(Clone, Debug, PartialEq)]
struct FjallOptions {
    common: Common,
    memtable_bytes: u64,
    /// 0: chosen when the keyspace is made.
    table_bytes: u64,
    block_bytes: u64,
    worker_threads: u64,
    /// A place in [`COMPRESSIONS`].
    compression: usize,
    separates: bool,
    separation_bytes_min: u64,
}

impl Default for FjallOptions {
    fn default() -> FjallOptions {
        FjallOptions {
            common: Common::default(),
            memtable_bytes: 64 << 20,
            table_bytes: 0,
            block_bytes: 4 << 10,
            worker_threads: 2,
            compression: 0,
            separates: false,
            separation_bytes_min: 1 << 10,
        }
    }
}

impl OwnOptions for FjallOptions {
    const FIELDS: &'static [Field<FjallOptions>] = &[
        memory!(),
        size!("max_memtable_size", memtable_bytes, "Bytes of a memtable."),
        size!(
            "table_target_size",
            Format,
            table_bytes,
            "Bytes of a table file; 0: a quarter of memory=, or 64M."
        ),
        size!("data_block_size", Format, block_bytes, "Bytes of a block."),
        count!("worker_threads", worker_threads, "Threads that flush and compact."),
        choice!(
            "compression",
            Format,
            compression,
            COMPRESSIONS,
            "How blocks and large values are compressed: none or lz4."
        ),
        switch!("kv_separation", separates, "Large values lie in files of their own."),
        size!("separation_threshold", Format, separation_bytes_min, "Bytes from which a value is large."),
    ];

    fn tiny() -> FjallOptions {
        FjallOptions {
            common: Common { cache_bytes: 256 << 10, ..Common::tiny() },
            memtable_bytes: 64 << 10,
            table_bytes: 64 << 10,
            ..FjallOptions::default()
        }
    }

    has_common!();

    fn divide(&mut self, memory_bytes: u64) {
        self.common.cache_bytes = memory_bytes / 2;
        // The other half is full when so many memtables are that writes are stopped.
        self.memtable_bytes = memory_bytes / 2 / MEMTABLES_MAX;
    }

    fn validate(&self) -> std::result::Result<(), BadText> {
        for (name, number) in
            [("max_memtable_size", self.memtable_bytes), ("worker_threads", self.worker_threads)]
        {
            if number == 0 {
                return Err(format!("{name}=0: it must be above 0").into());
            }
        }
        if !(1..=u64::from(u32::MAX)).contains(&self.separation_bytes_min) {
            return Err(
                format!("separation_threshold={} is not from 1 to 4G", self.separation_bytes_min).into()
            );
        }
        if !(1 << 10..=512 << 10).contains(&self.block_bytes) {
            return Err(format!("data_block_size={} is not from 1K to 512K", self.block_bytes).into());
        }
        self.common.validate(self.buffers_bytes(), "memtables")
    }
}

impl FjallOptions {
    /// Bytes of all memtables at which writes are stopped.
    fn buffers_bytes(&self) -> u64 {
        self.memtable_bytes.saturating_mul(MEMTABLES_MAX)
    }

    /// Bytes of the tables of a new keyspace. A merge holds some of them, so they follow the memory.
    fn new_table_bytes(&self) -> u64 {
        match (self.table_bytes, self.common.memory_bytes) {
            (0, 0) => 64 << 20,
            (0, memory_bytes) => (memory_bytes / 4).max(1),
            (table_bytes, _) => table_bytes,
        }
    }

    fn compression(&self) -> CompressionType {
        match COMPRESSIONS[self.compression] {
            "lz4" => CompressionType::Lz4,
            _ => CompressionType::None,
        }
    }

    /// Refuses values other than those that `keyspace` was made with, which fjall keeps and goes on with, whatever is asked for.
    fn check_kept(&self, keyspace: &Keyspace) -> Result<()> {
        let kept = &keyspace.config;
        let tables = kept.compaction_strategy.get_config().into_iter();
        let table_bytes = tables
            .filter(|(name, _)| &name[..] == b"leveled_target_size")
            .find_map(|(_, bytes)| bytes[..].try_into().ok().map(u64::from_le_bytes));
        let compression = match kept.data_block_compression_policy.first() {
            Some(CompressionType::Lz4) => "lz4",
            _ => "none",
        };
        let separation = kept.kv_separation_opts.as_ref();
        let asked_separation = self.separates.then(|| exact_size(self.separation_bytes_min));
        for (name, then, now) in [
            (
                "table_target_size",
                table_bytes.map(exact_size),
                (self.table_bytes > 0).then(|| exact_size(self.table_bytes)),
            ),
            (
                "data_block_size",
                kept.data_block_size_policy.first().map(|bytes| exact_size(u64::from(*bytes))),
                Some(exact_size(self.block_bytes)),
            ),
            ("compression", Some(compression.to_string()), Some(COMPRESSIONS[self.compression].to_string())),
            ("kv_separation", Some(switch(separation.is_some())), Some(switch(self.separates))),
            (
                "separation_threshold",
                separation.map(|it| exact_size(u64::from(it.separation_threshold))),
                asked_separation,
            ),
        ] {
            if let (Some(then), Some(now)) = (then, now)
                && then != now
            {
                return Err(Error::Invalid(format!(
                    "option {name}={now}: the keyspace was made with {name}={then} and keeps it; give that value, or make a new \
                     store and copy the files"
                )));
            }
        }
        Ok(())
    }
}

struct Fjall {
    database: Database,
    keyspace: Keyspace,
    directory: PathBuf,
    options: FjallOptions,
    /// What was free on the disk when it was first found to be full, or fjall to take nothing more.
    free_bytes_at_halt: OnceLock<u64>,
    /// For one who writes at a time, so that no other makes fjall halt behind the look at its pressure.
    writing: Mutex<()>,
}

/// Damage is told from the system's errors, which lie inside those of its tree.
fn fjall_failed(what: &str, error: fjall::Error) -> Error {
    let is_damage = match &error {
        fjall::Error::Storage(inner) => std::error::Error::source(inner).is_none(),
        fjall::Error::JournalRecovery(_) | fjall::Error::Unrecoverable => true,
        _ => false,
    };
    if is_damage { Error::corrupt(what, 0, error.to_string()) } else { failed(what, error) }
}

impl Fjall {
    /// Hands on a memtable that has reached its size. fjall would do so by a size that a keyspace keeps, whatever a later mount asks for.
    fn bound_memtable(&self) -> fjall::Result<()> {
        if self.keyspace.tree.active_memtable().size() > self.options.memtable_bytes {
            self.keyspace.rotate_memtable()?;
        }
        Ok(())
    }

    /// The error of a flush, compaction or sync behind which fjall takes nothing more, and after which what waits for one would wait for ever.
    fn check(&self) -> Result<()> {
        // With nothing in its buffer it only looks.
        self.database
            .persist(PersistMode::Buffer)
            .map_err(|error| self.failed("a look at the journal", error))
    }

    /// After an error of a flush or a merge it takes nothing more and does not say which one it was. Without room for a memtable and for all tables once
    /// more, which bound what the two write, that was the reason: what they had written is gone again by then. It is told until there is more room.
    fn failed(&self, what: &str, error: fjall::Error) -> Error {
        let free_bytes = || {
            let space = OsDisk::open(&self.directory, Access::Read).and_then(|disk| disk.space());
            space.map_or(u64::MAX, |space| space.free_bytes)
        };
        if !matches!(error, fjall::Error::Poisoned) {
            let error = fjall_failed(what, error);
            if matches!(error, Error::NoSpace) {
                self.free_bytes_at_halt.get_or_init(free_bytes);
            }
            return error;
        }
        let (now, then) = (free_bytes(), *self.free_bytes_at_halt.get_or_init(free_bytes));
        let bound = self.options.memtable_bytes + self.keyspace.disk_space();
        match now <= then.saturating_add(self.options.memtable_bytes) && then < bound {
            true => Error::NoSpace,
            false => {
                let rest = "a flush or a sync failed: fjall takes nothing more until it is mounted anew";
                Error::io(what, std::io::Error::other(rest))
            }
        }
    }
}

fn open(directory: &Path, clock: Arc<dyn Clock>, options: &Options) -> Result<Arc<dyn Engine>> {
    let own: FjallOptions = options.own::<FjallOptions>()?.clone();
    let database = Database::builder(directory)
        .cache_size(cache_bytes(&own.common, own.buffers_bytes()))
        .worker_threads(own.worker_threads as usize)
        .open()
        .map_err(|error| fjall_failed("opening the database", error))?;
    let create = || {
        let options = KeyspaceCreateOptions::default()
            // What a mount asks for counts, not what the keyspace was made with: `bound_memtable`.
            .max_memtable_size(u64::MAX)
            .data_block_compression_policy(CompressionPolicy::all(own.compression()))
            .data_block_size_policy(BlockSizePolicy::all(own.block_bytes as u32))
            .compaction_strategy(Arc::new(Leveled::default().with_table_target_size(own.new_table_bytes())));
        let separation = KvSeparationOptions::default()
            .separation_threshold(own.separation_bytes_min as u32)
            .compression(own.compression());
        options.with_kv_separation(own.separates.then_some(separation))
    };
    let keyspace =
        database.keyspace("kv", create).map_err(|error| fjall_failed("opening the keyspace", error))?;
    own.check_kept(&keyspace)?;
    Ok(Adapter::open(
        Fjall {
            database,
            keyspace,
            directory: directory.to_path_buf(),
            options: own,
            free_bytes_at_halt: OnceLock::new(),
            writing: Mutex::default(),
        },
        clock,
        options,
    ))
}

impl Store for Fjall {
    fn kind(&self) -> Kind {
        Kind::of(&ENGINE)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let value = self.keyspace.get(key).map_err(|error| self.failed("a read", error))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, range: KeyRange<'_>, visit: &mut Visit<'_>) -> Result<()> {
        if !range.is_before_end(range.start) {
            return Ok(());
        }
        // Without its end it would look for the next key that is there, over all that was deleted behind the range.
        let end = range.end.map_or(Bound::Unbounded, Bound::Excluded);
        for entry in self.keyspace.range::<&[u8], _>((Bound::Included(range.start), end)) {
            let (key, value) = entry.into_inner().map_err(|error| self.failed("a scan", error))?;
            if visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, batch: &Batch) -> Result<()> {
        let _one = self.writing.lock();
        // Others may have written since the adapter looked.
        if let Some(Pressure { cause, is_stopped: true }) = self.pressure()? {
            return Err(Error::Busy { cause, retry_after: RETRY_AFTER });
        }
        let applied = match batch.operations() {
            [Operation::Put { key, value }] => self.keyspace.insert(&key[..], &value[..]),
            [Operation::Delete { key }] => self.keyspace.remove(&key[..]),
            operations => {
                let mut changes = self.database.batch();
                for operation in operations {
                    match operation {
                        Operation::Put { key, value } => changes.insert(&self.keyspace, &key[..], &value[..]),
                        Operation::Delete { key } => changes.remove(&self.keyspace, &key[..]),
                    }
                }
                changes.commit()
            }
        };
        applied.map_err(|error| self.failed("a write", error))?;
        self.bound_memtable().map_err(|error| self.failed("handing on a memtable", error))
    }

    fn sync(&self) -> Result<()> {
        self.database.persist(PersistMode::SyncData).map_err(|error| self.failed("a sync", error))
    }

    fn settle(&self) -> Result<()> {
        self.keyspace.rotate_memtable().map_err(|error| self.failed("a flush", error))?;
        while self.keyspace.sealed_memtable_count() > 0 {
            self.check()?;
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn compact(&self) -> Result<()> {
        self.settle()?;
        self.keyspace.major_compact().map_err(|error| self.failed("a compaction", error))
    }

    /// Everything that was applied is in its journal. But after an error it takes nothing more, and does not say whether a flush found no room or a
    /// sync failed, behind which nobody knows what is durable: so it is not opened again below those who use it.
    fn promise(&self) -> Promise {
        Promise {
            survives_full_disk: false,
            weaker: Some("after a full disk it takes nothing more"),
            way_out: Some("make room for its merges, then mount it anew"),
            ..Promise::WHOLE
        }
    }

    fn pressure(&self) -> Result<Option<Pressure>> {
        let runs = self.keyspace.tree.l0_run_count();
        let (cause, is_stopped) = match self.keyspace.sealed_memtable_count() {
            SEALED_MEMTABLES_MAX.. => (Cause::Memtables, true),
            _ if runs >= L0_RUNS_DELAYED => (Cause::L0Files, runs >= L0_RUNS_MAX),
            _ => return Ok(None),
        };
        if is_stopped {
            self.check()?;
        }
        Ok(Some(Pressure { cause, is_stopped }))
    }

    fn describe(&self, shape: &mut Shape) {
        let (database, keyspace, own) = (&self.database, &self.keyspace, &self.options);
        let (compacting, flushing) =
            (database.active_compactions() as u64, database.outstanding_flushes() as u64);
        shape.jobs = jobs([(compacting, "compactions"), (flushing, "flushes")]);
        (shape.cache.bytes, shape.cache.bytes_max) = (database.cache_size(), database.cache_capacity());
        let memtable_bytes = database.write_buffer_size();
        shape.memory = Memory {
            limit_bytes: Some(own.buffers_bytes() + shape.cache.bytes_max),
            used_bytes: Some(memtable_bytes + shape.cache.bytes),
            memtable_bytes: Some(memtable_bytes),
            memtable_bytes_max: Some(own.buffers_bytes()),
            immutable_memtables: Some(keyspace.sealed_memtable_count() as u64),
            ..Memory::default()
        };
        let metrics = keyspace.metrics();
        let (bytes, count) = ("bytes", "count");
        shape.statistics = [
            (
                "write_buffer_size",
                Statistic::gauge(database.write_buffer_size(), bytes, "Bytes of all memtables."),
            ),
            (
                "sealed_memtable_count",
                Statistic::gauge(
                    keyspace.sealed_memtable_count() as u64,
                    count,
                    "Memtables that wait for their flush.",
                ),
            ),
            ("outstanding_flushes", Statistic::gauge(flushing, count, "Flushes that are due.")),
            ("active_compactions", Statistic::gauge(compacting, count, "Compactions that run now.")),
            (
                "compactions_completed",
                Statistic::counter(
                    database.compactions_completed() as u64,
                    count,
                    "Compactions that have ended.",
                ),
            ),
            (
                "time_compacting",
                Statistic::counter(
                    database.time_compacting().as_micros() as u64,
                    "us",
                    "Time that they took together.",
                ),
            ),
            (
                "journal_count",
                Statistic::gauge(database.journal_count() as u64, count, "Files of the journal."),
            ),
            (
                "disk_space",
                Statistic::gauge(
                    keyspace.disk_space(),
                    bytes,
                    "Bytes of tables and of files of large values.",
                ),
            ),
            ("table_count", Statistic::gauge(keyspace.table_count() as u64, count, "Table files.")),
            (
                "l0_table_count",
                Statistic::gauge(keyspace.l0_table_count() as u64, count, "Table files in level 0."),
            ),
            (
                "blob_file_count",
                Statistic::gauge(keyspace.blob_file_count() as u64, count, "Files of large values."),
            ),
            (
                "fragmented_blob_bytes",
                Statistic::gauge(
                    keyspace.fragmented_blob_bytes(),
                    bytes,
                    "Bytes in these that are overwritten or deleted.",
                ),
            ),
            ("cache_size", Statistic::gauge(database.cache_size(), bytes, "Bytes in the cache of blocks.")),
            (
                "block_load_cached_count",
                Statistic::counter(
                    metrics.block_load_cached_count() as u64,
                    count,
                    "Blocks found in the cache.",
                ),
            ),
            (
                "block_load_io_count",
                Statistic::counter(metrics.block_load_io_count() as u64, count, "Blocks read from files."),
            ),
            ("block_io", Statistic::counter(metrics.block_io(), bytes, "Bytes of these.")),
            (
                "filter_queries",
                Statistic::counter(metrics.filter_queries() as u64, count, "Questions to filters."),
            ),
            (
                "io_skipped_by_filter",
                Statistic::counter(
                    metrics.io_skipped_by_filter() as u64,
                    count,
                    "Tables that were not read thanks to them.",
                ),
            ),
        ]
        .into_iter()
        .collect();
        shape.cache.all = Lookups {
            hits: metrics.block_load_cached_count() as u64,
            misses: metrics.block_load_io_count() as u64,
        };
    }
}
