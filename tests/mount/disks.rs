//! Filesystems below the store, each on a loop device of its own: what they do with requests for space, and what a mount does on one
//! that is full.

use std::ffi::OsStr;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output};

use kvfs::disk::{Access, Disk, OsDisk, Purpose};

use crate::host::{able, root};

const MEBIBYTE: u64 = 1 << 20;

/// A new filesystem of `kind`, mounted until it is dropped.
pub struct Loop {
    home: tempfile::TempDir,
}

impl Loop {
    pub fn new(kind: &str, bytes: u64) -> Loop {
        Loop::with(kind, bytes, &[])
    }

    /// With `options` of its maker.
    fn with(kind: &str, bytes: u64, options: &[&str]) -> Loop {
        let home = tempfile::tempdir().unwrap();
        let made = Loop { home };
        let image = made.home.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        std::fs::create_dir(made.place()).unwrap();
        Loop::run(Command::new(format!("mkfs.{kind}")).arg("-q").args(options).arg(&image));
        Loop::run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(made.place()));
        made
    }

    fn run(command: &mut Command) {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
    }

    pub fn place(&self) -> PathBuf {
        self.home.path().join("disk")
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.place()).output();
    }
}

/// Every filesystem that there is a maker for, with a size that it takes.
fn each(test: impl Fn(&str, &dyn Disk)) {
    if !able(&[]) || !root() {
        return;
    }
    for (kind, bytes) in [("ext2", 64 * MEBIBYTE), ("ext4", 64 * MEBIBYTE), ("xfs", 320 * MEBIBYTE)] {
        if !able(&[&format!("mkfs.{kind}")]) {
            continue;
        }
        let below = Loop::new(kind, bytes);
        let disk = OsDisk::open(&below.place().join("store"), Access::Write).unwrap();
        test(kind, &*disk);
    }
}

#[test]
fn a_file_that_grows_in_steps_takes_the_whole_disk() {
    each(|kind, disk| {
        let file = disk.create("a").unwrap();
        let free_bytes = disk.space().unwrap().free_bytes;
        let mut bytes = 0;
        // ext2 cannot reserve, so there it never ends.
        while bytes < free_bytes && file.allocate(bytes + 4 * MEBIBYTE).is_ok() {
            bytes += 4 * MEBIBYTE;
            assert_eq!(file.size().unwrap(), bytes, "{kind}");
        }
        assert!(bytes > free_bytes / 10 * 8, "{kind}: full at {bytes} of {free_bytes}");
    });
}

#[test]
fn a_copy_shares_its_blocks_where_the_filesystem_below_can() {
    each(|kind, disk| {
        let (source, target) = (disk.create("source").unwrap(), disk.create("target").unwrap());
        let content: Vec<u8> = (0..20u32 << 20).map(|at| (at % 251) as u8).collect();
        source.write_at(Purpose::Flush, 0, &content).unwrap();
        source.sync(Purpose::Flush).unwrap();
        let free_bytes = disk.space().unwrap().free_bytes;
        kvfs::disk::copy(&*source, content.len() as u64, &*target).unwrap();
        target.sync(Purpose::Fork).unwrap();
        assert!(kvfs::disk::read_all(&*target, Purpose::Get).unwrap() == content, "{kind}");
        let taken_bytes = free_bytes - disk.space().unwrap().free_bytes;
        match kind {
            "xfs" => assert!(taken_bytes < MEBIBYTE, "{kind}: {taken_bytes}"),
            _ => assert!(taken_bytes >= content.len() as u64, "{kind}: {taken_bytes}"),
        }
    });
}

#[test]
fn a_refused_growth_takes_nothing() {
    each(|kind, disk| {
        let file = disk.create("a").unwrap();
        file.allocate(MEBIBYTE).unwrap();
        let free_bytes = disk.space().unwrap().free_bytes;
        file.allocate(free_bytes + 64 * MEBIBYTE).unwrap_err();
        assert_eq!(file.size().unwrap(), MEBIBYTE, "{kind}");
        let left_bytes = disk.space().unwrap().free_bytes;
        assert!(left_bytes > free_bytes - MEBIBYTE, "{kind}: {free_bytes} free before, {left_bytes} after");
        file.allocate(free_bytes / 2).unwrap_or_else(|error| panic!("{kind}: {error}"));
    });
}

/// A mount that is taken away when it is dropped.
struct Mounted {
    store: PathBuf,
    point: PathBuf,
}

