//! An engine of somebody else: it lives in a directory of its own, reads and writes there as it likes, and has options of its own. What
//! is here is all that the rest of kvfs needs to know of it.

#[macro_use]
#[path = "support/hand_on.rs"]
mod hand_on;

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::{Arc, Once};

use bytes::Bytes;
use kvfs::base::clock::Clock;
use kvfs::base::text::{BadText, Field, When};
use kvfs::compare::contender::Contender;
use kvfs::compare::matrix::plan::Plan;
use kvfs::compare::matrix::work::Work;
use kvfs::compare::workloads::stage::Stage;
use kvfs::compare::{self, matrix, workloads};
use kvfs::disk::{Access, Opening, SimDisk};
use kvfs::engine::{
    self, Batch, Common, Descriptor, Done, Engine, Error, Home, Kind, Lsn, MemEngine, Options, OwnOptions,
    Promise, Result, Tier,
};
use kvfs::fs::operation::Op;
use kvfs::fs::types::{Caller, NewNode, ROOT};
use kvfs::mount::{self, Store};
use kvfs::store::{Settings, Terms};
use parking_lot::Mutex;

/// A map in memory and a file of batches, which is read when it is opened.
struct Diary {
    map: MemEngine,
    file: Mutex<File>,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct DiaryOptions {
    common: Common,
    motto: String,
}

impl OwnOptions for DiaryOptions {
    const FIELDS: &'static [Field<DiaryOptions>] = &[Field {
        name: "motto",
        when: When::Mount,
        help: "A word of at most ten letters.",
        set: |options, text| {
            options.motto = text.to_string();
            Ok(())
        },
        get: |options| options.motto.clone(),
    }];

    fn common(&self) -> &Common {
        &self.common
    }

    fn common_mut(&mut self) -> &mut Common {
        &mut self.common
    }

    fn validate(&self) -> std::result::Result<(), BadText> {
        if self.motto.len() > 10 { Err(format!("motto={} is too long", self.motto).into()) } else { Ok(()) }
    }
}

static DIARY: Descriptor = Descriptor {
    name: "diary",
    help: "a file of batches",
    keeps: true,
    options: || Options::new(Kind::of(&DIARY), DiaryOptions::default()),
    tiny: || Options::new(Kind::of(&DIARY), DiaryOptions::default()),
    home: Home::Directory(|directory, _, _| Ok(Arc::new(Diary::open(directory)?))),
    is_file: |_| false,
    salvage: None,
    writes_in_place: false,
    variants: ("", Vec::new),
};

fn failed(error: std::io::Error) -> Error {
    Error::io("the diary", error)
}

impl Diary {
    fn open(directory: &Path) -> Result<Diary> {
        let path = directory.join("diary");
        let mut bytes = Vec::new();
        let mut file = File::options().read(true).append(true).create(true).open(path).map_err(failed)?;
        file.read_to_end(&mut bytes).map_err(failed)?;
        let (map, mut rest) = (MemEngine::new(), Bytes::from(bytes));
        while rest.len() > 4 {
            let length = u32::from_le_bytes(rest.split_to(4)[..].try_into().unwrap()) as usize;
            map.apply(&Batch::decode(&rest.split_to(length))?, Tier::Disk)?;
        }
        Ok(Diary { map, file: Mutex::new(file) })
    }
}

impl Engine for Diary {
    hand_on!(Engine map: get, scan, lsn);

    fn kind(&self) -> Kind {
        Kind::of(&DIARY)
    }
    fn apply(&self, batch: &Batch, tier: Tier) -> Result<Lsn> {
        let (mut file, mut record) = (self.file.lock(), Vec::new());
        batch.encode(&mut record);
        file.write_all(&(record.len() as u32).to_le_bytes()).map_err(failed)?;
        file.write_all(&record).map_err(failed)?;
        self.map.apply(batch, tier)
    }
    fn sync_to(&self, _: Lsn, done: Done) {
        done(self.file.lock().sync_all().map_err(failed));
    }
    fn promise(&self) -> Promise {
        Promise::WHOLE
    }
    fn close(&self) -> Result<()> {
        self.file.lock().sync_all().map_err(failed)
    }
}

fn given(list: &str) -> Vec<(String, String)> {
    let pairs = list.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_string(), value.to_string())).collect()
}

fn open(path: &Path, list: &str) -> Store {
    mount::open_store(path, &given(list), Terms::default()).unwrap()
}

/// Makes the diary known, once for all tests of this file.
fn register() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| assert!(engine::register(&OTHERS)));
    assert!(!engine::register(&OTHERS), "once is all");
}

