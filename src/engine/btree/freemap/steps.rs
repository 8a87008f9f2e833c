//! The engine's side of the map: pages are read and written here, never under the latch of the tree.

use super::group::GROUP_BYTES;
use super::load::Request;
use super::{Changes, Entry, FreeMap, Run};
use crate::disk::Purpose;
use crate::engine::btree::pager::Pager;
use crate::engine::btree::tree::Needs;
use crate::engine::btree::{BtreeEngine, FIRST_UNIT};
use crate::engine::{Error, Result, Tier};

impl BtreeEngine {
    /// Brings the groups that `wanted` names into memory, one by one.
    fn load_groups(
        &self,
        tier: Tier,
        purpose: Purpose,
        wanted: impl Fn(&FreeMap) -> Option<Request>,
    ) -> Result<()> {
        loop {
            let request = wanted(&self.tree.read().space);
            let Some(request) = request else { return Ok(()) };
            if tier == Tier::Memory {
                return Err(Error::WouldBlock);
            }
            let bytes = self.pager.read_map_page(&request.entry, purpose)?;
            let damage = {
                let space = &mut self.tree.write().space;
                let before = space.damage();
                space.admit(&request, bytes.as_deref());
                space.damage().filter(|damage| before.as_ref() != Some(damage))
            };
            self.tell_map_damage(damage);
        }
    }

    /// More of the map cannot be read.
    pub(in super::super) fn tell_map_damage(&self, damage: Option<String>) {
        if let Some(sentence) = damage {
            log::warn!("{sentence}");
            self.journal.record(self.clock.now(), "error", vec![("what", sentence.into())]);
        }
    }

    /// Brings free units into memory for what a change needs, so that it need not take them from the tail.
    pub(in super::super) fn load_room(&self, needs: Needs, tier: Tier, purpose: Purpose) -> Result<()> {
        self.load_groups(tier, purpose, |map| wanted_for(map, needs))
    }

    /// Brings free units into memory for pages of the map that lie too far behind.
    pub(in super::super) fn load_for_homes(&self) -> Result<()> {
        self.load_groups(Tier::Disk, Purpose::PageWrite, FreeMap::wanted_for_homes)
    }

    /// Brings the last groups into memory as far as that shows that the file ends before them.
    pub(in super::super) fn load_end(&self) -> Result<()> {
        self.load_groups(Tier::Disk, Purpose::PageWrite, FreeMap::wanted_at_end)
    }

    /// Brings what is free before `limit` into memory, as far as it may stay there.
    pub(in super::super) fn load_below(&self, limit: u64) -> Result<()> {
        let count_max = loaded_groups_max(self.options.common.cache_bytes);
        self.load_groups(Tier::Disk, Purpose::Checkpoint, |map| map.wanted_below(limit, count_max))
    }

    /// Writes pages of the map from the `at`-th on, about `count`; returns the first that is left.
    pub(in super::super) fn write_map_some(
        &self,
        changes: &mut Changes,
        at: usize,
        count: usize,
    ) -> Result<usize> {
        if at == 0 {
            let sorted = changes.sort();
            let unsorted = self.tree.write().space.set_leaving(sorted);
            // Not under the latch: it may be long.
            drop(unsorted);
        }
        let end = (at + count).min(changes.group_count() + changes.page_count());
        for nth in at..end {
            match nth.checked_sub(changes.group_count()) {
                None => write_group(&self.pager, changes, nth)?,
                Some(nth) => {
                    let (unit, bytes) = changes.page(nth, &self.tree.read().space);
                    self.pager.write_map(unit, &bytes)?;
                }
            }
        }
        Ok(end)
    }

    /// Gives back what left with a durable checkpoint, a group under each exclusive latch: up to `count` from the `at`-th on.
    /// Returns the first that is left, `None` if there is none.
    pub(in super::super) fn release_some(&self, changes: &Changes, at: usize, count: usize) -> Option<usize> {
        let end = (at + count).min(changes.group_count());
        for nth in at..end {
            let (group, freed) = changes.freed(nth);
            self.tree.write().space.release(group, &freed);
        }
        if end < changes.group_count() {
            return Some(end);
        }
        let done = self.tree.write().space.end_release();
        drop(done);
        None
    }

    /// Drops groups that need not be in memory.
    pub(in super::super) fn drop_groups(&self) {
        let groups = self.tree.read().space.droppable(loaded_groups_max(self.options.common.cache_bytes));
        for group in groups {
            let dropped = self.tree.write().space.drop_group(group);
            drop(dropped);
        }
    }
}

fn write_group(pager: &Pager, changes: &mut Changes, nth: usize) -> Result<()> {
    match changes.group_page(nth, |entry| pager.read_map_page(entry, Purpose::PageWrite))? {
        Some((unit, bytes)) => pager.write_map(unit, &bytes),
        None => Ok(()),
    }
}

/// The same steps for a map that nobody else uses.
impl FreeMap {
    /// Brings the groups that `wanted` names into memory.
    pub fn load(&mut self, pager: &Pager, wanted: impl Fn(&FreeMap) -> Option<Request>) -> Result<()> {
        while let Some(request) = wanted(self) {
            let bytes = pager.read_map_page(&request.entry, Purpose::Recovery)?;
            self.admit(&request, bytes.as_deref());
        }
        Ok(())
    }

    /// Writes all pages of `changes`; returns the new root.
    pub fn write(&mut self, changes: &mut Changes, pager: &Pager) -> Result<Entry> {
        let sorted = changes.sort();
        self.set_leaving(sorted);
        for nth in 0..changes.group_count() {
            write_group(pager, changes, nth)?;
        }
        for nth in 0..changes.page_count() {
            let (unit, bytes) = changes.page(nth, self);
            pager.write_map(unit, &bytes)?;
        }
        Ok(changes.root(self))
    }

    /// Gives back what left with a durable checkpoint, and drops groups that need not be in memory.
    pub fn release_all(&mut self, changes: &Changes, cache_bytes: u64) {
        for nth in 0..changes.group_count() {
            let (group, freed) = changes.freed(nth);
            self.release(group, &freed);
        }
        self.end_release();
        for group in self.droppable(loaded_groups_max(cache_bytes)) {
            self.drop_group(group);
        }
    }
}

/// Groups that stay in memory although nothing of them has changed: a thirty-second of the cache, 10 MB for 256 GiB of file at most.
fn loaded_groups_max(cache_bytes: u64) -> usize {
    (cache_bytes / 32 / GROUP_BYTES).clamp(16, 2048) as usize
}

/// The group to be loaded for a change.
pub fn wanted_for(map: &FreeMap, needs: Needs) -> Option<Request> {
    if needs.units == 0 {
        return None;
    }
    map.wanted(needs.units, needs.piece_units).or_else(|| map.wanted(needs.units, 1))
}

/// Reads every run that is not used of the map of a store that is not open; `None` if some of it cannot be read.
pub fn read_unused(pager: &Pager, root: Entry, end: u64, purpose: Purpose) -> Option<Vec<Run>> {
    let map = FreeMap::open(root, end, end.max(FIRST_UNIT), &mut |entry| pager.read_map_page(entry, purpose));
    let map = map.ok().filter(|map| map.lost_group().is_none())?;
    map.unused(&mut |entry| pager.check_map_page(entry, purpose)).ok()
}
