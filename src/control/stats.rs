//! What is known about a mount at one moment, as a value: the counters of all three doors, what the engine and the
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

use crate::disk::{Counters, OpenFiles, ProcessIo, Purpose, Snapshot, Space};
use crate::engine::{Cause, Engine, KINDS, KindCounters, MeteredEngine, Shape, TagCounters};
use crate::fs::Usage;
use crate::fs::attribution::Charges;
use crate::fs::meter::{Meter, Op, OpCounters};

/// What does not change while a store is mounted.
#[derive(Clone, Debug, Default)]
pub struct MountInfo {
    /// Version of the program.
    pub version: String,
    /// The store's identity.
    pub uuid: String,
    /// Bytes of a block of file content.
    pub block_bytes: u64,
    /// When changes become durable, as the option says it: `interval:1s`.
    pub sync: String,
    /// Whether the kernel gathers writes before it hands them over; app bytes then are whole pages.
    pub writeback_cache: bool,
    /// The store's directory.
    pub store_path: String,
    /// Where it is mounted.
    pub mount_path: String,
    /// The process that serves the mount.
    pub pid: u32,
    /// Who mounted: user and group that the virtual files belong to.
    pub owner: (u32, u32),
    /// Whether nothing below may change, so that commands which would are refused.
    pub is_view: bool,
    /// Effective options, for `.stats.d/config`.
    pub config: Vec<(String, String)>,
    /// The names of the kinds of keys, by [`crate::engine::KeyKind`].
    pub kind_names: &'static [&'static str],
}

/// What all doors counted since the mount began, or the growth between two such moments. What is not a counter (levels'
/// sizes, debts, the longest stall) is as it is at the later moment.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Time since the mount began, or between the two moments.
    pub elapsed: Duration,
    /// Door 1, in the order of [`Op::ALL`]. Percentiles do not subtract: a growth has none until somebody who knows the
    /// distributions fills them in.
    pub ops: Vec<OpCounters>,
    /// Door 2 by kind of key.
    pub kinds: Vec<KindCounters>,
    /// Door 3 by kind of key: bytes written to tables or pages on behalf of its entries, see
    /// [`ClassBytes`](crate::engine::ClassBytes).
    pub kind_write_bytes: Vec<u64>,
    /// Door 2 by file operation, indexed by [`Op::tag`].
    pub tags: Vec<TagCounters>,
    /// Scans begun at door 2.
    pub scans: u64,
    /// Door 3.
    pub disk: Snapshot,
    /// The kernel's counters of this process; `None` where it has none.
    pub process: Option<ProcessIo>,
    /// The engine; what its levels read and wrote is taken from door 3.
    pub shape: Shape,
}

impl Sample {
    /// Asks every door.
    pub fn take(
        elapsed: Duration,
        meter: &Meter,
        engine: &MeteredEngine,
        disk: &crate::disk::Metered,
        process: Option<ProcessIo>,
    ) -> Sample {
        let mut shape = engine.shape();
        let disk = disk.snapshot();
        // Only door 3 counts disk bytes: an engine may count whole tables where a merge read less.
        for level in &mut shape.levels {
            let merged = disk.of(Purpose::Compact { into: level.level as u8 });
            let passed = if level.level == 0 { merged.plus(&disk.of(Purpose::Flush)) } else { merged };
            (level.read_bytes, level.write_bytes) = (passed.read_bytes, passed.write_bytes);
        }
        let mut kind_write_bytes = vec![0; KINDS];
        for (class, bytes) in shape.classes.iter() {
            kind_write_bytes[usize::from(engine.kind_of(&[class])) % KINDS] += bytes;
        }
        Sample {
            elapsed,
            kind_write_bytes,
            ops: Op::ALL.iter().map(|&op| meter.of(op)).collect(),
            kinds: engine.kinds().to_vec(),
            tags: engine.tags().to_vec(),
            scans: engine.scans(),
            disk,
            process,
            shape,
        }
    }

