#![doc = include_str!("FORMAT.md")]
//!
//! # How it works
//!
//! 1. [`Engine::apply`] appends the batch to the log and inserts it into the *mutable memtable*.
//! 2. A full memtable becomes *immutable*; a flush writes it to a table in L0, then lets go of the log behind it.
//! 3. Merges bring tables from level to level, so that reads meet few sorted runs and old entries give their space back.
//! 4. A read asks memtables, L0 newest first, then one table per level; the first that has an entry of the key has the newest one.
//!
//! # Invariants
//!
//! 1. The log decides the order of batches; there are no sequence numbers. What is newer lies above what is older: mutable
//!    memtable, immutables newest first, L0 newest first, L1 … L6.
//! 2. A batch lies wholly in one memtable, so in one table of L0.
//! 3. The log is released up to an LSN only after an edit is durable that puts everything before it into tables.
//! 4. A read works on one *superversion*, holds no lock while it waits for the disk, and keeps no memtable meanwhile: memtables, those that
//!    are flushed and not freed yet among them, are never more than `memtables` says, but by command.
//!
//! # Components
//!
//! ```text
//!                LsmEngine                the door: passes each call on, and holds no state of its own
//!        ┌───────────┼──────────┐
//!     Writer      Flusher   LevelStore        what fills the levels, and the levels themselves
//!        │           │          ├───────────┬──────────┐
//!        ├───────────┤      Compactor    Reader    Reclaimer
//!        │           │      │ Scheduler     │          │
//!        ▼           │      │ Cleaner       │          │
//!       Log ◄────────┤      │ Collector     │          │
//!                    └──────┤               │          │
//!                       VersionSet ─► CurrentSuperversion ┘   superversion, manifest, what is set aside, memory
//!                           │
//!                         Core                table files, room on the disk, options, commands, clock, wake signal
//! ```
//!
//! The levels stand without writer, flusher and log, too: a [`LevelStore`] takes tables from elsewhere that are newer than its own.
//!
//! Arrows point down only: engine → components → version set → core. A component knows no other one; a message from one to another stands
//! in the version set or the core ([`shortage`], [`commands`]), and the [`WakeSignal`] wakes the one that should read it. The compactor's
//! parts know each other downward, too: compactor → scheduler → cleaner, collector. A reader holds the current superversion, the cache and
//! the deleted ranges, so it cannot change the store.
//!
//! # Lock order
//!
//! `Writer::pace`, `Flusher::flushing` or `Compactor::running`, then [`VersionSet::change`](version_set::VersionSet::change) (the manifest), then the superversion. All others are leaves.
//! `pace` and the superversion are held for memory and one log write only; `flushing`, `running` and the manifest are held across disk requests
//! and taken by background work alone; `running` not while a subcompaction does a step.

mod commands;
pub mod compaction;
mod compactor;
mod core;
mod cursor;
pub mod decoders;
mod deleted_ranges;
mod flusher;
mod fork;
mod level_store;
mod manifest;
mod memory_budget;
mod memtable;
mod merging_cursor;
mod mutable_options;
mod needed;
mod new_tables;
mod options;
mod reader;
mod reclaimer;
mod recovery;
mod report;
mod retired;
mod run;
mod salvage;
mod set_aside;
mod shortage;
pub mod sized_levels;
mod space_budget;
mod stall;
mod survivors;
mod table;
mod throttle;
mod totals;
mod value_log;
mod verify;
mod version;
mod version_set;
mod writer;

#[cfg(test)]
mod read_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use bytes::Bytes;

use super::wal::Log;
use super::{
    Batch, Command, Descriptor, Done, Engine, EventLog, Home, KeyRange, Kind, Lsn, Pending, Probe, Promise,
    Result, Shape, Snapshot, TableInfo, Tier, Visit, WakeSignal, WorkClass,
};
use flusher::Flusher;
use writer::Writer;

pub use compaction::{Descriptor as PolicyDescriptor, PolicyKind, PolicyOptions};
pub(super) use level_store::LevelStore;
pub(super) use new_tables::NewTables;
pub use options::{BLOOM_BITS_MAX, Compression, LevelCompression, Options};
pub use recovery::open;
pub(super) use recovery::open_levels;
pub(super) use salvage::{has_manifest, salvage_tables};
pub use salvage::{is_file, salvage};
pub(super) use table::hash;

/// The LSM-tree in the registry.
pub static ENGINE: Descriptor = Descriptor {
    name: "lsm",
    help: "LSM-tree",
    keeps: true,
    options: || Options::default().into(),
    tiny: || Options::tiny().into(),
    home: Home::Disk(|disk, clock, options| Ok(open(disk, clock, options.own()?)?)),
    remote: None,
    is_file,
    salvage: Some(|disk, _, sink| salvage(&*disk, sink)),
    has_snapshots: true,
    writes_in_place: false,
    variants: &[("policy", || PolicyKind::ALL.iter().map(|policy| policy.name()).collect())],
};

