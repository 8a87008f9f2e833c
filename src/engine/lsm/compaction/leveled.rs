//! Leveled compaction: every level below L0 is one sorted run with a target size, ten times that of the level above.
//!
//! 1. The level with the highest score (size over target; L0: files over trigger) gives, if that is at least 1.
//! 2. L0 gives all its tables; they are merged with everything in L1 that they overlap.
//! 3. A deeper level gives the one table that overlaps the least of the next level for its size: the cheapest bytes to move
//!    down. Of equals the next one after where the last merge out of this level ended is taken, so that all get their turn.
//! 4. What overlaps nothing is moved down without being read.
//!
//! Pure: from a picture of the levels to a choice.

use std::cmp::Ordering;

use bytes::Bytes;

use super::{Choice, Job, Levels, Policy, TableMeta};
use crate::disk::LEVELS;
use crate::engine::Options;

/// The policy and its settings.
#[derive(Clone, Debug)]
pub struct Leveled {
    /// L0 tables that start a merge.
    pub l0_trigger: u64,
    /// Target of L1.
    pub level_base_bytes: u64,
    /// Growth of the target from level to level.
    pub level_multiplier: u64,
}

impl Leveled {
    /// The policy that `options` ask for.
    pub fn new(options: &Options) -> Leveled {
        Leveled {
            l0_trigger: options.l0_trigger,
            level_base_bytes: options.level_base_bytes.max(1),
            level_multiplier: options.level_multiplier,
        }
    }

    /// All of L0 into L1.
    fn leave_l0(&self, levels: &Levels<'_>) -> Choice {
        let upper = &levels.0[0];
        let (Some(start), Some(end)) =
            (upper.iter().map(|table| &table.smallest).min(), upper.iter().map(|table| &table.largest).max())
        else {
            return Choice::Nothing;
        };
        let lower = levels.overlapping(1, start, end);
        let mut sorted: Vec<&TableMeta> = upper.clone();
        sorted.sort_by(|a, b| a.smallest.cmp(&b.smallest));
        let apart = sorted.windows(2).all(|pair| pair[0].largest < pair[1].smallest);
        job(0, upper.iter().map(|table| table.number).collect(), lower, Bytes::new(), apart)
    }

    /// The cheapest table of `level` into the next.
    fn leave_level(&self, levels: &Levels<'_>, level: usize, cursor: &[u8]) -> Choice {
        let cost = |table: &TableMeta| {
            let lower = levels.overlapping(level + 1, &table.smallest, &table.largest);
            lower.iter().map(|table| table.bytes).sum::<u64>() as f64 / table.bytes.max(1) as f64
        };
        let costs = levels.0[level].iter().map(|table| (cost(table), &table.smallest[..] <= cursor, *table));
        let cheapest = costs.min_by(|a, b| {
            a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)).then_with(|| a.2.smallest.cmp(&b.2.smallest))
        });
        let Some((_, _, table)) = cheapest else { return Choice::Nothing };
        let lower = levels.overlapping(level + 1, &table.smallest, &table.largest);
        job(level, vec![table.number], lower, table.largest.clone(), true)
    }
}

/// Merges tables of `level` with the overlapping ones of the next, or moves them if there are none.
fn job(level: usize, upper: Vec<u64>, lower: Vec<&TableMeta>, cursor: Bytes, movable: bool) -> Choice {
    let moves = movable && lower.is_empty();
    let mut inputs = vec![(level, upper)];
    if !lower.is_empty() {
        inputs.push((level + 1, lower.iter().map(|table| table.number).collect()));
    }
    let job = Job { inputs, into: level + 1, cursor: Some((level, cursor)) };
    if moves { Choice::Move(job) } else { Choice::Merge(job) }
}

