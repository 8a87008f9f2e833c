//! A report of each engine that does not change.

use std::time::SystemTime;

use kvfs::attribution::{Attribution, Process, Tally};
use kvfs::control::recordings::RecordingSection;
use kvfs::control::{Base, EngineCalls, Forks, Physical, Window};
use kvfs::disk::{DiskCounters, ProcessIo};
use kvfs::engine::{
    BtreeShape, Cache, Cost, Cpu, Debt, ExtraSpace, Filter, Histogram, HybridShape, KindCounters, Level,
    LevelTraffic, Lookups, Memory, Pages, Probes, Promise, StallCounters, TagCounters, TrafficMeter,
};
use kvfs::fs::meter::{Calls, Latency, OpCounters, Ops};

use super::*;

/// Counters as if this had passed door 3: purpose, bytes written, bytes read, in KiB.
fn disk(traffic: &[(Purpose, usize, usize)]) -> DiskCounters {
    let metered = Metered::new(SimDisk::new());
    let file = metered.create("a").unwrap();
    for &(purpose, written, read) in traffic {
        for _ in 0..written.div_ceil(64) {
            file.write_at(purpose, 0, &vec![0; (written << 10) / written.div_ceil(64)]).unwrap();
        }
        if read > 0 {
            file.read_at(purpose, 0, &mut vec![0; 1 << 10]).unwrap();
        }
        file.sync(purpose).unwrap();
    }
    metered.snapshot()
}

pub fn ops(calls: &[(Op, u64, u64, u64)]) -> Ops {
    let mut ops = Ops::default();
    for &(op, count, errors, bytes) in calls {
        let latency =
            Latency { p50: 38_000, p99: 412_000, p999: 1_920_000, max: 610_000_000, mean: 40_123.5 };
        *ops.of_mut(op) = OpCounters { calls: Calls { count, errors, bytes }, latency: Some(latency) };
    }
    ops
}

fn sample(shape: Shape, disk: DiskCounters) -> Sample {
    let mut tags = vec![TagCounters::default(); 64];
    tags[Op::Write as usize] = TagCounters { batches: 110, puts: 220, deletes: 0, bytes: 470_000 };
    tags[Op::Create as usize] = TagCounters { batches: 12, puts: 36, deletes: 0, bytes: 4_100 };
    let inode = KindCounters {
        gets: 140,
        hits: 128,
        get_bytes: 12_000,
        puts: 134,
        put_bytes: 13_400,
        ..Default::default()
    };
    let block = KindCounters {
        gets: 30,
        hits: 30,
        get_bytes: 123_000,
        puts: 122,
        put_bytes: 460_700,
        deletes: 4,
        delete_bytes: 84,
        scanned: 12_345,
        scanned_bytes: 50 << 20,
    };
    Sample {
        elapsed: Duration::from_secs(751),
        ops: ops(&[
            (Op::Lookup, 12_345, 12, 0),
            (Op::Create, 12, 0, 0),
            (Op::Read, 30, 0, 122_880),
            (Op::Write, 110, 1, 450_560),
            (Op::Fsync, 5, 0, 0),
        ]),
        kinds: vec![inode, block],
        kind_write_bytes: vec![13_400 * 4, 460_700 * 3],
        tags,
        calls: EngineCalls { scans: 3, deferred_inode_puts_absorbed: 21 },
        disk,
        open_files: OpenFiles { open: 7, open_max: 896, reopened: 2 },
        forks: Forks {
            made: 2,
            failed: 1,
            running: 1,
            shared_bytes: 96 << 10,
            written_bytes: 71_000,
            held: Duration::from_millis(12),
        },
        below_engine: None,
        process: Some(ProcessIo {
            asked_read_bytes: 300_000,
            asked_write_bytes: 4_400_000,
            read_bytes: 8192,
            write_bytes: 4_308_992,
        }),
        shape,
        is_unmetered: false,
    }
}

