//! What a change may take of the file at most.

use super::FreeMap;
use super::load::GroupRequest;

/// The map takes two units at a time.
const MAP_PIECE_UNITS: u64 = 2;

/// What a batch, or a step of background work, may need at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct SpaceNeeds {
    /// Units that it takes.
    pub units: u64,
    /// The most of them that must lie together.
    pub piece_units: u64,
    /// Pages that are clean and that it may change.
    pub pages: u64,
}

impl SpaceNeeds {
    /// How far the file must grow so that a change which needs this finds it in `space`, with what the map then needs; `None` if it does.
    pub fn lacking(&self, space: &FreeMap) -> Option<u64> {
        space.lacking(self.units + space.map_units_max(self.units), self.piece_units.max(MAP_PIECE_UNITS))
    }

    /// The group of `map` to be loaded so that it need not be taken from the tail.
    pub fn wanted(&self, map: &FreeMap) -> Option<GroupRequest> {
        if self.units == 0 {
            return None;
        }
        map.wanted(self.units, self.piece_units).or_else(|| map.wanted(self.units, 1))
    }
}
