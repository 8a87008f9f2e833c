//! The same seeded random system calls on the mount and on the host's filesystem: every answer, errno included, and the
//! resulting trees must be equal, also after unmounting and mounting again.
//!
//! The host must be a POSIX filesystem with extended attributes and nanosecond times (ext4, xfs, btrfs).
//! `SEED=… cargo test --test mount calls` replays one seed.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::{CString, OsStr};
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use kvfs::base::prng::Prng;
use nix::fcntl::{AT_FDCWD, OFlag, RenameFlags};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, UtimensatFlags};
use nix::sys::time::TimeSpec;

use crate::host::{Engine, Mount, able, every_engine, everywhere, long};

/// Open files that a run keeps.
const SLOTS: u64 = 6;
/// Times before this were set by a call and must be equal; later ones are the clock's.
const CLOCK_BEGINS: i64 = 1_600_000_000;

/// One system call; paths are relative to the root of either side.
#[derive(Clone, Debug)]
enum Call {
    Open { slot: usize, path: String, flags: i32, mode: u32 },
    Close { slot: usize },
    Read { slot: usize, offset: u64, length: usize },
    Write { slot: usize, offset: u64, length: usize, fill: u8 },
    SetLength { slot: usize, length: i64 },
    StatOpen { slot: usize },
    Sync { slot: usize },
    Truncate { path: String, length: i64 },
    Rename { from: String, to: String, flags: u32 },
    Link { from: String, to: String },
    Symlink { target: String, path: String },
    Readlink { path: String },
    Unlink { path: String },
    Mkdir { path: String, mode: u32 },
    Rmdir { path: String },
    Mknod { path: String, kind: SFlag, mode: u32 },
    Chmod { path: String, mode: u32 },
    Times { path: String, atime: (i64, i64), mtime: (i64, i64), follow: bool },
    List { path: String },
    Stat { path: String },
    SetXattr { path: String, name: String, value: Vec<u8>, flags: i32 },
    GetXattr { path: String, name: String },
    ListXattr { path: String },
    RemoveXattr { path: String, name: String },
}

/// A few names, so that calls meet: files in the middle of a path, renames over what exists, names that are too long.
fn name(prng: &mut Prng) -> String {
    match prng.below(40) {
        0 => "n".repeat(255),
        1 => "n".repeat(256),
        2 => "Grüße 🌍".to_string(),
        3 => "with\nnewline".to_string(),
        n => ["a", "b", "c", "d", "e"][n as usize % 5].to_string(),
    }
}

/// Makes calls, half of them about paths that earlier calls made.
struct Generator {
    prng: Prng,
    /// Paths of the last calls that made something.
    made: VecDeque<String>,
}

impl Generator {
    fn new(seed: u64) -> Generator {
        Generator { prng: Prng::new(seed), made: VecDeque::new() }
    }

    /// Remembers what a call that worked has made.
    fn worked(&mut self, call: &Call) {
        if let Call::Open { path, .. }
        | Call::Mkdir { path, .. }
        | Call::Mknod { path, .. }
        | Call::Symlink { path, .. }
        | Call::Link { to: path, .. }
        | Call::Rename { to: path, .. } = call
        {
            self.made.push_back(path.clone());
            if self.made.len() > 30 {
                self.made.pop_front();
            }
        }
    }

    fn path(&mut self) -> String {
        let prng = &mut self.prng;
        let below = match self.made.len() as u64 {
            0 => None,
            made if prng.one_in(2) => Some(&self.made[prng.below(made) as usize]),
            _ => None,
        };
        match below {
            Some(path) if prng.one_in(3) => format!("{path}/{}", name(prng)),
            Some(path) => path.clone(),
            None => name(prng),
        }
    }

    fn call(&mut self) -> Call {
        let paths = (self.path(), self.path());
        call(&mut self.prng, paths)
    }
}

