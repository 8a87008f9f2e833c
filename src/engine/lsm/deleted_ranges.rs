//! Deleted ranges: ranges of keys that are known to hold nothing but tombstones, so that a scan need not read those again.
//!
//! A million deleted keys stay in the way of every scan until merges have dropped their tombstones. The first scan that
//! comes by has to pass them all; what it has proven on its way is kept here, and later scans jump over it.
//!
//! 1. A scan that has passed many tombstones in a row *opens* a deleted range at the first of them, and begins again there with a new
//!    superversion. What it finds from now on, it finds after the deleted range was opened.
//! 2. When it meets a key with a value, or its end, the deleted range is *closed* there: it is kept, joined with those it touches.
//! 3. A put cuts its key out of every deleted range before it returns, also out of those that are open.
//! 4. A delete gives its key back to the deleted ranges that it touches, and joins them: a queue, whose names come and go, is one deleted range again
//!    after each.
//!
//! # Invariants
//!
//! 1. No key of a closed deleted range has a value, but for puts that have not returned yet: such a put came into the memtable either before
//!    the deleted range was opened, and then the scan met it, or later, and then it cuts the deleted range.
//! 2. Flushes and merges make no key appear. So deleted ranges need not know of them, nor of superversions. Puts and deletes change deleted ranges in the order in
//!    which they are applied.
//! 3. Closed deleted ranges do not touch each other, and there are at most [`RANGES_MAX`] of them. They are gone when nobody has used one
//!    for [`PUTS_UNUSED`] puts, so that writers do not pay for scans that come no more.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound::{Excluded, Included, Unbounded};
use std::sync::atomic::{AtomicUsize, Ordering, fence};

use parking_lot::Mutex;

use crate::engine::Batch;

/// Closed deleted ranges at most; of more, the one used longest ago goes.
const RANGES_MAX: usize = 256;
/// Keys that are cut out of an open deleted range at most; behind the last of more, everything is given up.
const CLAIM_PUTS_MAX: usize = 32;
/// After this many puts without a scan that used a deleted range all closed ones are forgotten.
const PUTS_UNUSED: u64 = 1 << 16;

/// A closed deleted range; its first key is the key in the map.
struct DeletedRange {
    /// The first key behind it.
    end: Vec<u8>,
    /// When it was used last, in uses of all.
    used: u64,
}

/// A deleted range that a scan is about to prove.
struct UnprovenRange {
    id: u64,
    start: Vec<u8>,
    /// Keys at or behind `start`, below `limit`, that were put since and not deleted again.
    puts: BTreeSet<Vec<u8>>,
    /// Key from which on nothing is proven.
    limit: Option<Vec<u8>>,
}

#[derive(Default)]
struct State {
    closed: BTreeMap<Vec<u8>, DeletedRange>,
    open: Vec<UnprovenRange>,
    next_id: u64,
    uses: u64,
    puts_unused: u64,
}

/// The deleted ranges of a store.
#[derive(Default)]
pub struct DeletedRanges {
    /// Closed and open ones: all that a put looks at while there are none.
    count: AtomicUsize,
    state: Mutex<State>,
}

impl DeletedRanges {
    /// The first key behind the deleted range that `key` lies in.
    pub fn end_behind(&self, key: &[u8]) -> Option<Vec<u8>> {
        if self.count.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let mut state = self.state.lock();
        state.uses += 1;
        let now = state.uses;
        let (_, range) = state.closed.range_mut::<[u8], _>((Unbounded, Included(key))).next_back()?;
        if &range.end[..] <= key {
            return None;
        }
        range.used = now;
        let end = range.end.clone();
        state.puts_unused = 0;
        Some(end)
    }

