use std::ops::ControlFlow;
use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::base::clock::ManualClock;
use crate::base::prng::Prng;
use crate::disk::{Fault, Faulty, Latch, Metered, SimDisk};
use crate::engine::{Cause, Compression, Kind, PolicyKind, run, settle, sync};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Every batch puts its number here, so that a recovered store says how long its history is.
const COUNTER: &[u8] = b"a counter";

fn open_with(disk: Arc<dyn Disk>, options: &Options) -> Result<Arc<LsmEngine>> {
    open(disk, Arc::new(ManualClock::default()), options)
}

fn open_tiny(disk: Arc<dyn Disk>) -> Result<Arc<LsmEngine>> {
    open_with(disk, &Options::tiny(Kind::Lsm))
}

/// Options that lead through different code.
/// Options of a run, and whether the policy changes while it goes on.
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
    let tiny = Options::tiny(Kind::Lsm);
    let leveled = vec![
        tiny.clone(),
        Options { value_log: true, ..tiny.clone() },
        // Nearly every value, and segments that are emptied early.
        Options {
            value_log: true,
            value_threshold_bytes: 10,
            value_gc_percent: 80,
            log_segment_bytes: 2 << 10,
            ..tiny.clone()
        },
        Options { compression: Compression::Lz4, compression_bottom: Some(Compression::Zstd), ..tiny },
    ];
    leveled.into_iter().map(|options| Variant { options, switches: false }).collect()
}

