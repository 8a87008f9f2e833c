//! The threads behind a mounted engine: each is a loop around [`Engine::work`] for one class.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::{Class, Engine, Pending};

/// How long a thread sleeps at most when nothing rings; bounds how late it sees that it should stop.
const IDLE: Duration = Duration::from_secs(1);
/// How long a class rests after an error before it is tried again.
const AFTER_ERROR: Duration = Duration::from_millis(200);

/// Runs an engine's background work until it is stopped or dropped.
pub struct Worker {
    engine: Arc<dyn Engine>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Worker {
    /// Starts one thread each for log, flush and reclaim work, and `merges` for merges.
    pub fn start(engine: Arc<dyn Engine>, merges: usize) -> std::io::Result<Worker> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut worker = Worker { engine: engine.clone(), stop: stop.clone(), threads: Vec::new() };
        let classes = [Class::Log, Class::Flush, Class::Reclaim].into_iter();
        for class in classes.chain(std::iter::repeat_n(Class::Merge, merges)) {
            let (engine, stop) = (engine.clone(), stop.clone());
            let name = format!("kvfs-{class:?}").to_lowercase();
            let thread =
                std::thread::Builder::new().name(name).spawn(move || serve(&*engine, class, &stop))?;
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
        for class in Class::ALL {
            self.engine.bell().ring(class);
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

fn serve(engine: &dyn Engine, class: Class, stop: &AtomicBool) {
    let bell = engine.bell();
    let mut last_error = String::new();
    while !stop.load(Ordering::Acquire) {
        let seen = bell.seen(class);
        let pause = match engine.work(class) {
            Ok(pending) => {
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
                AFTER_ERROR
            }
        };
        bell.wait(class, seen, pause);
    }
}
