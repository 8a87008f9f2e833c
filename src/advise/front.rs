//! Which designs are worth a look, and what a choice costs when the work changes.
//!
//! A design is on the *front* if no other is as good in every amplification and better in one. *Regret*: the design that moves the fewest bytes
//! to and from the disk now is not the one that would move the fewest if writes were a larger or smaller part of the work; regret is
//! how much more it moves than that one then.

use super::steps::{Step, StepTotals};

/// Whether each of `points` is on the front; smaller is better in each coordinate.
pub fn front(points: &[[f64; 3]]) -> Vec<bool> {
    let beats = |a: &[f64; 3], b: &[f64; 3]| {
        a.iter().zip(b).all(|(a, b)| a <= b) && a.iter().zip(b).any(|(a, b)| a < b)
    };
    points.iter().map(|point| !points.iter().any(|other| beats(other, point))).collect()
}

/// Kendall's tau-b of two orders of the same things: 1 if they agree, −1 if one is the other backwards. `None` where one has no order.
pub fn tau(a: &[f64], b: &[f64]) -> Option<f64> {
    let (mut alike, mut ties_a, mut ties_b, mut pairs) = (0i64, 0u64, 0u64, 0u64);
    for one in 0..a.len() {
        for other in 0..one {
            let (first, second) = (a[one].total_cmp(&a[other]) as i64, b[one].total_cmp(&b[other]) as i64);
            alike += first * second;
            ties_a += u64::from(first == 0);
            ties_b += u64::from(second == 0);
            pairs += 1;
        }
    }
    let norm = ((pairs - ties_a) as f64 * (pairs - ties_b) as f64).sqrt();
    (norm > 0.0).then(|| alike as f64 / norm)
}

/// Takes a part of the steps behind the mark, spread evenly: so many batches, and so many reads.
#[derive(Clone, Copy, Debug)]
pub struct Thinning {
    batches: Part,
    reads: Part,
    is_marked: bool,
    takes_batch: bool,
}

/// A share of things that come one by one.
#[derive(Clone, Copy, Debug)]
struct Part {
    share: f64,
    owed: f64,
}

impl Part {
    fn new(share: f64) -> Part {
        Part { share, owed: share }
    }

    fn takes(&mut self) -> bool {
        let takes = self.owed >= 1.0;
        self.owed += self.share - f64::from(takes);
        takes
    }
}

impl Thinning {
    /// The thinning after which batches are so many hundredths more (or fewer) of all batches and reads. `None` where that cannot be: there
    /// is only one of both, or the share would be none or all.
    pub fn of(totals: &StepTotals, percent: i64) -> Option<Thinning> {
        let (batches, reads) = (totals.batches as f64, totals.reads as f64);
        let now = batches / (batches + reads);
        let wanted = now + percent as f64 / 100.0;
        if batches == 0.0 || reads == 0.0 || wanted <= 0.0 || wanted >= 1.0 {
            return None;
        }
        let odds = wanted / (1.0 - wanted);
        let (of_batches, of_reads) = ((odds * reads / batches).min(1.0), (batches / odds / reads).min(1.0));
        let (batches, mut reads) = (Part::new(of_batches), Part::new(of_reads));
        reads.owed = of_reads;
        let mut thinning = Thinning { batches, reads, is_marked: false, takes_batch: true };
        thinning.takes_batch = thinning.batches.takes();
        Some(thinning)
    }

    /// Whether a step is taken; asked for each in turn.
    pub fn takes(&mut self, step: &Step) -> bool {
        match step {
            _ if !self.is_marked => {
                self.is_marked = *step == Step::Mark;
                true
            }
            Step::Put { .. } | Step::Delete { .. } => self.takes_batch,
            Step::Batch { .. } => std::mem::replace(&mut self.takes_batch, self.batches.takes()),
            Step::Get { .. } | Step::Scan { .. } => self.reads.takes(),
            Step::Sync | Step::Mark => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beaten_in_everything_is_not_on_the_front() {
        let points = [[1.0, 5.0, 2.0], [2.0, 1.0, 2.0], [2.0, 5.0, 2.0], [1.0, 5.0, 2.0], [9.0, 9.0, 1.0]];
        assert_eq!(front(&points), [true, true, false, true, true]);
    }

    #[test]
    fn orders_agree_or_not() {
        let ascending = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(tau(&ascending, &[2.0, 3.0, 5.0, 8.0]), Some(1.0));
        assert_eq!(tau(&ascending, &[4.0, 3.0, 2.0, 1.0]), Some(-1.0));
        assert!((tau(&ascending, &[1.0, 2.0, 4.0, 3.0]).unwrap() - 4.0 / 6.0).abs() < 1e-9);
        assert_eq!(tau(&ascending, &[1.0; 4]), None);
    }

    #[test]
    fn a_share_of_writes_is_moved_by_leaving_steps_out() {
        let totals = StepTotals { batches: 4000, reads: 6000, ..StepTotals::default() };
        for (percent, wanted) in [(-30, 0.1), (-10, 0.3), (0, 0.4), (10, 0.5), (30, 0.7)] {
            let mut thinning = Thinning::of(&totals, percent).unwrap();
            let (mut batches, mut reads) = (0, 0);
            assert!(thinning.takes(&Step::Batch { nanos: 0 }), "the image is taken whole");
            assert!(thinning.takes(&Step::Mark));
            for number in 0..10_000 {
                if number % 10 < 4 {
                    let takes = thinning.takes(&Step::Put { rank: 0, value_bytes: 1 });
                    assert_eq!(thinning.takes(&Step::Batch { nanos: 0 }), takes, "a batch is whole");
                    batches += u64::from(takes);
                } else {
                    reads += u64::from(thinning.takes(&Step::Get { rank: 0, is_found: true }));
                }
            }
            let share = batches as f64 / (batches + reads) as f64;
            assert!((share - wanted).abs() < 0.001, "{percent}: {share}");
            assert!(batches.max(reads) >= 3999, "one of both stays whole");
        }
        assert!(Thinning::of(&totals, 60).is_none());
        assert!(Thinning::of(&StepTotals { reads: 0, ..totals }, -10).is_none());
    }
}
