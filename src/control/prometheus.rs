//! The report as Prometheus text exposition 0.0.4: counters that only grow, gauges, and histograms with cumulative buckets. Ratios
//! are left to queries, which can take them over any span.
//!
//! A family comes from a row: `kvfs_`, the parts on the way to it, its name, times in seconds, `_total` if it is a counter; names of
//! maps and labels of lists are labels. A row may name another family. By hand are made what no row is: the table of a B-tree's
//! pages by kind and cause, keys by file operation, latencies.

use std::collections::HashMap;
use std::fmt::{Display, Write};

use super::document::Document;
use super::stats::Report;
use super::witnessed::WitnessDocument;
use crate::base::metric::{MetricKind, PartKind, Row, Rows, Unit, Value, Visitor};
use crate::engine::{Amount, PageCause, PageKind, PageTraffic, Shape};
use crate::fs::operation::Op;

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

/// Prints `report`; `latencies` are the distributions of each operation, in the order of [`Op::ALL`].
pub(super) fn prometheus(report: &Report, latencies: &[Vec<(u64, u64)>]) -> String {
    let mut page = Exposition::default();
    let shape = &report.sample.shape;
    let labels = [("version", &*report.mount.version), ("engine", shape.engine), ("variant", shape.variant)];
    page.family("kvfs_info", "gauge", "Always 1; what is mounted.").sample("", &list(&labels), 1);
    Document::of(report).visit_rows(&mut page);
    operations(&mut page, report);
    if let Some(tree) = &shape.tree {
        page_bytes(
            &mut page,
            "kvfs_page_read_bytes_total",
            "Bytes of a B-tree's pages read.",
            &tree.pages.read,
        );
        let help = "Bytes of a B-tree's pages and of copies of them written.";
        page_bytes(&mut page, "kvfs_page_written_bytes_total", help, &tree.pages.written);
    }
    statistics(&mut page, shape);
    let latencies: Vec<_> = Op::ALL.iter().map(|op| op.name()).zip(latencies).collect();
    let name = "kvfs_fs_op_duration_seconds";
    durations(&mut page, name, "From a request to its answer.", "op", &latencies);
    page.text()
}

/// Prints a witness's report; `latencies` are the distributions of syncs by class.
pub(super) fn of_witness(
    document: &WitnessDocument,
    version: &str,
    latencies: &[(&str, &Vec<(u64, u64)>)],
) -> String {
    let mut page = Exposition::default();
    let labels = [("version", version), ("patterns", &*document.patterns)];
    page.family("kvfs_witness_info", "gauge", "Always 1; what is mounted.").sample("", &list(&labels), 1);
    document.visit_rows(&mut page);
    durations(&mut page, "kvfs_witness_sync_duration_seconds", "Of a sync.", "class", latencies);
    page.text()
}

/// Any rows as text.
pub fn exposition(rows: &impl Rows) -> String {
    let mut page = Exposition::default();
    rows.visit_rows(&mut page);
    page.text()
}

/// The family of a row that stands below these parts.
pub fn family<'a>(parts: impl Iterator<Item = &'a str>, row: &Row) -> String {
    let mut name = String::new();
    name_family(&mut name, parts, row);
    name
}

fn name_family<'a>(name: &mut String, parts: impl Iterator<Item = &'a str>, row: &Row) {
    name.clear();
    if let Some(family) = row.family {
        return name.push_str(family);
    }
    *name += "kvfs";
    for part in parts {
        *name += "_";
        *name += part;
    }
    let stem = match row.unit {
        Unit::Nanoseconds => row.name.strip_suffix("_ns"),
        Unit::Milliseconds => row.name.strip_suffix("_ms"),
        _ => None,
    };
    *name += "_";
    *name += stem.unwrap_or(row.name);
    if matches!(row.unit, Unit::Nanoseconds | Unit::Milliseconds) {
        *name += "_seconds";
    }
    if row.kind == MetricKind::Counter {
        *name += "_total";
    }
}

/// Whether a row is in this output.
pub fn is_exposed(row: &Row) -> bool {
    match row.kind {
        MetricKind::Counter | MetricKind::Gauge => row.unit != Unit::None || row.family.is_some(),
        MetricKind::Derived => row.family.is_some(),
        MetricKind::Text | MetricKind::Label | MetricKind::Part => false,
    }
}

