//! A store at work: its threads and its `/.stats`.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::below::EngineWitness;
use super::errors::{fs_error, store_error};
use super::fork::Forker;
use super::lock::{CLOSED, CLOSING, LEFT, LOST};
use super::store::Store;
use crate::attribution::{Attribution, Process};
use crate::base::metric::Since;
use crate::base::text::human_size;
use crate::control::metrics::MetricsServer;
use crate::control::{BelowEngine, Control, MountInfo, Sources, StatsSocket, Witnessed};
use crate::disk::{process_io, process_of};
use crate::engine::remote::Site;
use crate::engine::{self, Engine, MeteredEngine, Pending, Worker};
use crate::fs::operation::Op;
use crate::fs::states::States;
use crate::fs::{self, FileSystem, keys};
use crate::store::Error;
use crate::virtual_files::VirtualTree;

/// Longest sleep of the filesystem's thread.
const IDLE: Duration = Duration::from_secs(1);
/// Time that the threads for clients wait for one before they look whether the mount has ended.
const CLIENTS_PAUSE: Duration = Duration::from_millis(200);

/// Tells threads to stop, also while they sleep.
#[derive(Default)]
pub(super) struct Stop {
    stopped: Mutex<bool>,
    wake: Condvar,
}

impl Stop {
    /// Sleeps for `time`, or less if told to stop. Returns whether to go on.
    pub fn sleep(&self, time: Duration) -> bool {
        let mut stopped = self.stopped.lock();
        if !*stopped && !time.is_zero() {
            self.wake.wait_for(&mut stopped, time);
        }
        !*stopped
    }

    /// Tells them.
    pub fn tell(&self) {
        *self.stopped.lock() = true;
        self.wake.notify_all();
    }
}

/// A store with its threads and its `/.stats`, but without a kernel.
pub struct Service {
    pub(super) tree: Arc<VirtualTree>,
    control: Arc<Control>,
    pub(super) attribution: Arc<Attribution>,
    worker: Option<Worker>,
    forker: Arc<Forker>,
    stop: Arc<Stop>,
    threads: Vec<JoinHandle<()>>,
    /// Behind everything that knows its engine: what an engine's files are seen through is in use for as long as that has them open.
    pub(super) store: Store,
}

impl Service {
    /// Starts the threads. `mount_point` is what `/.stats` says.
    pub fn start(store: Store, mount_point: &Path) -> io::Result<Service> {
        let attribution = Arc::<Attribution>::default();
        let forker = Forker::new(&store, mount_point);
        let control = Control::new(parts(&store, mount_point, &attribution, &forker));
        let tree = control.tree();
        // Before any thread starts: binding changes the process's mask for a moment.
        let socket = match store.is_view {
            false => StatsSocket::bind(&store.os, control.clone())
                .inspect_err(|error| log::warn!("no {} in the store: {error}", crate::control::SOCKET_NAME))
                .ok(),
            true => None,
        };
        let metrics = match store.settings.metrics.metrics {
            Some(address) => {
                let named =
                    |error: io::Error| io::Error::new(error.kind(), format!("metrics={address}: {error}"));
                Some(MetricsServer::bind(address, control.clone()).map_err(named)?)
            }
            None => None,
        };
        if let Some(path) = &store.settings.recordings.record {
            let named = |error: fs::Error| io::Error::other(format!("record={}: {error}", path.display()));
            control.record(path, store.settings.recordings.record_keep, false).map_err(named)?;
        }
        // What is not written needs no merges: they would only fill the memory.
        let worker = match store.is_view {
            false => Some(Worker::start(store.engine.clone())?),
            true => None,
        };
        let stop = Arc::new(Stop::default());
        let mut service = Service {
            tree,
            control: control.clone(),
            attribution,
            worker,
            forker,
            stop,
            threads: Vec::new(),
            store,
        };
        let (fs, stop) = (service.store.fs.clone(), service.stop.clone());
        service.spawn("kvfs-fs", move || serve_fs(&fs, &stop))?;
        let stop = service.stop.clone();
        service.spawn("kvfs-control", move || {
            while stop.sleep(Duration::from_secs(1)) {
                control.tick();
            }
        })?;
        if let Some(site) = service.store.site.clone().filter(|_| service.store.states.are_followed()) {
            let (store, stop) = (&service.store, service.stop.clone());
            let (states, engine) = (store.states.clone(), store.engine.clone());
            service.spawn("kvfs-follow", move || follow(&*site, &states, &engine, &stop))?;
        }
        // A thread of its own, so that it sees processes before they end.
        let attribution = service.attribution.clone();
        service.spawn("kvfs-names", move || {
            let identify = |thread| process_of(thread).map(|(pid, command)| Process { pid, command });
            attribution.name_processes(identify);
        })?;
        if let Some(mut metrics) = metrics {
            let stop = service.stop.clone();
            service.spawn("kvfs-metrics", move || {
                while stop.sleep(Duration::ZERO) {
                    metrics.serve(CLIENTS_PAUSE);
                }
            })?;
        }
        if let Some(mut socket) = socket {
            // A thread of its own: a tick may wait for the disk just when somebody wants to know why.
            let stop = service.stop.clone();
            service.spawn("kvfs-socket", move || {
                while stop.sleep(Duration::ZERO) {
                    socket.serve(CLIENTS_PAUSE);
                }
            })?;
        }
        Ok(service)
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.threads.push(std::thread::Builder::new().name(name.to_string()).spawn(run)?);
        Ok(())
    }

