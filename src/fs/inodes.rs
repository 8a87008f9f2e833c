//! Inodes in memory: decoded records, and who uses them.
//!
//! 1. There is at most one [`InodeCell`] of a number. It leaves the table only while nobody else holds it and the
//!    kernel does not refer to it; the queue of deferred times holds it too.
//! 2. What is in memory changes only after the engine accepted the batch that says the same, except times that
//!    are deferred (`deferred`).
//! 3. A cell is loaded without the table's lock. If anything left the table meanwhile, what was read may be older than
//!    what left, so it is read again.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lru::LruCache;
use parking_lot::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::inode::{HAS_PENDING, Inode, View};
use super::locks::{PATIENCE, would_block};
use super::ranges::Ranges;
use super::sequence::Sequence;
use super::types::{FileKind, Ino, ROOT, TopName};
use super::{Error, Result, keys};
use crate::engine::{Engine, Tier};

/// Unused inodes that are kept in memory.
const CELLS_MAX: usize = 64 << 10;
const SHARDS: usize = 16;
/// Cells looked at to find one that may leave.
const EVICTION_TRIES: usize = 8;

/// State of an inode in memory.
pub(super) struct InodeState {
    pub record: Inode,
    /// Ranges of the current epoch that wait for reclaim: holes to everyone.
    pub pending: Ranges,
    /// Since when the stored record is behind in its times.
    pub deferred: Option<Duration>,
    /// The inode is deleted; whoever still holds the cell has to look again.
    gone: bool,
}

impl InodeState {
    /// Place of the content.
    pub fn view(&self) -> View<'_> {
        View { record: &self.record, pending: &self.pending }
    }

    /// `NotDirectory` unless it is one.
    pub fn require_directory(&self) -> Result<()> {
        if self.record.is_directory() { Ok(()) } else { Err(Error::NotDirectory) }
    }

    /// `IsDirectory` for a directory, `Invalid` for everything else that has no content.
    pub fn require_file(&self) -> Result<()> {
        match self.record.kind {
            FileKind::File => Ok(()),
            FileKind::Directory => Err(Error::IsDirectory),
            _ => Err(Error::Invalid),
        }
    }
}

/// An inode in memory.
pub(super) struct InodeCell {
    pub ino: Ino,
    state: RwLock<InodeState>,
    /// Lookups that the kernel has not forgotten.
    lookups: AtomicU64,
    /// Open file handles.
    opens: AtomicU64,
    /// It has no name left.
    unlinked: AtomicBool,
    /// Where reads are, in a file of which more is fetched than was asked for.
    sequence: Mutex<Option<Box<Sequence>>>,
    /// The first name on the path by which it was found; a later rename does not change it.
    top: OnceLock<TopName>,
}

impl InodeCell {
    fn new(ino: Ino, record: Inode, pending: Ranges) -> InodeCell {
        let unlinked = AtomicBool::new(record.links == 0);
        let state = RwLock::new(InodeState { record, pending, deferred: None, gone: false });
        InodeCell {
            ino,
            state,
            lookups: AtomicU64::new(0),
            opens: AtomicU64::new(0),
            unlinked,
            sequence: Mutex::default(),
            top: OnceLock::new(),
        }
    }

    /// Locks it to look. `Stale` if the inode is deleted.
    pub fn read(&self, tier: Tier) -> Result<RwLockReadGuard<'_, InodeState>> {
        let state = match tier {
            Tier::Memory => self.state.try_read_for(PATIENCE).ok_or_else(would_block)?,
            Tier::Disk => self.state.read(),
        };
        if state.gone { Err(Error::Stale) } else { Ok(state) }
    }

    /// Locks it to change it. `Stale` if the inode is deleted.
    pub fn write(&self, tier: Tier) -> Result<RwLockWriteGuard<'_, InodeState>> {
        let state = match tier {
            Tier::Memory => self.state.try_write_for(PATIENCE).ok_or_else(would_block)?,
            Tier::Disk => self.state.write(),
        };
        if state.gone { Err(Error::Stale) } else { Ok(state) }
    }

    /// Locks it to change it if nobody else has it locked.
    pub fn try_write(&self) -> Option<RwLockWriteGuard<'_, InodeState>> {
        self.state.try_write().filter(|state| !state.gone)
    }

    /// What `look` says of where reads are.
    pub fn sequence<T>(&self, look: impl FnOnce(&mut Sequence) -> T) -> T {
        look(self.sequence.lock().get_or_insert_default())
    }

    pub fn add_lookups(&self, count: u64) {
        self.lookups.fetch_add(count, Ordering::SeqCst);
    }

    pub fn add_open(&self) {
        self.opens.fetch_add(1, Ordering::SeqCst);
    }

    /// Notes that it has lost its last name.
    pub fn unlink(&self) {
        self.unlinked.store(true, Ordering::SeqCst);
    }

    /// Whether it has lost its last name and nobody refers to it any more.
    pub fn is_abandoned(&self) -> bool {
        self.unlinked.load(Ordering::SeqCst) && !self.is_referenced()
    }

    /// Whether the kernel or an open file refers to it.
    pub fn is_referenced(&self) -> bool {
        self.lookups.load(Ordering::SeqCst) > 0 || self.opens.load(Ordering::SeqCst) > 0
    }
}

fn take(counter: &AtomicU64, count: u64) {
    // Never below zero, whatever the kernel says.
    let _ =
        counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |value| Some(value.saturating_sub(count)));
}

struct Shard {
    cells: LruCache<Ino, Arc<InodeCell>>,
    /// Cells that have left.
    departures: u64,
}

