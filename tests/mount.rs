//! Real mounts of both engines through the built binary: what a user runs, and what a user loses if it is wrong.
//!
//! | file | what it holds |
//! |---|---|
//! | `mount/calls.rs` | the same seeded random system calls on the mount and on the host's filesystem |
//! | `mount/duties.rs` | set-id bits, capabilities, times and durability of every operation, beside the host's filesystem |
//! | `mount/programs.rs` | git, rsync, SQLite and fio |
//! | `mount/kill.rs` | `kill -9` of the daemon under writers that record what was acknowledged |
//! | `mount/stats.rs` | `/.stats` and its readers, commands, the meter against the kernel's |
//! | `mount/below.rs` | the witness below an engine of others: its counts, and which process is killed first |
//! | `mount/others.rs` | an engine of others on a full and on a read-only disk, mounted to be read, and stalled |
//! | `mount/repair.rs` | `kvfs check --repair` of a store that was damaged |
//! | `mount/lifecycle.rs` | mount, second mount, stale mount, signals, mount(8), exit codes |
//! | `mount/descriptors.rs` | more files below than the process may have open |
//! | `mount/ends.rs` | ends with files open, of a stopped daemon, of an aborted connection; misleading names |
//! | `mount/strangers.rs` | a store's directory full of traps or of others, read-only disks, clients that say nothing |
//! | `mount/hostile.rs` | offsets, names, sizes, modes and times at and over every edge |
//! | `mount/forks.rs` | second stores of a live one: what they hold, share and leave when they are killed or refused |
//! | `mount/hybrid.rs` | commands of a live hybrid: hold, release, demote, a smaller tree |
//! | `mount/load.rs` | sixty-four threads at once, for minutes if asked |
//! | `mount/numbers.rs` | handles that outlive what the kernel remembers |
//! | `mount/direct.rs` | asynchronous direct writes beside buffered reads |
//! | `mount/overlay.rs` | a build over a mount as the upper layer of an overlay |
//! | `mount/replay.rs` | a recording done again on the engine that was recorded and on others |
//! | `mount/rights.rs` | who may enter, read, write and command |
//! | `mount/disks.rs` | what ext2, ext4 and XFS below do with requests for space; full disks, limits on file sizes |
//! | `mount/stalls.rs` | large deletes, open-unlinked files, a stalled writer |
//!
//! Without `/dev/fuse` they pass with a note; with `CI=true` they fail.

#[path = "support/host.rs"]
mod host;

#[path = "mount/below.rs"]
mod below;
#[path = "mount/calls.rs"]
mod calls;
#[path = "mount/descriptors.rs"]
mod descriptors;
#[path = "mount/direct.rs"]
mod direct;
#[path = "mount/disks.rs"]
mod disks;
#[path = "mount/duties.rs"]
mod duties;
#[path = "mount/ends.rs"]
mod ends;
#[path = "mount/forks.rs"]
mod forks;
#[path = "mount/hostile.rs"]
mod hostile;
#[path = "mount/hybrid.rs"]
mod hybrid;
#[path = "mount/kill.rs"]
mod kill;
#[path = "mount/lifecycle.rs"]
mod lifecycle;
#[path = "mount/load.rs"]
mod load;
#[path = "mount/numbers.rs"]
mod numbers;
#[path = "mount/others.rs"]
mod others;
#[path = "mount/overlay.rs"]
mod overlay;
#[path = "mount/programs.rs"]
mod programs;
#[path = "mount/recordings.rs"]
mod recordings;
#[path = "mount/repair.rs"]
mod repair;
#[path = "mount/replay.rs"]
mod replay;
#[path = "mount/rights.rs"]
mod rights;
#[path = "mount/stalls.rs"]
mod stalls;
#[path = "mount/stats.rs"]
mod stats;
#[path = "mount/strangers.rs"]
mod strangers;
