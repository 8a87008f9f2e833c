//! Writes a table: entries come in ascending order, blocks go to the file a mebibyte at a time.
//!
//! A block ends before the entry that would make it larger than asked; an entry larger than that has a block of its own.
//! A value is copied once, into the buffer that is written. After as many blocks as the option `part_blocks` says a *partition* ends: its index and
//! its filter are made ready, and written behind all blocks.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::block::{BlockBuilder, Raw};
use super::compression::compress;
use super::filter::{Filter, hash};
use super::index::Index;
use super::partitions::{PinnedPartition, TopIndex};
use super::{
    KIND_BLOCK, KIND_FILTER, KIND_FOOTER, KIND_INDEX, KIND_TOP_INDEX, MAGIC, Origin, Table, TableMeta,
    TableStore, VERSION, table_name,
};
use crate::base::varint;
use crate::disk::{File, Purpose};
use crate::engine::lsm::Compression;
use crate::engine::lsm::place;
use crate::engine::lsm::value_log::StoredValue;
use crate::engine::wal::Segment;
use crate::engine::{Error, Lsn, Result, Shares, Work, frame};

/// The file is written in pieces of at least this size.
const WRITE_BYTES: usize = 1 << 20;
/// A longer entry than this cannot be framed.
const ENTRY_BYTES_MAX: usize = 1 << 31;

/// A table that is being written. Dropped before [`TableBuilder::finish`], it removes its file.
pub struct TableBuilder {
    table_store: Arc<TableStore>,
    purpose: Purpose,
    compression: Compression,
    /// The compressed block; kept for its capacity.
    compressed: Vec<u8>,
    file: Arc<dyn File>,
    meta: TableMeta,
    /// Bytes that are not in the file yet, and where they belong.
    buffer: Vec<u8>,
    buffer_start: u64,
    block: BlockBuilder,
    block_frame: Option<usize>,
    block_first: Vec<u8>,
    /// Last key of the block before.
    block_before: Vec<u8>,
    last_key: Vec<u8>,
    /// Of the partition that is being written, with the hashes of its keys.
    index: Index,
    hashes: Vec<u64>,
    partitions: Vec<PinnedPartition>,
    /// Fences and block places of the partitions.
    top: Index,
    /// First key of the partition, and the last one before it.
    partition_first: Vec<u8>,
    partition_before: Vec<u8>,
    /// Segments that hold values, by where they start, with the bytes of those.
    values: BTreeMap<Lsn, (u64, Arc<Segment>)>,
    /// The pointer of the current entry.
    pointer: Vec<u8>,
    /// What entries of the current block take in it.
    shares: Shares,
    /// Classes of the blocks that are in the buffer.
    classes: Vec<(u8, u64)>,
    finished: bool,
}

impl TableBuilder {
    /// Starts table `number` in `file`; the [`TableStore`] calls this.
    pub(super) fn new(
        table_store: Arc<TableStore>,
        purpose: Purpose,
        compression: Compression,
        number: u64,
        file: Arc<dyn File>,
    ) -> TableBuilder {
        TableBuilder {
            table_store,
            purpose,
            compression,
            compressed: Vec::new(),
            file,
            meta: TableMeta { number, ..TableMeta::default() },
            buffer: Vec::new(),
            buffer_start: 0,
            block: BlockBuilder::default(),
            block_frame: None,
            block_first: Vec::new(),
            block_before: Vec::new(),
            last_key: Vec::new(),
            index: Index::new(0),
            hashes: Vec::new(),
            partitions: Vec::new(),
            top: Index::new(0),
            partition_first: Vec::new(),
            partition_before: Vec::new(),
            values: BTreeMap::new(),
            pointer: Vec::new(),
            shares: Shares::default(),
            classes: Vec::new(),
            finished: false,
        }
    }

    /// Bytes of blocks so far.
    pub fn bytes(&self) -> u64 {
        self.buffer_start + self.buffer.len() as u64
    }

