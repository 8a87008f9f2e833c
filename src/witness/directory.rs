//! The calls on names and attributes: each is one system call below a descriptor.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{
    self, AtFlags, Gid, Mode, OFlags, RenameFlags, Stat, StatVfs, Timespec, Timestamps, Uid, XattrFlags,
};

use super::inode::{Identity, Inode, Inodes};
use super::open::OpenFile;
use super::rights::{Caller, Rights};
use super::{Class, Errno, Meter, Patterns, Result};

/// Bytes of the value of an extended attribute, and of the list of their names, at most.
const XATTR_BYTES_MAX: usize = 64 << 10;
/// Names of extended attributes that only the administrator sees.
const TRUSTED: &[u8] = b"trusted.";
/// The access control list, which has the group's bits of the mode in it.
const ACCESS_LIST: &[u8] = b"system.posix_acl_access";

/// A time to set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The moment of the call.
    Now,
    /// Seconds since 1970, and nanoseconds after them.
    At(i64, u32),
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Length.
    pub size: Option<u64>,
    /// Time of the last access.
    pub atime: Option<When>,
    /// Time of the last change of content.
    pub mtime: Option<When>,
}

/// An inode with its attributes.
pub type Found = (Arc<Inode>, Stat);
/// A file that was made and opened.
pub type Made = (Arc<Inode>, Stat, OpenFile);

/// A directory that is passed through.
pub struct Directory {
    inodes: Inodes,
    meter: Meter,
    rights: Rights,
}

/// A name that is one component of a path.
fn component(name: &OsStr) -> Result<&[u8]> {
    match name.as_bytes() {
        b"" => Err(Errno::NOENT),
        b"." | b".." => Err(Errno::INVAL),
        name if name.contains(&b'/') => Err(Errno::INVAL),
        name => Ok(name),
    }
}

impl Directory {
    /// Passes through the directory at `path`; classes of files are those of `patterns`. No thread that serves requests may have been started before.
    pub fn open(path: &Path, patterns: Patterns) -> Result<Directory> {
        let handle = fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let stat = fs::fstat(&handle)?;
        let inodes = Inodes::new(handle, &stat, patterns);
        Ok(Directory { inodes, meter: Meter::new(), rights: Rights::prepare() })
    }

    /// The inodes that the kernel knows.
    pub fn inodes(&self) -> &Inodes {
        &self.inodes
    }

    /// What has been counted.
    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Rights of this process.
    pub fn rights(&self) -> &Rights {
        &self.rights
    }

    /// The inode of a number; the kernel may ask for none that it has not been told.
    pub fn inode(&self, number: u64) -> Result<Arc<Inode>> {
        self.inodes.get(number).ok_or(Errno::STALE)
    }

    fn class_of(&self, parent: &Inode, name: &[u8]) -> Class {
        self.inodes.class(&parent.path_of(name))
    }

