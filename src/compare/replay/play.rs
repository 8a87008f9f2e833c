//! A recording, done again on one engine: its image is loaded, then each thread that was recorded does what it did.
//!
//! One thread reads the recording and hands each operation to the thread that did it, in the order of the recording; a thread is at most
//! [`QUEUE`] operations ahead of another. What keeps them in step is [`super::flow`].

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::arguments::Pace;
use super::content::Contents;
use super::flow::Flow;
use super::latencies::Latencies;
use super::script::{Cue, Script, Step};
use crate::compare::Error;
use crate::compare::progress::Progress;
use crate::compare::subject::Subject;
use crate::engine::{Batch, KeyRange};
use crate::recording::{self, Recording};

/// Operations that wait for a thread at most.
const QUEUE: usize = 256;
/// Threads that are started at most. What more did when it was recorded is spread over them.
const THREADS_MAX: u32 = 128;
/// Bytes of a batch of the image.
const LOAD_BYTES: u64 = 1 << 20;
/// How far ahead of the recorded clock an operation may begin before anybody looks whether work is left.
const AHEAD: Duration = Duration::from_micros(500);
/// Operations after which the progress is shown.
const SHOW: u64 = 4096;

/// How a recording is done again.
#[derive(Clone, Copy)]
pub struct Manner {
    /// When an operation begins.
    pub pace: Pace,
    /// How many times as fast as the recorded clock.
    pub speed: f64,
}

/// What came of it, beside what the subject counts.
#[derive(Default)]
pub struct Played {
    /// How long calls took.
    pub latencies: Latencies,
    /// How long they took when they were recorded.
    pub recorded: Latencies,
    /// Bytes of keys and values that were put, and of keys that were deleted.
    pub kv_write_bytes: u64,
    /// Operations.
    pub operations: u64,
    /// Threads.
    pub threads: u64,
    /// Events that the recorder left out.
    pub missing: u64,
    /// The longest delay behind the recorded clock; zero at another pace.
    pub late_max: Duration,
}

pub(super) fn failed(error: recording::Error) -> Error {
    match error {
        recording::Error::Engine(source) => Error::engine("the recording", source),
        other => Error::Failed(other.to_string()),
    }
}

/// Puts the image of `recording` into `subject`, in the order of keys; the bytes of its keys and values.
pub fn load(recording: &Recording, subject: &Subject, contents: &Contents, what: &str) -> Result<u64, Error> {
    let entries = recording.image_end().map_or(0, |end| end.entries);
    let progress = Progress::new(entries as usize);
    let (mut batch, mut bytes, mut loaded) = (Batch::new(0), 0, 0u64);
    for entry in recording.image().map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let value = contents.of(&entry.key, &entry.value, loaded);
        batch.put(entry.key, value);
        loaded += 1;
        if batch.bytes() >= LOAD_BYTES {
            bytes += batch.bytes();
            subject.apply(&std::mem::replace(&mut batch, Batch::new(0)))?;
            progress.show(loaded as usize, &format!("{what}: loading"));
        }
    }
    bytes += batch.bytes();
    if !batch.is_empty() {
        subject.apply(&batch)?;
    }
    Ok(bytes)
}

/// What all threads share.
struct Stage<'a> {
    subject: &'a Subject,
    contents: &'a Contents,
    manner: Manner,
    begun: Instant,
    /// What a simulated clock said then.
    begun_simulated: Duration,
    flow: Arc<Flow>,
    /// Numbers values.
    values: AtomicU64,
    latencies: Mutex<Latencies>,
    /// Those of syncs are counted where they end.
    synced: Arc<Mutex<Latencies>>,
    late_max_nanos: AtomicU64,
    /// Operations that threads have been given, and have not ended yet.
    given: AtomicU64,
    error: Arc<Mutex<Option<Error>>>,
}

/// Does the events of `recording` on `subject`.
pub fn play(
    recording: &Recording,
    subject: &Subject,
    contents: &Contents,
    manner: Manner,
    what: &str,
) -> Result<Played, Error> {
    let stage = Stage {
        subject,
        contents,
        manner,
        begun: Instant::now(),
        begun_simulated: subject.elapsed(),
        flow: Arc::default(),
        values: AtomicU64::new(0),
        latencies: Mutex::default(),
        synced: Arc::default(),
        late_max_nanos: AtomicU64::new(0),
        given: AtomicU64::new(0),
        error: Arc::default(),
    };
    let mut script = Script::default();
    let fed = std::thread::scope(|scope| {
        let mut threads: HashMap<u32, SyncSender<Cue>> = HashMap::new();
        let total = recording.meters().and_then(|meters| meters.events).unwrap_or(0);
        let progress = Progress::new(total as usize);
        let mut operations = 0;
        let mut skipped = Duration::ZERO;
        let stage = &stage;
        let fed =
            script.run(recording.events().map_err(failed)?.map(|event| event.map_err(failed)), &mut |cue| {
                operations += 1;
                if operations % SHOW == 0 {
                    progress.show(operations.min(total) as usize, what);
                }
                if let Step::AwaitSync { number } = cue.step {
                    return Ok(stage.flow.await_synced(number));
                }
                let number = if stage.manner.pace == Pace::Simulated { 0 } else { cue.thread % THREADS_MAX };
                let queue = threads.entry(number).or_insert_with(|| {
                    let (sender, receiver) = sync_channel(QUEUE);
                    scope.spawn(move || stage.work(receiver));
                    sender
                });
                if stage.manner.pace == Pace::SkipIdle {
                    stage.await_work(Duration::from_nanos(cue.start_ns), &mut skipped);
                }
                stage.given.fetch_add(1, Relaxed);
                // Who has failed takes nothing more.
                Ok(queue.send(cue).is_ok() && !stage.flow.has_failed())
            });
        if fed.is_err() {
            stage.flow.fail();
        }
        fed.map(|()| (operations, threads.len() as u64))
    });
    let failure = stage.error.lock().take();
    let (operations, threads) = match failure {
        Some(error) => return Err(error),
        None => fed?,
    };
    let mut latencies = stage.latencies.into_inner();
    // Syncs that nobody waited for may still be under way.
    subject.sync()?;
    latencies.add(&stage.synced.lock());
    Ok(Played {
        latencies,
        kv_write_bytes: script.kv_write_bytes,
        missing: script.missing,
        recorded: script.recorded,
        operations,
        threads,
        late_max: Duration::from_nanos(stage.late_max_nanos.load(Relaxed)),
    })
}

