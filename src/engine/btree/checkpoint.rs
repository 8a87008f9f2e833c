//! The checkpoint: brings the tree of one log position to its place in the file while writers go on.
//!
//! 1. *Freeze*: take the dirty pages and values, root, counts and free map as of log position P. Writers copy what they change
//!    from here on. Puts that wait in the buffer are not in it, so the state names the floor up to which nothing is missing. If that would
//!    hold too much of the log, they are logged again, and the floor is P.
//! 2. *Fresh*: write values and pages that no durable state refers to, and what changed of the free map, to their places.
//! 3. *Images*: append the changed units of every other page, in their new form, to the log; or write the page to the double-write area, if the disk has
//!    room for that. In `torn=image` the images of batches do, where they could be written.
//! 4. *Commit*: sync the data file, the area and the log, write the meta page, sync it. Now the state at P is durable: what is not
//!    in its place lies in the log between `images_start` and `images_end`, or in the area. The log below the floor (and below
//!    `images_start`) and units freed before P can be used again.
//!    They come back in parts, so that no reader waits long for the latch.
//! 5. *Home*: write the changed units of the pages of step 3 to their places, which may tear them: the images repair that. Sync.
//! 6. *Done*: write the meta page once more, in the other slot, without `images_end` and `double_bytes`, and sync it: the
//!    images need not be kept, and the next checkpoint may overwrite the area before its commit. If no batch came in since P, it names
//!    the end of the log, of which nothing is needed then. If much of the end of the file is free in this state, it is cut off.
//!
//! A step that fails is done again at the next call; each may be repeated. After a failed sync nothing is, until the store is
//! opened again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::freemap::Changes;
use super::meta::{MapPlace, Meta};
use super::page::{Page, SECTOR_BYTES, Stored};
use super::pager::{Pager, Piece};
use super::tree::{Frozen, Needs};
use super::{BtreeEngine, double};
use crate::disk::Purpose;
use crate::engine::btree::Torn;
use crate::engine::wal::{FIRST_KIND, RECORD_OVERHEAD_BYTES};
use crate::engine::{Class, Done, Error, PageCause, PageKind, Result, class_of};

/// Log record kind of a page image: unit (8 bytes), which sectors of the page follow (16 bytes), these sectors.
pub const IMAGE_KIND: u8 = FIRST_KIND + 1;
/// Bytes before the sectors.
pub const IMAGE_HEADER_BYTES: usize = 24;

/// Bytes of the log that an image of a page takes at most.
pub fn copy_record_bytes_max(page_bytes: usize) -> u64 {
    (page_bytes + IMAGE_HEADER_BYTES) as u64 + RECORD_OVERHEAD_BYTES
}

/// Log record kind of the image of a page that a batch changed: unit (8 bytes), whether the page is new (4 bytes), page.
pub const BATCH_IMAGE_KIND: u8 = FIRST_KIND + 2;
/// Pages of the free map that a unit of work writes.
const MAP_PAGES: usize = 256;
/// Groups of units that a unit of work gives back, each under an exclusive latch of its own.
const RELEASES: usize = 64;
/// A unit of work writes about this much.
const WORK_BYTES: usize = 4 << 20;

/// Pages by unit.
type Pages = Vec<(u64, Arc<Page>)>;

enum Stage {
    Fresh(usize),
    Map(usize),
    Images(usize),
    Commit,
    Release(usize),
    Home(usize),
    Done,
}

/// A checkpoint on its way.
pub struct Job {
    stage: Stage,
    frozen: Arc<Frozen>,
    /// What it writes of the free map.
    changes: Changes,
    /// Sorted by unit, as are the next.
    fresh: Vec<(u64, Piece)>,
    in_place: Vec<(u64, Arc<Page>)>,
    /// Those pages of `in_place` that need a copy.
    images: Vec<(u64, Arc<Page>)>,
    /// The newest meta page that was written for it, once there is one.
    meta: Meta,
    image_bytes: u64,
    /// Class of the key of each value in `fresh`, by unit; known from the first step on.
    classes: HashMap<u64, u8>,
    /// Why it was begun.
    reason: &'static str,
    /// [`Pager::checkpoint_bytes`](super::pager::Pager::checkpoint_bytes) when it was.
    bytes_before: u64,
    started: Duration,
    /// Whom to tell.
    pub waiters: Vec<Done>,
}

