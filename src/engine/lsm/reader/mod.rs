//! Reads: of a key, of a range, and what they ask on their way. They look at the newest superversion and at the cache, and change nothing but
//! what they count and what they have proven to be deleted.

mod explain;
mod scan;
mod snapshot;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use bytes::Bytes;

use super::Slot;
use super::deleted_ranges::DeletedRanges;
use super::table::{ReadOptions, Table, hash};
use super::version::Version;
use super::version_set::CurrentSuperversion;
use crate::disk::{LEVELS, Purpose};
use crate::engine::cache::BlockCache;
use crate::engine::{
    Cache, Filter, FilterMeter, Histogram, LevelMeter, Lsn, ProbeMeter, Result, ScanRuns, Tier,
};
use snapshot::TableSnapshot;

/// Answers reads. Holds no lock while it waits for the disk.
pub struct Reader {
    current: Arc<CurrentSuperversion>,
    cache: Arc<BlockCache>,
    /// Ranges in which scans find only tombstones.
    deleted_ranges: Arc<DeletedRanges>,
    /// Tombstones in a row after which a scan proves a deleted range; 0 for never.
    gap_tombstones: u64,
    /// Point reads that looked into a table, by level.
    levels: Arc<[LevelMeter; LEVELS]>,
    probes: ProbeMeter,
    filter: FilterMeter,
    /// Sorted sources that scans merge.
    scan_runs: ProbeMeter,
    scan_tombstones: AtomicU64,
}

/// Counts of one point read. They are added up when it succeeds, so that a read that is made again counts once.
#[derive(Default)]
struct Probes {
    structures: u64,
    levels: [u64; LEVELS],
    checks: u64,
    useful: u64,
    false_positives: u64,
}

impl Reader {
    /// Reads what `current` shows through `cache`; scans prove a deleted range after `gap_tombstones` tombstones in a row.
    pub fn new(
        current: Arc<CurrentSuperversion>,
        cache: Arc<BlockCache>,
        deleted_ranges: Arc<DeletedRanges>,
        gap_tombstones: u64,
        levels: Arc<[LevelMeter; LEVELS]>,
    ) -> Reader {
        Reader {
            current,
            cache,
            deleted_ranges,
            gap_tombstones,
            levels,
            probes: ProbeMeter::default(),
            filter: FilterMeter::default(),
            scan_runs: ProbeMeter::default(),
            scan_tombstones: AtomicU64::new(0),
        }
    }

    /// The value of `key`, if it is present, and the memtables and tables that were asked.
    pub fn get(&self, key: &[u8], tier: Tier) -> Result<(Option<Bytes>, u64)> {
        let mut probes = Probes::default();
        let found = self.find(key, tier, &mut probes)?;
        self.count(&probes);
        Ok((found.flatten(), probes.structures))
    }

    fn count(&self, probes: &Probes) {
        self.probes.record(probes.structures);
        for (meter, count) in self.levels.iter().zip(probes.levels).filter(|(_, count)| *count > 0) {
            meter.probes.fetch_add(count, Relaxed);
        }
        if probes.checks > 0 {
            self.filter.checks.fetch_add(probes.checks, Relaxed);
            self.filter.useful.fetch_add(probes.useful, Relaxed);
            self.filter.false_positives.fetch_add(probes.false_positives, Relaxed);
        }
    }

    /// The newest entry of `key`.
    fn find(&self, key: &[u8], tier: Tier, probes: &mut Probes) -> Result<Option<Slot>> {
        let (known, version) = self.current.look(|superversion| {
            for memtable in superversion.memtables().filter(|memtable| !memtable.is_empty()) {
                probes.structures += 1;
                if let Some(slot) = memtable.get(key) {
                    return (Some(slot), None);
                }
            }
            (None, Some(superversion.version.clone()))
        });
        match version {
            Some(version) => find_in_tables(&version, key, ReadOptions::get(&self.cache, tier), probes),
            None => Ok(known),
        }
    }

    /// The value of `key` for `purpose`, on behalf of no reader: no figure of reads counts it.
    pub fn read_for(&self, key: &[u8], purpose: Purpose) -> Result<Option<Bytes>> {
        let version = self.current.look(|superversion| superversion.version.clone());
        let access = ReadOptions { purpose, ..ReadOptions::get(&self.cache, Tier::Disk) };
        Ok(find_in_tables(&version, key, access, &mut Probes::default())?.flatten())
    }

    /// Whether a table may hold an entry of `key`, by what is in memory.
    pub fn may_hold(&self, key: &[u8]) -> bool {
        let version = self.current.look(|superversion| superversion.version.clone());
        let (hash, access) = (hash(key), ReadOptions::get(&self.cache, Tier::Memory));
        let upper = version.level(0).iter().filter(|table| table.overlaps(key, key));
        let lower = (1..LEVELS).filter_map(|level| version.level(level).find(key));
        let holds = |table: &Arc<Table>| {
            !table.has_filter() || table.may_contain(table.partition_of(key), hash, access).unwrap_or(true)
        };
        upper.chain(lower).any(holds)
    }

    /// A snapshot of `version`, whose tables hold everything before `lsn`.
    pub fn snapshot(&self, version: Arc<Version>, lsn: Lsn) -> TableSnapshot {
        TableSnapshot::new(version, lsn, self.cache.clone())
    }

    /// Empties the cache.
    pub fn drop_caches(&self) {
        self.cache.clear();
    }

    /// The deleted ranges that it knows.
    #[cfg(test)]
    pub fn deleted_ranges(&self) -> &DeletedRanges {
        &self.deleted_ranges
    }

    /// Size and counters of the cache.
    pub fn cache(&self) -> Cache {
        self.cache.shape()
    }

    /// Counters of filter checks.
    pub fn filter(&self) -> Filter {
        self.filter.snapshot()
    }

    /// Structures asked per point read.
    pub fn probes(&self) -> Histogram {
        self.probes.snapshot()
    }

    /// Sorted runs per scan, and tombstones passed.
    pub fn scan_runs(&self) -> ScanRuns {
        let tombstones = self.scan_tombstones.load(Relaxed);
        ScanRuns { buckets: self.scan_runs.snapshot(), tombstones }
    }
}

/// The entry of `key` in the newest table of `version` that has one.
fn find_in_tables(
    version: &Version,
    key: &[u8],
    access: ReadOptions<'_>,
    probes: &mut Probes,
) -> Result<Option<Slot>> {
    let hash = hash(key);
    let upper = version.level(0).iter().filter(|table| table.overlaps(key, key)).map(|table| (0, table));
    let lower = (1..LEVELS).filter_map(|level| Some((level, version.level(level).find(key)?)));
    for (level, table) in upper.chain(lower) {
        let partition = table.partition_of(key);
        if table.has_filter() {
            probes.checks += 1;
            if !table.may_contain(partition, hash, access)? {
                probes.useful += 1;
                continue;
            }
        }
        probes.structures += 1;
        probes.levels[level] += 1;
        if let Some(slot) = table.get(partition, key, access)? {
            return Ok(Some(slot));
        }
        probes.false_positives += u64::from(table.has_filter());
    }
    Ok(None)
}
