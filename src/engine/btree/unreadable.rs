//! Parts of the tree that cannot be read: told once, kept in the log, and tried again when a checkpoint is asked for. [`super::set_aside`]
//! holds what waits for them.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use parking_lot::Mutex;

use super::allocation_unit::PageNumber;
use super::core::Core;
use super::records::ASIDE_KIND;
use super::set_aside::UnreadableRange;
use super::source::LoadedPieces;
use super::tree::{Pins, Stop};
use crate::disk::Purpose;
use crate::engine::{Result, Tier};

/// What is done about them.
pub struct UnreadableRanges {
    core: Arc<Core>,
    /// Unreadable pages that were reported.
    told: Mutex<HashSet<PageNumber>>,
    /// Whether the next checkpoint tries to read them.
    is_retry_asked: AtomicBool,
}

impl UnreadableRanges {
    /// Those of the store `core`. What opening could not read is told now.
    pub fn new(core: Arc<Core>) -> UnreadableRanges {
        let unreadable =
            UnreadableRanges { core, told: Mutex::default(), is_retry_asked: AtomicBool::new(false) };
        unreadable.core.tree.read().buffer.aside.ranges().for_each(|range| unreadable.tell(range));
        unreadable
    }

    /// Sets aside what waits in the buffer for `part`. The writer's lock is held.
    pub fn set_aside(&self, range: UnreadableRange) {
        let now = self.core.log_point();
        self.core.tree.write().buffer.set_aside(range.clone(), now);
        self.tell(&range);
    }

    /// Says once that a part cannot be read.
    fn tell(&self, range: &UnreadableRange) {
        if !self.told.lock().insert(range.page) {
            return;
        }
        log::error!("{}; changes of its keys are refused, what waits for it stays in the log", range.error);
        let offset = range.page.offset();
        let fields = vec![("what", range.error.to_string().into()), ("offset", offset.into())];
        self.core.record("damage", fields);
    }

    /// The next checkpoint tries to read what could not be read.
    pub fn ask_retry(&self) {
        self.is_retry_asked.store(true, Relaxed);
    }

    /// Whether it shall.
    pub fn is_retry_asked(&self) -> bool {
        self.is_retry_asked.load(Relaxed)
    }

    /// Tries to read what could not be read, and makes the changes that wait for it. What still cannot stays as it is.
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

    /// Whether the changes of `part` could be made.
    fn retry_range(&self, range: &UnreadableRange) -> Result<bool> {
        let mut loaded = LoadedPieces::default();
        loop {
            let writer = self.core.tree.writer();
            self.core.pager.check()?;
            let mut pins = Pins::new();
            let (epoch, batch, planned) = {
                let tree = self.core.tree.read();
                let batch = tree.buffer.aside.batch_of(range);
                let planned = tree.plan(&self.core.pager, &loaded, &batch, &mut pins);
                (tree.epoch, batch, planned)
            };
            match planned {
                Ok(needs) => {
                    self.core.take_space(needs, Tier::Disk)?;
                    let mut tree = self.core.tree.write();
                    tree.buffer.aside.remove(range);
                    tree.apply(&batch, pins, &self.core.pager);
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

    /// Writes what was set aside to the log once more, so that a checkpoint that freezes next can let go of what is before. The
    /// writer's lock is held.
    pub fn log_again(&self) {
        let batches = match &self.core.tree.read().buffer.aside {
            aside if aside.log_point().is_none() => return,
            aside => aside.batches(),
        };
        let before = self.core.log_point();
        for batch in batches {
            if let Err(error) = self.core.log.append_batch(ASIDE_KIND, Purpose::Wal, &batch) {
                // The log keeps what it has of them.
                log::warn!("what waits for an unreadable page cannot be logged again: {error}");
                return;
            }
        }
        let bytes = self.core.log.end() - before.lsn;
        self.core.tree.write().buffer.aside.set_logged(before, bytes);
    }
}
