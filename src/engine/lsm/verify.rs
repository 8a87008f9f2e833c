//! Reads every block of every table of one version, a few mebibytes a step.
//!
//! Checked are: size and footer against the manifest; every index and filter; every block's checksum; that keys ascend; that the
//! filter knows every key; that every pointer leads to its value; that counts, sums, first and last key are what the footer says. That tables of a level do not
//! overlap is checked whenever a version is made.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cursor::{Cursor, Reading, RunCursor};
use super::run::Run;
use super::table::{ReadOptions, Table, TableMeta, TableStore, hash};
use super::value_log::StoredValue;
use super::version::Version;
use crate::disk::Purpose;
use crate::engine::{Error, KeyRange, Lsn, Result, Tier};

/// Key and value bytes read in one step.
const STEP_BYTES: u64 = 4 << 20;

/// Damaged tables that the error of a verification names beside the first.
const DAMAGE_NAMED_MAX: usize = 20;

/// A verification between two steps.
pub struct Verification {
    /// Not begun yet. Holding them keeps their files.
    tables: Vec<Arc<Table>>,
    current: Option<Progress>,
    /// First damage of each table that is done and damaged.
    damage: Vec<Error>,
}

/// Past every cache.
const DIRECT: ReadOptions<'static> =
    ReadOptions { cache: None, tier: Tier::Disk, purpose: Purpose::Verify, read_bytes: None };

struct Progress {
    table: Arc<Table>,
    /// The same table, read anew from the disk.
    fresh: Arc<Table>,
    cursor: Cursor,
    /// Metadata of the entries seen so far.
    seen: TableMeta,
    last_key: Vec<u8>,
    /// Bytes of values seen in each segment of the log.
    values: BTreeMap<Lsn, u64>,
}

impl Verification {
    /// Verifies the tables of `version`.
    pub fn new(version: &Version) -> Verification {
        let tables = version.tables().map(|(_, table)| table.clone()).collect();
        Verification { tables, current: None, damage: Vec::new() }
    }

    /// Reads on; true at the end of a sound store. Each table is read up to the first damage in it, and the error at the end names them
    /// all; any other error comes at once.
    pub fn step(&mut self, table_store: &Arc<TableStore>) -> Result<bool> {
        let mut bytes = 0;
        while bytes < STEP_BYTES {
            match self.read(table_store) {
                Ok(Some(read_bytes)) => bytes += read_bytes,
                Ok(None) => return self.all_damage().map_or(Ok(true), Err),
                Err(error) if error.is_damage() => {
                    self.current = None;
                    self.damage.push(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Checks an entry, or begins or ends a table; the bytes that it took, `None` when all tables are done.
    fn read(&mut self, table_store: &Arc<TableStore>) -> Result<Option<u64>> {
        let Some(progress) = &mut self.current else {
            let Some(table) = self.tables.pop() else { return Ok(None) };
            let fresh = table_store.open(Purpose::Verify, table.meta(), table.segments().to_vec())?;
            self.current = Some(Progress::new(fresh, table)?);
            return Ok(Some(0));
        };
        let read_bytes = progress.step()?.map(|bytes| bytes + 16);
        if read_bytes.is_none() {
            self.current = None;
        }
        Ok(Some(read_bytes.unwrap_or(0)))
    }

    /// Everything that is damaged, as one error: that of the first, which names the others.
    fn all_damage(&mut self) -> Option<Error> {
        let others: String =
            self.damage.iter().skip(1).take(DAMAGE_NAMED_MAX).map(|error| format!("; {error}")).collect();
        let more = match self.damage.len().saturating_sub(1 + DAMAGE_NAMED_MAX) {
            0 => String::new(),
            more => format!("; and {more} more like this"),
        };
        let first = self.damage.drain(..).next()?;
        Some(match first {
            Error::Corrupt { file, offset, what } => Error::corrupt(file, offset, what + &others + &more),
            Error::Io { context, source } => Error::Io { context: context + &others + &more, source },
            other => other,
        })
    }
}

impl Progress {
    /// Starts on `fresh`, which was just read from the disk; `kept` is the open table of the same file.
    fn new(fresh: Arc<Table>, kept: Arc<Table>) -> Result<Progress> {
        let reading = Reading::Direct(Purpose::Verify);
        let cursor = RunCursor::new(Run::one(fresh.clone()), KeyRange::ALL, reading)?;
        let seen = TableMeta {
            entries: 0,
            tombstones: 0,
            logical_bytes: 0,
            values: Arc::default(),
            ..kept.meta().clone()
        };
        Ok(Progress {
            table: kept,
            fresh,
            cursor: Cursor::Run(Box::new(cursor)),
            seen,
            last_key: Vec::new(),
            values: BTreeMap::new(),
        })
    }

    /// Checks one entry; its bytes, or `None` at the end of a sound table.
    fn step(&mut self) -> Result<Option<u64>> {
        let damaged = |what: &str| Error::corrupt(self.table.number.file_name(), 0, what);
        let Some(key) = self.cursor.key() else {
            self.seen.values = std::mem::take(&mut self.values).into_iter().collect();
            if self.seen != *self.table.meta() || self.last_key != self.table.largest {
                return Err(damaged("its entries are not what its footer says"));
            }
            return Ok(None);
        };
        if self.seen.entries == 0 && key != self.table.smallest {
            return Err(damaged("its first key is not what its footer says"));
        }
        if self.seen.entries > 0 && key <= &self.last_key[..] {
            return Err(damaged("its keys do not ascend"));
        }
        let partition = self.fresh.partition_of(key);
        if !self.fresh.may_contain(partition, hash(key), DIRECT)? {
            return Err(damaged("its filter does not know all its keys"));
        }
        let mut read_bytes = 0;
        if let Some(StoredValue::Pointer(pointer, segment)) = self.cursor.value() {
            pointer.fetch(segment, Purpose::Verify)?;
            *self.values.entry(segment.start()).or_default() += pointer.bytes;
            read_bytes = pointer.bytes;
        }
        let bytes = (key.len() + self.cursor.value().map_or(0, |value| value.len())) as u64;
        self.seen.entries += 1;
        self.seen.tombstones += u64::from(self.cursor.value().is_none());
        self.seen.logical_bytes += bytes;
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.cursor.advance()?;
        Ok(Some(bytes + read_bytes))
    }
}
