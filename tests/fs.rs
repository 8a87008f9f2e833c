//! The filesystem against a naive model: random calls, compared in answer, errno and the whole tree after every one; over an
//! engine that keeps saying "not now"; with remounts and crashes between; and the promises that a model cannot see.
//!
//! `SEED=n cargo test --test fs` replays one seed.

#[path = "support/model_fs.rs"]
mod model_fs;

#[path = "fs/duties.rs"]
mod duties;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use kvfs::base::clock::{Clock, ManualClock};
use kvfs::base::prng::Prng;
use kvfs::disk::{Disk, SimDisk, Space};
use kvfs::engine::{
    self, Batch, Bell, Cause, Class, Command, Done, Engine, Error as EngineError, KeyRange, Kind, MemEngine,
    MeteredEngine, Options as EngineOptions, Pending, Position, Promise, Result as EngineResult, Shape, Tier,
    Visit,
};
use kvfs::fs::meter::Op;
use kvfs::fs::types::{
    Attributes, Caller, DirEntry, FileKind, Ino, NewNode, ROOT, RenameMode, SIZE_MAX, SetAttributes, SetTime,
    Time, XattrMode,
};
use kvfs::fs::{Atime, Error, FileSystem, Identity, Options, Result, SpaceSource, keys};
use model_fs::{Answer, ModelFs};

const BLOCK: u64 = 4096;

fn space() -> SpaceSource {
    Arc::new(|| Ok(Space { total_bytes: 1 << 40, free_bytes: 1 << 39, ..Space::default() }))
}

/// How a run of the filesystem ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Unmounted: everything is closed.
    Clean,
    /// The process dies: what the engine accepted is there.
    Kill,
    /// The power fails: of what was not synced any prefix is there.
    PowerLoss,
}

/// What an engine lies in: opens it, anew after an end.
trait Store {
    fn open(&mut self, after: Option<End>) -> Arc<dyn Engine>;
}

/// One map for all.
struct MemStore(Arc<MemEngine>);

impl Store for MemStore {
    fn open(&mut self, _: Option<End>) -> Arc<dyn Engine> {
        self.0.clone()
    }
}

/// An engine on a simulated disk.
struct DiskStore {
    kind: Kind,
    disk: Arc<SimDisk>,
    engine: Option<Arc<dyn Engine>>,
    crashes: u64,
}

impl DiskStore {
    fn boxed(kind: Kind, seed: u64) -> Box<dyn Store> {
        Box::new(DiskStore { kind, disk: SimDisk::new(), engine: None, crashes: seed })
    }
}

impl Store for DiskStore {
    fn open(&mut self, after: Option<End>) -> Arc<dyn Engine> {
        let former = self.engine.take();
        self.crashes += 1;
        match (after, former) {
            (Some(End::Clean), Some(engine)) => engine.close().unwrap(),
            (Some(End::Kill), _) => self.disk = self.disk.kill(),
            (Some(End::PowerLoss), _) => self.disk = self.disk.crash(self.crashes),
            _ => {}
        }
        let options = EngineOptions::tiny(self.kind);
        let engine = engine::open(self.disk.clone(), Arc::new(ManualClock::default()), &options).unwrap();
        self.engine = Some(engine.clone());
        engine
    }
}

/// A decorator that says `WouldBlock` to a third of the reads and changes in memory, and `Busy` to a fifth of the changes.
struct Reluctant {
    engine: Arc<dyn Engine>,
    dice: parking_lot::Mutex<Prng>,
}

impl Reluctant {
    fn would_block(&self, tier: Tier) -> EngineResult<()> {
        if tier == Tier::Memory && self.dice.lock().one_in(3) { Err(EngineError::WouldBlock) } else { Ok(()) }
    }
}

impl Engine for Reluctant {
    fn get(&self, key: &[u8], tier: Tier) -> EngineResult<Option<Bytes>> {
        self.would_block(tier)?;
        self.engine.get(key, tier)
    }
    fn scan(&self, range: KeyRange<'_>, tier: Tier, visit: &mut Visit<'_>) -> EngineResult<()> {
        // After some visits, as the contract allows.
        let mut left = if self.would_block(tier).is_err() { self.dice.lock().below(3) } else { u64::MAX };
        let mut cut = false;
        self.engine.scan(range, tier, &mut |key, value| {
            if left == 0 {
                cut = true;
                return std::ops::ControlFlow::Break(());
            }
            left -= 1;
            visit(key, value)
        })?;
        if cut { Err(EngineError::WouldBlock) } else { Ok(()) }
    }
    fn apply(&self, batch: &Batch, tier: Tier) -> EngineResult<Position> {
        self.would_block(tier)?;
        if self.dice.lock().one_in(5) {
            return Err(EngineError::Busy { cause: Cause::Memtables, retry_after: Duration::ZERO });
        }
        let result = self.engine.apply(batch, tier);
        if let Err(EngineError::Busy { .. }) = &result {
            // There is no worker.
            for class in Class::ALL.into_iter().filter(|class| *class != Class::Room) {
                self.engine.work(class)?;
            }
        }
        result
    }
    fn position(&self) -> Position {
        self.engine.position()
    }
    fn sync_to(&self, position: Position, done: Done) {
        self.engine.sync_to(position, done);
    }
    fn work(&self, class: Class) -> EngineResult<Pending> {
        self.engine.work(class)
    }
    fn run(&self, command: Command, done: Done) {
        self.engine.run(command, done);
    }
    fn shape(&self) -> Shape {
        self.engine.shape()
    }
    fn promise(&self) -> Promise {
        self.engine.promise()
    }
    fn bell(&self) -> &Arc<Bell> {
        self.engine.bell()
    }
    fn close(&self) -> EngineResult<()> {
        self.engine.close()
    }
}

/// Makes a call as the adapter does: in memory first, then with the disk, again while the engine is busy.
fn ask<T>(mut call: impl FnMut(Tier) -> Result<T>) -> Answer<T> {
    let mut tier = Tier::Memory;
    loop {
        match call(tier) {
            Err(Error::WouldBlock) => {
                assert_eq!(tier, Tier::Memory, "a call that may read the disk answered WouldBlock");
                tier = Tier::Disk;
            }
            Err(Error::Busy { .. }) => {}
            result => return result.map_err(|error| error.errno()),
        }
    }
}

fn check(engine: &dyn Engine) -> Vec<String> {
    let mut problems = Vec::new();
    FileSystem::check(engine, &mut |problem| problems.push(problem.what)).unwrap();
    problems
}

fn list(fs: &FileSystem, ino: Ino, entries_max: usize) -> Answer<Vec<DirEntry>> {
    let (mut all, mut cookie) = (Vec::new(), 0);
    loop {
        let reply = ask(|tier| {
            let mut reply: Vec<DirEntry> = Vec::new();
            fs.readdir(tier, ino, cookie, &mut |entry| {
                let fits = reply.len() < entries_max;
                if fits {
                    reply.push(entry);
                }
                fits
            })?;
            Ok(reply)
        })?;
        let Some(last) = reply.last() else { return Ok(all) };
        cookie = last.cookie;
        all.extend(reply);
    }
}

/// The filesystem and its model, side by side.
struct Run {
    seed: u64,
    random: Prng,
    store: Box<dyn Store>,
    reluctant: bool,
    engine: Arc<dyn Engine>,
    fs: Arc<FileSystem>,
    clock: Arc<ManualClock>,
    model: ModelFs,
    open: Vec<Ino>,
    /// After a crash deferred times may be lost, so they are no longer compared.
    compare_times: bool,
    log: Vec<String>,
}

const OPTIONS: Options =
    Options { block_bytes: BLOCK, atime: Atime::Never, diratime: true, read_only: false };

impl Run {
    fn new(seed: u64, mut store: Box<dyn Store>, reluctant: bool) -> Run {
        let clock = Arc::new(ManualClock::default());
        let engine = store.open(None);
        FileSystem::format(&*engine, &*clock, &OPTIONS, Identity { uuid: [1; 16], secret: seed }).unwrap();
        let (engine, fs) = Self::mount(engine, &clock, reluctant, seed);
        let model = ModelFs::new(BLOCK, clock.now().into());
        let random = Prng::new(seed);
        let (open, log) = (Vec::new(), Vec::new());
        Run { seed, random, store, reluctant, engine, fs, clock, model, open, compare_times: true, log }
    }

    fn mount(
        engine: Arc<dyn Engine>,
        clock: &Arc<ManualClock>,
        reluctant: bool,
        seed: u64,
    ) -> (Arc<dyn Engine>, Arc<FileSystem>) {
        let seen: Arc<dyn Engine> = if reluctant {
            Arc::new(Reluctant { engine: engine.clone(), dice: parking_lot::Mutex::new(Prng::new(!seed)) })
        } else {
            engine.clone()
        };
        let fs = FileSystem::open(seen, clock.clone(), OPTIONS, space()).unwrap();
        (engine, fs)
    }

    /// Opens the filesystem again.
    fn remount(&mut self, end: End) {
        if end == End::Clean {
            self.fs.close().unwrap();
        } else {
            self.compare_times = false;
        }
        for ino in std::mem::take(&mut self.open) {
            self.model.release(ino);
        }
        let engine = self.store.open(Some(end));
        (self.engine, self.fs) = Self::mount(engine, &self.clock, self.reluctant, self.random.bits());
        let problems = check(&*self.engine);
        assert!(problems.is_empty(), "{}: {problems:#?}", self.story());
    }

    fn story(&self) -> String {
        let last = self.log.len().saturating_sub(20);
        format!("SEED={}, last calls:\n{}\n", self.seed, self.log[last..].join("\n"))
    }

    fn name(&mut self) -> Vec<u8> {
        match self.random.below(60) {
            0 => vec![b'n'; 255],
            1 => vec![b'n'; 256],
            2 => b"..".to_vec(),
            3 => b"a/b".to_vec(),
            number => format!("n{}", number % 7).into_bytes(),
        }
    }

