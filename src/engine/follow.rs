//! A copy of a live engine that cannot hold a snapshot: its keys are read piece by piece in their order while writers go on, and what
//! they change meanwhile is done again in the copy. A decorator.
//!
//! # How it works
//!
//! 1. While a copy is made, every batch that the engine takes is kept as well, one after another, so that their order is known.
//! 2. After each piece the batches kept so far are done again in the copy, as far as they concern keys that it has: those behind will be
//!    read as they are by then. So between two pieces the copy holds what the engine held up to its last key.
//! 3. After the last piece writers wait for as long as the last few batches take. The copy holds what the engine holds at that moment.
//!
//! A value that the reading finds may be newer than a batch that is done again after it; then a newer batch is kept, too, and has the last
//! word.
//!
//! Where writers are faster than the copy, they wait for it once [`MISSED_BYTES_MAX`] are kept. Between copies a batch costs an uncontended
//! lock more.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};

use super::door::{TRANSFER_BYTES, apply_patiently};
use super::{
    Background, Batch, Done, Engine, Error, Inspect, KeyRange, Kind, Lsn, Operation, Promise, ReadAhead,
    Result, Snapshot, Tier, Visit,
};
use crate::base::clock::Clock;

/// Bytes of batches that are kept before writers wait.
const MISSED_BYTES_MAX: u64 = 32 << 20;
/// Bytes of batches that are done again while writers wait, if it can be had so few.
const LAST_BYTES: u64 = 256 << 10;
/// Times that the last batches are done again before writers wait, whatever is left.
const LAST_ROUNDS: usize = 8;

/// Batches that the engine took and the copy did not.
#[derive(Default)]
struct Missed {
    batches: Vec<Batch>,
    bytes: u64,
}

/// An engine that can be copied while it is used.
pub struct Followed {
    engine: Arc<dyn Engine>,
    /// What the copy that is made now has missed; `None` while none is made.
    missed: RwLock<Option<Mutex<Missed>>>,
    clock: Arc<dyn Clock>,
    held_nanos: AtomicU64,
}

impl Followed {
    /// `engine`, whose batches all pass here from now on.
    pub fn new(engine: Arc<dyn Engine>, clock: Arc<dyn Clock>) -> Arc<Followed> {
        Arc::new(Followed { engine, missed: RwLock::default(), clock, held_nanos: AtomicU64::new(0) })
    }

    /// Time for which writers had to wait so that copies could catch up.
    pub fn held(&self) -> Duration {
        Duration::from_nanos(self.held_nanos.load(Relaxed))
    }

    /// Counts the time of `work`, while which writers wait.
    fn while_held<T>(&self, work: impl FnOnce() -> T) -> T {
        let since = self.clock.elapsed();
        let done = work();
        let time = self.clock.elapsed().saturating_sub(since);
        self.held_nanos.fetch_add(time.as_nanos() as u64, Relaxed);
        done
    }

    /// Makes `into`, which is empty, hold what the engine holds at one moment before this returns: the LSN of that moment. `into` is not
    /// synced. `note` is told after each piece how many bytes of keys and values were taken over so far; its error ends the copy, as does
    /// one of either engine. [`Error::Invalid`] while another copy is made.
    pub fn copy_into(&self, into: &dyn Engine, note: &mut dyn FnMut(u64) -> Result<()>) -> Result<Lsn> {
        {
            let mut missed = self.missed.write();
            if missed.is_some() {
                return Err(Error::Invalid("another copy of the store is under way".to_string()));
            }
            *missed = Some(Mutex::default());
        }
        let copied = self.copy_pieces(into, note).and_then(|()| self.end(into));
        if copied.is_err() {
            *self.missed.write() = None;
        }
        copied
    }

