//! The rows of `.stats.d/json`: the counters of the doors, and numbers that are made of them.
//!
//! A number that a room counts itself is declared there; here stand sums, quotients and what several rooms know together.

mod compose;
mod object_store;

use std::time::Duration;

use object_store::{CostSection, RequestSection};

use super::below_engine::BelowEngine;
use super::forks::Forks;
use super::recordings::RecordingSection;
use super::stats::EngineCalls;
use crate::base::metric::{Each, Figure, Named, Naming, Sort, Unit, Value, metrics};
use crate::disk::{DiskCounters, OpenFiles};
use crate::engine::{Debt, ExtraSpace, KindCounters, Promise, Shape, Stalls, TagCounters};
use crate::fs::meter::OpCounters;
use crate::fs::operation::Op;

metrics! {
    /// A report for machines.
    pub struct Document witness "stats::derived::the_head_says_since_when_and_how_long" {
        /// `kvfs.stats/1`; keys are added under the same name, never changed.
        text schema: &'static str;
        /// Version of the program.
        text version: String;
        /// UUID of the store.
        text uuid: String;
        /// `OK`; `THROTTLED`: writes are delayed; `STALLED`: writes wait; `DAMAGED`: something in the store cannot be read and was set aside, what needs it
        /// fails and all else goes on (the sentence in `state_cause` names the place and the way out); `REFUSING`: the last change was refused, for the reason
        /// in `state_cause`, and none that takes space was taken since; `READONLY`: a sync failed, nothing is written any more.
        text state: &'static str;
        /// Cause of the state: a limit, or a sentence about the failure.
        text state_cause: Option<String>;
        /// Whether nothing is written any more because a sync failed.
        gauge read_only: bool [None, family "kvfs_read_only", witness "stats::states::a_closed_latch_is_shown"];
        /// Time of the snapshot since 1970.
        gauge time: Duration [Milliseconds, key "time_ms", family "kvfs_snapshot_time_seconds"];
        /// Time since the mount.
        gauge uptime: Duration [Milliseconds, key "uptime_ms"];
        /// Start of the counters: `mount`, or the name of the mark.
        text since: String;
        /// Time since the start of the counters.
        gauge elapsed: Duration [Milliseconds, key "elapsed_ms"];
        /// The store's directory.
        text store_path: String;
        /// The mount point.
        text mount_path: String;
        /// Size of a block of file content.
        gauge block_bytes: u64 [Bytes];
        /// When changes become durable without being asked to (the option `sync`).
        text sync: String;
        /// Whether the kernel gathers writes; see Pitfalls.
        text writeback_cache: bool;
        /// What the engine promises of a crash.
        part promise: Promise;
        /// Snapshots made for these files before this one.
        gauge stats_reads: u64 [Count];
        /// Door 1: all operations that move content, together.
        part app: App;
        /// Door 1 by operation, and what the batches of the operation asked of door 2.
        part ops: Each<Op, OpRow, { Op::ALL.len() }>;
        /// Door 2.
        part kv: Kv;
        /// Doors 2 and 3 by kind of key: `inode`, `dirent`, `xattr`, `block` …
        part kinds: Named<KindName, KindRow>;
        /// Door 3, or the door of an engine whose files are objects; null for an engine that reads and writes in ways of its own.
        part disk: Option<DiskSection>;
        /// Requests to the object store on which the engine keeps its files; null of engines whose files are on a disk.
        part requests: Option<RequestSection>;
        /// What the object store asks for them, and for what lies there; null as before.
        part cost: Option<CostSection>;
        /// The witness below an engine of others; null unless the mount has `witness=on`.
        part witness: Option<WitnessSection>;
        /// The recording of the mount that goes on, or went on last; null if there was none.
        part recording: Option<RecordingSection>;
        /// Processes that moved most content: twenty, then all others.
        part by_process: Vec<ProcessRow>;
        /// Names in the root below which most content was moved: twenty, then all others.
        part by_path: Vec<PathRow>;
        /// Ratios of the counters above.
        part amplification: Amplification;
        /// Growth of the counters in the last 10 seconds or minute: `10s`, `1m`.
        part windows: Named<WindowName, Growth>;
        /// Space that the store takes.
        part space: Space;
        /// Work that is still owed.
        part debt: DebtSection;
        /// Predictions of the models of `docs/model.md`, or null.
        part prediction: Option<Prediction>;
        /// Prediction of what a hybrid writes, from how much of what is put finds its record in the tree, or null.
        part hybrid_prediction: Option<HybridPrediction>;
        /// Second stores that were made out of this one since it was mounted.
        part forks: Forks;
        /// Waits of writers.
        part stalls: Stalls;
        /// The engine.
        flat engine: Shape;
        /// The process that serves the mount.
        part process: ProcessSection;
    }
}

