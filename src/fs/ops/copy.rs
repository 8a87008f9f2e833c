//! `copy_file_range` inside the filesystem: bytes go from file to file without a way through the program.

use bytes::Bytes;

use crate::engine::{Batch, Tier};
use crate::fs::content::Run;
use crate::fs::draft::Draft;
use crate::fs::inode::Inode;
use crate::fs::locks::Locked;
use crate::fs::operation::Op;
use crate::fs::types::{Caller, Ino, SIZE_MAX};
use crate::fs::{Error, FileSystem, Result};

/// Data that one call copies, and puts into one batch: as much as the largest write.
const COPY_BYTES_MAX: u64 = 1 << 20;
/// Longest stretch that one call may answer for: the reply has 32 bits.
const ANSWER_BYTES_MAX: u64 = 1 << 31;

/// Result of one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Bytes of the file.
    pub length: u64,
    /// Those of them that were data and not a hole.
    pub data_bytes: u64,
}

impl FileSystem {
    /// Copies up to `length` bytes at `from` of `source` to `to` of `target`, in one batch, and says how many: fewer where the
    /// source ends, where data and hole meet, and after a mebibyte of data; 0 behind the end. A hole stays a hole. As
    /// after a write, suid and sgid are gone, unless root copies; the source counts as read. `Invalid` if the two ranges of one file overlap.
    #[allow(clippy::too_many_arguments)]
    pub fn copy_range(
        &self,
        tier: Tier,
        caller: Caller,
        (source, from): (Ino, u64),
        (target, to): (Ino, u64),
        length: u64,
    ) -> Result<Copied> {
        self.require_writable()?;
        let (source_cell, target_cell) = (self.inodes.cell(source, tier)?, self.inodes.cell(target, tier)?);
        let mut locked = Locked::write(&[&source_cell, &target_cell], tier)?;
        locked.of(target).require_file()?;
        let state = locked.of(source);
        state.require_file()?;
        let length = length.min(state.record.size.saturating_sub(from));
        if length == 0 {
            return Ok(Copied::default());
        }
        if to.checked_add(length).is_none_or(|end| end > SIZE_MAX) {
            return Err(Error::TooLarge);
        }
        if source == target && from.max(to) < from.min(to) + length {
            return Err(Error::Invalid);
        }

        let content = self.content(source, tier);
        let Run { is_hole, length } = content.run(state.view(), from, length.min(ANSWER_BYTES_MAX))?;
        let length = if is_hole { length } else { length.min(COPY_BYTES_MAX) };
        let mut batch = Batch::new(Op::CopyFileRange.tag());
        let mut draft = Draft::of(locked.of(target).view(), &mut batch);
        if is_hole {
            self.content(target, tier).punch(&mut draft, (to, to + length))?;
            draft.record.size = draft.record.size.max(to + length);
        } else {
            let data = Bytes::from(content.read(state.view(), from, length)?);
            self.content(target, tier).write(&mut draft, to, &data)?;
        }
        self.settle_content(Op::CopyFileRange, caller.uid == 0, target, &mut draft, tier)?;
        self.commit(&target_cell, locked.of_mut(target), draft, true, tier)?;
        let Inode { atime, mtime, ctime, .. } = locked.of(source).record;
        drop(locked);
        self.touch(&source_cell, atime, mtime.max(ctime));
        Ok(Copied { length, data_bytes: if is_hole { 0 } else { length } })
    }
}
