//! The rows of a witness's `.stats.d/json`.

use std::time::Duration;

use crate::base::metric::{Each, metrics};
use crate::fs::meter::Latency;
use crate::witness::sizes::Size;
use crate::witness::{Class, Traffic};

metrics! {
    /// A report of a witness for machines.
    pub struct WitnessDocument witness "witness::reports::the_head_says_what_is_mounted_and_since_when" {
        /// `kvfs.witness/1`; keys are added under the same name, never changed.
        text schema: &'static str;
        /// Version of the program.
        text version: String;
        /// Time of the snapshot since 1970.
        gauge time: Duration [Milliseconds, key "time_ms", family "kvfs_witness_snapshot_time_seconds"];
        /// Time since the mount.
        gauge uptime: Duration [Milliseconds, key "uptime_ms", family "kvfs_witness_uptime_seconds"];
        /// Start of the counters: `mount`, or the name of the mark.
        text since: String;
        /// Time since the start of the counters.
        gauge elapsed: Duration [Milliseconds, key "elapsed_ms", family "kvfs_witness_elapsed_seconds"];
        /// The directory that is passed through.
        text directory: String;
        /// The mount point.
        text mount_path: String;
        /// Whose patterns tell classes: the name of a program, `all`, or the path of a file.
        text patterns: String;
        /// Snapshots made for these files before this one.
        gauge stats_reads: u64 [Count, family "kvfs_witness_stats_reads"];
        /// Bytes that the program was asked to write, as the user says: the sum of all `user-bytes N`.
        counter user_bytes: u64 [Bytes, family "kvfs_witness_user_bytes_total", witness "witness::reports::amplification_has_the_denominator_that_the_user_gives"];
        /// Syncs of directories.
        counter directory_syncs: u64 [Count, family "kvfs_witness_directory_syncs_total", witness "witness::numbers::copies_and_syncs_and_files_are_counted"];
        /// Files that the kernel knows, each of which takes an open descriptor of the witness.
        gauge known_inodes: u64 [Count, family "kvfs_witness_known_inodes"];
        /// Whether the directory has more names than a look at it counts, so that files, lengths and disk bytes are of a part.
        gauge is_partial: bool [None, family "kvfs_witness_is_partial"];
        /// All classes together.
        part total: Total;
        /// Traffic and files by class.
        part by_class: Each<Class, ClassRow, { Class::ALL.len() }>;
        /// Files written most: twenty of those that were written, read or synced.
        part files: Vec<FileRow>;
        /// Quotients; null without a denominator.
        part amplification: Amplification;
        /// The process that serves the mount.
        part process: Process;
    }
}

metrics! {
    /// All classes together.
    pub struct Total witness "witness::numbers::bytes_and_requests_are_counted_as_they_come" {
        /// Bytes written.
        derived write_bytes: u64 [Bytes];
        /// Write requests.
        derived writes: u64 [Count];
        /// Those bytes written that the kernel wrote for a mapping.
        derived mapped_write_bytes: u64 [Bytes, witness "witness::numbers::pages_of_a_mapping_are_counted_when_they_are_written"];
        /// Bytes read.
        derived read_bytes: u64 [Bytes];
        /// Read requests.
        derived reads: u64 [Count];
        /// Bytes copied by `copy_file_range`.
        derived copied_bytes: u64 [Bytes, witness "witness::numbers::copies_and_syncs_and_files_are_counted"];
        /// Syncs of files.
        derived syncs: u64 [Count, witness "witness::numbers::copies_and_syncs_and_files_are_counted"];
        /// Requests that failed.
        derived errors: u64 [Count, witness "witness::numbers::what_fails_is_an_error_and_moves_nothing"];
        /// Files in the directory.
        derived files: u64 [Count, witness "witness::numbers::what_lies_there_is_what_the_filesystem_says"];
        /// Sum of their lengths.
        derived length_bytes: u64 [Bytes, witness "witness::numbers::what_lies_there_is_what_the_filesystem_says"];
        /// Bytes that they occupy.
        derived disk_bytes: u64 [Bytes, witness "witness::numbers::what_lies_there_is_what_the_filesystem_says"];
    }
}

metrics! {
    /// One class.
    #[derive(Copy)]
    pub struct ClassRow witness "witness::numbers::copies_and_syncs_and_files_are_counted" {
        /// What passed.
        flat traffic: Traffic;
        /// Latencies of syncs.
        inside sync_latency: Option<Latency>;
        /// What lies there.
        flat size: Size;
        derived {
            /// Median latency of a sync; null before the first.
            sync_p50_ns: Option<u64> [Nanoseconds] = |row| row.sync_latency.map(|latency| latency.p50);
            /// 99th percentile of it.
            sync_p99_ns: Option<u64> [Nanoseconds] = |row| row.sync_latency.map(|latency| latency.p99);
            /// 99.9th percentile of it.
            sync_p999_ns: Option<u64> [Nanoseconds] = |row| row.sync_latency.map(|latency| latency.p999);
            /// Longest sync.
            sync_max_ns: Option<u64> [Nanoseconds] = |row| row.sync_latency.map(|latency| latency.max);
        }
    }
}

metrics! {
    /// Traffic of one file. One that is written more may push another out of the list, so these are no counters.
    pub struct FileRow witness "witness::reports::files_are_listed_by_what_was_written" {
        /// Its path from the directory on, the last that it had; null for files that are gone and for which there was no room.
        label path: Option<String>;
        /// Its class.
        label class: &'static str;
        /// Bytes written.
        gauge write_bytes: u64 [Bytes, family "kvfs_witness_file_write_bytes"];
        /// Write requests.
        gauge writes: u64 [Count, family "kvfs_witness_file_writes"];
        /// Bytes read.
        gauge read_bytes: u64 [Bytes, family "kvfs_witness_file_read_bytes"];
        /// Syncs.
        gauge syncs: u64 [Count, family "kvfs_witness_file_syncs"];
    }
}

metrics! {
    /// Quotients.
    pub struct Amplification witness "witness::reports::amplification_has_the_denominator_that_the_user_gives" {
        /// Write amplification: `total.write_bytes` / `user_bytes`.
        derived write: Option<f64> [Ratio];
        /// Those of `total.write_bytes` that went to logs / `user_bytes`.
        derived log_write: Option<f64> [Ratio];
        /// Space amplification: `total.disk_bytes` / the `live-bytes N` that the user gave last.
        derived space: Option<f64> [Ratio];
    }
}

metrics! {
    /// The process that serves the mount.
    pub struct Process witness "witness::reports::the_head_says_what_is_mounted_and_since_when" {
        /// Process number.
        gauge pid: u32 [None];
        /// `write_bytes` of its `/proc/self/io`: what was dirtied for the device, in whole folios of the page cache, up to 2 MiB each. A page that is written twice
        /// before it goes to the device counts once there and twice here.
        derived write_bytes: Option<u64> [Bytes, family "kvfs_witness_self_io_write_bytes_total"];
        /// `read_bytes`: fetched from the device.
        derived read_bytes: Option<u64> [Bytes, family "kvfs_witness_self_io_read_bytes_total"];
    }
}