/// The table of inodes in memory.
pub(super) struct Inodes {
    engine: Arc<dyn Engine>,
    shards: [Mutex<Shard>; SHARDS],
}

impl Inodes {
    /// Those of the store in `engine`.
    pub fn new(engine: Arc<dyn Engine>) -> Inodes {
        let shard = |_| Mutex::new(Shard { cells: LruCache::unbounded(), departures: 0 });
        Inodes { engine, shards: std::array::from_fn(shard) }
    }

    fn shard(&self, ino: Ino) -> &Mutex<Shard> {
        &self.shards[ino.0 as usize % SHARDS]
    }

    fn get(&self, ino: Ino) -> Option<Arc<InodeCell>> {
        self.shard(ino).lock().cells.get(&ino).cloned()
    }

    fn departures(&self, ino: Ino) -> u64 {
        self.shard(ino).lock().departures
    }

    /// Adds a cell unless there is one. `None` if cells have left since `departures` was read.
    fn insert(&self, cell: InodeCell, departures: Option<u64>) -> Option<Arc<InodeCell>> {
        let mut shard = self.shard(cell.ino).lock();
        if let Some(known) = shard.cells.get(&cell.ino) {
            return Some(known.clone());
        }
        if departures.is_some_and(|departures| departures != shard.departures) {
            return None;
        }
        let cell = Arc::new(cell);
        shard.cells.put(cell.ino, cell.clone());
        shard.evict();
        Some(cell)
    }

    /// The kernel drops `references` of its lookups. Returns the inode if it is in memory.
    pub fn forget(&self, ino: Ino, references: u64) -> Option<Arc<InodeCell>> {
        let cell = self.get(ino)?;
        take(&cell.lookups, references);
        Some(cell)
    }

    /// A file handle is closed. Returns the inode if it is in memory.
    pub fn release(&self, ino: Ino) -> Option<Arc<InodeCell>> {
        let cell = self.get(ino)?;
        take(&cell.opens, 1);
        Some(cell)
    }

    fn remove(&self, ino: Ino) {
        let mut shard = self.shard(ino).lock();
        shard.departures += 1;
        shard.cells.pop(&ino);
    }
    /// The inode `ino`, loaded if need be. `Stale` if there is none.
    pub fn cell(&self, ino: Ino, tier: Tier) -> Result<Arc<InodeCell>> {
        loop {
            if let Some(cell) = self.get(ino) {
                return Ok(cell);
            }
            let departures = self.departures(ino);
            let bytes = self.engine.get(&keys::inode(ino), tier)?.ok_or(Error::Stale)?;
            let record = Inode::decode(ino, &bytes)?;
            let pending = if record.has(HAS_PENDING) {
                Ranges::load(&*self.engine, ino, record.epoch, tier)?
            } else {
                Ranges::default()
            };
            if let Some(cell) = self.insert(InodeCell::new(ino, record, pending), Some(departures)) {
                return Ok(cell);
            }
        }
    }

    /// Notes that `cell` was found as `name` in `parent`, unless a way to it is known. The kernel reaches every inode by names,
    /// from the root down, so whatever it uses is noted.
    pub fn note_path(&self, parent: Ino, name: &[u8], cell: &InodeCell) {
        if cell.top.get().is_some() {
            return;
        }
        let top = match parent {
            ROOT => Some(name.into()),
            _ => self.get(parent).and_then(|directory| directory.top.get().cloned()),
        };
        if let Some(top) = top {
            // Whoever was first has found it under a name, too.
            let _ = cell.top.set(top);
        }
    }

    /// The first name on the path by which the kernel found `ino`; empty if it is not known.
    pub fn top_name(&self, ino: Ino) -> TopName {
        self.get(ino).and_then(|cell| cell.top.get().cloned()).unwrap_or_else(|| Arc::from(&b""[..]))
    }

    /// Puts an inode whose record the engine has just accepted into the table.
    pub fn adopt(&self, ino: Ino, record: Inode) -> Arc<InodeCell> {
        let cell = InodeCell::new(ino, record, Ranges::default());
        self.insert(cell, None).expect("without a count of departures a cell is always accepted")
    }

    /// Notes that the record of `cell` is deleted. `state` is the cell's, locked.
    pub fn retire(&self, cell: &InodeCell, state: &mut InodeState) {
        state.gone = true;
        state.deferred = None;
        self.remove(cell.ino);
    }

    /// Every inode that somebody has open.
    pub fn open(&self) -> Vec<Ino> {
        let is_open = |cell: &&Arc<InodeCell>| cell.opens.load(Ordering::SeqCst) > 0;
        let of = |shard: &Mutex<Shard>| -> Vec<Ino> {
            shard.lock().cells.iter().map(|(_, cell)| cell).filter(is_open).map(|cell| cell.ino).collect()
        };
        self.shards.iter().flat_map(of).collect()
    }
}

impl Shard {
    /// Lets unused cells go while there are too many; used ones are skipped.
    fn evict(&mut self) {
        let capacity = NonZeroUsize::new(CELLS_MAX / SHARDS).expect("a positive constant").get();
        for _ in 0..EVICTION_TRIES {
            if self.cells.len() <= capacity {
                return;
            }
            let Some((&ino, cell)) = self.cells.peek_lru() else { return };
            let alone = Arc::strong_count(cell) == 1;
            // Nobody can take a new handle while the shard is locked; the fence pairs with the drop of the last one,
            // so the references that its holder added are seen.
            fence(Ordering::Acquire);
            if alone && !cell.is_referenced() {
                self.cells.pop(&ino);
                self.departures += 1;
            } else {
                self.cells.promote(&ino);
            }
        }
    }
}
