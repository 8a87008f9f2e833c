//! The filesystem room: POSIX over an ordered map. It knows no kernel protocol and no disk file.
//!
//! # How a call works
//!
//! 1. Lock the inodes it concerns and read what it needs.
//! 2. Apply exactly one batch, tagged with the operation.
//! 3. Change what is in memory. Nothing there has changed before, so a call that the engine answered with `WouldBlock` or
//!    `Busy` is simply made again, as a whole.
//!
//! With [`Tier::Memory`] no call sleeps: a lock that is not free for 100 µs is answered `WouldBlock` as well.
//!
//! # What may wait
//!
//! Times that change alone (a write inside a file, names in a directory) are written within a second, and before
//! an fsync of that inode. Content that is dropped in bulk is deleted in the background, see `orphans`.
//!
//! # Lock order
//!
//! The rename mutex (every rename between directories), inodes by ascending number, then the leaves; see `locks`.
//! Whoever finds a name and wants the inode behind it counts a reference under the directory's lock, releases that, and
//! only then locks the inode.

mod acl;
mod check;
mod content;
mod counters;
pub mod decoders;
mod deferred;
mod dirent;
mod draft;
pub mod error;
mod inode;
mod inodes;
pub mod keys;
mod locks;
pub mod meter;
pub mod operation;
mod ops;
mod options;
mod orphans;
mod ranges;
mod repair;
mod sequence;
pub mod states;
mod superblock;
pub mod types;
mod veil;

use std::sync::Arc;
use std::time::Duration;

use crate::base::clock::Clock;
use crate::base::wake::WakeSignal;
use crate::disk::Space;
use crate::engine::{self, Batch, Engine, Lsn, Pending, WorkClass};
use content::Content;
use counters::{Change, Counters};
use deferred::{DEFER, Deferred};
use dirent::Names;
use inode::Inode;
use inodes::Inodes;
use locks::Locks;
use meter::Meter;
use operation::Op;
use orphans::Orphans;
use superblock::{Numbers, Superblock};
use types::{FileKind, Ino, ROOT, Statfs, Time, TopName};

pub use crate::engine::Tier;
pub use check::{CheckSummary, Problem, check};
pub use error::{Error, Result};
pub use inode::content as inode_content;
pub use ops::Copied;
pub use options::{Atime, BLOCK_BYTES_MAX, BLOCK_BYTES_MIN, FIELDS, Options};
pub use repair::{Affected, Described, Part, Repaired, affected, repair, stored_uuid};
pub use superblock::{Identity, set_uuid};
pub use veil::Veil;

/// Asks for the size and free space of the filesystem that the store lies on.
pub type SpaceSource = Arc<dyn Fn() -> std::io::Result<Space> + Send + Sync>;

/// A moment in the history of a store, for a sync to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Lsn);

/// Usage: inodes and bytes stored, as `/.stats` shows them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Σ sizes.
    pub apparent_bytes: u64,
    /// Σ block values of living files.
    pub stored_bytes: u64,
    /// Σ key and value bytes of inodes, names and extended attributes.
    pub record_bytes: u64,
    /// Inodes, those without a name included.
    pub inodes: u64,
    /// Bytes of blocks that are still to be deleted.
    pub reclaim_pending_bytes: u64,
    /// Inodes without a name that are still in use.
    pub orphans: u64,
    /// Inode puts that deferring times has saved since the mount.
    pub deferred_inode_puts_absorbed: u64,
}

/// A filesystem over an engine.
pub struct FileSystem {
    engine: Arc<dyn Engine>,
    clock: Arc<dyn Clock>,
    options: Options,
    space: SpaceSource,
    meter: Arc<Meter>,
    numbers: Numbers,
    inodes: Inodes,
    names: Names,
    deferred: Deferred,
    orphans: Orphans,
    counters: Counters,
    locks: Locks,
}

