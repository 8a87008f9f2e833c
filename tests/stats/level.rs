//! An LSM-tree's figures of itself against its tables, its events and what its reads say that they ask.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use kvfs::engine::KeyRange;

use super::*;

fn tree(more: &str) -> Rig {
    let options = small_options().with(more).unwrap();
    rig(|disk, clock| engine::open(disk, clock, &options).unwrap())
}

fn put(rig: &Rig, keys: impl IntoIterator<Item = u64>, bytes: usize) {
    let mut batch = Batch::new(Op::Write.tag());
    // Half of each value can be compressed.
    let mut random = Prng::new(bytes as u64);
    let mut value =
        || (0..bytes).map(|at| if at * 2 < bytes { 0 } else { random.below(256) as u8 }).collect::<Vec<_>>();
    keys.into_iter().for_each(|key| batch.put(key.to_be_bytes().to_vec(), value()));
    while rig.engine.apply(&batch, Tier::Disk).is_err() {
        engine::settle(&*rig.engine).unwrap();
    }
}

/// Whether two quotients are the same, but for the last digit.
fn same(shown: Option<f64>, wanted: Option<f64>) -> bool {
    match (shown, wanted) {
        (Some(shown), Some(wanted)) => (shown - wanted).abs() <= 1e-9 * wanted.abs(),
        (shown, wanted) => shown == wanted,
    }
}

fn flush(rig: &Rig, keys: impl IntoIterator<Item = u64>) {
    put(rig, keys, 400);
    engine::run(&*rig.engine, Command::Flush).unwrap();
}

/// The sum of `field` over the events `name`, by their level.
fn told(rig: &Rig, name: &str, field: &str) -> BTreeMap<u64, u64> {
    let mut sums = BTreeMap::new();
    for line in rig.cat(".stats.d/events").lines() {
        let event: Value = serde_json::from_str(line).unwrap();
        if event["event"] == name {
            *sums.entry(event["into_level"].as_u64().unwrap_or(0)).or_default() += number(&event, field);
        }
    }
    sums
}

/// Flushes, merges and moves; no key is written while a merge runs.
fn grown(compression: &str) -> Rig {
    let rig = tree(&format!("compression={compression}"));
    let mut random = Prng::new(5);
    for _ in 0..40 {
        let first = random.below(2000);
        flush(&rig, (0..30).map(|step| first + step * 7));
        engine::settle(&*rig.engine).unwrap();
    }
    rig.write(OWNER, "auto_compact off").unwrap();
    (0..5).for_each(|part| flush(&rig, (0..40).map(|key| (1 << 40) + part * 100 + key)));
    rig.write(OWNER, "auto_compact on").unwrap();
    engine::settle(&*rig.engine).unwrap();
    rig
}

