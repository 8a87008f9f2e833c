//! Door 3: counts what passes the disk, by purpose. A decorator; nobody else counts disk bytes.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::{Descriptor, Disk, File, FileInfo, Purpose, Space};
use crate::base::metric::{Each, metrics};

metrics! {
    /// Requests of one purpose so far.
    #[derive(Copy, Eq)]
    pub struct Counters counted by Slot witness "kvfs::disk::meter::tests::requests_are_counted_by_purpose_and_outcome" {
        /// Write requests that succeeded.
        counter writes: u64 [Count, family "kvfs_disk_writes_total"];
        /// Bytes written by these requests.
        counter write_bytes: u64 [Bytes, family "kvfs_bytes_written_total"];
        /// Read requests that succeeded.
        counter reads: u64 [Count, family "kvfs_disk_reads_total"];
        /// Bytes read by these requests.
        counter read_bytes: u64 [Bytes, family "kvfs_bytes_read_total"];
        /// Syncs of files that succeeded.
        counter syncs: u64 [Count, family "kvfs_disk_syncs_total"];
        /// Requests of any kind that failed.
        counter errors: u64 [Count, family "kvfs_disk_errors_total"];
        derived {
            /// Mean size of a write request; null without any.
            mean_write_bytes: Option<u64> [Bytes, witness "stats::derived::quotients_divide_what_they_say"] = |counters| counters.write_bytes.checked_div(counters.writes);
            /// Mean size of a read request; null without any.
            mean_read_bytes: Option<u64> [Bytes, witness "stats::derived::quotients_divide_what_they_say"] = |counters| counters.read_bytes.checked_div(counters.reads);
        }
    }
}

/// All purposes at one moment.
pub type DiskCounters = Each<Purpose, Counters, { Purpose::SLOTS }>;

/// Counters of every purpose, for a door of another kind: where what is written and read is no file of a [`Disk`].
pub struct PurposeMeter([Slot; Purpose::SLOTS]);

impl Default for PurposeMeter {
    fn default() -> PurposeMeter {
        PurposeMeter(std::array::from_fn(|_| Slot::default()))
    }
}

impl PurposeMeter {
    /// Counts a write of so many bytes that succeeded.
    pub fn wrote(&self, purpose: Purpose, bytes: u64) {
        let slot = self.slot(purpose);
        slot.writes.fetch_add(1, Relaxed);
        slot.write_bytes.fetch_add(bytes, Relaxed);
    }

    /// Counts a read of so many bytes that succeeded.
    pub fn read(&self, purpose: Purpose, bytes: u64) {
        let slot = self.slot(purpose);
        slot.reads.fetch_add(1, Relaxed);
        slot.read_bytes.fetch_add(bytes, Relaxed);
    }

    /// Counts a request that failed.
    pub fn failed(&self, purpose: Purpose) {
        self.slot(purpose).errors.fetch_add(1, Relaxed);
    }

    /// The counters now. Each is exact; together they may be a request apart while others work.
    pub fn snapshot(&self) -> DiskCounters {
        DiskCounters::from_fn(|slot| self.0[slot].snapshot())
    }

    fn slot(&self, purpose: Purpose) -> &Slot {
        &self.0[purpose.slot()]
    }
}

/// A disk that counts what passes through it to `disk`.
pub struct Metered {
    disk: Arc<dyn Disk>,
    meter: Arc<PurposeMeter>,
}

impl Metered {
    /// Counts from zero what passes to `disk` from now on.
    pub fn new(disk: Arc<dyn Disk>) -> Arc<Metered> {
        Arc::new(Metered { disk, meter: Arc::default() })
    }

    /// The counters now. Each is exact; together they may be a request apart while others work.
    pub fn snapshot(&self) -> DiskCounters {
        self.meter.snapshot()
    }

    fn wrap(&self, file: io::Result<Arc<dyn File>>) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(MeteredFile { file: file?, meter: self.meter.clone() }))
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
    meter: Arc<PurposeMeter>,
}

impl MeteredFile {
    fn count(
        &self,
        purpose: Purpose,
        result: io::Result<()>,
        count: impl FnOnce(&PurposeMeter),
    ) -> io::Result<()> {
        match &result {
            Ok(()) => count(&self.meter),
            Err(_) => self.meter.failed(purpose),
        }
        result
    }
}

impl File for MeteredFile {
    fn read_at(&self, purpose: Purpose, offset: u64, target: &mut [u8]) -> io::Result<()> {
        let read = self.file.read_at(purpose, offset, target);
        self.count(purpose, read, |meter| meter.read(purpose, target.len() as u64))
    }
    fn write_at(&self, purpose: Purpose, offset: u64, source: &[u8]) -> io::Result<()> {
        let written = self.file.write_at(purpose, offset, source);
        self.count(purpose, written, |meter| meter.wrote(purpose, source.len() as u64))
    }
    fn write_pieces_at(&self, purpose: Purpose, offset: u64, pieces: &[&[u8]]) -> io::Result<()> {
        let bytes: usize = pieces.iter().map(|piece| piece.len()).sum();
        let written = self.file.write_pieces_at(purpose, offset, pieces);
        self.count(purpose, written, |meter| meter.wrote(purpose, bytes as u64))
    }
    fn sync(&self, purpose: Purpose) -> io::Result<()> {
        let synced = self.file.sync(purpose);
        self.count(purpose, synced, |meter| _ = meter.slot(purpose).syncs.fetch_add(1, Relaxed))
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
    fn with_descriptor(&self, look: &mut dyn FnMut(Descriptor<'_>)) -> io::Result<()> {
        self.file.with_descriptor(look)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Fault, Faulty, Request, SimDisk};

    #[test]
    fn requests_are_counted_by_purpose_and_outcome() {
        let faulty = Faulty::new(SimDisk::new());
        let metered = Metered::new(faulty.clone());
        let file = metered.create("a").unwrap();
        file.write_at(Purpose::Wal, 0, &[1; 700]).unwrap();
        file.write_pieces_at(Purpose::Wal, 700, &[&[2; 30], &[3; 5]]).unwrap();
        file.write_at(Purpose::Flush, 0, &[4; 10]).unwrap();
        file.read_at(Purpose::Get, 0, &mut [0; 600]).unwrap();
        file.sync(Purpose::Wal).unwrap();
        for kind in [Request::Write, Request::Read, Request::Sync] {
            faulty.inject(Fault::Fail {
                kind: Some(kind),
                purpose: Some(Purpose::Scan),
                nth: 0,
                errno: libc::EIO,
            });
        }
        file.write_at(Purpose::Scan, 0, &[5; 10]).unwrap_err();
        file.read_at(Purpose::Scan, 0, &mut [0; 10]).unwrap_err();
        file.sync(Purpose::Scan).unwrap_err();
        let counted = metered.snapshot();
        let none = Counters::default();
        assert_eq!(counted.of(Purpose::Wal), Counters { writes: 2, write_bytes: 735, syncs: 1, ..none });
        assert_eq!(counted.of(Purpose::Flush), Counters { writes: 1, write_bytes: 10, ..none });
        assert_eq!(counted.of(Purpose::Get), Counters { reads: 1, read_bytes: 600, ..none });
        // What failed has moved nothing.
        assert_eq!(counted.of(Purpose::Scan), Counters { errors: 3, ..none });
        let sum = counted.of(Purpose::Wal) + counted.of(Purpose::Flush) + counted.of(Purpose::Get);
        assert_eq!(counted.total(), sum + counted.of(Purpose::Scan));
    }
}
