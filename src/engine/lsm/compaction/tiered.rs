//! Size-tiered compaction, also called universal: runs of about equal size are merged when there are enough of them, so that a
//! byte is written again only when its run grows by a tier.
//!
//! 1. Newer runs together take more than a share of the oldest one: everything is merged. That bounds the space that old versions
//!    take. What is flushed meanwhile is merged by size beside it, within L0.
//! 2. Neighbours in age of similar size make a *tier*; the newest tier that is wide enough is merged, the oldest of its runs first if
//!    there are more than may be merged at once. Runs below the size of a memtable count as large as that.
//! 3. Too many runs that are not similar: the cheapest neighbours are merged.
//!
//! The result lies right above the next older run, so deep levels hold old runs, and a level is one run.

use std::sync::Arc;

use bytes::Bytes;

use super::model::{Model, Prediction, Sizes, levels, lookup};
use super::{
    Assessment, Choice, Descriptor, Levels, OwnPolicyOptions, Policy, PolicyKind, RunMerge, SortedRun,
    merge_runs, within_l0,
};
use crate::base::text::{BadText, count};
use crate::disk::LEVELS;
use crate::engine::lsm::Options;

/// Its entry in the registry.
pub const POLICY: Descriptor = Descriptor {
    name: "tiered",
    aliases: &[],
    help: "runs of about equal size",
    new: |options| Arc::new(Tiered::new(options)),
    fields: &[
        count!(
            "tier_ratio",
            policies.tiered.ratio_percent,
            "Tiered: percentage by which runs of a tier may differ."
        ),
        count!("tier_merge_min", policies.tiered.merge_min, "Tiered: runs of a tier that start a merge."),
        count!("tier_merge_max", policies.tiered.merge_max, "Tiered: runs of a merge at most."),
        count!(
            "space_amp_max",
            policies.tiered.space_amp_percent,
            "Tiered: percentage of the oldest run that newer ones may take."
        ),
    ],
    model: Some(Model { predict, has_levels: true }),
};

impl PolicyKind {
    /// Runs of about equal size are merged when there are enough.
    pub const TIERED: PolicyKind = PolicyKind(&POLICY);
}

/// The options that this policy reads, and where others merge by size.
#[derive(Clone, Debug, PartialEq)]
pub struct TieredOptions {
    /// Runs are similar if they differ from the mean of their tier by at most this percentage of it.
    pub ratio_percent: u64,
    /// Runs of a tier that start a merge. More of them write less and read more.
    pub merge_min: u64,
    /// Runs of a merge at most.
    pub merge_max: u64,
    /// Bytes of all newer runs, as a percentage of the oldest, at which everything is merged.
    pub space_amp_percent: u64,
}

impl Default for TieredOptions {
    fn default() -> TieredOptions {
        TieredOptions { ratio_percent: 200, merge_min: 4, merge_max: 32, space_amp_percent: 200 }
    }
}

impl OwnPolicyOptions for TieredOptions {
    fn validate(&self) -> Result<(), BadText> {
        if self.merge_min < 2 || self.merge_max < self.merge_min || self.ratio_percent < 100 {
            return Err(
                "2 ≤ tier_merge_min ≤ tier_merge_max must hold, and tier_ratio be at least 100".into()
            );
        }
        Ok(())
    }
}

/// The prediction: a byte is written once a tier.
fn predict(data_bytes: f64, sizes: &Sizes) -> Prediction {
    let tiers = levels(data_bytes, sizes.ratio);
    let runs = tiers * sizes.runs_per_tier;
    Prediction {
        depth: tiers,
        lookup_bytes: lookup(sizes, runs, runs),
        write_amp: tiers,
        debt_write_amp: None,
        space_amp: Some(sizes.runs_per_tier),
        temporary_bytes: data_bytes,
    }
}

/// Factor by which the next older run may be larger in a merge that is made for the sake of tombstones alone.
const DENSE_RATIO: u64 = 4;

/// Tiers that a store of similar runs never has more of; beyond as many runs, dissimilar ones are merged.
const TIERS_MAX: usize = 8;

