//! The files that the kernel knows, each by a descriptor of its own.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

use parking_lot::{Mutex, RwLock};
use rustix::fs::{FileType, Stat};

use super::meter::Class;
use super::patterns::Patterns;
use super::tally::{Departed, FileTraffic, Tally};

/// Number of the directory itself.
pub const ROOT_NUMBER: u64 = 1;
/// Files of other filesystems below the directory, and those whose number is taken, are numbered from here on.
const FOREIGN_FIRST: u64 = 1 << 62;

/// What tells a file from every other: device and number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    device: u64,
    number: u64,
}

impl Identity {
    pub(super) fn of(stat: &Stat) -> Identity {
        Identity { device: stat.st_dev, number: stat.st_ino }
    }
}

/// A name: in which directory, and how.
#[derive(Clone, Debug)]
struct Place {
    parent: Arc<Inode>,
    name: Vec<u8>,
}

/// How a file was when it was looked at last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    mtime: (i64, i64),
    ctime: (i64, i64),
    size: i64,
}

#[derive(Debug, Default)]
struct Opened {
    handles: u64,
    /// Those that write.
    writers: u64,
    /// As it was when a handle was opened last, or one that writes was closed.
    stamp: Option<Stamp>,
}

/// A file, directory, link or other that the kernel knows.
#[derive(Debug)]
pub struct Inode {
    number: u64,
    handle: OwnedFd,
    identity: Identity,
    kind: FileType,
    /// The name by which it was found last; `None` for the directory itself.
    place: Mutex<Option<Place>>,
    class: AtomicU8,
    /// Whether it had a set-id bit when it was looked at last.
    has_set_id: AtomicBool,
    opened: Mutex<Opened>,
    /// Its traffic.
    pub tally: Tally,
    departed: Departed,
}

impl AsFd for Inode {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

impl Inode {
    /// The number by which the kernel knows it, which programs see as `st_ino`.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Its class; that of a directory says nothing.
    pub fn class(&self) -> Class {
        Class::ALL[usize::from(self.class.load(Relaxed)) % Class::ALL.len()]
    }

    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        self.kind == FileType::Directory
    }

    /// Its path from the directory on, as it was found last.
    pub fn path(&self) -> Vec<u8> {
        let mut names = Vec::new();
        let mut next = self.place.lock().clone();
        while let Some(Place { parent, name }) = next {
            names.push(name);
            next = parent.place.lock().clone();
        }
        names.reverse();
        names.join(&b'/')
    }

    /// The path of `name` in it.
    pub fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = self.path();
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// A path of the process itself that leads to this very file, whatever its name is now.
    pub(super) fn magic_path(&self) -> String {
        format!("/proc/self/fd/{}", self.handle.as_raw_fd())
    }

    pub(super) fn looked_at(&self, stat: &Stat) {
        self.has_set_id.store(stat.st_mode & (libc::S_ISUID | libc::S_ISGID) != 0, Relaxed);
    }

    /// Whether it had a set-id bit when it was looked at last.
    pub fn has_set_id(&self) -> bool {
        self.has_set_id.load(Relaxed)
    }

    /// One more handle, of a file that is as `stat` says. Whether what the kernel keeps of its content is still true: it is being written through
    /// here, or nobody has changed it since it was looked at.
    pub(super) fn opens(&self, stat: &Stat, writes: bool) -> bool {
        let mut opened = self.opened.lock();
        let is_known = opened.writers > 0 || opened.stamp == Some(Stamp::of(stat));
        opened.handles += 1;
        opened.writers += u64::from(writes);
        opened.stamp = Some(Stamp::of(stat));
        is_known
    }

    /// One handle fewer. The kernel tells us a moment after the program has closed it.
    pub(super) fn closes(&self, stat: Option<&Stat>, writes: bool) {
        let mut opened = self.opened.lock();
        opened.handles = opened.handles.saturating_sub(1);
        if writes {
            opened.writers = opened.writers.saturating_sub(1);
            opened.stamp = stat.map(Stamp::of);
        }
    }

    fn is_open(&self) -> bool {
        self.opened.lock().handles > 0
    }
}

