//! The checkpoint: brings the tree of one LSN to its place in the file while writers go on.
//!
//! 1. *Freeze*: take the dirty pages and values, root, counts and free map as of LSN P. Writers copy what they change
//!    from here on. Puts that wait in the buffer are not in it, so the state names the recovery LSN up to which nothing is missing. If that would
//!    hold too much of the log, they are logged again, and the recovery LSN is P.
//! 2. *Fresh*: write values and pages that no durable state refers to, and what changed of the free map, to their places.
//! 3. *Images*: append the changed units of every other page, in their new form, to the log; or write the page to the doublewrite area, if the disk has
//!    room for that. In `torn=image` the images of batches do, where they could be written.
//! 4. *Commit*: sync the data file, the area and the log, write the meta page, sync it. Now the state at P is durable: what is not
//!    in its place lies in the log between `images_start` and `images_end`, or in the area. The log below the recovery LSN (and below
//!    `images_start`) and units freed before P can be used again.
//!    They come back in parts, so that no reader waits long for the latch.
//! 5. *Home*: write the changed units of the pages of step 3 to their places, which may tear them: the images repair that. Sync.
//! 6. *Done*: write the meta page once more, in the other slot, without `images_end` and `doublewrite_bytes`, and sync it: the
//!    images need not be kept, and the next checkpoint may overwrite the area before its commit. If no batch came in since P, it names
//!    the end of the log, of which nothing is needed then. If much of the end of the file is free in this state, it is cut off.
//!
//! A step that fails is done again at the next call; each may be repeated. After a failed sync nothing is, until the store is
//! opened again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::allocation_unit::{PageNumber, UnitNumber, Units};
use super::bound::Bounds;
use super::buffer_merge::ChangeBufferMerger;
use super::core::Core;
use super::freemap::{MapChanges, SpaceNeeds};
use super::map_pages;
use super::meta::{MapPlace, Meta};
use super::page::Page;
use super::source::Piece;
use super::tree::FrozenTree;
use super::unreadable::UnreadableRanges;
use crate::disk::Purpose;
use crate::engine::{Done, PageCause, Result, WorkClass};

/// Pages of the free map that a unit of work writes.
const MAP_PAGES: usize = 256;
/// Groups of units that a unit of work gives back, each under an exclusive latch of its own.
const RELEASES: usize = 64;
/// A unit of work writes about this much.
const WORK_BYTES: usize = 4 << 20;

/// Pages with their numbers.
type Pages = Vec<(PageNumber, Arc<Page>)>;

enum CheckpointStage {
    Fresh(usize),
    Map(usize),
    Images(usize),
    Commit,
    Release(usize),
    Home(usize),
    Done,
}

/// A checkpoint on its way. What it froze and what is left to write of it belong together: they live and end with it.
pub struct RunningCheckpoint {
    stage: CheckpointStage,
    frozen: Arc<FrozenTree>,
    /// What it writes of the free map.
    changes: MapChanges,
    /// Sorted by unit, as are the next.
    fresh: Vec<(UnitNumber, Piece)>,
    in_place: Pages,
    /// Those pages of `in_place` that need a copy.
    images: Pages,
    /// The newest meta page that was written for it, once there is one.
    meta: Meta,
    image_bytes: u64,
    /// WorkClass of the key of each value in `fresh`, by unit; known from the first step on.
    classes: HashMap<UnitNumber, u8>,
    /// Why it was begun.
    reason: &'static str,
    /// [`Pager::checkpoint_bytes`](super::pager::Pager::checkpoint_bytes) when it was.
    bytes_before: u64,
    started: Duration,
    /// Whom to tell.
    pub waiters: Vec<Done>,
}
impl RunningCheckpoint {
    /// What remains to be done with `frozen`.
    fn new(
        frozen: Arc<FrozenTree>,
        changes: MapChanges,
        reason: &'static str,
        bytes_before: u64,
        started: Duration,
    ) -> RunningCheckpoint {
        let (fresh, in_place) = frozen.pieces();
        let images: Vec<_> =
            in_place.iter().filter(|(number, _)| !frozen.imaged.contains(number)).cloned().collect();
        let mut meta = frozen.meta;
        if images.len() < in_place.len() {
            meta.images_end = meta.lsn;
        } else {
            meta.images_start = meta.lsn;
        }
        let stage = CheckpointStage::Fresh(0);
        let (image_bytes, classes) = (0, HashMap::new());
        RunningCheckpoint {
            stage,
            frozen,
            changes,
            fresh,
            in_place,
            images,
            meta,
            image_bytes,
            classes,
            reason,
            bytes_before,
            started,
            waiters: Vec::new(),
        }
    }

