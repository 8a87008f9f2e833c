//! Texts from outside: what is written to `.stats`, and `-o` options, from single wrong characters to bytes that are no text.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::process::Command;
use std::sync::mpsc::channel;

use kvfs::disk::SimDisk;
use kvfs::engine::Batch;
use kvfs::fs::types::{Caller, Ino, ROOT};
use kvfs::mount::{self, Service};
use kvfs::store::Settings;
use kvfs::virtual_files::Handle;

use super::*;

/// Pieces of commands and options, so that what is put together is often nearly right.
const WORDS: [&str; 42] = [
    "flush",
    "compact",
    "vacuum",
    "now",
    "full",
    "wait",
    "checkpoint",
    "drop-caches",
    "sync",
    "mark",
    "unmark",
    "explain",
    "set",
    "rate",
    "iops",
    "auto_flush",
    "auto_compact",
    "on",
    "off",
    "pause",
    "resume",
    "help",
    "policy=tiered",
    "cache=0",
    "memory=1",
    "rate=99999999T",
    "18446744073709551615",
    "-1",
    "0",
    "a",
    "..",
    "/",
    "\n",
    "\n\n",
    "\r",
    "\t",
    "\0",
    "=",
    "20M",
    "l0_stop=0",
    "1",
    "json",
];

fn text(prng: &mut Prng) -> Vec<u8> {
    let mut text = Vec::new();
    for _ in 0..prng.below(8) {
        match prng.below(8) {
            0 => {
                let length = prng.below(20);
                text.extend(garbage(prng, length));
            }
            1 => text.extend(b"x".repeat([1, 64, 65, 5000][prng.below(4) as usize])),
            _ => text.extend(WORDS[prng.below(WORDS.len() as u64) as usize].bytes()),
        }
        if prng.one_in(3) {
            text.push(b'\n');
        } else {
            text.push(b' ');
        }
    }
    text
}

/// Every option with values from the edges of its type.
fn setting(prng: &mut Prng) -> (String, String) {
    let all = Settings::all();
    let name = all[prng.below(all.len() as u64) as usize].name.to_string();
    let value = match prng.below(8) {
        0 => String::from_utf8_lossy(&text(prng)).into_owned(),
        1 => all.iter().find(|setting| setting.name == name).unwrap().value.clone(),
        2 => format!(
            "{}{}",
            prng.below(2000),
            ["", "K", "M", "G", "T", "ms", "s", "m"][prng.below(8) as usize]
        ),
        3 => format!("interval:{}{}", number(prng), ["ms", "s", "m"][prng.below(3) as usize]),
        4 => ["on", "off", "lsm", "btree", "tiered", "eager", "lz4", "zstd", "always", "tiny"]
            [prng.below(10) as usize]
            .to_string(),
        5 => prng.below(10).to_string(),
        _ => number(prng).to_string(),
    };
    (name, value)
}

fn commands(kind: &str) {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let given = [("engine", kind), ("log_segment", "256K"), ("memtable", "64K"), ("reserve", "1M")];
    let given: Vec<_> = given.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    let store = home.path().join("store");
    let service =
        Service::start(mount::open_store(&store, &given, Default::default()).unwrap(), home.path()).unwrap();
    let tree = service.tree().clone();
    let files: Vec<Ino> =
        [&b".stats"[..]].iter().map(|name| tree.lookup(ROOT, name, Caller::ROOT).unwrap().ino).collect();
    let folder = tree.lookup(ROOT, b".stats.d", Caller::ROOT).unwrap().ino;
    let ctl = tree.lookup(folder, b"ctl", Caller::ROOT).unwrap().ino;
    let json = tree.lookup(folder, b"json", Caller::ROOT).unwrap().ino;
    let files: Vec<Ino> = files.into_iter().chain([ctl, json, folder, Ino(u64::MAX)]).collect();
    for seed in cases(150) {
        let (tree, files) = (tree.clone(), files.clone());
        watched(&format!("{kind} command {seed}"), move || {
            let mut prng = Prng::new(seed);
            let (name, value) = setting(&mut prng);
            let text = match prng.below(3) {
                0 => format!("set {name}={value}").into_bytes(),
                _ => text(&mut prng),
            };
            // Merges that rest would keep the next command that waits for one.
            if String::from_utf8_lossy(&text).contains("pause") {
                return;
            }
            let file = files[prng.below(files.len() as u64) as usize];
            let caller = if prng.one_in(8) { Caller { uid: 12_345, gid: 1, pid: 1 } } else { Caller::ROOT };
            let (sender, receiver) = channel();
            tree.write(file, caller, &text, Box::new(move |result| sender.send(result).unwrap()));
            // It is answered, whatever it says; and to strangers in one way.
            let answer = receiver.recv().expect("an answer");
            assert!(answer.is_err() || caller == Caller::ROOT, "a stranger's {:?}", text.escape_ascii());
            for _ in 0..3 {
                let (number, offset) = (number(&mut prng), number(&mut prng));
                let (ino, handle) = (Ino(number), Handle(number));
                let _ = (tree.getattr(ino), tree.open(ino, Caller::ROOT), tree.read(handle, offset, 4096));
                let _ = tree.readdir(ino, offset, &mut |_| true);
                tree.release(handle);
            }
            let handle = tree.open(files[0], Caller::ROOT).unwrap();
            let report = tree.read(handle, 0, u32::MAX).unwrap();
            assert!(report.starts_with(b"kvfs "), "after {:?}", text.escape_ascii());
            assert!(tree.read(handle, number(&mut prng), u32::MAX).unwrap().len() <= report.len());
            tree.release(handle);
        });
    }
    drop(tree);
    service.stop().unwrap();
    let findings = mount::check(&store, &mut |_| ()).unwrap();
    assert_eq!(findings.damage, Vec::<String>::new());
}

