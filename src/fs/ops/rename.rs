//! Rename, with its three ways to treat an existing target, and the whiteout that it may leave behind.

use super::lookup::check_name;
use crate::engine::{Batch, Tier};
use crate::fs::counters::Change;
use crate::fs::dirent::Dirent;
use crate::fs::error::damaged;
use crate::fs::inode::Inode;
use crate::fs::keys;
use crate::fs::locks::{self, Locked};
use crate::fs::operation::Op;
use crate::fs::types::{Caller, FileKind, Ino, ROOT, RenameMode};
use crate::fs::{Error, FileSystem, Result};

/// Deeper trees are taken for a cycle, which only damage can make.
const DEPTH_MAX: usize = 1 << 20;

impl FileSystem {
    /// Moves `name` in `parent` to `new_name` in `new_parent`. With `whiteout`, the caller of whom it will be, the old name then
    /// stands for a *whiteout*: a character device 0:0 that nobody may open, by which a union of directories knows that the name is gone;
    /// both happen in one batch. `Invalid` if that would make a directory its own ancestor, and for an exchange with a whiteout.
    pub fn rename(
        &self,
        tier: Tier,
        (parent, name): (Ino, &[u8]),
        (new_parent, new_name): (Ino, &[u8]),
        mode: RenameMode,
        whiteout: Option<Caller>,
    ) -> Result<()> {
        self.require_writable()?;
        if whiteout.is_some() && mode == RenameMode::Exchange {
            return Err(Error::Invalid);
        }
        check_name(name)?;
        check_name(new_name)?;
        let across = parent != new_parent;
        let _renaming = if across { Some(locks::mutex(&self.locks.renaming, tier)?) } else { None };
        let (old_directory, new_directory) =
            (self.inodes.cell(parent, tier)?, self.inodes.cell(new_parent, tier)?);
        loop {
            let (source, moved) = {
                let state = old_directory.read(tier)?;
                state.require_directory()?;
                self.child(parent, name, tier)?.ok_or(Error::NotFound)?
            };
            let target = {
                let state = new_directory.read(tier)?;
                state.require_directory()?;
                self.child(new_parent, new_name, tier)?
            };
            match (mode, &target) {
                (RenameMode::NoReplace, Some(_)) => return Err(Error::Exists),
                (RenameMode::Exchange, None) => return Err(Error::NotFound),
                _ => {}
            }
            if across {
                // Only renames between directories move one below another, and this is the only one.
                if source.kind == FileKind::Directory && self.is_within(new_parent, source.ino, tier)? {
                    return Err(Error::Invalid);
                }
                if let Some((entry, _)) = &target
                    && entry.kind == FileKind::Directory
                    && self.is_within(parent, entry.ino, tier)?
                {
                    let exchange = mode == RenameMode::Exchange;
                    return Err(if exchange { Error::Invalid } else { Error::NotEmpty });
                }
            }

            let mut cells = vec![&old_directory, &new_directory, &moved];
            cells.extend(target.iter().map(|(_, cell)| cell));
            let mut locked = match Locked::write(&cells, tier) {
                // A name went before the locks came: look again.
                Err(Error::Stale) => continue,
                locked => locked?,
            };
            let victim = target.as_ref().map(|(entry, _)| *entry);
            if self.entry(parent, name, tier)? != Some(source)
                || self.entry(new_parent, new_name, tier)? != victim
            {
                continue;
            }
            if locked.of(new_parent).record.links == 0 {
                return Err(Error::NotFound);
            }
            if victim == Some(source) {
                // Two names of one inode: nothing to do.
                return Ok(());
            }

            let now = self.now();
            let old_hash = self.names.hash(name);
            let new_hash = self.names.hash(new_name);
            let mut batch = Batch::new(Op::Rename.tag());
            batch.put(keys::dirent(new_parent, new_hash, new_name), source.encode());
            let mut change = Change::default();
            let mut fate = None;
            // What the old name stands for afterwards.
            let mut left = None;
            // What the two directories lose and gain in links.
            let (mut old_links, mut new_links) = (0i64, 0i64);
            let counts = |kind| i64::from(kind == FileKind::Directory);
            // The inodes that get another parent, and their new ones.
            let mut movers = vec![(&moved, new_parent)];
            old_links -= counts(source.kind);
            new_links += counts(source.kind);
            if mode == RenameMode::Exchange {
                let (entry, cell) = target.as_ref().expect("an exchange has a target, as checked above");
                batch.put(keys::dirent(parent, old_hash, name), entry.encode());
                left = Some(*entry);
                movers.push((cell, parent));
                old_links += counts(entry.kind);
                new_links -= counts(entry.kind);
            } else {
                match whiteout {
                    Some(caller) => {
                        let mut record = Inode::new(FileKind::CharDevice, 0, caller.uid, caller.gid, now);
                        let directory = &locked.of(parent).record;
                        if directory.permissions & libc::S_ISGID != 0 {
                            record.gid = directory.gid;
                        }
                        let entry = Dirent { ino: self.new_ino(tier)?, kind: record.kind };
                        batch.put(keys::inode(entry.ino), record.encode());
                        batch.put(keys::dirent(parent, old_hash, name), entry.encode());
                        change = change.plus(Change::added(&record));
                        left = Some(entry);
                    }
                    None => {
                        batch.delete(keys::dirent(parent, old_hash, name));
                        change.record_bytes -= Dirent::record_bytes(name) as i64;
                    }
                }
                match &target {
                    Some((entry, cell)) => {
                        match (source.kind, entry.kind) {
                            (FileKind::Directory, FileKind::Directory) => {
                                self.require_empty(entry.ino, tier)?
                            }
                            (FileKind::Directory, _) => return Err(Error::NotDirectory),
                            (_, FileKind::Directory) => return Err(Error::IsDirectory),
                            _ => {}
                        }
                        new_links -= counts(entry.kind);
                        fate =
                            Some((cell, self.lose_name(cell, locked.of(entry.ino), now, &mut batch, tier)?));
                    }
                    None => change.record_bytes += Dirent::record_bytes(new_name) as i64,
                }
            }

            let mut updates = Vec::new();
            for (cell, home) in movers {
                let old = &locked.of(cell.ino).record;
                let mut record = Inode { ctime: now, ..old.clone() };
                if old.is_directory() {
                    record.parent = home;
                }
                let put = record.parent != old.parent;
                updates.push((cell, record, put));
            }
            let directories = [(&old_directory, old_links), (&new_directory, new_links)];
            let directories =
                if across { &directories[..] } else { &[(&old_directory, old_links + new_links)] };
            for &(cell, growth) in directories {
                let old = &locked.of(cell.ino).record;
                let links = u32::try_from(i64::from(old.links) + growth).unwrap_or(0);
                updates.push((cell, Inode { links, mtime: now, ctime: now, ..old.clone() }, growth != 0));
            }
            for (cell, record, put) in &updates {
                if *put {
                    batch.put(keys::inode(cell.ino), record.encode());
                }
            }
            self.apply(&mut batch, tier)?;

            self.counters.add(change);
            match left {
                Some(entry) => self.names.put(parent, old_hash, name, entry),
                None => self.names.remove(parent, old_hash),
            }
            self.names.put(new_parent, new_hash, new_name, source);
            if let Some((cell, fate)) = fate {
                self.meet_fate(cell, locked.of_mut(cell.ino), fate);
            }
            for (cell, record, put) in updates {
                self.update_record(cell, locked.of_mut(cell.ino), record, put);
            }
            return Ok(());
        }
    }

    /// Whether directory `ino` is `ancestor` or lies below it. The caller holds the rename mutex and no inode.
    fn is_within(&self, mut ino: Ino, ancestor: Ino, tier: Tier) -> Result<bool> {
        for _ in 0..DEPTH_MAX {
            if ino == ancestor {
                return Ok(true);
            }
            if ino == ROOT {
                return Ok(false);
            }
            ino = self.inodes.cell(ino, tier)?.read(tier)?.record.parent;
        }
        Err(damaged(format!("the directories above inode {ino} form a cycle")))
    }
}
