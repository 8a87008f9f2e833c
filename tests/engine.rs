//! Every engine, under every option set, is the same map: one list of operations, equal answers. And under threads, nobody
//! sees time go back. `SEED=7 cargo test --test engine` adds a seed of your own.

#[path = "support/engines.rs"]
mod engines;
#[macro_use]
#[path = "support/hand_on.rs"]
mod hand_on;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use engines::{Step, apply, change_variant, contents, open, range, setups, side_by_side, steps, tiny};
use kvfs::base::clock::SystemClock;
use kvfs::disk::{Disk, Metered, SimDisk};
use kvfs::engine::{
    self, Batch, Command, Engine, Error, KeyRange, Kind, MemEngine, Options, Tier, WorkClass, Worker,
};
use proptest::prelude::*;

/// Runs the steps and writes down every answer.
fn transcript(name: &str, steps: &[Step], options: &Options) -> Vec<String> {
    let sim = SimDisk::new();
    let metered = Metered::new(sim.clone());
    let mut engine = open(metered.clone(), options).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut answers = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        let fail = |error: Error| -> ! { panic!("{name}, step {index} {step:?}: {error}") };
        match step {
            Step::Apply(batch) => {
                apply(&*engine, batch).unwrap_or_else(|error| fail(error));
            }
            Step::Get(key) => {
                answers.push(format!("{:?}", engine.get(key, Tier::Disk).unwrap_or_else(|error| fail(error))))
            }
            Step::Scan(start, end, limit) => {
                let keys = KeyRange { start, end: end.as_deref() };
                answers
                    .push(format!("{:?}", range(&*engine, keys, *limit).unwrap_or_else(|error| fail(error))));
            }
            Step::Sync => engine::sync(&*engine).unwrap_or_else(|error| fail(error)),
            Step::Work(class) => {
                engine.work(*class).unwrap_or_else(|error| fail(error));
            }
            Step::Run(command) => engine::run(&*engine, *command).unwrap_or_else(|error| fail(error)),
            Step::Variant(nth) => {
                change_variant(&*engine, options.kind(), *nth).unwrap_or_else(|error| fail(error));
            }
            // The model keeps nothing, so it only pretends.
            Step::Reopen if options.kind() == Kind::MEM => {}
            Step::Reopen => {
                engine.close().unwrap_or_else(|error| fail(error));
                drop(engine);
                engine = open(metered.clone(), options).unwrap_or_else(|error| fail(error));
            }
        }
    }
    answers.push(format!("{:?}", contents(&*engine).unwrap()));
    engine::run(&*engine, Command::Verify).unwrap_or_else(|error| panic!("{name}: verify: {error}"));
    let (total, witness) = (metered.snapshot().total(), sim.witness());
    assert_eq!(
        (total.writes, total.write_bytes, total.reads, total.read_bytes, total.syncs),
        (witness.writes, witness.write_bytes, witness.reads, witness.read_bytes, witness.syncs),
        "{name}: the meter is the witness"
    );
    answers
}

fn all_agree(steps: &[Step]) {
    let wanted = transcript("model", steps, &Kind::MEM.default_options());
    for (name, options) in setups() {
        let found = transcript(&name, steps, &options);
        for (index, (found, wanted)) in found.iter().zip(&wanted).enumerate() {
            assert_eq!(found, wanted, "{name}: answer {index}");
        }
    }
}

#[test]
fn every_engine_and_option_set_gives_the_same_answers() {
    let own = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seeds = (1..=6).chain(own).map(|seed| (format!("seed {seed}"), seed));
    side_by_side(seeds.collect(), |_, seed| all_agree(&steps(seed, 600)));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    // A failing list is cut to the steps that matter.
    #[test]
    fn no_list_of_operations_tells_engines_apart(seed in any::<u64>(), keep in prop::collection::vec(any::<bool>(), 150)) {
        let steps: Vec<Step> = steps(seed, 150).into_iter().zip(keep).filter(|(_, keep)| *keep).map(|(step, _)| step).collect();
        all_agree(&steps);
    }
}

