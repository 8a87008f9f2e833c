//! The composition root: disk → engine → filesystem → kernel. The only file that names every concrete part.
//!
//! ```text
//! OsDisk ← Pool ← Stock ← Metered (door 3) ← Latch ← engine ← MeteredEngine (door 2) ← FileSystem (door 1) ← Adapter ← kernel
//!                       └───────────────┴────────────────┴──────────────────────┴── Control ← VirtualTree (/.stats)
//! ```
//!
//! Threads beside the kernel's: the engine's [`Worker`], one for the filesystem's own background work, and one that gives
//! the control room its second.
//!
//! # Order at the end
//! The kernel is gone → the filesystem's thread stops → `fs.close` → the worker stops → `engine.close` → a last line in
//! the log. Where the end was forced, requests may still come in, so everything is synced and nothing closed: the next
//! mount recovers, which loses nothing.

mod check;
mod closing;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

pub use check::{Findings, check, repair};
use closing::pid_in;
pub use closing::{Closed, Closing};

use crate::attribution::{Attribution, Process};
use crate::base::clock::{Clock, SystemClock};
use crate::base::metric::Since;
use crate::base::text::human_size;
use crate::control::metrics::MetricsServer;
use crate::control::{Control, MountInfo, Parts, StatsSocket};
use crate::disk::{
    Access, Disk, InUse, Latch, LogFile, Metered, Opening, OsDisk, Overlay, Pool, ProcessIo, Stock,
    process_io, process_of,
};
use crate::engine::{self, Engine, Home, MeteredEngine, Pending, Tier, Worker};
use crate::fs::types::{Caller, ROOT, SetAttributes};
use crate::fs::{self, FileSystem, Identity, keys};
use crate::fuse::session::{self, End, MountFlags};
use crate::fuse::table;
use crate::fuse::{Adapter, Durability, Options as FuseOptions};
use crate::repair;
use crate::store::{Description, Error, Given, Place, Settings, Terms};
use crate::virtual_files::VirtualTree;

/// How long a mount waits for a store that its last user seems to hold for good.
const BUSY_WAIT: Duration = Duration::from_secs(2);
/// How long it waits for one whose last user is closing it.
const CLOSING_WAIT: Duration = Duration::from_secs(120);
/// Where an engine keeps its files that reads and writes them in ways of its own.
const ENGINE_DIRECTORY: &str = "engine";
/// What a holder writes into the lock while it closes the store.
const CLOSING: &str = "closing the store";
/// What it writes there at the end.
const CLOSED: &str = "closed";
/// What it writes there instead if the next mount has to do something first.
const LEFT: &str = "left work behind: ";
/// Which parts of the cache a view may take for what its recovery changes: the first one that is enough.
const VIEW_SHARES: [u64; 2] = [16, 2];
/// How long the filesystem's thread sleeps at most.
const IDLE: Duration = Duration::from_secs(1);
/// How long the threads for clients wait for one before they look whether the mount has ended.
const CLIENTS_PAUSE: Duration = Duration::from_millis(200);

/// An open store: every part up to the filesystem, no thread, no kernel.
pub struct Store {
    /// What it says about itself.
    pub description: Description,
    /// The settings in effect.
    pub settings: Settings,
    /// Door 3.
    pub disk: Arc<Metered>,
    /// Closes when a sync fails.
    pub latch: Arc<Latch>,
    /// Door 2.
    pub engine: Arc<MeteredEngine>,
    /// Door 1.
    pub fs: Arc<FileSystem>,
    clock: Arc<dyn Clock>,
    os: Arc<OsDisk>,
    pool: Arc<Pool>,
    path: PathBuf,
    /// Nothing below changes: what a recovery changes stays in memory, and no work is done.
    is_view: bool,
    /// What the kernel had counted of this process before the store was opened.
    began: Option<ProcessIo>,
}

