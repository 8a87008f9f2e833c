//! Recordings: what a store held when one began, and what was asked of its engine from then on, in a file that any engine can be
//! asked with again.
//!
//! ```text
//! "kvfs-recording\0" version u8                       16 bytes
//! frame …                                             as in engine/frame.rs; its place is its offset in the file
//!
//! kind 1  head       JSON                             first, once: who recorded what, see [`Head`]
//! kind 2  image      length u32 | zstd                entries of the store in the order of keys
//! kind 3  image end  JSON                             see [`ImageEnd`]; without it the image is not whole
//! kind 4  events     length u32 | zstd                what was asked, see `event.rs`
//! kind 5  meters     JSON                             the doors' counters since the recording began, see [`Meters`]
//! kind 6  end        JSON                             last, once: why it ended; without it the recorder was cut off
//! ```
//!
//! Frames of the image and of events stand in the order in which they were made, so events that happened while the image was written
//! may stand before its end. A batch whose LSN is not above that of the image is in the image already, and a reader leaves it out.
//!
//! # Invariants
//!
//! 1. A file is read up to its last whole frame. What a crash of the recorder leaves behind is a recording, only a shorter one.
//! 2. Unless it was asked for, no value and no name is in it: values are lengths, and keys that hold names went through the veil of
//!    whoever knows what they mean ([`Veil`]), which keeps lengths and order.
//! 3. An event that changes a key stands behind every event that changed it before: each is noted while the filesystem still holds
//!    the locks under which it was applied.
//! 4. What could not be noted is counted, and stands in the place where it is missing ([`Asked::Gap`]).

pub mod decoders;
mod event;
mod head;
mod image;
mod queue;
mod reader;
mod recorder;
mod writer;

use crate::base::text::BadText;

pub use event::{Asked, Change, Content, Event};
pub use head::{End, Head, ImageEnd, Meters};
pub use image::Entry;
pub use reader::Recording;
pub use recorder::{Keeps, Recorder, RecorderStatus, State, Veil};
pub use writer::Writer;

/// The first bytes of a recording, before its version.
const MAGIC: &[u8; 15] = b"kvfs-recording\0";
/// The version of the format that this program reads and writes.
const VERSION: u8 = 1;
/// Bytes of events or entries, before they are compressed, that a frame holds about.
const CHUNK_BYTES: usize = 256 << 10;
/// A frame is never longer, compressed or not; what claims to be is damaged.
const FRAME_BYTES_MAX: usize = 256 << 20;

/// The kind of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FrameKind {
    Head = 1,
    Image = 2,
    ImageEnd = 3,
    Events = 4,
    Meters = 5,
    End = 6,
}

impl FrameKind {
    fn of(byte: u8) -> Option<FrameKind> {
        use FrameKind::*;
        [Head, Image, ImageEnd, Events, Meters, End].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Why a recording cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The system's answer.
    #[error("{what}: {error}")]
    Io {
        /// What was being done, with the file's name.
        what: String,
        /// The answer.
        error: std::io::Error,
    },
    /// The file is no recording, one of another version, or damaged: a sentence with its name.
    #[error("{0}")]
    Unreadable(BadText),
    /// The engine that is recorded failed.
    #[error(transparent)]
    Engine(#[from] crate::engine::Error),
}

impl Error {
    fn io(what: impl Into<String>, error: std::io::Error) -> Error {
        Error::Io { what: what.into(), error }
    }

    fn unreadable(text: String) -> Error {
        Error::Unreadable(text.into())
    }
}

/// Result of what is done with a recording.
pub type Result<T> = std::result::Result<T, Error>;
