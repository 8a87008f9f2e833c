//! The engine: its levels or pages, and its running jobs.

use std::time::Duration;

use super::super::cost::Cost;
use super::super::figures::{amp, ascii, dollars, human_count, percent, span, tail};
use super::super::recordings::RecordingSection;
use super::super::stats::Sample;
use super::page::Page;
use crate::base::metric::ratio;
use crate::base::text::{exact_size, human_size};
use crate::disk::Purpose;
use crate::engine::charges::Charge;
use crate::engine::{
    Amount, BtreeShape, HybridShape, Level, PageCause, PageCount, PageKind, PageTraffic, Shape,
};

/// Columns of a recording's path at most.
const PATH_COLUMNS: usize = 40;
/// Operations that have caused requests at most; those with the most are shown.
const PAYERS_MAX: usize = 6;
/// Lines of background jobs at most.
const JOBS_MAX: usize = 4;

/// What only an LSM-tree has to say; nothing of other engines.
pub(super) fn of_levels(shape: &Shape, item: impl FnOnce() -> String) -> String {
    if shape.levels.is_empty() { String::new() } else { item() }
}

pub(super) fn level_table(page: &mut Page, sample: &Sample) {
    let levels = &sample.shape.levels;
    if levels.is_empty() {
        return;
    }
    page.line(format!(
        "{:<6}{:>6}{:>7}{:>9}{:>9}{:>7} |{:>9}{:>9}{:>9}{:>9} |{:>6}{:>9}",
        "LEVEL",
        "runs",
        "files",
        "size",
        "target",
        "score",
        "in",
        "moved",
        "read",
        "written",
        "w-amp",
        "probes"
    ));
    let mut total = Level::default();
    for level in levels {
        // Levels that nothing ever reached say nothing; `.stats.d/levels` has them all.
        if level.level > 0
            && level.files + level.traffic.in_bytes + level.traffic.moved_bytes + level.traffic.write_bytes
                == 0
        {
            continue;
        }
        let target = match level.target_bytes {
            0 => format!("{} files", sample.shape.debt.l0_trigger),
            bytes => human_size(bytes),
        };
        let rewritten = amp(level.traffic.write_amplification());
        let name = format!("L{}", level.level);
        page.line(level_row(&name, level, &target, &format!("{:.2}", level.score), &rewritten));
        total.runs += level.runs;
        total.files += level.files;
        total.bytes += level.bytes;
        total.traffic.moved_bytes += level.traffic.moved_bytes;
        total.traffic.read_bytes += level.traffic.read_bytes;
        total.traffic.write_bytes += level.traffic.write_bytes;
        total.traffic.probes += level.traffic.probes;
    }
    // What came into the store as a whole is what was flushed.
    total.traffic.in_bytes = levels.first().map_or(0, |level| level.traffic.in_bytes);
    let rewritten = amp(total.traffic.write_amplification());
    page.line(level_row("total", &total, "", "", &rewritten));
}

fn level_row(name: &str, level: &Level, target: &str, score: &str, amp: &str) -> String {
    let (runs, files) = (human_count(level.runs), human_count(level.files));
    let bytes = [
        level.traffic.in_bytes,
        level.traffic.moved_bytes,
        level.traffic.read_bytes,
        level.traffic.write_bytes,
    ];
    let bytes: String = bytes.iter().map(|&bytes| format!("{:>9}", human_size(bytes))).collect();
    let size = human_size(level.bytes);
    let probes = human_count(level.traffic.probes);
    format!("{name:<6}{runs:>6}{files:>7}{size:>9}{target:>9}{score:>7} |{bytes} |{amp:>6}{probes:>9}")
}

pub(super) fn tree_block(page: &mut Page, tree: &BtreeShape) {
    let hits = |hits: u64, misses: u64| ratio(hits, hits + misses);
    // Only where there is something compressed, since the report keeps to a page.
    let saved = match tree.saved_bytes {
        0 => String::new(),
        bytes => format!("saved {}", human_size(bytes)),
    };
    page.block(
        "TREE",
        [
            format!("height {}", tree.height),
            format!("page {}", exact_size(tree.page_bytes)),
            format!("leaf pages {}", human_count(tree.leaf_pages)),
            format!("inner pages {}", human_count(tree.inner_pages)),
            format!("fill {:.0}%", tree.fill * 100.0),
            format!("extents {}", human_size(tree.extent_bytes)),
            format!("free {}", human_size(tree.free_bytes)),
            saved,
            format!("splits {}", human_count(tree.splits)),
            format!("merges {}", human_count(tree.merges)),
            format!("checkpoints {} last {}", human_count(tree.checkpoints), span(tree.checkpoint_time)),
            format!("log since checkpoint {}", human_size(tree.checkpoint_age_bytes)),
            format!("dirty for {}", span(tree.dirty_age)),
            format!("to settle {}", human_size(tree.settle_bytes)),
            format!("waiting {} puts {}", human_count(tree.waiting_puts), human_size(tree.waiting_bytes)),
            format!("recovery {} of {}", span(tree.recovery_time), human_size(tree.recovery_bytes)),
            format!("leaf hits {}", percent(hits(tree.leaf_hits, tree.leaf_misses))),
            format!("inner hits {}", percent(hits(tree.inner_hits, tree.inner_misses))),
            format!("extent hits {}", percent(hits(tree.extent_hits, tree.extent_misses))),
            format!("latch waits {} {}", human_count(tree.latch_waits), span(tree.latch_wait_time)),
        ],
    );
    page_lines(page, "written", &tree.pages.written);
    page_lines(page, "read", &tree.pages.read);
}

