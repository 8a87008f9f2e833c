//! Sums over the tables of a version.

use super::compaction::{Assessment, Levels};
use crate::disk::LEVELS;
use crate::engine::Level;

/// Sums over the tables of a version, made once when it comes to be: a report must not look at ten thousand tables.
#[derive(Clone, Default)]
pub struct Totals {
    /// The levels from L0 down, without what counters say.
    pub levels: Vec<Level>,
    /// Bytes of values in the log that tables point to.
    pub live_value_bytes: u64,
    /// Seconds since 1970 of the oldest tombstone; `None` without any.
    pub tombstone_seconds: Option<u64>,
}

impl Totals {
    /// The sums of `levels`, with what the policy thinks of each; `live_value_bytes` of values in the log are theirs.
    pub fn of(levels: &Levels, live_value_bytes: u64, assessment: &Assessment) -> Totals {
        let of_level = |level: usize| {
            let sums = levels.sums(level);
            Level {
                level,
                runs: if level == 0 { sums.files } else { sums.files.min(1) },
                files: sums.files,
                target_bytes: assessment.target_bytes[level],
                score: assessment.scores[level],
                bytes: sums.bytes,
                entries: sums.entries,
                tombstones: sums.tombstones,
                raw_bytes: sums.sizes.raw_bytes,
                data_bytes: sums.sizes.data_bytes,
                filter_bytes: sums.sizes.filter_bytes,
                index_bytes: sums.sizes.index_bytes,
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
