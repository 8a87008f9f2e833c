//! A filesystem over a counted map, for what a model cannot see.

use kvfs::engine::MeteredEngine;

use super::*;

/// A filesystem over a counted map, for what a model cannot see.
pub struct Bench {
    pub map: Arc<MemEngine>,
    pub engine: Arc<MeteredEngine>,
    pub clock: Arc<ManualClock>,
    pub fs: Arc<FileSystem>,
}

impl Bench {
    pub fn new() -> Bench {
        Bench::over(Arc::new(MemEngine::new()), OPTIONS)
    }

    pub fn over(map: Arc<MemEngine>, options: Options) -> Bench {
        let clock = Arc::new(ManualClock::default());
        let engine = MeteredEngine::new(map.clone(), keys::classify);
        let fs = FileSystem::open(engine.clone(), clock.clone(), options, space()).unwrap();
        Bench { map, engine, clock, fs }
    }

    /// As after a crash: what is in memory is lost.
    pub fn crash(self) -> Bench {
        Bench::over(self.map, OPTIONS)
    }

    pub fn create(&self, parent: Ino, name: &str) -> Ino {
        let node = NewNode::File;
        let made =
            self.fs.make(Tier::Memory, Op::Create, Caller::ROOT, parent, name.as_bytes(), 0o644, 0, node);
        made.unwrap().ino
    }

    pub fn mkdir(&self, parent: Ino, name: &str) -> Ino {
        let node = NewNode::Directory;
        let made =
            self.fs.make(Tier::Memory, Op::Mkdir, Caller::ROOT, parent, name.as_bytes(), 0o755, 0, node);
        made.unwrap().ino
    }

    pub fn write(&self, ino: Ino, offset: u64, data: Vec<u8>) {
        self.fs.write(Tier::Memory, Caller::ROOT, ino, offset, &data.into(), false).unwrap();
    }

    pub fn resize(&self, ino: Ino, size: u64) {
        let changes = SetAttributes { size: Some(size), ..SetAttributes::default() };
        self.fs.setattr(Tier::Memory, Caller::ROOT, ino, &changes).unwrap();
    }

    pub fn read_all(&self, ino: Ino) -> Vec<u8> {
        self.fs.read(Tier::Memory, ino, 0, 64 << 20).unwrap()
    }

    /// Gets, scanned entries, batches, puts, deletes so far.
    pub fn cost(&self) -> [u64; 5] {
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

    pub fn cost_of(&self, call: impl FnOnce()) -> [u64; 5] {
        let before = self.cost();
        call();
        let after = self.cost();
        std::array::from_fn(|index| after[index] - before[index])
    }
}
