//! The size of a table that is not written: what [`TableBuilder`](super::TableBuilder) would make of entries of which only lengths are known.
//!
//! For a model that follows a store through hours of work without a byte of it. Every rule of the builder is here once more, as a sum, and a
//! test holds both to the same number of bytes. Blocks are not compressed.

use super::filter::payload_bytes;
use super::{TRAILER_BYTES, TableMeta, VERSION};
use crate::base::varint;
use crate::engine::frame;
use crate::engine::lsm::Options;

/// An entry of which only lengths are known.
#[derive(Clone, Copy, Debug)]
pub struct SizedEntry {
    /// Bytes of its key.
    pub key_bytes: u64,
    /// Bytes that the key has in common with that of the entry before it in the table; 0 for the first.
    pub shared_bytes: u64,
    /// Bytes of its value; `None` for a tombstone.
    pub value_bytes: Option<u64>,
}

/// A fence of an index: bytes of it, and bytes that the key behind it has in common with the key behind the fence before.
#[derive(Clone, Copy, Default)]
struct Fence {
    bytes: u64,
    shared_bytes: u64,
}

/// The size of an index while pieces are added to it.
#[derive(Clone, Copy, Default)]
struct IndexSize {
    pieces: u64,
    bytes: u64,
    last_fence_bytes: u64,
}

impl IndexSize {
    /// Adds a piece of `piece_bytes` that begins at a fence; the first one has none.
    fn push(&mut self, fence: Fence, piece_bytes: u64) {
        let (bytes, shared) = match self.pieces {
            0 => (0, 0),
            _ => (fence.bytes, fence.shared_bytes.min(fence.bytes).min(self.last_fence_bytes)),
        };
        let rest = bytes - shared;
        self.bytes += varint::length(shared) + varint::length(rest) + rest + varint::length(piece_bytes);
        self.last_fence_bytes = bytes;
        self.pieces += 1;
    }

    fn frame_bytes(&self) -> u64 {
        frame::HEADER_BYTES as u64 + varint::length(self.pieces) + self.bytes
    }
}

#[derive(Clone, Copy, Default)]
struct OpenBlock {
    payload_bytes: u64,
    entries: u64,
    restarts: u64,
    fence: Fence,
}

/// The size of a table while entries are added to it.
pub struct TableSizer {
    block_bytes: u64,
    restart_interval: u64,
    part_blocks: u64,
    bloom_bits: u64,
    data_bytes: u64,
    block: Option<OpenBlock>,
    /// Bytes that all keys since the first of the block, and of the partition, have in common with it.
    shared_in_block: u64,
    shared_in_partition: u64,
    partition: IndexSize,
    partition_fence: Fence,
    partition_start: u64,
    partition_keys: u64,
    /// Frames of filters and indexes, and of the places of both in the top-level index.
    filter_bytes: u64,
    index_bytes: u64,
    place_bytes: u64,
    top: IndexSize,
    meta: TableMeta,
}

impl TableSizer {
    /// An empty table of a store with `options`.
    pub fn new(options: &Options) -> TableSizer {
        TableSizer {
            block_bytes: options.block_bytes,
            restart_interval: options.restart_interval,
            part_blocks: options.part_blocks,
            bloom_bits: options.bloom_bits,
            data_bytes: 0,
            block: None,
            shared_in_block: u64::MAX,
            shared_in_partition: u64::MAX,
            partition: IndexSize::default(),
            partition_fence: Fence::default(),
            partition_start: 0,
            partition_keys: 0,
            filter_bytes: 0,
            index_bytes: 0,
            place_bytes: 0,
            top: IndexSize::default(),
            meta: TableMeta::default(),
        }
    }

    /// Bytes of blocks so far, as [`TableBuilder::bytes`](super::TableBuilder::bytes) counts them.
    pub fn bytes(&self) -> u64 {
        let open = |block: &OpenBlock| frame::HEADER_BYTES as u64 + block.payload_bytes;
        self.data_bytes + self.block.as_ref().map_or(0, open)
    }

    /// Bytes of the blocks that are complete.
    pub fn complete_bytes(&self) -> u64 {
        self.data_bytes
    }

    /// Adds an entry; whether it begins a block, and whether that begins a partition.
    pub fn add(&mut self, entry: SizedEntry) -> (bool, bool) {
        let value_bytes = entry.value_bytes.unwrap_or(0);
        self.shared_in_block = self.shared_in_block.min(entry.shared_bytes);
        self.shared_in_partition = self.shared_in_partition.min(entry.shared_bytes);
        if let Some(block) = &self.block
            && block.payload_bytes + (block.restarts + 1) * 4 + entry.key_bytes + value_bytes
                > self.block_bytes
        {
            self.end_block();
        }
        let begins_block = self.block.is_none();
        let begins_partition = begins_block && self.partition.pieces == 0;
        if begins_block {
            let bytes = (entry.shared_bytes + 1).min(entry.key_bytes);
            if begins_partition {
                self.partition_fence = Fence { bytes, shared_bytes: self.shared_in_partition };
                self.shared_in_partition = u64::MAX;
            }
            let fence = Fence { bytes, shared_bytes: self.shared_in_block };
            self.shared_in_block = u64::MAX;
            self.block = Some(OpenBlock { fence, ..OpenBlock::default() });
        }
        if let Some(block) = &mut self.block {
            let mut shared = entry.shared_bytes;
            if block.entries.is_multiple_of(self.restart_interval) {
                (block.restarts, shared) = (block.restarts + 1, 0);
            }
            let tag = entry.value_bytes.map_or(0, |bytes| 1 + 2 * bytes);
            let unshared = entry.key_bytes - shared;
            block.payload_bytes += varint::length(shared) + varint::length(unshared) + varint::length(tag);
            block.payload_bytes += unshared + value_bytes;
            block.entries += 1;
        }
        self.partition_keys += 1;
        self.meta.entries += 1;
        self.meta.tombstones += u64::from(entry.value_bytes.is_none());
        self.meta.logical_bytes += entry.key_bytes + value_bytes;
        (begins_block, begins_partition)
    }

