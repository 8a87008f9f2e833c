//! Scans and read-ahead.

use super::*;

#[test]
fn ascending_keys_fill_pages_and_sequential_values_are_read_in_few_requests() {
    let sim = SimDisk::new();
    let options = Options {
        dirty_bytes_max: 8 << 20,
        common: Common { cache_bytes: 16 << 20, ..tiny().common },
        ..tiny()
    };
    let engine = open_on(sim.clone(), &options).unwrap();
    // There are keys behind the growing ones: the split is at the right edge of the file, not of the tree.
    for key in 0..20 {
        let mut batch = Batch::new(0);
        batch.put(format!("z{key:06}"), vec![1; 20]);
        apply(&engine, &batch).unwrap();
    }
    for block in 0..512u32 {
        let mut batch = Batch::new(0);
        batch.put([&b"d/file/"[..], &block.to_be_bytes()].concat(), vec![block as u8; 4096]);
        apply(&engine, &batch).unwrap();
    }
    engine.close().unwrap();
    let engine = open_on(sim.clone(), &options).unwrap();
    let fill = engine.shape().tree.unwrap().fill;
    assert!(fill > 0.75, "{fill}");
    let before = sim.witness();
    let (start, end) =
        ([&b"d/file/"[..], &64u32.to_be_bytes()].concat(), [&b"d/file/"[..], &96u32.to_be_bytes()].concat());
    let range = KeyRange { start: &start, end: Some(&end) };
    assert!(matches!(engine.scan(range, Tier::Memory, &mut |_, _| panic!()), Err(Error::WouldBlock)));
    let mut blocks = 0;
    engine
        .scan(range, Tier::Disk, &mut |_, value| {
            assert_eq!(value, [64 + blocks; 4096]);
            blocks += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(blocks, 32);
    let reads = sim.witness().reads - before.reads;
    assert!(reads <= 8, "{reads} reads");
    engine.scan(range, Tier::Memory, &mut |_, _| ControlFlow::Continue(())).unwrap();
}

/// Reads blocks `from..to` of the file of `file_block`, and checks them.
fn read_blocks(engine: &BtreeEngine, from: u32, to: u32) {
    let (start, end) = (file_block(from), file_block(to));
    let range = KeyRange { start: &start, end: Some(&end) };
    let mut blocks = from;
    let visit: &mut Visit<'_> = &mut |_, value| {
        assert_eq!(value, [blocks as u8; 4096]);
        blocks += 1;
        ControlFlow::Continue(())
    };
    // As a mount does: first in tier Memory.
    match engine.scan(range, Tier::Memory, visit) {
        Err(Error::WouldBlock) => {
            engine.scan(range, Tier::Disk, visit).unwrap();
        }
        other => other.unwrap(),
    }
    assert_eq!(blocks, to);
}

fn file_block(block: u32) -> Vec<u8> {
    [&b"d/file/"[..], &u64::from(block).to_be_bytes()].concat()
}

#[test]
fn a_file_that_is_read_in_a_row_is_read_ahead_in_large_requests_and_no_further_than_its_end() {
    let metered = Metered::new(SimDisk::new());
    let options = Options { common: Common { cache_bytes: 32 << 20, ..large().common }, ..large() };
    let engine = open_on(metered.clone(), &options).unwrap();
    for block in (0..2048u32).step_by(32) {
        let mut batch = Batch::new(0);
        (block..block + 32).for_each(|block| batch.put(file_block(block), vec![block as u8; 4096]));
        apply(&engine, &batch).unwrap();
    }
    // Another file behind it.
    for block in 0..64u32 {
        let mut batch = Batch::new(0);
        batch.put([&b"d/gile/"[..], &u64::from(block).to_be_bytes()].concat(), vec![1; 4096]);
        apply(&engine, &batch).unwrap();
    }
    engine.close().unwrap();
    let homes = metered.snapshot().of(Purpose::Checkpoint);
    assert!(homes.write_bytes / homes.writes > 400 << 10, "{homes:?}");
    let scanned = |engine: &BtreeEngine, reads: &dyn Fn(&BtreeEngine)| {
        let before = metered.snapshot();
        reads(engine);
        metered.snapshot().since(&before).of(Purpose::Scan)
    };
    let engine = open_on(metered.clone(), &options).unwrap();
    let row =
        scanned(&engine, &|engine| (0..2048).step_by(32).for_each(|at| read_blocks(engine, at, at + 32)));
    let leaves = engine.shape().tree.unwrap().leaf_misses;
    assert!(row.reads - leaves < 20, "{row:?} for 64 scans");
    assert!(row.read_bytes < (8 << 20) + (400 << 10), "{row:?}: read twice, or too far");
    // Random reads: no read-ahead.
    let engine = open_on(metered.clone(), &options).unwrap();
    let there = |engine: &BtreeEngine| {
        [0, 700, 200, 1500, 1000].iter().for_each(|at| read_blocks(engine, *at, at + 8))
    };
    let scattered = scanned(&engine, &there);
    assert!(scattered.read_bytes < (5 * 8 + 5 * 4) * 4096, "{scattered:?}");
    // A damaged value that only read-ahead touches.
    let sim = SimDisk::new();
    let engine = open_on(sim.clone(), &options).unwrap();
    for block in 0..128u32 {
        let mut batch = Batch::new(0);
        batch.put(file_block(block), vec![block as u8; 4096]);
        apply(&engine, &batch).unwrap();
    }
    engine.close().unwrap();
    let mut bytes = vec![0; sim.open(allocation_unit::FILE).unwrap().size().unwrap() as usize];
    sim.open(allocation_unit::FILE).unwrap().read_at(Purpose::Recovery, 0, &mut bytes).unwrap();
    let at = bytes.windows(4096).position(|window| window == [110; 4096]).unwrap();
    assert!(sim.flip_bit(allocation_unit::FILE, at as u64 * 8 + 5));
    let engine = open_on(sim, &options).unwrap();
    read_blocks(&engine, 0, 32);
    read_blocks(&engine, 32, 64);
    read_blocks(&engine, 64, 96);
}

#[test]
fn a_long_scan_reads_many_leaves_with_a_request() {
    let metered = Metered::new(SimDisk::new());
    let options = large();
    let engine = open_on(metered.clone(), &options).unwrap();
    fill(&engine, 4000, 100);
    engine.close().unwrap();
    let engine = open_on(metered.clone(), &options).unwrap();
    let leaves = engine.shape().tree.unwrap().leaf_pages;
    let before = metered.snapshot();
    assert_eq!(contents(&*engine).unwrap().len(), 4000);
    let scan = metered.snapshot().since(&before).of(Purpose::Scan);
    assert!(leaves > 200 && scan.reads < leaves / 4, "{scan:?} for {leaves} leaves");
}

#[test]
fn a_long_scan_leaves_hot_pages_and_the_way_to_them_in_memory() {
    let sim = SimDisk::new();
    let options = Options {
        dirty_bytes_max: 1 << 20,
        common: Common { cache_bytes: 384 << 10, ..tiny().common },
        ..tiny()
    };
    let engine = open_on(sim.clone(), &options).unwrap();
    fill(&engine, 2000, 600);
    engine.close().unwrap();
    let engine = open_on(sim.clone(), &options).unwrap();
    let warm =
        || (0..40).for_each(|key| assert!(engine.get(&long_key(key * 50), Tier::Disk).unwrap().is_some()));
    (0..10).for_each(|_| warm());
    let before = engine.shape().tree.unwrap();
    assert_eq!(contents(&*engine).unwrap().len(), 2000);
    let scanned = engine.shape().tree.unwrap();
    assert!(scanned.leaf_misses - before.leaf_misses > 200, "{scanned:?}");
    warm();
    let after = engine.shape().tree.unwrap();
    assert!(after.leaf_misses - scanned.leaf_misses <= 10, "{scanned:?} {after:?}");
    assert!(after.inner_misses - before.inner_misses <= 8, "{before:?} {after:?}");
    assert!(after.inner_hits > before.inner_hits && after.extent_hits + after.extent_misses == 0);
}
