//! Stores at URLs, mounted: one mount that writes, others that read or take over, and what each may count on.
//!
//! Machines are told apart by where they keep their state, so one machine is enough to be several. `KVFS_TEST_URL` is where stores are made, a
//! directory without it; `KVFS_TEST_ROUNDS` multiplies the rounds.
#![cfg(feature = "slatedb")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Whether mounts can be made here.
fn able() -> bool {
    let can = Path::new("/dev/fuse").exists();
    if !can {
        println!("not run: there is no /dev/fuse");
    }
    can
}

fn rounds(usual: usize) -> usize {
    usual * std::env::var("KVFS_TEST_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// A store at a URL of its own.
struct Place {
    home: tempfile::TempDir,
    url: String,
}

impl Place {
    fn new() -> Place {
        let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let url = match std::env::var("KVFS_TEST_URL") {
            Ok(base) => {
                let name =
                    home.path().file_name().unwrap().to_str().unwrap().trim_start_matches('.').to_string();
                format!("{base}/{name}")
            }
            Err(_) => kvfs::engine::remote::url_of(&home.path().join("objects")),
        };
        Place { home, url }
    }

    /// A machine that has not seen the store yet.
    fn machine(&self, name: &str) -> Machine {
        let (state, mnt) = (self.home.path().join(format!("{name}.state")), self.home.path().join(name));
        fs::create_dir(&mnt).unwrap();
        Machine { state, mnt, url: self.url.clone() }
    }
}

/// A machine, with one mount of the store at most.
struct Machine {
    state: PathBuf,
    mnt: PathBuf,
    url: String,
}

impl Machine {
    fn kvfs(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kvfs-engines"));
        command.args(arguments).env("KVFS_STATE", &self.state).output().unwrap()
    }

    fn try_mount(&self, options: &str) -> Output {
        self.kvfs(&["mount", &self.url, self.mnt.to_str().unwrap(), "-o", options])
    }

    fn mount(&self, options: &str) {
        let output = self.try_mount(options);
        assert!(output.status.success(), "{output:?}");
    }

    fn umount(&self) -> Output {
        self.kvfs(&["umount", self.mnt.to_str().unwrap()])
    }

    fn umount_clean(&self) {
        let output = self.umount();
        assert!(output.status.success(), "{output:?}");
    }

    fn report(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.mnt.join(".stats.d/json")).unwrap()).unwrap()
    }

    fn kill(&self) {
        let pid = self.report()["process"]["pid"].as_u64().unwrap();
        assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
        let gone = || !Path::new(&format!("/proc/{pid}")).exists() || is_zombie(pid);
        assert!(until(gone), "process {pid} lives on");
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.kvfs(&["umount", "-l", self.mnt.to_str().unwrap()]);
    }
}

fn is_zombie(pid: u64) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|text| text.contains(") Z "))
}

fn until(condition: impl Fn() -> bool) -> bool {
    let begun = Instant::now();
    while !condition() {
        if begun.elapsed() > PATIENCE {
            return false;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    true
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).to_string()
}

/// Writes a file and makes it durable.
fn put(path: &Path, content: &[u8]) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content)?;
    file.sync_all()
}

