//! Requests about names: looked up, made, moved, removed.

use std::ffi::OsStr;
use std::path::Path;

use fuser::{RenameFlags, ReplyEmpty, ReplyEntry, Request};

use super::{Witnessed, absent, caller, errno};
use crate::fs::types::Ino;
use crate::fuse::GENERATION;
use crate::fuse::behind::Names;
use crate::fuse::reply::empty;
use crate::witness::Errno;

impl Names for Witnessed {
    fn lookup(&self, parent: Ino, name: &OsStr, reply: ReplyEntry) {
        let _under_way = self.core.under_way.begin();
        let found =
            self.core.directory.inode(parent.0).and_then(|parent| self.core.directory.lookup(&parent, name));
        self.bound_descriptors();
        match found {
            Err(Errno::NOENT) if !self.core.timeout.is_zero() => {
                reply.entry(&self.core.timeout, &absent(), GENERATION);
            }
            found => self.core.entry(reply, found),
        }
    }

    fn forget(&self, ino: Ino, lookups: u64) {
        self.core.directory.inodes().forget(ino.0, lookups);
    }

    fn mknod(
        &self,
        request: &Request,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let _under_way = self.core.under_way.begin();
        let directory = &self.core.directory;
        let made = directory
            .inode(parent.0)
            .and_then(|parent| directory.mknod(caller(request, umask), &parent, name, mode, rdev));
        self.bound_descriptors();
        self.core.entry(reply, made);
    }

    fn mkdir(&self, request: &Request, parent: Ino, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let _under_way = self.core.under_way.begin();
        let directory = &self.core.directory;
        let made = directory
            .inode(parent.0)
            .and_then(|parent| directory.mkdir(caller(request, umask), &parent, name, mode));
        self.bound_descriptors();
        self.core.entry(reply, made);
    }

    fn symlink(&self, request: &Request, parent: Ino, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let _under_way = self.core.under_way.begin();
        let directory = &self.core.directory;
        let made = directory
            .inode(parent.0)
            .and_then(|parent| directory.symlink(caller(request, 0), &parent, name, target));
        self.bound_descriptors();
        self.core.entry(reply, made);
    }

    fn unlink(&self, parent: Ino, name: &OsStr, reply: ReplyEmpty) {
        let _under_way = self.core.under_way.begin();
        let directory = &self.core.directory;
        let removed = directory.inode(parent.0).and_then(|parent| directory.unlink(&parent, name));
        empty(reply, removed.map_err(errno));
    }

    fn rmdir(&self, parent: Ino, name: &OsStr, reply: ReplyEmpty) {
        let _under_way = self.core.under_way.begin();
        let directory = &self.core.directory;
        let removed = directory.inode(parent.0).and_then(|parent| directory.rmdir(&parent, name));
        empty(reply, removed.map_err(errno));
    }

    fn rename(
        &self,
        _: &Request,
        (parent, name): (Ino, &OsStr),
        (new_parent, new_name): (Ino, &OsStr),
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let _under_way = self.core.under_way.begin();
        let directory = &self.core.directory;
        let renamed = directory.inode(parent.0).and_then(|parent| {
            let new_parent = directory.inode(new_parent.0)?;
            directory.rename((&parent, name), (&new_parent, new_name), flags.bits())
        });
        empty(reply, renamed.map_err(errno));
    }

    fn link(&self, ino: Ino, parent: Ino, name: &OsStr, reply: ReplyEntry) {
        let _under_way = self.core.under_way.begin();
        let directory = &self.core.directory;
        let made = directory
            .inode(ino.0)
            .and_then(|inode| directory.link(&inode, &directory.inode(parent.0)?, name));
        self.bound_descriptors();
        self.core.entry(reply, made);
    }
}
