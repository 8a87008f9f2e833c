//! Reads and overwrites in turns: of keys that stay hot, of none, of others after a while, and beside a scan of everything.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Instant;

use parking_lot::Mutex;

use super::keys::Picker;
use super::pulse::Pulse;
use super::row::Row;
use super::stage::Stage;
use crate::compare::Error;
use crate::compare::stretch::{self, Stretch, Tally};

/// Entries that a scan visits in one call.
const SLICE_ENTRIES: u64 = 1000;
/// Operations of a stretch of `moving` for each of another workload: what is hot must become known.
const MOVING_TIMES: u64 = 8;
/// How much longer the one after the move may take.
const AFTER_TIMES: u64 = 4;

/// Which keys, and what is done with them.
pub struct Mix<'a> {
    /// Operations of a hundred that read.
    pub reads_percent: u64,
    /// Makes what says the keys.
    pub picker: Box<dyn Fn() -> Picker + Sync + 'a>,
}

impl<'a> Mix<'a> {
    /// Half of them.
    pub fn half(picker: impl Fn() -> Picker + Sync + 'a) -> Mix<'a> {
        Mix { reads_percent: 50, picker: Box::new(picker) }
    }

    /// Half of them, of zipfian keys.
    pub fn half_zipf(keys: u64) -> Mix<'static> {
        Mix::half(move || Picker::zipf(keys, 10))
    }
}

impl Stage {
    /// Reads and overwrites. The second row has the reads' latency.
    pub(super) fn mix(&self, how: Stretch, mix: Mix<'_>) -> Result<Vec<Row>, Error> {
        let reads = Mutex::new(Tally::timed());
        let measured = stretch::measure(self.subject()?, how, |_, deadline| {
            let (all, gets) = self.read_and_overwrite(&mix, 1, None, deadline)?;
            *reads.lock() = gets;
            Ok(all)
        })?;
        let row = self.row(&measured, true)?;
        let second = with_latency(&row, ":reads", &reads.into_inner());
        Ok(vec![row, second])
    }

    /// The same while another thread scans everything over and over. The third row has the entries of the scan, and the latency of a slice of it.
    pub(super) fn mix_beside_a_scan(&self, how: Stretch) -> Result<Vec<Row>, Error> {
        let subject = self.subject()?;
        let (reads, scanned) = (Mutex::new(Tally::timed()), Mutex::new(Tally::timed()));
        let is_over = AtomicBool::new(false);
        let mix = Mix::half_zipf(self.size.keys);
        let measured = stretch::measure(subject, Stretch { threads: 2, ..how }, |thread, deadline| {
            if thread == 0 {
                // However it ends, the other thread is not to go on.
                let ended = self.read_and_overwrite(&mix, 1, None, deadline);
                is_over.store(true, Relaxed);
                let (all, gets) = ended?;
                *reads.lock() = gets;
                return Ok(all);
            }
            let (mut tally, mut from) = (Tally::timed(), vec![0]);
            loop {
                let since = Instant::now();
                let (entries, bytes, last) = subject.slice(&from, SLICE_ENTRIES)?;
                tally.count(entries, bytes, since, None);
                // Behind the last one, or from the beginning again.
                from = last.map_or(vec![0], |last| [&last[..], &[0]].concat());
                if is_over.load(Relaxed) {
                    *scanned.lock() = tally;
                    return Ok(Tally::default());
                }
            }
        })?;
        let row = self.row(&measured, true)?;
        let scanned = scanned.into_inner();
        let third =
            Row { ops: scanned.ops, logical_bytes: scanned.bytes, ..with_latency(&row, ":scan", &scanned) };
        let second = with_latency(&row, ":reads", &reads.into_inner());
        Ok(vec![row, second, third])
    }

    /// Stretches of zipfian reads and overwrites one after another, nothing settled between them. Before the last one others become the hot keys;
    /// it ends when the rate is again what it had been, and its row says when that was.
    pub(super) fn move_hot(&self, how: Stretch) -> Result<Vec<Row>, Error> {
        let keys = self.size.keys;
        let stretch = |place, times: u64, pulse: Option<&Mutex<Pulse>>| {
            let mix = Mix::half(move || Picker::zipf_elsewhere(keys, 10, place));
            let limit = how.limit.map(|limit| limit * times as u32);
            let measured = stretch::measure(
                self.subject()?,
                Stretch { settles: false, limit, ..how },
                |_, deadline| Ok(self.read_and_overwrite(&mix, MOVING_TIMES * times, pulse, deadline)?.0),
            )?;
            self.row(&measured, true)
        };
        let known = stretch(0, 1, None)?;
        let before = Row { workload: ":before".to_string(), ..stretch(0, 1, None)? };
        let pulse = Mutex::new(Pulse::begin(before.ops_per_second()));
        let after = stretch(1, AFTER_TIMES, Some(&pulse))?;
        let recovery_nanos = pulse.into_inner().recovery().map(|time| time.as_nanos() as u64);
        // What the last one leaves is no other workload's.
        self.subject()?.settle()?;
        Ok(vec![known, before, Row { workload: ":after".to_string(), recovery_nanos, ..after }])
    }

    /// `times` as many operations as there are to be, or until `pulse`, which counts them, has recovered; and those that read.
    fn read_and_overwrite(
        &self,
        mix: &Mix<'_>,
        times: u64,
        pulse: Option<&Mutex<Pulse>>,
        deadline: Option<Instant>,
    ) -> Result<(Tally, Tally), Error> {
        let mut pulse = pulse.map(|pulse| pulse.lock());
        let (subject, count) = (self.subject()?, times * self.size.overwrites);
        let (mut picker, mut coin) = ((mix.picker)(), Picker::uniform(100, 11));
        let (mut writes, mut gets) = (Tally::timed(), Tally::timed());
        while writes.ops + gets.ops < count && !writes.is_cut && !gets.is_cut {
            let index = picker.pick();
            if coin.pick() >= mix.reads_percent {
                let change = self.puts(std::iter::once(index));
                let since = Instant::now();
                subject.apply(&change)?;
                writes.count(1, change.bytes(), since, deadline);
            } else {
                self.get_one(index, true, &mut gets, deadline)?;
            }
            if pulse.as_mut().is_some_and(|pulse| pulse.beat()) {
                break;
            }
        }
        writes.ops += gets.ops;
        writes.is_cut |= gets.is_cut;
        Ok((writes, gets))
    }
}

/// `row` with the latency of `tally`.
fn with_latency(row: &Row, workload: &str, tally: &Tally) -> Row {
    Row {
        workload: workload.to_string(),
        p50_nanos: tally.percentile_nanos(0.5),
        p99_nanos: tally.percentile_nanos(0.99),
        p999_nanos: tally.percentile_nanos(0.999),
        max_nanos: tally.percentile_nanos(1.0),
        ..row.clone()
    }
}
