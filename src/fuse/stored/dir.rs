//! Requests about directories: opened, listed, made durable.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

use fuser::{FileHandle, FopenFlags, INodeNo, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyOpen};

use super::StoredFiles;
use super::dispatch::Outcome;
use crate::fs::FileSystem;
use crate::fs::operation::Op;
use crate::fs::types::Ino;
use crate::fuse::behind::Listing;
use crate::fuse::{GENERATION, convert};

impl Listing for StoredFiles {
    fn opendir(&self, _: Ino, reply: ReplyOpen) {
        // What others change is listed anew each time.
        let flags = match self.core.states.are_followed() {
            true => FopenFlags::empty(),
            false => FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE,
        };
        self.core.record(Op::Opendir, Instant::now(), 0, false);
        reply.opened(FileHandle(0), flags);
    }

    fn readdir(&self, ino: Ino, _: FileHandle, cookie: u64, reply: ReplyDirectory) {
        let call = move |fs: &FileSystem, tier, reply: &mut ReplyDirectory| {
            let mut added = false;
            let result = fs.readdir(tier, ino, cookie, &mut |entry| {
                let name = OsStr::from_bytes(&entry.name);
                let full =
                    reply.add(INodeNo(entry.ino.0), entry.cookie, convert::file_type(entry.kind), name);
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

    fn readdirplus(&self, ino: Ino, _: FileHandle, cookie: u64, reply: ReplyDirectoryPlus) {
        let ttl = self.core.options.timeout;
        let call = move |fs: &FileSystem, tier, reply: &mut ReplyDirectoryPlus| {
            let mut added = false;
            let result = fs.readdir_plus(tier, ino, cookie, &mut |entry, found| {
                let (name, found) = (OsStr::from_bytes(&entry.name), convert::attributes(found));
                let full = reply.add(INodeNo(entry.ino.0), entry.cookie, name, &ttl, &found, GENERATION);
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

    fn releasedir(&self, _: FileHandle, reply: ReplyEmpty) {
        self.core.record(Op::Releasedir, Instant::now(), 0, false);
        reply.ok();
    }

    fn fsyncdir(&self, ino: Ino, _: FileHandle, data_only: bool, reply: ReplyEmpty) {
        self.sync(Op::Fsyncdir, ino, data_only, reply);
    }
}
