//! The change buffer: small values put into a tree that is much larger than the memory for its dirty pages wait here, in the
//! order of their keys, until a *merge* brings many of one leaf to it together.
//!
//! A page that is changed for one small value costs memory and writes of a page; a value in the buffer costs its own bytes. So the
//! same memory takes up hundreds of times as many changes, and when a leaf is written it is for all that gathered meanwhile.
//! No page is read before such a put is answered.
//!
//! # A merge
//!
//! 1. It begins when the buffer takes its share of the dirty bytes, when a checkpoint is asked for, or by age or log bytes.
//! 2. A step ([`Tree::plan_buffer_merge`](super::tree::Tree::plan_buffer_merge)) brings the next few leaves, which it reads together, and makes the changes that wait for them.
//! 3. Whenever [`PAGES_SHARE`] of the dirty bytes are pages, a checkpoint writes them home.
//! 4. Behind the last key it has ended: the batches from before its begin are all in pages. If more gathered than allows a
//!    rest, the next one begins.
//!
//! # Invariants
//!
//! 1. What waits for a key is newer than what the tree has for it: a change past the buffer takes the key out of it.
//! 2. Every batch up to the buffer's *recovery LSN* is in the pages, or what is left of it was logged again behind the recovery LSN. A checkpoint
//!    names the recovery LSN, and opening replays from there. A batch up to the checkpoint's LSN that is anything but small puts did
//!    not wait, so the pages have it; all that is left of it is that it took its keys out of the buffer. So the log must be
//!    durable as far as the pages go, before they count.
//! 3. The recovery LSN does not hold more of the log than its bound allows: a checkpoint logs what waits again ([`super::bound`]).

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::age::LogPoint;
use super::set_aside::{SetAside, UnreadableRange};
use crate::engine::{Batch, Error, Lsn, Operation};

/// Share of the dirty bytes that the buffer takes at most.
pub const SHARE_MAX: (u64, u64) = (5, 8);
/// Share of the dirty bytes at which a buffer merge begins.
pub const SHARE_MERGE: (u64, u64) = (1, 4);
/// Share of the dirty bytes that a buffer merge makes of pages before a checkpoint takes them up.
pub const PAGES_SHARE: (u64, u64) = (1, 4);
/// Memory of an entry beside its key and value.
const ENTRY_BYTES: u64 = 72;
/// Bytes of the log that a put takes in a batch of many, beside its key and value.
const PUT_OVERHEAD_BYTES: u64 = 12;

/// A share of `bytes`.
pub fn share(bytes: u64, (part, of): (u64, u64)) -> u64 {
    bytes / of * part
}

/// A moment, and how much had come into the buffer by then.
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

/// Puts that wait; see the module.
#[derive(Default)]
pub struct ChangeBuffer {
    /// Those before the place of the buffer merge; all of them while there is none.
    behind: Puts,
    /// Those from the place of the buffer merge on.
    ahead: Puts,
    bytes: u64,
    /// Memory that all puts have taken that ever came here.
    added_bytes: u64,
    /// Every batch up to here is in the pages.
    recovery_point: BufferPoint,
    /// Or in the log behind here.
    logged: BufferPoint,
    merge: Option<RunningMerge>,
    /// What waits for pages that cannot be read; neither counted nor merged here.
    pub aside: SetAside,
}

fn entry_bytes(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64 + ENTRY_BYTES
}

