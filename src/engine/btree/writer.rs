//! The writer: applies batches.
//!
//! 1. Bring every page on the path to every key into memory. A missing page is read without holding a lock, and then this starts again.
//! 2. Refuse a batch that is over a limit; make space in the file for the most that the batch may need (`admission`).
//! 3. Append the batch to the log.
//! 4. Change pages in memory. Nothing can fail here.
//! 5. With `torn=image`, append an image of every changed page. If there is no space for an image, the checkpoint makes it.
//!
//! A batch of puts of small values, in a tree that is larger than the dirty bytes can hold, needs only step 3: its puts stay in the
//! `change_buffer` until many puts of one leaf can be applied together. `torn=image` has no buffer, since its point is the page image after
//! each batch.

use std::sync::Arc;
use std::time::Duration;

use super::bound::Bounds;
use super::buffer_merge::ChangeBufferMerger;
use super::checkpoint::Checkpointer;
use super::core::Core;
use super::source::LoadedPieces;
use super::tree::{Deletes, Pins, Stop};
use super::vacuum::Vacuumer;
use crate::disk::Purpose;
use crate::engine::wal::FIRST_KIND;
use crate::engine::{Batch, Error, Lsn, Result, StallMeter, Stalls, Tier, WorkClass};

/// Longest wait for other writers in [`Tier::Memory`].
const WRITER_WAIT: Duration = Duration::from_millis(2);

/// The way of batches into the tree. It asks background work about its state and requests more of it, but does none itself.
pub struct Writer {
    pub(super) core: Arc<Core>,
    pub(super) bounds: Arc<Bounds>,
    pub(super) merger: Arc<ChangeBufferMerger>,
    pub(super) checkpointer: Arc<Checkpointer>,
    pub(super) vacuumer: Arc<Vacuumer>,
    pub(super) stalls: StallMeter,
}

impl Writer {
    /// A writer to `core`.
    pub fn new(
        core: Arc<Core>,
        bounds: Arc<Bounds>,
        merger: Arc<ChangeBufferMerger>,
        checkpointer: Arc<Checkpointer>,
        vacuumer: Arc<Vacuumer>,
    ) -> Writer {
        Writer { core, bounds, merger, checkpointer, vacuumer, stalls: StallMeter::default() }
    }

    /// Applies `batch`; returns its LSN.
    pub fn apply(&self, batch: &Batch, tier: Tier) -> Result<Lsn> {
        if batch.is_empty() {
            return Ok(self.core.log.end());
        }
        batch.check()?;
        let mut loaded = LoadedPieces::default();
        let lsn = loop {
            let writer = match tier {
                Tier::Memory => self.core.tree.writer_within(WRITER_WAIT).ok_or(Error::WouldBlock)?,
                Tier::Disk => self.core.tree.writer(),
            };
            self.core.pager.check()?;
            let (refusal, waits) = {
                let tree = self.core.tree.read();
                let waits =
                    tree.suits_buffer(batch, self.core.options.torn, self.core.options.dirty_bytes_max);
                (tree.buffer.refusal(batch), waits)
            };
            if let Some(error) = refusal {
                return Err(error);
            }
            if waits && self.make_room(batch, None, tier)? {
                let before = self.core.log_point();
                let lsn = self.append(batch)?;
                self.core.tree.write().buffer.add(batch, before);
                self.note(batch, 0);
                break lsn;
            }
            let mut pins = Pins::default();
            let buried = self.core.upper.as_ref().map(|upper| upper.buried(batch)).unwrap_or_default();
            let may_lie_below = |key: &[u8]| buried.contains(key);
            let deletes = Deletes::Bury(&may_lie_below);
            let (epoch, planned) = {
                let tree = self.core.tree.read();
                (tree.epoch, tree.plan(&self.core.pager, &loaded, batch, deletes, &mut pins))
            };
            let needs = match planned {
                Ok(needs) => needs,
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Miss(miss)) => {
                    drop(writer);
                    self.core.load_if_whole(epoch, miss, tier, Purpose::Get, &mut loaded)?;
                    continue;
                }
            };
            self.make_room(batch, Some(needs), tier)?;
            let lsn = self.append(batch)?;
            // No other thread changes the tree while the writer's lock is held, so the plan is still valid.
            self.core.tree.write().apply(batch, deletes, pins, &self.core.pager);
            self.core.log_batch_images();
            self.note(batch, buried.len() as u64);
            break lsn;
        };
        self.core.note_change();
        self.stalls.end(|| self.core.clock.elapsed());
        let is_work_due = {
            let tree = self.core.tree.read();
            self.bounds.is_pressing(&tree) || self.bounds.is_log_due(&tree)
        };
        if is_work_due {
            self.core.wake_signal.notify(WorkClass::Flush);
        }
        Ok(lsn)
    }

    /// Tells who watches the tree that `batch` has changed it and left `buried` tombstones. The writer's lock is held.
    fn note(&self, batch: &Batch, buried: u64) {
        if let Some(upper) = &self.core.upper {
            upper.note(batch, buried);
        }
    }

    fn append(&self, batch: &Batch) -> Result<Lsn> {
        let appended = self.core.log.append_batch(FIRST_KIND, Purpose::Wal, batch);
        appended.map_err(|error| self.refused(error, batch))
    }

    /// Waits of batches.
    pub fn stalls(&self) -> Stalls {
        self.stalls.snapshot(self.core.clock.elapsed())
    }
}
