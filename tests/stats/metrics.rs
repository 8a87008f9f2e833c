//! A number that is declared once is in every output.

use std::sync::atomic::Ordering::Relaxed;

use kvfs::base::metric::Since;
use kvfs::control::{exposition as exposition_of, value};

use super::*;

kvfs::base::metric::metrics! {
    /// What a test counts.
    #[derive(Copy)]
    pub struct Toy counted by ToyMeter witness "stats::metrics::x" {
        /// Things that the test did.
        counter things: u64 [Count];
        /// Time it took.
        counter waited_ns: u64 [Nanoseconds];
        derived {
            /// Time a thing.
            mean_ns: Option<u64> [Nanoseconds] = |toy| toy.waited_ns.checked_div(toy.things);
        }
    }
}

kvfs::base::metric::metrics! {
    /// A report of it.
    pub struct Toys {
        /// What was counted.
        part toy: Toy;
        /// How it is now.
        gauge level: u64 [Bytes];
    }
}

#[test]
fn a_counter_that_is_declared_is_in_every_output() {
    let meter = ToyMeter::default();
    let now = || Toys { toy: meter.snapshot(), level: 7 };
    meter.things.fetch_add(3, Relaxed);
    let mark = now();
    meter.things.fetch_add(2, Relaxed);
    meter.waited_ns.fetch_add(500_000_000, Relaxed);
    // Since the mark, in the JSON report: what it was computed from counts from there, too.
    let since = value(&now().since(&mark));
    let toy = serde_json::json!({ "things": 2, "waited_ns": 500_000_000, "mean_ns": 250_000_000 });
    assert_eq!(since, serde_json::json!({ "toy": toy, "level": 7 }));
    // Prometheus.
    let text = exposition_of(&now());
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.contains(&"# HELP kvfs_toy_things_total Things that the test did."), "{text}");
    assert!(lines.contains(&"# TYPE kvfs_toy_things_total counter"), "{text}");
    assert!(
        lines.contains(&"kvfs_toy_things_total 5") && lines.contains(&"kvfs_toy_waited_seconds_total 0.5"),
        "{text}"
    );
    assert!(lines.contains(&"# TYPE kvfs_level gauge") && !text.contains("mean"), "{text}");
    // The document and the schema.
    let mut entries = Vec::new();
    Toys::list_rows("", &mut entries);
    let line = documented(entries.iter().find(|entry| entry.path == "toy.things").unwrap());
    assert_eq!(
        line,
        "| `toy.things` | n | counter | Things that the test did. | `kvfs_toy_things_total` | stable | `stats::metrics::x` |\n"
    );
    let schema = schema::schema_of(&entries);
    assert_eq!(schema["properties"]["toy"]["properties"]["things"]["type"], "integer");
    assert_eq!(schema["properties"]["toy"]["required"].as_array().unwrap().len(), 3);
}

/// No counter of the report is forgotten by a mark: what a store did before it is in none of them.
#[test]
fn a_mark_forgets_no_counter() {
    for kind in [Kind::MEM, Kind::LSM, Kind::BTREE] {
        let rig = rig(|disk, clock| {
            let options = engine::Options::tiny(kind);
            engine::open(disk, clock, &options).unwrap()
        });
        for round in 0..200 {
            let mut batch = Batch::new(Op::Write.tag());
            batch.put(vec![1, round as u8], vec![round as u8; 900]);
            rig.meter.record(Op::Write, Duration::from_micros(50), 900, round % 7 == 0);
            while rig.engine.apply(&batch, Tier::Disk).is_err() {
                engine::settle(&*rig.engine).unwrap();
            }
            rig.engine.get(&[1, (round * 3) as u8], Tier::Disk).unwrap();
        }
        engine::run(&*rig.engine, Command::Compact).unwrap();
        engine::settle(&*rig.engine).unwrap();
        rig.write(OWNER, "mark here").unwrap();
        let since = rig.json(".stats.d/since/here.json");
        let all = rig.json(".stats.d/json");
        let (mut counters, mut grown) = (0, 0);
        for entry in entries().iter().filter(|entry| entry.row.kind == MetricKind::Counter) {
            let (mut found, mut before) = (Vec::new(), Vec::new());
            numbers_at(&since, &entry.path, &mut found);
            numbers_at(&all, &entry.path, &mut before);
            counters += found.len();
            grown += before.iter().filter(|count| **count > 0.0).count();
            assert!(found.iter().all(|count| *count == 0.0), "{kind} {}: {found:?}", entry.path);
        }
        let least = if kind == Kind::MEM { 8 } else { 30 };
        assert!(
            counters > 400 && grown > least,
            "{kind}: {grown} of {counters} counters had counted anything"
        );
    }
}

