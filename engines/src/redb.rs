//! redb: a copy-on-write B-tree. Writes that need not be durable form a chain that the next durable commit seals.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kvfs::base::clock::Clock;
use kvfs::base::text::{BadText, Field};
use kvfs::engine::{
    Batch, Common, Descriptor, Engine, Error, Home, KeyRange, Kind, Lookups, Operation, Options, OwnOptions,
    Promise, Result, Shape, Statistic, Sync, Visit,
};
use parking_lot::{Mutex, RwLock};
use redb::{
    CacheStats, CompactionError, Database, DatabaseStats, Durability, ReadableDatabase, TableDefinition,
};

use crate::adapter::{Adapter, Store, failed};
use crate::options::{cache_bytes, has_common, memory};

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("kv");
const FILE: &str = "kv.redb";

/// The engine.
pub static ENGINE: Descriptor = Descriptor {
    name: "redb",
    help: "redb, a copy-on-write B-tree",
    keeps: true,
    options: || Options::new(Kind::of(&ENGINE), RedbOptions::default()),
    tiny: || Options::new(Kind::of(&ENGINE), RedbOptions::tiny()),
    home: Home::Directory(open),
    remote: None,
    is_file: |_| false,
    salvage: None,
    has_snapshots: false,
    writes_in_place: true,
    variants: &[],
};

/// None of its own but the division of the memory: its cache also holds what is not written yet.
#[derive(Clone, Debug, Default, PartialEq)]
struct RedbOptions {
    common: Common,
}

impl OwnOptions for RedbOptions {
    const FIELDS: &'static [Field<RedbOptions>] = &[memory!()];

    fn tiny() -> RedbOptions {
        RedbOptions { common: Common { cache_bytes: 1 << 20, ..Common::tiny() } }
    }

    has_common!();

    fn divide(&mut self, memory_bytes: u64) {
        self.common.cache_bytes = memory_bytes;
    }

    fn validate(&self) -> std::result::Result<(), BadText> {
        self.common.validate(0, "buffers")
    }
}

struct Redb {
    /// To itself while it is verified or compacted, which redb asks for.
    database: RwLock<Database>,
    options: RedbOptions,
    /// The figures of its trees as they were at the last flush: they take a walk over all pages.
    trees: Mutex<Option<DatabaseStats>>,
}

/// The system's errors are found in its own; after one it takes nothing more.
fn redb_failed(what: &str, error: impl Into<redb::Error>) -> Error {
    match error.into() {
        redb::Error::Io(error) => Error::io(what, error),
        redb::Error::Corrupted(found) => Error::corrupt(FILE, 0, found),
        redb::Error::PreviousIo => {
            let rest = "an earlier error of the disk: redb takes nothing more and reads only what it has cached until it is mounted anew";
            Error::io(what, std::io::Error::other(rest))
        }
        other => failed(what, other),
    }
}

fn open(directory: &Path, clock: Arc<dyn Clock>, options: &Options) -> Result<Arc<dyn Engine>> {
    let own: RedbOptions = options.own::<RedbOptions>()?.clone();
    let database = Database::builder()
        .set_cache_size(cache_bytes(&own.common, 0) as usize)
        .create(directory.join(FILE))
        .map_err(|error| redb_failed("opening the database", error))?;
    let store = Redb { database: RwLock::new(database), options: own, trees: Mutex::default() };
    // Reads need the table.
    store.commit(Durability::Immediate, &Batch::new(0))?;
    Ok(Adapter::open(store, clock, options))
}

