//! Who causes requests to an object store: operations of the filesystem, by the tags of their batches, or nobody.
//!
//! A request for which an operation waits is that operation's. What is shared is charged in proportion to the bytes of keys and values that operations have put
//! into what is sent: an object of the log to those that came since the one before, a table and the manifest that names it to those that came since tables were
//! made last, of the same class of keys, a merge to all that came since the opening. What nobody has put anything into, a look for what others have changed or a
//! listing, is nobody's.
//!
//! # Invariants
//!
//! 1. What is charged to all operations and to nobody is what has passed, to the request and to the byte.
//! 2. A request is charged whole, to one operation. Of many that are shared in the same way each pays for its share, give or take a few.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::Arc;

use strum::EnumCount;

use super::requests::RequestKind;
use super::{Batch, TAGS};
use crate::base::metric::metrics;

/// Who may be charged: each tag, and nobody.
const PAYERS: usize = TAGS + 1;

metrics! {
    /// Requests to an object store that somebody has caused, those without success among them.
    #[derive(Copy, Eq)]
    pub struct Charge witness "kvfs::engine::charges::tests::what_is_shared_is_charged_to_the_request_and_to_the_byte" {
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
        /// Bytes of objects written.
        counter write_bytes: u64 [Bytes];
        /// Bytes of objects read.
        counter read_bytes: u64 [Bytes];
    }
}

impl Charge {
    /// Requests of every kind.
    pub fn requests(&self) -> u64 {
        self.puts + self.gets + self.heads + self.lists + self.deletes
    }
}

impl std::ops::Add for Charge {
    type Output = Charge;
    fn add(self, other: Charge) -> Charge {
        Charge {
            puts: self.puts + other.puts,
            gets: self.gets + other.gets,
            heads: self.heads + other.heads,
            lists: self.lists + other.lists,
            deletes: self.deletes + other.deletes,
            write_bytes: self.write_bytes + other.write_bytes,
            read_bytes: self.read_bytes + other.read_bytes,
        }
    }
}

/// Whom a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payer {
    /// The operation with this tag, which waits for it.
    Operation(u8),
    /// Those whose batches are in an object of the log.
    Log,
    /// Those whose entries are in a table that memory becomes, of a class of keys if it is known.
    Table(Option<u8>),
    /// Those whose tables the next manifest names.
    Manifest,
    /// Those who have put what is merged, or removed because it was.
    Merge(Option<u8>),
    /// Nobody.
    Nobody,
}

/// Bytes by tag.
#[derive(Clone, Debug)]
struct Weights([u64; TAGS]);

impl Default for Weights {
    fn default() -> Weights {
        Weights([0; TAGS])
    }
}

impl Weights {
    fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// All bytes of one tag.
    fn only(tag: u8) -> Weights {
        let mut weights = Weights::default();
        if let Some(weight) = weights.0.get_mut(usize::from(tag)) {
            *weight = 1;
        }
        weights
    }

    fn of<'a>(classes: impl Iterator<Item = &'a Weights>) -> Weights {
        classes.fold(Weights::default(), |mut sum, weights| {
            sum += weights;
            sum
        })
    }
}

impl AddAssign<&Weights> for Weights {
    fn add_assign(&mut self, other: &Weights) {
        self.0.iter_mut().zip(&other.0).for_each(|(sum, more)| *sum += more);
    }
}

/// The shares of those who pay for a request. Those of parts that are sent one after the other are the same.
#[derive(Clone, Debug)]
pub struct Share(Arc<Weights>);

/// Bytes by class of key.
type Classes = BTreeMap<u8, Weights>;

/// Charges requests to whoever caused them.
pub(super) struct Ledger {
    charges: [Charge; PAYERS],
    /// Since an object of the log was sent.
    unsent: Weights,
    /// In that object.
    sent: Share,
    /// Since memory became tables.
    unsettled: Classes,
    /// In these tables.
    settling: Classes,
    /// Tables were begun that no manifest has named yet.
    is_settling: bool,
    /// Since the opening.
    all: Classes,
    /// Parts of requests of each kind for which each has to pay yet, less than 0 where it has paid for others.
    credit: [[f64; PAYERS]; RequestKind::COUNT],
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger {
            charges: [Charge::default(); PAYERS],
            unsent: Weights::default(),
            sent: Share(Arc::default()),
            unsettled: Classes::new(),
            settling: Classes::new(),
            is_settling: false,
            all: Classes::new(),
            credit: [[0.0; PAYERS]; RequestKind::COUNT],
        }
    }
}

