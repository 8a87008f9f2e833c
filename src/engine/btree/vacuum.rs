//! Vacuum: makes the file smaller. It moves pages and values from the end of the file into free units before it, while readers and writers
//! continue.
//!
//! 1. *Settle*: a checkpoint, so that all units freed so far can be used.
//! 2. *Move*, leaf by leaf in the order of keys: values, the leaf and the pages above it that lie behind the *limit* (the used units and a
//!    thirty-second more) get new units below it. They become dirty like any other change, and checkpoints run whenever much is dirty.
//!    Moves are not logged: after a crash everything is still in its old place.
//! 3. *Settle* again, which frees the old places, and with them the end of the file.
//! 4. If no hole was long enough for some of them, one is made: the emptiest *window* of the file that would hold them is emptied by the next
//!    pass of step 2, and nothing is put into it until the checkpoint after that. Then it is one hole.
//! 5. When everything lies below the limit, or after a few passes, the end of the file is cut off.
//!
//! So the file has the used units, a thirty-second of them and sixteen units more, and its preallocation. Pages and values that cannot be read
//! stay in place, and are counted.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::allocation_unit::{FIRST_UNIT, UnitNumber, Units};
use super::bound::Bounds;
use super::core::Core;
use super::growth::CUT_UNITS_MIN;
use super::schedule::VacuumNeed;
use super::source::{LoadedPieces, is_unreadable};
use super::tree::{Stop, Tree, VacuumGoal};
use crate::base::event_log::Field;
use crate::disk::Purpose;
use crate::engine::{Done, Error, Result, Tier};

/// Largest number of passes over the tree.
const PASSES_MAX: u32 = 8;
/// Length of the smallest window that is worth a pass: 1 MiB.
const WINDOW_UNITS_MIN: Units = Units::new(256);

/// The next step.
enum VacuumStage {
    /// Wait for a durable state that is newer than `since`: freed units can be used then.
    Settle {
        since: u64,
    },
    Choose,
    Move {
        start: Vec<u8>,
        goal: VacuumGoal,
    },
    End,
}

/// A running vacuum.
struct RunningVacuum {
    stage: VacuumStage,
    waiters: Vec<Done>,
    started: Duration,
    /// The end of the used part of the file at the begin, and the size of the file, in bytes.
    end_bytes: u64,
    file_bytes: u64,
    passes: u32,
    /// Whether the last pass has moved anything.
    has_moved: bool,
    /// Whether the last pass was to empty a window.
    has_emptied: bool,
    /// Units for which the last pass found no place.
    stuck_units: Units,
    /// Whether the next step needs room that a checkpoint may give back.
    lacks_room: bool,
    /// Number of pages and values that could not be read in the last pass.
    unreadable: u64,
}

impl RunningVacuum {
    /// A vacuum of `tree` that calls `waiters` at its end.
    fn new(waiters: Vec<Done>, started: Duration, tree: &Tree) -> RunningVacuum {
        let end = tree.space.end();
        RunningVacuum {
            stage: VacuumStage::Settle { since: tree.durable.sequence },
            waiters,
            started,
            end_bytes: end.offset(),
            file_bytes: (end + tree.space.tail_units()).offset(),
            passes: 0,
            has_moved: true,
            has_emptied: false,
            stuck_units: Units::ZERO,
            lacks_room: false,
            unreadable: 0,
        }
    }

    /// Calls the commands that wait.
    fn end(self, result: Result<()>) {
        self.waiters.into_iter().for_each(|done| done(result.clone()));
    }
}

/// Makes vacuums, one at a time.
pub struct Vacuumer {
    core: Arc<Core>,
    bounds: Arc<Bounds>,
    running: Mutex<Option<RunningVacuum>>,
    /// Commands that wait for the next vacuum.
    asked: Mutex<Vec<Done>>,
    /// The end of the used part after the last vacuum, successful or not, and the number of used units: while they are the same, another one
    /// would gain nothing.
    last: Mutex<Option<(UnitNumber, Units)>>,
}

impl Vacuumer {
    /// A vacuumer for `core`.
    pub fn new(core: Arc<Core>, bounds: Arc<Bounds>) -> Vacuumer {
        Vacuumer { core, bounds, running: Mutex::new(None), asked: Mutex::default(), last: Mutex::new(None) }
    }

    /// Asks for a vacuum; `done` is called at its end.
    pub fn ask(&self, done: Done) {
        self.asked.lock().push(done);
    }

    /// Asks for a vacuum without a command, unless one is running or asked for.
    pub fn ask_unasked(&self) {
        let mut asked = self.asked.lock();
        if asked.is_empty() && self.running.try_lock().is_some_and(|running| running.is_none()) {
            asked.push(Box::new(|result| match result {
                Ok(()) => log::info!("the disk is full, and the file was vacuumed"),
                Err(error) => log::warn!("the disk is full, and the file cannot be vacuumed: {error}"),
            }));
        }
    }

