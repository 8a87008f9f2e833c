//! Processor time of background work and checksums, measured.
//!
//! - Short work (a checksum, a compressed block) is timed one call in [`SAMPLED`] by the machine's monotonic clock, less what
//!   reading that clock takes. If the thread loses its processor in between, that is in the figure.
//! - Long work (a unit of a flush, merge or checkpoint) is timed as a whole by the thread's own processor time, so waiting for
//!   the disk is not in it. The checksums and the compression of what it writes are.
//!
//! Both are the machine's clocks, in a simulation, too: nothing an engine does depends on them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::base::metric::{Each, labels, metrics, ratio};

/// Of so many calls of short work one is timed, the first among them.
const SAMPLED: u64 = 16;

/// Kind of work that the processor does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::VariantArray, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Work {
    /// Checksums of log records, blocks and filters; B-tree: of log records, values and pages, with copying the page when it is
    /// written and the look at its cells when it is read. Those of values in the log belong to flushes and merges alone.
    Checksum,
    /// Compressing blocks.
    Compress,
    /// Expanding them.
    Expand,
    /// LSM: writing memtables to tables, per byte of the table.
    Flush,
    /// LSM: merging tables, per byte written.
    Merge,
    /// B-tree: checkpoints, and the merges of the change buffer before them, per byte written.
    Checkpoint,
}

labels! { Work "<work>" "work" }

metrics! {
    /// Cost of one kind of work.
    #[derive(Copy, Eq)]
    pub struct Cost counted by CostMeter witness "kvfs::engine::cpu::tests::the_first_call_is_timed_and_one_in_so_many_after_it" {
        /// Bytes processed: checked or checksummed; before compression; before expansion; written by flushes, merges or checkpoints.
        counter bytes: u64 [Bytes];
        /// Bytes of the calls that were timed.
        counter timed_bytes: u64 [Bytes];
        /// Processor time of the calls that were timed.
        counter timed_nanos: u64 [Nanoseconds, key "timed_ns"];
        derived {
            /// Time per byte: `timed_ns` / `timed_bytes`; null until something was timed.
            ns_per_byte: Option<f64> [Nanoseconds] = |cost| ratio(cost.timed_nanos, cost.timed_bytes);
        }
    }
}

impl Cost {
    /// Seconds for all of `bytes` at the measured rate.
    pub fn seconds(&self) -> Option<f64> {
        self.ns_per_byte().map(|nanos| nanos * self.bytes as f64 / 1e9)
    }
}

/// The costs of every kind of work.
pub type Cpu = Each<Work, Cost, { Work::ALL.len() }>;

/// Flushes, merges and checkpoints together: what a byte that is still owed will cost.
pub fn background(cpu: &Cpu) -> Cost {
    [Work::Flush, Work::Merge, Work::Checkpoint]
        .into_iter()
        .fold(Cost::default(), |sum, work| sum + cpu.of(work))
}

#[derive(Default)]
struct Slot {
    calls: AtomicU64,
    cost: CostMeter,
}

/// Measures from many threads.
#[derive(Default)]
pub struct CpuMeter([Slot; Work::ALL.len()]);

impl CpuMeter {
    /// Does short work on `bytes` bytes, and times it now and then.
    pub fn sample<T>(&self, work: Work, bytes: u64, run: impl FnOnce() -> T) -> T {
        let slot = &self.0[work as usize];
        slot.cost.bytes.fetch_add(bytes, Relaxed);
        if !slot.calls.fetch_add(1, Relaxed).is_multiple_of(SAMPLED) {
            return run();
        }
        let reading = clock_nanos();
        let began = Instant::now();
        let result = run();
        let nanos = began.elapsed().as_nanos() as u64;
        slot.cost.timed_bytes.fetch_add(bytes, Relaxed);
        slot.cost.timed_nanos.fetch_add(nanos.saturating_sub(reading), Relaxed);
        result
    }

    /// Times long work of this thread from now on; it must end on the same thread.
    pub fn span(&self, work: Work) -> Span<'_> {
        Span { slot: &self.0[work as usize], began: thread_time() }
    }

    /// Measurements so far.
    pub fn snapshot(&self) -> Cpu {
        Cpu::from_fn(|work| self.0[work].cost.snapshot())
    }
}

/// Long work on its way.
pub struct Span<'a> {
    slot: &'a Slot,
    began: Option<Duration>,
}

impl Span<'_> {
    /// It wrote `bytes`. Work that ends without this is not counted.
    pub fn end(self, bytes: u64) {
        self.slot.cost.bytes.fetch_add(bytes, Relaxed);
        if let (Some(began), Some(now)) = (self.began, thread_time()) {
            self.slot.cost.timed_bytes.fetch_add(bytes, Relaxed);
            self.slot.cost.timed_nanos.fetch_add(now.saturating_sub(began).as_nanos() as u64, Relaxed);
        }
    }
}

/// Processor time of this thread; `None` where the kernel does not say.
fn thread_time() -> Option<Duration> {
    use nix::time::{ClockId, clock_gettime};
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).ok().map(Duration::from)
}

/// Nanoseconds between two readings of the clock with nothing between them.
fn clock_nanos() -> u64 {
    static NANOS: OnceLock<u64> = OnceLock::new();
    *NANOS.get_or_init(|| {
        let pair = |_| Instant::now().elapsed().as_nanos() as u64;
        (0..64).map(pair).min().unwrap_or(0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_call_is_timed_and_one_in_so_many_after_it() {
        let meter = CpuMeter::default();
        assert_eq!(meter.snapshot().of(Work::Checksum).ns_per_byte(), None);
        for _ in 0..2 * SAMPLED {
            meter.sample(Work::Checksum, 100, || std::hint::black_box(crc32fast::hash(&[1; 100_000])));
        }
        let cost = meter.snapshot().of(Work::Checksum);
        assert_eq!((cost.bytes, cost.timed_bytes), (100 * 2 * SAMPLED, 200));
        assert!(cost.timed_nanos > 0 && cost.seconds() > Some(0.0), "{cost:?}");
        assert_eq!(background(&meter.snapshot()), Cost::default());
    }

    #[test]
    fn a_span_counts_work_and_not_waiting() {
        let meter = CpuMeter::default();
        let span = meter.span(Work::Merge);
        std::thread::sleep(Duration::from_millis(60));
        span.end(10);
        let waited = meter.snapshot().of(Work::Merge);
        assert!((waited.bytes, waited.timed_bytes) == (10, 10), "{waited:?}");
        assert!(waited.timed_nanos < 30_000_000, "sleeping is not work: {waited:?}");
        let (span, began) = (meter.span(Work::Merge), Instant::now());
        while meter.span(Work::Merge).began < span.began.map(|at| at + Duration::from_millis(5)) {
            assert!(began.elapsed() < Duration::from_secs(20), "this thread gets no processor time");
        }
        span.end(0);
        let worked = meter.snapshot().since(&Cpu::default().with(Work::Merge, waited)).of(Work::Merge);
        assert!(worked.timed_nanos >= 5_000_000, "{worked:?}");
    }
}
