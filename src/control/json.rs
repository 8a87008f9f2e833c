//! A report for machines: schema `kvfs.stats/1`. Integers are in base units (bytes, nanoseconds, counts) unless the name
//! says milliseconds or seconds; a ratio without a denominator, and what an engine does not have, is `null`.
//! `docs/stats.md` explains every key; a test compares the two.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value, json};

use super::forecast;
use super::stats::{Base, Report, Sample};
use crate::disk::{Counters, Purpose};
use crate::engine::cache::CacheKind;
use crate::engine::{Cause, Cost, PageCause, PageCount, PageKind, PageTraffic, Work};
use crate::fs::attribution::{Process, Tally};
use crate::fs::meter::Op;

/// The report as one JSON object, with a newline at its end.
pub fn json(report: &Report) -> String {
    // Nothing in it can fail: keys are strings and numbers are finite or null.
    let mut text = serde_json::to_string_pretty(&value(report)).unwrap_or_default();
    text.push('\n');
    text
}

fn value(report: &Report) -> Value {
    let Report { mount, sample, usage, physical, .. } = report;
    let shape = &sample.shape;
    let kv = sample.kv();
    let disk = sample.disk.total();
    let owed_bytes: f64 = forecast::debt(sample).iter().map(|row| row.debt_bytes).sum();
    let millis = report.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let mut value = json!({
        "schema": "kvfs.stats/1",
        "version": mount.version,
        "uuid": mount.uuid,
        "engine": shape.engine,
        "variant": shape.variant,
        "state": report.state.name(),
        "state_cause": report.state.cause(),
        "time_ms": millis,
        "uptime_ms": millis_of(report.uptime),
        "since": match &report.base { Base::Mount => "mount", Base::Mark(name) => name },
        "elapsed_ms": millis_of(sample.elapsed),
        "store_path": mount.store_path,
        "mount_path": mount.mount_path,
        "block_bytes": mount.block_bytes,
        "sync": mount.sync,
        "writeback_cache": mount.writeback_cache,
        "stats_reads": report.stats_reads,
        "app": {
            "write_bytes": sample.app_write_bytes(),
            "read_bytes": sample.app_read_bytes(),
            "writes": sample.op(Op::Write).count,
            "reads": sample.op(Op::Read).count,
        },
        "kv": {
            "write_bytes": sample.kv_write_bytes(),
            "put_bytes": kv.put_bytes,
            "delete_bytes": kv.delete_bytes,
            "get_bytes": kv.get_bytes,
            "scanned_bytes": kv.scanned_bytes,
            "puts": kv.puts,
            "deletes": kv.deletes,
            "gets": kv.gets,
            "hits": kv.hits,
            "scans": sample.scans,
            "scanned": kv.scanned,
            "batches": sample.tags.iter().map(|tag| tag.batches).sum::<u64>(),
            "deferred_inode_puts_absorbed": usage.deferred_inode_puts_absorbed,
        },
        "disk": {
            "write_bytes": disk.write_bytes,
            "read_bytes": disk.read_bytes,
            "writes": disk.writes,
            "reads": disk.reads,
            "syncs": disk.syncs,
            "errors": disk.errors,
            "log_write_bytes": sample.log_write_bytes(),
            "overhead_write_bytes": sample.overhead_write_bytes(),
            "compaction_write_bytes": sample.compaction().write_bytes,
            "compaction_read_bytes": sample.compaction().read_bytes,
            "by_purpose": null,
        },
        "amplification": amplification(sample, Some(report.space_amp())),
        "windows": null,
        "space": {
            "apparent_bytes": usage.apparent_bytes,
            "live_bytes": report.live_bytes(),
            "stored_bytes": usage.stored_bytes,
            "record_bytes": usage.record_bytes,
            "inodes": usage.inodes,
            "orphans": usage.orphans,
            "physical_bytes": physical.bytes,
            "physical_files": physical.files,
            "obsolete_bytes": shape.obsolete_bytes,
            "ballast_bytes": shape.ballast_bytes,
            "temporary_bytes": shape.temporary_bytes,
            "temporary_peak_bytes": shape.temporary_peak_bytes,
            "below_total_bytes": physical.below.map(|space| space.total_bytes),
            "below_free_bytes": physical.below.map(|space| space.free_bytes),
            "below_total_files": physical.below.map(|space| space.total_files).filter(|files| *files > 0),
            "below_free_files": physical.below.filter(|space| space.total_files > 0).map(|space| space.free_files),
        },
        "value_log": {
            "segments": shape.value_log.segments,
            "bytes": shape.value_log.bytes,
            "live_bytes": shape.value_log.live_bytes,
            "moved_bytes": shape.value_log.moved_bytes,
        },
        "debt": {
            "l0_files": shape.debt.l0_files,
            "l0_trigger": shape.debt.l0_trigger,
            "pending_compaction_bytes": shape.debt.pending_compaction_bytes,
            "dirty_bytes": shape.debt.dirty_bytes,
            "unsynced_bytes": shape.debt.unsynced_bytes,
            "oldest_unsynced_ms": millis_of(shape.debt.oldest_unsynced),
            "replay_bytes": shape.debt.replay_bytes,
            "tombstones": shape.debt.tombstones,
            "oldest_tombstone_seconds": shape.debt.oldest_tombstone.map(|age| age.as_secs()),
            "dropped_bytes": shape.debt.dropped_bytes,
            "reclaim_pending_bytes": usage.reclaim_pending_bytes,
            "durability_bytes": forecast::debt(sample).iter().map(|row| row.debt_bytes as u64).sum::<u64>(),
            "durability_bytes_max": forecast::debt_max(sample) as u64,
            "cpu_seconds": forecast::cpu_seconds(sample, owed_bytes),
            "cpu_seconds_max": forecast::cpu_seconds(sample, forecast::debt_max(sample)),
            "settle_seconds": forecast::settle_seconds(report),
            "levels": null,
        },
        "prediction": prediction(report),
        "stalls": stalls(sample),
        "levels": null,
        "tree": null,
        "memory": {
            "limit_bytes": shape.memory.limit_bytes,
            "used_bytes": shape.memory.used_bytes,
            "resident_bytes": shape.memory.resident_bytes,
            "memtable_bytes": shape.memory.memtable_bytes,
            "memtable_bytes_max": shape.memory.memtable_bytes_max,
            "immutable_memtables": shape.memory.immutable_memtables,
            "dirty_bytes": shape.memory.dirty_bytes,
            "dirty_bytes_max": shape.memory.dirty_bytes_max,
        },
        "cache": {
            "bytes": shape.cache.bytes,
            "bytes_max": shape.cache.bytes_max,
            "hits": shape.cache.hits,
            "misses": shape.cache.misses,
            "hit_share": sample.cache_hit_share(),
            "kinds": object(CacheKind::ALL.iter().zip(shape.cache.kinds).map(|(piece, counts)| {
                let counts = json!({"hits": counts.hits, "misses": counts.misses, "hit_share": counts.hit_share()});
                (piece.name(), counts)
            })),
        },
        "filter": {
            "checks": shape.filter.checks,
            "useful": shape.filter.useful,
            "false_positives": shape.filter.false_positives,
            "false_positive_share": sample.false_positive_share(),
        },
        "probes": {
            "count": shape.probes.count(),
            "mean": sample.probes_per_get(),
            "p50": shape.probes.quantile(0.5),
            "p99": shape.probes.quantile(0.99),
            "max": shape.probes.quantile(1.0),
            "buckets": shape.probes.buckets,
        },
        "scan_runs": {
            "count": shape.scan_runs.count(),
            "p50": shape.scan_runs.quantile(0.5),
            "p99": shape.scan_runs.quantile(0.99),
            "max": shape.scan_runs.quantile(1.0),
            "buckets": shape.scan_runs.buckets,
            "tombstones": shape.scan_tombstones,
        },
        "cpu": null,
        "ops": null,
        "kinds": null,
        "by_process": null,
        "by_path": null,
        "jobs": shape.jobs,
        "process": {
            "pid": mount.pid,
            "write_bytes": sample.process.map(|process| process.write_bytes),
            "read_bytes": sample.process.map(|process| process.read_bytes),
            "asked_write_bytes": sample.process.map(|process| process.asked_write_bytes),
            "asked_read_bytes": sample.process.map(|process| process.asked_read_bytes),
            "open_files": physical.open_files.open,
            "open_files_max": physical.open_files.open_max,
            "reopened_files": physical.open_files.reopened,
        },
    });
    // `json!` copies what it is given; these are most of the report.
    let purposes = Purpose::all().map(|purpose| (purpose.name(), counters(sample.disk.of(purpose))));
    value["disk"]["by_purpose"] = object(purposes);
    value["windows"] = object(report.windows.iter().map(|window| (window.name, growth(&window.growth))));
    value["debt"]["levels"] = debt_levels(sample).into();
    value["levels"] = levels(sample).into();
    value["tree"] = tree(sample).into();
    value["cpu"] = object(Work::ALL.into_iter().map(|work| (work.name(), cost(shape.cpu.of(work)))));
    value["ops"] = object(Op::ALL.iter().map(|&op| (op.name(), operation(sample, op))));
    value["kinds"] = kinds(report);
    value["by_process"] = by_process(report).into();
    value["by_path"] = by_path(report).into();
    value
}

