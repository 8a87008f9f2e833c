//! How lines are shown: one by one while it runs, a table of ratios at the end, JSON and CSV for other tools.

use std::fmt::Write;

use serde_json::Value;

use crate::engines::{self, Result, Settings, is_ours};
use crate::row::Row;

/// The heading above the lines of one size.
pub fn heading(size: &str, keys: u64, settings: &Settings) -> String {
    format!(
        "\n{size}: {keys} keys of 16 to 24 B, values of {} B, {} MiB in all; memtable {} MiB, cache {} MiB\n{:<18} {:<18} \
         {:>9} {:>9} {:>7} {:>8} {:>8} {:>8} {:>8} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>5}",
        settings.value_bytes,
        settings.data_bytes >> 20,
        settings.memtable_bytes >> 20,
        settings.cache_bytes >> 20,
        "workload",
        "engine",
        "ops/s",
        "sust/s",
        "settle",
        "p50 us",
        "p99",
        "p99.9",
        "max ms",
        "W",
        "D",
        "R",
        "S",
        "S-peak",
        "MiB",
        "stall",
        "other"
    )
}

/// One line below [`heading`].
pub fn line(row: &Row) -> String {
    format!(
        "{:<18} {:<18} {:>9} {:>9} {:>7.2} {:>8} {:>8} {:>8} {:>8} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6} {:>6.2} {:>5.2} {}",
        row.workload,
        row.engine,
        short(row.ops_per_s),
        short(row.sustained_per_s),
        row.settle_s,
        short(row.p50_us),
        short(row.p99_us),
        short(row.p999_us),
        short(row.max_us / 1000.0),
        ratio(row.write_amp),
        ratio(row.device_amp),
        ratio(row.read_amp),
        ratio(row.space_amp),
        ratio(row.space_peak),
        row.memory_peak_bytes >> 20,
        row.stall_s,
        row.other_cores,
        row.marks()
    )
}

/// Three digits and a unit.
fn short(number: f64) -> String {
    match number {
        _ if number >= 9_999_500.0 => format!("{:.1}M", number / 1e6),
        _ if number >= 999_500.0 => format!("{:.2}M", number / 1e6),
        _ if number >= 99_950.0 => format!("{:.0}k", number / 1e3),
        _ if number >= 9_995.0 => format!("{:.1}k", number / 1e3),
        _ if number >= 99.95 => format!("{number:.0}"),
        _ if number >= 9.995 => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

fn ratio(number: f64) -> String {
    match number {
        0.0 => "-".to_string(),
        _ if number >= 100.0 => format!("{number:.0}"),
        _ => format!("{number:.2}"),
    }
}

/// Whether a line is one to hold our engine `ours` against: of the same family for small values, of any for blocks and
/// syncs; and crash-safe, which LMDB's writes without sync are not.
fn is_peer(ours: &str, row: &Row) -> bool {
    let is_tree = |name: &str| ["btree", "redb", "lmdb", "sqlite"].contains(&engines::base(name));
    let is_alike = is_tree(ours) == is_tree(&row.engine);
    let crosses = row.size != "meta" || row.workload.starts_with("sync");
    let is_unsafe = row.engine == "lmdb"
        && (["fill", "overwrite", "mixed"].iter().any(|prefix| row.workload.starts_with(prefix))
            || row.workload == "delete");
    !is_ours(&row.engine) && (is_alike || crosses) && !is_unsafe
}

/// Markdown: the sustained rate of every engine in every workload, and each of our engines as a ratio to the best peer,
/// with both write amplifications.
pub fn summary(rows: &[Row]) -> Result<String> {
    let mut text = String::new();
    for size in distinct(rows.iter().map(|row| &row.size)) {
        // The reads of a mixture are part of its rate.
        let rows: Vec<&Row> =
            rows.iter().filter(|row| &row.size == size && !row.workload.ends_with(":reads")).collect();
        let engines = distinct(rows.iter().map(|row| &row.engine));
        let ours: Vec<&String> = engines.iter().copied().filter(|engine| is_ours(engine)).collect();
        let titles = engines.iter().map(|engine| format!(" {engine} |"));
        let ratios = ours.iter().map(|engine| format!(" {engine} ÷ best peer | W, D | of the peer |"));
        writeln!(text, "\n### {size}: sustained ops/s\n\n| workload |{}{}", join(titles), join(ratios))?;
        writeln!(text, "|---|{}{}", "--:|".repeat(engines.len()), "---|--:|--:|".repeat(ours.len()))?;
        for workload in distinct(rows.iter().map(|row| &row.workload)) {
            let rows: Vec<&Row> = rows.iter().copied().filter(|row| &row.workload == workload).collect();
            let of = |engine: &str| rows.iter().find(|row| row.engine == engine);
            let rates = engines.iter().map(|engine| match of(engine) {
                Some(row) => format!(" {}{} |", short(row.sustained_per_s), row.marks()),
                None => " |".to_string(),
            });
            let ratios = ours.iter().map(|engine| compare(of(engine).copied(), engine, &rows));
            writeln!(text, "| {workload} |{}{}", join(rates), join(ratios))?;
        }
    }
    Ok(text)
}

/// The three cells that hold a line of ours against the best of its peers.
fn compare(row: Option<&Row>, engine: &str, rows: &[&Row]) -> String {
    let peers = rows.iter().filter(|row| is_peer(engine, row));
    let best = peers.max_by(|a, b| a.sustained_per_s.total_cmp(&b.sustained_per_s));
    match (row, best) {
        (Some(row), Some(best)) => format!(
            " {:.2} {} | {}, {} | {}, {} |",
            row.sustained_per_s / best.sustained_per_s,
            best.engine,
            ratio(row.write_amp),
            ratio(row.device_amp),
            ratio(best.write_amp),
            ratio(best.device_amp)
        ),
        _ => " | | |".to_string(),
    }
}

fn join(parts: impl Iterator<Item = String>) -> String {
    parts.collect()
}

fn distinct<'a>(names: impl Iterator<Item = &'a String>) -> Vec<&'a String> {
    let mut seen = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}

