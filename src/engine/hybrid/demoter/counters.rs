//! What a demoter has done.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::step::Found;
use crate::engine::HybridShape;

/// Counters since the store was opened.
#[derive(Default)]
pub(super) struct Demoted {
    /// Entries that came into the levels, and bytes of their keys and values.
    pub(super) entries: AtomicU64,
    /// See there.
    pub(super) bytes: AtomicU64,
    /// Tombstones that were dropped, since nothing lay below them.
    pub(super) dropped_tombstones: AtomicU64,
    /// Clean entries that were to leave the tree.
    pub(super) dropped_clean: AtomicU64,
    /// Entries that were removed from the tree.
    pub(super) removed: AtomicU64,
    /// Entries that came into the levels, or tombstones that were to be dropped, and stayed in the tree: changed meanwhile, or for an error.
    pub(super) stayed: AtomicU64,
    /// The threshold, for reports.
    pub(super) threshold: AtomicU64,
    /// Nanoseconds that the last round took, and one; 0 before there was one.
    pub(super) round_nanos: AtomicU64,
    /// Bytes that the command has looked at so far, and one; 0 if there is none.
    pub(super) all_bytes: AtomicU64,
}

impl Demoted {
    /// Counts what a step has found.
    pub(super) fn count(&self, found: &Found) {
        self.entries.fetch_add(found.entries, Relaxed);
        self.bytes.fetch_add(found.bytes, Relaxed);
        self.dropped_clean.fetch_add(found.clean, Relaxed);
        let dropped = found.keys.len() as u64 - found.entries - found.clean;
        self.dropped_tombstones.fetch_add(dropped, Relaxed);
    }

    /// Notes how long the last round took.
    pub(super) fn note_round(&self, time: Duration) {
        self.round_nanos.store((time.as_nanos() as u64).saturating_add(1), Relaxed);
    }

    /// What is known of it.
    pub(super) fn shape(&self) -> HybridShape {
        HybridShape {
            threshold: self.threshold.load(Relaxed),
            round_time: self.round_nanos.load(Relaxed).checked_sub(1).map(Duration::from_nanos),
            demoted_entries: self.entries.load(Relaxed),
            demoted_bytes: self.bytes.load(Relaxed),
            dropped_tombstones: self.dropped_tombstones.load(Relaxed),
            dropped_clean: self.dropped_clean.load(Relaxed),
            removed_entries: self.removed.load(Relaxed),
            stayed_entries: self.stayed.load(Relaxed),
            ..HybridShape::default()
        }
    }
}
