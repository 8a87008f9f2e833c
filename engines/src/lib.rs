//! Storage engines of others behind the door of kvfs ([`kvfs::engine::Engine`]): each is a cargo feature, a file and a line in [`ENGINES`].
//! Once registered, `mkfs`, `mount`, `check` and `compare` know them like ours.
//!
//! What an engine of this kind has to say is [`adapter::Store`]; what all of them need, such as one sync for everyone who waits, is there
//! once. Each lives in a directory of its own, where no meter of kvfs sees what it writes.

pub mod adapter;
#[cfg(feature = "fjall")]
mod fjall;
#[cfg(feature = "lmdb")]
mod lmdb;
mod options;
mod queue;
#[cfg(feature = "redb")]
mod redb;
#[cfg(feature = "rocksdb")]
mod rocksdb;
#[cfg(feature = "slatedb")]
mod slatedb;
#[cfg(feature = "sqlite")]
mod sqlite;

use kvfs::engine::Descriptor;

/// Every engine that is built in.
pub static ENGINES: &[&Descriptor] = &[
    #[cfg(feature = "rocksdb")]
    &rocksdb::ENGINE,
    #[cfg(feature = "fjall")]
    &fjall::ENGINE,
    #[cfg(feature = "redb")]
    &redb::ENGINE,
    #[cfg(feature = "lmdb")]
    &lmdb::ENGINE,
    #[cfg(feature = "sqlite")]
    &sqlite::ENGINE,
    #[cfg(feature = "slatedb")]
    &slatedb::ENGINE,
];

/// Makes them known; to be called before anything else, while there is one thread. A second call changes nothing.
pub fn register() {
    share_memory();

    kvfs::engine::register(ENGINES);
}

/// Has all threads take their memory from one arena. The C library gives each an arena of its own, up to eight for a processor, and what is free in
/// one serves no other: with writes of many threads an engine's pages lay in all of them, and the process held several times what `memory=` allows.
fn share_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets a number of the allocator, before there are threads.
    unsafe {
        // An allocator that does not know it has no arenas.
        let _ = libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}