/// Two threads of one process and one that nobody knows, below two names.
fn charges() -> Charges {
    let attribution = Attribution::default();
    let name = |text: &str| text.as_bytes().into();
    attribution.charge(812, &name("postgres"), Tally::written(300_000));
    attribution.charge(813, &name("postgres"), Tally::written(100_000));
    attribution.charge(813, &name("postgres"), Tally::read(122_880));
    attribution.charge(90, &name("b\u{e4}r"), Tally::written(50_560));
    std::thread::scope(|scope| {
        let (sender, named) = std::sync::mpsc::channel();
        let attribution = &attribution;
        scope.spawn(move || {
            attribution.name_processes(|thread| {
                sender.send(()).unwrap();
                (thread > 800).then(|| Process { pid: 812, command: "postgres".to_string() })
            });
        });
        (0..3).for_each(|_| named.recv_timeout(Duration::from_secs(20)).unwrap());
        attribution.close();
    });
    attribution.charges()
}

fn report(sample: Sample, last: Sample) -> Report {
    Report {
        mount: Arc::new(MountInfo {
            version: "0.1.0".into(),
            uuid: "67b5e1c2-8f0a-4a53-9a3e-0f8c6f1f2d10".into(),
            block_bytes: 4096,
            sync: "interval:1s".into(),
            writeback_cache: false,
            store_path: "/data/kv.db".into(),
            mount_path: "/mnt/kv".into(),
            pid: 4711,
            owner: (1000, 1000),
            is_read_only: false,
            promise: Promise::WHOLE,
            config: vec![("engine".into(), sample.shape.engine.into())],
            kind_names: &["inode", "block"],
        }),
        time: SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_227_225_120),
        uptime: Duration::from_secs(751),
        state: State::Stalled(sample.shape.stalls.now.unwrap()),
        base: Base::Mount,
        sample,
        windows: vec![Window { name: "10s", growth: last }, Window { name: "1m", growth: Sample::default() }],
        usage: Usage {
            apparent_bytes: 1 << 20,
            stored_bytes: 400 << 10,
            record_bytes: 12 << 10,
            inodes: 13,
            reclaim_pending_bytes: 64 << 10,
            orphans: 1,
            deferred_inode_puts_absorbed: 21,
        },
        charges: charges(),
        physical: Physical {
            bytes: 562 << 10,
            files: 7,
            is_partial: false,
            shared_bytes: Some(96 << 10),
            below: Some(Space {
                total_bytes: 100 << 30,
                free_bytes: 42 << 30,
                total_files: 6_000_000,
                free_files: 5_000_000,
            }),
        },
        recording: Some(RecordingSection {
            state: "events",
            cause: None,
            path: "/var/tmp/work.rec".into(),
            keeps: "nothing",
            bytes: 3 << 20,
            image_entries: 1700,
            events: 52_000,
            dropped: 0,
        }),
        stats_reads: 3,
    }
}

/// Why writes of an engine may have to wait.
pub fn causes(engine: &str) -> &'static [Cause] {
    match engine {
        "lsm" => &[Cause::Memtables, Cause::L0Files, Cause::PendingBytes, Cause::Space],
        "btree" => &[Cause::DirtyPages, Cause::LogSpace, Cause::Space],
        "hybrid" => &[Cause::HotFull, Cause::DirtyPages, Cause::LogSpace, Cause::Space],
        _ => &[],
    }
}

/// What the engines' reports share: a store whose writes wait for `now`, and have waited for `before`.
fn common(now: Cause, before: Cause) -> Shape {
    let mut stalls = Stalls { now: Some(now), stopped: true, ..Stalls::default() };
    let wait = Duration::from_millis(610);
    // A B-tree stops writes and does not slow them.
    let slowdowns = if now == Cause::L0Files { 3 } else { 0 };
    *stalls.by_cause.of_mut(now) = StallCounters { slowdowns, stops: 1, waited: wait * 4, longest: wait };
    *stalls.by_cause.of_mut(before) =
        StallCounters { slowdowns: 0, stops: 2, waited: wait / 10, longest: wait / 20 };
    let mut buckets = Histogram::default();
    buckets.buckets[1] = 150;
    buckets.buckets[2] = 19;
    buckets.buckets[9] = 1;
    Shape {
        cache: Cache {
            bytes: 12 << 20,
            bytes_max: 256 << 20,
            all: Lookups { hits: 931, misses: 69 },
            ..Cache::default()
        },
        debt: Debt {
            dirty_bytes: Some(41 << 10),
            unsynced_bytes: 3_250_586,
            oldest_unsynced: Duration::from_millis(412),
            replay_bytes: Some(12 << 20),
            pending_compaction_bytes: Some(0),
            ..Debt::default()
        },
        stalls,
        cpu: Cpu::default()
            .with(Work::Checksum, Cost { bytes: 64 << 20, timed_bytes: 4 << 20, timed_nanos: 210_000 })
            .with(Work::Flush, Cost { bytes: 530 << 10, timed_bytes: 530 << 10, timed_nanos: 1_900_000 })
            .with(Work::Checkpoint, Cost { bytes: 640 << 10, timed_bytes: 640 << 10, timed_nanos: 450_000 }),
        probes: Some(Probes { buckets }),
        ..Shape::default()
    }
}

