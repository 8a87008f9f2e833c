//! Changes of the tree: a batch is planned, then applied.
//!
//! 1. [`Tree::plan`] walks to the leaf of every operation, pins the pages on the path, and adds up the space that the batch may need.
//! 2. [`Tree::apply`] changes pages. It meets only dirty, pinned and new pages, and its space has been made, so it cannot fail.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use bytes::Bytes;

use super::{Pins, Stop, Tree};
use crate::engine::batch::owned;
use crate::engine::btree::allocation_unit::{PageMap, PageNumber, PageSet, UnitNumber, Units};
use crate::engine::btree::freemap::SpaceNeeds;
use crate::engine::btree::page::{
    CellValue, Extent, HEADER_BYTES, Page, cell_bytes_max, inner_cell, is_inline, key_bytes_max, leaf_cell,
    make_clean,
};
use crate::engine::btree::source::{LoadedPieces, PageSource};
use crate::engine::btree::value::Value;
use crate::engine::{Batch, Error, Operation, PageCause};

/// What the deletes of a batch do.
#[derive(Clone, Copy)]
pub enum Deletes<'a> {
    /// They remove entries.
    Remove,
    /// They leave a tombstone in the place of every entry for whose key this says so, since it may lie below the tree; the others they remove.
    Bury(&'a dyn Fn(&[u8]) -> bool),
}

