//! Rate limits of compaction: bytes and requests per second, both changeable at any moment.
//!
//! 1. A merge step is done first and charged afterwards with what it really read and wrote at the disk.
//! 2. No step begins before the earlier ones are paid for at the rates of now. So merges never wait with a lock held, and the long
//!    run never exceeds the rates.
//! 3. A step is so small that it is paid for in a tenth of a second: the delay is smooth. Only the first step of a merge, which
//!    reads ahead in each of its inputs, may be larger.
//!
//! Only compaction is limited, and what a tree above brings down: writers wait for flushes, and even sooner for the log.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::stall::Pace;
use crate::base::metric::Since;
use crate::base::text::human_size;
use crate::disk::{Counters, DiskCounters, LEVELS, Purpose};
use crate::engine::lsm::Options;

/// Parts of a second in which a step is to be paid for.
const STEPS_A_SECOND: u64 = 10;
/// Bytes that a request moves, carefully: merges make larger ones, and small ones at the end of a table.
const REQUEST_BYTES: u64 = 16 << 10;
/// The smallest step; smaller ones would pay more for beginning than for merging.
const STEP_BYTES_MIN: u64 = 64 << 10;

/// The rates; 0 is no limit.
pub struct Rates {
    bytes: AtomicU64,
    requests: AtomicU64,
}

impl Rates {
    /// The rates that `options` ask for.
    pub fn new(options: &Options) -> Rates {
        Rates { bytes: AtomicU64::new(options.rate_bytes), requests: AtomicU64::new(options.iops) }
    }

    /// Changes the limit of bytes a second.
    pub fn set_bytes(&self, rate: u64) {
        self.bytes.store(rate, Relaxed);
    }

    /// Changes the limit of requests a second.
    pub fn set_requests(&self, rate: u64) {
        self.requests.store(rate, Relaxed);
    }

    /// Bytes a second, 0 without a limit.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// Requests a second, 0 without a limit.
    pub fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    /// The limits for reports: ` at most 20MiB/s 1000 requests/s`; empty without any.
    pub fn describe(&self) -> String {
        let bytes =
            Some(self.bytes()).filter(|rate| *rate > 0).map(|rate| format!(" {}/s", human_size(rate)));
        let requests =
            Some(self.requests()).filter(|rate| *rate > 0).map(|rate| format!(" {rate} requests/s"));
        let limits: String = bytes.into_iter().chain(requests).collect();
        if limits.is_empty() { limits } else { format!(" at most{limits}") }
    }

    /// Bytes of a step of at most `most` bytes.
    pub fn step_bytes(&self, most: u64) -> u64 {
        let limit = |rate: u64| if rate == 0 { u64::MAX } else { rate };
        // What is merged is read and written.
        let bytes_a_second =
            (limit(self.bytes()) / 2).min(limit(self.requests()).saturating_mul(REQUEST_BYTES));
        (bytes_a_second / STEPS_A_SECOND).clamp(STEP_BYTES_MIN.min(most), most)
    }
}

/// Use of the rate limits. Kept with the running jobs.
#[derive(Default)]
pub struct Throttle {
    charged: Counters,
    bytes: Pace,
    requests: Pace,
}

impl Throttle {
    /// Time for which no step may begin, at clock time `now`.
    pub fn wait(&self, rates: &Rates, now: Duration) -> Option<Duration> {
        // A limit that was lifted forgives what it was owed.
        let bytes = self.bytes.wait(now).filter(|_| rates.bytes() > 0);
        let requests = self.requests.wait(now).filter(|_| rates.requests() > 0);
        bytes.max(requests)
    }

    /// Charges what the counters of merges in `disk` have grown by since the last time.
    pub fn charge(&mut self, rates: &Rates, disk: &DiskCounters, now: Duration) {
        let total = merges(disk);
        let used = total.since(&self.charged);
        self.charged = total;
        let pass = |pace: &mut Pace, amount: u64, rate: u64| match rate {
            0 => *pace = Pace::default(),
            rate => pace.pass(now, amount, rate as f64),
        };
        pass(&mut self.bytes, used.read_bytes + used.write_bytes, rates.bytes());
        pass(&mut self.requests, used.reads + used.writes + used.syncs, rates.requests());
    }
}

