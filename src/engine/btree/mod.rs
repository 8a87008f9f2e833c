//! The B-tree engine: fixed pages changed in place, large values in extents, one log before both.
//!
//! **No steal.** Between checkpoints changed pages live in memory alone, so what lies in the file is always what a
//! checkpoint froze, and recovery is: that state, plus the batches behind its recovery LSN. Values and new pages go where nothing was, so a crash that
//! tears them costs nothing. A page that a checkpoint overwrites may be torn while it is needed; the option `torn` says where its
//! copy lies (`copies`).
//!
//! Batches are logical records in every mode, and recovery replays those; copies only repair. So each mode opens what any other
//! left, and no mode writes a page in its place more than once a checkpoint. What is written in place is the units of the page that
//! changed, and in `delta` the copy is these units; the other two copy whole pages. In `image` the log keeps what the last checkpoint
//! needed until the next commits.
//!
//! # Components
//!
//! [`BtreeEngine`] is their conductor and nothing else. Each has its fields and its lock to itself. An arrow says who knows whom; none points
//! back:
//!
//! ```text
//! BtreeEngine ─► work ─► schedule: next(&FlushState) → FlushWork, a pure function    report
//!   │
//!   ├─► Writer (admission) ─► Checkpointer ─► ChangeBufferMerger ─► UnreadableRanges
//!   │        │                      │                │
//!   │        └────► Vacuumer ───────┴────────────────┴─► Bounds
//!   ├─► Reader (scan, read_ahead, explain)                             each of them ─► Core
//!   ├─► Verifier
//!   ▼
//! Core (growth, batch_images) ─► latch, copies, age, failure, map_pages
//!   ▼
//! latch ─► tree/ ─► change_buffer ─► set_aside    the tree: source, freemap/, page, meta
//! map_pages ─► freemap/, pager/            the only one who knows the free map and the file
//! copies ─► pager/, doublewrite, records
//! pager/ ─► source, meta, page             the file and its pool, which is a PageSource
//! source, meta, page, value, allocation_unit      at the bottom
//!
//! recovery ─► replay ─► tree/, pager/, map_pages, doublewrite     make what a Core is made of
//! salvage ─► pager/, records, map_pages, doublewrite              a store that cannot be opened
//! ```
//!
//! The tree knows no file: it finds pages in a `PageSource`, and where something is missing it says so with a `Miss`. The pager knows no
//! tree: it reads what a `Miss` names. The change buffer knows neither.
//!
//! # Lock order
//!
//! The turn to do flush work (`Checkpointer::turn`) → the vacuum → the writer's mutex (one batch at a time; freezing) → the latch of the tree
//! (shared: one descent; exclusive: changes in memory, never a disk request) → the log's own. Nobody takes the latch who has it. What is asked
//! for (`asked`, the target of a buffer merge) is locked for moments; inside, only the log's own is taken.
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
mod source;
mod tree;
mod unreadable;
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
use copies::PageCopies;
use core::Core;
use failure::WorkFailure;
use latch::TreeLatch;
use reader::Reader;
use unreadable::UnreadableRanges;
use vacuum::Vacuumer;
use verify::Verifier;
use writer::Writer;

pub use options::{Options, Torn};
pub use salvage::{is_file, salvage};

/// The B-tree in the registry.
pub static ENGINE: Descriptor = Descriptor {
    name: "btree",
    help: "B-tree",
    keeps: true,
    options: || Options::default().into(),
    tiny: || Options::tiny().into(),
    home: Home::Disk(|disk, clock, options| Ok(open(disk, clock, options.own()?)?)),
    is_file,
    salvage: Some(|disk, options, sink| salvage(disk, options.own()?, sink)),
    writes_in_place: true,
    variants: ("torn", || Torn::ALL.iter().map(|torn| torn.name()).collect()),
};

impl From<Options> for super::Options {
    fn from(options: Options) -> super::Options {
        super::Options::new(Kind::BTREE, options)
    }
}

/// What opening took.
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
    verifier: Verifier,
    opening: Opening,
}

/// Opens the B-tree on `disk`, recovering it if needed; an empty disk gets a new one. The page size is the stored one if there
/// is a store.
pub fn open(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, options: &Options) -> Result<Arc<BtreeEngine>> {
    options.validate()?;
    let wake_signal = Arc::new(WakeSignal::new());
    let guard =
        SpaceGuard::new(disk.clone(), options.common.reserve_bytes, options.common.log_segment_bytes)?;
    let started = clock.elapsed();
    let recovered = recovery::recover(disk, clock.clone(), wake_signal.clone(), options, &guard)?;
    let opening = Opening { time: clock.elapsed().saturating_sub(started), read_bytes: recovered.read_bytes };
    recovered.log.set_file_bytes_max(options.checkpoint_log_bytes + recovered.log.segment_bytes());
    let replayed = recovered.replayed;
    let core = Arc::new(Core {
        copies: PageCopies::new(recovered.doublewrite, options.torn, recovered.pager.page_bytes()),
        pager: recovered.pager,
        log: recovered.log,
        tree: TreeLatch::new(recovered.tree, clock.clone()),
        age: CheckpointAge::new(replayed.image_bytes, replayed.settled_image_bytes),
        failure: WorkFailure::default(),
        options: options.clone(),
        guard,
        clock,
        wake_signal,
        event_log: Arc::default(),
    });
    let bounds = Arc::new(Bounds::new(core.clone()));
    let unreadable = Arc::new(UnreadableRanges::new(core.clone()));
    let merger = Arc::new(ChangeBufferMerger::new(core.clone(), bounds.clone(), unreadable.clone()));
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
        Promise { prefix: true, survives_kill: true }
    }

    fn close(&self) -> Result<()> {
        self.vacuumer.close();
        // Twice at most: for a job on its way, and for what it left behind.
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
