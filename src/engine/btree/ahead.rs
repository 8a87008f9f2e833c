//! Read-ahead: a file that is read in a row comes as many small scans, each beginning where the one before ended.
//!
//! 1. Each scan of a bounded range is looked up among the last few: one that begins within or right behind the range of an earlier
//!    one, but not at its start, continues it. Its *window* then doubles, from [`FIRST_BYTES`] to [`WINDOW_BYTES_MAX`].
//! 2. A scan that continues another and must read the disk at all also reads the values of its window, with the same requests as
//!    far as they lie together. They go into the pool, where the next scans find them.
//! 3. A window ends where keys differ in more than their last four bytes from the start of the scan: at the end of a file, so
//!    to speak, though nobody here knows of files.
//! 4. Within one scan, each further leaf that must be read brings twice as many of those behind it as the one before, as long as
//!    they lie one behind the other in the file.

use parking_lot::Mutex;

use super::page::Extent;
use super::pager::Loaded;
use super::search::Item;
use super::tree::{Miss, Stop, Tree};
use super::{BtreeEngine, SCAN_ENTRIES};
use crate::disk::Purpose;
use crate::engine::{KeyRange, Result};

/// The first window of a scan that continues another.
const FIRST_BYTES: usize = 256 << 10;
/// The largest window.
const WINDOW_BYTES_MAX: usize = 1 << 20;
/// Share of the pool that a window takes at most: one in so many.
const POOL_SHARE: u64 = 16;
/// Scans that are remembered.
const STREAMS: usize = 16;
/// Bytes at the end of a key in which it may differ from the start of the scan.
const SUFFIX_BYTES: usize = 4;
/// Leaves that one request reads at most.
const LEAVES_MAX: usize = 32;

struct Stream {
    start: Vec<u8>,
    end: Vec<u8>,
    window_bytes: usize,
}

/// The last scans, the newest behind.
pub struct ReadAhead {
    streams: Mutex<Vec<Stream>>,
    window_bytes_max: usize,
    leaves_max: usize,
}

impl ReadAhead {
    /// For a pool of `pool_bytes` with pages of `page_bytes`.
    pub fn new(pool_bytes: u64, page_bytes: usize) -> ReadAhead {
        let window_bytes_max = (pool_bytes / POOL_SHARE).min(WINDOW_BYTES_MAX as u64) as usize;
        let leaves_max = (window_bytes_max / page_bytes).clamp(1, LEAVES_MAX);
        ReadAhead { streams: Mutex::default(), window_bytes_max, leaves_max }
    }

    /// Leaves that the next request of a scan reads at most, if the last one did `leaves`.
    pub fn more_leaves(&self, leaves: usize) -> usize {
        (leaves * 2).min(self.leaves_max)
    }

    /// Notes a scan of `range`; returns its window in bytes, 0 if it continues none.
    pub fn note(&self, range: KeyRange<'_>) -> usize {
        let Some(end) = range.end else { return 0 };
        let mut streams = self.streams.lock();
        let continued = streams.iter().rposition(|stream| {
            stream.start.as_slice() <= range.start && range.start <= stream.end.as_slice()
        });
        let mut stream = match continued {
            Some(index) => streams.remove(index),
            None => Stream { start: range.start.to_vec(), end: Vec::new(), window_bytes: 0 },
        };
        let moves_on = stream.start.as_slice() < range.start;
        if moves_on {
            stream.window_bytes = (stream.window_bytes * 2).max(FIRST_BYTES).min(self.window_bytes_max);
            stream.start = range.start.to_vec();
        }
        stream.end = end.to_vec();
        let window_bytes = stream.window_bytes;
        if streams.len() == STREAMS {
            streams.remove(0);
        }
        streams.push(stream);
        if moves_on { window_bytes } else { 0 }
    }
}

