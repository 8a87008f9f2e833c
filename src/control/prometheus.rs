//! The report as Prometheus text exposition 0.0.4: raw counters that only grow, gauges, and latency histograms with cumulative
//! buckets. Ratios are left to queries, which can take them over any span.

use std::fmt::Write;

use super::stats::{Report, State};
use crate::disk::Purpose;
use crate::engine::{Cause, PageCause, PageKind, PageTraffic, Work};
use crate::fs::attribution::Tally;
use crate::fs::meter::Op;

/// Upper bounds of the latency buckets, nanoseconds.
const BOUNDS: [u64; 14] = [
    1_000,
    4_000,
    16_000,
    64_000,
    256_000,
    1_000_000,
    4_000_000,
    16_000_000,
    64_000_000,
    256_000_000,
    1_000_000_000,
    4_000_000_000,
    16_000_000_000,
    64_000_000_000,
];

/// Metric families, one after the other.
#[derive(Default)]
struct Exposition(String);

impl Exposition {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0 += name;
        for (index, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"", if index == 0 { '{' } else { ',' });
            for c in text.chars() {
                match c {
                    '\\' | '"' => self.0.extend(['\\', c]),
                    '\n' => self.0 += "\\n",
                    _ => self.0.push(c),
                }
            }
            self.0.push('"');
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl std::fmt::Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// A family with one label.
    fn each<'a, V: std::fmt::Display>(
        &mut self,
        name: &str,
        kind: &str,
        help: &str,
        label: &str,
        samples: impl Iterator<Item = (&'a str, V)>,
    ) {
        self.family(name, kind, help);
        for (text, value) in samples {
            self.sample(name, &[(label, text)], value);
        }
    }
}

/// Prints `report`; `latencies` are the distributions of each operation, in the order of [`Op::ALL`].
pub(super) fn prometheus(report: &Report, latencies: &[Vec<(u64, u64)>]) -> String {
    let mut page = Exposition::default();
    let (sample, usage) = (&report.sample, &report.usage);
    let shape = &sample.shape;
    page.family("kvfs_info", "gauge", "Always 1; what is mounted.");
    let mount = &report.mount;
    let labels = [("version", &*mount.version), ("engine", shape.engine), ("variant", shape.variant)];
    page.sample("kvfs_info", &labels, 1);
    page.one("kvfs_uptime_seconds", "gauge", "Time since the mount.", report.uptime.as_secs_f64());
    page.one(
        "kvfs_read_only",
        "gauge",
        "1 after a failed sync.",
        u8::from(matches!(report.state, State::ReadOnly(_))),
    );
    counters(&mut page, report);
    page.one("kvfs_physical_bytes", "gauge", "Bytes that the store's files occupy.", report.physical.bytes);
    page.one("kvfs_live_bytes", "gauge", "Bytes that the tree needs at least.", report.live_bytes());
    page.one("kvfs_apparent_bytes", "gauge", "Sum of file sizes.", usage.apparent_bytes);
    page.one("kvfs_inodes", "gauge", "Inodes.", usage.inodes);
    page.one(
        "kvfs_reclaim_pending_bytes",
        "gauge",
        "Blocks of deleted files still stored.",
        usage.reclaim_pending_bytes,
    );
    let debt = &shape.debt;
    page.one("kvfs_l0_files", "gauge", "Sorted runs in level 0.", debt.l0_files);
    page.one(
        "kvfs_compaction_pending_bytes",
        "gauge",
        "Bytes that merges still owe.",
        debt.pending_compaction_bytes,
    );
    page.one("kvfs_dirty_bytes", "gauge", "Memtables not flushed, or dirty pages.", debt.dirty_bytes);
    page.one("kvfs_unsynced_bytes", "gauge", "Log bytes that a power cut would lose.", debt.unsynced_bytes);
    page.one(
        "kvfs_oldest_unsynced_seconds",
        "gauge",
        "Age of the oldest of them.",
        debt.oldest_unsynced.as_secs_f64(),
    );
    page.one("kvfs_tombstones", "gauge", "Deletes not dropped yet.", debt.tombstones);
    let rows = super::forecast::debt(sample);
    let owed_bytes: f64 = rows.iter().map(|row| row.debt_bytes).sum();
    if let Some(seconds) = super::forecast::cpu_seconds(sample, owed_bytes) {
        let help = "Processor time of what is still to be written, at the measured rate.";
        page.one("kvfs_debt_cpu_seconds", "gauge", help, seconds);
    }
    let rows = rows.iter().map(|row| (&*row.level, row.debt_bytes));
    page.each(
        "kvfs_durability_debt_bytes",
        "gauge",
        "Bytes still to be written, by the model.",
        "level",
        rows,
    );
    let names: Vec<String> = shape.levels.iter().map(|level| level.level.to_string()).collect();
    let levels = || names.iter().map(String::as_str).zip(&shape.levels);
    page.each("kvfs_level_bytes", "gauge", "Bytes of a level.", "level", levels().map(|(n, l)| (n, l.bytes)));
    page.each(
        "kvfs_level_files",
        "gauge",
        "Tables of a level.",
        "level",
        levels().map(|(n, l)| (n, l.files)),
    );
    page.one("kvfs_write_stalled", "gauge", "1 while writes wait.", u8::from(shape.stalls.now.is_some()));
    let causes = || Cause::ALL.into_iter().map(|cause| (cause.name(), shape.stalls.by_cause[cause as usize]));
    page.each(
        "kvfs_write_stall_seconds_total",
        "counter",
        "Time in which writes waited.",
        "cause",
        causes().map(|(n, c)| (n, c.waited.as_secs_f64())),
    );
    page.each(
        "kvfs_write_stalls_total",
        "counter",
        "Times that writes waited.",
        "cause",
        causes().map(|(n, c)| (n, c.slowdowns + c.stops)),
    );
    movers(&mut page, report);
    histograms(&mut page, report, latencies);
    page.0
}

