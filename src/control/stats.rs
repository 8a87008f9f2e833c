//! A report: all that is known about a mount at one moment, as a value: the counters of all three doors, what the engine and the
//! filesystem look like, and the ratios between them.
//!
//! A [`Sample`] holds what all doors have counted since the mount began. The difference of two samples is a sample again,
//! so "since the mount", "the last ten seconds" and "since a mark" are the same code. A [`Report`] is a sample with what
//! only makes sense now. Nothing here is text; `render` and `json` print it.
//!
//! # The words of the accounting
//!
//! | word | meaning | door |
//! |---|---|---|
//! | A, app bytes | payload of the user's writes | 1, [`fs::meter::Meter`](crate::fs::meter::Meter) |
//! | L, kv bytes | key and value of every put, key of every delete | 2, [`MeteredEngine`] |
//! | P, physical bytes | what was written to the store's files, by purpose | 3, [`disk::Metered`](crate::disk::Metered) |
//! | R | what was read from the store's files, by purpose | 3 |
//!
//! # Invariants
//!
//! 1. Each ratio divides two counters that are printed beside it; without a denominator it is `None`.
//! 2. Taking a sample takes no lock that a writer holds for long, and never waits for the disk.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::below_engine::BelowEngine;
use super::forks::Forks;
use super::recordings::RecordingSection;
use crate::attribution::Charges;
use crate::base::metric::{Since, metrics, ratio};
use crate::disk::{Counters, DiskCounters, OpenFiles, ProcessIo, Purpose, Space};
use crate::engine::{Cause, Engine, Home, KINDS, KindCounters, MeteredEngine, Promise, Shape, TagCounters};
use crate::fs::Usage;
use crate::fs::meter::{Meter, OpCounters, Ops};
use crate::fs::operation::Op;

/// Facts that do not change while a store is mounted.
#[derive(Clone, Debug, Default)]
pub struct MountInfo {
    /// Version of the program.
    pub version: String,
    /// The store's identity.
    pub uuid: String,
    /// Bytes of a block of file content.
    pub block_bytes: u64,
    /// The option `sync`, which says when changes become durable: `interval:1s`.
    pub sync: String,
    /// Whether the kernel gathers writes before it hands them over; app bytes then are whole pages.
    pub writeback_cache: bool,
    /// The store's directory.
    pub store_path: String,
    /// The mount point.
    pub mount_path: String,
    /// The process that serves the mount.
    pub pid: u32,
    /// User and group who mounted; the virtual files belong to them.
    pub owner: (u32, u32),
    /// Whether nothing below may change, so that commands which would are refused.
    pub is_read_only: bool,
    /// What the engine promises of a crash.
    pub promise: Promise,
    /// Effective options, for `.stats.d/config`.
    pub config: Vec<(String, String)>,
    /// The names of the kinds of keys, by [`crate::engine::KeyKind`].
    pub kind_names: &'static [&'static str],
}

metrics! {
    /// Counters of all doors since the mount began, or their growth between two such moments. What is not a counter (levels'
    /// sizes, debts, the longest stall) is as it is at the later moment.
    pub struct Sample {
        /// Time since where the counters begin.
        counter elapsed: Duration [Milliseconds];
        /// Door 1. Percentiles do not subtract: a growth has none until somebody who knows the distributions fills them in.
        inside ops: Ops;
        /// Door 2 by kind of key.
        inside kinds: Vec<KindCounters>;
        /// Door 3 by kind of key: bytes written to tables or pages on behalf of its entries, see
        /// [`ClassBytes`](crate::engine::ClassBytes).
        inside kind_write_bytes: Vec<u64>;
        /// Door 2 by file operation, indexed by [`Op::tag`].
        inside tags: Vec<TagCounters>;
        /// Door 2 and behind it.
        inside calls: EngineCalls;
        /// Door 3.
        inside disk: DiskCounters;
        /// Files that are open.
        inside open_files: OpenFiles;
        /// Second stores that were made out of this one.
        inside forks: Forks;
        /// The kernel's counters of this process; `None` where it has none.
        inside process: Option<ProcessIo>;
        /// The witness below the engine; `None` where there is none.
        inside below_engine: Option<BelowEngine>;
        /// The engine; what its levels read and wrote is taken from door 3.
        inside shape: Shape;
        /// Whether the engine reads and writes in ways of its own, so that door 3 sees nothing of it and says nothing of what it costs.
        hidden is_unmetered: bool;
    }
}

