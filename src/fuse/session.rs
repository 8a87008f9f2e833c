//! A mount from its beginning to its end: what the kernel is asked for, threads, signals, and a clean way out.
//!
//! 1. A mount of ours whose daemon died is still in the mount table and answers ENOTCONN: it is detached first.
//! 2. The filesystem is mounted and the kernel's INIT answered; then one thread a core serves requests, each with its own
//!    channel to the kernel.
//! 3. The mount is announced as ready when `stat` of the mount point shows the new filesystem.
//! 4. It ends when the kernel says so (`umount`), or at SIGINT, SIGTERM or SIGHUP: then the mount is taken away, lazily
//!    if it is in use; what is still open is served for a grace period. A second signal ends the grace period.
//!
//! # Invariants
//! 1. Signals are blocked in every thread and read by one; call [`block_signals`] before the first thread starts.
//! 2. Nothing but [`detach`] ever unmounts, and only after it has seen that the mount point still shows our filesystem:
//!    whoever mounts there next is left alone.

use std::io;
use std::mem::ManuallyDrop;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use fuser::{Config, MountOption, Session, SessionACL};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{SigSet, Signal};

use super::Adapter;
use crate::base::text::{Field, When, exact_duration, parse_duration, parse_switch, switch};

/// How long what is open after a lazy unmount is still served.
const GRACE: Duration = Duration::from_secs(10);
/// How long the kernel may take to show the new filesystem at the mount point.
const READY_MAX: Duration = Duration::from_secs(20);

/// How long programs that are about to end, and files that were just closed, may keep a mount in use.
const BUSY_MAX: Duration = Duration::from_secs(1);

/// How the kernel talks to us.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The kernel keeps written pages and sends them later, in larger pieces. Faster small writes; counters then show what
    /// the kernel made of them, and an error of a write appears at fsync.
    pub writeback_cache: bool,
    /// Every read and write goes past the page cache: slower, and the counters show exactly what programs ask.
    pub direct_io: bool,
    /// How long the kernel may remember names and attributes. We are the only writer, so long is right.
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
        help: "on: the kernel gathers small writes before it sends them. Default off.",
        set: |options, text| {
            options.writeback_cache = parse_switch(text)?;
            Ok(())
        },
        get: |options| switch(options.writeback_cache),
    },
    Field {
        name: "direct_io",
        when: When::Mount,
        help: "on: reads and writes go past the page cache, so the counters show what programs ask. Default off.",
        set: |options, text| {
            options.direct_io = parse_switch(text)?;
            Ok(())
        },
        get: |options| switch(options.direct_io),
    },
    Field {
        name: "timeout",
        when: When::Mount,
        help: "How long the kernel may remember names and attributes, a duration. Default 60m.",
        set: |options, text| {
            options.timeout = parse_duration(text)?;
            Ok(())
        },
        get: |options| exact_duration(options.timeout),
    },
    Field {
        name: "threads",
        when: When::Mount,
        help: "Threads that take requests from the kernel. Default 0: one a core.",
        set: |options, text| match text.parse() {
            Ok(threads) if threads <= 256 => {
                options.threads = threads;
                Ok(())
            }
            _ => Err("takes a whole number up to 256".to_string()),
        },
        get: |options| options.threads.to_string(),
    },
];

/// What mount(8) says about any filesystem.
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
    /// Name in the mount table instead of the store's directory.
    pub fsname: Option<String>,
    /// Type in the mount table after `fuse.`, instead of `kvfs`.
    pub subtype: Option<String>,
    /// Largest read that the kernel sends.
    pub max_read: Option<u32>,
}

/// What happens to a mount.
#[derive(Debug)]
pub enum Event {
    /// The kernel has gone: the filesystem is unmounted.
    Ended,
    /// Someone wants us to end.
    Signal(Signal),
}

/// How a mount ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The kernel sends no more requests.
    Unmounted,
    /// Requests may still come: files were open when the grace period or the patience of the user ended.
    Forced,
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

