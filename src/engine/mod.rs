//! The engine room: an ordered map of bytes that survives crashes and knows nothing of files.
//!
//! # What every engine promises
//!
//! - A [`Batch`] is all or nothing.
//! - *A crash leaves a prefix of the history* of batches, no older than the last position for which
//!   [`Engine::sync_to`] reported success.
//! - What [`Engine::apply`] accepted survives `kill -9` of the process: each batch is in the log file (a buffered
//!   write of a logical record) before `apply` returns.
//! - No call sleeps. A read that would need the disk answers [`Error::WouldBlock`] in [`Tier::Memory`]; a batch over a
//!   limit is answered [`Error::Busy`] with its cause; a sync is answered through a callback. Only [`Tier::Disk`] reads, and
//!   [`Engine::work`], wait for the disk.
//! - Engines start no thread. Background work happens in [`Engine::work`], one unit a call; [`Worker`] runs the
//!   threads on a mount, the test itself in a simulation.

mod batch;
pub mod btree;
pub mod cache;
mod classes;
mod cpu;
pub mod decoders;
mod error;
pub mod frame;
pub mod lsm;
mod mem;
mod meter;
mod options;
mod registry;
pub mod salvage;
mod shape;
mod space;
mod trace;
mod traffic;
pub mod wal;
mod worker;

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

pub use crate::base::bell::{Bell, Class};
pub use crate::base::journal::Journal;
pub use batch::{Batch, Operation};
pub use classes::{ClassBytes, ClassMeter, Shares, class_of};
pub use cpu::{Cost, Cpu, CpuMeter, Work, background};
pub use error::{Cause, Error, Result};
pub use mem::MemEngine;
pub use meter::{KINDS, KeyKind, KindCounters, MeteredEngine, TagCounters};
pub use options::{COMMON_FIELDS, Common, Options, OwnOptions, Setting, Sync};
pub use registry::{Descriptor, Kind};
pub use shape::{
    Cache, Debt, ExtraSpace, Filter, FilterMeter, Histogram, Level, LevelMeter, LevelTraffic, LookupMeter,
    Lookups, Memory, Probe, ProbeMeter, Probes, ScanRuns, Shape, StallCounters, StallMeter, Stalls,
    TableInfo, Tree, ValueLog,
};
pub use space::{
    BALLAST_NAME, SPARE_FILES, SpaceClaim, SpaceGuard, is_short_of_files, lacks_files, shortage,
};
pub use trace::{Asked, ReadTrace, TracedRead};
pub use traffic::{PageCause, PageCount, PageKind, PageTraffic, Pages, TrafficMeter};
pub use worker::Worker;

/// A place in the history of a store: the number of log bytes up to the end of a batch. Grows with every batch,
/// across restarts.
pub type Position = u64;

/// How far a call may go for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Only memory: what would need the disk, or a long wait for a lock, is answered [`Error::WouldBlock`].
    Memory,
    /// Reads the disk if it must.
    Disk,
}

/// Keys from `start` up to, not including, `end`; `None` is the end of the key space.
#[derive(Clone, Copy, Debug)]
pub struct KeyRange<'a> {
    /// First key.
    pub start: &'a [u8],
    /// First key that is not in the range.
    pub end: Option<&'a [u8]>,
}

impl KeyRange<'_> {
    /// Every key.
    pub const ALL: KeyRange<'static> = KeyRange { start: b"", end: None };

    /// Whether `key` lies before the end of the range.
    pub fn is_before_end(&self, key: &[u8]) -> bool {
        self.end.is_none_or(|end| key < end)
    }
}

/// What a scan calls with each key and value; `Break` ends the scan.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Called once, from any thread, when a sync or command has ended.
pub type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// What [`Engine::work`] leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// Nothing of this class to do until its bell rings.
    Idle,
    /// More to do now.
    More,
    /// Nothing to do now, but time will change that: look again after this long, or when the bell rings.
    After(std::time::Duration),
}

/// A command to a live engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// LSM: write the memtable to level 0 now. B-tree: the same as `Checkpoint`.
    Flush,
    /// LSM: flush, then merge until one sorted run is left in the lowest level. B-tree: move what lies at the end of the file into free space and cut the end off.
    Compact,
    /// LSM: merge every table of a level with what it overlaps in the next. [`Error::Invalid`] for the last level, and for
    /// engines without levels.
    CompactLevel(usize),
    /// B-tree: write every dirty page home. LSM: the same as `Flush`.
    Checkpoint,
    /// Forget what the cache of blocks or pages holds; nothing that is not on the disk is in it.
    DropCaches,
    /// Read everything and verify every checksum and the order of keys.
    Verify,
}

/// What tests may hold an engine to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Promise {
    /// A crash leaves a prefix of the history.
    pub prefix: bool,
    /// What `apply` accepted survives the end of the process.
    pub survives_kill: bool,
}

