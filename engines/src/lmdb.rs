//! LMDB: a copy-on-write B-tree in a memory map. Its only cache is the page cache.
//!
//! A commit is durable or it is not safe: with MDB_NOSYNC the kernel chooses the order in which pages reach the disk, and pages of the last synced
//! tree are used again, so that a power cut could leave a file that does not open. Batches are held in memory instead ([`Held`]), where reads see
//! them, and go to LMDB with one durable commit whenever a sync is asked for or due, and when they are many. Where the file may not have room for
//! them it is asked at once, so that a full disk is told to who fills it.

mod held;

use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use heed::types;
use heed::{CommitOrAbort, Database, DatabaseStat, Env, EnvOpenOptions, WithoutTls};

use bytes::Bytes;
use kvfs::base::clock::Clock;
use kvfs::base::text::{BadText, Field};
use kvfs::disk::{Access, Disk, OsDisk};
use kvfs::engine::{
    Batch, Cause, Common, Descriptor, Engine, Error, Home, KeyRange, Kind, Memory, Options, OwnOptions,
    Promise, Result, Shape, Statistic, Sync, Visit,
};
use parking_lot::Mutex;

use crate::adapter::{Adapter, RETRY_AFTER, Store, failed};
use crate::options::{has_common, memory, size};
use held::{Changes, Held, PAGE_BYTES, Part};

/// The unit in which the map is given: the largest page that a system may have.
const MAP_UNIT_BYTES: u64 = 64 << 10;
/// Deletes of a commit behind which a small one comes before the next that puts as many. Pages that a commit frees are used by the one after the
/// next: a refill right behind a mass delete would find none of them, and take as much again at the end of the file.
const DELETES_MANY: usize = 64;
/// Longest key.
const KEY_BYTES_MAX: usize = 511;
/// Held changes that a scan looks at together at first, and at most.
const PART: [usize; 2] = [8, 256];
/// Bytes of changes that are held at most before a commit begins, without `memory=`.
const HELD_BYTES: u64 = 16 << 20;
/// Share of `memory=` at which a commit begins: as much again comes while it is made, and LMDB copies each page that it changes.
const HELD_SHARE: u64 = 8;

/// The engine.
pub static ENGINE: Descriptor = Descriptor {
    name: "lmdb",
    help: "LMDB, a copy-on-write B-tree in a memory map",
    keeps: true,
    options: || Options::new(Kind::of(&ENGINE), LmdbOptions::default()),
    tiny: || Options::new(Kind::of(&ENGINE), LmdbOptions::tiny()),
    home: Home::Directory(open),
    remote: None,
    is_file: |_| false,
    salvage: None,
    has_snapshots: false,
    writes_in_place: true,
    variants: &[],
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
    const FIELDS: &'static [Field<LmdbOptions>] = &[
        memory!(
            "Bytes that the engine holds in memory at most: an eighth for changes at which a commit begins, the rest for what comes \
             meanwhile and for the pages of the commit. Its cache is the page cache. 0 for 16M of changes."
        ),
        size!(
            "map_size",
            map_bytes,
            "Address space for the map: the most that the store may ever take, twice the data at least."
        ),
    ];

    fn tiny() -> LmdbOptions {
        LmdbOptions { common: Common { memory_bytes: 1 << 20, ..Common::tiny() }, map_bytes: 256 << 20 }
    }

    has_common!();

    fn validate(&self) -> std::result::Result<(), BadText> {
        if self.map_bytes == 0 || !self.map_bytes.is_multiple_of(MAP_UNIT_BYTES) {
            return Err(format!("map_size={} is no multiple of 64K", self.map_bytes).into());
        }
        self.common.validate(0, "buffers")
    }
}

impl LmdbOptions {
    /// Bytes of changes at which a commit begins.
    fn held_bytes_max(&self) -> u64 {
        match self.common.memory_bytes {
            0 => HELD_BYTES,
            memory_bytes => memory_bytes / HELD_SHARE,
        }
    }
}

/// A value is only a pointer into the map: to hand it on is to read each of its pages.
fn visit_page_by_page(key: &[u8], value: &[u8], visit: &mut Visit<'_>) -> ControlFlow<()> {
    std::hint::black_box(value.iter().step_by(PAGE_BYTES as usize).fold(0u8, |sum, byte| sum ^ byte));
    visit(key, value)
}

