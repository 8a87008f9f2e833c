//! What was recorded on a mount, done again without one: `kvfs replay`.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::host::{Engine, Mount, able, both_engines, other_engine};

both_engines!(a_replay_on_the_engine_that_was_recorded_writes_as_much);
other_engine!(a_recording_of_it_is_done_again_on_it_and_on_ours);

const FILE_BYTES: u64 = 12 << 20;
const BLOCK_BYTES: u64 = 4096;
/// Blocks that are written while it is recorded.
const WRITES: u64 = 12_000;

fn replay(mount: &Mount, file: &Path, words: &[&str]) -> Value {
    let mut all = vec!["replay", file.to_str().unwrap(), "--json"];
    all.extend(words);
    let output = mount.kvfs(&all);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Records random writes, small files, reads and syncs on a store that holds something.
fn record(engine: Engine) -> (Mount, PathBuf) {
    // So small that merges and checkpoints are many: one more or less is no difference.
    let small = "memtable=256K,table=256K,level_base=1M,cache=4M,log_segment=1M,reserve=4M";
    let mount = Mount::new(engine, small);
    let large = fs::File::create_new(mount.mnt().join("large")).unwrap();
    let block = |number: u64| {
        let mut noise = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let bytes = (0..BLOCK_BYTES).map(|_| {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            noise as u8
        });
        bytes.collect::<Vec<u8>>()
    };
    (0..FILE_BYTES / BLOCK_BYTES)
        .for_each(|number| large.write_all_at(&block(number), number * BLOCK_BYTES).unwrap());
    large.sync_all().unwrap();
    mount.ctl(&["compact", "wait"]);
    let file = mount.host().join("work.rec");
    let on = mount.kvfs(&["record".as_ref(), mount.mnt().as_os_str(), "on".as_ref(), file.as_os_str()]);
    assert!(on.status.success(), "{on:?}");
    let mut place = 1u64;
    for number in 0..WRITES {
        place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let at = (place >> 33) % (FILE_BYTES / BLOCK_BYTES) * BLOCK_BYTES;
        large.write_all_at(&block(number), at).unwrap();
        // So that merges keep up: how much they write follows from how far they are behind.
        if number % 64 == 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
        match number % 400 {
            0 => large.sync_all().unwrap(),
            1 => fs::write(mount.mnt().join(format!("small{number}")), "small").unwrap(),
            2 if number > 4000 => {
                fs::remove_file(mount.mnt().join(format!("small{}", number - 4001))).unwrap()
            }
            3 => drop(fs::read_dir(mount.mnt()).unwrap().count()),
            _ => {}
        }
    }
    drop(large);
    let off = mount.kvfs(&["record".as_ref(), mount.mnt().as_os_str(), "off".as_ref()]);
    assert!(off.status.success(), "{off:?}");
    (mount, file)
}

fn a_replay_on_the_engine_that_was_recorded_writes_as_much(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let number =
        |value: &Value, name: &str| value[name].as_f64().unwrap_or_else(|| panic!("{name} in {value:#}"));
    // A machine that is busy with something else may be late when it records, or when it replays; not each time.
    let (mut mount, mut file) = record(engine);
    let mut tries = 1;
    while let Some(pace) = ["skip-idle", "simulated", "recorded"].into_iter().find(|pace| {
        let report = replay(&mount, &file, &["--pace", pace]);
        let (recorded, again) = (&report["recorded"], &report["engines"][0]);
        assert_eq!(
            (&again["engine"], &again["missing"]),
            (&recorded["engine"], &Value::from(0)),
            "{report:#}"
        );
        // Of the bytes that were asked for none is missing.
        let asked = number(again, "kv_write_bytes") / number(recorded, "kv_write_bytes");
        assert!((asked - 1.0).abs() < 0.01, "{pace}: {report:#}");
        let written = number(again, "write_amplification") / number(recorded, "write_amplification");
        println!("{pace}: {written}");
        assert!(number(again, "space_amplification") >= 1.0 && number(again, "seconds") > 0.0, "{report:#}");
        assert_eq!(again["latency"].is_null(), *pace == "simulated");
        (written - 1.0).abs() >= 0.05
    }) {
        assert!(tries < 3, "at the pace {pace} it is 5 % off each time, whichever other one was not");
        tries += 1;
        mount.stop_clean();
        (mount, file) = record(engine);
    }
    // Bytes of a simulated clock are those of any other run.
    let bytes = |report: Value| report["engines"][0]["disk_write_bytes"].as_u64().unwrap();
    let [one, other] = [(); 2].map(|()| bytes(replay(&mount, &file, &["--pace", "simulated"])));
    assert_eq!(one, other);
    // Designs side by side, as fast as they go and with as many under way as were.
    for pace in ["closed", "in-flight"] {
        let designs =
            ["--engine", "lsm,policy=tiered", "--engine", "btree,page_size=16K", "--engine", "hybrid,hot=4M"];
        let report = replay(&mount, &file, &[&["--pace", pace], &designs[..]].concat());
        let engines = report["engines"].as_array().unwrap();
        assert_eq!(engines.len(), 3);
        for (engine, name) in engines.iter().zip([designs[1], designs[3], designs[5]]) {
            assert_eq!(engine["engine"], name);
            assert!(number(engine, "write_amplification") > 1.0, "{engine:#}");
            for kind in ["batch", "get", "scan", "sync"] {
                let latency = &engine["latency"][kind];
                assert_eq!(
                    latency["count"], report["recorded"]["latency"][kind]["count"],
                    "{kind}: {report:#}"
                );
                assert!(latency["p99_ns"].as_u64() >= latency["p50_ns"].as_u64(), "{kind}: {engine:#}");
            }
            assert!(engine["latency"]["sync"]["count"].as_u64().unwrap() > 20, "{engine:#}");
        }
    }
    assert!(!mount.host().join("work.rec.replay").exists(), "the directory that was made is taken away");
    mount.stop_clean();
}

#[test]
fn an_image_is_loaded_and_what_is_no_recording_is_refused() {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(Engine::Lsm, "");
    fs::write(mount.mnt().join("large"), vec![3; 4 << 20]).unwrap();
    let image = mount.host().join("store.image");
    let made = mount.kvfs(&["image".as_ref(), mount.mnt().as_os_str(), image.as_os_str()]);
    assert!(made.status.success(), "{made:?}");
    let report = replay(&mount, &image, &["--engine", "lsm", "--engine", "btree"]);
    for engine in report["engines"].as_array().unwrap() {
        let load = &engine["load"];
        assert!(load["bytes"].as_u64().unwrap() > 4 << 20, "{report:#}");
        assert!(load["write_amplification"].as_f64().unwrap() > 0.5, "{report:#}");
        assert_eq!((&engine["operations"], &engine["write_amplification"]), (&Value::from(0), &Value::Null));
    }
    let text = String::from_utf8(mount.kvfs(&["replay".as_ref(), image.as_os_str()]).stdout).unwrap();
    assert!(
        text.contains("an image, loaded") && text.contains("LOAD") && !text.contains("LATENCY"),
        "{text}"
    );
    let store = mount.store().join("STORE");
    for (words, part) in [
        (vec!["replay", store.to_str().unwrap()], "is no recording of kvfs"),
        (vec!["replay", "/nonexistent"], "opening /nonexistent"),
        (vec!["replay", image.to_str().unwrap(), "--engine", "nonsense"], "--engine nonsense"),
        (vec!["replay", image.to_str().unwrap(), "--speed", "2"], "--pace recorded alone"),
        (vec!["replay", image.to_str().unwrap(), "--pace", "recorded", "--speed", "0"], "a number above 0"),
    ] {
        let output = mount.kvfs(&words);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(part), "{words:?}: {output:?}");
    }
    mount.stop_clean();
}

/// What was recorded on an engine of others is done again on it and on ours, counted by the kernel and at the door.
fn a_recording_of_it_is_done_again_on_it_and_on_ours(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let (mount, file) = record(engine);
    let report = replay(&mount, &file, &["--engine", engine.name(), "--engine", "lsm"]);
    let [own, ours] = &report["engines"].as_array().unwrap()[..] else { panic!("{report:#}") };
    assert_eq!((&own["counted_by"], &ours["counted_by"]), (&"kernel".into(), &"door".into()), "{report:#}");
    assert_eq!(own["kv_write_bytes"], ours["kv_write_bytes"]);
    for engine in [own, ours] {
        assert!(engine["write_amplification"].as_f64().unwrap() > 0.5, "{engine:#}");
        assert!(engine["latency"]["sync"]["count"].as_u64().unwrap() > 20, "{engine:#}");
    }
    // The kernel has no count of syncs.
    assert!(own["disk_syncs"].is_null() && ours["disk_syncs"].as_u64() > Some(20), "{report:#}");
    mount.stop_clean();
}
