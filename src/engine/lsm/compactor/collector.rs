//! Collection: empties segments of the log, and files of survivors, of which little is needed; see [`value_log`](super::super::value_log).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::disk::Purpose;
use crate::engine::lsm::compaction::{Compaction, Levels};
use crate::engine::lsm::core::Core;
use crate::engine::lsm::survivors::{MovedValue, Survivors};
use crate::engine::lsm::value_log::Pointer;
use crate::engine::lsm::version::Version;
use crate::engine::lsm::version_set::VersionSet;
use crate::engine::wal::{Log, LogShape, Segment};
use crate::engine::{Lsn, Result, ValueLog};

/// Moves live values out of segments that are mostly garbage.
pub struct Collector {
    core: Arc<Core>,
    versions: Arc<VersionSet>,
    survivors: Arc<Survivors>,
    /// The log that holds values; `None` where tables hold all of them.
    log: Option<Arc<Log>>,
    moved_bytes: AtomicU64,
}

impl Collector {
    /// The collector of the store whose versions are `versions`; live values of `log`, if there is one, go to `survivors`.
    pub fn new(
        core: Arc<Core>,
        versions: Arc<VersionSet>,
        survivors: Arc<Survivors>,
        log: Option<Arc<Log>>,
    ) -> Collector {
        Collector { core, versions, survivors, log, moved_bytes: AtomicU64::new(0) }
    }

    /// The segments that are to be emptied: where each starts, and its live share in thousandths. Segments that are set aside are not
    /// among them. The map is empty while the disk is so full that the space kept for deletes would be used; the rest of the reserve may
    /// be used, since collection gives more back.
    ///
    /// Only as many segments are chosen, the emptiest first, as bring the live share of all together to the option: of the others more
    /// will have died by the time the space is needed. If `is_thorough`, all are chosen whose live share is below the option.
    pub fn sparse_segments(&self, version: &Version, is_thorough: bool) -> BTreeMap<Lsn, u64> {
        let Some(log) = &self.log else { return BTreeMap::new() };
        let kept_bytes =
            self.core.space.guard.release_bytes().saturating_sub(self.core.space.guard.ballast_bytes());
        let room_bytes = kept_bytes + 2 * log.segment_bytes();
        if self.core.table_store.space().is_ok_and(|space| space.room_bytes() < room_bytes) {
            return BTreeMap::new();
        }
        // A segment cannot be emptied while a table that is set aside needs it.
        let aside = self.versions.set_aside().tables();
        let tables = version.tables().filter(|(_, table)| aside.contains(&table.number));
        let stuck: Option<BTreeSet<Lsn>> = (!aside.is_empty())
            .then(|| tables.flat_map(|(_, table)| table.values.iter()).map(|(start, _)| *start).collect());
        // Both in order, so that each merge step goes through them once.
        let mut needed = version.needed().iter().peekable();
        let mut kept = log.kept();
        kept.extend(self.survivors.kept());
        kept.retain(|(start, _)| {
            let is_stuck = stuck.as_ref().is_some_and(|stuck| stuck.contains(start));
            !is_stuck && !self.versions.set_aside().has_segment(*start)
        });
        kept.sort_unstable();
        let live = kept.into_iter().filter_map(|(start, size)| {
            while needed.next_if(|(before, _)| *before < start).is_some() {}
            needed.next_if(|(at, _)| *at == start).map(|(_, live)| (start, live, size))
        });
        choose_sparse(live.collect(), self.core.options.value_gc_percent, is_thorough)
    }

    /// A rewrite of one table, to move its values out of the segment with the smallest live share; one that no running job is in the way
    /// of.
    pub fn compaction(&self, version: &Version, levels: &Levels) -> Option<Compaction> {
        let sparse = self.sparse_segments(version, self.core.space.shortage.is_refused());
        let mut sparse: Vec<(u64, Lsn)> = sparse.into_iter().map(|(start, share)| (share, start)).collect();
        sparse.sort_unstable();
        sparse.into_iter().find_map(|(_, victim)| {
            let tables = version.tables().filter(|(_, table)| table.needs(victim));
            let mut compactions = tables.map(|(level, table)| Compaction::rewrite(level, table));
            compactions.find(|compaction| levels.is_free(compaction))
        })
    }

