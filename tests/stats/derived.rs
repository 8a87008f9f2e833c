//! Numbers that are made of others: each is divided, added or subtracted again here.

use super::*;

/// A quotient as reports give it.
fn quotient(numerator: u64, denominator: u64) -> Option<f64> {
    (denominator > 0).then(|| numerator as f64 / denominator as f64)
}

fn assert_same(shown: &Value, wanted: Option<f64>, what: &str) {
    let same = match (shown.as_f64(), wanted) {
        (Some(shown), Some(wanted)) => (shown - wanted).abs() <= wanted.abs() * 1e-9,
        (shown, wanted) => shown == wanted,
    };
    assert!(same, "{what}: {shown} and not {wanted:?}");
}

/// A small store of each engine on which everything has happened that a ratio divides.
fn busy(kind: Kind) -> Rig {
    let options = if kind == Kind::LSM { small_options() } else { engine::Options::tiny(kind) };
    let rig = rig(|disk, clock| engine::open(disk, clock, &options).unwrap());
    work(&rig, 0);
    rig
}

/// Writes, reads and background work; different ones for each `round`.
fn work(rig: &Rig, round: u64) {
    fill(rig);
    rig.user_writes(3000 + round as usize);
    engine::run(&*rig.engine, Command::Flush).unwrap();
    engine::run(&*rig.engine, Command::Compact).unwrap();
    engine::run(&*rig.engine, Command::DropCaches).unwrap();
    for key in 0..20 + round {
        rig.engine.get(&key.to_be_bytes(), Tier::Disk).unwrap();
        rig.meter.record(Op::Read, Duration::from_micros(5), 30, false);
    }
    let mut visit = |_: &[u8], _: &[u8]| std::ops::ControlFlow::Continue(());
    rig.engine.scan(engine::KeyRange::ALL, Tier::Disk, &mut visit).unwrap();
}

#[test]
fn quotients_divide_what_they_say() {
    for kind in [Kind::LSM, Kind::BTREE] {
        let rig = busy(kind);
        rig.write(OWNER, "mark here").unwrap();
        work(&rig, 1);
        rig.control.tick();
        for file in [".stats.d/json", ".stats.d/since/here.json"] {
            let report = rig.json(file);
            let of = |path: &str| number(&report, path);
            let (written, log) = (of("disk.write_bytes"), of("disk.log_write_bytes"));
            let by_purpose = |counter: &str| {
                ["get", "scan"]
                    .map(|purpose| of(&format!("disk.by_purpose.{purpose}.{counter}")))
                    .iter()
                    .sum::<u64>()
            };
            assert!(written > log && by_purpose("reads") > 0, "{kind}");
            let (app, kv) = (of("app.write_bytes"), of("kv.write_bytes"));
            let wanted = [
                ("write", quotient(written, app)),
                ("fs_write", quotient(kv, app)),
                ("engine_write", quotient(written, kv)),
                ("write_no_wal", quotient(written - log, app)),
                ("engine_write_no_wal", quotient(written - log, kv)),
                ("read", quotient(of("disk.read_bytes"), of("app.read_bytes"))),
                ("read_foreground", quotient(by_purpose("read_bytes"), of("app.read_bytes"))),
                ("write_requests", quotient(of("disk.writes"), of("app.writes"))),
                ("read_requests", quotient(by_purpose("reads"), of("app.reads"))),
                ("space", quotient(of("space.physical_bytes"), of("space.live_bytes"))),
            ];
            for (name, wanted) in wanted {
                assert_same(&report["amplification"][name], wanted, &format!("{kind} {file} {name}"));
            }
            for (name, row) in report["kinds"].as_object().unwrap() {
                let asked = number(row, "put_bytes") + number(row, "delete_bytes");
                let wanted = quotient(number(row, "disk_write_bytes"), asked);
                assert_same(&row["disk_write_amplification"], wanted, &format!("{kind} {name}"));
            }
            for (name, row) in report["disk"]["by_purpose"].as_object().unwrap() {
                for (mean, bytes, requests) in [
                    ("mean_write_bytes", "write_bytes", "writes"),
                    ("mean_read_bytes", "read_bytes", "reads"),
                ] {
                    let wanted = number(row, bytes).checked_div(number(row, requests));
                    assert_eq!(row[mean].as_u64(), wanted, "{kind} {name} {mean}");
                }
            }
        }
    }
}

