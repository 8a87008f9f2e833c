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

mod below_engine;
mod clients;
mod command;
mod cost;
pub mod decoders;
mod document;
mod execution;
mod explain;
mod figures;
mod files;
mod forecast;
mod forks;
mod history;
mod hot_forecast;
mod http;
mod json;
pub mod metrics;
pub mod model;
mod prometheus;
pub mod recordings;
mod render;
mod socket;
mod stats;
mod tables;
mod witnessed;

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::Mutex;

pub use below_engine::BelowEngine;
pub use document::Document;
pub use forks::{Forked, Forking, Forks};
pub use history::Second;
pub use json::{json, value};
pub use prometheus::{exposition, family, is_exposed};
pub use render::{levels, text};
pub use socket::{NAME as SOCKET_NAME, StatsSocket};
pub use stats::{Aside, Base, EngineCalls, MountInfo, Physical, Report, Sample, State, Window};
pub use witnessed::{WitnessControl, WitnessDocument, WitnessInfo};

use crate::attribution::{Attribution, Charges};
use crate::base::clock::Clock;
use crate::base::metric::Since;
use crate::disk::{Disk, Latch, Metered, OpenFiles, ProcessIo, occupied};
use crate::engine::{Cause, Engine, EventLog, Home, MeteredEngine, Stalls};
use crate::fs::meter::{Latency, Meter, growth};
use crate::fs::operation::Op;
use crate::fs::{Error, Result, Usage};
use crate::virtual_files::VirtualTree;
use recordings::Recordings;

/// The spans that reports show beside the totals.
const WINDOWS: [(&str, Duration); 2] = [("10s", Duration::from_secs(10)), ("1m", Duration::from_secs(60))];
/// Samples kept: a minute of seconds, both ends, and one for a tick that came early.
const SAMPLES_MAX: usize = 62;
/// Marks that may be there at a time.
const MARKS_MAX: usize = 64;
/// Rows of the history: a quarter of an hour of seconds.
const HISTORY_MAX: usize = 900;
/// Time from the mount to the first look at what the store's files share.
const SHARED_PAUSE_FIRST: Duration = Duration::from_millis(500);
/// Pause between two looks at what the store's files share.
const SHARED_PAUSE: Duration = Duration::from_secs(10);
/// The same, if a look takes long, in times that it takes.
const SHARED_PAUSE_TIMES: u32 = 50;
/// Commands that are remembered with their results.
const COMMANDS_MAX: usize = 16;

/// The sources of a [`Control`].
pub struct Sources {
    /// Facts that do not change.
    pub mount: MountInfo,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Door 1.
    pub meter: Arc<Meter>,
    /// Attribution of content that is moved.
    pub attribution: Arc<Attribution>,
    /// Door 2.
    pub engine: Arc<MeteredEngine>,
    /// Door 3, which counts since before the store was opened.
    pub disk: Arc<Metered>,
    /// The directory of an engine that reads and writes there in ways of its own.
    pub engine_directory: Option<PathBuf>,
    /// The witness below the engine, if it has one: what it counted. It may wait for the witness, so it is asked by the tick alone.
    pub witness: Option<Box<dyn Fn() -> Witnessed + Send + Sync>>,
    /// The latch, which closes when a sync fails.
    pub latch: Arc<Latch>,
    /// The filesystem's contents, from memory.
    pub usage: Box<dyn Fn() -> Usage + Send + Sync>,
    /// Writes times of the filesystem that wait for company, so that a sync has them.
    pub write_times: Box<dyn Fn() -> Result<()> + Send + Sync>,
    /// The kernel's counters of this process since before the store was opened; `None` where there are none.
    pub process: Box<dyn Fn() -> Option<ProcessIo> + Send + Sync>,
    /// The store's files that the process has open.
    pub open_files: Box<dyn Fn() -> OpenFiles + Send + Sync>,
    /// Maker of forks; `None` where there is no store to make them of.
    pub forking: Option<Arc<dyn Forking>>,
}

/// Answer of a witness below an engine.
pub enum Witnessed {
    /// What it counted.
    Counted(Box<BelowEngine>),
    /// It runs, and did not answer.
    Silent,
    /// It has ended: how.
    Ended(String),
}

/// A mark: the counters that `mark NAME` remembers.
struct Mark {
    sample: Sample,
    charges: Charges,
    /// Latencies of each operation, in the order of [`Op::ALL`].
    latencies: Vec<Vec<(u64, u64)>>,
}

/// Answers `.stats`. Each field is what it remembers between two reports, each with a lock of its own, so that no reader waits for a command.
pub struct Control {
    parts: Sources,
    mount: Arc<MountInfo>,
    /// Clock time of the mount.
    started: Duration,
    samples: Mutex<VecDeque<Arc<Sample>>>,
    marks: Mutex<BTreeMap<String, Arc<Mark>>>,
    /// Settings that were changed since the mount, with their values.
    settings: Mutex<BTreeMap<String, String>>,
    physical: Mutex<Physical>,
    /// What the store's files share with others, and when that is to be looked at again.
    shared: Mutex<(Option<u64>, Duration)>,
    /// What the witness below the engine counted when it was asked last, and when that was.
    below_engine: Mutex<Option<(BelowEngine, Duration)>>,
    history: Mutex<VecDeque<String>>,
    event_log: Arc<EventLog>,
    /// The last commands, each with its result.
    commands: Arc<Mutex<VecDeque<String>>>,
    recordings: Recordings,
    /// The answer to the last `explain`.
    explained: Mutex<String>,
    /// Whether the event log has the failure that made the store read-only.
    failed: AtomicBool,
    stats_reads: AtomicU64,
}

