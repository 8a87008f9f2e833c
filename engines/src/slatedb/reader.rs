//! Mounts that only read, beside one that writes: each sees one state of the store after another, and each state whole.
//!
//! A state is a [`DbReader`] that never looks for anything newer. Whether there is something newer is asked for beside it, by the numbers of
//! manifests and of log objects, which only grow: mostly two requests that find nothing. So a state stays what it is for as long as somebody holds
//! it, and nothing is written to the store: credentials that may only read are enough. What a state needs is kept for a while after it is obsolete
//! ([`super::garbage`]).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::TryStreamExt;
use kvfs::base::clock::Clock;
use kvfs::disk::DiskCounters;
use kvfs::engine::remote::Access;
use kvfs::engine::{
    Batch, Done, Engine, Error, Inspect, KeyRange, Kind, Lsn, Options, Price, Promise, ReadAhead, Result,
    Shape, Statistic, Tier, Visit,
};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use slatedb::{DbReader, DbReaderMode};

use super::ENGINE;
use super::ahead::Ahead;
use super::cache::Blocks;
use super::failure::{of_database, of_store};
use super::kinds::Kinds;
use super::log_cache::LogCache;
use super::options::SlateOptions;
use super::site::Place;
use super::statistics::table_bytes;
use super::still_clock::StillClock;
use super::writer::{bounds, scan_options, show};

/// Longest time between two looks at all that is there. Between them only the next number is looked for, which is not found either where a
/// machine slept until the objects behind it were removed.
const LIST_EVERY: Duration = Duration::from_secs(120);
/// The newest objects of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Newest {
    manifest: u64,
    log: u64,
}

/// What the states of a mount have in common.
pub struct Reading {
    place: Place,
    options: SlateOptions,
    price: Option<Price>,
    blocks: Arc<Blocks>,
    objects: Arc<dyn ObjectStore>,
    seen: Mutex<Seen>,
}

/// What is known of the store.
#[derive(Clone, Copy, Debug)]
struct Seen {
    newest: Newest,
    /// When that was the newest.
    looked_at: Instant,
    listed_at: Instant,
    /// States opened.
    states: u64,
}

/// Opens the store as it is durable now.
pub fn open(
    place: Place,
    access: Access,
    _: Arc<dyn Clock>,
    options: &Options,
) -> Result<(Arc<Reading>, Arc<dyn Engine>)> {
    let options = options.own::<SlateOptions>()?.clone();
    let price = place.price(access)?;
    let objects: Arc<dyn ObjectStore> = match access {
        // Each state reads the log anew, of which most is as it was.
        Access::Follow => Arc::new(LogCache::new(place.objects.clone(), options.log_cache_bytes())),
        _ => place.objects.clone(),
    };
    let (blocks, now) = (Arc::new(Blocks::new(options.cache_bytes())), Instant::now());
    let seen = Seen { newest: Newest::default(), looked_at: now, listed_at: now, states: 0 };
    let reading = Arc::new(Reading { place, options, price, blocks, objects, seen: Mutex::new(seen) });
    // Before it is opened, so that what comes meanwhile is not taken for seen.
    let newest = reading.place.wait(reading.list())?;
    let state = reading.state(access)?;
    reading.note(newest, true);
    Ok((reading, state))
}

impl Reading {
    /// The store as it is durable now, if it is not as it was.
    pub fn newer(self: &Arc<Reading>) -> Result<Option<Arc<dyn Engine>>> {
        let Seen { newest, listed_at, .. } = *self.seen.lock();
        let must_list = listed_at.elapsed() > LIST_EVERY;
        if !must_list && !self.place.wait(self.has_newer(newest))? {
            self.note(newest, false);
            return Ok(None);
        }
        let found = self.place.wait(self.list())?;
        let state = if found == newest { None } else { Some(self.state(Access::Follow)?) };
        self.note(found, true);
        Ok(state)
    }

    fn note(&self, newest: Newest, is_listed: bool) {
        let mut seen = self.seen.lock();
        let now = Instant::now();
        (seen.newest, seen.looked_at) = (newest, now);
        if is_listed {
            seen.listed_at = now;
        }
    }

    fn state(self: &Arc<Reading>, access: Access) -> Result<Arc<dyn Engine>> {
        let builder = DbReader::builder(self.place.database(), self.objects.clone());
        let builder = match access {
            // It may take long, and is worth a write.
            Access::Look => builder.with_reader_mode(DbReaderMode::ManagedCheckpoint),
            _ => builder
                .with_reader_mode(DbReaderMode::FollowLatest)
                .with_system_clock(Arc::new(StillClock::default())),
        };
        let db = builder
            .with_options(self.options.reader_options())
            .with_segment_extractor(Arc::new(Kinds))
            .with_db_cache(self.blocks.clone(), 0)
            .build();
        let db = self.place.wait(db).map_err(|error| of_database("opening the database to read", error))?;
        self.seen.lock().states += 1;
        let db = Arc::new(db);
        let runtime = self.place.runtime.handle().clone();
        let ahead = Ahead::new(db.clone(), runtime, self.options.cache_bytes());
        Ok(Arc::new(State { db, ahead, reading: self.clone() }))
    }

    /// The newest objects.
    async fn list(&self) -> Result<Newest> {
        let database = self.place.database();
        let known = self.seen.lock().newest;
        let (manifest, log) = futures::try_join!(
            self.newest_in(database.clone().join("manifest"), "manifest", known.manifest),
            self.newest_in(database.join("wal"), "sst", known.log),
        )?;
        Ok(Newest { manifest, log })
    }

