//! The B-tree engine: fixed pages changed in place, large values in extents, one log before both.
//!
//! **No steal.** Between checkpoints changed pages live in memory alone, so what lies in the file is always the state of one log
//! position, and recovery is: that state, plus the batches behind it. A checkpoint logs images of the pages that it will
//! overwrite, so a torn page is written again; values and new pages go where nothing was, and need none.
//!
//! # What `apply` does
//!
//! 1. Bring every page on the way to every key into memory; a missing one is read without holding a lock, then it starts again.
//! 2. Refuse what is over a limit; take space in the file for whatever the batch may need at most.
//! 3. Append the batch to the log.
//! 4. Change pages in memory. Nothing can fail here.
//!
//! # Lock order
//!
//! `job` (the checkpoint) → `writer` (one batch at a time; freezing) → `tree` (shared: one descent; exclusive: changes in memory,
//! never a disk request) → the log's own. `commands` is held for moments and never with another.
//!
//! The work classes are [`Class::Log`] for the log and [`Class::Flush`] for checkpoints and verification.
#![doc = include_str!("FORMAT.md")]

mod checkpoint;
mod freemap;
mod meta;
mod page;
mod pager;
mod recovery;
mod tree;
mod verify;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::wal::{FIRST_KIND, Log};
use super::{
    Batch, Bell, Cause, Class, Command, Debt, Done, Engine, Error, KeyRange, Memory, Options, Pending, Position,
    ProbeMeter, Promise, Result, Shape, SpaceGuard, StallMeter, Tier, Visit,
};
use crate::base::clock::Clock;
use crate::disk::{Disk, Purpose};
use checkpoint::Job;
use pager::{Loaded, Pager, Piece};
use page::Extent;
use tree::{Chunk, Item, Miss, Needs, Pins, Stop, Tree};

/// The file's unit of space.
const UNIT_BYTES: u64 = 4096;
/// Units before hold the meta pages.
const FIRST_UNIT: u64 = 2;
/// Values from this size on lie in extents.
const OUT_OF_LINE_BYTES: usize = 2048;
/// Entries that a scan collects under one lock.
const SCAN_ENTRIES: usize = 128;
/// Bytes of values that a scan reads from the disk at a time.
const SCAN_READ_BYTES: usize = 256 << 10;
/// Longest wait for other writers in [`Tier::Memory`].
const WRITER_WAIT: Duration = Duration::from_millis(2);
/// When a refused batch is worth another try, if no bell rings before.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// Whoever waits for something to be done.
#[derive(Default)]
struct Commands {
    checkpoint: Vec<Done>,
    verify: Vec<Done>,
}

/// A B-tree on one disk.
pub struct BtreeEngine {
    pager: Pager,
    log: Log,
    clock: Arc<dyn Clock>,
    bell: Arc<Bell>,
    options: Options,
    guard: SpaceGuard,
    job: Mutex<Option<Job>>,
    writer: Mutex<()>,
    tree: RwLock<Tree>,
    commands: Mutex<Commands>,
    stalls: StallMeter,
    probes: ProbeMeter,
    /// Bytes of page images in the log behind the durable position: they cost no replay.
    image_bytes: AtomicU64,
    /// Clock time of the first change since the last freeze, in ns, plus one; 0 without any.
    dirty_since: AtomicU64,
    checkpoints: AtomicU64,
    checkpoint_nanos: AtomicU64,
    /// Why the data file takes no more writes.
    failed: Mutex<Option<Error>>,
}

/// Opens the B-tree on `disk`, recovering it if needed; an empty disk gets a new one. The page size is the stored one if there
/// is a store.
pub fn open(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, options: &Options) -> Result<Arc<BtreeEngine>> {
    options.validate().map_err(Error::Invalid)?;
    let bell = Arc::new(Bell::new());
    let guard = SpaceGuard::new(disk.clone(), options.reserve_bytes)?;
    let recovered = recovery::recover(disk, clock.clone(), bell.clone(), options)?;
    let engine = BtreeEngine {
        pager: recovered.pager,
        log: recovered.log,
        clock,
        bell,
        options: options.clone(),
        guard,
        job: Mutex::new(None),
        writer: Mutex::new(()),
        tree: RwLock::new(recovered.tree),
        commands: Mutex::default(),
        stalls: StallMeter::default(),
        probes: ProbeMeter::default(),
        image_bytes: AtomicU64::new(recovered.image_bytes),
        dirty_since: AtomicU64::new(0),
        checkpoints: AtomicU64::new(0),
        checkpoint_nanos: AtomicU64::new(0),
        failed: Mutex::new(None),
    };
    if engine.log_bytes() > 0 {
        engine.set_dirty_since();
    }
    Ok(Arc::new(engine))
}