#[test]
fn whatever_is_written_to_stats_of_an_lsm_tree_is_answered() {
    commands("lsm");
}

#[test]
fn whatever_is_written_to_stats_of_a_btree_is_answered() {
    commands("btree");
}

/// The program with any `-o`: it takes the options or says what is wrong, and does not die.
#[test]
fn any_option_is_taken_or_refused() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let mnt = home.path().join("mnt");
    std::fs::create_dir(&mnt).unwrap();
    let mut taken = 0;
    for seed in cases(150) {
        let mut prng = Prng::new(seed);
        let mut options = Vec::new();
        for _ in 0..1 + prng.below(4) {
            match prng.below(4) {
                0 => options.extend(text(&mut prng)),
                1 => options.extend(b"rw,noatime,nodev,fsname=a\\,b,x-y,max_read=128K,dirsync"),
                _ => {
                    let (name, value) = setting(&mut prng);
                    options.extend(format!("{name}={value}").bytes());
                }
            }
            options.push(b",=\\"[if prng.one_in(4) { prng.below(3) as usize } else { 0 }]);
        }
        // The kernel passes no NUL.
        options.retain(|&byte| byte != 0);
        let show = options.escape_ascii().to_string();
        let run = Command::new(env!("CARGO_BIN_EXE_kvfs"))
            .args(["mount", "--fake"])
            .args([home.path().join("store"), mnt.clone()])
            .arg("-o")
            .arg(OsString::from_vec(options))
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&run.stderr).into_owned();
        match run.status.code() {
            Some(0) => taken += 1,
            Some(1) => assert!(!error.trim().is_empty(), "-o {show} is refused without a word"),
            code => panic!("-o {show}: exit code {code:?}: {error}"),
        }
        assert!(!error.contains("panicked"), "-o {show}: {error}");
    }
    assert!(taken > 5, "{taken}");
}

/// A store opened with numbers from the edges of what options take: it works, or is refused.
#[test]
fn edges_of_options_open_or_are_refused() {
    let mut opened = 0;
    for seed in cases(400) {
        opened += u64::from(watched(&format!("options {seed}"), move || {
            let mut prng = Prng::new(seed);
            let mut settings = Settings::default();
            let kind = if prng.one_in(2) { "lsm" } else { "btree" };
            settings.set("engine", kind).unwrap().unwrap();
            settings.engine = settings.engine.with("log_segment=64K,memtable=8K,reserve=1M").unwrap();
            let mut given = String::new();
            for _ in 0..1 + prng.below(2) {
                let (name, value) = setting(&mut prng);
                // No engine that keeps nothing.
                if name != "engine" && settings.set(&name, &value).is_some_and(|set| set.is_ok()) {
                    given += &format!(" {name}={value}");
                }
            }
            let disk = SimDisk::new();
            disk.set_capacity(Some(16 << 20));
            let clock = std::sync::Arc::new(ManualClock::default());
            let engine = match engine::open(disk, clock, &settings.engine) {
                Ok(engine) => engine,
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    return false;
                }
            };
            for index in 0..40u32 {
                let mut batch = Batch::new(0);
                batch.put(format!("key{index:02}"), vec![index as u8; 3000]);
                for _ in 0..20 {
                    match engine.apply(&batch, Tier::Disk) {
                        Err(EngineError::Busy { .. }) => {
                            for class in
                                [WorkClass::Log, WorkClass::Flush, WorkClass::Merge, WorkClass::Reclaim]
                            {
                                let _ = engine.work(class);
                            }
                        }
                        _ => break,
                    }
                }
                if let Ok(Some(value)) = engine.get(format!("key{index:02}").as_bytes(), Tier::Disk) {
                    assert!(value == vec![index as u8; 3000], "with{given}");
                }
            }
            let _ = engine.shape();
            let _ = engine.close();
            true
        }));
    }
    assert!(opened > 100, "{opened}");
}
