//! Each door counts what passed it, and the doors agree.

use kvfs::disk::DiskCounters;
use kvfs::engine::Price;
use kvfs::engine::charges::Payer;
use kvfs::engine::requests::{ObjectMeter, Outcome, Passed, RequestKind};
use kvfs::engine::{Descriptor, Home, Inspect, Shape};

use super::*;

#[test]
fn doors_agree_with_what_was_sent() {
    let rig = mem();
    let file = rig.disk.create("a").unwrap();
    for n in 0..10 {
        rig.user_writes(1000);
        file.write_at(Purpose::Wal, n * 1200, &[0; 1200]).unwrap();
        file.write_at(Purpose::Compact { into: 1 }, n * 300, &[0; 300]).unwrap();
    }
    file.sync(Purpose::Wal).unwrap();
    rig.control.tick();
    let json = rig.json(".stats.d/json");
    assert_eq!(json["schema"], "kvfs.stats/1");
    assert_eq!(number(&json, "app.write_bytes"), 10_000);
    assert_eq!(number(&json, "kv.write_bytes"), 10 * (2 + 1000 + 2 + 98));
    assert_eq!(number(&json, "ops.write.kv_bytes"), number(&json, "kv.write_bytes"));
    assert_eq!(number(&json, "kinds.one.put_bytes"), 10_020);
    assert_eq!(number(&json, "disk.write_bytes"), 15_000);
    assert_eq!(number(&json, "disk.compaction_write_bytes"), 3_000);
    assert_eq!(number(&json, "disk.write_bytes"), rig.sim.witness().write_bytes);
    assert_eq!(json["amplification"]["write"], 1.5);
    assert_eq!(json["amplification"]["write_no_wal"], 0.3);
    assert_eq!(json["amplification"]["read"], Value::Null, "nothing was read by a user");
    assert_eq!(number(&json, "space.physical_bytes"), rig.disk.list().unwrap()[0].bytes_allocated);
    let by_purpose = json["disk"]["by_purpose"].as_object().unwrap();
    for key in ["writes", "write_bytes", "reads", "read_bytes", "syncs"] {
        let sum: u64 = by_purpose.values().map(|counters| counters[key].as_u64().unwrap()).sum();
        assert_eq!(sum, number(&json["disk"], key), "{key}");
    }
}

#[test]
fn ratios_multiply_and_marks_subtract() {
    let rig = mem();
    let file = rig.disk.create("a").unwrap();
    rig.user_writes(1000);
    rig.meter.record(Op::Write, Duration::from_secs(1), 0, true);
    file.write_at(Purpose::Recovery, 0, &[0; 5000]).unwrap();
    rig.write(OWNER, "mark before\n").unwrap();
    rig.clock.advance(Duration::from_secs(5));
    rig.user_writes(2000);
    file.write_at(Purpose::Wal, 0, &[0; 6000]).unwrap();
    let since = rig.json(".stats.d/since/before.json");
    assert_eq!(since["since"], "before");
    assert_eq!(number(&since, "elapsed_ms"), 5000);
    assert_eq!(number(&since, "app.write_bytes"), 2000);
    assert_eq!(number(&since, "disk.write_bytes"), 6000);
    // The only write since the mark took 50 us; one before it took far longer.
    assert!((50_000..51_000).contains(&number(&since, "ops.write.max_ns")));
    assert!(number(&rig.json(".stats.d/json"), "ops.write.max_ns") > 990_000_000);
    let amp = |name: &str| since["amplification"][name].as_f64().unwrap();
    assert!((amp("write") - amp("fs_write") * amp("engine_write")).abs() < 1e-9);
    assert_eq!(amp("write"), 3.0);
    assert!(rig.cat(".stats.d/since/before").contains("since mark before, 5.00s ago"));
    assert_eq!(number(&rig.json(".stats.d/json"), "disk.write_bytes"), 11_000);
    // Marking again moves the mark; forgetting it takes the files away.
    rig.write(OWNER, "mark before").unwrap();
    assert_eq!(number(&rig.json(".stats.d/since/before.json"), "disk.write_bytes"), 0);
    rig.write(OWNER, "unmark before").unwrap();
    assert!(rig.find(".stats.d/since/before").is_none() && rig.find(".stats.d/since/before.json").is_none());
    for n in 0..64 {
        rig.write(OWNER, &format!("mark m{n}")).unwrap();
    }
    assert!(rig.write(OWNER, "mark m64").is_err());
    rig.write(OWNER, "mark m63").unwrap();
}

