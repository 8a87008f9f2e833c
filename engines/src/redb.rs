//! redb: a copy-on-write B-tree. Writes that need not be durable form a chain that the next durable commit seals.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use kvfs::base::clock::Clock;
use kvfs::base::text::{BadText, Field};
use kvfs::engine::{
    Batch, Common, Descriptor, Engine, Home, KeyRange, Kind, Operation, Options, OwnOptions, Promise, Result,
    Visit,
};
use redb::{Database, Durability, ReadableDatabase, TableDefinition};

use crate::adapter::{Adapter, Store, failed};

const TABLE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("kv");
const FILE: &str = "kv.redb";

/// The engine.
pub static ENGINE: Descriptor = Descriptor {
    name: "redb",
    help: "redb, a copy-on-write B-tree",
    keeps: true,
    options: || Options::new(Kind::of(&ENGINE), RedbOptions::default()),
    tiny: || Options::new(Kind::of(&ENGINE), RedbOptions::tiny()),
    home: Home::Directory(open),
    is_file: |_| false,
    salvage: None,
    writes_in_place: true,
    variants: ("", Vec::new),
};

/// None of its own: its cache also holds what is not written yet.
#[derive(Clone, Debug, Default, PartialEq)]
struct RedbOptions {
    common: Common,
}

impl OwnOptions for RedbOptions {
    const FIELDS: &'static [Field<RedbOptions>] = &[];

    fn tiny() -> RedbOptions {
        RedbOptions { common: Common { cache_bytes: 1 << 20, ..Common::tiny() } }
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn common_mut(&mut self) -> &mut Common {
        &mut self.common
    }

    fn divide(&mut self, memory_bytes: u64) {
        self.common.cache_bytes = memory_bytes;
    }

    fn validate(&self) -> std::result::Result<(), BadText> {
        self.common.validate(0, "buffers")
    }
}

struct Redb(Database);

fn open(directory: &Path, clock: Arc<dyn Clock>, options: &Options) -> Result<Arc<dyn Engine>> {
    let cache_bytes = options.common().cache_bytes as usize;
    let database = Database::builder()
        .set_cache_size(cache_bytes)
        .create(directory.join(FILE))
        .map_err(|error| failed("opening the database", error))?;
    let store = Redb(database);
    // Reads need the table.
    store.commit(Durability::Immediate, &Batch::new(0))?;
    Ok(Adapter::open(store, clock, options))
}

impl Redb {
    fn commit(&self, durability: Durability, batch: &Batch) -> Result<()> {
        let mut transaction = self.0.begin_write().map_err(|error| failed("beginning a write", error))?;
        transaction.set_durability(durability).map_err(|error| failed("beginning a write", error))?;
        {
            let mut table =
                transaction.open_table(TABLE).map_err(|error| failed("opening the table", error))?;
            for operation in batch.operations() {
                match operation {
                    Operation::Put { key, value } => table.insert(&key[..], &value[..]).map(drop),
                    Operation::Delete { key } => table.remove(&key[..]).map(drop),
                }
                .map_err(|error| failed("a write", error))?;
            }
        }
        transaction.commit().map_err(|error| failed("a commit", error))
    }
}

impl Store for Redb {
    fn kind(&self) -> Kind {
        Kind::of(&ENGINE)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let read = self.0.begin_read().map_err(|error| failed("beginning a read", error))?;
        let table = read.open_table(TABLE).map_err(|error| failed("opening the table", error))?;
        let value = table.get(key).map_err(|error| failed("a read", error))?;
        Ok(value.map(|value| Bytes::copy_from_slice(value.value())))
    }

    fn scan(&self, range: KeyRange<'_>, visit: &mut Visit<'_>) -> Result<()> {
        let read = self.0.begin_read().map_err(|error| failed("beginning a read", error))?;
        let table = read.open_table(TABLE).map_err(|error| failed("opening the table", error))?;
        for entry in table.range(range.start..).map_err(|error| failed("a scan", error))? {
            let (key, value) = entry.map_err(|error| failed("a scan", error))?;
            if !range.is_before_end(key.value()) || visit(key.value(), value.value()).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, batch: &Batch) -> Result<()> {
        self.commit(Durability::None, batch)
    }

    fn sync(&self) -> Result<()> {
        self.commit(Durability::Immediate, &Batch::new(0))
    }

    fn settle(&self) -> Result<()> {
        // The second commit frees the pages that the first one still had to keep.
        self.sync()?;
        self.sync()
    }

    fn promise(&self) -> Promise {
        Promise {
            prefix: true,
            // What is not durable is in its memory alone.
            survives_kill: false,
            weaker: Some("the end of the process (kill -9) loses what no sync covers"),
            way_out: Some("fsync, or sync=always"),
        }
    }
}
