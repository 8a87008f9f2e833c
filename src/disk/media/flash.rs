//! A model of flash: what a drive programs for what it is told to write.
//!
//! Flash is written a page at a time and erased a block at a time, so a drive writes everything to a new place, like a log. A page that is
//! overwritten leaves a hole in its block; a block is erased once the pages in it that are still valid have been written elsewhere. Those
//! copies are bytes that no host wrote. How many they are depends on what the host overwrites together: pages that die together leave blocks
//! that cost nothing.
//!
//! # What the model is
//!
//! - Pages of 4 KiB, blocks of 64 pages: small blocks, since stores that are compared are small.
//! - One block is filled by the host's pages and one by copies. When free blocks run out, the block with the fewest valid pages goes (greedy).
//! - The drive has a quarter more pages than the store has had at most: at its largest, the store fills four fifths of it.
//! - Files that are removed or cut are trimmed. What the filesystem between writes for itself is not modelled.

use std::collections::HashMap;

use super::{FilePage, PAGE_BYTES};
use crate::base::metric::Since;

/// Pages of a block.
const BLOCK_PAGES: usize = 64;
/// Blocks that are kept free: one for the host, one for copies, and one that is being erased.
const BLOCKS_FREE: usize = 3;
/// Pages that the drive has beside those of the store at its largest, one part in so many of them.
const SPARE_SHARE: usize = 4;

/// What a drive has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlashCounters {
    /// Pages programmed since the host wrote them.
    pub host_pages: u64,
    /// Pages programmed since their block was to be erased.
    pub moved_pages: u64,
    /// Blocks erased.
    pub erased_blocks: u64,
}

impl FlashCounters {
    /// Bytes programmed.
    pub fn bytes(&self) -> u64 {
        (self.host_pages + self.moved_pages) * PAGE_BYTES
    }
}

impl Since for FlashCounters {
    fn since(&self, earlier: &FlashCounters) -> FlashCounters {
        FlashCounters {
            host_pages: self.host_pages - earlier.host_pages,
            moved_pages: self.moved_pages - earlier.moved_pages,
            erased_blocks: self.erased_blocks - earlier.erased_blocks,
        }
    }
}

/// A block that is being filled.
#[derive(Clone, Copy)]
struct OpenBlock {
    block: usize,
    next: usize,
}

/// The drive.
#[derive(Default)]
pub(super) struct Drive {
    /// The place of each valid page.
    places: HashMap<FilePage, usize>,
    /// The valid page at each place.
    pages: Vec<Option<FilePage>>,
    /// Number of valid pages of each block.
    valid: Vec<usize>,
    free: Vec<usize>,
    host: Option<OpenBlock>,
    copies: Option<OpenBlock>,
    pub(super) counters: FlashCounters,
}

impl Drive {
    /// Adds blocks until the spare pages are what they shall be.
    fn grow(&mut self) {
        let pages = self.places.len() + 1;
        let wanted = (pages + pages / SPARE_SHARE).div_ceil(BLOCK_PAGES) + BLOCKS_FREE;
        while self.valid.len() < wanted {
            self.free.push(self.valid.len());
            self.valid.push(0);
            self.pages.extend([None; BLOCK_PAGES]);
        }
    }

    /// The next place in the block that `open` names, or in a free one.
    fn place(open: &mut Option<OpenBlock>, free: &mut Vec<usize>) -> Option<usize> {
        let now = match open.filter(|open| open.next < BLOCK_PAGES) {
            Some(now) => now,
            None => OpenBlock { block: free.pop()?, next: 0 },
        };
        *open = Some(OpenBlock { next: now.next + 1, ..now });
        Some(now.block * BLOCK_PAGES + now.next)
    }

    fn set(&mut self, page: FilePage, place: usize) {
        self.pages[place] = Some(page);
        self.valid[place / BLOCK_PAGES] += 1;
        self.places.insert(page, place);
    }

