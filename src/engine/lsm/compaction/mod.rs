//! Compaction: a pure [`Policy`] says what to merge; [`compactor`](super::compactor) does it.
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
//!    ([`CompactionClaim`]). So each finds the tables of its range as they were when it was chosen, but for newer ones in L0, and for any key
//!    one compaction stays above the other: the order of ages is kept. Merges within L0 meet only where they share a table: each takes
//!    neighbours in age, and puts its output in their place.
//! 5. A table that is set aside is no input of anything, and nothing newer passes it: see [`PolicyInForce`].

mod eager;
mod in_force;
mod leveled;
pub mod model;
mod plain_log;
mod registry;
#[cfg(test)]
mod tests;
mod tiered;
mod window;

use std::collections::BTreeSet;

use bytes::Bytes;

use super::run::{Run, Sums};
use super::table::{Table, TableMeta, TableNumber};
use super::version::Version;
use crate::disk::LEVELS;

pub use in_force::PolicyInForce;
pub use registry::{Descriptor, OwnPolicyOptions, PolicyKind, PolicyOptions};

/// The picture of the levels that a policy sees.
#[derive(Clone)]
pub struct Levels {
    runs: [Run; LEVELS],
    /// Seconds since 1970.
    pub now_seconds: u64,
    /// Claims of running compactions; a choice that meets one of them must wait.
    pub claims: Vec<CompactionClaim>,
    /// Numbers of tables that are set aside: they cannot be read, and no compaction takes them.
    pub aside: BTreeSet<TableNumber>,
    /// Ranges of tables below L0 that are set aside, once those are taken out of the picture: no compaction may go over them. Unlike a
    /// claim, this never ends.
    pub barred: Vec<CompactionClaim>,
}

/// The claim of a running compaction: a range of keys in a span of levels that it has to itself.
#[derive(Clone, Debug, PartialEq)]
pub struct CompactionClaim {
    /// The highest level of its inputs.
    pub from: usize,
    /// Its target level.
    pub into: usize,
    /// The first key of its inputs.
    pub smallest: Bytes,
    /// The last key of its inputs.
    pub largest: Bytes,
    /// Its inputs in L0.
    pub l0: Vec<TableNumber>,
}

impl CompactionClaim {
    /// Whether all of it lies in L0.
    fn is_within_l0(&self) -> bool {
        self.into == 0
    }

    /// Whether both have a key of a level; where one stays within L0, a table.
    pub fn meets(&self, other: &CompactionClaim) -> bool {
        if self.is_within_l0() || other.is_within_l0() {
            return self.l0.iter().any(|number| other.l0.contains(number));
        }
        let shares_level = self.from <= other.into && other.from <= self.into;
        shares_level && self.smallest <= other.largest && other.smallest <= self.largest
    }
}

/// One sorted run.
pub struct SortedRun<'a> {
    /// Its level. A table of L0 is a run of its own; any other level is one run.
    pub level: usize,
    /// The one table, in L0.
    table: Option<&'a TableMeta>,
    run: &'a Run,
    /// Its first key.
    smallest: &'a Bytes,
    /// Its last key.
    largest: &'a Bytes,
    /// Its bytes.
    pub bytes: u64,
    /// Seconds since 1970 of its newest batch.
    pub newest_seconds: u64,
}

impl<'a> SortedRun<'a> {
    /// Its tables.
    pub fn tables(&self) -> impl Iterator<Item = &'a TableMeta> + use<'a> {
        let run = self.table.is_none().then_some(self.run);
        self.table.into_iter().chain(run.into_iter().flat_map(|run| run.iter().map(|table| table.meta())))
    }

    /// Whether half of its entries are tombstones, or more.
    pub fn is_dense(&self) -> bool {
        let (entries, tombstones) = match self.table {
            Some(table) => (table.entries, table.tombstones),
            None => (self.run.sums().entries, self.run.sums().tombstones),
        };
        tombstones > 0 && tombstones * 2 >= entries
    }
}

/// A merge of sorted runs that are neighbours in age, before anybody has listed their tables.
#[derive(Clone, Copy)]
pub struct RunMerge<'r, 'a> {
    /// Newest first.
    pub runs: &'r [SortedRun<'a>],
    /// The target level.
    pub into: usize,
}

