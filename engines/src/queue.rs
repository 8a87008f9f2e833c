//! What waits for an engine: syncs, one for everyone who asks, and commands, one by one. Done by whoever calls [`Queue::work`], which on a mount
//! are the threads of kvfs; no call that puts something here waits.

use std::sync::Arc;
use std::time::Duration;

use kvfs::base::clock::Clock;
use kvfs::engine::{Command, Done, Error, Lsn, Pending, Result, Sync, WakeSignal, WorkClass};
use parking_lot::Mutex;

/// What a queue asks of its engine.
pub trait Durable {
    /// Makes everything applied so far durable.
    fn sync(&self) -> Result<()>;
    /// Whether another sync may be tried after one that failed with `error`, since nothing is lost.
    fn keeps_unsynced(&self, error: &Error) -> bool {
        let _ = error;
        false
    }
    /// Follows a command to its end.
    fn follow(&self, command: Command) -> Result<()>;
}

/// What to do after a sync that failed for want of space, which those who come later are not told again.
const ANEW: &str = "nothing more is taken until the store is mounted anew";

#[derive(Default)]
struct State {
    /// The end of the history.
    applied: Lsn,
    /// Up to where it is durable.
    durable: Lsn,
    /// When the oldest batch was applied that is not durable.
    oldest: Option<Duration>,
    waiters: Vec<(Lsn, Done)>,
    commands: Vec<(Command, Done)>,
    /// After a failed sync nobody knows what the disk holds: no other is tried, and nothing more is taken.
    failed: Option<Error>,
}

impl State {
    /// The error of a sync that failed. That there was no room is told once: room that comes later changes nothing.
    fn failed(&mut self) -> Option<Error> {
        let failed = self.failed.clone()?;
        if matches!(failed, Error::NoSpace) {
            self.failed = Some(Error::io("a sync that found no room", std::io::Error::other(ANEW)));
        }
        Some(failed)
    }
}

/// The queue.
pub struct Queue {
    clock: Arc<dyn Clock>,
    sync: Sync,
    wake_signal: Arc<WakeSignal>,
    state: Mutex<State>,
    /// Held while a sync is under way: who comes meanwhile waits for the next.
    syncing: Mutex<()>,
}

impl Queue {
    /// An empty one; `sync` says when batches become durable unasked.
    pub fn new(clock: Arc<dyn Clock>, sync: Sync) -> Queue {
        Queue { clock, sync, wake_signal: Arc::default(), state: Mutex::default(), syncing: Mutex::default() }
    }

    /// The signal that is given when there is work.
    pub fn wake_signal(&self) -> &Arc<WakeSignal> {
        &self.wake_signal
    }

    /// What is answered to who would change something after a sync that failed: nothing is taken any more.
    pub fn check(&self) -> Result<()> {
        match self.state.lock().failed() {
            None => Ok(()),
            Some(Error::NoSpace) => Err(Error::NoSpace),
            Some(error) => Err(Error::Poisoned(error.to_string())),
        }
    }

    /// Notes a batch of `bytes`, which the engine has taken; its end in the history.
    pub fn applied(&self, bytes: u64) -> Lsn {
        let mut state = self.state.lock();
        if bytes > 0 && state.oldest.is_none() {
            state.oldest = Some(self.clock.elapsed());
        }
        state.applied = state.applied.on_by(bytes);
        state.applied
    }

    /// The end of the history.
    pub fn lsn(&self) -> Lsn {
        self.state.lock().applied
    }

    /// Bytes of batches that are not durable, and the age of the oldest.
    pub fn unsynced(&self) -> (u64, Duration) {
        let state = self.state.lock();
        let age = state.oldest.map_or(Duration::ZERO, |oldest| self.clock.elapsed().saturating_sub(oldest));
        (state.applied.bytes_since(state.durable), age)
    }

