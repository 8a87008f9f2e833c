//! Tables: sorted files that never change. [`TableBuilder`] writes one, [`Table`] reads it, the [`TableStore`] makes, opens
//! and throws them away. `FORMAT.md` draws the bytes.

mod block;
mod builder;
mod compression;
pub mod decoders;
mod filter;
mod index;
mod number;
mod partitions;
mod reader;
mod rebuild;
pub mod salvage;
mod sizer;
mod store;
mod writer;

use std::sync::Arc;

use bytes::Bytes;

use super::super::Lsn;
use crate::base::varint;

pub use block::{Block, BlockCursor};
pub use builder::TableBuilder;
pub use filter::hash;
pub use index::Index;
pub use number::TableNumber;
pub use reader::{ReadOptions, Table};
pub use sizer::{SizedEntry, TableSizer};
pub use store::TableStore;

const KIND_BLOCK: u8 = 1;
const KIND_FILTER: u8 = 2;
const KIND_INDEX: u8 = 3;
const KIND_FOOTER: u8 = 4;
const KIND_LZ4_BLOCK: u8 = 5;
const KIND_ZSTD_BLOCK: u8 = 6;
const KIND_TOP_INDEX: u8 = 7;
/// Version of the table format, in every footer.
const VERSION: u64 = 4;
/// The last bytes of every table.
const MAGIC: &[u8; 8] = b"kvfs.tbl";
/// Length of the footer's frame, magic.
const TRAILER_BYTES: u64 = 12;

/// Bytes of a table file by what they hold. Footer and trailer are the rest of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TableSizes {
    /// Blocks before compression.
    pub raw_bytes: u64,
    /// Blocks as they are stored.
    pub data_bytes: u64,
    /// The filters.
    pub filter_bytes: u64,
    /// The indexes, the top-level index among them.
    pub index_bytes: u64,
}

/// LSNs and times of the batches that the entries of a table come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// LSN after which its oldest batch may begin.
    pub first_lsn: Lsn,
    /// LSN at which its newest batch ends at the latest.
    pub last_lsn: Lsn,
    /// Seconds since 1970 of its newest batch at the latest.
    pub newest_seconds: u64,
    /// Seconds since 1970 of its oldest tombstone at the latest; used only if it has any.
    pub tombstone_seconds: u64,
}

impl Origin {
    /// The origin of what is merged from `tables`.
    pub fn of<'a>(tables: impl Iterator<Item = &'a TableMeta> + Clone) -> Origin {
        let tombstones = tables.clone().map(|table| table.tombstone_seconds).filter(|seconds| *seconds > 0);
        Origin {
            first_lsn: tables.clone().map(|table| table.first_lsn).min().unwrap_or_default(),
            last_lsn: tables.clone().map(|table| table.last_lsn).max().unwrap_or_default(),
            newest_seconds: tables.map(|table| table.newest_seconds).max().unwrap_or(0),
            tombstone_seconds: tombstones.min().unwrap_or(0),
        }
    }
}

/// Metadata of a table, known without reading it; kept in its footer and in the manifest. One flat record, since that is how both encode
/// it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableMeta {
    /// Its number; never used twice.
    pub number: TableNumber,
    /// Size of the file.
    pub bytes: u64,
    /// Entries, tombstones among them.
    pub entries: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Key and value bytes of all entries; of a value in the log its pointer's.
    pub logical_bytes: u64,
    /// LSN after which its oldest batch may begin.
    pub first_lsn: Lsn,
    /// LSN at which its newest batch ends at the latest.
    pub last_lsn: Lsn,
    /// Seconds since 1970 at which its newest batch was there for certain: when it was flushed.
    pub newest_seconds: u64,
    /// Seconds since 1970 at which its oldest tombstone was there for certain; 0 without tombstones.
    pub tombstone_seconds: u64,
    /// Its first key.
    pub smallest: Bytes,
    /// Its last key.
    pub largest: Bytes,
    /// Segments of the log that hold values of it: where each starts, and how many bytes of values. Ascending. There may be
    /// thousands, so copies share it.
    pub values: Arc<[(Lsn, u64)]>,
    /// Bytes of its blocks, filters and indexes.
    pub sizes: TableSizes,
}

impl TableMeta {
    /// Whether keys of the table lie in `start..=end`.
    pub fn overlaps(&self, start: &[u8], end: &[u8]) -> bool {
        &self.smallest[..] <= end && start <= &self.largest[..]
    }

    /// Whether it holds so many tombstones that scans of its range are slow: they are half of its entries or more.
    pub fn is_dense(&self) -> bool {
        self.tombstones > 0 && self.tombstones * 2 >= self.entries
    }

    /// Whether values of it lie in the segment that starts at `start`.
    pub fn needs(&self, start: Lsn) -> bool {
        self.values.binary_search_by_key(&start, |(start, _)| *start).is_ok()
    }

    /// Appends everything but the file size, which the footer cannot know.
    pub fn encode(&self, target: &mut Vec<u8>) {
        let numbers = [self.number.number(), self.entries, self.tombstones, self.logical_bytes];
        let origin =
            [self.first_lsn.number(), self.last_lsn.number(), self.newest_seconds, self.tombstone_seconds];
        for number in numbers.into_iter().chain(origin) {
            varint::put(target, number);
        }
        varint::put_bytes(target, &self.smallest);
        varint::put_bytes(target, &self.largest);
        varint::put(target, self.values.len() as u64);
        for (start, bytes) in self.values.iter() {
            varint::put(target, start.number());
            varint::put(target, *bytes);
        }
        let TableSizes { raw_bytes, data_bytes, filter_bytes, index_bytes } = self.sizes;
        for number in [raw_bytes, data_bytes, filter_bytes, index_bytes] {
            varint::put(target, number);
        }
    }

    /// Takes what [`TableMeta::encode`] wrote off the front of `source`; `bytes` is the file size.
    pub fn decode(source: &mut &[u8], bytes: u64) -> Option<TableMeta> {
        Some(TableMeta {
            bytes,
            number: TableNumber::new(varint::take(source)?),
            entries: varint::take(source)?,
            tombstones: varint::take(source)?,
            logical_bytes: varint::take(source)?,
            first_lsn: Lsn::new(varint::take(source)?),
            last_lsn: Lsn::new(varint::take(source)?),
            newest_seconds: varint::take(source)?,
            tombstone_seconds: varint::take(source)?,
            smallest: Bytes::copy_from_slice(varint::take_bytes(source)?),
            largest: Bytes::copy_from_slice(varint::take_bytes(source)?),
            values: (0..varint::take(source)?)
                .map(|_| Some((Lsn::new(varint::take(source)?), varint::take(source)?)))
                .collect::<Option<_>>()?,
            sizes: TableSizes {
                raw_bytes: varint::take(source)?,
                data_bytes: varint::take(source)?,
                filter_bytes: varint::take(source)?,
                index_bytes: varint::take(source)?,
            },
        })
    }
}
