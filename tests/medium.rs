//! What `docs/medium.md` says of a disk below that breaks its word: units that read as an older version of themselves, writes that
//! land elsewhere, syncs that were acknowledged and not done. What comes back is right, or an error, or exactly what the page
//! admits; never a panic or a walk without an end.
//!
//! `SEED=n cargo test --test medium` adds a seed.

// Other tests use the rest of it.
#[allow(dead_code)]
#[path = "support/engines.rs"]
mod engines;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use engines::{Step, apply, open, side_by_side, steps};
use kvfs::base::prng::Prng;
use kvfs::disk::{Disk, Fault, Faulty, Purpose, Request, SimDisk, read_all};
use kvfs::engine::{self, Batch, Command, Engine, Error, KeyRange, Kind, Operation, Options, Tier};

type Map = BTreeMap<Bytes, Bytes>;

const UNIT: usize = 4096;
/// The B-tree's.
const FILE: &str = "btree.pages";

fn seeds() -> Vec<u64> {
    let more = std::env::var("SEED").ok().and_then(|text| text.parse().ok());
    [3, 4].into_iter().chain(more).collect()
}

/// Stores of every way to lay out data; segments that are used again, and a tree of several levels.
fn setups() -> Vec<(&'static str, Options)> {
    let lsm = Options::tiny(Kind::LSM);
    vec![
        ("lsm", lsm.clone()),
        ("lsm values in the log", lsm.with("value_log=on,value_threshold=40").unwrap()),
        ("btree", Options::tiny(Kind::BTREE)),
        ("hybrid", Options::tiny(Kind::HYBRID)),
    ]
}

/// What was written: every value that a key ever had, and the map after each batch.
#[derive(Clone, Default)]
struct Written {
    ever: BTreeMap<Bytes, BTreeSet<Bytes>>,
    states: Vec<Map>,
    synced: usize,
}

impl Written {
    fn new() -> Written {
        Written { states: vec![Map::new()], ..Written::default() }
    }

    fn last(&self) -> &Map {
        &self.states[self.states.len() - 1]
    }
}

/// Runs steps until the disk fails, or to the end.
fn follow(engine: &dyn Engine, steps: &[Step], written: &mut Written) -> engine::Result<()> {
    for step in steps {
        match step {
            Step::Apply(batch) => {
                let mut map = written.last().clone();
                for operation in batch.operations() {
                    match operation {
                        Operation::Put { key, value } => {
                            written.ever.entry(key.clone()).or_default().insert(value.clone());
                            map.insert(key.clone(), value.clone())
                        }
                        Operation::Delete { key } => map.remove(key),
                    };
                }
                written.states.push(map);
                apply(engine, batch)?;
            }
            Step::Sync => {
                let applied = written.states.len() - 1;
                engine::sync(engine)?;
                written.synced = applied;
            }
            Step::Work(class) => drop(engine.work(*class)?),
            Step::Run(command) => engine::run(engine, *command)?,
            _ => {}
        }
    }
    Ok(())
}

/// What a store gives back that was opened on a damaged disk.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Everything, as it was after the last acknowledged sync or a later batch.
    Right,
    /// An error where something is damaged, and everything else as it should be.
    Refused,
    /// All of it as it was after a batch before the last acknowledged sync, without an error.
    Older,
    /// Some keys as they were earlier, without an error.
    Stale,
    /// A value that its key never had.
    Foreign,
}

