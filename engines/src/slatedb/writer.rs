//! The mount that writes.

use std::io;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use kvfs::base::clock::Clock;
use kvfs::disk::DiskCounters;
use kvfs::engine::{
    Batch, Engine, Error, KeyRange, Kind, Memory, Operation, Options, Promise, Result, Shape, Statistic,
    Sync, Visit,
};
use slatedb::config::{FlushOptions, FlushType, ScanOptions};
use slatedb::db_cache::moka::{MokaCache, MokaCacheOptions};
use slatedb::{Db, DbIterator, GarbageCollectorBuilder, WriteBatch};

use super::ENGINE;
use super::failure::{FENCED, of_database};
use super::garbage::Grace;
use super::kinds::Kinds;
use super::options::SlateOptions;
use super::site::Place;
use crate::adapter::{Adapter, Store};

/// Entries that a scan fetches before it shows them, at first and at most: what it shows them to may call the engine, which one thread cannot do
/// while it waits for the object store.
const CHUNK: [usize; 2] = [16, 512];
/// Bytes that a scan asks for at once.
const READ_AHEAD_BYTES: usize = 1 << 20;
/// Requests that a scan has under way at once.
const FETCHES: usize = 4;

/// Syncs after which what is in memory becomes tables, however little it is: each is an object of the log, which the next mount has to read. 4000
/// of them took it 2.4 s on a server of this machine, and SlateDB by itself waits for 4096.
const LOG_OBJECTS_MAX: u64 = 512;

/// The database, open to write.
struct Writer {
    db: Db,
    /// Objects of the log since the last such flush, at most.
    log_objects: AtomicU64,
    place: Place,
    options: SlateOptions,
}

/// Opens the database, or makes it; who wrote before can write no more.
pub fn open(place: Place, clock: Arc<dyn Clock>, options: &Options) -> Result<Arc<dyn Engine>> {
    let own = options.own::<SlateOptions>()?.clone();
    let db = Db::builder(place.database(), place.objects.clone())
        .with_settings(own.settings())
        .with_segment_extractor(Arc::new(Kinds))
        .with_db_cache(block_cache(&own), 0)
        .with_gc_builder(
            GarbageCollectorBuilder::new(place.database(), place.objects.clone())
                .with_options(own.garbage_options(false))
                .with_gc_filter(Arc::new(Grace::default())),
        )
        .build();
    let db = place.wait(db).map_err(|error| of_database("opening the database", error))?;
    Ok(Adapter::open(Writer { db, log_objects: AtomicU64::new(0), place, options: own }, clock, options))
}

/// The cache of blocks in memory.
pub fn block_cache(options: &SlateOptions) -> Arc<MokaCache> {
    let max_capacity = options.cache_bytes();
    Arc::new(MokaCache::new_with_opts(MokaCacheOptions {
        max_capacity,
        time_to_live: None,
        time_to_idle: None,
    }))
}

/// How a scan of ours asks for what it needs.
pub fn scan_options() -> ScanOptions {
    ScanOptions::default()
        .with_read_ahead_bytes(READ_AHEAD_BYTES)
        .with_max_fetch_tasks(FETCHES)
        .with_cache_blocks(true)
}

/// A range as SlateDB takes it; `None` if there is nothing in it.
pub fn bounds(range: KeyRange<'_>) -> Option<(Bound<Bytes>, Bound<Bytes>)> {
    if !range.is_before_end(range.start) {
        return None;
    }
    let end = range.end.map_or(Bound::Unbounded, |end| Bound::Excluded(Bytes::copy_from_slice(end)));
    Some((Bound::Included(Bytes::copy_from_slice(range.start)), end))
}

/// Shows what `entries` yields. Nothing is waited for while `visit` runs.
pub fn show(place: &Place, mut entries: DbIterator, visit: &mut Visit<'_>) -> Result<()> {
    let [mut most, most_max] = CHUNK;
    loop {
        let fetch = async {
            let mut chunk = Vec::with_capacity(most);
            while chunk.len() < most
                && let Some(entry) = entries.next().await?
            {
                chunk.push(entry);
            }
            Ok(chunk)
        };
        let chunk: Vec<slatedb::KeyValue> =
            place.wait(fetch).map_err(|error| of_database("a scan", error))?;
        let is_last = chunk.len() < most;
        for entry in chunk {
            if let ControlFlow::Break(()) = visit(&entry.key, &entry.value) {
                return Ok(());
            }
        }
        if is_last {
            return Ok(());
        }
        most = (most * 2).min(most_max);
    }
}