/// Who moved content: the twenty first and the others, whose row may fall when one of them rises, so no counters.
fn movers(page: &mut Exposition, report: &Report) {
    let (processes, paths) = (report.charges.by_process(), report.charges.by_path());
    for direction in ["write", "read"] {
        let bytes = |tally: &Tally| if direction == "write" { tally.write_bytes } else { tally.read_bytes };
        let name = format!("kvfs_process_{direction}_bytes");
        page.family(&name, "gauge", "Content moved since the mount, by process.");
        for (process, tally) in &processes.rows {
            let labels = [("pid", &*process.pid.to_string()), ("command", &*process.command)];
            page.sample(&name, &labels, bytes(tally));
        }
        page.sample(&name, &[("pid", ""), ("command", "others")], bytes(&processes.others));
        let name = format!("kvfs_path_{direction}_bytes");
        page.family(&name, "gauge", "Content moved since the mount, by name in the root.");
        for (path, tally) in &paths.rows {
            page.sample(&name, &[("path", &*format!("/{path}"))], bytes(tally));
        }
        page.sample(&name, &[("path", "others")], bytes(&paths.others));
    }
}

fn counters(page: &mut Exposition, report: &Report) {
    let sample = &report.sample;
    page.one("kvfs_app_write_bytes_total", "counter", "Bytes that users wrote.", sample.app_write_bytes());
    page.one("kvfs_app_read_bytes_total", "counter", "Bytes that users read.", sample.app_read_bytes());
    page.one(
        "kvfs_kv_write_bytes_total",
        "counter",
        "Key and value bytes put and key bytes deleted.",
        sample.kv_write_bytes(),
    );
    let kinds = || report.mount.kind_names.iter().copied().zip(&sample.kinds);
    page.each(
        "kvfs_kv_put_bytes_total",
        "counter",
        "Bytes put, by kind of key.",
        "kind",
        kinds().map(|(n, k)| (n, k.put_bytes)),
    );
    page.each(
        "kvfs_kind_disk_write_bytes_total",
        "counter",
        "Bytes written to tables or pages, without the log, by kind of key.",
        "kind",
        report.mount.kind_names.iter().copied().zip(sample.kind_write_bytes.iter().copied()),
    );
    page.each(
        "kvfs_kv_gets_total",
        "counter",
        "Point reads, by kind of key.",
        "kind",
        kinds().map(|(n, k)| (n, k.gets)),
    );
    page.family("kvfs_kv_ops_total", "counter", "Keys put and deleted, by file operation.");
    for op in Op::ALL {
        let tag = sample.tags.get(usize::from(op.tag())).copied().unwrap_or_default();
        if tag.batches > 0 {
            page.sample("kvfs_kv_ops_total", &[("fs_op", op.name()), ("op", "put")], tag.puts);
            page.sample("kvfs_kv_ops_total", &[("fs_op", op.name()), ("op", "delete")], tag.deletes);
        }
    }
    let causes = || Purpose::all().map(|purpose| (purpose.name(), sample.disk.of(purpose)));
    page.each(
        "kvfs_bytes_written_total",
        "counter",
        "Bytes written to the store's files.",
        "cause",
        causes().map(|(n, c)| (n, c.write_bytes)),
    );
    page.each(
        "kvfs_bytes_read_total",
        "counter",
        "Bytes read from the store's files.",
        "cause",
        causes().map(|(n, c)| (n, c.read_bytes)),
    );
    page.each(
        "kvfs_disk_writes_total",
        "counter",
        "Write requests.",
        "cause",
        causes().map(|(n, c)| (n, c.writes)),
    );
    page.each(
        "kvfs_disk_reads_total",
        "counter",
        "Read requests.",
        "cause",
        causes().map(|(n, c)| (n, c.reads)),
    );
    page.each("kvfs_disk_syncs_total", "counter", "Syncs.", "cause", causes().map(|(n, c)| (n, c.syncs)));
    let cache = sample.shape.cache;
    page.one("kvfs_cache_hits_total", "counter", "Requests that the cache answered.", cache.hits);
    page.one("kvfs_cache_misses_total", "counter", "Requests that went to the disk.", cache.misses);
    if let Some(tree) = &sample.shape.tree {
        let read = "Bytes of a B-tree's pages read.";
        page_bytes(page, "kvfs_page_read_bytes_total", read, &tree.pages_read);
        let written = "Bytes of a B-tree's pages and of copies of them written.";
        page_bytes(page, "kvfs_page_written_bytes_total", written, &tree.pages_written);
        page.one("kvfs_splits_total", "counter", "Pages split.", tree.splits);
        page.one("kvfs_latch_waits_total", "counter", "Waits for the latch of the tree.", tree.latch_waits);
        let waited = tree.latch_wait_time.as_secs_f64();
        page.one("kvfs_latch_wait_seconds_total", "counter", "Time of these waits.", waited);
    }
    let works = || Work::ALL.into_iter().map(|work| (work.name(), sample.shape.cpu.of(work)));
    let timed = works().map(|(n, cost)| (n, cost.timed_nanos as f64 / 1e9));
    page.each("kvfs_cpu_timed_seconds_total", "counter", "Processor time of timed work.", "work", timed);
    let bytes = works().map(|(n, cost)| (n, cost.timed_bytes));
    page.each("kvfs_cpu_timed_bytes_total", "counter", "Bytes of timed work.", "work", bytes);
    let bytes = works().map(|(n, cost)| (n, cost.bytes));
    page.each("kvfs_cpu_bytes_total", "counter", "Bytes of all work, timed or not.", "work", bytes);
    let filter = sample.shape.filter;
    page.one("kvfs_filter_checks_total", "counter", "Questions to bloom filters.", filter.checks);
    page.one("kvfs_filter_useful_total", "counter", "Tables not read thanks to them.", filter.useful);
    let ops = || Op::ALL.iter().map(|&op| (op.name(), sample.op(op)));
    page.each(
        "kvfs_fs_op_errors_total",
        "counter",
        "Calls answered with an errno.",
        "op",
        ops().map(|(n, o)| (n, o.errors)),
    );
    page.each(
        "kvfs_fs_op_bytes_total",
        "counter",
        "Content moved by calls.",
        "op",
        ops().map(|(n, o)| (n, o.bytes)),
    );
}

