//! Policies without a disk: tables in a line of text, what a policy chooses of them, and long runs in which only sizes are known.

use std::sync::Arc;

use bytes::Bytes;

use super::eager::Eager;
use super::leveled::Leveled;
use super::model::Sizes;
use super::plain_log::NeverMerge;
use super::tiered::Tiered;
use super::window::TimeWindow;
use super::*;
use crate::control::model::durability_debt;
use crate::engine::Lsn;
use crate::engine::lsm::Options;
use crate::engine::lsm::table::{TableNumber, TableStore};

/// Lines such as `1: a-c 60, d-f 50 t @9`; numbers count from 1 in the order of the text. `t` makes all entries tombstones, `@9` is the
/// time of the newest batch.
pub fn tables(text: &str) -> Vec<(usize, TableMeta)> {
    let mut tables = Vec::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let (level, list) = line.split_once(':').unwrap();
        for table in list.split(',') {
            let mut words = table.split_whitespace();
            let (smallest, largest) = words.next().unwrap().split_once('-').unwrap();
            let bytes = words.next().unwrap().parse().unwrap();
            let mut meta = meta(tables.len() as u64 + 1, smallest.as_bytes(), largest.as_bytes(), bytes);
            for word in words {
                match word.strip_prefix('@') {
                    Some(seconds) => meta.newest_seconds = seconds.parse().unwrap(),
                    None => meta.tombstones = meta.entries,
                }
            }
            tables.push((level.trim().parse().unwrap(), meta));
        }
    }
    tables
}

fn meta(number: u64, smallest: &[u8], largest: &[u8], bytes: u64) -> TableMeta {
    TableMeta {
        number: TableNumber::new(number),
        bytes,
        entries: bytes.max(1),
        logical_bytes: bytes,
        smallest: Bytes::copy_from_slice(smallest),
        largest: Bytes::copy_from_slice(largest),
        ..TableMeta::default()
    }
}

/// What a policy sees of them.
pub fn picture(tables: &[(usize, TableMeta)], now_seconds: u64) -> Levels {
    let of = |level| {
        let mut here: Vec<TableMeta> =
            tables.iter().filter(|(at, _)| *at == level).map(|(_, table)| table.clone()).collect();
        // The text is in order: in L0 newest first.
        let count = here.len() as u64;
        here.iter_mut().zip(1..).for_each(|(table, nth)| table.last_lsn = Lsn::new(count - nth));
        Run::of(level, here.iter().map(TableStore::stub)).unwrap()
    };
    Levels::new(std::array::from_fn(of), now_seconds)
}

/// What a policy chooses, as text.
pub fn choose(policy: &dyn Policy, tables: &[(usize, TableMeta)], cursor: &str, now_seconds: u64) -> String {
    choose_from(policy, &picture(tables, now_seconds), cursor)
}

/// The same of a picture.
pub fn choose_from(policy: &dyn Policy, levels: &Levels, cursor: &str) -> String {
    let cursors = std::array::from_fn(|_| Bytes::copy_from_slice(cursor.as_bytes()));
    match policy.choose(levels, &cursors) {
        Choice::Nothing => "nothing".to_string(),
        Choice::Move(compaction) => format!("move {:?} into {}", compaction.inputs, compaction.into),
        Choice::Merge(compaction) => format!("merge {:?} into {}", compaction.inputs, compaction.into),
        Choice::Drop(compaction) => format!("drop {:?}", compaction.inputs),
    }
}

/// Cells that the key space is cut into.
const CELLS: usize = 512;

/// A table of which only the number of keys in each cell is known.
#[derive(Clone)]
struct Sized {
    meta: Arc<Table>,
    /// Share of the keys of each cell that it holds.
    shares: Vec<f64>,
}

/// A store of sizes. A unit is one key; the key space has `cell_keys` in each cell.
struct Simulation {
    policy: Arc<dyn Policy>,
    levels: [Vec<Sized>; LEVELS],
    cursors: [Bytes; LEVELS],
    cell_keys: f64,
    table_keys: f64,
    next_number: u64,
    written: f64,
    seconds: u64,
}

impl Simulation {
    fn new(policy: Arc<dyn Policy>, keys: f64, table_keys: f64) -> Simulation {
        Simulation {
            policy,
            levels: Default::default(),
            cursors: Default::default(),
            cell_keys: keys / CELLS as f64,
            table_keys,
            next_number: 1,
            written: 0.0,
            seconds: 1,
        }
    }

