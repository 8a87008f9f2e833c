//! The inode record.
//!
//! ```text
//! offset  bytes
//!      0      4  mode: file type and permission bits
//!      4      4  links
//!      8      4  uid
//!     12      4  gid
//!     16      4  rdev
//!     20      4  epoch of the block keys
//!     24      1  flags
//!     25      8  parent: of a directory, the directory above
//!     33      8  size
//!     41      8  stored bytes: the lengths of all blocks, without ranges that wait for reclaim
//!     49     48  atime, mtime, ctime, btime: seconds i64, nanoseconds u32 each
//!     97      …  of a symbolic link, its target: `size` bytes
//! ```
//! All integers are big-endian.
//!
//! 1. A block is never longer than what of the file lies in it, so `stored_bytes <= size`, and *dense*, that is
//!    no hole anywhere, is the same as `stored_bytes == size`.
//! 2. No live block lies at or after `size`.

use bytes::Bytes;

use super::error::damaged;
use super::keys::{take_u32, take_u64};
use super::ranges::Ranges;
use super::types::{Attributes, FileKind, Ino, SIZE_MAX, Time};
use crate::fs::Result;

/// The inode has, or had, extended attributes.
pub(super) const HAS_XATTRS: u8 = 1;
/// The inode has `security.capability`, which a change of content removes.
pub(super) const HAS_CAPABILITY: u8 = 2;
/// Ranges of the current epoch wait for reclaim.
pub(super) const HAS_PENDING: u8 = 4;

const FIXED_BYTES: usize = 97;

/// An inode, decoded. Its fields are those of the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Inode {
    pub kind: FileKind,
    pub permissions: u32,
    pub links: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub epoch: u32,
    pub flags: u8,
    pub parent: Ino,
    pub size: u64,
    pub stored_bytes: u64,
    pub atime: Time,
    pub mtime: Time,
    pub ctime: Time,
    pub btime: Time,
    /// Target of a symbolic link.
    pub target: Bytes,
}

/// An inode with the ranges of its epoch that wait for reclaim, holes to everyone: what says where its content is.
#[derive(Clone, Copy)]
pub(super) struct View<'a> {
    pub record: &'a Inode,
    pub pending: &'a Ranges,
}

/// The epoch of the block keys of `ino` and its size in bytes, from its stored record; `None` if that is damaged.
pub fn content(ino: Ino, record: &[u8]) -> Option<(u32, u64)> {
    Inode::decode(ino, record).ok().map(|inode| (inode.epoch, inode.size))
}

impl Inode {
    /// A new inode with one link (two for a directory), no content, and all times `now`.
    pub fn new(kind: FileKind, permissions: u32, uid: u32, gid: u32, now: Time) -> Inode {
        Inode {
            kind,
            permissions,
            links: if kind == FileKind::Directory { 2 } else { 1 },
            uid,
            gid,
            rdev: 0,
            epoch: 0,
            flags: 0,
            parent: Ino(0),
            size: 0,
            stored_bytes: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            target: Bytes::new(),
        }
    }

    pub fn is_directory(&self) -> bool {
        self.kind == FileKind::Directory
    }

    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub fn set(&mut self, flag: u8, on: bool) {
        if on { self.flags |= flag } else { self.flags &= !flag }
    }

    /// Whether the file has no hole.
    pub fn is_dense(&self) -> bool {
        self.stored_bytes == self.size
    }

    /// Clears suid, and sgid where it means "run as the group".
    pub fn clear_privileges(&mut self) {
        self.permissions &= !(libc::S_ISUID);
        if self.permissions & libc::S_IXGRP != 0 {
            self.permissions &= !(libc::S_ISGID);
        }
    }

    /// Key and value bytes of its record.
    pub fn record_bytes(&self) -> u64 {
        (9 + FIXED_BYTES + self.target.len()) as u64
    }

    /// Attributes as `stat` shows them.
    pub fn attributes(&self, ino: Ino, block_bytes: u64) -> Attributes {
        Attributes {
            ino,
            kind: self.kind,
            permissions: self.permissions,
            links: self.links,
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev,
            size: self.size,
            stored_bytes: self.stored_bytes,
            block_bytes: block_bytes as u32,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            btime: self.btime,
        }
    }

