//! Times that change alone and are written later: a write inside a file, names in a directory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use super::inodes::{InodeCell, InodeState};
use super::operation::Op;
use super::{FileSystem, Result, keys};
use crate::engine::{Batch, Tier};

/// Longest time that a change of nothing but times stays in memory.
pub(super) const DEFER: Duration = Duration::from_secs(1);
/// Inodes that one unit of background work writes.
const UNIT_INODES: usize = 1000;
/// Inodes whose times wait to be written, oldest first.
#[derive(Default)]
pub(super) struct Deferred {
    queue: Mutex<VecDeque<(Duration, Arc<InodeCell>)>>,
    noted: AtomicU64,
    written: AtomicU64,
}

impl Deferred {
    fn push(&self, since: Duration, cell: Arc<InodeCell>) {
        self.queue.lock().push_back((since, cell));
    }

    fn push_back_to_front(&self, since: Duration, cell: Arc<InodeCell>) {
        self.queue.lock().push_front((since, cell));
    }

    fn pop(&self) -> Option<(Duration, Arc<InodeCell>)> {
        self.queue.lock().pop_front()
    }

    fn noted(&self) {
        self.noted.fetch_add(1, Ordering::Relaxed);
    }

    fn written(&self) {
        self.written.fetch_add(1, Ordering::Relaxed);
    }

    /// Inode puts that deferring saved.
    pub fn absorbed(&self) -> u64 {
        let written = self.written.load(Ordering::Relaxed);
        self.noted.load(Ordering::Relaxed).saturating_sub(written)
    }
}

impl FileSystem {
    /// Lets the times of `cell`, just changed in `state`, wait to be written.
    pub(super) fn defer(&self, cell: &Arc<InodeCell>, state: &mut InodeState) {
        self.deferred.noted();
        if state.deferred.is_none() {
            let now = self.clock.elapsed();
            state.deferred = Some(now);
            self.deferred.push(now, cell.clone());
        }
    }

    /// Writes the record of `cell` if its times were deferred.
    pub(super) fn write_deferred(
        &self,
        cell: &InodeCell,
        state: &mut InodeState,
        op: Op,
        tier: Tier,
    ) -> Result<()> {
        if state.deferred.is_some() {
            let mut batch = Batch::new(op.tag());
            batch.uses_reserve = true;
            batch.put(keys::inode(cell.ino), state.record.encode());
            self.apply(&mut batch, tier)?;
            state.deferred = None;
            self.deferred.written();
        }
        Ok(())
    }

    /// Writes deferred times that are older than `age`, a unit of them. Says how long the next one may still wait; `None` if
    /// there is none.
    pub(super) fn write_deferred_before(&self, age: Duration) -> Result<Option<Duration>> {
        for _ in 0..UNIT_INODES {
            let Some((since, cell)) = self.deferred.pop() else { return Ok(None) };
            let waited = self.clock.elapsed().saturating_sub(since);
            if waited < age {
                self.deferred.push_back_to_front(since, cell);
                return Ok(Some(age - waited));
            }
            let result = match cell.write(Tier::Disk) {
                // Written meanwhile, and perhaps deferred anew: then a later entry stands for it.
                Ok(state) if state.deferred != Some(since) => Ok(()),
                Ok(mut state) => self.write_deferred(&cell, &mut state, Op::Setattr, Tier::Disk),
                Err(_) => Ok(()),
            };
            if let Err(error) = result {
                self.deferred.push_back_to_front(since, cell);
                return Err(error);
            }
        }
        Ok(Some(Duration::ZERO))
    }
}
