//! The door: what the filesystem and the tools ask of an engine, whichever it is.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use crate::base::metric::metrics;
use crate::disk::{Disk, DiskCounters};

use super::{Batch, Error, EventLog, Kind, Lsn, Probe, Result, Shape, TableInfo, WakeSignal, WorkClass};

/// Limit on how far a call goes for its answer.
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

/// Function that a scan calls with each key and value; `Break` ends the scan.
pub type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'a;

/// Called once, from any thread, when a sync or command has ended.
pub type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// State of a class of work after one call of [`Engine::work`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// Nothing of this class to do until it is signalled.
    Idle,
    /// More to do now.
    More,
    /// Nothing to do now, but time will change that: look again after this long, or when the class is signalled.
    After(std::time::Duration),
}

/// A command to a live engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// LSM: write the memtable to level 0 now. B-tree: the same as `Checkpoint`.
    Flush,
    /// LSM: flush, then merge until one sorted run is left in the lowest level. B-tree: a vacuum, which moves what
    /// lies at the end of the file into free space and cuts the end off.
    Compact,
    /// LSM: merge every table of a level with what it overlaps in the next. [`Error::Invalid`] for the last level, and for
    /// engines without levels.
    CompactLevel(usize),
    /// B-tree: write every dirty page home. LSM: the same as `Flush`.
    Checkpoint,
    /// Hybrid: bring everything that the tree holds now down to the levels, however hot it is. [`Error::Invalid`] for other engines, and while
    /// demotion is held.
    Demote,
    /// Forget what the cache of blocks or pages holds; nothing that is not on the disk is in it.
    DropCaches,
    /// Read everything and verify every checksum and the order of keys.
    Verify,
}

metrics! {
    /// Promises of a crash and of a full disk that tests may hold an engine to, as it was opened.
    #[derive(Copy, Eq)]
    pub struct Promise {
        /// Whether a crash of the machine leaves a prefix of the history, no older than the last sync that was acknowledged.
        text prefix: bool;
        /// Whether a batch that `apply` accepted survives the end of the process (`kill -9`).
        text survives_kill: bool;
        /// Whether it goes on, without a new mount, once there is room again on a disk that was full.
        text survives_full_disk: bool;
        /// What is weaker than with the engines of kvfs, in a few words; null where nothing is.
        text weaker: Option<&'static str>;
        /// What to do about it, in a few words; null where nothing is weaker.
        text way_out: Option<&'static str>;
    }
}

impl Promise {
    /// Everything that the engines of kvfs promise.
    pub const WHOLE: Promise =
        Promise { prefix: true, survives_kill: true, survives_full_disk: true, weaker: None, way_out: None };

    /// Of an engine that keeps what is not synced in its process alone; with `is_always` no operation is answered before it is synced.
    pub fn losing_unsynced(is_always: bool) -> Promise {
        let weaker = "the end of the process (kill -9) loses what no sync covers";
        Promise {
            survives_kill: false,
            weaker: (!is_always).then_some(weaker),
            way_out: (!is_always).then_some("fsync, or sync=always"),
            ..Promise::WHOLE
        }
    }

    /// The sentence for whoever mounts engine `name`; `None` where nothing is weaker.
    pub fn warning(&self, name: &str) -> Option<String> {
        let way_out = self.way_out.map_or(String::new(), |way_out| format!("; {way_out}"));
        self.weaker.map(|weaker| format!("engine={name} promises less than engine=lsm: {weaker}{way_out}"))
    }
}

/// An ordered map of byte strings: what data needs, and nothing else. See the module for what it promises.
///
/// Background work and a look inside are doors beside it ([`Background`], [`Inspect`]), which an engine has or has not; the calls
/// below that go through them say what comes without. So an adapter over somebody else's engine implements the calls without a
/// default, and none of them emptily; a decorator implements those and hands on the other doors.
pub trait Engine: Send + std::marker::Sync {
    /// Which engine it is.
    fn kind(&self) -> Kind;

    /// The value of `key`, if it is present.
    fn get(&self, key: &[u8], tier: Tier) -> Result<Option<Bytes>>;

    /// Visits keys of `range` in ascending order. A key that is present and unchanged during the call is visited
    /// exactly once; of a concurrent change either side may be seen. No lock is held while `visit` runs, so it may call
    /// the engine. With [`Tier::Memory`] the scan may answer [`Error::WouldBlock`] after visits: start again.
    fn scan(&self, range: KeyRange<'_>, tier: Tier, visit: &mut Visit<'_>) -> Result<()>;

    /// Applies all operations of `batch` in their order, or none. When it returns, reads see the batch, and it is in the
    /// log file. The LSN is the end of the batch in the history. An empty batch changes nothing. `tier` says
    /// whether pages that the batch changes may be read from the disk.
    fn apply(&self, batch: &Batch, tier: Tier) -> Result<Lsn>;

    /// The end of the history: the LSN of the last batch.
    fn lsn(&self) -> Lsn;

