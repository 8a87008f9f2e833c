//! What every component of the tree stands on: its surroundings, the log, the table files, what is known of room on the disk, and
//! the commands that have not ended. A component reaches another one through nothing else.

use std::sync::Arc;
use std::time::SystemTime;

use super::Options;
use super::commands::Commands;
use super::mutable_options::MutableOptions;
use super::space_budget::SpaceBudget;
use super::table::Shelf;
use crate::base::clock::Clock;
use crate::base::journal::Field;
use crate::disk::LEVELS;
use crate::engine::wal::Log;
use crate::engine::{Bell, Journal, LevelMeter, StallMeter};

/// The part of the tree that its components share. Each field has its own lock, and none of them knows another.
pub struct Core {
    pub clock: Arc<dyn Clock>,
    pub bell: Arc<Bell>,
    pub options: Options,
    pub mutable_options: MutableOptions,
    pub journal: Arc<Journal>,
    pub log: Log,
    pub shelf: Arc<Shelf>,
    pub space: SpaceBudget,
    pub commands: Commands,
    pub stalls: StallMeter,
    /// What passed into each level. Reads count there, too, and hold nothing else of this.
    pub levels: Arc<[LevelMeter; LEVELS]>,
}

impl Core {
    /// Seconds since 1970.
    pub fn now_seconds(&self) -> u64 {
        seconds(self.clock.now())
    }

    /// Adds an event to the journal.
    pub fn record(&self, event: &'static str, fields: Vec<(&'static str, Field)>) {
        self.journal.record(self.clock.now(), event, fields);
    }
}

/// Seconds since 1970.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
