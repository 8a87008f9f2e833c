//! The tree of which only sizes are known. A leaf is a range of ranks; which keys of it are there, and how long their values are, stands in one
//! array for all leaves. Of a page only how full it is and which of its units have changed are kept, so a page of any size costs some dozens
//! of bytes, and a key four.
//!
//! Where a cell lies in its page is not known. New ones go below the lowest, as in a real page; one that is overwritten is taken to lie
//! anywhere among the others, the same place for the same key.

use std::sync::Arc;

use crate::advise::keys::Keys;
use crate::advise::rank_set::RankSet;
use crate::engine::btree::sizes::{
    ASCENDING, EXTENT_BYTES, HEADER_BYTES, INNER_CELL_BYTES, LEAF_CELL_BYTES, UNIT_BYTES, is_inline_size,
};

/// Number of a page in memory.
pub type PageId = u32;

/// A cell's slot.
const SLOT_BYTES: u32 = 2;
/// One that stands for no rank.
const NO_RANK: u32 = u32::MAX;

/// A page.
#[derive(Clone, Debug)]
pub struct Page {
    /// Bytes of cells and their slots.
    used_bytes: u32,
    garbage_bytes: u32,
    count: u32,
    /// Of an inner page: children, and for each but the first the rank and the length of the key before it.
    children: Vec<PageId>,
    separators: Vec<(u32, u16)>,
    /// The key that was inserted last, and inserts in ascending order.
    last: u32,
    run: u16,
    changed: u16,
    is_leaf: bool,
    is_dirty: bool,
    is_fresh: bool,
    is_free: bool,
}

/// The tree.
pub struct Tree {
    keys: Arc<Keys>,
    page_bytes: u32,
    is_copy_on_write: bool,
    pages: Vec<Page>,
    free: Vec<PageId>,
    root: Option<PageId>,
    height: u32,
    leaf_pages: u64,
    /// One more than the bytes of the value of each key; 0 for one that is not there.
    values: Vec<u32>,
    /// Keys that are there.
    present: RankSet,
    dirty: Vec<PageId>,
    dirty_pages: u64,
    fresh_pages: u64,
    /// Extents that no durable state refers to, and their bytes and units.
    fresh_extents: std::collections::HashSet<u32, foldhash::fast::FixedState>,
    value_bytes: u64,
    fresh_extent_units: u64,
    /// Units of pages and extents.
    units: u64,
    /// Units that are free once the next checkpoint is durable.
    retired_units: u64,
    map_events: u64,
}

impl Tree {
    /// An empty tree.
    pub fn new(keys: &Arc<Keys>, page_bytes: u64, is_copy_on_write: bool) -> Tree {
        Tree {
            keys: keys.clone(),
            page_bytes: page_bytes as u32,
            is_copy_on_write,
            pages: Vec::new(),
            free: Vec::new(),
            root: None,
            height: 0,
            leaf_pages: 0,
            values: vec![0; keys.count() as usize],
            present: RankSet::new(keys.count()),
            dirty: Vec::new(),
            dirty_pages: 0,
            fresh_pages: 0,
            fresh_extents: Default::default(),
            value_bytes: 0,
            fresh_extent_units: 0,
            units: 0,
            retired_units: 0,
            map_events: 0,
        }
    }

    fn room(&self) -> u32 {
        self.page_bytes - HEADER_BYTES as u32
    }

    /// Leaves.
    pub fn leaf_pages(&self) -> u64 {
        self.leaf_pages
    }

    /// Dirty pages, and those among them that overwrite others in place.
    pub fn dirty_pages(&self) -> (u64, u64) {
        (self.dirty_pages, self.dirty_pages - self.fresh_pages)
    }

    /// Bytes of values that no checkpoint has written.
    pub fn value_bytes(&self) -> u64 {
        self.value_bytes
    }

    /// Bytes of dirty pages and values.
    pub fn active_bytes(&self) -> u64 {
        self.dirty_pages * u64::from(self.page_bytes) + self.value_bytes
    }

    /// Units of pages and extents, those that the next checkpoint frees among them.
    pub fn units(&self) -> u64 {
        self.units + self.retired_units
    }

    /// Whether a key is there, and the units of its value outside of its leaf.
    pub fn extent_units(&self, rank: u32) -> Option<u64> {
        let value_bytes = u64::from(self.values[rank as usize].checked_sub(1)?);
        Some(if self.is_inline(rank, value_bytes) { 0 } else { value_bytes.div_ceil(UNIT_BYTES) })
    }

