//! Engines side by side: the same work for each, on whatever the registry has, without a mount and without the filesystem.
//!
//! A room beside `control`: it puts engines together with metered disks, or with directories of their own, for measurement. An engine that
//! a program registers ([`crate::engine::register`]) is compared like ours.
//!
//! - [`contender`]: who, with which options and how much memory. [`subject`]: the engine, opened where it lives and driven at one of two paces.
//! - [`stretch`]: one measured stretch of work, from which all figures come: what door 3 saw, what the kernel counted ([`kernel`]), what the
//!   engine says of itself ([`inside`]), time, memory, space. [`values`]: what is written.
//! - Each contender is measured in a process of its own ([`child`]), so that its memory and the kernel's counts are its own.
//!
//! Three kinds of work are made of stretches. The [`matrix`] counts the bytes of puts at many points, on a clock of its own, the same on every
//! machine, and names the crossover. The [`workloads`] are timed, as on a mount: fills, reads, cold reads, seeks, syncs, deletes. A [`replay`] does what
//! was recorded on a mount.

pub mod arguments;
mod child;
pub mod contender;
mod csv;
pub mod inside;
mod kernel;
pub mod matrix;
pub mod progress;
pub mod replay;
mod results;
pub mod stretch;
pub mod subject;
pub mod unsynced;
mod values;
pub mod workloads;

use std::fmt::Display;
use std::io::{self, Write};

use crate::base::text::BadText;
use crate::engine;
pub use arguments::Arguments;

/// Reason for which a comparison cannot be made. Each is a sentence to show.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request cannot be met.
    #[error("{0}")]
    Usage(BadText),
    /// The system refuses.
    #[error("{context}: {source}")]
    Io {
        /// The action or file.
        context: String,
        /// Its error.
        source: io::Error,
    },
    /// An engine refuses.
    #[error("{context}: {source}")]
    Engine {
        /// The call.
        context: String,
        /// Its error.
        source: engine::Error,
    },
    /// A measurement cannot go on.
    #[error("{0}")]
    Failed(String),
}

impl Error {
    fn usage(text: impl Into<BadText>) -> Error {
        Error::Usage(text.into())
    }

    fn io(context: impl Display, source: io::Error) -> Error {
        Error::Io { context: context.to_string(), source }
    }

    fn engine(context: impl Display, source: engine::Error) -> Error {
        Error::Engine { context: context.to_string(), source }
    }
}

impl From<BadText> for Error {
    fn from(bad: BadText) -> Error {
        Error::Usage(bad)
    }
}

/// Runs `kvfs compare`: measures, prints to standard output, and writes the results into the directory.
pub fn main(arguments: &Arguments) -> Result<(), Error> {
    match (arguments.workloads.is_empty(), arguments.child) {
        (true, false) => matrix::main(arguments),
        (true, true) => matrix::be_child(arguments),
        (false, false) => workloads::main(arguments),
        (false, true) => workloads::be_child(arguments),
    }
}

/// Text behind the command's help.
pub fn help() -> String {
    workloads::help()
}

fn print(text: &str) -> Result<(), Error> {
    io::stdout()
        .lock()
        .write_all(text.as_bytes())
        .map_err(|error| Error::io("writing to standard output", error))
}
