//! The table store: where table files are made, opened and thrown away.
//!
//! A table that no version needs any more is *obsolete*. When its last reader lets go of it, its number goes on a list, and
//! [`TableStore::reclaim`] removes the file. So a file is never removed under a reader, and readers never remove files.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::{Table, TableBuilder, TableMeta, TableNumber};
use crate::disk::{Disk, Purpose, Space};
use crate::engine::lsm::Options;
use crate::engine::wal::Segment;
use crate::engine::{ClassMeter, CpuMeter, Error, Result, WakeSignal, WorkClass};

/// Memory that damaged tables may take beside what all tables may.
const REBUILT_BYTES: u64 = 4 << 20;

/// Table files of a store.
pub struct TableStore {
    disk: Arc<dyn Disk>,
    wake_signal: Arc<WakeSignal>,
    pub(super) options: Options,
    next_number: AtomicU64,
    /// Numbers and sizes of files that nobody reads any more.
    discarded: Mutex<Vec<(TableNumber, u64)>>,
    obsolete_bytes: AtomicU64,
    /// Memory of indexes, filters and lists of open tables.
    pinned_bytes: AtomicU64,
    /// Memory of open tables beside that.
    open_bytes: AtomicU64,
    /// Tables whose entries can be read, though a filter, an index or the footer is damaged, with the error of each.
    flaws: Mutex<BTreeMap<TableNumber, Error>>,
    cpu: CpuMeter,
    classes: ClassMeter,
}

impl TableStore {
    /// The tables of `disk`; new ones are numbered from `next_number`.
    pub fn new(
        disk: Arc<dyn Disk>,
        wake_signal: Arc<WakeSignal>,
        options: Options,
        next_number: TableNumber,
    ) -> Arc<TableStore> {
        Arc::new(TableStore {
            disk,
            wake_signal,
            options,
            next_number: AtomicU64::new(next_number.number()),
            discarded: Mutex::default(),
            obsolete_bytes: AtomicU64::new(0),
            pinned_bytes: AtomicU64::new(0),
            open_bytes: AtomicU64::new(0),
            flaws: Mutex::default(),
            cpu: CpuMeter::default(),
            classes: ClassMeter::default(),
        })
    }

    /// The number that the next table gets.
    pub fn next_number(&self) -> TableNumber {
        TableNumber::new(self.next_number.load(Relaxed))
    }

    /// Starts a new table, written for `purpose`, of the lowest level if `is_bottom`.
    pub fn create(self: &Arc<TableStore>, purpose: Purpose, is_bottom: bool) -> Result<TableBuilder> {
        let number = TableNumber::new(self.next_number.fetch_add(1, Relaxed));
        let name = number.file_name();
        let file = self.disk.create(&name).map_err(|error| Error::io(format!("making {name}"), error))?;
        let bottom = self.options.compression_bottom.filter(|_| is_bottom);
        let level = if let Purpose::Compact { into } = purpose { usize::from(into) } else { 0 };
        let compression = bottom.unwrap_or(self.options.compression.of(level));
        Ok(TableBuilder::new(self.clone(), purpose, compression, number, file))
    }

    /// Opens a table and checks its footer and its pinned indexes and filters, and that it agrees with `meta`; `segments` hold its values
    /// in the log.
    pub fn open(
        self: &Arc<TableStore>,
        purpose: Purpose,
        meta: &TableMeta,
        segments: Vec<Arc<Segment>>,
    ) -> Result<Arc<Table>> {
        let name = meta.number.file_name();
        match self.disk.open(&name) {
            Ok(file) => Ok(Arc::new(Table::open(purpose, meta, file, segments, self.clone())?)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err(Error::corrupt(name, 0, "the manifest names it, but it is not there"))
            }
            Err(error) => Err(Error::io(format!("opening {name}"), error)),
        }
    }

    /// Opens a table of the manifest when the store is opened. Damage is no reason to refuse: where the footer, a filter or an index does
    /// not check, its blocks are read all the same, and if those cannot be read either, only a caller that needs them gets an error.
    /// Also returns that error, if something cannot be read.
    pub fn open_around(
        self: &Arc<TableStore>,
        meta: &TableMeta,
        segments: Vec<Arc<Segment>>,
    ) -> Result<(Arc<Table>, Option<Error>)> {
        let error = match self.open(Purpose::Recovery, meta, segments.clone()) {
            Err(error) if error.is_damage() => error,
            other => return other.map(|table| (table, None)),
        };
        let file = self.disk.open(&meta.number.file_name()).ok();
        let rebuilt = file
            .and_then(|file| Table::rebuild(meta, file, segments.clone(), self.clone(), error.clone()).ok());
        Ok(match rebuilt {
            Some((table, gap)) => {
                if gap.is_none() {
                    self.note_flaw(meta.number, error);
                }
                (Arc::new(table), gap)
            }
            None => {
                let table = Table::lost(meta, segments, self.clone(), error.clone());
                (Arc::new(table), Some(error))
            }
        })
    }

    /// Notes that `error` keeps nobody from reading table `number`, which should be written anew.
    pub(super) fn note_flaw(&self, number: TableNumber, error: Error) {
        if let Entry::Vacant(place) = self.flaws.lock().entry(number) {
            log::warn!("{error}; all entries of the table are read without it, and it will be written anew");
            place.insert(error);
            self.wake_signal.notify(WorkClass::Merge);
        }
    }