    /// Calls `done` once everything up to `lsn` is durable: now, or from [`Queue::work`].
    pub fn sync_to(&self, lsn: Lsn, done: Done) {
        let mut state = self.state.lock();
        let answer = match state.failed() {
            Some(error) => Err(error),
            None if lsn <= state.durable => Ok(()),
            None => {
                state.waiters.push((lsn, done));
                drop(state);
                return self.wake_signal.notify(WorkClass::Log);
            }
        };
        drop(state);
        done(answer);
    }

    /// Has `command` followed by [`Queue::work`], which then calls `done`.
    pub fn run(&self, command: Command, done: Done) {
        self.state.lock().commands.push((command, done));
        self.wake_signal.notify(WorkClass::Flush);
    }

    /// One unit of work: a sync for everyone who waits or for the timer, or a command.
    pub fn work(&self, class: WorkClass, engine: &dyn Durable) -> Result<Pending> {
        match class {
            WorkClass::Log => match self.due() {
                None => self.sync_now(engine).map(|()| Pending::More),
                Some(pending) => Ok(pending),
            },
            WorkClass::Flush => {
                let next = {
                    let mut state = self.state.lock();
                    if state.commands.is_empty() { None } else { Some(state.commands.remove(0)) }
                };
                let Some((command, done)) = next else { return Ok(Pending::Idle) };
                done(engine.follow(command));
                Ok(Pending::More)
            }
            _ => Ok(Pending::Idle),
        }
    }

    /// Until when a sync may wait; `None` if it is due.
    fn due(&self) -> Option<Pending> {
        let state = self.state.lock();
        if !state.waiters.is_empty() {
            return None;
        }
        match (self.sync, state.oldest) {
            _ if state.failed.is_some() => Some(Pending::Idle),
            (Sync::Interval(every), Some(oldest)) => {
                let age = self.clock.elapsed().saturating_sub(oldest);
                (age < every).then(|| Pending::After(every - age))
            }
            // Look again after an interval, so that a batch need not wake anyone.
            (Sync::Interval(every), None) => Some(Pending::After(every)),
            _ => Some(Pending::Idle),
        }
    }

