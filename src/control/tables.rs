//! Files for programs: operations, history, events, and the picture of the tables.

use std::fmt::Write;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::figures::timestamp;
use super::stats::{Physical, Report, Sample};
use crate::base::journal::{Event, Field};
use crate::base::metric::ratio;
use crate::engine::Engine;
use crate::fs::Usage;
use crate::fs::meter::Op;

/// Operations that occurred, with what their batches asked of the engine; latencies in microseconds.
pub(super) fn operations(report: &Report) -> String {
    let mut text = String::from(
        "op calls errors bytes kv_batches kv_puts kv_deletes kv_bytes kv_bytes_per_call p50_us p99_us p999_us max_us\n",
    );
    let sample = &report.sample;
    for op in Op::ALL {
        let counters = sample.op(op);
        let tag = sample.tags.get(usize::from(op.tag())).copied().unwrap_or_default();
        if counters.calls.count + tag.batches == 0 {
            continue;
        }
        let latency = counters.latency.unwrap_or_default();
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{} {} {} {} {} {} {} {} {} {:.1} {:.1} {:.1} {:.1}",
            op.name(),
            counters.calls.count,
            counters.calls.errors,
            counters.calls.bytes,
            tag.batches,
            tag.puts,
            tag.deletes,
            tag.bytes,
            tag.bytes.checked_div(counters.calls.count).map_or("-".to_string(), |bytes| bytes.to_string()),
            micros(latency.p50),
            micros(latency.p99),
            micros(latency.p999),
            micros(latency.max),
        );
    }
    text
}

/// The first line of the history.
pub(super) const HISTORY_HEAD: &str = "time_ms,uptime_ms,app_write_bytes,app_read_bytes,kv_write_bytes,disk_write_bytes,\
disk_read_bytes,log_write_bytes,compaction_write_bytes,physical_bytes,live_bytes,l0_files,pending_compaction_bytes,\
durability_debt_bytes,dirty_bytes,unsynced_bytes,tombstones,stall_seconds,cache_hits,cache_misses,write_amp,\
engine_write_amp,space_amp,debt_cpu_seconds\n";

/// One line of the history: counters since the mount, debts as they are now, ratios since the mount.
pub(super) fn history_row(time: SystemTime, sample: &Sample, usage: &Usage, physical: &Physical) -> String {
    let shape = &sample.shape;
    let millis = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
    let debt: f64 = super::forecast::debt(sample).iter().map(|row| row.debt_bytes).sum();
    let waited = shape.stalls.seconds();
    let live = usage.stored_bytes + usage.record_bytes;
    let counts = [
        millis,
        sample.elapsed.as_millis() as u64,
        sample.app_write_bytes(),
        sample.app_read_bytes(),
        sample.kv_write_bytes(),
        sample.disk_write_bytes(),
        sample.disk_read_bytes(),
        sample.log_write_bytes(),
        sample.compaction().write_bytes,
        physical.bytes,
        live,
        shape.debt.l0_files,
        shape.debt.pending_compaction_bytes,
        debt as u64,
        shape.debt.dirty_bytes,
        shape.debt.unsynced_bytes,
        shape.debt.tombstones,
    ];
    let mut row: Vec<String> = counts.iter().map(u64::to_string).collect();
    row.push(format!("{waited:.3}"));
    row.extend([shape.cache.all.hits, shape.cache.all.misses].map(|count| count.to_string()));
    // An empty field is what readers of CSV take for missing.
    let amps = [sample.write_amp(), sample.engine_write_amp(), ratio(physical.bytes, live)];
    let cpu_seconds = super::forecast::cpu_seconds(sample, debt);
    row.extend(amps.into_iter().chain([cpu_seconds]).map(|figure| match figure {
        Some(figure) => format!("{figure:.4}"),
        None => String::new(),
    }));
    row.join(",") + "\n"
}

/// Events as JSON lines, oldest first.
pub(super) fn events(events: &[std::sync::Arc<Event>]) -> String {
    let line = |event: &std::sync::Arc<Event>| {
        let mut object = Map::new();
        object.insert("number".to_string(), event.number.into());
        let millis = event.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis() as u64;
        object.insert("time_ms".to_string(), millis.into());
        object.insert("time".to_string(), timestamp(event.time).into());
        object.insert("event".to_string(), event.name.into());
        for (name, field) in &event.fields {
            let value = match field {
                Field::Count(count) => Value::from(*count),
                Field::Text(text) => Value::from(text.as_str()),
            };
            object.insert((*name).to_string(), value);
        }
        format!("{}\n", Value::Object(object))
    };
    events.iter().map(line).collect()
}

/// The picture of the tables, level by level; keys in hexadecimal.
pub(super) fn picture(engine: &dyn Engine) -> String {
    let tables = engine.tables();
    let hex = |key: &[u8]| key.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let deepest = tables.iter().map(|table| table.level).max();
    let level = |level: usize| {
        let of_level = tables.iter().filter(|table| table.level == level).map(|table| {
            json!({
                "label": format!("table.{}", table.number),
                "size": table.bytes,
                "entries": table.entries,
                "tombstones": table.tombstones,
                "smallest_key": hex(&table.smallest),
                "largest_key": hex(&table.largest),
            })
        });
        json!({ "level_name": format!("L{level}"), "tables": of_level.collect::<Vec<_>>() })
    };
    let levels: Vec<Value> = deepest.map_or(Vec::new(), |deepest| (0..=deepest).map(level).collect());
    format!("{}\n", json!({ "levels": levels }))
}
