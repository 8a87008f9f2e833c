//! Deferred deletion: inodes without a name that are still in use, and ranges of blocks.
//!
//! 1. An inode whose last name goes while it is used gets an orphan record in the same batch. When the last user leaves,
//!    background work *buries* it: one batch deletes inode, attributes and orphan record, and its blocks or, if
//!    they are many, leaves a reclaim record for them. An inode that nobody uses is buried at once.
//! 2. A reclaim record `(ino, epoch, from) -> to, bytes` promises that nobody needs the blocks `from..to`. Background
//!    work deletes a thousand at a time and shortens the record in the same batch.
//! 3. A range of a living file's current epoch is part of its [`InodeState`]: reading treats it as a hole, and a write
//!    inside it cuts it in the write's own batch. Reclaim of such a range holds the inode's lock. Ranges of
//!    former epochs and of buried inodes belong to the reclaimer alone.
//! 4. `bytes` of a record is how much is believed to lie in the range. Deleting does not rely on it; it decides whether
//!    absent blocks are worth looking for, and shows the debt.

use std::collections::{HashSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::counters::Change;
use super::draft::Draft;
use super::inode::HAS_XATTRS;
use super::inodes::{InodeCell, InodeState};
use super::keys::{self, Key};
use super::ranges::{Range, Ranges};
use super::types::Ino;
use super::{Error, FileSystem, Result};
use crate::engine::{Batch, Tier, WorkClass};
use crate::fs::operation::Op;

/// Deletes that wait, in memory.
#[derive(Default)]
pub(super) struct Orphans {
    /// Inodes without a name.
    open: AtomicU64,
    /// Those that nobody uses any more.
    unused: Mutex<HashSet<Ino>>,
    /// Reclaim records, by key. One that is no longer there is skipped.
    ranges: Mutex<VecDeque<(Ino, u32, u64)>>,
    pending_bytes: AtomicU64,
    /// Something waits in the two, and the last try at it did not fail.
    gives_space: AtomicBool,
    wake_signal: Arc<crate::engine::WakeSignal>,
}

impl Orphans {
    pub fn new(wake_signal: Arc<crate::engine::WakeSignal>) -> Orphans {
        Orphans { wake_signal, ..Orphans::default() }
    }

    /// The engine's wake signal.
    pub fn wake_signal(&self) -> &Arc<crate::engine::WakeSignal> {
        &self.wake_signal
    }

    /// Whether what is deleted will give space back that it takes now.
    pub fn gives_space(&self) -> bool {
        self.gives_space.load(Relaxed)
    }

    /// Background work cannot delete: nobody need wait for it before it has.
    pub fn stop_waiting(&self) {
        self.gives_space.store(false, Relaxed);
    }

    /// Looks whether anything waits.
    pub fn look(&self) {
        // Under both locks, so that nothing comes in between.
        let (unused, ranges) = (self.unused.lock(), self.ranges.lock());
        self.gives_space.store(!unused.is_empty() || !ranges.is_empty(), Relaxed);
    }

    fn notify(&self) {
        self.wake_signal.notify(WorkClass::Reclaim);
    }

    /// An inode lost its last name while it is used.
    pub fn opened(&self) {
        self.open.fetch_add(1, Relaxed);
    }

    /// An inode without a name is no longer used.
    pub fn queue(&self, ino: Ino) {
        let mut unused = self.unused.lock();
        unused.insert(ino);
        self.gives_space.store(true, Relaxed);
        drop(unused);
        self.notify();
    }

    /// Inodes without a name that exist.
    pub fn count(&self) -> u64 {
        self.open.load(Relaxed)
    }

    /// Bytes that reclaim still has to delete.
    pub fn pending_bytes(&self) -> u64 {
        self.pending_bytes.load(Relaxed)
    }

    /// The ranges of an epoch changed from `old` to `new`.
    pub fn changed(&self, ino: Ino, epoch: u32, old: &Ranges, new: &Ranges) {
        if old == new {
            return;
        }
        self.pending_bytes.fetch_add(new.bytes().wrapping_sub(old.bytes()), Relaxed);
        let mut queue = self.ranges.lock();
        let fresh = new.iter().filter(|range| !old.iter().any(|known| known.from == range.from));
        queue.extend(fresh.map(|range| (ino, epoch, range.from)));
        self.gives_space.fetch_or(!queue.is_empty(), Relaxed);
        drop(queue);
        self.notify();
    }
}

impl FileSystem {
    /// Notes that `cell` has lost its last name but lives on while it is used.
    pub(super) fn orphan(&self, cell: &InodeCell) {
        cell.unlink();
        self.orphans.opened();
        // The last user may have left between the question and the mark.
        self.bury_if_abandoned(Some(cell));
    }

    /// The kernel drops `references` of its lookups of `ino`.
    pub fn forget(&self, ino: Ino, references: u64) {
        self.bury_if_abandoned(self.inodes.forget(ino, references).as_deref());
    }

    /// Ends what [`FileSystem::open_file`] began.
    pub fn release_file(&self, ino: Ino) {
        self.bury_if_abandoned(self.inodes.release(ino).as_deref());
    }

    fn bury_if_abandoned(&self, cell: Option<&InodeCell>) {
        if let Some(cell) = cell.filter(|cell| cell.is_abandoned()) {
            self.orphans.queue(cell.ino);
        }
    }

    /// Adds to `batch` the deletion of an inode with all it has. Returns its ranges afterwards.
    pub(super) fn bury(
        &self,
        ino: Ino,
        state: &InodeState,
        batch: &mut Batch,
        tier: Tier,
    ) -> Result<(Ranges, Change)> {
        let mut draft = Draft::of(state.view(), batch);
        self.content(ino, tier).clear(&mut draft)?;
        let pending = draft.pending;
        pending.write_difference(&state.pending, ino, state.record.epoch, batch);
        let mut change = Change::removed(&state.record);
        if state.record.has(HAS_XATTRS) {
            self.engine.scan(keys::xattrs_of(ino).range(), tier, &mut |key, value| {
                batch.delete(key.to_vec());
                change.record_bytes -= (key.len() + value.len()) as i64;
                ControlFlow::Continue(())
            })?;
        }
        batch.delete(keys::inode(ino));
        batch.uses_reserve = true;
        Ok((pending, change))
    }

    /// Makes what [`FileSystem::bury`] prepared true in memory.
    pub(super) fn buried(&self, cell: &InodeCell, state: &mut InodeState, after: (Ranges, Change)) {
        let (pending, change) = after;
        self.orphans.changed(cell.ino, state.record.epoch, &state.pending, &pending);
        self.counters.add(change);
        self.inodes.retire(cell, state);
    }

    /// Buries one inode that nobody uses. False if there is none.
    pub(super) fn bury_one(&self) -> Result<bool> {
        let Some(ino) = self.orphans.unused.lock().iter().next().copied() else { return Ok(false) };
        match self.bury_orphan(ino) {
            Ok(()) | Err(Error::Stale) => {
                self.orphans.unused.lock().remove(&ino);
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    fn bury_orphan(&self, ino: Ino) -> Result<()> {
        let cell = self.inodes.cell(ino, Tier::Disk)?;
        let mut state = cell.write(Tier::Disk)?;
        if cell.is_referenced() || state.record.links > 0 {
            return Ok(());
        }
        let mut batch = Batch::new(Op::Reclaim.tag());
        let after = self.bury(ino, &state, &mut batch, Tier::Disk)?;
        batch.delete(keys::orphan(ino));
        self.apply(&mut batch, Tier::Disk)?;
        self.buried(&cell, &mut state, after);
        self.orphans.open.fetch_sub(1, Relaxed);
        Ok(())
    }

    /// Deletes one unit of a range. False if there is none.
    pub(super) fn reclaim_unit(&self) -> Result<bool> {
        let Some((ino, epoch, from)) = self.orphans.ranges.lock().front().copied() else { return Ok(false) };
        let next = self.reclaim_blocks(ino, epoch, from)?;
        let mut queue = self.orphans.ranges.lock();
        queue.pop_front();
        if let Some(next) = next {
            queue.push_front((ino, epoch, next));
        }
        Ok(true)
    }

    /// Deletes blocks of the range that begins at `from`; returns where the rest begins.
    fn reclaim_blocks(&self, ino: Ino, epoch: u32, from: u64) -> Result<Option<u64>> {
        let cell = match self.inodes.cell(ino, Tier::Disk) {
            Ok(cell) => Some(cell),
            Err(Error::Stale) => None,
            Err(error) => return Err(error),
        };
        let mut state = match cell.as_ref().map(|cell| cell.write(Tier::Disk)).transpose() {
            Ok(state) => state.filter(|state| state.record.epoch == epoch),
            Err(Error::Stale) => None,
            Err(error) => return Err(error),
        };
        // The lock, if the range belongs to a living file, is held from here on; else it is the reclaimer's alone.
        let key = keys::reclaim(ino, epoch, from);
        let Some(value) = self.engine.get(&key, Tier::Disk)? else { return Ok(None) };
        let range = Range::decode(from, &value)?;
        let mut batch = Batch::new(Op::Reclaim.tag());
        batch.uses_reserve = true;
        let next = self.content(ino, Tier::Disk).reclaim(epoch, range, &mut batch)?;
        let rest = (next < range.to).then(|| range.after(next));
        if let (Some(cell), Some(state)) = (&cell, &mut state) {
            let mut draft = Draft::of(state.view(), &mut batch);
            draft.pending.cut(from, next);
            self.commit(cell, state, draft, true, Tier::Disk)?;
            // What is left is a changed range, which `commit` has queued.
            return Ok(None);
        }
        batch.delete(key);
        if let Some(rest) = rest {
            batch.put(keys::reclaim(ino, epoch, rest.from), rest.encode());
        }
        self.apply(&mut batch, Tier::Disk)?;
        let freed = range.bytes - rest.map_or(0, |rest| rest.bytes);
        self.orphans.pending_bytes.fetch_sub(freed, Relaxed);
        Ok(rest.map(|rest| rest.from))
    }

    /// Finds what a former run left: buries its orphans (unless read-only) and queues its ranges.
    pub(super) fn adopt_leftovers(&self) -> Result<()> {
        let mut orphans = Vec::new();
        self.engine.scan(keys::orphans().range(), Tier::Disk, &mut |key, _| {
            if let Some(Key::Orphan { ino }) = keys::parse(key) {
                orphans.push(ino);
            }
            ControlFlow::Continue(())
        })?;
        self.orphans.open.store(orphans.len() as u64, Relaxed);
        let mut problem = None;
        self.engine.scan(keys::reclaims().range(), Tier::Disk, &mut |key, value| {
            if let Some(Key::Reclaim { ino, epoch, from }) = keys::parse(key) {
                match Range::decode(from, value) {
                    Ok(range) => {
                        self.orphans.pending_bytes.fetch_add(range.bytes, Relaxed);
                        self.orphans.ranges.lock().push_back((ino, epoch, from));
                    }
                    Err(error) => problem = Some(error),
                }
            }
            ControlFlow::Continue(())
        })?;
        if let Some(problem) = problem {
            return Err(problem);
        }
        if !self.options.read_only {
            self.orphans.look();
            for ino in orphans {
                match self.patiently(|| self.bury_orphan(ino)) {
                    // A mark without an inode is `check`'s to report; it does not keep the store from opening.
                    Err(Error::Stale) => log::warn!("orphan record of inode {ino}, which does not exist"),
                    result => result?,
                }
            }
        }
        Ok(())
    }
}
