//! The threads behind a mounted engine: each is a loop around [`Engine::work`] for one class.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Engine, Error, Pending, WakeSignal, WorkClass};

/// Longest sleep of a thread when nothing is signalled; bounds how late it sees that it should stop.
const IDLE: Duration = Duration::from_secs(1);
/// Rest of a class after its first error; each further error in a row doubles it.
const AFTER_ERROR: Duration = Duration::from_millis(200);
/// Longest rest.
const AFTER_ERROR_MAX: Duration = Duration::from_secs(60);

/// Runs an engine's background work until it is stopped or dropped.
pub struct Worker {
    engine: Arc<dyn Engine>,
    stop: Arc<AtomicBool>,
    /// Given only when the work is to stop: what rests after an error is woken by nothing else.
    end: Arc<WakeSignal>,
    threads: Vec<JoinHandle<()>>,
}

impl Worker {
    /// Starts as many threads for each class of work as the engine has use for.
    pub fn start(engine: Arc<dyn Engine>) -> std::io::Result<Worker> {
        let stop = Arc::new(AtomicBool::new(false));
        let end = Arc::new(WakeSignal::new());
        let mut worker =
            Worker { engine: engine.clone(), stop: stop.clone(), end: end.clone(), threads: Vec::new() };
        let threads = |class| engine.background().map_or(0, |background| background.threads(class));
        let classes = [WorkClass::Log, WorkClass::Flush, WorkClass::Merge, WorkClass::Reclaim];
        for class in classes.into_iter().flat_map(|class| std::iter::repeat_n(class, threads(class))) {
            let (engine, stop, end) = (engine.clone(), stop.clone(), end.clone());
            let name = format!("kvfs-{class:?}").to_lowercase();
            let thread =
                std::thread::Builder::new().name(name).spawn(move || serve(&*engine, class, &stop, &end))?;
            worker.threads.push(thread);
        }
        Ok(worker)
    }

    /// Lets every thread finish its unit of work and waits for it.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Release);
        for class in WorkClass::ALL {
            self.engine.wake_signal().notify(class);
            self.end.notify(class);
        }
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a background thread panicked");
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end();
    }
}

fn serve(engine: &dyn Engine, class: WorkClass, stop: &AtomicBool, end: &WakeSignal) {
    let wake_signal = engine.wake_signal();
    let mut failures = 0;
    let mut last_error = String::new();
    while !stop.load(Ordering::Acquire) {
        let seen = wake_signal.seen(class);
        let pause = match engine.work(class) {
            Ok(pending) => {
                failures = 0;
                last_error.clear();
                match pending {
                    Pending::More => continue,
                    Pending::Idle => IDLE,
                    Pending::After(pause) => pause.min(IDLE),
                }
            }
            Err(error) => {
                // One line an error, not one a try.
                let text = error.to_string();
                if text != last_error {
                    log::error!("background work ({class:?}): {text}");
                    last_error = text;
                }
                if matches!(error, Error::NoSpace) {
                    // Space may come back at any moment, and then the class is signalled.
                    AFTER_ERROR
                } else {
                    end.wait(class, 0, after_error(failures));
                    failures += 1;
                    continue;
                }
            }
        };
        wake_signal.wait(class, seen, pause);
    }
}

/// Rest after an error that follows `failures` others in a row: what fails again and again may have read and
/// written much each time.
fn after_error(failures: u32) -> Duration {
    AFTER_ERROR.saturating_mul(1 << failures.min(16)).min(AFTER_ERROR_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::ManualClock;
    use crate::disk::{Fault, Faulty, Purpose, Request, SimDisk};
    use crate::engine::{Batch, Tier, lsm};

    #[test]
    fn what_fails_is_tried_less_and_less_often() {
        let pauses: Vec<u64> = (0..12).map(|failures| after_error(failures).as_millis() as u64).collect();
        assert_eq!(pauses[..4], [200, 400, 800, 1600]);
        assert_eq!(pauses[9..], [60_000; 3]);

        // Also while it is signalled all the time.
        let disk = Faulty::new(SimDisk::new());
        let options = lsm::Options { l0_trigger: 2, ..lsm::Options::tiny() };
        let engine = lsm::open(disk.clone(), Arc::new(ManualClock::default()), &options).unwrap();
        for number in 0..60u8 {
            let mut batch = Batch::new(0);
            batch.put(vec![number % 7], vec![number; 200]);
            if engine.apply(&batch, Tier::Disk).is_err() {
                break;
            }
            while engine.work(WorkClass::Flush).unwrap() == Pending::More {}
        }
        assert!(engine.shape().debt.l0_files >= 2);
        for _ in 0..10_000 {
            let (kind, purpose) = (Some(Request::Write), Some(Purpose::Compact { into: 1 }));
            disk.inject(Fault::Fail { kind, purpose, nth: 0, errno: libc::EIO });
        }
        let worker = Worker::start(engine.clone()).unwrap();
        for _ in 0..500 {
            engine.wake_signal().notify(WorkClass::Merge);
            std::thread::sleep(Duration::from_millis(3));
        }
        worker.stop();
        // At 0, 0.2, 0.6 and 1.4 seconds; however long the machine takes for it.
        assert!((1..30).contains(&disk.hits()), "{}", disk.hits());
    }
}