    /// Calls `done` once everything up to `lsn` is durable: at once if it is, else from [`WorkClass::Log`] work, which
    /// serves all waiters with one sync.
    fn sync_to(&self, lsn: Lsn, done: Done);

    /// Its promises.
    fn promise(&self) -> Promise;

    /// Makes everything durable and quick to open. The worker must have stopped; no call may follow.
    fn close(&self) -> Result<()>;

    /// Its background work; `None` if it does all work within the calls above, or on threads of its own.
    fn background(&self) -> Option<&dyn Background> {
        None
    }

    /// A look inside; `None` if there is none.
    fn inspect(&self) -> Option<&dyn Inspect> {
        None
    }

    /// Reads before anybody asks; `None` where what is not in memory is near.
    fn read_ahead(&self) -> Option<&dyn ReadAhead> {
        None
    }

    /// A consistent view of everything applied so far, which stays as it is while writes go on. [`Error::Invalid`] if this engine has
    /// none; what it costs while it is held (memory, space of obsolete files) is the engine's to say.
    fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        Err(Error::Invalid(format!("engine={} cannot hold a snapshot", self.kind())))
    }

    /// [`Background::work`]; without it there is never any.
    fn work(&self, class: WorkClass) -> Result<Pending> {
        self.background().map_or(Ok(Pending::Idle), |background| background.work(class))
    }

    /// [`Background::run`]; without it nothing is owed, so that commands have ended at once, and to verify is to read everything.
    fn run(&self, command: Command, done: Done) {
        match self.background() {
            Some(background) => background.run(command, done),
            None if command == Command::Verify => {
                done(self.scan(KeyRange::ALL, Tier::Disk, &mut |_, _| ControlFlow::Continue(())));
            }
            None => done(Ok(())),
        }
    }

    /// [`Background::set`]; without it nothing can be changed.
    fn set(&self, name: &str, value: &str) -> Result<()> {
        match self.background() {
            Some(background) => background.set(name, value),
            None => Err(unchangeable(name)),
        }
    }

    /// [`Background::wake_signal`]; without it one that is never given.
    fn wake_signal(&self) -> Arc<WakeSignal> {
        self.background().map_or_else(Arc::default, |background| background.wake_signal().clone())
    }

    /// [`Inspect::shape`]; without it only the engine's name is known.
    fn shape(&self) -> Shape {
        let unknown = || Shape { engine: self.kind().name, ..Shape::default() };
        self.inspect().map_or_else(unknown, Inspect::shape)
    }

    /// [`Inspect::event_log`].
    fn event_log(&self) -> Option<&Arc<EventLog>> {
        self.inspect().and_then(Inspect::event_log)
    }

    /// [`Inspect::tables`].
    fn tables(&self) -> Vec<TableInfo> {
        self.inspect().map_or_else(Vec::new, Inspect::tables)
    }

    /// [`Inspect::explain`].
    fn explain(&self, key: &[u8], tier: Tier) -> Result<Vec<Probe>> {
        self.inspect().map_or_else(|| Ok(Vec::new()), |inspect| inspect.explain(key, tier))
    }
}

/// Work that an engine leaves for later, done by whoever calls: a [`super::Worker`] on a mount, the test itself in a simulation.
pub trait Background: Send + std::marker::Sync {
    /// The signal that it gives when there is work.
    fn wake_signal(&self) -> &Arc<WakeSignal>;

    /// Does one unit of work of a class, at most a few MiB, and says what is left. Errors are reported by the calls that
    /// need what the work could not do; the caller logs them and tries again later.
    fn work(&self, class: WorkClass) -> Result<Pending>;

    /// Number of threads that may call [`Background::work`] for a class at once and find something to do.
    fn threads(&self, class: WorkClass) -> usize {
        let _ = class;
        1
    }

    /// Starts a command; `done` is called when it has ended, from [`Background::work`].
    fn run(&self, command: Command, done: Done);

    /// Changes a setting of the live engine, until it is closed: an option's name and value as at mount, or a switch
    /// that only a live engine has. [`Error::Invalid`], with a sentence, for what it does not know or cannot change now.
    fn set(&self, name: &str, value: &str) -> Result<()> {
        let _ = value;
        Err(unchangeable(name))
    }
}

fn unchangeable(name: &str) -> Error {
    Error::Invalid(format!("{name} cannot be changed while this engine is mounted"))
}

/// Reads that begin before they are asked for, of an engine whose storage is far: each request takes a while, and many at once take no longer.
pub trait ReadAhead {
    /// Bytes that one request brings well.
    fn piece_bytes(&self) -> u64;

    /// Bytes ahead of a reader that are worth it, at most.
    fn window_bytes(&self) -> u64;

