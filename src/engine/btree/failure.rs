//! How background work fails for which batches wait: a batch that would wait for ever is told the error instead.

use parking_lot::Mutex;

use crate::engine::{Error, Result};

/// Work that fails.
struct Failure {
    error: Error,
    /// How often in a row.
    times: u32,
    /// What of the disk was free.
    free_bytes: u64,
}

/// How the last step of a buffer merge failed, or that a checkpoint finds no space.
#[derive(Default)]
pub struct WorkFailure {
    last: Mutex<Option<Failure>>,
}

impl WorkFailure {
    /// Work failed with `error` while `free_bytes` of the disk were free.
    pub fn note(&self, error: &Error, free_bytes: u64) {
        let mut last = self.last.lock();
        let times = 1 + last.as_ref().map_or(0, |failure| failure.times);
        *last = Some(Failure { error: error.clone(), times, free_bytes });
    }

    /// Work succeeded.
    pub fn clear(&self) {
        *self.last.lock() = None;
    }

    /// The error, if work failed `tries` times in a row, and has not been tried since there is more room than that: `free_bytes` says what is
    /// free now.
    pub fn check(&self, tries: u32, free_bytes: impl FnOnce() -> u64) -> Result<()> {
        match &*self.last.lock() {
            Some(failure) if failure.times >= tries && free_bytes() <= failure.free_bytes => {
                Err(failure.error.clone())
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_that_fails_is_told_after_so_many_tries_and_not_where_there_is_more_room_since() {
        let failure = WorkFailure::default();
        assert!(failure.check(1, || panic!("nothing has failed")).is_ok());
        failure.note(&Error::NoSpace, 100);
        assert!(matches!(failure.check(1, || 100), Err(Error::NoSpace)));
        assert!(failure.check(1, || 101).is_ok(), "there is more room");
        assert!(failure.check(2, || 100).is_ok(), "worth another try");
        failure.note(&Error::NoSpace, 50);
        assert!(failure.check(2, || 50).is_err());
        failure.clear();
        assert!(failure.check(1, || 0).is_ok());
        failure.note(&Error::NoSpace, 50);
        assert!(failure.check(2, || 50).is_ok(), "in a row");
    }
}
