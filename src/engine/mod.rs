//! The engine room: an ordered map of bytes that survives crashes and knows nothing of files.
//!
//! # What every engine promises
//!
//! - A [`Batch`] is all or nothing.
//! - *A crash leaves a prefix of the history* of batches, no older than the last LSN for which
//!   [`Engine::sync_to`] reported success.
//! - What [`Engine::apply`] accepted survives `kill -9` of the process: each batch is in the log file (a buffered
//!   write of a logical record) before `apply` returns.
//! - No call sleeps. A read that would need the disk answers [`Error::WouldBlock`] in [`Tier::Memory`]; a batch over a
//!   limit is answered [`Error::Busy`] with its cause; a sync is answered through a callback. Only [`Tier::Disk`] reads, and
//!   [`Engine::work`], wait for the disk.
//! - Engines start no thread. Background work happens in [`Engine::work`], one unit a call; [`Worker`] runs the
//!   threads on a mount, the test itself in a simulation.

mod batch;
pub mod btree;
pub mod cache;
pub mod charges;
mod classes;
mod codec;
mod cpu;
pub mod decoders;
mod door;
mod error;
mod follow;
pub mod frame;
pub mod hybrid;
pub mod lsm;
mod lsn;
mod mem;
mod meter;
mod options;
mod price;
mod registry;
pub mod remote;
pub mod requests;
pub mod salvage;
mod shape;
mod space;
mod statistic;
mod tap;
mod trace;
mod traffic;
pub mod wal;
mod worker;

use std::sync::Arc;

use crate::base::clock::Clock;
use crate::disk::Disk;

pub use crate::base::event_log::EventLog;
pub use crate::base::wake::{WakeSignal, WorkClass};
pub use batch::{Batch, Operation};
pub use classes::{ClassBytes, ClassMeter, Shares, class_of};
pub use codec::Compression;
pub use cpu::{Cost, Cpu, CpuMeter, Work, background};
pub(crate) use door::apply_patiently;
pub use door::{
    Background, Command, Done, Engine, Inspect, KeyRange, Pending, Promise, ReadAhead, Snapshot, Tier, Visit,
    image, run, settle, sync, transfer,
};
pub use error::{Cause, Error, Result};
pub use follow::Followed;
pub use lsn::{AtomicLsn, Lsn};
pub use mem::MemEngine;
pub use meter::{KINDS, KeyKind, KindCounters, MeteredEngine, TAGS, TagCounters};
pub use options::{COMMON_FIELDS, Common, Options, OwnOptions, Setting, Sync};
pub use price::{MONTH_HOURS, Price};
pub use registry::{Descriptor, Home, Kind, register};
pub use shape::{
    BtreeShape, Cache, Debt, ExtraSpace, Filter, FilterMeter, Histogram, HybridShape, Level, LevelMeter,
    LevelTraffic, LookupMeter, Lookups, Memory, Probe, ProbeMeter, Probes, ScanRuns, Shape, StallCounters,
    StallMeter, Stalls, TableInfo, ValueLog,
};
pub use space::ballast_change;
pub use space::{
    BALLAST_NAME, SPARE_FILES, SpaceClaim, SpaceGuard, is_short_of_files, lacks_files, shortage,
};
pub use statistic::{Amount, Statistic, StatisticName};
pub use tap::{NO_TAG, Request, Tap, TapSlot, asking, asking_for};
pub use trace::{Asked, ReadTrace, TracedRead};
pub use traffic::{PageCause, PageCount, PageKind, PageTraffic, Pages, TrafficMeter};
pub use worker::Worker;

/// Opens the engine that `options` are of on `disk`, recovering it if it was not closed. A disk without one gets a
/// new, empty store. [`Error::Invalid`] for an engine that lives on no disk of ours.
pub fn open(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, options: &Options) -> Result<Arc<dyn Engine>> {
    options.validate()?;
    match options.kind().home {
        Home::Disk(open) => open(disk, clock, options),
        Home::Directory(_) => {
            Err(Error::Invalid(format!("engine={} needs a directory of its own", options.kind())))
        }
    }
}