    /// Makes everything applied so far durable, if anything is new, and answers those who wait for it.
    pub fn sync_now(&self, engine: &dyn Durable) -> Result<()> {
        let _one = self.syncing.lock();
        let (target, is_new, oldest, failed) = {
            let mut state = self.state.lock();
            let is_new = state.applied > state.durable;
            // From here on what is applied is younger than this moment.
            let oldest = state.oldest.take();
            let failed = if state.waiters.is_empty() { state.failed.clone() } else { state.failed() };
            (state.applied, is_new, oldest, failed)
        };
        let result = match failed {
            Some(error) => Err(error),
            None if is_new => engine.sync(),
            None => Ok(()),
        };
        let mut ready = Vec::new();
        let mut state = self.state.lock();
        match &result {
            Ok(()) => {
                state.durable = target;
                let all = std::mem::take(&mut state.waiters);
                (ready, state.waiters) = all.into_iter().partition(|(lsn, _)| *lsn <= target);
            }
            Err(error) => {
                if engine.keeps_unsynced(error) {
                    // The next one is due an interval from now, not at once.
                    state.oldest = oldest.map(|_| self.clock.elapsed());
                } else {
                    state.failed.get_or_insert_with(|| error.clone());
                }
                std::mem::swap(&mut ready, &mut state.waiters);
                if !ready.is_empty() {
                    // They are told.
                    state.failed();
                }
            }
        }
        drop(state);
        for (_, done) in ready {
            done(result.clone());
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvfs::base::clock::ManualClock;
    use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

    #[derive(Default)]
    struct Disk {
        syncs: AtomicU64,
        commands: AtomicU64,
        is_broken: bool,
        is_full: bool,
        keeps_unsynced: bool,
    }

    impl Durable for Disk {
        fn sync(&self) -> Result<()> {
            self.syncs.fetch_add(1, Relaxed);
            match (self.is_broken, self.is_full) {
                (true, _) => Err(Error::Invalid("the disk is gone".into())),
                (_, true) => Err(Error::NoSpace),
                _ => Ok(()),
            }
        }
        fn keeps_unsynced(&self, _: &Error) -> bool {
            self.keeps_unsynced
        }
        fn follow(&self, _: Command) -> Result<()> {
            self.commands.fetch_add(1, Relaxed);
            Ok(())
        }
    }

    fn queue(sync: Sync) -> (Queue, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::default());
        (Queue::new(clock.clone(), sync), clock)
    }

    /// Asks for a sync; how often it has been answered, well and badly.
    fn ask(queue: &Queue, lsn: Lsn, answers: &Arc<[AtomicU64; 2]>) {
        let answers = answers.clone();
        queue.sync_to(
            lsn,
            Box::new(move |result| {
                answers[usize::from(result.is_err())].fetch_add(1, Relaxed);
            }),
        );
    }

    fn counts(answers: &Arc<[AtomicU64; 2]>) -> [u64; 2] {
        [answers[0].load(Relaxed), answers[1].load(Relaxed)]
    }

    #[test]
    fn one_sync_answers_everyone_and_none_is_made_for_nothing() {
        let (queue, _) = queue(Sync::Fsync);
        let (disk, answers) = (Disk::default(), Arc::default());
        let seen = queue.wake_signal().seen(WorkClass::Log);
        ask(&queue, queue.lsn(), &answers);
        assert_eq!(
            (counts(&answers), queue.wake_signal().seen(WorkClass::Log)),
            ([1, 0], seen),
            "nothing is new"
        );
        let first = queue.applied(10);
        ask(&queue, first, &answers);
        ask(&queue, queue.applied(5), &answers);
        assert_eq!((counts(&answers), queue.wake_signal().seen(WorkClass::Log)), ([1, 0], seen + 2));
        assert_eq!(queue.work(WorkClass::Log, &disk).unwrap(), Pending::More);
        assert_eq!((counts(&answers), disk.syncs.load(Relaxed)), ([3, 0], 1));
        assert_eq!(queue.work(WorkClass::Log, &disk).unwrap(), Pending::Idle);
        // What is durable already is answered at once, and closing syncs nothing twice.
        ask(&queue, first, &answers);
        queue.sync_now(&disk).unwrap();
        assert_eq!((counts(&answers), disk.syncs.load(Relaxed)), ([4, 0], 1));
    }

    #[test]
    fn the_interval_begins_with_the_oldest_batch_and_ends_with_a_sync() {
        let every = Duration::from_secs(1);
        let (queue, clock) = queue(Sync::Interval(every));
        let disk = Disk::default();
        assert_eq!(queue.work(WorkClass::Log, &disk).unwrap(), Pending::After(every));
        clock.advance(Duration::from_secs(60));
        queue.applied(1);
        clock.advance(Duration::from_millis(400));
        queue.applied(1);
        assert_eq!(queue.work(WorkClass::Log, &disk).unwrap(), Pending::After(Duration::from_millis(600)));
        clock.advance(Duration::from_millis(600));
        assert_eq!(queue.work(WorkClass::Log, &disk).unwrap(), Pending::More);
        assert_eq!(queue.work(WorkClass::Log, &disk).unwrap(), Pending::After(every));
        clock.advance(Duration::from_secs(60));
        assert_eq!(queue.work(WorkClass::Log, &disk).unwrap(), Pending::After(every), "nothing is new");
        assert_eq!(disk.syncs.load(Relaxed), 1);
    }

    #[test]
    fn after_a_failed_sync_nothing_is_tried_again() {
        let (queue, clock) = queue(Sync::Interval(Duration::from_secs(1)));
        let (disk, answers) = (Disk { is_broken: true, ..Disk::default() }, Arc::default());
        ask(&queue, queue.applied(1), &answers);
        assert!(queue.work(WorkClass::Log, &disk).is_err());
        ask(&queue, queue.lsn(), &answers);
        clock.advance(Duration::from_secs(5));
        assert_eq!(queue.work(WorkClass::Log, &disk).unwrap(), Pending::Idle);
        assert!(queue.sync_now(&disk).is_err());
        assert_eq!((counts(&answers), disk.syncs.load(Relaxed)), ([0, 2], 1));
        assert_eq!(queue.check().unwrap_err().to_string(), "the disk is gone");
    }

    #[test]
    fn that_a_sync_found_no_room_is_told_once_to_someone() {
        let full = Disk { is_full: true, ..Disk::default() };
        for asks in [false, true] {
            let (queue, clock) = queue(Sync::Interval(Duration::from_secs(1)));
            let end = queue.applied(1);
            let told = Arc::new(Mutex::new(Vec::new()));
            let sync = || {
                let told = told.clone();
                queue.sync_to(end, Box::new(move |result| told.lock().push(result.unwrap_err())));
            };
            if asks {
                sync();
            }
            clock.advance(Duration::from_secs(2));
            assert!(matches!(queue.work(WorkClass::Log, &full), Err(Error::NoSpace)));
            // The interval found it and nobody waited: the next who comes is told.
            if !asks {
                assert!(matches!(queue.check(), Err(Error::NoSpace)));
            }
            assert!(queue.check().unwrap_err().to_string().contains(ANEW));
            sync();
            let told = told.lock();
            assert!(told.last().unwrap().to_string().contains(ANEW), "{told:?}");
            assert_eq!((told.len(), matches!(told[0], Error::NoSpace)), (1 + usize::from(asks), asks));
        }
    }

    #[test]
    fn a_sync_that_lost_nothing_is_tried_again_an_interval_later() {
        let every = Duration::from_secs(1);
        let (queue, clock) = queue(Sync::Interval(every));
        let full = Disk { is_broken: true, keeps_unsynced: true, ..Disk::default() };
        let answers = Arc::default();
        ask(&queue, queue.applied(7), &answers);
        assert!(queue.work(WorkClass::Log, &full).is_err());
        assert_eq!((counts(&answers), queue.unsynced().0), ([0, 1], 7));
        queue.check().unwrap();
        assert_eq!(queue.work(WorkClass::Log, &full).unwrap(), Pending::After(every));
        clock.advance(every);
        let roomy = Disk::default();
        assert_eq!(queue.work(WorkClass::Log, &roomy).unwrap(), Pending::More);
        assert_eq!((queue.unsynced().0, roomy.syncs.load(Relaxed)), (0, 1));
    }

    #[test]
    fn commands_are_followed_one_by_one_by_who_works() {
        let (queue, _) = queue(Sync::Fsync);
        let (disk, answers) = (Disk::default(), Arc::new([AtomicU64::new(0), AtomicU64::new(0)]));
        for command in [Command::Flush, Command::Compact] {
            let answers = answers.clone();
            queue.run(
                command,
                Box::new(move |result| {
                    answers[usize::from(result.is_err())].fetch_add(1, Relaxed);
                }),
            );
        }
        assert_eq!(disk.commands.load(Relaxed), 0);
        assert_eq!(queue.work(WorkClass::Flush, &disk).unwrap(), Pending::More);
        assert_eq!((counts(&answers), disk.commands.load(Relaxed)), ([1, 0], 1));
        assert_eq!(queue.work(WorkClass::Flush, &disk).unwrap(), Pending::More);
        assert_eq!(queue.work(WorkClass::Flush, &disk).unwrap(), Pending::Idle);
        assert_eq!(queue.work(WorkClass::Merge, &disk).unwrap(), Pending::Idle);
        assert_eq!(counts(&answers), [2, 0]);
    }
}
