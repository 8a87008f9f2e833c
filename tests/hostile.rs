//! Hostile input: damaged stores, stores of other versions, calls and texts that nobody sane would send. Whatever comes, the
//! answer is data that was written, or an error; never a panic, never silence.
//!
//! Every case runs on a thread of its own under a watchdog. `SEED=n` begins elsewhere; `KVFS_TEST_LONG=1` takes twenty times as
//! many cases.

#[path = "hostile/calls.rs"]
mod calls;
#[path = "hostile/stores.rs"]
mod stores;
#[path = "hostile/texts.rs"]
mod texts;
#[path = "hostile/versions.rs"]
mod versions;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

use kvfs::base::clock::ManualClock;
use kvfs::base::prng::Prng;
use kvfs::disk::{Disk, Space};
use kvfs::engine::{self, Engine, Error as EngineError, Kind, Options as EngineOptions, Tier, WorkClass};
use kvfs::fs::types::{DirEntry, Ino};
use kvfs::fs::{self, Error, FileSystem, SpaceSource};
use kvfs::store::Description;

/// After this long a case hangs. Cases take milliseconds; the rest is for a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// Tries of a call that is answered `Busy`, with background work between them.
const TRIES: usize = 300;

/// `count` cases, or many more if asked for.
fn cases(count: u64) -> std::ops::Range<u64> {
    let first = std::env::var("SEED").map_or(0, |seed| seed.parse().expect("SEED is a number"));
    let factor = if std::env::var_os("KVFS_TEST_LONG").is_some() { 20 } else { 1 };
    first..first + count * factor
}

/// Runs a case. One that panics or does not end fails the test under its name.
fn watched<T: Send + 'static>(what: &str, case: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = channel();
    let run = move || {
        // The receiver is gone only if the case has hung before.
        let _ = sender.send(case());
    };
    let thread = std::thread::Builder::new().name(what.replace('\0', "")).spawn(run).unwrap();
    match receiver.recv_timeout(PATIENCE) {
        Ok(value) => value,
        Err(RecvTimeoutError::Timeout) => panic!("{what}: hangs"),
        Err(RecvTimeoutError::Disconnected) => {
            let panic = thread.join().expect_err("a case that ends sends its value");
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic");
            panic!("{what}: {text}");
        }
    }
}

fn space() -> SpaceSource {
    Arc::new(|| Ok(Space { total_bytes: 1 << 40, free_bytes: 1 << 39, ..Space::default() }))
}

/// An engine and the filesystem on it, as a mount puts them together but for kernel and threads.
struct Opened {
    engine: Arc<dyn Engine>,
    fs: Arc<FileSystem>,
}

/// Opens the store on `disk`, with sizes so small that a few files reach every part of an engine.
fn open(disk: Arc<dyn Disk>) -> Result<Opened, String> {
    let description = Description::load(&*disk).map_err(|error| error.to_string())?;
    let description = description.ok_or("there is no STORE")?;
    let settings = description.settings(&[]).map_err(|error| error.to_string())?;
    let options = EngineOptions::tiny(settings.engine.kind());
    let clock = Arc::new(ManualClock::default());
    let engine = engine::open(disk, clock.clone(), &options).map_err(|error| error.to_string())?;
    let fs =
        FileSystem::open(engine.clone(), clock, settings.fs, space()).map_err(|error| error.to_string())?;
    Ok(Opened { engine, fs })
}

/// A new store on `disk`.
fn make(disk: Arc<dyn Disk>, kind: Kind) -> Opened {
    let given = [("engine".to_string(), kind.to_string())];
    Description::new(&given).unwrap().save(&*disk).unwrap();
    open(disk).unwrap()
}

impl Opened {
    /// Makes a call as a mount does: again on the disk, and again while there is no room, but not for ever.
    fn ask<T>(&self, mut call: impl FnMut(&FileSystem, Tier) -> fs::Result<T>) -> fs::Result<T> {
        let mut tier = Tier::Memory;
        for _ in 0..TRIES {
            match call(&self.fs, tier) {
                Err(Error::WouldBlock) if tier == Tier::Memory => tier = Tier::Disk,
                Err(Error::Busy { .. }) => self.work(),
                answer => return answer,
            }
        }
        Err(Error::Engine(EngineError::Invalid("busy for ever".to_string())))
    }

    /// One unit of each kind of background work. What goes wrong there shows in calls.
    fn work(&self) {
        for class in [WorkClass::Log, WorkClass::Flush, WorkClass::Merge, WorkClass::Reclaim] {
            let _ = self.engine.work(class);
        }
        let _ = self.fs.work();
    }

    /// The names of a directory, over as many replies as it takes; at most `entries_max`.
    fn list(&self, ino: Ino, entries_max: usize) -> fs::Result<Vec<DirEntry>> {
        let mut found: Vec<DirEntry> = Vec::new();
        loop {
            let (before, cookie) = (found.len(), found.last().map_or(0, |entry| entry.cookie));
            let mut reply = Vec::new();
            self.ask(|fs, tier| {
                reply.clear();
                fs.readdir(tier, ino, cookie, &mut |entry| {
                    reply.push(entry);
                    reply.len() < 20
                })
            })?;
            found.append(&mut reply);
            if found.len() == before || found.len() >= entries_max {
                return Ok(found);
            }
        }
    }

    /// What the check finds, or why it cannot.
    fn problems(&self) -> fs::Result<Vec<String>> {
        let mut problems = Vec::new();
        kvfs::fs::check(&*self.engine, &mut |problem| problems.push(problem.what))?;
        Ok(problems)
    }

    /// Every entry of the engine, as far as it can be read.
    fn scan(&self) {
        let _ = self.engine.scan(engine::KeyRange::ALL, Tier::Disk, &mut |_, _| ControlFlow::Continue(()));
    }
}

/// A number from the edges of what calls take, or anywhere.
fn number(prng: &mut Prng) -> u64 {
    const EDGES: [u64; 8] = [0, 4096, 1 << 20, 1 << 31, 1 << 32, 1 << 62, 1 << 63, u64::MAX];
    match prng.below(8) {
        0 => prng.bits(),
        1 => prng.below(100_000),
        _ => {
            let edge = EDGES[prng.below(EDGES.len() as u64) as usize];
            let distance = [0, 1, 2, 511, 4095, 4096, 4097][prng.below(7) as usize];
            if prng.one_in(2) { edge.wrapping_add(distance) } else { edge.wrapping_sub(distance) }
        }
    }
}

/// Bytes of any kind.
fn garbage(prng: &mut Prng, length: u64) -> Vec<u8> {
    (0..length).map(|_| prng.bits() as u8).collect()
}

/// Proves that the watchdog sees a panic.
#[test]
#[should_panic(expected = "canary: sings")]
fn canary() {
    watched("canary", || panic!("sings"));
}
