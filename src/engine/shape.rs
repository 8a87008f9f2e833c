//! What an engine looks like at one moment, as plain numbers for reports. All counters grow from the opening of the
//! store; everything else is now.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::cache::CacheKind;
use super::{Cause, ClassBytes, Cpu, Pages};
use crate::base::metric::{Each, Figure, Growing, Unit, Value, metrics, ratio};

metrics! {
    /// An engine at one moment.
    pub struct Shape {
        /// `lsm`, `btree` or `mem`.
        text engine: &'static str;
        /// The engine's policy or torn-page mode, such as `leveled`.
        text variant: &'static str;
        /// LSM: the levels from L0 down; empty for other engines.
        part levels: Vec<Level>;
        /// B-tree: the keys below; null for other engines.
        part tree: Option<BtreeShape>;
        /// Memory held.
        part memory: Memory;
        /// The cache of blocks or pages.
        part cache: Cache;
        /// Bloom filters of all tables together.
        part filter: Filter;
        /// LSM: values that stay in the log.
        part value_log: ValueLog;
        /// What checksums, compression and background work cost the processor.
        part cpu: Cpu;
        /// Structures (memtables, tables, pages) probed per point read.
        part probes: Probes;
        /// LSM: sorted sources (memtables, tables of L0, levels) merged per scan.
        part scan_runs: ScanRuns;
        /// Background work that runs now, one line each, such as `compact L0→L1 4 files 128MiB 61%`.
        text jobs: Vec<String>;
        /// What files hold beside the store's contents.
        inside space: ExtraSpace;
        /// Work that is still owed.
        inside debt: Debt;
        /// Waits of writers.
        inside stalls: Stalls;
        /// Bytes written to tables or pages on behalf of entries, by class of key.
        inside classes: ClassBytes;
        /// What cannot be read and is therefore set aside, so that everything else goes on: a sentence with the place, the cause and
        /// the way out.
        hidden damage: Option<String>;
    }
}

metrics! {
    /// What files hold beside the store's contents.
    #[derive(Copy)]
    pub struct ExtraSpace {
        /// Bytes of files that are kept only for a reader that has not ended.
        gauge obsolete_bytes: u64 [Bytes];
        /// LSM: the part of the reserve that lies in the file `ballast`, which others cannot take; given up when the disk is full, taken again when there is
        /// room.
        gauge ballast_bytes: u64 [Bytes];
        /// What the merges that run take beside their inputs: outputs, less the inputs that have left the store already.
        gauge temporary_bytes: u64 [Bytes];
        /// The largest of those so far.
        gauge temporary_peak_bytes: u64 [Bytes];
    }
}

metrics! {
    /// What passed into one level of an LSM-tree.
    #[derive(Copy)]
    pub struct LevelTraffic counted by LevelMeter {
        /// Flushed into level 0, or merged in from above.
        counter in_bytes: u64 [Bytes];
        /// Came in without being rewritten.
        counter moved_bytes: u64 [Bytes];
        /// Read by merges into this level: `compact_N` of door 3.
        counter read_bytes: u64 [Bytes];
        /// Written by them, and by flushes into level 0.
        counter write_bytes: u64 [Bytes];
        /// Point reads that looked into a table here.
        counter probes: u64 [Count];
        derived {
            /// `write_bytes` / `in_bytes` of the level.
            write_amplification: Option<f64> [Ratio] = |level| ratio(level.write_bytes, level.in_bytes);
        }
    }
}

