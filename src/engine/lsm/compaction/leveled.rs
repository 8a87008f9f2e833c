//! Leveled compaction: every level below L0 is one sorted run with a target size, ten times that of the level above.
//!
//! 1. The level with the highest score (size over target; L0: files over trigger) gives tables, if the score is at least 1. If a running
//!    compaction is in the way, the next level that does not need the same tables gives some.
//! 2. L0 gives all its tables; they are merged with everything in L1 that they overlap.
//! 3. A deeper level gives the one table that overlaps the least of the next level for its size: the cheapest bytes to move
//!    down. Of equals the next one after where the last merge out of this level ended is taken, so that all get their turn. In a
//!    level of very many tables only those take part whose turn comes next: the cost of a choice must not grow with the store.
//! 4. What overlaps nothing is moved down without being read.
//! 5. Otherwise, a table of which half or more are tombstones is merged down, or written anew where nothing lies below: scans of
//!    its range are slow as long as it is there.
//!
//! *Dynamic* targets are counted from below: the lowest level holds what it holds, each level above a tenth of the next, and L0
//! goes straight into the first level whose target is not below that of L1. So the lowest level has nine tenths of the data at any
//! size, and little space is lost to old versions.
//!
//! A pure function from a picture of the levels to a choice.

use std::sync::Arc;

use bytes::Bytes;

use super::model::{Model, OVERLAP_SHARE, Prediction, Sizes, levels, lookup};
use super::{
    Assessment, Choice, Compaction, CompactionClaim, Descriptor, Levels, OwnPolicyOptions, Policy,
    PolicyKind, TableMeta,
};
use crate::base::text::{BadText, Field, When, parse_switch, switch};
use crate::disk::LEVELS;
use crate::engine::lsm::Options;

/// Its entry in the registry.
pub const POLICY: Descriptor = Descriptor {
    name: "leveled",
    aliases: &[],
    help: "levels of growing size",
    new: |options| Arc::new(Leveled::new(options)),
    fields: &[Field {
        name: "dynamic_levels",
        when: When::Mount,
        help: "Leveled: on counts the targets of levels from the lowest up; off.",
        set: |options, text| {
            options.policies.leveled.dynamic_levels = parse_switch(text)?;
            Ok(())
        },
        get: |options| switch(options.policies.leveled.dynamic_levels),
    }],
    model: Some(Model { predict, has_levels: true }),
};

impl PolicyKind {
    /// Levels of growing size, each one sorted run.
    pub const LEVELED: PolicyKind = PolicyKind(&POLICY);
}

/// The options that this policy alone reads.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LeveledOptions {
    /// Targets are counted from the lowest level up. Less space for old versions.
    pub dynamic_levels: bool,
}

impl OwnPolicyOptions for LeveledOptions {
    fn validate(&self) -> Result<(), BadText> {
        Ok(())
    }
}

/// The prediction: a byte is written half of the growth factor times in each level.
fn predict(data_bytes: f64, sizes: &Sizes) -> Prediction {
    let levels = levels(data_bytes, sizes.ratio);
    let runs = sizes.l0_files + levels;
    Prediction {
        depth: levels,
        lookup_bytes: lookup(sizes, runs, runs),
        write_amp: levels * sizes.ratio / 2.0,
        // 1 for the buffer, 2 for L0, and a share of the growth factor for each level but the last.
        debt_write_amp: Some(3.0 + OVERLAP_SHARE * sizes.ratio * (levels - 1.0).max(0.0)),
        space_amp: Some(1.0 / (1.0 - 1.0 / sizes.ratio)),
        temporary_bytes: (sizes.ratio + 1.0) * sizes.table_bytes,
    }
}

/// Number of tables of a level among which the cheapest is looked for.
const TURNS: usize = 512;
/// Number of tables of a level that are looked at for one that no running compaction is in the way of.
const CANDIDATES: usize = 32;

/// The policy and its settings.
#[derive(Clone, Debug)]
pub struct Leveled {
    /// L0 tables that start a merge.
    pub l0_trigger: u64,
    /// Target of L1; with dynamic targets of the level that L0 goes into.
    pub level_base_bytes: u64,
    /// Growth of the target from level to level.
    pub level_multiplier: u64,
    /// Whether targets are counted from below.
    pub is_dynamic: bool,
}

