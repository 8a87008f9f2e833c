//! The end of a mount: data that the kernel still keeps of open files is written back first.
//!
//! Under `writeback_cache`, and in shared mappings under any option, written pages stay in the kernel until it chooses to send
//! them; once the mount is detached nobody makes it. Closed files have none: close writes them back.
//!
//! 1. A `syncfs` of the root sends everything, if the mount can still be reached by its path.
//! 2. Each open inode's pages are invalidated, which sends those that are dirty and waits for them: that works as well when the mount is
//!    detached, and needs no open file, which would keep the mount in use.
//! 3. When nothing is under way any more and no request waits at the kernel's door, all of it is where it belongs: in the engine, or in the
//!    directory that a witness passes it on to.
//!
//! All that is done by a thread of its own, since it waits for requests that this process serves; who waits for the thread has a limit.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fuser::{INodeNo, Notifier};
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;

/// Times in a row that nothing must be under way.
const QUIET_TIMES: u32 = 5;
/// Pause between two looks.
const QUIET_PAUSE: Duration = Duration::from_millis(4);

/// What is served, as far as its end must know.
pub trait Connected: Send + Sync + 'static {
    /// Inodes that programs have open.
    fn open_inodes(&self) -> Vec<u64>;
    /// Whether every request that was taken from the kernel is answered.
    fn is_idle(&self) -> bool;
    /// The way to tell the kernel something; set once it answers.
    fn notifier(&self) -> &OnceLock<Notifier>;
}

/// Counts requests that were taken from the kernel and are not answered yet.
#[derive(Clone, Default)]
pub(super) struct UnderWay(Arc<AtomicU64>);

/// A request that is counted until this is dropped.
pub(super) struct Request(Arc<AtomicU64>);

impl UnderWay {
    /// Counts one more.
    pub fn begin(&self) -> Request {
        self.0.fetch_add(1, Ordering::SeqCst);
        Request(self.0.clone())
    }

    /// Whether none is left.
    pub fn is_idle(&self) -> bool {
        self.0.load(Ordering::SeqCst) == 0
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Means of making the kernel write back.
pub(super) struct WriteBack {
    served: Arc<dyn Connected>,
    /// The kernel's door: readable while requests wait there.
    door: Arc<OwnedFd>,
}

impl WriteBack {
    /// Of the connection at `door`.
    pub fn new(served: Arc<dyn Connected>, door: OwnedFd) -> WriteBack {
        WriteBack { served, door: Arc::new(door) }
    }

    /// Begins. `root` is the mount point while the mount can be reached there. The receiver is told when everything that was written so
    /// far has been handed on.
    pub fn begin(&self, root: Option<&Path>) -> io::Result<Receiver<()>> {
        let (done, receiver) = channel();
        let (served, door, root) = (self.served.clone(), self.door.clone(), root.map(PathBuf::from));
        let run = move || {
            if let Some(root) = root
                && let Err(error) = sync_root(&root)
            {
                log::warn!("syncing {}: {error}", root.display());
            }
            for ino in served.open_inodes() {
                if let Some(notifier) = served.notifier().get()
                    && let Err(error) = notifier.inval_inode(INodeNo(ino), 0, 0)
                {
                    log::debug!("the kernel has no inode {ino}: {error}");
                }
            }
            let mut quiet = 0;
            while quiet < QUIET_TIMES {
                std::thread::sleep(QUIET_PAUSE);
                quiet = if served.is_idle() && !is_readable(&door) { quiet + 1 } else { 0 };
            }
            // Nobody waits any more if it took too long.
            let _ = done.send(());
        };
        std::thread::Builder::new().name("kvfs-ending".to_string()).spawn(run)?;
        Ok(receiver)
    }
}

fn sync_root(root: &Path) -> io::Result<()> {
    let root = open(root, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    Ok(nix::unistd::syncfs(&root)?)
}

/// Whether requests wait. A connection that has ended has none.
fn is_readable(door: &OwnedFd) -> bool {
    let mut ready = [PollFd::new(door.as_fd(), PollFlags::POLLIN)];
    let found = poll(&mut ready, PollTimeout::ZERO);
    let flags = ready[0].revents().unwrap_or(PollFlags::empty());
    matches!(found, Ok(1)) && flags.contains(PollFlags::POLLIN) && !flags.contains(PollFlags::POLLERR)
}
