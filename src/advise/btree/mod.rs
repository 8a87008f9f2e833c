//! The B-tree by size: pages that fill, split and merge, the change buffer, checkpoints when the schedule says so, and the log with its copies of
//! pages. A batch is followed by all the work that it causes.

mod tree;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::cache::SizedCache;
use super::keys::Keys;
use super::log::SizedLog;
use super::lsm::BatchBytes;
use super::model::{Model, Sizes};
use crate::engine::btree::sizes::{
    AGAIN_BYTES, AGAIN_TIMES, AGAIN_TIMES_MIN, BATCH_OVERHEAD_BYTES, ENTRY_BYTES, FIRST_UNIT, FlushState,
    FlushWork, MAP_GROUP_UNITS, MERGE_CELL_BYTES, MERGE_LEAVES, META_BYTES, PAGES_SHARE, PUT_OVERHEAD_BYTES,
    SHARE_MERGE, STEPS, UNIT_BYTES, VacuumNeed, ahead_units, area_bytes, chunk_pages, image_record_bytes_max,
    kept_bytes, next, share,
};
use crate::engine::btree::{Options, Placement, Torn};
use crate::engine::wal::sizes::RECORD_OVERHEAD_BYTES;
use crate::engine::{Error, Result};
use tree::{PageId, Tree};

/// Number of extents in the cache begin here, behind those of pages.
const EXTENTS: u64 = 1 << 40;

/// Puts that wait for a merge.
#[derive(Default)]
struct Buffer {
    puts: BTreeMap<u32, u32>,
    bytes: u64,
    added_bytes: u64,
    /// End of the log before the oldest put, or behind which all were logged again; and what had been added by then.
    oldest: (u64, u64),
    /// The running merge has applied what is below.
    merged_below: u32,
}

/// The model.
pub struct BtreeModel {
    options: Options,
    keys: Arc<Keys>,
    log: SizedLog,
    tree: Tree,
    buffer: Buffer,
    cache: SizedCache,
    now: Duration,
    dirty_since: Option<Duration>,
    batch: BatchBytes,
    changes: Vec<(u32, Option<u64>)>,
    is_merging: bool,
    is_asked: bool,
    /// End of the log as of the durable state.
    durable: u64,
    end_units: u64,
    double_bytes: u64,
    way: Vec<(PageId, usize)>,
    sizes: Sizes,
    checkpoint_bytes: u64,
}

impl BtreeModel {
    /// An empty store with `options` for `keys`; an error for what is not modelled.
    pub fn new(options: &Options, keys: &Arc<Keys>) -> Result<BtreeModel> {
        if options.copies() == Some(Torn::Image) || options.pages == Placement::CowExtent {
            let variant = options.variant();
            return Err(Error::Invalid(format!("a B-tree with {variant} has no model of sizes")));
        }
        let common = &options.common;
        let mut log = SizedLog::new(common.log_segment_bytes, common.sync);
        log.set_file_bytes_max(options.checkpoint_log_bytes + common.log_segment_bytes);
        Ok(BtreeModel {
            log,
            tree: Tree::new(keys, options.page_bytes, options.pages != Placement::InPlace),
            buffer: Buffer::default(),
            cache: SizedCache::new(common.cache_bytes),
            now: Duration::ZERO,
            dirty_since: None,
            batch: BatchBytes::default(),
            changes: Vec::new(),
            is_merging: false,
            is_asked: false,
            durable: 0,
            end_units: FIRST_UNIT,
            double_bytes: kept_bytes(options.page_bytes as usize, common.reserve_bytes),
            way: Vec::new(),
            sizes: Sizes::default(),
            checkpoint_bytes: 0,
            keys: keys.clone(),
            options: options.clone(),
        })
    }

    /// Bytes of a record that copies a whole page.
    fn copy_record_bytes(&self) -> u64 {
        match self.options.copies() {
            Some(Torn::Delta | Torn::Image) => image_record_bytes_max(self.options.page_bytes as usize),
            _ => 0,
        }
    }

    /// Bytes of a batch of puts that are logged again.
    fn again_batch_bytes(&self) -> u64 {
        AGAIN_BYTES.min(self.log.segment_bytes() / 8).max(1)
    }

    /// Bytes that it takes at most to log the buffered puts again.
    fn again_log_bytes(&self) -> u64 {
        if self.buffer.puts.is_empty() {
            return 0;
        }
        let bytes = self.buffer.bytes - self.buffer.puts.len() as u64 * (ENTRY_BYTES - PUT_OVERHEAD_BYTES);
        bytes + (1 + bytes / self.again_batch_bytes()) * (RECORD_OVERHEAD_BYTES + BATCH_OVERHEAD_BYTES)
    }