    pub(super) fn forget_flaw(&self, number: TableNumber) {
        self.flaws.lock().remove(&number);
    }

    /// Tables of which a filter, an index or the footer is damaged, with the error of each.
    pub fn flaws(&self) -> Vec<(TableNumber, Error)> {
        self.flaws.lock().iter().map(|(number, error)| (*number, error.clone())).collect()
    }

    /// Makes the names of new tables durable.
    pub fn sync_names(&self) -> Result<()> {
        self.disk.sync_names().map_err(|error| Error::io("sync of the directory", error))
    }

    /// Removes every table file that `wanted` does not want: leftovers of work that did not end.
    pub fn remove_others(&self, wanted: impl Fn(TableNumber) -> bool) -> Result<()> {
        for info in self.disk.list().map_err(|error| Error::io("listing the store", error))? {
            if let Some(number) = TableNumber::of_file(&info.name)
                && !wanted(number)
            {
                self.remove(number);
            }
        }
        Ok(())
    }

    /// Asks for `bytes` of memory for an open table; `always` for what it cannot do without.
    pub(super) fn take_memory(&self, bytes: u64, always: bool) -> bool {
        let bytes_max = self.options.common.cache_bytes / 2;
        // Tables there are as many as there is data: for them the cache gives way, not what makes each of them fast.
        let take = |taken: u64| (always || taken + bytes <= bytes_max).then_some(taken + bytes);
        self.pinned_bytes.fetch_update(Relaxed, Relaxed, take).is_ok()
    }

    /// Whether `bytes` of memory for an open table could be had now.
    pub(super) fn has_memory(&self, bytes: u64) -> bool {
        self.pinned_bytes.load(Relaxed) + bytes <= self.options.common.cache_bytes / 2
    }

    /// Whether `bytes` could be had for the index of a damaged table, which has to be pinned.
    pub(super) fn has_memory_for_rebuilt(&self, bytes: u64) -> bool {
        self.pinned_bytes.load(Relaxed) + bytes <= self.options.common.cache_bytes / 2 + REBUILT_BYTES
    }

    /// Gives memory back.
    pub(super) fn give_memory(&self, bytes: u64) {
        self.pinned_bytes.fetch_sub(bytes, Relaxed);
    }

    /// Counts the memory of a table that was opened, whatever is pinned of it.
    pub(super) fn note_open(&self, bytes: u64) {
        self.open_bytes.fetch_add(bytes, Relaxed);
    }

    /// Counts it out when the table is closed.
    pub(super) fn note_closed(&self, bytes: u64) {
        self.open_bytes.fetch_sub(bytes, Relaxed);
    }

    /// Memory of open tables: of each itself, and of its pinned indexes and filters.
    pub fn pinned_bytes(&self) -> u64 {
        self.pinned_bytes.load(Relaxed) + self.open_bytes.load(Relaxed)
    }

    /// Counts a table's bytes as obsolete: no version needs it from now on.
    pub(super) fn retire(&self, bytes: u64) {
        self.obsolete_bytes.fetch_add(bytes, Relaxed);
    }

    /// Puts a table on the list of files to remove: its last reader is gone.
    pub(super) fn discard(&self, number: TableNumber, bytes: u64) {
        self.discarded.lock().push((number, bytes));
        self.wake_signal.notify(WorkClass::Reclaim);
    }

    /// Removes one file of the list; false if it was empty.
    pub fn reclaim(&self) -> bool {
        let Some((number, bytes)) = self.discarded.lock().pop() else { return false };
        self.remove(number);
        self.obsolete_bytes.fetch_sub(bytes, Relaxed);
        true
    }

    /// Removes a file. A failure costs only space: the next opening removes it again.
    pub(super) fn remove(&self, number: TableNumber) {
        if let Err(error) = self.disk.remove(&number.file_name())
            && error.kind() != std::io::ErrorKind::NotFound
        {
            log::warn!("removing {}: {error}", number.file_name());
        }
    }

    /// Measures what work on tables costs the processor.
    pub fn cpu(&self) -> &CpuMeter {
        &self.cpu
    }

    /// Counts the bytes of blocks that are written, by class of key.
    pub fn classes(&self) -> &ClassMeter {
        &self.classes
    }

    /// Bytes of obsolete tables that are not removed yet.
    pub fn obsolete_bytes(&self) -> u64 {
        self.obsolete_bytes.load(Relaxed)
    }

    /// Bytes and files that are free on the disk below.
    pub fn space(&self) -> Result<Space> {
        self.disk.space().map_err(|error| Error::io("reading free space", error))
    }
}

#[cfg(test)]
impl TableStore {
    /// A table of which there is nothing but its metadata.
    pub fn stub(meta: &TableMeta) -> Arc<Table> {
        let (disk, options) = (crate::disk::SimDisk::new(), Options::default());
        let table_store = TableStore::new(disk, Arc::new(WakeSignal::new()), options, TableNumber::default());
        Arc::new(Table::lost(meta, Vec::new(), table_store, Error::Invalid("a stub".to_string())))
    }
}
