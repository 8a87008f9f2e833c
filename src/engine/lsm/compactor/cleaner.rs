//! Cleaning: room where there is none. While a batch has been refused for want of space or of files, tables are rewritten one by one
//! where they lie, without what newer tables have deleted or replaced.
//!
//! A tombstone gives space back when it meets the entry that it deletes. An ordinary merge on its way down writes everything that lives in
//! its range anew, which takes room that a full disk does not have. Cleaning takes the room of the remaining entries of one table, and
//! none if nothing remains.
//!
//! 1. The tombstones of a table are spread over the tables of each level below that it overlaps, partition by partition: that is the
//!    estimate of how many entries are deleted there. Nothing is read for it. First come tables of which enough seems to be deleted and
//!    the rest fits. When none is left, those come of which enough *may* be deleted: they are tried in the room there is, and left as
//!    they are if that is not enough.
//! 2. The table that gives most back and fits is merged with every newer table that overlaps it, its *shadows*; only entries of its own
//!    are written. The shadows stay as they are.
//! 3. Tombstones that were there when a table was cleaned do not count for it again, nor those that were there when it was tried, until
//!    there is half as much room again. So cleaning ends.
//!
//! Where others have taken even the reserve, the ballast of the space guard is given up for it, as for the flush that brings the
//! tombstones down and for the log of those who delete; it is taken again when there is room.
//!
//! # Invariants
//!
//! 1. Only tables are shadows: a delete in a memtable may be lost with power, and the entry must be there then.
//! 2. A table that is cleaned is claimed like the input of any merge, so no tombstone over it can be dropped meanwhile: a merge that
//!    drops one has the level of the table for its target, or knows that the table may hold the key.
//! 3. A shadow stays, or lives on in the tables that replace it. This is not so for inputs of a job of which some subcompactions are
//!    installed: a copy of their entries may lie in the table that is to be cleaned, and be all that is left once the job has ended. Such
//!    a table waits for the end of the job.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::job::{CompactionJob, JobId};
use super::running::RunningJobs;
use crate::disk::LEVELS;
use crate::engine::lsm::compaction::{Compaction, Levels};
use crate::engine::lsm::core::Core;
use crate::engine::lsm::space_budget::SHARE_MIN;
use crate::engine::lsm::table::{Table, TableNumber};
use crate::engine::lsm::version::Version;
use crate::engine::{Lsn, Result};

/// Share of a table that must be deleted for cleaning while new data still finds room: then no more is written than comes back.
const SHARE_EARLY_MIN: f64 = 1.0 / 2.0;
/// Bytes that a tombstone takes in a block, at least: shared length, unshared length, tag, and one byte of a key.
const TOMBSTONE_BYTES_MIN: u64 = 4;

/// Tables that were cleaned, or could not be.
#[derive(Default)]
pub struct Cleaned {
    /// By number: entries that batches up to this LSN have deleted are not in the table any more.
    passed: BTreeMap<TableNumber, Lsn>,
    /// Tables for which there was not enough room when they were tried: entries that batches up to this LSN have deleted are still
    /// in them, and so many bytes were not enough.
    tried: BTreeMap<TableNumber, (Lsn, u64)>,
}

impl Cleaned {
    /// Forgets tables that are not part of `version`.
    fn forget_others(&mut self, version: &Version) {
        if !self.passed.is_empty() || !self.tried.is_empty() {
            let numbers: BTreeSet<TableNumber> = version.tables().map(|(_, table)| table.number).collect();
            self.passed.retain(|number, _| numbers.contains(number));
            self.tried.retain(|number, _| numbers.contains(number));
        }
    }

    /// Notes that a table holds nothing that batches up to `lsn` have deleted.
    pub fn pass(&mut self, number: TableNumber, lsn: Lsn) {
        self.passed.insert(number, lsn);
    }

    /// Notes that `bytes` were not room enough for what batches up to `lsn` have left of a table.
    pub fn fail(&mut self, number: TableNumber, lsn: Lsn, bytes: u64) {
        self.tried.insert(number, (lsn, bytes));
    }

    /// LSN up to which deletes do not count for table `number` while `free_bytes` are free.
    fn horizon(&self, number: TableNumber, free_bytes: u64) -> Option<Lsn> {
        let fails = |(_, bytes): &&(Lsn, u64)| free_bytes <= bytes.saturating_add(bytes / 2);
        let tried = self.tried.get(&number).filter(fails).map(|(lsn, _)| *lsn);
        self.passed.get(&number).copied().max(tried)
    }
}

