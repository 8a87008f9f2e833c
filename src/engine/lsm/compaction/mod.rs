//! Compaction: a pure [`Policy`] says what to merge, [`RunningJob`] cuts it into slices, each merged a few mebibytes at a time.
//!
//! Every policy can take over whatever another one left: all of them see the same picture, sorted runs from the newest to the oldest
//! (the tables of L0 one by one, then each level as one run), and each of their choices keeps that order.
//!
//! # Invariants
//!
//! 1. A merge takes runs that are neighbours in age. Of the target level it takes every table that overlaps what comes in.
//! 2. A tombstone is dropped only if nothing older can hold its key: no level below the target, and no table of L0 that is older
//!    than the inputs.
//! 3. Inputs stay part of the store until the edit that names the outputs is durable.
//! 4. Jobs that run at once meet in no key of a level that lies in both of their spans, from the highest input to the target
//!    ([`Claim`]). So each finds the tables of its range as they were when it was chosen, but for newer ones in L0, and for any key
//!    one job stays above the other: the order of ages is kept. Merges within L0 meet only where they share a table: each takes
//!    neighbours in age, and puts its output in their place.
//! 5. A table that is set aside is no input of anything, and nothing newer passes it: see [`Around`].

mod around;
mod eager;
mod leveled;
mod plain_log;
mod running;
#[cfg(test)]
mod tests;
mod tiered;
mod window;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::table::{Table, TableMeta};
use super::version::Version;
use crate::disk::LEVELS;
use crate::engine::{Options, PolicyKind};

pub use around::Around;
pub use eager::Eager;
pub use leveled::Leveled;
pub use plain_log::NeverMerge;
pub use running::{RunningJob, Slice};
pub use tiered::Tiered;
pub use window::TimeWindow;

/// What a policy sees.
#[derive(Clone, Default)]
pub struct Levels<'a> {
    /// The tables of every level, L0 newest first, the others by key.
    pub tables: [Vec<&'a TableMeta>; LEVELS],
    /// Seconds since 1970.
    pub now_seconds: u64,
    /// What jobs that run have to themselves; a choice that meets one of them must wait.
    pub claims: Vec<Claim>,
    /// Numbers of tables that are set aside: they cannot be read, and no job takes them.
    pub aside: BTreeSet<u64>,
    /// Where tables that are set aside lie below L0, once they are taken out of the picture: no job may go over them. Unlike a
    /// claim that never ends.
    pub barred: Vec<Claim>,
}

/// What a job has to itself while it runs: a range of keys in a span of levels.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// The highest level of its inputs.
    pub from: usize,
    /// Its target level.
    pub into: usize,
    /// The first key of its inputs.
    pub smallest: Bytes,
    /// The last key of its inputs.
    pub largest: Bytes,
    /// Its inputs in L0.
    pub l0: Vec<u64>,
}

impl Claim {
    /// The claim of `job` on `inputs`.
    pub fn of_tables<'a>(job: &Job, inputs: impl Iterator<Item = &'a TableMeta>) -> Claim {
        let range = inputs.fold(None, |range: Option<(&Bytes, &Bytes)>, table| match range {
            None => Some((&table.smallest, &table.largest)),
            Some((smallest, largest)) => Some((smallest.min(&table.smallest), largest.max(&table.largest))),
        });
        let (smallest, largest) = range.map_or_else(Default::default, |(a, b)| (a.clone(), b.clone()));
        let from = job.inputs.first().map_or(job.into, |(level, _)| *level);
        let upper = job.inputs.iter().filter(|(level, _)| *level == 0);
        let l0 = upper.flat_map(|(_, numbers)| numbers.iter().copied()).collect();
        Claim { from, into: job.into, smallest, largest, l0 }
    }

    /// Whether all of it lies in L0.
    fn is_within_l0(&self) -> bool {
        self.into == 0
    }

    /// Whether both have a key of a level; where one stays within L0, a table.
    pub fn meets(&self, other: &Claim) -> bool {
        if self.is_within_l0() || other.is_within_l0() {
            return self.l0.iter().any(|number| other.l0.contains(number));
        }
        let shares_level = self.from <= other.into && other.from <= self.into;
        shares_level && self.smallest <= other.largest && other.smallest <= self.largest
    }
}

