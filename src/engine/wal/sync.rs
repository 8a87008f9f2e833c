//! Making the log durable: one sync for everyone who waits.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::segment::segment_name;
use super::{HEADER_BYTES, Log, Waiter};
use crate::disk::{File, Purpose};
use crate::engine::{Done, Error, Lsn, Pending, Result, Sync, WorkClass};

/// A sync of less is dominated by its fixed costs.
pub const SMALL_SYNC_BYTES: u64 = 64 << 10;

impl Log {
    /// Calls `done` when everything below `lsn` is durable: now, or from [`Log::work`].
    pub fn sync_to(&self, lsn: Lsn, done: Done) {
        let mut state = self.state.lock();
        let answer = match &state.failed {
            Some(error) => Err(error.clone()),
            None if lsn <= state.synced => Ok(()),
            None => {
                state.waiters.push(Waiter { lsn, done });
                drop(state);
                self.wake_signal.notify(WorkClass::Log);
                return;
            }
        };
        drop(state);
        done(answer);
    }

    /// One unit of log work: one sync for everyone who waits, or for the timer; a spare segment made ahead.
    pub fn work(&self) -> Result<Pending> {
        let wanted = {
            let state = self.state.lock();
            let due = match (self.sync, state.oldest_unsynced) {
                (Sync::Interval(every), Some(oldest)) => {
                    let age = self.clock.elapsed().saturating_sub(oldest);
                    if age >= every { Some(Duration::ZERO) } else { Some(every - age) }
                }
                // Look again after an interval, so that an append need not wake anyone.
                (Sync::Interval(every), None) => Some(every),
                _ => None,
            };
            match (state.waiters.is_empty(), due) {
                (false, _) | (_, Some(Duration::ZERO)) => None,
                (true, Some(wait)) => Some(Pending::After(wait)),
                (true, None) => Some(Pending::Idle),
            }
        };
        match wanted {
            None => {
                self.sync_now()?;
                Ok(Pending::More)
            }
            Some(pending) => {
                self.prepare()?;
                Ok(pending)
            }
        }
    }

    /// Makes everything appended so far durable and answers its waiters.
    pub fn sync_now(&self) -> Result<()> {
        let _one = self.syncing.lock();
        let (files, target, names) = {
            let mut state = self.state.lock();
            if let Some(error) = state.failed.clone() {
                let waiters = std::mem::take(&mut state.waiters);
                drop(state);
                waiters.into_iter().for_each(|waiter| (waiter.done)(Err(error.clone())));
                return Err(error);
            }
            // Programs wait, and for little: the next ones shall wait less.
            let unsynced_bytes = state.end - state.synced;
            if !state.waiters.is_empty() && unsynced_bytes < SMALL_SYNC_BYTES {
                let end = state.end;
                if let Some(live) = state.segments.back_mut() {
                    live.fill_ahead(HEADER_BYTES + (end - live.segment.start), end);
                }
            }
            let mut files = Vec::new();
            for live in state.segments.iter_mut().filter(|live| live.dirty) {
                live.dirty = false;
                files.push((live.segment.slot, live.segment.file.clone()));
            }
            // From here on new bytes are younger than this moment.
            state.oldest_unsynced = None;
            (files, state.end, std::mem::take(&mut state.names_dirty))
        };
        let result = self.sync_files(&files, names);
        let mut state = self.state.lock();
        let mut ready = Vec::new();
        match &result {
            Ok(()) => {
                state.synced = state.synced.max(target);
                if state.end > target && state.oldest_unsynced.is_none() {
                    state.oldest_unsynced = Some(self.clock.elapsed());
                }
                let waiters = std::mem::take(&mut state.waiters);
                for waiter in waiters {
                    if waiter.lsn <= target { ready.push(waiter) } else { state.waiters.push(waiter) }
                }
            }
            Err(error) => {
                state.failed = Some(error.clone());
                ready = std::mem::take(&mut state.waiters);
            }
        }
        drop(state);
        for waiter in ready {
            (waiter.done)(result.clone());
        }
        result
    }

    fn sync_files(&self, files: &[(u64, Arc<dyn File>)], names: bool) -> Result<()> {
        if names {
            self.disk.sync_names().map_err(|error| Error::io("sync of the directory", error))?;
        }
        for (slot, file) in files {
            let context = |error: io::Error| Error::io(format!("sync of {}", segment_name(*slot)), error);
            file.sync(Purpose::Wal).map_err(context)?;
        }
        Ok(())
    }
}
