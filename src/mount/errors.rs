//! Errors of the parts, as errors of opening the store.

use crate::disk::Disk;
use crate::engine;
use crate::fs;
use crate::store::Error;

pub(super) fn store_error(show: &impl std::fmt::Display, error: engine::Error, disk: &dyn Disk) -> Error {
    match error {
        engine::Error::NoSpace => {
            let shortage = disk.space().map_or(String::new(), |space| engine::shortage(&space));
            Error::refused(format!("{show}: {error}{shortage}")).because(error)
        }
        engine::Error::Corrupt { .. } => damaged(show, error),
        engine::Error::Invalid(_) => Error::usage(format!("{show}: {error}")).because(error),
        _ => Error::system(show, error),
    }
}

pub(super) fn fs_error(show: &impl std::fmt::Display, error: fs::Error, disk: &dyn Disk) -> Error {
    match error {
        fs::Error::Engine(error) => store_error(show, error, disk),
        fs::Error::Damaged(_) => damaged(show, error),
        _ => Error::system(show, error),
    }
}

/// Without the superblock, say, nothing can be served; the rest may still be there.
fn damaged(show: &impl std::fmt::Display, error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::damaged(format!("{show}: {error}; kvfs check --repair {show} says what can be saved"))
        .because(error)
}
