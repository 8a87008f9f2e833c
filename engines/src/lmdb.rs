//! LMDB: a copy-on-write B-tree in a memory map. Its only cache is the page cache.
//!
//! With `sync=always` each commit is synced, data before the page that points to them. Otherwise it runs with MDB_NOSYNC and is synced when that
//! is asked for: between two syncs the kernel chooses the order in which pages reach the disk, and pages of the last synced tree are used again, so
//! that a power cut may leave a file that does not open. The end of the process costs nothing in either mode, since each commit is written to
//! the page cache. [`Promise`] says so.

use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;

use heed::types;
use heed::{CommitOrAbort, Database, DatabaseStat, Env, EnvFlags, EnvOpenOptions, WithoutTls};

use bytes::Bytes;
use kvfs::base::clock::Clock;
use kvfs::base::text::{BadText, Field};
use kvfs::engine::{
    Batch, Common, Descriptor, Engine, Error, Home, KeyRange, Kind, Operation, Options, OwnOptions, Promise,
    Result, Shape, Statistic, Sync, Visit,
};

use crate::adapter::{Adapter, Store, failed};
use crate::options::{has_common, size};

/// The unit in which the map is given: the largest page that a system may have.
const MAP_UNIT_BYTES: u64 = 64 << 10;
/// Deletes of a batch behind which a small commit comes before the next batch. Pages that a commit frees are used by the one after the next: a
/// refill right behind a mass delete would find none of them, and take as much again at the end of the file.
const DELETES_MANY: usize = 64;
/// What the operating system reads of a map at once.
const PAGE_BYTES: usize = 4096;

/// The engine.
pub static ENGINE: Descriptor = Descriptor {
    name: "lmdb",
    help: "LMDB, a copy-on-write B-tree in a memory map",
    keeps: true,
    options: || Options::new(Kind::of(&ENGINE), LmdbOptions::default()),
    tiny: || Options::new(Kind::of(&ENGINE), LmdbOptions::tiny()),
    home: Home::Directory(open),
    is_file: |_| false,
    salvage: None,
    writes_in_place: true,
    variants: ("", Vec::new),
};

#[derive(Clone, Debug, PartialEq)]
struct LmdbOptions {
    common: Common,
    map_bytes: u64,
}

impl Default for LmdbOptions {
    fn default() -> LmdbOptions {
        LmdbOptions { common: Common::default(), map_bytes: 64 << 30 }
    }
}

impl OwnOptions for LmdbOptions {
    const FIELDS: &'static [Field<LmdbOptions>] = &[size!(
        "map_size",
        map_bytes,
        "Address space for the map: the most that the store may ever take, twice the data at least."
    )];

    fn tiny() -> LmdbOptions {
        LmdbOptions { common: Common::tiny(), map_bytes: 256 << 20 }
    }

    has_common!();

    fn validate(&self) -> std::result::Result<(), BadText> {
        if self.map_bytes == 0 || !self.map_bytes.is_multiple_of(MAP_UNIT_BYTES) {
            return Err(format!("map_size={} is no multiple of 64K", self.map_bytes).into());
        }
        self.common.validate(0, "buffers")
    }
}

struct Lmdb {
    env: Env<WithoutTls>,
    database: Database<'static, types::Bytes, types::Bytes>,
    /// Each commit is synced, in order.
    syncs_commits: bool,
    map_bytes: u64,
}

/// A full map is a full disk: nothing has changed, and deletes still find room.
fn lmdb_failed(what: &str, error: heed::Error) -> Error {
    match error {
        heed::Error::Mdb(heed::MdbError::MapFull) => Error::NoSpace,
        heed::Error::Mdb(heed::MdbError::BadValSize) => {
            Error::Invalid(format!("{what}: engine=lmdb takes keys of 1 to 511 bytes"))
        }
        heed::Error::Io(error) => Error::io(what, error),
        other => failed(what, other),
    }
}

fn open(directory: &Path, clock: Arc<dyn Clock>, options: &Options) -> Result<Arc<dyn Engine>> {
    let fail = |error| lmdb_failed("opening the environment", error);
    let own: &LmdbOptions = options.own()?;
    let mut how = EnvOpenOptions::new().read_txn_without_tls();
    how.map_size(own.map_bytes as usize).max_readers(1024);
    let syncs_commits = own.common.sync == Sync::Always;
    if !syncs_commits {
        // SAFETY: it only weakens durability, which the promise says.
        unsafe { how.flags(EnvFlags::NO_SYNC) };
    }
    // SAFETY: the lock of the directory above keeps other processes out.
    let env = unsafe { how.open(directory) }.map_err(fail)?;
    let transaction = env.write_txn().map_err(fail)?;
    let made = env.create_databases_and_commit(transaction, |opener, transaction| {
        opener.create_database(transaction, None).map(CommitOrAbort::<_, ()>::Commit)
    });
    let database = made.map_err(fail)?.unwrap_commit();
    Ok(Adapter::open(Lmdb { env, database, syncs_commits, map_bytes: own.map_bytes }, clock, options))
}

