//! Reads and writes of the free map's pages, a few at a time.
//!
//! The map in memory ([`super::freemap`]) does no I/O; its pages are read and written here. In an open store the map is behind the latch of the
//! tree, while a replay owns it alone: a [`MapHolder`] is either. No page is read or written under the latch.

use super::allocation_unit::{FIRST_UNIT, UnitNumber};
use super::freemap::{FreeMap, GROUP_BYTES, GroupRequest, MapChanges, MapEntry, UnitRun};
use super::latch::TreeLatch;
use super::pager::Pager;
use crate::disk::Purpose;
use crate::engine::{Error, Result, Tier};

/// The owner of a map.
pub trait MapHolder {
    /// Reads from the map.
    fn look<R>(&self, look: impl FnOnce(&FreeMap) -> R) -> R;

    /// Changes the map. The caller drops what `change` returns, so that it is not dropped under a latch.
    fn change<R>(&mut self, change: impl FnOnce(&mut FreeMap) -> R) -> R;
}

/// A map that no other thread uses.
impl MapHolder for FreeMap {
    fn look<R>(&self, look: impl FnOnce(&FreeMap) -> R) -> R {
        look(self)
    }

    fn change<R>(&mut self, change: impl FnOnce(&mut FreeMap) -> R) -> R {
        change(self)
    }
}

/// A map that readers and writers use, too: each call takes the latch.
impl MapHolder for &TreeLatch {
    fn look<R>(&self, look: impl FnOnce(&FreeMap) -> R) -> R {
        look(&self.read().space)
    }

    fn change<R>(&mut self, change: impl FnOnce(&mut FreeMap) -> R) -> R {
        change(&mut self.write().space)
    }
}

/// Loads the groups that `wanted` names, one by one; [`Error::WouldBlock`] in [`Tier::Memory`] if there are any. `tell` is called with newly
/// found damage.
pub fn load(
    holder: &mut impl MapHolder,
    pager: &Pager,
    tier: Tier,
    purpose: Purpose,
    wanted: impl Fn(&FreeMap) -> Option<GroupRequest>,
    tell: impl Fn(String),
) -> Result<()> {
    while let Some(request) = holder.look(&wanted) {
        if tier == Tier::Memory {
            return Err(Error::WouldBlock);
        }
        let bytes = pager.read_map_page(request.entry.unit, request.entry.crc, purpose)?;
        let damage = holder.change(|map| {
            let before = map.damage();
            map.admit(&request, bytes.as_deref());
            map.damage().filter(|damage| before.as_ref() != Some(damage))
        });
        damage.into_iter().for_each(&tell);
    }
    Ok(())
}

/// Number of pages that a checkpoint writes for `changes`.
pub fn page_count(changes: &MapChanges) -> usize {
    changes.group_count() + changes.page_count()
}

/// Writes up to `count` pages of the map, from the `at`-th on; returns the index of the next one.
pub fn write_some(
    holder: &mut impl MapHolder,
    pager: &Pager,
    changes: &mut MapChanges,
    at: usize,
    count: usize,
) -> Result<usize> {
    if at == 0 {
        let sorted = changes.sort();
        // The old list may be long, so it is dropped without the latch.
        drop(holder.change(|map| map.set_leaving(sorted)));
    }
    let end = at.saturating_add(count).min(page_count(changes));
    for nth in at..end {
        let page = match nth.checked_sub(changes.group_count()) {
            None => changes
                .group_page(nth, |entry| pager.read_map_page(entry.unit, entry.crc, Purpose::PageWrite))?,
            Some(nth) => Some(holder.look(|map| changes.page(nth, map))),
        };
        if let Some((unit, bytes)) = page {
            pager.write_map(unit, &bytes)?;
        }
    }
    Ok(end)
}

/// Releases the units that a durable checkpoint has freed, up to `count` groups from the `at`-th on, and takes the latch for each group apart.
/// Returns the index of the next group, `None` at the end.
pub fn release_some(
    holder: &mut impl MapHolder,
    changes: &MapChanges,
    at: usize,
    count: usize,
) -> Option<usize> {
    let end = at.saturating_add(count).min(changes.group_count());
    for nth in at..end {
        let (group, freed) = changes.freed(nth);
        holder.change(|map| map.release(group, &freed));
    }
    if end < changes.group_count() {
        return Some(end);
    }
    drop(holder.change(FreeMap::end_release));
    None
}

/// Drops groups that need not stay in memory beside a cache of `cache_bytes`.
pub fn drop_groups(holder: &mut impl MapHolder, cache_bytes: u64) {
    for group in holder.look(|map| map.droppable(loaded_groups_max(cache_bytes))) {
        drop(holder.change(|map| map.drop_group(group)));
    }
}

/// Number of unchanged groups that stay in memory: a thirty-second of the cache, at most 10 MB for 256 GiB of file.
pub fn loaded_groups_max(cache_bytes: u64) -> usize {
    (cache_bytes / 32 / GROUP_BYTES).clamp(16, 2048) as usize
}

/// Reads all unused runs from the map of a store that is not open; `None` if a page of it cannot be read.
pub fn read_unused(pager: &Pager, root: MapEntry, end: UnitNumber, purpose: Purpose) -> Option<Vec<UnitRun>> {
    let mut read = |entry: &MapEntry| pager.read_map_page(entry.unit, entry.crc, purpose);
    let map = FreeMap::open(root, end, end.max(FIRST_UNIT), &mut read);
    let map = map.ok().filter(|map| map.lost_group().is_none())?;
    map.unused(&mut |entry| pager.check_map_page(entry.unit, entry.crc, purpose)).ok()
}
