//! The level store: tables in levels, the manifest that names them, merges, the cache, and reads through all of it. It has no log and
//! no writer: whoever stands above it brings the entries, by flushing memtables ([`super::LsmEngine`]) or by handing in tables that are newer
//! than everything here ([`LevelStore::ingest`]).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;

use super::commands::PendingCommand;
use super::compactor::Compactor;
use super::core::Core;
use super::deleted_ranges::DeletedRanges;
use super::reader::Reader;
use super::reclaimer::Reclaimer;
use super::survivors::Survivors;
use super::table::Table;
use super::verify::Verification;
use super::version_set::VersionSet;
use crate::disk::{LEVELS, Metered, Purpose, Space};
use crate::engine::cache::BlockCache;
use crate::engine::wal::{Log, LogShape};
use crate::engine::{
    AtomicLsn, Command, Debt, Done, Error, KeyRange, Level, LevelMeter, LevelTraffic, Lsn, Memory, Pending,
    Probe, Probes, Result, Shape, Stalls, TableInfo, Tier, Visit, WorkClass, lacks_files,
};

/// Files that a table from elsewhere leaves to merges and the log.
const FILES: u64 = 2;

/// When to look again whether merges have caught up.
const BEHIND: Duration = Duration::from_millis(20);

/// The levels of a store, with everything that keeps them.
pub struct LevelStore {
    pub(super) core: Arc<Core>,
    pub(super) versions: Arc<VersionSet>,
    pub(super) compactor: Compactor,
    pub(super) reader: Reader,
    pub(super) reclaimer: Reclaimer,
    pub(super) deleted_ranges: Arc<DeletedRanges>,
    /// No table is newer than this.
    newest: AtomicLsn,
}

impl LevelStore {
    /// The store that `versions` are of. Tables may point to values in `log`, if there is one; `traffic` is the disk below.
    pub fn new(
        core: Arc<Core>,
        versions: Arc<VersionSet>,
        cache: Arc<BlockCache>,
        survivors: Arc<Survivors>,
        log: Option<Arc<Log>>,
        traffic: Arc<Metered>,
    ) -> LevelStore {
        let deleted_ranges = Arc::new(DeletedRanges::default());
        let (gap_tombstones, levels) = (core.options.gap_tombstones, core.levels.clone());
        let current = versions.current().clone();
        let newest = versions.superversion().version.tables().map(|(_, table)| table.last_lsn).max();
        LevelStore {
            compactor: Compactor::new(core.clone(), versions.clone(), survivors.clone(), log, traffic),
            reader: Reader::new(current, cache, deleted_ranges.clone(), gap_tombstones, levels),
            reclaimer: Reclaimer::new(core.clone(), versions.clone(), survivors),
            deleted_ranges,
            newest: AtomicLsn::new(newest.unwrap_or_default()),
            core,
            versions,
        }
    }

    /// The age of the next table that is to be ingested: `lsn`, or more, since it is above that of any table before. Of two tables of the same
    /// age nobody would know which is newer once one of them is merged with an older one.
    pub fn next_age(&self, lsn: Lsn) -> Lsn {
        let age = lsn.max(self.newest.load(Ordering::Acquire).on_by(1));
        self.newest.store(age, Ordering::Release);
        age
    }

    /// LSN up to which the log of whoever stands above was durable when tables were last ingested: a log that ends before has lost something.
    pub fn log_lsn(&self) -> Lsn {
        self.versions.flushed()
    }

    /// Makes tables, whose entries are newer than all that the store has of their keys, part of it: in one edit, each in the lowest level
    /// that nothing is in the way of. The log of whoever stands above is durable up to `log_lsn`, and holds them up to there. They are durable, and their names; they do not overlap each other. After an error they are gone, but
    /// for one after which the edit may be durable all the same.
    pub fn ingest(&self, tables: &[Arc<Table>], log_lsn: Lsn) -> Result<()> {
        self.compactor.ingest(tables, log_lsn)?;
        // What was proven to be deleted may have values again.
        self.deleted_ranges.forget();
        // As after a flush: there may be something to clean now.
        if tables.iter().any(|table| table.tombstones > 0) {
            self.core.space.clean_unasked(&self.versions.superversion().version, 0);
        }
        Ok(())
    }

    /// The value of `key`, if it is present, and the tables that were asked.
    pub fn get(&self, key: &[u8], tier: Tier) -> Result<(Option<Bytes>, u64)> {
        self.reader.get(key, tier)
    }

    /// The same for `purpose`, on behalf of no reader.
    pub fn read_for(&self, key: &[u8], purpose: Purpose) -> Result<Option<Bytes>> {
        self.reader.read_for(key, purpose)
    }

    /// Visits the keys of `range`.
    pub fn scan(&self, range: KeyRange<'_>, tier: Tier, visit: &mut Visit<'_>) -> Result<()> {
        self.reader.scan(range, tier, visit)
    }

    /// The places that a read of `key` asks.
    pub fn explain(&self, key: &[u8], tier: Tier) -> Result<Vec<Probe>> {
        self.reader.explain(key, tier)
    }