impl From<Options> for super::Options {
    fn from(options: Options) -> super::Options {
        super::Options::new(Kind::LSM, options)
    }
}

/// An entry of a key: its value, or `None` for a tombstone.
pub type Slot = Option<Bytes>;

/// The place of a frame at `offset` of file `number`.
fn place(number: u64, offset: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ offset
}

/// The LSM-tree: the levels, what fills them, and which of them each call goes to.
pub struct LsmEngine {
    levels: LevelStore,
    log: Arc<Log>,
    writer: Writer,
    flusher: Flusher,
}

impl LsmEngine {
    /// The engine of the store that `levels` are of, whose batches go to `log`.
    fn new(levels: LevelStore, log: Arc<Log>) -> LsmEngine {
        let (core, versions) = (levels.core.clone(), levels.versions.clone());
        LsmEngine {
            writer: Writer::new(core.clone(), versions.clone(), levels.deleted_ranges.clone(), log.clone()),
            flusher: Flusher::new(core, versions, log.clone()),
            levels,
            log,
        }
    }
}

impl Engine for LsmEngine {
    fn kind(&self) -> Kind {
        Kind::LSM
    }

    fn get(&self, key: &[u8], tier: Tier) -> Result<Option<Bytes>> {
        Ok(self.levels.reader.get(key, tier)?.0)
    }

    fn scan(&self, range: KeyRange<'_>, tier: Tier, visit: &mut Visit<'_>) -> Result<()> {
        self.levels.reader.scan(range, tier, visit)
    }

    fn apply(&self, batch: &Batch, _: Tier) -> Result<Lsn> {
        self.writer.apply(batch)
    }

    fn lsn(&self) -> Lsn {
        self.log.end()
    }

    fn sync_to(&self, lsn: Lsn, done: Done) {
        self.log.sync_to(lsn, done);
    }

    fn promise(&self) -> Promise {
        Promise::WHOLE
    }

    fn close(&self) -> Result<()> {
        // What they have taken may be all that a flush needs.
        self.levels.compactor.stop();
        self.writer.rotate_now();
        let flushed = self.flusher.flush_all();
        self.levels.reclaimer.finish();
        // What could not be flushed is in the log.
        self.log.sync_now()?;
        self.levels.end_commands();
        flushed
    }

    /// Flushes first, so that it holds tables alone.
    fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        self.writer.rotate_now();
        self.flusher.flush_all()?;
        let superversion = self.levels.versions.superversion();
        let flushed = superversion.memtables().last().map_or(self.lsn(), |oldest| oldest.first());
        Ok(Box::new(self.levels.reader.snapshot(superversion.version.clone(), flushed)))
    }

    fn background(&self) -> Option<&dyn super::Background> {
        Some(self)
    }

    fn inspect(&self) -> Option<&dyn super::Inspect> {
        Some(self)
    }
}

impl super::Background for LsmEngine {
    fn wake_signal(&self) -> &Arc<WakeSignal> {
        &self.levels.core.wake_signal
    }

    fn work(&self, class: WorkClass) -> Result<Pending> {
        match class {
            WorkClass::Log => self.log.work(),
            WorkClass::Flush => self.flusher.work(),
            WorkClass::Merge => self.levels.compactor.work(),
            WorkClass::Reclaim => {
                // Merges let go of segments.
                self.log.reuse();
                match self.levels.reclaimer.work()? {
                    Pending::Idle => Ok(self.writer.flush_last_deletes()),
                    pending => Ok(pending),
                }
            }
            WorkClass::Room => Ok(Pending::Idle),
        }
    }

    fn threads(&self, class: WorkClass) -> usize {
        if class == WorkClass::Merge { self.levels.core.options.merge_threads as usize } else { 1 }
    }

    fn run(&self, command: Command, done: Done) {
        let lsn = match command {
            Command::Flush | Command::Checkpoint | Command::Compact => self.writer.rotate_now(),
            Command::CompactLevel(_) | Command::Verify | Command::DropCaches | Command::Demote => Lsn::ZERO,
        };
        self.levels.run(command, lsn, done);
    }

    fn set(&self, name: &str, value: &str) -> Result<()> {
        self.levels.set(name, value)?;
        // A full memtable may be due now.
        self.writer.make_due();
        self.levels.core.wake_signal.notify(WorkClass::Flush);
        Ok(())
    }
}

impl super::Inspect for LsmEngine {
    fn shape(&self) -> Shape {
        self.report()
    }

    fn event_log(&self) -> Option<&Arc<EventLog>> {
        Some(&self.levels.core.event_log)
    }

    fn tables(&self) -> Vec<TableInfo> {
        self.levels.list_tables()
    }

    fn explain(&self, key: &[u8], tier: Tier) -> Result<Vec<Probe>> {
        self.levels.reader.explain(key, tier)
    }
}