/// Every line with every field, the names of the fields first.
pub fn csv(rows: &[Row]) -> Result<String> {
    let mut text = String::new();
    for (index, row) in rows.iter().enumerate() {
        let Value::Object(fields) = serde_json::to_value(row)? else { continue };
        if index == 0 {
            writeln!(text, "{}", fields.keys().map(String::as_str).collect::<Vec<_>>().join(","))?;
        }
        let values = fields.values().map(|value| match value {
            Value::String(name) => name.clone(),
            other => other.to_string(),
        });
        writeln!(text, "{}", values.collect::<Vec<_>>().join(","))?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(engine: &str, workload: &str, sustained_per_s: f64) -> Row {
        let (engine, workload, size) = (engine.to_string(), workload.to_string(), "meta".to_string());
        Row { engine, workload, size, sustained_per_s, write_amp: 2.0, ..Row::default() }
    }

    #[test]
    fn ratios_are_to_the_best_peer_that_is_alike_and_crash_safe() {
        let rows = [
            row("lsm", "fillrandom", 50_000.0),
            row("btree", "fillrandom", 50_000.0),
            row("rocksdb", "fillrandom", 500_000.0),
            row("redb", "fillrandom", 100_000.0),
            row("lmdb", "fillrandom", 400_000.0),
            row("btree", "readrandom", 100_000.0),
            row("lmdb", "readrandom", 400_000.0),
            row("btree", "sync1", 50_000.0),
            row("rocksdb", "sync1", 100_000.0),
        ];
        let text = summary(&rows).unwrap();
        for expected in
            ["| 0.10 rocksdb | 2.00, - | 2.00, - | 0.50 redb |", "| | | | 0.25 lmdb |", "| 0.50 rocksdb |"]
        {
            assert!(text.contains(expected), "no '{expected}' in {text}");
        }
    }

    #[test]
    fn csv_has_as_many_values_as_names() {
        let text = csv(&[row("lsm:bloom_bits=0", "sync1", 1.5)]).unwrap();
        let counts: Vec<usize> = text.lines().map(|line| line.split(',').count()).collect();
        assert!(counts.len() == 2 && counts[0] == counts[1] && counts[0] > 20, "{text}");
    }
}
