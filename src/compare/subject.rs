//! The engine that is measured, opened where it lives and driven at one of two paces.
//!
//! *Simulated*: background work is done by the one who writes, between two batches, and the engine sees a clock of its own. So what is
//! written follows from the batches and the options, never from the machine. *Live*: as on a mount, with the threads that the engine has use
//! for, and the machine's clock; a batch that is refused waits for the wake signal. An engine with a directory of its own is always live: its
//! threads are its own affair.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::Error;
use super::inside::Inside;
use super::kernel::{self, Processor};
use super::unsynced::Unsynced;
use crate::base::clock::{Clock, ManualClock, SystemClock};
use crate::base::metric::Since;
use crate::base::text::human_size;
use crate::disk::{
    self, Access, Disk, DiskCounters, Latch, Media, MediaCounters, Metered, OsDisk, Pool, ProcessIo,
};
use crate::engine::{
    self, Batch, Command, Done, Engine, Home, KeyRange, Kind, Lsn, Options, Promise, Shape, Tier, WakeSignal,
    WorkClass, Worker, wal,
};

/// Directory of an engine that has one of its own, below the store's.
const OWN_DIRECTORY: &str = "engine";
/// The time that a batch takes on a simulated clock.
const TICK: Duration = Duration::from_millis(1);
/// A simulated writer that is refused this often in a row is not let through any more.
const REFUSALS_MAX: u32 = 10_000;
/// Interval at which a live engine is looked at until it is quiet.
const LOOK: Duration = Duration::from_millis(2);
/// For how long it must be quiet: ours begin what is due at once, others look for it now and then.
const QUIET: [Duration; 2] = [Duration::from_millis(8), Duration::from_millis(500)];

/// For how long an engine that owes something may read and write nothing before a settle gives up. Work that failed rests before it is tried again, longer
/// each time, so some of that is waited for.
const STILL_MAX: Duration = Duration::from_secs(60);

/// At which pace an engine is driven; see the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pace {
    /// On a clock of its own, work done between batches.
    Simulated,
    /// As on a mount.
    Live,
}

/// Where a store lies.
pub enum Place {
    /// On a disk of ours, which is metered; below `path` if it is a real one.
    Disk {
        /// The disk.
        disk: Arc<dyn Disk>,
        /// Its directory.
        path: Option<PathBuf>,
    },
    /// In a directory of the engine's own, below one that is locked.
    Directory {
        /// The engine's directory.
        path: PathBuf,
        /// The lock.
        lock: Arc<OsDisk>,
    },
}

impl Place {
    /// The place for an engine of `kind` in the directory `path`, which is made if it is missing. Without `syncs` a disk of ours counts syncs
    /// and does not wait for them; in a directory of its own an engine does as it likes.
    pub fn below(path: &Path, kind: Kind, syncs: bool) -> Result<Place, Error> {
        let failed = |error| Error::io(path.display(), error);
        let os = OsDisk::open(path, Access::Write).map_err(failed)?;
        match kind.home {
            Home::Directory(_) => {
                Ok(Place::Directory { path: os.directory(OWN_DIRECTORY).map_err(failed)?, lock: os })
            }
            Home::Disk(_) => {
                let pool: Arc<dyn Disk> = Pool::of_process(os);
                let disk = if syncs { pool } else { Unsynced::new(pool) };
                Ok(Place::Disk { disk, path: Some(path.to_path_buf()) })
            }
        }
    }

    fn path(&self) -> Option<&Path> {
        match self {
            Place::Disk { path, .. } => path.as_deref(),
            Place::Directory { path, .. } => Some(path),
        }
    }
}

impl From<Arc<dyn Disk>> for Place {
    fn from(disk: Arc<dyn Disk>) -> Place {
        Place::Disk { disk, path: None }
    }
}

/// Counts up to a moment.
#[derive(Clone)]
pub struct Counts {
    /// Counts of door 3; `None` for an engine whose files are no disk's of ours.
    pub door: Option<DiskCounters>,
    /// Counts of the models of media below; `None` if there are none.
    pub media: Option<MediaCounters>,
    /// The kernel's counts for this process.
    pub kernel: ProcessIo,
    /// Bytes that the device below has written, for everybody; `None` where the kernel does not say.
    pub device_bytes: Option<u64>,
    /// Processor time.
    pub processor: Processor,
    /// Time for which writers were held back, all threads together, as far as the engine says.
    pub stalled: Duration,
    /// What the engine says of point reads, and of what is hot.
    pub inside: Inside,
}

