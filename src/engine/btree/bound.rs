//! The bound of the log on the disk (`checkpoint_log`): what counts towards it, when a checkpoint is due for it, and when buffered puts are
//! logged again.
//!
//! Every byte that is not released counts, copies of pages included, and the bytes that the next checkpoints will log: copies of dirty pages,
//! and buffered puts once more. A checkpoint is due at three quarters of the bound, so that programs need not wait while it runs. A batch
//! waits if it would make the files of the log longer than the bound and a segment.
//!
//! A buffered put keeps the recovery LSN down, and with it the log behind that. So a checkpoint logs the buffered puts again, behind its own
//! LSN, which is the recovery LSN then. It does so when that costs little (an eighth of the log that it releases), when the log is due, and
//! when replay would need more memory for puts than dirty pages may take. This also holds while a buffer merge is running. No more than a
//! quarter of the log may be buffered.

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

/// Bytes of a batch of puts that are logged again, about; no more than an eighth of a segment.
pub const AGAIN_BYTES: u64 = 64 << 10;
/// Share of the log that the page copies of one step of a buffer merge take, about: one part in so many.
pub const STEPS: u64 = 16;
/// Upper bound of the bytes of a batch beside its puts.
pub const BATCH_OVERHEAD_BYTES: u64 = 16;
/// Buffered puts are logged again if the log behind the recovery LSN is so many times as long.
pub const AGAIN_TIMES: u64 = 8;
/// The smallest such ratio when the log is due: below, nothing would be freed.
pub const AGAIN_TIMES_MIN: u64 = 2;

/// The bounds of dirty memory, of the change buffer and of the log, and the work that is due near them.
pub struct Bounds {
    core: Arc<Core>,
    /// Whether a batch waits until the log is shorter.
    is_log_wanted: AtomicBool,
    /// Free bytes of the disk when buffered puts could not be logged again for lack of space.
    again_failed: Mutex<Option<u64>>,
}

/// Whether the log has room for another record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogRoom {
    /// There is room.
    Enough,
    /// The log would become too long. A checkpoint helps, and is due.
    Full {
        /// Whether the checkpoint must be preceded by a merge of all buffered puts.
        for_all: bool,
    },
}

impl Bounds {
    /// The bounds of the store `core`.
    pub fn new(core: Arc<Core>) -> Bounds {
        Bounds { core, is_log_wanted: AtomicBool::new(false), again_failed: Mutex::new(None) }
    }

    /// Upper bound of the bytes that checkpoints will log for pages and changes that are dirty, buffered or set aside in `tree`.
    pub fn owed_log_bytes(&self, tree: &Tree) -> u64 {
        self.core.copies.log_bytes_max(tree.copies_max())
            + self.core.copies.left_bytes()
            + self.again_log_bytes(tree)
    }

    /// Upper bound of the bytes that it takes to log buffered puts and changes that are set aside again.
    pub fn again_log_bytes(&self, tree: &Tree) -> u64 {
        self.waiting_log_bytes(tree) + tree.buffer.aside.bytes()
    }

    /// Upper bound of a record of puts that are logged again; the last put of a batch has a small value.
    pub fn again_record_bytes_max(&self) -> u64 {
        self.again_batch_bytes()
            + self.core.pager.page_bytes() as u64
            + RECORD_OVERHEAD_BYTES
            + BATCH_OVERHEAD_BYTES
    }

    /// Upper bound of the bytes that it takes to log the buffered puts of `tree` again.
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

    /// Bytes of a batch of puts that are logged again, about.
    fn again_batch_bytes(&self) -> u64 {
        AGAIN_BYTES.min(self.core.log.segment_bytes() / 8)
    }

    /// Whether so much is buffered that a merge should begin.
    pub fn is_much_waiting(&self, tree: &Tree) -> bool {
        tree.buffer.bytes() >= share(self.core.options.dirty_bytes_max, SHARE_MERGE)
            || self.waiting_log_bytes(tree) >= self.again_bytes_max() / 2
    }

    /// Whether so much is buffered that no further batch may be.
    pub fn is_too_much_waiting(&self, tree: &Tree) -> bool {
        tree.buffer.bytes() >= share(self.core.options.dirty_bytes_max, SHARE_MAX)
            || self.waiting_log_bytes(tree) >= self.again_bytes_max()
    }

