//! The hybrid engine: a B-tree for what is hot, over the levels of an LSM-tree for what is cold.
#![doc = include_str!("FORMAT.md")]

mod demoter;
mod heat;
mod options;
mod promoter;
mod reader;
mod report;
mod salvage;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::btree::{self, BtreeEngine, Surroundings};
use super::lsm::{self, LevelStore};
use super::{
    Batch, Cause, Command, Descriptor, Done, Engine, Error, EventLog, Home, KeyRange, Kind, Lsn, Pending,
    Probe, ProbeMeter, Promise, Result, Shape, TableInfo, Tier, Visit, WakeSignal, WorkClass,
};
use crate::base::clock::Clock;
use crate::base::text::{parse_size, parse_switch};
use crate::disk::Disk;
use demoter::Demoter;
use heat::Heat;
use promoter::Promoter;

pub use options::Options;
pub use salvage::{is_file, salvage};

/// The hybrid in the registry.
pub static ENGINE: Descriptor = Descriptor {
    name: "hybrid",
    help: "B-tree for what is hot over an LSM-tree's levels for what is cold",
    keeps: true,
    options: || Options::default().into(),
    tiny: || <Options as super::OwnOptions>::tiny().into(),
    home: Home::Disk(|disk, clock, options| Ok(open(disk, clock, options.own()?)?)),
    remote: None,
    is_file,
    salvage: Some(|disk, options, sink| salvage(disk, options.own()?, sink)),
    has_snapshots: false,
    writes_in_place: true,
    variants: &[
        ("policy", || vec!["leveled", "tiered"]),
        // In place it is each of those.
        ("pages", || btree::Placement::ALL[1..].iter().map(|pages| pages.name()).collect()),
    ],
};

impl From<Options> for super::Options {
    fn from(options: Options) -> super::Options {
        super::Options::new(Kind::HYBRID, options)
    }
}

/// Point reads by the half that had to answer.
#[derive(Default)]
struct Reads {
    tree: AtomicU64,
    levels: AtomicU64,
    /// Pages and tables that each asked.
    probes: ProbeMeter,
}

/// The hybrid: its two halves, and what brings entries from one to the other.
pub struct HybridEngine {
    tree: Arc<BtreeEngine>,
    levels: Arc<LevelStore>,
    heat: Arc<Heat>,
    demoter: Demoter,
    promoter: Promoter,
    reads: Reads,
    wake_signal: Arc<WakeSignal>,
    event_log: Arc<EventLog>,
}

/// Opens the hybrid on `disk`, recovering it if it was not closed. A disk without one gets a new, empty store.
pub fn open(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, options: &Options) -> Result<Arc<HybridEngine>> {
    // The tree comes to be before the levels: where they are, it was.
    if lsm::has_manifest(&*disk)? && !btree::has_pages(&*disk)? {
        let what = "it is missing, but the levels below it are there";
        return Err(Error::corrupt(btree::PAGES_NAME, 0, what));
    }
    let around = Surroundings::new(disk.clone(), &options.tree.common)?;
    let (wake_signal, event_log, guard) =
        (around.wake_signal.clone(), around.event_log.clone(), around.guard.clone());
    let tree = btree::open_upper(disk.clone(), clock.clone(), &options.of_tree(), around)?;
    let levels = lsm::open_levels(
        disk,
        clock.clone(),
        &options.of_levels(),
        wake_signal.clone(),
        guard,
        event_log.clone(),
    )?;
    if tree.lsn() < levels.log_lsn() {
        let what = format!("it ends at {}, but the levels need it up to {}", tree.lsn(), levels.log_lsn());
        return Err(Error::corrupt("the log", tree.lsn().number(), what));
    }
    if levels.log_lsn() < tree.lower_lsn() {
        let (has, needs) = (levels.log_lsn(), tree.lower_lsn());
        let what = format!(
            "an edit is missing: it has what came down up to LSN {has}, the tree needs it up to {needs}"
        );
        return Err(Error::corrupt("manifest", 0, what));
    }
    let levels = Arc::new(levels);
    let below = levels.clone();
    tree.set_below(Box::new(move |key| below.may_hold(key)));
    let heat = Arc::new(Heat::new(options.hot_bytes));
    let demoter = Demoter::new(tree.clone(), levels.clone(), heat.clone(), clock.clone(), options.hot_bytes);
    let promoter = Promoter::new(tree.clone(), levels.clone(), heat.clone(), options.promote_heat);
    let reads = Reads::default();
    Ok(Arc::new(HybridEngine { tree, levels, heat, demoter, promoter, reads, wake_signal, event_log }))
}