/// Opens the store, reads all of it in both ways, and has it checked.
fn outcome(disk: Arc<SimDisk>, options: &Options, written: &Written, what: &str) -> Outcome {
    let engine = match open(disk, options) {
        Ok(engine) => engine,
        Err(Error::Corrupt { .. }) => return Outcome::Refused,
        Err(error) => panic!("{what}: {error}"),
    };
    let is_foreign = Cell::new(false);
    let check = |key: &Bytes, value: &Bytes| {
        let is_known = written.ever.get(key).is_some_and(|values| values.contains(value));
        is_foreign.set(is_foreign.get() || !is_known);
    };
    let mut is_refused = false;
    let mut answers = BTreeMap::new();
    for key in written.ever.keys() {
        match engine.get(key, Tier::Disk) {
            Ok(answer) => {
                answer.iter().for_each(|value| check(key, value));
                answers.insert(key, answer);
            }
            Err(Error::Corrupt { .. }) => is_refused = true,
            Err(error) => panic!("{what}: {error}"),
        }
    }
    let mut scanned = Map::new();
    let end = engine.scan(KeyRange::ALL, Tier::Disk, &mut |key, value| {
        let (key, value) = (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
        check(&key, &value);
        assert!(scanned.insert(key, value).is_none(), "{what}: a scan that comes back");
        ControlFlow::Continue(())
    });
    match end {
        Ok(_) => {
            let found: Map =
                answers.iter().filter_map(|(key, answer)| Some(((*key).clone(), answer.clone()?))).collect();
            assert!(
                is_refused || is_foreign.get() || found == scanned,
                "{what}: a scan and gets do not agree"
            );
        }
        Err(Error::Corrupt { .. }) => is_refused = true,
        Err(error) => panic!("{what}: {error}"),
    }
    let is_verified = match engine::run(&*engine, Command::Verify) {
        Ok(()) => true,
        Err(Error::Corrupt { .. }) => false,
        Err(error) => panic!("{what}: {error}"),
    };
    assert!(!(is_refused && is_verified), "{what}: an error that a check does not find");
    if is_foreign.get() {
        return Outcome::Foreign;
    }
    let allowed = &written.states[written.synced..];
    if is_refused {
        let is_right = |key: &Bytes, answer: &Option<Bytes>| {
            allowed.iter().any(|state| state.get(key) == answer.as_ref())
        };
        if answers.iter().all(|(key, answer)| is_right(key, answer)) {
            return Outcome::Refused;
        }
        // The unit may hold the end of the log and a value that a table points to: then the end is lost, and the value refused.
        let is_of = |state: &Map| answers.iter().all(|(key, answer)| state.get(*key) == answer.as_ref());
        return if written.states.iter().any(is_of) { Outcome::Older } else { Outcome::Stale };
    }
    if allowed.contains(&scanned) {
        return if is_verified { Outcome::Right } else { Outcome::Refused };
    }
    match is_verified {
        false => Outcome::Refused,
        true if written.states.contains(&scanned) => Outcome::Older,
        true => Outcome::Stale,
    }
}

/// How often each outcome came, and of those without an error which files were damaged.
#[derive(Default, Debug)]
struct Count {
    right: u32,
    refused: u32,
    older: BTreeMap<String, u32>,
    stale: BTreeMap<String, u32>,
    foreign: BTreeMap<String, u32>,
}

impl Count {
    fn add(&mut self, outcome: Outcome, file: &str) {
        let family = file.split('.').next().unwrap_or(file).to_string();
        match outcome {
            Outcome::Right => self.right += 1,
            Outcome::Refused => self.refused += 1,
            Outcome::Older => *self.older.entry(family).or_default() += 1,
            Outcome::Stale => *self.stale.entry(family).or_default() += 1,
            Outcome::Foreign => *self.foreign.entry(family).or_default() += 1,
        }
    }

    /// Without an error only what the page admits: of which files older content may come back.
    fn admits(&self, name: &str, older: &[&str], stale: &[&str], foreign: &[&str]) {
        println!("{name}: {self:?}");
        assert!(self.refused > 20, "{name}: hardly anything was damaged: {self:?}");
        let beyond = |found: &BTreeMap<String, u32>, admitted: &[&str]| {
            found.keys().any(|family| !admitted.contains(&family.as_str()))
        };
        assert!(!beyond(&self.older, older), "{name}: {self:?}");
        assert!(!beyond(&self.stale, stale), "{name}: {self:?}");
        assert!(!beyond(&self.foreign, foreign), "{name}: {self:?}");
    }
}

fn bytes_of(disk: &SimDisk, name: &str) -> Vec<u8> {
    let Ok(file) = disk.open(name) else { return Vec::new() };
    read_all(&*file, Purpose::Recovery).unwrap()
}

fn write(disk: &SimDisk, name: &str, at: usize, bytes: &[u8]) {
    disk.open(name).unwrap().write_at(Purpose::Recovery, at as u64, bytes).unwrap();
}

/// The end of a store's last process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Closed,
    Killed,
}

