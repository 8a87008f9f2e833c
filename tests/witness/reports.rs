//! What a witness tells: the report in its forms, marks, and the words that are written to it.

use std::fs;
use std::io::Write;

use serde_json::Value;

use crate::host::{Engine, Mount, able};
use crate::numbers::number;

fn since(mount: &Mount, name: &str) -> Value {
    serde_json::from_slice(&fs::read(mount.mnt().join(".stats.d/since").join(name)).unwrap()).unwrap()
}

#[test]
fn the_head_says_what_is_mounted_and_since_when() {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(Engine::Witness, "engine=sqlite");
    fs::write(mount.mnt().join("a.db"), "x").unwrap();
    let report = mount.json();
    assert_eq!(report["schema"], "kvfs.witness/1");
    assert_eq!(report["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(report["directory"], mount.store().to_str().unwrap());
    assert_eq!(report["mount_path"], mount.mnt().to_str().unwrap());
    assert_eq!((&report["patterns"], &report["since"]), (&"sqlite".into(), &"mount".into()));
    assert_eq!(report["is_partial"], false);
    assert_eq!(number(&report, "process.pid"), u64::try_from(mount.pid()).unwrap());
    let (elapsed, uptime) = (number(&report, "elapsed_ms"), number(&report, "uptime_ms"));
    assert!(elapsed == uptime && uptime < 600_000, "{report:#}");
    assert!(number(&report, "time_ms") > 1_700_000_000_000);
    // The directory itself and the file.
    assert_eq!(number(&report, "known_inodes"), 2);
    assert!(number(&report, "process.write_bytes") >= 1 && report["process"]["read_bytes"].is_u64());
    let later = mount.json();
    assert!(number(&later, "stats_reads") > number(&report, "stats_reads"));
    let text = fs::read_to_string(mount.mnt().join(".stats")).unwrap();
    for words in ["witness", "patterns=sqlite", "TRAFFIC", "SYNCS", "SPACE", "a.db", "data"] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert!(
        text.lines().all(|line| line.len() <= 100 && line.is_ascii() && line.trim_end() == line),
        "{text}"
    );
    // Not listed, and only in the root.
    let names = |path: &str| fs::read_dir(mount.mnt().join(path)).unwrap().count();
    assert_eq!(names(""), 1);
    assert!(names(".stats.d") >= 6);
    mount.stop();
}

#[test]
fn amplification_has_the_denominator_that_the_user_gives() {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(Engine::Witness, "engine=rocksdb");
    fs::write(mount.mnt().join("000001.log"), vec![1; 3000]).unwrap();
    fs::write(mount.mnt().join("000002.sst"), vec![1; 9000]).unwrap();
    let ratio = |report: &Value, name: &str| report["amplification"][name].as_f64();
    let report = mount.json();
    let [write, log_write, space] = ["write", "log_write", "space"].map(|name| ratio(&report, name));
    assert_eq!((write, log_write, space, number(&report, "user_bytes")), (None, None, None, 0));
    mount.ctl(&["user-bytes", "1000"]);
    mount.ctl(&["user-bytes", "2000"]);
    mount.ctl(&["live-bytes", "4K"]);
    let report = mount.json();
    assert_eq!((number(&report, "user_bytes"), ratio(&report, "write")), (3000, Some(4.0)));
    assert_eq!(ratio(&report, "log_write"), Some(1.0));
    assert_eq!(ratio(&report, "space"), Some(number(&report, "total.disk_bytes") as f64 / 4096.0));
    let held = mount.kvfs(&["assert", mount.mnt().to_str().unwrap(), "amplification.write <= 4"]);
    assert!(held.status.success(), "{held:?}");
    mount.stop();
}

#[test]
fn a_mark_begins_every_counter_anew() {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(Engine::Witness, "engine=rocksdb");
    let mnt = mount.mnt();
    fs::write(mnt.join("000001.log"), vec![1; 3000]).unwrap();
    mount.ctl(&["user-bytes", "1000"]);
    mount.ctl(&["mark", "run"]);
    let none = since(&mount, "run.json");
    assert_eq!((number(&none, "total.write_bytes"), number(&none, "user_bytes")), (0, 0));
    assert_eq!(none["files"].as_array().map(Vec::len), Some(0));
    fs::write(mnt.join("000002.sst"), vec![1; 500]).unwrap();
    fs::File::open(mnt.join("000002.sst")).unwrap().sync_all().unwrap();
    let some = since(&mount, "run.json");
    assert_eq!((&some["since"], number(&some, "total.write_bytes")), (&"run".into(), 500));
    assert_eq!((number(&some, "by_class.log.writes"), number(&some, "by_class.table.syncs")), (0, 1));
    assert!(some["by_class"]["table"]["sync_max_ns"].is_u64());
    assert_eq!(some["files"][0]["path"], "000002.sst");
    let text = mount.sh(r#""$KVFS" stats "$MNT" --since run; cat "$MNT/.stats.d/since/run""#);
    assert_eq!(text.matches("since mark run").count(), 2, "{text}");
    mount.ctl(&["unmark", "run"]);
    assert!(!mnt.join(".stats.d/since/run").exists());
    for words in ["flush", "mark", "user-bytes lots"] {
        let refused =
            fs::File::options().write(true).open(mnt.join(".stats")).unwrap().write_all(words.as_bytes());
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EINVAL), "{words}");
    }
    mount.stop();
}

#[test]
fn files_are_listed_by_what_was_written() {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(Engine::Witness, "engine=rocksdb");
    let mnt = mount.mnt();
    fs::create_dir(mnt.join("db")).unwrap();
    for (name, bytes) in [("000001.log", 100), ("000002.sst", 900), ("000003.sst", 500)] {
        fs::write(mnt.join("db").join(name), vec![1; bytes]).unwrap();
    }
    fs::File::open(mnt.join("db/000001.log")).unwrap().sync_all().unwrap();
    // Under the name that it has now, and still there when it is gone.
    fs::rename(mnt.join("db"), mnt.join("moved")).unwrap();
    fs::remove_file(mnt.join("moved/000003.sst")).unwrap();
    let files = mount.json()["files"].clone();
    let row = |at: usize| {
        let file = &files[at];
        let text = |name: &str| file[name].as_str().unwrap().to_string();
        let [write_bytes, writes, read_bytes, syncs] =
            ["write_bytes", "writes", "read_bytes", "syncs"].map(|name| number(file, name));
        (text("path"), text("class"), [write_bytes, writes, read_bytes, syncs])
    };
    assert_eq!(row(0), ("moved/000002.sst".to_string(), "table".to_string(), [900, 1, 0, 0]));
    assert_eq!(row(1).2, [500, 1, 0, 0]);
    assert_eq!(row(2), ("moved/000001.log".to_string(), "log".to_string(), [100, 1, 0, 1]));
    assert_eq!(files.as_array().unwrap().len(), 3);
    mount.stop();
}

#[test]
fn prometheus_gets_what_the_json_says() {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(Engine::Witness, "engine=rocksdb");
    fs::write(mount.mnt().join("000001.log"), vec![1; 3000]).unwrap();
    fs::File::open(mount.mnt().join("000001.log")).unwrap().sync_all().unwrap();
    let text = fs::read_to_string(mount.mnt().join(".stats.d/prom")).unwrap();
    for line in [
        "# TYPE kvfs_witness_write_bytes_total counter",
        "kvfs_witness_write_bytes_total{class=\"log\"} 3000",
        "kvfs_witness_syncs_total{class=\"log\"} 1",
        "# TYPE kvfs_witness_sync_duration_seconds histogram",
        "kvfs_witness_sync_duration_seconds_count{class=\"log\"} 1",
        "kvfs_witness_file_write_bytes{path=\"000001.log\",class=\"log\"} 3000",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    let names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let mut unique = names.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), names.len(), "a family is there twice: {text}");
    mount.stop();
}
