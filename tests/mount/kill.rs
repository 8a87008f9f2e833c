//! `kill -9` of the daemon under writers: whatever a call acknowledged is there after the next mount.
//!
//! 1. Writers do durable steps (write and fsync; write, fsync, rename and fsync of the directory; appends with O_SYNC;
//!    unlink and fsync of the directory) and record each one only after its last call has returned. On a mount without
//!    the kernel's writeback cache a plain write is recorded too: what reached the daemon's log file survives the daemon.
//! 2. The daemon is killed at a random moment. The dead mount stays; `kvfs check` is clean; the next mount detaches it.
//! 3. Every record is compared. A file that was in the making may be there or not, but after its rename it is whole.
//!
//! What the engine promises (`promise` in the report) decides what is recorded: where a batch does not survive the end of the process, only what
//! a sync acknowledged.
//!
//! A round in which nothing was recorded fails, and so does a run without a step of some kind. `KVFS_TEST_ROUNDS` sets how many
//! rounds there are (`tests/external/kill.sh`).
//!
//! With `KVFS_TEST_POWER=FOLDER`, where an XFS is mounted from the file FOLDER.img, the store lies there and power goes
//! instead: some pages of the store's files are written back in no order, the XFS is shut down without a flush of its log, the daemon is
//! killed, and the XFS is mounted anew (`tests/external/power.sh`). Then only durable steps are recorded.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kvfs::base::prng::Prng;

use crate::host::{self, Engine, Mount, able, every_engine, long};

/// What must be at a name.
#[derive(Clone, Copy, Debug)]
enum Record {
    /// A file of this many bytes of its pattern.
    Whole(u64, usize),
    /// The same, or nothing: the step was not acknowledged.
    WholeOrAbsent(u64, usize),
    /// No file.
    Absent,
    /// Anything: a step without protection was on its way.
    Unknown,
}

/// Bytes that depend on their position and the seed alone.
fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut prng = Prng::new(seed);
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| prng.bits().to_le_bytes()).collect();
    bytes.truncate(length);
    bytes
}

/// A writer with a directory of its own, and all that it was promised.
struct Writer {
    directory: PathBuf,
    prng: Prng,
    next: u64,
    records: BTreeMap<String, Record>,
    /// Seed of the log's pattern, bytes acknowledged.
    log: (u64, usize),
    /// Acknowledged steps of this round, by kind.
    steps: [u64; 5],
    /// The power is going, so nothing is acknowledged any more: see [`Writer::told`].
    cut: Arc<AtomicBool>,
}

impl Writer {
    fn new(mnt: &Path, seed: u64, cut: &Arc<AtomicBool>) -> Writer {
        Writer {
            directory: mnt.join(format!("writer-{seed}")),
            prng: Prng::new(seed),
            next: 0,
            records: BTreeMap::new(),
            log: (seed ^ 0x1065, 0),
            steps: [0; 5],
            cut: cut.clone(),
        }
    }

    /// The last call of a step has returned. A machine without power tells nobody anything, but this one runs on: an fsync
    /// of the filesystem below that meets its shutdown can return 0 for what its log has just thrown away. So only a step that
    /// ended before the cut began is a promise.
    fn told(&self) -> io::Result<()> {
        match self.cut.load(Ordering::SeqCst) {
            true => Err(io::Error::other("the power is gone")),
            false => Ok(()),
        }
    }

    /// Steps until a call fails: the error.
    fn run(&mut self, plain: bool) -> io::Error {
        self.steps = [0; 5];
        loop {
            if let Err(error) = self.step(plain) {
                return error;
            }
        }
    }