    fn pick(&mut self, accept: impl Fn(&Attributes) -> bool) -> Ino {
        let all: Vec<Ino> = self
            .model
            .nodes
            .values()
            .filter(|node| accept(&node.attributes))
            .map(|node| node.attributes.ino)
            .collect();
        if all.is_empty() { ROOT } else { all[self.random.below(all.len() as u64) as usize] }
    }

    /// A name of an open file.
    fn name_of_open(&self) -> Option<(Ino, Vec<u8>)> {
        let directories = self.model.nodes.iter();
        let mut names = directories.flat_map(|(&dir, node)| node.names.iter().map(move |name| (dir, name)));
        let (dir, (name, _)) = names.find(|(_, (_, ino))| self.open.contains(ino))?;
        Some((dir, name.clone()))
    }

    fn directory(&mut self) -> Ino {
        if self.random.one_in(15) {
            return self.pick(|_| true);
        }
        self.pick(|attributes| attributes.kind == FileKind::Directory)
    }

    fn file(&mut self) -> Ino {
        if self.random.one_in(25) {
            return self.pick(|_| true);
        }
        self.pick(|attributes| attributes.kind == FileKind::File)
    }

    fn offset(&mut self) -> u64 {
        let most = if self.random.one_in(4) { 140 * BLOCK } else { 6 * BLOCK };
        let offset = self.random.below(most);
        if self.random.one_in(2) { offset / BLOCK * BLOCK } else { offset }
    }

    fn data(&mut self) -> Bytes {
        let length = match self.random.below(8) {
            0 => self.random.below(100 * BLOCK),
            1 | 2 => BLOCK * (1 + self.random.below(4)),
            3 => 0,
            _ => self.random.below(2 * BLOCK),
        };
        let seed = self.random.bits();
        (0..length).map(|index| (seed >> (index % 8 * 8)) as u8 ^ (index >> 8) as u8).collect()
    }

    fn same<T: PartialEq + std::fmt::Debug>(&self, real: Answer<T>, model: Answer<T>) {
        let differs = real != model;
        assert!(!differs, "{}filesystem: {real:?}\nmodel:      {model:?}", self.story());
    }

    /// Attributes without what is not compared.
    fn seen(&self, attributes: Attributes) -> Attributes {
        let zero = Time::default();
        if self.compare_times {
            attributes
        } else {
            Attributes { atime: zero, mtime: zero, ctime: zero, ..attributes }
        }
    }

    /// One random call to both.
    fn step(&mut self) {
        self.clock.advance(Duration::from_millis(self.random.below(400)));
        self.model.now = self.clock.now().into();
        let fs = self.fs.clone();
        let caller =
            Caller { uid: self.random.below(2) as u32 * 1000, gid: self.random.below(3) as u32, pid: 1 };
        let choice = self.random.below(100);
        match choice {
            0..=19 => {
                let (parent, name) = (self.directory(), self.name());
                let (mode, umask) = (self.random.bits() as u32 & 0o7777, self.random.bits() as u32 & 0o77);
                let target = vec![b't'; [0, 1, 300, 5000][self.random.below(4) as usize]];
                let full = self.model.nodes.len() > 40;
                let (op, node) = match self.random.below(10) {
                    _ if full => return,
                    0..=4 => (Op::Create, NewNode::File),
                    5..=7 => (Op::Mkdir, NewNode::Directory),
                    8 => (Op::Symlink, NewNode::Symlink(&target)),
                    _ => (Op::Mknod, NewNode::Special { kind: FileKind::CharDevice, rdev: 7 }),
                };
                self.log.push(format!("make {node:?} {parent} {}", name.escape_ascii()));
                let real = ask(|tier| fs.make(tier, op, caller, parent, &name, mode, umask, node));
                let ino = real.as_ref().map_or(0, |attributes| attributes.ino);
                let model = self.model.make(ino, caller, parent, &name, mode, umask, node);
                self.same(real.map(|a| self.seen(a)), model.map(|a| self.seen(a)));
                fs.forget(ino, 1);
            }
            20..=24 => {
                let (ino, parent, name) = (self.pick(|_| true), self.directory(), self.name());
                self.log.push(format!("link {ino} {parent} {}", name.escape_ascii()));
                let real = ask(|tier| fs.link(tier, ino, parent, &name));
                if real.is_ok() {
                    fs.forget(ino, 1);
                }
                let model = self.model.link(ino, parent, &name);
                self.same(real.map(|a| self.seen(a)), model.map(|a| self.seen(a)));
            }
            25..=34 => {
                let (mut parent, mut name, rmdir) = (self.directory(), self.name(), self.random.one_in(2));
                // Files that are open lose their names often enough to matter.
                if self.random.one_in(3)
                    && let Some(place) = self.name_of_open()
                {
                    (parent, name) = place;
                }
                self.log.push(format!("remove {parent} {} rmdir={rmdir}", name.escape_ascii()));
                let real = ask(|tier| match rmdir {
                    true => fs.rmdir(tier, parent, &name),
                    false => fs.unlink(tier, parent, &name),
                });
                let model = self.model.remove(parent, &name, rmdir);
                self.same(real, model);
            }
            35..=49 => {
                let (parent, name) = (self.directory(), self.name());
                let new_parent = if self.random.one_in(2) { parent } else { self.directory() };
                let new_name = self.name();
                let modes =
                    [RenameMode::Replace, RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange];
                let mode = modes[self.random.below(4) as usize];
                let whiteout = self.random.one_in(4).then_some(caller);
                let (from, to) = (name.escape_ascii(), new_name.escape_ascii());
                self.log.push(format!("rename {parent} {from} {new_parent} {to} {mode:?} {whiteout:?}"));
                let old = self.model.nodes[&parent].names.get(&name).copied();
                let (from, to) = ((parent, &name[..]), (new_parent, &new_name[..]));
                let real = ask(|tier| fs.rename(tier, from, to, mode, whiteout));
                let left = ask(|tier| fs.lookup(tier, parent, &name)).map_or(0, |found| found.ino);
                fs.forget(left, 1);
                // The number that a whiteout got only the filesystem knows.
                assert!(real.is_err() || whiteout.is_none() || left != 0, "{}", self.story());
                let made = whiteout.is_some() && real.is_ok() && old != Some(left);
                assert!(!made || !self.model.nodes.contains_key(&left), "{}", self.story());
                let model = self.model.rename(from, to, mode, whiteout.map(|caller| (left, caller)));
                self.same(real, model);
            }
            50..=64 => {
                let (ino, offset, data) = (self.file(), self.offset(), self.data());
                let offset = if self.random.one_in(60) { SIZE_MAX - 3 } else { offset };
                let clear = self.random.one_in(2);
                self.log.push(format!("write {ino} {offset} {} clear_suid={clear}", data.len()));
                let real = ask(|tier| fs.write(tier, caller, ino, offset, &data, clear));
                let model = self.model.write(ino, offset, &data, clear);
                self.same(real, model);
            }
            65..=74 => {
                let ino = if self.random.one_in(3) { self.pick(|_| true) } else { self.file() };
                let sizes = [0, self.offset(), self.offset(), SIZE_MAX + 1];
                let size = sizes[self.random.below(40).min(3) as usize % 4];
                let size = if size > SIZE_MAX && !self.random.one_in(10) { 0 } else { size };
                let maybe =
                    |random: &mut Prng, one_in: u64| random.one_in(one_in).then(|| random.bits() as u32);
                let changes = SetAttributes {
                    permissions: maybe(&mut self.random, 3).map(|bits| bits & 0o7777),
                    uid: maybe(&mut self.random, 5),
                    gid: maybe(&mut self.random, 5),
                    size: self.random.one_in(2).then_some(size),
                    atime: self.random.one_in(5).then_some(SetTime::Now),
                    mtime: self.random.one_in(5).then_some(SetTime::At(Time { seconds: -7, nanos: 9 })),
                    ctime: None,
                };
                self.log.push(format!("setattr {ino} {changes:?}"));
                let real = ask(|tier| fs.setattr(tier, caller, ino, &changes));
                let model = self.model.setattr(caller, ino, &changes);
                self.same(real.map(|a| self.seen(a)), model.map(|a| self.seen(a)));
            }
            75..=77 => {
                let (source, from) = (self.file(), self.offset());
                let (target, to) = (if self.random.one_in(4) { source } else { self.file() }, self.offset());
                let length = self.offset();
                self.log.push(format!("copy {source} {from} {target} {to} {length}"));
                let real = ask(|tier| fs.copy_range(tier, caller, (source, from), (target, to), length)).map(
                    |copied| {
                        assert!(copied.data_bytes == copied.length || copied.data_bytes == 0);
                        copied.length
                    },
                );
                let model = self.model.copy(caller, (source, from), (target, to), length);
                self.same(real, model);
            }
            78..=80 => {
                let (ino, offset, length) = (self.file(), self.offset(), self.offset());
                let zero = libc::FALLOC_FL_ZERO_RANGE;
                let keep = libc::FALLOC_FL_KEEP_SIZE;
                let punch = libc::FALLOC_FL_PUNCH_HOLE | keep;
                let modes = [0, keep, punch, punch, punch, zero, zero | keep, libc::FALLOC_FL_COLLAPSE_RANGE];
                let mode = modes[self.random.below(8) as usize];
                self.log.push(format!("allocate {ino} {offset} {length} {mode:#x}"));
                let real = ask(|tier| fs.allocate(tier, caller, ino, (offset, length), mode));
                let model = self.model.allocate(caller, ino, (offset, length), mode);
                self.same(real, model);
            }
            81..=86 => {
                let ino = self.pick(|_| true);
                let names =
                    ["user.a", "user.b", "trusted.c", "security.capability", "other.d", "user.", "system.e"];
                let name = names[self.random.below(7) as usize].as_bytes();
                let value = vec![7; [0, 10, 4000, 70_000][self.random.below(4) as usize]];
                let modes = [XattrMode::Either, XattrMode::Create, XattrMode::Replace];
                let mode = modes[self.random.below(3) as usize];
                if self.random.one_in(3) {
                    self.log.push(format!("removexattr {ino} {}", name.escape_ascii()));
                    let real = ask(|tier| fs.removexattr(tier, ino, name));
                    let model = self.model.removexattr(ino, name);
                    self.same(real, model);
                } else {
                    self.log.push(format!("setxattr {ino} {} {mode:?}", name.escape_ascii()));
                    let real = ask(|tier| fs.setxattr(tier, ino, name, &value, mode));
                    let model = self.model.setxattr(ino, name, &value, mode);
                    self.same(real, model);
                }
            }
            87..=90 => {
                let ino = self.file();
                if self.model.attributes(ino).kind == FileKind::File && self.open.len() < 6 {
                    self.log.push(format!("open {ino}"));
                    let real = ask(|tier| fs.open_file(tier, ino));
                    self.model.open(ino);
                    self.open.push(ino);
                    self.same(real, Ok(()));
                }
            }
            91..=93 => {
                if !self.open.is_empty() {
                    let index = self.random.below(self.open.len() as u64) as usize;
                    let ino = self.open.swap_remove(index);
                    self.log.push(format!("release {ino}"));
                    fs.release_file(ino);
                    self.model.release(ino);
                }
            }
            94..=97 => {
                self.log.push("work".to_string());
                fs.work().unwrap();
                let class = Class::ALL[self.random.below(4) as usize];
                self.engine.work(class).unwrap();
            }
            _ => {
                let ino = self.pick(|_| true);
                self.log.push(format!("fsync {ino}"));
                ask(|tier| fs.moment_of(tier, ino, false)).unwrap();
            }
        }
    }

