//! The way of a batch: limits, space, log, memtable; and the change from a full memtable to a new one.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::MutexGuard;

use super::memtable::Memtable;
use super::stall::{Load, Pace, Pressure, pressure};
use super::version::View;
use super::{LsmEngine, wal};
use crate::disk::Purpose;
use crate::engine::{Batch, Cause, Class, Error, Position, Result};

/// When a stopped batch may ask again, should the bell not ring before.
const RETRY: Duration = Duration::from_millis(50);

impl LsmEngine {
    /// Applies a batch.
    pub(super) fn write(&self, batch: &Batch) -> Result<Position> {
        if batch.is_empty() {
            return Ok(self.log.end());
        }
        let mut pace = self.writer.lock();
        let view = self.make_room(&pace);
        let full = view.mutable.is_full(&self.options);
        let rate = self.admit(&pace, &view, full)?;
        self.space.admit(batch.bytes(), view.memtable_bytes(), batch.uses_reserve)?;
        let threshold = self.options.value_log_threshold();
        let is_separate = |value: &bytes::Bytes| threshold.is_some_and(|least| value.len() as u64 >= least);
        let has_separate = batch.operations().iter().filter_map(|it| it.value()).any(is_separate);
        let purpose = if has_separate { Purpose::ValueLog } else { Purpose::Wal };
        let position = self.log.append(wal::FIRST_KIND, purpose, batch.encoded_bytes_max(), |target| {
            batch.encode(target);
        })?;
        view.mutable.apply(batch, position, threshold);
        self.gaps.cut(batch);
        if let Some(rate) = rate {
            pace.pass(self.clock.elapsed(), batch.bytes(), rate);
        }
        // Now rather than with the next batch, which may be long in coming.
        self.make_room(&pace);
        drop(pace);
        self.stalls.end(|| self.clock.elapsed());
        Ok(position)
    }

    /// Whether a batch may come in now, and at which rate if that is limited.
    fn admit(&self, pace: &Pace, view: &View, memtables_full: bool) -> Result<Option<f64>> {
        let version = &view.version;
        let load = Load {
            memtables_full,
            l0_files: version.level(0).len() as u64,
            pending_bytes: version.pending_bytes,
        };
        let (cause, is_stop, retry_after) = match pressure(load, &self.options) {
            Pressure::Free => return Ok(None),
            Pressure::Stop { cause } => {
                // Waiting is no use while the work that would end it fails: the caller gets its error.
                let troubles = self.troubles.lock();
                let trouble = if cause == Cause::Memtables { &troubles.flush } else { &troubles.merge };
                match trouble {
                    Some(error) => return Err(error.clone()),
                    None => (cause, true, RETRY),
                }
            }
            Pressure::Slow { cause, rate } => match pace.wait(self.clock.elapsed()) {
                None => return Ok(Some(rate)),
                Some(wait) => (cause, false, wait),
            },
        };
        self.stalls.begin(cause, is_stop, self.clock.elapsed());
        Err(Error::Busy { cause, retry_after })
    }

    /// Starts a new memtable if the mutable one is full and another is free; the view afterwards.
    fn make_room(&self, writer: &MutexGuard<'_, Pace>) -> Arc<View> {
        let view = self.view();
        let is_full = view.mutable.is_full(&self.options);
        if is_full && (view.immutables.len() as u64) + 1 < self.options.memtable_count_max {
            self.rotate(writer);
            return self.view();
        }
        view
    }

    /// Makes the mutable memtable immutable, unless it is empty. The writer lock must be held.
    fn rotate(&self, _writer: &MutexGuard<'_, Pace>) {
        {
            let mut view = self.view.write();
            if view.mutable.is_empty() {
                return;
            }
            let mut immutables = view.immutables.clone();
            immutables.insert(0, view.mutable.clone());
            let mutable = Arc::new(Memtable::new(view.mutable.last()));
            *view = Arc::new(View { mutable, immutables, version: view.version.clone() });
        }
        self.bell.ring(Class::Flush);
    }

    /// Makes the mutable memtable immutable whatever its size; the position up to which a flush is then due. That is the end
    /// of the last batch, not of the log: moved values may follow, and no flush ever comes to them.
    pub(super) fn rotate_now(&self) -> Position {
        let writer = self.writer.lock();
        self.rotate(&writer);
        self.view().mutable.first()
    }
}