impl Policy for Leveled {
    fn name(&self) -> &'static str {
        "leveled"
    }

    fn target_bytes(&self, level: usize) -> u64 {
        match level {
            0 => 0,
            level => {
                self.level_base_bytes.saturating_mul(self.level_multiplier.saturating_pow(level as u32 - 1))
            }
        }
    }

    fn score(&self, levels: &Levels<'_>, level: usize) -> f64 {
        match level {
            0 => levels.0[0].len() as f64 / self.l0_trigger as f64,
            level => levels.bytes(level) as f64 / self.target_bytes(level) as f64,
        }
    }

    fn choose(&self, levels: &Levels<'_>, cursors: &[Bytes; LEVELS]) -> Choice {
        // The last level has nowhere to go.
        let scores = (0..LEVELS - 1).map(|level| (self.score(levels, level), level));
        // Of equal scores the upper level gives.
        let best = scores.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1)));
        match best {
            Some((score, _)) if score.total_cmp(&1.0) == Ordering::Less => Choice::Nothing,
            Some((_, 0)) => self.leave_l0(levels),
            Some((_, level)) => self.leave_level(levels, level, &cursors[level]),
            None => Choice::Nothing,
        }
    }

    /// What must be written until every level is within its target: all of L0 with L1 when a merge is due, then each level's
    /// surplus with the share of the next level that it meets.
    fn pending_bytes(&self, levels: &Levels<'_>) -> u64 {
        let mut pending = 0;
        let mut coming = 0;
        if levels.0[0].len() as u64 >= self.l0_trigger {
            coming = levels.bytes(0);
            pending = coming + levels.bytes(1);
        }
        for level in 1..LEVELS - 1 {
            let bytes = levels.bytes(level) + coming;
            let surplus = bytes.saturating_sub(self.target_bytes(level));
            coming = surplus;
            let next = levels.bytes(level + 1);
            if surplus > 0 && next > 0 {
                pending += (surplus as f64 * (next as f64 / bytes as f64 + 1.0)) as u64;
            }
        }
        pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> Leveled {
        Leveled { l0_trigger: 2, level_base_bytes: 100, level_multiplier: 10 }
    }

    /// Lines such as `1: a-c 60, d-f 50`; numbers count from 1 in the order of the text.
    fn tables(text: &str) -> Vec<(usize, TableMeta)> {
        let mut number = 0;
        let mut tables = Vec::new();
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            let (level, list) = line.split_once(':').unwrap();
            for table in list.split(',') {
                let (range, bytes) = table.trim().split_once(' ').unwrap();
                let (smallest, largest) = range.split_once('-').unwrap();
                number += 1;
                let meta = TableMeta {
                    values: Vec::new(),
                    parts: Default::default(),
                    number,
                    bytes: bytes.parse().unwrap(),
                    entries: 1,
                    tombstones: 0,
                    logical_bytes: 1,
                    first_position: 0,
                    last_position: 0,
                    smallest: Bytes::copy_from_slice(smallest.as_bytes()),
                    largest: Bytes::copy_from_slice(largest.as_bytes()),
                };
                tables.push((level.trim().parse().unwrap(), meta));
            }
        }
        tables
    }

    fn picture(tables: &[(usize, TableMeta)]) -> Levels<'_> {
        Levels(std::array::from_fn(|level| {
            tables.iter().filter(|(at, _)| *at == level).map(|(_, table)| table).collect()
        }))
    }

    fn choose(text: &str, cursor: &str) -> String {
        let cursors = std::array::from_fn(|_| Bytes::copy_from_slice(cursor.as_bytes()));
        match policy().choose(&picture(&tables(text)), &cursors) {
            Choice::Nothing => "nothing".to_string(),
            Choice::Move(job) => format!("move {:?} into {}", job.inputs, job.into),
            Choice::Merge(job) => format!("merge {:?} into {}", job.inputs, job.into),
        }
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
            // The last level is never too large.
            ("6: a-c 99999999999", "", "nothing"),
        ] {
            assert_eq!(choose(text, cursor), wanted, "{text}");
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
            assert_eq!(policy().pending_bytes(&picture(&tables(text))), wanted, "{text}");
        }
    }
}