impl FileSystem {
    /// Makes a filesystem on an empty engine: the superblock and a root directory of 0:0 with mode 0755.
    /// `Engine(Invalid)` with a sentence if there is something already, or if the block size makes no sense.
    pub fn format(
        engine: &dyn Engine,
        clock: &dyn Clock,
        options: &Options,
        identity: Identity,
    ) -> Result<()> {
        options.validate().map_err(engine::Error::from)?;
        let mut empty = true;
        engine.scan(engine::KeyRange::ALL, Tier::Disk, &mut |_, _| {
            empty = false;
            std::ops::ControlFlow::Break(())
        })?;
        if !empty {
            let text = "the store is not empty, and it holds no filesystem".to_string();
            return Err(engine::Error::Invalid(text).into());
        }
        let mut root = Inode::new(FileKind::Directory, 0o755, 0, 0, clock.now().into());
        root.parent = ROOT;
        let mut batch = Batch::new(Op::Format.tag());
        batch.put(keys::superblock(), Superblock::new(options.block_bytes, identity).encode());
        batch.put(keys::inode(ROOT), root.encode());
        batch.put(keys::counter(counters::TOTAL), counters::encode(Change::added(&root), true));
        engine.apply(&batch, Tier::Disk)?;
        Ok(())
    }

    /// Opens the filesystem that `engine` holds, making one if it is empty. The stored block size wins over the one in
    /// `options`. After a crash this counts the totals anew and buries files that were deleted while in use.
    pub fn open(
        engine: Arc<dyn Engine>,
        clock: Arc<dyn Clock>,
        options: Options,
        space: SpaceSource,
    ) -> Result<Arc<FileSystem>> {
        let stored = match engine.get(&keys::superblock(), Tier::Disk)? {
            Some(bytes) => bytes,
            None if options.read_only => {
                let sentence = "the store holds no filesystem, and read-only none can be made".to_string();
                return Err(Error::Engine(engine::Error::Invalid(sentence)));
            }
            None => {
                FileSystem::format(&*engine, &*clock, &options, Identity::random()?)?;
                let stored = engine.get(&keys::superblock(), Tier::Disk)?;
                stored.ok_or_else(|| error::damaged("the superblock is gone after it was written"))?
            }
        };
        let filesystem = FileSystem::over(engine, clock, options, space, &stored, Arc::new(Meter::new()))?;
        filesystem.load_counters()?;
        filesystem.adopt_leftovers()?;
        Ok(Arc::new(filesystem))
    }

    /// Opens the filesystem that `engine` shows, which another process changes: nothing is left over that this one would have to clear away, and
    /// the totals are those that the other one stored last.
    pub fn look(
        engine: Arc<dyn Engine>,
        clock: Arc<dyn Clock>,
        options: Options,
        space: SpaceSource,
    ) -> Result<Arc<FileSystem>> {
        FileSystem::shown(
            engine,
            clock,
            Options { read_only: true, ..options },
            space,
            Arc::new(Meter::new()),
        )
    }

    /// The same filesystem in another state, which `engine` shows; counted together with this one.
    pub fn at(&self, engine: Arc<dyn Engine>) -> Result<Arc<FileSystem>> {
        FileSystem::shown(engine, self.clock.clone(), self.options, self.space.clone(), self.meter.clone())
    }

    fn shown(
        engine: Arc<dyn Engine>,
        clock: Arc<dyn Clock>,
        options: Options,
        space: SpaceSource,
        meter: Arc<Meter>,
    ) -> Result<Arc<FileSystem>> {
        let Some(stored) = engine.get(&keys::superblock(), Tier::Disk)? else {
            let sentence = "the store holds no filesystem, and read-only none can be made".to_string();
            return Err(Error::Engine(engine::Error::Invalid(sentence)));
        };
        let filesystem = FileSystem::over(engine, clock, options, space, &stored, meter)?;
        let total = filesystem.engine.get(&keys::counter(counters::TOTAL), Tier::Disk)?;
        filesystem.counters.add(total.as_deref().and_then(counters::decode_last).unwrap_or_default());
        Ok(Arc::new(filesystem))
    }

