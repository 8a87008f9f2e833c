//! Errors of the disk below, as programs and `/.stats` see them, on both engines. A failed read concerns only who asked, and is
//! logged with file and offset. After a failed sync, or a failed write to the log, nothing is accepted any more and nothing is
//! synced again; what was acknowledged before is there, now and after the next mount.
//!
//! `tests/crash.rs` fails every request of every kind at the engine's door; here the filesystem and its reports are looked at.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use kvfs::base::clock::ManualClock;
use kvfs::base::prng::Prng;
use kvfs::control::{self, Control, MountInfo, Sources};
use kvfs::disk::{Disk, Fault, Faulty, Latch, Metered, OpenFiles, Purpose, Request, SimDisk, Space};
use kvfs::engine::{self, Engine, Kind, MeteredEngine, Options, Tier, WorkClass};
use kvfs::fs::operation::Op;
use kvfs::fs::types::{Caller, NewNode, ROOT};
use kvfs::fs::{Error, FileSystem, Result, keys};
use parking_lot::Mutex;

/// Lines of the log, each with the thread that wrote it: tests run beside each other.
struct Lines(Mutex<Vec<(std::thread::ThreadId, String)>>);

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }
    fn log(&self, record: &log::Record<'_>) {
        self.0.lock().push((std::thread::current().id(), record.args().to_string()));
    }
    fn flush(&self) {}
}

/// What this thread has logged since it was asked last.
fn logged() -> Vec<String> {
    static LINES: OnceLock<&'static Lines> = OnceLock::new();
    let lines = LINES.get_or_init(|| {
        let lines: &'static Lines = Box::leak(Box::new(Lines(Mutex::default())));
        log::set_logger(lines).unwrap();
        log::set_max_level(log::LevelFilter::Error);
        lines
    });
    let thread = std::thread::current().id();
    // Under the lock from end to end: a line that is put back later is missing for the thread that wrote it.
    let mut all = lines.0.lock();
    let (mine, others): (Vec<_>, Vec<_>) =
        std::mem::take(&mut *all).into_iter().partition(|(who, _)| *who == thread);
    *all = others;
    mine.into_iter().map(|(_, line)| line).collect()
}

/// A filesystem and its report over a disk that fails on demand, put together as on a mount.
struct Mounted {
    faulty: Arc<Faulty>,
    latch: Arc<Latch>,
    engine: Arc<MeteredEngine>,
    fs: Arc<FileSystem>,
    control: Arc<Control>,
}

/// Ends a run: it cannot be mounted.
fn mount(disk: Arc<dyn Disk>, kind: Kind) -> std::result::Result<Mounted, String> {
    let faulty = Faulty::new(disk);
    mount_on(faulty, kind)
}

fn mount_on(faulty: Arc<Faulty>, kind: Kind) -> std::result::Result<Mounted, String> {
    let metered = Metered::new(faulty.clone());
    let latch = Latch::new(metered.clone());
    let clock = Arc::new(ManualClock::default());
    let options = Options::tiny(kind);
    let engine = engine::open(latch.clone(), clock.clone(), &options).map_err(|error| error.to_string())?;
    let engine = MeteredEngine::new(engine, keys::classify);
    let space = || Ok(Space { total_bytes: 1 << 40, free_bytes: 1 << 39, ..Space::default() });
    let fs = FileSystem::open(engine.clone(), clock.clone(), kvfs::fs::Options::default(), Arc::new(space));
    let fs = fs.map_err(|error| error.to_string())?;
    let usage = fs.clone();
    let control = Control::new(Sources {
        mount: MountInfo { kind_names: &keys::KIND_NAMES, ..MountInfo::default() },
        clock,
        meter: fs.meter().clone(),
        attribution: Arc::default(),
        engine: engine.clone(),
        disk: metered,
        engine_directory: None,
        witness: None,
        latch: latch.clone(),
        usage: Box::new(move || usage.usage()),
        write_times: Box::new(|| Ok(())),
        open_files: Box::new(OpenFiles::default),
        forking: None,
        process: Box::new(|| None),
    });
    Ok(Mounted { faulty, latch, engine, fs, control })
}

fn name(index: u64) -> Vec<u8> {
    format!("file{index:02}").into_bytes()
}

