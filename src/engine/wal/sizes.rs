//! The sizes and limits of a log, for who models one without writing it.

pub use super::segment::{SEGMENTS, fill_range};
pub use super::sync::SMALL_SYNC_BYTES;
pub use super::{HEADER_BYTES, RECORD_OVERHEAD_BYTES};
