//! The words in which the filesystem is asked and answers: no kernel protocol, no keys.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Inode number. 1 is the root; numbers are never used twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ino(pub u64);

impl Ino {
    /// The number so many behind it.
    pub fn plus(self, count: u64) -> Ino {
        Ino(self.0 + count)
    }

    /// The number behind it; the last one has none, and is its own.
    pub fn next(self) -> Ino {
        Ino(self.0.saturating_add(1))
    }
}

impl std::fmt::Display for Ino {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A name in the root; empty where it is not known.
pub type TopName = Arc<[u8]>;

/// The root directory.
pub const ROOT: Ino = Ino(1);
/// Inode numbers from here on are never stored: they are left to files that are not (`virtual_files`).
pub const STORED_END: Ino = Ino(0x7FFF_FFFF_0000_0000);
/// Longest name in bytes.
pub const NAME_BYTES_MAX: usize = 255;
/// Longest symbolic link target in bytes.
pub const TARGET_BYTES_MAX: usize = 4095;
/// Hard links a file may have.
pub const LINKS_MAX: u32 = 65_000;
/// Largest file size: what `off_t` can say.
pub const SIZE_MAX: u64 = i64::MAX as u64;

/// Type of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
}

impl FileKind {
    /// From the type bits of a mode.
    pub fn from_mode(mode: u32) -> Option<FileKind> {
        Some(match mode & libc::S_IFMT {
            libc::S_IFREG | 0 => FileKind::File,
            libc::S_IFDIR => FileKind::Directory,
            libc::S_IFLNK => FileKind::Symlink,
            libc::S_IFIFO => FileKind::Fifo,
            libc::S_IFSOCK => FileKind::Socket,
            libc::S_IFCHR => FileKind::CharDevice,
            libc::S_IFBLK => FileKind::BlockDevice,
            _ => return None,
        })
    }

    /// The type bits of a mode.
    pub fn mode_bits(self) -> u32 {
        match self {
            FileKind::File => libc::S_IFREG,
            FileKind::Directory => libc::S_IFDIR,
            FileKind::Symlink => libc::S_IFLNK,
            FileKind::Fifo => libc::S_IFIFO,
            FileKind::Socket => libc::S_IFSOCK,
            FileKind::CharDevice => libc::S_IFCHR,
            FileKind::BlockDevice => libc::S_IFBLK,
        }
    }
}

/// A moment, also before 1970: `seconds` may be negative, `nanos` always counts forward from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time {
    /// Seconds since the epoch.
    pub seconds: i64,
    /// Nanoseconds after them, below 1,000,000,000.
    pub nanos: u32,
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Time {
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => Time { seconds: after.as_secs() as i64, nanos: after.subsec_nanos() },
            Err(before) => {
                let before = before.duration();
                let (seconds, nanos) =
                    (0i64.saturating_sub_unsigned(before.as_secs()), before.subsec_nanos());
                if nanos == 0 {
                    Time { seconds, nanos }
                } else {
                    Time { seconds: seconds - 1, nanos: 1_000_000_000 - nanos }
                }
            }
        }
    }
}

impl From<Time> for SystemTime {
    fn from(time: Time) -> SystemTime {
        let whole = Duration::from_secs(time.seconds.unsigned_abs());
        let second =
            if time.seconds < 0 { SystemTime::UNIX_EPOCH - whole } else { SystemTime::UNIX_EPOCH + whole };
        second + Duration::from_nanos(u64::from(time.nanos))
    }
}

/// Everything that `stat` shows, one field each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    /// Inode number.
    pub ino: Ino,
    /// Its type.
    pub kind: FileKind,
    /// Permission bits with suid, sgid and sticky: `0o7777`.
    pub permissions: u32,
    /// Hard links.
    pub links: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u32,
    /// Size in bytes; of a symbolic link, the length of its target.
    pub size: u64,
    /// Stored bytes: holes count nothing.
    pub stored_bytes: u64,
    /// Preferred size of a request.
    pub block_bytes: u32,
    /// Last read.
    pub atime: Time,
    /// Last change of content.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
    /// Creation.
    pub btime: Time,
}

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The filesystem's clock.
    Now,
    /// This moment.
    At(Time),
}

/// Attributes to change, each only if given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttributes {
    /// New permission bits, `0o7777`.
    pub permissions: Option<u32>,
    /// New owner.
    pub uid: Option<u32>,
    /// New group.
    pub gid: Option<u32>,
    /// New size.
    pub size: Option<u64>,
    /// New access time.
    pub atime: Option<SetTime>,
    /// New modification time.
    pub mtime: Option<SetTime>,
    /// New change time: the kernel's, under its writeback cache.
    pub ctime: Option<Time>,
}

/// The caller of an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Process.
    pub pid: u32,
}

impl Caller {
    /// The superuser.
    pub const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 0 };
}

/// The kind of inode to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewNode<'a> {
    /// A regular, empty file.
    File,
    /// An empty directory.
    Directory,
    /// A symbolic link to a target.
    Symlink(&'a [u8]),
    /// A pipe, socket or device.
    Special {
        /// Which.
        kind: FileKind,
        /// Its device number.
        rdev: u32,
    },
}

/// Treatment of an existing target by rename.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// It is replaced.
    Replace,
    /// It is an error.
    NoReplace,
    /// Both names are swapped; the target must exist.
    Exchange,
}

/// Treatment of an existing attribute by setxattr.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Create or replace.
    Either,
    /// It must not exist.
    Create,
    /// It must exist.
    Replace,
}

/// A name in a directory, as readdir gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Inode number.
    pub ino: Ino,
    /// Its type.
    pub kind: FileKind,
    /// Cookie from which a listing goes on after this entry.
    pub cookie: u64,
    /// The name.
    pub name: Vec<u8>,
}

/// Figures of `statfs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statfs {
    /// Bytes of the unit that the counts below are in.
    pub block_bytes: u32,
    /// Size.
    pub blocks: u64,
    /// Free.
    pub blocks_free: u64,
    /// Free to everyone: without the reserve.
    pub blocks_available: u64,
    /// Inodes in use, and those that may still be made.
    pub files: u64,
    /// Inodes that may still be made.
    pub files_free: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_keep_their_nanoseconds() {
        for (seconds, nanos) in
            [(0, 0), (1, 5), (-1, 0), (-1, 999_999_999), (-5, 1), (i64::MIN, 0), (i64::MIN, 1), (i64::MAX, 7)]
        {
            let time = Time { seconds, nanos };
            assert_eq!(Time::from(SystemTime::from(time)), time);
        }
    }
}
