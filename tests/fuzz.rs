//! Decoders on damaged bytes: whatever the bytes, no panic, no endless loop, and no wrong answer that claims to be right. The
//! decoders are plain functions over bytes ([`kvfs::decoders`]); here they run on seeded mutations of valid input, as smoke, and
//! `fuzz/` gives them to a fuzzer.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use kvfs::base::clock::ManualClock;
use kvfs::base::prng::Prng;
use kvfs::disk::{Disk, Purpose, SimDisk};
use kvfs::engine::wal::Log;
use kvfs::engine::{
    self, Batch, Command, Engine, Error, KeyRange, Kind, Lsn, Options, Sync, Tier, WakeSignal, WorkClass,
};

/// Copies of `bytes` with bits turned, bytes replaced, cut off, doubled or moved.
fn mutations(bytes: &[u8], seed: u64, count: usize) -> Vec<Vec<u8>> {
    let mut prng = Prng::new(seed);
    let mut all = Vec::new();
    for _ in 0..count {
        let mut copy = bytes.to_vec();
        for _ in 0..1 + prng.below(4) {
            if copy.is_empty() {
                copy.push(prng.bits() as u8);
                continue;
            }
            let at = prng.below(copy.len() as u64) as usize;
            match prng.below(6) {
                0 => copy[at] ^= 1 << prng.below(8),
                1 => copy[at] = prng.bits() as u8,
                2 => copy.truncate(at),
                3 => copy.insert(at, prng.bits() as u8),
                4 => copy[at] = 0xff,
                _ => {
                    let tail = copy[at..].to_vec();
                    copy.extend(tail);
                }
            }
        }
        all.push(copy);
    }
    all
}

/// The ones that people wrote, and the longest numbers.
const ODD_TEXTS: &[&str] = &["18446744073709551615T", "999999999999999999m", "-1", "0x10", "4 K", ""];

#[test]
fn decoders() {
    let mut names = BTreeSet::new();
    for decoder in kvfs::decoders::all() {
        let name = decoder.name;
        assert!(names.insert(name), "two decoders are called {name}");
        let mut refused = 0;
        for (seed, valid) in (decoder.valid)().into_iter().enumerate() {
            // Where `fuzz/run.sh` begins.
            if let Some(corpus) = std::env::var_os("KVFS_FUZZ_CORPUS").map(PathBuf::from) {
                std::fs::create_dir_all(corpus.join(name)).unwrap();
                std::fs::write(corpus.join(name).join(format!("valid-{seed}")), &valid).unwrap();
            }
            assert!((decoder.decode)(&valid), "{name} does not read what our own code wrote");
            let count = if valid.len() > 1000 { 400 } else { 3000 };
            for bytes in mutations(&valid, seed as u64, count) {
                match catch_unwind(|| (decoder.decode)(&bytes)) {
                    Ok(is_read) => refused += u64::from(!is_read),
                    Err(_) => panic!("{name} on {}", bytes.escape_ascii()),
                }
            }
        }
        // Any bytes are numbers, and every request has an answer.
        assert!(refused > 0 || ["varint", "http_request"].contains(&name), "{name} takes everything");
        for text in ODD_TEXTS {
            (decoder.decode)(text.as_bytes());
        }
    }
    assert!(names.len() > 20, "{names:?}");
}

/// A disk with one file replaced.
fn with_file(disk: &SimDisk, name: &str, bytes: &[u8]) -> Arc<SimDisk> {
    let copy = disk.kill();
    copy.remove(name).unwrap();
    copy.create(name).unwrap().write_at(Purpose::Recovery, 0, bytes).unwrap();
    copy
}

fn read(disk: &SimDisk, name: &str) -> Vec<u8> {
    kvfs::disk::read_all(&*disk.open(name).unwrap(), Purpose::Recovery).unwrap()
}

#[test]
fn log_segments() {
    let disk = SimDisk::new();
    let open = |disk: Arc<SimDisk>| {
        let mut records = Vec::new();
        let clock = Arc::new(ManualClock::default());
        Log::open(
            disk,
            clock,
            Arc::new(WakeSignal::new()),
            Sync::Fsync,
            2048,
            Lsn::ZERO,
            &Default::default(),
            &mut |_, _, payload| {
                records.push(payload);
                Ok(())
            },
        )
        .map(|log| (log, records))
    };
    let mut written = Vec::new();
    let (log, _) = open(disk.clone()).unwrap();
    for index in 0..20u8 {
        log.append(2, Purpose::Wal, 100, |target| target.extend_from_slice(&[index; 100])).unwrap();
        written.push(Bytes::from(vec![index; 100]));
    }
    drop(log);
    for info in disk.list().unwrap() {
        for bytes in mutations(&read(&disk, &info.name), 4, 60) {
            if let Ok((_, records)) = open(with_file(&disk, &info.name, &bytes)) {
                assert!(written.starts_with(&records), "records that nobody wrote");
            }
        }
    }
}

