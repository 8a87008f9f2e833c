//! Scans. A scan goes from leaf to leaf and collects a chunk of entries at a time; the values of a chunk are read before it is visited.
//!
//! 1. If a scan continues another one and must read from the disk, it also reads the values of its read-ahead window
//!    ([`super::read_ahead`]), with the same requests where they are adjacent. They go into the pool, where the next scans find them.
//! 2. The window ends where a key differs from the start of the scan in more than its last four bytes. For the filesystem that is the end of
//!    a file's blocks.
//! 3. Within one scan, each leaf that must be read brings twice as many of the following leaves as the one before, as long as they are
//!    adjacent in the file.

use bytes::Bytes;

use super::allocation_unit::Units;
use super::page::Extent;
use super::reader::Reader;
use super::source::{LoadedPieces, Miss, Piece};
use super::tree::{ScanChunk, ScanItem, Stop};
use super::value::Value;
use crate::disk::Purpose;
use crate::engine::{Error, KeyRange, Result, Tier, Visit};

/// Largest number of entries that a scan collects under one latch.
const ENTRIES: usize = 256;
/// Largest number of pages that a scan keeps between its chunks.
const LOADED_PAGES_MAX: usize = 64;
/// Bytes of values that a scan reads from the disk for one chunk, about.
const READ_BYTES: usize = 1 << 20;
/// Largest gap between two values that are read with one request; mostly it is a page.
const GAP_UNITS: Units = Units::new(4);
/// Number of bytes at the end of a key in which it may differ from the start of the scan.
const SUFFIX_BYTES: usize = 4;

