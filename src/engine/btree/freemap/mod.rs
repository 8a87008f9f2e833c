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

use super::allocation_unit::{FILE, FIRST_UNIT, UNIT_BYTES};
use group::{CLASSES, EXACT_UNITS, Group};
use page::{groups_of, pages_of, parents_of};
use runs::by_group;

/// A run from here on is worth beginning a row of values in: 64 KiB.
const LONG_UNITS: u64 = 16;

/// A run of units.
pub type UnitRun = (u64, u64);

/// A page of the map: its place in the durable state, and its two units.
#[derive(Clone, Copy, Debug, Default)]
struct MapPage {
    entry: MapEntry,
    /// The first of the two; 0 if it has none yet.
    home: u64,
}

/// The free units of one file. Its fields are the bits and what is known of them at once: most changes of a bit change several, and
/// nobody else has any of them.
pub struct FreeMap {
    groups: Vec<Group>,
    /// Pages by level and index; those of level 0 are the groups'.
    levels: Vec<Vec<MapPage>>,
    /// Level and index of the page at each home.
    homes: BTreeMap<u64, (usize, usize)>,
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
    free_units: u64,
    retired: Vec<UnitRun>,
    retired_units: u64,
    leaving: Arc<Vec<UnitRun>>,
    leaving_units: u64,
    /// The state that `leaving` leaves with is durable.
    is_committed: bool,
    /// Free in every state, but not to be taken now.
    withheld: Option<UnitRun>,
    held_units: u64,
    loaded_groups: usize,
    /// No group that could be loaded has a longer run.
    sleeping_longest: AtomicU64,
    lost_groups: usize,
    end: u64,
    file_units: u64,
    cursor: u64,
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
    /// A file of `file_units` of which everything from `end` on is unused, and nothing before it is free.
    pub fn new(end: u64, file_units: u64) -> FreeMap {
        let mut map = FreeMap {
            groups: Vec::new(),
            levels: vec![Vec::new()],
            homes: BTreeMap::new(),
            stale_pages: BTreeSet::new(),
            changed: Vec::new(),
            classes: vec![BTreeSet::new(); CLASSES],
            filled: 0,
            runs: [0; CLASSES],
            row: (0, 0),
            coalesced: (0, 0),
            free_units: 0,
            retired: Vec::new(),
            retired_units: 0,
            leaving: Arc::default(),
            leaving_units: 0,
            is_committed: false,
            withheld: None,
            held_units: 0,
            loaded_groups: 0,
            sleeping_longest: AtomicU64::new(0),
            lost_groups: 0,
            end,
            file_units,
            cursor: 0,
        };
        map.reach_end();
        map
    }

    /// Units below are used or in the map.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The file has grown.
    pub fn set_file_units(&mut self, units: u64) {
        self.file_units = self.file_units.max(units);
    }

    /// The file has been cut to `units`, not below its end.
    pub fn cut(&mut self, units: u64) {
        debug_assert!(units >= self.end);
        self.file_units = units;
    }

    /// Units of the file behind its end.
    pub fn tail_units(&self) -> u64 {
        self.file_units - self.end
    }

    /// Units below the end that something lies in.
    pub fn used_units(&self) -> u64 {
        (self.end - FIRST_UNIT).saturating_sub(self.free_units + self.waiting_units() + self.held_units)
    }

    /// Units that a checkpoint will free.
    pub fn waiting_units(&self) -> u64 {
        self.retired_units + self.leaving_units
    }

    /// Units that can be taken, once they are in memory.
    pub fn available_units(&self) -> u64 {
        self.free_units + (self.file_units - self.end)
    }

    /// Behind here nothing need lie: what is used, and a little more, so that not every hole must be filled.
    pub fn limit(&self) -> u64 {
        let used = self.used_units();
        FIRST_UNIT + used + used / 32 + 16
    }

