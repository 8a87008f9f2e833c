//! Errors of an engine, with the evidence inside.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::base::metric::labels;
use crate::base::text::BadText;

/// Result of an engine call.
pub type Result<T> = std::result::Result<T, Error>;

/// Cause for which a batch has to wait. Every wait of a writer has one of these names in `/.stats`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::VariantArray, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub enum Cause {
    /// All memtables are full and none is flushed yet.
    Memtables,
    /// Too many sorted runs in level 0.
    L0Files,
    /// Too many bytes wait for compaction.
    PendingBytes,
    /// Too many dirty pages wait for a checkpoint.
    DirtyPages,
    /// The log holds as much as it may before a checkpoint.
    LogSpace,
    /// A rate that was asked for is used up.
    RateLimit,
    /// Hybrid: the tree holds more than `hot`, and what is cold has not gone down yet.
    HotFull,
    /// The disk below is full, and work that is under way will give space back.
    Space,
}

labels! { Cause "<cause>" "cause" }

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// An engine's error.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The answer needs the disk or a long wait; ask again with [`super::Tier::Disk`] on a thread that may sleep.
    #[error("the answer is not in memory")]
    WouldBlock,
    /// A limit is reached: nothing has changed; try again when [`super::WorkClass::Room`] is signalled or after `retry_after`.
    #[error("the store is busy: {cause}")]
    Busy {
        /// Which limit.
        cause: Cause,
        /// Time that a delayed batch should wait; for a stop, time until it is worth asking again.
        retry_after: Duration,
    },
    /// The disk below is full, or a quota or limit on the size of files is reached; nothing has changed.
    #[error("no space left on the disk below, or a quota or file size limit (ulimit -f) is reached")]
    NoSpace,
    /// Stored bytes are damaged.
    #[error("{file} is damaged at byte {offset}: {what}")]
    Corrupt {
        /// File name in the store's directory.
        file: String,
        /// Where in it.
        offset: u64,
        /// The damage, in words.
        what: String,
    },
    /// A sync failed earlier; the store takes no changes until it is opened again.
    #[error("{0}")]
    Poisoned(String),
    /// A request to the disk failed.
    #[error("{context}: {source}")]
    Io {
        /// The action that failed.
        context: String,
        /// The error of the system.
        source: Arc<io::Error>,
    },
    /// Options or a command that this engine cannot follow.
    #[error("{0}")]
    Invalid(String),
}

impl From<BadText> for Error {
    fn from(bad: BadText) -> Error {
        Error::Invalid(bad.into())
    }
}

impl Error {
    /// Turns the disk's error into the engine's: full disk and closed latch keep their meaning.
    pub fn io(context: impl Into<String>, error: io::Error) -> Error {
        if crate::disk::is_poisoned(&error) {
            return Error::Poisoned(error.to_string());
        }
        match error.kind() {
            // A file that may not grow is a disk without space for it: the limit of ulimit -f, or of the filesystem below.
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Error::NoSpace
            }
            _ => Error::Io { context: context.into(), source: Arc::new(error) },
        }
    }

    /// `file` is of a format that this program does not know: older or newer than `known`.
    pub fn format(file: impl fmt::Display, found: impl fmt::Display, known: impl fmt::Display) -> Error {
        Error::Invalid(format!(
            "{file} has format {found}; this program knows format {known}: use the version of kvfs that made it, or copy \
             the files with it to a new store"
        ))
    }

    /// The file that could not be read, if that is what went wrong: its bytes are damaged, or the request `reading FILE` failed.
    pub fn unread_file(&self) -> Option<&str> {
        match self {
            Error::Corrupt { file, .. } => Some(file),
            Error::Io { context, .. } => context.strip_prefix("reading ").filter(|file| !file.contains(' ')),
            _ => None,
        }
    }

    /// Whether what could not be read is damaged or lost, by itself or by its medium: not a matter of rights, limits or memory.
    pub fn is_damage(&self) -> bool {
        const OF_A_MEDIUM: [i32; 5] =
            [libc::EIO, libc::EBADMSG, libc::EUCLEAN, libc::ENODATA, libc::EREMOTEIO];
        match self {
            Error::Corrupt { .. } => true,
            Error::Io { source, .. } => {
                source.kind() == io::ErrorKind::UnexpectedEof
                    || source.raw_os_error().is_some_and(|number| OF_A_MEDIUM.contains(&number))
            }
            _ => false,
        }
    }

    /// Damage in `file` at `offset`.
    pub fn corrupt(file: impl Into<String>, offset: u64, what: impl Into<String>) -> Error {
        Error::Corrupt { file: file.into(), offset, what: what.into() }
    }
}