    /// The growth from `earlier` to `self`.
    pub fn since(&self, earlier: &Sample) -> Sample {
        let none = OpCounters::default();
        let op = |(index, now): (usize, &OpCounters)| {
            let before = earlier.ops.get(index).unwrap_or(&none);
            OpCounters {
                count: now.count.saturating_sub(before.count),
                errors: now.errors.saturating_sub(before.errors),
                bytes: now.bytes.saturating_sub(before.bytes),
                latency: None,
            }
        };
        Sample {
            elapsed: self.elapsed.saturating_sub(earlier.elapsed),
            ops: self.ops.iter().enumerate().map(op).collect(),
            kinds: pairs(&self.kinds, &earlier.kinds, KindCounters::since),
            kind_write_bytes: pairs(&self.kind_write_bytes, &earlier.kind_write_bytes, |now, before| {
                now.saturating_sub(*before)
            }),
            tags: pairs(&self.tags, &earlier.tags, TagCounters::since),
            scans: self.scans.saturating_sub(earlier.scans),
            disk: self.disk.since(&earlier.disk),
            process: self.process.map(|now| now.since(&earlier.process.unwrap_or_default())),
            shape: shape_since(&self.shape, &earlier.shape),
        }
    }

    /// Counters of one operation.
    pub fn op(&self, op: Op) -> OpCounters {
        self.ops.get(op as usize).cloned().unwrap_or_default()
    }

    /// A: bytes that users wrote, or had copied here.
    pub fn app_write_bytes(&self) -> u64 {
        self.op(Op::Write).bytes + self.op(Op::CopyFileRange).bytes
    }

    /// Bytes that users read.
    pub fn app_read_bytes(&self) -> u64 {
        self.op(Op::Read).bytes
    }

    /// All kinds of keys together.
    pub fn kv(&self) -> KindCounters {
        self.kinds.iter().fold(KindCounters::default(), |sum, kind| sum.plus(kind))
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
        merges.fold(Counters::default(), |sum, purpose| sum.plus(&self.disk.of(purpose)))
    }

    /// P / A.
    pub fn write_amp(&self) -> Option<f64> {
        ratio(self.disk_write_bytes(), self.app_write_bytes())
    }

    /// L / A: what the filesystem's records add.
    pub fn fs_write_amp(&self) -> Option<f64> {
        ratio(self.kv_write_bytes(), self.app_write_bytes())
    }

    /// P / L: what the engine adds.
    pub fn engine_write_amp(&self) -> Option<f64> {
        ratio(self.disk_write_bytes(), self.kv_write_bytes())
    }

    /// (P − log) / A.
    pub fn write_amp_no_wal(&self) -> Option<f64> {
        ratio(self.no_wal_write_bytes(), self.app_write_bytes())
    }

    /// (P − log) / L.
    pub fn engine_write_amp_no_wal(&self) -> Option<f64> {
        ratio(self.no_wal_write_bytes(), self.kv_write_bytes())
    }

    /// R / bytes that users read.
    pub fn read_amp(&self) -> Option<f64> {
        ratio(self.disk_read_bytes(), self.app_read_bytes())
    }

    /// R of gets and scans alone / bytes that users read.
    pub fn foreground_read_amp(&self) -> Option<f64> {
        ratio(self.foreground_read_bytes(), self.app_read_bytes())
    }

    /// Write requests to the disk / writes of users.
    pub fn write_requests_per_write(&self) -> Option<f64> {
        ratio(self.disk.total().writes, self.op(Op::Write).count)
    }

    /// Read requests of gets and scans / reads of users.
    pub fn read_requests_per_read(&self) -> Option<f64> {
        ratio(self.disk.of(Purpose::Get).reads + self.disk.of(Purpose::Scan).reads, self.op(Op::Read).count)
    }

    /// Structures probed / point reads of the engine.
    pub fn probes_per_get(&self) -> Option<f64> {
        let probes = &self.shape.probes;
        let sum = probes.buckets.iter().zip(0..).map(|(count, value)| count * value).sum();
        ratio(sum, probes.count())
    }

    /// Cache hits / requests to the cache.
    pub fn cache_hit_share(&self) -> Option<f64> {
        let cache = self.shape.cache;
        ratio(cache.hits, cache.hits + cache.misses)
    }

    /// Filter's wrong "perhaps" / all questions about keys that were not there.
    pub fn false_positive_share(&self) -> Option<f64> {
        let filter = self.shape.filter;
        ratio(filter.false_positives, filter.false_positives + filter.useful)
    }
}

/// `numerator / denominator`; `None` without a denominator.
pub fn ratio(numerator: u64, denominator: u64) -> Option<f64> {
    (denominator > 0).then(|| numerator as f64 / denominator as f64)
}

fn pairs<T: Default>(now: &[T], earlier: &[T], since: fn(&T, &T) -> T) -> Vec<T> {
    let none = T::default();
    now.iter().enumerate().map(|(index, value)| since(value, earlier.get(index).unwrap_or(&none))).collect()
}

