//! Door 1: counts what the user asked of the filesystem, by operation, with latencies.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use hdrhistogram::Histogram;
use parking_lot::Mutex;

macro_rules! operations {
    ($($variant:ident $name:literal),* $(,)?) => {
        /// An operation of the filesystem; also the tag of its batches.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Op { $(#[doc = concat!("`", $name, "`")] $variant),* }

        impl Op {
            /// Every operation, in the order of reports.
            pub const ALL: &[Op] = &[$(Op::$variant),*];

            /// The name in reports.
            pub fn name(self) -> &'static str {
                match self { $(Op::$variant => $name),* }
            }

            /// The tag of batches that the operation applies.
            pub fn tag(self) -> u8 {
                self as u8
            }
        }
    };
}

operations! {
    Lookup "lookup", Getattr "getattr", Setattr "setattr", Truncate "truncate", Readlink "readlink", Mknod "mknod",
    Mkdir "mkdir", Unlink "unlink", Rmdir "rmdir", Symlink "symlink", Rename "rename", Link "link", Open "open",
    Create "create", Read "read", Write "write", Flush "flush", Fsync "fsync", Release "release", Opendir "opendir",
    Readdir "readdir", Fsyncdir "fsyncdir", Releasedir "releasedir", Statfs "statfs", Setxattr "setxattr",
    Getxattr "getxattr", Listxattr "listxattr", Removexattr "removexattr", Fallocate "fallocate", Lseek "lseek",
    CopyFileRange "copy_file_range", Forget "forget", Reclaim "reclaim", Format "format", Counters "counters",
}

/// Latencies are kept to 1 % up to this many nanoseconds; longer ones count as this.
const LATENCY_NANOS_MAX: u64 = 600_000_000_000;

struct Slot {
    count: AtomicU64,
    errors: AtomicU64,
    bytes: AtomicU64,
    latency: Mutex<Histogram<u64>>,
}

/// What one operation did so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct OpCounters {
    /// Calls that were answered, also with an error.
    pub count: u64,
    /// Calls answered with an errno.
    pub errors: u64,
    /// Bytes of file content read or written for the user.
    pub bytes: u64,
    /// Latencies in nanoseconds from the request to the answer; `None` before the first.
    pub latency: Option<Latency>,
}

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
        let slot = |_: &Op| Slot {
            count: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            latency: Mutex::new(histogram()),
        };
        Meter { slots: Op::ALL.iter().map(slot).collect() }
    }

    /// Records that a call of `op` was answered after `latency`, having moved `bytes` of file content.
    pub fn record(&self, op: Op, latency: Duration, bytes: u64, failed: bool) {
        let slot = &self.slots[op as usize];
        slot.count.fetch_add(1, Relaxed);
        slot.bytes.fetch_add(bytes, Relaxed);
        if failed {
            slot.errors.fetch_add(1, Relaxed);
        }
        slot.latency.lock().saturating_record((latency.as_nanos() as u64).max(1));
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
        OpCounters {
            count: slot.count.load(Relaxed),
            errors: slot.errors.load(Relaxed),
            bytes: slot.bytes.load(Relaxed),
            latency: percentiles,
        }
    }

    /// Bytes that users wrote: the *app bytes* of the accounting.
    pub fn write_bytes(&self) -> u64 {
        self.slots[Op::Write as usize].bytes.load(Relaxed)
    }

    /// Bytes that users read.
    pub fn read_bytes(&self) -> u64 {
        self.slots[Op::Read as usize].bytes.load(Relaxed)
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
        assert_eq!((counters.count, counters.errors, counters.bytes), (2, 1, 4096));
        let latency = counters.latency.unwrap();
        assert!(latency.p50 < 11_000 && latency.max >= 990_000, "{latency:?}");
        assert_eq!((meter.write_bytes(), meter.read_bytes()), (4096, 0));
        assert!(Op::ALL.len() < 64, "tags fit the meter at door 2");
    }
}
