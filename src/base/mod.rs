//! Leaves without opinions: things every room may use and that know no room.

pub mod clock;
pub mod decoder;
pub mod event_log;
pub mod metric;
pub mod prng;
pub mod text;
pub mod varint;
pub mod wake;
pub mod words;