struct Lmdb {
    env: Env<WithoutTls>,
    database: Database<'static, types::Bytes, types::Bytes>,
    directory: PathBuf,
    options: LmdbOptions,
    held: Held,
    /// For one who applies at a time.
    applying: Mutex<()>,
    /// For one who commits at a time.
    committing: Mutex<()>,
    /// Pages that there was room for after the last commit: those that the file and its map may still grow by, and half of what is free in it.
    room_pages: AtomicU64,
    /// The tree after the last commit. A report looks here: a transaction of its own would note itself in the file of readers, which is mapped, and wait for a
    /// disk that hangs where the kernel is just writing that page.
    tree: Mutex<Option<DatabaseStat>>,
    /// The last commit freed many pages, which the next one would not find.
    has_freed_many: AtomicBool,
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
    // SAFETY: the lock of the directory above keeps other processes out.
    let env = unsafe { how.open(directory) }.map_err(fail)?;
    let transaction = env.write_txn().map_err(fail)?;
    let made = env.create_databases_and_commit(transaction, |opener, transaction| {
        opener.create_database(transaction, None).map(CommitOrAbort::<_, ()>::Commit)
    });
    let store = Lmdb {
        env: env.clone(),
        database: made.map_err(fail)?.unwrap_commit(),
        directory: directory.to_path_buf(),
        options: own.clone(),
        held: Held::default(),
        applying: Mutex::default(),
        committing: Mutex::default(),
        room_pages: AtomicU64::new(0),
        tree: Mutex::default(),
        has_freed_many: AtomicBool::new(false),
    };
    store.look_around();
    Ok(Adapter::open(store, clock, options))
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

    /// One durable commit of `changes`, or nothing of them.
    fn write(&self, changes: &Changes) -> Result<()> {
        let fail = |error| lmdb_failed("a commit", error);
        let deletes = changes.deletes();
        let puts = changes.iter().count() - deletes;
        if puts >= DELETES_MANY && self.has_freed_many.swap(false, Relaxed) {
            // What it would save is all that is lost if it fails.
            let _ = self.commit_nothing();
        }
        let mut transaction = self.env.write_txn().map_err(fail)?;
        for (key, value) in changes.iter() {
            match value {
                Some(value) => self.database.put(&mut transaction, key, value),
                None => self.database.delete(&mut transaction, key).map(drop),
            }
            .map_err(fail)?;
        }
        transaction.commit().map_err(|error| self.commit_failed(changes, error))?;
        self.has_freed_many.store(deletes >= DELETES_MANY, Relaxed);
        self.look_around();
        Ok(())
    }

    /// The error of a commit. LMDB calls a write that the disk took only a part of an error of input and output: without room for `changes`, room was
    /// what it lacked. Another try writes all pages of the commit anew, so that none of them is taken for durable.
    fn commit_failed(&self, changes: &Changes, error: heed::Error) -> Error {
        const EIO: i32 = 5;
        let is_short = matches!(&error, heed::Error::Io(error) if error.raw_os_error() == Some(EIO));
        let space = OsDisk::open(&self.directory, Access::Read).and_then(|disk| disk.space());
        match space {
            Ok(space) if is_short && space.free_bytes < changes.pages() * PAGE_BYTES => Error::NoSpace,
            _ => lmdb_failed("a commit", error),
        }
    }

    /// One durable commit of everything that is held; who calls has the lock of those who commit.
    fn commit(&self) -> Result<()> {
        let changes = self.held.take();
        if !changes.is_empty() {
            self.write(&changes)?;
            self.held.forget();
        }
        Ok(())
    }

    /// Notes the tree and what room there is; what they were where nobody says.
    fn look_around(&self) {
        let space = OsDisk::open(&self.directory, Access::Read).and_then(|disk| disk.space());
        let tree = self.env.read_txn().and_then(|transaction| self.database.stat(&transaction));
        let Ok(tree) = tree else { return };
        *self.tree.lock() = Some(tree);
        let Ok(space) = space else { return };
        let end = self.env.info().last_page_number as u64 + 1;
        let used = (tree.branch_pages + tree.leaf_pages + tree.overflow_pages) as u64;
        let map_pages = self.options.map_bytes / PAGE_BYTES;
        let growth = map_pages.saturating_sub(end).min(space.free_bytes / PAGE_BYTES);
        // Some of what is free waits for the commit after the next, and some lies where no large value fits.
        self.room_pages.store(growth + end.saturating_sub(used) / 2, Relaxed);
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
        // What is not held any more is in the tree by now.
        if let Some(value) = self.held.get(key) {
            return Ok(value);
        }
        let transaction = self.env.read_txn().map_err(fail)?;
        let value = self.database.get(&transaction, key).map_err(fail)?;
        Ok(value.map(Bytes::copy_from_slice))
    }

