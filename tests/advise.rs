//! `kvfs advise` as a program: a recording is written, and what it says of designs is read.

use std::path::Path;
use std::process::{Command, Output};

use bytes::Bytes;
use kvfs::recording::{Asked, Change, Content, Entry, Event, Head, Meters, Writer};
use serde_json::Value;

fn advise(file: &Path, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvfs"));
    command.arg("advise").arg(file).args(line.split_whitespace()).output().unwrap()
}

fn key(number: u64) -> Bytes {
    let mut key = vec![4];
    key.extend_from_slice(&number.to_be_bytes());
    key.into()
}

/// A recording of overwrites and gets of `keys` keys, all of which were there before.
fn record(path: &Path, keys: u64, events: u64) {
    let head =
        Head { engine: "lsm".into(), options: vec![("memory".into(), "1M".into())], ..Head::default() };
    let file = std::fs::File::create(path).unwrap();
    let mut writer = Writer::new(std::io::BufWriter::new(file), "test", head).unwrap();
    for number in 0..keys {
        writer.entry(&Entry { key: key(number), value: Content::Length(200) }).unwrap();
    }
    writer.end_image(1, true).unwrap();
    for number in 0..events {
        let at = key(number.wrapping_mul(0x9E37_79B9_7F4A_7C15) % keys);
        let asked = match number % 3 {
            0 => Asked::Get { key: at, found: Some(200) },
            _ => {
                let change = Change { key: at, value: Some(Content::Length(200)) };
                Asked::Batch { lsn: number + 2, changes: vec![change] }
            }
        };
        let start_ns = number * 1_000_000;
        writer.event(&Event { tag: 0, thread: 0, start_ns, duration_ns: 1000, asked }).unwrap();
    }
    let meters = Meters { app_write_bytes: Some(events * 100), ..Meters::default() };
    writer.meters(&meters).unwrap();
    writer.end("done").unwrap();
}

#[test]
fn advice_names_the_front_and_what_was_recorded() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("work.rec");
    record(&file, 20_000, 30_000);
    let output = advise(&file, "--memory 1M --json");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.is_empty(), "{said}");
    let advice: Value = serde_json::from_slice(&output.stdout).unwrap();
    let designs = advice["designs"].as_array().unwrap();
    assert!(designs.len() > 15, "{}", designs.len());
    let front: Vec<&Value> = designs.iter().filter(|it| it["is_on_front"] == true).collect();
    assert!(!front.is_empty() && front.len() < designs.len());
    let recorded: Vec<&Value> = designs.iter().filter(|it| it["is_recorded"] == true).collect();
    assert_eq!(recorded.len(), 1);
    for design in designs {
        let numbers = ["write", "read", "space", "space_peak"].map(|name| design[name].as_f64().unwrap());
        let [write, read, space, peak] = numbers;
        assert!(write > 1.0 && read > 0.0 && space > 1.0 && peak >= space * 0.99, "{design}");
        // Write amplification is what was written of what programs wrote.
        let bytes = design["settled"]["write_bytes"].as_f64().unwrap();
        assert!((write - bytes / 3_000_000.0).abs() < 1e-6, "{design}");
        let beaten = front.iter().any(|other| {
            ["write", "read", "space"]
                .iter()
                .all(|name| other[*name].as_f64().unwrap() < design[*name].as_f64().unwrap())
        });
        assert!(!(beaten && design["is_on_front"] == true), "{design}");
    }
    assert_eq!(advice["shifted"].as_array().unwrap().len(), 4, "{}", advice["shifted"]);
    // What it names can be given to it again, and costs the same.
    let best = advice["best"].as_str().unwrap().replace("engine=", "");
    let again = advise(&file, &format!("--memory 1M --json --engine {best}"));
    let again: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(again["best"], advice["best"]);
    let moved = |advice: &Value| {
        let designs = advice["designs"].as_array().unwrap();
        designs.iter().find(|it| it["options"] == advice["best"]).unwrap()["moved_bytes"].clone()
    };
    assert_eq!(moved(&again), moved(&advice));

    let output = advise(&file, "--memory 1M --json --verify 2");
    let verified: Value = serde_json::from_slice(&output.stdout).unwrap();
    let replayed = verified["replayed"].as_array().unwrap();
    assert_eq!(replayed.len(), 2, "{}", String::from_utf8_lossy(&output.stderr));
    for design in replayed {
        assert!(design["off"].as_f64().unwrap().abs() < 0.1, "{design}");
    }

    let output = advise(&file, "--memory 1M");
    let text = String::from_utf8(output.stdout).unwrap();
    for part in ["recorded: engine=lsm", "image: 20000 entries", "*", "fewest bytes", "10 % more of the work"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn what_cannot_be_advised_on_is_said() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("work.rec");
    for (line, part) in
        [("", "work.rec"), ("--engine lsm,colour=red", "colour"), ("--engine mem", "lsm or btree")]
    {
        let output = advise(&file, line);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(part), "{line}: {said}");
        record(&file, 10, 10);
    }
    // Work without reads has no read amplification, and no other mix.
    let output = advise(&file, "--engine lsm,policy=eager --engine lsm,torn=image --engine btree,torn=image");
    assert!(!output.status.success());
    let output = advise(&file, "--engine lsm,policy=eager --engine btree,torn=image");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("not modelled: engine=btree,torn=image"), "{text}");
}
