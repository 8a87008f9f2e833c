//! Sparse index of pieces that follow each other: the blocks of a partition, or the partitions of a table. It has one *fence* a piece, the
//! shortest key that is above every key before the piece and not above any key in it.
//!
//! Pieces lie back to back, so one number a piece, its start, gives its place and its length. All fences lie in one piece of memory.
//!
//! Payload on disk: number of blocks (varint), then per block: bytes that its fence shares with the one before (varint), the
//! rest of the fence behind its length, and the length of the block's frame (varint).

use super::block::common_prefix;
use crate::base::varint;

/// An index in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Index {
    fences: Vec<u8>,
    fence_ends: Vec<u32>,
    /// Start of each block's frame, and the end of the last one.
    starts: Vec<u64>,
    /// Of a complete index: the number of leading bytes that all fences but the first have in common, and the eight bytes of each fence
    /// behind those. Most steps of a search compare two numbers that lie near to each other.
    prefix_bytes: usize,
    heads: Vec<u64>,
}

/// The first eight bytes as a number that sorts as they do; zeros where there are fewer.
fn head(bytes: &[u8]) -> u64 {
    let mut eight = [0; 8];
    let length = bytes.len().min(8);
    eight[..length].copy_from_slice(&bytes[..length]);
    u64::from_be_bytes(eight)
}

impl Index {
    /// An empty index of blocks from `start` on.
    pub fn new(start: u64) -> Index {
        Index {
            fences: Vec::new(),
            fence_ends: Vec::new(),
            starts: vec![start],
            prefix_bytes: 0,
            heads: Vec::new(),
        }
    }

    /// Memory it takes.
    pub fn bytes(&self) -> u64 {
        let entries = self.fence_ends.len() * 4 + (self.starts.len() + self.heads.len()) * 8;
        (self.fences.len() + entries + size_of::<Index>()) as u64
    }

    /// Adds a block that ends at `end`; `last` is the key before it, `first` its own first key.
    pub fn push(&mut self, last: &[u8], first: &[u8], end: u64) {
        if self.len() > 0 {
            let fence = &first[..(common_prefix(last, first) + 1).min(first.len())];
            self.fences.extend_from_slice(fence);
        }
        self.fence_ends.push(self.fences.len() as u32);
        self.starts.push(end);
    }

    /// Makes the index ready for searches; nothing may be added after it.
    pub fn complete(&mut self) {
        let count = self.len();
        self.prefix_bytes = if count > 1 { common_prefix(self.fence(1), self.fence(count - 1)) } else { 0 };
        let rest = |ordinal| self.fence(ordinal).get(self.prefix_bytes..).unwrap_or(b"");
        self.heads = (0..count).map(|ordinal| head(rest(ordinal))).collect();
    }

    /// Number of blocks.
    pub fn len(&self) -> usize {
        self.fence_ends.len()
    }

    /// Start of block `ordinal`; for the number of blocks, the end of the last one.
    pub fn start(&self, ordinal: usize) -> u64 {
        self.starts.get(ordinal).copied().unwrap_or(0)
    }

    /// The fence of block `ordinal`.
    pub fn fence(&self, ordinal: usize) -> &[u8] {
        let start = if ordinal == 0 { 0 } else { self.fence_ends[ordinal - 1] };
        &self.fences[start as usize..self.fence_ends[ordinal] as usize]
    }

    /// The one block that may hold `key`.
    pub fn find(&self, key: &[u8]) -> usize {
        let Some(heads) = self.heads.get(1..).filter(|heads| !heads.is_empty()) else { return 0 };
        // Memory that is not near costs more than all steps of the search: nothing is touched that need not be.
        let rest = if self.prefix_bytes == 0 {
            key
        } else {
            let prefix = &self.fence(1)[..self.prefix_bytes];
            match key.strip_prefix(prefix) {
                Some(rest) => rest,
                None => return if key < prefix { 0 } else { heads.len() },
            }
        };
        let wanted = head(rest);
        let low = heads.partition_point(|head| *head < wanted);
        if heads.get(low) != Some(&wanted) {
            return low;
        }
        let equal = heads[low..].partition_point(|head| *head == wanted);
        // Fences with the same head have to be looked at.
        let (mut low, mut high) = (low, low + equal);
        while low < high {
            let middle = low + (high - low) / 2;
            if self.fence(middle + 1) <= key { low = middle + 1 } else { high = middle }
        }
        low
    }

