//! Spare files, for a disk that has room for bytes but for no more files.
//!
//! Many filesystems have a fixed number of inodes, and whoever has used the last one may be someone else. An engine that then cannot
//! make a file cannot even delete: a flush needs a new table, a mount a new manifest. So some empty files are kept: where no file can
//! be made, a spare one gets the name; and while some are missing, a file that is removed becomes one.
//!
//! # Invariants
//!
//! 1. A spare is an empty file `spare.N`. After a crash it may hold bytes that were meant for another name: they are cut off before it
//!    is used.
//! 2. A file that becomes a spare loses its bytes at once. Engines remove only what nobody reads any more.
//! 3. Spares are in no listing, and count as files that may still be made.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use parking_lot::Mutex;

use super::{Disk, File, FileInfo, Space};

const PREFIX: &str = "spare.";

/// A disk that keeps spare files on `disk`.
pub struct Stock {
    disk: Arc<dyn Disk>,
    state: Mutex<State>,
    /// The disk below had no file left when one was last made.
    is_short: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Numbers of the spares.
    spares: Vec<u64>,
    next_number: u64,
    /// Number of spare files to keep.
    wanted: usize,
}

fn spare_name(number: u64) -> String {
    format!("{PREFIX}{number}")
}

fn spare_number(name: &str) -> Option<u64> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

