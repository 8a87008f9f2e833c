//! Doors 1 and 2 against what a test asked, which it counts itself.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use kvfs::attribution::Tally;
use kvfs::engine::KeyRange;

use super::*;

/// What a test asked about keys of one kind, by the names that reports have for it.
type Asked = BTreeMap<&'static str, u64>;

fn add(asked: &mut Asked, name: &'static str, count: u64) {
    *asked.entry(name).or_default() += count;
}

/// Random gets, scans and batches, which a map answers, too.
#[test]
fn keys_are_counted_by_kind_and_by_operation() {
    const NAMES: [&str; 9] = [
        "gets",
        "hits",
        "get_bytes",
        "puts",
        "put_bytes",
        "deletes",
        "delete_bytes",
        "scanned",
        "scanned_bytes",
    ];
    for kind in [Kind::MEM, Kind::LSM, Kind::BTREE] {
        let rig = rig(|disk, clock| engine::open(disk, clock, &engine::Options::tiny(kind)).unwrap());
        let mut random = Prng::new(11);
        let mut map: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        let (mut kinds, mut operations) = ([Asked::new(), Asked::new()], [Asked::new(), Asked::new()]);
        let mut scans = 0;
        for round in 0..1200 {
            let of_kind = random.below(2) as u8;
            let asked = &mut kinds[usize::from(of_kind)];
            let mut key = || vec![of_kind, random.below(60) as u8];
            match round % 6 {
                0 | 1 => {
                    let key = key();
                    let found = rig.engine.get(&key, Tier::Disk).unwrap();
                    assert_eq!(found.map(|value| value.len() as u64), map.get(&key).copied());
                    add(asked, "gets", 1);
                    if let Some(length) = map.get(&key) {
                        add(asked, "hits", 1);
                        add(asked, "get_bytes", 2 + length);
                    }
                }
                2 => {
                    let (start, end) = (key(), [of_kind + 1]);
                    let range = KeyRange { start: &start, end: Some(&end) };
                    rig.engine.scan(range, Tier::Disk, &mut |_, _| ControlFlow::Continue(())).unwrap();
                    scans += 1;
                    for (key, length) in
                        map.range((Bound::Included(start.clone()), Bound::Excluded(end.to_vec())))
                    {
                        add(asked, "scanned", 1);
                        add(asked, "scanned_bytes", key.len() as u64 + length);
                    }
                }
                _ => {
                    let is_delete = round % 6 == 5;
                    let operation = &mut operations[usize::from(is_delete)];
                    let mut batch = Batch::new(if is_delete { Op::Unlink } else { Op::Write }.tag());
                    for _ in 0..1 + random.below(4) {
                        let key = vec![of_kind, random.below(60) as u8];
                        if is_delete {
                            map.remove(&key);
                            batch.delete(key);
                            add(asked, "deletes", 1);
                            add(asked, "delete_bytes", 2);
                            add(operation, "kv_deletes", 1);
                            add(operation, "kv_bytes", 2);
                        } else {
                            let length = random.below(500);
                            map.insert(key.clone(), length);
                            batch.put(key, vec![7; length as usize]);
                            add(asked, "puts", 1);
                            add(asked, "put_bytes", 2 + length);
                            add(operation, "kv_puts", 1);
                            add(operation, "kv_bytes", 2 + length);
                        }
                    }
                    add(operation, "kv_batches", 1);
                    if !is_delete {
                        let bytes = random.below(300);
                        rig.meter.record(Op::Write, Duration::from_micros(1), bytes, false);
                    }
                    // One that is refused was not taken, and counts nowhere.
                    while rig.engine.apply(&batch, Tier::Disk).is_err() {
                        engine::settle(&*rig.engine).unwrap();
                        rig.clock.advance(Duration::from_millis(10));
                    }
                }
            }
        }
        let report = rig.json(".stats.d/json");
        let app_bytes = number(&report, "app.write_bytes");
        for (name, asked) in ["zero", "one"].into_iter().zip(&kinds) {
            let shown = &report["kinds"][name];
            NAMES.iter().for_each(|key| assert_eq!(number(shown, key), asked[key], "{kind} {name} {key}"));
            let share = (asked["put_bytes"] + asked["delete_bytes"]) as f64 / app_bytes as f64;
            assert!((shown["write_amplification"].as_f64().unwrap() - share).abs() < 1e-9, "{kind} {name}");
        }
        let sum = |name: &str| kinds.iter().map(|asked| asked[name]).sum::<u64>();
        NAMES.iter().for_each(|name| assert_eq!(number(&report["kv"], name), sum(name), "{kind} kv.{name}"));
        assert_eq!(number(&report, "kv.write_bytes"), sum("put_bytes") + sum("delete_bytes"), "{kind}");
        assert_eq!(number(&report, "kv.scans"), scans, "{kind}");
        for (op, asked) in ["write", "unlink"].into_iter().zip(&operations) {
            for name in ["kv_batches", "kv_puts", "kv_deletes", "kv_bytes"] {
                let wanted = asked.get(name).copied().unwrap_or(0);
                assert_eq!(number(&report["ops"][op], name), wanted, "{kind} {op} {name}");
            }
        }
        let batches: u64 = operations.iter().map(|asked| asked["kv_batches"]).sum();
        assert_eq!(number(&report, "kv.batches"), batches, "{kind}");
    }
}

