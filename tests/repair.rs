//! Repairs of stores on a simulated disk, both engines: planted defects of every kind, turned bits anywhere, and power cuts while the
//! repair runs.
//!
//! After every repair a second look finds nothing, and every file that the report does not name reads as before.
//! `SEED=n cargo test --test repair` begins the turned bits at another seed; `KVFS_TEST_ROUNDS` says how many.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use kvfs::base::clock::{Clock, ManualClock};
use kvfs::base::prng::Prng;
use kvfs::disk::{Disk, Purpose, SimDisk, Space};
use kvfs::engine::{self, Batch, Command, Engine, KeyRange, Kind, Tier};
use kvfs::fs::keys::{self, Key};
use kvfs::fs::meter::Op;
use kvfs::fs::types::{Attributes, Caller, FileKind, Ino, NewNode, ROOT, XattrMode};
use kvfs::fs::{FileSystem, Part, SpaceSource};
use kvfs::repair::{self, Report};
use kvfs::store::{Description, Settings};

const TIER: Tier = Tier::Disk;

fn space() -> SpaceSource {
    Arc::new(|| Ok(Space { total_bytes: 1 << 40, free_bytes: 1 << 39, ..Space::default() }))
}

fn options(kind: Kind, more: &str) -> Vec<(String, String)> {
    let sizes = "page_size=4K,dirty_max=256K,checkpoint_log=512K,memtable=128K,table=64K,level_base=256K,l0_trigger=2";
    let all = format!("engine={kind},{sizes},log_segment=64K,cache=1M,{more}");
    let pairs = all.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

/// A store that is open.
struct Open {
    engine: Arc<dyn Engine>,
    fs: Arc<FileSystem>,
}

impl Open {
    fn engine(disk: &Arc<SimDisk>) -> (Arc<dyn Engine>, Settings) {
        let settings = Description::load(&**disk).unwrap().unwrap().settings(&[]).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::default());
        (engine::open(disk.clone(), clock, &settings.engine).unwrap(), settings)
    }

    fn new(disk: &Arc<SimDisk>) -> Open {
        let (engine, settings) = Open::engine(disk);
        let clock = Arc::new(ManualClock::default());
        let fs = FileSystem::open(engine.clone(), clock, settings.fs, space()).unwrap();
        Open { engine, fs }
    }

    fn settle(&self) {
        engine::settle(&*self.engine).unwrap();
    }

    fn make(&self, op: Op, parent: Ino, name: &str, node: NewNode<'_>) -> Ino {
        let made = self.fs.make(TIER, op, Caller::ROOT, parent, name.as_bytes(), 0o644, 0, node);
        made.unwrap().ino
    }

    fn write(&self, ino: Ino, offset: u64, data: Vec<u8>) {
        self.settle();
        self.fs.write(TIER, Caller::ROOT, ino, offset, &data.into(), false).unwrap();
    }

    fn run(&self, command: Command) {
        engine::run(&*self.engine, command).unwrap();
        self.settle();
    }

    fn close(self) {
        while self.fs.work().unwrap() == engine::Pending::More {}
        self.fs.close().unwrap();
        engine::sync(&*self.engine).unwrap();
        self.engine.close().unwrap();
    }
}

fn noise(prng: &mut Prng, length: usize) -> Vec<u8> {
    (0..length).map(|_| prng.bits() as u8).collect()
}

/// A store with directories, files of many sizes, some overwritten, some removed, attributes and symbolic links. Unless
/// `closed`, its last changes lie in the log alone, as after `kill -9`.
fn store(kind: Kind, more: &str, closed: bool) -> Arc<SimDisk> {
    let disk = SimDisk::new();
    let description = Description::new(&options(kind, more)).unwrap();
    description.save(&*disk).unwrap();
    let open = Open::new(&disk);
    let mut prng = Prng::new(7);
    let mut directories = vec![ROOT];
    for number in 0..6 {
        let above = directories[prng.below(directories.len() as u64) as usize];
        directories.push(open.make(Op::Mkdir, above, &format!("directory-{number}"), NewNode::Directory));
    }
    let mut files = Vec::new();
    for number in 0..60 {
        let home = directories[prng.below(directories.len() as u64) as usize];
        let name = format!("file-{number}");
        let ino = open.make(Op::Create, home, &name, NewNode::File);
        let length = if prng.one_in(6) { 40_000 } else { prng.below(9000) } as usize;
        let data = noise(&mut prng, length);
        open.write(ino, 0, data);
        if prng.one_in(5) {
            let value = noise(&mut prng, 40);
            open.fs.setxattr(TIER, ino, b"user.note", &value, XattrMode::Either).unwrap();
        }
        files.push((home, name, ino));
        if number % 3 == 0 {
            engine::sync(&*open.engine).unwrap();
        }
        match number {
            20 => open.run(Command::Flush),
            40 => open.run(Command::Compact),
            50 => open.run(Command::Flush),
            _ => {}
        }
        if number % 7 == 3 {
            open.make(Op::Symlink, home, &format!("link-{number}"), NewNode::Symlink(b"somewhere/else"));
        }
        if number % 9 == 5 {
            let (home, name, _) = files.swap_remove(prng.below(files.len() as u64) as usize);
            open.fs.unlink(TIER, home, name.as_bytes()).unwrap();
        }
        if number % 4 == 1 {
            let (_, _, ino) = files[prng.below(files.len() as u64) as usize];
            let (at, data) = (prng.below(6000), noise(&mut prng, 5000));
            open.write(ino, at, data);
        }
    }
    if closed {
        open.close();
    } else {
        engine::sync(&*open.engine).unwrap();
        // Says in the log that the rest of it is durable. Damage to the very last records looks like a torn end.
        let ino = open.make(Op::Create, ROOT, LAST, NewNode::File);
        open.write(ino, 0, vec![1; 100]);
        engine::sync(&*open.engine).unwrap();
    }
    disk.kill()
}

