//! A mount that only reads, beside one that writes.

use std::sync::Arc;

use bytes::Bytes;
use kvfs::base::clock::Clock;
use kvfs::engine::remote::Access;
use kvfs::engine::{Batch, Done, Engine, Error, KeyRange, Kind, Lsn, Options, Promise, Result, Tier, Visit};
use slatedb::{DbReader, DbReaderMode};

use super::ENGINE;
use super::failure::of_database;
use super::options::SlateOptions;
use super::site::Place;
use super::writer::{block_cache, bounds, scan_options, show};

/// The database, open to read.
struct Reader {
    db: DbReader,
    place: Place,
}

/// Opens the database as it is durable now.
pub fn open(place: Place, access: Access, _: Arc<dyn Clock>, options: &Options) -> Result<Arc<dyn Engine>> {
    let own = options.own::<SlateOptions>()?.clone();
    let mut reader_options = own.reader_options();
    if access == Access::Look {
        // It is done before it would look again.
        reader_options.manifest_poll_interval = reader_options.checkpoint_lifetime / 3;
    }
    let db = DbReader::builder(place.database(), place.objects.clone())
        .with_reader_mode(DbReaderMode::ManagedCheckpoint)
        .with_options(reader_options)
        .with_db_cache(block_cache(&own), 0)
        .build();
    let db = place.wait(db).map_err(|error| of_database("opening the database to read", error))?;
    Ok(Arc::new(Reader { db, place }))
}

/// What a mount that only reads answers to who would change something.
fn read_only() -> Error {
    Error::Invalid("it is open to read".to_string())
}

impl Engine for Reader {
    fn kind(&self) -> Kind {
        Kind::of(&ENGINE)
    }

    fn get(&self, key: &[u8], tier: Tier) -> Result<Option<Bytes>> {
        match tier {
            Tier::Memory => Err(Error::WouldBlock),
            Tier::Disk => self.place.wait(self.db.get(key)).map_err(|error| of_database("a read", error)),
        }
    }

    fn scan(&self, range: KeyRange<'_>, tier: Tier, visit: &mut Visit<'_>) -> Result<()> {
        let Some(bounds) = bounds(range) else { return Ok(()) };
        if tier == Tier::Memory {
            return Err(Error::WouldBlock);
        }
        let entries = self.place.wait(self.db.scan_with_options(bounds, &scan_options()));
        show(&self.place, entries.map_err(|error| of_database("a scan", error))?, visit)
    }

    fn apply(&self, batch: &Batch, _: Tier) -> Result<Lsn> {
        if batch.is_empty() { Ok(Lsn::default()) } else { Err(read_only()) }
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

    fn close(&self) -> Result<()> {
        self.place.wait(self.db.close()).map_err(|error| of_database("closing the database", error))
    }
}