    /// Begins to bring `range` into memory, where a scan of it finds it or waits for it. Waits for nothing; what fails is found out by the scan.
    fn fetch(&self, range: KeyRange<'_>);
}

/// A look inside an engine. Nothing here changes it.
pub trait Inspect: Send + std::marker::Sync {
    /// Shape of the engine now. Takes no lock that a writer holds for long.
    fn shape(&self) -> Shape;

    /// Its recent events; `None` if it keeps no event log.
    fn event_log(&self) -> Option<&Arc<EventLog>> {
        None
    }

    /// What it has written and read where door 3 does not see it, counted by purpose at a door of its own; `None` if it has none.
    fn traffic(&self) -> Option<DiskCounters> {
        None
    }

    /// Its table files, level by level and each level from its newest or smallest on; empty for engines without any.
    fn tables(&self) -> Vec<TableInfo> {
        Vec::new()
    }

    /// The places that a point read of `key` asks, in order, up to where it stops; counts nothing but what it must read from the disk.
    fn explain(&self, key: &[u8], tier: Tier) -> Result<Vec<Probe>> {
        let _ = (key, tier);
        Ok(Vec::new())
    }
}

/// Everything that an engine held at one moment. It ends when it is dropped.
pub trait Snapshot: Send + std::marker::Sync {
    /// The end of the history that it shows.
    fn lsn(&self) -> Lsn;

    /// The value that `key` had.
    fn get(&self, key: &[u8], tier: Tier) -> Result<Option<Bytes>>;

    /// Visits keys of `range` in ascending order, as they were.
    fn scan(&self, range: KeyRange<'_>, tier: Tier, visit: &mut Visit<'_>) -> Result<()>;

    /// Makes a store of its own in `into`, which must be empty, that holds what the snapshot shows and goes on from [`Snapshot::lsn`]. It
    /// shares with the engine what the filesystem below lets it share, and neither sees what the other writes. When this returns it is
    /// durable; one that a crash or an error has interrupted does not open. [`Error::Invalid`] if this engine cannot: [`transfer`] can.
    fn fork(&self, into: &Arc<dyn Disk>) -> Result<()> {
        let _ = into;
        Err(Error::Invalid("a snapshot of this engine cannot be forked, only copied".to_string()))
    }
}

/// Bytes of a batch of what takes a store over.
pub(super) const TRANSFER_BYTES: u64 = 1 << 20;

/// Puts everything that a snapshot shows into `engine`, of whichever kind, doing its work meanwhile where no worker does; not synced.
pub fn transfer(snapshot: &dyn Snapshot, engine: &dyn Engine) -> Result<()> {
    let (mut batch, mut result) = (Batch::new(0), Ok(()));
    snapshot.scan(KeyRange::ALL, Tier::Disk, &mut |key, value| {
        batch.put(key.to_vec(), value.to_vec());
        if batch.bytes() >= TRANSFER_BYTES {
            result = apply_patiently(engine, &std::mem::replace(&mut batch, Batch::new(0)));
        }
        if result.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    result?;
    apply_patiently(engine, &batch)
}

/// Applies `batch`, doing the engine's work while it is busy, where no worker does.
pub(crate) fn apply_patiently(engine: &dyn Engine, batch: &Batch) -> Result<()> {
    loop {
        match engine.apply(batch, Tier::Disk) {
            Err(Error::Busy { .. }) => settle(engine)?,
            other => return other.map(drop),
        }
    }
}

/// Calls `visit` with the sizes of each key and value of a snapshot, in the order of keys: the image of a store without what is in it.
pub fn image(snapshot: &dyn Snapshot, visit: &mut dyn FnMut(usize, usize)) -> Result<()> {
    snapshot.scan(KeyRange::ALL, Tier::Disk, &mut |key, value| {
        visit(key.len(), value.len());
        ControlFlow::Continue(())
    })
}

/// Waits until everything applied so far is durable, doing log work itself if nobody else does. For tests, tools and
/// unmounting; never on a dispatch thread.
pub fn sync(engine: &dyn Engine) -> Result<()> {
    finish(engine, |done| engine.sync_to(engine.lsn(), done))
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
        let mut more = false;
        for class in [WorkClass::Log, WorkClass::Flush, WorkClass::Merge, WorkClass::Reclaim] {
            if let Ok(result) = receiver.try_recv() {
                return result;
            }
            more |= engine.work(class)? == Pending::More;
        }
        // Somebody else is at it, or time must pass.
        if !more && let Ok(result) = receiver.recv_timeout(std::time::Duration::from_millis(1)) {
            return result;
        }
    }
}

/// Does all background work until nothing is left; for tests and tools without a worker.
pub fn settle(engine: &dyn Engine) -> Result<()> {
    loop {
        let mut more = false;
        for class in [WorkClass::Log, WorkClass::Flush, WorkClass::Merge, WorkClass::Reclaim] {
            more |= engine.work(class)? == Pending::More;
        }
        // What merges of a hybrid wait for may be a checkpoint, which they have asked for.
        if !more && engine.work(WorkClass::Flush)? != Pending::More {
            return Ok(());
        }
    }
}
