//! A memtable: the newest entries, sorted in memory. One writer at a time, any number of readers.
//!
//! A later write of a key replaces the earlier one in place, so a key that changes all the time costs the disk one entry a
//! flush. A tombstone is kept like a value: older structures may hold the key.
//!
//! # What it is made of
//!
//! A B-tree map under a lock. Short keys lie in the nodes themselves, so that a search follows one pointer a level instead of
//! one a comparison. Values are copied: a caller's buffer may be much larger than what of it is kept. Large ones are shared with
//! readers. What a batch needs is made ready before the lock is taken, and what it replaces is freed behind it.
//! A skip list without locks (`crossbeam-skiplist`) inserts a fifth and reads half as many keys a second.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::{Bound, Range};
use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use bytes::Bytes;
use parking_lot::RwLock;

use super::Slot;
use crate::engine::batch::owned;
use crate::engine::lsm::Options;
use crate::engine::{AtomicLsn, Batch, Lsn};

/// A key up to this length lies in its node.
const SHORT_BYTES: usize = 30;
/// A value below this length is copied for each reader, not shared with it.
const SMALL_BYTES: usize = 512;
/// Memory of an entry beside a long key and the value: its place in a node that is two thirds full, and what the allocator adds to the
/// value.
const ENTRY_BYTES: u64 = 96;
/// Memory of a key or value outside of its node beside its bytes.
const OUTSIDE_BYTES: u64 = 48;

/// Bytes of an entry in a table beside key and value, with its share of index and filter, at most.
const TABLE_ENTRY_BYTES: u64 = 16;
/// Bytes of a pointer to a value of the log in a table, at most.
const POINTER_BYTES: u64 = 24;

/// Entries that are copied out end with the one that passes this. Large values are not copied but kept, which takes memory as well.
const COPY_BYTES: u64 = 256 << 10;

/// Memory that a key of `bytes` takes, its place in a node among it.
pub fn key_cost(bytes: u64) -> u64 {
    if bytes <= SHORT_BYTES as u64 { ENTRY_BYTES } else { ENTRY_BYTES + OUTSIDE_BYTES + bytes }
}

/// Memory that a value of `bytes` takes which does not stay in the log; `None` for a tombstone.
pub fn value_cost(bytes: Option<u64>) -> u64 {
    match bytes {
        None => 0,
        Some(bytes) if bytes < SMALL_BYTES as u64 => bytes,
        Some(bytes) => OUTSIDE_BYTES + bytes,
    }
}

/// A key as it lies in a node.
enum Key {
    Short { length: u8, bytes: [u8; SHORT_BYTES] },
    Long(Box<[u8]>),
}

impl Key {
    fn new(key: &[u8]) -> Key {
        let mut bytes = [0; SHORT_BYTES];
        match bytes.get_mut(..key.len()) {
            Some(target) => {
                target.copy_from_slice(key);
                Key::Short { length: key.len() as u8, bytes }
            }
            None => Key::Long(key.into()),
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Key::Short { length, bytes } => &bytes[..usize::from(*length)],
            Key::Long(bytes) => bytes,
        }
    }

    fn cost(&self) -> u64 {
        key_cost(self.bytes().len() as u64)
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.bytes()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Key) -> bool {
        self.bytes() == other.bytes()
    }
}

impl Eq for Key {}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Key) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Key {
    fn cmp(&self, other: &Key) -> Ordering {
        self.bytes().cmp(other.bytes())
    }
}

/// A memtable's entry of a key.
enum MemtableValue {
    Tombstone,
    Small(Box<[u8]>),
    Large(Box<Large>),
}

struct Large {
    value: Bytes,
    /// LSN of the value in the log, if a table may point to it there; else 0, which is no value's LSN.
    lsn: Lsn,
}

impl MemtableValue {
    fn new(value: Option<&Bytes>, lsn: Lsn) -> MemtableValue {
        match value {
            None => MemtableValue::Tombstone,
            Some(value) if lsn == Lsn::ZERO && value.len() < SMALL_BYTES => {
                MemtableValue::Small(value[..].into())
            }
            Some(value) => MemtableValue::Large(Box::new(Large { value: owned(value), lsn })),
        }
    }

