//! The checkpoint: writes the tree as of one LSN to the file while writers continue.
//!
//! 1. *Freeze*: give pages that are written out of place their places ([`super::page_compression`]), then
//!    take the dirty pages and values, root, counts and free map as of LSN P. Writers copy pages before they change them
//!    from then on. Buffered puts are not in this state, so it has a recovery LSN up to which no batch is missing. If that would
//!    keep too much of the log, the puts are logged again, and the recovery LSN is P.
//! 2. *Fresh*: write new values and pages, to which no durable state refers, and the changed pages of the free map.
//! 3. *Images*: log the changed units of every other dirty page in their new form; or write the page to the doublewrite area, if the disk has
//!    room for that. With `torn=image`, pages whose image is in the log already are left out.
//! 4. *Commit*: sync the data file, the doublewrite area and the log, write the meta page, sync it. Now the state at P is durable: pages
//!    that are not in place yet are in the log between `images_start` and `images_end`, or in the doublewrite area. The log below the
//!    recovery LSN (and below `images_start`) is released, and so are units that were freed before P; these a few at a time, so that no
//!    reader waits long for the latch.
//! 5. *In place*: write the changed units of the pages of step 3 in place. A crash may tear them; the images repair that. Sync.
//! 6. *Done*: write the meta page once more, to the other slot, without `images_end` and `doublewrite_bytes`, and sync it: the images need
//!    not be kept then, and the next checkpoint may overwrite the doublewrite area before its commit. If no batch came in since P, the new
//!    meta page has the end of the log as its LSN, so that no log is needed. If a long end of the file is free, it is cut off.
//!
//! Each step may be repeated: one that fails is done again at the next call. After a failed sync nothing is written until the store is opened
//! again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};

use super::allocation_unit::{PageNumber, UnitMap, UnitNumber, Units};
use super::bound::Bounds;
use super::buffer_merge::ChangeBufferMerger;
use super::core::Core;
use super::freemap::{MapChanges, SpaceNeeds};
use super::map_pages;
use super::meta::{MapPlace, Meta};
use super::page::Page;
use super::page_compression::ReadyPages;
use super::source::Piece;
use super::tree::FrozenTree;
use super::unreadable::UnreadableRanges;
use crate::disk::Purpose;
use crate::engine::{Done, PageCause, Result, WorkClass};

/// Pages of the free map that one unit of work writes.
const MAP_PAGES: usize = 256;
/// Groups whose units one unit of work releases; the latch is taken for each of them.
const RELEASES: usize = 64;
/// Bytes that one unit of work writes, about.
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

/// A running checkpoint: the state that it froze, and what is left to write of it. The fields live and end with it, and every step reads most
/// of them, so they stay one type.
pub struct RunningCheckpoint {
    stage: CheckpointStage,
    frozen: Arc<FrozenTree>,
    /// The pages of the free map to write.
    changes: MapChanges,
    /// New pages and values, in the order of the file.
    fresh: Vec<(UnitNumber, Piece)>,
    /// Pages to be overwritten in place, in the order of the file.
    in_place: Pages,
    /// The pages of `in_place` that need a copy.
    images: Pages,
    /// The meta page of the state; once it was written, the newest one.
    meta: Meta,
    /// Bytes of page images that were logged.
    image_bytes: u64,
    /// The class of the key of each value in `fresh`, by unit; known from the first step on.
    classes: UnitMap<u8>,
    /// The reason why it was begun, for the event log.
    reason: &'static str,
    /// [`Pager::checkpoint_bytes`](super::pager::Pager::checkpoint_bytes) at its begin.
    bytes_before: u64,
    started: Duration,
    /// Commands that wait for its end.
    pub waiters: Vec<Done>,
}

impl RunningCheckpoint {
    /// A checkpoint of `frozen` that has written nothing yet.
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
        let (image_bytes, classes) = (0, HashMap::default());
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

    /// Its progress, for reports.
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

/// The turn of the one thread that does flush work, with the running checkpoint, if there is one.
pub type Turn<'a> = MutexGuard<'a, Option<RunningCheckpoint>>;

/// Makes checkpoints, one at a time.
pub struct Checkpointer {
    core: Arc<Core>,
    bounds: Arc<Bounds>,
    merger: Arc<ChangeBufferMerger>,
    unreadable: Arc<UnreadableRanges>,
    running: Mutex<Option<RunningCheckpoint>>,
    /// Commands that wait for the next full checkpoint, which includes all buffered puts.
    asked: Mutex<Vec<Done>>,
    /// Number of checkpoints that have ended.
    count: AtomicU64,
    /// Duration of the last one.
    last_nanos: AtomicU64,
    /// Whether the last unit of work failed.
    is_troubled: AtomicBool,
}

impl Checkpointer {
    /// A checkpointer for `core`, whose opening made `count` checkpoints.
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

