//! An engine of somebody else: it lives in a directory of its own, reads and writes there as it likes, and has options of its own. What
//! is here is all that the rest of kvfs needs to know of it.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kvfs::base::clock::Clock;
use kvfs::base::text::{BadText, Field, When};
use kvfs::disk::{Access, Opening, SimDisk};
use kvfs::engine::{
    self, Batch, Common, Descriptor, Done, Engine, Error, Home, KeyRange, Kind, Lsn, MemEngine, Options,
    OwnOptions, Promise, Result, Tier, Visit,
};
use kvfs::fs::meter::Op;
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
    fn kind(&self) -> Kind {
        Kind::of(&DIARY)
    }
    fn get(&self, key: &[u8], tier: Tier) -> Result<Option<Bytes>> {
        self.map.get(key, tier)
    }
    fn scan(&self, range: KeyRange<'_>, tier: Tier, visit: &mut Visit<'_>) -> Result<()> {
        self.map.scan(range, tier, visit)
    }
    fn apply(&self, batch: &Batch, tier: Tier) -> Result<Lsn> {
        let (mut file, mut record) = (self.file.lock(), Vec::new());
        batch.encode(&mut record);
        file.write_all(&(record.len() as u32).to_le_bytes()).map_err(failed)?;
        file.write_all(&record).map_err(failed)?;
        self.map.apply(batch, tier)
    }
    fn lsn(&self) -> Lsn {
        self.map.lsn()
    }
    fn sync_to(&self, _: Lsn, done: Done) {
        done(self.file.lock().sync_all().map_err(failed));
    }
    fn promise(&self) -> Promise {
        Promise { prefix: true, survives_kill: true }
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

#[test]
fn it_is_made_opened_checked_and_refused_like_ours() {
    assert!(engine::register(&OTHERS) && !engine::register(&OTHERS));
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

static OTHERS: [&Descriptor; 1] = [&DIARY];
