//! The shape of the engine now: the tree with its log, the levels, and what passes between them.

use std::sync::atomic::Ordering::Relaxed;

use super::HybridEngine;
use crate::engine::{Debt, HybridShape, Inspect, Memory, Probes, Shape};

/// The sum of what both halves say.
fn sum(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    Some(one? + other?)
}

impl HybridEngine {
    /// The shape now. Waits for nobody.
    pub(super) fn report(&self) -> Shape {
        let (tree, levels) = (Inspect::shape(&*self.tree), self.levels.report(&Default::default()));
        let mut classes = tree.classes.clone();
        levels.classes.iter().for_each(|(class, bytes)| classes.add(class, bytes));
        let (promoted_entries, promoted_bytes) = self.promoter.promoted();
        let cold_bytes = levels.levels.iter().map(|level| level.bytes).sum();
        // The levels have no memtables that fill.
        let levels_limit_bytes = levels.memory.limit_bytes.zip(levels.memory.memtable_bytes_max);
        let levels_limit_bytes = levels_limit_bytes.map(|(all, memtables)| all - memtables);
        Shape {
            engine: "hybrid",
            variant: levels.variant,
            levels: levels.levels,
            memory: Memory {
                limit_bytes: sum(tree.memory.limit_bytes, levels_limit_bytes),
                used_bytes: sum(tree.memory.used_bytes, levels.memory.used_bytes),
                resident_bytes: levels.memory.resident_bytes,
                ..tree.memory
            },
            hybrid: Some(HybridShape {
                hot_bytes: self.tree.tree_bytes(),
                hot_bytes_max: self.demoter.hot_bytes(),
                cold_bytes,
                heat: self.heat.histogram(),
                promoted_entries,
                promoted_bytes,
                tree_reads: self.reads.tree.load(Relaxed),
                level_reads: self.reads.levels.load(Relaxed),
                ..self.demoter.report()
            }),
            probes: Some(Probes { buckets: self.reads.probes.snapshot() }),
            filter: levels.filter,
            cpu: tree.cpu + levels.cpu,
            scan_runs: levels.scan_runs,
            jobs: tree.jobs.iter().cloned().chain(levels.jobs).chain(self.demoter.activity()).collect(),
            space: levels.space,
            debt: Debt {
                l0_files: levels.debt.l0_files,
                l0_trigger: levels.debt.l0_trigger,
                l0_bytes_max: levels.debt.l0_bytes_max,
                pending_compaction_bytes: levels.debt.pending_compaction_bytes,
                tombstones: levels.debt.tombstones,
                oldest_tombstone: levels.debt.oldest_tombstone,
                ..tree.debt
            },
            damage: tree.damage.clone().or(levels.damage),
            classes,
            ..tree
        }
    }
}
