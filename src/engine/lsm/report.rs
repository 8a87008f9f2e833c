//! What the engine looks like now, for reports. Costs the same however many tables there are.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::LsmEngine;
use super::compaction::{Levels, Policy};
use crate::disk::{LEVELS, Purpose};
use crate::engine::{
    Debt, ExtraSpace, Level, LevelMeter, LevelTraffic, Memory, Probes, ScanRuns, Shape, Stalls,
};

/// Sums over the tables of a version, made once when it comes to be: a report must not look at ten thousand tables.
#[derive(Clone, Default)]
pub struct Totals {
    /// The levels from L0 down, without what counters say.
    levels: Vec<Level>,
    /// Bytes of values in the log that tables point to.
    live_value_bytes: u64,
    /// Seconds since 1970 of the oldest tombstone; `None` without any.
    tombstone_seconds: Option<u64>,
}

impl Totals {
    /// The sums of `levels`, with what `policy` thinks of each; `live_value_bytes` of values in the log are theirs.
    pub fn of(levels: &Levels, live_value_bytes: u64, policy: &dyn Policy) -> Totals {
        let (targets, scores) = (policy.target_bytes(levels), policy.scores(levels));
        let of_level = |level: usize| {
            let sums = levels.sums(level);
            Level {
                level,
                runs: if level == 0 { sums.files } else { sums.files.min(1) },
                files: sums.files,
                target_bytes: targets[level],
                score: scores[level],
                bytes: sums.bytes,
                entries: sums.entries,
                tombstones: sums.tombstones,
                raw_bytes: sums.parts.raw_bytes,
                data_bytes: sums.parts.data_bytes,
                filter_bytes: sums.parts.filter_bytes,
                index_bytes: sums.parts.index_bytes,
                ..Level::default()
            }
        };
        let oldest = (0..LEVELS).map(|level| levels.sums(level).tombstone_seconds);
        Totals {
            levels: (0..LEVELS).map(of_level).collect(),
            live_value_bytes,
            tombstone_seconds: oldest.filter(|seconds| *seconds > 0).min(),
        }
    }
}

impl Totals {
    /// Whether any table holds tombstones.
    pub fn has_tombstones(&self) -> bool {
        self.tombstone_seconds.is_some()
    }

    /// Bytes of all tables and of their values in the log, and how many entries those are.
    pub fn weight(&self) -> (u64, u64) {
        let bytes = self.levels.iter().map(|level| level.bytes).sum::<u64>() + self.live_value_bytes;
        (bytes, self.levels.iter().map(|level| level.entries).sum())
    }
}

impl LsmEngine {
    /// The shape now. Waits for nobody.
    pub(super) fn report(&self) -> Shape {
        let view = self.view();
        let version = &view.version;
        let now_seconds = self.now_seconds();
        let (totals, policy) = (&version.totals, self.policy());
        let (meters, traffic) = (&self.meters, self.traffic.snapshot());
        let level = |(level, meter): (&Level, &LevelMeter)| Level {
            traffic: LevelTraffic {
                read_bytes: traffic.of(Purpose::Compact { into: level.level as u8 }).read_bytes,
                ..meter.snapshot()
            },
            ..level.clone()
        };
        let (cache, resident_bytes) = (self.cache.shape(), self.shelf.resident_bytes());
        let levels: Vec<Level> = totals.levels.iter().zip(&meters.levels).map(level).collect();
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
                used_bytes: memtable_bytes + self.versions.retired().bytes() + resident_bytes + cache.bytes,
                resident_bytes,
                memtable_bytes,
                memtable_bytes_max: self.options.memtable_bytes * self.options.memtable_count_max,
                immutable_memtables: view.immutables.len() as u64,
                ..Memory::default()
            },
            cache,
            filter: meters.filter.snapshot(),
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
                oldest_tombstone: totals
                    .tombstone_seconds
                    .map(|seconds| Duration::from_secs(now_seconds.saturating_sub(seconds))),
                dropped_bytes: meters.dropped_bytes.load(Relaxed),
            },
            value_log: self.value_log_shape(&log, totals.live_value_bytes),
            levels,
            tree: None,
            damage: self.damage(),
            stalls: Stalls {
                limits_off: self.limits_off(version),
                ..self.stalls.snapshot(self.clock.elapsed())
            },
            classes: self.shelf.classes().snapshot(),
            cpu: self.shelf.cpu().snapshot() + self.log.cpu(),
            probes: Probes { buckets: meters.probes.snapshot() },
            scan_runs: ScanRuns {
                buckets: meters.scan_runs.snapshot(),
                tombstones: meters.scan_tombstones.load(Relaxed),
            },
            space: ExtraSpace {
                obsolete_bytes: self.shelf.obsolete_bytes(),
                ballast_bytes: self.space.ballast_bytes(),
                temporary_bytes: meters.temporary_bytes.load(Relaxed),
                temporary_peak_bytes: meters.temporary_peak_bytes.load(Relaxed),
            },
            jobs,
        }
    }
}
