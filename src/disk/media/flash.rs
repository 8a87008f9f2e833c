//! A model of flash below a disk: what a drive programs for what it is told to write.
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
//! - A page that is written several times before its file is synced is programmed once, as in a cache of the host; a part of a page is a page.
//! - Files that are removed or cut are trimmed. What the filesystem between writes for itself is not modelled.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Descriptor, Disk, File, FileInfo, Purpose, Space};

/// Bytes of a page.
pub const PAGE_BYTES: u64 = 4096;
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

    /// Counts since `earlier`.
    pub fn since(&self, earlier: &FlashCounters) -> FlashCounters {
        FlashCounters {
            host_pages: self.host_pages - earlier.host_pages,
            moved_pages: self.moved_pages - earlier.moved_pages,
            erased_blocks: self.erased_blocks - earlier.erased_blocks,
        }
    }
}

/// A page of a file: the file's number, and the page's.
type FilePage = (u64, u64);

/// A block that is being filled.
#[derive(Clone, Copy)]
struct OpenBlock {
    block: usize,
    next: usize,
}

/// The drive.
#[derive(Default)]
struct Drive {
    /// The place of each valid page.
    places: HashMap<FilePage, usize>,
    /// The valid page at each place.
    pages: Vec<Option<FilePage>>,
    /// Number of valid pages of each block.
    valid: Vec<usize>,
    free: Vec<usize>,
    host: Option<OpenBlock>,
    copies: Option<OpenBlock>,
    /// Pages of the host's cache that are not programmed yet.
    cached: BTreeSet<FilePage>,
    counters: FlashCounters,
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
    fn trim(&mut self, page: FilePage) {
        self.cached.remove(&page);
        if let Some(place) = self.places.remove(&page) {
            self.pages[place] = None;
            self.valid[place / BLOCK_PAGES] -= 1;
        }
    }

    /// Programs a page of the host.
    fn program(&mut self, page: FilePage) {
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

    /// Programs what the cache has of a file.
    fn sync(&mut self, file: u64) {
        let cached: Vec<FilePage> = self.cached.range((file, 0)..=(file, u64::MAX)).copied().collect();
        for page in cached {
            self.cached.remove(&page);
            self.program(page);
        }
    }

    /// Trims the pages of a file from `first` on.
    fn cut(&mut self, file: u64, first: u64) {
        let is_cut = |page: &&FilePage| page.0 == file && page.1 >= first;
        let gone: Vec<FilePage> = self.places.keys().chain(&self.cached).filter(is_cut).copied().collect();
        gone.into_iter().for_each(|page| self.trim(page));
    }
}

/// Files by name, and the drive below them.
#[derive(Default)]
struct Model {
    drive: Drive,
    numbers: HashMap<String, u64>,
    next: u64,
}

impl Model {
    fn number(&mut self, name: &str) -> u64 {
        *self.numbers.entry(name.to_string()).or_insert_with(|| {
            self.next += 1;
            self.next
        })
    }

    fn forget(&mut self, name: &str) {
        if let Some(number) = self.numbers.remove(name) {
            self.drive.cut(number, 0);
        }
    }
}

/// A disk with the model of flash below it. What passes, passes unchanged.
pub struct Flash {
    disk: Arc<dyn Disk>,
    model: Arc<Mutex<Model>>,
}

impl Flash {
    /// The model below `disk`, whose files are not on the drive until they are written.
    pub fn new(disk: Arc<dyn Disk>) -> Arc<Flash> {
        Arc::new(Flash { disk, model: Arc::default() })
    }

    /// What the drive has done so far.
    pub fn counters(&self) -> FlashCounters {
        self.model.lock().drive.counters
    }

    fn wrap(&self, name: &str, file: Arc<dyn File>) -> Arc<dyn File> {
        let number = self.model.lock().number(name);
        Arc::new(FlashFile { file, number, model: self.model.clone() })
    }
}

impl Disk for Flash {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = self.disk.create(name)?;
        self.model.lock().forget(name);
        Ok(self.wrap(name, file))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(self.wrap(name, self.disk.open(name)?))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)?;
        let mut model = self.model.lock();
        model.forget(to);
        if let Some(number) = model.numbers.remove(from) {
            model.numbers.insert(to.to_string(), number);
        }
        Ok(())
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)?;
        self.model.lock().forget(name);
        Ok(())
    }
    fn list(&self) -> io::Result<Vec<FileInfo>> {
        self.disk.list()
    }
    fn sync_names(&self) -> io::Result<()> {
        self.disk.sync_names()
    }
    fn space(&self) -> io::Result<Space> {
        self.disk.space()
    }
}