#[test]
fn levels_hold_what_their_tables_do() {
    for compression in ["none", "lz4"] {
        let rig = grown(compression);
        rig.write(OWNER, "auto_compact off").unwrap();
        let mut batch = Batch::new(Op::Unlink.tag());
        (0..20u64).for_each(|key| batch.delete(key.to_be_bytes().to_vec()));
        rig.engine.apply(&batch, Tier::Disk).unwrap();
        engine::run(&*rig.engine, Command::Flush).unwrap();
        let (report, tables) = (rig.json(".stats.d/json"), rig.engine.tables());
        let mut deep = 0;
        for level in report["levels"].as_array().unwrap() {
            let of = |name: &str| number(level, name);
            let here: Vec<_> = tables.iter().filter(|table| table.level as u64 == of("level")).collect();
            let sum =
                |counted: fn(&engine::TableInfo) -> u64| here.iter().map(|table| counted(table)).sum::<u64>();
            assert_eq!((of("files"), of("bytes")), (here.len() as u64, sum(|table| table.bytes)), "{level}");
            assert_eq!(
                (of("entries"), of("tombstones")),
                (sum(|table| table.entries), sum(|table| table.tombstones))
            );
            let runs = if of("level") == 0 { here.len() } else { here.len().min(1) };
            assert_eq!(of("runs"), runs as u64, "{level}");
            // Blocks, filters and indexes; what is left is a footer a table.
            let parts = of("data_bytes") + of("filter_bytes") + of("index_bytes");
            let footers = of("bytes") - parts;
            assert!(footers >= 32 * of("files") && footers <= 512 * of("files"), "{footers}: {level}");
            // Ten bits an entry, in whole lines of a cache.
            let filters = of("filter_bytes") * 8;
            assert!(
                filters >= 10 * of("entries") && filters <= 20 * of("entries") + 4096 * of("files"),
                "{level}"
            );
            assert!(of("files") == 0 || of("index_bytes") > 8 * of("files"), "{level}");
            // Keys and values are in the blocks, and little else.
            let content = (of("entries") - of("tombstones")) * 400;
            let most = content + content / 8 + 16 * of("entries");
            assert!((content..=most).contains(&of("raw_bytes")), "{content}: {level}");
            match compression {
                "none" => assert_eq!(of("raw_bytes"), of("data_bytes"), "{level}"),
                _ => {
                    assert!(of("raw_bytes") < 4096 || of("data_bytes") < of("raw_bytes") * 9 / 10, "{level}")
                }
            }
            let wanted = (of("data_bytes") > 0).then(|| of("raw_bytes") as f64 / of("data_bytes") as f64);
            assert!(same(level["compression_ratio"].as_f64(), wanted), "{level}");
            let score = match of("level") {
                0 => of("files") as f64 / number(&report, "debt.l0_trigger") as f64,
                _ if of("target_bytes") == 0 => 0.0,
                _ => of("bytes") as f64 / of("target_bytes") as f64,
            };
            assert!((level["score"].as_f64().unwrap() - score).abs() < 1e-9, "{score}: {level}");
            deep += usize::from(of("level") > 0 && of("files") > 0);
        }
        assert!(deep > 1, "{:#}", report["levels"]);
        let debt = &report["debt"];
        assert_eq!(number(debt, "l0_files"), number(&report["levels"][0], "files"));
        assert_eq!(number(debt, "l0_trigger"), 4, "the default");
        let tombstones: u64 = tables.iter().map(|table| table.tombstones).sum();
        assert!(tombstones >= 20 && number(debt, "tombstones") == tombstones);
        rig.clock.advance(Duration::from_secs(50));
        let mut batch = Batch::new(Op::Unlink.tag());
        (0..3u64).for_each(|key| batch.delete(key.to_be_bytes().to_vec()));
        rig.engine.apply(&batch, Tier::Disk).unwrap();
        let report = rig.json(".stats.d/json");
        assert_eq!(number(&report, "debt.tombstones"), tombstones + 3, "those in memory, too");
        assert_eq!(report["debt"]["oldest_tombstone_seconds"], 50.0);
    }
}

/// What went into each level, less what left it, is what lies there.
#[test]
fn levels_took_what_events_say() {
    let rig = grown("lz4");
    let report = rig.json(".stats.d/json");
    let levels = report["levels"].as_array().unwrap();
    let at = |sums: &BTreeMap<u64, u64>, level: usize| sums.get(&(level as u64)).copied().unwrap_or(0);
    let (flushed, moved) = (told(&rig, "flush", "bytes"), told(&rig, "move", "bytes"));
    let (read, written) = (told(&rig, "merge_end", "bytes_in"), told(&rig, "merge_end", "bytes_out"));
    assert!(moved.values().sum::<u64>() > 0 && read.len() > 1, "{moved:?} {read:?}");
    for (number_of, level) in levels.iter().enumerate() {
        let of = |name: &str| number(level, name);
        assert_eq!(of("moved_bytes"), at(&moved, number_of), "{level}");
        assert_eq!(of("write_bytes"), at(&written, number_of) + at(&flushed, number_of), "{level}");
        // A merge reads no more than its inputs, and no less than their blocks.
        assert!(
            of("read_bytes") <= at(&read, number_of) && of("read_bytes") >= at(&read, number_of) * 3 / 4,
            "{level}"
        );
        let into = |name: &str| levels.get(number_of + 1).map_or(0, |level| number(level, name));
        let left = into("in_bytes") + into("moved_bytes");
        let (came, rewritten) = if number_of == 0 {
            assert_eq!(of("in_bytes"), at(&flushed, 0));
            (of("in_bytes"), 0)
        } else {
            (of("write_bytes") + of("moved_bytes"), at(&read, number_of) - of("in_bytes"))
        };
        assert_eq!(came - rewritten - left, of("bytes"), "{level}");
        let wanted = (of("in_bytes") > 0).then(|| of("write_bytes") as f64 / of("in_bytes") as f64);
        assert!(same(level["write_amplification"].as_f64(), wanted), "{level}");
    }
}

