//! A report for people: at most 100 columns and about 60 lines of ASCII, no colour, no trailing spaces.
//!
//! The lines down to the tables of the engine are the same for every engine, so two reports can be laid side by side.
//! Every ratio stands beside its two operands; `-` means that there is no denominator. Sizes are binary (`KiB`), counts
//! decimal (`12.4K`).

use std::time::Duration;

use super::figures::{amp, ascii, clock, human_count, percent, span, tail, timestamp};
use super::forecast;
use super::stats::{Base, Report, Sample, State};
use crate::attribution::Tally;
use crate::base::metric::ratio;
use crate::base::text::{exact_size, human_size};
use crate::disk::{Counters, Purpose};
use crate::engine::cache::CacheKind;
use crate::engine::{BtreeShape, Cause, Level, PageCause, PageCount, PageKind, PageTraffic, Shape, Work};
use crate::fs::meter::Op;

/// Columns of a line at most.
const COLUMNS: usize = 100;
/// Rows of the table of operations at most; those with the most calls are shown.
const OPERATIONS_MAX: usize = 14;
/// Processes, and names, at most.
const MOVERS_MAX: usize = 4;
/// Probes of a mean read above which reads are called dear.
const RED_PROBES: f64 = 6.0;
/// Files in L0 from which reads are said to be under pressure.
const PRESSURE_L0_FILES: u64 = 4;
/// Lines of background jobs at most.
const JOBS_MAX: usize = 4;

/// The whole report.
pub fn text(report: &Report) -> String {
    let mut page = Page::default();
    head(&mut page, report);
    amplification(&mut page, report);
    by_cause(&mut page, &report.sample);
    debt(&mut page, report);
    stalls(&mut page, &report.sample);
    level_table(&mut page, &report.sample);
    if let Some(tree) = &report.sample.shape.tree {
        tree_block(&mut page, tree);
    }
    forecast_block(&mut page, report);
    jobs(&mut page, &report.sample);
    operations(&mut page, &report.sample);
    kinds(&mut page, report);
    movers(&mut page, report);
    page.0
}

/// The table of levels, or the figures of the tree: a header line and rows in base units, for `awk`.
pub fn levels(report: &Report) -> String {
    let mut page = Page::default();
    let shape = &report.sample.shape;
    if let Some(tree) = &shape.tree {
        page.line(
            "height page_bytes leaf_pages inner_pages extent_bytes free_bytes fill splits merges checkpoints",
        );
        let pages = format!("{} {} {} {}", tree.height, tree.page_bytes, tree.leaf_pages, tree.inner_pages);
        let bytes = format!("{} {} {:.3}", tree.extent_bytes, tree.free_bytes, tree.fill);
        page.line(format!("{pages} {bytes} {} {} {}", tree.splits, tree.merges, tree.checkpoints));
    } else {
        page.line(
            "level runs files bytes target_bytes score in_bytes moved_bytes read_bytes write_bytes probes",
        );
        for level in &shape.levels {
            let size = format!("{} {} {} {}", level.runs, level.files, level.bytes, level.target_bytes);
            let moved = format!(
                "{} {} {}",
                level.traffic.in_bytes, level.traffic.moved_bytes, level.traffic.read_bytes
            );
            page.line(format!(
                "{} {size} {:.3} {moved} {} {}",
                level.level, level.score, level.traffic.write_bytes, level.traffic.probes
            ));
        }
    }
    page.0
}

/// Lines that keep to the page.
#[derive(Default)]
struct Page(String);

impl Page {
    /// Adds a line: ASCII, cut at the last column, without trailing spaces.
    fn line(&mut self, line: impl AsRef<str>) {
        let line = ascii(line.as_ref());
        let line = line.trim_end();
        if line.len() > COLUMNS {
            self.0 += line[..COLUMNS - 3].trim_end();
            self.0 += "...";
        } else {
            self.0 += line;
        }
        self.0.push('\n');
    }

    /// Adds a block: a head in the first eight columns and items beside it, on as many lines as they need.
    fn block(&mut self, head: &str, items: impl IntoIterator<Item = String>) {
        let mut line = format!("{head:<8}");
        let mut empty = true;
        for item in items.into_iter().filter(|item| !item.is_empty()) {
            if !empty && line.len() + 2 + item.len() > COLUMNS {
                self.line(&line);
                line = " ".repeat(8);
                empty = true;
            }
            if !empty {
                line += "  ";
            }
            line += &item;
            empty = false;
        }
        self.line(&line);
    }
}