/// Share of the tombstones of a table from `first_lsn` to `last_lsn` that came after `horizon`: a table that came from merges also has old ones.
fn share_after(first_lsn: Lsn, last_lsn: Lsn, horizon: Option<Lsn>) -> f64 {
    let Some(horizon) = horizon else { return 1.0 };
    match last_lsn.bytes_since(first_lsn) {
        // All of it came at one moment.
        0 => f64::from(last_lsn > horizon),
        span => last_lsn.bytes_since(first_lsn.max(horizon)) as f64 / span as f64,
    }
}

/// A table worth cleaning.
struct Candidate {
    level: usize,
    table: Arc<Table>,
    /// Whether enough seems to be deleted and the rest fits. If not, it may be that nothing is deleted.
    is_likely: bool,
    /// Bytes that it may take when it is cleaned; about.
    need_bytes: u64,
    /// Bytes that it gives back, with those of its values in the log; about, or at most.
    gain_bytes: u64,
}

impl Candidate {
    /// Whether it fits into the room there is, as far as is known.
    fn fits(&self) -> bool {
        self.is_likely || self.need_bytes >= self.table.bytes
    }

    /// Order in which tables are cleaned: first those that fit, and of them the one that gives most back; then the smallest one, whose
    /// rest may fit and give room for the next.
    fn rank(&self) -> impl Ord + use<> {
        let order = if self.fits() { self.gain_bytes } else { u64::MAX - self.table.bytes };
        (self.is_likely, self.fits(), order, self.table.number)
    }
}

/// Bytes of a table and of its values in the log.
fn weight(table: &Table) -> u64 {
    table.bytes + table.values.iter().map(|(_, bytes)| bytes).sum::<u64>()
}

/// Tombstones of newer tables that lie over a table and may delete something there.
#[derive(Clone, Copy, Default)]
pub struct Above {
    /// Their estimated number, if they are spread over their tables as the bytes are.
    pub likely: f64,
    /// Their number at most. Tombstones take few bytes: among values all of them may lie in one partition.
    pub most: f64,
}

/// Tombstones above each table, by its number, that count while `free_bytes` are free.
pub fn tombstones_above(
    version: &Version,
    cleaned: &Cleaned,
    free_bytes: u64,
) -> BTreeMap<TableNumber, Above> {
    let mut above: BTreeMap<TableNumber, Above> = BTreeMap::new();
    for (level, newer) in version.tables().filter(|(_, table)| table.tombstones > 0) {
        let mut of_newer: BTreeMap<TableNumber, Above> = BTreeMap::new();
        let mut spread = |tables: &mut dyn Iterator<Item = &Arc<Table>>, tombstones: f64, most: f64| {
            let under: Vec<TableNumber> = tables.map(|table| table.number).collect();
            let share = tombstones / under.len().max(1) as f64;
            for number in under {
                let above = of_newer.entry(number).or_default();
                above.likely += share;
                above.most += most;
            }
        };
        let samples: Vec<(&[u8], u64)> = newer.samples().collect();
        let total_bytes: u64 = samples.iter().map(|(_, bytes)| bytes).sum();
        for (index, (start, bytes)) in samples.iter().enumerate() {
            let end = samples.get(index + 1).map_or(&newer.largest[..], |(next, _)| next);
            let tombstones = newer.tombstones as f64 * *bytes as f64 / total_bytes.max(1) as f64;
            let most = (*bytes / TOMBSTONE_BYTES_MIN) as f64;
            if level == 0 {
                let older = version.level(0).after(newer);
                spread(&mut older.filter(|table| table.overlaps(start, end)), tombstones, most);
            }
            for below in level + 1..LEVELS {
                spread(&mut version.level(below).overlapping(start, end), tombstones, most);
            }
        }
        for (number, part) in of_newer {
            let left = share_after(newer.first_lsn, newer.last_lsn, cleaned.horizon(number, free_bytes));
            let above = above.entry(number).or_default();
            above.likely += part.likely * left;
            above.most += part.most.min(newer.tombstones as f64) * left;
        }
    }
    above
}

