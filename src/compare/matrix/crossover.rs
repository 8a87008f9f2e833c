//! Where one contender overtakes another.
//!
//! What is compared is what door 3 saw. Where it sees nothing of one of the two, it is the kernel's count of both, if their syncs reached the
//! device: without those the kernel counts a page that is changed again and again once.
//!
//! For a pair, the ratio of their write amplifications is known at the points of the matrix. Along an axis (data size, entry size,
//! update share), with the other two held, it crosses 1 between two neighbours; the place between them is where the straight line
//! through the ratios' logarithms is 0, with sizes on a logarithmic axis too.

use super::row::Row;
use super::work::{KEY_BYTES, Point};
use crate::base::text::human_size;

/// The axis that changes while the others are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Size of the key set.
    Data,
    /// Bytes of key and value.
    Entry,
    /// Share of overwrites.
    Updates,
}

impl Axis {
    const ALL: [Axis; 3] = [Axis::Data, Axis::Entry, Axis::Updates];

    /// Where `point` lies on it.
    fn place(self, point: &Point) -> f64 {
        match self {
            Axis::Data => point.data_bytes as f64,
            Axis::Entry => point.entry_bytes() as f64,
            Axis::Updates => point.update_percent as f64,
        }
    }

    /// `point` without its place on the axis.
    fn rest(self, point: &Point) -> Point {
        match self {
            Axis::Data => Point { data_bytes: 0, ..*point },
            Axis::Entry => Point { value_bytes: 0, ..*point },
            Axis::Updates => Point { update_percent: 0, ..*point },
        }
    }

    fn show(self, place: f64) -> String {
        match self {
            Axis::Data | Axis::Entry => human_size(place.round() as u64),
            Axis::Updates => format!("{place:.0} %"),
        }
    }

    /// The axis and what is held, in words.
    fn describe(self, point: &Point) -> String {
        let data = format!("{} of data", human_size(point.data_bytes));
        let entry = format!("entries of {}", human_size(KEY_BYTES + point.value_bytes));
        let updates = format!("{} % updates", point.update_percent);
        match self {
            Axis::Data => format!("by data size ({entry}, {updates})"),
            Axis::Entry => format!("by entry size ({data}, {updates})"),
            Axis::Updates => format!("by update share ({data}, {entry})"),
        }
    }
}

/// Both write amplifications of a pair at one point.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Match {
    /// Where.
    pub point: Point,
    /// Write amplification of the one.
    pub one: f64,
    /// And of the other.
    pub other: f64,
}

impl Match {
    fn is_one_cheaper(&self) -> bool {
        self.one < self.other
    }
    fn log_ratio(&self) -> f64 {
        (self.one / self.other).ln()
    }
}

/// A change of the cheaper one between two neighbours.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Crossing {
    /// Along which axis.
    pub axis: Axis,
    /// Last point before it.
    pub before: Match,
    /// First point after it.
    pub after: Match,
    /// The place between them: bytes or percent.
    pub place: f64,
}

/// The counter whose numbers are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Witness {
    /// Door 3.
    Door,
    /// The kernel.
    Kernel,
}

impl Witness {
    /// The counter that knows both; `None` if none does.
    fn of(rows: &[Row], names: [&str; 2], is_synced: bool) -> Option<Witness> {
        let mut both = rows.iter().filter(|row| names.contains(&row.contender.as_str()));
        match both.all(Row::is_seen) {
            true => Some(Witness::Door),
            false => is_synced.then_some(Witness::Kernel),
        }
    }

    fn write_amp(self, row: &Row) -> Option<f64> {
        match self {
            Witness::Door => row.write_amp(),
            Witness::Kernel => row.kernel_write_amp(),
        }
    }

    fn show(self) -> &'static str {
        match self {
            Witness::Door => "",
            Witness::Kernel => " by the kernel's count",
        }
    }
}

/// Every point where `witness` measured both, and every crossing between neighbours of those.
pub fn find(rows: &[Row], one: &str, other: &str, witness: Witness) -> (Vec<Match>, Vec<Crossing>) {
    let mut matches: Vec<Match> = rows
        .iter()
        .filter(|row| row.contender == one)
        .filter_map(|row| {
            let against =
                rows.iter().find(|found| found.contender == other && found.point() == row.point())?;
            let (one, other) = (witness.write_amp(row)?, witness.write_amp(against)?);
            Some(Match { point: row.point(), one, other })
        })
        .filter(|found| found.one > 0.0 && found.other > 0.0)
        .collect();
    matches.sort_by_key(|found| found.point);
    let mut crossings = Vec::new();
    for axis in Axis::ALL {
        let mut sorted = matches.clone();
        sorted.sort_by(|a, b| {
            let rests = axis.rest(&a.point).cmp(&axis.rest(&b.point));
            rests.then(axis.place(&a.point).total_cmp(&axis.place(&b.point)))
        });
        let neighbours =
            sorted.windows(2).filter(|pair| axis.rest(&pair[0].point) == axis.rest(&pair[1].point));
        for pair in neighbours.filter(|pair| pair[0].is_one_cheaper() != pair[1].is_one_cheaper()) {
            let (before, after) = (pair[0], pair[1]);
            crossings.push(Crossing { axis, before, after, place: place(axis, &before, &after) });
        }
    }
    (matches, crossings)
}

