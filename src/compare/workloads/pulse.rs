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
}

impl Pulse {
    /// Begins now.
    pub fn begin() -> Pulse {
        Pulse { began: Instant::now(), counts: Vec::new() }
    }

    /// Counts an operation.
    pub fn beat(&mut self) {
        let interval = (self.began.elapsed().as_nanos() / INTERVAL.as_nanos()) as usize;
        if self.counts.len() <= interval {
            self.counts.resize(interval + 1, 0);
        }
        self.counts[interval] += 1;
    }

    /// Time until the first [`INTERVALS`] of which the mean is [`RECOVERED_SHARE`] of `rate` operations a second; `None` if there were none such.
    pub fn recovery(&self, rate: f64) -> Option<Duration> {
        let enough = rate * RECOVERED_SHARE * (INTERVAL * INTERVALS as u32).as_secs_f64();
        // The last interval was cut short.
        let whole = self.counts.split_last().map_or(&[][..], |(_, whole)| whole);
        let first = whole.windows(INTERVALS).position(|counts| counts.iter().sum::<u64>() as f64 >= enough);
        first.map(|first| INTERVAL * first as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_recovered_where_the_mean_of_two_seconds_is_nine_tenths() {
        let slow_then_fast = [vec![100; 20], vec![240; 3], vec![0], vec![240; 20]].concat();
        let pulse = |counts: &[u64]| Pulse { began: Instant::now(), counts: counts.to_vec() };
        // A thousand a second are 250 an interval, and 225 are enough: in eight, 1800.
        assert_eq!(pulse(&slow_then_fast).recovery(1000.0), Some(INTERVAL * 24));
        assert_eq!(pulse(&[250; 20]).recovery(1000.0), Some(Duration::ZERO));
        assert_eq!(pulse(&[220; 20]).recovery(1000.0), None);
        assert_eq!(pulse(&[250; 8]).recovery(1000.0), None, "the last one is not whole");
        let mut real = Pulse::begin();
        (0..100).for_each(|_| real.beat());
        assert_eq!(real.counts.iter().sum::<u64>(), 100);
    }
}