impl BtreeEngine {
    /// Bytes of batches in the log behind the durable state: what opening would replay.
    fn log_bytes(&self) -> u64 {
        let position = self.tree.read().durable.position;
        (self.log.end() - position).saturating_sub(self.image_bytes.load(Relaxed))
    }

    fn add_image_bytes(&self, bytes: u64) {
        self.image_bytes.fetch_add(bytes, Relaxed);
    }

    fn set_image_bytes(&self, bytes: u64) {
        self.image_bytes.store(bytes, Relaxed);
    }

    fn set_dirty_since(&self) {
        let now = self.clock.elapsed().as_nanos() as u64 + 1;
        // Only the first change counts, so a failure is as good.
        let _ = self.dirty_since.compare_exchange(0, now, Relaxed, Relaxed);
    }

    fn clear_dirty_since(&self) {
        self.dirty_since.store(0, Relaxed);
    }

    fn checkpoint_ended(&self, took: Duration) {
        self.checkpoints.fetch_add(1, Relaxed);
        self.checkpoint_nanos.store(took.as_nanos() as u64, Relaxed);
    }

    /// Syncs the data file; a failure is final.
    fn sync_file(&self, purpose: Purpose) -> Result<()> {
        self.check()?;
        self.pager.sync(purpose).inspect_err(|error| {
            let cause = format!("the store is read-only since {error}; unmount, mend the disk and mount again");
            self.failed.lock().get_or_insert(Error::Poisoned(cause));
        })
    }

    fn check(&self) -> Result<()> {
        self.failed.lock().clone().map_or(Ok(()), Err)
    }

    /// Brings what a search missed in `epoch` into memory: into the pool and into `loaded`. If the file may have changed
    /// meanwhile, what was read is dropped; the caller searches again in any case.
    fn load(
        &self,
        epoch: u64,
        miss: Miss,
        tier: Tier,
        purpose: Purpose,
        loaded: &mut Loaded,
    ) -> Result<()> {
        match miss {
            _ if tier == Tier::Memory => Err(Error::WouldBlock),
            Miss::Page(unit) => {
                let page = self.pager.read_page(unit, purpose).map(|page| vec![Piece::Page(page)]);
                self.admit(epoch, &[unit], page, loaded)
            }
            Miss::Value(extent) => self.load_values(epoch, &[extent], purpose, loaded),
        }
    }

    /// Reads the values of extents that lie one behind the other.
    fn load_values(
        &self,
        epoch: u64,
        extents: &[Extent],
        purpose: Purpose,
        loaded: &mut Loaded,
    ) -> Result<()> {
        let values = self.pager.read_values(extents, purpose);
        let units: Vec<u64> = extents.iter().map(|extent| extent.unit).collect();
        let pieces = values.map(|values| values.into_iter().map(Piece::Value).collect());
        self.admit(epoch, &units, pieces, loaded)
    }

    fn admit(
        &self,
        epoch: u64,
        units: &[u64],
        read: Result<Vec<Piece>>,
        loaded: &mut Loaded,
    ) -> Result<()> {
        // Held so that no checkpoint changes the file between the look at the epoch and the insert.
        let tree = self.tree.read();
        if tree.epoch == epoch {
            for (unit, piece) in units.iter().zip(read?) {
                self.pager.keep(*unit, piece.clone());
                loaded.add(epoch, *unit, piece);
            }
        }
        Ok(())
    }

