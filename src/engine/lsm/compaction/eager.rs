//! Eager merging: one sorted run, into which every flush is merged at once. The cheapest reads and no space wasted at rest; a byte
//! is written again whenever a flush overlaps its table. Where the merge is cut into slices their inputs leave as it goes on, so that
//! only a small store is there twice.
//!
//! 1. If several levels below L0 hold tables, another policy left them: everything is merged into the lowest.
//! 2. All of L0 is merged with the tables of the run that it overlaps.

use bytes::Bytes;

use super::{Choice, Levels, Policy, merge_runs};
use crate::disk::LEVELS;

/// The policy.
pub struct Eager;

impl Policy for Eager {
    fn name(&self) -> &'static str {
        "eager"
    }

    fn choose(&self, levels: &Levels, _: &[Bytes; LEVELS]) -> Choice {
        let runs = levels.runs();
        let lower = runs.iter().filter(|run| run.level > 0).count();
        let choice = match levels.lowest() {
            Some(_) if lower > 1 => Choice::Merge(merge_runs(levels, &runs, 0, runs.len()).job()),
            Some(lowest) => levels.empty_l0(lowest),
            None => levels.empty_l0(LEVELS - 1),
        };
        levels.first_free(std::iter::once(choice))
    }

    fn scores(&self, levels: &Levels) -> [f64; LEVELS] {
        let mut scores = [0.0; LEVELS];
        scores[0] = levels.files(0) as f64;
        scores
    }

    fn pending_bytes(&self, levels: &Levels) -> u64 {
        let runs = levels.runs();
        if runs.len() > 1 { runs.iter().map(|run| run.bytes).sum() } else { 0 }
    }

    fn lowers_l0(&self, _: &Levels) -> bool {
        true
    }
}
