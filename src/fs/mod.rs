//! The filesystem room: POSIX over an ordered map. It knows no kernel protocol and no disk file.

pub mod error;
pub mod meter;
pub mod types;
pub mod virtual_file;

pub use error::{Error, Result};