/// Makes a store in `path`, which must be missing or empty. It is durable when this returns.
pub fn make_store(path: &Path, given: &Given, terms: Terms) -> Result<(), Error> {
    if terms.look(path)? == Place::Store {
        return Err(Error::usage(format!("{} already holds a store", path.display())));
    }
    let store = open_store(path, given, terms)?;
    store.close()
}

/// Opens the store in `path`; a missing or empty directory becomes a store with the `given` options, if `terms` let it. What is made
/// is durable when this returns.
///
/// For a read-only mount nothing below changes: a store that was not closed is recovered over a view in memory. Where that would take
/// more than half of the cache, it is recovered in place, as for a mount that writes; on a disk that cannot be written it is refused.
pub fn open_store(path: &Path, given: &Given, terms: Terms) -> Result<Store, Error> {
    let show = path.display();
    // Options are looked at before anything is made.
    let is_read_only = Description::new(given)?.settings(given)?.fs.read_only;
    let place = terms.look(path)?;
    if is_read_only && place != Place::Store {
        return Err(Error::usage(format!("{show} holds no store, and read-only none is made")));
    }
    let lock_for = |access| lock(path, Opening { access, any_owner: terms.any_owner });
    if is_read_only {
        let os = lock_for(Access::Read).map_err(|error| Error::system(&show, error))?;
        if let Some(store) = open_view(path, os, given)? {
            return Ok(store);
        }
    }
    match lock_for(Access::Write) {
        Ok(os) => {
            // Someone may have made a store while we waited for the lock.
            let place = terms.look(path)?;
            open_in_place(path, os, place, given)
        }
        Err(error) if error.kind() == io::ErrorKind::ReadOnlyFilesystem && place == Place::Store => {
            let way_out = match is_read_only {
                false => "mount with -o ro",
                true => {
                    "what its recovery changes does not fit into half of the cache: give a larger cache= or memory="
                }
            };
            Err(Error::refused(format!("{show}: the disk below is read-only; {way_out}")))
        }
        Err(error) => Err(Error::system(&show, error)),
    }
}

/// The parts of a store below the engine.
struct Below {
    disk: Arc<Metered>,
    latch: Arc<Latch>,
    stock: Arc<Stock>,
    pool: Arc<Pool>,
    /// What the kernel had counted of this process before.
    began: Option<ProcessIo>,
}

impl Below {
    fn new(path: &Path, os: &Arc<OsDisk>) -> Result<Below, Error> {
        let began = process_io().ok();
        if repair::is_pending(&**os)? {
            return Err(Error::damaged(format!("{}: {}", path.display(), repair::PENDING)));
        }
        let pool = Pool::of_process(os.clone());
        let stock = Stock::new(pool.clone()).map_err(|error| Error::system(path.display(), error))?;
        let disk = Metered::new(stock.clone());
        Ok(Below { latch: Latch::new(disk.clone()), disk, stock, pool, began })
    }

    /// Opens engine and filesystem on `disk`, which these are or are below of.
    fn open(
        self,
        path: &Path,
        os: Arc<OsDisk>,
        disk: Arc<dyn Disk>,
        (description, settings, engine_options): (Description, Settings, &engine::Options),
        is_view: bool,
    ) -> Result<Store, Error> {
        let Below { disk: metered, latch, pool, began, stock: _ } = self;
        let show = path.display();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let engine = open_engine(&os, disk, clock.clone(), engine_options)
            .map_err(|error| store_error(&show, error, &*latch))?;
        let engine = MeteredEngine::new(engine, keys::classify);
        let fs = open_fs(&engine, &clock, &latch, &description, &settings)
            .map_err(|error| fs_error(&show, error, &*latch))?;
        let (disk, path) = (metered, path.to_path_buf());
        Ok(Store { description, settings, disk, latch, engine, fs, clock, os, pool, path, is_view, began })
    }
}

