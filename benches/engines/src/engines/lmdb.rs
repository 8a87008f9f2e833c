//! LMDB: a copy-on-write B-tree in a memory map. Its only cache is the page cache.
//!
//! Writes that need not be durable run with MDB_NOSYNC, which is not crash-safe between syncs: a reference for speed there,
//! not a like-for-like peer. Durable writes run in its default, safe mode.

use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use heed::types::Bytes;
use heed::{Database, Env, EnvFlags, EnvOpenOptions, FlagSetMode, WithoutTls};

use super::{Change, Contender, Result, Settings};

struct Lmdb {
    env: Env<WithoutTls>,
    database: Database<Bytes, Bytes>,
    is_safe: AtomicBool,
}

/// Opens it in `directory`.
pub fn open(directory: &Path, settings: &Settings) -> Result<Box<dyn Contender>> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    // More than it can ever take: only address space.
    options.map_size((settings.data_bytes as usize * 16).next_multiple_of(1 << 30));
    // SAFETY: NO_SYNC only weakens durability, and no other process opens or changes the file.
    let env = unsafe { options.flags(EnvFlags::NO_SYNC).open(directory)? };
    let mut transaction = env.write_txn()?;
    let database = env.create_database(&mut transaction, None)?;
    transaction.commit()?;
    Ok(Box::new(Lmdb { env, database, is_safe: AtomicBool::new(false) }))
}

impl Lmdb {
    fn make_safe(&self, safe: bool) -> Result<()> {
        if self.is_safe.swap(safe, Ordering::SeqCst) != safe {
            self.env.force_sync()?;
            let mode = if safe { FlagSetMode::Disable } else { FlagSetMode::Enable };
            // SAFETY: the flag may be changed while the environment is open, and it is called between workloads or under
            // the swap above, by one thread.
            unsafe { self.env.set_flags(EnvFlags::NO_SYNC, mode)? };
        }
        Ok(())
    }
}

impl Contender for Lmdb {
    fn write(&self, changes: &[Change<'_>], durable: bool) -> Result<()> {
        self.make_safe(durable)?;
        let mut transaction = self.env.write_txn()?;
        for change in changes {
            match change {
                Change::Put(key, value) => self.database.put(&mut transaction, key, value)?,
                Change::Delete(key) => drop(self.database.delete(&mut transaction, key)?),
            }
        }
        Ok(transaction.commit()?)
    }

    fn get(&self, key: &[u8], target: &mut Vec<u8>) -> Result<bool> {
        target.clear();
        let transaction = self.env.read_txn()?;
        let value = self.database.get(&transaction, key)?;
        if let Some(value) = value {
            target.extend_from_slice(value);
        }
        Ok(value.is_some())
    }

    fn scan(&self, from: &[u8], count: usize) -> Result<(u64, u64)> {
        let transaction = self.env.read_txn()?;
        let (mut entries, mut bytes) = (0, 0);
        let range = (Bound::Included(from), Bound::Unbounded);
        for entry in self.database.range(&transaction, &range)?.take(count) {
            let (key, value) = entry?;
            entries += 1;
            bytes += (key.len() + value.len()) as u64;
            // The value is only a pointer into the map: touch each of its pages.
            std::hint::black_box(value.iter().step_by(4096).map(|byte| u64::from(*byte)).sum::<u64>());
        }
        Ok((entries, bytes))
    }

    fn sync(&self) -> Result<()> {
        Ok(self.env.force_sync()?)
    }

    fn settle(&self) -> Result<Duration> {
        self.sync()?;
        Ok(Duration::ZERO)
    }
}