    /// The next part of a scan with all its values.
    fn chunk(&self, start: &[u8], end: Option<&[u8]>, tier: Tier) -> Result<Chunk> {
        let mut loaded = Loaded::default();
        loop {
            let (epoch, found) = {
                let tree = self.tree.read();
                let found =
                    tree.collect(&self.pager, &loaded, start, end, SCAN_ENTRIES, SCAN_READ_BYTES);
                (tree.epoch, found)
            };
            let chunk = match found {
                Ok(chunk) => chunk,
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Miss(miss)) => {
                    self.load(epoch, miss, tier, Purpose::Scan, &mut loaded)?;
                    continue;
                }
            };
            let mut absent: Vec<Extent> = chunk
                .entries
                .iter()
                .filter_map(|(_, item)| match item {
                    Item::Absent(extent) => Some(*extent),
                    Item::Ready(_) => None,
                })
                .collect();
            if absent.is_empty() {
                return Ok(chunk);
            }
            if tier == Tier::Memory {
                return Err(Error::WouldBlock);
            }
            absent.sort_unstable_by_key(|extent| extent.unit);
            for run in absent.chunk_by(|a, b| a.unit + u64::from(a.units) == b.unit) {
                self.load_values(epoch, run, Purpose::Scan, &mut loaded)?;
            }
        }
    }

    /// Refuses a batch that is over a limit, and takes space for what it needs.
    fn make_room(&self, batch: &Batch, needs: Needs) -> Result<()> {
        let (dirty_bytes, image_bytes, missing) = {
            let tree = self.tree.read();
            let wanted = needs.units + tree.map_units_max(needs.runs);
            (tree.dirty_bytes(), tree.image_bytes_max(), tree.space.missing(wanted))
        };
        if dirty_bytes >= self.options.dirty_bytes_max {
            return Err(self.busy(Cause::DirtyPages));
        }
        if self.log_bytes() >= 2 * self.options.checkpoint_log_bytes {
            return Err(self.busy(Cause::LogSpace));
        }
        self.guard.admit(batch.bytes(), image_bytes, batch.uses_reserve)?;
        if let Some(units) = missing {
            let ahead = recovery::growth_units(&self.options, units);
            let units = self.pager.grow(units, ahead)?;
            self.tree.write().space.set_file_units(units);
        }
        Ok(())
    }

    fn busy(&self, cause: Cause) -> Error {
        self.stalls.begin(cause, true, self.clock.elapsed());
        self.bell.ring(Class::Flush);
        Error::Busy { cause, retry_after: RETRY_AFTER }
    }

    /// Whether a checkpoint is due now, or else when.
    fn due(&self) -> Pending {
        if !self.commands.lock().checkpoint.is_empty() {
            return Pending::More;
        }
        let log_bytes = self.log_bytes();
        if log_bytes == 0 {
            return Pending::Idle;
        }
        let since = self.dirty_since.load(Relaxed);
        let age = self.clock.elapsed().saturating_sub(Duration::from_nanos(since.saturating_sub(1)));
        if self.is_over_half()
            || log_bytes >= self.options.checkpoint_log_bytes
            || since == 0
            || age >= self.options.checkpoint_age
        {
            return Pending::More;
        }
        Pending::After(self.options.checkpoint_age - age)
    }

    fn is_over_half(&self) -> bool {
        self.tree.read().active_bytes() * 2 >= self.options.dirty_bytes_max
    }

    /// One unit of checkpoint work.
    fn flush(&self) -> Result<Pending> {
        // Another thread at it does all there is.
        let Some(mut job) = self.job.try_lock() else { return Ok(Pending::Idle) };
        let verify = std::mem::take(&mut self.commands.lock().verify);
        if !verify.is_empty() {
            let result = self.verify();
            verify.into_iter().for_each(|done| done(result.clone()));
            return Ok(Pending::More);
        }
        if job.is_none() {
            let due = self.due();
            if due != Pending::More {
                return Ok(due);
            }
            let mut waiters = std::mem::take(&mut self.commands.lock().checkpoint);
            let begun = self.check().and_then(|()| match self.log_bytes() {
                0 => Ok(None),
                _ => self.freeze(&mut waiters).map(Some),
            });
            match begun {
                Ok(begun) => *job = begun,
                Err(error) => {
                    waiters.into_iter().for_each(|done| done(Err(error.clone())));
                    return Err(error);
                }
            }
            waiters.into_iter().for_each(|done| done(Ok(())));
        }
        let Some(running) = job.as_mut() else { return Ok(Pending::More) };
        match self.advance(running) {
            Ok(false) => {}
            Ok(true) => {
                let waiters = job.take().map(|job| job.waiters).unwrap_or_default();
                waiters.into_iter().for_each(|done| done(Ok(())));
            }
            Err(error) => {
                // The job stays and is tried again; who waits for it learns of the error now.
                let waiters = std::mem::take(&mut running.waiters);
                waiters.into_iter().for_each(|done| done(Err(error.clone())));
                return Err(error);
            }
        }
        Ok(Pending::More)
    }

    /// Checks everything. Batches wait meanwhile (in [`Tier::Memory`] they answer [`Error::WouldBlock`]); reads go on.
    fn verify(&self) -> Result<()> {
        let _writer = self.writer.lock();
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
        loop {
            let chunk = self.chunk(&start, range.end, tier)?;
            for (key, item) in &chunk.entries {
                if let Item::Ready(value) = item
                    && visit(key, value).is_break()
                {
                    return Ok(());
                }
            }
            match chunk.next {
                Some(next) => start = next,
                None => return Ok(()),
            }
        }
    }

    fn apply(&self, batch: &Batch, tier: Tier) -> Result<Position> {
        if batch.is_empty() {
            return Ok(self.position());
        }
        let mut loaded = Loaded::default();
        let position = loop {
            let writer = match tier {
                Tier::Memory => self.writer.try_lock_for(WRITER_WAIT).ok_or(Error::WouldBlock)?,
                Tier::Disk => self.writer.lock(),
            };
            self.check()?;
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
                    self.load(epoch, miss, tier, Purpose::Get, &mut loaded)?;
                    continue;
                }
            };
            self.make_room(batch, needs)?;
            let position = self.log.append(FIRST_KIND, Purpose::Wal, batch.encoded_bytes_max(), |target| {
                batch.encode(target);
            })?;
            // Nobody else changes the tree while the writer's lock is held, so the plan still holds.
            self.tree.write().apply(batch, pins, &self.pager);
            break position;
        };
        self.set_dirty_since();
        self.stalls.end(|| self.clock.elapsed());
        if self.is_over_half() || self.log_bytes() >= self.options.checkpoint_log_bytes {
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
            Class::Flush => self.flush(),
            Class::Merge | Class::Reclaim | Class::Room => Ok(Pending::Idle),
        }
    }

    fn run(&self, command: Command, done: Done) {
        let mut commands = self.commands.lock();
        match command {
            Command::Flush | Command::Checkpoint => commands.checkpoint.push(done),
            Command::Verify => commands.verify.push(done),
            Command::Compact => {
                drop(commands);
                done(Err(Error::Invalid("a B-tree has nothing to compact; its command is checkpoint".to_string())));
                return;
            }
        }
        drop(commands);
        self.bell.ring(Class::Flush);
    }

    fn shape(&self) -> Shape {
        let log = self.log.shape();
        let jobs = self.job.try_lock().map(|job| job.iter().map(Job::describe).collect());
        let log_bytes = self.log_bytes();
        let tree = self.tree.read();
        let (counts, page_bytes) = (tree.counts, self.pager.page_bytes() as u64);
        let leaf_room = counts.leaf_pages * page_bytes;
        let leaf_used = counts.leaf_bytes + counts.leaf_pages * page::HEADER_BYTES as u64;
        Shape {
            engine: "btree",
            variant: "image",
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
            }),
            memory: Memory {
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
            probes: self.probes.snapshot(),
            jobs: jobs.unwrap_or_else(|| vec!["checkpoint".to_string()]),
            ..Shape::default()
        }
    }

    fn promise(&self) -> Promise {
        Promise { prefix: true, survives_kill: true }
    }

    fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    fn close(&self) -> Result<()> {
        // Twice at most: for a job on its way, and for what it left behind.
        while self.job.lock().is_some() {
            self.flush()?;
        }
        if self.log_bytes() > 0 {
            super::run(self, Command::Checkpoint)?;
        }
        self.log.sync_now()?;
        self.sync_file(Purpose::Manifest)
    }
}

#[cfg(test)]
mod tests;
