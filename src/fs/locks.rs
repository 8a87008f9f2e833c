//! Taking locks without sleeping in [`Tier::Memory`], and several inodes without deadlock.
//!
//! Order: the rename mutex, then inodes by ascending number, then the leaves (inode table, names, lease, deferred times,
//! reclaim queue, counters), of which nobody holds two.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard, RwLockWriteGuard};

use super::inodes::{InodeCell, InodeState};
use super::types::Ino;
use super::{Error, Result};
use crate::engine::Tier;

/// The locks that belong to no inode.
#[derive(Default)]
pub(super) struct Locks {
    /// Held by every rename between directories, so that none makes a directory its own ancestor.
    pub renaming: Mutex<()>,
    /// Held by the one thread that does background work.
    pub working: Mutex<()>,
}

/// Longest wait of a call in [`Tier::Memory`] for a lock before it answers `WouldBlock`.
pub(super) const PATIENCE: Duration = Duration::from_micros(100);

/// The answer of a call that would have to wait.
pub(super) fn would_block() -> Error {
    Error::WouldBlock
}

/// Takes a mutex.
pub(super) fn mutex<T>(mutex: &Mutex<T>, tier: Tier) -> Result<MutexGuard<'_, T>> {
    match tier {
        Tier::Memory => mutex.try_lock_for(PATIENCE).ok_or_else(would_block),
        Tier::Disk => Ok(mutex.lock()),
    }
}

/// Inodes that are locked for writing together.
pub(super) struct Locked<'a> {
    guards: Vec<(Ino, RwLockWriteGuard<'a, InodeState>)>,
}

impl<'a> Locked<'a> {
    /// Locks each of `cells` once, in ascending order. `Stale` if one of them is gone.
    pub fn write(cells: &[&'a Arc<InodeCell>], tier: Tier) -> Result<Locked<'a>> {
        let mut sorted: Vec<&'a Arc<InodeCell>> = cells.to_vec();
        sorted.sort_unstable_by_key(|cell| cell.ino);
        sorted.dedup_by_key(|cell| cell.ino);
        let mut guards = Vec::with_capacity(sorted.len());
        for cell in sorted {
            guards.push((cell.ino, cell.write(tier)?));
        }
        Ok(Locked { guards })
    }

    /// The state of one of them.
    pub fn of(&self, ino: Ino) -> &InodeState {
        let found = self.guards.iter().find(|(held, _)| *held == ino);
        &found.expect("asked only for inodes that were given to `write`").1
    }

    /// The state of one of them, to change.
    pub fn of_mut(&mut self, ino: Ino) -> &mut InodeState {
        let found = self.guards.iter_mut().find(|(held, _)| *held == ino);
        &mut found.expect("asked only for inodes that were given to `write`").1
    }
}