/// `space` only where there is a figure for it at all.
fn amplification(sample: &Sample, space: Option<Option<f64>>) -> Value {
    let mut value = json!({
        "write": sample.write_amp(),
        "fs_write": sample.fs_write_amp(),
        "engine_write": sample.engine_write_amp(),
        "write_no_wal": sample.write_amp_no_wal(),
        "engine_write_no_wal": sample.engine_write_amp_no_wal(),
        "read": sample.read_amp(),
        "read_foreground": sample.foreground_read_amp(),
        "write_requests": sample.write_requests_per_write(),
        "read_requests": sample.read_requests_per_read(),
    });
    if let Some(space) = space {
        value["space"] = json!(space);
    }
    value
}

fn growth(sample: &Sample) -> Value {
    let disk = sample.disk.total();
    json!({
        "elapsed_ms": millis_of(sample.elapsed),
        "app_write_bytes": sample.app_write_bytes(),
        "app_read_bytes": sample.app_read_bytes(),
        "kv_write_bytes": sample.kv_write_bytes(),
        "disk_write_bytes": disk.write_bytes,
        "disk_read_bytes": disk.read_bytes,
        "disk_writes": disk.writes,
        "disk_reads": disk.reads,
        "disk_syncs": disk.syncs,
        "amplification": amplification(sample, None),
    })
}

