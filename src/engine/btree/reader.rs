//! Point reads.
//!
//! A search that misses a page reads it without holding a lock and starts again. Every page that is read from the disk is counted by kind and
//! cause ([`crate::engine::PageTraffic`]), every wait for the latch by `latch`.

use std::sync::Arc;

use bytes::Bytes;

use super::core::Core;
use super::read_ahead::ReadAhead;
use super::source::LoadedPieces;
use super::tree::Stop;
use crate::disk::Purpose;
use crate::engine::{ProbeMeter, Probes, Result, Tier};

/// Reads of single keys and of ranges.
pub struct Reader {
    pub(super) core: Arc<Core>,
    pub(super) read_ahead: ReadAhead,
    probes: ProbeMeter,
}

impl Reader {
    /// A reader of `core`.
    pub fn new(core: Arc<Core>) -> Reader {
        let read_ahead = ReadAhead::new(core.options.common.cache_bytes, core.pager.page_bytes());
        Reader { core, read_ahead, probes: ProbeMeter::default() }
    }

    /// The value of `key`.
    pub fn get(&self, key: &[u8], tier: Tier) -> Result<Option<Bytes>> {
        Ok(self.entry(key, tier)?.0.flatten())
    }

    /// The entry of `key`: its value, or `Some(None)` if it is deleted and may lie below the tree; and the pages that were asked.
    pub fn entry(&self, key: &[u8], tier: Tier) -> Result<(Option<Option<Bytes>>, u64)> {
        let mut loaded = LoadedPieces::default();
        loop {
            let (epoch, height, found) = {
                let tree = self.core.tree.read();
                (tree.epoch, tree.height, tree.find(&self.core.pager, &loaded, key))
            };
            match found {
                Ok(entry) => {
                    self.probes.record(height);
                    return Ok((entry, height));
                }
                Err(Stop::Failed(error)) => return Err(error),
                Err(Stop::Miss(miss)) => self.core.load(epoch, miss, tier, Purpose::Get, &mut loaded)?,
            }
        }
    }

    /// Pages probed per point read.
    pub fn probes(&self) -> Probes {
        Probes { buckets: self.probes.snapshot() }
    }
}
