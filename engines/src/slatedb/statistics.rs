//! What SlateDB counts itself, under its own names.

use std::sync::Arc;

use kvfs::engine::Statistic;
use slatedb::manifest::VersionedManifest;
use slatedb_common::metrics::{DefaultMetricsRecorder, MetricValue};

/// Its name, our unit, and what it says, in its words where they are clear.
const SHOWN: &[(&str, &str, &str)] = &[
    ("slatedb.db.write_batch_count", "count", "Batches written."),
    ("slatedb.db.memtable_write_bytes", "bytes", "Bytes of keys and values put into memtables."),
    ("slatedb.db.wal_flush_bytes", "bytes", "Bytes of objects of the log."),
    ("slatedb.db.wal_buffer_flushes", "count", "Objects of the log."),
    ("slatedb.db.l0_flush_bytes", "bytes", "Bytes of tables made of memtables."),
    ("slatedb.db.immutable_memtable_flushes", "count", "Memtables that became tables."),
    (
        "slatedb.db.total_mem_size_bytes",
        "bytes",
        "Memory of memtables and of the log that is not sent, when a batch was written last.",
    ),
    ("slatedb.db.backpressure_count", "count", "Batches that waited for memory."),
    ("slatedb.db.l0_stall_count", "count", "Memtables that waited for fewer tables without order."),
    ("slatedb.db.l0_sst_count", "count", "Tables that no merge has put in order."),
    ("slatedb.db.sorted_run_count", "count", "Sorted runs."),
    ("slatedb.db.sst_count", "count", "Tables."),
    ("slatedb.compactor.bytes_compacted", "bytes", "Bytes that merges have written."),
    ("slatedb.compactor.running_compactions", "count", "Merges that run now."),
    ("slatedb.gc.deleted_count", "count", "Objects removed since nothing refers to them."),
];

/// Bytes of the tables that a manifest names.
pub fn table_bytes(manifest: &VersionedManifest) -> u64 {
    manifest.all_sst_views().map(|view| view.estimate_size()).sum()
}

/// Takes what SlateDB counts.
#[derive(Clone)]
pub struct Statistics(Arc<DefaultMetricsRecorder>);

impl Default for Statistics {
    fn default() -> Statistics {
        Statistics(Arc::new(DefaultMetricsRecorder::new()))
    }
}

impl Statistics {
    /// What a database is opened with.
    pub fn recorder(&self) -> Arc<DefaultMetricsRecorder> {
        self.0.clone()
    }

    /// Each with its name; nothing is left out, also where nothing was counted yet.
    pub fn all(&self) -> Vec<(&'static str, Statistic)> {
        let counted = self.0.snapshot();
        let of = |(name, unit, help): &(&'static str, &'static str, &'static str)| {
            // One for each label: together they are the whole.
            let values =
                counted.all().iter().filter(|metric| metric.name == *name).map(|metric| &metric.value);
            let (mut sum, mut is_counter, mut is_known) = (0u64, false, false);
            for value in values {
                is_known = true;
                match value {
                    MetricValue::Counter(count) => {
                        is_counter = true;
                        sum += count;
                    }
                    MetricValue::Gauge(now) | MetricValue::UpDownCounter(now) => {
                        sum += u64::try_from(*now).unwrap_or(0)
                    }
                    MetricValue::Histogram { count, .. } => {
                        is_counter = true;
                        sum += count;
                    }
                }
            }
            let value = is_known.then_some(sum);
            (
                *name,
                if is_counter {
                    Statistic::counter(value, unit, help)
                } else {
                    Statistic::gauge(value, unit, help)
                },
            )
        };
        SHOWN.iter().map(of).collect()
    }

    /// Bytes of memtables and of the log that is not sent, when a batch was written last.
    pub fn memory_bytes(&self) -> u64 {
        let all = self.all();
        let found = all.iter().find(|(name, _)| *name == "slatedb.db.total_mem_size_bytes");
        found.and_then(|(_, statistic)| statistic.value.number()).unwrap_or(0)
    }
}
