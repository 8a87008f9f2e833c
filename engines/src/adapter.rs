//! The door of kvfs over a store of somebody else: what every adapter needs, once.
//!
//! An adapter says in [`Store`] how its engine reads, writes and syncs. Here is the rest: log sequence numbers, one sync for everyone who waits, the
//! interval of `sync=`, commands on a thread that may wait, a full disk told from other errors, back-pressure as a stall with its cause, and that
//! no call of an engine of others that may wait is made where nothing may ([`Tier::Memory`]).

use std::error::Error as StdError;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvfs::base::clock::Clock;
use kvfs::disk::DiskCounters;
use kvfs::engine::{
    Background, Batch, Cause, Command, Done, Engine, Error, Inspect, KeyRange, Kind, Lsn, Options, Pending,
    Promise, ReadAhead, Result, Shape, StallMeter, Tier, Visit, WakeSignal, WorkClass,
};

use crate::queue::{Durable, Queue};

/// A store of somebody else.
pub trait Store: Send + Sync + 'static {
    /// Which engine it is.
    fn kind(&self) -> Kind;

    /// The value of `key`, if it is there.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;

    /// The same without the disk and without a wait for a lock; [`Error::WouldBlock`] where that gives no answer.
    fn get_cached(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let _ = key;
        Err(Error::WouldBlock)
    }

    /// Visits keys of `range` in ascending order. No lock that another call takes is held while `visit` runs.
    fn scan(&self, range: KeyRange<'_>, visit: &mut Visit<'_>) -> Result<()>;

    /// The same without the disk and without a wait for a lock; [`Error::WouldBlock`], after visits or before, where that gives no answer.
    fn scan_cached(&self, range: KeyRange<'_>, visit: &mut Visit<'_>) -> Result<()> {
        let _ = (range, visit);
        Err(Error::WouldBlock)
    }

    /// Applies all operations of `batch` in their order, or none; they need not be durable.
    fn apply(&self, batch: &Batch) -> Result<()>;

    /// Makes everything applied so far durable.
    fn sync(&self) -> Result<()>;

    /// Whether all that is not durable is still held after a sync that failed with `error`, so that another one may be tried. Where that is not known,
    /// nothing more is taken.
    fn keeps_unsynced(&self, error: &Error) -> bool {
        let _ = error;
        false
    }

    /// Writes out what is buffered, so that nothing is owed for it, and waits for work that it can wait for.
    fn settle(&self) -> Result<()> {
        self.sync()
    }

    /// Merges or moves what can be, so that it takes the least space.
    fn compact(&self) -> Result<()> {
        self.settle()
    }

    /// Reads everything and verifies it in the engine's own way; [`Error::Corrupt`] for what does not fit.
    fn verify(&self) -> Result<()> {
        self.scan(KeyRange::ALL, &mut |_, _| ControlFlow::Continue(()))
    }

    /// Whatever is to be done before the end, once everything is durable.
    fn close(&self) -> Result<()> {
        Ok(())
    }

    /// Reads that begin before they are asked for, where it has them.
    fn read_ahead(&self) -> Option<&dyn ReadAhead> {
        None
    }

    /// What it promises of a crash.
    fn promise(&self) -> Promise;

    /// Back-pressure that holds up writes now; `None` without any, and of engines that have none. An error answers the write: nothing that the engine
    /// does by itself will end what it waits for.
    fn pressure(&self) -> Result<Option<Pressure>> {
        Ok(None)
    }

    /// What it has written and read, counted by purpose, if it counts that itself.
    fn traffic(&self) -> Option<DiskCounters> {
        None
    }

    /// Fills in what it says of itself: its statistics under its own names, and of ours only what means the same.
    fn describe(&self, shape: &mut Shape);
}

/// Back-pressure: why writes are held up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressure {
    /// Its cause, by the engine's own rule.
    pub cause: Cause,
    /// Whether writes are stopped until it is gone, not only delayed.
    pub is_stopped: bool,
}

/// Time after which a batch that was refused for back-pressure is worth another try: engines of others do not say when it ends.
pub const RETRY_AFTER: Duration = Duration::from_millis(5);

