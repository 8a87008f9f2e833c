//! The kernel's requests, one method each: the door at which each is handed to the side that serves its inode (`router`). A method there
//! has the name of the request and only the arguments that it uses. What the virtual tree has no answer to is refused here.

use std::ffi::OsStr;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo,
    InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier,
    RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite,
    ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::behind::Behind;
use super::router::{self, Side};
use super::{Adapter, caller, reply};

impl<B: Behind> Adapter<B> {
    fn side(&self, ino: INodeNo) -> Side {
        router::side(&self.virtual_files.tree, ino)
    }

    fn side_of_name<'a>(&self, parent: INodeNo, name: &'a OsStr) -> (Side, &'a OsStr) {
        router::side_of_name(&self.virtual_files.tree, parent, name)
    }
}

/// Largest request; the kernel allows no more.
const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// Requests that the kernel may have outstanding on its own behalf: readahead and writeback.
const BACKGROUND_MAX: u16 = 64;

impl<B: Behind> Filesystem for Adapter<B> {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Not ATOMIC_O_TRUNC: a program that runs would be emptied before the kernel refuses with ETXTBSY. Not ASYNC_DIO: the
        // kernel takes what a direct write replaced out of its page cache before the write and after it, but after an asynchronous
        // one it does not, so what a reader brought in meanwhile stays there for good.
        let wanted = [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            // The kernel checks lists; that they are inherited, instead of the umask, is ours.
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_DONT_MASK,
            InitFlags::FUSE_CACHE_SYMLINKS,
        ];
        for flag in wanted.into_iter().chain(self.behind.capabilities()) {
            if config.add_capabilities(flag).is_err() {
                log::info!("this kernel has no {flag:?}");
            }
        }
        // The error is the nearest value that the kernel allows.
        let _ = config.set_max_write(REQUEST_BYTES_MAX).map_err(|nearest| config.set_max_write(nearest));
        let _ =
            config.set_max_readahead(REQUEST_BYTES_MAX).map_err(|nearest| config.set_max_readahead(nearest));
        let _ = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.side_of_name(parent, name) {
            (Side::Stored(parent), name) => self.behind.lookup(parent, name, reply),
            (Side::Virtual(parent), name) => {
                self.virtual_files.lookup(caller(request), parent, name, reply);
            }
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        if let Side::Stored(ino) = self.side(ino) {
            self.behind.forget(ino, lookups);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.side(ino) {
            Side::Stored(ino) => self.behind.getattr(ino, reply),
            Side::Virtual(ino) => self.virtual_files.getattr(ino, reply),
        }
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match self.side(ino) {
            Side::Stored(ino) => {
                self.behind.setattr(request, ino, mode, uid, gid, size, atime, mtime, ctime, handle, reply);
            }
            Side::Virtual(ino) => {
                let changes_rights = mode.is_some() || uid.is_some() || gid.is_some();
                self.virtual_files.setattr(ino, changes_rights, reply);
            }
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.side(ino) {
            Side::Stored(ino) => self.behind.readlink(ino, reply),
            Side::Virtual(_) => reply.error(Errno::EINVAL),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        match self.side_of_name(parent, name) {
            (Side::Stored(parent), name) => {
                self.behind.mknod(request, parent, name, mode, umask, rdev, reply)
            }
            (Side::Virtual(_), _) => reply.error(Errno::EPERM),
        }
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        match self.side_of_name(parent, name) {
            (Side::Stored(parent), name) => self.behind.mkdir(request, parent, name, mode, umask, reply),
            (Side::Virtual(_), _) => reply.error(Errno::EPERM),
        }
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        match self.side_of_name(parent, name) {
            (Side::Stored(parent), name) => self.behind.symlink(request, parent, name, target, reply),
            (Side::Virtual(_), _) => reply.error(Errno::EPERM),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.side_of_name(parent, name) {
            (Side::Stored(parent), name) => self.behind.unlink(parent, name, reply),
            (Side::Virtual(_), _) => reply.error(Errno::EPERM),
        }
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.side_of_name(parent, name) {
            (Side::Stored(parent), name) => self.behind.rmdir(parent, name, reply),
            (Side::Virtual(_), _) => reply.error(Errno::EPERM),
        }
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        match (self.side_of_name(parent, name), self.side_of_name(new_parent, new_name)) {
            ((Side::Stored(parent), name), (Side::Stored(new_parent), new_name)) => {
                self.behind.rename(request, (parent, name), (new_parent, new_name), flags, reply);
            }
            _ => reply.error(Errno::EPERM),
        }
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match (self.side(ino), self.side_of_name(parent, name)) {
            (Side::Stored(ino), (Side::Stored(parent), name)) => self.behind.link(ino, parent, name, reply),
            _ => reply.error(Errno::EPERM),
        }
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        match self.side(ino) {
            Side::Stored(ino) => self.behind.open(request, ino, flags, reply),
            Side::Virtual(ino) => self.virtual_files.open(caller(request), ino, reply),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        match self.side_of_name(parent, name) {
            (Side::Stored(parent), name) => {
                self.behind.create(request, parent, name, mode, umask, flags, reply)
            }
            (Side::Virtual(_), _) => reply.error(Errno::EPERM),
        }
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match self.side(ino) {
            Side::Stored(ino) => self.behind.read(request, ino, handle, offset, size, reply),
            Side::Virtual(_) => self.virtual_files.read(handle, offset, size, reply),
        }
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.side(ino) {
            Side::Stored(ino) => {
                self.behind.write(request, ino, handle, offset, data, write_flags, flags, reply);
            }
            Side::Virtual(ino) => self.virtual_files.write(caller(request), ino, data, reply),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        flags: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        match self.side(ino) {
            Side::Stored(ino) => self.behind.release(ino, handle, flags, reply),
            Side::Virtual(_) => self.virtual_files.release(handle, reply),
        }
    }

    fn fsync(&self, _: &Request, ino: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        match self.side(ino) {
            Side::Stored(ino) => self.behind.fsync(ino, handle, data_only, reply),
            Side::Virtual(_) => reply.ok(),
        }
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.side(ino) {
            Side::Stored(ino) => self.behind.opendir(ino, reply),
            Side::Virtual(_) => reply.opened(FileHandle(0), FopenFlags::empty()),
        }
    }

    fn readdir(&self, _: &Request, ino: INodeNo, handle: FileHandle, cookie: u64, reply: ReplyDirectory) {
        match self.side(ino) {
            Side::Stored(ino) => self.behind.readdir(ino, handle, cookie, reply),
            Side::Virtual(ino) => self.virtual_files.readdir(ino, cookie, reply),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        cookie: u64,
        reply: ReplyDirectoryPlus,
    ) {
        match self.side(ino) {
            Side::Stored(ino) => self.behind.readdirplus(ino, handle, cookie, reply),
            Side::Virtual(ino) => self.virtual_files.readdirplus(ino, cookie, reply),
        }
    }

    fn releasedir(&self, _: &Request, ino: INodeNo, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        match self.side(ino) {
            Side::Stored(_) => self.behind.releasedir(handle, reply),
            Side::Virtual(_) => reply.ok(),
        }
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        match self.side(ino) {
            Side::Stored(ino) => self.behind.fsyncdir(ino, handle, data_only, reply),
            Side::Virtual(_) => reply.ok(),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.behind.statfs(reply);
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        match self.side(ino) {
            Side::Stored(ino) => self.behind.setxattr(request, ino, name, value, flags, reply),
            Side::Virtual(_) => reply.error(Errno::EPERM),
        }
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        match self.side(ino) {
            Side::Stored(ino) => self.behind.getxattr(ino, name, size, reply),
            Side::Virtual(_) => reply.error(Errno::ENODATA),
        }
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        match self.side(ino) {
            Side::Stored(ino) => self.behind.listxattr(request, ino, size, reply),
            Side::Virtual(_) => reply::sized(size)(reply, Ok(Vec::new())),
        }
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        match self.side(ino) {
            Side::Stored(ino) => self.behind.removexattr(ino, name, reply),
            Side::Virtual(_) => reply.error(Errno::EPERM),
        }
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn getlk(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        _: u64,
        _: u64,
        _: i32,
        _: u32,
        reply: ReplyLock,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn setlk(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        _: u64,
        _: u64,
        _: i32,
        _: u32,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        match self.side(ino) {
            Side::Stored(ino) => self.behind.fallocate(request, ino, handle, (offset, length), mode, reply),
            Side::Virtual(_) => reply.error(Errno::EOPNOTSUPP),
        }
    }

    fn lseek(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        match self.side(ino) {
            Side::Stored(ino) => self.behind.lseek(ino, handle, offset, whence, reply),
            Side::Virtual(_) => reply.error(Errno::EINVAL),
        }
    }

    fn copy_file_range(
        &self,
        request: &Request,
        source: INodeNo,
        source_handle: FileHandle,
        from: u64,
        target: INodeNo,
        handle: FileHandle,
        to: u64,
        length: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        match (self.side(source), self.side(target)) {
            (Side::Stored(source), Side::Stored(target)) => {
                let (source, target) = ((source, source_handle, from), (target, handle, to));
                self.behind.copy_file_range(request, source, target, length, reply);
            }
            // The kernel then copies through read and write.
            _ => reply.error(Errno::EOPNOTSUPP),
        }
    }
}
