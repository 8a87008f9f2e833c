//! SQLite: a B-tree changed in place, with a log of page images.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use kvfs::base::clock::Clock;
use kvfs::base::text::{BadText, Field};
use kvfs::engine::{
    Batch, Common, Descriptor, Engine, Error, Home, KeyRange, Kind, Operation, Options, OwnOptions, Promise,
    Result, Visit,
};
use parking_lot::Mutex;
use rusqlite::{Connection, ErrorCode, TransactionBehavior};

use crate::adapter::{Adapter, Store, failed};
use crate::options::size;

/// Entries that a scan reads at a time at first, and at most: no connection is held while they are visited.
const CHUNK: [usize; 2] = [8, 256];
const PAGE_BYTES: u64 = 4096;

/// The engine.
pub static ENGINE: Descriptor = Descriptor {
    name: "sqlite",
    help: "SQLite, a B-tree with a log of page images",
    keeps: true,
    options: || Options::new(Kind::of(&ENGINE), SqliteOptions::default()),
    tiny: || Options::new(Kind::of(&ENGINE), SqliteOptions::tiny()),
    home: Home::Directory(open),
    is_file: |_| false,
    salvage: None,
    writes_in_place: true,
    variants: ("", Vec::new),
};

#[derive(Clone, Debug, PartialEq)]
struct SqliteOptions {
    common: Common,
    log_bytes: u64,
}

impl Default for SqliteOptions {
    fn default() -> SqliteOptions {
        SqliteOptions { common: Common::default(), log_bytes: 64 << 20 }
    }
}

impl OwnOptions for SqliteOptions {
    const FIELDS: &'static [Field<SqliteOptions>] =
        &[size!("wal_autocheckpoint", log_bytes, "Bytes of the log at which a checkpoint begins.")];

    fn tiny() -> SqliteOptions {
        SqliteOptions { common: Common { cache_bytes: 256 << 10, ..Common::tiny() }, log_bytes: 64 << 10 }
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn common_mut(&mut self) -> &mut Common {
        &mut self.common
    }

    fn divide(&mut self, memory_bytes: u64) {
        // A cache is what it has; what waits for a checkpoint lies in the log.
        self.common.cache_bytes = memory_bytes;
        self.log_bytes = memory_bytes / 2;
    }

    fn validate(&self) -> std::result::Result<(), BadText> {
        if self.log_bytes < PAGE_BYTES {
            return Err(format!("wal_autocheckpoint={} is less than a page", self.log_bytes).into());
        }
        self.common.validate(0, "buffers")
    }
}

struct Sqlite {
    writer: Mutex<Connection>,
    reader: Mutex<Connection>,
    log: PathBuf,
}

fn sqlite_failed(what: &str, error: rusqlite::Error) -> Error {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Error::NoSpace,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            Error::corrupt("kv.sqlite", 0, error.to_string())
        }
        _ => failed(what, error),
    }
}

fn open(directory: &Path, clock: Arc<dyn Clock>, options: &Options) -> Result<Arc<dyn Engine>> {
    let own: &SqliteOptions = options.own()?;
    let path = directory.join("kv.sqlite");
    let connect = || -> rusqlite::Result<Connection> {
        let connection = Connection::open(&path)?;
        // Two connections share the cache; a sync is what its own caller asks for.
        connection.execute_batch(&format!(
            "PRAGMA page_size={PAGE_BYTES}; PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-{}; \
             PRAGMA wal_autocheckpoint={}; PRAGMA mmap_size=0; PRAGMA temp_store=MEMORY; \
             CREATE TABLE IF NOT EXISTS kv(k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID",
            own.common.cache_bytes / 2 / 1024,
            own.log_bytes / PAGE_BYTES
        ))?;
        Ok(connection)
    };
    let both = connect().and_then(|writer| Ok((writer, connect()?)));
    let (writer, reader) = both.map_err(|error| sqlite_failed("opening the database", error))?;
    let (writer, reader, log) = (Mutex::new(writer), Mutex::new(reader), directory.join("kv.sqlite-wal"));
    Ok(Adapter::open(Sqlite { writer, reader, log }, clock, options))
}

impl Sqlite {
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
        // What synchronous=NORMAL leaves out: the sync of the log. There is none before the first write.
        let _writer = self.writer.lock();
        match File::open(&self.log).and_then(|log| log.sync_data()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::io("a sync of the log", error))
            }
            _ => Ok(()),
        }
    }

    fn settle(&self) -> Result<()> {
        let writer = self.writer.lock();
        let checkpointed = writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        checkpointed.map_err(|error| sqlite_failed("a checkpoint", error))
    }

    fn compact(&self) -> Result<()> {
        self.writer.lock().execute_batch("VACUUM").map_err(|error| sqlite_failed("a vacuum", error))?;
        self.settle()
    }

    fn promise(&self) -> Promise {
        Promise::WHOLE
    }
}
