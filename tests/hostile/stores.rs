//! Damaged stores. A store with known content is damaged in one or two files; it must open or be refused with an error that names
//! a file, and then give, for every file of it, what was written or an error, while it is changed, checked and opened again.
//!
//! | damage | of |
//! |---|---|
//! | bits turned, ranges overwritten, zeroed | any file |
//! | cut, emptied, lengthened, removed | any file |
//! | two files exchanged, one put over another, one copied to a name that may exist | any two |
//!
//! A closed store must hold its last state. One that was killed may come up older where its log is damaged, because the end of a
//! log cannot be told from a torn one; then each file must be as it was at some time.
//!
//! Below, records behind a sound engine are damaged: nothing then tells wrong data, so only panics and hangs count.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use kvfs::disk::{Disk, Purpose, SimDisk, read_all};
use kvfs::engine::{self, Batch, Command, Engine, KeyRange, MemEngine};
use kvfs::fs::operation::Op;
use kvfs::fs::types::{Caller, NewNode, ROOT, RenameMode, SetAttributes, XattrMode};
use kvfs::fs::{Options, keys};

use super::*;

/// What a file was, oldest first; `None` is "not there".
type Versions = BTreeMap<Vec<u8>, Vec<Option<Bytes>>>;

/// A store before it is damaged.
struct Original {
    disk: Arc<SimDisk>,
    versions: Versions,
    closed: bool,
}

fn content(prng: &mut Prng, index: u64) -> Bytes {
    let length = [0, 1, 60, 700, 4096, 5000, 12_288, 30_000][prng.below(8) as usize];
    (0..length).map(|at| (at / 7 + index) as u8).collect::<Vec<u8>>().into()
}

fn write(store: &Opened, name: &[u8], bytes: &Bytes) -> fs::Result<()> {
    let made =
        store.ask(|fs, tier| fs.make(tier, Op::Create, Caller::ROOT, ROOT, name, 0o644, 0, NewNode::File));
    let ino = match made {
        Err(Error::Exists) => store.ask(|fs, tier| fs.lookup(tier, ROOT, name))?.ino,
        made => made?.ino,
    };
    let written = (|| {
        let empty = SetAttributes { size: Some(0), ..SetAttributes::default() };
        store.ask(|fs, tier| fs.setattr(tier, Caller::ROOT, ino, &empty))?;
        store.ask(|fs, tier| fs.write(tier, Caller::ROOT, ino, 0, bytes, false))
    })();
    store.fs.forget(ino, 1);
    written
}

fn read(store: &Opened, name: &[u8]) -> fs::Result<Bytes> {
    let found = store.ask(|fs, tier| fs.lookup(tier, ROOT, name))?;
    let bytes = store.ask(|fs, tier| fs.read(tier, found.ino, 0, 1 << 20));
    store.fs.forget(found.ino, 1);
    Ok(bytes?.into())
}

/// A store with files that were written over, cut and removed. Without `closed` the last of it is in the log alone.
fn original(kind: Kind, seed: u64, closed: bool) -> Original {
    let disk = SimDisk::new();
    let store = make(disk.clone(), kind);
    let mut prng = Prng::new(seed);
    let mut versions = Versions::new();
    for index in 0..70 {
        let name = format!("file{:02}", prng.below(16)).into_bytes();
        let known = versions.entry(name.clone()).or_insert_with(|| vec![None]);
        if prng.one_in(6) && known.last() != Some(&None) {
            store.ask(|fs, tier| fs.unlink(tier, ROOT, &name)).unwrap();
            known.push(None);
        } else {
            let bytes = content(&mut prng, index);
            write(&store, &name, &bytes).unwrap();
            known.extend([Some(Bytes::new()), Some(bytes)]);
        }
        store.work();
        if prng.one_in(10) {
            engine::sync(&*store.engine).unwrap();
        }
    }
    for (name, states) in &versions {
        assert_eq!(read(&store, name).ok().as_ref(), states.last().unwrap().as_ref());
    }
    if closed {
        store.fs.close().unwrap();
        engine::settle(&*store.engine).unwrap();
        store.engine.close().unwrap();
    }
    Original { disk: disk.kill(), versions, closed }
}

