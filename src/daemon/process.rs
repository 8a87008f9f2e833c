//! A process that is waited for though it is no child: whoever unmounts wants to know when the daemon has ended.

use std::os::fd::{AsFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A process, whoever has its number later.
pub struct ProcessHandle(OwnedFd);

impl ProcessHandle {
    /// The process `pid`, if it is there and was before this one began; a younger one has the number of another that is gone. `None` as
    /// well where the kernel cannot watch it (before Linux 5.3), or there is no `/proc` to say how old it is.
    pub fn older(pid: u32) -> Option<ProcessHandle> {
        let number = libc::pid_t::try_from(pid).ok()?;
        // SAFETY: the call takes no memory of ours.
        let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, number, 0) };
        let descriptor = RawFd::try_from(descriptor).ok().filter(|descriptor| *descriptor >= 0)?;
        // SAFETY: it was just opened, and nobody else has it.
        let process = ProcessHandle(unsafe { OwnedFd::from_raw_fd(descriptor) });
        // Looked at last: should the number change hands before this, a younger one shows.
        (started(&pid.to_string())? < started("self")?).then_some(process)
    }

    /// Waits for its end, at most for `patience`; whether it has come.
    pub fn wait(&self, patience: Duration) -> bool {
        let timeout = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
        matches!(poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], timeout), Ok(1))
    }
}

/// Start time of a process, in ticks since the machine was started.
fn started(process: &str) -> Option<u64> {
    let text = crate::disk::read_outside(Path::new(&format!("/proc/{process}/stat"))).ok()?;
    let text = String::from_utf8_lossy(&text);
    // Behind the name, which may hold anything, comes the third field; this is the 22nd.
    text.rsplit(')').next()?.split_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_was_there_before_is_waited_for() {
        let first = ProcessHandle::older(1).unwrap();
        assert!(!first.wait(Duration::from_millis(1)));
        // As if it had the number of one that is gone.
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(ProcessHandle::older(child.id()).is_none());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(ProcessHandle::older(child.id()).is_none());
        assert!(ProcessHandle::older(u32::MAX).is_none());
    }
}
