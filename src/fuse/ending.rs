//! The end of a mount: data that the kernel still keeps of open files is written back first.
//!
//! Under `writeback_cache`, and in shared mappings under any option, written pages stay in the kernel until it chooses to send
//! them; once the mount is detached nobody makes it. Closed files have none: close writes them back.
//!
//! 1. A `syncfs` of the root sends everything, if the mount can still be reached by its path.
//! 2. Each open inode's pages are invalidated, which sends those that are dirty and waits for them: that works as well when the mount is
//!    detached, and needs no open file, which would keep the mount in use.
//! 3. When nothing is under way any more and no request waits at the kernel's door, all of it is in the engine.
//!
//! All that is done by a thread of its own, since it waits for requests that this process serves; who waits for the thread has a limit.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use fuser::INodeNo;
use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;

use super::stored::Core;

/// Times in a row that nothing must be under way.
const QUIET_TIMES: u32 = 5;
/// Pause between two looks.
const QUIET_PAUSE: Duration = Duration::from_millis(4);

/// Means of making the kernel write back.
pub(super) struct WriteBack {
    core: Arc<Core>,
    /// The kernel's door: readable while requests wait there.
    door: Arc<OwnedFd>,
}

impl WriteBack {
    /// Of the connection at `door`.
    pub fn new(core: Arc<Core>, door: OwnedFd) -> WriteBack {
        WriteBack { core, door: Arc::new(door) }
    }

    /// Begins. `root` is the mount point while the mount can be reached there. The receiver is told when everything that was written so
    /// far has been handed to the engine.
    pub fn begin(&self, root: Option<&Path>) -> io::Result<Receiver<()>> {
        let (done, receiver) = channel();
        let (core, door, root) = (self.core.clone(), self.door.clone(), root.map(PathBuf::from));
        let run = move || {
            if let Some(root) = root
                && let Err(error) = sync_root(&root)
            {
                log::warn!("syncing {}: {error}", root.display());
            }
            for ino in core.fs.open_inodes() {
                if let Some(notifier) = core.notifier.get()
                    && let Err(error) = notifier.inval_inode(INodeNo(ino.0), 0, 0)
                {
                    log::debug!("the kernel has no inode {ino}: {error}");
                }
            }
            let mut quiet = 0;
            while quiet < QUIET_TIMES {
                std::thread::sleep(QUIET_PAUSE);
                quiet = if core.is_idle() && !is_readable(&door) { quiet + 1 } else { 0 };
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
