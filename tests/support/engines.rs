//! Engines under test: every kind with option sets that reach its corners, and a seeded list of operations that is the same
//! for all of them.

use std::sync::Arc;

use bytes::Bytes;
use kvfs::base::clock::ManualClock;
use kvfs::base::prng::Prng;
use kvfs::disk::Disk;
use kvfs::engine::{
    self, Batch, Command, Engine, Error, KeyRange, Kind, Lsn, Options, Result, Tier, WorkClass,
};

/// A name for messages, and the options.
pub type Setup = (String, Options);

/// Tiny options of an engine with others, as in `memtable=1M,dirty_max=1M`; each engine takes those that it has.
pub fn tiny(kind: Kind, others: &str) -> Options {
    Options::tiny(kind).with(others).unwrap()
}

/// Every engine that keeps what it is given, in each variant that the registry knows, and odd options of some.
pub fn setups() -> Vec<Setup> {
    let mut setups: Vec<Setup> = Vec::new();
    let mut add = |kind: Kind, others: &str| setups.push((format!("{kind} {others}"), tiny(kind, others)));
    for kind in Kind::all().filter(|kind| kind.keeps) {
        for (index, (option, variant)) in kind.variants().into_iter().enumerate() {
            let value_log = if index % 2 == 0 { "off" } else { "on" };
            add(kind, &format!("{option}={variant},tier_merge_min=2,value_log={value_log}"));
        }
        add(kind, "cache=0");
    }
    for others in [
        "memtable=1",
        "cache=0,bloom_bits=0,restart_interval=1",
        "l0_trigger=1,level_base=256,level_multiplier=2",
        "value_log=on",
        // Emptied early, beside several tables in L0.
        "value_log=on,value_threshold=40,value_gc_percent=80,l0_trigger=6,l0_slowdown=8",
        "value_log=on,value_threshold=40,value_gc_percent=80,compression=lz4,compression_bottom=zstd",
        "dynamic_levels=on",
        "memtable=64K,table_block=4K",
    ] {
        add(Kind::LSM, others);
    }
    for others in [
        "page_size=64K,dirty_max=1M",
        "checkpoint_log=1M,dirty_max=1M",
        "page_size=16K,dirty_max=256K,pages=cow,compression=lz4",
        "page_size=64K,dirty_max=1M,pages=cow-extent,compression=zstd",
    ] {
        add(Kind::BTREE, others);
    }
    // Nearly all goes down at once, or nothing ever.
    for others in
        ["hot=4K,dirty_max=1M,checkpoint_log=1M", "hot=1G", "hot=16K,pages=cow", "hot=16K,pages=cow-extent"]
    {
        add(Kind::HYBRID, others);
    }
    setups
}

/// Opens an engine on `disk` with a clock that stands still.
pub fn open(disk: Arc<dyn Disk>, options: &Options) -> Result<Arc<dyn Engine>> {
    engine::open(disk, Arc::new(ManualClock::default()), options)
}

/// Calls `check` with each of the named items, all at the same time. A thread has the item's name, which so is in the message of a panic.
pub fn side_by_side<T: Send>(items: Vec<(String, T)>, check: impl Fn(&str, T) + Sync) {
    std::thread::scope(|scope| {
        for (name, item) in items {
            let (check, thread) = (&check, std::thread::Builder::new().name(name.clone()));
            thread.spawn_scoped(scope, move || check(&name, item)).unwrap();
        }
    });
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
    Work(WorkClass),
    /// A command, run to its end.
    Run(Command),
    /// Close and open again.
    Reopen,
    /// Change the live option that chooses the engine's variant to one of these, wherever it can be: the LSM-tree's policy.
    Variant(u64),
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
            82..94 => Step::Work(
                [WorkClass::Log, WorkClass::Flush, WorkClass::Merge, WorkClass::Reclaim]
                    [prng.below(4) as usize],
            ),
            94..96 => {
                Step::Run([Command::Flush, Command::Checkpoint, Command::Compact][prng.below(3) as usize])
            }
            96 => Step::Variant(prng.below(1000)),
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

/// Changes the engine's variant to the `nth`, counted around, if it can be changed while it is open.
pub fn change_variant(engine: &dyn Engine, kind: Kind, nth: u64) -> Result<()> {
    let variants = kind.variants();
    let nth = nth as usize % variants.len().max(1);
    match variants.get(nth).map(|(option, variant)| engine.set(option, variant)) {
        None | Some(Err(Error::Invalid(_))) => Ok(()),
        Some(changed) => changed,
    }
}

/// Applies a batch, doing background work while the engine answers busy. A batch that never gets in is a failure.
pub fn apply(engine: &dyn Engine, batch: &Batch) -> Result<Lsn> {
    for _ in 0..10_000 {
        match engine.apply(batch, Tier::Disk) {
            Err(Error::Busy { .. }) => {
                for class in [WorkClass::Flush, WorkClass::Merge, WorkClass::Reclaim] {
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