pub fn lsm() -> Report {
    let common = common(Cause::L0Files, Cause::Memtables);
    let shape = Shape {
        engine: "lsm",
        variant: "leveled",
        levels: vec![
            Level {
                level: 0,
                runs: 3,
                files: 3,
                bytes: 96 << 10,
                score: 0.75,
                entries: 300,
                traffic: LevelTraffic {
                    in_bytes: 530 << 10,
                    write_bytes: 530 << 10,
                    probes: 170,
                    ..LevelTraffic::default()
                },
                ..Level::default()
            },
            Level {
                level: 1,
                runs: 1,
                files: 8,
                bytes: 248 << 10,
                target_bytes: 256 << 10,
                score: 0.97,
                entries: 900,
                tombstones: 12,
                traffic: LevelTraffic {
                    in_bytes: 530 << 10,
                    moved_bytes: 0,
                    read_bytes: 1100 << 10,
                    write_bytes: 1500 << 10,
                    probes: 55,
                },
                ..Level::default()
            },
        ],
        memory: Memory {
            limit_bytes: Some(256 << 20),
            used_bytes: Some(75 << 20),
            resident_bytes: Some(2 << 20),
            memtable_bytes: Some(11 << 20),
            memtable_bytes_max: Some(128 << 20),
            immutable_memtables: Some(1),
            dirty_bytes: Some(0),
            dirty_bytes_max: Some(0),
        },
        filter: Filter { checks: 12_400, useful: 11_000, false_positives: 99 },
        space: ExtraSpace {
            obsolete_bytes: 31 << 20,
            temporary_bytes: 0,
            ballast_bytes: 12 << 20,
            temporary_peak_bytes: 128 << 20,
        },
        jobs: vec!["compact L0\u{2192}L1 4 files 128MiB 61%".into()],
        debt: Debt {
            l0_files: 3,
            l0_trigger: 4,
            pending_compaction_bytes: Some(184 << 20),
            tombstones: 12_400,
            ..common.debt
        },
        ..common
    };
    use Purpose::*;
    let written = disk(&[
        (Wal, 541, 0),
        (Flush, 530, 0),
        (Compact { into: 1 }, 1500, 1),
        (Compact { into: 2 }, 1400, 1),
        (Manifest, 2, 0),
        (Get, 0, 1),
        (Scan, 0, 1),
    ]);
    let last = disk(&[(Wal, 20, 0), (Flush, 20, 0)]);
    let mut growth = sample(Shape::default(), last);
    growth.elapsed = Duration::from_secs(10);
    report(sample(shape, written), growth)
}

