//! Ranges of keys whose page cannot be read: they are reported once, their changes are kept in the log, and the read is tried again when a
//! checkpoint is asked for. [`super::set_aside`] holds the changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use parking_lot::Mutex;

use super::allocation_unit::PageSet;
use super::core::Core;
use super::records::ASIDE_KIND;
use super::set_aside::UnreadableRange;
use super::source::LoadedPieces;
use super::tree::{Pins, Stop};
use crate::disk::Purpose;
use crate::engine::{Result, Tier};

/// Handles unreadable ranges.
pub struct UnreadableRanges {
    core: Arc<Core>,
    /// Unreadable pages that were reported.
    told: Mutex<PageSet>,
    /// Whether the next checkpoint tries to read them.
    is_retry_asked: AtomicBool,
}

impl UnreadableRanges {
    /// A handler for `core`. Ranges that opening could not read are reported now.
    pub fn new(core: Arc<Core>) -> UnreadableRanges {
        let unreadable =
            UnreadableRanges { core, told: Mutex::default(), is_retry_asked: AtomicBool::new(false) };
        unreadable.core.tree.read().buffer.aside.ranges().for_each(|range| unreadable.tell(range));
        unreadable
    }

    /// Sets aside the buffered puts of `range`. The writer's lock is held.
    pub fn set_aside(&self, range: UnreadableRange) {
        let now = self.core.log_point();
        self.core.tree.write().buffer.set_aside(range.clone(), now);
        self.tell(&range);
    }

    /// Reports a range that cannot be read, once.
    fn tell(&self, range: &UnreadableRange) {
        if !self.told.lock().insert(range.page) {
            return;
        }
        log::error!("{}; changes of its keys are refused, what waits for it stays in the log", range.error);
        let offset = range.page.offset();
        let fields = vec![("what", range.error.to_string().into()), ("offset", offset.into())];
        self.core.record("damage", fields);
    }

    /// Asks the next checkpoint to try the unreadable ranges again.
    pub fn ask_retry(&self) {
        self.is_retry_asked.store(true, Relaxed);
    }

    /// Whether the next checkpoint shall try them again.
    pub fn is_retry_asked(&self) -> bool {
        self.is_retry_asked.load(Relaxed)
    }

    /// Tries to read the unreadable ranges, and applies the changes of those that can be read now.
    pub fn retry(&self) {
        self.is_retry_asked.store(false, Relaxed);
        let ranges: Vec<UnreadableRange> = self.core.tree.read().buffer.aside.ranges().cloned().collect();
        for range in ranges {
            match self.retry_range(&range) {
                Ok(true) => {
                    self.told.lock().remove(&range.page);
                    let offset = range.page.offset();
                    self.core.record("damage_gone", vec![("offset", offset.into())]);
                }
                Ok(false) => {}
                Err(error) => log::warn!("what waits for an unreadable page stays in the log: {error}"),
            }
        }
    }

    /// Whether the page of `range` could be read and its changes applied.
    fn retry_range(&self, range: &UnreadableRange) -> Result<bool> {
        let mut loaded = LoadedPieces::default();
        loop {
            let writer = self.core.tree.writer();
            self.core.pager.check()?;
            let mut pins = Pins::default();
            let (epoch, batch, planned) = {
                let tree = self.core.tree.read();
                let batch = tree.buffer.aside.batch_of(range);
                let planned = tree.plan(&self.core.pager, &loaded, &batch, tree.deletes(), &mut pins);
                (tree.epoch, batch, planned)
            };
            match planned {
                Ok(needs) => {
                    self.core.take_space(needs, Tier::Disk)?;
                    let mut tree = self.core.tree.write();
                    tree.buffer.aside.remove(range);
                    let deletes = tree.deletes();
                    tree.apply(&batch, deletes, pins, &self.core.pager);
                    drop(tree);
                    self.core.note_change();
                    return Ok(true);
                }
                Err(Stop::Failed(_)) => return Ok(false),
                Err(Stop::Miss(miss)) => {
                    drop(writer);
                    self.core.load_if_whole(epoch, miss, Tier::Disk, Purpose::PageWrite, &mut loaded)?;
                }
            }
        }
    }

    /// Logs the changes that are set aside once more, so that the checkpoint that freezes next can release the older log. The writer's lock is
    /// held.
    pub fn log_again(&self) {
        let batches = match &self.core.tree.read().buffer.aside {
            aside if aside.log_point().is_none() => return,
            aside => aside.batches(),
        };
        let before = self.core.log_point();
        for batch in batches {
            if let Err(error) = self.core.log.append_batch(ASIDE_KIND, Purpose::Wal, &batch) {
                // The older records stay in the log.
                log::warn!("what waits for an unreadable page cannot be logged again: {error}");
                return;
            }
        }
        let bytes = self.core.log.end() - before.lsn;
        self.core.tree.write().buffer.aside.set_logged(before, bytes);
    }
}
