//! SQLite: a B-tree changed in place, with a log of page images.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use kvfs::base::clock::Clock;
use kvfs::base::text::{BadText, Field};
use kvfs::engine::{
    Batch, Common, Descriptor, Engine, Error, Home, KeyRange, Kind, Lookups, Operation, Options, OwnOptions,
    Promise, Result, Shape, Statistic, Visit,
};
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, TransactionBehavior, ffi};

use crate::adapter::{Adapter, Store, failed};
use crate::options::{cache_bytes, field, has_common, memory, size};

/// Entries that a scan reads at a time at first, and at most: no connection is held while they are visited.
const CHUNK: [usize; 2] = [8, 256];
const FILE: &str = "kv.sqlite";
const LOG: &str = "kv.sqlite-wal";

/// The engine.
pub static ENGINE: Descriptor = Descriptor {
    name: "sqlite",
    help: "SQLite, a B-tree with a log of page images",
    keeps: true,
    options: || Options::new(Kind::of(&ENGINE), SqliteOptions::default()),
    tiny: || Options::new(Kind::of(&ENGINE), SqliteOptions::tiny()),
    home: Home::Directory(open),
    remote: None,
    is_file: |_| false,
    salvage: None,
    has_snapshots: false,
    writes_in_place: true,
    variants: &[],
};

#[derive(Clone, Debug, PartialEq)]
struct SqliteOptions {
    common: Common,
    page_bytes: u64,
    log_bytes: u64,
}

impl Default for SqliteOptions {
    fn default() -> SqliteOptions {
        SqliteOptions { common: Common::default(), page_bytes: 4 << 10, log_bytes: 64 << 20 }
    }
}

impl OwnOptions for SqliteOptions {
    const FIELDS: &'static [Field<SqliteOptions>] = &[
        memory!(),
        field!(
            "page_size",
            Format,
            page_bytes,
            "Bytes of a page, a power of two from 512 to 64K.",
            kvfs::base::text::bounded_size,
            kvfs::base::text::exact_size
        ),
        size!("wal_autocheckpoint", log_bytes, "Bytes of the log at which a checkpoint begins."),
    ];

    fn tiny() -> SqliteOptions {
        SqliteOptions {
            common: Common { cache_bytes: 256 << 10, ..Common::tiny() },
            log_bytes: 64 << 10,
            ..SqliteOptions::default()
        }
    }

    has_common!();

    fn divide(&mut self, memory_bytes: u64) {
        // A cache is what it has; what waits for a checkpoint lies in the log.
        self.common.cache_bytes = memory_bytes;
        self.log_bytes = memory_bytes / 2;
    }

    fn validate(&self) -> std::result::Result<(), BadText> {
        if !self.page_bytes.is_power_of_two() || !(512..=64 << 10).contains(&self.page_bytes) {
            return Err(format!("page_size={} is no power of two from 512 to 64K", self.page_bytes).into());
        }
        if self.log_bytes < self.page_bytes {
            return Err(format!("wal_autocheckpoint={} is less than a page", self.log_bytes).into());
        }
        self.common.validate(0, "buffers")
    }
}

struct Sqlite {
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
    directory: PathBuf,
    options: SqliteOptions,
    /// The name of the log is durable: SQLite sees to that only with a sync of its own.
    is_log_named: AtomicBool,
    figures: Mutex<Figures>,
    files: Mutex<Files>,
}

/// What the files said at the last sync: a report waits for no disk.
#[derive(Clone, Copy, Default)]
struct Files {
    page_count: Option<u64>,
    freelist_count: Option<u64>,
    log_bytes: Option<u64>,
}

/// What the connections said when they were last free: a report waits for none.
#[derive(Clone, Copy, Default)]
struct Figures {
    hits: Option<u64>,
    misses: Option<u64>,
    writes: Option<u64>,
    spills: Option<u64>,
    used_bytes: Option<u64>,
}

/// Of the system's errors SQLite hands on only what kind they were of.
fn sqlite_failed(what: &str, error: rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Error::NoSpace,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            Error::corrupt(FILE, 0, error.to_string())
        }
        Some(ErrorCode::SystemIoFailure) => {
            // Room for its index of the log is a matter of the disk, too.
            match error.sqlite_error().map(|error| error.extended_code) {
                Some(ffi::SQLITE_IOERR_SHMSIZE) => Error::NoSpace,
                _ => failed(what, error),
            }
        }
        _ => failed(what, error),
    }
}

/// A status of one connection; `None` if this SQLite does not have it.
fn status(connection: &Connection, which: i32) -> Option<u64> {
    let (mut now, mut highest) = (0i64, 0i64);
    // SAFETY: the connection is open for as long as it is borrowed, and both numbers are there to be written.
    let code = unsafe { ffi::sqlite3_db_status64(connection.handle(), which, &mut now, &mut highest, 0) };
    (code == ffi::SQLITE_OK).then(|| u64::try_from(now).ok()).flatten()
}