/// Target sizes of the levels.
struct Plan {
    targets: [u64; LEVELS],
    /// The level that L0 is merged into.
    base: usize,
}

impl Leveled {
    /// The policy that `options` ask for.
    pub fn new(options: &Options) -> Leveled {
        Leveled {
            l0_trigger: options.l0_trigger,
            level_base_bytes: options.level_base_bytes.max(1),
            level_multiplier: options.level_multiplier,
            is_dynamic: options.policies.leveled.dynamic_levels,
        }
    }

    /// Whether targets are counted from below now. Around a table that is set aside they are not: what is newer needs levels above it.
    fn counts_from_below(&self, levels: &Levels) -> bool {
        self.is_dynamic && levels.barred.is_empty()
    }

    fn plan(&self, levels: &Levels) -> Plan {
        let grown = |level: usize| {
            self.level_base_bytes.saturating_mul(self.level_multiplier.saturating_pow(level as u32 - 1))
        };
        if !self.counts_from_below(levels) {
            return Plan {
                targets: std::array::from_fn(|level| if level == 0 { 0 } else { grown(level) }),
                base: 1,
            };
        }
        let bottom = LEVELS - 1;
        let mut plan = Plan { targets: [0; LEVELS], base: bottom };
        let mut target = levels.bytes(bottom).max(self.level_base_bytes);
        plan.targets[bottom] = target;
        while plan.base > 1 && target / self.level_multiplier >= self.level_base_bytes {
            target /= self.level_multiplier;
            plan.base -= 1;
            plan.targets[plan.base] = target;
        }
        plan
    }

    fn score(&self, levels: &Levels, plan: &Plan, level: usize) -> f64 {
        match level {
            0 => levels.files(0) as f64 / self.l0_trigger as f64,
            // Above the first level with a target nothing should lie; it is left as soon as there is time.
            level if level < plan.base => {
                if levels.files(level) == 0 {
                    0.0
                } else {
                    1.0
                }
            }
            level => levels.bytes(level) as f64 / plan.targets[level] as f64,
        }
    }

    /// Tables of `level` into the next, the cheapest first.
    fn leave_level(&self, levels: &Levels, level: usize, cursor: &[u8]) -> Vec<Choice> {
        let cost = |table: &TableMeta| {
            let lower = levels.overlapping(level + 1, &table.smallest, &table.largest);
            lower.map(|table| table.bytes).sum::<u64>() as f64 / table.bytes.max(1) as f64
        };
        let turns = levels.turns(level, cursor).take(TURNS);
        let mut costs: Vec<(f64, &TableMeta)> = turns.map(|table| (cost(table), table)).collect();
        // Equals stay in the order of their turns.
        costs.sort_by(|a, b| a.0.total_cmp(&b.0));
        let is_open = |table: &TableMeta| {
            let (smallest, largest) = (table.smallest.clone(), table.largest.clone());
            let claim = CompactionClaim { from: level, into: level + 1, smallest, largest, l0: Vec::new() };
            !levels.claims.iter().chain(&levels.barred).any(|other| other.meets(&claim))
        };
        let mut open = costs.iter().filter(|(_, table)| is_open(table)).take(CANDIDATES).peekable();
        let cheapest = costs.first().filter(|_| open.peek().is_none());
        open.chain(cheapest).map(|(_, table)| lower_table(levels, level, table)).collect()
    }

    /// Bytes to be written until every level is within its target: all of L0 with the level it goes into when a merge is due, then
    /// each level's surplus with the share of the next level that it meets.
    fn pending_bytes(&self, levels: &Levels, plan: &Plan) -> u64 {
        let mut pending = 0;
        let mut coming = 0;
        if levels.files(0) as u64 >= self.l0_trigger {
            coming = levels.bytes(0);
            pending = coming + levels.bytes(plan.base);
        }
        for level in 1..LEVELS - 1 {
            let incoming = if level >= plan.base { std::mem::take(&mut coming) } else { 0 };
            let bytes = levels.bytes(level) + incoming;
            let surplus = bytes.saturating_sub(plan.targets[level]);
            coming += surplus;
            let next = levels.bytes(level + 1);
            if surplus > 0 && next > 0 {
                pending += (surplus as f64 * (next as f64 / bytes as f64 + 1.0)) as u64;
            }
        }
        pending
    }