/// A command that both halves do.
struct OfBoth {
    done: Option<Done>,
    /// The result of the half that ended first.
    first: Option<Result<()>>,
}

/// Two callbacks that call `done` once both were called, with the first error.
fn both(done: Done) -> (Done, Done) {
    let command = Arc::new(Mutex::new(OfBoth { done: Some(done), first: None }));
    let half = |command: Arc<Mutex<OfBoth>>| -> Done {
        Box::new(move |result: Result<()>| {
            let mut of_both = command.lock();
            let Some(first) = of_both.first.take() else {
                of_both.first = Some(result);
                return;
            };
            let done = of_both.done.take();
            drop(of_both);
            if let Some(done) = done {
                done(first.and(result));
            }
        })
    };
    (half(command.clone()), half(command))
}

/// What two kinds of work leave.
fn sooner(one: Pending, other: Pending) -> Pending {
    match (one, other) {
        (Pending::More, _) | (_, Pending::More) => Pending::More,
        (Pending::After(one), Pending::After(other)) => Pending::After(one.min(other)),
        (Pending::After(wait), Pending::Idle) | (Pending::Idle, Pending::After(wait)) => Pending::After(wait),
        (Pending::Idle, Pending::Idle) => Pending::Idle,
    }
}

impl HybridEngine {
    /// Whether a batch may come in: the tree has room, or the batch gives space back.
    fn admit(&self, batch: &Batch) -> Result<()> {
        if batch.uses_reserve || batch.is_empty() || !self.demoter.is_pressing() {
            return Ok(());
        }
        self.wake_signal.notify(WorkClass::Merge);
        match self.demoter.trouble() {
            // Waiting is no use while the work that would end it fails.
            Some(error) => Err(error),
            None => Err(self.busy(Cause::HotFull)),
        }
    }

    /// One unit of bringing down what is cold, or of merging. After an error merges come first: they may make the room that was missing.
    fn bring_down_or_merge(&self) -> Result<Pending> {
        let mut merged = None;
        self.levels.note_above(self.tree.owed_bytes());
        if self.demoter.trouble().is_some() {
            match self.levels.merge()? {
                Pending::More => return Ok(Pending::More),
                pending => merged = Some(pending),
            }
        }
        let mut pending = self.demoter.work()?;
        if pending == Pending::Idle
            && self.promoter.is_due()
            && let Some(promoted) = self.demoter.exclusively(|hot_bytes| self.promoter.step(hot_bytes))
        {
            pending = promoted?;
        }
        // Who waits for room in the tree looks again, for it has some now or will hear why not.
        self.wake_signal.notify(WorkClass::Room);
        match (pending, merged) {
            (Pending::More, _) => Ok(Pending::More),
            (pending, Some(merged)) => Ok(sooner(pending, merged)),
            (pending, None) => Ok(sooner(pending, self.levels.merge()?)),
        }
    }

    fn busy(&self, cause: Cause) -> Error {
        self.tree.begin_stall(cause);
        Error::Busy { cause, retry_after: Duration::from_millis(20) }
    }
}

impl Engine for HybridEngine {
    fn kind(&self) -> Kind {
        Kind::HYBRID
    }

    fn get(&self, key: &[u8], tier: Tier) -> Result<Option<Bytes>> {
        let found = self.read(key, tier);
        if !matches!(found, Err(Error::WouldBlock)) {
            self.heat.touch(key);
        }
        found
    }

    fn scan(&self, range: KeyRange<'_>, tier: Tier, visit: &mut Visit<'_>) -> Result<()> {
        self.visit(range, tier, visit)
    }