/// The weights of a class, or of all together.
fn of_class(classes: &Classes, class: Option<u8>) -> Weights {
    let found = class.and_then(|class| classes.get(&class));
    found.cloned().unwrap_or_else(|| Weights::of(classes.values()))
}

impl Ledger {
    /// What everybody was charged, by tag, and behind them nobody.
    pub fn charges(&self) -> Vec<Charge> {
        self.charges.to_vec()
    }

    /// Notes what a batch that was taken will have sent.
    pub fn applied(&mut self, batch: &Batch) {
        let tag = usize::from(batch.tag) % TAGS;
        for operation in batch.operations() {
            let class = operation.key().first().copied().unwrap_or(0);
            // A delete of the empty key is one all the same.
            let bytes = operation.bytes().max(1);
            self.unsent.0[tag] += bytes;
            for classes in [&mut self.unsettled, &mut self.all] {
                classes.entry(class).or_default().0[tag] += bytes;
            }
        }
    }

    /// Who pays for a request that is sent now.
    pub fn share(&mut self, payer: Payer) -> Share {
        let weights = match payer {
            Payer::Operation(tag) => Weights::only(tag),
            Payer::Log => {
                // One that is sent again has what it had.
                if self.unsent.total() > 0 {
                    self.sent = Share(Arc::new(std::mem::take(&mut self.unsent)));
                }
                return self.sent.clone();
            }
            Payer::Table(class) => {
                if !self.is_settling && !self.unsettled.is_empty() {
                    self.settling = std::mem::take(&mut self.unsettled);
                }
                self.is_settling = true;
                of_class(&self.settling, class)
            }
            Payer::Manifest if self.is_settling => {
                self.is_settling = false;
                of_class(&self.settling, None)
            }
            Payer::Manifest => of_class(&self.all, None),
            Payer::Merge(class) => of_class(&self.all, class),
            Payer::Nobody => Weights::default(),
        };
        Share(Arc::new(weights))
    }

    /// Charges a request that carried so many bytes.
    pub fn charge(&mut self, share: &Share, kind: RequestKind, write_bytes: u64, read_bytes: u64) {
        let payer = self.next_payer(share, kind);
        let weights = &share.0.0;
        let total = share.0.total();
        let (mut written, mut read) = (write_bytes, read_bytes);
        if total > 0 {
            let part =
                |bytes: u64, weight: u64| (u128::from(bytes) * u128::from(weight) / u128::from(total)) as u64;
            for (charge, &weight) in self.charges.iter_mut().zip(weights).filter(|(_, weight)| **weight > 0) {
                let parts = (part(write_bytes, weight), part(read_bytes, weight));
                charge.write_bytes += parts.0;
                charge.read_bytes += parts.1;
                (written, read) = (written - parts.0, read - parts.1);
            }
        }
        let charge = &mut self.charges[payer];
        // What does not divide.
        charge.write_bytes += written;
        charge.read_bytes += read;
        let of_kind = match kind {
            RequestKind::Put => &mut charge.puts,
            RequestKind::Get => &mut charge.gets,
            RequestKind::Head => &mut charge.heads,
            RequestKind::List => &mut charge.lists,
            RequestKind::Delete => &mut charge.deletes,
        };
        *of_kind += 1;
    }