    /// A table dense with tombstones, one level down; if nothing lies below it, written anew where it is.
    fn leave_tombstones(&self, levels: &Levels, plan: &Plan) -> Choice {
        let upper = (levels.sums(0).dense_files > 0).then(|| levels.empty_l0(plan.base));
        let dense = (1..LEVELS).flat_map(|level| levels.dense(level).map(move |table| (level, table)));
        levels.first_free(upper.into_iter().chain(dense.take(CANDIDATES).map(|(level, table)| {
            if levels.could_drop(&[table], level) {
                Choice::Merge(Compaction::rewrite(level, table))
            } else {
                lower_table(levels, level, table)
            }
        })))
    }
}

/// A table merged with what it overlaps in the next level, or moved there if that is nothing.
fn lower_table(levels: &Levels, level: usize, table: &TableMeta) -> Choice {
    let into = level + 1;
    let lower: Vec<&TableMeta> = levels.overlapping(into, &table.smallest, &table.largest).collect();
    let movable = lower.is_empty() && !levels.could_drop(&[table], into);
    let cursor = Some((level, table.largest.clone()));
    let compaction = Compaction::new(vec![(level, vec![table]), (into, lower)], into, cursor);
    if movable { Choice::Move(compaction) } else { Choice::Merge(compaction) }
}

impl Policy for Leveled {
    fn choose(&self, levels: &Levels, cursors: &[Bytes; LEVELS]) -> Choice {
        if self.counts_from_below(levels)
            && let Some(lowest) = levels.lowest().filter(|lowest| *lowest < LEVELS - 1)
        {
            // Static targets, or another policy, left the lowest level empty: what lies lowest is taken there as it is.
            let compaction =
                Compaction::new(vec![(lowest, levels.tables(lowest).collect())], LEVELS - 1, None);
            return levels.first_free(std::iter::once(Choice::Move(compaction)));
        }
        let plan = self.plan(levels);
        // The last level has nowhere to go.
        let scores = (0..LEVELS - 1).map(|level| (self.score(levels, &plan, level), level));
        let mut due: Vec<(f64, usize)> = scores.filter(|(score, _)| *score >= 1.0).collect();
        if due.is_empty() {
            return self.leave_tombstones(levels, &plan);
        }
        // Of equal scores the upper level gives.
        due.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        levels.first_free(due.into_iter().flat_map(|(_, level)| match level {
            0 => match (1..plan.base).find(|level| levels.files(*level) > 0) {
                // Between L0 and where it goes nothing may lie.
                Some(level) => self.leave_level(levels, level, &cursors[level]),
                None => vec![levels.empty_l0(plan.base)],
            },
            level => self.leave_level(levels, level, &cursors[level]),
        }))
    }

    fn assess(&self, levels: &Levels) -> Assessment {
        let plan = self.plan(levels);
        Assessment {
            scores: std::array::from_fn(|level| self.score(levels, &plan, level)),
            pending_bytes: self.pending_bytes(levels, &plan),
            target_bytes: plan.targets,
            lowers_l0: true,
        }
    }

