//! Readers, writers and background work on threads.

use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use super::*;
use crate::disk::{File, FileInfo, Space};

/// Lets the readers end, also when the writer fails.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn readers_never_see_a_key_go_back_while_everything_works() {
    use crate::base::clock::SystemClock;
    const KEYS: u64 = 40;
    let disk = SimDisk::new();
    let options = Options { l0_slowdown: 10, ..Options::tiny() };
    let engine = open(disk.clone(), Arc::new(SystemClock::new()), &options).unwrap();
    let worker = crate::engine::Worker::start(engine.clone()).unwrap();
    let stop = AtomicBool::new(false);
    let number = |value: &[u8]| u64::from_be_bytes(value[..8].try_into().unwrap());
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for seed in 0..2 {
            let (engine, stop) = (&engine, &stop);
            scope.spawn(move || {
                let (mut prng, mut newest) = (Prng::new(seed), [0; KEYS as usize]);
                while !stop.load(Relaxed) {
                    let index = prng.below(KEYS);
                    let found = engine.get(&index.to_be_bytes(), Tier::Disk).unwrap();
                    let seen = found.map_or(0, |value| number(&value));
                    assert!(
                        seen >= newest[index as usize],
                        "key {index}: {seen} after {}",
                        newest[index as usize]
                    );
                    newest[index as usize] = seen;
                    if newest.contains(&0) {
                        continue;
                    }
                    let mut at = 0;
                    let mut visit = |key: &[u8], value: &[u8]| {
                        let index = u64::from_be_bytes(key.try_into().unwrap()) as usize;
                        assert!(index == at && number(value) >= newest[index], "key {index} at {at}");
                        newest[index] = number(value);
                        at += 1;
                        ControlFlow::Continue(())
                    };
                    engine.scan(KeyRange::ALL, Tier::Disk, &mut visit).unwrap();
                    assert_eq!(at, KEYS as usize);
                }
            });
        }
        for round in 1..=3000u64 {
            let mut batch = Batch::new(0);
            batch.put((round % KEYS).to_be_bytes().to_vec(), [&round.to_be_bytes()[..], &[7; 90]].concat());
            while let Err(error) = engine.apply(&batch, Tier::Disk) {
                assert!(matches!(error, Error::Busy { .. }), "{error}");
                let seen = engine.wake_signal().seen(WorkClass::Room);
                engine.wake_signal().wait(WorkClass::Room, seen, Duration::from_millis(1));
            }
            if round % 1000 == 0 {
                run(&*engine, Command::Compact).unwrap();
                run(&*engine, Command::Verify).unwrap();
            }
        }
    });
    worker.stop();
    engine.close().unwrap();
    assert_eq!(contents(&*open_tiny(disk).unwrap()).unwrap().len(), KEYS as usize);
}

/// A disk on which nobody makes a table until two threads are about to.
struct Gate {
    disk: Arc<dyn Disk>,
    is_shut: AtomicBool,
    waiting: parking_lot::Mutex<u64>,
    opened: parking_lot::Condvar,
}

impl Disk for Gate {
    fn create(&self, name: &str) -> std::io::Result<Arc<dyn File>> {
        if self.is_shut.load(Relaxed) && TableNumber::of_file(name).is_some() {
            let mut waiting = self.waiting.lock();
            *waiting += 1;
            self.opened.notify_all();
            let alone = |waiting: &mut u64| *waiting < 2;
            let waited = self.opened.wait_while_for(&mut waiting, alone, Duration::from_secs(30));
            assert!(!waited.timed_out(), "one thread merges alone");
        }
        self.disk.create(name)
    }
    fn open(&self, name: &str) -> std::io::Result<Arc<dyn File>> {
        self.disk.open(name)
    }
    fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> std::io::Result<()> {
        self.disk.remove(name)
    }
    fn list(&self) -> std::io::Result<Vec<FileInfo>> {
        self.disk.list()
    }
    fn sync_names(&self) -> std::io::Result<()> {
        self.disk.sync_names()
    }
    fn space(&self) -> std::io::Result<Space> {
        self.disk.space()
    }
}