impl ChangeBuffer {
    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.behind.is_empty() && self.ahead.is_empty()
    }

    /// Puts that wait.
    pub fn len(&self) -> u64 {
        (self.behind.len() + self.ahead.len()) as u64
    }

    /// Memory that it takes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn is_ahead(&self, key: &[u8]) -> bool {
        self.merge.as_ref().is_some_and(|merge| key >= merge.next.as_slice())
    }

    fn half(&mut self, key: &[u8]) -> &mut Puts {
        if self.is_ahead(key) { &mut self.ahead } else { &mut self.behind }
    }

    /// What waits for `key`: a value, or `None` in it for a delete that was set aside.
    pub fn change(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        let half = if self.is_ahead(key) { &self.ahead } else { &self.behind };
        half.get(key).map(|value| Some(&**value)).or_else(|| self.aside.change(key))
    }

    /// What waits from `start` on or was set aside, in the order of keys; `None` for a delete.
    pub fn from<'a>(&'a self, start: &[u8]) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let mut waiting = self.waiting(start).map(|(key, value)| (key, Some(value))).peekable();
        let mut aside = self.aside.from(start).peekable();
        std::iter::from_fn(move || match (waiting.peek(), aside.peek()) {
            (Some((key, _)), Some((other, _))) if other < key => aside.next(),
            (None, _) => aside.next(),
            _ => waiting.next(),
        })
    }

    /// What waits from `start` on, in the order of keys.
    pub fn waiting<'a>(&'a self, start: &[u8]) -> impl Iterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let bounds = (Bound::Included(start), Bound::Unbounded);
        let (behind, ahead) = (self.behind.range::<[u8], _>(bounds), self.ahead.range::<[u8], _>(bounds));
        behind.chain(ahead).map(|(key, value)| (&**key, &**value))
    }

    /// What waits from the place of the buffer merge on, if one is on its way.
    pub fn waiting_to_merge(&self) -> Option<impl Iterator<Item = (&[u8], &[u8])>> {
        self.merge.as_ref().map(|merge| self.waiting(&merge.next))
    }

    fn oldest(&self) -> BufferPoint {
        if self.logged.log.lsn > self.recovery_point.log.lsn { self.logged } else { self.recovery_point }
    }

    /// Every batch up to here is in the pages, or in the log behind here, if something waits or was set aside.
    pub fn recovery_point(&self) -> Option<LogPoint> {
        let waiting = (!self.is_empty()).then_some(self.oldest().log);
        waiting.into_iter().chain(self.aside.log_point()).min_by_key(|point| point.lsn)
    }

    /// Everything that waits is in the log behind `mark`.
    pub fn set_logged(&mut self, point: LogPoint) {
        self.logged = BufferPoint { log: point, added_bytes: self.added_bytes - self.bytes };
    }

    /// Memory that opening needs at most for the puts behind the recovery LSN.
    pub fn replayed_bytes_max(&self) -> u64 {
        if self.is_empty() { 0 } else { self.added_bytes - self.oldest().added_bytes }
    }

    /// Bytes of the log that it takes at most to log again what waits.
    pub fn logged_bytes_max(&self) -> u64 {
        self.bytes - self.len() * (ENTRY_BYTES - PUT_OVERHEAD_BYTES)
    }

    /// Why `batch` cannot be taken: it changes a part of the tree that cannot be read.
    pub fn refusal(&self, batch: &Batch) -> Option<Error> {
        if self.aside.is_empty() {
            return None;
        }
        batch.operations().iter().find_map(|operation| Some(self.aside.range(operation.key())?.error.clone()))
    }

    /// Sets aside what waits for `part`; so will be what comes for it behind `now`.
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

    /// Lets the puts of `batch`, which has nothing else, wait; `before` is the log before it.
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

    /// Forgets what waits for `key`.
    pub fn forget(&mut self, key: &[u8]) {
        if let Some(old) = self.half(key).remove(key) {
            self.bytes -= entry_bytes(key, &old);
        }
    }

    /// Begins a buffer merge now, unless one is on its way.
    pub fn begin_merge(&mut self, now: LogPoint) {
        if self.merge.is_none() {
            let began = BufferPoint { log: now, added_bytes: self.added_bytes };
            self.merge = Some(RunningMerge { began, next: Vec::new() });
            std::mem::swap(&mut self.behind, &mut self.ahead);
        }
    }

    /// Takes out what waits from the buffer merge's place on and before `next`, which is its place from here on; `None` ends the buffer merge.
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
            // Where nothing waited meanwhile, the recovery LSN is above that already, and the log below it may be gone.
            (None, Some(merge)) if merge.began.log.lsn > self.recovery_point.log.lsn => {
                self.recovery_point = merge.began;
            }
            (None, _) | (_, None) => {}
        }
        batch
    }
}
