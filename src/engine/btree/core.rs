//! The core: the state that all components of the engine share. It makes no decisions.

use std::sync::Arc;

use super::age::{CheckpointAge, LogPoint};
use super::allocation_unit::UnitNumber;
use super::copies::PageCopies;
use super::failure::WorkFailure;
use super::latch::TreeLatch;
use super::options::Options;
use super::page_extents::PageExtents;
use super::pager::Pager;
use super::source::{LoadedPieces, Miss, Piece, is_unreadable};
use super::tree::Tree;
use super::upper::UpperHalf;
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
    /// Extents of the file in which there are pages.
    pub page_extents: PageExtents,
    /// The copies of pages that checkpoints have to make.
    pub copies: PageCopies,
    /// Distance between the durable state and now.
    pub age: CheckpointAge,
    /// The last failure of background work.
    pub failure: WorkFailure,
    /// The options.
    pub options: Options,
    /// The reserve of the disk.
    pub guard: Arc<SpaceGuard>,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// Signalled when there is work to do, or room for writers.
    pub wake_signal: Arc<WakeSignal>,
    /// Recent events.
    pub event_log: Arc<EventLog>,
    /// What it has to know as the upper half of a store, if it is that.
    pub upper: Option<UpperHalf>,
}

impl Core {
    /// The end of the log now.
    pub fn log_point(&self) -> LogPoint {
        self.age.log_point(self.log.end())
    }

    /// Bytes of batches in the log behind the durable state of `tree`, which opening would replay.
    pub fn log_bytes(&self, tree: &Tree) -> u64 {
        self.age.log_bytes(tree.durable.recovery_lsn, self.log.end())
    }

    /// Whether a checkpoint would change the durable state of `tree`.
    pub fn is_dirty(&self, tree: &Tree) -> bool {
        self.log_bytes(tree) > 0 || tree.active_bytes() > 0
    }

    /// Notes a change that the next checkpoint must write.
    pub fn note_change(&self) {
        self.age.note_change(self.clock.elapsed());
    }

    /// Writes an event to the event log.
    pub fn record(&self, event: &'static str, fields: Vec<(&'static str, Field)>) {
        self.event_log.record(self.clock.now(), event, fields);
    }

    /// Reads what a search missed in `epoch` into the pool and into `loaded`. If the file may have changed meanwhile, the result is
    /// dropped; the caller searches again in any case.
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

    /// As [`Core::load`], but a page or value that cannot be read is only noted in `loaded`: the next search fails if it needs it.
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

    /// Takes what was read in `epoch`, or the error, unless the epoch has ended since.
    pub fn admit(
        &self,
        epoch: u64,
        read: Result<Vec<(UnitNumber, Piece)>>,
        loaded: &mut LoadedPieces,
    ) -> Result<()> {
        // The latch is held so that no checkpoint changes the file between the check of the epoch and the insert.
        let tree = self.tree.read();
        if tree.epoch == epoch {
            for (unit, piece) in read? {
                self.page_extents.note(unit, &piece);
                self.pager.keep(unit, piece.clone());
                loaded.add(epoch, unit, piece);
            }
        }
        Ok(())
    }

    /// Reports that another part of the free map cannot be read, as `sentence` says.
    pub fn tell_map_damage(&self, sentence: String) {
        log::warn!("{sentence}");
        self.record("error", vec![("what", sentence.into())]);
    }
}