/// Opens the engine that `options` are of where it lives: on `disk`, or in a directory of its own.
fn open_engine(
    os: &OsDisk,
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    options: &engine::Options,
) -> engine::Result<Arc<dyn Engine>> {
    match options.kind().home {
        Home::Disk(_) => engine::open(disk, clock, options),
        Home::Directory(open) => {
            options.validate()?;
            let own = os.directory(ENGINE_DIRECTORY);
            open(&own.map_err(|error| engine::Error::io("making its directory", error))?, clock, options)
        }
    }
}

fn open_in_place(path: &Path, os: Arc<OsDisk>, place: Place, given: &Given) -> Result<Store, Error> {
    let show = path.display();
    let below = Below::new(path, &os)?;
    let (description, is_made) = match Description::load(&*below.latch)? {
        Some(description) => (description, false),
        None if place == Place::Store => {
            return Err(Error::refused(format!("{show}: its description cannot be opened")));
        }
        None => {
            let description = Description::new(given)?;
            if description.settings(given)?.engine.kind().writes_in_place
                && let Err(error) = os.write_in_place()
            {
                log::warn!("{show}: its pages are copied by the filesystem below when they change: {error}");
            }
            description.save(&*below.latch)?;
            (description, true)
        }
    };
    let settings = description.settings(given)?;
    let (disk, stock, engine_options) = (below.latch.clone(), below.stock.clone(), settings.engine.clone());
    let store = below.open(path, os, disk, (description, settings, &engine_options), false)?;
    // An engine with a directory of its own could not take them.
    if !store.settings.fs.read_only
        && matches!(store.settings.engine.kind().home, Home::Disk(_))
        && let Err(error) = stock.keep(engine::SPARE_FILES)
    {
        log::warn!("{show}: making spare files: {error}");
    }
    if is_made {
        store
            .os
            .sync_own_name()
            .map_err(|error| Error::system(format!("{show}: making its name durable"), error))?;
    }
    Ok(store)
}

/// Opens the store on `os`, which is there, so that nothing below changes. `None` if what is to be recovered does not fit into half of
/// the cache.
fn open_view(path: &Path, os: Arc<OsDisk>, given: &Given) -> Result<Option<Store>, Error> {
    // Little has to be kept of a store that was closed, so first little of the cache is given up for it.
    for share in VIEW_SHARES {
        let below = Below::new(path, &os)?;
        let description = Description::load(&*below.latch)?
            .ok_or_else(|| Error::refused(format!("{}: its description cannot be opened", path.display())))?;
        let settings = description.settings(given)?;
        let mut options = settings.engine.clone();
        let common = options.common_mut();
        let kept_bytes_max = common.cache_bytes / share;
        common.cache_bytes -= kept_bytes_max;
        common.memory_bytes = common.memory_bytes.saturating_sub(kept_bytes_max);
        if let Home::Directory(_) = options.kind().home {
            // Nothing of ours lies between it and its files.
            return Ok(None);
        }
        let overlay = Overlay::bounded(below.latch.clone(), kept_bytes_max);
        match below.open(path, os.clone(), overlay.clone(), (description, settings, &options), true) {
            Err(_) if overlay.is_exceeded() => {}
            other => return other.map(Some),
        }
    }
    Ok(None)
}

/// Opens the filesystem on `engine`; an empty engine gets a new one, whose root belongs to whoever makes it, and which is durable
/// when this returns.
fn open_fs(
    engine: &Arc<MeteredEngine>,
    clock: &Arc<dyn Clock>,
    latch: &Arc<Latch>,
    description: &Description,
    settings: &Settings,
) -> fs::Result<Arc<FileSystem>> {
    let made = engine.get(&keys::superblock(), Tier::Disk)?.is_none();
    if made {
        let identity = Identity { uuid: description.uuid, ..Identity::random()? };
        FileSystem::format(&**engine, &**clock, &settings.fs, identity)?;
    }
    let disk = latch.clone();
    let fs = FileSystem::open(engine.clone(), clock.clone(), settings.fs, Arc::new(move || disk.space()))?;
    let user = nix::unistd::geteuid();
    if made && !user.is_root() && !settings.fs.read_only {
        let (uid, gid) = (Some(user.as_raw()), Some(nix::unistd::getegid().as_raw()));
        fs.setattr(Tier::Disk, Caller::ROOT, ROOT, &SetAttributes { uid, gid, ..SetAttributes::default() })?;
    }
    if made {
        engine::sync(&**engine)?;
    }
    Ok(fs)
}

