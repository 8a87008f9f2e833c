//! What hangs: an engine that answers nothing, a disk whose directory does not come.

use super::*;
use kvfs::engine::Lsn;

/// An engine whose batches and commands wait for a gate, as a store that cannot keep up would.
pub struct Stuck {
    pub engine: MemEngine,
    pub gate: parking_lot::Mutex<()>,
    pub commands: parking_lot::Mutex<Vec<kvfs::engine::Done>>,
    pub wake_signal: Arc<kvfs::engine::WakeSignal>,
}

impl Engine for Stuck {
    fn kind(&self) -> Kind {
        self.engine.kind()
    }
    fn get(&self, key: &[u8], tier: Tier) -> kvfs::engine::Result<Option<bytes::Bytes>> {
        self.engine.get(key, tier)
    }
    fn scan(
        &self,
        range: kvfs::engine::KeyRange<'_>,
        tier: Tier,
        visit: &mut kvfs::engine::Visit<'_>,
    ) -> kvfs::engine::Result<()> {
        self.engine.scan(range, tier, visit)
    }
    fn apply(&self, batch: &Batch, tier: Tier) -> kvfs::engine::Result<Lsn> {
        let _gate = self.gate.lock();
        self.engine.apply(batch, tier)
    }
    fn lsn(&self) -> Lsn {
        Lsn::new(self.engine.lsn().number())
    }
    fn sync_to(&self, _: Lsn, done: kvfs::engine::Done) {
        self.commands.lock().push(done);
    }
    fn promise(&self) -> kvfs::engine::Promise {
        self.engine.promise()
    }
    fn close(&self) -> kvfs::engine::Result<()> {
        self.engine.close()
    }
    fn background(&self) -> Option<&dyn kvfs::engine::Background> {
        Some(self)
    }
    fn inspect(&self) -> Option<&dyn kvfs::engine::Inspect> {
        Some(self)
    }
}

impl kvfs::engine::Background for Stuck {
    fn wake_signal(&self) -> &Arc<kvfs::engine::WakeSignal> {
        &self.wake_signal
    }
    fn work(&self, _: kvfs::engine::WorkClass) -> kvfs::engine::Result<kvfs::engine::Pending> {
        Ok(kvfs::engine::Pending::Idle)
    }
    fn run(&self, _: kvfs::engine::Command, done: kvfs::engine::Done) {
        self.commands.lock().push(done);
    }
}

impl kvfs::engine::Inspect for Stuck {
    fn shape(&self) -> Shape {
        let stalls = Stalls { now: Some(Cause::DirtyPages), stopped: true, ..Stalls::default() };
        Shape { stalls, ..Engine::shape(&self.engine) }
    }
}

/// A disk whose directory can hang.
pub struct Hung {
    pub disk: Arc<dyn Disk>,
    pub gate: Arc<parking_lot::Mutex<()>>,
}

impl Disk for Hung {
    fn create(&self, name: &str) -> std::io::Result<Arc<dyn kvfs::disk::File>> {
        self.disk.create(name)
    }
    fn open(&self, name: &str) -> std::io::Result<Arc<dyn kvfs::disk::File>> {
        self.disk.open(name)
    }
    fn rename(&self, from: &str, to: &str) -> std::io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> std::io::Result<()> {
        self.disk.remove(name)
    }
    fn list(&self) -> std::io::Result<Vec<kvfs::disk::FileInfo>> {
        let _gate = self.gate.lock();
        self.disk.list()
    }
    fn sync_names(&self) -> std::io::Result<()> {
        self.disk.sync_names()
    }
    fn space(&self) -> std::io::Result<Space> {
        let _gate = self.gate.lock();
        self.disk.space()
    }
}

pub fn stuck() -> Arc<Stuck> {
    Arc::new(Stuck {
        engine: MemEngine::new(),
        gate: Default::default(),
        commands: Default::default(),
        wake_signal: Default::default(),
    })
}
