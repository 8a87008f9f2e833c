//! What an engine looks like at one moment, as plain numbers for reports. All counters grow from the opening of the
//! store; everything else is now.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::{Cause, ClassBytes, Cpu, PageTraffic};

/// An engine at one moment.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// `lsm`, `btree` or `mem`.
    pub engine: &'static str,
    /// Compaction policy or torn-page mode, such as `leveled`.
    pub variant: &'static str,
    /// LSM: the levels from L0 down; empty for others.
    pub levels: Vec<Level>,
    /// B-tree: the tree.
    pub tree: Option<Tree>,
    /// Memory held.
    pub memory: Memory,
    /// Block or page cache.
    pub cache: Cache,
    /// Bloom filters.
    pub filter: Filter,
    /// LSM: values that stay in the log.
    pub value_log: ValueLog,
    /// Work that is still owed.
    pub debt: Debt,
    /// What cannot be read and is therefore set aside, so that everything else goes on: a sentence with the place, the cause and
    /// the way out.
    pub damage: Option<String>,
    /// Waits of writers.
    pub stalls: Stalls,
    /// Bytes written to tables or pages on behalf of entries, by class of key.
    pub classes: ClassBytes,
    /// What checksums, compression and background work cost the processor.
    pub cpu: Cpu,
    /// Structures (memtables, tables, pages) probed per point read.
    pub probes: Histogram,
    /// LSM: sorted sources (memtables, tables of L0, levels) merged per scan.
    pub scan_runs: Histogram,
    /// LSM: tombstones that scans had to pass; what they jumped over is not among them.
    pub scan_tombstones: u64,
    /// Bytes of files that are kept only until their last reader is gone.
    pub obsolete_bytes: u64,
    /// Bytes now in outputs of merges that are not part of the store yet, or inputs kept while a merge runs.
    pub temporary_bytes: u64,
    /// LSM: bytes of the reserve that lie in a file, so that others cannot take them.
    pub ballast_bytes: u64,
    /// The largest `temporary_bytes` so far.
    pub temporary_peak_bytes: u64,
    /// Background work that runs now, one line each, such as `compact L0→L1 4 files 128MiB 61%`.
    pub jobs: Vec<String>,
}

/// One level of an LSM-tree.
#[derive(Clone, Debug, Default)]
pub struct Level {
    /// 0 for L0.
    pub level: usize,
    /// Sorted runs.
    pub runs: u64,
    /// Table files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes it should hold at most; 0 for L0, which counts files.
    pub target_bytes: u64,
    /// Size over target (L0: files over trigger); above 1 it must be merged down.
    pub score: f64,
    /// Entries, tombstones among them.
    pub entries: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// Blocks of its tables, had they not been compressed.
    pub raw_bytes: u64,
    /// The same blocks as they are stored.
    pub data_bytes: u64,
    /// Filters of its tables.
    pub filter_bytes: u64,
    /// Indexes of its tables. What is left of `bytes` are footers.
    pub index_bytes: u64,
    /// Bytes that came in: flushed into L0, merged in from above for others.
    pub in_bytes: u64,
    /// Bytes moved in without being rewritten.
    pub moved_bytes: u64,
    /// Bytes read by merges into this level.
    pub read_bytes: u64,
    /// Bytes written by flushes or merges into this level.
    pub write_bytes: u64,
    /// Point reads that probed a table of this level.
    pub probes: u64,
}

/// One table file of an LSM-tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableInfo {
    /// 0 for L0.
    pub level: usize,
    /// Its number; the file's name ends with it.
    pub number: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Entries, tombstones among them.
    pub entries: u64,
    /// Tombstones.
    pub tombstones: u64,
    /// First key.
    pub smallest: bytes::Bytes,
    /// Last key.
    pub largest: bytes::Bytes,
}

/// One structure that a point read asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probe {
    /// Which: `memtable`, `L0 table.12`, `page 17`.
    pub structure: String,
    /// Where in its file the block, page or value lies that was asked for the key, bytes; `None` in memory, or if none was asked.
    pub offset: Option<u64>,
    /// `hit`, `tombstone`, `miss`, `filtered` (the filter said no), `false-positive` (the filter said perhaps and the key is not
    /// there), `out-of-range` or `descend` (an inner page).
    pub verdict: &'static str,
    /// Bytes of the value that was found.
    pub bytes: u64,
    /// Bytes that had to be read from the disk for it: filter, index, block, value.
    pub read_bytes: u64,
}

