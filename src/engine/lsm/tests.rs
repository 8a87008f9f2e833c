//! Tests of the whole engine, by subject; here what they share.

mod aside;
mod crash;
mod damage;
mod forks;
mod full_disk;
mod ingest;
mod limits;
mod lost;
mod merging;
mod model;
mod open_files;
mod policies;
mod requests;
mod speed;
mod threads;
mod values;

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc;
use std::time::Duration;

use super::compaction::{Policy, PolicyInForce, StuckTables};
use super::table::{Table, TableNumber, TableStore};
use super::value_log::MOVED_KIND;
use super::version::{Superversion, Version};
use super::*;
use crate::base::clock::{Clock, ManualClock};
use crate::base::prng::Prng;
use crate::disk::{Disk, Fault, Faulty, LEVELS, Latch, Metered, Purpose, SimDisk, Tear};
use crate::engine::{Cause, Common, Error, run, settle, sync, wal};

impl LsmEngine {
    /// Everything a read needs, as it is now.
    pub(super) fn superversion(&self) -> Arc<Superversion> {
        self.levels.versions.superversion()
    }
}

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Every batch puts its number here, so that a recovered store says how long its history is.
const COUNTER: &[u8] = b"a counter";

fn open_with(disk: Arc<dyn Disk>, options: &Options) -> Result<Arc<LsmEngine>> {
    open(disk, Arc::new(ManualClock::default()), options)
}

fn open_tiny(disk: Arc<dyn Disk>) -> Result<Arc<LsmEngine>> {
    open_with(disk, &Options::tiny())
}

/// Options of a run that lead through different code, and whether the policy changes while it goes on.
struct Variant {
    options: Options,
    switches: bool,
}

impl std::ops::Deref for Variant {
    type Target = Options;
    fn deref(&self) -> &Options {
        &self.options
    }
}

fn variants() -> Vec<Variant> {
    let tiny = Options::tiny();
    let leveled = vec![
        tiny.clone(),
        Options { value_log: true, ..tiny.clone() },
        // Nearly every value, and segments that are emptied early.
        Options {
            value_log: true,
            value_threshold_bytes: 10,
            value_gc_percent: 80,
            common: Common { log_segment_bytes: 2 << 10, ..tiny.common },
            ..tiny.clone()
        },
        Options {
            compression: "none:lz4".parse().unwrap(),
            compression_bottom: Some(Compression::Zstd),
            ..tiny
        },
    ];
    leveled.into_iter().map(|options| Variant { options, switches: false }).collect()
}

/// Options of single policies under which two runs of a tier are merged already, and targets of levels are counted from below if
/// `dynamic_levels`.
fn merging_early(dynamic_levels: bool) -> PolicyOptions {
    let mut policies = PolicyOptions::default();
    policies.tiered.merge_min = 2;
    policies.leveled.dynamic_levels = dynamic_levels;
    policies
}

/// The other policies, with values in tables and in the log, and changes between all of them.
fn policies() -> Vec<Variant> {
    let tiny = Options { policies: merging_early(false), ..Options::tiny() };
    let mut variants = Vec::new();
    for policy in PolicyKind::ALL {
        for value_log in [false, true] {
            let policies = merging_early(policy == PolicyKind::LEVELED);
            let options = Options { policy, value_log, policies, ..tiny.clone() };
            variants.push(Variant { options, switches: false });
        }
    }
    let options = Options { value_log: true, value_gc_percent: 80, ..tiny };
    variants.push(Variant { options, switches: true });
    variants
}

