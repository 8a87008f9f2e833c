//! Advice: what a recording would cost on other designs, by size alone. No values, no disk: seconds for hours of work.
//!
//! A recording becomes [`steps`], in which keys are ranks and values are lengths. Each design is a [`model`] that passes through them: log,
//! memtable, tables and levels, or log, pages and checkpoints, in bytes. Where an engine has a rule as a pure function, such as a compaction
//! policy, the model asks that function; where it has a format, the model adds up what the format would take.

mod advice;
pub mod btree;
pub mod cache;
pub mod front;
pub mod grid;
pub mod keys;
pub mod log;
pub mod lsm;
pub mod model;
pub mod rank_set;
pub mod report;
pub mod source;
pub mod steps;

#[cfg(test)]
mod tests;

pub use advice::{Advice, Row, SHIFTS, Shifted, advise};
