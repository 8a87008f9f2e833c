//! The data file: its name, and the allocation unit that its space is counted in.
//!
//! A place in the file is a [`UnitNumber`], a length is [`Units`], and a page of the tree is named by a [`PageNumber`]. They are
//! `u64` at run time; as types of their own they cannot be taken for each other, or for bytes. Only formats and reports turn them into
//! plain numbers.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, AddAssign, Div, Mul, Sub, SubAssign};

/// Name of the data file.
pub const FILE: &str = "btree.pages";
/// Bytes of an allocation unit.
pub const UNIT_BYTES: u64 = 4096;
/// The first unit behind the meta pages.
pub const FIRST_UNIT: UnitNumber = UnitNumber(2);

/// The number of an allocation unit: a place in the data file. 0 is a meta page, so it also stands for "nowhere".
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitNumber(u64);

/// A count of allocation units: a length.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Units(u64);

/// The number of a page of the tree: that of the first unit that the page takes, and in the highest byte the number of units that it takes there
/// if it is compressed. So who refers to a page knows how long it is. [`PageNumber::NONE`] where there is no page.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageNumber(u64);

/// Things by page. Page numbers are ours, and nobody chooses them to make a table slow: a quick hash will do, and each level of a search asks some.
pub type PageMap<T> = HashMap<PageNumber, T, foldhash::fast::RandomState>;
/// A set of pages.
pub type PageSet = HashSet<PageNumber, foldhash::fast::RandomState>;
/// Things by unit.
pub type UnitMap<T> = HashMap<UnitNumber, T, foldhash::fast::RandomState>;
/// A set of units.
pub type UnitSet = HashSet<UnitNumber, foldhash::fast::RandomState>;

/// Bits of a page number that hold its unit.
const UNIT_BITS: u32 = 56;

impl UnitNumber {
    /// No place at all.
    pub const NONE: UnitNumber = UnitNumber(0);
    /// Behind every place.
    pub const MAX: UnitNumber = UnitNumber(u64::MAX);

    /// The unit with this number.
    #[inline]
    pub const fn new(number: u64) -> UnitNumber {
        UnitNumber(number)
    }

    /// The number.
    #[inline]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The unit that holds the byte at `offset` of the file: the end of a file of that size, without a unit that is not whole.
    #[inline]
    pub const fn of_offset(offset: u64) -> UnitNumber {
        UnitNumber(offset / UNIT_BYTES)
    }

    /// Byte offset in the file. Of a number that damage made too large, the largest number.
    #[inline]
    pub const fn offset(self) -> u64 {
        self.0.saturating_mul(UNIT_BYTES)
    }

    /// Whether it is no place at all.
    #[inline]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The place `units` behind it; `None` if there is no such number.
    #[inline]
    pub fn checked_add(self, units: Units) -> Option<UnitNumber> {
        self.0.checked_add(units.0).map(UnitNumber)
    }

    /// The place `units` behind it, or the last one.
    #[inline]
    pub fn saturating_add(self, units: Units) -> UnitNumber {
        UnitNumber(self.0.saturating_add(units.0))
    }

    /// The place `units` before it, or the first one.
    #[inline]
    pub fn saturating_sub(self, units: Units) -> UnitNumber {
        UnitNumber(self.0.saturating_sub(units.0))
    }

    /// Units from `start` up to it; none if it lies before that.
    #[inline]
    pub fn saturating_since(self, start: UnitNumber) -> Units {
        Units(self.0.saturating_sub(start.0))
    }
}

impl Units {
    /// No unit.
    pub const ZERO: Units = Units(0);
    /// One unit.
    pub const ONE: Units = Units(1);

    /// So many units.
    #[inline]
    pub const fn new(count: u64) -> Units {
        Units(count)
    }

    /// The number of units.
    #[inline]
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Number of units that `bytes` take.
    #[inline]
    pub const fn of_bytes(bytes: u64) -> Units {
        Units(bytes.div_ceil(UNIT_BYTES))
    }

    /// Number of whole units that fit into `bytes`.
    #[inline]
    pub const fn within_bytes(bytes: u64) -> Units {
        Units(bytes / UNIT_BYTES)
    }

    /// Bytes of the units. Of a number that damage made too large, the largest number.
    #[inline]
    pub const fn bytes(self) -> u64 {
        self.0.saturating_mul(UNIT_BYTES)
    }

    /// Whether there are none.
    #[inline]
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The difference, or zero if `units` is larger.
    #[inline]
    pub fn saturating_sub(self, units: Units) -> Units {
        Units(self.0.saturating_sub(units.0))
    }
}

impl PageNumber {
    /// No page: the root of an empty tree, the first child of a leaf.
    pub const NONE: PageNumber = PageNumber(0);

    /// The page that begins at `unit` and is not compressed.
    #[inline]
    pub const fn at(unit: UnitNumber) -> PageNumber {
        PageNumber(unit.0 & ((1 << UNIT_BITS) - 1))
    }

    /// The page that begins at `unit` and is compressed to `units`, which are fewer than those of a page.
    #[inline]
    pub const fn compressed(unit: UnitNumber, units: Units) -> PageNumber {
        PageNumber(PageNumber::at(unit).0 | units.0 << UNIT_BITS)
    }

    /// The first unit of the page.
    #[inline]
    pub const fn unit(self) -> UnitNumber {
        UnitNumber(self.0 & ((1 << UNIT_BITS) - 1))
    }

    /// Whether the page is compressed.
    #[inline]
    pub const fn is_compressed(self) -> bool {
        self.0 >> UNIT_BITS > 0
    }

