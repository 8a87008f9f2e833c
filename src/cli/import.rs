//! `kvfs import`: a recording of what another program has noted.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::record::place;
use super::{Failure, code, print};
use crate::base::text::human_size;

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

pub(super) const HELP: &str = "\
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