#[test]
fn sums_of_door_3_are_those_of_its_purposes() {
    for kind in [Kind::LSM, Kind::BTREE] {
        let report = busy(kind).json(".stats.d/json");
        let sum = |counter: &str, belongs: &dyn Fn(&str) -> bool| -> u64 {
            let purposes = report["disk"]["by_purpose"].as_object().unwrap();
            purposes.iter().filter(|(name, _)| belongs(name)).map(|(_, row)| number(row, counter)).sum()
        };
        let disk = &report["disk"];
        for counter in ["write_bytes", "read_bytes", "writes", "reads", "syncs", "errors"] {
            assert_eq!(number(disk, counter), sum(counter, &|_| true), "{kind} {counter}");
        }
        let is_log = |name: &str| ["wal", "value_log", "page_image", "log_prepare"].contains(&name);
        assert_eq!(number(disk, "log_write_bytes"), sum("write_bytes", &is_log), "{kind}");
        let is_merge = |name: &str| name.starts_with("compact_");
        assert_eq!(number(disk, "compaction_write_bytes"), sum("write_bytes", &is_merge), "{kind}");
        assert_eq!(number(disk, "compaction_read_bytes"), sum("read_bytes", &is_merge), "{kind}");
        assert_eq!(number(disk, "compaction_read_bytes") > 0, kind == Kind::LSM);
    }
}

/// The growth of a window is the difference of two reports.
#[test]
fn a_window_is_the_difference_of_two_reports() {
    for kind in [Kind::LSM, Kind::BTREE] {
        let rig = busy(kind);
        let second = |round: Option<u64>| {
            rig.clock.advance(Duration::from_secs(1));
            round.into_iter().for_each(|round| work(&rig, round));
            rig.control.tick();
        };
        (0..5).for_each(|_| second(None));
        let before = rig.json(".stats.d/json");
        (0..10).for_each(|round| second(Some(round)));
        let after = rig.json(".stats.d/json");
        let window = &after["windows"]["10s"];
        // A store that is busy has the clock go on a little.
        let elapsed = number(&after, "elapsed_ms") - number(&before, "elapsed_ms");
        assert_eq!(number(window, "elapsed_ms"), elapsed);
        assert!((10_000..11_000).contains(&elapsed), "{elapsed}");
        let mut grown = BTreeSet::new();
        for name in [
            "app_write_bytes",
            "app_read_bytes",
            "kv_write_bytes",
            "disk_write_bytes",
            "disk_read_bytes",
            "disk_writes",
            "disk_reads",
            "disk_syncs",
        ] {
            let path = name.replacen('_', ".", 1);
            let growth = number(&after, &path) - number(&before, &path);
            assert_eq!(number(window, name), growth, "{kind} {name}");
            assert!(grown.insert(growth), "{kind} {name}: {growth} is another's growth, too");
        }
        let write = quotient(number(window, "disk_write_bytes"), number(window, "app_write_bytes"));
        assert_same(&window["amplification"]["write"], write, "write of a window");
    }
}

