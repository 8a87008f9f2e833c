//! From a report to its rows.

use std::time::SystemTime;

use super::*;
use crate::attribution::Tally;
use crate::base::metric::ratio;
use crate::control::cost::Cost;
use crate::control::forecast;
use crate::control::hot_forecast::hot_forecast;
use crate::control::model::DebtRow;
use crate::control::stats::{Base, Report, Sample, State};
use crate::disk::{ProcessIo, Purpose};

impl Document {
    /// The document of `report`.
    pub fn of(report: &Report) -> Document {
        let Report { mount, sample, .. } = report;
        Document {
            schema: "kvfs.stats/1",
            version: mount.version.clone(),
            uuid: mount.uuid.clone(),
            state: report.state.name(),
            state_cause: report.state.cause().map(str::to_string),
            read_only: matches!(report.state, State::ReadOnly(_)),
            time: report.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default(),
            uptime: report.uptime,
            since: match &report.base {
                Base::Mount => "mount".to_string(),
                Base::Mark(name) => name.clone(),
            },
            elapsed: sample.elapsed,
            store_path: mount.store_path.clone(),
            mount_path: mount.mount_path.clone(),
            block_bytes: mount.block_bytes,
            sync: mount.sync.clone(),
            writeback_cache: mount.writeback_cache,
            promise: mount.promise,
            stats_reads: report.stats_reads,
            app: App {
                write_bytes: sample.app_write_bytes(),
                read_bytes: sample.app_read_bytes(),
                writes: sample.op(Op::Write).calls.count,
                reads: sample.op(Op::Read).calls.count,
            },
            ops: Each::from_fn(|op| OpRow {
                calls: sample.op(Op::ALL[op]),
                batches: sample.tags.get(usize::from(Op::ALL[op].tag())).copied().unwrap_or_default(),
            }),
            kv: kv(sample),
            kinds: kinds(report),
            disk: sample.metered(disk(sample)),
            requests: RequestSection::of(sample),
            cost: CostSection::of(sample),
            witness: witness(sample),
            recording: report.recording.clone(),
            by_process: by_process(report),
            by_path: by_path(report),
            amplification: Amplification { growth: quotients(sample), space: report.space_amp() },
            windows: report.windows.iter().map(|window| (window.name, growth(&window.growth))).collect(),
            space: space(report),
            debt: debt(report),
            prediction: prediction(report),
            hybrid_prediction: hybrid_prediction(report),
            forks: sample.forks,
            stalls: sample.shape.stalls.clone(),
            engine: sample.shape.clone(),
            process: process(report),
        }
    }
}

fn kv(sample: &Sample) -> Kv {
    let kv = sample.kv();
    Kv {
        write_bytes: sample.kv_write_bytes(),
        put_bytes: kv.put_bytes,
        delete_bytes: kv.delete_bytes,
        get_bytes: kv.get_bytes,
        scanned_bytes: kv.scanned_bytes,
        puts: kv.puts,
        deletes: kv.deletes,
        gets: kv.gets,
        hits: kv.hits,
        scanned: kv.scanned,
        batches: sample.tags.iter().map(|tag| tag.batches).sum(),
        calls: sample.calls,
    }
}

