//! Compaction: moves what lies at the end of the file into free units before it, while readers and writers go on.
//!
//! 1. *Settle*: a checkpoint, so that everything freed so far can be used.
//! 2. *Move*: leaf by leaf in the order of keys: values, the leaf and the pages above it that lie behind the *limit* (what is in
//!    use, and a thirty-second more) get new units below it. They become dirty like any change, and checkpoints run whenever much is dirty.
//!    The log learns nothing of it: a crash finds everything at its old place, where it still is.
//! 3. *Settle* again. It frees the old places, and with them the end of the file.
//! 4. What found no hole that is long enough needs one made: the emptiest *window* of the file that would hold it is emptied with the
//!    next pass of step 2, and nothing is put into it until the checkpoint behind that. Then it is one hole.
//! 5. When all lies below the limit, or a few passes have not brought that about, the end of the file is cut off.
//!
//! So a file takes what is in use, a thirty-second of it, sixteen units, and what it grows ahead. What cannot be read stays where
//! it is, and is counted.

use std::time::Duration;

use bytes::Bytes;

use super::aside::is_damage;
use super::freemap::Run;
use super::page::{Extent, Stored, leaf_cell};
use super::pager::{Loaded, Pager};
use super::tree::{Needs, Pins, Stop, Tree};
use super::{BtreeEngine, FIRST_UNIT, UNIT_BYTES};
use crate::base::journal::Field;
use crate::disk::Purpose;
use crate::engine::{Done, Error, PageCause, Result, Tier};

/// Bytes of values that one step moves at most, beside the last one.
const STEP_BYTES: usize = 1 << 20;
/// Passes over the tree.
const PASSES_MAX: u32 = 8;
/// A window is at least this long, so that emptying it is worth a pass: 1 MiB.
const WINDOW_UNITS_MIN: u64 = 256;

/// What comes next.
enum Stage {
    Settle,
    Choose,
    Move { start: Vec<u8>, goal: Goal },
    End,
}

/// What a pass is for.
#[derive(Clone, Copy, Debug)]
struct Goal {
    /// Nothing shall lie behind it.
    limit: u64,
    /// Nothing shall lie in it.
    window: Option<Run>,
}

impl Goal {
    /// Whether what lies in `units` from `unit` on must go elsewhere.
    fn moves(&self, unit: u64, units: u64) -> bool {
        let end = unit.saturating_add(units);
        end > self.limit || self.window.is_some_and(|(start, length)| unit < start + length && end > start)
    }
}

/// A compaction on its way.
pub struct Compaction {
    stage: Stage,
    waiters: Vec<Done>,
    started: Duration,
    /// Where the used part of the file ended then, and the bytes of the file.
    end_bytes: u64,
    file_bytes: u64,
    passes: u32,
    /// Whether the last pass moved anything.
    has_moved: bool,
    /// Whether it was to empty a window.
    has_emptied: bool,
    /// Units that the last pass found no place for.
    stuck_units: u64,
    /// Pages and values that could not be read in the last pass.
    unreadable: u64,
}

/// What [`Tree::move_step`] will move.
struct Step {
    pins: Pins,
    /// Pages on the way with the child taken, root first, without the leaf.
    way: Vec<(u64, usize)>,
    leaf: u64,
    values: Vec<(Bytes, Extent, Bytes)>,
    next: Option<Vec<u8>>,
    /// Values that cannot be read.
    unreadable: u64,
}

impl Step {
    /// What it takes at most.
    fn needs(&self, pager: &Pager) -> Needs {
        let values = self.values.iter().map(|(_, extent, _)| u64::from(extent.units));
        let pages = (self.way.len() as u64 + 1) * pager.page_units();
        let piece_units = values.clone().max().unwrap_or(0).max(pager.page_units());
        Needs { units: values.sum::<u64>() + pages, piece_units, pages: 0 }
    }
}

