//! The blocking pool and the retry queue: requests wait here, so that dispatch threads never do.
//!
//! There are as many dispatch threads as cores, so one that sleeps takes a core from the mount. A request whose answer
//! is not in memory goes with its reply to the *blocking pool*: a fixed number of threads that may sleep. A request
//! that the engine refused because of a limit goes to the *retry queue*: one thread keeps them in the order of arrival
//! and tries the first again when the engine's wake signal says that there may be room, or when the time that the engine
//! asked for has passed.
//!
//! # Invariants
//! 1. A request is in at most one of them, and its reply goes with it: it is answered once.
//! 2. The head of the retry queue is tried in [`Tier::Memory`]; if it then needs the disk it moves to the blocking pool, so a slow
//!    disk read never holds up the writers behind it.
//! 3. Both are bounded by what the kernel has outstanding: one request a sleeping program, and its background
//!    limit.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::base::wake::{WakeSignal, WorkClass};
use crate::fs::Tier;

/// Threads that wait for the disk. A modern disk answers this many reads at once about as fast as one.
const DISK_THREADS: usize = 16;
/// A refused request is tried again at the latest after this, whatever the engine asked for.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// A request with its reply, to be tried (again).
pub type DeferredCall = Box<dyn FnOnce(Tier) -> Attempted + Send>;

/// Result of a try.
pub enum Attempted {
    /// The request has its answer, or a sync will give it.
    Answered,
    /// The answer is not in memory.
    Blocks(DeferredCall),
    /// A limit is reached; worth another try after this time or when [`WorkClass::Room`] is signalled.
    Refused(DeferredCall, Duration),
}

struct Retry {
    task: DeferredCall,
    /// Number of times that [`WorkClass::Room`] had been signalled when it was refused.
    seen: u64,
    retry_at: Instant,
}

#[derive(Default)]
struct Queues {
    blocking: VecDeque<DeferredCall>,
    retries: VecDeque<Retry>,
    stopped: bool,
}

struct Shared {
    queues: Mutex<Queues>,
    blocking_wake: Condvar,
    retry_wake: Condvar,
    wake_signal: Arc<WakeSignal>,
}

/// The blocking pool, the retry queue and their threads. Dropping it stops the threads; requests that still wait are answered with EIO.
pub struct Deferred {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

impl Deferred {
    /// Starts the threads; `wake_signal` is the engine's.
    pub fn start(wake_signal: Arc<WakeSignal>) -> io::Result<Deferred> {
        let shared = Arc::new(Shared {
            queues: Mutex::default(),
            blocking_wake: Condvar::new(),
            retry_wake: Condvar::new(),
            wake_signal,
        });
        let mut deferred = Deferred { shared: shared.clone(), threads: Vec::new() };
        for _ in 0..DISK_THREADS {
            let shared = shared.clone();
            let builder = std::thread::Builder::new().name("kvfs-disk".to_string());
            deferred.threads.push(builder.spawn(move || serve_blocking(&shared))?);
        }
        let builder = std::thread::Builder::new().name("kvfs-room".to_string());
        deferred.threads.push(builder.spawn(move || serve_retries(&shared))?);
        Ok(deferred)
    }

    /// Takes what a try left over.
    pub fn defer(&self, attempted: Attempted) {
        self.shared.defer(attempted);
    }
}

impl Drop for Deferred {
    fn drop(&mut self) {
        self.shared.queues.lock().stopped = true;
        self.shared.blocking_wake.notify_all();
        self.shared.retry_wake.notify_all();
        self.shared.wake_signal.notify(WorkClass::Room);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a thread that serves waiting requests panicked");
            }
        }
    }
}

impl Shared {
    fn defer(&self, attempted: Attempted) {
        match attempted {
            Attempted::Answered => {}
            Attempted::Blocks(task) => {
                self.queues.lock().blocking.push_back(task);
                self.blocking_wake.notify_one();
            }
            Attempted::Refused(task, retry_after) => {
                let refused = self.refused(task, retry_after);
                self.queues.lock().retries.push_back(refused);
                self.retry_wake.notify_one();
            }
        }
    }

