//! The tree in memory: search, insert, split and delete over pages that are in memory. Nothing here does I/O.
//!
//! A page is looked up in four places, newest first: `dirty` (changed since the last checkpoint froze), `frozen` (a checkpoint is
//! writing it), the [`PageSource`](super::source::PageSource) (clean), and what the call itself has read
//! ([`LoadedPieces`](super::source::LoadedPieces)). If it is in none of them, the search stops with a [`Miss`]; the caller reads it without
//! holding a lock and searches again. The free map, from which units are taken and to which they are given back, is part of the state.
//!
//! | file           | part of the tree                                                     |
//! |----------------|----------------------------------------------------------------------|
//! | `search`       | one key, the next part of a scan; newer puts of the change buffer    |
//! | `change`       | a batch: the space it needs, and its changes                         |
//! | `copy_on_write` | copies of the pages on a path, in a tree that overwrites none       |
//! | `placement`    | the places of a checkpoint's pages                                   |
//! | `collection`   | a step of a collection: a page moves out of what is mostly dead      |
//! | `page_merge`   | merges of sparse pages                                               |
//! | `buffer_merge` | a step of a change-buffer merge                                      |
//! | `relocate`     | a step of a vacuum: what lies too far behind in the file moves       |
//! | `frozen`       | the state that a checkpoint writes                                   |
//!
//! # Invariants
//!
//! 1. A dirty page belongs to this state alone: pages are `Arc`s, and changing one that a reader or a checkpoint holds copies it.
//! 2. Empty leaves are removed and sparse ones merged only at the end of a batch: until then the path to every key of the batch is the
//!    planned one, or has been split.
//! 3. No durable state and no running checkpoint refers to a `fresh` page: it needs no image, and its units are free at once when it is
//!    removed.
//! 4. Where `epoch` is unchanged, units that were neither dirty nor frozen hold the same bytes in the file.

mod buffer_merge;
mod change;
mod collection;
mod copy_on_write;
mod frozen;
mod page_merge;
mod placement;
mod relocate;
mod search;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::allocation_unit::{PageMap, PageNumber, PageSet, UNIT_BYTES, UnitMap, UnitSet, Units};
use super::change_buffer::ChangeBuffer;
use super::freemap::FreeMap;
use super::meta::{Meta, TreeCounts};
use super::options::{Placement, Torn};
use super::page::Page;
use super::source::Miss;
use super::value::Value;
use crate::engine::{Error, Lsn};

pub use buffer_merge::{BufferMergeLimit, BufferMergePlan, MERGE_CELL_BYTES, MERGE_LEAVES};
pub use change::Deletes;
pub use frozen::FrozenTree;
pub use placement::{PagePlaces, PlacedPage};
pub use relocate::VacuumGoal;
pub use search::{ScanChunk, ScanItem};

/// The reason why a search stopped.
pub enum Stop {
    /// This page or value must be read first.
    Miss(Miss),
    /// The tree is damaged.
    Failed(Error),
}

/// Pages on the paths of a batch; they stay in memory until it is applied.
pub type Pins = PageMap<Arc<Page>>;

/// Counters since the store was opened.
#[derive(Clone, Copy, Debug, Default)]
pub struct PageEvents {
    /// Pages split.
    pub splits: u64,
    /// Pages freed because they became empty or were merged with a neighbour.
    pub merges: u64,
}

/// The tree; see the module. The fields are one state at one moment, behind one latch. They stay one type, since a freeze, a change and a search
/// each need most of them together.
pub struct Tree {
    /// The newest durable state; the next one has the next sequence number.
    pub durable: Meta,
    /// The root page; none in an empty tree.
    pub root: PageNumber,
    /// Number of levels.
    pub height: u64,
    /// Numbers of pages, bytes and units.
    pub counts: TreeCounts,
    /// Splits and merges since opening.
    pub events: PageEvents,
    /// Free units.
    pub space: FreeMap,
    /// The state that the running checkpoint writes.
    pub frozen: Option<Arc<FrozenTree>>,
    /// Raised whenever units of the file may change from then on.
    pub epoch: u64,
    /// End of the log when the images of `imaged` began.
    pub images_start: Lsn,
    /// Opening must apply every batch behind the recovery LSN of a checkpoint, if that is below this LSN.
    pub replay_all: Lsn,
    /// What lies below must have come down when the log was durable up to here; see [`Meta::lower_lsn`].
    pub lower_lsn: Lsn,
    /// Puts that are newer than the pages and not in them yet.
    pub buffer: ChangeBuffer,
    /// It is the upper half of a store: a delete leaves a tombstone, for what may lie below.
    pub is_upper: bool,
    page_bytes: usize,
    /// Whether pages are copied to another place before they are changed; see `copy_on_write`.
    is_copy_on_write: bool,
    /// Pages that the last batch changed, in mode [`Torn::Image`]; `None` in the other modes.
    touched: Option<BTreeSet<PageNumber>>,
    /// Dirty pages whose newest image is in the log.
    imaged: PageSet,
    dirty: PageMap<Arc<Page>>,
    fresh: PageSet,
    values: UnitMap<Value>,
    moved: UnitSet,
    value_bytes: u64,
}