impl Job {
    /// What remains to be done with `frozen`.
    fn new(
        frozen: Arc<Frozen>,
        changes: Changes,
        reason: &'static str,
        bytes_before: u64,
        started: Duration,
        waiters: Vec<Done>,
    ) -> Job {
        let (fresh, in_place) = frozen.pieces();
        let images: Vec<_> =
            in_place.iter().filter(|(unit, _)| !frozen.imaged.contains(unit)).cloned().collect();
        let mut meta = frozen.meta;
        if images.len() < in_place.len() {
            meta.images_end = meta.position;
        } else {
            meta.images_start = meta.position;
        }
        let stage = Stage::Fresh(0);
        let (image_bytes, classes) = (0, HashMap::new());
        Job {
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
            waiters,
        }
    }

    /// Where it is, for reports.
    pub fn describe(&self) -> String {
        let (what, done, all) = match self.stage {
            Stage::Fresh(at) => ("new pages", at, self.fresh.len()),
            Stage::Map(at) => ("free map", at, self.changes.group_count() + self.changes.page_count()),
            Stage::Images(at) => ("page copies", at, self.images.len()),
            Stage::Commit => ("commit", 0, 1),
            Stage::Release(at) => ("free space", at, self.changes.group_count()),
            Stage::Home(at) => ("pages home", at, self.in_place.len()),
            Stage::Done => ("done", 1, 1),
        };
        format!("checkpoint {what} {}%", (done * 100).checked_div(all).unwrap_or(100))
    }
}

impl BtreeEngine {
    /// Begins a checkpoint of the state as it is now, for `reason`; `swept` if all that waited when it fell due is in pages.
    pub(super) fn freeze(&self, reason: &'static str, waiters: &mut Vec<Done>, swept: bool) -> Result<Job> {
        let _writer = self.lock_writer();
        self.load_for_homes()?;
        let missing = Needs::default().lacking(&self.tree.read().space);
        if let Some(units) = missing {
            let units = self.pager.grow(units, 0)?;
            self.tree.write().space.set_file_units(units);
        }
        if self.tree.read().buffer.is_empty() {
            *self.again_failed.lock() = None;
        }
        let logs_again = self.is_again_worth_it();
        self.is_log_wanted.store(false, Relaxed);
        let logs_aside = {
            let buffer = &self.tree.read().buffer;
            swept || logs_again || buffer.is_empty() || buffer.aside.is_unlogged()
        };
        if logs_aside {
            self.log_aside();
        }
        let now = self.mark();
        if logs_again {
            self.log_again(now)?;
        }
        let mut tree = self.tree.write();
        let changes = tree.space.freeze();
        let frozen = tree.freeze(now);
        let waits = !tree.buffer.is_empty();
        drop(tree);
        if swept || !waits {
            self.clear_dirty_since();
        }
        if waits {
            self.set_dirty_since();
        }
        let bytes_before = self.pager.checkpoint_bytes();
        let job =
            Job::new(frozen, changes, reason, bytes_before, self.clock.elapsed(), std::mem::take(waiters));
        self.copies_left_bytes.store(self.copies_left_bytes(&job), Relaxed);
        Ok(job)
    }

    /// Bytes of images that `job` has yet to log.
    fn copies_left_bytes(&self, job: &Job) -> u64 {
        let at = match job.stage {
            Stage::Fresh(_) | Stage::Map(_) => 0,
            Stage::Images(at) => at,
            _ => job.images.len(),
        };
        let record = |(_, page): &(u64, Arc<Page>)| {
            let changed_bytes = page.changed_units().count() * super::UNIT_BYTES as usize;
            copy_record_bytes_max(changed_bytes)
        };
        match self.has_area_for(job.images.len() as u64) {
            true => 0,
            false => job.images[at..].iter().map(record).sum(),
        }
    }

    /// Whether copies of `pages` pages go to the double-write area, and that is long enough.
    pub(super) fn has_area_for(&self, pages: u64) -> bool {
        let page_bytes = self.pager.page_bytes();
        let bytes = double::area_bytes(pages as usize, page_bytes, double::chunk_pages(page_bytes));
        self.options.torn == Torn::DoubleWrite && self.double.allocated_bytes() >= bytes
    }

