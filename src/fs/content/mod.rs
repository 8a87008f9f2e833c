//! File content: the blocks of one inode in the engine. Which keys a range of bytes lies in, what is a hole, and how part of a block
//! changes.
//!
//! 1. A block's value has the length of what was written in it: the last block of a file, and any block that was last when
//!    it was written, may be short. Behind its end a block reads as zeros.
//! 2. The length of a block is known without asking while the file is dense (`stored == size`), has nothing stored, or
//!    the block lies behind the end or in a range that waits for reclaim. Only files with holes pay a read
//!    to keep `stored_bytes` exact.
//! 3. Blocks that a write covers as far as they exist are replaced without being read, by slices of the caller's bytes.
//!
//! A [`Content`] keeps nothing: what is stored is seen through a [`View`], what changes goes into a [`Draft`](super::draft::Draft).

mod change;
#[cfg(test)]
mod tests;

use std::ops::ControlFlow;

use bytes::Bytes;

use super::inode::View;
use super::keys::{self, Key};
use super::types::Ino;
use super::{Error, Result};
use crate::engine::{Engine, Tier};

/// The length of a block, where it can be told without reading.
fn known_length(View { record, pending }: View<'_>, block_bytes: u64, block: u64) -> Option<u64> {
    let rest = record.size.saturating_sub(block.saturating_mul(block_bytes));
    if rest == 0 || record.stored_bytes == 0 || pending.contains(block) {
        Some(0)
    } else if record.is_dense() {
        Some(rest.min(block_bytes))
    } else {
        None
    }
}

/// The content of an inode.
#[derive(Clone, Copy)]
pub(super) struct Content<'a> {
    engine: &'a dyn Engine,
    block_bytes: u64,
    ino: Ino,
    tier: Tier,
}

/// A hole, or data without one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub is_hole: bool,
    /// Bytes.
    pub length: u64,
}

impl<'a> Content<'a> {
    /// That of `ino` in `engine`, in blocks of `block_bytes`; `tier` is whether its reads may wait for the disk.
    pub fn new(engine: &'a dyn Engine, block_bytes: u64, ino: Ino, tier: Tier) -> Content<'a> {
        Content { engine, block_bytes, ino, tier }
    }

    /// Blocks that `size` bytes lie in.
    fn block_count(&self, size: u64) -> u64 {
        size.div_ceil(self.block_bytes)
    }

    fn block(&self, epoch: u32, block: u64) -> Result<Option<Bytes>> {
        Ok(self.engine.get(&keys::block(self.ino, epoch, block), self.tier)?)
    }

    /// Visits the living blocks of `from..to` in ascending order.
    fn visit(
        &self,
        View { record, pending }: View<'_>,
        (from, to): (u64, u64),
        visit: &mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        let to = to.min(self.block_count(record.size));
        if from >= to || record.stored_bytes == 0 {
            return Ok(());
        }
        let span = keys::blocks(self.ino, record.epoch, from, to);
        self.engine.scan(span.range(), self.tier, &mut |key, value| match keys::parse(key) {
            Some(Key::Block { block, .. }) if !pending.contains(block) => visit(block, value),
            _ => ControlFlow::Continue(()),
        })?;
        Ok(())
    }

    /// The bytes at `offset`, as many as `size` and the end of the file allow. Holes are zeros.
    pub fn read(&self, view: View<'_>, offset: u64, size: u64) -> Result<Vec<u8>> {
        let View { record, pending } = view;
        let block_bytes = self.block_bytes;
        let length = record.size.saturating_sub(offset).min(size);
        let mut target = vec![0; length as usize];
        if length == 0 || record.stored_bytes == 0 {
            return Ok(target);
        }
        let (first, last) = (offset / block_bytes, (offset + length - 1) / block_bytes);
        let mut copy = |block: u64, value: &[u8]| {
            let start = block * block_bytes;
            // Where the block and the request overlap, counted from the start of the file.
            let (begin, end) = (start.max(offset), (start + value.len() as u64).min(offset + length));
            if begin < end {
                target[(begin - offset) as usize..(end - offset) as usize]
                    .copy_from_slice(&value[(begin - start) as usize..(end - start) as usize]);
            }
            ControlFlow::Continue(())
        };
        if first < last {
            self.visit(view, (first, last + 1), &mut copy)?;
        } else if !pending.contains(first)
            && let Some(value) = self.block(record.epoch, first)?
        {
            let _ = copy(first, &value);
        }
        Ok(target)
    }

    /// The first hole, or the first data, at or after `offset`, in units of blocks; the end of the file counts as a
    /// hole. `NoSuchAddress` behind the end, or where no data follows.
    pub fn seek(&self, view: View<'_>, offset: u64, hole: bool) -> Result<u64> {
        let size = view.record.size;
        if offset >= size {
            return Err(Error::NoSuchAddress);
        }
        if view.record.is_dense() {
            return Ok(if hole { size } else { offset });
        }
        let first = offset / self.block_bytes;
        // The first block that is missing, or that is there.
        let (mut missing, mut there) = (first, None);
        self.visit(view, (first, self.block_count(size)), &mut |block, _| {
            there = there.or(Some(block));
            if !hole || block != missing {
                return ControlFlow::Break(());
            }
            missing += 1;
            ControlFlow::Continue(())
        })?;
        let found = if hole { Some(missing) } else { there };
        let start = found.ok_or(Error::NoSuchAddress)? * self.block_bytes;
        Ok(start.max(offset).min(size))
    }

    /// The kind of content at `from` (data or hole), and the number of bytes of that kind, at most `length`. `from + length` does not pass the end of the file.
    pub fn run(&self, view: View<'_>, from: u64, length: u64) -> Result<Run> {
        if view.record.is_dense() {
            return Ok(Run { is_hole: false, length });
        }
        let block_bytes = self.block_bytes;
        let (first, end) = (from / block_bytes, (from + length).div_ceil(block_bytes));
        // The first block that is there, and the first that is missing after it.
        let (mut there, mut missing) = (None, first);
        self.visit(view, (first, end), &mut |block, _| {
            if *there.get_or_insert(block) > first || block != missing {
                return ControlFlow::Break(());
            }
            missing += 1;
            ControlFlow::Continue(())
        })?;
        let is_hole = there != Some(first);
        let stop = if is_hole { there.unwrap_or(end) } else { missing };
        Ok(Run { is_hole, length: (stop * block_bytes).min(from + length) - from })
    }
}
