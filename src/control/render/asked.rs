//! Tables of operations, kinds of keys, processes and names.

use super::super::figures::{amp, ascii, human_count, percent, size_or_dash, span, tail};
use super::super::stats::{Report, Sample};
use super::engine::of_levels;
use super::page::Page;
use crate::attribution::Tally;
use crate::base::metric::ratio;
use crate::base::text::human_size;
use crate::engine::cache::CacheKind;
use crate::fs::operation::Op;
use std::time::Duration;

/// Rows of the table of operations at most; those with the most calls are shown.
const OPERATIONS_MAX: usize = 14;

/// Processes, and names, at most.
const MOVERS_MAX: usize = 4;

pub(super) fn operations(page: &mut Page, sample: &Sample) {
    let mut called: Vec<Op> = Op::ALL.into_iter().filter(|&op| sample.op(op).calls.count > 0).collect();
    let others = called.len().saturating_sub(OPERATIONS_MAX);
    called.sort_by_key(|&op| std::cmp::Reverse(sample.op(op).calls.count));
    called.truncate(OPERATIONS_MAX);
    called.sort_by_key(|&op| op as usize);
    page.line(format!(
        "{:<17}{:>8}{:>7}{:>9} |{:>8}{:>8}{:>8} |{:>8}{:>8}{:>9}",
        "FS OPS", "n", "err", "bytes", "p50", "p99", "max", "puts", "dels", "kv"
    ));
    for op in called {
        let counters = sample.op(op);
        let latency = |of: fn(&crate::fs::meter::Latency) -> u64| {
            counters
                .latency
                .as_ref()
                .map_or("-".to_string(), |latency| span(Duration::from_nanos(of(latency))))
        };
        let (p50, p99, max) =
            (latency(|latency| latency.p50), latency(|latency| latency.p99), latency(|latency| latency.max));
        let tag = sample.tags.get(usize::from(op.tag())).copied().unwrap_or_default();
        page.line(format!(
            "  {:<15}{:>8}{:>7}{:>9} |{p50:>8}{p99:>8}{max:>8} |{:>8}{:>8}{:>9}",
            op.name(),
            human_count(counters.calls.count),
            human_count(counters.calls.errors),
            human_size(counters.calls.bytes),
            human_count(tag.puts),
            human_count(tag.deletes),
            human_size(tag.bytes),
        ));
    }
    if others > 0 {
        page.line(format!("  ... {others} more operations"));
    }
}

pub(super) fn kinds(page: &mut Page, report: &Report) {
    let sample = &report.sample;
    page.line(format!(
        "{:<17}{:>8}{:>9}{:>8}{:>9} |{:>8}{:>8}{:>9}{:>10}{:>9}",
        "KEYS", "puts", "bytes", "dels", "bytes", "gets", "found", "bytes", "scanned", "bytes"
    ));
    for (name, kind) in report.mount.kind_names.iter().zip(&sample.kinds) {
        if kind.puts + kind.deletes + kind.gets + kind.scanned == 0 {
            continue;
        }
        page.line(format!(
            "  {name:<15}{:>8}{:>9}{:>8}{:>9} |{:>8}{:>8}{:>9}{:>10}{:>9}",
            human_count(kind.puts),
            human_size(kind.put_bytes),
            human_count(kind.deletes),
            human_size(kind.delete_bytes),
            human_count(kind.gets),
            human_count(kind.hits),
            human_size(kind.get_bytes),
            human_count(kind.scanned),
            human_size(kind.scanned_bytes),
        ));
    }
    let written = report.mount.kind_names.iter().zip(&sample.kinds).zip(&sample.kind_write_bytes);
    let items: Vec<String> = written
        .filter(|(_, bytes)| **bytes > 0)
        .map(|((name, kind), bytes)| {
            let rewritten = amp(ratio(*bytes, kind.put_bytes + kind.delete_bytes));
            format!("{name} {} x{rewritten}", human_size(*bytes))
        })
        .collect();
    if !items.is_empty() {
        let others = format!("| overhead {}, without the log", human_size(sample.overhead_write_bytes()));
        page.block("ON DISK", items.into_iter().chain([others]));
    }
    let shape = &sample.shape;
    let (cache, memory) = (&shape.cache, &shape.memory);
    let hit_share = |name: &str, kind: CacheKind| {
        of_levels(shape, || format!("{name} hit {}", percent(cache.kinds.of(kind).hit_share())))
    };
    page.block(
        "CACHE",
        [
            format!("{} of {}", human_size(cache.bytes), human_size(cache.bytes_max)),
            format!("hit {}", percent(cache.all.hit_share())),
            format!("hits {}", human_count(cache.all.hits)),
            format!("misses {}", human_count(cache.all.misses)),
            hit_share("index", CacheKind::Index),
            hit_share("filter", CacheKind::Filter),
            hit_share("value", CacheKind::Value),
            format!("| memory {} of {}", size_or_dash(memory.used_bytes), size_or_dash(memory.limit_bytes)),
            of_levels(shape, || format!("resident {}", size_or_dash(memory.resident_bytes))),
            of_levels(shape, || format!("memtables {}", size_or_dash(memory.memtable_bytes))),
            format!("inodes {}", human_count(report.usage.inodes)),
        ],
    );
}

/// Processes that moved most content, and names in the root below which most was moved.
pub(super) fn movers(page: &mut Page, report: &Report) {
    let item = |name: String, tally: &Tally| {
        format!("{name} {} written {} read", human_size(tally.write_bytes), human_size(tally.read_bytes))
    };
    let others = |tally: &Tally| (tally.bytes() > 0).then(|| item("others".to_string(), tally));
    let mut processes = report.charges.by_process();
    let mut paths = report.charges.by_path();
    processes.fold_behind(MOVERS_MAX);
    paths.fold_behind(MOVERS_MAX);
    let rows = processes.rows.iter().map(|(process, tally)| {
        let command = if process.command.is_empty() { "?" } else { &process.command };
        item(format!("{}[{}]", ascii(command), process.pid), tally)
    });
    let rows: Vec<String> = rows.chain(others(&processes.others)).collect();
    if !rows.is_empty() {
        page.block("BY", rows);
    }
    let rows = paths.rows.iter().map(|(path, tally)| item(tail(&format!("/{}", ascii(path)), 30), tally));
    let rows: Vec<String> = rows.chain(others(&paths.others)).collect();
    if !rows.is_empty() {
        page.block("BELOW", rows);
    }
}
