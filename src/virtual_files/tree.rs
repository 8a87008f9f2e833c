//! The tree of virtual files: which number, name and directory each has, and what it answers to the kernel's questions.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::snapshots::{Snapshot, Snapshots};
use super::{Done, FIRST_VIRTUAL, Handle, VirtualDirectory, VirtualFile};
use crate::base::clock::Clock;
use crate::fs::types::{Attributes, Caller, DirEntry, FileKind, Ino, ROOT, Time};
use crate::fs::{Error, Result};

/// Numbers of files in a [`VirtualDirectory`] have this bit, and below it the hash of directory and name: nothing has to be
/// remembered, and a name that comes back has its old number. That two of a hundred names share all 31 bits, and then show
/// one text, is a chance of one in 400,000.
const DYNAMIC: u64 = 1 << 31;

/// Cookies 1 and 2 stand behind `.` and `..`; an entry's own is its number from here.
const FIRST_COOKIE: u64 = 3;

enum Node {
    File(Arc<dyn VirtualFile>),
    Directory,
    Dynamic(Arc<dyn VirtualDirectory>),
}

/// A node of the fixed part; its number is [`FIRST_VIRTUAL`] plus its index.
struct Fixed {
    parent: Ino,
    name: &'static str,
    node: Node,
}

/// The virtual files of a mount.
pub struct VirtualTree {
    owner: Caller,
    born: Time,
    fixed: Vec<Fixed>,
    snapshots: Snapshots,
}

impl VirtualTree {
    /// An empty tree whose files belong to `owner`, who alone besides root may write to them.
    pub fn new(owner: Caller, clock: Arc<dyn Clock>) -> VirtualTree {
        let born = clock.now().into();
        VirtualTree { owner, born, fixed: Vec::new(), snapshots: Snapshots::new(clock) }
    }

    /// Adds a file to the directory `parent` ([`ROOT`], or one that was added).
    pub fn add_file(&mut self, parent: Ino, name: &'static str, file: Arc<dyn VirtualFile>) {
        self.add(parent, name, Node::File(file));
    }

    /// Adds a directory and returns its number.
    pub fn add_directory(&mut self, parent: Ino, name: &'static str) -> Ino {
        self.add(parent, name, Node::Directory)
    }

    /// Adds a directory whose files come and go.
    pub fn add_dynamic(&mut self, parent: Ino, name: &'static str, directory: Arc<dyn VirtualDirectory>) {
        self.add(parent, name, Node::Dynamic(directory));
    }

    fn add(&mut self, parent: Ino, name: &'static str, node: Node) -> Ino {
        self.fixed.push(Fixed { parent, name, node });
        FIRST_VIRTUAL.plus(self.fixed.len() as u64 - 1)
    }

    /// Whether the number belongs to this tree and not to the store.
    pub fn owns(&self, ino: Ino) -> bool {
        ino >= FIRST_VIRTUAL
    }

    /// Whether the tree takes `name` in the root. It is found by `lookup` but not listed, and nothing may be made, renamed, linked or
    /// removed under it.
    pub fn takes_at_root(&self, name: &[u8]) -> bool {
        self.fixed_in(ROOT).any(|(_, node)| node.name.as_bytes() == name)
    }

