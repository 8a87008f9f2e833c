//! Requests to an object store: what its provider counts, and bills.
//!
//! An engine whose files are objects counts each request once, where it sends it ([`ObjectMeter`]): by kind and purpose here, what it carries by purpose as
//! all that an engine writes and reads ([`crate::disk::PurposeMeter`]), and to whoever caused it ([`super::charges`]).
//!
//! # Invariants
//!
//! 1. The requests of all purposes, and those charged to all operations and to nobody, are the same requests.
//! 2. Of a purpose, those that wrote, those that were sent in vain among them, are its writes at the door, and bytes are charged as they are counted there.

use std::sync::atomic::Ordering::Relaxed;

use parking_lot::Mutex;

use super::charges::{Charge, Ledger, Payer, Share};
use super::{Batch, Price};
use crate::base::metric::{Each, metrics};
use crate::disk::{DiskCounters, Purpose, PurposeMeter};

/// Kinds of requests that are billed apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumCount)]
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
    fn count(&self, kind: RequestKind, outcome: Outcome) {
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

/// Requests by purpose.
pub type RequestCounters = Each<Purpose, Requests, { Purpose::SLOTS }>;

metrics! {
    /// What an engine whose files are objects says of its requests.
    pub struct ObjectShape {
        /// Requests by purpose.
        inside requests: RequestCounters;
        /// Requests by who caused them: by tag, and behind the tags those that nobody did.
        inside charges: Vec<Charge>;
        /// Bytes of objects that it refers to; `None` where it does not know.
        hidden stored_bytes: Option<u64>;
        /// What they cost; `None` where nobody said.
        hidden price: Option<Price>;
    }
}

/// A request that was answered, or never will be.
#[derive(Clone, Copy, Debug)]
pub struct Passed {
    /// Its kind.
    pub kind: RequestKind,
    /// What it is for.
    pub purpose: Purpose,
    /// What became of it.
    pub outcome: Outcome,
    /// Bytes of content that were sent with it.
    pub write_bytes: u64,
    /// Bytes of content that came for it.
    pub read_bytes: u64,
}

/// The meter at the door of an engine whose files are objects.
#[derive(Default)]
pub struct ObjectMeter {
    traffic: PurposeMeter,
    requests: [RequestMeter; Purpose::SLOTS],
    ledger: Mutex<Ledger>,
}

impl ObjectMeter {
    /// What was written and read, by purpose.
    pub fn traffic(&self) -> DiskCounters {
        self.traffic.snapshot()
    }

    /// Requests by purpose and by who caused them, at `price`.
    pub fn shape(&self, stored_bytes: Option<u64>, price: Option<Price>) -> ObjectShape {
        ObjectShape {
            requests: RequestCounters::from_fn(|slot| self.requests[slot].snapshot()),
            charges: self.ledger.lock().charges(),
            stored_bytes,
            price,
        }
    }

    /// Notes what a batch that was taken will have sent.
    pub fn applied(&self, batch: &Batch) {
        self.ledger.lock().applied(batch);
    }

    /// Who pays for a request that is sent now.
    pub fn share(&self, payer: Payer) -> Share {
        self.ledger.lock().share(payer)
    }

    /// Counts a request, for which those of `share` pay.
    pub fn count(&self, passed: Passed, share: &Share) {
        let Passed { kind, purpose, outcome, write_bytes, read_bytes } = passed;
        self.requests[purpose.slot()].count(kind, outcome);
        let (mut written, mut read) = (0, 0);
        match (outcome, kind) {
            (Outcome::Failed, _) => self.traffic.failed(purpose),
            // What was refused was sent all the same.
            (Outcome::Done | Outcome::Refused, RequestKind::Put) => {
                written = write_bytes;
                self.traffic.wrote(purpose, written);
            }
            (Outcome::Done, RequestKind::Get) => {
                read = read_bytes;
                self.traffic.read(purpose, read);
            }
            _ => {}
        }
        self.ledger.lock().charge(share, kind, written, read);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::TAGS;

    fn passed(kind: RequestKind, purpose: Purpose, outcome: Outcome) -> Passed {
        Passed { kind, purpose, outcome, write_bytes: 100, read_bytes: 7 }
    }

    #[test]
    fn requests_are_counted_by_kind_and_outcome() {
        use RequestKind::*;
        let meter = ObjectMeter::default();
        let nobody = meter.share(Payer::Nobody);
        let count = |kind, purpose, outcome| meter.count(passed(kind, purpose, outcome), &nobody);
        for (index, kind) in [Put, Get, Head, List, Delete].into_iter().enumerate() {
            (0..=index).for_each(|_| count(kind, Purpose::Manifest, Outcome::Done));
        }
        count(Get, Purpose::Get, Outcome::Missing);
        count(Put, Purpose::Wal, Outcome::Refused);
        count(Put, Purpose::Wal, Outcome::Failed);
        count(List, Purpose::Manifest, Outcome::Failed);
        let counted = meter.shape(None, None);
        let expected =
            Requests { puts: 3, gets: 3, heads: 3, lists: 5, deletes: 5, missing: 1, refused: 1, failed: 2 };
        assert_eq!(counted.requests.total(), expected);
        let of_log = Requests { puts: 2, refused: 1, failed: 1, ..Requests::default() };
        assert_eq!(counted.requests.of(Purpose::Wal), of_log);
        assert_eq!(
            counted.requests.of(Purpose::Get),
            Requests { gets: 1, missing: 1, ..Requests::default() }
        );
        // Each purpose has written what was done or refused, and is charged as much.
        let traffic = meter.traffic();
        assert_eq!((traffic.of(Purpose::Wal).writes, traffic.of(Purpose::Wal).errors), (1, 1));
        assert_eq!((traffic.of(Purpose::Manifest).writes, traffic.of(Purpose::Manifest).reads), (1, 2));
        let charged = counted.charges[TAGS];
        assert_eq!(
            (charged.puts, charged.gets, charged.heads),
            (expected.puts, expected.gets, expected.heads)
        );
        assert_eq!((charged.lists, charged.deletes), (expected.lists, expected.deletes));
        assert_eq!((charged.write_bytes, charged.read_bytes), (200, 14));
        assert_eq!((traffic.total().write_bytes, traffic.total().read_bytes), (200, 14));
        assert!(counted.charges[..TAGS].iter().all(|charge| *charge == Charge::default()));
    }
}
