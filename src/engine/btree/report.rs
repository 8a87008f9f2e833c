//! The figures of the engine, for reports.

use super::BtreeEngine;
use super::page::HEADER_BYTES;
use crate::engine::{BtreeShape, Debt, Memory, Shape};

impl BtreeEngine {
    /// All figures at one moment.
    pub(super) fn report(&self) -> Shape {
        let log = self.core.log.shape();
        let jobs = self.checkpointer.describe();
        let (checkpoints, checkpoint_time) = self.checkpointer.ended();
        let tree = self.core.tree.read();
        let log_bytes = self.core.age.log_bytes(tree.durable.recovery_lsn, log.end);
        let (counts, page_bytes) = (tree.counts, self.core.pager.page_bytes() as u64);
        let (compressible_bytes, compressed_bytes) = self.core.pager.compressed_bytes();
        let [leaves, inner, extents] = self.core.pager.lookups();
        let (latch_waits, latch_wait_time) = self.core.tree.waits();
        let leaf_room = counts.leaf_pages * page_bytes;
        let leaf_used = counts.leaf_bytes + counts.leaf_pages * HEADER_BYTES as u64;
        Shape {
            engine: "btree",
            variant: self.core.options.variant(),
            tree: Some(BtreeShape {
                page_bytes,
                height: tree.height,
                leaf_pages: counts.leaf_pages,
                inner_pages: counts.inner_pages,
                extent_bytes: counts.extent_units.bytes(),
                free_bytes: tree.space.available_units().bytes(),
                fill: if leaf_room == 0 { 0.0 } else { leaf_used as f64 / leaf_room as f64 },
                saved_bytes: counts.saved_units.bytes(),
                compressible_bytes,
                compressed_bytes,
                splits: tree.events.splits,
                merges: tree.events.merges,
                checkpoints,
                checkpoint_age_bytes: log_bytes,
                checkpoint_time,
                dirty_age: self.core.age.dirty_age(self.core.clock.elapsed()),
                settle_bytes: tree.settle_bytes(self.core.options.torn),
                page_copies: u64::from(self.core.options.copies().is_some()),
                waiting_puts: tree.buffer.len(),
                waiting_bytes: tree.buffer.bytes(),
                recovery_time: self.opening.time,
                recovery_bytes: self.opening.read_bytes,
                leaf_hits: leaves.hits,
                leaf_misses: leaves.misses,
                inner_hits: inner.hits,
                inner_misses: inner.misses,
                extent_hits: extents.hits,
                extent_misses: extents.misses,
                latch_waits,
                latch_wait_time,
                pages: self.core.pager.traffic(),
            }),
            memory: Memory {
                limit_bytes: Some(
                    self.core.options.common.memory_bytes_max(self.core.options.dirty_bytes_max),
                ),
                used_bytes: Some(
                    tree.dirty_bytes() + self.core.pager.cache().bytes + tree.space.memory_bytes(),
                ),
                resident_bytes: Some(0),
                memtable_bytes: Some(0),
                memtable_bytes_max: Some(0),
                immutable_memtables: Some(0),
                dirty_bytes: Some(tree.dirty_bytes()),
                dirty_bytes_max: Some(self.core.options.dirty_bytes_max),
            },
            cache: self.core.pager.cache(),
            debt: Debt {
                dirty_bytes: Some(tree.dirty_bytes()),
                unsynced_bytes: log.unsynced_bytes,
                oldest_unsynced: log.oldest_unsynced,
                replay_bytes: Some(log.replay_bytes),
                pending_compaction_bytes: Some(0),
                ..Debt::default()
            },
            stalls: self.writer.stalls(),
            damage: tree.damage(),
            classes: self.core.pager.classes(),
            cpu: self.core.pager.cpu().snapshot() + self.core.log.cpu(),
            probes: Some(self.reader.probes()),
            jobs,
            ..Shape::default()
        }
    }
}
