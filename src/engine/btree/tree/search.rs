//! Searches of the tree in memory: one key, and the next part of a scan. Puts in the change buffer are newer than the pages.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use super::{FrozenTree, Stop, Tree};
use crate::engine::Error;
use crate::engine::btree::allocation_unit::{FILE, PageNumber, UnitNumber};
use crate::engine::btree::page::{CellValue, Extent, Page};
use crate::engine::btree::set_aside::UnreadableRange;
use crate::engine::btree::source::{LoadedPieces, Miss, PageSource, Piece};
use crate::engine::btree::value::Value;

/// The value of an entry that a scan has collected.
pub enum ScanItem {
    /// The value lies in the chunk's bytes.
    Inline(Range<usize>),
    /// The value is in memory, shared with the pool.
    Ready(Bytes),
    /// The value must be read from here.
    Absent(Extent),
    /// The key is deleted.
    Tombstone,
}

/// A part of a scan: entries in the order of keys.
#[derive(Default)]
pub struct ScanChunk {
    /// Keys and inline values of all entries: one allocation, since one per entry took a fifth of a scan's time.
    bytes: Vec<u8>,
    /// The place of each key in `bytes`, and its value.
    pub entries: Vec<(Range<usize>, ScanItem)>,
    /// Indexes of those entries that are clean, ascending.
    clean: Vec<usize>,
    /// The key at which the scan continues; `None` at its end.
    pub next: Option<Vec<u8>>,
}

impl ScanChunk {
    /// The bytes at `range`.
    pub fn at(&self, range: &Range<usize>) -> &[u8] {
        &self.bytes[range.clone()]
    }

    /// Whether an entry is clean: what lies below the tree has a copy.
    pub fn is_clean(&self, index: usize) -> bool {
        self.clean.binary_search(&index).is_ok()
    }

    fn keep(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    /// The value of an item; `None` if it must be read, or is a tombstone.
    pub fn value<'a>(&'a self, item: &'a ScanItem) -> Option<&'a [u8]> {
        match item {
            ScanItem::Inline(range) => Some(self.at(range)),
            ScanItem::Ready(value) => Some(value),
            ScanItem::Absent(_) | ScanItem::Tombstone => None,
        }
    }
}

/// A leaf, and the end of its range of keys; `None` for the last leaf.
type Leaf = (Arc<Page>, Option<Vec<u8>>);

fn damaged(unit: UnitNumber, what: &str) -> Stop {
    Stop::Failed(Error::corrupt(FILE, unit.offset(), what))
}

/// The stop of a search for something that is neither in memory nor in `loaded`.
fn missing(epoch: u64, loaded: &LoadedPieces, miss: Miss) -> Stop {
    match loaded.failure(epoch, miss.unit()) {
        Some(error) => Stop::Failed(error.clone()),
        None => Stop::Miss(miss),
    }
}

impl Tree {
    /// The page `number`, which must be of `level`.
    pub fn page(
        &self,
        source: &impl PageSource,
        loaded: &LoadedPieces,
        number: PageNumber,
        level: u64,
    ) -> Result<Arc<Page>, Stop> {
        let page = match self.changed_page(number) {
            Some(page) => page.clone(),
            None => {
                match loaded.get(self.epoch, number.unit()).cloned().or_else(|| source.pooled(number.unit()))
                {
                    Some(Piece::Page(page)) => page,
                    Some(Piece::Value(_)) => {
                        return Err(damaged(number.unit(), "a value where a page is referred to"));
                    }
                    None => return Err(missing(self.epoch, loaded, Miss::Page(number))),
                }
            }
        };
        if u64::from(page.level()) != level {
            return Err(damaged(number.unit(), "a page of another level than its parent says"));
        }
        Ok(page)
    }

    /// The dirty or frozen form of a page.
    pub fn changed_page(&self, number: PageNumber) -> Option<&Arc<Page>> {
        self.dirty.get(&number).or_else(|| self.frozen.as_ref()?.pages.get(&number))
    }

    /// Whether a dirty or frozen page begins at `unit`.
    pub fn is_changed_page_at(&self, unit: UnitNumber) -> bool {
        let is_compressed = |frozen: &Arc<FrozenTree>| frozen.compressed.contains_key(&unit);
        self.changed_page(PageNumber::at(unit)).is_some() || self.frozen.as_ref().is_some_and(is_compressed)
    }

    /// The dirty or frozen value in the units of `extent`, which may be that of another key: [`Value::is_of`] says.
    pub fn changed_value(&self, extent: &Extent) -> Option<&Value> {
        self.values.get(&extent.unit).or_else(|| self.frozen.as_ref()?.values.get(&extent.unit))
    }

