//! What the hybrid is to reach, beside the first LSM-tree and the first B-tree of the same run, and by how much it does.

use std::fmt::Write;

use super::row::Row;
use crate::base::text::human_size;
use crate::compare::csv::times;

/// What is held against what.
#[derive(Clone, Copy)]
enum Figure {
    /// Sustained operations a second, a ratio to the higher one of both.
    Rate,
    /// Bytes written a byte, a ratio to the lower one.
    Written,
    /// Structures asked a read, less those of the B-tree.
    Structures,
    /// Seconds until the rate is back after other keys became the hot ones.
    Recovery,
}

/// The goals: a workload, a figure of it, and what it shall be at least (a rate) or at most.
const GOALS: [(&str, Figure, f64); 8] = [
    ("mixed", Figure::Rate, 1.6),
    ("mixed", Figure::Written, 0.7),
    ("mixed", Figure::Structures, 0.5),
    ("mixeduniform", Figure::Rate, UNIFORM),
    ("mixeduniformreads", Figure::Rate, UNIFORM),
    ("overwrite", Figure::Rate, UNIFORM),
    ("readrandom", Figure::Rate, UNIFORM),
    ("moving:after", Figure::Recovery, 60.0),
];
/// Where nothing is hot, the better of the two is hardly to be lost to.
const UNIFORM: f64 = 0.97;

/// Bytes written a byte, at door 3 or, where there is none, by the kernel's count.
fn written(row: &Row) -> Option<f64> {
    row.write_amp().or(row.kernel_write_amp())
}

impl Figure {
    fn name(self) -> &'static str {
        match self {
            Figure::Rate => "operations a second",
            Figure::Written => "bytes written a byte",
            Figure::Structures => "structures asked a read",
            Figure::Recovery => "seconds until 90 %",
        }
    }

    fn of(self, row: &Row) -> Option<f64> {
        match self {
            Figure::Rate => Some(row.sustained_per_second()),
            Figure::Written => written(row),
            Figure::Structures => row.structures_per_get(),
            Figure::Recovery => row.recovery_nanos.map(|nanos| nanos as f64 / 1e9),
        }
    }

    /// What `hybrid` reaches beside the other two.
    fn reached(self, hybrid: f64, lsm: Option<f64>, btree: Option<f64>) -> Option<f64> {
        match self {
            Figure::Rate => Some(hybrid / lsm?.max(btree?)),
            Figure::Written => Some(hybrid / lsm?.min(btree?)),
            Figure::Structures => Some(hybrid - btree?),
            Figure::Recovery => Some(hybrid),
        }
    }

    fn verdict(self, reached: f64, goal: f64) -> String {
        let missed_by = match self {
            Figure::Rate => goal - reached,
            Figure::Written | Figure::Structures | Figure::Recovery => reached - goal,
        };
        match self {
            _ if missed_by <= 0.0 => "reached".to_string(),
            Figure::Rate | Figure::Written => format!("missed by {:.0} %", 100.0 * missed_by / goal),
            Figure::Structures => format!("missed by {}", times(Some(missed_by))),
            Figure::Recovery => format!("missed by {missed_by:.1} s"),
        }
    }

    /// What the goal asks for, in words.
    fn asks(self, goal: f64) -> String {
        match self {
            Figure::Rate => format!("≥ {goal} of the better"),
            Figure::Written => format!("≤ {goal} of the better"),
            Figure::Structures => format!("≤ B-tree + {goal}"),
            Figure::Recovery => format!("≤ {goal}"),
        }
    }
}

/// Markdown: for every hybrid beside which an LSM-tree and a B-tree ran, the goals whose workloads ran, one a line. Empty without any.
pub fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    let mut sizes: Vec<(u64, u64)> = rows.iter().map(|row| (row.data_bytes, row.value_bytes)).collect();
    sizes.dedup();
    for size in sizes {
        let rows: Vec<&Row> = rows.iter().filter(|row| (row.data_bytes, row.value_bytes) == size).collect();
        let first =
            |engine: &str| rows.iter().find(|row| engine_of(row) == engine).map(|row| row.contender.as_str());
        let (Some(lsm), Some(btree)) = (first("lsm"), first("btree")) else { continue };
        let mut hybrids: Vec<&str> = Vec::new();
        for row in rows.iter().filter(|row| engine_of(row) == "hybrid") {
            if !hybrids.contains(&row.contender.as_str()) {
                hybrids.push(&row.contender);
            }
        }
        for hybrid in hybrids {
            let lines: String =
                GOALS.iter().filter_map(|goal| line(&rows, hybrid, [lsm, btree], *goal)).collect();
            if lines.is_empty() {
                continue;
            }
            let (data, value) = (human_size(size.0), human_size(size.1));
            let _ = writeln!(
                text,
                "\n### Goals: {hybrid} beside {lsm} and {btree}, {data}, values of {value}\n\n\
                 | workload | figure | hybrid | {lsm} | {btree} | reached | goal | |\n|---|---|--:|--:|--:|--:|---|---|\n{lines}"
            );
        }
    }
    text
}

