//! The shape of an engine at one moment, as plain numbers for reports. All counters grow from the opening of the
//! store; everything else is now.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use super::cache::CacheKind;
use super::requests::ObjectShape;
use super::{Cause, ClassBytes, Cpu, Pages, Statistic, StatisticName};
use crate::base::metric::{Each, Figure, Growing, Named, Unit, Value, metrics, ratio};

metrics! {
    /// An engine at one moment.
    pub struct Shape {
        /// Name of the engine, as in `engine=NAME`.
        text engine: &'static str;
        /// The engine's policy, torn-page mode or placement of pages, such as `leveled`.
        text variant: &'static str;
        /// LSM: the levels from L0 down; empty for other engines.
        part levels: Vec<Level>;
        /// B-tree: the keys below; null for other engines.
        part tree: Option<BtreeShape>;
        /// Hybrid: what its tree holds, and what went down to the levels; null for other engines.
        part hybrid: Option<HybridShape>;
        /// Memory held; what an engine does not say of it is null.
        part memory: Memory;
        /// The cache of blocks or pages.
        part cache: Cache;
        /// Bloom filters of all tables together.
        part filter: Filter;
        /// LSM: values that stay in the log.
        part value_log: ValueLog;
        /// Processor time of checksums, compression and background work.
        part cpu: Cpu;
        /// Structures (memtables, tables, pages) probed per point read; null where nobody counts them.
        part probes: Option<Probes>;
        /// LSM: sorted sources (memtables, tables of L0, levels) merged per scan.
        part scan_runs: ScanRuns;
        /// Engines of others: their own statistics, under the names that they give them; empty for the engines of kvfs.
        part statistics: Named<StatisticName, Statistic> [None, key "engine_statistics"];
        /// Of an engine whose files are objects: its requests.
        inside objects: Option<ObjectShape>;
        /// Background work that runs now, one line for each job, such as `compact L0→L1 4 files 128MiB 61%`.
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
    pub struct ExtraSpace witness "kvfs::engine::lsm::tests::merging::a_merge_of_many_tables_needs_little_space_beside_them" {
        /// Bytes of files that are kept only for a reader that has not finished.
        gauge obsolete_bytes: u64 [Bytes, witness "kvfs::engine::lsm::tests::model::a_reader_keeps_its_files_until_it_is_done"];
        /// LSM: the part of the reserve that lies in the file `ballast`, which others cannot take; given up when the disk is full, taken again when there is
        /// room.
        gauge ballast_bytes: u64 [Bytes, witness "kvfs::engine::lsm::tests::full_disk::the_ballast_counts_the_segments_that_the_log_has"];
        /// Bytes that running merges take beside their inputs: their outputs, less the inputs that have already left the store.
        gauge temporary_bytes: u64 [Bytes];
        /// Largest value of `space.temporary_bytes` since the mount.
        gauge temporary_peak_bytes: u64 [Bytes];
    }
}

metrics! {
    /// Traffic into one level of an LSM-tree.
    #[derive(Copy)]
    pub struct LevelTraffic counted by LevelMeter witness "stats::level::levels_took_what_events_say" {
        /// Bytes flushed into level 0, or merged into the level from above.
        counter in_bytes: u64 [Bytes];
        /// Bytes of tables that were moved into the level without being rewritten.
        counter moved_bytes: u64 [Bytes];
        /// Bytes read by merges into this level: `compact_N` of door 3.
        counter read_bytes: u64 [Bytes];
        /// Bytes written by merges into this level, and by flushes into level 0.
        counter write_bytes: u64 [Bytes];
        /// Point reads that searched a table of this level.
        counter probes: u64 [Count, witness "stats::level::reads_ask_what_their_explanations_say"];
        derived {
            /// Write amplification of the level: `write_bytes` / `in_bytes`.
            write_amplification: Option<f64> [Ratio] = |level| ratio(level.write_bytes, level.in_bytes);
        }
    }
}

metrics! {
    /// One level of an LSM-tree.
    pub struct Level witness "stats::level::levels_hold_what_their_tables_do" {
        /// Number of the level, 0 to 6.
        label level: usize;
        /// Sorted runs.
        gauge runs: u64 [Count];
        /// Table files.
        gauge files: u64 [Count, family "kvfs_level_files"];
        /// Bytes of these files.
        gauge bytes: u64 [Bytes, family "kvfs_level_bytes"];
        /// Size above which the level is merged down; 0 for level 0, whose limit is a number of files.
        gauge target_bytes: u64 [Bytes];
        /// Size / target (L0: files / trigger); above 1 the level must be merged down.
        gauge score: f64 [Ratio];
        /// Entries, including tombstones.
        gauge entries: u64 [Count];
        /// Tombstones.
        gauge tombstones: u64 [Count];
        /// Bytes of the blocks of its tables before compression.
        gauge raw_bytes: u64 [Bytes];
        /// Bytes of the same blocks as stored.
        gauge data_bytes: u64 [Bytes];
        /// Bytes of the filters of its tables.
        gauge filter_bytes: u64 [Bytes];
        /// Bytes of the indexes of its tables; the rest of `bytes` are footers.
        gauge index_bytes: u64 [Bytes];
        /// What passed into it.
        flat traffic: LevelTraffic;
        derived {
            /// Compression ratio: `raw_bytes` / `data_bytes`. With compression, write amplification may be below 1.
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
    /// there), `out-of-range` or `descend` (an inner page); `hot` or `cold` of a line that is no structure and says why a hybrid has the key where it is.
    pub verdict: &'static str,
    /// Bytes of the value that was found.
    pub bytes: u64,
    /// Bytes that had to be read from the disk for it: filter, index, block, value.
    pub read_bytes: u64,
}

metrics! {
    /// A B-tree.
    pub struct BtreeShape witness "stats::pages::pages_are_what_splits_made_and_merges_left" {
        /// Size of a page.
        gauge page_bytes: u64 [Bytes];
        /// Height of the tree: pages on the way from the root to a leaf, both included.
        gauge height: u64 [Count];
        /// Leaf pages.
        gauge leaf_pages: u64 [Count];
        /// Inner pages.
        gauge inner_pages: u64 [Count];
        /// Large values that lie outside their leaves, in whole allocation units.
        gauge extent_bytes: u64 [Bytes, witness "stats::pages::values_out_of_line_take_their_units_and_give_them_back"];
        /// Free space inside the file, which is used again.
        gauge free_bytes: u64 [Bytes, witness "stats::pages::values_out_of_line_take_their_units_and_give_them_back"];
        /// Share of the bytes of leaf pages that is in use.
        gauge fill: f64 [Ratio];
        /// Bytes of the file that compressed pages take less than whole ones.
        gauge saved_bytes: u64 [Bytes, witness "kvfs::engine::btree::tests::compression::what_pages_save_is_what_the_file_does_not_take"];
        /// Bytes of the compressed pages that checkpoints have written, before compression.
        counter compressible_bytes: u64 [Bytes, witness "kvfs::engine::btree::tests::compression::bytes_before_and_after_are_those_at_the_disk"];
        /// Bytes of the same pages in the file; the cause and kind of each are in PAGES. The processor time is `compress` and `expand` of CPU.
        counter compressed_bytes: u64 [Bytes, witness "kvfs::engine::btree::tests::compression::bytes_before_and_after_are_those_at_the_disk"];
        /// Page splits.
        counter splits: u64 [Count, family "kvfs_splits_total"];
        /// Pages freed because they became empty or were merged with a neighbour.
        counter merges: u64 [Count];
        /// Checkpoints completed.
        counter checkpoints: u64 [Count, witness "stats::pages::checkpoints_are_told_and_timed"];
        /// Bytes of the log since the last checkpoint began.
        gauge checkpoint_age_bytes: u64 [Bytes, witness "stats::pages::checkpoints_are_told_and_timed"];
        /// Duration of the last checkpoint.
        gauge checkpoint_time: Duration [Nanoseconds, key "checkpoint_ns", witness "stats::pages::times_are_those_of_the_clock"];
        /// Time since the oldest change that no checkpoint has frozen.
        gauge dirty_age: Duration [Nanoseconds, key "dirty_age_ns", witness "stats::pages::checkpoints_are_told_and_timed"];
        /// Bytes that a checkpoint would write: pages, values and, depending on `torn`, copies of pages.
        gauge settle_bytes: u64 [Bytes, stability Experimental, witness "kvfs::engine::btree::tests::counting::what_is_to_settle_is_what_a_checkpoint_writes_and_opening_says_what_it_replayed"];
        /// Copies that a checkpoint makes of a page before it overwrites it: 1 with `pages=in-place`, else 0, since nothing is overwritten.
        gauge page_copies: u64 [Count, stability Experimental, witness "kvfs::engine::btree::tests::counting::each_mode_writes_its_copies_where_it_says"];
        /// Small puts in the change buffer, which are later merged into their leaves together.
        gauge waiting_puts: u64 [Count, stability Experimental, witness "stats::pages::puts_that_wait_are_counted"];
        /// Memory of these puts, a part of `memory.dirty_bytes`.
        gauge waiting_bytes: u64 [Bytes, stability Experimental, witness "stats::pages::puts_that_wait_are_counted"];
        /// Duration of opening.
        gauge recovery_time: Duration [Nanoseconds, key "recovery_ns", witness "stats::pages::times_are_those_of_the_clock"];
        /// Bytes of the log that opening read, copies of pages included.
        gauge recovery_bytes: u64 [Bytes, witness "stats::pages::times_are_those_of_the_clock"];
        /// Leaf pages found in the page cache; dirty pages count neither as hits nor as misses.
        counter leaf_hits: u64 [Count, witness "stats::pages::what_the_pool_misses_is_read"];
        /// Leaf pages read from the disk.
        counter leaf_misses: u64 [Count, witness "stats::pages::what_the_pool_misses_is_read"];
        /// Inner pages found in the page cache.
        counter inner_hits: u64 [Count, witness "stats::pages::what_the_pool_misses_is_read"];
        /// Inner pages read from the disk.
        counter inner_misses: u64 [Count, witness "stats::pages::what_the_pool_misses_is_read"];
        /// Large values found in the page cache.
        counter extent_hits: u64 [Count, witness "stats::pages::what_the_pool_misses_is_read"];
        /// Large values read from the disk.
        counter extent_misses: u64 [Count, witness "stats::pages::what_the_pool_misses_is_read"];
        /// Waits of searches and changes for the latch of the tree or for another writer.
        counter latch_waits: u64 [Count, family "kvfs_latch_waits_total", witness "kvfs::engine::btree::latch::tests::who_waits_is_counted_and_timed"];
        /// Total time of these waits.
        counter latch_wait_time: Duration [Nanoseconds, key "latch_wait_ns", family "kvfs_latch_wait_seconds_total", witness "kvfs::engine::btree::latch::tests::who_waits_is_counted_and_timed"];
        /// Pages read from and written to the disk.
        part pages: Pages;
    }
}

metrics! {
    /// The halves of a hybrid, and what passes between them.
    #[derive(Copy)]
    pub struct HybridShape witness "kvfs::engine::hybrid::tests::it_is_a_map_whatever_comes_between_the_steps_of_a_demotion" {
        /// Bytes of pages and large values of the tree.
        gauge hot_bytes: u64 [Bytes];
        /// Bytes above which what is cold goes down to the levels: the option `hot`.
        gauge hot_bytes_max: u64 [Bytes];
        /// Bytes of the tables of the levels.
        gauge cold_bytes: u64 [Bytes];
        /// Heat up to which records go down now, of 15.
        gauge threshold: u64 [Count];
        /// Whether demotion is held, by `hold demote`.
        text demote_held: bool;
        /// Time that the hand, which looks for what is cold, took for its last round through the tree; null before there was one. A record that nobody
        /// touches stays about that long once all its heat is gone; how long one has been cold is not known, since heat has no time.
        gauge round_time: Option<Duration> [Nanoseconds, key "round_ns", witness "kvfs::engine::hybrid::tests::everything_goes_down_by_command_and_nothing_while_it_is_held"];
        /// Histogram of the counters of heat by what they say, 0 to 15, of 65536 of them where there are more: a record is as hot as the lower one of its two.
        gauge heat: Histogram [Count, family "kvfs_hybrid_heat", witness "kvfs::engine::hybrid::heat::tests::what_is_touched_often_is_hotter_than_the_rest_and_cools_down"];
        /// Entries that came from the tree into the levels, tombstones among them.
        counter demoted_entries: u64 [Count];
        /// Bytes of their keys and values.
        counter demoted_bytes: u64 [Bytes];
        /// Tombstones that went nowhere, since nothing lay below them.
        counter dropped_tombstones: u64 [Count];
        /// Clean entries, copies of what is below, that were to leave the tree.
        counter dropped_clean: u64 [Count];
        /// Entries that were copied from the levels into the tree, since they are read often.
        counter promoted_entries: u64 [Count, witness "kvfs::engine::hybrid::tests::what_is_read_often_below_is_copied_into_the_tree_and_leaves_it_without_a_write"];
        /// Bytes of their keys and values.
        counter promoted_bytes: u64 [Bytes, witness "kvfs::engine::hybrid::tests::what_is_read_often_below_is_copied_into_the_tree_and_leaves_it_without_a_write"];
        /// Entries that left the tree once they were below, and clean ones and tombstones that went nowhere.
        counter removed_entries: u64 [Count];
        /// Entries that were to leave the tree and stayed: a batch changed them meanwhile, or the step was given up.
        counter stayed_entries: u64 [Count];
        /// Point reads that the tree answered.
        counter tree_reads: u64 [Count, witness "kvfs::engine::hybrid::tests::reads_are_counted_by_the_half_that_answers"];
        /// Point reads that had to ask the levels.
        counter level_reads: u64 [Count, witness "kvfs::engine::hybrid::tests::reads_are_counted_by_the_half_that_answers"];
        derived {
            /// Share of the store's bytes that lie in the tree.
            hot_share: Option<f64> [Ratio] = |hybrid| ratio(hybrid.hot_bytes, hybrid.hot_bytes + hybrid.cold_bytes);
            /// Share of the point reads that the tree answered.
            hot_read_share: Option<f64> [Ratio, witness "kvfs::engine::hybrid::tests::reads_are_counted_by_the_half_that_answers"] = |hybrid| ratio(hybrid.tree_reads, hybrid.tree_reads + hybrid.level_reads);
        }
    }
}

metrics! {
    /// Requests to a cache for one kind of content.
    #[derive(Copy, Eq)]
    pub struct Lookups counted by LookupMeter witness "stats::level::what_the_cache_misses_is_read" {
        /// Lookups answered from the cache.
        counter hits: u64 [Count];
        /// Lookups that had to read from the disk.
        counter misses: u64 [Count];
        derived {
            /// Hit rate: hits / (hits + misses).
            hit_share: Option<f64> [Ratio] = |lookups| ratio(lookups.hits, lookups.hits + lookups.misses);
        }
    }
}

metrics! {
    /// Memory held by an engine; what it does not say is null.
    #[derive(Copy)]
    pub struct Memory witness "stats::level::what_is_in_memory_and_in_the_log_is_what_was_written" {
        /// Limit of the memory of the engine: the option `memory`, or the sum of the limits below and of the cache.
        gauge limit_bytes: Option<u64> [Bytes, witness "memory::a_kept_value_keeps_nothing_else_lsm"];
        /// Memory in use: memtables or dirty pages, the cache, pinned indexes and filters of LSM tables, and parts of the B-tree's free map.
        gauge used_bytes: Option<u64> [Bytes, witness "memory::a_kept_value_keeps_nothing_else_lsm"];
        /// LSM: memory of open tables: about 1.5 KB each for the table and its open file, its first and last key, indexes and filters that are held
        /// outside the cache, and the lists of segments with values.
        gauge resident_bytes: Option<u64> [Bytes, witness "memory::what_an_open_table_takes_is_counted"];
        /// LSM: bytes of all memtables.
        gauge memtable_bytes: Option<u64> [Bytes];
        /// Limit of `memory.memtable_bytes`.
        gauge memtable_bytes_max: Option<u64> [Bytes];
        /// Immutable memtables that wait to be flushed.
        gauge immutable_memtables: Option<u64> [Count];
        /// B-tree: bytes of dirty pages and of large values that are not written yet.
        gauge dirty_bytes: Option<u64> [Bytes, witness "stats::pages::values_out_of_line_take_their_units_and_give_them_back"];
        /// Limit of `memory.dirty_bytes`.
        gauge dirty_bytes_max: Option<u64> [Bytes, witness "stats::pages::values_out_of_line_take_their_units_and_give_them_back"];
    }
}

metrics! {
    /// A cache of blocks or pages.
    #[derive(Copy)]
    pub struct Cache witness "stats::level::what_the_cache_misses_is_read" {
        /// Bytes of blocks or pages in the cache.
        gauge bytes: u64 [Bytes];
        /// Capacity of the cache.
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
    pub struct Filter counted by FilterMeter witness "stats::level::reads_ask_what_their_explanations_say" {
        /// LSM: lookups in bloom filters.
        counter checks: u64 [Count];
        /// Lookups that the filter answered with "not here", so that the table was not read.
        counter useful: u64 [Count];
        /// Lookups that the filter answered with "perhaps" although the table does not hold the key.
        counter false_positives: u64 [Count];
        derived {
            /// False-positive rate: false positives / (false positives + useful).
            false_positive_share: Option<f64> [Ratio] = |filter| ratio(filter.false_positives, filter.false_positives + filter.useful);
        }
    }
}

metrics! {
    /// Values that stay in the log.
    #[derive(Copy)]
    pub struct ValueLog stability Experimental witness "stats::level::values_in_the_log_are_those_that_tables_point_to" {
        /// Log segments that are kept only for the values in them, and files of surviving values (`values.N`).
        gauge segments: u64 [Count];
        /// Bytes of these files, a part of `space.physical_bytes`.
        gauge bytes: u64 [Bytes];
        /// Bytes of values that tables point to, including values in segments that the log itself still needs.
        gauge live_bytes: u64 [Bytes];
        /// Bytes of values that garbage collection moved from sparse segments to files of surviving values.
        counter moved_bytes: u64 [Bytes];
    }
}

metrics! {
    /// Work that is still owed for what was accepted.
    #[derive(Copy)]
    pub struct Debt witness "stats::level::what_is_in_memory_and_in_the_log_is_what_was_written" {
        /// LSM: sorted runs in level 0.
        gauge l0_files: u64 [Count, family "kvfs_l0_files", witness "stats::level::levels_hold_what_their_tables_do"];
        /// LSM: sorted runs in level 0 at which a merge starts.
        gauge l0_trigger: u64 [Count, witness "stats::level::levels_hold_what_their_tables_do"];
        /// LSM: what L0 may hold before writers stop: that many memtables.
        hidden l0_bytes_max: u64;
        /// LSM: bytes pending compaction, which merges must still write until each level fits its target; null of engines that do not say.
        gauge pending_compaction_bytes: Option<u64> [Bytes, family "kvfs_compaction_pending_bytes", witness "stats::level::pending_bytes_are_what_is_over_the_targets"];
        /// Bytes of memtables that are not flushed, or of dirty pages and large values; null of engines that do not say.
        gauge dirty_bytes: Option<u64> [Bytes, family "kvfs_dirty_bytes"];
        /// Bytes of log that are not synced: a power failure now would lose them.
        gauge unsynced_bytes: u64 [Bytes, family "kvfs_unsynced_bytes"];
        /// Age of the oldest byte of log that is not synced.
        gauge oldest_unsynced: Duration [Milliseconds, key "oldest_unsynced_ms", family "kvfs_oldest_unsynced_seconds"];
        /// Bytes of log that recovery would read after a crash now; null of engines that do not say.
        gauge replay_bytes: Option<u64> [Bytes];
        /// LSM: tombstones that no merge has dropped yet.
        gauge tombstones: u64 [Count, family "kvfs_tombstones", witness "stats::level::levels_hold_what_their_tables_do"];
        /// LSM: age of the oldest tombstone in a table, from its flush on; null without any.
        gauge oldest_tombstone: Option<Duration> [Seconds, key "oldest_tombstone_seconds", witness "stats::level::levels_hold_what_their_tables_do"];
        /// LSM, time windows with a time to live: bytes of expired tables that were dropped unread; 0 on a mount.
        counter dropped_bytes: u64 [Bytes, witness "kvfs::engine::lsm::tests::policies::only_the_oldest_run_expires"];
    }
}

metrics! {
    /// Waits of writers.
    pub struct Stalls witness "kvfs::engine::shape::tests::a_wait_counts_once_and_ends_with_the_next_success" {
        /// The cause that writes wait for, or null.
        text now: Option<Cause>;
        /// Whether they are stopped until something changes, not only delayed.
        hidden stopped: bool;
        /// LSM: reason why the limits of L0 files and of pending bytes do not apply: `policy=log`, `auto_compact=off`, `paused`; null if they apply.
        text limits_off: Option<String> [None, key "l0_stop_off"];
        /// Waits by cause: `memtables`, `l0_files`, `pending_bytes`, `dirty_pages`, `log_space`, `rate_limit`, `hot_full` (the tree of a hybrid is over `hot`), `space` (the disk is full, and a merge
        /// or the removal of a file will make room).
        part by_cause: Each<Cause, StallCounters, { Cause::ALL.len() }>;
        derived {
            /// Whether writes are waiting now.
            stalled: bool [None, family "kvfs_write_stalled"] = |stalls| stalls.now.is_some();
            /// Delays of writes.
            slowdowns: u64 [Count] = |stalls| stalls.by_cause.iter().map(|(_, cause)| cause.slowdowns).sum();
            /// Stops of writes until something changed.
            stops: u64 [Count] = |stalls| stalls.by_cause.iter().map(|(_, cause)| cause.stops).sum();
            /// Time during which at least one write waited, summed over causes.
            seconds: f64 [Seconds] = |stalls| stalls.by_cause.iter().map(|(_, cause)| cause.waited).sum::<Duration>().as_secs_f64();
        }
    }
}

metrics! {
    /// Waits of one cause.
    #[derive(Copy)]
    pub struct StallCounters witness "kvfs::engine::shape::tests::a_wait_counts_once_and_ends_with_the_next_success" {
        /// Delays of writes for this cause.
        counter slowdowns: u64 [Count];
        /// Stops of writes until this cause was gone.
        counter stops: u64 [Count];
        /// Time during which at least one write waited for this cause.
        counter waited: Duration [Nanoseconds, key "waited_ns", family "kvfs_write_stall_seconds_total"];
        /// Longest wait since the mount.
        gauge longest: Duration [Nanoseconds, key "longest_ns"];
        derived {
            /// Delays and stops together.
            times: u64 [Count, family "kvfs_write_stalls_total"] = |cause| cause.slowdowns + cause.stops;
        }
    }
}

metrics! {
    /// Structures that point reads asked.
    #[derive(Copy)]
    pub struct Probes witness "stats::level::reads_ask_what_their_explanations_say" {
        /// Histogram of point reads by the number of structures probed: 0, 1, 2 … 31 or more.
        counter buckets: Histogram [Count, family "kvfs_probes"];
        derived {
            /// Point reads of the engine.
            count: u64 [Count] = |probes| probes.buckets.count();
            /// Mean number of structures (memtables, tables, pages) probed per point read.
            mean: Option<f64> [Ratio] = |probes| ratio(probes.buckets.sum(), probes.buckets.count());
            /// Median of structures probed per point read.
            p50: Option<u64> [Count] = |probes| probes.buckets.quantile(0.5);
            /// 99th percentile of structures probed per point read.
            p99: Option<u64> [Count] = |probes| probes.buckets.quantile(0.99);
            /// Most structures probed by a point read; 31 means 31 or more.
            max: Option<u64> [Count] = |probes| probes.buckets.quantile(1.0);
        }
    }
}

metrics! {
    /// Sorted sources that scans merged.
    #[derive(Copy)]
    pub struct ScanRuns witness "stats::level::scans_merge_the_runs_that_are_there_and_pass_what_is_deleted" {
        /// LSM: histogram of scans by the number of sorted runs merged (memtables, L0 tables, levels): 0, 1, 2 … 31 or more.
        counter buckets: Histogram [Count, family "kvfs_scan_runs"];
        /// Tombstones that scans had to read past, not those that they jumped over (`gap_tombstones=`).
        counter tombstones: u64 [Count, family "kvfs_scan_tombstones_total"];
        derived {
            /// Scans.
            count: u64 [Count] = |runs| runs.buckets.count();
            /// Median of sorted runs merged per scan.
            p50: Option<u64> [Count] = |runs| runs.buckets.quantile(0.5);
            /// 99th percentile of sorted runs merged per scan.
            p99: Option<u64> [Count] = |runs| runs.buckets.quantile(0.99);
            /// Most sorted runs merged by a scan; 31 means 31 or more.
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
    /// Number of recorded values.
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
        assert!(running.stalled() && !after.stalled());
        meter.begin(Cause::L0Files, false, Duration::from_secs(10));
        meter.begin(Cause::L0Files, true, Duration::from_secs(11));
        meter.begin(Cause::L0Files, true, Duration::from_secs(12));
        meter.begin(Cause::Space, false, Duration::from_secs(12));
        let stalls = meter.snapshot(Duration::from_secs(13));
        let counters = stalls.by_cause.of(Cause::L0Files);
        assert_eq!((counters.slowdowns, counters.stops, counters.times()), (1, 2, 3));
        assert_eq!((stalls.slowdowns(), stalls.stops()), (2, 2));
        // Five of the first wait, three of the second, one for space.
        assert_eq!(stalls.seconds(), 9.0);
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