impl Tree {
    /// Leaves from `unit` on, which lies on the way to `key`, that must be read before `end`, too, and lie one behind the
    /// other: at most `count_max`, `unit` among them.
    fn leaves_in_a_row(
        &self,
        engine: &BtreeEngine,
        loaded: &Loaded,
        (key, end): (&[u8], Option<&[u8]>),
        unit: u64,
        count_max: usize,
    ) -> usize {
        let mut parent = self.root;
        for level in (1..self.height).rev() {
            let Ok(page) = self.page(&engine.pager, loaded, parent, level) else { return 1 };
            let index = page.child_index(key);
            if level > 1 {
                parent = page.child(index);
                continue;
            }
            let is_next = |nth: &usize| {
                let child = unit + *nth as u64 * engine.pager.page_units();
                index + nth <= page.count()
                    && end.is_none_or(|end| page.key(index + nth - 1) < end)
                    && page.child(index + nth) == child
                    && self.changed_page(child).is_none()
                    && !engine.pager.has(child)
            };
            return if page.child(index) == unit {
                1 + (1..count_max).take_while(is_next).count()
            } else {
                1
            };
        }
        1
    }
}

impl BtreeEngine {
    /// Reads what a scan that ends before `end` missed at `key` in `epoch`, and up to `leaves` leaves if it is one.
    pub(super) fn load_for_scan(
        &self,
        epoch: u64,
        miss: Miss,
        (key, end): (&[u8], Option<&[u8]>),
        leaves: usize,
        loaded: &mut Loaded,
    ) -> Result<()> {
        let read = match miss {
            Miss::Page(unit) if leaves > 1 => {
                let count = self.tree.read().leaves_in_a_row(self, loaded, (key, end), unit, leaves);
                let pages = self.pager.read_pages(unit, count, Purpose::Scan);
                // If one of the others cannot be read, that is for whoever comes to it.
                pages.or_else(|_| self.pager.read(miss, Purpose::Scan).map(|piece| vec![piece]))
            }
            _ => self.pager.read(miss, Purpose::Scan).map(|piece| vec![piece]),
        };
        self.admit(epoch, read, loaded)
    }

    /// Values behind `from` that a window of `window_bytes` holds and that must be read. `start` is that of the scan.
    pub(super) fn window(
        &self,
        start: &[u8],
        from: &[u8],
        window_bytes: usize,
        loaded: &mut Loaded,
    ) -> Result<Vec<Extent>> {
        let prefix = &start[..start.len().saturating_sub(SUFFIX_BYTES)];
        let (mut extents, mut bytes, mut from) = (Vec::new(), 0, from.to_vec());
        while !prefix.is_empty() && bytes < window_bytes && from.starts_with(prefix) {
            let (epoch, found) = {
                let tree = self.tree.read();
                let left = window_bytes - bytes;
                (tree.epoch, tree.collect(&self.pager, loaded, &from, None, SCAN_ENTRIES, left))
            };
            let chunk = match found {
                Ok(chunk) => chunk,
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Miss(miss)) => {
                    self.load_for_scan(epoch, miss, (&from, None), 1, loaded)?;
                    continue;
                }
            };
            for (key, item) in &chunk.entries {
                if !chunk.at(key).starts_with(prefix) {
                    return Ok(extents);
                }
                // What is in memory is part of the window, too.
                bytes += match item {
                    Item::Absent(extent) => {
                        extents.push(*extent);
                        extent.bytes as usize
                    }
                    Item::Inline(value) => value.len(),
                    Item::Ready(value) => value.len(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_grow_while_scans_go_on_and_others_have_none() {
        let ahead = ReadAhead::new(1 << 30, 8 << 10);
        let note = |from: u32, to: u32| {
            let (start, end) = (from.to_be_bytes(), to.to_be_bytes());
            ahead.note(KeyRange { start: &start, end: Some(&end) })
        };
        assert_eq!(note(0, 32), 0);
        assert_eq!(note(0, 32), 0, "the same again");
        assert_eq!(note(32, 64), FIRST_BYTES);
        assert_eq!(note(1000, 1032), 0, "another place");
        assert_eq!(note(60, 96), 2 * FIRST_BYTES, "the block between two reads is read twice");
        assert_eq!(note(96, 128), WINDOW_BYTES_MAX);
        assert_eq!(note(128, 160), WINDOW_BYTES_MAX);
        assert_eq!(note(1032, 1064), FIRST_BYTES);
        assert_eq!(note(200, 232), 0, "a gap");
        assert_eq!(ahead.note(KeyRange { start: &[0, 0, 0, 232], end: None }), 0);
        for other in 0..100 {
            note(100_000 + other * 50, 100_010 + other * 50);
        }
        assert_eq!(ahead.streams.lock().len(), STREAMS);
        assert_eq!(ReadAhead::new(1 << 20, 8 << 10).window_bytes_max, 64 << 10);
    }
}
