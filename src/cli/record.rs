//! `kvfs record`, `kvfs image` and `kvfs recording`: what a mount is asked, what a store holds, and what a recording says of itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::{Failure, absolute, code, control, print, report};
use crate::base::text::human_size;
use crate::recording::{Asked, Keeps, Recording};

/// The longest time between two looks at an image that is being written.
const LOOK: Duration = Duration::from_millis(100);

/// Arguments of `kvfs record`.
#[derive(Debug, Args)]
pub(super) struct RecordArgs {
    /// Mount point
    mount_point: PathBuf,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Begin: first what the store holds, then all that is asked of it. Returns when the first is written
    On {
        /// A new file, outside of the mount
        file: PathBuf,
        /// What is kept beside sizes and order
        #[arg(long, value_enum, default_value = "nothing")]
        keep: Keep,
    },
    /// End, and wait until the file is whole
    Off,
}

pub(super) const RECORD_HELP: &str = "\
A recording holds the sizes and the order of keys, and every batch, get, scan and sync with its file operation, time and thread. Names in it are
replaced by random bytes of the same length in the same order, and contents by their lengths, unless --keep says otherwise. A recording that
could not keep up leaves events out and counts them; one that the end of the daemon cut off is good up to its last half second.

  kvfs record /mnt/kv on /var/tmp/work.rec
  ... the work ...
  kvfs record /mnt/kv off
  kvfs recording /var/tmp/work.rec
  kvfs replay /var/tmp/work.rec --engine lsm,policy=tiered --engine btree
  kvfs advise /var/tmp/work.rec

The option record=FILE of kvfs mount begins one with the mount.";

/// What a recording keeps beside sizes and order.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Keep {
    /// Nothing.
    Nothing,
    /// Names of files and attributes.
    Names,
    /// Contents.
    Values,
    /// Both.
    All,
}

impl Keep {
    fn word(self) -> &'static str {
        match self {
            Keep::Nothing => "nothing",
            Keep::Names => "names",
            Keep::Values => "values",
            Keep::All => "all",
        }
    }

    fn keeps(self) -> Keeps {
        Keeps {
            names: matches!(self, Keep::Names | Keep::All),
            values: matches!(self, Keep::Values | Keep::All),
        }
    }
}

/// Arguments of `kvfs image`.
#[derive(Debug, Args)]
pub(super) struct ImageArgs {
    /// Mount point, or the directory of a store that is not mounted
    store: PathBuf,
    /// A new file, outside of both
    file: PathBuf,
    /// What is kept beside sizes and order
    #[arg(long, value_enum, default_value = "nothing")]
    keep: Keep,
}

pub(super) const IMAGE_HELP: &str = "\
An image has the sizes, kinds and order of a store's keys and values and nothing that is in them, unless --keep says otherwise. It is a recording
in which nothing happens: 'kvfs replay IMAGE' loads it into any engine and says what that costs and how large it gets.";

/// `kvfs record`.
pub(super) fn record(arguments: &RecordArgs) -> Result<(), Failure> {
    let mount_point = &arguments.mount_point;
    match &arguments.what {
        What::On { file, keep } => {
            control(mount_point, &format!("record on keep={} {}", keep.word(), place(file)?.display()))?;
            loop {
                let now = &report(mount_point, ".stats.d/json")?["recording"];
                match now["state"].as_str() {
                    Some("image") => std::thread::sleep(LOOK),
                    Some("events" | "ended") => {
                        let (entries, bytes) = (number(now, "image_entries"), number(now, "bytes"));
                        let begun = format!(
                            "recording into {}: {entries} entries of the store in {}, and from now on what is asked of it\n",
                            file.display(),
                            human_size(bytes)
                        );
                        return print(begun.as_bytes());
                    }
                    _ => {
                        let cause = now["cause"].as_str().unwrap_or("it has ended");
                        return Err(Failure::new(code::SYSTEM, format!("{}: {cause}", file.display())));
                    }
                }
            }
        }
        What::Off => {
            control(mount_point, "record off")?;
            let now = &report(mount_point, ".stats.d/json")?["recording"];
            let dropped = match number(now, "dropped") {
                0 => String::new(),
                dropped => format!("; {dropped} more came faster than they could be written and are missing"),
            };
            let text = format!(
                "{}: {} events behind {} entries in {}{dropped}\n",
                now["path"].as_str().unwrap_or_default(),
                number(now, "events"),
                number(now, "image_entries"),
                human_size(number(now, "bytes")),
            );
            print(text.as_bytes())
        }
    }
}

