//! A `BTreeMap` behind the engine door: the model of the tests, a fake for the filesystem's, and a mountable baseline
//! that shows what everything but a storage engine costs. It keeps nothing across a restart.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;
use parking_lot::RwLock;

use super::{
    Batch, Done, Engine, Inspect, KeyRange, Kind, Lsn, Operation, Promise, Result, Shape, Snapshot, Tier,
    Visit,
};
use crate::engine::AtomicLsn;

/// Keys and values copied out of the map at a time, so that no lock is held while a visit runs.
const CHUNK: usize = 64;

/// The engine in memory.
pub struct MemEngine {
    map: RwLock<BTreeMap<Bytes, Bytes>>,
    lsn: AtomicLsn,
}

impl MemEngine {
    /// An empty map.
    #[allow(clippy::new_without_default)]
    pub fn new() -> MemEngine {
        MemEngine { map: RwLock::default(), lsn: AtomicLsn::default() }
    }

    /// Everything in it, for comparisons.
    pub fn contents(&self) -> Vec<(Bytes, Bytes)> {
        self.map.read().iter().map(|(key, value)| (key.clone(), value.clone())).collect()
    }
}

impl Engine for MemEngine {
    fn kind(&self) -> Kind {
        Kind::MEM
    }

    fn get(&self, key: &[u8], _: Tier) -> Result<Option<Bytes>> {
        Ok(self.map.read().get(key).cloned())
    }

    fn scan(&self, range: KeyRange<'_>, _: Tier, visit: &mut Visit<'_>) -> Result<()> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let mut start = Included(Bytes::copy_from_slice(range.start));
        loop {
            let chunk: Vec<(Bytes, Bytes)> = {
                let map = self.map.read();
                let found = map.range::<Bytes, _>((start.clone(), Unbounded)).take(CHUNK);
                found.map(|(key, value)| (key.clone(), value.clone())).collect()
            };
            for (key, value) in &chunk {
                if !range.is_before_end(key) || visit(key, value).is_break() {
                    return Ok(());
                }
            }
            match chunk.last() {
                Some((key, _)) if chunk.len() == CHUNK => start = Excluded(key.clone()),
                _ => return Ok(()),
            }
        }
    }

    fn apply(&self, batch: &Batch, _: Tier) -> Result<Lsn> {
        let mut map = self.map.write();
        for operation in batch.operations() {
            match operation {
                Operation::Put { key, value } => map.insert(key.clone(), value.clone()),
                Operation::Delete { key } => map.remove(key),
            };
        }
        // Under the lock, so that a snapshot has an LSN that fits.
        Ok(self.lsn.advance(batch.bytes(), Relaxed))
    }

    fn lsn(&self) -> Lsn {
        self.lsn.load(Relaxed)
    }

    fn sync_to(&self, _: Lsn, done: Done) {
        done(Ok(()));
    }

    fn promise(&self) -> Promise {
        Promise {
            // It needs none.
            survives_full_disk: true,
            weaker: Some("nothing is kept when the mount ends"),
            way_out: Some("any other engine keeps it"),
            ..Promise::default()
        }
    }

    fn close(&self) -> Result<()> {
        Ok(())
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }

    /// Costs a copy of the map's pointers.
    fn snapshot(&self) -> Result<Box<dyn Snapshot>> {
        let map = self.map.read();
        Ok(Box::new(MemSnapshot { map: map.clone(), lsn: self.lsn() }))
    }
}

impl Inspect for MemEngine {
    fn shape(&self) -> Shape {
        Shape { engine: "mem", variant: "map", ..Shape::default() }
    }
}

/// The map as it was.
struct MemSnapshot {
    map: BTreeMap<Bytes, Bytes>,
    lsn: Lsn,
}

impl Snapshot for MemSnapshot {
    fn lsn(&self) -> Lsn {
        self.lsn
    }

    fn get(&self, key: &[u8], _: Tier) -> Result<Option<Bytes>> {
        Ok(self.map.get(key).cloned())
    }

    fn scan(&self, range: KeyRange<'_>, _: Tier, visit: &mut Visit<'_>) -> Result<()> {
        let found =
            self.map.range::<[u8], _>((std::ops::Bound::Included(range.start), std::ops::Bound::Unbounded));
        for (key, value) in found {
            if !range.is_before_end(key) || visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}
