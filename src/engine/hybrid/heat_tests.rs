//! What heat is kept for: each record, or each leaf of neighbouring ones. Traces are replayed against a tree of `hot` bytes that takes what is
//! written, gives up what is cold as the [demoter](super::demoter) does, and copies what is read often as the [promoter](super::promoter) does.
//!
//! `cargo test --lib heat_for -- --nocapture` prints the table of `docs/hybrid.md`.

use std::fmt::Write;

use super::heat::{HEAT_MAX, Heat};
use crate::base::prng::{Prng, mix};

/// Heat from which on a record is copied into the tree: the default of `promote`.
const PROMOTE_HEAT: u8 = 8;
/// The tree holds one part of the data in so many.
const HOT_SHARE: u64 = 16;
/// Bytes of all records.
const DATA_BYTES: u64 = 32 << 20;
/// Accesses of a trace for each record; as many again before they are counted.
const ACCESSES_PER_RECORD: u64 = 4;

/// Where a record is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Below,
    /// In the tree, as it was written.
    Written,
    /// In the tree, as a copy of what is below.
    Copied,
}

/// What has heat: so many neighbouring records together, with as many counters as the engine has for records of that size, or one for each KiB.
#[derive(Clone, Copy)]
struct Unit {
    name: &'static str,
    records: u64,
    is_fitted: bool,
}

/// A tree of records of one size, in the order of their keys.
struct Tree {
    heat: Heat,
    unit: Unit,
    places: Vec<Place>,
    /// Records in it, and how many it holds at most.
    held: usize,
    held_max: usize,
    hand: usize,
    threshold: u8,
    driven_out: u8,
    /// Reads, writes and records that went down since counting began.
    reads: [u64; 2],
    writes: [u64; 2],
    demoted: u64,
}

impl Tree {
    fn new(records: u64, record_bytes: u64, unit: Unit) -> Tree {
        let heat = Heat::new(records * record_bytes / HOT_SHARE);
        if unit.is_fitted {
            heat.fit(record_bytes);
        }
        Tree {
            heat,
            unit,
            places: vec![Place::Below; records as usize],
            held: 0,
            held_max: (records / HOT_SHARE) as usize,
            hand: 0,
            threshold: 0,
            driven_out: 0,
            reads: [0; 2],
            writes: [0; 2],
            demoted: 0,
        }
    }

    fn unit_of(&self, record: u64) -> [u8; 8] {
        (record / self.unit.records).to_be_bytes()
    }

    fn access(&mut self, record: u64, is_write: bool) {
        let (unit, at) = (self.unit_of(record), record as usize);
        self.heat.touch(&unit);
        if self.heat.cool() {
            self.driven_out /= 2;
        }
        let is_held = self.places[at] != Place::Below;
        let counts = if is_write { &mut self.writes } else { &mut self.reads };
        counts[usize::from(is_held)] += 1;
        if is_write {
            self.held += usize::from(!is_held);
            self.places[at] = Place::Written;
        } else if !is_held {
            let heat = self.heat.heat(&unit);
            if heat >= PROMOTE_HEAT && heat > self.driven_out && self.held < self.held_max {
                self.held += 1;
                self.places[at] = Place::Copied;
            }
        }
        if self.held > self.held_max {
            self.empty();
        } else {
            self.threshold = self.threshold.saturating_sub(1);
        }
    }

    /// Gives up what is cold until there is some room, going round with a threshold that rises.
    fn empty(&mut self) {
        while self.held > self.held_max - self.held_max / 16 {
            let place = self.places[self.hand];
            if place != Place::Below && self.heat.heat(&self.unit_of(self.hand as u64)) <= self.threshold {
                self.demoted += u64::from(place == Place::Written);
                self.driven_out = self.driven_out.max(self.threshold);
                self.places[self.hand] = Place::Below;
                self.held -= 1;
            }
            self.hand += 1;
            if self.hand == self.places.len() {
                self.hand = 0;
                self.threshold = HEAT_MAX.min(self.threshold * 2 + 1);
            }
        }
    }

    fn begin_counting(&mut self) {
        (self.reads, self.writes, self.demoted) = ([0; 2], [0; 2], 0);
    }
}

/// Shares of reads and of writes that met the record in the tree, and bytes that went down a byte written.
#[derive(Clone, Copy, Debug)]
struct Outcome {
    reads: f64,
    writes: f64,
    demoted: f64,
}

/// Which records a program uses, half reads and half writes.
struct Trace {
    name: &'static str,
    record_bytes: u64,
    /// What has heat, one after the other.
    units: &'static [Unit],
    /// The records of the next use: the first one and how many, of so many.
    next: fn(&mut Prng, u64) -> (u64, u64),
}

/// A rank of `0..count`, the first ones far more often: the chance of a rank falls with its number.
fn rank(random: &mut Prng, count: u64) -> u64 {
    let unit = (random.bits() >> 11) as f64 / (1u64 << 53) as f64;
    ((count as f64).powf(unit) as u64 - 1).min(count - 1)
}