fn counters(counters: Counters) -> Value {
    json!({
        "writes": counters.writes,
        "write_bytes": counters.write_bytes,
        "reads": counters.reads,
        "read_bytes": counters.read_bytes,
        "mean_write_bytes": counters.write_bytes.checked_div(counters.writes),
        "mean_read_bytes": counters.read_bytes.checked_div(counters.reads),
        "syncs": counters.syncs,
        "errors": counters.errors,
    })
}

/// What work of a kind has cost the processor.
fn cost(cost: Cost) -> Value {
    json!({
        "bytes": cost.bytes,
        "timed_bytes": cost.timed_bytes,
        "timed_ns": cost.timed_nanos,
        "ns_per_byte": cost.nanos_per_byte(),
    })
}

/// What each level owes by the model, beside what writing into it has cost so far.
fn debt_levels(sample: &Sample) -> Vec<Value> {
    let row = |row: crate::control::model::DebtRow| {
        let level = sample.shape.levels.iter().find(|level| format!("L{}", level.level) == row.level);
        json!({
            "level": row.level,
            "bytes": row.bytes as u64,
            "write_amplification": row.write_amp,
            "measured_write_amplification": level.and_then(|level| super::ratio(level.write_bytes, level.in_bytes)),
            "pending_write_amplification": row.pending_write_amp,
            "debt_bytes": row.debt_bytes as u64,
            "cpu_seconds": forecast::cpu_seconds(sample, row.debt_bytes),
        })
    };
    forecast::debt(sample).into_iter().map(row).collect()
}