impl Writer {
    /// Has what is in memory become tables, which nobody waits for.
    fn shorten_log(&self) {
        let db = self.db.clone();
        self.place.runtime.spawn(async move {
            let flush = FlushOptions { flush_type: FlushType::MemTable };
            // Who writes next is told of what it fails with.
            if let Err(error) = db.flush_with_options(flush).await {
                log::warn!("the log is not shortened: {error}");
            }
        });
    }

    /// An error, with who has the store now if that is what it tells of.
    fn failed(&self, what: &str, error: slatedb::Error) -> Error {
        match of_database(what, error) {
            Error::Poisoned(_) => {
                let who = self
                    .place
                    .writer()
                    .ok()
                    .flatten()
                    .map_or(String::new(), |holder| format!(" (it is {holder})"));
                Error::Poisoned(format!("{FENCED}{who}"))
            }
            other => other,
        }
    }

    /// The same of something that had been accepted: what is lost is an error of input and output, not of who may write.
    fn lost(&self, what: &str, error: slatedb::Error) -> Error {
        match self.failed(what, error) {
            Error::Poisoned(sentence) => Error::io(what, io::Error::other(sentence)),
            other => other,
        }
    }
}

impl Store for Writer {
    fn kind(&self) -> Kind {
        Kind::of(&ENGINE)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.place.wait(self.db.get(key)).map_err(|error| self.failed("a read", error))
    }

    fn scan(&self, range: KeyRange<'_>, visit: &mut Visit<'_>) -> Result<()> {
        let Some(bounds) = bounds(range) else { return Ok(()) };
        let entries = self.place.wait(self.db.scan_with_options(bounds, &scan_options()));
        show(&self.place, entries.map_err(|error| self.failed("a scan", error))?, visit)
    }

    fn apply(&self, batch: &Batch) -> Result<()> {
        let mut changes = WriteBatch::new();
        for operation in batch.operations() {
            match operation {
                Operation::Put { key, value } => changes.put_bytes(key.clone(), value.clone()),
                Operation::Delete { key } => changes.delete(key),
            }
        }
        self.place.wait(self.db.write(changes)).map(drop).map_err(|error| self.failed("a write", error))
    }

    fn sync(&self) -> Result<()> {
        self.place.wait(self.db.flush()).map_err(|error| self.lost("a sync", error))?;
        if self.log_objects.fetch_add(1, Relaxed) + 1 >= LOG_OBJECTS_MAX {
            self.log_objects.store(0, Relaxed);
            self.shorten_log();
        }
        Ok(())
    }

    fn settle(&self) -> Result<()> {
        let flush = FlushOptions { flush_type: FlushType::MemTable };
        self.place.wait(self.db.flush_with_options(flush)).map_err(|error| self.lost("a flush", error))
    }

    /// Everything is synced by now, so who has been fenced meanwhile has lost nothing.
    fn close(&self) -> Result<()> {
        match self.place.wait(self.db.close()).map_err(|error| self.failed("closing the database", error)) {
            Err(Error::Poisoned(sentence)) => {
                log::warn!("everything was synced before this: {sentence}");
                Ok(())
            }
            closed => closed,
        }
    }

    fn promise(&self) -> Promise {
        Promise::losing_unsynced(self.options.common.sync == Sync::Always)
    }

    fn traffic(&self) -> Option<DiskCounters> {
        Some(self.place.meters.traffic())
    }

    fn describe(&self, shape: &mut Shape) {
        shape.requests = Some(self.place.meters.requests());
        shape.cache.bytes_max = self.options.cache_bytes();
        shape.memory = Memory { limit_bytes: Some(self.options.memory_bytes_max()), ..Memory::default() };
        let status = self.db.status();
        let manifest = status.current_manifest;
        let (count, bytes) = ("count", "bytes");
        let views = || manifest.all_sst_views();
        shape.statistics = [
            ("manifest_id", Statistic::counter(manifest.id(), count, "manifests written so far")),
            ("writer_epoch", Statistic::counter(manifest.writer_epoch(), count, "mounts that wrote so far")),
            (
                "l0_tables",
                Statistic::gauge(manifest.l0().len() as u64, count, "tables that are not merged yet"),
            ),
            ("sorted_runs", Statistic::gauge(manifest.compacted().len() as u64, count, "sorted runs")),
            ("tables", Statistic::gauge(views().count() as u64, count, "tables")),
            (
                "table_bytes",
                Statistic::gauge(
                    views().map(|view| view.estimate_size()).sum::<u64>(),
                    bytes,
                    "bytes of tables",
                ),
            ),
            (
                "checkpoints",
                Statistic::gauge(
                    manifest.checkpoints().len() as u64,
                    count,
                    "states that are kept for readers",
                ),
            ),
        ]
        .into_iter()
        .collect();
        shape.debt.l0_files = manifest.l0().len() as u64;
    }
}
