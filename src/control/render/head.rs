//! The head of the report: the mount and its state, amplification, and traffic at the disk.

use super::super::figures::{amp, clock, human_count, percent, span, tail};
use super::super::stats::{Base, Report, Sample, State};
use super::engine::of_levels;
use super::page::{COLUMNS, Page};
use crate::base::text::{exact_size, human_size, timestamp};
use crate::disk::{Counters, Purpose};
use crate::engine::{Probes, Promise};

/// Probes of a mean read above which reads are called dear.
const RED_PROBES: f64 = 6.0;

/// Files in L0 from which reads are said to be under pressure.
const PRESSURE_L0_FILES: u64 = 4;

pub(super) fn head(page: &mut Page, report: &Report) {
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

pub(super) fn amplification(page: &mut Page, report: &Report) {
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
    let known = |bytes: Option<u64>| bytes.map_or("-".to_string(), human_size);
    let passed = |bytes| known(sample.metered(bytes));
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
    let physical = known(Some(report.physical.bytes).filter(|_| !report.physical.is_partial));
    let live = human_size(report.live_bytes());
    let operands = match report.physical.shared_bytes {
        Some(shared) if shared > 0 => {
            format!("{physical} physical, {} of it shared / {live} live", human_size(shared))
        }
        _ => format!("{physical} physical / {live} live (apparent {})", human_size(usage.apparent_bytes)),
    };
    page.line(format!("  {:<18}{blanks}{:>11}   {operands}", "space", amp(report.space_amp())));
    let shape = &sample.shape;
    let probes = shape.probes.as_ref();
    let value = |share| {
        let value: Option<u64> = probes.and_then(|probes| probes.buckets.quantile(share));
        value.map_or("-".to_string(), |value| value.to_string())
    };
    let runs = |share| {
        shape.scan_runs.buckets.quantile(share).map_or("-".to_string(), |value: u64| value.to_string())
    };
    page.block(
        "PROBES",
        [
            format!("gets {}", probes.map_or("-".to_string(), |probes| human_count(probes.count()))),
            format!("mean {}", amp(probes.and_then(Probes::mean))),
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

/// A warning when reads are expensive: files in L0, each of which a read may have to ask, and probes in the shortest window.
fn warning(report: &Report) -> String {
    let lately = report.windows.first().and_then(|window| window.growth.shape.probes.as_ref()?.mean());
    if lately.is_some_and(|probes| probes > RED_PROBES) {
        format!("| RED: more than {RED_PROBES} probes a get")
    } else if report.sample.shape.debt.l0_files >= PRESSURE_L0_FILES {
        format!("| PRESSURE: {PRESSURE_L0_FILES} or more files in L0")
    } else {
        String::new()
    }
}

/// Bytes written to and read from the disk, by purpose; merges into one level or another are told apart in the table.
pub(super) fn by_cause(page: &mut Page, sample: &Sample) {
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
        let (bytes, requests) = of(&total);
        let each = mean((bytes, requests));
        let all = format!("| {} in {} requests of {each}", human_size(bytes), human_count(requests));
        let items = || named.map(item).chain([all]).collect();
        page.block(head, sample.metered(()).map_or_else(|| vec!["-".to_string()], |()| items()));
    };
    block("WRITTEN", |counters| (counters.write_bytes, counters.writes));
    block("READ", |counters| (counters.read_bytes, counters.reads));
    let syncs = sample.metered(total.syncs).map_or("-".to_string(), human_count);
    let mut items = vec![format!("{syncs} by the disk")];
    if let Some(process) = sample.process {
        let share = sample.by_disk(process.write_bytes, total.write_bytes).map(|share| share - 1.0);
        let against = share.map_or("-".to_string(), |share| format!("{:+.1}%", share * 100.0));
        let write = human_size(process.write_bytes);
        items.push(format!("| /proc/self/io wrote {write} ({against} of WRITTEN)"));
        items.push(format!("read {}", human_size(process.read_bytes)));
    }
    page.block("SYNCS", items);
}

/// What a crash leaves and what follows a full disk; what is weaker than with our engines stands behind it, with the way out.
pub(super) fn promise(page: &mut Page, promise: &Promise) {
    let kept = [
        (promise.prefix, "power cut: a prefix of the history"),
        (promise.survives_kill, "kill -9: everything written"),
        (promise.survives_full_disk, "full disk: goes on with room"),
    ];
    let items = kept.into_iter().filter(|(is_kept, _)| *is_kept).map(|(_, what)| what.to_string());
    let less = [promise.weaker, promise.way_out].into_iter().flatten().map(|text| format!("| {text}"));
    page.block("PROMISE", items.chain(less));
}