    /// The record's bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIXED_BYTES + self.target.len());
        let mode = self.kind.mode_bits() | self.permissions;
        for word in [mode, self.links, self.uid, self.gid, self.rdev, self.epoch] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        bytes.push(self.flags);
        for word in [self.parent.0, self.size, self.stored_bytes] {
            bytes.extend_from_slice(&word.to_be_bytes());
        }
        for time in [self.atime, self.mtime, self.ctime, self.btime] {
            bytes.extend_from_slice(&time.seconds.to_be_bytes());
            bytes.extend_from_slice(&time.nanos.to_be_bytes());
        }
        bytes.extend_from_slice(&self.target);
        bytes
    }

    /// Reads the record of `ino`; `Damaged` if it does not parse or contradicts itself.
    pub fn decode(ino: Ino, bytes: &[u8]) -> Result<Inode> {
        Self::parse(bytes).ok_or_else(|| damaged(format!("inode {ino}: the record does not parse")))
    }

    fn parse(mut source: &[u8]) -> Option<Inode> {
        let mode = take_u32(&mut source)?;
        let kind = FileKind::from_mode(mode).filter(|_| mode & libc::S_IFMT != 0)?;
        let mut words = [0; 5];
        for word in &mut words {
            *word = take_u32(&mut source)?;
        }
        let [links, uid, gid, rdev, epoch] = words;
        let flags = *source.split_off_first()?;
        let (parent, size, stored_bytes) =
            (Ino(take_u64(&mut source)?), take_u64(&mut source)?, take_u64(&mut source)?);
        let mut times = [Time::default(); 4];
        for time in &mut times {
            *time = Time { seconds: take_u64(&mut source)? as i64, nanos: take_u32(&mut source)? };
            if time.nanos >= 1_000_000_000 {
                return None;
            }
        }
        let [atime, mtime, ctime, btime] = times;
        let target_bytes = if kind == FileKind::Symlink { size } else { 0 };
        let sound = source.len() as u64 == target_bytes
            && stored_bytes <= size
            && size <= SIZE_MAX
            && mode & !(libc::S_IFMT | 0o7777) == 0
            && flags & !(HAS_XATTRS | HAS_CAPABILITY | HAS_PENDING) == 0;
        // A slice would keep all that was read with it, for as long as the inode is cached.
        let target = Bytes::copy_from_slice(source);
        let permissions = mode & 0o7777;
        sound.then_some(Inode {
            kind,
            permissions,
            links,
            uid,
            gid,
            rdev,
            epoch,
            flags,
            parent,
            size,
            stored_bytes,
            atime,
            mtime,
            ctime,
            btime,
            target,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Inode {
        let mut inode = Inode::new(FileKind::Symlink, 0o777, 1, 2, Time { seconds: -1, nanos: 5 });
        inode.target = Bytes::from_static(b"there");
        inode.size = 5;
        inode.flags = HAS_XATTRS;
        inode
    }

    #[test]
    fn golden_bytes() {
        let time = b"\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\x05".repeat(4);
        let head = b"\0\0\xa1\xff\0\0\0\x01\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0";
        let sizes = b"\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\0";
        let expected = [&head[..], sizes, &time, b"there"].concat();
        assert_eq!(link().encode(), expected);
        assert_eq!(Inode::decode(Ino(1), &expected).unwrap(), link());
    }

    #[test]
    fn every_cut_and_every_contradiction_is_refused() {
        let file = Inode::new(FileKind::File, 0o644, 0, 0, Time::default());
        for inode in [link(), file.clone()] {
            let bytes = Bytes::from(inode.encode());
            assert_eq!(bytes.len() as u64 + 9, inode.record_bytes());
            for cut in 0..bytes.len() {
                assert!(Inode::decode(Ino(1), &bytes[..cut]).is_err(), "cut at {cut}");
            }
            let longer = [&bytes[..], b"x"].concat();
            assert!(Inode::decode(Ino(1), &longer).is_err());
        }
        let lying = Inode { stored_bytes: 1, ..file };
        assert!(Inode::decode(Ino(1), &lying.encode()).is_err());
    }
}