/// Whole stores with one file damaged: opened, read and verified, they give right data or an error.
fn stores(kind: Kind) {
    let options = Options::tiny(kind);
    let disk = SimDisk::new();
    let open = |disk: Arc<SimDisk>| engine::open(disk, Arc::new(ManualClock::default()), &options);
    let engine = open(disk.clone()).unwrap();
    for index in 0..120u32 {
        let mut batch = Batch::new(0);
        batch.put(format!("key{:03}", index % 70), vec![index as u8; (index * 37 % 3000) as usize]);
        while engine.apply(&batch, Tier::Disk).is_err() {
            engine::settle(&*engine).unwrap();
        }
    }
    engine.close().unwrap();
    drop(engine);
    let mut opened = 0;
    for info in disk.list().unwrap() {
        for bytes in mutations(&read(&disk, &info.name), 5, 25) {
            let Ok(engine) = open(with_file(&disk, &info.name, &bytes)) else { continue };
            opened += 1;
            for index in 0..70u32 {
                if let Ok(Some(value)) = engine.get(format!("key{index:03}").as_bytes(), Tier::Disk) {
                    assert!(
                        value.iter().all(|byte| u32::from(*byte) % 70 == index % 70),
                        "{}: wrong data",
                        info.name
                    );
                }
            }
            let _ = engine
                .scan(engine::KeyRange::ALL, Tier::Disk, &mut |_, _| std::ops::ControlFlow::Continue(()));
            let _ = engine::run(&*engine, Command::Verify);
        }
    }
    assert!(opened > 0, "every damage was refused: nothing was tested");
}

#[test]
fn lsm_stores() {
    stores(Kind::LSM);
}

#[test]
fn btree_stores() {
    stores(Kind::BTREE);
}

#[test]
fn hybrid_stores() {
    stores(Kind::HYBRID);
}

/// What a key may read as: one value, or several after a change that failed.
type Allowed = BTreeMap<Vec<u8>, Vec<Option<Vec<u8>>>>;

fn key_of(number: u64) -> Vec<u8> {
    format!("key{number:03}").into_bytes()
}

fn value_of(prng: &mut Prng) -> Vec<u8> {
    let length = if prng.one_in(5) { 2048 + prng.below(5000) } else { prng.below(200) };
    vec![prng.bits() as u8; length as usize]
}

/// Background work; a damaged store may refuse some of it.
fn work(engine: &dyn Engine) {
    for class in [WorkClass::Log, WorkClass::Flush, WorkClass::Merge, WorkClass::Reclaim] {
        let _ = engine.work(class);
    }
}

/// Runs a command; it must end, well or not.
fn ends(engine: &dyn Engine, command: Command, what: &str) {
    let ended = Arc::new(AtomicBool::new(false));
    let told = ended.clone();
    engine.run(command, Box::new(move |_| told.store(true, Ordering::Release)));
    for _ in 0..2000 {
        if ended.load(Ordering::Acquire) {
            return;
        }
        work(engine);
    }
    panic!("{what}: {command:?} does not end");
}

/// Applies a batch; it must be taken or refused in the end.
fn ends_batch(engine: &dyn Engine, batch: &Batch, what: &str) -> Result<(), Error> {
    for _ in 0..300 {
        match engine.apply(batch, Tier::Disk) {
            Err(Error::Busy { .. }) => work(engine),
            other => return other.map(|_| ()),
        }
    }
    panic!("{what}: a batch waits for ever");
}

fn holds(allowed: &Allowed, key: &[u8], found: Option<&[u8]>, what: &str) {
    let may = allowed.get(key).map_or(&[None][..], Vec::as_slice);
    assert!(may.iter().any(|value| value.as_deref() == found), "{what}: wrong data for {key:?}");
}

