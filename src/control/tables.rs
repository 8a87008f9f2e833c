//! Files for programs: operations, events, and the picture of the tables.

use std::fmt::Write;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::cost::{Cost, NOBODY};
use super::stats::Report;
use crate::base::event_log::{Event, Field};
use crate::base::text::timestamp;
use crate::engine::Engine;
use crate::engine::charges::Charge;
use crate::fs::operation::Op;

/// Columns of an engine whose files are objects.
const OF_STORE: &str = " store_puts store_gets store_heads store_lists store_deletes store_write_bytes store_read_bytes store_usd";

/// Operations that occurred, with what their batches asked of the engine; latencies in microseconds. Of an engine whose files are objects also with the
/// requests that they have caused, and last those that none has.
pub(super) fn operations(report: &Report) -> String {
    let mut text = String::from(
        "op calls errors bytes kv_batches kv_puts kv_deletes kv_bytes kv_bytes_per_call p50_us p99_us p999_us max_us",
    );
    let sample = &report.sample;
    let cost = Cost::of(sample);
    let of_store = |charge: &Charge| {
        let Some(cost) = cost else { return String::new() };
        let Charge { puts, gets, heads, lists, deletes, write_bytes, read_bytes } = charge;
        let usd = cost.usd(charge).map_or("-".to_string(), |usd| usd.to_string());
        format!(" {puts} {gets} {heads} {lists} {deletes} {write_bytes} {read_bytes} {usd}")
    };
    text += if cost.is_some() { OF_STORE } else { "" };
    text.push('\n');
    for op in Op::ALL {
        let counters = sample.op(op);
        let tag = sample.tags.get(usize::from(op.tag())).copied().unwrap_or_default();
        let charge = cost.map_or(Charge::default(), |cost| cost.of_operation(op));
        if counters.calls.count + tag.batches + charge.requests() + charge.write_bytes == 0 {
            continue;
        }
        let latency = counters.latency.unwrap_or_default();
        let micros = |nanos: u64| nanos as f64 / 1000.0;
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{} {} {} {} {} {} {} {} {} {:.1} {:.1} {:.1} {:.1}{}",
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
            of_store(&charge),
        );
    }
    if let Some(cost) = cost {
        let _ = writeln!(text, "{NOBODY}{}{}", " -".repeat(12), of_store(&cost.of_nobody()));
    }
    text
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
