//! How long operations took, by kind.

use hdrhistogram::Histogram;
use serde_json::{Value, json};

/// How long the calls of one kind took.
pub struct Latency(Histogram<u64>);

impl Default for Latency {
    fn default() -> Latency {
        let histogram = Histogram::new_with_bounds(1, 3_600_000_000_000, 3)
            .expect("an hour in nanoseconds at three digits is within what a histogram holds");
        Latency(histogram)
    }
}

impl Latency {
    /// Counts a call that took so many nanoseconds.
    pub fn record(&mut self, nanoseconds: u64) {
        self.0.saturating_record(nanoseconds);
    }

    /// Number of calls.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The nanoseconds that a share (0 to 1) of the calls did not exceed; `None` without any, and where nobody took the time, as in what was imported.
    pub fn quantile_ns(&self, share: f64) -> Option<u64> {
        (self.0.max() > 0).then(|| self.0.value_at_quantile(share))
    }

    fn json(&self) -> Value {
        json!({
            "count": self.count(),
            "p50_ns": self.quantile_ns(0.5),
            "p99_ns": self.quantile_ns(0.99),
            "max_ns": self.quantile_ns(1.0),
        })
    }
}

/// The same for every kind.
#[derive(Default)]
pub struct Latencies {
    /// Batches.
    pub batch: Latency,
    /// Point reads.
    pub get: Latency,
    /// Scans.
    pub scan: Latency,
    /// Syncs.
    pub sync: Latency,
}

/// The kinds, in the order of reports.
pub const KINDS: [&str; 4] = ["batch", "get", "scan", "sync"];

impl Latencies {
    /// Adds what another thread has counted.
    pub fn add(&mut self, part: &Latencies) {
        self.batch.0 += &part.batch.0;
        self.get.0 += &part.get.0;
        self.scan.0 += &part.scan.0;
        self.sync.0 += &part.sync.0;
    }

    /// A member for each kind.
    pub fn json(&self) -> Value {
        let all = [&self.batch, &self.get, &self.scan, &self.sync];
        Value::Object(KINDS.into_iter().zip(all).map(|(name, one)| (name.to_string(), one.json())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_threads_have_counted_adds_up_and_nothing_has_no_percentile() {
        let (mut all, mut part) = (Latencies::default(), Latencies::default());
        (1..=100).for_each(|nanoseconds| part.get.record(nanoseconds));
        part.sync.record(7);
        all.get.record(1000);
        all.add(&part);
        let json = all.json();
        assert_eq!(json["get"]["count"], 101);
        assert_eq!((&json["get"]["p50_ns"], &json["get"]["max_ns"]), (&json!(51), &json!(1000)));
        assert_eq!((&json["sync"]["p99_ns"], &json["scan"]["p50_ns"]), (&json!(7), &Value::Null));
        assert_eq!(KINDS.len(), json.as_object().unwrap().len());
    }
}