metrics! {
    /// One level of an LSM-tree.
    pub struct Level {
        /// 0 to 6.
        label level: usize;
        /// Sorted runs.
        gauge runs: u64 [Count];
        /// Table files.
        gauge files: u64 [Count, family "kvfs_level_files"];
        /// Their size.
        gauge bytes: u64 [Bytes, family "kvfs_level_bytes"];
        /// Where a merge begins; 0 for level 0, which counts files.
        gauge target_bytes: u64 [Bytes];
        /// Size over target (L0: files over trigger); above 1 it must be merged down.
        gauge score: f64 [Ratio];
        /// Entries, tombstones among them.
        gauge entries: u64 [Count];
        /// Tombstones.
        gauge tombstones: u64 [Count];
        /// Blocks of its tables, had they not been compressed.
        gauge raw_bytes: u64 [Bytes];
        /// The same blocks as they are stored.
        gauge data_bytes: u64 [Bytes];
        /// Filters of its tables.
        gauge filter_bytes: u64 [Bytes];
        /// Indexes of its tables; what is left of `bytes` are footers.
        gauge index_bytes: u64 [Bytes];
        /// What passed into it.
        flat traffic: LevelTraffic;
        derived {
            /// `raw_bytes` / `data_bytes`; with it, amplification may fall below 1.
            compression_ratio: Option<f64> [Ratio] = |level| ratio(level.raw_bytes, level.data_bytes);
        }
    }
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

metrics! {
    /// A B-tree.
    pub struct BtreeShape {
        /// Bytes of a page.
        gauge page_bytes: u64 [Bytes];
        /// Pages from the root to a leaf.
        gauge height: u64 [Count];
        /// Leaf pages.
        gauge leaf_pages: u64 [Count];
        /// Inner pages.
        gauge inner_pages: u64 [Count];
        /// Large values that lie outside their leaves, in whole allocation units.
        gauge extent_bytes: u64 [Bytes];
        /// Free space inside the file, which is used again.
        gauge free_bytes: u64 [Bytes];
        /// Used share of leaf pages.
        gauge fill: f64 [Ratio];
        /// Pages split.
        counter splits: u64 [Count, family "kvfs_splits_total"];
        /// Pages freed because they became empty or were merged with a neighbour.
        counter merges: u64 [Count];
        /// Checkpoints that ended.
        counter checkpoints: u64 [Count];
        /// Bytes of the log since the last checkpoint began.
        gauge checkpoint_age_bytes: u64 [Bytes];
        /// Duration of the last checkpoint.
        gauge checkpoint_time: Duration [Nanoseconds, key "checkpoint_ns"];
        /// Time since the oldest change that no checkpoint has frozen.
        gauge dirty_age: Duration [Nanoseconds, key "dirty_age_ns"];
        /// Bytes that a checkpoint would write: pages, values and, depending on `torn`, copies of pages.
        gauge settle_bytes: u64 [Bytes];
        /// Small puts in the change buffer, which are later merged into their leaves together.
        gauge waiting_puts: u64 [Count];
        /// Memory of these puts, a part of `memory.dirty_bytes`.
        gauge waiting_bytes: u64 [Bytes];
        /// Duration of opening.
        gauge recovery_time: Duration [Nanoseconds, key "recovery_ns"];
        /// Bytes of the log that opening read, copies of pages included.
        gauge recovery_bytes: u64 [Bytes];
        /// Leaves found in the pool; dirty ones are neither hits nor misses.
        counter leaf_hits: u64 [Count];
        /// Leaves read from the disk.
        counter leaf_misses: u64 [Count];
        /// Inner pages found in the pool.
        counter inner_hits: u64 [Count];
        /// Inner pages read from the disk.
        counter inner_misses: u64 [Count];
        /// Large values found in the pool.
        counter extent_hits: u64 [Count];
        /// Large values read from the disk.
        counter extent_misses: u64 [Count];
        /// Waits of searches and changes for the latch of the tree or for another writer.
        counter latch_waits: u64 [Count, family "kvfs_latch_waits_total"];
        /// Total time of these waits.
        counter latch_wait_time: Duration [Nanoseconds, key "latch_wait_ns", family "kvfs_latch_wait_seconds_total"];
        /// Pages that passed the disk.
        part pages: Pages;
    }
}

metrics! {
    /// Requests to a cache for one kind of content.
    #[derive(Copy, Eq)]
    pub struct Lookups counted by LookupMeter {
        /// Answered from memory.
        counter hits: u64 [Count];
        /// Read from the disk.
        counter misses: u64 [Count];
        derived {
            /// hits / (hits + misses).
            hit_share: Option<f64> [Ratio] = |lookups| ratio(lookups.hits, lookups.hits + lookups.misses);
        }
    }
}

metrics! {
    /// Memory held by an engine.
    #[derive(Copy)]
    pub struct Memory {
        /// What it may hold: the option `memory`, or the sum of the limits below and of the cache.
        gauge limit_bytes: u64 [Bytes];
        /// What it holds: memtables or dirty pages, cache, pinned indexes and filters of LSM tables, and parts of the B-tree's free map.
        gauge used_bytes: u64 [Bytes];
        /// LSM: open tables: some 1.5 KB each with all that is kept of it on the way to its file, its two keys, indexes and filters that are held outside the
        /// cache, and the lists of segments with values.
        gauge resident_bytes: u64 [Bytes];
        /// LSM: all memtables.
        gauge memtable_bytes: u64 [Bytes];
        /// Their limit.
        gauge memtable_bytes_max: u64 [Bytes];
        /// Immutable memtables that wait for their flush.
        gauge immutable_memtables: u64 [Count];
        /// B-tree: dirty pages and extents.
        gauge dirty_bytes: u64 [Bytes];
        /// Their limit.
        gauge dirty_bytes_max: u64 [Bytes];
    }
}

metrics! {
    /// A cache of blocks or pages.
    #[derive(Copy)]
    pub struct Cache {
        /// Blocks or pages held.
        gauge bytes: u64 [Bytes];
        /// The limit.
        gauge bytes_max: u64 [Bytes];
        /// Requests answered from it, and those that went to the disk.
        flat all: Lookups;
        /// LSM: the same by kind: `data` (blocks of tables), `index` and `filter` (those of partitions that are not pinned), `value` (values in the log).
        part kinds: Each<CacheKind, Lookups, { CacheKind::ALL.len() }>;
    }
}

metrics! {
    /// Bloom filters of all tables together.
    #[derive(Copy)]
    pub struct Filter counted by FilterMeter {
        /// LSM: questions to bloom filters.
        counter checks: u64 [Count];
        /// "Not here": a table that was not read.
        counter useful: u64 [Count];
        /// "Perhaps", and the key was not there.
        counter false_positives: u64 [Count];
        derived {
            /// false positives / (false positives + useful).
            false_positive_share: Option<f64> [Ratio] = |filter| ratio(filter.false_positives, filter.false_positives + filter.useful);
        }
    }
}

metrics! {
    /// Values that stay in the log.
    #[derive(Copy)]
    pub struct ValueLog {
        /// Log segments kept for the values in them alone, and files of survivors.
        gauge segments: u64 [Count];
        /// What those take; part of `space.physical_bytes`.
        gauge bytes: u64 [Bytes];
        /// Values that tables point to; those in segments that the log still needs itself are among them.
        gauge live_bytes: u64 [Bytes];
        /// Values moved out of sparse segments to files of survivors.
        counter moved_bytes: u64 [Bytes];
    }
}

metrics! {
    /// Work that is still owed for what was accepted.
    #[derive(Copy)]
    pub struct Debt {
        /// LSM: sorted runs in level 0.
        gauge l0_files: u64 [Count, family "kvfs_l0_files"];
        /// LSM: L0 runs at which a merge starts.
        gauge l0_trigger: u64 [Count];
        /// LSM: what L0 may hold before writers stop: that many memtables.
        hidden l0_bytes_max: u64;
        /// LSM: what merges must still write until each level fits.
        gauge pending_compaction_bytes: u64 [Bytes, family "kvfs_compaction_pending_bytes"];
        /// Memtables not flushed, or dirty pages and extents.
        gauge dirty_bytes: u64 [Bytes, family "kvfs_dirty_bytes"];
        /// Log bytes that a power cut would lose now.
        gauge unsynced_bytes: u64 [Bytes, family "kvfs_unsynced_bytes"];
        /// Age of the oldest of them.
        gauge oldest_unsynced: Duration [Milliseconds, key "oldest_unsynced_ms", family "kvfs_oldest_unsynced_seconds"];
        /// Log that opening after a crash would read.
        gauge replay_bytes: u64 [Bytes];
        /// LSM: deletes not yet dropped.
        gauge tombstones: u64 [Count, family "kvfs_tombstones"];
        /// LSM: age of the oldest tombstone in a table, since its flush; null without any.
        gauge oldest_tombstone: Option<Duration> [Seconds, key "oldest_tombstone_seconds"];
        /// LSM, time windows with a time to live: tables dropped unread; 0 on a mount.
        counter dropped_bytes: u64 [Bytes];
    }
}

metrics! {
    /// Waits of writers.
    pub struct Stalls {
        /// The cause that writes wait for, or null.
        text now: Option<Cause>;
        /// Whether they are stopped until something changes, not only delayed.
        hidden stopped: bool;
        /// LSM: why the limits of L0 files and pending bytes do not count: `policy=log`, `auto_compact=off`, `paused`; null if they do.
        text limits_off: Option<String> [None, key "l0_stop_off"];
        /// By cause: `memtables`, `l0_files`, `pending_bytes`, `dirty_pages`, `log_space`, `rate_limit`, `space` (the disk is full, and a merge or a file that
        /// goes will make room).
        part by_cause: Each<Cause, StallCounters, { Cause::ALL.len() }>;
        derived {
            /// Whether writes wait now.
            stalled: bool [None, family "kvfs_write_stalled"] = |stalls| stalls.now.is_some();
            /// Times that writes were delayed.
            slowdowns: u64 [Count] = |stalls| stalls.by_cause.iter().map(|(_, cause)| cause.slowdowns).sum();
            /// Times that writes waited for something to change.
            stops: u64 [Count] = |stalls| stalls.by_cause.iter().map(|(_, cause)| cause.stops).sum();
            /// Time in which at least one write waited, summed over causes.
            seconds: f64 [Seconds] = |stalls| stalls.by_cause.iter().map(|(_, cause)| cause.waited).sum::<Duration>().as_secs_f64();
        }
    }
}

metrics! {
    /// Waits of one cause.
    #[derive(Copy)]
    pub struct StallCounters {
        /// Times that writes were delayed for it.
        counter slowdowns: u64 [Count];
        /// Times that writes waited for it to change.
        counter stops: u64 [Count];
        /// Time in which at least one write waited for it.
        counter waited: Duration [Nanoseconds, key "waited_ns", family "kvfs_write_stall_seconds_total"];
        /// The longest one since the mount.
        gauge longest: Duration [Nanoseconds, key "longest_ns"];
        derived {
            /// Delays and stops.
            times: u64 [Count, family "kvfs_write_stalls_total"] = |cause| cause.slowdowns + cause.stops;
        }
    }
}

metrics! {
    /// Structures that point reads asked.
    #[derive(Copy)]
    pub struct Probes {
        /// How many reads needed 0, 1, 2 … 31 or more.
        counter buckets: Histogram [Count, family "kvfs_probes"];
        derived {
            /// Point reads of the engine.
            count: u64 [Count] = |probes| probes.buckets.count();
            /// Structures (memtables, tables, pages) looked into, per read.
            mean: Option<f64> [Ratio] = |probes| ratio(probes.buckets.sum(), probes.buckets.count());
            /// Half of the reads needed no more.
            p50: Option<u64> [Count] = |probes| probes.buckets.quantile(0.5);
            /// 99 of 100.
            p99: Option<u64> [Count] = |probes| probes.buckets.quantile(0.99);
            /// The most; 31 means 31 or more.
            max: Option<u64> [Count] = |probes| probes.buckets.quantile(1.0);
        }
    }
}

metrics! {
    /// Sorted sources that scans merged.
    #[derive(Copy)]
    pub struct ScanRuns {
        /// LSM: how many scans merged 0, 1, 2 … 31 or more memtables, L0 tables and levels.
        counter buckets: Histogram [Count, family "kvfs_scan_runs"];
        /// Deleted keys that scans had to pass, not those that they jumped over (`gap_tombstones=`).
        counter tombstones: u64 [Count, family "kvfs_scan_tombstones_total"];
        derived {
            /// Scans.
            count: u64 [Count] = |runs| runs.buckets.count();
            /// Half of the scans merged no more.
            p50: Option<u64> [Count] = |runs| runs.buckets.quantile(0.5);
            /// 99 of 100.
            p99: Option<u64> [Count] = |runs| runs.buckets.quantile(0.99);
            /// The most; 31 means 31 or more.
            max: Option<u64> [Count] = |runs| runs.buckets.quantile(1.0);
        }
    }
}

/// Small counts as a distribution: bucket i counts the value i, the last one everything above.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Histogram {
    /// Counts of the values 0 … 31.
    pub buckets: [u64; 32],
}

