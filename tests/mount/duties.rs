//! What operations owe besides their result, through the kernel: set-id bits, `security.capability`, times and durability, each
//! as the filesystem's table says, and the first three as the host's own filesystem has it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::Duration;

use kvfs::fs::operation::Op;
use kvfs::fs::operation::{Durable, Lent, Times};
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::sys::statvfs::statvfs;
use nix::unistd::{Gid, Uid, Whence, lseek, setfsgid, setfsuid};

use crate::calls::xattr;
use crate::host::{Engine, Mount, able, both_engines, everywhere, root};
use crate::rights::{STRANGER, open_to_others};

const CAPABILITY: &str = "security.capability";

/// Makes a directory with what the operations work on, all of it the stranger's. The file is open: it is seen also when it has
/// lost its name.
fn prepare(place: &Path, flags: i32) -> File {
    if place.exists() {
        fs::remove_dir_all(place).unwrap();
    }
    fs::create_dir_all(place.join("below")).unwrap();
    for (name, length) in [("f", 20_000), ("source", 5000)] {
        let path = place.join(name);
        fs::write(&path, vec![7; length]).unwrap();
        chown(&path, Some(STRANGER), Some(STRANGER)).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o6775)).unwrap();
        // Version 2: may bind ports below 1024.
        let capability = [&[0, 0, 0, 2, 0, 4][..], &[0; 14]].concat();
        xattr::set(&path, CAPABILITY, &capability, 0).unwrap();
        xattr::set(&path, "user.old", b"1", 0).unwrap();
    }
    symlink("f", place.join("s")).unwrap();
    fs::hard_link(place.join("f"), place.join("second")).unwrap();
    for folder in [place.to_path_buf(), place.join("below")] {
        chown(folder, Some(STRANGER), Some(STRANGER)).unwrap();
    }
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(place.join("f")).unwrap();
    file.sync_all().unwrap();
    // Longer than a tick of the clock that the host stamps files with.
    std::thread::sleep(Duration::from_millis(15));
    file
}

