//! The policy in force. It goes around tables that are *set aside*: they cannot be read, so no compaction may take them, and nothing newer
//! may pass them on its way down. Everything else is merged as the chosen policy says.
//!
//! 1. Tables that are older than every such table of L0 lie below all of them: the policy sees them as if there were nothing else.
//! 2. Below L0 the policy does not see them either, but no compaction may go over the range of one in its level ([`Levels::barred`]).
//! 3. Tables of L0 that are newer than one that is set aside, or that cannot leave L0 because they overlap one below, are merged within L0
//!    by size, so that reads always meet few runs; the policy says if it has a way of its own ([`StuckTables`]).
//! 4. An expired run is dropped whether it can be read or not.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::tiered::Tiered;
use super::{
    Assessment, Choice, Compaction, CompactionClaim, Levels, Policy, PolicyKind, Run, StuckTables, Table,
    within_l0,
};
use crate::disk::LEVELS;
use crate::engine::lsm::Options;

/// The policy in force: one of the registry, which goes around tables that are set aside.
pub struct PolicyInForce {
    kind: PolicyKind,
    policy: Arc<dyn Policy>,
    by_size: Tiered,
}

impl PolicyInForce {
    /// The policy that `options` ask for.
    pub fn new(options: &Options) -> PolicyInForce {
        let kind = options.policy;
        PolicyInForce { kind, policy: (kind.new)(options), by_size: Tiered::new(options) }
    }

    /// Its name in reports.
    pub fn name(&self) -> &'static str {
        self.kind.name
    }

    /// The choice where some tables are set aside.
    fn choose_around(&self, levels: &Levels, cursors: &[Bytes; LEVELS]) -> Choice {
        if self.policy.stuck() == StuckTables::ByPolicy {
            let whole = Levels { aside: BTreeSet::new(), ..levels.clone() };
            if let drop @ Choice::Drop(_) = self.policy.choose(&whole, cursors) {
                return drop;
            }
        }
        let below = below_aside(levels);
        let choice = self.policy.choose(&below, cursors);
        if choice != Choice::Nothing {
            return choice;
        }
        // What only waits for a compaction that runs is not stuck.
        let idle = Levels { claims: Vec::new(), ..below };
        let is_stuck = !takes_l0(&self.policy.choose(&idle, cursors));
        let upper: Vec<&Arc<Table>> = levels.runs[0].iter().collect();
        let mut parts: Vec<&[&Arc<Table>]> =
            upper.split(|table| levels.aside.contains(&table.number)).collect();
        if !is_stuck {
            parts.pop();
        }
        let mut choices = parts.into_iter().rev().map(|part| self.merge_part(levels, part, cursors));
        choices.find(|choice| *choice != Choice::Nothing).unwrap_or(Choice::Nothing)
    }

    /// A merge within L0 of some of `part`, neighbours in age there.
    fn merge_part(&self, levels: &Levels, part: &[&Arc<Table>], cursors: &[Bytes; LEVELS]) -> Choice {
        let mut alone =
            Levels { now_seconds: levels.now_seconds, claims: levels.claims.clone(), ..Levels::default() };
        let part: Vec<Arc<Table>> = part.iter().map(|table| Arc::clone(table)).collect();
        alone.runs[0] = alone.runs[0].replace(&[], &part);
        match self.policy.stuck() {
            StuckTables::Stay => Choice::Nothing,
            StuckTables::ByPolicy => match self.policy.choose(&alone, cursors) {
                Choice::Merge(compaction) if compaction.into == 0 => Choice::Merge(compaction),
                _ => Choice::Nothing,
            },
            StuckTables::BySize => {
                let runs = alone.runs();
                let tiers = self.by_size.due(&runs).into_iter();
                let merge = alone.first_free_merge(tiers.map(|(from, to)| within_l0(&runs[from..to])));
                merge.map_or(Choice::Nothing, |merge| Choice::Merge(merge.compaction()))
            }
        }
    }
}

/// Whether a choice takes tables out of L0, or makes fewer of them.
fn takes_l0(choice: &Choice) -> bool {
    choice
        .compaction()
        .is_some_and(|compaction: &Compaction| compaction.inputs.iter().any(|(level, _)| *level == 0))
}

/// The tables that lie below those of L0 that are set aside, without those that are set aside below L0.
fn below_aside(levels: &Levels) -> Levels {
    let mut below = Levels { aside: BTreeSet::new(), ..levels.clone() };
    let is_aside = |table: &&Arc<Table>| levels.aside.contains(&table.number);
    let oldest = levels.runs[0].iter().filter(is_aside).last();
    if let Some(oldest) = oldest {
        let older: Vec<Arc<Table>> = levels.runs[0].after(oldest).cloned().collect();
        below.runs[0] = Run::empty(0).replace(&[], &older);
    }
    for (level, run) in below.runs.iter_mut().enumerate().skip(1) {
        let aside: Vec<Arc<Table>> = run.iter().filter(is_aside).cloned().collect();
        *run = run.replace(&aside, &[]);
        below.barred.extend(aside.iter().map(|table| {
            let (smallest, largest) = (table.smallest.clone(), table.largest.clone());
            CompactionClaim { from: level, into: level, smallest, largest, l0: Vec::new() }
        }));
    }
    below
}