/// The file whose making is the last thing in the log.
const LAST: &str = "last";

/// What can be seen of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    path: String,
    kind: FileKind,
    permissions: u32,
    links: u32,
    content: Vec<u8>,
    note: Option<Vec<u8>>,
}

fn walk(fs: &FileSystem, dir: Ino, path: &str, seen: &mut BTreeMap<Ino, Seen>) {
    let mut entries = Vec::new();
    fs.readdir(TIER, dir, 0, &mut |entry| {
        entries.push(entry.name.to_vec());
        true
    })
    .unwrap();
    for name in entries.into_iter().filter(|name| name != b"." && name != b"..") {
        let Attributes { ino, kind, permissions, links, size, .. } = fs.lookup(TIER, dir, &name).unwrap();
        let path = format!("{path}/{}", name.escape_ascii());
        let content = match kind {
            FileKind::File => fs.read(TIER, ino, 0, size as u32).unwrap(),
            FileKind::Symlink => fs.readlink(TIER, ino).unwrap().to_vec(),
            _ => Vec::new(),
        };
        let note = fs.getxattr(TIER, ino, b"user.note").ok().map(|value| value.to_vec());
        let links = if kind == FileKind::Directory { 0 } else { links };
        seen.insert(ino, Seen { path: path.clone(), kind, permissions, links, content, note });
        if kind == FileKind::Directory {
            walk(fs, ino, &path, seen);
        }
    }
}

/// Every file by its inode.
fn contents(disk: &Arc<SimDisk>) -> BTreeMap<Ino, Seen> {
    let open = Open::new(&disk.kill());
    let mut seen = BTreeMap::new();
    walk(&open.fs, ROOT, "", &mut seen);
    seen
}

fn repair(disk: &Arc<SimDisk>, apply: bool) -> Report {
    repair::repair(disk.clone(), apply, &mut |_| ()).unwrap_or_else(|error| panic!("{error}"))
}

/// Repairs, and looks again. The dry run before says the same and writes nothing.
fn repaired(disk: &Arc<SimDisk>, what: &str) -> Report {
    let requests = disk.requests();
    let dry = repair(disk, false);
    assert_eq!(disk.requests(), requests, "{what}: a dry run writes nothing");
    let report = repair(disk, true);
    assert_eq!((&dry.losses, &dry.affected), (&report.losses, &report.affected), "{what}");
    assert_eq!(dry.is_clean(), report.is_clean(), "{what}");
    assert!(report.left.is_empty(), "{what}:\n{report}");
    let again = repair(disk, false);
    assert!(again.is_clean(), "{what}: a second look\n{again}\nafter\n{report}");
    let left: Vec<String> = disk.list().unwrap().into_iter().map(|info| info.name).collect();
    assert!(!left.iter().any(|name| name.starts_with("repair.") || name == "REPAIRED"), "{what}: {left:?}");
    report
}

/// Holds what is there to what was: whatever the report does not name is as before. Returns whether anything could be held.
fn compare(before: &BTreeMap<Ino, Seen>, disk: &Arc<SimDisk>, report: &Report, what: &str) -> bool {
    if report.losses.iter().any(|loss| loss.keys.is_none()) {
        return false;
    }
    let after = contents(disk);
    let named: BTreeSet<Ino> = report.affected.iter().map(|part| part.ino).collect();
    let moved = |path: &str| {
        let above = |part: &&kvfs::fs::Affected| {
            matches!(part.part, Part::Names | Part::Attributes)
                && (part.path == "/" || path.starts_with(&format!("{}/", part.path)))
        };
        path.starts_with("/lost+found/") || report.affected.iter().any(|part| above(&part))
    };
    let names_lost = report.affected.iter().any(|part| part.part == Part::Names);
    for (ino, old) in before.iter().filter(|(ino, _)| !named.contains(ino)) {
        if old.path == format!("/{LAST}") {
            continue;
        }
        let Some(new) = after.get(ino) else {
            // Both its name and its record: then nothing is left that says its path.
            assert!(moved(&old.path), "{what}: {} is gone and not named\n{report}", old.path);
            continue;
        };
        if old.path != new.path {
            assert!(
                moved(&old.path) || moved(&new.path),
                "{what}: {} is at {}\n{report}",
                old.path,
                new.path
            );
        }
        let links = if names_lost { old.links } else { new.links };
        let same = Seen { path: old.path.clone(), links, ..new.clone() };
        assert!(same == *old, "{what}: {} is not as it was and not named\n{report}", old.path);
    }
    true
}

