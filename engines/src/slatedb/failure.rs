//! Errors of SlateDB and of object stores as errors of an engine.

use std::io;

use kvfs::engine::Error;
use slatedb::{CloseReason, ErrorKind};

use crate::adapter::failed;

/// What a mount is told that may write no more.
pub const FENCED: &str = "another mount has taken the store over: this one writes no more, and what it had not synced is lost; unmount it";

/// An error of SlateDB, with what was being done.
pub fn of_database(what: &str, error: slatedb::Error) -> Error {
    if matches!(error.kind(), ErrorKind::Closed(CloseReason::Fenced)) {
        return Error::Poisoned(FENCED.to_string());
    }
    match (system_error(&error), error.kind()) {
        (Some(below), _) => Error::io(what, io::Error::from(below)),
        (None, ErrorKind::Closed(_)) => Error::Poisoned(format!(
            "SlateDB has stopped after an error, and nothing more is taken until the store is mounted anew: {error}"
        )),
        (None, ErrorKind::Data) => Error::corrupt("db", 0, format!("{what}: {error}")),
        (None, _) => failed(what, error),
    }
}

/// An error of the object store, with what was being done.
pub fn of_store(what: &str, error: object_store::Error) -> Error {
    failed(what, error)
}

/// Whether no other try would help before somebody has made room or given a right: a directory that is full stays full. What a server says over a
/// network is none of the system's errors.
pub fn is_final(error: &object_store::Error) -> bool {
    const FINAL: [io::ErrorKind; 5] = [
        io::ErrorKind::StorageFull,
        io::ErrorKind::QuotaExceeded,
        io::ErrorKind::FileTooLarge,
        io::ErrorKind::ReadOnlyFilesystem,
        io::ErrorKind::PermissionDenied,
    ];
    system_error(error).is_some_and(|kind| FINAL.contains(&kind))
}

/// The kind of the system's error that `error` tells of.
fn system_error(error: &(dyn std::error::Error + 'static)) -> Option<io::ErrorKind> {
    let mut cause = error;
    loop {
        cause = match cause.downcast_ref::<io::Error>() {
            Some(system) if system.raw_os_error().is_some() => return Some(system.kind()),
            // One that stands around another says nothing of it as its source.
            Some(around) => around.get_ref()?,
            None => cause.source()?,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slatedb_common::retry::NonRetryable;

    #[test]
    fn a_full_directory_is_found_however_deep_it_lies() {
        const ENOSPC: i32 = 28;
        let full = || object_store::Error::Generic {
            store: "a",
            source: Box::new(io::Error::from_raw_os_error(ENOSPC)),
        };
        assert!(is_final(&full()));
        let around = io::Error::other(object_store::Error::Generic {
            store: "b",
            source: Box::new(NonRetryable(Box::new(full()))),
        });
        assert_eq!(system_error(&around), Some(io::ErrorKind::StorageFull));
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        assert!(!is_final(&object_store::Error::Generic { store: "c", source: Box::new(refused) }));
        assert!(matches!(of_store("a put", full()), Error::NoSpace));
    }
}
