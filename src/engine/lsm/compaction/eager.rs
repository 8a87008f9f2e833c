//! Eager merging: one sorted run, into which every flush is merged at once. The cheapest reads and no space wasted at rest; a byte
//! is written again whenever a flush overlaps its table. Where the merge is cut into subcompactions, their inputs leave as it goes on, so
//! that only a small store takes its space twice.
//!
//! 1. If several levels below L0 hold tables, another policy left them: everything is merged into the lowest.
//! 2. All of L0 is merged with the tables of the run that it overlaps.

use std::sync::Arc;

use bytes::Bytes;

use super::model::{Model, Prediction, Sizes, lookup};
use super::{Assessment, Choice, Descriptor, Levels, Policy, PolicyKind, merge_runs};
use crate::disk::LEVELS;

/// Its entry in the registry.
pub const POLICY: Descriptor = Descriptor {
    name: "eager",
    aliases: &[],
    help: "one run",
    new: |_| Arc::new(Eager),
    fields: &[],
    model: Some(Model { predict, has_levels: false }),
};

impl PolicyKind {
    /// Everything is merged at every flush.
    pub const EAGER: PolicyKind = PolicyKind(&POLICY);
}

/// The prediction: everything is written once for each buffer.
fn predict(data_bytes: f64, sizes: &Sizes) -> Prediction {
    Prediction {
        depth: 1.0,
        lookup_bytes: lookup(sizes, 1.0, 0.0),
        write_amp: (data_bytes / sizes.buffer_bytes).max(1.0),
        debt_write_amp: None,
        space_amp: Some(1.0),
        temporary_bytes: data_bytes,
    }
}

/// The policy.
pub struct Eager;

impl Policy for Eager {
    fn choose(&self, levels: &Levels, _: &[Bytes; LEVELS]) -> Choice {
        let runs = levels.runs();
        let lower = runs.iter().filter(|run| run.level > 0).count();
        let choice = match levels.lowest() {
            Some(_) if lower > 1 => Choice::Merge(merge_runs(levels, &runs, 0, runs.len()).compaction()),
            Some(lowest) => levels.empty_l0(lowest),
            None => levels.empty_l0(LEVELS - 1),
        };
        levels.first_free(std::iter::once(choice))
    }

    fn assess(&self, levels: &Levels) -> Assessment {
        let runs = levels.runs();
        let mut scores = [0.0; LEVELS];
        scores[0] = levels.files(0) as f64;
        let pending_bytes = if runs.len() > 1 { runs.iter().map(|run| run.bytes).sum() } else { 0 };
        Assessment { scores, pending_bytes, lowers_l0: true, ..Assessment::default() }
    }

    // A merge of a store that is one subcompaction writes a copy of it.
    fn outgrows_disk(&self) -> bool {
        true
    }
}
