//! Builds a table: entries come in ascending order and go into blocks, blocks into partitions.
//!
//! A block ends before the entry that would make it larger than asked; an entry larger than that has a block of its own.
//! A value is copied once, into the buffer that is written. After as many blocks as the option `part_blocks` says a *partition* ends:
//! its index and its filter are made ready, and written behind all blocks.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::block::{BlockBuilder, Raw};
use super::compression::compress;
use super::filter::{Filter, hash};
use super::index::Index;
use super::partitions::{PinnedPartition, TopIndex};
use super::writer::{OpenFrame, TableWriter};
use super::{
    KIND_BLOCK, KIND_FILTER, KIND_FOOTER, KIND_INDEX, KIND_TOP_INDEX, MAGIC, Origin, Table, TableMeta,
    TableNumber, TableStore, VERSION,
};
use crate::base::varint;
use crate::disk::{File, Purpose};
use crate::engine::lsm::Compression;
use crate::engine::lsm::value_log::StoredValue;
use crate::engine::wal::Segment;
use crate::engine::{Error, Lsn, Result, Shares, Work};

/// A longer entry than this cannot be framed.
const ENTRY_BYTES_MAX: usize = 1 << 31;

/// The block that is being filled.
#[derive(Default)]
struct OpenBlock {
    builder: BlockBuilder,
    /// Its frame; `None` before its first entry.
    frame: Option<OpenFrame>,
    /// Its first key, and the last key of the block before.
    first: Vec<u8>,
    before: Vec<u8>,
    /// Bytes of its entries by class of key.
    shares: Shares,
}

/// The partition that is being filled.
struct OpenPartition {
    /// Index of its blocks, and hashes of its keys.
    index: Index,
    hashes: Vec<u64>,
    /// Its first key, and the last key of the partition before.
    first: Vec<u8>,
    before: Vec<u8>,
}

/// Values that lie in the log.
#[derive(Default)]
struct LogValues {
    /// Segments that hold them, by where they start, with the bytes of those.
    segments: BTreeMap<Lsn, (u64, Arc<Segment>)>,
    /// The encoded pointer of the current entry; kept for its capacity.
    pointer: Vec<u8>,
}

/// A table that is being written. Dropped before [`TableBuilder::finish`], it removes its file.
pub struct TableBuilder {
    writer: TableWriter,
    meta: TableMeta,
    compression: Compression,
    /// The compressed block; kept for its capacity.
    compressed: Vec<u8>,
    block: OpenBlock,
    last_key: Vec<u8>,
    partition: OpenPartition,
    /// Partitions that are complete, and their fences and places.
    partitions: Vec<PinnedPartition>,
    top: Index,
    values: LogValues,
}

impl TableBuilder {
    /// Starts table `number` in `file`; the [`TableStore`] calls this.
    pub(super) fn new(
        table_store: Arc<TableStore>,
        purpose: Purpose,
        compression: Compression,
        number: TableNumber,
        file: Arc<dyn File>,
    ) -> TableBuilder {
        TableBuilder {
            writer: TableWriter::new(table_store, purpose, number, file),
            meta: TableMeta { number, ..TableMeta::default() },
            compression,
            compressed: Vec::new(),
            block: OpenBlock::default(),
            last_key: Vec::new(),
            partition: OpenPartition {
                index: Index::new(0),
                hashes: Vec::new(),
                first: Vec::new(),
                before: Vec::new(),
            },
            partitions: Vec::new(),
            top: Index::new(0),
            values: LogValues::default(),
        }
    }

    /// Bytes of blocks so far.
    pub fn bytes(&self) -> u64 {
        self.writer.bytes()
    }

    /// Bytes of blocks that are in the file.
    pub fn written_bytes(&self) -> u64 {
        self.writer.written_bytes()
    }

    /// Adds an entry, a tombstone without `value`; keys must ascend.
    pub fn add(&mut self, key: &[u8], value: Option<StoredValue<'_>>) -> Result<()> {
        debug_assert!(self.meta.entries == 0 || key > &self.last_key[..], "keys ascend");
        let bytes = key.len() + value.map_or(0, |value| value.len());
        if bytes > ENTRY_BYTES_MAX {
            return Err(Error::Invalid(format!("an entry of {bytes} bytes is too long")));
        }
        let block_bytes = self.writer.table_store().options.block_bytes as usize;
        if self.block.frame.is_some() && self.block.builder.bytes(self.writer.buffer()) + bytes > block_bytes
        {
            self.end_block()?;
        }
        if self.block.frame.is_none() {
            self.block.frame = Some(self.writer.begin_frame(KIND_BLOCK));
            self.block.builder.start(self.writer.buffer());
            self.block.first.clear();
            self.block.first.extend_from_slice(key);
        }
        let raw = match value {
            None => None,
            Some(StoredValue::Value(bytes)) => Some(Raw { bytes, is_pointer: false }),
            Some(StoredValue::Pointer(pointer, segment)) => {
                let LogValues { segments, pointer: encoded } = &mut self.values;
                let held = segments.entry(segment.start()).or_insert_with(|| (0, segment.clone()));
                held.0 += pointer.bytes;
                encoded.clear();
                pointer.encode(encoded);
                Some(Raw { bytes: encoded, is_pointer: true })
            }
        };
        let (restart_interval, bloom_bits) = {
            let options = &self.writer.table_store().options;
            (options.restart_interval, options.bloom_bits)
        };
        let buffer = self.writer.buffer();
        let before = buffer.len();
        self.block.builder.add(buffer, restart_interval, key, raw);
        self.block.shares.add(key, (buffer.len() - before) as u64);
        if bloom_bits > 0 {
            self.partition.hashes.push(hash(key));
        }
        if self.meta.entries == 0 {
            self.meta.smallest = Bytes::copy_from_slice(key);
        }
        self.last_key.clear();
        self.last_key.extend_from_slice(key);
        self.meta.entries += 1;
        self.meta.tombstones += u64::from(value.is_none());
        self.meta.logical_bytes += bytes as u64;
        Ok(())
    }

