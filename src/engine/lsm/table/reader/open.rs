//! Opens a table: reads footer, top-level index and, as far as memory allows, partitions; or makes do without those that are damaged.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::Table;
use crate::base::varint;
use crate::disk::{File, Gone, Purpose};
use crate::engine::lsm::table::filter::Filter;
use crate::engine::lsm::table::index::Index;
use crate::engine::lsm::table::partitions::{PinnedPartition, TopIndex};
use crate::engine::lsm::table::rebuild::rebuild;
use crate::engine::lsm::table::{
    KIND_FOOTER, KIND_TOP_INDEX, MAGIC, TRAILER_BYTES, TableMeta, TableStore, VERSION,
};
use crate::engine::wal::Segment;
use crate::engine::{Error, Result, frame};

/// Bytes read from the end of a file for a top-level index whose partitions are not read with it.
const TOP_INDEX_BYTES: u64 = 4 << 10;

/// The end of a table's file, as far as it was read.
struct Tail<'a> {
    purpose: Purpose,
    name: &'a dyn Fn() -> String,
    file: &'a dyn File,
    start: u64,
    bytes: Vec<u8>,
}

impl Tail<'_> {
    /// Reads what is missing of everything from `start` on.
    fn reach(&mut self, start: u64) -> Result<()> {
        if start < self.start {
            let mut bytes = vec![0; (self.start - start) as usize];
            let context = |error| Error::io(format!("reading {}", (self.name)()), error);
            self.file.read_at(self.purpose, start, &mut bytes).map_err(context)?;
            bytes.append(&mut self.bytes);
            (self.start, self.bytes) = (start, bytes);
        }
        Ok(())
    }

    /// Some of what was read.
    fn slice(&self, range: Range<u64>) -> &[u8] {
        &self.bytes[(range.start - self.start) as usize..(range.end - self.start) as usize]
    }
}

impl Table {
    /// A table of which nothing is known but what the manifest says: a caller that needs something of it gets `error`.
    pub(in crate::engine::lsm::table) fn lost(
        meta: &TableMeta,
        segments: Vec<Arc<Segment>>,
        table_store: Arc<TableStore>,
        error: Error,
    ) -> Table {
        let top = TopIndex::whole(meta.sizes.data_bytes);
        let mut table = Table::new(meta.clone(), Arc::new(Gone), top, Vec::new(), segments, table_store);
        table.lost = Some(error);
        table
    }

    /// A table of which only sizes are known: its metadata, and the first key and the bytes of blocks of each partition. It cannot be read.
    pub fn sized(meta: &TableMeta, partitions: &[(Bytes, u64)], table_store: Arc<TableStore>) -> Table {
        let (mut index, mut places, mut end) = (Index::new(0), Vec::new(), 0);
        for (first, bytes) in partitions {
            end += bytes;
            // The fence is the whole key.
            index.push(&first[..first.len().saturating_sub(1)], first, end);
            places.push((end, end));
        }
        index.complete();
        let top = TopIndex::new(index, places, end);
        let mut table = Table::new(meta.clone(), Arc::new(Gone), top, Vec::new(), Vec::new(), table_store);
        table.lost = Some(Error::Invalid("only sizes of it are known".to_string()));
        table
    }

    /// A table whose footer or top-level index cannot be read: its index is rebuilt from its blocks, which lie where the manifest says.
    /// Also returns the error of the first block that does not check, if there is one. `error` if that cannot be done, or memory is short.
    pub(in crate::engine::lsm::table) fn rebuild(
        meta: &TableMeta,
        file: Arc<dyn File>,
        segments: Vec<Arc<Segment>>,
        table_store: Arc<TableStore>,
        error: Error,
    ) -> Result<(Table, Option<Error>)> {
        let found = rebuild(meta.number, &*file, 0..meta.sizes.data_bytes, Purpose::Recovery);
        let is_known =
            found.keys.as_ref().is_some_and(|(first, last)| *first >= meta.smallest && *last <= meta.largest);
        let is_all = || {
            let (first, last) = found.keys.as_ref().map_or((&[][..], &[][..]), |(a, b)| (a, b));
            found.entries == meta.entries && *first == meta.smallest && *last == meta.largest
        };
        let bytes = found.index.bytes();
        if !is_known || found.gap.is_none() && !is_all() || !table_store.has_memory_for_rebuilt(bytes) {
            return Err(error);
        }
        let top = TopIndex::whole(meta.sizes.data_bytes);
        let partitions = vec![PinnedPartition { index: Arc::new(found.index), filter: Filter::default() }];
        Ok((Table::new(meta.clone(), file, top, partitions, segments, table_store), found.gap))
    }

