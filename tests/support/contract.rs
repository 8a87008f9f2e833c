//! What kvfs asks of every engine that has a directory of its own, whoever wrote it: `tests/others.rs` asks it of the example, `engines/tests/contract.rs` of
//! those that are built in there, and whoever writes another one asks it in the same way.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc;

use bytes::Bytes;
use kvfs::base::clock::{Clock, SystemClock};
use kvfs::base::prng::Prng;
use kvfs::compare::contender::Contender;
use kvfs::compare::matrix::{self, cell};
use kvfs::compare::stretch::{self, Stretch, Tally};
use kvfs::compare::subject::{Pace, Place, Subject};
use kvfs::engine::{
    self, Batch, Command, Engine, Error, Home, KeyRange, Kind, Lsn, Options, Pending, Tier, WorkClass,
};

/// Opens it in the directory `path`.
pub fn open(kind: Kind, options: &Options, path: &Path) -> Arc<dyn Engine> {
    let Home::Directory(open) = kind.home else { panic!("{kind} lives in a directory") };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    open(path, clock, options).unwrap()
}

/// Everything in a range.
pub fn contents(engine: &dyn Engine, range: KeyRange<'_>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut all = Vec::new();
    let scanned = engine.scan(range, Tier::Disk, &mut |key, value| {
        all.push((key.to_vec(), value.to_vec()));
        // No lock is held meanwhile: another call goes through.
        assert_eq!(engine.get(key, Tier::Disk).unwrap().as_deref(), Some(value));
        ControlFlow::Continue(())
    });
    scanned.unwrap();
    all
}

/// Applies a batch, as often as back-pressure asks for it, for half a minute at most.
pub fn apply(engine: &dyn Engine, batch: &Batch) -> engine::Result<Lsn> {
    let began = std::time::Instant::now();
    loop {
        match engine.apply(batch, Tier::Disk) {
            Err(Error::Busy { retry_after, .. }) if began.elapsed().as_secs() < 30 => {
                std::thread::sleep(retry_after)
            }
            other => return other,
        }
    }
}

