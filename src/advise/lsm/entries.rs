//! The entries of a table as ranks and lengths, about two bytes each: where a table lies in memory when only sizes are known.
//!
//! An entry is the distance of its rank from the one before (varint), and a code (varint): 0 as the one before, 1 a tombstone, else two more
//! than the bytes of the value. Some entries are *stops*, at which decoding can begin.

use crate::base::varint;
use crate::engine::lsm::Options;
use crate::engine::lsm::sized_levels::{SizedEntry, SizedTable, TableSizer};

use bytes::Bytes;

use crate::advise::keys::Keys;

/// Entries between two stops at least.
const STOP_ENTRIES: u32 = 64;
const SAME: u64 = 0;
const TOMBSTONE: u64 = 1;
const VALUE: u64 = 2;

/// The key of a rank, as levels compare them.
pub fn key(rank: u32) -> [u8; 4] {
    rank.to_be_bytes()
}

/// The rank that a key stands for; 0 for the empty key.
pub fn rank(key: &[u8]) -> u32 {
    key.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// The first entry of a block, from which on entries can be decoded.
#[derive(Clone, Copy, Debug)]
struct Stop {
    rank: u32,
    /// Rank and code before it.
    before: u32,
    code: u64,
    at: u32,
    /// Where its block begins in the file, and how many blocks there are before.
    file_bytes: u64,
    blocks: u32,
}

/// Entries of a table.
#[derive(Debug, Default)]
pub struct Entries {
    bytes: Vec<u8>,
    stops: Vec<Stop>,
    data_bytes: u64,
    blocks: u32,
}

/// Entries passed through in their order.
pub struct Cursor<'a> {
    rest: &'a [u8],
    rank: u32,
    code: u64,
    is_valid: bool,
}

impl Cursor<'_> {
    /// The current rank and the bytes of its value, `None` for a tombstone; none at all at the end.
    pub fn entry(&self) -> Option<(u32, Option<u64>)> {
        self.is_valid.then(|| (self.rank, self.code.checked_sub(VALUE)))
    }

    /// Rank of the current entry.
    pub fn rank(&self) -> Option<u32> {
        self.is_valid.then_some(self.rank)
    }

    /// Goes to the next entry.
    pub fn advance(&mut self) {
        let next = varint::take(&mut self.rest).zip(varint::take(&mut self.rest));
        self.is_valid = next.is_some();
        if let Some((distance, code)) = next {
            self.rank += distance as u32;
            if code != SAME {
                self.code = code;
            }
        }
    }
}

/// A place in a file: a block, by which it is cached, and its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockPlace {
    /// Number of the block in its table, about.
    pub block: u32,
    /// Bytes of it, about.
    pub bytes: u64,
}

impl Entries {
    /// A cursor at the first entry whose rank is not below `rank`.
    pub fn from(&self, rank: u32) -> Cursor<'_> {
        let stop = self.stops.partition_point(|stop| stop.rank <= rank).saturating_sub(1);
        let mut cursor = match self.stops.get(stop) {
            Some(stop) => Cursor {
                rest: &self.bytes[stop.at as usize..],
                rank: stop.before,
                code: stop.code,
                is_valid: true,
            },
            None => Cursor { rest: &[], rank: 0, code: 0, is_valid: false },
        };
        cursor.advance();
        while cursor.rank().is_some_and(|at| at < rank) {
            cursor.advance();
        }
        cursor
    }

    /// The entry of `rank`: `Some(None)` for a tombstone.
    pub fn get(&self, rank: u32) -> Option<Option<u64>> {
        let (found, value) = self.from(rank).entry()?;
        (found == rank).then_some(value)
    }

    /// The block that may hold `rank`.
    pub fn block(&self, rank: u32) -> BlockPlace {
        let at = self.stops.partition_point(|stop| stop.rank <= rank).saturating_sub(1);
        let Some(stop) = self.stops.get(at) else { return BlockPlace { block: 0, bytes: 0 } };
        let next = self.stops.get(at + 1);
        let (end_bytes, end_blocks, end_rank) = next
            .map_or((self.data_bytes, self.blocks, stop.rank + STOP_ENTRIES), |next| {
                (next.file_bytes, next.blocks, next.rank)
            });
        let (bytes, blocks) = (end_bytes - stop.file_bytes, (end_blocks - stop.blocks).max(1));
        // Blocks between two stops are taken to be alike, and ranks to be spread evenly.
        let span = u64::from((end_rank - stop.rank).max(1));
        let part = u64::from(rank.saturating_sub(stop.rank)) * u64::from(blocks) / span;
        let block = stop.blocks + (part as u32).min(blocks - 1);
        BlockPlace { block, bytes: bytes / u64::from(blocks) }
    }

    /// The blocks that hold what lies in `from..=to`.
    pub fn blocks(&self, from: u32, to: u32) -> impl Iterator<Item = BlockPlace> + use<> {
        let (first, last) = (self.block(from), self.block(to));
        let bytes = (first.bytes + last.bytes) / 2;
        (first.block..=last.block).map(move |block| BlockPlace { block, bytes })
    }
}

