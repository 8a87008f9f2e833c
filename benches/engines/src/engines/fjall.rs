//! fjall: leveled, or with key-value separation for values of 1 KiB and more.

use std::path::Path;
use std::time::{Duration, Instant};

use fjall::compaction::Leveled;
use fjall::config::{BlockSizePolicy, CompressionPolicy};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};

use super::{Change, Contender, Result, Settings};

/// Time without compactions after which none is taken to be left.
const QUIET: Duration = Duration::from_millis(500);

struct Fjall {
    database: Database,
    keyspace: Keyspace,
}

/// Opens the variant `name` in `directory`.
pub fn open(name: &str, directory: &Path, settings: &Settings) -> Result<Box<dyn Contender>> {
    let database = Database::builder(directory)
        .cache_size(settings.cache_bytes)
        .worker_threads(settings.threads)
        .open()?;
    let (settings, separates) = (*settings, name == "fjall-blob");
    let keyspace = database.keyspace("kv", move || {
        let block_bytes = if settings.value_bytes >= 4096 { 16 << 10 } else { 4 << 10 };
        let options = KeyspaceCreateOptions::default()
            .max_memtable_size(settings.memtable_bytes)
            .data_block_compression_policy(CompressionPolicy::all(CompressionType::None))
            .data_block_size_policy(BlockSizePolicy::all(block_bytes))
            .compaction_strategy(std::sync::Arc::new(
                Leveled::default().with_table_target_size(settings.table_bytes),
            ));
        let separation =
            KvSeparationOptions::default().separation_threshold(1024).compression(CompressionType::None);
        options.with_kv_separation(separates.then_some(separation))
    })?;
    Ok(Box::new(Fjall { database, keyspace }))
}

impl Contender for Fjall {
    fn write(&self, changes: &[Change<'_>], durable: bool) -> Result<()> {
        match changes {
            [Change::Put(key, value)] => self.keyspace.insert(*key, *value)?,
            [Change::Delete(key)] => self.keyspace.remove(*key)?,
            _ => {
                let mut batch = self.database.batch();
                for change in changes {
                    match change {
                        Change::Put(key, value) => batch.insert(&self.keyspace, *key, *value),
                        Change::Delete(key) => batch.remove(&self.keyspace, *key),
                    }
                }
                batch.commit()?;
            }
        }
        if durable {
            self.sync()?;
        }
        Ok(())
    }

    fn get(&self, key: &[u8], target: &mut Vec<u8>) -> Result<bool> {
        target.clear();
        let value = self.keyspace.get(key)?;
        if let Some(value) = &value {
            target.extend_from_slice(value);
        }
        Ok(value.is_some())
    }

    fn scan(&self, from: &[u8], count: usize) -> Result<(u64, u64)> {
        let (mut entries, mut bytes) = (0, 0);
        for entry in self.keyspace.range(from..).take(count) {
            let (key, value) = entry.into_inner()?;
            entries += 1;
            bytes += (key.len() + value.len()) as u64;
        }
        Ok((entries, bytes))
    }

    fn sync(&self) -> Result<()> {
        Ok(self.database.persist(PersistMode::SyncData)?)
    }

    fn settle(&self) -> Result<Duration> {
        self.keyspace.rotate_memtable_and_wait()?;
        // There is no call that waits for compactions.
        let (mut since, mut completed) = (Instant::now(), self.database.compactions_completed());
        while since.elapsed() < QUIET {
            std::thread::sleep(Duration::from_millis(5));
            let now = self.database.compactions_completed();
            if self.database.active_compactions() > 0
                || self.database.outstanding_flushes() > 0
                || now != completed
            {
                (since, completed) = (Instant::now(), now);
            }
        }
        self.database.persist(PersistMode::SyncAll)?;
        Ok(QUIET)
    }

    fn report(&self) -> String {
        format!(
            "{} tables, {} in level 0, {} blob files, {} compactions",
            self.keyspace.table_count(),
            self.keyspace.l0_table_count(),
            self.keyspace.blob_file_count(),
            self.database.compactions_completed()
        )
    }
}