    /// The largest number in `folder`, of which `known` is one.
    async fn newest_in(&self, folder: Path, ending: &str, known: u64) -> Result<u64> {
        let objects = self.place.objects.list_with_offset(Some(&folder), &object(&folder, known, ending));
        let number = |path: &Path| number_of(path, ending);
        objects
            .try_fold(
                known,
                |newest, object| async move { Ok(newest.max(number(&object.location).unwrap_or(0))) },
            )
            .await
            .map_err(|error| of_store(&format!("listing {folder}"), error))
    }

    /// Whether one of the next numbers is there.
    async fn has_newer(&self, newest: Newest) -> Result<bool> {
        let database = self.place.database();
        let manifest = object(&database.clone().join("manifest"), newest.manifest + 1, "manifest");
        let log = object(&database.join("wal"), newest.log + 1, "sst");
        let (manifest, log) = futures::try_join!(self.is_there(&manifest), self.is_there(&log))?;
        Ok(manifest || log)
    }

    async fn is_there(&self, path: &Path) -> Result<bool> {
        match self.place.objects.head(path).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(of_store(&format!("looking for {path}"), error)),
        }
    }
}

/// The object of a number.
fn object(folder: &Path, number: u64, ending: &str) -> Path {
    folder.clone().join(format!("{number:020}.{ending}"))
}

/// The number that is an object's name before `.ending`.
fn number_of(path: &Path, ending: &str) -> Option<u64> {
    path.filename()?.strip_suffix(ending)?.strip_suffix('.')?.parse().ok()
}

/// One state of the store.
struct State {
    db: Arc<DbReader>,
    ahead: Ahead,
    reading: Arc<Reading>,
}

impl Drop for State {
    fn drop(&mut self) {
        // Whoever lets go of it may not wait.
        let db = self.db.clone();
        self.reading.place.runtime.spawn(async move {
            if let Err(error) = db.close().await {
                log::debug!("closing a state: {error}");
            }
        });
    }
}

impl Engine for State {
    fn kind(&self) -> Kind {
        Kind::of(&ENGINE)
    }

    fn get(&self, key: &[u8], tier: Tier) -> Result<Option<Bytes>> {
        match tier {
            Tier::Memory => Err(Error::WouldBlock),
            Tier::Disk => {
                let found = self.reading.place.wait(async {
                    self.ahead.arrived_at(key).await;
                    self.db.get(key).await
                });
                found.map_err(|error| of_database("a read", error))
            }
        }
    }

    fn scan(&self, range: KeyRange<'_>, tier: Tier, visit: &mut Visit<'_>) -> Result<()> {
        let Some(bounds) = bounds(range) else { return Ok(()) };
        if tier == Tier::Memory {
            return Err(Error::WouldBlock);
        }
        let entries = self.reading.place.wait(async {
            self.ahead.arrived(range).await;
            self.db.scan_with_options(bounds, &scan_options()).await
        });
        show(&self.reading.place, entries.map_err(|error| of_database("a scan", error))?, visit)
    }

    fn apply(&self, batch: &Batch, _: Tier) -> Result<Lsn> {
        match batch.is_empty() {
            true => Ok(Lsn::default()),
            false => Err(Error::Invalid("the store is open to read".to_string())),
        }
    }

    fn lsn(&self) -> Lsn {
        Lsn::default()
    }

    /// Nothing is ever new.
    fn sync_to(&self, _: Lsn, done: Done) {
        done(Ok(()));
    }

    fn promise(&self) -> Promise {
        Promise::WHOLE
    }

    /// It is closed when nobody has it any more.
    fn close(&self) -> Result<()> {
        Ok(())
    }

    fn inspect(&self) -> Option<&dyn Inspect> {
        Some(self)
    }

    fn read_ahead(&self) -> Option<&dyn ReadAhead> {
        Some(&self.ahead)
    }
}

impl Inspect for State {
    fn traffic(&self) -> Option<DiskCounters> {
        Some(self.reading.place.meter.traffic())
    }

    /// Of the mount: whichever state is asked.
    fn shape(&self) -> Shape {
        let seen = *self.reading.seen.lock();
        let count = "count";
        let statistics = [
            ("states", Statistic::counter(seen.states, count, "States that were opened.")),
            ("manifest_id", Statistic::gauge(seen.newest.manifest, count, "Newest manifest that is known.")),
            ("log_id", Statistic::gauge(seen.newest.log, count, "Newest object of the log that is known.")),
            (
                "lag_ms",
                Statistic::gauge(
                    seen.looked_at.elapsed().as_millis() as u64,
                    "ms",
                    "Time since the state was known to be the newest.",
                ),
            ),
        ];
        let mut shape =
            Shape { engine: ENGINE.name, statistics: statistics.into_iter().collect(), ..Shape::default() };
        let stored_bytes = Some(table_bytes(&self.db.manifest()));
        shape.objects = Some(self.reading.place.meter.shape(stored_bytes, self.reading.price.clone()));
        shape.cache = self.reading.blocks.shape();
        shape.memory.limit_bytes = Some(self.reading.options.memory_bytes_max());
        shape
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_are_told_by_their_numbers() {
        let number = |path: &str, ending| number_of(&Path::from(path), ending);
        assert_eq!(number("a/db/wal/00000000000000000042.sst", "sst"), Some(42));
        assert_eq!(number("a/db/manifest/00000000000000000007.manifest", "manifest"), Some(7));
        assert_eq!(number("a/db/manifest/00000000000000000007.manifest", "sst"), None);
        assert_eq!(number("a/db/wal/sst", "sst"), None);
    }
}