impl Store {
    /// Its log, for a daemon; `None` where nothing can be written.
    pub fn log(&self) -> io::Result<Option<LogFile>> {
        if self.is_view { Ok(None) } else { self.os.log().map(Some) }
    }

    /// Writes who uses the store into its lock, if that can be written.
    pub fn name_holder(&self, what: &str) {
        if self.is_view {
            return;
        }
        let holder = format!("kvfs, process {}, {what}", std::process::id());
        if let Err(error) = self.os.name_holder(&holder) {
            log::warn!("writing the holder's name into the lock: {error}");
        }
    }

    /// Makes everything durable and closes the store. No thread may use it any more.
    pub fn close(&self) -> Result<(), Error> {
        if self.is_view {
            return Ok(());
        }
        let show = self.path.display();
        self.fs.close().map_err(|error| fs_error(&show, error, &*self.latch))?;
        self.engine.close().map_err(|error| store_error(&show, error, &*self.latch))
    }
}

/// Opens the directory, waiting for a holder that is about to let go.
fn lock(path: &Path, opening: impl Into<Opening>) -> io::Result<Arc<OsDisk>> {
    let begun = Instant::now();
    let opening = opening.into();
    loop {
        let error = match OsDisk::open(path, opening) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => error,
            result => return result,
        };
        let holder = InUse::of(&error).map_or("", |in_use| &in_use.holder);
        let patience = if holder.ends_with(CLOSING) { CLOSING_WAIT } else { BUSY_WAIT };
        if begun.elapsed() > patience {
            return Err(io::Error::new(error.kind(), format!("{error}{}", in_other_namespace(holder))));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// What is to be added to the message of a store that is in use, if its holder's mount cannot be seen from here.
fn in_other_namespace(holder: &str) -> String {
    match pid_in(holder).filter(|pid| table::is_in_other_namespace(*pid)) {
        Some(pid) => format!(", in another mount namespace: nsenter -m -t {pid} shows it"),
        None => String::new(),
    }
}

fn store_error(show: &impl std::fmt::Display, error: engine::Error, disk: &dyn Disk) -> Error {
    match error {
        engine::Error::NoSpace => {
            let shortage = disk.space().map_or(String::new(), |space| engine::shortage(&space));
            Error::refused(format!("{show}: {error}{shortage}")).because(error)
        }
        engine::Error::Corrupt { .. } => damaged(show, error),
        engine::Error::Invalid(_) => Error::usage(format!("{show}: {error}")).because(error),
        _ => Error::system(show, error),
    }
}

fn fs_error(show: &impl std::fmt::Display, error: fs::Error, disk: &dyn Disk) -> Error {
    match error {
        fs::Error::Engine(error) => store_error(show, error, disk),
        fs::Error::Damaged(_) => damaged(show, error),
        _ => Error::system(show, error),
    }
}

/// Without the superblock, say, nothing can be served; the rest may still be there.
fn damaged(show: &impl std::fmt::Display, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::damaged(format!("{show}: {error}; kvfs check --repair {show} says what can be saved"))
        .because(error)
}

/// Tells threads to stop, also while they sleep.
#[derive(Default)]
struct Stop {
    stopped: Mutex<bool>,
    wake: Condvar,
}

impl Stop {
    /// Sleeps for `time`, or less if told to stop. Returns whether to go on.
    fn sleep(&self, time: Duration) -> bool {
        let mut stopped = self.stopped.lock();
        if !*stopped && !time.is_zero() {
            self.wake.wait_for(&mut stopped, time);
        }
        !*stopped
    }

    fn tell(&self) {
        *self.stopped.lock() = true;
        self.wake.notify_all();
    }
}

/// A store with its threads and its `/.stats`, but without a kernel.
pub struct Service {
    store: Store,
    tree: Arc<VirtualTree>,
    attribution: Arc<Attribution>,
    worker: Option<Worker>,
    stop: Arc<Stop>,
    threads: Vec<JoinHandle<()>>,
}

impl Service {
    /// Starts the threads. `mount_point` is what `/.stats` says.
    pub fn start(store: Store, mount_point: &Path) -> io::Result<Service> {
        let attribution = Arc::<Attribution>::default();
        let control = Control::new(parts(&store, mount_point, &attribution));
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
        // What is not written needs no merges: they would only fill the memory.
        let worker = match store.is_view {
            false => Some(Worker::start(store.engine.clone())?),
            true => None,
        };
        let stop = Arc::new(Stop::default());
        let mut service = Service { store, tree, attribution, worker, stop, threads: Vec::new() };
        let (fs, stop) = (service.store.fs.clone(), service.stop.clone());
        service.spawn("kvfs-fs", move || serve_fs(&fs, &stop))?;
        let stop = service.stop.clone();
        service.spawn("kvfs-control", move || {
            while stop.sleep(Duration::from_secs(1)) {
                control.tick();
            }
        })?;
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
        let closed = self.close();
        let dirty_bytes = self.store.engine.shape().debt.dirty_bytes;
        let left = match &closed {
            Err(error) => Some(error.to_string()),
            // A mount that changes nothing leaves nothing over: what it found left to do is the next one's.
            Ok(()) if dirty_bytes > 0 && !self.store.settings.fs.read_only => {
                Some(format!("{} are in the log and not yet in their places", human_size(dirty_bytes)))
            }
            Ok(()) => None,
        };
        match left {
            Some(what) => {
                log::warn!("closed, but the next mount has work to do first: {what}");
                self.store.name_holder(&format!("{LEFT}{what}"));
            }
            None => self.store.name_holder(CLOSED),
        }
        closed
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

/// Does the filesystem's background work until told to stop.
fn serve_fs(fs: &FileSystem, stop: &Stop) {
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

fn parts(store: &Store, mount_point: &Path, attribution: &Arc<Attribution>) -> Parts {
    let Store { description, settings, disk, latch, engine, fs, clock, pool, path, began, .. } = store;
    let value = |name: &str| settings.get(name).unwrap_or_default();
    let user = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
    let usage = {
        let fs = fs.clone();
        move || fs.usage()
    };
    let write_times = {
        let fs = fs.clone();
        move || fs.write_times()
    };
    let pool = pool.clone();
    let began = *began;
    let process = move || Some(process_io().ok()?.since(began.as_ref()?));
    Parts {
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
            is_view: store.is_view,
            config: settings.list().into_iter().map(|it| (it.name.to_string(), it.value)).collect(),
            kind_names: &keys::KIND_NAMES,
        },
        clock: clock.clone(),
        meter: fs.meter().clone(),
        attribution: attribution.clone(),
        engine: engine.clone(),
        disk: disk.clone(),
        latch: latch.clone(),
        usage: Box::new(usage),
        write_times: Box::new(write_times),
        process: Box::new(process),
        open_files: Box::new(move || pool.open_files()),
    }
}

/// What to mount, and where.
pub struct Request<'a> {
    /// The store's directory, absolute.
    pub store: &'a Path,
    /// The mount point, absolute and without links.
    pub mount_point: &'a Path,
    /// Options as given.
    pub given: &'a Given,
    /// Under which the store may be opened.
    pub terms: Terms,
    /// What mount(8) says about any filesystem.
    pub flags: &'a MountFlags,
}

/// Mounts a store and serves it until it is unmounted. `opened` is called when the store is open, `ready` when programs can
/// use the mount; an error of theirs ends it. Everything is durable when this returns `Ok`.
///
/// Signals must be blocked ([`session::block_signals`]), and no other thread may run.
pub fn serve(
    request: &Request<'_>,
    opened: impl FnOnce(&Store) -> io::Result<()>,
    ready: impl FnOnce() -> io::Result<()>,
) -> Result<(), Error> {
    let Request { store: path, mount_point, given, terms, flags } = *request;
    let occupied = |error| Error::system(mount_point.display(), error);
    if session::make_way(mount_point).map_err(occupied)? {
        log::warn!("{}: detached a mount whose daemon had died", mount_point.display());
    }
    let store = open_store(path, given, terms)?;
    store.name_holder(&format!("mounted at {}", mount_point.display()));
    opened(&store).map_err(|error| Error::system("starting", error))?;
    let fuse = store.settings.fuse.clone();
    let durability = Durability {
        always: store.settings.engine.common().sync == engine::Sync::Always,
        names: flags.dirsync,
    };
    let (events, received) = channel();
    session::watch_signals(events.clone()).map_err(|error| Error::system("starting a thread", error))?;
    let service = Service::start(store, mount_point).map_err(|error| Error::system("starting", error))?;
    let end = adapter(&service, fuse, durability, events)
        .and_then(|adapter| session::run(adapter, path, mount_point, flags, &received, ready));
    if matches!(end, Ok(End::Forced | End::Abandoned)) {
        let (fs, engine, latch) =
            (service.store.fs.clone(), service.store.engine.clone(), service.store.latch.clone());
        // Requests may still come in on other threads, so nothing they use may go away before the process does.
        std::mem::forget(service);
        fs.write_times().map_err(|error| fs_error(&path.display(), error, &*latch))?;
        engine::sync(&*engine).map_err(|error| store_error(&path.display(), error, &*latch))?;
        if matches!(end, Ok(End::Abandoned)) {
            let text = "ended while the kernel still kept data of open files; what had arrived is synced";
            return Err(Error::refused(format!("{}: {text}", mount_point.display())));
        }
        log::warn!("{}: ended with files open; everything written so far is synced", mount_point.display());
        return Ok(());
    }
    let closed = service.stop();
    end.map_err(|error| Error::system(format!("mounting at {}", mount_point.display()), error))?;
    closed?;
    log::info!("{}: unmounted; everything is synced", mount_point.display());
    Ok(())
}

fn adapter(
    service: &Service,
    options: FuseOptions,
    durability: Durability,
    events: std::sync::mpsc::Sender<session::Event>,
) -> io::Result<Adapter> {
    let (fs, tree, attribution) =
        (service.store.fs.clone(), service.tree.clone(), service.attribution.clone());
    Adapter::new(fs, tree, attribution, options, durability, events)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;

    #[test]
    fn a_filesystem_that_was_made_survives_a_power_cut() {
        for kind in ["lsm", "btree"] {
            let given = [("engine".to_string(), kind.to_string())];
            let description = Description::new(&given).unwrap();
            let settings = description.settings(&given).unwrap();
            let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
            let open = |disk: Arc<SimDisk>| {
                let latch = Latch::new(disk);
                let engine = engine::open(latch.clone(), clock.clone(), &settings.engine).unwrap();
                (MeteredEngine::new(engine, keys::classify), latch)
            };
            let disk = SimDisk::new();
            description.save(&*disk).unwrap();
            let (engine, latch) = open(disk.clone());
            open_fs(&engine, &clock, &latch, &description, &settings).unwrap();
            for seed in 0..32 {
                let after = disk.crash(seed);
                assert_eq!(Description::load(&*after).unwrap().as_ref(), Some(&description));
                let (engine, _) = open(after);
                for key in [keys::superblock().to_vec(), keys::inode(ROOT).to_vec()] {
                    assert!(
                        engine.get(&key, Tier::Disk).unwrap().is_some(),
                        "{kind}, {seed}: {key:?} is gone"
                    );
                }
            }
        }
    }
}
