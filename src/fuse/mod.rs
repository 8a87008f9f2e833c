//! The fuse room: speaks the kernel's protocol. The only room that knows `fuser`.
//!
//! [`Adapter`] takes each request and hands it to who serves the inode, which turns it into one call and the result into the reply: decode,
//! one call, reply. How a request is served:
//!
//! 1. The router tells which side an inode or a name belongs to: the virtual tree, which answers on the spot, or the store.
//! 2. What the store is asked is tried with [`crate::engine::Tier::Memory`] on the dispatch thread. Most requests end here.
//! 3. What needs the disk, or is refused by a limit, moves with its reply to the blocking pool or the retry queue of `stored/deferred.rs`.
//! 4. What must be durable before it is answered (fsync, O_SYNC, `sync=always`, `dirsync`) is answered from the log's
//!    completion.
//!
//! What stands behind the requests for real files is a trait ([`behind::Behind`]): the store (`stored`), or the directory that a witness passes
//! through (`witnessed`), which has of the four steps the first, and a pool of threads for whatever may wait.
//!
//! # Invariants
//! 1. No dispatch thread of a store sleeps: not for the disk, not for a limit, not for a sync. One of a witness waits for a call on names or
//!    attributes, and for a write into the page cache below, and for nothing else.
//! 2. Every request but forget is answered once; if the store serves it, it is recorded at door 1 just before its answer, so a program that
//!    has its answer finds it counted.
//! 3. ENOSYS is answered only where it tells the kernel for good to do without us: flush (errors are reported by
//!    write and fsync), access (it checks permissions itself), lseek under its writeback cache (it calls all of a file
//!    data), locks (one kernel, so its own locks suffice), poll and bmap.
mod behind;
mod convert;
mod ending;
mod protocol;
mod refusal;
mod reply;
mod router;
pub mod session;
mod stored;
pub mod table;
mod virtual_files;
mod witnessed;

use std::sync::Arc;
use std::sync::mpsc::Sender;

use fuser::{Generation, Request};

use crate::attribution::Attribution;
use crate::fs::states::States;
use crate::fs::types::Caller;
use crate::virtual_files::VirtualTree;
use crate::witness::{self, Directory};
use behind::Behind;
use session::{Connected, Served};
use stored::StoredFiles;
use virtual_files::Virtual;
use witnessed::Witnessed;

pub use session::Options;

/// Inode numbers are never used twice, so every inode is its own first generation.
const GENERATION: Generation = Generation(0);

/// The filesystem as the kernel sees it.
pub struct Adapter<B = StoredFiles> {
    /// Dropped before `_end`, so that no request is under way any more when the end is told.
    behind: B,
    virtual_files: Virtual,
    _end: End,
}

/// Changes that are durable before they are answered, whether or not a program asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Durability {
    /// All.
    pub always: bool,
    /// Those of directories.
    pub names: bool,
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
    /// Serves `fs` and, under `/.stats`, `tree`. `attribution` is told who moves content, `ended` when the session is over.
    pub fn new(
        states: Arc<States>,
        tree: Arc<VirtualTree>,
        attribution: Arc<Attribution>,
        options: Options,
        durability: Durability,
        ended: Sender<session::Event>,
    ) -> std::io::Result<Adapter> {
        let stored = StoredFiles::new(states, attribution, options, durability)?;
        Ok(Adapter { behind: stored, virtual_files: Virtual { tree }, _end: End(ended) })
    }
}

/// A directory that is passed through, as the kernel sees it.
pub type WitnessAdapter = Adapter<Witnessed>;

impl WitnessAdapter {
    /// Passes `directory` through and serves, under `/.stats`, `tree`. `ended` is told when the session is over.
    pub fn witness(
        directory: Arc<Directory>,
        tree: Arc<VirtualTree>,
        options: &witness::Options,
        is_read_only: bool,
        ended: Sender<session::Event>,
    ) -> std::io::Result<WitnessAdapter> {
        let behind = Witnessed::new(directory, options, is_read_only, tree.names_at_root())?;
        Ok(Adapter { behind, virtual_files: Virtual { tree }, _end: End(ended) })
    }
}

impl<B: Behind> Served for Adapter<B> {
    fn connected(&self) -> Arc<dyn Connected> {
        self.behind.connected()
    }
    fn is_read_only(&self) -> bool {
        self.behind.is_read_only()
    }
    fn threads(&self) -> usize {
        self.behind.threads()
    }
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}
