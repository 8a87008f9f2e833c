//! The B-tree engine: fixed pages changed in place, large values in extents, one log before both.
//!
//! **No steal.** Between checkpoints changed pages live in memory alone, so what lies in the file is always what a
//! checkpoint froze, and recovery is: that state, plus the batches behind its floor. Values and new pages go where nothing was, so a crash that
//! tears them costs nothing. A page that a checkpoint overwrites may be torn while it is needed; its copy lies, as the option
//! `torn` says:
//!
//! | `torn`        | the copy                                                        | written                             |
//! |---------------|-----------------------------------------------------------------|-------------------------------------|
//! | `delta`       | in the log, behind the batches of the checkpoint                | once a checkpoint                   |
//! | `doublewrite` | in `btree.double`, from its start                               | once a checkpoint, and a sync more  |
//! | `image`       | in the log, behind the batch; new pages, too, for the same cost | as often as batches change the page |
//!
//! Where the disk has no room for the area, they go to the log, whose files may have it.
//!
//! Batches are logical records in every mode, and recovery replays those; copies only repair. So each mode opens what any other
//! left, and no mode writes a page in its place more than once a checkpoint. What is written in place is the units of the page that
//! changed, and in `delta` the copy is these units; the other two copy whole pages. In `image` the log keeps what the last checkpoint
//! needed until the next commits.
//!
//! # What `apply` does
//!
//! 1. Bring every page on the way to every key into memory; a missing one is read without holding a lock, then it starts again.
//! 2. Refuse what is over a limit; take space in the file for whatever the batch may need at most.
//! 3. Append the batch to the log.
//! 4. Change pages in memory. Nothing can fail here.
//! 5. `torn=image`: append every changed page. One that finds no space gets its image from the checkpoint.
//!
//! A batch of nothing but small values, in a tree that the dirty bytes cannot hold anyway, needs only step 3: its puts wait in the
//! `buffer` until many of one leaf can be made together. `torn=image` has no buffer: its point is the page after each batch.
//!
//! # Reads
//!
//! A search that misses a page reads it without holding a lock and starts again. Scans read ahead: `ahead` says when and how far.
//! Every page that passes the disk is counted by kind and cause ([`super::PageTraffic`]), every wait for a latch by `latch`.
//!
//! # Lock order
//!
//! `job` (the checkpoint) → `compaction` → `writer` (one batch at a time; freezing) → `tree` (shared: one descent; exclusive: changes in memory,
//! never a disk request) → the log's own. `commands` is held for moments and never with another.
//!
//! The work classes are [`Class::Log`] for the log and [`Class::Flush`] for checkpoints and verification.
#![doc = include_str!("FORMAT.md")]

mod ahead;
mod aside;
mod bound;
mod buffer;
mod checkpoint;
mod compact;
mod double;
mod explain;
mod freemap;
mod join;
mod latch;
mod meta;
mod options;
mod page;
mod pager;
mod recovery;
mod replay;
mod room;
mod salvage;
mod schedule;
mod search;
mod tree;
mod value;
mod verify;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};

use super::wal::{FIRST_KIND, Log, RECORD_OVERHEAD_BYTES};
use super::{
    Batch, Bell, Cause, Class, Command, Debt, Descriptor, Done, Engine, Error, Journal, KeyRange, Kind,
    Memory, OwnOptions, PageCause, Pending, Position, Probe, ProbeMeter, Probes, Promise, Result, Shape,
    SpaceGuard, StallMeter, Tier, Visit,
};
use crate::base::clock::Clock;
use crate::base::journal::Field;
use crate::disk::{Disk, Purpose};
use ahead::ReadAhead;
use checkpoint::Job;
use compact::Compaction;
use double::DoubleWrite;
use latch::{TreeLatch, WaitMeter};
use page::Extent;
use pager::{Loaded, Pager, Piece};
use search::{Chunk, Item};
use tree::{Miss, Pins, Stop};
use value::Value;

pub use options::{Options, Torn};
pub use salvage::{is_file, salvage};

