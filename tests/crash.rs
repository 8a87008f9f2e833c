//! Power loss at every request, and failure of every request, for every engine through the one door.
//!
//! A workload applies numbered batches, syncs, flushes, merges, checkpoints and reopens. Then it runs again once for each request to
//! the disk: power goes just before that request, the disk drops, keeps or tears what was not synced, and the store is
//! opened again. It must hold the first *p* batches for some *p* that is not below the last acknowledged sync, whole, and
//! verify clean. `LONG=1` takes every request and more seeds; by default a stride keeps the run short.

#[path = "support/engines.rs"]
mod engines;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use engines::{Setup, Step, apply, change_variant, contents, open, range, setups, side_by_side, steps, tiny};
use kvfs::base::metric::Since;
use kvfs::disk::{Disk, Fault, Faulty, Latch, Metered, OsDisk, Purpose, Request, SimDisk, Tear, process_io};
use kvfs::engine::{
    self, Batch, Command, Engine, Error, KeyRange, Kind, Operation, Options, Tier, WorkClass,
};

type Map = BTreeMap<Bytes, Bytes>;

/// What a run did before it ended: the batches it issued, how many are acknowledged as durable, how many as applied.
#[derive(Default)]
struct Run {
    issued: Vec<Batch>,
    applied: usize,
    synced: usize,
    /// Hybrid: entries that were copied from the levels into the tree.
    promoted: u64,
    error: Option<Error>,
}

/// Reads after which a hybrid holds a record for hot.
const HEATING_READS: usize = 15;

fn is_long() -> bool {
    std::env::var_os("LONG").is_some()
}

fn run(disk: Arc<dyn Disk>, options: &Options, steps: &[Step]) -> Run {
    let mut run = Run::default();
    run.error = attempt(disk, options, steps, &mut run).err();
    run
}

fn attempt(disk: Arc<dyn Disk>, options: &Options, steps: &[Step], run: &mut Run) -> engine::Result<()> {
    let mut engine = open(disk.clone(), options)?;
    for step in steps {
        match step {
            Step::Apply(batch) => {
                run.issued.push(batch.clone());
                apply(&*engine, batch)?;
                run.applied = run.issued.len();
            }
            Step::Sync => {
                engine::sync(&*engine)?;
                run.synced = run.applied;
            }
            Step::Work(class) => {
                engine.work(*class)?;
            }
            Step::Run(command) => engine::run(&*engine, *command)?,
            Step::Variant(nth) => change_variant(&*engine, options.kind(), *nth)?,
            Step::Reopen => {
                run.promoted += promoted(&*engine);
                engine.close()?;
                run.synced = run.applied;
                drop(engine);
                engine = open(disk.clone(), options)?;
            }
            Step::Get(key) if options.kind() == Kind::HYBRID => {
                (0..HEATING_READS).try_for_each(|_| engine.get(key, Tier::Disk).map(drop))?;
                engine.work(WorkClass::Merge)?;
            }
            Step::Get(key) => {
                engine.get(key, Tier::Disk)?;
            }
            Step::Scan(start, end, limit) => {
                range(&*engine, KeyRange { start, end: end.as_deref() }, *limit)?;
            }
        }
    }
    run.promoted += promoted(&*engine);
    Ok(())
}

fn promoted(engine: &dyn Engine) -> u64 {
    engine.shape().hybrid.map_or(0, |hybrid| hybrid.promoted_entries)
}

/// The map after each number of batches.
fn history(issued: &[Batch]) -> Vec<Map> {
    let mut map = Map::new();
    let mut states = vec![map.clone()];
    for batch in issued {
        for operation in batch.operations() {
            match operation {
                Operation::Put { key, value } => map.insert(key.clone(), value.clone()),
                Operation::Delete { key } => map.remove(key),
            };
        }
        states.push(map.clone());
    }
    states
}