fn prediction(report: &Report) -> Option<Value> {
    let forecast = forecast::forecast(report)?;
    let sample = &report.sample;
    let against = |measured: Option<f64>, predicted: f64| {
        measured.filter(|_| predicted > 0.0).map(|measured| measured / predicted)
    };
    let gets = sample.shape.probes.count();
    let lookup = super::ratio(sample.disk.of(Purpose::Get).read_bytes, gets);
    Some(json!({
        "layout": forecast.layout,
        "levels": forecast.levels,
        "write_half_ratio": forecast.write_amp_half_ratio,
        "write_debt": forecast.write_amp_debt,
        "write_measured": sample.engine_write_amp_no_wal(),
        "write_measured_over_half_ratio": against(sample.engine_write_amp_no_wal(), forecast.write_amp_half_ratio),
        "lookup_bytes": forecast.lookup_bytes,
        "lookup_bytes_measured": lookup,
        "lookup_measured_over_predicted": against(lookup, forecast.lookup_bytes),
        "space": forecast.space_amp,
        "space_measured": report.space_amp(),
    }))
}

fn stalls(sample: &Sample) -> Value {
    let stalls = &sample.shape.stalls;
    let waited: Duration = stalls.by_cause.iter().map(|cause| cause.waited).sum();
    let cause = |cause: Cause| {
        let counters = stalls.by_cause[cause as usize];
        json!({
            "slowdowns": counters.slowdowns,
            "stops": counters.stops,
            "waited_ns": nanos_of(counters.waited),
            "longest_ns": nanos_of(counters.longest),
        })
    };
    json!({
        "now": stalls.now.map(Cause::name),
        "l0_stop_off": stalls.limits_off,
        "slowdowns": stalls.by_cause.iter().map(|cause| cause.slowdowns).sum::<u64>(),
        "stops": stalls.by_cause.iter().map(|cause| cause.stops).sum::<u64>(),
        "seconds": waited.as_secs_f64(),
        "by_cause": object(Cause::ALL.into_iter().map(|name| (name.name(), cause(name)))),
    })
}

fn levels(sample: &Sample) -> Vec<Value> {
    let level = |level: &crate::engine::Level| {
        json!({
            "level": level.level,
            "runs": level.runs,
            "files": level.files,
            "bytes": level.bytes,
            "target_bytes": level.target_bytes,
            "score": level.score,
            "raw_bytes": level.raw_bytes,
            "data_bytes": level.data_bytes,
            "filter_bytes": level.filter_bytes,
            "index_bytes": level.index_bytes,
            "compression_ratio": super::ratio(level.raw_bytes, level.data_bytes),
            "entries": level.entries,
            "tombstones": level.tombstones,
            "in_bytes": level.in_bytes,
            "moved_bytes": level.moved_bytes,
            "read_bytes": level.read_bytes,
            "write_bytes": level.write_bytes,
            "write_amplification": super::ratio(level.write_bytes, level.in_bytes),
            "probes": level.probes,
        })
    };
    sample.shape.levels.iter().map(level).collect()
}

fn tree(sample: &Sample) -> Option<Value> {
    let tree = sample.shape.tree.as_ref()?;
    Some(json!({
        "page_bytes": tree.page_bytes,
        "height": tree.height,
        "leaf_pages": tree.leaf_pages,
        "inner_pages": tree.inner_pages,
        "extent_bytes": tree.extent_bytes,
        "free_bytes": tree.free_bytes,
        "fill": tree.fill,
        "splits": tree.splits,
        "merges": tree.merges,
        "checkpoints": tree.checkpoints,
        "checkpoint_age_bytes": tree.checkpoint_age_bytes,
        "checkpoint_ns": nanos_of(tree.checkpoint_time),
        "dirty_age_ns": nanos_of(tree.dirty_age),
        "settle_bytes": tree.settle_bytes,
        "waiting_puts": tree.waiting_puts,
        "waiting_bytes": tree.waiting_bytes,
        "recovery_ns": nanos_of(tree.recovery_time),
        "recovery_bytes": tree.recovery_bytes,
        "leaf_hits": tree.leaves.hits,
        "leaf_misses": tree.leaves.misses,
        "inner_hits": tree.inner.hits,
        "inner_misses": tree.inner.misses,
        "extent_hits": tree.extents.hits,
        "extent_misses": tree.extents.misses,
        "latch_waits": tree.latch_waits,
        "latch_wait_ns": nanos_of(tree.latch_wait_time),
        "pages": {
            "read": pages(&tree.pages_read, PageCause::is_read),
            "written": pages(&tree.pages_written, PageCause::is_write),
        },
    }))
}