fn number(section: &Value, name: &str) -> u64 {
    section[name].as_u64().unwrap_or_default()
}

/// A new file's absolute path; its directory must be there.
fn place(file: &Path) -> Result<PathBuf, Failure> {
    crate::disk::resolve_outside(file)
        .map_err(|error| Failure::new(code::USAGE, format!("{}: {error}", file.display())))
}

/// `kvfs image`.
pub(super) fn image(arguments: &ImageArgs) -> Result<(), Failure> {
    let ImageArgs { store, file, keep } = arguments;
    let file = place(file)?;
    let (entries, bytes) = if report(store, ".stats.d/json").is_ok() {
        control(store, &format!("image keep={} {}", keep.word(), file.display()))?;
        let now = &report(store, ".stats.d/json")?["recording"];
        (number(now, "image_entries"), number(now, "bytes"))
    } else {
        let status = crate::mount::image(&absolute(store)?, &file, keep.keeps())
            .map_err(|error| Failure::of(&error, code::SYSTEM))?;
        (status.image_entries, status.bytes)
    };
    print(format!("{}: {entries} entries in {}\n", file.display(), human_size(bytes)).as_bytes())
}

/// Arguments of `kvfs import`.
#[derive(Debug, Args)]
pub(super) struct ImportArgs {
    /// What the source is
    #[arg(value_enum)]
    format: Source,
    /// An iolog or a trace
    source: PathBuf,
    /// A new file
    file: PathBuf,
    /// fio: which files were whole before the work began
    #[arg(long, value_enum, default_value = "read")]
    layout: Whole,
}

/// Formats that can be imported.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Source {
    /// `fio --write_iolog=FILE`, versions 2 and 3.
    Fio,
    /// `db_bench --trace_file=FILE` or DB::StartTrace of RocksDB, version 0.2.
    Rocksdb,
}

/// Files that were whole before.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Whole {
    /// Those that are read where nothing was written yet.
    Read,
    /// All.
    All,
    /// None.
    Nothing,
}

pub(super) const IMPORT_HELP: &str = "\
An iolog of fio is done again on a filesystem of ours in memory, and what that asks of its engine is recorded. Every read counts, as with direct I/O. What was in the
files before is not in an iolog: see --layout.

A trace of RocksDB has requests of an engine already. It does not say what was in the database before, how long a request took, how far an iterator went behind its seek, and
what was synced. Its keys are in the recording as they are; values are lengths. db_bench leaves the trace of its last benchmark alone: give it one a call.

  fio --name=a --size=64M --rw=randwrite --bs=4k --write_iolog=a.log
  kvfs import fio a.log a.rec
  kvfs replay a.rec --engine lsm --engine btree";

/// `kvfs import`.
pub(super) fn import(arguments: &ImportArgs) -> Result<(), Failure> {
    use crate::import::{Format, Layout, import};
    let format = match arguments.format {
        Source::Fio => Format::Fio,
        Source::Rocksdb => Format::Rocksdb,
    };
    let layout = match arguments.layout {
        Whole::Read => Layout::Read,
        Whole::All => Layout::All,
        Whole::Nothing => Layout::Nothing,
    };
    let file = place(&arguments.file)?;
    let imported = import(format, &arguments.source, &file, layout)
        .map_err(|error| Failure::new(code::SYSTEM, error.to_string()))?;
    let left_out: String =
        imported.left_out.iter().map(|(what, times)| format!("left out: {times} {what}\n")).collect();
    let text = format!(
        "{}: {} events behind {} entries in {}\n{left_out}",
        file.display(),
        imported.events,
        imported.entries,
        human_size(imported.bytes)
    );
    print(text.as_bytes())
}

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
    lines.push(format!("by      {}", operations.join(", ")));
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