    /// Takes the turn to do flush work of any kind; `None` if another thread has it, which does all the work there is.
    pub fn turn(&self) -> Option<Turn<'_>> {
        self.running.try_lock()
    }

    /// Whether a checkpoint is running. Waits for a thread that has the turn.
    pub fn is_running(&self) -> bool {
        self.running.lock().is_some()
    }

    /// Whether a checkpoint is running or a thread has the turn: either may free units and log.
    pub fn is_settling(&self) -> bool {
        self.running.try_lock().is_none_or(|running| running.is_some())
    }

    /// Asks for a full checkpoint; `done` is called at its end.
    pub fn ask(&self, done: Done) {
        self.asked.lock().push(done);
    }

    /// Number of commands that wait for a full checkpoint.
    pub fn asked(&self) -> usize {
        self.asked.lock().len()
    }

    /// Takes the first `count` commands that wait for a full checkpoint.
    pub fn take_asked(&self, count: usize) -> Vec<Done> {
        self.asked.lock().drain(..count).collect()
    }

    /// Whether a unit of work has failed after one that did not.
    pub fn is_new_trouble(&self, is_failed: bool) -> bool {
        !self.is_troubled.swap(is_failed, Relaxed) && is_failed
    }

    /// Number of checkpoints that have ended, and the duration of the last one.
    pub fn ended(&self) -> (u64, Duration) {
        (self.count.load(Relaxed), Duration::from_nanos(self.last_nanos.load(Relaxed)))
    }

    /// The progress of the running checkpoint, for reports.
    pub fn describe(&self) -> Vec<String> {
        match self.running.try_lock() {
            Some(running) => running.iter().map(RunningCheckpoint::describe).collect(),
            None => vec!["checkpoint".to_string()],
        }
    }

    /// Begins a checkpoint of the present state for `reason`; `merged` if all puts that were buffered when it became due are in pages. With
    /// `together`, its pages get one place, if the option `pages` says so. `ready` are pages that have been compressed already.
    pub fn freeze(
        &self,
        reason: &'static str,
        merged: bool,
        together: bool,
        ready: ReadyPages,
    ) -> Result<RunningCheckpoint> {
        let _writer = self.core.tree.writer();
        let can_place = self.core.can_place_pages(together)?;
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
        // From here on nothing fails: pages that have their places are not changed any more.
        let compressed = match can_place {
            true => self.core.place_pages(ready, together),
            false => HashMap::default(),
        };
        let mut tree = self.core.tree.write();
        let changes = tree.space.freeze();
        let frozen = tree.freeze(now, compressed);
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

    /// Does the next unit of a checkpoint; true when it has ended.
    pub fn advance(&self, running: &mut RunningCheckpoint) -> Result<bool> {
        running.stage = match running.stage {
            CheckpointStage::Fresh(at) => {
                if at == 0 {
                    running.classes = running.frozen.value_classes();
                }
                let (moved, classes) = (&running.frozen.moved, &running.classes);
                let compressed = &running.frozen.compressed;
                let pager = &self.core.pager;
                let next = pager.write_pieces(&running.fresh, at, WORK_BYTES, moved, classes, compressed)?;
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
                self.core.preallocate()?;
                self.core.shrink()?;
                self.thaw(running);
                return Ok(true);
            }
        };
        Ok(false)
    }

    /// The meta page once all pages are in place, and the bytes of images before its recovery LSN. If no batch came in meanwhile, no log is
    /// needed any more.
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
        if meta.is_first_compressed(&self.core.tree.read().durable) {
            // A program that does not know compressed pages shall find no older state that it knows.
            meta.sequence += 1;
            self.core.pager.write_meta(&meta, PageCause::Checkpoint)?;
            self.core.pager.sync(Purpose::Manifest)?;
        }
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

    /// Ends the frozen state: its pages and values are clean now.
    fn thaw(&self, running: &RunningCheckpoint) {
        // Into the pool first, since readers find them in the frozen state until that is dropped.
        for (unit, piece) in &running.fresh {
            self.core.page_extents.note(*unit, piece);
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