    fn slot(&self) -> Slot {
        match self {
            MemtableValue::Tombstone => None,
            MemtableValue::Small(value) => Some(Bytes::copy_from_slice(value)),
            MemtableValue::Large(large) => Some(large.value.clone()),
        }
    }

    fn cost(&self) -> u64 {
        match self {
            MemtableValue::Tombstone => 0,
            MemtableValue::Small(value) => value.len() as u64,
            MemtableValue::Large(large) => OUTSIDE_BYTES + large.value.len() as u64,
        }
    }

    /// Bytes that a table takes for it, beside the key.
    fn table_bytes(&self) -> u64 {
        match self {
            MemtableValue::Tombstone => 0,
            MemtableValue::Small(value) => value.len() as u64,
            MemtableValue::Large(large) if large.lsn > Lsn::ZERO => POINTER_BYTES,
            MemtableValue::Large(large) => large.value.len() as u64,
        }
    }
}

/// Entries that were copied out of a memtable.
#[derive(Default)]
pub struct Copied {
    /// Keys and small values.
    bytes: Vec<u8>,
    entries: Vec<(Range<usize>, CopiedValue)>,
    /// More may follow the last one.
    has_more: bool,
}

/// A value among copied entries.
enum CopiedValue {
    Tombstone,
    /// Behind the key, up to here.
    Small(usize),
    Large(Bytes, Lsn),
}

impl Copied {
    /// Whether more entries may follow the last one.
    pub fn has_more(&self) -> bool {
        self.has_more
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// The key of one.
    pub fn key(&self, index: usize) -> Option<&[u8]> {
        self.entries.get(index).map(|(key, _)| &self.bytes[key.clone()])
    }

    /// The value of one, and its LSN in the log if a table may point to it there, else 0; `None` for a tombstone.
    pub fn value(&self, index: usize) -> Option<(&[u8], Lsn)> {
        let (key, value) = self.entries.get(index)?;
        match value {
            CopiedValue::Tombstone => None,
            CopiedValue::Small(end) => Some((&self.bytes[key.end..*end], Lsn::ZERO)),
            CopiedValue::Large(value, lsn) => Some((value, *lsn)),
        }
    }

    /// The index of the first entry whose key is not below `key`.
    pub fn find(&self, key: &[u8]) -> usize {
        self.entries.partition_point(|(range, _)| &self.bytes[range.clone()] < key)
    }

    /// Adds an entry; returns what it keeps in memory.
    fn push(&mut self, key: &[u8], held: &MemtableValue) -> u64 {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        let range = start..self.bytes.len();
        let value = match held {
            MemtableValue::Tombstone => CopiedValue::Tombstone,
            MemtableValue::Small(value) => {
                self.bytes.extend_from_slice(value);
                CopiedValue::Small(self.bytes.len())
            }
            MemtableValue::Large(large) => CopiedValue::Large(large.value.clone(), large.lsn),
        };
        self.entries.push((range, value));
        key.len() as u64 + held.cost()
    }
}

/// Sorted entries in memory.
pub struct Memtable {
    map: RwLock<BTreeMap<Key, MemtableValue>>,
    bytes: AtomicU64,
    table_bytes: AtomicU64,
    entries: AtomicU64,
    tombstones: AtomicU64,
    first: Lsn,
    last: AtomicLsn,
}

impl Memtable {
    /// An empty memtable for batches behind LSN `first`.
    pub fn new(first: Lsn) -> Memtable {
        Memtable {
            map: RwLock::default(),
            bytes: AtomicU64::new(0),
            table_bytes: AtomicU64::new(0),
            entries: AtomicU64::new(0),
            tombstones: AtomicU64::new(0),
            first,
            last: AtomicLsn::new(first),
        }
    }

