//! The witness below an engine (`witness=on`): the engine's own directory passed through over itself by a process that the mount starts, so that what the
//! engine does to its files is counted.
//!
//! 1. [`make_way`] takes away what a mount that was killed has left over the directory, or waits for it to go: whoever has locked a store does that first.
//! 2. [`EngineWitness::start`] starts this program anew as `kvfs witness DIR DIR -f`, and returns when its report answers at DIR. The engine is opened after that.
//! 3. What it logs is ours to log: a thread reads its lines, and sees its end with theirs.
//! 4. When the engine is closed, its end of a pipe is let go of, and the witness unmounts and ends. It ends so as well when this process dies, however that
//!    happens: the kernel closes the pipe. Signals do not reach it: those of a terminal or of a service go to every process there, and would take the engine's
//!    files away before the engine is closed.
//!
//! It is a process and no thread: one that is killed while its threads wait for a filesystem which it serves itself never ends.

use std::fmt;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::{Condvar, Mutex};

use crate::fuse::{session, table};
use crate::witness::ENGINES;

/// This program, whatever has become of its file.
const PROGRAM: &str = "/proc/self/exe";
/// Source in the mount table, by which a witness that a mount has started is told from one that somebody else has.
const SOURCE: &str = "kvfs-engine-witness";
/// Longest time from its start to an answer.
const READY_MAX: Duration = Duration::from_secs(20);
/// Longest time for it to end: it serves files that are still open for a while, and makes the kernel send what it keeps.
const END_MAX: Duration = Duration::from_secs(90);
/// Longest wait for the one of a mount that has died.
const LEFT_MAX: Duration = Duration::from_secs(15);
/// Interval at which it is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// Its state, as the thread that reads its lines knows it.
#[derive(Default)]
struct State {
    /// How it has ended.
    ended: Option<String>,
    /// Whether it has answered, so that its end is somebody's loss.
    is_ready: bool,
    /// Whether it has been told to end.
    is_told: bool,
    /// The last line that it has said.
    last_line: String,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

/// A witness that runs below an engine. It ends when this is dropped, which must not be before the engine is.
pub struct EngineWitness {
    directory: PathBuf,
    pid: u32,
    /// Its standard input: it lives as long as this is open.
    hold: Option<ChildStdin>,
    shared: Arc<Shared>,
    lines: Option<JoinHandle<()>>,
}

/// Makes `directory` free of a witness that a mount which was killed has left there: one that is dead is detached, one that is about to end waited for. One
/// that somebody else has started is left alone. No other thread may run if something is mounted there.
pub(super) fn make_way(directory: &Path) -> io::Result<()> {
    let begun = Instant::now();
    let directory = match table::resolve(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        resolved => resolved?,
    };
    while let Some(mount) = table::mounted_at(&directory)?.filter(|mount| mount.is_fuse()) {
        if session::make_way(&directory)? {
            log::warn!("{}: detached a witness that had died", directory.display());
        }
        let is_left = table::mounted_at(&directory)?.is_some_and(|it| it.id == mount.id && is_of_mount(&it));
        if !is_left {
            return Ok(());
        }
        if begun.elapsed() > LEFT_MAX {
            let show = directory.display();
            let text = format!(
                "the witness of a mount that has died is still at {show}; kvfs umount -l {show} takes it away"
            );
            return Err(io::Error::new(io::ErrorKind::ResourceBusy, text));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

/// Whether a mount has started it.
fn is_of_mount(mount: &table::Mount) -> bool {
    mount.is_fuse() && mount.source == Path::new(SOURCE)
}

impl EngineWitness {
    /// Passes `directory`, in which nothing is open, through over itself for the engine `engine`. To be called by the thread that lives longest, after
    /// going to the background.
    pub(super) fn start(directory: &Path, engine: &str) -> io::Result<EngineWitness> {
        let directory = table::resolve(directory)?;
        if let Some(mount) = table::mounted_at(&directory)?.filter(|mount| mount.is_fuse()) {
            return Err(io::Error::new(
                io::ErrorKind::ResourceBusy,
                format!(
                    "{} of {} is mounted there already; kvfs umount {} takes it away, or leave witness=on out",
                    mount.kind,
                    mount.source.display(),
                    directory.display()
                ),
            ));
        }
        let patterns = if ENGINES.iter().any(|(name, _)| *name == engine) { engine } else { "all" };
        let mut command = Command::new(PROGRAM);
        command
            .arg0("kvfs")
            .arg("witness")
            .arg(&directory)
            .arg(&directory)
            .args(["-f", "--until-input-ends"]);
        command.args(["-o", &format!("engine={patterns},fsname={SOURCE},nodev,nosuid")]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        // Not one of the terminal's foreground, whose keys it would hear.
        command.process_group(0);
        let mut child = command.spawn()?;
        let (hold, pid) = (child.stdin.take(), child.id());
        let shared = Arc::<Shared>::default();
        let mut witness = EngineWitness { directory, pid, hold, shared, lines: None };
        let follow = {
            let (directory, shared) = (witness.directory.clone(), witness.shared.clone());
            move || follow(child, &directory, &shared)
        };
        witness.lines = Some(std::thread::Builder::new().name("kvfs-witness".to_string()).spawn(follow)?);
        witness.wait_until_it_answers()?;
        Ok(witness)
    }

    fn wait_until_it_answers(&self) -> io::Result<()> {
        let begun = Instant::now();
        loop {
            let mounted = table::mounted_at(&self.directory)?.filter(is_of_mount);
            if mounted.is_some() && self.report().is_ok_and(|report| self.is_ours(&report)) {
                self.shared.state.lock().is_ready = true;
                return Ok(());
            }
            let state = self.shared.state.lock();
            if let Some(how) = &state.ended {
                // What it said at its end names the cause.
                let said = state.last_line.strip_prefix("kvfs: ").unwrap_or(&state.last_line);
                return Err(io::Error::other(format!("it ended before it was mounted ({how}): {said}")));
            }
            drop(state);
            if begun.elapsed() > READY_MAX {
                let text = format!("it is not mounted after {} s", READY_MAX.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    fn is_ours(&self, report: &[u8]) -> bool {
        let report: serde_json::Value = serde_json::from_slice(report).unwrap_or_default();
        report["process"]["pid"].as_u64() == Some(u64::from(self.pid))
    }

    /// Its report for machines. It may wait for the witness: for a thread that nobody waits for.
    pub(super) fn report(&self) -> io::Result<Vec<u8>> {
        crate::disk::read_outside(&self.directory.join(".stats.d/json"))
    }

    /// How it has ended, if it has without being told to.
    pub(super) fn failure(&self) -> Option<String> {
        let state = self.shared.state.lock();
        state.ended.clone().filter(|_| !state.is_told)
    }

    /// Has it unmount and end, and takes away what is left if it does not.
    fn end(&mut self) {
        let show = self.directory.display();
        self.shared.state.lock().is_told = true;
        drop(self.hold.take());
        // Without the thread nobody would say that it has ended.
        if self.lines.is_some() {
            let mut state = self.shared.state.lock();
            let is_late = |state: &mut State| state.ended.is_none();
            if self.shared.changed.wait_while_for(&mut state, is_late, END_MAX).timed_out() {
                log::error!("{show}: its witness, process {}, does not end: killing it", self.pid);
                if let Ok(pid) = i32::try_from(self.pid)
                    && let Err(error) = kill(Pid::from_raw(pid), Signal::SIGKILL)
                {
                    log::error!("process {pid}: {error}");
                }
            }
        }
        if let Some(lines) = self.lines.take()
            && lines.join().is_err()
        {
            log::error!("a background thread panicked");
        }
        match table::mounted_at(&self.directory) {
            Ok(Some(mount)) if is_of_mount(&mount) => {
                if let Err(error) = session::detach(&self.directory, true) {
                    log::error!("cannot unmount {show}: {error}; kvfs umount -l {show} takes it away");
                }
            }
            Ok(_) => {}
            Err(error) => log::error!("{error}"),
        }
    }
}

impl fmt::Display for EngineWitness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is passed through a witness, process {}", self.directory.display(), self.pid)
    }
}

impl Drop for EngineWitness {
    fn drop(&mut self) {
        self.end();
    }
}

/// Logs what `child` says until it says no more, and then waits for its end.
fn follow(mut child: Child, directory: &Path, shared: &Shared) {
    let show = directory.display();
    if let Some(said) = child.stderr.take() {
        for line in BufReader::new(said).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line);
            // Its time and its place are ours as well.
            let text =
                line.split_once("] ").filter(|_| line.starts_with('[')).map_or(&*line, |(_, text)| text);
            let is_bad = line.contains(" ERROR ") || line.contains(" WARN ");
            log::log!(if is_bad { log::Level::Warn } else { log::Level::Debug }, "witness of {show}: {text}");
            shared.state.lock().last_line = text.to_string();
        }
    }
    loop {
        let mut state = shared.state.lock();
        let how = match child.try_wait() {
            Ok(None) => None,
            Ok(Some(status)) => Some(status.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(how) = how {
            if state.is_ready && !state.is_told {
                log::error!(
                    "{show}: its witness, process {}, has ended ({how}): what the engine asks of its files fails from now on; unmount and \
                     mount again",
                    child.id()
                );
            }
            state.ended = Some(how);
            shared.changed.notify_all();
            return;
        }
        drop(state);
        std::thread::sleep(LOOK_AGAIN);
    }
}