    /// Reads footer, top-level index and partitions from `file`. Footer and top-level index must check and agree with `expected`, and so
    /// must all partitions if the table is opened to be verified. Of a table with several partitions these are read only if they may stay
    /// in memory, or if it is opened to be verified. All of it is one request, except where the top-level index is longer than thought or
    /// memory is short.
    pub(in crate::engine::lsm::table) fn open(
        purpose: Purpose,
        expected: &TableMeta,
        file: Arc<dyn File>,
        segments: Vec<Arc<Segment>>,
        table_store: Arc<TableStore>,
    ) -> Result<Table> {
        let number = expected.number;
        let name = || number.file_name();
        let damaged = |offset: u64, what: &str| Error::corrupt(name(), offset, what);
        let size = file.size().map_err(|error| Error::io(format!("reading {}", name()), error))?;
        if size != expected.bytes || size < TRAILER_BYTES {
            return Err(damaged(size, &format!("it should have {} bytes", expected.bytes)));
        }
        let trailer_start = size - TRAILER_BYTES;
        // What the frames take is near to what they take in memory.
        let partitions_bytes = expected.sizes.filter_bytes.saturating_add(expected.sizes.index_bytes);
        let is_wanted = purpose == Purpose::Verify || table_store.has_memory(partitions_bytes);
        let footer_bytes = size.saturating_sub(expected.sizes.data_bytes).saturating_sub(partitions_bytes);
        let likely_bytes =
            footer_bytes.saturating_add(if is_wanted { partitions_bytes } else { TOP_INDEX_BYTES });
        let mut tail = Tail { purpose, name: &name, file: &*file, start: size, bytes: Vec::new() };
        tail.reach(size.saturating_sub(likely_bytes).min(trailer_start))?;
        let trailer = tail.slice(trailer_start..size);
        let footer_bytes = u64::from(u32::from_le_bytes([trailer[0], trailer[1], trailer[2], trailer[3]]));
        let footer_start = trailer_start
            .checked_sub(footer_bytes)
            .filter(|_| trailer[4..] == MAGIC[..])
            .ok_or_else(|| damaged(trailer_start, "a trailer that does not check"))?;
        tail.reach(footer_start)?;
        let footer = tail.slice(footer_start..trailer_start);
        let framed =
            frame::decode(footer, number.frame_place(footer_start)).filter(|(kind, _)| *kind == KIND_FOOTER);
        let top_index_start = framed
            .and_then(|(_, mut payload)| Some((varint::take(&mut payload)?, payload)))
            .map(|(version, payload)| match version {
                VERSION => Ok(payload),
                other => Err(Error::format(name(), other, VERSION)),
            })
            .transpose()?
            .and_then(|mut payload| {
                let meta = TableMeta::decode(&mut payload, size)?;
                let top = varint::take(&mut payload)?;
                let fits = meta == *expected && payload.is_empty();
                (fits && top <= footer_start).then_some(top)
            })
            .ok_or_else(|| {
                damaged(footer_start, "a footer that does not check or is not what the manifest says")
            })?;
        tail.reach(top_index_start)?;
        let bytes = tail.slice(top_index_start..footer_start);
        let top = frame::decode(bytes, number.frame_place(top_index_start))
            .filter(|(kind, payload)| {
                *kind == KIND_TOP_INDEX && payload.len() + frame::HEADER_BYTES == bytes.len()
            })
            .and_then(|(_, payload)| TopIndex::decode(payload, top_index_start))
            .ok_or_else(|| damaged(top_index_start, "a top-level index that does not check"))?;
        let mut table = Table::new(expected.clone(), file.clone(), top, Vec::new(), segments, table_store);
        if is_wanted || table.top.partitions() == 1 {
            tail.reach(table.top.filter(0).start)?;
            let partition = |partition| {
                let filter = table.parse_filter(partition, tail.slice(table.top.filter(partition)));
                let index = table.parse_index(partition, tail.slice(table.top.index(partition)));
                let (filter, index) = match purpose {
                    Purpose::Verify => (filter?, index?),
                    _ => (table.mend_filter(filter)?, table.mend_index(partition, index, purpose)?),
                };
                Ok(PinnedPartition { index: Arc::new(index), filter })
            };
            let partitions: Vec<PinnedPartition> =
                (0..table.top.partitions()).map(partition).collect::<Result<_>>()?;
            let bytes: u64 = partitions.iter().map(PinnedPartition::bytes).sum();
            table.table_store.take_memory(bytes, true);
            table.pinned_bytes += bytes;
            table.pinned = partitions;
        }
        Ok(table)
    }
}
