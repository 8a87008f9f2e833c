//! System calls that nobody sane would make, on a mount: whatever the kernel lets through is answered, and the mount lives on.

use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use kvfs::base::prng::Prng;
use nix::fcntl::{AT_FDCWD, FallocateFlags, RenameFlags, fallocate, renameat2};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::unistd::{Whence, lseek};

use crate::host::{Engine, Mount, able, everywhere, long, root};

/// Longer than all calls of a test together may take; a call that hangs is found by the harness.
const CALLS_MAX: Duration = Duration::from_secs(200);

fn number(prng: &mut Prng) -> u64 {
    const EDGES: [u64; 7] = [0, 4096, 1 << 31, 1 << 32, 1 << 62, 1 << 63, u64::MAX];
    let edge = EDGES[prng.below(7) as usize];
    let distance = [0, 1, 4095, 4096, 4097][prng.below(5) as usize];
    if prng.one_in(2) { edge.wrapping_add(distance) } else { edge.wrapping_sub(distance) }
}

/// A name that leads nowhere outside of the mount: what follows is done by root, and symbolic links point to such names.
fn name(prng: &mut Prng) -> Vec<u8> {
    let mut name = any_name(prng);
    if name.starts_with(b"/") || name.windows(2).any(|pair| pair == b"..") {
        name[0] = b'n';
        name.retain(|&byte| byte != b'.');
    }
    name
}

fn any_name(prng: &mut Prng) -> Vec<u8> {
    match prng.below(5) {
        0 => {
            let length = [1, 254, 255, 256, 300][prng.below(5) as usize];
            (0..length).map(|_| prng.bits() as u8).collect()
        }
        1 => [&b"."[..], b"a/./b", b".stats", b".stats.d", b"a/b", b"-", b"\xff\xfe", b"\n"]
            [prng.below(8) as usize]
            .into(),
        _ => format!("name{}", prng.below(12)).into_bytes(),
    }
}

/// Sets an extended attribute of `length` bytes.
fn set_attribute(path: &Path, name: &[u8], length: usize, flags: i32) -> i32 {
    let (Ok(path), Ok(name)) = (CString::new(path.as_os_str().as_bytes()), CString::new(name)) else {
        return -1;
    };
    let value = vec![7u8; length];
    // SAFETY: both strings end with a NUL, and the value has the length that is told.
    unsafe { libc::lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), length, flags) }
}

/// Sets both times.
fn set_times(path: &Path, seconds: i64, nanos: i64) {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return };
    let time = libc::timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = [time, time];
    // SAFETY: the path ends with a NUL, and there are two times.
    unsafe { libc::utimensat(libc::AT_FDCWD, path.as_ptr(), times.as_ptr(), libc::AT_SYMLINK_NOFOLLOW) };
}

