//! Recordings of a live mount.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use kvfs::recording::{Asked, Content, Recording};

use crate::host::{Engine, Mount, able, both_engines, until};

both_engines!(
    an_image_and_what_follows_it_are_the_store_in_the_end,
    a_recording_without_names_has_none,
    a_recording_survives_the_end_of_its_daemon,
);

type Entries = BTreeMap<Vec<u8>, Vec<u8>>;

fn bytes(content: &Content) -> Vec<u8> {
    match content {
        Content::Bytes(bytes) => bytes.to_vec(),
        Content::Length(_) => panic!("contents were asked for"),
    }
}

/// The store that a recording with names and contents ends with.
fn replayed(recording: &Recording) -> Entries {
    let image = recording.image().unwrap().map(|entry| entry.unwrap());
    let mut entries: Entries = image.map(|entry| (entry.key.to_vec(), bytes(&entry.value))).collect();
    for event in recording.events().unwrap() {
        match event.unwrap().asked {
            Asked::Batch { changes, .. } => {
                for change in changes {
                    match change.value {
                        Some(value) => entries.insert(change.key.to_vec(), bytes(&value)),
                        None => entries.remove(&change.key[..]),
                    };
                }
            }
            Asked::Gap { events } => panic!("{events} events are missing"),
            _ => {}
        }
    }
    entries
}

/// Makes, fills, syncs, renames and deletes files until it is told to stop.
fn work(directory: &Path, seed: usize, running: &AtomicBool, done: &AtomicU64) {
    fs::create_dir_all(directory).unwrap();
    for turn in 0.. {
        let (name, other) =
            (directory.join(format!("a-name-{turn}")), directory.join(format!("other-name-{}", turn % 50)));
        let mut file = File::create(&name).unwrap();
        file.write_all(&vec![(turn + seed) as u8; 1 + 7001 * (turn % 9)]).unwrap();
        if turn % 10 == 0 {
            file.sync_all().unwrap();
        }
        fs::rename(&name, &other).unwrap();
        if turn % 7 == 0 {
            fs::remove_file(&other).unwrap();
            fs::read_dir(directory).unwrap().for_each(drop);
        }
        done.fetch_add(1, Relaxed);
        if !running.load(Relaxed) {
            return;
        }
    }
}

/// Works with three threads while `watch` runs.
fn beside_work(mount: &Mount, watch: impl FnOnce(&AtomicU64)) {
    let (running, done) = (AtomicBool::new(true), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for seed in 0..3 {
            let directory = mount.mnt().join(format!("directory-{seed}"));
            let (running, done) = (&running, &done);
            scope.spawn(move || work(&directory, seed, running, done));
        }
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| watch(&done)));
        running.store(false, Relaxed);
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Waits until so many more turns of work are done.
fn more(done: &AtomicU64, turns: u64) {
    let wanted = done.load(Relaxed) + turns;
    assert!(until(Duration::from_secs(60), || done.load(Relaxed) >= wanted), "the work stands still");
}

fn kvfs(mount: &Mount, arguments: &[&str]) -> String {
    let output = mount.kvfs(arguments);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "kvfs {arguments:?}: {err}");
    out.into_owned()
}

fn an_image_and_what_follows_it_are_the_store_in_the_end(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(engine, "memory=32M");
    let mnt = mount.mnt();
    let mnt = mnt.to_str().unwrap();
    let file = |name: &str| mount.host().join(name).to_str().unwrap().to_string();
    let (work, after) = (file("work.rec"), file("after.rec"));
    beside_work(&mount, |done| {
        more(done, 100);
        let said = kvfs(&mount, &["record", mnt, "on", &work, "--keep", "all"]);
        let entries = said.split(": ").nth(1).and_then(|rest| rest.split(' ').next()?.parse::<u64>().ok());
        assert!(said.contains("entries of the store") && entries > Some(100), "{said}");
        more(done, 200);
    });
    let said = kvfs(&mount, &["record", mnt, "off"]);
    assert!(said.contains(" events behind "), "{said}");
    kvfs(&mount, &["image", mnt, &after, "--keep", "all"]);
    let recording = Recording::open(Path::new(&work)).unwrap();
    let (found, wanted) = (replayed(&recording), replayed(&Recording::open(Path::new(&after)).unwrap()));
    assert!(wanted.len() > 300, "{} entries", wanted.len());
    assert!(recording.image_end().unwrap().entries > 100 && recording.events().unwrap().count() > 1000);
    for (key, value) in &wanted {
        assert_eq!(found.get(key).map(Vec::len), Some(value.len()), "key {key:x?}");
        assert!(found.get(key) == Some(value), "the value of key {key:x?}");
    }
    assert_eq!(found.len(), wanted.len(), "what is left over was deleted");
    // Who did it is known.
    let text = kvfs(&mount, &["recording", &work]);
    for word in ["write ", "create ", "rename ", "unlink ", "fsync ", "names and contents", "it was told to"]
    {
        assert!(text.contains(word), "{word} in {text}");
    }
    let json: serde_json::Value =
        serde_json::from_str(&kvfs(&mount, &["recording", &work, "--json"])).unwrap();
    assert!(json["write_amplification"].as_f64().unwrap() > 1.0, "{json:#}");
    assert_eq!(json["events"]["missing"], 0);
    mount.stop_clean();
}