fn call(prng: &mut Prng, (path, other): (String, String)) -> Call {
    let slot = prng.below(SLOTS) as usize;
    // Mostly a few blocks, at times far away: holes.
    let offset = if prng.one_in(20) { prng.below(4 << 20) } else { prng.below(100_000) };
    let length = if prng.one_in(4) { prng.below(70_000) } else { prng.below(6_000) };
    // The owner keeps access, so that the tree can be read by an ordinary user; special bits now and then.
    let mode = |prng: &mut Prng, owner| owner | prng.below(0o100) as u32 | (prng.below(32) as u32 / 24) << 11;
    match prng.below(100) {
        0..=17 => {
            let access = [libc::O_RDWR, libc::O_RDWR, libc::O_RDONLY, libc::O_WRONLY][prng.below(4) as usize];
            let mut flags = access | libc::O_NONBLOCK;
            if !prng.one_in(3) {
                flags |= libc::O_CREAT;
            }
            for (flag, times) in [
                (libc::O_EXCL, 6),
                (libc::O_TRUNC, 6),
                (libc::O_APPEND, 8),
                (libc::O_SYNC, 20),
                (libc::O_DIRECTORY, 20),
                (libc::O_NOFOLLOW, 10),
            ] {
                // O_EXCL without O_CREAT is undefined; O_CREAT with O_DIRECTORY differs between kernels.
                let allowed = match flag {
                    libc::O_EXCL => flags & libc::O_CREAT != 0,
                    libc::O_DIRECTORY => flags & libc::O_CREAT == 0,
                    _ => true,
                };
                if prng.one_in(times) && allowed {
                    flags |= flag;
                }
            }
            Call::Open { slot, path, flags, mode: mode(prng, 0o600) }
        }
        18..=20 => Call::Close { slot },
        21..=28 => Call::Read { slot, offset, length: length as usize },
        29..=42 => Call::Write { slot, offset, length: length as usize, fill: prng.bits() as u8 },
        43..=45 => Call::SetLength { slot, length: offset as i64 },
        46..=47 => Call::StatOpen { slot },
        48 => Call::Sync { slot },
        49..=51 => Call::Truncate { path, length: if prng.one_in(3) { 0 } else { offset as i64 } },
        52..=60 => {
            let flags = match prng.below(8) {
                0 => libc::RENAME_NOREPLACE,
                1 => libc::RENAME_EXCHANGE,
                _ => 0,
            };
            Call::Rename { from: path, to: other, flags }
        }
        61..=64 => Call::Link { from: path, to: other },
        65..=67 => {
            let target = if prng.one_in(10) { "x/".repeat(400) } else { other };
            Call::Symlink { target, path }
        }
        68 => Call::Readlink { path },
        69..=72 => Call::Unlink { path },
        73..=79 => Call::Mkdir { path, mode: mode(prng, 0o700) },
        80..=81 => Call::Rmdir { path },
        82 => {
            let kind = [SFlag::S_IFIFO, SFlag::S_IFSOCK, SFlag::S_IFREG][prng.below(3) as usize];
            Call::Mknod { path, kind, mode: mode(prng, 0o600) }
        }
        83..=85 => Call::Chmod { path, mode: mode(prng, 0o700) },
        86..=88 => {
            // From 1965 to 2014, also before the epoch with a fraction.
            let mut time = || {
                let seconds =
                    prng.below((CLOCK_BEGINS - 200_000_000 + 150_000_000) as u64) as i64 - 150_000_000;
                (seconds, prng.below(1_000_000_000) as i64)
            };
            let (atime, mtime) = (time(), time());
            Call::Times { path, atime, mtime, follow: prng.one_in(2) }
        }
        89..=90 => Call::List { path },
        91..=92 => Call::Stat { path },
        93..=95 => Call::SetXattr {
            path,
            name: format!("user.{}", prng.below(4)),
            value: vec![prng.bits() as u8; prng.below(60) as usize],
            flags: [0, 0, libc::XATTR_CREATE, libc::XATTR_REPLACE][prng.below(4) as usize],
        },
        96..=97 => Call::GetXattr { path, name: format!("user.{}", prng.below(4)) },
        98 => Call::ListXattr { path },
        _ => Call::RemoveXattr { path, name: format!("user.{}", prng.below(4)) },
    }
}

/// A root directory with open files below it.
struct Side {
    root: PathBuf,
    open: Vec<Option<File>>,
}

impl Side {
    fn new(root: PathBuf) -> Side {
        Side { root, open: (0..SLOTS).map(|_| None).collect() }
    }