fn content(index: u64) -> Bytes {
    let mut prng = Prng::new(index);
    let length = [100, 3000, 9000, 20_000][index as usize % 4];
    (0..length).map(|_| prng.bits() as u8).collect::<Vec<u8>>().into()
}

impl Mounted {
    fn fail(&self, kind: Request, purpose: Option<Purpose>, nth: u64) {
        self.faulty.inject(Fault::Fail { kind: Some(kind), purpose, nth, errno: libc::EIO });
    }

    /// Does background work, and says what went wrong in it.
    fn work(&self) -> Result<()> {
        for class in [WorkClass::Log, WorkClass::Flush, WorkClass::Merge, WorkClass::Reclaim] {
            self.engine.work(class)?;
        }
        self.fs.work().map(drop)
    }

    fn ask<T>(&self, call: impl Fn() -> Result<T>) -> Result<T> {
        for _ in 0..300 {
            match call() {
                Err(Error::Busy { .. }) => self.work()?,
                answer => return answer,
            }
        }
        panic!("busy for ever");
    }

    fn write(&self, index: u64) -> Result<()> {
        let fs = &self.fs;
        let node = NewNode::File;
        let make = || fs.make(Tier::Disk, Op::Create, Caller::ROOT, ROOT, &name(index), 0o644, 0, node);
        let ino = self.ask(make)?.ino;
        self.ask(|| fs.write(Tier::Disk, Caller::ROOT, ino, 0, &content(index), false))
    }

    fn read(&self, index: u64) -> Result<Bytes> {
        let ino = self.fs.lookup(Tier::Disk, ROOT, &name(index))?.ino;
        Ok(self.fs.read(Tier::Disk, ino, 0, 1 << 20)?.into())
    }
}

/// A disk with a closed store of `count` files.
fn filled(kind: Kind, count: u64) -> Arc<SimDisk> {
    let sim = SimDisk::new();
    let store = mount(sim.clone(), kind).unwrap();
    for index in 0..count {
        store.write(index).unwrap();
        store.work().unwrap();
    }
    store.fs.close().unwrap();
    engine::settle(&*store.engine).unwrap();
    store.engine.close().unwrap();
    sim
}

fn failed_reads(kind: Kind) {
    logged();
    let sim = filled(kind, 24);
    let (mut failures, mut said) = (0, 0);
    for nth in 0..60 {
        let store = mount(sim.kill(), kind).unwrap();
        let mut order: Vec<u64> = (0..24).collect();
        order.rotate_left(nth as usize % 24);
        store.fail(Request::Read, None, nth);
        logged();
        let mut errors = 0;
        for &index in &order {
            match store.read(index) {
                Ok(found) => assert!(found == content(index), "{kind} {nth}: file {index}"),
                Err(error) => {
                    assert_eq!(error.errno(), libc::EIO, "{kind} {nth}: {error}");
                    errors += 1;
                }
            }
        }
        // Where filter and index of a table cannot be read by one request, each is read by itself: then nobody hears of it.
        let hits = store.faulty.hits();
        assert!(errors <= hits, "{kind} {nth}: {hits} failed reads are {errors} failed calls");
        failures += errors;
        if errors > 0 {
            let lines = logged();
            let files = sim.list().unwrap();
            let tells = |line: &&String| {
                line.contains(" bytes at ")
                    && files.iter().any(|file| line.contains(&format!("of {}", file.name)))
            };
            said += u64::from(lines.iter().any(|line| tells(&line)));
            assert!(lines.iter().any(|line| tells(&line)), "{kind} {nth}: {lines:?}");
        }
        // Everything goes on: reads of the same files, changes, syncs.
        for &index in &order {
            assert!(store.read(index).unwrap() == content(index), "{kind} {nth}: afterwards file {index}");
        }
        assert_eq!(store.latch.cause(), None);
        store.write(100).unwrap();
        engine::sync(&*store.engine).unwrap();
        assert!(control::text(&store.control.report()).contains("state=OK"), "{kind} {nth}");
    }
    println!("{kind}: {failures} failed reads, {said} logged");
    assert!(failures > 20);
}

#[test]
fn a_failed_read_of_an_lsm_tree_concerns_only_who_asked() {
    failed_reads(Kind::LSM);
}

