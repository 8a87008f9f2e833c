//! The fuse room: speaks the kernel's protocol. The only room that knows `fuser`.
//!
//! [`Adapter`] turns each request into one call of the filesystem and its result into the reply: decode, one call,
//! reply. How a request is served:
//!
//! 1. Names under `/.stats` belong to the virtual tree and are answered on the spot; a command written there is answered
//!    when it has ended, from the thread that ended it.
//! 2. Everything else is tried with [`crate::engine::Tier::Memory`] on the dispatch thread. Most requests end here.
//! 3. What needs the disk, or is refused by a limit, moves with its reply to the waiting lots of [`park`].
//! 4. What must be durable before it is answered (fsync, O_SYNC, `sync=always`, `dirsync`) is answered from the log's
//!    completion.
//!
//! # Invariants
//! 1. No dispatch thread sleeps: not for the disk, not for a limit, not for a sync.
//! 2. Every request but forget is answered once; it is recorded at door 1 just before its answer, so a program that
//!    has its answer finds it counted.
//! 3. ENOSYS is answered only where it tells the kernel for good to do without us: flush (errors are reported by
//!    write and fsync), access (it checks permissions itself), lseek under its writeback cache (it calls all of a file
//!    data), locks (one kernel, so its own locks suffice), poll and bmap.
mod attr;
mod convert;
mod dir;
mod dispatch;
mod ending;
mod io;
mod names;
mod park;
mod protocol;
mod reply;
pub mod session;
pub mod table;

use std::sync::atomic::AtomicU64;
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};

use fuser::{Generation, INodeNo, Request};

use crate::fs::FileSystem;
use crate::fs::types::{Caller, FIRST_VIRTUAL};
use crate::fs::virtual_file::VirtualTree;
use dispatch::Core;
use park::Parking;

pub use session::Options;

/// Inode numbers are never used twice, so every inode is its own first generation.
const GENERATION: Generation = Generation(0);

/// The filesystem as the kernel sees it.
pub struct Adapter {
    core: Arc<Core>,
    /// Dropped before `_end`, so that no request is under way any more when the end is told.
    parking: Parking,
    _end: End,
}

/// Tells, when it is dropped, that the kernel has gone.
struct End(Sender<session::Event>);

impl Drop for End {
    fn drop(&mut self) {
        // Nobody listens any more if the process is already on its way out.
        let _ = self.0.send(session::Event::Ended);
    }
}

impl Adapter {
    /// Serves `fs` and, under `/.stats`, `tree`. `sync_always` and `sync_names` make changes, or changes of directories,
    /// durable before they are answered. `ended` is told when the session is over.
    pub fn new(
        fs: Arc<FileSystem>,
        tree: Arc<VirtualTree>,
        options: Options,
        sync_always: bool,
        sync_names: bool,
        ended: Sender<session::Event>,
    ) -> std::io::Result<Adapter> {
        let parking = Parking::start(fs.bell().clone())?;
        let core = Core {
            fs,
            tree,
            options,
            sync_always,
            sync_names,
            notifier: OnceLock::new(),
            under_way: AtomicU64::new(0),
        };
        Ok(Adapter { core: Arc::new(core), parking, _end: End(ended) })
    }
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

fn is_virtual(ino: INodeNo) -> bool {
    ino.0 >= FIRST_VIRTUAL
}
