//! Calls on what is open: content of files, and listings of directories.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{self, FallocateFlags, FileType, Mode, OFlags, RawDir, SeekFrom};
use rustix::io::{ReadWriteFlags, pread, preadv2, pwrite};

use super::inode::{Inode, Inodes, ROOT_NUMBER};
use super::{Directory, Errno, Result};

/// Alignment of memory that is enough for direct requests on every disk.
const DIRECT_ALIGNMENT: usize = 4096;
/// Bytes of a listing that are fetched at once.
const LISTING_BYTES: usize = 32 << 10;
/// Flags of `open(2)` that are handed on. What is made, cut and appended the kernel has seen to when the request comes.
const PASSED: OFlags = OFlags::ACCMODE
    .union(OFlags::DIRECT)
    .union(OFlags::NOATIME)
    .union(OFlags::SYNC)
    .union(OFlags::DSYNC)
    .union(OFlags::NONBLOCK);

/// Memory for a direct request: `length` bytes at an aligned address.
pub struct Bytes {
    memory: Vec<u8>,
    start: usize,
    length: usize,
}

impl Bytes {
    /// Zeros.
    pub fn zeroed(length: usize) -> Bytes {
        let memory = vec![0; length + DIRECT_ALIGNMENT];
        let start = memory.as_ptr().align_offset(DIRECT_ALIGNMENT).min(DIRECT_ALIGNMENT);
        Bytes { memory, start, length }
    }

    /// A copy.
    pub fn copied(data: &[u8]) -> Bytes {
        let mut bytes = Bytes::zeroed(data.len());
        bytes.as_mut().copy_from_slice(data);
        bytes
    }

    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.length]
    }
}

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.length]
    }
}

/// An open file.
pub struct OpenFile {
    inode: Arc<Inode>,
    file: OwnedFd,
    flags: OFlags,
}

impl AsFd for OpenFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl OpenFile {
    /// Of the flags with which a program opens a file those with which it is opened below.
    pub(super) fn flags(flags: i32) -> OFlags {
        OFlags::from_bits_retain(flags.cast_unsigned()) & PASSED | OFlags::CLOEXEC
    }

    /// An open file of `inode`; also whether what the kernel keeps of its content is still true.
    pub(super) fn new(inode: Arc<Inode>, file: OwnedFd, flags: OFlags) -> Result<(OpenFile, bool)> {
        let stat = fs::fstat(&file)?;
        inode.looked_at(&stat);
        let file = OpenFile { inode, file, flags };
        let is_known = file.inode.opens(&stat, file.writes());
        Ok((file, is_known))
    }

    /// The file.
    pub fn inode(&self) -> &Arc<Inode> {
        &self.inode
    }

    fn writes(&self) -> bool {
        self.flags.intersects(OFlags::WRONLY | OFlags::RDWR)
    }

    /// Whether it goes past the page cache.
    pub fn is_direct(&self) -> bool {
        self.flags.contains(OFlags::DIRECT)
    }

    /// Whether each write is durable before it returns.
    pub fn is_synced(&self) -> bool {
        self.flags.contains(OFlags::DSYNC)
    }

    /// Reads what is in memory below into `target`; `None` if the disk would have to be waited for.
    pub fn read_cached(&self, directory: &Directory, offset: u64, target: &mut [u8]) -> Option<usize> {
        let mut done = 0;
        while done < target.len() {
            let pieces = &mut [IoSliceMut::new(&mut target[done..])];
            match preadv2(&self.file, pieces, offset + done as u64, ReadWriteFlags::NOWAIT) {
                // The end of the file.
                Ok(0) => break,
                Ok(count) => done += count,
                // Also where the filesystem cannot say: whoever may wait finds out what is wrong.
                Err(_) => return None,
            }
        }
        self.has_read(directory, done);
        Some(done)
    }

