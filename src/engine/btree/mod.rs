//! The B-tree engine: fixed pages changed in place, large values in extents, one log before both.
//!
//! **No steal.** Between checkpoints, changed pages are in memory only. The file therefore always holds the state that a checkpoint
//! froze, and recovery takes that state and replays the batches behind its recovery LSN. Values and new pages are written to free
//! places, so a crash that tears them does no harm. A page that a checkpoint overwrites in place may be torn; the option `torn` says where
//! the copy lies that repairs it (`copies`).
//!
//! The log records of batches are logical in every mode, and recovery replays them; copies of pages only repair. So each mode opens a store
//! that any other mode left, and no mode writes a page in place more than once per checkpoint. Only the changed allocation units of a page
//! are written in place. In `delta` the copy consists of the same units; the other two modes copy whole pages. In `image` the log keeps
//! the images that the last checkpoint needs until the next one commits.
//!
//! With `pages=cow` or `cow-extent` nothing is written in place: pages are copied to free places before they change (`tree::copy_on_write`), so
//! there are no copies. `cow-extent` gives all pages of a checkpoint one place, and collects extents that are mostly dead. Such pages may be
//! compressed when a checkpoint writes them (`page_compression`); in memory they never are.
//!
//! # Components
//!
//! [`BtreeEngine`] only conducts the components. Each component owns its fields and its lock. An arrow points from a component to those
//! that it uses; no arrow points back:
//!
//! ```text
//! BtreeEngine ─► work ─► schedule: next(&FlushState) → FlushWork, a pure function    report
//!   │
//!   ├─► Collector (page_extents)
//!   ├─► Writer (admission) ─► Checkpointer ─► ChangeBufferMerger ─► UnreadableRanges
//!   │        │                      │                │
//!   │        └────► Vacuumer ───────┴────────────────┴─► Bounds
//!   ├─► Reader (scan, read_ahead, explain)                             each of them ─► Core
//!   ├─► Verifier
//!   ▼
//! Core (growth, page_compression, batch_images) ─► latch, copies, age, failure, map_pages
//!   ▼
//! latch ─► tree/ ─► change_buffer ─► set_aside    the tree: source, freemap/, page, meta
//! map_pages ─► freemap/, pager/            the only module that knows the free map and the file
//! copies ─► pager/, doublewrite, records
//! pager/ ─► source, meta, page             the file and its pool, which is a PageSource
//! source, meta, page, value, allocation_unit      at the bottom
//!
//! recovery ─► replay ─► tree/, pager/, map_pages, doublewrite     make what a Core is made of
//! salvage ─► pager/, records, map_pages, doublewrite              a store that cannot be opened
//! ```
//!
//! The tree knows no file: it finds pages in a `PageSource`, and answers with a `Miss` where something is not in memory. The pager knows no
//! tree: it reads what a `Miss` names. The change buffer knows neither of them.
//!
//! # Lock order
//!
//! The turn to do flush work (`Checkpointer::turn`) → the vacuum → the writer's mutex (one batch at a time; freezing) → the latch of the tree
//! (shared for one descent; exclusive for changes in memory, never during a disk request) → the log's own lock. No thread takes the latch
//! twice. Requests of others (`asked`, the target of a buffer merge) have locks that are held for moments; under them, only the log's own lock
//! is taken.
//!
//! The work classes are [`WorkClass::Log`] for the log and [`WorkClass::Flush`] for everything else.
#![doc = include_str!("FORMAT.md")]

mod admission;
mod age;
mod allocation_unit;
mod batch_images;
mod bound;
mod buffer_merge;
mod change_buffer;
mod checkpoint;
mod collection;
mod copies;
mod core;
pub mod decoders;
mod doublewrite;
mod explain;
mod failure;
mod freemap;
mod growth;
mod latch;
mod map_pages;
mod meta;
mod options;
mod page;
mod page_compression;
mod page_extents;
mod pager;
mod read_ahead;
mod reader;
mod records;
mod recovery;
mod replay;
mod report;
mod salvage;
mod scan;
mod schedule;
mod set_aside;
pub mod sizes;
mod source;
mod tree;
mod unreadable;
mod upper;
mod vacuum;
mod value;
mod verify;
mod work;
mod writer;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::{
    Batch, Command, Descriptor, Done, Engine, Error, EventLog, Home, KeyRange, Kind, Lsn, OwnOptions,
    Pending, Probe, Promise, Result, Shape, SpaceGuard, Tier, Visit, WakeSignal, WorkClass,
};
use crate::base::clock::Clock;
use crate::disk::{Disk, Purpose};
use age::CheckpointAge;
use bound::Bounds;
use buffer_merge::ChangeBufferMerger;
use checkpoint::Checkpointer;
use collection::Collector;
use copies::PageCopies;
use core::Core;
use failure::WorkFailure;
use latch::TreeLatch;
use page_extents::PageExtents;
use reader::Reader;
use unreadable::UnreadableRanges;
use upper::UpperHalf;
use vacuum::Vacuumer;
use verify::Verifier;
use writer::Writer;