/// The policy and its settings.
#[derive(Clone, Debug)]
pub struct Tiered {
    /// Runs are similar if they differ from the mean of their tier by at most this percentage of it, up or down as a factor.
    pub size_ratio_percent: u64,
    /// Runs of a tier that start a merge.
    pub merge_min: usize,
    /// Runs of a merge at most.
    pub merge_max: usize,
    /// Bytes of all newer runs, as a percentage of the oldest one, that start a merge of everything.
    pub space_amp_percent: u64,
    /// Runs beyond which dissimilar ones are merged, too.
    pub runs_max: usize,
    /// Smaller runs count as if they were as large.
    pub small_bytes: u64,
}

impl Tiered {
    /// The policy that `options` ask for.
    pub fn new(options: &Options) -> Tiered {
        let TieredOptions { ratio_percent, merge_min, merge_max, space_amp_percent } =
            options.policies.tiered;
        Tiered {
            size_ratio_percent: ratio_percent,
            merge_min: merge_min as usize,
            merge_max: merge_max as usize,
            space_amp_percent,
            runs_max: TIERS_MAX * merge_min as usize,
            small_bytes: options.memtable_bytes / 2,
        }
    }

    /// The tiers of `runs` that are wide enough, newest first: the first run to merge of each and the one behind the last.
    pub fn tiers(&self, runs: &[SortedRun<'_>]) -> Vec<(usize, usize)> {
        let size = |run: &SortedRun<'_>| run.bytes.max(self.small_bytes).max(1) as f64;
        let factor = self.size_ratio_percent as f64 / 100.0;
        let (mut tiers, mut from) = (Vec::new(), 0);
        while from < runs.len() {
            let (mut sum, mut to) = (size(&runs[from]), from + 1);
            while to < runs.len() {
                let (mean, next) = (sum / (to - from) as f64, size(&runs[to]));
                if next > mean * factor || next < mean / factor {
                    break;
                }
                sum += next;
                to += 1;
            }
            if to - from >= self.merge_min {
                tiers.push((from.max(to.saturating_sub(self.merge_max)), to));
            }
            from = to;
        }
        tiers
    }

    /// Merges that are due among `runs`, newest first: every tier that is wide enough; if there is none and there are too many runs, the
    /// cheapest neighbours.
    pub fn due(&self, runs: &[SortedRun<'_>]) -> Vec<(usize, usize)> {
        let mut due = self.tiers(runs);
        if due.is_empty() && runs.len() > self.runs_max {
            due.extend(self.cheapest(runs));
        }
        due
    }

    /// The cheapest neighbours to merge.
    fn cheapest(&self, runs: &[SortedRun<'_>]) -> Option<(usize, usize)> {
        let width = self.merge_min.min(runs.len());
        let cost = |from: &usize| runs[*from..from + width].iter().map(|run| run.bytes).sum::<u64>();
        (0..=runs.len() - width).min_by_key(cost).map(|from| (from, from + width))
    }

    /// A merge of tables of L0 that are newer than all that compactions which run have of it.
    fn merge_newest<'r, 'a>(&self, levels: &Levels, runs: &'r [SortedRun<'a>]) -> Option<RunMerge<'r, 'a>> {
        let newest = runs.iter().take_while(|run| run.level == 0 && !levels.is_taken(run)).count();
        let runs = &runs[..newest];
        levels.first_free_merge(self.due(runs).into_iter().map(|(from, to)| within_l0(&runs[from..to])))
    }

    /// The merge to begin, given all `runs`.
    fn wanted<'r, 'a>(&self, levels: &Levels, runs: &'r [SortedRun<'a>]) -> Option<RunMerge<'r, 'a>> {
        let (oldest, newer) = runs.split_last()?;
        let newer_bytes: u64 = newer.iter().map(|run| run.bytes).sum();
        if runs.len() >= self.merge_min
            && newer_bytes * 100 >= oldest.bytes.saturating_mul(self.space_amp_percent)
        {
            let from = runs.len().saturating_sub(self.merge_max);
            let everything = merge_runs(levels, runs, from, runs.len());
            // While such a merge runs, or where it can never run, flushes go on: what they leave is merged by itself.
            let free = levels.first_free_merge(std::iter::once(everything));
            return free.or_else(|| self.merge_newest(levels, runs));
        }
        let tiers = self.due(runs);
        if tiers.is_empty() {
            return levels.first_free_merge(dense_run(levels, runs).into_iter());
        }
        levels.first_free_merge(tiers.into_iter().map(|(from, to)| merge_runs(levels, runs, from, to)))
    }
}

impl Policy for Tiered {
    fn choose(&self, levels: &Levels, _: &[Bytes; LEVELS]) -> Choice {
        self.wanted(levels, &levels.runs()).map_or(Choice::Nothing, |merge| Choice::Merge(merge.compaction()))
    }

