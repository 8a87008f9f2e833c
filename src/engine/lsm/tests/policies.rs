//! Policies on a store: the shapes that they leave, changes between them, commands and switches.

use super::*;
use crate::engine::lsm::compaction::Choice;

/// The shape that a policy leaves once all is quiet: it wants nothing more, and what some of them promise holds.
fn check_shape(engine: &LsmEngine, options: &Options, policy: PolicyKind) {
    let picture = engine.levels.versions.picture(&engine.superversion().version);
    let choice =
        engine.levels.core.mutable_options.policy().choose(&picture, &engine.levels.versions.cursors());
    assert_eq!(choice, Choice::Nothing, "{policy:?}");
    let levels = engine.shape().levels;
    if policy == PolicyKind::LEVELED {
        assert!(levels[0].files < options.l0_trigger);
        assert!(levels[1..6].iter().all(|level| level.bytes <= level.target_bytes), "{levels:?}");
    }
    if policy == PolicyKind::EAGER {
        assert!(levels.iter().map(|level| level.runs).sum::<u64>() <= 1, "{levels:?}");
    }
    if policy == PolicyKind::TIERED {
        assert!(levels.iter().all(|level| level.score < 1.0), "{levels:?}");
    }
}

#[test]
fn a_store_that_changes_its_policy_loses_nothing_and_takes_on_the_new_shape() {
    let options = Options { policies: merging_early(false), ..Options::tiny() };
    for seed in 0..4 {
        let engine = open_with(SimDisk::new(), &options).unwrap();
        let (mut prng, mut model) = (Prng::new(seed), Model::new());
        for round in 0..40 {
            let policy = any_policy(&mut prng);
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
        assert!(engine.set("policy", "sideways").is_err());
        engine.set("policy", "none").unwrap();
        assert_eq!(engine.shape().variant, "log");
    }
}

#[test]
fn the_limits_of_l0_count_only_while_merges_would_lower_it() {
    let options = Options { policy: PolicyKind::LOG, ..Options::tiny() };
    let engine = open_with(SimDisk::new(), &options).unwrap();
    let fill = |count: u64| {
        for number in 0..count {
            let mut batch = Batch::new(0);
            batch.put(number.to_be_bytes().to_vec(), vec![1; 500]);
            engine.apply(&batch, Tier::Disk).unwrap();
            engine.work(WorkClass::Flush).unwrap();
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
        // What was there before counts for nobody, what comes on top does.
        let mut batch = Batch::new(0);
        batch.put(&b"k"[..], vec![1; 500]);
        let is_taken = (0..200).all(|_| {
            let result = engine.apply(&batch, Tier::Disk);
            engine.work(WorkClass::Flush).unwrap();
            result.is_ok()
        });
        assert_eq!(is_taken, wanted.is_some(), "{setting}={value}");
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
    let options = Options { memtable_entries: 8, ..Options::tiny() };
    let engine = open_with(SimDisk::new(), &options).unwrap();
    let put = |number: u64, bytes: usize| {
        let mut batch = Batch::new(0);
        batch.put(number.to_be_bytes().to_vec(), vec![1; bytes]);
        engine.apply(&batch, Tier::Disk).unwrap();
        engine.work(WorkClass::Flush).unwrap();
    };
    engine.set("auto_compact", "off").unwrap();
    engine.set("auto_flush", "off").unwrap();
    (0..15).for_each(|number| put(number, 1));
    assert_eq!(engine.shape().levels[0].files, 0);
    engine.set("auto_flush", "on").unwrap();
    engine.work(WorkClass::Flush).unwrap();
    assert_eq!(engine.shape().levels[0].files, 1);
    engine.set("auto_flush", "off").unwrap();
    (0..100).for_each(|number| put(number, 100));
    let shape = engine.shape();
    assert!(
        shape.levels[0].files > 1
            && shape.memory.memtable_bytes.unwrap() <= shape.memory.memtable_bytes_max.unwrap()
    );
}

/// Windows of a hundred seconds, dropped after a time to live if there is one.
fn in_windows(ttl: Option<Duration>) -> PolicyOptions {
    let mut policies = PolicyOptions::default();
    (policies.time_window.window, policies.time_window.ttl) = (Duration::from_secs(100), ttl);
    policies
}

#[test]
fn only_the_oldest_run_expires() {
    let clock = Arc::new(ManualClock::default());
    let options = Options {
        policy: PolicyKind::TIME_WINDOW,
        policies: in_windows(Some(Duration::from_secs(350))),
        ..Options::tiny()
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
    window(150..250);
    assert_eq!(engine.shape().levels[0].files, 3, "a table for each window");
    let oldest = engine.tables().iter().min_by_key(|table| table.number).unwrap().bytes;
    clock.advance(Duration::from_secs(100));
    settle(&*engine).unwrap();
    let shape = engine.shape();
    assert_eq!(shape.debt.dropped_bytes, oldest);
    assert_eq!(shape.levels[0].files, 2);
    assert_eq!(engine.get(&50u64.to_be_bytes(), Tier::Disk).unwrap(), None, "expired");
    assert!(engine.get(&150u64.to_be_bytes(), Tier::Disk).unwrap().is_some());
    assert_eq!(engine.levels.core.event_log.events().iter().filter(|event| event.name == "drop").count(), 1);
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
    assert_eq!((shape.debt.tombstones, shape.debt.dirty_bytes), (0, Some(0)));
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
    assert!(disk.list().unwrap().iter().all(|info| TableNumber::of_file(&info.name).is_none()));
    assert_eq!(contents(&*engine).unwrap(), Model::new());
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
    assert!(engine.work(WorkClass::Flush).is_err());
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [(Command::Flush, false), (Command::Compact, false)]);
    settle(&*engine).unwrap();
    assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [(Command::Verify, true)]);
    assert_eq!(engine.get(b"k", Tier::Disk).unwrap().as_deref(), Some(&b"v"[..]));
    assert_eq!(
        sim.list().unwrap().iter().filter(|info| TableNumber::of_file(&info.name).is_some()).count(),
        1
    );
}

#[test]
fn a_flush_asks_no_older_window() {
    let clock = Arc::new(ManualClock::default());
    let options = Options {
        policy: PolicyKind::TIME_WINDOW,
        policies: in_windows(None),
        part_blocks: 1,
        common: Common {
            // Filters and indexes of several partitions are read when they are needed.
            cache_bytes: 0,
            ..Common::tiny()
        },
        ..Options::tiny()
    };
    let disk = Metered::new(SimDisk::new());
    let engine = open(disk.clone() as Arc<dyn Disk>, clock.clone(), &options).unwrap();
    for _ in 0..20 {
        for number in 0..30u64 {
            let mut batch = Batch::new(0);
            batch.put(number.to_be_bytes().to_vec(), vec![1; 60]);
            apply_patiently(&*engine, &batch).unwrap();
        }
        run(&*engine, Command::Flush).unwrap();
        clock.advance(Duration::from_secs(100));
        settle(&*engine).unwrap();
    }
    let before = disk.snapshot();
    let mut batch = Batch::new(0);
    (0..30u64).for_each(|number| batch.put(number.to_be_bytes().to_vec(), vec![1; 10]));
    engine.apply(&batch, Tier::Disk).unwrap();
    run(&*engine, Command::Flush).unwrap();
    let flush = disk.snapshot().since(&before);
    assert!(flush.of(Purpose::Flush).writes > 0);
    assert_eq!(flush.total().reads, 0, "one table for each of 20 windows, and none is asked");
}
