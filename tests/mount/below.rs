//! `witness=on`: the witness that a mount has below an engine of others. What it counts, and that nothing of it stays behind, whichever process
//! is killed first.

use std::fs::{self, File};
use std::io::Write;
use std::time::{Duration, Instant};

use kvfs::base::prng::Prng;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::host::{Engine, Mount, able, alive, is_mounted, other_engine, until};

const OPTION: &str = "witness=on";
/// Longest time in which the report takes over what was counted, or a witness that is let go of ends.
const SOON: Duration = Duration::from_secs(20);

fn number(value: &Value, path: &str) -> u64 {
    let found = path.split('.').fold(value, |value, name| &value[name]);
    found.as_u64().unwrap_or_else(|| panic!("no {path} in {value:#}"))
}

/// Whether something is mounted over the engine's directory, dead or alive.
fn is_covered(mount: &Mount) -> bool {
    is_mounted(&mount.engine_directory())
}

fn witness_pid(mount: &Mount) -> i32 {
    i32::try_from(number(&mount.json(), "witness.pid")).unwrap()
}

/// Writes a file and makes it durable.
fn write_synced(mount: &Mount, name: &str, content: &[u8]) {
    let mut file = File::create(mount.mnt().join(name)).unwrap();
    file.write_all(content).unwrap();
    file.sync_all().unwrap();
}

/// Bytes that no engine makes fewer of.
fn noise(length: usize) -> Vec<u8> {
    let mut prng = Prng::new(1);
    (0..length).map(|_| prng.bits() as u8).collect()
}

fn is_gone(mount: &Mount, witness: i32) -> bool {
    until(SOON, || !is_covered(mount) && !alive(witness))
}

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Every byte that the engine writes is of a class, and the report of the mount has what the witness has.
fn it_counts_what_the_engine_does(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(engine, OPTION);
    assert!(is_covered(&mount));
    let witness = witness_pid(&mount);
    assert!(alive(witness) && witness != mount.pid(), "it is a process of its own");
    let content = noise(1 << 20);
    mount.ctl(&["mark", "before"]);
    (0..4).for_each(|index| write_synced(&mount, &index.to_string(), &content));
    let seen = |mount: &Mount| number(&mount.json(), "witness.write_bytes") >= 4 << 20;
    assert!(until(SOON, || seen(&mount)), "{:#}", mount.json()["witness"]);

    // Once nothing is owed any more both reports say the same.
    let own = || -> Value {
        serde_json::from_slice(&fs::read(mount.engine_directory().join(".stats.d/json")).unwrap()).unwrap()
    };
    let same = || {
        let (report, own) = (mount.json(), own());
        ["write_bytes", "writes", "read_bytes", "reads", "syncs", "errors"]
            .iter()
            .all(|name| number(&report, &format!("witness.{name}")) == number(&own, &format!("total.{name}")))
    };
    assert!(until(SOON, same), "{:#}\n{:#}", mount.json()["witness"], own()["total"]);
    let report = mount.json();
    let counts = &report["witness"];
    for name in ["write_bytes", "writes", "read_bytes", "reads", "syncs", "errors"] {
        let classes = counts["by_class"].as_object().unwrap();
        let sum: u64 = classes.values().map(|class| number(class, name)).sum();
        assert_eq!(sum, number(counts, name), "{name} of all classes is that of all together");
    }
    // Where an engine writes first, and that its patterns know.
    let class = match engine.name() {
        "redb" | "lmdb" => "data",
        _ => "log",
    };
    assert!(number(counts, &format!("by_class.{class}.write_bytes")) >= 4 << 20, "{counts:#}");
    assert_eq!(number(counts, "errors"), 0);
    assert!(number(counts, "syncs") >= 1);
    let quotient = counts["write_amplification"].as_f64().unwrap();
    let expected = number(counts, "write_bytes") as f64 / number(&report, "app.write_bytes") as f64;
    assert!((quotient - expected).abs() < 1e-9 && quotient >= 1.0, "{quotient}");
    let text = fs::read_to_string(mount.mnt().join(".stats")).unwrap();
    assert!(text.contains("\nWITNESS write "), "{text}");
    let since = fs::read(mount.mnt().join(".stats.d/since/before.json")).unwrap();
    let since: Value = serde_json::from_slice(&since).unwrap();
    let grown = number(&since, "witness.write_bytes");
    assert!((4 << 20..=number(counts, "write_bytes")).contains(&grown), "{grown}");

    mount.stop_clean();
    assert!(is_gone(&mount, witness), "umount leaves nothing behind");
    // The engine had let go of its files by then: a witness that is in use serves them for ten seconds more.
    let log = fs::read_to_string(mount.store().join("kvfs.log")).unwrap();
    assert!(!log.contains("in use") && log.contains("is passed through a witness"), "{log}");
}