    /// Compares everything that can be seen.
    fn compare(&mut self) {
        let fs = self.fs.clone();
        let mut reached = BTreeSet::from([ROOT]);
        let mut todo = vec![ROOT];
        while let Some(ino) = todo.pop() {
            let entries = list(&fs, ino, 5).unwrap();
            let node = self.model.nodes[&ino].clone();
            let dots: Vec<_> = entries[..2].iter().map(|entry| (&entry.name[..], entry.ino)).collect();
            self.same(Ok(dots), Ok(vec![(&b"."[..], ino), (&b".."[..], node.parent)]));
            let names: BTreeMap<_, _> =
                entries[2..].iter().map(|entry| (entry.name.clone(), entry.ino)).collect();
            assert_eq!(names.len(), entries.len() - 2, "{}a name is listed twice", self.story());
            self.same(Ok(&names), Ok(&node.names));
            for entry in &entries[2..] {
                let real = ask(|tier| fs.lookup(tier, ino, &entry.name));
                fs.forget(entry.ino, 1);
                let model = self.model.lookup(ino, &entry.name);
                self.same(real.map(|a| self.seen(a)), model.map(|a| self.seen(a)));
                self.same(Ok(entry.kind), Ok(self.model.attributes(entry.ino).kind));
                if reached.insert(entry.ino) && entry.kind == FileKind::Directory {
                    todo.push(entry.ino);
                }
            }
        }
        reached.extend(&self.open);
        let living: BTreeSet<Ino> = self.model.nodes.keys().copied().collect();
        self.same(Ok(&reached), Ok(&living));
        for ino in reached {
            let node = self.model.nodes[&ino].clone();
            let real = ask(|tier| fs.getattr(tier, ino)).map(|a| self.seen(a));
            self.same(real, Ok(self.seen(node.attributes)));
            for caller in [Caller::ROOT, Caller { uid: 1000, gid: 0, pid: 1 }] {
                let listed = ask(|tier| fs.listxattr(tier, caller, ino));
                self.same(listed, Ok(self.model.listxattr(caller, ino)));
            }
            for name in node.xattrs.keys() {
                let real = ask(|tier| fs.getxattr(tier, ino, name)).map(|value| value.to_vec());
                self.same(real, self.model.getxattr(ino, name));
            }
            match node.attributes.kind {
                FileKind::File => {
                    let content = ask(|tier| fs.read(tier, ino, 0, 2 << 20)).unwrap();
                    if let Some(at) =
                        content.iter().zip(&node.content).position(|(real, model)| real != model)
                    {
                        panic!("{}inode {ino} differs at byte {at}", self.story());
                    }
                    self.same(Ok(content.len()), Ok(node.content.len()));
                    for _ in 0..2 {
                        let (offset, size) = (self.offset(), self.random.below(3 * BLOCK) as u32);
                        let real = ask(|tier| fs.read(tier, ino, offset, size));
                        let model = self.model.read(ino, offset, size);
                        assert!(real == model, "{}read {ino} {offset} {size}", self.story());
                        let hole = self.random.one_in(2);
                        let real = ask(|tier| fs.seek(tier, ino, offset, hole));
                        let model = self.model.seek(ino, offset, hole);
                        assert!(
                            real == model,
                            "{}seek {ino} {offset} {hole}: {real:?} {model:?}",
                            self.story()
                        );
                    }
                }
                FileKind::Symlink => {
                    let real = ask(|tier| fs.readlink(tier, ino)).map(|target| target.to_vec());
                    self.same(real, Ok(node.target));
                }
                _ => {}
            }
        }
    }

    /// Totals and the check, which wants nobody to change anything.
    fn verify(&mut self) {
        let problems = check(&*self.engine);
        assert!(problems.is_empty(), "{}{problems:#?}", self.story());
        let usage = self.fs.usage();
        let attributes = || self.model.nodes.values().map(|node| node.attributes);
        let waiting = usage.inodes - usage.orphans;
        self.same(Ok(waiting), Ok(attributes().filter(|a| a.links > 0).count() as u64));
        if usage.orphans == 0 {
            self.same(Ok(usage.apparent_bytes), Ok(attributes().map(|a| a.size).sum()));
            self.same(Ok(usage.stored_bytes), Ok(attributes().map(|a| a.stored_bytes).sum()));
        }
    }

    fn finish(mut self) {
        self.compare();
        self.remount(End::Clean);
        self.compare();
        // A reluctant engine makes some of the work wait.
        for _ in 0..300 {
            self.fs.work().unwrap();
        }
        self.compare();
        self.verify();
        let usage = self.fs.usage();
        assert_eq!((usage.reclaim_pending_bytes, usage.orphans), (0, 0), "{}", self.story());
        let summary = FileSystem::check(&*self.engine, &mut |_| ()).unwrap();
        assert_eq!(
            (summary.reclaim_blocks, summary.stored_bytes),
            (0, usage.stored_bytes),
            "{}",
            self.story()
        );
        let records = usage.record_bytes;
        self.remount(End::Kill);
        assert_eq!(self.fs.usage().record_bytes, records, "{}recounted differently", self.story());
    }
}

fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => (0..count).collect(),
    }
}

fn random_run(seed: u64, store: Box<dyn Store>, reluctant: bool, crashes: bool, steps: usize) {
    let mut run = Run::new(seed, store, reluctant);
    for step in 0..steps {
        run.step();
        run.compare();
        if step % 16 == 0 {
            run.verify();
        }
        if run.random.one_in(60) {
            run.log.push("remount".to_string());
            let clean = !crashes || run.random.one_in(2);
            run.remount(if clean { End::Clean } else { End::Kill });
            run.compare();
        }
    }
    run.finish();
}

fn mem_store() -> Box<dyn Store> {
    Box::new(MemStore(Arc::new(MemEngine::new())))
}

#[test]
fn random_calls_answer_as_the_model_does() {
    seeds(6).into_iter().for_each(|seed| random_run(seed, mem_store(), false, false, 400));
}

#[test]
fn random_calls_are_repeated_safely_over_a_reluctant_engine() {
    seeds(5).into_iter().for_each(|seed| random_run(seed, mem_store(), true, false, 250));
}

#[test]
fn random_calls_survive_crashes() {
    seeds(6).into_iter().for_each(|seed| random_run(seed, mem_store(), false, true, 300));
}

#[test]
fn random_calls_over_the_lsm_tree_survive_kills() {
    seeds(6)
        .into_iter()
        .for_each(|seed| random_run(seed, DiskStore::boxed(Kind::Lsm, seed), true, true, 150));
}

#[test]
fn random_calls_over_the_b_tree_survive_kills() {
    seeds(6)
        .into_iter()
        .for_each(|seed| random_run(seed, DiskStore::boxed(Kind::Btree, seed), true, true, 150));
}

/// What a tree shows, by path and without times.
type Portrait = BTreeMap<Vec<u8>, (Attributes, u64)>;

fn portray(portrait: &mut Portrait, path: Vec<u8>, attributes: Attributes, content: &[u8]) {
    let zero = Time::default();
    let timeless = Attributes { atime: zero, mtime: zero, ctime: zero, btime: zero, ..attributes };
    portrait.insert(path, (timeless, xxhash_rust::xxh3::xxh3_64(content)));
}

fn portrait_of_model(model: &ModelFs) -> Portrait {
    let (mut portrait, mut todo) = (Portrait::new(), vec![(ROOT, Vec::new())]);
    while let Some((ino, path)) = todo.pop() {
        let node = &model.nodes[&ino];
        let content = if node.target.is_empty() { &node.content } else { &node.target };
        portray(&mut portrait, path.clone(), node.attributes, content);
        todo.extend(node.names.iter().map(|(name, &child)| (child, [&path[..], b"/", name].concat())));
    }
    portrait
}

fn portrait_of(fs: &FileSystem) -> Portrait {
    let (mut portrait, mut todo) = (Portrait::new(), vec![(ROOT, Vec::new())]);
    while let Some((ino, path)) = todo.pop() {
        let attributes = fs.getattr(Tier::Disk, ino).unwrap();
        let content = match attributes.kind {
            FileKind::File => fs.read(Tier::Disk, ino, 0, 2 << 20).unwrap(),
            FileKind::Symlink => fs.readlink(Tier::Disk, ino).unwrap().to_vec(),
            FileKind::Directory => {
                let entries = list(fs, ino, 50).unwrap().into_iter().skip(2);
                todo.extend(entries.map(|entry| (entry.ino, [&path[..], b"/", &entry.name].concat())));
                Vec::new()
            }
            _ => Vec::new(),
        };
        portray(&mut portrait, path, attributes, &content);
    }
    portrait
}

