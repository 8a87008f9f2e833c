//! What a store at a URL costs, on mounts: each request has a purpose and somebody who caused it, dollars add up, and a budget is kept or not.
//!
//! `KVFS_TEST_URL` is where stores are made, a directory without it.
#![cfg(feature = "slatedb")]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Requests, as reports name their kinds.
const KINDS: [&str; 5] = ["puts", "gets", "heads", "lists", "deletes"];

/// A store, and a place to mount it.
struct Store {
    home: tempfile::TempDir,
    url: String,
    mnt: PathBuf,
}

impl Store {
    /// `None` where mounts cannot be made.
    fn new() -> Option<Store> {
        if !Path::new("/dev/fuse").exists() {
            println!("not run: there is no /dev/fuse");
            return None;
        }
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let name = home.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.').to_string();
        let url = match std::env::var("KVFS_TEST_URL") {
            Ok(base) => format!("{base}/{name}"),
            Err(_) => kvfs::engine::remote::url_of(&home.path().join("objects")),
        };
        let mnt = home.path().join("mnt");
        fs::create_dir(&mnt).unwrap();
        Some(Store { home, url, mnt })
    }

    fn kvfs(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvfs-engines"));
        command.args(arguments).env("KVFS_STATE", self.home.path().join("state")).output().unwrap()
    }

    fn try_mount(&self, options: &str) -> Output {
        self.kvfs(&["mount", &self.url, self.mnt.to_str().unwrap(), "-o", options])
    }

    fn mount(&self, options: &str) {
        let output = self.try_mount(options);
        assert!(output.status.success(), "{output:?}");
    }

    fn umount(&self) {
        let output = self.kvfs(&["umount", self.mnt.to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}");
    }

    fn report(&self, file: &str) -> Value {
        serde_json::from_slice(&fs::read(self.mnt.join(file)).unwrap()).unwrap()
    }

    fn assert(&self, condition: &str) -> (Option<i32>, String) {
        let output = self.kvfs(&["assert", self.mnt.to_str().unwrap(), condition]);
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(said).unwrap())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let _ = self.kvfs(&["umount", "-l", self.mnt.to_str().unwrap()]);
    }
}

fn count(report: &Value, path: &str) -> u64 {
    let value = path.split('.').fold(report, |value, name| &value[name]);
    value.as_u64().unwrap_or_else(|| panic!("{path}: {value}"))
}

fn usd(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value}"))
}

/// Whatever is added up, it is the same requests, bytes and dollars.
fn add_up(report: &Value) {
    let rows = |part: &str| report["requests"][part].as_object().unwrap().clone();
    let (by_purpose, by_operation) = (rows("by_purpose"), rows("by_operation"));
    let sum = |rows: &serde_json::Map<String, Value>, name: &str| -> u64 {
        rows.values().map(|row| row[name].as_u64().unwrap()).sum()
    };
    for kind in KINDS {
        let all = count(report, &format!("requests.{kind}"));
        assert_eq!((sum(&by_purpose, kind), sum(&by_operation, kind)), (all, all), "{kind} {report:#}");
    }
    for bytes in ["write_bytes", "read_bytes"] {
        assert_eq!(sum(&by_operation, bytes), count(report, &format!("disk.{bytes}")), "{bytes} {report:#}");
    }
    for (purpose, row) in &by_purpose {
        // Nothing has failed, and what was refused was sent.
        assert_eq!(count(row, "failed"), 0, "{purpose}");
        assert_eq!(
            count(row, "puts"),
            count(report, &format!("disk.by_purpose.{purpose}.writes")),
            "{purpose}"
        );
    }
    let all = usd(&report["cost"]["usd"]);
    for rows in [by_purpose, by_operation] {
        let sum: f64 = rows.values().map(|row| usd(&row["usd"])).sum();
        assert!((sum - all).abs() <= all * 1e-9, "{sum} and not {all}");
    }
}

/// Makes files, each durable, and removes some of them.
fn work(mnt: &Path, names: std::ops::Range<usize>) {
    for name in names {
        let mut file = File::create(mnt.join(name.to_string())).unwrap();
        file.write_all(&vec![name as u8; 20_000]).unwrap();
        file.sync_all().unwrap();
        if name % 4 == 0 {
            fs::remove_file(mnt.join(name.to_string())).unwrap();
        }
    }
}

