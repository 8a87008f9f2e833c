//! Mounts as the kernel lists them, and whether what is mounted somewhere answers. Nothing here waits for a filesystem: a mount
//! whose daemon is stopped answers nobody, so it is only ever asked by a process of its own, for a while.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open, readlink};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{ForkResult, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe2};

/// Longest time in which a mount may answer what it is.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Our type in the mount table, unless `subtype=` says otherwise.
const KIND: &str = "fuse.kvfs";

/// One line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Tells it from every other mount that is there.
    pub id: u64,
    /// Device number of its filesystem, as `major:minor`.
    pub device: String,
    /// Source of the mount: for our own mounts the store's directory, unless `fsname=` says otherwise.
    pub source: PathBuf,
    /// Where.
    pub mount_point: PathBuf,
    /// Options of this mount point, such as `rw,nosuid`.
    pub options: String,
    /// Type, such as `fuse.kvfs`.
    pub kind: String,
}

impl Mount {
    /// Whether its type is ours.
    pub fn is_ours(&self) -> bool {
        self.kind == KIND
    }

    /// Whether a daemon answers for it.
    pub fn is_fuse(&self) -> bool {
        self.kind == "fuse" || self.kind.starts_with("fuse.")
    }
}

/// Reads lines of `/proc/self/mountinfo`.
pub fn parse_mounts(table: &[u8]) -> Vec<Mount> {
    let mount = |line: &[u8]| {
        let words: Vec<&[u8]> = line.split(|&byte| byte == b' ').collect();
        // Behind the fields that there may be any number of.
        let rest = words.iter().skip(6).position(|word| *word == b"-").map(|at| at + 7)?;
        let text = |word: &[u8]| String::from_utf8_lossy(word).into_owned();
        let path = |word: &[u8]| PathBuf::from(OsStr::from_bytes(&unescape(word)));
        Some(Mount {
            id: text(words.first()?).parse().ok()?,
            device: text(words.get(2)?),
            source: path(words.get(rest + 1)?),
            mount_point: path(words.get(4)?),
            options: text(words.get(5)?),
            kind: text(&unescape(words.get(rest)?)),
        })
    };
    table.split(|&byte| byte == b'\n').filter_map(mount).collect()
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
    let table = crate::disk::read_outside(Path::new("/proc/self/mountinfo")).map_err(|error| {
        let text = format!(
            "/proc/self/mountinfo: {error}: without /proc nobody can say what is mounted; mount -t proc proc /proc"
        );
        io::Error::new(io::ErrorKind::Unsupported, text)
    })?;
    Ok(parse_mounts(&table).into_iter().rfind(|mount| mount.mount_point == mount_point))
}

/// The absolute path of `path` without links. Of what is mounted there nothing is asked.
pub fn resolve(path: &Path) -> io::Result<PathBuf> {
    let place = open(path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
    match readlink(format!("/proc/self/fd/{}", place.as_raw_fd()).as_str()) {
        Ok(resolved) => Ok(resolved.into()),
        // Without /proc.
        Err(_) => path.canonicalize(),
    }
}

/// Facts about a mount that are found out by asking it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is a kvfs.
    Kvfs {
        /// Its store, as its daemon knows it; a witness has none.
        store: Option<PathBuf>,
        /// The daemon.
        pid: u64,
    },
    /// It answers and is no kvfs.
    Other,
    /// We may not look into it.
    Closed,
    /// Its daemon is gone.
    Dead,
    /// Its daemon does not answer.
    Silent,
}

/// Asks what is mounted at `mount_point`. No other thread may run.
pub fn ask(mount_point: &Path) -> io::Result<Answer> {
    ask_for(mount_point, ANSWER_MAX)
}