/// One sorted run.
#[derive(Clone, Debug, PartialEq)]
pub struct SortedRun {
    /// Where it lies. A table of L0 is a run of its own; of any other level there is one.
    pub level: usize,
    /// Its tables.
    pub numbers: Vec<u64>,
    /// Their bytes.
    pub bytes: u64,
    /// Seconds since 1970 of its newest batch.
    pub newest_seconds: u64,
}

impl<'a> Levels<'a> {
    /// Bytes of a level.
    pub fn bytes(&self, level: usize) -> u64 {
        self.tables[level].iter().map(|table| table.bytes).sum()
    }

    /// The lowest level below L0 that holds anything.
    pub fn lowest(&self) -> Option<usize> {
        (1..LEVELS).rev().find(|level| !self.tables[*level].is_empty())
    }

    /// All sorted runs, newest first.
    pub fn runs(&self) -> Vec<SortedRun> {
        let run = |level: usize, tables: &[&TableMeta]| SortedRun {
            level,
            numbers: tables.iter().map(|table| table.number).collect(),
            bytes: tables.iter().map(|table| table.bytes).sum(),
            newest_seconds: tables.iter().map(|table| table.newest_seconds).max().unwrap_or(0),
        };
        let upper = self.tables[0].iter().map(|table| run(0, &[*table]));
        let lower = (1..LEVELS).filter(|level| !self.tables[*level].is_empty());
        upper.chain(lower.map(|level| run(level, &self.tables[level]))).collect()
    }

    /// All of L0 merged into `level`, where nothing lies between; moved if the tables of L0 overlap nothing, nor each other.
    pub fn empty_l0(&self, level: usize) -> Choice {
        let upper = &self.tables[0];
        let (Some(start), Some(end)) =
            (upper.iter().map(|table| &table.smallest).min(), upper.iter().map(|table| &table.largest).max())
        else {
            return Choice::Nothing;
        };
        let lower = self.overlapping(level, start, end);
        let mut sorted: Vec<&TableMeta> = upper.clone();
        sorted.sort_by(|a, b| a.smallest.cmp(&b.smallest));
        let apart = sorted.windows(2).all(|pair| pair[0].largest < pair[1].smallest);
        let movable = apart && lower.is_empty() && !self.could_drop(upper, level);
        let mut inputs = vec![(0, upper.iter().map(|table| table.number).collect())];
        if !lower.is_empty() {
            inputs.push((level, lower.iter().map(|table| table.number).collect()));
        }
        let job = Job { inputs, into: level, cursor: None };
        if movable { Choice::Move(job) } else { Choice::Merge(job) }
    }

    /// The first of `choices`, which come in the order of urgency, that no job that runs is in the way of. What a more urgent one
    /// waits for is left alone by those behind it, so that its turn comes; one that is barred waits for nothing.
    pub fn first_free(&self, choices: impl Iterator<Item = Choice>) -> Choice {
        let mut claims = self.claims.clone();
        for choice in choices {
            let Some(job) = choice.job() else { continue };
            let claim = self.claim(job);
            if self.is_barred(job, &claim) {
                continue;
            }
            if !claims.iter().any(|other| other.meets(&claim)) {
                return choice;
            }
            claims.push(claim);
        }
        Choice::Nothing
    }

    /// Whether neither a job that runs nor a table that is set aside is in the way of `job`.
    pub fn is_free(&self, job: &Job) -> bool {
        let claim = self.claim(job);
        !self.is_barred(job, &claim) && !self.claims.iter().any(|other| other.meets(&claim))
    }

    /// Whether `job`, which would have `claim`, can never begin while some tables are set aside.
    fn is_barred(&self, job: &Job, claim: &Claim) -> bool {
        let takes_one =
            || job.inputs.iter().any(|(_, numbers)| numbers.iter().any(|it| self.aside.contains(it)));
        self.barred.iter().any(|other| other.meets(claim)) || !self.aside.is_empty() && takes_one()
    }