/// What the JSON report says and what Prometheus is told are the same numbers, row by row, and no two rows share a name.
#[test]
fn both_outputs_for_machines_say_the_same() {
    for kind in [Kind::LSM, Kind::BTREE] {
        let rig = rig(|disk, clock| engine::open(disk, clock, &engine::Options::tiny(kind)).unwrap());
        rig.clock.advance(Duration::from_millis(1500));
        for round in 0..100u8 {
            rig.user_writes(300);
            rig.engine.get(&[1, round], Tier::Disk).unwrap();
            engine::settle(&*rig.engine).unwrap();
        }
        engine::run(&*rig.engine, Command::Flush).unwrap();
        rig.control.tick();
        let json = rig.json(".stats.d/json");
        let samples = exposition(&rig.cat(".stats.d/prom"));
        let (mut families, mut compared) = (BTreeSet::new(), 0);
        for entry in entries().iter().filter(|entry| is_exposed(entry.row)) {
            let family = family_of(entry);
            assert!(families.insert(family.clone()), "{family} comes from two rows");
            let (mut numbers, name) = (Vec::new(), entry.row.name);
            numbers_at(&json, &entry.path, &mut numbers);
            if name == "buckets" || name == "stats_reads" {
                continue;
            }
            let unit = match entry.row.unit {
                Unit::Nanoseconds => 1e-9,
                Unit::Milliseconds => 1e-3,
                _ => 1.0,
            };
            let series = |series: &&String| series.split('{').next() == Some(&*family);
            let told: Vec<f64> =
                samples.iter().filter(|(name, _)| series(name)).map(|(_, value)| *value).collect();
            assert_eq!(told.len(), numbers.len(), "{kind} {}: {numbers:?} {told:?}", entry.path);
            let (said, told): (f64, f64) = (numbers.iter().sum::<f64>() * unit, told.iter().sum());
            let is_now = ["time_ms", "uptime_ms", "elapsed_ms"].contains(&name);
            assert!(
                is_now || (said - told).abs() <= said.abs() * 1e-9,
                "{kind} {}: {said} {told}",
                entry.path
            );
            compared += usize::from(said > 0.0);
        }
        assert!(compared > 40, "{kind}: {compared} numbers were more than 0");
    }
}

/// The numbers at `path`, whatever stands in the place of `<…>` and `[]`.
fn numbers_at(value: &Value, path: &str, found: &mut Vec<f64>) {
    let Some((name, rest)) = path.split_once('.').or((!path.is_empty()).then_some((path, ""))) else {
        match value {
            Value::Array(items) => found.extend(items.iter().filter_map(Value::as_f64)),
            Value::Bool(flag) => found.push(f64::from(u8::from(*flag))),
            other => found.extend(other.as_f64()),
        }
        return;
    };
    if name.starts_with('<') {
        value
            .as_object()
            .into_iter()
            .flat_map(|members| members.values())
            .for_each(|value| numbers_at(value, rest, found));
    } else if let Some(list) = name.strip_suffix("[]") {
        value[list].as_array().into_iter().flatten().for_each(|value| numbers_at(value, rest, found));
    } else {
        numbers_at(&value[name], rest, found);
    }
}
