//! A block: a few kilobytes of sorted entries, the unit that is read, checked and cached.
//!
//! ```text
//! payload   entry | entry | … | restart offset u32 × n | n u32
//! entry     shared varint | unshared varint | tag varint | key suffix (unshared bytes) | value
//! tag       0: a tombstone, without value; else 1 + 2 × length of the value, + 1 if it is a pointer into the log
//! ```
//!
//! `shared` is how many bytes the key has in common with the key before. At every *restart point* it is 0, so that a search
//! can jump there. Offsets count from the start of the payload.

use std::cmp::Ordering;

use bytes::Bytes;

use crate::base::varint;

/// The payload is not a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

/// The value of an entry as it lies in a block.
#[derive(Clone, Copy)]
pub struct Raw<'a> {
    /// The value, or an encoded pointer.
    pub bytes: &'a [u8],
    /// Whether it is a pointer.
    pub is_pointer: bool,
}

/// A block's answer for a key that it holds.
pub enum Item {
    /// The key was deleted.
    Tombstone,
    /// Its value.
    Value(Bytes),
    /// An encoded pointer to its value.
    Pointer(Bytes),
}

/// Appends a block to a buffer, entry by entry, in ascending order of keys.
#[derive(Default)]
pub struct BlockBuilder {
    start: usize,
    entries: u64,
    restarts: Vec<u32>,
    last_key: Vec<u8>,
}

impl BlockBuilder {
    /// Begins a block at the end of `target`.
    pub fn start(&mut self, target: &[u8]) {
        self.start = target.len();
        self.entries = 0;
        self.restarts.clear();
        self.last_key.clear();
    }

    /// Bytes that the payload would have if it ended now.
    pub fn bytes(&self, target: &[u8]) -> usize {
        target.len() - self.start + (self.restarts.len() + 1) * 4
    }

    /// Adds an entry; every `restart_interval`th is a restart point.
    pub fn add(&mut self, target: &mut Vec<u8>, restart_interval: u64, key: &[u8], value: Option<Raw<'_>>) {
        let shared = if self.entries.is_multiple_of(restart_interval) {
            self.restarts.push((target.len() - self.start) as u32);
            0
        } else {
            common_prefix(&self.last_key, key)
        };
        varint::put(target, shared as u64);
        varint::put(target, (key.len() - shared) as u64);
        varint::put(
            target,
            value.map_or(0, |value| 1 + 2 * value.bytes.len() as u64 + u64::from(value.is_pointer)),
        );
        target.extend_from_slice(&key[shared..]);
        target.extend_from_slice(value.map_or(&[], |value| value.bytes));
        self.last_key.truncate(shared);
        self.last_key.extend_from_slice(&key[shared..]);
        self.entries += 1;
    }

    /// Ends the block.
    pub fn finish(&mut self, target: &mut Vec<u8>) {
        for restart in &self.restarts {
            target.extend_from_slice(&restart.to_le_bytes());
        }
        target.extend_from_slice(&(self.restarts.len() as u32).to_le_bytes());
    }
}

/// Number of leading bytes that `a` and `b` have in common.
pub fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// One entry as it lies in the payload.
struct RawEntry {
    shared: usize,
    /// Start and end of the key suffix; the value follows it.
    suffix: (usize, usize),
    /// End of the value; `None` for a tombstone.
    value_end: Option<usize>,
    is_pointer: bool,
}

impl RawEntry {
    fn next(&self) -> usize {
        self.value_end.unwrap_or(self.suffix.1)
    }
}

/// A block in memory. Values that it hands out share its memory.
#[derive(Clone)]
pub struct Block {
    payload: Bytes,
    entries_end: usize,
    restarts: usize,
}

impl Block {
    /// Reads the end of a payload; entries are checked as they are reached.
    pub fn parse(payload: Bytes) -> Result<Block, Damaged> {
        let count_at = payload.len().checked_sub(4).ok_or(Damaged)?;
        let restarts = u32_at(&payload, count_at)? as usize;
        let entries_end =
            restarts.checked_mul(4).and_then(|bytes| count_at.checked_sub(bytes)).ok_or(Damaged)?;
        Ok(Block { payload, entries_end, restarts })
    }

