//! A disk whose syncs do nothing: for counting what is written, and how often a sync would be asked for, without waiting for
//! the device. Nothing on it survives a power failure.

use std::io;
use std::sync::Arc;

use crate::disk::{Disk, File, FileInfo, Purpose, Space};

/// `disk` without its syncs.
pub struct Unsynced(Arc<dyn Disk>);

impl Unsynced {
    /// Passes everything but syncs to `disk`.
    pub fn new(disk: Arc<dyn Disk>) -> Arc<Unsynced> {
        Arc::new(Unsynced(disk))
    }
}

impl Disk for Unsynced {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(UnsyncedFile(self.0.create(name)?)))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(UnsyncedFile(self.0.open(name)?)))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.0.remove(name)
    }
    fn list(&self) -> io::Result<Vec<FileInfo>> {
        self.0.list()
    }
    fn sync_names(&self) -> io::Result<()> {
        Ok(())
    }
    fn space(&self) -> io::Result<Space> {
        self.0.space()
    }
}

struct UnsyncedFile(Arc<dyn File>);

impl File for UnsyncedFile {
    fn read_at(&self, purpose: Purpose, offset: u64, target: &mut [u8]) -> io::Result<()> {
        self.0.read_at(purpose, offset, target)
    }
    fn write_at(&self, purpose: Purpose, offset: u64, source: &[u8]) -> io::Result<()> {
        self.0.write_at(purpose, offset, source)
    }
    fn write_pieces_at(&self, purpose: Purpose, offset: u64, pieces: &[&[u8]]) -> io::Result<()> {
        self.0.write_pieces_at(purpose, offset, pieces)
    }
    fn sync(&self, _: Purpose) -> io::Result<()> {
        Ok(())
    }
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.0.set_size(bytes)
    }
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.0.allocate(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Metered, SimDisk};

    #[test]
    fn syncs_stay_above_and_bytes_go_below() {
        let below = Metered::new(SimDisk::new());
        let above = Metered::new(Unsynced::new(below.clone()));
        let file = above.create("a").unwrap();
        file.write_at(Purpose::Wal, 0, b"hello").unwrap();
        file.sync(Purpose::Wal).unwrap();
        let (above, below) = (above.snapshot().total(), below.snapshot().total());
        assert_eq!((above.syncs, above.write_bytes), (1, 5));
        assert_eq!((below.syncs, below.write_bytes), (0, 5));
    }
}
