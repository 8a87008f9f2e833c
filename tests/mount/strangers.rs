//! What others may do to a mount and cannot: a store's directory full of traps, one that is not ours, clients that say nothing.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::host::{Engine, Mount, able, binary, both_engines, every_engine, root, until};

/// What may lie in the place of a file.
#[derive(Clone, Copy, Debug)]
enum Trap {
    Link,
    DanglingLink,
    LinkToFolder,
    Fifo,
    Folder,
    HardLink,
    Socket,
    Device,
}

const TRAPS: [Trap; 8] = [
    Trap::Link,
    Trap::DanglingLink,
    Trap::LinkToFolder,
    Trap::Fifo,
    Trap::Folder,
    Trap::HardLink,
    Trap::Socket,
    Trap::Device,
];

/// What lies outside and must stay as it is.
struct Victim {
    file: PathBuf,
    folder: PathBuf,
    nothing: PathBuf,
}

impl Victim {
    fn new(home: &Path) -> Victim {
        let at = |name: &str| home.join(name);
        let victim = Victim { file: at("victim"), folder: at("folder"), nothing: at("nothing") };
        fs::create_dir(&victim.folder).unwrap();
        fs::write(&victim.file, "precious").unwrap();
        victim
    }

    fn state(&self) -> (Vec<u8>, u32, i64, i64, usize, bool) {
        let found = fs::metadata(&self.file).unwrap();
        let count = fs::read_dir(&self.folder).unwrap().count();
        let bytes = fs::read(&self.file).unwrap();
        (
            bytes,
            found.mode(),
            found.mtime(),
            found.mtime_nsec(),
            count,
            self.nothing.symlink_metadata().is_err(),
        )
    }

    fn set(&self, trap: Trap, path: &Path) {
        if path.is_dir() {
            fs::remove_dir_all(path).unwrap();
        } else {
            let _ = fs::remove_file(path);
        }
        match trap {
            Trap::Link => symlink(&self.file, path).unwrap(),
            Trap::DanglingLink => symlink(&self.nothing, path).unwrap(),
            Trap::LinkToFolder => symlink(&self.folder, path).unwrap(),
            Trap::Fifo => nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap(),
            Trap::Folder => fs::create_dir(path).unwrap(),
            Trap::HardLink => fs::hard_link(&self.file, path).unwrap(),
            Trap::Socket => drop(UnixListener::bind(path).unwrap()),
            // The device that every write fills.
            Trap::Device => mknod(path, SFlag::S_IFCHR, Mode::S_IRWXU, makedev(1, 7)).unwrap(),
        }
    }
}