    /// Whether `payload` may be a block, by its end alone: nearly nothing else looks like one.
    pub fn may_be(payload: &[u8]) -> bool {
        let count_at = payload.len().saturating_sub(4);
        let restarts = u32_at(payload, count_at).map_or(0, |count| count as usize);
        let first = restarts.checked_mul(4).and_then(|bytes| count_at.checked_sub(bytes));
        // The first entry is a restart point.
        restarts > 0 && first.is_some_and(|first| u32_at(payload, first) == Ok(0))
    }

    fn entry(&self, at: usize) -> Result<RawEntry, Damaged> {
        let all = self.payload.get(at..self.entries_end).ok_or(Damaged)?;
        let mut source = all;
        let mut number = || usize::try_from(varint::take(&mut source)?).ok();
        let (Some(shared), Some(unshared), Some(tag)) = (number(), number(), number()) else {
            return Err(Damaged);
        };
        let start = at + (all.len() - source.len());
        let end = start.checked_add(unshared).ok_or(Damaged)?;
        let value_end = match tag {
            0 => None,
            tag => Some(end.checked_add((tag - 1) / 2).ok_or(Damaged)?),
        };
        if value_end.unwrap_or(end) > self.entries_end {
            return Err(Damaged);
        }
        let is_pointer = tag > 0 && tag % 2 == 0;
        Ok(RawEntry { shared, suffix: (start, end), value_end, is_pointer })
    }

    fn item(&self, entry: &RawEntry) -> Item {
        match entry.value_end.map(|end| self.payload.slice(entry.suffix.1..end)) {
            None => Item::Tombstone,
            Some(bytes) if entry.is_pointer => Item::Pointer(bytes),
            Some(bytes) => Item::Value(bytes),
        }
    }

    /// Offset of the last restart point whose key is not above `key`; the first one if all are.
    fn restart_before(&self, key: &[u8]) -> Result<usize, Damaged> {
        let (mut low, mut high) = (0, self.restarts);
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            let entry = self.entry(self.restart(middle)?)?;
            if entry.shared != 0 {
                return Err(Damaged);
            }
            if &self.payload[entry.suffix.0..entry.suffix.1] <= key { low = middle } else { high = middle }
        }
        if self.restarts == 0 { Ok(self.entries_end) } else { self.restart(low) }
    }

    fn restart(&self, index: usize) -> Result<usize, Damaged> {
        Ok(u32_at(&self.payload, self.entries_end + index * 4)? as usize)
    }

    /// The entry of `key`, if there is one. Compares without assembling keys: `matched` leading bytes of `key` are equal to those of the
    /// previous entry's key, which is smaller. An entry that shares more than those with the previous one is smaller, too.
    pub fn get(&self, key: &[u8]) -> Result<Option<Item>, Damaged> {
        let mut at = self.restart_before(key)?;
        let mut matched = 0;
        while at < self.entries_end {
            let entry = self.entry(at)?;
            if entry.shared > 0 && entry.shared < matched {
                return Ok(None);
            }
            if entry.shared <= matched {
                let suffix = &self.payload[entry.suffix.0..entry.suffix.1];
                let rest = &key[entry.shared..];
                match suffix.cmp(rest) {
                    Ordering::Less => matched = entry.shared + common_prefix(suffix, rest),
                    Ordering::Equal => return Ok(Some(self.item(&entry))),
                    Ordering::Greater => return Ok(None),
                }
            }
            at = entry.next();
        }
        Ok(None)
    }

    /// Its bytes without the frame.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }
}

/// A place in a block that moves forward.
#[derive(Default)]
pub struct BlockCursor {
    block: Option<Block>,
    /// Offset of the entry after the current one.
    next: usize,
    key: Vec<u8>,
    /// Start and end of the current value; `None` for a tombstone.
    value: Option<(usize, usize)>,
    is_pointer: bool,
}

