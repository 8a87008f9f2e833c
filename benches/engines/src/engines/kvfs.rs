//! Our engines, as a mount runs them: the same stack of disks, the same worker threads, and a busy store is waited out on
//! its wake signal.
//!
//! Options of the engine may follow its name: `lsm:table_block=16K:bloom_bits=0`.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use kvfs::base::clock::SystemClock;
use kvfs::disk::{Access, Latch, Metered, OsDisk};
use kvfs::engine::{
    self, Batch, WorkClass, Command, Done, Engine, Error, KeyRange, Kind, Options, Sync, Tier, Worker,
};

use super::{Change, Contender, Result, Settings};

/// How often `settle` looks whether background work has ended.
const LOOK: Duration = Duration::from_millis(2);
/// Looks in a row without work after which the store is taken to be quiet.
const QUIET_LOOKS: u32 = 4;

struct Kvfs {
    // Dropped before the engine: its threads hold it.
    worker: Worker,
    engine: Arc<dyn Engine>,
    stalled_nanos: AtomicU64,
}

/// Opens the engine `name`, with its options, in `directory`.
pub fn open(name: &str, directory: &Path, settings: &Settings) -> Result<Box<dyn Contender>> {
    let options = options(name, settings)?;
    let disk = Latch::new(Metered::new(OsDisk::open(directory, Access::Write)?));
    let engine = engine::open(disk, Arc::new(SystemClock::new()), &options)?;
    let worker = Worker::start(engine.clone())?;
    Ok(Box::new(Kvfs { worker, engine, stalled_nanos: AtomicU64::new(0) }))
}

fn options(name: &str, settings: &Settings) -> Result<Options> {
    let mut words = name.split(':');
    let mut options = Kind::parse(words.next().unwrap_or_default())?.default_options();
    // The harness asks for a sync every second, of every engine.
    options.common_mut().sync = Sync::Fsync;
    let merge_threads = settings.threads.saturating_sub(1).max(1);
    let sizes = [
        ("memtable", settings.memtable_bytes),
        ("cache", settings.cache_bytes),
        ("level_base", settings.level_base_bytes),
        ("table", settings.table_bytes),
        ("log_segment", settings.log_segment_bytes),
        // The page of the peers' B-trees, and dirty pages in most of the cache, as InnoDB allows.
        ("page_size", 4 << 10),
        ("dirty_max", settings.cache_bytes / 4 * 3),
        ("checkpoint_log", settings.memtable_bytes * 4),
        // One thread flushes, so the rest may merge, as RocksDB shares out its background jobs.
        ("merge_threads", merge_threads as u64),
    ];
    for (name, value) in sizes {
        options = options.with(&format!("{name}={value}"))?;
    }
    for word in words {
        let (option, value) = word.split_once('=').ok_or_else(|| format!("'{word}' is not option=value"))?;
        options
            .set(option, value)
            .unwrap_or_else(|| Err(format!("an engine has no option '{option}'")))?;
    }
    Ok(options)
}

impl Kvfs {
    /// Starts something that ends in the background, and waits for its end.
    fn wait(&self, start: impl FnOnce(Done)) -> Result<()> {
        let (sender, receiver) = mpsc::channel();
        start(Box::new(move |result| {
            // The receiver waits below for as long as the engine lives.
            let _ = sender.send(result);
        }));
        Ok(receiver.recv()??)
    }

    fn is_quiet(&self) -> bool {
        let shape = self.engine.shape();
        shape.jobs.is_empty()
            && shape.memory.immutable_memtables == 0
            && shape.debt.pending_compaction_bytes == 0
            && shape.debt.l0_files <= shape.debt.l0_trigger
            && shape.obsolete_bytes == 0
    }
}

impl Contender for Kvfs {
    fn write(&self, changes: &[Change<'_>], durable: bool) -> Result<()> {
        let mut batch = Batch::new(0);
        for change in changes {
            match change {
                Change::Put(key, value) => {
                    batch.put(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value))
                }
                Change::Delete(key) => batch.delete(Bytes::copy_from_slice(key)),
            }
        }
        let lsn = loop {
            // Looked at before the try, so that a ring in between is not lost.
            let seen = self.engine.wake_signal().seen(WorkClass::Room);
            match self.engine.apply(&batch, Tier::Disk) {
                Ok(lsn) => break lsn,
                Err(Error::Busy { retry_after, .. }) => {
                    let since = Instant::now();
                    self.engine.wake_signal().wait(WorkClass::Room, seen, retry_after);
                    self.stalled_nanos.fetch_add(since.elapsed().as_nanos() as u64, Relaxed);
                }
                Err(error) => return Err(error.into()),
            }
        };
        if durable {
            self.wait(|done| self.engine.sync_to(lsn, done))?;
        }
        Ok(())
    }

    fn get(&self, key: &[u8], target: &mut Vec<u8>) -> Result<bool> {
        target.clear();
        let value = self.engine.get(key, Tier::Disk)?;
        if let Some(value) = &value {
            target.extend_from_slice(value);
        }
        Ok(value.is_some())
    }

    fn scan(&self, from: &[u8], count: usize) -> Result<(u64, u64)> {
        let (mut entries, mut bytes) = (0, 0);
        self.engine.scan(KeyRange { start: from, end: None }, Tier::Disk, &mut |key, value| {
            entries += 1;
            bytes += (key.len() + value.len()) as u64;
            if entries < count as u64 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok((entries, bytes))
    }

    fn sync(&self) -> Result<()> {
        self.wait(|done| self.engine.sync_to(self.engine.lsn(), done))
    }

    fn settle(&self) -> Result<Duration> {
        self.wait(|done| self.engine.run(Command::Flush, done))?;
        let mut quiet = 0;
        while quiet < QUIET_LOOKS {
            std::thread::sleep(LOOK);
            quiet = if self.is_quiet() { quiet + 1 } else { 0 };
        }
        self.sync()?;
        Ok(LOOK * QUIET_LOOKS)
    }

    fn stalled(&self) -> Duration {
        Duration::from_nanos(self.stalled_nanos.load(Relaxed))
    }

    fn report(&self) -> String {
        format!("{:#?}", self.engine.shape())
    }

    fn close(self: Box<Self>) -> Result<()> {
        self.worker.stop();
        Ok(self.engine.close()?)
    }
}