metrics! {
    /// Counts of door 2 that no kind of key has.
    #[derive(Copy, Eq)]
    pub struct EngineCalls witness "stats::asked::keys_are_counted_by_kind_and_by_operation" {
        /// Scans.
        counter scans: u64 [Count];
        /// Inode puts that were saved because a write which does not change the size may write its times later.
        counter deferred_inode_puts_absorbed: u64 [Count, witness "fs::cost::hot_paths_cost_what_they_should"];
    }
}

/// Sources of a sample beside the doors.
#[derive(Clone, Copy, Debug, Default)]
pub struct Aside {
    /// Inode puts that the filesystem has saved.
    pub deferred_inode_puts_absorbed: u64,
    /// Files that are open.
    pub open_files: OpenFiles,
    /// The kernel's counters.
    pub process: Option<ProcessIo>,
    /// Second stores that were made.
    pub forks: Forks,
}

impl Sample {
    /// Asks every door.
    pub fn take(
        elapsed: Duration,
        meter: &Meter,
        engine: &MeteredEngine,
        disk: &crate::disk::Metered,
        aside: Aside,
    ) -> Sample {
        let mut shape = engine.shape();
        let own = engine.inspect().and_then(|inspect| inspect.traffic());
        let is_unmetered = own.is_none() && matches!(engine.kind().home, Home::Directory(_));
        let disk = own.unwrap_or_else(|| disk.snapshot());
        // Only door 3 counts disk bytes: an engine may count whole tables where a merge read less.
        for level in &mut shape.levels {
            let merged = disk.of(Purpose::Compact { into: level.level as u8 });
            let passed = if level.level == 0 { merged + disk.of(Purpose::Flush) } else { merged };
            (level.traffic.read_bytes, level.traffic.write_bytes) = (passed.read_bytes, passed.write_bytes);
        }
        let mut kind_write_bytes = vec![0; KINDS];
        for (class, bytes) in shape.classes.iter() {
            kind_write_bytes[usize::from(engine.kind_of(&[class])) % KINDS] += bytes;
        }
        Sample {
            elapsed,
            kind_write_bytes,
            ops: meter.ops(),
            kinds: engine.kinds().to_vec(),
            tags: engine.tags().to_vec(),
            calls: EngineCalls {
                scans: engine.scans(),
                deferred_inode_puts_absorbed: aside.deferred_inode_puts_absorbed,
            },
            disk,
            open_files: aside.open_files,
            process: aside.process,
            forks: aside.forks,
            below_engine: None,
            shape,
            is_unmetered,
        }
    }

    /// A count of door 3; `None` if the engine reads and writes where door 3 does not see it.
    pub(super) fn metered<T>(&self, count: T) -> Option<T> {
        (!self.is_unmetered).then_some(count)
    }

    /// A quotient with what door 3 counted, if that is what the engine did.
    pub(super) fn by_disk(&self, numerator: u64, denominator: u64) -> Option<f64> {
        self.metered(ratio(numerator, denominator)).flatten()
    }

    /// Counters of one operation.
    pub fn op(&self, op: Op) -> OpCounters {
        self.ops.of(op)
    }

    /// A: bytes that users wrote, or had copied here.
    pub fn app_write_bytes(&self) -> u64 {
        self.op(Op::Write).calls.bytes + self.op(Op::CopyFileRange).calls.bytes
    }

    /// Bytes that users read.
    pub fn app_read_bytes(&self) -> u64 {
        self.op(Op::Read).calls.bytes
    }

