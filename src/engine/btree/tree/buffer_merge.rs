//! A step of a buffer merge: what waits in the change buffer for the next few leaves comes into them.

use super::{Pins, Stop, Tree};
use crate::engine::btree::allocation_unit::PageNumber;
use crate::engine::btree::change_buffer::{SHARE_MERGE, share};
use crate::engine::btree::freemap::SpaceNeeds;
use crate::engine::btree::options::Torn;
use crate::engine::btree::page::{HEADER_BYTES, is_inline};
use crate::engine::btree::set_aside::UnreadableRange;
use crate::engine::btree::source::{LoadedPieces, Miss, PageSource};
use crate::engine::{Batch, Operation};

/// How much one step of a buffer merge does at most.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BufferMergeLimit {
    leaves: u64,
    /// Bytes of cells after which it ends.
    cell_bytes: usize,
}

impl BufferMergeLimit {
    /// Where there is space.
    pub const USUAL: BufferMergeLimit = BufferMergeLimit { leaves: 32, cell_bytes: 64 << 10 };

    /// The same, but for no more than so many leaves.
    pub fn of_leaves(leaves_max: u64) -> BufferMergeLimit {
        BufferMergeLimit { leaves: BufferMergeLimit::USUAL.leaves.min(leaves_max), ..BufferMergeLimit::USUAL }
    }

    /// Leaves that it changes at most.
    pub fn leaves(&self) -> u64 {
        self.leaves
    }

    /// Where there is little: what it may take at most is a small multiple of what it changes.
    pub fn smallest(page_bytes: usize) -> BufferMergeLimit {
        BufferMergeLimit { leaves: 1, cell_bytes: page_bytes / 4 }
    }
}

/// What the next step of a buffer merge will do.
pub struct BufferMergeStep {
    /// Pages on the ways of its changes.
    pins: Pins,
    /// Leaves that must be read first.
    misses: Vec<PageNumber>,
    /// Leaves that it changes.
    leaves: u64,
    cell_bytes: usize,
    /// Where the next step goes on.
    next: Option<Vec<u8>>,
}

/// What must be done so that a buffer merge goes on.
pub enum BufferMergePlan {
    /// Something on the way must be read.
    Read(Miss),
    /// Leaves must be read, those that lie together with one request.
    ReadLeaves(Vec<PageNumber>),
    /// This cannot be read, so what waits for it must be set aside.
    SetAside(UnreadableRange),
    /// The step can be made, once there is so much space.
    Make(BufferMergeStep, SpaceNeeds),
}

impl Tree {
    /// Whether `batch` should wait in the buffer: it is nothing but puts of small values, and the tree cannot be held in
    /// `dirty_bytes_max` anyway.
    pub fn suits_buffer(&self, batch: &Batch, torn: Torn, dirty_bytes_max: u64) -> bool {
        torn != Torn::Image
            // What is set aside stays. It must not take the room of what does not.
            && self.buffer.aside.bytes() < share(dirty_bytes_max, SHARE_MERGE)
            && self.counts.leaf_pages * self.page_bytes() as u64 > dirty_bytes_max / 2
            && self.may_have_waited(batch)
    }

    /// Whether `batch` is nothing but puts of small values: no other ever waits in the buffer.
    pub fn may_have_waited(&self, batch: &Batch) -> bool {
        let is_small = |operation: &Operation| {
            operation.value().is_some_and(|value| is_inline(self.page_bytes(), operation.key(), value))
        };
        batch.operations().iter().all(is_small)
    }

    /// Bytes that the file and the log may still take because of what waits: each change its leaf, split and logged.
    pub fn buffer_owes(&self) -> u64 {
        self.buffer.len().min(self.counts.leaf_pages) * 2 * self.page_bytes() as u64
    }
    /// The next step of a buffer merge: the leaves from its place on that something waits for, `max` of them at most.
    pub fn plan_buffer_merge(
        &self,
        source: &impl PageSource,
        loaded: &LoadedPieces,
        max: BufferMergeLimit,
    ) -> crate::engine::Result<BufferMergePlan> {
        let (pins, misses) = (Pins::new(), Vec::new());
        let mut step = BufferMergeStep { pins, misses, leaves: 0, cell_bytes: 0, next: None };
        let mut waiting = self.buffer.waiting_to_merge().into_iter().flatten().peekable();
        while let Some((first, _)) = waiting.peek() {
            if step.leaves == max.leaves || step.cell_bytes >= max.cell_bytes {
                step.next = Some(first.to_vec());
                break;
            }
            let end = match self.plan_leaf(source, loaded, first, &mut step) {
                Ok(end) => end,
                Err(Stop::Miss(miss)) => return Ok(BufferMergePlan::Read(miss)),
                Err(Stop::Failed(error)) => {
                    let range = self.unreadable_range(source, loaded, first).ok_or(error)?;
                    return Ok(BufferMergePlan::SetAside(range));
                }
            };
            step.leaves += 1;
            while let Some((key, value)) = waiting.peek()
                && end.as_deref().is_none_or(|end| *key < end)
                && step.cell_bytes < max.cell_bytes
            {
                step.cell_bytes += key.len() + value.len() + 6;
                waiting.next();
            }
        }
        if !step.misses.is_empty() {
            return Ok(BufferMergePlan::ReadLeaves(step.misses));
        }
        let needs = self.merge_needs(&step);
        Ok(BufferMergePlan::Make(step, needs))
    }

    /// Pins the way to the leaf of `key`, or notes that the leaf must be read; returns the end of its range.
    fn plan_leaf(
        &self,
        source: &impl PageSource,
        loaded: &LoadedPieces,
        key: &[u8],
        step: &mut BufferMergeStep,
    ) -> Result<Option<Vec<u8>>, Stop> {
        let (mut number, mut end) = (self.root, None);
        for level in (0..self.height).rev() {
            let page = match self.page(source, loaded, number, level) {
                Err(Stop::Miss(Miss::Page(leaf))) if level == 0 => {
                    step.misses.push(leaf);
                    break;
                }
                other => other?,
            };
            let mut next = None;
            if level > 0 {
                let index = page.child_index(key);
                if index < page.count() {
                    end = Some(page.key(index).to_vec());
                }
                next = Some(page.child(index));
            }
            if self.resident(number, &step.pins).is_none() {
                step.pins.insert(number, page);
            }
            match next {
                Some(next) => number = next,
                None => break,
            }
        }
        Ok(end)
    }

    /// What a step takes at most. A part of a split page holds a quarter of its room at least, so it takes another quarter of new
    /// cells to split it again.
    fn merge_needs(&self, step: &BufferMergeStep) -> SpaceNeeds {
        let room = self.page_bytes() - HEADER_BYTES;
        let splits = step.leaves + (4 * step.cell_bytes / room) as u64 + 2;
        let units = self.page_units() * (splits * (self.height + 2));
        SpaceNeeds { units, piece_units: self.page_units(), pages: 0 }
    }

    /// Makes a step as it was planned; whether the buffer merge goes on.
    pub fn make_buffer_merge_step(&mut self, step: BufferMergeStep, source: &impl PageSource) -> bool {
        let is_more = step.next.is_some();
        let batch = self.buffer.take(step.next.as_deref());
        self.apply(&batch, step.pins, source);
        is_more
    }
}
