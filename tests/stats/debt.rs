//! What the tree owes, what its work costs, and what is predicted.

use super::*;

#[test]
fn tables_history_debt_and_prediction_describe_the_tree() {
    let rig = small_lsm();
    fill(&rig);
    rig.clock.advance(Duration::from_secs(1));
    rig.control.tick();
    let picture = rig.json(".stats.d/lsm.json");
    let json = rig.json(".stats.d/json");
    let levels = picture["levels"].as_array().unwrap();
    for (level, shown) in levels.iter().zip(json["levels"].as_array().unwrap()) {
        let bytes: u64 = level["tables"].as_array().unwrap().iter().map(|table| number(table, "size")).sum();
        assert_eq!(bytes, number(shown, "bytes"), "{level}");
    }
    let history = rig.cat(".stats.d/history");
    let mut rows = history.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let head = rows.next().unwrap();
    let rows: Vec<_> = rows.collect();
    assert!(rows.len() == 2 && rows.iter().all(|row| row.len() == head.len()), "{history}");
    let column = head.iter().position(|name| *name == "app_write_bytes").unwrap();
    assert_eq!(rows[1][column], "160000");
    let debt = json["debt"]["levels"].as_array().unwrap();
    let sum: u64 = debt.iter().map(|row| number(row, "debt_bytes")).sum();
    assert!(debt.len() >= 3 && sum.abs_diff(number(&json, "debt.durability_bytes")) <= debt.len() as u64);
    assert_eq!(debt.last().unwrap()["pending_write_amplification"], 0.0, "the last level owes nothing");
    let levels = number(&json, "prediction.levels") as f64;
    assert_eq!(json["prediction"]["write_half_ratio"].as_f64().unwrap().round(), (levels * 5.0).round());
    assert!(rig.cat(".stats.d/ops").lines().any(|line| line.starts_with("write 400 0 160000 400 400 0 ")));
    assert!(rig.cat(".stats.d/engine").contains("lsm"));
}

/// Whatever was worked on has been timed, and the debt follows from the rate; before the first work there is no figure.
#[test]
fn work_of_the_processor_is_measured_and_the_debt_priced() {
    for (kind, compression, works) in [
        (Kind::LSM, "lz4", &["checksum", "compress", "expand", "flush", "merge"][..]),
        (Kind::BTREE, "none", &["checksum", "checkpoint"][..]),
    ] {
        let rig = rig(|disk, clock| {
            let options = if kind == Kind::LSM { small_options() } else { engine::Options::tiny(kind) };
            let options = options.with(&format!("compression={compression}")).unwrap();
            engine::open(disk, clock, &options).unwrap()
        });
        let json = rig.json(".stats.d/json");
        assert_eq!(
            (&json["debt"]["cpu_seconds"], &json["cpu"]["merge"]["ns_per_byte"]),
            (&Value::Null, &Value::Null)
        );
        assert!(rig.cat(".stats").contains("cpu -"));
        fill(&rig);
        engine::run(&*rig.engine, Command::Compact).unwrap();
        for key in 0..300u64 {
            rig.engine.get(&key.to_be_bytes(), Tier::Disk).unwrap();
        }
        // Something that is owed.
        rig.user_writes(300);
        let json = rig.json(".stats.d/json");
        for work in Work::ALL {
            let cost = &json["cpu"][work.name()];
            let rate = cost["ns_per_byte"].as_f64();
            assert_eq!(works.contains(&work.name()), rate.is_some_and(|rate| rate > 0.0), "{kind} {cost}");
            assert!(number(cost, "timed_bytes") <= number(cost, "bytes"), "{kind} {cost}");
        }
        let (nanos, bytes) = ["flush", "merge", "checkpoint"].iter().fold((0, 0), |(nanos, bytes), work| {
            let cost = &json["cpu"][work];
            (nanos + number(cost, "timed_ns"), bytes + number(cost, "timed_bytes"))
        });
        let rows = json["debt"]["levels"].as_array().unwrap();
        assert!(rows.iter().any(|row| number(row, "debt_bytes") > 0), "{kind} {rows:?}");
        for row in rows {
            let wanted = number(row, "debt_bytes") as f64 * nanos as f64 / bytes as f64 / 1e9;
            let shown = row["cpu_seconds"].as_f64().unwrap();
            assert!(
                (shown - wanted).abs() <= 1e-3 * wanted + nanos as f64 / bytes as f64 / 1e9,
                "{kind} {row}"
            );
        }
        if kind == Kind::LSM {
            let written = number(&json, "disk.by_purpose.flush.write_bytes");
            assert_eq!(number(&json, "cpu.flush.bytes"), written, "a flush is counted with what it wrote");
            assert_eq!(number(&json, "cpu.merge.bytes"), number(&json, "disk.compaction_write_bytes"));
        }
        let prom = exposition(&rig.cat(".stats.d/prom"));
        assert_eq!(
            prom["kvfs_cpu_bytes_total{work=\"checksum\"}"],
            number(&json, "cpu.checksum.bytes") as f64
        );
        assert!(prom["kvfs_debt_cpu_seconds"] > 0.0);
    }
}

