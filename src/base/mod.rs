//! Leaves without opinions: things every room may use and that know no room.

pub mod bell;
pub mod clock;
pub mod decoder;
pub mod journal;
pub mod metric;
pub mod prng;
pub mod text;
pub mod varint;
pub mod words;
