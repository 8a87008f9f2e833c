//! A memtable: the newest entries, sorted in memory. One writer at a time, any number of readers.
//!
//! A later write of a key replaces the earlier one in place, so a key that changes all the time costs the disk one entry a
//! flush. A tombstone is kept like a value: older structures may hold the key.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::RwLock;

use super::Slot;
use crate::engine::{Batch, Options, Position};

/// What an entry costs in memory beside key and value.
const ENTRY_BYTES: u64 = 64;

/// What a memtable holds for a key.
#[derive(Clone)]
pub struct Held {
    /// The value, or that it was deleted.
    pub slot: Slot,
    /// Where the value lies in the log, if a table may point to it there; else 0, which is no value's position.
    pub position: Position,
}

/// Sorted entries in memory.
pub struct Memtable {
    map: RwLock<BTreeMap<Bytes, Held>>,
    bytes: AtomicU64,
    entries: AtomicU64,
    tombstones: AtomicU64,
    first: Position,
    last: AtomicU64,
}

impl Memtable {
    /// An empty memtable for batches behind position `first`.
    pub fn new(first: Position) -> Memtable {
        Memtable {
            map: RwLock::default(),
            bytes: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            tombstones: AtomicU64::new(0),
            first,
            last: AtomicU64::new(first),
        }
    }

    /// Applies a batch that ends at `position`; readers see all of it or nothing. Only under the writer lock. Values of at
    /// least `separate_bytes` are to stay in the log, if any.
    pub fn apply(&self, batch: &Batch, position: Position, separate_bytes: Option<u64>) {
        let is_separate = |slot: &Slot| {
            separate_bytes.zip(slot.as_ref()).is_some_and(|(least, value)| value.len() as u64 >= least)
        };
        let any =
            separate_bytes.is_some() && batch.operations().iter().any(|it| is_separate(&it.value().cloned()));
        let tails = if any { batch.value_tails() } else { Vec::new() };
        let (mut bytes, mut tombstones) = (0i64, 0i64);
        let mut map = self.map.write();
        for (index, operation) in batch.operations().iter().enumerate() {
            let (key, slot) = (operation.key(), operation.value().cloned());
            let tail = tails.get(index).filter(|_| is_separate(&slot));
            let held_at = tail.map_or(0, |tail| position.saturating_sub(*tail));
            bytes += slot.as_ref().map_or(0, Bytes::len) as i64;
            tombstones += i64::from(slot.is_none());
            match map.insert(key.clone(), Held { slot, position: held_at }).map(|held| held.slot) {
                None => bytes += key.len() as i64 + ENTRY_BYTES as i64,
                Some(Some(old)) => bytes -= old.len() as i64,
                Some(None) => tombstones -= 1,
            }
        }
        // Wrapping addition of a negative number subtracts.
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.entries.store(map.len() as u64, Ordering::Relaxed);
        self.tombstones.fetch_add(tombstones as u64, Ordering::Relaxed);
        self.last.store(position, Ordering::Release);
    }

    /// What it knows of `key`.
    pub fn get(&self, key: &[u8]) -> Option<Slot> {
        self.map.read().get(key).map(|held| held.slot.clone())
    }

    /// Replaces `target` by up to `limit` entries from `start` on and below `end`.
    pub fn copy(
        &self,
        start: Bound<&[u8]>,
        end: Option<&[u8]>,
        limit: usize,
        target: &mut Vec<(Bytes, Held)>,
    ) {
        target.clear();
        let map = self.map.read();
        let found = map.range::<[u8], _>((start, Bound::Unbounded));
        let wanted = found.take_while(|(key, _)| end.is_none_or(|end| &key[..] < end)).take(limit);
        target.extend(wanted.map(|(key, held)| (key.clone(), held.clone())));
    }

    /// Whether nothing was applied.
    pub fn is_empty(&self) -> bool {
        self.last() == self.first
    }

    /// Memory it takes: keys, values and a fixed sum an entry.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether it is to be flushed.
    pub fn is_full(&self, options: &Options) -> bool {
        let entries_max = options.memtable_entries;
        self.bytes() >= options.memtable_bytes
            || (entries_max > 0 && self.entries.load(Ordering::Relaxed) >= entries_max)
    }

    /// Tombstones in it.
    pub fn tombstones(&self) -> u64 {
        self.tombstones.load(Ordering::Relaxed)
    }

    /// The position behind which its batches begin.
    pub fn first(&self) -> Position {
        self.first
    }

    /// The position at which its last batch ends.
    pub fn last(&self) -> Position {
        self.last.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    #[test]
    fn its_bytes_are_those_of_its_entries() {
        let memtable = Memtable::new(7);
        assert!(memtable.is_empty());
        let mut prng = Prng::new(1);
        for position in 8..500 {
            let mut batch = Batch::new(0);
            for _ in 0..=prng.below(4) {
                let key = vec![b'k', prng.below(50) as u8];
                if prng.one_in(3) {
                    batch.delete(key)
                } else {
                    batch.put(key, vec![0; prng.below(90) as usize])
                }
            }
            memtable.apply(&batch, position, None);
        }
        let mut all = Vec::new();
        memtable.copy(Bound::Included(b""), None, usize::MAX, &mut all);
        let size =
            |(key, held): &(Bytes, Held)| (key.len() + held.slot.as_ref().map_or(0, Bytes::len)) as u64;
        assert_eq!(memtable.bytes(), all.iter().map(size).sum::<u64>() + all.len() as u64 * ENTRY_BYTES);
        assert_eq!(memtable.tombstones(), all.iter().filter(|(_, held)| held.slot.is_none()).count() as u64);
        assert_eq!((memtable.first(), memtable.last()), (7, 499));
    }
}
