//! The rows of an engine whose files are objects: its requests, and what they cost.

use super::*;
use crate::control::cost::Cost;
use crate::control::stats::Sample;
use crate::disk::Purpose;
use crate::engine::charges::Charge;
use crate::engine::requests::Requests;

metrics! {
    /// Requests to the object store.
    pub struct RequestSection witness "stats::doors::an_engine_with_a_door_of_its_own_is_measured_there" {
        /// All of them.
        flat all: Requests;
        /// Requests by purpose; they add up to those above.
        part by_purpose: Each<Purpose, PurposeRequests, { Purpose::SLOTS }>;
        /// Requests by the file operation that caused them, `nobody` where none did; they add up to those above. What is shared (the log, tables, merges) is charged in
        /// proportion to the bytes of keys and values that operations put into it.
        part by_operation: Named<OperationName, OperationRequests>;
    }
}

metrics! {
    /// Requests of one purpose.
    #[derive(Copy)]
    pub struct PurposeRequests witness "stats::doors::dollars_add_up_by_purpose_and_by_operation" {
        /// Requests by kind.
        flat requests: Requests;
        /// What they cost, with what they carried; null without prices.
        derived usd: Option<f64> [Dollars, family "kvfs_requests_by_purpose_usd_total"];
    }
}

metrics! {
    /// Requests that one file operation has caused.
    #[derive(Copy)]
    pub struct OperationRequests witness "stats::doors::dollars_add_up_by_purpose_and_by_operation" {
        /// Requests by kind.
        flat charge: Charge;
        /// What they cost, with what they carried; null without prices.
        derived usd: Option<f64> [Dollars, family "kvfs_requests_by_operation_usd_total"];
    }
}

metrics! {
    /// What the object store costs.
    pub struct CostSection witness "stats::doors::dollars_add_up_by_purpose_and_by_operation" {
        /// The price table that is used (the option `price`): `aws`, or the path of a file; null without one, and then everything else that is dollars, too.
        text price: Option<String>;
        /// What the requests since the start of the counters cost, with what they carried: Σ `requests.by_purpose.<purpose>.usd`, and Σ
        /// `requests.by_operation.<op>.usd`.
        derived usd: Option<f64> [Dollars, family "kvfs_cost_usd_total"];
        /// Bytes of tables that the store refers to. Objects of the log that are in no table yet, and those that are obsolete and not removed yet, lie there beside
        /// them; null where it is not known.
        gauge stored_bytes: Option<u64> [Bytes];
        /// What these bytes cost a month.
        derived storage_usd_per_month: Option<f64> [Dollars, family "kvfs_cost_storage_usd_per_month"];
        /// What requests cost an hour: `cost.usd` / (`elapsed_ms` in hours).
        derived request_usd_per_hour: Option<f64> [Dollars, family "kvfs_cost_request_usd_per_hour"];
        /// What everything costs an hour: `cost.request_usd_per_hour` + `cost.storage_usd_per_month` / 730.
        derived usd_per_hour: Option<f64> [Dollars, family "kvfs_cost_usd_per_hour"];
        /// What a month of that costs: 730 × `cost.usd_per_hour`.
        derived usd_per_month: Option<f64> [Dollars, family "kvfs_cost_usd_per_month"];
    }
}

/// The names of operations, and of those whose requests none has caused.
#[derive(Clone, Debug, PartialEq)]
pub struct OperationName;

impl Naming for OperationName {
    const SORT: Sort = Sort { place: "<op>", label: "op" };
}

impl RequestSection {
    /// Of `sample`; `None` of an engine whose files are on a disk.
    pub(super) fn of(sample: &Sample) -> Option<RequestSection> {
        let cost = Cost::of(sample)?;
        let mut by_purpose = Each::default();
        for purpose in Purpose::all() {
            let (requests, charge) = cost.of_purpose(purpose);
            *by_purpose.of_mut(purpose) = PurposeRequests { requests, usd: cost.usd(&charge) };
        }
        let row = |(name, charge)| (name, OperationRequests { charge, usd: cost.usd(&charge) });
        Some(RequestSection {
            all: cost.requests(),
            by_purpose,
            by_operation: cost.operations().map(row).collect(),
        })
    }
}

impl CostSection {
    /// Of `sample`; `None` of an engine whose files are on a disk.
    pub(super) fn of(sample: &Sample) -> Option<CostSection> {
        let cost = Cost::of(sample)?;
        Some(CostSection {
            price: cost.price().map(str::to_string),
            usd: cost.usd_of_requests(),
            stored_bytes: cost.stored_bytes(),
            storage_usd_per_month: cost.storage_usd_per_month(),
            request_usd_per_hour: cost.request_usd_per_hour(),
            usd_per_hour: cost.usd_per_hour(),
            usd_per_month: cost.usd_per_month(),
        })
    }
}