/// Samples of one name.
struct Family {
    name: String,
    kind: &'static str,
    help: &'static str,
    samples: String,
}

impl Family {
    /// Adds a sample; `suffix` stands behind the name, `labels` are those of [`list`].
    fn sample(&mut self, suffix: &str, labels: &str, value: impl Display) {
        let (open, close) = if labels.is_empty() { ("", "") } else { ("{", "}") };
        // Writing to a string cannot fail.
        let _ = writeln!(self.samples, "{}{suffix}{open}{labels}{close} {value}", self.name);
    }

    /// A sample of a cumulative bucket, with the label `le` behind the others.
    fn bucket(&mut self, labels: &str, le: impl Display, count: u64) {
        let comma = if labels.is_empty() { "" } else { "," };
        let _ = writeln!(self.samples, "{}_bucket{{{labels}{comma}le=\"{le}\"}} {count}", self.name);
    }
}

/// Labels as text.
fn list(labels: &[(&str, &str)]) -> String {
    let mut text = String::new();
    labels.iter().for_each(|(label, value)| add_label(&mut text, label, value));
    text
}

fn add_label(text: &mut String, label: &str, value: &str) {
    if !text.is_empty() {
        text.push(',');
    }
    *text += label;
    *text += "=\"";
    for c in value.chars() {
        match c {
            '\\' | '"' => text.extend(['\\', c]),
            '\n' => *text += "\\n",
            _ => text.push(c),
        }
    }
    text.push('"');
}

/// Families in the order in which they came, and where the walk over the rows is.
#[derive(Default)]
struct Exposition {
    families: Vec<Family>,
    places: HashMap<String, usize>,
    /// Parts and items that have begun.
    open: Vec<Frame>,
    /// Labels of these, as text.
    labels: String,
    /// The name of the family at hand; kept so that it is made in the same place again and again.
    name: String,
}

/// A part or item that has begun.
struct Frame {
    /// The part's row and shape; `None` for an item, which has no place in a family's name.
    part: Option<(&'static Row, PartKind)>,
    /// Length of the text of labels before it.
    labels: usize,
}

impl Exposition {
    fn family(&mut self, name: &str, kind: &'static str, help: &'static str) -> &mut Family {
        let place = match self.places.get(name) {
            Some(place) => *place,
            None => {
                self.places.insert(name.to_string(), self.families.len());
                self.families.push(Family { name: name.to_string(), kind, help, samples: String::new() });
                self.families.len() - 1
            }
        };
        &mut self.families[place]
    }

