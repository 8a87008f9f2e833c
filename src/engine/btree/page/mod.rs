//! One page: a slotted array of cells in ascending order of their keys. Its form in memory is that in the file.
//!
//! Slots (offsets of cells) grow upwards behind the header, cells grow downwards from the end. Removing a cell leaves garbage; the first
//! insert that needs the space rewrites the page without it. `FORMAT.md` draws header and cells.
//!
//! # Invariants
//!
//! 1. A cell takes at most a quarter of what a page holds, so that an overfull page always splits into two that fit.
//! 2. A page that [`Page::decode`] has accepted can be used without a panic: it checks every offset and length, and the order of keys.
//! 3. The checksum is computed when the page is written ([`Page::seal`]); in memory it is stale.
//! 4. Every change of a byte marks its allocation unit, so that a checkpoint writes and logs only the units of a page that changed. They
//!    are written whole, although mostly few sectors of them have changed: a drive with sectors of 4 KiB may lose a whole sector that it was
//!    writing when power failed.

mod cell;
mod compressed;
#[cfg(test)]
mod tests;

use super::allocation_unit::{PageNumber, UNIT_BYTES};
use crate::engine::{PageCause, PageKind};
use cell::{OUT_OF_LINE_BYTES, cell_key, cell_length, cell_value, is_clean, page_number_at, u16_at, u32_at};

pub use cell::{
    CellValue, EXTENT_BYTES, Extent, INNER_CELL_BYTES, LEAF_CELL_BYTES, inner_cell, leaf_cell, make_clean,
};
pub use compressed::CompressedPage;

/// Bytes before the slots.
pub const HEADER_BYTES: usize = 32;
/// Number of inserts in ascending order after which a page is split at the insert position.
pub const ASCENDING: u16 = 4;
const UNIT: usize = UNIT_BYTES as usize;
/// Bytes of a sector; page images in the log consist of sectors.
pub const SECTOR_BYTES: usize = 512;
const _: () = assert!(UNIT / SECTOR_BYTES == 8 && (64 << 10) / SECTOR_BYTES <= u128::BITS as usize);
const _: () = assert!((64 << 10) / UNIT <= u16::BITS as usize);
const MAGIC: u8 = 0xB7;
/// Offset of the level in a page.
pub const LEVEL: usize = 5;
const COUNT: usize = 6;
const CELLS: usize = 8;
const GARBAGE: usize = 12;
const CHILD: usize = 16;
const LAST: usize = 24;
const RUN: usize = 26;

/// A page in memory.
#[derive(Clone)]
pub struct Page {
    bytes: Box<[u8]>,
    /// Bit i is set if unit i of the page may differ from the file.
    changed: u16,
    /// The cause of the first of these changes.
    cause: PageCause,
}

/// Largest size of a cell with its slot in a page of `page_bytes`.
pub fn cell_bytes_max(page_bytes: usize) -> usize {
    (page_bytes - HEADER_BYTES) / 4
}

/// Whether `value` lies inline, in the leaf beside its key; else it needs an extent.
pub fn is_inline(page_bytes: usize, key: &[u8], value: &[u8]) -> bool {
    is_inline_size(page_bytes, key.len(), value.len())
}

/// The same for a key and a value of which only lengths are known.
pub fn is_inline_size(page_bytes: usize, key_bytes: usize, value_bytes: usize) -> bool {
    value_bytes < OUT_OF_LINE_BYTES
        && LEAF_CELL_BYTES + key_bytes + value_bytes + 2 <= cell_bytes_max(page_bytes)
}

/// Longest key of a page of `page_bytes`.
pub fn key_bytes_max(page_bytes: usize) -> usize {
    cell_bytes_max(page_bytes) - LEAF_CELL_BYTES - EXTENT_BYTES - 2
}

/// The checksum of the page `number`.
pub(super) fn checksum(number: PageNumber, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&number.to_le_bytes());
    hasher.update(&bytes[4..]);
    hasher.finalize()
}

impl Page {
    /// An empty page of `level`; level 0 is a leaf. An inner page needs its first `child`.
    pub fn new(page_bytes: usize, level: u8, child: PageNumber) -> Page {
        let mut page =
            Page { bytes: vec![0; page_bytes].into_boxed_slice(), changed: 0, cause: PageCause::Change };
        page.bytes[4] = MAGIC;
        page.bytes[LEVEL] = level;
        page.clear();
        page.set_first_child(child);
        page
    }