impl Counts {
    /// Counts since `earlier`.
    pub fn since(&self, earlier: &Counts) -> Counts {
        let both = |now: Option<u64>, then: Option<u64>| Some(now?.saturating_sub(then?));
        Counts {
            door: self.door.as_ref().zip(earlier.door.as_ref()).map(|(now, then)| now.since(then)),
            media: self.media.zip(earlier.media).map(|(now, then)| now.since(&then)),
            kernel: self.kernel.since(&earlier.kernel),
            device_bytes: both(self.device_bytes, earlier.device_bytes),
            processor: self.processor.since(&earlier.processor),
            stalled: self.stalled.saturating_sub(earlier.stalled),
            inside: self.inside.since(&earlier.inside),
        }
    }
}

/// Space that a store occupies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Occupied {
    /// All files.
    pub bytes: u64,
    /// Of these, the segments of the log; `None` where nobody can tell which those are.
    pub log_bytes: Option<u64>,
}

/// An engine that is measured.
pub struct Subject {
    // Dropped before the engine: its threads hold it.
    worker: Option<Worker>,
    engine: Arc<dyn Engine>,
    signal: Arc<WakeSignal>,
    place: Place,
    door: Option<Arc<Metered>>,
    media: Option<Arc<Media>>,
    /// The simulated clock; `None` if it is live.
    clock: Option<Arc<ManualClock>>,
    /// The time that a batch takes on it.
    tick: Duration,
    waited_nanos: AtomicU64,
    memory_before_bytes: u64,
}

impl Subject {
    /// Opens the engine that `options` are of at `place`; a place without a store gets one.
    pub fn open(place: Place, options: &Options, pace: Pace) -> Result<Subject, Error> {
        let failed = |error| Error::engine(format!("opening {}", options.kind()), error);
        options.validate()?;
        kernel::trim_heap();
        let memory_before_bytes = kernel::anonymous_bytes();
        let is_simulated = pace == Pace::Simulated && matches!(options.kind().home, Home::Disk(_));
        let clock = is_simulated.then(|| Arc::new(ManualClock::default()));
        let seen: Arc<dyn Clock> = match &clock {
            Some(clock) => clock.clone(),
            None => Arc::new(SystemClock::new()),
        };
        let mut media = None;
        let (engine, door) = match (&place, options.kind().home) {
            (Place::Directory { path, .. }, Home::Directory(open)) => {
                (open(path, seen, options).map_err(failed)?, None)
            }
            (Place::Disk { disk, .. }, _) => {
                // Models take time, and in a run that takes time nothing else shall.
                media = is_simulated.then(|| Media::new(disk.clone()));
                let below = media.clone().map_or(disk.clone(), |media| media as Arc<dyn Disk>);
                let door = Metered::new(below);
                let disk = Latch::new(door.clone());
                (engine::open(disk, seen, options).map_err(failed)?, Some(door))
            }
            (Place::Directory { path, .. }, Home::Disk(_)) => {
                let what = format!("{}: engine={} lives on a disk", path.display(), options.kind());
                return Err(Error::Failed(what));
            }
        };
        let worker = match &clock {
            Some(_) => None,
            None => {
                let started = Worker::start(engine.clone());
                Some(started.map_err(|error| Error::io("starting background threads", error))?)
            }
        };
        let (signal, waited_nanos) = (engine.wake_signal(), AtomicU64::new(0));
        let tick = TICK;
        Ok(Subject {
            worker,
            engine,
            signal,
            place,
            door,
            media,
            clock,
            tick,
            waited_nanos,
            memory_before_bytes,
        })
    }

    /// The same, on whose simulated clock no time passes but by [`Subject::pass_to`].
    pub fn without_ticks(self) -> Subject {
        Subject { tick: Duration::ZERO, ..self }
    }

    /// The engine's promises.
    pub fn promise(&self) -> Promise {
        self.engine.promise()
    }

