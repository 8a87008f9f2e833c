//! What a recording leaves out does not change what it says: names.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use bytes::Bytes;
use kvfs::base::clock::ManualClock;
use kvfs::base::prng::Prng;
use kvfs::disk::Space;
use kvfs::engine::{MemEngine, MeteredEngine, Tier};
use kvfs::fs::operation::Op;
use kvfs::fs::types::{Caller, Ino, NewNode, ROOT};
use kvfs::fs::{self, FileSystem, Identity, Veil, keys};
use kvfs::recording::{self, Head, Keeps, Meters, Recorder, Recording, State, Writer};
use serde_json::Value;

const DIRECTORIES: u64 = 12;

/// A filesystem over a map, whose work is the same every time.
struct Bench {
    fs: Arc<FileSystem>,
    engine: Arc<MeteredEngine>,
    clock: Arc<ManualClock>,
    prng: Prng,
}

impl Bench {
    fn new() -> Bench {
        let (clock, engine) = (
            Arc::new(ManualClock::default()),
            MeteredEngine::new(Arc::new(MemEngine::new()), keys::classify),
        );
        let options = fs::Options::default();
        let identity = Identity { uuid: [1; 16], secret: 4711 };
        FileSystem::format(&*engine, &*clock, &options, identity).unwrap();
        let space = || Ok(Space { total_bytes: 1 << 40, free_bytes: 1 << 40, ..Space::default() });
        let fs = FileSystem::open(engine.clone(), clock.clone(), options, Arc::new(space)).unwrap();
        Bench { fs, engine, clock, prng: Prng::new(5) }
    }

    fn make(&self, parent: Ino, name: &str, node: NewNode<'_>) -> Ino {
        let op = if matches!(node, NewNode::File) { Op::Create } else { Op::Mkdir };
        let made = self.fs.make(Tier::Disk, op, Caller::ROOT, parent, name.as_bytes(), 0o755, 0, node);
        made.unwrap().ino
    }

    /// Files with long names that have much in common: made, filled, given an attribute and, most of them, deleted.
    fn work(&mut self, directories: &[Ino], files: Range<u64>) {
        for number in files {
            let directory = directories[(number % DIRECTORIES) as usize];
            let name = format!("a-name-that-says-what-is-in-the-file-{number:08}-{}.document", number % 7);
            let ino = self.make(directory, &name, NewNode::File);
            let content = Bytes::from(vec![number as u8; self.prng.below(6000) as usize]);
            self.fs.write(Tier::Disk, Caller::ROOT, ino, 0, &content, false).unwrap();
            if number % 3 != 0 {
                self.fs.unlink(Tier::Disk, directory, name.as_bytes()).unwrap();
            }
            self.fs.forget(ino, 1);
        }
    }
}

/// Records the same work, with names or without.
fn record(path: &Path, names: bool) {
    let mut bench = Bench::new();
    let directory = |number: u64| bench.make(ROOT, &format!("directory {number}"), NewNode::Directory);
    let directories: Vec<Ino> = (0..DIRECTORIES).map(directory).collect();
    bench.work(&directories, 0..2000);
    let veil = recording::Veil { hide: Box::new(Veil::new().into_hide()), kind_of: keys::classify };
    let keeps = Keeps { names, values: false };
    let recorder = Recorder::new(bench.clock.clone(), keeps, veil, true);
    let engine = bench.engine.clone();
    engine.tap().put(recorder.clone());
    std::thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let head = Head {
                keys: "kvfs".into(),
                kinds: keys::KIND_NAMES.iter().map(|name| name.to_string()).collect(),
                keeps_names: names,
                ..Head::default()
            };
            let file = kvfs::disk::create_outside(path).unwrap();
            let meters = || Meters { app_write_bytes: Some(1 << 20), ..Meters::default() };
            recorder.run(Writer::new(file, "test", head).unwrap(), &**engine.uncounted(), &meters).unwrap();
        });
        while recorder.status().state == State::Image {
            std::thread::yield_now();
        }
        bench.work(&directories, 2000..12_000);
        recorder.end("done");
        engine.tap().take_out(&recorder);
        writing.join().unwrap();
    });
}

/// Bytes at the disk of a replay on a simulated clock, for each design.
fn replayed(path: &Path, designs: &[&str]) -> Vec<f64> {
    let engines = designs.iter().flat_map(|design| ["--engine", design]);
    let output = Command::new(env!("CARGO_BIN_EXE_kvfs"))
        .arg("replay")
        .arg(path)
        .args(["--json", "--pace", "simulated"])
        .args(engines)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let bytes = |engine: &Value| engine["disk_write_bytes"].as_f64().unwrap();
    report["engines"].as_array().unwrap().iter().map(bytes).collect()
}

#[test]
fn amplification_is_the_same_without_names() {
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let file = |names: bool| -> PathBuf {
        let path = home.path().join(format!("names-{names}.rec"));
        record(&path, names);
        path
    };
    let (with, without) = (file(true), file(false));
    let keys = |path: &Path| -> Vec<Bytes> {
        let recording = Recording::open(path).unwrap();
        recording.image().unwrap().map(|entry| entry.unwrap().key).collect()
    };
    let is_name = |key: &&Bytes| key.windows(7).any(|part| part == b"a-name-");
    assert!(keys(&with).iter().filter(is_name).count() > 600);
    assert_eq!(keys(&without).iter().filter(is_name).count(), 0);
    let designs =
        ["lsm,memory=4M", "lsm,memory=4M,policy=tiered", "btree,memory=4M", "btree,memory=4M,pages=cow"];
    for ((design, named), hidden) in
        designs.iter().zip(replayed(&with, &designs)).zip(replayed(&without, &designs))
    {
        let ratio = hidden / named;
        println!("{design}: {named} bytes, without names {ratio:.4} times as many");
        assert!((ratio - 1.0).abs() < 0.01, "{design}: {named} bytes, without names {hidden}");
    }
}