/// Finds tables to clean.
pub struct Cleaner {
    core: Arc<Core>,
    /// Tables that need not be cleaned again.
    cleaned: Mutex<Cleaned>,
}

impl Cleaner {
    /// A cleaner that has cleaned nothing yet.
    pub fn new(core: Arc<Core>) -> Cleaner {
        Cleaner { core, cleaned: Mutex::default() }
    }

    /// Jobs that would each clean a table of `version`, the one that gives most back first as far as is known; `None` for a table that
    /// is worth it and waits for the end of a job that runs.
    pub fn jobs<'a>(
        &'a self,
        version: &'a Version,
        levels: &'a Levels,
        running: &RunningJobs,
    ) -> Result<impl Iterator<Item = Option<CompactionJob>> + use<'a>> {
        // A disk that does not say how much is free says the largest number: the sum must not overflow.
        let free_bytes =
            running.free_bytes(&self.core.table_store)?.saturating_add(self.core.space.guard.ballast_bytes());
        let candidates = self.candidates(version, free_bytes);
        let lsn = (0..LEVELS).map(|level| version.level(level).sums().last_lsn).max().unwrap_or_default();
        let halfway = running.jobs.iter().filter(|job| job.is_halfway()).flat_map(CompactionJob::inputs);
        let halfway: BTreeSet<TableNumber> = halfway.map(|(_, table)| table.number).collect();
        // A table that is tried gets all the room.
        let is_room_tried = running.jobs.iter().any(|job| job.cleans().is_some());
        Ok(candidates.into_iter().filter_map(move |candidate| {
            let waits_for_room = is_room_tried && !candidate.fits();
            let Candidate { level, table, need_bytes, .. } = candidate;
            let compaction = Compaction::rewrite(level, &table);
            if waits_for_room || levels.is_claimed(&compaction) {
                return Some(None);
            }
            let shadows = levels.is_free(&compaction).then(|| shadows(version, levels, level, &table))?;
            if shadows.iter().any(|(_, table)| halfway.contains(&table.number)) {
                return Some(None);
            }
            let mut job = CompactionJob::new(version, compaction, &self.core.table_store, &self.core.options);
            job.clean(shadows, need_bytes, lsn);
            Some(Some(job))
        }))
    }

    /// Tables of `version` worth cleaning while `free_bytes` are free, in the order in which they come.
    fn candidates(&self, version: &Version, free_bytes: u64) -> Vec<Candidate> {
        let mut cleaned = self.cleaned.lock();
        cleaned.forget_others(version);
        let above = tombstones_above(version, &cleaned, free_bytes);
        let is_early = !self.core.space.shortage.is_refused() && !self.core.space.guard.is_full();
        let least = if is_early { SHARE_EARLY_MIN } else { SHARE_MIN };
        let candidate = |(level, table): (usize, &Arc<Table>)| {
            let above = above.get(&table.number)?;
            let share = |tombstones: f64| (tombstones / table.entries.max(1) as f64).min(1.0);
            let left = |share: f64| (table.bytes as f64 * (1.0 - share)) as u64;
            let gain = |share: f64| (weight(table) as f64 * share) as u64;
            let (likely, most) = (share(above.likely), share(above.most));
            // What seemed to fit and did not may take more.
            let was_wrong = cleaned.tried.contains_key(&table.number);
            let is_likely = likely >= least && left(likely) <= free_bytes && !was_wrong;
            let may_do = is_likely || !is_early && most >= SHARE_MIN && left(most) <= free_bytes;
            may_do.then(|| Candidate {
                level,
                table: table.clone(),
                is_likely,
                need_bytes: if is_likely { left(likely) } else { table.bytes.min(free_bytes) },
                gain_bytes: gain(if is_likely { likely } else { most }),
            })
        };
        let mut candidates: Vec<Candidate> = version.tables().filter_map(candidate).collect();
        candidates.sort_by_key(|candidate| std::cmp::Reverse(candidate.rank()));
        candidates
    }

    /// Whether the cleaning of a table has room to go on. Of what is left of a table it may turn out that it is more than it seemed: then
    /// all that is free is claimed for it, up to what the table takes. What is written anew may take a little more than it took, so that
    /// is no limit.
    pub fn claim_more(&self, running: &mut RunningJobs, id: JobId) -> Result<bool> {
        let (free_bytes, guard) = (running.free_bytes(&self.core.table_store)?, &self.core.space.guard);
        let Some(job) = running.job_mut(id) else { return Ok(true) };
        let (taken_bytes, need_bytes) = (job.temporary_bytes(), job.need_bytes());
        if taken_bytes <= need_bytes || need_bytes >= job.input_bytes() {
            return Ok(true);
        }
        let room_bytes = free_bytes.saturating_add(guard.ballast_bytes());
        let more_bytes = room_bytes.min(job.input_bytes().saturating_sub(taken_bytes));
        if more_bytes > free_bytes {
            guard.give_ballast(more_bytes - free_bytes);
        }
        job.set_need_bytes(taken_bytes + more_bytes);
        Ok(more_bytes > 0)
    }

    /// Notes that `tables` hold nothing that batches up to `lsn` have deleted.
    pub fn pass(&self, tables: &[Arc<Table>], lsn: Lsn) {
        let mut cleaned = self.cleaned.lock();
        tables.iter().for_each(|table| cleaned.pass(table.number, lsn));
    }

    /// Notes that `job` found no room for what batches up to `lsn` have left of its input, of which it claimed what it needs, or
    /// of which the disk refused `refused_bytes`.
    pub fn fail(&self, job: &CompactionJob, lsn: Lsn, refused_bytes: u64) {
        let bytes = job.need_bytes().max(refused_bytes);
        let mut cleaned = self.cleaned.lock();
        let numbers = job.compaction.inputs.iter().flat_map(|(_, numbers)| numbers);
        numbers.for_each(|number| cleaned.fail(*number, lsn, bytes));
    }
}

