//! Measures one stretch of work: runs it on its threads, syncs once a second beside it, samples memory and space, lets the
//! engine settle and takes the differences of the kernel's counters.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::engines::{Contender, Result};
use crate::process::{Io, allocated_bytes, anonymous_bytes, cpu_seconds, device_written_bytes};
use crate::row::Row;

/// The durability interval of writes that do not ask for their own.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);
/// How often memory is sampled; space once every ten times.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(50);

/// Kind of a stretch of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Writes, synced by the harness once a second.
    Write,
    /// Writes that are durable on return.
    DurableWrite,
    /// Reads.
    Read,
}

/// How to run a stretch of work.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What it does.
    pub kind: Kind,
    /// On how many threads.
    pub threads: usize,
    /// Whether to wait afterwards until the engine has no work left, and count that.
    pub settles: bool,
    /// When it is cut short.
    pub limit: Duration,
}

/// What stays the same between stretches of work on one engine.
#[derive(Clone, Debug)]
pub struct Scene {
    /// Where its files are.
    pub directory: PathBuf,
    /// Key and value bytes that will be alive afterwards.
    pub live_bytes: u64,
    /// Anonymous memory before the engine was opened.
    pub memory_before_bytes: u64,
}

/// What one thread did.
pub struct Tally {
    /// Operations.
    pub ops: u64,
    /// Key and value bytes.
    pub bytes: u64,
    /// Time of each call in nanoseconds.
    pub latency: Histogram<u64>,
    /// Whether the limit ended it.
    pub is_cut: bool,
}

impl Tally {
    /// Nothing done yet.
    pub fn new() -> Tally {
        let latency = Histogram::new_with_bounds(1, 3_600_000_000_000, 3)
            .expect("an hour in nanoseconds at three digits is within what a histogram holds");
        Tally { ops: 0, bytes: 0, latency, is_cut: false }
    }

    /// Counts `ops` that one call did, begun at `since`; whether the deadline leaves time for more.
    pub fn count(&mut self, ops: u64, bytes: u64, since: Instant, deadline: Instant) -> bool {
        let now = Instant::now();
        self.latency.saturating_record((now - since).as_nanos() as u64);
        self.ops += ops;
        self.bytes += bytes;
        self.is_cut = now >= deadline;
        !self.is_cut
    }
}

#[derive(Default)]
struct Samples {
    memory_bytes: u64,
    space_bytes: u64,
}

/// Runs `body` with the number of its thread and the deadline, as `plan` says, and makes the line; the caller names it.
pub fn measure<B>(engine: &dyn Contender, scene: &Scene, plan: Plan, body: B) -> Result<Row>
where
    B: Fn(u64, Instant) -> Result<Tally> + Sync,
{
    let (io, cpu, stalled) = (Io::now()?, cpu_seconds(), engine.stalled());
    let device = device_written_bytes(&scene.directory);
    let started = Instant::now();
    let (running, writing) = (AtomicBool::new(true), AtomicBool::new(plan.kind == Kind::Write));
    let (mut tally, mut run_s, mut settle_s, mut samples) = (Tally::new(), 0.0, 0.0, Samples::default());
    std::thread::scope(|scope| -> Result<()> {
        let sampler = scope.spawn(|| sample(scene, plan.kind, &running));
        let ticker = scope.spawn(|| tick(engine, &running, &writing));
        let deadline = started + plan.limit;
        let body = &body;
        let threads: Vec<_> =
            (0..plan.threads as u64).map(|thread| scope.spawn(move || body(thread, deadline))).collect();
        let mut outcome = Ok(());
        for thread in threads {
            match thread.join() {
                Ok(Ok(part)) => {
                    tally.ops += part.ops;
                    tally.bytes += part.bytes;
                    tally.is_cut |= part.is_cut;
                    tally.latency += part.latency;
                }
                Ok(Err(error)) => outcome = Err(error),
                Err(_) => outcome = Err("a thread of the workload panicked".into()),
            }
        }
        run_s = started.elapsed().as_secs_f64();
        writing.store(false, Relaxed);
        let settled = Instant::now();
        if plan.settles && outcome.is_ok() {
            outcome = engine.settle().map(|idle| {
                settle_s = settled.elapsed().saturating_sub(idle).as_secs_f64();
            });
        }
        running.store(false, Relaxed);
        let ticked = ticker.join().map_err(|_| "the sync thread panicked")?;
        samples = sampler.join().map_err(|_| "the sampling thread panicked")?;
        outcome.and(ticked)
    })?;
    let (io_after, cpu_after) = (Io::now()?, cpu_seconds());
    let elapsed_s = started.elapsed().as_secs_f64();
    let cpu_s = cpu_after.0 - cpu.0;
    let quantile = |share| tally.latency.value_at_quantile(share) as f64 / 1000.0;
    let per_logical = |bytes: u64| bytes as f64 / tally.bytes.max(1) as f64;
    let allocated = allocated_bytes(&scene.directory);
    let per_live = |bytes: u64| bytes as f64 / scene.live_bytes.max(1) as f64;
    let write_bytes = io_after.write_bytes - io.write_bytes;
    let device_bytes = device_written_bytes(&scene.directory).saturating_sub(device);
    let read_bytes = io_after.read_bytes - io.read_bytes;
    Ok(Row {
        ops: tally.ops,
        run_s,
        settle_s,
        ops_per_s: tally.ops as f64 / run_s,
        sustained_per_s: tally.ops as f64 / (run_s + settle_s),
        p50_us: quantile(0.5),
        p99_us: quantile(0.99),
        p999_us: quantile(0.999),
        max_us: tally.latency.max() as f64 / 1000.0,
        logical_bytes: tally.bytes,
        write_bytes,
        written_bytes: io_after.written_bytes - io.written_bytes,
        read_bytes,
        write_amp: if plan.kind == Kind::Read { 0.0 } else { per_logical(write_bytes) },
        device_bytes,
        device_amp: if plan.kind == Kind::Read { 0.0 } else { per_logical(device_bytes) },
        read_amp: per_logical(read_bytes),
        allocated_bytes: allocated,
        live_bytes: scene.live_bytes,
        space_amp: per_live(allocated),
        space_peak: per_live(allocated.max(samples.space_bytes)),
        memory_peak_bytes: samples.memory_bytes.saturating_sub(scene.memory_before_bytes),
        stall_s: (engine.stalled() - stalled).as_secs_f64(),
        cpu_s,
        other_cores: ((cpu_after.1 - cpu.1 - cpu_s) / elapsed_s).max(0.0),
        is_cut: tally.is_cut,
        ..Row::default()
    })
}

/// Syncs once a second while writes are asked for.
fn tick(engine: &dyn Contender, running: &AtomicBool, writing: &AtomicBool) -> Result<()> {
    let mut next = Instant::now() + SYNC_INTERVAL;
    while running.load(Relaxed) {
        std::thread::sleep(Duration::from_millis(5));
        if writing.load(Relaxed) && Instant::now() >= next {
            engine.sync()?;
            next = Instant::now() + SYNC_INTERVAL;
        }
    }
    Ok(())
}

fn sample(scene: &Scene, kind: Kind, running: &AtomicBool) -> Samples {
    let mut samples = Samples::default();
    for turn in 0.. {
        samples.memory_bytes = samples.memory_bytes.max(anonymous_bytes());
        if turn % 10 == 0 && kind != Kind::Read {
            samples.space_bytes = samples.space_bytes.max(allocated_bytes(&scene.directory));
        }
        if !running.load(Relaxed) {
            break;
        }
        std::thread::sleep(SAMPLE_INTERVAL);
    }
    samples
}
