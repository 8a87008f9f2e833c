//! The filesystem against a naive model: random calls, compared in answer, errno and the whole tree after every one; over an
//! engine that keeps saying "not now"; with remounts and crashes between; and the promises that a model cannot see.
//!
//! `SEED=n cargo test --test fs` replays one seed.

#[macro_use]
#[path = "support/hand_on.rs"]
mod hand_on;
#[path = "support/model_fs.rs"]
mod model_fs;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use bytes::Bytes;
use kvfs::base::clock::{Clock, ManualClock};
use kvfs::base::prng::Prng;
use kvfs::disk::{Disk, SimDisk, Space};
use kvfs::engine::{
    self, Batch, Command, Engine, Error as EngineError, KeyRange, Kind, Lsn, MemEngine,
    Options as EngineOptions, Pending, Result as EngineResult, Tier, Visit, WorkClass,
};
use kvfs::fs::operation::Op;
use kvfs::fs::types::{
    Attributes, Caller, DirEntry, FileKind, Ino, NewNode, ROOT, RenameMode, SetAttributes, Time, XattrMode,
};
use kvfs::fs::{Atime, Error, FileSystem, Options, Result, SpaceSource, keys};
use model_fs::{Answer, ModelFs};

#[path = "fs/bench.rs"]
mod bench;
#[path = "fs/call.rs"]
mod call;
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
#[path = "fs/reluctant.rs"]
mod reluctant;
#[path = "fs/run.rs"]
mod run;
#[path = "fs/space.rs"]
mod space;
#[path = "fs/store.rs"]
mod store;
#[path = "fs/threads.rs"]
mod threads;
#[path = "fs/times.rs"]
mod times;
#[path = "fs/xattrs.rs"]
mod xattrs;

use bench::Bench;
use reluctant::Reluctant;
use run::Run;
use store::{DiskStore, End, MemStore, Store};

const BLOCK: u64 = 4096;

const OPTIONS: Options =
    Options { block_bytes: BLOCK, atime: Atime::Never, diratime: true, read_only: false };

fn space() -> SpaceSource {
    Arc::new(|| Ok(Space { total_bytes: 1 << 40, free_bytes: 1 << 39, ..Space::default() }))
}

/// Makes a call as the adapter does: in memory first, then with the disk, again while the engine is busy.
fn ask<T>(mut call: impl FnMut(Tier) -> Result<T>) -> Answer<T> {
    let mut tier = Tier::Memory;
    loop {
        match call(tier) {
            Err(Error::WouldBlock) => {
                assert_eq!(tier, Tier::Memory, "a call that may read the disk answered WouldBlock");
                tier = Tier::Disk;
            }
            Err(Error::Busy { .. }) => {}
            result => return result.map_err(|error| error.errno()),
        }
    }
}

fn check(engine: &dyn Engine) -> Vec<String> {
    let mut problems = Vec::new();
    kvfs::fs::check(engine, &mut |problem| problems.push(problem.what)).unwrap();
    problems
}

fn list(fs: &FileSystem, ino: Ino, entries_max: usize) -> Answer<Vec<DirEntry>> {
    let (mut all, mut cookie) = (Vec::new(), 0);
    loop {
        let reply = ask(|tier| {
            let mut reply: Vec<DirEntry> = Vec::new();
            fs.readdir(tier, ino, cookie, &mut |entry| {
                let fits = reply.len() < entries_max;
                if fits {
                    reply.push(entry);
                }
                fits
            })?;
            Ok(reply)
        })?;
        let Some(last) = reply.last() else { return Ok(all) };
        cookie = last.cookie;
        all.extend(reply);
    }
}
