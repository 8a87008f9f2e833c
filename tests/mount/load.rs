//! Sixty-four threads of mixed calls for minutes: memory stays flat, whoever waits longer than a second waits for something that has
//! a name, everyone comes back, every byte is right, and a reader beside them is not held up by stalled writers.
//!
//! Run by tests/external/load.sh, which says for how long (`KVFS_TEST_SECONDS`); otherwise there is nothing to do.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, mpsc};
use std::time::{Duration, Instant};

use kvfs::base::prng::Prng;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use serde_json::Value;

use crate::host::{Engine, Mount, able, both_engines};

const THREADS: u64 = 64;
/// Files of a thread, and bytes of the longest.
const FILES: u64 = 40;
const FILE_BYTES: u64 = 192 << 10;
/// A call that takes longer must say what it waited for.
const SLOW: Duration = Duration::from_secs(1);
/// How long the last call of a thread may take.
const LAST_CALL: Duration = Duration::from_secs(120);

/// The byte at a place of a file.
fn byte_at(thread: u64, file: u64, offset: u64) -> u8 {
    (((thread * 131 + file * 31 + offset / 512).wrapping_mul(0x9E37_79B9_7F4A_7C15)) >> 56) as u8 | 1
}

/// A call that took long.
struct Slow {
    call: &'static str,
    began: Instant,
    took: Duration,
}

/// What all share.
struct Run {
    mnt: PathBuf,
    over: AtomicBool,
    calls: AtomicU64,
    stalled: AtomicBool,
    slow: Mutex<Vec<Slow>>,
}

impl Run {
    fn timed<T>(&self, call: &'static str, work: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let value = work();
        let took = began.elapsed();
        self.calls.fetch_add(1, Relaxed);
        if took > SLOW {
            self.slow.lock().unwrap().push(Slow { call, began, took });
        }
        value
    }

    /// One step of a thread: a few calls on one of its files.
    fn step(&self, thread: u64, prng: &mut Prng) -> io::Result<()> {
        let folder = self.mnt.join(format!("thread{thread}"));
        let number = prng.below(FILES);
        let path = folder.join(format!("file{number}"));
        let offset = prng.below(FILE_BYTES / 512) * 512;
        match prng.below(20) {
            0..8 => {
                let open = || OpenOptions::new().write(true).create(true).truncate(false).open(&path);
                let file = self.timed("open", open)?;
                let length = (1 + prng.below(64 << 10)).min(FILE_BYTES - offset);
                let bytes: Vec<u8> =
                    (offset..offset + length).map(|at| byte_at(thread, number, at)).collect();
                self.timed("write", || file.write_all_at(&bytes, offset))?;
                if prng.one_in(12) {
                    self.timed("fsync", || file.sync_all())?;
                }
            }
            8..13 => {
                let Ok(file) = self.timed("open", || File::open(&path)) else { return Ok(()) };
                let mut bytes = vec![0; 64 << 10];
                let length = self.timed("read", || file.read_at(&mut bytes, offset))?;
                let right = |(at, byte): (u64, &u8)| *byte == 0 || *byte == byte_at(thread, number, at);
                let wrong = (offset..).zip(&bytes[..length]).find(|(at, byte)| !right((*at, byte)));
                assert!(wrong.is_none(), "{} has a wrong byte: {wrong:?}", path.display());
            }
            13 => {
                let listed = self.timed("readdir", || fs::read_dir(&folder).map(Iterator::count))?;
                assert!(listed <= FILES as usize + 8, "{listed} names in {}", folder.display());
            }
            14 => drop(self.timed("unlink", || fs::remove_file(&path))),
            15 => {
                let Ok(file) = OpenOptions::new().write(true).open(&path) else { return Ok(()) };
                self.timed("truncate", || file.set_len(offset))?;
            }
            16 => {
                // There and back: a name says whose bytes a file holds.
                let away = folder.join("away");
                if self.timed("rename", || fs::rename(&path, &away)).is_ok() {
                    self.timed("rename", || fs::rename(&away, &path))?;
                }
            }
            17 => {
                let inner = folder.join("directory");
                self.timed("mkdir", || fs::create_dir(&inner))?;
                self.timed("symlink", || std::os::unix::fs::symlink("nowhere", inner.join("link")))?;
                self.timed("unlink", || fs::remove_file(inner.join("link")))?;
                self.timed("rmdir", || fs::remove_dir(&inner))?;
            }
            18 => {
                let link = folder.join("second");
                if self.timed("link", || fs::hard_link(&path, &link)).is_ok() {
                    self.timed("unlink", || fs::remove_file(&link))?;
                }
            }
            _ => {
                let _ = self.timed("stat", || fs::symlink_metadata(&path));
                self.timed("statfs", || nix::sys::statvfs::statvfs(&self.mnt))?;
            }
        }
        Ok(())
    }