    fn assess(&self, levels: &Levels) -> Assessment {
        let runs = levels.runs();
        let Some(merge) = self.wanted(levels, &runs) else { return Assessment::default() };
        let mut scores = [0.0; LEVELS];
        // The level that gives the newest of the runs.
        let level = merge.runs.first().map_or(0, |run| run.level);
        scores[level] = (merge.runs.len() as f64 / self.merge_min as f64).max(1.0);
        Assessment { scores, pending_bytes: merge.bytes(), lowers_l0: true, ..Assessment::default() }
    }
}

/// A run dense with tombstones, merged with the next older one if that is not much larger, or written anew if it is the oldest.
fn dense_run<'r, 'a>(levels: &Levels, runs: &'r [SortedRun<'a>]) -> Option<RunMerge<'r, 'a>> {
    let at = runs.iter().rposition(SortedRun::is_dense)?;
    let (run, older) = (&runs[at], runs.get(at + 1));
    match older {
        // The oldest: nothing is below, so every tombstone goes.
        None => {
            let into = run.level.max(1);
            let stays = run.tables().any(|table| levels.is_over_aside(table, into));
            (!stays).then(|| RunMerge { runs: &runs[at..], into })
        }
        Some(older) => (older.bytes <= DENSE_RATIO * run.bytes).then(|| merge_runs(levels, runs, at, at + 2)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{choose, tables};
    use super::*;

    fn policy() -> Tiered {
        Tiered {
            size_ratio_percent: 200,
            merge_min: 3,
            merge_max: 4,
            space_amp_percent: 300,
            runs_max: 6,
            small_bytes: 5,
        }
    }

    #[test]
    fn it_chooses_what_the_rules_say() {
        for (text, wanted) in [
            ("", "nothing"),
            ("0: a-z 10, a-z 10", "nothing"),
            // A tier is wide enough; nothing older, so it goes to the bottom.
            ("0: a-z 10, a-z 11, a-z 12", "merge [(0, [1, 2, 3])] into 6"),
            // Right above the next older run.
            ("0: a-z 10, a-z 10, a-z 10\n4: a-z 99", "merge [(0, [1, 2, 3])] into 3"),
            ("0: a-z 10, a-z 10, a-z 10, a-z 90", "merge [(0, [1, 2, 3])] into 0"),
            ("0: a-z 10, a-z 10, a-z 10\n1: a-z 99", "merge [(0, [1, 2, 3])] into 0"),
            // A tier over several levels; newer runs stay.
            (
                "0: a-z 10, a-z 40\n2: a-z 40\n3: a-m 20, n-z 20\n6: a-z 900",
                "merge [(0, [2]), (2, [3]), (3, [4, 5])] into 5",
            ),
            // At most four at once, the oldest first.
            ("0: a-z 10, a-z 10, a-z 10, a-z 10, a-z 10\n6: a-z 999", "merge [(0, [2, 3, 4, 5])] into 5"),
            // What is newer takes three times as much as the oldest run: all of it.
            ("0: a-z 90, a-z 30\n6: a-z 40", "merge [(0, [1, 2]), (6, [3])] into 6"),
            // Small ones count alike.
            ("0: a-z 1, a-z 3, a-z 5\n6: a-z 999", "merge [(0, [1, 2, 3])] into 5"),
            // Too many that do not match: the cheapest.
            (
                "0: a-z 10, a-z 90, a-z 10, a-z 90, a-z 10, a-z 50\n6: a-z 999",
                "merge [(0, [1, 2, 3])] into 0",
            ),
            // Half of the entries are tombstones: with the next older run, or alone at the bottom.
            ("0: a-z 30 t\n5: a-z 99", "merge [(0, [1]), (5, [2])] into 6"),
            // Not if that one is much larger.
            ("0: a-z 10 t\n5: a-z 99", "nothing"),
            ("0: a-z 10\n5: a-z 99 t", "merge [(5, [2])] into 5"),
        ] {
            assert_eq!(choose(&policy(), &tables(text), "", 0), wanted, "{text}");
        }
    }
}
