//! Every kind of event, with all its fields, from the engine that has it.

use kvfs::disk::{Fault, Faulty, Request};

use super::*;

fn events(rig: &Rig) -> Vec<Value> {
    rig.cat(".stats.d/events").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The fields of each kind, as `docs/stats.md` lists them; optional ones are behind "; of a command".
fn documented() -> std::collections::BTreeMap<String, BTreeSet<String>> {
    let document =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/stats.md")).unwrap();
    let section = document.split("## The events").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    let fields = |text: &str| {
        // Words in brackets are values.
        let mut depth = 0;
        let plain: String = text
            .chars()
            .filter(|c| {
                depth += i32::from(*c == '(');
                let keep = depth == 0;
                depth -= i32::from(*c == ')');
                keep
            })
            .collect();
        let names = plain.split('`').skip(1).step_by(2).map(str::to_string);
        names.collect::<BTreeSet<String>>()
    };
    rows.map(|(name, text)| (name.to_string(), fields(text))).collect()
}

fn check(rig: &Rig, wanted: &[&str]) {
    let documented = documented();
    let events = events(rig);
    for event in &events {
        let name = event["event"].as_str().unwrap();
        let known = documented.get(name).unwrap_or_else(|| panic!("docs/stats.md does not know {event}"));
        let always = ["number", "time_ms", "time", "event"];
        let fields: BTreeSet<String> = event
            .as_object()
            .unwrap()
            .keys()
            .filter(|key| !always.contains(&key.as_str()))
            .cloned()
            .collect();
        match name {
            // That of a command has who gave it.
            "error" => assert!(fields.contains("what") && fields.is_subset(known), "{event}"),
            _ => assert_eq!(&fields, known, "{event}"),
        }
        for (field, value) in event.as_object().unwrap() {
            let said = value.as_str().is_some_and(|text| !text.is_empty() || name == "mount");
            assert!(value.is_u64() || said, "{field} of {event}");
        }
    }
    let numbers: Vec<u64> = events.iter().map(|event| number(event, "number")).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
    let found: BTreeSet<&str> = events.iter().filter_map(|event| event["event"].as_str()).collect();
    for name in wanted {
        assert!(found.contains(name), "no {name} in {found:?}");
    }
}

/// A rig over a disk that can be made to fail.
fn faulty_rig(options: engine::Options) -> (Rig, Arc<Faulty>) {
    let mut faulty = None;
    let rig = rig_on(
        |disk| faulty.insert(Faulty::new(disk)).clone(),
        |disk, clock| engine::open(disk, clock, &options).unwrap(),
    );
    (rig, faulty.unwrap())
}

/// Three writes in a row fail, which is told once.
fn fail_thrice(rig: &Rig, faulty: &Faulty, purpose: Purpose) {
    let mut batch = Batch::new(Op::Write.tag());
    batch.put(vec![9; 8], vec![1; 3000]);
    rig.engine.apply(&batch, Tier::Disk).unwrap();
    let kind = Some(Request::Write);
    for _ in 0..3 {
        faulty.inject(Fault::Fail { kind, purpose: Some(purpose), nth: 0, errno: libc::EIO });
    }
    for _ in 0..3 {
        assert!(engine::run(&*rig.engine, Command::Flush).is_err(), "{} fails", purpose.name());
    }
    assert_eq!(faulty.hits(), 3);
    faulty.heal();
    engine::run(&*rig.engine, Command::Flush).unwrap();
}

#[test]
fn an_lsm_tree_tells_everything_it_does() {
    let (rig, faulty) = faulty_rig(small_options());
    // Nobody flushes, so writers must wait.
    let mut refused = 0;
    for key in 0..400u64 {
        let mut batch = Batch::new(Op::Write.tag());
        batch.put(key.to_be_bytes().to_vec(), vec![9; 400]);
        refused += u64::from(rig.engine.apply(&batch, Tier::Disk).is_err());
    }
    assert!(refused > 0);
    rig.control.tick();
    rig.clock.advance(Duration::from_secs(1));
    engine::settle(&*rig.engine).unwrap();
    fill(&rig);
    rig.clock.advance(Duration::from_secs(1));
    rig.control.tick();
    rig.write(OWNER, "set policy=tiered\nset policy=leveled").unwrap();
    engine::run(&*rig.engine, Command::Compact).unwrap();
    // A range that nothing overlaps goes down unread.
    rig.write(OWNER, "auto_compact off").unwrap();
    for part in 0..5u64 {
        let mut batch = Batch::new(Op::Write.tag());
        (0..40)
            .for_each(|key| batch.put(((1 << 40) + part * 100 + key).to_be_bytes().to_vec(), vec![4; 400]));
        rig.engine.apply(&batch, Tier::Disk).unwrap();
        engine::run(&*rig.engine, Command::Flush).unwrap();
    }
    rig.write(OWNER, "auto_compact on").unwrap();
    engine::settle(&*rig.engine).unwrap();
    fail_thrice(&rig, &faulty, Purpose::Flush);
    assert!(rig.write(OWNER, "nonsense").is_err());
    check(
        &rig,
        &[
            "mount",
            "command",
            "error",
            "stall_begin",
            "stall_end",
            "flush",
            "merge_begin",
            "merge_end",
            "move",
            "policy",
        ],
    );
    let events = events(&rig);
    let of = |name: &str, field: &str| -> BTreeSet<String> {
        let named = events.iter().filter(|event| event["event"] == name);
        named.map(|event| event[field].as_str().unwrap_or_default().to_string()).collect()
    };
    assert!(of("merge_begin", "reason").is_superset(&["policy", "command"].map(str::to_string).into()));
    assert_eq!(of("flush", "reason"), ["asked for", "full"].map(str::to_string).into());
    let errors: Vec<&Value> = events.iter().filter(|event| event["event"] == "error").collect();
    assert_eq!(errors.len(), 2, "three failures of one cause are told once: {errors:?}");
}

#[test]
fn a_b_tree_tells_everything_it_does() {
    let (rig, faulty) = faulty_rig(engine::Options::tiny(Kind::BTREE).with("reserve=0").unwrap());
    let mut refused = 0;
    for key in 0..400u64 {
        let mut batch = Batch::new(Op::Write.tag());
        batch.put(key.to_be_bytes().to_vec(), vec![9; 400]);
        refused += u64::from(rig.engine.apply(&batch, Tier::Disk).is_err());
    }
    assert!(refused > 0, "more is dirty than may be");
    rig.control.tick();
    rig.clock.advance(Duration::from_secs(1));
    engine::settle(&*rig.engine).unwrap();
    fill(&rig);
    rig.clock.advance(Duration::from_secs(1));
    rig.control.tick();
    let put = |key: u64, bytes: usize| {
        let mut batch = Batch::new(Op::Write.tag());
        batch.put(key.to_be_bytes().to_vec(), vec![8; bytes]);
        rig.engine.apply(&batch, Tier::Disk).unwrap();
    };
    put(1, 30);
    rig.clock.advance(Duration::from_secs(3600));
    engine::settle(&*rig.engine).unwrap();
    put(1, 3000);
    write_while_working(&rig, "vacuum now\nvacuum wait").unwrap();
    assert!(rig.cat(".stats.d/ctl").contains("vacuum wait: done: gave "), "{}", rig.cat(".stats.d/ctl"));
    put(2, 30);
    engine::run(&*rig.engine, Command::Checkpoint).unwrap();
    fail_thrice(&rig, &faulty, Purpose::Checkpoint);
    assert!(rig.write(OWNER, "compact 1").is_err(), "it has no levels");
    assert!(
        rig.cat(".stats.d/ctl").contains("compact 1: a B-tree has no levels"),
        "{}",
        rig.cat(".stats.d/ctl")
    );
    check(&rig, &["mount", "command", "error", "stall_begin", "stall_end", "checkpoint", "compact"]);
    let events = events(&rig);
    let checkpoints: Vec<&Value> = events.iter().filter(|event| event["event"] == "checkpoint").collect();
    let reasons: BTreeSet<&str> = checkpoints.iter().filter_map(|event| event["reason"].as_str()).collect();
    assert!(reasons.is_superset(&["age", "command", "compaction"].into()), "{reasons:?}");
    assert!(reasons.contains("log") || reasons.contains("dirty pages"), "{reasons:?}");
    let bytes: u64 = checkpoints.iter().map(|event| number(event, "bytes")).sum();
    let written = &rig.json(".stats.d/json")["disk"]["by_purpose"];
    let purposes = ["checkpoint", "page_image", "double_write", "manifest"];
    let sum: u64 = purposes.iter().map(|name| number(&written[name], "write_bytes")).sum();
    assert!(bytes > 0 && bytes <= sum, "{bytes} of {sum}");
}

/// Writes a command that waits for background work, which another thread does meanwhile.
fn write_while_working(rig: &Rig, words: &str) -> kvfs::fs::Result<()> {
    let settled = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !settled.load(std::sync::atomic::Ordering::SeqCst) {
                engine::settle(&*rig.engine).unwrap();
                std::thread::yield_now();
            }
        });
        let result = rig.write(OWNER, words);
        settled.store(true, std::sync::atomic::Ordering::SeqCst);
        result
    })
}

