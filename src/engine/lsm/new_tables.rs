//! Tables that are written for the level store by whoever stands above it.

use std::sync::Arc;

use super::level_store::LevelStore;
use super::table::{Origin, Table, TableBuilder};
use super::value_log::StoredValue;
use crate::disk::Purpose;
use crate::engine::{Lsn, Result};

/// Sorted entries on their way into tables. Dropped before [`NewTables::ingest`], their files are removed.
pub struct NewTables<'a> {
    store: &'a LevelStore,
    purpose: Purpose,
    lsn: Lsn,
    growing: Option<TableBuilder>,
    tables: Vec<Arc<Table>>,
    is_ingested: bool,
}

impl<'a> NewTables<'a> {
    /// Tables for `store`, written for `purpose` when the log ends at `lsn`. Their entries are newer than all that the store has of their keys.
    pub fn new(store: &'a LevelStore, purpose: Purpose, lsn: Lsn) -> NewTables<'a> {
        NewTables { store, purpose, lsn, growing: None, tables: Vec::new(), is_ingested: false }
    }

    /// Adds an entry, a tombstone without `value`; keys ascend.
    pub fn add(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<()> {
        let builder = match &mut self.growing {
            Some(builder) => builder,
            none => none.insert(self.store.core.table_store.create(self.purpose, false)?),
        };
        builder.add(key, value.map(StoredValue::Value))?;
        if builder.bytes() >= self.store.core.options.table_bytes {
            self.end_table()?;
        }
        Ok(())
    }

    fn end_table(&mut self) -> Result<()> {
        if let Some(builder) = self.growing.take() {
            let age = self.store.next_age(self.lsn);
            let seconds = self.store.core.now_seconds();
            let origin =
                Origin { first_lsn: age, last_lsn: age, newest_seconds: seconds, tombstone_seconds: seconds };
            self.tables.push(builder.finish(origin)?);
        }
        Ok(())
    }

    /// Makes them durable and part of the store; the bytes of their files. The log that holds their entries is durable up to `log_lsn`.
    pub fn ingest(mut self, log_lsn: Lsn) -> Result<u64> {
        self.end_table()?;
        if self.tables.is_empty() {
            return Ok(0);
        }
        self.store.core.table_store.sync_names()?;
        // From here on the store says what becomes of the files.
        self.is_ingested = true;
        self.store.ingest(&self.tables, log_lsn)?;
        Ok(self.tables.iter().map(|table| table.bytes).sum())
    }
}

impl Drop for NewTables<'_> {
    fn drop(&mut self) {
        if !self.is_ingested {
            self.tables.iter().for_each(|table| table.retire());
        }
    }
}