    /// Finds a name.
    pub fn lookup(&self, parent: &Arc<Inode>, name: &OsStr) -> Result<Found> {
        let name = component(name)?;
        let handle =
            fs::openat(parent, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        self.found(handle, parent, name)
    }

    fn found(&self, handle: OwnedFd, parent: &Arc<Inode>, name: &[u8]) -> Result<Found> {
        let stat = fs::fstat(&handle)?;
        Ok((self.inodes.remember(handle, &stat, parent, name), stat))
    }

    /// Attributes.
    pub fn attributes(&self, inode: &Inode) -> Result<Stat> {
        let stat = fs::fstat(inode)?;
        inode.looked_at(&stat);
        Ok(stat)
    }

    /// Changes attributes, through `file` if the kernel names an open one. Set-id bits are cleared as for a caller who may not keep them if
    /// `clears`.
    pub fn change(
        &self,
        inode: &Inode,
        file: Option<&OpenFile>,
        changes: &Changes,
        clears: bool,
    ) -> Result<Stat> {
        if let Some(mode) = changes.mode {
            // The kernel has left out the bits that the caller may not set.
            let mode = Mode::from_raw_mode(mode & 0o7777);
            self.rights
                .clearing(false, || fs::chmodat(fs::CWD, inode.magic_path(), mode, AtFlags::empty()))?;
        }
        if changes.uid.is_some() || changes.gid.is_some() {
            let (uid, gid) = (changes.uid.map(Uid::from_raw), changes.gid.map(Gid::from_raw));
            fs::chownat(inode, "", uid, gid, AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if let Some(size) = changes.size {
            self.rights.clearing(clears, || match file {
                Some(file) => fs::ftruncate(file, size),
                None => {
                    let file = fs::open(inode.magic_path(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
                    fs::ftruncate(&file, size)
                }
            })?;
        }
        if changes.atime.is_some() || changes.mtime.is_some() {
            let time = |when: Option<When>| match when {
                None => Timespec { tv_sec: 0, tv_nsec: fs::UTIME_OMIT },
                Some(When::Now) => Timespec { tv_sec: 0, tv_nsec: fs::UTIME_NOW },
                Some(When::At(seconds, nanos)) => Timespec { tv_sec: seconds, tv_nsec: nanos.into() },
            };
            let times =
                Timestamps { last_access: time(changes.atime), last_modification: time(changes.mtime) };
            fs::utimensat(inode, "", &times, AtFlags::EMPTY_PATH | AtFlags::SYMLINK_NOFOLLOW)?;
        }
        self.attributes(inode)
    }

    /// The target of a symbolic link.
    pub fn readlink(&self, inode: &Inode) -> Result<Vec<u8>> {
        Ok(fs::readlinkat(inode, "", Vec::new())?.into_bytes())
    }

    /// Makes a file, and opens it with `flags` of `open(2)`.
    pub fn create(
        &self,
        caller: Caller,
        parent: &Arc<Inode>,
        name: &OsStr,
        mode: u32,
        flags: i32,
    ) -> Result<Made> {
        let name = component(name)?;
        let mode = Mode::from_raw_mode(mode & 0o7777);
        let is_exclusive = flags & libc::O_EXCL != 0;
        let flags = OpenFile::flags(flags) | OFlags::CREATE | OFlags::NOFOLLOW;
        // Whether it is new is told by a first try, which the kernel would make as well.
        let new = || fs::openat(parent, name, flags | OFlags::EXCL, mode);
        let made = self.rights.clearing(false, || self.rights.as_caller(caller, new));
        let (file, is_new) = match made {
            Err(Errno::EXIST) if !is_exclusive => (fs::openat(parent, name, flags, mode)?, false),
            made => (made?, true),
        };
        let class = self.class_of(parent, name);
        if is_new {
            self.meter.created(class);
        }
        let magic = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        let handle = fs::open(magic, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
        let (inode, stat) = self.found(handle, parent, name)?;
        Ok((inode.clone(), stat, OpenFile::new(inode, file, flags)?.0))
    }

    /// Opens a file with `flags` of `open(2)`; also whether what the kernel keeps of its content is still true.
    pub fn open_file(&self, inode: &Arc<Inode>, flags: i32) -> Result<(OpenFile, bool)> {
        let flags = OpenFile::flags(flags);
        let file = fs::open(inode.magic_path(), flags, Mode::empty())?;
        OpenFile::new(inode.clone(), file, flags)
    }

    /// Makes a file, a pipe, a socket or a device.
    pub fn mknod(
        &self,
        caller: Caller,
        parent: &Arc<Inode>,
        name: &OsStr,
        mode: u32,
        device: u32,
    ) -> Result<Found> {
        let bytes = component(name)?;
        let kind = fs::FileType::from_raw_mode(mode);
        let permissions = Mode::from_raw_mode(mode & 0o7777);
        let make = || fs::mknodat(parent, bytes, kind, permissions, device.into());
        self.rights.clearing(false, || self.rights.as_caller(caller, make))?;
        if kind == fs::FileType::RegularFile {
            self.meter.created(self.class_of(parent, bytes));
        }
        self.lookup(parent, name)
    }

    /// Makes a directory.
    pub fn mkdir(&self, caller: Caller, parent: &Arc<Inode>, name: &OsStr, mode: u32) -> Result<Found> {
        let bytes = component(name)?;
        let make = || fs::mkdirat(parent, bytes, Mode::from_raw_mode(mode & 0o7777));
        self.rights.clearing(false, || self.rights.as_caller(caller, make))?;
        self.lookup(parent, name)
    }

    /// Makes a symbolic link to `target`.
    pub fn symlink(&self, caller: Caller, parent: &Arc<Inode>, name: &OsStr, target: &Path) -> Result<Found> {
        let bytes = component(name)?;
        self.rights.as_caller(caller, || fs::symlinkat(target, parent, bytes))?;
        self.lookup(parent, name)
    }

    /// Gives a file one more name.
    pub fn link(&self, inode: &Inode, parent: &Arc<Inode>, name: &OsStr) -> Result<Found> {
        let bytes = component(name)?;
        fs::linkat(fs::CWD, inode.magic_path(), parent, bytes, AtFlags::SYMLINK_FOLLOW)?;
        self.lookup(parent, name)
    }

    /// Removes a name of a file.
    pub fn unlink(&self, parent: &Inode, name: &OsStr) -> Result<()> {
        let name = component(name)?;
        fs::unlinkat(parent, name, AtFlags::empty())?;
        self.meter.removed(self.class_of(parent, name));
        Ok(())
    }

    /// Removes a directory.
    pub fn rmdir(&self, parent: &Inode, name: &OsStr) -> Result<()> {
        fs::unlinkat(parent, component(name)?, AtFlags::REMOVEDIR)
    }

    /// Renames, with `flags` of `renameat2(2)`.
    pub fn rename(
        &self,
        (parent, name): (&Arc<Inode>, &OsStr),
        (new_parent, new_name): (&Arc<Inode>, &OsStr),
        flags: u32,
    ) -> Result<()> {
        let (name, new_name) = (component(name)?, component(new_name)?);
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::INVAL)?;
        fs::renameat_with(parent, name, new_parent, new_name, flags)?;
        let note = |parent: &Arc<Inode>, name: &[u8]| {
            // It may be gone again: then nobody needs to know its name.
            if let Ok(stat) = fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
                self.inodes.renamed(Identity::of(&stat), parent, name);
            }
        };
        note(new_parent, new_name);
        if flags.contains(RenameFlags::EXCHANGE) {
            note(parent, name);
        }
        Ok(())
    }

    /// Space and inodes of the filesystem.
    pub fn space(&self) -> Result<StatVfs> {
        fs::fstatvfs(self.inodes.root())
    }

    /// Writes back all that the filesystem keeps.
    pub fn sync_all(&self) -> Result<()> {
        let root = fs::openat(
            self.inodes.root(),
            ".",
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        fs::syncfs(root.as_fd())
    }

    /// Sets an extended attribute, with `flags` of `setxattr(2)`.
    pub fn setxattr(
        &self,
        caller: Caller,
        inode: &Inode,
        name: &OsStr,
        value: &[u8],
        flags: i32,
    ) -> Result<()> {
        let flags = XattrFlags::from_bits(flags.cast_unsigned()).ok_or(Errno::INVAL)?;
        let set = || fs::setxattr(inode.magic_path(), name.as_bytes(), value, flags);
        // A list that is set by somebody who is not of the file's group takes the set-group-id bit away.
        if name.as_bytes() == ACCESS_LIST && caller.uid != 0 {
            return self.rights.clearing(true, || self.rights.as_caller(caller, set));
        }
        set()
    }

    /// An extended attribute.
    pub fn getxattr(&self, inode: &Inode, name: &OsStr) -> Result<Vec<u8>> {
        let mut value = vec![0; XATTR_BYTES_MAX];
        let length = fs::getxattr(inode.magic_path(), name.as_bytes(), &mut value[..])?;
        value.truncate(length);
        Ok(value)
    }

    /// The names of extended attributes that `caller` may see, each with a zero behind it.
    pub fn listxattr(&self, caller: Caller, inode: &Inode) -> Result<Vec<u8>> {
        let mut list = vec![0; XATTR_BYTES_MAX];
        let length = fs::listxattr(inode.magic_path(), &mut list[..])?;
        list.truncate(length);
        if caller.uid != 0 {
            let names = list.split_inclusive(|byte| *byte == 0);
            list = names.filter(|name| !name.starts_with(TRUSTED)).flatten().copied().collect();
        }
        Ok(list)
    }

    /// Removes an extended attribute.
    pub fn removexattr(&self, inode: &Inode, name: &OsStr) -> Result<()> {
        fs::removexattr(inode.magic_path(), name.as_bytes())
    }
}