fn load(disk: &SimDisk, name: &str) -> Vec<u8> {
    read_all(&*disk.open(name).unwrap(), Purpose::Recovery).unwrap()
}

fn replace(disk: &SimDisk, name: &str, bytes: &[u8]) {
    // It may be a new name.
    let _ = disk.remove(name);
    disk.create(name).unwrap().write_at(Purpose::Recovery, 0, bytes).unwrap();
}

/// Damages a copy; says how, and which files.
fn damage(disk: &SimDisk, prng: &mut Prng) -> (String, Vec<String>) {
    let names: Vec<String> = disk.list().unwrap().into_iter().map(|info| info.name).collect();
    let pick = |prng: &mut Prng| names[prng.below(names.len() as u64) as usize].clone();
    let (name, other) = (pick(prng), pick(prng));
    let mut bytes = load(disk, &name);
    let length = bytes.len() as u64;
    let (at, end) = (prng.below(length.max(1)), prng.below(length.max(1)));
    let (at, end) = (at.min(end) as usize, (at.max(end) + 1).min(length) as usize);
    let kind = prng.below(11);
    let what = match kind {
        0 | 1 => {
            for _ in 0..1 + prng.below(4) {
                disk.flip_bit(&name, prng.below(length.max(1) * 8));
            }
            return ("bits turned".to_string(), vec![name]);
        }
        2 => {
            let end = (at + 1 + prng.below(600) as usize).min(end);
            let wrong = garbage(prng, (end - at) as u64);
            bytes[at..end].copy_from_slice(&wrong);
            format!("{at}..{end} overwritten")
        }
        3 => {
            // Whole sectors, as a disk forgets them.
            let (at, end) = (at / 512 * 512, end.next_multiple_of(512).min(bytes.len()));
            bytes[at..end].fill(0);
            format!("{at}..{end} zeroed")
        }
        4 => {
            bytes.fill(0);
            "zeroed".to_string()
        }
        5 => {
            bytes.truncate(at);
            format!("cut at {at}")
        }
        6 => {
            bytes.clear();
            "emptied".to_string()
        }
        7 => {
            let more = bytes[at..end].to_vec();
            bytes.extend(more);
            format!("lengthened by {at}..{end} of itself")
        }
        8 => {
            disk.remove(&name).unwrap();
            return ("removed".to_string(), vec![name]);
        }
        9 => {
            let theirs = load(disk, &other);
            replace(disk, &name, &theirs);
            if prng.one_in(2) {
                replace(disk, &other, &bytes);
                return ("exchanged".to_string(), vec![name, other]);
            }
            return (format!("replaced by {other}"), vec![name, other]);
        }
        _ => {
            let number = prng.below(200);
            let kinds =
                ["table.#", "log.#", "manifest.new", "STORE.new", "btree.pages.new", "btree.double", "#"];
            let copy = kinds[prng.below(kinds.len() as u64) as usize].replace('#', &number.to_string());
            if names.contains(&copy) {
                return ("nothing".to_string(), Vec::new());
            }
            replace(disk, &copy, &bytes);
            return (format!("copied to {copy}"), vec![copy, name]);
        }
    };
    replace(disk, &name, &bytes);
    (what, vec![name])
}

/// Whether an error says where the damage is: one of the files, or another of their kind that lacks them.
fn names_a_file(text: &str, names: &[String]) -> bool {
    let kind = |name: &str| name.split('.').next().unwrap_or_default().to_string();
    names.iter().any(|name| text.contains(name.as_str()) || text.contains(&kind(name)))
}

