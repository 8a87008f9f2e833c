#![doc = include_str!("ARCHITECTURE.md")]
// The report of .stats.d/json is one long literal.
#![recursion_limit = "256"]

// In the order a byte walks, from the kernel to the disk; then the rooms beside the walk.
pub mod advise;
pub mod attribution;
pub mod base;
pub mod compare;
pub mod control;
pub mod disk;
pub mod engine;
pub mod fs;
pub mod fuse;
pub mod import;
pub mod recording;
pub mod virtual_files;
pub mod witness;

// The store as a whole, and the ways into it.
pub mod cli;
pub mod daemon;
pub mod decoders;
pub mod mount;
pub mod repair;
pub mod store;
