//! The size of the data file: it grows before what a change needs is taken, and its free end is cut off.

use super::allocation_unit::{UnitNumber, Units};
use super::core::Core;
use super::freemap::{FreeMap, GroupRequest, SpaceNeeds};
use super::map_pages;
use super::options::Options;
use super::tree::Tree;
use crate::disk::Purpose;
use crate::engine::{Error, Result, SpaceGuard, Tier};

/// The part of the reserve that the file may hold behind its end.
const AHEAD_SHARE: u64 = 8;
/// A free end of the file shorter than this stays, so that small stores do not cut and grow in turn.
pub const CUT_UNITS_MIN: Units = Units::new(64);

/// Units that the file grows ahead of its use where the disk has room, if it ends at `end`.
pub fn growth_units(options: &Options, end: UnitNumber) -> Units {
    let most = Units::within_bytes(64 << 20);
    let used = end - UnitNumber::NONE;
    (used / 16).clamp(Units::within_bytes(options.dirty_bytes_max / 16).min(most), most)
}

/// Units that the file grows ahead of its use, where it ends at `end`: little of what is kept free, which the log needs, but enough that a
/// mount and deletes find room where others have taken every byte of the disk.
pub fn ahead_units(guard: &SpaceGuard, options: &Options, end: UnitNumber) -> Units {
    let bytes = (guard.spare_bytes() / 2).max(guard.reserve_bytes() / AHEAD_SHARE);
    growth_units(options, end).min(Units::within_bytes(bytes))
}

impl Core {
    /// See [`ahead_units`].
    pub fn ahead_units(&self, end: UnitNumber) -> Units {
        ahead_units(&self.guard, &self.options, end)
    }

    /// Takes space in the file for what a change needs: the free end of the file, or free runs before it. The writer's lock is held.
    pub fn take_space(&self, needs: SpaceNeeds, tier: Tier) -> Result<()> {
        self.load_room(needs, tier, Purpose::Get)?;
        self.grow_if(|tree| needs.lacking(&tree.space))
    }

    /// Takes space behind the end of the file, for `units` and what of the map comes with them. The writer's lock is held.
    pub fn take_end(&self, units: Units) -> Result<()> {
        self.grow_if(|tree| tree.space.missing(units + tree.space.map_units_max(units)))
    }

    fn grow_if(&self, missing: impl Fn(&Tree) -> Option<UnitNumber>) -> Result<()> {
        let missing = missing(&self.tree.read());
        if let Some(end) = missing {
            let end = self.pager.grow(end, self.ahead_units(end))?;
            self.tree.write().space.set_file_end(end);
        }
        Ok(())
    }

    /// Whether space for `needs` would take more than a quarter of what is free on the disk.
    pub fn is_large_growth(&self, needs: SpaceNeeds) -> bool {
        let growth_units = {
            let space = &self.tree.read().space;
            needs.lacking(space).map_or(Units::ZERO, |end| end - space.end() - space.tail_units())
        };
        !growth_units.is_zero() && growth_units.bytes() > self.guard.free_bytes() / 4
    }

    /// Cuts the file where much of its end is free.
    pub fn shrink(&self) -> Result<()> {
        let _writer = self.tree.writer();
        self.load_end()?;
        let file_end = {
            let tree = self.tree.read();
            let ahead = self.ahead_units(tree.space.end());
            (tree.space.tail_units() > ahead * 2 + CUT_UNITS_MIN).then_some(tree.space.end() + ahead)
        };
        if let Some(file_end) = file_end {
            self.pager.cut(file_end)?;
            self.tree.write().space.cut(file_end);
        }
        Ok(())
    }

    /// Grows the file before a batch has to.
    pub fn grow_ahead(&self) -> Result<()> {
        let (missing, wanted) = {
            let tree = self.tree.read();
            let ahead = self.ahead_units(tree.space.end());
            (tree.space.missing(ahead / 2), tree.space.end() + ahead)
        };
        if missing.is_some() {
            match self.pager.grow(wanted, Units::ZERO) {
                Ok(end) => self.tree.write().space.set_file_end(end),
                // The batch that needs it will say so.
                Err(Error::NoSpace) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Gives what the file has behind its end back to the disk, but for what it grows ahead anyway.
    pub fn cut_tail(&self) -> Result<()> {
        let _writer = self.tree.writer();
        let (end, tail) = {
            let tree = self.tree.read();
            (tree.space.end(), tree.space.tail_units())
        };
        let ahead = self.ahead_units(end);
        if tail > ahead {
            self.pager.cut(end + ahead)?;
            self.tree.write().space.cut(end + ahead);
        }
        Ok(())
    }

    /// Brings free units into memory for what a change needs, so that it need not take them from the tail.
    pub fn load_room(&self, needs: SpaceNeeds, tier: Tier, purpose: Purpose) -> Result<()> {
        self.load_groups(tier, purpose, |map| needs.wanted(map))
    }

    /// Brings free units into memory for pages of the map that lie too far behind.
    pub fn load_for_homes(&self) -> Result<()> {
        self.load_groups(Tier::Disk, Purpose::PageWrite, FreeMap::wanted_for_homes)
    }

    /// Brings the last groups into memory as far as that shows that the file ends before them.
    fn load_end(&self) -> Result<()> {
        self.load_groups(Tier::Disk, Purpose::PageWrite, FreeMap::wanted_at_end)
    }

    /// Brings what is free before `limit` into memory, as far as it may stay there.
    pub fn load_below(&self, limit: UnitNumber) -> Result<()> {
        let count_max = map_pages::loaded_groups_max(self.options.common.cache_bytes);
        self.load_groups(Tier::Disk, Purpose::Checkpoint, |map| map.wanted_below(limit, count_max))
    }

    fn load_groups(
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