/// A store in the middle of a run, and the same store at its end.
fn earlier_and_later(options: &Options, seed: u64, end: End) -> (Arc<SimDisk>, Arc<SimDisk>, Written) {
    let sim = SimDisk::new();
    let mut written = Written::new();
    let steps = steps(seed, 600);
    let mut engine = open(sim.clone(), options).unwrap();
    follow(&*engine, &steps[..400], &mut written).unwrap();
    if end == End::Closed {
        engine.close().unwrap();
        drop(engine);
        engine = open(sim.clone(), options).unwrap();
    }
    let earlier = sim.kill();
    follow(&*engine, &steps[400..], &mut written).unwrap();
    match end {
        End::Closed => engine.close().unwrap(),
        End::Killed => engine::sync(&*engine).unwrap(),
    }
    written.synced = written.states.len() - 1;
    (earlier, sim.kill(), written)
}

/// Damages copies of many stores and counts what comes back: `damage` is given the store earlier and as it is now, and calls its last
/// argument with each damaged copy, the file that is damaged, and words for it.
fn count(
    options: &Options,
    name: &str,
    damage: impl Fn(&SimDisk, &SimDisk, u64, &mut dyn FnMut(Arc<SimDisk>, &str, &str)),
) -> Count {
    let mut count = Count::default();
    for end in [End::Closed, End::Killed] {
        for seed in seeds() {
            let (earlier, now, written) = earlier_and_later(options, seed, end);
            damage(&earlier, &now, seed, &mut |damaged, file, words| {
                let what = format!("{name}, {end:?}, seed {seed}, {file}: {words}");
                count.add(outcome(damaged, options, &written, &what), file);
            });
        }
    }
    count
}

/// A write that was acknowledged and never reached the medium: the unit reads as what it held before.
#[test]
fn a_stale_unit_is_noticed_but_for_pages_of_the_btree_and_the_end_of_a_log() {
    let setups = setups().into_iter().map(|(name, options)| (name.to_string(), options));
    side_by_side(setups.collect(), |name, options| {
        let count = count(&options, name, |earlier, now, _, visit| {
            for info in now.list().unwrap() {
                let (old, new) = (bytes_of(earlier, &info.name), bytes_of(now, &info.name));
                for at in (0..new.len()).step_by(UNIT) {
                    let end = (at + UNIT).min(new.len());
                    let before: Vec<u8> =
                        (at..end).map(|index| old.get(index).copied().unwrap_or(0)).collect();
                    if before != new[at..end] {
                        let damaged = now.kill();
                        write(&damaged, &info.name, at, &before);
                        visit(damaged, &info.name, &format!("{at} as it was before"));
                    }
                }
            }
        });
        let stale: &[&str] = match &options.kind().to_string()[..] {
            "btree" | "hybrid" => &["btree"],
            _ => &[],
        };
        count.admits(name, &["log"], stale, &[]);
    });
}

