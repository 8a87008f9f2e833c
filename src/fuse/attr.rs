//! Requests about attributes, plain and extended, and about the filesystem as a whole.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime};

use fuser::{Errno, INodeNo, ReplyAttr, ReplyData, ReplyEmpty, ReplyStatfs, ReplyXattr, Request, TimeOrNow};

use super::dispatch::Outcome;
use super::reply::{empty, sized};
use super::{Adapter, caller, convert, is_virtual};
use crate::fs::FileSystem;
use crate::fs::meter::Op;
use crate::fs::types::SetAttributes;

impl Adapter {
    /// Tells the attributes.
    pub(super) fn getattr(&self, ino: INodeNo, reply: ReplyAttr) {
        if is_virtual(ino) {
            return match self.core.tree.getattr(ino.0) {
                Ok(found) => reply.attr(&Duration::ZERO, &convert::attributes(&found)),
                Err(error) => reply.error(convert::errno(&error)),
            };
        }
        self.ask(Op::Getattr, reply, move |fs, tier| fs.getattr(tier, ino.0), self.attributes());
    }

    /// Changes attributes; of a virtual file, pretends to change its size and times.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn setattr(
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
        reply: ReplyAttr,
    ) {
        if is_virtual(ino) {
            // `echo flush > .stats` cuts the file first: accepted, and without effect. Nothing else may change.
            if mode.is_some() || uid.is_some() || gid.is_some() {
                return reply.error(Errno::EPERM);
            }
            return self.getattr(ino, reply);
        }
        let changes = SetAttributes {
            permissions: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
            ctime: ctime.map(convert::time),
        };
        let op = if size.is_some() { Op::Truncate } else { Op::Setattr };
        let caller = caller(request);
        let call = move |fs: &FileSystem, tier| fs.setattr(tier, caller, ino.0, &changes).map(Outcome::of);
        self.change_inode(op, ino.0, false, reply, call, self.attributes());
    }

    /// Tells the target of a symbolic link.
    pub(super) fn readlink(&self, ino: INodeNo, reply: ReplyData) {
        if is_virtual(ino) {
            return reply.error(Errno::EINVAL);
        }
        let call = move |fs: &FileSystem, tier| fs.readlink(tier, ino.0);
        self.ask(Op::Readlink, reply, call, |reply, result| match result {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        });
    }

    /// Tells space and inodes.
    pub(super) fn statfs(&self, reply: ReplyStatfs) {
        self.ask(
            Op::Statfs,
            reply,
            |fs, _| fs.statfs(),
            |reply, result| match result {
                Ok(found) => reply.statfs(
                    found.blocks,
                    found.blocks_free,
                    found.blocks_available,
                    found.files,
                    found.files_free,
                    found.block_bytes,
                    crate::fs::types::NAME_BYTES_MAX as u32,
                    found.block_bytes,
                ),
                Err(errno) => reply.error(errno),
            },
        );
    }

    /// Sets an extended attribute.
    pub(super) fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        reply: ReplyEmpty,
    ) {
        if is_virtual(ino) {
            return reply.error(Errno::EPERM);
        }
        let Some(mode) = convert::xattr_mode(flags) else { return reply.error(Errno::EINVAL) };
        let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
        let caller = caller(request);
        let call = move |fs: &FileSystem, tier| {
            fs.setxattr_as(tier, caller, ino.0, &name, &value, mode).map(Outcome::of)
        };
        self.change_inode(Op::Setxattr, ino.0, false, reply, call, empty);
    }

    /// Tells an extended attribute.
    pub(super) fn getxattr(&self, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if is_virtual(ino) {
            return reply.error(Errno::ENODATA);
        }
        let name = name.as_bytes().to_vec();
        let call = move |fs: &FileSystem, tier| fs.getxattr(tier, ino.0, &name).map(|value| value.to_vec());
        self.ask(Op::Getxattr, reply, call, sized(size));
    }

    /// Lists extended attributes.
    pub(super) fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        if is_virtual(ino) {
            return sized(size)(reply, Ok(Vec::new()));
        }
        let caller = caller(request);
        self.ask(Op::Listxattr, reply, move |fs, tier| fs.listxattr(tier, caller, ino.0), sized(size));
    }

    /// Removes an extended attribute.
    pub(super) fn removexattr(&self, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if is_virtual(ino) {
            return reply.error(Errno::EPERM);
        }
        let name = name.as_bytes().to_vec();
        let call = move |fs: &FileSystem, tier| fs.removexattr(tier, ino.0, &name).map(Outcome::of);
        self.change_inode(Op::Removexattr, ino.0, false, reply, call, empty);
    }
}