/// Whether no file can be made for want of an inode, or of the space for one.
fn is_out_of_files(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Stock {
    /// The spares that are there; no more are made before [`Stock::keep`].
    pub fn new(disk: Arc<dyn Disk>) -> io::Result<Arc<Stock>> {
        let mut state = State::default();
        for info in disk.list()? {
            let Some(number) = spare_number(&info.name) else { continue };
            state.next_number = state.next_number.max(number.saturating_add(1));
            // What cannot be opened or cut is no spare, and harms nobody.
            let cut = || disk.open(&info.name)?.set_size(0);
            if info.bytes == 0 || cut().is_ok() {
                state.spares.push(number);
            }
        }
        state.wanted = state.spares.len();
        Ok(Arc::new(Stock { disk, state: Mutex::new(state), is_short: AtomicBool::new(false) }))
    }

    /// Keeps `count` spares from now on, where the disk below counts its files. That there are fewer for want of files is no error.
    pub fn keep(&self, count: u64) -> io::Result<()> {
        let is_counted = self.disk.space()?.total_files > 0;
        self.state.lock().wanted = if is_counted { usize::try_from(count).unwrap_or(0) } else { 0 };
        let mut has_changed = false;
        while let Some(number) = self.surplus() {
            self.disk.remove(&spare_name(number))?;
            has_changed = true;
        }
        while self.add_one()? {
            has_changed = true;
        }
        if has_changed { self.disk.sync_names() } else { Ok(()) }
    }

    /// Spares that there are.
    pub fn spares(&self) -> u64 {
        self.state.lock().spares.len() as u64
    }

    /// Takes one out that is more than are wanted.
    fn surplus(&self) -> Option<u64> {
        let mut state = self.state.lock();
        if state.spares.len() > state.wanted { state.spares.pop() } else { None }
    }

    /// The number of a spare to be, if one is missing.
    fn missing(&self) -> Option<u64> {
        let mut state = self.state.lock();
        if state.spares.len() >= state.wanted {
            return None;
        }
        state.next_number += 1;
        Some(state.next_number - 1)
    }

    /// Makes a spare if one is missing; whether one was made.
    fn add_one(&self) -> io::Result<bool> {
        let Some(number) = self.missing() else { return Ok(false) };
        match self.disk.create(&spare_name(number)) {
            Ok(_) => {
                self.state.lock().spares.push(number);
                Ok(true)
            }
            Err(error) if is_out_of_files(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A spare under the new name `name`; `None` if there is none that can be used.
    fn take(&self, name: &str) -> Option<Arc<dyn File>> {
        loop {
            let spare = spare_name(self.state.lock().spares.pop()?);
            let taken = self.disk.open(&spare).and_then(|file| {
                if file.size()? > 0 {
                    file.set_size(0)?;
                }
                self.disk.rename(&spare, name)?;
                Ok(file)
            });
            match taken {
                Ok(file) => return Some(file),
                Err(error) => log::warn!("using {spare}: {error}"),
            }
        }
    }

    /// Makes a spare of a file, if one is missing and it can be done; whether it was.
    fn recycle(&self, name: &str) -> bool {
        let Some(number) = self.missing() else { return false };
        let empty = self.disk.open(name).and_then(|file| file.set_size(0));
        let is_one = empty.and_then(|()| self.disk.rename(name, &spare_name(number))).is_ok();
        if is_one {
            self.state.lock().spares.push(number);
        }
        is_one
    }

    /// Says so once when files run out, and when there are some again.
    fn note(&self, is_short: bool) {
        if self.is_short.swap(is_short, Relaxed) != is_short {
            if is_short {
                log::error!(
                    "no inode is left on the disk below (df -i): {} spare files serve deletes and merges, new data is refused",
                    self.spares()
                );
            } else {
                log::info!("the disk below has inodes again");
            }
        }
    }
}

impl Disk for Stock {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        match self.disk.create(name) {
            Err(error) if is_out_of_files(&error) => {
                self.note(true);
                self.take(name).ok_or(error)
            }
            made => {
                if made.is_ok() && self.is_short.load(Relaxed) && self.add_one().is_ok_and(|added| added) {
                    self.note(false);
                }
                made
            }
        }
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.disk.open(name)
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)?;
        // The file that had the name has gone, and left an inode. Without it the next one will do.
        let _ = self.add_one();
        Ok(())
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        if self.recycle(name) { Ok(()) } else { self.disk.remove(name) }
    }
    fn list(&self) -> io::Result<Vec<FileInfo>> {
        let mut files = self.disk.list()?;
        files.retain(|info| spare_number(&info.name).is_none());
        Ok(files)
    }
    fn sync_names(&self) -> io::Result<()> {
        self.disk.sync_names()
    }
    fn space(&self) -> io::Result<Space> {
        let space = self.disk.space()?;
        Ok(Space { free_files: space.free_files + self.spares(), ..space })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Purpose, SimDisk, read_all};

    fn used(disk: &SimDisk) -> u64 {
        disk.list().unwrap().len() as u64
    }

    #[test]
    fn spares_serve_where_no_file_can_be_made_and_removed_files_become_spares() {
        let sim = SimDisk::new();
        sim.set_files_max(Some(100));
        let stock = Stock::new(sim.clone()).unwrap();
        stock.keep(3).unwrap();
        stock.create("a").unwrap().write_at(Purpose::Wal, 0, &[7; 5000]).unwrap();
        assert_eq!((used(&sim), stock.list().unwrap().len(), stock.space().unwrap().free_files), (4, 1, 99));
        // Others take the rest.
        sim.set_files_max(Some(4));
        for name in ["b", "c", "d"] {
            assert!(stock.create("a").is_err(), "a name that is taken");
            let file = stock.create(name).unwrap();
            file.write_at(Purpose::Wal, 0, name.as_bytes()).unwrap();
        }
        assert_eq!(stock.create("e").err().map(|error| error.kind()), Some(io::ErrorKind::StorageFull));
        assert_eq!(stock.space().unwrap().free_files, 0);
        for name in ["a", "b", "c"] {
            stock.remove(name).unwrap();
        }
        assert!(stock.remove("a").is_err());
        assert_eq!((used(&sim), stock.spares()), (4, 3));
        assert_eq!(read_all(&*stock.create("e").unwrap(), Purpose::Wal).unwrap(), b"");
        // With files to be had again the stock is filled, and what is removed is removed.
        sim.set_files_max(Some(100));
        drop((stock.create("f").unwrap(), stock.create("g").unwrap()));
        assert_eq!(stock.spares(), 3);
        stock.remove("f").unwrap();
        assert_eq!((used(&sim), stock.spares()), (6, 3));
        // It is found again, whatever a crash has left in it.
        stock.remove("e").unwrap();
        sim.open("spare.2").or_else(|_| sim.open("spare.3")).unwrap().set_size(77).unwrap();
        let again = Stock::new(sim.clone()).unwrap();
        assert_eq!(again.spares(), 3);
        assert!(sim.list().unwrap().iter().all(|info| info.bytes < 77));
        again.keep(1).unwrap();
        assert_eq!((again.spares(), used(&sim)), (1, 3));
    }

    #[test]
    fn a_replaced_file_leaves_a_spare() {
        let sim = SimDisk::new();
        sim.set_files_max(Some(2));
        let stock = Stock::new(sim.clone()).unwrap();
        stock.create("a").unwrap();
        stock.keep(1).unwrap();
        for _ in 0..5 {
            stock.create("a.new").unwrap();
            stock.rename("a.new", "a").unwrap();
            assert_eq!(stock.spares(), 1);
        }
    }

    #[test]
    fn where_files_are_not_counted_none_are_kept() {
        let sim = SimDisk::new();
        let stock = Stock::new(sim.clone()).unwrap();
        stock.keep(9).unwrap();
        assert_eq!((used(&sim), stock.space().unwrap().room_files()), (0, u64::MAX));
    }
}
