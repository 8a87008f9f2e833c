//! The filesystem and its model, side by side.

use kvfs::fs::Identity;

use super::*;

/// The filesystem and its model, side by side.
pub struct Run {
    pub seed: u64,
    pub random: Prng,
    pub store: Box<dyn Store>,
    pub reluctant: bool,
    pub engine: Arc<dyn Engine>,
    pub fs: Arc<FileSystem>,
    pub clock: Arc<ManualClock>,
    pub model: ModelFs,
    pub open: Vec<Ino>,
    /// After a crash deferred times may be lost, so they are no longer compared.
    pub compare_times: bool,
    pub log: Vec<String>,
}

impl Run {
    pub fn new(seed: u64, mut store: Box<dyn Store>, reluctant: bool) -> Run {
        let clock = Arc::new(ManualClock::default());
        let engine = store.open(None);
        FileSystem::format(&*engine, &*clock, &OPTIONS, Identity { uuid: [1; 16], secret: seed }).unwrap();
        let (engine, fs) = Self::mount(engine, &clock, reluctant, seed);
        let model = ModelFs::new(BLOCK, clock.now().into());
        let random = Prng::new(seed);
        let (open, log) = (Vec::new(), Vec::new());
        Run { seed, random, store, reluctant, engine, fs, clock, model, open, compare_times: true, log }
    }

    pub fn mount(
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
    pub fn remount(&mut self, end: End) {
        if end == End::Clean {
            self.fs.close().unwrap();
        } else {
            self.compare_times = false;
        }
        for ino in std::mem::take(&mut self.open) {
            self.model.release(ino);
        }
        // Nothing may hold the former engine while it is opened again: one of others locks its files.
        let nothing: Arc<dyn Engine> = Arc::new(MemEngine::new());
        FileSystem::format(&*nothing, &*self.clock, &OPTIONS, Identity { uuid: [0; 16], secret: 0 }).unwrap();
        (self.engine, self.fs) = Self::mount(nothing, &self.clock, false, 0);
        let engine = self.store.open(Some(end));
        (self.engine, self.fs) = Self::mount(engine, &self.clock, self.reluctant, self.random.bits());
        let problems = check(&*self.engine);
        assert!(problems.is_empty(), "{}: {problems:#?}", self.story());
    }

    pub fn story(&self) -> String {
        let last = self.log.len().saturating_sub(20);
        format!("SEED={}, last calls:\n{}\n", self.seed, self.log[last..].join("\n"))
    }

    pub fn name(&mut self) -> Vec<u8> {
        match self.random.below(60) {
            0 => vec![b'n'; 255],
            1 => vec![b'n'; 256],
            2 => b"..".to_vec(),
            3 => b"a/b".to_vec(),
            number => format!("n{}", number % 7).into_bytes(),
        }
    }

    pub fn pick(&mut self, accept: impl Fn(&Attributes) -> bool) -> Ino {
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
    pub fn name_of_open(&self) -> Option<(Ino, Vec<u8>)> {
        let directories = self.model.nodes.iter();
        let mut names = directories.flat_map(|(&dir, node)| node.names.iter().map(move |name| (dir, name)));
        let (dir, (name, _)) = names.find(|(_, (_, ino))| self.open.contains(ino))?;
        Some((dir, name.clone()))
    }

    pub fn directory(&mut self) -> Ino {
        if self.random.one_in(15) {
            return self.pick(|_| true);
        }
        self.pick(|attributes| attributes.kind == FileKind::Directory)
    }

    pub fn file(&mut self) -> Ino {
        if self.random.one_in(25) {
            return self.pick(|_| true);
        }
        self.pick(|attributes| attributes.kind == FileKind::File)
    }

    pub fn offset(&mut self) -> u64 {
        let most = if self.random.one_in(4) { 140 * BLOCK } else { 6 * BLOCK };
        let offset = self.random.below(most);
        if self.random.one_in(2) { offset / BLOCK * BLOCK } else { offset }
    }

    pub fn data(&mut self) -> Bytes {
        let length = match self.random.below(8) {
            0 => self.random.below(100 * BLOCK),
            1 | 2 => BLOCK * (1 + self.random.below(4)),
            3 => 0,
            _ => self.random.below(2 * BLOCK),
        };
        let seed = self.random.bits();
        (0..length).map(|index| (seed >> (index % 8 * 8)) as u8 ^ (index >> 8) as u8).collect()
    }

    pub fn same<T: PartialEq + std::fmt::Debug>(&self, real: Answer<T>, model: Answer<T>) {
        let differs = real != model;
        assert!(!differs, "{}filesystem: {real:?}\nmodel:      {model:?}", self.story());
    }

    /// Attributes without what is not compared.
    pub fn seen(&self, attributes: Attributes) -> Attributes {
        let zero = Time::default();
        if self.compare_times {
            attributes
        } else {
            Attributes { atime: zero, mtime: zero, ctime: zero, ..attributes }
        }
    }

    /// Compares everything that can be seen.
    pub fn compare(&mut self) {
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
    pub fn verify(&mut self) {
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

    pub fn finish(mut self) {
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
        let summary = kvfs::fs::check(&*self.engine, &mut |_| ()).unwrap();
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
