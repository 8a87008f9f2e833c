//! The tree in memory: search, insert, split and delete over pages that are resident. Nothing here touches the disk.
//!
//! A page is looked for in four places, newest first: `dirty` (changed since the last checkpoint froze), `frozen` (a checkpoint is
//! writing it), the [`PageSource`](super::source::PageSource) (clean), and what the asking call has [`LoadedPieces`](super::source::Loaded)
//! itself. Missing everywhere, the search stops with a [`Miss`]; the caller reads it without holding any lock and asks again.
//! Units are taken from and given back to the free map, which is part of the state.
//!
//! | file         | what of the tree                                                       |
//! |--------------|------------------------------------------------------------------------|
//! | `search`     | one key, the next part of a scan; what is newer than the pages          |
//! | `change`     | a batch: what it needs, and what it changes                            |
//! | `page_merge` | pages that became sparse                                               |
//! | `buffer_merge`| the next step of a buffer merge: what waits in the buffer comes into pages     |
//! | `relocate`   | a step of a vacuum: what lies too far behind moves                 |
//! | `frozen`     | what a checkpoint takes, writes and gives back                         |
//!
//! # Invariants
//!
//! 1. A dirty page belongs to this state alone: pages are `Arc`s, and changing one that a reader or a checkpoint holds copies it.
//! 2. Leaves that became empty leave the tree at the end of the batch, and sparse ones are merged with a neighbour, not before: until then
//!    the way to every key of the batch is the planned one, or has been split.
//! 3. What is `fresh` is known to no durable state nor to a running checkpoint: it needs no image, and its units are free at once
//!    when it goes.
//! 4. Where `epoch` is unchanged, units that were neither dirty nor frozen hold the same bytes in the file.

mod buffer_merge;
mod change;
mod frozen;
mod page_merge;
mod relocate;
mod search;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use super::allocation_unit::{PageNumber, UNIT_BYTES, UnitNumber, Units};
use super::change_buffer::ChangeBuffer;
use super::freemap::FreeMap;
use super::meta::{Meta, TreeCounts};
use super::options::Torn;
use super::page::Page;
use super::source::Miss;
use super::value::Value;
use crate::engine::{Error, Lsn};

pub use buffer_merge::{BufferMergeLimit, BufferMergePlan};
pub use frozen::FrozenTree;
pub use relocate::VacuumGoal;
pub use search::{ScanChunk, ScanItem};

/// Why a search stopped.
pub enum Stop {
    /// It needs this first.
    Miss(Miss),
    /// The tree is damaged.
    Failed(Error),
}

/// Pages on the ways of a batch; they stay in memory until it is applied.
pub type Pins = HashMap<PageNumber, Arc<Page>>;

/// Counters of the running store.
#[derive(Clone, Copy, Debug, Default)]
pub struct PageEvents {
    /// Pages split.
    pub splits: u64,
    /// Pages given back because they became empty or were merged with a neighbour.
    pub merges: u64,
}

/// The tree; see the module. Its fields are one state, that of one moment behind one latch: who freezes, changes or searches needs most of
/// them together.
pub struct Tree {
    /// The newest durable state, with the sequence to count on from.
    pub durable: Meta,
    /// The root page; none in an empty tree.
    pub root: PageNumber,
    /// Levels.
    pub height: u64,
    /// Its numbers.
    pub counts: TreeCounts,
    /// Splits and merges since opening.
    pub events: PageEvents,
    /// Free units.
    pub space: FreeMap,
    /// What the running checkpoint writes.
    pub frozen: Option<Arc<FrozenTree>>,
    /// Raised whenever units of the file may get other bytes from here on.
    pub epoch: u64,
    /// Where the log ended when the images of `imaged` began.
    pub images_start: Lsn,
    /// If the recovery LSN of a checkpoint is below, opening must apply every batch behind it.
    pub replay_all: Lsn,
    /// Puts that are not in the pages yet, newer than those.
    pub buffer: ChangeBuffer,
    page_bytes: usize,
    /// Pages that the last batch changed, for [`Torn::Image`]; `None` in the other modes.
    touched: Option<BTreeSet<PageNumber>>,
    /// Dirty pages whose newest image is in the log.
    imaged: HashSet<PageNumber>,
    dirty: HashMap<PageNumber, Arc<Page>>,
    fresh: HashSet<PageNumber>,
    values: HashMap<UnitNumber, Value>,
    moved: HashSet<UnitNumber>,
    value_bytes: u64,
}

impl Tree {
    /// The tree of a durable state. Images of its changes begin when [`Tree::start_images`] says so.
    pub fn new(meta: Meta, space: FreeMap) -> Tree {
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

    /// From `lsn` on, images of what batches change may be in the log.
    pub fn start_images(&mut self, torn: Torn, lsn: Lsn) {
        self.images_start = lsn;
        self.touched = (torn == Torn::Image).then(BTreeSet::new);
    }

    /// Pages that the last batch changed: number, whether it is new, page. None of them counts as imaged any more.
    pub fn take_touched(&mut self) -> Vec<(PageNumber, bool, Arc<Page>)> {
        let touched = self.touched.as_mut().map(std::mem::take).unwrap_or_default();
        let page = |number: PageNumber| {
            self.imaged.remove(&number);
            Some((number, self.fresh.contains(&number), self.dirty.get(&number)?.clone()))
        };
        touched.into_iter().filter_map(page).collect()
    }

    /// The image of a page, as it is now, is in the log.
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
        let page = |(number, page): (&PageNumber, &Arc<Page>)| {
            let changed = page.changed_units().count() as u64 * UNIT_BYTES;
            match torn {
                _ if self.fresh.contains(number) => self.page_bytes as u64,
                Torn::Image if self.imaged.contains(number) => changed,
                Torn::Image | Torn::Delta => 2 * changed,
                Torn::Doublewrite => changed + self.page_bytes as u64,
            }
        };
        let values = self.values.values().map(|value| Units::of_bytes(value.bytes.len() as u64).bytes());
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

    /// What of the tree or of its free map cannot be read, in a sentence.
    pub fn damage(&self) -> Option<String> {
        self.buffer.aside.sentence().or_else(|| self.space.damage())
    }
}
