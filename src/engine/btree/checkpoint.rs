//! The checkpoint: brings the tree of one log position to its place in the file while writers go on.
//!
//! 1. *Freeze*: take the dirty pages and values, root, counts and free map as of log position P. Writers copy what they change
//!    from here on.
//! 2. *Fresh*: write values and pages that no durable state refers to, and the free map, to their places.
//! 3. *Images*: append every other page, in its new form, to the log.
//! 4. *Commit*: sync the data file and the log, write the meta page, sync it. Now the state at P is durable: what is not in its
//!    place lies in the log between P and `images_end`. The log below P and units freed before P can be used again.
//! 5. *Home*: write the pages of step 3 to their places, which may tear them: the images repair that. Sync.
//! 6. *Done*: write the meta page once more, in the other slot, without `images_end`. It needs no sync of its own: doing step 5
//!    again at recovery is harmless, and the next commit syncs the file before it overwrites a slot.
//!
//! A step that fails is done again at the next call; each may be repeated. After a failed sync nothing is, until the store is
//! opened again.

use std::sync::Arc;
use std::time::Duration;

use super::BtreeEngine;
use super::meta::Meta;
use super::page::Page;
use super::pager::Piece;
use super::tree::Frozen;
use crate::disk::Purpose;
use crate::engine::wal::{FIRST_KIND, RECORD_OVERHEAD_BYTES};
use crate::engine::{Class, Done, Result};

/// Log record kind of a page image: unit (8 bytes), page.
pub const IMAGE_KIND: u8 = FIRST_KIND + 1;
/// A unit of work writes about this much.
const WORK_BYTES: usize = 4 << 20;

enum Stage {
    Fresh(usize),
    Images(usize),
    Commit,
    Home(usize),
    Done,
}

/// A checkpoint on its way.
pub struct Job {
    stage: Stage,
    frozen: Arc<Frozen>,
    /// Sorted by unit, as are the next.
    fresh: Vec<(u64, Piece)>,
    in_place: Vec<(u64, Piece)>,
    /// The newest meta page that was written for it, once there is one.
    meta: Meta,
    image_bytes: u64,
    started: Duration,
    /// Whom to tell.
    pub waiters: Vec<Done>,
}

impl Job {
    /// What remains to be done with `frozen`.
    fn new(frozen: Arc<Frozen>, started: Duration, waiters: Vec<Done>) -> Job {
        let (mut fresh, mut in_place) = (Vec::new(), Vec::new());
        for (unit, page) in &frozen.pages {
            let list = if frozen.fresh.contains(unit) { &mut fresh } else { &mut in_place };
            list.push((*unit, Piece::Page(page.clone())));
        }
        fresh.extend(frozen.values.iter().map(|(unit, value)| (*unit, Piece::Value(value.clone()))));
        fresh.sort_unstable_by_key(|(unit, _)| *unit);
        in_place.sort_unstable_by_key(|(unit, _)| *unit);
        let meta = frozen.meta;
        Job { stage: Stage::Fresh(0), frozen, fresh, in_place, meta, image_bytes: 0, started, waiters }
    }

    /// Where it is, for reports.
    pub fn describe(&self) -> String {
        let (what, done, all) = match self.stage {
            Stage::Fresh(at) => ("new pages", at, self.fresh.len()),
            Stage::Images(at) => ("page images", at, self.in_place.len()),
            Stage::Commit => ("commit", 0, 1),
            Stage::Home(at) => ("pages home", at, self.in_place.len()),
            Stage::Done => ("done", 1, 1),
        };
        format!("checkpoint {what} {}%", (done * 100).checked_div(all).unwrap_or(100))
    }
}