    /// Where it is, for reports.
    pub fn describe(&self) -> String {
        let (what, done, all) = match self.stage {
            CheckpointStage::Fresh(at) => ("new pages", at, self.fresh.len()),
            CheckpointStage::Map(at) => ("free map", at, map_pages::page_count(&self.changes)),
            CheckpointStage::Images(at) => ("page copies", at, self.images.len()),
            CheckpointStage::Commit => ("commit", 0, 1),
            CheckpointStage::Release(at) => ("free space", at, self.changes.group_count()),
            CheckpointStage::Home(at) => ("pages home", at, self.in_place.len()),
            CheckpointStage::Done => ("done", 1, 1),
        };
        format!("checkpoint {what} {}%", (done * 100).checked_div(all).unwrap_or(100))
    }
}

/// The thread that does flush work has this; in it the checkpoint on its way, if there is one.
pub type Turn<'a> = MutexGuard<'a, Option<RunningCheckpoint>>;

/// Makes checkpoints, one at a time.
pub struct Checkpointer {
    core: Arc<Core>,
    bounds: Arc<Bounds>,
    merger: Arc<ChangeBufferMerger>,
    unreadable: Arc<UnreadableRanges>,
    running: Mutex<Option<RunningCheckpoint>>,
    /// Whoever waits for the next one that brings everything.
    asked: Mutex<Vec<Done>>,
    /// How many have ended.
    count: AtomicU64,
    /// How long the last one took.
    last_nanos: AtomicU64,
    /// Whether the last unit of work failed.
    is_troubled: AtomicBool,
}

impl Checkpointer {
    /// One for `core`, whose opening made `count` checkpoints.
    pub fn new(
        core: Arc<Core>,
        bounds: Arc<Bounds>,
        merger: Arc<ChangeBufferMerger>,
        unreadable: Arc<UnreadableRanges>,
        count: u64,
    ) -> Checkpointer {
        Checkpointer {
            core,
            bounds,
            merger,
            unreadable,
            running: Mutex::new(None),
            asked: Mutex::default(),
            count: AtomicU64::new(count),
            last_nanos: AtomicU64::new(0),
            is_troubled: AtomicBool::new(false),
        }
    }