/// After a power failure the tree is what it was after some call, none older than the last sync.
fn power_loss_run(seed: u64, store: Box<dyn Store>) {
    let mut run = Run::new(seed, store, true);
    engine::sync(&*run.engine).unwrap();
    let mut portraits = vec![portrait_of_model(&run.model)];
    for _ in 0..20 + run.random.below(100) {
        run.step();
        portraits.push(portrait_of_model(&run.model));
        if run.random.one_in(10) {
            run.log.push("sync".to_string());
            engine::sync(&*run.engine).unwrap();
            portraits.drain(..portraits.len() - 1);
        }
    }
    run.remount(End::PowerLoss);
    let found = portrait_of(&run.fs);
    let known = portraits.contains(&found);
    assert!(known, "{}the tree is none of the last {}: {found:#?}", run.story(), portraits.len());
}

#[test]
fn a_power_failure_leaves_a_prefix_of_the_calls() {
    for kind in [Kind::Lsm, Kind::Btree] {
        seeds(15).into_iter().for_each(|seed| power_loss_run(seed, DiskStore::boxed(kind, seed)));
    }
}

/// A filesystem over a counted map, for what a model cannot see.
struct Bench {
    map: Arc<MemEngine>,
    engine: Arc<MeteredEngine>,
    clock: Arc<ManualClock>,
    fs: Arc<FileSystem>,
}

impl Bench {
    fn new() -> Bench {
        Bench::over(Arc::new(MemEngine::new()), OPTIONS)
    }

    fn over(map: Arc<MemEngine>, options: Options) -> Bench {
        let clock = Arc::new(ManualClock::default());
        let engine = MeteredEngine::new(map.clone(), keys::classify);
        let fs = FileSystem::open(engine.clone(), clock.clone(), options, space()).unwrap();
        Bench { map, engine, clock, fs }
    }

    /// As after a crash: what is in memory is lost.
    fn crash(self) -> Bench {
        Bench::over(self.map, OPTIONS)
    }

    fn create(&self, parent: Ino, name: &str) -> Ino {
        let node = NewNode::File;
        let made =
            self.fs.make(Tier::Memory, Op::Create, Caller::ROOT, parent, name.as_bytes(), 0o644, 0, node);
        made.unwrap().ino
    }

    fn mkdir(&self, parent: Ino, name: &str) -> Ino {
        let node = NewNode::Directory;
        let made =
            self.fs.make(Tier::Memory, Op::Mkdir, Caller::ROOT, parent, name.as_bytes(), 0o755, 0, node);
        made.unwrap().ino
    }

    fn write(&self, ino: Ino, offset: u64, data: Vec<u8>) {
        self.fs.write(Tier::Memory, Caller::ROOT, ino, offset, &data.into(), false).unwrap();
    }

    fn resize(&self, ino: Ino, size: u64) {
        let changes = SetAttributes { size: Some(size), ..SetAttributes::default() };
        self.fs.setattr(Tier::Memory, Caller::ROOT, ino, &changes).unwrap();
    }

    fn read_all(&self, ino: Ino) -> Vec<u8> {
        self.fs.read(Tier::Memory, ino, 0, 64 << 20).unwrap()
    }

    /// Gets, scanned entries, batches, puts, deletes so far.
    fn cost(&self) -> [u64; 5] {
        let kinds = self.engine.kinds();
        let tags = self.engine.tags();
        [
            kinds.iter().map(|kind| kind.gets).sum(),
            kinds.iter().map(|kind| kind.scanned).sum(),
            tags.iter().map(|tag| tag.batches).sum(),
            tags.iter().map(|tag| tag.puts).sum(),
            tags.iter().map(|tag| tag.deletes).sum(),
        ]
    }

    fn cost_of(&self, call: impl FnOnce()) -> [u64; 5] {
        let before = self.cost();
        call();
        let after = self.cost();
        std::array::from_fn(|index| after[index] - before[index])
    }
}

/// The kernel's form of a list: tag, permissions, user or group.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&permissions.to_le_bytes());
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

#[test]
fn access_control_lists_are_inherited_and_follow_the_mode() {
    const ACCESS: &[u8] = b"system.posix_acl_access";
    const DEFAULT: &[u8] = b"system.posix_acl_default";
    let bench = Bench::new();
    let fs = &bench.fs;
    let user = Caller { uid: 1000, gid: 1000, pid: 1 };
    let make = |parent, name: &str, mode, node| {
        fs.make(Tier::Disk, Op::Create, user, parent, name.as_bytes(), mode, 0o077, node).unwrap()
    };
    let get = |ino, name| fs.getxattr(Tier::Disk, ino, name).map(|value| value.to_vec()).ok();
    let set = |ino, name, value: &[u8]| fs.setxattr_as(Tier::Disk, user, ino, name, value, XattrMode::Either);
    let mode = |ino| fs.getattr(Tier::Disk, ino).unwrap().permissions;
    let list = |owner, group, mask, other| {
        acl(&[(1, owner, !0), (2, 6, 1001), (4, group, !0), (0x10, mask, !0), (0x20, other, !0)])
    };

    let directory = make(ROOT, "d", 0o755, NewNode::Directory).ino;
    assert_eq!(mode(directory), 0o700);
    set(directory, DEFAULT, &list(7, 5, 7, 5)).unwrap();
    // The umask does not count where a list is inherited.
    let file = make(directory, "f", 0o640, NewNode::File);
    assert_eq!((file.permissions, mode(file.ino)), (0o640, 0o640));
    assert_eq!(get(file.ino, ACCESS), Some(list(6, 5, 4, 0)));
    assert_eq!(get(file.ino, DEFAULT), None);
    let below = make(directory, "below", 0o777, NewNode::Directory).ino;
    assert_eq!((get(below, DEFAULT), mode(below)), (Some(list(7, 5, 7, 5)), 0o775));
    let symlink = make(directory, "s", 0o777, NewNode::Symlink(b"f")).ino;
    assert_eq!((get(symlink, ACCESS), mode(symlink)), (None, 0o777));

    // chmod changes the list, and the list the mode.
    let changes = SetAttributes { permissions: Some(0o2751), ..SetAttributes::default() };
    fs.setattr(Tier::Disk, Caller::ROOT, file.ino, &changes).unwrap();
    assert_eq!(get(file.ino, ACCESS), Some(list(7, 5, 5, 1)));
    set(file.ino, ACCESS, &list(6, 6, 6, 0)).unwrap();
    assert_eq!(mode(file.ino), 0o2660, "sgid stays for a member of the group");
    let stranger = Caller { uid: 1, gid: 1, pid: 1 };
    let minimal = acl(&[(1, 6, !0), (4, 4, !0), (0x20, 4, !0)]);
    fs.setxattr_as(Tier::Disk, stranger, file.ino, ACCESS, &minimal, XattrMode::Either).unwrap();
    assert_eq!((mode(file.ino), get(file.ino, ACCESS)), (0o644, None), "a minimal list is the mode");
    assert_eq!(set(file.ino, DEFAULT, &minimal).unwrap_err().errno(), libc::EACCES);
    assert_eq!(set(file.ino, ACCESS, b"nonsense").unwrap_err().errno(), libc::EINVAL);
    assert_eq!(set(symlink, ACCESS, &minimal).unwrap_err().errno(), libc::EOPNOTSUPP);

    let usage = fs.usage().record_bytes;
    fs.close().unwrap();
    assert!(check(&*bench.map).is_empty());
    let counted = FileSystem::open(bench.map.clone(), bench.clock.clone(), OPTIONS, space()).unwrap();
    assert_eq!(counted.usage().record_bytes, usage);
}

/// Of `system` there are the two lists and nothing else, whoever asks; a store that was made when any name was taken does not show
/// them, and gives them up with their file.
#[test]
fn the_system_namespace_has_the_two_lists_alone() {
    let bench = Bench::new();
    let (fs, file) = (&bench.fs, bench.create(ROOT, "f"));
    let user = Caller { uid: 1000, gid: 1000, pid: 1 };
    fs.setxattr(Tier::Disk, file, b"user.a", b"1", XattrMode::Either).unwrap();
    for name in [&b"system.a"[..], b"system.posix_acl_accessible", b"system.", b"system.richacl", b"btrfs.a"]
    {
        for caller in [user, Caller::ROOT] {
            let set = fs.setxattr_as(Tier::Disk, caller, file, name, &[7; 60_000], XattrMode::Either);
            assert_eq!(set.unwrap_err().errno(), libc::EOPNOTSUPP, "{}", name.escape_ascii());
        }
        assert_eq!(fs.getxattr(Tier::Disk, file, name).unwrap_err().errno(), libc::EOPNOTSUPP);
        assert_eq!(fs.removexattr(Tier::Disk, file, name).unwrap_err().errno(), libc::EOPNOTSUPP);
    }
    let mut batch = Batch::new(0);
    batch.put(keys::xattr(file, b"system.old"), vec![7; 60_000]);
    bench.map.apply(&batch, Tier::Disk).unwrap();
    assert_eq!(fs.listxattr(Tier::Disk, user, file).unwrap(), b"user.a\0");
    assert_eq!(fs.listxattr(Tier::Disk, Caller::ROOT, file).unwrap(), b"user.a\0");
    fs.forget(file, 1);
    fs.unlink(Tier::Disk, ROOT, b"f").unwrap();
    assert_eq!(bench.map.get(&keys::xattr(file, b"system.old"), Tier::Disk).unwrap(), None);
}

