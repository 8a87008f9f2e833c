//! One page: a slotted array of cells in ascending order of their keys, used in memory exactly as it lies in the file.
//!
//! Slots (offsets of cells) grow up behind the header, cells grow down from the end. Removing a cell leaves a gap that the next
//! insert which needs it closes by rewriting the page. `FORMAT.md` draws header and cells.
//!
//! # Invariants
//!
//! 1. A cell takes at most a quarter of what a page holds, so that an overfull page always splits into two that fit.
//! 2. A page that came through [`Page::decode`] can be used without a panic: every offset and length was checked, and so was the order
//!    of its keys.
//! 3. The checksum is set on the way out ([`Page::seal`]) and is stale in memory.
//! 4. Every change of a byte marks its unit, so that a checkpoint writes and logs the units of a page that changed and no others. Whole
//!    units, though mostly few sectors of them changed: a drive whose sectors have 4 KiB may leave nothing of one that it was writing.

/// Values from this size on lie in extents.
const OUT_OF_LINE_BYTES: usize = 2048;
const _: () = assert!(OUT_OF_LINE_BYTES < u16::MAX as usize);
/// Bytes before the slots.
pub const HEADER_BYTES: usize = 32;
/// Bytes of an extent reference in a leaf cell.
const EXTENT_BYTES: usize = 20;
/// Value length that says "an extent reference follows".
const OUT_OF_LINE: u16 = u16::MAX;
/// Lengths before the key of a leaf cell.
const LEAF_CELL_BYTES: usize = 4;
/// Key length and child before the key of an inner cell.
const INNER_CELL_BYTES: usize = 10;
/// Inserts in a row, each behind the last, after which a split happens where the next one goes.
const ASCENDING: u16 = 4;

use super::units::{FIRST_UNIT, UNIT_BYTES};
use crate::engine::{PageCause, PageKind};

const UNIT: usize = UNIT_BYTES as usize;
/// What page images in the log are made of.
pub const SECTOR_BYTES: usize = 512;
const _: () = assert!(UNIT / SECTOR_BYTES == 8 && (64 << 10) / SECTOR_BYTES <= u128::BITS as usize);
const _: () = assert!((64 << 10) / UNIT <= u16::BITS as usize);
const MAGIC: u8 = 0xB7;
/// Where a page has its level.
pub const LEVEL: usize = 5;
const COUNT: usize = 6;
const CELLS: usize = 8;
const GARBAGE: usize = 12;
const CHILD: usize = 16;
const LAST: usize = 24;
const RUN: usize = 26;

/// A value that lies outside its leaf: whole units of the file, without header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First unit.
    pub unit: u64,
    /// How many.
    pub units: u32,
    /// Bytes of the value.
    pub bytes: u32,
    /// CRC-32 of the value.
    pub crc: u32,
}

impl Extent {
    /// Whether it can be: as many units as the value takes, at a place that a file can have.
    pub fn is_possible(&self) -> bool {
        let units = u64::from(self.bytes).div_ceil(UNIT as u64);
        units > 0 && u64::from(self.units) == units && (FIRST_UNIT..1 << 49).contains(&self.unit)
    }
}

/// What a leaf holds for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored<'a> {
    /// The value.
    Inline(&'a [u8]),
    /// Where it lies.
    Extent(Extent),
}

/// A page in memory.
#[derive(Clone)]
pub struct Page {
    bytes: Box<[u8]>,
    /// Bit i: unit i of the page may differ from the file.
    changed: u16,
    /// Why the first of these changes was made.
    cause: PageCause,
}

/// Bytes that a cell and its slot may take together in a page of `page_bytes`.
pub fn cell_bytes_max(page_bytes: usize) -> usize {
    (page_bytes - HEADER_BYTES) / 4
}

/// Whether `value` fits into the leaf beside its key, or needs an extent.
pub fn is_inline(page_bytes: usize, key: &[u8], value: &[u8]) -> bool {
    value.len() < OUT_OF_LINE_BYTES
        && LEAF_CELL_BYTES + key.len() + value.len() + 2 <= cell_bytes_max(page_bytes)
}

/// Longest key of a page of `page_bytes`.
pub fn key_bytes_max(page_bytes: usize) -> usize {
    cell_bytes_max(page_bytes) - LEAF_CELL_BYTES - EXTENT_BYTES - 2
}

