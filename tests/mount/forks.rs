//! Forks of a live store: a second one with what it held at one moment, beside it, going its own way.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::disks::Loop;
use crate::host::{Engine, Mount, able, both_engines, every_engine, root, until};

const MEBIBYTE: u64 = 1 << 20;

every_engine!(a_live_store_is_forked_and_both_go_their_own_ways);
both_engines!(a_fork_that_is_killed_is_no_store);

/// Every engine of ours that keeps anything.
const ENGINES: [Engine; 3] = [Engine::Lsm, Engine::Btree, Engine::Other("hybrid")];

fn fork(mount: &Mount, into: &Path) -> Output {
    mount.kvfs(&["fork".as_ref(), mount.mnt().as_os_str(), into.as_os_str()])
}

/// What the command says.
fn forked(mount: &Mount, into: &Path) -> String {
    let output = fork(mount, into);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn content(number: u64) -> Vec<u8> {
    (0..5_000 + number % 9000).map(|at| (at * number / 7) as u8).collect()
}

/// Names and content of a directory of files.
fn files(folder: &Path) -> BTreeMap<u64, Vec<u8>> {
    let file = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().to_str().unwrap().parse().unwrap(), fs::read(entry.path()).unwrap())
    };
    fs::read_dir(folder).unwrap().map(file).collect()
}

fn a_live_store_is_forked_and_both_go_their_own_ways(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let first = Mount::new(engine, "memory=32M");
    let folder = first.mnt().join("files");
    fs::create_dir(&folder).unwrap();
    for number in 0..300 {
        fs::write(folder.join(number.to_string()), content(number)).unwrap();
    }
    // Two that nobody else will find: one without a name, one whose times alone have changed.
    let open = fs::File::create_new(first.mnt().join("open")).unwrap();
    open.write_all_at(&[1; 100_000], 0).unwrap();
    fs::remove_file(first.mnt().join("open")).unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
    fs::File::options().write(true).open(folder.join("7")).unwrap().set_modified(old).unwrap();
    // One file after the other, while the fork is made.
    let (written, is_over) = (AtomicU64::new(300), AtomicBool::new(false));
    let second = Mount::place(engine, "");
    let before = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Relaxed) {
                let number = written.load(Relaxed);
                fs::write(folder.join(number.to_string()), content(number)).unwrap();
                written.fetch_add(1, Relaxed);
            }
        });
        assert!(until(Duration::from_secs(30), || written.load(Relaxed) > 400));
        let before = written.load(Relaxed);
        let said = forked(&first, &second.store());
        // It goes on beside a live one.
        let after = written.load(Relaxed);
        assert!(until(Duration::from_secs(30), || written.load(Relaxed) > after));
        is_over.store(true, Relaxed);
        assert!(said.starts_with("forked to ") && said.contains(" files, shared "), "{said}");
        before
    });
    second.start();
    let found = files(&second.mnt().join("files"));
    let count = found.len() as u64;
    assert!(count >= before && count <= written.load(Relaxed) + 1, "{before}, {count}");
    for (number, bytes) in &found {
        // The last one may be under way: there, and not yet whole.
        let whole = content(*number);
        assert!(
            *number < count && (*bytes == whole || number + 1 == count && whole.starts_with(bytes)),
            "{number}"
        );
    }
    assert_eq!(fs::metadata(second.mnt().join("files/7")).unwrap().modified().unwrap(), old);
    let (one, other) = (first.json(), second.json());
    assert_ne!(one["uuid"], other["uuid"]);
    assert_eq!((one["space"]["orphans"].as_u64(), other["space"]["orphans"].as_u64()), (Some(1), Some(0)));
    // On this disk nothing is shared, if that is known.
    let is_unshared = |report: &serde_json::Value| {
        report["space"]["shared_bytes"].as_u64().is_none_or(|bytes| bytes < 1 << 40)
    };
    assert!(is_unshared(&one) && is_unshared(&other));
    // Names are found by their hashes, which both compute alike, and each has its own from here on.
    for (mount, text) in [(&first, "first"), (&second, "second")] {
        fs::write(mount.mnt().join("files/5"), text).unwrap();
        fs::write(mount.mnt().join(text), text).unwrap();
        fs::remove_file(mount.mnt().join(format!("files/{}", text.len()))).unwrap();
    }
    // A fork of the fork.
    let third = Mount::place(engine, "");
    forked(&second, &third.store());
    drop(open);
    for mount in [&first, &second] {
        mount.restart();
    }
    third.start();
    for (mount, text, other) in
        [(&first, "first", "second"), (&second, "second", "first"), (&third, "second", "first")]
    {
        let read = |name: &str| fs::read(mount.mnt().join(name)).ok();
        if text == "first" {
            // "first" has five letters: what it wrote there it has removed.
            assert_eq!((read("files/5"), read("files/6")), (None, Some(content(6))));
        } else {
            assert_eq!((read("files/5"), read("files/6")), (Some(text.into()), None));
        }
        assert_eq!((read(text), read(other)), (Some(text.into()), None));
    }
    for mount in [&first, &second, &third] {
        mount.stop_clean();
    }
}

