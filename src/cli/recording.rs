//! `kvfs recording`: what a recording says of itself, and counts of what is in it.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::{Failure, code, print};
use crate::base::text::human_size;
use crate::recording::{Asked, Recording};

/// Arguments of `kvfs recording`.
#[derive(Debug, Args)]
pub(super) struct RecordingArgs {
    /// A recording
    file: PathBuf,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Counts of what a recording holds.
#[derive(Default)]
struct Counts {
    batches: u64,
    puts: u64,
    put_bytes: u64,
    deletes: u64,
    gets: u64,
    found: u64,
    scans: u64,
    scanned: u64,
    syncs: u64,
    missing: u64,
    last_ns: u64,
    /// By operation: events.
    by_operation: std::collections::BTreeMap<String, u64>,
}

/// `kvfs recording`.
pub(super) fn recording(arguments: &RecordingArgs) -> Result<(), Failure> {
    let failed = |error: crate::recording::Error| Failure::new(code::SYSTEM, error.to_string());
    let recording = Recording::open(&arguments.file).map_err(failed)?;
    let mut counts = Counts::default();
    for event in recording.events().map_err(failed)? {
        let event = event.map_err(failed)?;
        counts.last_ns = counts.last_ns.max(event.start_ns.saturating_add(event.duration_ns));
        match event.asked {
            Asked::Batch { changes, .. } => {
                counts.batches += 1;
                for change in changes {
                    match change.value {
                        Some(value) => {
                            counts.puts += 1;
                            counts.put_bytes += change.key.len() as u64 + value.length();
                        }
                        None => counts.deletes += 1,
                    }
                }
            }
            Asked::Get { found, .. } => {
                counts.gets += 1;
                counts.found += u64::from(found.is_some());
            }
            Asked::Scan { entries, .. } => {
                counts.scans += 1;
                counts.scanned += entries;
            }
            Asked::Sync { .. } => counts.syncs += 1,
            Asked::Synced { .. } => continue,
            Asked::Gap { events } => {
                counts.missing += events;
                continue;
            }
        }
        *counts.by_operation.entry(recording.head().operation(event.tag).to_string()).or_default() += 1;
    }
    print(if arguments.json { as_json(&recording, &counts) } else { as_text(&recording, &counts) }.as_bytes())
}

fn as_json(recording: &Recording, counts: &Counts) -> String {
    let head = recording.head();
    let options: serde_json::Map<String, Value> =
        head.options.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let image = recording.image_end().map(|end| {
        json!({
            "entries": end.entries,
            "key_bytes": end.key_bytes,
            "value_bytes": end.value_bytes,
            "is_of_one_moment": end.is_of_one_moment,
        })
    });
    let meters = recording.meters();
    let numbers: Option<serde_json::Map<String, Value>> =
        meters.map(|meters| meters.list().map(|(name, number)| (name.to_string(), json!(number))).collect());
    let value = json!({
        "schema": "kvfs.recording/1",
        "file": recording.name(),
        "bytes": recording.bytes(),
        "cut_bytes": recording.cut_bytes(),
        "end": recording.end().map(|end| &end.why),
        "program": head.program,
        "began_ms": head.began_ms,
        "keys": head.keys,
        "engine": head.engine,
        "options": options,
        "keeps_names": head.keeps_names,
        "keeps_values": head.keeps_values,
        "image": image,
        "events": {
            "batches": counts.batches,
            "puts": counts.puts,
            "put_bytes": counts.put_bytes,
            "deletes": counts.deletes,
            "gets": counts.gets,
            "found": counts.found,
            "scans": counts.scans,
            "scanned": counts.scanned,
            "syncs": counts.syncs,
            "missing": counts.missing,
            "last_ns": counts.last_ns,
            "by_operation": counts.by_operation,
        },
        "meters": numbers,
        "write_amplification": meters.and_then(|meters| meters.write_amplification()),
    });
    format!("{value:#}\n")
}

fn as_text(recording: &Recording, counts: &Counts) -> String {
    let head = recording.head();
    let keeps = match (head.keeps_names, head.keeps_values) {
        (false, false) => "no names, no contents",
        (true, false) => "names, no contents",
        (false, true) => "contents, no names",
        (true, true) => "names and contents",
    };
    let mut lines = vec![
        format!("{}  {}  {keeps}", recording.name(), human_size(recording.bytes())),
        format!("recorded by kvfs {}, engine={}", head.program, head.engine),
        match recording.image_end() {
            Some(end) => format!(
                "image   {} entries, {} of keys, {} of values{}",
                end.entries,
                human_size(end.key_bytes),
                human_size(end.value_bytes),
                if end.is_of_one_moment {
                    ""
                } else {
                    "; read while changes went on, which follow as events"
                }
            ),
            None => "image   not whole: the recording ended before it was written".to_string(),
        },
        format!(
            "asked   {} batches ({} puts of {}, {} deletes), {} gets ({} found), {} scans ({} entries), {} syncs in {:.1} s",
            counts.batches,
            counts.puts,
            human_size(counts.put_bytes),
            counts.deletes,
            counts.gets,
            counts.found,
            counts.scans,
            counts.scanned,
            counts.syncs,
            counts.last_ns as f64 / 1e9
        ),
    ];
    let mut operations: Vec<_> = counts.by_operation.iter().collect();
    operations.sort_by_key(|(_, events)| std::cmp::Reverse(**events));
    let operations: Vec<String> =
        operations.iter().map(|(name, events)| format!("{name} {events}")).collect();
    if !operations.is_empty() {
        lines.push(format!("by      {}", operations.join(", ")));
    }
    if let Some(meters) = recording.meters() {
        let size = |bytes: Option<u64>| bytes.map_or("-".to_string(), human_size);
        lines.push(format!(
            "cost    write amplification {}: {} at the disk for {} by programs; read {} for {}",
            meters.write_amplification().map_or("-".to_string(), |amp| format!("{amp:.2}")),
            size(meters.disk_write_bytes),
            size(meters.app_write_bytes),
            size(meters.disk_read_bytes),
            size(meters.app_read_bytes),
        ));
    }
    if counts.missing > 0 {
        lines.push(format!("MISSING {} events came faster than they could be written", counts.missing));
    }
    lines.push(match (recording.end(), recording.cut_bytes()) {
        (Some(end), _) => format!("end     {}", end.why),
        (None, 0) => "end     none: it goes on, or its recorder was cut off".to_string(),
        (None, cut) => {
            format!("end     none: its recorder was cut off; the last {cut} bytes are no whole frame")
        }
    });
    lines.join("\n") + "\n"
}