    /// Does the next unit of a checkpoint; true when it has ended.
    pub(super) fn advance(&self, job: &mut Job) -> Result<bool> {
        job.stage = match job.stage {
            Stage::Fresh(at) => {
                if at == 0 {
                    job.classes = value_classes(&job.frozen);
                }
                let (moved, classes) = (&job.frozen.moved, &job.classes);
                let next = self.pager.write_pieces(&job.fresh, at, WORK_BYTES, moved, classes)?;
                if next < job.fresh.len() { Stage::Fresh(next) } else { Stage::Map(0) }
            }
            Stage::Map(at) => {
                let next = self.write_map_some(&mut job.changes, at, MAP_PAGES)?;
                if next < job.changes.group_count() + job.changes.page_count() {
                    Stage::Map(next)
                } else {
                    job.meta.map = MapPlace::Pages(job.changes.root(&self.tree.read().space));
                    Stage::Images(0)
                }
            }
            Stage::Images(at) => {
                let count = double::chunk_pages(self.pager.page_bytes());
                let end = (at + count).min(job.images.len());
                let is_in_area = at < end && self.write_double(job, at, end)?;
                if !is_in_area {
                    for (unit, page) in &job.images[at..end] {
                        let (position, bytes) = self.log_image(*unit, page)?;
                        job.meta.images_end = position;
                        job.image_bytes += bytes;
                    }
                }
                job.stage = Stage::Images(end);
                self.copies_left_bytes.store(self.copies_left_bytes(job), Relaxed);
                if end < job.images.len() { Stage::Images(end) } else { Stage::Commit }
            }
            Stage::Commit => {
                self.commit(job)?;
                Stage::Release(0)
            }
            Stage::Release(at) => {
                let next = self.release_some(&job.changes, at, RELEASES);
                self.bell.ring(Class::Room);
                match next {
                    Some(next) => Stage::Release(next),
                    None if job.in_place.is_empty() => Stage::Done,
                    None => Stage::Home(0),
                }
            }
            Stage::Home(at) => {
                let next = self.pager.write_changed(&job.in_place, at, WORK_BYTES)?;
                if next < job.in_place.len() {
                    Stage::Home(next)
                } else {
                    self.sync_file(Purpose::Checkpoint)?;
                    let (meta, floor_image_bytes) = self.settled(job);
                    self.pager.write_meta(&meta, PageCause::Checkpoint)?;
                    self.settled_image_bytes.store(floor_image_bytes, Relaxed);
                    self.sync_file(Purpose::Manifest)?;
                    self.log.release(meta.floor);
                    job.meta = meta;
                    Stage::Done
                }
            }
            Stage::Done => {
                self.drop_groups();
                self.grow_ahead()?;
                self.shrink()?;
                self.thaw(job);
                return Ok(true);
            }
        };
        Ok(false)
    }

    /// The state of `job` once all is in its place, and the bytes of images before its floor. If no batch came in meanwhile, nothing of
    /// the log is needed any more.
    fn settled(&self, job: &Job) -> (Meta, u64) {
        let _writer = self.lock_writer();
        let mut meta = job.meta.settled();
        let now = self.mark();
        let behind_bytes = self.log_bytes_since(meta.floor, now.position);
        if behind_bytes > 0 || self.tree.read().buffer.floor().is_some() {
            return (meta, job.frozen.floor_image_bytes);
        }
        (meta.position, meta.floor, meta.images_start) = (now.position, now.position, now.position);
        (meta, now.image_bytes)
    }

    fn log_image(&self, unit: u64, page: &Page) -> Result<(u64, u64)> {
        let changed = page.changed_sectors();
        let bytes = IMAGE_HEADER_BYTES + changed.count_ones() as usize * SECTOR_BYTES;
        let mut sealed = Vec::with_capacity(self.pager.page_bytes());
        self.pager.seal(page, unit, &mut sealed);
        let position = self.log.append(IMAGE_KIND, Purpose::PageImage, bytes, |target| {
            target.extend_from_slice(&unit.to_le_bytes());
            target.extend_from_slice(&changed.to_le_bytes());
            for (index, sector) in sealed.chunks(SECTOR_BYTES).enumerate() {
                if changed >> index & 1 == 1 {
                    target.extend_from_slice(sector);
                }
            }
        })?;
        let bytes = bytes as u64 + RECORD_OVERHEAD_BYTES;
        self.add_image_bytes(bytes);
        self.pager.count_written(page.kind(), PageCause::Delta, 1, bytes);
        Ok((position, bytes))
    }