/// What merges must still write is what is over the targets, and nothing once they have run.
#[test]
fn pending_bytes_are_what_is_over_the_targets() {
    let rig = tree("compression=none");
    let pending = || number(&rig.json(".stats.d/json"), "debt.pending_compaction_bytes");
    rig.write(OWNER, "auto_compact off").unwrap();
    let mut before = pending();
    assert_eq!(before, 0);
    for round in 0..8 {
        flush(&rig, (0..40).map(|key| key * 3 + round));
        let flushed = number(&rig.json(".stats.d/json")["levels"][0], "bytes");
        let now = pending();
        assert!(now == 0 || now >= flushed && now > before, "{now} after {before}, {flushed} in L0");
        before = now;
    }
    assert!(before > 0);
    let written = || number(&rig.json(".stats.d/json"), "disk.compaction_write_bytes");
    let at_first = written();
    rig.write(OWNER, "auto_compact on").unwrap();
    engine::settle(&*rig.engine).unwrap();
    let wrote = written() - at_first;
    assert_eq!(pending(), 0);
    assert!(wrote > before / 3 && wrote < 2 * before, "{wrote} written, {before} were pending");
}

/// Each read asks the structures that its explanation lists.
#[test]
fn reads_ask_what_their_explanations_say() {
    let rig = rig_of(&small_options().with("compression=none,bloom_bits=3").unwrap());
    rig.write(OWNER, "auto_compact off").unwrap();
    for round in 0..3 {
        flush(&rig, (0..40).map(|key| key * 5 + round));
    }
    put(&rig, [u64::MAX - 1], 10);
    let at = |report: &Value| -> Vec<u64> {
        let levels = report["levels"].as_array().unwrap().iter().map(|level| number(level, "probes"));
        let filter = ["checks", "useful", "false_positives"].map(|name| number(&report["filter"], name));
        levels.chain(filter).collect()
    };
    let before = rig.json(".stats.d/json");
    let (mut probes, mut structures) = (vec![0; at(&before).len()], Vec::new());
    let levels = probes.len() - 3;
    let mut random = Prng::new(3);
    for _ in 0..600 {
        let key = random.below(2500).to_be_bytes();
        let mut asked = 0;
        for probe in rig.engine.explain(&key, Tier::Disk).unwrap() {
            let level = probe
                .structure
                .strip_prefix('L')
                .and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
            let is_skipped = ["filtered", "out-of-range"].contains(&probe.verdict);
            asked += u64::from(!is_skipped);
            if let Some(level) = level {
                probes[level] += u64::from(!is_skipped);
                probes[levels] += u64::from(probe.verdict != "out-of-range");
            }
            probes[levels + 1] += u64::from(probe.verdict == "filtered");
            probes[levels + 2] += u64::from(probe.verdict == "false-positive");
        }
        structures.push(asked);
        rig.engine.get(&key, Tier::Disk).unwrap();
    }
    let after = rig.json(".stats.d/json");
    let counted: Vec<u64> = at(&after).iter().zip(at(&before)).map(|(now, before)| now - before).collect();
    assert_eq!(counted, probes, "probes of the levels; checks, useful, false positives of filters");
    assert!(counted.iter().filter(|count| **count > 0).count() > 5, "{counted:?}");
    let (useful, wrong) = (number(&after, "filter.useful"), number(&after, "filter.false_positives"));
    let share = wrong as f64 / (wrong + useful) as f64;
    assert!(same(after["filter"]["false_positive_share"].as_f64(), Some(share)));
    let mut buckets = vec![0; 32];
    structures.iter().for_each(|asked| buckets[*asked as usize] += 1);
    assert_eq!(after["probes"]["buckets"], Value::from(buckets));
    structures.sort_unstable();
    let quantile = |share: f64| structures[(structures.len() as f64 * share).ceil() as usize - 1];
    let of = |name: &str| number(&after["probes"], name);
    assert_eq!(
        (of("count"), of("p50"), of("p99"), of("max")),
        (600, quantile(0.5), quantile(0.99), quantile(1.0))
    );
    let mean = structures.iter().sum::<u64>() as f64 / 600.0;
    assert!(same(after["probes"]["mean"].as_f64(), Some(mean)));
}

fn rig_of(options: &engine::Options) -> Rig {
    let rig = rig(|disk, clock| engine::open(disk, clock, options).unwrap());
    let mut random = Prng::new(5);
    for _ in 0..40 {
        let first = random.below(2000);
        flush(&rig, (0..30).map(|step| first + step * 7));
        engine::settle(&*rig.engine).unwrap();
    }
    rig
}