/// Opens what is left; says which prefix it holds.
fn recover(
    disk: Arc<dyn Disk>,
    options: &Options,
    states: &[Map],
    least: usize,
    what: &str,
) -> Arc<dyn Engine> {
    let engine = open(disk, options).unwrap_or_else(|error| panic!("{what}: does not open: {error}"));
    let found: Map =
        contents(&*engine).unwrap_or_else(|error| panic!("{what}: {error}")).into_iter().collect();
    let prefix = (least..states.len()).find(|count| states[*count] == found);
    assert!(
        prefix.is_some(),
        "{what}: holds no prefix of {} batches that has the {least} synced ones; an older one: {:?}",
        states.len() - 1,
        (0..least).rev().find(|count| states[*count] == found)
    );
    engine::run(&*engine, Command::Verify).unwrap_or_else(|error| panic!("{what}: {error}"));
    engine
}

/// The steps of a crash run: short, with every kind of work in it.
fn workload(seed: u64) -> Vec<Step> {
    steps(seed, if is_long() { 220 } else { 130 })
}

fn crash_everywhere(setup: &Setup, seed: u64) {
    crash_behind(|disk| disk, setup, seed);
}

/// Power loss at every request of a run on what `door` makes of the disk.
fn crash_behind(door: impl Fn(Arc<SimDisk>) -> Arc<dyn Disk>, (name, options): &Setup, seed: u64) {
    let steps = workload(seed);
    let whole = SimDisk::new();
    let complete = run(door(whole.clone()), options, &steps);
    assert!(complete.error.is_none(), "{name}: {:?}", complete.error);
    let requests = whole.requests();
    let stride = if is_long() { 1 } else { (requests / 60).max(1) };
    for stop in (seed % stride..=requests).step_by(stride as usize) {
        let disk = SimDisk::new();
        disk.stop_at(stop);
        let done = run(door(disk.clone()), options, &steps);
        let states = history(&done.issued);
        for image in 0..if is_long() { 4 } else { 2 } {
            let what =
                format!("{name}, seed {seed}, power loss before request {stop} of {requests}, image {image}");
            // Every second power cut leaves nonsense where it tears.
            let tear = [Tear::Sectors, Tear::Nonsense][image as usize % 2];
            let crashed = disk.crash_as(image, tear);
            // Lose power again somewhere in the recovery, then recover for good.
            let again = crashed.crash_as(image, tear);
            again.stop_at((stop + image) % 13);
            let _ = open(again.clone(), options);
            let engine = recover(again.crash_as(image + 7, tear), options, &states, done.synced, &what);
            let mut batch = Batch::new(0);
            batch.put(&b"after"[..], &b"the crash"[..]);
            apply(&*engine, &batch).unwrap_or_else(|error| panic!("{what}: takes no more: {error}"));
        }
        recover(
            disk.kill(),
            options,
            &states,
            done.applied,
            &format!("{name}, seed {seed}, killed before request {stop}"),
        );
    }
}

#[test]
fn lsm_survives_power_loss_at_any_request() {
    for setup in setups().iter().filter(|(_, options)| options.kind() == Kind::LSM) {
        crash_everywhere(setup, 3);
    }
}

#[test]
fn btree_survives_power_loss_at_any_request() {
    for setup in setups().iter().filter(|(_, options)| options.kind() == Kind::BTREE) {
        crash_everywhere(setup, 5);
    }
}

#[test]
fn hybrid_survives_power_loss_at_any_request() {
    for setup in setups().iter().filter(|(_, options)| options.kind() == Kind::HYBRID) {
        crash_everywhere(setup, 4);
    }
}

/// The runs that end in a crash or a failure promote, in nearly every setup.
#[test]
fn the_hybrids_of_these_tests_promote() {
    let setups = setups();
    let of_seed = |seed| {
        let hybrids = setups.iter().filter(|(_, options)| options.kind() == Kind::HYBRID);
        hybrids.map(move |(_, options)| run(SimDisk::new(), options, &workload(seed)).promoted)
    };
    let promoted: Vec<u64> = of_seed(4).chain(of_seed(9)).collect();
    let count = promoted.iter().filter(|promoted| **promoted > 0).count();
    assert!(count > promoted.len() / 2, "{promoted:?}");
}