fn head(page: &mut Page, report: &Report) {
    let mount = &report.mount;
    let shape = &report.sample.shape;
    let name = report.state.name();
    // The failure behind a state is a sentence and has the third line for itself.
    let (state, sentence) = match &report.state {
        State::Ok => (name.to_string(), String::new()),
        State::Throttled(cause) | State::Stalled(cause) => (format!("{name}({cause})"), String::new()),
        State::Damaged(cause) | State::Refusing(cause) | State::ReadOnly(cause) => {
            (name.to_string(), format!("{name}  {cause}"))
        }
    };
    page.line(format!(
        "kvfs {}  engine={}-{}  up {}  {}  state={state}",
        mount.version,
        shape.engine,
        shape.variant,
        clock(report.uptime),
        timestamp(report.time),
    ));
    let rest = format!(
        "pid {}  block={}  sync={}  writeback_cache={}",
        mount.pid,
        exact_size(mount.block_bytes),
        mount.sync,
        if mount.writeback_cache { "on" } else { "off" },
    );
    // The paths share what the rest leaves; the end of a long path says more than its beginning.
    let room = COLUMNS.saturating_sub(rest.len() + "store   mount   ".len()) / 2;
    page.line(format!(
        "store {}  mount {}  {rest}",
        tail(&mount.store_path, room),
        tail(&mount.mount_path, room)
    ));
    page.line(sentence);
}

fn amplification(page: &mut Page, report: &Report) {
    let base = match &report.base {
        Base::Mount => "mount".to_string(),
        Base::Mark(name) => name.chars().take(10).collect(),
    };
    let columns: String = report.windows.iter().map(|window| format!("{:>8}", window.name)).collect();
    let since = match &report.base {
        Base::Mount => "since the mount".to_string(),
        Base::Mark(name) => format!("since mark {name}, {} ago", span(report.sample.elapsed)),
    };
    page.line(format!("{:<20}{columns}{base:>11}   = physical / logical, {since}", "AMPLIFICATION"));
    let mut row = |name: &str, of: fn(&Sample) -> Option<f64>, operands: String| {
        let windows: String =
            report.windows.iter().map(|window| format!("{:>8}", amp(of(&window.growth)))).collect();
        page.line(format!("  {name:<18}{windows}{:>11}   {operands}", amp(of(&report.sample))));
    };
    let sample = &report.sample;
    let written = human_size(sample.app_write_bytes());
    let read = human_size(sample.app_read_bytes());
    let kv = human_size(sample.kv_write_bytes());
    let passed = |bytes| if sample.is_unmetered { "-".to_string() } else { human_size(bytes) };
    let disk = passed(sample.disk_write_bytes());
    let no_wal = passed(sample.no_wal_write_bytes());
    row("write total", Sample::write_amp, format!("{disk} disk / {written} app"));
    row("  fs", Sample::fs_write_amp, format!("{kv} kv / {written} app"));
    row("  engine", Sample::engine_write_amp, format!("{disk} disk / {kv} kv"));
    row("read total", Sample::read_amp, format!("{} disk / {read} app", passed(sample.disk_read_bytes())));
    let fetched = passed(sample.foreground_read_bytes());
    row("  get and scan", Sample::foreground_read_amp, format!("{fetched} for gets and scans / {read} app"));
    row("write without log", Sample::write_amp_no_wal, format!("{no_wal} disk / {written} app"));
    let blanks: String = report.windows.iter().map(|_| format!("{:>8}", "-")).collect();
    let usage = &report.usage;
    page.line(format!(
        "  {:<18}{blanks}{:>11}   {} physical / {} live (apparent {})",
        "space",
        amp(report.space_amp()),
        passed(report.physical.bytes),
        human_size(report.live_bytes()),
        human_size(usage.apparent_bytes),
    ));
    let shape = &sample.shape;
    let value =
        |share| shape.probes.buckets.quantile(share).map_or("-".to_string(), |value: u64| value.to_string());
    let runs = |share| {
        shape.scan_runs.buckets.quantile(share).map_or("-".to_string(), |value: u64| value.to_string())
    };
    page.block(
        "PROBES",
        [
            format!("gets {}", human_count(shape.probes.count())),
            format!("mean {}", amp(shape.probes.mean())),
            format!("p50 {}", value(0.5)),
            format!("p99 {}", value(0.99)),
            format!("max {}", value(1.0)),
            of_levels(shape, || format!("| scans {}", human_count(shape.scan_runs.count()))),
            of_levels(shape, || format!("runs p50 {} max {}", runs(0.5), runs(1.0))),
            of_levels(shape, || {
                let (useful, checks) = (shape.filter.useful, shape.filter.checks);
                format!("| filter saved {} of {}", human_count(useful), human_count(checks))
            }),
            of_levels(shape, || format!("false {}", percent(shape.filter.false_positive_share()))),
            warning(report),
        ],
    );
}

