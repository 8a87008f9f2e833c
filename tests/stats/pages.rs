//! A B-tree's figures of itself against the pages that pass the disk, its events and what a test put there.

use kvfs::base::clock::SystemClock;

use super::*;

fn tree(more: &str) -> Rig {
    let options = engine::Options::tiny(Kind::BTREE).with("reserve=0,dirty_max=4M,log_segment=1M").unwrap();
    let options = options.with(more).unwrap();
    rig(|disk, clock| engine::open(disk, clock, &options).unwrap())
}

fn put(rig: &Rig, key: u64, bytes: usize) {
    let mut batch = Batch::new(Op::Write.tag());
    batch.put(key.to_be_bytes().to_vec(), vec![key as u8; bytes]);
    apply(rig, &batch);
}

fn apply(rig: &Rig, batch: &Batch) {
    while rig.engine.apply(batch, Tier::Disk).is_err() {
        engine::settle(&*rig.engine).unwrap();
    }
}

fn checkpoint(rig: &Rig) {
    engine::run(&*rig.engine, Command::Checkpoint).unwrap();
}

#[test]
fn pages_are_what_splits_made_and_merges_left() {
    let rig = tree("");
    let of = |path: &str| number(&rig.json(".stats.d/json")["tree"], path);
    let keys = || (0..1500u64).map(|key| key * 31 % 1500);
    for key in keys() {
        put(&rig, key, 100);
    }
    checkpoint(&rig);
    // The first leaf is a page at height 1; a split adds one, and a new root another.
    let pages = of("leaf_pages") + of("inner_pages");
    assert_eq!(pages, of("splits") + of("height") - of("merges"), "{:#}", rig.json(".stats.d/json")["tree"]);
    assert!(of("splits") > 20 && of("height") > 1 && of("page_bytes") == 4096);
    let report = rig.json(".stats.d/json");
    let used = report["tree"]["fill"].as_f64().unwrap() * (of("leaf_pages") * 4096) as f64;
    let content = 1500.0 * 108.0;
    assert!(used > content && used < content * 1.25, "{used} bytes of {content} in leaves");
    // A get goes from the root to a leaf.
    let before = number(&rig.json(".stats.d/json"), "probes.count");
    keys().take(200).for_each(|key| drop(rig.engine.get(&key.to_be_bytes(), Tier::Disk).unwrap()));
    let probes = &rig.json(".stats.d/json")["probes"];
    assert_eq!((number(probes, "count") - before, number(probes, "max")), (200, of("height")));
    // Everything that is deleted is given back.
    for key in keys() {
        let mut batch = Batch::new(Op::Unlink.tag());
        batch.delete(key.to_be_bytes().to_vec());
        apply(&rig, &batch);
    }
    checkpoint(&rig);
    assert_eq!([of("leaf_pages"), of("inner_pages"), of("height")], [0; 3]);
    assert!(of("merges") > pages / 2, "{} of {pages}", of("merges"));
}

#[test]
fn values_out_of_line_take_their_units_and_give_them_back() {
    let rig = tree("");
    let of = |path: &str| number(&rig.json(".stats.d/json"), path);
    put(&rig, 1 << 40, 10);
    checkpoint(&rig);
    assert_eq!(of("tree.extent_bytes"), 0);
    let dirty = of("memory.dirty_bytes");
    assert_eq!((dirty, of("debt.dirty_bytes"), of("tree.settle_bytes")), (0, 0, 0));
    (0..20).for_each(|key| put(&rig, key, 5000));
    // Two units of 4096 bytes each.
    assert_eq!(of("tree.extent_bytes"), 20 * 2 * 4096);
    let dirty = of("memory.dirty_bytes");
    assert!(
        (20 * 5000..20 * 5000 + 20 * 4096).contains(&dirty) && of("debt.dirty_bytes") == dirty,
        "{dirty}"
    );
    assert!(dirty < of("memory.dirty_bytes_max"));
    assert_eq!(of("memory.dirty_bytes_max"), 4 << 20);
    assert!(of("memory.used_bytes") >= dirty + of("cache.bytes"));
    checkpoint(&rig);
    assert_eq!(of("memory.dirty_bytes"), 0);
    let free = of("tree.free_bytes");
    for key in 0..20u64 {
        let mut batch = Batch::new(Op::Unlink.tag());
        batch.delete(key.to_be_bytes().to_vec());
        apply(&rig, &batch);
    }
    checkpoint(&rig);
    checkpoint(&rig);
    assert_eq!(of("tree.extent_bytes"), 0);
    let freed = of("tree.free_bytes").saturating_sub(free);
    // The free map, which is written elsewhere by each checkpoint, takes a unit or two of it.
    assert!((36 * 4096..44 * 4096).contains(&freed), "{freed}");
}