/// Every file is what it was, or an error. With `older` it may be what it once was. Returns how many errors there were.
fn judge(store: &Opened, versions: &Versions, older: bool, what: &str) -> usize {
    let mut errors = 0;
    let allowed = |name: &[u8], found: &Option<Bytes>| {
        let states = &versions[name];
        if older { states.contains(found) } else { states.last() == Some(found) }
    };
    for name in versions.keys() {
        let show = name.escape_ascii();
        let found = match read(store, name) {
            Ok(bytes) => Some(bytes),
            Err(Error::NotFound) => None,
            Err(error) => {
                assert_eq!(error.errno(), libc::EIO, "{what}: {show}: {error}");
                errors += 1;
                continue;
            }
        };
        assert!(
            allowed(name, &found),
            "{what}: {show} is {:?} bytes that it should not be",
            found.map(|f| f.len())
        );
    }
    match store.list(ROOT, 1000) {
        Ok(entries) => {
            for (name, states) in versions.iter().filter(|_| !older) {
                let listed = entries.iter().any(|entry| entry.name == *name);
                assert_eq!(
                    listed,
                    states.last() != Some(&None),
                    "{what}: {} in the listing",
                    name.escape_ascii()
                );
            }
        }
        Err(_) => errors += 1,
    }
    errors
}

/// Changes of all kinds; what they say does not matter, but what was written and is then read must be the same.
fn change(store: &Opened, prng: &mut Prng, what: &str) {
    for index in 0..12u64 {
        let old = format!("file{:02}", prng.below(16)).into_bytes();
        let new = format!("new{:02}", prng.below(8)).into_bytes();
        let _ = match prng.below(7) {
            0 => store.ask(|fs, tier| fs.unlink(tier, ROOT, &old)),
            1 => store.ask(|fs, tier| fs.rename(tier, (ROOT, &old), (ROOT, &new), RenameMode::Replace, None)),
            2 => store.ask(|fs, tier| fs.lookup(tier, ROOT, &old)).and_then(|found| {
                let size = SetAttributes { size: Some(prng.below(9000)), ..SetAttributes::default() };
                store.ask(|fs, tier| fs.setattr(tier, Caller::ROOT, found.ino, &size))?;
                store.ask(|fs, tier| fs.setxattr(tier, found.ino, b"user.x", &[7; 300], XattrMode::Either))
            }),
            3 => engine::sync(&*store.engine).map_err(Error::from),
            _ => {
                let bytes = content(prng, 100 + index);
                let written = write(store, &new, &bytes);
                if written.is_ok()
                    && let Ok(found) = read(store, &new)
                {
                    assert!(found == bytes, "{what}: {} is not what was just written", new.escape_ascii());
                }
                written
            }
        };
        store.work();
    }
}

/// One damaged store from its opening to its end. Returns whether it opened, and how many errors it gave.
fn live_with(original: &Original, seed: u64) -> (bool, usize) {
    let mut prng = Prng::new(seed);
    let disk = original.disk.kill();
    let (how, names) = damage(&disk, &mut prng);
    let what = format!("seed {seed}, {names:?} {how}, closed: {}", original.closed);
    let store = match open(disk.clone()) {
        Ok(store) => store,
        Err(error) => {
            assert!(names_a_file(&error, &names), "{what}: the error names no file: {error}");
            return (false, 0);
        }
    };
    let older = !original.closed && names.iter().any(|name| name.starts_with("log."));
    let mut errors = judge(&store, &original.versions, older, &what);
    store.scan();
    // A store that gave an error is damaged, and the check says so; whatever else it finds it does not stumble.
    let verified = engine::run(&*store.engine, Command::Verify);
    let problems = store.problems();
    if errors > 0 {
        assert!(
            verified.is_err() || !problems.is_ok_and(|found| found.is_empty()),
            "{what}: passes the check"
        );
    }
    errors += usize::from(verified.is_err());
    change(&store, &mut prng, &what);
    let closed = store.fs.close().is_ok() && store.engine.close().is_ok();
    drop(store);
    match open(disk.kill()) {
        Ok(again) => again.scan(),
        Err(error) => assert!(!closed || errors > 0, "{what}: was closed and does not open: {error}"),
    }
    (true, errors)
}