    /// A page is not valid any more.
    pub(super) fn trim(&mut self, page: FilePage) {
        if let Some(place) = self.places.remove(&page) {
            self.pages[place] = None;
            self.valid[place / BLOCK_PAGES] -= 1;
        }
    }

    /// Programs a page of the host.
    pub(super) fn program(&mut self, page: FilePage) {
        self.trim(page);
        self.grow();
        while self.free.len() < BLOCKS_FREE && self.collect() {}
        if let Some(place) = Drive::place(&mut self.host, &mut self.free) {
            self.set(page, place);
            self.counters.host_pages += 1;
        }
    }

    /// Erases the block with the fewest valid pages, which are copied; false if that would gain nothing.
    fn collect(&mut self) -> bool {
        let is_open =
            |block: &usize| [self.host, self.copies].iter().flatten().any(|open| open.block == *block);
        let closed = (0..self.valid.len()).filter(|block| !is_open(block) && !self.free.contains(block));
        let Some(victim) = closed.min_by_key(|block| self.valid[*block]) else { return false };
        if self.valid[victim] == BLOCK_PAGES {
            return false;
        }
        for from in victim * BLOCK_PAGES..(victim + 1) * BLOCK_PAGES {
            let Some(page) = self.pages[from].take() else { continue };
            let Some(to) = Drive::place(&mut self.copies, &mut self.free) else { return false };
            self.valid[victim] -= 1;
            self.set(page, to);
            self.counters.moved_pages += 1;
        }
        self.counters.erased_blocks += 1;
        self.free.push(victim);
        true
    }

    /// Trims the pages of a file from `first` on.
    pub(super) fn cut(&mut self, file: u64, first: u64) {
        let is_cut = |page: &&FilePage| page.0 == file && page.1 >= first;
        let gone: Vec<FilePage> = self.places.keys().filter(is_cut).copied().collect();
        gone.into_iter().for_each(|page| self.trim(page));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    /// Programs single pages of a file of `pages` pages in the order of `next`, `rounds` times as many as it has; returns what that took.
    fn overwrite(pages: u64, rounds: u64, mut next: impl FnMut(u64) -> u64) -> FlashCounters {
        let mut drive = Drive::default();
        (0..pages).for_each(|page| drive.program((1, page)));
        let before = drive.counters;
        assert_eq!((before.host_pages, before.moved_pages), (pages, 0));
        (0..rounds * pages).for_each(|nth| drive.program((1, next(nth))));
        drive.counters.since(&before)
    }

    #[test]
    fn what_dies_together_costs_nothing_and_what_dies_at_random_is_copied() {
        let pages = 4096;
        let in_order = overwrite(pages, 8, |nth| nth % pages);
        assert_eq!((in_order.host_pages, in_order.moved_pages), (8 * pages, 0));
        assert!(in_order.erased_blocks >= 7 * pages / BLOCK_PAGES as u64, "{in_order:?}");
        let mut prng = Prng::new(1);
        let random = overwrite(pages, 8, |_| prng.below(pages));
        assert_eq!(random.host_pages, 8 * pages);
        // Greedy collection of a drive that is four fifths full copies between one and two pages for each page of uniform random writes.
        let moved = random.moved_pages as f64 / random.host_pages as f64;
        assert!((0.5..2.0).contains(&moved), "{moved}");
    }

    #[test]
    fn what_is_cut_is_nobodys_any_more() {
        let mut drive = Drive::default();
        (0..100).for_each(|page| drive.program((1, page)));
        (0..10).for_each(|page| drive.program((2, page)));
        drive.cut(1, 1);
        assert_eq!((drive.places.len(), drive.valid.iter().sum::<usize>()), (11, 11));
        drive.trim((2, 3));
        drive.cut(1, 0);
        assert!(
            drive.places.len() == 9
                && drive.places.keys().all(|(file, page)| (*file, *page) != (2, 3) && *file == 2)
        );
    }
}
