//! The control room: `.stats` and what is written to it. It stands beside the byte's walk, reads the meters at the three
//! doors and passes commands to the engine; nothing depends on it.
//!
//! # How it works
//!
//! 1. The mount makes one [`Control`] from the doors and serves its [`Control::tree`].
//! 2. Once a second somebody calls [`Control::tick`]: it keeps a minute of samples for the windows, and looks at the
//!    store's files, which may wait for the disk. Reports only use what the last tick found.
//! 3. Opening a file makes a [`Report`] from a fresh sample and prints it.
//! 4. A write is parsed whole, then done line by line. Nobody sleeps for a command that waits: the rest of the lines
//!    goes on from its callback.
//!
//! # Invariants
//!
//! 1. Making a report waits neither for the disk nor for a writer.
//! 2. Locks here are held for a copy only and never while another room is called.

mod command;
mod figures;
mod files;
mod json;
pub mod model;
mod render;
mod stats;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

pub use json::json;
pub use render::{levels, text};
pub use stats::{Base, MountInfo, Physical, Report, Sample, State, Window, ratio};

use crate::base::clock::Clock;
use crate::disk::{Disk, Latch, Metered, ProcessIo};
use crate::engine::{Engine, MeteredEngine};
use crate::fs::meter::{Latency, Meter, Op, growth};
use crate::fs::types::Caller;
use crate::fs::virtual_file::{Done, VirtualTree};
use crate::fs::{Error, Result, Usage};
use command::Action;

/// The spans that reports show beside the totals.
const WINDOWS: [(&str, Duration); 2] = [("10s", Duration::from_secs(10)), ("1m", Duration::from_secs(60))];
/// Samples kept: a minute of seconds, both ends, and one for a tick that came early.
const SAMPLES_MAX: usize = 62;
/// Marks that may be there at a time.
const MARKS_MAX: usize = 64;

/// What a [`Control`] watches.
pub struct Parts {
    /// What does not change.
    pub mount: MountInfo,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Door 1.
    pub meter: Arc<Meter>,
    /// Door 2.
    pub engine: Arc<MeteredEngine>,
    /// Door 3, which counts since before the store was opened.
    pub disk: Arc<Metered>,
    /// What closes when a sync fails.
    pub latch: Arc<Latch>,
    /// The filesystem's contents, from memory.
    pub usage: Box<dyn Fn() -> Usage + Send + Sync>,
    /// The kernel's counters of this process since before the store was opened; `None` where there are none.
    pub process: Box<dyn Fn() -> Option<ProcessIo> + Send + Sync>,
}

/// What `mark NAME` remembers.
struct Mark {
    sample: Sample,
    /// Latencies of each operation, in the order of [`Op::ALL`].
    latencies: Vec<Vec<(u64, u64)>>,
}

/// Answers `.stats`.
pub struct Control {
    parts: Parts,
    mount: Arc<MountInfo>,
    /// Clock time of the mount.
    started: Duration,
    samples: Mutex<VecDeque<Arc<Sample>>>,
    marks: Mutex<BTreeMap<String, Arc<Mark>>>,
    physical: Mutex<Physical>,
    stats_reads: AtomicU64,
}

impl Control {
    /// Watches the parts from now on.
    pub fn new(parts: Parts) -> Arc<Control> {
        let control = Control {
            mount: Arc::new(parts.mount.clone()),
            started: parts.clock.elapsed(),
            parts,
            samples: Mutex::default(),
            marks: Mutex::default(),
            physical: Mutex::default(),
            stats_reads: AtomicU64::new(0),
        };
        control.tick();
        Arc::new(control)
    }

    /// To be called once a second, on a thread that may wait for the disk.
    pub fn tick(&self) {
        let sample = Arc::new(self.sample());
        {
            let mut samples = self.samples.lock();
            if samples.len() == SAMPLES_MAX {
                samples.pop_front();
            }
            samples.push_back(sample);
        }
        match self.parts.disk.list() {
            Ok(files) => {
                let physical = Physical {
                    bytes: files.iter().map(|file| file.bytes_allocated).sum(),
                    files: files.len() as u64,
                    below: self.parts.disk.space().ok(),
                };
                *self.physical.lock() = physical;
            }
            // The last figures stand; what made the listing fail shows where it hurts.
            Err(error) => log::debug!("looking at the store's files: {error}"),
        }
    }

    /// The virtual files. One tree a mount: it knows the open handles.
    pub fn tree(self: &Arc<Control>) -> Arc<VirtualTree> {
        Arc::new(files::tree(self))
    }