    /// The value that `extent` refers to.
    pub fn value(
        &self,
        source: &impl PageSource,
        loaded: &LoadedPieces,
        extent: Extent,
    ) -> Result<Bytes, Stop> {
        if !extent.is_possible() {
            return Err(damaged(
                UnitNumber::NONE,
                "an extent whose length does not fit its units, or nowhere",
            ));
        }
        if let Some(value) = self.changed_value(&extent) {
            if !value.is_of(&extent) {
                return Err(damaged(extent.unit, "another value than the leaf refers to"));
            }
            return Ok(value.bytes.clone());
        }
        match loaded.get(self.epoch, extent.unit).cloned().or_else(|| source.pooled(extent.unit)) {
            Some(Piece::Value(value)) if value.is_of(&extent) => Ok(value.bytes),
            Some(Piece::Page(_)) => Err(damaged(extent.unit, "a page where a value is referred to")),
            // The value of another key: reading this one reports what is wrong.
            Some(Piece::Value(_)) | None => Err(missing(self.epoch, loaded, Miss::Value(extent))),
        }
    }

    /// The leaf for `key` and the end of its range; `None` for an empty tree. `visit` is called with every page on the path, the leaf
    /// included.
    pub fn leaf(
        &self,
        source: &impl PageSource,
        loaded: &LoadedPieces,
        key: &[u8],
        mut visit: impl FnMut(PageNumber, &Arc<Page>),
    ) -> Result<Option<Leaf>, Stop> {
        let (mut number, mut end) = (self.root, None);
        for level in (0..self.height).rev() {
            let page = self.page(source, loaded, number, level)?;
            visit(number, &page);
            if level == 0 {
                return Ok(Some((page, end)));
            }
            let index = page.child_index(key);
            if index < page.count() {
                let separator = page.key(index);
                // Ranges only become smaller on the way down, so a scan makes progress and ends.
                if end.as_deref().is_some_and(|end| separator >= end) {
                    return Err(damaged(
                        number.unit(),
                        "a key outside the range that the parent gives the page",
                    ));
                }
                end = Some(separator.to_vec());
            }
            number = page.child(index);
        }
        Ok(None)
    }

    /// The entry of `key`: its value, or `Some(None)` if it is deleted.
    pub fn find(
        &self,
        source: &impl PageSource,
        loaded: &LoadedPieces,
        key: &[u8],
    ) -> Result<Option<Option<Bytes>>, Stop> {
        if let Some(change) = self.buffer.change(key) {
            return Ok(Some(change.map(Bytes::copy_from_slice)));
        }
        let Some((leaf, _)) = self.leaf(source, loaded, key, |_, _| {})? else { return Ok(None) };
        match leaf.search(key).map(|index| leaf.cell_value(index)) {
            Err(_) => Ok(None),
            Ok(CellValue::Tombstone) => Ok(Some(None)),
            Ok(CellValue::Inline(value)) => Ok(Some(Some(Bytes::copy_from_slice(value)))),
            Ok(CellValue::Extent(extent)) => {
                self.value(source, loaded, extent).map(|value| Some(Some(value)))
            }
        }
    }

