//! What an object store asks for: dollars for the requests of a sample, for what they carried, and for what lies there.

use super::stats::Sample;
use crate::disk::Purpose;
use crate::engine::charges::Charge;
use crate::engine::requests::{ObjectShape, Requests};
use crate::engine::{MONTH_HOURS, TAGS};
use crate::fs::operation::Op;

/// The name of those whose requests no operation has caused.
pub(super) const NOBODY: &str = "nobody";

/// Dollars and requests of an engine whose files are objects.
#[derive(Clone, Copy)]
pub(super) struct Cost<'a> {
    sample: &'a Sample,
    objects: &'a ObjectShape,
}

impl<'a> Cost<'a> {
    /// Those of `sample`; `None` of an engine whose files are on a disk.
    pub fn of(sample: &'a Sample) -> Option<Cost<'a>> {
        Some(Cost { sample, objects: sample.shape.objects.as_ref()? })
    }

    /// The price table that is used.
    pub fn price(&self) -> Option<&'a str> {
        self.objects.price.as_ref().map(|price| price.name.as_str())
    }

    /// All requests.
    pub fn requests(&self) -> Requests {
        self.objects.requests.total()
    }

    /// Requests of one purpose, and what they carried.
    pub fn of_purpose(&self, purpose: Purpose) -> (Requests, Charge) {
        let requests = self.objects.requests.of(purpose);
        let carried = self.sample.disk.of(purpose);
        let Requests { puts, gets, heads, lists, deletes, .. } = requests;
        let (write_bytes, read_bytes) = (carried.write_bytes, carried.read_bytes);
        (requests, Charge { puts, gets, heads, lists, deletes, write_bytes, read_bytes })
    }

    /// What one operation has caused.
    pub fn of_operation(&self, op: Op) -> Charge {
        self.charge(usize::from(op.tag()))
    }

    /// What no operation has caused.
    pub fn of_nobody(&self) -> Charge {
        self.charge(TAGS)
    }

    fn charge(&self, payer: usize) -> Charge {
        self.objects.charges.get(payer).copied().unwrap_or_default()
    }

    /// Every operation with what it has caused, and then nobody.
    pub fn operations(&self) -> impl Iterator<Item = (&'static str, Charge)> + use<'a> {
        let cost = *self;
        let named = Op::ALL.into_iter().map(move |op| (op.name(), cost.of_operation(op)));
        named.chain([(NOBODY, cost.of_nobody())])
    }

    /// Dollars for some of the requests; `None` without prices.
    pub fn usd(&self, charge: &Charge) -> Option<f64> {
        Some(self.objects.price.as_ref()?.of(charge))
    }

    /// Dollars for all requests and what they carried.
    pub fn usd_of_requests(&self) -> Option<f64> {
        let all = Purpose::all().map(|purpose| self.of_purpose(purpose).1);
        self.usd(&all.fold(Charge::default(), |sum, charge| sum + charge))
    }

    /// Bytes of objects that the store refers to.
    pub fn stored_bytes(&self) -> Option<u64> {
        self.objects.stored_bytes
    }

    /// Dollars a month for these bytes.
    pub fn storage_usd_per_month(&self) -> Option<f64> {
        Some(self.objects.price.as_ref()?.of_stored(self.stored_bytes()?))
    }

    /// Dollars an hour for requests, as they were in the time of the sample; `None` for no time.
    pub fn request_usd_per_hour(&self) -> Option<f64> {
        let hours = self.sample.elapsed.as_secs_f64() / 3600.0;
        self.usd_of_requests().filter(|_| hours > 0.0).map(|usd| usd / hours)
    }

    /// Dollars an hour for everything: requests, and what lies there if that is known.
    pub fn usd_per_hour(&self) -> Option<f64> {
        Some(self.request_usd_per_hour()? + self.storage_usd_per_month().unwrap_or(0.0) / MONTH_HOURS)
    }

    /// Dollars a month for everything, if it goes on like that.
    pub fn usd_per_month(&self) -> Option<f64> {
        self.usd_per_hour().map(|usd| usd * MONTH_HOURS)
    }
}
