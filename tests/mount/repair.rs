//! `kvfs check --repair` of a store that was made through a mount and then damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Output;

use kvfs::base::prng::Prng;
use serde_json::Value;

use crate::host::{Engine, Mount, able, both_engines};

fn kvfs_check(mount: &Mount, flags: &[&str]) -> Output {
    let store = mount.store();
    let mut words = vec!["check".as_ref(), store.as_os_str()];
    words.extend(flags.iter().map(std::ffi::OsStr::new));
    mount.kvfs(&words)
}

/// Every file of the store but the lock and the log of what happened.
fn bytes_of(store: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(store).unwrap().map(|entry| entry.unwrap());
    let files = entries.map(|entry| (entry.file_name().into_string().unwrap(), entry.path()));
    let files = files.filter(|(name, _)| name != "LOCK" && name != "kvfs.log");
    files.map(|(name, path)| (name, fs::read(path).unwrap())).collect()
}

/// Turns a bit in the middle of a data block, or in every inner page of the tree.
fn damage(engine: Engine, store: &Path) {
    let files = bytes_of(store);
    if engine == Engine::Btree {
        let mut bytes = files["btree.pages"].clone();
        let inner = |page: &[u8]| page[4] == 0xB7 && page[5] > 0 && page[5] < 8;
        let count =
            bytes.chunks_mut(4096).skip(2).filter(|page| inner(page)).map(|page| page[300] ^= 1).count();
        assert!(count > 0, "a tree of more than one page");
        fs::write(store.join("btree.pages"), bytes).unwrap();
        return;
    }
    let tables = files.iter().filter(|(name, _)| name.starts_with("table."));
    let (name, bytes) = tables.max_by_key(|(_, bytes)| bytes.len()).expect("a table");
    let mut bytes = bytes.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(store.join(name), bytes).unwrap();
}

fn repair_of_a_damaged_store(engine: Engine) {
    if !able(&[]) {
        return;
    }
    let options = match engine {
        Engine::Btree => "page_size=4K,dirty_max=1M,checkpoint_log=2M,log_segment=256K,cache=1M",
        _ => "memtable=128K,table=256K,level_base=512K,l0_trigger=2,log_segment=256K,cache=1M",
    };
    let mount = Mount::new(engine, options);
    let mut prng = Prng::new(3);
    let mut files = BTreeMap::new();
    for number in 0..300 {
        let path = format!("d{}/e{}/file-{number}", number % 7, number % 3);
        let content: Vec<u8> = (0..prng.below(9000)).map(|_| prng.bits() as u8).collect();
        fs::create_dir_all(mount.mnt().join(&path).parent().unwrap()).unwrap();
        fs::write(mount.mnt().join(&path), &content).unwrap();
        files.insert(path, content);
    }
    assert_eq!(
        kvfs_check(&mount, &["--repair", "--yes"]).status.code(),
        Some(8),
        "a mounted store is refused"
    );
    mount.stop_clean();
    let clean = kvfs_check(&mount, &["--repair", "--yes"]);
    assert_eq!(clean.status.code(), Some(0), "{clean:?}");
    assert_eq!(kvfs_check(&mount, &["--yes"]).status.code(), Some(16), "--yes alone is wrong use");

    damage(engine, &mount.store());
    assert_eq!(mount.check(), 4);
    let before = bytes_of(&mount.store());
    let dry = kvfs_check(&mount, &["--repair"]);
    assert_eq!(dry.status.code(), Some(4), "{dry:?}");
    assert!(String::from_utf8_lossy(&dry.stdout).contains("damage: "), "{dry:?}");
    assert!(bytes_of(&mount.store()) == before, "a dry run changes nothing");
    let done = kvfs_check(&mount, &["--repair", "--yes", "--json"]);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    let report: Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!(mount.check(), 0, "{report:#}");

    mount.start();
    let affected = report["affected"].as_array().unwrap();
    let is_named = |path: &str| {
        let path = format!("/{path}");
        affected.iter().filter_map(|part| part["path"].as_str()).any(|named| path.starts_with(named))
    };
    let mut whole = 0;
    for (path, content) in files.iter().filter(|(path, _)| !is_named(path)) {
        let read =
            fs::read(mount.mnt().join(path)).unwrap_or_else(|error| panic!("{path}: {error}\n{report:#}"));
        assert!(read == *content, "{path} is not as it was and not named\n{report:#}");
        whole += 1;
    }
    // No leaf is lost with the pages above it; a block of an LSM-tree holds a few files' worth.
    let most = if engine == Engine::Btree { 300 } else { 250 };
    assert!(whole >= most, "{whole} files are whole\n{report:#}");
    fs::write(mount.mnt().join("new"), "new").unwrap();
    mount.stop_clean();
}

both_engines!(repair_of_a_damaged_store);

/// Tables that hold nothing but content of files.
fn content_tables(mount: &Mount) -> Vec<String> {
    let text = fs::read_to_string(mount.mnt().join(".stats.d/lsm.json")).unwrap();
    let picture: Value = serde_json::from_str(&text).unwrap();
    let tables = picture["levels"].as_array().unwrap().iter();
    let tables = tables.flat_map(|level| level["tables"].as_array().unwrap());
    let is_content = |table: &&Value| {
        ["smallest_key", "largest_key"].iter().all(|key| table[key].as_str().unwrap().starts_with("40"))
    };
    tables.filter(is_content).map(|table| table["label"].as_str().unwrap().to_string()).collect()
}

