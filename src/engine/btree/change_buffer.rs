//! The change buffer. Puts of small values into a tree that is much larger than the memory for its dirty pages are kept here, in the order
//! of their keys, until a *merge* applies all puts of one leaf together.
//!
//! A page that is changed for one small value costs the memory and the write of a page; a put in the buffer costs its own bytes. So the
//! same memory holds hundreds of times as many changes, and a leaf is written once for all puts that have gathered for it. No page is read
//! before such a put is answered.
//!
//! # A merge
//!
//! 1. It begins when the buffer has its share of the dirty bytes, when a checkpoint is asked for, or by age or bytes of the log.
//! 2. A step ([`Tree::plan_buffer_merge`](super::tree::Tree::plan_buffer_merge)) reads the next few leaves
//!    together, and applies the puts for them.
//! 3. Whenever [`PAGES_SHARE`] of the dirty bytes are pages, a checkpoint writes them.
//! 4. It ends behind the last key: all batches from before its begin are in pages then. If too many puts have gathered meanwhile, the next
//!    merge begins.
//!
//! # Invariants
//!
//! 1. A buffered put is newer than the pages: a change of its key that bypasses the buffer removes it.
//! 2. Every batch up to the buffer's *recovery point* is in the pages, or the rest of it was logged again behind that point. A checkpoint
//!    records it as its recovery LSN, from which opening replays. Of the batches between the recovery LSN and the checkpoint's LSN, those of
//!    small puts may have been buffered; any other is in the pages, and its only other effect was to remove its keys from the buffer. So the
//!    log must be durable up to the checkpoint's LSN before the checkpoint commits.
//! 3. The recovery LSN does not keep more of the log than its bound allows: a checkpoint logs buffered puts again ([`super::bound`]).

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::age::LogPoint;
use super::set_aside::{SetAside, UnreadableRange};
use crate::engine::{Batch, Error, Lsn, Operation};

/// Largest share of the dirty bytes that the buffer may take.
pub const SHARE_MAX: (u64, u64) = (5, 8);
/// Share of the dirty bytes at which a buffer merge begins.
pub const SHARE_MERGE: (u64, u64) = (1, 4);
/// Share of the dirty bytes that pages take during a buffer merge before a checkpoint writes them.
pub const PAGES_SHARE: (u64, u64) = (1, 4);
/// Memory of an entry beside its key and value.
pub const ENTRY_BYTES: u64 = 72;
/// Bytes of the log for a put in a large batch, beside its key and value.
pub const PUT_OVERHEAD_BYTES: u64 = 12;

/// The given share of `bytes`.
pub fn share(bytes: u64, (part, of): (u64, u64)) -> u64 {
    bytes / of * part
}

/// A point in the log, and the bytes that had been added to the buffer by then.
#[derive(Clone, Copy, Default)]
struct BufferPoint {
    log: LogPoint,
    added_bytes: u64,
}

struct RunningMerge {
    began: BufferPoint,
    next: Vec<u8>,
}

type Puts = BTreeMap<Box<[u8]>, Box<[u8]>>;

/// The change buffer; see the module.
#[derive(Default)]
pub struct ChangeBuffer {
    /// Puts before the position of the merge; all of them while there is no merge.
    behind: Puts,
    /// Puts from the position of the merge on.
    ahead: Puts,
    bytes: u64,
    /// Bytes of memory of all puts that were ever added.
    added_bytes: u64,
    /// Every batch up to this point is in the pages.
    recovery_point: BufferPoint,
    /// Every buffered put is in the log behind this point, if puts were logged again.
    logged: BufferPoint,
    merge: Option<RunningMerge>,
    /// Changes for pages that cannot be read; they are neither counted nor merged here.
    pub aside: SetAside,
}

fn entry_bytes(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64 + ENTRY_BYTES
}

impl ChangeBuffer {
    /// Whether no put is buffered.
    pub fn is_empty(&self) -> bool {
        self.behind.is_empty() && self.ahead.is_empty()
    }

    /// Number of buffered puts.
    pub fn len(&self) -> u64 {
        (self.behind.len() + self.ahead.len()) as u64
    }