/// What makes reads dear now: files in L0, each of which a read may have to ask, and probes in the shortest window.
fn warning(report: &Report) -> String {
    let lately = report.windows.first().and_then(|window| window.growth.shape.probes.mean());
    if lately.is_some_and(|probes| probes > RED_PROBES) {
        format!("| RED: more than {RED_PROBES} probes a get")
    } else if report.sample.shape.debt.l0_files >= PRESSURE_L0_FILES {
        format!("| PRESSURE: {PRESSURE_L0_FILES} or more files in L0")
    } else {
        String::new()
    }
}

/// What went to the disk and came from it, by purpose; merges into one level or another are told apart in the table.
fn by_cause(page: &mut Page, sample: &Sample) {
    let total = sample.disk.total();
    let mut causes: Vec<(&str, Counters)> = Vec::new();
    for purpose in Purpose::all() {
        match purpose {
            Purpose::Compact { into: 0 } => causes.push(("compaction", sample.compaction())),
            Purpose::Compact { .. } => {}
            other => causes.push((other.name(), sample.disk.of(other))),
        }
    }
    let mut block = |head: &str, of: fn(&Counters) -> (u64, u64)| {
        let mean =
            |(bytes, requests): (u64, u64)| bytes.checked_div(requests).map_or("-".to_string(), human_size);
        let named =
            causes.iter().map(|(name, counters)| (name, of(counters))).filter(|(_, (bytes, _))| *bytes > 0);
        let item = |(name, (bytes, requests))| {
            let each = mean((bytes, requests));
            format!("{name} {} ({} of {each})", human_size(bytes), human_count(requests))
        };
        let mut items: Vec<String> = named.map(item).collect();
        let (bytes, requests) = of(&total);
        let each = mean((bytes, requests));
        items.push(format!("| {} in {} requests of {each}", human_size(bytes), human_count(requests)));
        page.block(head, items);
    };
    block("WRITTEN", |counters| (counters.write_bytes, counters.writes));
    block("READ", |counters| (counters.read_bytes, counters.reads));
    let mut items = vec![format!("{} by the disk", human_count(total.syncs))];
    if let Some(process) = sample.process {
        let share = ratio(process.write_bytes, total.write_bytes).map(|share| share - 1.0);
        let against = share.map_or("-".to_string(), |share| format!("{:+.1}%", share * 100.0));
        let write = human_size(process.write_bytes);
        items.push(format!("| /proc/self/io wrote {write} ({against} of WRITTEN)"));
        items.push(format!("read {}", human_size(process.read_bytes)));
    }
    page.block("SYNCS", items);
}

/// What only an LSM-tree has to say; nothing of other engines.
fn of_levels(shape: &Shape, item: impl FnOnce() -> String) -> String {
    if shape.levels.is_empty() { String::new() } else { item() }
}

fn debt(page: &mut Page, report: &Report) {
    let shape = &report.sample.shape;
    let debt = &shape.debt;
    page.block(
        "DEBT",
        [
            of_levels(shape, || format!("l0-files {}/{}", debt.l0_files, debt.l0_trigger)),
            of_levels(shape, || format!("compaction {}", human_size(debt.pending_compaction_bytes))),
            match &shape.tree {
                None => format!("dirty {}", human_size(debt.dirty_bytes)),
                Some(_) => format!(
                    "dirty {} of {}",
                    human_size(debt.dirty_bytes),
                    human_size(shape.memory.dirty_bytes_max)
                ),
            },
            format!("unsynced {} oldest {}", human_size(debt.unsynced_bytes), span(debt.oldest_unsynced)),
            format!("replay {}", human_size(debt.replay_bytes)),
            of_levels(shape, || match debt.oldest_tombstone {
                Some(age) => format!("tombstones {} oldest {}", human_count(debt.tombstones), span(age)),
                None => format!("tombstones {}", human_count(debt.tombstones)),
            }),
            format!("reclaim {}", human_size(report.usage.reclaim_pending_bytes)),
            format!("orphans {}", human_count(report.usage.orphans)),
            of_levels(shape, || format!("obsolete {}", human_size(shape.space.obsolete_bytes))),
            of_levels(shape, || {
                format!(
                    "temporary {} peak {}",
                    human_size(shape.space.temporary_bytes),
                    human_size(shape.space.temporary_peak_bytes)
                )
            }),
        ],
    );
    let values = &shape.value_log;
    if values.live_bytes + values.bytes > 0 {
        page.block(
            "VALUES",
            [
                format!("in log {} live", human_size(values.live_bytes)),
                format!("kept {} in {} segments", human_size(values.bytes), values.segments),
                format!("moved {}", human_size(values.moved_bytes)),
            ],
        );
    }
}