/// A store behind the door.
pub struct Adapter<S> {
    store: S,
    queue: Queue,
    clock: Arc<dyn Clock>,
    stalls: StallMeter,
}

impl<S: Store> Adapter<S> {
    /// `store`, opened with `options`, behind the door.
    pub fn open(store: S, clock: Arc<dyn Clock>, options: &Options) -> Arc<dyn Engine> {
        let queue = Queue::new(clock.clone(), options.common().sync);
        Arc::new(Adapter { store, queue, clock, stalls: StallMeter::default() })
    }

    /// Refuses a batch while writes are stopped, so that it waits in the queue for such batches and not on a thread; a delay is the engine's
    /// own, within the write.
    fn check_pressure(&self) -> Result<()> {
        let Some(Pressure { cause, is_stopped }) = self.store.pressure()? else { return Ok(()) };
        self.stalls.begin(cause, is_stopped, self.clock.elapsed());
        if is_stopped { Err(Error::Busy { cause, retry_after: RETRY_AFTER }) } else { Ok(()) }
    }
}

impl<S: Store> Durable for Adapter<S> {
    fn sync(&self) -> Result<()> {
        self.store.sync()
    }

    fn keeps_unsynced(&self, error: &Error) -> bool {
        self.store.keeps_unsynced(error)
    }

    fn follow(&self, command: Command) -> Result<()> {
        match command {
            Command::Flush | Command::Checkpoint => self.store.settle(),
            Command::Compact => self.store.compact(),
            Command::Verify => self.store.verify(),
            Command::DropCaches | Command::CompactLevel(_) | Command::Demote => {
                Err(Error::Invalid(format!("engine={} cannot do that", self.store.kind())))
            }
        }
    }
}

impl<S: Store> Engine for Adapter<S> {
    fn kind(&self) -> Kind {
        self.store.kind()
    }

    fn get(&self, key: &[u8], tier: Tier) -> Result<Option<Bytes>> {
        match tier {
            Tier::Memory => self.store.get_cached(key),
            Tier::Disk => self.store.get(key),
        }
    }

    fn scan(&self, range: KeyRange<'_>, tier: Tier, visit: &mut Visit<'_>) -> Result<()> {
        match tier {
            Tier::Memory => self.store.scan_cached(range, visit),
            Tier::Disk => self.store.scan(range, visit),
        }
    }

    /// No engine of others says whether a write will wait: none is made in [`Tier::Memory`].
    fn apply(&self, batch: &Batch, tier: Tier) -> Result<Lsn> {
        self.queue.check()?;
        if batch.is_empty() {
            return Ok(self.queue.lsn());
        }
        if tier == Tier::Memory {
            return Err(Error::WouldBlock);
        }
        self.check_pressure()?;
        self.store.apply(batch).inspect_err(|error| {
            // Stopped between the look and the write.
            if let Error::Busy { cause, .. } = error {
                self.stalls.begin(*cause, true, self.clock.elapsed());
            }
        })?;
        self.stalls.end(|| self.clock.elapsed());
        // A batch of deletes of the empty key has no bytes, and is a batch all the same.
        Ok(self.queue.applied(batch.bytes().max(1)))
    }

    fn lsn(&self) -> Lsn {
        self.queue.lsn()
    }

    fn sync_to(&self, lsn: Lsn, done: Done) {
        self.queue.sync_to(lsn, done);
    }

    fn promise(&self) -> Promise {
        self.store.promise()
    }

    fn close(&self) -> Result<()> {
        self.queue.sync_now(self)?;
        self.store.close()
    }

    fn background(&self) -> Option<&dyn Background> {
        Some(self)
    }

    fn read_ahead(&self) -> Option<&dyn ReadAhead> {
        self.store.read_ahead()
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }
}

impl<S: Store> Background for Adapter<S> {
    fn wake_signal(&self) -> &Arc<WakeSignal> {
        self.queue.wake_signal()
    }

    fn work(&self, class: WorkClass) -> Result<Pending> {
        self.queue.work(class, self)
    }

