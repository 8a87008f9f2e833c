//! `copy_file_range` inside the filesystem: bytes go from file to file without a way through the program.

use std::ops::ControlFlow;

use bytes::Bytes;

use crate::engine::{Batch, Tier};
use crate::fs::draft::Draft;
use crate::fs::handles::InodeState;
use crate::fs::inode::Inode;
use crate::fs::locks::Locked;
use crate::fs::meter::Op;
use crate::fs::types::{Caller, Ino, SIZE_MAX};
use crate::fs::{Error, FileSystem, Result};

/// Data that one call copies, and puts into one batch: as much as the largest write.
const COPY_BYTES_MAX: u64 = 1 << 20;
/// Longest stretch that one call may answer for: the reply has 32 bits.
const ANSWER_BYTES_MAX: u64 = 1 << 31;

/// What one call copied.
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
        let (source_cell, target_cell) = (self.cell(source, tier)?, self.cell(target, tier)?);
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

        let (is_hole, run) = self.run_at(source, state, from, length.min(ANSWER_BYTES_MAX), tier)?;
        let length = if is_hole { run } else { run.min(COPY_BYTES_MAX) };
        let mut batch = Batch::new(Op::CopyFileRange.tag());
        let mut draft = Draft::of(locked.of(target));
        if is_hole {
            self.punch_content(target, &mut draft, (to, to + length), &mut batch, tier)?;
            draft.record.size = draft.record.size.max(to + length);
        } else {
            let data = Bytes::from(self.read_content(source, state, from, length, tier)?);
            self.write_content(target, &mut draft, to, &data, &mut batch, tier)?;
        }
        self.settle_content(Op::CopyFileRange, caller.uid == 0, target, (&mut draft, &mut batch), tier)?;
        self.commit(&target_cell, locked.of_mut(target), batch, draft, true, tier)?;
        let Inode { atime, mtime, ctime, .. } = locked.of(source).record;
        drop(locked);
        self.touch(&source_cell, atime, mtime.max(ctime));
        Ok(Copied { length, data_bytes: if is_hole { 0 } else { length } })
    }

    /// Whether there is a hole at `from`, and how many of `length` bytes are of the same kind. `from + length` does not pass the
    /// end of the file.
    fn run_at(
        &self,
        ino: Ino,
        state: &InodeState,
        from: u64,
        length: u64,
        tier: Tier,
    ) -> Result<(bool, u64)> {
        if state.record.is_dense() {
            return Ok((false, length));
        }
        let block_bytes = self.options.block_bytes;
        let (first, end) = (from / block_bytes, (from + length).div_ceil(block_bytes));
        // The first block that is there, and the first that is missing after it.
        let (mut there, mut missing) = (None, first);
        self.visit_blocks(ino, (&state.record, &state.pending), (first, end), tier, &mut |block, _| {
            if *there.get_or_insert(block) > first || block != missing {
                return ControlFlow::Break(());
            }
            missing += 1;
            ControlFlow::Continue(())
        })?;
        let is_hole = there != Some(first);
        let stop = if is_hole { there.unwrap_or(end) } else { missing };
        Ok((is_hole, (stop * block_bytes).min(from + length) - from))
    }
}
