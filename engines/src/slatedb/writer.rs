//! The mount that writes.

use std::io;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use kvfs::base::clock::Clock;
use kvfs::disk::DiskCounters;
use kvfs::engine::remote::Access;
use kvfs::engine::{
    Batch, Engine, Error, KeyRange, Kind, Memory, Operation, Options, Price, Promise, ReadAhead, Result,
    Shape, Statistic, Sync, Visit,
};
use slatedb::config::{FlushOptions, FlushType, ScanOptions};
use slatedb::{Db, DbIterator, GarbageCollectorBuilder, WriteBatch};

use super::ENGINE;
use super::ahead::Ahead;
use super::cache::Blocks;
use super::failure::{FENCED, of_database};
use super::garbage::Grace;
use super::kinds::Kinds;
use super::options::SlateOptions;
use super::site::Place;
use super::statistics::{Statistics, table_bytes};
use crate::adapter::{Adapter, Store};

/// Entries that a scan fetches before it shows them, at first and at most: what it shows them to may call the engine, which one thread cannot do
/// while it waits for the object store.
const CHUNK: [usize; 2] = [16, 512];
/// Objects of the log after which the memtable becomes a table, however small it is.
const LOG_OBJECTS_MAX: u64 = 512;
/// Bytes that a scan asks for at once.
const READ_AHEAD_BYTES: usize = 1 << 20;
/// Requests that a scan has under way at once.
const FETCHES: usize = 4;

/// The database, open to write.
struct Writer {
    db: Db,
    place: Place,
    options: SlateOptions,
    blocks: Arc<Blocks>,
    ahead: Ahead,
    statistics: Statistics,
    /// What it costs, if somebody said so.
    price: Option<Price>,
    /// Objects of the log since a memtable became a table.
    log_objects: AtomicU64,
    /// Somebody was told that there was no room.
    is_full: AtomicBool,
}

/// Opens the database, or makes it; who wrote before can write no more.
pub fn open(place: Place, clock: Arc<dyn Clock>, options: &Options) -> Result<Arc<dyn Engine>> {
    let own = options.own::<SlateOptions>()?.clone();
    let price = place.price(Access::Write)?;
    let (blocks, statistics) = (Arc::new(Blocks::new(own.cache_bytes())), Statistics::default());
    let db = Db::builder(place.database(), place.objects.clone())
        .with_settings(own.settings())
        .with_segment_extractor(Arc::new(Kinds))
        .with_db_cache(blocks.clone(), 0)
        .with_metrics_recorder(statistics.recorder())
        .with_gc_builder(
            GarbageCollectorBuilder::new(place.database(), place.objects.clone())
                .with_options(own.garbage_options(false))
                .with_gc_filter(Arc::new(Grace::default())),
        )
        .build();
    let db = place.wait(db).map_err(|error| of_database("opening the database", error))?;
    let ahead = Ahead::new(Arc::new(db.clone()), place.runtime.handle().clone(), own.cache_bytes());
    Ok(Adapter::open(
        Writer {
            db,
            place,
            options: own,
            blocks,
            ahead,
            statistics,
            price,
            log_objects: AtomicU64::new(0),
            is_full: AtomicBool::new(false),
        },
        clock,
        options,
    ))
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
    /// An error, with who has the store now if that is what it tells of. That there was no room is told once: it has ended the database.
    fn failed(&self, what: &str, error: slatedb::Error) -> Error {
        match of_database(what, error) {
            Error::Poisoned(sentence) if sentence == FENCED => {
                let who =
                    self.place.writer().ok().flatten().map_or(String::new(), |holder| format!(" (it is {holder})"));
                Error::Poisoned(format!("{FENCED}{who}"))
            }
            Error::NoSpace if self.is_full.swap(true, Relaxed) => Error::Poisoned(
                "SlateDB has stopped at a full disk: make room; nothing is read or taken until the store is mounted anew".to_string(),
            ),
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

    /// Has the memtable become a table, so that what opens the store after a crash reads little. Nobody waits for it.
    fn shorten_log(&self) {
        let db = self.db.clone();
        self.place.runtime.spawn(async move {
            let flush = FlushOptions { flush_type: FlushType::MemTable };
            if let Err(error) = db.flush_with_options(flush).await {
                log::debug!("making a table of the memtable: {error}");
            }
        });
    }
}

impl Store for Writer {
    fn kind(&self) -> Kind {
        Kind::of(&ENGINE)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let found = self.place.wait(async {
            self.ahead.arrived_at(key).await;
            self.db.get(key).await
        });
        found.map_err(|error| self.failed("a read", error))
    }

    fn scan(&self, range: KeyRange<'_>, visit: &mut Visit<'_>) -> Result<()> {
        let Some(bounds) = bounds(range) else { return Ok(()) };
        let entries = self.place.wait(async {
            self.ahead.arrived(range).await;
            self.db.scan_with_options(bounds, &scan_options()).await
        });
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
        self.place.wait(self.db.write(changes)).map_err(|error| self.failed("a write", error))?;
        self.place.meter.applied(batch);
        Ok(())
    }

    /// One object of the log for everyone who waits: the queue lets one sync run at a time.
    fn sync(&self) -> Result<()> {
        self.place.wait(self.db.flush()).map_err(|error| self.lost("a sync", error))?;
        // Whoever opens the store reads all of the log that is in no table yet, an object at a time.
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

    fn read_ahead(&self) -> Option<&dyn ReadAhead> {
        Some(&self.ahead)
    }

    fn promise(&self) -> Promise {
        let promise = Promise::losing_unsynced(self.options.common.sync == Sync::Always);
        if !self.place.is_local {
            return promise;
        }
        // Of a directory that is full SlateDB makes an error that ends it.
        let (weaker, way_out) = match promise.weaker {
            Some(_) => (
                "the end of the process (kill -9), and a full disk, lose what no sync covers",
                "fsync, or sync=always; after a full disk make room, then mount it anew",
            ),
            None => ("after a full disk it takes nothing more", "make room, then mount it anew"),
        };
        Promise { survives_full_disk: false, weaker: Some(weaker), way_out: Some(way_out), ..promise }
    }

    fn traffic(&self) -> Option<DiskCounters> {
        Some(self.place.meter.traffic())
    }

    fn describe(&self, shape: &mut Shape) {
        shape.cache = self.blocks.shape();
        shape.memory = Memory {
            limit_bytes: Some(self.options.memory_bytes_max()),
            used_bytes: Some(self.statistics.memory_bytes() + shape.cache.bytes),
            ..Memory::default()
        };
        let manifest = self.db.status().current_manifest;
        let table_bytes = table_bytes(&manifest);
        shape.objects = Some(self.place.meter.shape(Some(table_bytes), self.price.clone()));
        let of_manifest = [
            ("manifest.id", Statistic::counter(manifest.id(), "count", "Manifests written so far.")),
            (
                "manifest.writer_epoch",
                Statistic::counter(manifest.writer_epoch(), "count", "Mounts that have written so far."),
            ),
            ("manifest.table_bytes", Statistic::gauge(table_bytes, "bytes", "Bytes of tables.")),
            (
                "manifest.checkpoints",
                Statistic::gauge(manifest.checkpoints().len() as u64, "count", "States that are kept."),
            ),
        ];
        shape.statistics = of_manifest.into_iter().chain(self.statistics.all()).collect();
    }
}
