//! Keeps a reserve of free space below, so that a full disk refuses new data while deletes and background work go on.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use super::{Error, Result};
use crate::disk::Disk;

/// Free space is asked for again after this many admitted bytes, or at every batch once it is short.
const RECHECK_BYTES: i64 = 16 << 20;

/// What a batch asks of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceClaim {
    /// New data: files grow.
    Growth,
    /// New data that fits into free places of files: only the log grows.
    Inside,
    /// It gives space back.
    Release,
}

impl SpaceClaim {
    /// Of the reserve, what it must leave, in quarters: whoever helps more may use more.
    fn quarters(self) -> u64 {
        match self {
            SpaceClaim::Growth => 4,
            SpaceClaim::Inside => 3,
            SpaceClaim::Release => 2,
        }
    }
}

/// Admits batches while there is space for them and for the work they cause.
pub struct SpaceGuard {
    disk: Arc<dyn Disk>,
    reserve_bytes: u64,
    /// What a batch may take at once, however small it is: a new segment of the log.
    grain_bytes: u64,
    /// Bytes that may still be admitted before the disk is asked again.
    allowance: AtomicI64,
}

impl SpaceGuard {
    /// Keeps max(`reserve_bytes_min`, 1 %) of `disk` free, where space is taken in pieces of `grain_bytes`.
    pub fn new(disk: Arc<dyn Disk>, reserve_bytes_min: u64, grain_bytes: u64) -> Result<SpaceGuard> {
        let space = disk.space().map_err(|error| Error::io("reading free space", error))?;
        let reserve_bytes = reserve_bytes_min.max(space.total_bytes / 100);
        Ok(SpaceGuard { disk, reserve_bytes, grain_bytes, allowance: AtomicI64::new(0) })
    }

    /// Looks at the disk at the next batch: work has begun that owes bytes.
    pub fn look_again(&self) {
        self.allowance.store(0, Relaxed);
    }

    /// Whether a batch of `bytes` may come in while `owed_bytes` (unflushed memory, the rest of a merge) must still be written.
    pub fn admit(&self, bytes: u64, owed_bytes: u64, claim: SpaceClaim) -> Result<()> {
        if self.allowance.fetch_sub(bytes as i64, Relaxed) >= bytes as i64 {
            return Ok(());
        }
        let free = self.disk.space().map_err(|error| Error::io("reading free space", error))?.free_bytes;
        let room = |claim: SpaceClaim| {
            free.saturating_sub(self.reserve_bytes / 4 * claim.quarters()).saturating_sub(owed_bytes)
        };
        // A quarter of what is there for anyone: what is admitted is written more than once. Near the end every batch is looked at.
        let allowance = room(SpaceClaim::Growth).saturating_sub(4 * self.grain_bytes) / 4;
        self.allowance.store(allowance.min(RECHECK_BYTES as u64) as i64, Relaxed);
        if room(claim) < bytes && bytes > 0 { Err(Error::NoSpace) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::{Purpose, SimDisk};

    #[test]
    fn data_is_refused_before_deletes_are() {
        let disk = SimDisk::new();
        disk.set_capacity(Some(10_000));
        let guard = SpaceGuard::new(disk.clone(), 4_000, 100).unwrap();
        guard.admit(1_000, 0, SpaceClaim::Growth).unwrap();
        disk.create("a").unwrap().write_at(Purpose::Wal, 0, &[0; 5_500]).unwrap();
        let guard = SpaceGuard::new(disk.clone(), 4_000, 100).unwrap();
        guard.admit(400, 0, SpaceClaim::Growth).unwrap();
        assert!(matches!(guard.admit(600, 0, SpaceClaim::Growth), Err(Error::NoSpace)));
        assert!(matches!(guard.admit(400, 200, SpaceClaim::Growth), Err(Error::NoSpace)));
        guard.admit(600, 0, SpaceClaim::Inside).unwrap();
        assert!(matches!(guard.admit(1600, 0, SpaceClaim::Inside), Err(Error::NoSpace)));
        guard.admit(1600, 0, SpaceClaim::Release).unwrap();
        disk.remove("a").unwrap();
        guard.admit(600, 0, SpaceClaim::Growth).unwrap();
    }
}