    /// The store that is served.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The virtual files.
    pub fn tree(&self) -> &Arc<VirtualTree> {
        &self.tree
    }

    /// Stops the threads and closes the store, in the order that this file's head gives.
    pub fn stop(mut self) -> Result<(), Error> {
        self.store.name_holder(CLOSING);
        self.stop_threads();
        if self.store.is_view {
            return Ok(());
        }
        // Of an engine that holds it in this process alone, what is not synced now is lost if it is not synced by closing.
        let may_lose = !self.store.engine.promise().survives_kill;
        let closed = self.close();
        let debt = self.store.engine.shape().debt;
        let (dirty_bytes, unsynced_bytes) = (debt.dirty_bytes.unwrap_or_default(), debt.unsynced_bytes);
        match &closed {
            Err(error) if may_lose && unsynced_bytes > 0 => {
                log::error!("closed, and what was not synced is lost: {error}");
                self.store.name_holder(&format!("{LOST}{error}"));
            }
            Err(error) => self.leave(&error.to_string()),
            // A mount that changes nothing leaves nothing over: what it found left to do is the next one's.
            Ok(()) if dirty_bytes > 0 && !self.store.settings.fs.read_only => {
                self.leave(&format!(
                    "{} are in the log and not yet in their places",
                    human_size(dirty_bytes)
                ));
            }
            Ok(()) => self.store.name_holder(CLOSED),
        }
        closed
    }

    /// Says what the next mount has to do first.
    fn leave(&self, what: &str) {
        log::warn!("closed, but the next mount has work to do first: {what}");
        self.store.name_holder(&format!("{LEFT}{what}"));
    }

    fn close(&mut self) -> Result<(), Error> {
        let show = self.store.path.display().to_string();
        self.store.fs.close().map_err(|error| fs_error(&show, error, &*self.store.latch))?;
        if let Some(worker) = self.worker.take() {
            worker.stop();
        }
        match self.store.engine.close() {
            // What a mount that changes nothing found left to do is left to the next one.
            Err(engine::Error::NoSpace) if self.store.settings.fs.read_only => Ok(()),
            closed => closed.map_err(|error| store_error(&show, error, &*self.store.latch)),
        }
    }

    fn stop_threads(&mut self) {
        // Mostly nothing is being recorded; whose file takes no more has been told so.
        let _ = self.control.end_recording("the mount ended");
        self.forker.end();
        self.stop.tell();
        self.attribution.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a background thread panicked");
            }
        }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop_threads();
    }
}