impl Tree {
    /// The tree of a durable state, whose changed pages go to where `pages` says. Images of its changes are collected from
    /// [`Tree::start_images`] on.
    pub fn new(meta: Meta, space: FreeMap, pages: Placement) -> Tree {
        Tree {
            durable: meta,
            root: meta.root,
            height: meta.height,
            counts: meta.counts,
            events: PageEvents::default(),
            space,
            frozen: None,
            epoch: 1,
            images_start: meta.lsn,
            replay_all: meta.replay_all,
            lower_lsn: meta.lower_lsn,
            buffer: ChangeBuffer::default(),
            is_upper: false,
            touched: None,
            imaged: HashSet::default(),
            page_bytes: meta.page_bytes as usize,
            is_copy_on_write: pages != Placement::InPlace,
            dirty: HashMap::default(),
            fresh: HashSet::default(),
            values: HashMap::default(),
            moved: HashSet::default(),
            value_bytes: 0,
        }
    }

    /// Begins to collect the pages that batches change, whose images are in the log from `lsn` on.
    pub fn start_images(&mut self, torn: Torn, lsn: Lsn) {
        self.images_start = lsn;
        self.touched = (torn == Torn::Image).then(BTreeSet::new);
    }

    /// Takes the pages that the last batch changed: number, whether it is new, page. Their older images do not count any more.
    pub fn take_touched(&mut self) -> Vec<(PageNumber, bool, Arc<Page>)> {
        let touched = self.touched.as_mut().map(std::mem::take).unwrap_or_default();
        let page = |number: PageNumber| {
            self.imaged.remove(&number);
            Some((number, self.fresh.contains(&number), self.dirty.get(&number)?.clone()))
        };
        touched.into_iter().filter_map(page).collect()
    }

    /// Notes that the image of a page, as it is now, is in the log.
    pub fn set_imaged(&mut self, number: PageNumber) {
        self.imaged.insert(number);
    }

    fn touch(&mut self, number: PageNumber) {
        if let Some(touched) = &mut self.touched {
            touched.insert(number);
        }
    }

    /// Bytes of a page.
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// Units of a page.
    pub fn page_units(&self) -> Units {
        Units::of_bytes(self.page_bytes as u64)
    }

    /// Bytes of memory that only checkpoints free: dirty and frozen pages and values, the change buffer, and changes that are set aside.
    pub fn dirty_bytes(&self) -> u64 {
        let waiting_bytes = self.buffer.bytes() + self.buffer.aside.bytes();
        self.active_bytes() + waiting_bytes + self.frozen.as_ref().map_or(0, |frozen| frozen.bytes)
    }

    /// Bytes of dirty pages and values that no checkpoint has frozen yet.
    pub fn active_bytes(&self) -> u64 {
        (self.dirty.len() * self.page_bytes) as u64 + self.value_bytes
    }

    /// Units that the dirty pages which no checkpoint has frozen yet will take, about.
    pub fn dirty_page_units(&self) -> Units {
        Units::of_bytes(self.dirty.len() as u64 * self.stored_page_bytes())
    }

    /// Bytes that a page takes in the file, on average of those that are not dirty; dirty ones will shrink as much, about.
    fn stored_page_bytes(&self) -> u64 {
        let clean =
            (self.counts.leaf_pages + self.counts.inner_pages).saturating_sub(self.dirty.len() as u64);
        let saved_bytes = self.counts.saved_units.bytes().checked_div(clean).unwrap_or_default();
        (self.page_bytes as u64).saturating_sub(saved_bytes).max(UNIT_BYTES)
    }

    /// As [`Tree::active_bytes`], with values counted one and a half times: a value gains nothing by waiting, while a page collects changes
    /// until it is written.
    pub fn pressing_bytes(&self) -> u64 {
        self.active_bytes() + self.value_bytes / 2
    }

    /// Bytes that a checkpoint that freezes now would write in mode `torn`, without the free map. Each buffered put counts as a page, but no
    /// more than every leaf once. Where pages are compressed it is an estimate, by what others have saved.
    pub fn settle_bytes(&self, torn: Torn) -> u64 {
        let fresh_bytes =
            if self.is_copy_on_write { self.stored_page_bytes() } else { self.page_bytes as u64 };
        let page = |(number, page): (&PageNumber, &Arc<Page>)| {
            let changed = page.changed_units().count() as u64 * UNIT_BYTES;
            match torn {
                _ if self.fresh.contains(number) => fresh_bytes,
                Torn::Image if self.imaged.contains(number) => changed,
                Torn::Image | Torn::Delta => 2 * changed,
                Torn::Doublewrite => changed + self.page_bytes as u64,
            }
        };
        let values = self.values.values().map(|value| Units::of_bytes(value.bytes.len() as u64).bytes());
        let waiting = self.buffer.len().min(self.counts.leaf_pages) * fresh_bytes;
        self.dirty.iter().map(page).chain(values).sum::<u64>() + waiting
    }

    /// Upper bound of the bytes of dirty pages whose images the running checkpoint and the next one log.
    pub fn image_bytes_max(&self) -> u64 {
        let frozen = self.frozen.as_ref().map_or(0, |frozen| frozen.pages.len() - frozen.fresh.len());
        ((self.dirty.len() - self.fresh.len() + frozen) * self.page_bytes) as u64
    }

    /// Upper bound of the dirty pages of which a checkpoint makes copies.
    pub fn copies_max(&self) -> u64 {
        self.dirty.len().saturating_sub(self.fresh.len().max(self.imaged.len())) as u64
    }

    /// A sentence on the part of the tree or of its free map that cannot be read, if there is one.
    pub fn damage(&self) -> Option<String> {
        self.buffer.aside.sentence().or_else(|| self.space.damage())
    }
}