    /// The keys that are there in `from..end`.
    pub fn present(&self, from: u32, end: u32) -> impl Iterator<Item = u32> + use<'_> {
        self.present.range(from, end)
    }

    /// Whether the value of a key lies in an extent that no checkpoint has written.
    pub fn is_fresh_extent(&self, rank: u32) -> bool {
        self.fresh_extents.contains(&rank)
    }

    /// Whether a value lies beside its key.
    pub fn is_inline(&self, rank: u32, value_bytes: u64) -> bool {
        is_inline_size(self.page_bytes as usize, self.keys.bytes(rank) as usize, value_bytes as usize)
    }

    fn cell_bytes(&self, rank: u32, value_bytes: u64) -> u32 {
        let inside = if self.is_inline(rank, value_bytes) { value_bytes } else { EXTENT_BYTES as u64 };
        LEAF_CELL_BYTES as u32 + self.keys.bytes(rank) as u32 + inside as u32
    }

    /// The pages from the root to the leaf of a key, and the place of each in the one above.
    pub fn way(&self, rank: u32, way: &mut Vec<(PageId, usize)>) {
        way.clear();
        let Some(mut page) = self.root else { return };
        way.push((page, 0));
        while !self.pages[page as usize].is_leaf {
            let inner = &self.pages[page as usize];
            let index = inner.separators.partition_point(|(first, _)| *first <= rank);
            page = inner.children[index];
            way.push((page, index));
        }
    }

    /// Whether a page is dirty.
    pub fn is_dirty(&self, page: PageId) -> bool {
        self.pages[page as usize].is_dirty
    }

    /// The lowest rank behind the leaf to which `way` leads.
    pub fn leaf_end(&self, way: &[(PageId, usize)]) -> u32 {
        for pair in way.windows(2).rev() {
            let (parent, index) = (&self.pages[pair[0].0 as usize], pair[1].1);
            if let Some((first, _)) = parent.separators.get(index) {
                return *first;
            }
        }
        self.keys.count()
    }

    /// The lowest rank of the leaf to which `way` leads.
    fn leaf_start(&self, way: &[(PageId, usize)]) -> u32 {
        for pair in way.windows(2).rev() {
            let (parent, index) = (&self.pages[pair[0].0 as usize], pair[1].1);
            if let Some((first, _)) = index.checked_sub(1).and_then(|index| parent.separators.get(index)) {
                return *first;
            }
        }
        0
    }

    fn add_page(&mut self, mut page: Page) -> PageId {
        (page.is_dirty, page.is_fresh) = (true, true);
        self.leaf_pages += u64::from(page.is_leaf);
        self.dirty_pages += 1;
        self.fresh_pages += 1;
        self.take_units(self.page_units());
        let id = match self.free.pop() {
            Some(id) => {
                self.pages[id as usize] = page;
                id
            }
            None => {
                self.pages.push(page);
                self.pages.len() as PageId - 1
            }
        };
        self.dirty.push(id);
        id
    }

    fn page_units(&self) -> u64 {
        u64::from(self.page_bytes) / UNIT_BYTES
    }

    fn take_units(&mut self, units: u64) {
        self.units += units;
        self.map_events += 1;
    }

    /// Frees units; those that a durable state refers to with the next checkpoint.
    fn free_units(&mut self, units: u64, is_fresh: bool) {
        self.units -= units;
        self.retired_units += if is_fresh { 0 } else { units };
        self.map_events += 1;
    }

    fn remove_page(&mut self, id: PageId) {
        let page = &mut self.pages[id as usize];
        let (is_leaf, is_dirty, is_fresh) = (page.is_leaf, page.is_dirty, page.is_fresh);
        (page.is_free, page.is_dirty) = (true, false);
        (page.children, page.separators) = (Vec::new(), Vec::new());
        self.leaf_pages -= u64::from(is_leaf);
        self.dirty_pages -= u64::from(is_dirty);
        self.fresh_pages -= u64::from(is_dirty && is_fresh);
        self.free_units(self.page_units(), is_fresh);
        // A dirty one is still in the list, and is passed over there before its number is used again.
        if !is_dirty {
            self.free.push(id);
        }
    }

    /// Makes a page dirty; where pages are copied, those above it move with it.
    fn touch(&mut self, way: &[(PageId, usize)]) {
        let depth = if self.is_copy_on_write { 0 } else { way.len() - 1 };
        for (id, _) in &way[depth..] {
            let page = &mut self.pages[*id as usize];
            let moves = self.is_copy_on_write && !page.is_fresh;
            if !page.is_dirty {
                (page.is_dirty, page.changed, page.is_fresh) = (true, 0, self.is_copy_on_write);
                self.dirty_pages += 1;
                self.fresh_pages += u64::from(self.is_copy_on_write);
                self.dirty.push(*id);
            }
            if moves {
                let units = self.page_units();
                self.take_units(units);
                self.free_units(units, false);
            }
        }
    }

    fn mark(&mut self, id: PageId, from: u32, to: u32) {
        let unit = UNIT_BYTES as u32;
        let last = to.saturating_sub(1).max(from) / unit;
        let page = &mut self.pages[id as usize];
        for index in from / unit..=last.min(15) {
            page.changed |= 1 << index;
        }
        page.changed |= 1;
    }

    fn mark_all(&mut self, id: PageId) {
        self.mark(id, 0, self.page_bytes);
    }

    /// The lowest offset of a cell.
    fn lowest(&self, id: PageId) -> u32 {
        let page = &self.pages[id as usize];
        self.page_bytes - (page.used_bytes - SLOT_BYTES * page.count) - page.garbage_bytes
    }

    /// Whether any key between two ranks, both left out, is there.
    fn any_between(&self, low: u32, high: u32) -> bool {
        self.present.next(low + 1).is_some_and(|next| next < high)
    }

    /// Puts a value in the place of any other of the key.
    pub fn put(&mut self, rank: u32, value_bytes: u64) {
        let mut way = Vec::with_capacity(8);
        if self.root.is_none() {
            let leaf = Self::new_page(true);
            self.root = Some(self.add_page(leaf));
            self.height = 1;
        }
        self.way(rank, &mut way);
        let Some((leaf, _)) = way.last().copied() else { return };
        let old = self.values[rank as usize].checked_sub(1).map(u64::from);
        let cell = self.cell_bytes(rank, value_bytes);
        self.put_extent(rank, old, value_bytes);
        let old_cell = old.map(|old| self.cell_bytes(rank, old));
        self.touch(&way);
        self.values[rank as usize] = u32::try_from(value_bytes + 1).unwrap_or(u32::MAX);
        self.present.set(rank, true);
        if let Some(old_cell) = old_cell {
            let (lowest, cells) = (self.lowest(leaf), self.page_bytes - self.lowest(leaf));
            let at = lowest + mixed(rank) % cells.saturating_sub(old_cell).max(1);
            if old_cell == cell {
                return self.mark(leaf, at, at + cell);
            }
            self.remove_cell(leaf, old_cell);
        }
        self.insert_cell(&mut way, rank, cell);
    }

    /// Sets what a value outside of its leaf takes.
    fn put_extent(&mut self, rank: u32, old: Option<u64>, value_bytes: u64) {
        let units_of = |tree: &Tree, bytes: u64| {
            if tree.is_inline(rank, bytes) { 0 } else { bytes.div_ceil(UNIT_BYTES) }
        };
        let (old_units, units) = (old.map_or(0, |old| units_of(self, old)), units_of(self, value_bytes));
        let is_fresh = self.fresh_extents.contains(&rank);
        if old_units > 0 {
            if is_fresh {
                self.value_bytes -= old.unwrap_or(0);
                self.fresh_extent_units -= old_units;
                self.fresh_extents.remove(&rank);
            }
            // One that is as long and not durable keeps its place.
            if !(is_fresh && units == old_units) {
                self.free_units(old_units, is_fresh);
            }
        }
        if units > 0 {
            if !(is_fresh && units == old_units) {
                self.take_units(units);
            }
            self.value_bytes += value_bytes;
            self.fresh_extent_units += units;
            self.fresh_extents.insert(rank);
        }
    }

    fn new_page(is_leaf: bool) -> Page {
        Page {
            used_bytes: 0,
            garbage_bytes: 0,
            count: 0,
            children: Vec::new(),
            separators: Vec::new(),
            last: NO_RANK,
            run: 0,
            changed: u16::MAX,
            is_leaf,
            is_dirty: false,
            is_fresh: false,
            is_free: false,
        }
    }

    fn remove_cell(&mut self, id: PageId, cell: u32) {
        let page = &mut self.pages[id as usize];
        page.used_bytes -= cell + SLOT_BYTES;
        page.garbage_bytes += cell;
        page.count -= 1;
        let slots_end = HEADER_BYTES as u32 + SLOT_BYTES * page.count;
        self.mark(id, 0, slots_end);
    }

    /// Adds a cell to a page that has room; false if it has none.
    fn add_cell(&mut self, id: PageId, cell: u32) -> bool {
        let (room, page) = (self.room(), &self.pages[id as usize]);
        if page.used_bytes + cell + SLOT_BYTES > room {
            return false;
        }
        if page.used_bytes + page.garbage_bytes + cell + SLOT_BYTES > room {
            self.pages[id as usize].garbage_bytes = 0;
            self.mark_all(id);
        }
        let page = &mut self.pages[id as usize];
        page.used_bytes += cell + SLOT_BYTES;
        page.count += 1;
        let slots_end = HEADER_BYTES as u32 + SLOT_BYTES * page.count;
        let lowest = self.lowest(id);
        self.mark(id, lowest, lowest + cell);
        self.mark(id, 0, slots_end);
        true
    }

    /// Inserts the cell of a key, which is among the values already, into the leaf to which `way` leads.
    fn insert_cell(&mut self, way: &mut Vec<(PageId, usize)>, rank: u32, cell: u32) {
        let Some((leaf, _)) = way.last().copied() else { return };
        let (last, run) = {
            let page = &self.pages[leaf as usize];
            (page.last, page.run)
        };
        let follows = last != NO_RANK && last < rank && !self.any_between(last, rank);
        if self.add_cell(leaf, cell) {
            let page = &mut self.pages[leaf as usize];
            page.run = if follows { run.saturating_add(1) } else { 0 };
            page.last = rank;
            return;
        }
        self.split_leaf(way, rank, cell, follows);
    }

    fn split_leaf(&mut self, way: &mut Vec<(PageId, usize)>, rank: u32, cell: u32, follows: bool) {
        let (start, end) = (self.leaf_start(way), self.leaf_end(way));
        let Some((leaf, _)) = way.last().copied() else { return };
        let run = self.pages[leaf as usize].run;
        let cell_of = |rank: u32| {
            let value_bytes = u64::from(self.values[rank as usize].saturating_sub(1));
            (rank, self.cell_bytes(rank, value_bytes) + SLOT_BYTES)
        };
        let cells: Vec<(u32, u32)> = self.present.range(start, end).map(cell_of).collect();
        let index = cells.partition_point(|(it, _)| *it < rank);
        let sum = |cells: &[(u32, u32)]| cells.iter().map(|(_, bytes)| bytes).sum::<u32>();
        let is_last = index + 1 == cells.len();
        let ascends = index > 0 && (is_last || run >= ASCENDING && follows);
        let cut = if ascends && sum(&cells[index..]) <= self.room() {
            index
        } else {
            let (half, mut before) = (sum(&cells) / 2, 0);
            let middle = cells.iter().position(|(_, bytes)| {
                before += bytes;
                before >= half
            });
            (middle.unwrap_or(0) + 1).clamp(1, cells.len().max(2) - 1)
        };
        let Some(((before, _), (first, _))) = cells.get(cut - 1).zip(cells.get(cut)).map(|(a, b)| (*a, *b))
        else {
            // A single cell always fits into an empty page.
            debug_assert!(false, "{cell} bytes do not fit into a page");
            return;
        };
        let mut right = Self::new_page(true);
        (right.used_bytes, right.count) = (sum(&cells[cut..]), (cells.len() - cut) as u32);
        right.run = if ascends { run.max(ASCENDING) } else { 0 };
        // The hint of a page whose cells were all written in a row is its first cell.
        right.last = first;
        let page = &mut self.pages[leaf as usize];
        (page.used_bytes, page.count) = (sum(&cells[..cut]), cut as u32);
        (page.garbage_bytes, page.run) = (0, 0);
        page.last = cells.first().map_or(NO_RANK, |(rank, _)| *rank);
        self.mark_all(leaf);
        let key_bytes = (self.keys.shared_bytes(before, first) + 1).min(self.keys.bytes(first)) as u16;
        let right = self.add_page(right);
        self.add_child(way, (first, key_bytes), right);
    }

    /// Adds a child behind the page to which `way` leads.
    fn add_child(&mut self, way: &mut Vec<(PageId, usize)>, mut separator: (u32, u16), mut child: PageId) {
        loop {
            let Some((left, index)) = way.pop() else { return };
            let Some((parent, _)) = way.last().copied() else {
                let mut root = Self::new_page(false);
                (root.children, root.separators) = (vec![left, child], vec![separator]);
                (root.used_bytes, root.count) =
                    (INNER_CELL_BYTES as u32 + u32::from(separator.1) + SLOT_BYTES, 1);
                self.root = Some(self.add_page(root));
                self.height += 1;
                return;
            };
            self.touch(way);
            let page = &mut self.pages[parent as usize];
            page.children.insert(index + 1, child);
            page.separators.insert(index, separator);
            if self.add_cell(parent, INNER_CELL_BYTES as u32 + u32::from(separator.1)) {
                return;
            }
            (separator, child) = self.split_inner(parent, index);
        }
    }

    /// Splits an inner page, whose child behind the separator `index` was just added; the separator that goes up, and the new page.
    fn split_inner(&mut self, id: PageId, index: usize) -> ((u32, u16), PageId) {
        let bytes =
            |(_, key_bytes): &(u32, u16)| INNER_CELL_BYTES as u32 + u32::from(*key_bytes) + SLOT_BYTES;
        let page = &self.pages[id as usize];
        let count = page.separators.len();
        let cut = if index + 1 == count && index > 0 {
            index - 1
        } else {
            let (half, mut before) = (page.separators.iter().map(bytes).sum::<u32>() / 2, 0);
            let middle = page.separators.iter().position(|separator| {
                before += bytes(separator);
                before >= half
            });
            (middle.unwrap_or(0) + 1).clamp(1, count - 1)
        };
        let mut right = Self::new_page(false);
        let page = &mut self.pages[id as usize];
        right.children = page.children.split_off(cut + 1);
        right.separators = page.separators.split_off(cut + 1);
        let up = page.separators.pop().unwrap_or((0, 0));
        (page.used_bytes, page.count) =
            (page.separators.iter().map(bytes).sum(), page.separators.len() as u32);
        page.garbage_bytes = 0;
        (right.used_bytes, right.count) =
            (right.separators.iter().map(bytes).sum(), right.separators.len() as u32);
        self.mark_all(id);
        let right = self.add_page(right);
        (up, right)
    }

    /// Removes a key; whether it was there.
    pub fn delete(&mut self, rank: u32) -> bool {
        let Some(old) = self.values[rank as usize].checked_sub(1).map(u64::from) else { return false };
        let mut way = Vec::with_capacity(8);
        self.way(rank, &mut way);
        let Some((leaf, _)) = way.last().copied() else { return false };
        self.touch(&way);
        let cell = self.cell_bytes(rank, old);
        self.remove_cell(leaf, cell);
        self.values[rank as usize] = 0;
        self.present.set(rank, false);
        if !self.is_inline(rank, old) {
            let units = old.div_ceil(UNIT_BYTES);
            let is_fresh = self.fresh_extents.remove(&rank);
            if is_fresh {
                self.value_bytes -= old;
                self.fresh_extent_units -= units;
            }
            self.free_units(units, is_fresh);
        }
        if self.pages[leaf as usize].count == 0 {
            self.remove_leaf(&mut way);
        } else {
            self.merge_sparse(&mut way);
        }
        true
    }

    /// Takes the empty leaf to which `way` leads out of the tree, and pages above that have no child left.
    fn remove_leaf(&mut self, way: &mut Vec<(PageId, usize)>) {
        while let Some((page, index)) = way.pop() {
            self.remove_page(page);
            let Some((parent, _)) = way.last().copied() else {
                (self.root, self.height) = (None, 0);
                return;
            };
            if self.pages[parent as usize].children.len() > 1 {
                self.touch(way);
                self.remove_child(parent, index);
                break;
            }
        }
        self.lower_root();
    }

    fn remove_child(&mut self, parent: PageId, index: usize) {
        let page = &mut self.pages[parent as usize];
        page.children.remove(index);
        let (_, key_bytes) = page.separators.remove(index.saturating_sub(1));
        self.remove_cell(parent, INNER_CELL_BYTES as u32 + u32::from(key_bytes));
    }

    fn lower_root(&mut self) {
        while let Some(root) = self.root {
            let page = &self.pages[root as usize];
            if page.is_leaf || page.children.len() > 1 {
                return;
            }
            let child = page.children[0];
            self.remove_page(root);
            (self.root, self.height) = (Some(child), self.height - 1);
        }
    }

    fn is_sparse(&self, id: PageId) -> bool {
        self.pages[id as usize].used_bytes * 4 < self.room()
    }

    /// Merges sparse pages from the leaf to which `way` leads upwards.
    fn merge_sparse(&mut self, way: &mut Vec<(PageId, usize)>) {
        while let Some((page, index)) = way.pop() {
            let Some((parent, _)) = way.last().copied() else { break };
            if !self.is_sparse(page) {
                return;
            }
            let children = self.pages[parent as usize].children.len();
            let before = index.checked_sub(1).is_some_and(|left| self.merge_children(way, parent, left));
            if !before && (index + 1 >= children || !self.merge_children(way, parent, index)) {
                return;
            }
        }
        self.lower_root();
    }

    /// Merges a child of `parent`, to which `way` leads, with the one behind it, if both fit into one.
    fn merge_children(&mut self, way: &mut Vec<(PageId, usize)>, parent: PageId, index: usize) -> bool {
        let page = &self.pages[parent as usize];
        let (left, right) = (page.children[index], page.children[index + 1]);
        let separator = page.separators[index];
        let is_leaf = self.pages[left as usize].is_leaf;
        let between = if is_leaf { 0 } else { INNER_CELL_BYTES as u32 + u32::from(separator.1) + SLOT_BYTES };
        let used = self.pages[left as usize].used_bytes + self.pages[right as usize].used_bytes + between;
        if used * 4 > self.room() * 3 {
            return false;
        }
        way.push((left, index));
        self.touch(way);
        way.pop();
        self.touch(way);
        let taken = self.pages[right as usize].clone();
        let page = &mut self.pages[left as usize];
        (page.used_bytes, page.garbage_bytes) = (used, 0);
        page.count += taken.count + u32::from(!is_leaf);
        (page.last, page.run) = (NO_RANK, 0);
        if !is_leaf {
            page.separators.push(separator);
            page.separators.extend(taken.separators);
            page.children.extend(taken.children);
        }
        self.mark_all(left);
        self.remove_page(right);
        self.remove_child(parent, index + 1);
        true
    }

    /// Bytes that a checkpoint writes now: new pages and values, and per page that is overwritten in place the units that changed.
    pub fn freeze(&mut self) -> Frozen {
        let mut frozen = Frozen {
            fresh_bytes: self.fresh_pages * u64::from(self.page_bytes) + self.fresh_extent_units * UNIT_BYTES,
            in_place_units: Vec::new(),
            map_events: std::mem::take(&mut self.map_events),
            pages: Vec::new(),
            extents: std::mem::take(&mut self.fresh_extents),
        };
        for id in std::mem::take(&mut self.dirty) {
            let units_max = self.page_units() as u32;
            let page = &mut self.pages[id as usize];
            if page.is_free {
                self.free.push(id);
                continue;
            }
            if !page.is_dirty {
                continue;
            }
            if !page.is_fresh {
                let units = (page.changed & low_bits(units_max)).count_ones();
                frozen.in_place_units.push(units as u8);
            }
            (page.is_dirty, page.is_fresh, page.changed) = (false, false, 0);
            frozen.pages.push(id);
        }
        (self.dirty_pages, self.fresh_pages) = (0, 0);
        (self.value_bytes, self.fresh_extent_units, self.retired_units) = (0, 0, 0);
        frozen
    }
}

/// The part of a tree that a checkpoint writes.
pub struct Frozen {
    /// Bytes of new pages and values.
    pub fresh_bytes: u64,
    /// Changed units of each page that is overwritten in place.
    pub in_place_units: Vec<u8>,
    /// Takes and frees of units since the last one.
    pub map_events: u64,
    /// Pages that are clean now.
    pub pages: Vec<PageId>,
    /// Keys whose values lie in extents and are clean now.
    pub extents: std::collections::HashSet<u32, foldhash::fast::FixedState>,
}

fn low_bits(count: u32) -> u16 {
    ((1u32 << count.min(16)) - 1) as u16
}

/// A number that looks random, the same for the same rank.
fn mixed(rank: u32) -> u32 {
    (rank.wrapping_add(1).wrapping_mul(0x9E37_79B9) ^ (rank >> 7)).wrapping_mul(0x85EB_CA6B) >> 3
}
