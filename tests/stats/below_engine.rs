//! The witness below an engine of others: what it counted stands in every output, and nothing where there is none.

use kvfs::control::{BelowEngine, WitnessControl, WitnessInfo, Witnessed, value};
use kvfs::witness::{Class, ClassTraffic, Directory, Patterns, Traffic};
use parking_lot::Mutex;

use super::*;

/// No two numbers are the same.
fn counts(times: u64) -> BelowEngine {
    let of = |class: u64| Traffic {
        write_bytes: (class + 1) * 1000 * times,
        writes: (class + 1) * 10 * times,
        mapped_write_bytes: class * times,
        read_bytes: (class + 1) * 300 * times,
        reads: (class + 1) * 3 * times,
        copied_bytes: class * 7 * times,
        syncs: class + 2 * times,
        sync_waited_ns: class * 1_000_000 * times,
        created: class + 4 * times,
        removed: class + 3 * times,
        errors: class * times,
    };
    BelowEngine {
        is_running: true,
        end: None,
        pid: 815,
        age: Some(Duration::ZERO),
        directory_syncs: 5 * times,
        kernel_write_bytes: Some(20_000 * times),
        kernel_read_bytes: Some(6_000 * times),
        by_class: ClassTraffic::from_fn(|class| of(class as u64)),
    }
}

/// A rig whose engine has a witness that answers what stands in the cell.
fn watched() -> (Rig, Arc<Mutex<Option<Witnessed>>>) {
    let answer: Arc<Mutex<Option<Witnessed>>> = Arc::default();
    let given = answer.clone();
    let ask = move || given.lock().take().unwrap_or(Witnessed::Silent);
    let rig = rig_watched(Box::new(ask), |_, _| Arc::new(MemEngine::new()));
    (rig, answer)
}

#[test]
fn what_a_witness_counted_is_in_every_output() {
    let (rig, answer) = watched();
    assert!(rig.json(".stats.d/json")["witness"].is_null(), "it has not answered yet");
    let tell = |counts: BelowEngine| {
        *answer.lock() = Some(Witnessed::Counted(Box::new(counts)));
        rig.control.tick();
    };
    rig.user_writes(3000);
    tell(counts(1));
    rig.write(OWNER, "mark before").unwrap();
    tell(counts(3));
    rig.clock.advance(Duration::from_millis(400));

    let json = rig.json(".stats.d/json");
    let witness = &json["witness"];
    assert_eq!(
        (&witness["is_running"], &witness["end"], &witness["pid"]),
        (&true.into(), &Value::Null, &815.into())
    );
    assert_eq!(number(witness, "age_ms"), 400);
    for name in ["write_bytes", "writes", "read_bytes", "reads", "syncs", "errors"] {
        let sum: u64 = Class::ALL
            .iter()
            .map(|class| number(witness, &format!("by_class.{}.{name}", class.name())))
            .sum();
        assert_eq!(number(witness, name), sum, "{name} is that of all classes together");
    }
    assert_eq!((number(witness, "write_bytes"), number(witness, "by_class.log.write_bytes")), (63_000, 3000));
    assert_eq!(number(witness, "directory_syncs"), 15);
    assert_eq!(
        (number(witness, "kernel_write_bytes"), number(witness, "kernel_read_bytes")),
        (60_000, 18_000)
    );
    let quotient = |name: &str| witness[name].as_f64().unwrap();
    assert_eq!(quotient("write_amplification"), 21.0, "63000 / 3000");
    let kv = number(&json, "kv.write_bytes") as f64;
    assert!((quotient("engine_write_amplification") - 63_000.0 / kv).abs() < 1e-9);
    assert!(witness["read_amplification"].is_null(), "nothing was read");
    assert_eq!(quotient("write_over_kernel"), 1.05);

    let text = rig.cat(".stats");
    let line = text.lines().find(|line| line.starts_with("WITNESS")).unwrap();
    for words in
        ["write 21.0 = 61.5KiB / 2.93KiB app", "kernel 58.6KiB (105.0%)", "directories 15", "400ms ago"]
    {
        assert!(text.contains(words), "{words}: {line}\n{text}");
    }
    assert!(text.contains("\n        log        written 2.93KiB in 30  read 900B in 9  syncs 6\n"), "{text}");

    let since = &rig.json(".stats.d/since/before.json")["witness"];
    assert_eq!((number(since, "write_bytes"), number(since, "kernel_write_bytes")), (42_000, 40_000));

    let samples = exposition(&rig.cat(".stats.d/prom"));
    assert_eq!(samples["kvfs_witness_write_bytes_total{class=\"log\"}"], 3000.0);
    assert_eq!(samples["kvfs_engine_witness_is_running"], 1.0);
    assert_eq!(samples["kvfs_engine_witness_age_seconds"], 0.4);
}