    fn is_log_near(&self) -> bool {
        let owed_bytes = self.tree.dirty_pages().1 * self.copy_record_bytes() + self.again_log_bytes();
        self.log.unreleased_bytes() + owed_bytes >= self.options.checkpoint_log_bytes / 4 * 3
    }

    fn is_much_waiting(&self) -> bool {
        self.buffer.bytes >= share(self.options.dirty_bytes_max, SHARE_MERGE)
            || self.again_log_bytes() >= self.options.checkpoint_log_bytes / 8
    }

    fn is_again_worth_it(&self) -> bool {
        if self.buffer.puts.is_empty() {
            return false;
        }
        let (behind_bytes, waiting_bytes) = (self.log.end() - self.buffer.oldest.0, self.again_log_bytes());
        let least = self.log.segment_bytes().min(self.options.checkpoint_log_bytes / 4);
        let replayed_bytes = self.buffer.added_bytes - self.buffer.oldest.1;
        let is_needed = self.is_log_near() || replayed_bytes >= self.options.dirty_bytes_max;
        behind_bytes >= (AGAIN_TIMES * waiting_bytes).max(least)
            || is_needed && behind_bytes >= AGAIN_TIMES_MIN * waiting_bytes
    }

    fn has_room_to_merge(&self) -> bool {
        let active_bytes = self.tree.active_bytes();
        let frees_log = self.is_log_near() && (active_bytes > 0 || self.is_again_worth_it());
        active_bytes < share(self.options.dirty_bytes_max, PAGES_SHARE) && !frees_log
    }

    /// Does the work that is due.
    fn work(&mut self) {
        loop {
            let pressing_bytes = self.tree.active_bytes() + self.tree.value_bytes() / 2 + self.buffer.bytes;
            let is_much_waiting = self.is_much_waiting();
            let work = {
                let has_room = || self.has_room_to_merge();
                next(&FlushState {
                    is_verify_asked: false,
                    is_checkpoint_running: false,
                    vacuum: &|| VacuumNeed::Nothing,
                    is_asked: self.is_asked,
                    is_retry_asked: false,
                    is_merging: self.is_merging,
                    is_dirty: self.log.end() > self.durable || self.tree.active_bytes() > 0,
                    is_pressing: pressing_bytes * 4 >= self.options.dirty_bytes_max * 3 || is_much_waiting,
                    is_log_due: self.is_log_near(),
                    age: self.dirty_since.map_or(Duration::ZERO, |since| self.now.saturating_sub(since)),
                    age_max: self.options.checkpoint_age,
                    is_much_waiting,
                    is_merged: self.buffer.puts.is_empty(),
                    has_room_to_merge: &has_room,
                })
            };
            match work {
                FlushWork::MergeBuffer => {
                    self.is_merging = true;
                    self.merge_step();
                }
                FlushWork::Checkpoint { is_part, .. } => {
                    let is_merged = !is_part && self.is_merging;
                    (self.is_merging, self.is_asked) = (is_part, self.is_asked && is_part);
                    self.checkpoint(is_merged);
                }
                FlushWork::Answer => (self.is_merging, self.is_asked) = (false, false),
                _ => return,
            }
        }
    }

    /// Applies the buffered puts of the next few leaves.
    fn merge_step(&mut self) {
        let leaves_max = match self.copy_record_bytes() {
            0 => MERGE_LEAVES,
            bytes => (self.options.checkpoint_log_bytes / STEPS / bytes).clamp(1, MERGE_LEAVES),
        };
        let (mut leaves, mut cell_bytes) = (0, 0);
        while leaves < leaves_max && cell_bytes < MERGE_CELL_BYTES as u64 {
            let Some((first, _)) = self.buffer.puts.range(self.buffer.merged_below..).next() else { break };
            self.load_way(*first, true);
            let end = self.tree.leaf_end(&self.way);
            leaves += 1;
            while cell_bytes < MERGE_CELL_BYTES as u64
                && let Some((rank, value_bytes)) =
                    self.buffer.puts.range(self.buffer.merged_below..).next().map(|(a, b)| (*a, *b))
                && rank < end
            {
                cell_bytes += self.keys.bytes(rank) + u64::from(value_bytes) + 6;
                self.forget(rank);
                self.tree.put(rank, u64::from(value_bytes));
                self.buffer.merged_below = rank + 1;
            }
        }
        if self.buffer.puts.range(self.buffer.merged_below..).next().is_none() {
            self.buffer.merged_below = 0;
        }
        self.note_space();
    }

    fn forget(&mut self, rank: u32) {
        if let Some(value_bytes) = self.buffer.puts.remove(&rank) {
            self.buffer.bytes -= self.keys.bytes(rank) + u64::from(value_bytes) + ENTRY_BYTES;
        }
    }