#[test]
fn windows_show_the_last_while() {
    let rig = mem();
    let file = rig.disk.create("a").unwrap();
    for second in 0..100 {
        rig.user_writes(100);
        file.write_at(Purpose::Wal, 0, &vec![0; if second < 90 { 100 } else { 300 }]).unwrap();
        rig.clock.advance(Duration::from_secs(1));
        rig.control.tick();
    }
    let windows = &rig.json(".stats.d/json")["windows"];
    assert_eq!(number(&windows["10s"], "app_write_bytes"), 1000);
    assert_eq!(number(&windows["10s"], "elapsed_ms"), 10_000);
    assert_eq!(windows["10s"]["amplification"]["write"], 3.0);
    assert_eq!(number(&windows["1m"], "app_write_bytes"), 6000);
    assert_eq!(number(&windows["1m"], "disk_write_bytes"), 50 * 100 + 10 * 300);
    // A young mount's windows are as long as the mount is old.
    let young = mem();
    young.clock.advance(Duration::from_secs(3));
    young.user_writes(5);
    let windows = &young.json(".stats.d/json")["windows"];
    assert_eq!((number(&windows["1m"], "elapsed_ms"), number(&windows["1m"], "app_write_bytes")), (3000, 5));
}

/// Puts, overwrites, deletes and reads on a tiny store of each engine, with its background work in between; then the
/// doors are compared with each other, with the generator and with the simulated disk's own count.
#[test]
fn doors_agree_for_every_engine() {
    for kind in [Kind::MEM, Kind::LSM, Kind::BTREE] {
        let mut opened = true;
        let rig = rig(|disk, clock| match engine::open(disk, clock, &engine::Options::tiny(kind)) {
            Ok(engine) => engine,
            Err(engine::Error::Invalid(text)) if text.contains("not built yet") => {
                opened = false;
                Arc::new(MemEngine::new())
            }
            Err(error) => panic!("{kind}: {error}"),
        });
        if !opened {
            continue;
        }
        rig.write(OWNER, "mark opened").unwrap();
        let mut random = Prng::new(7);
        let (mut app_bytes, mut kv_bytes, mut gets, mut got_bytes) = (0, 0, 0, 0);
        for round in 0..1500 {
            let key = [(random.below(2)) as u8, 1, random.below(100) as u8];
            let length = if round % 20 == 0 { 5000 } else { 1 + random.below(200) as usize };
            if random.below(4) == 0 {
                let found = rig.engine.get(&key, Tier::Disk).unwrap();
                gets += 1;
                got_bytes += found.map_or(0, |value| 3 + value.len() as u64);
                continue;
            }
            let mut batch = Batch::new(Op::Write.tag());
            if random.below(5) == 0 {
                batch.delete(key.to_vec());
            } else {
                batch.put(key.to_vec(), vec![random.below(256) as u8; length]);
                app_bytes += length as u64;
                rig.meter.record(Op::Write, Duration::from_micros(1), length as u64, false);
            }
            while let Err(error) = rig.engine.apply(&batch, Tier::Disk) {
                assert!(matches!(error, engine::Error::Busy { .. }), "{kind}: {error}");
                engine::settle(&*rig.engine).unwrap();
                rig.clock.advance(Duration::from_millis(10));
            }
            kv_bytes += batch.bytes();
            rig.clock.advance(Duration::from_millis(1));
            if round % 50 == 0 {
                engine::settle(&*rig.engine).unwrap();
            }
        }
        engine::run(&*rig.engine, Command::Flush).unwrap();
        engine::sync(&*rig.engine).unwrap();
        rig.control.tick();
        let report = rig.json(".stats.d/json");
        assert_eq!(report["engine"], kind.to_string());
        assert_eq!(number(&report, "app.write_bytes"), app_bytes, "{kind}");
        assert_eq!(number(&report, "kv.write_bytes"), kv_bytes, "{kind}");
        assert_eq!(number(&report, "ops.write.kv_bytes"), kv_bytes, "{kind}");
        assert_eq!(
            (number(&report, "kv.gets"), number(&report, "kv.get_bytes")),
            (gets, got_bytes),
            "{kind}"
        );
        let witness = rig.sim.witness();
        let disk = (number(&report, "disk.write_bytes"), number(&report, "disk.read_bytes"));
        assert_eq!(disk, (witness.write_bytes, witness.read_bytes), "{kind}");
        for key in ["writes", "write_bytes", "reads", "read_bytes", "syncs"] {
            let purposes = report["disk"]["by_purpose"].as_object().unwrap();
            let sum: u64 = purposes.values().map(|counters| counters[key].as_u64().unwrap()).sum();
            assert_eq!(sum, number(&report["disk"], key), "{kind} {key}");
        }
        if kind == Kind::MEM {
            continue;
        }
        // Every batch is in the log, and everything was written home once more at least.
        let since = rig.json(".stats.d/since/opened.json");
        let amp = |name: &str| since["amplification"][name].as_f64().unwrap();
        assert!(amp("engine_write") > 1.0 && amp("engine_write_no_wal") > 0.0, "{kind}: {since:#}");
        assert!((amp("write") - amp("fs_write") * amp("engine_write")).abs() < 1e-9, "{kind}");
        assert!(number(&since, "disk.by_purpose.wal.write_bytes") >= kv_bytes, "{kind}");
        assert_eq!(number(&report, "debt.unsynced_bytes"), 0, "{kind}: a sync came last");
        assert!(number(&report, "space.physical_bytes") > 0, "{kind}");
        assert_eq!(number(&report, "probes.count"), gets, "{kind}: each get is one probe count");
        if kind == Kind::LSM {
            // The engine's own count of what it wrote into a level is that of door 3.
            let counted = rig.engine.shape().levels;
            assert_eq!(report["levels"].as_array().unwrap().len(), counted.len());
            for (level, counted) in report["levels"].as_array().unwrap().iter().zip(&counted) {
                assert_eq!(level["write_bytes"].as_u64(), Some(counted.traffic.write_bytes), "{level}");
                let passed = &report["disk"]["by_purpose"][&format!("compact_{}", counted.level)];
                assert_eq!(level["read_bytes"], passed["read_bytes"], "{level}");
            }
            assert!(number(&report, "disk.compaction_write_bytes") > 0);
        } else {
            assert!(report["tree"]["height"].as_u64() > Some(0), "{:#}", report["tree"]);
            assert!(number(&report, "disk.by_purpose.checkpoint.write_bytes") > 0);
        }
        println!("{}", rig.cat(".stats"));
    }
}