    /// Applies a batch that ends at `lsn`; readers see all of it or nothing. Only under the writer lock. Values of at
    /// least `separate_bytes` are to stay in the log, if any.
    pub fn apply(&self, batch: &Batch, lsn: Lsn, separate_bytes: Option<u64>) {
        let is_separate = |value: Option<&Bytes>| {
            separate_bytes.zip(value).is_some_and(|(least, it)| it.len() as u64 >= least)
        };
        let any = separate_bytes.is_some() && batch.operations().iter().any(|it| is_separate(it.value()));
        let tails = if any { batch.value_tails() } else { Vec::new() };
        let ready = batch.operations().iter().enumerate().map(|(index, operation)| {
            let tail = tails.get(index).filter(|_| is_separate(operation.value()));
            let held_at = tail.map_or(Lsn::ZERO, |tail| lsn.back_by(*tail));
            (Key::new(operation.key()), MemtableValue::new(operation.value(), held_at))
        });
        let ready: Vec<(Key, MemtableValue)> = ready.collect();
        let mut replaced = Vec::with_capacity(ready.len());
        let (mut added, mut removed, mut tombstones) = (0u64, 0u64, 0u64);
        let mut table_bytes = 0u64;
        let mut map = self.map.write();
        for (key, held) in ready {
            let (key_cost, key_bytes) = (key.cost(), key.bytes().len() as u64);
            added += held.cost();
            table_bytes += held.table_bytes();
            tombstones += u64::from(matches!(held, MemtableValue::Tombstone));
            match map.insert(key, held) {
                None => {
                    added += key_cost;
                    table_bytes += key_bytes + TABLE_ENTRY_BYTES;
                }
                Some(old) => replaced.push(old),
            }
        }
        let entries = map.len() as u64;
        drop(map);
        for old in replaced {
            removed += old.cost();
            table_bytes = table_bytes.wrapping_sub(old.table_bytes());
            tombstones = tombstones.wrapping_sub(u64::from(matches!(old, MemtableValue::Tombstone)));
        }
        // Wrapping addition of a negative number subtracts.
        self.bytes.fetch_add(added.wrapping_sub(removed), Relaxed);
        self.table_bytes.fetch_add(table_bytes, Relaxed);
        self.entries.store(entries, Relaxed);
        self.tombstones.fetch_add(tombstones, Relaxed);
        self.last.store(lsn, Release);
    }

    /// Its entry of `key`, if it has one.
    pub fn get(&self, key: &[u8]) -> Option<Slot> {
        self.map.read().get(key).map(MemtableValue::slot)
    }

    /// Replaces `target` by up to `limit` entries from `start` on and below `end`, fewer where they are large.
    pub fn copy(&self, start: Bound<&[u8]>, end: Option<&[u8]>, limit: usize, target: &mut Copied) {
        target.bytes.clear();
        target.entries.clear();
        let map = self.map.read();
        let found = map.range::<[u8], _>((start, Bound::Unbounded));
        let mut bytes = 0;
        target.has_more = false;
        for (key, held) in found.take_while(|(key, _)| end.is_none_or(|end| key.bytes() < end)) {
            if target.len() >= limit || bytes > COPY_BYTES {
                target.has_more = true;
                break;
            }
            bytes += target.push(key.bytes(), held);
        }
    }

    /// Whether nothing was applied.
    pub fn is_empty(&self) -> bool {
        self.last() == self.first
    }

    /// Memory it takes: keys, values and what nodes and allocations cost.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Bytes that a flush of it writes at most, if nothing is compressed.
    pub fn table_bytes(&self) -> u64 {
        self.table_bytes.load(Relaxed)
    }

    /// Bytes of the log that are kept for it: what was overwritten in it is there all the same.
    pub fn log_bytes(&self) -> u64 {
        self.last() - self.first
    }

    /// Why it is to be flushed, if it is: it is full, or the log behind it has grown as long as a memtable may be large.
    pub fn due(&self, options: &Options) -> Option<&'static str> {
        let entries_max = options.memtable_entries;
        match () {
            () if self.bytes() >= options.memtable_bytes => Some("full"),
            () if entries_max > 0 && self.entries.load(Relaxed) >= entries_max => Some("full"),
            () if self.log_bytes() >= options.memtable_bytes => Some("log"),
            () => None,
        }
    }

    /// Tombstones in it.
    pub fn tombstones(&self) -> u64 {
        self.tombstones.load(Relaxed)
    }

    /// The LSN behind which its batches begin.
    pub fn first(&self) -> Lsn {
        self.first
    }