impl RunMerge<'_, '_> {
    /// The claim that it would have.
    fn claim(&self) -> CompactionClaim {
        let smallest = self.runs.iter().map(|run| run.smallest).min().cloned().unwrap_or_default();
        let largest = self.runs.iter().map(|run| run.largest).max().cloned().unwrap_or_default();
        let from = self.runs.first().map_or(self.into, |run| run.level);
        let l0 = self.runs.iter().filter_map(|run| Some(run.table?.number)).collect();
        CompactionClaim { from, into: self.into, smallest, largest, l0 }
    }

    /// Bytes of its inputs.
    pub fn bytes(&self) -> u64 {
        self.runs.iter().map(|run| run.bytes).sum()
    }

    /// The compaction.
    pub fn compaction(&self) -> Compaction {
        let levels = self.runs.chunk_by(|a, b| a.level == b.level);
        let inputs = levels.map(|runs| (runs[0].level, runs.iter().flat_map(SortedRun::tables).collect()));
        Compaction::new(inputs.collect(), self.into, None)
    }
}

impl Default for Levels {
    fn default() -> Levels {
        Levels::new(std::array::from_fn(Run::empty), 0)
    }
}

impl Levels {
    /// The tables of every level at a time, in seconds since 1970; nothing runs, and nothing is set aside.
    pub fn new(runs: [Run; LEVELS], now_seconds: u64) -> Levels {
        let (claims, aside, barred) = (Vec::new(), BTreeSet::new(), Vec::new());
        Levels { runs, now_seconds, claims, aside, barred }
    }

    /// The tables of a level, L0 newest first, the others by key.
    pub fn tables(&self, level: usize) -> impl Iterator<Item = &TableMeta> + Clone {
        self.runs[level].iter().map(|table| table.meta())
    }

    /// Sums over the tables of a level.
    pub fn sums(&self, level: usize) -> &Sums {
        self.runs[level].sums()
    }

    /// Bytes of a level.
    pub fn bytes(&self, level: usize) -> u64 {
        self.sums(level).bytes
    }

    /// Number of tables in a level.
    pub fn files(&self, level: usize) -> usize {
        self.runs[level].len()
    }

    /// The lowest level below L0 that holds anything.
    pub fn lowest(&self) -> Option<usize> {
        (1..LEVELS).rev().find(|level| !self.runs[*level].is_empty())
    }