    fn buffer_put(&mut self, rank: u32, value_bytes: u64) {
        if self.buffer.puts.is_empty() {
            self.buffer.oldest = (self.log.end(), self.buffer.added_bytes);
        }
        self.forget(rank);
        let bytes = self.keys.bytes(rank) + value_bytes + ENTRY_BYTES;
        self.buffer.bytes += bytes;
        self.buffer.added_bytes += bytes;
        self.buffer.puts.insert(rank, value_bytes as u32);
    }

    /// Reads the pages on the way to a key that are not in memory.
    fn load_way(&mut self, rank: u32, is_background: bool) {
        let mut way = std::mem::take(&mut self.way);
        self.tree.way(rank, &mut way);
        let page_bytes = self.options.page_bytes;
        for (page, _) in &way {
            if !self.tree.is_dirty(*page) && !self.cache.use_piece(u64::from(*page), page_bytes) {
                self.count_read(page_bytes, is_background);
            }
        }
        self.way = way;
    }

    fn count_read(&mut self, bytes: u64, is_background: bool) {
        match is_background {
            true => self.sizes.background_read_bytes += bytes,
            false => {
                self.sizes.read_bytes += bytes;
                self.sizes.read_requests += 1;
            }
        }
    }

    fn log_again(&mut self) {
        let (mut batch, mut in_batch) = (BatchBytes::default(), 0);
        let most = self.again_batch_bytes();
        let puts: Vec<(u32, u32)> = self.buffer.puts.iter().map(|(rank, bytes)| (*rank, *bytes)).collect();
        for (rank, value_bytes) in puts {
            let key_bytes = self.keys.bytes(rank);
            batch.add(key_bytes, Some(u64::from(value_bytes)));
            in_batch += key_bytes + u64::from(value_bytes);
            if in_batch >= most {
                let (bytes, bytes_max) = std::mem::take(&mut batch).record();
                self.log.append(bytes, bytes_max, self.now);
                in_batch = 0;
            }
        }
        if !batch.is_empty() {
            let (bytes, bytes_max) = batch.record();
            self.log.append(bytes, bytes_max, self.now);
        }
    }

    fn checkpoint(&mut self, is_merged: bool) {
        let frozen_at = self.log.end();
        if self.is_again_worth_it() {
            self.log_again();
            self.buffer.oldest = (frozen_at, self.buffer.added_bytes - self.buffer.bytes);
        }
        self.note_space();
        let recovery = if self.buffer.puts.is_empty() { frozen_at } else { self.buffer.oldest.0 };
        let frozen = self.tree.freeze();
        if is_merged || self.buffer.puts.is_empty() {
            self.dirty_since = None;
        }
        if !self.buffer.puts.is_empty() {
            self.dirty_since.get_or_insert(self.now);
        }
        let mut bytes = frozen.fresh_bytes + self.map_bytes(frozen.map_events);
        let page_bytes = self.options.page_bytes;
        let pages = frozen.in_place_units.len();
        match self.options.copies() {
            Some(Torn::Doublewrite) if pages > 0 => {
                let area = area_bytes(pages, page_bytes as usize, chunk_pages(page_bytes as usize));
                self.double_bytes = self.double_bytes.max(area);
                bytes += area;
            }
            Some(_) => {
                for (nth, units) in frozen.in_place_units.iter().enumerate() {
                    if nth % chunk_pages(page_bytes as usize) == 0 {
                        self.log.work(self.now);
                    }
                    let record = image_record_bytes_max(usize::from(*units) * UNIT_BYTES as usize);
                    let payload_bytes = record - RECORD_OVERHEAD_BYTES;
                    self.log.append(payload_bytes, payload_bytes, self.now);
                }
            }
            None => {}
        }
        self.log.sync(false);
        bytes += META_BYTES as u64;
        self.log.release(frozen_at.min(recovery));
        if pages > 0 {
            let units: u64 = frozen.in_place_units.iter().map(|units| u64::from(*units)).sum();
            bytes += units * UNIT_BYTES + META_BYTES as u64;
        }
        self.durable = recovery;
        if self.buffer.puts.is_empty() {
            // No batch came in meanwhile.
            self.durable = self.log.end();
            if pages > 0 {
                self.log.release(self.log.end());
            }
        }
        self.checkpoint_bytes += bytes;
        // What was dirty stays in memory as far as there is room.
        for page in frozen.pages {
            self.cache.use_piece(u64::from(page), page_bytes);
        }
        for rank in frozen.extents {
            let units = self.tree.extent_units(rank).unwrap_or(0);
            self.cache.use_piece(EXTENTS | u64::from(rank), units * UNIT_BYTES);
        }
        self.note_space();
    }

