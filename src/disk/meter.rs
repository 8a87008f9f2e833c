//! Door 3: counts what passes the disk, by purpose. A decorator; nobody else counts disk bytes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::{Disk, File, FileInfo, Purpose, Space};

/// Counters of one purpose. They only grow.
#[derive(Default)]
struct Slot {
    reads: AtomicU64,
    read_bytes: AtomicU64,
    writes: AtomicU64,
    write_bytes: AtomicU64,
    syncs: AtomicU64,
    errors: AtomicU64,
}

/// What one purpose did so far, as plain numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Read requests that succeeded.
    pub reads: u64,
    /// Bytes they filled.
    pub read_bytes: u64,
    /// Write requests that succeeded.
    pub writes: u64,
    /// Bytes they wrote.
    pub write_bytes: u64,
    /// Syncs that succeeded.
    pub syncs: u64,
    /// Requests of any kind that failed.
    pub errors: u64,
}

impl Counters {
    /// The growth from `earlier` to `self`.
    pub fn since(&self, earlier: &Counters) -> Counters {
        Counters {
            reads: self.reads.saturating_sub(earlier.reads),
            read_bytes: self.read_bytes.saturating_sub(earlier.read_bytes),
            writes: self.writes.saturating_sub(earlier.writes),
            write_bytes: self.write_bytes.saturating_sub(earlier.write_bytes),
            syncs: self.syncs.saturating_sub(earlier.syncs),
            errors: self.errors.saturating_sub(earlier.errors),
        }
    }

    /// The sum of both.
    pub fn plus(&self, other: &Counters) -> Counters {
        Counters {
            reads: self.reads + other.reads,
            read_bytes: self.read_bytes + other.read_bytes,
            writes: self.writes + other.writes,
            write_bytes: self.write_bytes + other.write_bytes,
            syncs: self.syncs + other.syncs,
            errors: self.errors + other.errors,
        }
    }
}

/// All purposes at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshot([Counters; Purpose::SLOTS]);

impl Snapshot {
    /// The counters of one purpose.
    pub fn of(&self, purpose: Purpose) -> Counters {
        self.0[purpose.slot()]
    }

    /// The sum over all purposes.
    pub fn total(&self) -> Counters {
        self.0.iter().fold(Counters::default(), |sum, counters| sum.plus(counters))
    }

    /// The growth from `earlier` to `self`, purpose by purpose.
    pub fn since(&self, earlier: &Snapshot) -> Snapshot {
        Snapshot(std::array::from_fn(|slot| self.0[slot].since(&earlier.0[slot])))
    }
}

type Slots = [Slot; Purpose::SLOTS];

/// A disk that counts what passes through it to `disk`.
pub struct Metered {
    disk: Arc<dyn Disk>,
    slots: Arc<Slots>,
}

impl Metered {
    /// Counts from zero what passes to `disk` from now on.
    pub fn new(disk: Arc<dyn Disk>) -> Arc<Metered> {
        Arc::new(Metered { disk, slots: Arc::new(std::array::from_fn(|_| Slot::default())) })
    }

    /// The counters now. Each is exact; together they may be a request apart while others work.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(std::array::from_fn(|index| {
            let slot = &self.slots[index];
            Counters {
                reads: slot.reads.load(Relaxed),
                read_bytes: slot.read_bytes.load(Relaxed),
                writes: slot.writes.load(Relaxed),
                write_bytes: slot.write_bytes.load(Relaxed),
                syncs: slot.syncs.load(Relaxed),
                errors: slot.errors.load(Relaxed),
            }
        }))
    }

    fn wrap(&self, file: io::Result<Arc<dyn File>>) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(MeteredFile { file: file?, slots: self.slots.clone() }))
    }
}

impl Disk for Metered {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.wrap(self.disk.create(name))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.wrap(self.disk.open(name))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn list(&self) -> io::Result<Vec<FileInfo>> {
        self.disk.list()
    }
    fn sync_names(&self) -> io::Result<()> {
        self.disk.sync_names()
    }
    fn space(&self) -> io::Result<Space> {
        self.disk.space()
    }
}

struct MeteredFile {
    file: Arc<dyn File>,
    slots: Arc<Slots>,
}

impl MeteredFile {
    fn count<T>(
        &self,
        purpose: Purpose,
        result: io::Result<T>,
        counter: fn(&Slot) -> &AtomicU64,
    ) -> io::Result<T> {
        let slot = &self.slots[purpose.slot()];
        if result.is_ok() { counter(slot) } else { &slot.errors }.fetch_add(1, Relaxed);
        result
    }
}

impl File for MeteredFile {
    fn read_at(&self, purpose: Purpose, offset: u64, target: &mut [u8]) -> io::Result<()> {
        self.count(purpose, self.file.read_at(purpose, offset, target), |slot| &slot.reads)?;
        self.slots[purpose.slot()].read_bytes.fetch_add(target.len() as u64, Relaxed);
        Ok(())
    }
    fn write_at(&self, purpose: Purpose, offset: u64, source: &[u8]) -> io::Result<()> {
        self.count(purpose, self.file.write_at(purpose, offset, source), |slot| &slot.writes)?;
        self.slots[purpose.slot()].write_bytes.fetch_add(source.len() as u64, Relaxed);
        Ok(())
    }
    fn write_pieces_at(&self, purpose: Purpose, offset: u64, pieces: &[&[u8]]) -> io::Result<()> {
        self.count(purpose, self.file.write_pieces_at(purpose, offset, pieces), |slot| &slot.writes)?;
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        self.slots[purpose.slot()].write_bytes.fetch_add(bytes as u64, Relaxed);
        Ok(())
    }
    fn sync(&self, purpose: Purpose) -> io::Result<()> {
        self.count(purpose, self.file.sync(purpose), |slot| &slot.syncs)
    }
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.file.set_size(bytes)
    }
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.file.allocate(bytes)
    }
}
