//! How many requests to the disk opening and reading take.

use super::*;

/// Fills a store and leaves it in one level, closed.
fn filled(options: &Options, entries: u64) -> Arc<SimDisk> {
    let disk = SimDisk::new();
    let engine = open_with(disk.clone(), options).unwrap();
    let mut prng = Prng::new(1);
    for number in 0..entries {
        let mut batch = Batch::new(0);
        let noise: Vec<u8> = (0..25).flat_map(|_| prng.bits().to_le_bytes()).collect();
        batch.put(number.to_be_bytes().to_vec(), noise);
        apply_patiently(&*engine, &batch).unwrap();
    }
    run(&*engine, Command::Compact).unwrap();
    engine.close().unwrap();
    disk
}

#[test]
fn opening_takes_one_request_a_table() {
    let tiny = Options::tiny();
    let pinned = Options {
        memtable_bytes: 16 << 10,
        table_bytes: 8 << 10,
        common: Common { cache_bytes: 1 << 20, ..tiny.common },
        ..tiny
    };
    // Indexes and filters do not fit into memory; tables have several partitions.
    let lean = Options {
        part_blocks: 2,
        common: Common { cache_bytes: 2 << 10, ..pinned.common },
        ..pinned.clone()
    };
    for options in [pinned, lean] {
        let disk = filled(&options, 3000);
        let before = disk.witness().reads;
        let engine = open_with(disk.clone(), &options).unwrap();
        let reads = disk.witness().reads - before;
        let tables = engine.superversion().version.tables().count() as u64;
        let segments = disk.list().unwrap().iter().filter(|info| wal::is_segment(&info.name)).count() as u64;
        assert!(tables > 60, "{tables} tables");
        // The manifest once, and of each segment of the log the header and at most all of it.
        assert!(reads <= tables + 2 * segments + 1, "{reads} reads, {tables} tables, {segments} segments");
        run(&*engine, Command::Verify).unwrap();
    }
}

#[test]
fn a_read_takes_two_requests_where_indexes_do_not_fit_into_memory() {
    let options = Options {
        memtable_bytes: 256 << 10,
        table_bytes: 2 << 20,
        level_base_bytes: 1 << 20,
        block_bytes: 4 << 10,
        part_blocks: 128,
        common: Common { cache_bytes: 64 << 10, ..Common::tiny() },
        ..Options::tiny()
    };
    const ENTRIES: u64 = 40_000;
    const READS: u64 = 2000;
    let disk = filled(&options, ENTRIES);
    let engine = open_with(disk.clone(), &options).unwrap();
    let mut prng = Prng::new(2);
    let before = disk.witness();
    for _ in 0..READS {
        let key = prng.below(ENTRIES).to_be_bytes();
        assert!(matches!(engine.get(&key, Tier::Memory), Ok(Some(_)) | Err(Error::WouldBlock)));
        assert_eq!(engine.get(&key, Tier::Disk).unwrap().map(|value| value.len()), Some(200));
    }
    let after = disk.witness();
    let per_read = (after.reads - before.reads) as f64 / READS as f64;
    let bytes = (after.read_bytes - before.read_bytes) / READS;
    let misses = engine.shape().cache.all.misses;
    assert!(per_read <= 2.0, "{per_read} requests a read, {bytes} bytes");
    assert!(per_read > 1.5, "{per_read} requests a read: the cache is too large to show anything");
    assert_eq!(misses, after.reads - before.reads, "each request is the miss of one piece");
}

#[test]
#[ignore = "long: a measurement"]
fn opening_and_changing_a_store_of_five_thousand_tables() {
    let options = Options {
        memtable_bytes: 64 << 10,
        table_bytes: 1 << 10,
        slice_tables: 0,
        level_base_bytes: 1 << 20,
        common: Common { cache_bytes: 16 << 20, ..Common::tiny() },
        ..Options::tiny()
    };
    let disk = filled(&options, 24_000);
    let (before, began) = (disk.witness(), cpu_time());
    let engine = open_with(disk.clone(), &options).unwrap();
    let (after, opened) = (disk.witness(), cpu_time() - began);
    let tables = engine.superversion().version.tables().count();
    let (reads, bytes) = (after.reads - before.reads, after.read_bytes - before.read_bytes);
    println!("{tables} tables: opened in {opened:?}, {reads} reads of {bytes} bytes");
    const FLUSHES: u32 = 100;
    let mut spent = Duration::ZERO;
    for number in 0..FLUSHES {
        let mut batch = Batch::new(0);
        batch.put(number.to_be_bytes().to_vec(), &b"value"[..]);
        apply_patiently(&*engine, &batch).unwrap();
        engine.writer.rotate_now();
        let began = cpu_time();
        assert!(engine.flusher.flush().unwrap());
        spent += cpu_time() - began;
        settle(&*engine).unwrap();
    }
    println!("a flush of one entry: {:?}", spent / FLUSHES);
}
