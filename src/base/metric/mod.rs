//! The table of metrics: each number of a report is declared once.
//!
//! [`metrics!`](crate::metrics) takes a struct whose fields are rows: what the number is (`counter`, `gauge` …), its name, its type,
//! its unit and a sentence. From the row come the field, the atomic that counts it, the difference since a mark, the member of the
//! JSON report with its place in the schema, the Prometheus family and the line in `docs/stats.md`. So no output can know a
//! number that another lacks, and no mark can forget to subtract one.
//!
//! A row also says how far a reader may rely on it ([`Stability`]), and which test would fail if the number were wrong (its *witness*: an identity
//! with other numbers, or a count that the test makes itself). `tests/stats/witnesses.rs` fails for a number without one.
//!
//! | row | since a mark | outputs |
//! |---|---|---|
//! | `counter` | what was added | all; Prometheus: a counter, `_total` |
//! | `gauge` | as it is now | all; Prometheus: a gauge |
//! | `derived` from other rows: a sum, a quotient | as it is now; below the word `derived` it is computed from the differences | JSON; Prometheus only where a family is given, since queries add and divide for themselves |
//! | `text` | as it is now | JSON |
//! | `label`, which tells the items of a list apart | as it is now | JSON; Prometheus: a label of the item's samples |
//! | `part`: a struct of rows, an option, a list or a map of such | member by member | a member of its own |
//! | `flat`: a struct of rows | member by member | its rows, as if they stood here |
//! | `inside`: what another struct of rows shows | by a method `since` of its own | none |
//! | `hidden`: what no output shows | as it is now | none |

mod declare;
mod figure;
mod part;

pub use declare::{labels, metrics};
pub use figure::{Figure, Growing};
pub use part::{Each, Label, Named, Naming, Since};

/// Kind of a row: how its number behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricKind {
    /// Only grows from the opening of the store on.
    Counter,
    /// A value that goes up and down: the value now.
    Gauge,
    /// A sum or quotient of others.
    Derived,
    /// Words.
    Text,
    /// Tells items apart.
    Label,
    /// Holds rows.
    Part,
}

impl MetricKind {
    /// As the documentation names it; empty for what is no number.
    pub fn name(self) -> &'static str {
        match self {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Derived => "derived",
            MetricKind::Text | MetricKind::Label | MetricKind::Part => "",
        }
    }
}

/// Unit of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// No number.
    None,
    /// Bytes.
    Bytes,
    /// Things.
    Count,
    /// Bytes a thing.
    BytesEach,
    /// Nanoseconds.
    Nanoseconds,
    /// Milliseconds.
    Milliseconds,
    /// Seconds.
    Seconds,
    /// One number over another of the same unit, or a mean.
    Ratio,
    /// Dollars.
    Dollars,
}

impl Unit {
    /// As the documentation writes it.
    pub fn sign(self) -> &'static str {
        match self {
            Unit::None => "",
            Unit::Bytes => "B",
            Unit::Count => "n",
            Unit::BytesEach => "B/n",
            Unit::Nanoseconds => "ns",
            Unit::Milliseconds => "ms",
            Unit::Seconds => "s",
            Unit::Ratio => "×",
            Unit::Dollars => "$",
        }
    }
}

/// The declaration of a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Name of the field and of the JSON member.
    pub name: &'static str,
    /// Its kind.
    pub kind: MetricKind,
    /// Its unit.
    pub unit: Unit,
    /// A sentence for the documentation and for Prometheus, as it was written: with a blank at its beginning.
    pub help: &'static str,
    /// Name of the Prometheus family where it is not made from the path.
    pub family: Option<&'static str>,
    /// Name of the field in the source, which the key may differ from.
    pub field: &'static str,
    /// Its stability.
    pub stability: Stability,
    /// Path of the test that would fail if the number were wrong: `stats::doors::x` is `fn x` of `tests/stats/doors.rs`, and below `kvfs::` lies
    /// `src/`. Empty where nothing is counted.
    pub witness: &'static str,
}

/// Stability of a row: what a reader may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stability {
    /// Name, unit and meaning stay as they are.
    Stable,
    /// It depends on a model, or on how an engine is built today, and may change with either.
    Experimental,
}

impl Stability {
    /// As the documentation names it.
    pub fn name(self) -> &'static str {
        match self {
            Stability::Stable => "stable",
            Stability::Experimental => "experimental",
        }
    }
}

/// A number, or what stands in the place of one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value<'a> {
    /// There is none: a quotient without a denominator, a thing that this engine does not have.
    Absent,
    /// A whole number.
    Count(u64),
    /// Any other number.
    Real(f64),
    /// Yes or no.
    Flag(bool),
    /// Words.
    Text(&'a str),
    /// A name, and the other one that it has as a label of Prometheus.
    Named(Option<&'a str>, &'a str),
    /// Lines.
    Texts(&'a [String]),
    /// A histogram: counts of the values 0, 1, 2 …; the last one counts everything above, too.
    Buckets(&'a [u64]),
}

/// Shape of a part in the JSON report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartKind {
    /// An object of rows.
    Object,
    /// A list of such objects.
    List,
    /// Such objects by name: names of this sort.
    Map(Sort),
}

/// The names of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sort {
    /// As the documentation writes the place of a name: `<purpose>`.
    pub place: &'static str,
    /// The label of Prometheus.
    pub label: &'static str,
}

/// Walks over rows and their values.
pub trait Visitor {
    /// A row of the object at hand.
    fn value(&mut self, row: &'static Row, value: Value<'_>);
    /// A part of the object at hand begins.
    fn begin(&mut self, row: &'static Row, shape: PartKind);
    /// An item of the list or map at hand begins; `name` in a map.
    fn item(&mut self, name: &str);
    /// The part or item that began last has ended.
    fn end(&mut self);
}

/// A row and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// From the root of the report: `levels[].files`, `disk.by_purpose.<purpose>.writes`.
    pub path: String,
    /// The declaration.
    pub row: &'static Row,
    /// The types of JSON that it may have.
    pub types: Vec<&'static str>,
}

impl Entry {
    fn part(path: &str, row: &'static Row, types: &[&'static str]) -> Entry {
        Entry { path: path.to_string(), row, types: types.to_vec() }
    }
}

/// A struct of rows; made by [`metrics!`](crate::metrics).
pub trait Rows: Sized {
    /// Shows each row and its value to `visitor`.
    fn visit_rows(&self, visitor: &mut dyn Visitor);
    /// Counters less those of `earlier`; all else as it is.
    fn rows_since(&self, earlier: &Self) -> Self;
    /// Adds the rows to `entries`; they stand below `path`, which ends with a dot unless it is empty.
    fn list_rows(path: &str, entries: &mut Vec<Entry>);
}

/// A `part`: a struct of rows, or an option, list or map of such.
pub trait Part {
    /// Shows itself to `visitor` as the part `row`.
    fn visit(&self, row: &'static Row, visitor: &mut dyn Visitor);
    /// Counters less those of `earlier`; all else as it is.
    fn part_since(&self, earlier: &Self) -> Self;
    /// Adds itself and what is in it to `entries`; `path` leads here.
    fn list(path: &str, row: &'static Row, entries: &mut Vec<Entry>);
}

/// `numerator / denominator`; `None` without a denominator.
pub fn ratio(numerator: u64, denominator: u64) -> Option<f64> {
    (denominator > 0).then(|| numerator as f64 / denominator as f64)
}