    /// The answer: what the call tells, as bytes that can be compared, or its errno.
    fn answer(&mut self, call: &Call) -> Result<Vec<u8>, i32> {
        self.try_call(call).map_err(|error| error.raw_os_error().expect("system calls fail with an errno"))
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn file(&self, slot: usize) -> io::Result<&File> {
        self.open[slot].as_ref().ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    /// True for a truncation to the length that the file has: whether that changes the times differs between
    /// filesystems, so it says nothing.
    fn keeps_its_length(&self, call: &Call) -> bool {
        match call {
            Call::SetLength { slot, length } => self
                .file(*slot)
                .and_then(|file| file.metadata())
                .is_ok_and(|meta| meta.len() as i64 == *length),
            Call::Truncate { path, length } => {
                fs::metadata(self.at(path)).is_ok_and(|meta| meta.len() as i64 == *length)
            }
            _ => false,
        }
    }

    fn try_call(&mut self, call: &Call) -> io::Result<Vec<u8>> {
        let done = Vec::new();
        match call {
            Call::Open { slot, path, flags, mode } => {
                // Without O_CLOEXEC the daemons of other tests would inherit the file and keep the mount busy.
                let flags = OFlag::from_bits_retain(*flags) | OFlag::O_CLOEXEC;
                let file = nix::fcntl::open(&self.at(path), flags, Mode::from_bits_truncate(*mode))?;
                self.open[*slot] = Some(File::from(file));
            }
            Call::Close { slot } => self.open[*slot] = None,
            Call::Read { slot, offset, length } => {
                let mut buffer = vec![0; *length];
                let mut filled = 0;
                // A short read is not the end; read until nothing comes.
                while filled < buffer.len() {
                    match self.file(*slot)?.read_at(&mut buffer[filled..], offset + filled as u64)? {
                        0 => break,
                        more => filled += more,
                    }
                }
                buffer.truncate(filled);
                return Ok(buffer);
            }
            Call::Write { slot, offset, length, fill } => {
                let bytes: Vec<u8> = (0..*length).map(|i| fill.wrapping_add((i / 7) as u8)).collect();
                self.file(*slot)?.write_all_at(&bytes, *offset)?;
            }
            Call::SetLength { slot, length } => nix::unistd::ftruncate(self.file(*slot)?, *length)?,
            Call::StatOpen { slot } => return Ok(describe(&self.file(*slot)?.metadata()?).into_bytes()),
            Call::Sync { slot } => self.file(*slot)?.sync_all()?,
            Call::Truncate { path, length } => nix::unistd::truncate(&self.at(path), *length)?,
            Call::Rename { from, to, flags } => nix::fcntl::renameat2(
                AT_FDCWD,
                &self.at(from),
                AT_FDCWD,
                &self.at(to),
                RenameFlags::from_bits_truncate(*flags),
            )?,
            Call::Link { from, to } => fs::hard_link(self.at(from), self.at(to))?,
            Call::Symlink { target, path } => std::os::unix::fs::symlink(target, self.at(path))?,
            Call::Readlink { path } => {
                return Ok(fs::read_link(self.at(path))?.as_os_str().as_bytes().to_vec());
            }
            Call::Unlink { path } => fs::remove_file(self.at(path))?,
            Call::Mkdir { path, mode } => {
                nix::unistd::mkdir(&self.at(path), Mode::from_bits_truncate(*mode))?;
            }
            Call::Rmdir { path } => fs::remove_dir(self.at(path))?,
            Call::Mknod { path, kind, mode } => {
                nix::sys::stat::mknod(&self.at(path), *kind, Mode::from_bits_truncate(*mode), 0)?;
            }
            Call::Chmod { path, mode } => nix::sys::stat::fchmodat(
                AT_FDCWD,
                &self.at(path),
                Mode::from_bits_truncate(*mode),
                FchmodatFlags::FollowSymlink,
            )?,
            Call::Times { path, atime, mtime, follow } => {
                let path = self.at(path);
                let flags = match follow {
                    true => UtimensatFlags::FollowSymlink,
                    false => UtimensatFlags::NoFollowSymlink,
                };
                let spec = |(seconds, nanos): (i64, i64)| TimeSpec::new(seconds, nanos);
                nix::sys::stat::utimensat(AT_FDCWD, &path, &spec(*atime), &spec(*mtime), flags)?;
                let after = if *follow { fs::metadata(&path)? } else { fs::symlink_metadata(&path)? };
                let times = (after.atime(), after.atime_nsec(), after.mtime(), after.mtime_nsec());
                return Ok(format!("{times:?}").into_bytes());
            }
            Call::List { path } => {
                let names: io::Result<BTreeSet<_>> = fs::read_dir(self.at(path))?
                    .map(|entry| {
                        entry.map(|entry| (entry.file_name(), entry.file_type().is_ok_and(|t| t.is_dir())))
                    })
                    .collect();
                return Ok(format!("{:?}", names?).into_bytes());
            }
            Call::Stat { path } => return Ok(describe(&fs::symlink_metadata(self.at(path))?).into_bytes()),
            Call::SetXattr { path, name, value, flags } => {
                xattr::set(&self.at(path), name, value, *flags)?;
            }
            Call::GetXattr { path, name } => return xattr::get(&self.at(path), name),
            Call::ListXattr { path } => {
                return Ok(format!("{:?}", xattr::list(&self.at(path))?).into_bytes());
            }
            Call::RemoveXattr { path, name } => xattr::remove(&self.at(path), name)?,
        }
        Ok(done)
    }

    /// Everything below the root, a line for each name.
    fn tree(&self) -> Vec<String> {
        let mut lines = vec![];
        let mut pending = vec![PathBuf::new()];
        while let Some(folder) = pending.pop() {
            for entry in fs::read_dir(self.root.join(&folder)).unwrap() {
                let relative = folder.join(entry.unwrap().file_name());
                let full = self.root.join(&relative);
                let meta = fs::symlink_metadata(&full).unwrap();
                let mut line = format!("{relative:?} {}", describe(&meta));
                if meta.is_dir() {
                    pending.push(relative.clone());
                } else if meta.is_symlink() {
                    line += &format!(" -> {:?}", fs::read_link(&full).unwrap());
                } else if meta.is_file() {
                    let mut hasher = DefaultHasher::new();
                    hasher.write(&fs::read(&full).unwrap());
                    line += &format!(" content {:016x}", hasher.finish());
                }
                if meta.is_dir() || meta.is_file() {
                    for name in xattr::list(&full).unwrap() {
                        line += &format!(" {name}={:?}", xattr::get(&full, &name).unwrap());
                    }
                }
                lines.push(line);
            }
        }
        lines.sort();
        lines
    }
}

/// What must be equal of a file's attributes on any two filesystems.
fn describe(meta: &fs::Metadata) -> String {
    let kind = meta.file_type();
    let mut text = format!("mode {:o} owner {}:{}", meta.mode(), meta.uid(), meta.gid());
    if !kind.is_dir() {
        text += &format!(" links {} bytes {}", meta.nlink(), meta.size());
    }
    if kind.is_char_device() || kind.is_block_device() {
        text += &format!(" device {}", meta.rdev());
    }
    if meta.mtime() < CLOCK_BEGINS {
        text += &format!(" mtime {}.{:09}", meta.mtime(), meta.mtime_nsec());
    }
    text
}

/// Extended attributes of the name itself, never of what a symlink points to.
pub(crate) mod xattr {
    use super::*;

    fn c(text: &OsStr) -> io::Result<CString> {
        Ok(CString::new(text.as_bytes())?)
    }

    fn outcome(result: isize) -> io::Result<usize> {
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }

    pub fn set(path: &Path, name: &str, value: &[u8], flags: i32) -> io::Result<()> {
        let (path, name) = (c(path.as_os_str())?, c(name.as_ref())?);
        // SAFETY: both strings end with a zero byte, and the value's length is its own.
        let result = unsafe {
            libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags)
        };
        outcome(result as isize).map(|_| ())
    }

    pub fn get(path: &Path, name: &str) -> io::Result<Vec<u8>> {
        let (path, name) = (c(path.as_os_str())?, c(name.as_ref())?);
        let mut value = vec![0; 65536];
        // SAFETY: both strings end with a zero byte, and the kernel writes at most the buffer's length.
        let result =
            unsafe { libc::lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len()) };
        value.truncate(outcome(result)?);
        Ok(value)
    }