/// What passes between the halves of a hybrid.
pub(super) fn hybrid_block(page: &mut Page, hybrid: &HybridShape) {
    page.block(
        "HOT",
        [
            format!("tree {} of {}", human_size(hybrid.hot_bytes), human_size(hybrid.hot_bytes_max)),
            format!("levels {}", human_size(hybrid.cold_bytes)),
            format!("share {}", percent(hybrid.hot_share())),
            format!("reads {}", percent(hybrid.hot_read_share())),
            format!("threshold {}", hybrid.threshold),
            format!("round {}", hybrid.round_time.map_or("-".to_string(), span)),
            if hybrid.demote_held { "held: write release demote".to_string() } else { String::new() },
            format!("demoted {} {}", human_count(hybrid.demoted_entries), human_size(hybrid.demoted_bytes)),
            format!(
                "promoted {} {}",
                human_count(hybrid.promoted_entries),
                human_size(hybrid.promoted_bytes)
            ),
            format!("dropped clean {}", human_count(hybrid.dropped_clean)),
            format!("removed {}", human_count(hybrid.removed_entries)),
            format!("stayed {}", human_count(hybrid.stayed_entries)),
            format!("dropped tombstones {}", human_count(hybrid.dropped_tombstones)),
        ],
    );
}

/// One direction of a tree's pages: bytes by kind, then by cause; what is 0 is left out.
fn page_lines(page: &mut Page, direction: &str, traffic: &PageTraffic) {
    let mut items = vec![direction.to_string()];
    let mut add = |name: &str, count: PageCount| {
        if count.bytes > 0 {
            items.push(format!("{name} {} in {}", human_size(count.bytes), human_count(count.pages)));
        }
    };
    PageKind::ALL.into_iter().for_each(|kind| add(kind.name(), traffic.of_kind(kind)));
    items.push("| for".to_string());
    let mut add = |name: &str, count: PageCount| {
        if count.bytes > 0 {
            items.push(format!("{name} {}", human_size(count.bytes)));
        }
    };
    PageCause::ALL.into_iter().for_each(|cause| add(cause.name(), traffic.of_cause(cause)));
    if items.len() > 2 {
        page.block("PAGES", items);
    }
}

/// What an engine of others says of itself, under its own names. Counters that are 0 are left out.
pub(super) fn statistics(page: &mut Page, sample: &Sample) {
    let shape = &sample.shape;
    let own = |name: &'static str| {
        let rest = name.strip_prefix(shape.engine).and_then(|rest| rest.strip_prefix('.'));
        rest.unwrap_or(name)
    };
    let shown = shape.statistics.iter().filter(|(_, it)| it.value != Amount::Counter(Some(0)));
    let items: Vec<String> = shown
        .map(|(name, statistic)| {
            let number = statistic.value.number().map(|number| match statistic.unit {
                "bytes" => human_size(number),
                "bytes/s" => human_size(number) + "/s",
                "us" => span(Duration::from_micros(number)),
                _ => human_count(number),
            });
            format!("{} {}", own(name), number.as_deref().unwrap_or("-"))
        })
        .collect();
    if !items.is_empty() {
        page.block("ENGINE", items);
    }
}