    fn copy_pieces(&self, into: &dyn Engine, note: &mut dyn FnMut(u64) -> Result<()>) -> Result<()> {
        let mut next = Some(Bytes::new());
        let mut taken_bytes = 0;
        while let Some(start) = next.take() {
            let mut piece = Batch::new(0);
            self.engine.scan(KeyRange { start: &start, end: None }, Tier::Disk, &mut |key, value| {
                if piece.bytes() >= TRANSFER_BYTES {
                    next = Some(Bytes::copy_from_slice(key));
                    return ControlFlow::Break(());
                }
                piece.put(key.to_vec(), value.to_vec());
                ControlFlow::Continue(())
            })?;
            apply_patiently(into, &piece)?;
            taken_bytes += piece.bytes();
            note(taken_bytes)?;
            self.catch_up(into, next.as_deref())?;
        }
        Ok(())
    }

    /// Does again what was missed of keys before `end`.
    fn catch_up(&self, into: &dyn Engine, end: Option<&[u8]>) -> Result<()> {
        let held = self.missed.write();
        let missed = held.as_ref().map(|missed| std::mem::take(&mut *missed.lock())).unwrap_or_default();
        if missed.bytes > MISSED_BYTES_MAX {
            // Writers are too fast: they wait here.
            return self.while_held(|| redo(into, missed, end));
        }
        drop(held);
        redo(into, missed, end)
    }

    /// Does the rest again, the last of it while no batch is under way.
    fn end(&self, into: &dyn Engine) -> Result<Lsn> {
        for _ in 0..LAST_ROUNDS {
            if self.missed.read().as_ref().is_none_or(|missed| missed.lock().bytes <= LAST_BYTES) {
                break;
            }
            self.catch_up(into, None)?;
        }
        let mut held = self.missed.write();
        let missed = held.take().map(Mutex::into_inner).unwrap_or_default();
        self.while_held(|| redo(into, missed, None))?;
        Ok(self.engine.lsn())
    }
}

/// Does batches again in their order, as far as they concern keys before `end`.
fn redo(into: &dyn Engine, missed: Missed, end: Option<&[u8]>) -> Result<()> {
    let mut again = Batch::new(0);
    for operation in missed.batches.iter().flat_map(Batch::operations) {
        if end.is_some_and(|end| operation.key() >= end) {
            continue;
        }
        match operation {
            Operation::Put { key, value } => again.put(key.clone(), value.clone()),
            Operation::Delete { key } => again.delete(key.clone()),
        }
        if again.bytes() >= TRANSFER_BYTES {
            apply_patiently(into, &std::mem::replace(&mut again, Batch::new(0)))?;
        }
    }
    apply_patiently(into, &again)
}

impl Engine for Followed {
    fn kind(&self) -> Kind {
        self.engine.kind()
    }
    fn get(&self, key: &[u8], tier: Tier) -> Result<Option<Bytes>> {
        self.engine.get(key, tier)
    }
    fn scan(&self, range: KeyRange<'_>, tier: Tier, visit: &mut Visit<'_>) -> Result<()> {
        self.engine.scan(range, tier, visit)
    }

    fn apply(&self, batch: &Batch, tier: Tier) -> Result<Lsn> {
        let missed = match tier {
            Tier::Memory => self.missed.try_read().ok_or(Error::WouldBlock)?,
            Tier::Disk => self.missed.read(),
        };
        let Some(missed) = &*missed else { return self.engine.apply(batch, tier) };
        // Held while the engine takes the batch, so that batches are kept in the order in which it takes them.
        let mut missed = match tier {
            Tier::Memory => missed.try_lock().ok_or(Error::WouldBlock)?,
            Tier::Disk => missed.lock(),
        };
        let lsn = self.engine.apply(batch, tier)?;
        missed.bytes += batch.bytes();
        missed.batches.push(batch.clone());
        Ok(lsn)
    }

    fn lsn(&self) -> Lsn {
        self.engine.lsn()
    }
    fn sync_to(&self, lsn: Lsn, done: Done) {
        self.engine.sync_to(lsn, done);
    }
    fn promise(&self) -> Promise {
        self.engine.promise()
    }
    fn close(&self) -> Result<()> {
        self.engine.close()
    }
    fn background(&self) -> Option<&dyn Background> {
        self.engine.background()
    }
    fn inspect(&self) -> Option<&dyn Inspect> {
        self.engine.inspect()
    }
    fn read_ahead(&self) -> Option<&dyn ReadAhead> {
        self.engine.read_ahead()
    }
    fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        self.engine.snapshot()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::SystemClock;
    use crate::base::prng::Prng;
    use crate::engine::MemEngine;

