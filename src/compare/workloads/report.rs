//! Output of the rows: one by one while it runs, and a table of rates at the end.

use std::fmt::Write;

use super::plan::Size;
use super::row::Row;
use crate::base::text::human_size;
use crate::compare::csv::times;

/// Headings of the columns behind the names; each as wide as its heading, but at least 6.
const COLUMNS: [&str; 18] = [
    "ops/s", "sust/s", "settle", "p50 us", "p99", "p99.9", "max ms", "W", "KERNEL", "DEVICE", "R", "S",
    "S-peak", "asked", "hot", "MiB", "stall", "other",
];
const WIDTH: usize = 7;
/// Of the names.
const NAME: usize = 18;

/// The heading above the lines of one size.
pub fn heading(size: &Size, memory_bytes: u64) -> String {
    let columns: String = COLUMNS.map(|name| format!(" {name:>WIDTH$}")).concat();
    format!(
        "\n{} keys of 16 to 24 bytes, values of {}, {} in all; memory of each engine {}\n{:<NAME$} {:<NAME$}{columns}",
        size.keys,
        human_size(size.value_bytes),
        human_size(size.bytes_of(0, size.keys)),
        human_size(memory_bytes),
        "workload",
        "engine",
    )
}

/// One line below [`heading`].
pub fn line(row: &Row) -> String {
    let micros = |nanos: u64| short(nanos as f64 / 1e3);
    let columns = [
        short(row.ops_per_second()),
        short(row.sustained_per_second()),
        format!("{:.2}", row.settle_nanos as f64 / 1e9),
        micros(row.p50_nanos),
        micros(row.p99_nanos),
        micros(row.p999_nanos),
        short(row.max_nanos as f64 / 1e6),
        times(row.write_amp()),
        times(row.kernel_write_amp()),
        times(row.device_write_amp()),
        times(row.kernel_read_amp()),
        times(Some(row.space_amp())),
        times(Some(row.space_amp_peak())),
        times(row.structures_per_get()),
        times(row.hot_read_share()),
        (row.memory_peak_bytes >> 20).to_string(),
        format!("{:.2}", row.stall_nanos as f64 / 1e9),
        format!("{:.2}", row.other_cores()),
    ];
    let columns: String = columns.map(|text| format!(" {text:>WIDTH$}")).concat();
    format!("{:<NAME$} {:<NAME$}{columns} {}", row.workload, row.contender, row.marks())
        .trim_end()
        .to_string()
}

/// Meaning of the columns and marks.
pub const LEGEND: &str = "\
ops/s while it ran; sust/s with the time to settle counted. p50 to max: of a call. W bytes that door 3 saw written a byte of key and
value, until settled; KERNEL the same by write_bytes of /proc/self/io, DEVICE by what the device wrote, for everybody. R bytes fetched
from the device a byte returned. S bytes of files a live byte. asked: structures a point read asked, hot: share of the point reads that a
hybrid's tree answered. MiB peak of RssAnon. stall: seconds that writers were held back, where the engine says so. other: cores used by anything else. - nobody measures it; * cut by the time limit; ~ a crash may leave less than a
prefix of the history; ! something else used the machine: measure it again.
";

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

