//! Files that are made up when they are read: `.stats` and `.stats.d/` in the root. Nothing of them is stored, and this room knows
//! neither how files are stored nor what these say: whoever has something to tell implements [`VirtualFile`].
//!
//! # How a read works
//!
//! 1. A lookup asks the file for its text and tells how long it is. The `open` that follows pins that text in the handle; reads
//!    slice it, at any offset and in any order, until `release`. With two texts, one for each, a reader that goes by the size of the
//!    lookup loses the end of a text that has grown in between: the kernel does so itself for `splice` and `sendfile`, and asks nobody.
//! 2. `getattr` says exactly how long the text is. The kernel does not tell for which handle it asks, so while handles are
//!    open the answer is the newest pinned snapshot, and otherwise a recent one. (A size of 0, or one that is too
//!    large or too small, makes one or the other of `splice`, `wc -c`, `tail`, `tac`, `rsync` and `tar` go wrong.)
//! 3. A text is expensive to make and anybody may ask, on a thread that serves all. So a look at the size, and a lookup by somebody
//!    who is neither root nor the owner, makes do with a text that was made within a tenth of a second.
//!
//! # How a write works
//!
//! The offset means nothing: shells write at 0, at the end, and at growing offsets. Each write is one or more whole lines,
//! handed to the file with a callback; nobody waits here. A change of size, which `>` asks for, is for the caller to
//! accept and to ignore.
//!
//! # Invariants
//!
//! 1. Numbers are [`FIRST_VIRTUAL`] and above and belong to a name for good, so the kernel may remember names.
//! 2. No lock is held while a file makes up its text; the only lock guards the table of handles.

mod snapshots;
#[cfg(test)]
mod tests;
mod tree;

use std::sync::Arc;

use crate::fs::types::{Caller, Ino, STORED_END};
use crate::fs::{Error, Result};
pub use tree::VirtualTree;

/// Inode numbers from here on belong to virtual files: the store gives none of them away.
pub const FIRST_VIRTUAL: Ino = STORED_END;

/// An open file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle(pub u64);

/// Called once, from any thread, when what was written has been done.
pub type Done = Box<dyn FnOnce(Result<()>) + Send>;

/// A file whose text is made up when it is opened.
pub trait VirtualFile: Send + Sync {
    /// The whole text now. Must not wait for writers or for the disk.
    fn read(&self) -> Vec<u8>;

    /// Permission bits, such as `0o444`. Without a write bit, [`VirtualFile::write`] is never called.
    fn mode(&self) -> u32 {
        0o444
    }

    /// Does what the lines of `text` say and calls `done`, perhaps later; returns at once.
    fn write(&self, caller: Caller, text: &[u8], done: Done) {
        let _ = (caller, text);
        done(Err(Error::NotPermitted));
    }
}

/// A directory whose files come and go.
pub trait VirtualDirectory: Send + Sync {
    /// The names of its files now.
    fn names(&self) -> Vec<Vec<u8>>;

    /// The file of a name.
    fn file(&self, name: &[u8]) -> Option<Arc<dyn VirtualFile>>;
}