/// `now` with its counters reduced by those of `earlier`.
fn shape_since(now: &Shape, earlier: &Shape) -> Shape {
    let mut shape = now.clone();
    for (level, before) in shape.levels.iter_mut().zip(&earlier.levels) {
        level.in_bytes = level.in_bytes.saturating_sub(before.in_bytes);
        level.moved_bytes = level.moved_bytes.saturating_sub(before.moved_bytes);
        level.read_bytes = level.read_bytes.saturating_sub(before.read_bytes);
        level.write_bytes = level.write_bytes.saturating_sub(before.write_bytes);
        level.probes = level.probes.saturating_sub(before.probes);
    }
    if let (Some(tree), Some(before)) = (&mut shape.tree, &earlier.tree) {
        tree.splits = tree.splits.saturating_sub(before.splits);
        tree.merges = tree.merges.saturating_sub(before.merges);
        tree.checkpoints = tree.checkpoints.saturating_sub(before.checkpoints);
        tree.leaves = tree.leaves.since(&before.leaves);
        tree.inner = tree.inner.since(&before.inner);
        tree.extents = tree.extents.since(&before.extents);
        tree.pages_read = tree.pages_read.since(&before.pages_read);
        tree.pages_written = tree.pages_written.since(&before.pages_written);
        tree.latch_waits = tree.latch_waits.saturating_sub(before.latch_waits);
        tree.latch_wait_time = tree.latch_wait_time.saturating_sub(before.latch_wait_time);
    }
    shape.cache.hits = shape.cache.hits.saturating_sub(earlier.cache.hits);
    shape.cache.misses = shape.cache.misses.saturating_sub(earlier.cache.misses);
    for (counts, before) in shape.cache.kinds.iter_mut().zip(&earlier.cache.kinds) {
        *counts = counts.since(before);
    }
    shape.filter.checks = shape.filter.checks.saturating_sub(earlier.filter.checks);
    shape.filter.useful = shape.filter.useful.saturating_sub(earlier.filter.useful);
    shape.filter.false_positives =
        shape.filter.false_positives.saturating_sub(earlier.filter.false_positives);
    for (stall, before) in shape.stalls.by_cause.iter_mut().zip(&earlier.stalls.by_cause) {
        stall.slowdowns = stall.slowdowns.saturating_sub(before.slowdowns);
        stall.stops = stall.stops.saturating_sub(before.stops);
        stall.waited = stall.waited.saturating_sub(before.waited);
    }
    shape.classes = now.classes.since(&earlier.classes);
    shape.cpu = now.cpu.since(&earlier.cpu);
    shape.probes = now.probes.since(&earlier.probes);
    shape.scan_tombstones = now.scan_tombstones.saturating_sub(earlier.scan_tombstones);
    shape.scan_runs = now.scan_runs.since(&earlier.scan_runs);
    shape
}

/// How the mount does.
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
    /// How many files.
    pub files: u64,
    /// The filesystem below; `None` where it does not say.
    pub below: Option<Space>,
    /// Those of the files that are open.
    pub open_files: OpenFiles,
}

/// The growth over the last while.
#[derive(Clone, Debug)]
pub struct Window {
    /// `10s` or `1m`.
    pub name: &'static str,
    /// The growth; its `elapsed` is the true length.
    pub growth: Sample,
}

/// Where the counters of a report begin.
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
    /// What does not change.
    pub mount: Arc<MountInfo>,
    /// Wall time of the snapshot.
    pub time: SystemTime,
    /// Time since the mount.
    pub uptime: Duration,
    /// How it does.
    pub state: State,
    /// Where the counters begin.
    pub base: Base,
    /// The counters from there.
    pub sample: Sample,
    /// Who moved content, from there.
    pub charges: Charges,
    /// The last ten seconds and the last minute; shorter while the mount is younger than that.
    pub windows: Vec<Window>,
    /// The filesystem's contents.
    pub usage: Usage,
    /// The store's files.
    pub physical: Physical,
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
        ratio(self.physical.bytes, self.live_bytes())
    }

    /// The same report with counters that begin at `mark`.
    pub fn since(mut self, name: &str, mark: &Sample, charges: &Charges) -> Report {
        self.sample = self.sample.since(mark);
        self.charges = self.charges.since(charges);
        self.base = Base::Mark(name.to_string());
        self
    }
}
