//! The version set: the memtables and tables that make up the store now, the manifest in which that is durable, and the view that the
//! policy in force has of it.
//!
//! # Invariants
//!
//! 1. Tables change only under the manifest's lock, which is held across the disk requests of an edit; the superversion, which readers copy, is
//!    locked for memory only.
//! 2. An edit is durable before what it says can be seen.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard, RwLock};

use super::compaction::{Levels, Policy};
use super::core::Core;
use super::manifest::{Edit, Manifest};
use super::memory_budget::MemoryBudget;
use super::memtable::Memtable;
use super::retired::Retired;
use super::set_aside::SetAside;
use super::table::{Table, TableNumber};
use super::totals::Totals;
use super::version::{Owed, Superversion, Version};
use crate::disk::LEVELS;
use crate::engine::{AtomicLsn, Error, Lsn, Result, WorkClass};

/// The newest superversion. Who holds it can read the store and change nothing.
pub struct CurrentSuperversion(RwLock<Arc<Superversion>>);

impl CurrentSuperversion {
    /// Everything a read needs, as it is now.
    pub fn superversion(&self) -> Arc<Superversion> {
        self.0.read().clone()
    }

    /// Result of `look` at it under its lock. A caller who is about to wait for the disk must keep no memtable.
    pub fn look<T>(&self, look: impl FnOnce(&Superversion) -> T) -> T {
        look(&self.0.read())
    }
}

/// The version set of a store.
pub struct VersionSet {
    core: Arc<Core>,
    current: Arc<CurrentSuperversion>,
    manifest: Mutex<Manifest>,
    /// Everything up to here is in tables.
    flushed: AtomicLsn,
    retired: Retired,
    memory: MemoryBudget,
    set_aside: SetAside,
}

impl VersionSet {
    /// `superversion` as `manifest` has it.
    pub fn new(
        core: Arc<Core>,
        superversion: Superversion,
        manifest: Manifest,
        memory: MemoryBudget,
    ) -> VersionSet {
        VersionSet {
            core: core.clone(),
            current: Arc::new(CurrentSuperversion(RwLock::new(Arc::new(superversion)))),
            flushed: AtomicLsn::new(manifest.state().log_lsn),
            manifest: Mutex::new(manifest),
            retired: Retired::default(),
            memory,
            set_aside: SetAside::new(core),
        }
    }

    /// The part of it that readers hold.
    pub fn current(&self) -> &Arc<CurrentSuperversion> {
        &self.current
    }

    /// Everything a read needs, as it is now.
    pub fn superversion(&self) -> Arc<Superversion> {
        self.current.superversion()
    }

    /// Memtables that were flushed and are not freed yet.
    pub fn retired(&self) -> &Retired {
        &self.retired
    }

    /// The division of its memory.
    pub fn memory(&self) -> &MemoryBudget {
        &self.memory
    }

    /// Tables and segments that compactions cannot read.
    pub fn set_aside(&self) -> &SetAside {
        &self.set_aside
    }

    /// LSN up to which all batches are in tables.
    pub fn flushed(&self) -> Lsn {
        self.flushed.load(Ordering::Acquire)
    }

    /// Makes the mutable memtable immutable; false if it is empty. Only for who holds the lock of writers.
    pub fn rotate(&self) -> bool {
        let mut superversion = self.current.0.write();
        if superversion.mutable.is_empty() {
            return false;
        }
        let mut immutables = superversion.immutables.clone();
        immutables.insert(0, superversion.mutable.clone());
        let mutable = Arc::new(Memtable::new(superversion.mutable.last()));
        *superversion = Arc::new(Superversion { mutable, immutables, version: superversion.version.clone() });
        true
    }

    /// Key at which the policy goes on in each level, as the manifest has it.
    pub fn cursors(&self) -> [Bytes; LEVELS] {
        self.manifest.lock().state().cursors.clone()
    }

