//! Changes whose leaf cannot be read. They are set aside, so that the damage stays where it is: everything else goes on.
//!
//! A *part* of the tree is the range of keys that an unreadable page has from its parent, be it a leaf or all below an inner page. Puts
//! that wait in the change buffer for such a part, and at opening every change that the log has for it, come here:
//!
//! - a read of a key that was changed sees the change, one of another key of the part fails with the page's error, and so does
//!   every new change of the part ([`Tree::apply`](super::tree::Tree::apply) never meets it);
//! - buffer merges, checkpoints, vacuum and closing pass over it;
//! - nothing is lost: a checkpoint writes what is here to the log once more, and its recovery LSN is before that. So the log below is let
//!   go, opening finds the changes again, and a repair of the store uses them as any others.
//!
//! A checkpoint that somebody asks for tries to read the page first. If that succeeds, the changes go where they belong.
//!
//! # Invariants
//!
//! 1. What is here for a key is newer than the pages, and no newer change is anywhere: who comes to a part later fails, or (in the order
//!    of the log, at opening) comes here, too.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::age::LogPoint;
use super::allocation_unit::PageNumber;
use crate::engine::{Batch, Error, Operation};

/// Memory of a change beside its key and value.
const CHANGE_BYTES: u64 = 96;
/// Bytes of changes that one record of the log takes, beside the last one.
const RECORD_BYTES: u64 = 1 << 20;

/// A part of the tree that cannot be read.
#[derive(Clone, Debug)]
pub struct UnreadableRange {
    /// Its first key.
    pub start: Vec<u8>,
    /// The first key behind it; `None` at the end of the tree.
    pub end: Option<Vec<u8>>,
    /// The page.
    pub page: PageNumber,
    /// Why it cannot be read.
    pub error: Error,
}

impl UnreadableRange {
    fn contains(&self, key: &[u8]) -> bool {
        self.start.as_slice() <= key && self.end.as_deref().is_none_or(|end| key < end)
    }
}

/// What was set aside; see the module.
#[derive(Default)]
pub struct SetAside {
    /// By first key.
    ranges: BTreeMap<Vec<u8>, UnreadableRange>,
    /// The newest change of each key; `None` for a delete.
    changes: BTreeMap<Box<[u8]>, Option<Box<[u8]>>>,
    bytes: u64,
    /// The log holds every change behind here.
    log_point: LogPoint,
    /// Bytes of the log behind `mark` that hold them once more.
    logged_bytes: u64,
    /// All changes are there as records of their own kind.
    is_logged: bool,
}

impl SetAside {
    /// Whether no part is known that cannot be read.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The parts, by first key.
    pub fn ranges(&self) -> impl Iterator<Item = &UnreadableRange> {
        self.ranges.values()
    }

    /// Memory that it takes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Before which every batch is in the pages, but for what waits elsewhere; `None` if there is nothing.
    pub fn log_point(&self) -> Option<LogPoint> {
        (!self.changes.is_empty()).then_some(self.log_point)
    }

    /// Bytes of the log behind [`SetAside::log_point`] that are nothing but what is here.
    pub fn logged_bytes(&self) -> u64 {
        if self.changes.is_empty() { 0 } else { self.logged_bytes }
    }

    /// Whether changes are here that the log has only as what they were when they came: replay cannot tell that the pages lack them.
    pub fn is_unlogged(&self) -> bool {
        !self.changes.is_empty() && !self.is_logged
    }

    /// The part that `key` lies in.
    pub fn range(&self, key: &[u8]) -> Option<&UnreadableRange> {
        let bounds = (Bound::Unbounded, Bound::Included(key));
        self.ranges
            .range::<[u8], _>(bounds)
            .next_back()
            .map(|(_, range)| range)
            .filter(|range| range.contains(key))
    }

    /// The change of `key` that was set aside; `None` in it for a delete.
    pub fn change(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        self.changes.get(key).map(|value| value.as_deref())
    }

