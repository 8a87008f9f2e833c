//! What hangs: an engine that answers nothing, a disk whose directory does not come.

use super::*;

/// An engine whose batches and commands wait for a gate, as a store that cannot keep up would.
pub struct Stuck {
    pub engine: MemEngine,
    pub gate: parking_lot::Mutex<()>,
    pub commands: parking_lot::Mutex<Vec<kvfs::engine::Done>>,
    pub wake_signal: Arc<kvfs::engine::WakeSignal>,
}

impl Engine for Stuck {
    hand_on!(Engine engine: kind, get, scan, lsn, promise, close);

    fn apply(&self, batch: &Batch, tier: Tier) -> kvfs::engine::Result<kvfs::engine::Lsn> {
        let _gate = self.gate.lock();
        self.engine.apply(batch, tier)
    }
    fn sync_to(&self, _: kvfs::engine::Lsn, done: kvfs::engine::Done) {
        self.commands.lock().push(done);
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
    hand_on!(Disk disk: create, open, rename, remove, sync_names);

    fn list(&self) -> std::io::Result<Vec<kvfs::disk::FileInfo>> {
        let _gate = self.gate.lock();
        self.disk.list()
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
