//! Errors of the filesystem: those with an error number, and the engine's.

use std::sync::Arc;
use std::time::Duration;

use crate::engine;

/// Result of a filesystem call.
pub type Result<T> = std::result::Result<T, Error>;

/// An errno word, or what an engine said. [`Error::WouldBlock`] and [`Error::Busy`] are not failures: nothing
/// has changed, and the whole call may be made again.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// `ENOENT`
    #[error("no such file or directory")]
    NotFound,
    /// `EEXIST`
    #[error("file exists")]
    Exists,
    /// `ENOTDIR`
    #[error("not a directory")]
    NotDirectory,
    /// `EISDIR`
    #[error("is a directory")]
    IsDirectory,
    /// `ENOTEMPTY`
    #[error("directory not empty")]
    NotEmpty,
    /// `EINVAL`
    #[error("invalid argument")]
    Invalid,
    /// `EPERM`
    #[error("operation not permitted")]
    NotPermitted,
    /// `EACCES`
    #[error("permission denied")]
    AccessDenied,
    /// `EFBIG`
    #[error("file too large")]
    TooLarge,
    /// `ENAMETOOLONG`
    #[error("file name too long")]
    NameTooLong,
    /// `EMLINK`
    #[error("too many links")]
    TooManyLinks,
    /// `EXDEV`
    #[error("invalid cross-device link")]
    CrossDevice,
    /// `ENODATA`
    #[error("no data available")]
    NoData,
    /// `ERANGE`
    #[error("result too large")]
    Range,
    /// `E2BIG`
    #[error("argument list too long")]
    ArgumentsTooLong,
    /// `ENXIO`
    #[error("no such device or address")]
    NoSuchAddress,
    /// `EOPNOTSUPP`
    #[error("operation not supported")]
    NotSupported,
    /// `EROFS`
    #[error("read-only filesystem")]
    ReadOnly,
    /// `ESTALE`
    #[error("stale file handle")]
    Stale,
    /// A record that does not parse: `EIO`, with the evidence.
    #[error("damaged record: {0}")]
    Damaged(Arc<str>),
    /// Not a failure: the answer is not in memory, and the call should be made again with [`engine::Tier::Disk`].
    #[error("the answer is not in memory")]
    WouldBlock,
    /// Not a failure: a limit is reached, nothing has changed, and the call should be made again after a while, or when there is room.
    #[error("the store is busy: {cause}")]
    Busy {
        /// The limit.
        cause: engine::Cause,
        /// Longest wait before the next try.
        retry_after: Duration,
    },
    /// The engine's answer.
    #[error(transparent)]
    Engine(engine::Error),
}

impl From<engine::Error> for Error {
    fn from(error: engine::Error) -> Error {
        match error {
            engine::Error::WouldBlock => Error::WouldBlock,
            engine::Error::Busy { cause, retry_after } => Error::Busy { cause, retry_after },
            error => Error::Engine(error),
        }
    }
}

impl Error {
    /// Whether the call should be made again with [`engine::Tier::Disk`].
    pub fn would_block(&self) -> bool {
        matches!(self, Error::WouldBlock)
    }

    /// Whether it is a fault of the store rather than of the request.
    pub fn is_fault(&self) -> bool {
        use engine::Error::{Corrupt, Io, Poisoned};
        matches!(self, Error::Damaged(_) | Error::Engine(Corrupt { .. } | Io { .. } | Poisoned(_)))
    }

    /// The errno for programs. `EAGAIN` for the two answers that are not failures.
    pub fn errno(&self) -> i32 {
        match self {
            Error::NotFound => libc::ENOENT,
            Error::Exists => libc::EEXIST,
            Error::NotDirectory => libc::ENOTDIR,
            Error::IsDirectory => libc::EISDIR,
            Error::NotEmpty => libc::ENOTEMPTY,
            Error::Invalid => libc::EINVAL,
            Error::NotPermitted => libc::EPERM,
            Error::AccessDenied => libc::EACCES,
            Error::TooLarge => libc::EFBIG,
            Error::NameTooLong => libc::ENAMETOOLONG,
            Error::TooManyLinks => libc::EMLINK,
            Error::CrossDevice => libc::EXDEV,
            Error::NoData => libc::ENODATA,
            Error::Range => libc::ERANGE,
            Error::ArgumentsTooLong => libc::E2BIG,
            Error::NoSuchAddress => libc::ENXIO,
            Error::NotSupported => libc::EOPNOTSUPP,
            Error::ReadOnly => libc::EROFS,
            Error::Stale => libc::ESTALE,
            Error::Damaged(_) => libc::EIO,
            Error::WouldBlock | Error::Busy { .. } => libc::EAGAIN,
            Error::Engine(error) => match error {
                engine::Error::WouldBlock | engine::Error::Busy { .. } => libc::EAGAIN,
                engine::Error::NoSpace => libc::ENOSPC,
                engine::Error::Poisoned(_) => libc::EROFS,
                engine::Error::Corrupt { .. } | engine::Error::Io { .. } => libc::EIO,
                engine::Error::Invalid(_) => libc::EINVAL,
            },
        }
    }
}

/// `EIO`, with the evidence in `what`.
pub(super) fn damaged(what: impl Into<Arc<str>>) -> Error {
    Error::Damaged(what.into())
}