/// Markdown: the sustained rate of every contender in every workload, with the bytes that the kernel saw written a byte; and, where there
/// are several, each one's rate as a ratio to the best of the others that promise as much.
pub fn summary(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut sizes: Vec<(u64, u64)> = rows.iter().map(|row| (row.data_bytes, row.value_bytes)).collect();
    sizes.dedup();
    for size in sizes {
        // The reads of a mixture are part of its rate.
        let rows: Vec<&Row> = rows
            .iter()
            .filter(|row| (row.data_bytes, row.value_bytes) == size && !row.workload.ends_with(":reads"))
            .collect();
        let contenders = distinct(rows.iter().map(|row| row.contender.as_str()));
        let rivals = if contenders.len() > 1 { &contenders[..] } else { &[] };
        let titles: String = contenders.iter().map(|name| format!(" {name} |")).collect();
        let ratios: String = rivals.iter().map(|name| format!(" {name} ÷ best other |")).collect();
        let (data, value) = (human_size(size.0), human_size(size.1));
        let _ = writeln!(
            text,
            "\n### {data}, values of {value}: sustained ops/s / KERNEL\n\n| workload |{titles}{ratios}"
        );
        let _ = writeln!(text, "|---|{}", "--:|".repeat(contenders.len() + rivals.len()));
        for workload in distinct(rows.iter().map(|row| row.workload.as_str())) {
            let rows: Vec<&Row> = rows.iter().copied().filter(|row| row.workload == workload).collect();
            let of = |name: &str| rows.iter().copied().find(|row| row.contender == name);
            let rates: String =
                contenders.iter().map(|name| of(name).map_or(" |".to_string(), cell)).collect();
            let ratios: String = rivals
                .iter()
                .map(|name| of(name).map_or(" |".to_string(), |row| rival(row, &rows)))
                .collect();
            let _ = writeln!(text, "| {workload} |{rates}{ratios}");
        }
    }
    text
}

fn cell(row: &Row) -> String {
    let written = row
        .kernel_write_amp()
        .map_or(String::new(), |amplification| format!(" / {}", times(Some(amplification))));
    format!(" {}{}{written} |", short(row.sustained_per_second()), row.marks())
}

/// The cell that holds a row against the best of the others.
fn rival(row: &Row, rows: &[&Row]) -> String {
    let promises_as_much = |other: &&&Row| row.writes == 0 || other.keeps_prefix >= row.keeps_prefix;
    let others = rows.iter().filter(|other| other.contender != row.contender).filter(promises_as_much);
    match others.max_by(|a, b| a.sustained_per_second().total_cmp(&b.sustained_per_second())) {
        Some(best) => {
            let ratio = row.sustained_per_second() / best.sustained_per_second();
            format!(" {} {} |", times(Some(ratio)), best.contender)
        }
        None => " |".to_string(),
    }
}

fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut seen = Vec::new();
    for name in names {
        if !seen.contains(&name) {
            seen.push(name);
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::super::row::sample;
    use super::*;

    #[test]
    fn ratios_are_to_the_best_of_the_others_that_promise_as_much() {
        let unsafe_writes = |row: Row| Row { keeps_prefix: 0, ..row };
        let rows = [
            sample("lsm:leveled", "fillrandom", 50_000),
            sample("redb", "fillrandom", 100_000),
            unsafe_writes(sample("lmdb", "fillrandom", 400_000)),
            sample("lsm:leveled", "readrandom", 100_000),
            unsafe_writes(sample("lmdb", "readrandom", 400_000)),
        ];
        let text = summary(&rows);
        for expected in [
            "### 1.00MiB, values of 100B",
            "| workload | lsm:leveled | redb | lmdb | lsm:leveled ÷ best other |",
            "| fillrandom | 50.0k / 3.00 | 100k / 3.00 | 400k~ / 3.00 | 0.50 redb | 2.00 lsm:leveled | 4.00 redb |",
            // Of reads nothing is promised.
            "| readrandom | 100k | | 400k | 0.25 lmdb | | 4.00 lsm:leveled |",
        ] {
            assert!(text.contains(expected), "no '{expected}' in {text}");
        }
        assert!(!summary(&rows[..1]).contains('÷'), "one alone has no rival");
    }

    #[test]
    fn a_line_has_what_its_heading_says() {
        let size = Size {
            data_bytes: 1 << 20,
            value_bytes: 100,
            keys: 100,
            fill_batch: 16,
            overwrites: 1,
            gets: 1,
            seeks: 1,
            cold_gets: 1,
            cold_seeks: 1,
            syncs: 1,
        };
        let heading = heading(&size, 1 << 20);
        let (heading, line) =
            (heading.lines().last().unwrap(), line(&sample("lsm:leveled", "fillrandom", 3000)));
        assert_eq!(heading.chars().count(), line.chars().count(), "{heading}\n{line}");
        assert!(line.starts_with("fillrandom         lsm:leveled           4000    3000    0.25"), "{line}");
        assert!(line.contains("   2.00    3.00    4.00    0.00    1.50    3.00    2.50       -"), "{line}");
    }
}