/// A mount that is killed takes its witness with it, and loses no more than it would without one.
fn a_kill_of_the_mount_ends_it(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(engine, OPTION);
    for round in 0..3 {
        let name = round.to_string();
        write_synced(&mount, &name, name.repeat(9000).as_bytes());
        let witness = witness_pid(&mount);
        mount.kill();
        if round > 0 {
            // In the first round at once: the next mount has to wait for it.
            assert!(is_gone(&mount, witness), "it outlives its mount");
        }
        mount.start();
        for earlier in 0..=round {
            let name = earlier.to_string();
            assert_eq!(fs::read_to_string(mount.mnt().join(&name)).unwrap(), name.repeat(9000));
        }
    }
    mount.stop_clean();
}

/// A witness that is killed first: errors and a word about it, and no hang. What was synced is there afterwards.
fn a_kill_of_the_witness_is_told(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(engine, OPTION);
    write_synced(&mount, "kept", b"synced");
    let witness = witness_pid(&mount);
    kill(Pid::from_raw(witness), Signal::SIGKILL).unwrap();
    let told = || mount.json()["witness"]["is_running"] == false;
    assert!(until(SOON, told), "{:#}", mount.json()["witness"]);
    assert!(mount.json()["witness"]["end"].as_str().unwrap().contains("SIGKILL"));
    let text = fs::read_to_string(mount.mnt().join(".stats")).unwrap();
    assert!(text.contains("ENDED (signal: 9"), "{text}");
    // Programs are told, not kept waiting.
    let write = || -> std::io::Result<()> {
        let mut file = File::create(mount.mnt().join("lost"))?;
        file.write_all(&[1; 1 << 20])?;
        file.sync_all()
    };
    assert_eq!(write().unwrap_err().raw_os_error(), Some(libc::EIO));
    // It says that the store was not closed whole.
    mount.kvfs(&["umount".as_ref(), mount.mnt().as_os_str()]);
    mount.wait_gone(SOON);
    assert!(!mount.mounted() && is_gone(&mount, witness), "nothing stays mounted");
    let log = fs::read_to_string(mount.store().join("kvfs.log")).unwrap();
    assert!(log.contains("its witness, process") && log.contains("has ended"), "{log}");
    mount.start();
    assert_eq!(fs::read(mount.mnt().join("kept")).unwrap(), b"synced");
    mount.stop_clean();
}