fn pragma(connection: &Connection, name: &str) -> Option<u64> {
    connection.pragma_query_value(None, name, |row| row.get::<_, i64>(0)).ok()?.try_into().ok()
}

fn open(directory: &Path, clock: Arc<dyn Clock>, options: &Options) -> Result<Arc<dyn Engine>> {
    let own: SqliteOptions = options.own::<SqliteOptions>()?.clone();
    let path = directory.join(FILE);
    let connect = || -> rusqlite::Result<Connection> {
        let connection = Connection::open(&path)?;
        // Two connections share the cache; a sync is what its own caller asks for.
        connection.execute_batch(&format!(
            "PRAGMA page_size={}; PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-{}; \
             PRAGMA wal_autocheckpoint={}; PRAGMA mmap_size=0; PRAGMA temp_store=MEMORY; \
             CREATE TABLE IF NOT EXISTS kv(k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID",
            own.page_bytes,
            cache_bytes(&own.common, 0) / 2 / 1024,
            own.log_bytes / own.page_bytes
        ))?;
        Ok(connection)
    };
    let both = connect().and_then(|writer| Ok((writer, connect()?)));
    let (writer, reader) = both.map_err(|error| sqlite_failed("opening the database", error))?;
    // The log is made by the first of them, which syncs its name only with a sync of its own. A directory that cannot be synced is told by the first sync.
    let is_log_named = File::open(directory).and_then(|directory| directory.sync_all()).is_ok()
        && directory.join(LOG).exists();
    let store = Sqlite {
        writer: Mutex::new(writer),
        reader: Mutex::new(reader),
        directory: directory.to_path_buf(),
        options: own,
        is_log_named: AtomicBool::new(is_log_named),
        figures: Mutex::default(),
        files: Mutex::default(),
    };
    store.look_at_files(&store.writer.lock());
    Ok(Adapter::open(store, clock, options))
}

impl Sqlite {
    /// Asks the files, for reports.
    fn look_at_files(&self, writer: &Connection) {
        *self.files.lock() = Files {
            page_count: pragma(writer, "page_count"),
            freelist_count: pragma(writer, "freelist_count"),
            log_bytes: self.directory.join(LOG).metadata().ok().map(|log| log.len()),
        };
    }

    /// Up to `count` entries from `start` on, or behind it.
    fn chunk(
        &self,
        start: &[u8],
        is_behind: bool,
        count: usize,
    ) -> rusqlite::Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let reader = self.reader.lock();
        let mut statement = reader.prepare_cached(match is_behind {
            false => "SELECT k,v FROM kv WHERE k>=?1 ORDER BY k LIMIT ?2",
            true => "SELECT k,v FROM kv WHERE k>?1 ORDER BY k LIMIT ?2",
        })?;
        let entries = statement.query_map((start, count as i64), |row| Ok((row.get(0)?, row.get(1)?)))?;
        entries.collect()
    }
}

impl Store for Sqlite {
    fn kind(&self) -> Kind {
        Kind::of(&ENGINE)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let read = || -> rusqlite::Result<Option<Bytes>> {
            let reader = self.reader.lock();
            let mut statement = reader.prepare_cached("SELECT v FROM kv WHERE k=?1")?;
            let mut rows = statement.query((key,))?;
            match rows.next()? {
                Some(row) => Ok(Some(Bytes::copy_from_slice(row.get_ref(0)?.as_blob()?))),
                None => Ok(None),
            }
        };
        read().map_err(|error| sqlite_failed("a read", error))
    }

    fn scan(&self, range: KeyRange<'_>, visit: &mut Visit<'_>) -> Result<()> {
        let (mut start, mut is_behind, mut count) = (range.start.to_vec(), false, CHUNK[0]);
        loop {
            let entries =
                self.chunk(&start, is_behind, count).map_err(|error| sqlite_failed("a scan", error))?;
            for (key, value) in &entries {
                if !range.is_before_end(key) || visit(key, value).is_break() {
                    return Ok(());
                }
            }
            match entries.into_iter().last() {
                Some((last, _)) => (start, is_behind) = (last, true),
                None => return Ok(()),
            }
            count = (count * 2).min(CHUNK[1]);
        }
    }

    fn apply(&self, batch: &Batch) -> Result<()> {
        let write = || -> rusqlite::Result<()> {
            let mut writer = self.writer.lock();
            let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
            {
                let mut put = transaction.prepare_cached("INSERT OR REPLACE INTO kv VALUES(?1,?2)")?;
                let mut delete = transaction.prepare_cached("DELETE FROM kv WHERE k=?1")?;
                for operation in batch.operations() {
                    match operation {
                        Operation::Put { key, value } => put.execute((&key[..], &value[..]))?,
                        Operation::Delete { key } => delete.execute((&key[..],))?,
                    };
                }
            }
            transaction.commit()
        };
        write().map_err(|error| sqlite_failed("a write", error))
    }

