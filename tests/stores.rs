//! Stores that an earlier version of the program has written: `tests/fixtures/stores/`, one of each engine, killed with changes in
//! the log alone. `make.sh` there says how they came to be. What they hold must be read for as long as their format is supported, and a change of
//! the code that is none of the format must not need new ones.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use kvfs::base::clock::{Clock, ManualClock};
use kvfs::disk::{Disk, Purpose, SimDisk, Space};
use kvfs::engine::{self, Command, Engine, Tier};
use kvfs::fs::FileSystem;
use kvfs::fs::types::{Attributes, FileKind, Ino, ROOT};
use kvfs::store::Description;

fn home() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/stores")
}

/// The files of a store, as they were left, on a disk in memory.
fn stored(name: &str) -> Arc<SimDisk> {
    let disk = SimDisk::new();
    for entry in std::fs::read_dir(home().join(name)).unwrap() {
        let path = entry.unwrap().path();
        let file = disk.create(path.file_name().unwrap().to_str().unwrap()).unwrap();
        file.write_at(Purpose::Recovery, 0, &std::fs::read(&path).unwrap()).unwrap();
        file.sync(Purpose::Recovery).unwrap();
    }
    disk.sync_names().unwrap();
    disk
}

fn open(disk: &Arc<SimDisk>) -> (Arc<dyn Engine>, Arc<FileSystem>) {
    let settings = Description::load(&**disk).unwrap().unwrap().settings(&[]).unwrap();
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::default());
    let engine = engine::open(disk.clone(), clock.clone(), &settings.engine).unwrap();
    let space = || Ok(Space { total_bytes: 1 << 40, free_bytes: 1 << 39, ..Space::default() });
    let fs = FileSystem::open(engine.clone(), clock, settings.fs, Arc::new(space)).unwrap();
    (engine, fs)
}

/// A line for each file below `dir`, as `make.sh` writes them.
fn list(fs: &FileSystem, dir: Ino, path: &str, lines: &mut Vec<String>) {
    let mut names = Vec::new();
    fs.readdir(Tier::Disk, dir, 0, &mut |entry| {
        names.push(entry.name.to_vec());
        true
    })
    .unwrap();
    for name in names.into_iter().filter(|name| name != b"." && name != b"..") {
        let Attributes { ino, kind, permissions, links, size, .. } =
            fs.lookup(Tier::Disk, dir, &name).unwrap();
        let path = format!("{path}/{}", name.escape_ascii());
        let (word, content, links) = match kind {
            FileKind::Directory => ("directory", Vec::new(), 0),
            FileKind::Symlink => ("link", fs.readlink(Tier::Disk, ino).unwrap().to_vec(), links),
            _ => ("file", fs.read(Tier::Disk, ino, 0, size as u32).unwrap(), links),
        };
        let note = fs
            .getxattr(Tier::Disk, ino, b"user.note")
            .map_or("-".into(), |note| note.to_vec().escape_ascii().to_string());
        let (bytes, sum) = (content.len(), crc32fast::hash(&content));
        lines.push(format!("{path} {word} {permissions:o} {links} {bytes} {sum:08x} {note}"));
        if kind == FileKind::Directory {
            list(fs, ino, &path, lines);
        }
    }
}

fn tree(fs: &FileSystem) -> Vec<String> {
    let mut lines = Vec::new();
    list(fs, ROOT, "", &mut lines);
    lines.sort();
    lines
}

#[test]
fn a_store_of_an_earlier_version_holds_what_it_held() {
    let text = std::fs::read_to_string(home().join("tree.txt")).unwrap();
    let expected: Vec<&str> = text.lines().collect();
    assert!(expected.len() > 30);
    for name in ["lsm", "btree"] {
        let disk = stored(name);
        let (engine, fs) = open(&disk);
        assert_eq!(tree(&fs), expected, "{name}");
        engine::run(&*engine, Command::Verify).unwrap();
        // Written anew by this version, and opened once more.
        engine::run(&*engine, Command::Compact).unwrap();
        engine::settle(&*engine).unwrap();
        assert_eq!(tree(&fs), expected, "{name}, written anew");
        while fs.work().unwrap() == engine::Pending::More {}
        fs.close().unwrap();
        drop(fs);
        engine::sync(&*engine).unwrap();
        engine.close().unwrap();
        drop(engine);
        let (engine, fs) = open(&disk.kill());
        assert_eq!(tree(&fs), expected, "{name}, closed and opened");
        engine::run(&*engine, Command::Verify).unwrap();
    }
}