    /// What is held is in memory; of its map nobody says what is.
    fn get_cached(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.held.get(key).ok_or(Error::WouldBlock)
    }

    /// Part by part: held changes, over the tree as it is while they are held, up to the last of them.
    fn scan(&self, range: KeyRange<'_>, visit: &mut Visit<'_>) -> Result<()> {
        let fail = |error| lmdb_failed("a scan", error);
        // It takes no empty key, not even to begin with.
        let mut start =
            if range.start.is_empty() { Bound::Unbounded } else { Bound::Included(range.start.to_vec()) };
        let mut count = PART[0];
        loop {
            let (Part { changes, is_last }, transaction) =
                self.held.part(&start, range, count, || self.env.read_txn());
            let transaction = transaction.map_err(fail)?;
            let bounds = (start.as_ref().map(Vec::as_slice), Bound::Unbounded);
            let mut tree = self.database.range(&transaction, &bounds).map_err(fail)?;
            let mut entry = tree.next().transpose().map_err(fail)?;
            let last = changes.last().map(|(key, _)| key.to_vec());
            for (key, change) in changes {
                while let Some((below, value)) = entry.filter(|(below, _)| *below <= &key[..]) {
                    if below < &key[..] && visit_page_by_page(below, value, visit).is_break() {
                        return Ok(());
                    }
                    entry = tree.next().transpose().map_err(fail)?;
                }
                if change.is_some_and(|value| visit(&key, &value).is_break()) {
                    return Ok(());
                }
            }
            if is_last {
                while let Some((key, value)) = entry.filter(|(key, _)| range.is_before_end(key)) {
                    if visit_page_by_page(key, value, visit).is_break() {
                        break;
                    }
                    entry = tree.next().transpose().map_err(fail)?;
                }
                return Ok(());
            }
            start = last.map_or(Bound::Unbounded, Bound::Excluded);
            count = (count * 2).min(PART[1]);
        }
    }

    fn apply(&self, batch: &Batch) -> Result<()> {
        let fits = |key: &[u8]| (1..=KEY_BYTES_MAX).contains(&key.len());
        if !batch.operations().iter().all(|operation| fits(operation.key())) {
            return Err(Error::Invalid(format!("engine=lmdb takes keys of 1 to {KEY_BYTES_MAX} bytes")));
        }
        let _one = self.applying.lock();
        let pages = held::pages(batch);
        let is_full = self.held.young_bytes() >= self.options.held_bytes_max();
        if is_full || self.held.pages() + pages > self.room_pages.load(Relaxed) {
            // Whoever commits now goes on for as long as the disk takes.
            let Some(_committing) = self.committing.try_lock() else {
                return Err(Error::Busy { cause: Cause::DirtyPages, retry_after: RETRY_AFTER });
            };
            match self.commit() {
                // Deletes may be what makes room for what is held.
                Err(Error::NoSpace) if batch.operations().iter().any(|it| it.value().is_none()) => {
                    self.held.add(Changes::of(batch));
                    return Ok(());
                }
                committed => committed?,
            }
            if pages > self.room_pages.load(Relaxed) {
                return self.write(&Changes::of(batch));
            }
        }
        self.held.add(Changes::of(batch));
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        let _committing = self.committing.lock();
        self.commit()
    }

    /// A commit that found no room has changed nothing, and its changes are still held.
    fn keeps_unsynced(&self, error: &Error) -> bool {
        matches!(error, Error::NoSpace)
    }

    fn promise(&self) -> Promise {
        Promise::losing_unsynced(self.options.common.sync == Sync::Always)
    }

    fn describe(&self, shape: &mut Shape) {
        let (dirty, dirty_max) = (Some(self.held.bytes()), Some(2 * self.options.held_bytes_max()));
        shape.memory = Memory {
            limit_bytes: dirty_max,
            used_bytes: dirty,
            dirty_bytes: dirty,
            dirty_bytes_max: dirty_max,
            ..Memory::default()
        };
        shape.debt.dirty_bytes = dirty;
        let info = self.env.info();
        let tree = *self.tree.lock();
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
                Statistic::gauge(
                    self.options.map_bytes,
                    bytes,
                    "Bytes of the map: the most that the file may take.",
                ),
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
