//! The free map: which allocation units of the file are free. It has a bitmap for each *group* of units (128 MiB); everything behind the
//! last unit that was ever used is the *tail*.
//!
//! A unit is in one of these states:
//! ```text
//! tail ─take→ used ─give_back (no durable state knows it)→ free ─take→ used
//!             used ─retire→ retired ─freeze→ leaving ─(checkpoint durable) release→ free
//! ```
//! Values are allocated next to the last one (next fit), so that what is written together lies together. Where that run has ended, the next
//! one begins at the lowest long run, so that the end of the file drains; else in the smallest hole that fits (best fit), so that values of
//! one unit do not break up the holes that pages leave behind; else in the tail. Pages, which are not read in a row, and the pages of
//! the map go into the lowest hole that fits (first fit).
//!
//! # What is in memory
//!
//! For every group the number of free units, and the place of its page (`page`). Bits are in memory only for groups in use (`group`), with an
//! index of their runs (`runs`). Further groups are read when free units in memory become scarce, before the latch of the tree is taken
//! (`load`), and dropped when a checkpoint has ended. Units of a group that is not in memory can be retired, but not taken.
//!
//! # What a checkpoint writes
//!
//! The pages of the groups that changed, and the pages above them (`changes`). Each page has two units; the durable state refers to
//! one of them, and the next version of the page is written to the other. So a checkpoint of the map allocates units only for a new page, or
//! for one that moves to a lower place.
//!
//! # Damage
//!
//! If a page cannot be read, no unit of its group is taken, and units of it that are freed stay used. A check reports it; a repair writes the
//! store anew, with a complete map.
//!
//! # Invariants
//!
//! 1. No free run whose group is in memory touches the tail; the bits of units in the tail are not set.
//! 2. A caller that takes units has made sure that the tail or the free runs are long enough ([`FreeMap::lacking`]), so taking cannot fail.
//! 3. A group that is in memory, not changed and not pending equals its page in the durable state.

mod bits;
mod changes;
mod group;
mod index;
mod load;
mod needs;
mod page;
mod runs;
#[cfg(test)]
mod tests;
mod withhold;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

pub use bits::GROUP_UNITS;
#[cfg(test)]
pub use bits::GroupBits;
pub use changes::MapChanges;
pub use group::GROUP_BYTES;
pub use load::{GroupRequest, end_max, read_runs};
pub use needs::SpaceNeeds;
pub use page::MapEntry;

use super::allocation_unit::{FILE, FIRST_UNIT, UnitNumber, Units};
use group::{EXACT_UNITS, Group};
use index::RunIndex;
use page::{HOME_UNITS, groups_of, pages_of, parents_of};
use runs::by_group;

/// Length from which on a run is long enough to begin a row of values in: 64 KiB.
const LONG_UNITS: Units = Units::new(16);

/// A run of adjacent units: the first one, and their number.
pub type UnitRun = (UnitNumber, Units);
/// Stands for "no run".
const NO_RUN: UnitRun = (UnitNumber::NONE, Units::ZERO);

/// A page of the map: its entry in the durable state, and its two units.
#[derive(Clone, Copy, Debug, Default)]
struct MapPage {
    entry: MapEntry,
    /// The first of its two units; none if it has no units yet.
    home: UnitNumber,
}

/// The free units of one file: the bits, and everything that is derived from them. They stay one type, since nearly every change of a bit
/// changes several of them.
pub struct FreeMap {
    groups: Vec<Group>,
    /// The pages of the map.
    pages: MapPages,
    /// The index of the runs of groups in memory.
    index: RunIndex,
    /// Groups that changed since the last freeze, each once.
    changed: Vec<usize>,
    /// Units that can be taken, in groups that are in memory or could be.
    free_units: Units,
    /// Units that the next checkpoints will free.
    freed: FreedUnits,
    /// Units that are not to be taken now even if they are free.
    withheld: Option<UnitRun>,
    /// Number of free units that are withheld.
    held_units: Units,
    /// Number of groups in memory.
    loaded_groups: usize,
    /// Upper bound of the longest run in groups that could be loaded.
    sleeping_longest: AtomicU64,
    /// Number of groups that cannot be read.
    lost_groups: usize,
    /// The end of the used part.
    end: UnitNumber,
    /// The end of the file.
    file_end: UnitNumber,
    /// The unit behind the value that was allocated last.
    cursor: UnitNumber,
}