/// Changes made where a page of the B-tree reads as it was earlier: what it names may be another key's by now, and stays that key's.
#[test]
fn changes_beside_a_stale_unit_make_nothing_up() {
    let options = Options::tiny(Kind::BTREE);
    let mut changed = 0;
    for seed in seeds() {
        let (earlier, now, written) = earlier_and_later(&options, seed, End::Killed);
        let (old, new) = (bytes_of(&earlier, FILE), bytes_of(&now, FILE));
        for at in (0..old.len().min(new.len())).step_by(UNIT) {
            let before = &old[at..(at + UNIT).min(old.len())];
            if new[at..].starts_with(before) {
                continue;
            }
            let damaged = now.kill();
            write(&damaged, FILE, at, before);
            let Ok(engine) = open(damaged, &options) else { continue };
            let is_known = |key: &Bytes, value: &Bytes| written.ever[key].contains(value);
            for (nth, key) in written.ever.keys().enumerate() {
                let mut batch = Batch::new(0);
                let value = Bytes::from(vec![nth as u8; 5000]);
                match nth % 3 {
                    0 => batch.delete(key.clone()),
                    1 => batch.put(key.clone(), value.clone()),
                    _ => {}
                };
                let is_done = apply(&*engine, &batch).is_ok();
                changed += u32::from(is_done && nth % 3 < 2);
                let wanted = (nth % 3 == 1).then_some(value);
                match engine.get(key, Tier::Disk) {
                    Ok(found) if is_done && nth % 3 < 2 => assert_eq!(found, wanted, "{seed}, {at}: {key:?}"),
                    Ok(Some(found)) => assert!(is_known(key, &found), "{seed}, {at}: {key:?}"),
                    Ok(None) | Err(Error::Corrupt { .. }) => {}
                    Err(error) => panic!("{seed}, {at}: {error}"),
                }
            }
        }
    }
    assert!(changed > 1000, "only {changed} changes");
}

/// Nonsense in the log, in a whole sector of 4 KiB or in one of 512 bytes: synced records that are lost with it are missed if any later
/// record is whole. Only in the sector that was being written when power went the log ends earlier, with whole batches; and where the
/// drive cannot read that sector, that is said, too.
#[test]
fn nonsense_around_an_append_is_noticed_or_ends_the_log() {
    for (name, options) in setups() {
        // One segment, and nothing that leaves it.
        let large = "log_segment=64K,memtable=1M,dirty_max=1M,checkpoint_log=1M";
        let options = options.with(large).unwrap();
        let (mut refused, mut older) = (0, 0);
        for count in [5, 40, 90] {
            let sim = SimDisk::new();
            let engine = open(sim.clone(), &options).unwrap();
            let (empty, mut prng) = (sim.kill(), Prng::new(count.into()));
            let mut written = Written::new();
            let put = |n: u8| {
                let mut batch = Batch::new(0);
                batch.put(vec![n], vec![n; 100]);
                Step::Apply(batch)
            };
            let synced: Vec<Step> = (0..count).flat_map(|n| [put(n), Step::Sync]).collect();
            follow(&*engine, &synced, &mut written).unwrap();
            // Power goes while this one is written.
            follow(&*engine, &[put(count)], &mut written).unwrap();
            let now = sim.kill();
            let mut names = now.list().unwrap().into_iter().map(|info| info.name);
            let changed = |name: &String| bytes_of(&empty, name) != bytes_of(&now, name);
            let log = names.find(|name| name.starts_with("log.") && changed(name)).unwrap();
            let end = bytes_of(&now, &log).iter().rposition(|byte| *byte != 0).unwrap() + 1;
            for unit in (0..end).step_by(UNIT) {
                let sectors = (unit..unit + UNIT).step_by(512).map(|at| (at, 512));
                for (at, bytes) in sectors.chain([(unit, UNIT)]).filter(|(at, _)| *at < end) {
                    let damaged = now.kill();
                    let noise: Vec<u8> = (0..bytes).map(|_| prng.below(256) as u8).collect();
                    write(&damaged, &log, at, &noise);
                    let what = format!("{name}, {count} records, {bytes} bytes at {at} of {end}");
                    match outcome(damaged, &options, &written, &what) {
                        // Either copy of the header will do; the last record was not synced.
                        Outcome::Right => assert!(at + bytes <= 1024 || at + bytes >= end, "{what}"),
                        Outcome::Refused => refused += 1,
                        Outcome::Older => {
                            // Nothing whole lies behind it that could tell.
                            assert!(
                                at + bytes + 150 > end,
                                "{what}: synced records are gone, and nobody says so"
                            );
                            older += 1;
                        }
                        other => panic!("{what}: {other:?}"),
                    }
                }
            }
            // A sector of which the drive says that it cannot be read is never taken for the end.
            for nth in 0..4 {
                let failing = Faulty::new(now.kill());
                let (kind, purpose) = (Some(Request::Read), Some(Purpose::Recovery));
                failing.inject(Fault::Fail { kind, purpose, nth, errno: libc::EIO });
                match open(failing.clone(), &options) {
                    Err(Error::Io { .. }) => assert_eq!(failing.hits(), 1),
                    Err(error) => panic!("{name}: {error}"),
                    Ok(_) => assert_eq!(failing.hits(), 0, "{name}: an unreadable place is passed over"),
                }
            }
        }
        println!("{name}: {refused} noticed, {older} end the log earlier");
        assert!(refused > 20 && older > 0, "{name}: {refused}, {older}");
    }
}

