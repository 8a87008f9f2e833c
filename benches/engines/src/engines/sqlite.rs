//! SQLite: a B-tree changed in place, with a log of page images.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, TransactionBehavior};

use super::{Change, Contender, Result, Settings};

struct Writer {
    connection: Connection,
    is_durable: bool,
}

struct Sqlite {
    writer: Mutex<Writer>,
    reader: Mutex<Connection>,
    log: PathBuf,
}

/// Opens it in `directory`.
pub fn open(directory: &Path, settings: &Settings) -> Result<Box<dyn Contender>> {
    let path = directory.join("kv.sqlite");
    let connect = || -> Result<Connection> {
        let connection = Connection::open(&path)?;
        // Two connections share the cache budget; a checkpoint starts when the log is as large as a memtable.
        connection.execute_batch(&format!(
            "PRAGMA page_size=4096; PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA cache_size=-{}; \
             PRAGMA wal_autocheckpoint={}; PRAGMA mmap_size=0; PRAGMA temp_store=MEMORY;",
            settings.cache_bytes / 2 / 1024,
            settings.memtable_bytes / 4096
        ))?;
        Ok(connection)
    };
    let connection = connect()?;
    connection
        .execute_batch("CREATE TABLE IF NOT EXISTS kv(k BLOB PRIMARY KEY, v BLOB NOT NULL) WITHOUT ROWID")?;
    Ok(Box::new(Sqlite {
        writer: Mutex::new(Writer { connection, is_durable: false }),
        reader: Mutex::new(connect()?),
        log: directory.join("kv.sqlite-wal"),
    }))
}

/// A thread that panicked has ended the run anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Contender for Sqlite {
    fn write(&self, changes: &[Change<'_>], durable: bool) -> Result<()> {
        let mut writer = lock(&self.writer);
        if writer.is_durable != durable {
            let level = if durable { "FULL" } else { "NORMAL" };
            writer.connection.execute_batch(&format!("PRAGMA synchronous={level}"))?;
            writer.is_durable = durable;
        }
        let transaction = writer.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        {
            let mut put = transaction.prepare_cached("INSERT OR REPLACE INTO kv VALUES(?1,?2)")?;
            let mut delete = transaction.prepare_cached("DELETE FROM kv WHERE k=?1")?;
            for change in changes {
                match change {
                    Change::Put(key, value) => put.execute((key, value))?,
                    Change::Delete(key) => delete.execute((key,))?,
                };
            }
        }
        Ok(transaction.commit()?)
    }

    fn get(&self, key: &[u8], target: &mut Vec<u8>) -> Result<bool> {
        target.clear();
        let reader = lock(&self.reader);
        let mut statement = reader.prepare_cached("SELECT v FROM kv WHERE k=?1")?;
        let mut rows = statement.query((key,))?;
        let row = rows.next()?;
        if let Some(row) = row {
            target.extend_from_slice(row.get_ref(0)?.as_blob()?);
        }
        Ok(row.is_some())
    }

    fn scan(&self, from: &[u8], count: usize) -> Result<(u64, u64)> {
        let reader = lock(&self.reader);
        let mut statement = reader.prepare_cached("SELECT k,v FROM kv WHERE k>=?1 ORDER BY k LIMIT ?2")?;
        let mut rows = statement.query((from, i64::try_from(count).unwrap_or(i64::MAX)))?;
        let (mut entries, mut bytes) = (0, 0);
        while let Some(row) = rows.next()? {
            entries += 1;
            bytes += (row.get_ref(0)?.as_blob()?.len() + row.get_ref(1)?.as_blob()?.len()) as u64;
        }
        Ok((entries, bytes))
    }

    fn sync(&self) -> Result<()> {
        // What synchronous=NORMAL leaves out: the sync of the log. There is none before the first write.
        let _writer = lock(&self.writer);
        match File::open(&self.log) {
            Ok(log) => Ok(log.sync_data()?),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn settle(&self) -> Result<Duration> {
        lock(&self.writer).connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        Ok(Duration::ZERO)
    }
}