    /// Whether a job that runs has `run` of L0.
    pub fn is_taken(&self, run: &SortedRun) -> bool {
        run.level == 0 && self.claims.iter().any(|claim| run.numbers.iter().any(|it| claim.l0.contains(it)))
    }

    /// What `job` would have to itself.
    pub fn claim(&self, job: &Job) -> Claim {
        let inputs = job.inputs.iter().flat_map(|(level, numbers)| {
            self.tables[*level].iter().filter(move |table| numbers.contains(&table.number)).copied()
        });
        Claim::of_tables(job, inputs)
    }

    /// Whether writing `tables` anew into `level` would get rid of much: at least half of the entries of one are tombstones, and
    /// nothing below `level` holds keys of its range.
    pub fn could_drop(&self, tables: &[&TableMeta], level: usize) -> bool {
        tables.iter().any(|table| {
            let is_bottom = (level + 1..LEVELS)
                .all(|level| self.overlapping(level, &table.smallest, &table.largest).is_empty());
            is_dense(table) && is_bottom && !self.is_over_aside(table, level)
        })
    }

    /// Whether a table that is set aside lies below `level` in the range of `table`: then its tombstones stay.
    pub fn is_over_aside(&self, table: &TableMeta, level: usize) -> bool {
        self.barred.iter().any(|claim| claim.from > level && table.overlaps(&claim.smallest, &claim.largest))
    }

    /// Tables of a level that overlap `start..=end`.
    pub fn overlapping(&self, level: usize, start: &[u8], end: &[u8]) -> Vec<&'a TableMeta> {
        let tables = &self.tables[level];
        // Levels below L0 are sorted and apart: both ends ascend.
        let from = if level == 0 { 0 } else { tables.partition_point(|table| &table.largest[..] < start) };
        let near = tables[from..].iter().take_while(|table| level == 0 || &table.smallest[..] <= end);
        near.filter(|table| table.overlaps(start, end)).copied().collect()
    }
}

/// Whether a table holds so many tombstones that scans of its range are slow: they are half of its entries or more.
pub fn is_dense(table: &TableMeta) -> bool {
    table.tombstones > 0 && table.tombstones * 2 >= table.entries
}

/// A merge of neighbours in L0, `runs`, into one table there.
pub fn within_l0(runs: &[SortedRun]) -> Choice {
    let numbers = runs.iter().flat_map(|run| run.numbers.iter().copied()).collect();
    Choice::Merge(Job { inputs: vec![(0, numbers)], into: 0, cursor: None })
}

/// A merge of `runs[from..to]` of all `runs`, newest first. The result lies as low as it may: right above the next older run, or
/// above a table that is set aside.
pub fn merge_runs(levels: &Levels<'_>, runs: &[SortedRun], from: usize, to: usize) -> Choice {
    let mut inputs: Vec<(usize, Vec<u64>)> = Vec::new();
    for run in &runs[from..to] {
        match inputs.last_mut() {
            Some((level, numbers)) if *level == run.level => numbers.extend(&run.numbers),
            _ => inputs.push((run.level, run.numbers.clone())),
        }
    }
    let into = runs.get(to).map_or(LEVELS - 1, |older| older.level.saturating_sub(1));
    let lowest = inputs.last().map_or(into, |(level, _)| *level);
    let mut job = Job { inputs, into, cursor: None };
    while job.into > lowest.max(1) && levels.is_barred(&job, &levels.claim(&job)) {
        job.into -= 1;
    }
    Choice::Merge(job)
}

/// Tables to bring into a level.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// Levels from above, and the numbers of the tables taken from each.
    pub inputs: Vec<(usize, Vec<u64>)>,
    /// The target level.
    pub into: usize,
    /// What to remember for the next choice: a level, and where this job ends in it.
    pub cursor: Option<(usize, Bytes)>,
}

