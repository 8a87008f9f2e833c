//! A model of a disk with an arm: what its seeks cost.
//!
//! What a disk with an arm does in a second depends less on bytes than on how often the arm moves. So pages that lie beside each other are as good as
//! free, and a single page costs as much as a megabyte.
//!
//! # What the model is
//!
//! - A file lies in one piece, each in a place of its own. The arm moves wherever a page is written that does not follow the one before.
//! - A move takes [`SEEK`], the turn of the platter included; then bytes pass at [`RATE_BYTES`] a second.
//! - Only writes count: what is read depends on caches that are not the store's.

use std::time::Duration;

use super::{FilePage, PAGE_BYTES};
use crate::base::metric::Since;

/// Time of a move of the arm, and until what is looked for has come round.
pub const SEEK: Duration = Duration::from_millis(8);
/// Bytes that pass in a second without a move.
pub const RATE_BYTES: u64 = 200_000_000;

/// What an arm has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArmCounters {
    /// Moves.
    pub seeks: u64,
    /// Pages that were written.
    pub pages: u64,
}

impl ArmCounters {
    /// Time that it all took.
    pub fn time(&self) -> Duration {
        let passing = Duration::from_secs_f64((self.pages * PAGE_BYTES) as f64 / RATE_BYTES as f64);
        Duration::from_secs_f64(SEEK.as_secs_f64() * self.seeks as f64) + passing
    }
}

impl Since for ArmCounters {
    fn since(&self, earlier: &ArmCounters) -> ArmCounters {
        ArmCounters { seeks: self.seeks - earlier.seeks, pages: self.pages - earlier.pages }
    }
}

/// The arm.
#[derive(Default)]
pub(super) struct Arm {
    /// The page behind the last one that was written.
    at: FilePage,
    pub(super) counters: ArmCounters,
}

impl Arm {
    /// Writes a page.
    pub(super) fn write(&mut self, page: FilePage) {
        self.counters.seeks += u64::from(page != self.at);
        self.counters.pages += 1;
        self.at = (page.0, page.1 + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arm_moves_where_a_page_does_not_follow() {
        let mut arm = Arm::default();
        (0..1000).for_each(|page| arm.write((1, page)));
        assert_eq!(arm.counters, ArmCounters { seeks: 1, pages: 1000 });
        let before = arm.counters;
        // Behind the last page of another file, one page twice, and every second page.
        arm.write((2, 1000));
        arm.write((2, 1000));
        (0..10).for_each(|page| arm.write((1, 2 * page)));
        let counters = arm.counters.since(&before);
        assert_eq!(counters, ArmCounters { seeks: 12, pages: 12 });
        let bytes = 12 * PAGE_BYTES;
        assert_eq!(counters.time(), 12 * SEEK + Duration::from_secs_f64(bytes as f64 / RATE_BYTES as f64));
    }
}