/// The other policies, with values in tables and in the log, and changes between all of them.
fn policies() -> Vec<Variant> {
    let tiny = Options { tier_merge_min: 2, ..Options::tiny(Kind::Lsm) };
    let mut variants = Vec::new();
    for policy in PolicyKind::ALL {
        for value_log in [false, true] {
            let dynamic_levels = policy == PolicyKind::Leveled;
            let options = Options { policy, value_log, dynamic_levels, ..tiny.clone() };
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

/// Bytes of table files.
fn table_bytes(disk: &SimDisk) -> u64 {
    let files = disk.list().unwrap().into_iter();
    files.filter(|info| table_number(&info.name).is_some()).map(|info| info.bytes).sum()
}

/// Bytes of tables that are part of the store.
fn level_bytes(engine: &LsmEngine) -> u64 {
    engine.shape().levels.iter().map(|level| level.bytes).sum()
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
fn apply_patiently(engine: &dyn Engine, batch: &Batch) -> Result<Position> {
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
            6..10 => engine.work(Class::Flush).map(|_| ()),
            10..16 => engine.work(Class::Merge).map(|_| ()),
            16..18 => engine.work(Class::Reclaim).map(|_| ()),
            18 => run(&*engine, Command::Flush),
            19 => run(&*engine, Command::Compact),
            20 => {
                engine.close().and_then(|()| open_with(disk.clone(), options)).map(|opened| engine = opened)
            }
            21 => open_with(disk.clone(), options).map(|opened| engine = opened),
            22..25 if options.switches => {
                engine.set("policy", PolicyKind::ALL[prng.below(5) as usize].name())
            }
            _ => Ok(()),
        });
        // A store that was being opened again is not the one before any more.
        if result.is_err() && (!is_stubborn || matches!(choice, 20 | 21)) {
            break;
        }
    }
    history
}

#[test]
fn it_behaves_as_a_map_through_flushes_merges_and_reopening() {
    for (seed, options) in (0..6).flat_map(|seed| variants().into_iter().map(move |it| (seed, it))) {
        let disk = SimDisk::new();
        let mut engine = open_with(disk.clone(), &options).unwrap();
        let (mut prng, mut model) = (Prng::new(seed), Model::new());
        let mut deepest = 0;
        for number in 1..=1200 {
            let batch = random_batch(&mut prng, number);
            apply_patiently(&*engine, &batch).unwrap();
            apply_to(&mut model, &batch);
            let key = random_key(&mut prng);
            match engine.get(&key, Tier::Memory) {
                Err(Error::WouldBlock) => {}
                found => assert_eq!(found.unwrap().as_deref(), model.get(&key).map(|value| &value[..])),
            }
            assert_eq!(
                engine.get(&key, Tier::Disk).unwrap().as_deref(),
                model.get(&key).map(|value| &value[..])
            );
            if prng.one_in(20) {
                let (start, end) = (random_key(&mut prng), random_key(&mut prng));
                let (range, mut left) = (KeyRange { start: &start, end: Some(&end) }, prng.below(40));
                let wanted: Vec<Vec<u8>> = if start < end {
                    model
                        .range(start.clone()..end.clone())
                        .map(|(key, _)| key.clone())
                        .take(left as usize + 1)
                        .collect()
                } else {
                    Vec::new()
                };
                for tier in [Tier::Memory, Tier::Disk] {
                    let mut found = Vec::new();
                    let before = left;
                    let result = engine.scan(range, tier, &mut |key, value| {
                        assert_eq!(model.get(key).map(|value| &value[..]), Some(value));
                        found.push(key.to_vec());
                        if left == 0 {
                            return ControlFlow::Break(());
                        }
                        left -= 1;
                        ControlFlow::Continue(())
                    });
                    left = before;
                    match result {
                        Err(Error::WouldBlock) if tier == Tier::Memory => {}
                        result => assert_eq!(result.map(|()| found).unwrap(), wanted),
                    }
                }
            }
            match prng.below(60) {
                0..10 => drop(engine.work(Class::Flush).unwrap()),
                10..20 => drop(engine.work(Class::Merge).unwrap()),
                20 => settle(&*engine).unwrap(),
                21 => engine = open_with(disk.clone(), &options).unwrap(),
                22 => {
                    engine.close().unwrap();
                    engine = open_with(disk.clone(), &options).unwrap();
                    assert_eq!(engine.shape().debt.replay_bytes, 0);
                }
                23 if prng.one_in(8) => run(&*engine, Command::Compact).unwrap(),
                _ => {}
            }
            let used = engine.shape().levels.iter().rposition(|level| level.files > 0);
            deepest = deepest.max(used.unwrap_or(0));
        }
        assert_eq!(contents(&*engine).unwrap(), model);
        run(&*engine, Command::Verify).unwrap();
        assert!(
            deepest >= 2 || options.value_log || options.compression != Compression::None,
            "the workload reached only L{deepest}"
        );
        let values = engine.shape().value_log;
        assert_eq!(values.moved_bytes > 0, options.value_log, "{values:?}");
        settle(&*engine).unwrap();
        check_space(&engine, &disk);
    }
}

/// No segment is kept without need, and few are sparse once all is quiet.
fn check_space(engine: &LsmEngine, disk: &SimDisk) {
    let segments = disk.list().unwrap().into_iter().filter(|info| wal::is_segment(&info.name)).count() as u64;
    let kept = engine.shape().value_log.segments;
    // The log's own, and spares.
    assert!(segments <= kept + 20, "{segments} segments, {kept} of them kept");
    assert!(engine.sparse_segments(&engine.view().version).is_empty());
}

#[test]
fn a_crash_at_any_request_leaves_a_prefix_that_holds_every_synced_batch() {
    for options in variants() {
        crash_at_every_request(&options, 110);
    }
}

#[test]
fn a_crash_at_any_request_under_any_policy_leaves_a_prefix_that_holds_every_synced_batch() {
    for options in policies() {
        crash_at_every_request(&options, 60);
    }
}

#[test]
fn any_request_may_fail_under_any_policy_and_nothing_accepted_is_lost() {
    policies().iter().for_each(|options| fail_every_request(options, 35));
}

#[test]
fn recovering_under_any_policy_may_be_cut_off_anywhere() {
    policies().iter().for_each(crash_while_recovering);
}

/// The shape that a policy leaves once all is quiet.
fn check_shape(engine: &LsmEngine, options: &Options, policy: PolicyKind) {
    let levels = engine.shape().levels;
    let runs: u64 = levels.iter().map(|level| level.runs).sum();
    match policy {
        PolicyKind::Leveled => {
            assert!(levels[0].files < options.l0_trigger);
            assert!(levels[1..6].iter().all(|level| level.bytes <= level.target_bytes), "{levels:?}");
        }
        PolicyKind::Eager => assert!(runs <= 1, "{levels:?}"),
        PolicyKind::Tiered => assert!(levels.iter().all(|level| level.score < 1.0), "{levels:?}"),
        PolicyKind::Log | PolicyKind::TimeWindow => {}
    }
}

#[test]
fn a_store_that_changes_its_policy_loses_nothing_and_takes_on_the_new_shape() {
    let options = Options { tier_merge_min: 2, ..Options::tiny(Kind::Lsm) };
    for seed in 0..4 {
        let engine = open_with(SimDisk::new(), &options).unwrap();
        let (mut prng, mut model) = (Prng::new(seed), Model::new());
        for round in 0..40 {
            let policy = PolicyKind::ALL[prng.below(5) as usize];
            engine.set("policy", policy.name()).unwrap();
            for number in 0..60 {
                let batch = random_batch(&mut prng, round * 60 + number);
                apply_patiently(&*engine, &batch).unwrap();
                apply_to(&mut model, &batch);
            }
            settle(&*engine).unwrap();
            check_shape(&engine, &options, policy);
            assert_eq!(engine.shape().variant, policy.name());
            assert_eq!(contents(&*engine).unwrap(), model, "seed {seed} round {round} {policy:?}");
        }
        run(&*engine, Command::Verify).unwrap();
        assert!(engine.set("policy", "lazy").is_err());
    }
}

#[test]
fn the_limits_of_l0_count_only_while_merges_would_lower_it() {
    let options = Options { policy: PolicyKind::Log, ..Options::tiny(Kind::Lsm) };
    let engine = open_with(SimDisk::new(), &options).unwrap();
    let fill = |count: u64| {
        for number in 0..count {
            let mut batch = Batch::new(0);
            batch.put(number.to_be_bytes().to_vec(), vec![1; 500]);
            engine.apply(&batch, Tier::Disk).unwrap();
            engine.work(Class::Flush).unwrap();
        }
    };
    fill(100);
    assert!(engine.shape().levels[0].files > options.l0_stop);
    assert_eq!(engine.shape().stalls.limits_off.as_deref(), Some("policy=log"));
    for (setting, value, wanted) in [
        ("policy", "leveled", None),
        ("auto_compact", "off", Some("auto_compact=off")),
        ("paused", "on", Some("paused")),
        ("paused", "off", Some("auto_compact=off")),
    ] {
        engine.set(setting, value).unwrap();
        assert_eq!(engine.shape().stalls.limits_off.as_deref(), wanted, "{setting}={value}");
        let mut batch = Batch::new(0);
        batch.put(&b"k"[..], &b"v"[..]);
        assert_eq!(engine.apply(&batch, Tier::Disk).is_ok(), wanted.is_some(), "{setting}={value}");
        if wanted.is_some() {
            settle(&*engine).unwrap();
            assert!(engine.shape().levels[0].files > options.l0_stop, "merged with {setting}={value}");
        }
    }
    engine.set("auto_compact", "on").unwrap();
    settle(&*engine).unwrap();
    assert!(engine.shape().levels[0].files < options.l0_trigger);
}

#[test]
fn without_auto_flush_a_memtable_waits_for_a_command_or_for_full_memory() {
    let options = Options { memtable_entries: 8, ..Options::tiny(Kind::Lsm) };
    let engine = open_with(SimDisk::new(), &options).unwrap();
    let put = |number: u64, bytes: usize| {
        let mut batch = Batch::new(0);
        batch.put(number.to_be_bytes().to_vec(), vec![1; bytes]);
        engine.apply(&batch, Tier::Disk).unwrap();
        engine.work(Class::Flush).unwrap();
    };
    engine.set("auto_compact", "off").unwrap();
    engine.set("auto_flush", "off").unwrap();
    (0..15).for_each(|number| put(number, 1));
    assert_eq!(engine.shape().levels[0].files, 0);
    engine.set("auto_flush", "on").unwrap();
    engine.work(Class::Flush).unwrap();
    assert_eq!(engine.shape().levels[0].files, 1);
    engine.set("auto_flush", "off").unwrap();
    (0..100).for_each(|number| put(number, 100));
    let shape = engine.shape();
    assert!(shape.levels[0].files > 1 && shape.memory.memtable_bytes <= shape.memory.memtable_bytes_max);
}

#[test]
fn only_the_oldest_run_expires_and_late_entries_are_counted() {
    let clock = Arc::new(ManualClock::default());
    let options = Options {
        policy: PolicyKind::TimeWindow,
        window: Duration::from_secs(100),
        ttl: Some(Duration::from_secs(350)),
        ..Options::tiny(Kind::Lsm)
    };
    let engine = open(SimDisk::new(), clock.clone(), &options).unwrap();
    let window = |keys: std::ops::Range<u64>| {
        for number in keys {
            let mut batch = Batch::new(0);
            batch.put(number.to_be_bytes().to_vec(), vec![1; 100]);
            apply_patiently(&*engine, &batch).unwrap();
        }
        run(&*engine, Command::Flush).unwrap();
        clock.advance(Duration::from_secs(100));
        settle(&*engine).unwrap();
    };
    window(0..100);
    window(100..200);
    // Half of them are known to older windows.
    window(150..250);
    let late = engine.shape().debt.late_entries;
    assert!((45..60).contains(&late), "{late} late entries");
    assert_eq!(engine.shape().levels[0].files, 3, "a table for each window");
    clock.advance(Duration::from_secs(100));
    settle(&*engine).unwrap();
    let shape = engine.shape();
    assert!(shape.debt.dropped_bytes > 0);
    assert_eq!(shape.levels[0].files, 2);
    assert_eq!(engine.get(&50u64.to_be_bytes(), Tier::Disk).unwrap(), None, "expired");
    assert!(engine.get(&150u64.to_be_bytes(), Tier::Disk).unwrap().is_some());
    assert_eq!(engine.journal.events().iter().filter(|event| event.name == "drop").count(), 1);
}

fn crash_at_every_request(options: &Variant, batches: u64) {
    let open_tiny = |disk| open_with(disk, options);
    let whole = SimDisk::new();
    whole.start_trace();
    workload(whole.clone(), options, 1, batches, false);
    // Short runs of the other policies need not come by everything.
    let values = match options.value_log {
        _ if batches < 100 => &[][..],
        true => &["value_log", "value_log_gc"],
        false => &["compact_1"],
    };
    let merges = options.policy != PolicyKind::Log;
    for wanted in ["flush", "rename manifest.new", "remove table."].iter().chain(values) {
        if *wanted == "remove table." && !merges {
            continue;
        }
        assert!(whole.trace().contains(wanted), "the workload does without {wanted}");
    }
    for stop in 0..=whole.requests() {
        let disk = SimDisk::new();
        disk.stop_at(stop);
        let history = workload(disk.clone(), options, 1, batches, false);
        for image in 0..2 {
            let after = disk.crash(stop * 31 + image);
            let engine =
                open_tiny(after.clone()).unwrap_or_else(|e| panic!("stop {stop} image {image}: {e}"));
            history.check(&*engine, history.synced);
            assert_eq!(table_bytes(&after), level_bytes(&engine), "nothing is left over");
            // The recovered store goes on: what is synced now survives the next crash.
            let mut batch = Batch::new(0);
            batch.put(&b"after"[..], &b"the crash"[..]);
            apply_patiently(&*engine, &batch).unwrap();
            sync(&*engine).unwrap();
            let found = contents(&*engine).unwrap();
            assert_eq!(contents(&*open_tiny(after.crash(stop)).unwrap()).unwrap(), found, "stop {stop}");
        }
        let killed = open_tiny(disk.kill()).unwrap();
        history.check(&*killed, history.applied);
        run(&*killed, Command::Verify).unwrap();
    }
}

#[test]
fn a_crash_while_recovering_loses_nothing_more() {
    variants().iter().for_each(crash_while_recovering);
}

fn crash_while_recovering(options: &Variant) {
    let open_tiny = |disk| open_with(disk, options);
    let disk = SimDisk::new();
    let history = workload(disk.clone(), options, 3, 100, false);
    let image = disk.crash(9);
    let whole = image.kill();
    drop(open_tiny(whole.clone()).unwrap());
    for stop in 0..=whole.requests() {
        let again = image.kill();
        again.stop_at(stop);
        drop(open_tiny(again.clone()));
        history.check(&*open_tiny(again.crash(stop)).unwrap(), history.synced);
    }
}

#[test]
fn any_request_may_fail_and_nothing_accepted_is_lost() {
    variants().iter().for_each(|options| fail_every_request(options, 70));
}

fn fail_every_request(options: &Variant, batches: u64) {
    let open_tiny = |disk| open_with(disk, options);
    let whole = Faulty::new(SimDisk::new());
    workload(whole.clone(), options, 5, batches, true);
    for nth in 0..whole.requests() {
        for errno in [libc::EIO, libc::ENOSPC] {
            let sim = SimDisk::new();
            let faulty = Faulty::new(sim.clone());
            faulty.inject(Fault::Fail { kind: None, purpose: None, nth, errno });
            let history = workload(Latch::new(faulty), options, 5, batches, true);
            history.check(
                &*open_tiny(sim.kill()).unwrap_or_else(|e| panic!("request {nth}: {e}")),
                history.applied,
            );
            history.check(
                &*open_tiny(sim.crash(nth)).unwrap_or_else(|e| panic!("request {nth}: {e}")),
                history.synced,
            );
        }
    }
}

#[test]
fn the_meter_agrees_with_the_witness_the_cache_and_the_levels() {
    variants().iter().for_each(compare_with_witness);
}

fn compare_with_witness(options: &Variant) {
    let sim = SimDisk::new();
    let disk = Metered::new(sim.clone());
    let engine = open_with(disk.clone(), options).unwrap();
    let mut prng = Prng::new(8);
    for number in 1..=600 {
        apply_patiently(&*engine, &random_batch(&mut prng, number)).unwrap();
        engine.get(&random_key(&mut prng), Tier::Disk).unwrap();
        if number % 50 == 0 {
            contents(&*engine).unwrap();
        }
        if number % 10 == 0 {
            settle(&*engine).unwrap();
        }
    }
    let (snapshot, witness, shape) = (disk.snapshot(), sim.witness(), engine.shape());
    let total = snapshot.total();
    assert_eq!(
        (total.writes, total.write_bytes, total.syncs),
        (witness.writes, witness.write_bytes, witness.syncs)
    );
    assert_eq!((total.reads, total.read_bytes), (witness.reads, witness.read_bytes));
    assert_eq!(shape.cache.misses, snapshot.of(Purpose::Get).reads + snapshot.of(Purpose::Scan).reads);
    assert!(shape.cache.misses > 0 && shape.cache.hits > 0 && shape.cache.bytes <= shape.cache.bytes_max);
    let into_l0 = snapshot.of(Purpose::Flush).plus(&snapshot.of(Purpose::Compact { into: 0 }));
    assert_eq!(shape.levels[0].write_bytes, into_l0.write_bytes);
    let moved = snapshot.of(Purpose::ValueLogGc);
    assert_eq!(moved.read_bytes, shape.value_log.moved_bytes);
    assert!(moved.write_bytes >= moved.read_bytes && (moved.writes > 0) == options.value_log);
    assert_eq!(snapshot.of(Purpose::ValueLog).writes > 0, options.value_log);
    for level in &shape.levels[1..] {
        let metered = snapshot.of(Purpose::Compact { into: level.level as u8 });
        assert_eq!(level.write_bytes, metered.write_bytes, "L{}", level.level);
        assert!(metered.read_bytes <= level.read_bytes, "L{}", level.level);
    }
    assert_eq!(shape.probes.count(), 600);
    assert!(shape.filter.checks > 0 && shape.filter.useful <= shape.filter.checks);
    assert_eq!(table_bytes(&sim), level_bytes(&engine) + shape.obsolete_bytes);
}

#[test]
fn compact_leaves_one_run_and_no_tombstone() {
    let disk = SimDisk::new();
    let engine = open_tiny(disk.clone()).unwrap();
    let (mut prng, mut model) = (Prng::new(4), Model::new());
    for number in 1..=300 {
        let batch = random_batch(&mut prng, number);
        apply_patiently(&*engine, &batch).unwrap();
        apply_to(&mut model, &batch);
    }
    run(&*engine, Command::Compact).unwrap();
    let shape = engine.shape();
    assert_eq!(shape.levels.iter().map(|level| level.runs).sum::<u64>(), 1);
    assert_eq!((shape.debt.tombstones, shape.debt.dirty_bytes), (0, 0));
    assert_eq!(shape.levels.iter().map(|level| level.entries).sum::<u64>(), model.len() as u64);
    assert_eq!(contents(&*engine).unwrap(), model);
    // Deleting everything and compacting gives all the space back.
    for key in model.keys() {
        let mut batch = Batch::new(0);
        batch.delete(key.clone());
        apply_patiently(&*engine, &batch).unwrap();
    }
    run(&*engine, Command::Compact).unwrap();
    settle(&*engine).unwrap();
    assert!(disk.list().unwrap().iter().all(|info| table_number(&info.name).is_none()));
    assert_eq!(contents(&*engine).unwrap(), Model::new());
}

#[test]
fn writers_are_delayed_then_stopped_and_let_go_again() {
    let clock = Arc::new(ManualClock::default());
    let engine = open(SimDisk::new(), clock.clone(), &Options::tiny(Kind::Lsm)).unwrap();
    let mut number = 0;
    let mut fill = |engine: &LsmEngine| loop {
        let mut batch = Batch::new(0);
        number += 1;
        batch.put(format!("key{}", number % 7).into_bytes(), vec![0; 500]);
        if let Err(error) = engine.apply(&batch, Tier::Disk) {
            return error;
        }
    };
    assert!(matches!(fill(&engine), Error::Busy { cause: Cause::Memtables, .. }));
    let seen = engine.bell().seen(Class::Room);
    // Flushes alone pile up L0: first the rate, then the door.
    let mut slowed = 0;
    loop {
        while engine.work(Class::Flush).unwrap() == Pending::More {}
        match fill(&engine) {
            Error::Busy { cause: Cause::Memtables, .. } => {}
            Error::Busy { cause: Cause::L0Files, retry_after } if engine.shape().debt.l0_files < 10 => {
                slowed += 1;
                assert!(retry_after < Duration::from_millis(2), "{retry_after:?}");
                clock.advance(retry_after);
            }
            Error::Busy { cause: Cause::L0Files, .. } => break,
            error => panic!("{error}"),
        }
    }
    assert!(slowed > 0 && engine.bell().seen(Class::Room) > seen);
    let stalls = engine.shape().stalls;
    assert_eq!(stalls.now, Some(Cause::L0Files));
    assert!(stalls.by_cause[Cause::L0Files as usize].slowdowns > 0);
    assert!(stalls.by_cause[Cause::Memtables as usize].stops > 0);
    settle(&*engine).unwrap();
    let mut batch = Batch::new(0);
    batch.put(&b"k"[..], &b"v"[..]);
    engine.apply(&batch, Tier::Disk).unwrap();
    assert_eq!(engine.shape().stalls.now, None);
}

#[test]
fn a_full_disk_refuses_data_and_keeps_what_it_has() {
    let disk = SimDisk::new();
    let engine = open_tiny(disk.clone()).unwrap();
    disk.set_capacity(Some(80 << 10));
    let (mut prng, mut model) = (Prng::new(6), Model::new());
    let refused = (1..5000).find_map(|number| {
        let batch = random_batch(&mut prng, number);
        match apply_patiently(&*engine, &batch) {
            Ok(_) => {
                apply_to(&mut model, &batch);
                for filler in 0..4 {
                    let mut more = Batch::new(0);
                    let key = format!("fill{number}-{filler}").into_bytes();
                    more.put(key, vec![7; 200]);
                    if apply_patiently(&*engine, &more).is_ok() {
                        apply_to(&mut model, &more);
                    }
                }
                None
            }
            Err(error) => Some(error),
        }
    });
    assert!(matches!(refused, Some(Error::NoSpace)), "{refused:?}");
    assert_eq!(contents(&*engine).unwrap(), model);
    assert_eq!(contents(&*open_tiny(disk.kill()).unwrap()).unwrap(), model);
    disk.set_capacity(None);
    settle(&*engine).unwrap();
    run(&*engine, Command::Verify).unwrap();
    assert_eq!(contents(&*engine).unwrap(), model);
}

#[test]
fn a_writer_learns_why_there_is_no_room() {
    let faulty = Faulty::new(SimDisk::new());
    let engine = open_tiny(Latch::new(faulty.clone())).unwrap();
    faulty.inject(Fault::Fail { kind: None, purpose: Some(Purpose::Flush), nth: 0, errno: libc::EIO });
    let fill = || {
        (0..1000).find_map(|number: u32| {
            let mut batch = Batch::new(0);
            batch.put(number.to_be_bytes().to_vec(), vec![0; 100]);
            engine.apply(&batch, Tier::Disk).err()
        })
    };
    assert!(matches!(fill(), Some(Error::Busy { cause: Cause::Memtables, .. })));
    assert!(engine.work(Class::Flush).is_err());
    let error = fill();
    assert!(matches!(error, Some(Error::Io { .. } | Error::Poisoned(_))), "{error:?}");
}

#[test]
fn a_merge_that_would_not_fit_waits() {
    let disk = SimDisk::new();
    let engine = open_tiny(disk.clone()).unwrap();
    let mut prng = Prng::new(3);
    while engine.shape().debt.l0_files < 4 {
        if engine.apply(&random_batch(&mut prng, 1), Tier::Disk).is_err() {
            engine.work(Class::Flush).unwrap();
        }
    }
    let used: u64 = disk.list().unwrap().iter().map(|info| info.bytes).sum();
    disk.set_capacity(Some(used + 100));
    let found = contents(&*engine).unwrap();
    assert!(matches!(engine.work(Class::Merge), Ok(Pending::After(_))));
    assert!(engine.shape().jobs[0].contains("waits"), "{:?}", engine.shape().jobs);
    disk.set_capacity(None);
    settle(&*engine).unwrap();
    assert!(engine.shape().jobs.is_empty() && engine.shape().debt.l0_files < 2);
    assert_eq!(contents(&*engine).unwrap(), found);
}

/// Lets the readers end, also when the writer fails.
struct StopOnDrop<'a>(&'a std::sync::atomic::AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn readers_never_see_a_key_go_back_while_everything_works() {
    use crate::base::clock::SystemClock;
    use std::sync::atomic::AtomicBool;
    const KEYS: u64 = 40;
    let disk = SimDisk::new();
    let options = Options { l0_slowdown: 10, ..Options::tiny(Kind::Lsm) };
    let engine = open(disk.clone(), Arc::new(SystemClock::new()), &options).unwrap();
    let worker = crate::engine::Worker::start(engine.clone(), 2).unwrap();
    let stop = AtomicBool::new(false);
    let number = |value: &[u8]| u64::from_be_bytes(value[..8].try_into().unwrap());
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for seed in 0..2 {
            let (engine, stop) = (&engine, &stop);
            scope.spawn(move || {
                let (mut prng, mut newest) = (Prng::new(seed), [0; KEYS as usize]);
                while !stop.load(Relaxed) {
                    let index = prng.below(KEYS);
                    let found = engine.get(&index.to_be_bytes(), Tier::Disk).unwrap();
                    let seen = found.map_or(0, |value| number(&value));
                    assert!(
                        seen >= newest[index as usize],
                        "key {index}: {seen} after {}",
                        newest[index as usize]
                    );
                    newest[index as usize] = seen;
                    if newest.contains(&0) {
                        continue;
                    }
                    let mut at = 0;
                    let mut visit = |key: &[u8], value: &[u8]| {
                        let index = u64::from_be_bytes(key.try_into().unwrap()) as usize;
                        assert!(index == at && number(value) >= newest[index], "key {index} at {at}");
                        newest[index] = number(value);
                        at += 1;
                        ControlFlow::Continue(())
                    };
                    engine.scan(KeyRange::ALL, Tier::Disk, &mut visit).unwrap();
                    assert_eq!(at, KEYS as usize);
                }
            });
        }
        for round in 1..=3000u64 {
            let mut batch = Batch::new(0);
            batch.put((round % KEYS).to_be_bytes().to_vec(), [&round.to_be_bytes()[..], &[7; 90]].concat());
            while let Err(error) = engine.apply(&batch, Tier::Disk) {
                assert!(matches!(error, Error::Busy { .. }), "{error}");
                let seen = engine.bell().seen(Class::Room);
                engine.bell().wait(Class::Room, seen, Duration::from_millis(1));
            }
            if round % 1000 == 0 {
                run(&*engine, Command::Compact).unwrap();
                run(&*engine, Command::Verify).unwrap();
            }
        }
    });
    worker.stop();
    engine.close().unwrap();
    assert_eq!(contents(&*open_tiny(disk).unwrap()).unwrap().len(), KEYS as usize);
}

