//! Which units of the file are free: a bitmap for each *group* of 128 MiB, and the *tail* behind the last unit that was ever used.
//!
//! A unit is in one of these states:
//! ```text
//! tail ─take→ used ─give_back (no durable state knows it)→ free ─take→ used
//!             used ─retire→ retired ─freeze→ leaving ─(checkpoint durable) release→ free
//! ```
//! Consecutive takes give consecutive units: the next run begins where the last one ended; else at the lowest long run, so that
//! what is written together lies together and the end of the file drains; else in the smallest hole that fits, so that values of
//! one unit do not eat the holes that pages leave behind; else in the tail. Pages, which nobody reads in a row, and the map itself go
//! into the lowest hole that fits.
//!
//! # What is in memory
//!
//! Of every group how much of it is free, and where its page lies (`page`); the bits only of groups in use (`group`), with an index of
//! their runs (`runs`). Others are read when what is in memory gets scarce, before the latch of the tree is taken (`load`), and
//! dropped when a checkpoint has ended. Units of a group that is not in memory can be retired, not taken.
//!
//! # What a checkpoint writes
//!
//! The pages of the groups that changed, and those above them (`changes`). Each page has two units, and the durable state refers to
//! one of them; the other takes the next form of it. So writing the map takes no units, but for the first page of a group or one that
//! moves to a lower place.
//!
//! # Damage
//!
//! Where a page cannot be read, nothing of its group is taken, and what is freed of it stays used. A check names it; a repair writes the
//! store anew, with a map that has all of it.
//!
//! # Invariants
//!
//! 1. No run touches the tail, as far as its group is in memory; the bits of units in the tail are not set.
//! 2. Who takes has made sure that the tail is long enough, or the runs ([`FreeMap::lacking`]), so taking cannot fail.
//! 3. A group that is in memory, not changed and not pending has the bits of its page in the durable state.

mod bits;
mod changes;
mod group;
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
use group::{CLASSES, EXACT_UNITS, Group};
use page::{HOME_UNITS, groups_of, pages_of, parents_of};
use runs::by_group;

/// A run from here on is worth beginning a row of values in: 64 KiB.
const LONG_UNITS: Units = Units::new(16);

/// A run of units.
pub type UnitRun = (UnitNumber, Units);
/// Where no run is known.
const NO_RUN: UnitRun = (UnitNumber::NONE, Units::ZERO);

/// A page of the map: its place in the durable state, and its two units.
#[derive(Clone, Copy, Debug, Default)]
struct MapPage {
    entry: MapEntry,
    /// The first of the two; none if it has none yet.
    home: UnitNumber,
}

