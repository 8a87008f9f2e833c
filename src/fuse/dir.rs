//! Requests about directories: opened, listed, made durable.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use fuser::{FileHandle, FopenFlags, INodeNo, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyOpen};

use super::dispatch::Outcome;
use super::{Adapter, GENERATION, convert, is_virtual};
use crate::fs::FileSystem;
use crate::fs::meter::Op;

impl Adapter {
    /// Opens a directory.
    pub(super) fn opendir(&self, ino: INodeNo, reply: ReplyOpen) {
        let flags = if is_virtual(ino) {
            FopenFlags::empty()
        } else {
            FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE
        };
        self.core.record(Op::Opendir, Instant::now(), 0, false);
        reply.opened(FileHandle(0), flags);
    }

    /// Lists names.
    pub(super) fn readdir(&self, ino: INodeNo, cookie: u64, mut reply: ReplyDirectory) {
        if is_virtual(ino) {
            let result = self.core.tree.readdir(ino.0, cookie, &mut |entry| {
                let name = OsStr::from_bytes(&entry.name);
                !reply.add(INodeNo(entry.ino), entry.cookie, convert::file_type(entry.kind), name)
            });
            return match result {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(convert::errno(&error)),
            };
        }
        let call = move |fs: &FileSystem, tier, reply: &mut ReplyDirectory| {
            let mut added = false;
            let result = fs.readdir(tier, ino.0, cookie, &mut |entry| {
                let name = OsStr::from_bytes(&entry.name);
                let full = reply.add(INodeNo(entry.ino), entry.cookie, convert::file_type(entry.kind), name);
                added |= !full;
                !full
            });
            // Some entries are an answer: the kernel goes on after the last of them.
            if added { Ok(Outcome::of(())) } else { result.map(Outcome::of) }
        };
        self.serve(Op::Readdir, reply, call, |reply, result| match result {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        });
    }

    /// Lists names with attributes.
    pub(super) fn readdirplus(&self, ino: INodeNo, cookie: u64, mut reply: ReplyDirectoryPlus) {
        if is_virtual(ino) {
            let tree = &self.core.tree;
            let result = tree.readdir(ino.0, cookie, &mut |entry| {
                let name = OsStr::from_bytes(&entry.name);
                // An entry without attributes (`..`, or a file that is just gone) is listed and looked up later.
                let found =
                    tree.getattr(entry.ino).map_or(convert::absent(), |found| convert::attributes(&found));
                !reply.add(found.ino, entry.cookie, name, &Duration::ZERO, &found, GENERATION)
            });
            return match result {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(convert::errno(&error)),
            };
        }
        let ttl = self.core.options.timeout;
        let call = move |fs: &FileSystem, tier, reply: &mut ReplyDirectoryPlus| {
            let mut added = false;
            let result = fs.readdir_plus(tier, ino.0, cookie, &mut |entry, found| {
                let (name, found) = (OsStr::from_bytes(&entry.name), convert::attributes(found));
                let full = reply.add(INodeNo(entry.ino), entry.cookie, name, &ttl, &found, GENERATION);
                added |= !full;
                !full
            });
            if added { Ok(Outcome::of(())) } else { result.map(Outcome::of) }
        };
        self.serve(Op::Readdir, reply, call, |reply, result| match result {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        });
    }

    /// Closes a directory.
    pub(super) fn releasedir(&self, reply: ReplyEmpty) {
        self.core.record(Op::Releasedir, Instant::now(), 0, false);
        reply.ok();
    }

    /// Makes a directory durable.
    pub(super) fn fsyncdir(&self, ino: INodeNo, data_only: bool, reply: ReplyEmpty) {
        self.sync(Op::Fsyncdir, ino, data_only, reply);
    }
}
