//! Ballast: space of the reserve that other programs cannot take, allocated in a file of its own.
//!
//! Free space of the disk below can be taken by any program. So a part of the reserve is allocated for a file without content: it is freed
//! piece by piece when work that gives space back finds none, and allocated again once there is enough.
//!
//! # Invariants
//!
//! 1. Its bytes count as free space when new data is admitted. So only bytes count that the disk has really reserved: on a filesystem that
//!    grows the file without reserving space for it (ext2) there is no ballast.
//! 2. Without the file, or if it cannot be changed, everything works as without ballast.
//! 3. The allocation is not made durable: nothing depends on it, and after a power cut the next opening allocates what is missing, if there
//!    is room.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::{Mutex, MutexGuard};

use crate::disk::{Disk, File, Space};
use crate::engine::is_short_of_files;

/// Name of the file.
pub const NAME: &str = "ballast";
/// The ballast grows and shrinks in multiples of this.
const STEP_BYTES: u64 = 4 << 10;
/// Share of the free space that is left when the ballast grows, one part in so many: filesystems need blocks for their own records.
const LEFT_SHARE: u64 = 8;

/// The ballast of one store.
pub struct Ballast {
    disk: Arc<dyn Disk>,
    file: Mutex<Handle>,
    bytes: AtomicU64,
}

/// The file, and what is known of it.
#[derive(Default)]
struct Handle {
    file: Option<Arc<dyn File>>,
    /// Whether the disk reserves the space that is allocated for the file, once that is known.
    is_solid: Option<bool>,
}

/// Bytes that the disk has reserved for the file.
fn taken_bytes(disk: &dyn Disk) -> io::Result<u64> {
    let files = disk.list()?;
    let found = files.iter().find(|info| info.name == NAME);
    Ok(found.map_or(0, |info| info.bytes.min(info.bytes_allocated)))
}

impl Ballast {
    /// Opens the ballast on `disk`, whether its file exists or not.
    pub fn open(disk: Arc<dyn Disk>) -> Ballast {
        let found = disk.open(NAME).and_then(|file| Ok((taken_bytes(&*disk)?, file)));
        let (bytes, file) = match found {
            Ok((bytes, file)) => (bytes, Some(file)),
            Err(error) => {
                if error.kind() != io::ErrorKind::NotFound {
                    log::warn!("opening {NAME}: {error}");
                }
                (0, None)
            }
        };
        let handle = Handle { file, is_solid: None };
        Ballast { disk, file: Mutex::new(handle), bytes: AtomicU64::new(bytes) }
    }

    /// Bytes of the ballast.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Frees `bytes`, or the rest. True if any were freed.
    pub fn give(&self, bytes: u64) -> bool {
        self.cut(&self.file.lock(), bytes)
    }

    fn cut(&self, handle: &MutexGuard<'_, Handle>, bytes: u64) -> bool {
        let held_bytes = self.bytes();
        let left_bytes = held_bytes.saturating_sub(bytes) / STEP_BYTES * STEP_BYTES;
        let Some(file) = handle.file.as_ref().filter(|_| held_bytes > 0) else { return false };
        match file.set_size(left_bytes) {
            Ok(()) => {
                self.bytes.store(left_bytes, Relaxed);
                true
            }
            Err(error) => {
                log::warn!("cutting {NAME}: {error}");
                false
            }
        }
    }