    /// A table of these cells from `first` on, with batches up to second `newest`.
    fn table(&mut self, first: usize, shares: Vec<f64>, newest: u64) -> Sized {
        let keys: f64 = shares.iter().sum::<f64>() * self.cell_keys;
        let last = first + shares.iter().rposition(|share| *share > 0.0).unwrap_or(0);
        let name = |cell: usize, end: u8| [&(cell as u16).to_be_bytes()[..], &[end]].concat();
        let mut all = vec![0.0; CELLS];
        all[first..first + shares.len()].copy_from_slice(&shares);
        self.next_number += 1;
        let mut meta = meta(self.next_number, &name(first, 0), &name(last, 1), keys.round() as u64);
        (meta.last_lsn, meta.newest_seconds) = (Lsn::new(newest), newest);
        Sized { meta: TableStore::stub(&meta), shares: all }
    }

    /// A memtable of `puts` puts of uniformly chosen keys becomes a table, then everything that the policy wants is done.
    fn flush(&mut self, puts: f64) {
        self.seconds += 1;
        let share = 1.0 - (-puts / (CELLS as f64 * self.cell_keys)).exp();
        let table = self.table(0, vec![share; CELLS], self.seconds);
        self.written += table.meta.bytes as f64;
        self.levels[0].insert(0, table);
        for _ in 0..10_000 {
            if !self.step() {
                return;
            }
        }
        panic!("it never comes to rest");
    }

    fn step(&mut self) -> bool {
        let run = |level: usize| {
            let tables = self.levels[level].iter().map(|table| table.meta.clone());
            Run::of(level, tables).expect("a level is one run")
        };
        let view = Levels::new(std::array::from_fn(run), self.seconds);
        let (compaction, is_move) = match self.policy.choose(&view, &self.cursors) {
            Choice::Nothing => return false,
            Choice::Drop(compaction) => (compaction, false),
            Choice::Move(compaction) => (compaction, true),
            Choice::Merge(compaction) => (compaction, false),
        };
        let mut inputs = Vec::new();
        for (level, numbers) in &compaction.inputs {
            let taken = self.levels[*level].extract_if(.., |table| numbers.contains(&table.meta.number));
            inputs.extend(taken);
        }
        assert!(!inputs.is_empty(), "a compaction with inputs");
        if let Some((level, key)) = compaction.cursor {
            self.cursors[level] = key;
        }
        let outputs = if is_move { inputs } else { self.merge(&inputs, compaction.into) };
        self.levels[compaction.into].extend(outputs);
        let tables = &mut self.levels[compaction.into];
        if compaction.into == 0 {
            tables.sort_by_key(|table| std::cmp::Reverse(table.meta.last_lsn));
        } else {
            tables.sort_by(|a, b| a.meta.smallest.cmp(&b.meta.smallest));
        }
        true
    }

    fn merge(&mut self, inputs: &[Sized], into: usize) -> Vec<Sized> {
        let share = |cell: usize| 1.0 - inputs.iter().map(|table| 1.0 - table.shares[cell]).product::<f64>();
        let shares: Vec<f64> = (0..CELLS).map(share).collect();
        let newest = inputs.iter().map(|table| table.meta.last_lsn).max().unwrap();
        let mut outputs = Vec::new();
        let mut first = 0;
        while let Some(start) = (first..CELLS).find(|cell| shares[*cell] > 0.0) {
            let (mut end, mut keys) = (start, 0.0);
            while end < CELLS && (keys < self.table_keys || into == 0) {
                keys += shares[end] * self.cell_keys;
                end += 1;
            }
            let table = self.table(start, shares[start..end].to_vec(), newest.number());
            self.written += table.meta.bytes as f64;
            outputs.push(table);
            first = end;
        }
        outputs
    }

    fn level_keys(&self) -> Vec<f64> {
        self.levels.iter().map(|tables| tables.iter().map(|table| table.meta.bytes as f64).sum()).collect()
    }
}