fn kinds(report: &Report) -> Named<KindName, KindRow> {
    let sample = &report.sample;
    let kind = |((name, counters), index): ((&&'static str, &KindCounters), usize)| {
        let written = sample.kind_write_bytes.get(index).copied().unwrap_or(0);
        let asked = counters.put_bytes + counters.delete_bytes;
        let row = KindRow {
            counters: *counters,
            write_amplification: ratio(asked, sample.app_write_bytes()),
            disk_write_bytes: written,
            disk_write_amplification: ratio(written, asked),
        };
        (*name, row)
    };
    report.mount.kind_names.iter().zip(&sample.kinds).zip(0..).map(kind).collect()
}

fn disk(sample: &Sample) -> DiskSection {
    let total = sample.disk.total();
    let compaction = sample.compaction();
    DiskSection {
        write_bytes: total.write_bytes,
        read_bytes: total.read_bytes,
        writes: total.writes,
        reads: total.reads,
        syncs: total.syncs,
        errors: total.errors,
        log_write_bytes: sample.log_write_bytes(),
        overhead_write_bytes: sample.overhead_write_bytes(),
        compaction_write_bytes: compaction.write_bytes,
        compaction_read_bytes: compaction.read_bytes,
        by_purpose: sample.disk,
    }
}

fn witness(sample: &Sample) -> Option<WitnessSection> {
    let counts = sample.below_engine.clone()?;
    let (write_bytes, read_bytes) = (counts.write_bytes(), counts.read_bytes());
    let kernel = counts.kernel_write_bytes;
    Some(WitnessSection {
        counts,
        write_amplification: sample.witnessed_write_amp(),
        engine_write_amplification: ratio(write_bytes, sample.kv_write_bytes()),
        read_amplification: ratio(read_bytes, sample.app_read_bytes()),
        write_over_kernel: kernel.and_then(|kernel| ratio(write_bytes, kernel)),
    })
}

fn by_process(report: &Report) -> Vec<ProcessRow> {
    let ranking = report.charges.by_process();
    let row = |pid: Option<u32>, command: Option<String>, tally: &Tally| {
        let Tally { write_bytes, writes, read_bytes, reads } = *tally;
        ProcessRow { pid, command, write_bytes, writes, read_bytes, reads }
    };
    let rows = ranking.rows.iter().map(|(process, tally)| {
        let command = Some(process.command.clone()).filter(|command| !command.is_empty());
        row(Some(process.pid), command, tally)
    });
    rows.chain([row(None, Some("others".to_string()), &ranking.others)]).collect()
}

fn by_path(report: &Report) -> Vec<PathRow> {
    let ranking = report.charges.by_path();
    let row = |path: Option<String>, tally: &Tally| {
        let Tally { write_bytes, writes, read_bytes, reads } = *tally;
        PathRow { path: TopName::new(path), write_bytes, writes, read_bytes, reads }
    };
    let rows = ranking.rows.iter().map(|(path, tally)| row(Some(path.clone()), tally));
    rows.chain([row(None, &ranking.others)]).collect()
}

fn quotients(sample: &Sample) -> Quotients {
    Quotients {
        write: sample.write_amp(),
        fs_write: sample.fs_write_amp(),
        engine_write: sample.engine_write_amp(),
        write_no_wal: sample.write_amp_no_wal(),
        engine_write_no_wal: sample.engine_write_amp_no_wal(),
        read: sample.read_amp(),
        read_foreground: sample.foreground_read_amp(),
        write_requests: sample.write_requests_per_write(),
        read_requests: sample.read_requests_per_read(),
    }
}

fn growth(sample: &Sample) -> Growth {
    let disk = sample.disk.total();
    Growth {
        elapsed: sample.elapsed,
        app_write_bytes: sample.app_write_bytes(),
        app_read_bytes: sample.app_read_bytes(),
        kv_write_bytes: sample.kv_write_bytes(),
        disk_write_bytes: sample.metered(disk.write_bytes),
        disk_read_bytes: sample.metered(disk.read_bytes),
        disk_writes: sample.metered(disk.writes),
        disk_reads: sample.metered(disk.reads),
        disk_syncs: sample.metered(disk.syncs),
        usd_per_hour: Cost::of(sample).and_then(|cost| cost.usd_per_hour()),
        amplification: quotients(sample),
    }
}

fn space(report: &Report) -> Space {
    let (usage, physical) = (&report.usage, &report.physical);
    let files = physical.below.filter(|below| below.total_files > 0);
    Space {
        apparent_bytes: usage.apparent_bytes,
        live_bytes: report.live_bytes(),
        stored_bytes: usage.stored_bytes,
        record_bytes: usage.record_bytes,
        inodes: usage.inodes,
        orphans: usage.orphans,
        physical_bytes: physical.bytes,
        physical_files: physical.files,
        shared_bytes: physical.shared_bytes,
        extra: report.sample.shape.space,
        below_total_bytes: physical.below.map(|below| below.total_bytes),
        below_free_bytes: physical.below.map(|below| below.free_bytes),
        below_total_files: files.map(|below| below.total_files),
        below_free_files: files.map(|below| below.free_files),
    }
}

fn debt(report: &Report) -> DebtSection {
    let sample = &report.sample;
    let rows = forecast::debt(sample);
    let (owed, owed_max) = (rows.iter().map(|row| row.debt_bytes).sum(), forecast::debt_max(sample));
    let level = |row: DebtRow| {
        let level = sample.shape.levels.iter().find(|level| format!("L{}", level.level) == row.level);
        DebtLevel {
            level: row.level,
            bytes: row.bytes as u64,
            write_amplification: row.write_amp,
            measured_write_amplification: level.and_then(|level| level.traffic.write_amplification()),
            pending_write_amplification: row.pending_write_amp,
            debt_bytes: row.debt_bytes as u64,
            cpu_seconds: forecast::cpu_seconds(sample, row.debt_bytes),
        }
    };
    DebtSection {
        engine: sample.shape.debt,
        reclaim_pending_bytes: report.usage.reclaim_pending_bytes,
        durability_bytes: rows.iter().map(|row| row.debt_bytes as u64).sum(),
        durability_bytes_max: owed_max as u64,
        cpu_seconds: forecast::cpu_seconds(sample, owed),
        cpu_seconds_max: forecast::cpu_seconds(sample, owed_max),
        settle_seconds: forecast::settle_seconds(report),
        levels: rows.into_iter().map(level).collect(),
    }
}

fn prediction(report: &Report) -> Option<Prediction> {
    let forecast = forecast::forecast(report)?;
    let sample = &report.sample;
    let against = |measured: Option<f64>, predicted: f64| {
        measured.filter(|_| predicted > 0.0).map(|measured| measured / predicted)
    };
    let probes = sample.shape.probes.as_ref();
    let lookup = probes.and_then(|probes| ratio(sample.disk.of(Purpose::Get).read_bytes, probes.count()));
    let written = sample.engine_write_amp_no_wal();
    Some(Prediction {
        layout: forecast.layout,
        levels: forecast.levels,
        write_half_ratio: forecast.write_amp_half_ratio,
        write_debt: forecast.write_amp_debt,
        write_measured: written,
        write_measured_over_half_ratio: against(written, forecast.write_amp_half_ratio),
        lookup_bytes: forecast.lookup_bytes,
        lookup_bytes_measured: lookup,
        lookup_measured_over_predicted: against(lookup, forecast.lookup_bytes),
        space: forecast.space_amp,
        space_measured: report.space_amp(),
    })
}

fn hybrid_prediction(report: &Report) -> Option<HybridPrediction> {
    let forecast = hot_forecast(report)?;
    let measured = report.sample.engine_write_amp_no_wal();
    Some(HybridPrediction {
        layout: forecast.layout,
        hit_share: forecast.hit_share,
        skew: forecast.skew,
        write: forecast.write(),
        write_tree: forecast.write_of_tree,
        write_levels: forecast.write_of_levels,
        write_measured: measured,
        write_measured_over_predicted: measured.map(|measured| measured / forecast.write()),
        write_half_hot: forecast.write_half_hot,
        write_double_hot: forecast.write_double_hot,
    })
}

fn process(report: &Report) -> ProcessSection {
    let of = |counter: fn(&ProcessIo) -> u64| report.sample.process.as_ref().map(counter);
    ProcessSection {
        pid: report.mount.pid,
        write_bytes: of(|io| io.write_bytes),
        read_bytes: of(|io| io.read_bytes),
        asked_write_bytes: of(|io| io.asked_write_bytes),
        asked_read_bytes: of(|io| io.asked_read_bytes),
        files: report.sample.open_files,
    }
}
