//! The filesystem beside its model: what the tests of kvfs and those of engines of others have in common.

#[macro_use]
#[path = "hand_on.rs"]
mod hand_on;
#[path = "model_fs.rs"]
pub mod model_fs;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kvfs::base::clock::{Clock, ManualClock};
use kvfs::base::prng::Prng;
use kvfs::disk::{SimDisk, Space};
use kvfs::engine::{
    self, Batch, Engine, Error as EngineError, KeyRange, Kind, Lsn, MemEngine, Options as EngineOptions,
    Result as EngineResult, Tier, Visit, WorkClass,
};
use kvfs::fs::operation::Op;
use kvfs::fs::types::{
    Attributes, Caller, DirEntry, FileKind, Ino, NewNode, ROOT, RenameMode, SetAttributes, Time, XattrMode,
};
use kvfs::fs::{Atime, Error, FileSystem, Options, Result, SpaceSource};
use model_fs::{Answer, ModelFs};

#[path = "../fs/call.rs"]
mod call;
#[path = "../fs/reluctant.rs"]
mod reluctant;
#[path = "../fs/run.rs"]
mod run;
#[path = "../fs/store.rs"]
mod store;

pub use reluctant::Reluctant;
pub use run::Run;
pub use store::{DiskStore, End, MemStore, Store};

/// Bytes of a block of content.
pub const BLOCK: u64 = 4096;

/// Of every filesystem here.
pub const OPTIONS: Options =
    Options { block_bytes: BLOCK, atime: Atime::Never, diratime: true, read_only: false };

/// A large disk.
pub fn space() -> SpaceSource {
    Arc::new(|| Ok(Space { total_bytes: 1 << 40, free_bytes: 1 << 39, ..Space::default() }))
}

/// Makes a call as the adapter does: in memory first, then with the disk, again while the engine is busy.
pub fn ask<T>(mut call: impl FnMut(Tier) -> Result<T>) -> Answer<T> {
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

/// What the check of the filesystem says.
pub fn check(engine: &dyn Engine) -> Vec<String> {
    let mut problems = Vec::new();
    kvfs::fs::check(engine, &mut |problem| problems.push(problem.what)).unwrap();
    problems
}

/// A whole directory, a few entries a call.
pub fn list(fs: &FileSystem, ino: Ino, entries_max: usize) -> Answer<Vec<DirEntry>> {
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

/// `SEED` alone, else the first `count`.
pub fn seeds(count: u64) -> Vec<u64> {
    match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => (0..count).collect(),
    }
}

/// A list of random calls, each compared with the model, with ends between: unmounted, or killed where `crashes`.
pub fn random_run(seed: u64, store: Box<dyn Store>, reluctant: bool, crashes: bool, steps: usize) {
    let mut run = Run::new(seed, store, reluctant);
    for step in 0..steps {
        run.step();
        run.compare();
        if step % 16 == 0 {
            run.verify();
        }
        if run.random.one_in(60) {
            run.log.push("remount".to_string());
            let clean = !crashes || run.random.one_in(2);
            run.remount(if clean { End::Clean } else { End::Kill });
            run.compare();
        }
    }
    run.finish();
}
