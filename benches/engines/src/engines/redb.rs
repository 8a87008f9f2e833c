//! redb: a copy-on-write B-tree. Writes that need not be durable form a chain that the next durable commit seals.

use std::path::Path;
use std::time::Duration;

use redb::{Database, Durability, ReadableDatabase, TableDefinition};

use super::{Change, Contender, Result, Settings};

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("kv");

struct Redb(Database);

/// Opens it in `directory`.
pub fn open(directory: &Path, settings: &Settings) -> Result<Box<dyn Contender>> {
    let database = Database::builder()
        .set_cache_size(settings.cache_bytes as usize)
        .create(directory.join("kv.redb"))?;
    let transaction = database.begin_write()?;
    transaction.open_table(TABLE)?;
    transaction.commit()?;
    Ok(Box::new(Redb(database)))
}

impl Contender for Redb {
    fn write(&self, changes: &[Change<'_>], durable: bool) -> Result<()> {
        let mut transaction = self.0.begin_write()?;
        transaction.set_durability(if durable { Durability::Immediate } else { Durability::None })?;
        {
            let mut table = transaction.open_table(TABLE)?;
            for change in changes {
                match change {
                    Change::Put(key, value) => drop(table.insert(*key, *value)?),
                    Change::Delete(key) => drop(table.remove(*key)?),
                }
            }
        }
        Ok(transaction.commit()?)
    }

    fn get(&self, key: &[u8], target: &mut Vec<u8>) -> Result<bool> {
        target.clear();
        let table = self.0.begin_read()?.open_table(TABLE)?;
        let value = table.get(key)?;
        if let Some(value) = &value {
            target.extend_from_slice(value.value());
        }
        Ok(value.is_some())
    }

    fn scan(&self, from: &[u8], count: usize) -> Result<(u64, u64)> {
        let table = self.0.begin_read()?.open_table(TABLE)?;
        let (mut entries, mut bytes) = (0, 0);
        for entry in table.range(from..)?.take(count) {
            let (key, value) = entry?;
            entries += 1;
            bytes += (key.value().len() + value.value().len()) as u64;
        }
        Ok((entries, bytes))
    }

    fn sync(&self) -> Result<()> {
        Ok(self.0.begin_write()?.commit()?)
    }

    fn settle(&self) -> Result<Duration> {
        // The second commit frees the pages that the first one still had to keep.
        self.sync()?;
        self.sync()?;
        Ok(Duration::ZERO)
    }
}
