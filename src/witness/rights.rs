//! For whom a call on the directory is made. Only a witness of root's has to care: everybody else's files are made by the one user who mounted.
//!
//! - *Owner*: a file is made under the caller's user and group (`setfsuid`, `setfsgid`), which hold for one thread. Root's capabilities stay, which the secure bit
//!   `NO_SETUID_FIXUP` sees to: the kernel has checked permissions already, with all groups of the caller, and here only one is known.
//! - *Umask*: the caller's holds for the call, since an inherited access control list takes its place. A thread that makes files gets a
//!   working state of its own for it (`unshare(CLONE_FS)`), for the umask is one of a process otherwise.
//! - *Set-id bits*: a write by somebody without `CAP_FSETID` clears them. The kernel says with each write whether to; the thread then does without that capability,
//!   and the filesystem below clears them as it would have for the caller.

use std::cell::Cell;

use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, UnshareFlags};

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bits that are left out of the mode of what is made.
    pub umask: u32,
}

/// Rights of this process.
#[derive(Clone, Copy, Debug)]
pub struct Rights {
    is_root: bool,
}

thread_local! {
    /// The umask of this thread; `None` as long as it shares the process's.
    static UMASK: Cell<Option<u32>> = const { Cell::new(None) };
    /// Whether this thread has given up `CAP_FSETID`.
    static IS_PLAIN: Cell<bool> = const { Cell::new(false) };
}

impl Rights {
    /// Prepares this thread and those that it starts later.
    pub fn prepare() -> Rights {
        let is_root = nix::unistd::geteuid().is_root();
        if is_root {
            let bits = rustix::thread::capabilities_secure_bits().unwrap_or(CapabilitiesSecureBits::empty());
            if let Err(error) =
                rustix::thread::set_capabilities_secure_bits(bits | CapabilitiesSecureBits::NO_SETUID_FIXUP)
            {
                log::warn!(
                    "keeping capabilities: {error}: who may write in a directory only as a member of a further group cannot make files there"
                );
            }
        }
        Rights { is_root }
    }

    /// Does `act`, which makes a file, for `caller`.
    pub fn as_caller<T>(&self, caller: Caller, act: impl FnOnce() -> T) -> T {
        self.take_umask(caller.umask);
        if !self.is_root || caller.uid == 0 && caller.gid == 0 {
            return act();
        }
        nix::unistd::setfsgid(caller.gid.into());
        nix::unistd::setfsuid(caller.uid.into());
        let result = act();
        nix::unistd::setfsuid(0.into());
        nix::unistd::setfsgid(0.into());
        result
    }

    fn take_umask(&self, umask: u32) {
        let now = UMASK.get();
        if now == Some(umask) {
            return;
        }
        if now.is_none() {
            // SAFETY: the table of descriptors stays shared; only the working directory, which nothing here depends on, and the umask become
            // this thread's own.
            if let Err(error) = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS) } {
                log::warn!("a umask of its own for a thread: {error}");
            }
        }
        nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(umask));
        UMASK.set(Some(umask));
    }

    /// Does `act`, which changes content or mode; set-id bits that the caller may not keep are cleared if it `clears` them.
    pub fn clearing<T>(&self, clears: bool, act: impl FnOnce() -> T) -> T {
        if self.is_root && IS_PLAIN.get() != clears {
            match set_keeps_set_id(!clears) {
                Ok(()) => IS_PLAIN.set(clears),
                Err(error) => log::debug!("CAP_FSETID: {error}"),
            }
        }
        act()
    }
}

/// Gives this thread `CAP_FSETID`, or takes it away.
fn set_keeps_set_id(keeps: bool) -> rustix::io::Result<()> {
    let mut sets = rustix::thread::capabilities(None)?;
    sets.effective.set(CapabilitySet::FSETID, keeps && sets.permitted.contains(CapabilitySet::FSETID));
    rustix::thread::set_capabilities(None, sets)
}
