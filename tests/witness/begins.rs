//! How a witness begins and ends: over itself, with patterns of one's own, killed, refused.

use std::fs::{self, File};
use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::{Engine, Mount, able, binary, until};
use crate::numbers::number;

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_directory_is_passed_through_over_itself() {
    if !able(&[]) {
        return;
    }
    let mount = Mount::place(Engine::Witness, "");
    let mnt = mount.mnt();
    fs::write(mnt.join("before.db"), "before").unwrap();
    let begun = mount.kvfs(&["witness", mnt.to_str().unwrap(), mnt.to_str().unwrap()]);
    assert!(begun.status.success(), "{}", said(&begun));
    mount.note_pid();
    assert_eq!(fs::read_to_string(mnt.join("before.db")).unwrap(), "before");
    fs::write(mnt.join("after.db"), "after").unwrap();
    assert_eq!(number(&mount.json(), "by_class.data.write_bytes"), 5);
    mount.stop();
    assert_eq!(fs::read_to_string(mnt.join("after.db")).unwrap(), "after");
}

#[test]
fn patterns_of_ones_own_tell_classes_and_a_wrong_line_is_named() {
    if !able(&[]) {
        return;
    }
    let mount = Mount::place(Engine::Witness, "");
    let patterns = mount.host().join("patterns");
    let options = format!("patterns={}", patterns.display());
    let refused = mount.try_start(&options);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    fs::write(&patterns, "# mine\nlog journal/*\nlogs x\n").unwrap();
    let refused = mount.try_start(&options);
    let text = said(&refused);
    assert!(
        refused.status.code() == Some(1) && text.contains("patterns, line 3: 'logs' is no class"),
        "{text}"
    );
    fs::write(&patterns, "# mine\nlog journal/*\n").unwrap();
    assert!(mount.try_start(&options).status.success());
    fs::create_dir(mount.mnt().join("journal")).unwrap();
    fs::write(mount.mnt().join("journal/1"), "12345").unwrap();
    fs::write(mount.mnt().join("1.log"), "1").unwrap();
    let report = mount.json();
    assert_eq!(number(&report, "by_class.log.write_bytes"), 5);
    assert_eq!(number(&report, "by_class.other.write_bytes"), 1);
    assert_eq!(report["patterns"], patterns.to_str().unwrap());
    assert_eq!(fs::read_to_string(mount.mnt().join(".stats.d/patterns")).unwrap(), "# mine\nlog journal/*\n");
    mount.stop();
}

#[test]
fn wrong_places_are_refused_with_a_reason() {
    if !able(&[]) {
        return;
    }
    let mount = Mount::place(Engine::Witness, "");
    let (store, mnt) = (mount.store(), mount.mnt());
    fs::create_dir(store.join("below")).unwrap();
    fs::create_dir(mnt.join("below")).unwrap();
    File::create(mount.host().join("file")).unwrap();
    let show = |path: &std::path::Path| path.to_str().unwrap().to_string();
    for (directory, place, words) in [
        (show(&store), show(&store.join("below")), "lies in the directory"),
        (show(&mnt.join("below")), show(&mnt), "would be hidden"),
        (show(&store.join("no")), show(&mnt), "No such file"),
        (show(&mount.host().join("file")), show(&mnt), "takes a directory"),
    ] {
        let refused = mount.kvfs(&["witness", &directory, &place]);
        let text = said(&refused);
        assert!(refused.status.code() == Some(1) && text.contains(words), "{directory} {place}: {text}");
    }
    let refused = mount.kvfs(&["witness", &show(&store), &show(&mnt), "-o", "noatime"]);
    assert!(said(&refused).contains("is for a store"), "{}", said(&refused));
    assert!(!mount.mounted());
}

#[test]
fn a_killed_witness_leaves_the_files_and_the_next_one_takes_its_place() {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(Engine::Witness, "");
    let mut file = File::create(mount.mnt().join("file")).unwrap();
    file.write_all(b"written").unwrap();
    mount.kill();
    let lost = file.write_all(b"lost").unwrap_err().raw_os_error();
    assert!([Some(libc::ENOTCONN), Some(libc::ECONNABORTED)].contains(&lost), "{lost:?}");
    drop(file);
    assert_eq!(fs::read_to_string(mount.store().join("file")).unwrap(), "written");
    mount.start();
    assert_eq!(fs::read_to_string(mount.mnt().join("file")).unwrap(), "written");
    mount.stop();
}