/// Makes the entries of a table, and its sizes.
pub struct EntriesBuilder {
    entries: Entries,
    sizer: TableSizer,
    first: Option<u32>,
    last: u32,
    code: u64,
    since_stop: u32,
    partitions: Vec<(Bytes, u64)>,
}

impl EntriesBuilder {
    /// None yet, of a store with `options`.
    pub fn new(options: &Options) -> EntriesBuilder {
        EntriesBuilder {
            entries: Entries::default(),
            sizer: TableSizer::new(options),
            first: None,
            last: 0,
            code: 0,
            since_stop: 0,
            partitions: Vec::new(),
        }
    }

    /// Bytes of blocks so far.
    pub fn bytes(&self) -> u64 {
        self.sizer.bytes()
    }

    /// Adds an entry, a tombstone without `value_bytes`; ranks ascend.
    pub fn add(&mut self, keys: &Keys, rank: u32, value_bytes: Option<u64>) {
        let shared_bytes = match self.first {
            None => 0,
            Some(_) => keys.shared_bytes(self.last, rank),
        };
        let (begins_block, begins_partition) =
            self.sizer.add(SizedEntry { key_bytes: keys.bytes(rank), shared_bytes, value_bytes });
        if begins_partition {
            self.partitions.push((Bytes::copy_from_slice(&key(rank)), self.sizer.complete_bytes()));
        }
        if begins_block {
            if self.since_stop >= STOP_ENTRIES || self.first.is_none() {
                self.entries.stops.push(Stop {
                    rank,
                    before: self.last,
                    code: self.code,
                    at: self.entries.bytes.len() as u32,
                    file_bytes: self.sizer.complete_bytes(),
                    blocks: self.entries.blocks,
                });
                self.since_stop = 0;
            }
            self.entries.blocks += 1;
        }
        varint::put(&mut self.entries.bytes, u64::from(rank - self.last));
        let code = value_bytes.map_or(TOMBSTONE, |bytes| bytes + VALUE);
        varint::put(&mut self.entries.bytes, if code == self.code { SAME } else { code });
        (self.code, self.last) = (code, rank);
        self.first.get_or_insert(rank);
        self.since_stop += 1;
    }

    /// The table; `None` if it has no entries.
    pub fn finish(mut self, keys: &Keys) -> Option<(SizedTable, Entries)> {
        let first = self.first?;
        let mut meta = self.sizer.finish(keys.bytes(first) + keys.bytes(self.last));
        meta.smallest = Bytes::copy_from_slice(&key(first));
        meta.largest = Bytes::copy_from_slice(&key(self.last));
        self.entries.data_bytes = meta.sizes.data_bytes;
        self.entries.bytes.shrink_to_fit();
        self.entries.stops.shrink_to_fit();
        // So far each partition has the place where it begins.
        let starts: Vec<u64> = self.partitions.iter().map(|(_, start)| *start).collect();
        let ends = starts.iter().skip(1).chain(std::iter::once(&meta.sizes.data_bytes));
        for ((start, end), (_, bytes)) in starts.iter().zip(ends).zip(&mut self.partitions) {
            *bytes = end - start;
        }
        Some((SizedTable { meta, partitions: self.partitions }, self.entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::advise::keys::KeyCollector;
    use crate::base::prng::Prng;

    #[test]
    fn entries_come_back() {
        let mut prng = Prng::new(1);
        let mut collector = KeyCollector::default();
        (0..20_000u32).for_each(|rank| collector.add(&rank.to_be_bytes()));
        let (keys, _) = collector.finish();
        let options = Options { block_bytes: 200, ..Options::default() };
        let mut builder = EntriesBuilder::new(&options);
        let mut wanted = Vec::new();
        for rank in 0..20_000u32 {
            if !prng.one_in(3) {
                continue;
            }
            let value = (!prng.one_in(9)).then(|| prng.below(3) * 50);
            builder.add(&keys, rank, value);
            wanted.push((rank, value));
        }
        let (table, entries) = builder.finish(&keys).unwrap();
        assert_eq!(table.meta.entries, wanted.len() as u64);
        let sum: u64 = table.partitions.iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(sum, table.meta.sizes.data_bytes);
        for start in [0, 1, 77, 9_999, 19_000, 19_999] {
            let mut cursor = entries.from(start);
            let mut found = Vec::new();
            while let Some(entry) = cursor.entry() {
                found.push(entry);
                cursor.advance();
            }
            let at = wanted.partition_point(|(rank, _)| *rank < start);
            assert_eq!(found, wanted[at..]);
        }
        for (rank, value) in &wanted {
            assert_eq!(entries.get(*rank), Some(*value));
            let place = entries.block(*rank);
            assert!(place.bytes > 0 && place.bytes < 400 && place.block < entries.blocks, "{place:?}");
        }
        let bytes: u64 = entries.blocks(0, 19_999).map(|place| place.bytes).sum();
        assert!(bytes.abs_diff(table.meta.sizes.data_bytes) * 10 < bytes, "{bytes}");
    }
}