pub fn btree() -> Report {
    let (read, written_pages) = (TrafficMeter::default(), TrafficMeter::default());
    read.add(PageKind::Leaf, PageCause::Get, 3, 48 << 10);
    written_pages.add(PageKind::Leaf, PageCause::Change, 100, 400 << 10);
    written_pages.add(PageKind::Inner, PageCause::Split, 2, 8 << 10);
    written_pages.add(PageKind::Extent, PageCause::Change, 30, 232 << 10);
    written_pages.add(PageKind::Leaf, PageCause::Delta, 100, 1 << 20);
    written_pages.add(PageKind::Meta, PageCause::Checkpoint, 4, 2 << 10);
    let shape = Shape {
        engine: "btree",
        variant: "page-images",
        tree: Some(BtreeShape {
            page_bytes: 16 << 10,
            height: 3,
            leaf_pages: 12_400,
            inner_pages: 31,
            extent_bytes: 390 << 20,
            free_bytes: 12 << 20,
            fill: 0.712,
            saved_bytes: 0,
            compressible_bytes: 0,
            compressed_bytes: 0,
            splits: 12_100,
            merges: 3,
            checkpoints: 12,
            checkpoint_age_bytes: 12 << 20,
            checkpoint_time: Duration::from_millis(1234),
            dirty_age: Duration::from_millis(2500),
            settle_bytes: 82 << 10,
            page_copies: 1,
            waiting_puts: 1200,
            waiting_bytes: 220 << 10,
            recovery_time: Duration::from_millis(310),
            recovery_bytes: 5 << 20,
            leaf_hits: 900,
            leaf_misses: 100,
            inner_hits: 999,
            inner_misses: 1,
            extent_hits: 0,
            extent_misses: 0,
            latch_waits: 7,
            latch_wait_time: Duration::from_micros(180),
            pages: Pages { read: read.snapshot(), written: written_pages.snapshot() },
        }),
        memory: Memory {
            limit_bytes: Some(256 << 20),
            used_bytes: Some(62 << 20),
            resident_bytes: Some(0),
            memtable_bytes: Some(0),
            memtable_bytes_max: Some(0),
            immutable_memtables: Some(0),
            dirty_bytes: Some(41 << 10),
            dirty_bytes_max: Some(128 << 20),
        },
        ..common(Cause::DirtyPages, Cause::LogSpace)
    };
    use Purpose::*;
    let written =
        disk(&[(Wal, 541, 0), (PageImage, 1024, 0), (Checkpoint, 640, 0), (Manifest, 2, 0), (Get, 0, 1)]);
    let mut growth = sample(Shape::default(), disk(&[(Wal, 20, 0)]));
    growth.elapsed = Duration::from_secs(10);
    report(sample(shape, written), growth)
}

/// The tree of the one over the levels of the other.
pub fn hybrid() -> Report {
    let (of_tree, of_levels) = (btree().sample, lsm().sample.shape);
    let mut heat = Histogram::default();
    (heat.buckets[0], heat.buckets[3], heat.buckets[15]) = (40_000, 20_000, 5536);
    let shape = Shape {
        engine: "hybrid",
        variant: of_levels.variant,
        levels: of_levels.levels,
        filter: of_levels.filter,
        space: of_levels.space,
        hybrid: Some(HybridShape {
            hot_bytes: 590 << 20,
            hot_bytes_max: 512 << 20,
            cold_bytes: 344 << 10,
            threshold: 3,
            demote_held: true,
            round_time: Some(Duration::from_millis(1700)),
            heat,
            demoted_entries: 1300,
            demoted_bytes: 530 << 10,
            dropped_tombstones: 7,
            dropped_clean: 31,
            promoted_entries: 44,
            promoted_bytes: 170 << 10,
            removed_entries: 1330,
            stayed_entries: 8,
            tree_reads: 900,
            level_reads: 100,
        }),
        debt: Debt {
            l0_files: 3,
            l0_trigger: 4,
            pending_compaction_bytes: Some(184 << 10),
            tombstones: 12,
            ..of_tree.shape.debt
        },
        jobs: vec!["demote 12.0MiB so far, the tree has 590MiB, held".into()],
        stalls: common(Cause::HotFull, Cause::LogSpace).stalls,
        ..of_tree.shape
    };
    use Purpose::*;
    let written = disk(&[
        (Wal, 541, 0),
        (Demote, 530, 1),
        (Promote, 0, 1),
        (Compact { into: 1 }, 1500, 1),
        (Checkpoint, 640, 0),
        (Manifest, 2, 0),
        (Get, 0, 1),
    ]);
    let mut growth = sample(Shape::default(), disk(&[(Wal, 20, 0), (Demote, 40, 0), (Checkpoint, 20, 0)]));
    growth.elapsed = Duration::from_secs(10);
    report(sample(shape, written), growth)
}
