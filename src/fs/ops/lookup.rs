//! From names to inodes.

use std::sync::Arc;

use crate::engine::Tier;
use crate::fs::dirent::Dirent;
use crate::fs::error::damaged;
use crate::fs::inodes::InodeCell;
use crate::fs::keys;
use crate::fs::types::{Attributes, Ino, NAME_BYTES_MAX};
use crate::fs::{Error, FileSystem, Result};

impl FileSystem {
    /// The attributes of what `name` in `parent` stands for. On success the kernel has one more reference to it, until
    /// [`FileSystem::forget`]. `.` is `parent` itself, of any kind, and `..` the directory above a directory: so the kernel finds
    /// again what it knows by number alone. `Stale` for those if there is no such inode, or if it has lost its last name.
    pub fn lookup(&self, tier: Tier, parent: Ino, name: &[u8]) -> Result<Attributes> {
        let directory = self.inodes.cell(parent, tier)?;
        let child = {
            let state = directory.read(tier)?;
            if name != b"." {
                state.require_directory()?;
            }
            let child = match name {
                b"." | b".." if state.record.links == 0 => return Err(Error::Stale),
                b"." => directory.clone(),
                b".." => self.inodes.cell(state.record.parent, tier)?,
                _ if name.len() > NAME_BYTES_MAX => return Err(Error::NameTooLong),
                _ => {
                    let child = self.child(parent, name, tier)?.ok_or(Error::NotFound)?.1;
                    self.inodes.note_path(parent, name, &child);
                    child
                }
            };
            // Counted under the directory's lock, so that nobody finds the inode unused and buries it.
            child.add_lookups(1);
            child
        };
        self.attributes_of(&child, tier).inspect_err(|_| self.forget(child.ino, 1))
    }

    /// The attributes of an inode.
    pub fn getattr(&self, tier: Tier, ino: Ino) -> Result<Attributes> {
        self.attributes_of(&*self.inodes.cell(ino, tier)?, tier)
    }

    pub(in crate::fs) fn attributes_of(&self, cell: &InodeCell, tier: Tier) -> Result<Attributes> {
        Ok(cell.read(tier)?.record.attributes(cell.ino, self.options.block_bytes))
    }

    /// The entry of `name`. The caller has `directory` locked.
    pub(in crate::fs) fn entry(&self, directory: Ino, name: &[u8], tier: Tier) -> Result<Option<Dirent>> {
        let hash = self.names.hash(name);
        if let Some(entry) = self.names.get(directory, hash, name) {
            return Ok(Some(entry));
        }
        let Some(bytes) = self.engine.get(&keys::dirent(directory, hash, name), tier)? else {
            return Ok(None);
        };
        let entry = Dirent::decode(&bytes)?;
        self.names.put(directory, hash, name, entry);
        Ok(Some(entry))
    }

    /// The entry of `name`, and its inode. The caller has `directory` locked, so it cannot lose the name meanwhile.
    pub(in crate::fs) fn child(
        &self,
        directory: Ino,
        name: &[u8],
        tier: Tier,
    ) -> Result<Option<(Dirent, Arc<InodeCell>)>> {
        let Some(entry) = self.entry(directory, name, tier)? else { return Ok(None) };
        match self.inodes.cell(entry.ino, tier) {
            Ok(cell) => Ok(Some((entry, cell))),
            Err(Error::Stale) => Err(damaged(format!(
                "a name in directory {directory} stands for inode {}, which does not exist",
                entry.ino
            ))),
            Err(error) => Err(error),
        }
    }
}

/// Whether a call may make, remove or replace a name.
pub(in crate::fs) fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_BYTES_MAX {
        Err(Error::NameTooLong)
    } else if name.is_empty() || matches!(name, b"." | b"..") || name.iter().any(|byte| b"/\0".contains(byte))
    {
        Err(Error::Invalid)
    } else {
        Ok(())
    }
}
