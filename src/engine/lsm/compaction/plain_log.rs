//! Plain log: nothing is ever merged. The cheapest way to write; every table may have to be asked by a read, and no space comes
//! back. The other end of the scale from [`eager`](super::eager).

use std::sync::Arc;

use bytes::Bytes;

use super::model::{Model, Prediction, Sizes, lookup};
use super::{Assessment, Choice, Descriptor, Levels, Policy, PolicyKind, StuckTables};
use crate::disk::LEVELS;

/// Its entry in the registry.
pub const POLICY: Descriptor = Descriptor {
    name: "log",
    aliases: &["none"],
    help: "never merges",
    new: |_| Arc::new(NeverMerge),
    fields: &[],
    model: Some(Model { predict, has_levels: false }),
};

impl PolicyKind {
    /// Nothing is merged.
    pub const LOG: PolicyKind = PolicyKind(&POLICY);
}

/// The prediction: a byte is written once.
fn predict(data_bytes: f64, sizes: &Sizes) -> Prediction {
    let tables = (data_bytes / sizes.table_bytes).max(1.0);
    Prediction {
        depth: tables,
        lookup_bytes: lookup(sizes, tables, tables - 1.0),
        write_amp: 1.0,
        debt_write_amp: None,
        space_amp: None,
        temporary_bytes: 0.0,
    }
}

/// The policy.
pub struct NeverMerge;

impl Policy for NeverMerge {
    fn choose(&self, _: &Levels, _: &[Bytes; LEVELS]) -> Choice {
        Choice::Nothing
    }

    fn assess(&self, _: &Levels) -> Assessment {
        Assessment::default()
    }

    fn stuck(&self) -> StuckTables {
        StuckTables::Stay
    }
}
