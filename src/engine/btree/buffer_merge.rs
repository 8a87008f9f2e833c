//! Change-buffer merges: what waits in the change buffer comes into pages, a few leaves at a time ([`super::change_buffer`] says why).

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
    /// Batches up to here come into pages before the next checkpoint that is more than a part of a buffer merge.
    target: Mutex<Option<Lsn>>,
}

impl ChangeBufferMerger {
    /// One for `core`; what it cannot read is told to `unreadable`.
    pub fn new(
        core: Arc<Core>,
        bounds: Arc<Bounds>,
        unreadable: Arc<UnreadableRanges>,
    ) -> ChangeBufferMerger {
        ChangeBufferMerger { core, bounds, unreadable, target: Mutex::new(None) }
    }

    /// Up to where batches shall come into pages, if a buffer merge is on its way.
    pub fn target(&self) -> Option<Lsn> {
        *self.target.lock()
    }

    /// Everything that waits shall come into pages, even if a buffer merge for less is on its way.
    pub fn restart(&self) {
        *self.target.lock() = Some(self.core.log.end());
    }

    /// Everything that waits shall come into pages, unless a buffer merge is on its way.
    pub fn want_all(&self) {
        self.target.lock().get_or_insert_with(|| self.core.log.end());
    }

    /// What waits and is not behind `until` shall come into pages, unless a buffer merge is on its way.
    pub fn want(&self, until: Lsn) {
        self.target.lock().get_or_insert(until);
    }

    /// A buffer merge goes on, begins or ends, as it was decided when the target was `seen`. Who has asked for one since then gets it.
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
        // Pages that a buffer merge changes need copies in the log.
        let frees_log = is_log_near && (active_bytes > 0 || self.bounds.is_again_worth_it());
        let lacks_room =
            || active_bytes > 0 && self.bounds.lacks_room_for_copies(self.bounds.merge_pages_max());
        active_bytes < pages_max && !frees_log && !lacks_room()
    }

    /// The next step of a buffer merge, which begins here if none is on its way; false if a checkpoint must come first.
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
                // What a step may take at most is much for a small disk, and the checkpoint behind it needs room for copies of pages.
                BufferMergePlan::Make(_, needs) if max != smallest && core.is_large_growth(needs) => {
                    max = smallest
                }
                BufferMergePlan::Make(step, needs) => {
                    core.take_space(needs, Tier::Disk)?;
                    // Alone with its pages, a change need not copy them.
                    drop(loaded);
                    core.tree.write().make_buffer_merge_step(step, &core.pager);
                    return Ok(());
                }
            }
        }
    }
}