fn damaged_stores(kind: Kind) {
    let (mut refused, mut errors, mut unharmed) = (0, 0, 0);
    for (base, closed) in [(1, true), (2, false), (3, true), (4, false)] {
        let original = Arc::new(original(kind, base, closed));
        for seed in cases(150) {
            let copy = original.clone();
            match watched(&format!("{kind} {base} {seed}"), move || live_with(&copy, seed * 4 + base)) {
                (false, _) => refused += 1,
                (true, 0) => unharmed += 1,
                (true, _) => errors += 1,
            }
        }
    }
    println!("{kind}: {refused} refused, {errors} opened with errors, {unharmed} where nothing was missing");
    assert!(refused > 20 && errors > 5 && unharmed > 20);
}

#[test]
fn a_damaged_lsm_store_gives_what_was_written_or_an_error() {
    damaged_stores(Kind::LSM);
}

#[test]
fn a_damaged_btree_store_gives_what_was_written_or_an_error() {
    damaged_stores(Kind::BTREE);
}

#[test]
fn a_damaged_hybrid_store_gives_what_was_written_or_an_error() {
    damaged_stores(Kind::HYBRID);
}

/// Entries of a filesystem of every kind of record, with some that wait for reclaim.
fn records() -> Vec<(Bytes, Bytes)> {
    let map = Arc::new(MemEngine::new());
    let clock = Arc::new(ManualClock::default());
    let fs = FileSystem::open(map.clone(), clock, Options::default(), space()).unwrap();
    let store = Opened { engine: map.clone(), fs };
    let mut prng = Prng::new(9);
    for index in 0..12 {
        write(&store, format!("file{index:02}").as_bytes(), &content(&mut prng, index)).unwrap();
    }
    let make = |name: &[u8], node: NewNode<'_>| {
        store.fs.make(Tier::Disk, Op::Mkdir, Caller::ROOT, ROOT, name, 0o755, 0, node).unwrap().ino
    };
    let directory = make(b"directory", NewNode::Directory);
    make(b"link", NewNode::Symlink(b"file01"));
    store
        .fs
        .rename(Tier::Disk, (ROOT, b"file03"), (directory, b"inside"), RenameMode::Replace, None)
        .unwrap();
    let large = store.fs.lookup(Tier::Disk, ROOT, b"file02").unwrap().ino;
    store.fs.setxattr(Tier::Disk, large, b"user.a", b"value", XattrMode::Either).unwrap();
    let bytes = Bytes::from(vec![3; 1 << 20]);
    store.fs.write(Tier::Disk, Caller::ROOT, large, 0, &bytes, false).unwrap();
    let shorter = SetAttributes { size: Some(5000), ..SetAttributes::default() };
    store.fs.setattr(Tier::Disk, Caller::ROOT, large, &shorter).unwrap();
    // Open and without a name.
    let orphan = store.fs.lookup(Tier::Disk, ROOT, b"file05").unwrap().ino;
    store.fs.open_file(Tier::Disk, orphan).unwrap();
    store.fs.unlink(Tier::Disk, ROOT, b"file05").unwrap();
    store.fs.write_times().unwrap();
    map.contents()
}