/// A leaf's cell.
pub fn leaf_cell(key: &[u8], stored: Stored<'_>) -> Vec<u8> {
    let mut cell = Vec::with_capacity(LEAF_CELL_BYTES + key.len() + EXTENT_BYTES);
    cell.extend_from_slice(&(key.len() as u16).to_le_bytes());
    match stored {
        Stored::Inline(value) => {
            cell.extend_from_slice(&(value.len() as u16).to_le_bytes());
            cell.extend_from_slice(key);
            cell.extend_from_slice(value);
        }
        Stored::Extent(extent) => {
            cell.extend_from_slice(&OUT_OF_LINE.to_le_bytes());
            cell.extend_from_slice(key);
            cell.extend_from_slice(&extent.unit.to_le_bytes());
            for word in [extent.units, extent.bytes, extent.crc] {
                cell.extend_from_slice(&word.to_le_bytes());
            }
        }
    }
    cell
}

/// An inner page's cell: `child` holds the keys from `key` on.
pub fn inner_cell(key: &[u8], child: u64) -> Vec<u8> {
    let mut cell = Vec::with_capacity(INNER_CELL_BYTES + key.len());
    cell.extend_from_slice(&(key.len() as u16).to_le_bytes());
    cell.extend_from_slice(&child.to_le_bytes());
    cell.extend_from_slice(key);
    cell
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// Length of the cell at the start of `bytes`; `None` if it does not fit.
fn cell_length(leaf: bool, bytes: &[u8]) -> Option<usize> {
    if bytes.len() < LEAF_CELL_BYTES {
        return None;
    }
    let key = usize::from(u16_at(bytes, 0));
    let length = match (leaf, u16_at(bytes, 2)) {
        (false, _) => INNER_CELL_BYTES + key,
        (true, OUT_OF_LINE) => LEAF_CELL_BYTES + key + EXTENT_BYTES,
        (true, value) => LEAF_CELL_BYTES + key + usize::from(value),
    };
    (length <= bytes.len()).then_some(length)
}

fn cell_key(leaf: bool, cell: &[u8]) -> &[u8] {
    let start = if leaf { LEAF_CELL_BYTES } else { INNER_CELL_BYTES };
    &cell[start..start + usize::from(u16_at(cell, 0))]
}

/// The checksum of a page at `unit`.
pub(super) fn checksum(unit: u64, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&unit.to_le_bytes());
    hasher.update(&bytes[4..]);
    hasher.finalize()
}

impl Page {
    /// An empty page of a level; 0 is a leaf. An inner page needs its first `child`.
    pub fn new(page_bytes: usize, level: u8, child: u64) -> Page {
        let mut page =
            Page { bytes: vec![0; page_bytes].into_boxed_slice(), changed: 0, cause: PageCause::Change };
        page.bytes[4] = MAGIC;
        page.bytes[LEVEL] = level;
        page.clear();
        page.set_first_child(child);
        page
    }

    /// Takes a page that was read at `unit`; the error says what is wrong with it.
    pub fn decode(unit: u64, bytes: Vec<u8>) -> Result<Page, &'static str> {
        if bytes.len() < HEADER_BYTES || u32_at(&bytes, 0) != checksum(unit, &bytes) {
            return Err("the page's checksum does not fit");
        }
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
            // Or a search could go round in circles.
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

    /// Appends the page as it belongs at `unit` of the file, checksum included.
    pub fn seal(&self, unit: u64, target: &mut Vec<u8>) {
        let at = target.len();
        target.extend_from_slice(&self.bytes);
        let crc = checksum(unit, &self.bytes);
        target[at..at + 4].copy_from_slice(&crc.to_le_bytes());
    }

    /// Units of the page that may differ from the file, ascending.
    pub fn changed_units(&self) -> impl Iterator<Item = usize> + use<> {
        let changed = self.changed;
        (0..u16::BITS as usize).filter(move |unit| changed >> unit & 1 == 1)
    }

    /// Sectors of these units: bit i for sector i.
    pub fn changed_sectors(&self) -> u128 {
        let sectors = UNIT / SECTOR_BYTES;
        self.changed_units().fold(0, |changed, unit| changed | 0xFF << (unit * sectors))
    }

    /// From here on changes are those against the page as it is now; the first one is made for `cause`.
    pub fn begin_changes(&mut self, cause: PageCause) {
        self.changed = 0;
        self.cause = cause;
    }

    /// Why the first change was made.
    pub fn cause(&self) -> PageCause {
        self.cause
    }

    /// Says why the page is as it is.
    pub fn set_cause(&mut self, cause: PageCause) {
        self.cause = cause;
    }

    /// What it counts as.
    pub fn kind(&self) -> PageKind {
        PageKind::of_level(self.level())
    }

