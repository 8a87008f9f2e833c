//! Distance between the durable state and now: the age of the last checkpoint in bytes of the log, and the age of the oldest change in time.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use crate::engine::Lsn;

/// A point in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogPoint {
    /// End of the log at that moment.
    pub lsn: Lsn,
    /// Bytes of page images that had been logged since opening at that moment.
    pub image_bytes: u64,
}

/// Age of the last checkpoint. Besides batches the log holds images of pages, and changes that were set aside; neither is counted, since
/// they need no replay.
#[derive(Default)]
pub struct CheckpointAge {
    /// Bytes of page images logged since opening, plus those that opening found behind the recovery LSN.
    logged_image_bytes: AtomicU64,
    /// Bytes of those images that lie before the recovery LSN of the durable state.
    settled_image_bytes: AtomicU64,
    /// Bytes of the log behind that recovery LSN that hold changes which are set aside.
    settled_aside_bytes: AtomicU64,
    /// Clock time of the first change since the last freeze in nanoseconds, plus one; 0 without a change.
    dirty_since: AtomicU64,
}

impl CheckpointAge {
    /// The age after an opening that found `image_bytes` of images in the log, `settled_image_bytes` of them before the recovery LSN.
    pub fn new(image_bytes: u64, settled_image_bytes: u64) -> CheckpointAge {
        CheckpointAge {
            logged_image_bytes: AtomicU64::new(image_bytes),
            settled_image_bytes: AtomicU64::new(settled_image_bytes),
            ..CheckpointAge::default()
        }
    }

    /// The point in the log at its present end, `lsn`.
    pub fn log_point(&self, lsn: Lsn) -> LogPoint {
        LogPoint { lsn, image_bytes: self.logged_image_bytes.load(Relaxed) }
    }

    /// Bytes of batches in the log from the recovery LSN of the durable state to `end`, which opening would replay.
    pub fn log_bytes(&self, recovery_lsn: Lsn, end: Lsn) -> u64 {
        let logged_bytes = self.logged_image_bytes.load(Relaxed);
        let image_bytes = logged_bytes.saturating_sub(self.settled_image_bytes.load(Relaxed));
        let aside_bytes = self.settled_aside_bytes.load(Relaxed);
        end.bytes_since(recovery_lsn).saturating_sub(image_bytes + aside_bytes)
    }

    /// Counts an image of a page that was logged.
    pub fn add_image(&self, bytes: u64) {
        self.logged_image_bytes.fetch_add(bytes, Relaxed);
    }

    /// Notes a durable state before whose recovery LSN `image_bytes` of images had been logged.
    pub fn settle_images(&self, image_bytes: u64) {
        self.settled_image_bytes.store(image_bytes, Relaxed);
    }

    /// Notes a durable state behind whose recovery LSN `aside_bytes` of the log hold changes that are set aside.
    pub fn settle_aside(&self, aside_bytes: u64) {
        self.settled_aside_bytes.store(aside_bytes, Relaxed);
    }

    /// Notes a change at clock time `now`.
    pub fn note_change(&self, now: Duration) {
        // Only the first change counts, so a failed exchange needs no retry.
        let _ = self.dirty_since.compare_exchange(0, now.as_nanos() as u64 + 1, Relaxed, Relaxed);
    }

    /// Notes that a checkpoint has frozen every change.
    pub fn clear_changes(&self) {
        self.dirty_since.store(0, Relaxed);
    }

    /// Time since the first change that no checkpoint has frozen.
    pub fn dirty_age(&self, now: Duration) -> Duration {
        match self.dirty_since.load(Relaxed) {
            // There is none, or a batch is being applied that has not noted its change yet.
            0 => Duration::ZERO,
            since => now.saturating_sub(Duration::from_nanos(since - 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_and_what_is_set_aside_are_no_age_and_the_first_change_counts() {
        let age = CheckpointAge::new(30, 10);
        assert_eq!(
            age.log_bytes(Lsn::new(1000), Lsn::new(1500)),
            480,
            "of 30 bytes of images 10 lie before the recovery LSN"
        );
        age.add_image(100);
        assert_eq!(age.log_bytes(Lsn::new(1000), Lsn::new(1500)), 380);
        let point = age.log_point(Lsn::new(1500));
        assert_eq!((point.lsn, point.image_bytes), (Lsn::new(1500), 130));
        age.settle_images(point.image_bytes);
        age.settle_aside(40);
        assert_eq!(
            [age.log_bytes(Lsn::new(1500), Lsn::new(1500)), age.log_bytes(Lsn::new(1500), Lsn::new(1600))],
            [0, 60]
        );

        let second = Duration::from_secs(1);
        assert_eq!(age.dirty_age(9 * second), Duration::ZERO);
        age.note_change(Duration::ZERO);
        age.note_change(5 * second);
        assert_eq!(age.dirty_age(9 * second), 9 * second);
        age.clear_changes();
        assert_eq!(age.dirty_age(9 * second), Duration::ZERO);
    }
}
