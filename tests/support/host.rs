//! Real mounts through the built binary, as a user would make them, and the programs that run on them.
//!
//! A [`Mount`] owns a directory on a disk filesystem with `store/` (the engine's files), `mnt/` (the mountpoint) and
//! `commands.log`. Whatever happens in a test, dropping it leaves nothing mounted and no daemon running:
//! 1. `kvfs umount`, and if that does not help `fusermount3 -uz` of this one path;
//! 2. the daemon, known by the pid that its own report names, is given ten seconds and then killed;
//! 3. on a failure the log is printed, and kept with the report in `$KVFS_TEST_ARTIFACTS` if that is set.
//!
//! A hung filesystem must not hang the tests: after [`PATIENCE`] a watchdog kills the daemon, and every call that was
//! stuck in the mount fails.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use nix::unistd::Pid;
use serde_json::Value;

/// How long a test may take before the watchdog ends its daemon.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// What scripts say instead of `!`.
const FAILS: &str = r#"fails() { if "$@" > /dev/null 2>&1; then echo "did not fail: $*"; return 1; fi; }"#;

/// The engine that a test runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Lsm,
    Btree,
    Mem,
    /// One of others, which the binary under test has built in.
    Other(&'static str),
    /// None: a directory passed through by `kvfs witness`.
    Witness,
}

impl Engine {
    /// As in `-o engine=`.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Lsm => "lsm",
            Engine::Btree => "btree",
            Engine::Mem => "mem",
            Engine::Other(name) => name,
            Engine::Witness => "witness",
        }
    }

    /// The one of others that `KVFS_TEST_ENGINE` names.
    pub fn other() -> Engine {
        let name = std::env::var("KVFS_TEST_ENGINE").expect("KVFS_TEST_ENGINE names an engine of $KVFS_BIN");
        Engine::Other(name.leak())
    }
}

/// A test for each engine of ours that keeps data: `both_engines!(name)` makes `name::lsm` and `name::btree` of `fn name(Engine)`.
macro_rules! both_engines {
    ($($test:ident),+ $(,)?) => {
        $(mod $test {
            #[test]
            fn lsm() {
                super::$test(crate::host::Engine::Lsm);
            }
            #[test]
            fn btree() {
                super::$test(crate::host::Engine::Btree);
            }
        })+
    };
}
pub(crate) use both_engines;

/// The same for what is asked of every engine, whoever wrote it: `name::other`, too, which runs on the one that `KVFS_TEST_ENGINE` names.
macro_rules! every_engine {
    ($($test:ident),+ $(,)?) => {
        $(mod $test {
            #[test]
            fn lsm() {
                super::$test(crate::host::Engine::Lsm);
            }
            #[test]
            fn btree() {
                super::$test(crate::host::Engine::Btree);
            }
            #[test]
            #[ignore = "runs where KVFS_TEST_ENGINE names an engine of others"]
            fn other() {
                super::$test(crate::host::Engine::other());
            }
        })+
    };
}
pub(crate) use every_engine;

/// The same, and `name::witness` for a directory that is passed through.
macro_rules! everywhere {
    ($($test:ident),+ $(,)?) => {
        $(mod $test {
            #[test]
            fn lsm() {
                super::$test(crate::host::Engine::Lsm);
            }
            #[test]
            fn btree() {
                super::$test(crate::host::Engine::Btree);
            }
            #[test]
            #[ignore = "runs where KVFS_TEST_ENGINE names an engine of others"]
            fn other() {
                super::$test(crate::host::Engine::other());
            }
            #[test]
            fn witness() {
                super::$test(crate::host::Engine::Witness);
            }
        })+
    };
}
pub(crate) use everywhere;

/// For what only engines of others have: `name::other`.
macro_rules! other_engine {
    ($($test:ident),+ $(,)?) => {
        $(mod $test {
            #[test]
            #[ignore = "runs where KVFS_TEST_ENGINE names an engine of others"]
            fn other() {
                super::$test(crate::host::Engine::other());
            }
        })+
    };
}
pub(crate) use other_engine;

/// True if `--long` asked for more rounds.
pub fn long() -> bool {
    std::env::var_os("KVFS_TEST_LONG").is_some()
}

/// Rounds that `KVFS_TEST_ROUNDS` asks for, of tests that go in rounds.
pub fn rounds() -> Option<u32> {
    Some(std::env::var("KVFS_TEST_ROUNDS").ok()?.parse().expect("KVFS_TEST_ROUNDS is a number"))
}