fn engine_of(row: &Row) -> &str {
    row.contender.split(':').next().unwrap_or_default()
}

fn line(rows: &[&Row], hybrid: &str, [lsm, btree]: [&str; 2], goal: (&str, Figure, f64)) -> Option<String> {
    let (workload, figure, least_or_most) = goal;
    let row = |name: &str| rows.iter().find(|row| row.contender == name && row.workload == workload);
    let of = |name: &str| row(name).and_then(|row| figure.of(row));
    let marks = row(hybrid)?.marks();
    let (mine, [lsm, btree]) = (of(hybrid), [lsm, btree].map(of));
    let reached = mine.and_then(|mine| figure.reached(mine, lsm, btree));
    let verdict = match (reached, figure) {
        (Some(reached), _) => figure.verdict(reached, least_or_most),
        (None, Figure::Recovery) => {
            let seconds = row(hybrid)?.run_nanos as f64 / 1e9;
            format!("not within the {seconds:.0} s that were watched")
        }
        (None, _) => "not measured".to_string(),
    };
    let [mine, lsm, btree, reached] = [mine, lsm, btree, reached].map(times);
    Some(format!(
        "| {workload} | {} | {mine}{marks} | {lsm} | {btree} | {reached} | {} | {verdict} |\n",
        figure.name(),
        figure.asks(least_or_most)
    ))
}

#[cfg(test)]
mod tests {
    use super::super::row::sample;
    use super::*;

    #[test]
    fn each_goal_is_held_against_the_better_of_the_two_and_says_by_how_much_it_is_missed() {
        let written = |row: Row, bytes| Row { door_write_bytes: Some(bytes), ..row };
        let rows = [
            written(sample("lsm:leveled", "mixed", 100), 4000),
            written(sample("lsm:tiered", "mixed", 900), 100),
            written(sample("btree:in-place", "mixed", 150), 9000),
            Row { structures: Some(310), ..written(sample("hybrid:leveled:hot=1M", "mixed", 180), 2000) },
            sample("lsm:leveled", "mixeduniform", 100),
            sample("btree:in-place", "mixeduniform", 50),
            sample("hybrid:leveled:hot=1M", "mixeduniform", 98),
            Row {
                recovery_nanos: Some(61_500_000_000),
                ..sample("hybrid:leveled:hot=1M", "moving:after", 1)
            },
        ];
        let text = table(&rows);
        for expected in [
            "### Goals: hybrid:leveled:hot=1M beside lsm:leveled and btree:in-place, 1.00MiB, values of 100B",
            "| mixed | operations a second | 180 | 100 | 150 | 1.20 | ≥ 1.6 of the better | missed by 25 % |",
            "| mixed | bytes written a byte | 2.00 | 4.00 | 9.00 | 0.50 | ≤ 0.7 of the better | reached |",
            "| mixed | structures asked a read | 3.10 | 2.50 | 2.50 | 0.60 | ≤ B-tree + 0.5 | missed by 0.10 |",
            "| mixeduniform | operations a second | 98.0 | 100 | 50.0 | 0.98 | ≥ 0.97 of the better | reached |",
            "| moving:after | seconds until 90 % | 61.5 | - | - | 61.5 | ≤ 60 | missed by 1.5 s |",
        ] {
            assert!(text.contains(expected), "no '{expected}' in {text}");
        }
        assert_eq!(table(&rows[..3]), "", "nothing without a hybrid");
        let never = [rows[0].clone(), rows[2].clone(), sample("hybrid:leveled:hot=1M", "moving:after", 1)];
        assert!(table(&never).contains("| not within the 1 s that were watched |"), "{}", table(&never));
    }
}
