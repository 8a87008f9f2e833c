//! Requests about names: looked up, made, moved, removed.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Instant;

use fuser::{Errno, RenameFlags, ReplyEmpty, ReplyEntry, Request};

use super::StoredFiles;
use crate::fs::Tier;
use crate::fs::operation::Op;
use crate::fs::types::{Attributes, FileKind, Ino, NewNode};
use crate::fs::{self, FileSystem};
use crate::fuse::behind::Names;
use crate::fuse::reply::empty;
use crate::fuse::{GENERATION, caller, convert};

/// The inode to make, with its own copy of the target.
enum Node {
    File,
    Directory,
    Symlink(Vec<u8>),
    Special(FileKind, u32),
}

impl Names for StoredFiles {
    fn lookup(&self, parent: Ino, name: &OsStr, reply: ReplyEntry) {
        let ttl = self.core.options.timeout;
        let name = name.as_bytes().to_vec();
        let answer = move |reply: ReplyEntry, result: Result<Attributes, Errno>| match result {
            Ok(found) => reply.entry(&ttl, &convert::attributes(&found), GENERATION),
            // We are the only writer, so the kernel may remember also that a name is not there.
            Err(errno) if errno.code() == libc::ENOENT && !ttl.is_zero() => {
                reply.entry(&ttl, &convert::absent(), GENERATION);
            }
            Err(errno) => reply.error(errno),
        };
        let states = self.core.states.clone();
        let call = move |fs: &FileSystem, tier| {
            let found = fs.lookup(tier, parent, &name)?;
            // What the kernel has of an open file is of the state that it is held in.
            states.held(found.ino).map_or(Ok(found), |held| held.getattr(tier, found.ino))
        };
        self.ask(Op::Lookup, reply, call, answer);
    }

    fn forget(&self, ino: Ino, lookups: u64) {
        let begun = Instant::now();
        self.core.states.newest().forget(ino, lookups);
        self.core.record(Op::Forget, begun, 0, false);
    }

    #[allow(clippy::too_many_arguments)]
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
        let node = match FileKind::from_mode(mode) {
            Some(FileKind::File) => Node::File,
            Some(kind @ (FileKind::Fifo | FileKind::Socket)) => Node::Special(kind, 0),
            Some(kind @ (FileKind::CharDevice | FileKind::BlockDevice)) => Node::Special(kind, rdev),
            Some(FileKind::Directory | FileKind::Symlink) | None => return reply.error(Errno::EINVAL),
        };
        self.make(Op::Mknod, request, parent, name, mode, umask, node, reply);
    }

    fn mkdir(&self, request: &Request, parent: Ino, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        self.make(Op::Mkdir, request, parent, name, mode, umask, Node::Directory, reply);
    }

    fn symlink(&self, request: &Request, parent: Ino, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let node = Node::Symlink(target.as_os_str().as_bytes().to_vec());
        self.make(Op::Symlink, request, parent, name, 0o777, 0, node, reply);
    }

    fn unlink(&self, parent: Ino, name: &OsStr, reply: ReplyEmpty) {
        self.remove(Op::Unlink, parent, name, reply, |fs, tier, parent, name| fs.unlink(tier, parent, name));
    }

    fn rmdir(&self, parent: Ino, name: &OsStr, reply: ReplyEmpty) {
        self.remove(Op::Rmdir, parent, name, reply, |fs, tier, parent, name| fs.rmdir(tier, parent, name));
    }

    fn rename(
        &self,
        request: &Request,
        (parent, name): (Ino, &OsStr),
        (new_parent, new_name): (Ino, &OsStr),
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let Some((mode, whiteout)) = convert::rename_mode(flags) else { return reply.error(Errno::EINVAL) };
        let (name, new_name) = (name.as_bytes().to_vec(), new_name.as_bytes().to_vec());
        let whiteout = whiteout.then(|| caller(request));
        let call = move |fs: &FileSystem, tier| {
            fs.rename(tier, (parent, &name), (new_parent, &new_name), mode, whiteout)
        };
        self.change_name(Op::Rename, reply, call, empty);
    }

    fn link(&self, ino: Ino, parent: Ino, name: &OsStr, reply: ReplyEntry) {
        let name = name.as_bytes().to_vec();
        let call = move |fs: &FileSystem, tier| fs.link(tier, ino, parent, &name);
        self.change_name(Op::Link, reply, call, self.entry());
    }
}

impl StoredFiles {
    /// Makes a node and answers with its entry.
    #[allow(clippy::too_many_arguments)]
    fn make(
        &self,
        op: Op,
        request: &Request,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        umask: u32,
        node: Node,
        reply: ReplyEntry,
    ) {
        let (caller, name) = (caller(request), name.as_bytes().to_vec());
        let call = move |fs: &FileSystem, tier| {
            let node = match &node {
                Node::Directory => NewNode::Directory,
                Node::File => NewNode::File,
                Node::Symlink(target) => NewNode::Symlink(target),
                Node::Special(kind, rdev) => NewNode::Special { kind: *kind, rdev: *rdev },
            };
            fs.make(tier, op, caller, parent, &name, mode & 0o7777, umask, node)
        };
        self.change_name(op, reply, call, self.entry());
    }

    fn remove(
        &self,
        op: Op,
        parent: Ino,
        name: &OsStr,
        reply: ReplyEmpty,
        remove: fn(&FileSystem, Tier, Ino, &[u8]) -> fs::Result<()>,
    ) {
        let name = name.as_bytes().to_vec();
        self.change_name(op, reply, move |fs, tier| remove(fs, tier, parent, &name), empty);
    }
}
