//! Salvage: reads everything that can still be read of a damaged store, as operations from the oldest to the newest.
//!
//! Applied in this order to an empty store, they give what is left of the damaged one. Salvage changes the damaged store only as recovery
//! does, so callers pass an [`crate::disk::Overlay`].
//!
//! # Invariants
//!
//! 1. Only bytes whose checksum fits become operations.
//! 2. Every key that may be missing, or may have an older value, lies in a [`Loss`]: without a loss the store is salvaged completely.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::{Batch, Cause, Engine, Error, Kind, Operation, Options, Result, Tier, settle, wal};
use crate::disk::{Disk, File, Purpose};

/// Bytes of operations that are applied as one batch.
const BATCH_BYTES: u64 = 256 << 10;
/// Bytes of the pieces in which a range is read again that a device refuses to read, so that no more than these are lost.
const PIECE_BYTES: usize = 4096;
/// Number of attempts to apply a batch after which the engine counts as stuck.
const ATTEMPTS_MAX: u32 = 1000;

/// A range of keys from `start` up to, not including, `end`; `None` is the end of the key space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// First key.
    pub start: Vec<u8>,
    /// The first key behind the range.
    pub end: Option<Vec<u8>>,
}

impl Keys {
    /// Every key.
    pub const ALL: Keys = Keys { start: Vec::new(), end: None };

    /// One key.
    pub fn one(key: &[u8]) -> Keys {
        Keys { start: key.to_vec(), end: Some(successor(key)) }
    }

    /// Keys above `after` and below `before`; `None` is no bound.
    pub fn between(after: Option<&[u8]>, before: Option<&[u8]>) -> Keys {
        Keys { start: after.map_or(Vec::new(), successor), end: before.map(<[u8]>::to_vec) }
    }

    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        &self.start[..] <= key && self.end.as_deref().is_none_or(|end| key < end)
    }

    /// Whether the range is empty.
    pub fn is_empty(&self) -> bool {
        self.end.as_deref().is_some_and(|end| end <= &self.start[..])
    }
}

/// The first key above `key`.
pub fn successor(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}

/// A place that could not be read, and the keys whose newest value may have been there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// The file.
    pub file: String,
    /// Byte offset in the file.
    pub offset: u64,
    /// Description of the damage.
    pub what: String,
    /// The keys; `None` if they are unknown.
    pub keys: Option<Keys>,
}

impl Loss {
    /// A loss of `keys` at `offset` of `file`.
    pub fn new(file: impl Into<String>, offset: u64, what: impl Into<String>, keys: Option<Keys>) -> Loss {
        Loss { file: file.into(), offset, what: what.into(), keys }
    }
}

/// Takes salvaged operations, the oldest first; a later operation of a key replaces an earlier one.
pub type Sink<'a> = dyn FnMut(Operation) -> Result<()> + 'a;

/// Calls `sink` with everything that can be read of the store on `disk`, whose engine is that of `options`, and returns the losses. `disk` is
/// recovered on the way.
pub fn salvage(disk: Arc<dyn Disk>, options: &Options, sink: &mut Sink<'_>) -> Result<Vec<Loss>> {
    match options.kind().salvage {
        Some(salvage) => salvage(disk, options, sink),
        None => Ok(Vec::new()),
    }
}

/// Whether `name` is a file that an engine may have made.
pub fn is_engine_file(name: &str) -> bool {
    let name = name.strip_suffix(".new").unwrap_or(name);
    wal::is_segment(name) || Kind::all().any(|kind| (kind.is_file)(name))
}

/// The engine whose files lie on `disk`: the first one that every engine's file there may be of; `None` if there are no such files, or no
/// engine makes all of them.
pub fn kind_of(disk: &dyn Disk) -> Result<Option<Kind>> {
    let files = disk.list().map_err(|error| Error::io("listing the store", error))?;
    let is_own = |name: &str| Kind::all().any(|kind| (kind.is_file)(name));
    let owned: Vec<&str> = files.iter().map(|info| &info.name[..]).filter(|name| is_own(name)).collect();
    let mut kinds = Kind::all().filter(|kind| owned.iter().all(|name| (kind.is_file)(name)));
    Ok(kinds.next().filter(|_| !owned.is_empty()))
}

/// Collects operations into batches for an engine.
pub struct Writer<'a> {
    engine: &'a dyn Engine,
    batch: Batch,
}

impl<'a> Writer<'a> {
    /// A writer to `engine`.
    pub fn new(engine: &'a dyn Engine) -> Writer<'a> {
        Writer { engine, batch: Batch::new(0) }
    }

    /// Adds an operation.
    pub fn add(&mut self, operation: Operation) -> Result<()> {
        match operation {
            Operation::Put { key, value } => self.batch.put(key, value),
            Operation::Delete { key } => self.batch.delete(key),
        }
        if self.batch.bytes() >= BATCH_BYTES { self.finish() } else { Ok(()) }
    }

    /// Applies the rest.
    pub fn finish(&mut self) -> Result<()> {
        let batch = std::mem::replace(&mut self.batch, Batch::new(0));
        apply(self.engine, &batch)
    }
}

/// Applies `batch` to an engine without a worker; does the engine's work until it accepts the batch.
pub fn apply(engine: &dyn Engine, batch: &Batch) -> Result<()> {
    if batch.is_empty() {
        return Ok(());
    }
    for _ in 0..ATTEMPTS_MAX {
        match engine.apply(batch, Tier::Disk) {
            Ok(_) => return Ok(()),
            // A rate limit passes with time.
            Err(Error::Busy { cause: Cause::RateLimit, retry_after }) => std::thread::sleep(retry_after),
            Err(Error::Busy { .. }) => settle(engine)?,
            Err(error) => return Err(error),
        }
    }
    Err(Error::Invalid("the engine takes no batch however long one waits".to_string()))
}

/// Calls `sink` with the operations of the batch in a record of the log.
pub fn replay(payload: &Bytes, sink: &mut Sink<'_>) -> Result<()> {
    // Copies, since a slice would keep its whole segment in memory.
    let copy = |bytes: &Bytes| Bytes::copy_from_slice(bytes);
    Batch::decode(payload)?.operations().iter().try_for_each(|operation| {
        sink(match operation {
            Operation::Put { key, value } => Operation::Put { key: copy(key), value: copy(value) },
            Operation::Delete { key } => Operation::Delete { key: copy(key) },
        })
    })
}

/// Reads all of `file`, with zeros where the device refuses.
pub fn read_around(file: &dyn File) -> Result<Bytes> {
    let size = file.size().map_err(|error| Error::io("size of a file to salvage", error))?;
    let mut bytes = vec![0; usize::try_from(size).map_err(|error| Error::Invalid(error.to_string()))?];
    fill_around(file, Purpose::Recovery, 0, &mut bytes);
    Ok(bytes.into())
}

/// Fills `target` from `offset` on, with zeros where the device refuses or behind the end of the file.
pub fn fill_around(file: &dyn File, purpose: Purpose, offset: u64, target: &mut [u8]) {
    if file.read_at(purpose, offset, target).is_err() {
        for (nth, piece) in target.chunks_mut(PIECE_BYTES).enumerate() {
            if file.read_at(purpose, offset + (nth * PIECE_BYTES) as u64, piece).is_err() {
                piece.fill(0);
            }
        }
    }
}

/// Opens the file `name`, if it exists.
pub fn open_if_there(disk: &dyn Disk, name: &str) -> Result<Option<Arc<dyn File>>> {
    match disk.open(name) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::io(format!("opening {name}"), error)),
    }
}