/// A small store that was closed, and what it holds.
fn small_store(options: &Options) -> (Arc<SimDisk>, Model) {
    let disk = SimDisk::new();
    let engine = open_with(disk.clone(), options).unwrap();
    let mut model = Model::new();
    for number in 0..14u8 {
        let mut batch = Batch::new(0);
        batch.put(format!("key{number:02}").into_bytes(), vec![number; 40]);
        if number % 3 == 2 {
            batch.delete(format!("key{:02}", number - 1).into_bytes());
        }
        engine.apply(&batch, Tier::Disk).unwrap();
        apply_to(&mut model, &batch);
        if number == 6 {
            run(&*engine, Command::Compact).unwrap();
        }
    }
    engine.close().unwrap();
    (disk, model)
}

#[test]
fn a_flipped_bit_is_an_error_and_never_data() {
    let tiny = Options::tiny(Kind::Lsm);
    let compressed = Options { compression: Compression::Lz4, ..tiny.clone() };
    [tiny, compressed].iter().for_each(flip_every_byte);
}

fn flip_every_byte(options: &Options) {
    let (disk, model) = small_store(options);
    let mut opened = 0;
    for info in disk.list().unwrap() {
        let is_table = table_number(&info.name).is_some();
        if !is_table && info.name != manifest::NAME {
            continue;
        }
        for byte in 0..info.bytes {
            let damaged = disk.kill();
            assert!(damaged.flip_bit(&info.name, byte * 8 + byte * 5 % 8));
            let engine = match open_tiny(damaged) {
                Err(Error::Corrupt { .. }) => continue,
                Err(error) => panic!("{} byte {byte}: {error}", info.name),
                Ok(engine) => engine,
            };
            opened += 1;
            for (key, value) in &model {
                match engine.get(key, Tier::Disk) {
                    Ok(found) => assert_eq!(found.as_deref(), Some(&value[..]), "{} byte {byte}", info.name),
                    Err(Error::Corrupt { .. }) => assert!(is_table),
                    Err(error) => panic!("{error}"),
                }
            }
            match contents(&*engine) {
                Ok(found) => assert_eq!(found, model, "{} byte {byte}", info.name),
                Err(error) => assert!(matches!(error, Error::Corrupt { .. }), "{error}"),
            }
            let verified = run(&*engine, Command::Verify);
            assert_eq!(verified.is_err(), is_table, "{} byte {byte}: {verified:?}", info.name);
        }
    }
    assert!(opened > 0);
}