    /// The turn to do flush work, whatever that is; `None` if another thread is at it, which does all there is.
    pub fn turn(&self) -> Option<Turn<'_>> {
        self.running.try_lock()
    }

    /// Whether there is one on its way, once the thread at it has ended.
    pub fn is_running(&self) -> bool {
        self.running.lock().is_some()
    }

    /// Whether one is on its way, or a thread at flush work: either may give back units and log.
    pub fn is_settling(&self) -> bool {
        self.running.try_lock().is_none_or(|running| running.is_some())
    }

    /// `done` hears of the next one that brings everything.
    pub fn ask(&self, done: Done) {
        self.asked.lock().push(done);
    }

    /// How many wait for one.
    pub fn asked(&self) -> usize {
        self.asked.lock().len()
    }

    /// Takes the first `count` of those who wait for one.
    pub fn take_asked(&self, count: usize) -> Vec<Done> {
        self.asked.lock().drain(..count).collect()
    }

    /// Whether a unit of work is the first in a row that failed.
    pub fn is_new_trouble(&self, is_failed: bool) -> bool {
        !self.is_troubled.swap(is_failed, Relaxed) && is_failed
    }

    /// Checkpoints that have ended, and how long the last one took.
    pub fn ended(&self) -> (u64, Duration) {
        (self.count.load(Relaxed), Duration::from_nanos(self.last_nanos.load(Relaxed)))
    }

    /// Where the one on its way is, for reports.
    pub fn describe(&self) -> Vec<String> {
        match self.running.try_lock() {
            Some(running) => running.iter().map(RunningCheckpoint::describe).collect(),
            None => vec!["checkpoint".to_string()],
        }
    }

    /// Begins one of the state as it is now, for `reason`; `merged` if all that waited when it fell due is in pages.
    pub fn freeze(&self, reason: &'static str, merged: bool) -> Result<RunningCheckpoint> {
        let _writer = self.core.tree.writer();
        self.core.load_for_homes()?;
        let missing = SpaceNeeds::default().lacking(&self.core.tree.read().space);
        if let Some(end) = missing {
            let end = self.core.pager.grow(end, Units::ZERO)?;
            self.core.tree.write().space.set_file_end(end);
        }
        let logs_again = self.bounds.begin_checkpoint();
        let logs_aside = {
            let buffer = &self.core.tree.read().buffer;
            merged || logs_again || buffer.is_empty() || buffer.aside.is_unlogged()
        };
        if logs_aside {
            self.unreadable.log_again();
        }
        let now = self.core.log_point();
        if logs_again && !self.bounds.log_again(now)? {
            self.merger.want(now.lsn);
        }
        let mut tree = self.core.tree.write();
        let changes = tree.space.freeze();
        let frozen = tree.freeze(now);
        let waits = !tree.buffer.is_empty();
        drop(tree);
        if merged || !waits {
            self.core.age.clear_changes();
        }
        if waits {
            self.core.note_change();
        }
        let bytes_before = self.core.pager.checkpoint_bytes();
        let running =
            RunningCheckpoint::new(frozen, changes, reason, bytes_before, self.core.clock.elapsed());
        self.core.copies.set_left(&running.images, 0);
        Ok(running)
    }

    /// Does the next unit of one; true when it has ended.
    pub fn advance(&self, running: &mut RunningCheckpoint) -> Result<bool> {
        running.stage = match running.stage {
            CheckpointStage::Fresh(at) => {
                if at == 0 {
                    running.classes = running.frozen.value_classes();
                }
                let (moved, classes) = (&running.frozen.moved, &running.classes);
                let next = self.core.pager.write_pieces(&running.fresh, at, WORK_BYTES, moved, classes)?;
                if next < running.fresh.len() {
                    CheckpointStage::Fresh(next)
                } else {
                    CheckpointStage::Map(0)
                }
            }
            CheckpointStage::Map(at) => {
                let core = &self.core;
                let next =
                    map_pages::write_some(&mut &core.tree, &core.pager, &mut running.changes, at, MAP_PAGES)?;
                if next < map_pages::page_count(&running.changes) {
                    CheckpointStage::Map(next)
                } else {
                    running.meta.map = MapPlace::Pages(running.changes.root(&self.core.tree.read().space));
                    CheckpointStage::Images(0)
                }
            }
            CheckpointStage::Images(at) => {
                let doors = (&self.core.pager, &self.core.log, &self.core.age);
                let logged_bytes = &mut running.image_bytes;
                let next = self.core.copies.write_some(
                    doors,
                    &mut running.meta,
                    &running.images,
                    at,
                    logged_bytes,
                )?;
                if next < running.images.len() {
                    CheckpointStage::Images(next)
                } else {
                    CheckpointStage::Commit
                }
            }
            CheckpointStage::Commit => {
                self.commit(running)?;
                CheckpointStage::Release(0)
            }
            CheckpointStage::Release(at) => {
                let next = map_pages::release_some(&mut &self.core.tree, &running.changes, at, RELEASES);
                self.core.wake_signal.notify(WorkClass::Room);
                match next {
                    Some(next) => CheckpointStage::Release(next),
                    None if running.in_place.is_empty() => CheckpointStage::Done,
                    None => CheckpointStage::Home(0),
                }
            }
            CheckpointStage::Home(at) => {
                let next = self.core.pager.write_changed(&running.in_place, at, WORK_BYTES)?;
                if next < running.in_place.len() {
                    CheckpointStage::Home(next)
                } else {
                    self.core.pager.sync(Purpose::Checkpoint)?;
                    let (meta, settled_image_bytes) = self.settled(running);
                    self.core.pager.write_meta(&meta, PageCause::Checkpoint)?;
                    self.core.age.settle_images(settled_image_bytes);
                    self.core.pager.sync(Purpose::Manifest)?;
                    self.core.log.release(meta.recovery_lsn);
                    running.meta = meta;
                    CheckpointStage::Done
                }
            }
            CheckpointStage::Done => {
                map_pages::drop_groups(&mut &self.core.tree, self.core.options.common.cache_bytes);
                self.core.grow_ahead()?;
                self.core.shrink()?;
                self.thaw(running);
                return Ok(true);
            }
        };
        Ok(false)
    }

    /// The state of `job` once all is in its place, and the bytes of images before its recovery LSN. If no batch came in meanwhile, nothing of
    /// the log is needed any more.
    fn settled(&self, running: &RunningCheckpoint) -> (Meta, u64) {
        let _writer = self.core.tree.writer();
        let mut meta = running.meta.settled();
        let now = self.core.log_point();
        let behind_bytes = self.core.age.log_bytes(meta.recovery_lsn, now.lsn);
        if behind_bytes > 0 || self.core.tree.read().buffer.recovery_point().is_some() {
            return (meta, running.frozen.settled_image_bytes);
        }
        (meta.lsn, meta.recovery_lsn, meta.images_start) = (now.lsn, now.lsn, now.lsn);
        (meta, now.image_bytes)
    }

    fn commit(&self, running: &mut RunningCheckpoint) -> Result<()> {
        self.core.pager.sync(Purpose::Checkpoint)?;
        if running.meta.doublewrite_bytes > 0 {
            self.core.copies.sync_area().inspect_err(|error| self.core.pager.fail(error))?;
        }
        self.core.log.sync_now()?;
        let mut meta = running.meta;
        meta.sequence = self.core.tree.read().durable.sequence + 1;
        self.core.pager.write_meta(&meta, PageCause::Checkpoint)?;
        self.core.pager.sync(Purpose::Manifest)?;
        running.meta = meta;
        self.core.log.release(meta.images_start.min(meta.recovery_lsn));
        let damage = {
            let mut tree = self.core.tree.write();
            let before = tree.space.damage();
            tree.commit(meta, &running.changes);
            tree.space.damage().filter(|damage| before.as_ref() != Some(damage))
        };
        damage.into_iter().for_each(|sentence| self.core.tell_map_damage(sentence));
        self.core.age.settle_images(running.frozen.settled_image_bytes);
        self.core.age.settle_aside(running.frozen.aside_bytes);
        self.core.wake_signal.notify(WorkClass::Room);
        Ok(())
    }

    /// What was frozen is clean now.
    fn thaw(&self, running: &RunningCheckpoint) {
        // Into the pool first: readers find it in the frozen state until that goes.
        for (unit, piece) in &running.fresh {
            self.core.pager.keep(*unit, piece.clone());
        }
        for (number, page) in &running.in_place {
            self.core.pager.keep(number.unit(), Piece::Page(page.clone()));
        }
        let mut tree = self.core.tree.write();
        tree.durable = running.meta;
        tree.thaw();
        drop(tree);
        let took = self.core.clock.elapsed().saturating_sub(running.started);
        let fields = vec![
            ("reason", running.reason.into()),
            ("pages_new", (running.fresh.len() as u64).into()),
            ("pages_home", (running.in_place.len() as u64).into()),
            ("page_image_bytes", running.image_bytes.into()),
            ("bytes", (self.core.pager.checkpoint_bytes() - running.bytes_before).into()),
            ("duration_ns", (took.as_nanos() as u64).into()),
        ];
        self.count.fetch_add(1, Relaxed);
        self.last_nanos.store(took.as_nanos() as u64, Relaxed);
        self.core.record("checkpoint", fields);
        self.core.wake_signal.notify(WorkClass::Room);
    }
}