/// The free units of one file. Its fields are the bits and what is known of them at once: most changes of a bit change several, and
/// nobody else has any of them.
pub struct FreeMap {
    groups: Vec<Group>,
    /// Pages by level and index; those of level 0 are the groups'.
    levels: Vec<Vec<MapPage>>,
    /// Level and index of the page at each home.
    homes: BTreeMap<UnitNumber, (usize, usize)>,
    /// Pages above the groups that must be written although nothing below them is.
    stale_pages: BTreeSet<(usize, usize)>,
    /// Groups that changed since the last freeze, each once.
    changed: Vec<usize>,
    /// The groups with runs of each class.
    classes: Vec<BTreeSet<u32>>,
    /// Bit i: there are runs of class i.
    filled: u128,
    /// Runs of each class.
    runs: [u64; CLASSES],
    /// What is left of the run that was taken from last, if nothing else has changed it.
    row: UnitRun,
    /// The run that something was given back to last, if nothing else has changed it.
    coalesced: UnitRun,
    /// Units that can be taken, in groups that are in memory or could be.
    free_units: Units,
    retired: Vec<UnitRun>,
    retired_units: Units,
    leaving: Arc<Vec<UnitRun>>,
    leaving_units: Units,
    /// The state that `leaving` leaves with is durable.
    is_committed: bool,
    /// Free in every state, but not to be taken now.
    withheld: Option<UnitRun>,
    held_units: Units,
    loaded_groups: usize,
    /// No group that could be loaded has a longer run.
    sleeping_longest: AtomicU64,
    lost_groups: usize,
    end: UnitNumber,
    file_end: UnitNumber,
    cursor: UnitNumber,
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
    /// A file up to `file_end` of which everything from `end` on is unused, and nothing before it is free.
    pub fn new(end: UnitNumber, file_end: UnitNumber) -> FreeMap {
        let mut map = FreeMap {
            groups: Vec::new(),
            levels: vec![Vec::new()],
            homes: BTreeMap::new(),
            stale_pages: BTreeSet::new(),
            changed: Vec::new(),
            classes: vec![BTreeSet::new(); CLASSES],
            filled: 0,
            runs: [0; CLASSES],
            row: NO_RUN,
            coalesced: NO_RUN,
            free_units: Units::ZERO,
            retired: Vec::new(),
            retired_units: Units::ZERO,
            leaving: Arc::default(),
            leaving_units: Units::ZERO,
            is_committed: false,
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

    /// Units below are used or in the map.
    pub fn end(&self) -> UnitNumber {
        self.end
    }

    /// The file has grown up to `file_end`.
    pub fn set_file_end(&mut self, file_end: UnitNumber) {
        self.file_end = self.file_end.max(file_end);
    }

    /// The file has been cut off at `file_end`, which is not below the end of what is used.
    pub fn cut(&mut self, file_end: UnitNumber) {
        debug_assert!(file_end >= self.end);
        self.file_end = file_end;
    }

    /// Units of the file behind its end.
    pub fn tail_units(&self) -> Units {
        self.file_end - self.end
    }

    /// Units below the end that something lies in.
    pub fn used_units(&self) -> Units {
        (self.end - FIRST_UNIT).saturating_sub(self.free_units + self.waiting_units() + self.held_units)
    }

    /// Units that a checkpoint will free.
    pub fn waiting_units(&self) -> Units {
        self.retired_units + self.leaving_units
    }

    /// Units that can be taken, once they are in memory.
    pub fn available_units(&self) -> Units {
        self.free_units + self.tail_units()
    }

    /// Behind here nothing need lie: what is used, and a little more, so that not every hole must be filled.
    pub fn limit(&self) -> UnitNumber {
        let used = self.used_units();
        FIRST_UNIT + used + used / 32 + Units::new(16)
    }

    /// Memory that it takes, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        let loaded = self.loaded_groups as u64 * group::GROUP_BYTES;
        let groups = self.groups.capacity() * size_of::<Group>();
        let pages: usize = self.levels.iter().map(|level| level.capacity() * size_of::<MapPage>()).sum();
        let waiting = (self.retired.capacity() + self.leaving.capacity()) * size_of::<UnitRun>();
        loaded + (groups + pages + waiting) as u64
    }

    /// How far the file must reach so that `units` fit into the tail however the free runs lie; `None` if they do already.
    pub fn missing(&self, units: Units) -> Option<UnitNumber> {
        (self.tail_units() < units).then_some(self.end + units)
    }

    /// The same, where free runs will do as well, if `units` taken from them in pieces of up to `piece`, whatever the order, surely
    /// fit.
    pub fn lacking(&self, units: Units, piece: Units) -> Option<UnitNumber> {
        let missing = self.missing(units)?;
        let tail = (self.tail_units() + Units::ONE).saturating_sub(piece.max(Units::ONE));
        (self.sure_units(piece) + tail < units).then_some(missing)
    }

    /// Units that a freeze takes at most for pages of the map, when the tail has grown by `more` units by then.
    pub fn map_units_max(&self, more: Units) -> Units {
        // Those behind the end go before others are made.
        let behind =
            self.levels[0].iter().skip(groups_of(self.end)).filter(|page| !page.home.is_none()).count();
        let homes = (self.homes.len() - behind) as u64;
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
        let (mut level, mut pages) = (0, count);
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

    /// Takes `units` consecutive units.
    pub fn take(&mut self, units: Units) -> UnitNumber {
        let near = match self.row {
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
                self.row = (start + units, run.1 - units);
                start
            }
            None => self.take_tail(units),
        };
        self.cursor = start + units;
        start
    }

    /// Takes `units` consecutive units in the lowest hole that fits.
    pub fn take_low(&mut self, units: Units) -> UnitNumber {
        self.take_below(units, UnitNumber::MAX).unwrap_or_else(|| self.take_tail(units))
    }

    /// The same, all of them below `limit`; `None` where there is no such hole.
    pub fn take_below(&mut self, units: Units, limit: UnitNumber) -> Option<UnitNumber> {
        let run = self.lowest(units).filter(|(start, _)| *start + units <= limit)?;
        Some(self.take_at(run, units))
    }

    /// Takes `units` of the tail, if it has them.
    pub fn take_beyond(&mut self, units: Units) -> Option<UnitNumber> {
        (self.tail_units() >= units).then(|| self.take_tail(units))
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
            // Its other units are not known now. The next checkpoint enters these.
            return self.retire(start, units);
        }
        for (start, units) in self.hold_back(start, units) {
            self.free_run(start, units);
        }
    }

    fn free_run(&mut self, start: UnitNumber, units: Units) {
        let (mut first, mut end) = (start, start + units);
        if self.is_free(start - Units::ONE) {
            first = match self.coalesced {
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
        self.coalesced = (first, end - first);
    }

    /// What is free before the end becomes the tail.
    fn drain_end(&mut self) {
        while self.is_free(self.end - Units::ONE) {
            let start = self.run_start(self.end - Units::ONE);
            let units = self.end - start;
            self.uncount(start, units);
            self.set_free(start, units, false);
            self.end = start;
        }
    }

    /// Frees units that the last checkpoint still refers to: they can be taken after the next one.
    pub fn retire(&mut self, start: UnitNumber, units: Units) {
        // A damaged page may say anything.
        if start < FIRST_UNIT || start.checked_add(units).is_none_or(|end| end > self.end) {
            return;
        }
        self.retired.push((start, units));
        self.retired_units += units;
        for (group, _, _) in by_group(start, units) {
            self.mark_changed(group);
        }
    }

    /// The page of `group` must be written.
    fn mark_changed(&mut self, group: usize) {
        let state = &mut self.groups[group];
        if !state.is_changed && !state.is_lost {
            state.is_changed = true;
            self.changed.push(group);
        }
    }

    /// What of the map cannot be read, in a sentence.
    pub fn damage(&self) -> Option<String> {
        (self.lost_groups > 0).then(|| {
            let bytes = crate::base::text::human_size((GROUP_UNITS * self.lost_groups as u64).bytes());
            format!(
                "the free map of {bytes} of {FILE} cannot be read: what is free there is not used; unmount and run kvfs check --repair"
            )
        })
    }
}
