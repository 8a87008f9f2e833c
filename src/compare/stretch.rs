//! One measured stretch of work: it runs on its threads, with memory and space sampled beside it and, if asked for, a sync once a second;
//! then the engine settles. What came of it are differences of everything that is counted.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::Error;
use super::subject::{Counts, Occupied, Subject};

/// The interval at which writes become durable that do not ask for it.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// Interval of memory samples; space is sampled once every so many times.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(5);
const SAMPLES_OF_SPACE: u32 = 100;
/// Longest delay until a thread that waits for its next turn sees the end of a stretch.
const NAP: Duration = Duration::from_millis(5);

/// Settings of a stretch of work.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    /// On how many threads.
    pub threads: u64,
    /// Whether to wait afterwards until nothing is owed.
    pub settles: bool,
    /// Whether everything is synced once a second meanwhile.
    pub ticks: bool,
    /// Whether space is sampled: it changes.
    pub grows: bool,
    /// When it is cut short; never if `None`.
    pub limit: Option<Duration>,
}

impl Stretch {
    /// Writes on one thread, and what they leave to do; nothing beside them.
    pub const WRITES: Stretch =
        Stretch { threads: 1, settles: true, ticks: false, grows: false, limit: None };
    /// Reads on one thread.
    pub const READS: Stretch = Stretch { settles: false, ..Stretch::WRITES };
}

/// Counts of one thread.
#[derive(Default)]
pub struct Tally {
    /// Operations.
    pub ops: u64,
    /// Key and value bytes.
    pub bytes: u64,
    /// Whether the limit ended it.
    pub is_cut: bool,
    /// Time of each call in nanoseconds; `None` if they are not timed, which also spares the memory.
    latency: Option<Histogram<u64>>,
}

impl Tally {
    /// Nothing done yet; calls are timed.
    pub fn timed() -> Tally {
        let latency = Histogram::new_with_bounds(1, 3_600_000_000_000, 3)
            .expect("an hour in nanoseconds at three digits is within what a histogram holds");
        Tally { latency: Some(latency), ..Tally::default() }
    }

    /// Counts `ops` that one call did, begun at `since`; whether the deadline leaves time for more.
    pub fn count(&mut self, ops: u64, bytes: u64, since: Instant, deadline: Option<Instant>) -> bool {
        let now = Instant::now();
        if let Some(latency) = &mut self.latency {
            latency.saturating_record((now - since).as_nanos() as u64);
        }
        self.ops += ops;
        self.bytes += bytes;
        self.is_cut = deadline.is_some_and(|deadline| now >= deadline);
        !self.is_cut
    }

    /// The time in nanoseconds that `share` (0 to 1) of the calls did not exceed; 0 if they were not timed.
    pub fn percentile_nanos(&self, share: f64) -> u64 {
        self.latency.as_ref().map_or(0, |latency| latency.value_at_quantile(share))
    }

    fn add(&mut self, part: Tally) {
        self.ops += part.ops;
        self.bytes += part.bytes;
        self.is_cut |= part.is_cut;
        match (&mut self.latency, part.latency) {
            (Some(all), Some(part)) => *all += part,
            (all @ None, part) => *all = part,
            (Some(_), None) => {}
        }
    }
}

/// Result of a stretch.
pub struct Measured {
    /// All threads together.
    pub tally: Tally,
    /// Time of the work.
    pub run: Duration,
    /// Time until nothing was owed; none where that was not waited for.
    pub settle: Duration,
    /// Time of everything, with that in which the engine was only looked at.
    pub whole: Duration,
    /// Counts up to the end of the work.
    pub unsettled: Counts,
    /// Counts until nothing was owed.
    pub settled: Counts,
    /// The most anonymous memory, above what there was before the engine was opened.
    pub memory_bytes: u64,
    /// Bytes that files occupied at the end.
    pub occupied: Occupied,
    /// The most that they occupied.
    pub occupied_peak_bytes: u64,
}

#[derive(Default)]
struct Peaks {
    memory_bytes: u64,
    occupied_bytes: u64,
}

/// Ends the threads beside the work whatever becomes of it, or the scope would wait for them for ever.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(false, Relaxed);
    }
}

