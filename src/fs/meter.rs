//! Door 1: counts what the user asked of the filesystem, by operation, with latencies.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;

use super::operation::Op;
use crate::base::metric::{Each, Since, metrics};

/// Latencies are kept to 1 % up to this many nanoseconds; longer ones count as this.
const LATENCY_NANOS_MAX: u64 = 600_000_000_000;

struct Slot {
    calls: CallMeter,
    latency: Mutex<Histogram<u64>>,
}

metrics! {
    /// Calls of one operation.
    #[derive(Copy)]
    pub struct Calls counted by CallMeter witness "stats::asked::calls_are_counted_and_their_latencies_kept" {
        /// Calls answered, including errors.
        counter count: u64 [Count, family "kvfs_fs_op_calls_total"];
        /// Calls answered with an error number.
        counter errors: u64 [Count, family "kvfs_fs_op_errors_total"];
        /// Bytes of file content read or written for the user.
        counter bytes: u64 [Bytes, family "kvfs_fs_op_bytes_total"];
    }
}

metrics! {
    /// Counts of one operation so far.
    #[derive(Copy)]
    pub struct OpCounters witness "stats::asked::calls_are_counted_and_their_latencies_kept" {
        /// Calls.
        flat calls: Calls;
        /// Latencies from the request to the answer; `None` before the first.
        inside latency: Option<Latency>;
        derived {
            /// Median latency; null before the first call.
            p50_ns: Option<u64> [Nanoseconds] = |op| op.latency.map(|latency| latency.p50);
            /// 99th percentile of the latency.
            p99_ns: Option<u64> [Nanoseconds] = |op| op.latency.map(|latency| latency.p99);
            /// 99.9th percentile of the latency.
            p999_ns: Option<u64> [Nanoseconds] = |op| op.latency.map(|latency| latency.p999);
            /// Longest latency.
            max_ns: Option<u64> [Nanoseconds] = |op| op.latency.map(|latency| latency.max);
            /// Mean latency.
            mean_ns: Option<f64> [Nanoseconds] = |op| op.latency.map(|latency| latency.mean);
        }
    }
}

impl Since for Option<Latency> {
    /// `None`: percentiles do not subtract. Somebody who knows the distributions fills them in.
    fn since(&self, _: &Option<Latency>) -> Option<Latency> {
        None
    }
}

/// The counters of every operation.
pub type Ops = Each<Op, OpCounters, { Op::ALL.len() }>;

/// Percentiles of latencies, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    /// Half are not longer.
    pub p50: u64,
    /// 99 of 100 are not longer.
    pub p99: u64,
    /// 999 of 1000 are not longer.
    pub p999: u64,
    /// The longest.
    pub max: u64,
    /// Their mean.
    pub mean: f64,
}

impl Latency {
    /// Percentiles of a distribution: pairs of a value in nanoseconds and how often it occurred, ascending. `None` of an
    /// empty one.
    pub fn of(distribution: &[(u64, u64)]) -> Option<Latency> {
        let count: u64 = distribution.iter().map(|(_, count)| count).sum();
        let sum: f64 = distribution.iter().map(|&(value, count)| value as f64 * count as f64).sum();
        let quantile = |share: f64| {
            let wanted = (count as f64 * share).ceil() as u64;
            let mut seen = 0;
            let mut values = distribution.iter();
            values.find(|(_, count)| {
                seen += count;
                seen >= wanted.max(1)
            })
        };
        Some(Latency {
            p50: quantile(0.5)?.0,
            p99: quantile(0.99)?.0,
            p999: quantile(0.999)?.0,
            max: distribution.iter().rfind(|(_, count)| *count > 0)?.0,
            mean: sum / count as f64,
        })
    }
}

/// The growth of a distribution from `earlier` to `now`, both of one meter and operation.
pub fn growth(now: &[(u64, u64)], earlier: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut before = earlier.iter().peekable();
    let less = |&(value, count): &(u64, u64)| {
        while before.next_if(|(other, _)| *other < value).is_some() {}
        let old = before.next_if(|(other, _)| *other == value).map_or(0, |(_, count)| *count);
        (value, count.saturating_sub(old))
    };
    now.iter().map(less).filter(|(_, count)| *count > 0).collect()
}