#[test]
fn room_inside_the_b_trees_file_counts_as_free() {
    let engine = DiskStore::boxed(Kind::Btree, 1).open(None);
    let fs = FileSystem::open(engine.clone(), Arc::new(ManualClock::default()), OPTIONS, space()).unwrap();
    let free = |fs: &FileSystem| fs.statfs().unwrap().blocks_free * BLOCK;
    let file =
        fs.make(Tier::Disk, Op::Create, Caller::ROOT, ROOT, b"f", 0o644, 0, NewNode::File).unwrap().ino;
    let settle = || {
        for _ in 0..20 {
            fs.work().unwrap();
            engine.work(Class::Flush).unwrap();
            engine.work(Class::Merge).unwrap();
            engine.work(Class::Reclaim).unwrap();
        }
        engine::run(&*engine, Command::Checkpoint).unwrap();
    };
    for index in 0..50 {
        let data = Bytes::from(vec![index as u8; 16 << 10]);
        ask(|tier| fs.write(tier, Caller::ROOT, file, index * (16 << 10), &data, false)).unwrap();
        settle();
    }
    let full = free(&fs);
    fs.forget(file, 1);
    ask(|tier| fs.unlink(tier, ROOT, b"f")).unwrap();
    settle();
    let empty = free(&fs);
    let found = fs.statfs().unwrap();
    assert_eq!(found.files - found.files_free, 1, "the root is the one inode in use");
    assert!(empty >= full + (700 << 10), "{empty} bytes free after the delete, {full} before");
}

/// `df -i` shows why new files are refused although there is space.
#[test]
fn without_an_inode_below_there_are_none_here() {
    let free_files = Arc::new(AtomicU64::new(1000));
    let below = free_files.clone();
    let source: SpaceSource = Arc::new(move || {
        Ok(Space {
            total_bytes: 1 << 40,
            free_bytes: 1 << 39,
            total_files: 2000,
            free_files: below.load(Relaxed),
        })
    });
    let engine = Arc::new(MemEngine::new());
    let fs = FileSystem::open(engine, Arc::new(ManualClock::default()), OPTIONS, source).unwrap();
    assert_eq!(fs.statfs().unwrap().files_free, (1 << 39) / BLOCK);
    free_files.store(3, Relaxed);
    let found = fs.statfs().unwrap();
    assert_eq!((found.files, found.files_free), (1, 0), "the root is in use");
    assert_eq!(found.blocks_free, (1 << 39) / BLOCK, "bytes are free all the same");
}

/// Who deletes a file on a full disk and then writes another waits until the first is gone, however much later that is.
#[test]
fn who_writes_after_a_delete_on_a_full_disk_waits_for_its_space() {
    for kind in [Kind::Lsm, Kind::Btree] {
        let disk = SimDisk::new();
        disk.set_capacity(Some(64 << 20));
        let options = EngineOptions { reserve_bytes: 4 << 20, ..EngineOptions::default() }.for_disk(64 << 20);
        let options =
            EngineOptions { kind, log_segment_bytes: 512 << 10, dirty_bytes_max: 1 << 20, ..options };
        let engine = engine::open(disk.clone(), Arc::new(ManualClock::default()), &options).unwrap();
        let below = disk.clone();
        let source: SpaceSource = Arc::new(move || below.space());
        let fs = FileSystem::open(engine.clone(), Arc::new(ManualClock::default()), OPTIONS, source).unwrap();
        let waits = AtomicU64::new(0);
        // Makes a call until it is answered. With `reclaims`, what is deleted goes as late as it can: when nothing else is left.
        let patiently = |reclaims: bool, call: &dyn Fn() -> Result<()>| -> Result<()> {
            for _ in 0..100_000 {
                match call() {
                    Err(Error::Busy { .. }) => waits.fetch_add(1, Relaxed),
                    answer => return answer,
                };
                let mut is_idle = true;
                for class in [Class::Flush, Class::Merge, Class::Reclaim] {
                    let done = engine.work(class);
                    assert!(matches!(done, Ok(_) | Err(EngineError::NoSpace)), "{kind}: {done:?}");
                    is_idle &= !matches!(done, Ok(Pending::More));
                }
                if reclaims && is_idle {
                    fs.work().unwrap_or_else(|error| panic!("{kind}: deleting: {error}"));
                }
            }
            panic!("{kind}: busy for ever");
        };
        let create = |name: &[u8]| {
            let ino = AtomicU64::new(0);
            let made = patiently(true, &|| {
                let node = NewNode::File;
                let made = fs.make(Tier::Disk, Op::Create, Caller::ROOT, ROOT, name, 0o644, 0, node)?;
                ino.store(made.ino, Relaxed);
                Ok(())
            });
            made.unwrap_or_else(|error| panic!("{kind}: {error}"));
            ino.into_inner()
        };
        // Nothing that could be compressed.
        let chunk = |index: u64| {
            let mut prng = Prng::new(index);
            Bytes::from((0..8192).flat_map(|_| prng.bits().to_le_bytes()).collect::<Vec<u8>>())
        };
        let write = |ino: Ino, index: u64| {
            let data = chunk(index);
            patiently(true, &|| fs.write(Tier::Disk, Caller::ROOT, ino, index << 16, &data, false))
        };
        let first = create(b"first");
        let full = (0..).find(|index| write(first, *index).is_err()).unwrap();
        assert!(full > 60, "{kind}: full after {full} times 64 KiB");
        fs.forget(first, 1);
        patiently(false, &|| fs.unlink(Tier::Disk, ROOT, b"first")).unwrap();
        assert!(fs.usage().reclaim_pending_bytes > 0, "{kind}: it is deleted later");
        waits.store(0, Relaxed);
        let second = create(b"second");
        for index in 0..full / 2 {
            write(second, index).unwrap_or_else(|error| panic!("{kind}: {index} of {full}: {error}"));
        }
        assert!(waits.load(Relaxed) > 0, "{kind}: nobody had to wait");
    }
}

#[test]
fn hot_paths_cost_what_they_should() {
    let bench = Bench::new();
    let file = bench.create(ROOT, "file");
    let create = bench.cost_of(|| _ = bench.create(ROOT, "other"));
    assert_eq!(create, [1, 0, 1, 2, 0], "create: one look for the name, then inode and name in one batch");
    let extend = bench.cost_of(|| bench.write(file, 0, vec![1; 64 << 10]));
    assert_eq!(extend, [0, 0, 1, 17, 0], "extending: the blocks and the inode, nothing read");
    let overwrite = bench.cost_of(|| bench.write(file, 8192, vec![2; 4096]));
    assert_eq!(overwrite, [0, 0, 1, 1, 0], "an aligned overwrite: its block");
    let partial = bench.cost_of(|| bench.write(file, 100, vec![3; 10]));
    assert_eq!(partial, [1, 0, 1, 1, 0], "part of a block: one read");
    let one = bench.cost_of(|| drop(bench.fs.read(Tier::Memory, file, 4096, 4096).unwrap()));
    assert_eq!(one, [1, 0, 0, 0, 0], "one block: a get");
    let many = bench.cost_of(|| drop(bench.fs.read(Tier::Memory, file, 0, 16384).unwrap()));
    assert_eq!(many[0..3], [0, 4, 0], "several blocks: a scan of them");
    let lookup = bench.cost_of(|| _ = bench.fs.lookup(Tier::Memory, ROOT, b"file").unwrap());
    assert_eq!(lookup, [0; 5], "a known name: nothing");
    let sync = bench.cost_of(|| _ = bench.fs.moment_of(Tier::Memory, file, true).unwrap());
    assert_eq!(sync, [0; 5], "fdatasync leaves the times alone");
    let sync = bench.cost_of(|| _ = bench.fs.moment_of(Tier::Memory, file, false).unwrap());
    assert_eq!(sync, [0, 0, 1, 1, 0], "fsync writes the inode once");
    assert!(bench.fs.usage().deferred_inode_puts_absorbed > 0);
    assert!(check(&*bench.map).is_empty());
}

#[test]
fn whole_blocks_share_the_memory_of_the_request() {
    let bench = Bench::new();
    let file = bench.create(ROOT, "file");
    let data = Bytes::from(vec![7; 8192]);
    bench.fs.write(Tier::Memory, Caller::ROOT, file, 4096, &data, false).unwrap();
    let stored = bench.map.get(&keys::block(file, 0, 2), Tier::Memory).unwrap().unwrap();
    assert_eq!(stored.as_ptr(), data[4096..].as_ptr());
}

#[test]
fn a_large_file_goes_in_one_small_batch() {
    let bench = Bench::new();
    let file = bench.create(ROOT, "file");
    (0..40).for_each(|index| bench.write(file, index << 20, vec![1; 1 << 20]));
    bench.fs.forget(file, 1);
    let unlink = bench.cost_of(|| bench.fs.unlink(Tier::Memory, ROOT, b"file").unwrap());
    assert_eq!(unlink, [0, 0, 1, 1, 2], "name and inode go, one range is left");
    let usage = bench.fs.usage();
    assert_eq!((usage.stored_bytes, usage.reclaim_pending_bytes), (0, 40 << 20));
    assert!(check(&*bench.map).is_empty());
    let mut units = 0;
    let reclaim = bench.cost_of(|| {
        while bench.fs.work().unwrap() == Pending::More {
            units += 1;
            assert!(check(&*bench.map).is_empty());
        }
    });
    assert!((10..13).contains(&units), "{units}");
    assert_eq!((reclaim[1], reclaim[4]), (0, 10240 + 11), "dense ranges are deleted without being read");
    assert_eq!(bench.fs.usage().reclaim_pending_bytes, 0);
    assert_eq!(FileSystem::check(&*bench.map, &mut |_| ()).unwrap().reclaim_blocks, 0);
}

