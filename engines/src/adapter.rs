//! The door of kvfs over a store of somebody else: what every adapter needs, once.
//!
//! An adapter says in [`Store`] how its engine reads, writes and syncs. Here is the rest: log sequence numbers, one sync for everyone who waits, the
//! interval of `sync=`, commands on a thread that may wait, a full disk told from other errors, and that no call of an engine of others is
//! made where nothing may wait ([`Tier::Memory`]).

use std::error::Error as StdError;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use kvfs::base::clock::Clock;
use kvfs::engine::{
    Background, Batch, Command, Done, Engine, Error, Inspect, KeyRange, Kind, Lsn, Options, Pending, Promise,
    Result, Shape, Tier, Visit, WakeSignal, WorkClass,
};

use crate::queue::{Durable, Queue};

/// A store of somebody else.
pub trait Store: Send + Sync + 'static {
    /// Which engine it is.
    fn kind(&self) -> Kind;

    /// The value of `key`, if it is there.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>>;

    /// Visits keys of `range` in ascending order. No lock that another call takes is held while `visit` runs.
    fn scan(&self, range: KeyRange<'_>, visit: &mut Visit<'_>) -> Result<()>;

    /// Applies all operations of `batch` in their order, or none; they need not be durable.
    fn apply(&self, batch: &Batch) -> Result<()>;

    /// Makes everything applied so far durable.
    fn sync(&self) -> Result<()>;

    /// Writes out what is buffered, so that nothing is owed for it, and waits for work that it can wait for.
    fn settle(&self) -> Result<()> {
        self.sync()
    }

    /// Merges or moves what can be, so that it takes the least space.
    fn compact(&self) -> Result<()> {
        self.settle()
    }

    /// What it promises of a crash.
    fn promise(&self) -> Promise;

    /// The variant, as its options say it; empty without any.
    fn variant(&self) -> &'static str {
        ""
    }

    /// Work that runs in the background now, a line each.
    fn jobs(&self) -> Vec<String> {
        Vec::new()
    }

    /// Bytes that its cache holds and may hold, as far as it says.
    fn cache_bytes(&self) -> [u64; 2] {
        [0, 0]
    }
}

/// A store behind the door.
pub struct Adapter<S> {
    store: S,
    queue: Queue,
}

impl<S: Store> Adapter<S> {
    /// `store`, opened with `options`, behind the door.
    pub fn open(store: S, clock: Arc<dyn Clock>, options: &Options) -> Arc<dyn Engine> {
        Arc::new(Adapter { store, queue: Queue::new(clock, options.common().sync) })
    }
}

impl<S: Store> Durable for Adapter<S> {
    fn sync(&self) -> Result<()> {
        self.store.sync()
    }

    fn follow(&self, command: Command) -> Result<()> {
        match command {
            Command::Flush | Command::Checkpoint => self.store.settle(),
            Command::Compact => self.store.compact(),
            Command::Verify => self.store.scan(KeyRange::ALL, &mut |_, _| ControlFlow::Continue(())),
            Command::DropCaches | Command::CompactLevel(_) => {
                Err(Error::Invalid(format!("engine={} cannot do that", self.store.kind())))
            }
        }
    }
}

/// Whether a call may wait.
fn may_wait(tier: Tier) -> Result<()> {
    match tier {
        Tier::Memory => Err(Error::WouldBlock),
        Tier::Disk => Ok(()),
    }
}

impl<S: Store> Engine for Adapter<S> {
    fn kind(&self) -> Kind {
        self.store.kind()
    }

    fn get(&self, key: &[u8], tier: Tier) -> Result<Option<Bytes>> {
        may_wait(tier)?;
        self.store.get(key)
    }

    fn scan(&self, range: KeyRange<'_>, tier: Tier, visit: &mut Visit<'_>) -> Result<()> {
        may_wait(tier)?;
        self.store.scan(range, visit)
    }

    fn apply(&self, batch: &Batch, tier: Tier) -> Result<Lsn> {
        self.queue.check()?;
        if batch.is_empty() {
            return Ok(self.queue.lsn());
        }
        may_wait(tier)?;
        self.store.apply(batch)?;
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
        self.queue.sync_now(self)
    }

    fn background(&self) -> Option<&dyn Background> {
        Some(self)
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
    fn shape(&self) -> Shape {
        let mut shape =
            Shape { engine: self.store.kind().name, variant: self.store.variant(), ..Shape::default() };
        shape.jobs = self.store.jobs();
        [shape.cache.bytes, shape.cache.bytes_max] = self.store.cache_bytes();
        shape
    }
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
}