    /// Begins to prove a deleted range from `start` on. The caller reads with a superversion that it takes afterwards.
    pub fn open(&self, start: &[u8]) -> OpenRange<'_> {
        let mut state = self.state.lock();
        let id = state.next_id;
        state.next_id += 1;
        state.open.push(UnprovenRange { id, start: start.to_vec(), puts: BTreeSet::new(), limit: None });
        self.count(&state);
        drop(state);
        // The superversion must not be taken before writers can see the claim.
        fence(Ordering::SeqCst);
        OpenRange { deleted_ranges: self, id }
    }

    /// Takes the keys that `batch` puts out of all deleted ranges, and gives back those that it deletes. To be called when reads see the
    /// batch, before its caller hears so, and in the order of batches.
    pub fn change(&self, batch: &Batch) {
        // Either this put sees the claim of a scan, or the scan's superversion has the put.
        fence(Ordering::SeqCst);
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut state = self.state.lock();
        for operation in batch.operations() {
            match operation.value() {
                Some(_) => state.cut(operation.key()),
                None => state.give_back(operation.key()),
            }
        }
        self.count(&state);
    }

    /// Forgets all of them, and what is about to be proven, since keys have appeared that no batch has put.
    pub fn forget(&self) {
        fence(Ordering::SeqCst);
        if self.count.load(Ordering::Relaxed) == 0 {
            return;
        }
        let mut state = self.state.lock();
        state.closed.clear();
        state.open.iter_mut().for_each(|range| range.limit = Some(range.start.clone()));
        self.count(&state);
    }

    fn count(&self, state: &State) {
        self.count.store(state.closed.len() + state.open.len(), Ordering::Relaxed);
    }

    fn close(&self, id: u64, end: Option<&[u8]>) {
        let mut state = self.state.lock();
        if let Some(index) = state.open.iter().position(|claim| claim.id == id) {
            let claim = state.open.swap_remove(index);
            if let Some(end) = end {
                let end = claim.limit.as_deref().map_or(end, |limit| limit.min(end));
                let mut start = claim.start;
                for put in claim.puts.iter().filter(|put| &put[..] < end) {
                    state.add(start, put.clone());
                    start = successor(put);
                }
                state.add(start, end.to_vec());
            }
        }
        self.count(&state);
    }
}

impl State {
    fn cut(&mut self, key: &[u8]) {
        self.puts_unused += 1;
        if self.puts_unused > PUTS_UNUSED {
            self.closed.clear();
        }
        for claim in &mut self.open {
            if key >= &claim.start[..] && claim.limit.as_deref().is_none_or(|limit| key < limit) {
                claim.puts.insert(key.to_vec());
                if claim.puts.len() > CLAIM_PUTS_MAX {
                    claim.limit = claim.puts.pop_last();
                }
            }
        }
        let before = self.closed.range_mut::<[u8], _>((Unbounded, Included(key))).next_back();
        let Some((start, range)) = before.filter(|(_, range)| key < &range.end[..]) else { return };
        let used = range.used;
        let is_first = start == key;
        let end = std::mem::replace(&mut range.end, key.to_vec());
        if is_first {
            self.closed.remove(key);
        }
        let behind = successor(key);
        if behind < end {
            self.closed.insert(behind, DeletedRange { end, used });
        }
        self.bound();
    }

    /// Knows that `key` has no value: deleted ranges that end before it or begin behind it are one.
    fn give_back(&mut self, key: &[u8]) {
        for claim in &mut self.open {
            claim.puts.remove(key);
        }
        let before = self.closed.range::<[u8], _>((Unbounded, Excluded(key))).next_back();
        let ends_here = before.is_some_and(|(_, range)| range.end == key);
        if self.closed.is_empty() || !ends_here && !self.closed.contains_key(&successor(key)) {
            return;
        }
        self.add(key.to_vec(), successor(key));
    }

    /// Adds `start..end`, joined with every deleted range that it touches.
    fn add(&mut self, mut start: Vec<u8>, mut end: Vec<u8>) {
        if start >= end {
            return;
        }
        if let Some((before, range)) =
            self.closed.range::<[u8], _>((Unbounded, Included(&start[..]))).next_back()
            && range.end >= start
        {
            start = before.clone();
        }
        let touched: Vec<Vec<u8>> = self
            .closed
            .range::<[u8], _>((Included(&start[..]), Included(&end[..])))
            .map(|(start, _)| start.clone())
            .collect();
        for key in touched {
            end = end.max(self.closed.remove(&key).map_or(Vec::new(), |range| range.end));
        }
        self.uses += 1;
        self.closed.insert(start, DeletedRange { end, used: self.uses });
        self.bound();
    }

    fn bound(&mut self) {
        while self.closed.len() > RANGES_MAX {
            let oldest =
                self.closed.iter().min_by_key(|(_, range)| range.used).map(|(start, _)| start.clone());
            if let Some(start) = oldest {
                self.closed.remove(&start);
            }
        }
    }
}

/// The next key after `key`.
pub fn successor(key: &[u8]) -> Vec<u8> {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next
}

/// A deleted range while it is being proven; given up if it is dropped.
pub struct OpenRange<'a> {
    deleted_ranges: &'a DeletedRanges,
    id: u64,
}

impl OpenRange<'_> {
    /// Everything from its start up to, not including, `end` was found empty.
    pub fn close(self, end: &[u8]) {
        self.deleted_ranges.close(self.id, Some(end));
    }
}

impl Drop for OpenRange<'_> {
    fn drop(&mut self) {
        self.deleted_ranges.close(self.id, None);
    }
}

#[cfg(test)]
mod tests;
