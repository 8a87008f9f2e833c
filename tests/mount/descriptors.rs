//! More files below than the process may have open: the limit is raised as far as it goes, and behind it files are closed and opened
//! again.

use std::fs;
use std::process::{Command, Stdio};

use crate::host::{Engine, Mount, able, binary};

/// Tables so small that a few megabytes are hundreds of them, and values in as many segments of the log.
const SMALL: &str =
    "table=64K,memtable=256K,level_base=256K,cache=4M,log_segment=128K,value_log=on,value_threshold=4K";

/// Mounts with the limits that `ulimit WHICH LIMIT` leaves.
fn start(mount: &Mount, which: &str, limit: u64) -> bool {
    let status = Command::new("sh")
        .args(["-c", &format!("ulimit {which} {limit} && exec \"$@\""), "sh"])
        .arg(binary())
        .args(["mount".as_ref(), mount.store().as_os_str(), mount.mnt().as_os_str()])
        .args(["-o", &mount.options()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    if status.success() {
        mount.note_pid();
    }
    status.success()
}

fn content(number: u64) -> Vec<u8> {
    (0..40_000u64).map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40) as u8 ^ number as u8).collect()
}

/// The soft and the hard limit of the daemon.
fn limits(mount: &Mount) -> [String; 2] {
    let text = fs::read_to_string(format!("/proc/{}/limits", mount.pid())).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut words = line.split_whitespace().map(str::to_string);
    [words.next().unwrap(), words.next().unwrap()]
}

#[test]
fn a_store_has_more_tables_than_its_process_descriptors() {
    more_files_than_descriptors("off");
}

#[test]
fn a_value_log_has_more_segments_than_its_process_descriptors() {
    more_files_than_descriptors("on");
}

fn more_files_than_descriptors(value_log: &str) {
    if !able(&["sh"]) {
        return;
    }
    let mount = Mount::place(Engine::Lsm, &format!("{SMALL},value_log={value_log}"));
    const LIMIT: u64 = 96;
    assert!(start(&mount, "-n", LIMIT), "a new store");
    let last = 600;
    for number in 0..last {
        let path = mount.mnt().join(number.to_string());
        fs::write(&path, content(number)).unwrap_or_else(|error| panic!("{path:?}: {error}"));
    }
    mount.ctl(&["compact", "wait"]);
    // Looked at once a second.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    let report = mount.json();
    let number = |name: &str| report["process"][name].as_u64().unwrap();
    assert!(report["space"]["physical_files"].as_u64().unwrap() > 2 * LIMIT, "{}", report["space"]);
    assert!(number("open_files") <= number("open_files_max") + 16, "{}", report["process"]);
    assert!(number("open_files_max") < LIMIT && number("reopened_files") > 0, "{}", report["process"]);
    assert_eq!(report["state"], "OK");
    mount.stop();
    for round in 0..2 {
        assert!(start(&mount, "-n", LIMIT), "round {round}");
        for number in 0..last {
            let found = fs::read(mount.mnt().join(number.to_string())).unwrap();
            assert!(found == content(number), "file {number}, round {round}");
        }
        if round == 0 {
            mount.kill();
        } else {
            mount.stop_clean();
        }
    }
}

#[test]
fn the_soft_limit_of_descriptors_is_raised() {
    if !able(&["sh"]) {
        return;
    }
    for engine in [Engine::Lsm, Engine::Btree] {
        let mount = Mount::place(engine, "");
        assert!(start(&mount, "-Sn", 64));
        let [soft, hard] = limits(&mount);
        assert!(soft == hard && soft != "64", "{soft} of {hard}");
        mount.stop_clean();
    }
}
