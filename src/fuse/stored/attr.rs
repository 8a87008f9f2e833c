//! Requests about attributes, plain and extended, and about the filesystem as a whole.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::SystemTime;

use fuser::{
    Errno, FileHandle, ReplyAttr, ReplyData, ReplyEmpty, ReplyStatfs, ReplyXattr, Request, TimeOrNow,
};

use super::StoredFiles;
use super::dispatch::Outcome;
use crate::fs::FileSystem;
use crate::fs::operation::Op;
use crate::fs::types::{Ino, SetAttributes};
use crate::fuse::behind::Attributes;
use crate::fuse::reply::{empty, sized};
use crate::fuse::{caller, convert};

impl Attributes for StoredFiles {
    fn getattr(&self, ino: Ino, reply: ReplyAttr) {
        let fs = self.core.states.of(ino);
        self.ask_in(fs, Op::Getattr, reply, move |fs, tier| fs.getattr(tier, ino), self.attributes());
    }

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
        _: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
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
        let call = move |fs: &FileSystem, tier| fs.setattr(tier, caller, ino, &changes).map(Outcome::of);
        self.change_inode(op, ino, false, reply, call, self.attributes());
    }

    fn readlink(&self, ino: Ino, reply: ReplyData) {
        let call = move |fs: &FileSystem, tier| fs.readlink(tier, ino);
        self.ask(Op::Readlink, reply, call, |reply, result| match result {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        });
    }

    fn statfs(&self, reply: ReplyStatfs) {
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

    fn setxattr(
        &self,
        request: &Request,
        ino: Ino,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        reply: ReplyEmpty,
    ) {
        let Some(mode) = convert::xattr_mode(flags) else { return reply.error(Errno::EINVAL) };
        let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
        let caller = caller(request);
        let call = move |fs: &FileSystem, tier| {
            fs.setxattr_as(tier, caller, ino, &name, &value, mode).map(Outcome::of)
        };
        self.change_inode(Op::Setxattr, ino, false, reply, call, empty);
    }

    fn getxattr(&self, ino: Ino, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.as_bytes().to_vec();
        let call = move |fs: &FileSystem, tier| fs.getxattr(tier, ino, &name).map(|value| value.to_vec());
        self.ask_in(self.core.states.of(ino), Op::Getxattr, reply, call, sized(size));
    }

    fn listxattr(&self, request: &Request, ino: Ino, size: u32, reply: ReplyXattr) {
        let caller = caller(request);
        let fs = self.core.states.of(ino);
        self.ask_in(fs, Op::Listxattr, reply, move |fs, tier| fs.listxattr(tier, caller, ino), sized(size));
    }

    fn removexattr(&self, ino: Ino, name: &OsStr, reply: ReplyEmpty) {
        let name = name.as_bytes().to_vec();
        let call = move |fs: &FileSystem, tier| fs.removexattr(tier, ino, &name).map(Outcome::of);
        self.change_inode(Op::Removexattr, ino, false, reply, call, empty);
    }
}
