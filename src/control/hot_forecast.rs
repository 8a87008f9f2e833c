//! What a hybrid should write, from how much of what is put finds its record in the tree, and how that would change with the size of the tree.
//! `docs/model.md` says what is assumed.

use super::stats::Report;
use crate::base::metric::ratio;
use crate::engine::lsm::compaction::model::OVERLAP_SHARE;

/// Steepest skew that is looked for; even the smallest tree catches nearly all puts of such a one.
const SKEW_MAX: f64 = 3.0;
/// Halvings of the range in which the skew lies.
const HALVINGS: usize = 40;
/// Growth factor assumed where the levels do not tell.
const RATIO: f64 = 10.0;

/// A prediction for a hybrid. Amplifications are without the log, per byte of keys and values put.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct HotForecast {
    /// Policy of the levels.
    pub layout: &'static str,
    /// Measured: share of the bytes put that stayed in the tree, or were replaced there.
    pub hit_share: f64,
    /// Exponent of the Zipf distribution that has this share; 0 where all records are written alike.
    pub skew: f64,
    /// Bytes that checkpoints of the tree write.
    pub write_of_tree: f64,
    /// Bytes that demotion and merges write.
    pub write_of_levels: f64,
    /// Both, with a tree of half the size.
    pub write_half_hot: f64,
    /// Both, with a tree of twice the size.
    pub write_double_hot: f64,
}

impl HotForecast {
    /// Bytes that both halves write.
    pub(super) fn write(&self) -> f64 {
        self.write_of_tree + self.write_of_levels
    }
}

/// Sizes that the formulas work on.
#[derive(Clone, Copy, Debug)]
struct Halves {
    /// Bytes of the tree.
    hot_bytes: f64,
    /// Bytes of the levels.
    cold_bytes: f64,
    /// Records of both.
    records: f64,
    /// Leaves of the tree.
    leaves: f64,
    /// Bytes that a checkpoint writes for a leaf.
    leaf_bytes: f64,
    /// Share of the tree's bytes that lie outside its leaves, each value for itself.
    extents_share: f64,
    /// Puts from one checkpoint to the next.
    puts_per_checkpoint: f64,
    /// Mean bytes of a put.
    put_bytes: f64,
    /// Share of the bytes put that come down.
    down_share: f64,
    /// Rounds of demotion that L0 collects.
    rounds: f64,
    /// Levels below L0 that hold something.
    levels: f64,
    /// Growth from a level to the next.
    ratio: f64,
    /// Runs that make a tier; `None` of levels that are one run each.
    tier: Option<f64>,
}

/// Number of writes that the `rank` most written records get, in units of the first one's, where that of rank `i` gets `i^-skew`: the sum of a
/// Zipf distribution with an integral in place of all terms but the first.
fn zipf_sum(rank: f64, skew: f64) -> f64 {
    let exponent = 1.0 - skew;
    let rank = rank.max(1.0);
    1.0 + if exponent.abs() < 1e-9 { rank.ln() } else { (rank.powf(exponent) - 1.0) / exponent }
}

/// Share of the writes that the first `share` of `records` get.
fn hit_share(share: f64, records: f64, skew: f64) -> f64 {
    (zipf_sum(share * records, skew) / zipf_sum(records, skew)).min(1.0)
}

/// The skew with which `share` of `records` get `hits` of the writes.
fn skew_of(hits: f64, share: f64, records: f64) -> f64 {
    let (mut low, mut high) = (0.0, SKEW_MAX);
    for _ in 0..HALVINGS {
        let middle = (low + high) / 2.0;
        if hit_share(share, records, middle) < hits { low = middle } else { high = middle }
    }
    low
}

impl Halves {
    /// Share of the records that the tree has, if it is `times` as large.
    fn hot_share(&self, times: f64) -> f64 {
        (times * self.hot_bytes / (self.hot_bytes + self.cold_bytes)).min(1.0)
    }

    /// Share of the bytes put that comes down from a tree `times` as large, at a skew.
    fn down_share(&self, times: f64, skew: f64) -> f64 {
        let missed = |times| 1.0 - hit_share(self.hot_share(times), self.records, skew);
        if missed(1.0) <= 0.0 { self.down_share } else { self.down_share * missed(times) / missed(1.0) }
    }

    /// Bytes that checkpoints of a tree `times` as large write: puts meet its leaves like balls that are thrown into urns, and each leaf that was
    /// met is written once a checkpoint.
    fn of_tree(&self, times: f64) -> f64 {
        let leaves = (self.leaves * times).max(1.0);
        let met = leaves * (1.0 - (-self.puts_per_checkpoint / leaves).exp());
        met * self.leaf_bytes / (self.puts_per_checkpoint * self.put_bytes) + self.extents_share
    }

    /// Bytes that are written for a byte that comes down from a tree `times` as large: its table, and the merges.
    fn of_levels(&self, times: f64) -> f64 {
        // Half of the tree goes down in a round.
        let round_bytes = (times * self.hot_bytes / 2.0).max(1.0);
        let merges = match self.tier {
            // Once a tier.
            Some(tier) => (self.cold_bytes / round_bytes).max(1.0).ln() / tier.ln(),
            None if self.levels == 0.0 => 0.0,
            None => {
                // What L0 has collected is merged with all of the first level, which has its share of the growth.
                let steps = self.levels - 1.0;
                let first_bytes = self.cold_bytes / self.ratio.powf(steps);
                let collected_bytes = round_bytes * self.rounds;
                1.0 + first_bytes / collected_bytes + OVERLAP_SHARE * self.ratio * steps
            }
        };
        1.0 + merges
    }