#[test]
fn of_eight_who_make_a_store_one_does() {
    if !able() {
        return;
    }
    let place = Place::new();
    let machines: Vec<_> = (0..8).map(|number| place.machine(&format!("m{number}"))).collect();
    let made: Vec<Output> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            machines.iter().map(|machine| scope.spawn(|| machine.kvfs(&["mkfs", &machine.url]))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(made.iter().filter(|output| output.status.success()).count(), 1, "{made:?}");
    for refused in made.iter().filter(|output| !output.status.success()) {
        let said = text(refused);
        assert!(said.contains("already holds a store") || said.contains("somebody else is making"), "{said}");
    }
    machines[3].mount("nocreate");
    machines[3].umount_clean();
}

#[test]
fn what_was_written_is_there_on_another_machine_and_checked_while_it_is_mounted() {
    if !able() {
        return;
    }
    let place = Place::new();
    let (a, b) = (place.machine("a"), place.machine("b"));
    let missing = a.try_mount("nocreate");
    assert!(!missing.status.success() && text(&missing).contains("holds no store"), "{missing:?}");
    let missing = a.try_mount("ro");
    assert!(!missing.status.success() && text(&missing).contains("holds no store"), "{missing:?}");
    a.mount("");
    put(&a.mnt.join("file"), b"content").unwrap();
    let checked = b.kvfs(&["check", &b.url]);
    let said = String::from_utf8_lossy(&checked.stdout).to_string();
    assert!(checked.status.success() && said.contains("clean: 2 inodes"), "{checked:?}");
    // Nothing of a look is left behind.
    assert_eq!(fs::read_dir(&b.state).unwrap().count(), 0);
    a.umount_clean();
    b.mount("");
    assert_eq!(fs::read(b.mnt.join("file")).unwrap(), b"content");
    let report = b.report();
    assert!(
        report["requests"]["gets"].as_u64() > Some(0) && report["disk"]["write_bytes"].as_u64() > Some(0),
        "{report:#}"
    );
    b.umount_clean();
    let repaired = b.kvfs(&["check", "--repair", &b.url]);
    assert!(!repaired.status.success() && text(&repaired).contains("not mended here"), "{repaired:?}");
}

#[test]
fn who_writes_is_said_to_who_would_and_its_end_leaves_the_store_free() {
    if !able() {
        return;
    }
    let place = Place::new();
    let (a, b) = (place.machine("a"), place.machine("b"));
    a.mount("");
    let refused = b.try_mount("");
    let said = text(&refused);
    let pid = a.report()["process"]["pid"].as_u64().unwrap();
    for words in [
        format!("process {pid} on "),
        format!("mounted at {}", a.mnt.display()),
        "takeover".into(),
        "-o ro".into(),
    ] {
        assert!(said.contains(&words), "{words}: {said}");
    }
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    // One who was killed does not come back, and is not waited for.
    put(&a.mnt.join("synced"), &[7; 100_000]).unwrap();
    a.kill();
    b.mount("");
    assert_eq!(fs::read(b.mnt.join("synced")).unwrap(), [7; 100_000]);
    b.umount_clean();
    // The mount that is dead is taken away by the next one there.
    a.mount("");
    assert_eq!(fs::read(a.mnt.join("synced")).unwrap().len(), 100_000);
    a.umount_clean();
}

/// A writer that is killed at any moment has lost nothing that an fsync answered for.
#[test]
fn what_was_synced_survives_a_kill() {
    if !able() {
        return;
    }
    let place = Place::new();
    let machine = place.machine("a");
    let mut synced: BTreeSet<String> = BTreeSet::new();
    for round in 0..rounds(3) {
        machine.mount("memtable=256K");
        for name in &synced {
            assert_eq!(fs::read(machine.mnt.join(name)).unwrap(), name.repeat(999).as_bytes(), "{name}");
        }
        let (end, answered) = (AtomicBool::new(false), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let (end, answered, mnt) = (&end, &answered, &machine.mnt);
                scope.spawn(move || {
                    for number in 0.. {
                        let name = format!("{round}.{writer}.{number}");
                        if end.load(Relaxed) || put(&mnt.join(&name), name.repeat(999).as_bytes()).is_err() {
                            return;
                        }
                        answered.lock().unwrap().push(name);
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(150 + 170 * (round as u64 % 5)));
            machine.kill();
            end.store(true, Relaxed);
        });
        synced.extend(answered.into_inner().unwrap());
        // A dead mount is made way for.
        assert!(!synced.is_empty());
    }
    machine.mount("");
    for name in &synced {
        assert_eq!(fs::read(machine.mnt.join(name)).unwrap(), name.repeat(999).as_bytes(), "{name}");
    }
    machine.umount_clean();
    let checked = machine.kvfs(&["check", &machine.url]);
    assert!(checked.status.success(), "{checked:?}");
}

/// Two machines take the store from each other while four writers go on: what was answered is with whoever has it, and who had it answers nothing
/// more.
#[test]
fn what_was_synced_survives_a_takeover_and_nothing_is_answered_afterwards() {
    if !able() {
        return;
    }
    let place = Place::new();
    let machines = [place.machine("a"), place.machine("b")];
    machines[0].mount("");
    let mut synced: BTreeSet<String> = BTreeSet::new();
    for round in 0..rounds(5) {
        let (old, new) = (&machines[round % 2], &machines[(round + 1) % 2]);
        let answered = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let (answered, mnt) = (&answered, &old.mnt);
                scope.spawn(move || {
                    for number in 0.. {
                        let name = format!("{round}.{writer}.{number}");
                        match put(&mnt.join(&name), name.as_bytes()) {
                            Ok(()) => answered.lock().unwrap().push(name),
                            Err(error) => {
                                // The first who hears of it loses what it had: EIO. Whoever comes later may not write: EROFS.
                                assert!([Some(5), Some(30)].contains(&error.raw_os_error()), "{error}");
                                return;
                            }
                        }
                    }
                });
            }
            std::thread::sleep(Duration::from_millis(300));
            new.mount("takeover");
        });
        // All writers have ended, since none is answered any more.
        synced.extend(answered.into_inner().unwrap());
        let there: BTreeSet<String> = fs::read_dir(&new.mnt)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let lost: Vec<_> = synced.difference(&there).collect();
        assert!(lost.is_empty(), "round {round}: {lost:?}");
        for name in &synced {
            assert_eq!(fs::read(new.mnt.join(name)).unwrap(), name.as_bytes());
        }
        let error = put(&old.mnt.join("late"), b"late").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(30), "{error}");
        let ended = old.umount();
        let said = text(&ended);
        assert!(
            ended.status.code() == Some(32)
                && said.contains("what was not is lost")
                && said.contains("taken the store over"),
            "{ended:?}"
        );
    }
    let last = &machines[rounds(5) % 2];
    assert!(!last.mnt.join("late").exists() && synced.len() > 20, "{}", synced.len());
    last.umount_clean();
}