#[test]
fn dollars_by_purpose_and_by_operation_are_the_dollars() {
    let Some(store) = Store::new() else { return };
    let prices = store.home.path().join("prices");
    // Each has another price, so that no two are taken for each other.
    let lines = ["put=7", "list=5", "get=3", "delete=2", "storage=11", "upload=130", "download=170"];
    fs::write(&prices, lines.join("\n")).unwrap();
    let options = format!("memtable=128K,poll=20ms,price={}", prices.display());
    store.mount(&options);
    work(&store.mnt, 0..60);
    let report = store.report(".stats.d/json");
    add_up(&report);
    assert_eq!(report["cost"]["price"].as_str(), prices.to_str());
    let of =
        |report: &Value, op: &str, name: &str| count(report, &format!("requests.by_operation.{op}.{name}"));
    // An object of the log for each sync, most of whose bytes are content.
    assert!(count(&report, "requests.by_purpose.wal.puts") >= 60, "{report:#}");
    assert!(
        of(&report, "write", "puts") > 60 && of(&report, "write", "write_bytes") > 60 * 20_000,
        "{report:#}"
    );
    assert!(of(&report, "write", "puts") > 4 * of(&report, "unlink", "puts").max(1), "{report:#}");
    assert!(of(&report, "create", "write_bytes") > 60 * 50, "{report:#}");
    assert!(count(&report, "cost.stored_bytes") > 100_000, "memory has become tables: {report:#}");
    let (code, said) = store.assert("usd_per_hour < 1000000");
    assert!(code == Some(0) && said.starts_with("ok"), "{said}");
    let (code, said) = store.assert("usd_per_hour < 0.000001");
    assert!(code == Some(1) && said.contains("FAILED") && said.contains("cost.price"), "{said}");
    assert_eq!(store.assert("requests.by_operation.write.usd > 0").0, Some(0));
    store.umount();

    // What readers wait for is theirs, also where others fetch it; what is left is looks for what others have changed.
    store.mount(&options);
    fs::write(store.mnt.join(".stats"), "mark mounted\n").unwrap();
    assert_eq!(fs::read_dir(&store.mnt).unwrap().count(), 45);
    for name in (0..60).filter(|name| name % 4 != 0) {
        assert_eq!(fs::read(store.mnt.join(name.to_string())).unwrap(), vec![name as u8; 20_000]);
    }
    let report = store.report(".stats.d/since/mounted.json");
    add_up(&report);
    assert!(of(&report, "read", "gets") > 0 && of(&report, "read", "read_bytes") > 45 * 10_000, "{report:#}");
    assert!(of(&report, "readdir", "gets") + of(&report, "lookup", "gets") > 0, "{report:#}");
    let looks: u64 = ["manifest", "recovery"]
        .iter()
        .map(|purpose| count(&report, &format!("requests.by_purpose.{purpose}.gets")))
        .sum();
    assert_eq!(of(&report, "nobody", "gets"), looks, "{report:#}");
    store.umount();

    // One who only reads pays for what it asks.
    store.mount(&format!("ro,price={}", prices.display()));
    assert_eq!(fs::read(store.mnt.join("1")).unwrap().len(), 20_000);
    let report = store.report(".stats.d/json");
    add_up(&report);
    assert!(of(&report, "read", "gets") > 0 && count(&report, "requests.puts") == 0, "{report:#}");
    assert!(count(&report, "cost.stored_bytes") > 100_000, "{report:#}");
    store.umount();
}

#[test]
fn prices_are_said_or_there_are_none() {
    let Some(store) = Store::new() else { return };
    let prices = store.home.path().join("prices");
    let option = format!("price={}", prices.display());
    let refused = |store: &Store, option: &str| {
        let output = store.try_mount(option);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let said = refused(&store, &option);
    assert!(
        said.contains(prices.to_str().unwrap())
            && said.contains("No such file")
            && said.contains("price=none"),
        "{said}"
    );
    fs::write(&prices, "put = 1\nhead = 2\n").unwrap();
    let said = refused(&store, &option);
    assert!(said.contains("prices: line 2: there is no price 'head'"), "{said}");
    let said = refused(&store, "price=prices");
    assert!(said.contains("price") && said.contains("absolute path"), "{said}");

    store.mount("");
    let report = store.report(".stats.d/json");
    assert!(report["cost"]["usd"].is_null() && count(&report, "requests.puts") > 0, "{report:#}");
    let (code, said) = store.assert("usd_per_hour < 0.5");
    assert!(code == Some(1) && said.contains("there is no value (cost.price null"), "{said}");
    store.umount();
    store.mount("price=aws");
    let text = fs::read_to_string(store.mnt.join(".stats")).unwrap();
    assert!(text.contains("prices aws") && text.contains("/month"), "{text}");
    store.umount();
}