    /// Collects the entries of one leaf from `start` up to `end`: at most `count_max`, and no more once the values that must be read reach
    /// `absent_bytes_max`.
    pub fn collect(
        &self,
        source: &impl PageSource,
        loaded: &LoadedPieces,
        start: &[u8],
        end: Option<&[u8]>,
        count_max: usize,
        absent_bytes_max: usize,
    ) -> Result<ScanChunk, Stop> {
        let mut chunk = ScanChunk::default();
        let leaf = self.leaf(source, loaded, start, |_, _| {})?;
        let (leaf, next) = leaf.map_or((None, None), |(leaf, next)| (Some(leaf), next));
        // The scan or the leaf's range, whichever ends first.
        let limit = match (end, next.as_deref()) {
            (Some(end), Some(next)) => Some(end.min(next)),
            (end, next) => end.or(next),
        };
        let is_inside = |key: &[u8]| limit.is_none_or(|limit| key < limit);
        let mut waiting = self.buffer.from(start).take_while(|(key, _)| is_inside(key)).peekable();
        let (first, count) = leaf.as_ref().map_or((0, 0), |leaf| {
            let (Ok(first) | Err(first)) = leaf.search(start);
            (first, leaf.count())
        });
        chunk.entries.reserve((count - first).min(count_max));
        let mut stored = (first..count)
            .filter_map(|index| {
                leaf.as_ref().map(|leaf| (leaf.key(index), (leaf.cell_value(index), leaf.is_clean(index))))
            })
            .take_while(|(key, _)| is_inside(key))
            .peekable();
        let mut absent_bytes = 0;
        loop {
            // Of two entries with the same key the buffered one is newer.
            let newer = match (waiting.peek(), stored.peek()) {
                (None, None) => break,
                (Some((newer, _)), Some((key, _))) => newer <= key,
                (newer, _) => newer.is_some(),
            };
            let key =
                if newer { waiting.peek().map(|(key, _)| *key) } else { stored.peek().map(|(key, _)| *key) };
            let Some(key) = key else { break };
            if chunk.entries.len() >= count_max || absent_bytes >= absent_bytes_max {
                chunk.next = Some(key.to_vec());
                return Ok(chunk);
            }
            if newer {
                stored.next_if(|(older, _)| *older == key);
                let Some((key, change)) = waiting.next() else { break };
                let place = chunk.keep(key);
                let item = change.map_or(ScanItem::Tombstone, |value| ScanItem::Inline(chunk.keep(value)));
                chunk.entries.push((place, item));
                continue;
            }
            let place = chunk.keep(key);
            let Some((_, (value, is_clean))) = stored.next() else { break };
            if is_clean {
                chunk.clean.push(chunk.entries.len());
            }
            let item = {
                match value {
                    CellValue::Tombstone => ScanItem::Tombstone,
                    CellValue::Inline(value) => ScanItem::Inline(chunk.keep(value)),
                    CellValue::Extent(extent) => match self.value(source, loaded, extent) {
                        Ok(value) => ScanItem::Ready(value),
                        Err(Stop::Miss(_)) => {
                            absent_bytes += extent.bytes as usize;
                            ScanItem::Absent(extent)
                        }
                        Err(stop) => return Err(stop),
                    },
                }
            };
            chunk.entries.push((place, item));
        }
        chunk.next = next.filter(|next| end.is_none_or(|end| next.as_slice() < end));
        Ok(chunk)
    }

    /// Whether `key` has an entry, a tombstone too.
    pub fn has_entry(
        &self,
        source: &impl PageSource,
        loaded: &LoadedPieces,
        key: &[u8],
    ) -> Result<bool, Stop> {
        if self.buffer.change(key).is_some() {
            return Ok(true);
        }
        let leaf = self.leaf(source, loaded, key, |_, _| {})?;
        Ok(leaf.is_some_and(|(leaf, _)| leaf.search(key).is_ok()))
    }

    /// The range of keys around `key` whose page cannot be read, as far as `loaded` knows; `None` if all pages on the path can be read, or are
    /// not in memory.
    pub fn unreadable_range(
        &self,
        source: &impl PageSource,
        loaded: &LoadedPieces,
        key: &[u8],
    ) -> Option<UnreadableRange> {
        let (mut number, mut start, mut end) = (self.root, Vec::new(), None);
        for level in (0..self.height).rev() {
            let page = match self.page(source, loaded, number, level) {
                Ok(page) => page,
                Err(Stop::Failed(error)) => return Some(UnreadableRange { start, end, page: number, error }),
                Err(Stop::Miss(_)) => return None,
            };
            if level > 0 {
                let index = page.child_index(key);
                if index > 0 {
                    start = page.key(index - 1).to_vec();
                }
                if index < page.count() {
                    end = Some(page.key(index).to_vec());
                }
                number = page.child(index);
            }
        }
        None
    }

    /// Leaves from `first` on, the leaf of `key`, that are adjacent in the file, lie before `end` and must be read: at most `count_max`, `first`
    /// included.
    pub fn leaves_in_a_row(
        &self,
        source: &impl PageSource,
        loaded: &LoadedPieces,
        (key, end): (&[u8], Option<&[u8]>),
        first: PageNumber,
        count_max: usize,
    ) -> Vec<PageNumber> {
        let (mut parent, mut row) = (self.root, vec![first]);
        for level in (1..self.height).rev() {
            let Ok(page) = self.page(source, loaded, parent, level) else { return row };
            let index = page.child_index(key);
            if level > 1 {
                parent = page.child(index);
                continue;
            }
            if page.child(index) != first {
                return row;
            }
            let mut last = first;
            for index in index + 1..=page.count().min(index + count_max - 1) {
                let child = page.child(index);
                let is_next = child.unit() == last.unit() + last.units(self.page_units())
                    && end.is_none_or(|end| page.key(index - 1) < end)
                    && self.changed_page(child).is_none()
                    && !source.has(child.unit());
                if !is_next {
                    return row;
                }
                row.push(child);
                last = child;
            }
            return row;
        }
        row
    }
}
