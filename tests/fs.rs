//! The filesystem against a naive model: random calls, compared in answer, errno and the whole tree after every one; over an
//! engine that keeps saying "not now"; with remounts and crashes between; and the promises that a model cannot see.
//!
//! `SEED=n cargo test --test fs` replays one seed.

#[macro_use]
#[path = "support/fs_run.rs"]
mod fs_run;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use fs_run::model_fs::ModelFs;
use fs_run::*;
use kvfs::base::clock::{Clock, ManualClock};
use kvfs::base::prng::Prng;
use kvfs::disk::{Disk, SimDisk, Space};
use kvfs::engine::{
    self, Batch, Command, Engine, Error as EngineError, Kind, Lsn, MemEngine, Pending,
    Result as EngineResult, Tier, WorkClass,
};
use kvfs::fs::operation::Op;
use kvfs::fs::types::{
    Attributes, Caller, DirEntry, FileKind, Ino, NewNode, ROOT, RenameMode, SetAttributes, Time, XattrMode,
};
use kvfs::fs::{Atime, Error, FileSystem, Options, Result, SpaceSource, keys};

#[path = "fs/bench.rs"]
mod bench;
#[path = "fs/cost.rs"]
mod cost;
#[path = "fs/damage.rs"]
mod damage;
#[path = "fs/duties.rs"]
mod duties;
#[path = "fs/names.rs"]
mod names;
#[path = "fs/random.rs"]
mod random;
#[path = "fs/reclaim.rs"]
mod reclaim;
#[path = "fs/space.rs"]
mod space;
#[path = "fs/threads.rs"]
mod threads;
#[path = "fs/times.rs"]
mod times;
#[path = "fs/xattrs.rs"]
mod xattrs;

use bench::Bench;