/// Debt and its price, computed again from the levels and the rate of background work.
#[test]
fn what_is_owed_follows_from_the_levels() {
    for kind in [Kind::LSM, Kind::BTREE] {
        let rig = rig(|disk, clock| {
            let options = if kind == Kind::LSM { small_options() } else { engine::Options::tiny(kind) };
            engine::open(disk, clock, &options).unwrap()
        });
        for _ in 0..3 {
            fill(&rig);
            rig.clock.advance(Duration::from_secs(1));
            rig.control.tick();
        }
        rig.write(OWNER, "auto_compact off").unwrap_or_default();
        for round in 0..6 {
            rig.user_writes(900 + round);
            if kind == Kind::LSM {
                engine::run(&*rig.engine, Command::Flush).unwrap();
            }
        }
        rig.user_writes(300);
        let report = rig.json(".stats.d/json");
        let of = |path: &str| number(&report, path);
        let real = |value: &Value| value.as_f64().unwrap();
        let rows = report["debt"]["levels"].as_array().unwrap();
        // What a row owes is what it holds times what a byte of it must still be written: here and in all rows below.
        let mut pending = 0.0;
        for row in rows.iter().rev() {
            pending += real(&row["write_amplification"]);
            assert!((real(&row["pending_write_amplification"]) - pending).abs() < 1e-9, "{row}");
            let owed = number(row, "bytes") as f64 * pending;
            assert!((number(row, "debt_bytes") as f64 - owed).abs() <= 1.0, "{row}");
        }
        assert!(pending > 0.0 && rows.iter().any(|row| number(row, "debt_bytes") > 0), "{kind} {rows:?}");
        let held: Vec<u64> = rows.iter().map(|row| number(row, "bytes")).collect();
        let levels = report["levels"].as_array().unwrap();
        let tops = if kind == Kind::LSM {
            assert_eq!(held[0], of("memory.memtable_bytes"));
            let below: Vec<u64> =
                levels.iter().take(held.len() - 1).map(|level| number(level, "bytes")).collect();
            assert_eq!(held[1..], below);
            for (row, level) in rows[1..].iter().zip(levels) {
                assert_eq!(row["measured_write_amplification"], level["write_amplification"], "{row}");
            }
            // As many memtables as stop writers, of 16 KiB each.
            vec![of("memory.memtable_bytes_max"), small_l0_stop() * (16 << 10)]
        } else {
            assert_eq!((held.len(), held[0]), (1, of("memory.dirty_bytes")));
            vec![of("memory.dirty_bytes_max")]
        };
        let owed: u64 = rows.iter().map(|row| number(row, "debt_bytes")).sum();
        assert_eq!(of("debt.durability_bytes"), owed);
        let most: f64 = rows
            .iter()
            .enumerate()
            .map(|(at, row)| {
                let bytes = held[at].max(tops.get(at).copied().unwrap_or(0));
                bytes as f64 * real(&row["pending_write_amplification"])
            })
            .sum();
        assert!((of("debt.durability_bytes_max") as f64 - most).abs() <= 1.0, "{kind} {most}");
        let sum = |name: &str| {
            ["flush", "merge", "checkpoint"]
                .map(|work| number(&report["cpu"][work], name))
                .iter()
                .sum::<u64>() as f64
        };
        let rate = sum("timed_ns") / sum("timed_bytes") / 1e9;
        for (name, bytes) in [("cpu_seconds", owed as f64), ("cpu_seconds_max", most)] {
            let shown = real(&report["debt"][name]);
            assert!((shown - bytes * rate).abs() <= shown * 1e-3 + 8.0 * rate, "{kind} {name}");
        }
        rows.iter().for_each(|row| {
            let wanted = number(row, "debt_bytes") as f64 * rate;
            assert!((real(&row["cpu_seconds"]) - wanted).abs() <= wanted * 1e-3 + rate, "{row}");
        });
        // At the rate of the last minute, three seconds long.
        let window = &report["windows"]["1m"];
        assert_eq!(number(window, "elapsed_ms"), 3000);
        let (left, written) = if kind == Kind::LSM {
            (of("debt.pending_compaction_bytes"), of("disk.compaction_write_bytes"))
        } else {
            (of("debt.dirty_bytes"), of("disk.by_purpose.checkpoint.write_bytes"))
        };
        assert!(left > 0, "{kind}");
        let shown = real(&report["debt"]["settle_seconds"]);
        assert!((shown - left as f64 / written as f64 * 3.0).abs() <= shown * 1e-9, "{kind} {shown}");
    }
}