/// The proof that these tests can fail: a disk that acknowledges syncs of one kind without doing them, and the crash run
/// must find it out for each sync that an engine relies on.
#[test]
fn a_disk_that_lies_about_its_syncs_is_found_out() {
    let lsm = Options::tiny(Kind::LSM);
    let hybrid = Options::tiny(Kind::HYBRID);
    let lies: [(&str, Options, Request, Option<Purpose>); 11] = [
        ("lsm, log", lsm.clone(), Request::Sync, Some(Purpose::Wal)),
        ("lsm, flushed tables", lsm.clone(), Request::Sync, Some(Purpose::Flush)),
        ("lsm, merged tables", lsm.clone(), Request::Sync, Some(Purpose::Compact { into: 1 })),
        ("lsm, manifest", lsm.clone(), Request::Sync, Some(Purpose::Manifest)),
        ("lsm, names", lsm, Request::SyncNames, None),
        ("btree, log", Options::tiny(Kind::BTREE), Request::Sync, Some(Purpose::Wal)),
        ("btree, pages", Options::tiny(Kind::BTREE), Request::Sync, Some(Purpose::Checkpoint)),
        ("btree, names", Options::tiny(Kind::BTREE), Request::SyncNames, None),
        ("hybrid, log", hybrid.clone(), Request::Sync, Some(Purpose::Wal)),
        ("hybrid, demoted tables", hybrid.clone(), Request::Sync, Some(Purpose::Demote)),
        ("hybrid, manifest and meta pages", hybrid, Request::Sync, Some(Purpose::Manifest)),
    ];
    let mut believed = Vec::new();
    for (name, options, kind, purpose) in lies {
        let lie = Fault::Lie { kind, purpose };
        let door = |disk: Arc<SimDisk>| -> Arc<dyn Disk> {
            let liar = Faulty::new(disk);
            liar.inject(lie);
            liar
        };
        let is_found = (3..9).any(|seed| {
            let setup = (name.to_string(), options.clone());
            let crashes = std::panic::AssertUnwindSafe(|| crash_behind(door, &setup, seed));
            std::panic::catch_unwind(crashes).is_err()
        });
        if !is_found {
            believed.push(name);
        }
    }
    assert!(believed.is_empty(), "nobody noticed: {believed:?}");
}

/// Fails each request of a kind once: the engine says so or does without, nothing acknowledged is lost, and after a failed sync it
/// takes no more batches.
fn fail_everywhere((name, options): &Setup, seed: u64) {
    let steps = workload(seed);
    for (kind, errno) in [
        (Request::Write, libc::EIO),
        (Request::Sync, libc::EIO),
        (Request::SyncNames, libc::EIO),
        (Request::Allocate, libc::ENOSPC),
        (Request::Name, libc::EIO),
        (Request::Read, libc::EIO),
    ] {
        let mut nth = 0;
        loop {
            let sim = SimDisk::new();
            let faulty = Faulty::new(sim.clone());
            faulty.inject(Fault::Fail { kind: Some(kind), purpose: None, nth, errno });
            let latch = Latch::new(faulty.clone());
            let done = run(latch.clone(), options, &steps);
            if faulty.hits() == 0 {
                break;
            }
            let what = format!("{name}, seed {seed}, {kind:?} {nth} failed");
            if matches!(kind, Request::Sync | Request::SyncNames) {
                assert!(done.error.is_some() && latch.cause().is_some(), "{what}: nobody noticed");
            }
            let states = history(&done.issued);
            recover(sim.crash(nth), options, &states, done.synced, &what);
            recover(sim.kill(), options, &states, done.applied, &format!("{what}, then killed"));
            nth += if is_long() { 1 } else { 1 + nth / 6 };
        }
    }
}

#[test]
fn lsm_survives_any_failed_request() {
    for setup in setups().iter().filter(|(_, options)| options.kind() == Kind::LSM).step_by(2) {
        fail_everywhere(setup, 7);
    }
}

#[test]
fn btree_survives_any_failed_request() {
    for setup in setups().iter().filter(|(_, options)| options.kind() == Kind::BTREE).step_by(2) {
        fail_everywhere(setup, 8);
    }
}

#[test]
fn hybrid_survives_any_failed_request() {
    for setup in setups().iter().filter(|(_, options)| options.kind() == Kind::HYBRID).step_by(2) {
        fail_everywhere(setup, 9);
    }
}

