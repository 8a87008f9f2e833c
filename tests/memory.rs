//! What an engine holds in memory is what it says, and no more than it may: every byte of the heap is counted here.

#[path = "support/engines.rs"]
#[allow(dead_code)]
mod engines;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use engines::{apply, open};
use kvfs::advise::grid::{Base, Design};
use kvfs::advise::source::Recorded;
use kvfs::advise::steps::StepBuilder;
use kvfs::compare::unsynced::Unsynced;
use kvfs::disk::{Access, OsDisk};
use kvfs::engine::{self, Batch, Command, Engine, Kind, Options, Tier, settle};
use kvfs::mount::open_store;
use kvfs::store::Terms;

/// Counts what lives on the heap, the most that did, and what was ever asked for.
struct Counting;

static LIVE: AtomicU64 = AtomicU64::new(0);
static PEAK: AtomicU64 = AtomicU64::new(0);
static TAKEN: AtomicU64 = AtomicU64::new(0);
static REQUESTS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed to the system's allocator as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let bytes = layout.size() as u64;
        PEAK.fetch_max(LIVE.fetch_add(bytes, Relaxed) + bytes, Relaxed);
        TAKEN.fetch_add(bytes, Relaxed);
        REQUESTS.fetch_add(1, Relaxed);
        // SAFETY: the caller's promise is ours.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as u64, Relaxed);
        // SAFETY: it came from `alloc` above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static HEAP: Counting = Counting;

/// The heap is of the whole process, so one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

const MEMORY_BYTES: u64 = 64 << 20;
const REQUEST_BYTES: usize = 1 << 20;
const BLOCK_BYTES: usize = 4 << 10;

/// Options of a mount with `memory=64M`.
fn options(kind: Kind) -> Options {
    kind.default_options().with("memory=64M").unwrap()
}

/// The blocks of one request of a program: slices of its buffer.
fn request(first_block: usize, fill: u8) -> Batch {
    let buffer = Bytes::from(vec![fill; REQUEST_BYTES]);
    let mut batch = Batch::new(0);
    for index in 0..REQUEST_BYTES / BLOCK_BYTES {
        let value = buffer.slice(index * BLOCK_BYTES..(index + 1) * BLOCK_BYTES);
        batch.put(format!("block {:08}", first_block + index).into_bytes(), value);
    }
    batch
}

/// Holds the heap that grew since `before` to what `engine` says of it, and to its limit.
fn check(engine: &dyn Engine, before: u64, when: &str) {
    let live = LIVE.load(Relaxed).saturating_sub(before);
    let memory = engine.shape().memory;
    assert_eq!(memory.limit_bytes, Some(MEMORY_BYTES));
    assert!(live <= MEMORY_BYTES + MEMORY_BYTES / 10, "{when}: {live} bytes live, {memory:?}");
    assert!(live <= memory.used_bytes.unwrap() + MEMORY_BYTES / 10, "{when}: {live} bytes live, {memory:?}");
}

/// A request that overlaps the one before but for one block leaves one block of that behind: not its buffer, nor, when the log is
/// replayed, the segment it lies in.
fn what_is_kept_keeps_nothing_else(kind: Kind) {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let home = tempfile::tempdir().unwrap();
    let options = options(kind);
    let before = LIVE.load(Relaxed);
    let engine = open(OsDisk::open(home.path(), Access::Write).unwrap(), &options).unwrap();
    for index in 0..256 {
        apply(&*engine, &request(index, index as u8)).unwrap();
    }
    check(&*engine, before, "written");
    settle(&*engine).unwrap();
    check(&*engine, before, "settled");
    // Killed: nothing is closed.
    drop(engine);
    let disk: Arc<OsDisk> = OsDisk::open(home.path(), Access::Write).unwrap();
    let engine = open(disk, &options).unwrap();
    check(&*engine, before, "opened again");
}

#[test]
fn a_kept_value_keeps_nothing_else_lsm() {
    what_is_kept_keeps_nothing_else(Kind::LSM);
}