    /// Reads up to `length` bytes; fewer only at the end of the file.
    pub fn read(&self, directory: &Directory, offset: u64, length: usize) -> Result<Bytes> {
        let mut bytes = Bytes::zeroed(length);
        let mut done = 0;
        while done < length {
            match pread(&self.file, &mut bytes.as_mut()[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(Errno::INTR) => {}
                // What was read before is told; the next request meets the error.
                Err(_) if done > 0 => break,
                Err(error) => {
                    directory.meter().failed(self.inode.class());
                    return Err(error);
                }
            }
            // A direct request goes on only where the next is aligned, too.
            if self.is_direct() && done % 512 != 0 {
                break;
            }
        }
        bytes.length = done;
        self.has_read(directory, done);
        Ok(bytes)
    }

    fn has_read(&self, directory: &Directory, bytes: usize) {
        directory.meter().read(self.inode.class(), bytes as u64);
        self.inode.tally.read(bytes as u64);
    }

    /// Writes all of `data`, or what there is room for. `mapped` is whether the kernel writes pages of a mapping, `clears` whether set-id bits
    /// go.
    pub fn write(
        &self,
        directory: &Directory,
        offset: u64,
        data: &[u8],
        mapped: bool,
        clears: bool,
    ) -> Result<usize> {
        let write = || {
            let mut done = 0;
            while done < data.len() {
                match pwrite(&self.file, &data[done..], offset + done as u64) {
                    Ok(0) => break,
                    Ok(count) => done += count,
                    Err(Errno::INTR) => {}
                    Err(_) if done > 0 => break,
                    Err(error) => return Err(error),
                }
                if self.is_direct() && done % 512 != 0 {
                    break;
                }
            }
            Ok(done)
        };
        match directory.rights().clearing(clears, write) {
            Ok(done) => {
                directory.meter().wrote(self.inode.class(), done as u64, mapped);
                self.inode.tally.wrote(done as u64);
                Ok(done)
            }
            Err(error) => {
                directory.meter().failed(self.inode.class());
                Err(error)
            }
        }
    }

    /// Counts a sync that took `latency`.
    pub fn has_synced(&self, directory: &Directory, latency: Duration) {
        directory.meter().synced(self.inode.class(), latency);
        self.inode.tally.synced();
    }

    /// Makes what was written durable; of attributes only what a reader needs if `data_only`.
    pub fn sync(&self, data_only: bool) -> Result<()> {
        if data_only { fs::fdatasync(&self.file) } else { fs::fsync(&self.file) }
    }

    /// Takes or gives back space, with `mode` of `fallocate(2)`.
    pub fn allocate(
        &self,
        directory: &Directory,
        offset: u64,
        length: u64,
        mode: i32,
        clears: bool,
    ) -> Result<()> {
        let mode = FallocateFlags::from_bits_retain(mode.cast_unsigned());
        directory.rights().clearing(clears, || fs::fallocate(&self.file, mode, offset, length))
    }

    /// Where data or a hole begins from `offset` on, with `whence` of `lseek(2)`.
    pub fn seek(&self, offset: i64, whence: i32) -> Result<u64> {
        let offset = u64::try_from(offset).map_err(|_| Errno::NXIO)?;
        let place = match whence {
            libc::SEEK_DATA => SeekFrom::Data(offset),
            libc::SEEK_HOLE => SeekFrom::Hole(offset),
            _ => return Err(Errno::INVAL),
        };
        fs::seek(&self.file, place)
    }

    /// Copies `length` bytes at most to `target`; fewer are no error.
    pub fn copy_to(
        &self,
        directory: &Directory,
        from: u64,
        (target, to): (&OpenFile, u64),
        length: u64,
        clears: bool,
    ) -> Result<usize> {
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let (mut from, mut to) = (from, to);
        let copy = || fs::copy_file_range(&self.file, Some(&mut from), &target.file, Some(&mut to), length);
        let copied = directory.rights().clearing(clears, copy);
        let class = target.inode.class();
        match copied {
            Ok(bytes) => directory.meter().copied(class, bytes as u64),
            // The kernel then reads and writes.
            Err(Errno::XDEV | Errno::OPNOTSUPP) => {}
            Err(_) => directory.meter().failed(class),
        }
        copied
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.inode.closes(fs::fstat(&self.file).ok().as_ref(), self.writes());
    }
}

/// An open directory.
pub struct OpenDirectory {
    inode: Arc<Inode>,
    /// Its place is moved by each request.
    listing: Mutex<OwnedFd>,
}

/// An entry of a listing.
pub struct Entry<'a> {
    /// Number of the inode, as far as a listing knows it.
    pub number: u64,
    /// Where the listing goes on behind it.
    pub cookie: u64,
    /// Sort of file.
    pub kind: FileType,
    /// Name.
    pub name: &'a [u8],
}

impl OpenDirectory {
    /// Opens a directory.
    pub fn open(inode: &Arc<Inode>) -> Result<OpenDirectory> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listing = fs::openat(inode, ".", flags, Mode::empty())?;
        Ok(OpenDirectory { inode: inode.clone(), listing: Mutex::new(listing) })
    }

    /// Lists from `cookie` on (0 is the start) until `emit` answers false.
    pub fn list(&self, inodes: &Inodes, cookie: u64, emit: &mut dyn FnMut(Entry<'_>) -> bool) -> Result<()> {
        let listing = self.listing.lock();
        fs::seek(&*listing, SeekFrom::Start(cookie))?;
        let mut memory = vec![MaybeUninit::uninit(); LISTING_BYTES];
        let mut entries = RawDir::new(&*listing, &mut memory);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            // Above the directory itself is nothing.
            let is_above = name == b".." && self.inode.number() == ROOT_NUMBER;
            let number = match is_above {
                true => ROOT_NUMBER,
                false => inodes.number_of(inodes.beside(&self.inode, entry.ino())),
            };
            let (cookie, kind) = (entry.next_entry_cookie(), entry.file_type());
            if !emit(Entry { number, cookie, kind, name }) {
                break;
            }
        }
        Ok(())
    }

    /// Makes its names durable.
    pub fn sync(&self, data_only: bool) -> Result<()> {
        let listing = self
            .listing
            .lock()
            .try_clone()
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        if data_only { fs::fdatasync(&listing) } else { fs::fsync(&listing) }
    }
}