    /// All sorted runs, newest first. Costs what there is in L0.
    pub fn runs(&self) -> Vec<SortedRun<'_>> {
        let upper = self.tables(0).map(|table| SortedRun {
            level: 0,
            table: Some(table),
            run: &self.runs[0],
            smallest: &table.smallest,
            largest: &table.largest,
            bytes: table.bytes,
            newest_seconds: table.newest_seconds,
        });
        let lower = self.runs.iter().enumerate().skip(1).filter_map(|(level, run)| {
            Some(SortedRun {
                level,
                table: None,
                run,
                smallest: &run.first()?.smallest,
                largest: &run.last()?.largest,
                bytes: run.sums().bytes,
                newest_seconds: run.sums().newest_seconds,
            })
        });
        upper.chain(lower).collect()
    }

    /// A merge of all of L0 into `level`, where nothing lies between; a move if the tables of L0 overlap neither each other nor the level.
    pub fn empty_l0(&self, level: usize) -> Choice {
        let upper: Vec<&TableMeta> = self.tables(0).collect();
        let (Some(start), Some(end)) =
            (upper.iter().map(|table| &table.smallest).min(), upper.iter().map(|table| &table.largest).max())
        else {
            return Choice::Nothing;
        };
        let lower: Vec<&TableMeta> = self.overlapping(level, start, end).collect();
        let mut sorted = upper.clone();
        sorted.sort_by(|a, b| a.smallest.cmp(&b.smallest));
        let apart = sorted.windows(2).all(|pair| pair[0].largest < pair[1].smallest);
        let movable = apart && lower.is_empty() && !self.could_drop(&upper, level);
        let compaction = Compaction::new(vec![(0, upper), (level, lower)], level, None);
        if movable { Choice::Move(compaction) } else { Choice::Merge(compaction) }
    }

    /// The lowest level that may take a table of `smallest..=largest` whose entries are newer than all others of its keys: neither in it nor
    /// above it does anything overlap, and no compaction that runs has the range to itself there.
    pub fn lowest_free(&self, smallest: &Bytes, largest: &Bytes) -> usize {
        let is_over = |level| self.overlapping(level, smallest, largest).next().is_some();
        let is_claimed = |level| {
            let (smallest, largest) = (smallest.clone(), largest.clone());
            let claim = CompactionClaim { from: level, into: level, smallest, largest, l0: Vec::new() };
            self.claims.iter().any(|other| !other.is_within_l0() && other.meets(&claim))
        };
        let free = (0..LEVELS).take_while(|level| !is_over(*level) && (*level == 0 || !is_claimed(*level)));
        free.last().unwrap_or(0)
    }

    /// The first of `choices`, which come in the order of urgency, that no compaction that runs is in the way of. What a more urgent one
    /// waits for is left alone by those behind it, so that its turn comes; one that is barred waits for nothing.
    pub fn first_free(&self, choices: impl Iterator<Item = Choice>) -> Choice {
        let claimed = choices.filter_map(|choice| {
            let compaction = choice.compaction()?;
            let claim = (!self.takes_aside(compaction)).then(|| compaction.claim())?;
            Some((claim, choice))
        });
        self.first_unclaimed(claimed).unwrap_or(Choice::Nothing)
    }

    /// The same for merges of runs.
    pub fn first_free_merge<'r, 'a>(
        &self,
        merges: impl Iterator<Item = RunMerge<'r, 'a>>,
    ) -> Option<RunMerge<'r, 'a>> {
        self.first_unclaimed(merges.map(|merge| (merge.claim(), merge)))
    }

    fn first_unclaimed<T>(&self, wanted: impl Iterator<Item = (CompactionClaim, T)>) -> Option<T> {
        let mut claims = self.claims.clone();
        for (claim, it) in wanted {
            if self.is_barred(&claim) {
                continue;
            }
            if !claims.iter().any(|other| other.meets(&claim)) {
                return Some(it);
            }
            claims.push(claim);
        }
        None
    }

    /// Whether neither a compaction that runs nor a table that is set aside is in the way of `compaction`.
    pub fn is_free(&self, compaction: &Compaction) -> bool {
        !self.is_barred(&compaction.claim()) && !self.takes_aside(compaction) && !self.is_claimed(compaction)
    }

    /// Whether a compaction that runs is in the way of `compaction`, which may begin after it.
    pub fn is_claimed(&self, compaction: &Compaction) -> bool {
        let claim = compaction.claim();
        self.claims.iter().any(|other| other.meets(&claim))
    }

    /// Whether a compaction that would have `claim` can never begin while some tables are set aside.
    fn is_barred(&self, claim: &CompactionClaim) -> bool {
        self.barred.iter().any(|other| other.meets(claim))
    }

    /// Whether `compaction` takes a table that is set aside.
    fn takes_aside(&self, compaction: &Compaction) -> bool {
        let takes_one =
            || compaction.inputs.iter().any(|(_, numbers)| numbers.iter().any(|it| self.aside.contains(it)));
        !self.aside.is_empty() && takes_one()
    }

    /// Whether a compaction that runs has `run` of L0.
    pub fn is_taken(&self, run: &SortedRun<'_>) -> bool {
        run.table.is_some_and(|table| self.claims.iter().any(|claim| claim.l0.contains(&table.number)))
    }

    /// Whether writing `tables` anew into `level` would get rid of much: at least half of the entries of one are tombstones, and
    /// nothing below `level` holds keys of its range.
    pub fn could_drop(&self, tables: &[&TableMeta], level: usize) -> bool {
        tables.iter().any(|table| {
            let is_over = |level| self.overlapping(level, &table.smallest, &table.largest).next().is_some();
            table.is_dense() && !(level + 1..LEVELS).any(is_over) && !self.is_over_aside(table, level)
        })
    }

    /// Whether a table that is set aside lies below `level` in the range of `table`: then its tombstones stay.
    pub fn is_over_aside(&self, table: &TableMeta, level: usize) -> bool {
        self.barred.iter().any(|claim| claim.from > level && table.overlaps(&claim.smallest, &claim.largest))
    }

    /// Tables of a level that overlap `start..=end`.
    pub fn overlapping<'a>(
        &'a self,
        level: usize,
        start: &'a [u8],
        end: &'a [u8],
    ) -> impl Iterator<Item = &'a TableMeta> + Clone {
        self.runs[level].overlapping(start, end).map(|table| table.meta())
    }

    /// Tables of a level that are [dense](TableMeta::is_dense) with tombstones.
    pub fn dense(&self, level: usize) -> impl Iterator<Item = &TableMeta> {
        self.runs[level].dense().map(|table| table.meta())
    }

    /// Tables of a level below L0 in the order in which they take turns: those that begin behind `key`, then the others.
    pub fn turns<'a>(&'a self, level: usize, key: &'a [u8]) -> impl Iterator<Item = &'a TableMeta> {
        let run = &self.runs[level];
        let is_passed = move |table: &TableMeta| &table.smallest[..] <= key;
        let place = run.seek(key);
        let place =
            if run.get(place).is_some_and(|table| is_passed(table)) { run.next(place) } else { place };
        let passed = run.iter().take_while(move |table| is_passed(table));
        run.behind(place).chain(passed).map(|table| table.meta())
    }
}