impl Lmdb {
    /// A commit that changes nothing: the first entry is written as it is.
    fn commit_nothing(&self) -> std::result::Result<(), heed::Error> {
        let mut transaction = self.env.write_txn()?;
        let first = self.database.first(&transaction)?.map(|(key, value)| (key.to_vec(), value.to_vec()));
        let Some((key, value)) = first else { return Ok(()) };
        self.database.put(&mut transaction, &key, &value)?;
        transaction.commit()
    }
}

impl Store for Lmdb {
    fn kind(&self) -> Kind {
        Kind::of(&ENGINE)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let fail = |error| lmdb_failed("a read", error);
        if key.is_empty() {
            return Ok(None);
        }
        let transaction = self.env.read_txn().map_err(fail)?;
        let value = self.database.get(&transaction, key).map_err(fail)?;
        Ok(value.map(Bytes::copy_from_slice))
    }

    fn scan(&self, range: KeyRange<'_>, visit: &mut Visit<'_>) -> Result<()> {
        let fail = |error| lmdb_failed("a scan", error);
        let transaction = self.env.read_txn().map_err(fail)?;
        // It takes no empty key, not even to begin with.
        let start = if range.start.is_empty() { Bound::Unbounded } else { Bound::Included(range.start) };
        let bounds = (start, Bound::Unbounded);
        for entry in self.database.range(&transaction, &bounds).map_err(fail)? {
            let (key, value) = entry.map_err(fail)?;
            // A value is only a pointer into the map: to hand it on is to read each of its pages.
            std::hint::black_box(value.iter().step_by(PAGE_BYTES).fold(0u8, |sum, byte| sum ^ byte));
            if !range.is_before_end(key) || visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, batch: &Batch) -> Result<()> {
        let fail = |error| lmdb_failed("a write", error);
        let mut transaction = self.env.write_txn().map_err(fail)?;
        for operation in batch.operations() {
            match operation {
                Operation::Put { key, value } => self.database.put(&mut transaction, key, value),
                Operation::Delete { key } => self.database.delete(&mut transaction, key).map(drop),
            }
            .map_err(fail)?;
        }
        transaction.commit().map_err(fail)?;
        let is_delete = |operation: &&Operation| matches!(operation, Operation::Delete { .. });
        if batch.operations().iter().filter(is_delete).count() >= DELETES_MANY {
            // The batch is applied; what this would have saved is all that is lost if it fails.
            let _ = self.commit_nothing();
        }
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        if self.syncs_commits {
            return Ok(());
        }
        self.env.force_sync().map_err(|error| lmdb_failed("a sync", error))
    }

    fn promise(&self) -> Promise {
        if self.syncs_commits {
            return Promise::WHOLE;
        }
        Promise {
            prefix: false,
            survives_kill: true,
            weaker: Some("after a power cut it may not open, what was synced among it"),
            way_out: Some("sync=always keeps each commit in order"),
        }
    }

    fn describe(&self, shape: &mut Shape) {
        let info = self.env.info();
        let tree = self.env.read_txn().and_then(|transaction| self.database.stat(&transaction)).ok();
        let tree = |of: fn(&DatabaseStat) -> u64| tree.as_ref().map(of);
        let (bytes, count, pages) = ("bytes", "count", "pages");
        shape.statistics = [
            ("ms_psize", Statistic::gauge(tree(|it| u64::from(it.page_size)), bytes, "Bytes of a page.")),
            ("ms_depth", Statistic::gauge(tree(|it| u64::from(it.depth)), count, "Height of the tree.")),
            ("ms_branch_pages", Statistic::gauge(tree(|it| it.branch_pages as u64), pages, "Inner pages.")),
            ("ms_leaf_pages", Statistic::gauge(tree(|it| it.leaf_pages as u64), pages, "Leaf pages.")),
            (
                "ms_overflow_pages",
                Statistic::gauge(tree(|it| it.overflow_pages as u64), pages, "Pages of large values."),
            ),
            ("ms_entries", Statistic::gauge(tree(|it| it.entries as u64), count, "Entries.")),
            (
                "me_mapsize",
                Statistic::gauge(self.map_bytes, bytes, "Bytes of the map: the most that the file may take."),
            ),
            (
                "me_last_pgno",
                Statistic::gauge(
                    info.last_page_number as u64,
                    pages,
                    "Number of the last page in use, from 0 on.",
                ),
            ),
            (
                "me_last_txnid",
                Statistic::counter(
                    info.last_txn_id as u64,
                    count,
                    "Number of the last commit since the store was made.",
                ),
            ),
            (
                "me_numreaders",
                Statistic::gauge(
                    u64::from(info.number_of_readers),
                    count,
                    "Places of readers that were ever taken at once.",
                ),
            ),
        ]
        .into_iter()
        .collect();
    }
}