    /// Reads a file past the page cache until the end; how long each read took, and those while writers were stalled.
    fn reader(&self) -> io::Result<(Vec<Duration>, Vec<Duration>)> {
        let (mut all, mut stalled) = (Vec::new(), Vec::new());
        let mut prng = Prng::new(7);
        while !self.over.load(Relaxed) {
            let file = File::open(self.mnt.join(format!("known{}", prng.below(16))))?;
            posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?;
            let mut bytes = vec![0; 4096];
            let is_stalled = self.stalled.load(Relaxed);
            let began = Instant::now();
            self.timed("read", || file.read_exact_at(&mut bytes, prng.below(60) * 4096))?;
            let took = began.elapsed();
            assert!(bytes.iter().all(|byte| *byte == 5), "the reader's file has changed");
            all.push(took);
            if is_stalled {
                stalled.push(took);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok((all, stalled))
    }
}

/// What the engine and the machine say of a moment.
struct Moment {
    at: Instant,
    /// Waits so far by cause, and whether one is going on.
    waits: BTreeMap<String, (u64, u64)>,
    now: Option<String>,
    /// Microseconds in which every task waited for the disk, or some did.
    disk: u64,
}

fn moment(mount: &Mount) -> Moment {
    let json = mount.json();
    let causes = json["stalls"]["by_cause"].as_object().expect("stalls.by_cause");
    let number = |value: &Value, name: &str| value[name].as_u64().unwrap_or(0);
    let waits = causes.iter().map(|(name, cause)| {
        let times = number(cause, "slowdowns") + number(cause, "stops");
        (name.clone(), (times, number(cause, "waited_ns")))
    });
    let pressure = fs::read_to_string("/proc/pressure/io").unwrap_or_default();
    let total = |line: &str| line.rsplit("total=").next()?.trim().parse::<u64>().ok();
    Moment {
        at: Instant::now(),
        waits: waits.collect(),
        now: json["stalls"]["now"].as_str().map(str::to_string),
        disk: pressure.lines().find(|line| line.starts_with("some")).and_then(total).unwrap_or(0),
    }
}

/// What a slow call waited for, by the moments around it: an engine's stall, or the disk below for most of the time.
fn cause(slow: &Slow, moments: &[Moment]) -> Option<String> {
    let end = slow.began + slow.took;
    let first = moments.iter().rposition(|moment| moment.at <= slow.began).unwrap_or(0);
    let last = moments.iter().position(|moment| moment.at >= end).unwrap_or(moments.len() - 1);
    let (before, after) = (&moments[first], &moments[last]);
    if let Some(now) = moments[first..=last].iter().find_map(|moment| moment.now.clone()) {
        return Some(now);
    }
    if let Some((name, _)) = after.waits.iter().find(|(name, wait)| before.waits.get(*name) != Some(*wait)) {
        return Some(name.clone());
    }
    let waited = Duration::from_micros(after.disk.saturating_sub(before.disk));
    let span = after.at - before.at;
    (waited * 2 > span).then(|| {
        format!(
            "disk, {:.0} % of {:.1} s",
            waited.as_secs_f64() / span.as_secs_f64() * 100.0,
            span.as_secs_f64()
        )
    })
}

fn resident_bytes(mount: &Mount) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", mount.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn quantile(times: &mut [Duration], share: f64) -> Duration {
    times.sort_unstable();
    times.get((times.len() as f64 * share) as usize).or(times.last()).copied().unwrap_or_default()
}

fn mixed_load(engine: Engine) {
    let Ok(seconds) = std::env::var("KVFS_TEST_SECONDS") else { return };
    let seconds = Duration::from_secs(seconds.parse().expect("KVFS_TEST_SECONDS is a number"));
    assert!(able(&[]));
    // Small enough that flushes, merges, checkpoints and stalls are all the time.
    let options = match engine {
        Engine::Btree => "cache=48M,dirty_max=16M,checkpoint_log=16M,log_segment=4M",
        _ => "cache=48M,memtable=8M,table=4M,level_base=16M,log_segment=4M",
    };
    let mount = Mount::new(engine, options);
    let run = Run {
        mnt: mount.mnt(),
        over: AtomicBool::new(false),
        calls: AtomicU64::new(0),
        stalled: AtomicBool::new(false),
        slow: Mutex::default(),
    };
    (0..16).for_each(|file| fs::write(run.mnt.join(format!("known{file}")), vec![5; 256 << 10]).unwrap());
    (0..THREADS).for_each(|thread| fs::create_dir(run.mnt.join(format!("thread{thread}"))).unwrap());
    let mut moments = vec![moment(&mount)];
    let mut resident = Vec::new();
    let (ended, ends) = mpsc::channel();
    let (mut all, mut stalled) = std::thread::scope(|scope| {
        let run = &run;
        for thread in 0..THREADS {
            let ended = ended.clone();
            scope.spawn(move || {
                let mut prng = Prng::new(1000 + thread);
                let mut result = Ok(());
                while result.is_ok() && !run.over.load(Relaxed) {
                    let step = std::panic::AssertUnwindSafe(|| run.step(thread, &mut prng));
                    result = std::panic::catch_unwind(step)
                        .unwrap_or_else(|_| Err(io::Error::other("a wrong answer, see above")));
                }
                // Whoever fails ends the run.
                run.over.store(true, Relaxed);
                ended.send(result.map_err(|error| format!("thread {thread}: {error}"))).unwrap();
            });
        }
        let reader = scope.spawn(|| run.reader());
        let begun = Instant::now();
        let mut minute = Duration::from_secs(60).min(seconds / 10);
        while begun.elapsed() < seconds && !run.over.load(Relaxed) {
            std::thread::sleep(Duration::from_millis(200));
            let now = moment(&mount);
            run.stalled.store(now.now.is_some(), Relaxed);
            moments.push(now);
            if begun.elapsed() >= minute {
                minute += Duration::from_secs(60).min(seconds / 10);
                let bytes = resident_bytes(&mount);
                resident.push(bytes);
                println!(
                    "{:4.0} s: {} MiB resident, {} calls",
                    begun.elapsed().as_secs_f64(),
                    bytes >> 20,
                    run.calls.load(Relaxed)
                );
            }
        }
        run.over.store(true, Relaxed);
        let late = Instant::now() + LAST_CALL;
        let mut errors = Vec::new();
        for thread in 0..THREADS {
            match ends.recv_timeout(late.saturating_duration_since(Instant::now())) {
                Ok(result) => errors.extend(result.err()),
                Err(_) => {
                    // They would hold up this test for ever.
                    mount.kill();
                    panic!("{} threads do not come back: a wake-up was lost", THREADS - thread);
                }
            }
        }
        moments.push(moment(&mount));
        let times = reader.join().unwrap().unwrap();
        assert_eq!(errors, Vec::<String>::new());
        times
    });
    let slow = std::mem::take(&mut *run.slow.lock().unwrap());
    let mut named: BTreeMap<String, (usize, Duration)> = BTreeMap::new();
    let mut unnamed = Vec::new();
    for call in &slow {
        match cause(call, &moments) {
            Some(name) => {
                let name = name.split(',').next().unwrap_or_default().to_string();
                let entry = named.entry(name).or_default();
                *entry = (entry.0 + 1, entry.1.max(call.took));
            }
            None => unnamed.push(format!("{} took {:?}", call.call, call.took)),
        }
    }
    let calls = run.calls.load(Relaxed);
    println!("{calls} calls of {THREADS} threads, {} over {SLOW:?}; waits by cause: {named:?}", slow.len());
    println!(
        "reader: {} reads, p50 {:?}, p99 {:?}, longest {:?}; {} while writers were stalled, p99 {:?}",
        all.len(),
        quantile(&mut all, 0.5),
        quantile(&mut all, 0.99),
        quantile(&mut all, 1.0),
        stalled.len(),
        quantile(&mut stalled, 0.99),
    );
    let json = mount.json();
    for (name, op) in
        json["ops"].as_object().into_iter().flatten().filter(|(_, op)| op["max_ns"].as_u64() > Some(0))
    {
        let time = |name: &str| Duration::from_nanos(op[name].as_u64().unwrap_or(0));
        println!(
            "  {name:12} {:9} p50 {:9.1?} p99 {:9.1?} longest {:9.1?}",
            op["count"],
            time("p50_ns"),
            time("p99_ns"),
            time("max_ns")
        );
    }
    assert_eq!(unnamed, Vec::<String>::new(), "calls that waited for nothing that has a name");
    // Flat: after the first third nothing grows any more, but for noise.
    let settled = resident.get(resident.len() / 3).copied().unwrap_or(0);
    let last = resident.iter().rev().take(2).min().copied().unwrap_or(0);
    assert!(last < settled + settled / 4 + (32 << 20), "memory grows: {resident:?}");
    mount.stop_clean();
}

both_engines!(mixed_load);