impl Stage<'_> {
    /// Does what comes for one thread, until nothing more does or somebody has failed.
    fn work(&self, cues: Receiver<Cue>) {
        let mut latencies = Latencies::default();
        let done = |latencies: &mut Latencies| -> Result<(), Error> {
            for cue in cues {
                if self.flow.has_failed() || !self.step(cue, latencies)? {
                    break;
                }
                self.given.fetch_sub(1, Relaxed);
            }
            Ok(())
        };
        if let Err(error) = done(&mut latencies) {
            self.error.lock().get_or_insert(error);
            self.flow.fail();
        }
        self.latencies.lock().add(&latencies);
    }

    /// Does one thing at its time; `false` if somebody has failed.
    fn step(&self, cue: Cue, latencies: &mut Latencies) -> Result<bool, Error> {
        let Cue { tag, start_ns, others, step, .. } = cue;
        let batch = match &step {
            Step::Batch { changes, .. } => {
                let mut batch = Batch::new(tag);
                for change in changes {
                    match &change.value {
                        Some(content) => {
                            let number = self.values.fetch_add(1, Relaxed);
                            batch.put(change.key.clone(), self.contents.of(&change.key, content, number));
                        }
                        None => batch.delete(change.key.clone()),
                    }
                }
                Some(batch)
            }
            _ => None,
        };
        self.await_time(start_ns)?;
        if let Step::Batch { turn, .. } | Step::Sync { turn, .. } = &step
            && !self.flow.await_turn(*turn)
        {
            return Ok(false);
        }
        let most = if self.manner.pace == Pace::InFlight { others } else { u64::MAX };
        if !self.flow.enter(most) {
            return Ok(false);
        }
        let since = Instant::now();
        match step {
            Step::Batch { .. } => {
                if let Some(batch) = batch {
                    self.subject.apply(&batch)?;
                }
                latencies.batch.record(nanos_since(since));
                self.flow.end_turn();
            }
            Step::Get { key } => {
                self.subject.get(&key)?;
                latencies.get.record(nanos_since(since));
            }
            Step::Scan { start, end, entries } => {
                self.subject.visit(KeyRange { start: &start, end: end.as_deref() }, entries)?;
                latencies.scan.record(nanos_since(since));
            }
            Step::Sync { number, .. } => self.begin_sync(number, since)?,
            Step::AwaitSync { .. } => {}
        }
        self.flow.leave();
        Ok(true)
    }

    /// Begins a sync, which ends on another thread.
    fn begin_sync(&self, number: u64, since: Instant) -> Result<(), Error> {
        let (flow, synced, error) = (self.flow.clone(), self.synced.clone(), self.error.clone());
        self.subject.begin_sync(Box::new(move |result| {
            synced.lock().sync.record(nanos_since(since));
            match result {
                Ok(()) => flow.note_synced(number),
                Err(source) => {
                    error.lock().get_or_insert(Error::engine("a sync", source));
                    flow.fail();
                }
            }
        }))
    }

    fn await_time(&self, start_ns: u64) -> Result<(), Error> {
        let start = Duration::from_nanos(start_ns);
        match self.manner.pace {
            // Where idle time is skipped, who hands out operations has waited.
            Pace::Closed | Pace::InFlight | Pace::SkipIdle => {}
            Pace::Simulated => self.subject.pass_to(self.begun_simulated + start)?,
            Pace::Recorded => {
                let due = start.div_f64(self.manner.speed);
                if let Some(early) = due.checked_sub(self.begun.elapsed()) {
                    std::thread::sleep(early);
                }
                let late = self.begun.elapsed().saturating_sub(due);
                self.late_max_nanos.fetch_max(late.as_nanos() as u64, Relaxed);
            }
        }
        Ok(())
    }

    /// Waits until the recorded clock, which is `skipped` ahead of ours, says `start`, or until all that was asked before is done and the engine has
    /// nothing left to do: then that clock goes on to `start`.
    fn await_work(&self, start: Duration, skipped: &mut Duration) {
        loop {
            let ahead = start.saturating_sub(self.begun.elapsed() + *skipped);
            if ahead <= AHEAD || self.flow.has_failed() {
                return;
            }
            // In this order: what is done may leave something to do.
            if self.given.load(Relaxed) > 0 {
                // Mostly for some microseconds.
                std::thread::yield_now();
            } else if self.subject.owes() {
                std::thread::sleep(ahead.min(AHEAD));
            } else {
                *skipped = start.saturating_sub(self.begun.elapsed());
                return;
            }
        }
    }
}

fn nanos_since(since: Instant) -> u64 {
    since.elapsed().as_nanos() as u64
}