/// Freed units that the durable state still refers to.
#[derive(Default)]
struct FreedUnits {
    /// Runs that the next checkpoint to freeze will free.
    retired: Vec<UnitRun>,
    retired_units: Units,
    /// Runs that the running checkpoint frees.
    leaving: Arc<Vec<UnitRun>>,
    leaving_units: Units,
}

/// The pages of the map.
struct MapPages {
    /// Pages by level and index; level 0 has a page for each group.
    levels: Vec<Vec<MapPage>>,
    /// Level and index of the page at each home.
    homes: BTreeMap<UnitNumber, (usize, usize)>,
    /// Pages above the groups that must be written although no page below them changes.
    stale: BTreeSet<(usize, usize)>,
}

impl MapPages {
    /// Makes room for the pages of `groups` groups, and for the pages above them.
    fn reach(&mut self, groups: usize) {
        let (mut level, mut pages) = (0, groups);
        loop {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            if self.levels[level].len() < pages {
                self.levels[level].resize(pages, MapPage::default());
            }
            if pages <= 1 {
                return;
            }
            (level, pages) = (level + 1, parents_of(pages));
        }
    }

    /// Gives a page a home.
    fn set_home(&mut self, level: usize, index: usize, home: UnitNumber) {
        self.levels[level][index].home = home;
        self.homes.insert(home, (level, index));
    }
}

/// Sorts runs and coalesces adjacent ones.
pub fn coalesce_runs(runs: &mut Vec<UnitRun>) {
    runs.sort_unstable();
    runs.dedup_by(|next, run| {
        let touches = run.0 + run.1 == next.0;
        if touches {
            run.1 += next.1;
        }
        touches
    });
}

impl FreeMap {
    /// The map of a file of which everything from `end` up to `file_end` is unused, and nothing before `end` is free.
    pub fn new(end: UnitNumber, file_end: UnitNumber) -> FreeMap {
        let mut map = FreeMap {
            groups: Vec::new(),
            pages: MapPages { levels: vec![Vec::new()], homes: BTreeMap::new(), stale: BTreeSet::new() },
            index: RunIndex::new(),
            changed: Vec::new(),
            free_units: Units::ZERO,
            freed: FreedUnits::default(),
            withheld: None,
            held_units: Units::ZERO,
            loaded_groups: 0,
            sleeping_longest: AtomicU64::new(0),
            lost_groups: 0,
            end,
            file_end,
            cursor: UnitNumber::NONE,
        };
        map.reach_end();
        map
    }

    /// The end of the used part of the file; the tail begins here.
    pub fn end(&self) -> UnitNumber {
        self.end
    }

    /// Notes that the file has grown up to `file_end`.
    pub fn set_file_end(&mut self, file_end: UnitNumber) {
        self.file_end = self.file_end.max(file_end);
    }

    /// Notes that the file has been cut off at `file_end`, which is not below [`FreeMap::end`].
    pub fn cut(&mut self, file_end: UnitNumber) {
        debug_assert!(file_end >= self.end);
        self.file_end = file_end;
    }

    /// Units of the tail.
    pub fn tail_units(&self) -> Units {
        self.file_end - self.end
    }

    /// Used units.
    pub fn used_units(&self) -> Units {
        (self.end - FIRST_UNIT).saturating_sub(self.free_units + self.waiting_units() + self.held_units)
    }

    /// Units that the next checkpoints will free.
    pub fn waiting_units(&self) -> Units {
        self.freed.retired_units + self.freed.leaving_units
    }