/// Traffic of all compactions to the disk, and of tables that are brought in from a tree above.
fn merges(disk: &DiskCounters) -> Counters {
    let purposes = (0..LEVELS as u8).map(|into| Purpose::Compact { into }).chain([
        Purpose::ValueLogGc,
        Purpose::Demote,
        Purpose::Promote,
    ]);
    purposes.fold(Counters::default(), |sum, purpose| sum + disk.of(purpose))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::clock::{Clock, ManualClock};
    use crate::disk::{Disk, Metered, SimDisk};
    use crate::engine::{Batch, Engine, Pending, Tier, WorkClass, lsm};

    /// Fills L0, then merges under a limit on a clock that only waiting moves; bytes and requests a second of the merges.
    fn merge_under(setting: &str, value: &str) -> (f64, f64) {
        let (disk, clock) = (Metered::new(SimDisk::new()), Arc::new(ManualClock::default()));
        let options = Options {
            memtable_bytes: 256 << 10,
            table_bytes: 256 << 10,
            level_base_bytes: 512 << 10,
            l0_slowdown: 500,
            l0_stop: 1000,
            pending_slowdown_bytes: 1 << 40,
            part_blocks: 1000,
            pending_stop_bytes: 2 << 40,
            ..Options::tiny()
        };
        let engine = lsm::open(disk.clone() as Arc<dyn Disk>, clock.clone(), &options).unwrap();
        engine.set(setting, value).unwrap();
        for number in 0..12_000u64 {
            let mut batch = Batch::new(0);
            batch.put(number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes().to_vec(), vec![1; 300]);
            while engine.apply(&batch, Tier::Disk).is_err() {
                engine.work(WorkClass::Flush).unwrap();
            }
        }
        while engine.work(WorkClass::Flush).unwrap() != Pending::Idle {}
        let (began, before) = (clock.elapsed(), disk.snapshot());
        loop {
            match engine.work(WorkClass::Merge).unwrap() {
                Pending::More => {}
                Pending::After(wait) => {
                    assert!(wait < Duration::from_secs(3), "a wait of {wait:?} is not smooth");
                    clock.advance(wait);
                }
                Pending::Idle => break,
            }
        }
        let seconds = (clock.elapsed() - began).as_secs_f64();
        let used = merges(&disk.snapshot().since(&before));
        assert!(used.write_bytes > 3 << 20, "nothing was merged");
        (
            (used.read_bytes + used.write_bytes) as f64 / seconds,
            (used.reads + used.writes + used.syncs) as f64 / seconds,
        )
    }

    #[test]
    fn merges_keep_to_the_limits_that_are_set_while_they_run() {
        let (bytes, _) = merge_under("rate", "8M");
        assert!((0.9..1.1).contains(&(bytes / (8 << 20) as f64)), "{bytes} bytes a second");
        let (_, requests) = merge_under("iops", "10");
        assert!((9.0..11.0).contains(&requests), "{requests} requests a second");
    }

    #[test]
    fn steps_are_short_at_low_rates_and_whole_without_a_limit() {
        let rates = Rates::new(&Options::default());
        assert_eq!(rates.describe(), "");
        assert_eq!(rates.step_bytes(4 << 20), 4 << 20);
        for (rate, step) in [(1 << 30, 4 << 20), (20 << 20, 1 << 20), (1 << 10, STEP_BYTES_MIN)] {
            rates.set_bytes(rate);
            assert_eq!(rates.step_bytes(4 << 20), step);
        }
        rates.set_requests(1000);
        assert_eq!(rates.describe(), " at most 1.00KiB/s 1000 requests/s");
    }
}
