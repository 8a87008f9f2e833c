//! The core: what every component of the engine works on. It decides nothing.

use std::sync::Arc;

use super::age::{CheckpointAge, LogPoint};
use super::allocation_unit::UnitNumber;
use super::copies::PageCopies;
use super::failure::WorkFailure;
use super::latch::TreeLatch;
use super::options::Options;
use super::pager::Pager;
use super::source::{LoadedPieces, Miss, Piece, is_unreadable};
use super::tree::Tree;
use crate::base::clock::Clock;
use crate::base::event_log::Field;
use crate::disk::Purpose;
use crate::engine::wal::Log;
use crate::engine::{Error, EventLog, Result, SpaceGuard, Tier, WakeSignal};

/// The store that the components share.
pub struct Core {
    /// The data file.
    pub pager: Pager,
    /// The log.
    pub log: Log,
    /// The tree, and the right to change it.
    pub tree: TreeLatch,
    /// The copies of pages that checkpoints owe.
    pub copies: PageCopies,
    /// How far the durable state lies behind.
    pub age: CheckpointAge,
    /// How background work failed last.
    pub failure: WorkFailure,
    /// The options.
    pub options: Options,
    /// The reserve of the disk.
    pub guard: SpaceGuard,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Rung when there is work, or room.
    pub wake_signal: Arc<WakeSignal>,
    /// What happened lately.
    pub event_log: Arc<EventLog>,
}

impl Core {
    /// The log as it is now.
    pub fn log_point(&self) -> LogPoint {
        self.age.log_point(self.log.end())
    }

    /// Bytes of batches in the log behind the durable state of `tree`: what opening would replay.
    pub fn log_bytes(&self, tree: &Tree) -> u64 {
        self.age.log_bytes(tree.durable.recovery_lsn, self.log.end())
    }

    /// Whether a checkpoint would change the durable state of `tree`.
    pub fn is_dirty(&self, tree: &Tree) -> bool {
        self.log_bytes(tree) > 0 || tree.active_bytes() > 0
    }

    /// Something changed that the next checkpoint must take up.
    pub fn note_change(&self) {
        self.age.note_change(self.clock.elapsed());
    }

    /// Notes an event for the event log.
    pub fn record(&self, event: &'static str, fields: Vec<(&'static str, Field)>) {
        self.event_log.record(self.clock.now(), event, fields);
    }

    /// Brings what a search missed in `epoch` into memory: into the pool and into `loaded`. If the file may have changed
    /// meanwhile, what was read is dropped; the caller searches again in any case.
    pub fn load(
        &self,
        epoch: u64,
        miss: Miss,
        tier: Tier,
        purpose: Purpose,
        loaded: &mut LoadedPieces,
    ) -> Result<()> {
        if tier == Tier::Memory {
            return Err(Error::WouldBlock);
        }
        let read = self.pager.read(miss, purpose).map(|piece| vec![piece]);
        self.admit(epoch, read, loaded)
    }

    /// The same, but a page or value that cannot be read is only noted in `loaded`: the next search fails where it needs it, and goes
    /// on where it can do without.
    pub fn load_if_whole(
        &self,
        epoch: u64,
        miss: Miss,
        tier: Tier,
        purpose: Purpose,
        loaded: &mut LoadedPieces,
    ) -> Result<()> {
        match self.load(epoch, miss, tier, purpose, loaded) {
            Err(error) if is_unreadable(&error) => {
                loaded.fail(epoch, miss.unit(), error);
                Ok(())
            }
            other => other,
        }
    }

    /// Takes what was read since `epoch` was seen, or its error, if it still counts.
    pub fn admit(
        &self,
        epoch: u64,
        read: Result<Vec<(UnitNumber, Piece)>>,
        loaded: &mut LoadedPieces,
    ) -> Result<()> {
        // Held so that no checkpoint changes the file between the look at the epoch and the insert.
        let tree = self.tree.read();
        if tree.epoch == epoch {
            for (unit, piece) in read? {
                self.pager.keep(unit, piece.clone());
                loaded.add(epoch, unit, piece);
            }
        }
        Ok(())
    }

    /// More of the free map cannot be read, as `sentence` says.
    pub fn tell_map_damage(&self, sentence: String) {
        log::warn!("{sentence}");
        self.record("error", vec![("what", sentence.into())]);
    }
}
