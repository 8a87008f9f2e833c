//! File content: open, read, write, allocate, seek, and symbolic links.

use std::sync::Arc;

use bytes::Bytes;

use crate::engine::{self, Batch, Tier};
use crate::fs::draft::Draft;
use crate::fs::inode::HAS_CAPABILITY;
use crate::fs::inodes::{InodeCell, InodeState};
use crate::fs::operation::Op;
use crate::fs::types::{Caller, FileKind, Ino, SIZE_MAX};
use crate::fs::{Error, FileSystem, Result, keys};

impl FileSystem {
    /// Counts an open file handle, which keeps the inode alive without a name until [`FileSystem::release_file`].
    pub fn open_file(&self, tier: Tier, ino: Ino) -> Result<()> {
        let cell = self.inodes.cell(ino, tier)?;
        let state = cell.read(tier)?;
        // Whoever changes the filesystem is taking its content away: the name that led here is of an older state.
        if self.options.read_only && state.record.links == 0 {
            return Err(Error::Stale);
        }
        cell.add_open();
        Ok(())
    }

    /// Up to `size` bytes at `offset`: fewer only where the file ends. Holes read as zeros.
    pub fn read(&self, tier: Tier, ino: Ino, offset: u64, size: u32) -> Result<Vec<u8>> {
        let cell = self.inodes.cell(ino, tier)?;
        let state = cell.read(tier)?;
        state.require_file()?;
        self.fetch_ahead(&cell, &state, offset, u64::from(size));
        let content = self.content(ino, tier).read(state.view(), offset, u64::from(size))?;
        self.read_done(&cell, state);
        Ok(content)
    }

    /// Has the engine begin to fetch what comes after a read in order, if it fetches ahead.
    fn fetch_ahead(&self, cell: &InodeCell, state: &InodeState, offset: u64, length: u64) {
        let Some(read_ahead) = self.engine.read_ahead() else { return };
        let (record, block_bytes) = (&state.record, self.options.block_bytes);
        let (piece, window) = (read_ahead.piece_bytes().max(block_bytes), read_ahead.window_bytes());
        let mut range = cell.sequence(|sequence| sequence.read((offset, length), record.size, piece, window));
        while !range.is_empty() {
            let end = (range.start / piece + 1).saturating_mul(piece).min(range.end);
            let (first, last) = (range.start / block_bytes, (end - 1) / block_bytes);
            read_ahead.fetch(keys::blocks(cell.ino, record.epoch, first, last + 1).range());
            range.start = end;
        }
    }

    /// The target of a symbolic link.
    pub fn readlink(&self, tier: Tier, ino: Ino) -> Result<Bytes> {
        let cell = self.inodes.cell(ino, tier)?;
        let state = cell.read(tier)?;
        if state.record.kind != FileKind::Symlink {
            return Err(Error::Invalid);
        }
        let target = state.record.target.clone();
        self.read_done(&cell, state);
        Ok(target)
    }

    fn read_done(&self, cell: &Arc<InodeCell>, state: parking_lot::RwLockReadGuard<'_, InodeState>) {
        let (atime, newest) = (state.record.atime, state.record.mtime.max(state.record.ctime));
        drop(state);
        self.touch(cell, atime, newest);
    }

    /// Writes all of `data` at `offset`, or nothing, in one batch; whole blocks share the memory of `data`.
    /// `clear_suid` is the kernel's word that the writer may not keep suid and sgid, so the caller is not asked.
    pub fn write(
        &self,
        tier: Tier,
        _: Caller,
        ino: Ino,
        offset: u64,
        data: &Bytes,
        clear_suid: bool,
    ) -> Result<()> {
        self.require_writable()?;
        let cell = self.inodes.cell(ino, tier)?;
        let mut state = cell.write(tier)?;
        state.require_file()?;
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > SIZE_MAX) {
            return Err(Error::TooLarge);
        }
        if data.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new(Op::Write.tag());
        let mut draft = Draft::of(state.view(), &mut batch);
        self.settle_content(Op::Write, !clear_suid, ino, &mut draft, tier)?;
        self.content(ino, tier).write(&mut draft, offset, data)?;
        let (old, new) = (&state.record, &draft.record);
        // Size travels with its blocks; times alone may wait.
        let put = old.size != new.size
            || old.stored_bytes != new.stored_bytes
            || old.permissions != new.permissions
            || old.has(HAS_CAPABILITY)
            || !state.pending.is_empty();
        self.commit(&cell, &mut state, draft, put, tier)
    }

    /// `fallocate`: mode 0 and `KEEP_SIZE` check the space and extend the size, but reserve nothing; `PUNCH_HOLE |
    /// KEEP_SIZE` and `ZERO_RANGE` make a hole. Everything else is `NotSupported`. All count as writing, also where nothing
    /// had to be done; suid and sgid go unless root asks.
    pub fn allocate(
        &self,
        tier: Tier,
        caller: Caller,
        ino: Ino,
        (offset, length): (u64, u64),
        mode: i32,
    ) -> Result<()> {
        const KEEP_SIZE: i32 = libc::FALLOC_FL_KEEP_SIZE;
        const PUNCH_HOLE: i32 = libc::FALLOC_FL_PUNCH_HOLE;
        const ZERO_RANGE: i32 = libc::FALLOC_FL_ZERO_RANGE;
        self.require_writable()?;
        let flags = mode & !KEEP_SIZE;
        if !matches!(flags, 0 | PUNCH_HOLE | ZERO_RANGE) || mode == PUNCH_HOLE {
            return Err(Error::NotSupported);
        }
        if length == 0 {
            return Err(Error::Invalid);
        }
        let end = offset.checked_add(length).filter(|&end| end <= SIZE_MAX).ok_or(Error::TooLarge)?;
        let cell = self.inodes.cell(ino, tier)?;
        let mut state = cell.write(tier)?;
        state.require_file()?;
        let mut batch = Batch::new(Op::Fallocate.tag());
        let mut draft = Draft::of(state.view(), &mut batch);
        if flags == 0 {
            let space = (self.space)().map_err(|error| engine::Error::io("reading free space", error))?;
            if length > space.room_bytes() {
                return Err(Error::Engine(engine::Error::NoSpace));
            }
        } else {
            self.content(ino, tier).punch(&mut draft, (offset, end))?;
            draft.batch.uses_reserve = flags == PUNCH_HOLE;
        }
        if mode & KEEP_SIZE == 0 {
            draft.record.size = draft.record.size.max(end);
        }
        self.settle_content(Op::Fallocate, caller.uid == 0, ino, &mut draft, tier)?;
        self.commit(&cell, &mut state, draft, true, tier)
    }

    /// The first hole, or the first data, at or after `offset`, in units of blocks; the end of the file counts as a
    /// hole. `NoSuchAddress` behind the end, or where no data follows.
    pub fn seek(&self, tier: Tier, ino: Ino, offset: u64, hole: bool) -> Result<u64> {
        let cell = self.inodes.cell(ino, tier)?;
        let state = cell.read(tier)?;
        state.require_file()?;
        self.content(ino, tier).seek(state.view(), offset, hole)
    }
}