#[test]
fn scans_merge_the_runs_that_are_there_and_pass_what_is_deleted() {
    let rig = tree("compression=none");
    rig.write(OWNER, "auto_compact off").unwrap();
    let scan = || rig.engine.scan(KeyRange::ALL, Tier::Disk, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let mut runs = Vec::new();
    for round in 0..5u64 {
        flush(&rig, round..round + 20);
        let mut batch = Batch::new(Op::Unlink.tag());
        (0..3).for_each(|key| batch.delete((round + key).to_be_bytes().to_vec()));
        rig.engine.apply(&batch, Tier::Disk).unwrap();
        let before = number(&rig.json(".stats.d/json"), "scan_runs.tombstones");
        scan();
        // One memtable and a table for each round; the keys deleted before stay so, but for those put again.
        runs.push(round + 2);
        let passed = number(&rig.json(".stats.d/json"), "scan_runs.tombstones") - before;
        assert_eq!(passed, 3 + round, "round {round}");
    }
    let report = rig.json(".stats.d/json");
    let shown = &report["scan_runs"];
    let mut buckets = vec![0; 32];
    runs.iter().for_each(|runs| buckets[*runs as usize] += 1);
    assert_eq!(shown["buckets"], Value::from(buckets));
    let of = |name: &str| number(shown, name);
    assert_eq!((of("count"), of("p50"), of("p99"), of("max")), (5, 4, 6, 6));
}

/// What a cache cannot answer is a request to the disk, and what it can is none.
#[test]
fn what_the_cache_misses_is_read() {
    let options = small_options().with("compression=none,cache=1M").unwrap();
    let rig = rig_of(&options);
    let of = |path: &str| number(&rig.json(".stats.d/json"), path);
    let state = || {
        let probes: u64 = rig.engine.shape().levels.iter().map(|level| level.traffic.probes).sum();
        [of("cache.hits"), of("cache.misses"), of("disk.by_purpose.get.reads"), probes]
    };
    let grown = |before: [u64; 4]| {
        let after = state();
        std::array::from_fn::<u64, 4, _>(|at| after[at] - before[at])
    };
    let gets =
        || (0..300u64).for_each(|key| drop(rig.engine.get(&(key * 7).to_be_bytes(), Tier::Disk).unwrap()));
    rig.write(OWNER, "drop-caches").unwrap();
    assert_eq!(of("cache.bytes"), 0);
    let before = state();
    gets();
    let [hits, misses, reads, probes] = grown(before);
    assert!(misses > 20 && misses == reads && hits + misses == probes, "{hits} {misses} {reads} {probes}");
    // Each block that was read is kept.
    let (held, blocks) =
        (of("cache.bytes"), rig.engine.shape().levels.iter().map(|level| level.data_bytes).sum::<u64>());
    assert!(
        held > misses * 1000 && held < blocks * 5 / 4 && held < of("cache.bytes_max"),
        "{held} of {blocks}"
    );
    assert!(of("cache.bytes_max") <= 1 << 20 && of("cache.bytes_max") > (1 << 20) * 9 / 10);
    let before = state();
    gets();
    let [hits, misses, reads, probes] = grown(before);
    assert_eq!((misses, reads, hits), (0, 0, probes));
    let report = rig.json(".stats.d/json");
    let kinds = report["cache"]["kinds"].as_object().unwrap();
    for name in ["hits", "misses"] {
        let sum: u64 = kinds.values().map(|kind| number(kind, name)).sum();
        assert_eq!(sum, number(&report["cache"], name), "{name}");
    }
    let (hits, misses) = (of("cache.hits"), of("cache.misses"));
    let share = hits as f64 / (hits + misses) as f64;
    assert!(same(report["cache"]["hit_share"].as_f64(), Some(share)));
}

/// Memory, the log and what is not durable, by what a few batches add.
#[test]
fn what_is_in_memory_and_in_the_log_is_what_was_written() {
    let rig = tree("compression=none");
    let of = |path: &str| number(&rig.json(".stats.d/json"), path);
    flush(&rig, 0..10);
    engine::sync(&*rig.engine).unwrap();
    let settled = of("debt.replay_bytes");
    assert_eq!([of("debt.dirty_bytes"), of("memory.memtable_bytes"), of("debt.unsynced_bytes")], [0; 3]);
    let logged = of("disk.by_purpose.wal.write_bytes");
    put(&rig, 0..10, 700);
    rig.clock.advance(Duration::from_millis(400));
    let logged = of("disk.by_purpose.wal.write_bytes") - logged;
    assert!(logged > 10 * 708);
    assert_eq!((of("debt.unsynced_bytes"), of("debt.oldest_unsynced_ms")), (logged, 400));
    assert_eq!(of("debt.replay_bytes") - settled, logged);
    let memtable = of("memory.memtable_bytes");
    assert!((10 * 708..10 * 1000).contains(&memtable) && of("debt.dirty_bytes") == memtable, "{memtable}");
    assert_eq!(of("memory.used_bytes"), memtable + of("memory.resident_bytes") + of("cache.bytes"));
    engine::sync(&*rig.engine).unwrap();
    assert_eq!((of("debt.unsynced_bytes"), of("debt.oldest_unsynced_ms")), (0, 0));
    // One that is full waits for its flush, which tells how large it was.
    rig.write(OWNER, "auto_flush off").unwrap();
    let mut batches = 1;
    while of("memory.immutable_memtables") == 0 {
        put(&rig, batches * 100..batches * 100 + 3, 700);
        batches += 1;
    }
    let before = told(&rig, "flush", "memtable_bytes")[&0];
    let (memtables, content) = (of("memory.memtable_bytes"), (10 + (batches - 1) * 3) * 708);
    assert!((content..content * 5 / 4).contains(&memtables), "{memtables} for {content}");
    assert!(memtables <= of("memory.memtable_bytes_max"));
    rig.write(OWNER, "auto_flush on").unwrap();
    engine::run(&*rig.engine, Command::Flush).unwrap();
    assert_eq!(told(&rig, "flush", "memtable_bytes")[&0] - before, memtables);
    assert_eq!((of("memory.immutable_memtables"), of("memory.memtable_bytes")), (0, 0));
    let limit =
        ["memory.memtable_bytes_max", "cache.bytes_max", "memory.resident_bytes"].map(of).iter().sum::<u64>();
    assert_eq!(of("memory.limit_bytes"), limit);
}

/// What stays in the log, by what was put there and what the files say.
#[test]
fn values_in_the_log_are_those_that_tables_point_to() {
    const VALUES: u64 = 100;
    let report = |rig: &Rig| rig.json(".stats.d/json")["value_log"].clone();
    let files = |rig: &Rig, prefix: &str| {
        let files: Vec<_> =
            rig.sim.list().unwrap().into_iter().filter(|file| file.name.starts_with(prefix)).collect();
        (files.len() as u64, files.iter().map(|file| file.bytes).sum::<u64>())
    };
    // Nothing is collected, and no two batches fit into one segment: each but the last is kept for its values.
    let rig = tree("compression=none,value_log=on,value_threshold=200,value_gc_percent=0");
    for round in 0..6 {
        flush(&rig, (0..VALUES).map(|key| key + round * VALUES));
    }
    let shown = report(&rig);
    let of = |name: &str| number(&shown, name);
    assert!(files(&rig, "log.").0 >= 6 && files(&rig, "values.").0 == 0);
    assert_eq!((of("segments"), of("bytes")), (5, 5 * (64 << 10)), "{shown}");
    assert_eq!((of("live_bytes"), of("moved_bytes")), (6 * VALUES * 400, 0));
    // What is still alive in sparse segments is moved, and only that.
    let rig = tree("compression=none,value_log=on,value_threshold=200");
    flush(&rig, 0..VALUES);
    for round in 0..6u64 {
        flush(&rig, (0..VALUES).filter(|key| key % 10 < round));
        engine::settle(&*rig.engine).unwrap();
    }
    engine::run(&*rig.engine, Command::Compact).unwrap();
    engine::settle(&*rig.engine).unwrap();
    let shown = report(&rig);
    let of = |name: &str| number(&shown, name);
    let moved = number(&rig.json(".stats.d/json"), "disk.by_purpose.value_log_gc.write_bytes");
    assert!(moved > 0);
    assert_eq!((of("live_bytes"), of("moved_bytes")), (VALUES * 400, moved));
    let (survivors, bytes) = files(&rig, "values.");
    assert!(survivors > 0 && of("segments") >= survivors && of("bytes") >= bytes, "{shown}");
}