    /// Whether there may be an entry of `key`, by what is in memory.
    pub fn may_hold(&self, key: &[u8]) -> bool {
        self.reader.may_hold(key)
    }

    /// One unit of merging.
    pub fn merge(&self) -> Result<Pending> {
        self.compactor.work()
    }

    /// Removes what has lost its last reader, and goes on verifying.
    pub fn reclaim(&self) -> Result<Pending> {
        self.reclaimer.work()
    }

    /// Bytes of its tables, and their entries.
    pub fn weight(&self) -> (u64, u64) {
        self.versions.superversion().version.totals.weight()
    }

    /// Threads that merge.
    pub fn merge_threads(&self) -> usize {
        self.core.options.merge_threads as usize
    }

    /// Time for which nothing shall be ingested: the rates are used up, or merges are behind and will catch up.
    pub fn ingest_wait(&self) -> Option<Duration> {
        if let Some(wait) = self.compactor.rate_wait() {
            return Some(wait);
        }
        let version = self.versions.superversion().version.clone();
        let is_behind = version.counted().l0_files >= self.core.options.l0_stop;
        let merges_help = self.core.mutable_options.limits_off(version.lowers_l0).is_none()
            && !self.core.space.shortage.has_merge_trouble();
        (is_behind && merges_help).then_some(BEHIND)
    }

    /// Notes the bytes that what lies above the levels may still take for changes that it has.
    pub fn note_above(&self, owed_bytes: u64) {
        self.core.space.note_above(owed_bytes);
    }

    /// Whether a table of `bytes` may be written beside what merges may still take; the ballast is given up for it. Unless it `gives_back` space,
    /// as many files must be left as new data leaves, as much of the reserve as deletes may take, and what lies above may still take.
    pub fn has_room(&self, bytes: u64, gives_back: bool) -> Result<bool> {
        let budget = &self.core.space;
        let kept_bytes = if gives_back { 0 } else { budget.guard.kept_bytes() + budget.above_owed_bytes() };
        let needed_bytes = bytes + kept_bytes + budget.merge_owed_bytes();
        let has_files =
            |space: &Space| if gives_back { space.room_files() > FILES } else { !lacks_files(space) };
        let is_room = |space: Space| space.room_bytes() >= needed_bytes && has_files(&space);
        let store = &self.core.table_store;
        Ok(is_room(store.space()?) || budget.guard.give_ballast(needed_bytes) && is_room(store.space()?))
    }

    /// Free bytes of the disk below.
    pub fn free_bytes(&self) -> u64 {
        self.core.space.guard.free_bytes()
    }

    /// Tells merges that somebody found no space, so that tables are cleaned; whether that is new.
    pub fn want_space(&self) -> bool {
        self.core.space.want_space()
    }

    /// Whether files are about to be removed, or tables may still be cleaned.
    pub fn gives_space(&self) -> bool {
        let (switches, shortage) = (&self.core.mutable_options, &self.core.space.shortage);
        let cleans = switches.auto_compact() && !switches.is_paused() && !shortage.has_merge_trouble();
        self.core.table_store.obsolete_bytes() > 0 || cleans && !shortage.outlook().is_exhausted
    }

    /// A batch that takes space found enough.
    pub fn note_room(&self) {
        self.core.space.shortage.note_room();
    }

    /// Gives up the merges that run, and removes every file that nobody needs.
    pub fn close(&self) {
        self.compactor.stop();
        self.reclaimer.finish();
        self.end_commands();
    }

    /// Ends every command with the news that the store is closed.
    pub fn end_commands(&self) {
        self.core.commands.end(&Err(Error::Invalid("the store is closed".to_string())), |_| true);
    }

    /// Starts a command on what is in tables now, and on what will be in them once everything up to `lsn` is; [`Command::Flush`] and
    /// [`Command::Checkpoint`] ask for no more than that.
    pub fn run(&self, command: Command, lsn: Lsn, done: Done) {
        let (task, class) = match command {
            Command::DropCaches => {
                self.reader.drop_caches();
                return done(Ok(()));
            }
            Command::Demote => {
                let why = "an LSM-tree has no tree above its levels; engine=hybrid has";
                return done(Err(Error::Invalid(why.to_string())));
            }
            Command::Flush | Command::Checkpoint => (PendingCommand::Flush(lsn), WorkClass::Flush),
            Command::Compact => {
                (PendingCommand::Compact { lsn, level: None, is_started: false }, WorkClass::Merge)
            }
            Command::CompactLevel(level) if level + 1 >= LEVELS => {
                let last = LEVELS - 1;
                let why = format!("L{level} has no level below it to go into: levels are 0 to {last}");
                return done(Err(Error::Invalid(why)));
            }
            Command::CompactLevel(level) => {
                // What lies in the level now is there already.
                let task = PendingCommand::Compact { lsn: Lsn::ZERO, level: Some(level), is_started: false };
                (task, WorkClass::Merge)
            }
            Command::Verify => {
                let verification = Verification::new(&self.versions.superversion().version);
                (PendingCommand::Verify(Box::new(verification)), WorkClass::Reclaim)
            }
        };
        self.core.commands.add(task, done);
        self.core.wake_signal.notify(WorkClass::Flush);
        self.core.wake_signal.notify(class);
    }