    /// Bytes of memory of the buffered puts.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn is_ahead(&self, key: &[u8]) -> bool {
        self.merge.as_ref().is_some_and(|merge| key >= merge.next.as_slice())
    }

    fn half(&mut self, key: &[u8]) -> &mut Puts {
        if self.is_ahead(key) { &mut self.ahead } else { &mut self.behind }
    }

    /// The change of `key` that is buffered or set aside: a value, or `Some(None)` for a delete.
    pub fn change(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        let half = if self.is_ahead(key) { &self.ahead } else { &self.behind };
        half.get(key).map(|value| Some(&**value)).or_else(|| self.aside.change(key))
    }

    /// Changes from `start` on that are buffered or set aside, in the order of keys; `None` for a delete.
    pub fn from<'a>(&'a self, start: &[u8]) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let mut waiting = self.waiting(start).map(|(key, value)| (key, Some(value))).peekable();
        let mut aside = self.aside.from(start).peekable();
        std::iter::from_fn(move || match (waiting.peek(), aside.peek()) {
            (Some((key, _)), Some((other, _))) if other < key => aside.next(),
            (None, _) => aside.next(),
            _ => waiting.next(),
        })
    }

    /// Buffered puts from `start` on, in the order of keys.
    pub fn waiting<'a>(&'a self, start: &[u8]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let bounds = (Bound::Included(start), Bound::Unbounded);
        let (behind, ahead) = (self.behind.range::<[u8], _>(bounds), self.ahead.range::<[u8], _>(bounds));
        behind.chain(ahead).map(|(key, value)| (&**key, &**value))
    }

    /// Buffered puts from the position of the merge on, if one is running.
    pub fn waiting_to_merge(&self) -> Option<impl Iterator<Item = (&[u8], &[u8])>> {
        self.merge.as_ref().map(|merge| self.waiting(&merge.next))
    }

    fn oldest(&self) -> BufferPoint {
        if self.logged.log.lsn > self.recovery_point.log.lsn { self.logged } else { self.recovery_point }
    }

    /// The point up to which every batch is in the pages, or in the log behind it; `None` if nothing is buffered or set aside.
    pub fn recovery_point(&self) -> Option<LogPoint> {
        let waiting = (!self.is_empty()).then_some(self.oldest().log);
        waiting.into_iter().chain(self.aside.log_point()).min_by_key(|point| point.lsn)
    }

    /// Notes that all buffered puts are in the log behind `point`.
    pub fn set_logged(&mut self, point: LogPoint) {
        self.logged = BufferPoint { log: point, added_bytes: self.added_bytes - self.bytes };
    }

    /// Upper bound of the memory that opening needs for the puts behind the recovery point.
    pub fn replayed_bytes_max(&self) -> u64 {
        if self.is_empty() { 0 } else { self.added_bytes - self.oldest().added_bytes }
    }

    /// Upper bound of the bytes that it takes to log all buffered puts again.
    pub fn logged_bytes_max(&self) -> u64 {
        self.bytes - self.len() * (ENTRY_BYTES - PUT_OVERHEAD_BYTES)
    }

    /// The error for a batch that changes a range of keys whose page cannot be read.
    pub fn refusal(&self, batch: &Batch) -> Option<Error> {
        if self.aside.is_empty() {
            return None;
        }
        batch.operations().iter().find_map(|operation| Some(self.aside.range(operation.key())?.error.clone()))
    }

    /// Sets aside the buffered puts of `range`; changes of it that come behind `now` will be set aside, too.
    pub fn set_aside(&mut self, range: UnreadableRange, now: LogPoint) {
        let waiting = (!self.is_empty()).then_some(self.oldest().log);
        self.aside.add_range(range.clone(), waiting.filter(|point| point.lsn < now.lsn).unwrap_or(now));
        let end = range.end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        for half in [&mut self.behind, &mut self.ahead] {
            let waiting = half.range::<[u8], _>((Bound::Included(&range.start[..]), end));
            let keys: Vec<Box<[u8]>> = waiting.map(|(key, _)| key.clone()).collect();
            for key in keys {
                let Some(value) = half.remove(&key) else { continue };
                self.bytes -= entry_bytes(&key, &value);
                self.aside.add(&key, Some(&value));
            }
        }
    }

    /// Whether every batch up to `lsn` is in the pages.
    pub fn is_settled(&self, lsn: Lsn) -> bool {
        self.is_empty() || self.recovery_point.log.lsn >= lsn
    }

    /// Adds the puts of `batch`, which has no deletes; `before` is the end of the log before it.
    pub fn add(&mut self, batch: &Batch, before: LogPoint) {
        if self.is_empty() {
            self.recovery_point = BufferPoint { log: before, added_bytes: self.added_bytes };
        }
        for operation in batch.operations() {
            let Operation::Put { key, value } = operation else { continue };
            self.bytes += entry_bytes(key, value);
            self.added_bytes += entry_bytes(key, value);
            if let Some(old) = self.half(key).insert(key[..].into(), value[..].into()) {
                self.bytes -= entry_bytes(key, &old);
            }
        }
    }

    /// Removes the put of `key`.
    pub fn forget(&mut self, key: &[u8]) {
        if let Some(old) = self.half(key).remove(key) {
            self.bytes -= entry_bytes(key, &old);
        }
    }

    /// Begins a merge, unless one is running.
    pub fn begin_merge(&mut self, now: LogPoint) {
        if self.merge.is_none() {
            let began = BufferPoint { log: now, added_bytes: self.added_bytes };
            self.merge = Some(RunningMerge { began, next: Vec::new() });
            std::mem::swap(&mut self.behind, &mut self.ahead);
        }
    }

    /// Removes the puts from the position of the merge up to `next` and returns them; `next` is the new position, and `None` ends the merge.
    pub fn take(&mut self, next: Option<&[u8]>) -> Batch {
        let mut batch = Batch::default();
        while let Some(first) = self.ahead.first_entry()
            && next.is_none_or(|next| &**first.key() < next)
        {
            let (key, value) = first.remove_entry();
            self.bytes -= entry_bytes(&key, &value);
            batch.put(Bytes::from(key), Bytes::from(value));
        }
        match (next, self.merge.take()) {
            (Some(next), Some(merge)) => self.merge = Some(RunningMerge { next: next.to_vec(), ..merge }),
            // If the buffer was empty meanwhile, its recovery point is higher already, and the log below that may be gone.
            (None, Some(merge)) if merge.began.log.lsn > self.recovery_point.log.lsn => {
                self.recovery_point = merge.began;
            }
            (None, _) | (_, None) => {}
        }
        batch
    }
}