/// The binary under test: `$KVFS_BIN` (tests/run.sh sets the release build), else the one that cargo built with the test.
pub fn binary() -> PathBuf {
    let given = std::env::var_os("KVFS_BIN");
    // Scripts run elsewhere.
    given.map_or_else(|| env!("CARGO_BIN_EXE_kvfs").into(), |path| std::path::absolute(path).unwrap())
}

/// True if this machine can mount and has `programs`. If not, the test passes with a note, but fails with `CI=true`.
pub fn able(programs: &[&str]) -> bool {
    let found = |program: &&str| {
        std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(program).is_file()))
    };
    let mut missing: Vec<&str> =
        ["fusermount3", "timeout"].iter().chain(programs).filter(|p| !found(p)).copied().collect();
    if File::options().read(true).write(true).open("/dev/fuse").is_err() {
        missing.push("/dev/fuse");
    }
    if missing.is_empty() {
        return true;
    }
    let ci = std::env::var("CI").is_ok_and(|value| value == "true" || value == "1");
    assert!(!ci, "CI=true and this machine lacks {missing:?}");
    // Straight to the terminal: the harness keeps what a passing test prints to itself.
    let _ =
        writeln!(std::io::stderr(), "note: a mount test did not run, because this machine lacks {missing:?}");
    false
}

/// True if the caller is root.
pub fn root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A new directory on a disk filesystem: metered bytes mean nothing on a tmpfs.
fn scratch() -> tempfile::TempDir {
    let on_disk = |path: &&Path| statfs(*path).is_ok_and(|fs| fs.filesystem_type() != TMPFS_MAGIC);
    let base = [Path::new(env!("CARGO_TARGET_TMPDIR")), Path::new("/var/tmp")].into_iter().find(on_disk);
    tempfile::Builder::new()
        .prefix("mount-")
        .tempdir_in(base.expect("target/tmp or /var/tmp is on a disk filesystem"))
        .unwrap()
}

/// A store of its own, mounted or not.
pub struct Mount {
    engine: Engine,
    options: String,
    /// The daemon of the mount; 0 while there is none.
    pid: Arc<AtomicI32>,
    /// Set when the test is over, so that the watchdog leaves.
    over: Arc<(Mutex<bool>, Condvar)>,
    directory: tempfile::TempDir,
}

impl Mount {
    /// A place for a store; nothing is made yet. `options` are for every mount, as in `-o`, and may be empty.
    pub fn place(engine: Engine, options: &str) -> Mount {
        let directory = scratch();
        fs::create_dir(directory.path().join("mnt")).unwrap();
        fs::create_dir(directory.path().join("host")).unwrap();
        if engine == Engine::Witness {
            fs::create_dir(directory.path().join("store")).unwrap();
        }
        let mount = Mount {
            engine,
            options: options.to_string(),
            pid: Arc::default(),
            over: Arc::default(),
            directory,
        };
        mount.watch();
        mount
    }

    /// A new store, mounted.
    pub fn new(engine: Engine, options: &str) -> Mount {
        let mount = Mount::place(engine, options);
        mount.start();
        mount
    }

    /// Where files of the test may lie that are not on the mount.
    pub fn host(&self) -> PathBuf {
        self.directory.path().join("host")
    }

    /// The mountpoint.
    pub fn mnt(&self) -> PathBuf {
        self.directory.path().join("mnt")
    }

    /// The store's directory.
    pub fn store(&self) -> PathBuf {
        self.directory.path().join("store")
    }

    fn log(&self) -> PathBuf {
        self.directory.path().join("commands.log")
    }

    /// All of `-o` for this mount.
    pub fn options(&self) -> String {
        if self.engine == Engine::Witness {
            return self.options.clone();
        }
        // What all mounts of an engine of others are to have, unless the test says otherwise.
        let all = std::env::var("KVFS_TEST_OPTIONS").ok().filter(|_| matches!(self.engine, Engine::Other(_)));
        let engine = format!("engine={}", self.engine.name());
        let given = [Some(engine), all, Some(self.options.clone())].into_iter().flatten();
        given.filter(|options| !options.is_empty()).collect::<Vec<_>>().join(",")
    }