#[test]
fn a_flipped_bit_of_a_value_in_the_log_is_an_error_and_never_data() {
    let options = Options { value_log: true, value_threshold_bytes: 40, ..Options::tiny(Kind::Lsm) };
    let (disk, model) = small_store(&options);
    let mut refused = 0;
    for info in disk.list().unwrap().into_iter().filter(|info| wal::is_segment(&info.name)) {
        for byte in 0..info.bytes {
            let damaged = disk.kill();
            assert!(damaged.flip_bit(&info.name, byte * 8 + byte * 5 % 8));
            let engine = match open_with(damaged, &options) {
                Err(Error::Corrupt { .. }) => continue,
                Err(error) => panic!("{} byte {byte}: {error}", info.name),
                Ok(engine) => engine,
            };
            let mut is_damaged = false;
            for (key, value) in &model {
                match engine.get(key, Tier::Disk) {
                    Ok(found) => assert_eq!(found.as_deref(), Some(&value[..]), "{} byte {byte}", info.name),
                    Err(Error::Corrupt { .. }) => is_damaged = true,
                    Err(error) => panic!("{error}"),
                }
            }
            match contents(&*engine) {
                Ok(found) => assert_eq!(found, model, "{} byte {byte}", info.name),
                Err(error) => assert!(matches!(error, Error::Corrupt { .. }) && is_damaged, "{error}"),
            }
            assert_eq!(run(&*engine, Command::Verify).is_err(), is_damaged, "{} byte {byte}", info.name);
            refused += usize::from(is_damaged);
        }
    }
    assert_eq!(refused, model.values().map(Vec::len).sum::<usize>(), "every byte of every value counts");
    // A segment that is gone is noticed at once.
    let damaged = disk.kill();
    damaged.remove("log.0").unwrap();
    assert!(matches!(open_with(damaged, &options), Err(Error::Corrupt { .. })));
}