    /// The LSN at which its last batch ends.
    pub fn last(&self) -> Lsn {
        self.last.load(Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    fn all(memtable: &Memtable) -> Copied {
        let mut all = Copied::default();
        memtable.copy(Bound::Included(b""), None, usize::MAX, &mut all);
        all
    }

    #[test]
    fn its_bytes_are_those_of_its_entries() {
        let memtable = Memtable::new(Lsn::new(7));
        assert!(memtable.is_empty());
        let (mut prng, mut model) = (Prng::new(1), BTreeMap::new());
        for lsn in 8..2000 {
            let mut batch = Batch::new(0);
            for _ in 0..=prng.below(4) {
                let mut key = vec![b'k', prng.below(50) as u8];
                key.resize(if key[1] % 3 == 0 { SHORT_BYTES - 1 + usize::from(key[1] / 16) } else { 2 }, 0);
                let bytes =
                    if prng.one_in(5) { SMALL_BYTES as u64 - 2 + prng.below(4) } else { prng.below(90) };
                if prng.one_in(3) {
                    batch.delete(key.clone());
                    model.insert(key, None);
                } else {
                    batch.put(key.clone(), vec![lsn as u8; bytes as usize]);
                    model.insert(key, Some(vec![lsn as u8; bytes as usize]));
                }
            }
            memtable.apply(&batch, Lsn::new(lsn), None);
        }
        let all = all(&memtable);
        assert_eq!(all.len(), model.len());
        for (index, (key, value)) in model.iter().enumerate() {
            assert_eq!((all.key(index), all.find(key)), (Some(&key[..]), index));
            assert_eq!(all.value(index), value.as_deref().map(|value| (value, Lsn::ZERO)));
            assert_eq!(memtable.get(key), Some(value.clone().map(Bytes::from)));
        }
        let outside =
            |bytes: usize, at: usize| if bytes < at { bytes } else { bytes + OUTSIDE_BYTES as usize };
        let cost = |(key, value): (&Vec<u8>, &Option<Vec<u8>>)| {
            let value = value.as_ref().map_or(0, |value| outside(value.len(), SMALL_BYTES));
            let key = if key.len() <= SHORT_BYTES { 0 } else { key.len() + OUTSIDE_BYTES as usize };
            (key + value) as u64 + ENTRY_BYTES
        };
        assert_eq!(memtable.bytes(), model.iter().map(cost).sum::<u64>());
        assert_eq!(memtable.tombstones(), model.values().filter(|value| value.is_none()).count() as u64);
        assert_eq!((memtable.first(), memtable.last()), (Lsn::new(7), Lsn::new(1999)));
    }

    /// Memory of the process, bytes.
    fn resident() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find(|line| line.starts_with("RssAnon:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }

    #[test]
    #[ignore = "long: a measurement"]
    fn what_a_memtable_does_and_takes() {
        const KEYS: u64 = 400_000;
        for (name, is_random, value_bytes) in
            [("random", true, 100), ("sequential", false, 100), ("random", true, 400), ("random", true, 4096)]
        {
            let keys = if value_bytes > 1000 { KEYS / 20 } else { KEYS };
            let mut prng = Prng::new(3);
            let key = |prng: &mut Prng, index| {
                format!("{:020}", if is_random { prng.bits() } else { index }).into_bytes()
            };
            let (before, memtable) = (resident(), Memtable::new(Lsn::ZERO));
            let began = std::time::Instant::now();
            for index in 0..keys {
                let mut batch = Batch::new(0);
                batch.put(key(&mut prng, index), vec![7; value_bytes]);
                memtable.apply(&batch, Lsn::new(index + 1), None);
            }
            let filled = began.elapsed();
            let (held, charged) = (resident().saturating_sub(before), memtable.bytes());
            let mut prng = Prng::new(3);
            let began = std::time::Instant::now();
            let found =
                (0..keys).filter(|index| memtable.get(&key(&mut prng, *index)).is_some()).count() as u64;
            assert_eq!(found, keys);
            let got = began.elapsed();
            let began = std::time::Instant::now();
            drop(memtable);
            println!(
                "{name} {value_bytes}: put {} ns, get {} ns, freed in {:?}; charged {} MiB, held {} MiB",
                filled.as_nanos() as u64 / keys,
                got.as_nanos() as u64 / keys,
                began.elapsed(),
                charged >> 20,
                held >> 20
            );
        }
    }
}