/// A batch of 1 to 8 changes, done to `model` as well. Keys are short: some engines take 511 bytes at most.
pub fn change(random: &mut Prng, model: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> Batch {
    let mut batch = Batch::new(0);
    for _ in 0..=random.below(8) {
        let key = format!("key {:03}", random.below(300)).into_bytes();
        if random.one_in(4) {
            batch.delete(key.clone());
            model.remove(&key);
        } else {
            let value = vec![random.bits() as u8; random.below(3000) as usize];
            batch.put(key.clone(), value.clone());
            model.insert(key, value);
        }
    }
    batch
}

pub fn it_agrees_with_a_map_before_and_after_it_is_opened_again(kind: Kind) {
    let home = tempfile::tempdir().unwrap();
    let options = Options::tiny(kind);
    let (mut random, mut model) = (Prng::new(7), BTreeMap::new());
    for round in 0..4 {
        let engine = open(kind, &options, home.path());
        assert_eq!(engine.kind(), kind);
        for _ in 0..300 {
            let before = engine.lsn();
            let after = apply(&*engine, &change(&mut random, &mut model)).unwrap();
            assert!(after > before && engine.lsn() == after, "{kind}");
        }
        let expected: Vec<_> = model.clone().into_iter().collect();
        assert_eq!(contents(&*engine, KeyRange::ALL), expected, "{kind} in round {round}");
        let range = KeyRange { start: b"key 1", end: Some(b"key 205") };
        let within = expected.iter().filter(|(key, _)| &key[..] >= range.start && range.is_before_end(key));
        assert_eq!(contents(&*engine, range), within.cloned().collect::<Vec<_>>(), "{kind}");
        for number in 0..300 {
            let key = format!("key {number:03}").into_bytes();
            let found = engine.get(&key, Tier::Disk).unwrap();
            assert_eq!(found, model.get(&key).map(|value| Bytes::from(value.clone())), "{kind}");
        }
        // A scan ends when its visitor says so.
        let mut visited = 0;
        let stop = &mut |_: &[u8], _: &[u8]| {
            visited += 1;
            ControlFlow::Break(())
        };
        engine.scan(KeyRange::ALL, Tier::Disk, stop).unwrap();
        assert_eq!(visited, 1);
        for command in [Command::Flush, Command::Compact, Command::Verify] {
            engine::run(&*engine, command).unwrap_or_else(|error| panic!("{kind} {command:?}: {error}"));
        }
        assert_eq!(contents(&*engine, KeyRange::ALL), expected, "{kind} after commands");
        engine.close().unwrap();
    }
}

pub fn nothing_waits_where_nothing_may_and_syncs_are_shared(kind: Kind) {
    let home = tempfile::tempdir().unwrap();
    let engine = open(kind, &Options::tiny(kind), home.path());
    let mut batch = Batch::new(0);
    batch.put(&b"key"[..], &b"value"[..]);
    // Whoever keeps everything in memory answers, whoever cannot know it says so; and what it refuses changes nothing.
    let before = engine.lsn();
    match engine.apply(&batch, Tier::Memory) {
        Err(Error::WouldBlock) => assert_eq!(engine.get(b"key", Tier::Disk).unwrap(), None, "{kind}"),
        applied => assert!(applied.unwrap() > before, "{kind}"),
    }
    match engine.get(b"key", Tier::Memory) {
        Err(Error::WouldBlock) => {}
        found => assert_eq!(found.unwrap(), engine.get(b"key", Tier::Disk).unwrap(), "{kind}"),
    }
    assert_eq!(engine.apply(&Batch::new(0), Tier::Memory).unwrap(), engine.lsn(), "{kind}");

    let (sender, answers) = mpsc::channel();
    for _ in 0..3 {
        let sender = sender.clone();
        let lsn = engine.apply(&batch, Tier::Disk).unwrap();
        engine.sync_to(lsn, Box::new(move |result| sender.send(result).unwrap()));
    }
    assert!(answers.try_recv().is_err(), "{kind}: a sync is work");
    assert_eq!(engine.work(WorkClass::Log).unwrap(), Pending::More, "{kind}");
    assert_eq!(answers.try_iter().filter(Result::is_ok).count(), 3, "{kind}: one sync for all");
    engine.close().unwrap();
}

pub fn its_options_read_what_they_print_and_nonsense_is_named(kind: Kind) {
    for options in [kind.default_options(), Options::tiny(kind)] {
        options.validate().unwrap();
        let mut copy = kind.default_options();
        for setting in options.list() {
            copy.set(setting.name, &setting.value)
                .unwrap_or_else(|| panic!("{} is lost", setting.name))
                .unwrap();
        }
        assert_eq!(copy, options, "{kind}");
    }
    let mut divided = kind.default_options();
    divided.divide(4 << 20);
    divided.validate().unwrap();
    assert!(divided.common().cache_bytes <= 4 << 20, "{kind}");
    for (option, value) in kind.variants() {
        let mut options = kind.default_options();
        options.set(option, value).unwrap().unwrap();
        assert_eq!(options.get(option).as_deref(), Some(value), "{kind}");
    }
}

/// The matrix takes them like ours: bytes by the kernel's count, and `-` where no meter of ours saw anything.
pub fn it_is_compared_at_a_point(kind: Kind) {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let contender = Contender::parse(kind.name, |kind| kind.keeps).unwrap();
    let point = matrix::work::Point { data_bytes: 200_000, value_bytes: 500, update_percent: 50 };
    let work = matrix::work::Work::new(point, matrix::work::Order::Random, 1, 300, 1 << 20);
    let mut options = contender.options(1 << 20).unwrap();
    set_map(&mut options);
    let place = Place::below(home.path(), kind, true).unwrap();
    let row = cell::measure(place, &contender.name, &options, &work, 50).unwrap();
    assert_eq!((row.puts, row.logical_bytes, row.gets), (300, 300 * 516, 50), "{kind}");
    assert_eq!((row.settled_bytes, row.write_amp(), row.reads), (None, None, None), "{kind}");
    // The memory that it counts is the process's, which other tests share.
    assert!(row.written.is_empty() && row.physical_bytes > 0, "{kind}");
    assert_eq!(matrix::row::Row::from_csv(&row.csv()), Some(row.clone()), "{kind}");
    // A filesystem in memory counts nothing.
    if let Some(amplification) = row.kernel_write_amp() {
        assert!(amplification > 0.9, "{kind} wrote {amplification}");
    }
}

/// Live, as the workloads drive it: stretches are cut at boundaries at which nothing is owed.
pub fn it_settles(kind: Kind) {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mut options = Options::tiny(kind);
    set_map(&mut options);
    let place = Place::below(home.path(), kind, true).unwrap();
    let subject = Subject::open(place, &options, Pace::Simulated).unwrap();
    assert!(!subject.is_simulated(), "{kind} has threads of its own");
    let run = stretch::measure(&subject, Stretch::WRITES, |_, _| {
        let mut tally = Tally::default();
        for number in 0u64..2000 {
            let mut batch = Batch::new(0);
            batch.put(number.to_be_bytes().to_vec(), vec![1; 200]);
            subject.apply(&batch)?;
            tally.ops += 1;
        }
        Ok(tally)
    })
    .unwrap();
    assert!(
        run.tally.ops == 2000 && run.settled.door.is_none() && run.occupied.log_bytes.is_none(),
        "{kind}"
    );
    let before = subject.occupied().unwrap();
    // Nothing is owed: nothing grows any more.
    stretch::measure(&subject, Stretch::WRITES, |_, _| Ok(Tally::default())).unwrap();
    let after = subject.occupied().unwrap();
    assert!(after.bytes <= before.bytes + (1 << 20), "{kind}: {before:?} {after:?}");
    subject.close().unwrap();
}

/// Tests run with little address space.
pub fn set_map(options: &mut Options) {
    if let Some(set) = options.set("map_size", "256M") {
        set.unwrap();
    }
}