#[test]
fn a_live_hybrid_is_forked_as_well() {
    a_live_store_is_forked_and_both_go_their_own_ways(Engine::Other("hybrid"));
}

/// The daemon is killed while it makes one: the first store has lost nothing, and the second is one or none.
fn a_fork_that_is_killed_is_no_store(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let first = Mount::new(engine, "memtable=4M,cache=16M");
    let size = 96 * MEBIBYTE;
    let bytes: Vec<u8> = (0..size).map(|at| (at % 251 * (at >> 12)) as u8).collect();
    fs::write(first.mnt().join("large"), &bytes).unwrap();
    first.sh("sync \"$MNT/large\"");
    let (mut unfinished, mut whole) = (0, 0);
    for milliseconds in [1, 5, 20, 60, 120, 250] {
        let second = Mount::place(engine, "");
        let (mnt, store) = (first.mnt(), second.store());
        let command = std::thread::spawn(move || {
            Command::new(crate::host::binary()).arg("fork").arg(mnt).arg(store).output().unwrap()
        });
        let is_begun = || second.store().join("STORE.fork").exists() || second.store().join("STORE").exists();
        assert!(until(Duration::from_secs(20), is_begun));
        std::thread::sleep(Duration::from_millis(milliseconds));
        first.kill();
        let answered = command.join().unwrap().status.success();
        let output = second.try_start("nocreate");
        let text = String::from_utf8_lossy(&output.stderr).to_string();
        if output.status.success() {
            assert!(fs::read(second.mnt().join("large")).unwrap() == bytes);
            second.stop_clean();
            whole += 1;
        } else {
            assert!(!answered && text.contains("a fork that was not finished"), "{text}");
            unfinished += 1;
        }
        first.start();
        assert!(fs::read(first.mnt().join("large")).unwrap() == bytes);
    }
    assert!(unfinished > 0, "{unfinished} unfinished, {whole} whole");
    first.stop_clean();
}

