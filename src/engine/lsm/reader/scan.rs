//! A scan: every memtable and sorted run merged into one, tombstones left out.
//!
//! Tombstones in a row are what makes scans slow. From [`LOOK`] of them on the scan asks whether it is in a known deleted range and
//! jumps to its end; after as many as the option says, it begins to prove a deleted range of its own. See [`deleted_ranges`](crate::engine::lsm::deleted_ranges).
//!
//! A scan keeps no memtable in memory. When one that it goes through was flushed and is gone, it begins again behind the last key that
//! it passed, with what the store is now.

use std::sync::atomic::Ordering::Relaxed;

use super::Reader;
use crate::disk::LEVELS;
use crate::engine::lsm::cursor::{Cursor, MemoryCursor, Reading, RunCursor};
use crate::engine::lsm::deleted_ranges::{OpenRange, successor};
use crate::engine::lsm::merging_cursor::MergingCursor;
use crate::engine::lsm::run::Run;
use crate::engine::lsm::value_log::Group;
use crate::engine::lsm::version::Version;
use crate::engine::{Error, KeyRange, Result, Tier, Visit};

/// After this many tombstones in a row a scan asks for a deleted range.
const LOOK: u64 = 8;
/// Tombstones that a scan of [`Tier::Memory`] passes at most: more take milliseconds, and nobody sleeps on a dispatch thread.
const MEMORY_TOMBSTONES: u64 = 4096;

/// Tombstones in a row that a scan has passed.
struct Row<'a> {
    length: u64,
    /// Key at which it begins: no key from here on had a value.
    start: Vec<u8>,
    open: Option<OpenRange<'a>>,
    /// An entry was shown before it.
    is_later: bool,
}

impl Reader {
    /// Visits the keys of `range`.
    pub fn scan(&self, range: KeyRange<'_>, tier: Tier, visit: &mut Visit<'_>) -> Result<()> {
        let mut tombstones = 0;
        let result = self.scan_entries(range, tier, visit, &mut tombstones);
        if tombstones > 0 {
            self.scan_tombstones.fetch_add(tombstones, Relaxed);
        }
        result
    }

    /// Does so, and counts the tombstones that it passes.
    fn scan_entries(
        &self,
        range: KeyRange<'_>,
        tier: Tier,
        visit: &mut Visit<'_>,
        tombstones: &mut u64,
    ) -> Result<()> {
        if range.end.is_some_and(|end| end <= range.start) {
            return Ok(());
        }
        let start = self.deleted_ranges.end_behind(range.start).unwrap_or_else(|| range.start.to_vec());
        if !range.is_before_end(&start) {
            return Ok(());
        }
        let mut merge = self.merge_from(&start, range.end, tier)?;
        self.scan_runs.record(merge.sources() as u64);
        let mut group = Group::new(&self.cache, tier);
        let mut row = Row { length: 0, start, open: None, is_later: false };
        loop {
            let entry = match merge.next() {
                Ok(Some(entry)) if range.is_before_end(entry.key) => entry,
                other => {
                    let result = other.map(|_| ());
                    if result.is_ok() && merge.is_cut() {
                        merge = self.merge_from(&successor(merge.passed()), range.end, tier)?;
                        continue;
                    }
                    // Where an error ends the scan, what was passed is proven all the same.
                    if let Some(open) = row.open.take() {
                        match range.end {
                            Some(end) if result.is_ok() => open.close(end),
                            _ => open.close(&successor(merge.passed())),
                        }
                    }
                    result?;
                    break;
                }
            };
            if let Some(value) = entry.value {
                if let Some(open) = row.open.take() {
                    open.close(entry.key);
                }
                (row.length, row.is_later) = (0, true);
                if group.push(entry.key, value, visit)?.is_break() {
                    return Ok(());
                }
                continue;
            }
            if row.length == 0 && row.is_later {
                row.start.clear();
                row.start.extend_from_slice(merge.passed());
            }
            row.length += 1;
            *tombstones += 1;
            if tier == Tier::Memory && *tombstones > MEMORY_TOMBSTONES {
                if let Some(open) = row.open.take() {
                    open.close(&successor(merge.passed()));
                }
                return Err(Error::WouldBlock);
            }
            let proves = self.gap_tombstones > 0;
            if proves && (row.length == LOOK || row.length.is_multiple_of(self.gap_tombstones)) {
                self.pass_deleted_range(&mut row, &mut merge, range.end, tier)?;
            }
        }
        group.end(visit).map(|_| ())
    }

    /// Jumps over the deleted range that the scan is in, or begins to prove one.
    fn pass_deleted_range<'a>(
        &'a self,
        row: &mut Row<'a>,
        merge: &mut MergingCursor,
        end: Option<&[u8]>,
        tier: Tier,
    ) -> Result<()> {
        if let Some(behind) = self.deleted_ranges.end_behind(merge.passed()) {
            merge.seek(&behind)?;
            if merge.is_cut() {
                *merge = self.merge_from(&behind, end, tier)?;
            }
            if row.open.is_none() {
                row.start = behind;
            }
        } else if row.open.is_none() && row.length >= self.gap_tombstones {
            row.open = Some(self.deleted_ranges.open(&row.start));
            *merge = self.merge_from(&row.start, end, tier)?;
        }
        Ok(())
    }

    /// The entries of the store, as it is now, from `start` on.
    fn merge_from(&self, start: &[u8], end: Option<&[u8]>, tier: Tier) -> Result<MergingCursor> {
        let range = KeyRange { start, end };
        let reading = Reading::Cached { cache: self.cache.clone(), tier };
        let mut sources = Vec::with_capacity(8);
        let version = {
            // Tables are read below, and who waits for the disk must keep no memtable in memory.
            let superversion = self.current.superversion();
            for memtable in superversion.memtables().filter(|memtable| !memtable.is_empty()) {
                sources.push(Cursor::Memory(MemoryCursor::new(memtable, range)));
            }
            superversion.version.clone()
        };
        add_tables(&version, range, &reading, &mut sources)?;
        Ok(MergingCursor::new(sources))
    }
}

/// Adds the sorted runs of `version` that reach into `range` to `sources`, the newest first.
pub fn add_tables(
    version: &Version,
    range: KeyRange<'_>,
    reading: &Reading,
    sources: &mut Vec<Cursor>,
) -> Result<()> {
    let l0 = version.level(0).iter();
    let l0 = l0.filter(|table| range.is_before_end(&table.smallest) && range.start <= &table.largest[..]);
    let runs =
        l0.map(|table| Run::one(table.clone())).chain((1..LEVELS).map(|level| version.level(level).clone()));
    for run in runs.filter(|run| !run.is_empty()) {
        sources.push(Cursor::Run(Box::new(RunCursor::new(run, range, reading.clone())?)));
    }
    Ok(())
}