/// Files that can be read, each as it was; the others answer EIO.
fn readable(mount: &Mount, files: &BTreeMap<String, Vec<u8>>) -> usize {
    let read = |(name, content): (&String, &Vec<u8>)| match fs::read(mount.mnt().join(name)) {
        Ok(read) => {
            assert!(read == *content, "{name} is not as it was");
            true
        }
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::EIO), "{name}: {error}");
            false
        }
    };
    files.iter().filter(|file| read(*file)).count()
}

#[test]
fn a_lost_table_refuses_no_mount() {
    if !able(&[]) {
        return;
    }
    let mount =
        Mount::new(Engine::Lsm, "memtable=256K,table=128K,level_base=512K,l0_trigger=2,log_segment=256K");
    let mut prng = Prng::new(5);
    let mut files = BTreeMap::new();
    for number in 0..40 {
        let content: Vec<u8> = (0..60_000).map(|_| prng.bits() as u8).collect();
        fs::write(mount.mnt().join(format!("f{number}")), &content).unwrap();
        files.insert(format!("f{number}"), content);
    }
    mount.ctl(&["compact", "wait"]);
    let tables = content_tables(&mount);
    assert!(tables.len() > 6, "{tables:?}");
    mount.stop_clean();
    let (lost, flawed) = (mount.store().join(&tables[1]), mount.store().join(&tables[4]));
    fs::remove_file(&lost).unwrap();
    let mut bytes = fs::read(&flawed).unwrap();
    let end = bytes.len();
    bytes[end - 40..].fill(0xA5);
    fs::write(&flawed, bytes).unwrap();
    let found = kvfs_check(&mount, &[]);
    let told = String::from_utf8_lossy(&found.stdout).into_owned();
    assert_eq!(found.status.code(), Some(4), "{found:?}");
    assert!(told.contains(&tables[1]) && told.contains(&tables[4]), "{told}");

    // First to look, then to write.
    let mut whole = 0;
    for options in ["ro", "rw"] {
        let started = mount.try_start(options);
        assert!(started.status.success(), "{started:?}");
        mount.note_pid();
        let report = mount.json();
        assert_eq!(report["state"], "DAMAGED", "{report:#}");
        let cause = report["state_cause"].as_str().unwrap();
        assert!(cause.contains(&tables[1]) && cause.contains("kvfs check --repair"), "{cause}");
        let events = fs::read_to_string(mount.mnt().join(".stats.d/events")).unwrap();
        assert!(events.contains("\"set_aside\"") && events.contains(&tables[1]), "{events}");
        whole = readable(&mount, &files);
        // A table has two files and parts of its neighbours.
        assert!((34..40).contains(&whole), "{whole}");
        if options == "rw" {
            files.insert("new".to_string(), vec![7; 300_000]);
            fs::write(mount.mnt().join("new"), &files["new"]).unwrap();
            mount.ctl(&["flush", "wait"]);
            whole += 1;
        }
        mount.stop();
    }
    // What lost only its footer has been written anew.
    let found = kvfs_check(&mount, &[]);
    let told = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(told.contains(&tables[1]) && !told.contains(&tables[4]), "{told}");
    assert_eq!(told.matches(&format!("{} is damaged", tables[1])).count(), 1, "named once: {told}");
    let done = kvfs_check(&mount, &["--repair", "--yes"]);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    assert_eq!(mount.check(), 0);
    mount.start();
    let mended = files
        .iter()
        .filter(|(name, content)| fs::read(mount.mnt().join(name)).is_ok_and(|read| read == **content));
    assert_eq!(mended.count(), whole);
    assert_eq!(mount.json()["state"], "OK");
    mount.stop_clean();
}

/// Without the superblock nothing can be served: a mount says what is missing and what to do, and that saves all the rest.
#[test]
fn a_store_without_its_superblock_names_the_way_out() {
    if !able(&[]) {
        return;
    }
    let mount =
        Mount::new(Engine::Lsm, "memtable=256K,table=128K,level_base=512K,l0_trigger=2,log_segment=256K");
    let mut prng = Prng::new(6);
    let mut contents = BTreeSet::new();
    for number in 0..40 {
        let content: Vec<u8> = (0..60_000).map(|_| prng.bits() as u8).collect();
        fs::write(mount.mnt().join(format!("f{number}")), &content).unwrap();
        contents.insert(content);
    }
    mount.ctl(&["compact", "wait"]);
    mount.stop_clean();
    let tables = fs::read_dir(mount.store()).unwrap().map(|entry| entry.unwrap().path());
    let tables: Vec<_> = tables.filter(|path| path.to_str().unwrap().contains("/table.")).collect();
    let aside = mount.host().join("aside");
    let lost = tables.iter().find(|table| {
        fs::rename(table, &aside).unwrap();
        let started = mount.try_start("ro");
        if started.status.success() {
            mount.note_pid();
            mount.stop();
            fs::rename(&aside, table).unwrap();
            return false;
        }
        let told = String::from_utf8_lossy(&started.stderr);
        let name = table.file_name().unwrap().to_str().unwrap();
        let way_out = format!("kvfs check --repair {}", mount.store().display());
        assert!(
            started.status.code() == Some(32) && told.contains(name) && told.contains(&way_out),
            "{told}"
        );
        true
    });
    let lost = lost.expect("one of the tables holds the superblock");
    assert!(!lost.exists());
    let done = kvfs_check(&mount, &["--repair", "--yes"]);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    assert_eq!(mount.check(), 0);
    mount.start();
    // Names and attributes may have gone with it: then files are found by their numbers.
    let mut folders = vec![mount.mnt()];
    let mut found = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => found += usize::from(contents.contains(&fs::read(entry.path()).unwrap())),
            }
        }
    }
    println!("{found} of {} files are whole", contents.len());
    assert!(found >= 30, "{found}");
    mount.stop_clean();
}
