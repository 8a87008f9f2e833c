//! What keeps the threads of a replay in step: the turns of writes, how many operations are under way, and which syncs have ended.
//!
//! Writes are done in the order of the recording: each has a number, and waits until it is its turn. Who waits only waits for what stands
//! before it in the recording, which is in the queue of its thread before it, and for calls that are under way in the engine. So nobody
//! waits for ever, unless a thread has failed; then everybody is told.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::Thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// Longest delay until one who waits sees that another has failed.
const LOOK: Duration = Duration::from_millis(50);

#[derive(Default)]
struct Turns {
    /// The number whose turn it is.
    now: u64,
    /// Who waits for which turn.
    waiting: HashMap<u64, Vec<Thread>>,
}

#[derive(Default)]
struct UnderWay {
    operations: u64,
    /// Numbers of the syncs that have ended and that nobody has asked for yet.
    synced: BTreeSet<u64>,
}

/// See the file's head.
#[derive(Default)]
pub struct Flow {
    turns: Mutex<Turns>,
    under_way: Mutex<UnderWay>,
    changed: Condvar,
    has_failed: AtomicBool,
}

impl Flow {
    /// Nobody goes on from here.
    pub fn fail(&self) {
        self.has_failed.store(true, Relaxed);
        self.changed.notify_all();
    }

    /// Whether a thread has failed.
    pub fn has_failed(&self) -> bool {
        self.has_failed.load(Relaxed)
    }

    /// Waits until every write before `number` has had its turn; `false` if a thread has failed.
    pub fn await_turn(&self, number: u64) -> bool {
        loop {
            {
                let mut turns = self.turns.lock();
                if turns.now >= number {
                    return !self.has_failed();
                }
                let waiting = turns.waiting.entry(number).or_default();
                // One that looks again is in the list already.
                if !waiting.iter().any(|thread| thread.id() == std::thread::current().id()) {
                    waiting.push(std::thread::current());
                }
            }
            std::thread::park_timeout(LOOK);
            if self.has_failed() {
                return false;
            }
        }
    }

    /// Ends the turn of the write whose it is.
    pub fn end_turn(&self) {
        let next = {
            let mut turns = self.turns.lock();
            turns.now += 1;
            let now = turns.now;
            turns.waiting.remove(&now)
        };
        next.into_iter().flatten().for_each(|thread| thread.unpark());
    }

    /// Begins an operation once no more than `most` are under way; `false` if a thread has failed.
    pub fn enter(&self, most: u64) -> bool {
        let mut under_way = self.under_way.lock();
        while under_way.operations > most && !self.has_failed() {
            self.changed.wait_for(&mut under_way, LOOK);
        }
        under_way.operations += 1;
        !self.has_failed()
    }

    /// Ends an operation.
    pub fn leave(&self) {
        self.under_way.lock().operations -= 1;
        self.changed.notify_all();
    }

    /// Ends the sync of this number.
    pub fn note_synced(&self, number: u64) {
        self.under_way.lock().synced.insert(number);
        self.changed.notify_all();
    }

    /// Waits until the sync of this number has ended; `false` if a thread has failed.
    pub fn await_synced(&self, number: u64) -> bool {
        let mut under_way = self.under_way.lock();
        while !under_way.synced.remove(&number) {
            if self.has_failed() {
                return false;
            }
            self.changed.wait_for(&mut under_way, LOOK);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn turns_come_in_their_order_whoever_has_them() {
        let (flow, order) = (Flow::default(), Mutex::new(Vec::new()));
        let mut prng = Prng::new(3);
        let mut queues = vec![Vec::new(); 7];
        (0..2000).for_each(|number| queues[prng.below(7) as usize].push(number));
        std::thread::scope(|scope| {
            for queue in queues {
                let (flow, order) = (&flow, &order);
                scope.spawn(move || {
                    for number in queue {
                        assert!(flow.await_turn(number));
                        order.lock().push(number);
                        flow.end_turn();
                    }
                });
            }
        });
        assert_eq!(*order.lock(), (0..2000).collect::<Vec<u64>>());
    }

    #[test]
    fn no_more_are_under_way_than_may_be() {
        let (flow, now, most) = (Flow::default(), AtomicU64::new(0), AtomicU64::new(0));
        std::thread::scope(|scope| {
            for _ in 0..6 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        assert!(flow.enter(1));
                        most.fetch_max(now.fetch_add(1, Relaxed) + 1, Relaxed);
                        std::thread::yield_now();
                        now.fetch_sub(1, Relaxed);
                        flow.leave();
                    }
                });
            }
        });
        assert!(most.load(Relaxed) <= 2);
    }

    #[test]
    fn a_failure_ends_every_wait() {
        let flow = Flow::default();
        flow.enter(0);
        std::thread::scope(|scope| {
            let flow = &flow;
            let threads = [
                scope.spawn(|| flow.await_turn(5)),
                scope.spawn(|| flow.enter(0)),
                scope.spawn(|| flow.await_synced(1)),
            ];
            std::thread::sleep(Duration::from_millis(20));
            flow.note_synced(2);
            flow.fail();
            assert!(threads.into_iter().all(|thread| !thread.join().unwrap()));
        });
        assert!(!flow.await_turn(0));
    }

    #[test]
    fn a_sync_that_has_ended_is_waited_for_no_more() {
        let flow = Flow::default();
        flow.note_synced(4);
        assert!(flow.await_synced(4));
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| flow.await_synced(4));
            flow.note_synced(4);
            assert!(waits.join().unwrap());
        });
    }
}