    /// Whether it is driven on a simulated clock.
    pub fn is_simulated(&self) -> bool {
        self.clock.is_some()
    }

    /// Anonymous memory of this process above what it held before the engine was opened.
    pub fn memory_bytes(&self) -> u64 {
        kernel::anonymous_bytes().saturating_sub(self.memory_before_bytes)
    }

    /// Applies a batch, waiting as long as it is refused; at the simulated pace also does the work that it caused.
    pub fn apply(&self, batch: &Batch) -> Result<Lsn, Error> {
        let mut refusals = 0;
        loop {
            // Looked at before the try, so that a signal in between is not lost.
            let seen = self.signal.seen(WorkClass::Room);
            match (self.engine.apply(batch, Tier::Disk), &self.clock) {
                (Ok(lsn), Some(clock)) => {
                    clock.advance(self.tick);
                    self.work()?;
                    return Ok(lsn);
                }
                (Ok(lsn), None) => return Ok(lsn),
                (Err(engine::Error::Busy { retry_after, .. }), None) => {
                    let since = Instant::now();
                    self.signal.wait(WorkClass::Room, seen, retry_after);
                    self.waited_nanos.fetch_add(since.elapsed().as_nanos() as u64, Relaxed);
                }
                (Err(error @ engine::Error::Busy { retry_after, .. }), Some(clock)) => {
                    refusals += 1;
                    if refusals > REFUSALS_MAX {
                        return Err(Error::engine("a put waits for what never comes", error));
                    }
                    self.work()?;
                    clock.advance(retry_after);
                }
                (Err(error), _) => return Err(Error::engine("a write", error)),
            }
        }
    }