#[test]
fn after_a_failed_sync_nothing_more_is_accepted_and_reads_go_on() {
    for kind in [Kind::LSM, Kind::BTREE, Kind::HYBRID] {
        let options = Options::tiny(kind);
        let faulty = Faulty::new(SimDisk::new());
        let latch = Latch::new(faulty.clone());
        let engine = open(latch.clone(), &options).unwrap();
        let mut batch = Batch::new(0);
        batch.put(&b"key"[..], &b"value"[..]);
        engine.apply(&batch, Tier::Disk).unwrap();
        faulty.inject(Fault::Fail {
            kind: Some(Request::Sync),
            purpose: Some(Purpose::Wal),
            nth: 0,
            errno: libc::EIO,
        });
        assert!(matches!(engine::sync(&*engine), Err(Error::Poisoned(_))));
        assert!(matches!(engine.apply(&batch, Tier::Disk), Err(Error::Poisoned(_))));
        assert!(
            matches!(engine::sync(&*engine), Err(Error::Poisoned(_))),
            "a failed sync is not tried again"
        );
        assert_eq!(engine.get(b"key", Tier::Disk).unwrap().unwrap(), "value");
        assert!(latch.cause().unwrap().contains("sync of"), "{:?}", latch.cause());
    }
}

#[test]
fn a_full_disk_refuses_batches_whole_and_recovers() {
    for (name, options) in setups() {
        let sim = SimDisk::new();
        sim.set_capacity(Some(200 << 10));
        let engine = open(sim.clone(), &options).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut model = Map::new();
        let mut index = 0u64;
        let refused = loop {
            let mut batch = Batch::new(0);
            let (key, value) = (Bytes::from(format!("key{index:05}")), Bytes::from(vec![index as u8; 1500]));
            batch.put(key.clone(), value.clone());
            match apply(&*engine, &batch) {
                Ok(_) => model.insert(key, value),
                Err(error) => break error,
            };
            index += 1;
            assert!(index < 10_000, "{name}: never full");
        };
        assert!(matches!(refused, Error::NoSpace), "{name}: {refused} after {index}");
        let found: Map = contents(&*engine).unwrap().into_iter().collect();
        assert!(found == model, "{name}: full, but earlier data changed");
        // Deletes may use the reserve.
        let mut batch = Batch::new(0);
        batch.uses_reserve = true;
        for key in model.keys().take(5) {
            batch.delete(key.clone());
        }
        apply(&*engine, &batch).unwrap_or_else(|error| panic!("{name}: a delete on a full disk: {error}"));
        let gone: Vec<Bytes> = model.keys().take(5).cloned().collect();
        gone.iter().for_each(|key| drop(model.remove(key)));
        sim.set_capacity(None);
        let mut batch = Batch::new(0);
        batch.put(&b"room"[..], &b"again"[..]);
        model.insert(Bytes::from("room"), Bytes::from("again"));
        // The guard looks at the disk again when it refuses.
        apply(&*engine, &batch)
            .or_else(|_| apply(&*engine, &batch))
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        engine::sync(&*engine).unwrap_or_else(|error| panic!("{name}: {error}"));
        drop(engine);
        let engine = open(sim.crash(1), &options).unwrap();
        assert!(contents(&*engine).unwrap().into_iter().collect::<Map>() == model, "{name}: after reopening");
    }
}