impl Control {
    /// Watches the parts from now on.
    pub fn new(parts: Sources) -> Arc<Control> {
        let control = Control {
            mount: Arc::new(parts.mount.clone()),
            started: parts.clock.elapsed(),
            samples: Mutex::default(),
            marks: Mutex::default(),
            settings: Mutex::default(),
            physical: Mutex::default(),
            // Not while the mount begins: it may take a while.
            shared: Mutex::new((None, parts.clock.elapsed() + SHARED_PAUSE_FIRST)),
            below_engine: Mutex::default(),
            history: Mutex::default(),
            event_log: parts.engine.event_log().cloned().unwrap_or_default(),
            commands: Arc::default(),
            recordings: Recordings::default(),
            explained: Mutex::default(),
            failed: AtomicBool::new(false),
            stats_reads: AtomicU64::new(0),
            parts,
        };
        control.record_mount();
        control.tick();
        Arc::new(control)
    }

    /// To be called once a second, on a thread that may wait for the disk.
    pub fn tick(&self) {
        self.ask_witness();
        let sample = Arc::new(self.sample());
        self.record_stalls(&sample);
        {
            let mut samples = self.samples.lock();
            if samples.len() == SAMPLES_MAX {
                samples.pop_front();
            }
            samples.push_back(sample.clone());
        }
        if self.parts.clock.elapsed() >= self.shared.lock().1 {
            self.look_at_shared();
        }
        let own = self.parts.engine_directory.as_deref().map_or(Ok((0, 0)), occupied);
        let lies_elsewhere = matches!(self.parts.engine.kind().home, Home::Directory(_));
        match self.parts.disk.list().and_then(|files| Ok((files, own?))) {
            Ok((files, (own_bytes, own_files))) => {
                let physical = Physical {
                    bytes: files.iter().map(|file| file.bytes_allocated).sum::<u64>() + own_bytes,
                    files: files.len() as u64 + own_files,
                    is_partial: lies_elsewhere && self.parts.engine_directory.is_none(),
                    shared_bytes: self.shared.lock().0,
                    below: self.parts.disk.space().ok(),
                };
                *self.physical.lock() = physical;
            }
            // The last figures stand; what made the listing fail shows where it hurts.
            Err(error) => log::debug!("looking at the store's files: {error}"),
        }
        let physical = *self.physical.lock();
        let row = Second::of(self.parts.clock.now(), &sample, &(self.parts.usage)(), &physical).line();
        let mut history = self.history.lock();
        if history.len() == HISTORY_MAX {
            history.pop_front();
        }
        history.push_back(row);
    }

    /// Asks which blocks of the store's files others have, too. Where that takes long it is asked less often.
    fn look_at_shared(&self) {
        let begun = self.parts.clock.elapsed();
        let bytes = self.parts.forking.as_ref().and_then(|forking| forking.shared_bytes());
        let now = self.parts.clock.elapsed();
        let pause = SHARED_PAUSE.max(SHARED_PAUSE_TIMES * now.saturating_sub(begun));
        *self.shared.lock() = (bytes, now + pause);
        self.physical.lock().shared_bytes = bytes;
    }

    /// Asks the witness below the engine.
    fn ask_witness(&self) {
        let Some(ask) = &self.parts.witness else { return };
        let answer = ask();
        let now = self.parts.clock.elapsed();
        let mut known = self.below_engine.lock();
        match answer {
            Witnessed::Counted(counts) => *known = Some((*counts, now)),
            // The last figures stand, and say how old they are.
            Witnessed::Silent => {}
            Witnessed::Ended(how) => {
                let (counts, _) = known.get_or_insert_default();
                (counts.is_running, counts.end) = (false, Some(how));
            }
        }
    }

    /// The first event.
    fn record_mount(&self) {
        let mount = &self.mount;
        let shape = self.parts.engine.shape();
        let fields = vec![
            ("version", mount.version.as_str().into()),
            ("engine", shape.engine.into()),
            ("variant", shape.variant.into()),
            ("store", mount.store_path.as_str().into()),
            ("mount", mount.mount_path.as_str().into()),
            ("pid", u64::from(mount.pid).into()),
        ];
        self.event_log.record(self.parts.clock.now(), "mount", fields);
    }