/// Write amplification without the log of uniform overwrites of `memtables` memtables of data, after as much was written before.
fn overwrite(policy: Arc<dyn Policy>, memtables: usize, rounds: usize) -> (f64, Simulation) {
    let puts = 10_000.0;
    let mut simulation = Simulation::new(policy, puts * memtables as f64, puts);
    (0..2 * memtables).for_each(|_| simulation.flush(puts));
    let before = simulation.written;
    (0..rounds * memtables).for_each(|_| simulation.flush(puts));
    ((simulation.written - before) / (puts * (rounds * memtables) as f64), simulation)
}

/// Prints what was measured beside the formulas, and holds the nearer one to a quarter.
fn compare(name: &str, measured: f64, formulas: &[(&str, f64)]) {
    let ratio = |formula: f64| (measured / formula).max(formula / measured);
    let nearest = formulas.iter().map(|(_, formula)| ratio(*formula)).fold(f64::INFINITY, f64::min);
    let text: Vec<String> = formulas.iter().map(|(name, formula)| format!("{name} {formula:.2}")).collect();
    println!("{name:<26} measured {measured:6.2}   {}", text.join("   "));
    assert!(nearest < 1.25, "{name}: {measured} is a quarter away from {formulas:?}");
}

fn options() -> Options {
    Options { memtable_bytes: 10_000, level_base_bytes: 40_000, ..Options::default() }
}

#[test]
fn leveled_writes_what_a_formula_says() {
    for (is_dynamic, memtables) in [(false, 390), (true, 390), (false, 3900), (true, 3900)] {
        let policy = Leveled { is_dynamic, ..Leveled::new(&options()) };
        let (measured, simulation) = overwrite(Arc::new(policy), memtables, 3);
        let keys = simulation.level_keys();
        let used: Vec<f64> = keys.into_iter().skip(1).filter(|keys| *keys > 0.0).collect();
        let half_ratio = used.len() as f64 * 10.0 / 2.0;
        let l0_bytes = 4.0 * 10_000.0;
        let levels: Vec<f64> = [l0_bytes].into_iter().chain(used).collect();
        let debt = durability_debt(10_000.0, &levels, 10.0)[0].pending_write_amp;
        let name = format!("leveled {memtables} dynamic {is_dynamic}");
        compare(&name, measured, &[("half-ratio", half_ratio), ("debt", debt)]);
    }
}

#[test]
fn tiered_writes_what_a_formula_says() {
    for (merge_min, memtables) in [(4, 64), (4, 256), (8, 512)] {
        let tiered = Tiered { merge_min, runs_max: 8 * merge_min, ..Tiered::new(&options()) };
        let (measured, _) = overwrite(Arc::new(tiered), memtables, 8);
        let tiers = (memtables as f64).ln() / (merge_min as f64).ln() + 1.0;
        compare(&format!("tiered {merge_min} of {memtables}"), measured, &[("tiers", tiers)]);
    }
}

#[test]
fn eager_and_plain_log_write_what_the_formulas_say() {
    let (memtables, puts) = (50, 10_000.0);
    let sizes = Sizes { buffer_bytes: puts, ..Sizes::default() };
    let formula = |policy: PolicyKind| {
        (policy.model.as_ref().unwrap().predict)(memtables as f64 * puts, &sizes).write_amp
    };
    let (measured, _) = overwrite(Arc::new(Eager), memtables, 2);
    compare("eager", measured, &[("data / buffer", formula(PolicyKind::EAGER))]);
    let (measured, _) = overwrite(Arc::new(NeverMerge), memtables, 2);
    compare("log", measured, &[("one", formula(PolicyKind::LOG))]);
}

#[test]
fn a_time_window_is_merged_by_size_and_once_more_when_it_is_over() {
    let window_flushes = 64;
    let policy = TimeWindow {
        window_seconds: window_flushes,
        ttl_seconds: None,
        tiered: Tiered { space_amp_percent: u64::MAX, ..Tiered::new(&options()) },
    };
    let (measured, simulation) = overwrite(Arc::new(policy), 256, 4);
    let tiers = (window_flushes as f64).ln() / 4f64.ln() + 1.0;
    compare("time-window", measured, &[("tiers of a window", tiers), ("and once more", tiers + 1.0)]);
    let windows = simulation.seconds / window_flushes;
    let tables = simulation.levels[0].len() as u64;
    assert!((windows..windows + 12).contains(&tables), "{tables} tables in {windows} windows");
}