/// Runs `body`, with the number of its thread and the deadline, as `how` says.
pub fn measure<B>(subject: &Subject, how: Stretch, body: B) -> Result<Measured, Error>
where
    B: Fn(u64, Option<Instant>) -> Result<Tally, Error> + Sync,
{
    let (mark, started) = (subject.counts()?, Instant::now());
    let deadline = how.limit.map(|limit| started + limit);
    let (running, ticking) = (AtomicBool::new(true), AtomicBool::new(how.ticks));
    let body = &body;
    let (mut tally, mut run, mut settle) = (Tally::default(), Duration::ZERO, Duration::ZERO);
    let (unsettled, peaks) = std::thread::scope(|scope| {
        let _end = End(&running);
        let sampler = scope.spawn(|| sample(subject, how, &running));
        let ticker = how.ticks.then(|| scope.spawn(|| tick(subject, &running, &ticking)));
        let mut work = || -> Result<Counts, Error> {
            if how.threads == 1 {
                // On this thread, whose memory the engine has used until now.
                tally = body(0, deadline)?;
            } else {
                let start = |thread| scope.spawn(move || body(thread, deadline));
                let threads: Vec<_> = (0..how.threads).map(start).collect();
                let parts: Vec<_> = threads.into_iter().map(|thread| thread.join()).collect();
                for part in parts {
                    tally.add(part.map_err(|_| Error::Failed("a thread of the workload panicked".into()))??);
                }
            }
            run = started.elapsed();
            ticking.store(false, Relaxed);
            let unsettled = subject.counts()?;
            if how.settles {
                let since = Instant::now();
                let idle = subject.settle()?;
                settle = since.elapsed().saturating_sub(idle);
            }
            Ok(unsettled)
        };
        let unsettled = work();
        running.store(false, Relaxed);
        let ended = ticker.map_or(Ok(Ok(())), |ticker| ticker.join());
        let peaks = sampler.join();
        let unsettled = unsettled?;
        ended.map_err(|_| Error::Failed("the thread that syncs panicked".into()))??;
        let peaks = peaks.map_err(|_| Error::Failed("the thread that samples panicked".into()))??;
        Ok::<_, Error>((unsettled, peaks))
    })?;
    let (settled, occupied) = (subject.counts()?, subject.occupied()?);
    Ok(Measured {
        tally,
        run,
        settle,
        whole: started.elapsed(),
        unsettled: unsettled.since(&mark),
        settled: settled.since(&mark),
        memory_bytes: peaks.memory_bytes,
        occupied,
        occupied_peak_bytes: peaks.occupied_bytes.max(occupied.bytes),
    })
}

/// Syncs once a second while that is asked for.
fn tick(subject: &Subject, running: &AtomicBool, ticking: &AtomicBool) -> Result<(), Error> {
    let mut next = Instant::now() + SYNC_INTERVAL;
    while running.load(Relaxed) {
        std::thread::sleep(NAP);
        if ticking.load(Relaxed) && Instant::now() >= next {
            subject.sync()?;
            next = Instant::now() + SYNC_INTERVAL;
        }
    }
    Ok(())
}