fn step(mnt: &Path, prng: &mut Prng) {
    let (one, two) = (name(prng), name(prng));
    let (a, b) = (mnt.join(OsStr::from_bytes(&one)), mnt.join(OsStr::from_bytes(&two)));
    let (x, y, bits) = (number(prng), number(prng), prng.bits());
    // Not a pipe or a device: opening one waits for somebody.
    let open = |path: &Path| {
        let found = fs::symlink_metadata(path).ok()?;
        found.is_file().then(|| OpenOptions::new().read(true).write(true).open(path).ok())?
    };
    match prng.below(14) {
        0 => drop(File::create_new(&a)),
        1 => drop(fs::create_dir(&a)),
        2 => drop(std::os::unix::fs::symlink(OsStr::from_bytes(&two), &a)),
        3 => drop(fs::remove_file(&a).or_else(|_| fs::remove_dir(&a))),
        4 => drop(fs::hard_link(&a, &b)),
        5 => {
            let flags = RenameFlags::from_bits_retain((bits & 7) as u32);
            let inside = a.join(OsStr::from_bytes(&two));
            let target = if prng.one_in(3) { &inside } else { &b };
            let _ = renameat2(AT_FDCWD, &a, AT_FDCWD, target, flags);
        }
        6 | 7 => {
            let Some(file) = open(&a) else { return };
            let is_report = one.starts_with(b".stats");
            let written = file.write_at(&[5; 3000], x);
            assert!(is_report || written.is_err() || x <= i64::MAX as u64, "{} bytes at {x}", 3000);
            let mut bytes = [0; 3000];
            drop((file.read_at(&mut bytes, x), file.read_at(&mut bytes, y)));
        }
        8 => {
            let Some(file) = open(&a) else { return };
            let flags = FallocateFlags::from_bits_retain((bits & 0x7f) as i32);
            let _ = fallocate(&file, flags, x as i64, y as i64);
            for whence in [Whence::SeekData, Whence::SeekHole, Whence::SeekEnd, Whence::SeekSet] {
                let _ = lseek(&file, x as i64, whence);
            }
        }
        9 => {
            let Some(file) = open(&a) else { return };
            drop((file.set_len(x), file.set_len(prng.below(10_000)), file.sync_all()));
        }
        10 => {
            let name =
                [&b"user.a"[..], b"user.", b"x", b"security.capability", b"system.posix_acl_access", &one];
            let name = name[prng.below(6) as usize];
            let length = [0, 1, 65_535, 65_536, 65_537][prng.below(5) as usize];
            let answer = set_attribute(&a, name, length, (bits & 3) as i32);
            assert!(answer != 0 || length <= 65_536, "{length} bytes were accepted");
        }
        11 => {
            // Not the very first second: a debug build of the protocol's library cannot negate it.
            set_times(
                &a,
                (x as i64).max(i64::MIN + 1),
                [0, 1, 999_999_999, 1_000_000_000, -1][prng.below(5) as usize],
            );
            drop(fs::symlink_metadata(&a).map(|found| (found.modified(), found.accessed())));
        }
        12 => {
            let kind = SFlag::from_bits_truncate((bits as u32) & libc::S_IFMT);
            let _ = mknod(&a, kind, Mode::from_bits_truncate(bits as u32), y);
            use std::os::unix::fs::PermissionsExt;
            drop(fs::set_permissions(&a, fs::Permissions::from_mode((bits >> 32) as u32)));
        }
        _ => {
            if let Ok(mut file) = OpenOptions::new().write(true).open(mnt.join(".stats")) {
                let text: Vec<u8> = (0..prng.below(40)).map(|_| prng.bits() as u8).collect();
                drop((file.write_all(&text), file.set_len(x), file.write_at(&text, y)));
            }
            if let Ok(file) = File::open(mnt.join(".stats.d/json")) {
                let mut bytes = [0; 100];
                drop((
                    file.read_at(&mut bytes, x),
                    file.read_at(&mut bytes, y),
                    lseek(&file, x as i64, Whence::SeekHole),
                ));
            }
            drop(fs::read_dir(mnt).map(Iterator::count));
        }
    }
}

fn senseless_system_calls(engine: Engine) {
    // Others may not make devices, and then half of it is refused by the kernel.
    if !able(&[]) || !root() {
        return;
    }
    let mount = Mount::new(engine, "");
    let mnt = mount.mnt();
    let begun = std::time::Instant::now();
    for seed in 0..if long() { 20 } else { 2 } {
        let mut prng = Prng::new(seed);
        for _ in 0..2000 {
            step(&mnt, &mut prng);
            assert!(begun.elapsed() < CALLS_MAX, "senseless calls take for ever");
        }
    }
    let is_stored = engine != Engine::Witness;
    assert!(!is_stored || fs::read_to_string(mnt.join(".stats")).unwrap().contains("state=OK"));
    fs::write(mnt.join("after"), "all of it").unwrap();
    assert_eq!(fs::read_to_string(mnt.join("after")).unwrap(), "all of it");
    if is_stored {
        let log = fs::read_to_string(mount.store().join("kvfs.log")).unwrap();
        assert!(!log.contains("panicked"), "{log}");
    }
    mount.stop_clean();
}

everywhere!(senseless_system_calls);