    fn refused(&self, task: DeferredCall, retry_after: Duration) -> Retry {
        let seen = self.wake_signal.seen(WorkClass::Room);
        Retry { task, seen, retry_at: Instant::now() + retry_after.min(RETRY_MAX) }
    }
}

fn serve_blocking(shared: &Shared) {
    loop {
        let task = {
            let mut queues = shared.queues.lock();
            loop {
                if queues.stopped {
                    return;
                }
                match queues.blocking.pop_front() {
                    Some(task) => break task,
                    None => shared.blocking_wake.wait(&mut queues),
                }
            }
        };
        shared.defer(task(Tier::Disk));
    }
}

fn serve_retries(shared: &Shared) {
    loop {
        let head = {
            let mut queues = shared.queues.lock();
            loop {
                if queues.stopped {
                    return;
                }
                match queues.retries.pop_front() {
                    Some(head) => break head,
                    None => shared.retry_wake.wait(&mut queues),
                }
            }
        };
        let pause = head.retry_at.saturating_duration_since(Instant::now());
        shared.wake_signal.wait(WorkClass::Room, head.seen, pause);
        if shared.queues.lock().stopped {
            return;
        }
        match (head.task)(Tier::Memory) {
            // Still the first in line.
            Attempted::Refused(task, retry_after) => {
                let refused = shared.refused(task, retry_after);
                shared.queues.lock().retries.push_front(refused);
            }
            other => shared.defer(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    /// Refused `refusals` times, then needs the disk if `disk`, then sends its name.
    fn task(name: u32, refusals: u32, disk: bool, done: Sender<(u32, Tier)>) -> DeferredCall {
        Box::new(move |tier| {
            if refusals > 0 {
                return Attempted::Refused(task(name, refusals - 1, disk, done), Duration::from_secs(60));
            }
            if disk && tier == Tier::Memory {
                return Attempted::Blocks(task(name, 0, disk, done));
            }
            done.send((name, tier)).unwrap();
            Attempted::Answered
        })
    }

    #[test]
    fn refused_requests_keep_their_order_and_the_disk_does_not_hold_them_up() {
        let wake_signal = Arc::new(WakeSignal::new());
        let deferred = Deferred::start(wake_signal.clone()).unwrap();
        let (sender, receiver) = channel();
        for name in 0..4 {
            let task = task(name, 1, name == 1, sender.clone());
            deferred.defer(Attempted::Refused(task, Duration::from_secs(60)));
        }
        let begun = Instant::now();
        let mut answers = Vec::new();
        while answers.len() < 4 {
            wake_signal.notify(WorkClass::Room);
            answers.extend(receiver.recv_timeout(Duration::from_millis(5)));
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "the wake signal wakes the queue, not the clock");
        let in_memory: Vec<u32> =
            answers.iter().filter(|(_, tier)| *tier == Tier::Memory).map(|(name, _)| *name).collect();
        assert_eq!(in_memory, [0, 2, 3]);
        assert!(answers.contains(&(1, Tier::Disk)));
    }

    #[test]
    fn a_limit_without_a_signal_is_tried_again_in_time_and_the_rest_is_dropped_at_the_end() {
        let deferred = Deferred::start(Arc::new(WakeSignal::new())).unwrap();
        let (sender, receiver) = channel();
        deferred.defer(Attempted::Refused(task(7, 0, false, sender.clone()), Duration::from_millis(1)));
        assert_eq!(receiver.recv_timeout(Duration::from_secs(5)).unwrap(), (7, Tier::Memory));
        deferred.defer(Attempted::Refused(task(8, 1_000_000, false, sender), Duration::from_secs(60)));
        drop(deferred);
        assert!(receiver.recv().is_err(), "a request that never got room is dropped, and its reply with it");
    }
}