impl BtreeEngine {
    /// Begins a checkpoint of the state as it is now.
    pub(super) fn freeze(&self, waiters: &mut Vec<Done>) -> Result<Job> {
        let _writer = self.writer.lock();
        let missing = {
            let tree = self.tree.read();
            tree.space.missing(tree.map_units_max(0))
        };
        if let Some(units) = missing {
            let units = self.pager.grow(units, 0)?;
            self.tree.write().space.set_file_units(units);
        }
        let position = self.log.end();
        let frozen = self.tree.write().freeze(position);
        self.clear_dirty_since();
        Ok(Job::new(frozen, self.clock.elapsed(), std::mem::take(waiters)))
    }

    /// Does the next unit of a checkpoint; true when it has ended.
    pub(super) fn advance(&self, job: &mut Job) -> Result<bool> {
        job.stage = match job.stage {
            Stage::Fresh(at) => {
                let next = self.pager.write_pieces(&job.fresh, at, WORK_BYTES, Purpose::Checkpoint)?;
                if next < job.fresh.len() {
                    Stage::Fresh(next)
                } else {
                    let mut map = job.frozen.map.to_vec();
                    map.resize(map.len().next_multiple_of(super::UNIT_BYTES as usize), 0);
                    self.pager.write(job.meta.map_unit, &map, Purpose::Manifest)?;
                    Stage::Images(0)
                }
            }
            Stage::Images(at) => {
                let count = (WORK_BYTES / self.pager.page_bytes()).max(1);
                let end = (at + count).min(job.in_place.len());
                for (unit, piece) in &job.in_place[at..end] {
                    if let Piece::Page(page) = piece {
                        let (position, bytes) = self.log_image(*unit, page)?;
                        job.meta.images_end = position;
                        job.image_bytes += bytes;
                    }
                }
                if end < job.in_place.len() { Stage::Images(end) } else { Stage::Commit }
            }
            Stage::Commit => {
                self.commit(job)?;
                if job.in_place.is_empty() { Stage::Done } else { Stage::Home(0) }
            }
            Stage::Home(at) => {
                let next = self.pager.write_pieces(&job.in_place, at, WORK_BYTES, Purpose::Checkpoint)?;
                if next < job.in_place.len() {
                    Stage::Home(next)
                } else {
                    self.sync_file(Purpose::Checkpoint)?;
                    let meta = Meta { sequence: job.meta.sequence + 1, images_end: 0, ..job.meta };
                    self.pager.write_meta(&meta)?;
                    job.meta = meta;
                    Stage::Done
                }
            }
            Stage::Done => {
                self.grow_ahead()?;
                self.thaw(job);
                return Ok(true);
            }
        };
        Ok(false)
    }

    fn log_image(&self, unit: u64, page: &Page) -> Result<(u64, u64)> {
        let bytes = 8 + self.pager.page_bytes();
        let position = self.log.append(IMAGE_KIND, Purpose::PageImage, bytes, |target| {
            target.extend_from_slice(&unit.to_le_bytes());
            page.seal(unit, target);
        })?;
        let bytes = bytes as u64 + RECORD_OVERHEAD_BYTES;
        self.add_image_bytes(bytes);
        Ok((position, bytes))
    }

    fn commit(&self, job: &mut Job) -> Result<()> {
        self.sync_file(Purpose::Checkpoint)?;
        self.log.sync_now()?;
        let mut meta = job.meta;
        meta.sequence = self.tree.read().durable.sequence + 1;
        self.pager.write_meta(&meta)?;
        self.sync_file(Purpose::Manifest)?;
        job.meta = meta;
        self.log.release(meta.position);
        self.tree.write().commit(meta);
        self.set_image_bytes(job.image_bytes);
        self.bell.ring(Class::Room);
        Ok(())
    }

    /// What was frozen is clean now.
    fn thaw(&self, job: &Job) {
        // Into the pool first: readers find it in the frozen state until that goes.
        for (unit, piece) in job.fresh.iter().chain(&job.in_place) {
            self.pager.keep(*unit, piece.clone());
        }
        let mut tree = self.tree.write();
        tree.durable = job.meta;
        tree.thaw();
        drop(tree);
        self.checkpoint_ended(self.clock.elapsed().saturating_sub(job.started));
        self.bell.ring(Class::Room);
    }
}
