//! A tree that is the upper half of a store: entries leave it for what lies below, once they are there.
//!
//! 1. Who brings entries down begins a *watch* of a range, and then reads it. Every batch notes in the watch which keys of the range it
//!    changes.
//! 2. When copies of the entries are durable below, those entries are removed whose keys no batch has noted. The removal is a record of the log of
//!    its own kind, so that replay does not take it for deletes: those leave tombstones.
//! 3. A crash before the removal leaves an entry in both places, and the upper one counts. A page that cannot be read keeps its entries.
//!
//! A delete leaves a tombstone if the key may lie below, or is just being brought down. Otherwise it removes the entry. Replay cannot know what lies below, and
//! leaves a tombstone for every delete.
//!
//! # Invariants
//!
//! 1. A watch begins and ends, batches note their keys, and entries are removed under the writer's lock. So a batch that is not noted was
//!    applied before the watch began, and who reads afterwards sees it.
//! 2. What was read is in the log, and that is durable, before a copy of it is part of the store below: a crash leaves a prefix of the history in
//!    both halves together ([`BtreeEngine::sync_log`]).

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use super::admission::RETRY_AFTER;
use super::allocation_unit::FILE;
use super::reader::Reader;
use super::records::{REMOVAL_KIND, put_removal};
use super::source::LoadedPieces;
use super::tree::{Deletes, Pins, ScanChunk, Stop};
use super::writer::Writer;
use super::{BtreeEngine, Options, Surroundings, open_in};
use crate::base::clock::Clock;
use crate::disk::{Disk, Purpose};
use crate::engine::salvage::open_if_there;
use crate::engine::{Batch, Cause, KeyRange, Lsn, Result, Tier, WorkClass};

/// What lies below the tree: whether a key may be there, by what is in memory.
pub type Below = Box<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// A range that is being brought down.
struct Watch {
    start: Bytes,
    /// Keys from `start` on that batches have changed since it began.
    changed: HashSet<Bytes>,
}

/// What a tree has to know as the upper half of a store.
#[derive(Default)]
pub struct UpperHalf {
    /// `None` until it is known; then every key may lie there.
    below: Mutex<Option<Below>>,
    watch: Mutex<Option<Watch>>,
    /// Tombstones that deletes have left.
    buried: AtomicU64,
}

impl UpperHalf {
    /// The keys that `batch` deletes and that may lie below, now or soon. The writer's lock is held.
    pub fn buried<'a>(&self, batch: &'a Batch) -> HashSet<&'a [u8]> {
        let (watch, below) = (self.watch.lock(), self.below.lock());
        let may_lie_below = |key: &&[u8]| {
            let is_watched = watch.as_ref().is_some_and(|watch| &watch.start[..] <= *key);
            is_watched || below.as_ref().is_none_or(|below| below(key))
        };
        let deletes = batch.operations().iter().filter(|operation| operation.value().is_none());
        deletes.map(|operation| &operation.key()[..]).filter(may_lie_below).collect()
    }

    /// Notes the keys of `batch` that are watched, and how many tombstones it has left. The writer's lock is held.
    pub fn note(&self, batch: &Batch, buried: u64) {
        self.buried.fetch_add(buried, Relaxed);
        if let Some(watch) = &mut *self.watch.lock() {
            let keys = batch.operations().iter().map(|operation| operation.key());
            let watched: Vec<&Bytes> = keys.filter(|key| **key >= watch.start).collect();
            watch.changed.extend(watched.into_iter().map(|key| Bytes::copy_from_slice(key)));
        }
    }

    /// A batch that removes those of `keys` that no batch has changed since the watch began.
    fn removal(&self, keys: &[Bytes]) -> Batch {
        let watch = self.watch.lock();
        let mut batch = Batch::new(0);
        // It gives space back.
        batch.uses_reserve = true;
        let is_changed = |key: &Bytes| watch.as_ref().is_none_or(|watch| watch.changed.contains(key));
        keys.iter().filter(|key| !is_changed(key)).for_each(|key| batch.delete(key.clone()));
        batch
    }
}

/// Opens a tree that is the upper half of a store.
pub fn open_upper(
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    options: &Options,
    around: Surroundings,
) -> Result<Arc<BtreeEngine>> {
    open_in(disk, clock, options, around, Some(UpperHalf::default()))
}

/// Whether `disk` has the pages of a tree.
pub fn has_pages(disk: &dyn Disk) -> Result<bool> {
    Ok(open_if_there(disk, FILE)?.is_some())
}

impl BtreeEngine {
    /// Says what lies below; until then any key may.
    pub fn set_below(&self, below: Below) {
        if let Some(upper) = &self.core.upper {
            *upper.below.lock() = Some(below);
        }
    }