    /// Checks the bytes that were read in the place of page `number`; the error says what is wrong with them.
    pub fn decode(number: PageNumber, bytes: Vec<u8>) -> Result<Page, &'static str> {
        if bytes.len() < HEADER_BYTES || u32_at(&bytes, 0) != checksum(number, &bytes) {
            return Err("the page's checksum does not fit");
        }
        Page::of_bytes(bytes)
    }

    /// Checks the bytes of a page, all but its checksum.
    fn of_bytes(bytes: Vec<u8>) -> Result<Page, &'static str> {
        let page = Page { bytes: bytes.into_boxed_slice(), changed: 0, cause: PageCause::Change };
        let slots_end = HEADER_BYTES + 2 * page.count();
        let cells = u32_at(&page.bytes, CELLS) as usize;
        if page.bytes[4] != MAGIC || cells > page.bytes.len() || slots_end > cells {
            return Err("not a page");
        }
        let (mut used, mut before) = (0, None);
        for index in 0..page.count() {
            let at = page.slot(index);
            match page.bytes.get(at..).and_then(|bytes| cell_length(page.is_leaf(), bytes)) {
                Some(length) if at >= cells => used += length,
                _ => return Err("a cell lies outside its page"),
            }
            // Keys out of order could send a search round in circles.
            let key = cell_key(page.is_leaf(), &page.bytes[at..]);
            if before.is_some_and(|before| before >= key) {
                return Err("keys out of order");
            }
            before = Some(key);
        }
        if used + u32_at(&page.bytes, GARBAGE) as usize != page.bytes.len() - cells {
            return Err("the cells do not add up");
        }
        Ok(page)
    }

    /// Whether bytes of the file look like a page: whether it is worth to decode them.
    pub fn is_like(bytes: &[u8]) -> bool {
        bytes.get(4) == Some(&MAGIC)
    }

    /// Appends the page as it is written in the place of `number`, checksum included.
    pub fn seal(&self, number: PageNumber, target: &mut Vec<u8>) {
        let at = target.len();
        target.extend_from_slice(&self.bytes);
        let crc = checksum(number, &self.bytes);
        target[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    }

    /// Indexes of the units of the page that may differ from the file, ascending.
    pub fn changed_units(&self) -> impl Iterator<Item = usize> + use<> {
        let changed = self.changed;
        (0..u16::BITS as usize).filter(move |unit| changed >> unit & 1 == 1)
    }

    /// Sectors of the changed units: bit i is set for sector i.
    pub fn changed_sectors(&self) -> u128 {
        let sectors = UNIT / SECTOR_BYTES;
        self.changed_units().fold(0, |changed, unit| changed | 0xFF << (unit * sectors))
    }

    /// Marks the page as equal to the file; the first change that follows is made for `cause`.
    pub fn begin_changes(&mut self, cause: PageCause) {
        self.changed = 0;
        self.cause = cause;
    }

    /// The cause of the first change.
    pub fn cause(&self) -> PageCause {
        self.cause
    }

    /// Sets the cause of the first change.
    pub fn set_cause(&mut self, cause: PageCause) {
        self.cause = cause;
    }

    /// The kind of page as which it is counted.
    pub fn kind(&self) -> PageKind {
        PageKind::of_level(self.level())
    }

    /// Marks the units of bytes `from..to` as changed, and the first unit, which has the checksum.
    fn mark_changed(&mut self, from: usize, to: usize) {
        let units = from / UNIT..=to.saturating_sub(1).max(from) / UNIT;
        self.changed |= units.fold(1, |changed, unit| changed | 1 << unit);
    }

    /// Level of the page: 0 for a leaf, else one more than that of its children.
    pub fn level(&self) -> u8 {
        self.bytes[LEVEL]
    }

    /// Whether it holds values.
    pub fn is_leaf(&self) -> bool {
        self.level() == 0
    }

    /// Bytes of the page.
    pub fn page_bytes(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Number of cells.
    pub fn count(&self) -> usize {
        usize::from(u16_at(&self.bytes, COUNT))
    }

    fn slot(&self, index: usize) -> usize {
        usize::from(u16_at(&self.bytes, HEADER_BYTES + 2 * index))
    }

    fn cell(&self, index: usize) -> &[u8] {
        let bytes = &self.bytes[self.slot(index)..];
        &bytes[..cell_length(self.is_leaf(), bytes).unwrap_or(0)]
    }

    /// Bytes of a cell with its slot.
    pub fn cell_bytes(&self, index: usize) -> usize {
        self.cell(index).len() + 2
    }

    /// Key of a cell; in an inner page it is the first key that the child may hold.
    pub fn key(&self, index: usize) -> &[u8] {
        cell_key(self.is_leaf(), &self.bytes[self.slot(index)..])
    }

    /// Value of a leaf's cell.
    pub fn cell_value(&self, index: usize) -> CellValue<'_> {
        cell_value(self.cell(index))
    }

    /// Whether a leaf's cell is that of a clean entry, of which what lies below the tree has a copy.
    pub fn is_clean(&self, index: usize) -> bool {
        is_clean(self.cell(index))
    }

    /// Child of an inner page; `index` goes from 0 to `count()`.
    pub fn child(&self, index: usize) -> PageNumber {
        match index {
            0 => page_number_at(&self.bytes, CHILD),
            _ => page_number_at(&self.bytes, self.slot(index - 1) + 2),
        }
    }

    /// Index of the child that covers `key`.
    pub fn child_index(&self, key: &[u8]) -> usize {
        match self.search(key) {
            Ok(index) => index + 1,
            Err(index) => index,
        }
    }

    /// Index of the cell with `key`, or as an error the index at which it would be inserted.
    pub fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.count());
        while low < high {
            let middle = (low + high) / 2;
            match self.key(middle).cmp(key) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Ok(middle),
            }
        }
        Err(low)
    }

    /// Bytes that cells and slots use.
    pub fn used_bytes(&self) -> usize {
        self.bytes.len() - HEADER_BYTES - self.free_bytes()
    }

    /// Whether the page is so empty that it should be merged with a neighbour.
    pub fn is_sparse(&self) -> bool {
        self.used_bytes() * 4 < self.bytes.len() - HEADER_BYTES
    }

    /// Sets a child of an inner page; indexes as in [`Page::child`].
    pub fn set_child(&mut self, index: usize, child: PageNumber) {
        match index {
            0 => self.set_first_child(child),
            _ => {
                let at = self.slot(index - 1) + 2;
                self.bytes[at..at + 8].copy_from_slice(&child.to_le_bytes());
                self.mark_changed(at, at + 8);
            }
        }
    }

    /// Overwrites the cell at `index` with `cell`. Returns false and changes nothing if the lengths differ.
    pub fn replace(&mut self, index: usize, cell: &[u8]) -> bool {
        let at = self.slot(index);
        if self.cell(index).len() != cell.len() {
            return false;
        }
        self.bytes[at..at + cell.len()].copy_from_slice(cell);
        self.mark_changed(at, at + cell.len());
        true
    }

    /// Takes in all cells of `right`, the next page of the same level, whose keys begin at `separator`. Returns false and changes nothing if
    /// the result would fill more than three quarters of a page.
    pub fn absorb(&mut self, separator: &[u8], right: &Page) -> bool {
        let between = (!self.is_leaf()).then(|| inner_cell(separator, right.child(0)));
        let used = self.used_bytes() + right.used_bytes() + between.as_ref().map_or(0, |cell| cell.len() + 2);
        if used * 4 > (self.bytes.len() - HEADER_BYTES) * 3 {
            return false;
        }
        let old = self.clone();
        self.clear();
        (0..old.count()).for_each(|index| self.push(old.cell(index)));
        between.iter().for_each(|cell| self.push(cell));
        (0..right.count()).for_each(|index| self.push(right.cell(index)));
        true
    }

    /// Bytes that are left for cells and slots.
    pub fn free_bytes(&self) -> usize {
        self.gap_bytes() + u32_at(&self.bytes, GARBAGE) as usize
    }

    /// Bytes between the slots and the cells.
    fn gap_bytes(&self) -> usize {
        u32_at(&self.bytes, CELLS) as usize - HEADER_BYTES - 2 * self.count()
    }

    fn set_u16(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        self.mark_changed(at, at + 2);
    }

    fn set_u32(&mut self, at: usize, value: usize) {
        self.bytes[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
        self.mark_changed(at, at + 4);
    }

    fn set_first_child(&mut self, child: PageNumber) {
        self.bytes[CHILD..CHILD + 8].copy_from_slice(&child.to_le_bytes());
        self.mark_changed(CHILD, CHILD + 8);
    }

    fn clear(&mut self) {
        self.bytes[HEADER_BYTES..].fill(0);
        self.mark_changed(0, self.bytes.len());
        self.set_u16(COUNT, 0);
        self.set_u32(CELLS, self.bytes.len());
        self.set_u32(GARBAGE, 0);
        self.set_u16(LAST, 0);
        self.set_u16(RUN, 0);
    }

    /// Adds a cell behind the last one; the caller has checked that it fits.
    fn push(&mut self, cell: &[u8]) {
        let (count, at) = (self.count(), u32_at(&self.bytes, CELLS) as usize - cell.len());
        self.bytes[at..at + cell.len()].copy_from_slice(cell);
        self.mark_changed(at, at + cell.len());
        self.set_u32(CELLS, at);
        self.set_u16(HEADER_BYTES + 2 * count, at as u16);
        self.set_u16(COUNT, count as u16 + 1);
    }

    /// Inserts a cell at `index`. Returns false and changes nothing if it does not fit.
    pub fn insert(&mut self, index: usize, cell: &[u8]) -> bool {
        if cell.len() + 2 > self.free_bytes() {
            return false;
        }
        if cell.len() + 2 > self.gap_bytes() {
            let old = self.clone();
            let (last, run) = (u16_at(&self.bytes, LAST), u16_at(&self.bytes, RUN));
            self.clear();
            (0..old.count()).for_each(|index| self.push(old.cell(index)));
            self.set_u16(LAST, last);
            self.set_u16(RUN, run);
        }
        let count = self.count();
        self.push(cell);
        let at = HEADER_BYTES + 2 * index;
        let slot = self.slot(count) as u16;
        self.bytes.copy_within(at..HEADER_BYTES + 2 * count, at + 2);
        self.mark_changed(at, HEADER_BYTES + 2 * count + 2);
        self.set_u16(at, slot);
        let follows = index > 0 && usize::from(u16_at(&self.bytes, LAST)) == index - 1;
        let run = if follows { u16_at(&self.bytes, RUN).saturating_add(1) } else { 0 };
        self.set_u16(LAST, index as u16);
        self.set_u16(RUN, run);
        true
    }

    /// Removes a cell; returns the bytes of the cell and its slot.
    pub fn remove(&mut self, index: usize) -> usize {
        let (count, length) = (self.count(), self.cell(index).len());
        let at = HEADER_BYTES + 2 * index;
        self.bytes.copy_within(at + 2..HEADER_BYTES + 2 * count, at);
        self.mark_changed(at, HEADER_BYTES + 2 * count);
        self.set_u16(COUNT, count as u16 - 1);
        self.set_u32(GARBAGE, u32_at(&self.bytes, GARBAGE) as usize + length);
        length + 2
    }

    /// Removes a child of an inner page. Returns false and changes nothing if it is the only one: the page must go then.
    pub fn remove_child(&mut self, index: usize) -> bool {
        if self.count() == 0 {
            return false;
        }
        if index == 0 {
            self.set_first_child(self.child(1));
        }
        self.remove(index.saturating_sub(1));
        true
    }

    /// Splits a page in which `cell` does not fit at `index`, and inserts it: the upper part moves to a new page. Returns the first key of
    /// the new page's range (the separator), and the new page.
    ///
    /// After a run of ascending inserts the page is cut at the insert position, which leaves it full; else in the middle.
    pub fn split(&mut self, index: usize, cell: &[u8]) -> (Vec<u8>, Page) {
        let old = self.clone();
        let leaf = old.is_leaf();
        let mut cells: Vec<&[u8]> = (0..old.count()).map(|index| old.cell(index)).collect();
        cells.insert(index, cell);
        let room = self.bytes.len() - HEADER_BYTES;
        let size = |cells: &[&[u8]]| cells.iter().map(|cell| cell.len() + 2).sum::<usize>();
        let run = u16_at(&old.bytes, RUN);
        let ascends = index > 0
            && (index == old.count()
                || (run >= ASCENDING && usize::from(u16_at(&old.bytes, LAST)) == index - 1));
        let cut = if ascends && leaf && size(&cells[index..]) <= room {
            index
        } else if ascends && !leaf && index == old.count() {
            index - 1
        } else {
            let half = size(&cells) / 2;
            let mut sum = 0;
            let middle = cells.iter().position(|cell| {
                sum += cell.len() + 2;
                sum >= half
            });
            (middle.unwrap_or(0) + 1).clamp(1, cells.len() - 1)
        };
        let separator = if leaf {
            let (last, first) = (cell_key(true, cells[cut - 1]), cell_key(true, cells[cut]));
            let common = last.iter().zip(first).take_while(|(a, b)| a == b).count();
            first[..(common + 1).min(first.len())].to_vec()
        } else {
            cell_key(false, cells[cut]).to_vec()
        };
        let (child, from) =
            if leaf { (PageNumber::NONE, cut) } else { (page_number_at(cells[cut], 2), cut + 1) };
        let mut right = Page::new(self.bytes.len(), old.level(), child);
        cells[from..].iter().for_each(|cell| right.push(cell));
        if ascends {
            right.set_u16(RUN, run.max(ASCENDING));
        }
        self.clear();
        cells[..cut].iter().for_each(|cell| self.push(cell));
        (separator, right)
    }
}