/// A hundred directories in which one file of a store is something else: nothing outside is touched, nothing hangs, and what is
/// refused says which file it is.
fn traps(engine: Engine) {
    if !able(&[]) || !root() {
        return;
    }
    let mount = Mount::new(engine, "sync=always,memtable=1M,log_segment=1M,table=1M,checkpoint_log=1M");
    fs::write(mount.mnt().join("data"), vec![5; 3 << 20]).unwrap();
    mount.ctl(&["flush", "wait"]);
    mount.stop();
    let host = mount.host();
    let whole = host.join("whole");
    fs::rename(mount.store(), &whole).unwrap();
    let mut names: Vec<String> = fs::read_dir(&whole)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    // Names that a run makes, replaces or removes.
    for name in ["LOCK", "kvfs.log", "kvfs.log.1", "stats.sock", "STORE.new", "REPAIRED", "repair.STORE"] {
        if !names.iter().any(|known| known == name) {
            names.push(name.to_string());
        }
    }
    let victim = Victim::new(&host);
    let before = victim.state();
    let (mut cases, mut refused) = (0, 0);
    for name in &names {
        for trap in TRAPS {
            let _ = fs::remove_dir_all(mount.store());
            fs::create_dir(mount.store()).unwrap();
            for entry in fs::read_dir(&whole).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_file() {
                    fs::copy(entry.path(), mount.store().join(entry.file_name())).unwrap();
                } else if entry.file_type().unwrap().is_dir() {
                    mount.sh(&format!(r#"cp -a {:?} "$STORE""#, entry.path()));
                }
            }
            victim.set(trap, &mount.store().join(name));
            let run = |words: &[&str]| {
                let mut command = Command::new("timeout");
                command.args(["-k", "5", "60"]).arg(binary()).args(words).env("RUST_LOG", "off");
                let output = command.output().unwrap();
                let text = String::from_utf8_lossy(&output.stderr).into_owned();
                let code = output.status.code().unwrap_or(-1);
                assert!(
                    ![124, 137, -1, 101].contains(&code),
                    "{name} as {trap:?}: {words:?} gave {code}: {text}"
                );
                (code, text)
            };
            let (store, mnt) = (mount.store(), mount.mnt());
            let (store, mnt) = (store.to_str().unwrap(), mnt.to_str().unwrap());
            run(&["check", store]);
            let (code, text) = run(&["mount", store, mnt]);
            if code == 0 {
                mount.note_pid();
                fs::write(mount.mnt().join("more"), vec![6; 100_000]).unwrap();
                run(&["umount", mnt]);
                mount.wait_gone(Duration::from_secs(60));
            } else {
                refused += 1;
                assert!(text.contains(name.trim_end_matches(".new")), "{name} as {trap:?}: {text}");
            }
            run(&["check", store, "--repair", "--yes"]);
            assert_eq!(victim.state(), before, "{name} as {trap:?}");
            cases += 1;
        }
    }
    // One of others has its files out of sight, in one directory.
    let least = if matches!(engine, Engine::Other(_)) { 64 } else { 80 };
    assert!(cases >= least && refused >= 20, "{cases} cases, {refused} refused");
}

/// A directory of somebody else is refused, and mounted for who insists.
fn owners(engine: Engine) {
    if !able(&[]) || !root() {
        return;
    }
    let mount = Mount::new(engine, "");
    fs::write(mount.mnt().join("file"), "content").unwrap();
    mount.stop();
    nix::unistd::chown(&mount.store(), Some(65_534.into()), None).unwrap();
    for (owner, mode, words) in [(65_534, 0o700, "belongs to user 65534"), (0, 0o777, "mode 0777")] {
        nix::unistd::chown(&mount.store(), Some(owner.into()), None).unwrap();
        fs::set_permissions(mount.store(), fs::Permissions::from_mode(mode)).unwrap();
        let output = mount.try_start("");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(32), "{text}");
        assert!(text.contains(words) && text.contains("any_owner") && !mount.mounted(), "{text}");
        assert_eq!(mount.check(), 0, "to look changes nothing");
        let output = mount.try_start("any_owner");
        assert!(output.status.success(), "{output:?}");
        assert_eq!(fs::read_to_string(mount.mnt().join("file")).unwrap(), "content");
        mount.stop();
    }
    // What a store says of itself is its owner's word: it cannot let itself in.
    let other = mount.host().join("other");
    let made =
        mount.kvfs(&["mkfs".as_ref(), other.as_os_str(), "-o".as_ref(), "any_owner,cache=8M".as_ref()]);
    assert!(made.status.success(), "{made:?}");
    assert!(!fs::read_to_string(other.join("STORE")).unwrap().contains("any_owner"));
}

/// With `nocreate` a mount finds a store or fails, and nothing is made.
fn nocreate(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::place(engine, "");
    for empty in [false, true] {
        if empty {
            fs::create_dir(mount.store()).unwrap();
        }
        let output = mount.try_start("nocreate");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(32), "{text}");
        assert!(text.contains("nocreate") && text.contains("is its disk mounted?"), "{text}");
        assert_eq!(mount.store().exists(), empty);
        assert!(!empty || fs::read_dir(mount.store()).unwrap().next().is_none(), "nothing is made");
    }
    mount.start();
    mount.stop();
    let output = mount.try_start("nocreate");
    assert!(output.status.success(), "{output:?}");
    mount.stop_clean();
}