/// The debt of each level, and the models beside what was measured; at the end, because it differs between engines.
fn forecast_block(page: &mut Page, report: &Report) {
    let rows = forecast::debt(&report.sample);
    if rows.is_empty() {
        return;
    }
    let total: f64 = rows.iter().map(|row| row.debt_bytes).sum();
    let mut items: Vec<String> = rows
        .iter()
        .map(|row| {
            format!("{} {}x{}", row.level, human_size(row.bytes as u64), amp(Some(row.pending_write_amp)))
        })
        .collect();
    items.push(format!(
        "| to write {} of at most {}",
        human_size(total as u64),
        human_size(forecast::debt_max(&report.sample) as u64)
    ));
    let settle = forecast::settle_seconds(report).map(Duration::from_secs_f64);
    items.push(format!("settles in {}", settle.map_or("-".to_string(), span)));
    let cpu = forecast::cpu_seconds(&report.sample, total).map(Duration::from_secs_f64);
    items.push(format!("cpu {}", cpu.map_or("-".to_string(), span)));
    page.block("OWED", items);
    let works = Work::ALL.into_iter().filter_map(|work| {
        let nanos = report.sample.shape.cpu.of(work).ns_per_byte()?;
        Some(format!("{} {nanos:.2}", work.name()))
    });
    let works: Vec<String> = works.collect();
    if !works.is_empty() {
        page.block("CPU", ["ns a byte".to_string()].into_iter().chain(works));
    }
    if let Some(forecast) = forecast::forecast(report) {
        let measured = report.sample.engine_write_amp_no_wal();
        page.block(
            "MODEL",
            [
                format!("{} of {} levels", forecast.layout, forecast.levels),
                format!("write {} half-ratio", amp(Some(forecast.write_amp_half_ratio))),
                format!("{} debt", amp(Some(forecast.write_amp_debt))),
                format!("measured {}", amp(measured)),
                format!("| lookup {}", human_size(forecast.lookup_bytes as u64)),
                format!("space {} measured {}", amp(forecast.space_amp), amp(report.space_amp())),
            ],
        );
    }
}

fn stalls(page: &mut Page, sample: &Sample) {
    let stalls = &sample.shape.stalls;
    let all = || stalls.by_cause.iter();
    let mut items = vec![
        format!("now {}", stalls.now.map_or("none", Cause::name)),
        format!("slowdowns {}", human_count(stalls.slowdowns())),
        format!("stops {}", human_count(stalls.stops())),
        format!("waited {}", span(all().map(|(_, cause)| cause.waited).sum())),
        format!("longest {}", span(all().map(|(_, cause)| cause.longest).max().unwrap_or_default())),
    ];
    for (cause, counters) in all().filter(|(_, counters)| counters.times() > 0) {
        items.push(format!("| {cause} {} {}", human_count(counters.times()), span(counters.waited)));
    }
    if let Some(why) = &stalls.limits_off {
        items.push(format!("| l0 stop off ({why})"));
    }
    page.block("STALL", items);
}

fn level_table(page: &mut Page, sample: &Sample) {
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

fn tree_block(page: &mut Page, tree: &BtreeShape) {
    let hits = |hits: u64, misses: u64| ratio(hits, hits + misses);
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

fn jobs(page: &mut Page, sample: &Sample) {
    let jobs = &sample.shape.jobs;
    for (index, job) in jobs.iter().take(JOBS_MAX).enumerate() {
        page.line(format!("{:<8}{job}", if index == 0 { "JOBS" } else { "" }));
    }
    if jobs.len() > JOBS_MAX {
        page.line(format!("{:<8}... {} more", "", jobs.len() - JOBS_MAX));
    }
}

fn operations(page: &mut Page, sample: &Sample) {
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

fn kinds(page: &mut Page, report: &Report) {
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
            format!("| memory {} of {}", human_size(memory.used_bytes), human_size(memory.limit_bytes)),
            of_levels(shape, || format!("resident {}", human_size(memory.resident_bytes))),
            of_levels(shape, || format!("memtables {}", human_size(memory.memtable_bytes))),
            format!("inodes {}", human_count(report.usage.inodes)),
        ],
    );
}

/// Who moved most content, and below which name in the root.
fn movers(page: &mut Page, report: &Report) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_to_the_page() {
        let mut page = Page::default();
        page.line("a  ");
        page.line("\u{e9}\u{2192}\n".to_string() + &"x".repeat(200));
        page.block("HEAD", (0..30).map(|n| format!("item {n}")));
        for line in page.0.lines() {
            assert!(line.len() <= COLUMNS && line.is_ascii() && line.trim_end() == line, "{line:?}");
        }
        assert!(page.0.starts_with("a\n?->?xxx") && page.0.contains("\n        item 1"));
    }
}
