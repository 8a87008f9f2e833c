//! The latch of the tree and the mutex of its writers, with the time that threads waited for them.
//!
//! One reader-writer latch protects the pages in memory; it is held for moments and never during a disk request. The writers' mutex
//! lets one batch at a time change the tree.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::tree::Tree;
use crate::base::clock::Clock;

/// Counts waits and their time. A lock that is free costs one attempt and no look at the clock.
struct WaitMeter {
    clock: Arc<dyn Clock>,
    count: AtomicU64,
    nanos: AtomicU64,
}

impl WaitMeter {
    /// Takes a lock with `attempt`, or else with `wait`, whose time is counted.
    fn get<G>(&self, attempt: impl FnOnce() -> Option<G>, wait: impl FnOnce() -> G) -> G {
        attempt().unwrap_or_else(|| {
            let started = self.clock.elapsed();
            let guard = wait();
            let waited = self.clock.elapsed().saturating_sub(started);
            self.count.fetch_add(1, Relaxed);
            self.nanos.fetch_add(waited.as_nanos() as u64, Relaxed);
            guard
        })
    }
}

/// The latches that this thread holds, in builds with debug assertions. A thread that takes a latch twice waits for ever if another thread
/// asks for it exclusively in between. That is rare, so no test would notice.
struct Held(#[cfg(debug_assertions)] usize);

#[cfg(debug_assertions)]
thread_local! {
    static HELD: std::cell::RefCell<Vec<usize>> = const { std::cell::RefCell::new(Vec::new()) };
}

#[cfg(debug_assertions)]
impl Held {
    fn note(latch: &TreeLatch) -> Held {
        let place = std::ptr::from_ref(latch).addr();
        HELD.with_borrow_mut(|held| {
            assert!(!held.contains(&place), "a thread asks for the latch of the tree that it has");
            held.push(place);
        });
        Held(place)
    }
}

#[cfg(not(debug_assertions))]
impl Held {
    fn note(_: &TreeLatch) -> Held {
        Held()
    }
}

#[cfg(debug_assertions)]
impl Drop for Held {
    fn drop(&mut self) {
        HELD.with_borrow_mut(|held| held.retain(|place| *place != self.0));
    }
}

/// Shared access to the tree.
pub struct Shared<'a> {
    tree: RwLockReadGuard<'a, Tree>,
    _held: Held,
}

impl Deref for Shared<'_> {
    type Target = Tree;

    fn deref(&self) -> &Tree {
        &self.tree
    }
}

/// Exclusive access to the tree.
pub struct Exclusive<'a> {
    tree: RwLockWriteGuard<'a, Tree>,
    _held: Held,
}

impl Deref for Exclusive<'_> {
    type Target = Tree;

    fn deref(&self) -> &Tree {
        &self.tree
    }
}

impl DerefMut for Exclusive<'_> {
    fn deref_mut(&mut self) -> &mut Tree {
        &mut self.tree
    }
}

/// The tree behind its latch, and the mutex of its writers.
pub struct TreeLatch {
    tree: RwLock<Tree>,
    writer: Mutex<()>,
    waits: WaitMeter,
}

impl TreeLatch {
    /// The latch of `tree`; `clock` times the waits.
    pub fn new(tree: Tree, clock: Arc<dyn Clock>) -> TreeLatch {
        let waits = WaitMeter { clock, count: AtomicU64::new(0), nanos: AtomicU64::new(0) };
        TreeLatch { tree: RwLock::new(tree), writer: Mutex::new(()), waits }
    }

    /// Takes the latch shared; any number of searches may hold it.
    pub fn read(&self) -> Shared<'_> {
        let _held = Held::note(self);
        Shared { tree: self.waits.get(|| self.tree.try_read(), || self.tree.read()), _held }
    }

    /// Takes the latch exclusively, for a change in memory.
    pub fn write(&self) -> Exclusive<'_> {
        let _held = Held::note(self);
        Exclusive { tree: self.waits.get(|| self.tree.try_write(), || self.tree.write()), _held }
    }

    /// Takes the writers' mutex: the right to change the tree. It is taken before the latch.
    pub fn writer(&self) -> MutexGuard<'_, ()> {
        self.waits.get(|| self.writer.try_lock(), || self.writer.lock())
    }

    /// Takes the writers' mutex if it is free within `wait_max`.
    pub fn writer_within(&self, wait_max: Duration) -> Option<MutexGuard<'_, ()>> {
        self.waits.get(|| self.writer.try_lock().map(Some), || self.writer.try_lock_for(wait_max))
    }

    /// Number of waits for latch and mutex so far, and their total time.
    pub fn waits(&self) -> (u64, Duration) {
        (self.waits.count.load(Relaxed), Duration::from_nanos(self.waits.nanos.load(Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::ManualClock;
    use crate::engine::btree::allocation_unit::FIRST_UNIT;
    use crate::engine::btree::freemap::FreeMap;
    use crate::engine::btree::meta::Meta;
    use crate::engine::btree::options::Placement;

    fn latch() -> TreeLatch {
        latch_by(Arc::new(ManualClock::default()))
    }

    fn latch_by(clock: Arc<dyn Clock>) -> TreeLatch {
        let meta = Meta { page_bytes: 4096, end: FIRST_UNIT, ..Meta::default() };
        TreeLatch::new(Tree::new(meta, FreeMap::new(FIRST_UNIT, FIRST_UNIT), Placement::InPlace), clock)
    }

    #[test]
    fn it_is_taken_again_once_it_was_given_back_and_another_one_at_the_same_time() {
        let (latch, other) = (latch(), latch());
        let epoch = latch.read().epoch;
        latch.write().epoch += 1;
        let (shared, there) = (latch.read(), other.read());
        assert_eq!((shared.epoch, there.epoch), (epoch + 1, epoch));
        assert_eq!(latch.waits().0, 0);
    }

    #[test]
    fn who_waits_is_counted_and_timed() {
        let clock = Arc::new(ManualClock::default());
        let latch = latch_by(clock.clone());
        let began = std::time::Instant::now();
        let (mut latch_waits, mut latch_wait_time) = latch.waits();
        for step in 1..=3 {
            std::thread::scope(|scope| {
                let exclusive = latch.write();
                // Nobody can see a thread wait: one that was faster than the other found the latch free, and comes again.
                let (sender, receiver) = std::sync::mpsc::channel();
                let latch = &latch;
                scope.spawn(move || {
                    sender.send(()).unwrap();
                    drop(latch.read());
                });
                receiver.recv().unwrap();
                std::thread::sleep(Duration::from_millis(200));
                clock.advance(Duration::from_secs(step));
                drop(exclusive);
            });
            latch_waits += 1;
            latch_wait_time += Duration::from_secs(step);
            assert_eq!(latch.waits(), (latch_waits, latch_wait_time), "after {:?}", began.elapsed());
        }
    }

    #[test]
    #[should_panic(expected = "the latch of the tree that it has")]
    #[cfg(debug_assertions)]
    fn a_thread_that_asks_for_the_latch_it_has_is_found_although_nobody_waits() {
        let latch = latch();
        let _shared = latch.read();
        drop(latch.read());
    }
}