#[test]
fn a_released_segment_with_needed_values_is_never_used_again() {
    let options = Options { value_log: true, value_gc_percent: 0, ..Options::tiny(Kind::Lsm) };
    let disk = SimDisk::new();
    let mut engine = open_with(disk.clone(), &options).unwrap();
    let put = |engine: &LsmEngine, key: &str, byte: u8| {
        let mut batch = Batch::new(0);
        batch.put(key.as_bytes().to_vec(), vec![byte; 500]);
        apply_patiently(engine, &batch).unwrap();
    };
    put(&engine, "needed", 1);
    run(&*engine, Command::Flush).unwrap();
    for round in 0..200u8 {
        put(&engine, "other", round);
        if round % 7 == 0 {
            run(&*engine, Command::Compact).unwrap();
        }
        if round % 50 == 49 {
            engine = open_with(disk.crash(u64::from(round)), &options).unwrap_or(engine);
        }
    }
    settle(&*engine).unwrap();
    assert_eq!(engine.get(b"needed", Tier::Disk).unwrap().unwrap(), vec![1; 500]);
    run(&*engine, Command::Verify).unwrap();
    check_space(&engine, &disk);
}

#[test]
fn moving_values_of_one_table_in_l0_undoes_no_delete() {
    let options = Options {
        value_log: true,
        value_threshold_bytes: 200,
        value_gc_percent: 90,
        memtable_bytes: 1 << 20,
        l0_trigger: 9,
        l0_slowdown: 10,
        ..Options::tiny(Kind::Lsm)
    };
    let engine = open_with(SimDisk::new(), &options).unwrap();
    let put = |key: &str, bytes: usize| {
        let mut batch = Batch::new(0);
        batch.put(key.to_string(), vec![7; bytes]);
        engine.apply(&batch, Tier::Disk).unwrap();
    };
    put("deleted", 10);
    run(&*engine, Command::Flush).unwrap();
    let mut batch = Batch::new(0);
    batch.delete("deleted");
    engine.apply(&batch, Tier::Disk).unwrap();
    // One value in a segment of other things: most of the segment is garbage as soon as it is flushed.
    put("value", 300);
    (0..100).for_each(|number| put(&format!("small{number}"), 100));
    run(&*engine, Command::Flush).unwrap();
    settle(&*engine).unwrap();
    let shape = engine.shape();
    assert!(shape.value_log.moved_bytes > 0 && shape.levels[0].files >= 2, "{shape:?}");
    assert_eq!(engine.get(b"deleted", Tier::Disk).unwrap(), None, "a delete was undone");
    assert_eq!(engine.get(b"value", Tier::Disk).unwrap().unwrap(), vec![7; 300]);
    // The log ends with moved values now, behind the last batch. No flush ever comes to them, so none may wait for them.
    for command in [Command::Flush, Command::Compact] {
        let (sender, receiver) = mpsc::channel();
        engine.run(command, Box::new(move |result| sender.send(result).unwrap()));
        (0..100).for_each(|_| settle(&*engine).unwrap());
        assert!(receiver.try_recv().is_ok_and(|result| result.is_ok()), "{command:?} waits for ever");
    }
}