    /// The user.* names, sorted; the host may add others (security.selinux).
    pub fn list(path: &Path) -> io::Result<Vec<String>> {
        let path = c(path.as_os_str())?;
        let mut names = vec![0u8; 65536];
        // SAFETY: the path ends with a zero byte, and the kernel writes at most the buffer's length.
        let result = unsafe { libc::llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), names.len()) };
        names.truncate(outcome(result)?);
        let mut names: Vec<String> = names
            .split(|byte| *byte == 0)
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .filter(|name| name.starts_with("user."))
            .collect();
        names.sort();
        Ok(names)
    }

    pub fn remove(path: &Path, name: &str) -> io::Result<()> {
        let (path, name) = (c(path.as_os_str())?, c(name.as_ref())?);
        // SAFETY: both strings end with a zero byte.
        let result = unsafe { libc::lremovexattr(path.as_ptr(), name.as_ptr()) };
        outcome(result as isize).map(|_| ())
    }
}

/// Compares two trees and shows only the lines that differ.
fn same_tree(ours: &Side, host: &Side, when: &str) {
    let (ours, host) = (ours.tree(), host.tree());
    let only = |a: &[String], b: &[String]| -> Vec<String> {
        a.iter().filter(|line| b.binary_search(line).is_err()).cloned().collect()
    };
    let (more, less) = (only(&ours, &host), only(&host, &ours));
    assert!(
        more.is_empty() && less.is_empty(),
        "{when}: only on the mount {more:#?}\nonly on the host {less:#?}"
    );
}

