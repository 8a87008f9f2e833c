//! Files that are made up when they are read: `.stats` and `.stats.d/` in the root. Nothing of them is stored.
//!
//! # How a read works
//!
//! 1. `open` asks the file for its text once and pins that snapshot in the handle; reads slice it, at any offset and in
//!    any order, until `release`.
//! 2. `getattr` says exactly how long the text is. The kernel does not tell for which handle it asks, so while handles are
//!    open the answer is the newest pinned snapshot, and otherwise a recent one. (A size of 0, or one that is too
//!    large or too small, makes one or the other of `splice`, `wc -c`, `tail`, `tac`, `rsync` and `tar` go wrong.)
//! 3. A text is expensive to make and anybody may ask, on a thread that serves all. So a look at the size, and a lookup or an open
//!    by somebody who is neither root nor the owner, makes do with a text that was made within [`RECENT`].
//!
//! # How a write works
//!
//! The offset means nothing: shells write at 0, at the end, and at growing offsets. Each write is one or more whole lines,
//! handed to the file with a callback; nobody waits here. A change of size, which `>` asks for, is for the caller to
//! accept and to ignore.
//!
//! # Invariants
//!
//! 1. Numbers are [`FIRST_VIRTUAL`] and above and belong to a name for good, so the kernel may remember names.
//! 2. No lock is held while a file makes up its text; the only lock guards the table of handles.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::error::{Error, Result};
use super::types::{Attributes, Caller, DirEntry, FIRST_VIRTUAL, FileKind, Ino, ROOT, Time};
use crate::base::clock::Clock;

/// Called once, from any thread, when what was written has been done.
pub type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// A file whose text is made up when it is opened.
pub trait VirtualFile: Send + Sync {
    /// The whole text now. Must not wait for writers or for the disk.
    fn read(&self) -> Vec<u8>;

    /// Permission bits, such as `0o444`. Without a write bit, [`VirtualFile::write`] is never called.
    fn mode(&self) -> u32 {
        0o444
    }

    /// Does what the lines of `text` say and calls `done`, perhaps later; returns at once.
    fn write(&self, caller: Caller, text: &[u8], done: Done) {
        let _ = (caller, text);
        done(Err(Error::NotPermitted));
    }
}

/// A directory whose files come and go.
pub trait VirtualDirectory: Send + Sync {
    /// The names of its files now.
    fn names(&self) -> Vec<Vec<u8>>;

    /// The file of a name.
    fn file(&self, name: &[u8]) -> Option<Arc<dyn VirtualFile>>;
}

/// Numbers of files in a [`VirtualDirectory`] have this bit, and below it the hash of directory and name: nothing has to be
/// remembered, and a name that comes back has its old number. That two of a hundred names share all 31 bits, and then show
/// one text, is a chance of one in 400,000.
const DYNAMIC: u64 = 1 << 31;

/// Cookies 1 and 2 stand behind `.` and `..`; an entry's own is its number from here.
const FIRST_COOKIE: u64 = 3;

/// How old a text may be that is not made for who asks.
const RECENT: Duration = Duration::from_millis(100);

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

struct Snapshot {
    text: Vec<u8>,
    time: Time,
}

/// Open handles of one file.
struct Pin {
    handles: usize,
    newest: Arc<Snapshot>,
}

#[derive(Default)]
struct Open {
    handle_last: u64,
    handles: HashMap<u64, (Ino, Arc<Snapshot>)>,
    pins: HashMap<Ino, Pin>,
    /// The last text of each file that was made within [`RECENT`], and when.
    recent: HashMap<Ino, (Duration, Arc<Snapshot>)>,
}

/// The virtual files of a mount.
pub struct VirtualTree {
    owner: Caller,
    clock: Arc<dyn Clock>,
    born: Time,
    fixed: Vec<Fixed>,
    open: Mutex<Open>,
}

impl VirtualTree {
    /// An empty tree whose files belong to `owner`, who alone besides root may write to them.
    pub fn new(owner: Caller, clock: Arc<dyn Clock>) -> VirtualTree {
        let born = clock.now().into();
        VirtualTree { owner, clock, born, fixed: Vec::new(), open: Mutex::default() }
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
        FIRST_VIRTUAL + self.fixed.len() as u64 - 1
    }

    /// Whether the number belongs to this tree and not to the store.
    pub fn owns(&self, ino: Ino) -> bool {
        ino >= FIRST_VIRTUAL
    }

    /// The names that the tree takes in the root. They are found by `lookup` but not listed, and nothing may be made,
    /// renamed, linked or removed under them.
    pub fn names_at_root(&self) -> Vec<Vec<u8>> {
        self.fixed_in(ROOT).map(|(_, node)| node.name.as_bytes().to_vec()).collect()
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
    /// For who commands the mount a new text is made, which tells the size: he opens it next, and some readers trust the size.
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
        if self.commands(caller) && !self.open.lock().pins.contains_key(&ino) {
            self.snapshot(ino, &*file);
        }
        self.getattr(ino).ok()
    }

