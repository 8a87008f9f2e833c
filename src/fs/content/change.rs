//! Changes of content: written, cut, punched, deleted. Each puts its keys into the draft's batch, and what it does to size, stored bytes
//! and ranges into the draft.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::{Content, known_length};
use crate::engine::Batch;
use crate::fs::Result;
use crate::fs::draft::Draft;
use crate::fs::inode::View;
use crate::fs::keys::{self, Key};
use crate::fs::ranges::Range;

/// Blocks that a call deletes itself; more are left to reclaim.
pub(super) const INLINE_BLOCKS: u64 = 64;
/// Blocks that one unit of reclaim deletes.
pub(super) const UNIT_BLOCKS: u64 = 1000;

impl Content<'_> {
    /// Writes `data`, which is not empty; the size becomes at least the write's end.
    pub fn write(&self, draft: &mut Draft<'_>, offset: u64, data: &Bytes) -> Result<()> {
        let block_bytes = self.block_bytes;
        let end = offset + data.len() as u64;
        let (first, last) = (offset / block_bytes, (end - 1) / block_bytes);
        let Draft { batch, record, pending, .. } = draft;
        let view = View { record, pending };
        let known = |block| known_length(view, block_bytes, block);
        // Several blocks of a file with holes: one scan instead of a read each.
        let mut scanned = None;
        if (first..=last).filter(|&block| known(block).is_none()).nth(1).is_some() {
            let mut found = BTreeMap::new();
            self.visit(view, (first, last + 1), &mut |block, value| {
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
                        None => self.block(record.epoch, block)?,
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
            batch.put(keys::block(self.ino, record.epoch, block), value);
        }
        record.size = record.size.max(end);
        // Only a block longer than it may be, which is damage, makes the sum larger.
        record.stored_bytes = stored_bytes.min(record.size);
        pending.cut(first, last + 1);
        Ok(())
    }

    /// Cuts a file to `size` bytes, or lengthens it by a hole.
    pub fn resize(&self, draft: &mut Draft<'_>, size: u64) -> Result<()> {
        let old_size = draft.record.size;
        if size == 0 {
            if self.clear(draft)? {
                draft.record.epoch = draft.record.epoch.wrapping_add(1);
            }
            draft.record.size = 0;
        } else if size < old_size {
            let block_bytes = self.block_bytes;
            self.discard(draft, (self.block_count(size), self.block_count(old_size)))?;
            if !size.is_multiple_of(block_bytes) {
                let within = size % block_bytes;
                self.zero_within(draft, size / block_bytes, (within, block_bytes))?;
            }
            draft.record.size = size;
        } else {
            draft.record.size = size;
        }
        draft.batch.uses_reserve |= size < old_size;
        Ok(())
    }

    /// Removes all content. True if it is left to reclaim, so that the file has to go on in a new epoch.
    pub fn clear(&self, draft: &mut Draft<'_>) -> Result<bool> {
        let blocks = self.block_count(draft.record.size);
        if blocks <= INLINE_BLOCKS && draft.pending.is_empty() {
            self.discard(draft, (0, blocks))?;
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
    pub fn punch(&self, draft: &mut Draft<'_>, (from, to): (u64, u64)) -> Result<()> {
        let block_bytes = self.block_bytes;
        let to = to.min(draft.record.size);
        if from >= to {
            return Ok(());
        }
        let (first, last) = (from / block_bytes, to / block_bytes);
        let (head, tail) = (from % block_bytes, to % block_bytes);
        // A hole up to the end of the file takes the last block whole.
        let to_end = to == draft.record.size;
        let end = if to_end { self.block_count(to) } else { last };
        self.discard(draft, (self.block_count(from), end))?;
        if first == last && head > 0 {
            return self.zero_within(draft, first, (head, tail));
        }
        if head > 0 {
            self.zero_within(draft, first, (head, block_bytes))?;
        }
        if tail > 0 && !to_end {
            self.zero_within(draft, last, (0, tail))?;
        }
        Ok(())
    }

    /// Zeros `from..to` of a block; what reaches the end of its value is cut off.
    fn zero_within(&self, draft: &mut Draft<'_>, block: u64, (from, to): (u64, u64)) -> Result<()> {
        let known = known_length(draft.view(), self.block_bytes, block);
        let Draft { batch, record, .. } = draft;
        if known.is_some_and(|length| length <= from) {
            return Ok(());
        }
        let Some(content) = self.block(record.epoch, block)? else { return Ok(()) };
        let length = content.len() as u64;
        let key = keys::block(self.ino, record.epoch, block);
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
    fn discard(&self, draft: &mut Draft<'_>, (from, to): (u64, u64)) -> Result<()> {
        let Draft { batch, record, pending, .. } = draft;
        let to = to.min(self.block_count(record.size));
        if from >= to || record.stored_bytes == 0 {
            return Ok(());
        }
        let inline = to - from <= INLINE_BLOCKS;
        let (mut bytes, mut doomed) = (0, Vec::new());
        if record.is_dense() {
            let block_bytes = self.block_bytes;
            bytes = record.size.min(to * block_bytes) - from * block_bytes;
            if inline {
                doomed.extend(from..to);
            }
        } else {
            self.visit(View { record, pending }, (from, to), &mut |block, value| {
                bytes += value.len() as u64;
                if inline {
                    doomed.push(block);
                }
                ControlFlow::Continue(())
            })?;
        }
        doomed.iter().for_each(|&block| batch.delete(keys::block(self.ino, record.epoch, block)));
        if !inline && bytes > 0 {
            pending.add(Range { from, to, bytes });
        }
        record.stored_bytes -= bytes.min(record.stored_bytes);
        Ok(())
    }

    /// Adds deletes of up to a thousand blocks of `range`, which nobody needs, to `batch`; returns the first block not covered.
    pub fn reclaim(&self, epoch: u32, range: Range, batch: &mut Batch) -> Result<u64> {
        // Where most blocks exist, deleting unseen is cheaper than reading them to learn which do.
        let mostly_there = range.bytes / self.block_bytes >= (range.to - range.from) / 2;
        if mostly_there {
            let next = range.to.min(range.from + UNIT_BLOCKS);
            (range.from..next).for_each(|block| batch.delete(keys::block(self.ino, epoch, block)));
            return Ok(next);
        }
        let (mut next, mut left) = (range.to, UNIT_BLOCKS);
        let span = keys::blocks(self.ino, epoch, range.from, range.to);
        self.engine.scan(span.range(), self.tier, &mut |key, _| {
            let Some(Key::Block { block, .. }) = keys::parse(key) else { return ControlFlow::Break(()) };
            if left == 0 {
                next = block;
                return ControlFlow::Break(());
            }
            left -= 1;
            batch.delete(key.to_vec());
            ControlFlow::Continue(())
        })?;
        Ok(next)
    }
}
