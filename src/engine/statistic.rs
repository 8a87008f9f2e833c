//! A statistic that an engine of others keeps itself. It is shown under the name that the engine gives it, and means what the engine says.

use crate::base::metric::{Figure, Growing, Naming, Sort, Unit, Value, metrics};

metrics! {
    /// A statistic of an engine of others.
    #[derive(Copy, Eq)]
    pub struct Statistic witness "stats::statistics::they_stand_under_their_own_names_in_every_output" {
        /// The value; null where it is not measured. Since a mark, what a counter has grown by.
        counter value: Amount [None];
        /// Unit of the value: `bytes`, `bytes/s`, `count`, `pages`, `us` (microseconds).
        text unit: &'static str;
        /// Meaning, in a few words.
        text help: &'static str;
        derived {
            /// `counter`: it only grows from the opening of the store on; `gauge`: the value now.
            kind: &'static str [None] = |statistic| statistic.value.kind();
        }
    }
}

impl Statistic {
    /// What only grows; `None` where it is not measured.
    pub fn counter(value: impl Into<Option<u64>>, unit: &'static str, help: &'static str) -> Statistic {
        Statistic { value: Amount::Counter(value.into()), unit, help }
    }

    /// What goes up and down; `None` where it is not measured.
    pub fn gauge(value: impl Into<Option<u64>>, unit: &'static str, help: &'static str) -> Statistic {
        Statistic { value: Amount::Gauge(value.into()), unit, help }
    }
}

/// The value of a statistic, which says itself how it behaves; `None` where it is not measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// It only grows from the opening of the store on.
    Counter(Option<u64>),
    /// It goes up and down.
    Gauge(Option<u64>),
}

impl Amount {
    /// `counter` or `gauge`.
    pub fn kind(self) -> &'static str {
        match self {
            Amount::Counter(_) => "counter",
            Amount::Gauge(_) => "gauge",
        }
    }

    /// The number; `None` where it is not measured.
    pub fn number(self) -> Option<u64> {
        match self {
            Amount::Counter(number) | Amount::Gauge(number) => number,
        }
    }
}

impl Default for Amount {
    fn default() -> Amount {
        Amount::Gauge(None)
    }
}

impl Figure for Amount {
    fn types(_: Unit) -> &'static [&'static str] {
        &["integer", "null"]
    }
    fn value(&self, _: Unit) -> Value<'_> {
        self.number().map_or(Value::Absent, Value::Count)
    }
}

impl Growing for Amount {
    fn since(&self, earlier: &Amount) -> Amount {
        match self {
            Amount::Counter(now) => Amount::Counter(now.since(&earlier.number())),
            Amount::Gauge(_) => *self,
        }
    }
}

/// The names of statistics.
#[derive(Clone, Debug, PartialEq)]
pub struct StatisticName;

impl Naming for StatisticName {
    const SORT: Sort = Sort { place: "<statistic>", label: "statistic" };
}