#[test]
fn a_level_is_merged_wholly_into_the_next() {
    let rig = small_lsm();
    rig.write(OWNER, "auto_compact off").unwrap();
    let files = |level: usize| number(&rig.json(".stats.d/json")["levels"][level], "files");
    let flush = |from: u64| {
        let mut batch = Batch::new(Op::Write.tag());
        (from..from + 50).for_each(|key| batch.put(key.to_be_bytes().to_vec(), vec![4; 400]));
        rig.engine.apply(&batch, Tier::Disk).unwrap();
        engine::run(&*rig.engine, Command::Flush).unwrap();
    };
    let compact = |words: &str| write_while_working(&rig, words);
    (0..6).for_each(|part| flush(part * 25));
    assert!(files(0) >= 6 && files(1) == 0);
    compact("compact L0 wait").unwrap();
    assert!(files(0) == 0 && files(1) > 1, "{} {}", files(0), files(1));
    flush(60);
    compact("compact 1 wait").unwrap();
    assert!(files(0) >= 1 && files(1) == 0 && files(2) > 1, "level 0 stays");
    // Empty levels are done at once; both commands of one write, and everything at the end.
    compact("compact 1 wait\ncompact 0 wait\ncompact 1 wait").unwrap();
    assert_eq!((files(0), files(1)), (0, 0));
    assert!(files(2) > 1);
    for level in 0..200u64 {
        assert_eq!(rig.engine.get(&level.to_be_bytes(), Tier::Disk).unwrap().is_some(), level < 175);
    }
    for words in ["compact 6", "compact L6 wait", "compact 7", "compact 99999999"] {
        assert_eq!(rig.write(OWNER, words).map_err(|error| error.errno()), Err(libc::EINVAL), "{words}");
    }
    assert!(rig.cat(".stats.d/ctl").contains("L6 has no level below it"), "{}", rig.cat(".stats.d/ctl"));
    let begins: Vec<Value> =
        events(&rig).into_iter().filter(|event| event["event"] == "merge_begin").collect();
    assert_eq!(begins[0]["reason"], "command");
    assert_eq!((number(&begins[0], "from_level"), number(&begins[0], "into_level")), (0, 1));
}

