//! What a change may take of the file at most.

use super::FreeMap;
use super::load::GroupRequest;
use super::page::HOME_UNITS;
use crate::engine::btree::allocation_unit::{UnitNumber, Units};

/// What a batch, or a step of background work, may need at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpaceNeeds {
    /// Units that it takes.
    pub units: Units,
    /// The most of them that must lie together.
    pub piece_units: Units,
    /// Pages that are clean and that it may change.
    pub pages: u64,
}

impl SpaceNeeds {
    /// How far the file must grow so that a change which needs this finds it in `space`, with what the map then needs; `None` if it does.
    pub fn lacking(&self, space: &FreeMap) -> Option<UnitNumber> {
        space.lacking(self.units + space.map_units_max(self.units), self.piece_units.max(HOME_UNITS))
    }

    /// The group of `map` to be loaded so that it need not be taken from the tail.
    pub fn wanted(&self, map: &FreeMap) -> Option<GroupRequest> {
        if self.units.is_zero() {
            return None;
        }
        map.wanted(self.units, self.piece_units).or_else(|| map.wanted(self.units, Units::ONE))
    }
}
