//! A version: which tables make up the store at one moment. Versions never change; an edit makes a new one, and readers keep
//! the one they began with.
//!
//! # Invariants
//!
//! 1. L0 is sorted newest first by position; its tables may overlap.
//! 2. In every other level tables are sorted by key and do not overlap.
//! 3. For every key, what a level knows is newer than what any deeper level knows.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::compaction::Levels;
use super::memtable::Memtable;
use super::report::Totals;
use super::table::{Table, table_name};
use crate::disk::LEVELS;
use crate::engine::{Error, Position, Result};

/// Tables of a level, shared by everyone who reads them.
pub type Run = Arc<[Arc<Table>]>;

/// The tables of every level.
#[derive(Clone)]
pub struct Version {
    levels: [Run; LEVELS],
    /// Bytes of values that its tables need, by the start of their segment of the log.
    needed: Arc<BTreeMap<Position, u64>>,
    /// Bytes that merges owe, by the policy's estimate.
    pub pending_bytes: u64,
    /// Whether a merge of the policy would make the runs in L0 fewer.
    pub lowers_l0: bool,
    /// What of both the limits do not count: it was there when the policy came, which brings it down by and by.
    pub forgiven: Owed,
    /// Sums over its tables, for reports.
    pub totals: Totals,
}

/// What merges owe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owed {
    /// Tables in L0.
    pub l0_files: u64,
    /// Bytes that they must still write.
    pub pending_bytes: u64,
}

impl Version {
    /// The version of these tables; damage of the manifest if levels below L0 overlap.
    pub fn new(levels: [Vec<Arc<Table>>; LEVELS]) -> Result<Version> {
        let mut needed = BTreeMap::new();
        levels.iter().flatten().for_each(|table| change_needed(&mut needed, table, u64::checked_add));
        let mut runs: [Run; LEVELS] = Default::default();
        for (level, tables) in levels.into_iter().enumerate() {
            runs[level] = in_order(level, tables)?;
        }
        Ok(Version {
            levels: runs,
            needed: Arc::new(needed),
            pending_bytes: 0,
            lowers_l0: true,
            forgiven: Owed::default(),
            totals: Totals::default(),
        })
    }

    /// This version without `removed` (level, number) and with `added`. Levels that do not change are shared, and segments that the
    /// tables point into are looked at only for the tables that come and go.
    pub fn edit(&self, removed: &[(usize, u64)], added: &[(usize, Arc<Table>)]) -> Result<Version> {
        let mut version = self.clone();
        let leaving: BTreeSet<(usize, u64)> = removed.iter().copied().collect();
        let is_change = |level: usize| {
            added.iter().any(|(to, _)| *to == level) || removed.iter().any(|(from, _)| *from == level)
        };
        for level in (0..LEVELS).filter(|level| is_change(*level)) {
            let mut tables = Vec::with_capacity(self.levels[level].len() + added.len());
            for table in self.levels[level].iter() {
                if !leaving.contains(&(level, table.number)) {
                    tables.push(table.clone());
                } else if !table.values.is_empty() {
                    change_needed(Arc::make_mut(&mut version.needed), table, u64::checked_sub);
                }
            }
            for (_, table) in added.iter().filter(|(to, _)| *to == level) {
                tables.push(table.clone());
                if !table.values.is_empty() {
                    change_needed(Arc::make_mut(&mut version.needed), table, u64::checked_add);
                }
            }
            version.levels[level] = in_order(level, tables)?;
        }
        Ok(version)
    }

    /// Bytes of values that its tables need, by the start of their segment of the log; none needs nothing.
    pub fn needed(&self) -> &BTreeMap<Position, u64> {
        &self.needed
    }

    /// What merges owe.
    pub fn owed(&self) -> Owed {
        Owed { l0_files: self.levels[0].len() as u64, pending_bytes: self.pending_bytes }
    }

    /// What the limits of writers count of that.
    pub fn counted(&self) -> Owed {
        let owed = self.owed();
        Owed {
            l0_files: owed.l0_files.saturating_sub(self.forgiven.l0_files),
            pending_bytes: owed.pending_bytes.saturating_sub(self.forgiven.pending_bytes),
        }
    }

    /// The tables of a level.
    pub fn level(&self, level: usize) -> &Run {
        &self.levels[level]
    }

    /// Levels and tables from L0 down.
    pub fn tables(&self) -> impl Iterator<Item = (usize, &Arc<Table>)> {
        self.levels.iter().enumerate().flat_map(|(level, run)| run.iter().map(move |table| (level, table)))
    }

    /// The one table of a level below L0 that may hold `key`.
    pub fn find(&self, level: usize, key: &[u8]) -> Option<&Arc<Table>> {
        let run = &self.levels[level];
        let table = run.get(run.partition_point(|table| &table.largest[..] < key))?;
        (&table.smallest[..] <= key).then_some(table)
    }

    /// What a compaction policy sees at a time, in seconds since 1970.
    pub fn picture(&self, now_seconds: u64) -> Levels<'_> {
        let tables = self.levels.each_ref().map(|run| run.iter().map(|table| table.meta()).collect());
        Levels { tables, now_seconds, ..Levels::default() }
    }
}

/// The tables of a level as they are searched.
fn in_order(level: usize, mut tables: Vec<Arc<Table>>) -> Result<Run> {
    if level == 0 {
        tables.sort_by_key(|table| std::cmp::Reverse((table.last_position, table.number)));
        return Ok(tables.into());
    }
    tables.sort_by(|a, b| a.smallest.cmp(&b.smallest));
    if let Some(pair) = tables.windows(2).find(|pair| pair[0].largest >= pair[1].smallest) {
        let what = format!("it overlaps {} in L{level}", table_name(pair[1].number));
        return Err(Error::corrupt(table_name(pair[0].number), 0, what));
    }
    Ok(tables.into())
}

/// Counts the values of a table in or out. Segments of which nothing is needed are not listed.
fn change_needed(needed: &mut BTreeMap<Position, u64>, table: &Table, change: fn(u64, u64) -> Option<u64>) {
    for (start, bytes) in table.values.iter() {
        let total = needed.entry(*start).or_insert(0);
        *total = change(*total, *bytes).unwrap_or(0);
        if *total == 0 {
            needed.remove(start);
        }
    }
}

/// All that a read needs, at one moment; newest first.
pub struct View {
    /// Takes the batches.
    pub mutable: Arc<Memtable>,
    /// Wait for their flush, newest first.
    pub immutables: Vec<Arc<Memtable>>,
    /// The tables.
    pub version: Arc<Version>,
}

impl View {
    /// Every memtable, newest first.
    pub fn memtables(&self) -> impl Iterator<Item = &Arc<Memtable>> {
        std::iter::once(&self.mutable).chain(&self.immutables)
    }

    /// Memory of all memtables.
    pub fn memtable_bytes(&self) -> u64 {
        self.memtables().map(|memtable| memtable.bytes()).sum()
    }

    /// Bytes of the tables that they become, at most.
    pub fn flush_bytes(&self) -> u64 {
        self.memtables().map(|memtable| memtable.table_bytes()).sum()
    }
}