/// Truncate, grow, write into the range that waits, reclaim: with a crash before every step of it.
#[test]
fn reclaim_never_takes_new_data() {
    for (cut, crash_at) in [0, 5000].into_iter().flat_map(|cut| (0..12).map(move |step| (cut, step))) {
        let mut bench = Bench::new();
        let file = bench.create(ROOT, "file");
        (0..10).for_each(|index| bench.write(file, index << 20, vec![1; 1 << 20]));
        let mut expected = vec![1; 10 << 20];
        for step in 0..12u64 {
            if step == crash_at {
                bench = bench.crash();
            }
            let at = step as usize * 700_000;
            match step {
                0 => {
                    bench.resize(file, cut);
                    expected.truncate(cut as usize);
                }
                1 => {
                    bench.resize(file, 10 << 20);
                    expected.resize(10 << 20, 0);
                }
                2..=6 => {
                    bench.write(file, at as u64, vec![step as u8; 9000]);
                    expected[at..at + 9000].fill(step as u8);
                }
                _ => _ = bench.fs.work().unwrap(),
            }
            assert!(bench.read_all(file) == expected, "cut {cut}, crash {crash_at}, step {step}");
            let problems = check(&*bench.map);
            assert!(problems.is_empty(), "cut {cut}, crash {crash_at}, step {step}: {problems:?}");
        }
        while bench.fs.work().unwrap() == Pending::More {}
        assert!(bench.read_all(file) == expected);
        let summary = FileSystem::check(&*bench.map, &mut |problem| panic!("{problem:?}")).unwrap();
        assert_eq!(summary.reclaim_blocks, 0);
        assert_eq!(bench.fs.usage().reclaim_pending_bytes, 0);
    }
}

#[test]
fn a_deleted_file_lives_while_it_is_used_and_not_after_a_crash() {
    let bench = Bench::new();
    for name in ["forgotten", "released", "crashed"] {
        let file = bench.create(ROOT, name);
        bench.write(file, 0, vec![5; 5000]);
        bench.fs.open_file(Tier::Memory, file).unwrap();
        bench.fs.unlink(Tier::Memory, ROOT, name.as_bytes()).unwrap();
        assert_eq!(bench.read_all(file), vec![5; 5000]);
        assert_eq!(bench.fs.getattr(Tier::Memory, file).unwrap().links, 0);
        while bench.fs.work().unwrap() == Pending::More {}
        assert_eq!(bench.fs.usage().orphans, 1);
        match name {
            "forgotten" => [bench.fs.release_file(file), bench.fs.forget(file, 1)],
            "released" => [bench.fs.forget(file, 1), bench.fs.release_file(file)],
            _ => break,
        };
        while bench.fs.work().unwrap() == Pending::More {}
        assert_eq!(bench.fs.usage().orphans, 0);
        assert!(matches!(bench.fs.getattr(Tier::Memory, file), Err(Error::Stale)));
    }
    let bench = bench.crash();
    assert_eq!((bench.fs.usage().orphans, bench.fs.usage().inodes), (0, 1));
    assert!(check(&*bench.map).is_empty());
    // The root's two records, its counters, and nothing else.
    assert_eq!(bench.map.contents().len(), 3);
}

#[test]
fn times_wait_no_longer_than_a_second() {
    let bench = Bench::new();
    let (directory, stored) = (bench.mkdir(ROOT, "d"), |bench: &Bench, ino| {
        let copy = Bench::over(Arc::new(MemEngine::new()), OPTIONS);
        for (key, value) in bench.map.contents() {
            let mut batch = Batch::new(0);
            batch.put(key, value);
            copy.map.apply(&batch, Tier::Disk).unwrap();
        }
        copy.crash().fs.getattr(Tier::Memory, ino).unwrap().mtime
    });
    bench.clock.advance(Duration::from_secs(5));
    let before = stored(&bench, directory);
    bench.create(directory, "f");
    let now = bench.fs.getattr(Tier::Memory, directory).unwrap().mtime;
    assert!(now > before && stored(&bench, directory) == before);
    bench.fs.moment_of(Tier::Memory, directory, false).unwrap();
    assert_eq!(stored(&bench, directory), now);
    bench.clock.advance(Duration::from_secs(5));
    bench.create(directory, "g");
    bench.clock.advance(Duration::from_millis(900));
    assert_eq!(bench.fs.work().unwrap(), Pending::After(Duration::from_millis(100)));
    assert_eq!(stored(&bench, directory), now);
    bench.clock.advance(Duration::from_millis(100));
    bench.fs.work().unwrap();
    assert_eq!(stored(&bench, directory), bench.fs.getattr(Tier::Memory, directory).unwrap().mtime);
}

#[test]
fn inode_numbers_are_not_given_twice() {
    let mut bench = Bench::new();
    let mut seen = BTreeSet::new();
    for round in 0..4 {
        for index in 0..600 {
            let name = format!("{round}.{index}");
            assert!(seen.insert(bench.create(ROOT, &name)));
            bench.fs.unlink(Tier::Memory, ROOT, name.as_bytes()).unwrap();
        }
        bench = bench.crash();
    }
    assert!(check(&*bench.map).is_empty());
}

/// A rename that leaves a whiteout is one batch, so no crash shows one without the other. The whiteout is a device 0:0 without
/// permissions, belongs to who renamed (its group to a directory with sgid), and is an inode like any other.
#[test]
fn a_rename_leaves_its_whiteout_in_the_same_batch() {
    let bench = Bench::new();
    let (fs, user) = (&bench.fs, Caller { uid: 1000, gid: 1001, pid: 1 });
    let directory = bench.mkdir(ROOT, "d");
    let below = bench.mkdir(directory, "moved");
    bench.create(below, "f");
    let changes = SetAttributes { permissions: Some(0o2777), gid: Some(50), ..SetAttributes::default() };
    fs.setattr(Tier::Disk, Caller::ROOT, directory, &changes).unwrap();
    let (usage, links) = (fs.usage(), fs.getattr(Tier::Disk, directory).unwrap().links);
    let [_, _, batches, puts, deletes] = bench.cost_of(|| {
        fs.rename(Tier::Disk, (directory, b"moved"), (ROOT, b"here"), RenameMode::NoReplace, Some(user))
            .unwrap();
    });
    // Two names, the whiteout, the directory that moved and the two that lost and gained a subdirectory.
    assert_eq!((batches, puts, deletes), (1, 6, 0));
    let whiteout = fs.lookup(Tier::Disk, directory, b"moved").unwrap();
    assert_eq!((whiteout.kind, whiteout.rdev, whiteout.permissions), (FileKind::CharDevice, 0, 0));
    assert_eq!((whiteout.uid, whiteout.gid, whiteout.links), (1000, 50, 1));
    assert_eq!(fs.lookup(Tier::Disk, ROOT, b"here").unwrap().ino, below);
    assert_eq!(fs.getattr(Tier::Disk, directory).unwrap().links, links - 1);
    assert_eq!(fs.usage().inodes, usage.inodes + 1);
    let exchange =
        fs.rename(Tier::Disk, (directory, b"moved"), (ROOT, b"here"), RenameMode::Exchange, Some(user));
    assert_eq!(exchange.unwrap_err().errno(), libc::EINVAL);
    // In place of a file, in the same directory; then it goes as any other name does.
    let (old, new) = (bench.create(ROOT, "old"), bench.create(ROOT, "new"));
    fs.forget(new, 1);
    fs.rename(Tier::Disk, (ROOT, b"old"), (ROOT, b"new"), RenameMode::Replace, Some(user)).unwrap();
    assert_eq!(fs.lookup(Tier::Disk, ROOT, b"new").unwrap().ino, old);
    assert_eq!(fs.lookup(Tier::Disk, ROOT, b"old").unwrap().kind, FileKind::CharDevice);
    fs.unlink(Tier::Disk, ROOT, b"old").unwrap();
    // Onto itself: nothing.
    fs.rename(Tier::Disk, (ROOT, b"new"), (ROOT, b"new"), RenameMode::Replace, Some(user)).unwrap();
    assert_eq!(fs.lookup(Tier::Disk, ROOT, b"new").unwrap().ino, old);
    assert!(check(&*bench.map).is_empty());
    let records = fs.usage().record_bytes;
    let again = bench.crash();
    let found = again.fs.lookup(Tier::Disk, directory, b"moved").unwrap();
    assert_eq!((found.ino, found.kind), (whiteout.ino, FileKind::CharDevice));
    assert!(again.fs.usage().record_bytes <= records);
}

/// What the kernel has forgotten but for its number: any inode is its own `.`, a directory knows its `..`, and what has lost its
/// last name, or never was, is stale.
#[test]
fn inodes_are_found_by_number() {
    let bench = Bench::new();
    let directory = bench.mkdir(ROOT, "d");
    let below = bench.mkdir(directory, "below");
    let file = bench.create(below, "f");
    let link = bench
        .fs
        .make(Tier::Disk, Op::Symlink, Caller::ROOT, below, b"s", 0, 0, NewNode::Symlink(b"f"))
        .unwrap()
        .ino;
    let bench = bench.crash();
    let fs = &bench.fs;
    let find =
        |ino, name: &[u8]| fs.lookup(Tier::Disk, ino, name).map(|found| found.ino).map_err(|e| e.errno());
    for ino in [ROOT, directory, below, file, link] {
        assert_eq!(find(ino, b"."), Ok(ino));
    }
    assert_eq!(
        (find(below, b".."), find(directory, b".."), find(ROOT, b"..")),
        (Ok(directory), Ok(ROOT), Ok(ROOT))
    );
    assert_eq!((find(file, b".."), find(file, b"f")), (Err(libc::ENOTDIR), Err(libc::ENOTDIR)));
    let other = bench.mkdir(ROOT, "other");
    fs.rename(Tier::Disk, (directory, b"below"), (other, b"here"), RenameMode::Replace, None).unwrap();
    assert_eq!(find(below, b".."), Ok(other));
    // The reference that a number gives counts: the file lives on until it is dropped.
    fs.unlink(Tier::Disk, below, b"f").unwrap();
    assert_eq!(fs.getattr(Tier::Disk, file).unwrap().links, 0);
    assert_eq!(find(file, b"."), Err(libc::ESTALE));
    fs.forget(file, 1);
    fs.work().unwrap();
    assert_eq!((find(file, b"."), find(1 << 40, b".")), (Err(libc::ESTALE), Err(libc::ESTALE)));
    fs.unlink(Tier::Disk, below, b"s").unwrap();
    fs.rmdir(Tier::Disk, other, b"here").unwrap();
    assert_eq!((find(below, b"."), find(below, b"..")), (Err(libc::ESTALE), Err(libc::ESTALE)));
}