    /// The entry of `key`: its value, or `Some(None)` if it is deleted and may lie below; and the pages that were asked.
    pub fn entry(&self, key: &[u8], tier: Tier) -> Result<(Option<Option<Bytes>>, u64)> {
        self.reader.entry(key, tier)
    }

    /// Begins to go through entries, tombstones among them, for `purpose`.
    pub fn walk(&self, purpose: Purpose) -> Walk<'_> {
        Walk { reader: &self.reader, purpose, leaves: 1, window_bytes: 0, loaded: LoadedPieces::default() }
    }

    /// Tombstones that deletes have left since the store was opened.
    pub fn buried(&self) -> u64 {
        self.core.upper.as_ref().map_or(0, |upper| upper.buried.load(Relaxed))
    }

    /// Counts a batch that waits for room in the tree; the wait ends with the next batch that comes in.
    pub fn begin_stall(&self, cause: Cause) {
        self.writer.stalls.begin(cause, true, self.core.clock.elapsed());
    }

    /// Bytes that its pages and values take.
    pub fn tree_bytes(&self) -> u64 {
        let counts = self.core.tree.read().counts;
        counts.leaf_pages * self.core.pager.page_bytes() as u64 + counts.extent_units.bytes()
    }

    /// Upper bound of the bytes of the disk that it may still take for the changes that it has: copies of dirty pages, and buffered puts.
    pub fn owed_bytes(&self) -> u64 {
        let tree = self.core.tree.read();
        self.writer.bounds.owed_log_bytes(&tree).max(tree.image_bytes_max()) + tree.buffer_owes()
    }

    /// Watches the keys from `start` on. There is one watch at a time.
    pub fn begin_watch(&self, start: &[u8]) {
        let _writer = self.core.tree.writer();
        if let Some(upper) = &self.core.upper {
            let start = Bytes::copy_from_slice(start);
            *upper.watch.lock() = Some(Watch { start, changed: HashSet::default() });
        }
    }

    /// Ends the watch.
    pub fn end_watch(&self) {
        let _writer = self.core.tree.writer();
        if let Some(upper) = &self.core.upper {
            *upper.watch.lock() = None;
        }
    }

    /// Removes the entries of `keys` that no batch has changed since the watch began; their number. They came down when the log was durable up to
    /// `lower_lsn`.
    pub fn remove_unchanged(&self, keys: &[Bytes], lower_lsn: Lsn) -> Result<u64> {
        self.writer.remove_unchanged(keys, lower_lsn)
    }

    /// LSN up to which the log was durable when the newest entries that have left the tree came down.
    pub fn lower_lsn(&self) -> Lsn {
        self.core.tree.read().lower_lsn
    }

    /// Makes the log longer, by a removal of nothing.
    pub fn lengthen_log(&self) -> Result<()> {
        let _writer = self.core.tree.writer();
        let lower_lsn = self.lower_lsn();
        self.writer.append_removal(&Batch::new(0), lower_lsn)
    }

    /// Time for which no clean entries shall be put, since batches would have to wait for the room that they take.
    pub fn clean_wait(&self) -> Option<Duration> {
        let (tree, bounds) = (self.core.tree.read(), &self.writer.bounds);
        (bounds.is_pressing(&tree) || bounds.is_log_due(&tree)).then_some(RETRY_AFTER)
    }

    /// Puts copies of what lies below as clean entries, those of `entries` whose keys have none; their number, and bytes of their keys and values. They are
    /// in no record of the log: what a crash takes is still below. Nothing may be brought down meanwhile.
    pub fn put_clean(&self, entries: &[(Bytes, Bytes)]) -> Result<(u64, u64)> {
        self.writer.put_clean(entries)
    }

    /// Makes everything that was applied so far durable; the end of it.
    pub fn sync_log(&self) -> Result<Lsn> {
        let (log, end) = (&self.core.log, self.core.log.end());
        if log.synced() < end {
            log.sync_now()?;
        }
        Ok(end)
    }
}

/// A walk through the entries of the tree.
pub struct Walk<'a> {
    reader: &'a Reader,
    purpose: Purpose,
    leaves: usize,
    /// Bytes of values behind the end that a read of values brings, too.
    window_bytes: usize,
    loaded: LoadedPieces,
}