/// A write that lands in a wrong place, or a read that comes from there.
#[test]
fn a_unit_of_another_place_is_an_error_and_never_data() {
    for (name, options) in setups() {
        let count = count(&options, name, |_, now, seed, visit| {
            let mut prng = Prng::new(seed);
            let files = now.list().unwrap();
            for _ in 0..60 {
                let mut pick = || {
                    let info = &files[prng.below(files.len() as u64) as usize];
                    (info.name.clone(), prng.below(info.bytes.max(1)) as usize / UNIT * UNIT)
                };
                let ((from, from_at), (to, at)) = (pick(), pick());
                let (source, target) = (bytes_of(now, &from), bytes_of(now, &to));
                let bytes = &source[from_at..(from_at + UNIT).min(source.len())];
                let bytes = &bytes[..bytes.len().min(target.len() - at)];
                let damaged = now.kill();
                write(&damaged, &to, at, bytes);
                visit(damaged, &to, &format!("{at} is {from_at} of {from}"));
            }
        });
        count.admits(name, &["log"], &[], &[]);
    }
}

/// A drive that acknowledges every sync and does none.
#[test]
fn syncs_that_lie_cost_what_they_lied_about_and_nothing_is_made_up() {
    for (name, options) in setups() {
        let mut count = Count::default();
        for seed in seeds() {
            let honest = SimDisk::new();
            let mut written = Written::new();
            let steps = steps(seed, 600);
            let engine = open(honest.clone(), &options).unwrap();
            follow(&*engine, &steps[..400], &mut written).unwrap();
            engine.close().unwrap();
            drop(engine);
            // From here on it lies.
            for stop in 0..30 {
                let sim = honest.kill();
                let liar = Faulty::new(sim.clone());
                liar.inject(Fault::Lie { kind: Request::Sync, purpose: None });
                sim.stop_at(1 + stop * 8);
                let mut written = written.clone();
                if let Ok(engine) = open(liar, &options) {
                    let _ = follow(&*engine, &steps[400..], &mut written);
                }
                let what = format!("{name}, seed {seed}, lies for {} requests", 1 + stop * 8);
                count.add(outcome(sim.crash(stop), &options, &written, &what), "any");
            }
        }
        println!("{name}: {count:?}");
        assert!(count.right > 0, "{name}: {count:?}");
        assert!(count.refused + count.older.len() as u32 + count.stale.len() as u32 > 0, "{name}: {count:?}");
        assert!(count.foreign.is_empty(), "{name}: {count:?}");
        // The LSM-tree writes nothing twice in one place: what it has is whole, or an error.
        assert!(options.kind() != Kind::LSM || count.stale.is_empty(), "{name}: {count:?}");
    }
}