    fn over(
        engine: Arc<dyn Engine>,
        clock: Arc<dyn Clock>,
        options: Options,
        space: SpaceSource,
        superblock: &[u8],
        meter: Arc<Meter>,
    ) -> Result<FileSystem> {
        let superblock = Superblock::decode(superblock)?;
        Ok(FileSystem {
            orphans: Orphans::new(engine.wake_signal()),
            inodes: Inodes::new(engine.clone()),
            engine,
            clock,
            options: Options { block_bytes: superblock.block_bytes, ..options },
            space,
            meter,
            numbers: Numbers::after(superblock),
            names: Names::new(superblock.identity.secret),
            deferred: Deferred::default(),
            counters: Counters::default(),
            locks: Locks::default(),
        })
    }

    /// The counters of door 1.
    pub fn meter(&self) -> &Arc<Meter> {
        &self.meter
    }

    /// The settings in force.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Names the store.
    pub fn uuid(&self) -> [u8; 16] {
        self.numbers.identity.uuid
    }

    /// The first name on the path by which the kernel found `ino`; empty if it is not known.
    pub fn top_name(&self, ino: Ino) -> TopName {
        self.inodes.top_name(ino)
    }

    /// Every inode that somebody has open.
    pub fn open_inodes(&self) -> Vec<Ino> {
        self.inodes.open()
    }

    /// Inodes and bytes stored.
    pub fn usage(&self) -> Usage {
        let total = self.counters.total();
        Usage {
            apparent_bytes: total.apparent_bytes.max(0) as u64,
            stored_bytes: total.stored_bytes.max(0) as u64,
            record_bytes: total.record_bytes.max(0) as u64,
            inodes: total.inodes.max(0) as u64,
            reclaim_pending_bytes: self.orphans.pending_bytes(),
            orphans: self.orphans.count(),
            deferred_inode_puts_absorbed: self.deferred.absorbed(),
        }
    }

    /// Space and inodes, as `df` shows them: what is free below, and what the engine has free in its own files. Inodes take only space,
    /// but where the disk below has so few left that new data is refused, there are none here.
    pub fn statfs(&self) -> Result<Statfs> {
        let space = (self.space)().map_err(|error| engine::Error::io("reading free space", error))?;
        let block_bytes = self.options.block_bytes;
        let reusable_bytes = self.engine.shape().tree.map_or(0, |tree| tree.free_bytes);
        let free = (space.free_bytes + reusable_bytes).min(space.total_bytes) / block_bytes;
        let files_free = if engine::lacks_files(&space) { 0 } else { free };
        // A total, of which `df -i` takes what is free to show what is used.
        let files = self.usage().inodes + files_free;
        Ok(Statfs {
            block_bytes: block_bytes as u32,
            blocks: space.total_bytes / block_bytes,
            blocks_free: free,
            blocks_available: free,
            files,
            files_free,
        })
    }

    /// Does one unit of background work: deleting what waits for it, and writing deferred times. `Busy` is not an
    /// error here. To be called by one thread, again after what it returns, or when [`WorkClass::Reclaim`] is signalled.
    pub fn work(&self) -> Result<Pending> {
        let Some(_working) = self.locks.working.try_lock() else { return Ok(Pending::After(DEFER)) };
        if self.options.read_only {
            return Ok(Pending::Idle);
        }
        match self.work_unit() {
            Err(Error::Busy { retry_after, .. }) => {
                Ok(Pending::After(retry_after.max(Duration::from_millis(1))))
            }
            Err(error) => {
                self.orphans.stop_waiting();
                Err(error)
            }
            done => {
                self.orphans.look();
                done
            }
        }
    }

    fn work_unit(&self) -> Result<Pending> {
        let next = self.write_deferred_before(DEFER)?;
        if self.bury_one()? || self.reclaim_unit()? || next == Some(Duration::ZERO) {
            return Ok(Pending::More);
        }
        Ok(Pending::After(next.unwrap_or(DEFER)))
    }

