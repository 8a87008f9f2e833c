//! `kvfs witness` on real mounts: what it counts, what it reports, how it begins and ends. That it is a correct filesystem the tests of
//! `tests/mount.rs` that are called `witness` say: there the same calls and programs run on it as on a store.
//!
//! Without `/dev/fuse` they pass with a note; with `CI=true` they fail.

#[allow(dead_code, unused_macros, unused_imports)]
#[path = "support/host.rs"]
mod host;

#[path = "witness/begins.rs"]
mod begins;
#[path = "witness/numbers.rs"]
mod numbers;
#[path = "witness/reports.rs"]
mod reports;