fn flip(disk: &SimDisk, name: &str, byte: u64) {
    assert!(disk.flip_bit(name, byte * 8 + 3), "{name} has no byte {byte}");
}

/// A flaw in data that is needed.
fn damage(disk: &SimDisk, kind: Kind) {
    if kind == Kind::BTREE {
        flip(disk, "btree.pages", pages(disk, 1)[0] * 4096 + 100);
    } else {
        flip(disk, &files(disk, "table.")[0].0, 50);
    }
}

fn files(disk: &SimDisk, prefix: &str) -> Vec<(String, u64)> {
    let all = disk.list().unwrap().into_iter().filter(|info| info.name.starts_with(prefix));
    all.map(|info| (info.name, info.bytes)).collect()
}

fn bytes_of(disk: &SimDisk, name: &str) -> Vec<u8> {
    kvfs::disk::read_all(&*disk.open(name).unwrap(), Purpose::Recovery).unwrap()
}

/// The first key and value that `wanted` wants.
fn find(engine: &dyn Engine, wanted: impl Fn(Key<'_>) -> bool) -> (Vec<u8>, Vec<u8>) {
    let mut found = None;
    engine
        .scan(KeyRange::ALL, TIER, &mut |key, value| {
            if keys::parse(key).is_some_and(&wanted) {
                found = Some((key.to_vec(), value.to_vec()));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    found.expect("such a key")
}

fn all(engine: &dyn Engine, wanted: impl Fn(Key<'_>) -> bool) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    engine
        .scan(KeyRange::ALL, TIER, &mut |key, _| {
            found.extend(keys::parse(key).is_some_and(&wanted).then(|| key.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
    found
}

fn is_name<'a>(name: &'a str) -> impl Fn(Key<'_>) -> bool + use<'a> {
    move |key| matches!(key, Key::Dirent { name: found, .. } if found == name.as_bytes())
}

/// The inode that a name's value says.
fn ino_of(value: &[u8]) -> Ino {
    Ino(u64::from_be_bytes(value[..8].try_into().unwrap()))
}

/// A record of `ino` with big-endian bytes at an offset replaced.
fn patched(engine: &dyn Engine, ino: Ino, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut record = engine.get(&keys::inode(ino), TIER).unwrap().unwrap().to_vec();
    record[at..at + bytes.len()].copy_from_slice(bytes);
    record
}

const LINKS: usize = 4;
const FLAGS: usize = 24;
const PARENT: usize = 25;
const SIZE: usize = 33;
const STORED: usize = 41;

/// A store with known names: /dir/inner, /dir/file (two blocks, an attribute), /keep, /other.
fn small(kind: Kind) -> (Arc<SimDisk>, [Ino; 4]) {
    let disk = SimDisk::new();
    Description::new(&options(kind, "")).unwrap().save(&*disk).unwrap();
    let open = Open::new(&disk);
    let dir = open.make(Op::Mkdir, ROOT, "dir", NewNode::Directory);
    let inner = open.make(Op::Mkdir, dir, "inner", NewNode::Directory);
    let file = open.make(Op::Create, dir, "file", NewNode::File);
    open.write(file, 0, vec![7; 6000]);
    open.fs.setxattr(TIER, file, b"user.note", b"x", XattrMode::Either).unwrap();
    let keep = open.make(Op::Create, ROOT, "keep", NewNode::File);
    open.write(keep, 0, vec![9; 5000]);
    open.make(Op::Create, ROOT, "other", NewNode::File);
    open.close();
    (disk, [dir, inner, file, keep])
}

type Plant = fn(&dyn Engine, [Ino; 4], &mut Batch);
type Look = fn(&BTreeMap<Ino, Seen>, [Ino; 4]) -> bool;

/// Name, how to plant it, what must hold after the repair beside /keep.
const DEFECTS: &[(&str, Plant, Look)] = &[
    (
        "a wrong count of links",
        |engine, [.., file, _], batch| {
            batch.put(keys::inode(file), patched(engine, file, LINKS, &[0, 0, 0, 9]))
        },
        |after, [.., file, _]| after[&file].links == 1 && after[&file].path == "/dir/file",
    ),
    (
        "a wrong size, too small",
        |engine, [.., file, _], batch| {
            let mut record = patched(engine, file, SIZE, &100u64.to_be_bytes());
            record[STORED..STORED + 8].copy_from_slice(&100u64.to_be_bytes());
            batch.put(keys::inode(file), record);
        },
        |after, [.., file, _]| after[&file].content == vec![7; 6000],
    ),
    (
        "wrong stored bytes",
        |engine, [.., file, _], batch| {
            batch.put(keys::inode(file), patched(engine, file, STORED, &1u64.to_be_bytes()));
        },
        |after, [.., file, _]| after[&file].content == vec![7; 6000],
    ),
    (
        "an attribute that is not announced",
        |engine, [.., file, _], batch| batch.put(keys::inode(file), patched(engine, file, FLAGS, &[0])),
        |after, [.., file, _]| after[&file].note.as_deref() == Some(b"x"),
    ),
    (
        "ranges to reclaim that are announced and not there",
        |engine, [.., file, _], batch| batch.put(keys::inode(file), patched(engine, file, FLAGS, &[5])),
        |after, [.., file, _]| after[&file].content == vec![7; 6000],
    ),
    (
        "an inode without a name, with blocks",
        |engine, _, batch| batch.delete(find(engine, is_name("file")).0),
        |after, [.., file, _]| {
            after[&file].path == format!("/lost+found/#{file}") && after[&file].content == vec![7; 6000]
        },
    ),
    (
        "a directory without a name",
        |engine, _, batch| batch.delete(find(engine, is_name("dir")).0),
        |after, [dir, inner, file, _]| {
            after[&dir].path == format!("/lost+found/#{dir}")
                && after[&file].path == format!("/lost+found/#{dir}/file")
                && after[&inner].path == format!("/lost+found/#{dir}/inner")
        },
    ),
    (
        "lost+found is a file",
        |engine, _, batch| {
            let (key, value) = find(engine, is_name("other"));
            let secret = u64::from_be_bytes(
                engine.get(&keys::superblock(), TIER).unwrap().unwrap()[32..40].try_into().unwrap(),
            );
            batch.delete(key);
            batch.put(keys::dirent(ROOT, keys::name_hash(secret, b"lost+found"), b"lost+found"), value);
            batch.delete(find(engine, is_name("file")).0);
        },
        |after, [.., file, _]| {
            after[&file].path == format!("/lost+found.1/#{file}") && after[&file].content == vec![7; 6000]
        },
    ),
    (
        "blocks, attributes and marks of inodes that do not exist",
        |_, _, batch| {
            batch.put(keys::block(Ino(7778), 0, 3), vec![1; 10]);
            batch.put(keys::xattr(Ino(7779), b"user.a"), vec![1; 10]);
            batch.put(keys::orphan(Ino(7777)), Vec::new());
        },
        |after, _| after.len() == 5,
    ),
    (
        "a name for an inode that does not exist",
        |engine, _, batch| {
            let (_, value) = find(engine, is_name("other"));
            batch.delete(keys::inode(ino_of(&value)));
        },
        |after, _| after.len() == 4 && !after.values().any(|seen| seen.path == "/other"),
    ),
    (
        "a record that is gone, with name and blocks",
        |_, [.., file, _], batch| batch.delete(keys::inode(file)),
        |after, [.., file, _]| {
            let seen = &after[&file];
            seen.path == "/dir/file" && seen.content == vec![7; 6000] && seen.permissions == 0o600
        },
    ),
    (
        "a record that does not parse",
        |_, [.., file, _], batch| batch.put(keys::inode(file), vec![0xff; 30]),
        |after, [.., file, _]| after[&file].path == "/dir/file" && after[&file].content == vec![7; 6000],
    ),
    (
        "a directory's record that is gone",
        |_, [dir, ..], batch| batch.delete(keys::inode(dir)),
        |after, [dir, _, file, _]| after[&dir].path == "/dir" && after[&file].path == "/dir/file",
    ),
    (
        "no root directory",
        |_, _, batch| batch.delete(keys::inode(ROOT)),
        |after, [.., file, _]| after[&file].path == "/dir/file",
    ),
    (
        "a name that does not parse",
        |engine, _, batch| batch.put(find(engine, is_name("file")).0, vec![1, 2, 3]),
        |after, [.., file, _]| after[&file].path == format!("/lost+found/#{file}"),
    ),
    (
        "a name under the hash of another",
        |engine, [dir, ..], batch| {
            let (key, value) = find(engine, is_name("file"));
            batch.delete(key);
            batch.put(keys::dirent(dir, 12345, b"file"), value);
        },
        |after, [.., file, _]| after[&file].path == "/dir/file",
    ),
    (
        "a name that no file can have",
        |engine, [dir, ..], batch| {
            let (_, value) = find(engine, is_name("file"));
            batch.put(keys::dirent(dir, 5, b"a/b"), value);
        },
        |after, [.., file, _]| after[&file].path == "/dir/file" && after[&file].links == 1,
    ),
    (
        "a name of the wrong kind",
        |engine, _, batch| {
            let (key, mut value) = find(engine, is_name("file"));
            value[8] = 4;
            batch.put(key, value);
        },
        |after, [.., file, _]| after[&file].path == "/dir/file" && after[&file].kind == FileKind::File,
    ),
    (
        "names in a file",
        |engine, [.., file, keep], batch| {
            let (_, value) = find(engine, is_name("keep"));
            batch.put(keys::dirent(file, 5, b"in a file"), value);
            assert!(keep > Ino(0));
        },
        |after, [.., file, _]| after[&file].path == "/dir/file",
    ),
    (
        "two names for a directory",
        |engine, _, batch| {
            let (_, value) = find(engine, is_name("inner"));
            batch.put(keys::dirent(ROOT, 5, b"second"), value);
        },
        |after, [_, inner, ..]| after[&inner].path == "/dir/inner",
    ),
    (
        "a directory that is not where it says",
        |engine, [_, inner, file, _], batch| {
            batch.put(keys::inode(inner), patched(engine, inner, PARENT, &file.0.to_be_bytes()));
        },
        |after, [_, inner, ..]| after[&inner].path == "/dir/inner",
    ),
    (
        "directories that lie in each other",
        |engine, [dir, inner, ..], batch| {
            let (key, value) = find(engine, is_name("dir"));
            batch.delete(key);
            batch.put(keys::dirent(inner, 5, b"dir"), value);
            batch.put(keys::inode(dir), patched(engine, dir, PARENT, &inner.0.to_be_bytes()));
        },
        |after, [dir, inner, file, _]| {
            let found = format!("/lost+found/#{}", dir.min(inner));
            after[&dir].path.starts_with(&found)
                && after[&inner].path.starts_with(&found)
                && after[&file].path.starts_with(&found)
        },
    ),
    (
        "a deleted file with a name",
        |_, [.., file, _], batch| batch.put(keys::orphan(file), Vec::new()),
        |after, [.., file, _]| after[&file].path == "/dir/file" && after[&file].content == vec![7; 6000],
    ),
    (
        "blocks of another epoch",
        |_, [.., file, _], batch| {
            batch.put(keys::block(file, 9, 0), vec![5; 100]);
        },
        // The newest content counts.
        |after, [.., file, _]| after[&file].content[..100] == [5; 100],
    ),
    (
        "blocks of a directory, and empty and oversized ones",
        |_, [dir, _, file, _], batch| {
            batch.put(keys::block(dir, 0, 0), vec![5; 100]);
            batch.put(keys::block(file, 0, 1), vec![7; 5000]);
            batch.put(keys::block(file, 0, 7), Vec::new());
        },
        |after, [.., file, _]| after[&file].content == vec![7; 8192],
    ),
    (
        "ranges to reclaim that do not parse or have not begun",
        |_, [.., file, _], batch| {
            batch.put(keys::reclaim(file, 0, 9), vec![1]);
            batch.put(keys::reclaim(file, 4, 9), vec![0, 0, 0, 0, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0, 1]);
        },
        |after, [.., file, _]| after[&file].content == vec![7; 6000],
    ),
    (
        "a range to reclaim that is not announced",
        |_, [.., file, _], batch| {
            batch.put(keys::reclaim(file, 0, 9), vec![0, 0, 0, 0, 0, 0, 0, 11, 0, 0, 0, 0, 0, 0, 0, 1]);
        },
        |after, [.., file, _]| after[&file].content == vec![7; 6000],
    ),
    (
        "wrong totals",
        |_, _, batch| {
            let mut record = vec![1];
            record.extend([0; 32]);
            batch.put(keys::counter(b"total"), record);
        },
        |after, _| after.len() == 5,
    ),
    (
        "no superblock",
        |_, _, batch| batch.delete(keys::superblock()),
        |after, [.., file, _]| after.len() == 5 && after[&file].path == "/dir/file",
    ),
    (
        "numbers that are not given away",
        |engine, _, batch| {
            let mut record = engine.get(&keys::superblock(), TIER).unwrap().unwrap().to_vec();
            record[40..48].copy_from_slice(&3u64.to_be_bytes());
            batch.put(keys::superblock(), record);
        },
        |after, _| after.len() == 5,
    ),
    (
        "a key of nobody",
        |_, _, batch| batch.put(b"\x99strange".to_vec(), vec![1]),
        |after, _| after.len() == 5,
    ),
    (
        "no names at all",
        |engine, _, batch| {
            all(engine, |key| matches!(key, Key::Dirent { .. }))
                .into_iter()
                .for_each(|key| batch.delete(key));
        },
        |after, [dir, inner, file, keep]| {
            [dir, inner, file, keep].iter().all(|ino| after[ino].path == format!("/lost+found/#{ino}"))
        },
    ),
];

fn planted(kind: Kind, plant: Plant) -> (Arc<SimDisk>, [Ino; 4]) {
    let (disk, inos) = small(kind);
    let disk = disk.kill();
    let (engine, _) = Open::engine(&disk);
    let mut batch = Batch::new(0);
    plant(&*engine, inos, &mut batch);
    engine.apply(&batch, TIER).unwrap();
    engine::sync(&*engine).unwrap();
    engine.close().unwrap();
    (disk, inos)
}

#[test]
fn every_planted_defect_of_the_filesystem_is_mended() {
    for kind in [Kind::LSM, Kind::BTREE] {
        for (name, plant, look) in DEFECTS {
            let what = format!("{kind} {name}");
            let (disk, inos) = planted(kind, *plant);
            let report = repaired(&disk, &what);
            assert!(report.damage.is_empty() && !report.problems.is_empty(), "{what}:\n{report}");
            assert!(!report.mends.is_empty(), "{what}:\n{report}");
            let after = contents(&disk);
            assert!(look(&after, inos), "{what}: {after:#?}\n{report}");
            let keep = after.get(&inos[3]).unwrap_or_else(|| panic!("{what}: /keep"));
            assert!(keep.content == vec![9; 5000], "{what}");
        }
    }
}

#[test]
fn a_sound_store_is_left_alone() {
    for kind in [Kind::LSM, Kind::BTREE] {
        for closed in [true, false] {
            let disk = store(kind, "", closed);
            let requests = disk.requests();
            let report = repair(&disk, true);
            assert!(report.is_clean(), "{kind}:\n{report}");
            assert!(report.summary.inodes > 50 && report.mends.is_empty(), "{kind}");
            assert_eq!(disk.requests(), requests, "{kind}: nothing to write");
        }
    }
}

/// Cuts the power before every nth changing request of a repair; what is left is repaired, and ends as it would have.
fn interrupted(base: &Arc<SimDisk>, stride: u64, what: &str) {
    let whole = base.kill();
    let requests = whole.requests();
    repair(&whole, true);
    let requests = whole.requests() - requests;
    let expected = contents(&whole);
    let mut runs = 0;
    for stop in (0..requests).step_by(stride as usize) {
        let disk = base.kill();
        disk.stop_at(disk.requests() + stop);
        let stopped = repair::repair(disk.clone(), true, &mut |_| ());
        assert!(stopped.is_err(), "{what}, request {stop}: it needs fewer than before");
        for seed in 0..2 {
            let after = disk.crash(stop * 2 + seed);
            let what = format!("{what}, request {stop} of {requests}, image {seed}");
            let _ = repair(&after, false);
            let report = repair(&after, true);
            assert!(report.left.is_empty(), "{what}:\n{report}");
            assert!(repair(&after, false).is_clean(), "{what}");
            // The directory for what has no name may have got another number.
            let content = |seen: &BTreeMap<Ino, Seen>| -> BTreeMap<String, Vec<u8>> {
                seen.values().map(|seen| (seen.path.clone(), seen.content.clone())).collect()
            };
            assert!(content(&contents(&after)) == content(&expected), "{what}:\n{report}");
            runs += 1;
        }
    }
    assert!(runs > 8, "{what}: {runs} runs");
}

#[test]
fn a_repair_in_place_may_be_interrupted_anywhere() {
    for kind in [Kind::LSM, Kind::BTREE] {
        let several: Plant = |engine, inos, batch| {
            for name in [
                "an inode without a name, with blocks",
                "blocks of a directory, and empty and oversized ones",
            ] {
                DEFECTS.iter().find(|(found, ..)| *found == name).unwrap().1(engine, inos, batch);
            }
        };
        interrupted(&planted(kind, several).0, 1, &format!("{kind}"));
    }
}

#[test]
fn a_salvage_may_be_interrupted_anywhere() {
    for kind in [Kind::LSM, Kind::BTREE] {
        let disk = store(kind, "", true);
        damage(&disk, kind);
        interrupted(&disk, 5, &format!("{kind}"));
    }
}

/// Units of the B-tree's pages of a level that look like some.
fn pages(disk: &SimDisk, level: u8) -> Vec<u64> {
    let bytes = bytes_of(disk, "btree.pages");
    let units = bytes.chunks(4096).enumerate().skip(2);
    units.filter(|(_, page)| page[4] == 0xB7 && page[5] == level).map(|(unit, _)| unit as u64).collect()
}

#[test]
fn every_kind_of_damage_below_the_lsm_tree_is_salvaged() {
    type Damage = fn(&SimDisk);
    let kinds: &[(&str, Damage)] = &[
        ("a block", |disk| {
            files(disk, "table.").iter().for_each(|(name, bytes)| flip(disk, name, bytes / 3))
        }),
        ("a first block", |disk| flip(disk, &files(disk, "table.")[0].0, 20)),
        ("a trailer", |disk| {
            files(disk, "table.").iter().for_each(|(name, bytes)| flip(disk, name, bytes - 2))
        }),
        ("a footer", |disk| {
            files(disk, "table.").iter().for_each(|(name, bytes)| flip(disk, name, bytes - 40))
        }),
        ("an index", |disk| {
            files(disk, "table.").iter().for_each(|(name, bytes)| flip(disk, name, bytes - 260))
        }),
        ("a missing table", |disk| disk.remove(&files(disk, "table.")[0].0).unwrap()),
        ("a table that is cut off", |disk| {
            let (name, bytes) = &files(disk, "table.")[0];
            disk.open(name).unwrap().set_size(bytes / 2).unwrap();
        }),
        ("an empty table", |disk| disk.open(&files(disk, "table.")[0].0).unwrap().set_size(0).unwrap()),
        ("the manifest's header", |disk| flip(disk, "manifest", 30)),
        ("the manifest's first edit", |disk| flip(disk, "manifest", 90)),
        ("the manifest's end", |disk| flip(disk, "manifest", files(disk, "manifest")[0].1 - 3)),
        ("the manifest cut off", |disk| disk.open("manifest").unwrap().set_size(45).unwrap()),
        ("a missing manifest", |disk| disk.remove("manifest").unwrap()),
        ("missing manifest and damaged blocks", |disk| {
            disk.remove("manifest").unwrap();
            files(disk, "table.").iter().for_each(|(name, bytes)| flip(disk, name, bytes / 2));
        }),
        ("a damaged log", |disk| {
            files(disk, "log.").iter().for_each(|(name, _)| flip(disk, name, 1024 + 60));
        }),
        ("values in the log", |disk| {
            files(disk, "log.")
                .iter()
                .for_each(|(name, _)| (1..6).for_each(|nth| flip(disk, name, nth * 9000)));
        }),
        ("the description", |disk| flip(disk, "STORE", 60)),
    ];
    for (more, closed) in [("", true), ("value_log=on,value_threshold=1K", true), ("", false)] {
        let base = store(Kind::LSM, more, closed);
        let before = contents(&base);
        let mut held = 0;
        for (name, damage) in kinds {
            let what = format!("{more} {closed} {name}");
            let disk = base.kill();
            damage(&disk);
            let report = repaired(&disk, &what);
            let compared = compare(&before, &disk, &report, &what);
            held += u32::from(compared);
            // What nobody needs any more may be damaged, and the end of the manifest torn.
            assert!(!report.is_clean() || compared, "{what}: nobody noticed");
        }
        assert!(held as usize >= kinds.len() - 2, "{more} {closed}: {held} of {}", kinds.len());
    }
}

#[test]
fn every_kind_of_damage_below_the_btree_is_salvaged() {
    type Damage = fn(&SimDisk);
    const FILE: &str = "btree.pages";
    fn page(disk: &SimDisk, level: u8, nth: usize) {
        let units = pages(disk, level);
        flip(disk, FILE, units[nth % units.len()] * 4096 + 200);
    }
    fn map(disk: &SimDisk) {
        // Word 10 of the newer meta page is where the free map lies.
        let bytes = bytes_of(disk, FILE);
        let word = |slot: usize, index: usize| {
            u64::from_le_bytes(bytes[slot * 4096 + 9 + index * 8..][..8].try_into().unwrap())
        };
        let newer = usize::from(word(1, 1) > word(0, 1));
        flip(disk, FILE, word(newer, 10) * 4096 + 1);
    }
    let kinds: &[(&str, Damage)] = &[
        ("a leaf", |disk| page(disk, 0, 3)),
        ("many leaves", |disk| (0..12).for_each(|nth| page(disk, 0, nth * 2))),
        ("an inner page", |disk| page(disk, 1, 0)),
        ("every inner page", |disk| {
            (1..4).for_each(|level| {
                pages(disk, level).iter().for_each(|unit| flip(disk, FILE, unit * 4096 + 200));
            });
        }),
        ("the free map", |disk| map(disk)),
        ("the free map and an inner page", |disk| {
            map(disk);
            page(disk, 1, 0);
        }),
        ("one meta page", |disk| flip(disk, FILE, 40)),
        ("the other meta page", |disk| flip(disk, FILE, 4096 + 40)),
        ("both meta pages", |disk| [40, 4096 + 40].iter().for_each(|at| flip(disk, FILE, *at))),
        ("a file that is cut off", |disk| {
            let bytes = files(disk, FILE)[0].1;
            disk.open(FILE).unwrap().set_size(bytes / 2).unwrap();
        }),
        ("extents", |disk| {
            let bytes = bytes_of(disk, FILE);
            let units = bytes.chunks(4096).enumerate().skip(2);
            let noisy = units
                .filter(|(_, unit)| unit[4] != 0xB7 && unit.iter().filter(|byte| **byte == 0).count() < 100);
            noisy.step_by(5).for_each(|(unit, _)| flip(disk, FILE, unit as u64 * 4096 + 77));
        }),
        ("a damaged log", |disk| {
            files(disk, "log.").iter().for_each(|(name, _)| flip(disk, name, 1024 + 60));
        }),
        ("a missing file", |disk| disk.remove(FILE).unwrap()),
        ("the description", |disk| flip(disk, "STORE", 60)),
    ];
    for (more, closed) in [("", true), ("torn=doublewrite", true), ("torn=image", false), ("", false)] {
        let base = store(Kind::BTREE, more, closed);
        let before = contents(&base);
        let mut held = 0;
        for (name, damage) in kinds {
            let what = format!("{more} {closed} {name}");
            let disk = base.kill();
            damage(&disk);
            let report = repaired(&disk, &what);
            let compared = compare(&before, &disk, &report, &what);
            held += u32::from(compared);
            assert!(!report.is_clean() || compared, "{what}: nobody noticed");
            if *name == "every inner page" {
                assert!(report.affected.is_empty(), "{what}: all leaves are there\n{report}");
            }
        }
        assert!(held as usize >= kinds.len() - 3, "{more} {closed}: {held} of {}", kinds.len());
    }
}

#[test]
fn turned_bits_and_lost_sectors_anywhere_cost_only_what_is_named() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (first, rounds) = (number("SEED").unwrap_or(0), number("KVFS_TEST_ROUNDS").unwrap_or(40));
    let bases = [
        (Kind::LSM, "", true),
        (Kind::LSM, "", false),
        (Kind::LSM, "value_log=on,value_threshold=1K,compression=none", false),
        (Kind::BTREE, "", true),
        (Kind::BTREE, "torn=doublewrite", false),
        (Kind::BTREE, "torn=image", false),
    ];
    for (kind, more, closed) in bases {
        let base = store(kind, more, closed);
        let before = contents(&base);
        let (mut clean, mut held, mut files_named) = (0, 0, 0);
        for seed in first..first + rounds {
            let mut prng = Prng::new(seed);
            let disk = base.kill();
            let names: Vec<(String, u64)> =
                files(&disk, "").into_iter().filter(|(_, bytes)| *bytes > 0).collect();
            for _ in 0..1 + prng.below(3) {
                let (name, bytes) = &names[prng.below(names.len() as u64) as usize];
                // Most of a segment of the log is behind its end.
                let bytes = if name.starts_with("log.") && prng.one_in(2) { bytes / 8 } else { *bytes };
                if prng.one_in(4) {
                    // A sector of something else.
                    let at = prng.below(bytes) / 512 * 512;
                    let length = 512.min(files(&disk, name)[0].1 - at) as usize;
                    let other = if prng.one_in(2) { vec![0; length] } else { noise(&mut prng, length) };
                    disk.open(name).unwrap().write_at(Purpose::Recovery, at, &other).unwrap();
                } else {
                    disk.flip_bit(name, prng.below(bytes * 8));
                }
            }
            let what = format!("{kind} {more} {closed} seed {seed}");
            let report = repaired(&disk, &what);
            clean += u64::from(report.is_clean());
            held += u64::from(compare(&before, &disk, &report, &what));
            files_named += report.affected.iter().map(|part| part.ino).collect::<BTreeSet<_>>().len() as u64;
        }
        println!(
            "{kind} {more} {closed}: {rounds} rounds, {clean} harmless, {held} compared, {files_named} files named of {}",
            before.len() as u64 * rounds
        );
        assert!(held * 10 >= rounds * 7, "{kind} {more} {closed}: {held} of {rounds} could be compared");
    }
}

#[test]
fn a_salvage_without_space_leaves_the_store_as_it_is() {
    for kind in [Kind::LSM, Kind::BTREE] {
        let disk = store(kind, "", true);
        let before = contents(&disk);
        damage(&disk, kind);
        let used: u64 = files(&disk, "").iter().map(|(_, bytes)| bytes).sum();
        disk.set_capacity(Some(used + (100 << 10)));
        let refused = repair::repair(disk.clone(), true, &mut |_| ()).unwrap_err().to_string();
        assert!(refused.contains("as much as its live data"), "{kind}: {refused}");
        disk.set_capacity(None);
        let report = repaired(&disk, &format!("{kind}"));
        assert!(compare(&before, &disk, &report, &format!("{kind}")));
    }
}

#[test]
fn a_store_of_another_version_is_not_repaired() {
    let disk = store(Kind::LSM, "", true);
    let text = String::from_utf8(bytes_of(&disk, "STORE")).unwrap();
    let body = text.replace("kvfs store 1", "kvfs store 9");
    let body = &body[..body.rfind("crc32=").unwrap()];
    let other = format!("{body}crc32={:08x}\n", crc32fast::hash(body.as_bytes()));
    disk.open("STORE").unwrap().write_at(Purpose::Recovery, 0, other.as_bytes()).unwrap();
    let refused = repair::repair(disk.clone(), true, &mut |_| ()).unwrap_err().to_string();
    assert!(refused.contains("format 9"), "{refused}");
    assert!(bytes_of(&disk, "STORE") == other.as_bytes());
}
