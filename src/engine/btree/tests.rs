use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use super::admission::RETRY_AFTER;
use super::allocation_unit::{FIRST_UNIT, PageNumber, UNIT_BYTES, UnitNumber, Units};
use super::source::LoadedPieces;
use super::tree::Stop;
use super::*;
use crate::base::clock::{ManualClock, SystemClock};
use crate::base::prng::Prng;
use crate::disk::{Fault, Faulty, Latch, Metered, Request, SimDisk, Tear};
use crate::engine::wal::FIRST_KIND;
use crate::engine::{
    Cause, Common, Compression, MemEngine, Operation, PageCause, PageCount, PageKind, PageTraffic, Worker,
    run, settle, sync,
};

mod bounds;
mod change_buffer;
mod compression;
mod counting;
mod crash;
mod damage;
mod golden;
mod limits;
mod map;
mod model;
mod others;
mod reading;
mod replay;
mod space;
mod speed;
mod threads;

use crash::{History, Workload, crash_everywhere_in, recovered, recovered_in, workload, workload_in};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn tiny() -> Options {
    Options { common: Common { reserve_bytes: 0, ..Common::tiny() }, ..Options::tiny() }
}

fn open_on(disk: Arc<dyn Disk>, options: &Options) -> Result<Arc<BtreeEngine>> {
    open(disk, Arc::new(ManualClock::default()), options)
}

fn contents(engine: &dyn Engine) -> Result<Map> {
    let mut map = Map::new();
    engine.scan(KeyRange::ALL, Tier::Disk, &mut |key, value| {
        assert!(map.insert(key.to_vec(), value.to_vec()).is_none(), "a key visited twice");
        ControlFlow::Continue(())
    })?;
    Ok(map)
}

fn random_key(prng: &mut Prng) -> Vec<u8> {
    let number = prng.below(120) as u8;
    // Long keys make inner pages split too.
    let mut key = vec![b'k', number / 40];
    key.resize(2 + usize::from(number % 4) * 50, number);
    key.push(number);
    key
}

fn random_value(prng: &mut Prng) -> Vec<u8> {
    let length = match prng.below(8) {
        0..3 => prng.below(120),
        3 => 700 + prng.below(400),
        4 => 2046 + prng.below(4),
        5 => 4094 + prng.below(4),
        6 => prng.below(3),
        _ => 2048 + prng.below(9000),
    };
    let mut value = prng.bits().to_le_bytes().to_vec();
    value.resize(length as usize, prng.bits() as u8);
    value
}

fn random_batch(prng: &mut Prng) -> Batch {
    let mut batch = Batch::new(1);
    // Phases of growth and of decline, so that pages split and leave.
    let deletes = if prng.one_in(3) { 80 } else { 25 };
    for _ in 0..1 + prng.below(4) {
        let key = random_key(prng);
        if prng.below(100) < deletes {
            batch.delete(key);
        } else {
            batch.put(key, random_value(prng));
        }
    }
    batch
}

fn follow(map: &mut Map, batch: &Batch) {
    for operation in batch.operations() {
        match operation {
            Operation::Put { key, value } => drop(map.insert(key.to_vec(), value.to_vec())),
            Operation::Delete { key } => drop(map.remove(&key[..])),
        }
    }
}

/// Applies a batch, doing checkpoint work while the engine is busy.
fn apply(engine: &BtreeEngine, batch: &Batch) -> Result<Lsn> {
    for _ in 0..100 {
        match engine.apply(batch, Tier::Disk) {
            Err(Error::Busy { .. }) => drop(engine.work(WorkClass::Flush)?),
            other => return other,
        }
    }
    panic!("busy for ever");
}

/// A way in which pages are written.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Mode {
    pages: Placement,
    compression: Compression,
    torn: Torn,
}

impl Mode {
    const IMAGE: Mode = Mode::in_place(Torn::Image);
    const DOUBLEWRITE: Mode = Mode::in_place(Torn::Doublewrite);
    const DELTA: Mode = Mode::in_place(Torn::Delta);
    /// Pages of 4 KiB are never compressed, longer ones are.
    const COW: Mode = Mode::out_of_place(Placement::Cow, Compression::Lz4);
    const COW_EXTENT: Mode = Mode::out_of_place(Placement::CowExtent, Compression::Zstd);

    const fn in_place(torn: Torn) -> Mode {
        Mode { pages: Placement::InPlace, compression: Compression::None, torn }
    }

    const fn out_of_place(pages: Placement, compression: Compression) -> Mode {
        Mode { pages, compression, torn: Torn::Delta }
    }

    /// One of all of them.
    fn nth(number: u64) -> Mode {
        MODES[number as usize % MODES.len()]
    }

    /// `options` in this mode.
    fn of(self, options: Options) -> Options {
        Options { pages: self.pages, compression: self.compression, torn: self.torn, ..options }
    }
}

const MODES: [Mode; 5] = [Mode::IMAGE, Mode::DOUBLEWRITE, Mode::DELTA, Mode::COW, Mode::COW_EXTENT];

fn with(mode: Mode) -> Options {
    mode.of(tiny())
}

/// Few checkpoints, and memory for all.
fn large() -> Options {
    Options {
        dirty_bytes_max: 32 << 20,
        checkpoint_log_bytes: 64 << 20,
        common: Common { cache_bytes: 16 << 20, log_segment_bytes: 4 << 20, ..tiny().common },
        ..tiny()
    }
}

/// Shares all but its end with the others, so that inner pages fill, too.
fn long_key(number: u32) -> Vec<u8> {
    [&[7; 200][..], &number.to_be_bytes()].concat()
}

/// Deletes all but every `nth` of `count` keys.
fn thin_out(engine: &BtreeEngine, count: u32, nth: u32) {
    for key in (0..count).filter(|key| key % nth != 0) {
        let mut batch = Batch::new(0);
        batch.delete(long_key(key));
        apply(engine, &batch).unwrap();
    }
}

fn fill(engine: &BtreeEngine, count: u32, value_bytes: usize) {
    for key in 0..count {
        let mut batch = Batch::new(0);
        batch.put(long_key(key), vec![key as u8; value_bytes]);
        apply(engine, &batch).unwrap();
    }
}

/// Bytes that opening would replay.
fn log_bytes(engine: &BtreeEngine) -> u64 {
    engine.core.log_bytes(&engine.core.tree.read())
}