    fn sync(&self) -> Result<()> {
        // What synchronous=NORMAL leaves out: the sync of the log, and of its name. There is none before the first write.
        let writer = self.writer.lock();
        self.look_at_files(&writer);
        let sync = || -> io::Result<()> {
            File::open(self.directory.join(LOG))?.sync_data()?;
            if !self.is_log_named.load(Relaxed) {
                File::open(&self.directory)?.sync_all()?;
                self.is_log_named.store(true, Relaxed);
            }
            Ok(())
        };
        match sync() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            synced => synced.map_err(|error| Error::io("a sync of the log", error)),
        }
    }

    fn settle(&self) -> Result<()> {
        let writer = self.writer.lock();
        let checkpointed = writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        self.look_at_files(&writer);
        checkpointed.map_err(|error| sqlite_failed("a checkpoint", error))
    }

    fn compact(&self) -> Result<()> {
        self.writer.lock().execute_batch("VACUUM").map_err(|error| sqlite_failed("a vacuum", error))?;
        self.settle()
    }

    /// `PRAGMA integrity_check`: pages, their order, and what is free. SQLite keeps no checksums.
    fn verify(&self) -> Result<()> {
        let reader = self.reader.lock();
        let found = || -> rusqlite::Result<Vec<String>> {
            let mut statement = reader.prepare("PRAGMA integrity_check(1)")?;
            statement.query_map([], |row| row.get(0))?.collect()
        };
        match found().map_err(|error| sqlite_failed("checking", error))?.first() {
            Some(found) if found != "ok" => Err(Error::corrupt(FILE, 0, found.clone())),
            _ => Ok(()),
        }
    }

    fn promise(&self) -> Promise {
        Promise::WHOLE
    }

    fn describe(&self, shape: &mut Shape) {
        let mut figures = self.figures.lock();
        if let (Some(reader), Some(writer)) = (self.reader.try_lock(), self.writer.try_lock()) {
            let both = |which| Some(status(&reader, which)? + status(&writer, which)?);
            *figures = Figures {
                hits: both(ffi::SQLITE_DBSTATUS_CACHE_HIT),
                misses: both(ffi::SQLITE_DBSTATUS_CACHE_MISS),
                writes: both(ffi::SQLITE_DBSTATUS_CACHE_WRITE),
                spills: both(ffi::SQLITE_DBSTATUS_CACHE_SPILL),
                used_bytes: both(ffi::SQLITE_DBSTATUS_CACHE_USED),
            };
        }
        let now = *figures;
        drop(figures);
        let Files { page_count, freelist_count, log_bytes } = *self.files.lock();
        shape.cache.all =
            Lookups { hits: now.hits.unwrap_or_default(), misses: now.misses.unwrap_or_default() };
        shape.cache.bytes = now.used_bytes.unwrap_or_default();
        shape.cache.bytes_max = cache_bytes(&self.options.common, 0);
        (shape.memory.used_bytes, shape.memory.limit_bytes) = (now.used_bytes, Some(shape.cache.bytes_max));
        let (bytes, pages) = ("bytes", "pages");
        shape.statistics = [
            (
                "SQLITE_DBSTATUS_CACHE_HIT",
                Statistic::counter(now.hits, pages, "Pages found in the caches of both connections."),
            ),
            ("SQLITE_DBSTATUS_CACHE_MISS", Statistic::counter(now.misses, pages, "Pages not found there.")),
            (
                "SQLITE_DBSTATUS_CACHE_WRITE",
                Statistic::counter(now.writes, pages, "Pages written to the log."),
            ),
            (
                "SQLITE_DBSTATUS_CACHE_SPILL",
                Statistic::counter(
                    now.spills,
                    pages,
                    "Those of them that were written within a transaction, for room.",
                ),
            ),
            (
                "SQLITE_DBSTATUS_CACHE_USED",
                Statistic::gauge(now.used_bytes, bytes, "Bytes of the caches of both connections."),
            ),
            ("page_size", Statistic::gauge(self.options.page_bytes, bytes, "Bytes of a page.")),
            (
                "page_count",
                Statistic::gauge(page_count, pages, "Pages of the database, in its file or in the log."),
            ),
            ("freelist_count", Statistic::gauge(freelist_count, pages, "Those of them that are free.")),
            (
                "wal_bytes",
                Statistic::gauge(
                    log_bytes,
                    bytes,
                    "Bytes of the log file, which is written again from its beginning after a checkpoint.",
                ),
            ),
        ]
        .into_iter()
        .collect();
    }
}