impl Mounted {
    fn kvfs(&self, before: &[&str], verb: &str, options: Option<&str>) -> Output {
        let mut words: Vec<&OsStr> = before.iter().map(OsStr::new).collect();
        let binary = crate::host::binary();
        words.extend([binary.as_os_str(), OsStr::new(verb)]);
        if verb == "mount" {
            words.push(self.store.as_os_str());
        }
        words.push(self.point.as_os_str());
        if let Some(options) = options {
            words.extend([OsStr::new("-o"), OsStr::new(options)]);
        }
        Command::new(words[0]).args(&words[1..]).output().unwrap()
    }

    fn mount(&self, before: &[&str], options: &str) {
        let output = self.kvfs(before, "mount", Some(options));
        assert!(output.status.success(), "mount -o {options}: {output:?}");
    }

    fn unmount(&self) {
        let output = self.kvfs(&[], "umount", None);
        assert!(output.status.success(), "umount: {output:?}");
    }

    /// Writes files of 3 MB until one is refused; returns how many are whole.
    fn fill(&self, most: usize) -> (usize, Option<std::io::Error>) {
        for number in 0..most {
            if let Err(error) = std::fs::write(self.file(number), content(number)) {
                return (number, Some(error));
            }
        }
        (most, None)
    }

    fn file(&self, number: usize) -> PathBuf {
        self.point.join(format!("f{number}"))
    }

    /// Whole numbers of the report.
    fn number(&self, pointer: &str) -> u64 {
        let text = std::fs::read_to_string(self.point.join(".stats.d/json")).unwrap();
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        json.pointer(pointer)
            .and_then(|value| value.as_u64())
            .unwrap_or_else(|| panic!("{pointer} in {text}"))
    }

    /// Ends the daemon as a crash of it would.
    fn kill(&self) {
        let pid = self.number("/process/pid") as i32;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL).unwrap();
        Loop::run(Command::new("umount").arg("-l").arg(&self.point));
        assert!(crate::host::until(std::time::Duration::from_secs(30), || !crate::host::alive(pid)));
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = self.kvfs(&[], "umount", None);
        let _ = Command::new("umount").arg("-l").arg(&self.point).output();
    }
}

/// Nothing that could be compressed below.
fn content(number: usize) -> Vec<u8> {
    let mut prng = kvfs::base::prng::Prng::new(number as u64);
    (0..375_000).flat_map(|_| prng.bits().to_le_bytes()).collect()
}

#[test]
fn a_full_disk_is_unmounted_mounted_again_and_emptied() {
    if !able(&["mkfs.ext4"]) || !root() {
        return;
    }
    let cases = [
        ("btree", false),
        ("btree,reserve=16M", false),
        ("btree", true),
        ("lsm", false),
        ("lsm,reserve=16M", true),
        ("lsm,value_log=on", true),
    ];
    for (options, is_filled_by_others) in cases {
        let below = Loop::new("ext4", 400 * MEBIBYTE);
        let point = below.home.path().join("mnt");
        std::fs::create_dir(&point).unwrap();
        let mounted = Mounted { store: below.place().join("store"), point };
        mounted.mount(&[], &format!("engine={options}"));
        let (count, error) = mounted.fill(200);
        assert_eq!(error.unwrap().raw_os_error(), Some(libc::ENOSPC));
        assert!(count > 60, "{options}: full after {count} files");
        mounted.unmount();
        if is_filled_by_others {
            let mut ballast = std::fs::File::create(below.place().join("ballast")).unwrap();
            while ballast.write_all(&[7; 4096]).is_ok() {}
        }
        let read_only = format!("engine={options},ro");
        mounted.mount(&[], &read_only);
        assert_eq!(std::fs::read(mounted.file(count / 2)).unwrap(), content(count / 2));
        mounted.unmount();
        mounted.mount(&[], &format!("engine={options}"));
        for number in 0..=count {
            assert!(
                number == count || std::fs::read(mounted.file(number)).unwrap() == content(number),
                "file {number}"
            );
            match std::fs::remove_file(mounted.file(number)) {
                // The last one may have been refused when it was made.
                Err(error) if number == count && error.kind() == std::io::ErrorKind::NotFound => {}
                removed => removed
                    .unwrap_or_else(|error| panic!("{options}: removing file {number} of {count}: {error}")),
            }
        }
        mounted.unmount();
        mounted.mount(&[], &format!("engine={options}"));
        assert_eq!(std::fs::read_dir(&mounted.point).unwrap().count(), 0);
        // The room is back, in an LSM store also without a byte from those who took the rest. A B-tree has it inside its file, and
        // takes new data again when they leave it what new data leaves free.
        if !is_filled_by_others || options.starts_with("lsm") {
            assert_eq!(mounted.fill(count / 2).0, count / 2, "{options}");
        }
        mounted.unmount();
    }
}