    /// Those of them that are in the file.
    pub fn written_bytes(&self) -> u64 {
        self.buffer_start
    }

    /// Adds an entry, a tombstone without `value`; keys must ascend.
    pub fn add(&mut self, key: &[u8], value: Option<StoredValue<'_>>) -> Result<()> {
        debug_assert!(self.meta.entries == 0 || key > &self.last_key[..], "keys ascend");
        let bytes = key.len() + value.map_or(0, |value| value.len());
        if bytes > ENTRY_BYTES_MAX {
            return Err(Error::Invalid(format!("an entry of {bytes} bytes is too long")));
        }
        let full = self.block.bytes(&self.buffer) + bytes > self.table_store.options.block_bytes as usize;
        if self.block_frame.is_some() && full {
            self.end_block()?;
        }
        if self.block_frame.is_none() {
            self.block_frame = Some(frame::start(&mut self.buffer, KIND_BLOCK));
            self.block.start(&self.buffer);
            self.block_first.clear();
            self.block_first.extend_from_slice(key);
        }
        let raw = match value {
            None => None,
            Some(StoredValue::Value(bytes)) => Some(Raw { bytes, is_pointer: false }),
            Some(StoredValue::Pointer(pointer, segment)) => {
                let held = self.values.entry(segment.start()).or_insert_with(|| (0, segment.clone()));
                held.0 += pointer.bytes;
                self.pointer.clear();
                pointer.encode(&mut self.pointer);
                Some(Raw { bytes: &self.pointer, is_pointer: true })
            }
        };
        let before = self.buffer.len();
        self.block.add(&mut self.buffer, self.table_store.options.restart_interval, key, raw);
        self.shares.add(key, (self.buffer.len() - before) as u64);
        if self.table_store.options.bloom_bits > 0 {
            self.hashes.push(hash(key));
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
        let Some(at) = self.block_frame.take() else { return Ok(()) };
        self.block.finish(&mut self.buffer);
        self.meta.sizes.raw_bytes += (self.buffer.len() - at) as u64;
        let payload = &self.buffer[at + frame::HEADER_BYTES..];
        let compressed = match self.compression {
            Compression::None => None,
            compression => {
                let (cpu, target) = (self.table_store.cpu(), &mut self.compressed);
                cpu.sample(Work::Compress, payload.len() as u64, || compress(compression, payload, target))
            }
        };
        if let Some(kind) = compressed {
            self.buffer.truncate(at);
            frame::start(&mut self.buffer, kind);
            self.buffer.extend_from_slice(&self.compressed);
        }
        self.end_frame(at);
        let whole = self.shares.total();
        self.classes.extend(self.shares.divide((self.buffer.len() - at) as u64, whole));
        if self.index.len() == 0 {
            self.partition_first.clone_from(&self.block_first);
            self.partition_before.clone_from(&self.block_before);
        }
        self.index.push(&self.block_before, &self.block_first, self.bytes());
        self.block_before.clone_from(&self.last_key);
        if self.index.len() as u64 >= self.table_store.options.part_blocks {
            self.end_partition();
        }
        if self.buffer.len() >= WRITE_BYTES { self.write() } else { Ok(()) }
    }

    fn end_partition(&mut self) {
        if self.index.len() == 0 {
            return;
        }
        let end = self.bytes();
        self.top.push(&self.partition_before, &self.partition_first, end);
        self.index.complete();
        let index = Arc::new(std::mem::replace(&mut self.index, Index::new(end)));
        let filter = Filter::build(&self.hashes, self.table_store.options.bloom_bits);
        self.hashes.clear();
        self.partitions.push(PinnedPartition { index, filter });
    }

    fn end_frame(&mut self, at: usize) {
        let place = place(self.meta.number, self.buffer_start + at as u64);
        let (cpu, buffer) = (self.table_store.cpu(), &mut self.buffer);
        let bytes = (buffer.len() - at) as u64;
        cpu.sample(Work::Checksum, bytes, || frame::finish(buffer, at, place));
    }

    fn write(&mut self) -> Result<()> {
        let context = |error| Error::io(format!("writing {}", table_name(self.meta.number)), error);
        self.file.write_at(self.purpose, self.buffer_start, &self.buffer).map_err(context)?;
        self.buffer_start += self.buffer.len() as u64;
        self.buffer.clear();
        for (class, bytes) in self.classes.drain(..) {
            self.table_store.classes().add(class, bytes);
        }
        Ok(())
    }

    /// Ends the table and makes its bytes durable, not yet its name.
    pub fn finish(mut self, origin: Origin) -> Result<Arc<Table>> {
        self.end_block()?;
        self.end_partition();
        let mut partitions = Vec::with_capacity(self.partitions.len());
        let meta = &mut self.meta;
        (meta.first_lsn, meta.last_lsn) = (origin.first_lsn, origin.last_lsn);
        meta.newest_seconds = origin.newest_seconds;
        meta.tombstone_seconds = if meta.tombstones > 0 { origin.tombstone_seconds } else { 0 };
        self.meta.largest = Bytes::copy_from_slice(&self.last_key);
        self.meta.values = self.values.iter().map(|(start, (bytes, _))| (*start, *bytes)).collect();
        let segments = std::mem::take(&mut self.values).into_values().map(|(_, segment)| segment).collect();
        self.meta.sizes.data_bytes = self.bytes();
        let mut places = Vec::with_capacity(self.partitions.len());
        for partition in std::mem::take(&mut self.partitions) {
            let filter_start = self.bytes();
            let at = frame::start(&mut self.buffer, KIND_FILTER);
            partition.filter.encode(&mut self.buffer);
            self.end_frame(at);
            let index_start = self.bytes();
            let at = frame::start(&mut self.buffer, KIND_INDEX);
            partition.index.encode(&mut self.buffer);
            self.end_frame(at);
            places.push((filter_start, index_start));
            self.meta.sizes.filter_bytes += index_start - filter_start;
            self.meta.sizes.index_bytes += self.bytes() - index_start;
            partitions.push(partition);
            if self.buffer.len() >= WRITE_BYTES {
                self.write()?;
            }
        }
        let top_index_start = self.bytes();
        self.top.complete();
        let top = TopIndex::new(std::mem::replace(&mut self.top, Index::new(0)), places, top_index_start);
        let at = frame::start(&mut self.buffer, KIND_TOP_INDEX);
        top.encode(&mut self.buffer);
        self.end_frame(at);
        self.meta.sizes.index_bytes += self.bytes() - top_index_start;
        let at = frame::start(&mut self.buffer, KIND_FOOTER);
        varint::put(&mut self.buffer, VERSION);
        self.meta.encode(&mut self.buffer);
        varint::put(&mut self.buffer, top_index_start);
        self.end_frame(at);
        let footer_bytes = (self.buffer.len() - at) as u32;
        self.buffer.extend_from_slice(&footer_bytes.to_le_bytes());
        self.buffer.extend_from_slice(MAGIC);
        self.write()?;
        self.meta.bytes = self.buffer_start;
        let context = |error| Error::io(format!("sync of {}", table_name(self.meta.number)), error);
        // XFS keeps as much again behind a file that grew, for as long as it is open; this gives it back.
        self.file.set_size(self.meta.bytes).map_err(context)?;
        self.file.sync(self.purpose).map_err(context)?;
        self.finished = true;
        let (meta, file) = (self.meta.clone(), self.file.clone());
        Ok(Arc::new(Table::new(meta, file, top, partitions, segments, self.table_store.clone())))
    }
}

impl Drop for TableBuilder {
    fn drop(&mut self) {
        if !self.finished {
            self.table_store.remove(self.meta.number);
        }
    }
}
