//! Sweeps: what waits in the change buffer comes into pages, a few leaves at a time ([`super::buffer`] says why).

use std::sync::Arc;

use parking_lot::Mutex;

use super::bound::Bounds;
use super::buffer::{PAGES_SHARE, share};
use super::core::Core;
use super::source::Loaded;
use super::tree::{StepMax, SweepPlan};
use super::unreadable::Unreadable;
use crate::disk::Purpose;
use crate::engine::{Error, Lsn, Result, Tier};

/// Makes sweeps, and knows what they are for.
pub struct Sweeper {
    core: Arc<Core>,
    bounds: Arc<Bounds>,
    unreadable: Arc<Unreadable>,
    /// Batches up to here come into pages before the next checkpoint that is more than a part of a sweep.
    target: Mutex<Option<Lsn>>,
}

impl Sweeper {
    /// One for `core`; what it cannot read is told to `unreadable`.
    pub fn new(core: Arc<Core>, bounds: Arc<Bounds>, unreadable: Arc<Unreadable>) -> Sweeper {
        Sweeper { core, bounds, unreadable, target: Mutex::new(None) }
    }

    /// Up to where batches shall come into pages, if a sweep is on its way.
    pub fn target(&self) -> Option<Lsn> {
        *self.target.lock()
    }

    /// Everything that waits shall come into pages, even if a sweep for less is on its way.
    pub fn restart(&self) {
        *self.target.lock() = Some(self.core.log.end());
    }

    /// Everything that waits shall come into pages, unless a sweep is on its way.
    pub fn want_all(&self) {
        self.target.lock().get_or_insert_with(|| self.core.log.end());
    }

    /// What waits and is not behind `until` shall come into pages, unless a sweep is on its way.
    pub fn want(&self, until: Lsn) {
        self.target.lock().get_or_insert(until);
    }

    /// A sweep goes on, begins or ends, as it was decided when the target was `seen`. Who has asked for one since then gets it.
    pub fn aim(&self, seen: Option<Lsn>, target: Option<Lsn>) {
        let mut now = self.target.lock();
        if *now == seen {
            *now = target;
        }
    }

    /// Whether a step may make more pages dirty before the next checkpoint.
    pub fn has_room(&self) -> bool {
        let pages_max = share(self.core.options.dirty_bytes_max, PAGES_SHARE);
        let (active_bytes, is_log_near) = {
            let tree = self.core.tree.read();
            (tree.active_bytes(), self.bounds.is_log_near(&tree))
        };
        // Pages that a sweep changes need copies in the log.
        let frees_log = is_log_near && (active_bytes > 0 || self.bounds.is_again_worth_it());
        let lacks_room =
            || active_bytes > 0 && self.bounds.lacks_room_for_copies(self.bounds.sweep_pages_max());
        active_bytes < pages_max && !frees_log && !lacks_room()
    }

    /// The next step of a sweep, which begins here if none is on its way; false if a checkpoint must come first.
    pub fn step(&self) -> Result<bool> {
        match self.make_step() {
            // A checkpoint of what is in pages may free some.
            Err(Error::NoSpace) if self.core.tree.read().active_bytes() > 0 => Ok(false),
            Err(error) => {
                self.core.failure.note(&error, self.core.guard.free_bytes());
                Err(error)
            }
            Ok(()) => {
                self.core.failure.clear();
                Ok(true)
            }
        }
    }

    fn make_step(&self) -> Result<()> {
        let core = &self.core;
        let (mut loaded, mut max) = (Loaded::default(), self.bounds.step_max());
        let smallest = StepMax::smallest(core.pager.page_bytes());
        loop {
            let writer = core.tree.writer();
            core.pager.check()?;
            let now = core.mark();
            core.tree.write().buffer.begin_sweep(now);
            let (epoch, plan) = {
                let tree = core.tree.read();
                (tree.epoch, tree.plan_sweep(&core.pager, &loaded, max)?)
            };
            match plan {
                SweepPlan::Read(miss) => {
                    drop(writer);
                    core.load_if_whole(epoch, miss, Tier::Disk, Purpose::PageWrite, &mut loaded)?;
                }
                SweepPlan::SetAside(part) => self.unreadable.set_aside(part),
                SweepPlan::ReadLeaves(units) => {
                    drop(writer);
                    core.pager.load_leaves(epoch, units, Purpose::PageWrite, &mut loaded)?;
                }
                // What a step may take at most is much for a small disk, and the checkpoint behind it needs room for copies of pages.
                SweepPlan::Make(_, needs) if max != smallest && core.is_large_growth(needs) => max = smallest,
                SweepPlan::Make(step, needs) => {
                    core.take_space(needs, Tier::Disk)?;
                    // Alone with its pages, a change need not copy them.
                    drop(loaded);
                    core.tree.write().make_sweep_step(step, &core.pager);
                    return Ok(());
                }
            }
        }
    }
}