#[test]
fn no_turned_bit_is_ever_served() {
    let kinds = [Kind::LSM, Kind::BTREE, Kind::HYBRID].map(|kind| (kind.to_string(), kind));
    side_by_side(kinds.into(), |_, kind| {
        let options = Options::tiny(kind);
        let sim = SimDisk::new();
        let engine = open(sim.clone(), &options).unwrap();
        let mut issued = Vec::new();
        for step in workload(11) {
            if let Step::Apply(batch) = step {
                apply(&*engine, &batch).unwrap();
                issued.push(batch);
            }
        }
        engine::run(&*engine, Command::Flush).unwrap();
        engine::settle(&*engine).unwrap();
        engine::sync(&*engine).unwrap();
        drop(engine);
        let right = history(&issued).pop().unwrap();
        let (mut refused, mut harmless) = (0, 0);
        for info in sim.list().unwrap() {
            // A few dozen bits of each file, everywhere in it.
            let stride = (info.bytes * 8 / 48).max(1) | 1;
            for bit in (0..info.bytes * 8).step_by(stride as usize) {
                let damaged = sim.kill();
                assert!(damaged.flip_bit(&info.name, bit));
                let what = format!("{kind}: bit {bit} of {}", info.name);
                let Ok(engine) = open(damaged, &options) else {
                    refused += 1;
                    continue;
                };
                let mut is_damaged = false;
                for (key, value) in &right {
                    match engine.get(key, Tier::Disk) {
                        Ok(found) => assert_eq!(found.as_ref(), Some(value), "{what}: served as data"),
                        Err(Error::Corrupt { .. }) => is_damaged = true,
                        Err(error) => panic!("{what}: {error}"),
                    }
                }
                match contents(&*engine) {
                    Ok(found) => {
                        assert!(found.into_iter().collect::<Map>() == right, "{what}: scanned as data")
                    }
                    Err(Error::Corrupt { .. }) => is_damaged = true,
                    Err(error) => panic!("{what}: {error}"),
                }
                if is_damaged {
                    refused += 1;
                    assert!(
                        matches!(engine::run(&*engine, Command::Verify), Err(Error::Corrupt { .. })),
                        "{what}: verify"
                    );
                } else {
                    harmless += 1;
                }
            }
        }
        println!("{kind}: {refused} refused, {harmless} in bytes that hold nothing");
        assert!(refused > 20);
    });
}

/// In a test program of its own so that nobody else writes: see `the_meter_is_what_the_kernel_was_asked_for`.
#[test]
#[ignore = "a child of another test"]
fn child_writes_and_compares() {
    // With `--include-ignored` it also runs without its parent, which has something to say only through it.
    let Some(path) = std::env::var_os("KVFS_CHILD_DIRECTORY") else { return };
    for kind in [Kind::LSM, Kind::BTREE, Kind::HYBRID] {
        let metered = Metered::new(
            OsDisk::open(&std::path::Path::new(&path).join(kind.to_string()), kvfs::disk::Access::Write)
                .unwrap(),
        );
        let before = process_io().unwrap();
        let options = kind.default_options().with("memtable=1M,dirty_max=1M").unwrap();
        let done = run(metered.clone(), &options, &steps(21, 3000));
        assert!(done.error.is_none(), "{:?}", done.error);
        let asked = process_io().unwrap().since(&before).asked_write_bytes;
        let counted = metered.snapshot().total().write_bytes;
        assert_eq!(counted, asked, "{kind}: the meter and the kernel's count of what it was asked to write");
    }
}

#[test]
fn the_meter_is_what_the_kernel_was_asked_for() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_writes_and_compares", "--ignored", "--test-threads=1", "--nocapture"])
        .env("KVFS_CHILD_DIRECTORY", home.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout).to_string() + &String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && text.contains("1 passed"), "{text}");
}

/// Each life of a store is a few small batches, and ends with a kill or a power cut before anything is flushed.
#[test]
fn a_thousand_crashes_cost_nothing() {
    for kind in [Kind::LSM, Kind::BTREE, Kind::HYBRID] {
        // Memtables and checkpoints are far away, so nothing but opening keeps the log short.
        let options = tiny(kind, "memtable=1M,dirty_max=1M,checkpoint_log=1M,log_segment=64K");
        let mut disk = SimDisk::new();
        disk.set_capacity(Some(2 << 20));
        let mut wanted = Map::new();
        for life in 0..1000u64 {
            let engine =
                open(disk.clone(), &options).unwrap_or_else(|error| panic!("{kind}, {life}: {error}"));
            let mut batch = Batch::new(0);
            let (key, value) = (Bytes::from(format!("key{}", life % 50)), Bytes::from(vec![life as u8; 20]));
            wanted.insert(key.clone(), value.clone());
            batch.put(key, value);
            apply(&*engine, &batch).unwrap_or_else(|error| panic!("{kind}, {life}: {error}"));
            if life % 3 == 0 {
                engine::sync(&*engine).unwrap();
                disk = disk.crash(life);
            }
            if life % 100 == 99 {
                assert_eq!(contents(&*engine).unwrap(), wanted.clone().into_iter().collect::<Vec<_>>());
                let bytes: u64 = disk.list().unwrap().iter().map(|info| info.bytes).sum();
                assert!(bytes <= 10 * (64 << 10), "{kind}: {bytes} bytes after {life} crashes");
            }
        }
    }
}