    /// Free units, the tail included, whether their groups are in memory or not.
    pub fn available_units(&self) -> Units {
        self.free_units + self.tail_units()
    }

    /// Number of free units before the tail, whether their groups are in memory or not.
    pub fn inside_units(&self) -> Units {
        self.free_units
    }

    /// Lower bound of the free units in runs of at least `units`, as far as groups are in memory.
    pub fn long_run_units(&self, units: Units) -> Units {
        self.index.useful_units(units)
    }

    /// The end that the file could have: room for the used units and a little more, so that not every hole must be filled.
    pub fn limit(&self) -> UnitNumber {
        let used = self.used_units();
        FIRST_UNIT + used + used / 32 + Units::new(16)
    }

    /// Memory of the map, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        let loaded = self.loaded_groups as u64 * group::GROUP_BYTES;
        let groups = self.groups.capacity() * size_of::<Group>();
        let pages: usize =
            self.pages.levels.iter().map(|level| level.capacity() * size_of::<MapPage>()).sum();
        let waiting = (self.freed.retired.capacity() + self.freed.leaving.capacity()) * size_of::<UnitRun>();
        loaded + (groups + pages + waiting) as u64
    }

    /// The end to which the file must grow so that `units` fit into the tail; `None` if they do already.
    pub fn missing(&self, units: Units) -> Option<UnitNumber> {
        (self.tail_units() < units).then_some(self.end + units)
    }

    /// As [`FreeMap::missing`], but free runs count, too: `None` if `units` can surely be taken in pieces of up to `piece`, in whatever
    /// order.
    pub fn lacking(&self, units: Units, piece: Units) -> Option<UnitNumber> {
        let missing = self.missing(units)?;
        let tail = (self.tail_units() + Units::ONE).saturating_sub(piece.max(Units::ONE));
        (self.index.sure_units(piece) + tail < units).then_some(missing)
    }

    /// Largest number of units that a freeze takes for pages of the map if the used part has grown by `more` units by then.
    pub fn map_units_max(&self, more: Units) -> Units {
        // Pages behind the end are dropped before new ones are made.
        let behind =
            self.pages.levels[0].iter().skip(groups_of(self.end)).filter(|page| !page.home.is_none()).count();
        let homes = (self.pages.homes.len() - behind) as u64;
        let mut units = Units::ZERO;
        loop {
            let wanted = HOME_UNITS * pages_of(groups_of(self.end + more + units)).saturating_sub(homes);
            if wanted <= units {
                return units;
            }
            units = wanted;
        }
    }

    /// Makes room for the groups up to the end, and for the pages above them.
    fn reach_end(&mut self) {
        let count = groups_of(self.end);
        if self.groups.len() >= count {
            return;
        }
        self.groups.resize_with(count, Group::default);
        self.pages.reach(count);
    }

    /// Takes `units` adjacent units, for a value.
    pub fn take(&mut self, units: Units) -> UnitNumber {
        let near = match self.index.row {
            (start, length) if start == self.cursor && !length.is_zero() => Some((start, length)),
            _ if self.is_free(self.cursor) && !self.is_free(self.cursor - Units::ONE) => {
                Some((self.cursor, self.run_end(self.cursor) - self.cursor))
            }
            _ => None,
        };
        let found = near
            .filter(|(_, length)| *length >= units)
            .or_else(|| self.lowest(units.max(EXACT_UNITS)))
            .or_else(|| self.longest(units.max(LONG_UNITS)))
            .or_else(|| self.smallest(units));
        let start = match found {
            Some(run) => {
                let start = self.take_at(run, units);
                self.index.row = (start + units, run.1 - units);
                start
            }
            None => self.take_tail(units),
        };
        self.cursor = start + units;
        start
    }

    /// Takes `units` adjacent units in the lowest hole that fits, else in the tail.
    pub fn take_low(&mut self, units: Units) -> UnitNumber {
        self.take_below(units, UnitNumber::MAX).unwrap_or_else(|| self.take_tail(units))
    }

    /// Takes `units` adjacent units in the lowest hole, if that ends at or before `limit`.
    pub fn take_below(&mut self, units: Units, limit: UnitNumber) -> Option<UnitNumber> {
        let run = self.lowest(units).filter(|(start, _)| *start + units <= limit)?;
        Some(self.take_at(run, units))
    }

    /// Takes `units` of the tail, if it is long enough.
    pub fn take_beyond(&mut self, units: Units) -> Option<UnitNumber> {
        (self.tail_units() >= units).then(|| self.take_tail(units))
    }

    /// Takes a run of at least `least` and at most `most` units: the lowest one that there is.
    pub fn take_run(&mut self, least: Units, most: Units) -> Option<UnitRun> {
        let run = self.lowest(least)?;
        let units = run.1.min(most);
        Some((self.take_at(run, units), units))
    }

    fn take_at(&mut self, (start, length): UnitRun, units: Units) -> UnitNumber {
        self.uncount(start, length);
        self.set_free(start, units, false);
        if length > units {
            self.count(start + units, length - units);
        }
        start
    }

    fn take_tail(&mut self, units: Units) -> UnitNumber {
        let start = self.end;
        self.end += units;
        debug_assert!(self.end <= self.file_end, "invariant 2");
        self.reach_end();
        start
    }

    /// Frees units that no durable state refers to.
    pub fn give_back(&mut self, start: UnitNumber, units: Units) {
        if start + units == self.end {
            self.end = start;
            return self.drain_end();
        }
        if !by_group(start, units).all(|(group, _, _)| self.is_open(group)) {
            // The bits of the group are not in memory; the next checkpoint enters these units.
            return self.retire(start, units);
        }
        for (start, units) in self.hold_back(start, units) {
            self.free_run(start, units);
        }
    }

    fn free_run(&mut self, start: UnitNumber, units: Units) {
        let (mut first, mut end) = (start, start + units);
        if self.is_free(start - Units::ONE) {
            first = match self.index.coalesced {
                (coalesced, length) if coalesced + length == start => coalesced,
                _ => self.run_start(start - Units::ONE),
            };
            self.uncount(first, start - first);
        }
        if self.is_free(end) {
            end = self.run_end(end);
            self.uncount(start + units, end - (start + units));
        }
        self.set_free(start, units, true);
        self.count(first, end - first);
        self.index.coalesced = (first, end - first);
    }

    /// Turns free units before the end into tail.
    fn drain_end(&mut self) {
        while self.is_free(self.end - Units::ONE) {
            let start = self.run_start(self.end - Units::ONE);
            let units = self.end - start;
            self.uncount(start, units);
            self.set_free(start, units, false);
            self.end = start;
        }
    }

    /// Frees units that the durable state refers to: they can be taken after the next checkpoint.
    pub fn retire(&mut self, start: UnitNumber, units: Units) {
        // A damaged page may refer to any place.
        if start < FIRST_UNIT || start.checked_add(units).is_none_or(|end| end > self.end) {
            return;
        }
        self.freed.retired.push((start, units));
        self.freed.retired_units += units;
        for (group, _, _) in by_group(start, units) {
            self.mark_changed(group);
        }
    }

    /// Notes that the page of `group` must be written.
    fn mark_changed(&mut self, group: usize) {
        let state = &mut self.groups[group];
        if !state.is_changed && !state.is_lost {
            state.is_changed = true;
            self.changed.push(group);
        }
    }

    /// A sentence on the part of the map that cannot be read, if there is one.
    pub fn damage(&self) -> Option<String> {
        (self.lost_groups > 0).then(|| {
            let bytes = crate::base::text::human_size((GROUP_UNITS * self.lost_groups as u64).bytes());
            format!(
                "the free map of {bytes} of {FILE} cannot be read: what is free there is not used; unmount and run kvfs check --repair"
            )
        })
    }
}