    /// Writes deferred times and the totals. No call may follow but those of the engine's own end.
    pub fn close(&self) -> Result<()> {
        if self.options.read_only {
            return Ok(());
        }
        let _working = self.locks.working.lock();
        while self.patiently(|| self.write_deferred_before(Duration::ZERO))?.is_some() {}
        self.patiently(|| self.store_counters(true))
    }

    /// Writes every deferred time, so that a sync of the engine has them. Waits for the disk and for room.
    pub fn write_times(&self) -> Result<()> {
        if self.options.read_only {
            return Ok(());
        }
        while self.patiently(|| self.write_deferred_before(Duration::ZERO))?.is_some() {}
        Ok(())
    }

    /// The moment up to which a sync must reach so that everything done to `ino` so far is durable. Writes its deferred times,
    /// unless only the data counts.
    pub fn moment_of(&self, tier: Tier, ino: Ino, data_only: bool) -> Result<Moment> {
        if !data_only && !self.options.read_only {
            let cell = self.inodes.cell(ino, tier)?;
            let mut state = cell.write(tier)?;
            self.write_deferred(&cell, &mut state, Op::Fsync, tier)?;
        }
        Ok(self.moment())
    }

    /// Now: everything that was answered lies before it.
    pub fn moment(&self) -> Moment {
        Moment(self.engine.lsn())
    }

    /// Calls `done` once everything before `moment` is durable, or with the reason why it is not; from any thread.
    pub fn sync_to(&self, moment: Moment, done: impl FnOnce(Result<()>) + Send + 'static) {
        self.engine.sync_to(moment.0, Box::new(move |result| done(result.map_err(Error::from))));
    }

    /// Rings when there may be room again for a call that was answered [`Error::Busy`].
    pub fn wake_signal(&self) -> &Arc<WakeSignal> {
        self.orphans.wake_signal()
    }

    /// Takes the totals from their record, or counts them, and marks the record as not to be believed.
    fn load_counters(&self) -> Result<()> {
        let stored = self.engine.get(&keys::counter(counters::TOTAL), Tier::Disk)?;
        let total = match stored.as_deref().and_then(counters::decode) {
            Some(total) => total,
            None => counters::recount(&*self.engine)?,
        };
        self.counters.add(total);
        if self.options.read_only { Ok(()) } else { self.patiently(|| self.store_counters(false)) }
    }

    fn store_counters(&self, believable: bool) -> Result<()> {
        let mut batch = Batch::new(Op::Counters.tag());
        batch.uses_reserve = true;
        batch.put(keys::counter(counters::TOTAL), counters::encode(self.counters.total(), believable));
        self.apply(&mut batch, Tier::Disk)
    }

    /// The content of `ino`.
    fn content(&self, ino: Ino, tier: Tier) -> Content<'_> {
        Content::new(&*self.engine, self.options.block_bytes, ino, tier)
    }

    /// Hands a batch to the engine. What was deleted before it may still take space: then it waits for that.
    fn apply(&self, batch: &mut Batch, tier: Tier) -> Result<()> {
        self.require_writable()?;
        batch.awaits_space = !batch.uses_reserve && self.orphans.gives_space();
        self.engine.apply(batch, tier)?;
        Ok(())
    }

    /// `ReadOnly` if nothing may change.
    fn require_writable(&self) -> Result<()> {
        if self.options.read_only { Err(Error::ReadOnly) } else { Ok(()) }
    }

    /// Makes a call again while the engine is busy, doing the engine's work so that it ends also where no worker runs.
    /// Only for opening and closing.
    fn patiently<T>(&self, call: impl Fn() -> Result<T>) -> Result<T> {
        loop {
            match call() {
                Err(Error::Busy { .. }) => {
                    for class in [WorkClass::Log, WorkClass::Flush, WorkClass::Merge, WorkClass::Reclaim] {
                        self.engine.work(class)?;
                    }
                }
                result => return result,
            }
        }
    }

    fn now(&self) -> Time {
        self.clock.now().into()
    }
}