/// The picture that the chosen policy sees.
fn seen(levels: &Levels) -> Cow<'_, Levels> {
    if levels.aside.is_empty() { Cow::Borrowed(levels) } else { Cow::Owned(below_aside(levels)) }
}

impl Policy for PolicyInForce {
    fn choose(&self, levels: &Levels, cursors: &[Bytes; LEVELS]) -> Choice {
        if levels.aside.is_empty() {
            return self.policy.choose(levels, cursors);
        }
        self.choose_around(levels, cursors)
    }

    fn assess(&self, levels: &Levels) -> Assessment {
        if levels.aside.is_empty() {
            return self.policy.assess(levels);
        }
        let idle = Levels { claims: Vec::new(), ..levels.clone() };
        let lowers_l0 = takes_l0(&self.choose_around(&idle, &Default::default()));
        Assessment { lowers_l0, ..self.policy.assess(&below_aside(levels)) }
    }

    fn trigger(&self, levels: &Levels, from: usize) -> String {
        self.policy.trigger(&seen(levels), from)
    }

    fn stuck(&self) -> StuckTables {
        self.policy.stuck()
    }

    fn outgrows_disk(&self) -> bool {
        self.policy.outgrows_disk()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{choose_from, picture, tables};
    use super::*;
    use crate::engine::lsm::table::TableNumber;

    fn options(policy: PolicyKind) -> Options {
        let mut options =
            Options { policy, memtable_bytes: 2, level_base_bytes: 100, l0_trigger: 2, ..Options::default() };
        let window = std::time::Duration::from_secs(100);
        options.policies.tiered.merge_min = 2;
        (options.policies.time_window.window, options.policies.time_window.ttl) = (window, Some(window));
        options
    }

    #[test]
    fn policies_go_around_what_is_set_aside() {
        for (kind, text, aside, wanted) in [
            // Older than it: as ever. Newer: within L0.
            (PolicyKind::LEVELED, "0: a-z 10, a-z 10, a-z 10, a-z 10", 2, "merge [(0, [3, 4])] into 1"),
            (PolicyKind::LEVELED, "0: a-z 10, a-z 10, a-z 10, a-z 10", 3, "merge [(0, [1, 2])] into 0"),
            (PolicyKind::LEVELED, "0: a-z 10, a-z 10, a-z 10, a-z 10", 4, "merge [(0, [1, 2, 3])] into 0"),
            // Of L1: what does not overlap it goes on.
            (PolicyKind::LEVELED, "0: a-c 10, b-d 10\n1: m-n 10", 3, "merge [(0, [1, 2])] into 1"),
            (PolicyKind::LEVELED, "0: a-z 10, b-d 10\n1: m-n 10", 3, "merge [(0, [1, 2])] into 0"),
            (
                PolicyKind::LEVELED,
                "1: a-c 60, d-f 60\n2: a-b 50, d-d 20",
                4,
                "merge [(1, [1]), (2, [3])] into 2",
            ),
            (PolicyKind::LEVELED, "1: a-c 60, d-f 60\n2: d-d 20", 1, "nothing"),
            // A level is never moved over it.
            (PolicyKind::LEVELED, "1: a-c 60, d-f 60\n2: a-z 50", 3, "nothing"),
            // Tombstones over it stay, and are not written anew for ever.
            (PolicyKind::LEVELED, "1: a-c 10 t\n3: b-d 10", 2, "move [(1, [1])] into 2"),
            (PolicyKind::LEVELED, "2: a-c 10 t\n3: b-d 10", 2, "nothing"),
            (PolicyKind::TIERED, "2: a-c 10 t\n3: b-d 10", 2, "nothing"),
            // A result comes to lie above it.
            (PolicyKind::TIERED, "0: a-z 10, a-z 10\n5: a-z 10\n6: a-z 900", 3, "merge [(0, [1, 2])] into 4"),
            (PolicyKind::TIERED, "0: a-z 10, a-z 10\n6: a-z 900", 3, "merge [(0, [1, 2])] into 5"),
            (PolicyKind::EAGER, "0: a-z 10, a-z 10\n6: a-z 900", 3, "merge [(0, [1, 2])] into 0"),
            (PolicyKind::LOG, "0: a-z 10, a-z 10, a-z 10", 3, "nothing"),
            (PolicyKind::TIME_WINDOW, "0: a-z 10 @210, a-z 10 @205, a-z 10 @201", 2, "nothing"),
            (
                PolicyKind::TIME_WINDOW,
                "0: a-z 10 @210, a-z 10 @209, a-z 10 @201",
                3,
                "merge [(0, [1, 2])] into 0",
            ),
            // Expired all the same.
            (PolicyKind::TIME_WINDOW, "0: a-z 10 @210, a-z 10 @10", 2, "drop [(0, [2])]"),
        ] {
            let (tables, policy) = (tables(text), PolicyInForce::new(&options(kind)));
            let levels = Levels { aside: [TableNumber::new(aside)].into(), ..picture(&tables, 250) };
            assert_eq!(choose_from(&policy, &levels, ""), wanted, "{kind:?} {aside} of {text}");
            // Writers wait only for what will be done.
            let takes = wanted.contains("[(0,");
            assert_eq!(policy.assess(&levels).lowers_l0, takes, "{kind:?} {aside} of {text}");
        }
    }
}
