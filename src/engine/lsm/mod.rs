#![doc = include_str!("FORMAT.md")]
//!
//! # How it works
//!
//! 1. [`Engine::apply`] appends the batch to the log and inserts it into the *mutable memtable*.
//! 2. A full memtable becomes *immutable*; a flush writes it to a table in L0, then lets go of the log behind it.
//! 3. Merges bring tables from level to level, so that reads meet few sorted runs and old entries give their space back.
//! 4. A read asks memtables, L0 newest first, then one table a level; the first that knows the key has the newest entry.
//!
//! # Invariants
//!
//! 1. The log decides the order of batches; there are no sequence numbers. What is newer lies above what is older: mutable
//!    memtable, immutables newest first, L0 newest first, L1 … L6.
//! 2. A batch lies wholly in one memtable, so in one table of L0.
//! 3. The log is released up to a position only after an edit is durable that puts everything before it into tables.
//! 4. A read works on one *view*, holds no lock while it waits for the disk, and keeps no memtable meanwhile: memtables, those that
//!    are flushed and not freed yet among them, are never more than `memtables` says, but by command.
//!
//! # Lock order
//!
//! `writer`, `flushing` or `merging`, then a change of `versions` (the manifest), then its view; `activity`, `survivors`, those of `mutable_options`, `commands`, `retired` and `shortage`,
//! `set_aside`, `cleaned` and that of the gaps are leaves. `writer` and the view are held for memory and one log write only; `flushing`, `merging` and the manifest are
//! held across disk requests and taken
//! by background work alone; `merging` not while a slice of a merge does a step.

mod assessment;
mod cleaning;
mod commands;
pub mod compaction;
mod cursor;
mod explain;
mod flush;
mod gaps;
mod manifest;
mod memtable;
mod merge;
mod merging;
mod mutable_options;
mod needed;
mod options;
mod report;
mod retired;
mod run;
mod salvage;
mod scan;
mod set_aside;
mod shortage;
mod stall;
mod survivors;
mod table;
mod throttle;
mod value_log;
mod verify;
mod version;
mod version_set;
mod write;

#[cfg(test)]
mod read_tests;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;
use parking_lot::Mutex;

use super::cache::BlockCache;
use super::wal::{self, Log};
use super::{
    Batch, Bell, Class, Command, Descriptor, Done, Engine, Error, FilterMeter, Journal, KeyRange, Kind,
    LevelMeter, Pending, Position, Probe, ProbeMeter, Promise, Result, Shape, SpaceGuard, StallMeter,
    TableInfo, Tier, Visit,
};
use crate::base::clock::Clock;
use crate::disk::{Disk, LEVELS, Metered};
use cleaning::{Cleaned, DELETES_AGAIN};
use commands::{Commands, Task};
use gaps::Gaps;
use manifest::{Edit, Manifest};
use memtable::Memtable;
use merging::Merging;
use mutable_options::MutableOptions;
use set_aside::{Lost, SetAside};
use shortage::Shortage;
use stall::Pace;
use survivors::Survivors;
use table::{Access, Shelf, Table, hash, table_number};
use value_log::MOVED_KIND;
use verify::Verification;
use version::{Version, View};
use version_set::{Change, VersionSet};

pub use options::{BLOOM_BITS_MAX, Compression, LevelCompression, Options, PolicyKind};
pub use salvage::{is_file, salvage};

/// The LSM-tree in the registry.
pub static ENGINE: Descriptor = Descriptor {
    name: "lsm",
    help: "LSM-tree, leveled compaction",
    keeps: true,
    options: || Options::default().into(),
    tiny: || Options::tiny().into(),
    open: |disk, clock, options| Ok(open(disk, clock, options.own()?)?),
    is_file,
    salvage: Some(|disk, _, sink| salvage(&*disk, sink)),
    writes_in_place: false,
    variants: ("policy", || PolicyKind::ALL.iter().map(|policy| policy.name()).collect()),
};

