//! The tree in memory: search, insert, split and delete over pages that are resident. Nothing here touches the disk.
//!
//! A page is looked for in four places, newest first: `dirty` (changed since the last checkpoint froze), `frozen` (a checkpoint is
//! writing it), the pager's pool (clean), and what the asking call has [`Loaded`] itself. Missing everywhere, the search stops
//! with a [`Miss`]; the caller reads it without holding any lock and asks again.
//!
//! # Changing the tree
//!
//! 1. [`Tree::plan`] walks to the leaf of every operation, pins what lies on the way, and adds up what the batch may need.
//! 2. [`Tree::apply`] changes pages. It meets only dirty, pinned and new pages and has its space, so it cannot fail.
//!
//! # Invariants
//!
//! 1. A dirty page belongs to this state alone: pages are `Arc`s, and changing one that a reader or a checkpoint holds copies it.
//! 2. Leaves that became empty leave the tree at the end of the batch, and sparse ones join a neighbour, not before: until then
//!    the way to every key of the batch is the planned one, or has been split.
//! 3. What is `fresh` is known to no durable state nor to a running checkpoint: it needs no image, and its units are free at once
//!    when it goes.
//! 4. Where `epoch` is unchanged, units that were neither dirty nor frozen hold the same bytes in the file.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;

use super::buffer::{ChangeBuffer, Mark};
use super::freemap::{Changes, FreeMap};
use super::meta::{Counts, MapPlace, Meta};
use super::page::{Extent, Page, Stored, cell_bytes_max, inner_cell, is_inline, key_bytes_max, leaf_cell};
use super::pager::{Loaded, Pager};
use super::value::Value;
use super::{OUT_OF_LINE_BYTES, UNIT_BYTES};
use crate::engine::batch::owned;
use crate::engine::btree::Torn;
use crate::engine::{Batch, Error, Operation, PageCause, Position};

/// Something that is not in memory.
#[derive(Clone, Copy, Debug)]
pub enum Miss {
    /// The page at a unit.
    Page(u64),
    /// The value of an extent.
    Value(Extent),
}

impl Miss {
    /// Its first unit.
    pub fn unit(&self) -> u64 {
        match self {
            Miss::Page(unit) => *unit,
            Miss::Value(extent) => extent.unit,
        }
    }
}

/// Why a search stopped.
pub enum Stop {
    /// It needs this first.
    Miss(Miss),
    /// The tree is damaged.
    Failed(Error),
}

/// Pages on the ways of a batch; they stay in memory until it is applied.
pub type Pins = HashMap<u64, Arc<Page>>;

/// What a checkpoint writes: the tree at one position, as far as it was dirty.
pub struct Frozen {
    /// Changed pages by unit.
    pub pages: HashMap<u64, Arc<Page>>,
    /// Those of them that are new.
    pub fresh: HashSet<u64>,
    /// Those of them whose image is in the log behind `meta.images_start`.
    pub imaged: HashSet<u64>,
    /// New values by first unit of their extent.
    pub values: HashMap<u64, Value>,
    /// Those of them that are not new, but moved.
    pub moved: HashSet<u64>,
    /// The state's meta page; `sequence`, `map`, `images_end` and `double_bytes` are not set yet.
    pub meta: Meta,
    /// Bytes of images that had been logged at `meta.floor`.
    pub floor_image_bytes: u64,
    /// Bytes of the log behind it that are nothing but what was set aside.
    pub aside_bytes: u64,
    /// Bytes of memory that it holds.
    pub bytes: u64,
}

/// What a batch may need at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    /// Units that it takes.
    pub units: u64,
    /// The most of them that must lie together.
    pub piece_units: u64,
    /// Pages that are clean and that it may change.
    pub pages: u64,
}

/// Counters of the running store.
#[derive(Clone, Copy, Debug, Default)]
pub struct Events {
    /// Pages split.
    pub splits: u64,
    /// Pages given back because they became empty or joined a neighbour.
    pub merges: u64,
}