    /// The attributes of a file or directory. Fails with `Stale` if it is gone.
    pub fn getattr(&self, ino: Ino) -> Result<Attributes> {
        let Some(file) = self.file(ino)? else {
            return Ok(self.attributes(ino, FileKind::Directory, 0o555, 0, self.born));
        };
        let pinned = self.open.lock().pins.get(&ino).map(|pin| pin.newest.clone());
        let snapshot = pinned.unwrap_or_else(|| self.recent(ino, &*file));
        Ok(self.attributes(ino, FileKind::File, file.mode(), snapshot.text.len() as u64, snapshot.time))
    }

    /// Opens a file: its text is taken now, for strangers within [`RECENT`], and stays the same for the handle that is returned.
    pub fn open(&self, ino: Ino, caller: Caller) -> Result<u64> {
        let file = self.file(ino)?.ok_or(Error::IsDirectory)?;
        let snapshot =
            if self.commands(caller) { self.snapshot(ino, &*file) } else { self.recent(ino, &*file) };
        let mut open = self.open.lock();
        open.handle_last += 1;
        let handle = open.handle_last;
        open.handles.insert(handle, (ino, snapshot.clone()));
        let pin = open.pins.entry(ino).or_insert_with(|| Pin { handles: 0, newest: snapshot.clone() });
        pin.handles += 1;
        if snapshot.time >= pin.newest.time {
            pin.newest = snapshot;
        }
        Ok(handle)
    }

    /// Up to `size` bytes of the handle's text at `offset`; fewer only at its end.
    pub fn read(&self, handle: u64, offset: u64, size: u32) -> Result<Vec<u8>> {
        let snapshot = match self.open.lock().handles.get(&handle) {
            Some((_, snapshot)) => snapshot.clone(),
            None => return Err(Error::Stale),
        };
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
    pub fn release(&self, handle: u64) {
        let mut open = self.open.lock();
        let Some((ino, _)) = open.handles.remove(&handle) else { return };
        if let Some(pin) = open.pins.get_mut(&ino) {
            pin.handles -= 1;
            if pin.handles == 0 {
                open.pins.remove(&ino);
            }
        }
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
        let named =
            found.into_iter().map(|(ino, kind, name)| (ino - FIRST_VIRTUAL + FIRST_COOKIE, ino, kind, name));
        for (own, ino, kind, name) in dots.chain(named) {
            if own > cookie && !emit(DirEntry { ino, kind, cookie: own, name }) {
                break;
            }
        }
        Ok(())
    }

    fn fixed_at(&self, ino: Ino) -> Option<&Fixed> {
        self.fixed.get(usize::try_from(ino.checked_sub(FIRST_VIRTUAL)?).ok()?)
    }

    fn fixed_in(&self, parent: Ino) -> impl Iterator<Item = (Ino, &Fixed)> {
        let numbered =
            self.fixed.iter().enumerate().map(|(index, node)| (FIRST_VIRTUAL + index as u64, node));
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
            let parent = FIRST_VIRTUAL + index as u64;
            let name = directory.names().into_iter().find(|name| dynamic_ino(parent, name) == ino)?;
            Some((parent, directory.file(&name)?))
        })
    }

    /// Whether the caller is one of those who may command the mount.
    fn commands(&self, caller: Caller) -> bool {
        [0, self.owner.uid].contains(&caller.uid)
    }

    /// A new text.
    fn snapshot(&self, ino: Ino, file: &dyn VirtualFile) -> Arc<Snapshot> {
        let time = self.clock.now().into();
        let snapshot = Arc::new(Snapshot { text: file.read(), time });
        let now = self.clock.elapsed();
        let recent = &mut self.open.lock().recent;
        recent.retain(|_, (made, _)| now.saturating_sub(*made) < RECENT);
        recent.insert(ino, (now, snapshot.clone()));
        snapshot
    }

    /// A text that is not older than [`RECENT`].
    fn recent(&self, ino: Ino, file: &dyn VirtualFile) -> Arc<Snapshot> {
        let now = self.clock.elapsed();
        let known = self.open.lock().recent.get(&ino).cloned();
        match known {
            Some((made, snapshot)) if now.saturating_sub(made) < RECENT => snapshot,
            _ => self.snapshot(ino, file),
        }
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
    FIRST_VIRTUAL | DYNAMIC | (xxh3_64_with_seed(name, parent) & (DYNAMIC - 1))
}

#[cfg(test)]
mod tests;