    fn step(&mut self, plain: bool) -> io::Result<()> {
        let seed = self.prng.bits();
        let length = self.prng.below(if self.prng.clone().one_in(8) { 300_000 } else { 9_000 }) as usize;
        let name = format!("file-{}", self.next);
        let path = self.directory.join(&name);
        self.next += 1;
        let kind = self.prng.below(if plain { 5 } else { 4 }) as usize;
        match kind {
            0 => {
                let temporary = self.directory.join("temporary");
                let mut file = File::create(&temporary)?;
                file.write_all(&pattern(seed, length))?;
                file.sync_all()?;
                self.records.insert(name.clone(), Record::WholeOrAbsent(seed, length));
                fs::rename(&temporary, &path)?;
                File::open(&self.directory)?.sync_all()?;
                self.told()?;
                self.records.insert(name, Record::Whole(seed, length));
            }
            1 => {
                self.records.insert(name.clone(), Record::Unknown);
                let mut file = File::create(&path)?;
                file.write_all(&pattern(seed, length))?;
                file.sync_data()?;
                File::open(&self.directory)?.sync_all()?;
                self.told()?;
                self.records.insert(name, Record::Whole(seed, length));
            }
            2 => {
                let (seed, before) = self.log;
                let after = before + 1 + length % 6_000;
                let mut file = File::options()
                    .create(true)
                    .append(true)
                    .custom_flags(libc::O_SYNC)
                    .open(self.directory.join("log"))?;
                // What an unacknowledged append left behind is part of the pattern too.
                let end = file.metadata()?.len() as usize;
                file.write_all(&pattern(seed, after.max(end + 1))[end..])?;
                self.told()?;
                self.log.1 = after.max(end + 1);
            }
            3 => {
                let Some(victim) = self.whole() else { return Ok(()) };
                self.records.insert(victim.clone(), Record::Unknown);
                fs::remove_file(self.directory.join(&victim))?;
                File::open(&self.directory)?.sync_all()?;
                self.told()?;
                self.records.insert(victim, Record::Absent);
            }
            _ => {
                self.records.insert(name.clone(), Record::Unknown);
                fs::write(&path, pattern(seed, length))?;
                self.records.insert(name, Record::Whole(seed, length));
            }
        }
        self.steps[kind] += 1;
        Ok(())
    }

    /// A recorded file, by chance; none while there are few.
    fn whole(&mut self) -> Option<String> {
        let whole: Vec<&String> = self
            .records
            .iter()
            .filter(|(_, r)| matches!(r, Record::Whole(..)))
            .map(|(name, _)| name)
            .collect();
        (whole.len() > 10).then(|| whole[self.prng.below(whole.len() as u64) as usize].clone())
    }

    /// Compares everything with what was promised; then a file in the making is no longer unknown.
    fn verify(&mut self) {
        for (name, record) in &mut self.records {
            let found = match fs::read(self.directory.join(name)) {
                Ok(bytes) => Some(bytes),
                Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                Err(error) => panic!("{name}, {record:?}: {error}"),
            };
            let matches = |seed, length| found.as_deref().is_some_and(|bytes| bytes == pattern(seed, length));
            let right = match *record {
                Record::Whole(seed, length) => matches(seed, length),
                Record::WholeOrAbsent(seed, length) => found.is_none() || matches(seed, length),
                Record::Absent => found.is_none(),
                Record::Unknown => true,
            };
            assert!(
                right,
                "{:?}/{name}: promised {record:?}, found {:?} bytes",
                self.directory,
                found.map(|bytes| bytes.len())
            );
            // From here on it may not change any more.
            *record = match (*record, found) {
                (Record::WholeOrAbsent(seed, length), Some(_)) => Record::Whole(seed, length),
                (Record::WholeOrAbsent(..), None) => Record::Absent,
                (record, _) => record,
            };
        }
        let log = fs::read(self.directory.join("log")).unwrap_or_default();
        let (seed, acknowledged) = self.log;
        assert!(log.len() >= acknowledged, "log: {} bytes of {acknowledged} acknowledged", log.len());
        assert!(log == pattern(seed, log.len()), "log: the bytes are not what was appended");
    }
}

/// Small limits bring flushes, merges and checkpoints into the few hundred milliseconds before the end.
fn small(engine: Engine) -> &'static str {
    match engine {
        Engine::Btree => "dirty_max=2M,checkpoint_log=2M,log_segment=1M",
        Engine::Other(_) => "memory=8M",
        _ => "memtable=512K,table=512K,level_base=2M,l0_trigger=2,log_segment=1M",
    }
}