/// A B-tree.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// Bytes of a page.
    pub page_bytes: u64,
    /// Pages from the root to a leaf.
    pub height: u64,
    /// Leaf pages.
    pub leaf_pages: u64,
    /// Inner pages.
    pub inner_pages: u64,
    /// Bytes in extents of out-of-line values, whole units.
    pub extent_bytes: u64,
    /// Free bytes inside the file that can be used again.
    pub free_bytes: u64,
    /// Used share of leaf pages, 0 to 1.
    pub fill: f64,
    /// Splits so far.
    pub splits: u64,
    /// Pages given back because they became empty or joined a neighbour.
    pub merges: u64,
    /// Checkpoints that ended.
    pub checkpoints: u64,
    /// Log bytes since the last checkpoint began.
    pub checkpoint_age_bytes: u64,
    /// How long the last checkpoint took.
    pub checkpoint_time: Duration,
    /// Time since the oldest change that no checkpoint has taken up yet.
    pub dirty_age: Duration,
    /// Bytes of the data file and of copies of pages that a checkpoint would write now, in the torn-page mode of the mount.
    pub settle_bytes: u64,
    /// Puts that wait in memory for many of their leaf to be made together.
    pub waiting_puts: u64,
    /// Memory that they take; of the dirty bytes.
    pub waiting_bytes: u64,
    /// How long opening took.
    pub recovery_time: Duration,
    /// Log bytes that opening read.
    pub recovery_bytes: u64,
    /// The pool's answers for leaves.
    pub leaves: Lookups,
    /// The same for inner pages.
    pub inner: Lookups,
    /// The same for values out of line.
    pub extents: Lookups,
    /// What was read of the file.
    pub pages_read: PageTraffic,
    /// What was written of it, and of copies of its pages.
    pub pages_written: PageTraffic,
    /// Times that somebody waited for the latch of the tree or for another writer.
    pub latch_waits: u64,
    /// The time that took.
    pub latch_wait_time: Duration,
}

/// Requests to the pool for one kind of content. Dirty pages are not in the pool and not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lookups {
    /// Answered from memory.
    pub hits: u64,
    /// Read from the disk.
    pub misses: u64,
}

impl Lookups {
    /// What came after `earlier`.
    pub fn since(&self, earlier: &Lookups) -> Lookups {
        let hits = self.hits.saturating_sub(earlier.hits);
        Lookups { hits, misses: self.misses.saturating_sub(earlier.misses) }
    }

    /// Hits over requests; `None` without any.
    pub fn hit_share(&self) -> Option<f64> {
        let all = self.hits + self.misses;
        (all > 0).then(|| self.hits as f64 / all as f64)
    }
}

/// Memory held by an engine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// What it may hold: the option `memory`, or the sum of the limits below and of the cache.
    pub limit_bytes: u64,
    /// What it holds: memtables or dirty pages, cache, and what is resident.
    pub used_bytes: u64,
    /// LSM: open tables, with their indexes and filters that are not in the cache.
    pub resident_bytes: u64,
    /// LSM: bytes in memtables, mutable and immutable.
    pub memtable_bytes: u64,
    /// Their limit.
    pub memtable_bytes_max: u64,
    /// Immutable memtables that wait for their flush.
    pub immutable_memtables: u64,
    /// B-tree: bytes in dirty pages and extents.
    pub dirty_bytes: u64,
    /// Their limit.
    pub dirty_bytes_max: u64,
}

/// A cache of blocks or pages.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cache {
    /// Bytes held.
    pub bytes: u64,
    /// Bytes it may hold.
    pub bytes_max: u64,
    /// Requests it answered.
    pub hits: u64,
    /// Requests that went to the disk.
    pub misses: u64,
    /// LSM: the same by kind, in the order of [`CacheKind::ALL`](super::cache::CacheKind::ALL): blocks, indexes and filters that are not
    /// resident, values of the log.
    pub kinds: [Lookups; 4],
}

/// Bloom filters of all tables together.
#[derive(Clone, Copy, Debug, Default)]
pub struct Filter {
    /// Questions asked.
    pub checks: u64,
    /// Answers "not here": a table that was not read.
    pub useful: u64,
    /// Answers "perhaps" where the key was not in the table.
    pub false_positives: u64,
}