/// Eight mounts that read beside one that writes: each file is seen whole, no state is older than one before it, and none is late.
#[test]
fn readers_see_whole_states_in_their_order_and_soon() {
    if !able() {
        return;
    }
    const READERS: usize = 8;
    const REFRESH: Duration = Duration::from_millis(300);
    let place = Place::new();
    let writer = place.machine("writer");
    writer.mount("");
    let generation = |number: u64| [number.to_le_bytes(); 20_000].concat();
    let publish = |number: u64| {
        let content = generation(number);
        // Two files of one state, the second one named by the first: where the first is, the second is at least as new.
        put(&writer.mnt.join("b.new"), &content).unwrap();
        fs::rename(writer.mnt.join("b.new"), writer.mnt.join("b")).unwrap();
        // In place, byte by byte: who sees a part of it sees more than one state.
        let mut file =
            File::options().write(true).create(true).truncate(false).open(writer.mnt.join("a")).unwrap();
        file.write_all(&content).unwrap();
        file.sync_all().unwrap();
    };
    publish(1);
    let readers: Vec<_> = (0..READERS).map(|number| place.machine(&format!("reader{number}"))).collect();
    for reader in &readers {
        reader.mount(&format!("ro,refresh={}ms", REFRESH.as_millis()));
    }
    let (end, published) = (AtomicBool::new(false), Arc::new(AtomicU64::new(1)));
    let looked: u64 = std::thread::scope(|scope| {
        let threads: Vec<_> = readers
            .iter()
            .map(|reader| {
                let (end, published) = (&end, published.clone());
                scope.spawn(move || {
                    let (mut last, mut looks) = ([0; 2], 0);
                    while !end.load(Relaxed) {
                        // What was there this long ago must be seen.
                        let before = published.load(Relaxed);
                        for (index, name) in ["a", "b"].into_iter().enumerate() {
                            let mut content = Vec::new();
                            File::open(reader.mnt.join(name)).unwrap().read_to_end(&mut content).unwrap();
                            let number = u64::from_le_bytes(content[..8].try_into().unwrap());
                            let is_one = content.len() == 160_000
                                && content.chunks(8).all(|chunk| chunk == number.to_le_bytes());
                            // The writer changes it in place between two syncs, and each state is whole in blocks at least.
                            if name == "b" {
                                assert!(is_one, "{name} is of several states");
                            }
                            assert!(number >= last[index], "{name} went from {} to {number}", last[index]);
                            last[index] = number;
                        }
                        looks += 1;
                        let begun = Instant::now();
                        while begun.elapsed() < Duration::from_secs(20) && last[1] < before {
                            let mut number = [0; 8];
                            File::open(reader.mnt.join("b")).unwrap().read_exact(&mut number).unwrap();
                            last[1] = u64::from_le_bytes(number);
                        }
                        assert!(last[1] >= before, "b shows {} and {before} was there 20 s ago", last[1]);
                    }
                    looks
                })
            })
            .collect();
        let begun = Instant::now();
        for number in 2.. {
            publish(number);
            published.store(number, Relaxed);
            if begun.elapsed() > Duration::from_secs(6 * rounds(1) as u64) {
                break;
            }
            std::thread::sleep(Duration::from_millis(40));
        }
        end.store(true, Relaxed);
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(looked > 8, "{looked}");
    // What is known of the lag is said.
    let report = readers[0].report();
    let own = &report["engine_statistics"];
    assert!(own["states"]["value"].as_u64() > Some(1), "{own:#}");
    assert!(own["lag_ms"]["value"].as_u64().is_some_and(|lag| lag < 10_000), "{own:#}");
    let refused = File::create(readers[0].mnt.join("x")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(30));
    // An open file is seen as it was when it was opened, however much of it is read later.
    let mut held = File::open(readers[0].mnt.join("b")).unwrap();
    let mut content = [0; 8];
    held.read_exact(&mut content).unwrap();
    publish(1 << 40);
    let newest = || {
        let mut number = [0; 8];
        File::open(readers[1].mnt.join("b")).unwrap().read_exact(&mut number).unwrap();
        u64::from_le_bytes(number)
    };
    assert!(until(|| newest() == 1 << 40));
    std::thread::sleep(REFRESH * 3);
    let mut rest = Vec::new();
    held.read_to_end(&mut rest).unwrap();
    assert!(
        rest.len() == 160_000 - 8 && rest.chunks(8).all(|chunk| chunk == content),
        "an open file changed"
    );
    drop(held);
    for reader in &readers {
        reader.umount_clean();
        assert_eq!(fs::read_dir(&reader.state).unwrap().count(), 0, "the seat of a reader goes with it");
    }
    writer.umount_clean();
}