/// The counters of door 1.
pub struct Meter {
    slots: Vec<Slot>,
}

impl Meter {
    /// Counters at zero.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Meter {
        let histogram = || {
            let mut histogram =
                Histogram::new_with_bounds(1, LATENCY_NANOS_MAX, 2).expect("constant bounds are valid");
            histogram.auto(false);
            histogram
        };
        let slot = |_: &Op| Slot { calls: CallMeter::default(), latency: Mutex::new(histogram()) };
        Meter { slots: Op::ALL.iter().map(slot).collect() }
    }

    /// Records that a call of `op` was answered after `latency`, having moved `bytes` of file content.
    pub fn record(&self, op: Op, latency: Duration, bytes: u64, failed: bool) {
        let slot = &self.slots[op as usize];
        slot.calls.count.fetch_add(1, Relaxed);
        slot.calls.bytes.fetch_add(bytes, Relaxed);
        if failed {
            slot.calls.errors.fetch_add(1, Relaxed);
        }
        slot.latency.lock().saturating_record((latency.as_nanos() as u64).max(1));
    }

    /// The counters of every operation.
    pub fn ops(&self) -> Ops {
        Each::from_fn(|op| self.of(Op::ALL[op]))
    }

    /// The counters of one operation.
    pub fn of(&self, op: Op) -> OpCounters {
        let slot = &self.slots[op as usize];
        let latency = slot.latency.lock();
        let percentiles = (!latency.is_empty()).then(|| Latency {
            p50: latency.value_at_quantile(0.5),
            p99: latency.value_at_quantile(0.99),
            p999: latency.value_at_quantile(0.999),
            max: latency.max(),
            mean: latency.mean(),
        });
        OpCounters { calls: slot.calls.snapshot(), latency: percentiles }
    }

    /// The latencies of one operation, to 1 %: pairs of a value in nanoseconds and how often it occurred, ascending.
    pub fn distribution(&self, op: Op) -> Vec<(u64, u64)> {
        let latency = self.slots[op as usize].latency.lock();
        latency.iter_recorded().map(|step| (step.value_iterated_to(), step.count_at_value())).collect()
    }

    /// Bytes that users wrote, or had copied here: the *app bytes* of the accounting.
    pub fn write_bytes(&self) -> u64 {
        [Op::Write, Op::CopyFileRange]
            .iter()
            .map(|&op| self.slots[op as usize].calls.bytes.load(Relaxed))
            .sum()
    }

    /// Bytes that users read.
    pub fn read_bytes(&self) -> u64 {
        self.slots[Op::Read as usize].calls.bytes.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_bytes_errors_and_latencies() {
        let meter = Meter::new();
        assert_eq!(meter.of(Op::Write).latency, None);
        meter.record(Op::Write, Duration::from_micros(10), 4096, false);
        meter.record(Op::Write, Duration::from_micros(1000), 0, true);
        let counters = meter.of(Op::Write);
        assert_eq!((counters.calls.count, counters.calls.errors, counters.calls.bytes), (2, 1, 4096));
        let latency = counters.latency.unwrap();
        assert!(latency.p50 < 11_000 && latency.max >= 990_000, "{latency:?}");
        assert_eq!((meter.write_bytes(), meter.read_bytes()), (4096, 0));
        assert!(Op::ALL.len() < 64, "tags fit the meter at door 2");
    }

    #[test]
    fn distributions_have_the_percentiles_of_the_histogram_and_subtract() {
        let meter = Meter::new();
        let record = |range: std::ops::Range<u64>| {
            range.for_each(|n| meter.record(Op::Read, Duration::from_nanos(n * n), 0, false));
        };
        record(1..500);
        let first = meter.distribution(Op::Read);
        let (whole, direct) = (Latency::of(&first).unwrap(), meter.of(Op::Read).latency.unwrap());
        assert_eq!((whole.p50, whole.p99, whole.p999), (direct.p50, direct.p99, direct.p999));
        assert_eq!(whole.max, direct.max);
        record(5_000..5_100);
        let late = Latency::of(&growth(&meter.distribution(Op::Read), &first)).unwrap();
        assert!(late.p50 > 24_000_000 && late.max < 27_000_000, "{late:?}");
        assert_eq!(growth(&first, &first), []);
        assert_eq!(Latency::of(&[]), None);
    }
}