/// The tree; see the module.
pub struct Tree {
    /// The newest durable state, with the sequence to count on from.
    pub durable: Meta,
    /// Unit of the root page; 0 for an empty tree.
    pub root: u64,
    /// Levels.
    pub height: u64,
    /// Its numbers.
    pub counts: Counts,
    /// Splits and merges since opening.
    pub events: Events,
    /// Free units.
    pub space: FreeMap,
    /// What the running checkpoint writes.
    pub frozen: Option<Arc<Frozen>>,
    /// Raised whenever units of the file may get other bytes from here on.
    pub epoch: u64,
    /// Where the log ended when the images of `imaged` began.
    pub images_start: Position,
    /// If the floor of a checkpoint is below, opening must apply every batch behind it.
    pub replay_all: Position,
    /// Puts that are not in the pages yet, newer than those.
    pub buffer: ChangeBuffer,
    page_bytes: usize,
    /// Pages that the last batch changed, for [`Torn::Image`]; `None` in the other modes.
    touched: Option<BTreeSet<u64>>,
    /// Dirty pages whose newest image is in the log.
    imaged: HashSet<u64>,
    pub(super) dirty: HashMap<u64, Arc<Page>>,
    fresh: HashSet<u64>,
    pub(super) values: HashMap<u64, Value>,
    moved: HashSet<u64>,
    value_bytes: u64,
}

/// Units of a value of `bytes`.
fn units_of(bytes: usize) -> u64 {
    (bytes as u64).div_ceil(UNIT_BYTES)
}

impl Tree {
    /// The tree of a durable state. Images of its changes begin when [`Tree::start_images`] says so.
    pub fn new(meta: Meta, space: FreeMap) -> Tree {
        Tree {
            durable: meta,
            root: meta.root,
            height: meta.height,
            counts: meta.counts,
            events: Events::default(),
            space,
            frozen: None,
            epoch: 1,
            images_start: meta.position,
            replay_all: meta.replay_all,
            buffer: ChangeBuffer::default(),
            touched: None,
            imaged: HashSet::new(),
            page_bytes: meta.page_bytes as usize,
            dirty: HashMap::new(),
            fresh: HashSet::new(),
            values: HashMap::new(),
            moved: HashSet::new(),
            value_bytes: 0,
        }
    }

    /// From `position` on, images of what batches change may be in the log.
    pub fn start_images(&mut self, torn: Torn, position: Position) {
        self.images_start = position;
        self.touched = (torn == Torn::Image).then(BTreeSet::new);
    }

    /// Pages that the last batch changed: unit, whether it is new, page. None of them counts as imaged any more.
    pub fn take_touched(&mut self) -> Vec<(u64, bool, Arc<Page>)> {
        let touched = self.touched.as_mut().map(std::mem::take).unwrap_or_default();
        let page = |unit: u64| {
            self.imaged.remove(&unit);
            Some((unit, self.fresh.contains(&unit), self.dirty.get(&unit)?.clone()))
        };
        touched.into_iter().filter_map(page).collect()
    }

    /// The image of the page at `unit`, as it is now, is in the log.
    pub fn set_imaged(&mut self, unit: u64) {
        self.imaged.insert(unit);
    }

