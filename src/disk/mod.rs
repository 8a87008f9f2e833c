//! The disk room: one flat directory of named files behind a small trait, and nothing else of the
//! operating system's files. Every byte that passes states its [`Purpose`].
//!
//! # The durability contract
//!
//! - Until [`File::sync`] returns, any subset of the writes to that file may survive a crash, each whole,
//!   absent or torn; the same holds for changes of its size. Of a torn write each sector, of 512 or of 4096 bytes, may be as it was, as
//!   it shall be, or nonsense, but no byte beside the write changes.
//! - Until [`Disk::sync_names`] returns, any subset of creates, renames and removes may survive a crash,
//!   each rename whole or not at all.
//! - After a failed sync nothing is known about the writes before it. [`Latch`] refuses further writes
//!   until the store is opened again.
//! - [`File::allocate`] takes the space that it grows the file by: later writes there cannot fail with `ENOSPC`.
//!
//! [`SimDisk`] implements exactly this, [`OsDisk`] relies on nothing more. [`Pool`], [`Stock`], [`Metered`],
//! [`Latch`] and [`Faulty`] are decorators, so the real and the simulated disk stay plain. The stack on a mount is
//! `Latch(Metered(Stock(Pool(OsDisk))))`. [`Media`] models what may lie below, for comparisons.

mod beneath;
mod beside;
mod copy;
mod extents;
mod fault;
mod gone;
mod latch;
mod media;
mod meter;
mod os;
mod outside;
mod overlay;
mod pool;
mod prefix;
mod purpose;
mod sim;
mod stock;
mod tree;

use std::io;
use std::sync::Arc;

pub use beside::{LOG, LOG_BEFORE, LogFile, SocketFile};
pub use copy::{Descriptor, copy};
pub use fault::{Fault, Faulty, Request};
pub use gone::Gone;
pub use latch::{Latch, is_poisoned};
pub use media::{ArmCounters, FlashCounters, Media, MediaCounters};
pub use meter::{Counters, DiskCounters, Metered, PurposeMeter};
pub use os::{Access, Held, InUse, Opening, OsDisk, ProcessIo, process_io, process_of, processes};
pub use outside::{create_outside, open_outside, read_outside, resolve_outside};
pub use overlay::Overlay;
pub use pool::{OpenFiles, Pool};
pub use prefix::Prefixed;
pub use purpose::{LEVELS, Purpose};
pub use sim::{SimDisk, Tear, Witness};
pub use stock::Stock;
pub use tree::{drop_from_cache, entries, occupied, remove_tree};

/// A name in the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileInfo {
    /// Its name, without any path.
    pub name: String,
    /// Its size.
    pub bytes: u64,
    /// Bytes that it occupies on the device: blocks times block size, so less than `bytes` for a sparse file.
    pub bytes_allocated: u64,
}

/// Space of the filesystem below.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// Its size in bytes.
    pub total_bytes: u64,
    /// Bytes that we may still take.
    pub free_bytes: u64,
    /// Files (inodes) that it may have at all; 0 where it has no such limit, or does not say.
    pub total_files: u64,
    /// Files that we may still make.
    pub free_files: u64,
}

impl Space {
    /// Bytes that we may count on. A filesystem that keeps no account, such as ramfs, says that it has no bytes at all: that it is
    /// full shows when it is.
    pub fn room_bytes(&self) -> u64 {
        if self.total_bytes == 0 { u64::MAX } else { self.free_bytes }
    }

    /// Files that we may count on. A filesystem that makes inodes as they are needed, such as btrfs, says that it has none at all.
    pub fn room_files(&self) -> u64 {
        if self.total_files == 0 { u64::MAX } else { self.free_files }
    }
}

/// One flat directory of named files.
pub trait Disk: Send + Sync {
    /// Makes a new, empty file; replaces nothing: `AlreadyExists` if the name is taken.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Opens an existing file.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Gives a file another name, replacing the file that has it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a name. A file that is still open keeps its bytes until it is dropped.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Every file, sorted by name.
    fn list(&self) -> io::Result<Vec<FileInfo>>;
    /// Makes all earlier creates, renames and removes durable.
    fn sync_names(&self) -> io::Result<()>;
    /// Size and free space of the filesystem below.
    fn space(&self) -> io::Result<Space>;
}

/// A file of a [`Disk`]; every call is positional, so a file may be used from many threads.
pub trait File: Send + Sync {
    /// Fills `target` from `offset`, or fails: `UnexpectedEof` where the file ends before.
    fn read_at(&self, purpose: Purpose, offset: u64, target: &mut [u8]) -> io::Result<()>;
    /// Writes all of `source` at `offset`, growing the file as needed, or fails.
    fn write_at(&self, purpose: Purpose, offset: u64, source: &[u8]) -> io::Result<()>;
    /// Writes all of `pieces`, one behind the other, from `offset` on: one request, as if they were one source.
    fn write_pieces_at(&self, purpose: Purpose, offset: u64, pieces: &[&[u8]]) -> io::Result<()>;
    /// Makes all earlier writes to this file durable.
    fn sync(&self, purpose: Purpose) -> io::Result<()>;
    /// Its size in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Cuts the file, or grows it with zeros.
    fn set_size(&self, bytes: u64) -> io::Result<()>;
    /// Grows the file to `bytes`, if it is shorter, and takes the space for what is new, which reads as zeros. `StorageFull` where
    /// there is not room for all of it; then none is taken.
    fn allocate(&self, bytes: u64) -> io::Result<()>;
    /// Calls `look` with what the operating system knows the file by, for [`copy()`] alone; not where there is no such thing, as in a
    /// simulation.
    fn with_descriptor(&self, look: &mut dyn FnMut(Descriptor<'_>)) -> io::Result<()> {
        let _ = look;
        Ok(())
    }
}

/// A file that is read whole has no reason to be longer.
const WHOLE_BYTES_MAX: u64 = 1 << 30;

/// Reads a whole file that is known to be small; `InvalidData` if it is not.
pub fn read_all(file: &dyn File, purpose: Purpose) -> io::Result<Vec<u8>> {
    let bytes = file.size()?;
    if bytes > WHOLE_BYTES_MAX {
        let text = format!("it is {bytes} bytes long, which it can never be");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut bytes = vec![0; usize::try_from(bytes).map_err(io::Error::other)?];
    file.read_at(purpose, 0, &mut bytes)?;
    Ok(bytes)
}

/// Replaces the file `name` by `bytes` so that a crash leaves the old content or the new, never a mixture:
/// write `name.new`, sync it, rename, sync the names.
pub fn replace(disk: &dyn Disk, purpose: Purpose, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = format!("{name}.new");
    match disk.remove(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(&temporary)?;
    file.write_at(purpose, 0, bytes)?;
    file.sync(purpose)?;
    disk.rename(&temporary, name)?;
    disk.sync_names()
}