/// The last line of the history says what the report says.
#[test]
fn a_line_of_the_history_is_a_report() {
    for kind in [Kind::LSM, Kind::BTREE] {
        let rig = busy(kind);
        // Something is owed, dirty, deleted and not synced.
        rig.user_writes(500);
        let mut batch = Batch::new(Op::Unlink.tag());
        batch.delete(vec![1, 7]);
        while rig.engine.apply(&batch, Tier::Disk).is_err() {
            engine::settle(&*rig.engine).unwrap();
        }
        rig.clock.advance(Duration::from_secs(2));
        rig.control.tick();
        let report = rig.json(".stats.d/json");
        let history = rig.cat(".stats.d/history");
        let (head, last) = (history.lines().next().unwrap(), history.lines().last().unwrap());
        let line: Vec<(&str, &str)> = head.split(',').zip(last.split(',')).collect();
        let mut more = 0;
        for (name, path) in [
            ("time_ms", "time_ms"),
            ("uptime_ms", "uptime_ms"),
            ("app_write_bytes", "app.write_bytes"),
            ("app_read_bytes", "app.read_bytes"),
            ("kv_write_bytes", "kv.write_bytes"),
            ("disk_write_bytes", "disk.write_bytes"),
            ("disk_read_bytes", "disk.read_bytes"),
            ("log_write_bytes", "disk.log_write_bytes"),
            ("compaction_write_bytes", "disk.compaction_write_bytes"),
            ("physical_bytes", "space.physical_bytes"),
            ("live_bytes", "space.live_bytes"),
            ("l0_files", "debt.l0_files"),
            ("pending_compaction_bytes", "debt.pending_compaction_bytes"),
            ("durability_debt_bytes", "debt.durability_bytes"),
            ("dirty_bytes", "debt.dirty_bytes"),
            ("unsynced_bytes", "debt.unsynced_bytes"),
            ("tombstones", "debt.tombstones"),
            ("stall_seconds", "stalls.seconds"),
            ("cache_hits", "cache.hits"),
            ("cache_misses", "cache.misses"),
            ("write_amp", "amplification.write"),
            ("engine_write_amp", "amplification.engine_write"),
            ("space_amp", "amplification.space"),
            ("debt_cpu_seconds", "debt.cpu_seconds"),
        ] {
            let shown: f64 = line.iter().find(|(column, _)| *column == name).unwrap().1.parse().unwrap();
            let wanted = path.split('.').fold(&report, |value, name| &value[name]).as_f64().unwrap();
            // A line has four digits behind the point; levels' debts are rounded one by one.
            let slack = if name == "durability_debt_bytes" { 8.0 } else { 1e-4 };
            let is_now = name == "time_ms";
            assert!(is_now || (shown - wanted).abs() <= slack, "{kind} {name}: {shown} and not {wanted}");
            more += usize::from(shown > 0.0);
        }
        assert_eq!(line.len(), 24, "a column that is not looked at: {head}");
        assert!(more > 14, "{kind}: {last}");
    }
}

#[test]
fn the_head_says_since_when_and_how_long() {
    let rig = mem();
    let read = |path: &str| rig.json(path);
    rig.clock.advance(Duration::from_millis(5000));
    rig.write(OWNER, "mark here").unwrap();
    rig.clock.advance(Duration::from_millis(2500));
    let (all, since) = (read(".stats.d/json"), read(".stats.d/since/here.json"));
    assert_eq!((number(&all, "uptime_ms"), number(&all, "elapsed_ms")), (7500, 7500));
    assert_eq!((number(&since, "uptime_ms"), number(&since, "elapsed_ms")), (7500, 2500));
    assert_eq!(
        number(&all, "time_ms"),
        rig.clock.now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64
    );
    // Each lookup makes a text, which the opening after it takes.
    let [first, second] = [(); 2].map(|()| {
        let ino = rig.find(".stats.d/json").unwrap().ino;
        let handle = rig.tree.open(ino, Caller::ROOT).unwrap();
        let text = rig.tree.read(handle, 0, u32::MAX).unwrap();
        rig.tree.release(handle);
        number(&serde_json::from_slice(&text).unwrap(), "stats_reads")
    });
    assert_eq!(second, first + 1);
    assert_eq!((number(&all, "block_bytes"), number(&all, "process.pid")), (BLOCK_BYTES, u64::from(PID)));
}

/// What the store takes on the disk, as the disk says it.
#[test]
fn space_is_what_the_disk_says() {
    let rig = small_lsm();
    fill(&rig);
    rig.sim.set_capacity(Some(1 << 30));
    rig.sim.set_files_max(Some(5000));
    rig.clock.advance(Duration::from_secs(1));
    rig.control.tick();
    let report = rig.json(".stats.d/json");
    let of = |name: &str| number(&report["space"], name);
    let files = rig.sim.list().unwrap();
    assert_eq!(of("physical_files"), files.len() as u64);
    assert_eq!(of("physical_bytes"), files.iter().map(|file| file.bytes_allocated).sum::<u64>());
    let below = rig.sim.space().unwrap();
    assert_eq!((of("below_total_bytes"), of("below_free_bytes")), (below.total_bytes, below.free_bytes));
    assert_eq!((of("below_total_files"), of("below_free_files")), (below.total_files, below.free_files));
    assert_eq!(of("below_total_files"), 5000);
    let usage = usage();
    let wanted = [
        ("apparent_bytes", usage.apparent_bytes),
        ("stored_bytes", usage.stored_bytes),
        ("record_bytes", usage.record_bytes),
        ("live_bytes", usage.stored_bytes + usage.record_bytes),
        ("inodes", usage.inodes),
        ("orphans", usage.orphans),
    ];
    wanted.iter().for_each(|(name, wanted)| assert_eq!(of(name), *wanted, "{name}"));
    assert_eq!(number(&report, "debt.reclaim_pending_bytes"), usage.reclaim_pending_bytes);
}
