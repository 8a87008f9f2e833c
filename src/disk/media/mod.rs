//! Models of what may lie below a disk: flash, and a disk with an arm. Both are told the same, for comparisons.
//!
//! A cache of the host lies between: a page that is written several times before its file is synced is written below once, and a file's pages go there
//! in their order. A part of a page is a page.

mod arm;
mod flash;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Descriptor, Disk, File, FileInfo, Purpose, Space};
use crate::base::metric::Since;
use arm::Arm;
pub use arm::ArmCounters;
use flash::Drive;
pub use flash::FlashCounters;

/// Bytes of a page.
pub const PAGE_BYTES: u64 = 4096;

/// A page of a file: the file's number, from 1, and the page's.
type FilePage = (u64, u64);

/// What the models have counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MediaCounters {
    /// Flash.
    pub flash: FlashCounters,
    /// The arm.
    pub arm: ArmCounters,
}

impl Since for MediaCounters {
    fn since(&self, earlier: &MediaCounters) -> MediaCounters {
        MediaCounters { flash: self.flash.since(&earlier.flash), arm: self.arm.since(&earlier.arm) }
    }
}

/// Files by name, what the host's cache has of them, and the models below.
#[derive(Default)]
struct Model {
    flash: Drive,
    arm: Arm,
    /// Pages that are not written below yet.
    cached: BTreeSet<FilePage>,
    numbers: HashMap<String, u64>,
    next: u64,
}

impl Model {
    fn number(&mut self, name: &str) -> u64 {
        *self.numbers.entry(name.to_string()).or_insert_with(|| {
            self.next += 1;
            self.next
        })
    }

    fn forget(&mut self, name: &str) {
        if let Some(number) = self.numbers.remove(name) {
            self.cut(number, 0);
        }
    }

    /// Writes below what the cache has of a file.
    fn sync(&mut self, file: u64) {
        let cached: Vec<FilePage> = self.cached.range((file, 0)..=(file, u64::MAX)).copied().collect();
        for page in cached {
            self.cached.remove(&page);
            self.flash.program(page);
            self.arm.write(page);
        }
    }

    /// The file ends before the page `first`.
    fn cut(&mut self, file: u64, first: u64) {
        self.cached.retain(|page| page.0 != file || page.1 < first);
        self.flash.cut(file, first);
    }
}

/// A disk with the models below it. What passes, passes unchanged.
pub struct Media {
    disk: Arc<dyn Disk>,
    model: Arc<Mutex<Model>>,
}

impl Media {
    /// The models below `disk`, whose files are not there until they are written.
    pub fn new(disk: Arc<dyn Disk>) -> Arc<Media> {
        Arc::new(Media { disk, model: Arc::default() })
    }

    /// What they have counted so far.
    pub fn counters(&self) -> MediaCounters {
        let model = self.model.lock();
        MediaCounters { flash: model.flash.counters, arm: model.arm.counters }
    }

    fn wrap(&self, name: &str, file: Arc<dyn File>) -> Arc<dyn File> {
        let number = self.model.lock().number(name);
        Arc::new(MediaFile { file, number, model: self.model.clone() })
    }
}

impl Disk for Media {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = self.disk.create(name)?;
        self.model.lock().forget(name);
        Ok(self.wrap(name, file))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(name, self.disk.open(name)?))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)?;
        let mut model = self.model.lock();
        model.forget(to);
        if let Some(number) = model.numbers.remove(from) {
            model.numbers.insert(to.to_string(), number);
        }
        Ok(())
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)?;
        self.model.lock().forget(name);
        Ok(())
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

struct MediaFile {
    file: Arc<dyn File>,
    number: u64,
    model: Arc<Mutex<Model>>,
}

impl MediaFile {
    fn note(&self, offset: u64, bytes: u64) {
        let pages = offset / PAGE_BYTES..(offset + bytes).div_ceil(PAGE_BYTES);
        self.model.lock().cached.extend(pages.map(|page| (self.number, page)));
    }
}

impl File for MediaFile {
    fn read_at(&self, purpose: Purpose, offset: u64, target: &mut [u8]) -> io::Result<()> {
        self.file.read_at(purpose, offset, target)
    }
    fn write_at(&self, purpose: Purpose, offset: u64, source: &[u8]) -> io::Result<()> {
        self.file.write_at(purpose, offset, source)?;
        self.note(offset, source.len() as u64);
        Ok(())
    }
    fn write_pieces_at(&self, purpose: Purpose, offset: u64, pieces: &[&[u8]]) -> io::Result<()> {
        self.file.write_pieces_at(purpose, offset, pieces)?;
        self.note(offset, pieces.iter().map(|piece| piece.len() as u64).sum());
        Ok(())
    }
    fn sync(&self, purpose: Purpose) -> io::Result<()> {
        self.file.sync(purpose)?;
        self.model.lock().sync(self.number);
        Ok(())
    }
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.file.set_size(bytes)?;
        self.model.lock().cut(self.number, bytes.div_ceil(PAGE_BYTES));
        Ok(())
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
    use crate::disk::SimDisk;

    #[test]
    fn a_page_is_written_once_a_sync_and_what_is_removed_costs_nothing_more() {
        let media = Media::new(SimDisk::new());
        let file = media.create("log").unwrap();
        for nth in 0..100 {
            file.write_at(Purpose::Wal, nth * 10, &[1; 10]).unwrap();
        }
        assert_eq!(media.counters(), MediaCounters::default());
        file.sync(Purpose::Wal).unwrap();
        file.sync(Purpose::Wal).unwrap();
        let counters = media.counters();
        assert_eq!((counters.flash.host_pages, counters.flash.bytes()), (1, 4096));
        assert_eq!((counters.arm.seeks, counters.arm.pages), (1, 1));
        file.write_at(Purpose::Wal, 4000, &[1; 200]).unwrap();
        file.sync(Purpose::Wal).unwrap();
        let counters = media.counters();
        assert_eq!((counters.flash.host_pages, counters.arm.seeks, counters.arm.pages), (3, 2, 3));
        // Pages that were written in any order go below in theirs.
        for page in [30, 10, 20, 11, 31, 12] {
            file.write_at(Purpose::Wal, page * PAGE_BYTES, &[1; 10]).unwrap();
        }
        file.sync(Purpose::Wal).unwrap();
        let arm = media.counters().arm.since(&counters.arm);
        assert_eq!((arm.seeks, arm.pages), (3, 6));
        // Files that come and go whole, the oldest first.
        let before = media.counters();
        for number in 0..200u32 {
            let table = media.create("table.new").unwrap();
            table.write_at(Purpose::Flush, 0, &vec![3; 64 * PAGE_BYTES as usize]).unwrap();
            table.sync(Purpose::Flush).unwrap();
            media.rename("table.new", &format!("table.{}", number % 32)).unwrap();
        }
        let MediaCounters { flash, arm } = media.counters().since(&before);
        assert_eq!((flash.host_pages, arm.seeks, arm.pages), (200 * 64, 200, 200 * 64));
        assert!(flash.erased_blocks > 100 && flash.moved_pages <= flash.host_pages / 50, "{flash:?}");
        // What is cut before it was synced is never written.
        file.write_at(Purpose::Wal, 0, &[1; 10]).unwrap();
        file.set_size(0).unwrap();
        let before = media.counters();
        file.sync(Purpose::Wal).unwrap();
        assert_eq!(media.counters(), before);
    }
}