#[test]
fn a_kept_value_keeps_nothing_else_btree() {
    what_is_kept_keeps_nothing_else(Kind::BTREE);
}

#[test]
fn a_kept_value_keeps_nothing_else_hybrid() {
    what_is_kept_keeps_nothing_else(Kind::HYBRID);
}

/// A log that was written with large memtables is replayed with small ones: what does not fit goes to tables while it is read.
#[test]
fn a_long_log_is_replayed_in_bounded_memory() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let home = tempfile::tempdir().unwrap();
    let large = Kind::LSM.default_options();
    let engine = open(OsDisk::open(home.path(), Access::Write).unwrap(), &large).unwrap();
    for index in 0..120 {
        apply(&*engine, &request(index * 256, index as u8)).unwrap();
    }
    assert!(engine.shape().debt.replay_bytes > Some(100 << 20));
    drop(engine);
    let disk: Arc<OsDisk> = OsDisk::open(home.path(), Access::Write).unwrap();
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let engine = open(disk, &options(Kind::LSM)).unwrap();
    let peak = PEAK.load(Relaxed) - before;
    // Half of it are memtables.
    assert!(peak <= MEMORY_BYTES / 8 * 5, "{peak} bytes at most while opening");
    check(&*engine, before, "opened");
    let shape = engine.shape();
    assert!(
        shape.debt.replay_bytes.unwrap() <= 2 * shape.memory.memtable_bytes_max.unwrap(),
        "{:?}",
        shape.debt
    );
    for block in [0, 255, 256, 20_000, 120 * 256 - 1] {
        let value = engine.get(format!("block {block:08}").as_bytes(), Tier::Disk).unwrap();
        assert_eq!(value.unwrap(), vec![(block / 256) as u8; BLOCK_BYTES]);
    }
}

/// The same for pages: what does not fit is brought home by checkpoints while the log is read, within the memory of the mount.
#[test]
fn a_long_log_of_pages_is_replayed_in_the_memory_of_the_mount() {
    const REQUESTS: usize = 199;
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for small in [false, true] {
        let home = tempfile::tempdir().unwrap();
        let large = Kind::BTREE.default_options().with("dirty_max=1G,checkpoint_log=1G").unwrap();
        let engine = open(OsDisk::open(home.path(), Access::Write).unwrap(), &large).unwrap();
        for index in 0..REQUESTS {
            let batch = if small { scattered(index) } else { request(index * 256, index as u8) };
            apply(&*engine, &batch).unwrap();
        }
        drop(engine);
        let disk: Arc<OsDisk> = OsDisk::open(home.path(), Access::Write).unwrap();
        let before = LIVE.load(Relaxed);
        PEAK.store(before, Relaxed);
        let engine = open(disk, &options(Kind::BTREE)).unwrap();
        let peak = PEAK.load(Relaxed) - before;
        let bound = MEMORY_BYTES + MEMORY_BYTES / 20;
        assert!(peak <= bound, "{peak} bytes at most while opening, where {bound} may be taken");
        check(&*engine, before, "opened");
        let tree = engine.shape().tree.unwrap();
        assert!(tree.recovery_bytes > (REQUESTS as u64) << 20, "{tree:?}");
        assert!(tree.checkpoints > 5, "{tree:?}");
        if !small {
            for block in [0, 255, 256, 20_000, REQUESTS * 256 - 1] {
                let value = engine.get(format!("block {block:08}").as_bytes(), Tier::Disk).unwrap();
                assert_eq!(value.unwrap(), vec![(block / 256) as u8; BLOCK_BYTES]);
            }
        }
    }
}

/// A MiB of small values all over the keys.
fn scattered(nth: usize) -> Batch {
    let mut batch = Batch::new(0);
    for index in 0..REQUEST_BYTES / 1000 {
        let key = (nth * 1048 + index) as u64;
        let key = key.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes();
        batch.put(key.to_vec(), vec![nth as u8; 1000]);
    }
    batch
}