    fn forecast(&self, layout: &'static str) -> HotForecast {
        let hits = 1.0 - self.down_share;
        let skew = skew_of(hits, self.hot_share(1.0), self.records);
        let write = |times| self.of_tree(times) + self.down_share(times, skew) * self.of_levels(times);
        HotForecast {
            layout,
            hit_share: hits,
            skew,
            write_of_tree: self.of_tree(1.0),
            write_of_levels: self.down_share * self.of_levels(1.0),
            write_half_hot: write(0.5),
            write_double_hot: write(2.0),
        }
    }
}

/// Predicts for a hybrid that has brought something down and made a checkpoint since the mount. `None` for other engines, before that, and for
/// policies other than leveled and tiered.
pub(super) fn hot_forecast(report: &Report) -> Option<HotForecast> {
    let sample = &report.sample;
    let (shape, kv) = (&sample.shape, sample.kv());
    let (hybrid, tree) = (shape.hybrid.as_ref()?, shape.tree.as_ref()?);
    let layout = ["leveled", "tiered"].into_iter().find(|name| *name == shape.variant)?;
    let down_share = ratio(hybrid.demoted_bytes, sample.kv_write_bytes())?.min(1.0);
    let entries: u64 = shape.levels.iter().map(|level| level.entries).sum();
    if hybrid.demoted_bytes == 0 || tree.checkpoints == 0 || entries == 0 || hybrid.cold_bytes == 0 {
        return None;
    }
    let option = |name: &str| {
        let found = report.mount.config.iter().find(|(key, _)| key == name);
        found.and_then(|(_, value)| value.parse::<f64>().ok()).filter(|number| *number > 0.0)
    };
    let (hot_bytes, cold_bytes) = (hybrid.hot_bytes as f64, hybrid.cold_bytes as f64);
    let target = |level: usize| shape.levels.get(level).map_or(0, |level| level.target_bytes);
    let puts = kv.puts + kv.deletes;
    let halves = Halves {
        hot_bytes,
        cold_bytes,
        records: entries as f64 * (hot_bytes + cold_bytes) / cold_bytes,
        leaves: tree.leaf_pages as f64,
        leaf_bytes: tree.page_bytes as f64 * (1.0 + tree.page_copies as f64),
        extents_share: ratio(tree.extent_bytes, hybrid.hot_bytes).unwrap_or_default().min(1.0),
        puts_per_checkpoint: (puts as f64 / tree.checkpoints as f64).max(1.0),
        put_bytes: ratio(sample.kv_write_bytes(), puts)?.max(1.0),
        down_share,
        rounds: option("l0_trigger").unwrap_or(4.0),
        levels: shape.levels.iter().skip(1).filter(|level| level.files > 0).count() as f64,
        ratio: ratio(target(2), target(1)).filter(|ratio| *ratio > 1.0).unwrap_or(RATIO),
        tier: (layout == "tiered").then(|| option("tier_merge_min").unwrap_or(4.0).max(2.0)),
    };
    Some(halves.forecast(layout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_skew_is_found_again_from_the_share_it_makes() {
        for skew in [0.0, 0.5, 0.99, 1.0, 1.2, 2.0] {
            for share in [0.01, 0.1, 0.5] {
                let hits = hit_share(share, 1e6, skew);
                assert!((skew_of(hits, share, 1e6) - skew).abs() < 1e-3, "{skew} {share}: {hits}");
            }
        }
        // Every record alike: a share of the records has that share of the writes, but for the first term.
        assert!((hit_share(0.1, 1e6, 0.0) - 0.1).abs() < 1e-5);
        // Half of the million has ln(500,000) + 1 of ln(1,000,000) + 1.
        assert!((hit_share(0.5, 1e6, 1.0) - 14.1224 / 14.8155).abs() < 1e-4);
    }

    #[test]
    fn what_comes_down_shrinks_as_the_tree_grows() {
        let halves = Halves {
            hot_bytes: 1e6,
            cold_bytes: 9e6,
            records: 1e5,
            leaves: 100.0,
            leaf_bytes: 1e4,
            extents_share: 0.0,
            puts_per_checkpoint: 1e6,
            put_bytes: 100.0,
            down_share: 0.5,
            rounds: 4.0,
            levels: 2.0,
            ratio: 10.0,
            tier: None,
        };
        let forecast = halves.forecast("leveled");
        let shares = [0.5, 1.0, 2.0].map(|times| halves.down_share(times, forecast.skew));
        assert!(shares[0] > 0.5 && (shares[1] - 0.5).abs() < 1e-9 && shares[2] < 0.5, "{shares:?}");
        // All leaves are met: a million bytes a checkpoint of a hundred million.
        assert!((forecast.write_of_tree - 0.01).abs() < 1e-9);
        // A table, L0 with itself and with L1 of 0.45 of it, seven for the last level.
        assert!((forecast.write_of_levels - 0.5 * (1.0 + 1.45 + 7.0)).abs() < 1e-9, "{forecast:?}");
        // A tree that holds all of it brings nothing down.
        assert_eq!(halves.down_share(10.0, forecast.skew), 0.0);
    }
}