/// A merge of `runs` of L0, neighbours there, into one table in their place.
pub fn within_l0<'r, 'a>(runs: &'r [SortedRun<'a>]) -> RunMerge<'r, 'a> {
    RunMerge { runs, into: 0 }
}

/// A merge of `runs[from..to]` of all `runs`, newest first. The result lies as low as it may: right above the next older run, or
/// above a table that is set aside.
pub fn merge_runs<'r, 'a>(
    levels: &Levels,
    runs: &'r [SortedRun<'a>],
    from: usize,
    to: usize,
) -> RunMerge<'r, 'a> {
    let into = runs.get(to).map_or(LEVELS - 1, |older| older.level.saturating_sub(1));
    let mut merge = RunMerge { runs: &runs[from..to], into };
    let lowest = merge.runs.last().map_or(into, |run| run.level);
    while merge.into > lowest.max(1) && levels.is_barred(&merge.claim()) {
        merge.into -= 1;
    }
    merge
}

/// Tables to bring into a level.
#[derive(Clone, Debug, PartialEq)]
pub struct Compaction {
    /// Levels from above, and the numbers of the tables taken from each.
    pub inputs: Vec<(usize, Vec<TableNumber>)>,
    /// The first key of its inputs.
    pub smallest: Bytes,
    /// The last key of its inputs.
    pub largest: Bytes,
    /// The target level.
    pub into: usize,
    /// Where the next choice out of a level goes on: the level, and the key at which this compaction ends in it.
    pub cursor: Option<(usize, Bytes)>,
}

impl Compaction {
    /// These tables of levels from above into a level; a level of which none is taken is left out.
    pub fn new(
        mut inputs: Vec<(usize, Vec<&TableMeta>)>,
        into: usize,
        cursor: Option<(usize, Bytes)>,
    ) -> Compaction {
        inputs.retain(|(_, tables)| !tables.is_empty());
        let tables = || inputs.iter().flat_map(|(_, tables)| tables);
        let smallest = tables().map(|table| &table.smallest).min().cloned().unwrap_or_default();
        let largest = tables().map(|table| &table.largest).max().cloned().unwrap_or_default();
        let numbers = |tables: &Vec<&TableMeta>| tables.iter().map(|table| table.number).collect();
        let inputs = inputs.iter().map(|(level, tables)| (*level, numbers(tables))).collect();
        Compaction { inputs, smallest, largest, into, cursor }
    }

    /// `table` of `level` alone, written anew into the same level.
    pub fn rewrite(level: usize, table: &TableMeta) -> Compaction {
        Compaction::new(vec![(level, vec![table])], level, None)
    }