fn kill_under_writers(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::place(engine, "");
    let small = small(engine);
    let mut moment = Prng::new(0x0DD);
    let never = Arc::default();
    let mut writers: Vec<Writer> = (1..=2).map(|seed| Writer::new(&mount.mnt(), seed, &never)).collect();
    // Acknowledged, by kind. A busy machine may get through few of them in one round, so they are asked for in all together.
    let mut steps = [0u64; 5];
    let mut idle_rounds = 0;
    let mut survives_kill = true;
    for round in 0..rounds() {
        let is_passed_on = round % 2 == 1;
        let options = format!("{small},writeback_cache={}", if is_passed_on { "off" } else { "on" });
        let output = mount.try_start(if round == 0 { "" } else { &options });
        assert!(output.status.success(), "round {round}: mount after a kill: {output:?}");
        // Whoever does not promise that what it accepted survives its process is held to what a sync acknowledged.
        survives_kill = mount.promises("survives_kill");
        let plain = is_passed_on && survives_kill;
        for writer in &mut writers {
            if round == 0 {
                fs::create_dir(&writer.directory).unwrap();
                File::open(mount.mnt()).unwrap().sync_all().unwrap();
            }
            writer.verify();
        }
        let errors: Vec<io::Error> = std::thread::scope(|scope| {
            let running: Vec<_> =
                writers.iter_mut().map(|writer| scope.spawn(move || writer.run(plain))).collect();
            std::thread::sleep(Duration::from_millis(200 + moment.below(600)));
            mount.kill();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        for error in errors {
            // Cut off in the middle, or refused afterwards; anything else came from a living daemon.
            let errno = error.raw_os_error();
            let expected = [Some(libc::ECONNABORTED), Some(libc::ENOTCONN)];
            assert!(expected.contains(&errno), "round {round}: a writer failed before the kill: {error}");
        }
        let before: u64 = steps.iter().sum();
        for (kind, sum) in steps.iter_mut().enumerate() {
            *sum += writers.iter().map(|writer| writer.steps[kind]).sum::<u64>();
        }
        idle_rounds += u32::from(steps.iter().sum::<u64>() == before);
        assert_eq!(mount.check(), 0, "round {round}: kvfs check of a killed store");
    }
    assert!(4 * idle_rounds <= rounds(), "{idle_rounds} rounds without an acknowledged step test nothing");
    let asked = &steps[..if survives_kill { 5 } else { 4 }];
    assert!(!asked.contains(&0), "steps of a kind that was never acknowledged are not tested: {steps:?}");
    mount.start();
    writers.iter_mut().for_each(Writer::verify);
    mount.stop_clean();
}

fn rounds() -> u32 {
    host::rounds().unwrap_or(if long() { 40 } else { 6 })
}

/// A filesystem that forgets what was not made durable.
struct PowerSupply {
    folder: PathBuf,
}

impl PowerSupply {
    /// The one that tests/external/power.sh has made.
    fn given() -> Option<PowerSupply> {
        Some(PowerSupply { folder: std::env::var_os("KVFS_TEST_POWER")?.into() })
    }

    fn run(program: &str, words: &[&std::ffi::OsStr]) {
        let status = std::process::Command::new(program).args(words).status().unwrap();
        assert!(status.success(), "{program} {words:?}: {status}");
    }

    /// Nothing that the disk has not yet reaches it any more.
    fn cut(&self) {
        PowerSupply::run(
            "xfs_io",
            &["-x".as_ref(), "-c".as_ref(), "shutdown".as_ref(), self.folder.as_ref()],
        );
    }

    /// The disk as it is after the machine starts.
    fn restore(&self) {
        // What the killed daemon had open may take the kernel a moment.
        let gone = || {
            let mut umount = std::process::Command::new("umount");
            umount.arg(&self.folder).stderr(std::process::Stdio::null()).status().unwrap().success()
        };
        assert!(host::until(Duration::from_secs(30), gone), "{:?} stays in use", self.folder);
        let image = self.folder.with_extension("img");
        // In a mount namespace of somebody else it may live on for a moment, and would be mounted again as it is: without power.
        let is_detached = || {
            let output = std::process::Command::new("losetup").arg("-j").arg(&image).output().unwrap();
            output.status.success() && output.stdout.is_empty()
        };
        assert!(host::until(Duration::from_secs(30), is_detached), "{image:?} stays attached");
        PowerSupply::run("mount", &["-o".as_ref(), "loop".as_ref(), image.as_ref(), self.folder.as_ref()]);
    }
}

/// Some ranges of each file of a store reach the disk, in no order, as they may at any moment in which the kernel wants memory back. A
/// range often is the first one, where files have what says how to read the rest.
fn write_back(folder: &Path, chance: &mut Prng) {
    use std::os::fd::AsRawFd;
    const ALL: libc::c_uint =
        libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // Whatever the daemon has removed meanwhile is passed over.
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            write_back(&entry.path(), chance);
        } else if let Ok(file) = File::open(entry.path()) {
            let pages = file.metadata().unwrap().len() / 4096 + 1;
            for _ in 0..3 {
                let first = if chance.one_in(2) { 0 } else { chance.below(pages) };
                let count = 1 + chance.below(16);
                // SAFETY: the call takes no memory of ours.
                let result = unsafe {
                    libc::sync_file_range(file.as_raw_fd(), (first * 4096) as i64, (count * 4096) as i64, ALL)
                };
                assert_eq!(result, 0, "{:?}: {}", entry.path(), io::Error::last_os_error());
            }
        }
    }
}

