//! The bound of the log on the disk, `checkpoint_log`: what counts, when a checkpoint is due for it, and what a checkpoint logs again so
//! that little holds much.
//!
//! Counted is every byte that is not released, copies of pages included, and what the next checkpoints still owe: copies of dirty pages, and
//! what waits in the change buffer once more. A checkpoint is due at three quarters, so that programs need not wait
//! while it runs; a batch for which the files of the log would become longer than the bound and a segment waits for it.
//!
//! A put that waits holds the recovery LSN, and with it the log behind. So a checkpoint writes what waits once more, behind its own
//! LSN, which then is the recovery LSN. It does so when that costs little (an eighth of what it lets go), when the log is due, and
//! when replay would need more memory for puts than dirty pages may take. A buffer merge that has not ended holds the recovery LSN, too: what waits still
//! is logged again then. No more may wait than a quarter of the log.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::Bytes;
use parking_lot::Mutex;

use super::age::LogPoint;
use super::change_buffer::{SHARE_MAX, SHARE_MERGE, share};
use super::core::Core;
use super::freemap::SpaceNeeds;
use super::tree::{BufferMergeLimit, Tree};
use crate::disk::Purpose;
use crate::engine::wal::{FIRST_KIND, RECORD_OVERHEAD_BYTES};
use crate::engine::{Batch, Error, Result};

/// What waits is logged again in batches of about this size, or of an eighth of a segment.
const AGAIN_BYTES: u64 = 64 << 10;
/// Share of the log that copies of the pages of one step of a buffer merge take, about.
const STEPS: u64 = 16;
/// Bytes of a batch beside its puts, at most.
const BATCH_OVERHEAD_BYTES: u64 = 16;
/// It is when the log behind the recovery LSN is so many times as long.
const AGAIN_TIMES: u64 = 8;
/// And in any case so many times: less would free nothing.
const AGAIN_TIMES_MIN: u64 = 2;

/// The bounds of what may be dirty, wait, and lie in the log, and what is due near them.
pub struct Bounds {
    core: Arc<Core>,
    /// A batch waits until the log is shorter.
    is_log_wanted: AtomicBool,
    /// What of the disk was free when what waits could not be logged again for want of space.
    again_failed: Mutex<Option<u64>>,
}

/// Whether the log takes a record more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogRoom {
    /// It does.
    Enough,
    /// It would become too long. A checkpoint helps, and is due.
    Full {
        /// Only one that brings what waits in the buffer, too.
        for_all: bool,
    },
}

impl Bounds {
    /// Those of the store `core`.
    pub fn new(core: Arc<Core>) -> Bounds {
        Bounds { core, is_log_wanted: AtomicBool::new(false), again_failed: Mutex::new(None) }
    }

    /// Bytes of the log that checkpoints may still write for what is dirty, waits, or is set aside in `tree`.
    fn owed_log_bytes(&self, tree: &Tree) -> u64 {
        self.core.copies.log_bytes_max(tree.copies_max())
            + self.core.copies.left_bytes()
            + self.again_log_bytes(tree)
    }

    /// Bytes of the log that it takes at most to log again what waits or is set aside in `tree`.
    pub fn again_log_bytes(&self, tree: &Tree) -> u64 {
        self.waiting_log_bytes(tree) + tree.buffer.aside.bytes()
    }

    /// Bytes of a record of what is logged again, at most: the put that fills a batch has a small value.
    pub fn again_record_bytes_max(&self) -> u64 {
        self.again_batch_bytes()
            + self.core.pager.page_bytes() as u64
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
        AGAIN_BYTES.min(self.core.log.segment_bytes() / 8)
    }

    /// Whether so much waits that it is brought into pages.
    pub fn is_much_waiting(&self, tree: &Tree) -> bool {
        tree.buffer.bytes() >= share(self.core.options.dirty_bytes_max, SHARE_MERGE)
            || self.waiting_log_bytes(tree) >= self.again_bytes_max() / 2
    }