/// A store on a disk that cannot be written: read, checked, and not written.
fn read_only_disk(engine: Engine) {
    if !able(&["mount", "umount"]) || !root() {
        return;
    }
    let mount = Mount::new(engine, "");
    fs::write(mount.mnt().join("file"), vec![3; 1 << 20]).unwrap();
    // Once closed, and once with a log to recover.
    for killed in [false, true] {
        if killed {
            mount.start();
            fs::write(mount.mnt().join("late"), vec![4; 1 << 20]).unwrap();
            mount.kill();
            mount.sh(r#""$KVFS" umount "$MNT""#);
        } else {
            mount.stop();
        }
        mount.sh(r#"mount --bind "$STORE" "$STORE"; mount -o remount,bind,ro "$STORE""#);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let output = mount.try_start("");
            let text = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && text.contains("-o ro"), "{text}");
            let output = mount.try_start("ro");
            assert!(output.status.success(), "{output:?}");
            assert_eq!(fs::read(mount.mnt().join("file")).unwrap(), vec![3; 1 << 20]);
            assert_eq!(mount.mnt().join("late").exists(), killed);
            assert!(fs::read_to_string(mount.mnt().join(".stats")).unwrap().contains("kvfs"));
            let refused = fs::write(mount.mnt().join("new"), "").expect_err("a read-only mount");
            assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
            mount.stop();
            assert_eq!(mount.check(), 0);
            mount.sh(r#""$KVFS" check "$STORE" --repair"#);
        }));
        mount.sh(r#""$KVFS" umount -l "$MNT" 2> /dev/null || true; umount "$STORE""#);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    }
    mount.start();
    assert_eq!(fs::read(mount.mnt().join("late")).unwrap(), vec![4; 1 << 20]);
    mount.stop_clean();
}

/// Everything that is in the store's directory: content, size, and when it was changed.
fn contents(store: &Path) -> Vec<(String, Vec<u8>, [i64; 5])> {
    let mut files: Vec<_> = fs::read_dir(store).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.push(store.to_path_buf());
    files.sort();
    let look = |path: &PathBuf| {
        let found = fs::symlink_metadata(path).unwrap();
        let bytes = if found.is_file() { fs::read(path).unwrap() } else { Vec::new() };
        let numbers =
            [found.ino() as i64, found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()];
        (path.display().to_string(), bytes, numbers)
    };
    files.iter().map(look).collect()
}

/// A mount with `ro` changes nothing below, neither of a store that was closed nor of one that was killed with work in its log.
fn read_only_mount(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(engine, "memtable=4M,log_segment=1M,checkpoint_log=4M,table=1M");
    for n in 0..40u8 {
        fs::write(mount.mnt().join(format!("file-{n}")), vec![n; 200_000]).unwrap();
    }
    mount.stop();
    // Once closed, then twice with a log to recover.
    for round in 0..3 {
        if round == 1 {
            mount.start();
            for n in 0..20u8 {
                fs::write(mount.mnt().join(format!("late-{n}")), vec![n; 150_000]).unwrap();
            }
            fs::remove_file(mount.mnt().join("file-39")).unwrap();
            mount.kill();
            mount.sh(r#""$KVFS" umount "$MNT""#);
        }
        let before = contents(&mount.store());
        let output = mount.try_start("ro");
        assert!(output.status.success(), "{output:?}");
        let count = fs::read_dir(mount.mnt()).unwrap().count();
        assert_eq!(count, if round == 0 { 40 } else { 59 });
        for n in 0..39u8 {
            let bytes = fs::read(mount.mnt().join(format!("file-{n}"))).unwrap();
            assert!(bytes == vec![n; 200_000], "file-{n}");
        }
        for n in 0..if round == 0 { 0 } else { 20u8 } {
            let bytes = fs::read(mount.mnt().join(format!("late-{n}"))).unwrap();
            assert!(bytes == vec![n; 150_000], "late-{n}");
        }
        let refused = fs::write(mount.mnt().join("new"), "").expect_err("a read-only mount");
        assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        // Also where the kernel has been told to let writers through; nobody waits for work that is not done.
        if root() {
            mount.sh(r#""$KVFS" mount "$STORE" "$MNT" -o remount,rw"#);
            let mut stats = fs::File::options().write(true).open(mount.mnt().join(".stats")).unwrap();
            for command in ["flush wait", "compact wait", "checkpoint wait", "flush"] {
                let refused = stats.write(command.as_bytes()).expect_err(command);
                assert_eq!(refused.raw_os_error(), Some(libc::EROFS), "{command}");
            }
            assert_eq!(stats.write(b"drop-caches").unwrap(), 11);
            let refused = fs::write(mount.mnt().join("new"), "").expect_err("a store that is read only");
            assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
        }
        assert_eq!(mount.json()["disk"]["write_bytes"], 0);
        // Another may read as well, and who wants to write learns why it may not.
        let other = mount.host().join("other");
        fs::create_dir_all(&other).unwrap();
        let (store, options) = (mount.store(), format!("{},ro", mount.options()));
        let words = ["mount".as_ref(), store.as_os_str(), other.as_os_str(), "-o".as_ref(), options.as_ref()];
        let output = mount.kvfs(&words);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(fs::read(other.join("file-7")).unwrap(), vec![7; 200_000]);
        let options = mount.options();
        let output = mount.kvfs(&[
            "mount".as_ref(),
            store.as_os_str(),
            mount.host().as_os_str(),
            "-o".as_ref(),
            options.as_ref(),
        ]);
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains("read-only mount"), "{text}");
        let output = mount.kvfs(&["umount".as_ref(), other.as_os_str()]);
        assert!(output.status.success(), "{output:?}");
        mount.stop();
        assert!(contents(&store) == before, "round {round}: something has changed below");
    }
    // What does not fit into half of the cache is recovered in place.
    let output = mount.try_start("ro,cache=64K,memtable=256K,dirty_max=1M");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(fs::read(mount.mnt().join("late-3")).unwrap(), vec![3; 150_000]);
    mount.stop();
    mount.start();
    assert_eq!(fs::read(mount.mnt().join("late-19")).unwrap(), vec![19; 150_000]);
    mount.stop_clean();
    // And where there is no store, none is made.
    let nothing = mount.host().join("nothing");
    let mount_point = mount.mnt();
    let words =
        ["mount".as_ref(), nothing.as_os_str(), mount_point.as_os_str(), "-o".as_ref(), "ro".as_ref()];
    let output = mount.kvfs(&words);
    assert!(!output.status.success() && !nothing.exists(), "{output:?}");
}

/// The store's directory may get another name while it is mounted.
fn moved_directory(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(engine, "memtable=1M,log_segment=1M,table=1M,checkpoint_log=1M");
    let elsewhere = mount.host().join("elsewhere");
    fs::rename(mount.store(), &elsewhere).unwrap();
    for n in 0..8 {
        fs::write(mount.mnt().join(format!("file-{n}")), vec![n; 2 << 20]).unwrap();
    }
    mount.ctl(&["flush", "wait"]);
    mount.ctl(&["compact", "wait"]);
    assert_eq!(mount.json()["state"], "OK");
    mount.stop();
    assert!(!mount.store().exists(), "nothing is made at the old name");
    fs::rename(&elsewhere, mount.store()).unwrap();
    mount.start();
    for n in 0..8 {
        assert_eq!(fs::read(mount.mnt().join(format!("file-{n}"))).unwrap(), vec![n; 2 << 20]);
    }
    mount.stop_clean();
}

/// Connections that say nothing keep neither a scraper nor the unmount waiting.
fn idle_connections(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mount = Mount::new(engine, &format!("metrics={address}"));
    let idle: Vec<_> = (0..120).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    let local: Vec<_> = (0..40)
        .map(|_| std::os::unix::net::UnixStream::connect(mount.store().join("stats.sock")).unwrap())
        .collect();
    // The scraper behind them, ten times. Each waited for two seconds would be four minutes.
    let begun = Instant::now();
    for _ in 0..10 {
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        let mut stream = std::os::unix::net::UnixStream::connect(mount.store().join("stats.sock")).unwrap();
        stream.write_all(b"prom\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("kvfs_"), "{answer}");
    }
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    let more: Vec<_> = (0..120).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    let begun = Instant::now();
    mount.stop();
    assert!(begun.elapsed() < Duration::from_secs(30), "the unmount waited {:?}", begun.elapsed());
    drop((idle, local, more));
    assert!(until(Duration::from_secs(1), || !mount.mounted()));
    assert_eq!(mount.check(), 0);
}

every_engine!(traps, owners, nocreate, idle_connections);
// An engine in a directory of its own recovers there, by its path.
both_engines!(read_only_disk, read_only_mount, moved_directory);