/// A store that mkfs or a first mount has reported as done, cut at once: it is there, and clean.
fn power_loss_of_a_new_store(engine: Engine) {
    let Some(supply) = PowerSupply::given() else { return };
    assert!(able(&["xfs_io"]));
    for round in 0..8 {
        let mount = Mount::place(engine, "sync=always");
        // Its parents are made with it, or were made by others who synced nothing.
        let store = supply.folder.join(format!("{}-{round}/a/store", engine.name()));
        if round % 4 < 2 {
            fs::create_dir_all(&store).unwrap();
        }
        let is_mounted = round % 2 == 1;
        let options = mount.options();
        let mnt = mount.mnt();
        let words: Vec<&std::ffi::OsStr> = match is_mounted {
            true => vec!["mount".as_ref(), store.as_ref(), mnt.as_ref(), "-o".as_ref(), options.as_ref()],
            false => vec!["mkfs".as_ref(), store.as_ref(), "-o".as_ref(), options.as_ref()],
        };
        let output = mount.kvfs(&words);
        assert!(output.status.success(), "{output:?}");
        if is_mounted {
            mount.note_pid();
        }
        supply.cut();
        if is_mounted {
            mount.kill();
            mount.sh(r#""$KVFS" umount "$MNT""#);
        }
        supply.restore();
        let output = mount.kvfs(&["check".as_ref(), store.as_os_str()]);
        assert_eq!(output.status.code(), Some(0), "round {round}: {output:?}");
    }
}

fn power_loss_under_writers(engine: Engine) {
    let Some(supply) = PowerSupply::given() else { return };
    assert!(able(&["xfs_io"]));
    let mount = Mount::place(engine, "");
    // The store's directory is one below the XFS.
    let store = supply.folder.join(engine.name());
    std::os::unix::fs::symlink(&store, mount.store()).unwrap();
    fs::create_dir(&store).unwrap();
    let small = small(engine);
    let mut moment = Prng::new(0xB0B);
    let cut = Arc::new(AtomicBool::new(false));
    let mut writers: Vec<Writer> = (1..=2).map(|seed| Writer::new(&mount.mnt(), seed, &cut)).collect();
    let mut sync = "";
    for round in 0..rounds() {
        let caching = if round % 2 == 1 { "off" } else { "on" };
        let start = |sync: &str| {
            let output = mount.try_start(&format!("{small},writeback_cache={caching}{sync}"));
            assert!(output.status.success(), "round {round}: mount after a power failure: {output:?}");
        };
        start(sync);
        // Whoever promises nothing of a power cut as it was opened does so where each batch is synced.
        if !mount.promises("prefix") {
            assert!(sync.is_empty(), "{engine:?} promises nothing of a power cut");
            sync = ",sync=always";
            mount.stop();
            start(sync);
        }
        for writer in &mut writers {
            if round == 0 {
                fs::create_dir(&writer.directory).unwrap();
                File::open(mount.mnt()).unwrap().sync_all().unwrap();
            }
            writer.verify();
        }
        std::thread::scope(|scope| {
            let running: Vec<_> =
                writers.iter_mut().map(|writer| scope.spawn(|| writer.run(false))).collect();
            std::thread::sleep(Duration::from_millis(200 + moment.below(800)));
            write_back(&store, &mut moment);
            cut.store(true, Ordering::SeqCst);
            supply.cut();
            // Writers see errors from the daemon, or wait for it.
            std::thread::sleep(Duration::from_millis(20));
            mount.kill();
            running.into_iter().for_each(|thread| drop(thread.join().unwrap()));
        });
        let steps: u64 = writers.iter().map(|writer| writer.steps.iter().sum::<u64>()).sum();
        assert!(steps > 0, "round {round}: no step was acknowledged, so nothing is tested");
        supply.restore();
        cut.store(false, Ordering::SeqCst);
        assert_eq!(mount.check(), 0, "round {round}: kvfs check after a power failure");
    }
    mount.start();
    writers.iter_mut().for_each(Writer::verify);
    mount.stop_clean();
}

every_engine!(kill_under_writers, power_loss_of_a_new_store, power_loss_under_writers);
