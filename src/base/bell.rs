//! Wakes background workers and parked requests.
//!
//! A [`Bell`] has one counter a [`Class`]. Ringing a class raises its counter; waiting returns as soon as
//! the counter differs from the one last seen, or after a timeout. Because the counter is kept, a ring
//! between "look for work" and "wait" is never lost. In simulations nobody waits: the test calls
//! `Engine::work` itself, and ringing is a counter increment without effect.

use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// A kind of background work, or of waiting for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
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

impl Class {
    /// Every class, in slot order.
    pub const ALL: [Class; 5] = [Class::Log, Class::Flush, Class::Merge, Class::Reclaim, Class::Room];
}

/// One condition variable and ring counter a class.
#[derive(Default)]
pub struct Bell {
    slots: [(Mutex<u64>, Condvar); Class::ALL.len()],
}

impl Bell {
    /// A bell that nobody has rung yet.
    pub fn new() -> Bell {
        Bell::default()
    }

    /// Wakes everyone who waits on `class`.
    pub fn ring(&self, class: Class) {
        let (count, wake) = &self.slots[class as usize];
        *count.lock() += 1;
        wake.notify_all();
    }

    /// How often `class` has been rung; pass it to [`Bell::wait`].
    pub fn seen(&self, class: Class) -> u64 {
        *self.slots[class as usize].0.lock()
    }

    /// Waits until `class` has been rung more often than `seen`, or `timeout` has passed. Returns the new count.
    pub fn wait(&self, class: Class, seen: u64, timeout: Duration) -> u64 {
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
    fn a_ring_before_the_wait_is_not_lost() {
        let bell = Arc::new(Bell::new());
        let seen = bell.seen(Class::Log);
        bell.ring(Class::Log);
        assert_eq!(bell.wait(Class::Log, seen, Duration::from_secs(60)), seen + 1);
        let other = bell.clone();
        let seen = bell.seen(Class::Flush);
        let waiter = std::thread::spawn(move || other.wait(Class::Flush, seen, Duration::from_secs(60)));
        bell.ring(Class::Flush);
        assert_eq!(waiter.join().unwrap(), seen + 1);
        assert_eq!(bell.wait(Class::Merge, 0, Duration::from_millis(1)), 0);
    }
}
