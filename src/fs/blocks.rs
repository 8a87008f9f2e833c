//! File content as blocks: which keys a range of bytes lies in, what is a hole, and how part of a block changes.
//!
//! 1. A block's value has the length of what was written in it: the last block of a file, and any block that was last when
//!    it was written, may be short. Behind its end a block reads as zeros.
//! 2. The length of a block is known without asking while the file is dense (`stored == size`), has nothing stored, or
//!    the block lies behind the end or in a range that waits for reclaim. Only files with holes pay a read
//!    to keep `stored_bytes` exact.
//! 3. Blocks that a write covers as far as they exist are replaced without being read, by slices of the caller's bytes.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::draft::Draft;
use super::handles::InodeState;
use super::inode::Inode;
use super::keys::{self, Key};
use super::orphans::INLINE_BLOCKS;
use super::ranges::{Range, Ranges};
use super::types::Ino;
use super::{FileSystem, Result};
use crate::engine::{Batch, Tier};

/// The length of a block, where it can be told without reading.
fn known_length(record: &Inode, pending: &Ranges, block_bytes: u64, block: u64) -> Option<u64> {
    let rest = record.size.saturating_sub(block.saturating_mul(block_bytes));
    if rest == 0 || record.stored_bytes == 0 || pending.contains(block) {
        Some(0)
    } else if record.is_dense() {
        Some(rest.min(block_bytes))
    } else {
        None
    }
}

impl FileSystem {
    /// Blocks that `size` bytes lie in.
    pub(super) fn block_count(&self, size: u64) -> u64 {
        size.div_ceil(self.options.block_bytes)
    }

    fn block(&self, ino: Ino, epoch: u32, block: u64, tier: Tier) -> Result<Option<Bytes>> {
        Ok(self.engine.get(&keys::block(ino, epoch, block), tier)?)
    }

    /// Visits the living blocks of `from..to` in ascending order.
    pub(super) fn visit_blocks(
        &self,
        ino: Ino,
        state: (&Inode, &Ranges),
        (from, to): (u64, u64),
        tier: Tier,
        visit: &mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) -> Result<()> {
        let (record, pending) = state;
        let to = to.min(self.block_count(record.size));
        if from >= to || record.stored_bytes == 0 {
            return Ok(());
        }
        let span = keys::blocks(ino, record.epoch, from, to);
        self.engine.scan(span.range(), tier, &mut |key, value| match keys::parse(key) {
            Some(Key::Block { block, .. }) if !pending.contains(block) => visit(block, value),
            _ => ControlFlow::Continue(()),
        })?;
        Ok(())
    }

    /// The bytes at `offset`, as many as `size` and the end of the file allow.
    pub(super) fn read_content(
        &self,
        ino: Ino,
        state: &InodeState,
        offset: u64,
        size: u64,
        tier: Tier,
    ) -> Result<Vec<u8>> {
        let block_bytes = self.options.block_bytes;
        let length = state.record.size.saturating_sub(offset).min(size);
        let mut target = vec![0; length as usize];
        if length == 0 || state.record.stored_bytes == 0 {
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
            self.visit_blocks(ino, (&state.record, &state.pending), (first, last + 1), tier, &mut copy)?;
        } else if !state.pending.contains(first)
            && let Some(value) = self.block(ino, state.record.epoch, first, tier)?
        {
            let _ = copy(first, &value);
        }
        Ok(target)
    }

    /// Adds the blocks of a write to `batch` and to `draft`, whose size becomes at least the write's end.
    pub(super) fn write_content(
        &self,
        ino: Ino,
        draft: &mut Draft,
        offset: u64,
        data: &Bytes,
        batch: &mut Batch,
        tier: Tier,
    ) -> Result<()> {
        let block_bytes = self.options.block_bytes;
        let end = offset + data.len() as u64;
        let (first, last) = (offset / block_bytes, (end - 1) / block_bytes);
        let Draft { record, pending, .. } = &mut *draft;
        let known = |block| known_length(record, pending, block_bytes, block);
        // Several blocks of a file with holes: one scan instead of a read each.
        let mut scanned = None;
        if (first..=last).filter(|&block| known(block).is_none()).nth(1).is_some() {
            let mut found = BTreeMap::new();
            self.visit_blocks(ino, (record, pending), (first, last + 1), tier, &mut |block, value| {
                found.insert(block, Bytes::copy_from_slice(value));
                ControlFlow::Continue(())
            })?;
            scanned = Some(found);
        }
        let mut stored_bytes = record.stored_bytes;
        for block in first..=last {
            let start = block * block_bytes;
            // The part of the block that is written.
            let (from, to) = (offset.max(start) - start, end.min(start + block_bytes) - start);
            let covers = |length: u64| from == 0 && to >= length;
            let old = match known(block) {
                Some(length) if length == 0 || covers(length) => (length, None),
                _ => {
                    let content = match &mut scanned {
                        Some(found) => found.remove(&block),
                        None => self.block(ino, record.epoch, block, tier)?,
                    };
                    (content.as_ref().map_or(0, |content| content.len() as u64), content)
                }
            };
            let piece = data.slice((start + from - offset) as usize..(start + to - offset) as usize);
            let value = match old {
                (length, _) if covers(length) => piece,
                (length, content) => {
                    let mut value = vec![0; length.max(to) as usize];
                    if let Some(content) = content {
                        value[..content.len()].copy_from_slice(&content);
                    }
                    value[from as usize..to as usize].copy_from_slice(&piece);
                    Bytes::from(value)
                }
            };
            stored_bytes = stored_bytes - old.0.min(stored_bytes) + value.len() as u64;
            batch.put(keys::block(ino, record.epoch, block), value);
        }
        record.size = record.size.max(end);
        // Only a block longer than it may be, which is damage, makes the sum larger.
        record.stored_bytes = stored_bytes.min(record.size);
        pending.cut(first, last + 1);
        Ok(())
    }

