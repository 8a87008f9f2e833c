//! Requests about attributes, plain and extended, and about the filesystem as a whole.

use std::ffi::OsStr;
use std::time::SystemTime;

use fuser::{FileHandle, ReplyAttr, ReplyData, ReplyEmpty, ReplyStatfs, ReplyXattr, Request, TimeOrNow};

use super::{Witnessed, caller, errno};
use crate::fs::types::Ino;
use crate::fuse::behind::Attributes;
use crate::fuse::convert;
use crate::fuse::reply::{empty, sized};
use crate::witness::{Changes, When};

fn when(received: TimeOrNow) -> When {
    match received {
        TimeOrNow::Now => When::Now,
        TimeOrNow::SpecificTime(moment) => {
            let time = convert::time(moment);
            When::At(time.seconds, time.nanos)
        }
    }
}

impl Attributes for Witnessed {
    fn getattr(&self, ino: Ino, reply: ReplyAttr) {
        let _under_way = self.core.under_way.begin();
        let directory = &self.core.directory;
        let found = directory.inode(ino.0).and_then(|inode| directory.attributes(&inode));
        self.core.attributes(reply, ino.0, found);
    }

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
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let _under_way = self.core.under_way.begin();
        let changes = Changes { mode, uid, gid, size, atime: atime.map(when), mtime: mtime.map(when) };
        let file = handle.and_then(|handle| self.core.files.get(handle).ok());
        let directory = &self.core.directory;
        let changed = directory
            .inode(ino.0)
            .and_then(|inode| directory.change(&inode, file.as_deref(), &changes, request.uid() != 0));
        self.core.attributes(reply, ino.0, changed);
    }

    fn readlink(&self, ino: Ino, reply: ReplyData) {
        let _under_way = self.core.under_way.begin();
        let directory = &self.core.directory;
        match directory.inode(ino.0).and_then(|inode| directory.readlink(&inode)) {
            Ok(target) => reply.data(&target),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn statfs(&self, reply: ReplyStatfs) {
        let _under_way = self.core.under_way.begin();
        match self.core.directory.space() {
            Ok(space) => reply.statfs(
                space.f_blocks,
                space.f_bfree,
                space.f_bavail,
                space.f_files,
                space.f_ffree,
                space.f_bsize as u32,
                space.f_namemax as u32,
                space.f_frsize as u32,
            ),
            Err(error) => reply.error(errno(error)),
        }
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
        let _under_way = self.core.under_way.begin();
        let directory = &self.core.directory;
        let set = directory
            .inode(ino.0)
            .and_then(|inode| directory.setxattr(caller(request, 0), &inode, name, value, flags));
        empty(reply, set.map_err(errno));
    }

    fn getxattr(&self, ino: Ino, name: &OsStr, size: u32, reply: ReplyXattr) {
        let _under_way = self.core.under_way.begin();
        let directory = &self.core.directory;
        let value = directory.inode(ino.0).and_then(|inode| directory.getxattr(&inode, name));
        sized(size)(reply, value.map_err(errno));
    }

    fn listxattr(&self, request: &Request, ino: Ino, size: u32, reply: ReplyXattr) {
        let _under_way = self.core.under_way.begin();
        let directory = &self.core.directory;
        let list = directory.inode(ino.0).and_then(|inode| directory.listxattr(caller(request, 0), &inode));
        sized(size)(reply, list.map_err(errno));
    }

    fn removexattr(&self, ino: Ino, name: &OsStr, reply: ReplyEmpty) {
        let _under_way = self.core.under_way.begin();
        let directory = &self.core.directory;
        let removed = directory.inode(ino.0).and_then(|inode| directory.removexattr(&inode, name));
        empty(reply, removed.map_err(errno));
    }
}
