//! The latches of the tree, with the time that was waited for them.
//!
//! One reader-writer latch covers the pages in memory; it is held for moments and never during a disk request. The writers' mutex
//! lets one batch at a time change the tree.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::tree::Tree;
use crate::base::clock::Clock;

/// Counts waits and their time. What is free at once costs one attempt and no look at the clock.
pub struct WaitMeter {
    clock: Arc<dyn Clock>,
    count: AtomicU64,
    nanos: AtomicU64,
}

impl WaitMeter {
    /// A meter without counts.
    pub fn new(clock: Arc<dyn Clock>) -> WaitMeter {
        WaitMeter { clock, count: AtomicU64::new(0), nanos: AtomicU64::new(0) }
    }

    /// What `attempt` gets, or else what `wait` does, timed.
    pub fn get<G>(&self, attempt: impl FnOnce() -> Option<G>, wait: impl FnOnce() -> G) -> G {
        attempt().unwrap_or_else(|| {
            let started = self.clock.elapsed();
            let guard = wait();
            let waited = self.clock.elapsed().saturating_sub(started);
            self.count.fetch_add(1, Relaxed);
            self.nanos.fetch_add(waited.as_nanos() as u64, Relaxed);
            guard
        })
    }

    /// Waits so far, and the time they took.
    pub fn snapshot(&self) -> (u64, Duration) {
        (self.count.load(Relaxed), Duration::from_nanos(self.nanos.load(Relaxed)))
    }
}

/// The tree behind its latch.
pub struct TreeLatch {
    tree: RwLock<Tree>,
    waits: Arc<WaitMeter>,
}

impl TreeLatch {
    /// The latch of `tree`, counting in `waits`.
    pub fn new(tree: Tree, waits: Arc<WaitMeter>) -> TreeLatch {
        TreeLatch { tree: RwLock::new(tree), waits }
    }

    /// Shared: any number of searches.
    pub fn read(&self) -> RwLockReadGuard<'_, Tree> {
        self.waits.get(|| self.tree.try_read(), || self.tree.read())
    }

    /// Exclusive: a change in memory.
    pub fn write(&self) -> RwLockWriteGuard<'_, Tree> {
        self.waits.get(|| self.tree.try_write(), || self.tree.write())
    }
}
