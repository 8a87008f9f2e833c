//! `/.stats` from outside: golden reports, the document beside the keys, and the identities between the doors.
//!
//! `BLESS=1 cargo test --test stats` rewrites the golden reports; review their diff like code.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kvfs::attribution::Charges;
use kvfs::base::clock::{Clock, ManualClock};
use kvfs::base::metric::{Entry, MetricKind, Rows, Unit};
use kvfs::base::prng::Prng;
use kvfs::control::{
    Control, MountInfo, Report, Sample, Sources, State, family, is_exposed, json, levels, text,
};
use kvfs::disk::{Disk, Latch, Metered, OpenFiles, Purpose, SimDisk, Space};
use kvfs::engine::{
    self, Batch, Cause, Command, Engine, Kind, MemEngine, MeteredEngine, PageCause, PageKind, Shape, Stalls,
    Tier, Work,
};
use kvfs::fs::Usage;
use kvfs::fs::meter::Meter;
use kvfs::fs::operation::Op;
use kvfs::fs::types::{Caller, ROOT};
use serde_json::Value;

#[macro_use]
#[path = "support/hand_on.rs"]
mod hand_on;

#[path = "stats/asked.rs"]
mod asked;
#[path = "stats/below_engine.rs"]
mod below_engine;
#[path = "stats/commands.rs"]
mod commands;
#[path = "stats/debt.rs"]
mod debt;
#[path = "stats/derived.rs"]
mod derived;
#[path = "stats/document.rs"]
mod document;
#[path = "stats/doors.rs"]
mod doors;
#[path = "stats/events.rs"]
mod events;
#[path = "stats/exposition.rs"]
mod exposition;
#[path = "stats/golden.rs"]
mod golden;
#[path = "stats/level.rs"]
mod level;
#[path = "stats/metrics.rs"]
mod metrics;
#[path = "stats/pages.rs"]
mod pages;
#[path = "stats/reads.rs"]
mod reads;
#[path = "stats/recordings.rs"]
mod recordings;
#[path = "stats/render.rs"]
mod render;
#[path = "stats/rig.rs"]
mod rig;
#[path = "stats/samples.rs"]
mod samples;
#[path = "stats/schema.rs"]
mod schema;
#[path = "stats/states.rs"]
mod states;
#[path = "stats/statistics.rs"]
mod statistics;
#[path = "stats/stuck.rs"]
mod stuck;
#[path = "stats/witnesses.rs"]
mod witnesses;

use document::{documented, entries, family_of, witness_entries};
use exposition::exposition;
use rig::*;
use samples::{btree, causes, hybrid, lsm, ops};
use stuck::{Hung, stuck};

fn number(value: &Value, path: &str) -> u64 {
    path.split('.').fold(value, |value, name| &value[name]).as_u64().unwrap_or_else(|| panic!("no {path}"))
}