metrics! {
    /// Door 1, all operations that move content together.
    pub struct App witness "stats::asked::calls_are_counted_and_their_latencies_kept" {
        /// A: bytes that programs wrote.
        derived write_bytes: u64 [Bytes, family "kvfs_app_write_bytes_total"];
        /// Bytes that programs read.
        derived read_bytes: u64 [Bytes, family "kvfs_app_read_bytes_total"];
        /// Write calls.
        derived writes: u64 [Count];
        /// Read calls.
        derived reads: u64 [Count];
    }
}

metrics! {
    /// One operation.
    #[derive(Copy)]
    pub struct OpRow {
        /// Door 1.
        flat calls: OpCounters;
        /// Door 2.
        flat batches: TagCounters;
    }
}

metrics! {
    /// Door 2.
    pub struct Kv witness "stats::asked::keys_are_counted_by_kind_and_by_operation" {
        /// L: `kv.put_bytes` + `kv.delete_bytes`.
        derived write_bytes: u64 [Bytes, family "kvfs_kv_write_bytes_total"];
        /// Bytes of the keys and values put.
        derived put_bytes: u64 [Bytes];
        /// Bytes of the keys deleted.
        derived delete_bytes: u64 [Bytes];
        /// Bytes of the keys and values that point reads found.
        derived get_bytes: u64 [Bytes];
        /// Bytes of the keys and values visited by scans.
        derived scanned_bytes: u64 [Bytes];
        /// Puts.
        derived puts: u64 [Count];
        /// Deletes.
        derived deletes: u64 [Count];
        /// Point reads.
        derived gets: u64 [Count];
        /// Point reads that found the key.
        derived hits: u64 [Count];
        /// Entries visited by scans.
        derived scanned: u64 [Count];
        /// Batches.
        derived batches: u64 [Count];
        /// Counters that belong to no kind of key.
        flat calls: EngineCalls;
    }
}

metrics! {
    /// One kind of key.
    pub struct KindRow witness "stats::events::bytes_on_the_disk_belong_to_kinds_of_keys" {
        /// Door 2.
        flat counters: KindCounters;
        /// (put + delete bytes of the kind) / A: the kinds add up to `amplification.fs_write`.
        derived write_amplification: Option<f64> [Ratio, witness "stats::asked::keys_are_counted_by_kind_and_by_operation"];
        /// Door 3: bytes written on behalf of the kind's entries, without the log. LSM: of each block that flushes and merges write, the share of its entries
        /// before compression; the kinds add up to all blocks, exactly. B-tree: a share, too: of what checkpoints write of a leaf, the part that the kind's
        /// cells have of the page; large values out of line with all their units.
        counter disk_write_bytes: u64 [Bytes, family "kvfs_kind_disk_write_bytes_total"];
        /// Write amplification of the kind at the disk, without the log: `disk_write_bytes` / (put + delete bytes of the kind). Of values that stay
        /// in the log only the pointers are counted.
        derived disk_write_amplification: Option<f64> [Ratio, witness "stats::derived::quotients_divide_what_they_say"];
    }
}