    /// All kinds of keys together.
    pub fn kv(&self) -> KindCounters {
        self.kinds.iter().fold(KindCounters::default(), |sum, kind| sum + *kind)
    }

    /// L: key and value bytes of puts, key bytes of deletes.
    pub fn kv_write_bytes(&self) -> u64 {
        let kv = self.kv();
        kv.put_bytes + kv.delete_bytes
    }

    /// P: bytes written to the store's files.
    pub fn disk_write_bytes(&self) -> u64 {
        self.disk.total().write_bytes
    }

    /// R: bytes read from the store's files, background work included.
    pub fn disk_read_bytes(&self) -> u64 {
        self.disk.total().read_bytes
    }

    /// Those of R that gets and scans of the filesystem had to fetch.
    pub fn foreground_read_bytes(&self) -> u64 {
        self.disk.of(Purpose::Get).read_bytes + self.disk.of(Purpose::Scan).read_bytes
    }

    /// Those of P that went to the log: records, page images and its preparation.
    pub fn log_write_bytes(&self) -> u64 {
        let log = [Purpose::Wal, Purpose::ValueLog, Purpose::PageImage, Purpose::LogPrepare];
        log.into_iter().map(|purpose| self.disk.of(purpose).write_bytes).sum()
    }

    /// P without the log: what most models count.
    pub fn no_wal_write_bytes(&self) -> u64 {
        self.disk_write_bytes() - self.log_write_bytes()
    }

    /// Those of P without the log that no kind of key is charged with: filters, indexes, footers, free room of pages, inner
    /// pages, copies of pages, manifest and meta pages.
    pub fn overhead_write_bytes(&self) -> u64 {
        self.no_wal_write_bytes().saturating_sub(self.kind_write_bytes.iter().sum())
    }

    /// All merges together.
    pub fn compaction(&self) -> Counters {
        let merges = Purpose::all().filter(|purpose| matches!(purpose, Purpose::Compact { .. }));
        merges.fold(Counters::default(), |sum, purpose| sum + self.disk.of(purpose))
    }

    /// P / A.
    pub fn write_amp(&self) -> Option<f64> {
        self.by_disk(self.disk_write_bytes(), self.app_write_bytes())
    }

    /// L / A: what the filesystem's records add.
    pub fn fs_write_amp(&self) -> Option<f64> {
        ratio(self.kv_write_bytes(), self.app_write_bytes())
    }

    /// P / L: what the engine adds.
    pub fn engine_write_amp(&self) -> Option<f64> {
        self.by_disk(self.disk_write_bytes(), self.kv_write_bytes())
    }

    /// What the witness below the engine saw written / A.
    pub fn witnessed_write_amp(&self) -> Option<f64> {
        ratio(self.below_engine.as_ref()?.write_bytes(), self.app_write_bytes())
    }

    /// (P − log) / A.
    pub fn write_amp_no_wal(&self) -> Option<f64> {
        self.by_disk(self.no_wal_write_bytes(), self.app_write_bytes())
    }

    /// (P − log) / L.
    pub fn engine_write_amp_no_wal(&self) -> Option<f64> {
        self.by_disk(self.no_wal_write_bytes(), self.kv_write_bytes())
    }

    /// R / bytes that users read.
    pub fn read_amp(&self) -> Option<f64> {
        self.by_disk(self.disk_read_bytes(), self.app_read_bytes())
    }

    /// R of gets and scans alone / bytes that users read.
    pub fn foreground_read_amp(&self) -> Option<f64> {
        self.by_disk(self.foreground_read_bytes(), self.app_read_bytes())
    }

    /// Write requests to the disk / writes of users.
    pub fn write_requests_per_write(&self) -> Option<f64> {
        self.by_disk(self.disk.total().writes, self.op(Op::Write).calls.count)
    }

    /// Read requests of gets and scans / reads of users.
    pub fn read_requests_per_read(&self) -> Option<f64> {
        self.by_disk(
            self.disk.of(Purpose::Get).reads + self.disk.of(Purpose::Scan).reads,
            self.op(Op::Read).calls.count,
        )
    }
}

