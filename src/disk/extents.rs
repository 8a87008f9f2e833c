//! Blocks that a file shares with others, as the filesystem below tells (`FIEMAP`). Nothing is read and nothing written.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Request of `ioctl(2)`: the extents of a file, from `linux/fs.h`.
const FS_IOC_FIEMAP: libc::c_ulong = 0xc020_660b;
/// The last extent of the file.
const EXTENT_LAST: u32 = 0x1;
/// Another file has the same blocks.
const EXTENT_SHARED: u32 = 0x2000;
/// Extents that one request asks for.
const EXTENTS: usize = 128;

/// `struct fiemap_extent`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    reserved_flags: [u32; 3],
}

/// `struct fiemap`, with room for what it answers.
#[repr(C)]
struct Map {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extents: [Extent; EXTENTS],
}

/// Bytes of `file` whose blocks another file has, too; `None` where the filesystem below cannot tell.
pub(super) fn shared_bytes(file: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    let (mut start, mut bytes) = (0, 0);
    loop {
        let mut map = Map {
            start,
            length: u64::MAX - start,
            flags: 0,
            mapped_extents: 0,
            extent_count: EXTENTS as u32,
            reserved: 0,
            extents: [Extent::default(); EXTENTS],
        };
        // SAFETY: the kernel writes to `map` alone, and no more extents than it says there is room for.
        let answer = unsafe { libc::ioctl(file.as_raw_fd(), FS_IOC_FIEMAP as _, &raw mut map) };
        if answer < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EOPNOTSUPP | libc::ENOTTY) => Ok(None),
                _ => Err(error),
            };
        }
        let extents = &map.extents[..(map.mapped_extents as usize).min(EXTENTS)];
        bytes += extents
            .iter()
            .filter(|extent| extent.flags & EXTENT_SHARED != 0)
            .map(|extent| extent.length)
            .sum::<u64>();
        match extents.last() {
            // Where it does not go on it would do so for ever.
            Some(last) if last.flags & EXTENT_LAST == 0 && last.logical + last.length > start => {
                start = last.logical + last.length;
            }
            _ => return Ok(Some(bytes)),
        }
    }
}
