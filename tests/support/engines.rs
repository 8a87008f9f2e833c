//! Engines under test: every kind with option sets that reach its corners, and a seeded list of operations that is the same
//! for all of them.

use std::sync::Arc;

use bytes::Bytes;
use kvfs::base::clock::ManualClock;
use kvfs::base::prng::Prng;
use kvfs::disk::Disk;
use kvfs::engine::{
    self, Batch, Class, Command, Compression, Engine, Error, KeyRange, Kind, Options, PolicyKind, Position,
    Result, Tier,
};

/// A name for messages, and the options.
pub type Setup = (&'static str, Options);

/// Small and odd options of both engines.
pub fn setups() -> Vec<Setup> {
    let lsm = Options::tiny(Kind::Lsm);
    let btree = Options::tiny(Kind::Btree);
    vec![
        ("lsm tiny", lsm.clone()),
        ("lsm one entry a memtable", Options { memtable_bytes: 1, ..lsm.clone() }),
        (
            "lsm no cache, no filter",
            Options { cache_bytes: 0, bloom_bits: 0, restart_interval: 1, ..lsm.clone() },
        ),
        (
            "lsm eager levels",
            Options { l0_trigger: 1, level_base_bytes: 256, level_multiplier: 2, ..lsm.clone() },
        ),
        ("lsm values in the log", Options { value_log: true, ..lsm.clone() }),
        (
            "lsm values in the log, emptied early beside several tables in L0",
            Options {
                value_log: true,
                value_threshold_bytes: 40,
                value_gc_percent: 80,
                l0_trigger: 6,
                l0_slowdown: 8,
                ..lsm.clone()
            },
        ),
        (
            "lsm values in the log, emptied early, compressed",
            Options {
                value_log: true,
                value_threshold_bytes: 40,
                value_gc_percent: 80,
                compression: Compression::Lz4.into(),
                compression_bottom: Some(Compression::Zstd),
                ..lsm.clone()
            },
        ),
        ("lsm dynamic levels", Options { dynamic_levels: true, ..lsm.clone() }),
        ("lsm tiered", Options { policy: PolicyKind::Tiered, tier_merge_min: 2, ..lsm.clone() }),
        ("lsm time windows", Options { policy: PolicyKind::TimeWindow, tier_merge_min: 2, ..lsm.clone() }),
        ("lsm never merged", Options { policy: PolicyKind::Log, value_log: true, ..lsm.clone() }),
        ("lsm eager", Options { policy: PolicyKind::Eager, value_log: true, ..lsm.clone() }),
        ("lsm large memtable", Options { memtable_bytes: 64 << 10, block_bytes: 4 << 10, ..lsm }),
        ("btree tiny", btree.clone()),
        ("btree no cache", Options { cache_bytes: 0, ..btree.clone() }),
        ("btree large pages", Options { page_bytes: 64 << 10, dirty_bytes_max: 1 << 20, ..btree.clone() }),
        (
            "btree rare checkpoints",
            Options { checkpoint_log_bytes: 1 << 20, dirty_bytes_max: 1 << 20, ..btree },
        ),
    ]
}

/// Opens an engine on `disk` with a clock that stands still.
pub fn open(disk: Arc<dyn Disk>, options: &Options) -> Result<Arc<dyn Engine>> {
    engine::open(disk, Arc::new(ManualClock::default()), options)
}

/// One operation of a test.
#[derive(Clone, Debug)]
pub enum Step {
    /// Apply a batch.
    Apply(Batch),
    /// Read one key.
    Get(Bytes),
    /// Read a range, at most so many entries.
    Scan(Bytes, Option<Bytes>, usize),
    /// Make everything durable.
    Sync,
    /// One unit of background work.
    Work(Class),
    /// A command, run to its end.
    Run(Command),
    /// Close and open again.
    Reopen,
    /// LSM: change the compaction policy; nothing for other engines.
    Policy(PolicyKind),
}

/// A seeded list of `count` steps. Keys come from a small set that is overwritten, from an ascending sequence, and from the shape
/// of the filesystem's keys; values lie around the borders of blocks, pages and out-of-line storage.
pub fn steps(seed: u64, count: usize) -> Vec<Step> {
    let mut prng = Prng::new(seed);
    let mut ascending = 0u64;
    (0..count)
        .map(|index| match prng.below(100) {
            0..55 => Step::Apply(batch(&mut prng, &mut ascending, index)),
            55..67 => Step::Get(key(&mut prng, &mut ascending)),
            67..75 => {
                let (a, b) = (key(&mut prng, &mut ascending), key(&mut prng, &mut ascending));
                let end = (!prng.one_in(3)).then(|| a.clone().max(b.clone()));
                Step::Scan(a.min(b), end, if prng.one_in(3) { 3 } else { usize::MAX })
            }
            75..82 => Step::Sync,
            82..94 => {
                Step::Work([Class::Log, Class::Flush, Class::Merge, Class::Reclaim][prng.below(4) as usize])
            }
            94..96 => {
                Step::Run([Command::Flush, Command::Checkpoint, Command::Compact][prng.below(3) as usize])
            }
            96 => Step::Policy(PolicyKind::ALL[prng.below(5) as usize]),
            _ => Step::Reopen,
        })
        .collect()
}

fn key(prng: &mut Prng, ascending: &mut u64) -> Bytes {
    match prng.below(4) {
        0 => Bytes::from(format!("key{:02}", prng.below(40))),
        1 => {
            *ascending += 1;
            Bytes::from(format!("log{:06}", *ascending))
        }
        _ => {
            let mut key = vec![0x40];
            key.extend_from_slice(&prng.below(3).to_be_bytes());
            key.extend_from_slice(&prng.below(60).to_be_bytes());
            key.into()
        }
    }
}

fn batch(prng: &mut Prng, ascending: &mut u64, index: usize) -> Batch {
    const LENGTHS: [u64; 12] = [0, 1, 20, 100, 255, 256, 1000, 2047, 2048, 4096, 4097, 6000];
    let mut batch = Batch::new((index % 60) as u8);
    for _ in 0..1 + prng.below(5) {
        let key = key(prng, ascending);
        if prng.one_in(4) {
            batch.delete(key);
        } else {
            let length = LENGTHS[prng.below(LENGTHS.len() as u64) as usize];
            let mut value = (index as u64).to_le_bytes().to_vec();
            value.resize(length as usize, index as u8);
            batch.put(key, value);
        }
    }
    batch
}

/// Applies a batch, doing background work while the engine answers busy. A batch that never gets in is a failure.
pub fn apply(engine: &dyn Engine, batch: &Batch) -> Result<Position> {
    for _ in 0..10_000 {
        match engine.apply(batch, Tier::Disk) {
            Err(Error::Busy { .. }) => {
                for class in [Class::Flush, Class::Merge, Class::Reclaim] {
                    engine.work(class)?;
                }
            }
            other => return other,
        }
    }
    panic!("a batch was refused as busy for ever: {:?}", engine.shape().stalls);
}

/// Everything in the engine.
pub fn contents(engine: &dyn Engine) -> Result<Vec<(Bytes, Bytes)>> {
    range(engine, KeyRange::ALL, usize::MAX)
}

/// Up to `limit` entries of a range.
pub fn range(engine: &dyn Engine, range: KeyRange<'_>, limit: usize) -> Result<Vec<(Bytes, Bytes)>> {
    let mut found = Vec::new();
    engine.scan(range, Tier::Disk, &mut |key, value| {
        found.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
        if found.len() >= limit {
            std::ops::ControlFlow::Break(())
        } else {
            std::ops::ControlFlow::Continue(())
        }
    })?;
    Ok(found)
}