/// Copies the source's first bytes to the start of the file.
fn copy(place: &Path, file: &File) -> io::Result<()> {
    let source = File::open(place.join("source"))?;
    let (source, target) = (source.as_raw_fd(), file.as_raw_fd());
    let (mut from, mut to) = (0, 0);
    // SAFETY: both descriptors are open, and both offsets live longer than the call.
    match unsafe { libc::copy_file_range(source, &mut from, target, &mut to, 4096, 0) } {
        4096 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// One operation; false if no system call stands for it alone.
fn perform(op: Op, place: &Path, file: &File) -> io::Result<bool> {
    let path = place.join("f");
    match op {
        Op::Setattr => chown(&path, None, Some(STRANGER)),
        Op::Truncate => file.set_len(10_000),
        Op::Mknod => Ok(mknod(&place.join("new"), SFlag::S_IFIFO, Mode::from_bits_truncate(0o644), 0)?),
        Op::Mkdir => fs::create_dir(place.join("new")),
        Op::Symlink => symlink("f", place.join("new")),
        Op::Create => File::create_new(place.join("new")).map(drop),
        Op::Unlink => fs::remove_file(&path),
        Op::Rmdir => fs::remove_dir(place.join("below")),
        Op::Rename => fs::rename(&path, place.join("g")),
        Op::Link => fs::hard_link(&path, place.join("third")),
        Op::Write => file.write_at(&[1; 10], 5).map(drop),
        Op::Fallocate => Ok(fallocate(file, FallocateFlags::FALLOC_FL_KEEP_SIZE, 0, 30_000)?),
        Op::CopyFileRange => copy(place, file),
        Op::Setxattr => xattr::set(&path, "user.new", b"1", 0),
        Op::Removexattr => xattr::remove(&path, "user.old"),
        Op::Fsync => file.sync_all(),
        Op::Fsyncdir => File::open(place)?.sync_all(),
        Op::Lookup => fs::symlink_metadata(place.join("nothing")).map(drop).or(Ok(())),
        Op::Getattr => file.metadata().map(drop),
        Op::Getxattr => xattr::get(&path, "user.old").map(drop),
        Op::Listxattr => xattr::list(&path).map(drop),
        Op::Lseek => Ok(lseek(file, 0, Whence::SeekHole).map(drop)?),
        Op::Statfs => Ok(statvfs(place).map(drop)?),
        Op::Readdir => fs::read_dir(place).map(|names| names.for_each(drop)),
        Op::Read => file.read_at(&mut [0; 10], 15_000).map(drop),
        Op::Readlink => fs::read_link(place.join("s")).map(drop),
        Op::Open => File::open(&path).map(drop),
        Op::Flush
        | Op::Release
        | Op::Opendir
        | Op::Releasedir
        | Op::Forget
        | Op::Reclaim
        | Op::Format
        | Op::Counters => return Ok(false),
    }?;
    Ok(true)
}

/// Does what follows as somebody else: this thread's calls on files, and no other's.
fn as_stranger<T>(call: impl FnOnce() -> T) -> T {
    struct Back;
    impl Drop for Back {
        fn drop(&mut self) {
            setfsuid(Uid::from_raw(0));
            setfsgid(Gid::from_raw(0));
        }
    }
    let _back = Back;
    setfsgid(Gid::from_raw(STRANGER));
    setfsuid(Uid::from_raw(STRANGER));
    call()
}

/// What is left of a file's privileges, and which times changed.
#[derive(Debug, PartialEq)]
struct Seen {
    set_id: u32,
    capability: bool,
    written: bool,
    changed: bool,
    directory: (bool, bool),
}

/// Performs `op` in a fresh place and looks at what has changed. `None` if nothing stands for it, or the filesystem does not have it.
fn observe(op: Op, place: &Path, stranger: bool, flags: i32) -> Option<Seen> {
    let file = prepare(place, flags);
    let (before, folder_before) = (file.metadata().unwrap(), fs::metadata(place).unwrap());
    let result = if stranger { as_stranger(|| perform(op, place, &file)) } else { perform(op, place, &file) };
    match result {
        Ok(true) => {}
        Ok(false) => return None,
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => return None,
        Err(error) => panic!("{} in {}: {error}", op.name(), place.display()),
    }
    let (after, folder_after) = (file.metadata().unwrap(), fs::metadata(place).unwrap());
    let name = if op == Op::Unlink {
        "second"
    } else if op == Op::Rename {
        "g"
    } else {
        "f"
    };
    let times = |meta: &fs::Metadata| ((meta.mtime(), meta.mtime_nsec()), (meta.ctime(), meta.ctime_nsec()));
    let differ = |a: &fs::Metadata, b: &fs::Metadata| (times(a).0 != times(b).0, times(a).1 != times(b).1);
    let (written, changed) = differ(&before, &after);
    Some(Seen {
        set_id: after.mode() & 0o6000,
        capability: xattr::get(&place.join(name), CAPABILITY).is_ok(),
        written,
        changed,
        directory: differ(&folder_before, &folder_after),
    })
}

/// What the table says that `observe` sees.
fn promised(op: Op, stranger: bool) -> Seen {
    let duties = op.duties();
    let stays = |lent| match lent {
        Lent::Stays => true,
        Lent::GoesFromStrangers => !stranger,
        Lent::Goes | Lent::GoesWithOwner => false,
    };
    // Of an operation on names these are the times of what the name stands for, and not every one of them is about the file.
    let about_file = !matches!(duties.times, Times::Born) && op != Op::Rmdir;
    Seen {
        set_id: if stays(duties.set_id) { 0o6000 } else { 0 },
        capability: stays(duties.capability),
        written: about_file && duties.times == Times::Written,
        changed: about_file && matches!(duties.times, Times::Written | Times::Changed),
        directory: (duties.directory_times, duties.directory_times),
    }
}

fn every_operation_does_its_duties(engine: Engine) {
    // Without root nobody has capabilities to lose.
    if !able(&[]) || !root() {
        return;
    }
    let mount = Mount::new(engine, "");
    open_to_others(&mount);
    let (ours, hosts) = (mount.mnt().join("place"), mount.host().join("place"));
    let mut compared = 0;
    for op in Op::ALL {
        for stranger in [false, true] {
            let Some(seen) = observe(op, &ours, stranger, 0) else { continue };
            let context = format!("{}, stranger: {stranger}", op.name());
            assert_eq!(seen, promised(op, stranger), "{context}");
            if let Some(hosts) = observe(op, &hosts, stranger, 0) {
                assert_eq!(seen, hosts, "{context}: ours and the host's");
                compared += 1;
            }
        }
    }
    assert!(compared > 40, "only {compared} were compared with the host");
    mount.stop_clean();
}

/// Syncs of the log so far.
fn syncs(mount: &Mount) -> u64 {
    mount.json()["disk"]["by_purpose"]["wal"]["syncs"].as_u64().unwrap()
}

fn answers_wait_until_they_are_durable(engine: Engine) {
    if !able(&[]) || !root() {
        return;
    }
    for (options, flags) in
        [("sync=always", 0), ("sync=fsync,dirsync", 0), ("sync=fsync", libc::O_DSYNC), ("sync=fsync", 0)]
    {
        let mount = Mount::new(engine, options);
        let place = mount.mnt().join("place");
        for op in Op::ALL {
            let file = prepare(&place, flags);
            if op.duties().durable == Durable::Asked {
                // A sync of what is durable already costs nothing.
                if options == "sync=always" {
                    continue;
                }
                fs::write(place.join("dirty"), "1").unwrap();
            }
            let before = syncs(&mount);
            if !perform(op, &place, &file).unwrap() {
                continue;
            }
            let waits = match op.duties().durable {
                Durable::Nothing => false,
                Durable::Names => options != "sync=fsync",
                Durable::Inode => options == "sync=always",
                Durable::Content => options == "sync=always" || flags != 0,
                Durable::Asked => true,
            };
            let done = syncs(&mount) - before;
            assert_eq!(
                done > 0,
                waits,
                "-o {options}, open flags {flags:#x}: {} syncs of {}",
                done,
                op.name()
            );
        }
        mount.stop_clean();
    }
}

/// Twenty changes, each durable before the next: what was counted when it went wrong.
fn every_copy_is_synced(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(engine, "sync=always");
    fs::write(mount.mnt().join("source"), vec![5; 4096]).unwrap();
    let target = File::create(mount.mnt().join("target")).unwrap();
    let before = syncs(&mount);
    for _ in 0..20 {
        copy(&mount.mnt(), &target).unwrap();
    }
    let done = syncs(&mount) - before;
    assert!(done >= 20, "20 copies and {done} syncs");
    drop(target);
    mount.stop_clean();
}

everywhere!(every_operation_does_its_duties);
// Syncs are counted where the log is synced, and nobody counts those of others.
both_engines!(answers_wait_until_they_are_durable, every_copy_is_synced);
