//! Changes whose leaf cannot be read. They are set aside, so that the damage stays local and everything else goes on.
//!
//! An *unreadable range* is the range of keys of a page that cannot be read, a leaf or an inner page with all below it. Buffered puts for
//! such a range, and at opening every change that the log has for it, are moved here:
//!
//! - A read of a key that was changed sees the change. A read of another key of the range, and every new change of the range, fails with
//!   the page's error, so [`Tree::apply`](super::tree::Tree::apply) never meets the page.
//! - Buffer merges, checkpoints, vacuum and closing leave the range out.
//! - Nothing is lost: a checkpoint logs the changes once more, and its recovery LSN is before these records. So the older log can be
//!   released, opening finds the changes again, and a repair of the store applies them as any others.
//!
//! A checkpoint that is asked for by a command first tries to read the page again. If that succeeds, the changes are applied.
//!
//! # Invariants
//!
//! 1. A change that is set aside is newer than the pages, and there is no newer change of its key: later changes of the range are refused,
//!    or (at opening, in the order of the log) set aside, too.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::age::LogPoint;
use super::allocation_unit::PageNumber;
use crate::engine::{Batch, Error, Operation};

/// Memory of a change beside its key and value.
const CHANGE_BYTES: u64 = 96;
/// Bytes of changes after which the next record of the log begins.
const RECORD_BYTES: u64 = 1 << 20;

/// A range of keys whose page cannot be read.
#[derive(Clone, Debug)]
pub struct UnreadableRange {
    /// The first key.
    pub start: Vec<u8>,
    /// The first key behind the range; `None` at the end of the tree.
    pub end: Option<Vec<u8>>,
    /// The page.
    pub page: PageNumber,
    /// The error of the read.
    pub error: Error,
}

impl UnreadableRange {
    fn contains(&self, key: &[u8]) -> bool {
        self.start.as_slice() <= key && self.end.as_deref().is_none_or(|end| key < end)
    }
}

/// The changes that are set aside; see the module.
#[derive(Default)]
pub struct SetAside {
    /// The unreadable ranges, by first key.
    ranges: BTreeMap<Vec<u8>, UnreadableRange>,
    /// The newest change of each key; `None` for a delete.
    changes: BTreeMap<Box<[u8]>, Option<Box<[u8]>>>,
    bytes: u64,
    /// The log has every change behind this point.
    log_point: LogPoint,
    /// Bytes of the log behind `log_point` that have the changes once more.
    logged_bytes: u64,
    /// Whether all changes are in the log as records of their own kind.
    is_logged: bool,
}

impl SetAside {
    /// Whether no unreadable range is known.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The unreadable ranges, by first key.
    pub fn ranges(&self) -> impl Iterator<Item = &UnreadableRange> {
        self.ranges.values()
    }

    /// Bytes of memory of the changes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The point behind which the log has every change that is set aside; `None` if there is none.
    pub fn log_point(&self) -> Option<LogPoint> {
        (!self.changes.is_empty()).then_some(self.log_point)
    }

    /// Bytes of the log behind [`SetAside::log_point`] that have the changes once more.
    pub fn logged_bytes(&self) -> u64 {
        if self.changes.is_empty() { 0 } else { self.logged_bytes }
    }

    /// Whether the log has some changes only in their original records, from which replay cannot tell that the pages lack them.
    pub fn is_unlogged(&self) -> bool {
        !self.changes.is_empty() && !self.is_logged
    }

    /// The unreadable range that `key` lies in.
    pub fn range(&self, key: &[u8]) -> Option<&UnreadableRange> {
        let bounds = (Bound::Unbounded, Bound::Included(key));
        self.ranges
            .range::<[u8], _>(bounds)
            .next_back()
            .map(|(_, range)| range)
            .filter(|range| range.contains(key))
    }

    /// The change of `key`; `Some(None)` for a delete.
    pub fn change(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        self.changes.get(key).map(|value| value.as_deref())
    }

    /// The changes from `start` on, in the order of keys; `None` for a delete.
    pub fn from<'a>(&'a self, start: &[u8]) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let bounds = (Bound::Included(start), Bound::Unbounded);
        self.changes.range::<[u8], _>(bounds).map(|(key, value)| (&**key, value.as_deref()))
    }

    /// Adds an unreadable range, whose changes belong here from now on. The log has them behind `log_point`.
    pub fn add_range(&mut self, range: UnreadableRange, log_point: LogPoint) {
        if self.changes.is_empty() || log_point.lsn < self.log_point.lsn {
            (self.log_point, self.logged_bytes) = (log_point, 0);
        }
        self.is_logged = false;
        self.ranges.insert(range.start.clone(), range);
    }

    /// Adds the newest change of a key that lies in an unreadable range.
    pub fn add(&mut self, key: &[u8], value: Option<&[u8]>) {
        let bytes = |value: Option<&[u8]>| (key.len() + value.map_or(0, <[u8]>::len)) as u64 + CHANGE_BYTES;
        self.bytes += bytes(value);
        self.is_logged = false;
        if let Some(old) = self.changes.insert(key.into(), value.map(Into::into)) {
            self.bytes -= bytes(old.as_deref());
        }
    }

    /// Sets aside the changes of `batch` that lie in unreadable ranges; returns the others.
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

    /// The part of `batch` that lies in no unreadable range.
    pub fn outside(&self, batch: Batch) -> Batch {
        let mut rest = Batch::new(batch.tag);
        for operation in batch.operations().iter().filter(|operation| self.range(operation.key()).is_none()) {
            match operation {
                Operation::Put { key, value } => rest.put(key.clone(), value.clone()),
                Operation::Delete { key } => rest.delete(key.clone()),
            }
        }
        rest
    }

    /// The changes of `range`, as a batch.
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

    /// Removes `range` and its changes.
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

    /// All changes, in batches of the size of a log record.
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

    /// A sentence for users: what cannot be read, the changes that are set aside, and the way out; `None` without an unreadable range.
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

    /// Notes that all changes are in the log behind `before` once more, in records of their own kind of `bytes` in all.
    pub fn set_logged(&mut self, before: LogPoint, bytes: u64) {
        (self.log_point, self.logged_bytes, self.is_logged) = (before, bytes, true);
    }
}
