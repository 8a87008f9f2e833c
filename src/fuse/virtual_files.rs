//! The requests that the virtual tree serves, each answered on the spot; a command written there is answered when it has ended, from the
//! thread that ended it. They are no operations of the filesystem, and none is counted. What the tree has no answer to is refused at the
//! door, in `protocol`.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

use fuser::{
    Errno, FileHandle, FopenFlags, INodeNo, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite,
};

use super::{GENERATION, convert};
use crate::fs;
use crate::fs::types::{Caller, Ino};
use crate::virtual_files::{Handle, VirtualTree};

/// The kernel remembers nothing of what may be another text a moment later.
const TTL: Duration = Duration::ZERO;

/// Serves the virtual tree.
pub(super) struct Virtual {
    pub(super) tree: Arc<VirtualTree>,
}

impl Virtual {
    /// Finds a name; `parent` may be the root.
    pub(super) fn lookup(&self, caller: Caller, parent: Ino, name: &OsStr, reply: ReplyEntry) {
        match self.tree.lookup(parent, name.as_bytes(), caller) {
            Some(found) => reply.entry(&TTL, &convert::attributes(&found), GENERATION),
            None => reply.error(Errno::ENOENT),
        }
    }

    /// Tells the attributes.
    pub(super) fn getattr(&self, ino: Ino, reply: ReplyAttr) {
        match self.tree.getattr(ino) {
            Ok(found) => reply.attr(&TTL, &convert::attributes(&found)),
            Err(error) => reply.error(convert::errno(&error)),
        }
    }

    /// Changes attributes: pretends to change size and times, since `echo flush > .stats` cuts the file first, and refuses where
    /// owner or mode are to change, too.
    pub(super) fn setattr(&self, ino: Ino, changes_rights: bool, reply: ReplyAttr) {
        match changes_rights {
            true => reply.error(Errno::EPERM),
            false => self.getattr(ino, reply),
        }
    }

    /// Opens a file: pins its text.
    pub(super) fn open(&self, caller: Caller, ino: Ino, reply: ReplyOpen) {
        match self.tree.open(ino, caller) {
            Ok(handle) => {
                let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH;
                reply.opened(FileHandle(handle.0), flags);
            }
            Err(error) => reply.error(convert::errno(&error)),
        }
    }

    /// Reads the text that was pinned.
    pub(super) fn read(&self, handle: FileHandle, offset: u64, size: u32, reply: ReplyData) {
        match self.tree.read(Handle(handle.0), offset, size) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(convert::errno(&error)),
        }
    }

    /// Gives a command.
    pub(super) fn write(&self, caller: Caller, ino: Ino, data: &[u8], reply: ReplyWrite) {
        let size = data.len() as u32;
        let done = move |result: fs::Result<()>| match result {
            Ok(()) => reply.written(size),
            Err(error) => reply.error(convert::errno(&error)),
        };
        self.tree.write(ino, caller, data, Box::new(done));
    }

    /// Closes a file.
    pub(super) fn release(&self, handle: FileHandle, reply: ReplyEmpty) {
        self.tree.release(Handle(handle.0));
        reply.ok();
    }

    /// Lists names.
    pub(super) fn readdir(&self, ino: Ino, cookie: u64, mut reply: ReplyDirectory) {
        let result = self.tree.readdir(ino, cookie, &mut |entry| {
            let name = OsStr::from_bytes(&entry.name);
            !reply.add(INodeNo(entry.ino.0), entry.cookie, convert::file_type(entry.kind), name)
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(convert::errno(&error)),
        }
    }

    /// Lists names with attributes.
    pub(super) fn readdirplus(&self, ino: Ino, cookie: u64, mut reply: ReplyDirectoryPlus) {
        let result = self.tree.readdir(ino, cookie, &mut |entry| {
            let name = OsStr::from_bytes(&entry.name);
            // An entry without attributes (`..`, or a file that is just gone) is listed and looked up later.
            let found = self.tree.getattr(entry.ino);
            let found = found.map_or(convert::absent(), |found| convert::attributes(&found));
            !reply.add(found.ino, entry.cookie, name, &TTL, &found, GENERATION)
        });
        match result {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(convert::errno(&error)),
        }
    }
}
