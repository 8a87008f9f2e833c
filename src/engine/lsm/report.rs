//! The shape of the engine now, for reports. Costs the same however many tables there are.

use std::sync::Arc;
use std::time::Duration;

use super::LsmEngine;
use super::table::Table;
use crate::disk::Purpose;
use crate::engine::{Debt, Level, LevelMeter, LevelTraffic, Memory, Probes, Shape, Stalls, TableInfo};

impl LsmEngine {
    /// The shape now, out of the reports of the components. Waits for nobody.
    pub(super) fn report(&self) -> Shape {
        let (core, versions) = (&self.core, &self.versions);
        let superversion = versions.superversion();
        let version = &superversion.version;
        let totals = &version.totals;
        let traffic = self.compactor.traffic();
        let level = |(level, meter): (&Level, &LevelMeter)| Level {
            traffic: LevelTraffic {
                read_bytes: traffic.of(Purpose::Compact { into: level.level as u8 }).read_bytes,
                ..meter.snapshot()
            },
            ..level.clone()
        };
        let levels: Vec<Level> = totals.levels.iter().zip(&*core.levels).map(level).collect();
        let (cache, resident_bytes) = (self.reader.cache(), core.table_store.pinned_bytes());
        let memtable_bytes = superversion.memtable_bytes();
        let memtable_tombstones: u64 = superversion.memtables().map(|memtable| memtable.tombstones()).sum();
        let log = core.log.shape();
        let age = |seconds| Duration::from_secs(core.now_seconds().saturating_sub(seconds));
        Shape {
            engine: "lsm",
            variant: core.mutable_options.policy().name(),
            memory: Memory {
                limit_bytes: versions.memory().bytes_max(),
                used_bytes: memtable_bytes + versions.retired().bytes() + resident_bytes + cache.bytes,
                resident_bytes,
                memtable_bytes,
                memtable_bytes_max: versions.memory().memtable_bytes_max(),
                immutable_memtables: superversion.immutables.len() as u64,
                ..Memory::default()
            },
            cache,
            filter: self.reader.filter(),
            debt: Debt {
                l0_files: levels[0].files,
                l0_trigger: core.options.l0_trigger,
                l0_bytes_max: core.options.l0_stop.saturating_mul(core.options.memtable_bytes),
                pending_compaction_bytes: Some(version.pending_bytes),
                dirty_bytes: Some(memtable_bytes),
                unsynced_bytes: log.unsynced_bytes,
                oldest_unsynced: log.oldest_unsynced,
                replay_bytes: Some(log.replay_bytes),
                tombstones: memtable_tombstones + levels.iter().map(|level| level.tombstones).sum::<u64>(),
                oldest_tombstone: totals.tombstone_seconds.map(age),
                dropped_bytes: self.compactor.dropped_bytes(),
            },
            value_log: self.compactor.value_log(&log, totals.live_value_bytes),
            levels,
            tree: None,
            statistics: Default::default(),
            damage: self.damage(),
            stalls: Stalls {
                limits_off: core.mutable_options.limits_off(version.lowers_l0),
                ..core.stalls.snapshot(core.clock.elapsed())
            },
            classes: core.table_store.classes().snapshot(),
            cpu: core.table_store.cpu().snapshot() + core.log.cpu(),
            probes: Some(Probes { buckets: self.reader.probes() }),
            scan_runs: self.reader.scan_runs(),
            space: core.space.shape(core.table_store.obsolete_bytes()),
            jobs: self.flusher.activity().into_iter().chain(self.compactor.activity()).collect(),
        }
    }

    /// Every table, from L0 down.
    pub(super) fn list_tables(&self) -> Vec<TableInfo> {
        let version = self.versions.superversion().version.clone();
        let info = |(level, table): (usize, &Arc<Table>)| TableInfo {
            level,
            number: table.number.number(),
            bytes: table.bytes,
            entries: table.entries,
            tombstones: table.tombstones,
            smallest: table.smallest.clone(),
            largest: table.largest.clone(),
        };
        version.tables().map(info).collect()
    }

    /// Sentence on damage of the store; `None` without any.
    fn damage(&self) -> Option<String> {
        self.versions.set_aside().sentence().or_else(|| {
            let flaws = self.core.table_store.flaws();
            let (_, error) = flaws.first()?;
            let more = match flaws.len() {
                1 => String::new(),
                all => format!(", and {} more like this", all - 1),
            };
            Some(format!("{error}{more}; nothing is lost by it: a merge writes the table anew"))
        })
    }
}
