//! A mount from its beginning to its end: what the kernel is asked for, threads, signals, and a clean way out.
//!
//! 1. A mount of ours whose daemon died is still in the mount table and answers ENOTCONN: it is detached first.
//! 2. The filesystem is mounted and the kernel's INIT answered; then one thread a core serves requests, each with its own
//!    channel to the kernel.
//! 3. The mount is announced as ready when `stat` of the mount point shows the new filesystem.
//! 4. It ends when the kernel says so (`umount`), at SIGINT, SIGTERM or SIGHUP, or when whoever holds it lets go ([`watch_input`]): then the kernel is made to send what it keeps
//!    ([`super::ending`]) and the mount is taken away, lazily if it is in use; what is still open is served for a grace period, and
//!    then the kernel is made to send once more. A second signal ends the grace period, or the waiting.
//!
//! # Invariants
//! 1. Signals are blocked in every thread and read by one; call [`block_signals`] before the first thread starts.
//! 2. Nothing but [`detach`] ever unmounts, and only after it has seen that the mount point still shows our filesystem:
//!    whoever mounts there next is left alone.

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::time::{Duration, Instant};

use fuser::{Config, MountOption, Session, SessionACL};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::stat::Mode;

pub use super::ending::Connected;
use super::ending::WriteBack;
use super::refusal;
use super::table::{self, Answer};
use crate::base::text::{Field, When, exact_duration, parse_duration, parse_switch, parse_threads, switch};

/// Longest time that open files are still served after a lazy unmount.
const GRACE: Duration = Duration::from_secs(10);
/// Longest time for the kernel to send the data that it keeps of written files, and for us to take it.
const WRITE_BACK_MAX: Duration = Duration::from_secs(60);
/// Longest time in which a mount whose connection has ended must say so.
const DEAD_MAX: Duration = Duration::from_secs(2);
/// Longest time for the kernel to show the new filesystem at the mount point.
const READY_MAX: Duration = Duration::from_secs(20);

/// Longest time that programs which are about to end, and files that were just closed, may keep a mount in use.
const BUSY_MAX: Duration = Duration::from_secs(1);

/// Options of the connection to the kernel.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The kernel keeps written pages and sends them later, in larger pieces. Faster small writes; counters then show what
    /// the kernel made of them, and an error of a write appears at fsync.
    pub writeback_cache: bool,
    /// Every read and write goes past the page cache: slower, and the counters show exactly what programs ask.
    pub direct_io: bool,
    /// Time that the kernel may cache names and attributes. We are the only writer, so long is right.
    pub timeout: Duration,
    /// Dispatch threads; 0 is one a core. More than cores makes a lone client slower.
    pub threads: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options { writeback_cache: false, direct_io: false, timeout: Duration::from_secs(3600), threads: 0 }
    }
}

/// The text form of [`Options`].
pub const FIELDS: &[Field<Options>] = &[
    Field {
        name: "writeback_cache",
        when: When::Mount,
        help: "on: the kernel gathers small writes before it sends them.",
        set: |options, text| {
            options.writeback_cache = parse_switch(text)?;
            Ok(())
        },
        get: |options| switch(options.writeback_cache),
    },
    Field {
        name: "direct_io",
        when: When::Mount,
        help: "on: reads and writes go past the page cache, so the counters show what programs ask.",
        set: |options, text| {
            options.direct_io = parse_switch(text)?;
            Ok(())
        },
        get: |options| switch(options.direct_io),
    },
    Field {
        name: "timeout",
        when: When::Mount,
        help: "How long the kernel may remember names and attributes, a duration.",
        set: |options, text| {
            options.timeout = parse_duration(text)?;
            Ok(())
        },
        get: |options| exact_duration(options.timeout),
    },
    Field {
        name: "threads",
        when: When::Mount,
        help: "Threads that take requests from the kernel; 0 for one a core.",
        set: |options, text| {
            options.threads = parse_threads(text)?;
            Ok(())
        },
        get: |options| options.threads.to_string(),
    },
];

/// Flags of mount(8) that every filesystem has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MountFlags {
    /// Other users may enter; always so for root.
    pub allow_other: bool,
    /// Changes of directories are durable before they are answered.
    pub dirsync: bool,
    /// Device nodes do not work.
    pub nodev: bool,
    /// Set-user-id bits do not work.
    pub nosuid: bool,
    /// Programs cannot be started.
    pub noexec: bool,
    /// Links are not followed; for root.
    pub nosymfollow: bool,
    /// SELinux labels: the option's name, such as `context`, and the label. For root, where SELinux is on.
    pub labels: Vec<(String, String)>,
    /// Name in the mount table instead of the store's directory.
    pub fsname: Option<String>,
    /// Type in the mount table after `fuse.`, instead of `kvfs`.
    pub subtype: Option<String>,
    /// Largest read that the kernel sends.
    pub max_read: Option<u32>,
}