/// Reports do not wait for a witness that hangs: they say how old its figures are.
fn a_witness_that_hangs_holds_up_no_report(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(engine, OPTION);
    write_synced(&mount, "file", &noise(4096));
    let age = |mount: &Mount| number(&mount.json(), "witness.age_ms");
    assert!(until(SOON, || number(&mount.json(), "witness.write_bytes") >= 4096 && age(&mount) < 1000));
    let witness = Pid::from_raw(witness_pid(&mount));
    /// It goes on whatever becomes of the test: the mount above it could not end.
    struct Stopped(Pid);
    impl Drop for Stopped {
        fn drop(&mut self) {
            let _ = kill(self.0, Signal::SIGCONT);
        }
    }
    kill(witness, Signal::SIGSTOP).unwrap();
    let stopped = Stopped(witness);
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        let asked = Instant::now();
        assert!(fs::read_to_string(mount.mnt().join(".stats")).unwrap().contains("\nWITNESS"));
        assert!(asked.elapsed() < Duration::from_secs(1), "a report waited for {:?}", asked.elapsed());
        std::thread::sleep(Duration::from_millis(50));
    }
    let (old, report) = (age(&mount), mount.json());
    drop(stopped);
    assert!(old >= 1500, "its figures are {old} ms old");
    assert_eq!(report["witness"]["is_running"], true);
    assert!(until(SOON, || age(&mount) < 1500));
    mount.stop_clean();
}

/// Both killed at once leave a mount that nobody serves: whoever opens the store next detaches it, with a witness or without.
fn what_nobody_serves_is_detached(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::place(engine, "");
    for (index, more) in ["witness=off", OPTION].into_iter().enumerate() {
        assert!(mount.try_start(OPTION).status.success());
        write_synced(&mount, &index.to_string(), b"synced");
        kill(Pid::from_raw(witness_pid(&mount)), Signal::SIGKILL).unwrap();
        mount.kill();
        assert!(is_covered(&mount), "a dead mount stays");
        // Longer than the kernel remembers attributes: then whoever looks at the directory is told that nobody serves it.
        assert!(until(SOON, || fs::metadata(mount.engine_directory()).is_err()));
        if index == 0 {
            assert_eq!(mount.check(), 0);
            assert!(!is_covered(&mount));
        }
        assert!(mount.try_start(more).status.success());
        assert_eq!(is_covered(&mount), more == OPTION);
        assert_eq!(mount.json()["witness"].is_null(), more != OPTION);
        assert_eq!(fs::read(mount.mnt().join(index.to_string())).unwrap(), b"synced");
        mount.stop_clean();
    }
}

/// A witness that somebody else has put there counts on; with the option a second one over it is refused with the way out.
fn one_of_somebody_else_is_left_alone(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::place(engine, "witness=off");
    mount.start();
    mount.stop();
    let place = mount.engine_directory();
    let begun = mount.kvfs(&["witness".as_ref(), place.as_os_str(), place.as_os_str()]);
    assert!(begun.status.success(), "{}", said(&begun));
    let refused = mount.try_start(OPTION);
    let way_out = format!("kvfs umount {}", place.display());
    assert!(!refused.status.success() && said(&refused).contains(&way_out), "{}", said(&refused));
    assert!(is_covered(&mount) && !mount.mounted());
    mount.start();
    write_synced(&mount, "file", &noise(4096));
    assert!(mount.json()["witness"].is_null());
    let own: Value = serde_json::from_slice(&fs::read(place.join(".stats.d/json")).unwrap()).unwrap();
    assert!(number(&own, "total.write_bytes") >= 4096);
    mount.stop();
    let ended = mount.kvfs(&["umount".as_ref(), place.as_os_str()]);
    assert!(ended.status.success() && !is_covered(&mount), "{}", said(&ended));
    assert_eq!(mount.check(), 0);
}

other_engine!(
    it_counts_what_the_engine_does,
    a_kill_of_the_mount_ends_it,
    a_kill_of_the_witness_is_told,
    a_witness_that_hangs_holds_up_no_report,
    what_nobody_serves_is_detached,
    one_of_somebody_else_is_left_alone,
);

/// Our own engines need none: the disk door counts.
#[test]
fn it_is_refused_below_our_own_engines() {
    if !able(&[]) {
        return;
    }
    for engine in [Engine::Lsm, Engine::Btree] {
        let mount = Mount::place(engine, OPTION);
        let refused = mount.try_start("");
        assert!(
            refused.status.code() == Some(1) && said(&refused).contains("the disk door"),
            "{}",
            said(&refused)
        );
        assert!(!mount.mounted() && !mount.store().exists());
    }
}
