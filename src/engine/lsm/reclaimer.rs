//! Removes what has lost its last reader: table files, segments and survivors, flushed memtables. Verification reads on in the same class
//! of work, since it takes as long and is as little urgent.

use std::sync::Arc;
use std::time::Duration;

use super::commands::PendingCommand;
use super::core::Core;
use super::survivors::Survivors;
use super::version_set::VersionSet;
use crate::engine::{Pending, Result};

/// Time after which to look again whether the last reader of a flushed memtable is gone.
const RETIRED_AGAIN: Duration = Duration::from_millis(5);

/// Removes what nobody needs any more.
pub struct Reclaimer {
    core: Arc<Core>,
    versions: Arc<VersionSet>,
    survivors: Arc<Survivors>,
}

impl Reclaimer {
    /// The reclaimer of the store whose versions are `versions`.
    pub fn new(core: Arc<Core>, versions: Arc<VersionSet>, survivors: Arc<Survivors>) -> Reclaimer {
        Reclaimer { core, versions, survivors }
    }

    /// One unit of work.
    pub fn work(&self) -> Result<Pending> {
        if self.core.table_store.reclaim() {
            return Ok(Pending::More);
        }
        self.core.space.keep_ballast(&self.versions.superversion().version);
        self.survivors.reclaim();
        if let Some((mut verification, done)) = self.core.commands.take_verification() {
            match verification.step(&self.core.table_store) {
                Ok(false) => self.core.commands.add(PendingCommand::Verify(verification), done),
                Ok(true) => done(Ok(())),
                Err(error) => done(Err(error)),
            }
            return Ok(Pending::More);
        }
        Ok(if self.versions.free_retired() { Pending::Idle } else { Pending::After(RETIRED_AGAIN) })
    }

    /// Removes every file that nobody needs.
    pub fn finish(&self) {
        while self.core.table_store.reclaim() {}
        self.survivors.reclaim();
        self.core.space.keep_ballast(&self.versions.superversion().version);
    }
}
