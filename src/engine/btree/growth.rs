//! The size of the data file: it is preallocated before changes take units, and a free end is cut off.

use super::allocation_unit::{UnitNumber, Units};
use super::core::Core;
use super::freemap::{FreeMap, GroupRequest, SpaceNeeds};
use super::map_pages;
use super::options::Options;
use super::tree::Tree;
use crate::disk::Purpose;
use crate::engine::{Error, Result, SpaceGuard, Tier};

/// Share of the reserve that the file may hold as tail: one part in so many.
const AHEAD_SHARE: u64 = 8;
/// Length below which a free end is not cut off, so that small stores do not cut and grow in turn.
pub const CUT_UNITS_MIN: Units = Units::new(64);

/// Units that are preallocated behind `end`, where the disk has room for them.
pub fn growth_units(options: &Options, end: UnitNumber) -> Units {
    let most = Units::within_bytes(64 << 20);
    let used = end - UnitNumber::NONE;
    (used / 16).clamp(Units::within_bytes(options.dirty_bytes_max / 16).min(most), most)
}

/// Units that are preallocated behind `end`. They take little of the reserve, which the log needs, but enough that a mount and deletes find
/// room when other programs have taken every byte of the disk.
pub fn preallocated_units(guard: &SpaceGuard, options: &Options, end: UnitNumber) -> Units {
    let bytes = (guard.spare_bytes() / 2).max(guard.reserve_bytes() / AHEAD_SHARE);
    growth_units(options, end).min(Units::within_bytes(bytes))
}

impl Core {
    /// See [`preallocated_units`].
    pub fn preallocated_units(&self, end: UnitNumber) -> Units {
        preallocated_units(&self.guard, &self.options, end)
    }

    /// Makes sure that the file has room for a change, in free runs or in its tail. The writer's lock is held.
    pub fn take_space(&self, needs: SpaceNeeds, tier: Tier) -> Result<()> {
        self.load_room(needs, tier, Purpose::Get)?;
        self.grow_if(|tree| needs.lacking(&tree.space))
    }

    /// Makes sure that the tail has room for `units` and for the pages of the map that come with them. The writer's lock is held.
    pub fn take_end(&self, units: Units) -> Result<()> {
        self.grow_if(|tree| tree.space.missing(units + tree.space.map_units_max(units)))
    }

    /// Makes sure that the tail has room for the pages of the map that a freeze adds; false if the disk has none. The writer's lock is held.
    pub fn take_tail_for_map(&self) -> Result<bool> {
        let missing = |tree: &Tree| tree.space.missing(tree.space.map_units_max(Units::ZERO));
        match self.grow_if(missing) {
            Err(Error::NoSpace) => Ok(false),
            other => other.map(|()| true),
        }
    }

    fn grow_if(&self, missing: impl Fn(&Tree) -> Option<UnitNumber>) -> Result<()> {
        let missing = missing(&self.tree.read());
        if let Some(end) = missing {
            let end = self.pager.grow(end, self.preallocated_units(end))?;
            self.tree.write().space.set_file_end(end);
        }
        Ok(())
    }

    /// Whether the file would have to grow by more than a quarter of the free space of the disk for `needs`.
    pub fn is_large_growth(&self, needs: SpaceNeeds) -> bool {
        let growth_units = {
            let space = &self.tree.read().space;
            needs.lacking(space).map_or(Units::ZERO, |end| end - space.end() - space.tail_units())
        };
        !growth_units.is_zero() && growth_units.bytes() > self.guard.free_bytes() / 4
    }

    /// Cuts the file off if its tail is long.
    pub fn shrink(&self) -> Result<()> {
        let _writer = self.tree.writer();
        self.load_end()?;
        let file_end = {
            let tree = self.tree.read();
            let ahead = self.preallocated_units(tree.space.end());
            (tree.space.tail_units() > ahead * 2 + CUT_UNITS_MIN).then_some(tree.space.end() + ahead)
        };
        if let Some(file_end) = file_end {
            self.pager.cut(file_end)?;
            self.tree.write().space.cut(file_end);
        }
        Ok(())
    }

    /// Preallocates the tail, so that no batch has to.
    pub fn preallocate(&self) -> Result<()> {
        let (missing, wanted) = {
            let tree = self.tree.read();
            let ahead = self.preallocated_units(tree.space.end());
            (tree.space.missing(ahead / 2), tree.space.end() + ahead)
        };
        if missing.is_some() {
            match self.pager.grow(wanted, Units::ZERO) {
                Ok(end) => self.tree.write().space.set_file_end(end),
                // A batch that needs the space gets the error.
                Err(Error::NoSpace) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Cuts the tail off, except for the preallocation.
    pub fn cut_tail(&self) -> Result<()> {
        let _writer = self.tree.writer();
        let (end, tail) = {
            let tree = self.tree.read();
            (tree.space.end(), tree.space.tail_units())
        };
        let ahead = self.preallocated_units(end);
        if tail > ahead {
            self.pager.cut(end + ahead)?;
            self.tree.write().space.cut(end + ahead);
        }
        Ok(())
    }

    /// Loads groups with free units for a change, so that it need not use the tail.
    pub fn load_room(&self, needs: SpaceNeeds, tier: Tier, purpose: Purpose) -> Result<()> {
        self.load_groups(tier, purpose, |map| needs.wanted(map))
    }

    /// Loads groups with free units for pages of the map that lie behind the limit.
    pub fn load_for_homes(&self) -> Result<()> {
        self.load_groups(Tier::Disk, Purpose::PageWrite, FreeMap::wanted_for_homes)
    }

    /// Loads the last groups, as far as the end of the used part moves down by that.
    fn load_end(&self) -> Result<()> {
        self.load_groups(Tier::Disk, Purpose::PageWrite, FreeMap::wanted_at_end)
    }

    /// Loads groups with free units before `limit`, as many as may stay in memory.
    pub fn load_below(&self, limit: UnitNumber) -> Result<()> {
        let count_max = map_pages::loaded_groups_max(self.options.common.cache_bytes);
        self.load_groups(Tier::Disk, Purpose::Checkpoint, |map| map.wanted_below(limit, count_max))
    }

    pub(super) fn load_groups(
        &self,
        tier: Tier,
        purpose: Purpose,
        wanted: impl Fn(&FreeMap) -> Option<GroupRequest>,
    ) -> Result<()> {
        map_pages::load(&mut &self.tree, &self.pager, tier, purpose, wanted, |sentence| {
            self.tell_map_damage(sentence)
        })
    }
}