    /// Whether so much waits that nothing more may.
    pub fn is_too_much_waiting(&self, tree: &Tree) -> bool {
        tree.buffer.bytes() >= share(self.core.options.dirty_bytes_max, SHARE_MAX)
            || self.waiting_log_bytes(tree) >= self.again_bytes_max()
    }

    /// Bytes that may be logged again at once.
    fn again_bytes_max(&self) -> u64 {
        self.core.options.checkpoint_log_bytes / 4
    }

    /// How much one step of a buffer merge does, so that the log has room for the copies of its pages.
    pub fn merge_limit(&self) -> BufferMergeLimit {
        let leaves = match self.core.copies.log_bytes_max(1) {
            0 => u64::MAX,
            bytes => self.core.options.checkpoint_log_bytes / STEPS / bytes,
        };
        BufferMergeLimit::of_leaves(leaves.max(1))
    }

    /// Pages that one step of a buffer merge changes, at most, about: leaves and those above them.
    pub fn merge_pages_max(&self) -> u64 {
        2 * self.merge_limit().leaves() + self.core.tree.read().height
    }

    /// Pages on the way to a key, and one more.
    pub fn way_pages_max(&self) -> u64 {
        self.core.tree.read().height + 1
    }

    /// Whether so much of `tree` is dirty that a checkpoint should begin: three quarters of the bound if it is pages, half if it is
    /// values, the share of the buffer that begins a buffer merge.
    pub fn is_pressing(&self, tree: &Tree) -> bool {
        // What is set aside is no work.
        let room_bytes = self.core.options.dirty_bytes_max.saturating_sub(tree.buffer.aside.bytes());
        (tree.pressing_bytes() + tree.buffer.bytes()) * 4 >= room_bytes * 3 || self.is_much_waiting(tree)
    }

    /// Whether the log has come near to its bound, with what it must still take for `tree`.
    pub fn is_log_near(&self, tree: &Tree) -> bool {
        let owed_bytes = self.owed_log_bytes(tree);
        self.core.log.unreleased_bytes() + owed_bytes >= self.core.options.checkpoint_log_bytes / 4 * 3
    }

    /// Whether a checkpoint is due, because it has, or a batch found it there.
    pub fn is_log_due(&self, tree: &Tree) -> bool {
        self.is_log_wanted.load(Relaxed) || self.is_log_near(tree)
    }

    /// A checkpoint begins, for whoever waited for a shorter log; whether it shall log again what waits.
    pub fn begin_checkpoint(&self) -> bool {
        if self.core.tree.read().buffer.is_empty() {
            *self.again_failed.lock() = None;
        }
        let is_worth_it = self.is_again_worth_it();
        self.is_log_wanted.store(false, Relaxed);
        is_worth_it
    }

    /// Whether the log takes `bytes` of records and copies of `pages` pages more.
    pub fn log_room(&self, bytes: u64, pages: u64) -> LogRoom {
        let core = &self.core;
        let (owed_bytes, only_waits) = {
            let tree = core.tree.read();
            (self.owed_log_bytes(&tree), tree.active_bytes() == 0 && tree.frozen.is_none())
        };
        let more_bytes = bytes + core.copies.log_bytes_max(pages) + owed_bytes;
        let bytes_max = core.options.checkpoint_log_bytes + core.log.segment_bytes();
        let is_dirty = || core.is_dirty(&core.tree.read());
        // The last file stays.
        let helps = || !only_waits || core.log.live_segments() > 1;
        let is_full = core.log.live_bytes_with(more_bytes) > bytes_max && is_dirty() && helps();
        self.is_log_wanted.store(is_full, Relaxed);
        match is_full {
            true => LogRoom::Full { for_all: only_waits && !self.is_again_worth_it() },
            false => LogRoom::Enough,
        }
    }

