//! Cells: a key with its value (in a leaf) or its child (in an inner page). `FORMAT.md` draws them.

use crate::engine::btree::allocation_unit::{FIRST_UNIT, PageNumber, UnitNumber, Units};

/// Size from which on values lie in extents.
pub const OUT_OF_LINE_BYTES: usize = 2048;
const _: () = assert!(OUT_OF_LINE_BYTES < CLEAN as usize);
/// Bytes of an extent reference in a leaf cell.
pub const EXTENT_BYTES: usize = 20;
/// Value length that stands for an extent reference.
const OUT_OF_LINE: u16 = u16::MAX;
/// Value length that stands for a tombstone.
const TOMBSTONE: u16 = u16::MAX - 1;
/// Value length that stands for an extent reference of a clean entry.
const CLEAN_OUT_OF_LINE: u16 = u16::MAX - 2;
/// Bit of the length of an inline value that says that the entry is clean.
const CLEAN: u16 = 1 << 15;
/// Bytes before the key of a leaf cell: two lengths.
pub const LEAF_CELL_BYTES: usize = 4;
/// Bytes before the key of an inner cell: key length and child.
pub const INNER_CELL_BYTES: usize = 10;

/// No file has as many units: 2 EiB.
const UNIT_MAX: UnitNumber = UnitNumber::new(1 << 49);

/// The place of a value that lies outside its leaf, in whole units of the file without a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First unit.
    pub unit: UnitNumber,
    /// Number of units; stored in 32 bits.
    pub units: Units,
    /// Bytes of the value.
    pub bytes: u32,
    /// CRC-32 of the value.
    pub crc: u32,
}

impl Extent {
    /// Whether the reference is possible: as many units as the value takes, at a place that a file can have.
    pub fn is_possible(&self) -> bool {
        let units = Units::of_bytes(u64::from(self.bytes));
        !units.is_zero() && self.units == units && (FIRST_UNIT..UNIT_MAX).contains(&self.unit)
    }
}

/// The value of a leaf's cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CellValue<'a> {
    /// The value itself.
    Inline(&'a [u8]),
    /// The place of the value.
    Extent(Extent),
    /// The key is deleted, and may lie below the tree.
    Tombstone,
}

/// Encodes a leaf's cell.
pub fn leaf_cell(key: &[u8], stored: CellValue<'_>) -> Vec<u8> {
    let mut cell = Vec::with_capacity(LEAF_CELL_BYTES + key.len() + EXTENT_BYTES);
    cell.extend_from_slice(&(key.len() as u16).to_le_bytes());
    match stored {
        CellValue::Inline(value) => {
            cell.extend_from_slice(&(value.len() as u16).to_le_bytes());
            cell.extend_from_slice(key);
            cell.extend_from_slice(value);
        }
        CellValue::Extent(extent) => {
            cell.extend_from_slice(&OUT_OF_LINE.to_le_bytes());
            cell.extend_from_slice(key);
            cell.extend_from_slice(&extent.unit.get().to_le_bytes());
            for word in [extent.units.get() as u32, extent.bytes, extent.crc] {
                cell.extend_from_slice(&word.to_le_bytes());
            }
        }
        CellValue::Tombstone => {
            cell.extend_from_slice(&TOMBSTONE.to_le_bytes());
            cell.extend_from_slice(key);
        }
    }
    cell
}

/// Makes a leaf's cell with a value that of a clean entry, of which what lies below the tree has a copy.
pub fn make_clean(cell: &mut [u8]) {
    let length = match u16_at(cell, 2) {
        OUT_OF_LINE => CLEAN_OUT_OF_LINE,
        TOMBSTONE => TOMBSTONE,
        length => length | CLEAN,
    };
    cell[2..4].copy_from_slice(&length.to_le_bytes());
}

/// Whether a checked cell of a leaf is that of a clean entry.
pub fn is_clean(cell: &[u8]) -> bool {
    let length = u16_at(cell, 2);
    length & CLEAN != 0 && length != OUT_OF_LINE && length != TOMBSTONE
}

/// Encodes an inner page's cell: `child` holds the keys from `key` on.
pub fn inner_cell(key: &[u8], child: PageNumber) -> Vec<u8> {
    let mut cell = Vec::with_capacity(INNER_CELL_BYTES + key.len());
    cell.extend_from_slice(&(key.len() as u16).to_le_bytes());
    cell.extend_from_slice(&child.to_le_bytes());
    cell.extend_from_slice(key);
    cell
}

/// The little-endian number in the two bytes at `at`.
#[inline]
pub fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

/// The little-endian number in the four bytes at `at`.
#[inline]
pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The little-endian number in the eight bytes at `at`.
#[inline]
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// The page number at `at`.
#[inline]
pub fn page_number_at(bytes: &[u8], at: usize) -> PageNumber {
    PageNumber::of_word(u64_at(bytes, at))
}

/// Length of the cell at the start of `bytes`; `None` if it is longer than those.
#[inline]
pub fn cell_length(leaf: bool, bytes: &[u8]) -> Option<usize> {
    if bytes.len() < LEAF_CELL_BYTES {
        return None;
    }
    let key = usize::from(u16_at(bytes, 0));
    let length = match (leaf, u16_at(bytes, 2)) {
        (false, _) => INNER_CELL_BYTES + key,
        (true, OUT_OF_LINE | CLEAN_OUT_OF_LINE) => LEAF_CELL_BYTES + key + EXTENT_BYTES,
        (true, TOMBSTONE) => LEAF_CELL_BYTES + key,
        (true, value) => LEAF_CELL_BYTES + key + usize::from(value & !CLEAN),
    };
    (length <= bytes.len()).then_some(length)
}

/// Key of a checked cell.
#[inline]
pub fn cell_key(leaf: bool, cell: &[u8]) -> &[u8] {
    let start = if leaf { LEAF_CELL_BYTES } else { INNER_CELL_BYTES };
    &cell[start..start + usize::from(u16_at(cell, 0))]
}

/// Value of a checked cell of a leaf.
#[inline]
pub fn cell_value(cell: &[u8]) -> CellValue<'_> {
    let at = LEAF_CELL_BYTES + usize::from(u16_at(cell, 0));
    match u16_at(cell, 2) {
        OUT_OF_LINE | CLEAN_OUT_OF_LINE => CellValue::Extent(Extent {
            unit: UnitNumber::new(u64_at(cell, at)),
            units: Units::from(u32_at(cell, at + 8)),
            bytes: u32_at(cell, at + 12),
            crc: u32_at(cell, at + 16),
        }),
        TOMBSTONE => CellValue::Tombstone,
        _ => CellValue::Inline(&cell[at..]),
    }
}