fn ask_for(mount_point: &Path, patience: Duration) -> io::Result<Answer> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: there is one thread, so the child has no lock held by a thread that it does not have.
    let child = match unsafe { fork() }? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            drop(reader);
            // What went wrong is that nothing is said.
            let _ = report_from(mount_point, &writer);
            // SAFETY: the child has nothing to clean up, and nothing of the parent's may be cleaned up here.
            unsafe { libc::_exit(0) }
        }
    };
    drop(writer);
    let said = read_for(&reader, patience);
    // If it is stuck in the mount it goes when the mount does; nobody waits for it.
    let _ = kill(child, Signal::SIGKILL);
    let wait = if said.is_ok() { WaitPidFlag::empty() } else { WaitPidFlag::WNOHANG };
    let _ = waitpid(child, Some(wait));
    let said = match said {
        Ok(said) => said,
        Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(Answer::Silent),
        Err(error) => return Err(error),
    };
    let Some((&first, rest)) = said.split_first() else { return Ok(Answer::Other) };
    if first == b'E' {
        let errno = std::str::from_utf8(rest).ok().and_then(|digits| digits.parse().ok()).unwrap_or(0);
        return Ok(match Errno::from_raw(errno) {
            Errno::ENOTCONN | Errno::ECONNABORTED => Answer::Dead,
            Errno::EACCES | Errno::EPERM => Answer::Closed,
            _ => Answer::Other,
        });
    }
    let report: serde_json::Value = serde_json::from_slice(rest).unwrap_or_default();
    let is_ours = report["schema"].as_str().is_some_and(|schema| schema.starts_with("kvfs."));
    match report["process"]["pid"].as_u64().filter(|_| is_ours) {
        Some(pid) => Ok(Answer::Kvfs { store: report["store_path"].as_str().map(PathBuf::from), pid }),
        None => Ok(Answer::Other),
    }
}

/// The child's part: writes what the mount says, or the errno.
fn report_from(mount_point: &Path, writer: &OwnedFd) -> io::Result<()> {
    // If it stays behind, it must not hold the caller's pipes.
    let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    let said = match crate::disk::read_outside(&mount_point.join(".stats.d/json")) {
        Ok(report) => [b"R", &report[..]].concat(),
        Err(error) => format!("E{}", error.raw_os_error().unwrap_or(0)).into_bytes(),
    };
    let mut rest = &said[..];
    while !rest.is_empty() {
        let count = nix::unistd::write(writer, rest)?;
        rest = &rest[count..];
    }
    Ok(())
}

/// Reads to the end; `TimedOut` if that does not come in time.
fn read_for(reader: &OwnedFd, patience: Duration) -> io::Result<Vec<u8>> {
    let end = Instant::now() + patience;
    let mut said = Vec::new();
    loop {
        let rest = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(rest).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(reader.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => {}
            Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        }
        let mut piece = [0; 4096];
        match nix::unistd::read(reader, &mut piece)? {
            0 => return Ok(said),
            count => said.extend_from_slice(&piece[..count]),
        }
    }
}

/// Whether the process sees other mounts than this one; false if nobody can say.
pub fn is_in_other_namespace(pid: u32) -> bool {
    let namespace = |process: &str| readlink(format!("/proc/{process}/ns/mnt").as_str()).ok();
    matches!((namespace("self"), namespace(&pid.to_string())), (Some(own), Some(other)) if own != other)
}

/// A process with a kvfs at `mount_point` in another mount namespace, where this process does not see it.
pub fn elsewhere(mount_point: &Path) -> Option<u32> {
    let has_one = |table: Vec<u8>| {
        parse_mounts(&table).iter().any(|mount| mount.is_ours() && mount.mount_point == mount_point)
    };
    let table_of = |pid: u32| crate::disk::read_outside(Path::new(&format!("/proc/{pid}/mountinfo")));
    crate::disk::processes()
        .into_iter()
        .find(|&pid| is_in_other_namespace(pid) && table_of(pid).is_ok_and(has_one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mount_table_is_read_with_its_escapes() {
        let table = b"21 1 0:20 / /tmp rw - tmpfs tmpfs rw\n\
            36 21 0:52 / /mnt/a\\134b rw,nosuid shared:7 master:1 - fuse.kvfs /data/my\\040db rw,user_id=0\n\
            not a line\n";
        let mounts = parse_mounts(table);
        assert_eq!(mounts.len(), 2);
        assert_eq!((mounts[1].id, mounts[1].device.as_str()), (36, "0:52"));
        assert_eq!(mounts[1].source, Path::new("/data/my db"));
        assert_eq!(mounts[1].mount_point, Path::new("/mnt/a\\b"));
        assert!(mounts[1].is_ours() && mounts[1].is_fuse() && !mounts[0].is_ours() && !mounts[0].is_fuse());
    }

    #[test]
    fn links_to_a_mount_point_are_followed() {
        let home = tempfile::tempdir().unwrap();
        let (real, link) = (home.path().join("real"), home.path().join("link"));
        std::fs::create_dir(&real).unwrap();
        std::os::unix::fs::symlink(&real, &link).unwrap();
        assert_eq!(resolve(&link).unwrap(), real.canonicalize().unwrap());
        assert_eq!(resolve(&home.path().join("no")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