/// An event of a mount.
#[derive(Debug)]
pub enum Event {
    /// The kernel has gone: the filesystem is unmounted.
    Ended,
    /// Someone wants us to end.
    Signal(Signal),
    /// Whoever held the mount has let it go, or has died.
    Released,
}

/// Way in which a mount ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The kernel sends no more requests.
    Unmounted,
    /// Requests may still come: files were open when the grace period or the patience of the user ended. What was written to them
    /// until then has arrived.
    Forced,
    /// As that, but what the kernel kept of those files may not have come.
    Abandoned,
}

fn ending_signals() -> SigSet {
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().collect()
}

/// Blocks the signals that end a mount, in this thread and all that it starts later.
pub fn block_signals() -> io::Result<()> {
    Ok(ending_signals().thread_block()?)
}

/// Starts the thread that reads the ending signals and sends them as events.
pub fn watch_signals(events: Sender<Event>) -> io::Result<()> {
    let watch = move || {
        while let Ok(signal) = ending_signals().wait() {
            if events.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    };
    std::thread::Builder::new().name("kvfs-signals".to_string()).spawn(watch)?;
    Ok(())
}

/// Starts the thread that waits for the end of standard input and sends it as an event: whoever started this process holds the other end, and lets go of it
/// when it has no more use for the mount or dies. The signals that end a mount are blocked and read by nobody then: one that is sent to all processes of a
/// terminal or a service would take the mount away from its user.
pub fn watch_input(events: Sender<Event>) -> io::Result<()> {
    let watch = move || {
        let mut input = io::stdin().lock();
        // Nothing is said there; an error ends it, too.
        let _ = io::copy(&mut input, &mut io::sink());
        // Nobody listens any more where the mount has ended by itself.
        let _ = events.send(Event::Released);
    };
    std::thread::Builder::new().name("kvfs-holder".to_string()).spawn(watch)?;
    Ok(())
}

/// What a session serves.
pub trait Served: fuser::Filesystem + 'static {
    /// The part of it that the end of the session must know.
    fn connected(&self) -> Arc<dyn Connected>;
    /// Whether nothing may be changed through it.
    fn is_read_only(&self) -> bool;
    /// Dispatch threads; 0 is one a core.
    fn threads(&self) -> usize;
}

/// Mounts `adapter` at `mount_point`, calls `ready` once programs can use it, and serves until it ends.
///
/// `source`, the store or the directory behind it, is shown in the mount table. An error means that there is no mount (any more).
pub fn run(
    adapter: impl Served,
    source: &Path,
    mount_point: &Path,
    flags: &MountFlags,
    events: &Receiver<Event>,
    ready: impl FnOnce() -> io::Result<()>,
) -> io::Result<End> {
    let config = config(source, flags, adapter.is_read_only(), adapter.threads());
    let below = table::mounted_at(mount_point)?.map(|mount| mount.id);
    let served = adapter.connected();
    let session = Session::new(adapter, mount_point, &config)
        .map_err(|error| refusal::explain(&error, mount_point, flags.allow_other))?;
    // It is empty: this is the only place that fills it.
    let _ = served.notifier().set(session.notifier());
    let write_back = WriteBack::new(served, session.as_fd().try_clone_to_owned()?);
    // fuser would unmount the path again when the session is dropped, whoever is mounted there by then; so it is not.
    let _session = ManuallyDrop::new(session.spawn()?);
    let device = wait_until_shown(mount_point, below).and_then(|device| {
        if flags.nosymfollow {
            follow_no_links(mount_point)?;
        }
        Ok(device)
    });
    let ready = device.and_then(|device| ready().map(|()| device));
    let device = match ready {
        Ok(device) => device,
        Err(error) => {
            if let Err(problem) = detach(mount_point, true) {
                log::error!("cannot unmount {}: {problem}", mount_point.display());
            }
            return Err(error);
        }
    };
    let why = match events.recv() {
        Ok(Event::Signal(signal)) => signal.to_string(),
        Ok(Event::Released) => "released".to_string(),
        Ok(Event::Ended) | Err(_) => {
            remove_dead(mount_point, &device);
            return Ok(End::Unmounted);
        }
    };
    log::info!("{why}: unmounting {}", mount_point.display());
    let is_shown = is_shown(mount_point, &device);
    let mut is_written_back = finish(&write_back, is_shown.then_some(mount_point), events);
    if matches!(is_written_back, WrittenBack::Ended) {
        remove_dead(mount_point, &device);
        return Ok(End::Unmounted);
    }
    if is_shown && detach(mount_point, false).is_err() {
        log::warn!("{} is in use: detached; open files are served for {GRACE:?} more", mount_point.display());
        detach(mount_point, true)?;
    }
    // A second signal, also one that came while we waited, ends the patience.
    let patience = if matches!(is_written_back, WrittenBack::No) { Duration::ZERO } else { GRACE };
    match events.recv_timeout(patience) {
        Ok(Event::Ended) | Err(RecvTimeoutError::Disconnected) => return Ok(End::Unmounted),
        Ok(Event::Signal(_) | Event::Released) | Err(RecvTimeoutError::Timeout) => {}
    }
    if matches!(is_written_back, WrittenBack::Yes) {
        is_written_back = finish(&write_back, None, events);
    }
    match is_written_back {
        WrittenBack::Yes => Ok(End::Forced),
        WrittenBack::Ended => Ok(End::Unmounted),
        WrittenBack::No => {
            abort(&device);
            Ok(End::Abandoned)
        }
    }
}