#[test]
fn neighbours_in_the_log_are_read_together_by_a_scan() {
    let options = Options {
        value_log: true,
        log_segment_bytes: 1 << 20,
        memtable_bytes: 1 << 20,
        cache_bytes: 0,
        ..Options::tiny(Kind::Lsm)
    };
    let sim = SimDisk::new();
    let disk = Metered::new(sim);
    let engine = open_with(disk.clone(), &options).unwrap();
    for number in 0..64u8 {
        let mut batch = Batch::new(0);
        batch.put(vec![b'k', number], vec![number; 4096]);
        engine.apply(&batch, Tier::Disk).unwrap();
    }
    run(&*engine, Command::Flush).unwrap();
    let before = disk.snapshot().of(Purpose::Scan);
    assert_eq!(contents(&*engine).unwrap().len(), 64);
    let scan = disk.snapshot().of(Purpose::Scan).since(&before);
    assert!(scan.reads <= 12 && scan.read_bytes < 64 * 4096 * 11 / 10, "{scan:?}");
}

#[test]
fn a_missing_file_is_noticed() {
    let (disk, _) = small_store(&Options::tiny(Kind::Lsm));
    for info in disk.list().unwrap() {
        if table_number(&info.name).is_some() || info.name == manifest::NAME {
            let damaged = disk.kill();
            damaged.remove(&info.name).unwrap();
            assert!(matches!(open_tiny(damaged), Err(Error::Corrupt { .. })), "{}", info.name);
        }
    }
}

