//! Attributes: setattr with truncate, and access times.

use std::sync::Arc;

use crate::engine::{Batch, Tier};
use crate::fs::draft::Draft;
use crate::fs::inode::HAS_CAPABILITY;
use crate::fs::inodes::{InodeCell, InodeState};
use crate::fs::operation::Op;
use crate::fs::types::{Attributes, Caller, Ino, SIZE_MAX, SetAttributes, SetTime, Time};
use crate::fs::{Atime, Error, FileSystem, Result, acl, keys};

/// After a day even `relatime` writes the access time.
const RELATIVE_SECONDS: i64 = 24 * 60 * 60;

impl FileSystem {
    /// Changes attributes and returns all of them. As on Linux, a new owner clears suid and sgid, and so does a new size
    /// that is set by someone else than root, unless new permissions are given too.
    pub fn setattr(
        &self,
        tier: Tier,
        caller: Caller,
        ino: Ino,
        changes: &SetAttributes,
    ) -> Result<Attributes> {
        let cell = self.inodes.cell(ino, tier)?;
        if *changes == SetAttributes::default() {
            return self.attributes_of(&cell, tier);
        }
        self.require_writable()?;
        let mut state = cell.write(tier)?;
        self.change_attributes(&cell, &mut state, caller, changes, tier)?;
        Ok(state.record.attributes(ino, self.options.block_bytes))
    }

    /// The same, on a locked inode.
    fn change_attributes(
        &self,
        cell: &Arc<InodeCell>,
        state: &mut InodeState,
        caller: Caller,
        changes: &SetAttributes,
        tier: Tier,
    ) -> Result<()> {
        let op = if changes.size.is_some() { Op::Truncate } else { Op::Setattr };
        let now = self.now();
        let mut batch = Batch::new(op.tag());
        let mut draft = Draft::of(state.view(), &mut batch);
        if let Some(size) = changes.size {
            state.require_file()?;
            if size > SIZE_MAX {
                return Err(Error::TooLarge);
            }
            self.content(cell.ino, tier).resize(&mut draft, size)?;
            self.settle_content(op, caller.uid == 0, cell.ino, &mut draft, tier)?;
        }
        if changes.uid.is_some() || changes.gid.is_some() {
            self.drop_capability(cell.ino, &mut draft, tier)?;
            let record = &mut draft.record;
            record.uid = changes.uid.unwrap_or(record.uid);
            record.gid = changes.gid.unwrap_or(record.gid);
            if !record.is_directory() {
                record.clear_privileges();
            }
        }
        let record = &mut draft.record;
        if let Some(permissions) = changes.permissions {
            record.permissions = permissions & 0o7777;
            // Owner, mask and other of an access control list are the mode's bits. Both have the same length.
            if let Some(list) = self.acl(cell.ino, state, acl::ACCESS, tier)? {
                draft.batch.put(keys::xattr(cell.ino, acl::ACCESS), list.with_mode(permissions).encode());
            }
        }
        let moment = |time| match time {
            SetTime::Now => now,
            SetTime::At(time) => time,
        };
        record.ctime = changes.ctime.unwrap_or(now);
        record.atime = changes.atime.map_or(record.atime, moment);
        record.mtime = changes.mtime.map_or(record.mtime, moment);
        self.commit(cell, state, draft, true, tier)
    }

    /// Content and owner changed, so `security.capability` goes.
    pub(in crate::fs) fn drop_capability(&self, ino: Ino, draft: &mut Draft<'_>, tier: Tier) -> Result<()> {
        if draft.record.has(HAS_CAPABILITY) {
            let key = keys::xattr(ino, super::xattr::CAPABILITY);
            if let Some(value) = self.engine.get(&key, tier)? {
                draft.xattr_bytes -= (key.len() + value.len()) as i64;
            }
            draft.record.set(HAS_CAPABILITY, false);
            draft.batch.delete(key);
        }
        Ok(())
    }

    /// Notes that the inode was read, as the `atime` option says. Never waits: a busy inode keeps its access time.
    pub(in crate::fs) fn touch(&self, cell: &Arc<InodeCell>, atime: Time, newest: Time) {
        if self.options.read_only || self.options.atime == Atime::Never {
            return;
        }
        let now = self.now();
        let relative = atime <= newest || now.seconds.saturating_sub(atime.seconds) >= RELATIVE_SECONDS;
        if atime != now
            && (relative || self.options.atime == Atime::Strict)
            && let Some(mut state) = cell.try_write()
        {
            state.record.atime = now;
            self.defer(cell, &mut state);
        }
    }
}