/// Free space in many pieces: it used to cost 53 bytes a piece.
#[test]
fn many_holes_in_a_file_take_little_memory() {
    const BLOCKS: usize = 40 << 10;
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let home = tempfile::tempdir().unwrap();
    let engine = open(OsDisk::open(home.path(), Access::Write).unwrap(), &options(Kind::BTREE)).unwrap();
    for first in (0..BLOCKS).step_by(REQUEST_BYTES / BLOCK_BYTES) {
        apply(&*engine, &request(first, 1)).unwrap();
    }
    let live = || {
        // What was deleted is free once a checkpoint says so.
        engine::run(&*engine, Command::Checkpoint).unwrap();
        settle(&*engine).unwrap();
        engine::run(&*engine, Command::DropCaches).unwrap();
        LIVE.load(Relaxed)
    };
    let before = live();
    for first in (0..BLOCKS).step_by(256) {
        let mut batch = Batch::new(0);
        (first..first + 256)
            .step_by(2)
            .for_each(|block| batch.delete(format!("block {block:08}").into_bytes()));
        apply(&*engine, &batch).unwrap();
    }
    let holes = BLOCKS / 2;
    let grown = live().saturating_sub(before);
    assert!(engine.shape().tree.unwrap().free_bytes >= (holes * BLOCK_BYTES) as u64);
    assert!(grown < 200 << 10, "{grown} bytes for {holes} holes");
}

/// A read-only mount keeps in memory what a recovery changes: within the same limit, and otherwise it is recovered in place.
#[test]
fn a_long_log_is_replayed_for_a_read_only_mount_in_bounded_memory() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let given = |options: &[(&str, &str)]| -> Vec<(String, String)> {
        options.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    };
    for requests in [12, 120] {
        let home = tempfile::tempdir().unwrap();
        let store = open_store(home.path(), &given(&[("engine", "lsm")]), Terms::default()).unwrap();
        for index in 0..requests {
            apply(&*store.engine, &request(index * 256, index as u8)).unwrap();
        }
        // Killed: nothing is closed.
        drop(store);
        let files = |home: &std::path::Path| -> Vec<_> {
            let entries = std::fs::read_dir(home).unwrap().map(|entry| entry.unwrap());
            let mut files: Vec<_> = entries
                .map(|entry| (entry.file_name(), entry.metadata().unwrap().modified().unwrap()))
                .collect();
            files.sort();
            files
        };
        let found = files(home.path());
        let before = LIVE.load(Relaxed);
        PEAK.store(before, Relaxed);
        let options = given(&[("memory", "64M"), ("read_only", "on")]);
        let store = open_store(home.path(), &options, Terms::default()).unwrap();
        let peak = PEAK.load(Relaxed) - before;
        assert!(peak <= MEMORY_BYTES, "{peak} bytes at most while opening");
        assert_eq!(files(home.path()) == found, requests == 12, "in place only what does not fit");
        for block in [0, 255, 256, requests * 256 - 1] {
            let value = store.engine.get(format!("block {block:08}").as_bytes(), Tier::Disk).unwrap();
            assert_eq!(value.unwrap(), vec![(block / 256) as u8; BLOCK_BYTES]);
        }
        let live = LIVE.load(Relaxed).saturating_sub(before);
        assert!(live <= MEMORY_BYTES, "{live} bytes live");
    }
}

/// Small tables, and nothing that grows with the store but their number.
fn small_tables(policy: &str) -> Options {
    let small = "memtable=1M,table=4K,compression=none,reserve=1M,log_segment=64K,level_base=1T,cache=64M,space_amp_max=1048576";
    Kind::LSM.default_options().with(&format!("policy={policy},{small}")).unwrap()
}

/// Puts eight entries into each of the tables `first..end`, in the order of parts: memtables overlap, so merges cut them into small
/// tables.
fn fill(engine: &dyn Engine, first: u64, end: u64) {
    let numbers: Vec<u64> = (first..end).collect();
    for part in 0..8u8 {
        for numbers in numbers.chunks(100) {
            let mut batch = Batch::new(0);
            let key = |number: &u64| [&number.to_be_bytes()[..], &[part]].concat();
            numbers.iter().for_each(|number| batch.put(key(number), vec![part; 500]));
            apply(engine, &batch).unwrap();
        }
    }
    engine::run(engine, Command::Compact).unwrap();
    settle(engine).unwrap();
}

