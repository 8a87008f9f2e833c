//! What stands behind the requests for real files: the store, or the directory that a witness passes through. A method has the name of the
//! request and its arguments; it answers once, now or later, from any thread.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    FileHandle, InitFlags, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};

use super::ending::Connected;
use crate::fs::types::Ino;

/// All of it.
pub trait Behind: Names + Attributes + Content + Listing + Send + Sync + 'static {
    /// What the kernel is asked for beside what every mount of ours has.
    fn capabilities(&self) -> Vec<InitFlags>;
    /// The part of it that the end of a session must know.
    fn connected(&self) -> Arc<dyn Connected>;
    /// Whether nothing may be changed.
    fn is_read_only(&self) -> bool;
    /// Dispatch threads; 0 is one a core.
    fn threads(&self) -> usize;
}

/// Requests about names.
pub trait Names {
    /// Finds a name. `.` and `..` the kernel asks for where it knows a number and nothing else, as a handle that it gave away long ago.
    fn lookup(&self, parent: Ino, name: &OsStr, reply: ReplyEntry);
    /// The kernel drops references.
    fn forget(&self, ino: Ino, lookups: u64);
    /// Makes a file, pipe, socket or device.
    #[allow(clippy::too_many_arguments)]
    fn mknod(
        &self,
        request: &Request,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    );
    /// Makes a directory.
    fn mkdir(&self, request: &Request, parent: Ino, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry);
    /// Makes a symbolic link.
    fn symlink(&self, request: &Request, parent: Ino, name: &OsStr, target: &Path, reply: ReplyEntry);
    /// Removes the name of a file.
    fn unlink(&self, parent: Ino, name: &OsStr, reply: ReplyEmpty);
    /// Removes an empty directory.
    fn rmdir(&self, parent: Ino, name: &OsStr, reply: ReplyEmpty);
    /// Moves a name.
    fn rename(
        &self,
        request: &Request,
        from: (Ino, &OsStr),
        to: (Ino, &OsStr),
        flags: RenameFlags,
        reply: ReplyEmpty,
    );
    /// Gives an inode a further name.
    fn link(&self, ino: Ino, parent: Ino, name: &OsStr, reply: ReplyEntry);
}

/// Requests about attributes, plain and extended, and about the filesystem as a whole.
pub trait Attributes {
    /// Tells the attributes.
    fn getattr(&self, ino: Ino, reply: ReplyAttr);
    /// Changes attributes; of a file that is open where the kernel names its handle.
    #[allow(clippy::too_many_arguments)]
    fn setattr(
        &self,
        request: &Request,
        ino: Ino,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        reply: ReplyAttr,
    );
    /// Tells the target of a symbolic link.
    fn readlink(&self, ino: Ino, reply: ReplyData);
    /// Tells space and inodes.
    fn statfs(&self, reply: ReplyStatfs);
    /// Sets an extended attribute.
    fn setxattr(
        &self,
        request: &Request,
        ino: Ino,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        reply: ReplyEmpty,
    );
    /// Tells an extended attribute.
    fn getxattr(&self, ino: Ino, name: &OsStr, size: u32, reply: ReplyXattr);
    /// Lists extended attributes.
    fn listxattr(&self, request: &Request, ino: Ino, size: u32, reply: ReplyXattr);
    /// Removes an extended attribute.
    fn removexattr(&self, ino: Ino, name: &OsStr, reply: ReplyEmpty);
}

/// Requests about the content of files: opened, read, written, made durable.
pub trait Content {
    /// Opens a file.
    fn open(&self, request: &Request, ino: Ino, flags: OpenFlags, reply: ReplyOpen);
    /// Makes a file and opens it.
    #[allow(clippy::too_many_arguments)]
    fn create(
        &self,
        request: &Request,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    );
    /// Reads.
    fn read(&self, request: &Request, ino: Ino, handle: FileHandle, offset: u64, size: u32, reply: ReplyData);
    /// Writes.
    #[allow(clippy::too_many_arguments)]
    fn write(
        &self,
        request: &Request,
        ino: Ino,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        reply: ReplyWrite,
    );
    /// Closes a file.
    fn release(&self, ino: Ino, handle: FileHandle, flags: OpenFlags, reply: ReplyEmpty);
    /// Answers when what was done to the file is durable.
    fn fsync(&self, ino: Ino, handle: FileHandle, data_only: bool, reply: ReplyEmpty);
    /// Takes or gives back space of a file.
    fn fallocate(
        &self,
        request: &Request,
        ino: Ino,
        handle: FileHandle,
        range: (u64, u64),
        mode: i32,
        reply: ReplyEmpty,
    );
    /// Finds data or a hole.
    fn lseek(&self, ino: Ino, handle: FileHandle, offset: i64, whence: i32, reply: ReplyLseek);
    /// Copies inside the filesystem; each side is an inode, its handle, and where to begin.
    fn copy_file_range(
        &self,
        request: &Request,
        source: (Ino, FileHandle, u64),
        target: (Ino, FileHandle, u64),
        length: u64,
        reply: ReplyWrite,
    );
}

/// Requests about directories: opened, listed, made durable.
pub trait Listing {
    /// Opens a directory.
    fn opendir(&self, ino: Ino, reply: ReplyOpen);
    /// Lists names.
    fn readdir(&self, ino: Ino, handle: FileHandle, cookie: u64, reply: ReplyDirectory);
    /// Lists names with attributes.
    fn readdirplus(&self, ino: Ino, handle: FileHandle, cookie: u64, reply: ReplyDirectoryPlus);
    /// Closes a directory.
    fn releasedir(&self, handle: FileHandle, reply: ReplyEmpty);
    /// Answers when the names in the directory are durable.
    fn fsyncdir(&self, ino: Ino, handle: FileHandle, data_only: bool, reply: ReplyEmpty);
}
