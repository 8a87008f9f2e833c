//! A control over real doors.

use kvfs::attribution::Attribution;
use kvfs::fs::types::Attributes;
use kvfs::virtual_files::VirtualTree;

use super::*;

pub struct Rig {
    pub clock: Arc<ManualClock>,
    pub sim: Arc<SimDisk>,
    pub disk: Arc<Metered>,
    pub meter: Arc<Meter>,
    pub engine: Arc<MeteredEngine>,
    pub attribution: Arc<Attribution>,
    pub control: Arc<Control>,
    pub tree: Arc<VirtualTree>,
}

pub const OWNER: Caller = Caller { uid: 1000, gid: 1000, pid: 7 };

/// What the mount says of itself.
pub const BLOCK_BYTES: u64 = 4096;
pub const PID: u32 = 4711;

/// What the filesystem says that it holds; no two numbers are the same.
pub fn usage() -> Usage {
    Usage {
        apparent_bytes: 1500,
        stored_bytes: 1000,
        record_bytes: 300,
        inodes: 9,
        orphans: 2,
        reclaim_pending_bytes: 4096,
        ..Usage::default()
    }
}

/// Keys begin with their kind.
pub fn classify(key: &[u8]) -> u8 {
    key.first().copied().unwrap_or(0)
}

pub fn rig(engine: impl FnOnce(Arc<dyn Disk>, Arc<dyn Clock>) -> Arc<dyn Engine>) -> Rig {
    rig_on(|sim| sim, engine)
}

pub fn rig_on(
    wrap: impl FnOnce(Arc<dyn Disk>) -> Arc<dyn Disk>,
    engine: impl FnOnce(Arc<dyn Disk>, Arc<dyn Clock>) -> Arc<dyn Engine>,
) -> Rig {
    rig_beside(None, wrap, engine)
}

/// What asks the witness below an engine.
pub type Ask = Box<dyn Fn() -> kvfs::control::Witnessed + Send + Sync>;

/// An engine that has a witness below it.
pub fn rig_watched(
    witness: Ask,
    engine: impl FnOnce(Arc<dyn Disk>, Arc<dyn Clock>) -> Arc<dyn Engine>,
) -> Rig {
    rig_with((None, Some(witness)), |sim| sim, engine)
}

/// An engine that has a directory of its own beside the disk.
pub fn rig_beside(
    engine_directory: Option<std::path::PathBuf>,
    wrap: impl FnOnce(Arc<dyn Disk>) -> Arc<dyn Disk>,
    engine: impl FnOnce(Arc<dyn Disk>, Arc<dyn Clock>) -> Arc<dyn Engine>,
) -> Rig {
    rig_with((engine_directory, None), wrap, engine)
}

fn rig_with(
    (engine_directory, witness): (Option<std::path::PathBuf>, Option<Ask>),
    wrap: impl FnOnce(Arc<dyn Disk>) -> Arc<dyn Disk>,
    engine: impl FnOnce(Arc<dyn Disk>, Arc<dyn Clock>) -> Arc<dyn Engine>,
) -> Rig {
    let clock = Arc::new(ManualClock::default());
    let sim = SimDisk::new();
    let disk = Metered::new(wrap(sim.clone()));
    let latch = Latch::new(disk.clone());
    let engine = MeteredEngine::new(engine(latch.clone(), clock.clone()), classify);
    let meter = Arc::new(Meter::new());
    let attribution = Arc::new(Attribution::default());
    let control = Control::new(Sources {
        mount: MountInfo {
            owner: (OWNER.uid, OWNER.gid),
            kind_names: &["zero", "one"],
            block_bytes: BLOCK_BYTES,
            pid: PID,
            promise: engine.promise(),
            ..MountInfo::default()
        },
        clock: clock.clone(),
        meter: meter.clone(),
        attribution: attribution.clone(),
        engine: engine.clone(),
        disk: disk.clone(),
        engine_directory,
        witness,
        latch,
        usage: Box::new(usage),
        write_times: Box::new(|| Ok(())),
        open_files: Box::new(OpenFiles::default),
        forking: None,
        process: Box::new(|| None),
    });
    let tree = control.tree();
    Rig { clock, sim, disk, meter, engine, attribution, control, tree }
}

pub fn mem() -> Rig {
    rig(|_, _| Arc::new(MemEngine::new()))
}

impl Rig {
    pub fn find(&self, path: &str) -> Option<Attributes> {
        let mut found = None;
        let mut parent = ROOT;
        for name in path.split('/') {
            found = Some(self.tree.lookup(parent, name.as_bytes(), Caller::ROOT)?);
            parent = found?.ino;
        }
        found
    }

    pub fn cat(&self, path: &str) -> String {
        let handle =
            self.tree.open(self.find(path).unwrap_or_else(|| panic!("no {path}")).ino, Caller::ROOT).unwrap();
        let bytes = self.tree.read(handle, 0, u32::MAX).unwrap();
        self.tree.release(handle);
        String::from_utf8(bytes).unwrap()
    }

    pub fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.cat(path)).unwrap()
    }

    /// What a write answered, perhaps from another thread; fails if it is not answered soon.
    pub fn write(&self, caller: Caller, text: &str) -> kvfs::fs::Result<()> {
        let (sender, receiver) = std::sync::mpsc::channel();
        let ino = self.find(".stats").unwrap().ino;
        self.tree.write(ino, caller, text.as_bytes(), Box::new(move |result| sender.send(result).unwrap()));
        receiver.recv_timeout(Duration::from_secs(10)).expect("the write has been answered")
    }

    /// As if a user had written `bytes`, stored as one block and one inode.
    pub fn user_writes(&self, bytes: usize) {
        self.meter.record(Op::Write, Duration::from_micros(50), bytes as u64, false);
        let mut batch = Batch::new(Op::Write.tag());
        batch.put(vec![1, 7], vec![0x5a; bytes]);
        batch.put(vec![0, 7], vec![1; 98]);
        // A tiny store is busy now and then.
        while let Err(error) = self.engine.apply(&batch, Tier::Disk) {
            assert!(matches!(error, engine::Error::Busy { .. }), "{error}");
            engine::settle(&*self.engine).unwrap();
            self.clock.advance(Duration::from_millis(10));
        }
    }
}

pub fn small_options() -> engine::Options {
    let small = "memtable=16K,table=16K,level_base=64K,log_segment=64K,reserve=0";
    Kind::LSM.default_options().with(small).unwrap()
}

pub fn small_lsm() -> Rig {
    rig(|disk, clock| engine::open(disk, clock, &small_options()).unwrap())
}

pub fn fill(rig: &Rig) {
    let mut prng = Prng::new(7);
    for _ in 0..400 {
        let mut batch = Batch::new(Op::Write.tag());
        batch.put(prng.below(300).to_be_bytes().to_vec(), vec![9; 400]);
        rig.meter.record(Op::Write, Duration::from_micros(9), 400, false);
        while rig.engine.apply(&batch, Tier::Disk).is_err() {
            engine::settle(&*rig.engine).unwrap();
        }
    }
    engine::settle(&*rig.engine).unwrap();
}