    /// One syncs, one follows commands; the engine's own work is done by threads of its own.
    fn threads(&self, class: WorkClass) -> usize {
        usize::from(matches!(class, WorkClass::Log | WorkClass::Flush))
    }

    fn run(&self, command: Command, done: Done) {
        self.queue.run(command, done);
    }
}

impl<S: Store> Inspect for Adapter<S> {
    fn traffic(&self) -> Option<DiskCounters> {
        self.store.traffic()
    }

    fn shape(&self) -> Shape {
        let mut shape = Shape { engine: self.store.kind().name, ..Shape::default() };
        self.store.describe(&mut shape);
        shape.stalls = self.stalls.snapshot(self.clock.elapsed());
        (shape.debt.unsynced_bytes, shape.debt.oldest_unsynced) = self.queue.unsynced();
        shape
    }
}

/// Lines for jobs of which so many run: `3 flushes`.
#[allow(dead_code, reason = "which engines say what runs follows from the features")]
pub fn jobs<const N: usize>(jobs: [(u64, &str); N]) -> Vec<String> {
    jobs.into_iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}")).collect()
}

/// An engine's error, with what was being done. A full disk and the system's other errors are found where they lie inside it.
pub fn failed(what: &str, error: impl StdError + Send + Sync + 'static) -> Error {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(&error);
    while let Some(at) = cause {
        if let Some(number) = at.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Error::io(what, io::Error::from_raw_os_error(number));
        }
        cause = at.source();
    }
    Error::io(what, io::Error::other(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Wrapped(io::Error);

    impl std::fmt::Display for Wrapped {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a write failed")
        }
    }

    impl StdError for Wrapped {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn a_full_disk_is_told_from_other_errors_however_deep_it_lies() {
        const ENOSPC: i32 = 28;
        const EIO: i32 = 5;
        assert!(matches!(failed("a put", Wrapped(io::Error::from_raw_os_error(ENOSPC))), Error::NoSpace));
        let broken = failed("a put", Wrapped(io::Error::from_raw_os_error(EIO)));
        assert!(broken.is_damage() && broken.to_string().starts_with("a put: "), "{broken}");
        let other = failed("a put", Wrapped(io::Error::other("no number")));
        assert_eq!(other.to_string(), "a put: a write failed");
    }
    /// Takes nothing, and says so itself or only when it is asked.
    struct Stopped {
        says_when_asked: bool,
    }

    impl Store for Stopped {
        fn kind(&self) -> Kind {
            Kind::MEM
        }

        fn get(&self, _: &[u8]) -> Result<Option<Bytes>> {
            Ok(None)
        }

        fn scan(&self, _: KeyRange<'_>, _: &mut Visit<'_>) -> Result<()> {
            Ok(())
        }

        fn apply(&self, _: &Batch) -> Result<()> {
            Err(Error::Busy { cause: Cause::Memtables, retry_after: RETRY_AFTER })
        }

        fn sync(&self) -> Result<()> {
            Ok(())
        }

        fn promise(&self) -> Promise {
            kvfs::engine::MemEngine::new().promise()
        }

        fn pressure(&self) -> Result<Option<Pressure>> {
            Ok(self.says_when_asked.then_some(Pressure { cause: Cause::Memtables, is_stopped: true }))
        }

        fn describe(&self, _: &mut Shape) {}
    }

    #[test]
    fn a_write_that_is_stopped_is_a_stall_whoever_notices() {
        for says_when_asked in [true, false] {
            let clock = Arc::new(kvfs::base::clock::ManualClock::default());
            let engine = Adapter::open(Stopped { says_when_asked }, clock, &Kind::MEM.default_options());
            let mut batch = Batch::new(0);
            batch.put(&b"key"[..], &b"value"[..]);
            assert!(matches!(engine.apply(&batch, Tier::Disk), Err(Error::Busy { .. })));
            let stalls = engine.shape().stalls;
            assert_eq!(stalls.now, Some(Cause::Memtables), "{says_when_asked}");
        }
    }
}