metrics! {
    /// Door 3.
    pub struct DiskSection witness "stats::derived::sums_of_door_3_are_those_of_its_purposes" {
        /// P: bytes written, sum over all purposes.
        derived write_bytes: u64 [Bytes];
        /// R: bytes read, sum over all purposes.
        derived read_bytes: u64 [Bytes];
        /// Write requests.
        derived writes: u64 [Count];
        /// Read requests.
        derived reads: u64 [Count];
        /// Syncs of files.
        derived syncs: u64 [Count];
        /// Requests that failed.
        derived errors: u64 [Count];
        /// Bytes of P written to the log: `wal` + `value_log` + `page_image` + `log_prepare`.
        derived log_write_bytes: u64 [Bytes];
        /// Bytes of P that belong to no kind of key: P − `disk.log_write_bytes` − Σ `kinds.<kind>.disk_write_bytes`. They are filters, indexes and
        /// footers; free room and headers of pages, inner pages and copies; the manifest and meta pages.
        derived overhead_write_bytes: u64 [Bytes, witness "stats::events::bytes_on_the_disk_belong_to_kinds_of_keys"];
        /// Bytes of P written by merges: all `compact_N`.
        derived compaction_write_bytes: u64 [Bytes];
        /// Bytes of R read by merges: all `compact_N`.
        derived compaction_read_bytes: u64 [Bytes];
        /// Requests by purpose; the purposes are listed below.
        part by_purpose: DiskCounters;
    }
}

metrics! {
    /// The witness below an engine.
    pub struct WitnessSection witness "stats::below_engine::what_a_witness_counted_is_in_every_output" {
        /// What it counted.
        flat counts: BelowEngine;
        /// Write amplification as it saw it: `witness.write_bytes` / `app.write_bytes`. It is asked once a second, so the one may be as much older than the other
        /// as `witness.age_ms` says.
        derived write_amplification: Option<f64> [Ratio];
        /// Write amplification of the engine: `witness.write_bytes` / `kv.write_bytes`.
        derived engine_write_amplification: Option<f64> [Ratio];
        /// Read amplification: `witness.read_bytes` / `app.read_bytes`.
        derived read_amplification: Option<f64> [Ratio];
        /// `witness.write_bytes` / `witness.kernel_write_bytes`: 1 where both count the same.
        derived write_over_kernel: Option<f64> [Ratio];
    }
}

metrics! {
    /// Content moved by one process. One that moves more may push another out of the list, so these are no counters.
    pub struct ProcessRow witness "stats::asked::who_moved_content_is_charged" {
        /// Process: the twenty that moved most, then null for all others.
        label pid: Option<u32>;
        /// Name of its command, as `ps` shows it; null where it is not known.
        label command: Option<String>;
        /// Bytes of content written.
        gauge write_bytes: u64 [Bytes, family "kvfs_process_write_bytes"];
        /// Calls that wrote content.
        gauge writes: u64 [Count, family "kvfs_process_writes"];
        /// Bytes of content read.
        gauge read_bytes: u64 [Bytes, family "kvfs_process_read_bytes"];
        /// Calls that read content.
        gauge reads: u64 [Count, family "kvfs_process_reads"];
    }
}

metrics! {
    /// Content moved below one name in the root.
    pub struct PathRow witness "stats::asked::who_moved_content_is_charged" {
        /// Name in the root: the twenty below which most content was moved, empty where the name is not known; then null for all others.
        label path: TopName;
        /// Bytes of content written.
        gauge write_bytes: u64 [Bytes, family "kvfs_path_write_bytes"];
        /// Calls that wrote content.
        gauge writes: u64 [Count, family "kvfs_path_writes"];
        /// Bytes of content read.
        gauge read_bytes: u64 [Bytes, family "kvfs_path_read_bytes"];
        /// Calls that read content.
        gauge reads: u64 [Count, family "kvfs_path_reads"];
    }
}

metrics! {
    /// Quotients of growths; null without a denominator.
    pub struct Quotients witness "stats::derived::quotients_divide_what_they_say" {
        /// Write amplification: `disk.write_bytes` / `app.write_bytes`.
        derived write: Option<f64> [Ratio];
        /// Write amplification of the filesystem: `kv.write_bytes` / `app.write_bytes`.
        derived fs_write: Option<f64> [Ratio];
        /// Write amplification of the engine: `disk.write_bytes` / `kv.write_bytes`.
        derived engine_write: Option<f64> [Ratio];
        /// Write amplification without the log: (`disk.write_bytes` − `disk.log_write_bytes`) / `app.write_bytes`.
        derived write_no_wal: Option<f64> [Ratio];
        /// Write amplification of the engine without the log: (`disk.write_bytes` − `disk.log_write_bytes`) / `kv.write_bytes`.
        derived engine_write_no_wal: Option<f64> [Ratio];
        /// Read amplification: `disk.read_bytes` / `app.read_bytes`.
        derived read: Option<f64> [Ratio];
        /// Read amplification of what readers wait for: read bytes of `get` and `scan` / `app.read_bytes`.
        derived read_foreground: Option<f64> [Ratio];
        /// Write requests to the disk per write call: `disk.writes` / `app.writes`.
        derived write_requests: Option<f64> [Ratio];
        /// Read requests of `get` and `scan` per read call: their sum / `app.reads`.
        derived read_requests: Option<f64> [Ratio];
    }
}