fn place(axis: Axis, before: &Match, after: &Match) -> f64 {
    let (from, to) = (axis.place(&before.point), axis.place(&after.point));
    let (start, end) = (before.log_ratio(), after.log_ratio());
    let share = start / (start - end);
    match axis {
        Axis::Updates => from + (to - from) * share,
        Axis::Data | Axis::Entry => from * (to / from).powf(share),
    }
}

/// The lines that name the crossovers, each beginning with `crossover`: all of them for the first pair of two engines, a sum for
/// every other pair. `is_synced` says whether syncs reached the device.
pub fn report(rows: &[Row], is_synced: bool) -> Vec<String> {
    let mut names: Vec<&str> = Vec::new();
    for row in rows {
        if !names.contains(&row.contender.as_str()) {
            names.push(&row.contender);
        }
    }
    let engine = |name: &str| name.split(':').next().unwrap_or_default().to_string();
    let has_both = names.iter().any(|name| engine(name) != engine(names[0]));
    let mut lines = Vec::new();
    let mut is_first = true;
    for (index, one) in names.iter().enumerate() {
        for other in names[index + 1..].iter().filter(|other| !has_both || engine(one) != engine(other)) {
            let Some(witness) = Witness::of(rows, [one, other], is_synced) else {
                lines.push(format!(
                    "crossover {one} / {other}: none: nobody counts what both write; with --sync the kernel's count is compared"
                ));
                continue;
            };
            let (matches, crossings) = find(rows, one, other, witness);
            let pair = format!("{one} / {other}{}", witness.show());
            lines.push(sum(&pair, one, other, &matches));
            if std::mem::take(&mut is_first) {
                lines.extend(crossings.iter().map(|crossing| line(&pair, one, other, crossing)));
            }
        }
    }
    if lines.is_empty() {
        lines.push("crossover none: there is nothing to compare with".to_string());
    }
    lines
}

fn sum(pair: &str, one: &str, other: &str, matches: &[Match]) -> String {
    let all = matches.len();
    let by = |ratios: &mut dyn Iterator<Item = f64>| {
        let (low, high) =
            ratios.fold((f64::INFINITY, 0.0f64), |(low, high), ratio| (low.min(ratio), high.max(ratio)));
        format!("{low:.2} to {high:.2} times less")
    };
    let ones = matches.iter().filter(|found| found.is_one_cheaper()).count();
    let one_by =
        by(&mut matches.iter().filter(|found| found.is_one_cheaper()).map(|found| found.other / found.one));
    let other_by =
        by(&mut matches.iter().filter(|found| !found.is_one_cheaper()).map(|found| found.one / found.other));
    let verdict = match ones {
        _ if all == 0 => "none: no point was measured with both".to_string(),
        0 => format!("none: {other} writes less at all {all} points ({other_by})"),
        _ if ones == all => format!("none: {one} writes less at all {all} points ({one_by})"),
        _ => format!(
            "{one} writes less at {ones} of {all} points ({one_by}), {other} at {} ({other_by})",
            all - ones
        ),
    };
    format!("crossover {pair}: {verdict}")
}

fn line(pair: &str, one: &str, other: &str, crossing: &Crossing) -> String {
    let Crossing { axis, before, after, place } = crossing;
    let (below, above) = if before.is_one_cheaper() { (one, other) } else { (other, one) };
    let at = |found: &Match| {
        format!("{:.2} / {:.2} at {}", found.one, found.other, axis.show(axis.place(&found.point)))
    };
    format!(
        "crossover {pair} {}: at about {}; below it {below} writes less, above it {above} ({}, {})",
        axis.describe(&before.point),
        axis.show(*place),
        at(before),
        at(after)
    )
}

#[cfg(test)]
mod tests {
    use super::super::row::{sample, unseen};
    use super::*;

