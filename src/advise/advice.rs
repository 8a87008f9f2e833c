//! Advice: every design of a grid passes through the steps, on as many threads as there are; then the front, and the regret of a choice.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use parking_lot::Mutex;

use super::front::{Thinning, front};
use super::grid::Design;
use super::model::{Clock, Outcome, run};
use super::source::Recorded;
use super::steps::{Step, Steps};
use crate::engine::Result;

/// Shifts of the share of writes, in hundredths of all batches and reads.
pub const SHIFTS: [i64; 4] = [-30, -10, 10, 30];

/// Memory that advice takes at most: where there are very many keys, fewer designs are looked at at once.
const MEMORY_BYTES: u64 = 256 << 20;
/// Memory of a model beside its keys: memtable, pages, and what a cache of some hundred mebibytes has.
const MODEL_BYTES: u64 = 20 << 20;
/// Memory of a model for each key.
const KEY_BYTES: u64 = 6;

/// Designs that may be looked at at once, `threads` at most.
fn threads_for(steps: &Steps, threads: usize) -> usize {
    let each_bytes = MODEL_BYTES + KEY_BYTES * u64::from(steps.keys.count());
    let fit = MEMORY_BYTES.saturating_sub(steps.memory_bytes()) / each_bytes;
    threads.min(fit as usize).max(1)
}

/// What a design would cost.
#[derive(Debug)]
pub struct Row {
    /// What it was asked for as.
    pub asked: String,
    /// As in `-o`.
    pub text: String,
    /// Whether it is that of the store which was recorded.
    pub is_recorded: bool,
    /// Whether it is on the front.
    pub is_on_front: bool,
    /// What the model counted.
    pub outcome: Outcome,
    /// Write amplification, up to where nothing is owed any more.
    pub write: f64,
    /// Read amplification of gets and scans; `None` where nothing was read.
    pub read: Option<f64>,
    /// Space amplification at the end, and at its peak.
    pub space: f64,
    /// See there.
    pub space_peak: f64,
    /// Bytes to and from the disk, now and after each shift; `None` where a shift cannot be.
    pub moved_bytes: u64,
    /// See there. Only of designs on the front.
    pub shifted_bytes: [Option<u64>; SHIFTS.len()],
}

/// The design that moves the fewest bytes, when the mix has shifted.
#[derive(Debug)]
pub struct Shifted {
    /// By so many hundredths.
    pub percent: i64,
    /// Its row.
    pub best: usize,
    /// How much more the one that is best now moves, as a share.
    pub regret: f64,
}

/// The advice on a recording.
#[derive(Debug)]
pub struct Advice {
    /// Every design, by write amplification.
    pub rows: Vec<Row>,
    /// The row of the design that moves the fewest bytes to and from the disk; `None` without designs.
    pub best: Option<usize>,
    /// What of that holds after each shift that can be.
    pub shifted: Vec<Shifted>,
    /// Designs that have no model, each with the reason.
    pub failed: Vec<(String, String)>,
    /// Whether write amplification is against the bytes that programs wrote; else against those that the engine was given.
    pub is_of_app_writes: bool,
    /// Whether read amplification is against the bytes that programs read; else against those that the engine returned.
    pub is_of_app_reads: bool,
}