/// Requests to the object store, where the engine's files are objects.
pub(super) fn store(page: &mut Page, sample: &Sample) {
    let Some(cost) = Cost::of(sample) else { return };
    let requests = cost.requests();
    let always = [
        ("PUT", requests.puts),
        ("GET", requests.gets),
        ("HEAD", requests.heads),
        ("LIST", requests.lists),
        ("DELETE", requests.deletes),
    ];
    let sometimes =
        [("missing", requests.missing), ("refused", requests.refused), ("failed", requests.failed)];
    let shown = sometimes.into_iter().filter(|(_, count)| *count > 0);
    let items = always.into_iter().chain(shown).map(|(name, count)| format!("{name} {}", human_count(count)));
    page.block("STORE", items.collect::<Vec<_>>());
    if let Some(price) = cost.price() {
        let stored = cost.stored_bytes().map(|bytes| format!(" ({})", human_size(bytes)));
        page.block(
            "",
            [
                format!("cost {}/hour", dollars(cost.usd_per_hour())),
                format!("{}/month", dollars(cost.usd_per_month())),
                format!("so far {}", dollars(cost.usd_of_requests())),
                format!(
                    "storage {}/month{}",
                    dollars(cost.storage_usd_per_month()),
                    stored.unwrap_or_default()
                ),
                format!("prices {}", tail(price, PATH_COLUMNS)),
            ],
        );
    }
    let head = ["PUT", "GET", "HEAD", "LIST", "DELETE"].map(|kind| format!("{kind:>8}")).concat();
    page.line(format!("        {:<15}{head}{:>10}{:>10}{:>13}", "by purpose", "written", "read", "cost"));
    let by_purpose = Purpose::all().map(|purpose| (purpose.name(), cost.of_purpose(purpose).1));
    by_purpose.filter(|(_, charge)| charge.requests() > 0).for_each(|row| request_row(page, &cost, row));
    let mut by_operation: Vec<_> = cost.operations().filter(|(_, charge)| charge.requests() > 0).collect();
    by_operation.sort_by_key(|(_, charge)| std::cmp::Reverse(charge.requests()));
    page.line("        by operation");
    by_operation.iter().take(PAYERS_MAX).for_each(|row| request_row(page, &cost, *row));
    if let Some(others) = by_operation.len().checked_sub(PAYERS_MAX).filter(|others| *others > 0) {
        page.line(format!("          ... {others} more in .stats.d/ops"));
    }
}

/// Requests of one purpose, or for one operation.
fn request_row(page: &mut Page, cost: &Cost<'_>, (name, charge): (&str, Charge)) {
    let counts = [charge.puts, charge.gets, charge.heads, charge.lists, charge.deletes];
    let counts = counts.map(|count| format!("{:>8}", human_count(count))).concat();
    let bytes = [charge.write_bytes, charge.read_bytes].map(|bytes| format!("{:>10}", human_size(bytes)));
    page.line(format!("          {name:<13}{counts}{}{:>13}", bytes.concat(), dollars(cost.usd(&charge))));
}

/// What the witness below the engine saw, and a line for each class of file of which there is something to say.
pub(super) fn witness(page: &mut Page, sample: &Sample) {
    let Some(below) = &sample.below_engine else { return };
    let (written, app) = (human_size(below.write_bytes()), human_size(sample.app_write_bytes()));
    let over_kernel = below.kernel_write_bytes.and_then(|kernel| ratio(below.write_bytes(), kernel));
    page.block(
        "WITNESS",
        [
            format!("write {} = {written} / {app} app", amp(sample.witnessed_write_amp())),
            format!("read {}", human_size(below.read_bytes())),
            format!("syncs {}", human_count(below.syncs())),
            format!("directories {}", human_count(below.directory_syncs)),
            format!("errors {}", human_count(below.errors())),
            below.kernel_write_bytes.map_or("kernel -".to_string(), |bytes| {
                format!("kernel {} ({})", human_size(bytes), percent(over_kernel))
            }),
            below.age.map_or(String::new(), |age| format!("{} ago", span(age))),
        ],
    );
    if let Some(how) = &below.end {
        page.line(format!("        ENDED ({how}): what the engine asks of its files fails; mount again"));
    }
    for (class, of) in below.by_class.iter() {
        if of.writes + of.reads + of.syncs + of.errors > 0 {
            page.block(
                "",
                [
                    format!("{:<9}", class.name()),
                    format!("written {} in {}", human_size(of.write_bytes), human_count(of.writes)),
                    format!("read {} in {}", human_size(of.read_bytes), human_count(of.reads)),
                    format!("syncs {}", human_count(of.syncs)),
                    if of.errors > 0 { format!("errors {}", human_count(of.errors)) } else { String::new() },
                ],
            );
        }
    }
}

/// The recording that goes on, or went on last.
pub(super) fn recording(page: &mut Page, recording: &RecordingSection) {
    let state = match (&recording.cause, recording.state) {
        (Some(cause), state) => format!("{state}: {}", ascii(cause)),
        (None, "image") => format!("image so far {} entries", human_count(recording.image_entries)),
        (None, _) => "on".to_string(),
    };
    let dropped = match recording.dropped {
        0 => String::new(),
        dropped => format!("MISSING {}", human_count(dropped)),
    };
    page.block(
        "RECORD",
        [
            state,
            format!("events {}", human_count(recording.events)),
            dropped,
            format!("{} in {}", human_size(recording.bytes), tail(&recording.path, PATH_COLUMNS)),
        ],
    );
}

pub(super) fn jobs(page: &mut Page, sample: &Sample) {
    let jobs = &sample.shape.jobs;
    for (index, job) in jobs.iter().take(JOBS_MAX).enumerate() {
        page.line(format!("{:<8}{job}", if index == 0 { "JOBS" } else { "" }));
    }
    if jobs.len() > JOBS_MAX {
        page.line(format!("{:<8}... {} more", "", jobs.len() - JOBS_MAX));
    }
}