    /// Memory that it takes, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        let loaded = self.loaded_groups as u64 * group::GROUP_BYTES;
        let groups = self.groups.capacity() * size_of::<Group>();
        let pages: usize = self.levels.iter().map(|level| level.capacity() * size_of::<MapPage>()).sum();
        let waiting = (self.retired.capacity() + self.leaving.capacity()) * size_of::<UnitRun>();
        loaded + (groups + pages + waiting) as u64
    }

    /// How far the file must grow (its new size in units) so that `units` fit into the tail however the free runs lie; `None`
    /// if they do already.
    pub fn missing(&self, units: u64) -> Option<u64> {
        (self.file_units - self.end < units).then_some(self.end + units)
    }

    /// The same, where free runs will do as well, if `units` taken from them in pieces of up to `piece`, whatever the order, surely
    /// fit.
    pub fn lacking(&self, units: u64, piece: u64) -> Option<u64> {
        let missing = self.missing(units)?;
        let tail = (self.tail_units() + 1).saturating_sub(piece.max(1));
        (self.sure_units(piece) + tail < units).then_some(missing)
    }

    /// Units that a freeze takes at most for pages of the map, when the tail has grown by `more` units by then.
    pub fn map_units_max(&self, more: u64) -> u64 {
        // Those behind the end go before others are made.
        let behind = self.levels[0].iter().skip(groups_of(self.end)).filter(|page| page.home > 0).count();
        let homes = (self.homes.len() - behind) as u64;
        let mut units = 0;
        loop {
            let wanted = 2 * pages_of(groups_of(self.end + more + units)).saturating_sub(homes);
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
    pub fn take(&mut self, units: u64) -> u64 {
        let near = match self.row {
            (start, length) if start == self.cursor && length > 0 => Some((start, length)),
            _ if self.is_free(self.cursor) && !self.is_free(self.cursor - 1) => {
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
    pub fn take_low(&mut self, units: u64) -> u64 {
        self.take_below(units, u64::MAX).unwrap_or_else(|| self.take_tail(units))
    }

    /// The same, all of them below `limit`; `None` where there is no such hole.
    pub fn take_below(&mut self, units: u64, limit: u64) -> Option<u64> {
        let run = self.lowest(units).filter(|(start, _)| start + units <= limit)?;
        Some(self.take_at(run, units))
    }

    /// Takes `units` of the tail, if it has them.
    pub fn take_beyond(&mut self, units: u64) -> Option<u64> {
        (self.tail_units() >= units).then(|| self.take_tail(units))
    }

    fn take_at(&mut self, (start, length): UnitRun, units: u64) -> u64 {
        self.uncount(start, length);
        self.set_free(start, units, false);
        if length > units {
            self.count(start + units, length - units);
        }
        start
    }

    fn take_tail(&mut self, units: u64) -> u64 {
        let start = self.end;
        self.end += units;
        debug_assert!(self.end <= self.file_units, "invariant 2");
        self.reach_end();
        start
    }

    /// Frees units that no durable state refers to.
    pub fn give_back(&mut self, start: u64, units: u64) {
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

    fn free_run(&mut self, start: u64, units: u64) {
        let (mut first, mut end) = (start, start + units);
        if self.is_free(start - 1) {
            first = match self.coalesced {
                (coalesced, length) if coalesced + length == start => coalesced,
                _ => self.run_start(start - 1),
            };
            self.uncount(first, start - first);
        }
        if self.is_free(end) {
            end = self.run_end(end);
            self.uncount(start + units, end - start - units);
        }
        self.set_free(start, units, true);
        self.count(first, end - first);
        self.coalesced = (first, end - first);
    }

    /// What is free before the end becomes the tail.
    fn drain_end(&mut self) {
        while self.is_free(self.end - 1) {
            let start = self.run_start(self.end - 1);
            let units = self.end - start;
            self.uncount(start, units);
            self.set_free(start, units, false);
            self.end = start;
        }
    }

    /// Frees units that the last checkpoint still refers to: they can be taken after the next one.
    pub fn retire(&mut self, start: u64, units: u64) {
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
            let bytes = crate::base::text::human_size(self.lost_groups as u64 * GROUP_UNITS * UNIT_BYTES);
            format!(
                "the free map of {bytes} of {FILE} cannot be read: what is free there is not used; unmount and run kvfs check --repair"
            )
        })
    }
}