    /// Whether a checkpoint that freezes now shall log again what waits.
    pub fn is_again_worth_it(&self) -> bool {
        let is_due = self.is_log_due(&self.core.tree.read());
        if self.again_failed.lock().is_some_and(|free_bytes| self.core.guard.free_bytes() <= free_bytes) {
            return false;
        }
        // On a full disk the log needs its files for copies.
        if self.lacks_room_for_copies(0) {
            return false;
        }
        let tree = self.core.tree.read();
        let Some(recovery_point) = tree.buffer.recovery_point().filter(|_| !tree.buffer.is_empty()) else {
            return false;
        };
        let behind_bytes = self.core.log.end().bytes_since(recovery_point.lsn);
        let waiting_bytes = self.waiting_log_bytes(&tree);
        let is_cheap = behind_bytes
            >= (AGAIN_TIMES * waiting_bytes).max(self.core.log.segment_bytes().min(self.again_bytes_max()));
        let is_needed = is_due || tree.buffer.replayed_bytes_max() >= self.core.options.dirty_bytes_max;
        is_cheap || is_needed && behind_bytes >= AGAIN_TIMES_MIN * waiting_bytes
    }

    /// Appends what waits to the log once more, so that a checkpoint at `now` needs nothing before it. False if there is no space for that:
    /// then buffer merges are all that moves the recovery LSN. The writer's lock is held.
    pub fn log_again(&self, now: LogPoint) -> Result<bool> {
        let mut start = Some(Vec::new());
        while let Some(from) = start.take() {
            let mut batch = Batch::default();
            {
                let tree = self.core.tree.read();
                let mut waiting = tree.buffer.waiting(&from);
                while batch.bytes() < self.again_batch_bytes()
                    && let Some((key, value)) = waiting.next()
                {
                    batch.put(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
                }
                start = waiting.next().map(|(key, _)| key.to_vec());
            }
            match self.core.log.append_batch(FIRST_KIND, Purpose::Wal, &batch) {
                // The recovery LSN stays where it is. What is in the log twice does no harm.
                Err(Error::NoSpace) => {
                    *self.again_failed.lock() = Some(self.core.guard.free_bytes());
                    return Ok(false);
                }
                appended => appended?,
            };
        }
        self.core.tree.write().buffer.set_logged(now);
        Ok(true)
    }

    /// Whether the files of the log that there are have room for a record with `payload_bytes` of a change that needs `needs`, for the
    /// copies of all pages that then wait for a checkpoint, and for what waits in the buffer, logged again: then nothing of the disk is
    /// needed, however full it is.
    pub fn is_held(&self, payload_bytes: usize, needs: SpaceNeeds) -> bool {
        let (copies, again_bytes) = {
            let tree = self.core.tree.read();
            // What waits changes its leaf and what is above that, at most every leaf once.
            let merged_pages = 2 * tree.buffer.len().min(tree.counts.leaf_pages);
            (tree.copies_max() + needs.pages + merged_pages, self.again_log_bytes(&tree))
        };
        let again_record_bytes = if again_bytes > 0 { self.again_record_bytes_max() } else { 0 };
        let copies_owed = &self.core.copies;
        let copy_record_bytes = copies_owed.record_bytes_max();
        let logged_copies = if copies_owed.has_area_for(copies) { 0 } else { copies };
        let copies_bytes = logged_copies * copy_record_bytes + copies_owed.left_bytes();
        let record_bytes_max = copy_record_bytes.max(again_record_bytes);
        self.core.log.holds(payload_bytes as u64, copies_bytes + again_bytes, record_bytes_max)
    }

    /// Whether the copies of `pages` pages more, which background work changes, would find no room when a checkpoint makes them: neither
    /// in the files that there are, nor on the disk.
    pub fn lacks_room_for_copies(&self, pages: u64) -> bool {
        let needs = SpaceNeeds { pages, ..SpaceNeeds::default() };
        let owed_bytes = {
            let tree = self.core.tree.read();
            tree.image_bytes_max() + pages * self.core.pager.page_bytes() as u64
        };
        self.core.guard.free_bytes() < 2 * owed_bytes + self.core.log.segment_bytes()
            && !self.is_held(0, needs)
    }
}