#[test]
fn calls_are_counted_and_their_latencies_kept() {
    let rig = mem();
    assert!(rig.json(".stats.d/json")["ops"]["read"]["p50_ns"].is_null(), "no call, no latency");
    for micros in 1..=1000 {
        rig.meter.record(Op::Read, Duration::from_micros(micros), 10, micros % 4 == 0);
    }
    rig.meter.record(Op::Write, Duration::from_micros(3), 500, false);
    rig.meter.record(Op::CopyFileRange, Duration::from_micros(3), 70, false);
    let report = rig.json(".stats.d/json");
    let read = &report["ops"]["read"];
    for (name, wanted) in [("count", 1000), ("errors", 250), ("bytes", 10_000)] {
        assert_eq!(number(read, name), wanted, "{name}");
    }
    let wanted =
        [("p50_ns", 500.0), ("p99_ns", 990.0), ("p999_ns", 999.0), ("max_ns", 1000.0), ("mean_ns", 500.5)];
    for (name, micros) in wanted {
        let shown = read[name].as_f64().unwrap() / 1000.0;
        assert!((shown - micros).abs() <= micros / 100.0, "{name}: {shown} us");
    }
    // What was copied was written, too; a copy is no write call.
    let app = &report["app"];
    for (name, wanted) in [("write_bytes", 570), ("read_bytes", 10_000), ("writes", 1), ("reads", 1000)] {
        assert_eq!(number(app, name), wanted, "{name}");
    }
}

/// Content is charged to a process and to a name in the root; what is in no row is in the last one.
#[test]
fn who_moved_content_is_charged() {
    let rig = mem();
    let mut processes: BTreeMap<u32, [u64; 4]> = BTreeMap::new();
    let mut paths: BTreeMap<String, [u64; 4]> = BTreeMap::new();
    let mut random = Prng::new(3);
    for _ in 0..500 {
        let (pid, bytes) = (random.below(30) as u32, random.below(9000));
        let is_write = random.below(3) > 0;
        let path = format!("top{}", pid % 25);
        let tally = if is_write { Tally::written(bytes) } else { Tally::read(bytes) };
        rig.attribution.charge(pid, &path.as_bytes().into(), tally);
        let charged = if is_write { [bytes, 1, 0, 0] } else { [0, 0, bytes, 1] };
        for row in [processes.entry(pid).or_default(), paths.entry(path).or_default()] {
            (0..4).for_each(|at| row[at] += charged[at]);
        }
    }
    let report = rig.json(".stats.d/json");
    let shown = |row: &Value| ["write_bytes", "writes", "read_bytes", "reads"].map(|name| number(row, name));
    let sum = |rows: &[[u64; 4]]| {
        rows.iter().fold([0; 4], |sum, row| std::array::from_fn::<_, 4, _>(|at| sum[at] + row[at]))
    };
    for (list, charged) in [
        (
            "by_process",
            processes.iter().map(|(pid, row)| (pid.to_string(), *row)).collect::<BTreeMap<_, _>>(),
        ),
        ("by_path", paths),
    ] {
        let rows = report[list].as_array().unwrap();
        assert_eq!(rows.len(), 21, "twenty and the others");
        let (others, rows) = rows.split_last().unwrap();
        let mut left = charged.clone();
        for row in rows {
            let name = row["pid"]
                .as_u64()
                .map_or_else(|| row["path"].as_str().unwrap_or_default().to_string(), |pid| pid.to_string());
            assert_eq!(Some(shown(row)), left.remove(&name), "{list} {name}");
        }
        assert_eq!(shown(others), sum(&left.into_values().collect::<Vec<_>>()), "{list}");
    }
}
