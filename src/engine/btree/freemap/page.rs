//! Entries of pages of the map in their parents: place, checksum, and a summary of the page.
//!
//! The pages of level 0 are the bitmaps of groups; a page of a higher level has the entries of [`CHILDREN`] pages of the level below. The
//! entry of the root is in the meta page. Each page has two adjacent units, its *home*, to which it is written in turn, so the page of the
//! durable state stays intact until the next one is durable.

use super::UnitRun;
use super::bits::GROUP_UNITS;
use crate::engine::btree::allocation_unit::{FIRST_UNIT, UNIT_BYTES, UnitNumber, Units};

/// Entries of a page above level 0.
pub const CHILDREN: usize = UNIT_BYTES as usize / ENTRY_BYTES;
/// Bytes of an encoded entry.
pub const ENTRY_BYTES: usize = 16;
/// Units of a page's home.
pub const HOME_UNITS: Units = Units::new(2);
/// Value of the longest run that says that the page's content was lost.
const LOST: u16 = u16::MAX;

/// The entry of a page in its parent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MapEntry {
    /// The unit that the page lies in; none if there is no page: no unit is free.
    pub unit: UnitNumber,
    /// Distance of that unit from the start of the page's home: none or one.
    pub side: Units,
    /// CRC-32 of the page.
    pub crc: u32,
    /// Free units, in the entry of a group.
    pub free_units: u16,
    /// Longest free run within the group, in the entry of a group.
    pub longest_units: u16,
}

impl MapEntry {
    /// The entry, with the mark that the page's content was lost.
    pub fn lost(self) -> MapEntry {
        MapEntry { crc: 0, free_units: 0, longest_units: LOST, ..self }
    }

    /// Whether the page's content was lost.
    pub fn is_lost(&self) -> bool {
        self.longest_units == LOST
    }

    /// The two units of the page.
    pub fn home(&self) -> Option<UnitRun> {
        (!self.unit.is_none()).then(|| (self.unit.saturating_sub(self.side), HOME_UNITS))
    }

    /// Appends the entry as it is written in the parent.
    pub fn encode(&self, target: &mut Vec<u8>) {
        target.extend_from_slice(&(self.unit.get() << 1 | self.side.get()).to_le_bytes());
        target.extend_from_slice(&self.crc.to_le_bytes());
        target.extend_from_slice(&self.free_units.to_le_bytes());
        target.extend_from_slice(&self.longest_units.to_le_bytes());
    }

    /// Decodes an entry of a map of the units below `end`; `None` if it is not a valid one.
    pub fn decode(bytes: &[u8], end: UnitNumber) -> Option<MapEntry> {
        let (place, rest) = bytes.split_first_chunk::<8>()?;
        let (crc, rest) = rest.split_first_chunk::<4>()?;
        let (free_units, rest) = rest.split_first_chunk::<2>()?;
        let place = u64::from_le_bytes(*place);
        let entry = MapEntry {
            unit: UnitNumber::new(place >> 1),
            side: Units::new(place & 1),
            crc: u32::from_le_bytes(*crc),
            free_units: u16::from_le_bytes(*free_units),
            longest_units: u16::from_le_bytes(*rest.first_chunk()?),
        };
        entry.is_possible(end).then_some(entry)
    }

    /// Whether the entry is possible in a map of the units below `end`.
    pub fn is_possible(&self, end: UnitNumber) -> bool {
        let most = GROUP_UNITS.get() as u16;
        match self.home() {
            None => *self == MapEntry::default() || *self == MapEntry::default().lost(),
            Some((start, units)) => {
                start >= FIRST_UNIT
                    && self.side < units
                    && start.checked_add(units).is_some_and(|behind| behind <= end)
                    && self.free_units <= most
                    && (self.longest_units <= self.free_units || self.is_lost() && self.free_units == 0)
            }
        }
    }
}

/// Number of groups of a file whose used part ends at `end`.
pub fn groups_of(end: UnitNumber) -> usize {
    end.get().div_ceil(GROUP_UNITS.get()) as usize
}

/// Number of pages in the level above `pages` pages.
pub fn parents_of(pages: usize) -> usize {
    pages.div_ceil(CHILDREN)
}

/// Number of levels above the bitmaps of `groups` groups.
pub fn height_of(groups: usize) -> usize {
    let (mut pages, mut height) = (groups, 0);
    while pages > 1 {
        pages = parents_of(pages);
        height += 1;
    }
    height
}

/// Number of pages of all levels for `groups` groups.
pub fn pages_of(groups: usize) -> u64 {
    let (mut pages, mut all) = (groups, groups);
    while pages > 1 {
        pages = parents_of(pages);
        all += pages;
    }
    all as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(unit: u64) -> UnitNumber {
        UnitNumber::new(unit)
    }

    #[test]
    fn an_entry_is_these_bytes_and_nonsense_is_refused() {
        let entry = MapEntry {
            unit: at(0x0102),
            side: Units::ONE,
            crc: 0x0a0b_0c0d,
            free_units: 0x8000,
            longest_units: 0x7ffe,
        };
        let mut bytes = Vec::new();
        entry.encode(&mut bytes);
        assert_eq!(bytes, [5, 2, 0, 0, 0, 0, 0, 0, 0x0d, 0x0c, 0x0b, 0x0a, 0, 0x80, 0xfe, 0x7f]);
        assert_eq!(MapEntry::decode(&bytes, at(0x103)), Some(entry));
        assert_eq!(MapEntry::decode(&bytes, at(0x102)), None, "behind the end");
        assert_eq!(MapEntry::decode(&bytes[..15], at(0x103)), None);
        assert_eq!(MapEntry::decode(&[0; 16], at(2)), Some(MapEntry::default()));
        assert_eq!(entry.home(), Some((at(0x0101), HOME_UNITS)));
        let mut lost = Vec::new();
        entry.lost().encode(&mut lost);
        assert!(MapEntry::decode(&lost, at(0x103)).unwrap().is_lost());
        for wrong in [
            MapEntry { unit: at(2), ..entry },
            MapEntry { free_units: 0x8001, ..entry },
            MapEntry { longest_units: 0x8000, free_units: 9, ..entry },
            MapEntry { unit: UnitNumber::NONE, side: Units::ZERO, ..entry },
        ] {
            let mut bytes = Vec::new();
            wrong.encode(&mut bytes);
            assert_eq!(MapEntry::decode(&bytes, at(0x103)), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_tebibyte_has_one_root_over_32_pages() {
        let groups = groups_of(at(1 << 28));
        assert_eq!((groups, height_of(groups), pages_of(groups)), (8192, 2, 8192 + 32 + 1));
        assert_eq!(
            (height_of(0), height_of(1), height_of(2), height_of(256), height_of(257)),
            (0, 0, 1, 1, 2)
        );
    }
}
