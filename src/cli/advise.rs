//! `kvfs advise`: what a recording would cost on other designs, by size alone.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;

use clap::Args;
use serde_json::{Value, json};

use super::{Failure, code, print};
use crate::advise::grid::{self, Base, Design};
use crate::advise::{Row, advise, report, source};
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
  space  bytes of all files at the end for each byte that is live; peak: the most bytes of all files for the most that were live
  *      on the front: no other design is as good in all three and better in one. The rest can be forgotten for this work.
  Below it, the design that moves the fewest bytes to and from the disk, and what that choice costs if the share of writes changes.

Examples:
  kvfs record /mnt/kv on /var/tmp/mine.rec; …; kvfs record /mnt/kv off
  kvfs advise /var/tmp/mine.rec
  kvfs advise /var/tmp/mine.rec --memory 64M --all
  kvfs advise /var/tmp/mine.rec --verify 3                   and three of them for real
  kvfs advise /var/tmp/mine.rec --engine lsm,policy=tiered --engine btree,page_size=64K

docs/advise.md says what is modelled, what is not, and how far models and engines differ.";

/// What to advise on.
#[derive(Debug, Args)]
pub(super) struct AdviseArgs {
    /// The recording
    file: PathBuf,
    /// Bytes that each design may hold in memory [default: as many as the store that was recorded]
    #[arg(long, value_parser = parse_size)]
    memory: Option<u64>,
    /// A design to look at instead of the grid, an engine with options behind commas as in lsm,policy=tiered; once for each. What it does not
    /// say is as it was recorded
    #[arg(long = "engine", value_name = "ENGINE[,OPTION=VALUE]…")]
    engines: Vec<String>,
    /// Show every design, not only those on the front
    #[arg(long)]
    all: bool,
    /// Also replay so many designs of the front, the first ones shown, and say how far off their models are
    #[arg(long, value_name = "DESIGNS", default_value_t = 0)]
    verify: usize,
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
    let base = Base { recorded: recorded.options.clone(), memory_bytes: arguments.memory };
    let mut designs = match arguments.engines.is_empty() {
        true => grid::all(&base),
        false => {
            let parsed = arguments.engines.iter().map(|text| Design::parse(text, &base));
            parsed.collect::<Result<_, _>>().map_err(|problem| Failure::new(code::USAGE, problem))?
        }
    };
    if let Some(store) = grid::recorded(&recorded) {
        match designs.iter_mut().find(|design| design.options == store.options) {
            Some(design) => design.is_recorded = true,
            None => designs.push(store),
        }
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
    let mut verified = Vec::new();
    if arguments.verify > 0 {
        let on_front = advice.rows.iter().filter(|row| row.is_on_front);
        let chosen: Vec<&Row> = on_front.take(arguments.verify).collect();
        verified = replay(&arguments.file, &chosen)?;
    }
    if arguments.json {
        let mut report = report::json(&advice, &steps, &recorded);
        report["replayed"] = verified.iter().map(Replayed::json).collect();
        return print(format!("{report:#}\n").as_bytes());
    }
    let mut text = report::text(&advice, &steps, &recorded, arguments.all);
    if !verified.is_empty() {
        text.push_str("\nreplayed, the model beside it\n");
        verified.iter().for_each(|replayed| text.push_str(&replayed.line()));
    }
    print(text.as_bytes())
}

/// A design that was replayed.
struct Replayed {
    design: String,
    /// Write amplification by the model, and by the replay; `None` where that has none.
    model: f64,
    write: Option<f64>,
}

impl Replayed {
    /// By how much the model is off, as a share.
    fn off(&self) -> Option<f64> {
        self.write.filter(|write| *write > 0.0).map(|write| self.model / write - 1.0)
    }

    fn line(&self) -> String {
        match self.write.zip(self.off()) {
            Some((write, off)) => {
                format!(
                    "   write {write:>7.2}, model {:>7.2} ({:+.1} %)  {}\n",
                    self.model,
                    off * 100.0,
                    self.design
                )
            }
            None => format!("   write       -, model {:>7.2}  {}\n", self.model, self.design),
        }
    }

    fn json(&self) -> Value {
        json!({ "options": self.design, "write": self.write, "model_write": self.model, "off": self.off() })
    }
}

/// Replays the designs of `rows` on real engines, as `kvfs replay` does.
fn replay(file: &Path, rows: &[&Row]) -> Result<Vec<Replayed>, Failure> {
    let failed = |what: String| Failure::new(code::SYSTEM, format!("replaying {}: {what}", file.display()));
    let program = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let mut command = Command::new(program);
    command.arg("replay").arg(file).arg("--json");
    for row in rows {
        command.args(["--engine", row.text.strip_prefix("engine=").unwrap_or(&row.text)]);
    }
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed("it did not end well; what it said is above".to_string()));
    }
    let report: Value = serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))?;
    let of = |index: usize| report["engines"][index]["write_amplification_settled"].as_f64();
    let each = rows.iter().enumerate();
    Ok(each
        .map(|(index, row)| Replayed { design: row.text.clone(), model: row.write, write: of(index) })
        .collect())
}
