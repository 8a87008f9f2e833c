//! Errors of SlateDB and of object stores as errors of an engine.

use std::io;

use kvfs::engine::Error;
use slatedb::{CloseReason, ErrorKind};

/// What a mount is told that may write no more.
pub const FENCED: &str = "another mount has taken the store over: this one writes no more, and what it had not synced is lost; unmount it";

/// An error of SlateDB, with what was being done.
pub fn of_database(what: &str, error: slatedb::Error) -> Error {
    match error.kind() {
        ErrorKind::Closed(CloseReason::Fenced) => Error::Poisoned(FENCED.to_string()),
        ErrorKind::Data => Error::corrupt("db", 0, format!("{what}: {error}")),
        ErrorKind::Unavailable => {
            Error::io(what, io::Error::new(io::ErrorKind::HostUnreachable, error.to_string()))
        }
        _ => Error::io(what, io::Error::other(error.to_string())),
    }
}

/// An error of the object store, with what was being done.
pub fn of_store(what: &str, error: &object_store::Error) -> Error {
    Error::io(what, io::Error::other(error.to_string()))
}