    #[test]
    fn a_crossing_is_found_between_its_neighbours_on_each_axis() {
        // Ratios 1/4 and 4 over a factor of 16 in size: the middle of the logarithms is a factor of 4.
        let rows = [
            sample("lsm:leveled", 1 << 20, 84, 50, 10),
            sample("btree:image", 1 << 20, 84, 50, 40),
            sample("lsm:leveled", 16 << 20, 84, 50, 80),
            sample("btree:image", 16 << 20, 84, 50, 20),
        ];
        let (matches, crossings) = find(&rows, "lsm:leveled", "btree:image", Witness::Door);
        assert_eq!((matches.len(), crossings.len()), (2, 1));
        assert_eq!(crossings[0].axis, Axis::Data);
        assert!((crossings[0].place / (4 << 20) as f64 - 1.0).abs() < 1e-9, "{}", crossings[0].place);
        assert_eq!(
            report(&rows, false),
            [
                "crossover lsm:leveled / btree:image: lsm:leveled writes less at 1 of 2 points (4.00 to 4.00 times less), \
                 btree:image at 1 (4.00 to 4.00 times less)",
                "crossover lsm:leveled / btree:image by data size (entries of 100B, 50 % updates): at about 4.00MiB; below it \
                 lsm:leveled writes less, above it btree:image (1.00 / 4.00 at 1.00MiB, 8.00 / 2.00 at 16.0MiB)"
            ]
        );
        let rows = [
            sample("a:x", 1 << 20, 84, 0, 40),
            sample("b:y", 1 << 20, 84, 0, 10),
            sample("a:x", 1 << 20, 84, 100, 10),
            sample("b:y", 1 << 20, 84, 100, 40),
        ];
        let (_, crossings) = find(&rows, "a:x", "b:y", Witness::Door);
        assert_eq!((crossings.len(), crossings[0].axis, crossings[0].place), (1, Axis::Updates, 50.0));
    }

    #[test]
    fn points_that_differ_in_two_ways_are_no_neighbours() {
        let rows = [
            sample("a:x", 1 << 20, 84, 0, 40),
            sample("b:y", 1 << 20, 84, 0, 10),
            sample("a:x", 2 << 20, 84, 100, 10),
            sample("b:y", 2 << 20, 84, 100, 40),
        ];
        assert_eq!(find(&rows, "a:x", "b:y", Witness::Door).1, []);
    }

    #[test]
    fn it_is_said_when_there_is_none() {
        let rows = [
            sample("lsm:leveled", 1 << 20, 84, 0, 10),
            sample("lsm:tiered", 1 << 20, 84, 0, 20),
            sample("btree:image", 1 << 20, 84, 0, 30),
        ];
        assert_eq!(
            report(&rows, false),
            [
                "crossover lsm:leveled / btree:image: none: lsm:leveled writes less at all 1 points (3.00 to 3.00 times less)",
                "crossover lsm:tiered / btree:image: none: lsm:tiered writes less at all 1 points (1.50 to 1.50 times less)"
            ]
        );
        assert_eq!(
            report(&rows[..2], false).len(),
            1,
            "two of one engine are compared when there is no other"
        );
        assert!(report(&rows[..1], false)[0].starts_with("crossover none"));
        assert!(report(&[], false)[0].starts_with("crossover none"));
        let apart = [sample("a:x", 1, 84, 0, 10), sample("b:y", 2, 84, 0, 10)];
        assert!(report(&apart, false)[0].contains("none: no point"));
    }

    #[test]
    fn where_door_3_sees_one_of_two_the_kernel_speaks_of_both_or_nobody() {
        let rows = [
            sample("lsm:leveled", 1 << 20, 84, 0, 10),
            unseen(sample("diary", 1 << 20, 84, 0, 30)),
            unseen(sample("diary", 4 << 20, 84, 0, 10)),
            sample("lsm:leveled", 4 << 20, 84, 0, 30),
        ];
        let nobody = report(&rows, false);
        assert!(
            nobody.len() == 1 && nobody[0].contains("none: nobody counts") && nobody[0].contains("--sync")
        );
        let kernel = report(&rows, true);
        assert!(
            kernel[0].starts_with(
                "crossover lsm:leveled / diary by the kernel's count: lsm:leveled writes less at 1 of 2"
            ),
            "{kernel:?}"
        );
        assert!(
            kernel[1].contains("count by data size (entries of 100B, 0 % updates): at about 2.00MiB")
                && kernel[1].contains("(2.00 / 6.00 at 1.00MiB, 6.00 / 2.00 at 4.00MiB)"),
            "{kernel:?}"
        );
        // Two that door 3 sees are never compared by anything else.
        let seen = [sample("a:x", 1 << 20, 84, 0, 10), sample("b:y", 1 << 20, 84, 0, 30)];
        assert!(report(&seen, true)[0].starts_with("crossover a:x / b:y: none: a:x writes less"));
    }
}
