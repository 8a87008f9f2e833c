//! Replay: applies the batches of the log behind a durable state to the tree.
//!
//! The pages of a state at LSN P with recovery LSN F contain every batch up to F, and of the batches between F and P all those that were not
//! buffered.
//!
//! 1. Between F and P, a batch of small puts may have been buffered: it is buffered again. Any other batch is in the pages, so it only
//!    removes its keys from the buffer, as it did then. Neither reads a page, and no value needs a place.
//! 2. Behind P, batches are applied or buffered as when they came in.
//!
//! Every batch behind F is applied again, in the order of the log, if rule 1 cannot tell what the pages contain: if the state
//! says so (`replay_all`), and from the first record on with changes that were set aside, since their page may have been read since. That
//! leads to the same state, whichever of them the pages contained already: the last change of each key counts.
//!
//! Changes for a page that cannot be read are set aside ([`super::set_aside`]), so that the store opens.
//!
//! # Memory
//!
//! If the replayed batches take more memory than `dirty_max`, which may have been larger when the log was written, a checkpoint writes them
//! before the replay continues. It does not append to the log: the copies of pages go to the doublewrite area, whatever `torn` is, and its
//! meta page says that none are in the log. An opening after a crash continues from there. If it is the buffer that takes the memory, it is
//! merged completely; between F and P that applies older changes to newer pages, so every batch is applied from there on.
//!
//! If the disk has no room for the doublewrite area, the store opens all the same, but takes more memory.
//!
//! # A full disk
//!
//! Pages that a replay leaves dirty need copies in the log, whose files may have no room for them: before the crash they could have grown, but
//! then other programs took the disk. So if less than the reserve is free, a checkpoint comes before there are more copies than fit into the
//! space that is always kept for the doublewrite area ([`doublewrite::kept_bytes`]), and at the end everything is written. Then the files of
//! the log are free, and deletes can use them.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::age::LogPoint;
use super::allocation_unit::{PageNumber, Units};
use super::change_buffer::share;
use super::copies::count_doublewrite;
use super::doublewrite::{self, DoublewriteArea};
use super::freemap::{FreeMap, GroupRequest, SpaceNeeds};
use super::growth::preallocated_units;
use super::map_pages;
use super::meta::MapPlace;
use super::options::Options;
use super::page::Page;
use super::pager::Pager;
use super::records::{ASIDE_KIND, BATCH_IMAGE_KIND, IMAGE_KIND, REMOVAL_KIND, removal};
use super::source::{LoadedPieces, Piece, is_unreadable};
use super::tree::{BufferMergeLimit, BufferMergePlan, Deletes, Pins, Stop, Tree};
use crate::disk::Purpose;
use crate::engine::wal::{FIRST_KIND, RECORD_OVERHEAD_BYTES};
use crate::engine::{Batch, Error, Lsn, Operation, PageCause, Result, SpaceGuard, Tier};

/// Largest share of the dirty bytes for buffered puts; the pages that a buffer merge makes dirty need the rest.
const SHARE_WAITING: (u64, u64) = (3, 4);
/// Share of the dirty bytes that is worth a checkpoint: pages that a buffer merge makes dirty beside the puts that are still buffered.
const SHARE_CHECKPOINT: (u64, u64) = (1, 8);
/// Share of the doublewrite area after which a checkpoint comes on a full disk, one part in so many: the next batch changes pages, too.
const SHARE_AREA: u64 = 2;
/// Leaves of a buffer merge's step on a full disk, as a share of the pages that the area has room for, one part in so many: each leaf may change
/// a neighbour and pages above.
const SHARE_STEP: u64 = 8;
/// Bytes of a write, about; this memory counts towards no limit.
const WORK_BYTES: usize = 1 << 20;