impl Redb {
    fn commit(&self, durability: Durability, batch: &Batch) -> Result<()> {
        let database = self.database.read();
        let mut transaction =
            database.begin_write().map_err(|error| redb_failed("beginning a write", error))?;
        transaction.set_durability(durability).map_err(|error| redb_failed("beginning a write", error))?;
        {
            let mut table =
                transaction.open_table(TABLE).map_err(|error| redb_failed("opening the table", error))?;
            for operation in batch.operations() {
                match operation {
                    Operation::Put { key, value } => table.insert(&key[..], &value[..]).map(drop),
                    Operation::Delete { key } => table.remove(&key[..]).map(drop),
                }
                .map_err(|error| redb_failed("a write", error))?;
            }
        }
        transaction.commit().map_err(|error| redb_failed("a commit", error))
    }

    /// Looks at every page of its trees: for a compaction or a check, which do so anyhow, never for a flush.
    fn measure(&self) -> Result<()> {
        let database = self.database.read();
        let transaction = database.begin_write().map_err(|error| redb_failed("beginning a write", error))?;
        let trees = transaction.stats().map_err(|error| redb_failed("reading the trees", error))?;
        transaction.abort().map_err(|error| redb_failed("ending a write", error))?;
        *self.trees.lock() = Some(trees);
        Ok(())
    }
}

impl Store for Redb {
    fn kind(&self) -> Kind {
        Kind::of(&ENGINE)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        // A visitor of a scan, which holds the lock, may read.
        let database = self.database.read_recursive();
        let read = database.begin_read().map_err(|error| redb_failed("beginning a read", error))?;
        let table = read.open_table(TABLE).map_err(|error| redb_failed("opening the table", error))?;
        let value = table.get(key).map_err(|error| redb_failed("a read", error))?;
        Ok(value.map(|value| Bytes::copy_from_slice(value.value())))
    }