#[test]
fn two_threads_merge_two_subcompactions_of_one_job_at_once() {
    let gate = Arc::new(Gate {
        disk: SimDisk::new(),
        is_shut: AtomicBool::new(false),
        waiting: parking_lot::Mutex::new(0),
        opened: parking_lot::Condvar::new(),
    });
    let options = Options { slice_tables: 1, ..Options::tiny() };
    let engine = open_with(gate.clone(), &options).unwrap();
    engine.set("auto_compact", "off").unwrap();
    for number in 0..300u64 {
        let mut batch = Batch::new(0);
        batch.put((number * 7 % 300).to_be_bytes().to_vec(), vec![number as u8; 60]);
        apply_patiently(&*engine, &batch).unwrap();
    }
    run(&*engine, Command::Flush).unwrap();
    let before = contents(&*engine).unwrap();
    gate.is_shut.store(true, Relaxed);
    let worker = crate::engine::Worker::start(engine.clone()).unwrap();
    let (sender, receiver) = mpsc::channel();
    engine.run(Command::Compact, Box::new(move |result| sender.send(result).unwrap()));
    receiver.recv_timeout(Duration::from_secs(60)).unwrap().unwrap();
    worker.stop();
    assert!(*gate.waiting.lock() >= 2);
    assert_eq!(contents(&*engine).unwrap(), before);
    run(&*engine, Command::Verify).unwrap();
}

/// Keys of each writer.
const OWN_KEYS: u64 = 60;
const WRITERS: u64 = 2;

/// What writers of the checked run have begun and been told, by key: versions, of which some are deletes.
struct Checked {
    begun: Vec<AtomicU64>,
    told: Vec<AtomicU64>,
}

fn is_delete(version: u64) -> bool {
    version.is_multiple_of(4)
}

impl Checked {
    fn key(index: u64) -> Vec<u8> {
        format!("key{index:04}").into_bytes()
    }

    fn value(index: u64, version: u64) -> Vec<u8> {
        // Below and above the size from which values stay in the log.
        let mut value = version.to_be_bytes().to_vec();
        value.resize(8 + (index + version) as usize * 7 % 90, version as u8);
        value
    }

    fn told(&self) -> Vec<u64> {
        self.told.iter().map(|version| version.load(SeqCst)).collect()
    }

    /// Whether what was found of a key is one of the versions from what had been told before the read to what had begun after it.
    fn check(&self, index: u64, told: u64, found: Option<&[u8]>) {
        let begun = self.begun[index as usize].load(SeqCst);
        match found {
            Some(value) => {
                let version = u64::from_be_bytes(value[..8].try_into().unwrap());
                assert!(version >= told && version <= begun, "key {index}: {version} of {told}..={begun}");
                assert!(!is_delete(version) && value == Checked::value(index, version), "key {index}");
            }
            None => assert!((told..=begun).any(is_delete), "key {index} is gone at {told}..={begun}"),
        }
    }

    fn write(&self, engine: &LsmEngine, writer: u64, stop: &AtomicBool) {
        let mut prng = Prng::new(writer);
        while !stop.load(Relaxed) {
            let mut batch = Batch::new(0);
            let first = prng.below(OWN_KEYS);
            let count = 1 + prng.below(3);
            let own: Vec<u64> = (0..count).map(|step| (first + step) % OWN_KEYS * WRITERS + writer).collect();
            for index in &own {
                let version = self.begun[*index as usize].fetch_add(1, SeqCst) + 1;
                match is_delete(version) {
                    true => batch.delete(Checked::key(*index)),
                    false => batch.put(Checked::key(*index), Checked::value(*index, version)),
                }
            }
            while let Err(error) = engine.apply(&batch, Tier::Disk) {
                assert!(matches!(error, Error::Busy { .. }), "{error}");
                let seen = engine.wake_signal().seen(WorkClass::Room);
                engine.wake_signal().wait(WorkClass::Room, seen, Duration::from_millis(1));
                // Merges may rest for ever by now.
                if stop.load(Relaxed) {
                    return;
                }
            }
            for index in own {
                let begun = self.begun[index as usize].load(SeqCst);
                self.told[index as usize].store(begun, SeqCst);
            }
        }
    }

    fn get(&self, engine: &LsmEngine, stop: &AtomicBool) {
        let mut prng = Prng::new(17);
        while !stop.load(Relaxed) {
            let index = prng.below(OWN_KEYS * WRITERS);
            let told = self.told[index as usize].load(SeqCst);
            let found = engine.get(&Checked::key(index), Tier::Disk).unwrap();
            self.check(index, told, found.as_deref());
        }
    }

