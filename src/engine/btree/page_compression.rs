//! Compression of pages, before a checkpoint writes them.
//!
//! 1. Before a checkpoint begins, the dirty leaves are compressed, while readers and writers continue ([`Core::compress_dirty`]).
//! 2. When it freezes, leaves that have changed since are compressed again, and pages above the leaves, whose content depends on the places of
//!    those below, are compressed for the first time. Writers wait meanwhile, readers do not ([`Core::place_pages`]).
//!
//! A leaf that is only moved by a collection is not compressed again.
//!
//! In memory, pages are never compressed: the pool, the dirty bytes and the reserves of space count whole pages.

use std::sync::Arc;

use super::allocation_unit::{PageMap, PageNumber, UnitMap, Units};
use super::core::Core;
use super::options::Placement;
use super::page::{CompressedPage, Page};
use super::tree::{PagePlaces, PlacedPage};
use crate::disk::Purpose;
use crate::engine::{Compression, Result, Tier};

/// Pages that are held at a time while they are compressed; a writer that changes one of them copies it.
const PAGES: usize = 64;

/// Dirty pages with their compressed forms, as long as they do not change.
#[derive(Default)]
pub struct ReadyPages(PageMap<(Arc<Page>, Option<CompressedPage>)>);

impl ReadyPages {
    /// Whether the form of the page `number` is known, which is still `page`.
    fn has(&self, number: PageNumber, page: &Arc<Page>) -> bool {
        self.0.get(&number).is_some_and(|(before, _)| Arc::ptr_eq(before, page))
    }

    /// The form of the page `number`, if that is still `page`; nothing in it, if it is better not compressed.
    fn take(&mut self, number: PageNumber, page: &Arc<Page>) -> Option<Option<CompressedPage>> {
        let (before, form) = self.0.remove(&number)?;
        Arc::ptr_eq(&before, page).then_some(form)
    }
}

impl Core {
    /// The codec of pages; `None` if they are not compressed, or are so short that it is of no use.
    fn page_compression(&self) -> Option<Compression> {
        let is_useful = self.options.pages != Placement::InPlace && self.pager.page_units() > Units::ONE;
        Some(self.options.compression).filter(|compression| is_useful && *compression != Compression::None)
    }

    /// Notes that the dirty page `number` is still what its compressed bytes in the file, `stored`, hold; of no use for a page above the leaves, which
    /// will refer to other places.
    pub fn keep_stored(&self, ready: &mut ReadyPages, number: PageNumber, page: Arc<Page>, stored: Vec<u8>) {
        let form = self.page_compression().and_then(|codec| CompressedPage::of_stored(stored, codec));
        if page.is_leaf() && form.is_some() {
            ready.0.insert(number, (page, form));
        }
    }

    /// Compresses the dirty leaves, those aside that are `ready` already.
    pub fn compress_dirty(&self, ready: &mut ReadyPages) {
        let Some(compression) = self.page_compression() else { return };
        let leaves = self.tree.read().dirty_leaves();
        for numbers in leaves.chunks(PAGES) {
            let pages: Vec<(PageNumber, Arc<Page>)> = {
                let tree = self.tree.read();
                let pages = numbers.iter().filter_map(|number| Some((*number, tree.dirty_page(*number)?)));
                pages.filter(|(number, page)| !ready.has(*number, page)).collect()
            };
            for (number, page) in pages {
                let form = self.pager.compress(&page, compression);
                ready.0.insert(number, (page, form));
            }
        }
    }

    /// Makes room for [`Core::place_pages`], which cannot fail; false if pages stay where they are, since they are to, or since the disk has no
    /// room for the pages of the free map beside them. With `together`, they get one place, if the option `pages` says so. The writer's lock is
    /// held.
    pub fn can_place_pages(&self, together: bool) -> Result<bool> {
        let is_together = together && self.options.pages == Placement::CowExtent;
        if !is_together && self.page_compression().is_none() {
            return Ok(false);
        }
        if is_together {
            let units = Units::of_bytes(self.tree.read().active_bytes());
            let extent_units = self.options.extent_units();
            self.load_groups(Tier::Disk, Purpose::Checkpoint, |map| map.wanted(units, extent_units))?;
        }
        self.take_tail_for_map()
    }

    /// Gives the dirty pages the places that they are written to; returns the compressed forms, by first unit. The caller freezes the tree next.
    pub fn place_pages(&self, mut ready: ReadyPages, together: bool) -> UnitMap<CompressedPage> {
        let is_together = together && self.options.pages == Placement::CowExtent;
        let mut places = PagePlaces::new(is_together.then(|| self.options.extent_units()));
        let compression = self.page_compression();
        let levels = self.tree.read().dirty_by_level();
        let mut left: u64 = levels.iter().map(|pages| pages.len() as u64).sum();
        for pages in levels {
            left -= pages.len() as u64;
            let pages = pages.into_iter().map(|(number, mut page)| {
                let ready = ready.take(number, &page);
                if !page.is_leaf() {
                    places.update_children(&mut page);
                }
                let form =
                    ready.unwrap_or_else(|| compression.and_then(|codec| self.pager.compress(&page, codec)));
                PlacedPage { number, page, form }
            });
            let pages = pages.collect();
            self.tree.write().place(&mut places, pages, left);
        }
        self.tree.write().settle(places)
    }
}