    /// Grows the ballast to `wanted_bytes`, as far as `space` has room beside `owed_bytes` that are still to be written; shrinks it if it is much
    /// larger than that.
    pub fn keep(&self, wanted_bytes: u64, owed_bytes: u64, space: &Space) {
        let mut handle = self.file.lock();
        let held_bytes = self.bytes();
        if held_bytes / 2 > wanted_bytes {
            self.cut(&handle, held_bytes - wanted_bytes);
            return;
        }
        // If the free space is unknown, none is taken.
        let free_bytes = if space.total_bytes == 0 { 0 } else { space.free_bytes };
        let room_bytes = free_bytes.saturating_sub(owed_bytes);
        let most_bytes = held_bytes + (room_bytes - room_bytes / LEFT_SHARE);
        let bytes = wanted_bytes.min(most_bytes) / STEP_BYTES * STEP_BYTES;
        if bytes <= held_bytes || handle.is_solid == Some(false) {
            return;
        }
        if handle.file.is_none() && !is_short_of_files(space) {
            handle.file = self.disk.create(NAME).ok();
        }
        let Some(file) = handle.file.clone() else { return };
        if file.allocate(bytes).is_err() {
            return;
        }
        if handle.is_solid.is_none() {
            handle.is_solid = taken_bytes(&*self.disk).ok().map(|taken_bytes| taken_bytes >= bytes);
        }
        if handle.is_solid == Some(true) {
            self.bytes.store(bytes, Relaxed);
            return;
        }
        *handle = Handle { file: None, is_solid: Some(false) };
        self.bytes.store(0, Relaxed);
        if let Err(error) = self.disk.remove(NAME) {
            log::warn!("removing {NAME}, for which the disk below sets no space aside: {error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Fault, Faulty, Overlay, Request, SimDisk};

    #[test]
    fn it_is_given_up_and_taken_again_and_found_by_the_next() {
        let disk = SimDisk::new();
        disk.set_capacity(Some(1 << 20));
        let ballast = Ballast::open(disk.clone());
        let keep = |wanted, owed| ballast.keep(wanted, owed, &disk.space().unwrap());
        assert!(!ballast.give(1), "there is none");
        keep(256 << 10, 0);
        let free = || disk.space().unwrap().free_bytes;
        assert_eq!((ballast.bytes(), free()), (256 << 10, 768 << 10));
        // What is owed is left alone, and a part of the rest.
        keep(1 << 20, 512 << 10);
        assert_eq!(ballast.bytes(), (256 << 10) + (224 << 10));
        assert!(ballast.give(100_000));
        assert_eq!(ballast.bytes(), 380 << 10, "in whole steps");
        assert_eq!(Ballast::open(disk.clone()).bytes(), 380 << 10);
        assert!(ballast.give(u64::MAX) && !ballast.give(1));
        assert_eq!(free(), 1 << 20);
        keep(512 << 10, 0);
        keep(100 << 10, 0);
        assert_eq!(ballast.bytes(), 100 << 10, "no more than is wanted");
        // Nothing is taken where there is nothing, or nobody knows.
        disk.set_capacity(Some(64 << 10));
        keep(512 << 10, 0);
        ballast.keep(512 << 10, 0, &Space::default());
        assert_eq!(ballast.bytes(), 100 << 10);
    }

    #[test]
    fn a_file_that_cannot_be_changed_is_as_it_was() {
        let sim = SimDisk::new();
        sim.set_capacity(Some(1 << 20));
        let disk = Faulty::new(sim.clone());
        let ballast = Ballast::open(disk.clone());
        let fail =
            |kind| disk.inject(Fault::Fail { kind: Some(kind), purpose: None, nth: 0, errno: libc::EIO });
        let keep = |wanted| ballast.keep(wanted, 0, &sim.space().unwrap());
        fail(Request::Allocate);
        keep(128 << 10);
        assert_eq!(ballast.bytes(), 0);
        keep(128 << 10);
        fail(Request::Allocate);
        keep(256 << 10);
        assert_eq!(ballast.bytes(), 128 << 10);
        fail(Request::SetSize);
        assert!(!ballast.give(4096));
        assert_eq!(ballast.bytes(), sim.open(NAME).unwrap().size().unwrap());
        assert!(ballast.give(4096));
        assert_eq!(ballast.bytes(), 124 << 10);
    }

    #[test]
    fn where_the_disk_sets_nothing_aside_there_is_none() {
        let below = SimDisk::new();
        below.set_capacity(Some(1 << 20));
        // What is changed in memory takes no space below.
        let disk = Overlay::new(below.clone());
        let ballast = Ballast::open(disk.clone());
        ballast.keep(256 << 10, 0, &disk.space().unwrap());
        assert_eq!((ballast.bytes(), disk.list().unwrap().len()), (0, 0));
        assert!(!ballast.give(1));
        // One that holds less than it says counts as what it holds.
        Ballast::open(below.clone()).keep(128 << 10, 0, &below.space().unwrap());
        let disk = Overlay::new(below.clone());
        disk.open(NAME).unwrap().set_size(512 << 10).unwrap();
        assert_eq!(Ballast::open(disk).bytes(), 128 << 10);
    }
}