fn page_bytes(page: &mut Exposition, name: &str, help: &str, traffic: &PageTraffic) {
    page.family(name, "counter", help);
    for kind in PageKind::ALL {
        for cause in PageCause::ALL {
            let count = traffic.of(kind, cause);
            if count.bytes > 0 {
                page.sample(name, &[("kind", kind.name()), ("cause", cause.name())], count.bytes);
            }
        }
    }
}

fn histograms(page: &mut Exposition, report: &Report, latencies: &[Vec<(u64, u64)>]) {
    let probes = &report.sample.shape.probes;
    page.family("kvfs_probes", "histogram", "Structures asked by a point read of the engine.");
    let mut count = 0;
    // The last bucket holds everything above the others.
    for (value, bucket) in probes.buckets.iter().enumerate().take(probes.buckets.len() - 1) {
        count += bucket;
        page.sample("kvfs_probes_bucket", &[("le", &value.to_string())], count);
    }
    page.sample("kvfs_probes_bucket", &[("le", "+Inf")], probes.count());
    let sum: u64 = probes.buckets.iter().zip(0..).map(|(count, value)| count * value).sum();
    page.sample("kvfs_probes_sum", &[], sum);
    page.sample("kvfs_probes_count", &[], probes.count());
    page.family("kvfs_fs_op_duration_seconds", "histogram", "From a request to its answer.");
    for (op, distribution) in Op::ALL.iter().zip(latencies).filter(|(_, values)| !values.is_empty()) {
        let name = op.name();
        // Both ascend, so one pass does.
        let (mut values, mut count) = (distribution.iter().peekable(), 0);
        for bound in BOUNDS {
            while let Some((_, more)) = values.next_if(|(value, _)| *value <= bound) {
                count += more;
            }
            let le = (bound as f64 / 1e9).to_string();
            page.sample("kvfs_fs_op_duration_seconds_bucket", &[("op", name), ("le", &le)], count);
        }
        let count: u64 = distribution.iter().map(|(_, count)| count).sum();
        let sum: f64 = distribution.iter().map(|&(value, count)| value as f64 * count as f64 / 1e9).sum();
        page.sample("kvfs_fs_op_duration_seconds_bucket", &[("op", name), ("le", "+Inf")], count);
        page.sample("kvfs_fs_op_duration_seconds_sum", &[("op", name)], sum);
        page.sample("kvfs_fs_op_duration_seconds_count", &[("op", name)], count);
    }
}
