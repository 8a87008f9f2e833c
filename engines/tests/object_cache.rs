//! The cache of objects on this machine's disk: it outlives a mount, it is no larger than it may be, and nothing in it is believed that was changed.
#![cfg(feature = "slatedb")]

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kvfs::base::clock::SystemClock;
use kvfs::base::prng::Prng;
use kvfs::disk::Purpose;
use kvfs::engine::remote::{Access, Site, remote_of, url_of};
use kvfs::engine::{Batch, Command, Engine, Error, KeyRange, Tier, run, settle};

const VALUES: u32 = 4096;
const VALUE_BYTES: u32 = 4096;
/// Longest wait for files to go that are over the limit.
const PATIENCE: Duration = Duration::from_secs(60);

struct Store {
    site: Arc<dyn Site>,
    engine: Arc<dyn Engine>,
}

impl Store {
    /// Opens the store at `home`, with no more memory for blocks than there has to be.
    fn open(home: &Path, cache: &str) -> Store {
        kvfs_engines::register();
        let url = url_of(&home.join("objects"));
        let (kind, remote) = remote_of(&url).unwrap();
        let directory = home.join("cache");
        let options = format!("cache=1M,memtable=4M,cache_dir={},{cache}", directory.display());
        let options = kind.default_options().with(&options).unwrap();
        let site = remote.connect(&url, &options).unwrap();
        let engine = site.open(Access::Write, Arc::new(SystemClock::new()), &options).unwrap();
        Store { site, engine }
    }

    /// Requests for blocks, without looks for what others have changed.
    fn gets(&self) -> u64 {
        self.engine.shape().objects.unwrap().requests.of(Purpose::Get).gets
    }

    fn close(self) {
        settle(&*self.engine).unwrap();
        self.engine.close().unwrap();
        self.site.release().unwrap();
    }
}

fn value(number: u32) -> Vec<u8> {
    let mut random = Prng::new(u64::from(number));
    (0..VALUE_BYTES / 8).flat_map(|_| random.bits().to_le_bytes()).collect()
}

/// A key as a block has it.
fn key(number: u32) -> Vec<u8> {
    [&[0x40], &number.to_be_bytes()[..]].concat()
}

fn fill(home: &Path) {
    let store = Store::open(home, "cache_size=1G");
    for first in (0..VALUES).step_by(64) {
        let mut batch = Batch::new(0);
        (first..first + 64).for_each(|number| batch.put(key(number), value(number)));
        store.engine.apply(&batch, Tier::Disk).unwrap();
    }
    run(&*store.engine, Command::Flush).unwrap();
    store.close();
    let _ = fs::remove_dir_all(home.join("cache"));
}

/// Reads everything; the values that came, each of which has to be right.
fn read(store: &Store) -> Result<u32, Error> {
    let mut count = 0;
    store.engine.scan(KeyRange { start: &[0x40], end: Some(&[0x41]) }, Tier::Disk, &mut |found, held| {
        let number = u32::from_be_bytes(found[1..].try_into().unwrap());
        assert!(held == value(number), "{number}");
        count += 1;
        ControlFlow::Continue(())
    })?;
    Ok(count)
}

fn files_below(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let entries = entries.map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

fn bytes_below(directory: &Path) -> u64 {
    files_below(directory).iter().filter_map(|path| path.metadata().ok()).map(|metadata| metadata.len()).sum()
}

#[test]
fn what_was_read_once_is_there_for_the_next_mount() {
    let home = tempfile::tempdir().unwrap();
    fill(home.path());
    let asked = [(); 2].map(|()| {
        let store = Store::open(home.path(), "cache_size=1G");
        let before = store.gets();
        assert_eq!(read(&store).unwrap(), VALUES);
        let asked = store.gets() - before;
        store.close();
        asked
    });
    assert!(asked[0] >= 4, "{asked:?}");
    assert_eq!(asked[1], 0, "{asked:?}");
    let data = u64::from(VALUES * VALUE_BYTES);
    assert!(bytes_below(&home.path().join("cache")) >= data);
}

#[test]
fn it_is_no_larger_than_it_may_be() {
    const MAX_BYTES: u64 = 8 << 20;
    let home = tempfile::tempdir().unwrap();
    fill(home.path());
    let store = Store::open(home.path(), "cache_size=8M");
    assert_eq!(read(&store).unwrap(), VALUES);
    let began = Instant::now();
    let mut bytes = u64::MAX;
    while bytes > MAX_BYTES && began.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(50));
        bytes = bytes_below(&home.path().join("cache"));
    }
    assert!(bytes <= MAX_BYTES && bytes > 0, "{bytes} bytes");
    assert_eq!(read(&store).unwrap(), VALUES);
    store.close();
}

#[test]
fn what_was_changed_in_it_is_not_believed() {
    let home = tempfile::tempdir().unwrap();
    fill(home.path());
    let store = Store::open(home.path(), "cache_size=1G");
    assert_eq!(read(&store).unwrap(), VALUES);
    store.close();
    let mut changed = 0;
    for path in files_below(&home.path().join("cache")) {
        let mut bytes = fs::read(&path).unwrap();
        // In the middle of what may be a block, and in every part.
        for at in (bytes.len() / 3..bytes.len()).step_by(100_000) {
            bytes[at] ^= 0x10;
            changed += 1;
        }
        fs::write(&path, &bytes).unwrap();
    }
    assert!(changed > 0);
    let store = Store::open(home.path(), "cache_size=1G");
    let before = store.gets();
    assert_eq!(read(&store).unwrap(), VALUES, "what is wrong is fetched again");
    assert!(store.gets() > before);
    store.close();
}
