//! How a mount ends when something is in the way: files that are open, a daemon that is stopped, names that hide what is mounted, a
//! connection that was aborted.

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsRawFd;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::{Engine, Mount, able, alive, binary, both_engines, every_engine, root, until};

const BYTES: usize = 1 << 20;

/// `kvfs WORDS…`, which must end within a minute.
fn bounded(words: &[&str]) -> Output {
    let output = Command::new("timeout").args(["-k", "5", "60"]).arg(binary()).args(words).output().unwrap();
    assert!(![Some(124), Some(137)].contains(&output.status.code()), "{words:?} hangs: {output:?}");
    output
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A shared mapping of a whole file.
struct Mapping(*mut u8);

impl Mapping {
    fn of(file: &File) -> Mapping {
        // SAFETY: a new mapping of a file that is open; nothing else refers to the place.
        let at = unsafe {
            let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
            libc::mmap(std::ptr::null_mut(), BYTES, protection, flags, file.as_raw_fd(), 0)
        };
        assert_ne!(at, libc::MAP_FAILED);
        Mapping(at.cast())
    }

    fn fill(&self, byte: u8) {
        // SAFETY: the mapping has this many bytes, and the file is as long.
        unsafe { std::ptr::write_bytes(self.0, byte, BYTES) };
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length and nobody uses it any more.
        unsafe { libc::munmap(self.0.cast(), BYTES) };
    }
}

/// SIGTERM while files are open: what was written before it is there at the next mount, also what the kernel had not sent yet, and
/// also what is written in the grace period.
fn open_files_keep_their_data(engine: Engine) {
    if !able(&[]) {
        return;
    }
    for options in ["writeback_cache=on", "writeback_cache=off"] {
        let mount = Mount::new(engine, options);
        let path = |name: &str| mount.mnt().join(name);
        let open =
            |name: &str| File::options().read(true).write(true).create_new(true).open(path(name)).unwrap();
        let mut written = open("written");
        written.write_all(&vec![7; BYTES]).unwrap();
        let mapped = open("mapped");
        mapped.set_len(BYTES as u64).unwrap();
        let mapping = Mapping::of(&mapped);
        mapping.fill(8);
        // A second mapping, dirtied again while the mount is detached already.
        let late = open("late");
        late.set_len(BYTES as u64).unwrap();
        let late_mapping = Mapping::of(&late);
        kill(Pid::from_raw(mount.pid()), Signal::SIGTERM).unwrap();
        assert!(until(Duration::from_secs(60), || !mount.mounted()), "it is detached");
        late_mapping.fill(9);
        mount.wait_gone(Duration::from_secs(120));
        let log = fs::read_to_string(mount.store().join("kvfs.log")).unwrap();
        assert!(log.contains("everything written so far is synced"), "{log}");
        drop((mapping, late_mapping, written, mapped, late));
        mount.start();
        for (name, byte) in [("written", 7), ("mapped", 8), ("late", 9)] {
            let found = fs::read(path(name)).unwrap();
            assert_eq!(found.len(), BYTES, "{options}: {name}");
            assert!(found.iter().all(|&other| other == byte), "{options}: {name} begins with {}", found[0]);
        }
        mount.stop_clean();
    }
}

/// Somebody detached it lazily before, so it has no path any more.
fn detached_files_keep_their_data(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(engine, "writeback_cache=on");
    let mut file = File::create(mount.mnt().join("written")).unwrap();
    file.write_all(&vec![7; BYTES]).unwrap();
    let mnt = mount.mnt();
    assert!(bounded(&["umount", "-l", mnt.to_str().unwrap()]).status.success());
    let pid = Pid::from_raw(mount.pid());
    kill(pid, Signal::SIGTERM).unwrap();
    // Now open files are served for a while. What is written in that time only the kernel has, which has no reason to hurry: its own
    // turn is seconds away, and the second signal ends the while.
    std::thread::sleep(Duration::from_secs(1));
    file.write_all(&[8; 8192]).unwrap();
    kill(pid, Signal::SIGTERM).unwrap();
    let signalled = Instant::now();
    mount.wait_gone(Duration::from_secs(120));
    println!("{engine:?}: gone {:?} after the second signal", signalled.elapsed());
    drop(file);
    mount.start();
    assert!(fs::read(mount.mnt().join("written")).unwrap() == [vec![7; BYTES], vec![8; 8192]].concat());
    mount.stop_clean();
}

/// A stopped daemon answers nobody: `umount -l` takes the mount away all the same, and nothing else hangs on it.
fn stopped_daemon(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(engine, "");
    fs::write(mount.mnt().join("file"), "content").unwrap();
    let pid = Pid::from_raw(mount.pid());
    kill(pid, Signal::SIGSTOP).unwrap();
    let (store, mnt) = (mount.store(), mount.mnt());
    let (store, mnt) = (store.to_str().unwrap(), mnt.to_str().unwrap());
    let other = mount.host().join("other");
    let second = bounded(&["mount", other.to_str().unwrap(), mnt]);
    let plain = bounded(&["umount", mnt]);
    let remount = bounded(&["mount", store, mnt, "-o", "remount,ro"]);
    let lazy = bounded(&["umount", "-l", mnt]);
    kill(pid, Signal::SIGCONT).unwrap();
    for output in [&second, &plain, &remount] {
        assert_eq!(output.status.code(), Some(32), "{output:?}");
        assert!(text(output).contains("does not answer") && text(output).contains("umount -l"), "{output:?}");
    }
    assert!(!other.exists(), "nothing is made for a mount that cannot be");
    assert!(lazy.status.success(), "{lazy:?}");
    assert!(!mount.mounted());
    mount.wait_gone(Duration::from_secs(60));
    mount.start();
    assert_eq!(fs::read_to_string(mount.mnt().join("file")).unwrap(), "content");
    mount.stop_clean();
}

/// Names in the mount table are the user's to choose: `umount` knows a kvfs by what it says of itself, and returns when the store is
/// closed.
fn hidden_names(engine: Engine) {
    if !able(&[]) {
        return;
    }
    for options in ["subtype=x", "fsname=x", "fsname=/tmp,subtype=y"] {
        let mount = Mount::new(engine, options);
        fs::write(mount.mnt().join("file"), vec![1; 20 << 20]).unwrap();
        let output = bounded(&["umount", mount.mnt().to_str().unwrap()]);
        assert!(output.status.success(), "{options}: {output:?}");
        assert!(!mount.mounted());
        let lock = File::options().read(true).write(true).open(mount.store().join("LOCK")).unwrap();
        let is_free = Flock::lock(lock, FlockArg::LockExclusiveNonblock).is_ok();
        assert!(is_free, "{options}: umount returned before the store was closed");
        mount.wait_gone(Duration::from_secs(30));
        assert_eq!(mount.check(), 0);
    }
}

/// Who aborts the connection leaves a dead mount; the daemon takes it away.
fn aborted_connection(engine: Engine) {
    if !able(&["mount", "umount"]) || !root() {
        return;
    }
    let mount = Mount::new(engine, "");
    fs::write(mount.mnt().join("file"), "content").unwrap();
    mount.sh(r#"
        mkdir "$HOST/ctl"; mount -t fusectl none "$HOST/ctl"
        number=$(awk -v at="$MNT" '$5 == at { sub(/.*:/, "", $3); print $3 }' /proc/self/mountinfo)
        echo 1 > "$HOST/ctl/$number/abort"
        umount "$HOST/ctl"
    "#);
    mount.wait_gone(Duration::from_secs(60));
    assert!(!mount.mounted(), "the dead mount is left behind");
    mount.start();
    assert_eq!(fs::read_to_string(mount.mnt().join("file")).unwrap(), "content");
    mount.stop_clean();
}

/// A mount point that cannot be, or that another namespace has: the message says so.
fn places(engine: Engine) {
    if !able(&["unshare", "nsenter"]) || !root() {
        return;
    }
    let mount = Mount::place(engine, "");
    let store = mount.store();
    let store = store.to_str().unwrap();
    let file = mount.host().join("file");
    fs::write(&file, "").unwrap();
    let output = bounded(&["mount", store, file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("is a file; it takes a directory"), "{output:?}");
    assert!(!mount.store().exists());

    mount.sh(r#"unshare -m --propagation private "$KVFS" mount "$STORE" "$MNT""#);
    let holder = fs::read_to_string(mount.store().join("LOCK")).unwrap();
    let pid = holder.split(&[' ', ','][..]).find_map(|word| word.parse::<i32>().ok()).unwrap();
    let mnt = mount.mnt();
    let outside = bounded(&["umount", mnt.to_str().unwrap()]);
    let second = bounded(&["mount", store, mnt.to_str().unwrap()]);
    let inside = mount.sh(&format!(r#"nsenter -m -t {pid} "$KVFS" umount "$MNT"; echo done"#));
    assert!(text(&outside).contains(&format!("nsenter -m -t {pid}")), "{outside:?}");
    assert!(text(&second).contains("another mount namespace"), "{second:?}");
    assert_eq!((outside.status.code(), second.status.code()), (Some(1), Some(32)));
    assert_eq!(inside, "done\n");
    assert_eq!(mount.check(), 0);
}

/// Where the disk below has no room to close a store whole, `umount` says so, and nothing is lost.
fn left_work_is_told(engine: Engine) {
    if !able(&["mount", "umount"]) || !root() {
        return;
    }
    let mount = Mount::place(engine, "reserve=1M,log_segment=1M,memtable=64M,dirty_max=64M,cache=32M");
    fs::create_dir(mount.store()).unwrap();
    mount.sh(r#"mount -t tmpfs -o size=64M,mode=700 none "$STORE""#);
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        mount.start();
        // Many small records, which are only in the log and in memory.
        for n in 0..3000 {
            fs::write(mount.mnt().join(format!("file-{n}")), vec![n as u8; 3000]).unwrap();
        }
        mount.ctl(&["sync"]);
        mount.sh(r#"cat /dev/zero > "$STORE/ballast" 2> /dev/null || true"#);
        let output = bounded(&["umount", mount.mnt().to_str().unwrap()]);
        mount.wait_gone(Duration::from_secs(60));
        fs::remove_file(mount.store().join("ballast")).unwrap();
        let says_so = output.status.code() == Some(32) && text(&output).contains("work to do first");
        mount.start();
        let report = mount.json();
        let dirty_bytes = report["debt"]["dirty_bytes"].as_u64().unwrap();
        println!("{engine:?}: {output:?}, {dirty_bytes} dirty bytes after mounting again");
        // What is told is what is so: a mount itself writes little.
        assert_eq!(says_so, dirty_bytes > 256 << 10, "{output:?}");
        assert!(says_so || output.status.success(), "{output:?}");
        for n in 0..3000 {
            assert_eq!(fs::read(mount.mnt().join(format!("file-{n}"))).unwrap(), vec![n as u8; 3000]);
        }
        let output = bounded(&["umount", mount.mnt().to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}");
        mount.wait_gone(Duration::from_secs(60));
        assert_eq!(mount.check(), 0);
    }));
    mount.sh(r#""$KVFS" umount -l "$MNT" 2> /dev/null || true; umount -l "$STORE""#);
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// The words of mount(8) that mean something here do what they say.
fn words_of_mount(engine: Engine) {
    use std::os::unix::fs::MetadataExt;
    if !able(&["findmnt"]) {
        return;
    }
    let words = "strictatime,nodiratime,iversion,nomand,loud,lazytime,context=system_u:object_r:tmp_t:s0";
    let mount = Mount::new(engine, words);
    let (file, folder) = (mount.mnt().join("folder/file"), mount.mnt().join("folder"));
    fs::create_dir(&folder).unwrap();
    fs::write(&file, "content").unwrap();
    let times = || {
        [&file, &folder]
            .map(|path| fs::metadata(path).map(|found| (found.atime(), found.atime_nsec())).unwrap())
    };
    let before = times();
    // Not from the kernel's cache, which asks nobody.
    mount.restart();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    assert_eq!(fs::read(&file).unwrap(), b"content");
    mount.restart();
    let after = times();
    assert_ne!(after[0], before[0], "strictatime");
    assert_eq!(after[1], before[1], "nodiratime");
    mount.stop();
    if root() {
        std::os::unix::fs::symlink("file", mount.host().join("link")).unwrap();
        let output = mount.try_start("nosymfollow");
        assert!(output.status.success(), "{output:?}");
        std::os::unix::fs::symlink("file", folder.join("link")).unwrap();
        assert_eq!(fs::read(folder.join("link")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
        assert_eq!(fs::read_link(folder.join("link")).unwrap(), std::path::Path::new("file"));
        let (store, mnt) = (mount.store(), mount.mnt());
        let remount = |words: &str| {
            let output = bounded(&["mount", store.to_str().unwrap(), mnt.to_str().unwrap(), "-o", words]);
            assert!(output.status.success(), "{words}: {output:?}");
        };
        remount("remount,ro");
        assert!(fs::read(folder.join("link")).is_err(), "it stays");
        remount("remount,rw,symfollow");
        assert_eq!(fs::read(folder.join("link")).unwrap(), b"content");
        mount.stop();
    }
    assert_eq!(mount.check(), 0);
}

/// A second signal ends the grace period of files that are open, and what the kernel keeps of them is not lost for that.
fn two_signals(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(engine, "writeback_cache=on");
    let mut file = File::create(mount.mnt().join("file")).unwrap();
    let pid = Pid::from_raw(mount.pid());
    file.write_all(&[1; 5000]).unwrap();
    kill(pid, Signal::SIGTERM).unwrap();
    assert!(until(Duration::from_secs(30), || !mount.mounted()));
    file.write_all(&[2; 5000]).unwrap();
    let begun = Instant::now();
    kill(pid, Signal::SIGTERM).unwrap();
    mount.wait_gone(Duration::from_secs(30));
    assert!(begun.elapsed() < Duration::from_secs(8), "the second signal ends the grace period");
    drop(file);
    assert_eq!(mount.check(), 0);
    mount.start();
    assert!(fs::read(mount.mnt().join("file")).unwrap() == [[1; 5000], [2; 5000]].concat());
    mount.stop_clean();
}

/// Without /proc nobody can say what is mounted where: the message says so, and what to do.
fn without_proc(engine: Engine) {
    if !able(&["unshare", "umount"]) || !root() {
        return;
    }
    let mount = Mount::place(engine, "");
    for words in [r#"mount "$STORE" "$MNT""#, r#"umount "$MNT""#, r#"umount -l "$MNT""#] {
        let script = format!(r#"umount -l /proc; "$KVFS" {words} 2>&1; echo "code $?""#);
        let text = mount.sh(&format!("unshare -m --propagation private sh -c '{script}'"));
        assert!(text.contains("mount -t proc proc /proc") && text.ends_with("code 32\n"), "{words}: {text}");
    }
    assert!(!mount.store().exists() && !mount.mounted());
}

/// Who moves a store's directory while it is mounted waits for its end all the same, and a mount that was killed is not called closed.
fn umount_waits_for_the_daemon(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(engine, "");
    fs::write(mount.mnt().join("file"), vec![1; 20 << 20]).unwrap();
    let (elsewhere, mnt, pid) = (mount.host().join("elsewhere"), mount.mnt(), mount.pid());
    fs::rename(mount.store(), &elsewhere).unwrap();
    // Another one is where it was.
    fs::create_dir(mount.store()).unwrap();
    let output = bounded(&["umount", mnt.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    assert!(!alive(pid), "umount returned before the daemon had ended");
    let holder = fs::read_to_string(elsewhere.join("LOCK")).unwrap();
    assert!(holder.trim_end().ends_with("closed"), "{holder}");
    fs::remove_dir(mount.store()).unwrap();
    fs::rename(&elsewhere, mount.store()).unwrap();
    mount.start();
    mount.stop_clean();
}

every_engine!(
    open_files_keep_their_data,
    detached_files_keep_their_data,
    stopped_daemon,
    hidden_names,
    aborted_connection,
    places,
    words_of_mount,
    two_signals,
    without_proc,
    umount_waits_for_the_daemon,
);
// Whose memtables and dirty pages are those of its options.
both_engines!(left_work_is_told);
