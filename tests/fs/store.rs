//! What an engine lies in, and how a run of it ends.

use super::*;

/// How a run of the filesystem ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Unmounted: everything is closed.
    Clean,
    /// The process dies: what the engine accepted is there.
    Kill,
    /// The power fails: of what was not synced any prefix is there.
    PowerLoss,
}

/// What an engine lies in: opens it, anew after an end.
pub trait Store {
    fn open(&mut self, after: Option<End>) -> Arc<dyn Engine>;
}

/// One map for all.
pub struct MemStore(pub Arc<MemEngine>);

impl Store for MemStore {
    fn open(&mut self, _: Option<End>) -> Arc<dyn Engine> {
        self.0.clone()
    }
}

/// An engine on a simulated disk.
pub struct DiskStore {
    pub kind: Kind,
    pub disk: Arc<SimDisk>,
    pub engine: Option<Arc<dyn Engine>>,
    pub crashes: u64,
}

impl DiskStore {
    pub fn boxed(kind: Kind, seed: u64) -> Box<dyn Store> {
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