/// Whether the kernel has sent what it kept.
enum WrittenBack {
    Yes,
    /// Not within [`WRITE_BACK_MAX`], or not within the patience of the user.
    No,
    /// The connection has ended meanwhile.
    Ended,
}

/// Makes the kernel send what it keeps of written files, and waits for it.
fn finish(write_back: &WriteBack, root: Option<&Path>, events: &Receiver<Event>) -> WrittenBack {
    let done = match write_back.begin(root) {
        Ok(done) => done,
        Err(error) => {
            log::error!("starting a thread: {error}");
            return WrittenBack::No;
        }
    };
    let begun = Instant::now();
    loop {
        match done.recv_timeout(Duration::from_millis(10)) {
            Ok(()) => return WrittenBack::Yes,
            Err(RecvTimeoutError::Disconnected) => return WrittenBack::No,
            Err(RecvTimeoutError::Timeout) => {}
        }
        match events.try_recv() {
            Ok(Event::Ended) | Err(TryRecvError::Disconnected) => return WrittenBack::Ended,
            Err(TryRecvError::Empty) if begun.elapsed() < WRITE_BACK_MAX => {}
            Ok(Event::Signal(_) | Event::Released) | Err(TryRecvError::Empty) => {
                log::error!(
                    "what the kernel keeps of open files is not written back after {:?}",
                    begun.elapsed()
                );
                return WrittenBack::No;
            }
        }
    }
}

/// Whether the mount point shows our filesystem, whose device is `device`.
fn is_shown(mount_point: &Path, device: &str) -> bool {
    matches!(table::mounted_at(mount_point), Ok(Some(mount)) if mount.device == device && mount.is_fuse())
}

/// Detaches our mount where its connection has ended and it was not unmounted: somebody aborted it.
fn remove_dead(mount_point: &Path, device: &str) {
    if !is_shown(mount_point, device) {
        return;
    }
    // Its device number may be another's by now, but only ours is dead. Whoever mounts there may take a while to answer, so it is
    // asked by a thread that nobody has to wait for.
    let (answer, answered) = std::sync::mpsc::channel();
    let place = mount_point.to_path_buf();
    let ask = move || {
        // Nobody listens any more if it took too long.
        let _ = answer.send(nix::sys::statvfs::statvfs(&place).err());
    };
    if let Err(error) = std::thread::Builder::new().name("kvfs-ending".to_string()).spawn(ask) {
        log::error!("starting a thread: {error}");
        return;
    }
    if let Ok(Some(Errno::ENOTCONN | Errno::ECONNABORTED)) = answered.recv_timeout(DEAD_MAX) {
        log::warn!("{}: the connection was aborted; detaching what is left of it", mount_point.display());
        if let Err(error) = detach(mount_point, true) {
            log::error!("cannot unmount {}: {error}", mount_point.display());
        }
    }
}

/// Ends the connection of the filesystem `device`, so that nothing waits for this process any more, itself included.
fn abort(device: &str) {
    let Some((_, minor)) = device.split_once(':') else { return };
    let path = format!("/sys/fs/fuse/connections/{minor}/abort");
    let written = nix::fcntl::open(path.as_str(), OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())
        .and_then(|file| nix::unistd::write(&file, b"1"));
    if let Err(error) = written {
        log::warn!("{path}: {error}");
    }
}