/// Shows what another mount has made durable, as often as the store's place asks for it, until told to stop.
fn follow(site: &dyn Site, states: &States, engine: &MeteredEngine, stop: &Stop) {
    let mut last_error = String::new();
    while stop.sleep(site.refresh()) {
        let shown = site.newer().map_err(fs::Error::from).and_then(|newer| {
            let Some(newer) = newer else { return Ok(()) };
            let fs = states.newest().at(engine.beside(newer))?;
            for ino in states.show(fs) {
                log::info!("inode {ino} has been open for so long that it is seen as it is now");
            }
            Ok(())
        });
        match shown {
            Ok(()) => last_error.clear(),
            Err(error) => {
                let text = error.to_string();
                if text != last_error {
                    log::warn!("looking for what is new: {text}");
                }
                last_error = text;
            }
        }
    }
}

/// Does the filesystem's background work until told to stop.
fn serve_fs(fs: &FileSystem, stop: &Stop) {
    Op::Reclaim.begin();
    let mut last_error = String::new();
    let mut pause = Duration::ZERO;
    while stop.sleep(pause) {
        pause = match fs.work() {
            Ok(Pending::More) => Duration::ZERO,
            Ok(Pending::Idle) => IDLE,
            Ok(Pending::After(pause)) => pause.min(IDLE),
            Err(fs::Error::Busy { retry_after, .. }) => retry_after.min(IDLE),
            Err(error) => {
                // One line an error, not one a try.
                let text = error.to_string();
                if text != last_error {
                    log::error!("background work of the filesystem: {text}");
                    last_error = text;
                }
                IDLE
            }
        };
    }
}

/// What the witness below the engine counted.
fn ask(witness: &EngineWitness) -> Witnessed {
    let answer = witness.report();
    // It may have ended while it was asked.
    if let Some(how) = witness.failure() {
        return Witnessed::Ended(how);
    }
    let report = answer.and_then(|text| Ok(serde_json::from_slice(&text)?));
    report.map_or_else(
        |error| {
            log::debug!("the report of the witness below the engine: {error}");
            Witnessed::Silent
        },
        |report| Witnessed::Counted(Box::new(BelowEngine::of_report(&report))),
    )
}

fn parts(store: &Store, mount_point: &Path, attribution: &Arc<Attribution>, forker: &Arc<Forker>) -> Sources {
    let Store { description, settings, disk, latch, engine, fs, states, clock, pool, path, began, .. } =
        store;
    let value = |name: &str| settings.get(name).unwrap_or_default();
    let user = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let usage = {
        let states = states.clone();
        move || states.newest().usage()
    };
    let write_times = {
        let fs = fs.clone();
        move || fs.write_times()
    };
    // The control is known to whoever has a virtual file open; the witness must not live as long.
    let witness = store.witness.as_ref().map(Arc::downgrade);
    let witness = witness.map(|witness| -> Box<dyn Fn() -> Witnessed + Send + Sync> {
        Box::new(move || witness.upgrade().map_or(Witnessed::Silent, |witness| ask(&witness)))
    });
    let pool = pool.clone();
    let began = *began;
    let process = move || Some(process_io().ok()?.since(began.as_ref()?));
    Sources {
        mount: MountInfo {
            version: env!("CARGO_PKG_VERSION").to_string(),
            uuid: description.uuid_text(),
            block_bytes: settings.fs.block_bytes,
            sync: value("sync"),
            writeback_cache: settings.fuse.writeback_cache,
            store_path: path.display().to_string(),
            mount_path: mount_point.display().to_string(),
            pid: std::process::id(),
            owner: user,
            is_read_only: store.is_view || store.settings.fs.read_only,
            promise: engine.promise(),
            config: settings.list().into_iter().map(|it| (it.name.to_string(), it.value)).collect(),
            kind_names: &keys::KIND_NAMES,
        },
        clock: clock.clone(),
        meter: fs.meter().clone(),
        attribution: attribution.clone(),
        engine: engine.clone(),
        disk: disk.clone(),
        engine_directory: store.engine_directory(),
        witness,
        latch: latch.clone(),
        usage: Box::new(usage),
        write_times: Box::new(write_times),
        process: Box::new(process),
        open_files: Box::new(move || pool.open_files()),
        forking: Some(forker.clone()),
    }
}