    /// Whether a vacuum is running.
    pub fn is_running(&self) -> bool {
        self.running.lock().is_some()
    }

    /// Whether so much below the end of the file has become free since the last vacuum that another one is worth it.
    pub fn is_worth_it(&self) -> bool {
        let (end, used) = self.extent_of_use();
        let before = self.last.lock().filter(|(last_end, _)| *last_end == end);
        let all = end - UnitNumber::NONE;
        let used_before = before.map_or(all, |(_, used)| used);
        used_before.saturating_sub(used) > (all / 4).max(CUT_UNITS_MIN * 4)
    }

    /// The end of the used part of the file, and the number of used units.
    fn extent_of_use(&self) -> (UnitNumber, Units) {
        let space = &self.core.tree.read().space;
        (space.end(), space.used_units())
    }

    /// The next thing that the vacuum needs. No checkpoint is running.
    pub fn needs(&self) -> VacuumNeed {
        let running = self.running.lock();
        let Some(vacuum) = &*running else {
            return if self.asked.lock().is_empty() { VacuumNeed::Nothing } else { VacuumNeed::Step };
        };
        let needs_checkpoint = match &vacuum.stage {
            VacuumStage::Settle { since } => {
                let tree = self.core.tree.read();
                // A checkpoint also moves pages of the free map.
                tree.durable.sequence == *since
                    && (self.core.is_dirty(&tree) || tree.space.has_homes_behind())
            }
            VacuumStage::Move { .. } => {
                let (is_pressing, is_active) = {
                    let tree = self.core.tree.read();
                    (self.bounds.is_pressing(&tree), tree.active_bytes() > 0)
                };
                is_pressing || is_active && (vacuum.lacks_room || self.lacks_room_for_copies())
            }
            VacuumStage::Choose | VacuumStage::End => false,
        };
        if needs_checkpoint { VacuumNeed::Checkpoint } else { VacuumNeed::Step }
    }

    /// Whether the copies of the pages that a step changes, those on one path, would find no room.
    fn lacks_room_for_copies(&self) -> bool {
        let pages = self.bounds.way_pages_max();
        self.bounds.lacks_room_for_copies(pages)
    }

    /// Makes the next step of the running vacuum, or begins the one that is asked for. A vacuum ends with its first error.
    pub fn step(&self) -> Result<()> {
        let mut running = self.running.lock();
        let Some(mut vacuum) = running.take() else {
            let waiters = std::mem::take(&mut *self.asked.lock());
            let (started, tree) = (self.core.clock.elapsed(), self.core.tree.read());
            *running = Some(RunningVacuum::new(waiters, started, &tree));
            return Ok(());
        };
        let stepped = self.make_step(&mut vacuum);
        if matches!(stepped, Ok(true)) {
            *running = Some(vacuum);
            return Ok(());
        }
        if stepped.is_ok() {
            // The event keeps the name of the command that was there first.
            self.core.record("compact", self.describe(&vacuum));
        }
        self.end_withholding();
        *self.last.lock() = Some(self.extent_of_use());
        let result = stepped.map(drop);
        vacuum.end(result.clone());
        result
    }

    /// Ends the running vacuum, since the store is closed.
    pub fn close(&self) {
        if let Some(vacuum) = self.running.lock().take() {
            self.end_withholding();
            vacuum.end(Err(Error::Invalid("the store was closed before it ended".to_string())));
        }
    }

