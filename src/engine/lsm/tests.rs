use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::mpsc;
use std::time::Duration;

use super::*;
use crate::base::clock::ManualClock;
use crate::base::prng::Prng;
use crate::disk::{Fault, Faulty, Latch, Metered, SimDisk};
use crate::engine::{Cause, Kind, run, settle, sync};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// Every batch puts its number here, so that a recovered store says how long its history is.
const COUNTER: &[u8] = b"a counter";

fn open_tiny(disk: Arc<dyn Disk>) -> Result<Arc<LsmEngine>> {
    open(disk, Arc::new(ManualClock::default()), &Options::tiny(Kind::Lsm))
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
fn workload(disk: Arc<dyn Disk>, seed: u64, batches: u64, is_stubborn: bool) -> History {
    let mut prng = Prng::new(seed);
    let mut history = History::default();
    let Ok(mut engine) = open_tiny(disk.clone()) else { return history };
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
            20 => engine.close().and_then(|()| open_tiny(disk.clone())).map(|opened| engine = opened),
            21 => open_tiny(disk.clone()).map(|opened| engine = opened),
            _ => Ok(()),
        });
        if result.is_err() && !is_stubborn {
            break;
        }
        if matches!(result, Err(Error::Poisoned(_))) {
            break;
        }
    }
    history
}

#[test]
fn it_behaves_as_a_map_through_flushes_merges_and_reopening() {
    for seed in 0..6 {
        let disk = SimDisk::new();
        let mut engine = open_tiny(disk.clone()).unwrap();
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
                21 => engine = open_tiny(disk.clone()).unwrap(),
                22 => {
                    engine.close().unwrap();
                    engine = open_tiny(disk.clone()).unwrap();
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
        assert!(deepest >= 2, "the workload reached only L{deepest}");
    }
}

#[test]
fn a_crash_at_any_request_leaves_a_prefix_that_holds_every_synced_batch() {
    for (seed, images) in [(1, 2), (2, 1)] {
        let whole = SimDisk::new();
        whole.start_trace();
        workload(whole.clone(), seed, 130, false);
        for wanted in ["compact_1", "flush", "rename manifest.new", "remove table."] {
            assert!(whole.trace().contains(wanted), "the workload does without {wanted}");
        }
        for stop in 0..=whole.requests() {
            let disk = SimDisk::new();
            disk.stop_at(stop);
            let history = workload(disk.clone(), seed, 130, false);
            for image in 0..images {
                let after = disk.crash(stop * 31 + image);
                let engine =
                    open_tiny(after.clone()).unwrap_or_else(|e| panic!("stop {stop} image {image}: {e}"));
                history.check(&*engine, history.synced);
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
}

#[test]
fn a_crash_while_recovering_loses_nothing_more() {
    let disk = SimDisk::new();
    let history = workload(disk.clone(), 3, 100, false);
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
    let whole = Faulty::new(SimDisk::new());
    workload(whole.clone(), 5, 90, true);
    for nth in 0..whole.requests() {
        for errno in [libc::EIO, libc::ENOSPC] {
            let sim = SimDisk::new();
            let faulty = Faulty::new(sim.clone());
            faulty.inject(Fault::Fail { kind: None, purpose: None, nth, errno });
            let history = workload(Latch::new(faulty), 5, 90, true);
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
    let sim = SimDisk::new();
    let disk = Metered::new(sim.clone());
    let engine = open_tiny(disk.clone()).unwrap();
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
    assert_eq!(shape.levels[0].write_bytes, snapshot.of(Purpose::Flush).write_bytes);
    for level in &shape.levels[1..] {
        let metered = snapshot.of(Purpose::Compact { into: level.level as u8 });
        assert_eq!(level.write_bytes, metered.write_bytes, "L{}", level.level);
        assert!(metered.read_bytes <= level.read_bytes, "L{}", level.level);
    }
    // What came into L0 and was not merged or moved away is there.
    assert_eq!(shape.probes.count(), 600);
    assert!(shape.filter.checks > 0 && shape.filter.useful <= shape.filter.checks);
    let files: u64 =
        sim.list().unwrap().iter().filter(|f| table_number(&f.name).is_some()).map(|f| f.bytes).sum();
    assert_eq!(files, shape.levels.iter().map(|level| level.bytes).sum::<u64>() + shape.obsolete_bytes);
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

/// A small store that was closed, and what it holds.
fn small_store() -> (Arc<SimDisk>, Model) {
    let disk = SimDisk::new();
    let engine = open_tiny(disk.clone()).unwrap();
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
    let (disk, model) = small_store();
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
fn a_missing_file_is_noticed() {
    let (disk, _) = small_store();
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
