//! A version: which tables make up the store at one moment. Versions never change; an edit makes a new one, and readers keep
//! the one they began with.
//!
//! # Invariants
//!
//! 1. Each level is a [`Run`] in its order.
//! 2. For every key, an entry of a level is newer than any entry of a deeper level.

use std::sync::Arc;

use super::compaction::{Compaction, Levels};
use super::memtable::Memtable;
use super::needed::Needed;
use super::run::Run;
use super::table::Table;
use super::totals::Totals;
use crate::disk::LEVELS;
use crate::engine::Result;

/// The tables of every level.
#[derive(Clone)]
pub struct Version {
    levels: [Run; LEVELS],
    needed: Needed,
    /// Bytes pending compaction, by the policy's estimate.
    pub pending_bytes: u64,
    /// Whether a merge of the policy would make the runs in L0 fewer.
    pub lowers_l0: bool,
    /// Share of both that does not count for the limits of writers: it was there when the policy came, which reduces it over time.
    pub forgiven: Owed,
    /// Sums over its tables, for reports.
    pub totals: Totals,
}

/// Compaction debt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owed {
    /// Tables in L0.
    pub l0_files: u64,
    /// Bytes pending compaction.
    pub pending_bytes: u64,
}

impl Version {
    /// The version of these tables; damage of the manifest if levels below L0 overlap.
    pub fn new(levels: [Vec<Arc<Table>>; LEVELS]) -> Result<Version> {
        let mut version = Version::empty();
        levels.iter().flatten().for_each(|table| version.needed.add(table));
        for (run, tables) in version.levels.iter_mut().zip(levels) {
            *run = run.edit(&[], &tables)?;
        }
        Ok(version)
    }

    /// The version without tables.
    pub fn empty() -> Version {
        Version {
            levels: std::array::from_fn(Run::empty),
            needed: Needed::default(),
            pending_bytes: 0,
            lowers_l0: true,
            forgiven: Owed::default(),
            totals: Totals::default(),
        }
    }

    /// This version without the tables `removed` from their levels, and with those `added`. Unchanged parts are shared.
    pub fn edit(&self, removed: &[(usize, Arc<Table>)], added: &[(usize, Arc<Table>)]) -> Result<Version> {
        let mut version = self.clone();
        let of = |changes: &[(usize, Arc<Table>)], level| -> Vec<Arc<Table>> {
            let here = changes.iter().filter(|(at, _)| *at == level);
            here.map(|(_, table)| table.clone()).collect()
        };
        for (level, run) in version.levels.iter_mut().enumerate() {
            let (leaving, coming) = (of(removed, level), of(added, level));
            if !leaving.is_empty() || !coming.is_empty() {
                *run = run.edit(&leaving, &coming)?;
            }
        }
        removed.iter().for_each(|(_, table)| version.needed.remove(table));
        added.iter().for_each(|(_, table)| version.needed.add(table));
        Ok(version)
    }

    /// Bytes of values that its tables need, by segment of the log.
    pub fn needed(&self) -> &Needed {
        &self.needed
    }

    /// Compaction debt.
    pub fn owed(&self) -> Owed {
        Owed { l0_files: self.levels[0].len() as u64, pending_bytes: self.pending_bytes }
    }

    /// The debt that counts for the limits of writers.
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

    /// The tables of a job with their levels, in the order of levels and of runs.
    pub fn inputs(&self, job: &Compaction) -> Vec<(usize, Arc<Table>)> {
        let mut found = Vec::new();
        for (level, numbers) in &job.inputs {
            let mut numbers = numbers.clone();
            numbers.sort_unstable();
            let near = self.levels[*level].overlapping(&job.smallest, &job.largest);
            let chosen = near.filter(|table| numbers.binary_search(&table.number).is_ok());
            found.extend(chosen.map(|table| (*level, table.clone())));
        }
        found
    }

    /// The picture that a compaction policy sees at a time, in seconds since 1970.
    pub fn picture(&self, now_seconds: u64) -> Levels {
        Levels::new(self.levels.clone(), now_seconds)
    }
}

/// Everything that a read needs, at one moment; newest first.
pub struct Superversion {
    /// Takes the batches.
    pub mutable: Arc<Memtable>,
    /// Wait for their flush, newest first.
    pub immutables: Vec<Arc<Memtable>>,
    /// The tables.
    pub version: Arc<Version>,
}

impl Superversion {
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
