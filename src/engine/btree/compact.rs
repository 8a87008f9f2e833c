//! Compaction: moves what lies at the end of the file into free units before it, while readers and writers go on.
//!
//! 1. *Settle*: a checkpoint, so that everything freed so far can be used.
//! 2. *Move*: leaf by leaf in the order of keys: values, the leaf and the pages above it that lie behind the *limit* (what is in
//!    use, and a little) get new units below it. They become dirty like any change, and checkpoints run whenever much is dirty.
//!    The log learns nothing of it: a crash finds everything at its old place, where it still is.
//! 3. *Finish*: one more checkpoint. It frees the old places, and with them the end of the file, which it cuts off.

use std::time::Duration;

use bytes::Bytes;

use super::page::{Extent, Stored, leaf_cell};
use super::pager::{Loaded, Pager};
use super::tree::{Pins, Stop, Tree};
use super::{BtreeEngine, FIRST_UNIT};
use crate::disk::Purpose;
use crate::engine::{Done, PageCause, Result, Tier};

/// Bytes of values that one step moves at most, beside the last one.
const STEP_BYTES: usize = 1 << 20;

/// What comes next.
enum Stage {
    Settle,
    Choose,
    Move { start: Vec<u8>, limit: u64 },
    Finish,
    End,
}

/// A compaction on its way.
pub struct Compaction {
    stage: Stage,
    waiters: Vec<Done>,
    /// Clock time at which it was begun.
    pub started: Duration,
    /// Where the used part of the file ended then.
    pub end_bytes: u64,
}

/// What [`Tree::move_step`] will move.
struct Step {
    pins: Pins,
    /// Pages on the way with the child taken, root first, without the leaf.
    way: Vec<(u64, usize)>,
    leaf: u64,
    values: Vec<(Bytes, Extent, Bytes)>,
    next: Option<Vec<u8>>,
}

impl Compaction {
    /// One that tells `waiters` when it has ended.
    pub fn new(waiters: Vec<Done>, started: Duration, end_bytes: u64) -> Compaction {
        Compaction { stage: Stage::Settle, waiters, started, end_bytes }
    }

    /// Tells who waits.
    pub fn end(self, result: Result<()>) {
        self.waiters.into_iter().for_each(|done| done(result.clone()));
    }
}

impl BtreeEngine {
    /// Does the next step; false when it has ended. To be called while no checkpoint runs; sets `checkpoint` if one must come
    /// before the next call.
    pub(super) fn compact(&self, compaction: &mut Compaction, checkpoint: &mut bool) -> Result<bool> {
        match &mut compaction.stage {
            Stage::Settle => {
                *checkpoint = self.is_dirty();
                compaction.stage = Stage::Choose;
            }
            Stage::Choose => {
                let used = self.tree.read().space.used_units();
                // Holes that are too small for a page stay free.
                let limit = FIRST_UNIT + used + used / 32 + 16;
                compaction.stage = Stage::Move { start: Vec::new(), limit };
            }
            Stage::Move { .. } if self.is_pressing() => *checkpoint = true,
            Stage::Move { start, limit } => match self.move_some(start, *limit)? {
                Some(next) => *start = next,
                None => compaction.stage = Stage::Finish,
            },
            Stage::Finish => {
                *checkpoint = self.is_dirty();
                compaction.stage = Stage::End;
            }
            Stage::End => return Ok(false),
        }
        Ok(true)
    }

    /// Moves what lies behind `limit` on the way to `start`; returns where to go on.
    fn move_some(&self, start: &[u8], limit: u64) -> Result<Option<Vec<u8>>> {
        let mut loaded = Loaded::default();
        loop {
            let writer = self.lock_writer();
            self.check()?;
            let (epoch, step) = {
                let tree = self.tree.read();
                (tree.epoch, tree.plan_step(&self.pager, &loaded, start, limit))
            };
            match step {
                Ok(step) => {
                    let next = step.next.clone();
                    let moved = self.tree.write().move_step(step, limit, &self.pager);
                    if moved {
                        self.log_touched();
                        self.set_dirty_since();
                    }
                    return Ok(next);
                }
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Miss(miss)) => {
                    drop(writer);
                    self.load(epoch, miss, Tier::Disk, Purpose::Checkpoint, &mut loaded)?;
                }
            }
        }
    }
}

impl Tree {
    fn plan_step(
        &self,
        pager: &Pager,
        loaded: &Loaded,
        start: &[u8],
        limit: u64,
    ) -> std::result::Result<Step, Stop> {
        let (pins, way, values) = (Pins::new(), Vec::new(), Vec::new());
        let mut step = Step { pins, way, leaf: self.root, values, next: None };
        for level in (0..self.height).rev() {
            let page = self.page(pager, loaded, step.leaf, level)?;
            if self.resident(step.leaf, &step.pins).is_none() {
                step.pins.insert(step.leaf, page.clone());
            }
            if level > 0 {
                let index = page.child_index(start);
                if index < page.count() {
                    step.next = Some(page.key(index).to_vec());
                }
                step.way.push((step.leaf, index));
                step.leaf = page.child(index);
                continue;
            }
            let (Ok(first) | Err(first)) = page.search(start);
            let mut bytes = 0;
            for index in first..page.count() {
                if let Stored::Extent(extent) = page.stored(index)
                    && extent.unit.saturating_add(u64::from(extent.units)) > limit
                {
                    if bytes >= STEP_BYTES {
                        step.next = Some(page.key(index).to_vec());
                        break;
                    }
                    bytes += extent.bytes as usize;
                    let value = self.value(pager, loaded, extent)?;
                    step.values.push((Bytes::copy_from_slice(page.key(index)), extent, value));
                }
            }
        }
        Ok(step)
    }

    /// Moves what was planned, as far as there is room below `limit`; whether anything was moved.
    fn move_step(&mut self, step: Step, limit: u64, pager: &Pager) -> bool {
        let Step { mut pins, way, leaf, values, .. } = step;
        if self.height == 0 {
            return false;
        }
        let mut moved = false;
        for (key, old, value) in values {
            let Some(to) = self.space.take_below(u64::from(old.units), limit) else { continue };
            let extent = self.move_value(value, old, to, pager);
            let page = self.page_mut(leaf, PageCause::Compaction, &mut pins, pager);
            if let Ok(index) = page.search(&key) {
                page.replace(index, &leaf_cell(&key, Stored::Extent(extent)));
            }
            moved = true;
        }
        let mut unit = leaf;
        let mut above = way.into_iter().rev();
        loop {
            let parent = above.next();
            if unit + pager.page_units() > limit
                && let Some(to) = self.space.take_below(pager.page_units(), limit)
            {
                self.move_page(unit, to, &mut pins, pager);
                match parent {
                    Some((parent, index)) => {
                        self.page_mut(parent, PageCause::Compaction, &mut pins, pager).set_child(index, to)
                    }
                    None => self.root = to,
                }
                moved = true;
            }
            match parent {
                Some((parent, _)) => unit = parent,
                None => return moved,
            }
        }
    }
}