impl Job {
    /// Table `number` of `level` alone, written anew into the same level.
    pub fn rewrite(level: usize, number: u64) -> Job {
        Job { inputs: vec![(level, vec![number])], into: level, cursor: None }
    }
}

/// What a policy wants done next.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    /// All is well.
    Nothing,
    /// Tables change their level without being read.
    Move(Job),
    /// Tables are merged.
    Merge(Job),
    /// Tables are expired: they go unread. Nothing older may hold their keys.
    Drop(Job),
}

impl Choice {
    /// What is to be done.
    pub fn job(&self) -> Option<&Job> {
        match self {
            Choice::Nothing => None,
            Choice::Move(job) | Choice::Merge(job) | Choice::Drop(job) => Some(job),
        }
    }
}

/// Decides what to merge. Pure: no disk, no clock, no state.
pub trait Policy: Send + Sync {
    /// Its name in reports.
    fn name(&self) -> &'static str;
    /// The next job that can begin beside those that run. `cursors` are what earlier jobs left to remember.
    fn choose(&self, levels: &Levels<'_>, cursors: &[Bytes; LEVELS]) -> Choice;
    /// Bytes that each level should hold at most; 0 if it is not measured in bytes.
    fn target_bytes(&self, levels: &Levels<'_>) -> [u64; LEVELS] {
        let _ = levels;
        [0; LEVELS]
    }
    /// How urgent each level is; from 1 on it must be merged down.
    fn scores(&self, levels: &Levels<'_>) -> [f64; LEVELS];
    /// Bytes that merges must still write until all is well.
    fn pending_bytes(&self, levels: &Levels<'_>) -> u64;
    /// Whether one of its merges would make the runs in L0 fewer: else waiting for that would last for ever.
    fn lowers_l0(&self, levels: &Levels<'_>) -> bool;
}

/// The policy that `options` ask for; it goes around tables that are set aside.
pub fn policy(options: &Options) -> Arc<dyn Policy> {
    let policy: Arc<dyn Policy> = match options.policy {
        PolicyKind::Leveled => Arc::new(Leveled::new(options)),
        PolicyKind::Tiered => Arc::new(Tiered::new(options)),
        PolicyKind::TimeWindow => Arc::new(TimeWindow::new(options)),
        PolicyKind::Log => Arc::new(NeverMerge),
        PolicyKind::Eager => Arc::new(Eager),
    };
    Arc::new(Around::new(policy, options))
}

/// Everything into one sorted run in the lowest level that holds anything; `None` if it is that already and holds no
/// tombstones.
pub fn full(version: &Version) -> Option<Job> {
    let used: Vec<usize> = (0..LEVELS).filter(|level| !version.level(*level).is_empty()).collect();
    let into = (*used.last()?).max(1);
    let clean = version.level(into).iter().all(|table| table.tombstones == 0);
    let numbers = |level: &usize| version.level(*level).iter().map(|table| table.number).collect();
    (used != [into] || !clean).then(|| Job {
        inputs: used.iter().map(|level| (*level, numbers(level))).collect(),
        into,
        cursor: None,
    })
}

/// A level wholly into the next, with everything there that lies between its first and its last key; `None` if it is empty.
/// `level` must not be the last.
pub fn whole_level(version: &Version, level: usize) -> Option<Job> {
    let upper = version.level(level);
    let start = upper.iter().map(|table| &table.smallest).min()?;
    let end = upper.iter().map(|table| &table.largest).max()?;
    let numbers = |tables: &mut dyn Iterator<Item = &Arc<Table>>| tables.map(|table| table.number).collect();
    let mut inputs: Vec<(usize, Vec<u64>)> = vec![(level, numbers(&mut upper.iter()))];
    let lower = version.level(level + 1).iter();
    let lower: Vec<u64> = numbers(&mut lower.filter(|table| table.overlaps(start, end)));
    if !lower.is_empty() {
        inputs.push((level + 1, lower));
    }
    Some(Job { inputs, into: level + 1, cursor: None })
}
