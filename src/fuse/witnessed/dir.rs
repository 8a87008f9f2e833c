//! Requests about directories: opened, listed, made durable.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use fuser::{
    FileHandle, FileType, FopenFlags, INodeNo, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyOpen,
};

use super::{Witnessed, errno, file_type};
use crate::fs::types::Ino;
use crate::fuse::behind::Listing;
use crate::fuse::reply::empty;
use crate::witness::{OpenDirectory, ROOT_NUMBER};

impl Listing for Witnessed {
    fn opendir(&self, ino: Ino, reply: ReplyOpen) {
        let _under_way = self.core.under_way.begin();
        let opened = self.inode(ino).and_then(|inode| OpenDirectory::open(&inode).map_err(errno));
        match opened {
            Ok(directory) => reply.opened(self.core.directories.add(directory), FopenFlags::empty()),
            Err(error) => reply.error(error),
        }
    }

    fn readdir(&self, ino: Ino, handle: FileHandle, cookie: u64, mut reply: ReplyDirectory) {
        let _under_way = self.core.under_way.begin();
        let listing = match self.core.directories.get(handle) {
            Ok(listing) => listing,
            Err(error) => return reply.error(error),
        };
        let is_hidden = |name: &[u8]| {
            ino.0 == ROOT_NUMBER && self.core.hidden.iter().any(|hidden| hidden.as_bytes() == name)
        };
        let mut has_some = false;
        let listed = listing.list(self.core.directory.inodes(), cookie, &mut |entry| {
            if is_hidden(entry.name) {
                return true;
            }
            let kind: FileType = file_type(entry.kind.as_raw_mode());
            let is_full = reply.add(INodeNo(entry.number), entry.cookie, kind, OsStr::from_bytes(entry.name));
            has_some |= !is_full;
            !is_full
        });
        match listed {
            // Some entries are an answer: the kernel goes on after the last of them.
            Err(error) if !has_some => reply.error(errno(error)),
            _ => reply.ok(),
        }
    }

    fn readdirplus(&self, _: Ino, _: FileHandle, _: u64, reply: ReplyDirectoryPlus) {
        // The kernel has not been told that there is such an answer.
        reply.error(fuser::Errno::ENOSYS);
    }

    fn releasedir(&self, handle: FileHandle, reply: ReplyEmpty) {
        let _under_way = self.core.under_way.begin();
        self.core.directories.remove(handle);
        reply.ok();
    }

    fn fsyncdir(&self, _: Ino, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        let directory = match self.core.directories.get(handle) {
            Ok(directory) => directory,
            Err(error) => return reply.error(error),
        };
        self.wait_for(move |core| {
            let synced = directory.sync(data_only);
            if synced.is_ok() {
                core.directory.meter().synced_directory();
            }
            empty(reply, synced.map_err(errno));
        });
    }
}