    /// The changes from `start` on, in the order of keys.
    pub fn from<'a>(&'a self, start: &[u8]) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let bounds = (Bound::Included(start), Bound::Unbounded);
        self.changes.range::<[u8], _>(bounds).map(|(key, value)| (&**key, value.as_deref()))
    }

    /// From here on changes of `part` belong here. The log holds those that come now behind `mark`.
    pub fn add_range(&mut self, range: UnreadableRange, log_point: LogPoint) {
        if self.changes.is_empty() || log_point.lsn < self.log_point.lsn {
            (self.log_point, self.logged_bytes) = (log_point, 0);
        }
        self.is_logged = false;
        self.ranges.insert(range.start.clone(), range);
    }

    /// Takes in the newest change of a key that lies in a part.
    pub fn add(&mut self, key: &[u8], value: Option<&[u8]>) {
        let bytes = |value: Option<&[u8]>| (key.len() + value.map_or(0, <[u8]>::len)) as u64 + CHANGE_BYTES;
        self.bytes += bytes(value);
        self.is_logged = false;
        if let Some(old) = self.changes.insert(key.into(), value.map(Into::into)) {
            self.bytes -= bytes(old.as_deref());
        }
    }

    /// Takes the changes out of `batch` that belong here; returns the others.
    pub fn divide(&mut self, batch: Batch) -> Batch {
        if batch.operations().iter().all(|operation| self.range(operation.key()).is_none()) {
            return batch;
        }
        let mut rest = Batch::new(batch.tag);
        for operation in batch.operations() {
            match (self.range(operation.key()).is_some(), operation) {
                (true, _) => self.add(operation.key(), operation.value().map(|value| &value[..])),
                (false, Operation::Put { key, value }) => rest.put(key.clone(), value.clone()),
                (false, Operation::Delete { key }) => rest.delete(key.clone()),
            }
        }
        rest
    }

    /// The changes of the part that begins at `start`, as a batch.
    pub fn batch_of(&self, range: &UnreadableRange) -> Batch {
        let mut batch = Batch::default();
        for (key, value) in self.from(&range.start).take_while(|(key, _)| range.contains(key)) {
            match value {
                Some(value) => batch.put(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)),
                None => batch.delete(Bytes::copy_from_slice(key)),
            }
        }
        batch
    }

    /// Forgets the part and its changes.
    pub fn remove(&mut self, range: &UnreadableRange) {
        self.ranges.remove(&range.start);
        let keys: Vec<Box<[u8]>> = self
            .from(&range.start)
            .take_while(|(key, _)| range.contains(key))
            .map(|(key, _)| key.into())
            .collect();
        for key in keys {
            if let Some(value) = self.changes.remove(&key) {
                self.bytes -= (key.len() + value.as_deref().map_or(0, <[u8]>::len)) as u64 + CHANGE_BYTES;
            }
        }
    }

    /// All changes, in batches that one record of the log takes each.
    pub fn batches(&self) -> Vec<Batch> {
        let mut batches = vec![Batch::default()];
        for (key, value) in self.from(b"") {
            if batches.last().is_some_and(|batch| batch.bytes() >= RECORD_BYTES) {
                batches.push(Batch::default());
            }
            let Some(batch) = batches.last_mut() else { continue };
            match value {
                Some(value) => batch.put(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)),
                None => batch.delete(Bytes::copy_from_slice(key)),
            }
        }
        batches
    }

    /// A sentence for people: what cannot be read, what waits for it, and the way out; `None` if there is nothing.
    pub fn sentence(&self) -> Option<String> {
        let range = self.ranges.values().next()?;
        let more = match self.ranges.len() {
            1 => String::new(),
            count => format!(" ({} more like it)", count - 1),
        };
        let changes = self.changes.len();
        Some(format!(
            "{}{more}; {changes} changes wait for it in the log; unmount and run kvfs check --repair",
            range.error
        ))
    }

    /// All changes are in the log behind `before` once more, in records of their own kind that take `bytes`.
    pub fn set_logged(&mut self, before: LogPoint, bytes: u64) {
        (self.log_point, self.logged_bytes, self.is_logged) = (before, bytes, true);
    }
}