    /// Units that the page takes where one that is not compressed takes `page_units`.
    #[inline]
    pub const fn units(self, page_units: Units) -> Units {
        match self.0 >> UNIT_BITS {
            0 => page_units,
            units => Units(units),
        }
    }

    /// Units that the page takes less than `page_units`.
    #[inline]
    pub fn saved_units(self, page_units: Units) -> Units {
        page_units.saturating_sub(self.units(page_units))
    }

    /// Byte offset of the page in the file, as [`UnitNumber::offset`].
    #[inline]
    pub const fn offset(self) -> u64 {
        self.unit().offset()
    }

    /// The number as it stands in the meta page.
    #[inline]
    pub const fn word(self) -> u64 {
        self.0
    }

    /// The number of this word of a meta page or a page.
    #[inline]
    pub const fn of_word(word: u64) -> PageNumber {
        PageNumber(word)
    }

    /// Decodes it from a record of the log.
    #[inline]
    pub const fn from_le_bytes(bytes: [u8; 8]) -> PageNumber {
        PageNumber(u64::from_le_bytes(bytes))
    }

    /// Encodes it as it stands in pages and records.
    #[inline]
    pub const fn to_le_bytes(self) -> [u8; 8] {
        self.0.to_le_bytes()
    }
}

impl fmt::Display for UnitNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Units {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for PageNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.unit().fmt(f)
    }
}

impl From<u16> for Units {
    #[inline]
    fn from(count: u16) -> Units {
        Units(u64::from(count))
    }
}

impl From<u32> for Units {
    #[inline]
    fn from(count: u32) -> Units {
        Units(u64::from(count))
    }
}

impl Add<Units> for UnitNumber {
    type Output = UnitNumber;

    #[inline]
    fn add(self, units: Units) -> UnitNumber {
        UnitNumber(self.0 + units.0)
    }
}

impl AddAssign<Units> for UnitNumber {
    #[inline]
    fn add_assign(&mut self, units: Units) {
        self.0 += units.0;
    }
}

impl Sub<Units> for UnitNumber {
    type Output = UnitNumber;

    #[inline]
    fn sub(self, units: Units) -> UnitNumber {
        UnitNumber(self.0 - units.0)
    }
}

impl Sub for UnitNumber {
    type Output = Units;

    #[inline]
    fn sub(self, start: UnitNumber) -> Units {
        Units(self.0 - start.0)
    }
}

impl Add for Units {
    type Output = Units;

    #[inline]
    fn add(self, units: Units) -> Units {
        Units(self.0 + units.0)
    }
}

impl AddAssign for Units {
    #[inline]
    fn add_assign(&mut self, units: Units) {
        self.0 += units.0;
    }
}

impl Sub for Units {
    type Output = Units;

    #[inline]
    fn sub(self, units: Units) -> Units {
        Units(self.0 - units.0)
    }
}

impl SubAssign for Units {
    #[inline]
    fn sub_assign(&mut self, units: Units) {
        self.0 -= units.0;
    }
}

impl Mul<u64> for Units {
    type Output = Units;

    #[inline]
    fn mul(self, times: u64) -> Units {
        Units(self.0 * times)
    }
}

impl Div<u64> for Units {
    type Output = Units;

    #[inline]
    fn div(self, parts: u64) -> Units {
        Units(self.0 / parts)
    }
}

impl Sum for Units {
    fn sum<I: Iterator<Item = Units>>(all: I) -> Units {
        all.fold(Units::ZERO, Add::add)
    }
}

/// Short constructors for tests, whose numbers are literal.
#[cfg(test)]
pub mod literal {
    use super::{PageNumber, UnitNumber, Units};

    /// The unit with this number.
    pub fn unit_number(number: u64) -> UnitNumber {
        UnitNumber::new(number)
    }

    /// So many units.
    pub fn unit_count(count: u64) -> Units {
        Units::new(count)
    }

    /// The page at the unit with this number.
    pub fn page_number(number: u64) -> PageNumber {
        PageNumber::at(UnitNumber::new(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_and_lengths_count_as_what_they_are() {
        let (start, units) = (UnitNumber::new(10), Units::of_bytes(4097));
        assert_eq!((units, units.bytes()), (Units::new(2), 8192));
        assert_eq!((start + units, start + units - start), (UnitNumber::new(12), units));
        assert_eq!(Units::within_bytes(8191), Units::ONE);
        assert_eq!((UnitNumber::of_offset(8191), UnitNumber::new(3).offset()), (UnitNumber::new(1), 12288));
        assert_eq!(start.saturating_since(start + units), Units::ZERO);
        let page = PageNumber::at(start);
        assert_eq!(
            (PageNumber::from_le_bytes(page.to_le_bytes()), page.to_string()),
            (page, "10".to_string())
        );
        let compressed = PageNumber::compressed(start, Units::new(3));
        assert_eq!((compressed.unit(), compressed.to_string()), (start, "10".to_string()));
        let page_units = Units::new(4);
        assert_eq!([page, compressed].map(|page| page.units(page_units).get()), [4, 3]);
        assert_eq!([page, compressed].map(|page| page.saved_units(page_units).get()), [0, 1]);
        assert_eq!([page, compressed].map(PageNumber::is_compressed), [false, true]);
        // Numbers of damaged pages are shown, never a reason to panic.
        assert_eq!(UnitNumber::MAX.offset(), u64::MAX);
        assert!(UnitNumber::MAX.checked_add(Units::ONE).is_none());
        assert_eq!([size_of::<UnitNumber>(), size_of::<Units>(), size_of::<PageNumber>()], [8; 3]);
    }
}