/// Fills the disk that `below` is to the last byte.
fn others_take_all(below: &Loop) {
    let mut file = std::fs::File::create(below.place().join("others")).unwrap();
    while file.write_all(&[7; 65536]).is_ok() {}
    while file.write_all(&[7; 512]).is_ok() {}
    file.sync_all().unwrap();
    assert_eq!(nix::sys::statvfs::statvfs(&below.place()).unwrap().blocks_available(), 0);
}

#[test]
fn what_is_deleted_comes_back_where_others_took_every_byte() {
    if !able(&["mkfs.ext4"]) || !root() {
        return;
    }
    let cases = [
        ("leveled", false),
        ("leveled", true),
        ("leveled,value_log=on", true),
        ("tiered", true),
        ("time-window", false),
    ];
    for (policy, is_killed) in cases {
        let below = Loop::with("ext4", 400 * MEBIBYTE, &["-m", "0"]);
        let point = below.home.path().join("mnt");
        std::fs::create_dir(&point).unwrap();
        let mounted = Mounted { store: below.place().join("store"), point };
        let what = format!("{policy}, killed: {is_killed}");
        let options = format!("engine=lsm,policy={policy}");
        mounted.mount(&[], &options);
        let (count, error) = mounted.fill(200);
        assert_eq!(error.unwrap().raw_os_error(), Some(libc::ENOSPC), "{what}");
        assert!(mounted.number("/space/ballast_bytes") > MEBIBYTE, "{what}");
        if is_killed {
            mounted.kill()
        } else {
            mounted.unmount()
        }
        others_take_all(&below);
        mounted.mount(&[], &options);
        for entry in std::fs::read_dir(&mounted.point).unwrap() {
            let path = entry.unwrap().path();
            std::fs::remove_file(&path).unwrap_or_else(|error| panic!("{what}: {}: {error}", path.display()));
        }
        // Nothing is left to do for the next one.
        mounted.unmount();
        mounted.mount(&[], &options);
        let again = mounted.fill(count).0;
        println!("{what}: {count} files, then {again}");
        // What new data leaves free, a sixteenth of the disk, others have taken.
        let report = || {
            let text = |name: &str| std::fs::read_to_string(mounted.point.join(name)).unwrap_or_default();
            let events = text(".stats.d/events");
            let last: Vec<&str> = events.lines().rev().take(400).collect();
            let tables = text(".stats.d/lsm.json");
            format!("{}\n{}\n{tables}\n{}", text(".stats"), text(".stats.d/levels"), last.join("\n"))
        };
        assert!(again >= count * 8 / 10, "{what}: {again} of {count} files are written again\n{}", report());
        for number in 0..again {
            assert!(std::fs::read(mounted.file(number)).unwrap() == content(number), "{what}: file {number}");
        }
        mounted.unmount();
    }
}

/// What a B-tree needs to go on its files have already, wherever in them that is.
#[test]
fn a_btree_of_whose_disk_others_took_every_byte_is_emptied_and_filled_again() {
    if !able(&["mkfs.ext4"]) || !root() {
        return;
    }
    for (options, is_killed) in
        [("btree", false), ("btree,reserve=16M", true), ("btree,torn=doublewrite", true)]
    {
        let below = Loop::new("ext4", 400 * MEBIBYTE);
        let point = below.home.path().join("mnt");
        std::fs::create_dir(&point).unwrap();
        let mounted = Mounted { store: below.place().join("store"), point };
        let options = format!("engine={options}");
        mounted.mount(&[], &options);
        let (count, error) = mounted.fill(200);
        assert_eq!(error.unwrap().raw_os_error(), Some(libc::ENOSPC));
        assert!(count > 60, "{options}: full after {count} files");
        match is_killed {
            true => mounted.kill(),
            false => mounted.unmount(),
        }
        let mut ballast = std::fs::File::create(below.place().join("ballast")).unwrap();
        while ballast.write_all(&[7; 4096]).is_ok() {}
        drop(ballast);
        mounted.mount(&[], &options);
        for entry in std::fs::read_dir(&mounted.point).unwrap() {
            let path = entry.unwrap().path();
            std::fs::remove_file(&path)
                .unwrap_or_else(|error| panic!("{options}: {}: {error}", path.display()));
        }
        let again = mounted.fill(count).0;
        assert!(again * 5 >= count * 4, "{options}: {again} files again of {count}");
        let compare = || {
            for number in 0..again {
                let read = std::fs::read(mounted.file(number)).unwrap();
                assert!(read == content(number), "{options}: file {number} of {again}");
            }
        };
        compare();
        mounted.unmount();
        mounted.mount(&[], &options);
        compare();
        mounted.unmount();
    }
}