fn sample(subject: &Subject, how: Stretch, running: &AtomicBool) -> Result<Peaks, Error> {
    let mut peaks = Peaks::default();
    for turn in 0.. {
        peaks.memory_bytes = peaks.memory_bytes.max(subject.memory_bytes());
        if how.grows && turn % SAMPLES_OF_SPACE == 0 {
            peaks.occupied_bytes = peaks.occupied_bytes.max(subject.occupied()?.bytes);
        }
        if !running.load(Relaxed) {
            break;
        }
        std::thread::sleep(SAMPLE_INTERVAL);
    }
    Ok(peaks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::subject::Pace;
    use crate::disk::{Disk, SimDisk};
    use crate::engine::{Batch, Kind};
    use std::sync::Arc;

    fn subject(kind: Kind, pace: Pace) -> Subject {
        let disk: Arc<dyn Disk> = SimDisk::new();
        let mut options = kind.default_options();
        options.divide(1 << 20);
        options.common_mut().reserve_bytes = 1 << 20;
        Subject::open(disk.into(), &options, pace).unwrap()
    }

    fn put(subject: &Subject, number: u64) -> u64 {
        let mut batch = Batch::new(0);
        batch.put(number.to_be_bytes().to_vec(), vec![7; 100]);
        subject.apply(&batch).unwrap();
        batch.bytes()
    }

    #[test]
    fn threads_are_added_up_and_a_boundary_leaves_nothing_for_the_next_stretch() {
        for kind in Kind::all().filter(|kind| kind.keeps) {
            for pace in [Pace::Simulated, Pace::Live] {
                let subject = subject(kind, pace);
                let opened = subject.counts().unwrap();
                let first =
                    measure(&subject, Stretch { threads: 3, ..Stretch::WRITES }, |thread, deadline| {
                        let mut tally = Tally::timed();
                        for number in 0..500 {
                            let since = Instant::now();
                            let bytes = put(&subject, thread << 32 | number);
                            assert!(tally.count(1, bytes, since, deadline));
                        }
                        Ok(tally)
                    })
                    .unwrap();
                assert_eq!((first.tally.ops, first.tally.bytes), (1500, 1500 * 108), "{kind} {pace:?}");
                let percentiles = [0.5, 0.99, 1.0].map(|share| first.tally.percentile_nanos(share));
                assert!(percentiles[0] > 0 && percentiles.is_sorted(), "{percentiles:?}");
                let written = |counts: &Counts| counts.door.as_ref().unwrap().total().write_bytes;
                assert!(written(&first.unsettled) >= first.tally.bytes);
                assert!(
                    written(&first.settled) > written(&first.unsettled),
                    "{kind} {pace:?}: a flush at least"
                );
                assert!(first.whole >= first.run + first.settle);
                // Nothing is owed: doing nothing writes nothing, whatever the pace.
                let idle = measure(&subject, Stretch::WRITES, |_, _| Ok(Tally::default())).unwrap();
                assert_eq!((idle.tally.ops, written(&idle.settled)), (0, 0), "{kind} {pace:?}");
                // And all stretches together are all that the door saw.
                let read = measure(&subject, Stretch::READS, |_, _| {
                    let mut tally = Tally::timed();
                    let (entries, bytes) = subject.scan(b"", u64::MAX)?;
                    tally.count(entries, bytes, Instant::now(), None);
                    Ok(tally)
                })
                .unwrap();
                assert_eq!((read.tally.ops, read.tally.bytes), (first.tally.ops, first.tally.bytes));
                let all = subject.counts().unwrap().since(&opened);
                let sum: u64 = [&first, &idle, &read].map(|stretch| written(&stretch.settled)).iter().sum();
                assert_eq!(written(&all), sum, "{kind} {pace:?}");
                subject.close().unwrap();
            }
        }
    }

    #[test]
    fn a_limit_cuts_and_an_error_ends_it() {
        let subject = subject(Kind::MEM, Pace::Live);
        let how = Stretch { limit: Some(Duration::from_millis(20)), ticks: true, ..Stretch::WRITES };
        let cut = measure(&subject, how, |_, deadline| {
            let mut tally = Tally::timed();
            while tally.count(1, put(&subject, tally.ops), Instant::now(), deadline) {}
            Ok(tally)
        })
        .unwrap();
        assert!(cut.tally.is_cut && cut.run >= Duration::from_millis(20));
        let failed = measure(&subject, how, |_, _| Err(Error::Failed("it broke".into())));
        assert_eq!(failed.err().unwrap().to_string(), "it broke");
    }

    #[test]
    fn space_is_sampled_beside_the_work() {
        let place = tempfile::tempdir().unwrap();
        let options = Kind::LSM.default_options();
        let place = super::super::subject::Place::below(place.path(), Kind::LSM, false).unwrap();
        let subject = Subject::open(place, &options, Pace::Live).unwrap();
        let measured = measure(&subject, Stretch { grows: true, ..Stretch::WRITES }, |_, deadline| {
            let mut tally = Tally::timed();
            for number in 0..40_000 {
                tally.count(1, put(&subject, number), Instant::now(), deadline);
            }
            Ok(tally)
        })
        .unwrap();
        let Occupied { bytes, log_bytes } = measured.occupied;
        assert!(bytes > log_bytes.unwrap() && log_bytes.unwrap() > 0);
        assert!(measured.occupied_peak_bytes >= bytes);
        subject.close().unwrap();
    }
}
