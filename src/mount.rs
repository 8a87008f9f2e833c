//! The composition root: disk → engine → filesystem → kernel. The only file that names every concrete part.
//!
//! ```text
//! OsDisk ← Pool ← Stock ← Metered (door 3) ← Latch ← engine ← MeteredEngine (door 2) ← FileSystem (door 1) ← Adapter ← kernel
//!                       └───────────────┴────────────────┴──────────────────────┴── Control ← VirtualTree (/.stats)
//! ```
//!
//! Threads beside the kernel's: the engine's [`engine::Worker`], one for the filesystem's own background work, and one that gives
//! the control room its second.
//!
//! # Order at the end
//! The kernel is gone → the filesystem's thread stops → `fs.close` → the worker stops → `engine.close` → a last line in
//! the log. Where the end was forced, requests may still come in, so everything is synced and nothing closed: the next
//! mount recovers, which loses nothing.

mod below;
mod check;
mod closing;
mod errors;
mod fork;
mod image;
mod lock;
mod remote;
mod service;
mod store;
mod witness;

use std::io;
use std::path::Path;
use std::sync::mpsc::channel;

use crate::engine::{self, Engine};
use crate::fuse::session::{self, End, MountFlags};
use crate::fuse::{Adapter, Durability, Options as FuseOptions};
use crate::store::{Error, Given, Terms};
pub use check::{Findings, check, repair};
pub use closing::{Closed, Closing};
use errors::{fs_error, store_error};
pub use image::image;
pub use service::Service;
use store::Seen;
pub use store::{Store, make_store, open_store};
pub use witness::{WitnessRequest, patterns, serve_witness};

/// A request to mount a store.
pub struct Request<'a> {
    /// The store's directory, absolute.
    pub store: &'a Path,
    /// The mount point, absolute and without links.
    pub mount_point: &'a Path,
    /// Options as given.
    pub given: &'a Given,
    /// Under which the store may be opened.
    pub terms: Terms,
    /// Flags of mount(8) that every filesystem has.
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
    let store = store::open(path, given, terms, Seen::AsGiven)?;
    store.name_holder(&format!("mounted at {}", mount_point.display()));
    // Before the daemon turns to its log, so that whoever mounts reads it.
    if let Some(warning) = store.engine.promise().warning(store.engine.kind().name) {
        log::warn!("{}: {warning}", path.display());
    }
    opened(&store).map_err(|error| Error::system("starting", error))?;
    if let Some(witness) = &store.witness {
        log::info!("{witness}");
    }
    let mut fuse = store.settings.fuse.clone();
    if store.states.are_followed()
        && let Some(site) = &store.site
    {
        // What the kernel knows may be as old as what we know.
        fuse.timeout = fuse.timeout.min(site.refresh());
    }
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
    let (states, tree, attribution) =
        (service.store.states.clone(), service.tree.clone(), service.attribution.clone());
    Adapter::new(states, tree, attribution, options, durability, events)
}