/// How many tables there are.
fn files(engine: &dyn Engine) -> u64 {
    engine.shape().levels.iter().map(|level| level.files).sum()
}

/// Asks for what `work` does on the heap: how often, and how many bytes.
fn taken(work: impl FnOnce()) -> (u64, u64) {
    let before = (REQUESTS.load(Relaxed), TAKEN.load(Relaxed));
    work();
    (REQUESTS.load(Relaxed) - before.0, TAKEN.load(Relaxed) - before.1)
}

/// A put of one block of eight in table `number`, flushed.
fn put_into(engine: &dyn Engine, number: u64, fill: u8) {
    let mut batch = Batch::new(0);
    batch.put(number.to_be_bytes().to_vec(), vec![fill; 512]);
    apply(engine, &batch).unwrap();
    engine::run(engine, Command::Flush).unwrap();
}

/// What a flush and a merge of one table ask of the heap in a store of many tables: as much as in a store of few.
#[test]
fn an_edit_costs_what_it_changes_however_many_tables_there_are() {
    const TABLES: [u64; 2] = [500, 5000];
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    for policy in ["leveled", "tiered"] {
        let home = tempfile::tempdir().unwrap();
        // The heap is what is counted, and thousands of tables are durable only after a minute.
        let disk = Unsynced::new(OsDisk::open(home.path(), Access::Write).unwrap());
        let engine = open(disk, &small_tables(policy)).unwrap();
        let mut first = 0;
        let costs = TABLES.map(|tables| {
            fill(&*engine, first, tables);
            first = tables;
            let files = files(&*engine);
            assert!(files >= tables * 4 / 5, "{files} of {tables}");
            // The first of the kind makes room in lists.
            put_into(&*engine, tables / 2, 0);
            settle(&*engine).unwrap();
            let flush = taken(|| put_into(&*engine, tables / 2, 1));
            let merge = taken(|| {
                (0..3).for_each(|fill| put_into(&*engine, tables / 2, fill));
                settle(&*engine).unwrap();
            });
            (flush, merge)
        });
        println!("{policy:?}: {costs:?}");
        let [few, many] = costs;
        for (few, many) in [(few.0, many.0), (few.1, many.1)] {
            assert!(many.0 <= few.0 * 3 / 2, "{policy:?}: requests {costs:?}");
            assert!(many.1 <= few.1 * 3 / 2, "{policy:?}: bytes {costs:?}");
        }
    }
}

/// Memory of open tables, with all that is kept for each on its way down to its file, is what the report says: what a terabyte costs
/// is known before it is there.
#[test]
fn what_an_open_table_takes_is_counted() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let home = tempfile::tempdir().unwrap();
    let options = [("engine", "lsm"), ("memtable", "1M"), ("table", "4K"), ("compression", "none")];
    let options = options.map(|(name, value)| (name.to_string(), value.to_string()));
    let mut first = 0;
    let points = [300, 1500].map(|tables| {
        let store = open_store(home.path(), &options, Terms::default()).unwrap();
        fill(&*store.engine, first, tables);
        first = tables;
        store.engine.close().unwrap();
        drop(store);
        let before = LIVE.load(Relaxed);
        let store = open_store(home.path(), &options, Terms::default()).unwrap();
        let memory = store.engine.shape().memory;
        assert!(memory.resident_bytes <= memory.used_bytes);
        [files(&*store.engine), LIVE.load(Relaxed) - before, memory.resident_bytes.unwrap()]
    });
    let [files, live_bytes, counted_bytes] = std::array::from_fn(|at| points[1][at] - points[0][at]);
    let (live, counted) = (live_bytes / files, counted_bytes / files);
    println!("{live} bytes a table live, {counted} counted: {points:?}");
    assert!((live * 9 / 10..=live * 11 / 10).contains(&counted), "{live} bytes a table, {counted} counted");
}