/// An engine that reads and writes where door 3 cannot see it.
struct Elsewhere(MemEngine);

static ELSEWHERE: Descriptor = Descriptor {
    name: "elsewhere",
    help: "a map in memory",
    keeps: true,
    options: || engine::Options::new(Kind::of(&ELSEWHERE), engine::Common::default()),
    tiny: || engine::Options::new(Kind::of(&ELSEWHERE), engine::Common::tiny()),
    home: Home::Directory(|_, _, _| Ok(Arc::new(Elsewhere(MemEngine::new())))),
    remote: None,
    is_file: |_| false,
    salvage: None,
    has_snapshots: false,
    writes_in_place: false,
    variants: &[],
};

impl Engine for Elsewhere {
    hand_on!(Engine 0: get, scan, apply, lsn, sync_to, promise, close);

    fn kind(&self) -> Kind {
        Kind::of(&ELSEWHERE)
    }
}

/// What nobody measures is no number: not 0.
#[test]
fn of_an_engine_that_door_3_does_not_see_no_amplification_is_made_up() {
    let rig = rig(|_, _| Arc::new(Elsewhere(MemEngine::new())));
    rig.user_writes(10_000);
    rig.control.tick();
    let report = rig.json(".stats.d/json");
    let amplification = &report["amplification"];
    for name in ["write", "engine_write", "write_no_wal", "read", "read_foreground", "space"] {
        assert!(amplification[name].is_null(), "{name}: {amplification:#}");
    }
    assert!(amplification["fs_write"].as_f64() > Some(0.0), "door 2 sees it: {amplification:#}");
    assert!(report["disk"].is_null(), "{:#}", report["disk"]);
    assert!(report["windows"]["10s"]["disk_write_bytes"].is_null(), "{:#}", report["windows"]["10s"]);
    assert!(!rig.cat(".stats.d/prom").contains("kvfs_disk_"), "what is not measured has no sample");
    let history = rig.cat(".stats.d/history");
    let lines: Vec<Vec<&str>> = history.lines().map(|line| line.split(',').collect()).collect();
    let column = lines[0].iter().position(|name| *name == "disk_write_bytes").unwrap();
    assert!(lines.len() > 1 && lines[1..].iter().all(|line| line[column].is_empty()), "{history}");
    let text = rig.cat(".stats");
    let line = |name: &str| text.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
    for name in ["write total", "read total", "space "] {
        assert!(line(name).contains(" - ") && !line(name).contains("0.00"), "{}", line(name));
    }
    assert_eq!((line("WRITTEN"), line("READ")), ("WRITTEN -", "READ    -"));
    assert!(line("SYNCS").starts_with("SYNCS   - by the disk"), "{}", line("SYNCS"));
}

