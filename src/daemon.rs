//! Going to the background: one fork, no exec, and a pipe over which the child says how it went.
//!
//! 1. The parent forks before any thread exists. The process keeps its arguments, so `ps` shows the store as it was given.
//! 2. The child leaves the terminal's session, goes to `/` and lets go of standard input and output; what it logs goes to
//!    `kvfs.log` in the store as soon as the store is open, and until then to the caller's standard error.
//! 3. The child reports over the pipe: `O` the store is open, `R` programs can use the mount, or `E`, an exit code and the
//!    error's text. The pipe's end without a report means that it died.
//! 4. The parent waits for as long as opening takes (recovery reads the log), then up to [`READY_MAX`] for the kernel.

mod lines;
mod process;

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::fcntl::{OFlag, open};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{
    ForkResult, Pid, chdir, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe2, read, setsid, write,
};

use crate::disk::{LOG, LogFile};
pub use lines::Lines;
pub use process::ProcessHandle;

/// Longest time from the open store to a mount that answers.
const READY_MAX: Duration = Duration::from_secs(30);
/// Longest time for a child that is told to end.
const END_MAX: Duration = Duration::from_secs(2);

/// One of the two processes.
pub enum Side {
    /// The one that was started.
    Parent(Parent),
    /// The one that goes on.
    Child(Child),
}

/// The parent's end.
pub struct Parent {
    child: Pid,
    pipe: OwnedFd,
}

/// The child's end.
pub struct Child {
    pipe: OwnedFd,
}

/// The result.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Programs can use the mount.
    Ready,
    /// The child's exit code and error.
    Failed(u8, String),
}

/// Forks. No other thread may run.
pub fn daemonize() -> io::Result<Side> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    // SAFETY: there is one thread, so the child has no lock held by a thread that it does not have.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Side::Parent(Parent { child, pipe: reader })),
        ForkResult::Child => {
            drop(reader);
            setsid()?;
            chdir("/")?;
            umask(Mode::empty());
            let null = open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
            dup2_stdin(&null)?;
            dup2_stdout(&null)?;
            Ok(Side::Child(Child { pipe: writer }))
        }
    }
}

impl Child {
    /// Reports that the store is open, and turns what is said from now on to its log; without one nobody hears it.
    pub fn opened(&self, log: Option<LogFile>, lines: &Lines) -> io::Result<()> {
        match log {
            Some(log) => lines.turn_to(log)?,
            None => dup2_stderr(open("/dev/null", OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?)?,
        }
        self.send(b"O")
    }

    /// Reports that programs can use the mount. Fails if the parent has gone: nobody waits for the mount any more.
    pub fn ready(&self) -> io::Result<()> {
        self.send(b"R")
    }

    /// Reports an error.
    pub fn failed(&self, code: u8, text: &str) {
        let message = [b"E", &[code][..], text.as_bytes()].concat();
        if self.send(&message).is_err() {
            log::error!("{text}");
        }
    }

    fn send(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = write(&self.pipe, bytes)?;
            bytes = &bytes[count..];
        }
        Ok(())
    }
}

impl Parent {
    /// Waits for the child's report. A child that says nothing for too long is ended.
    pub fn wait(self) -> io::Result<Outcome> {
        let mut received = Vec::new();
        let mut deadline: Option<Instant> = None;
        loop {
            let rest = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let timeout = match rest {
                Some(rest) => PollTimeout::try_from(rest).unwrap_or(PollTimeout::MAX),
                None => PollTimeout::NONE,
            };
            let mut ready = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLIN)];
            match poll(&mut ready, timeout) {
                Ok(0) => {
                    self.end();
                    let text = format!("the kernel did not show the mount within {} s", READY_MAX.as_secs());
                    return Ok(Outcome::Failed(32, text));
                }
                Ok(_) => {}
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let mut piece = [0; 4096];
            let count = read(&self.pipe, &mut piece)?;
            received.extend_from_slice(&piece[..count]);
            let report = received.strip_prefix(b"O").unwrap_or(&received);
            match report {
                [b'R', ..] => return Ok(Outcome::Ready),
                [b'E', code, text @ ..] if count == 0 => {
                    return Ok(Outcome::Failed(*code, String::from_utf8_lossy(text).into_owned()));
                }
                _ if count == 0 => {
                    let text = format!("the daemon died; {LOG} in the store may say why");
                    return Ok(Outcome::Failed(32, text));
                }
                _ if received.starts_with(b"O") && deadline.is_none() => {
                    deadline = Some(Instant::now() + READY_MAX);
                }
                _ => {}
            }
        }
    }

    /// Ends the child, gently first.
    fn end(&self) {
        // A child that is gone already needs no ending.
        let _ = kill(self.child, Signal::SIGTERM);
        let mut ready = [PollFd::new(self.pipe.as_fd(), PollFlags::POLLHUP)];
        let timeout = PollTimeout::try_from(END_MAX).unwrap_or(PollTimeout::MAX);
        if matches!(poll(&mut ready, timeout), Ok(0) | Err(_)) {
            let _ = kill(self.child, Signal::SIGKILL);
        }
    }
}

/// Tells systemd that a service of `Type=notify` is ready; without such a service nothing happens.
pub fn notify_ready() -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match name.as_bytes() {
        [b'@', abstract_name @ ..] => SocketAddr::from_abstract_name(abstract_name)?,
        _ => SocketAddr::from_pathname(&name)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(script: impl FnOnce(&Child)) -> Outcome {
        let (reader, writer) = pipe2(OFlag::O_CLOEXEC).unwrap();
        script(&Child { pipe: writer });
        Parent { child: Pid::this(), pipe: reader }.wait().unwrap()
    }

    #[test]
    fn the_parent_learns_how_it_went() {
        assert_eq!(outcome(|child| child.send(b"OR").unwrap()), Outcome::Ready);
        let failed = outcome(|child| {
            child.send(b"O").unwrap();
            child.failed(32, "no such device");
        });
        assert_eq!(failed, Outcome::Failed(32, "no such device".to_string()));
        assert!(matches!(outcome(|child| child.send(b"O").unwrap()), Outcome::Failed(32, _)));
        assert!(matches!(outcome(|_| ()), Outcome::Failed(32, _)));
    }
}