    fn trigger(&self, levels: &Levels, from: usize) -> String {
        match from {
            0 => format!("l0_files {} of {}", levels.files(0), self.l0_trigger),
            _ => format!("score {:.2} of L{from}", self.score(levels, &self.plan(levels), from)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{choose, picture, tables};
    use super::*;

    fn policy(is_dynamic: bool) -> Leveled {
        Leveled { l0_trigger: 2, level_base_bytes: 100, level_multiplier: 10, is_dynamic }
    }

    #[test]
    fn it_chooses_what_the_rules_say() {
        for (text, cursor, wanted) in [
            ("", "", "nothing"),
            ("0: a-z 10", "", "nothing"),
            // L0 takes what it overlaps and leaves the rest.
            ("0: c-e 10, d-k 10\n1: a-b 10, e-f 10, x-z 10", "", "merge [(0, [1, 2]), (1, [4])] into 1"),
            // Apart from each other and from L1: moved.
            ("0: a-b 10, c-d 10\n1: x-z 10", "", "move [(0, [1, 2])] into 1"),
            // Overlapping each other: merged even into an empty level.
            ("0: a-c 10, b-d 10", "", "merge [(0, [1, 2])] into 1"),
            // Touching borders overlap.
            ("0: a-c 10, c-d 10", "", "merge [(0, [1, 2])] into 1"),
            ("1: a-c 50, d-f 49", "", "nothing"),
            ("1: a-c 60, d-f 60\n2: a-b 50, d-d 20", "", "merge [(1, [2]), (2, [4])] into 2"),
            ("1: a-c 60, d-f 60\n2: x-z 50", "", "move [(1, [1])] into 2"),
            // Equal cost: the next one after the cursor, and around.
            ("1: a-c 60, d-f 60\n2: x-z 50", "c", "move [(1, [2])] into 2"),
            ("1: a-c 60, d-f 60\n2: x-z 50", "f", "move [(1, [1])] into 2"),
            // The higher score goes first: L0 at 2/2, L1 at 300/100.
            ("0: a-b 10, a-b 10\n1: a-c 300", "", "move [(1, [3])] into 2"),
            ("0: a-b 10, a-b 10\n1: a-c 100", "", "merge [(0, [1, 2]), (1, [3])] into 1"),
            // Half of the entries are tombstones, and nothing below knows the keys: written anew, else down.
            ("1: a-c 10, d-f 10 t\n2: x-z 10", "", "merge [(1, [2])] into 1"),
            ("1: a-c 10 t\n2: b-d 10", "", "merge [(1, [1]), (2, [2])] into 2"),
            ("1: a-c 10 t\n3: b-d 10", "", "move [(1, [1])] into 2"),
            ("6: a-c 10 t", "", "merge [(6, [1])] into 6"),
            ("0: a-c 10 t\n1: b-d 10", "", "merge [(0, [1]), (1, [2])] into 1"),
            // Nothing is moved to where it would be written anew.
            ("0: a-c 10 t\n1: x-z 10", "", "merge [(0, [1])] into 1"),
            // The last level is never too large.
            ("6: a-c 99999999999", "", "nothing"),
        ] {
            assert_eq!(choose(&policy(false), &tables(text), cursor, 0), wanted, "{text}");
        }
    }

    #[test]
    fn dynamic_targets_are_counted_from_below() {
        let levels = tables("6: a-z 25000");
        assert_eq!(policy(true).assess(&picture(&levels, 0)).target_bytes, [0, 0, 0, 0, 250, 2500, 25000]);
        for (text, wanted) in [
            // An empty or small store has one level.
            ("0: a-z 10, a-z 10", "merge [(0, [1, 2])] into 6"),
            ("0: a-z 10, a-z 10\n6: c-d 900", "merge [(0, [1, 2]), (6, [3])] into 6"),
            // A larger one has more.
            ("0: a-z 10, a-z 10\n6: c-d 1100", "merge [(0, [1, 2])] into 5"),
            ("5: a-b 60, c-d 60\n6: c-d 1100", "move [(5, [1])] into 6"),
            // What static targets left goes to the bottom as it is.
            ("1: a-b 60, c-d 60\n2: a-k 10, l-z 10", "move [(2, [3, 4])] into 6"),
            // And what lies too high goes down before L0 passes it.
            ("0: a-z 10, a-z 10\n3: a-b 50\n6: a-z 900", "move [(3, [3])] into 4"),
            ("3: a-b 50\n6: a-z 900", "move [(3, [1])] into 4"),
        ] {
            assert_eq!(choose(&policy(true), &tables(text), "", 0), wanted, "{text}");
        }
    }

    #[test]
    fn pending_bytes_count_each_surplus_with_what_it_meets() {
        for (text, wanted) in [
            ("0: a-b 10\n1: a-b 90", 0),
            // L0 and all of L1.
            ("0: a-b 10, a-b 10\n1: a-b 70", 90),
            // The surplus of 50 meets 300/150 of itself.
            ("1: a-b 150\n2: a-b 300", 150),
            // Nothing there to meet: a move.
            ("1: a-b 150", 0),
            ("0: a-b 30, a-b 30\n1: a-b 90\n2: a-b 300", 150 + 150),
        ] {
            assert_eq!(policy(false).assess(&picture(&tables(text), 0)).pending_bytes, wanted, "{text}");
        }
    }
}
