//! Collection, with `pages=cow-extent`: keeps runs that are long enough for the pages of a checkpoint.
//!
//! Pages that were written together die one by one, and leave holes that are too short for the next checkpoint. When a quarter of what lies
//! before the tail is free, but long runs hold less than the next two checkpoints write, every checkpoint collects before it begins: an extent with
//! pages that is at least half free is read with one request, and the pages in it that the tree still refers to become dirty. The checkpoint
//! writes them elsewhere, together with all others, and then the extent is one run. So collection writes at most as much as it frees, and never
//! more at a time than an eighth of the bound of dirty bytes.
//!
//! Only extents are read of which it is known that there are pages in them ([`PageExtents`](super::page_extents::PageExtents)). Values are not
//! moved; a vacuum does that.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::allocation_unit::{FIRST_UNIT, Units};
use super::core::Core;
use super::options::Placement;
use super::page_compression::ReadyPages;
use super::pager::StoredPage;
use super::source::{LoadedPieces, is_unreadable};
use super::tree::Stop;
use crate::disk::Purpose;
use crate::engine::{Error, Result, Tier};

/// Least share of free units before the tail that is worth a collection: one part in so many.
const FREE_SHARE: u64 = 4;
/// Least share of free units of an extent that is worth its collection: one part in so many.
const DEAD_SHARE: u64 = 2;

/// Number of checkpoints as large as the next one for which there shall be long runs.
const CHECKPOINTS: u64 = 2;
/// Largest share of the bound of dirty bytes that is moved before one checkpoint: one part in so many.
const MOVED_SHARE: u64 = 8;

/// Collects pages before checkpoints.
pub struct Collector {
    core: Arc<Core>,
    /// The number of the extent at which the next collection continues.
    next: AtomicU64,
}

impl Collector {
    /// A collector for `core`.
    pub fn new(core: Arc<Core>) -> Collector {
        Collector { core, next: AtomicU64::new(0) }
    }

    /// Before a checkpoint: makes pages dirty that lie in mostly dead extents, if long runs are rare. Compressed forms that can be written again go to
    /// `ready`.
    pub fn collect_some(&self, ready: &mut ReadyPages) -> Result<()> {
        let core = &self.core;
        if core.options.pages != Placement::CowExtent {
            return Ok(());
        }
        let (end, mut left_units) = {
            let tree = core.tree.read();
            let (space, written_units) = (&tree.space, tree.dirty_page_units());
            let is_sparse = space.inside_units() * FREE_SHARE > space.end() - FIRST_UNIT;
            if !is_sparse || space.long_run_units(core.page_extents.units()) >= written_units * CHECKPOINTS {
                return Ok(());
            }
            (space.end(), Units::of_bytes(core.options.dirty_bytes_max / MOVED_SHARE))
        };
        core.load_below(end)?;
        let (mut from, mut is_second_time) = (self.next.load(Relaxed), false);
        while !left_units.is_zero() {
            let Some(number) = self.mostly_dead(from) else {
                // Once around.
                if from == 0 || is_second_time {
                    break;
                }
                (from, is_second_time) = (0, true);
                continue;
            };
            from = number + 1;
            match self.collect(number, ready) {
                Ok(moved_units) => left_units = left_units.saturating_sub(moved_units),
                // There will be more room after the checkpoint.
                Err(Error::NoSpace) => break,
                // A check says what cannot be read.
                Err(error) if is_unreadable(&error) => {}
                Err(error) => return Err(error),
            }
        }
        self.next.store(from, Relaxed);
        Ok(())
    }

    /// The first extent from `from` on that is mostly dead.
    fn mostly_dead(&self, from: u64) -> Option<u64> {
        let tree = self.core.tree.read();
        let space = &tree.space;
        self.core.page_extents.find(from, |(start, units)| {
            let free = space.free_within((start, units));
            start + units <= space.end() && free * DEAD_SHARE >= units && free < units
        })
    }

    /// Makes the pages of an extent dirty that the tree refers to; returns their units.
    fn collect(&self, number: u64, ready: &mut ReadyPages) -> Result<Units> {
        let core = &self.core;
        let epoch = core.tree.read().epoch;
        let pages = core.pager.read_extent(core.page_extents.extent(number), Purpose::Checkpoint)?;
        let (mut loaded, mut moved_units) = (LoadedPieces::default(), Units::ZERO);
        for StoredPage { number: page_number, page, stored } in pages {
            loop {
                let writer = core.tree.writer();
                core.pager.check()?;
                let planned = {
                    let tree = core.tree.read();
                    if tree.epoch != epoch {
                        return Ok(moved_units);
                    }
                    tree.plan_collection(&core.pager, &loaded, page_number, &page)
                };
                match planned {
                    Ok(Some(step)) => {
                        let needs = core.tree.read().collection_needs(&step);
                        core.take_space(needs, Tier::Disk)?;
                        let mut tree = core.tree.write();
                        let moved = tree.make_collection(step, &core.pager);
                        let moved = tree.dirty_page(moved).map(|page| (moved, page));
                        drop(tree);
                        if page_number.is_compressed()
                            && let Some((moved, page)) = moved
                        {
                            core.keep_stored(ready, moved, page, stored);
                        }
                        core.note_change();
                        moved_units += page_number.units(core.pager.page_units());
                    }
                    // The page of a tree before, or its path cannot be read.
                    Ok(None) | Err(Stop::Failed(_)) => {}
                    Err(Stop::Miss(miss)) => {
                        drop(writer);
                        core.load_if_whole(epoch, miss, Tier::Disk, Purpose::Checkpoint, &mut loaded)?;
                        continue;
                    }
                }
                break;
            }
        }
        if moved_units.is_zero() {
            core.page_extents.forget(number);
        }
        Ok(moved_units)
    }
}