impl Walk<'_> {
    /// Notes that the walk is a scan of `range`. Where it continues another one, it reads values ahead from here on.
    pub fn note(&mut self, range: KeyRange<'_>) {
        self.window_bytes = self.reader.read_ahead.note(range);
    }

    /// The entries of one leaf from `start` up to `end`, or the first of them, with the values that are `wanted`, by key and by
    /// whether the entry is clean.
    pub fn chunk(
        &mut self,
        start: &[u8],
        end: Option<&[u8]>,
        tier: Tier,
        wanted: &dyn Fn(&[u8], bool) -> bool,
    ) -> Result<ScanChunk> {
        let ahead = (self.leaves, self.window_bytes);
        let chunk = self.reader.chunk(start, end, (tier, self.purpose), ahead, wanted, &mut self.loaded)?;
        self.leaves = self.reader.after_chunk(self.leaves, &mut self.loaded);
        Ok(chunk)
    }

    /// The end of the range of keys around `start` of which something could not be read: that of the page that is damaged, or of the leaf
    /// where a value is. `None` at the end of the tree.
    pub fn behind_damage(&mut self, start: &[u8]) -> Result<Option<Vec<u8>>> {
        let core = &self.reader.core;
        loop {
            let (epoch, found) = {
                let tree = core.tree.read();
                if let Some(range) = tree.unreadable_range(&core.pager, &self.loaded, start) {
                    return Ok(range.end);
                }
                (tree.epoch, tree.leaf(&core.pager, &self.loaded, start, |_, _| {}))
            };
            match found {
                Ok(leaf) => return Ok(leaf.and_then(|(_, end)| end)),
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Miss(miss)) => {
                    core.load_if_whole(epoch, miss, Tier::Disk, self.purpose, &mut self.loaded)?;
                }
            }
        }
    }
}

impl Writer {
    fn append_removal(&self, batch: &Batch, lower_lsn: Lsn) -> Result<()> {
        let mut payload = Vec::new();
        put_removal(&mut payload, lower_lsn, batch);
        let put = |target: &mut Vec<u8>| target.extend_from_slice(&payload);
        self.core.log.append(REMOVAL_KIND, Purpose::Wal, payload.len(), put).map(drop)
    }

    /// See [`BtreeEngine::put_clean`].
    fn put_clean(&self, entries: &[(Bytes, Bytes)]) -> Result<(u64, u64)> {
        let mut loaded = LoadedPieces::default();
        let put = loop {
            let writer = self.core.tree.writer();
            self.core.pager.check()?;
            let (mut batch, mut pins) = (Batch::new(0), Pins::default());
            let (epoch, planned) = {
                let tree = self.core.tree.read();
                let absent = entries.iter().try_for_each(|(key, value)| {
                    if !tree.has_entry(&self.core.pager, &loaded, key)? {
                        batch.put(key.clone(), value.clone());
                    }
                    Ok(())
                });
                let plan = |()| tree.plan(&self.core.pager, &loaded, &batch, Deletes::Remove, &mut pins);
                (tree.epoch, absent.and_then(plan))
            };
            let needs = match planned {
                Ok(_) if batch.is_empty() => return Ok((0, 0)),
                Ok(needs) => needs,
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Miss(miss)) => {
                    drop(writer);
                    self.core.load_if_whole(epoch, miss, Tier::Disk, Purpose::Promote, &mut loaded)?;
                    continue;
                }
            };
            self.make_room(&batch, Some(needs), Tier::Disk)?;
            self.core.tree.write().put_clean(&batch, pins, &self.core.pager);
            self.core.log_batch_images();
            break (batch.operations().len() as u64, batch.bytes());
        };
        self.core.note_change();
        self.stalls.end(|| self.core.clock.elapsed());
        self.core.wake_signal.notify(WorkClass::Flush);
        Ok(put)
    }

    /// See [`BtreeEngine::remove_unchanged`].
    fn remove_unchanged(&self, keys: &[Bytes], lower_lsn: Lsn) -> Result<u64> {
        let Some(upper) = &self.core.upper else { return Ok(0) };
        let mut loaded = LoadedPieces::default();
        let removed = loop {
            let writer = self.core.tree.writer();
            self.core.pager.check()?;
            let batch = upper.removal(keys);
            if batch.is_empty() {
                return Ok(0);
            }
            let mut pins = Pins::default();
            let (epoch, refusal, planned) = {
                let tree = self.core.tree.read();
                let planned = tree.plan(&self.core.pager, &loaded, &batch, Deletes::Remove, &mut pins);
                (tree.epoch, tree.buffer.refusal(&batch), planned)
            };
            if let Some(error) = refusal {
                return Err(error);
            }
            let needs = match planned {
                Ok(needs) => needs,
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Miss(miss)) => {
                    drop(writer);
                    self.core.load_if_whole(epoch, miss, Tier::Disk, Purpose::Demote, &mut loaded)?;
                    continue;
                }
            };
            self.make_room(&batch, Some(needs), Tier::Disk)?;
            self.append_removal(&batch, lower_lsn).map_err(|error| self.refused(error, &batch))?;
            let mut tree = self.core.tree.write();
            tree.apply(&batch, Deletes::Remove, pins, &self.core.pager);
            tree.lower_lsn = tree.lower_lsn.max(lower_lsn);
            drop(tree);
            self.core.log_batch_images();
            break batch.operations().len() as u64;
        };
        self.core.note_change();
        self.stalls.end(|| self.core.clock.elapsed());
        self.core.wake_signal.notify(WorkClass::Flush);
        Ok(removed)
    }
}