/// Who is charged with what is written to tables and pages.
#[test]
fn bytes_on_the_disk_belong_to_kinds_of_keys() {
    for (kind, compression) in [(Kind::LSM, "none"), (Kind::LSM, "lz4"), (Kind::BTREE, "none")] {
        let rig = rig(|disk, clock| {
            let options = if kind == Kind::LSM { small_options() } else { engine::Options::tiny(kind) };
            let options = options.with(&format!("reserve=0,compression={compression}")).unwrap();
            engine::open(disk, clock, &options).unwrap()
        });
        rig.write(OWNER, "mark opened").unwrap();
        let apply = |kind: u8, key: u64, bytes: usize| {
            let mut batch = Batch::new(Op::Write.tag());
            batch.put([&[kind][..], &key.to_be_bytes()].concat(), vec![kind; bytes]);
            while rig.engine.apply(&batch, Tier::Disk).is_err() {
                engine::settle(&*rig.engine).unwrap();
            }
        };
        let check = |report: &Value| {
            let written = |name: &str| number(report, &format!("kinds.{name}.disk_write_bytes"));
            let sum = written("zero") + written("one");
            let no_wal = number(report, "disk.write_bytes") - number(report, "disk.log_write_bytes");
            assert_eq!(sum + number(report, "disk.overhead_write_bytes"), no_wal, "{kind}");
            (written("zero"), written("one"), sum)
        };
        // One flush: everything once.
        (0..10).for_each(|key| apply(0, key, 100));
        (0..10).for_each(|key| apply(1, key, 900));
        engine::run(&*rig.engine, Command::Flush).unwrap();
        let report = rig.json(".stats.d/json");
        let (zero, one, sum) = check(&report);
        assert!(zero > 0 && one > 4 * zero || compression == "lz4", "{kind} {zero} {one}");
        if kind == Kind::LSM {
            assert_eq!(sum, number(&report["levels"][0], "data_bytes"), "blocks, exactly");
        }
        // One kind is written over and over, the other not any more.
        for round in 0..60 {
            (0..10).for_each(|key| apply(1, key, 900 + round));
        }
        (0..20).for_each(|key| apply(1, 100 + key, 5000));
        engine::run(&*rig.engine, Command::Flush).unwrap();
        engine::run(&*rig.engine, Command::Compact).unwrap();
        engine::settle(&*rig.engine).unwrap();
        let report = rig.json(".stats.d/since/opened.json");
        let (zero, one, _) = check(&report);
        assert!(one > 10 * zero || compression == "lz4", "{kind} {zero} {one}");
        let rate = |name: &str| report["kinds"][name]["disk_write_amplification"].as_f64().unwrap();
        assert!(rate("zero") > 0.0 && rate("one") > 0.0);
        if kind == Kind::BTREE {
            // Twenty values of two units each lie out of line, and belong to their key's kind.
            assert!(one >= 20 * 8192, "{one}");
        }
        let prom = exposition(&rig.cat(".stats.d/prom"));
        assert!(prom["kvfs_kind_disk_write_bytes_total{kind=\"one\"}"] >= one as f64);
        assert!(rig.cat(".stats").contains("ON DISK zero "), "{}", rig.cat(".stats"));
    }
}

