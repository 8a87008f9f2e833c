//! Benchmarks.

use super::*;

const KEYS: u32 = 6000;

fn key(number: u32) -> Vec<u8> {
    format!("inode {:08x} block {:08x}", number / 16, number).into_bytes()
}

/// Batches of two small values, with a large one or a delete at times.
#[inline(never)]
fn applies(engine: &BtreeEngine, prng: &mut Prng) {
    for number in 0..KEYS {
        let mut batch = Batch::new(0);
        batch.put(key(number), vec![7; 100]);
        batch.put(key(prng.below(u64::from(KEYS)) as u32), vec![8; 150]);
        if number % 4 == 0 {
            batch.put(key(KEYS + number), vec![9; 4096]);
        }
        if number % 8 == 0 {
            batch.delete(key(prng.below(u64::from(KEYS)) as u32));
        }
        engine.apply(&batch, Tier::Disk).unwrap();
    }
}

#[inline(never)]
fn works(engine: &BtreeEngine) {
    run(engine, Command::Checkpoint).unwrap();
}

#[inline(never)]
fn gets(engine: &BtreeEngine, prng: &mut Prng) -> usize {
    let keys = (0..4 * KEYS).map(|_| key(prng.below(u64::from(2 * KEYS)) as u32));
    keys.filter(|key| engine.get(key, Tier::Disk).unwrap().is_some()).count()
}

/// Instructions of `applies`, `works` and `gets`, with everything in memory. Run the test binary under `valgrind --tool=callgrind`, then
/// `callgrind_annotate --inclusive=yes`. The counts do not depend on the load of the machine.
#[test]
#[ignore = "a benchmark, to be run under callgrind"]
fn instructions() {
    let engine = open_on(SimDisk::new(), &large()).unwrap();
    let mut prng = Prng::new(1);
    for _ in 0..2 {
        applies(&engine, &mut prng);
        works(&engine);
        assert!(gets(&engine, &mut prng) > KEYS as usize);
    }
}