    /// Cuts a file to `size` bytes, or lengthens it by a hole.
    pub(super) fn resize_content(
        &self,
        ino: Ino,
        draft: &mut Draft,
        size: u64,
        batch: &mut Batch,
        tier: Tier,
    ) -> Result<()> {
        let old_size = draft.record.size;
        if size == 0 {
            if self.drop_content(ino, draft, batch, tier)? {
                draft.record.epoch = draft.record.epoch.wrapping_add(1);
            }
            draft.record.size = 0;
        } else if size < old_size {
            let block_bytes = self.options.block_bytes;
            self.discard_blocks(
                ino,
                draft,
                (self.block_count(size), self.block_count(old_size)),
                batch,
                tier,
            )?;
            if !size.is_multiple_of(block_bytes) {
                let within = size % block_bytes;
                self.zero_within(ino, draft, size / block_bytes, (within, block_bytes), batch, tier)?;
            }
            draft.record.size = size;
        } else {
            draft.record.size = size;
        }
        batch.uses_reserve |= size < old_size;
        Ok(())
    }

    /// Removes all content. True if it is left to reclaim, so that the file has to go on in a new epoch.
    pub(super) fn drop_content(
        &self,
        ino: Ino,
        draft: &mut Draft,
        batch: &mut Batch,
        tier: Tier,
    ) -> Result<bool> {
        let blocks = self.block_count(draft.record.size);
        if blocks <= INLINE_BLOCKS && draft.pending.is_empty() {
            self.discard_blocks(ino, draft, (0, blocks), batch, tier)?;
            return Ok(false);
        }
        if draft.record.stored_bytes > 0 || !draft.pending.is_empty() {
            let (to, bytes) = (blocks.max(draft.pending.end()), draft.record.stored_bytes);
            draft.pending.add(Range { from: 0, to, bytes });
            draft.record.stored_bytes = 0;
            return Ok(true);
        }
        Ok(false)
    }

    /// Makes `from..to` bytes of a file a hole.
    pub(super) fn punch_content(
        &self,
        ino: Ino,
        draft: &mut Draft,
        (from, to): (u64, u64),
        batch: &mut Batch,
        tier: Tier,
    ) -> Result<()> {
        let block_bytes = self.options.block_bytes;
        let to = to.min(draft.record.size);
        if from >= to {
            return Ok(());
        }
        let (first, last) = (from / block_bytes, to / block_bytes);
        let (head, tail) = (from % block_bytes, to % block_bytes);
        // A hole up to the end of the file takes the last block whole.
        let to_end = to == draft.record.size;
        let end = if to_end { self.block_count(to) } else { last };
        self.discard_blocks(ino, draft, (self.block_count(from), end), batch, tier)?;
        if first == last && head > 0 {
            return self.zero_within(ino, draft, first, (head, tail), batch, tier);
        }
        if head > 0 {
            self.zero_within(ino, draft, first, (head, block_bytes), batch, tier)?;
        }
        if tail > 0 && !to_end {
            self.zero_within(ino, draft, last, (0, tail), batch, tier)?;
        }
        Ok(())
    }

    /// Zeros `from..to` of a block; what reaches the end of its value is cut off.
    fn zero_within(
        &self,
        ino: Ino,
        draft: &mut Draft,
        block: u64,
        (from, to): (u64, u64),
        batch: &mut Batch,
        tier: Tier,
    ) -> Result<()> {
        let record = &mut draft.record;
        let known = known_length(record, &draft.pending, self.options.block_bytes, block);
        if known.is_some_and(|length| length <= from) {
            return Ok(());
        }
        let Some(content) = self.block(ino, record.epoch, block, tier)? else { return Ok(()) };
        let length = content.len() as u64;
        let key = keys::block(ino, record.epoch, block);
        if length <= from {
            return Ok(());
        }
        if to < length {
            let mut value = content.to_vec();
            value[from as usize..to as usize].fill(0);
            batch.put(key, value);
            return Ok(());
        }
        record.stored_bytes -= (length - from).min(record.stored_bytes);
        if from == 0 {
            batch.delete(key);
        } else {
            batch.put(key, content.slice(..from as usize));
        }
        Ok(())
    }

    /// Deletes the living blocks of `from..to` now, or, if they may be many, leaves them to reclaim.
    fn discard_blocks(
        &self,
        ino: Ino,
        draft: &mut Draft,
        (from, to): (u64, u64),
        batch: &mut Batch,
        tier: Tier,
    ) -> Result<()> {
        let Draft { record, pending, .. } = &mut *draft;
        let to = to.min(self.block_count(record.size));
        if from >= to || record.stored_bytes == 0 {
            return Ok(());
        }
        let inline = to - from <= INLINE_BLOCKS;
        let (mut bytes, mut doomed) = (0, Vec::new());
        if record.is_dense() {
            let block_bytes = self.options.block_bytes;
            bytes = record.size.min(to * block_bytes) - from * block_bytes;
            if inline {
                doomed.extend(from..to);
            }
        } else {
            self.visit_blocks(ino, (record, pending), (from, to), tier, &mut |block, value| {
                bytes += value.len() as u64;
                if inline {
                    doomed.push(block);
                }
                ControlFlow::Continue(())
            })?;
        }
        doomed.iter().for_each(|&block| batch.delete(keys::block(ino, record.epoch, block)));
        if !inline && bytes > 0 {
            pending.add(Range { from, to, bytes });
        }
        record.stored_bytes -= bytes.min(record.stored_bytes);
        Ok(())
    }
}
