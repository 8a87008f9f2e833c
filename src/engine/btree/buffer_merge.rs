//! Change-buffer merges: buffered puts are applied to their leaves, a few leaves at a time ([`super::change_buffer`] says why).

use std::sync::Arc;

use parking_lot::Mutex;

use super::bound::Bounds;
use super::change_buffer::{PAGES_SHARE, share};
use super::core::Core;
use super::source::LoadedPieces;
use super::tree::{BufferMergeLimit, BufferMergePlan};
use super::unreadable::UnreadableRanges;
use crate::disk::Purpose;
use crate::engine::{Error, Lsn, Result, Tier};

/// Runs change-buffer merges, and knows what they are for.
pub struct ChangeBufferMerger {
    core: Arc<Core>,
    bounds: Arc<Bounds>,
    unreadable: Arc<UnreadableRanges>,
    /// The running merge applies batches up to this LSN; then a checkpoint follows. `None` if no merge is running.
    target: Mutex<Option<Lsn>>,
}

impl ChangeBufferMerger {
    /// A merger for `core`; it reports what it cannot read to `unreadable`.
    pub fn new(
        core: Arc<Core>,
        bounds: Arc<Bounds>,
        unreadable: Arc<UnreadableRanges>,
    ) -> ChangeBufferMerger {
        ChangeBufferMerger { core, bounds, unreadable, target: Mutex::new(None) }
    }

    /// The LSN up to which the running merge applies batches.
    pub fn target(&self) -> Option<Lsn> {
        *self.target.lock()
    }

    /// Asks for a merge of everything that is buffered, even if a merge for less is running.
    pub fn restart(&self) {
        *self.target.lock() = Some(self.core.log.end());
    }

    /// Asks for a merge of everything that is buffered, unless a merge is running.
    pub fn want_all(&self) {
        self.target.lock().get_or_insert_with(|| self.core.log.end());
    }

    /// Asks for a merge of what is buffered up to `until`, unless a merge is running.
    pub fn want(&self, until: Lsn) {
        self.target.lock().get_or_insert(until);
    }

    /// Sets the target that was decided on when the target was `seen`: a merge continues, begins or ends. A request that came since then
    /// stays.
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
        // The pages that a merge changes need copies in the log.
        let frees_log = is_log_near && (active_bytes > 0 || self.bounds.is_again_worth_it());
        let lacks_room =
            || active_bytes > 0 && self.bounds.lacks_room_for_copies(self.bounds.merge_pages_max());
        active_bytes < pages_max && !frees_log && !lacks_room()
    }

    /// Makes the next step of a merge, and begins one if none is running; false if a checkpoint must come first.
    pub fn step(&self) -> Result<bool> {
        match self.make_step() {
            // A checkpoint of the dirty pages may free some space.
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
        let (mut loaded, mut max) = (LoadedPieces::default(), self.bounds.merge_limit());
        let smallest = BufferMergeLimit::smallest(core.pager.page_bytes());
        loop {
            let writer = core.tree.writer();
            core.pager.check()?;
            let now = core.log_point();
            core.tree.write().buffer.begin_merge(now);
            let (epoch, plan) = {
                let tree = core.tree.read();
                (tree.epoch, tree.plan_buffer_merge(&core.pager, &loaded, max)?)
            };
            match plan {
                BufferMergePlan::Read(miss) => {
                    drop(writer);
                    core.load_if_whole(epoch, miss, Tier::Disk, Purpose::PageWrite, &mut loaded)?;
                }
                BufferMergePlan::SetAside(range) => self.unreadable.set_aside(range),
                BufferMergePlan::ReadLeaves(leaves) => {
                    drop(writer);
                    core.pager.load_leaves(epoch, leaves, Purpose::PageWrite, &mut loaded)?;
                }
                // The upper bound of a step is much for a small disk, and the next checkpoint needs room for copies of pages.
                BufferMergePlan::Make(_, needs) if max != smallest && core.is_large_growth(needs) => {
                    max = smallest
                }
                BufferMergePlan::Make(step, needs) => {
                    core.take_space(needs, Tier::Disk)?;
                    // Nobody else holds the pages then, so a change need not copy them.
                    drop(loaded);
                    core.tree.write().make_buffer_merge_step(step, &core.pager);
                    return Ok(());
                }
            }
        }
    }
}
