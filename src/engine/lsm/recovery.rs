//! Opening: the manifest, the tables that it names, and what the log holds behind them become the first superversion.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;

use super::commands::Commands;
use super::core::Core;
use super::flusher::flush_replayed;
use super::level_store::LevelStore;
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
use crate::engine::{Batch, Error, EventLog, Lsn, Result, SpaceGuard, StallMeter, WakeSignal};

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

/// Opens the tables that the manifest names, and finds the segments of their values, those of the log `in_log`; also returns what is missing or damaged.
fn open_tables(
    manifest: &Manifest,
    table_store: &Arc<TableStore>,
    in_log: &HashMap<Lsn, Arc<Segment>>,
    survivors: &Survivors,
) -> Result<(Version, Lost)> {
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

/// A level store that is being opened: its manifest is read, its tables are not open yet.
pub struct OpeningLevels {
    disk: Arc<dyn Disk>,
    traffic: Arc<Metered>,
    wake_signal: Arc<WakeSignal>,
    options: Options,
    manifest: Manifest,
    table_store: Arc<TableStore>,
    survivors: Arc<Survivors>,
    /// Where the segments of the log start that tables have values in.
    held: BTreeSet<Lsn>,
}

impl OpeningLevels {
    /// Reads the manifest on `disk`; a disk without one gets a new, empty store, unless a table or another file that `is_of_store` is there.
    pub fn begin(
        disk: Arc<dyn Disk>,
        wake_signal: Arc<WakeSignal>,
        options: &Options,
        is_of_store: impl Fn(&str) -> bool,
    ) -> Result<OpeningLevels> {
        let traffic = Metered::new(disk);
        let disk: Arc<dyn Disk> = traffic.clone();
        let space = disk.space().map_err(|error| Error::io("reading free space", error))?;
        let options = options.for_disk(space.total_bytes);
        let names = disk.list().map_err(|error| Error::io("listing the store", error))?;
        let is_ours = |name: &str| {
            TableNumber::of_file(name).is_some() || ValuesNumber::of_file(name).is_some() || is_of_store(name)
        };
        let is_new = !names.iter().any(|info| is_ours(&info.name));
        let manifest = Manifest::open(disk.clone(), options.block_bytes, is_new)?;
        let state = manifest.state();
        // A table that no durable edit names may have a number that the manifest does not know of.
        let used = names
            .iter()
            .filter_map(|info| TableNumber::of_file(&info.name))
            .max()
            .map_or(TableNumber::default(), TableNumber::next);
        let table_store =
            TableStore::new(disk.clone(), wake_signal.clone(), options.clone(), state.next_number.max(used));
        let held =
            state.tables.values().flat_map(|meta| meta.values.iter()).map(|(start, _)| *start).collect();
        let survivors = Arc::new(Survivors::open(disk.clone(), options.common.log_segment_bytes, &held)?);
        let held = held.into_iter().filter(|start| !survivors::is_survivor(*start)).collect();
        Ok(OpeningLevels { disk, traffic, wake_signal, options, manifest, table_store, survivors, held })
    }

    /// Opens the tables, beneath memtables with what is newer, and removes what no table needs. `log` holds values of tables and has
    /// segments of `segment_bytes`, if there is one; `guard` keeps the reserve, `event_log` takes events.
    pub fn end(
        self,
        clock: Arc<dyn Clock>,
        guard: Arc<SpaceGuard>,
        event_log: Arc<EventLog>,
        (mutable, immutables): (Memtable, Vec<Arc<Memtable>>),
        log: Option<Arc<Log>>,
    ) -> Result<LevelStore> {
        let OpeningLevels { traffic, wake_signal, options, manifest, table_store, survivors, .. } = self;
        let in_log = log.as_ref().map(|log| log.segments()).unwrap_or_default();
        let (version, lost) = open_tables(&manifest, &table_store, &in_log, &survivors)?;
        // Only now: had the log been damaged, tables that look left over might be all there is.
        let kept: BTreeSet<TableNumber> = manifest.state().tables.keys().map(|(_, number)| *number).collect();
        table_store.remove_others(|number| kept.contains(&number))?;
        survivors.remove_others()?;
        let superversion =
            Superversion { mutable: Arc::new(mutable), immutables, version: Arc::new(version) };
        let segment_bytes = log.as_ref().map_or(options.common.log_segment_bytes, |log| log.segment_bytes());
        let core = Arc::new(Core {
            clock,
            space: SpaceBudget::new(guard, wake_signal.clone(), &options, segment_bytes),
            wake_signal,
            mutable_options: MutableOptions::new(&options),
            event_log,
            table_store,
            commands: Commands::default(),
            stalls: StallMeter::default(),
            levels: Arc::default(),
            options,
        });
        let cache = Arc::new(BlockCache::new(core.options.common.cache_bytes));
        let memory = MemoryBudget::new(cache.clone(), core.table_store.clone(), &core.options);
        let versions = Arc::new(VersionSet::new(core.clone(), superversion, manifest, memory));
        if let Some(log) = &log {
            log.release(versions.flushed());
        }
        versions.set_aside().add_lost(lost);
        // The policy of the last mount may have been another.
        versions.forgive();
        versions.balance_memory();
        let version = versions.superversion().version.clone();
        core.space.keep_ballast(&version);
        core.space.clean_unasked(&version, 0);
        Ok(LevelStore::new(core, versions, cache, survivors, log, traffic))
    }
}

/// Opens levels on `disk` for which somebody else has writer and log; a disk without any gets new, empty ones.
pub fn open_levels(
    disk: Arc<dyn Disk>,
    clock: Arc<dyn Clock>,
    options: &Options,
    wake_signal: Arc<WakeSignal>,
    guard: Arc<SpaceGuard>,
    event_log: Arc<EventLog>,
) -> Result<LevelStore> {
    let opening = OpeningLevels::begin(disk, wake_signal, options, |_| false)?;
    opening.end(clock, guard, event_log, (Memtable::new(Lsn::ZERO), Vec::new()), None)
}

/// Opens the LSM-tree on `disk`, recovering it if it was not closed. A disk without one gets a new, empty store.
///
/// Everything that is kept in memory is checked while opening: the manifest, and footer, index and filter of each table.
/// [`Error::Corrupt`] if the manifest or the end of the log is damaged: nobody knows then what was acknowledged. Damaged and missing
/// tables and values are set aside.
pub fn open(disk: Arc<dyn Disk>, clock: Arc<dyn Clock>, options: &Options) -> Result<Arc<LsmEngine>> {
    let wake_signal = Arc::new(WakeSignal::new());
    let mut opening = OpeningLevels::begin(disk, wake_signal.clone(), options, wal::is_segment)?;
    let from = opening.manifest.state().log_lsn;
    let mut replay = Replay {
        table_store: &opening.table_store,
        manifest: &mut opening.manifest,
        clock: &*clock,
        options: &opening.options,
        mutable: Memtable::new(from),
        immutables: Vec::new(),
    };
    let common = opening.options.common;
    let log = Log::open(
        opening.disk.clone(),
        clock.clone(),
        wake_signal,
        common.sync,
        common.log_segment_bytes,
        from,
        &opening.held,
        &mut |kind, lsn, payload| replay.take(kind, lsn, &payload),
    )?;
    let log = Arc::new(log);
    let Replay { mutable, immutables, .. } = replay;
    let guard = SpaceGuard::new(opening.disk.clone(), common.reserve_bytes, common.log_segment_bytes)?;
    let memtables = (mutable, immutables);
    let levels = opening.end(clock, Arc::new(guard), Arc::default(), memtables, Some(log.clone()))?;
    Ok(Arc::new(LsmEngine::new(levels, log)))
}