/// L0 runs at which writers stop by default.
fn small_l0_stop() -> u64 {
    36
}

#[test]
fn predictions_stand_beside_what_was_measured() {
    let rig = small_lsm();
    fill(&rig);
    rig.write(OWNER, "drop-caches").unwrap();
    for key in 0..300u64 {
        rig.engine.get(&key.to_be_bytes(), Tier::Disk).unwrap();
    }
    rig.clock.advance(Duration::from_secs(1));
    rig.control.tick();
    let report = rig.json(".stats.d/json");
    let prediction = &report["prediction"];
    let of = |name: &str| prediction[name].as_f64().unwrap();
    let close = |name: &str, wanted: f64| {
        assert!((of(name) - wanted).abs() <= wanted * 1e-9, "{name}: {} and not {wanted}", of(name));
    };
    let levels = report["levels"].as_array().unwrap();
    let deep = levels.iter().skip(1).filter(|level| number(level, "files") > 0).count();
    close("levels", deep as f64);
    close("write_debt", report["debt"]["levels"][0]["pending_write_amplification"].as_f64().unwrap());
    close("write_measured", report["amplification"]["engine_write_no_wal"].as_f64().unwrap());
    close("write_measured_over_half_ratio", of("write_measured") / of("write_half_ratio"));
    let read = number(&report, "disk.by_purpose.get.read_bytes");
    close("lookup_bytes_measured", read as f64 / number(&report, "probes.count") as f64);
    close("lookup_measured_over_predicted", of("lookup_bytes_measured") / of("lookup_bytes"));
    close("space_measured", report["amplification"]["space"].as_f64().unwrap());
    // A level is ten times as large as the one above: half of that is written again for each, and a tenth of the disk is garbage.
    close("write_half_ratio", deep as f64 * 5.0);
    close("space", 1.0 / 0.9);
    // One block of 4 KiB and the index of its table, and beside them filters and what their wrong answers cost.
    let (bytes, files) =
        ["bytes", "files"].map(|name| levels.iter().map(|level| number(level, name)).sum::<u64>()).into();
    let index = bytes as f64 / files as f64 / 4096.0 * 32.0;
    assert!(
        of("lookup_bytes") > 4096.0 + index && of("lookup_bytes") < (4096.0 + index) * 1.25,
        "{}",
        of("lookup_bytes")
    );
}

