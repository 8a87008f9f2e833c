//! The bound of the log on the disk, `checkpoint_log`: what counts, when a checkpoint is due for it, and what a checkpoint logs again so
//! that little holds much.
//!
//! Counted is every byte that is not released, copies of pages included, and what the next checkpoints still owe: copies of dirty pages, and
//! what waits in the change buffer once more. A checkpoint is due at three quarters, so that programs need not wait
//! while it runs; a batch for which the files of the log would become longer than the bound and a segment waits for it.
//!
//! A put that waits holds the floor, and with it the log behind. So a checkpoint writes what waits once more, behind its own
//! position, which then is the floor. It does so when that costs little (an eighth of what it lets go), when the log is due, and
//! when replay would need more memory for puts than dirty pages may take. A sweep that has not ended holds the floor, too: what waits still
//! is logged again then. No more may wait than a quarter of the log.

use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;

use super::buffer::{Mark, SHARE_MAX, SHARE_SWEEP, StepMax, share};
use super::tree::Tree;
use super::{BtreeEngine, checkpoint};
use crate::disk::Purpose;
use crate::engine::btree::Torn;
use crate::engine::wal::{FIRST_KIND, RECORD_OVERHEAD_BYTES};
use crate::engine::{Batch, Error, Result};

/// What waits is logged again in batches of about this size, or of an eighth of a segment.
const AGAIN_BYTES: u64 = 64 << 10;
/// Share of the log that copies of the pages of one step of a sweep take, about.
const STEPS: u64 = 16;
/// Bytes of a batch beside its puts, at most.
const BATCH_OVERHEAD_BYTES: u64 = 16;
/// It is when the log behind the floor is so many times as long.
const AGAIN_TIMES: u64 = 8;
/// And in any case so many times: less would free nothing.
const AGAIN_TIMES_MIN: u64 = 2;

impl BtreeEngine {
    /// Bytes of the log that copies of `pages` pages take at most.
    fn copy_bytes_max(&self, pages: u64) -> u64 {
        match self.options.torn {
            Torn::DoubleWrite => 0,
            Torn::Delta | Torn::Image => pages * checkpoint::copy_record_bytes_max(self.pager.page_bytes()),
        }
    }

    /// Bytes of the log that checkpoints may still write for what is dirty, waits, or is set aside in `tree`.
    fn owed_log_bytes(&self, tree: &Tree) -> u64 {
        self.copy_bytes_max(tree.copies_max())
            + self.copies_left_bytes.load(Relaxed)
            + self.again_log_bytes(tree)
    }

    /// Bytes of the log that it takes at most to log again what waits or is set aside in `tree`.
    pub(super) fn again_log_bytes(&self, tree: &Tree) -> u64 {
        self.waiting_log_bytes(tree) + tree.buffer.aside.bytes()
    }

    /// Bytes of a record of what is logged again, at most: the put that fills a batch has a small value.
    pub(super) fn again_record_bytes_max(&self) -> u64 {
        self.again_batch_bytes()
            + self.pager.page_bytes() as u64
            + RECORD_OVERHEAD_BYTES
            + BATCH_OVERHEAD_BYTES
    }

    /// Bytes of the log that it takes at most to log again what waits in `tree`.
    fn waiting_log_bytes(&self, tree: &Tree) -> u64 {
        let bytes = tree.buffer.logged_bytes_max();
        match tree.buffer.is_empty() {
            true => 0,
            false => {
                bytes
                    + (1 + bytes / self.again_batch_bytes()) * (RECORD_OVERHEAD_BYTES + BATCH_OVERHEAD_BYTES)
            }
        }
    }

    /// What waits is logged again in batches of about this size.
    fn again_batch_bytes(&self) -> u64 {
        AGAIN_BYTES.min(self.log.segment_bytes() / 8)
    }

    /// Whether so much waits that it is brought into pages.
    pub(super) fn is_much_waiting(&self, tree: &Tree) -> bool {
        tree.buffer.bytes() >= share(self.options.dirty_bytes_max, SHARE_SWEEP)
            || self.waiting_log_bytes(tree) >= self.again_bytes_max() / 2
    }

    /// Whether so much waits that nothing more may.
    pub(super) fn is_too_much_waiting(&self, tree: &Tree) -> bool {
        tree.buffer.bytes() >= share(self.options.dirty_bytes_max, SHARE_MAX)
            || self.waiting_log_bytes(tree) >= self.again_bytes_max()
    }

    /// Bytes that may be logged again at once.
    fn again_bytes_max(&self) -> u64 {
        self.options.checkpoint_log_bytes / 4
    }