/// A running replay; see the module.
pub struct Replay<'a> {
    tree: Tree,
    pager: &'a Pager,
    doublewrite: &'a DoublewriteArea,
    options: &'a Options,
    guard: &'a SpaceGuard,
    /// LSN of the state that the replay began with.
    lsn: Lsn,
    /// Whether every batch is applied.
    is_whole: bool,
    /// The point up to which the log has been read.
    at: LogPoint,
    /// Whether the disk had no room for a checkpoint.
    is_without_room: bool,
    result: Replayed,
}

/// Figures of a replay.
#[derive(Clone, Copy, Default)]
pub struct Replayed {
    /// Bytes of images in the log.
    pub image_bytes: u64,
    /// Bytes of images before the recovery LSN of the durable state.
    pub settled_image_bytes: u64,
    /// Number of checkpoints.
    pub checkpoints: u64,
}

impl<'a> Replay<'a> {
    /// A replay that begins with `tree`, the tree of a durable state.
    pub fn new(
        tree: Tree,
        pager: &'a Pager,
        doublewrite: &'a DoublewriteArea,
        options: &'a Options,
        guard: &'a SpaceGuard,
    ) -> Replay<'a> {
        let meta = tree.durable;
        let mut replay = Replay {
            tree,
            pager,
            doublewrite,
            options,
            guard,
            lsn: meta.lsn,
            is_whole: false,
            at: LogPoint { lsn: meta.recovery_lsn, image_bytes: 0 },
            is_without_room: false,
            result: Replayed::default(),
        };
        if meta.recovery_lsn < meta.replay_all {
            replay.apply_all();
        }
        replay
    }

    /// Ends the replay: the tree with every batch of the log.
    pub fn end(self) -> (Tree, Replayed) {
        (self.tree, Replayed { image_bytes: self.at.image_bytes, ..self.result })
    }

    /// Takes the next record of the log, which ends at `lsn`.
    pub fn record(&mut self, kind: u8, lsn: Lsn, payload: &Bytes) -> Result<()> {
        match kind {
            // Page images were used before, as far as pages needed repair.
            IMAGE_KIND | BATCH_IMAGE_KIND => {
                self.at.image_bytes += payload.len() as u64 + RECORD_OVERHEAD_BYTES
            }
            FIRST_KIND | ASIDE_KIND => self.batch(kind, lsn, payload)?,
            REMOVAL_KIND if self.tree.is_upper => self.batch(kind, lsn, payload)?,
            _ => return Err(Error::corrupt("log record", lsn.number(), format!("an unknown kind, {kind}"))),
        }
        self.at.lsn = lsn;
        self.relieve()
    }

    fn batch(&mut self, kind: u8, lsn: Lsn, payload: &Bytes) -> Result<()> {
        let batch = if kind == REMOVAL_KIND {
            let (lower_lsn, batch) = removal(lsn, payload)?;
            self.tree.lower_lsn = self.tree.lower_lsn.max(lower_lsn);
            batch
        } else {
            Batch::decode(payload)?
        };
        if lsn <= self.lsn {
            if kind == ASIDE_KIND {
                self.apply_all();
            }
            if !self.is_whole {
                match self.tree.may_have_waited(&batch) {
                    true => self.tree.buffer.add(&batch, self.at),
                    false => batch.operations().iter().for_each(|op| self.tree.buffer.forget(op.key())),
                }
                return Ok(());
            }
        }
        self.apply(batch, kind == REMOVAL_KIND)
    }

    /// Applies every batch from here on, also in an opening that continues from a checkpoint of this replay.
    fn apply_all(&mut self) {
        self.is_whole = true;
        self.tree.replay_all = self.tree.replay_all.max(self.lsn);
    }

    /// Applies a batch. A removal of what lies below as well may be left undone, and is where a page cannot be read.
    fn apply(&mut self, batch: Batch, is_removal: bool) -> Result<()> {
        let deletes = if is_removal { Deletes::Remove } else { self.tree.deletes() };
        let divide = |tree: &mut Tree, batch| match is_removal {
            true => tree.buffer.aside.outside(batch),
            false => tree.buffer.aside.divide(batch),
        };
        let mut batch = divide(&mut self.tree, batch);
        if batch.is_empty() {
            return Ok(());
        }
        if self.tree.suits_buffer(&batch, self.options.torn, self.options.dirty_bytes_max) {
            self.tree.buffer.add(&batch, self.at);
            return Ok(());
        }
        let mut loaded = LoadedPieces::default();
        let mut pins = Pins::default();
        loop {
            match self.tree.plan(self.pager, &loaded, &batch, deletes, &mut pins) {
                Ok(needs) => match self.take_space(needs) {
                    Ok(true) => break,
                    // The pages that were dirty are not pinned.
                    Ok(false) => pins.clear(),
                    // Operations need less space one by one. A checkpoint between them has an LSN before the batch, which is replayed again then.
                    Err(Error::NoSpace) if batch.operations().len() > 1 => {
                        return batch.operations().iter().try_for_each(|operation| {
                            let mut one = Batch::default();
                            match operation {
                                Operation::Put { key, value } => one.put(key.clone(), value.clone()),
                                Operation::Delete { key } => one.delete(key.clone()),
                            }
                            self.apply(one, is_removal)
                        });
                    }
                    Err(error) => return Err(error),
                },
                Err(Stop::Failed(error)) => {
                    let range = |operation: &Operation| {
                        self.tree.unreadable_range(self.pager, &loaded, operation.key())
                    };
                    let range = batch.operations().iter().find_map(range).ok_or(error)?;
                    self.tree.buffer.set_aside(range, self.at);
                    batch = divide(&mut self.tree, batch);
                    pins.clear();
                }
                Err(Stop::Miss(miss)) => match self.pager.read(miss, Purpose::Recovery) {
                    Ok((unit, piece)) => {
                        self.pager.keep(unit, piece.clone());
                        loaded.add(self.tree.epoch, unit, piece);
                    }
                    Err(error) if is_unreadable(&error) => loaded.fail(self.tree.epoch, miss.unit(), error),
                    Err(error) => return Err(error),
                },
            }
        }
        drop(loaded);
        self.tree.apply(&batch, deletes, pins, self.pager);
        Ok(())
    }

    /// Makes space in the file. False if that took a checkpoint, which frees old places: then the plan is not valid any more.
    fn take_space(&mut self, needs: SpaceNeeds) -> Result<bool> {
        self.load_map(|map| needs.wanted(map))?;
        match self.grow_for(needs, preallocated_units(self.guard, self.options, self.tree.space.end())) {
            Err(Error::NoSpace) if self.tree.active_bytes() > 0 && self.checkpoint()? => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Loads groups of the free map.
    fn load_map(&mut self, wanted: impl Fn(&FreeMap) -> Option<GroupRequest>) -> Result<()> {
        // Damage is reported at the end of the replay.
        let (map, tell) = (&mut self.tree.space, |_| {});
        map_pages::load(map, self.pager, Tier::Disk, Purpose::Recovery, wanted, tell)
    }

    /// Grows the file for `needs` if its free units do not suffice, and by `preallocated_units` more if there is room.
    fn grow_for(&mut self, needs: SpaceNeeds, preallocated_units: Units) -> Result<()> {
        if let Some(end) = needs.lacking(&self.tree.space) {
            let end = self.pager.grow(end, preallocated_units)?;
            self.tree.space.set_file_end(end);
        }
        Ok(())
    }

    /// Keeps the memory of replayed batches within the dirty bytes.
    fn relieve(&mut self) -> Result<()> {
        let bytes_max = self.options.dirty_bytes_max;
        let is_too_much = |tree: &Tree| {
            tree.buffer.bytes() > share(bytes_max, SHARE_WAITING)
                || tree.active_bytes() + tree.buffer.bytes() > bytes_max
        };
        if self.is_without_room || self.fills_area() && !self.checkpoint()? || !is_too_much(&self.tree) {
            return Ok(());
        }
        let pages_max = share(bytes_max, SHARE_CHECKPOINT);
        if self.tree.active_bytes() >= pages_max && !self.checkpoint()? || !is_too_much(&self.tree) {
            return Ok(());
        }
        if self.at.lsn < self.lsn {
            self.apply_all();
        }
        self.merge_buffer()
    }

    /// Merges the whole buffer, with checkpoints in between.
    fn merge_buffer(&mut self) -> Result<()> {
        let pages_max = share(self.options.dirty_bytes_max, SHARE_CHECKPOINT);
        while self.merge_some()? {
            let is_due = self.tree.active_bytes() >= pages_max || self.fills_area();
            if is_due && !self.checkpoint()? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Bytes of the doublewrite area that are allocated or kept.
    fn area_bytes(&self) -> u64 {
        let kept_bytes = doublewrite::kept_bytes(self.pager.page_bytes(), self.guard.reserve_bytes());
        self.doublewrite.allocated_bytes().max(kept_bytes)
    }

    /// Whether the disk is so full that copies may find room only in the doublewrite area, and the dirty pages fill their share of that.
    fn fills_area(&self) -> bool {
        let copies_bytes = self.tree.copies_max() * self.pager.page_bytes() as u64;
        copies_bytes > 0 && copies_bytes >= self.area_bytes() / SHARE_AREA && self.is_short()
    }

    /// Whether other programs may have taken space that a batch could count on when it came in.
    fn is_short(&self) -> bool {
        self.guard.free_bytes() < self.guard.reserve_bytes()
    }

    /// Ends the replay on a full disk: everything that was replayed is written.
    pub fn settle(&mut self) -> Result<()> {
        if self.is_without_room || !self.is_short() {
            return Ok(());
        }
        if !self.tree.buffer.is_empty() {
            self.merge_buffer()?;
        }
        if self.tree.active_bytes() > 0 && !self.is_without_room {
            self.checkpoint()?;
        }
        Ok(())
    }

    /// Makes the next step of a buffer merge; false if it was the last one, or the disk has no room for it.
    fn merge_some(&mut self) -> Result<bool> {
        self.tree.buffer.begin_merge(self.at);
        let max = match self.is_short() {
            true => {
                let pages = self.area_bytes() / self.pager.page_bytes() as u64;
                BufferMergeLimit::of_leaves((pages / SHARE_STEP).max(1))
            }
            false => BufferMergeLimit::USUAL,
        };
        let (mut loaded, mut max) = (LoadedPieces::default(), max);
        let smallest = BufferMergeLimit::smallest(self.pager.page_bytes());
        loop {
            let epoch = self.tree.epoch;
            match self.tree.plan_buffer_merge(self.pager, &loaded, max)? {
                BufferMergePlan::Read(miss) => match self.pager.read(miss, Purpose::Recovery) {
                    Ok((unit, piece)) => loaded.add(epoch, unit, piece),
                    Err(error) if is_unreadable(&error) => loaded.fail(epoch, miss.unit(), error),
                    Err(error) => return Err(error),
                },
                BufferMergePlan::SetAside(range) => self.tree.buffer.set_aside(range, self.at),
                BufferMergePlan::ReadLeaves(leaves) => {
                    self.pager.load_leaves(epoch, leaves, Purpose::Recovery, &mut loaded)?;
                }
                BufferMergePlan::Make(step, needs) => match self.take_space(needs) {
                    Ok(true) => {
                        // Nobody else holds the pages then, so a change need not copy them.
                        drop(loaded);
                        return Ok(self.tree.make_buffer_merge_step(step, self.pager));
                    }
                    // A checkpoint has freed old places and changed the tree, so the step is planned again.
                    Ok(false) => {}
                    Err(Error::NoSpace) if max != smallest => max = smallest,
                    Err(Error::NoSpace) => return Ok(self.go_without_room()),
                    Err(error) => return Err(error),
                },
            }
        }
    }

    /// Continues without checkpoints, and reports that once. Returns false.
    fn go_without_room(&mut self) -> bool {
        if !self.is_without_room {
            log::warn!(
                "the disk has no room for a checkpoint while the log is replayed: it is replayed in memory, and may take more than \
                 dirty_max={}",
                self.options.dirty_bytes_max
            );
        }
        self.is_without_room = true;
        false
    }

    /// Makes a checkpoint of what was replayed so far. Returns false and changes nothing if the disk has no room for it.
    fn checkpoint(&mut self) -> Result<bool> {
        let chunk_pages = (WORK_BYTES / self.pager.page_bytes()).max(1);
        let copies = self.tree.copies_max() as usize;
        let copies_bytes = doublewrite::area_bytes(copies, self.pager.page_bytes(), chunk_pages);
        self.load_map(FreeMap::wanted_for_homes)?;
        let room = match self.grow_for(SpaceNeeds::default(), Units::ZERO) {
            Ok(()) if copies_bytes > 0 => self.doublewrite.make_room(copies_bytes),
            other => other,
        };
        match room {
            Err(Error::NoSpace) => return Ok(self.go_without_room()),
            other => other?,
        }
        let mut changes = self.tree.space.freeze();
        // What is compressed is left to the checkpoints of the open store.
        let frozen = self.tree.freeze(self.at, HashMap::default());
        let (fresh, in_place) = frozen.pieces();
        let mut meta = frozen.meta;
        (meta.sequence, meta.images_start) = (self.tree.durable.sequence + 1, meta.lsn);

        let (mut at, classes) = (0, frozen.value_classes());
        while at < fresh.len() {
            let (moved, compressed) = (&frozen.moved, &frozen.compressed);
            at = self.pager.write_pieces(&fresh, at, WORK_BYTES, moved, &classes, compressed)?;
        }
        map_pages::write_some(&mut self.tree.space, self.pager, &mut changes, 0, usize::MAX)?;
        meta.map = MapPlace::Pages(changes.root(&self.tree.space));
        for pages in in_place.chunks(chunk_pages) {
            meta.doublewrite_bytes += self.doublewrite.write(meta.doublewrite_bytes, meta.lsn, pages)?;
            count_doublewrite(self.pager, pages);
        }
        self.pager.sync(Purpose::Checkpoint)?;
        if meta.doublewrite_bytes > 0 {
            self.doublewrite.sync()?;
        }
        self.pager.write_meta(&meta, PageCause::Checkpoint)?;
        self.pager.sync(Purpose::Manifest)?;

        self.tree.commit(meta, &changes);
        map_pages::release_some(&mut self.tree.space, &changes, 0, usize::MAX);
        map_pages::drop_groups(&mut self.tree.space, self.options.common.cache_bytes);
        self.send_home(&in_place)?;
        self.result.settled_image_bytes = frozen.settled_image_bytes;
        self.result.checkpoints += 1;
        // The next batches will need these pages again.
        let pages = fresh.into_iter().filter(|(_, piece)| matches!(piece, Piece::Page(_)));
        pages.for_each(|(unit, page)| self.pager.keep(unit, page));
        in_place.into_iter().for_each(|(number, page)| self.pager.keep(number.unit(), Piece::Page(page)));
        drop(frozen);
        self.tree.thaw();
        Ok(true)
    }

    /// Writes pages whose copies are in the doublewrite area in place, and then the meta page that says so.
    fn send_home(&mut self, in_place: &[(PageNumber, Arc<Page>)]) -> Result<()> {
        if in_place.is_empty() {
            return Ok(());
        }
        let mut at = 0;
        while at < in_place.len() {
            at = self.pager.write_changed(in_place, at, WORK_BYTES)?;
        }
        self.pager.sync(Purpose::Checkpoint)?;
        let settled = self.tree.durable.settled();
        self.pager.write_meta(&settled, PageCause::Checkpoint)?;
        // The next checkpoint overwrites the area.
        self.pager.sync(Purpose::Manifest)?;
        self.tree.durable = settled;
        Ok(())
    }
}
