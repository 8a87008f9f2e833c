//! Failures of background work that batches wait for: a batch that would wait for ever gets the error instead.

use parking_lot::Mutex;

use crate::engine::{Error, Result};

/// Background work that fails.
struct Failure {
    error: Error,
    /// Failures in a row.
    times: u32,
    /// Bytes of the disk that were free then.
    free_bytes: u64,
}

/// The last failure of a buffer merge, or of a checkpoint that found no space.
#[derive(Default)]
pub struct WorkFailure {
    last: Mutex<Option<Failure>>,
}

impl WorkFailure {
    /// Notes that work failed with `error` while `free_bytes` of the disk were free.
    pub fn note(&self, error: &Error, free_bytes: u64) {
        let mut last = self.last.lock();
        let times = 1 + last.as_ref().map_or(0, |failure| failure.times);
        *last = Some(Failure { error: error.clone(), times, free_bytes });
    }

    /// Notes that work succeeded.
    pub fn clear(&self) {
        *self.last.lock() = None;
    }

    /// The error, if work failed `tries` times in a row and the disk has no more free bytes than then. `free_bytes` returns what is free
    /// now.
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
