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
