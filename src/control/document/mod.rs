//! Everything that `.stats.d/json` says, as rows: what the doors counted as it is, and what is made of it.
//!
//! A number that a room counts itself is declared there; here stand sums, quotients and what several rooms know together.

mod compose;

use std::time::Duration;

use super::stats::EngineCalls;
use crate::base::metric::{Each, Figure, Named, Naming, Sort, Unit, Value, metrics};
use crate::disk::{OpenFiles, Snapshot};
use crate::engine::{Debt, ExtraSpace, KindCounters, Shape, Stalls, TagCounters};
use crate::fs::meter::{Op, OpCounters};

metrics! {
    /// A report for machines.
    pub struct Document {
        /// `kvfs.stats/1`; keys are added under the same name, never changed.
        text schema: &'static str;
        /// Of the program.
        text version: String;
        /// Of the store.
        text uuid: String;
        /// `OK`; `THROTTLED`: writes are delayed; `STALLED`: writes wait; `DAMAGED`: something in the store cannot be read and was set aside, what needs it
        /// fails and all else goes on (the sentence in `state_cause` names the place and the way out); `REFUSING`: the last change was refused, for the reason
        /// in `state_cause`, and none that takes space was taken since; `READONLY`: a sync failed, nothing is written any more.
        text state: &'static str;
        /// The limit or the failure behind it.
        text state_cause: Option<String>;
        /// Whether nothing is written any more, since a sync failed.
        gauge read_only: bool [None, family "kvfs_read_only"];
        /// Wall time of the snapshot since 1970.
        gauge time: Duration [Milliseconds, key "time_ms", family "kvfs_snapshot_time_seconds"];
        /// Since the mount.
        gauge uptime: Duration [Milliseconds, key "uptime_ms"];
        /// Where the counters begin: `mount` or the mark's name.
        text since: String;
        /// Since where the counters begin.
        gauge elapsed: Duration [Milliseconds, key "elapsed_ms"];
        /// The store's directory.
        text store_path: String;
        /// Where it is mounted.
        text mount_path: String;
        /// Of a block of file content.
        gauge block_bytes: u64 [Bytes];
        /// When changes become durable unasked.
        text sync: String;
        /// Whether the kernel gathers writes, see Pitfalls.
        text writeback_cache: bool;
        /// Snapshots made of these files before this one.
        gauge stats_reads: u64 [Count];
        /// Door 1, all operations that move content together.
        part app: App;
        /// Door 1 by operation, and what the operation's batches asked of door 2.
        part ops: Each<Op, OpRow, { Op::ALL.len() }>;
        /// Door 2.
        part kv: Kv;
        /// Doors 2 and 3 by kind of key: `inode`, `dirent`, `xattr`, `block` …
        part kinds: Named<KindName, KindRow>;
        /// Door 3.
        part disk: DiskSection;
        /// Processes that moved most content: twenty, then all others.
        part by_process: Vec<ProcessRow>;
        /// Names in the root below which most content was moved: twenty, then all others.
        part by_path: Vec<PathRow>;
        /// Quotients of the counters above.
        part amplification: Amplification;
        /// What was counted in the last while: `10s` or `1m`.
        part windows: Named<WindowName, Growth>;
        /// What the store takes.
        part space: Space;
        /// Work that is still owed.
        part debt: DebtSection;
        /// What the models of `docs/model.md` say, or null.
        part prediction: Option<Prediction>;
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
    pub struct App {
        /// A: payload of writes.
        derived write_bytes: u64 [Bytes, family "kvfs_app_write_bytes_total"];
        /// Payload of reads.
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
    pub struct Kv {
        /// L = `kv.put_bytes` + `kv.delete_bytes`.
        derived write_bytes: u64 [Bytes, family "kvfs_kv_write_bytes_total"];
        /// Keys and values put.
        derived put_bytes: u64 [Bytes];
        /// Keys deleted.
        derived delete_bytes: u64 [Bytes];
        /// Keys and values that point reads found.
        derived get_bytes: u64 [Bytes];
        /// Keys and values that scans visited.
        derived scanned_bytes: u64 [Bytes];
        /// Puts.
        derived puts: u64 [Count];
        /// Deletes.
        derived deletes: u64 [Count];
        /// Point reads.
        derived gets: u64 [Count];
        /// Those that found the key.
        derived hits: u64 [Count];
        /// Entries that scans visited.
        derived scanned: u64 [Count];
        /// Batches.
        derived batches: u64 [Count];
        /// What no kind of key has.
        flat calls: EngineCalls;
    }
}

metrics! {
    /// One kind of key.
    pub struct KindRow {
        /// Door 2.
        flat counters: KindCounters;
        /// (put + delete bytes of the kind) / A: the kinds add up to `amplification.fs_write`.
        derived write_amplification: Option<f64> [Ratio];
        /// Door 3: bytes written on behalf of the kind's entries, without the log. LSM: of each block that flushes and merges write, the share of its entries
        /// before compression; the kinds add up to all blocks, exactly. B-tree: a share, too: of what checkpoints write of a leaf, the part that the kind's
        /// cells have of the page; large values out of line with all their units.
        counter disk_write_bytes: u64 [Bytes, family "kvfs_kind_disk_write_bytes_total"];
        /// `disk_write_bytes` / (put + delete bytes of the kind): how often a byte of the kind was written beyond the log. Of values that stay in the log only
        /// the pointers are in it.
        derived disk_write_amplification: Option<f64> [Ratio];
    }
}

metrics! {
    /// Door 3.
    pub struct DiskSection {
        /// P: Σ over all purposes.
        derived write_bytes: u64 [Bytes];
        /// R: Σ over all purposes.
        derived read_bytes: u64 [Bytes];
        /// Write requests.
        derived writes: u64 [Count];
        /// Read requests.
        derived reads: u64 [Count];
        /// Syncs of files.
        derived syncs: u64 [Count];
        /// Requests that failed.
        derived errors: u64 [Count];
        /// Of P: `wal` + `value_log` + `page_image` + `log_prepare`.
        derived log_write_bytes: u64 [Bytes];
        /// Of P: P − `disk.log_write_bytes` − Σ `kinds.<kind>.disk_write_bytes`: filters, indexes, footers; free room and headers of pages, inner pages,
        /// copies; manifest and meta pages.
        derived overhead_write_bytes: u64 [Bytes];
        /// Of P: all `compact_N`.
        derived compaction_write_bytes: u64 [Bytes];
        /// Of R: all `compact_N`.
        derived compaction_read_bytes: u64 [Bytes];
        /// By why bytes passed; the purposes are listed below.
        part by_purpose: Snapshot;
    }
}

metrics! {
    /// What one process has moved. One that moves more may push another out of the list, so these are no counters.
    pub struct ProcessRow {
        /// The twenty that moved most, then null: all others.
        label pid: Option<u32>;
        /// As `ps` shows it; null where it is not known.
        label command: Option<String>;
        /// Content written.
        gauge write_bytes: u64 [Bytes, family "kvfs_process_write_bytes"];
        /// Calls that wrote it.
        gauge writes: u64 [Count, family "kvfs_process_writes"];
        /// Content read.
        gauge read_bytes: u64 [Bytes, family "kvfs_process_read_bytes"];
        /// Calls that read it.
        gauge reads: u64 [Count, family "kvfs_process_reads"];
    }
}

metrics! {
    /// What was moved below one name of the root.
    pub struct PathRow {
        /// The twenty names in the root below which most was moved, empty where it is not known; then null: all others.
        label path: TopName;
        /// Content written.
        gauge write_bytes: u64 [Bytes, family "kvfs_path_write_bytes"];
        /// Calls that wrote it.
        gauge writes: u64 [Count, family "kvfs_path_writes"];
        /// Content read.
        gauge read_bytes: u64 [Bytes, family "kvfs_path_read_bytes"];
        /// Calls that read it.
        gauge reads: u64 [Count, family "kvfs_path_reads"];
    }
}

metrics! {
    /// Quotients of growths; null without a denominator.
    pub struct Quotients {
        /// `disk.write_bytes` / `app.write_bytes`.
        derived write: Option<f64> [Ratio];
        /// `kv.write_bytes` / `app.write_bytes`.
        derived fs_write: Option<f64> [Ratio];
        /// `disk.write_bytes` / `kv.write_bytes`.
        derived engine_write: Option<f64> [Ratio];
        /// (`disk.write_bytes` − `disk.log_write_bytes`) / `app.write_bytes`.
        derived write_no_wal: Option<f64> [Ratio];
        /// (`disk.write_bytes` − `disk.log_write_bytes`) / `kv.write_bytes`.
        derived engine_write_no_wal: Option<f64> [Ratio];
        /// `disk.read_bytes` / `app.read_bytes`.
        derived read: Option<f64> [Ratio];
        /// Read bytes of `get` and `scan` / `app.read_bytes`.
        derived read_foreground: Option<f64> [Ratio];
        /// `disk.writes` / `app.writes`.
        derived write_requests: Option<f64> [Ratio];
        /// Read requests of `get` and `scan` / `app.reads`.
        derived read_requests: Option<f64> [Ratio];
    }
}

metrics! {
    /// The amplifications.
    pub struct Amplification {
        /// Those of growths.
        flat growth: Quotients;
        /// `space.physical_bytes` / `space.live_bytes`.
        derived space: Option<f64> [Ratio];
    }
}

metrics! {
    /// What was counted in a while.
    pub struct Growth {
        /// True length of the window; shorter on a young mount.
        derived elapsed: Duration [Milliseconds, key "elapsed_ms"];
        /// Growth of A in it.
        derived app_write_bytes: u64 [Bytes];
        /// Growth of the payload of reads.
        derived app_read_bytes: u64 [Bytes];
        /// Growth of L.
        derived kv_write_bytes: u64 [Bytes];
        /// Growth of P.
        derived disk_write_bytes: u64 [Bytes];
        /// Growth of R.
        derived disk_read_bytes: u64 [Bytes];
        /// Growth of write requests.
        derived disk_writes: u64 [Count];
        /// Growth of read requests.
        derived disk_reads: u64 [Count];
        /// Growth of syncs.
        derived disk_syncs: u64 [Count];
        /// The quotients of these.
        part amplification: Quotients;
    }
}

metrics! {
    /// What the store takes.
    pub struct Space {
        /// Σ sizes of files, holes included.
        gauge apparent_bytes: u64 [Bytes, family "kvfs_apparent_bytes"];
        /// What the tree needs at least: `space.stored_bytes` + `space.record_bytes`.
        gauge live_bytes: u64 [Bytes, family "kvfs_live_bytes"];
        /// Content that files hold, without holes.
        gauge stored_bytes: u64 [Bytes];
        /// Keys and values of everything else: names, inodes, attributes.
        gauge record_bytes: u64 [Bytes];
        /// Inodes in use.
        gauge inodes: u64 [Count, family "kvfs_inodes"];
        /// Files without a name that are open or not yet drained.
        gauge orphans: u64 [Count];
        /// What the store's files occupy (blocks, so a sparse file counts what it has), looked at once a second; the log's free segments and the ballast are
        /// part of it.
        gauge physical_bytes: u64 [Bytes, family "kvfs_physical_bytes"];
        /// Files of the store.
        gauge physical_files: u64 [Count];
        /// Of the engine.
        flat extra: ExtraSpace;
        /// Size of the filesystem below.
        gauge below_total_bytes: Option<u64> [Bytes];
        /// What is free there.
        gauge below_free_bytes: Option<u64> [Bytes];
        /// Files (inodes) that may be there; null where the filesystem below does not limit them, or does not say.
        gauge below_total_files: Option<u64> [Count];
        /// How many more can be made, the store's spare ones among them; null as before. With fewer than 12 new data is refused.
        gauge below_free_files: Option<u64> [Count];
    }
}

metrics! {
    /// Work that is still owed.
    pub struct DebtSection {
        /// Of the engine.
        flat engine: Debt;
        /// Blocks of deleted files that are still to be deleted.
        gauge reclaim_pending_bytes: u64 [Bytes, family "kvfs_reclaim_pending_bytes"];
        /// Σ `debt.levels[].debt_bytes`.
        derived durability_bytes: u64 [Bytes];
        /// The same with all dirty memory in use and, LSM, with as many memtables in L0 as stop writers; deeper levels as they are.
        gauge durability_bytes_max: u64 [Bytes];
        /// Processor time for `debt.durability_bytes` at the measured rate of flushes, merges and checkpoints together (Σ `timed_ns` / Σ `timed_bytes` of these
        /// in `cpu`); null until one was measured.
        gauge cpu_seconds: Option<f64> [Seconds];
        /// The same for `debt.durability_bytes_max`.
        gauge cpu_seconds_max: Option<f64> [Seconds];
        /// What merges (LSM: pending compaction) or checkpoints (B-tree: dirty bytes) owe, over their rate in the last minute; null while none runs.
        gauge settle_seconds: Option<f64> [Seconds];
        /// LSM: memtable and levels down to the last that holds anything; B-tree: its dirty pages.
        part levels: Vec<DebtLevel>;
    }
}

metrics! {
    /// What one level owes by the model, beside what writing into it has cost so far.
    pub struct DebtLevel {
        /// `memtable`, `L0` …, `dirty pages`.
        label level: String;
        /// In it.
        gauge bytes: u64 [Bytes];
        /// By the model, for a byte that goes from here to the next level.
        gauge write_amplification: f64 [Ratio];
        /// What was written into this level for each byte that came in.
        derived measured_write_amplification: Option<f64> [Ratio];
        /// By the model, until a byte from here is in the last level.
        gauge pending_write_amplification: f64 [Ratio];
        /// Bytes × pending.
        gauge debt_bytes: u64 [Bytes, family "kvfs_durability_debt_bytes"];
        /// Their processor time, as in `debt.cpu_seconds`.
        gauge cpu_seconds: Option<f64> [Seconds];
    }
}

metrics! {
    /// What the models say of the tree at hand, beside what was measured.
    pub struct Prediction {
        /// Whose formulas.
        text layout: &'static str;
        /// Levels below L0 that hold something.
        derived levels: u64 [Count];
        /// Levels × growth / 2.
        derived write_half_ratio: f64 [Ratio];
        /// By the model of debt, from the memtable down.
        derived write_debt: f64 [Ratio];
        /// (P − log) / L.
        derived write_measured: Option<f64> [Ratio];
        /// `write_measured` / `write_half_ratio`.
        derived write_measured_over_half_ratio: Option<f64> [Ratio];
        /// Of one lookup with nothing cached.
        derived lookup_bytes: f64 [BytesEach];
        /// Read for gets / gets, with the cache as it is.
        derived lookup_bytes_measured: Option<f64> [BytesEach];
        /// `lookup_bytes_measured` / `lookup_bytes`.
        derived lookup_measured_over_predicted: Option<f64> [Ratio];
        /// At rest.
        derived space: Option<f64> [Ratio];
        /// Physical / live.
        derived space_measured: Option<f64> [Ratio];
    }
}

metrics! {
    /// The process that serves the mount.
    pub struct ProcessSection {
        /// The process that serves the mount.
        gauge pid: u32 [None];
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