/// Tables that are newer than `table` and overlap it, newest first, except those that are set aside.
fn shadows(version: &Version, levels: &Levels, level: usize, table: &Table) -> Vec<(usize, Arc<Table>)> {
    let newer = version.tables().take_while(|(_, other)| other.number != table.number);
    let newer = newer.filter(|(other_level, other)| {
        (*other_level < level || *other_level == 0)
            && other.overlaps(&table.smallest, &table.largest)
            && !levels.aside.contains(&other.number)
    });
    newer.map(|(level, table)| (level, table.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tombstones_count_by_the_part_of_their_table_that_is_newer() {
        let share = |first, last, horizon: Option<u64>| {
            share_after(Lsn::new(first), Lsn::new(last), horizon.map(Lsn::new))
        };
        assert_eq!([share(10, 20, None), share(10, 20, Some(5)), share(10, 20, Some(15))], [1.0, 1.0, 0.5]);
        assert_eq!([share(10, 20, Some(20)), share(10, 20, Some(30))], [0.0, 0.0]);
        assert_eq!([share(20, 20, Some(19)), share(20, 20, Some(20))], [1.0, 0.0], "of one moment");
    }

    #[test]
    fn a_table_is_tried_again_when_there_is_half_as_much_room_again_or_more_is_deleted() {
        let mut cleaned = Cleaned::default();
        assert_eq!(cleaned.horizon(TableNumber::new(7), 0), None);
        cleaned.fail(TableNumber::new(7), Lsn::new(100), 0);
        assert_eq!(
            (cleaned.horizon(TableNumber::new(7), 0), cleaned.horizon(TableNumber::new(7), 1)),
            (Some(Lsn::new(100)), None)
        );
        cleaned.fail(TableNumber::new(7), Lsn::new(120), 1000);
        assert_eq!(
            (cleaned.horizon(TableNumber::new(7), 1500), cleaned.horizon(TableNumber::new(7), 1501)),
            (Some(Lsn::new(120)), None)
        );
        cleaned.pass(TableNumber::new(7), Lsn::new(60));
        assert_eq!(
            (cleaned.horizon(TableNumber::new(7), 1500), cleaned.horizon(TableNumber::new(7), 1501)),
            (Some(Lsn::new(120)), Some(Lsn::new(60)))
        );
        assert_eq!(cleaned.horizon(TableNumber::new(8), 0), None);
        // A disk that does not say what is free has refused it.
        cleaned.fail(TableNumber::new(9), Lsn::new(100), u64::MAX);
        assert_eq!(cleaned.horizon(TableNumber::new(9), u64::MAX), Some(Lsn::new(100)));
    }
}
