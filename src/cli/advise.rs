//! `kvfs advise`: what a recording would cost on other designs, by size alone.

use std::path::PathBuf;
use std::sync::Mutex;

use clap::Args;

use super::{Failure, code, print};
use crate::advise::grid::{self, Common, Design};
use crate::advise::{advise, report, source};
use crate::base::text::parse_size;
use crate::compare::progress::Progress;
use crate::recording::Recording;

pub(super) const HELP: &str = "\
What it does:
  Each design passes through the recording by size alone: no values, no disk. Log, memtables, tables and levels, or pages, checkpoints and
  copies of pages are added up as the engines make them, with the same compaction policies and the same schedule of checkpoints.
  Every number is of the recording without its image, until nothing is owed any more: buffers written, merges done.

How to read it:
  write  bytes written to the disk for each byte that programs wrote (or that the filesystem gave the engine, where nobody counted)
  read   bytes that gets and scans read from the disk for each byte read; the cache begins empty
  space  bytes of all files at the end for each byte that is live; at most: at the peak
  *      on the front: no other design is as good in all three and better in one. The rest can be forgotten for this work.
  Below it, the design that moves the fewest bytes to and from the disk, and what that choice costs if the share of writes changes.

Examples:
  kvfs ctl /mnt/kv record on /var/tmp/mine.rec; …; kvfs ctl /mnt/kv record off
  kvfs advise /var/tmp/mine.rec
  kvfs advise /var/tmp/mine.rec --memory 64M --all
  kvfs advise /var/tmp/mine.rec --engine lsm,policy=tiered --engine btree,page_size=64K

docs/advise.md says what is modelled, what is not, and how far models and engines differ.";

/// What to advise on.
#[derive(Debug, Args)]
pub(super) struct AdviseArgs {
    /// The recording
    file: PathBuf,
    /// Bytes that each design may hold in memory
    #[arg(long, value_parser = parse_size, default_value = "256M")]
    memory: u64,
    /// A design to look at instead of the grid: an engine and its options; may be given several times
    #[arg(long = "engine", value_name = "ENGINE[,OPTION=VALUE]…")]
    engines: Vec<String>,
    /// Show every design, not only those on the front
    #[arg(long)]
    all: bool,
    /// As JSON, with every design
    #[arg(long)]
    json: bool,
}

/// Prints the advice.
pub(super) fn run(arguments: &AdviseArgs) -> Result<(), Failure> {
    let failed = |error: crate::recording::Error| Failure::new(code::SYSTEM, error.to_string());
    let recording = Recording::open(&arguments.file).map_err(failed)?;
    let reading = Progress::new(0);
    let mut note = |events| reading.show(0, &format!("reading: {events} events"));
    let (steps, recorded) = source::steps(&recording, &mut note).map_err(failed)?;
    drop(reading);
    let sync = recorded.options.iter().find(|(name, _)| name == "sync").map(|(_, value)| value.clone());
    let common = Common { memory_bytes: Some(arguments.memory), sync };
    let mut designs = match arguments.engines.is_empty() {
        true => grid::all(&common),
        false => {
            let parsed = arguments.engines.iter().map(|text| Design::parse(text, &common));
            parsed.collect::<Result<_, _>>().map_err(|problem| Failure::new(code::USAGE, problem))?
        }
    };
    if let Some(recorded) = grid::recorded(&recorded) {
        designs.retain(|design| design.options != recorded.options);
        designs.push(recorded);
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let progress: Mutex<Option<Progress>> = Mutex::new(None);
    let note = |done: usize, total: usize| {
        if let Ok(mut progress) = progress.lock() {
            progress.get_or_insert_with(|| Progress::new(total)).set(total).show(done, "designs and mixes");
        }
    };
    let advice = advise(&steps, &recorded, &designs, threads, &note);
    drop(progress);
    if arguments.json {
        let text = format!("{:#}\n", report::json(&advice, &steps, &recorded));
        return print(text.as_bytes());
    }
    print(report::text(&advice, &steps, &recorded, arguments.all).as_bytes())
}