/// An entry to be put.
#[derive(Clone, Copy)]
enum NewEntry<'a> {
    Value(&'a Bytes),
    /// A copy of what lies below the tree.
    Clean(&'a Bytes),
    Tombstone,
}

/// Tombstones that a batch leaves.
#[derive(Default)]
struct Tombstones {
    count: u64,
    /// Bytes of their cells.
    cell_bytes: usize,
    /// The leaves that they lie in.
    leaves: PageSet,
}

impl Tombstones {
    /// Upper bound of the leaves that they split. Each part of a split page is filled to a quarter at least, so another quarter of new cells
    /// must come before it is split again.
    fn splits(&self, page_bytes: usize) -> u64 {
        let room = page_bytes - HEADER_BYTES;
        self.count.min(self.leaves.len() as u64 + (4 * self.cell_bytes / room) as u64 + 2)
    }
}

impl Tree {
    /// What deletes do where nobody knows what lies below: they leave a tombstone for every key, if anything may lie there at all.
    pub fn deletes(&self) -> Deletes<'static> {
        if self.is_upper { Deletes::Bury(&|_| true) } else { Deletes::Remove }
    }

    /// Pins the paths of a batch and returns the space that it needs; changes nothing.
    pub fn plan(
        &self,
        source: &impl PageSource,
        loaded: &LoadedPieces,
        batch: &Batch,
        deletes: Deletes<'_>,
        pins: &mut Pins,
    ) -> Result<SpaceNeeds, Stop> {
        let page_units = self.page_units();
        let mut needs = SpaceNeeds { units: Units::ZERO, piece_units: page_units, pages: 0 };
        let mut tombstones = Tombstones::default();
        for operation in batch.operations() {
            let key = operation.key();
            if key.len() > key_bytes_max(self.page_bytes) {
                let max = key_bytes_max(self.page_bytes);
                let sentence = format!("a key of {} bytes; this page size takes {max}", key.len());
                return Err(Stop::Failed(Error::Invalid(sentence)));
            }
            let buries = matches!(deletes, Deletes::Bury(may_lie_below) if may_lie_below(key));
            let mut pin = |number, page: &Arc<Page>| {
                if page.is_leaf() && operation.value().is_none() && buries {
                    tombstones.leaves.insert(number);
                }
                if !self.dirty.contains_key(&number) {
                    pins.entry(number).or_insert_with(|| page.clone());
                }
            };
            self.leaf(source, loaded, key, &mut pin)?;
            if let Some(value) = operation.value() {
                if !is_inline(self.page_bytes, key, value) {
                    if u32::try_from(value.len()).is_err() {
                        return Err(Stop::Failed(Error::Invalid("a value of 4 GiB or more".to_string())));
                    }
                    let units = Units::of_bytes(value.len() as u64);
                    needs.units += units;
                    needs.piece_units = needs.piece_units.max(units);
                }
                // A split on every level, and a new root.
                needs.units += page_units * (self.height + 2);
            } else {
                self.pin_neighbours(source, loaded, key, pins)?;
                if buries {
                    tombstones.count += 1;
                    tombstones.cell_bytes += leaf_cell(key, CellValue::Tombstone).len() + 2;
                }
            }
        }
        needs.units += page_units * (tombstones.splits(self.page_bytes) * (self.height + 2));
        self.need_copies(pins, &mut needs);
        Ok(needs)
    }

    /// Applies a batch. `pins` are those of its plan, and the file has the space that the plan needs.
    pub fn apply(&mut self, batch: &Batch, deletes: Deletes<'_>, mut pins: Pins, source: &impl PageSource) {
        let mut emptied: PageMap<Bytes> = HashMap::default();
        for operation in batch.operations() {
            self.buffer.forget(operation.key());
            match operation {
                Operation::Put { key, value } => self.put(key, NewEntry::Value(value), &mut pins, source),
                Operation::Delete { key } if matches!(deletes, Deletes::Bury(may_lie_below) if may_lie_below(key)) =>
                {
                    self.put(key, NewEntry::Tombstone, &mut pins, source);
                }
                Operation::Delete { key } => {
                    if let Some(leaf) = self.delete(key, &mut pins, source) {
                        emptied.insert(leaf, key.clone());
                    }
                }
            }
        }
        // In the order of keys, so that the same batch always gives the same tree.
        let mut emptied: Vec<(Bytes, PageNumber)> =
            emptied.into_iter().map(|(leaf, key)| (key, leaf)).collect();
        emptied.sort_unstable();
        for (key, leaf) in emptied {
            self.remove_leaf(&key, leaf, &mut pins, source);
        }
        for operation in batch.operations() {
            if let Operation::Delete { key } = operation {
                self.merge_sparse(key, &mut pins, source);
            }
        }
    }

    /// Puts the values of a batch as clean entries, of which what lies below the tree has a copy. None of its keys has an entry.
    pub fn put_clean(&mut self, batch: &Batch, mut pins: Pins, source: &impl PageSource) {
        for operation in batch.operations() {
            if let Operation::Put { key, value } = operation {
                self.put(key, NewEntry::Clean(value), &mut pins, source);
            }
        }
    }

    /// A page on a planned path.
    fn planned<'a>(&'a self, number: PageNumber, pins: &'a Pins) -> &'a Page {
        let page = self.dirty.get(&number).or_else(|| pins.get(&number));
        page.expect("a page on a planned path is dirty or pinned")
    }

    /// A page that can be changed now, since it is dirty or pinned; `None` if it would have to be read.
    pub(super) fn writable<'a>(&'a self, number: PageNumber, pins: &'a Pins) -> Option<&'a Arc<Page>> {
        self.dirty.get(&number).or_else(|| pins.get(&number))
    }

    /// A page on a planned path, to be changed for `cause`; it becomes dirty.
    pub(super) fn page_mut(
        &mut self,
        number: PageNumber,
        cause: PageCause,
        pins: &mut Pins,
        source: &impl PageSource,
    ) -> &mut Page {
        self.touch(number);
        match self.dirty.entry(number) {
            Entry::Occupied(page) => {
                let page = Arc::make_mut(page.into_mut());
                // It was copied because of a page below it, and now changes for a cause of its own.
                if page.cause() == PageCause::Path {
                    page.set_cause(cause);
                }
                page
            }
            Entry::Vacant(place) => {
                source.forget(number.unit());
                let page = pins.remove(&number).expect("a page on a planned path is dirty or pinned");
                let page = Arc::make_mut(place.insert(page));
                page.begin_changes(cause);
                debug_assert!(!self.is_copy_on_write, "invariant 1 of copy-on-write");
                debug_assert!(!number.is_compressed(), "invariant 2 of copy-on-write");
                page
            }
        }
    }

    /// The path to `key`: inner pages with the index of the child, and the leaf.
    fn way(&self, key: &[u8], pins: &Pins) -> (Vec<(PageNumber, usize)>, PageNumber) {
        let mut way = Vec::with_capacity(self.height as usize);
        let mut number = self.root;
        for _ in 1..self.height {
            let page = self.planned(number, pins);
            let index = page.child_index(key);
            way.push((number, index));
            number = page.child(index);
        }
        (way, number)
    }

    fn add_page(&mut self, mut page: Page, cause: PageCause) -> PageNumber {
        page.set_cause(cause);
        let number = PageNumber::at(self.space.take_low(self.page_units()));
        match page.level() {
            0 => self.counts.leaf_pages += 1,
            _ => self.counts.inner_pages += 1,
        }
        self.dirty.insert(number, Arc::new(page));
        self.fresh.insert(number);
        self.touch(number);
        number
    }

    pub(super) fn remove_page(&mut self, number: PageNumber, leaf: bool, source: &impl PageSource) {
        match leaf {
            true => self.counts.leaf_pages -= 1,
            false => self.counts.inner_pages -= 1,
        }
        self.events.merges += 1;
        self.dirty.remove(&number);
        self.imaged.remove(&number);
        source.forget(number.unit());
        self.free_page(number);
    }

    /// Whether the units of `extent` hold something else by now, because the leaf that refers to them is stale. Then they are not freed.
    fn is_taken(&self, extent: &Extent) -> bool {
        match self.changed_value(extent) {
            Some(value) => !value.is_of(extent),
            None => self.is_changed_page_at(extent.unit),
        }
    }

    fn remove_extent(&mut self, extent: Extent, source: &impl PageSource) {
        let units = extent.units;
        self.counts.extent_units = self.counts.extent_units.saturating_sub(units);
        if self.is_taken(&extent) {
            return;
        }
        source.forget(extent.unit);
        if self.values.remove(&extent.unit).is_some() {
            self.value_bytes -= u64::from(extent.bytes);
            self.moved.remove(&extent.unit);
            self.space.give_back(extent.unit, units);
        } else {
            self.space.retire(extent.unit, units);
        }
    }

    /// Makes an extent for `value`. It reuses the units of `old` if no durable state refers to them and the number is the same.
    fn add_extent(&mut self, value: &Bytes, old: Option<Extent>, source: &impl PageSource) -> Extent {
        let units = Units::of_bytes(value.len() as u64);
        let unit = match old {
            Some(old)
                if old.units == units
                    && self.values.get(&old.unit).is_some_and(|value| value.is_of(&old)) =>
            {
                self.value_bytes -= u64::from(old.bytes);
                self.moved.remove(&old.unit);
                old.unit
            }
            _ => {
                if let Some(old) = old {
                    self.remove_extent(old, source);
                }
                self.counts.extent_units += units;
                self.space.take(units)
            }
        };
        let crc = source.checksum(value);
        let extent = Extent { unit, units, bytes: value.len() as u32, crc };
        self.values.insert(unit, Value::new(owned(value), &extent));
        self.value_bytes += value.len() as u64;
        extent
    }

    /// Puts an entry in the place of any other of the key.
    fn put(&mut self, key: &Bytes, entry: NewEntry<'_>, pins: &mut Pins, source: &impl PageSource) {
        if self.height == 0 {
            self.root = self.add_page(Page::new(self.page_bytes, 0, PageNumber::NONE), PageCause::Change);
            self.height = 1;
        }
        let (mut way, mut leaf) = self.way(key, pins);
        let page = self.planned(leaf, pins);
        let found = page.search(key);
        let (mut old, mut old_bytes, free_bytes) = (None, 0, page.free_bytes());
        if let Ok(index) = found {
            old_bytes = page.cell_bytes(index);
            if let CellValue::Extent(extent) = page.cell_value(index) {
                old = Some(extent);
            }
        }
        let stored = match entry {
            NewEntry::Value(value) | NewEntry::Clean(value) if !is_inline(self.page_bytes, key, value) => {
                CellValue::Extent(self.add_extent(value, old.take(), source))
            }
            NewEntry::Value(value) | NewEntry::Clean(value) => CellValue::Inline(value),
            NewEntry::Tombstone => CellValue::Tombstone,
        };
        if let Some(old) = old {
            self.remove_extent(old, source);
        }
        let mut cell = leaf_cell(key, stored);
        if let NewEntry::Clean(_) = entry {
            make_clean(&mut cell);
        }
        self.counts.leaf_bytes += cell.len() as u64 + 2;
        self.counts.leaf_bytes -= old_bytes as u64;
        let splits = cell.len() + 2 > free_bytes + old_bytes;
        let cause = if splits { PageCause::Split } else { PageCause::Change };
        self.own(&mut way, &mut leaf, cause, pins, source);
        let page = self.page_mut(leaf, cause, pins, source);
        if let Ok(index) = found {
            if page.replace(index, &cell) {
                return;
            }
            page.remove(index);
        }
        let (Ok(index) | Err(index)) = found;
        self.insert(way, leaf, index, cell, pins, source);
    }

    /// Inserts a cell into a page, and splits it and the pages above as needed.
    fn insert(
        &mut self,
        mut way: Vec<(PageNumber, usize)>,
        mut number: PageNumber,
        mut index: usize,
        mut cell: Vec<u8>,
        pins: &mut Pins,
        source: &impl PageSource,
    ) {
        debug_assert!(cell.len() + 2 <= cell_bytes_max(self.page_bytes));
        loop {
            let page = self.page_mut(number, PageCause::Split, pins, source);
            if page.insert(index, &cell) {
                return;
            }
            let level = page.level();
            let (separator, right) = page.split(index, &cell);
            self.events.splits += 1;
            let right = self.add_page(right, PageCause::Split);
            cell = inner_cell(&separator, right);
            match way.pop() {
                Some((parent, child)) => (number, index) = (parent, child),
                None => {
                    let mut root = Page::new(self.page_bytes, level + 1, number);
                    root.insert(0, &cell);
                    self.root = self.add_page(root, PageCause::Split);
                    self.height += 1;
                    return;
                }
            }
        }
    }

    /// Removes a key; returns its leaf if that became empty.
    fn delete(&mut self, key: &[u8], pins: &mut Pins, source: &impl PageSource) -> Option<PageNumber> {
        if self.height == 0 {
            return None;
        }
        let (mut way, mut leaf) = self.way(key, pins);
        // The page becomes dirty only if it has the key.
        let index = self.planned(leaf, pins).search(key).ok()?;
        self.own(&mut way, &mut leaf, PageCause::Change, pins, source);
        let page = self.page_mut(leaf, PageCause::Change, pins, source);
        let old = match page.cell_value(index) {
            CellValue::Extent(extent) => Some(extent),
            CellValue::Inline(_) | CellValue::Tombstone => None,
        };
        let removed = page.remove(index);
        let empty = page.count() == 0;
        self.counts.leaf_bytes -= removed as u64;
        if let Some(extent) = old {
            self.remove_extent(extent, source);
        }
        empty.then_some(leaf)
    }

    /// Removes the leaf of `key` from the tree if it is still the empty `leaf`, and every page above that loses its last child.
    fn remove_leaf(&mut self, key: &[u8], leaf: PageNumber, pins: &mut Pins, source: &impl PageSource) {
        let (mut way, found) = self.way(key, pins);
        if found != leaf || self.planned(leaf, pins).count() > 0 {
            return;
        }
        self.remove_page(leaf, true, source);
        loop {
            let Some((parent, index)) = way.pop() else {
                (self.root, self.height) = (PageNumber::NONE, 0);
                return;
            };
            if self.page_mut(parent, PageCause::Merge, pins, source).remove_child(index) {
                break;
            }
            self.remove_page(parent, false, source);
        }
        if way.is_empty() {
            self.lower_root(pins, source);
        }
    }

    /// Replaces a root that has a single child by that child, as long as the root is in memory.
    pub(super) fn lower_root(&mut self, pins: &Pins, source: &impl PageSource) {
        while self.height > 1 {
            let Some(root) = self.dirty.get(&self.root).or_else(|| pins.get(&self.root)) else { return };
            if root.count() > 0 {
                return;
            }
            let (old, child) = (self.root, root.child(0));
            self.remove_page(old, false, source);
            self.root = child;
            self.height -= 1;
        }
    }

    /// Moves the page `from`, which is in memory, to `to`, for `cause`; the caller changes the reference to it.
    pub(super) fn move_page(
        &mut self,
        from: PageNumber,
        to: PageNumber,
        cause: PageCause,
        pins: &mut Pins,
        source: &impl PageSource,
    ) {
        let page = match self.dirty.remove(&from) {
            Some(page) => page,
            None => {
                source.forget(from.unit());
                let mut page = pins.remove(&from).expect("a page on a planned path is dirty or pinned");
                Arc::make_mut(&mut page).begin_changes(cause);
                page
            }
        };
        self.imaged.remove(&from);
        self.dirty.insert(to, page);
        self.fresh.insert(to);
        self.touch(to);
        self.free_page(from);
    }

    /// Frees the units of a page that the tree does not refer to any more.
    fn free_page(&mut self, number: PageNumber) {
        let (unit, units) = (number.unit(), number.units(self.page_units()));
        let saved_units = number.saved_units(self.page_units());
        self.counts.saved_units = self.counts.saved_units.saturating_sub(saved_units);
        match self.fresh.remove(&number) {
            true => self.space.give_back(unit, units),
            false => self.space.retire(unit, units),
        }
    }

    /// Moves `value` of the extent `old` to unit `to`.
    pub(super) fn move_value(
        &mut self,
        value: Bytes,
        old: Extent,
        to: UnitNumber,
        source: &impl PageSource,
    ) -> Extent {
        self.remove_extent(old, source);
        self.counts.extent_units += old.units;
        self.value_bytes += value.len() as u64;
        let extent = Extent { unit: to, ..old };
        self.values.insert(to, Value::new(value, &extent));
        self.moved.insert(to);
        extent
    }
}