    /// Changes an option of the live store.
    pub fn set(&self, name: &str, value: &str) -> Result<()> {
        let core = &self.core;
        if let Some((from, to)) = core.mutable_options.set(name, value, &core.options)? {
            // The merge that runs goes on: its result is right under any policy.
            self.versions.forgive();
            core.record("policy", vec![("from", from.into()), ("to", to.into())]);
        }
        for class in [WorkClass::Flush, WorkClass::Merge, WorkClass::Room] {
            core.wake_signal.notify(class);
        }
        Ok(())
    }

    /// The shape now, out of the reports of the components; `log` is where the log stands. Waits for nobody.
    pub fn report(&self, log: &LogShape) -> Shape {
        let (core, versions) = (&self.core, &self.versions);
        let superversion = versions.superversion();
        let version = &superversion.version;
        let totals = &version.totals;
        let traffic = self.compactor.traffic();
        let level = |(level, meter): (&Level, &LevelMeter)| Level {
            traffic: LevelTraffic {
                read_bytes: traffic.of(Purpose::Compact { into: level.level as u8 }).read_bytes,
                ..meter.snapshot()
            },
            ..level.clone()
        };
        let levels: Vec<Level> = totals.levels.iter().zip(&*core.levels).map(level).collect();
        let (cache, resident_bytes) = (self.reader.cache(), core.table_store.pinned_bytes());
        let memtable_bytes = superversion.memtable_bytes();
        let memtable_tombstones: u64 = superversion.memtables().map(|memtable| memtable.tombstones()).sum();
        let age = |seconds| Duration::from_secs(core.now_seconds().saturating_sub(seconds));
        Shape {
            engine: "lsm",
            variant: core.mutable_options.policy().name(),
            memory: Memory {
                limit_bytes: Some(versions.memory().bytes_max()),
                used_bytes: Some(memtable_bytes + versions.retired().bytes() + resident_bytes + cache.bytes),
                resident_bytes: Some(resident_bytes),
                memtable_bytes: Some(memtable_bytes),
                memtable_bytes_max: Some(versions.memory().memtable_bytes_max()),
                immutable_memtables: Some(superversion.immutables.len() as u64),
                dirty_bytes: Some(0),
                dirty_bytes_max: Some(0),
            },
            cache,
            filter: self.reader.filter(),
            debt: Debt {
                l0_files: levels[0].files,
                l0_trigger: core.options.l0_trigger,
                l0_bytes_max: core.options.l0_stop.saturating_mul(core.options.memtable_bytes),
                pending_compaction_bytes: Some(version.pending_bytes),
                dirty_bytes: Some(memtable_bytes),
                unsynced_bytes: log.unsynced_bytes,
                oldest_unsynced: log.oldest_unsynced,
                replay_bytes: Some(log.replay_bytes),
                tombstones: memtable_tombstones + levels.iter().map(|level| level.tombstones).sum::<u64>(),
                oldest_tombstone: totals.tombstone_seconds.map(age),
                dropped_bytes: self.compactor.dropped_bytes(),
            },
            value_log: self.compactor.value_log(log, totals.live_value_bytes),
            levels,
            tree: None,
            hybrid: None,
            statistics: Default::default(),
            objects: None,
            damage: self.damage(),
            stalls: Stalls {
                limits_off: core.mutable_options.limits_off(version.lowers_l0),
                ..core.stalls.snapshot(core.clock.elapsed())
            },
            classes: core.table_store.classes().snapshot(),
            cpu: core.table_store.cpu().snapshot(),
            probes: Some(Probes { buckets: self.reader.probes() }),
            scan_runs: self.reader.scan_runs(),
            space: core.space.shape(core.table_store.obsolete_bytes()),
            jobs: self.compactor.activity(),
        }
    }

    /// Every table, from L0 down.
    pub fn list_tables(&self) -> Vec<TableInfo> {
        let version = self.versions.superversion().version.clone();
        let info = |(level, table): (usize, &Arc<Table>)| TableInfo {
            level,
            number: table.number.number(),
            bytes: table.bytes,
            entries: table.entries,
            tombstones: table.tombstones,
            smallest: table.smallest.clone(),
            largest: table.largest.clone(),
        };
        version.tables().map(info).collect()
    }

    /// Sentence on damage of the store; `None` without any.
    fn damage(&self) -> Option<String> {
        self.versions.set_aside().sentence().or_else(|| {
            let flaws = self.core.table_store.flaws();
            let (_, error) = flaws.first()?;
            let more = match flaws.len() {
                1 => String::new(),
                all => format!(", and {} more like this", all - 1),
            };
            Some(format!("{error}{more}; nothing is lost by it: a merge writes the table anew"))
        })
    }
}