impl Compaction {
    /// One that tells `waiters` when it has ended. The used part of the file ends at `end_bytes`, the file at `file_bytes`.
    pub fn new(waiters: Vec<Done>, started: Duration, end_bytes: u64, file_bytes: u64) -> Compaction {
        Compaction {
            stage: Stage::Settle,
            waiters,
            started,
            end_bytes,
            file_bytes,
            passes: 0,
            has_moved: true,
            has_emptied: false,
            stuck_units: 0,
            unreadable: 0,
        }
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
                self.end_withholding();
                // One moves pages of the free map, too.
                *checkpoint = self.is_dirty() || self.tree.read().space.has_homes_behind();
                compaction.stage = Stage::Choose;
            }
            Stage::Choose => {
                let limit = self.tree.read().space.limit();
                self.load_below(limit)?;
                compaction.stage = self.choose(compaction);
            }
            Stage::Move { .. } if self.is_pressing() => *checkpoint = true,
            // A step changes the pages on one way.
            Stage::Move { .. } if self.lacks_room_for_copies(self.way_pages_max()) => {
                if self.tree.read().active_bytes() == 0 {
                    return Err(Error::NoSpace);
                }
                *checkpoint = true;
            }
            Stage::Move { start, goal } => {
                let (goal, from) = (*goal, std::mem::take(start));
                match self.move_some(&from, goal, compaction)? {
                    Some(next) => compaction.stage = Stage::Move { start: next, goal },
                    None => compaction.stage = Stage::Settle,
                }
            }
            Stage::End => {
                self.cut_tail()?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What to do after a checkpoint: another pass, or the end.
    fn choose(&self, compaction: &mut Compaction) -> Stage {
        let tree = self.tree.read();
        let (used, limit) = (tree.space.used_units(), tree.space.limit());
        if tree.space.end() <= limit || !compaction.has_moved || compaction.passes == PASSES_MAX {
            return Stage::End;
        }
        let window = match compaction.stuck_units {
            0 => None,
            // First to what the last pass made room for.
            _ if compaction.has_emptied => None,
            // A quarter more, since pages and values do not fill it without a rest.
            stuck => {
                let units = (stuck + stuck / 4).max(WINDOW_UNITS_MIN).min(used / 2);
                tree.space.emptiest(units, FIRST_UNIT, limit)
            }
        };
        drop(tree);
        if let Some((_, units)) = window {
            // What lies in it may have to go to the end for a while. Where there is no room, it stays.
            let _writer = self.lock_writer();
            let _ = self.take_end(units);
        }
        compaction.passes += 1;
        (compaction.has_moved, compaction.has_emptied) = (false, window.is_some());
        (compaction.stuck_units, compaction.unreadable) = (0, 0);
        Stage::Move { start: Vec::new(), goal: Goal { limit, window } }
    }

    /// What was withheld can be taken again.
    pub(super) fn end_withholding(&self) {
        // The latch in between, for those who wait for it.
        while self.tree.write().space.end_withholding() {}
    }

    /// Gives what the file has behind its end back to the disk, but for what it grows ahead anyway.
    fn cut_tail(&self) -> Result<()> {
        let _writer = self.lock_writer();
        let (end, tail) = {
            let tree = self.tree.read();
            (tree.space.end(), tree.space.tail_units())
        };
        let ahead = self.ahead_units(end);
        if tail > ahead {
            self.pager.cut(end + ahead)?;
            self.tree.write().space.cut(end + ahead);
        }
        Ok(())
    }

    /// What a compaction that ends now has brought about, for the journal.
    pub(super) fn describe_compaction(&self, compaction: &Compaction) -> Vec<(&'static str, Field)> {
        let took = self.clock.elapsed().saturating_sub(compaction.started);
        let (end, tail, used) = {
            let tree = self.tree.read();
            (tree.space.end(), tree.space.tail_units(), tree.space.used_units())
        };
        let file_bytes = (end + tail) * UNIT_BYTES;
        vec![
            ("reason", "command".into()),
            ("end_bytes_before", compaction.end_bytes.into()),
            ("end_bytes_after", (end * UNIT_BYTES).into()),
            ("file_bytes_before", compaction.file_bytes.into()),
            ("file_bytes_after", file_bytes.into()),
            ("used_bytes", (used * UNIT_BYTES).into()),
            ("unreadable", compaction.unreadable.into()),
            ("passes", u64::from(compaction.passes).into()),
            ("duration_ns", (took.as_nanos() as u64).into()),
        ]
    }

    /// Moves what `goal` says on the way to `start`; returns where to go on.
    fn move_some(&self, start: &[u8], goal: Goal, compaction: &mut Compaction) -> Result<Option<Vec<u8>>> {
        let mut loaded = Loaded::default();
        loop {
            let writer = self.lock_writer();
            self.check()?;
            let (epoch, step) = {
                let tree = self.tree.read();
                (tree.epoch, tree.plan_step(&self.pager, &loaded, start, goal))
            };
            match step {
                Ok(step) => {
                    self.load_room(step.needs(&self.pager), Tier::Disk, Purpose::Checkpoint)?;
                    let next = step.next.clone();
                    compaction.unreadable += step.unreadable;
                    let (moved, stuck_units) = self.tree.write().move_step(step, goal, &self.pager);
                    compaction.stuck_units += stuck_units;
                    if moved {
                        compaction.has_moved = true;
                        self.log_touched();
                        self.set_dirty_since();
                    }
                    return Ok(next);
                }
                Err(Stop::Failed(error)) if is_damage(&error) => {
                    let part = self.tree.read().unreadable_part(&self.pager, &loaded, start).ok_or(error)?;
                    compaction.unreadable += 1;
                    return Ok(part.end);
                }
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Miss(miss)) => {
                    drop(writer);
                    self.load_if_whole(epoch, miss, Tier::Disk, Purpose::Checkpoint, &mut loaded)?;
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
        goal: Goal,
    ) -> std::result::Result<Step, Stop> {
        let (pins, way, values) = (Pins::new(), Vec::new(), Vec::new());
        let mut step = Step { pins, way, leaf: self.root, values, next: None, unreadable: 0 };
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
                    && goal.moves(extent.unit, u64::from(extent.units))
                {
                    if bytes >= STEP_BYTES {
                        step.next = Some(page.key(index).to_vec());
                        break;
                    }
                    let value = match self.value(pager, loaded, extent) {
                        Err(Stop::Failed(_)) => {
                            step.unreadable += 1;
                            continue;
                        }
                        other => other?,
                    };
                    bytes += extent.bytes as usize;
                    step.values.push((Bytes::copy_from_slice(page.key(index)), extent, value));
                }
            }
        }
        Ok(step)
    }

    /// A new place for what lies in `units` from `unit` on; `None` if there is none.
    fn better_place(&mut self, unit: u64, units: u64, goal: Goal) -> Option<u64> {
        if let Some(to) = self.space.take_below(units, goal.limit) {
            return Some(to);
        }
        // What lies behind the limit already gains nothing by another place there.
        if unit.saturating_add(units) > goal.limit {
            return None;
        }
        self.space.take_below(units, u64::MAX).or_else(|| self.space.take_beyond(units))
    }

    /// Moves what was planned, as far as there is room; whether anything was moved, and the units that should have been and were not.
    fn move_step(&mut self, step: Step, goal: Goal, pager: &Pager) -> (bool, u64) {
        let Step { mut pins, way, leaf, values, .. } = step;
        if self.height == 0 {
            return (false, 0);
        }
        if let Some((start, units)) = goal.window {
            // Again, as checkpoints may have freed more of it.
            self.space.withhold(start, start + units);
        }
        let (mut moved, mut stuck_units) = (false, 0);
        for (key, old, value) in values {
            let units = u64::from(old.units);
            let Some(to) = self.better_place(old.unit, units, goal) else {
                stuck_units += units;
                continue;
            };
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
            if goal.moves(unit, pager.page_units()) {
                match self.better_place(unit, pager.page_units(), goal) {
                    Some(to) => {
                        self.move_page(unit, to, &mut pins, pager);
                        match parent {
                            Some((parent, index)) => self
                                .page_mut(parent, PageCause::Compaction, &mut pins, pager)
                                .set_child(index, to),
                            None => self.root = to,
                        }
                        moved = true;
                    }
                    None => stuck_units += pager.page_units(),
                }
            }
            match parent {
                Some((parent, _)) => unit = parent,
                None => return (moved, stuck_units),
            }
        }
    }
}