/// Walks and changes a filesystem of which some records are nonsense.
fn live_with_nonsense(records: &[(Bytes, Bytes)], seed: u64) -> bool {
    let mut prng = Prng::new(seed);
    let map = Arc::new(MemEngine::new());
    let mut batch = Batch::new(0);
    let mut damaged = Vec::new();
    for _ in 0..1 + prng.below(3) {
        damaged.push(prng.below(records.len() as u64) as usize);
    }
    for (index, (key, value)) in records.iter().enumerate() {
        let (mut key, mut value) = (key.to_vec(), value.to_vec());
        if damaged.contains(&index) {
            let target = if prng.one_in(4) { &mut key } else { &mut value };
            let at = prng.below(target.len().max(1) as u64) as usize;
            // Whole numbers in the middle, so that what is read looks sound and is senseless.
            let word = number(&mut prng).to_be_bytes();
            match prng.below(5) {
                0 if at < target.len() => target[at] = prng.bits() as u8,
                1 => target.truncate(at),
                2 => continue,
                3 if target.len() >= 17 => {
                    let at = 1 + prng.below(target.len() as u64 - 8) as usize;
                    let at = at.min(target.len() - 8);
                    target[at..at + 8].copy_from_slice(&word);
                }
                _ if target.len() >= 8 => {
                    let at = prng.below(target.len() as u64 / 8) as usize * 8;
                    let at = at.min(target.len() - 8);
                    target[at..at + 8].copy_from_slice(&word);
                }
                _ => target.extend_from_slice(&word),
            }
        }
        batch.put(key, value);
    }
    map.apply(&batch, Tier::Disk).unwrap();
    let clock = Arc::new(ManualClock::default());
    let Ok(fs) = FileSystem::open(map.clone(), clock, Options::default(), space()) else { return false };
    let store = Opened { engine: map, fs };
    let mut todo = vec![ROOT];
    let mut seen = std::collections::BTreeSet::new();
    while let Some(ino) = todo.pop() {
        if !seen.insert(ino) || seen.len() > 100 {
            continue;
        }
        let _ = store.ask(|fs, tier| fs.getattr(tier, ino));
        let _ = store.ask(|fs, tier| fs.readlink(tier, ino));
        let _ = store.ask(|fs, tier| fs.listxattr(tier, Caller::ROOT, ino));
        let _ = store.ask(|fs, tier| fs.getxattr(tier, ino, b"user.a"));
        for _ in 0..3 {
            let at = number(&mut prng);
            let _ = store.ask(|fs, tier| fs.read(tier, ino, at, 1 << 16));
            let _ = store.ask(|fs, tier| fs.seek(tier, ino, at, at.is_multiple_of(2)));
        }
        let _ = store.ask(|fs, tier| fs.read(tier, ino, 0, 1 << 16));
        let _ = store.ask(|fs, tier| {
            let mut left = 100;
            fs.readdir_plus(tier, ino, 0, &mut |_, _| {
                left -= 1;
                left > 0
            })
        });
        todo.extend(store.list(ino, 200).unwrap_or_default().iter().map(|entry| entry.ino));
    }
    super::calls::senseless(&store, &mut prng, 60, &seen.into_iter().collect::<Vec<Ino>>());
    for _ in 0..50 {
        store.work();
    }
    let _ = store.problems();
    let _ = store.fs.close();
    true
}

#[test]
fn senseless_records_behind_a_sound_engine_are_survived() {
    let records = Arc::new(records());
    let opened = cases(600).filter(|&seed| {
        let copy = records.clone();
        watched(&format!("records {seed}"), move || live_with_nonsense(&copy, seed))
    });
    let opened = opened.count();
    println!("{opened} opened");
    assert!(opened > 300);
}

/// Keys whose numbers are as large as can be: a listing still ends.
#[test]
fn a_listing_ends_whatever_the_hash_of_a_name() {
    for hash in [0, 1, 2, u64::MAX >> 1, u64::MAX - 1, u64::MAX] {
        watched(&format!("hash {hash:x}"), move || {
            let map = Arc::new(MemEngine::new());
            let clock = Arc::new(ManualClock::default());
            let open = || FileSystem::open(map.clone(), clock.clone(), Options::default(), space()).unwrap();
            let fs = open();
            let node = NewNode::File;
            let made = fs.make(Tier::Disk, Op::Create, Caller::ROOT, ROOT, b"f", 0o644, 0, node).unwrap();
            fs.close().unwrap();
            let mut batch = Batch::new(0);
            let entry = [&made.ino.0.to_be_bytes()[..], &[8]].concat();
            batch.put(keys::dirent(ROOT, hash, b"wrong"), entry);
            map.apply(&batch, Tier::Disk).unwrap();
            let store = Opened { engine: map.clone(), fs: open() };
            let mut visits = 0;
            let _ = store.fs.readdir(Tier::Disk, ROOT, 0, &mut |_| {
                visits += 1;
                visits < 1000
            });
            assert!(visits < 10, "{visits} entries of a directory of two");
            let range = KeyRange { start: b"", end: None };
            store.engine.scan(range, Tier::Disk, &mut |_, _| ControlFlow::Continue(())).unwrap();
        });
    }
}
