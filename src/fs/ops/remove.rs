//! Names that go: unlink and rmdir, and what becomes of an inode that loses one.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::lookup::check_name;
use crate::engine::{Batch, Tier};
use crate::fs::counters::Change;
use crate::fs::dirent::Dirent;
use crate::fs::inode::Inode;
use crate::fs::inodes::{InodeCell, InodeState};
use crate::fs::keys;
use crate::fs::locks::Locked;
use crate::fs::operation::Op;
use crate::fs::ranges::Ranges;
use crate::fs::types::{Ino, Time};
use crate::fs::{Error, FileSystem, Result};

/// The fate of an inode that loses a name.
pub(in crate::fs) enum Fate {
    /// It lives on, with this record, under other names.
    Named(Inode),
    /// It lives on, with this record, until its last user leaves.
    Unnamed(Inode),
    /// It is deleted.
    Gone((Ranges, Change)),
}

impl FileSystem {
    /// Removes the name of a file that is not a directory.
    pub fn unlink(&self, tier: Tier, parent: Ino, name: &[u8]) -> Result<()> {
        self.remove(tier, Op::Unlink, parent, name)
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, tier: Tier, parent: Ino, name: &[u8]) -> Result<()> {
        self.remove(tier, Op::Rmdir, parent, name)
    }

    fn remove(&self, tier: Tier, op: Op, parent: Ino, name: &[u8]) -> Result<()> {
        self.require_writable()?;
        check_name(name)?;
        let directory = self.inodes.cell(parent, tier)?;
        loop {
            let (entry, child) = {
                let state = directory.read(tier)?;
                state.require_directory()?;
                self.child(parent, name, tier)?.ok_or(Error::NotFound)?
            };
            let mut locked = match Locked::write(&[&directory, &child], tier) {
                // The name went before the locks came: look again.
                Err(Error::Stale) => continue,
                locked => locked?,
            };
            if self.entry(parent, name, tier)? != Some(entry) {
                continue;
            }
            let is_directory = locked.of(entry.ino).record.is_directory();
            match op {
                Op::Rmdir if !is_directory => return Err(Error::NotDirectory),
                Op::Rmdir => self.require_empty(entry.ino, tier)?,
                _ if is_directory => return Err(Error::IsDirectory),
                _ => {}
            }
            let now = self.now();
            let hash = self.names.hash(name);
            let mut batch = Batch::new(op.tag());
            batch.uses_reserve = true;
            batch.delete(keys::dirent(parent, hash, name));
            let fate = self.lose_name(&child, locked.of(entry.ino), now, &mut batch, tier)?;
            let mut record = Inode { mtime: now, ctime: now, ..locked.of(parent).record.clone() };
            if is_directory {
                record.links -= record.links.min(1);
                batch.put(keys::inode(parent), record.encode());
            }
            self.apply(&mut batch, tier)?;
            self.names.remove(parent, hash);
            self.counters.add(Change::records(-(Dirent::record_bytes(name) as i64)));
            self.meet_fate(&child, locked.of_mut(entry.ino), fate);
            self.update_record(&directory, locked.of_mut(parent), record, is_directory);
            return Ok(());
        }
    }

    /// `NotEmpty` if the locked directory has names.
    pub(in crate::fs) fn require_empty(&self, directory: Ino, tier: Tier) -> Result<()> {
        let mut empty = true;
        self.engine.scan(keys::dirents_after(directory, 0).range(), tier, &mut |_, _| {
            empty = false;
            ControlFlow::Break(())
        })?;
        if empty { Ok(()) } else { Err(Error::NotEmpty) }
    }

    /// Adds to `batch` what follows when the locked inode loses a name; a directory loses its only one.
    pub(in crate::fs) fn lose_name(
        &self,
        cell: &Arc<InodeCell>,
        state: &InodeState,
        now: Time,
        batch: &mut Batch,
        tier: Tier,
    ) -> Result<Fate> {
        let mut record = Inode { ctime: now, ..state.record.clone() };
        record.links = if record.is_directory() { 0 } else { record.links - record.links.min(1) };
        if record.links > 0 {
            batch.put(keys::inode(cell.ino), record.encode());
            return Ok(Fate::Named(record));
        }
        if cell.is_referenced() {
            batch.put(keys::inode(cell.ino), record.encode());
            batch.put(keys::orphan(cell.ino), Vec::new());
            return Ok(Fate::Unnamed(record));
        }
        Ok(Fate::Gone(self.bury(cell.ino, state, batch, tier)?))
    }

    /// Makes what [`FileSystem::lose_name`] prepared true in memory.
    pub(in crate::fs) fn meet_fate(&self, cell: &Arc<InodeCell>, state: &mut InodeState, fate: Fate) {
        match fate {
            Fate::Named(record) => {
                state.record = record;
                state.deferred = None;
            }
            Fate::Unnamed(record) => {
                state.record = record;
                state.deferred = None;
                self.orphan(cell);
            }
            Fate::Gone(after) => self.buried(cell, state, after),
        }
    }
}