    fn end_block(&mut self) {
        let Some(block) = self.block.take() else { return };
        let bytes = frame::HEADER_BYTES as u64 + block.payload_bytes + (block.restarts + 1) * 4;
        self.data_bytes += bytes;
        self.partition.push(block.fence, bytes);
        if self.partition.pieces >= self.part_blocks {
            self.end_partition();
        }
    }

    fn end_partition(&mut self) {
        if self.partition.pieces == 0 {
            return;
        }
        self.top.push(self.partition_fence, self.data_bytes - self.partition_start);
        let filter_bytes = frame::HEADER_BYTES as u64 + payload_bytes(self.partition_keys, self.bloom_bits);
        let index_bytes = std::mem::take(&mut self.partition).frame_bytes();
        self.filter_bytes += filter_bytes;
        self.index_bytes += index_bytes;
        self.place_bytes += varint::length(filter_bytes) + varint::length(index_bytes);
        (self.partition_start, self.partition_keys) = (self.data_bytes, 0);
    }

    /// Ends the table. Its metadata, of which keys, number and origin are the caller's to set; `ends_bytes` are those of its first and last key.
    pub fn finish(mut self, ends_bytes: u64) -> TableMeta {
        self.end_block();
        self.end_partition();
        let mut meta = self.meta;
        (meta.sizes.raw_bytes, meta.sizes.data_bytes) = (self.data_bytes, self.data_bytes);
        let top_start = self.data_bytes + self.filter_bytes + self.index_bytes;
        (meta.sizes.filter_bytes, meta.sizes.index_bytes) =
            (self.filter_bytes, self.index_bytes + self.top.frame_bytes() + self.place_bytes);
        let mut encoded = Vec::new();
        meta.encode(&mut encoded);
        let footer_bytes =
            varint::length(VERSION) + encoded.len() as u64 + ends_bytes + varint::length(top_start);
        let frame_bytes = frame::HEADER_BYTES as u64 + footer_bytes + TRAILER_BYTES;
        meta.bytes = top_start + self.top.frame_bytes() + self.place_bytes + frame_bytes;
        meta
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::block::common_prefix;
    use super::super::{Origin, TableNumber, TableStore};
    use super::*;
    use crate::base::prng::Prng;
    use crate::disk::{Purpose, SimDisk};
    use crate::engine::WakeSignal;
    use crate::engine::lsm::value_log::StoredValue;

    #[test]
    fn a_table_that_is_not_written_has_the_size_of_one_that_is() {
        let mut prng = Prng::new(7);
        for round in 0..200 {
            let options = Options {
                block_bytes: 64 + prng.below(5000),
                restart_interval: 1 + prng.below(20),
                part_blocks: 1 + prng.below(9),
                bloom_bits: prng.below(12),
                ..Options::default()
            };
            let store = TableStore::new(
                SimDisk::new(),
                Arc::new(WakeSignal::new()),
                options.clone(),
                TableNumber::default(),
            );
            let mut keys: Vec<Vec<u8>> = (0..1 + prng.below(800))
                .map(|_| (0..1 + prng.below(40)).map(|_| b'a' + prng.below(3) as u8).collect())
                .collect();
            keys.sort_unstable();
            keys.dedup();
            let mut builder = store.create(Purpose::Flush, false).unwrap();
            let mut sizer = TableSizer::new(&options);
            let mut before: Option<&Vec<u8>> = None;
            let longest = [10, 300, 9000][prng.below(3) as usize];
            for key in &keys {
                let value = (!prng.one_in(5)).then(|| vec![7; prng.below(longest) as usize]);
                builder.add(key, value.as_deref().map(StoredValue::Value)).unwrap();
                sizer.add(SizedEntry {
                    key_bytes: key.len() as u64,
                    shared_bytes: before.map_or(0, |before| common_prefix(before, key)) as u64,
                    value_bytes: value.map(|value| value.len() as u64),
                });
                assert_eq!(sizer.bytes(), builder.bytes(), "round {round}");
                before = Some(key);
            }
            let table = builder.finish(Origin::default()).unwrap();
            let ends_bytes = (table.smallest.len() + table.largest.len()) as u64;
            let sized = sizer.finish(ends_bytes);
            let wanted = table.meta();
            assert_eq!((sized.entries, sized.tombstones), (wanted.entries, wanted.tombstones));
            assert_eq!((sized.logical_bytes, sized.sizes), (wanted.logical_bytes, wanted.sizes), "{round}");
            // The number of the table is the caller's.
            assert!(
                wanted.bytes.abs_diff(sized.bytes) <= 1,
                "round {round}: {} {}",
                wanted.bytes,
                sized.bytes
            );
        }
    }
}