    fn text(self) -> String {
        let families = || self.families.iter().filter(|family| !family.samples.is_empty());
        let head = |family: &Family| 2 * family.name.len() + family.help.len() + 32;
        let length = families().map(|family| head(family) + family.samples.len()).sum();
        let mut text = String::with_capacity(length);
        for Family { name, kind, help, samples } in families() {
            // Writing to a string cannot fail.
            let _ = write!(text, "# HELP {name} {}\n# TYPE {name} {kind}\n{samples}", help.trim());
        }
        text
    }
}

impl Visitor for Exposition {
    fn value(&mut self, row: &'static Row, value: Value<'_>) {
        if row.kind == MetricKind::Label {
            return match value {
                Value::Text(text) | Value::Named(_, text) => add_label(&mut self.labels, row.name, text),
                Value::Count(count) => add_label(&mut self.labels, row.name, &count.to_string()),
                _ => add_label(&mut self.labels, row.name, ""),
            };
        }
        if !is_exposed(row) {
            return;
        }
        let mut name = std::mem::take(&mut self.name);
        name_family(&mut name, self.open.iter().filter_map(|frame| Some(frame.part?.0.name)), row);
        let labels = std::mem::take(&mut self.labels);
        let seconds = match row.unit {
            Unit::Nanoseconds => 1e9,
            Unit::Milliseconds => 1e3,
            _ => 1.0,
        };
        let kind = match value {
            Value::Buckets(_) => "histogram",
            _ if name.ends_with("_total") => "counter",
            _ => "gauge",
        };
        let family = self.family(&name, kind, row.help);
        match value {
            Value::Count(count) if seconds > 1.0 => family.sample("", &labels, count as f64 / seconds),
            Value::Count(count) => family.sample("", &labels, count),
            Value::Real(number) => family.sample("", &labels, number / seconds),
            Value::Flag(flag) => family.sample("", &labels, u8::from(flag)),
            Value::Buckets(buckets) => histogram(family, &labels, buckets),
            Value::Absent | Value::Text(_) | Value::Named(..) | Value::Texts(_) => {}
        }
        (self.name, self.labels) = (name, labels);
    }
    fn begin(&mut self, row: &'static Row, shape: PartKind) {
        self.open.push(Frame { part: Some((row, shape)), labels: self.labels.len() });
    }
    fn item(&mut self, name: &str) {
        let map = self.open.last().and_then(|frame| frame.part);
        self.open.push(Frame { part: None, labels: self.labels.len() });
        if let Some((_, PartKind::Map(sort))) = map {
            add_label(&mut self.labels, sort.label, name);
        }
    }
    fn end(&mut self) {
        if let Some(frame) = self.open.pop() {
            self.labels.truncate(frame.labels);
        }
    }
}

/// Small counts: bucket i counts the value i, the last one everything above.
fn histogram(family: &mut Family, labels: &str, buckets: &[u64]) {
    let mut count = 0;
    for (value, bucket) in buckets.iter().enumerate().take(buckets.len().saturating_sub(1)) {
        count += bucket;
        family.bucket(labels, value, count);
    }
    let all: u64 = buckets.iter().sum();
    family.bucket(labels, "+Inf", all);
    let sum: u64 = buckets.iter().zip(0..).map(|(count, value)| count * value).sum();
    family.sample("_sum", labels, sum);
    family.sample("_count", labels, all);
}

/// Keys put and deleted by file operations that applied any batch.
fn operations(page: &mut Exposition, report: &Report) {
    let family = page.family("kvfs_kv_ops_total", "counter", "Keys put and deleted, by file operation.");
    for op in Op::ALL {
        let tag = report.sample.tags.get(usize::from(op.tag())).copied().unwrap_or_default();
        if tag.batches > 0 {
            for (what, count) in [("put", tag.puts), ("delete", tag.deletes)] {
                family.sample("", &list(&[("fs_op", op.name()), ("op", what)]), count);
            }
        }
    }
}

fn page_bytes(page: &mut Exposition, name: &str, help: &'static str, traffic: &PageTraffic) {
    let family = page.family(name, "counter", help);
    for kind in PageKind::ALL {
        for cause in PageCause::ALL {
            let count = traffic.of(kind, cause);
            if count.bytes > 0 {
                family.sample("", &list(&[("kind", kind.name()), ("cause", cause.name())]), count.bytes);
            }
        }
    }
}

/// Statistics of an engine of others, each a family with the engine's name and its own; what is not measured has no sample.
fn statistics(page: &mut Exposition, shape: &Shape) {
    for (name, statistic) in shape.statistics.iter() {
        let own = name.strip_prefix(shape.engine).unwrap_or(name).trim_start_matches('.');
        let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' };
        let own: String = own.chars().map(plain).collect();
        let end = if matches!(statistic.value, Amount::Counter(_)) { "_total" } else { "" };
        let name = format!("kvfs_engine_{}_{own}{end}", shape.engine);
        if let Some(number) = statistic.value.number() {
            page.family(&name, statistic.kind(), statistic.help).sample("", "", number);
        }
    }
}

fn durations(
    page: &mut Exposition,
    name: &str,
    help: &'static str,
    label: &str,
    latencies: &[(&str, &Vec<(u64, u64)>)],
) {
    let family = page.family(name, "histogram", help);
    for (of, distribution) in latencies.iter().filter(|(_, values)| !values.is_empty()) {
        let labels = list(&[(label, of)]);
        // Both ascend, so one pass does.
        let (mut values, mut count) = (distribution.iter().peekable(), 0);
        for bound in BOUNDS {
            while let Some((_, more)) = values.next_if(|(value, _)| *value <= bound) {
                count += more;
            }
            family.bucket(&labels, bound as f64 / 1e9, count);
        }
        let count: u64 = distribution.iter().map(|(_, count)| count).sum();
        let sum: f64 = distribution.iter().map(|&(value, count)| value as f64 * count as f64 / 1e9).sum();
        family.bucket(&labels, "+Inf", count);
        family.sample("_sum", &labels, sum);
        family.sample("_count", &labels, count);
    }
}