/// Values that stay in the log.
#[derive(Clone, Copy, Debug, Default)]
pub struct ValueLog {
    /// Segments that are kept for the values in them alone.
    pub segments: u64,
    /// What they take on the disk.
    pub bytes: u64,
    /// Bytes of values that tables point to; those in segments that the log still needs itself are among them.
    pub live_bytes: u64,
    /// Bytes of values that were moved out of sparse segments.
    pub moved_bytes: u64,
}

/// Work that is still owed for what was accepted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Debt {
    /// Sorted runs in L0.
    pub l0_files: u64,
    /// L0 runs at which a merge starts.
    pub l0_trigger: u64,
    /// LSM: what L0 may hold before writers stop: that many memtables.
    pub l0_bytes_max: u64,
    /// Bytes that merges must still write until every level is within its target.
    pub pending_compaction_bytes: u64,
    /// Dirty pages and extents (B-tree), unflushed memtables (LSM).
    pub dirty_bytes: u64,
    /// Log bytes that a power cut would lose.
    pub unsynced_bytes: u64,
    /// Age of the oldest of them.
    pub oldest_unsynced: Duration,
    /// Log bytes that opening after a crash would replay.
    pub replay_bytes: u64,
    /// Tombstones not yet dropped.
    pub tombstones: u64,
    /// LSM: age of the oldest tombstone in a table; `None` without any.
    pub oldest_tombstone: Option<Duration>,
    /// Time windows: bytes of tables that were dropped because they were expired.
    pub dropped_bytes: u64,
}

/// Waits by cause.
#[derive(Clone, Debug, Default)]
pub struct Stalls {
    /// LSM: why the limits of L0 files and pending bytes do not count now, such as `policy=log`; `None` if they do.
    pub limits_off: Option<String>,
    /// The cause that batches are refused for now.
    pub now: Option<Cause>,
    /// Whether they are stopped until something changes, not only delayed.
    pub stopped: bool,
    /// Per cause, in the order of [`Cause::ALL`].
    pub by_cause: [StallCounters; Cause::ALL.len()],
}

/// Waits of one cause.
#[derive(Clone, Copy, Debug, Default)]
pub struct StallCounters {
    /// Times that a batch was delayed for a while.
    pub slowdowns: u64,
    /// Times that batches were stopped until something changed.
    pub stops: u64,
    /// Time during which at least one batch waited.
    pub waited: Duration,
    /// The longest such time.
    pub longest: Duration,
}

/// Small counts as a distribution: bucket i counts the value i, the last one everything above.
#[derive(Clone, Copy, Debug, Default)]
pub struct Histogram {
    /// Counts of the values 0 … 31.
    pub buckets: [u64; 32],
}

impl Histogram {
    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The smallest value that at least `share` (0 to 1) of the recorded ones do not exceed; `None` without any.
    pub fn quantile(&self, share: f64) -> Option<u64> {
        let count = self.count();
        let wanted = ((count as f64 * share).ceil() as u64).max(1);
        let mut sum = 0;
        for (value, bucket) in self.buckets.iter().enumerate() {
            sum += bucket;
            if count > 0 && sum >= wanted {
                return Some(value as u64);
            }
        }
        None
    }

    /// The growth from `earlier` to `self`.
    pub fn since(&self, earlier: &Histogram) -> Histogram {
        Histogram {
            buckets: std::array::from_fn(|index| self.buckets[index].saturating_sub(earlier.buckets[index])),
        }
    }
}

/// Records small counts from many threads.
#[derive(Default)]
pub struct ProbeMeter([AtomicU64; 32]);

impl ProbeMeter {
    /// Records one value.
    pub fn record(&self, value: u64) {
        self.0[(value as usize).min(31)].fetch_add(1, Relaxed);
    }

    /// The distribution so far.
    pub fn snapshot(&self) -> Histogram {
        Histogram { buckets: std::array::from_fn(|index| self.0[index].load(Relaxed)) }
    }
}

#[derive(Default)]
struct CauseMeter {
    slowdowns: AtomicU64,
    stops: AtomicU64,
    /// Nanoseconds of clock time at which the current wait began, plus one; 0 when nobody waits.
    since: AtomicU64,
    /// Whether the last refusal was a stop.
    stopped: AtomicBool,
    waited: AtomicU64,
    longest: AtomicU64,
}

