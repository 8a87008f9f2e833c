//! What a replay says of one engine, and of the store that was recorded: as JSON, and as lines of two tables.

use std::time::Duration;

use serde_json::{Value, json};

use super::latencies::KINDS;
use super::play::Played;
use crate::base::metric::ratio;
use crate::base::text::human_size;
use crate::compare::stretch::Measured;
use crate::compare::subject::Counts;
use crate::recording::{Meters, Recording};

/// Bytes at the disk between two moments, and who counted them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passed {
    write_bytes: u64,
    read_bytes: u64,
    syncs: Option<u64>,
    is_kernels: bool,
}

impl Passed {
    /// Door 3's; of an engine with files of its own the kernel's, for its process.
    pub fn of(counts: &Counts) -> Passed {
        match &counts.door {
            Some(door) => {
                let total = door.total();
                let (write_bytes, read_bytes) = (total.write_bytes, total.read_bytes);
                Passed { write_bytes, read_bytes, syncs: Some(total.syncs), is_kernels: false }
            }
            None => {
                let (write_bytes, read_bytes) = (counts.kernel.write_bytes, counts.kernel.read_bytes);
                Passed { write_bytes, read_bytes, syncs: None, is_kernels: true }
            }
        }
    }
}

/// The load of an image.
#[derive(Clone, Copy, Debug, Default)]
pub struct Loaded {
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Bytes at the disk until nothing was owed.
    pub passed: Passed,
    /// Time until nothing was owed.
    pub took: Duration,
    /// Bytes that the files occupied then.
    pub occupied_bytes: u64,
}

impl Loaded {
    fn json(&self) -> Value {
        json!({
            "bytes": self.bytes,
            "disk_write_bytes": self.passed.write_bytes,
            "write_amplification": ratio(self.passed.write_bytes, self.bytes),
            "space_amplification": ratio(self.occupied_bytes, self.bytes),
            "physical_bytes": self.occupied_bytes,
            "seconds": self.took.as_secs_f64(),
        })
    }
}

/// What an engine did with `recording`.
pub fn outcome(
    name: &str,
    recording: &Recording,
    loaded: &Loaded,
    measured: &Measured,
    played: &Played,
    is_simulated: bool,
) -> Value {
    let meters = recording.meters().cloned().unwrap_or_default();
    let (now, settled) = (Passed::of(&measured.unsettled), Passed::of(&measured.settled));
    let over = |bytes: u64, below: Option<u64>| ratio(bytes, below?);
    json!({
        "engine": name,
        "counted_by": if now.is_kernels { "kernel" } else { "door" },
        "load": loaded.json(),
        "write_amplification": over(now.write_bytes, meters.app_write_bytes),
        "write_amplification_settled": over(settled.write_bytes, meters.app_write_bytes),
        "engine_write_amplification": ratio(now.write_bytes, played.kv_write_bytes),
        "read_amplification": over(now.read_bytes, meters.app_read_bytes),
        "space_amplification": over(measured.occupied.bytes, meters.live_bytes),
        "disk_write_bytes": now.write_bytes,
        "disk_read_bytes": now.read_bytes,
        "kv_write_bytes": played.kv_write_bytes,
        "physical_bytes": measured.occupied.bytes,
        "physical_bytes_max": measured.occupied_peak_bytes,
        "disk_syncs": now.syncs,
        "stalled_seconds": measured.unsettled.stalled.as_secs_f64(),
        "memory_bytes": measured.memory_bytes,
        "seconds": measured.run.as_secs_f64(),
        "settle_seconds": measured.settle.as_secs_f64(),
        "late_seconds_max": played.late_max.as_secs_f64(),
        "operations": played.operations,
        "threads": played.threads,
        "missing": played.missing,
        // On a simulated clock a call has the work of others in it.
        "latency": (!is_simulated).then(|| played.latencies.json()),
        "recorded_latency": played.recorded.json(),
    })
}

/// What the store that was recorded counted itself; `latency` is that of the events.
pub fn recorded(recording: &Recording, latency: &Value) -> Value {
    let meters = recording.meters().cloned().unwrap_or_default();
    let quotient = |above: fn(&Meters) -> Option<u64>, below: fn(&Meters) -> Option<u64>| {
        ratio(above(&meters)?, below(&meters)?)
    };
    let seconds = |nanos: Option<u64>| nanos.map(|nanos| nanos as f64 / 1e9);
    json!({
        "engine": recording.head().engine,
        "write_amplification": meters.write_amplification(),
        "engine_write_amplification": quotient(|it| it.disk_write_bytes, |it| it.kv_write_bytes),
        "read_amplification": quotient(|it| it.disk_read_bytes, |it| it.app_read_bytes),
        "space_amplification": quotient(|it| it.physical_bytes, |it| it.live_bytes),
        "app_write_bytes": meters.app_write_bytes,
        "app_read_bytes": meters.app_read_bytes,
        "kv_write_bytes": meters.kv_write_bytes,
        "disk_write_bytes": meters.disk_write_bytes,
        "disk_read_bytes": meters.disk_read_bytes,
        "physical_bytes": meters.physical_bytes,
        "live_bytes": meters.live_bytes,
        "disk_syncs": meters.disk_syncs,
        "stalled_seconds": seconds(meters.stalled_ns),
        "seconds": seconds(meters.elapsed_ns),
        "events": meters.events,
        "missing": meters.dropped,
        "latency": latency,
    })
}

