//! Readers, writers and checkpoints at once.

use super::*;

#[test]
fn readers_writers_and_checkpoints_at_once_never_see_old_bytes() {
    for mode in [Mode::DELTA, Mode::COW, Mode::COW_EXTENT] {
        check_at_once(mode, Duration::from_millis(500));
    }
}

#[test]
#[ignore = "long: readers, a writer and checkpoints for twenty seconds in each mode"]
fn readers_writers_and_checkpoints_at_once_never_see_old_bytes_for_long() {
    for mode in MODES {
        check_at_once(mode, Duration::from_secs(20));
    }
}

/// Batches that are applied at least, however slow the machine is.
const VERSIONS_MIN: u64 = 200;

fn check_at_once(mode: Mode, span: Duration) {
    let sim = SimDisk::new();
    let options = mode.of(Options { common: Common { cache_bytes: 64 << 10, ..tiny().common }, ..tiny() });
    let engine = open(sim.clone(), Arc::new(SystemClock::new()), &options).unwrap();
    let worker = Worker::start(engine.clone()).unwrap();
    let stop = AtomicBool::new(false);
    let value = |key: u8, version: u64| {
        let mut value = version.to_le_bytes().to_vec();
        value.resize([40, 900, 2500, 9000][usize::from(key % 4)], key);
        value
    };
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let (engine, stop) = (&engine, &stop);
            scope.spawn(move || {
                let mut prng = Prng::new(reader);
                let mut newest = [0u64; 64];
                let mut check = |key: u8, bytes: &[u8]| {
                    let version = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                    assert!(bytes[8..].iter().all(|byte| *byte == key));
                    assert!(version >= newest[usize::from(key)], "key {key} went back");
                    newest[usize::from(key)] = version;
                };
                while !stop.load(Relaxed) {
                    let key = prng.below(64) as u8;
                    if prng.one_in(4) {
                        let visit: &mut Visit<'_> = &mut |key, bytes| {
                            check(key[0], bytes);
                            ControlFlow::Continue(())
                        };
                        engine.scan(KeyRange { start: &[key], end: None }, Tier::Disk, visit).unwrap();
                    } else if let Some(bytes) = engine.get(&[key], Tier::Disk).unwrap() {
                        check(key, &bytes);
                    }
                }
            });
        }
        let mut prng = Prng::new(9);
        let started = std::time::Instant::now();
        let mut version = 0;
        while started.elapsed() < span || version < VERSIONS_MIN {
            version += 1;
            let mut batch = Batch::new(0);
            for _ in 0..3 {
                let key = prng.below(64) as u8;
                if prng.one_in(5) {
                    batch.delete(vec![key])
                } else {
                    batch.put(vec![key], value(key, version))
                }
            }
            let seen = engine.wake_signal().seen(WorkClass::Room);
            while let Err(error) = engine.apply(&batch, Tier::Disk) {
                assert!(matches!(error, Error::Busy { .. }), "{error}");
                engine.wake_signal().wait(WorkClass::Room, seen, RETRY_AFTER);
            }
        }
        stop.store(true, Relaxed);
    });
    worker.stop();
    run(&*engine, Command::Verify).unwrap();
    assert!(engine.shape().tree.unwrap().checkpoints > 5);
    engine.close().unwrap();
}
