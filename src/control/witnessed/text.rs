//! A witness's report for people: at most 100 columns of ASCII. Only classes and files of which there is something to say have a line.

use std::time::{Duration, UNIX_EPOCH};

use super::super::figures::{amp, clock, human_count, span, tail};
use super::super::render::{COLUMNS, Page};
use super::document::{ClassRow, WitnessDocument};
use crate::base::text::{human_size, timestamp};
use crate::witness::Class;

/// Files that are shown.
const FILES_MAX: usize = 10;

/// The whole report.
pub(super) fn text(document: &WitnessDocument) -> String {
    let mut page = Page::default();
    head(&mut page, document);
    let used = |is_used: fn(&ClassRow) -> bool| -> Vec<(Class, ClassRow)> {
        document.by_class.iter().filter(|(_, row)| is_used(row)).collect()
    };
    page.line(format!(
        "{:<12}{:>10}{:>9}{:>10}{:>10}{:>9}{:>10}{:>8}",
        "TRAFFIC", "written", "writes", "mapped", "read", "reads", "copied", "errors"
    ));
    let mut traffic =
        |name: &str, [written, mapped, read, copied]: [u64; 4], [writes, reads, errors]: [u64; 3]| {
            page.line(format!(
                "  {name:<10}{:>10}{:>9}{:>10}{:>10}{:>9}{:>10}{:>8}",
                human_size(written),
                human_count(writes),
                human_size(mapped),
                human_size(read),
                human_count(reads),
                human_size(copied),
                human_count(errors),
            ));
        };
    for (class, row) in used(|row| {
        let moved = row.traffic.writes + row.traffic.reads + row.traffic.copied_bytes;
        moved + row.traffic.errors > 0
    }) {
        let of = row.traffic;
        let bytes = [of.write_bytes, of.mapped_write_bytes, of.read_bytes, of.copied_bytes];
        traffic(class.name(), bytes, [of.writes, of.reads, of.errors]);
    }
    let total = &document.total;
    let bytes = [total.write_bytes, total.mapped_write_bytes, total.read_bytes, total.copied_bytes];
    traffic("total", bytes, [total.writes, total.reads, total.errors]);
    page.line(format!(
        "{:<12}{:>10}{:>9}{:>10}{:>10}{:>9}   directories {}",
        "SYNCS",
        "syncs",
        "p50",
        "p99",
        "max",
        "waited",
        human_count(document.directory_syncs)
    ));
    for (class, row) in used(|row| row.traffic.syncs > 0) {
        let nanos =
            |nanos: Option<u64>| nanos.map_or("-".to_string(), |nanos| span(Duration::from_nanos(nanos)));
        page.line(format!(
            "  {:<10}{:>10}{:>9}{:>10}{:>10}{:>9}",
            class.name(),
            human_count(row.traffic.syncs),
            nanos(row.sync_p50_ns()),
            nanos(row.sync_p99_ns()),
            nanos(row.sync_max_ns()),
            span(Duration::from_nanos(row.traffic.sync_waited_ns)),
        ));
    }
    page.line(format!(
        "{:<12}{:>10}{:>9}{:>10}{:>10}{:>9}{}",
        "SPACE",
        "files",
        "length",
        "on disk",
        "created",
        "removed",
        if document.is_partial { "   of a part: there are too many names" } else { "" }
    ));
    for (class, row) in used(|row| row.size.files + row.traffic.created + row.traffic.removed > 0) {
        page.line(format!(
            "  {:<10}{:>10}{:>9}{:>10}{:>10}{:>9}",
            class.name(),
            human_count(row.size.files),
            human_size(row.size.length_bytes),
            human_size(row.size.disk_bytes),
            human_count(row.traffic.created),
            human_count(row.traffic.removed),
        ));
    }
    files(&mut page, document);
    page.0
}

fn head(page: &mut Page, document: &WitnessDocument) {
    page.line(format!(
        "kvfs {}  witness  patterns={}  up {}  {}",
        document.version,
        tail(&document.patterns, 24),
        clock(document.uptime),
        timestamp(UNIX_EPOCH + document.time),
    ));
    let pid = format!("pid {}", document.process.pid);
    let room = COLUMNS.saturating_sub(pid.len() + "directory   mount   ".len()) / 2;
    page.line(format!(
        "directory {}  mount {}  {pid}",
        tail(&document.directory, room),
        tail(&document.mount_path, room)
    ));
    let since = match document.since.as_str() {
        "mount" => "since the mount".to_string(),
        mark => format!("since mark {mark}, {} ago", span(document.elapsed)),
    };
    let user = match document.user_bytes {
        0 => "- user".to_string(),
        bytes => format!("{} user", human_size(bytes)),
    };
    page.line(format!(
        "AMPLIFICATION  write {} = {} written / {user}  space {}  {since}",
        amp(document.amplification.write),
        human_size(document.total.write_bytes),
        amp(document.amplification.space),
    ));
}

fn files(page: &mut Page, document: &WitnessDocument) {
    if document.files.is_empty() {
        return;
    }
    page.line(format!("{:<12}{:>10}{:>9}{:>10}{:>10}  path", "FILES", "written", "writes", "syncs", "read"));
    for file in document.files.iter().take(FILES_MAX) {
        page.line(format!(
            "  {:<10}{:>10}{:>9}{:>10}{:>10}  {}",
            file.class,
            human_size(file.write_bytes),
            human_count(file.writes),
            human_count(file.syncs),
            human_size(file.read_bytes),
            tail(file.path.as_deref().unwrap_or("(others)"), 44),
        ));
    }
}