/// One change at random, of the store and of what it may hold.
fn change(engine: &dyn Engine, prng: &mut Prng, allowed: &mut Allowed, what: &str) {
    let key = key_of(prng.below(150));
    let mut batch = Batch::new(0);
    let value = (!prng.one_in(4)).then(|| value_of(prng));
    match &value {
        Some(value) => batch.put(key.clone(), value.clone()),
        None => batch.delete(key.clone()),
    }
    match ends_batch(engine, &batch, what) {
        Ok(()) => drop(allowed.insert(key, vec![value])),
        Err(_) => allowed.entry(key).or_insert_with(|| vec![None]).push(value),
    }
}

/// Whole stores with a few bits of one file turned, read and written to: each answer is right or an error, and each call ends.
fn stores_under_writes(kind: Kind, torn: &str, rounds: u64) {
    let options = Options::tiny(kind).with(&format!("dirty_max=24K,torn={torn}")).unwrap();
    let disk = SimDisk::new();
    let open = |disk: Arc<SimDisk>| engine::open(disk, Arc::new(ManualClock::default()), &options);
    let engine = open(disk.clone()).unwrap();
    let (mut prng, mut allowed) = (Prng::new(8), Allowed::new());
    for step in 0..500 {
        change(&*engine, &mut prng, &mut allowed, "whole");
        if step % 9 == 0 {
            work(&*engine);
        }
    }
    // What is in the log alone may end early after damage to its end.
    engine::run(&*engine, Command::Flush).unwrap();
    engine.close().unwrap();
    drop(engine);
    let mut opened = 0;
    for info in disk.list().unwrap() {
        for round in 0..rounds {
            let what = format!("{kind} {} round {round}", info.name);
            let mut prng = Prng::new(round);
            let mut bytes = read(&disk, &info.name);
            for _ in 0..1 + prng.below(3) {
                let at = prng.below(bytes.len() as u64) as usize;
                bytes[at] ^= 1 << prng.below(8);
            }
            let damaged = with_file(&disk, &info.name, &bytes);
            let Ok(engine) = open(damaged.clone()) else { continue };
            opened += 1;
            let mut allowed = allowed.clone();
            for _ in 0..60 {
                match prng.below(10) {
                    0..4 => change(&*engine, &mut prng, &mut allowed, &what),
                    4..7 => {
                        let key = key_of(prng.below(150));
                        if let Ok(found) = engine.get(&key, Tier::Disk) {
                            holds(&allowed, &key, found.as_deref(), &what);
                        }
                    }
                    7 => {
                        let start = key_of(prng.below(150));
                        let mut found = BTreeMap::new();
                        let scanned = engine.scan(
                            KeyRange { start: &start, end: None },
                            Tier::Disk,
                            &mut |key, value| {
                                holds(&allowed, key, Some(value), &what);
                                found.insert(key.to_vec(), value.to_vec());
                                ControlFlow::Continue(())
                            },
                        );
                        for (key, _) in allowed.range(start.clone()..).filter(|_| scanned.is_ok()) {
                            holds(&allowed, key, found.get(key).map(Vec::as_slice), &what);
                        }
                    }
                    8 => work(&*engine),
                    _ if prng.one_in(3) => ends(&*engine, Command::Checkpoint, &what),
                    _ => {}
                }
            }
            ends(&*engine, Command::Verify, &what);
            if prng.one_in(2) {
                let _ = engine.close();
            }
            drop(engine);
            // A process that ends takes nothing with it that it had accepted.
            let Ok(engine) = open(damaged.kill()) else { continue };
            for number in 0..150 {
                let key = key_of(number);
                if let Ok(found) = engine.get(&key, Tier::Disk) {
                    holds(&allowed, &key, found.as_deref(), &what);
                }
            }
        }
    }
    assert!(opened > 0, "every damage was refused: nothing was tested");
}

#[test]
fn btree_stores_under_writes() {
    stores_under_writes(Kind::BTREE, "delta", 20);
    stores_under_writes(Kind::BTREE, "doublewrite", 8);
    stores_under_writes(Kind::BTREE, "image", 8);
}

#[test]
fn lsm_stores_under_writes() {
    stores_under_writes(Kind::LSM, "delta", 6);
}

/// Proves that the harness can fail.
#[test]
#[should_panic(expected = "canary")]
fn canary() {
    for bytes in mutations(b"sing", 6, 500) {
        assert!(bytes.first() != Some(&b'S'), "canary");
    }
}