#[test]
fn places_where_no_store_can_be_made_are_refused() {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(Engine::Lsm, "");
    let taken = mount.host().join("taken");
    fs::create_dir(&taken).unwrap();
    fs::write(taken.join("holiday.jpg"), "kept").unwrap();
    let file = mount.host().join("file");
    fs::write(&file, "kept").unwrap();
    for (place, words) in [
        (taken.clone(), "holiday.jpg"),
        (file, "not a directory"),
        (mount.store(), "directory of the store itself"),
        (mount.store().join("below"), "directory of the store itself"),
        (mount.mnt(), "in the mount itself"),
        (mount.mnt().join("a/b"), "in the mount itself"),
    ] {
        let output = fork(&mount, &place);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && text.contains(words), "{place:?}: {output:?}");
        assert!(text.contains(place.to_str().unwrap()) || text.contains("mount"), "{text}");
    }
    assert_eq!(fs::read_dir(&taken).unwrap().count(), 1);
    // A path that is not absolute has no meaning to the daemon; without `wait` the answer is in the event log.
    assert_eq!(
        fs::write(mount.mnt().join(".stats"), "fork elsewhere wait").unwrap_err().raw_os_error(),
        Some(libc::EINVAL)
    );
    let into = mount.host().join("by line");
    fs::write(mount.mnt().join(".stats"), format!("fork {}\n", into.display())).unwrap();
    assert!(until(Duration::from_secs(20), || into.join("STORE").exists()));
    let count = |name: &str| mount.json()["forks"][name].as_u64().unwrap();
    assert!(until(Duration::from_secs(20), || count("running") == 0 && count("made") == 1));
    let events = fs::read_to_string(mount.mnt().join(".stats.d/events")).unwrap();
    assert!(events.lines().any(|line| line.contains("\"fork\"") && line.contains("by line")), "{events}");
    // An empty directory and one whose parents are missing will do.
    let empty = mount.host().join("empty");
    fs::create_dir(&empty).unwrap();
    forked(&mount, &empty);
    forked(&mount, &mount.host().join("a/b/c"));
    mount.stop();
    for name in ["empty", "a/b/c", "by line"] {
        let output = mount.kvfs(&["check".as_ref(), mount.host().join(name).as_os_str()]);
        assert!(output.status.success(), "{output:?}");
    }
    // What keeps nothing, and what may write nothing, have none.
    let memory = Mount::new(Engine::Mem, "");
    let output = fork(&memory, &mount.host().join("d"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("engine=mem keeps nothing"), "{output:?}");
    assert!(mount.try_start("ro").status.success());
    let output = fork(&mount, &mount.host().join("d"));
    assert!(String::from_utf8_lossy(&output.stderr).contains("mount without -o ro"), "{output:?}");
    assert!(!mount.host().join("d").exists());
    mount.stop();
}

/// Where blocks can be shared an LSM-tree's fork takes no room, and the report says so until one of the two has gone.
#[test]
fn what_is_counted_of_forks_is_what_they_say() {
    if !able(&["mkfs.xfs"]) || !root() {
        return;
    }
    let below = Loop::new("xfs", 640 * MEBIBYTE);
    for engine in ENGINES {
        let name = engine.name();
        let (store, copy) = (below.place().join(name), below.place().join(format!("{name}.copy")));
        let first = Mount::new(engine, "");
        first.stop();
        let mount = |store: &Path, at: &Mount| {
            let options = format!("engine={name},reserve=4M,log_segment=1M,memory=32M");
            let output = at.kvfs(&[
                "mount".as_ref(),
                store.as_os_str(),
                at.mnt().as_os_str(),
                "-o".as_ref(),
                options.as_ref(),
            ]);
            assert!(output.status.success(), "{output:?}");
            at.note_pid();
        };
        mount(&store, &first);
        let size = 40 * MEBIBYTE;
        fs::write(first.mnt().join("large"), vec![7; size as usize]).unwrap();
        let seed: Vec<u8> =
            (0..size as u32).flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes()).step_by(4).collect();
        fs::write(first.mnt().join("noise"), &seed).unwrap();
        let count = |name: &str| first.json()["forks"][name].as_u64().unwrap();
        assert_eq!(["made", "failed", "running", "shared_bytes", "written_bytes"].map(count), [0; 5]);
        // So that no merge replaces what is shared while the test looks at it.
        if engine == Engine::Lsm {
            first.ctl(&["compact", "wait"]);
        }
        let begun = Instant::now();
        let said = forked(&first, &copy);
        assert!(begun.elapsed() < Duration::from_secs(60));
        assert_eq!(["made", "failed", "running"].map(count), [1, 0, 0]);
        let (shared_bytes, written_bytes) = (count("shared_bytes"), count("written_bytes"));
        let shared = |mount: &Mount| mount.json()["space"]["shared_bytes"].as_u64().unwrap();
        if engine == Engine::Lsm {
            assert!(
                shared_bytes > size && written_bytes < 4 * MEBIBYTE,
                "{shared_bytes}, {written_bytes}: {said}"
            );
            // What the fork shares it shares with this one.
            assert_eq!(shared(&first), shared_bytes, "{said}");
            let text = fs::read_to_string(first.mnt().join(".stats")).unwrap();
            assert!(text.contains("of it shared"), "{text}");
        } else {
            assert!(shared_bytes == 0 && written_bytes > size, "{shared_bytes}, {written_bytes}: {said}");
            assert_eq!(shared(&first), 0, "{said}");
        }
        // A fork that fails is counted as one, and leaves nothing.
        let none = Loop::new("ext4", 16 * MEBIBYTE);
        for place in [none.place().join("new"), none.place()] {
            let before = fs::read_dir(none.place()).unwrap().count();
            let output = fork(&first, &place);
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.code() == Some(2) && text.contains("no space left"), "{output:?}");
            assert!(text.contains(place.to_str().unwrap()), "{text}");
            // The lock alone stays in a directory that was there.
            let names =
                fs::read_dir(none.place()).unwrap().count() - usize::from(none.place().join("LOCK").exists());
            assert_eq!(names, before, "{place:?}");
        }
        assert_eq!(["made", "failed", "running"].map(count), [1, 2, 0]);
        // The other one holds the same, and shares it; without the first, nothing.
        let second = Mount::place(engine, "");
        mount(&copy, &second);
        assert!(fs::read(second.mnt().join("noise")).unwrap() == seed);
        let is_seen = || second.json()["space"]["shared_bytes"].as_u64().is_some();
        assert!(until(Duration::from_secs(20), is_seen));
        assert_eq!(shared(&second), shared_bytes, "{name}");
        first.stop();
        fs::remove_dir_all(&store).unwrap();
        second.stop();
        mount(&copy, &second);
        assert!(until(Duration::from_secs(20), is_seen));
        assert_eq!(shared(&second), 0, "{name}");
        second.stop();
        fs::remove_dir_all(&copy).unwrap();
    }
}