metrics! {
    /// The amplifications.
    pub struct Amplification witness "stats::derived::quotients_divide_what_they_say" {
        /// Those of growths.
        flat growth: Quotients;
        /// Space amplification: `space.physical_bytes` / `space.live_bytes`.
        derived space: Option<f64> [Ratio];
    }
}

metrics! {
    /// Growth of counters in a window of time.
    pub struct Growth witness "stats::derived::a_window_is_the_difference_of_two_reports" {
        /// True length of the window; shorter on a young mount.
        derived elapsed: Duration [Milliseconds, key "elapsed_ms"];
        /// Growth of `app.write_bytes` (A).
        derived app_write_bytes: u64 [Bytes];
        /// Growth of `app.read_bytes`.
        derived app_read_bytes: u64 [Bytes];
        /// Growth of `kv.write_bytes` (L).
        derived kv_write_bytes: u64 [Bytes];
        /// Growth of `disk.write_bytes` (P).
        derived disk_write_bytes: Option<u64> [Bytes];
        /// Growth of `disk.read_bytes` (R).
        derived disk_read_bytes: Option<u64> [Bytes];
        /// Growth of `disk.writes`.
        derived disk_writes: Option<u64> [Count];
        /// Growth of `disk.reads`.
        derived disk_reads: Option<u64> [Count];
        /// Growth of `disk.syncs`.
        derived disk_syncs: Option<u64> [Count];
        /// Dollars an hour as in `cost.usd_per_hour`, by the requests of the window; null without prices.
        derived usd_per_hour: Option<f64> [Dollars, witness "stats::doors::dollars_add_up_by_purpose_and_by_operation"];
        /// Ratios of these.
        part amplification: Quotients;
    }
}

metrics! {
    /// What the store takes.
    pub struct Space witness "stats::derived::space_is_what_the_disk_says" {
        /// Sum of the sizes of all files, including holes.
        gauge apparent_bytes: u64 [Bytes, family "kvfs_apparent_bytes", witness "fs::random::random_calls_answer_as_the_model_does"];
        /// Bytes that the tree needs at least: `space.stored_bytes` + `space.record_bytes`.
        gauge live_bytes: u64 [Bytes, family "kvfs_live_bytes"];
        /// Bytes of content that files hold, without holes.
        gauge stored_bytes: u64 [Bytes, witness "fs::random::random_calls_answer_as_the_model_does"];
        /// Bytes of the keys and values of everything else: names, inodes, attributes.
        gauge record_bytes: u64 [Bytes, witness "fs::random::random_calls_answer_as_the_model_does"];
        /// Inodes in use.
        gauge inodes: u64 [Count, family "kvfs_inodes", witness "fs::random::random_calls_answer_as_the_model_does"];
        /// Files without a name that are still open or not yet deleted.
        gauge orphans: u64 [Count, witness "fs::random::random_calls_answer_as_the_model_does"];
        /// Bytes that the store's files occupy on the disk (allocated blocks, so holes do not count), looked up once a second; free segments of the
        /// log and the ballast are included.
        gauge physical_bytes: u64 [Bytes, family "kvfs_physical_bytes"];
        /// Files of the store.
        gauge physical_files: u64 [Count];
        /// Of these bytes, those whose blocks other files have, too, such as a fork's: they are in `space.physical_bytes` of each store that has them and
        /// on the disk once. As `FIEMAP` says, asked every ten seconds and after each fork, less often where that takes long; null where the filesystem
        /// below cannot tell and for engines with a directory of their own.
        gauge shared_bytes: Option<u64> [Bytes, family "kvfs_shared_bytes", witness "mount::forks::what_is_counted_of_forks_is_what_they_say"];
        /// Of the engine.
        flat extra: ExtraSpace;
        /// Size of the filesystem below.
        gauge below_total_bytes: Option<u64> [Bytes];
        /// Free bytes of the filesystem below.
        gauge below_free_bytes: Option<u64> [Bytes];
        /// Files (inodes) that the filesystem below can hold; null where it has no limit or does not say.
        gauge below_total_files: Option<u64> [Count];
        /// Files that can still be made there, including the store's spare ones; null as before. With fewer than 12, new data is refused.
        gauge below_free_files: Option<u64> [Count];
    }
}

