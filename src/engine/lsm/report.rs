//! What the engine looks like now, for reports.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::LsmEngine;
use crate::disk::{LEVELS, Purpose};
use crate::engine::{Debt, Filter, Level, Memory, Shape, Stalls};

impl LsmEngine {
    /// The shape now. Waits for nobody.
    pub(super) fn report(&self) -> Shape {
        let view = self.view();
        let version = &view.version;
        let now_seconds = self.now_seconds();
        let picture = version.picture(now_seconds);
        let policy = self.policy();
        let (targets, scores) = (policy.target_bytes(&picture), policy.scores(&picture));
        let (meters, traffic) = (&self.meters, self.traffic.snapshot());
        let level = |level: usize| {
            let (tables, meter) = (&picture.tables[level], &meters.levels[level]);
            Level {
                level,
                runs: if level == 0 { tables.len() as u64 } else { u64::from(!tables.is_empty()) },
                files: tables.len() as u64,
                bytes: picture.bytes(level),
                target_bytes: targets[level],
                score: scores[level],
                entries: tables.iter().map(|table| table.entries).sum(),
                raw_bytes: tables.iter().map(|table| table.parts.raw_bytes).sum(),
                data_bytes: tables.iter().map(|table| table.parts.data_bytes).sum(),
                filter_bytes: tables.iter().map(|table| table.parts.filter_bytes).sum(),
                index_bytes: tables.iter().map(|table| table.parts.index_bytes).sum(),
                tombstones: tables.iter().map(|table| table.tombstones).sum(),
                in_bytes: meter.in_bytes.load(Relaxed),
                moved_bytes: meter.moved_bytes.load(Relaxed),
                read_bytes: traffic.of(Purpose::Compact { into: level as u8 }).read_bytes,
                write_bytes: meter.write_bytes.load(Relaxed),
                probes: meter.probes.load(Relaxed),
            }
        };
        let (cache, resident_bytes) = (self.cache.shape(), self.shelf.resident_bytes());
        let levels: Vec<Level> = (0..LEVELS).map(level).collect();
        let tombstones =
            version.tables().map(|(_, table)| table.tombstone_seconds).filter(|seconds| *seconds > 0);
        let memtable_bytes = view.memtable_bytes();
        let memtable_tombstones: u64 = view.memtables().map(|memtable| memtable.tombstones()).sum();
        let log = self.log.shape();
        let jobs = {
            let activity = self.activity.lock();
            activity.flush.iter().chain(&activity.merges).cloned().collect()
        };
        Shape {
            engine: "lsm",
            variant: policy.name(),
            memory: Memory {
                limit_bytes: self.memory_bytes_max(),
                used_bytes: memtable_bytes + self.retired_bytes() + resident_bytes + cache.bytes,
                resident_bytes,
                memtable_bytes,
                memtable_bytes_max: self.options.memtable_bytes * self.options.memtable_count_max,
                immutable_memtables: view.immutables.len() as u64,
                ..Memory::default()
            },
            cache,
            filter: Filter {
                checks: meters.filter_checks.load(Relaxed),
                useful: meters.filter_useful.load(Relaxed),
                false_positives: meters.filter_false.load(Relaxed),
            },
            debt: Debt {
                l0_files: levels[0].files,
                l0_trigger: self.options.l0_trigger,
                l0_bytes_max: self.options.l0_stop.saturating_mul(self.options.memtable_bytes),
                pending_compaction_bytes: version.pending_bytes,
                dirty_bytes: memtable_bytes,
                unsynced_bytes: log.unsynced_bytes,
                oldest_unsynced: log.oldest_unsynced,
                replay_bytes: log.replay_bytes,
                tombstones: memtable_tombstones + levels.iter().map(|level| level.tombstones).sum::<u64>(),
                oldest_tombstone: tombstones
                    .min()
                    .map(|seconds| Duration::from_secs(now_seconds.saturating_sub(seconds))),
                late_entries: meters.late_entries.load(Relaxed),
                dropped_bytes: meters.dropped_bytes.load(Relaxed),
            },
            value_log: self.value_log_shape(version),
            levels,
            tree: None,
            stalls: Stalls {
                limits_off: self.limits_off(version),
                ..self.stalls.snapshot(self.clock.elapsed())
            },
            probes: meters.probes.snapshot(),
            scan_runs: meters.scan_runs.snapshot(),
            obsolete_bytes: self.shelf.obsolete_bytes(),
            temporary_bytes: meters.temporary_bytes.load(Relaxed),
            temporary_peak_bytes: meters.temporary_peak_bytes.load(Relaxed),
            jobs,
        }
    }
}