    fn scan(&self, engine: &LsmEngine, start: u64, end: u64) {
        let told = self.told();
        let (first, last) = (Checked::key(start), Checked::key(end));
        let mut at = start;
        let range = KeyRange { start: &first, end: Some(&last) };
        engine
            .scan(range, Tier::Disk, &mut |key, value| {
                let index: u64 = std::str::from_utf8(&key[3..]).unwrap().parse().unwrap();
                assert!(index >= at, "{index} at {at}");
                (at..index).for_each(|index| self.check(index, told[index as usize], None));
                self.check(index, told[index as usize], Some(value));
                at = index + 1;
                ControlFlow::Continue(())
            })
            .unwrap();
        (at..end).for_each(|index| self.check(index, told[index as usize], None));
    }
}

/// A command may be cut off when the store is closed.
fn is_whole(result: Result<()>) {
    assert!(!matches!(result, Err(Error::Corrupt { .. })), "{result:?}");
}

/// Writes below which nothing was tested, and how long they are waited for.
const WRITES_MIN: u64 = 100;
const PATIENCE: Duration = Duration::from_secs(60);

/// Readers, writers, scans, deletes and everything in the background for a while, under a checker; then closed and opened again.
fn run_checked(options: &Options, switches: bool, length: Duration) {
    use crate::base::clock::SystemClock;
    let disk = SimDisk::new();
    let engine = open(disk.clone(), Arc::new(SystemClock::new()), options).unwrap();
    let worker = crate::engine::Worker::start(engine.clone()).unwrap();
    let fresh = || (0..OWN_KEYS * WRITERS).map(|_| AtomicU64::new(0)).collect();
    let checked = Checked { begun: fresh(), told: fresh() };
    let stop = AtomicBool::new(false);
    let began = std::time::Instant::now();
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        let (engine, checked, stop) = (&engine, &checked, &stop);
        for writer in 0..WRITERS {
            scope.spawn(move || checked.write(engine, writer, stop));
        }
        scope.spawn(move || checked.get(engine, stop));
        scope.spawn(move || {
            let mut prng = Prng::new(23);
            while !stop.load(Relaxed) {
                let start = prng.below(OWN_KEYS * WRITERS);
                let end = start + prng.below(OWN_KEYS * WRITERS - start) + 1;
                checked.scan(engine, start, end);
            }
        });
        let mut prng = Prng::new(29);
        // On a machine that is busy with other things, until something was written.
        let writes = || checked.told().iter().sum::<u64>();
        while began.elapsed() < length || writes() <= WRITES_MIN && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(20));
            match prng.below(8) {
                0..3 if switches => {
                    let policy = any_policy(&mut prng);
                    engine.set("policy", policy.name()).unwrap();
                }
                3 => engine.run(Command::Compact, Box::new(is_whole)),
                4 => engine.run(Command::Verify, Box::new(is_whole)),
                5 => engine.set("paused", if prng.one_in(2) { "on" } else { "off" }).unwrap(),
                6 => engine.run(Command::DropCaches, Box::new(|result| result.unwrap())),
                _ => engine.set("paused", "off").unwrap(),
            }
        }
        engine.set("paused", "off").unwrap();
    });
    let writes: u64 = checked.told().iter().sum();
    checked.scan(&engine, 0, OWN_KEYS * WRITERS);
    worker.stop();
    run(&*engine, Command::Verify).unwrap();
    engine.close().unwrap();
    drop(engine);
    let engine = open_with(disk, options).unwrap();
    checked.scan(&engine, 0, OWN_KEYS * WRITERS);
    assert!(writes > WRITES_MIN, "{writes} writes");
}

fn run_all_checked(length: Duration) {
    let tiny = Options { policies: merging_early(false), slice_tables: 1, ..Options::tiny() };
    for policy in PolicyKind::ALL {
        for value_log in [false, true] {
            run_checked(&Options { policy, value_log, ..tiny.clone() }, false, length / 12);
        }
    }
    for value_log in [false, true] {
        run_checked(&Options { value_log, ..tiny.clone() }, true, length / 12);
    }
}

#[test]
fn threads_that_read_write_scan_and_delete_agree_with_a_checker() {
    run_all_checked(Duration::from_secs(3));
}

#[test]
#[ignore = "long: a minute"]
fn threads_agree_with_a_checker_for_a_minute() {
    run_all_checked(Duration::from_secs(60));
}