/// As a mount starts one below its engine: it is the holder's, and whoever signals every process of a terminal or a service does not end it.
#[test]
fn a_witness_that_is_held_ends_when_it_is_let_go_and_at_no_signal() {
    if !able(&[]) {
        return;
    }
    let mount = Mount::place(Engine::Witness, "");
    let mut held = Command::new(binary())
        .args(["witness".as_ref(), mount.store().as_os_str(), mount.mnt().as_os_str()])
        .args(["-f", "--until-input-ends"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    assert!(until(Duration::from_secs(20), || mount.mounted() && mount.mnt().join(".stats").exists()));
    mount.note_pid();
    fs::write(mount.mnt().join("file"), "before").unwrap();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        kill(Pid::from_raw(mount.pid()), signal).unwrap();
    }
    std::thread::sleep(Duration::from_millis(300));
    assert!(mount.mounted() && held.try_wait().unwrap().is_none(), "a signal ended it");
    assert_eq!(fs::read_to_string(mount.mnt().join("file")).unwrap(), "before");
    drop(held.stdin.take());
    assert!(until(Duration::from_secs(20), || held.try_wait().unwrap().is_some()), "it does not end");
    assert!(held.wait().unwrap().success() && !mount.mounted());
    let refused = mount.try_start("until_input_ends");
    assert!(said(&refused).contains("unknown option"), "{}", said(&refused));
}

#[test]
fn a_change_in_the_directory_itself_is_seen() {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(Engine::Witness, "timeout=0s");
    let (here, there) = (mount.mnt().join("file"), mount.store().join("file"));
    assert!(!here.exists());
    fs::write(&there, "first").unwrap();
    assert_eq!(fs::read_to_string(&here).unwrap(), "first");
    // As long, so nothing but the times tells that it is another text.
    fs::write(&there, "FIRST").unwrap();
    assert_eq!(fs::read_to_string(&here).unwrap(), "FIRST");
    fs::rename(&there, mount.store().join("moved")).unwrap();
    assert!(!here.exists());
    assert_eq!(fs::read_to_string(mount.mnt().join("moved")).unwrap(), "FIRST");
    mount.stop();
}

#[test]
fn nothing_is_changed_through_a_witness_that_only_looks() {
    if !able(&[]) {
        return;
    }
    let mount = Mount::place(Engine::Witness, "");
    fs::write(mount.store().join("file"), "there").unwrap();
    assert!(mount.try_start("ro").status.success());
    assert_eq!(fs::read_to_string(mount.mnt().join("file")).unwrap(), "there");
    let refused = fs::write(mount.mnt().join("file"), "no").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    assert_eq!(number(&mount.json(), "total.read_bytes"), 5);
    mount.stop();
}

/// Each file that the kernel knows is a descriptor: more files than descriptors are looked at, and none is refused.
#[test]
fn a_tree_may_have_more_files_than_descriptors() {
    if !able(&[]) {
        return;
    }
    let mount = Mount::place(Engine::Witness, "");
    mount.sh(r#"ulimit -n 800; "$KVFS" witness "$STORE" "$MNT""#);
    mount.note_pid();
    let folder = mount.mnt().join("many");
    fs::create_dir(&folder).unwrap();
    // One that is open all the time, and one by its second name.
    let mut kept = File::create(folder.join("kept")).unwrap();
    fs::hard_link(folder.join("kept"), folder.join("linked")).unwrap();
    for number in 0..4000 {
        fs::write(folder.join(number.to_string()), number.to_string()).unwrap();
        if number % 1000 == 0 {
            kept.write_all(b"kept").unwrap();
        }
    }
    for number in 0..4000 {
        assert_eq!(fs::read_to_string(folder.join(number.to_string())).unwrap(), number.to_string());
    }
    assert_eq!(fs::read_to_string(folder.join("linked")).unwrap(), "kept".repeat(4));
    let report = mount.json();
    assert!(number(&report, "known_inodes") < 800, "{report:#}");
    assert_eq!(number(&report, "total.write_bytes"), 4 * 4 + 10 + 90 * 2 + 900 * 3 + 3000 * 4);
    assert_eq!(number(&report, "total.errors"), 0);
    drop(kept);
    fs::remove_dir_all(&folder).unwrap();
    mount.stop();
}