fn config(store: &Path, flags: &MountFlags, read_only: bool, threads: usize) -> Config {
    let root = nix::unistd::geteuid().is_root();
    let name = flags.fsname.clone().unwrap_or_else(|| store.to_string_lossy().into_owned());
    // The setuid helper splits at commas; mount(2) takes the name as it is.
    let name = if root { name } else { name.replace('\\', "\\\\").replace(',', "\\,") };
    let subtype = flags.subtype.as_deref().unwrap_or("kvfs");
    let choose = |no: bool, yes, not| if no { not } else { yes };
    let mut options = vec![
        MountOption::FSName(name),
        MountOption::CUSTOM(format!("subtype={subtype}")),
        MountOption::DefaultPermissions,
        choose(read_only, MountOption::RW, MountOption::RO),
        choose(flags.noexec, MountOption::Exec, MountOption::NoExec),
    ];
    if root {
        // As mount(8) does; a user's mount never has either.
        options.push(choose(flags.nodev, MountOption::Dev, MountOption::NoDev));
        options.push(choose(flags.nosuid, MountOption::Suid, MountOption::NoSuid));
    }
    if let Some(bytes) = flags.max_read {
        options.push(MountOption::CUSTOM(format!("max_read={bytes}")));
    }
    // Where SELinux is off mount(8) leaves them out, too.
    if root && Path::new("/sys/fs/selinux").is_dir() {
        let label = |(name, label): &(String, String)| MountOption::CUSTOM(format!("{name}=\"{label}\""));
        options.extend(flags.labels.iter().map(label));
    }
    let mut config = Config::default();
    config.mount_options = options;
    config.acl = if root || flags.allow_other { SessionACL::All } else { SessionACL::Owner };
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    config.n_threads = Some(if threads == 0 { cores } else { threads });
    config.clone_fd = true;
    config
}

