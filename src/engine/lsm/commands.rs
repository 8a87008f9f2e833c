//! Commands that have not ended: flushes, merges and verifications that somebody has asked for.

use parking_lot::Mutex;

use super::verify::Verification;
use crate::engine::{Done, Lsn, Result};

/// A command that has not ended.
pub enum PendingCommand {
    /// Ends when everything up to the LSN is in tables.
    Flush(Lsn),
    /// As a flush; then a compaction of a level into the next, or of everything, begins, and the command ends with it.
    Compact {
        /// LSN up to which everything must be in tables before.
        lsn: Lsn,
        /// The level; `None` is everything.
        level: Option<usize>,
        /// Whether the job that runs serves it.
        is_started: bool,
    },
    /// Reads everything.
    Verify(Box<Verification>),
}

/// The commands of a store, in the order in which they came.
#[derive(Default)]
pub struct Commands(Mutex<Vec<(PendingCommand, Done)>>);

impl Commands {
    /// Adds a command; `done` is called when it ends.
    pub fn add(&self, task: PendingCommand, done: Done) {
        self.0.lock().push((task, done));
    }

    /// Ends the commands that `wanted` picks.
    pub fn end(&self, result: &Result<()>, wanted: impl Fn(&PendingCommand) -> bool) {
        let ended: Vec<(PendingCommand, Done)> =
            self.0.lock().extract_if(.., |(task, _)| wanted(task)).collect();
        for (_, done) in ended {
            done(result.clone());
        }
    }

    /// Takes a verification, so that a step of it can be done without a lock.
    pub fn take_verification(&self) -> Option<(Box<Verification>, Done)> {
        let mut commands = self.0.lock();
        let at = commands.iter().position(|(task, _)| matches!(task, PendingCommand::Verify(_)))?;
        match commands.remove(at) {
            (PendingCommand::Verify(verification), done) => Some((verification, done)),
            other => {
                commands.insert(at, other);
                None
            }
        }
    }

    /// Whether a compact command waits whose flush is done, everything up to `flushed` being in tables.
    pub fn is_compact_due(&self, flushed: Lsn) -> bool {
        let is_due =
            |task: &PendingCommand| matches!(task, PendingCommand::Compact { lsn, .. } if *lsn <= flushed);
        self.0.lock().iter().any(|(task, _)| is_due(task))
    }

    /// Marks the compact commands whose flush is done and that one merge serves, the first of them and its like: the merge that
    /// begins now serves them. The level that they ask for; `None` is everything.
    pub fn start_compact(&self, flushed: Lsn) -> Option<usize> {
        let mut served = None;
        for (task, _) in self.0.lock().iter_mut() {
            if let PendingCommand::Compact { lsn, level, is_started } = task
                && *lsn <= flushed
            {
                *is_started = *served.get_or_insert(*level) == *level;
            }
        }
        served.flatten()
    }
}