/// Runs `rounds` of `calls` calls; between rounds the store is mounted anew if `keeps`.
fn compare(engine: Engine, options: &str, seed: u64, rounds: usize, calls: usize, keeps: bool) {
    if !able(&[]) {
        return;
    }
    println!("SEED={seed} cargo test --test mount calls");
    let mount = Mount::new(engine, options);
    let mut generator = Generator::new(seed);
    let mut ours = Side::new(mount.mnt());
    let mut host = Side::new(mount.host());
    for round in 0..rounds {
        let mut worked = 0;
        for step in 0..calls {
            let call = generator.call();
            if host.keeps_its_length(&call) {
                continue;
            }
            let (left, right) = (ours.answer(&call), host.answer(&call));
            assert!(
                left == right,
                "call {step} of round {round}, {call:?}: the mount says {}, the host {}",
                show(&left),
                show(&right)
            );
            if left.is_ok() {
                worked += 1;
                generator.worked(&call);
            }
            if step % 250 == 249 {
                same_tree(&ours, &host, &format!("after call {step} of round {round}, {call:?}"));
            }
        }
        assert!(worked > calls / 4, "only {worked} of {calls} calls did anything: the generator is broken");
        same_tree(&ours, &host, &format!("after round {round}"));
        if keeps {
            // Open files would keep the mount busy.
            for side in [&mut ours, &mut host] {
                side.open.iter_mut().for_each(|slot| *slot = None);
            }
            mount.restart();
            same_tree(&ours, &host, &format!("mounted again after round {round}"));
        }
    }
    drop(ours);
    if keeps {
        mount.stop_clean();
    } else {
        mount.stop();
    }
}

fn show(answer: &Result<Vec<u8>, i32>) -> String {
    match answer {
        Ok(bytes) if bytes.len() > 300 => format!("{} bytes: {:02x?}…", bytes.len(), &bytes[..60]),
        Ok(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
        Err(errno) => nix::errno::Errno::from_raw(*errno).to_string(),
    }
}

/// `$SEED`, else the seeds given.
fn seeds(usual: std::ops::Range<u64>) -> Vec<u64> {
    match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => usual.collect(),
    }
}

fn random_calls(engine: Engine) {
    for seed in seeds(0..if long() { 20 } else { 2 }) {
        compare(engine, "", seed, 3, 2_000, true);
    }
}

/// Sizes so small that a few calls flush, merge, split and checkpoint.
fn random_calls_with_small_buffers(engine: Engine) {
    let options = match engine {
        Engine::Btree => "page_size=4K,dirty_max=1M,checkpoint_log=2M,log_segment=256K,cache=1M",
        Engine::Other(_) => "memory=8M",
        _ => "memtable=128K,table=256K,level_base=512K,l0_trigger=2,log_segment=256K,cache=1M",
    };
    for seed in seeds(100..if long() { 110 } else { 101 }) {
        compare(engine, options, seed, 3, 2_000, true);
    }
}

/// What the kernel caches for us must not change an answer.
fn random_calls_with_the_other_caching(engine: Engine) {
    for (seed, options) in [(200, "writeback_cache=on"), (201, "writeback_cache=off"), (202, "direct_io")] {
        compare(engine, options, seed, 1, 1_500, true);
    }
}

everywhere!(random_calls);
every_engine!(random_calls_with_small_buffers, random_calls_with_the_other_caching);

/// The model engine: a difference here is the filesystem's or FUSE's, not an engine's.
#[test]
fn random_calls_on_the_model_engine() {
    for seed in seeds(300..302) {
        compare(Engine::Mem, "", seed, 2, 2_000, false);
    }
}