impl BlockCursor {
    /// Goes to the first entry of `block` that is not below `start`; false if there is none.
    pub fn enter(&mut self, block: Block, start: &[u8]) -> Result<bool, Damaged> {
        self.next = if start.is_empty() { 0 } else { block.restart_before(start)? };
        self.block = Some(block);
        self.key.clear();
        while self.advance()? {
            if self.key.as_slice() >= start {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Goes to the next entry; false at the end of the block.
    pub fn advance(&mut self) -> Result<bool, Damaged> {
        let Some(block) = &self.block else { return Ok(false) };
        if self.next >= block.entries_end {
            self.block = None;
            return Ok(false);
        }
        let entry = block.entry(self.next)?;
        if entry.shared > self.key.len() {
            return Err(Damaged);
        }
        self.key.truncate(entry.shared);
        self.key.extend_from_slice(&block.payload[entry.suffix.0..entry.suffix.1]);
        self.value = entry.value_end.map(|end| (entry.suffix.1, end));
        self.is_pointer = entry.is_pointer;
        self.next = entry.next();
        Ok(true)
    }

    /// The current key.
    pub fn key(&self) -> &[u8] {
        &self.key
    }

    /// The current value if it is a pointer.
    pub fn pointer(&self) -> Option<&[u8]> {
        self.value().filter(|_| self.is_pointer)
    }

    /// The current value, or the pointer to it; `None` for a tombstone.
    pub fn value(&self) -> Option<&[u8]> {
        let (start, end) = self.value?;
        self.block.as_ref().map(|block| &block.payload[start..end])
    }
}

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Damaged> {
    Ok(u32::from_le_bytes(bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).ok_or(Damaged)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    fn build(entries: &[(Vec<u8>, Option<Vec<u8>>)], interval: u64) -> Vec<u8> {
        let (mut builder, mut target) = (BlockBuilder::default(), b"before".to_vec());
        builder.start(&target);
        for (key, value) in entries {
            builder.add(
                &mut target,
                interval,
                key,
                value.as_deref().map(|bytes| Raw { bytes, is_pointer: bytes.len() == 8 }),
            );
        }
        builder.finish(&mut target);
        target.split_off(6)
    }

    #[test]
    fn every_key_is_found_and_every_gap_is_not() {
        let mut prng = Prng::new(5);
        for round in 0..200 {
            let mut entries = std::collections::BTreeMap::new();
            for _ in 0..prng.below(40) {
                let key: Vec<u8> = (0..prng.below(6)).map(|_| b'a' + prng.below(3) as u8).collect();
                let value = (!prng.one_in(4)).then(|| vec![round as u8; prng.below(9) as usize]);
                entries.insert(key, value);
            }
            let list: Vec<_> = entries.clone().into_iter().collect();
            let block = Block::parse(build(&list, 1 + prng.below(5)).into()).unwrap();
            for _ in 0..60 {
                let key: Vec<u8> = (0..prng.below(6)).map(|_| b'a' + prng.below(3) as u8).collect();
                let found = block.get(&key).unwrap().map(|item| match item {
                    Item::Tombstone => None,
                    Item::Value(bytes) | Item::Pointer(bytes) => Some(bytes.to_vec()),
                });
                assert_eq!(found, entries.get(&key).cloned());
                let mut cursor = BlockCursor::default();
                let mut rest = Vec::new();
                let mut more = cursor.enter(block.clone(), &key).unwrap();
                while more {
                    assert_eq!(
                        cursor.pointer().is_some(),
                        cursor.value().is_some_and(|value| value.len() == 8)
                    );
                    rest.push((cursor.key().to_vec(), cursor.value().map(<[u8]>::to_vec)));
                    more = cursor.advance().unwrap();
                }
                assert_eq!(
                    rest,
                    entries.range(key..).map(|(k, v)| (k.clone(), v.clone())).collect::<Vec<_>>()
                );
            }
        }
    }

    #[test]
    fn damaged_payloads_do_not_panic() {
        let list: Vec<_> = (0..30u8).map(|i| (vec![b'k', i], Some(vec![i; 5]))).collect();
        let bytes = build(&list, 4);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let Ok(block) = Block::parse(damaged.into()) else { continue };
            let _ = block.get(b"k\x09");
            let mut cursor = BlockCursor::default();
            let mut more = cursor.enter(block, b"");
            while more == Ok(true) {
                more = cursor.advance();
            }
        }
    }
}