#[test]
fn it_is_made_opened_checked_and_refused_like_ours() {
    register();
    assert!(Kind::help().contains("diary: a file of batches"), "{}", Kind::help());
    assert!(
        Settings::all()
            .iter()
            .any(|setting| setting.name == "motto" && setting.owner == Some(Kind::of(&DIARY)))
    );

    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let path = home.path().join("store");
    let refused = mount::make_store(&path, &given("engine=diary,motto=verylongword"), Terms::default());
    assert!(refused.unwrap_err().to_string().contains("motto=verylongword is too long"));
    // `page_size` is another engine's.
    mount::make_store(&path, &given("engine=diary,motto=carpe,page_size=8K"), Terms::default()).unwrap();

    // What was made is remembered, and the store is the same when it is opened again.
    let store = open(&path, "");
    assert_eq!(store.settings.get("motto").as_deref(), Some("carpe"));
    assert_eq!(store.settings.get("page_size"), None);
    let new =
        store.fs.make(Tier::Disk, Op::Create, Caller::ROOT, ROOT, b"file", 0o644, 0, NewNode::File).unwrap();
    store
        .fs
        .write(Tier::Disk, Caller::ROOT, new.ino, 0, &Bytes::from_static(b"what is written"), false)
        .unwrap();
    store.close().unwrap();
    drop(store);
    assert!(path.join("engine/diary").is_file(), "in a directory of its own");
    assert!(!path.join("spare.0").exists(), "which no spare file serves");
    let store = open(&path, "motto=diem");
    let found = store.fs.lookup(Tier::Disk, ROOT, b"file").unwrap();
    assert_eq!(store.fs.read(Tier::Disk, found.ino, 0, 100).unwrap(), b"what is written");
    assert_eq!(store.engine.shape().engine, "diary");
    store.close().unwrap();
    drop(store);

    // Read-only it is opened in its place: there is nothing of ours between it and its files.
    let store = open(&path, "read_only=on");
    assert_eq!(store.fs.lookup(Tier::Disk, ROOT, b"file").unwrap().size, 15);
    store.close().unwrap();
    drop(store);

    let findings = mount::check(&path, &mut |_| ()).unwrap();
    assert!(findings.damage.is_empty(), "{findings:?}");
    assert_eq!(findings.summary.unwrap().inodes, 2);
    let opening = Opening { access: Access::Write, any_owner: false };
    let refused = mount::repair(&path, opening, &mut |_| ()).unwrap_err().to_string();
    assert!(refused.contains("engine=diary, whose files only its own tools can repair"), "{refused}");

    // No disk of ours will do.
    let clock: Arc<dyn Clock> = Arc::new(kvfs::base::clock::SystemClock::new());
    let refused = engine::open(SimDisk::new(), clock, &Kind::of(&DIARY).default_options()).err().unwrap();
    assert!(refused.to_string().contains("engine=diary needs a directory of its own"), "{refused}");
}

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    arguments: compare::Arguments,
}

fn arguments(line: &str) -> compare::Arguments {
    let words = ["compare", "--dir", "unused"].into_iter().chain(line.split_whitespace());
    <Line as clap::Parser>::try_parse_from(words).unwrap().arguments
}

/// The matrix has it beside ours. What no meter of ours saw is nowhere made up, and where syncs are real the kernel speaks of both.
#[test]
fn it_is_compared_with_ours_by_what_was_measured_of_both() {
    register();
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let store = home.path().join("store");
    for is_synced in [false, true] {
        let line = "--puts 300 --memory 256K --sizes 20K,100K --values 100 --updates 50 --gets 20 --engines lsm:leveled,diary";
        let plan =
            Plan::new(&arguments(&format!("{line}{}", if is_synced { " --sync" } else { "" }))).unwrap();
        let measure = |contender: &Contender, work: &Work| matrix::measure_at(&store, &plan, contender, work);
        let rows = matrix::run(&plan, measure).unwrap();
        let of = |name: &str| {
            rows.iter().find(|row| row.contender == name && row.data_bytes == 100 << 10).unwrap()
        };
        let (ours, diary) = (of("lsm:leveled"), of("diary"));
        assert!(!store.exists() && rows.len() == 4);
        assert!(ours.settled_bytes.unwrap() > ours.logical_bytes && ours.log_file_bytes.is_some());
        let doors = [diary.settled_bytes, diary.unsettled_bytes, diary.requests, diary.syncs, diary.reads];
        assert!(
            doors.iter().chain([&diary.read_bytes, &diary.log_file_bytes]).all(Option::is_none),
            "{diary:?}"
        );
        assert_eq!((diary.puts, diary.gets, diary.logical_bytes), (ours.puts, ours.gets, ours.logical_bytes));
        // Its file holds every batch that it was ever given, so it takes more than the keys.
        assert!(diary.physical_bytes > diary.live_bytes, "{diary:?}");
        let text = matrix::report(&plan, &rows).unwrap();
        let own_line = text.lines().find(|line| line.contains("  diary  ")).unwrap();
        assert_eq!(own_line.matches(" - ").count(), 6, "{own_line}");
        assert!(text.contains("diary         - (in a directory of its own it passes no meter)"), "{text}");
        let crossover = text.lines().find(|line| line.starts_with("crossover lsm:leveled / diary")).unwrap();
        match is_synced {
            false => assert!(crossover.contains("none: nobody counts what both write"), "{crossover}"),
            // A filesystem in memory counts nothing.
            true if diary.kernel_write_amp().is_none() => {}
            true => assert!(crossover.contains(" by the kernel's count: "), "{crossover}"),
        }
    }
}

/// So do the workloads, with every answer checked.
#[test]
fn every_workload_runs_on_it() {
    register();
    let home = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let line = "--workloads all --memory 256K --sizes 40K --values 100 --puts 200 --gets 200 --engines diary";
    let plan = workloads::plan::Plan::new(&arguments(line)).unwrap();
    let mut stage = Stage::new(&plan, &plan.contenders[0], plan.sizes[0], home.path()).unwrap();
    for workload in &plan.workloads {
        let rows = stage.run(workload).unwrap();
        assert!(!rows.is_empty(), "{workload}");
        for row in rows {
            assert!(row.contender == "diary" && row.workload.starts_with(workload) && row.ops > 0, "{row:?}");
            assert_eq!((row.door_write_bytes, row.door_reads, row.write_amp()), (None, None, None));
            assert_eq!((row.keeps_prefix, row.occupied_bytes > 0), (1, true), "{row:?}");
        }
    }
    stage.finish().unwrap();
    let left: Vec<_> =
        std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["LOCK"], "the stores are gone");
}

static OTHERS: [&Descriptor; 1] = [&DIARY];