/// What a program was told is written may still be in the kernel: the command has it sent first.
#[test]
fn what_the_kernel_keeps_is_in_a_fork() {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(Engine::Lsm, "writeback_cache=on");
    let file = fs::File::create_new(mount.mnt().join("open")).unwrap();
    let content = vec![9; 300_000];
    file.write_all_at(&content, 0).unwrap();
    let second = Mount::place(Engine::Lsm, "");
    forked(&mount, &second.store());
    second.start();
    assert!(fs::read(second.mnt().join("open")).unwrap() == content);
    drop(file);
    second.stop_clean();
    mount.stop_clean();
}

/// A mount that ends does not wait for what is copied key by key.
#[test]
fn an_unmount_ends_a_copy() {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(Engine::Btree, "cache=16M");
    let into = mount.host().join("new");
    // On a loaded machine a copy may be whole before its unmount begins: then there is more to copy the next time.
    let ended = (0..5).any(|round| {
        let large = mount.mnt().join(format!("large{round}"));
        fs::write(large, vec![5; 96 << 20]).unwrap();
        // The line alone, so that no command keeps the mount in use.
        fs::write(mount.mnt().join(".stats"), format!("fork {}\n", into.display())).unwrap();
        let forks = |name: &str| mount.json()["forks"][name].as_u64().unwrap();
        // Its bytes grow while it is made.
        let grows = || forks("running") == 1 && forks("written_bytes") > 0;
        assert!(until(Duration::from_secs(20), || grows() || into.join("STORE").exists()));
        mount.stop();
        assert!(!into.join("STORE.fork").exists(), "what was begun is taken away");
        assert_eq!(mount.check(), 0);
        mount.start();
        let whole = into.exists();
        if whole {
            fs::remove_dir_all(&into).unwrap();
        }
        !whole
    });
    assert!(ended, "each of five copies was whole before the unmount");
    forked(&mount, &into);
    mount.stop_clean();
}
