//! Opening: the manifest, the tables that it names, and what the log holds behind them become the first superversion.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;

use super::commands::Commands;
use super::core::Core;
use super::flusher::flush_replayed;
use super::manifest::Manifest;
use super::memory_budget::MemoryBudget;
use super::memtable::Memtable;
use super::mutable_options::MutableOptions;
use super::set_aside::Lost;
use super::space_budget::SpaceBudget;
use super::survivors::{self, Survivors, ValuesNumber};
use super::table::{Table, TableNumber, TableStore};
use super::value_log::MOVED_KIND;
use super::version::{Superversion, Version};
use super::version_set::VersionSet;
use super::{LsmEngine, Options};
use crate::base::clock::Clock;
use crate::disk::{Disk, LEVELS, Metered};
use crate::engine::cache::BlockCache;
use crate::engine::wal::{self, Log, Segment};
use crate::engine::{Batch, Error, Lsn, Result, SpaceGuard, StallMeter, WakeSignal};

/// Replay of the log into memtables.
struct Replay<'a> {
    table_store: &'a Arc<TableStore>,
    manifest: &'a mut Manifest,
    clock: &'a dyn Clock,
    options: &'a Options,
    mutable: Memtable,
    /// Newest first.
    immutables: Vec<Arc<Memtable>>,
}

impl Replay<'_> {
    /// Takes one record of the log, which ends at `lsn`. The log may hold more than memtables may, if another process wrote it with other
    /// settings: the surplus is flushed meanwhile.
    fn take(&mut self, kind: u8, lsn: Lsn, payload: &Bytes) -> Result<()> {
        match kind {
            wal::FIRST_KIND => {
                let batch = Batch::decode(payload)?;
                self.mutable.apply(&batch, lsn, self.options.value_log_threshold());
            }
            MOVED_KIND => {}
            kind => return Err(Error::corrupt("the log", lsn.number(), format!("a record of kind {kind}"))),
        }
        if self.mutable.due(self.options).is_none() {
            return Ok(());
        }
        self.immutables.insert(0, Arc::new(std::mem::replace(&mut self.mutable, Memtable::new(lsn))));
        if self.immutables.len() as u64 >= self.options.memtable_count_max
            && let Some(oldest) = self.immutables.last()
        {
            match flush_replayed(self.table_store, self.manifest, oldest, self.clock.now()) {
                Ok(()) => drop(self.immutables.pop()),
                // To be read needs none. It is tried again with the next memtable, not with the next record.
                Err(Error::NoSpace) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Opens the tables that the manifest names, and finds the segments of their values; also returns what is missing or damaged.
fn open_tables(
    manifest: &Manifest,
    table_store: &Arc<TableStore>,
    log: &Log,
    survivors: &Survivors,
) -> Result<(Version, Lost)> {
    let in_log = log.segments();
    let mut levels: [Vec<Arc<Table>>; LEVELS] = Default::default();
    let mut lost = Lost::default();
    for ((level, _), meta) in &manifest.state().tables {
        let segment = |(start, _): &(Lsn, u64)| -> Arc<Segment> {
            let found = in_log.get(start).cloned().or_else(|| survivors.segment(*start));
            found.unwrap_or_else(|| lost.segment(*start))
        };
        let segments = meta.values.iter().map(segment).collect();
        let (table, damage) = table_store.open_around(meta, segments)?;
        levels[*level].push(table);
        damage.into_iter().for_each(|error| lost.add_table(meta.number, error));
    }
    Ok((Version::new(levels)?, lost))
}

/// Opens the LSM-tree on `disk`, recovering it if it was not closed. A disk without one gets a new, empty store.
///
/// Everything that is kept in memory is checked while opening: the manifest, and footer, index and filter of each table.
/// [`Error::Corrupt`] if the manifest or the end of the log is damaged: nobody knows then what was acknowledged. Damaged and missing
/// tables and values are set aside.
pub fn open(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, options: &Options) -> Result<Arc<LsmEngine>> {
    let traffic = Metered::new(disk);
    let disk: Arc<dyn Disk> = traffic.clone();
    let space = disk.space().map_err(|error| Error::io("reading free space", error))?;
    let options = options.for_disk(space.total_bytes);
    let names = disk.list().map_err(|error| Error::io("listing the store", error))?;
    let is_of_store = |name: &str| {
        TableNumber::of_file(name).is_some() || wal::is_segment(name) || ValuesNumber::of_file(name).is_some()
    };
    let is_new = !names.iter().any(|info| is_of_store(&info.name));
    let mut manifest = Manifest::open(disk.clone(), options.block_bytes, is_new)?;
    let state = manifest.state();
    // A table that no durable edit names may have a number that the manifest does not know of.
    let used = names
        .iter()
        .filter_map(|info| TableNumber::of_file(&info.name))
        .max()
        .map_or(TableNumber::default(), TableNumber::next);
    let wake_signal = Arc::new(WakeSignal::new());
    let table_store =
        TableStore::new(disk.clone(), wake_signal.clone(), options.clone(), state.next_number.max(used));
    let from = state.log_lsn;
    let held = state.tables.values().flat_map(|meta| meta.values.iter()).map(|(start, _)| *start).collect();
    let survivors = Arc::new(Survivors::open(disk.clone(), options.common.log_segment_bytes, &held)?);
    let held: BTreeSet<Lsn> = held.into_iter().filter(|start| !survivors::is_survivor(*start)).collect();
    let mut replay = Replay {
        table_store: &table_store,
        manifest: &mut manifest,
        clock: &*clock,
        options: &options,
        mutable: Memtable::new(from),
        immutables: Vec::new(),
    };
    let log = Log::open(
        disk.clone(),
        clock.clone(),
        wake_signal.clone(),
        options.common.sync,
        options.common.log_segment_bytes,
        from,
        &held,
        &mut |kind, lsn, payload| replay.take(kind, lsn, &payload),
    )?;
    let Replay { mutable, immutables, .. } = replay;
    let (version, lost) = open_tables(&manifest, &table_store, &log, &survivors)?;
    // Only now: had the log been damaged, tables that look left over might be all there is.
    let kept: BTreeSet<TableNumber> = manifest.state().tables.keys().map(|(_, number)| *number).collect();
    table_store.remove_others(|number| kept.contains(&number))?;
    survivors.remove_others()?;
    let superversion = Superversion { mutable: Arc::new(mutable), immutables, version: Arc::new(version) };
    let guard = SpaceGuard::new(disk, options.common.reserve_bytes, options.common.log_segment_bytes)?;
    let core = Arc::new(Core {
        clock,
        space: SpaceBudget::new(guard, wake_signal.clone(), &options, log.segment_bytes()),
        wake_signal,
        mutable_options: MutableOptions::new(&options),
        event_log: Arc::default(),
        log,
        table_store,
        commands: Commands::default(),
        stalls: StallMeter::default(),
        levels: Arc::default(),
        options,
    });
    let cache = Arc::new(BlockCache::new(core.options.common.cache_bytes));
    let memory = MemoryBudget::new(cache.clone(), core.table_store.clone(), &core.options);
    let versions = Arc::new(VersionSet::new(core.clone(), superversion, manifest, memory));
    core.log.release(versions.flushed());
    versions.set_aside().add_lost(lost);
    // The policy of the last mount may have been another.
    versions.forgive();
    versions.balance_memory();
    let version = versions.superversion().version.clone();
    core.space.keep_ballast(&version);
    core.space.clean_unasked(&version, 0);
    Ok(Arc::new(LsmEngine::new(core, versions, cache, survivors, traffic)))
}