#[test]
fn a_listing_is_stable_while_the_directory_changes() {
    let bench = Bench::new();
    let stays: BTreeSet<String> = (0..500).map(|index| format!("stays{index}")).collect();
    stays.iter().for_each(|name| _ = bench.create(ROOT, name));
    (0..300).for_each(|index| _ = bench.create(ROOT, &format!("goes{index}")));
    let (mut listed, mut cookie, mut turn) = (Vec::new(), 0, 0);
    loop {
        let mut reply = Vec::new();
        let visit = &mut |entry: DirEntry| {
            let fits = reply.len() < 7;
            if fits {
                reply.push(entry);
            }
            fits
        };
        bench.fs.readdir(Tier::Memory, ROOT, cookie, visit).unwrap();
        let Some(last) = reply.last() else { break };
        cookie = last.cookie;
        listed.extend(reply.into_iter().map(|entry| String::from_utf8(entry.name).unwrap()));
        for _ in 0..5 {
            let _ = bench.fs.unlink(Tier::Memory, ROOT, format!("goes{turn}").as_bytes());
            bench.create(ROOT, &format!("comes{turn}"));
            turn += 1;
        }
    }
    let unique: BTreeSet<String> = listed.iter().cloned().collect();
    assert_eq!(unique.len(), listed.len(), "a name is listed twice");
    assert!(stays.is_subset(&unique));
}

#[test]
fn names_that_share_a_hash_are_all_listed() {
    let bench = Bench::new();
    // No two names collide in a test's time, so the records are made by hand.
    let ino = bench.create(ROOT, "x");
    let mut batch = Batch::new(0);
    let record = [&ino.to_be_bytes()[..], b"\x08"].concat();
    for (hash, name) in [(10, "a"), (20, "b"), (20, "c"), (20, "d"), (30, "e")] {
        batch.put(keys::dirent(ROOT, hash, name.as_bytes()), record.clone());
    }
    bench.map.apply(&batch, Tier::Disk).unwrap();
    for entries_max in 3..8 {
        let names: Vec<_> = list(&bench.fs, ROOT, entries_max).unwrap().into_iter().map(|e| e.name).collect();
        for name in ["a", "b", "c", "d", "e", "x"] {
            assert!(names.contains(&name.as_bytes().to_vec()), "{name} is lost in replies of {entries_max}");
        }
        if entries_max >= 7 {
            assert_eq!(names.len(), 8, "{names:?}");
        }
    }
}

#[test]
fn readdir_plus_counts_references() {
    let bench = Bench::new();
    let inos: Vec<Ino> = (0..5).map(|index| bench.create(ROOT, &format!("f{index}"))).collect();
    inos.iter().for_each(|&ino| bench.fs.forget(ino, 1));
    let mut seen = Vec::new();
    let visit = &mut |entry: DirEntry, attributes: &Attributes| {
        assert_eq!((entry.ino, entry.kind), (attributes.ino, attributes.kind));
        seen.push(entry.ino);
        seen.len() < 5
    };
    bench.fs.readdir_plus(Tier::Memory, ROOT, 0, visit).unwrap();
    assert_eq!(seen[..2], [ROOT, ROOT]);
    for index in 0..5 {
        bench.fs.unlink(Tier::Memory, ROOT, format!("f{index}").as_bytes()).unwrap();
    }
    // Of the five visits two were dots, and the last was refused: two files are in use.
    assert_eq!(bench.fs.usage().orphans, 2);
    seen[2..4].iter().for_each(|&ino| bench.fs.forget(ino, 1));
    while bench.fs.work().unwrap() == Pending::More {}
    assert_eq!(bench.fs.usage().inodes, 1);
}

#[test]
fn a_read_only_filesystem_changes_nothing() {
    let bench = Bench::new();
    let file = bench.create(ROOT, "f");
    bench.write(file, 0, vec![1; 10]);
    bench.fs.close().unwrap();
    let before = bench.map.contents();
    let bench = Bench::over(bench.map, Options { read_only: true, atime: Atime::Strict, ..OPTIONS });
    let fs = &bench.fs;
    assert_eq!(fs.lookup(Tier::Memory, ROOT, b"f").unwrap().ino, file);
    assert_eq!(bench.read_all(file), vec![1; 10]);
    assert!(matches!(fs.unlink(Tier::Memory, ROOT, b"f"), Err(Error::ReadOnly)));
    let data = Bytes::from_static(b"x");
    assert!(matches!(fs.write(Tier::Memory, Caller::ROOT, file, 0, &data, false), Err(Error::ReadOnly)));
    fs.moment_of(Tier::Memory, file, false).unwrap();
    assert_eq!(fs.work().unwrap(), Pending::Idle);
    fs.close().unwrap();
    assert_eq!(bench.map.contents(), before);
}

#[test]
fn reserved_names_belong_to_others() {
    let bench = Bench::new();
    bench.fs.reserve_names(vec![b".stats".to_vec()]);
    let (fs, name) = (&bench.fs, &b".stats"[..]);
    let file = bench.create(ROOT, "f");
    let directory = bench.mkdir(ROOT, "d");
    let make = |parent| fs.make(Tier::Memory, Op::Create, Caller::ROOT, parent, name, 0, 0, NewNode::File);
    assert!(matches!(make(ROOT), Err(Error::NotPermitted)));
    make(directory).unwrap();
    assert!(matches!(fs.lookup(Tier::Memory, ROOT, name), Err(Error::NotFound)));
    assert!(matches!(fs.link(Tier::Memory, file, ROOT, name), Err(Error::NotPermitted)));
    assert!(matches!(fs.unlink(Tier::Memory, ROOT, name), Err(Error::NotPermitted)));
    let rename = fs.rename(Tier::Memory, (ROOT, b"f"), (ROOT, name), RenameMode::Replace, None);
    assert!(matches!(rename, Err(Error::NotPermitted)));
}

#[test]
fn relatime_notes_the_first_read_after_a_change() {
    let bench = Bench::over(Arc::new(MemEngine::new()), Options { atime: Atime::Relative, ..OPTIONS });
    let file = bench.create(ROOT, "f");
    let step = |seconds| bench.clock.advance(Duration::from_secs(seconds));
    let atime = || bench.fs.getattr(Tier::Memory, file).unwrap().atime;
    step(1);
    bench.write(file, 0, vec![1; 10]);
    step(1);
    bench.read_all(file);
    let first = atime();
    assert_eq!(first, Time::from(bench.clock.now()));
    step(10);
    bench.read_all(file);
    assert_eq!(atime(), first);
    step(24 * 60 * 60);
    bench.read_all(file);
    assert!(atime() > first);
}

/// Adds damage to a batch, given a file, its directory, and a directory beside it.
type Damage = fn(&Bench, [Ino; 3], &mut Batch);

fn patch(bench: &Bench, ino: Ino, offset: usize, bytes: &[u8], batch: &mut Batch) {
    let mut record = bench.map.get(&keys::inode(ino), Tier::Disk).unwrap().unwrap().to_vec();
    record[offset..offset + bytes.len()].copy_from_slice(bytes);
    batch.put(keys::inode(ino), record);
}

/// The key of a name in `dir` that stands for `ino`.
fn name_key(bench: &Bench, dir: Ino, ino: Ino) -> Vec<u8> {
    let is_it = |key: &[u8], value: &[u8]| match keys::parse(key) {
        Some(keys::Key::Dirent { dir: found, .. }) => found == dir && value.starts_with(&ino.to_be_bytes()),
        _ => false,
    };
    let (key, _) = bench.map.contents().into_iter().find(|(key, value)| is_it(key, value)).unwrap();
    key.to_vec()
}