pub(super) use allocation_unit::FILE as PAGES_NAME;
pub use options::{Options, Placement, Torn};
pub use salvage::{is_file, salvage};
pub(super) use tree::{ScanChunk, ScanItem};
pub(super) use upper::{has_pages, open_upper};

/// The B-tree in the registry.
pub static ENGINE: Descriptor = Descriptor {
    name: "btree",
    help: "B-tree",
    keeps: true,
    options: || Options::default().into(),
    tiny: || Options::tiny().into(),
    home: Home::Disk(|disk, clock, options| Ok(open(disk, clock, options.own()?)?)),
    remote: None,
    is_file,
    salvage: Some(|disk, options, sink| salvage(disk, options.own()?, sink)),
    has_snapshots: false,
    writes_in_place: true,
    variants: &[
        ("torn", || Torn::ALL.iter().map(|torn| torn.name()).collect()),
        // In place it is one of those.
        ("pages", || Placement::ALL[1..].iter().map(|pages| pages.name()).collect()),
    ],
};

impl From<Options> for super::Options {
    fn from(options: Options) -> super::Options {
        super::Options::new(Kind::BTREE, options)
    }
}

/// Cost of opening the store.
struct Opening {
    time: Duration,
    /// Bytes of the log that were read.
    read_bytes: u64,
}

/// A B-tree on one disk.
pub struct BtreeEngine {
    core: Arc<Core>,
    reader: Reader,
    writer: Writer,
    bounds: Arc<Bounds>,
    unreadable: Arc<UnreadableRanges>,
    merger: Arc<ChangeBufferMerger>,
    checkpointer: Arc<Checkpointer>,
    vacuumer: Arc<Vacuumer>,
    collector: Collector,
    verifier: Verifier,
    opening: Opening,
}

/// What a tree shares with the other half of a store.
pub struct Surroundings {
    /// Signalled when there is work to do.
    pub wake_signal: Arc<WakeSignal>,
    /// Takes events.
    pub event_log: Arc<EventLog>,
    /// Keeps the reserve of the disk.
    pub guard: Arc<SpaceGuard>,
}

impl Surroundings {
    /// Those of a store on `disk`.
    pub fn new(disk: Arc<dyn Disk>, options: &super::Common) -> Result<Surroundings> {
        let guard = SpaceGuard::new(disk, options.reserve_bytes, options.log_segment_bytes)?;
        Ok(Surroundings { wake_signal: Arc::default(), event_log: Arc::default(), guard: Arc::new(guard) })
    }
}

/// Opens the B-tree on `disk` and recovers it if needed; on an empty disk a new one is made. An existing store keeps its page size.
pub fn open(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, options: &Options) -> Result<Arc<BtreeEngine>> {
    let around = Surroundings::new(disk.clone(), &options.common)?;
    open_in(disk, clock, options, around, None)
}

/// The same for a tree that may be the upper half of a store.
fn open_in(
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    options: &Options,
    around: Surroundings,
    upper: Option<UpperHalf>,
) -> Result<Arc<BtreeEngine>> {
    options.validate()?;
    let Surroundings { wake_signal, event_log, guard } = around;
    let started = clock.elapsed();
    let is_upper = upper.is_some();
    let recovered = recovery::recover(disk, clock.clone(), wake_signal.clone(), options, &guard, is_upper)?;
    let opening = Opening { time: clock.elapsed().saturating_sub(started), read_bytes: recovered.read_bytes };
    recovered.log.set_file_bytes_max(options.checkpoint_log_bytes + recovered.log.segment_bytes());
    let replayed = recovered.replayed;
    let core = Arc::new(Core {
        page_extents: PageExtents::new(options),
        copies: PageCopies::new(recovered.doublewrite, options.copies(), recovered.pager.page_bytes()),
        pager: recovered.pager,
        log: recovered.log,
        tree: TreeLatch::new(recovered.tree, clock.clone()),
        age: CheckpointAge::new(replayed.image_bytes, replayed.settled_image_bytes),
        failure: WorkFailure::default(),
        options: options.clone(),
        guard,
        clock,
        wake_signal,
        event_log,
        upper,
    });
    let bounds = Arc::new(Bounds::new(core.clone()));
    let unreadable = Arc::new(UnreadableRanges::new(core.clone()));
    let merger = Arc::new(ChangeBufferMerger::new(core.clone(), bounds.clone(), unreadable.clone()));
    let collector = Collector::new(core.clone());
    let checkpointer = Arc::new(Checkpointer::new(
        core.clone(),
        bounds.clone(),
        merger.clone(),
        unreadable.clone(),
        replayed.checkpoints,
    ));
    let vacuumer = Arc::new(Vacuumer::new(core.clone(), bounds.clone()));
    let writer =
        Writer::new(core.clone(), bounds.clone(), merger.clone(), checkpointer.clone(), vacuumer.clone());
    let (is_behind, damage) = {
        let tree = core.tree.read();
        (core.log_bytes(&tree) > 0, tree.space.damage())
    };
    if is_behind {
        core.note_change();
    }
    damage.into_iter().for_each(|sentence| core.tell_map_damage(sentence));
    Ok(Arc::new(BtreeEngine {
        reader: Reader::new(core.clone()),
        writer,
        bounds,
        unreadable,
        merger,
        checkpointer,
        vacuumer,
        collector,
        verifier: Verifier::new(core.clone()),
        opening,
        core,
    }))
}

