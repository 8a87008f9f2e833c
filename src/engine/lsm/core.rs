//! The core that every component of the tree stands on: its surroundings, the table files, the room on the disk, and the
//! commands that have not ended. A component reaches another one through nothing else.

use std::sync::Arc;
use std::time::SystemTime;

use super::Options;
use super::commands::Commands;
use super::mutable_options::MutableOptions;
use super::space_budget::SpaceBudget;
use super::table::TableStore;
use crate::base::clock::Clock;
use crate::base::event_log::Field;
use crate::disk::LEVELS;
use crate::engine::{EventLog, LevelMeter, StallMeter, WakeSignal};

/// The part of the tree that its components share. Each field has its own lock, and none of them knows another.
pub struct Core {
    pub clock: Arc<dyn Clock>,
    pub wake_signal: Arc<WakeSignal>,
    pub options: Options,
    pub mutable_options: MutableOptions,
    pub event_log: Arc<EventLog>,
    pub table_store: Arc<TableStore>,
    pub space: SpaceBudget,
    pub commands: Commands,
    pub stalls: StallMeter,
    /// Traffic into each level. Reads count there, too, and hold nothing else of the core.
    pub levels: Arc<[LevelMeter; LEVELS]>,
}

impl Core {
    /// Seconds since 1970.
    pub fn now_seconds(&self) -> u64 {
        seconds(self.clock.now())
    }

    /// Adds an event to the event log.
    pub fn record(&self, event: &'static str, fields: Vec<(&'static str, Field)>) {
        self.event_log.record(self.clock.now(), event, fields);
    }
}

/// Seconds since 1970.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