/// What a terabyte of blocks of files costs in memory where nothing of it is in use, as `docs/tuning.md` says.
#[test]
fn a_terabyte_of_blocks_costs_what_the_manual_says() {
    const TABLE_BYTES: u64 = 8 << 20;
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let home = tempfile::tempdir().unwrap();
    // No room for indexes and filters: what is left is what every table needs.
    let options =
        [("engine", "lsm"), ("memtable", "8M"), ("table", "8M"), ("compression", "none"), ("cache", "0")];
    let options = options.map(|(name, value)| (name.to_string(), value.to_string()));
    let mut first = 0;
    let points = [2, 10].map(|tables| {
        let store = open_store(home.path(), &options, Terms::default()).unwrap();
        for block in first..tables * TABLE_BYTES / BLOCK_BYTES as u64 {
            let mut batch = Batch::new(0);
            let inode = block / 1000;
            let key = [&b"b"[..], &inode.to_be_bytes(), &(block % 1000).to_be_bytes()].concat();
            batch.put(key, vec![block as u8; BLOCK_BYTES]);
            apply(&*store.engine, &batch).unwrap();
        }
        first = tables * TABLE_BYTES / BLOCK_BYTES as u64;
        engine::run(&*store.engine, Command::Flush).unwrap();
        settle(&*store.engine).unwrap();
        store.engine.close().unwrap();
        drop(store);
        let before = LIVE.load(Relaxed);
        let store = open_store(home.path(), &options, Terms::default()).unwrap();
        let resident_bytes = store.engine.shape().memory.resident_bytes.unwrap();
        [files(&*store.engine), LIVE.load(Relaxed) - before, resident_bytes]
    });
    let [files, live_bytes, counted_bytes] = std::array::from_fn(|at| points[1][at] - points[0][at]);
    // Tables of 64 MiB have eight times the parts.
    let parts_bytes = (live_bytes / files).saturating_sub(1500) * 8;
    let terabyte_bytes = (1500 + parts_bytes) * (1 << 40) / (64 << 20);
    println!(
        "{files} tables, {live_bytes} live, {counted_bytes} counted: {} MB a TiB",
        terabyte_bytes / 1_000_000
    );
    // Of so few tables not each makes every list longer.
    assert!((live_bytes * 8 / 10..=live_bytes * 12 / 10).contains(&counted_bytes), "{points:?}");
    assert!((100_000_000..160_000_000).contains(&terabyte_bytes), "{terabyte_bytes} bytes a TiB");
}

/// Ten million operations on half as many keys, as a recording would bring them, through a model of each engine.
#[test]
fn advice_on_ten_million_operations_takes_no_more_than_256_mebibytes() {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let before = LIVE.load(Relaxed);
    PEAK.store(before, Relaxed);
    let mut builder = StepBuilder::default();
    builder.mark();
    let key = |number: u64| {
        let mut key = [4; 13];
        key[1..9].copy_from_slice(&(number / 64).to_be_bytes());
        key[9..].copy_from_slice(&((number % 64) as u32).to_be_bytes());
        key
    };
    for number in 0..10_000_000u64 {
        let at =
            if number < 5_000_000 { number } else { number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 5_000_000 };
        builder.put(&key(at), 100);
        builder.end_batch(1000);
    }
    let steps = builder.finish();
    assert_eq!((steps.totals.changes, steps.keys.count()), (10_000_000, 5_000_000));
    let base = Base { memory_bytes: Some(256 << 20), ..Base::default() };
    let designs = ["lsm", "btree"].map(|engine| Design::parse(engine, &base).unwrap());
    let advice = kvfs::advise::advise(&steps, &Recorded::default(), &designs, 8, &|_, _| {});
    assert_eq!(advice.rows.len(), 2);
    let peak = PEAK.load(Relaxed) - before;
    println!("{} MiB", peak >> 20);
    assert!(peak <= 256 << 20, "{peak} bytes");
}
