//! The end of a daemon as `kvfs umount` sees it: waiting for it, and how it left the store.

use std::path::Path;
use std::time::{Duration, Instant};

use super::lock::{BUSY_WAIT, CLOSED, CLOSING, CLOSING_WAIT, LEFT, LOST};
use crate::daemon::ProcessHandle;
use crate::disk::{Held, InUse};
use crate::store::location::{self, Seats};

/// Interval at which the lock is looked at while a process is waited for.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The process that a lock's text names.
pub(super) fn pid_in(holder: &str) -> Option<u32> {
    holder.split([' ', ',']).find_map(|word| word.parse().ok())
}

/// What the holder of a directory has written into its lock; `None` if nobody has it.
fn holder_of(held: &Held) -> Option<String> {
    InUse::of(&held.let_go().err()?).map(|in_use| in_use.holder.clone())
}

/// The seat of the mount of this machine that writes to the store at `url`, if there is one.
fn seat_of(url: &str) -> Option<Held> {
    Held::find(&Seats::of(url).ok()?.writer()).ok().flatten()
}

/// State of a store after an unmount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Closed {
    /// Nothing is left to do.
    Whole,
    /// The next mount has to do something first: a sentence.
    Left(String),
    /// What no sync had made durable is lost: a sentence.
    Lost(String),
    /// Somebody has it open for longer than closing takes.
    InUse,
}

/// The daemon of a store that is about to be unmounted: its end can be waited for, whatever becomes of the store's name and of the
/// process's number.
pub struct Closing {
    /// The store's directory, if somebody has it open for writing and we may see it.
    held: Option<Held>,
    process: Option<ProcessHandle>,
    /// The process's number, as its lock's text has it.
    pid: Option<u32>,
}

impl Closing {
    /// Of the store in `path`, or of no store, which the process `pid` serves, as far as that is known. To be called while it is mounted.
    pub fn of(path: Option<&Path>, pid: Option<u32>) -> Closing {
        // A store of which we may see nothing is waited for by its process alone.
        let held = path.and_then(|path| match location::url(path) {
            None => Held::find(path).ok().flatten(),
            // The seat may be that of another mount: this one may only read.
            Some(url) => {
                seat_of(url).filter(|held| holder_of(held).is_some_and(|holder| pid_in(&holder) == pid))
            }
        });
        let busy = held.as_ref().and_then(|held| held.let_go().err());
        let pid = pid.or_else(|| pid_in(&InUse::of(&busy?)?.holder));
        Closing { held, process: pid.and_then(ProcessHandle::older), pid }
    }

    /// Waits until the store is closed.
    pub fn wait(&self) -> Closed {
        let begun = Instant::now();
        loop {
            let has_ended = match &self.process {
                // It tells at once. The lock is looked at as well, in case the number is one of another namespace.
                Some(process) => process.wait(LOOK_AGAIN),
                None => {
                    std::thread::sleep(Duration::from_millis(20));
                    false
                }
            };
            let Some(held) = &self.held else {
                // Nothing is written for a read-only mount, and nothing left to do.
                let is_over = has_ended || self.process.is_none() || begun.elapsed() > BUSY_WAIT;
                if is_over { return Closed::Whole } else { continue }
            };
            let busy = match held.let_go() {
                Ok(holder) => return Closed::of(&holder),
                Err(error) => error,
            };
            let Some(InUse { holder }) = InUse::of(&busy) else { return Closed::InUse };
            // Before it says that it closes the store it may be slow as well.
            let is_closing = holder.ends_with(CLOSING) || self.pid.is_some() && pid_in(holder) == self.pid;
            let patience = if is_closing { CLOSING_WAIT } else { BUSY_WAIT };
            if has_ended {
                // Another has it by now.
                return Closed::Whole;
            }
            if begun.elapsed() > patience {
                return Closed::InUse;
            }
        }
    }
}

impl Closed {
    /// By what the last holder has written into the lock.
    fn of(holder: &str) -> Closed {
        if let Some((_, what)) = holder.split_once(LOST) {
            return Closed::Lost(what.to_string());
        }
        match holder.split_once(LEFT) {
            Some((_, what)) => Closed::Left(what.to_string()),
            None if holder.ends_with(CLOSED) => Closed::Whole,
            None => Closed::Left("the daemon ended before it had closed the store".to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Access, OsDisk};

    #[test]
    fn a_daemon_may_take_its_time_before_it_says_that_it_closes() {
        let home = tempfile::tempdir().unwrap();
        let disk = OsDisk::open(home.path(), Access::Write).unwrap();
        let pid = std::process::id();
        disk.name_holder(&format!("kvfs, pid {pid}, mounted at /mnt/kv")).unwrap();
        let closing = Closing::of(Some(home.path()), Some(pid));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(BUSY_WAIT + Duration::from_secs(1));
                disk.name_holder(CLOSED).unwrap();
                drop(disk);
            });
            assert_eq!(closing.wait(), Closed::Whole);
        });
    }
}