    /// Makes the next step; false when the vacuum has ended.
    fn make_step(&self, vacuum: &mut RunningVacuum) -> Result<bool> {
        match &mut vacuum.stage {
            VacuumStage::Settle { .. } => vacuum.stage = VacuumStage::Choose,
            VacuumStage::Choose => {
                let limit = self.core.tree.read().space.limit();
                self.core.load_below(limit)?;
                vacuum.stage = self.choose(vacuum);
            }
            VacuumStage::Move { .. } if self.lacks_room_for_copies() => {
                // Otherwise a checkpoint may make room, and is due.
                if self.core.tree.read().active_bytes() == 0 {
                    return Err(Error::NoSpace);
                }
            }
            VacuumStage::Move { start, goal } => {
                let (goal, from) = (*goal, std::mem::take(start));
                vacuum.stage = match self.move_some(&from, goal, vacuum)? {
                    Some(start) => VacuumStage::Move { start, goal },
                    None => {
                        self.end_withholding();
                        VacuumStage::Settle { since: self.core.tree.read().durable.sequence }
                    }
                };
            }
            VacuumStage::End => {
                self.core.cut_tail()?;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Decides what comes after a checkpoint: another pass, or the end.
    fn choose(&self, vacuum: &mut RunningVacuum) -> VacuumStage {
        let tree = self.core.tree.read();
        let (used, limit) = (tree.space.used_units(), tree.space.limit());
        if tree.space.end() <= limit || !vacuum.has_moved || vacuum.passes == PASSES_MAX {
            return VacuumStage::End;
        }
        let window = match vacuum.stuck_units {
            Units::ZERO => None,
            // The last pass has made room; first that is used.
            _ if vacuum.has_emptied => None,
            // A quarter more, since pages and values do not fill the window completely.
            stuck => {
                let units = (stuck + stuck / 4).max(WINDOW_UNITS_MIN).min(used / 2);
                tree.space.emptiest(units, FIRST_UNIT, limit)
            }
        };
        drop(tree);
        if let Some((_, units)) = window {
            // The content of the window may have to move to the end for a while. If there is no room for it, it stays.
            let _writer = self.core.tree.writer();
            let _ = self.core.take_end(units);
        }
        vacuum.passes += 1;
        (vacuum.has_moved, vacuum.has_emptied) = (false, window.is_some());
        (vacuum.stuck_units, vacuum.unreadable) = (Units::ZERO, 0);
        VacuumStage::Move { start: Vec::new(), goal: VacuumGoal { limit, window } }
    }

    /// Ends the withholding of units.
    fn end_withholding(&self) {
        // The latch is released in between for others.
        while self.core.tree.write().space.end_withholding() {}
    }

    /// The result of a vacuum that ends now, for the event log.
    fn describe(&self, vacuum: &RunningVacuum) -> Vec<(&'static str, Field)> {
        let took = self.core.clock.elapsed().saturating_sub(vacuum.started);
        let (end, tail, used) = {
            let tree = self.core.tree.read();
            (tree.space.end(), tree.space.tail_units(), tree.space.used_units())
        };
        vec![
            ("reason", "command".into()),
            ("end_bytes_before", vacuum.end_bytes.into()),
            ("end_bytes_after", end.offset().into()),
            ("file_bytes_before", vacuum.file_bytes.into()),
            ("file_bytes_after", (end + tail).offset().into()),
            ("used_bytes", used.bytes().into()),
            ("unreadable", vacuum.unreadable.into()),
            ("passes", u64::from(vacuum.passes).into()),
            ("duration_ns", (took.as_nanos() as u64).into()),
        ]
    }

    /// Moves pages and values on the path to `start` as `goal` says; returns the key at which to continue.
    fn move_some(
        &self,
        start: &[u8],
        goal: VacuumGoal,
        vacuum: &mut RunningVacuum,
    ) -> Result<Option<Vec<u8>>> {
        let mut loaded = LoadedPieces::default();
        loop {
            let writer = self.core.tree.writer();
            self.core.pager.check()?;
            let (epoch, step) = {
                let tree = self.core.tree.read();
                (tree.epoch, tree.plan_relocation(&self.core.pager, &loaded, start, goal))
            };
            match step {
                Ok(step) => {
                    self.core.load_room(
                        step.needs(self.core.pager.page_units()),
                        Tier::Disk,
                        Purpose::Checkpoint,
                    )?;
                    let next = step.next.clone();
                    let needs = self.core.tree.read().relocation_needs(&step, goal);
                    match self.core.take_space(needs, Tier::Disk) {
                        Err(Error::NoSpace) => {
                            vacuum.lacks_room =
                                !vacuum.lacks_room && self.core.tree.read().active_bytes() > 0;
                            if vacuum.lacks_room {
                                return Ok(Some(start.to_vec()));
                            }
                            vacuum.stuck_units += needs.units;
                            return Ok(next);
                        }
                        taken => taken?,
                    }
                    vacuum.lacks_room = false;
                    vacuum.unreadable += step.unreadable;
                    let (moved, stuck_units) = self.core.tree.write().relocate(step, goal, &self.core.pager);
                    vacuum.stuck_units += stuck_units;
                    if moved {
                        vacuum.has_moved = true;
                        self.core.log_batch_images();
                        self.core.note_change();
                    }
                    return Ok(next);
                }
                Err(Stop::Failed(error)) if is_unreadable(&error) => {
                    let range = self
                        .core
                        .tree
                        .read()
                        .unreadable_range(&self.core.pager, &loaded, start)
                        .ok_or(error)?;
                    vacuum.unreadable += 1;
                    return Ok(range.end);
                }
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Miss(miss)) => {
                    drop(writer);
                    self.core.load_if_whole(epoch, miss, Tier::Disk, Purpose::Checkpoint, &mut loaded)?;
                }
            }
        }
    }
}