struct FlashFile {
    file: Arc<dyn File>,
    number: u64,
    model: Arc<Mutex<Model>>,
}

impl FlashFile {
    fn note(&self, offset: u64, bytes: u64) {
        let pages = offset / PAGE_BYTES..(offset + bytes).div_ceil(PAGE_BYTES);
        self.model.lock().drive.cached.extend(pages.map(|page| (self.number, page)));
    }
}

impl File for FlashFile {
    fn read_at(&self, purpose: Purpose, offset: u64, target: &mut [u8]) -> io::Result<()> {
        self.file.read_at(purpose, offset, target)
    }
    fn write_at(&self, purpose: Purpose, offset: u64, source: &[u8]) -> io::Result<()> {
        self.file.write_at(purpose, offset, source)?;
        self.note(offset, source.len() as u64);
        Ok(())
    }
    fn write_pieces_at(&self, purpose: Purpose, offset: u64, pieces: &[&[u8]]) -> io::Result<()> {
        self.file.write_pieces_at(purpose, offset, pieces)?;
        self.note(offset, pieces.iter().map(|piece| piece.len() as u64).sum());
        Ok(())
    }
    fn sync(&self, purpose: Purpose) -> io::Result<()> {
        self.file.sync(purpose)?;
        self.model.lock().drive.sync(self.number);
        Ok(())
    }
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.file.set_size(bytes)?;
        self.model.lock().drive.cut(self.number, bytes.div_ceil(PAGE_BYTES));
        Ok(())
    }
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        self.file.allocate(bytes)
    }
    fn with_descriptor(&self, look: &mut dyn FnMut(Descriptor<'_>)) -> io::Result<()> {
        self.file.with_descriptor(look)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;
    use crate::disk::SimDisk;

    /// Writes single pages of a file of `pages` pages in the order of `next`, `rounds` times as many as it has; returns what that took.
    fn overwrite(pages: u64, rounds: u64, mut next: impl FnMut(u64) -> u64) -> FlashCounters {
        let flash = Flash::new(SimDisk::new());
        let file = flash.create("file").unwrap();
        let page = vec![7; PAGE_BYTES as usize];
        let write = |at: u64| {
            file.write_at(Purpose::Checkpoint, at * PAGE_BYTES, &page).unwrap();
            file.sync(Purpose::Checkpoint).unwrap();
        };
        (0..pages).for_each(write);
        let before = flash.counters();
        assert_eq!((before.host_pages, before.moved_pages), (pages, 0));
        (0..rounds * pages).for_each(|nth| write(next(nth)));
        flash.counters().since(&before)
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
    fn a_page_is_programmed_once_a_sync_and_what_is_removed_costs_nothing_more() {
        let flash = Flash::new(SimDisk::new());
        let file = flash.create("log").unwrap();
        for nth in 0..100 {
            file.write_at(Purpose::Wal, nth * 10, &[1; 10]).unwrap();
        }
        assert_eq!(flash.counters(), FlashCounters::default());
        file.sync(Purpose::Wal).unwrap();
        file.sync(Purpose::Wal).unwrap();
        assert_eq!((flash.counters().host_pages, flash.counters().bytes()), (1, 4096));
        file.write_at(Purpose::Wal, 4000, &[1; 200]).unwrap();
        file.sync(Purpose::Wal).unwrap();
        assert_eq!(flash.counters().host_pages, 3);
        // Files that come and go whole, the oldest first.
        for number in 0..200u32 {
            let table = flash.create("table.new").unwrap();
            table.write_at(Purpose::Flush, 0, &vec![3; 64 * PAGE_BYTES as usize]).unwrap();
            table.sync(Purpose::Flush).unwrap();
            flash.rename("table.new", &format!("table.{}", number % 32)).unwrap();
        }
        let counters = flash.counters();
        assert_eq!(counters.host_pages, 3 + 200 * 64);
        assert!(
            counters.erased_blocks > 100 && counters.moved_pages <= counters.host_pages / 50,
            "{counters:?}"
        );
        file.set_size(0).unwrap();
        assert!(flash.model.lock().drive.places.keys().all(|(number, _)| *number != 1));
    }
}