    /// Appends the payload.
    pub fn encode(&self, target: &mut Vec<u8>) {
        varint::put(target, self.len() as u64);
        let mut before: &[u8] = b"";
        for ordinal in 0..self.len() {
            let fence = self.fence(ordinal);
            let shared = common_prefix(before, fence);
            varint::put(target, shared as u64);
            varint::put_bytes(target, &fence[shared..]);
            varint::put(target, self.start(ordinal + 1) - self.start(ordinal));
            before = fence;
        }
    }

    /// Takes what [`Index::encode`] wrote off the front of `payload`; the first block starts at `start`.
    pub fn decode(payload: &mut &[u8], start: u64) -> Option<Index> {
        let count = varint::take(payload)?;
        let mut index = Index::new(start);
        let mut before = 0..0;
        let mut end = start;
        for ordinal in 0..count {
            let shared = usize::try_from(varint::take(payload)?).ok()?;
            let suffix = varint::take_bytes(payload)?;
            let start = index.fences.len();
            if shared > before.len() {
                return None;
            }
            index.fences.extend_from_within(before.start..before.start + shared);
            index.fences.extend_from_slice(suffix);
            let fence = start..index.fences.len();
            if ordinal > 0 && index.fences[fence.clone()] <= index.fences[before] {
                return None;
            }
            before = fence;
            index.fence_ends.push(u32::try_from(index.fences.len()).ok()?);
            end = end.checked_add(varint::take(payload)?)?;
            index.starts.push(end);
        }
        index.complete();
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fences_are_short_and_lead_to_the_block() {
        let mut index = Index::new(7);
        let blocks: [[&[u8]; 2]; 3] = [[b"apple", b"banana"], [b"bean", b"cow"], [b"cow2", b"zebra"]];
        let mut last: &[u8] = b"";
        for (ordinal, [first, end]) in blocks.iter().enumerate() {
            index.push(last, first, (ordinal as u64 + 1) * 100);
            last = end;
        }
        index.complete();
        assert_eq!((0..3).map(|o| index.fence(o)).collect::<Vec<_>>(), [&b""[..], b"be", b"cow2"]);
        for (key, ordinal) in
            [("", 0), ("banana", 0), ("bb", 0), ("be", 1), ("cow", 1), ("cow2", 2), ("zz", 2)]
        {
            assert_eq!(index.find(key.as_bytes()), ordinal, "{key}");
        }
        assert_eq!((index.start(0), index.start(1), index.start(3)), (7, 100, 300));
        let mut bytes = Vec::new();
        index.encode(&mut bytes);
        assert_eq!(Index::decode(&mut &bytes[..], 7), Some(index));
        for cut in 0..bytes.len() {
            assert_eq!(Index::decode(&mut &bytes[..cut], 7), None);
        }
    }

    #[test]
    fn a_search_finds_the_last_fence_that_is_not_above_the_key() {
        let mut prng = crate::base::prng::Prng::new(3);
        for round in 0..300 {
            let prefix = vec![b'p'; prng.below(4) as usize];
            let word = |prng: &mut crate::base::prng::Prng| {
                let bytes = (0..prng.below(12)).map(|_| b"\0\0\0\0ab"[prng.below(6) as usize]);
                [&prefix[..], &bytes.collect::<Vec<u8>>()].concat()
            };
            let keys: std::collections::BTreeSet<Vec<u8>> =
                (0..prng.below(60)).map(|_| word(&mut prng)).collect();
            let (mut index, mut last) = (Index::new(0), Vec::new());
            for (ordinal, key) in keys.iter().enumerate() {
                index.push(&last, key, ordinal as u64 + 1);
                last.clone_from(key);
            }
            index.complete();
            for _ in 0..100 {
                let mut key = word(&mut prng);
                if prng.one_in(4) {
                    key.truncate(prng.below(key.len() as u64 + 1) as usize);
                }
                let wanted = (1..index.len()).take_while(|ordinal| index.fence(*ordinal) <= &key[..]).count();
                assert_eq!(index.find(&key), wanted, "round {round}, {key:?}");
            }
        }
    }
}