    /// Moves a value to the [survivors](crate::engine::lsm::survivors) if it lies in a segment of `sparse`. One that cannot be read stays where it is, and so from
    /// then on does what lies beside it.
    pub fn move_value(
        &self,
        sparse: &BTreeSet<Lsn>,
        pointer: Pointer,
        segment: &Arc<Segment>,
    ) -> Result<Option<MovedValue>> {
        let start = segment.start();
        if !sparse.contains(&start) || self.versions.set_aside().has_segment(start) {
            return Ok(None);
        }
        let value = match pointer.fetch(segment, Purpose::ValueLogGc) {
            Ok(value) => value,
            Err(error) => {
                self.versions.set_aside().note_segment(start, &error);
                return Ok(None);
            }
        };
        let moved = self.survivors.append(&value)?;
        self.moved_bytes.fetch_add(pointer.bytes, Relaxed);
        Ok(Some(moved))
    }

    /// The report on values in the log.
    pub fn shape(&self, log: &LogShape, live_bytes: u64) -> ValueLog {
        let (files, bytes) = self.survivors.size();
        ValueLog {
            segments: log.kept_segments + files,
            bytes: log.kept_bytes + bytes,
            live_bytes,
            moved_bytes: self.moved_bytes.load(Relaxed),
        }
    }

    /// Makes the values that were moved durable, not yet the names of their files.
    pub fn sync(&self) -> Result<()> {
        self.survivors.sync()
    }
}

/// The segments to empty, with their live share in thousandths, out of `segments` (start, live bytes, size). These are the emptiest of
/// those with a live share below `percent`, as many as are needed until the live share of all together is that high; all of them if
/// `is_thorough`.
fn choose_sparse(mut segments: Vec<(Lsn, u64, u64)>, percent: u64, is_thorough: bool) -> BTreeMap<Lsn, u64> {
    let share = |live: u64, size: u64| live.saturating_mul(1000) / size.max(1);
    let live_bytes: u64 = segments.iter().map(|(_, live, _)| live).sum();
    let mut bytes: u64 = segments.iter().map(|(.., size)| size).sum();
    segments.retain(|(_, live, size)| live * 100 < size * percent);
    segments.sort_by_key(|(start, live, size)| (share(*live, *size), *start));
    let chosen = segments.into_iter().take_while(|(_, live, size)| {
        let is_wanted = is_thorough || live_bytes * 100 < bytes * percent;
        bytes -= size.saturating_sub(*live).min(bytes);
        is_wanted
    });
    chosen.map(|(start, live, size)| (start, share(live, size))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_emptiest_segments_are_emptied_until_enough_of_all_lives() {
        let none: [u64; 0] = [];
        let chosen = |segments: &[(u64, u64)], is_thorough| -> Vec<u64> {
            let segments =
                segments.iter().zip(1..).map(|((live, size), start)| (Lsn::new(start), *live, *size));
            choose_sparse(segments.collect(), 50, is_thorough).into_keys().map(Lsn::number).collect()
        };
        // Half of all lives: nothing has to be done, and a command does what it can.
        assert_eq!(chosen(&[(90, 100), (40, 100), (20, 100)], false), none);
        assert_eq!(chosen(&[(90, 100), (40, 100), (20, 100)], true), [2, 3]);
        // The emptiest one is enough, or more are needed; one of which half lives never is.
        assert_eq!(chosen(&[(60, 100), (45, 100), (5, 100)], false), [3]);
        assert_eq!(chosen(&[(20, 100), (90, 100), (5, 100), (5, 100)], false), [3, 4]);
        assert_eq!(chosen(&[(10, 100), (45, 100), (5, 100), (5, 100)], false), [1, 3, 4]);
        assert_eq!(chosen(&[(50, 100), (50, 100)], true), none);
        assert_eq!(choose_sparse(vec![(Lsn::new(1), 1, 100)], 0, true), BTreeMap::new());
    }
}