    /// Begins and ends of waits and failures since the last second.
    fn record_stalls(&self, now: &Sample) {
        let before = self.samples.lock().back().cloned();
        let before = before.as_deref().map_or_else(Stalls::default, |sample| sample.shape.stalls.clone());
        let stalls = &now.shape.stalls;
        let time = self.parts.clock.now();
        for cause in Cause::ALL {
            let (old, new) = (before.by_cause.of(cause), stalls.by_cause.of(cause));
            let times = (new.slowdowns + new.stops).saturating_sub(old.slowdowns + old.stops);
            if times > 0 {
                let kind = if new.stops > old.stops { "stop" } else { "slowdown" };
                let fields =
                    vec![("cause", cause.name().into()), ("kind", kind.into()), ("times", times.into())];
                self.event_log.record(time, "stall_begin", fields);
            }
            let was_waiting = before.now == Some(cause) || times > 0;
            if was_waiting && stalls.now != Some(cause) {
                let waited = new.waited.saturating_sub(old.waited).as_nanos() as u64;
                let fields = vec![("cause", cause.name().into()), ("waited_ns", waited.into())];
                self.event_log.record(time, "stall_end", fields);
            }
        }
        let failure = self.parts.latch.cause();
        if let Some(cause) = failure
            && !self.failed.swap(true, Relaxed)
        {
            self.event_log.record(time, "error", vec![("what", cause.into())]);
        }
    }

    /// The report for Prometheus.
    pub fn prometheus(&self) -> String {
        prometheus::prometheus(&self.report(), &self.latencies())
    }

    /// One line a second for a quarter of an hour, as CSV with a header.
    pub fn history(&self) -> String {
        let rows = self.history.lock();
        history::head() + &rows.iter().map(String::as_str).collect::<String>()
    }

    /// The newest events as JSON lines.
    pub fn events(&self) -> String {
        tables::events(&self.event_log.events())
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
        let (stall, is_stopped) = (sample.shape.stalls.now, sample.shape.stalls.stopped);
        let (damage, refusal) = (sample.shape.damage.clone(), self.parts.engine.refusal());
        let state = match (self.parts.latch.cause(), refusal, stall, damage) {
            (Some(cause), ..) => State::ReadOnly(cause),
            (None, Some(error), ..) => {
                let below =
                    self.physical.lock().below.filter(|_| matches!(error, crate::engine::Error::NoSpace));
                let shortage = below.map_or(String::new(), |space| crate::engine::shortage(&space));
                State::Refusing(format!("the last change was refused: {error}{shortage}"))
            }
            (None, None, Some(cause), _) if is_stopped => State::Stalled(cause),
            (None, None, _, Some(sentence)) => State::Damaged(sentence),
            (None, None, Some(cause), None) => State::Throttled(cause),
            (None, None, None, None) => State::Ok,
        };
        Report {
            mount: self.mount.clone(),
            time: self.parts.clock.now(),
            uptime: sample.elapsed,
            state,
            base: Base::Mount,
            sample,
            charges: self.parts.attribution.charges(),
            windows,
            usage: (self.parts.usage)(),
            physical: *self.physical.lock(),
            recording: self.recording(),
            stats_reads: self.stats_reads.fetch_add(1, Relaxed),
        }
    }

    /// The report whose counters begin at a mark; `None` if there is no such mark.
    pub fn report_since(&self, name: &str) -> Option<Report> {
        let mark = self.marks.lock().get(name).cloned()?;
        let mut report = self.report().since(name, &mark.sample, &mark.charges);
        for ((op, now), before) in Op::ALL.into_iter().zip(self.latencies()).zip(&mark.latencies) {
            report.sample.ops.of_mut(op).latency = Latency::of(&growth(&now, before));
        }
        Some(report)
    }

    /// The names of the marks, in order.
    pub fn marks(&self) -> Vec<String> {
        self.marks.lock().keys().cloned().collect()
    }

    fn mark(&self, name: String) -> Result<()> {
        let mark = Arc::new(Mark {
            sample: self.sample(),
            charges: self.parts.attribution.charges(),
            latencies: self.latencies(),
        });
        let mut marks = self.marks.lock();
        if marks.len() == MARKS_MAX && !marks.contains_key(&name) {
            log::error!("mark {name}: there are {MARKS_MAX} marks already");
            return Err(Error::Invalid);
        }
        marks.insert(name, mark);
        Ok(())
    }

    fn latencies(&self) -> Vec<Vec<(u64, u64)>> {
        Op::ALL.map(|op| self.parts.meter.distribution(op)).to_vec()
    }

    fn sample(&self) -> Sample {
        let parts = &self.parts;
        let elapsed = parts.clock.elapsed().saturating_sub(self.started);
        let aside = Aside {
            deferred_inode_puts_absorbed: (parts.usage)().deferred_inode_puts_absorbed,
            open_files: (parts.open_files)(),
            process: (parts.process)(),
            forks: parts.forking.as_ref().map(|forking| forking.forks()).unwrap_or_default(),
        };
        let mut sample = Sample::take(elapsed, &parts.meter, &parts.engine, &parts.disk, aside);
        let (known, now) = (self.below_engine.lock().clone(), parts.clock.elapsed());
        sample.below_engine = known.map(|(counts, asked)| BelowEngine {
            age: counts.age.map(|_| now.saturating_sub(asked)),
            ..counts
        });
        sample
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
