//! Write stalls: one pure function from the load to the pressure on writers, and the pace of those who are slowed down.

use std::time::Duration;

use crate::engine::Cause;
use crate::engine::lsm::Options;

/// Rate at which a slowdown begins, bytes a second; it falls towards the stop.
const RATE: f64 = (16 << 20) as f64;
/// The lowest rate of a slowdown.
const RATE_MIN: f64 = (1 << 20) as f64;
/// Unused pace of this long may be caught up: those who wait wake late.
const CREDIT: Duration = Duration::from_millis(20);

/// Compaction debt and memory of the store, as writers see them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Load {
    /// The mutable memtable is full and no other is free.
    pub memtables_full: bool,
    /// Tables in L0.
    pub l0_files: u64,
    /// Bytes pending compaction.
    pub pending_bytes: u64,
    /// Whether compactions would reduce both. If not, their limits do not count: waiting would last for ever.
    pub merges_help: bool,
}

/// The pressure on writers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pressure {
    /// Writers go on.
    Free,
    /// A rate limit.
    Slow {
        /// Why.
        cause: Cause,
        /// Accepted bytes a second.
        rate: f64,
    },
    /// A stop.
    Stop {
        /// Why.
        cause: Cause,
    },
}

/// The pressure under `load`. Stops come before slowdowns; of two slowdowns the harder one counts.
pub fn pressure(load: Load, options: &Options) -> Pressure {
    if load.memtables_full {
        return Pressure::Stop { cause: Cause::Memtables };
    }
    if !load.merges_help {
        return Pressure::Free;
    }
    let limits = [
        (Cause::L0Files, load.l0_files, options.l0_slowdown, options.l0_stop),
        (Cause::PendingBytes, load.pending_bytes, options.pending_slowdown_bytes, options.pending_stop_bytes),
    ];
    let mut pressure = Pressure::Free;
    let mut slowest = f64::INFINITY;
    for (cause, amount, slowdown, stop) in limits {
        if amount >= stop {
            return Pressure::Stop { cause };
        }
        if amount >= slowdown {
            let progress = (amount - slowdown) as f64 / (stop - slowdown) as f64;
            let rate = (RATE * (1.0 - progress)).max(RATE_MIN);
            if rate < slowest {
                (slowest, pressure) = (rate, Pressure::Slow { cause, rate });
            }
        }
    }
    pressure
}

/// Limits bytes or requests to a rate.
#[derive(Debug, Default)]
pub struct Pace {
    /// Clock time from which the next batch may come.
    next: Duration,
}

impl Pace {
    /// Time that a batch has to wait at `now`, if it has to.
    pub fn wait(&self, now: Duration) -> Option<Duration> {
        self.next.checked_sub(now).filter(|wait| !wait.is_zero())
    }

    /// Counts `bytes` that were let through at `now` under `rate` bytes a second.
    pub fn pass(&mut self, now: Duration, bytes: u64, rate: f64) {
        self.next = self.next.max(now.saturating_sub(CREDIT)) + Duration::from_secs_f64(bytes as f64 / rate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_grows_from_nothing_to_a_stop() {
        let options = Options::default();
        let of = |memtables_full, l0_files, pending_gib: u64| {
            pressure(
                Load { memtables_full, l0_files, pending_bytes: pending_gib << 30, merges_help: true },
                &options,
            )
        };
        assert_eq!(of(false, 19, 63), Pressure::Free);
        assert_eq!(of(false, 20, 0), Pressure::Slow { cause: Cause::L0Files, rate: RATE });
        assert_eq!(of(false, 28, 64), Pressure::Slow { cause: Cause::L0Files, rate: RATE / 2.0 });
        assert_eq!(of(false, 20, 160), Pressure::Slow { cause: Cause::PendingBytes, rate: RATE / 2.0 });
        assert_eq!(of(false, 36, 0), Pressure::Stop { cause: Cause::L0Files });
        assert_eq!(of(false, 0, 256), Pressure::Stop { cause: Cause::PendingBytes });
        assert_eq!(of(true, 36, 0), Pressure::Stop { cause: Cause::Memtables });
        let load = Load { l0_files: 99, pending_bytes: 999 << 30, ..Load::default() };
        assert_eq!(pressure(load, &options), Pressure::Free);
    }

    #[test]
    fn a_pace_approaches_its_rate() {
        let (mut pace, mut now, mut passed) = (Pace::default(), Duration::from_secs(5), 0u64);
        while now < Duration::from_secs(15) {
            match pace.wait(now) {
                // Woken late, as timers do.
                Some(wait) => now += wait + Duration::from_millis(1),
                None => {
                    pace.pass(now, 4096, 1e6);
                    passed += 4096;
                }
            }
        }
        assert!((9_900_000..10_100_000).contains(&passed), "{passed}");
    }
}