/// A hybrid owes its dirty pages, and what its levels owe, each once.
#[test]
fn a_hybrid_owes_what_both_halves_owe() {
    let rig = rig(|disk, clock| engine::open(disk, clock, &engine::Options::tiny(Kind::HYBRID)).unwrap());
    fill(&rig);
    rig.user_writes(300);
    let json = rig.json(".stats.d/json");
    let rows = json["debt"]["levels"].as_array().unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row["level"].as_str().unwrap()).collect();
    assert_eq!(names[0], "dirty pages");
    assert_eq!(number(&rows[0], "bytes"), number(&json, "debt.dirty_bytes"));
    let levels: Vec<&Value> =
        json["levels"].as_array().unwrap().iter().filter(|level| number(level, "bytes") > 0).collect();
    assert!(!levels.is_empty() && levels.len() == rows.len() - 1, "{names:?}");
    for (row, level) in rows[1..].iter().zip(levels) {
        assert_eq!(row["level"], format!("L{}", level["level"]));
        assert_eq!(number(row, "bytes"), number(level, "bytes"));
    }
    let sum: u64 = rows.iter().map(|row| number(row, "debt_bytes")).sum();
    assert!(sum.abs_diff(number(&json, "debt.durability_bytes")) <= rows.len() as u64);
}

/// Writes of several skews, each many times what the tree holds: the prediction is within a factor of two of what was measured.
#[test]
fn a_hybrid_writes_about_what_is_predicted_from_its_hot_share() {
    const RECORDS: u64 = 10_000;
    let mut skews = Vec::new();
    for (policy, loads) in [("leveled", &[0.0, 0.7, 1.1][..]), ("tiered", &[0.7])] {
        for &skew in loads {
            let rig = rig(|disk, clock| {
                let text =
                    format!("memory=2M,hot=256K,dirty_max=256K,policy={policy},pages=cow,checkpoint_log=1M");
                let options = engine::Options::tiny(Kind::HYBRID).with(&text).unwrap();
                engine::open(disk, clock, &options).unwrap()
            });
            assert_eq!(rig.json(".stats.d/json")["hybrid_prediction"], Value::Null, "nothing has come down");
            // The chance of each rank, summed; ranks lie anywhere among the keys.
            let mut sums = vec![0.0];
            (1..=RECORDS).for_each(|rank| sums.push(sums[rank as usize - 1] + (rank as f64).powf(-skew)));
            let mut prng = Prng::new(1);
            for number in 0..2_000 {
                let mut batch = Batch::new(1);
                for _ in 0..10 {
                    let at = prng.below(1 << 30) as f64 / (1u64 << 30) as f64 * sums[RECORDS as usize];
                    let rank = sums.partition_point(|sum| *sum <= at) as u64;
                    let key = rank.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes().to_vec();
                    batch.put(key, vec![rank as u8; 200]);
                }
                while rig.engine.apply(&batch, Tier::Disk).is_err() {
                    engine::settle(&*rig.engine).unwrap();
                }
                if number % 10 == 0 {
                    engine::settle(&*rig.engine).unwrap();
                }
            }
            engine::settle(&*rig.engine).unwrap();
            let json = rig.json(".stats.d/json");
            let of = |name: &str| json["hybrid_prediction"][name].as_f64().unwrap();
            let over = of("write_measured_over_predicted");
            assert!((0.5..=2.0).contains(&over), "{policy} {skew}: {}", json["hybrid_prediction"]);
            let (parts, measured) = (of("write_tree") + of("write_levels"), of("write_measured"));
            assert!((parts - of("write")).abs() < 1e-9 && (measured / parts - over).abs() < 1e-9);
            let came_down =
                number(&json, "hybrid.demoted_bytes") as f64 / number(&json, "kv.write_bytes") as f64;
            assert!((of("hit_share") - (1.0 - came_down)).abs() < 1e-9);
            // A rough one: with another size there are other puts between checkpoints, too.
            let (half, double) = (of("write_half_hot"), of("write_double_hot"));
            assert!(
                [half, double].iter().all(|write| (0.5..2.0).contains(&(write / of("write")))),
                "{half} {double}"
            );
            assert_eq!(json["hybrid_prediction"]["layout"], policy);
            assert!(rig.cat(".stats").contains("MODEL   hits "));
            skews.push(of("skew"));
        }
    }
    assert!(skews[..3].is_sorted() && skews[0] < 0.3 && skews[2] > 0.8, "{skews:?}");
}
