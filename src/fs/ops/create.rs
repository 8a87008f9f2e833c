//! New names: create, mknod, mkdir, symlink, and link.

use std::sync::Arc;

use bytes::Bytes;

use super::lookup::check_name;
use crate::engine::{Batch, Tier};
use crate::fs::counters::Change;
use crate::fs::dirent::Dirent;
use crate::fs::inode::{HAS_XATTRS, Inode};
use crate::fs::inodes::{InodeCell, InodeState};
use crate::fs::keys;
use crate::fs::locks::Locked;
use crate::fs::operation::Op;
use crate::fs::types::{Attributes, Caller, FileKind, Ino, LINKS_MAX, NewNode, TARGET_BYTES_MAX, Time};
use crate::fs::{Error, FileSystem, Result, acl};

impl FileSystem {
    /// Makes `node` as `name` in `parent`, owned by `caller` (the group comes from a directory with the sgid bit), with the
    /// permission bits of `mode` that `umask` does not take away; a default access control list of the directory takes the
    /// place of `umask`. `op` is the operation that it counts as. On success
    /// the kernel has a reference to the new inode.
    #[allow(clippy::too_many_arguments)]
    pub fn make(
        &self,
        tier: Tier,
        op: Op,
        caller: Caller,
        parent: Ino,
        name: &[u8],
        mode: u32,
        umask: u32,
        node: NewNode<'_>,
    ) -> Result<Attributes> {
        self.require_writable()?;
        check_name(name)?;
        let directory = self.inodes.cell(parent, tier)?;
        let mut state = directory.write(tier)?;
        self.require_room_for(&directory, &state, name, tier)?;

        let now = self.now();
        let inherited = match node {
            NewNode::Symlink(_) => None,
            _ => self.acl(parent, &state, acl::DEFAULT, tier)?,
        };
        let umask = if inherited.is_some() { 0 } else { umask };
        let mut record = Inode::new(FileKind::File, mode & !umask & 0o7777, caller.uid, caller.gid, now);
        match node {
            NewNode::File => {}
            NewNode::Directory => {
                record = Inode { kind: FileKind::Directory, links: 2, parent, ..record };
            }
            NewNode::Symlink(target) => {
                if target.is_empty() {
                    return Err(Error::NotFound);
                }
                if target.len() > TARGET_BYTES_MAX {
                    return Err(Error::NameTooLong);
                }
                let (target, size) = (Bytes::copy_from_slice(target), target.len() as u64);
                record = Inode { kind: FileKind::Symlink, permissions: 0o777, target, size, ..record };
            }
            NewNode::Special { kind: FileKind::Directory | FileKind::Symlink, .. } => {
                return Err(Error::Invalid);
            }
            NewNode::Special { kind, rdev } => record = Inode { kind, rdev, ..record },
        }
        if state.record.permissions & libc::S_ISGID != 0 {
            record.gid = state.record.gid;
            if record.is_directory() {
                record.permissions |= libc::S_ISGID;
            }
        }

        let ino = self.new_ino(tier)?;
        let entry = Dirent { ino, kind: record.kind };
        let mut batch = Batch::new(op.tag());
        let mut xattr_bytes = 0;
        if let Some(default) = inherited {
            let access = default.inherited(record.permissions);
            record.permissions = record.permissions & !0o777 | access.mode();
            let lists = [
                (acl::ACCESS, (!access.is_minimal()).then_some(&access)),
                (acl::DEFAULT, record.is_directory().then_some(&default)),
            ];
            for (name, list) in lists {
                if let Some(list) = list {
                    let (key, value) = (keys::xattr(ino, name), list.encode());
                    xattr_bytes += (key.len() + value.len()) as i64;
                    batch.put(key, value);
                    record.set(HAS_XATTRS, true);
                }
            }
        }
        batch.put(keys::inode(ino), record.encode());
        let change = Change::added(&record).plus(Change::records(xattr_bytes));
        self.add_name((&directory, &mut state), name, entry, now, batch, change, tier)?;
        let attributes = record.attributes(ino, self.options.block_bytes);
        let cell = self.inodes.adopt(ino, record);
        cell.add_lookups(1);
        self.inodes.note_path(parent, name, &cell);
        Ok(attributes)
    }

    /// Gives `ino` the further name `name` in `parent`. On success the kernel has one more reference to it.
    pub fn link(&self, tier: Tier, ino: Ino, parent: Ino, name: &[u8]) -> Result<Attributes> {
        self.require_writable()?;
        check_name(name)?;
        let (cell, directory) = (self.inodes.cell(ino, tier)?, self.inodes.cell(parent, tier)?);
        if cell.read(tier)?.record.is_directory() {
            return Err(Error::NotPermitted);
        }
        let mut locked = Locked::write(&[&cell, &directory], tier)?;
        self.require_room_for(&directory, locked.of(parent), name, tier)?;
        let old = &locked.of(ino).record;
        match old.links {
            0 => return Err(Error::NotFound),
            LINKS_MAX.. => return Err(Error::TooManyLinks),
            _ => {}
        }
        let now = self.now();
        let record = Inode { links: old.links + 1, ctime: now, ..old.clone() };
        let entry = Dirent { ino, kind: record.kind };
        let mut batch = Batch::new(Op::Link.tag());
        batch.put(keys::inode(ino), record.encode());
        let place = (&directory, locked.of_mut(parent));
        self.add_name(place, name, entry, now, batch, Change::default(), tier)?;
        let state = locked.of_mut(ino);
        state.record = record;
        state.deferred = None;
        cell.add_lookups(1);
        Ok(state.record.attributes(ino, self.options.block_bytes))
    }

    /// Whether the locked directory is one that lives, and `name` is free in it.
    fn require_room_for(
        &self,
        directory: &InodeCell,
        state: &InodeState,
        name: &[u8],
        tier: Tier,
    ) -> Result<()> {
        state.require_directory()?;
        if self.entry(directory.ino, name, tier)?.is_some() {
            return Err(Error::Exists);
        }
        if state.record.links == 0 { Err(Error::NotFound) } else { Ok(()) }
    }

    /// Adds `name` to `batch`, applies it, and remembers the name. The directory's times wait, unless a new
    /// directory changes its link count.
    #[allow(clippy::too_many_arguments)]
    fn add_name(
        &self,
        (directory, state): (&Arc<InodeCell>, &mut InodeState),
        name: &[u8],
        entry: Dirent,
        now: Time,
        mut batch: Batch,
        change: Change,
        tier: Tier,
    ) -> Result<()> {
        let hash = self.names.hash(name);
        batch.put(keys::dirent(directory.ino, hash, name), entry.encode());
        let mut record = Inode { mtime: now, ctime: now, ..state.record.clone() };
        let put = entry.kind == FileKind::Directory;
        if put {
            // Only damage makes it that many.
            record.links = record.links.saturating_add(1);
            batch.put(keys::inode(directory.ino), record.encode());
        }
        self.apply(&mut batch, tier)?;
        self.counters.add(change.plus(Change::records(Dirent::record_bytes(name) as i64)));
        self.names.put(directory.ino, hash, name, entry);
        self.update_record(directory, state, record, put);
        Ok(())
    }

    /// Makes `record` that of a locked inode: either it was `stored` by the batch before, or it differs in times alone, and they
    /// wait.
    pub(in crate::fs) fn update_record(
        &self,
        cell: &Arc<InodeCell>,
        state: &mut InodeState,
        record: Inode,
        stored: bool,
    ) {
        state.record = record;
        if stored {
            state.deferred = None;
        } else {
            self.defer(cell, state);
        }
    }
}