    /// Bytes of puts that may be logged again by one checkpoint.
    fn again_bytes_max(&self) -> u64 {
        self.core.options.checkpoint_log_bytes / 4
    }

    /// Limits of one step of a buffer merge, such that the log has room for the copies of its pages.
    pub fn merge_limit(&self) -> BufferMergeLimit {
        let leaves = match self.core.copies.log_bytes_max(1) {
            0 => u64::MAX,
            bytes => self.core.options.checkpoint_log_bytes / STEPS / bytes,
        };
        BufferMergeLimit::of_leaves(leaves.max(1))
    }

    /// Upper bound, about, of the pages that one step of a buffer merge changes: leaves and the pages above them.
    pub fn merge_pages_max(&self) -> u64 {
        2 * self.merge_limit().leaves() + self.core.tree.read().height
    }

    /// Pages on the path to a key, and one more.
    pub fn way_pages_max(&self) -> u64 {
        self.core.tree.read().height + 1
    }

    /// Whether so much of `tree` is dirty that a checkpoint should begin: three quarters of the bound in pages, half of it in values, or the
    /// share of the buffer at which a merge begins.
    pub fn is_pressing(&self, tree: &Tree) -> bool {
        // A checkpoint does not free changes that are set aside.
        let room_bytes = self.core.options.dirty_bytes_max.saturating_sub(tree.buffer.aside.bytes());
        (tree.pressing_bytes() + tree.buffer.bytes()) * 4 >= room_bytes * 3 || self.is_much_waiting(tree)
    }

    /// Whether the log is near its bound, including what will be logged for `tree`.
    pub fn is_log_near(&self, tree: &Tree) -> bool {
        let owed_bytes = self.owed_log_bytes(tree);
        self.core.log.unreleased_bytes() + owed_bytes >= self.core.options.checkpoint_log_bytes / 4 * 3
    }

    /// Whether a checkpoint is due because the log is near its bound, or because a batch waits for a shorter log.
    pub fn is_log_due(&self, tree: &Tree) -> bool {
        self.is_log_wanted.load(Relaxed) || self.is_log_near(tree)
    }

    /// Notes that a checkpoint begins; returns whether it shall log the buffered puts again.
    pub fn begin_checkpoint(&self) -> bool {
        if self.core.tree.read().buffer.is_empty() {
            *self.again_failed.lock() = None;
        }
        let is_worth_it = self.is_again_worth_it();
        self.is_log_wanted.store(false, Relaxed);
        is_worth_it
    }

    /// Whether the log has room for `bytes` of records and for copies of `pages` pages more.
    pub fn log_room(&self, bytes: u64, pages: u64) -> LogRoom {
        let core = &self.core;
        let (owed_bytes, only_waits) = {
            let tree = core.tree.read();
            (self.owed_log_bytes(&tree), tree.active_bytes() == 0 && tree.frozen.is_none())
        };
        let more_bytes = bytes + core.copies.log_bytes_max(pages) + owed_bytes;
        let bytes_max = core.options.checkpoint_log_bytes + core.log.segment_bytes();
        let is_dirty = || core.is_dirty(&core.tree.read());
        // The last file is never released.
        let helps = || !only_waits || core.log.live_segments() > 1;
        let is_full = core.log.live_bytes_with(more_bytes) > bytes_max && is_dirty() && helps();
        self.is_log_wanted.store(is_full, Relaxed);
        match is_full {
            true => LogRoom::Full { for_all: only_waits && !self.is_again_worth_it() },
            false => LogRoom::Enough,
        }
    }

    /// Whether a checkpoint that freezes now shall log the buffered puts again.
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

    /// Logs the buffered puts once more, so that a checkpoint at `now` needs no older log. False if there is no space for that: then only
    /// buffer merges move the recovery LSN. The writer's lock is held.
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
                // The recovery LSN stays where it is. Puts that are in the log twice do no harm.
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

    /// Whether the existing files of the log have room for a record with `payload_bytes` of a change that needs `needs`, for the copies of
    /// all pages that are dirty then, and for the buffered puts once more. If so, the change needs no free space of the disk.
    pub fn is_held(&self, payload_bytes: usize, needs: SpaceNeeds) -> bool {
        let (copies, again_bytes) = {
            let tree = self.core.tree.read();
            // A buffered put changes its leaf and the page above, each leaf at most once.
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

    /// Whether the copies of `pages` further pages, which background work is about to change, would find room neither in the existing files of
    /// the log nor on the disk.
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