/// `-` for what nobody knows.
fn known(value: Option<String>) -> String {
    value.unwrap_or_else(|| "-".to_string())
}

fn times(value: &Value) -> String {
    known(value.as_f64().map(|factor| format!("{factor:.2}")))
}

fn size(value: &Value) -> String {
    known(value.as_u64().map(human_size))
}

fn span(value: &Value) -> String {
    known(value.as_u64().map(|nanos| match nanos {
        0..10_000 => format!("{:.1}us", nanos as f64 / 1e3),
        10_000..1_000_000 => format!("{}us", nanos / 1000),
        1_000_000..1_000_000_000 => format!("{:.1}ms", nanos as f64 / 1e6),
        _ => format!("{:.1}s", nanos as f64 / 1e9),
    }))
}

fn seconds(value: &Value) -> String {
    known(value.as_f64().map(|seconds| format!("{seconds:.1}s")))
}

/// Two tables of the recorded store and of each engine; of an image, one of what it cost to load it.
pub fn tables(recorded: &Value, engines: &[Value]) -> String {
    let row = |value: &Value, name: String, columns: &[String]| {
        // Who was counted by the kernel is not who was counted at the door.
        let mark = if value["counted_by"] == "kernel" { " *" } else { "" };
        let columns: String = columns.iter().map(|column| format!("{column:>10}")).collect();
        format!("{:<34}{columns}\n", name + mark)
    };
    let head = |first: &str, columns: &[&str]| {
        let columns: String = columns.iter().map(|column| format!("{column:>10}")).collect();
        format!("{first:<34}{columns}\n")
    };
    let name = |value: &Value| value["engine"].as_str().unwrap_or("-").to_string();
    let mut text = String::new();
    if recorded["events"].as_u64().unwrap_or(0) > 0 {
        text += &head(
            "AMPLIFICATION",
            &["write", "settled", "engine", "read", "space", "syncs", "stalled", "memory", "time"],
        );
        let columns = |value: &Value| {
            [
                times(&value["write_amplification"]),
                times(&value["write_amplification_settled"]),
                times(&value["engine_write_amplification"]),
                times(&value["read_amplification"]),
                times(&value["space_amplification"]),
                known(value["disk_syncs"].as_u64().map(|syncs| syncs.to_string())),
                seconds(&value["stalled_seconds"]),
                size(&value["memory_bytes"]),
                seconds(&value["seconds"]),
            ]
        };
        text += &row(recorded, format!("recorded: {}", name(recorded)), &columns(recorded));
        for engine in engines {
            text += &row(engine, name(engine), &columns(engine));
        }
        text += "\n";
        let kinds: Vec<String> =
            KINDS.iter().flat_map(|kind| [format!("{kind} p50"), format!("{kind} p99")]).collect();
        text += &head("LATENCY", &kinds.iter().map(String::as_str).collect::<Vec<_>>());
        let columns = |value: &Value| -> Vec<String> {
            let of = |kind: &&str| {
                let latency = &value["latency"][*kind];
                [span(&latency["p50_ns"]), span(&latency["p99_ns"])]
            };
            KINDS.iter().flat_map(of).collect()
        };
        text += &row(recorded, format!("recorded: {}", name(recorded)), &columns(recorded));
        for engine in engines {
            text += &row(engine, name(engine), &columns(engine));
        }
        text += "\n";
    }
    if engines.iter().any(|engine| engine["load"]["bytes"].as_u64() > Some(0)) {
        text += &head("LOAD", &["bytes", "write", "space", "on disk", "time"]);
        for engine in engines {
            let load = &engine["load"];
            let columns = [
                size(&load["bytes"]),
                times(&load["write_amplification"]),
                times(&load["space_amplification"]),
                size(&load["physical_bytes"]),
                seconds(&load["seconds"]),
            ];
            text += &row(engine, name(engine), &columns);
        }
    }
    if engines.iter().any(|engine| engine["counted_by"] == "kernel") {
        text += "\n* its files are its own: bytes are the kernel's count for its process, syncs nobody's\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_knows_is_no_number() {
        let recorded = json!({ "engine": "lsm", "events": 3, "write_amplification": 3.456, "seconds": 2.0 });
        let engine = json!({
            "engine": "sqlite", "counted_by": "kernel", "read_amplification": null, "memory_bytes": 3 << 20,
            "latency": { "get": { "p50_ns": 1234, "p99_ns": 56_789_000 } },
            "load": { "bytes": 1 << 20, "write_amplification": 1.5 },
        });
        let text = tables(&recorded, &[engine]);
        let lines: Vec<&str> = text.lines().collect();
        let words = |at: usize| lines[at].split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(words(1), "recorded: lsm 3.46 - - - - - - - 2.0s");
        assert_eq!(words(2), "sqlite * - - - - - - - 3.00MiB -");
        assert_eq!(words(6), "sqlite * - - 1.2us 56.8ms - - - -");
        assert_eq!(words(9), "sqlite * 1.00MiB 1.50 - - -");
        assert!(text.contains("the kernel's count"), "{text}");
        // Of an image nothing was asked.
        let image = tables(&json!({}), &[json!({ "engine": "lsm", "load": { "bytes": 1 } })]);
        assert!(!image.contains("LATENCY") && image.starts_with("LOAD"), "{image}");
    }
}