#[test]
fn without_an_inode_left_everything_is_deleted_and_mounted() {
    if !able(&["mkfs.ext4"]) || !root() {
        return;
    }
    for (engine, options) in [("lsm", ",table=1M,memtable=1M,level_base=4M"), ("btree", "")] {
        let below = Loop::with("ext4", 400 * MEBIBYTE, &["-N", "192", "-m", "0"]);
        let point = below.home.path().join("mnt");
        std::fs::create_dir(&point).unwrap();
        let mounted = Mounted { store: below.place().join("store"), point };
        let options = format!("engine={engine}{options}");
        mounted.mount(&[], &options);
        assert_eq!(mounted.fill(20).0, 20);
        let others = below.place().join("others");
        std::fs::create_dir(&others).unwrap();
        let take_all = || {
            (0..)
                .take_while(|n| {
                    std::fs::File::create(others.join(format!("{}-{n}", others_number()))).is_ok()
                })
                .count()
        };
        assert!(take_all() > 20);
        for number in 0..20 {
            std::fs::remove_file(mounted.file(number))
                .unwrap_or_else(|error| panic!("{engine}: removing file {number}: {error}"));
            if number % 5 == 4 {
                mounted.unmount();
                take_all();
                mounted.mount(&[], &options);
                for number in number + 1..20 {
                    assert_eq!(std::fs::read(mounted.file(number)).unwrap(), content(number), "{engine}");
                }
            }
        }
        // What an LSM-tree is refused for is said.
        let refused = mounted.fill(100).1;
        if let Some(error) = refused {
            assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
            let state = || std::fs::read_to_string(mounted.point.join(".stats")).unwrap();
            assert!(
                crate::host::until(std::time::Duration::from_secs(10), || state().contains("inodes")),
                "{}",
                state()
            );
        }
        std::fs::remove_dir_all(&others).unwrap();
        assert!(
            crate::host::until(std::time::Duration::from_secs(60), || mounted.fill(5).0 == 5),
            "{engine}"
        );
        mounted.unmount();
    }
}

/// A new number with each call.
fn others_number() -> u64 {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed)
}

#[test]
fn a_limit_on_file_sizes_is_an_error_of_one_write() {
    if !able(&["prlimit"]) || !root() {
        return;
    }
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mounted = Mounted { store: home.path().join("store"), point: home.path().join("mnt") };
    std::fs::create_dir(&mounted.point).unwrap();
    mounted.mount(&["prlimit", "--fsize=67108864"], "engine=btree,sync=always");
    let (count, error) = mounted.fill(100);
    assert!(matches!(error.unwrap().raw_os_error(), Some(libc::ENOSPC | libc::EFBIG)), "after {count} files");
    assert!(count > 5, "refused after {count} files");
    assert_eq!(std::fs::read(mounted.file(1)).unwrap(), content(1));
    for number in 0..=count {
        std::fs::remove_file(mounted.file(number)).unwrap();
    }
    // Once the blocks are deleted and a checkpoint has been.
    assert!(crate::host::until(std::time::Duration::from_secs(120), || mounted.fill(2).0 == 2));
    mounted.unmount();
}

/// XFS sets room aside behind a file that grew, as much as it has, while the file is open.
#[test]
fn tables_take_no_more_of_an_xfs_than_they_hold() {
    use std::os::unix::fs::MetadataExt;
    if !able(&["mkfs.xfs"]) || !root() {
        return;
    }
    let below = Loop::new("xfs", 1024 * MEBIBYTE);
    let point = below.home.path().join("mnt");
    std::fs::create_dir(&point).unwrap();
    let mounted = Mounted { store: below.place().join("store"), point };
    mounted.mount(&[], "engine=lsm,memtable=16M,table=16M");
    assert_eq!(mounted.fill(60).0, 60);
    let (mut bytes, mut taken_bytes) = (0, 0);
    for entry in std::fs::read_dir(&mounted.store).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name().to_string_lossy().starts_with("table.") {
            let found = entry.metadata().unwrap();
            (bytes, taken_bytes) = (bytes + found.len(), taken_bytes + found.blocks() * 512);
        }
    }
    mounted.unmount();
    // One may be on its way.
    assert!(bytes > 64 * MEBIBYTE && taken_bytes < bytes + 32 * MEBIBYTE, "{bytes} bytes take {taken_bytes}");
}