/// The B-tree in the registry.
pub static ENGINE: Descriptor = Descriptor {
    name: "btree",
    help: "B-tree",
    keeps: true,
    options: || Options::default().into(),
    tiny: || Options::tiny().into(),
    open: |disk, clock, options| Ok(open(disk, clock, options.own()?)?),
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

/// The file's unit of space.
const UNIT_BYTES: u64 = 4096;
/// Units before hold the meta pages.
const FIRST_UNIT: u64 = 2;
/// Values from this size on lie in extents.
const OUT_OF_LINE_BYTES: usize = 2048;
/// Entries that a scan collects under one lock.
const SCAN_ENTRIES: usize = 256;
/// How often in a row sweeps or checkpoints may fail before a delete is told.
const TRIES_FOR_SPACE: u32 = 4;
/// Pages that a scan holds between its parts.
const LOADED_PAGES_MAX: usize = 64;
/// Bytes of values that a scan reads from the disk at a time.
const SCAN_READ_BYTES: usize = 1 << 20;
/// Units between two values that a scan reads along rather than making a request more: a page, mostly.
const SCAN_GAP_UNITS: u64 = 4;
/// A free end of the file shorter than this stays, so that small stores do not cut and grow in turn.
const CUT_UNITS_MIN: u64 = 64;
/// Longest wait for other writers in [`Tier::Memory`].
const WRITER_WAIT: Duration = Duration::from_millis(2);
/// When a refused batch is worth another try, if no bell rings before.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// Work that fails, for which batches wait.
struct Failure {
    error: Error,
    /// How often in a row.
    times: u32,
    /// What of the disk was free.
    free_bytes: u64,
}

/// Whoever waits for something to be done.
#[derive(Default)]
struct Commands {
    checkpoint: Vec<Done>,
    compact: Vec<Done>,
    verify: Vec<Done>,
}

/// A B-tree on one disk.
pub struct BtreeEngine {
    pager: Pager,
    ahead: ReadAhead,
    double: DoubleWrite,
    log: Log,
    clock: Arc<dyn Clock>,
    bell: Arc<Bell>,
    options: Options,
    guard: SpaceGuard,
    job: Mutex<Option<Job>>,
    compaction: Mutex<Option<Compaction>>,
    writer: Mutex<()>,
    tree: TreeLatch,
    /// What was waited for `tree` and `writer`.
    waits: Arc<WaitMeter>,
    commands: Mutex<Commands>,
    stalls: StallMeter,
    probes: ProbeMeter,
    /// Bytes of page images that were logged since opening, those that opening found behind the floor included.
    logged_image_bytes: AtomicU64,
    /// Those of them before the floor of the durable state. The others cost no replay.
    settled_image_bytes: AtomicU64,
    /// A batch waits until the log is shorter.
    is_log_wanted: AtomicBool,
    /// What of the disk was free when what waits could not be logged again for want of space.
    again_failed: Mutex<Option<u64>>,
    /// Bytes of images that the running checkpoint has yet to log, at most.
    copies_left_bytes: AtomicU64,
    /// Bytes of the log behind that floor that are nothing but what is set aside.
    settled_aside_bytes: AtomicU64,
    /// Units of unreadable pages that were told of.
    parts_told: Mutex<HashSet<u64>>,
    /// Whether the next checkpoint tries to read what could not be read.
    is_retry_asked: AtomicBool,
    /// Batches up to here come into pages before the next checkpoint that is more than a part of a sweep.
    target: Mutex<Option<Position>>,
    /// How the last step of a sweep failed, or that a checkpoint finds no space.
    work_failed: Mutex<Option<Failure>>,
    /// Where the file ended after the last compaction, however that went, and how many units were in use: another would gain nothing
    /// while that is so.
    compacted: Mutex<Option<(u64, u64)>>,
    /// Clock time of the first change since the last freeze, in ns, plus one; 0 without any.
    dirty_since: AtomicU64,
    checkpoints: AtomicU64,
    checkpoint_nanos: AtomicU64,
    recovery_time: Duration,
    recovery_bytes: u64,
    /// Why the data file takes no more writes.
    failed: Mutex<Option<Error>>,
    /// Whether the last unit of checkpoint work failed.
    is_troubled: AtomicBool,
    journal: Arc<Journal>,
}

/// Opens the B-tree on `disk`, recovering it if needed; an empty disk gets a new one. The page size is the stored one if there
/// is a store.
pub fn open(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, options: &Options) -> Result<Arc<BtreeEngine>> {
    options.validate().map_err(Error::Invalid)?;
    let bell = Arc::new(Bell::new());
    let guard =
        SpaceGuard::new(disk.clone(), options.common.reserve_bytes, options.common.log_segment_bytes)?;
    let started = clock.elapsed();
    let recovered = recovery::recover(disk, clock.clone(), bell.clone(), options, &guard)?;
    let recovery_time = clock.elapsed().saturating_sub(started);
    let recovery_bytes = recovered.read_bytes;
    recovered.log.set_file_bytes_max(options.checkpoint_log_bytes + recovered.log.segment_bytes());
    let waits = Arc::new(WaitMeter::new(clock.clone()));
    let engine = BtreeEngine {
        ahead: ReadAhead::new(options.common.cache_bytes, recovered.pager.page_bytes()),
        pager: recovered.pager,
        double: recovered.double,
        log: recovered.log,
        clock,
        bell,
        options: options.clone(),
        guard,
        job: Mutex::new(None),
        compaction: Mutex::new(None),
        writer: Mutex::new(()),
        tree: TreeLatch::new(recovered.tree, waits.clone()),
        waits,
        commands: Mutex::default(),
        stalls: StallMeter::default(),
        probes: ProbeMeter::default(),
        logged_image_bytes: AtomicU64::new(recovered.replayed.image_bytes),
        is_log_wanted: AtomicBool::new(false),
        again_failed: Mutex::new(None),
        copies_left_bytes: AtomicU64::new(0),
        settled_image_bytes: AtomicU64::new(recovered.replayed.floor_image_bytes),
        settled_aside_bytes: AtomicU64::new(0),
        parts_told: Mutex::default(),
        is_retry_asked: AtomicBool::new(false),
        target: Mutex::new(None),
        work_failed: Mutex::new(None),
        compacted: Mutex::new(None),
        dirty_since: AtomicU64::new(0),
        checkpoints: AtomicU64::new(recovered.replayed.checkpoints),
        checkpoint_nanos: AtomicU64::new(0),
        recovery_time,
        recovery_bytes,
        failed: Mutex::new(None),
        is_troubled: AtomicBool::new(false),
        journal: Arc::default(),
    };
    if engine.log_bytes() > 0 {
        engine.set_dirty_since();
    }
    engine.tree.read().buffer.aside.parts().for_each(|part| engine.record_part(part));
    let damage = engine.tree.read().space.damage();
    engine.tell_map_damage(damage);
    Ok(Arc::new(engine))
}

impl BtreeEngine {
    fn lock_writer(&self) -> MutexGuard<'_, ()> {
        self.waits.get(|| self.writer.try_lock(), || self.writer.lock())
    }

    /// Bytes of batches in the log behind the durable state: what opening would replay.
    fn log_bytes(&self) -> u64 {
        let floor = self.tree.read().durable.floor;
        self.log_bytes_since(floor, self.log.end())
    }

    fn log_bytes_since(&self, floor: Position, end: Position) -> u64 {
        let image_bytes = self.logged_image_bytes().saturating_sub(self.settled_image_bytes.load(Relaxed));
        let aside_bytes = self.settled_aside_bytes.load(Relaxed);
        end.saturating_sub(floor).saturating_sub(image_bytes + aside_bytes)
    }

    fn logged_image_bytes(&self) -> u64 {
        self.logged_image_bytes.load(Relaxed)
    }

    fn add_image_bytes(&self, bytes: u64) {
        self.logged_image_bytes.fetch_add(bytes, Relaxed);
    }

    fn append(&self, batch: &Batch) -> Result<Position> {
        self.log.append_batch(FIRST_KIND, Purpose::Wal, batch).map_err(|error| self.refused(error, batch))
    }

    /// Appends images of the pages that the last batch changed. The batch stands without them; on a full disk it must: the log needs its
    /// files for the checkpoint, which makes those that are missing.
    fn log_touched(&self) {
        let touched = self.tree.write().take_touched();
        if self.guard.spare_bytes() == 0 {
            return;
        }
        for (unit, fresh, page) in touched {
            let bytes = 12 + self.pager.page_bytes();
            let logged = self.log.append(checkpoint::BATCH_IMAGE_KIND, Purpose::PageImage, bytes, |target| {
                target.extend_from_slice(&unit.to_le_bytes());
                target.extend_from_slice(&u32::from(fresh).to_le_bytes());
                self.pager.seal(&page, unit, target);
            });
            match logged {
                Ok(_) => {
                    let bytes = bytes as u64 + RECORD_OVERHEAD_BYTES;
                    self.pager.count_written(page.kind(), PageCause::Image, 1, bytes);
                    self.tree.write().set_imaged(unit);
                }
                // No space for a segment: the checkpoint will need less. A failed log refuses the next batch.
                Err(_) => return,
            }
        }
    }

    fn set_dirty_since(&self) {
        let now = self.clock.elapsed().as_nanos() as u64 + 1;
        // Only the first change counts, so a failure is as good.
        let _ = self.dirty_since.compare_exchange(0, now, Relaxed, Relaxed);
    }

    /// Time since the first change that no checkpoint has taken up.
    fn dirty_age(&self) -> Duration {
        match self.dirty_since.load(Relaxed) {
            // None, or a batch is on its way and has not said so yet.
            0 => Duration::ZERO,
            since => self.clock.elapsed().saturating_sub(Duration::from_nanos(since - 1)),
        }
    }

    fn clear_dirty_since(&self) {
        self.dirty_since.store(0, Relaxed);
    }

    fn checkpoint_ended(&self, took: Duration, fields: Vec<(&'static str, Field)>) {
        self.checkpoints.fetch_add(1, Relaxed);
        self.checkpoint_nanos.store(took.as_nanos() as u64, Relaxed);
        self.journal.record(self.clock.now(), "checkpoint", fields);
    }

    /// Syncs the data file; a failure is final.
    fn sync_file(&self, purpose: Purpose) -> Result<()> {
        self.check()?;
        self.pager.sync(purpose).inspect_err(|error| self.fail(error))
    }

    /// A sync failed with `error`: nothing is written any more.
    fn fail(&self, error: &Error) {
        let cause = format!("the store is read-only since {error}; unmount, mend the disk and mount again");
        self.failed.lock().get_or_insert(Error::Poisoned(cause));
    }

    fn check(&self) -> Result<()> {
        self.failed.lock().clone().map_or(Ok(()), Err)
    }

    /// Brings what a search missed in `epoch` into memory: into the pool and into `loaded`. If the file may have changed
    /// meanwhile, what was read is dropped; the caller searches again in any case.
    fn load(&self, epoch: u64, miss: Miss, tier: Tier, purpose: Purpose, loaded: &mut Loaded) -> Result<()> {
        if tier == Tier::Memory {
            return Err(Error::WouldBlock);
        }
        let read = self.pager.read(miss, purpose).map(|piece| vec![piece]);
        self.admit(epoch, read, loaded)
    }

    /// Takes what was read since `epoch` was seen, or its error, if it still counts.
    fn admit(&self, epoch: u64, read: Result<Vec<(u64, Piece)>>, loaded: &mut Loaded) -> Result<()> {
        // Held so that no checkpoint changes the file between the look at the epoch and the insert.
        let tree = self.tree.read();
        if tree.epoch == epoch {
            for (unit, piece) in read? {
                self.pager.keep(unit, piece.clone());
                loaded.add(epoch, unit, piece);
            }
        }
        Ok(())
    }

    /// The next part of a scan with all its values. What must be read brings `leaves` leaves, and the values of `window_bytes`
    /// behind the end.
    fn chunk(
        &self,
        start: &[u8],
        end: Option<&[u8]>,
        tier: Tier,
        (leaves, mut window_bytes): (usize, usize),
        loaded: &mut Loaded,
    ) -> Result<Chunk> {
        'again: loop {
            let (epoch, found) = {
                let tree = self.tree.read();
                let found = tree.collect(&self.pager, loaded, start, end, SCAN_ENTRIES, SCAN_READ_BYTES);
                (tree.epoch, found)
            };
            let chunk = match found {
                Ok(chunk) => chunk,
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Miss(_)) if tier == Tier::Memory => return Err(Error::WouldBlock),
                Err(Stop::Miss(miss)) => {
                    self.load_for_scan(epoch, miss, (start, end), leaves, loaded)?;
                    continue;
                }
            };
            let mut absent: Vec<Extent> = chunk
                .entries
                .iter()
                .filter_map(|(_, item)| match item {
                    Item::Absent(extent) => Some(*extent),
                    Item::Inline(_) | Item::Ready(_) => None,
                })
                .collect();
            if absent.is_empty() {
                return Ok(chunk);
            }
            if tier == Tier::Memory {
                return Err(Error::WouldBlock);
            }
            if let Some(end) = end.filter(|_| window_bytes > 0 && chunk.next.is_none()) {
                // Whoever needs what cannot be read will say so.
                absent.extend(self.window(start, end, window_bytes, loaded).unwrap_or_default());
            }
            absent.sort_unstable_by_key(|extent| extent.unit);
            let near = |a: &Extent, b: &Extent| b.unit <= a.unit + u64::from(a.units) + SCAN_GAP_UNITS;
            for run in absent.chunk_by(near) {
                let values = self.pager.read_values(run, Purpose::Scan);
                if values.is_err() && window_bytes > 0 {
                    // Perhaps it is none of this scan's own values.
                    window_bytes = 0;
                    continue 'again;
                }
                let pieces = |values: Vec<Bytes>| {
                    run.iter()
                        .zip(values)
                        .map(|(extent, bytes)| (extent.unit, Piece::Value(Value::new(bytes, extent))))
                        .collect()
                };
                self.admit(epoch, values.map(pieces), loaded)?;
            }
        }
    }

    fn busy(&self, cause: Cause, batch: &Batch) -> Error {
        self.bell.ring(Class::Flush);
        // Waiting for work that fails would not end. What gives space back is worth some tries.
        let tries = if batch.uses_reserve { TRIES_FOR_SPACE } else { 1 };
        if let Some(failure) = &*self.work_failed.lock()
            && failure.times >= tries
            // It has not been tried since there is more room.
            && self.guard.free_bytes() <= failure.free_bytes
        {
            return failure.error.clone();
        }
        self.stalls.begin(cause, true, self.clock.elapsed());
        Error::Busy { cause, retry_after: RETRY_AFTER }
    }

    /// Checks everything. Batches wait meanwhile (in [`Tier::Memory`] they answer [`Error::WouldBlock`]); reads go on.
    fn verify(&self) -> Result<()> {
        let _writer = self.lock_writer();
        verify::verify(&self.tree.read(), &self.pager)
    }
}