    /// Writes copies `at..end` to the double-write area: at `double_bytes`, which grows by it. False if they belong into the log: so they
    /// do where the disk has no room for the area, as the files of the log may have.
    fn write_double(&self, job: &mut Job, at: usize, end: usize) -> Result<bool> {
        if self.options.torn != Torn::DoubleWrite {
            return Ok(false);
        }
        let page_bytes = self.pager.page_bytes();
        let left = double::area_bytes(job.images.len() - at, page_bytes, double::chunk_pages(page_bytes));
        // One chunk that fails is written again to the same place.
        let offset = job.meta.double_bytes;
        match self.double.make_room(offset + left) {
            Err(Error::NoSpace) => return Ok(false),
            other => other?,
        }
        let pages = &job.images[at..end];
        job.meta.double_bytes += self.double.write(offset, job.meta.position, pages)?;
        count_double(&self.pager, pages);
        Ok(true)
    }

    fn commit(&self, job: &mut Job) -> Result<()> {
        self.sync_file(Purpose::Checkpoint)?;
        if job.meta.double_bytes > 0 {
            self.double.sync().inspect_err(|error| self.fail(error))?;
        }
        self.log.sync_now()?;
        let mut meta = job.meta;
        meta.sequence = self.tree.read().durable.sequence + 1;
        self.pager.write_meta(&meta, PageCause::Checkpoint)?;
        self.sync_file(Purpose::Manifest)?;
        job.meta = meta;
        self.log.release(meta.images_start.min(meta.floor));
        let damage = {
            let mut tree = self.tree.write();
            let before = tree.space.damage();
            tree.commit(meta, &job.changes);
            tree.space.damage().filter(|damage| before.as_ref() != Some(damage))
        };
        self.tell_map_damage(damage);
        self.settled_image_bytes.store(job.frozen.floor_image_bytes, Relaxed);
        self.settled_aside_bytes.store(job.frozen.aside_bytes, Relaxed);
        self.bell.ring(Class::Room);
        Ok(())
    }

    /// What was frozen is clean now.
    fn thaw(&self, job: &Job) {
        // Into the pool first: readers find it in the frozen state until that goes.
        for (unit, piece) in &job.fresh {
            self.pager.keep(*unit, piece.clone());
        }
        for (unit, page) in &job.in_place {
            self.pager.keep(*unit, Piece::Page(page.clone()));
        }
        let mut tree = self.tree.write();
        tree.durable = job.meta;
        tree.thaw();
        drop(tree);
        let took = self.clock.elapsed().saturating_sub(job.started);
        let fields = vec![
            ("reason", job.reason.into()),
            ("pages_new", (job.fresh.len() as u64).into()),
            ("pages_home", (job.in_place.len() as u64).into()),
            ("page_image_bytes", job.image_bytes.into()),
            ("bytes", (self.pager.checkpoint_bytes() - job.bytes_before).into()),
            ("duration_ns", (took.as_nanos() as u64).into()),
        ];
        self.checkpoint_ended(took, fields);
        self.bell.ring(Class::Room);
    }
}

impl Frozen {
    /// What is new and goes where nothing was, and pages that change in their places; both sorted by unit.
    pub fn pieces(&self) -> (Vec<(u64, Piece)>, Pages) {
        let (mut fresh, mut in_place) = (Vec::new(), Vec::new());
        for (unit, page) in &self.pages {
            if self.fresh.contains(unit) {
                fresh.push((*unit, Piece::Page(page.clone())));
            } else if page.changed_units().next().is_some() {
                in_place.push((*unit, page.clone()));
            }
        }
        fresh.extend(self.values.iter().map(|(unit, value)| (*unit, Piece::Value(value.clone()))));
        fresh.sort_unstable_by_key(|(unit, _)| *unit);
        in_place.sort_unstable_by_key(|(unit, _)| *unit);
        (fresh, in_place)
    }
}

/// A chunk of `pages` was written to the double-write area.
pub fn count_double(pager: &Pager, pages: &[(u64, Arc<Page>)]) {
    pager.count_written(PageKind::Meta, PageCause::DoubleWrite, 1, super::UNIT_BYTES);
    for (_, page) in pages {
        pager.count_written(page.kind(), PageCause::DoubleWrite, 1, pager.page_bytes() as u64);
    }
}

/// The class of every new value's key, by the unit of its extent: the leaf that refers to it changed with it.
pub fn value_classes(frozen: &Frozen) -> HashMap<u64, u8> {
    let mut classes = HashMap::with_capacity(frozen.values.len());
    for page in frozen.pages.values().filter(|page| page.is_leaf()) {
        for index in 0..page.count() {
            if let Stored::Extent(extent) = page.stored(index)
                && frozen.values.contains_key(&extent.unit)
            {
                classes.insert(extent.unit, class_of(page.key(index)));
            }
        }
    }
    classes
}
