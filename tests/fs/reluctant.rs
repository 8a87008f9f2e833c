//! An engine that keeps saying "not now".

use kvfs::engine::Cause;

use super::*;

/// A decorator that says `WouldBlock` to a third of the reads and changes in memory, and `Busy` to a fifth of the changes.
pub struct Reluctant {
    pub engine: Arc<dyn Engine>,
    pub dice: parking_lot::Mutex<Prng>,
}

impl Reluctant {
    pub fn would_block(&self, tier: Tier) -> EngineResult<()> {
        if tier == Tier::Memory && self.dice.lock().one_in(3) { Err(EngineError::WouldBlock) } else { Ok(()) }
    }
}

impl Engine for Reluctant {
    hand_on!(Engine engine: kind, lsn, sync_to, promise, close, background, inspect);

    fn get(&self, key: &[u8], tier: Tier) -> EngineResult<Option<Bytes>> {
        self.would_block(tier)?;
        self.engine.get(key, tier)
    }
    fn scan(&self, range: KeyRange<'_>, tier: Tier, visit: &mut Visit<'_>) -> EngineResult<()> {
        // After some visits, as the contract allows.
        let mut left = if self.would_block(tier).is_err() { self.dice.lock().below(3) } else { u64::MAX };
        let mut cut = false;
        self.engine.scan(range, tier, &mut |key, value| {
            if left == 0 {
                cut = true;
                return std::ops::ControlFlow::Break(());
            }
            left -= 1;
            visit(key, value)
        })?;
        if cut { Err(EngineError::WouldBlock) } else { Ok(()) }
    }
    fn apply(&self, batch: &Batch, tier: Tier) -> EngineResult<Lsn> {
        self.would_block(tier)?;
        if self.dice.lock().one_in(5) {
            return Err(EngineError::Busy { cause: Cause::Memtables, retry_after: Duration::ZERO });
        }
        let result = self.engine.apply(batch, tier);
        if let Err(EngineError::Busy { .. }) = &result {
            // There is no worker.
            for class in WorkClass::ALL.into_iter().filter(|class| *class != WorkClass::Room) {
                self.engine.work(class)?;
            }
        }
        result
    }
}
