//! Repairs of stores on a simulated disk, both engines: planted defects of every kind, turned bits anywhere, and power cuts while the
//! repair runs.
//!
//! After every repair a second look finds nothing, and every file that the report does not name reads as before.
//! `SEED=n cargo test --test repair` begins the turned bits at another seed; `KVFS_TEST_ROUNDS` says how many.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use kvfs::base::clock::{Clock, ManualClock};
use kvfs::base::prng::Prng;
use kvfs::disk::{Disk, Purpose, SimDisk, Space};
use kvfs::engine::{self, Batch, Command, Engine, KeyRange, Kind, Tier};
use kvfs::fs::keys::{self, Key};
use kvfs::fs::operation::Op;
use kvfs::fs::types::{Attributes, Caller, FileKind, Ino, NewNode, ROOT, XattrMode};
use kvfs::fs::{FileSystem, Part, SpaceSource};
use kvfs::repair::{self, Report};
use kvfs::store::{Description, Settings};

#[path = "repair/anywhere.rs"]
mod anywhere;
#[path = "repair/below.rs"]
mod below;
#[path = "repair/defects.rs"]
mod defects;
#[path = "repair/interrupted.rs"]
mod interrupted;
#[path = "repair/records.rs"]
mod records;
#[path = "repair/seen.rs"]
mod seen;
#[path = "repair/store.rs"]
mod store;

use records::*;
use seen::*;
use store::*;

const TIER: Tier = Tier::Disk;