#[test]
fn a_failed_read_of_a_btree_concerns_only_who_asked() {
    failed_reads(Kind::BTREE);
}

#[test]
fn a_failed_read_of_a_hybrid_concerns_only_who_asked() {
    failed_reads(Kind::HYBRID);
}

/// One run with one fault; false if the fault never struck.
fn poisoned(kind: Kind, request: Request, purpose: Option<Purpose>, nth: u64) -> bool {
    let what = format!("{kind}: {request:?} {purpose:?} {nth}");
    logged();
    let sim = SimDisk::new();
    let store = mount(sim.clone(), kind).unwrap();
    store.fail(request, purpose, nth);
    let (mut written, mut synced, mut failure) = (0, 0, None);
    for index in 0..40 {
        let step = || {
            store.write(index)?;
            written = index + 1;
            store.work()?;
            if index % 4 == 3 {
                engine::sync(&*store.engine)?;
                synced = written;
            }
            Ok(())
        };
        let result: Result<()> = { step }();
        if store.faulty.hits() > 0 {
            failure = Some(result);
            break;
        }
        result.unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    let Some(failure) = failure else { return false };
    let cause = store.latch.cause().unwrap_or_else(|| panic!("{what}: nobody noticed: {failure:?}"));
    // No sync after that reaches the disk, whoever asks for one.
    store.fail(Request::Sync, None, 0);
    store.fail(Request::SyncNames, None, 0);
    let hits = store.faulty.hits();
    for index in 50..54 {
        let error = store.write(index).expect_err("a store that cannot keep it takes no more");
        assert_eq!(error.errno(), libc::EROFS, "{what}: {error}");
        // All that was accepted may be durable already: the first write after a sync failed, or a checkpoint of what is in
        // the log. Then a sync may say so, and is held to it below.
        if engine::sync(&*store.engine).is_ok() {
            synced = written;
        }
        let _ = store.work();
    }
    assert!(
        store.fs.close().is_err() || store.engine.close().is_err(),
        "{what}: closed as if nothing had been"
    );
    assert_eq!(store.faulty.hits(), hits, "{what}: a failed sync was tried again");
    for index in 0..written {
        assert!(store.read(index).unwrap() == content(index), "{what}: file {index} afterwards");
    }
    let report = control::text(&store.control.report());
    assert!(report.contains("READONLY") && report.contains(&cause), "{what}: {report}");
    let lines = logged();
    assert_eq!(
        lines.iter().filter(|line| line.contains("read-only from here on")).count(),
        1,
        "{what}: {lines:?}"
    );
    assert!(lines.iter().any(|line| line.contains(&cause)), "{what}: {lines:?}");
    for seed in 0..3 {
        let again =
            mount(sim.crash(seed), kind).unwrap_or_else(|error| panic!("{what}: mounting again: {error}"));
        for index in 0..synced {
            assert!(
                again.read(index).unwrap() == content(index),
                "{what}: file {index} after mounting again"
            );
        }
        again.write(90).unwrap();
        engine::sync(&*again.engine).unwrap();
    }
    true
}

fn poisons(kind: Kind) {
    let mut counts = Vec::new();
    for (request, purpose) in [
        (Request::Write, Some(Purpose::Wal)),
        (Request::Write, Some(Purpose::PageImage)),
        (Request::Sync, None),
        (Request::SyncNames, None),
    ] {
        let mut nth = 0;
        let mut hits = 0;
        while poisoned(kind, request, purpose, nth) {
            nth += 1 + nth / 4;
            hits += 1;
        }
        counts.push(hits);
    }
    println!("{kind}: poisoned by log writes, page images, syncs, syncs of names: {counts:?}");
    assert!(counts[0] > 5 && counts[2] > 5 && counts[3] > 0, "{counts:?}");
}

#[test]
fn an_lsm_tree_whose_log_or_sync_fails_is_read_only_and_says_so() {
    poisons(Kind::LSM);
}

#[test]
fn a_btree_whose_log_or_sync_fails_is_read_only_and_says_so() {
    poisons(Kind::BTREE);
}

#[test]
fn a_hybrid_whose_log_or_sync_fails_is_read_only_and_says_so() {
    poisons(Kind::HYBRID);
}
