//! Where requests wait, so that dispatch threads never do.
//!
//! There are as many dispatch threads as cores, so one that sleeps takes a core from the mount. A request whose answer
//! is not in memory goes with its reply to the *disk* lot, served by a fixed pool of threads that may sleep. A request
//! that the engine refused because of a limit goes to the *room* lot: one thread keeps them in the order of arrival
//! and tries the first again when the engine's wake signal says that there may be room, or when the time that the engine
//! asked for has passed.
//!
//! # Invariants
//! 1. A request is in at most one lot, and its reply goes with it: it is answered once.
//! 2. The head of the room lot is tried in [`Tier::Memory`]; if it then needs the disk it moves to the disk lot, so a slow
//!    disk read never holds up the writers behind it.
//! 3. Both lots are bounded by what the kernel has outstanding: one request a sleeping program, and its background
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
pub type Task = Box<dyn FnOnce(Tier) -> Turn + Send>;

/// What came of a try.
pub enum Turn {
    /// The request has its answer, or a sync will give it.
    Answered,
    /// The answer is not in memory.
    Disk(Task),
    /// A limit is reached; worth another try after this time or when [`WorkClass::Room`] is signalled.
    Room(Task, Duration),
}

struct Refused {
    task: Task,
    /// Rings of [`WorkClass::Room`] when it was refused.
    seen: u64,
    retry_at: Instant,
}

#[derive(Default)]
struct Queues {
    disk: VecDeque<Task>,
    room: VecDeque<Refused>,
    stopped: bool,
}

struct Lots {
    queues: Mutex<Queues>,
    disk_wake: Condvar,
    room_wake: Condvar,
    wake_signal: Arc<WakeSignal>,
}

/// The two lots and their threads. Dropping it stops the threads; requests that still wait are answered with EIO.
pub struct Parking {
    lots: Arc<Lots>,
    threads: Vec<JoinHandle<()>>,
}

impl Parking {
    /// Starts the threads; `wake_signal` is the engine's.
    pub fn start(wake_signal: Arc<WakeSignal>) -> io::Result<Parking> {
        let lots = Arc::new(Lots {
            queues: Mutex::default(),
            disk_wake: Condvar::new(),
            room_wake: Condvar::new(),
            wake_signal,
        });
        let mut parking = Parking { lots: lots.clone(), threads: Vec::new() };
        for _ in 0..DISK_THREADS {
            let lots = lots.clone();
            let builder = std::thread::Builder::new().name("kvfs-disk".to_string());
            parking.threads.push(builder.spawn(move || serve_disk(&lots))?);
        }
        let builder = std::thread::Builder::new().name("kvfs-room".to_string());
        parking.threads.push(builder.spawn(move || serve_room(&lots))?);
        Ok(parking)
    }

    /// Takes what a try left over.
    pub fn park(&self, turn: Turn) {
        self.lots.park(turn);
    }
}

impl Drop for Parking {
    fn drop(&mut self) {
        self.lots.queues.lock().stopped = true;
        self.lots.disk_wake.notify_all();
        self.lots.room_wake.notify_all();
        self.lots.wake_signal.notify(WorkClass::Room);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a thread that serves waiting requests panicked");
            }
        }
    }
}

impl Lots {
    fn park(&self, turn: Turn) {
        match turn {
            Turn::Answered => {}
            Turn::Disk(task) => {
                self.queues.lock().disk.push_back(task);
                self.disk_wake.notify_one();
            }
            Turn::Room(task, retry_after) => {
                let refused = self.refused(task, retry_after);
                self.queues.lock().room.push_back(refused);
                self.room_wake.notify_one();
            }
        }
    }

    fn refused(&self, task: Task, retry_after: Duration) -> Refused {
        let seen = self.wake_signal.seen(WorkClass::Room);
        Refused { task, seen, retry_at: Instant::now() + retry_after.min(RETRY_MAX) }
    }
}

fn serve_disk(lots: &Lots) {
    loop {
        let task = {
            let mut queues = lots.queues.lock();
            loop {
                if queues.stopped {
                    return;
                }
                match queues.disk.pop_front() {
                    Some(task) => break task,
                    None => lots.disk_wake.wait(&mut queues),
                }
            }
        };
        lots.park(task(Tier::Disk));
    }
}

fn serve_room(lots: &Lots) {
    loop {
        let head = {
            let mut queues = lots.queues.lock();
            loop {
                if queues.stopped {
                    return;
                }
                match queues.room.pop_front() {
                    Some(head) => break head,
                    None => lots.room_wake.wait(&mut queues),
                }
            }
        };
        let pause = head.retry_at.saturating_duration_since(Instant::now());
        lots.wake_signal.wait(WorkClass::Room, head.seen, pause);
        if lots.queues.lock().stopped {
            return;
        }
        match (head.task)(Tier::Memory) {
            // Still the first in line.
            Turn::Room(task, retry_after) => {
                let refused = lots.refused(task, retry_after);
                lots.queues.lock().room.push_front(refused);
            }
            other => lots.park(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    /// Refused `refusals` times, then needs the disk if `disk`, then sends its name.
    fn task(name: u32, refusals: u32, disk: bool, done: Sender<(u32, Tier)>) -> Task {
        Box::new(move |tier| {
            if refusals > 0 {
                return Turn::Room(task(name, refusals - 1, disk, done), Duration::from_secs(60));
            }
            if disk && tier == Tier::Memory {
                return Turn::Disk(task(name, 0, disk, done));
            }
            done.send((name, tier)).unwrap();
            Turn::Answered
        })
    }

    #[test]
    fn refused_requests_keep_their_order_and_the_disk_does_not_hold_them_up() {
        let wake_signal = Arc::new(WakeSignal::new());
        let parking = Parking::start(wake_signal.clone()).unwrap();
        let (sender, receiver) = channel();
        for name in 0..4 {
            let task = task(name, 1, name == 1, sender.clone());
            parking.park(Turn::Room(task, Duration::from_secs(60)));
        }
        let begun = Instant::now();
        let mut answers = Vec::new();
        while answers.len() < 4 {
            wake_signal.notify(WorkClass::Room);
            answers.extend(receiver.recv_timeout(Duration::from_millis(5)));
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "the wake_signal wakes the lot, not the clock");
        let in_memory: Vec<u32> =
            answers.iter().filter(|(_, tier)| *tier == Tier::Memory).map(|(name, _)| *name).collect();
        assert_eq!(in_memory, [0, 2, 3]);
        assert!(answers.contains(&(1, Tier::Disk)));
    }

    #[test]
    fn a_limit_without_a_ring_is_tried_again_in_time_and_the_rest_is_dropped_at_the_end() {
        let parking = Parking::start(Arc::new(WakeSignal::new())).unwrap();
        let (sender, receiver) = channel();
        parking.park(Turn::Room(task(7, 0, false, sender.clone()), Duration::from_millis(1)));
        assert_eq!(receiver.recv_timeout(Duration::from_secs(5)).unwrap(), (7, Tier::Memory));
        parking.park(Turn::Room(task(8, 1_000_000, false, sender), Duration::from_secs(60)));
        drop(parking);
        assert!(receiver.recv().is_err(), "a request that never got room is dropped, and its reply with it");
    }
}
