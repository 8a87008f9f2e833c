//! Sparse index of pieces that follow each other, such as the blocks of a part of a table or the parts of a table: one *fence* a
//! piece, the shortest key that is above every key before the piece and not above any key in it.
//!
//! Pieces lie back to back, so one number a piece, where it starts, gives its place and its length. Keys are in memory in one
//! piece.
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
    /// Where each block's frame starts, and where the last one ends.
    starts: Vec<u64>,
}

impl Index {
    /// An empty index of blocks from `start` on.
    pub fn new(start: u64) -> Index {
        Index { fences: Vec::new(), fence_ends: Vec::new(), starts: vec![start] }
    }

    /// Memory it takes.
    pub fn bytes(&self) -> u64 {
        (self.fences.len() + self.fence_ends.len() * 4 + self.starts.len() * 8 + size_of::<Index>()) as u64
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

    /// Number of blocks.
    pub fn len(&self) -> usize {
        self.fence_ends.len()
    }

    /// Where block `ordinal` starts; for the number of blocks, where the last one ends.
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
        let (mut low, mut high) = (0, self.len());
        while high - low > 1 {
            let middle = low + (high - low) / 2;
            if self.fence(middle) <= key { low = middle } else { high = middle }
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
}