#[test]
fn a_table_that_no_merge_can_read_is_told_and_shown() {
    let rig = small_lsm();
    fill(&rig);
    rig.write(OWNER, "auto_compact off").unwrap();
    let mut batch = Batch::new(Op::Write.tag());
    (0..40u64).for_each(|key| batch.put(key.to_be_bytes().to_vec(), vec![4; 400]));
    rig.engine.apply(&batch, Tier::Disk).unwrap();
    engine::run(&*rig.engine, Command::Flush).unwrap();
    let damaged = format!("table.{}", rig.engine.tables()[0].number);
    assert!(rig.sim.flip_bit(&damaged, 8 * 20));
    engine::run(&*rig.engine, Command::DropCaches).unwrap();
    rig.write(OWNER, "auto_compact on").unwrap();
    assert!(engine::run(&*rig.engine, Command::Compact).is_err());
    engine::settle(&*rig.engine).unwrap();
    check(&rig, &["set_aside"]);
    let report = rig.json(".stats.d/json");
    assert_eq!(report["state"], "DAMAGED");
    let cause = report["state_cause"].as_str().unwrap();
    assert!(cause.starts_with(&damaged) && cause.contains("kvfs check --repair"), "{cause}");
}

#[test]
fn events_say_why_and_how_much() {
    let rig = small_lsm();
    fill(&rig);
    rig.write(OWNER, "mark a\n").unwrap();
    assert!(rig.write(OWNER, "nonsense\n").is_err());
    let events: Vec<Value> =
        rig.cat(".stats.d/events").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let named = |name: &str| events.iter().filter(|event| event["event"] == name).collect::<Vec<_>>();
    assert_eq!(events[0]["event"], "mount");
    assert!(named("flush").iter().all(|event| number(event, "bytes") > 0) && !named("flush").is_empty());
    let begins = named("merge_begin");
    assert!(begins[0]["trigger"].as_str().unwrap().starts_with("l0_files 4 of 4"), "{}", begins[0]);
    assert_eq!(begins.len(), named("merge_end").len());
    for event in &begins {
        assert!(number(event, "overlapping_files") <= number(event, "into_level_files"));
        assert!(number(event, "files") > number(event, "overlapping_files"));
    }
    let commands = named("command");
    assert_eq!(
        (commands[0]["words"].as_str(), number(commands[0], "uid"), number(commands[0], "pid")),
        (Some("mark a"), 1000, 7)
    );
    assert_eq!(named("error").len(), 1, "the word that nobody knows");
    let ctl = rig.cat(".stats.d/ctl");
    assert!(ctl.contains("mark a: done") && ctl.lines().count() == 2, "{ctl}");
    assert_eq!(rig.find(".stats.d/ctl").unwrap().permissions, 0o600);
}