#[test]
fn a_reader_keeps_its_files_until_it_is_done() {
    let disk = SimDisk::new();
    let engine = open_tiny(disk.clone()).unwrap();
    let (mut prng, mut model) = (Prng::new(7), Model::new());
    for number in 1..=200 {
        let batch = random_batch(&mut prng, number);
        apply_patiently(&*engine, &batch).unwrap();
        apply_to(&mut model, &batch);
    }
    let mut seen = 0;
    engine
        .scan(KeyRange::ALL, Tier::Disk, &mut |key, value| {
            if seen == 0 {
                run(&*engine, Command::Compact).unwrap();
                settle(&*engine).unwrap();
                assert!(engine.shape().obsolete_bytes > 0);
            }
            assert_eq!(model.get(key).map(|value| &value[..]), Some(value));
            seen += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(seen, model.len());
    settle(&*engine).unwrap();
    assert_eq!(engine.shape().obsolete_bytes, 0);
}

#[test]
fn commands_end_once_even_when_they_cannot_be_done() {
    let sim = SimDisk::new();
    let faulty = Faulty::new(sim.clone());
    let engine = open_tiny(faulty.clone()).unwrap();
    let mut batch = Batch::new(0);
    batch.put(&b"k"[..], &b"v"[..]);
    engine.apply(&batch, Tier::Disk).unwrap();
    let (sender, receiver) = mpsc::channel();
    for command in [Command::Flush, Command::Compact, Command::Verify] {
        let sender = sender.clone();
        engine.run(command, Box::new(move |result| sender.send((command, result.is_ok())).unwrap()));
    }
    faulty.inject(Fault::Fail { kind: None, purpose: Some(Purpose::Flush), nth: 0, errno: libc::EIO });
    assert!(engine.work(Class::Flush).is_err());
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [(Command::Flush, false), (Command::Compact, false)]);
    settle(&*engine).unwrap();
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [(Command::Verify, true)]);
    assert_eq!(engine.get(b"k", Tier::Disk).unwrap().as_deref(), Some(&b"v"[..]));
    assert_eq!(sim.list().unwrap().iter().filter(|info| table_number(&info.name).is_some()).count(), 1);
}