    fn apply(&self, batch: &Batch, tier: Tier) -> Result<Lsn> {
        self.admit(batch)?;
        let applied = self.tree.apply(batch, tier);
        match &applied {
            Ok(_) => {
                let puts = batch.operations().iter().filter(|operation| operation.value().is_some());
                puts.for_each(|operation| self.heat.touch(operation.key()));
                if !batch.uses_reserve {
                    self.levels.note_room();
                }
                if self.demoter.is_due() || self.demoter.is_sweep_due() {
                    self.wake_signal.notify(WorkClass::Merge);
                }
            }
            // Tables may give some back, once they are cleaned; for that what deletes have left must be below.
            Err(Error::NoSpace)
                if self.levels.want_space()
                    || batch.awaits_space
                    || self.demoter.may_sweep()
                    || self.levels.gives_space() =>
            {
                self.demoter.ask_sweep();
                self.wake_signal.notify(WorkClass::Merge);
                return Err(self.busy(Cause::Space));
            }
            Err(_) => {}
        }
        applied
    }

    fn lsn(&self) -> Lsn {
        self.tree.lsn()
    }

    fn sync_to(&self, lsn: Lsn, done: Done) {
        self.tree.sync_to(lsn, done);
    }

    fn promise(&self) -> Promise {
        Promise::WHOLE
    }

    fn close(&self) -> Result<()> {
        self.demoter.stop();
        let closed = self.tree.close();
        self.levels.close();
        closed
    }

    fn background(&self) -> Option<&dyn super::Background> {
        Some(self)
    }

    fn inspect(&self) -> Option<&dyn super::Inspect> {
        Some(self)
    }
}

impl super::Background for HybridEngine {
    fn wake_signal(&self) -> &Arc<WakeSignal> {
        &self.wake_signal
    }

    fn work(&self, class: WorkClass) -> Result<Pending> {
        match class {
            WorkClass::Log | WorkClass::Flush => Engine::work(&*self.tree, class),
            WorkClass::Merge => self.bring_down_or_merge(),
            WorkClass::Reclaim => self.levels.reclaim(),
            WorkClass::Room => Ok(Pending::Idle),
        }
    }

    fn threads(&self, class: WorkClass) -> usize {
        // One more brings down what is cold.
        if class == WorkClass::Merge { self.levels.merge_threads() + 1 } else { 1 }
    }

    fn run(&self, command: Command, done: Done) {
        match command {
            Command::Flush | Command::Checkpoint => Engine::run(&*self.tree, command, done),
            Command::CompactLevel(_) => self.levels.run(command, Lsn::ZERO, done),
            Command::Demote => {
                self.demoter.ask_all(done);
                self.wake_signal.notify(WorkClass::Merge);
            }
            Command::Compact | Command::Verify | Command::DropCaches => {
                let (one, other) = both(done);
                Engine::run(&*self.tree, command, one);
                self.levels.run(command, Lsn::ZERO, other);
            }
        }
    }

    fn set(&self, name: &str, value: &str) -> Result<()> {
        let invalid = |bad| Error::Invalid(format!("{name}={value}: {bad}"));
        match name {
            "hot" => {
                let bytes = parse_size(value).map_err(invalid)?;
                if bytes == 0 {
                    return Err(Error::Invalid("hot must be above 0".to_string()));
                }
                self.demoter.set_hot_bytes(bytes);
            }
            "demote_held" => self.demoter.set_held(parse_switch(value).map_err(invalid)?),
            "promote" => self.promoter.set_heat_min(options::parse_heat(value).map_err(invalid)?),
            _ => return self.levels.set(name, value),
        }
        self.wake_signal.notify(WorkClass::Merge);
        self.wake_signal.notify(WorkClass::Room);
        Ok(())
    }
}

impl super::Inspect for HybridEngine {
    fn shape(&self) -> Shape {
        self.report()
    }

    fn event_log(&self) -> Option<&Arc<EventLog>> {
        Some(&self.event_log)
    }

    fn tables(&self) -> Vec<TableInfo> {
        self.levels.list_tables()
    }

    fn explain(&self, key: &[u8], tier: Tier) -> Result<Vec<Probe>> {
        self.trace(key, tier)
    }
}

#[cfg(test)]
mod heat_tests;
#[cfg(test)]
mod tests;
