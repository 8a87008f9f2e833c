//! fjall: a leveled LSM-tree, with large values in files of their own if `blob=on`.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use fjall::compaction::Leveled;
use fjall::config::{BlockSizePolicy, CompressionPolicy};
use fjall::{CompressionType, Database, Keyspace, KeyspaceCreateOptions, KvSeparationOptions, PersistMode};
use kvfs::base::clock::Clock;
use kvfs::base::text::{BadText, Field};
use kvfs::engine::{
    Batch, Common, Descriptor, Engine, Home, KeyRange, Kind, Operation, Options, OwnOptions, Promise, Result,
    Visit,
};

use crate::adapter::{Adapter, Store, failed};
use crate::options::{count, size, switch};

/// The engine.
pub static ENGINE: Descriptor = Descriptor {
    name: "fjall",
    help: "fjall, a leveled LSM-tree",
    keeps: true,
    options: || Options::new(Kind::of(&ENGINE), FjallOptions::default()),
    tiny: || Options::new(Kind::of(&ENGINE), FjallOptions::tiny()),
    home: Home::Directory(open),
    is_file: |_| false,
    salvage: None,
    writes_in_place: false,
    variants: ("", Vec::new),
};

#[derive(Clone, Debug, PartialEq)]
struct FjallOptions {
    common: Common,
    memtable_bytes: u64,
    table_bytes: u64,
    block_bytes: u64,
    worker_threads: u64,
    separates: bool,
}

impl Default for FjallOptions {
    fn default() -> FjallOptions {
        FjallOptions {
            common: Common::default(),
            memtable_bytes: 64 << 20,
            table_bytes: 64 << 20,
            block_bytes: 4 << 10,
            worker_threads: 2,
            separates: false,
        }
    }
}

impl OwnOptions for FjallOptions {
    const FIELDS: &'static [Field<FjallOptions>] = &[
        size!("max_memtable_size", memtable_bytes, "Bytes of a memtable."),
        size!("table_target_size", table_bytes, "Bytes of a table file."),
        size!("data_block_size", block_bytes, "Bytes of a block."),
        count!("worker_threads", worker_threads, "Threads that flush and compact."),
        switch!("kv_separation", separates, "Values of 1 KiB and more lie in files of their own."),
    ];

    fn tiny() -> FjallOptions {
        FjallOptions {
            common: Common { cache_bytes: 256 << 10, ..Common::tiny() },
            memtable_bytes: 64 << 10,
            table_bytes: 64 << 10,
            ..FjallOptions::default()
        }
    }

    fn common(&self) -> &Common {
        &self.common
    }

    fn common_mut(&mut self) -> &mut Common {
        &mut self.common
    }

    fn divide(&mut self, memory_bytes: u64) {
        self.common.cache_bytes = memory_bytes / 2;
        (self.memtable_bytes, self.table_bytes) = (memory_bytes / 4, memory_bytes / 4);
    }

    fn validate(&self) -> std::result::Result<(), BadText> {
        if self.memtable_bytes == 0 || self.table_bytes == 0 || self.worker_threads == 0 {
            return Err("max_memtable_size, table_target_size and worker_threads must be above 0".into());
        }
        if !(1 << 10..=512 << 10).contains(&self.block_bytes) {
            return Err(format!("data_block_size={} is not from 1K to 512K", self.block_bytes).into());
        }
        self.common.validate(self.memtable_bytes, "a memtable")
    }
}

struct Fjall {
    database: Database,
    keyspace: Keyspace,
    cache_bytes: u64,
}

fn open(directory: &Path, clock: Arc<dyn Clock>, options: &Options) -> Result<Arc<dyn Engine>> {
    let own: FjallOptions = options.own::<FjallOptions>()?.clone();
    let cache_bytes = own.common.cache_bytes;
    let database = Database::builder(directory)
        .cache_size(cache_bytes)
        .worker_threads(own.worker_threads as usize)
        .open()
        .map_err(|error| failed("opening the database", error))?;
    let create = move || {
        let options = KeyspaceCreateOptions::default()
            .max_memtable_size(own.memtable_bytes)
            .data_block_compression_policy(CompressionPolicy::all(CompressionType::None))
            .data_block_size_policy(BlockSizePolicy::all(own.block_bytes as u32))
            .compaction_strategy(Arc::new(Leveled::default().with_table_target_size(own.table_bytes)));
        let separation =
            KvSeparationOptions::default().separation_threshold(1024).compression(CompressionType::None);
        options.with_kv_separation(own.separates.then_some(separation))
    };
    let keyspace = database.keyspace("kv", create).map_err(|error| failed("opening the keyspace", error))?;
    Ok(Adapter::open(Fjall { database, keyspace, cache_bytes }, clock, options))
}

impl Store for Fjall {
    fn kind(&self) -> Kind {
        Kind::of(&ENGINE)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let value = self.keyspace.get(key).map_err(|error| failed("a read", error))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, range: KeyRange<'_>, visit: &mut Visit<'_>) -> Result<()> {
        for entry in self.keyspace.range(range.start..) {
            let (key, value) = entry.into_inner().map_err(|error| failed("a scan", error))?;
            if !range.is_before_end(&key) || visit(&key, &value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, batch: &Batch) -> Result<()> {
        let applied = match batch.operations() {
            [Operation::Put { key, value }] => self.keyspace.insert(&key[..], &value[..]),
            [Operation::Delete { key }] => self.keyspace.remove(&key[..]),
            operations => {
                let mut changes = self.database.batch();
                for operation in operations {
                    match operation {
                        Operation::Put { key, value } => changes.insert(&self.keyspace, &key[..], &value[..]),
                        Operation::Delete { key } => changes.remove(&self.keyspace, &key[..]),
                    }
                }
                changes.commit()
            }
        };
        applied.map_err(|error| failed("a write", error))
    }

    fn sync(&self) -> Result<()> {
        self.database.persist(PersistMode::SyncData).map_err(|error| failed("a sync", error))
    }

    fn settle(&self) -> Result<()> {
        self.keyspace.rotate_memtable_and_wait().map_err(|error| failed("a flush", error))
    }

    fn compact(&self) -> Result<()> {
        self.settle()?;
        self.keyspace.major_compact().map_err(|error| failed("a compaction", error))
    }

    fn promise(&self) -> Promise {
        Promise::WHOLE
    }

    fn jobs(&self) -> Vec<String> {
        let jobs = [
            (self.database.active_compactions() as u64, "compactions"),
            (self.database.outstanding_flushes() as u64, "flushes"),
        ];
        jobs.into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect()
    }

    fn cache_bytes(&self) -> [u64; 2] {
        [0, self.cache_bytes]
    }
}