    /// Bytes of the pages of the free map that a checkpoint writes, after so many takes and frees: those of the groups that they are in, if they
    /// are spread over all, and the root above.
    fn map_bytes(&self, events: u64) -> u64 {
        let groups = self.end_units.div_ceil(MAP_GROUP_UNITS).max(1);
        if events == 0 {
            return 0;
        }
        let met = groups as f64 * (1.0 - (1.0 - 1.0 / groups as f64).powf(events as f64));
        let pages = (met.ceil() as u64).min(events) + u64::from(groups > 1);
        pages * UNIT_BYTES
    }

    fn note_space(&mut self) {
        let groups = self.end_units.div_ceil(MAP_GROUP_UNITS).max(1);
        let used = FIRST_UNIT + self.tree.units() + 2 * groups;
        self.end_units = self.end_units.max(used);
        let bytes = self.space_bytes();
        self.sizes.note_space(bytes);
    }

    fn space_bytes(&self) -> u64 {
        let units = self.end_units + ahead_units(&self.options, self.end_units);
        units * UNIT_BYTES + self.double_bytes + self.log.file_bytes()
    }

    /// Whether the batch that is open goes to the change buffer.
    fn suits_buffer(&self) -> bool {
        self.tree.leaf_pages() * self.options.page_bytes > self.options.dirty_bytes_max / 2
            && self
                .changes
                .iter()
                .all(|(rank, value)| value.is_some_and(|bytes| self.tree.is_inline(*rank, bytes)))
    }
}

impl Model for BtreeModel {
    fn put(&mut self, rank: u32, value_bytes: u64) {
        self.batch.add(self.keys.bytes(rank), Some(value_bytes));
        self.changes.push((rank, Some(value_bytes)));
    }

    fn delete(&mut self, rank: u32) {
        self.batch.add(self.keys.bytes(rank), None);
        self.changes.push((rank, None));
    }

    fn end_batch(&mut self, elapsed: Duration) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let (payload_bytes, payload_bytes_max) = std::mem::take(&mut self.batch).record();
        if self.suits_buffer() {
            for (rank, value) in std::mem::take(&mut self.changes) {
                self.buffer_put(rank, value.unwrap_or(0));
            }
            self.log.append(payload_bytes, payload_bytes_max, self.now);
        } else {
            self.log.append(payload_bytes, payload_bytes_max, self.now);
            for (rank, value) in std::mem::take(&mut self.changes) {
                self.load_way(rank, false);
                self.forget(rank);
                match value {
                    Some(value_bytes) => self.tree.put(rank, value_bytes),
                    None => {
                        self.tree.delete(rank);
                    }
                }
            }
        }
        self.dirty_since.get_or_insert(self.now);
        self.now += elapsed;
        self.log.work(self.now);
        let before = self.checkpoint_bytes;
        self.work();
        if self.checkpoint_bytes > before {
            self.log.work(self.now);
        }
        Ok(())
    }

    fn get(&mut self, rank: u32, is_found: bool) {
        if self.buffer.puts.contains_key(&rank) {
            return;
        }
        self.load_way(rank, false);
        if is_found {
            self.read_extent(rank);
        }
    }

    fn scan(&mut self, from: u32, to: u32) {
        let mut at = from;
        loop {
            self.load_way(at, false);
            if self.way.is_empty() {
                return;
            }
            let end = self.tree.leaf_end(&self.way);
            let shown: Vec<u32> = self.tree.present(at, end.min(to.saturating_add(1))).collect();
            shown.into_iter().for_each(|rank| self.read_extent(rank));
            if end > to {
                return;
            }
            at = end;
        }
    }

    fn sync(&mut self) {
        self.log.sync(true);
    }

    fn settle(&mut self) -> Result<()> {
        self.is_asked = true;
        self.log.work(self.now);
        self.work();
        self.log.sync(true);
        self.log.work(self.now);
        Ok(())
    }

    fn forget_peaks(&mut self) {
        self.sizes.space_bytes_peak = 0;
    }

    fn sizes(&mut self) -> Sizes {
        self.note_space();
        self.sizes.log_bytes = self.log.written_bytes();
        self.sizes.written_bytes = self.log.written_bytes() + self.checkpoint_bytes;
        self.sizes.space_bytes = self.space_bytes();
        self.sizes.log_file_bytes = self.log.file_bytes();
        self.sizes
    }
}

impl BtreeModel {
    /// Reads the value of a key, if it lies in an extent that is not in memory.
    fn read_extent(&mut self, rank: u32) {
        let units = self.tree.extent_units(rank).unwrap_or(0);
        if units == 0 || self.tree.is_fresh_extent(rank) {
            return;
        }
        if !self.cache.use_piece(EXTENTS | u64::from(rank), units * UNIT_BYTES) {
            self.count_read(units * UNIT_BYTES, false);
        }
    }
}