/// An ordered map of byte strings. See the module for what it promises.
pub trait Engine: Send + std::marker::Sync {
    /// The value of `key`, if it is present.
    fn get(&self, key: &[u8], tier: Tier) -> Result<Option<Bytes>>;

    /// Visits keys of `range` in ascending order. A key that is present and unchanged during the call is visited
    /// exactly once; of a concurrent change either side may be seen. No lock is held while `visit` runs, so it may call
    /// the engine. With [`Tier::Memory`] the scan may answer [`Error::WouldBlock`] after visits: start again.
    fn scan(&self, range: KeyRange<'_>, tier: Tier, visit: &mut Visit<'_>) -> Result<()>;

    /// Applies all operations of `batch` in their order, or none. When it returns, reads see the batch, and it is in the
    /// log file. The position is the end of the batch in the history. An empty batch changes nothing. `tier` says
    /// whether pages that the batch changes may be read from the disk.
    fn apply(&self, batch: &Batch, tier: Tier) -> Result<Position>;

    /// The end of the history: the position of the last batch.
    fn position(&self) -> Position;

    /// Calls `done` once everything up to `position` is durable: at once if it is, else from [`Class::Log`] work, which
    /// serves all waiters with one sync.
    fn sync_to(&self, position: Position, done: Done);

    /// Does one unit of work of a class, at most a few MiB, and says what is left. Errors are reported by the calls that
    /// need what the work could not do; the caller logs them and tries again later.
    fn work(&self, class: Class) -> Result<Pending>;

    /// How many threads may call [`Engine::work`] for a class at once and find something to do.
    fn threads(&self, class: Class) -> usize {
        let _ = class;
        1
    }

    /// Starts a command; `done` is called when it has ended, from `work`.
    fn run(&self, command: Command, done: Done);

    /// Changes a setting of the live engine, until it is closed: an option's name and value as at mount, or a switch
    /// that only a live engine has. [`Error::Invalid`], with a sentence, for what it does not know or cannot change now.
    fn set(&self, name: &str, value: &str) -> Result<()> {
        let _ = value;
        Err(Error::Invalid(format!("{name} cannot be changed while this engine is mounted")))
    }

    /// What the engine looks like now. Takes no lock that a writer holds for long.
    fn shape(&self) -> Shape;

    /// What happened in it lately; `None` if it keeps no journal.
    fn journal(&self) -> Option<&Arc<Journal>> {
        None
    }

    /// Its table files, level by level and each level from its newest or smallest on; empty for engines without any.
    fn tables(&self) -> Vec<TableInfo> {
        Vec::new()
    }

    /// What a point read of `key` asks, in order, up to where it stops; counts nothing but what it must read from the disk.
    fn explain(&self, key: &[u8], tier: Tier) -> Result<Vec<Probe>> {
        let _ = (key, tier);
        Ok(Vec::new())
    }

    /// What it promises.
    fn promise(&self) -> Promise;

    /// The bell that it rings when there is work.
    fn bell(&self) -> &Arc<Bell>;

    /// Makes everything durable and quick to open. The worker must have stopped; no call may follow.
    fn close(&self) -> Result<()>;
}

/// Waits until everything applied so far is durable, doing log work itself if nobody else does. For tests, tools and
/// unmounting; never on a dispatch thread.
pub fn sync(engine: &dyn Engine) -> Result<()> {
    finish(engine, |done| engine.sync_to(engine.position(), done))
}

/// Runs a command to its end, doing the work itself where no worker does.
pub fn run(engine: &dyn Engine, command: Command) -> Result<()> {
    finish(engine, |done| engine.run(command, done))
}

fn finish(engine: &dyn Engine, start: impl FnOnce(Done)) -> Result<()> {
    let (sender, receiver) = std::sync::mpsc::channel();
    start(Box::new(move |result| {
        // The receiver is gone only if work failed below, and then that error is the answer.
        let _ = sender.send(result);
    }));
    loop {
        for class in [Class::Log, Class::Flush, Class::Merge, Class::Reclaim] {
            if let Ok(result) = receiver.try_recv() {
                return result;
            }
            engine.work(class)?;
        }
        if let Ok(result) = receiver.recv_timeout(std::time::Duration::from_millis(1)) {
            return result;
        }
    }
}

/// Does all background work until nothing is left; for tests and tools without a worker.
pub fn settle(engine: &dyn Engine) -> Result<()> {
    loop {
        let mut more = false;
        for class in [Class::Log, Class::Flush, Class::Merge, Class::Reclaim] {
            more |= engine.work(class)? == Pending::More;
        }
        if !more {
            return Ok(());
        }
    }
}

/// Opens the engine that `options` are of on `disk`, recovering it if it was not closed. A disk without one gets a
/// new, empty store.
pub fn open(
    disk: Arc<dyn crate::disk::Disk>,
    clock: Arc<dyn crate::base::clock::Clock>,
    options: &Options,
) -> Result<Arc<dyn Engine>> {
    options.validate().map_err(Error::Invalid)?;
    (options.kind().open)(disk, clock, options)
}