fn a_recording_without_names_has_none(engine: Engine) {
    if !able(&[]) {
        return;
    }
    // Begun with the mount.
    let mount = Mount::place(engine, "memory=32M");
    let path = mount.host().join("whole.rec");
    let answer = mount.try_start(&format!("record={}", path.display()));
    assert!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    mount.note_pid();
    fs::create_dir(mount.mnt().join("secret-directory")).unwrap();
    let secret = mount.mnt().join("secret-directory/secret-file");
    fs::write(&secret, "secret content").unwrap();
    std::os::unix::fs::symlink("secret-target", mount.mnt().join("secret-link")).unwrap();
    File::open(&secret).unwrap().sync_all().unwrap();
    let inside = mount.kvfs(&["record", mount.mnt().to_str().unwrap(), "on", secret.to_str().unwrap()]);
    let said = String::from_utf8_lossy(&inside.stderr);
    assert!(!inside.status.success() && said.contains("is being recorded"), "{said}");
    mount.stop();
    let recording = Recording::open(&path).unwrap();
    assert_eq!(recording.end().unwrap().why, "the mount ended");
    assert!(!recording.head().keeps_names && !recording.head().keeps_values);
    let keys: Vec<_> = recording
        .events()
        .unwrap()
        .filter_map(|event| match event.unwrap().asked {
            Asked::Batch { changes, .. } => Some(changes),
            _ => None,
        })
        .flatten()
        .collect();
    assert!(keys.iter().any(|change| change.key.len() == 17 + "secret-directory".len()), "{keys:?}");
    for change in &keys {
        assert!(!change.key.windows(6).any(|part| part == b"secret"), "{change:?}");
        assert!(matches!(change.value, None | Some(Content::Length(_))));
    }
    let whole = fs::read(&path).unwrap();
    assert!(!whole.windows(6).any(|part| part == b"secret"));
    // Of a store that is not mounted there are images, too.
    let (store, image) = (mount.store(), mount.host().join("image.rec"));
    kvfs(&mount, &["image", store.to_str().unwrap(), image.to_str().unwrap()]);
    let image = Recording::open(&image).unwrap();
    assert!(image.image_end().unwrap().entries > 5 && image.events().unwrap().count() == 0);
    assert_eq!(mount.check(), 0);
}

fn a_recording_survives_the_end_of_its_daemon(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let mount = Mount::new(engine, "memory=32M");
    let path = mount.host().join("cut.rec");
    let in_mount = mount.kvfs(&[
        "record",
        mount.mnt().to_str().unwrap(),
        "on",
        mount.mnt().join("a.rec").to_str().unwrap(),
    ]);
    let said = String::from_utf8_lossy(&in_mount.stderr);
    assert!(!in_mount.status.success() && said.contains("lies in the mount that is recorded"), "{said}");
    kvfs(&mount, &["record", mount.mnt().to_str().unwrap(), "on", path.to_str().unwrap(), "--keep", "names"]);
    for number in 0..300 {
        fs::write(mount.mnt().join(format!("{number}")), vec![7; 5000]).unwrap();
    }
    // What is half a second old has been written.
    std::thread::sleep(Duration::from_millis(1500));
    mount.kill();
    let recording = Recording::open(&path).unwrap();
    assert!(recording.end().is_none() && recording.meters().is_some());
    let names = recording.events().unwrap().filter_map(|event| match event.unwrap().asked {
        Asked::Batch { changes, .. } => changes.into_iter().find(|change| change.key.ends_with(b"299")),
        _ => None,
    });
    assert!(names.count() > 0, "the last file was made before the last flush");
    let text = kvfs(&mount, &["recording", path.to_str().unwrap()]);
    assert!(text.contains("its recorder was cut off"), "{text}");
}