    /// The names that the tree takes in the root.
    pub fn names_at_root(&self) -> Vec<&'static str> {
        self.fixed_in(ROOT).map(|(_, node)| node.name).collect()
    }

    /// The directory that a file or directory of the tree lies in, which may be the root; `None` if it is gone.
    pub fn parent(&self, ino: Ino) -> Option<Ino> {
        match self.fixed_at(ino) {
            Some(fixed) => Some(fixed.parent),
            None => self.dynamic_at(ino).map(|(parent, _)| parent),
        }
    }

    /// The attributes of `name` in `parent`, which may be the root; `None` if the tree has no such name. `.` and `..` are those of
    /// `parent`, whatever it is, and of what it lies in, unless that is the root.
    /// The size of a file is that of the text which the open that follows takes: some readers trust the size, and others cannot but do so. For
    /// who commands the mount that text is new.
    pub fn lookup(&self, parent: Ino, name: &[u8], caller: Caller) -> Option<Attributes> {
        match name {
            b"." => return self.getattr(parent).ok(),
            b".." => return self.getattr(self.parent(parent)?).ok(),
            _ => {}
        }
        let fixed = self.fixed_in(parent).find(|(_, node)| node.name.as_bytes() == name);
        let (ino, file) = match fixed {
            Some((ino, Fixed { node: Node::File(file), .. })) => (ino, file.clone()),
            Some((ino, _)) => return self.getattr(ino).ok(),
            None => match &self.fixed_at(parent)?.node {
                Node::Dynamic(directory) => (dynamic_ino(parent, name), directory.file(name)?),
                _ => return None,
            },
        };
        let snapshot = self.newest_for(caller, ino, &*file);
        self.snapshots.tell(ino, snapshot.clone());
        Some(self.attributes_of(ino, &*file, &snapshot))
    }

    /// The attributes of a file or directory. Fails with `Stale` if it is gone.
    pub fn getattr(&self, ino: Ino) -> Result<Attributes> {
        let Some(file) = self.file(ino)? else {
            return Ok(self.attributes(ino, FileKind::Directory, 0o555, 0, self.born));
        };
        Ok(self.attributes_of(ino, &*file, &self.snapshots.shown(ino, &*file)))
    }

    /// Opens a file. The handle that is returned has the text of the lookup just before, or, where a file is opened again without one, a
    /// text of now, for strangers of a moment ago; that text stays the same.
    pub fn open(&self, ino: Ino, caller: Caller) -> Result<Handle> {
        let file = self.file(ino)?.ok_or(Error::IsDirectory)?;
        let told = self.snapshots.told(ino);
        Ok(self.snapshots.pin(ino, told.unwrap_or_else(|| self.newest_for(caller, ino, &*file))))
    }

    /// Up to `size` bytes of the handle's text at `offset`; fewer only at its end.
    pub fn read(&self, handle: Handle, offset: u64, size: u32) -> Result<Vec<u8>> {
        let snapshot = self.snapshots.pinned(handle)?;
        let length = snapshot.text.len();
        let start = usize::try_from(offset).unwrap_or(length).min(length);
        let end = start.saturating_add(size as usize).min(length);
        Ok(snapshot.text[start..end].to_vec())
    }

    /// Hands `data`, one or more lines, to the file. `done` is called once, perhaps later: with `NotPermitted` unless the
    /// caller is root or the owner, with `Invalid` for what the file does not understand.
    pub fn write(&self, ino: Ino, caller: Caller, data: &[u8], done: Done) {
        match self.file(ino) {
            Err(error) => done(Err(error)),
            Ok(None) => done(Err(Error::IsDirectory)),
            Ok(Some(file)) if file.mode() & 0o222 != 0 && self.commands(caller) => {
                file.write(caller, data, done);
            }
            Ok(Some(_)) => done(Err(Error::NotPermitted)),
        }
    }

    /// Closes a handle.
    pub fn release(&self, handle: Handle) {
        self.snapshots.unpin(handle);
    }

    /// Lists a directory from `cookie` (0 is the start), `.` and `..` first, until `emit` answers false.
    pub fn readdir(&self, ino: Ino, cookie: u64, emit: &mut dyn FnMut(DirEntry) -> bool) -> Result<()> {
        let directory = self.fixed_at(ino).ok_or(Error::NotDirectory)?;
        let mut found: Vec<(Ino, FileKind, Vec<u8>)> = match &directory.node {
            Node::File(_) => return Err(Error::NotDirectory),
            Node::Directory => {
                self.fixed_in(ino).map(|(ino, node)| (ino, node.kind(), node.name.into())).collect()
            }
            Node::Dynamic(directory) => {
                let entry = |name: Vec<u8>| (dynamic_ino(ino, &name), FileKind::File, name);
                directory.names().into_iter().map(entry).collect()
            }
        };
        found.sort_by_key(|entry| entry.0);
        let dots = [(1, ino, b".".to_vec()), (2, directory.parent, b"..".to_vec())];
        let dots = dots.into_iter().map(|(cookie, ino, name)| (cookie, ino, FileKind::Directory, name));
        let named = found
            .into_iter()
            .map(|(ino, kind, name)| (ino.0 - FIRST_VIRTUAL.0 + FIRST_COOKIE, ino, kind, name));
        for (own, ino, kind, name) in dots.chain(named) {
            if own > cookie && !emit(DirEntry { ino, kind, cookie: own, name }) {
                break;
            }
        }
        Ok(())
    }

    fn fixed_at(&self, ino: Ino) -> Option<&Fixed> {
        self.fixed.get(usize::try_from(ino.0.checked_sub(FIRST_VIRTUAL.0)?).ok()?)
    }

    fn fixed_in(&self, parent: Ino) -> impl Iterator<Item = (Ino, &Fixed)> {
        let numbered =
            self.fixed.iter().enumerate().map(|(index, node)| (FIRST_VIRTUAL.plus(index as u64), node));
        numbered.filter(move |(_, node)| node.parent == parent)
    }

    /// The file of a number; `None` for a directory.
    fn file(&self, ino: Ino) -> Result<Option<Arc<dyn VirtualFile>>> {
        if let Some(fixed) = self.fixed_at(ino) {
            return Ok(match &fixed.node {
                Node::File(file) => Some(file.clone()),
                Node::Directory | Node::Dynamic(_) => None,
            });
        }
        self.dynamic_at(ino).map(|(_, file)| Some(file)).ok_or(Error::Stale)
    }

    /// A file that comes and goes, with the directory that it lies in.
    fn dynamic_at(&self, ino: Ino) -> Option<(Ino, Arc<dyn VirtualFile>)> {
        self.fixed.iter().enumerate().find_map(|(index, fixed)| {
            let Node::Dynamic(directory) = &fixed.node else { return None };
            let parent = FIRST_VIRTUAL.plus(index as u64);
            let name = directory.names().into_iter().find(|name| dynamic_ino(parent, name) == ino)?;
            Some((parent, directory.file(&name)?))
        })
    }

    /// Whether the caller is one of those who may command the mount.
    fn commands(&self, caller: Caller) -> bool {
        [0, self.owner.uid].contains(&caller.uid)
    }

    /// A new text for who commands the mount; for strangers as it was a moment ago.
    fn newest_for(&self, caller: Caller, ino: Ino, file: &dyn VirtualFile) -> Arc<Snapshot> {
        match self.commands(caller) {
            true => self.snapshots.fresh(ino, file),
            false => self.snapshots.recent(ino, file),
        }
    }

    fn attributes_of(&self, ino: Ino, file: &dyn VirtualFile, snapshot: &Snapshot) -> Attributes {
        self.attributes(ino, FileKind::File, file.mode(), snapshot.text.len() as u64, snapshot.time)
    }

    fn attributes(&self, ino: Ino, kind: FileKind, permissions: u32, size: u64, time: Time) -> Attributes {
        Attributes {
            ino,
            kind,
            permissions,
            links: if kind == FileKind::Directory { 2 } else { 1 },
            uid: self.owner.uid,
            gid: self.owner.gid,
            rdev: 0,
            size,
            stored_bytes: size,
            block_bytes: 4096,
            atime: time,
            mtime: time,
            ctime: time,
            btime: self.born,
        }
    }
}

impl Fixed {
    fn kind(&self) -> FileKind {
        match self.node {
            Node::File(_) => FileKind::File,
            Node::Directory | Node::Dynamic(_) => FileKind::Directory,
        }
    }
}

/// The number of a name in a directory whose files come and go: the same whenever the name is there.
fn dynamic_ino(parent: Ino, name: &[u8]) -> Ino {
    Ino(FIRST_VIRTUAL.0 | DYNAMIC | (xxh3_64_with_seed(name, parent.0) & (DYNAMIC - 1)))
}