#[test]
fn tables_and_manifests_have_the_bytes_that_the_format_draws() {
    let (disk, _) = {
        let disk = SimDisk::new();
        let engine = open_tiny(disk.clone()).unwrap();
        for (key, value) in [("apple", Some("red")), ("apricot", None), ("banana", Some(""))] {
            let mut batch = Batch::new(0);
            match value {
                Some(value) => batch.put(key.as_bytes(), value.as_bytes()),
                None => batch.delete(key.as_bytes()),
            }
            engine.apply(&batch, Tier::Disk).unwrap();
        }
        engine.close().unwrap();
        (disk, engine)
    };
    let hex = |name: &str| {
        let file = disk.open(name).unwrap();
        let bytes = crate::disk::read_all(&*file, Purpose::Verify).unwrap();
        let lines =
            bytes.chunks(32).map(|line| line.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        lines.collect::<Vec<_>>().join("\n")
    };
    assert_eq!(hex("table.0"), GOLDEN_TABLE);
    assert_eq!(hex(manifest::NAME), GOLDEN_MANIFEST);
}

const GOLDEN_TABLE: &str = "\
ca5b705324000000010005076170706c657265640205007269636f7400060162
616e616e6100000000010000008ebb4fcf410000000206000040000000040000
0000010020000000080200000300000002000000000000440014000000408000
01000000000000000000001000000000000400000000004953e66a0400000003
0100002d34358d0b06000000070100002d4a0dfacacad4250000000404000301
15006e8094ebdc038094ebdc03056170706c650662616e616e61002d2d4a1c84
012e0000006b7666732e74626c";
const GOLDEN_MANIFEST: &str = "\
66bdd32b13000000016b766673206c736d206d616e696665737403019fe3b1d7
040000000203000400791c7bef2a000000020100cd0100030115006e8094ebdc
038094ebdc03056170706c650662616e616e61002d2d4a1c036e0401";

/// `cargo test --release --lib lsm::tests::speed -- --ignored --nocapture`
#[test]
#[ignore = "a benchmark: 256 MiB on the disk of the target directory"]
fn speed() {
    use crate::base::clock::SystemClock;
    use crate::disk::{Access, OsDisk};
    use crate::engine::Worker;
    const VALUES: u64 = 65_536;
    let home = tempfile::tempdir_in(concat!(env!("CARGO_MANIFEST_DIR"), "/target")).unwrap();
    let disk = Metered::new(OsDisk::open(home.path(), Access::Write).unwrap());
    let clock = Arc::new(SystemClock::new());
    let engine = open(disk.clone(), clock.clone(), &Options::default()).unwrap();
    let worker = Worker::start(engine.clone(), 1).unwrap();
    let mut prng = Prng::new(1);
    let block: Vec<u8> = (0..8192).map(|_| prng.bits() as u8).collect();
    let key = |index: u64| [&b"b"[..], &7u64.to_be_bytes(), &index.to_be_bytes()].concat();
    let report = |what: &str, count: u64, since: Duration, bytes: u64| {
        let seconds = (clock.elapsed() - since).as_secs_f64();
        let rate = count as f64 / seconds;
        println!("{what:<14} {rate:>9.0} a second, {:>6.0} MB/s", bytes as f64 / seconds / 1e6);
    };
    for (what, is_random) in [("fillseq", false), ("overwrite", true)] {
        let since = clock.elapsed();
        for index in 0..VALUES / 8 {
            let mut batch = Batch::new(0);
            for part in 0..8 {
                let at = if is_random { prng.below(VALUES) } else { index * 8 + part };
                let from = prng.below(4096) as usize;
                batch.put(key(at), Bytes::copy_from_slice(&block[from..from + 4096]));
            }
            while let Err(error) = engine.apply(&batch, Tier::Disk) {
                assert!(matches!(error, Error::Busy { .. }), "{error}");
                let seen = engine.bell().seen(Class::Room);
                engine.bell().wait(Class::Room, seen, Duration::from_millis(1));
            }
        }
        report(what, VALUES, since, VALUES * 4096);
        sync(&*engine).unwrap();
        report("  with sync", VALUES, since, VALUES * 4096);
        run(&*engine, Command::Flush).unwrap();
        while engine.shape().debt.pending_compaction_bytes > 0 || !engine.shape().jobs.is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        report("  settled", VALUES, since, VALUES * 4096);
        let total = disk.snapshot().total();
        println!(
            "  written in all {} MiB; stalls {:?}",
            total.write_bytes >> 20,
            engine.shape().stalls.by_cause
        );
    }
    for (what, miss) in [("get", false), ("get warm", false), ("get missing", true)] {
        let since = clock.elapsed();
        for _ in 0..VALUES {
            let mut key = key(prng.below(VALUES));
            if miss {
                key.push(1);
            }
            assert_eq!(engine.get(&key, Tier::Disk).unwrap().is_some(), !miss);
        }
        report(what, VALUES, since, VALUES * 4096);
    }
    let since = clock.elapsed();
    for _ in 0..4096 {
        let at = prng.below(VALUES - 32);
        let (start, end, mut count) = (key(at), key(at + 32), 0);
        let range = KeyRange { start: &start, end: Some(&end) };
        engine
            .scan(range, Tier::Disk, &mut |_, _| {
                count += 1;
                ControlFlow::Continue(())
            })
            .unwrap();
        assert_eq!(count, 32);
    }
    report("scan 32", 4096, since, 4096 * 32 * 4096);
    worker.stop();
    engine.close().unwrap();
}

/// `cargo test --release --lib lsm::tests::values_written_once -- --ignored --nocapture`
#[test]
#[ignore = "a benchmark: 512 MiB on the disk of the target directory, twice"]
fn values_written_once() {
    use crate::base::clock::SystemClock;
    use crate::disk::{Access, OsDisk};
    use crate::engine::Worker;
    const WRITES: u64 = 512;
    const BLOCK_BYTES: usize = 4096;
    let mut prng = Prng::new(1);
    let content = Bytes::from((0..1 << 20).map(|_| prng.bits() as u8).collect::<Vec<u8>>());
    for value_log in [false, true] {
        let home = tempfile::tempdir_in(concat!(env!("CARGO_MANIFEST_DIR"), "/target")).unwrap();
        let disk = Metered::new(OsDisk::open(home.path(), Access::Write).unwrap());
        let clock = Arc::new(SystemClock::new());
        let options = Options { value_log, ..Options::default() };
        let engine = open(disk.clone(), clock.clone(), &options).unwrap();
        let worker = Worker::start(engine.clone(), 1).unwrap();
        let key = |index: u64| [&b"b"[..], &7u64.to_be_bytes(), &index.to_be_bytes()].concat();
        let blocks = ((1 << 20) / BLOCK_BYTES) as u64;
        let since = clock.elapsed();
        for write in 0..WRITES {
            let mut batch = Batch::new(0);
            for block in 0..blocks {
                let from = block as usize * BLOCK_BYTES;
                batch.put(key(write * blocks + block), content.slice(from..from + BLOCK_BYTES));
            }
            while let Err(error) = engine.apply(&batch, Tier::Disk) {
                assert!(matches!(error, Error::Busy { .. }), "{error}");
                let seen = engine.bell().seen(Class::Room);
                engine.bell().wait(Class::Room, seen, Duration::from_millis(1));
            }
        }
        run(&*engine, Command::Flush).unwrap();
        sync(&*engine).unwrap();
        let seconds = (clock.elapsed() - since).as_secs_f64();
        while engine.shape().debt.pending_compaction_bytes > 0 || !engine.shape().jobs.is_empty() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let settled = (clock.elapsed() - since).as_secs_f64();
        let written = disk.snapshot().total().write_bytes as f64 / (WRITES << 20) as f64;
        let before = (clock.elapsed(), disk.snapshot().of(Purpose::Scan));
        let mut count = 0;
        let range = KeyRange { start: b"b", end: None };
        engine
            .scan(range, Tier::Disk, &mut |_, value| {
                count += value.len();
                ControlFlow::Continue(())
            })
            .unwrap();
        let scan = disk.snapshot().of(Purpose::Scan).since(&before.1);
        println!(
            "value_log={value_log}: {written:.3} bytes at the disk a byte, {:.0} MB/s synced, {:.0} MB/s settled, \
             scan {:.0} MB/s in {} requests",
            (WRITES << 20) as f64 / 1e6 / seconds,
            (WRITES << 20) as f64 / 1e6 / settled,
            count as f64 / 1e6 / (clock.elapsed() - before.0).as_secs_f64(),
            scan.reads,
        );
        assert_eq!(count as u64, WRITES << 20);
        assert!(!value_log || written <= 1.1);
        worker.stop();
        engine.close().unwrap();
    }
}