    /// Bytes `from..to` have changed, and with them the checksum in the first unit.
    fn mark(&mut self, from: usize, to: usize) {
        let units = from / UNIT..=to.saturating_sub(1).max(from) / UNIT;
        self.changed |= units.fold(1, |changed, unit| changed | 1 << unit);
    }

    /// 0 for a leaf, else one more than its children's.
    pub fn level(&self) -> u8 {
        self.bytes[LEVEL]
    }

    /// Whether it holds values.
    pub fn is_leaf(&self) -> bool {
        self.level() == 0
    }

    /// Its size.
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

    /// Bytes that a cell takes with its slot.
    pub fn cell_bytes(&self, index: usize) -> usize {
        self.cell(index).len() + 2
    }

    /// Key of a cell; in an inner page the first key its child may hold.
    pub fn key(&self, index: usize) -> &[u8] {
        cell_key(self.is_leaf(), &self.bytes[self.slot(index)..])
    }

    /// What a leaf's cell holds.
    pub fn stored(&self, index: usize) -> Stored<'_> {
        let cell = self.cell(index);
        let at = LEAF_CELL_BYTES + usize::from(u16_at(cell, 0));
        if u16_at(cell, 2) == OUT_OF_LINE {
            Stored::Extent(Extent {
                unit: u64_at(cell, at),
                units: u32_at(cell, at + 8),
                bytes: u32_at(cell, at + 12),
                crc: u32_at(cell, at + 16),
            })
        } else {
            Stored::Inline(&cell[at..])
        }
    }

    /// Child of an inner page; 0 is the first, `count()` the last.
    pub fn child(&self, index: usize) -> u64 {
        match index {
            0 => u64_at(&self.bytes, CHILD),
            _ => u64_at(&self.bytes, self.slot(index - 1) + 2),
        }
    }

    /// Index of the child that covers `key`.
    pub fn child_index(&self, key: &[u8]) -> usize {
        match self.search(key) {
            Ok(index) => index + 1,
            Err(index) => index,
        }
    }

    /// Index of the cell with `key`, or where it would go.
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

    /// Bytes that cells and slots take.
    pub fn used_bytes(&self) -> usize {
        self.bytes.len() - HEADER_BYTES - self.free_bytes()
    }

    /// Whether it is so empty that it should join a neighbour.
    pub fn is_sparse(&self) -> bool {
        self.used_bytes() * 4 < self.bytes.len() - HEADER_BYTES
    }

    /// Sets a child of an inner page; indexes as in [`Page::child`].
    pub fn set_child(&mut self, index: usize, child: u64) {
        match index {
            0 => self.set_first_child(child),
            _ => {
                let at = self.slot(index - 1) + 2;
                self.bytes[at..at + 8].copy_from_slice(&child.to_le_bytes());
                self.mark(at, at + 8);
            }
        }
    }

    /// Puts `cell` in the place of the one at `index`; false, and nothing has changed, if its length is another.
    pub fn replace(&mut self, index: usize, cell: &[u8]) -> bool {
        let at = self.slot(index);
        if self.cell(index).len() != cell.len() {
            return false;
        }
        self.bytes[at..at + cell.len()].copy_from_slice(cell);
        self.mark(at, at + cell.len());
        true
    }

    /// Takes in everything of `right`, its neighbour at the same level, whose keys begin at `separator`; false, and nothing has
    /// changed, if that would fill more than three quarters.
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

    /// Bytes that cells and slots may still take.
    pub fn free_bytes(&self) -> usize {
        self.gap_bytes() + u32_at(&self.bytes, GARBAGE) as usize
    }

    /// Bytes between the slots and the cells.
    fn gap_bytes(&self) -> usize {
        u32_at(&self.bytes, CELLS) as usize - HEADER_BYTES - 2 * self.count()
    }

    fn set_u16(&mut self, at: usize, value: u16) {
        self.bytes[at..at + 2].copy_from_slice(&value.to_le_bytes());
        self.mark(at, at + 2);
    }

    fn set_u32(&mut self, at: usize, value: usize) {
        self.bytes[at..at + 4].copy_from_slice(&(value as u32).to_le_bytes());
        self.mark(at, at + 4);
    }

    fn set_first_child(&mut self, child: u64) {
        self.bytes[CHILD..CHILD + 8].copy_from_slice(&child.to_le_bytes());
        self.mark(CHILD, CHILD + 8);
    }

    fn clear(&mut self) {
        self.bytes[HEADER_BYTES..].fill(0);
        self.mark(0, self.bytes.len());
        self.set_u16(COUNT, 0);
        self.set_u32(CELLS, self.bytes.len());
        self.set_u32(GARBAGE, 0);
        self.set_u16(LAST, 0);
        self.set_u16(RUN, 0);
    }

    /// Adds a cell at the end; the caller knows that it fits.
    fn push(&mut self, cell: &[u8]) {
        let (count, at) = (self.count(), u32_at(&self.bytes, CELLS) as usize - cell.len());
        self.bytes[at..at + cell.len()].copy_from_slice(cell);
        self.mark(at, at + cell.len());
        self.set_u32(CELLS, at);
        self.set_u16(HEADER_BYTES + 2 * count, at as u16);
        self.set_u16(COUNT, count as u16 + 1);
    }

    /// Inserts a cell at `index`; false, and nothing has changed, if it does not fit.
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
        self.mark(at, HEADER_BYTES + 2 * count + 2);
        self.set_u16(at, slot);
        let follows = index > 0 && usize::from(u16_at(&self.bytes, LAST)) == index - 1;
        let run = if follows { u16_at(&self.bytes, RUN).saturating_add(1) } else { 0 };
        self.set_u16(LAST, index as u16);
        self.set_u16(RUN, run);
        true
    }

    /// Removes a cell; returns the bytes that it took with its slot.
    pub fn remove(&mut self, index: usize) -> usize {
        let (count, length) = (self.count(), self.cell(index).len());
        let at = HEADER_BYTES + 2 * index;
        self.bytes.copy_within(at + 2..HEADER_BYTES + 2 * count, at);
        self.mark(at, HEADER_BYTES + 2 * count);
        self.set_u16(COUNT, count as u16 - 1);
        self.set_u32(GARBAGE, u32_at(&self.bytes, GARBAGE) as usize + length);
        length + 2
    }

    /// Removes a child of an inner page; false if it was the only one, and then the page is useless.
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

    /// Inserts `cell` at `index` of a page in which it does not fit: the upper part moves to a new page. Returns the key from
    /// which on the new page holds the keys, and the new page.
    ///
    /// After a run of ascending inserts the page is cut where the next one goes, which leaves it full; else in the middle.
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
        let (child, from) = if leaf { (0, cut) } else { (u64_at(cells[cut], 2), cut + 1) };
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;
    use std::collections::BTreeMap;

    fn inline(key: &[u8], value: &[u8]) -> Vec<u8> {
        leaf_cell(key, Stored::Inline(value))
    }

    #[test]
    fn a_leaf_of_two_cells_is_these_bytes_and_every_flip_is_refused() {
        let mut page = Page::new(4096, 0, 0);
        let extent = Extent { unit: 7, units: 1, bytes: 4000, crc: 0xAABB_CCDD };
        assert!(page.insert(0, &leaf_cell(b"b", Stored::Extent(extent))));
        assert!(page.insert(0, &inline(b"a", b"xyz")));
        let mut bytes = Vec::new();
        page.seal(9, &mut bytes);
        let slots = [0xDF, 0x0F, 0xE7, 0x0F];
        assert_eq!(
            bytes[4..32],
            [0xB7, 0, 2, 0, 0xDF, 0x0F, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(bytes[32..36], slots);
        assert_eq!(bytes[4063..4071], [1, 0, 3, 0, b'a', b'x', b'y', b'z']);
        assert_eq!(
            bytes[4071..],
            [
                1, 0, 0xFF, 0xFF, b'b', 7, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0xA0, 0x0F, 0, 0, 0xDD, 0xCC,
                0xBB, 0xAA
            ]
        );
        assert_eq!(u32_at(&bytes, 0), checksum(9, &bytes));
        let back = Page::decode(9, bytes.clone()).unwrap();
        assert_eq!((back.stored(0), back.stored(1)), (Stored::Inline(b"xyz"), Stored::Extent(extent)));
        assert!(Page::decode(8, bytes.clone()).is_err(), "a page read at another place");
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Page::decode(9, bytes.clone()).is_err(), "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
    }

    #[test]
    fn nonsense_with_a_good_checksum_is_refused_without_a_panic() {
        let mut prng = Prng::new(3);
        let mut page = Page::new(4096, 0, 0);
        (0..20u8).for_each(|key| assert!(page.insert(usize::from(key), &inline(&[key], &[key; 40]))));
        let mut good = Vec::new();
        page.seal(1, &mut good);
        for _ in 0..3000 {
            let mut bytes = good.clone();
            for _ in 0..1 + prng.below(4) {
                let at = if prng.one_in(2) { prng.below(80) } else { prng.below(4096) } as usize;
                bytes[at] = prng.bits() as u8;
            }
            let crc = checksum(1, &bytes);
            bytes[..4].copy_from_slice(&crc.to_le_bytes());
            if let Ok(page) = Page::decode(1, bytes) {
                for index in 0..page.count() {
                    let _ = (page.key(index), page.is_leaf().then(|| page.stored(index)));
                    let _ = (!page.is_leaf()).then(|| page.child(index));
                }
                let _ = page.search(&[7]);
            }
        }
    }

    #[test]
    fn inserts_removes_and_splits_keep_a_map() {
        for seed in 0..30 {
            let mut prng = Prng::new(seed);
            let mut model = BTreeMap::new();
            let mut page = Page::new(4096, 0, 0);
            loop {
                let key = vec![prng.bits() as u8; 1 + prng.below(30) as usize];
                let value = vec![prng.bits() as u8; prng.below(200) as usize];
                match page.search(&key) {
                    Ok(index) => {
                        page.remove(index);
                        model.remove(&key);
                    }
                    Err(index) if page.insert(index, &inline(&key, &value)) => {
                        model.insert(key, value);
                    }
                    Err(index) => {
                        let (separator, right) = page.split(index, &inline(&key, &value));
                        model.insert(key, value);
                        let entries = |page: &Page| -> Vec<(Vec<u8>, Vec<u8>)> {
                            (0..page.count())
                                .map(|index| match page.stored(index) {
                                    Stored::Inline(value) => (page.key(index).to_vec(), value.to_vec()),
                                    Stored::Extent(_) => panic!("only inline values"),
                                })
                                .collect()
                        };
                        let (left, right_entries) = (entries(&page), entries(&right));
                        assert!(!left.is_empty() && !right_entries.is_empty());
                        assert!(left.last().unwrap().0 < separator && separator <= right_entries[0].0);
                        let all: Vec<_> = left.into_iter().chain(right_entries).collect();
                        assert_eq!(all, model.into_iter().collect::<Vec<_>>(), "seed {seed}");
                        for (unit, page) in [(1, &page), (2, &right)] {
                            let mut bytes = Vec::new();
                            page.seal(unit, &mut bytes);
                            Page::decode(unit, bytes).map_err(str::to_string).unwrap();
                        }
                        break;
                    }
                }
            }
        }
    }

    #[test]
    fn a_byte_that_differs_lies_in_a_changed_unit_and_few_units_change() {
        let mut prng = Prng::new(5);
        let mut page = Page::new(16 << 10, 0, 0);
        let (mut changed, mut rounds) = (0, 0);
        for key in 0..60u8 {
            assert!(page.insert(usize::from(key), &inline(&[key], &[key; 200])));
        }
        for round in 0..2000 {
            let before = page.clone();
            page.begin_changes(PageCause::Change);
            let key = [prng.below(60) as u8];
            let value = vec![round as u8; if prng.one_in(4) { prng.below(200) as usize } else { 200 }];
            let cell = inline(&key, &value);
            match page.search(&key) {
                Ok(index) if page.replace(index, &cell) => {
                    rounds += 1;
                    changed += page.changed_units().count();
                }
                Ok(index) => drop(page.remove(index)),
                Err(index) => drop(page.insert(index, &cell)),
            }
            let units: Vec<usize> = page.changed_units().collect();
            let sectors = page.changed_sectors();
            assert_eq!(sectors.count_ones() as usize, units.len() * UNIT / SECTOR_BYTES);
            assert!(units.iter().all(|unit| sectors >> (unit * UNIT / SECTOR_BYTES) & 0xFF == 0xFF));
            for (unit, (old, new)) in before.bytes.chunks(UNIT).zip(page.bytes.chunks(UNIT)).enumerate() {
                assert!(old == new || units.contains(&unit), "round {round} unit {unit}");
            }
        }
        assert!(rounds > 300 && changed < rounds * 2, "{changed} units in {rounds} rounds");
    }

    #[test]
    fn ascending_inserts_leave_full_pages_even_in_the_middle() {
        let mut page = Page::new(4096, 0, 0);
        page.insert(0, &inline(b"z", b"last"));
        let mut key = 0u32;
        let (_, right) = loop {
            let cell = inline(&key.to_be_bytes(), &[0; 40]);
            let index = page.search(&key.to_be_bytes()).unwrap_err();
            if !page.insert(index, &cell) {
                break page.split(index, &cell);
            }
            key += 1;
        };
        assert_eq!((page.count(), right.count()), (key as usize, 2));
    }
}
