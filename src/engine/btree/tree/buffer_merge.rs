//! A step of a change-buffer merge: the puts for the next few leaves are taken out of the buffer and applied.

use super::{Deletes, Pins, Stop, Tree};
use crate::engine::btree::allocation_unit::PageNumber;
use crate::engine::btree::change_buffer::{SHARE_MERGE, share};
use crate::engine::btree::freemap::SpaceNeeds;
use crate::engine::btree::options::Torn;
use crate::engine::btree::page::{HEADER_BYTES, is_inline};
use crate::engine::btree::set_aside::UnreadableRange;
use crate::engine::btree::source::{LoadedPieces, Miss, PageSource};
use crate::engine::{Batch, Operation};

/// Leaves that one step changes at most, where there is enough space.
pub const MERGE_LEAVES: u64 = 32;
/// Bytes of cells after which it ends.
pub const MERGE_CELL_BYTES: usize = 64 << 10;

/// Limits of one step of a buffer merge.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct BufferMergeLimit {
    leaves: u64,
    /// Bytes of cells after which the step ends.
    cell_bytes: usize,
}

impl BufferMergeLimit {
    /// The limits where there is enough space.
    pub const USUAL: BufferMergeLimit =
        BufferMergeLimit { leaves: MERGE_LEAVES, cell_bytes: MERGE_CELL_BYTES };

    /// The usual limits, but no more than `leaves_max` leaves.
    pub fn of_leaves(leaves_max: u64) -> BufferMergeLimit {
        BufferMergeLimit { leaves: BufferMergeLimit::USUAL.leaves.min(leaves_max), ..BufferMergeLimit::USUAL }
    }

    /// Largest number of leaves that a step changes.
    pub fn leaves(&self) -> u64 {
        self.leaves
    }

    /// The limits where space is short: the space that a step may take is a small multiple of its changes.
    pub fn smallest(page_bytes: usize) -> BufferMergeLimit {
        BufferMergeLimit { leaves: 1, cell_bytes: page_bytes / 4 }
    }
}

/// The plan of the next step of a buffer merge.
pub struct BufferMergeStep {
    /// Pages on the paths of its changes.
    pins: Pins,
    /// Leaves that must be read first.
    misses: Vec<PageNumber>,
    /// Leaves that it changes.
    leaves: u64,
    cell_bytes: usize,
    /// The key at which the next step continues.
    next: Option<Vec<u8>>,
}

/// The next thing to do for a buffer merge.
pub enum BufferMergePlan {
    /// Read a page on a path.
    Read(Miss),
    /// Read leaves, adjacent ones with one request.
    ReadLeaves(Vec<PageNumber>),
    /// Set aside the puts for a range of keys whose page cannot be read.
    SetAside(UnreadableRange),
    /// Make the step, once there is so much space.
    Make(BufferMergeStep, SpaceNeeds),
}

impl Tree {
    /// Whether `batch` should go to the change buffer: it consists of puts of small values, and the tree is larger than `dirty_bytes_max` can
    /// hold.
    pub fn suits_buffer(&self, batch: &Batch, torn: Torn, dirty_bytes_max: u64) -> bool {
        torn != Torn::Image
            // Changes that are set aside stay in memory; they must not take the room of others.
            && self.buffer.aside.bytes() < share(dirty_bytes_max, SHARE_MERGE)
            && self.counts.leaf_pages * self.page_bytes() as u64 > dirty_bytes_max / 2
            && self.may_have_waited(batch)
    }

    /// Whether `batch` consists of puts of small values; no other batch is ever buffered.
    pub fn may_have_waited(&self, batch: &Batch) -> bool {
        let is_small = |operation: &Operation| {
            operation.value().is_some_and(|value| is_inline(self.page_bytes(), operation.key(), value))
        };
        batch.operations().iter().all(is_small)
    }

    /// Upper bound of the bytes that buffered puts will take in the file and the log: each changes its leaf, which is split and logged.
    pub fn buffer_owes(&self) -> u64 {
        self.buffer.len().min(self.counts.leaf_pages) * 2 * self.page_bytes() as u64
    }

    /// Plans the next step of a buffer merge: leaves from its position on that have buffered puts, within `max`.
    pub fn plan_buffer_merge(
        &self,
        source: &impl PageSource,
        loaded: &LoadedPieces,
        max: BufferMergeLimit,
    ) -> crate::engine::Result<BufferMergePlan> {
        let (pins, misses) = (Pins::default(), Vec::new());
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

    /// Pins the path to the leaf of `key`, or notes that the leaf must be read; returns the end of its range.
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
            if self.writable(number, &step.pins).is_none() {
                step.pins.insert(number, page);
            }
            match next {
                Some(next) => number = next,
                None => break,
            }
        }
        Ok(end)
    }

    /// Upper bound of the space that a step takes. Each part of a split page is filled to a quarter at least, so another quarter of new cells
    /// must come before it is split again.
    fn merge_needs(&self, step: &BufferMergeStep) -> SpaceNeeds {
        let room = self.page_bytes() - HEADER_BYTES;
        let splits = step.leaves + (4 * step.cell_bytes / room) as u64 + 2;
        let units = self.page_units() * (splits * (self.height + 2));
        let mut needs = SpaceNeeds { units, piece_units: self.page_units(), pages: 0 };
        self.need_copies(&step.pins, &mut needs);
        needs
    }

    /// Makes a step as planned; true if the buffer merge continues.
    pub fn make_buffer_merge_step(&mut self, step: BufferMergeStep, source: &impl PageSource) -> bool {
        let is_more = step.next.is_some();
        let batch = self.buffer.take(step.next.as_deref());
        self.apply(&batch, Deletes::Remove, step.pins, source);
        is_more
    }
}