/// A page that the pool does not have is a page that is read.
#[test]
fn what_the_pool_misses_is_read() {
    const KINDS: [(&str, &str, &str); 3] = [
        ("leaf", "leaf_hits", "leaf_misses"),
        ("inner", "inner_hits", "inner_misses"),
        ("extent", "extent_hits", "extent_misses"),
    ];
    let rig = tree("cache=4M");
    (0..1500u64).for_each(|key| put(&rig, key, 100));
    (0..20u64).for_each(|key| put(&rig, (1 << 40) + key, 5000));
    checkpoint(&rig);
    let height = number(&rig.json(".stats.d/json"), "tree.height");
    assert!(height > 1);
    let state = || {
        let report = rig.json(".stats.d/json");
        let tree = &report["tree"];
        KINDS.map(|(kind, hits, misses)| {
            [number(tree, hits), number(tree, misses), number(tree, &format!("pages.read.kind.{kind}.pages"))]
        })
    };
    let gets = || {
        let keys = (0..1500u64).step_by(10).chain((0..20).map(|key| (1 << 40) + key));
        keys.filter(|key| rig.engine.get(&key.to_be_bytes(), Tier::Disk).unwrap().is_some()).count() as u64
    };
    let grown = |before: [[u64; 3]; 3]| {
        let after = state();
        std::array::from_fn::<_, 3, _>(|kind| {
            std::array::from_fn::<_, 3, _>(|at| after[kind][at] - before[kind][at])
        })
    };
    rig.write(OWNER, "drop-caches").unwrap();
    let before = state();
    gets();
    let [leaf, inner, extent] = grown(before);
    for [_, misses, read] in [leaf, inner, extent] {
        assert!(misses > 0 && misses == read, "{leaf:?} {inner:?} {extent:?}");
    }
    assert_eq!(extent, [0, 20, 20]);
    let before = state();
    let asked = gets();
    let [leaf, inner, extent] = grown(before);
    assert_eq!((leaf, inner, extent), ([asked, 0, 0], [asked * (height - 1), 0, 0], [20, 0, 0]));
    let report = rig.json(".stats.d/json");
    let of = |name: &str| {
        ["leaf", "inner", "extent"].map(|kind| number(&report["tree"], &format!("{kind}_{name}")))
    };
    for name in ["hits", "misses"] {
        assert_eq!(number(&report["cache"], name), of(name).iter().sum::<u64>(), "{name}");
    }
}

#[test]
fn checkpoints_are_told_and_timed() {
    let rig = tree("");
    let of = |path: &str| number(&rig.json(".stats.d/json"), path);
    let wal = || of("disk.by_purpose.wal.write_bytes");
    put(&rig, 1, 100);
    checkpoint(&rig);
    let (logged, young) = (wal(), of("tree.checkpoint_age_bytes"));
    put(&rig, 2, 700);
    put(&rig, 3, 700);
    rig.clock.advance(Duration::from_secs(7));
    let logged = wal() - logged;
    assert!(logged > 1400);
    assert_eq!(of("tree.checkpoint_age_bytes") - young, logged);
    assert_eq!(of("tree.dirty_age_ns"), 7_000_000_000);
    checkpoint(&rig);
    assert_eq!(of("tree.dirty_age_ns"), 0);
    let events = rig.cat(".stats.d/events");
    let told = events.lines().filter(|line| line.contains("\"checkpoint\"")).count() as u64;
    assert!(told >= 2 && of("tree.checkpoints") == told, "{events}");
}

/// Times of an engine whose clock goes on.
#[test]
fn times_are_those_of_the_clock() {
    let sim = SimDisk::new();
    let options = engine::Options::tiny(Kind::BTREE).with("reserve=0").unwrap();
    let open = || {
        let rig = rig_on(
            |_| sim.clone(),
            |disk, _| engine::open(disk, Arc::new(SystemClock::new()), &options).unwrap(),
        );
        let tree = rig.json(".stats.d/json")["tree"].clone();
        (rig, tree)
    };
    let (rig, _) = open();
    (0..200u64).for_each(|key| put(&rig, key, 400));
    checkpoint(&rig);
    let events = rig.cat(".stats.d/events");
    let last = events.lines().rfind(|line| line.contains("\"checkpoint\"")).unwrap();
    let event: Value = serde_json::from_str(last).unwrap();
    let shown = number(&rig.json(".stats.d/json"), "tree.checkpoint_ns");
    assert!(shown > 0 && shown == number(&event, "duration_ns"), "{shown} {event}");
    put(&rig, 9, 400);
    let replay = number(&rig.json(".stats.d/json"), "debt.replay_bytes");
    drop(rig);
    // Killed: what a crash would have to read is read.
    let began = std::time::Instant::now();
    let (rig, tree) = open();
    let took = began.elapsed().as_nanos() as u64;
    let recovered = number(&tree, "recovery_ns");
    assert!(recovered > 0 && recovered <= took, "{recovered} of {took}");
    let read = number(&tree, "recovery_bytes");
    assert!(read >= 408 && read <= replay + 4096, "{read} of {replay}");
    assert!(number(&rig.json(".stats.d/json"), "disk.by_purpose.recovery.read_bytes") >= read);
}

/// Small puts into a large tree wait; a checkpoint makes them.
#[test]
fn puts_that_wait_are_counted() {
    let rig = tree("cache=64K,dirty_max=256K,log_segment=256K,checkpoint_log=4M");
    for key in 0..12_000u64 {
        put(&rig, key, 100);
    }
    checkpoint(&rig);
    let of = |path: &str| number(&rig.json(".stats.d/json"), path);
    assert_eq!((of("tree.waiting_puts"), of("tree.waiting_bytes")), (0, 0));
    let dirty = of("memory.dirty_bytes");
    let keys: Vec<u64> = (0..60).map(|key| key * 97).collect();
    keys.iter().for_each(|key| put(&rig, *key, 50));
    let (puts, bytes) = (of("tree.waiting_puts"), of("tree.waiting_bytes"));
    assert!(puts > 50 && puts <= 60, "{puts} wait");
    assert!(
        bytes >= puts * 58 && bytes <= puts * 300 && bytes <= of("memory.dirty_bytes") - dirty,
        "{bytes}"
    );
    checkpoint(&rig);
    assert_eq!((of("tree.waiting_puts"), of("tree.waiting_bytes")), (0, 0));
}
