//! The rate of operations over time, and when it has recovered.

use std::time::{Duration, Instant};

/// Part of the former rate at which it counts as recovered.
pub const RECOVERED_SHARE: f64 = 0.9;
/// Operations are counted by intervals of this length.
const INTERVAL: Duration = Duration::from_millis(250);
/// Intervals whose mean is held against the former rate: a checkpoint or a merge alone is no end of a recovery, and no lack of one.
const INTERVALS: usize = 8;

/// Operations by interval since it began.
pub struct Pulse {
    began: Instant,
    counts: Vec<u64>,
    /// Operations of [`INTERVALS`] that are enough.
    enough: f64,
    /// The first interval from which on they were.
    recovered: Option<usize>,
}

impl Pulse {
    /// Begins now; `rate` is the former one, operations a second.
    pub fn begin(rate: f64) -> Pulse {
        let enough = rate * RECOVERED_SHARE * (INTERVAL * INTERVALS as u32).as_secs_f64();
        Pulse { began: Instant::now(), counts: vec![0], enough, recovered: None }
    }

    /// Counts an operation; whether the rate has recovered.
    pub fn beat(&mut self) -> bool {
        let interval = (self.began.elapsed().as_nanos() / INTERVAL.as_nanos()) as usize;
        self.count(interval);
        self.recovered.is_some()
    }

    /// Counts an operation in the interval of that number, which is not before the last one's.
    fn count(&mut self, interval: usize) {
        while self.counts.len() <= interval {
            // The intervals so far are whole.
            let first = self.counts.len().saturating_sub(INTERVALS);
            let is_enough = self.counts[first..].iter().sum::<u64>() as f64 >= self.enough;
            if self.counts.len() >= INTERVALS && is_enough {
                self.recovered = self.recovered.or(Some(first));
            }
            self.counts.push(0);
        }
        self.counts[interval] += 1;
    }

    /// Time until the first [`INTERVALS`] of which the mean was [`RECOVERED_SHARE`] of the former rate; `None` if there were none such.
    pub fn recovery(&self) -> Option<Duration> {
        self.recovered.map(|first| INTERVAL * first as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When a rate of a thousand a second is back, of so many operations by interval.
    fn recovery(counts: &[u64]) -> Option<Duration> {
        let mut pulse = Pulse::begin(1000.0);
        for (interval, count) in counts.iter().enumerate() {
            (0..*count).for_each(|_| pulse.count(interval));
        }
        pulse.recovery()
    }

    #[test]
    fn it_has_recovered_where_the_mean_of_two_seconds_is_nine_tenths() {
        // A thousand a second are 250 an interval, and 225 are enough: in eight, 1800.
        let slow_then_fast = [vec![100; 20], vec![240; 3], vec![0], vec![240; 20]].concat();
        assert_eq!(recovery(&slow_then_fast), Some(INTERVAL * 24));
        assert_eq!(recovery(&[250; 20]), Some(Duration::ZERO));
        assert_eq!(recovery(&[220; 20]), None);
        assert_eq!(recovery(&[250; 8]), None, "the last one is not whole");
        let mut real = Pulse::begin(1000.0);
        assert!(!(0..100).any(|_| real.beat()), "two seconds are not over");
    }
}