/// One direction of a B-tree's pages, by kind and, for those causes that belong to it, by cause.
fn pages(traffic: &PageTraffic, belongs: fn(PageCause) -> bool) -> Value {
    let count = |count: PageCount| json!({ "pages": count.pages, "bytes": count.bytes });
    let causes = PageCause::ALL.into_iter().filter(|cause| belongs(*cause));
    json!({
        "kind": object(PageKind::ALL.into_iter().map(|kind| (kind.name(), count(traffic.of_kind(kind))))),
        "cause": object(causes.map(|cause| (cause.name(), count(traffic.of_cause(cause))))),
    })
}

fn operation(sample: &Sample, op: Op) -> Value {
    let counters = sample.op(op);
    let latency = counters.latency;
    let tag = sample.tags.get(usize::from(op.tag())).copied().unwrap_or_default();
    json!({
        "count": counters.count,
        "errors": counters.errors,
        "bytes": counters.bytes,
        "p50_ns": latency.map(|latency| latency.p50),
        "p99_ns": latency.map(|latency| latency.p99),
        "p999_ns": latency.map(|latency| latency.p999),
        "max_ns": latency.map(|latency| latency.max),
        "mean_ns": latency.map(|latency| latency.mean),
        "kv_batches": tag.batches,
        "kv_puts": tag.puts,
        "kv_deletes": tag.deletes,
        "kv_bytes": tag.bytes,
    })
}

/// Who moved content; the last row, whose `pid` is null, are all others.
fn by_process(report: &Report) -> Vec<Value> {
    let ranking = report.charges.by_process();
    let row = |(process, tally): &(Process, Tally)| {
        let command = Some(&process.command).filter(|command| !command.is_empty());
        charged(json!({ "pid": process.pid, "command": command }), tally)
    };
    let others = charged(json!({ "pid": null, "command": "others" }), &ranking.others);
    ranking.rows.iter().map(row).chain([others]).collect()
}

/// Below which name in the root content was moved; the last row, whose `path` is null, are all others.
fn by_path(report: &Report) -> Vec<Value> {
    let ranking = report.charges.by_path();
    let row = |(path, tally): &(String, Tally)| charged(json!({ "path": path }), tally);
    let others = charged(json!({ "path": null }), &ranking.others);
    ranking.rows.iter().map(row).chain([others]).collect()
}

fn charged(mut row: Value, tally: &Tally) -> Value {
    row["write_bytes"] = json!(tally.write_bytes);
    row["writes"] = json!(tally.writes);
    row["read_bytes"] = json!(tally.read_bytes);
    row["reads"] = json!(tally.reads);
    row
}

fn kinds(report: &Report) -> Value {
    let kind = |((name, kind), index): ((&&'static str, &crate::engine::KindCounters), usize)| {
        let written = report.sample.kind_write_bytes.get(index).copied().unwrap_or(0);
        let value = json!({
            "gets": kind.gets,
            "hits": kind.hits,
            "get_bytes": kind.get_bytes,
            "puts": kind.puts,
            "put_bytes": kind.put_bytes,
            "deletes": kind.deletes,
            "delete_bytes": kind.delete_bytes,
            "scanned": kind.scanned,
            "scanned_bytes": kind.scanned_bytes,
            "write_amplification":
                super::ratio(kind.put_bytes + kind.delete_bytes, report.sample.app_write_bytes()),
            "disk_write_bytes": written,
            "disk_write_amplification": super::ratio(written, kind.put_bytes + kind.delete_bytes),
        });
        (*name, value)
    };
    object(report.mount.kind_names.iter().zip(&report.sample.kinds).zip(0..).map(kind))
}

fn object<'a>(members: impl Iterator<Item = (&'a str, Value)>) -> Value {
    Value::Object(members.map(|(name, value)| (name.to_string(), value)).collect::<Map<String, Value>>())
}

fn millis_of(duration: Duration) -> u64 {
    duration.as_millis() as u64
}

fn nanos_of(duration: Duration) -> u64 {
    duration.as_nanos() as u64
}