const RECORD: Unit = Unit { name: "record", records: 1, is_fitted: true };
const COARSE: Unit = Unit { name: "record, one counter for each KiB", is_fitted: false, ..RECORD };
const SMALL: &[Unit] = &[
    RECORD,
    COARSE,
    Unit { name: "leaf of 4K", records: 32, ..COARSE },
    Unit { name: "leaf of 16K", records: 128, ..COARSE },
];
const BLOCKS: &[Unit] = &[
    RECORD,
    Unit { name: "16K of blocks", records: 4, ..COARSE },
    Unit { name: "leaf of references, 1M", records: 256, ..COARSE },
];
/// Part of the data that is hot where some of it is, and of a hundred uses, those of it.
const HOT_PART: u64 = 32;
const HOT_PERCENT: u64 = 90;
/// Blocks from the beginning of one file to that of the next one.
const FILE_BLOCKS: u64 = 8;

const TRACES: [Trace; 6] = [
    Trace {
        name: "128 B, zipf, scattered",
        record_bytes: 128,
        units: SMALL,
        next: |random, count| (mix(rank(random, count)) % count, 1),
    },
    Trace {
        name: "128 B, zipf, neighbours",
        record_bytes: 128,
        units: SMALL,
        next: |random, count| ((rank(random, count) + count / 3) % count, 1),
    },
    Trace {
        name: "128 B, a hot table beside a cold one",
        record_bytes: 128,
        units: SMALL,
        next: |random, count| match random.below(100) < HOT_PERCENT {
            true => (count / 2 + random.below(count / HOT_PART), 1),
            false => (random.below(count), 1),
        },
    },
    Trace {
        name: "4 KiB, hot blocks of a large file",
        record_bytes: 4096,
        units: BLOCKS,
        next: |random, count| (mix(rank(random, count)) % count, 1),
    },
    Trace {
        name: "4 KiB, hot files among cold ones",
        record_bytes: 4096,
        units: BLOCKS,
        next: |random, count| {
            let files = count / FILE_BLOCKS;
            let file = match random.below(100) < HOT_PERCENT {
                true => mix(random.below(files / HOT_PART)) % files,
                false => random.below(files),
            };
            (file * FILE_BLOCKS, 1 + mix(file) % FILE_BLOCKS)
        },
    },
    Trace {
        name: "128 B, uniform",
        record_bytes: 128,
        units: SMALL,
        next: |random, count| (random.below(count), 1),
    },
];

impl Trace {
    fn replay(&self, unit: Unit) -> Outcome {
        let count = DATA_BYTES / self.record_bytes;
        let (mut tree, mut random) = (Tree::new(count, self.record_bytes, unit), Prng::new(7));
        for is_counted in [false, true] {
            if is_counted {
                tree.begin_counting();
            }
            let mut accesses = 0;
            while accesses < count * ACCESSES_PER_RECORD {
                let ((first, records), is_write) = ((self.next)(&mut random, count), random.one_in(2));
                (first..first + records).for_each(|record| tree.access(record, is_write));
                accesses += records;
            }
        }
        let share = |[missed, met]: [u64; 2]| met as f64 / (missed + met) as f64;
        let demoted = tree.demoted as f64 / tree.writes.iter().sum::<u64>() as f64;
        Outcome { reads: share(tree.reads), writes: share(tree.writes), demoted }
    }
}

#[test]
fn heat_for_each_record_is_better_than_for_each_leaf_where_hot_records_are_scattered() {
    let heading =
        "| | heat of each | hot reads | hot writes | bytes down a byte written |\n|---|---|--:|--:|--:|\n";
    let (mut text, mut outcomes) = (heading.to_string(), Vec::new());
    for trace in &TRACES {
        let of_trace: Vec<Outcome> = trace.units.iter().map(|unit| trace.replay(*unit)).collect();
        for (Unit { name, .. }, Outcome { reads, writes, demoted }) in trace.units.iter().zip(&of_trace) {
            writeln!(text, "| {} | {name} | {reads:.2} | {writes:.2} | {demoted:.2} |", trace.name).unwrap();
        }
        outcomes.push(of_trace);
    }
    println!("{text}");
    // Where hot records are neighbours and small, a leaf does better: its counters say more than those of its many records.
    let [scattered, neighbours, table, blocks, files, uniform] = &outcomes[..] else { panic!("six traces") };
    for of_trace in [scattered, neighbours, table] {
        assert!(of_trace[0].writes > of_trace[1].writes + 0.03, "counters fit small records: {text}");
    }
    for (of_trace, leaves) in [(scattered, 2), (blocks, 1), (files, 1)] {
        let record = of_trace[0];
        for leaf in &of_trace[leaves..] {
            assert!(record.reads > leaf.reads - 0.01 && record.writes > leaf.writes - 0.01, "{text}");
            assert!(record.demoted < leaf.demoted + 0.01, "{text}");
        }
    }
    for of_trace in [blocks, files] {
        assert!(of_trace[0].reads > 2.0 * of_trace[2].reads, "a leaf of references is never all hot: {text}");
    }
    // What leaves a tree in which nothing is hotter than the rest is what comes in.
    assert!(uniform.iter().all(|it| it.reads < 0.1 && it.writes < 0.1 && it.demoted > 0.9), "{text}");
}
