//! Filesystems below the store, each on a loop device of its own: what they do with requests for space.

use std::path::PathBuf;
use std::process::Command;

use kvfs::disk::{Access, Disk, OsDisk};

use crate::host::{able, root};

const MEBIBYTE: u64 = 1 << 20;

/// A new filesystem of `kind`, mounted until it is dropped.
struct Loop {
    home: tempfile::TempDir,
}

impl Loop {
    fn new(kind: &str, bytes: u64) -> Loop {
        let home = tempfile::tempdir().unwrap();
        let made = Loop { home };
        let image = made.home.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(bytes).unwrap();
        std::fs::create_dir(made.place()).unwrap();
        Loop::run(Command::new(format!("mkfs.{kind}")).arg("-q").arg(&image));
        Loop::run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(made.place()));
        made
    }

    fn run(command: &mut Command) {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
    }

    fn place(&self) -> PathBuf {
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