/// Keeps [`Stalls`]: `begin` when a batch is refused, `end` when one gets through.
#[derive(Default)]
pub struct StallMeter {
    causes: [CauseMeter; Cause::ALL.len()],
}

impl StallMeter {
    /// A batch was refused for `cause` at `now` (clock time); `stop` if it must wait for something to change, else it is
    /// only delayed. Repeated refusals of one wait count once; a delay that becomes a stop counts as both.
    pub fn begin(&self, cause: Cause, stop: bool, now: Duration) {
        let meter = &self.causes[cause as usize];
        let started = now.as_nanos() as u64 + 1;
        let was_stopped = meter.stopped.swap(stop, Relaxed);
        let begins = meter.since.compare_exchange(0, started, Relaxed, Relaxed).is_ok();
        if stop && (begins || !was_stopped) {
            meter.stops.fetch_add(1, Relaxed);
        } else if begins {
            meter.slowdowns.fetch_add(1, Relaxed);
        }
    }

    /// A batch got through at `now`: every wait is over. One load a cause when nobody waited.
    pub fn end(&self, now: impl Fn() -> Duration) {
        for meter in &self.causes {
            if meter.since.load(Relaxed) != 0 {
                let since = meter.since.swap(0, Relaxed);
                if since != 0 {
                    let waited = (now().as_nanos() as u64 + 1).saturating_sub(since);
                    meter.waited.fetch_add(waited, Relaxed);
                    meter.longest.fetch_max(waited, Relaxed);
                }
            }
        }
    }

    /// Whether batches are refused for `cause` now.
    pub fn is_waiting(&self, cause: Cause) -> bool {
        self.causes[cause as usize].since.load(Relaxed) != 0
    }

    /// The counters at `now`; a wait that still lasts is included.
    pub fn snapshot(&self, now: Duration) -> Stalls {
        let mut stalls = Stalls::default();
        for (index, meter) in self.causes.iter().enumerate() {
            let since = meter.since.load(Relaxed);
            let running = if since == 0 { 0 } else { (now.as_nanos() as u64 + 1).saturating_sub(since) };
            if since != 0 {
                let stopped = meter.stopped.load(Relaxed);
                // A stop is shown before a delay of another cause.
                if stopped || !stalls.stopped {
                    stalls.now = Some(Cause::ALL[index]);
                }
                stalls.stopped |= stopped;
            }
            stalls.by_cause[index] = StallCounters {
                slowdowns: meter.slowdowns.load(Relaxed),
                stops: meter.stops.load(Relaxed),
                waited: Duration::from_nanos(meter.waited.load(Relaxed) + running),
                longest: Duration::from_nanos(meter.longest.load(Relaxed).max(running)),
            };
        }
        stalls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_counts_once_and_ends_with_the_next_success() {
        let meter = StallMeter::default();
        meter.begin(Cause::L0Files, true, Duration::from_secs(1));
        meter.begin(Cause::L0Files, true, Duration::from_secs(2));
        let running = meter.snapshot(Duration::from_secs(4));
        assert_eq!((running.now, running.stopped), (Some(Cause::L0Files), true));
        assert_eq!(running.by_cause[Cause::L0Files as usize].waited, Duration::from_secs(3));
        meter.end(|| Duration::from_secs(6));
        let after = meter.snapshot(Duration::from_secs(9));
        assert_eq!(after.now, None);
        let counters = after.by_cause[Cause::L0Files as usize];
        assert_eq!(
            (counters.stops, counters.waited, counters.longest),
            (1, Duration::from_secs(5), Duration::from_secs(5))
        );
        meter.begin(Cause::L0Files, false, Duration::from_secs(10));
        meter.begin(Cause::L0Files, true, Duration::from_secs(11));
        meter.begin(Cause::L0Files, true, Duration::from_secs(12));
        let counters = meter.snapshot(Duration::from_secs(12)).by_cause[Cause::L0Files as usize];
        assert_eq!((counters.slowdowns, counters.stops), (1, 2));
    }

    #[test]
    fn quantiles_are_values_that_were_recorded() {
        let meter = ProbeMeter::default();
        assert_eq!(meter.snapshot().quantile(0.5), None);
        (0..99).for_each(|_| meter.record(1));
        meter.record(9);
        assert_eq!(meter.snapshot().quantile(0.5), Some(1));
        assert_eq!(meter.snapshot().quantile(0.999), Some(9));
    }
}
