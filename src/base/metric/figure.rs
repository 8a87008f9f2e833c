//! The types of fields that hold a number, or what stands in the place of one.

use std::time::Duration;

use super::{Unit, Value};

/// The type of a field that holds a number, or what stands in the place of one.
pub trait Figure {
    /// The types of JSON that it may have in `unit`.
    fn types(unit: Unit) -> &'static [&'static str];
    /// Its value in `unit`.
    fn value(&self, unit: Unit) -> Value<'_>;
}

/// A number that only grows.
pub trait Growing: Figure {
    /// The growth since `earlier`.
    fn since(&self, earlier: &Self) -> Self;
}

macro_rules! figures {
    ($($type:ty: $types:expr, $optional:expr, $value:expr;)*) => {
        $(
            impl Figure for $type {
                fn types(_: Unit) -> &'static [&'static str] {
                    &$types
                }
                fn value(&self, _: Unit) -> Value<'_> {
                    let of: for<'a> fn(&'a $type) -> Value<'a> = $value;
                    of(self)
                }
            }
            impl Figure for Option<$type> {
                fn types(_: Unit) -> &'static [&'static str] {
                    &$optional
                }
                fn value(&self, unit: Unit) -> Value<'_> {
                    self.as_ref().map_or(Value::Absent, |figure| figure.value(unit))
                }
            }
        )*
    };
}

figures! {
    u64: ["integer"], ["integer", "null"], |count| Value::Count(*count);
    u32: ["integer"], ["integer", "null"], |count| Value::Count(u64::from(*count));
    usize: ["integer"], ["integer", "null"], |count| Value::Count(*count as u64);
    f64: ["number"], ["null", "number"], |number| Value::Real(*number);
    bool: ["boolean"], ["boolean", "null"], |flag| Value::Flag(*flag);
    String: ["string"], ["null", "string"], |text| Value::Text(text);
    &'static str: ["string"], ["null", "string"], |text| Value::Text(text);
    Vec<String>: ["array"], ["array", "null"], |texts| Value::Texts(texts);
}

impl Figure for Duration {
    fn types(unit: Unit) -> &'static [&'static str] {
        if unit == Unit::Seconds { &["number"] } else { &["integer"] }
    }
    fn value(&self, unit: Unit) -> Value<'_> {
        match unit {
            Unit::Nanoseconds => Value::Count(self.as_nanos() as u64),
            Unit::Milliseconds => Value::Count(self.as_millis() as u64),
            _ => Value::Real(self.as_secs_f64()),
        }
    }
}

impl Figure for Option<Duration> {
    fn types(unit: Unit) -> &'static [&'static str] {
        if unit == Unit::Seconds { &["null", "number"] } else { &["integer", "null"] }
    }
    fn value(&self, unit: Unit) -> Value<'_> {
        self.as_ref().map_or(Value::Absent, |duration| duration.value(unit))
    }
}

impl Growing for u64 {
    fn since(&self, earlier: &u64) -> u64 {
        self.saturating_sub(*earlier)
    }
}

impl Growing for Option<u64> {
    fn since(&self, earlier: &Option<u64>) -> Option<u64> {
        self.map(|now| now.saturating_sub(earlier.unwrap_or(0)))
    }
}

impl Growing for Duration {
    fn since(&self, earlier: &Duration) -> Duration {
        self.saturating_sub(*earlier)
    }
}