#[test]
fn the_check_is_loud_for_every_damage() {
    let plant = |damage: Damage| {
        let bench = Bench::new();
        let directory = bench.mkdir(ROOT, "d");
        let (file, deep) = (bench.create(directory, "f"), bench.mkdir(directory, "e"));
        bench.write(file, 0, vec![1; 10_000]);
        bench.fs.setxattr(Tier::Memory, file, b"user.a", b"1", XattrMode::Either).unwrap();
        bench.fs.close().unwrap();
        assert_eq!(check(&*bench.map), Vec::<String>::new());
        let mut batch = Batch::new(0);
        damage(&bench, [file, directory, deep], &mut batch);
        bench.map.apply(&batch, Tier::Disk).unwrap();
        check(&*bench.map)
    };
    let damages: Vec<(&str, &str, Damage)> = vec![
        ("missing inode", "does not exist", |_, [file, ..], batch| batch.delete(keys::inode(file))),
        ("wrong link count", "says 5 links and has 1", |bench, [file, ..], batch| {
            patch(bench, file, 4, &5u32.to_be_bytes(), batch);
        }),
        ("orphan block", "block 3 of inode 99, which does not exist", |_, _, batch| {
            batch.put(keys::block(99, 0, 3), vec![1]);
        }),
        ("block behind the end", "where 0 may be", |_, [file, ..], batch| {
            batch.put(keys::block(file, 0, 9), vec![1]);
        }),
        ("block of another epoch", "is of epoch 7, not 0", |_, [file, ..], batch| {
            batch.put(keys::block(file, 7, 0), vec![1]);
        }),
        ("wrong size", "where 904 may be", |bench, [file, ..], batch| {
            patch(bench, file, 33, &[5000u64, 5000].map(u64::to_be_bytes).concat(), batch);
        }),
        ("lost block", "stored bytes and has", |_, [file, ..], batch| batch.delete(keys::block(file, 0, 1))),
        ("lost name", "links and has 0", |bench, [file, directory, _], batch| {
            batch.delete(name_key(bench, directory, file));
        }),
        ("wrong hash", "hash of another name", |_, [file, directory, _], batch| {
            batch.put(keys::dirent(directory, 5, b"g"), [&file.to_be_bytes()[..], b"\x08"].concat());
        }),
        ("wrong kind", "it says", |bench, [file, directory, _], batch| {
            let key = name_key(bench, directory, file);
            batch.put(key, [&file.to_be_bytes()[..], b"\x0a"].concat());
        }),
        ("wrong parent", "as it says", |bench, [_, _, deep], batch| {
            patch(bench, deep, 25, &ROOT.to_be_bytes(), batch);
        }),
        ("cycle", "form a cycle", |bench, [_, directory, deep], batch| {
            batch.delete(name_key(bench, ROOT, directory));
            let hash = keys::name_hash(0, b"d");
            batch.put(keys::dirent(deep, hash, b"d"), [&directory.to_be_bytes()[..], b"\x04"].concat());
            patch(bench, directory, 25, &deep.to_be_bytes(), batch);
        }),
        ("orphan record", "has an orphan record", |_, [file, ..], batch| {
            batch.put(keys::orphan(file), Vec::new());
        }),
        ("unannounced range", "does not announce a range", |_, [file, ..], batch| {
            batch.put(keys::reclaim(file, 0, 50), [60u64, 0].map(u64::to_be_bytes).concat());
        }),
        ("stray attribute", "an extended attribute of inode 99", |_, _, batch| {
            batch.put(keys::xattr(99, b"user.x"), vec![1]);
        }),
        ("unannounced attribute", "does not announce attribute", |_, [_, directory, _], batch| {
            batch.put(keys::xattr(directory, b"user.x"), vec![1]);
        }),
        ("unknown key", "not ours", |_, _, batch| batch.put(vec![0x99, 1], vec![1])),
        ("cut record", "does not parse", |_, [file, ..], batch| batch.put(keys::inode(file), vec![1; 9])),
        ("no root", "no root", |_, _, batch| batch.delete(keys::inode(ROOT))),
        ("number not given", "not given away", |bench, [file, ..], batch| {
            let record = bench.map.get(&keys::inode(file), Tier::Disk).unwrap().unwrap();
            batch.put(keys::inode(999_999), record);
        }),
        ("wrong totals", "totals", |bench, _, batch| {
            let key = keys::counter(b"total");
            let mut record = bench.map.get(&key, Tier::Disk).unwrap().unwrap().to_vec();
            record[8] ^= 1;
            batch.put(key, record);
        }),
        ("no superblock", "superblock is missing", |_, _, batch| batch.delete(keys::superblock())),
    ];
    for (name, expected, damage) in damages {
        let problems = plant(damage);
        assert!(problems.iter().any(|what| what.contains(expected)), "{name}: {problems:#?}");
    }
}

/// Threads that work on names and files of their own and on shared ones; every call answers, and the check is silent.
#[test]
fn threads_do_not_disturb_each_other() {
    let bench = Bench::new();
    let shared: Vec<Ino> = (0..3).map(|index| bench.mkdir(ROOT, &format!("s{index}"))).collect();
    let log = bench.create(ROOT, "log");
    let (stop, moved) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            while !stop.load(Relaxed) {
                bench.fs.work().unwrap();
                bench.clock.advance(Duration::from_millis(50));
                std::thread::yield_now();
            }
        });
        let threads: Vec<_> = (0..4u64)
            .map(|thread| {
                let (fs, shared, moved) = (&bench.fs, &shared, &moved);
                scope.spawn(move || {
                    let mut random = Prng::new(thread);
                    let own = Caller { uid: thread as u32, gid: 0, pid: 0 };
                    let mut pick = |count: u64| random.below(count);
                    for round in 0..400u64 {
                        let (from, to) = (shared[pick(3) as usize], shared[pick(3) as usize]);
                        let (name, other) = (format!("n{}", pick(5)), format!("n{}", pick(5)));
                        let (name, other) = (name.as_bytes(), other.as_bytes());
                        let node = if pick(3) == 0 { NewNode::Directory } else { NewNode::File };
                        let made = ask(|tier| fs.make(tier, Op::Create, own, from, name, 0o700, 0, node));
                        if let Ok(made) = made {
                            if made.kind == FileKind::File {
                                let data = Bytes::from(vec![thread as u8; 300_000]);
                                ask(|tier| fs.write(tier, own, made.ino, round % 3 * 4096, &data, false))
                                    .unwrap();
                            }
                            fs.forget(made.ino, 1);
                        }
                        let renamed =
                            ask(|tier| fs.rename(tier, (from, name), (to, other), RenameMode::Replace, None))
                                .is_ok();
                        moved.fetch_add(u64::from(renamed), Relaxed);
                        // Two directories that are moved into each other: never both.
                        let (a, b) = (shared[0], shared[1]);
                        let into = if thread % 2 == 0 { (b"s0", a, b) } else { (b"s1", b, a) };
                        let _ = ask(|tier| {
                            fs.rename(tier, (ROOT, into.0), (into.2, b"inner"), RenameMode::NoReplace, None)
                        });
                        let _ = ask(|tier| {
                            fs.rename(tier, (into.2, b"inner"), (ROOT, into.0), RenameMode::NoReplace, None)
                        });
                        let _ = ask(|tier| fs.unlink(tier, to, name));
                        let _ = ask(|tier| fs.rmdir(tier, to, other));
                        let record = Bytes::from(vec![thread as u8 + 1; 16]);
                        let place = (round * 4 + thread) * 16;
                        ask(|tier| fs.write(tier, own, log, place, &record, false)).unwrap();
                        ask(|tier| {
                            fs.readdir_plus(tier, from, 0, &mut |entry, _| {
                                if entry.cookie > 2 {
                                    fs.forget(entry.ino, 1);
                                }
                                true
                            })
                        })
                        .unwrap();
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        stop.store(true, Relaxed);
        worker.join().unwrap();
    });
    assert!(moved.load(Relaxed) > 100, "{moved:?}");
    let content = bench.read_all(log);
    assert_eq!(content.len(), 400 * 4 * 16);
    for (index, record) in content.chunks(16).enumerate() {
        assert!(record.iter().all(|&byte| u64::from(byte) == index as u64 % 4 + 1), "record {index}");
    }
    while bench.fs.work().unwrap() == Pending::More {}
    bench.fs.close().unwrap();
    assert_eq!(check(&*bench.map), Vec::<String>::new());
}

/// An engine whose batches wait at a gate.
struct Gate {
    engine: Arc<MemEngine>,
    closed: parking_lot::Mutex<bool>,
    opened: parking_lot::Condvar,
    waiting: AtomicBool,
}

impl Engine for Gate {
    fn get(&self, key: &[u8], tier: Tier) -> EngineResult<Option<Bytes>> {
        self.engine.get(key, tier)
    }
    fn scan(&self, range: KeyRange<'_>, tier: Tier, visit: &mut Visit<'_>) -> EngineResult<()> {
        self.engine.scan(range, tier, visit)
    }
    fn apply(&self, batch: &Batch, tier: Tier) -> EngineResult<Position> {
        if tier == Tier::Disk {
            let mut closed = self.closed.lock();
            self.waiting.store(*closed, Relaxed);
            self.opened.wait_while(&mut closed, |closed| *closed);
        }
        self.engine.apply(batch, tier)
    }
    fn position(&self) -> Position {
        self.engine.position()
    }
    fn sync_to(&self, position: Position, done: Done) {
        self.engine.sync_to(position, done);
    }
    fn work(&self, class: Class) -> EngineResult<Pending> {
        self.engine.work(class)
    }
    fn run(&self, command: Command, done: Done) {
        self.engine.run(command, done);
    }
    fn shape(&self) -> Shape {
        self.engine.shape()
    }
    fn promise(&self) -> Promise {
        self.engine.promise()
    }
    fn bell(&self) -> &Arc<Bell> {
        self.engine.bell()
    }
    fn close(&self) -> EngineResult<()> {
        self.engine.close()
    }
}

#[test]
fn a_call_in_memory_does_not_wait_for_one_on_the_disk() {
    let (engine, clock) = (Arc::new(MemEngine::new()), Arc::new(ManualClock::default()));
    let (closed, opened) = (parking_lot::Mutex::new(false), parking_lot::Condvar::new());
    let gate = Arc::new(Gate { engine, closed, opened, waiting: AtomicBool::new(false) });
    let fs = FileSystem::open(gate.clone(), clock, OPTIONS, space()).unwrap();
    let make = |name| fs.make(Tier::Memory, Op::Create, Caller::ROOT, ROOT, name, 0o644, 0, NewNode::File);
    let (slow, quick) = (make(b"slow").unwrap().ino, make(b"quick").unwrap().ino);
    let data = Bytes::from_static(b"data");
    *gate.closed.lock() = true;
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| fs.write(Tier::Disk, Caller::ROOT, slow, 0, &data, false));
        while !gate.waiting.load(Relaxed) {
            std::thread::yield_now();
        }
        assert!(fs.read(Tier::Memory, slow, 0, 10).unwrap_err().would_block());
        assert!(fs.getattr(Tier::Memory, slow).unwrap_err().would_block());
        assert!(fs.lookup(Tier::Memory, ROOT, b"slow").unwrap_err().would_block());
        fs.write(Tier::Memory, Caller::ROOT, quick, 0, &data, false).unwrap();
        assert_eq!(fs.read(Tier::Memory, quick, 0, 10).unwrap(), b"data");
        *gate.closed.lock() = false;
        gate.opened.notify_all();
        writer.join().unwrap().unwrap();
    });
    assert_eq!(fs.read(Tier::Memory, slow, 0, 10).unwrap(), b"data");
}