fn contents(engine: &dyn Engine) -> Result<Model> {
    let mut found = Model::new();
    engine.scan(KeyRange::ALL, Tier::Disk, &mut |key, value| {
        assert!(found.insert(key.to_vec(), value.to_vec()).is_none(), "each key once");
        assert_eq!(found.last_key_value().map(|(key, _)| &key[..]), Some(key), "in order");
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// Processor time of this thread.
fn cpu_time() -> Duration {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
    Duration::new(time.tv_sec() as u64, time.tv_nsec() as u32)
}

/// Bytes of table files.
fn table_bytes(disk: &SimDisk) -> u64 {
    let files = disk.list().unwrap().into_iter();
    files.filter(|info| TableNumber::of_file(&info.name).is_some()).map(|info| info.bytes).sum()
}

/// Bytes of tables that are part of the store.
fn level_bytes(engine: &LsmEngine) -> u64 {
    engine.shape().levels.iter().map(|level| level.bytes).sum()
}

/// What a policy does with tables that may not leave L0: one that merges nothing leaves them, one that never goes below L0 goes on.
fn stuck(policy: PolicyKind) -> StuckTables {
    PolicyInForce::new(&Options { policy, ..Options::tiny() }).stuck()
}

/// A policy of the registry.
fn any_policy(prng: &mut Prng) -> PolicyKind {
    PolicyKind::ALL[prng.below(PolicyKind::ALL.len() as u64) as usize]
}

fn random_key(prng: &mut Prng) -> Vec<u8> {
    format!("key{}", prng.below(150)).into_bytes()
}

fn random_batch(prng: &mut Prng, number: u64) -> Batch {
    let mut batch = Batch::new(1);
    for _ in 0..=prng.below(4) {
        let key = random_key(prng);
        match prng.below(12) {
            0..4 => batch.delete(key),
            // Larger than a block.
            4 => batch.put(key, vec![number as u8; 300 + prng.below(300) as usize]),
            _ => batch.put(key, vec![number as u8; prng.below(60) as usize]),
        }
    }
    batch.put(COUNTER, number.to_be_bytes().to_vec());
    batch
}

fn apply_to(model: &mut Model, batch: &Batch) {
    for operation in batch.operations() {
        match operation.value() {
            Some(value) => model.insert(operation.key().to_vec(), value.to_vec()),
            None => model.remove(&operation.key()[..]),
        };
    }
}

/// Applies a batch, doing background work when the store is busy.
fn apply_patiently(engine: &dyn Engine, batch: &Batch) -> Result<Lsn> {
    loop {
        match engine.apply(batch, Tier::Disk) {
            Err(Error::Busy { .. }) => settle(engine)?,
            other => return other,
        }
    }
}

/// What a run of [`workload`] got done before it ended.
#[derive(Default)]
struct History {
    batches: Vec<Batch>,
    /// How many of them were applied for certain.
    applied: usize,
    /// How many of them were acknowledged by a sync.
    synced: usize,
}

impl History {
    fn model(&self, length: usize) -> Model {
        let mut model = Model::new();
        self.batches[..length].iter().for_each(|batch| apply_to(&mut model, batch));
        model
    }

    /// Holds what a reopened store holds against the history.
    fn check(&self, engine: &dyn Engine, at_least: usize) {
        let found = contents(engine).unwrap();
        let counter = found.get(COUNTER).map_or(0, |bytes| u64::from_be_bytes(bytes[..].try_into().unwrap()));
        let length = counter as usize;
        assert!(
            length >= at_least && length <= self.batches.len(),
            "{length} of {at_least}..={}",
            self.batches.len()
        );
        assert_eq!(found, self.model(length), "a prefix of {length} batches");
    }
}

/// Applies, syncs, flushes, merges, compacts and reopens; ends at the first error, or goes on if `is_stubborn`.
fn workload(disk: Arc<dyn Disk>, options: &Variant, seed: u64, batches: u64, is_stubborn: bool) -> History {
    let mut prng = Prng::new(seed);
    let mut history = History::default();
    let Ok(mut engine) = open_with(disk.clone(), options) else { return history };
    for number in 1..=batches {
        let batch = random_batch(&mut prng, number);
        history.batches.push(batch.clone());
        let mut result = apply_patiently(&*engine, &batch).map(|_| history.applied = history.batches.len());
        if result.is_err() && is_stubborn {
            // Whether it is in the log is unknown, so it must be the last one.
            return history;
        }
        let choice = prng.below(40);
        result = result.and_then(|()| match choice {
            0..6 => sync(&*engine).map(|()| history.synced = history.applied),
            6..10 => engine.work(WorkClass::Flush).map(|_| ()),
            10..16 => engine.work(WorkClass::Merge).map(|_| ()),
            16..18 => engine.work(WorkClass::Reclaim).map(|_| ()),
            18 => run(&*engine, Command::Flush),
            19 => run(&*engine, Command::Compact),
            20 => {
                engine.close().and_then(|()| open_with(disk.clone(), options)).map(|opened| engine = opened)
            }
            21 => open_with(disk.clone(), options).map(|opened| engine = opened),
            22..25 if options.switches => engine.set("policy", any_policy(&mut prng).name()),
            _ => Ok(()),
        });
        // A store that was being opened again is not the one before any more.
        if result.is_err() && (!is_stubborn || matches!(choice, 20 | 21)) {
            break;
        }
    }
    history
}

/// No segment is kept without need, and few are sparse once all is quiet.
fn check_space(engine: &LsmEngine, disk: &SimDisk) {
    let segments = disk.list().unwrap().into_iter().filter(|info| wal::is_segment(&info.name)).count() as u64;
    let kept = engine.shape().value_log.segments;
    // The log's own, and spares.
    assert!(segments <= kept + 20, "{segments} segments, {kept} of them kept");
    let values = disk
        .list()
        .unwrap()
        .into_iter()
        .filter(|info| survivors::ValuesNumber::of_file(&info.name).is_some());
    assert_eq!(values.count() as u64, kept - engine.log.shape().kept_segments);
    assert!(
        engine.levels.compactor.collector().sparse_segments(&engine.superversion().version, false).is_empty()
    );
}