    /// Takes the lock under which tables change; waits for the edit that is on its way.
    pub fn change(&self) -> Change<'_> {
        Change { set: self, manifest: self.manifest.lock() }
    }

    /// Frees the flushed memtables that nobody reads any more; whether none is left.
    pub fn free_retired(&self) -> bool {
        let (any, is_empty) = self.retired.free_unread();
        if any {
            self.balance_memory();
            self.core.wake_signal.notify(WorkClass::Room);
        }
        is_empty
    }

    /// Gives the cache the memory that memtables and tables leave.
    pub fn balance_memory(&self) {
        self.memory.balance(self.superversion().memtable_bytes() + self.retired.bytes());
    }

    /// The picture that the policy sees of a version now.
    pub fn picture(&self, version: &Version) -> Levels {
        let mut levels = version.picture(self.core.now_seconds());
        levels.aside = self.set_aside.tables();
        levels
    }

    /// Notes the policy's view of a version in it. Asked after every edit: policies look at sums of levels and at runs, not at every
    /// table.
    pub fn assess(&self, version: &mut Version) {
        let picture = self.picture(version);
        let assessment = self.core.mutable_options.policy().assess(&picture);
        version.totals = Totals::of(&picture, version.needed().bytes(), &assessment);
        (version.pending_bytes, version.lowers_l0) = (assessment.pending_bytes, assessment.lowers_l0);
        let (owed, forgiven) = (version.owed(), version.forgiven);
        version.forgiven = Owed {
            l0_files: owed.l0_files.min(forgiven.l0_files),
            pending_bytes: owed.pending_bytes.min(forgiven.pending_bytes),
        };
    }

    /// Lets writers go on whatever another policy left to the one in force, which has just come: debt that is over a limit now does not
    /// count for that limit, as long as it is there.
    pub fn forgive(&self) {
        self.change().revise(|version| {
            version.forgiven = Owed { l0_files: u64::MAX, pending_bytes: u64::MAX };
            self.assess(version);
            let (options, owed) = (&self.core.options, version.forgiven);
            let over = |amount: u64, limit: u64| if amount >= limit { amount } else { 0 };
            version.forgiven = Owed {
                l0_files: over(owed.l0_files, options.l0_slowdown),
                pending_bytes: over(owed.pending_bytes, options.pending_slowdown_bytes),
            };
        });
    }

    /// Sets the table aside whose damage `error` reports, if it is part of the store; whether it is.
    pub fn set_table_aside(&self, error: &Error) -> bool {
        let Some(file) = error.unread_file() else { return false };
        let version = self.superversion().version.clone();
        let found =
            TableNumber::of_file(file).filter(|it| version.tables().any(|(_, table)| table.number == *it));
        let Some(number) = found else { return false };
        self.set_aside.note_table(number, error);
        self.change().revise(|version| self.assess(version));
        true
    }
}

/// The right to change the tables.
pub struct Change<'a> {
    set: &'a VersionSet,
    manifest: MutexGuard<'a, Manifest>,
}

impl Change<'_> {
    /// Whether a sync of the manifest has failed: an edit that was refused may be durable all the same.
    pub fn is_failed(&self) -> bool {
        self.manifest.is_failed()
    }

    /// Makes `edit` durable and then visible: `removed` tables, which it names, go, `added` ones come, a flushed memtable goes and is
    /// retired. Tells those who wait for what it brings. Costs what it changes, not what there is.
    pub fn install(
        &mut self,
        edit: &Edit,
        removed: &[(usize, Arc<Table>)],
        added: &[(usize, Arc<Table>)],
        flushed: Option<&Arc<Memtable>>,
    ) -> Result<()> {
        let (set, core) = (self.set, &self.set.core);
        let mut version = set.superversion().version.edit(removed, added)?;
        set.assess(&mut version);
        let version = Arc::new(version);
        self.manifest.append(edit)?;
        if let Some(memtable) = flushed {
            set.retired.add(memtable.clone());
        }
        let replaced = self.replace(version.clone(), flushed);
        if let Some(lsn) = edit.log_lsn {
            set.flushed.store(lsn, Ordering::Release);
        }
        core.space.shortage.expect_space();
        let gone = |(_, table): &&(usize, Arc<Table>)| added.iter().all(|(_, it)| it.number != table.number);
        let gone: Vec<&Arc<Table>> = removed.iter().filter(gone).map(|(_, table)| table).collect();
        set.set_aside.forget(&gone, &version);
        gone.iter().for_each(|table| table.retire());
        // Not under the lock of the superversion: it may be the last that holds tables and memtables.
        drop(replaced);
        set.balance_memory();
        core.wake_signal.notify(WorkClass::Room);
        core.wake_signal.notify(WorkClass::Merge);
        Ok(())
    }

    /// Puts `version` in the place of the newest one, without the memtable that was `flushed`. The superversion before.
    fn replace(&self, version: Arc<Version>, flushed: Option<&Arc<Memtable>>) -> Arc<Superversion> {
        let mut superversion = self.set.current.0.write();
        let is_left =
            |memtable: &&Arc<Memtable>| flushed.is_none_or(|flushed| !Arc::ptr_eq(memtable, flushed));
        let immutables = superversion.immutables.iter().filter(is_left).cloned().collect();
        let new = Arc::new(Superversion { mutable: superversion.mutable.clone(), immutables, version });
        std::mem::replace(&mut *superversion, new)
    }

    /// Changes the notes in the newest version.
    fn revise(&mut self, note: impl FnOnce(&mut Version)) {
        let mut version = (*self.set.superversion().version).clone();
        note(&mut version);
        drop(self.replace(Arc::new(version), None));
    }

    /// Contents of the manifest.
    #[cfg(test)]
    pub fn state(&self) -> &super::manifest::ManifestState {
        self.manifest.state()
    }
}
