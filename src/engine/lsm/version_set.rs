//! The version set: which memtables and tables make up the store now, and the manifest in which that is durable.
//!
//! # Invariants
//!
//! 1. Tables change only under the manifest's lock, which is held across the disk requests of an edit; the view, which readers copy, is
//!    locked for memory only.
//! 2. An edit is durable before what it says can be seen.

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard, RwLock};

use super::manifest::{Edit, Manifest};
use super::memtable::Memtable;
use super::retired::Retired;
use super::table::Table;
use super::version::{Version, View};
use crate::disk::LEVELS;
use crate::engine::Result;

/// What makes up a store.
pub struct VersionSet {
    view: RwLock<Arc<View>>,
    manifest: Mutex<Manifest>,
    retired: Retired,
}

impl VersionSet {
    /// `view` as `manifest` has it.
    pub fn new(view: View, manifest: Manifest) -> VersionSet {
        let (view, manifest) = (RwLock::new(Arc::new(view)), Mutex::new(manifest));
        VersionSet { view, manifest, retired: Retired::default() }
    }

    /// Everything a read needs, as it is now.
    pub fn view(&self) -> Arc<View> {
        self.view.read().clone()
    }

    /// What `look` sees of it under its lock: who is about to wait for the disk must keep no memtable.
    pub fn look<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        look(&self.view.read())
    }

    /// Memtables that were flushed and are not freed yet.
    pub fn retired(&self) -> &Retired {
        &self.retired
    }

    /// Makes the mutable memtable immutable; false if it is empty. Only for who holds the lock of writers.
    pub fn rotate(&self) -> bool {
        let mut view = self.view.write();
        if view.mutable.is_empty() {
            return false;
        }
        let mut immutables = view.immutables.clone();
        immutables.insert(0, view.mutable.clone());
        let mutable = Arc::new(Memtable::new(view.mutable.last()));
        *view = Arc::new(View { mutable, immutables, version: view.version.clone() });
        true
    }

    /// Where the policy goes on in each level, as the manifest has it.
    pub fn cursors(&self) -> [Bytes; LEVELS] {
        self.manifest.lock().state().cursors.clone()
    }

    /// Takes the lock under which tables change; waits for the edit that is on its way.
    pub fn change(&self) -> Change<'_> {
        Change { set: self, manifest: self.manifest.lock() }
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
    /// retired. `assess` notes in the version what the policy thinks of it. Costs what it changes, not what there is. The view before,
    /// which is best dropped where nobody waits.
    pub fn install(
        &mut self,
        edit: &Edit,
        removed: &[(usize, Arc<Table>)],
        added: &[(usize, Arc<Table>)],
        flushed: Option<&Arc<Memtable>>,
        assess: impl FnOnce(&mut Version),
    ) -> Result<Arc<View>> {
        let mut version = self.set.view().version.edit(removed, added)?;
        assess(&mut version);
        let version = Arc::new(version);
        self.manifest.append(edit)?;
        if let Some(memtable) = flushed {
            self.set.retired.add(memtable.clone());
        }
        let mut view = self.set.view.write();
        let is_left =
            |memtable: &&Arc<Memtable>| flushed.is_none_or(|flushed| !Arc::ptr_eq(memtable, flushed));
        let immutables = view.immutables.iter().filter(is_left).cloned().collect();
        let new = Arc::new(View { mutable: view.mutable.clone(), immutables, version });
        Ok(std::mem::replace(&mut *view, new))
    }

    /// Changes what is noted in the newest version.
    pub fn revise(&mut self, note: impl FnOnce(&mut Version)) {
        let mut version = (*self.set.view().version).clone();
        note(&mut version);
        let mut view = self.set.view.write();
        let (mutable, immutables) = (view.mutable.clone(), view.immutables.clone());
        *view = Arc::new(View { mutable, immutables, version: Arc::new(version) });
    }

    /// What the manifest says.
    #[cfg(test)]
    pub fn state(&self) -> &super::manifest::State {
        self.manifest.state()
    }
}