impl Engine for BtreeEngine {
    fn get(&self, key: &[u8], tier: Tier) -> Result<Option<Bytes>> {
        let mut loaded = Loaded::default();
        loop {
            let (epoch, height, found) = {
                let tree = self.tree.read();
                (tree.epoch, tree.height, tree.find(&self.pager, &loaded, key))
            };
            match found {
                Ok(value) => {
                    self.probes.record(height);
                    return Ok(value);
                }
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Miss(miss)) => self.load(epoch, miss, tier, Purpose::Get, &mut loaded)?,
            }
        }
    }

    fn scan(&self, range: KeyRange<'_>, tier: Tier, visit: &mut Visit<'_>) -> Result<()> {
        let mut start = range.start.to_vec();
        // In memory a scan counts when it succeeds: else it comes again.
        let window_bytes = if tier == Tier::Disk { self.ahead.note(range) } else { 0 };
        let (mut leaves, mut loaded) = (1, Loaded::default());
        loop {
            let chunk = self.chunk(&start, range.end, tier, (leaves, window_bytes), &mut loaded)?;
            // Leaves read ahead are taken from here, so that the pool does not hold them for pages that are asked for again.
            loaded.keep_pages(LOADED_PAGES_MAX);
            leaves = self.ahead.more_leaves(leaves);
            for (key, item) in &chunk.entries {
                if let Some(value) = chunk.value(item)
                    && visit(chunk.at(key), value).is_break()
                {
                    return Ok(());
                }
            }
            match chunk.next {
                Some(next) => start = next,
                None => {
                    if tier == Tier::Memory {
                        self.ahead.note(range);
                    }
                    return Ok(());
                }
            }
        }
    }

    fn apply(&self, batch: &Batch, tier: Tier) -> Result<Position> {
        if batch.is_empty() {
            return Ok(self.position());
        }
        batch.check()?;
        let mut loaded = Loaded::default();
        let position = loop {
            let writer = match tier {
                Tier::Memory => {
                    let wait = || self.writer.try_lock_for(WRITER_WAIT);
                    self.waits.get(|| self.writer.try_lock().map(Some), wait).ok_or(Error::WouldBlock)?
                }
                Tier::Disk => self.lock_writer(),
            };
            self.check()?;
            let (refusal, waits) = {
                let tree = self.tree.read();
                let waits = tree.suits_buffer(batch, self.options.torn, self.options.dirty_bytes_max);
                (tree.buffer.refusal(batch), waits)
            };
            if let Some(error) = refusal {
                return Err(error);
            }
            if waits && self.make_room(batch, None, tier)? {
                let before = self.mark();
                let position = self.append(batch)?;
                self.tree.write().buffer.add(batch, before);
                break position;
            }
            let mut pins = Pins::new();
            let (epoch, planned) = {
                let tree = self.tree.read();
                (tree.epoch, tree.plan(&self.pager, &loaded, batch, &mut pins))
            };
            let needs = match planned {
                Ok(needs) => needs,
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Miss(miss)) => {
                    drop(writer);
                    self.load_if_whole(epoch, miss, tier, Purpose::Get, &mut loaded)?;
                    continue;
                }
            };
            self.make_room(batch, Some(needs), tier)?;
            let position = self.append(batch)?;
            // Nobody else changes the tree while the writer's lock is held, so the plan still holds.
            self.tree.write().apply(batch, pins, &self.pager);
            if self.options.torn == Torn::Image {
                self.log_touched();
            }
            break position;
        };
        self.set_dirty_since();
        self.stalls.end(|| self.clock.elapsed());
        if self.is_pressing() || self.is_log_due() {
            self.bell.ring(Class::Flush);
        }
        Ok(position)
    }

    fn position(&self) -> Position {
        self.log.end()
    }

    fn sync_to(&self, position: Position, done: Done) {
        self.log.sync_to(position, done);
    }

    fn work(&self, class: Class) -> Result<Pending> {
        match class {
            Class::Log => self.log.work(),
            Class::Flush => {
                self.flush().inspect(|_| self.is_troubled.store(false, Relaxed)).inspect_err(|error| {
                    // Once, not at every try.
                    if !self.is_troubled.swap(true, Relaxed) {
                        let what = format!("checkpoint: {error}");
                        self.journal.record(self.clock.now(), "error", vec![("what", what.into())]);
                    }
                })
            }
            Class::Merge | Class::Reclaim | Class::Room => Ok(Pending::Idle),
        }
    }

    fn run(&self, command: Command, done: Done) {
        let mut commands = self.commands.lock();
        match command {
            Command::DropCaches => {
                drop(commands);
                self.pager.drop_pool();
                return done(Ok(()));
            }
            Command::Flush | Command::Checkpoint => {
                self.is_retry_asked.store(true, Relaxed);
                // Even if a sweep for less is on its way.
                *self.target.lock() = Some(self.log.end());
                commands.checkpoint.push(done);
            }
            Command::Verify => commands.verify.push(done),
            Command::Compact => commands.compact.push(done),
            Command::CompactLevel(_) => {
                drop(commands);
                let why = "a B-tree has no levels; compact without one moves what lies last into free space";
                return done(Err(Error::Invalid(why.to_string())));
            }
        }
        drop(commands);
        self.bell.ring(Class::Flush);
    }

    fn shape(&self) -> Shape {
        let log = self.log.shape();
        let jobs = self.job.try_lock().map(|job| job.iter().map(Job::describe).collect());
        let tree = self.tree.read();
        let log_bytes = self.log_bytes_since(tree.durable.floor, log.end);
        let (counts, page_bytes) = (tree.counts, self.pager.page_bytes() as u64);
        let [leaves, inner, extents] = self.pager.lookups();
        let (latch_waits, latch_wait_time) = self.waits.snapshot();
        let leaf_room = counts.leaf_pages * page_bytes;
        let leaf_used = counts.leaf_bytes + counts.leaf_pages * page::HEADER_BYTES as u64;
        Shape {
            engine: "btree",
            variant: self.options.torn.name(),
            tree: Some(super::Tree {
                page_bytes,
                height: tree.height,
                leaf_pages: counts.leaf_pages,
                inner_pages: counts.inner_pages,
                extent_bytes: counts.extent_units * UNIT_BYTES,
                free_bytes: tree.space.available_units() * UNIT_BYTES,
                fill: if leaf_room == 0 { 0.0 } else { leaf_used as f64 / leaf_room as f64 },
                splits: tree.events.splits,
                merges: tree.events.merges,
                checkpoints: self.checkpoints.load(Relaxed),
                checkpoint_age_bytes: log_bytes,
                checkpoint_time: Duration::from_nanos(self.checkpoint_nanos.load(Relaxed)),
                dirty_age: self.dirty_age(),
                settle_bytes: tree.settle_bytes(self.options.torn),
                waiting_puts: tree.buffer.len(),
                waiting_bytes: tree.buffer.bytes(),
                recovery_time: self.recovery_time,
                recovery_bytes: self.recovery_bytes,
                leaf_hits: leaves.hits,
                leaf_misses: leaves.misses,
                inner_hits: inner.hits,
                inner_misses: inner.misses,
                extent_hits: extents.hits,
                extent_misses: extents.misses,
                latch_waits,
                latch_wait_time,
                pages: self.pager.traffic(),
            }),
            memory: Memory {
                limit_bytes: self.options.common.memory_bytes_max(self.options.dirty_bytes_max),
                used_bytes: tree.dirty_bytes() + self.pager.cache().bytes + tree.space.memory_bytes(),
                dirty_bytes: tree.dirty_bytes(),
                dirty_bytes_max: self.options.dirty_bytes_max,
                ..Memory::default()
            },
            cache: self.pager.cache(),
            debt: Debt {
                dirty_bytes: tree.dirty_bytes(),
                unsynced_bytes: log.unsynced_bytes,
                oldest_unsynced: log.oldest_unsynced,
                replay_bytes: log.replay_bytes,
                ..Debt::default()
            },
            stalls: self.stalls.snapshot(self.clock.elapsed()),
            damage: tree.buffer.aside.sentence().or_else(|| tree.space.damage()),
            classes: self.pager.classes(),
            cpu: self.pager.cpu().snapshot() + self.log.cpu(),
            probes: Probes { buckets: self.probes.snapshot() },
            jobs: jobs.unwrap_or_else(|| vec!["checkpoint".to_string()]),
            ..Shape::default()
        }
    }

    fn journal(&self) -> Option<&Arc<Journal>> {
        Some(&self.journal)
    }

    fn explain(&self, key: &[u8], tier: Tier) -> Result<Vec<Probe>> {
        self.explain_key(key, tier)
    }

    fn promise(&self) -> Promise {
        Promise { prefix: true, survives_kill: true }
    }

    fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    fn close(&self) -> Result<()> {
        if let Some(compaction) = self.compaction.lock().take() {
            self.end_withholding();
            compaction.end(Err(Error::Invalid("the store was closed before it ended".to_string())));
        }
        // Twice at most: for a job on its way, and for what it left behind.
        while self.job.lock().is_some() {
            self.flush()?;
        }
        if self.is_dirty() {
            super::run(self, Command::Checkpoint)?;
        }
        let damage = {
            let tree = self.tree.read();
            tree.buffer.aside.sentence().or_else(|| tree.space.damage())
        };
        if let Some(sentence) = damage {
            log::warn!("closed with damage: {sentence}");
        }
        self.log.sync_now()?;
        self.sync_file(Purpose::Manifest)
    }
}

#[cfg(test)]
mod tests;
