//! Requests to an object store: what its provider counts, and bills.
//!
//! What they carry is counted by purpose as all that an engine writes and reads ([`crate::disk::PurposeMeter`]); here they are by kind. An engine whose
//! files are objects counts both where it sends a request ([`crate::engine::Inspect::traffic`]).

use std::sync::atomic::Ordering::Relaxed;

use crate::base::metric::metrics;

/// Kinds of requests that are billed apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// An object, or a part of one, is written, or one is put together of its parts.
    Put,
    /// An object is read, or a part of one.
    Get,
    /// Only what is known of an object is asked for.
    Head,
    /// Names of objects, a thousand at most.
    List,
    /// An object is removed.
    Delete,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was done.
    Done,
    /// There is no such object.
    Missing,
    /// A condition was not met: the object is there already, or is another one by now.
    Refused,
    /// The store did not answer, or answered that it cannot.
    Failed,
}

metrics! {
    /// Requests to an object store, those without success among them.
    #[derive(Copy, Eq)]
    pub struct Requests counted by RequestMeter witness "kvfs::engine::requests::tests::requests_are_counted_by_kind_and_outcome" {
        /// Objects and parts of objects written (PUT, POST).
        counter puts: u64 [Count];
        /// Objects and parts of objects read (GET).
        counter gets: u64 [Count];
        /// Questions about one object (HEAD).
        counter heads: u64 [Count];
        /// Listings of up to a thousand names (LIST).
        counter lists: u64 [Count];
        /// Objects removed (DELETE).
        counter deletes: u64 [Count];
        /// Those of all requests that asked for an object that is not there.
        counter missing: u64 [Count];
        /// Those of all requests whose condition was not met.
        counter refused: u64 [Count];
        /// Those of all requests that the store did not answer, or could not do.
        counter failed: u64 [Count];
    }
}

impl RequestMeter {
    /// Counts a request.
    pub fn count(&self, kind: RequestKind, outcome: Outcome) {
        let of_kind = match kind {
            RequestKind::Put => &self.puts,
            RequestKind::Get => &self.gets,
            RequestKind::Head => &self.heads,
            RequestKind::List => &self.lists,
            RequestKind::Delete => &self.deletes,
        };
        of_kind.fetch_add(1, Relaxed);
        match outcome {
            Outcome::Done => {}
            Outcome::Missing => _ = self.missing.fetch_add(1, Relaxed),
            Outcome::Refused => _ = self.refused.fetch_add(1, Relaxed),
            Outcome::Failed => _ = self.failed.fetch_add(1, Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_counted_by_kind_and_outcome() {
        let meter = RequestMeter::default();
        let kinds =
            [RequestKind::Put, RequestKind::Get, RequestKind::Head, RequestKind::List, RequestKind::Delete];
        for (index, kind) in kinds.into_iter().enumerate() {
            (0..=index).for_each(|_| meter.count(kind, Outcome::Done));
        }
        meter.count(RequestKind::Get, Outcome::Missing);
        meter.count(RequestKind::Put, Outcome::Refused);
        meter.count(RequestKind::List, Outcome::Failed);
        let counted = meter.snapshot();
        let expected =
            Requests { puts: 2, gets: 3, heads: 3, lists: 5, deletes: 5, missing: 1, refused: 1, failed: 1 };
        assert_eq!(counted, expected);
    }
}