    /// Everything, now.
    pub fn report(&self) -> Report {
        let sample = self.sample();
        let windows = WINDOWS.iter().map(|&(name, span)| Window { name, growth: self.window(&sample, span) });
        let windows = windows.collect();
        let stalls = sample.shape.stalls;
        let state = match (self.parts.latch.cause(), stalls.now) {
            (Some(cause), _) => State::ReadOnly(cause),
            (None, Some(cause)) if stalls.stopped => State::Stalled(cause),
            (None, Some(cause)) => State::Throttled(cause),
            (None, None) => State::Ok,
        };
        Report {
            mount: self.mount.clone(),
            time: self.parts.clock.now(),
            uptime: sample.elapsed,
            state,
            base: Base::Mount,
            sample,
            windows,
            usage: (self.parts.usage)(),
            physical: *self.physical.lock(),
            stats_reads: self.stats_reads.fetch_add(1, Relaxed),
        }
    }

    /// The report whose counters begin at a mark; `None` if there is no such mark.
    pub fn report_since(&self, name: &str) -> Option<Report> {
        let mark = self.marks.lock().get(name).cloned()?;
        let mut report = self.report().since(name, &mark.sample);
        for ((counters, now), before) in
            report.sample.ops.iter_mut().zip(self.latencies()).zip(&mark.latencies)
        {
            counters.latency = Latency::of(&growth(&now, before));
        }
        Some(report)
    }

    /// The names of the marks, in order.
    pub fn marks(&self) -> Vec<String> {
        self.marks.lock().keys().cloned().collect()
    }

    /// Does what `text` says, one command a line, and calls `done` with the first error or when all are done. Returns
    /// at once.
    pub fn execute(self: &Arc<Control>, caller: Caller, text: &[u8], done: Done) {
        match command::parse(text) {
            Ok(actions) => {
                if !actions.is_empty() {
                    log::info!("commands of user {} process {}: {actions:?}", caller.uid, caller.pid);
                }
                self.clone().proceed(actions.into(), done);
            }
            Err(error) => done(Err(error)),
        }
    }

    fn proceed(self: Arc<Control>, mut actions: VecDeque<Action>, done: Done) {
        while let Some(action) = actions.pop_front() {
            let result = match action {
                Action::Help => Ok(()),
                Action::Mark(name) => self.mark(name),
                Action::Unmark(name) => {
                    self.marks.lock().remove(&name);
                    Ok(())
                }
                Action::Run { command, wait: false } => {
                    let logged = move |result: crate::engine::Result<()>| match result {
                        Ok(()) => log::info!("{command:?} has ended"),
                        Err(error) => log::error!("{command:?}: {error}"),
                    };
                    self.parts.engine.run(command, Box::new(logged));
                    Ok(())
                }
                Action::Run { command, wait: true } => {
                    let engine = self.parts.engine.clone();
                    return engine.run(command, self.then(actions, done));
                }
                Action::Sync => {
                    let engine = self.parts.engine.clone();
                    return engine.sync_to(engine.position(), self.then(actions, done));
                }
            };
            if let Err(error) = result {
                return done(Err(error));
            }
        }
        done(Ok(()));
    }

    /// A callback that goes on with the rest.
    fn then(self: Arc<Control>, rest: VecDeque<Action>, done: Done) -> crate::engine::Done {
        Box::new(move |result| match result {
            Ok(()) => self.proceed(rest, done),
            Err(error) => done(Err(error.into())),
        })
    }

    fn mark(&self, name: String) -> Result<()> {
        let mark = Arc::new(Mark { sample: self.sample(), latencies: self.latencies() });
        let mut marks = self.marks.lock();
        if marks.len() == MARKS_MAX && !marks.contains_key(&name) {
            log::error!("mark {name}: there are {MARKS_MAX} marks already");
            return Err(Error::Invalid);
        }
        marks.insert(name, mark);
        Ok(())
    }

    fn latencies(&self) -> Vec<Vec<(u64, u64)>> {
        Op::ALL.iter().map(|&op| self.parts.meter.distribution(op)).collect()
    }

    fn sample(&self) -> Sample {
        let parts = &self.parts;
        let elapsed = parts.clock.elapsed().saturating_sub(self.started);
        Sample::take(elapsed, &parts.meter, &parts.engine, &parts.disk, (parts.process)())
    }

    /// The growth over the last `span`: from the newest sample that is at least as old, else from the oldest.
    fn window(&self, now: &Sample, span: Duration) -> Sample {
        let base = {
            let samples = self.samples.lock();
            let start = now.elapsed.checked_sub(span);
            let old = samples.iter().rev().find(|sample| Some(sample.elapsed) <= start);
            old.or(samples.front()).cloned()
        };
        base.map(|base| now.since(&base)).unwrap_or_default()
    }
}
