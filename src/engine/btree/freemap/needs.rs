//! Upper bounds of the space that a change takes in the file.

use super::FreeMap;
use super::load::GroupRequest;
use super::page::HOME_UNITS;
use crate::engine::btree::allocation_unit::{UnitNumber, Units};

/// Upper bounds of the space that a batch or a step of background work takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpaceNeeds {
    /// Units in all.
    pub units: Units,
    /// Largest number of them that must be adjacent.
    pub piece_units: Units,
    /// Clean pages that may become dirty.
    pub pages: u64,
}

impl SpaceNeeds {
    /// The end to which the file must grow so that `space` has room for the change and for the pages of the map that come with it; `None` if it
    /// has room already.
    pub fn lacking(&self, space: &FreeMap) -> Option<UnitNumber> {
        space.lacking(self.units + space.map_units_max(self.units), self.piece_units.max(HOME_UNITS))
    }

    /// The group of `map` to be loaded so that the space need not come from the tail.
    pub fn wanted(&self, map: &FreeMap) -> Option<GroupRequest> {
        if self.units.is_zero() {
            return None;
        }
        map.wanted(self.units, self.piece_units).or_else(|| map.wanted(self.units, Units::ONE))
    }
}