impl Stamp {
    fn of(stat: &Stat) -> Stamp {
        Stamp {
            mtime: (stat.st_mtime, stat.st_mtime_nsec as i64),
            ctime: (stat.st_ctime, stat.st_ctime_nsec as i64),
            size: stat.st_size,
        }
    }
}

impl Drop for Inode {
    fn drop(&mut self) {
        let traffic = self.tally.snapshot();
        if !traffic.is_empty() {
            self.departed.add(self.path(), traffic);
        }
    }
}

struct Known {
    inode: Arc<Inode>,
    lookups: u64,
}

#[derive(Default)]
struct Tables {
    by_number: HashMap<u64, Known>,
    by_identity: HashMap<Identity, u64>,
    foreign_next: u64,
}

/// All inodes that the kernel knows.
pub struct Inodes {
    root: Arc<Inode>,
    patterns: Patterns,
    tables: RwLock<Tables>,
    departed: Departed,
}

impl Inodes {
    /// Knows the directory `handle` (opened with `O_PATH`), which is as `stat` says.
    pub(super) fn new(handle: OwnedFd, stat: &Stat, patterns: Patterns) -> Inodes {
        let departed = Departed::default();
        let root = Arc::new(Inode {
            number: ROOT_NUMBER,
            handle,
            identity: Identity::of(stat),
            kind: FileType::from_raw_mode(stat.st_mode),
            place: Mutex::new(None),
            class: AtomicU8::new(Class::Other as u8),
            has_set_id: AtomicBool::new(false),
            opened: Mutex::default(),
            tally: Tally::default(),
            departed: departed.clone(),
        });
        let mut tables = Tables { foreign_next: FOREIGN_FIRST, ..Tables::default() };
        tables.by_identity.insert(root.identity, ROOT_NUMBER);
        // The kernel never forgets it.
        tables.by_number.insert(ROOT_NUMBER, Known { inode: root.clone(), lookups: 1 });
        Inodes { root, patterns, tables: RwLock::new(tables), departed }
    }

    /// The directory itself.
    pub fn root(&self) -> &Arc<Inode> {
        &self.root
    }

    /// The inode of a number.
    pub fn get(&self, number: u64) -> Option<Arc<Inode>> {
        if number == ROOT_NUMBER {
            return Some(self.root.clone());
        }
        self.tables.read().by_number.get(&number).map(|known| known.inode.clone())
    }

    /// The class of a file at `path`.
    pub fn class(&self, path: &[u8]) -> Class {
        self.patterns.class(path)
    }

    /// The number that a file has or would have. A listing needs no more.
    pub(super) fn number_of(&self, identity: Identity) -> u64 {
        if let Some(number) = self.tables.read().by_identity.get(&identity) {
            return *number;
        }
        identity.number
    }

    /// The identity of a number on the device of `inode`.
    pub(super) fn beside(&self, inode: &Inode, number: u64) -> Identity {
        Identity { device: inode.identity.device, number }
    }

    /// Counts one more lookup of the file `handle`, which was found as `name` in `parent`.
    pub(super) fn remember(
        &self,
        handle: OwnedFd,
        stat: &Stat,
        parent: &Arc<Inode>,
        name: &[u8],
    ) -> Arc<Inode> {
        let identity = Identity::of(stat);
        let inode = {
            let mut tables = self.tables.write();
            match tables.by_identity.get(&identity).copied() {
                Some(number) => {
                    let known = tables.by_number.get_mut(&number);
                    let known = known.expect("both tables have the same inodes");
                    known.lookups += 1;
                    known.inode.clone()
                }
                None => {
                    let own = identity.number;
                    let is_free = identity.device == self.root.identity.device
                        && own > ROOT_NUMBER
                        && own < FOREIGN_FIRST
                        && !tables.by_number.contains_key(&own);
                    let number = if is_free {
                        own
                    } else {
                        tables.foreign_next += 1;
                        tables.foreign_next
                    };
                    let inode = Arc::new(Inode {
                        number,
                        handle,
                        identity,
                        kind: FileType::from_raw_mode(stat.st_mode),
                        place: Mutex::new(None),
                        class: AtomicU8::new(Class::Other as u8),
                        has_set_id: AtomicBool::new(false),
                        opened: Mutex::default(),
                        tally: Tally::default(),
                        departed: self.departed.clone(),
                    });
                    tables.by_identity.insert(identity, number);
                    tables.by_number.insert(number, Known { inode: inode.clone(), lookups: 1 });
                    inode
                }
            }
        };
        inode.looked_at(stat);
        if inode.number != ROOT_NUMBER {
            self.place(&inode, parent, name);
        }
        inode
    }