    /// The level of its newest inputs.
    pub fn from_level(&self) -> usize {
        self.inputs.first().map_or(self.into, |(level, _)| *level)
    }

    /// The claim that it has while it runs.
    pub fn claim(&self) -> CompactionClaim {
        let upper = self.inputs.iter().filter(|(level, _)| *level == 0);
        CompactionClaim {
            from: self.from_level(),
            into: self.into,
            smallest: self.smallest.clone(),
            largest: self.largest.clone(),
            l0: upper.flat_map(|(_, numbers)| numbers.iter().copied()).collect(),
        }
    }
}

/// A policy's choice of what to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Choice {
    /// Nothing is to be done.
    Nothing,
    /// Tables change their level without being read (a trivial move).
    Move(Compaction),
    /// Tables are merged.
    Merge(Compaction),
    /// Tables are expired: they go unread. Nothing older may hold their keys.
    Drop(Compaction),
}

impl Choice {
    /// The tables and the target of what is to be done.
    pub fn compaction(&self) -> Option<&Compaction> {
        match self {
            Choice::Nothing => None,
            Choice::Move(compaction) | Choice::Merge(compaction) | Choice::Drop(compaction) => {
                Some(compaction)
            }
        }
    }
}

/// A policy's view of the levels as they are.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Assessment {
    /// Bytes that each level should hold at most; 0 if it is not measured in bytes.
    pub target_bytes: [u64; LEVELS],
    /// Urgency of each level; from 1 on it must be merged down.
    pub scores: [f64; LEVELS],
    /// Bytes that merges must still write until all is well.
    pub pending_bytes: u64,
    /// Whether one of its merges would make the runs in L0 fewer: if not, writers would wait for that for ever.
    pub lowers_l0: bool,
}

/// Decides what to merge. Pure: no disk, no clock, no state.
pub trait Policy: Send + Sync {
    /// The next compaction that can begin beside those that run. `cursors` are what earlier compactions left to remember.
    fn choose(&self, levels: &Levels, cursors: &[Bytes; LEVELS]) -> Choice;
    /// Its view of the levels. Asked after every edit.
    fn assess(&self, levels: &Levels) -> Assessment;

    /// Why a merge out of level `from` begins, for the event log.
    fn trigger(&self, levels: &Levels, from: usize) -> String {
        format!("score {:.2} of L{from}", self.assess(levels).scores[from])
    }
    /// How to merge tables that may not leave L0, because a table that cannot be read lies below them.
    fn stuck(&self) -> StuckTables {
        StuckTables::BySize
    }
    /// Whether its merges grow with the store, so that people are told before none fits any more.
    fn outgrows_disk(&self) -> bool {
        false
    }
}

/// The way to merge tables that may not leave L0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StuckTables {
    /// Not at all.
    Stay,
    /// As the policy itself merges within L0.
    ByPolicy,
    /// By size.
    BySize,
}

/// Everything into one sorted run in the lowest level that holds anything; `None` if it is that already and holds no
/// tombstones.
pub fn full(version: &Version) -> Option<Compaction> {
    let used: Vec<usize> = (0..LEVELS).filter(|level| !version.level(*level).is_empty()).collect();
    let into = (*used.last()?).max(1);
    let clean = version.level(into).sums().tombstones == 0;
    let tables = |level: &usize| (*level, version.level(*level).iter().map(|table| table.meta()).collect());
    (used != [into] || !clean).then(|| Compaction::new(used.iter().map(tables).collect(), into, None))
}

/// A level wholly into the next, with everything there that lies between its first and its last key; `None` if it is empty.
/// `level` must not be the last.
pub fn whole_level(version: &Version, level: usize) -> Option<Compaction> {
    let upper: Vec<&TableMeta> = version.level(level).iter().map(|table| table.meta()).collect();
    let start = upper.iter().map(|table| &table.smallest).min()?;
    let end = upper.iter().map(|table| &table.largest).max()?;
    let lower = version.level(level + 1).overlapping(start, end).map(|table| table.meta()).collect();
    Some(Compaction::new(vec![(level, upper), (level + 1, lower)], level + 1, None))
}