metrics! {
    /// Work that is still owed.
    pub struct DebtSection stability Experimental witness "stats::debt::what_is_owed_follows_from_the_levels" {
        /// Of the engine.
        flat engine: Debt;
        /// Bytes of blocks of deleted files that are still to be deleted.
        gauge reclaim_pending_bytes: u64 [Bytes, family "kvfs_reclaim_pending_bytes", stability Stable, witness "fs::cost::a_large_file_goes_in_one_small_batch"];
        /// Durability debt: Σ `debt.levels[].debt_bytes`.
        derived durability_bytes: u64 [Bytes];
        /// Durability debt with all dirty memory in use and, LSM, with as many memtables in L0 as stop writers; deeper levels as they are.
        gauge durability_bytes_max: u64 [Bytes];
        /// Processor time for `debt.durability_bytes` at the measured rate of flushes, merges and checkpoints together (Σ `timed_ns` / Σ `timed_bytes` of these
        /// in `cpu`); null until one was measured.
        gauge cpu_seconds: Option<f64> [Seconds];
        /// Processor time for `debt.durability_bytes_max`.
        gauge cpu_seconds_max: Option<f64> [Seconds];
        /// Time until merges (LSM: pending compaction) or checkpoints (B-tree: dirty bytes) have written what they owe, at their rate in the last
        /// minute; null while none runs.
        gauge settle_seconds: Option<f64> [Seconds];
        /// Debt by level. LSM: the memtable and the levels down to the last one that holds anything; B-tree: dirty pages.
        part levels: Vec<DebtLevel>;
    }
}

metrics! {
    /// Debt of one level by the model, beside the measured cost of writing into it.
    pub struct DebtLevel stability Experimental witness "stats::debt::what_is_owed_follows_from_the_levels" {
        /// Name of the level: `memtable`, `L0` …, `dirty pages`.
        label level: String;
        /// Bytes in the level.
        gauge bytes: u64 [Bytes];
        /// Write amplification by the model of a byte on its way from here to the next level.
        gauge write_amplification: f64 [Ratio];
        /// Measured write amplification of the level: bytes written into it for each byte that came in.
        derived measured_write_amplification: Option<f64> [Ratio];
        /// Write amplification by the model of a byte on its way from here to the last level.
        gauge pending_write_amplification: f64 [Ratio];
        /// Debt of the level: `bytes` × `pending_write_amplification`.
        gauge debt_bytes: u64 [Bytes, family "kvfs_durability_debt_bytes"];
        /// Processor time of this debt, as in `debt.cpu_seconds`.
        gauge cpu_seconds: Option<f64> [Seconds];
    }
}

metrics! {
    /// Predictions of the models for the tree at hand, beside the measured figures.
    pub struct Prediction stability Experimental witness "stats::debt::predictions_stand_beside_what_was_measured" {
        /// Policy whose formulas are used.
        text layout: &'static str;
        /// Levels below L0 that hold data.
        derived levels: u64 [Count];
        /// Write amplification predicted as levels × growth / 2.
        derived write_half_ratio: f64 [Ratio];
        /// Write amplification predicted by the model of debt, from the memtable down.
        derived write_debt: f64 [Ratio];
        /// Measured write amplification of the engine without the log: (P − log) / L.
        derived write_measured: Option<f64> [Ratio];
        /// `write_measured` / `write_half_ratio`.
        derived write_measured_over_half_ratio: Option<f64> [Ratio];
        /// Bytes read per lookup as predicted, with nothing cached.
        derived lookup_bytes: f64 [BytesEach];
        /// Measured bytes read per lookup, with the cache as it is: bytes read for gets / gets.
        derived lookup_bytes_measured: Option<f64> [BytesEach];
        /// `lookup_bytes_measured` / `lookup_bytes`.
        derived lookup_measured_over_predicted: Option<f64> [Ratio];
        /// Space amplification predicted at rest.
        derived space: Option<f64> [Ratio];
        /// Measured space amplification: physical / live.
        derived space_measured: Option<f64> [Ratio];
    }
}

