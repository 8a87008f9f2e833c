//! The signal that wakes background workers and parked requests.
//!
//! A [`WakeSignal`] has one counter for each [`WorkClass`]. Notifying a class raises its counter; waiting returns as soon as
//! the counter differs from the one last seen, or after a timeout. Because the counter is kept, a notification
//! between "look for work" and "wait" is never lost. In simulations nobody waits: the test calls
//! `Engine::work` itself, and a notification is a counter increment without effect.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// A kind of background work, or of waiting for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WorkClass {
    /// Make the log durable for those who wait for it.
    Log,
    /// LSM: write an immutable memtable to level 0. B-tree: checkpoint dirty pages.
    Flush,
    /// LSM: merge sorted runs. B-tree: nothing.
    Merge,
    /// Delete files and blocks that nobody needs any more.
    Reclaim,
    /// Not work: a limit that made `apply` answer `Busy` may have been lifted.
    Room,
}

impl WorkClass {
    /// Every class, in slot order.
    pub const ALL: [WorkClass; 5] =
        [WorkClass::Log, WorkClass::Flush, WorkClass::Merge, WorkClass::Reclaim, WorkClass::Room];
}

/// One condition variable and one counter for each class.
#[derive(Default)]
pub struct WakeSignal {
    slots: [(Mutex<u64>, Condvar); WorkClass::ALL.len()],
}

impl WakeSignal {
    /// A signal that has not been given yet.
    pub fn new() -> WakeSignal {
        WakeSignal::default()
    }

    /// Wakes everyone who waits on `class`.
    pub fn notify(&self, class: WorkClass) {
        let (count, wake) = &self.slots[class as usize];
        *count.lock() += 1;
        wake.notify_all();
    }

    /// Number of times that `class` was notified; pass it to [`WakeSignal::wait`].
    pub fn seen(&self, class: WorkClass) -> u64 {
        *self.slots[class as usize].0.lock()
    }

    /// Waits until `class` has been notified more often than `seen`, or `timeout` has passed. Returns the new count.
    pub fn wait(&self, class: WorkClass, seen: u64, timeout: Duration) -> u64 {
        let (count, wake) = &self.slots[class as usize];
        let mut count = count.lock();
        if *count == seen {
            wake.wait_while_for(&mut count, |count| *count == seen, timeout);
        }
        *count
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_signal_before_the_wait_is_not_lost() {
        let wake_signal = Arc::new(WakeSignal::new());
        let seen = wake_signal.seen(WorkClass::Log);
        wake_signal.notify(WorkClass::Log);
        assert_eq!(wake_signal.wait(WorkClass::Log, seen, Duration::from_secs(60)), seen + 1);
        let other = wake_signal.clone();
        let seen = wake_signal.seen(WorkClass::Flush);
        let waiter = std::thread::spawn(move || other.wait(WorkClass::Flush, seen, Duration::from_secs(60)));
        wake_signal.notify(WorkClass::Flush);
        assert_eq!(waiter.join().unwrap(), seen + 1);
        assert_eq!(wake_signal.wait(WorkClass::Merge, 0, Duration::from_millis(1)), 0);
    }
}
