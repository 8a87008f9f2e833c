//! The write transaction of one inode, the heart of every change: a draft of its record and of its ranges, then one batch, then memory.
//!
//! 1. A call locks the inode and takes a [`Draft`] of its state; what it changes, it changes in the draft and in a batch.
//! 2. [`FileSystem::commit`] adds to the batch what turns the stored state into the draft, and applies it. If the engine refuses, nothing
//!    has happened, and the call can be made again from its start.
//! 3. Then the state in memory, the totals and the queue of deletes become what was stored.

use std::sync::Arc;

use super::counters::Change;
use super::handles::{InodeCell, InodeState};
use super::inode::{HAS_PENDING, Inode};
use super::ranges::Ranges;
use super::{FileSystem, Result, keys};
use crate::engine::{Batch, Tier};

/// A change of one inode in the making; nothing of it shows before [`FileSystem::commit`].
pub(super) struct Draft {
    pub record: Inode,
    /// Ranges of the epoch that the inode *had*; if the draft starts a new one, they are no longer its own.
    pub pending: Ranges,
    /// Growth of the inode's extended attributes, keys and values.
    pub xattr_bytes: i64,
}

impl Draft {
    pub fn of(state: &InodeState) -> Draft {
        Draft { record: state.record.clone(), pending: state.pending.clone(), xattr_bytes: 0 }
    }
}

impl FileSystem {
    /// Applies `batch` with everything that turns the locked `state` of `cell` into `draft`, and then makes it so in
    /// memory. `put` is whether the record must be stored now; if not, only its times may differ, and they wait.
    pub(super) fn commit(
        &self,
        cell: &Arc<InodeCell>,
        state: &mut InodeState,
        mut batch: Batch,
        mut draft: Draft,
        put: bool,
        tier: Tier,
    ) -> Result<()> {
        let epoch = state.record.epoch;
        let kept = draft.record.epoch == epoch;
        draft.pending.write_difference(&state.pending, cell.ino, epoch, &mut batch);
        draft.record.set(HAS_PENDING, kept && !draft.pending.is_empty());
        if put {
            batch.put(keys::inode(cell.ino), draft.record.encode());
        }
        self.apply(&mut batch, tier)?;
        let change = Change::between(&state.record, &draft.record);
        self.counters.add(change.plus(Change::records(draft.xattr_bytes)));
        self.orphans.changed(cell.ino, epoch, &state.pending, &draft.pending);
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