    /// The value of `key`, if it is there.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.engine.get(key, Tier::Disk).map_err(|error| Error::engine("a get", error))
    }

    /// Visits up to `count` entries from the key `from` on; the number of entries, and their key and value bytes.
    pub fn scan(&self, from: &[u8], count: u64) -> Result<(u64, u64), Error> {
        self.slice(from, count).map(|(entries, bytes, _)| (entries, bytes))
    }

    /// The same, and the last key; `None` where the range ended before `count` entries.
    pub fn slice(&self, from: &[u8], count: u64) -> Result<(u64, u64, Option<Vec<u8>>), Error> {
        let (mut entries, mut bytes, mut last) = (0, 0, None);
        let range = KeyRange { start: from, end: None };
        let scanned = self.engine.scan(range, Tier::Disk, &mut |key, value| {
            entries += 1;
            bytes += (key.len() + value.len()) as u64;
            if entries < count {
                return ControlFlow::Continue(());
            }
            last = Some(key.to_vec());
            ControlFlow::Break(())
        });
        scanned.map(|()| (entries, bytes, last)).map_err(|error| Error::engine("a scan", error))
    }

    /// Visits up to `count` entries of a range; how many there were.
    pub fn visit(&self, range: KeyRange<'_>, count: u64) -> Result<u64, Error> {
        let mut entries = 0;
        let scanned = self.engine.scan(range, Tier::Disk, &mut |_, _| {
            entries += 1;
            if entries < count { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        scanned.map(|()| entries).map_err(|error| Error::engine("a scan", error))
    }

    /// Has `done` called once everything that was applied so far is durable: from a thread of the engine's, or, at the simulated pace, before
    /// this returns.
    pub fn begin_sync(&self, done: Done) -> Result<(), Error> {
        self.engine.sync_to(self.engine.lsn(), done);
        if self.is_simulated() { self.work() } else { Ok(()) }
    }

    /// What the simulated clock says; zero at the live pace.
    pub fn elapsed(&self) -> Duration {
        self.clock.as_ref().map_or(Duration::ZERO, |clock| clock.elapsed())
    }

    /// Lets the simulated clock say at least `elapsed`, and does the work whose time has come; nothing at the live pace.
    pub fn pass_to(&self, elapsed: Duration) -> Result<(), Error> {
        let Some(clock) = &self.clock else { return Ok(()) };
        match elapsed.checked_sub(clock.elapsed()) {
            None | Some(Duration::ZERO) => Ok(()),
            Some(time) => {
                clock.advance(time);
                self.work()
            }
        }
    }

    /// Waits until everything up to `lsn` is durable.
    pub fn sync_to(&self, lsn: Lsn) -> Result<(), Error> {
        let result = match self.clock {
            Some(_) => engine::sync(&*self.engine),
            None => wait(|done| self.engine.sync_to(lsn, done)),
        };
        result.map_err(|error| Error::engine("a sync", error))
    }

    /// Waits until everything that was applied is durable.
    pub fn sync(&self) -> Result<(), Error> {
        self.sync_to(self.engine.lsn())
    }

    /// Writes out what is buffered, waits until no background work is left, and syncs: a boundary at which nothing is owed. Returns how much
    /// of the time was spent only on making sure that nothing is.
    pub fn settle(&self) -> Result<Duration, Error> {
        let failed = |error| Error::engine("a flush", error);
        if self.is_simulated() {
            engine::run(&*self.engine, Command::Flush).map_err(failed)?;
            self.sync()?;
            self.work()?;
            return Ok(Duration::ZERO);
        }
        wait(|done| self.engine.run(Command::Flush, done)).map_err(failed)?;
        let quiet = match self.engine.inspect() {
            // Nobody can look.
            None => Duration::ZERO,
            Some(_) => QUIET[usize::from(self.door.is_none())],
        };
        self.await_quiet(quiet, STILL_MAX)?;
        self.sync()?;
        Ok(quiet)
    }

    /// Waits until the engine has owed nothing for as long as `quiet`. An error where it owes something, and nothing has been done about it for
    /// `still_max`: it never will.
    fn await_quiet(&self, quiet: Duration, still_max: Duration) -> Result<(), Error> {
        let mut looks = 0;
        let mut last = (String::new(), 0);
        let mut since = Instant::now();
        while LOOK * looks < quiet {
            std::thread::sleep(LOOK);
            let Some(owed) = owed(&self.engine.shape()) else {
                looks += 1;
                continue;
            };
            looks = 0;
            let now = (owed, self.passed_bytes()?);
            if now != last {
                (last, since) = (now, Instant::now());
            } else if since.elapsed() >= still_max {
                let kind = self.engine.kind();
                let seconds = still_max.as_secs_f32();
                let owed = &last.0;
                return Err(Error::Failed(format!(
                    "{kind} does not settle: it owes {owed}, and has read and written nothing for {seconds} s"
                )));
            }
        }
        Ok(())
    }

    /// Whether work is left in the background, as far as the engine says.
    pub fn owes(&self) -> bool {
        owed(&self.engine.shape()).is_some()
    }

    /// Bytes that the engine has read and written: at our door, or where it has none, of the device.
    fn passed_bytes(&self) -> Result<u64, Error> {
        if let Some(door) = &self.door {
            let all = door.snapshot().total();
            return Ok(all.read_bytes + all.write_bytes);
        }
        let kernel = disk::process_io().map_err(|error| Error::io("reading /proc/self/io", error))?;
        Ok(kernel.read_bytes + kernel.write_bytes)
    }

    /// Does the background work that there is.
    fn work(&self) -> Result<(), Error> {
        engine::settle(&*self.engine).map_err(|error| Error::engine("background work", error))
    }

    /// Everything that has been counted.
    pub fn counts(&self) -> Result<Counts, Error> {
        let waited = Duration::from_nanos(self.waited_nanos.load(Relaxed));
        let shape = self.engine.shape();
        let held_back = match &self.door {
            // Ours answer `Busy`, and the wait is counted above.
            Some(_) => Duration::ZERO,
            None => Duration::from_secs_f64(shape.stalls.seconds()),
        };
        Ok(Counts {
            door: self.door.as_ref().map(|door| door.snapshot()),
            media: self.media.as_ref().map(|media| media.counters()),
            kernel: disk::process_io().map_err(|error| Error::io("reading /proc/self/io", error))?,
            device_bytes: self.place.path().and_then(kernel::device_write_bytes),
            processor: Processor::now(),
            stalled: waited + held_back,
            inside: Inside::of(&shape),
        })
    }

    /// Space that its files occupy now.
    pub fn occupied(&self) -> Result<Occupied, Error> {
        match &self.place {
            Place::Directory { path, .. } => {
                let (bytes, _) = disk::occupied(path).map_err(|error| Error::io(path.display(), error))?;
                Ok(Occupied { bytes, log_bytes: None })
            }
            Place::Disk { disk, .. } => {
                let files = disk.list().map_err(|error| Error::io("listing the store", error))?;
                let of_log = files.iter().filter(|file| wal::is_segment(&file.name));
                Ok(Occupied {
                    bytes: files.iter().map(|file| file.bytes_allocated).sum(),
                    log_bytes: Some(of_log.map(|file| file.bytes_allocated).sum()),
                })
            }
        }
    }

    /// The engine's own report, for people.
    pub fn report(&self) -> String {
        format!("{:#?}", self.engine.shape())
    }

    /// Closes the store in order, and lets go of its place.
    pub fn close(mut self) -> Result<(), Error> {
        if let Some(worker) = self.worker.take() {
            worker.stop();
        }
        self.engine.close().map_err(|error| Error::engine("closing the store", error))
    }
}

/// Starts something that ends in the background, and waits for its end.
fn wait(start: impl FnOnce(Done)) -> engine::Result<()> {
    let (sender, receiver) = mpsc::channel();
    start(Box::new(move |result| {
        // The receiver waits below.
        let _ = sender.send(result);
    }));
    let lost = |_| Err(engine::Error::Invalid("the engine dropped it unanswered".to_string()));
    receiver.recv().unwrap_or_else(lost)
}

/// What is still to be done in the background, in words; `None` if nothing is.
fn owed(shape: &Shape) -> Option<String> {
    let debt = &shape.debt;
    let memtables = shape.memory.immutable_memtables.unwrap_or_default();
    let mut owed = shape.jobs.clone();
    if memtables > 0 {
        owed.push(format!("{memtables} full memtables"));
    }
    match debt.pending_compaction_bytes {
        // Files in L0 are owed a merge if the policy says so, which counts them here.
        Some(0) => {}
        Some(bytes) => owed.push(format!("merges of {}", human_size(bytes))),
        None if debt.l0_files > debt.l0_trigger => {
            owed.push(format!("a merge of {} files in L0", debt.l0_files));
        }
        None => {}
    }
    if shape.space.obsolete_bytes > 0 {
        owed.push(format!("the removal of {} of files", human_size(shape.space.obsolete_bytes)));
    }
    (!owed.is_empty()).then(|| owed.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;
    use crate::engine::lsm::{self, PolicyKind};

    fn open(options: lsm::Options) -> Subject {
        Subject::open((SimDisk::new() as Arc<dyn Disk>).into(), &options.into(), Pace::Live).unwrap()
    }

    fn put(subject: &Subject, number: u64) {
        let mut batch = Batch::new(1);
        batch.put(number.to_be_bytes().to_vec(), vec![7; 1000]);
        subject.apply(&batch).unwrap();
    }

    #[test]
    fn files_in_the_first_level_are_no_debt_where_the_policy_lets_them_lie() {
        for policy in [PolicyKind::LOG, PolicyKind::TIERED] {
            let subject = open(lsm::Options { policy, l0_trigger: 2, ..lsm::Options::tiny() });
            // Each run is so much smaller than the one before that tiers do not form.
            for count in [400, 90, 20] {
                (0..count).for_each(|number| put(&subject, number));
                subject.settle().unwrap();
            }
            let shape = subject.engine.shape();
            if policy == PolicyKind::LOG {
                assert!(shape.debt.l0_files > shape.debt.l0_trigger, "{shape:?}");
            }
            assert_eq!(owed(&shape), None);
            subject.close().unwrap();
        }
    }

    #[test]
    fn work_that_nobody_does_ends_the_wait_and_is_named() {
        let mut subject = open(lsm::Options::tiny());
        drop(subject.worker.take());
        let full = |subject: &Subject| subject.engine.shape().memory.immutable_memtables > Some(0);
        (0..).take_while(|_| !full(&subject)).for_each(|number| put(&subject, number));
        let error = subject.await_quiet(QUIET[0], 20 * LOOK).unwrap_err().to_string();
        assert!(error.contains("lsm does not settle: it owes 1 full memtables"), "{error}");
        // Who works again is waited for.
        subject.worker = Some(Worker::start(subject.engine.clone()).unwrap());
        subject.settle().unwrap();
        subject.close().unwrap();
    }
}