/// State of the mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// Changes are taken at once.
    Ok,
    /// Changes are delayed.
    Throttled(Cause),
    /// Changes wait until something has been written.
    Stalled(Cause),
    /// Something in the store cannot be read. What needs it fails, everything else goes on: the sentence.
    Damaged(String),
    /// The last change was refused, and not for what it was: the sentence.
    Refusing(String),
    /// Changes are refused since a sync failed: the sentence.
    ReadOnly(String),
}

impl State {
    /// `OK`, `THROTTLED`, `STALLED`, `DAMAGED`, `REFUSING` or `READONLY`.
    pub fn name(&self) -> &'static str {
        match self {
            State::Ok => "OK",
            State::Throttled(_) => "THROTTLED",
            State::Stalled(_) => "STALLED",
            State::Damaged(_) => "DAMAGED",
            State::Refusing(_) => "REFUSING",
            State::ReadOnly(_) => "READONLY",
        }
    }

    /// The limit or the failure behind it.
    pub fn cause(&self) -> Option<&str> {
        match self {
            State::Ok => None,
            State::Throttled(cause) | State::Stalled(cause) => Some(cause.name()),
            State::Damaged(cause) | State::Refusing(cause) | State::ReadOnly(cause) => Some(cause),
        }
    }
}

/// The store's files, looked at once a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Physical {
    /// Σ of what the files occupy.
    pub bytes: u64,
    /// Number of files.
    pub files: u64,
    /// Whether files are missing here: those of an engine that keeps them elsewhere, and that nobody looked at.
    pub is_partial: bool,
    /// Bytes of the files whose blocks other files have, too; `None` where that is not known.
    pub shared_bytes: Option<u64>,
    /// The filesystem below; `None` where it does not say.
    pub below: Option<Space>,
}

impl Physical {
    /// Bytes that the files occupy / `bytes`; `None` unless all are known.
    pub(super) fn over(&self, bytes: u64) -> Option<f64> {
        ratio(self.bytes, bytes).filter(|_| !self.is_partial)
    }
}

/// The growth over the last while.
#[derive(Clone, Debug)]
pub struct Window {
    /// `10s` or `1m`.
    pub name: &'static str,
    /// The growth; its `elapsed` is the true length.
    pub growth: Sample,
}

/// Start of the counters of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// At the mount.
    Mount,
    /// At a mark of this name.
    Mark(String),
}

/// Everything that is reported, at one moment.
#[derive(Clone, Debug)]
pub struct Report {
    /// Facts that do not change.
    pub mount: Arc<MountInfo>,
    /// Wall time of the snapshot.
    pub time: SystemTime,
    /// Time since the mount.
    pub uptime: Duration,
    /// State of the mount.
    pub state: State,
    /// Start of the counters.
    pub base: Base,
    /// The counters from there.
    pub sample: Sample,
    /// Content moved since then, by process and by name.
    pub charges: Charges,
    /// The last ten seconds and the last minute; shorter while the mount is younger than that.
    pub windows: Vec<Window>,
    /// The filesystem's contents.
    pub usage: Usage,
    /// The store's files.
    pub physical: Physical,
    /// The recording that goes on, or went on last.
    pub recording: Option<RecordingSection>,
    /// Snapshots made so far of the virtual files.
    pub stats_reads: u64,
}

impl Report {
    /// Bytes that the user's tree needs at least: stored content, names and records.
    pub fn live_bytes(&self) -> u64 {
        self.usage.stored_bytes + self.usage.record_bytes
    }

    /// Bytes that the store's files occupy / bytes that the user's tree needs at least.
    pub fn space_amp(&self) -> Option<f64> {
        self.physical.over(self.live_bytes())
    }

    /// The same report with counters that begin at `mark`.
    pub fn since(mut self, name: &str, mark: &Sample, charges: &Charges) -> Report {
        self.sample = self.sample.since(mark);
        self.charges = self.charges.since(charges);
        self.base = Base::Mark(name.to_string());
        self
    }
}