    fn put(key: u64, value: u64) -> Batch {
        let mut batch = Batch::new(0);
        batch.put(key.to_be_bytes().to_vec(), vec![value as u8; 700]);
        batch
    }

    /// Writers change pairs of keys far apart, each pair alike: at no moment does the engine hold two that differ.
    #[test]
    fn a_copy_shows_one_moment_whatever_is_written_meanwhile() {
        const KEYS: u64 = 20_000;
        let engine = Followed::new(Arc::new(MemEngine::new()), Arc::new(SystemClock::new()));
        for key in 0..KEYS {
            engine.apply(&put(key, 0), Tier::Disk).unwrap();
        }
        let (copy, is_over) = (MemEngine::new(), std::sync::atomic::AtomicBool::new(false));
        let at = std::thread::scope(|scope| {
            for seed in 0..3 {
                let (engine, is_over) = (&engine, &is_over);
                scope.spawn(move || {
                    let mut prng = Prng::new(seed);
                    while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                        // Each writer has keys of its own, as inodes have a lock.
                        let key = prng.below(KEYS / 6) * 3 + seed;
                        let value = prng.below(250);
                        let mut batch = put(key, value);
                        if value == 7 {
                            batch.delete((key + KEYS / 2).to_be_bytes().to_vec());
                            batch.delete(key.to_be_bytes().to_vec());
                        } else {
                            batch.put((key + KEYS / 2).to_be_bytes().to_vec(), vec![value as u8; 700]);
                        }
                        if engine.apply(&batch, Tier::Memory).is_err() {
                            engine.apply(&batch, Tier::Disk).unwrap();
                        }
                    }
                });
            }
            let mut pieces = 0;
            let at = engine.copy_into(&copy, &mut |_| {
                pieces += 1;
                // So that there is something to be missed.
                std::thread::sleep(std::time::Duration::from_millis(5));
                Ok(())
            });
            is_over.store(true, std::sync::atomic::Ordering::Relaxed);
            assert!(pieces > 5, "{pieces}");
            at.unwrap()
        });
        assert!(at <= engine.lsn() && engine.held() > Duration::ZERO);
        for key in 0..KEYS / 2 {
            let [one, other] =
                [key, key + KEYS / 2].map(|key| copy.get(&key.to_be_bytes(), Tier::Disk).unwrap());
            assert!(one == other, "{key}");
        }
        // Nobody wrote behind it: a second one holds all.
        let again = MemEngine::new();
        assert_eq!(engine.copy_into(&again, &mut |_| Ok(())).unwrap(), engine.lsn());
        let mut all = Vec::new();
        let visit: &mut Visit<'_> = &mut |key, value| {
            all.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
            ControlFlow::Continue(())
        };
        engine.scan(KeyRange::ALL, Tier::Disk, visit).unwrap();
        assert!(again.contents() == all && again.contents() != copy.contents());
    }

    #[test]
    fn a_copy_that_is_ended_keeps_nothing() {
        let engine = Followed::new(Arc::new(MemEngine::new()), Arc::new(SystemClock::new()));
        (0..4000).for_each(|key| assert!(engine.apply(&put(key, 1), Tier::Disk).is_ok()));
        let stop = &mut |_| Err(Error::Invalid("enough".to_string()));
        assert!(engine.copy_into(&MemEngine::new(), stop).is_err());
        assert!(engine.missed.read().is_none());
        // While one is made there is no other.
        let mut second = None;
        engine
            .copy_into(&MemEngine::new(), &mut |_| {
                second
                    .get_or_insert_with(|| engine.copy_into(&MemEngine::new(), &mut |_| Ok(())).unwrap_err());
                Ok(())
            })
            .unwrap();
        assert!(second.unwrap().to_string().contains("another copy"));
    }
}