impl Reader {
    /// Visits the keys of `range` in ascending order.
    pub fn scan(&self, range: KeyRange<'_>, tier: Tier, visit: &mut Visit<'_>) -> Result<()> {
        let mut start = range.start.to_vec();
        // In tier Memory a scan is noted only when it succeeds, since otherwise it is made again.
        let window_bytes = if tier == Tier::Disk { self.read_ahead.note(range) } else { 0 };
        let (mut leaves, mut loaded) = (1, LoadedPieces::default());
        loop {
            let ahead = (leaves, window_bytes);
            let chunk =
                self.chunk(&start, range.end, (tier, Purpose::Scan), ahead, &|_, _| true, &mut loaded)?;
            leaves = self.after_chunk(leaves, &mut loaded);
            for (key, item) in &chunk.entries {
                if let Some(value) = chunk.value(item)
                    && visit(chunk.at(key), value).is_break()
                {
                    return Ok(());
                }
            }
            match chunk.next {
                Some(next) => start = next,
                None => {
                    if tier == Tier::Memory {
                        self.read_ahead.note(range);
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Leaves that the next chunk may bring, after one that brought up to `leaves`.
    pub fn after_chunk(&self, leaves: usize, loaded: &mut LoadedPieces) -> usize {
        // Leaves that were read ahead are taken from `loaded`, so that a lookup in the pool does not count them as used again.
        loaded.keep_pages(LOADED_PAGES_MAX);
        self.read_ahead.more_leaves(leaves)
    }

    /// The next chunk of a scan with the values that are `wanted`, by key and by whether the entry is clean. A read of a leaf brings up to `leaves` leaves; a read of values also brings those in the
    /// `window_bytes` behind the end.
    pub fn chunk(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        (tier, purpose): (Tier, Purpose),
        (leaves, mut window_bytes): (usize, usize),
        wanted: &dyn Fn(&[u8], bool) -> bool,
        loaded: &mut LoadedPieces,
    ) -> Result<ScanChunk> {
        'again: loop {
            let (epoch, found) = {
                let tree = self.core.tree.read();
                let found = tree.collect(&self.core.pager, loaded, start, end, ENTRIES, READ_BYTES);
                (tree.epoch, found)
            };
            let chunk = match found {
                Ok(chunk) => chunk,
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Miss(_)) if tier == Tier::Memory => return Err(Error::WouldBlock),
                Err(Stop::Miss(miss)) => {
                    self.load_for_scan(epoch, miss, (start, end), (leaves, purpose), loaded)?;
                    continue;
                }
            };
            let mut absent: Vec<Extent> = chunk
                .entries
                .iter()
                .enumerate()
                .filter_map(|(index, (key, item))| match item {
                    ScanItem::Absent(extent) => {
                        wanted(chunk.at(key), chunk.is_clean(index)).then_some(*extent)
                    }
                    ScanItem::Inline(_) | ScanItem::Ready(_) | ScanItem::Tombstone => None,
                })
                .collect();
            if absent.is_empty() {
                return Ok(chunk);
            }
            if tier == Tier::Memory {
                return Err(Error::WouldBlock);
            }
            if let Some(end) = end.filter(|_| window_bytes > 0 && chunk.next.is_none()) {
                // An error of the read-ahead is reported when the data is needed.
                absent.extend(self.window(start, end, window_bytes, loaded).unwrap_or_default());
            }
            absent.sort_unstable_by_key(|extent| extent.unit);
            let near = |a: &Extent, b: &Extent| b.unit <= a.unit + a.units + GAP_UNITS;
            for run in absent.chunk_by(near) {
                let values = self.core.pager.read_values(run, purpose);
                if values.is_err() && window_bytes > 0 {
                    // Perhaps the error concerns the read-ahead only.
                    window_bytes = 0;
                    continue 'again;
                }
                let pieces = |values: Vec<Bytes>| {
                    run.iter()
                        .zip(values)
                        .map(|(extent, bytes)| (extent.unit, Piece::Value(Value::new(bytes, extent))))
                        .collect()
                };
                self.core.admit(epoch, values.map(pieces), loaded)?;
            }
        }
    }

    /// Reads what a scan up to `end` missed at `key` in `epoch`; if that is a leaf, up to `leaves` leaves.
    fn load_for_scan(
        &self,
        epoch: u64,
        miss: Miss,
        (key, end): (&[u8], Option<&[u8]>),
        (leaves, purpose): (usize, Purpose),
        loaded: &mut LoadedPieces,
    ) -> Result<()> {
        let read = match miss {
            Miss::Page(first) if leaves > 1 => {
                let leaves = self.core.tree.read().leaves_in_a_row(
                    &self.core.pager,
                    loaded,
                    (key, end),
                    first,
                    leaves,
                );
                let pages = self.core.pager.read_pages(&leaves, purpose);
                // If another leaf cannot be read, that is reported when it is needed.
                pages.or_else(|_| self.core.pager.read(miss, purpose).map(|piece| vec![piece]))
            }
            _ => self.core.pager.read(miss, purpose).map(|piece| vec![piece]),
        };
        self.core.admit(epoch, read, loaded)
    }

    /// Values behind `from` that lie in a window of `window_bytes` and must be read. `start` is the start of the scan.
    fn window(
        &self,
        start: &[u8],
        from: &[u8],
        window_bytes: usize,
        loaded: &mut LoadedPieces,
    ) -> Result<Vec<Extent>> {
        let prefix = &start[..start.len().saturating_sub(SUFFIX_BYTES)];
        let (mut extents, mut bytes, mut from) = (Vec::new(), 0, from.to_vec());
        while !prefix.is_empty() && bytes < window_bytes && from.starts_with(prefix) {
            let (epoch, found) = {
                let tree = self.core.tree.read();
                let left = window_bytes - bytes;
                (tree.epoch, tree.collect(&self.core.pager, loaded, &from, None, ENTRIES, left))
            };
            let chunk = match found {
                Ok(chunk) => chunk,
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Miss(miss)) => {
                    self.load_for_scan(epoch, miss, (&from, None), (1, Purpose::Scan), loaded)?;
                    continue;
                }
            };
            for (key, item) in &chunk.entries {
                if !chunk.at(key).starts_with(prefix) {
                    return Ok(extents);
                }
                // Values in memory are part of the window, too.
                bytes += match item {
                    ScanItem::Absent(extent) => {
                        extents.push(*extent);
                        extent.bytes as usize
                    }
                    ScanItem::Inline(value) => value.len(),
                    ScanItem::Ready(value) => value.len(),
                    ScanItem::Tombstone => 0,
                };
            }
            match chunk.next {
                Some(next) => from = next,
                None => break,
            }
        }
        Ok(extents)
    }
}
