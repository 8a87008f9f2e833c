//! The room on the disk below: how much of it is kept free, how much of it compactions may still take, and when deletes are to give some
//! back. The one place that decides how much ballast is kept and whether tables are cleaned.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::Options;
use super::shortage::{Shortage, Trouble};
use super::version::{Superversion, Version};
use crate::disk::LEVELS;
use crate::engine::{Error, ExtraSpace, SpaceGuard, WakeSignal, WorkClass};

/// Share of a table that deletes must give back to be worth its cleaning.
pub const SHARE_MIN: f64 = 1.0 / 16.0;
/// Divisor of the bytes of the store that gives the ballast, as long as that is less than a flush and a compaction may take.
pub const BALLAST_SHARE: u64 = 8;

/// The room of a store.
pub struct SpaceBudget {
    /// Free bytes, the reserve and the ballast.
    pub guard: Arc<SpaceGuard>,
    /// The state while there is too little.
    pub shortage: Shortage,
    wake_signal: Arc<WakeSignal>,
    table_bytes: u64,
    /// The most ballast that is of use.
    ballast_bytes_max: u64,
    /// Bytes that running merges may still take.
    merge_owed_bytes: AtomicU64,
    /// Bytes that what lies above the levels may still take for changes that it has: merges leave them, unless they give space back.
    above_owed_bytes: AtomicU64,
    /// Bytes that they have taken beside their inputs.
    temporary_bytes: AtomicU64,
    temporary_peak_bytes: AtomicU64,
}

/// Bytes of the ballast of a store with `options` at most, whose log has segments of `segment_bytes`.
pub fn ballast_bytes_max(options: &Options, segment_bytes: u64) -> u64 {
    options.memtable_bytes.max(options.table_bytes) + 2 * segment_bytes
}

impl SpaceBudget {
    /// The budget of a store with `options` whose log has segments of `segment_bytes`; `guard` keeps the reserve, `wake_signal` wakes
    /// background work.
    pub fn new(
        guard: Arc<SpaceGuard>,
        wake_signal: Arc<WakeSignal>,
        options: &Options,
        segment_bytes: u64,
    ) -> SpaceBudget {
        SpaceBudget {
            guard,
            shortage: Shortage::default(),
            wake_signal,
            table_bytes: options.table_bytes,
            // A flush, and the cleaning of a table, beside a segment of the log.
            ballast_bytes_max: ballast_bytes_max(options, segment_bytes),
            merge_owed_bytes: AtomicU64::new(0),
            above_owed_bytes: AtomicU64::new(0),
            temporary_bytes: AtomicU64::new(0),
            temporary_peak_bytes: AtomicU64::new(0),
        }
    }

    /// Keeps as much ballast as a flush and the cleaning of a table of `version` may take beside a segment of the log.
    pub fn keep_ballast(&self, version: &Version) {
        let (bytes, _) = version.totals.weight();
        let owed_bytes = self.merge_owed_bytes();
        // A merge that it was given up for may take more than it seemed.
        if owed_bytes > 0 && self.shortage.is_cleaning_wanted() {
            return;
        }
        self.guard.keep_ballast(self.ballast_bytes_max.min(bytes / BALLAST_SHARE), owed_bytes);
    }

    /// Notes what running merges have taken beside their inputs, and what they may still take, in bytes.
    pub fn note_merges(&self, temporary_bytes: u64, owed_bytes: u64) {
        self.merge_owed_bytes.store(owed_bytes, Relaxed);
        self.temporary_bytes.store(temporary_bytes, Relaxed);
        self.temporary_peak_bytes.fetch_max(temporary_bytes, Relaxed);
    }

    /// Bytes that running merges may still take.
    pub fn merge_owed_bytes(&self) -> u64 {
        self.merge_owed_bytes.load(Relaxed)
    }

    /// Notes the bytes that what lies above the levels may still take.
    pub fn note_above(&self, owed_bytes: u64) {
        self.above_owed_bytes.store(owed_bytes, Relaxed);
    }

    /// Bytes that what lies above the levels may still take.
    pub fn above_owed_bytes(&self) -> u64 {
        self.above_owed_bytes.load(Relaxed)
    }

    /// Bytes that running merges have taken beside their inputs.
    pub fn temporary_bytes(&self) -> u64 {
        self.temporary_bytes.load(Relaxed)
    }

    /// The report on it; `obsolete_bytes` are those of tables that only readers hold.
    pub fn shape(&self, obsolete_bytes: u64) -> ExtraSpace {
        ExtraSpace {
            obsolete_bytes,
            ballast_bytes: self.guard.ballast_bytes(),
            temporary_bytes: self.temporary_bytes(),
            temporary_peak_bytes: self.temporary_peak_bytes.load(Relaxed),
        }
    }

    /// The failure for `error`, with the bytes that are free now.
    pub fn trouble(&self, error: Error) -> Trouble {
        Trouble { error, free_bytes: self.guard.free_bytes() }
    }

    /// Has flushes and compactions that failed for want of space tried again once there is more than there was then: others may have given
    /// it back.
    pub fn forget_troubles(&self) {
        let (flush, merge) = self.shortage.forget_past(self.guard.free_bytes());
        if flush {
            self.wake_signal.notify(WorkClass::Flush);
        }
        if merge {
            self.wake_signal.notify(WorkClass::Merge);
        }
    }

    /// Notes that the disk has refused a batch, so that tables are cleaned; whether that is new.
    pub fn want_space(&self) -> bool {
        let is_new = self.shortage.note_refusal();
        if is_new {
            self.shortage.expect_space();
            self.wake_signal.notify(WorkClass::Merge);
        }
        is_new
    }

    /// Has tables cleaned although no batch was refused, if `tombstones` and those in the tables of `version` stand for more bytes than are
    /// free.
    pub fn clean_unasked(&self, version: &Version, tombstones: u64) {
        if self.is_more_deleted_than_free(version, tombstones) {
            self.shortage.set_unasked(true);
            self.shortage.expect_space();
            self.wake_signal.notify(WorkClass::Merge);
        }
    }

    /// Notes that something was deleted: if that is more than is free, it is to come back soon, for the one who deletes or for others on the
    /// disk may need it.
    pub fn note_deletes(&self) {
        if self.shortage.note_delete() {
            self.wake_signal.notify(WorkClass::Reclaim);
        }
    }

    /// Whether `tombstones` and those of tables seem to stand for more bytes than are free for new data.
    pub fn is_more_deleted_than_free(&self, version: &Version, tombstones: u64) -> bool {
        let in_tables: u64 = (0..LEVELS).map(|level| version.level(level).sums().tombstones).sum();
        deleted_bytes(version, tombstones + in_tables) > self.guard.spare_bytes()
    }

    /// Whether flushing the memtables would let cleaning give back more than a trifle.
    pub fn deletes_in_memory(&self, superversion: &Superversion, is_mutable: bool) -> bool {
        let tombstones: u64 = match is_mutable {
            true => superversion.mutable.tombstones(),
            false => superversion.immutables.iter().map(|memtable| memtable.tombstones()).sum(),
        };
        let gain_bytes = deleted_bytes(&superversion.version, tombstones);
        gain_bytes > 0 && gain_bytes as f64 >= self.table_bytes as f64 * SHARE_MIN
    }
}

/// Bytes that `tombstones` give back, if each stands for an entry of the usual size.
fn deleted_bytes(version: &Version, tombstones: u64) -> u64 {
    let (bytes, entries) = version.totals.weight();
    (tombstones as f64 * bytes as f64 / entries.max(1) as f64) as u64
}