/// A writer counts each of its keys up, two keys of a batch always together, while readers, scans and background threads run.
fn nobody_sees_time_go_back(kind: Kind) {
    const PAIRS: u64 = 50;
    let options = tiny(kind, "memtable=32K,dirty_max=512K");
    let engine = engine::open(SimDisk::new(), Arc::new(SystemClock::new()), &options).unwrap();
    let worker = Worker::start(engine.clone()).unwrap();
    let stop = AtomicBool::new(false);
    let acknowledged: Vec<AtomicU64> = (0..PAIRS).map(|_| AtomicU64::new(0)).collect();
    let version = |value: &[u8]| u64::from_le_bytes(value[..8].try_into().unwrap());
    let keys = |pair: u64| (format!("a{pair:04}"), format!("b{pair:04}"));
    let writes = std::thread::scope(|scope| {
        for reader in 0..2u64 {
            let (engine, stop, acknowledged) = (&engine, &stop, &acknowledged);
            scope.spawn(move || {
                let mut seen = vec![0u64; PAIRS as usize];
                let mut round = reader;
                while !stop.load(Ordering::Relaxed) {
                    round += 1;
                    let pair = round * 7 % PAIRS;
                    let floor = acknowledged[pair as usize].load(Ordering::Acquire);
                    if let Some(value) = engine.get(keys(pair).0.as_bytes(), Tier::Disk).unwrap() {
                        assert!(version(&value) >= seen[pair as usize].max(floor), "pair {pair} went back");
                        seen[pair as usize] = version(&value);
                    } else {
                        assert_eq!(floor, 0, "pair {pair} is gone");
                    }
                    if round.is_multiple_of(20) {
                        let mut last = Vec::new();
                        let range = KeyRange { start: b"a", end: Some(b"b") };
                        let mut visit = |key: &[u8], value: &[u8]| {
                            assert!(last < key.to_vec(), "keys ascend");
                            last = key.to_vec();
                            let pair: usize = std::str::from_utf8(&key[1..]).unwrap().parse().unwrap();
                            assert!(version(value) >= seen[pair], "scan: pair {pair} went back");
                            ControlFlow::Continue(())
                        };
                        engine.scan(range, Tier::Disk, &mut visit).unwrap();
                    }
                }
            });
        }
        let begun = Instant::now();
        let mut writes = 0u64;
        while begun.elapsed() < Duration::from_millis(1500) {
            writes += 1;
            let pair = writes * 31 % PAIRS;
            let mut value = writes.to_le_bytes().to_vec();
            value.resize(8 + (writes % 700) as usize, 1);
            let mut batch = Batch::new(0);
            let (a, b) = keys(pair);
            batch.put(a, value.clone());
            batch.put(b, value);
            loop {
                match engine.apply(&batch, Tier::Disk) {
                    Ok(_) => break,
                    Err(Error::Busy { retry_after, .. }) => {
                        let wake_signal = engine.wake_signal();
                        wake_signal.wait(
                            WorkClass::Room,
                            wake_signal.seen(WorkClass::Room),
                            retry_after.min(Duration::from_millis(5)),
                        );
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            acknowledged[pair as usize].store(writes, Ordering::Release);
        }
        stop.store(true, Ordering::Relaxed);
        writes
    });
    worker.stop();
    for pair in 0..PAIRS {
        let (a, b) = keys(pair);
        assert_eq!(
            engine.get(a.as_bytes(), Tier::Disk).unwrap(),
            engine.get(b.as_bytes(), Tier::Disk).unwrap()
        );
    }
    engine::run(&*engine, Command::Verify).unwrap();
    println!("{kind}: {writes} batches");
    assert!(writes > 100, "only {writes} batches got in");
}

#[test]
fn nobody_sees_time_go_back_lsm() {
    nobody_sees_time_go_back(Kind::LSM);
}

#[test]
fn nobody_sees_time_go_back_btree() {
    nobody_sees_time_go_back(Kind::BTREE);
}

#[test]
fn nobody_sees_time_go_back_hybrid() {
    nobody_sees_time_go_back(Kind::HYBRID);
}

#[test]
fn the_model_is_a_map() {
    let engine = MemEngine::new();
    let mut batch = Batch::new(0);
    batch.put(&b"a"[..], &b"1"[..]);
    batch.put(&b"b"[..], &b"2"[..]);
    batch.delete(&b"a"[..]);
    engine.apply(&batch, Tier::Memory).unwrap();
    assert_eq!(engine.contents(), [(Bytes::from("b"), Bytes::from("2"))]);
}

#[test]
fn a_store_in_a_real_directory_opens_again() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for kind in [Kind::LSM, Kind::BTREE, Kind::HYBRID] {
        let path = home.path().join(kind.to_string());
        let os = kvfs::disk::OsDisk::open(&path, kvfs::disk::Access::Write).unwrap();
        let disk: Arc<dyn Disk> = os;
        let options = kind.default_options();
        let engine = engine::open(disk.clone(), Arc::new(SystemClock::new()), &options).unwrap();
        let mut batch = Batch::new(0);
        batch.put(&b"key"[..], vec![1; 100_000]);
        engine.apply(&batch, Tier::Disk).unwrap();
        engine.close().unwrap();
        drop(engine);
        let engine = engine::open(disk, Arc::new(SystemClock::new()), &options).unwrap();
        assert_eq!(engine.get(b"key", Tier::Disk).unwrap().unwrap().len(), 100_000);
        engine.close().unwrap();
    }
}

/// What an adapter over somebody else's engine must have, and nothing else.
struct Bare(MemEngine);

impl Engine for Bare {
    hand_on!(Engine 0: kind, get, scan, apply, lsn, sync_to, promise, close);
}

#[test]
fn an_engine_of_nothing_but_data_is_served_by_what_every_door_says_without_it() {
    let engine: Arc<dyn Engine> = Arc::new(Bare(MemEngine::new()));
    let worker = Worker::start(engine.clone()).unwrap();
    let mut batch = Batch::new(0);
    batch.put(&b"key"[..], &b"value"[..]);
    engine.apply(&batch, Tier::Memory).unwrap();
    engine::sync(&*engine).unwrap();
    engine::settle(&*engine).unwrap();
    for command in [Command::Flush, Command::Compact, Command::Checkpoint, Command::Verify] {
        engine::run(&*engine, command).unwrap();
    }
    assert!(matches!(engine.set("policy", "tiered"), Err(Error::Invalid(text)) if text.contains("policy")));
    assert!(matches!(engine.snapshot(), Err(Error::Invalid(text)) if text.contains("snapshot")));
    assert_eq!(
        (engine.shape().engine, engine.tables().len(), engine.event_log().is_none()),
        ("mem", 0, true)
    );
    assert!(engine.explain(b"key", Tier::Disk).unwrap().is_empty());
    engine.wake_signal().notify(WorkClass::Merge);
    worker.stop();
    assert_eq!(engine.get(b"key", Tier::Memory).unwrap().as_deref(), Some(&b"value"[..]));
    engine.close().unwrap();
}

/// Where an engine holds snapshots, one shows what was there when it was taken, whatever is written, flushed and merged after it.
#[test]
fn a_snapshot_stays_as_it_was() {
    let mut held = Vec::new();
    for (name, options) in setups().into_iter().chain([("mem".to_string(), Kind::MEM.default_options())]) {
        let engine = open(SimDisk::new(), &options).unwrap();
        let mut taken = Vec::new();
        for (index, step) in steps(11, 400).iter().enumerate() {
            match step {
                Step::Apply(batch) => drop(apply(&*engine, batch).unwrap()),
                Step::Work(class) => drop(engine.work(*class).unwrap()),
                Step::Run(command) => engine::run(&*engine, *command).unwrap(),
                _ => {}
            }
            if index % 90 == 50 {
                match engine.snapshot() {
                    Ok(snapshot) => taken.push((snapshot, contents(&*engine).unwrap())),
                    Err(error) => assert!(matches!(error, Error::Invalid(_)), "{name}: {error}"),
                }
            }
        }
        engine::run(&*engine, Command::Compact).unwrap();
        for (snapshot, wanted) in &taken {
            let mut found = Vec::new();
            let visit = &mut |key: &[u8], value: &[u8]| {
                found.push((Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)));
                std::ops::ControlFlow::Continue(())
            };
            snapshot.scan(KeyRange::ALL, Tier::Disk, visit).unwrap();
            assert_eq!(&found, wanted, "{name}");
            assert!(snapshot.lsn() < engine.lsn(), "{name}");
            for (key, value) in wanted {
                assert_eq!(snapshot.get(key, Tier::Disk).unwrap().as_ref(), Some(value), "{name}");
            }
            // Whichever engine takes it over.
            let copy = MemEngine::new();
            engine::transfer(&**snapshot, &copy).unwrap();
            assert_eq!(&contents(&copy).unwrap(), wanted, "{name}");
            let forked = snapshot.fork(&(SimDisk::new() as Arc<dyn Disk>));
            if options.kind() == Kind::LSM {
                forked.unwrap_or_else(|error| panic!("{name}: {error}"));
            } else {
                assert!(matches!(forked, Err(Error::Invalid(_))), "{name}");
            }
            let mut sizes = Vec::new();
            engine::image(&**snapshot, &mut |key, value| sizes.push((key, value))).unwrap();
            assert!(
                sizes.iter().copied().eq(wanted.iter().map(|(key, value)| (key.len(), value.len()))),
                "{name}"
            );
        }
        if !taken.is_empty() {
            held.push(options.kind());
        }
    }
    assert!(held.contains(&Kind::MEM) && held.contains(&Kind::LSM), "{held:?}");
}