    /// Who of those who share a request pays for it: the one that owes most.
    fn next_payer(&mut self, share: &Share, kind: RequestKind) -> usize {
        let total = share.0.total() as f64;
        let sharing = || share.0.0.iter().enumerate().filter(|(_, weight)| **weight > 0);
        let credit = &mut self.credit[kind as usize];
        for (tag, weight) in sharing() {
            credit[tag] += *weight as f64 / total;
        }
        let Some(payer) =
            sharing().map(|(tag, _)| tag).max_by(|one, other| credit[*one].total_cmp(&credit[*other]))
        else {
            return TAGS;
        };
        credit[payer] -= 1.0;
        payer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(tag: u8, class: u8, bytes: usize) -> Batch {
        let mut batch = Batch::new(tag);
        batch.put(vec![class], vec![0; bytes - 1]);
        batch
    }

    fn charge(ledger: &mut Ledger, payer: Payer, kind: RequestKind, write_bytes: u64, read_bytes: u64) {
        let share = ledger.share(payer);
        ledger.charge(&share, kind, write_bytes, read_bytes);
    }

    #[test]
    fn what_is_shared_is_charged_to_the_request_and_to_the_byte() {
        let mut ledger = Ledger::default();
        for round in 0..100u64 {
            ledger.applied(&batch(3, 0x10, 100));
            ledger.applied(&batch(5, 0x40, 300));
            charge(&mut ledger, Payer::Log, RequestKind::Put, 401 + round % 2, 0);
        }
        charge(&mut ledger, Payer::Operation(7), RequestKind::Get, 0, 50);
        charge(&mut ledger, Payer::Operation(7), RequestKind::Head, 0, 0);
        charge(&mut ledger, Payer::Nobody, RequestKind::List, 0, 0);
        charge(&mut ledger, Payer::Merge(Some(0x10)), RequestKind::Delete, 0, 0);
        let charges = ledger.charges();
        assert_eq!((charges[3].puts, charges[5].puts), (25, 75));
        assert_eq!((charges[7].gets, charges[7].heads, charges[7].read_bytes), (1, 1, 50));
        assert_eq!((charges[TAGS].lists, charges[3].deletes), (1, 1));
        let all = charges.iter().fold(Charge::default(), |sum, charge| sum + *charge);
        assert_eq!(all.write_bytes, 401 * 50 + 402 * 50);
        assert_eq!((all.puts, all.gets, all.heads, all.lists, all.deletes), (100, 1, 1, 1, 1));
        assert_eq!((all.requests(), all.read_bytes), (104, 50));
        assert!(charges[5].write_bytes.abs_diff(3 * charges[3].write_bytes) < 400, "{charges:?}");
    }

    #[test]
    fn an_object_of_the_log_is_paid_by_those_in_it_and_one_that_is_sent_again_by_the_same() {
        let mut ledger = Ledger::default();
        charge(&mut ledger, Payer::Log, RequestKind::Put, 10, 0);
        assert_eq!(ledger.charges()[TAGS].puts, 1, "nobody has written yet");
        ledger.applied(&batch(1, 0x10, 100));
        let first = ledger.share(Payer::Log);
        // While it is under way.
        ledger.applied(&batch(2, 0x10, 1000));
        ledger.charge(&first, RequestKind::Put, 100, 0);
        charge(&mut ledger, Payer::Log, RequestKind::Put, 1000, 0);
        charge(&mut ledger, Payer::Log, RequestKind::Put, 1000, 0);
        let charges = ledger.charges();
        assert_eq!((charges[1].puts, charges[1].write_bytes), (1, 100));
        assert_eq!((charges[2].puts, charges[2].write_bytes), (2, 2000));
    }

    #[test]
    fn tables_are_paid_by_class_and_the_manifest_that_names_them_by_all_of_them() {
        let mut ledger = Ledger::default();
        ledger.applied(&batch(1, 0x10, 100));
        ledger.applied(&batch(2, 0x40, 900));
        charge(&mut ledger, Payer::Table(Some(0x40)), RequestKind::Put, 900, 0);
        // What comes while tables are made is in the next ones.
        ledger.applied(&batch(3, 0x40, 50));
        charge(&mut ledger, Payer::Table(Some(0x10)), RequestKind::Put, 100, 0);
        charge(&mut ledger, Payer::Manifest, RequestKind::Put, 1000, 0);
        let written = |ledger: &Ledger| [1, 2, 3].map(|tag| ledger.charges()[tag].write_bytes);
        assert_eq!(written(&ledger), [100 + 100, 900 + 900, 0]);
        charge(&mut ledger, Payer::Table(None), RequestKind::Put, 50, 0);
        charge(&mut ledger, Payer::Merge(Some(0x40)), RequestKind::Get, 0, 950);
        assert_eq!(written(&ledger), [200, 1800, 50]);
        assert_eq!([1, 2, 3].map(|tag| ledger.charges()[tag].read_bytes), [0, 900, 50]);
    }
}
