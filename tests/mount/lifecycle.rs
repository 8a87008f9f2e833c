//! From mkfs to the end of the daemon: exit codes, refusals, stale mounts, signals, and mount(8).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::{Engine, Mount, able, binary, every_engine, root, until};

/// What the user reads.
fn message(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// mkfs, mount as the other form of the command line, umount; what was stored is there at the next mount, which needs no
/// engine= because the store remembers it.
fn mkfs_mount_umount(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::place(engine, "");
    let (store, mnt) = (mount.store(), mount.mnt());
    let (store, mnt) = (store.to_str().unwrap(), mnt.to_str().unwrap());
    let made = mount.kvfs(&["mkfs", store, "-o", &mount.options()]);
    assert!(made.status.success(), "{made:?}");
    assert_eq!(mount.check(), 0, "a new store");
    let twice = mount.kvfs(&["mkfs", store, "-o", &mount.options()]);
    assert!(!twice.status.success(), "mkfs over a store must be refused");

    // As mount.fuse calls it: positionals first, options last, generic options among them.
    let mounted = mount.kvfs(&[store, mnt, "-o", "rw,noatime,dev,suid,nofail,_netdev,x-systemd.automount"]);
    assert!(mounted.status.success(), "{mounted:?}");
    mount.note_pid();
    assert_eq!(mount.json()["engine"], engine.name());
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    let line = table.lines().find(|line| line.contains(mnt)).unwrap();
    assert!(line.contains(" fuse.kvfs "), "{line}");
    let command = fs::read_to_string(format!("/proc/{}/cmdline", mount.pid())).unwrap();
    assert!(command.split('\0').any(|word| word == store), "the daemon's arguments keep DIR: {command:?}");
    fs::write(mount.mnt().join("kept"), "kept").unwrap();
    mount.stop();

    mount.start();
    assert_eq!(fs::read_to_string(mount.mnt().join("kept")).unwrap(), "kept");
    mount.stop_clean();

    // Read-only: reads, and nothing else.
    let output = mount.try_start("ro");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read_to_string(mount.mnt().join("kept")).unwrap(), "kept");
    let refused = fs::write(mount.mnt().join("new"), "").expect_err("a read-only mount");
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
    mount.stop_clean();
}

/// One daemon a store; the message names the holder. A mounted store cannot be checked.
fn second_mount_is_refused(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(engine, "");
    let (store, elsewhere) = (mount.store(), mount.host().join("elsewhere"));
    fs::create_dir(&elsewhere).unwrap();
    let second = mount.kvfs(&["mount".as_ref(), store.as_os_str(), elsewhere.as_os_str()]);
    assert!(!second.status.success(), "{second:?}");
    let text = message(&second);
    assert!(text.contains(&mount.pid().to_string()), "the message names the holder {}: {text}", mount.pid());
    assert_eq!(mount.check(), 8, "kvfs check of a mounted store");
    fs::write(mount.mnt().join("still"), "answers").unwrap();
    mount.stop_clean();
}

/// A store keeps its engine; options that do not exist are named.
fn wrong_options_are_refused(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(engine, "");
    mount.stop();
    let other = if engine == Engine::Lsm { "btree" } else { "lsm" };
    let (store, mnt) = (mount.store(), mount.mnt());
    let try_with = |options: &str| {
        mount.kvfs(&["mount".as_ref(), store.as_os_str(), mnt.as_os_str(), "-o".as_ref(), options.as_ref()])
    };
    for (options, words) in [
        (format!("engine={other}"), vec![other, engine.name()]),
        ("engine=paper".to_string(), vec!["engine=paper"]),
        ("no_such_option=7".to_string(), vec!["no_such_option"]),
        ("sync=sometimes".to_string(), vec!["sync=sometimes"]),
    ] {
        let output = try_with(&options);
        assert!(!output.status.success(), "-o {options}: {output:?}");
        for word in words {
            assert!(message(&output).contains(word), "-o {options} names {word}: {}", message(&output));
        }
        assert!(!mount.mounted());
    }
    let nowhere = mount.host().join("nowhere");
    let output = mount.kvfs(&["mount".as_ref(), store.as_os_str(), nowhere.as_os_str()]);
    assert!(!output.status.success() && message(&output).contains("nowhere"), "{output:?}");
    assert_eq!(
        mount.kvfs(&["check".as_ref(), nowhere.as_os_str()]).status.code(),
        Some(8),
        "nothing to check"
    );
    mount.start();
    mount.stop_clean();
}

/// A dead daemon leaves a mount that answers ENOTCONN; the next mount detaches it.
fn stale_mount_is_detached(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(engine, "");
    fs::write(mount.mnt().join("file"), "content").unwrap();
    if !mount.promises("survives_kill") {
        mount.ctl(&["sync"]);
    }
    mount.kill();
    assert!(mount.mounted(), "the dead mount stays until someone cares");
    let errno = fs::metadata(mount.mnt().join("file")).unwrap_err().raw_os_error();
    assert!([Some(libc::ENOTCONN), Some(libc::ECONNABORTED)].contains(&errno), "{errno:?}");
    mount.start();
    assert_eq!(fs::read_to_string(mount.mnt().join("file")).unwrap(), "content");
    mount.stop_clean();
    // And umount of a dead mount cleans up too.
    mount.start();
    mount.kill();
    mount.stop();
    assert_eq!(mount.check(), 0);
}

/// A daemon in the foreground whose exit code we get to see.
struct Foreground(Child);

