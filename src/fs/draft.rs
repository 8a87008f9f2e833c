//! The write transaction of one inode, the heart of every change: a draft of its record and of its ranges with a batch, then memory.
//!
//! 1. A call locks the inode and begins a [`Draft`] of its state; what it changes, it changes in the draft and in its batch.
//! 2. [`FileSystem::commit`] adds to the batch what turns the stored state into the draft, and applies it. If the engine refuses, nothing
//!    has happened, and the call can be made again from its start.
//! 3. Then the state in memory, the totals and the queue of deletes become what was stored.

use std::sync::Arc;

use super::counters::Change;
use super::inode::{HAS_PENDING, Inode, View};
use super::inodes::{InodeCell, InodeState};
use super::ranges::Ranges;
use super::types::Ino;
use super::{FileSystem, Result, keys};
use crate::engine::{Batch, Tier};

/// A change of one inode in the making; nothing of it shows before [`FileSystem::commit`].
pub(super) struct Draft<'b> {
    /// The batch in which the changes are stored together.
    pub batch: &'b mut Batch,
    pub record: Inode,
    /// Ranges of the epoch that the inode *had*; if the draft starts a new one, they are no longer its own.
    pub pending: Ranges,
    /// Growth of the inode's extended attributes, keys and values.
    pub xattr_bytes: i64,
}

impl<'b> Draft<'b> {
    /// One that changes nothing yet.
    pub fn of(view: View<'_>, batch: &'b mut Batch) -> Draft<'b> {
        Draft { batch, record: view.record.clone(), pending: view.pending.clone(), xattr_bytes: 0 }
    }

    /// The content, including the changes so far.
    pub fn view(&self) -> View<'_> {
        View { record: &self.record, pending: &self.pending }
    }

    /// Adds to the batch what turns the stored `old` into the draft. `put` is whether the record must be stored now; if not, only its
    /// times may differ. Returns whether the inode is in the epoch that it had, so that the ranges are still its own.
    pub fn finish(&mut self, ino: Ino, old: View<'_>, put: bool) -> bool {
        let epoch = old.record.epoch;
        let kept = self.record.epoch == epoch;
        self.pending.write_difference(old.pending, ino, epoch, self.batch);
        self.record.set(HAS_PENDING, kept && !self.pending.is_empty());
        if put {
            self.batch.put(keys::inode(ino), self.record.encode());
        }
        kept
    }
}

impl FileSystem {
    /// Applies the draft's batch with everything that turns the locked `state` of `cell` into `draft`, and then makes it so in
    /// memory. `put` is whether the record must be stored now; if not, only its times may differ, and they wait.
    pub(super) fn commit(
        &self,
        cell: &Arc<InodeCell>,
        state: &mut InodeState,
        mut draft: Draft<'_>,
        put: bool,
        tier: Tier,
    ) -> Result<()> {
        let kept = draft.finish(cell.ino, state.view(), put);
        self.apply(draft.batch, tier)?;
        let change = Change::between(&state.record, &draft.record);
        self.counters.add(change.plus(Change::records(draft.xattr_bytes)));
        self.orphans.changed(cell.ino, state.record.epoch, &state.pending, &draft.pending);
        state.record = draft.record;
        state.pending = if kept { draft.pending } else { Ranges::default() };
        if put {
            state.deferred = None;
        } else {
            self.defer(cell, state);
        }
        Ok(())
    }
}
