//! The frozen state of the tree that a checkpoint writes.

use std::sync::Arc;

use super::Tree;
use crate::engine::Lsn;
use crate::engine::btree::age::LogPoint;
use crate::engine::btree::allocation_unit::{PageMap, PageNumber, PageSet, UnitMap, UnitNumber, UnitSet};
use crate::engine::btree::freemap::MapChanges;
use crate::engine::btree::meta::{MapPlace, Meta};
use crate::engine::btree::page::{CellValue, CompressedPage, Page};
use crate::engine::btree::source::Piece;
use crate::engine::btree::value::Value;
use crate::engine::class_of;

/// Pages with their numbers.
type Pages = Vec<(PageNumber, Arc<Page>)>;

/// The dirty part of the tree at one LSN, which a checkpoint writes.
pub struct FrozenTree {
    /// Dirty pages.
    pub pages: PageMap<Arc<Page>>,
    /// Numbers of new pages.
    pub fresh: PageSet,
    /// Numbers of pages whose image is in the log behind `meta.images_start`.
    pub imaged: PageSet,
    /// New values by first unit of their extent.
    pub values: UnitMap<Value>,
    /// The compressed forms of pages that are written so, by first unit.
    pub compressed: UnitMap<CompressedPage>,
    /// First units of values that are not new, but moved.
    pub moved: UnitSet,
    /// The state's meta page; `sequence`, `map`, `images_end` and `doublewrite_bytes` are not set yet.
    pub meta: Meta,
    /// Bytes of images that had been logged at `meta.recovery_lsn`.
    pub settled_image_bytes: u64,
    /// Bytes of the log behind `meta.recovery_lsn` that hold changes which are set aside.
    pub aside_bytes: u64,
    /// Bytes of memory of the pages, of their compressed forms, and of the values.
    pub bytes: u64,
}

impl FrozenTree {
    /// New pages and values, which are written to free places, and pages that are overwritten in place; both in the order of the file.
    pub fn pieces(&self) -> (Vec<(UnitNumber, Piece)>, Pages) {
        let (mut fresh, mut in_place) = (Vec::new(), Vec::new());
        for (number, page) in &self.pages {
            if self.fresh.contains(number) {
                fresh.push((number.unit(), Piece::Page(page.clone())));
            } else if page.changed_units().next().is_some() {
                in_place.push((*number, page.clone()));
            }
        }
        fresh.extend(self.values.iter().map(|(unit, value)| (*unit, Piece::Value(value.clone()))));
        fresh.sort_unstable_by_key(|(unit, _)| *unit);
        in_place.sort_unstable_by_key(|(number, _)| *number);
        (fresh, in_place)
    }

    /// The class of each new value's key, by the unit of its extent. The leaf that refers to a new value has changed, so it is here.
    pub fn value_classes(&self) -> UnitMap<u8> {
        let mut classes = UnitMap::with_capacity_and_hasher(self.values.len(), Default::default());
        for page in self.pages.values().filter(|page| page.is_leaf()) {
            for index in 0..page.count() {
                if let CellValue::Extent(extent) = page.cell_value(index)
                    && self.values.contains_key(&extent.unit)
                {
                    classes.insert(extent.unit, class_of(page.key(index)));
                }
            }
        }
        classes
    }
}

impl Tree {
    /// Freezes the state at `now`, without the change buffer, for a checkpoint, which writes the pages in `compressed` in that form. The caller has just called
    /// [`FreeMap::freeze`](crate::engine::btree::freemap::FreeMap::freeze); no unit may be taken or freed in between.
    pub fn freeze(&mut self, now: LogPoint, compressed: UnitMap<CompressedPage>) -> Arc<FrozenTree> {
        // During replay the pages may be newer than `now`.
        let lsn = now.lsn.max(self.durable.lsn);
        let recovery_point = self.buffer.recovery_point().unwrap_or(now);
        let replay_all = if self.buffer.aside.is_unlogged() { lsn } else { self.replay_all };
        debug_assert!(self.frozen.is_none(), "one checkpoint at a time");
        let compressed_bytes: u64 = compressed.values().map(|form| form.units().bytes()).sum();
        let bytes = self.active_bytes() + compressed_bytes;
        let meta = Meta {
            sequence: 0,
            page_bytes: self.page_bytes as u64,
            root: self.root,
            height: self.height,
            lsn,
            recovery_lsn: recovery_point.lsn,
            replay_all,
            lower_lsn: self.lower_lsn,
            images_start: self.images_start.min(lsn),
            images_end: Lsn::ZERO,
            doublewrite_bytes: 0,
            end: self.space.end(),
            map: MapPlace::default(),
            counts: self.counts,
        };
        self.value_bytes = 0;
        let frozen = Arc::new(FrozenTree {
            pages: std::mem::take(&mut self.dirty),
            fresh: std::mem::take(&mut self.fresh),
            imaged: std::mem::take(&mut self.imaged),
            values: std::mem::take(&mut self.values),
            compressed,
            moved: std::mem::take(&mut self.moved),
            meta,
            settled_image_bytes: recovery_point.image_bytes,
            aside_bytes: self.buffer.aside.logged_bytes(),
            bytes,
        });
        self.images_start = lsn;
        self.frozen = Some(frozen.clone());
        self.epoch += 1;
        frozen
    }

    /// Notes that the frozen state is durable as `meta`, with `changes` of the free map; its pages need not be in place yet.
    pub fn commit(&mut self, meta: Meta, changes: &MapChanges) {
        self.durable = meta;
        self.space.commit(changes);
    }

    /// Ends the frozen state: all its pages are in place.
    pub fn thaw(&mut self) {
        self.frozen = None;
        self.epoch += 1;
    }
}