/// Passes `steps` through each of `designs` on `threads` threads, or fewer where memory is short; `note` is told how many passes have ended, of how many.
pub fn advise(
    steps: &Steps,
    recorded: &Recorded,
    designs: &[Design],
    threads: usize,
    note: &(dyn Fn(usize, usize) + Sync),
) -> Advice {
    let threads = threads_for(steps, threads);
    let (app_write, app_read) = (recorded.app_write_bytes, recorded.app_read_bytes);
    let totals = &steps.totals;
    let per = |bytes: u64, of: u64| bytes as f64 / of.max(1) as f64;
    let write_of = app_write.unwrap_or(totals.logical_bytes);
    let read_of = app_read.unwrap_or(totals.returned_bytes);
    let (done, whole) = (AtomicUsize::new(0), designs.len());
    let each = |design: &Design, takes: &mut dyn FnMut(&Step) -> bool, all: usize| {
        let outcome = run(&design.options, steps, Clock::Recorded, takes);
        note(done.fetch_add(1, Relaxed) + 1, all);
        outcome
    };
    let outcomes = in_parallel(designs, threads, |design| each(design, &mut |_| true, whole));
    let (mut rows, mut failed, mut row_designs) = (Vec::new(), Vec::new(), Vec::new());
    for (design, outcome) in designs.iter().zip(outcomes) {
        let outcome: Outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                failed.push((design.text.clone(), error.to_string()));
                continue;
            }
        };
        let settled = &outcome.settled;
        rows.push(Row {
            asked: design.asked.clone(),
            text: design.text.clone(),
            is_recorded: design.is_recorded,
            is_on_front: false,
            write: per(settled.written_bytes, write_of),
            read: (totals.reads > 0 && read_of > 0).then(|| per(settled.read_bytes, read_of)),
            space: per(settled.space_bytes, totals.live_bytes),
            space_peak: per(settled.space_bytes_peak, totals.live_bytes_peak),
            moved_bytes: settled.moved_bytes(),
            shifted_bytes: [None; SHIFTS.len()],
            outcome,
        });
        row_designs.push(design);
    }
    let points: Vec<[f64; 3]> =
        rows.iter().map(|row| [row.write, row.read.unwrap_or(0.0), row.space]).collect();
    for (row, is_on_front) in rows.iter_mut().zip(front(&points)) {
        row.is_on_front = is_on_front;
    }
    // The front once more for each shift.
    let tasks: Vec<(usize, usize, Thinning)> = (0..rows.len())
        .filter(|row| rows[*row].is_on_front)
        .flat_map(|row| (0..SHIFTS.len()).map(move |shift| (row, shift)))
        .filter_map(|(row, shift)| Some((row, shift, Thinning::of(totals, SHIFTS[shift])?)))
        .collect();
    let all = whole + tasks.len();
    let shifted = in_parallel(&tasks, threads, |(row, _, thinning)| {
        let mut thinning = *thinning;
        each(row_designs[*row], &mut |step| thinning.takes(step), all)
    });
    for ((row, shift, _), outcome) in tasks.iter().zip(shifted) {
        rows[*row].shifted_bytes[*shift] = outcome.ok().map(|outcome| outcome.settled.moved_bytes());
    }
    let order = |row: &Row| [row.write, row.read.unwrap_or(0.0), row.space];
    rows.sort_by(|a, b| order(a).partial_cmp(&order(b)).unwrap_or(std::cmp::Ordering::Equal));
    let of_front = || (0..rows.len()).filter(|row| rows[*row].is_on_front);
    let best = of_front().min_by_key(|row| rows[*row].moved_bytes);
    let shifted = best.map_or(Vec::new(), |best| {
        let shifted = SHIFTS.iter().enumerate().filter_map(|(shift, percent)| {
            let then = of_front().min_by_key(|row| rows[*row].shifted_bytes[shift].unwrap_or(u64::MAX))?;
            let (least, held) = (rows[then].shifted_bytes[shift]?, rows[best].shifted_bytes[shift]?);
            Some(Shifted { percent: *percent, best: then, regret: per(held, least) - 1.0 })
        });
        shifted.collect()
    });
    let (is_of_app_writes, is_of_app_reads) = (app_write.is_some(), app_read.is_some());
    Advice { rows, best, shifted, failed, is_of_app_writes, is_of_app_reads }
}

/// Results of `work` on each of `items`, in their order.
fn in_parallel<T: Sync>(
    items: &[T],
    threads: usize,
    work: impl Fn(&T) -> Result<Outcome> + Sync,
) -> Vec<Result<Outcome>> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<(usize, Result<Outcome>)>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, items.len().max(1)) {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Relaxed);
                    let Some(item) = items.get(at) else { return };
                    let result = work(item);
                    results.lock().push((at, result));
                }
            });
        }
    });
    let mut results = results.into_inner();
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}