impl From<Options> for super::Options {
    fn from(options: Options) -> super::Options {
        super::Options::new(Kind::LSM, options)
    }
}

/// When to look again whether the last reader of a flushed memtable is gone.
const RETIRED_AGAIN: std::time::Duration = std::time::Duration::from_millis(5);

/// What a structure knows of a key: its value, or with `None` that it was deleted.
pub type Slot = Option<Bytes>;

/// The place of a frame at `offset` of file `number`.
fn place(number: u64, offset: u64) -> u64 {
    number.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ offset
}

/// Counters since the store was opened.
#[derive(Default)]
struct Meters {
    levels: [LevelMeter; LEVELS],
    probes: ProbeMeter,
    /// Sorted sources that scans merge.
    scan_runs: ProbeMeter,
    scan_tombstones: AtomicU64,
    filter: FilterMeter,
    moved_value_bytes: AtomicU64,
    dropped_bytes: AtomicU64,
    temporary_bytes: AtomicU64,
    /// Bytes that running merges may still take.
    merge_owed_bytes: AtomicU64,
    temporary_peak_bytes: AtomicU64,
}

/// What background work does right now, one line each.
#[derive(Default)]
struct Activity {
    flush: Option<String>,
    merges: Vec<String>,
}

/// The LSM-tree.
pub struct LsmEngine {
    clock: Arc<dyn Clock>,
    bell: Arc<Bell>,
    options: Options,
    log: Log,
    space: SpaceGuard,
    shelf: Arc<Shelf>,
    cache: Arc<BlockCache>,
    mutable_options: MutableOptions,
    /// Held by the one who applies a batch.
    writer: Mutex<Pace>,
    versions: VersionSet,
    flushing: Mutex<()>,
    merging: Mutex<Merging>,
    /// What merges cannot read.
    set_aside: SetAside,
    shortage: Shortage,
    /// What need not be cleaned again.
    cleaned: Mutex<Cleaned>,
    /// What passes to the disk, for the rates.
    traffic: Arc<Metered>,
    /// Everything up to here is in tables.
    flushed: AtomicU64,
    /// Values that collection has moved out of the log.
    survivors: Survivors,
    commands: Commands,
    activity: Mutex<Activity>,
    stalls: StallMeter,
    /// Where scans find only tombstones.
    gaps: Gaps,
    meters: Meters,
    journal: Arc<Journal>,
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
    let options = &options.for_disk(space.total_bytes);
    let names = disk.list().map_err(|error| Error::io("listing the store", error))?;
    let is_new = !names.iter().any(|info| table_number(&info.name).is_some() || wal::is_segment(&info.name));
    let mut manifest = Manifest::open(disk.clone(), options.block_bytes, is_new)?;
    let state = manifest.state();
    // A table that no durable edit names may have a number that the manifest does not know of.
    let used = names.iter().filter_map(|info| table_number(&info.name)).max().map_or(0, |number| number + 1);
    let bell = Arc::new(Bell::new());
    let shelf = Shelf::new(disk.clone(), bell.clone(), options.clone(), state.next_number.max(used));
    let from = state.log_position;
    let held = state.tables.values().flat_map(|meta| meta.values.iter()).map(|(start, _)| *start).collect();
    let survivors = Survivors::open(disk.clone(), options.common.log_segment_bytes, &held)?;
    let held = held.into_iter().filter(|start| !survivors::is_survivor(*start)).collect();
    let mut mutable = Memtable::new(from);
    let mut immutables = Vec::new();
    let mut replay = |kind: u8, position: Position, payload: Bytes| {
        match kind {
            wal::FIRST_KIND => {
                mutable.apply(&Batch::decode(&payload)?, position, options.value_log_threshold())
            }
            MOVED_KIND => {}
            kind => return Err(Error::corrupt("the log", position, format!("a record of kind {kind}"))),
        }
        if mutable.due(options).is_none() {
            return Ok(());
        }
        immutables.insert(0, Arc::new(std::mem::replace(&mut mutable, Memtable::new(position))));
        // The log may be longer than memtables may be large: another process wrote it, with other settings.
        if immutables.len() as u64 >= options.memtable_count_max
            && let Some(oldest) = immutables.last()
        {
            match flush::flush_replayed(&shelf, &mut manifest, oldest, clock.now()) {
                Ok(()) => drop(immutables.pop()),
                // To be read needs none. It is tried again with the next memtable, not with the next record.
                Err(Error::NoSpace) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    };
    let (sync, segment_bytes) = (options.common.sync, options.common.log_segment_bytes);
    let (for_log, its_clock, its_bell) = (disk.clone(), clock.clone(), bell.clone());
    let log = Log::open(for_log, its_clock, its_bell, sync, segment_bytes, from, &held, &mut replay)?;
    let segments = log.segments();
    let state = manifest.state();
    let from = state.log_position;
    let mut levels: [Vec<Arc<Table>>; LEVELS] = Default::default();
    let mut lost = Lost::default();
    for ((level, _), meta) in &state.tables {
        let segment = |(start, _): &(Position, u64)| {
            let found = segments.get(start).cloned().or_else(|| survivors.segment(*start));
            found.unwrap_or_else(|| lost.segment(*start))
        };
        let segments = meta.values.iter().map(segment).collect();
        let (table, damage) = shelf.open_around(meta, segments)?;
        levels[*level].push(table);
        damage.into_iter().for_each(|error| lost.add_table(meta.number, error));
    }
    drop(segments);
    let version = Version::new(levels)?;
    // Only now: had the log been damaged, tables that look left over might be all there is.
    let kept: std::collections::BTreeSet<u64> = state.tables.keys().map(|(_, number)| *number).collect();
    shelf.remove_others(|number| kept.contains(&number))?;
    survivors.remove_others()?;
    let view = View { mutable: Arc::new(mutable), immutables, version: Arc::new(version) };
    let engine = LsmEngine {
        clock,
        bell,
        options: options.clone(),
        log,
        space: SpaceGuard::new(disk, options.common.reserve_bytes, options.common.log_segment_bytes)?,
        shelf,
        cache: Arc::new(BlockCache::new(options.common.cache_bytes)),
        mutable_options: MutableOptions::new(options),
        writer: Mutex::default(),
        versions: VersionSet::new(view, manifest),
        flushing: Mutex::default(),
        merging: Mutex::default(),
        set_aside: SetAside::default(),
        shortage: Shortage::default(),
        cleaned: Mutex::default(),
        flushed: AtomicU64::new(from),
        survivors,
        traffic,
        commands: Commands::default(),
        activity: Mutex::default(),
        stalls: StallMeter::default(),
        gaps: Gaps::default(),
        meters: Meters::default(),
        journal: Arc::default(),
    };
    engine.log.release(from);
    engine.set_lost_aside(lost);
    // The policy of the last mount may have been another.
    engine.forgive();
    engine.balance_memory();
    engine.keep_ballast();
    if engine.is_more_deleted_than_free(&engine.view().version, 0) {
        engine.clean_unasked();
    }
    Ok(Arc::new(engine))
}

/// What one point read asked of filters; counted when it succeeds, so that a read that is asked again counts once.
#[derive(Default)]
struct Probes {
    structures: u64,
    levels: [u64; LEVELS],
    checks: u64,
    useful: u64,
    false_positives: u64,
}

impl LsmEngine {
    /// Everything a read needs, as it is now.
    fn view(&self) -> Arc<View> {
        self.versions.view()
    }

    fn find(&self, key: &[u8], tier: Tier, probes: &mut Probes) -> Result<Option<Slot>> {
        let (known, version) = self.versions.look(|view| {
            for memtable in view.memtables().filter(|memtable| !memtable.is_empty()) {
                probes.structures += 1;
                if let Some(slot) = memtable.get(key) {
                    return (Some(slot), None);
                }
            }
            (None, Some(view.version.clone()))
        });
        let Some(version) = version else { return Ok(known) };
        let hash = hash(key);
        let access = Access::get(&self.cache, tier);
        let upper = version.level(0).iter().filter(|table| table.overlaps(key, key)).map(|table| (0, table));
        let lower = (1..LEVELS).filter_map(|level| Some((level, version.level(level).find(key)?)));
        for (level, table) in upper.chain(lower) {
            let part = table.part_of(key);
            if table.has_filter() {
                probes.checks += 1;
                if !table.may_contain(part, hash, access)? {
                    probes.useful += 1;
                    continue;
                }
            }
            probes.structures += 1;
            probes.levels[level] += 1;
            if let Some(slot) = table.get(part, key, access)? {
                return Ok(Some(slot));
            }
            probes.false_positives += u64::from(table.has_filter());
        }
        Ok(None)
    }

    /// Makes `edit` durable and then visible, see [`Change::install`], and tells those who wait for what it brings.
    fn install(
        &self,
        change: &mut Change<'_>,
        edit: &Edit,
        removed: &[(usize, Arc<Table>)],
        added: &[(usize, Arc<Table>)],
        flushed: Option<&Arc<Memtable>>,
    ) -> Result<()> {
        let replaced = change.install(edit, removed, added, flushed, |version| self.assess(version))?;
        self.shortage.expect_space();
        let gone = |(_, table): &&(usize, Arc<Table>)| added.iter().all(|(_, it)| it.number != table.number);
        let gone: Vec<&Arc<Table>> = removed.iter().filter(gone).map(|(_, table)| table).collect();
        self.set_aside.forget(&gone, &self.view().version);
        gone.iter().for_each(|table| table.retire());
        drop(replaced);
        self.balance_memory();
        self.bell.ring(Class::Room);
        self.bell.ring(Class::Merge);
        Ok(())
    }

    /// What memtables, cache, and resident indexes and filters may take together.
    fn memory_bytes_max(&self) -> u64 {
        self.options.common.memory_bytes_max(self.options.memtables_bytes_max())
    }

    /// Lets the cache give way for what cannot: memtables, tables, and what is resident of those. It keeps an eighth of its share in any
    /// case: without a cache every read of a very large store would go to the disk.
    fn balance_memory(&self) {
        let options = &self.options;
        let memtables = options.memtables_bytes_max();
        let memtables = memtables.max(self.view().memtable_bytes() + self.versions.retired().bytes());
        let resident = self.shelf.resident_bytes();
        let room = self.memory_bytes_max().saturating_sub(memtables).min(options.common.cache_bytes);
        self.cache.set_bytes_max(room.saturating_sub(resident).max(room / 8));
    }

    /// Frees the flushed memtables that nobody reads any more; whether none is left.
    fn free_retired(&self) -> bool {
        let (any, is_empty) = self.versions.retired().free_unread();
        if any {
            self.balance_memory();
            self.bell.ring(Class::Room);
        }
        is_empty
    }

    fn reclaim_work(&self) -> Result<Pending> {
        if self.shelf.reclaim() {
            return Ok(Pending::More);
        }
        self.keep_ballast();
        self.log.reuse();
        self.survivors.reclaim();
        if let Some((mut verification, done)) = self.commands.take_verification() {
            match verification.step(&self.shelf) {
                Ok(false) => self.commands.add(Task::Verify(verification), done),
                Ok(true) => done(Ok(())),
                Err(error) => done(Err(error)),
            }
            return Ok(Pending::More);
        }
        if !self.free_retired() {
            return Ok(Pending::After(RETIRED_AGAIN));
        }
        Ok(if self.flush_last_deletes() { Pending::After(DELETES_AGAIN) } else { Pending::Idle })
    }
}

impl Engine for LsmEngine {
    fn get(&self, key: &[u8], tier: Tier) -> Result<Option<Bytes>> {
        let mut probes = Probes::default();
        let found = self.find(key, tier, &mut probes)?;
        self.meters.probes.record(probes.structures);
        for (meter, count) in self.meters.levels.iter().zip(probes.levels).filter(|(_, count)| *count > 0) {
            meter.probes.fetch_add(count, Relaxed);
        }
        if probes.checks > 0 {
            self.meters.filter.checks.fetch_add(probes.checks, Relaxed);
            self.meters.filter.useful.fetch_add(probes.useful, Relaxed);
            self.meters.filter.false_positives.fetch_add(probes.false_positives, Relaxed);
        }
        Ok(found.flatten())
    }

    fn scan(&self, range: KeyRange<'_>, tier: Tier, visit: &mut Visit<'_>) -> Result<()> {
        self.scan_range(range, tier, visit)
    }

    fn apply(&self, batch: &Batch, _: Tier) -> Result<Position> {
        self.write(batch)
    }

    fn position(&self) -> Position {
        self.log.end()
    }

    fn sync_to(&self, position: Position, done: Done) {
        self.log.sync_to(position, done);
    }

    fn work(&self, class: Class) -> Result<Pending> {
        match class {
            Class::Log => self.log.work(),
            Class::Flush => self.flush_work(),
            Class::Merge => self.merge_work(),
            Class::Reclaim => self.reclaim_work(),
            Class::Room => Ok(Pending::Idle),
        }
    }

    fn threads(&self, class: Class) -> usize {
        if class == Class::Merge { self.options.merge_threads as usize } else { 1 }
    }

    fn run(&self, command: Command, done: Done) {
        let (task, class) = match command {
            Command::DropCaches => {
                self.cache.clear();
                return done(Ok(()));
            }
            Command::Flush | Command::Checkpoint => (Task::Flush(self.rotate_now()), Class::Flush),
            Command::Compact => {
                let position = self.rotate_now();
                (Task::Compact { position, level: None, is_started: false }, Class::Merge)
            }
            Command::CompactLevel(level) if level + 1 >= LEVELS => {
                let last = LEVELS - 1;
                let why = format!("L{level} has no level below it to go into: levels are 0 to {last}");
                return done(Err(Error::Invalid(why)));
            }
            Command::CompactLevel(level) => {
                // What lies in the level now is there already.
                (Task::Compact { position: 0, level: Some(level), is_started: false }, Class::Merge)
            }
            Command::Verify => {
                (Task::Verify(Box::new(Verification::new(&self.view().version))), Class::Reclaim)
            }
        };
        self.commands.add(task, done);
        self.bell.ring(Class::Flush);
        self.bell.ring(class);
    }

    fn set(&self, name: &str, value: &str) -> Result<()> {
        self.change(name, value)
    }

    fn shape(&self) -> Shape {
        self.report()
    }

    fn journal(&self) -> Option<&Arc<Journal>> {
        Some(&self.journal)
    }

    fn tables(&self) -> Vec<TableInfo> {
        self.list_tables()
    }

    fn explain(&self, key: &[u8], tier: Tier) -> Result<Vec<Probe>> {
        self.explain_key(key, tier)
    }

    fn promise(&self) -> Promise {
        Promise { prefix: true, survives_kill: true }
    }

    fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    fn close(&self) -> Result<()> {
        // What they have taken may be all that a flush needs.
        self.stop_merging();
        self.rotate_now();
        let flushed = loop {
            match self.flush() {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        while self.shelf.reclaim() {}
        self.survivors.reclaim();
        self.keep_ballast();
        // What could not be flushed is in the log.
        self.log.sync_now()?;
        self.commands.end(&Err(Error::Invalid("the store is closed".to_string())), |_| true);
        flushed
    }
}