/// One that has died is not forgotten: its figures stand, and what they are is said.
#[test]
fn a_witness_that_has_ended_or_is_silent_is_told() {
    let (rig, answer) = watched();
    *answer.lock() = Some(Witnessed::Counted(Box::new(counts(1))));
    rig.control.tick();
    rig.clock.advance(Duration::from_secs(7));
    rig.control.tick();
    let silent = &rig.json(".stats.d/json")["witness"];
    assert_eq!((number(silent, "age_ms"), &silent["is_running"]), (7000, &true.into()));
    *answer.lock() = Some(Witnessed::Ended("signal: 9 (SIGKILL)".to_string()));
    rig.control.tick();
    let ended = &rig.json(".stats.d/json")["witness"];
    assert_eq!((&ended["is_running"], &ended["end"]), (&false.into(), &Value::from("signal: 9 (SIGKILL)")));
    assert_eq!(number(ended, "write_bytes"), 21_000);
    let text = rig.cat(".stats");
    assert!(
        text.contains("\n        ENDED (signal: 9 (SIGKILL)): what the engine asks of its files fails"),
        "{text}"
    );
    assert_eq!(exposition(&rig.cat(".stats.d/prom"))["kvfs_engine_witness_is_running"], 0.0);
}

#[test]
fn without_a_witness_there_is_no_block() {
    let rig = mem();
    rig.user_writes(3000);
    rig.control.tick();
    assert!(rig.json(".stats.d/json")["witness"].is_null());
    assert!(!rig.cat(".stats").contains("WITNESS"));
    assert!(!rig.cat(".stats.d/prom").contains("witness"));
}

/// Of the report of a witness that counts, no counter is lost on the way.
#[test]
fn a_report_is_taken_whole() {
    let home = tempfile::tempdir().unwrap();
    let directory = Arc::new(Directory::open(home.path(), Patterns::built_in(None)).unwrap());
    let meter = directory.meter();
    for (class, bytes) in [(Class::Log, 100), (Class::Table, 2000), (Class::Data, 30_000)] {
        meter.wrote(class, bytes, class == Class::Data);
        meter.read(class, bytes / 2);
        meter.copied(class, bytes / 4);
        meter.synced(class, Duration::from_micros(bytes));
        meter.created(class);
        meter.removed(class);
        meter.failed(class);
    }
    meter.synced_directory();
    let clock = Arc::new(ManualClock::default());
    let process = || Some(kvfs::disk::ProcessIo { write_bytes: 41, read_bytes: 42, ..Default::default() });
    let info = WitnessInfo { pid: 815, ..WitnessInfo::default() };
    let control = WitnessControl::new(info, directory.clone(), clock, Box::new(process));
    let taken = BelowEngine::of_report(&value(&control.document()));
    let expected = BelowEngine {
        is_running: true,
        end: None,
        pid: 815,
        age: Some(Duration::ZERO),
        directory_syncs: 1,
        kernel_write_bytes: Some(41),
        kernel_read_bytes: Some(42),
        by_class: directory.meter().snapshot(),
    };
    assert_eq!(taken, expected);
}