/// An engine that keeps its files on an object store, and counts at a door of its own.
struct Remote {
    map: MemEngine,
    door: ObjectMeter,
    price: Option<Price>,
}

impl Remote {
    fn new(price: Option<Price>) -> Arc<Remote> {
        Arc::new(Remote { map: MemEngine::new(), door: ObjectMeter::default(), price })
    }

    /// A request that carries so many bytes.
    fn pass(&self, kind: RequestKind, purpose: Purpose, outcome: Outcome, bytes: u64, payer: Payer) {
        let (write_bytes, read_bytes) = if kind == RequestKind::Put { (bytes, 0) } else { (0, bytes) };
        let share = self.door.share(payer);
        self.door.count(Passed { kind, purpose, outcome, write_bytes, read_bytes }, &share);
    }
}

impl Engine for Remote {
    hand_on!(Engine map: get, scan, apply, lsn, sync_to, promise, close);

    fn kind(&self) -> Kind {
        Kind::of(&ELSEWHERE)
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }
}

impl Inspect for Remote {
    fn shape(&self) -> Shape {
        let stored_bytes = Some(50 << 30);
        let objects = Some(self.door.shape(stored_bytes, self.price.clone()));
        Shape { objects, ..Engine::shape(&self.map) }
    }

    fn traffic(&self) -> Option<DiskCounters> {
        Some(self.door.traffic())
    }
}

/// What passes the door of an engine is the disk's part of every quotient, and its requests stand in every output.
#[test]
fn an_engine_with_a_door_of_its_own_is_measured_there() {
    let remote = Remote::new(None);
    let given = remote.clone();
    let rig = rig(move |_, _| given.clone());
    rig.user_writes(10_000);
    remote.pass(RequestKind::Put, Purpose::Wal, Outcome::Done, 11_000, Payer::Nobody);
    remote.pass(RequestKind::Put, Purpose::Flush, Outcome::Done, 9_000, Payer::Nobody);
    remote.pass(RequestKind::Put, Purpose::Wal, Outcome::Failed, 5_000, Payer::Nobody);
    remote.pass(RequestKind::Get, Purpose::Get, Outcome::Done, 700, Payer::Nobody);
    remote.pass(RequestKind::Head, Purpose::Get, Outcome::Missing, 0, Payer::Nobody);
    remote.pass(RequestKind::List, Purpose::Manifest, Outcome::Done, 0, Payer::Nobody);
    remote.pass(RequestKind::Put, Purpose::Manifest, Outcome::Refused, 0, Payer::Nobody);
    rig.control.tick();
    let report = rig.json(".stats.d/json");
    assert_eq!(report["amplification"]["write"].as_f64(), Some(2.0));
    assert!(report["amplification"]["space"].is_null(), "what it occupies there nobody has looked at");
    assert_eq!(report["amplification"]["write_no_wal"].as_f64(), Some(0.9));
    assert_eq!(number(&report, "disk.by_purpose.wal.write_bytes"), 11_000);
    assert_eq!((number(&report, "disk.write_bytes"), number(&report, "disk.read_bytes")), (20_000, 700));
    assert_eq!(number(&report, "disk.by_purpose.wal.errors"), 1);
    let names = ["puts", "gets", "heads", "lists", "deletes", "missing", "refused", "failed"];
    let counted = names.map(|name| number(&report, &format!("requests.{name}")));
    assert_eq!(counted, [4, 1, 1, 1, 0, 1, 1, 1]);
    assert!(
        report["cost"]["usd_per_hour"].is_null() && report["cost"]["price"].is_null(),
        "nobody said prices"
    );
    let text = rig.cat(".stats");
    assert!(
        text.contains("STORE   PUT 4  GET 1  HEAD 1  LIST 1  DELETE 0  missing 1  refused 1  failed 1\n"),
        "{text}"
    );
    assert!(text.contains("write total           2.00"), "{text}");
    assert!(!text.contains("/hour"), "{text}");
    let other = mem();
    assert!(!other.cat(".stats").contains("STORE  "), "a disk has no requests of that kind");
    let report = other.json(".stats.d/json");
    assert!(report["requests"].is_null() && report["cost"].is_null());
}

