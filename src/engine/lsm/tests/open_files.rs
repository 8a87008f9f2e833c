//! A store with more files than the process may have open.

use super::*;
use crate::disk::Pool;

/// Files that may be open: those that are being written and a few to read.
const OPEN_MAX: u64 = 12;

#[test]
fn a_store_has_more_files_than_may_be_open() {
    for (seed, value_log) in [(1, false), (2, true), (3, true)] {
        let tiny = Options::tiny();
        let options = Options { value_log, value_gc_percent: 0, table_bytes: 512, ..tiny };
        let mut sim = SimDisk::new();
        let mut prng = Prng::new(seed);
        let mut model = Model::new();
        let key = |number: u64| format!("key{number:06}").into_bytes();
        for round in 0..6 {
            sim.set_open_files_max(Some(OPEN_MAX));
            let pool = Pool::new(sim.clone(), OPEN_MAX);
            let engine = open_with(Latch::new(pool.clone()), &options).unwrap();
            assert_eq!(contents(&*engine).unwrap(), model, "round {round}");
            for _ in 0..200 {
                let mut batch = Batch::new(1);
                for _ in 0..4 {
                    let (key, value) = (key(prng.below(2000)), vec![prng.below(256) as u8; 100]);
                    if prng.one_in(9) { batch.delete(key) } else { batch.put(key, value) }
                }
                apply_patiently(&*engine, &batch).unwrap();
                apply_to(&mut model, &batch);
                let key = key(prng.below(2000));
                let found = engine.get(&key, Tier::Disk).unwrap();
                assert_eq!(found.as_deref(), model.get(&key).map(|value| &value[..]));
            }
            settle(&*engine).unwrap();
            sync(&*engine).unwrap();
            assert_eq!(contents(&*engine).unwrap(), model, "round {round}");
            run(&*engine, Command::Verify).unwrap();
            let files = sim.list().unwrap().len() as u64;
            assert!(round < 3 || files > 5 * OPEN_MAX, "{files} files");
            assert!(sim.open_files() <= OPEN_MAX && pool.open_files().reopened > 0);
            sim = match round % 3 {
                0 => sim.crash(seed),
                1 => sim.kill(),
                _ => {
                    engine.close().unwrap();
                    sim
                }
            };
        }
    }
}

/// Every request of every crash and kill passes as without the pool.
#[test]
fn files_that_were_closed_are_whole_after_a_crash() {
    for variant in variants().into_iter().take(2) {
        for stop in (20..).step_by(37) {
            let sim = SimDisk::new();
            sim.stop_at(stop);
            let history = workload(Pool::new(sim.clone(), 1), &variant, 5, 120, false);
            let (crashed, killed) = (sim.crash(stop), sim.kill());
            history.check(&*open_with(Pool::new(crashed, 1), &variant).unwrap(), history.synced);
            history.check(&*open_with(Pool::new(killed, 1), &variant).unwrap(), history.applied);
            if sim.requests() < stop {
                break;
            }
        }
    }
}