    /// `kvfs ARGS…`, its standard error also in the log. Never waits for a daemon that keeps the pipes open.
    pub fn kvfs<S: AsRef<std::ffi::OsStr>>(&self, args: &[S]) -> Output {
        let name = |stream| self.directory.path().join(format!("{stream}-{:?}", std::thread::current().id()));
        let (out, err) = (name("out"), name("err"));
        let status = Command::new(binary())
            .args(args)
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into()))
            .stdin(Stdio::null())
            .stdout(File::create(&out).unwrap())
            .stderr(File::create(&err).unwrap())
            .status()
            .unwrap();
        let output = Output { status, stdout: fs::read(out).unwrap(), stderr: fs::read(err).unwrap() };
        let mut log = File::options().create(true).append(true).open(self.log()).unwrap();
        let words: Vec<_> = args.iter().map(|arg| arg.as_ref().to_string_lossy()).collect();
        writeln!(log, "$ kvfs {}\n{}", words.join(" "), String::from_utf8_lossy(&output.stderr)).unwrap();
        output
    }

    /// `kvfs mount` with the store's options and `more`.
    pub fn try_start(&self, more: &str) -> Output {
        let comma = if more.is_empty() { "" } else { "," };
        let options = format!("{}{comma}{more}", self.options());
        let verb = if self.engine == Engine::Witness { "witness" } else { "mount" };
        let output = self.kvfs(&[
            verb.as_ref(),
            self.store().as_os_str(),
            self.mnt().as_os_str(),
            "-o".as_ref(),
            options.as_ref(),
        ]);
        if output.status.success() {
            self.note_pid();
        }
        output
    }

    /// Mounts; the mount answers when this returns.
    pub fn start(&self) {
        let output = self.try_start("");
        assert!(output.status.success(), "kvfs mount: {output:?}");
        assert!(self.mounted(), "kvfs mount returned 0 and nothing is mounted");
    }

    /// Learns the daemon's pid from its own report.
    pub fn note_pid(&self) {
        let pid = self.json()["process"]["pid"].as_i64().expect("process.pid is a number");
        self.pid.store(i32::try_from(pid).unwrap(), Ordering::Release);
    }

    /// The daemon's pid.
    pub fn pid(&self) -> i32 {
        self.pid.load(Ordering::Acquire)
    }

    /// `kvfs umount`; afterwards the daemon is gone. A process that another test has just forked holds our descriptors until it executes its
    /// program, so a mount that is in use gets a moment.
    pub fn stop(&self) {
        let started = Instant::now();
        let output = loop {
            let output = self.kvfs(&["umount".as_ref(), self.mnt().as_os_str()]);
            let is_in_use = String::from_utf8_lossy(&output.stderr).contains("is in use");
            if !is_in_use || started.elapsed() > Duration::from_secs(5) {
                break output;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        assert!(output.status.success(), "kvfs umount: {output:?}");
        assert!(!self.mounted(), "kvfs umount returned 0 and the mount is still there");
        self.wait_gone(Duration::from_secs(30));
    }

    /// Waits for the daemon's end.
    pub fn wait_gone(&self, patience: Duration) {
        let pid = self.pid();
        assert!(until(patience, || !alive(pid)), "daemon {pid} still runs after {patience:?}");
        self.pid.store(0, Ordering::Release);
    }

    /// Unmounts and mounts again.
    pub fn restart(&self) {
        self.stop();
        self.start();
    }

    /// `kill -9` of the daemon; the dead mount stays.
    pub fn kill(&self) {
        kill(Pid::from_raw(self.pid()), Signal::SIGKILL).unwrap();
        self.wait_gone(Duration::from_secs(30));
    }

    /// `kvfs check` of the store: its exit code. A directory that is passed through is none.
    pub fn check(&self) -> i32 {
        if self.engine == Engine::Witness {
            return 0;
        }
        let output = self.kvfs(&["check".as_ref(), self.store().as_os_str()]);
        let code = output.status.code().unwrap_or(-1);
        if code != 0 {
            println!(
                "kvfs check: {code}\n{}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        code
    }

    /// Unmounts and wants the check to be clean.
    pub fn stop_clean(&self) {
        self.stop();
        assert_eq!(self.check(), 0, "kvfs check after a clean unmount");
    }

    /// Sends a command.
    pub fn ctl(&self, words: &[&str]) {
        let mnt = self.mnt();
        let output = self.kvfs(
            &["ctl", mnt.to_str().unwrap()].into_iter().chain(words.iter().copied()).collect::<Vec<_>>(),
        );
        assert!(output.status.success(), "kvfs ctl {words:?}: {output:?}");
    }

    /// The machine-readable report.
    pub fn json(&self) -> Value {
        let text = fs::read_to_string(self.mnt().join(".stats.d/json")).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in {text}"))
    }

    /// Whether the engine of this mount makes a promise, by its name in [`kvfs::engine::Promise`]: as it says itself in the report.
    pub fn promises(&self, name: &str) -> bool {
        let report = self.json();
        let promise = &report["promise"];
        promise[name].as_bool().unwrap_or_else(|| panic!("promise.{name} in {promise}"))
    }

    /// Runs a shell script with `set -eu`, and wants exit code 0. `fails COMMAND…` wants a failure. (Not `!` and not
    /// `a && b`: the shell goes on after either.) It sees `$MNT`, `$HOST` (a directory elsewhere),
    /// `$STORE` and `$KVFS`, and runs in `$HOST`. Returns its standard output.
    pub fn sh(&self, script: &str) -> String {
        let output = Command::new("timeout")
            .args(["240", "sh", "-euc", &format!("{FAILS}\n{script}")])
            .current_dir(self.host())
            .env("MNT", self.mnt())
            .env("HOST", self.host())
            .env("STORE", self.store())
            .env("KVFS", binary())
            .env("HOME", self.host())
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{} of\n{script}\n--- output\n{text}--- errors\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    /// True if something is mounted at the mountpoint, dead or alive.
    pub fn mounted(&self) -> bool {
        is_mounted(&self.mnt())
    }

    /// The directory of an engine of others in the store, over which a witness may be mounted.
    pub fn engine_directory(&self) -> PathBuf {
        self.store().join("engine")
    }

    /// Bytes on the disk that the store's files occupy.
    pub fn store_bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let entries = fs::read_dir(self.store()).unwrap();
        // A file may go between the listing and the look at it.
        entries.filter_map(|entry| entry.ok()?.metadata().ok()).map(|file| file.blocks() * 512).sum()
    }

    fn watch(&self) {
        let (pid, over) = (self.pid.clone(), self.over.clone());
        std::thread::spawn(move || {
            let (flag, wake_signal) = &*over;
            let guard = flag.lock().unwrap_or_else(PoisonError::into_inner);
            let patience = PATIENCE + Duration::from_secs(10) * rounds().unwrap_or(0);
            let waited = wake_signal.wait_timeout_while(guard, patience, |over| !*over);
            let late = waited.is_ok_and(|(_guard, waited)| waited.timed_out());
            let pid = pid.load(Ordering::Acquire);
            if late && pid != 0 {
                let _ =
                    writeln!(std::io::stderr(), "a mount test takes longer than {patience:?}: killing {pid}");
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        });
    }

    /// Prints what helps to understand a failure, and keeps it if asked.
    fn post_mortem(&self) {
        // What was typed, and what the daemon says in the store's directory.
        let log = [self.log(), self.store().join("kvfs.log")]
            .map(|path| fs::read_to_string(path).unwrap_or_default())
            .join("--- kvfs.log\n");
        println!("--- commands, -o {}\n{log}---", self.options());
        if let Some(folder) = std::env::var_os("KVFS_TEST_ARTIFACTS").map(PathBuf::from) {
            let test = std::thread::current().name().unwrap_or("test").replace("::", "-");
            let _ = fs::create_dir_all(&folder);
            let _ = fs::write(folder.join(format!("{test}.log")), log);
            if alive(self.pid()) {
                let _ = fs::copy(self.mnt().join(".stats.d/json"), folder.join(format!("{test}.json")));
            }
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.post_mortem();
        }
        if self.mounted() {
            let _ = Command::new(binary()).arg("umount").arg(self.mnt()).output();
        }
        if self.mounted() {
            let _ = Command::new("fusermount3").arg("-uz").arg(self.mnt()).output();
        }
        let pid = self.pid();
        if pid != 0 && !until(Duration::from_secs(10), || !alive(pid)) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        // A witness goes with its mount, but for one that a test has put there and has not taken away.
        let below = self.engine_directory();
        if !until(Duration::from_secs(2), || !is_mounted(&below)) {
            let _ = Command::new("fusermount3").arg("-uz").arg(&below).output();
        }
        *self.over.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.over.1.notify_all();
    }
}

/// True if something is mounted there, dead or alive.
pub fn is_mounted(place: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == place.to_str())
}

/// True if the process exists and is no zombie.
pub fn alive(pid: i32) -> bool {
    if pid <= 0 || kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH) {
        return false;
    }
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()) != Some("Z")
}

/// Asks every 20 ms until it holds, at most `patience`.
pub fn until(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() > end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