metrics! {
    /// What a hybrid should write by the model of `docs/model.md`, without the log, beside what it did.
    pub struct HybridPrediction stability Experimental witness "stats::debt::a_hybrid_writes_about_what_is_predicted_from_its_hot_share" {
        /// Policy of the levels.
        text layout: &'static str;
        /// Measured share of the bytes put that stayed in the tree or were replaced there: 1 − demoted bytes / L.
        derived hit_share: f64 [Ratio];
        /// Exponent of the Zipf distribution of writes with which the tree, as large as it is, has this share; 0 where all records are written alike.
        derived skew: f64 [Ratio];
        /// Predicted write amplification, both halves.
        derived write: f64 [Ratio];
        /// Of this, the checkpoints of the tree.
        derived write_tree: f64 [Ratio];
        /// Of this, demotion and merges.
        derived write_levels: f64 [Ratio];
        /// Measured write amplification of the engine without the log: (P − log) / L.
        derived write_measured: Option<f64> [Ratio];
        /// `write_measured` / `write`.
        derived write_measured_over_predicted: Option<f64> [Ratio];
        /// Predicted for a tree of half the size.
        derived write_half_hot: f64 [Ratio];
        /// Predicted for a tree of twice the size.
        derived write_double_hot: f64 [Ratio];
    }
}

metrics! {
    /// The process that serves the mount.
    pub struct ProcessSection witness "kvfs::disk::os::tests::the_kernel_counts_what_the_process_writes" {
        /// Process number of the server of the mount.
        gauge pid: u32 [None, witness "stats::derived::the_head_says_since_when_and_how_long"];
        /// `write_bytes` of `/proc/self/io`: pages dirtied for the device. Log segments that are preallocated and pages written twice between two write-backs
        /// make it differ from P.
        derived write_bytes: Option<u64> [Bytes, family "kvfs_self_io_write_bytes_total"];
        /// `read_bytes`: fetched from the device.
        derived read_bytes: Option<u64> [Bytes, family "kvfs_self_io_read_bytes_total"];
        /// `wchar`: everything the process wrote, answers to the kernel's FUSE requests among them.
        derived asked_write_bytes: Option<u64> [Bytes, family "kvfs_self_io_asked_write_bytes_total"];
        /// `rchar`: everything it read, from cache or device, requests of the kernel among it.
        derived asked_read_bytes: Option<u64> [Bytes, family "kvfs_self_io_asked_read_bytes_total"];
        /// Files that are open.
        flat files: OpenFiles;
    }
}

/// A name in the root.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TopName {
    name: Option<String>,
    label: String,
}

impl TopName {
    /// `None`: all others.
    fn new(name: Option<String>) -> TopName {
        let label = name.as_ref().map_or("others".to_string(), |name| format!("/{name}"));
        TopName { name, label }
    }
}

impl Figure for TopName {
    fn types(_: Unit) -> &'static [&'static str] {
        &["null", "string"]
    }
    fn value(&self, _: Unit) -> Value<'_> {
        Value::Named(self.name.as_deref(), &self.label)
    }
}

/// The names of kinds of keys.
#[derive(Clone, Debug, PartialEq)]
pub struct KindName;

impl Naming for KindName {
    const SORT: Sort = Sort { place: "<kind>", label: "kind" };
}

/// The names of windows.
#[derive(Clone, Debug, PartialEq)]
pub struct WindowName;

impl Naming for WindowName {
    const SORT: Sort = Sort { place: "<window>", label: "window" };
}