/// Every output has the same dollars, whoever they are charged to, and a mark subtracts them.
#[test]
fn dollars_add_up_by_purpose_and_by_operation() {
    let remote = Remote::new(Some(Price::aws()));
    let given = remote.clone();
    let rig = rig(move |_, _| given.clone());
    let work = |rounds: u64| {
        for round in 0..rounds {
            for (op, bytes) in [(Op::Write, 700), (Op::Create, 290)] {
                let mut batch = engine::Batch::new(op.tag());
                batch.put(vec![0; 10], vec![0; bytes]);
                remote.door.applied(&batch);
            }
            remote.pass(RequestKind::Put, Purpose::Wal, Outcome::Done, 1001, Payer::Log);
            remote.pass(RequestKind::Get, Purpose::Get, Outcome::Done, 333, Payer::Operation(Op::Read.tag()));
            if round % 10 == 0 {
                remote.pass(RequestKind::Put, Purpose::Flush, Outcome::Done, 9_999, Payer::Table(None));
                remote.pass(RequestKind::Put, Purpose::Manifest, Outcome::Refused, 77, Payer::Manifest);
                remote.pass(RequestKind::Head, Purpose::Get, Outcome::Missing, 0, Payer::Nobody);
                remote.pass(RequestKind::List, Purpose::Manifest, Outcome::Done, 0, Payer::Nobody);
                remote.pass(RequestKind::Delete, Purpose::Wal, Outcome::Done, 0, Payer::Merge(None));
            }
        }
    };
    work(100);
    rig.clock.advance(Duration::from_secs(600));
    rig.write(OWNER, "mark here").unwrap();
    work(900);
    rig.clock.advance(Duration::from_secs(3000));
    rig.control.tick();
    for (file, rounds, seconds) in
        [(".stats.d/json", 1000, 3600.0), (".stats.d/since/here.json", 900, 3000.0)]
    {
        let report = rig.json(file);
        let near = |shown: &Value, wanted: f64, what: &str| {
            let shown = shown.as_f64().unwrap_or_else(|| panic!("{file} {what}: {shown}"));
            assert!((shown - wanted).abs() <= wanted * 1e-9, "{file} {what}: {shown} and not {wanted}");
        };
        let tenth = rounds / 10;
        let usd = (rounds + 2 * tenth + tenth) as f64 * 5e-6 + (rounds + tenth) as f64 * 4e-7;
        let cost = &report["cost"];
        near(&cost["usd"], usd, "usd");
        assert_eq!((cost["price"].as_str(), number(cost, "stored_bytes")), (Some("aws"), 50 << 30));
        near(&cost["storage_usd_per_month"], 1.15, "storage_usd_per_month");
        let per_hour = usd / (seconds / 3600.0);
        near(&cost["request_usd_per_hour"], per_hour, "request_usd_per_hour");
        near(&cost["usd_per_hour"], per_hour + 1.15 / 730.0, "usd_per_hour");
        near(&cost["usd_per_month"], per_hour * 730.0 + 1.15, "usd_per_month");
        for part in ["by_purpose", "by_operation"] {
            let rows: Vec<&Value> = report["requests"][part].as_object().unwrap().values().collect();
            let sum: f64 = rows.iter().map(|row| row["usd"].as_f64().unwrap()).sum();
            near(&cost["usd"], sum, part);
            for kind in ["puts", "gets", "heads", "lists", "deletes"] {
                let sum: u64 = rows.iter().map(|row| number(row, kind)).sum();
                assert_eq!(sum, number(&report["requests"], kind), "{file} {part} {kind}");
            }
        }
        let of = |op: &str, name: &str| number(&report, &format!("requests.by_operation.{op}.{name}"));
        let sum =
            |name: &str| -> u64 { ["write", "create", "read", "nobody"].map(|op| of(op, name)).iter().sum() };
        assert_eq!(sum("write_bytes"), number(&report, "disk.write_bytes"), "{file}");
        assert_eq!(sum("read_bytes"), number(&report, "disk.read_bytes"), "{file}");
        assert!(
            of("write", "puts").abs_diff(rounds * 12 / 10 * 703 / 1000) <= 4,
            "{file} {}",
            of("write", "puts")
        );
        assert_eq!(
            (of("read", "gets"), of("nobody", "heads"), of("nobody", "lists")),
            (rounds, tenth, tenth)
        );
    }
    let report = rig.json(".stats.d/json");
    let window = &report["windows"]["1m"];
    assert!(window["usd_per_hour"].as_f64() >= report["cost"]["usd_per_hour"].as_f64(), "{window:#}");
    let text = rig.cat(".stats");
    for line in [
        "        cost $0.00852/hour  $6.22/month  so far $0.00694  storage $1.15/month (50.0GiB)  prices aws\n",
        "          wal              1000       0       0       0     100    978KiB        0B     $0.00500\n",
        "          read                0    1000       0       0       0        0B    325KiB    $0.000400\n",
        "          nobody              0       0     100     100       0        0B        0B    $0.000540\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
    let table = rig.cat(".stats.d/ops");
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split(' ').collect()).collect();
    let column = |name: &str| rows[0].iter().position(|column| *column == name).unwrap();
    assert!(rows.iter().all(|row| row.len() == rows[0].len()), "{table}");
    let sum: f64 = rows[1..].iter().map(|row| row[column("store_usd")].parse::<f64>().unwrap()).sum();
    assert!((sum - report["cost"]["usd"].as_f64().unwrap()).abs() < 1e-9, "{table}");
    let exposition = rig.cat(".stats.d/prom");
    for line in [
        "kvfs_requests_by_purpose_puts_total{cause=\"wal\"} 1000\n",
        "kvfs_requests_by_operation_gets_total{op=\"read\"} 1000\n",
        "# TYPE kvfs_cost_usd_total counter\n",
        "# TYPE kvfs_cost_usd_per_hour gauge\n",
    ] {
        assert!(exposition.contains(line), "{line}{exposition}");
    }
}

/// What it occupies is looked up in its directory: blocks, so that a hole is nothing.
#[test]
fn the_space_of_an_engine_with_a_directory_of_its_own_is_in_its_blocks() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    std::fs::create_dir(home.path().join("below")).unwrap();
    std::fs::write(home.path().join("below/data"), vec![1; 1 << 20]).unwrap();
    std::fs::File::create(home.path().join("hole")).unwrap().set_len(1 << 30).unwrap();
    let engine =
        |_: Arc<dyn Disk>, _: Arc<dyn Clock>| -> Arc<dyn Engine> { Arc::new(Elsewhere(MemEngine::new())) };
    let rig = rig_beside(Some(home.path().to_path_buf()), |disk| disk, engine);
    rig.control.tick();
    let report = rig.json(".stats.d/json");
    let physical = number(&report, "space.physical_bytes");
    assert!((1 << 20..2 << 20).contains(&physical), "{physical}");
    assert_eq!(number(&report, "space.physical_files"), 2);
    let space = report["amplification"]["space"].as_f64().unwrap();
    assert!((space - physical as f64 / 1300.0).abs() < 0.01, "{space}");
}
