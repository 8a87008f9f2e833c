//! A witness: a directory passed through to another place, so that everything a program does to its files is counted on the way.
//!
//! It knows nothing of the program: whatever writes files, in any language, can be put on it. It changes nothing either: each request is
//! one system call on the directory behind it, and each answer is that call's. What is counted is what reaches the directory's
//! filesystem: reads that the kernel answers from its page cache do not come here, and pages that a program changes through a mapping come
//! when the kernel writes them back.
//!
//! 1. [`Directory`] has the calls on names and attributes, [`OpenFile`] and [`OpenDirectory`] those on what is open.
//! 2. [`Inodes`] remembers each file that the kernel knows by a descriptor of its own (`O_PATH`), so a file that was renamed or removed
//!    while it is open is still that file. Two names of one file are one inode: identity is the pair of device and number.
//! 3. [`Patterns`] tells by a file's path which [`Class`] it is of: log, table, manifest, data, temporary, or other.
//! 4. [`Meter`] counts requests and bytes by class, and how long syncs took; [`Tally`] does the same by file.
//! 5. [`sizes`] walks the directory and adds up what lies there.
//!
//! # Who a call is made for
//! The kernel has checked permissions before a request comes. A file is made as the caller (`setfsuid`, `setfsgid`, and the caller's umask
//! in a thread of its own), and not made as root and given away afterwards: that would be two steps, between which a crash leaves root's
//! file, it would clear the set-id bits that were asked for, and quotas and access control lists that are inherited would see root. The details are in
//! [`rights`].
//!
//! # Invariants
//! 1. A name is looked up below a descriptor, one component at a time, and never through a link: nothing outside the directory is reached.
//! 2. What is counted has been done: a request that fails moves no bytes and counts as an error.
//! 3. The kernel's own ways around a daemon (backing files) are not used: what passes there passes no meter.

mod directory;
mod inode;
mod meter;
mod open;
mod options;
mod patterns;
pub mod rights;
pub mod sizes;
mod tally;

pub use directory::{Changes, Directory, Found, Made, When};
pub use inode::{Inode, Inodes, ROOT_NUMBER};
pub use meter::{Class, ClassTraffic, Meter, Traffic};
pub use open::{Bytes, OpenDirectory, OpenFile};
pub use options::{BELOW_ENGINE, BelowEngine, FIELDS, Options};
pub use patterns::{ENGINES, Patterns};
pub use rustix::fs::Stat;
pub use rustix::io::Errno;
pub use tally::{FileTraffic, Tally};

/// Result of a call on the directory.
pub type Result<T> = std::result::Result<T, Errno>;
