//! Imports: recordings made of what other programs have noted of their work.
//!
//! - An iolog of fio says what a job asked of files. It is done again on a filesystem of ours over a map in memory, with a recorder at
//!   door 2, so the recording has the batches, gets and scans that a mount would have asked for ([`fio`]).
//! - A trace of RocksDB says what a program asked of an engine already. Its requests become events as they are ([`rocksdb`]).

pub mod decoders;
mod fio;
mod rocksdb;

use std::collections::BTreeMap;
use std::path::Path;

use crate::disk::create_outside;
use crate::recording::{Error, Head, Result, Writer};

/// The formats that can be imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `fio --write_iolog=FILE`, versions 2 and 3.
    Fio,
    /// What `DB::StartTrace` or `db_bench --trace_file` of RocksDB writes, version 0.2.
    Rocksdb,
}

/// Files that were whole before the work began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Those that are read where nothing was written yet.
    Read,
    /// All: each as long as what is done to it.
    All,
    /// None.
    Nothing,
}

/// What came of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Entries of the image.
    pub entries: u64,
    /// Events.
    pub events: u64,
    /// Bytes of the recording.
    pub bytes: u64,
    /// What could not be taken over, and how often.
    pub left_out: BTreeMap<String, u64>,
}

impl Imported {
    fn leave_out(&mut self, what: impl Into<String>) {
        *self.left_out.entry(what.into()).or_default() += 1;
    }
}

/// Makes the new file `target` a recording of what `source` says.
pub fn import(format: Format, source: &Path, target: &Path, layout: Layout) -> Result<Imported> {
    let name = source.display().to_string();
    let begin = |head: Head| {
        let show = target.display().to_string();
        let file =
            create_outside(target).map_err(|error| Error::Io { what: format!("making {show}"), error })?;
        Writer::new(file, &show, head)
    };
    let open = || {
        crate::disk::open_outside(source)
            .map_err(|error| Error::Io { what: format!("opening {name}"), error })
    };
    match format {
        Format::Fio => fio::import(&name, &open, begin, layout),
        Format::Rocksdb => rocksdb::import(&name, open()?, begin),
    }
}

/// What a source says that is no part of its format.
fn unreadable(name: &str, place: impl std::fmt::Display, what: impl std::fmt::Display) -> Error {
    Error::Unreadable(format!("{name}, {place}: {what}").into())
}

/// A head for what was not recorded by a mount: no engine has done it yet.
fn head(keys: &str, operations: &[&str]) -> Head {
    Head {
        program: env!("CARGO_PKG_VERSION").to_string(),
        keys: keys.to_string(),
        operations: operations.iter().map(|name| name.to_string()).collect(),
        ..Head::default()
    }
}