    /// Notes that an inode is found as `name` in `parent`.
    fn place(&self, inode: &Arc<Inode>, parent: &Arc<Inode>, name: &[u8]) {
        {
            let mut place = inode.place.lock();
            let is_there =
                place.as_ref().is_some_and(|place| place.name == name && Arc::ptr_eq(&place.parent, parent));
            if is_there {
                return;
            }
            *place = Some(Place { parent: parent.clone(), name: name.to_vec() });
        }
        self.classify(inode);
    }

    fn classify(&self, inode: &Inode) {
        if !inode.is_directory() {
            inode.class.store(self.patterns.class(&inode.path()) as u8, Relaxed);
        }
    }

    /// Notes that the file `identity`, if the kernel knows it, has been renamed to `name` in `parent`.
    pub(super) fn renamed(&self, identity: Identity, parent: &Arc<Inode>, name: &[u8]) {
        let number = self.tables.read().by_identity.get(&identity).copied();
        let Some(inode) = number.and_then(|number| self.get(number)) else { return };
        // The directory itself has no name here, and whoever would lie in himself has none either.
        if inode.number == ROOT_NUMBER || Arc::ptr_eq(&inode, parent) {
            return;
        }
        self.place(&inode, parent, name);
        if inode.is_directory() {
            // What lies below has other paths now.
            let inodes = self.all();
            inodes.iter().for_each(|inode| self.classify(inode));
        }
    }

    /// The kernel has forgotten `lookups` of a number's lookups.
    pub fn forget(&self, number: u64, lookups: u64) {
        if number == ROOT_NUMBER {
            return;
        }
        let gone = {
            let mut tables = self.tables.write();
            let Some(known) = tables.by_number.get_mut(&number) else { return };
            known.lookups = known.lookups.saturating_sub(lookups);
            if known.lookups > 0 {
                return;
            }
            let gone = tables.by_number.remove(&number);
            if let Some(known) = &gone {
                tables.by_identity.remove(&known.inode.identity);
            }
            gone
        };
        // Its descriptor is closed here, without the lock.
        drop(gone);
    }

    fn all(&self) -> Vec<Arc<Inode>> {
        self.tables.read().by_number.values().map(|known| known.inode.clone()).collect()
    }

    /// Inodes that the kernel knows.
    pub fn known(&self) -> u64 {
        self.tables.read().by_number.len() as u64
    }

    /// Up to `most` files that nobody has open, each by the number of its directory and its name there: the kernel may forget them.
    pub fn idle(&self, most: usize) -> Vec<(u64, Vec<u8>)> {
        let name = |inode: Arc<Inode>| {
            let place = inode.place.lock();
            place.as_ref().map(|place| (place.parent.number, place.name.clone()))
        };
        let may_go = |inode: &Arc<Inode>| !inode.is_directory() && !inode.is_open();
        self.all().into_iter().filter(may_go).filter_map(name).take(most).collect()
    }

    /// Numbers of the files that programs have open.
    pub fn open_numbers(&self) -> Vec<u64> {
        self.all().iter().filter(|inode| inode.is_open()).map(|inode| inode.number).collect()
    }

    /// Traffic by path, of files that the kernel knows and of those that it has forgotten; `None` for all that there is no room for.
    pub fn traffic(&self) -> HashMap<Option<Vec<u8>>, FileTraffic> {
        let inodes = self.all();
        let mut files = self.departed.snapshot();
        for inode in inodes {
            let traffic = inode.tally.snapshot();
            if !traffic.is_empty() {
                *files.entry(Some(inode.path())).or_default() += traffic;
            }
        }
        files
    }
}