    fn touch(&mut self, unit: u64) {
        if let Some(touched) = &mut self.touched {
            touched.insert(unit);
        }
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Bytes of memory that only the next checkpoints free.
    pub fn dirty_bytes(&self) -> u64 {
        let waiting_bytes = self.buffer.bytes() + self.buffer.aside.bytes();
        self.active_bytes() + waiting_bytes + self.frozen.as_ref().map_or(0, |frozen| frozen.bytes)
    }

    /// Those of them in pages and values that no checkpoint has taken up yet.
    pub fn active_bytes(&self) -> u64 {
        (self.dirty.len() * self.page_bytes) as u64 + self.value_bytes
    }

    /// The same, with what gains nothing by waiting counted one and a half times: a value is written once in any case, while a
    /// page collects changes until it is.
    pub fn pressing_bytes(&self) -> u64 {
        self.active_bytes() + self.value_bytes / 2
    }

    /// Bytes that a checkpoint which froze now would write in mode `torn`, without the free map. What waits in the buffer counts a
    /// page each, at most every leaf once.
    pub fn settle_bytes(&self, torn: Torn) -> u64 {
        let page = |(unit, page): (&u64, &Arc<Page>)| {
            let changed = page.changed_units().count() as u64 * UNIT_BYTES;
            match torn {
                _ if self.fresh.contains(unit) => self.page_bytes as u64,
                Torn::Image if self.imaged.contains(unit) => changed,
                Torn::Image | Torn::Delta => 2 * changed,
                Torn::DoubleWrite => changed + self.page_bytes as u64,
            }
        };
        let values = self.values.values().map(|value| units_of(value.bytes.len()) * UNIT_BYTES);
        let waiting = self.buffer.len().min(self.counts.leaf_pages) * self.page_bytes as u64;
        self.dirty.iter().map(page).chain(values).sum::<u64>() + waiting
    }

    /// Bytes of dirty pages that checkpoints log images of at most: the one on its way, and the next.
    pub fn image_bytes_max(&self) -> u64 {
        let frozen = self.frozen.as_ref().map_or(0, |frozen| frozen.pages.len() - frozen.fresh.len());
        ((self.dirty.len() - self.fresh.len() + frozen) * self.page_bytes) as u64
    }

    /// Dirty pages that a checkpoint makes copies of at most.
    pub fn copies_max(&self) -> u64 {
        self.dirty.len().saturating_sub(self.fresh.len().max(self.imaged.len())) as u64
    }

    /// Pins the ways of a batch and says what it needs; changes nothing.
    pub fn plan(
        &self,
        pager: &Pager,
        loaded: &Loaded,
        batch: &Batch,
        pins: &mut Pins,
    ) -> Result<Needs, Stop> {
        let page_units = pager.page_units();
        let mut needs = Needs { units: 0, piece_units: page_units, pages: 0 };
        for operation in batch.operations() {
            let key = operation.key();
            if key.len() > key_bytes_max(self.page_bytes) {
                let max = key_bytes_max(self.page_bytes);
                let sentence = format!("a key of {} bytes; this page size takes {max}", key.len());
                return Err(Stop::Failed(Error::Invalid(sentence)));
            }
            let mut pin = |unit, page: &Arc<Page>| {
                if !self.dirty.contains_key(&unit) {
                    pins.entry(unit).or_insert_with(|| page.clone());
                }
            };
            self.leaf(pager, loaded, key, &mut pin)?;
            if let Some(value) = operation.value() {
                if !is_inline(self.page_bytes, key, value) {
                    if u32::try_from(value.len()).is_err() {
                        return Err(Stop::Failed(Error::Invalid("a value of 4 GiB or more".to_string())));
                    }
                    needs.units += units_of(value.len());
                    needs.piece_units = needs.piece_units.max(units_of(value.len()));
                }
                // A split on every level, and a new root.
                needs.units += (self.height + 2) * page_units;
            } else {
                self.pin_neighbours(pager, loaded, key, pins)?;
            }
        }
        needs.pages = pins.len() as u64;
        Ok(needs)
    }

    /// Changes the tree. `pins` are those of the batch's plan, and the tail of the file has what the plan needs.
    pub fn apply(&mut self, batch: &Batch, mut pins: Pins, pager: &Pager) {
        let mut emptied: HashMap<u64, Bytes> = HashMap::new();
        for operation in batch.operations() {
            self.buffer.forget(operation.key());
            match operation {
                Operation::Put { key, value } => self.put(key, value, &mut pins, pager),
                Operation::Delete { key } => {
                    if let Some(leaf) = self.delete(key, &mut pins, pager) {
                        emptied.insert(leaf, key.clone());
                    }
                }
            }
        }
        // In the order of keys: the same batch always gives the same tree.
        let mut emptied: Vec<(Bytes, u64)> = emptied.into_iter().map(|(leaf, key)| (key, leaf)).collect();
        emptied.sort_unstable();
        for (key, leaf) in emptied {
            self.remove_leaf(&key, leaf, &mut pins, pager);
        }
        for operation in batch.operations() {
            if let Operation::Delete { key } = operation {
                self.join_sparse(key, &mut pins, pager);
            }
        }
    }

    /// A page on a planned way.
    fn planned<'a>(&'a self, unit: u64, pins: &'a Pins) -> &'a Page {
        let page = self.dirty.get(&unit).or_else(|| pins.get(&unit));
        page.expect("a page on a planned way is dirty or pinned")
    }

    /// A page that can be changed now; `None` if it would have to be read.
    pub(super) fn resident<'a>(&'a self, unit: u64, pins: &'a Pins) -> Option<&'a Arc<Page>> {
        self.dirty.get(&unit).or_else(|| pins.get(&unit))
    }

    /// The same, to be changed for `cause`.
    pub(super) fn page_mut(
        &mut self,
        unit: u64,
        cause: PageCause,
        pins: &mut Pins,
        pager: &Pager,
    ) -> &mut Page {
        self.touch(unit);
        match self.dirty.entry(unit) {
            Entry::Occupied(page) => Arc::make_mut(page.into_mut()),
            Entry::Vacant(place) => {
                pager.forget(unit);
                let page = pins.remove(&unit).expect("a page on a planned way is dirty or pinned");
                let page = Arc::make_mut(place.insert(page));
                page.begin_changes(cause);
                page
            }
        }
    }

    /// The way to `key`: inner pages with the child taken, and the leaf.
    fn way(&self, key: &[u8], pins: &Pins) -> (Vec<(u64, usize)>, u64) {
        let mut way = Vec::with_capacity(self.height as usize);
        let mut unit = self.root;
        for _ in 1..self.height {
            let page = self.planned(unit, pins);
            let index = page.child_index(key);
            way.push((unit, index));
            unit = page.child(index);
        }
        (way, unit)
    }

    fn add_page(&mut self, mut page: Page, cause: PageCause, pager: &Pager) -> u64 {
        page.set_cause(cause);
        let unit = self.space.take_low(pager.page_units());
        match page.level() {
            0 => self.counts.leaf_pages += 1,
            _ => self.counts.inner_pages += 1,
        }
        self.dirty.insert(unit, Arc::new(page));
        self.fresh.insert(unit);
        self.touch(unit);
        unit
    }

    pub(super) fn remove_page(&mut self, unit: u64, leaf: bool, pager: &Pager) {
        match leaf {
            true => self.counts.leaf_pages -= 1,
            false => self.counts.inner_pages -= 1,
        }
        self.events.merges += 1;
        self.dirty.remove(&unit);
        self.imaged.remove(&unit);
        pager.forget(unit);
        if self.fresh.remove(&unit) {
            self.space.give_back(unit, pager.page_units());
        } else {
            self.space.retire(unit, pager.page_units());
        }
    }

    /// Whether something else lies in its units by now: the leaf that names `extent` reads as it was earlier. It is left to its owner.
    fn is_taken(&self, extent: &Extent) -> bool {
        match self.changed_value(extent) {
            Some(value) => !value.is_of(extent),
            None => self.changed_page(extent.unit).is_some(),
        }
    }

    fn remove_extent(&mut self, extent: Extent, pager: &Pager) {
        let units = u64::from(extent.units);
        self.counts.extent_units = self.counts.extent_units.saturating_sub(units);
        if self.is_taken(&extent) {
            return;
        }
        pager.forget(extent.unit);
        if self.values.remove(&extent.unit).is_some() {
            self.value_bytes -= u64::from(extent.bytes);
            self.moved.remove(&extent.unit);
            self.space.give_back(extent.unit, units);
        } else {
            self.space.retire(extent.unit, units);
        }
    }

    /// Makes an extent for `value`; in the units of `old` if no durable state refers to them and they are as many.
    fn add_extent(&mut self, value: &Bytes, old: Option<Extent>, pager: &Pager) -> Extent {
        let units = units_of(value.len());
        let unit = match old {
            Some(old)
                if u64::from(old.units) == units
                    && self.values.get(&old.unit).is_some_and(|value| value.is_of(&old)) =>
            {
                self.value_bytes -= u64::from(old.bytes);
                self.moved.remove(&old.unit);
                old.unit
            }
            _ => {
                if let Some(old) = old {
                    self.remove_extent(old, pager);
                }
                self.counts.extent_units += units;
                self.space.take(units)
            }
        };
        let crc = pager.checksum(value);
        let extent = Extent { unit, units: units as u32, bytes: value.len() as u32, crc };
        self.values.insert(unit, Value::new(owned(value), &extent));
        self.value_bytes += value.len() as u64;
        extent
    }

    fn put(&mut self, key: &Bytes, value: &Bytes, pins: &mut Pins, pager: &Pager) {
        if self.height == 0 {
            self.root = self.add_page(Page::new(self.page_bytes, 0, 0), PageCause::Change, pager);
            self.height = 1;
        }
        let (way, leaf) = self.way(key, pins);
        let page = self.planned(leaf, pins);
        let found = page.search(key);
        let (mut old, mut old_bytes, free_bytes) = (None, 0, page.free_bytes());
        if let Ok(index) = found {
            old_bytes = page.cell_bytes(index);
            if let Stored::Extent(extent) = page.stored(index) {
                old = Some(extent);
            }
        }
        let cell = if is_inline(self.page_bytes, key, value) {
            if let Some(old) = old {
                self.remove_extent(old, pager);
            }
            leaf_cell(key, Stored::Inline(value))
        } else {
            leaf_cell(key, Stored::Extent(self.add_extent(value, old, pager)))
        };
        self.counts.leaf_bytes += cell.len() as u64 + 2;
        self.counts.leaf_bytes -= old_bytes as u64;
        let splits = cell.len() + 2 > free_bytes + old_bytes;
        let cause = if splits { PageCause::Split } else { PageCause::Change };
        let page = self.page_mut(leaf, cause, pins, pager);
        if let Ok(index) = found {
            if page.replace(index, &cell) {
                return;
            }
            page.remove(index);
        }
        let (Ok(index) | Err(index)) = found;
        self.insert(way, leaf, index, cell, pins, pager);
    }

    /// Inserts a cell into a page, splitting it and the pages above as needed.
    fn insert(
        &mut self,
        mut way: Vec<(u64, usize)>,
        mut unit: u64,
        mut index: usize,
        mut cell: Vec<u8>,
        pins: &mut Pins,
        pager: &Pager,
    ) {
        debug_assert!(cell.len() + 2 <= cell_bytes_max(self.page_bytes));
        loop {
            let page = self.page_mut(unit, PageCause::Split, pins, pager);
            if page.insert(index, &cell) {
                return;
            }
            let level = page.level();
            let (separator, right) = page.split(index, &cell);
            self.events.splits += 1;
            let right = self.add_page(right, PageCause::Split, pager);
            cell = inner_cell(&separator, right);
            match way.pop() {
                Some((parent, child)) => (unit, index) = (parent, child),
                None => {
                    let mut root = Page::new(self.page_bytes, level + 1, unit);
                    root.insert(0, &cell);
                    self.root = self.add_page(root, PageCause::Split, pager);
                    self.height += 1;
                    return;
                }
            }
        }
    }

    /// Removes a key; returns its leaf if that became empty.
    fn delete(&mut self, key: &[u8], pins: &mut Pins, pager: &Pager) -> Option<u64> {
        if self.height == 0 {
            return None;
        }
        let (_, leaf) = self.way(key, pins);
        // A page is changed only if the key is there.
        let index = self.planned(leaf, pins).search(key).ok()?;
        let page = self.page_mut(leaf, PageCause::Change, pins, pager);
        let old = match page.stored(index) {
            Stored::Extent(extent) => Some(extent),
            Stored::Inline(_) => None,
        };
        let removed = page.remove(index);
        let empty = page.count() == 0;
        self.counts.leaf_bytes -= removed as u64;
        if let Some(extent) = old {
            self.remove_extent(extent, pager);
        }
        empty.then_some(leaf)
    }

    /// Takes the leaf of `key` out of the tree if it is (still) the empty `leaf`, and every page that loses its last child.
    fn remove_leaf(&mut self, key: &[u8], leaf: u64, pins: &mut Pins, pager: &Pager) {
        let (mut way, found) = self.way(key, pins);
        if found != leaf || self.planned(leaf, pins).count() > 0 {
            return;
        }
        self.remove_page(leaf, true, pager);
        loop {
            let Some((parent, index)) = way.pop() else {
                (self.root, self.height) = (0, 0);
                return;
            };
            if self.page_mut(parent, PageCause::Merge, pins, pager).remove_child(index) {
                break;
            }
            self.remove_page(parent, false, pager);
        }
        if way.is_empty() {
            self.lower_root(pins, pager);
        }
    }

    /// A root with a single child gives way to it, as long as the child is in memory.
    pub(super) fn lower_root(&mut self, pins: &Pins, pager: &Pager) {
        while self.height > 1 {
            let Some(root) = self.dirty.get(&self.root).or_else(|| pins.get(&self.root)) else { return };
            if root.count() > 0 {
                return;
            }
            let (old, child) = (self.root, root.child(0));
            self.remove_page(old, false, pager);
            self.root = child;
            self.height -= 1;
        }
    }

    /// Puts the page at `unit`, which is resident, elsewhere; the caller changes what refers to it.
    pub(super) fn move_page(&mut self, unit: u64, to: u64, pins: &mut Pins, pager: &Pager) {
        self.page_mut(unit, PageCause::Compaction, pins, pager);
        self.imaged.remove(&unit);
        if let Some(page) = self.dirty.remove(&unit) {
            self.dirty.insert(to, page);
            self.fresh.insert(to);
            self.touch(to);
        }
        match self.fresh.remove(&unit) {
            true => self.space.give_back(unit, pager.page_units()),
            false => self.space.retire(unit, pager.page_units()),
        }
    }

    /// Puts `value` of the extent `old` to unit `to`.
    pub(super) fn move_value(&mut self, value: Bytes, old: Extent, to: u64, pager: &Pager) -> Extent {
        self.remove_extent(old, pager);
        self.counts.extent_units += u64::from(old.units);
        self.value_bytes += value.len() as u64;
        let extent = Extent { unit: to, ..old };
        self.values.insert(to, Value::new(value, &extent));
        self.moved.insert(to);
        extent
    }

    /// Takes what changed for a checkpoint of the state at `now`, without what waits in the buffer. Goes with
    /// [`FreeMap::freeze`], before which nothing may be taken or freed.
    pub fn freeze(&mut self, now: Mark) -> Arc<Frozen> {
        // Replay may be on its way to what the pages have already.
        let position = now.position.max(self.durable.position);
        let floor = self.buffer.floor().unwrap_or(now);
        let replay_all = if self.buffer.aside.is_unlogged() { position } else { self.replay_all };
        debug_assert!(self.frozen.is_none(), "one checkpoint at a time");
        let bytes = self.active_bytes();
        let meta = Meta {
            sequence: 0,
            page_bytes: self.page_bytes as u64,
            root: self.root,
            height: self.height,
            position,
            floor: floor.position,
            replay_all,
            images_start: self.images_start.min(position),
            images_end: 0,
            double_bytes: 0,
            end: self.space.end(),
            map: MapPlace::default(),
            counts: self.counts,
        };
        self.value_bytes = 0;
        let frozen = Arc::new(Frozen {
            pages: std::mem::take(&mut self.dirty),
            fresh: std::mem::take(&mut self.fresh),
            imaged: std::mem::take(&mut self.imaged),
            values: std::mem::take(&mut self.values),
            moved: std::mem::take(&mut self.moved),
            meta,
            floor_image_bytes: floor.image_bytes,
            aside_bytes: self.buffer.aside.logged_bytes(),
            bytes,
        });
        self.images_start = position;
        self.frozen = Some(frozen.clone());
        self.epoch += 1;
        frozen
    }

    /// The frozen state is durable as `meta`, with `changes` of the free map; pages may still be on their way to their places.
    pub fn commit(&mut self, meta: Meta, changes: &Changes) {
        self.durable = meta;
        self.space.commit(changes);
    }

    /// Everything frozen is in its place.
    pub fn thaw(&mut self) {
        self.frozen = None;
        self.epoch += 1;
    }
}

const _: () = assert!(OUT_OF_LINE_BYTES < u16::MAX as usize);