    fn end_block(&mut self) -> Result<()> {
        let Some(open) = self.block.frame.take() else { return Ok(()) };
        self.block.builder.finish(self.writer.buffer());
        self.meta.sizes.raw_bytes += self.writer.frame_bytes(open);
        if self.compression != Compression::None {
            let (payload, target) = (self.writer.payload(open), &mut self.compressed);
            let cpu = self.writer.table_store().cpu();
            let compress = || compress(self.compression, payload, target);
            if let Some(kind) = cpu.sample(Work::Compress, payload.len() as u64, compress) {
                self.writer.replace_payload(open, kind, &self.compressed);
            }
        }
        let bytes = self.writer.end_frame(open);
        let whole = self.block.shares.total();
        self.writer.count_classes(self.block.shares.divide(bytes, whole));
        if self.partition.index.len() == 0 {
            self.partition.first.clone_from(&self.block.first);
            self.partition.before.clone_from(&self.block.before);
        }
        self.partition.index.push(&self.block.before, &self.block.first, self.writer.bytes());
        self.block.before.clone_from(&self.last_key);
        if self.partition.index.len() as u64 >= self.writer.table_store().options.part_blocks {
            self.end_partition();
        }
        self.writer.write_if_long()
    }

    fn end_partition(&mut self) {
        if self.partition.index.len() == 0 {
            return;
        }
        let end = self.writer.bytes();
        self.top.push(&self.partition.before, &self.partition.first, end);
        self.partition.index.complete();
        let index = Arc::new(std::mem::replace(&mut self.partition.index, Index::new(end)));
        let filter = Filter::build(&self.partition.hashes, self.writer.table_store().options.bloom_bits);
        self.partition.hashes.clear();
        self.partitions.push(PinnedPartition { index, filter });
    }

    /// Ends the table and makes its bytes durable, not yet its name.
    pub fn finish(mut self, origin: Origin) -> Result<Arc<Table>> {
        self.end_block()?;
        self.end_partition();
        let TableBuilder { mut writer, mut meta, last_key, partitions, mut top, values, .. } = self;
        (meta.first_lsn, meta.last_lsn) = (origin.first_lsn, origin.last_lsn);
        meta.newest_seconds = origin.newest_seconds;
        meta.tombstone_seconds = if meta.tombstones > 0 { origin.tombstone_seconds } else { 0 };
        meta.largest = Bytes::copy_from_slice(&last_key);
        meta.values = values.segments.iter().map(|(start, (bytes, _))| (*start, *bytes)).collect();
        let segments = values.segments.into_values().map(|(_, segment)| segment).collect();
        meta.sizes.data_bytes = writer.bytes();
        let mut places = Vec::with_capacity(partitions.len());
        for partition in &partitions {
            let filter_start = writer.bytes();
            meta.sizes.filter_bytes += writer.frame(KIND_FILTER, |target| partition.filter.encode(target));
            let index_start = writer.bytes();
            meta.sizes.index_bytes += writer.frame(KIND_INDEX, |target| partition.index.encode(target));
            places.push((filter_start, index_start));
            writer.write_if_long()?;
        }
        let top_index_start = writer.bytes();
        top.complete();
        let top = TopIndex::new(top, places, top_index_start);
        meta.sizes.index_bytes += writer.frame(KIND_TOP_INDEX, |target| top.encode(target));
        let footer_bytes = writer.frame(KIND_FOOTER, |target| {
            varint::put(target, VERSION);
            meta.encode(target);
            varint::put(target, top_index_start);
        });
        let trailer = (footer_bytes as u32).to_le_bytes();
        writer.buffer().extend_from_slice(&trailer);
        writer.buffer().extend_from_slice(MAGIC);
        meta.bytes = writer.finish()?;
        let (file, table_store) = (writer.file().clone(), writer.table_store().clone());
        Ok(Arc::new(Table::new(meta, file, top, partitions, segments, table_store)))
    }
}