impl BtreeEngine {
    /// Whether a checkpoint would change the durable state.
    fn is_dirty(&self) -> bool {
        self.core.is_dirty(&self.core.tree.read())
    }
}

impl Engine for BtreeEngine {
    fn kind(&self) -> Kind {
        Kind::BTREE
    }

    fn get(&self, key: &[u8], tier: Tier) -> Result<Option<Bytes>> {
        self.reader.get(key, tier)
    }

    fn scan(&self, range: KeyRange<'_>, tier: Tier, visit: &mut Visit<'_>) -> Result<()> {
        self.reader.scan(range, tier, visit)
    }

    fn apply(&self, batch: &Batch, tier: Tier) -> Result<Lsn> {
        self.writer.apply(batch, tier)
    }

    fn lsn(&self) -> Lsn {
        self.core.log.end()
    }

    fn sync_to(&self, lsn: Lsn, done: Done) {
        self.core.log.sync_to(lsn, done);
    }

    fn promise(&self) -> Promise {
        Promise::WHOLE
    }

    fn close(&self) -> Result<()> {
        self.vacuumer.close();
        // At most twice: for the running checkpoint, and for what it left dirty.
        while self.checkpointer.is_running() {
            self.flush()?;
        }
        if self.is_dirty() {
            super::run(self, Command::Checkpoint)?;
        }
        let damage = self.core.tree.read().damage();
        if let Some(sentence) = damage {
            log::warn!("closed with damage: {sentence}");
        }
        self.core.log.sync_now()?;
        self.core.pager.sync(Purpose::Manifest)
    }

    fn background(&self) -> Option<&dyn super::Background> {
        Some(self)
    }

    fn inspect(&self) -> Option<&dyn super::Inspect> {
        Some(self)
    }
}

impl super::Background for BtreeEngine {
    fn wake_signal(&self) -> &Arc<WakeSignal> {
        &self.core.wake_signal
    }

    fn work(&self, class: WorkClass) -> Result<Pending> {
        match class {
            WorkClass::Log => self.core.log.work(),
            WorkClass::Flush => self.flush(),
            WorkClass::Merge | WorkClass::Reclaim | WorkClass::Room => Ok(Pending::Idle),
        }
    }

    fn run(&self, command: Command, done: Done) {
        match command {
            Command::DropCaches => {
                self.core.pager.drop_pool();
                return done(Ok(()));
            }
            Command::Flush | Command::Checkpoint => {
                self.unreadable.ask_retry();
                self.merger.restart();
                self.checkpointer.ask(done);
            }
            Command::Verify => self.verifier.ask(done),
            Command::Compact => self.vacuumer.ask(done),
            Command::Demote => {
                let why = "a B-tree has nothing below it; engine=hybrid has";
                return done(Err(Error::Invalid(why.to_string())));
            }
            Command::CompactLevel(_) => {
                let why = "a B-tree has no levels; vacuum moves what lies last into free space";
                return done(Err(Error::Invalid(why.to_string())));
            }
        }
        self.core.wake_signal.notify(WorkClass::Flush);
    }
}

impl super::Inspect for BtreeEngine {
    fn shape(&self) -> Shape {
        self.report()
    }

    fn event_log(&self) -> Option<&Arc<EventLog>> {
        Some(&self.core.event_log)
    }

    fn explain(&self, key: &[u8], tier: Tier) -> Result<Vec<Probe>> {
        self.reader.explain(key, tier)
    }
}

#[cfg(test)]
mod tests;