    /// How much one step of a sweep does, so that the log has room for the copies of its pages.
    pub(super) fn step_max(&self) -> StepMax {
        let leaves = match self.copy_bytes_max(1) {
            0 => u64::MAX,
            bytes => self.options.checkpoint_log_bytes / STEPS / bytes,
        };
        StepMax::of_leaves(leaves.max(1))
    }

    /// Pages that one step of a sweep changes, at most, about: leaves and those above them.
    pub(super) fn sweep_pages_max(&self) -> u64 {
        2 * self.step_max().leaves() + self.tree.read().height
    }

    /// Pages on the way to a key, and one more.
    pub(super) fn way_pages_max(&self) -> u64 {
        self.tree.read().height + 1
    }

    /// Whether the log has come near to its bound.
    pub(super) fn is_log_near(&self) -> bool {
        let owed_bytes = self.owed_log_bytes(&self.tree.read());
        self.log.unreleased_bytes() + owed_bytes >= self.options.checkpoint_log_bytes / 4 * 3
    }

    /// Whether a checkpoint is due, because it has, or a batch found it there.
    pub(super) fn is_log_due(&self) -> bool {
        self.is_log_wanted.load(Relaxed) || self.is_log_near()
    }

    /// Whether `bytes` of records and copies of `pages` pages more would take the log over its bound, and a checkpoint helps, which is
    /// due then.
    pub(super) fn is_log_full(&self, bytes: u64, pages: u64) -> bool {
        let (owed_bytes, only_waits) = {
            let tree = self.tree.read();
            (self.owed_log_bytes(&tree), tree.active_bytes() == 0 && tree.frozen.is_none())
        };
        let more_bytes = bytes + self.copy_bytes_max(pages) + owed_bytes;
        let bytes_max = self.options.checkpoint_log_bytes + self.log.segment_bytes();
        // The last file stays.
        let helps = || !only_waits || self.log.live_segments() > 1;
        let is_full = self.log.live_bytes_with(more_bytes) > bytes_max && self.is_dirty() && helps();
        self.is_log_wanted.store(is_full, Relaxed);
        if is_full && only_waits && !self.is_again_worth_it() {
            self.target.lock().get_or_insert_with(|| self.log.end());
        }
        is_full
    }

    /// Whether a checkpoint that freezes now shall log again what waits.
    pub(super) fn is_again_worth_it(&self) -> bool {
        let is_due = self.is_log_due();
        if self.again_failed.lock().is_some_and(|free_bytes| self.guard.free_bytes() <= free_bytes) {
            return false;
        }
        // On a full disk the log needs its files for copies.
        if self.lacks_room_for_copies(0) {
            return false;
        }
        let tree = self.tree.read();
        let Some(floor) = tree.buffer.floor().filter(|_| !tree.buffer.is_empty()) else { return false };
        let behind_bytes = self.log.end().saturating_sub(floor.position);
        let waiting_bytes = self.waiting_log_bytes(&tree);
        let is_cheap = behind_bytes
            >= (AGAIN_TIMES * waiting_bytes).max(self.log.segment_bytes().min(self.again_bytes_max()));
        let is_needed = is_due || tree.buffer.replayed_bytes_max() >= self.options.dirty_bytes_max;
        is_cheap || is_needed && behind_bytes >= AGAIN_TIMES_MIN * waiting_bytes
    }

    /// Appends what waits to the log once more, so that a checkpoint at `now` needs nothing before it. The writer's lock is held.
    pub(super) fn log_again(&self, now: Mark) -> Result<()> {
        let mut start = Some(Vec::new());
        while let Some(from) = start.take() {
            let mut batch = Batch::default();
            {
                let tree = self.tree.read();
                let mut waiting = tree.buffer.waiting(&from);
                while batch.bytes() < self.again_batch_bytes()
                    && let Some((key, value)) = waiting.next()
                {
                    batch.put(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                }
                start = waiting.next().map(|(key, _)| key.to_vec());
            }
            match self.log.append_batch(FIRST_KIND, Purpose::Wal, &batch) {
                // The floor stays where it is, and sweeps are all that moves it. What is in the log twice does no harm.
                Err(Error::NoSpace) => {
                    *self.again_failed.lock() = Some(self.guard.free_bytes());
                    self.target.lock().get_or_insert(now.position);
                    return Ok(());
                }
                appended => appended?,
            };
        }
        self.tree.write().buffer.set_logged(now);
        Ok(())
    }
}