impl Foreground {
    fn start(mount: &Mount) -> Foreground {
        let log = fs::File::create(mount.host().join("foreground.log")).unwrap();
        let child = Command::new(binary())
            .arg("mount")
            .args([mount.store(), mount.mnt()])
            .args(["-f", "-o", &mount.options()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let answers = until(Duration::from_secs(30), || mount.mnt().join(".stats").is_file());
        let log = fs::read_to_string(mount.host().join("foreground.log")).unwrap();
        assert!(answers, "kvfs mount -f does not answer: {log}");
        mount.note_pid();
        assert_eq!(mount.pid(), child.id() as i32, "-f stays one process");
        Foreground(child)
    }

    fn exit_code(&mut self) -> Option<i32> {
        let mut code = None;
        until(Duration::from_secs(30), || {
            code = self.0.try_wait().unwrap();
            code.is_some()
        });
        code.expect("the daemon ends within 30 s").code()
    }
}

impl Drop for Foreground {
    fn drop(&mut self) {
        // Only ours, and only if it still runs; errors mean that it does not.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// SIGTERM, SIGINT and umount(8) all end in a clean unmount, everything synced, exit code 0.
fn signals_unmount_cleanly(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::place(engine, "");
    for (round, end) in ["SIGTERM", "SIGINT", "fusermount3"].into_iter().enumerate() {
        let mut daemon = Foreground::start(&mount);
        for earlier in 0..round {
            assert_eq!(
                fs::read(mount.mnt().join(format!("file-{earlier}"))).unwrap(),
                vec![earlier as u8; 100_000]
            );
        }
        fs::write(mount.mnt().join(format!("file-{round}")), vec![round as u8; 100_000]).unwrap();
        let pid = Pid::from_raw(mount.pid());
        match end {
            "SIGTERM" => kill(pid, Signal::SIGTERM).unwrap(),
            "SIGINT" => kill(pid, Signal::SIGINT).unwrap(),
            _ => {
                mount.sh(r#"fusermount3 -u "$MNT""#);
            }
        }
        assert_eq!(daemon.exit_code(), Some(0), "{end}");
        assert!(!mount.mounted(), "{end} leaves the mount behind");
        assert_eq!(mount.check(), 0, "{end}");
    }
}

/// Names where mount(8) and mount.fuse look; those that were not there before are removed again.
struct Installed(Vec<PathBuf>);

impl Installed {
    /// The helper, and the program for the shell of mount.fuse, which knows no PATH.
    fn helper_and_program() -> Installed {
        let helper = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-scripts/mount.fuse.kvfs");
        let mut installed = Installed(vec![]);
        for (source, target) in [(helper, "/sbin/mount.fuse.kvfs"), (binary(), "/usr/local/bin/kvfs")] {
            if Path::new(target).symlink_metadata().is_err() {
                fs::copy(source, target).unwrap();
                installed.0.push(target.into());
            }
        }
        installed
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = fs::remove_file(path);
        }
    }
}

/// `mount -t fuse.kvfs` through the helper and `mount -t fuse 'kvfs#DIR'` through mount.fuse. One test for both engines,
/// because the helper has one name on the machine.
#[test]
fn mount_8() {
    if !able(&["mount", "umount"]) {
        return;
    }
    if !root() {
        println!("note: mount(8) needs root");
        return;
    }
    let _installed = Installed::helper_and_program();
    for engine in [Engine::Lsm, Engine::Btree] {
        let mount = Mount::place(engine, "");
        let options = mount.options();
        for (round, how) in [
            format!(r#"mount -t fuse.kvfs "$STORE" "$MNT" -o {options},noatime,nofail,_netdev"#),
            format!(r#"mount -t fuse "kvfs#$STORE" "$MNT" -o {options}"#),
            r#"mount -t fuse.kvfs "$STORE" "$MNT""#.to_string(),
        ]
        .iter()
        .enumerate()
        {
            mount.sh(how);
            mount.note_pid();
            let line = mount.sh(r#"findmnt -no FSTYPE,SOURCE "$MNT""#);
            assert!(line.starts_with("fuse.kvfs ") && line.contains("store"), "{line}");
            mount.sh(&format!(r#"echo {round} > "$MNT/file-{round}"; cat "$MNT"/file-*"#));
            mount.sh(r#"
                mount -o remount,ro "$MNT"; fails touch "$MNT/no"; cat "$MNT"/file-* > /dev/null
                findmnt -no OPTIONS "$MNT" | grep -q '^ro,'
                mount -o remount,rw "$MNT"; touch "$MNT/yes"; rm "$MNT/yes"
                fails "$KVFS" mount "$STORE" "$HOST" -o remount,ro
            "#);
            mount.sh(r#"umount "$MNT""#);
            mount.wait_gone(Duration::from_secs(30));
            assert_eq!(mount.check(), 0, "{how}");
        }
        // -f fakes; nothing is mounted, and a refusal has an exit code that mount(8) passes on.
        mount.sh(r#"mount -f -t fuse.kvfs "$STORE" "$MNT"; fails mountpoint -q "$MNT""#);
        mount.sh(r#"fails mount -t fuse.kvfs "$STORE" "$MNT" -o no_such_option"#);
        assert!(!mount.mounted());
    }
}

every_engine!(
    mkfs_mount_umount,
    second_mount_is_refused,
    wrong_options_are_refused,
    stale_mount_is_detached,
    signals_unmount_cleanly,
);