/// Mounts `adapter` at `mount_point`, calls `ready` once programs can use it, and serves until it ends.
///
/// `store` is shown in the mount table. An error means that there is no mount (any more).
pub fn run(
    adapter: Adapter,
    store: &Path,
    mount_point: &Path,
    flags: &MountFlags,
    events: &Receiver<Event>,
    ready: impl FnOnce() -> io::Result<()>,
) -> io::Result<End> {
    let read_only = adapter.core.fs.options().read_only;
    let config = config(store, flags, read_only, adapter.core.options.threads);
    let device_below = nix::sys::stat::stat(mount_point)?.st_dev;
    let core = adapter.core.clone();
    let session = Session::new(adapter, mount_point, &config)?;
    // It is empty: this is the only place that fills it.
    let _ = core.notifier.set(session.notifier());
    drop(core);
    // fuser would unmount the path again when the session is dropped, whoever is mounted there by then; so it is not.
    let _session = ManuallyDrop::new(session.spawn()?);
    let device = wait_until_shown(mount_point, device_below);
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
    let signal = match events.recv() {
        Ok(Event::Signal(signal)) => signal,
        Ok(Event::Ended) | Err(_) => return Ok(End::Unmounted),
    };
    log::info!("{signal}: unmounting {}", mount_point.display());
    if nix::sys::stat::stat(mount_point).is_ok_and(|found| found.st_dev == device)
        && detach(mount_point, false).is_err()
    {
        log::warn!("{} is in use: detached; open files are served for {GRACE:?} more", mount_point.display());
        detach(mount_point, true)?;
    }
    match events.recv_timeout(GRACE) {
        Ok(Event::Ended) | Err(RecvTimeoutError::Disconnected) => Ok(End::Unmounted),
        Ok(Event::Signal(_)) | Err(RecvTimeoutError::Timeout) => Ok(End::Forced),
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
    let mut config = Config::default();
    config.mount_options = options;
    config.acl = if root || flags.allow_other { SessionACL::All } else { SessionACL::Owner };
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    config.n_threads = Some(if threads == 0 { cores } else { threads });
    config.clone_fd = true;
    config
}

/// Waits until the mount point shows another filesystem than `below`, and returns its device number.
fn wait_until_shown(mount_point: &Path, below: u64) -> io::Result<u64> {
    let begun = Instant::now();
    loop {
        let device = nix::sys::stat::stat(mount_point)?.st_dev;
        if device != below {
            return Ok(device);
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
            let text = String::from_utf8_lossy(&output.stderr).trim().to_string();
            if output.status.success() { Ok(()) } else { Err(io::Error::other(text)) }
        }
        Err(error) => Err(error.into()),
    }
}

/// Changes what mount(8) may change of a living mount, as `-o remount` with `options` asks: `ro` and `rw`, and whether
/// devices, set-id bits and programs work. The kernel sees to all of them; other options are passed over.
pub fn remount(mount_point: &Path, options: &[String]) -> io::Result<()> {
    // What statfs(2) calls ST_… and mount(2) calls MS_… are the same bits.
    let now = nix::sys::statvfs::statvfs(mount_point)?.flags().bits();
    let keeps = MsFlags::MS_RDONLY | MsFlags::MS_NODEV | MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    let mut flags = MsFlags::from_bits_truncate(now) & keeps;
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

/// One line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// What is mounted: for our own mounts the store's directory.
    pub source: PathBuf,
    /// Where.
    pub mount_point: PathBuf,
    /// Type, such as `fuse.kvfs`.
    pub kind: String,
}

/// Reads lines of `/proc/self/mounts`.
pub fn parse_mounts(table: &[u8]) -> Vec<Mount> {
    let lines = table.split(|&byte| byte == b'\n');
    let mount = |line: &[u8]| {
        let mut words = line.split(|&byte| byte == b' ').map(unescape);
        let (source, mount_point, kind) = (words.next()?, words.next()?, words.next()?);
        let path = |bytes: Vec<u8>| PathBuf::from(std::ffi::OsStr::from_bytes(&bytes));
        Some(Mount {
            source: path(source),
            mount_point: path(mount_point),
            kind: String::from_utf8_lossy(&kind).into_owned(),
        })
    };
    lines.filter_map(mount).collect()
}

/// Undoes the octal escapes of the mount table.
fn unescape(word: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| first == b'\\');
        let value = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match value {
            Some(value) => {
                bytes.push(value);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    bytes
}

/// The topmost mount at `mount_point`, if there is one.
pub fn mounted_at(mount_point: &Path) -> io::Result<Option<Mount>> {
    let table = crate::disk::read_outside(Path::new("/proc/self/mounts"))?;
    Ok(parse_mounts(&table).into_iter().rfind(|mount| mount.mount_point == mount_point))
}

/// Whether a mount is ours.
pub fn is_ours(mount: &Mount) -> bool {
    mount.kind == "fuse.kvfs"
}

/// Detaches a mount of ours at `mount_point` whose daemon is gone. Returns whether there was one.
pub fn detach_stale(mount_point: &Path) -> io::Result<bool> {
    match mounted_at(mount_point)? {
        Some(mount) if is_ours(&mount) => {}
        _ => return Ok(false),
    }
    // The kernel may remember attributes of a dead mount, but what `df` shows it always asks for.
    match nix::sys::statvfs::statvfs(mount_point) {
        Err(Errno::ENOTCONN | Errno::ECONNABORTED) => detach(mount_point, true).map(|()| true),
        _ => Ok(false),
    }
}

/// The absolute path of a mount point without links, also if what is mounted there does not answer.
pub fn resolve_mount_point(path: &Path) -> io::Result<PathBuf> {
    match path.canonicalize() {
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            let absolute = std::path::absolute(path)?;
            match (absolute.parent(), absolute.file_name()) {
                (Some(parent), Some(name)) => Ok(parent.canonicalize()?.join(name)),
                _ => Ok(absolute),
            }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_table_is_read_with_its_escapes() {
        let table = b"/data/my\\040db /mnt/a\\134b fuse.kvfs rw,nosuid 0 0\ntmpfs /tmp tmpfs rw 0 0\n";
        let mounts = parse_mounts(table);
        assert_eq!(mounts.len(), 2);
        assert_eq!(mounts[0].source, Path::new("/data/my db"));
        assert_eq!(mounts[0].mount_point, Path::new("/mnt/a\\b"));
        assert!(is_ours(&mounts[0]) && !is_ours(&mounts[1]));
    }

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
