//! The last quarter of an hour as a table: `.stats.d/history`, one line a second, CSV with a header.

use std::time::{Duration, SystemTime};

use super::forecast;
use super::stats::{Physical, Sample};
use crate::base::metric::{Entry, PartKind, Row, Rows, Value, Visitor, metrics};
use crate::fs::Usage;

metrics! {
    /// One second: counters since the mount, debts as they are now, ratios since the mount.
    pub struct Second witness "stats::derived::a_line_of_the_history_is_a_report" {
        /// Time since 1970.
        gauge time: Duration [Milliseconds, key "time_ms"];
        /// Time since the mount.
        gauge uptime: Duration [Milliseconds, key "uptime_ms"];
        /// A: bytes that programs wrote.
        counter app_write_bytes: u64 [Bytes];
        /// Bytes that programs read.
        counter app_read_bytes: u64 [Bytes];
        /// L: bytes of keys and values put or deleted.
        counter kv_write_bytes: u64 [Bytes];
        /// P: bytes written to the disk.
        counter disk_write_bytes: Option<u64> [Bytes];
        /// R: bytes read from the disk.
        counter disk_read_bytes: Option<u64> [Bytes];
        /// Bytes of P written to the log.
        counter log_write_bytes: Option<u64> [Bytes];
        /// Bytes of P written by merges.
        counter compaction_write_bytes: Option<u64> [Bytes];
        /// Bytes that the store's files occupy.
        gauge physical_bytes: u64 [Bytes];
        /// Bytes that the tree needs at least.
        gauge live_bytes: u64 [Bytes];
        /// Sorted runs in level 0.
        gauge l0_files: u64 [Count];
        /// Bytes pending compaction; null of engines that do not say.
        gauge pending_compaction_bytes: Option<u64> [Bytes];
        /// Durability debt, by the model.
        gauge durability_debt_bytes: u64 [Bytes];
        /// Bytes of memtables that are not flushed, or of dirty pages; null of engines that do not say.
        gauge dirty_bytes: Option<u64> [Bytes];
        /// Bytes of log that a power failure would lose.
        gauge unsynced_bytes: u64 [Bytes];
        /// Tombstones that no merge has dropped yet.
        gauge tombstones: u64 [Count];
        /// Time during which at least one write waited.
        counter stall_seconds: Duration [Seconds];
        /// Lookups answered from the cache.
        counter cache_hits: u64 [Count];
        /// Lookups that had to read from the disk.
        counter cache_misses: u64 [Count];
        /// Write amplification: P / A.
        gauge write_amp: Option<f64> [Ratio];
        /// Write amplification of the engine: P / L.
        gauge engine_write_amp: Option<f64> [Ratio];
        /// Space amplification: physical / live.
        gauge space_amp: Option<f64> [Ratio];
        /// Processor time of the durability debt.
        gauge debt_cpu_seconds: Option<f64> [Seconds];
    }
}

impl Second {
    /// The row of `time`.
    pub(super) fn of(time: SystemTime, sample: &Sample, usage: &Usage, physical: &Physical) -> Second {
        let shape = &sample.shape;
        let owed_bytes: f64 = forecast::debt(sample).iter().map(|row| row.debt_bytes).sum();
        let live_bytes = usage.stored_bytes + usage.record_bytes;
        Second {
            time: time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            uptime: sample.elapsed,
            app_write_bytes: sample.app_write_bytes(),
            app_read_bytes: sample.app_read_bytes(),
            kv_write_bytes: sample.kv_write_bytes(),
            disk_write_bytes: sample.metered(sample.disk_write_bytes()),
            disk_read_bytes: sample.metered(sample.disk_read_bytes()),
            log_write_bytes: sample.metered(sample.log_write_bytes()),
            compaction_write_bytes: sample.metered(sample.compaction().write_bytes),
            physical_bytes: physical.bytes,
            live_bytes,
            l0_files: shape.debt.l0_files,
            pending_compaction_bytes: shape.debt.pending_compaction_bytes,
            durability_debt_bytes: owed_bytes as u64,
            dirty_bytes: shape.debt.dirty_bytes,
            unsynced_bytes: shape.debt.unsynced_bytes,
            tombstones: shape.debt.tombstones,
            stall_seconds: Duration::from_secs_f64(shape.stalls.seconds()),
            cache_hits: shape.cache.all.hits,
            cache_misses: shape.cache.all.misses,
            write_amp: sample.write_amp(),
            engine_write_amp: sample.engine_write_amp(),
            space_amp: physical.over(live_bytes),
            debt_cpu_seconds: forecast::cpu_seconds(sample, owed_bytes),
        }
    }

    /// Its line.
    pub(super) fn line(&self) -> String {
        let mut line = Line::default();
        self.visit_rows(&mut line);
        line.0 + "\n"
    }
}

/// The first line.
pub(super) fn head() -> String {
    let mut entries: Vec<Entry> = Vec::new();
    Second::list_rows("", &mut entries);
    entries.iter().map(|entry| entry.row.name).collect::<Vec<_>>().join(",") + "\n"
}

/// Values with commas between them.
#[derive(Default)]
struct Line(String);

impl Visitor for Line {
    fn value(&mut self, _: &'static Row, value: Value<'_>) {
        if !self.0.is_empty() {
            self.0.push(',');
        }
        match value {
            Value::Count(count) => self.0 += &count.to_string(),
            Value::Real(number) => self.0 += &format!("{number:.4}"),
            // An empty field is what readers of CSV take for missing.
            _ => {}
        }
    }
    // A second has no parts.
    fn begin(&mut self, _: &'static Row, _: PartKind) {}
    fn item(&mut self, _: &str) {}
    fn end(&mut self) {}
}