impl Histogram {
    /// How many values were recorded.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The sum of the values; those above 31 count as 31.
    pub fn sum(&self) -> u64 {
        self.buckets.iter().zip(0..).map(|(count, value)| count * value).sum()
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
}

impl Figure for Histogram {
    fn types(_: Unit) -> &'static [&'static str] {
        &["array"]
    }
    fn value(&self, _: Unit) -> Value<'_> {
        Value::Buckets(&self.buckets)
    }
}

impl Growing for Histogram {
    fn since(&self, earlier: &Histogram) -> Histogram {
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
            *stalls.by_cause.of_mut(Cause::ALL[index]) = StallCounters {
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
        assert_eq!(running.by_cause.of(Cause::L0Files).waited, Duration::from_secs(3));
        meter.end(|| Duration::from_secs(6));
        let after = meter.snapshot(Duration::from_secs(9));
        assert_eq!(after.now, None);
        let counters = after.by_cause.of(Cause::L0Files);
        assert_eq!(
            (counters.stops, counters.waited, counters.longest),
            (1, Duration::from_secs(5), Duration::from_secs(5))
        );
        meter.begin(Cause::L0Files, false, Duration::from_secs(10));
        meter.begin(Cause::L0Files, true, Duration::from_secs(11));
        meter.begin(Cause::L0Files, true, Duration::from_secs(12));
        let counters = meter.snapshot(Duration::from_secs(12)).by_cause.of(Cause::L0Files);
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