    fn scan(&self, range: KeyRange<'_>, visit: &mut Visit<'_>) -> Result<()> {
        let read = {
            let database = self.database.read_recursive();
            database.begin_read().map_err(|error| redb_failed("beginning a read", error))?
        };
        let table = read.open_table(TABLE).map_err(|error| redb_failed("opening the table", error))?;
        for entry in table.range(range.start..).map_err(|error| redb_failed("a scan", error))? {
            let (key, value) = entry.map_err(|error| redb_failed("a scan", error))?;
            if !range.is_before_end(key.value()) || visit(key.value(), value.value()).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, batch: &Batch) -> Result<()> {
        self.commit(Durability::None, batch)
    }

    fn sync(&self) -> Result<()> {
        self.commit(Durability::Immediate, &Batch::new(0))
    }

    fn settle(&self) -> Result<()> {
        // The second commit frees the pages that the first one still had to keep.
        self.sync()?;
        self.sync()
    }

    fn compact(&self) -> Result<()> {
        self.sync()?;
        let mut database = self.database.write();
        match database.compact() {
            // A scan holds pages where they are: as good as it was.
            Err(CompactionError::TransactionInProgress) | Ok(_) => {}
            Err(error) => return Err(redb_failed("a compaction", error)),
        }
        drop(database);
        self.settle()?;
        self.measure()
    }

    /// redb's own check of every checksum and of what is allocated, and then every entry.
    fn verify(&self) -> Result<()> {
        self.sync()?;
        let mut database = self.database.write();
        let checked = database.check_integrity().map_err(|error| redb_failed("checking", error))?;
        drop(database);
        if !checked {
            return Err(Error::corrupt(
                FILE,
                0,
                "redb's check of its integrity found damage, and mended it".to_string(),
            ));
        }
        self.scan(KeyRange::ALL, &mut |_, _| std::ops::ControlFlow::Continue(()))?;
        self.measure()
    }

    fn promise(&self) -> Promise {
        // What is not durable is in its memory alone. After an error of the disk it takes nothing and reads only what it has in its cache; to open it
        // again below those who use it would take back changes that they have seen.
        let (weaker, way_out) = match self.options.common.sync {
            Sync::Always => {
                ("after a full disk it takes and reads nothing more", "make room, then mount it anew")
            }
            _ => (
                "kill -9 loses what no sync covers; a full disk ends reads and writes",
                "fsync, or sync=always; make room, then mount it anew",
            ),
        };
        Promise {
            survives_full_disk: false,
            weaker: Some(weaker),
            way_out: Some(way_out),
            ..Promise::losing_unsynced(false)
        }
    }

    fn describe(&self, shape: &mut Shape) {
        // While it is verified or compacted it says nothing.
        let cache = self.database.try_read().map(|database| database.cache_stats());
        if let Some(cache) = &cache {
            shape.cache.bytes = cache.used_bytes() as u64;
            shape.cache.bytes_max = cache_bytes(&self.options.common, 0);
            shape.cache.all = Lookups { hits: cache.read_hits(), misses: cache.read_misses() };
            shape.memory.used_bytes = Some(shape.cache.bytes);
        }
        shape.memory.limit_bytes = Some(cache_bytes(&self.options.common, 0));
        let cached = |of: fn(&CacheStats) -> u64| cache.as_ref().map(of);
        let trees = self.trees.lock();
        let tree = |of: fn(&DatabaseStats) -> u64| trees.as_ref().map(of);
        let (bytes, count) = ("bytes", "count");
        shape.statistics = [
            (
                "cache_stats.used_bytes",
                Statistic::gauge(
                    cached(|it| it.used_bytes() as u64),
                    bytes,
                    "Bytes in the cache, what is to be written among them.",
                ),
            ),
            (
                "cache_stats.read_hits",
                Statistic::counter(
                    cached(CacheStats::read_hits),
                    count,
                    "Unchanged pages found in the cache.",
                ),
            ),
            (
                "cache_stats.read_misses",
                Statistic::counter(
                    cached(CacheStats::read_misses),
                    count,
                    "Unchanged pages read from the file.",
                ),
            ),
            (
                "cache_stats.write_hits",
                Statistic::counter(
                    cached(CacheStats::write_hits),
                    count,
                    "Changed pages found in the cache.",
                ),
            ),
            (
                "cache_stats.write_misses",
                Statistic::counter(
                    cached(CacheStats::write_misses),
                    count,
                    "Changed pages that had left it.",
                ),
            ),
            (
                "cache_stats.evictions",
                Statistic::counter(cached(CacheStats::evictions), count, "Pages that left it for room."),
            ),
            (
                "stats.tree_height",
                Statistic::gauge(
                    tree(|it| u64::from(it.tree_height())),
                    count,
                    "Height of the tree at the last flush.",
                ),
            ),
            (
                "stats.allocated_pages",
                Statistic::gauge(
                    tree(DatabaseStats::allocated_pages),
                    "pages",
                    "Pages in use at the last flush.",
                ),
            ),
            (
                "stats.leaf_pages",
                Statistic::gauge(tree(DatabaseStats::leaf_pages), "pages", "Leaf pages at the last flush."),
            ),
            (
                "stats.branch_pages",
                Statistic::gauge(
                    tree(DatabaseStats::branch_pages),
                    "pages",
                    "Branch pages at the last flush.",
                ),
            ),
            (
                "stats.stored_bytes",
                Statistic::gauge(
                    tree(DatabaseStats::stored_bytes),
                    bytes,
                    "Bytes of keys and values at the last flush.",
                ),
            ),
            (
                "stats.metadata_bytes",
                Statistic::gauge(
                    tree(DatabaseStats::metadata_bytes),
                    bytes,
                    "Bytes of keys in branch pages and of overhead at the last flush.",
                ),
            ),
            (
                "stats.fragmented_bytes",
                Statistic::gauge(
                    tree(DatabaseStats::fragmented_bytes),
                    bytes,
                    "Bytes inside pages that nothing uses, at the last flush.",
                ),
            ),
            (
                "stats.page_size",
                Statistic::gauge(tree(|it| it.page_size() as u64), bytes, "Bytes of a page."),
            ),
        ]
        .into_iter()
        .collect();
    }
}