/// Waits until the mount point shows another mount than `below` and that answers, and returns its device number.
fn wait_until_shown(mount_point: &Path, below: Option<u64>) -> io::Result<String> {
    let begun = Instant::now();
    loop {
        if let Some(mount) = table::mounted_at(mount_point)?
            && Some(mount.id) != below
            && mount.is_fuse()
        {
            // It is ours, and served.
            nix::sys::stat::stat(mount_point)?;
            return Ok(mount.device);
        }
        if begun.elapsed() > READY_MAX {
            return Err(io::Error::other("the kernel does not show the filesystem at the mount point"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Takes the mount away; with `lazily` also if it is in use.
pub fn detach(mount_point: &Path, lazily: bool) -> io::Result<()> {
    let how = if lazily { MntFlags::MNT_DETACH } else { MntFlags::empty() };
    match umount2(mount_point, how | MntFlags::UMOUNT_NOFOLLOW) {
        Ok(()) => Ok(()),
        // Only root may; for users there is a setuid helper.
        Err(Errno::EPERM) => {
            let flag = if lazily { "-uz" } else { "-u" };
            let mut helper = Command::new("fusermount3");
            helper.arg(flag).arg("--").arg(mount_point).stdin(Stdio::null());
            let output = helper.output().map_err(|error| {
                io::Error::new(error.kind(), format!("fusermount3: {error} (package fuse3)"))
            })?;
            // Its exit status says that it failed and no more; the text is for display.
            let text = String::from_utf8_lossy(&output.stderr).trim().to_string();
            if output.status.success() { Ok(()) } else { Err(io::Error::other(text)) }
        }
        Err(error) => Err(error.into()),
    }
}

/// MS_NOSYMFOLLOW, which the libraries do not name yet.
const NO_SYMFOLLOW: MsFlags = MsFlags::from_bits_retain(0x100);
/// Settings of a living mount that may be changed, as they are now.
fn flags_now(mount_point: &Path) -> io::Result<MsFlags> {
    // What statfs(2) calls ST_… and mount(2) calls MS_… are the same bits, but for the last one, which the library drops.
    let now = nix::sys::statvfs::statvfs(mount_point)?.flags().bits();
    let keeps = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let mut flags = MsFlags::from_bits_truncate(now) & keeps;
    let shown = table::mounted_at(mount_point)?;
    let follows_none = shown.is_some_and(|mount| mount.options.split(',').any(|word| word == "nosymfollow"));
    flags.set(NO_SYMFOLLOW, follows_none);
    Ok(flags)
}

/// Makes the kernel follow no links on the mount that was just made.
fn follow_no_links(mount_point: &Path) -> io::Result<()> {
    let none: Option<&Path> = None;
    let flags = flags_now(mount_point)? | NO_SYMFOLLOW | MsFlags::MS_REMOUNT | MsFlags::MS_BIND;
    mount(none, mount_point, none, flags, none).map_err(|error| {
        let text = format!("nosymfollow: {}; only root can have it, from Linux 5.10 on", error.desc());
        io::Error::other(text)
    })
}

/// Changes what mount(8) may change of a living mount, as `-o remount` with `options` asks: `ro` and `rw`, and whether
/// devices, set-id bits, programs and links work. The kernel sees to all of them; other options are passed over.
pub fn remount(mount_point: &Path, options: &[String]) -> io::Result<()> {
    let mut flags = flags_now(mount_point)?;
    for option in options {
        let (flag, on) = match option.as_str() {
            "ro" => (MsFlags::MS_RDONLY, true),
            "rw" => (MsFlags::MS_RDONLY, false),
            "nodev" => (MsFlags::MS_NODEV, true),
            "dev" => (MsFlags::MS_NODEV, false),
            "nosuid" => (MsFlags::MS_NOSUID, true),
            "suid" => (MsFlags::MS_NOSUID, false),
            "noexec" => (MsFlags::MS_NOEXEC, true),
            "exec" => (MsFlags::MS_NOEXEC, false),
            "nosymfollow" => (NO_SYMFOLLOW, true),
            "symfollow" => (NO_SYMFOLLOW, false),
            _ => continue,
        };
        flags.set(flag, on);
    }
    let none: Option<&Path> = None;
    // The kernel tells us of a closed file after close(2) has returned, and until we have answered a deleted one still
    // counts as in use.
    unless_busy(|| Ok(mount(none, mount_point, none, flags | MsFlags::MS_REMOUNT, none)?))
}

/// Unmounts what nobody uses. A program that has ended may have started another that has not yet let go of its files, so
/// it is tried for a moment.
pub fn unmount(mount_point: &Path) -> io::Result<()> {
    unless_busy(|| detach(mount_point, false))
}

/// Tries again while the mount is in use, for a moment.
fn unless_busy(mut call: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let begun = Instant::now();
    loop {
        match call() {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && begun.elapsed() < BUSY_MAX => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result,
        }
    }
}

/// Makes way at `mount_point` for a mount: one of ours whose daemon is gone is detached. Returns whether there was one; fails if
/// what is mounted there does not answer. No other thread may run.
pub fn make_way(mount_point: &Path) -> io::Result<bool> {
    let mut was_there = false;
    while let Some(mount) = table::mounted_at(mount_point)?.filter(table::Mount::is_fuse) {
        match table::ask(mount_point)? {
            Answer::Dead if mount.is_ours() => {
                detach(mount_point, true)?;
                was_there = true;
            }
            Answer::Dead => {
                let text = format!(
                    "what is mounted there ({}) has no daemon any more; umount -l takes it away",
                    mount.kind
                );
                return Err(io::Error::other(text));
            }
            Answer::Silent => return Err(silent(mount_point, &mount)),
            Answer::Kvfs { .. } | Answer::Other | Answer::Closed => return Ok(was_there),
        }
    }
    Ok(was_there)
}

/// The error for a mount whose daemon does not answer.
pub fn silent(mount_point: &Path, mount: &table::Mount) -> io::Error {
    let how = if mount.is_ours() { "kvfs umount -l" } else { "umount -l" };
    io::Error::new(
        io::ErrorKind::TimedOut,
        format!(
            "what is mounted there ({} of {}) does not answer: its daemon may be stopped, or its disk hang; {how} {} takes it away",
            mount.kind,
            mount.source.display(),
            mount_point.display()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_print_what_they_read() {
        let options = Options {
            writeback_cache: true,
            direct_io: true,
            timeout: Duration::from_millis(1500),
            threads: 3,
        };
        let mut copy = Options::default();
        for field in FIELDS {
            (field.set)(&mut copy, &(field.get)(&options)).unwrap();
        }
        assert_eq!(copy, options);
    }

    #[test]
    fn other_users_are_let_in_only_when_asked_or_by_root() {
        let root = nix::unistd::geteuid().is_root();
        let closed = config(Path::new("/db"), &MountFlags::default(), false, 0);
        assert_eq!(closed.acl == SessionACL::All, root);
        let flags = MountFlags { allow_other: true, ..MountFlags::default() };
        let open = config(Path::new("/db"), &flags, true, 2);
        assert_eq!((open.acl, open.n_threads), (SessionACL::All, Some(2)));
        assert!(open.mount_options.contains(&MountOption::RO));
        assert!(open.mount_options.contains(&MountOption::CUSTOM("subtype=kvfs".to_string())));
    }
}
