//! The operations, and in one table the duties of each besides its result: set-id bits, `security.capability`, times, durability.
//!
//! The operations that change content do what their row says ([`FileSystem::settle_content`]), and the adapter asks the
//! table which answers have to wait for a sync. `tests/fs/duties.rs` performs every operation and holds it to its row,
//! `tests/mount/duties.rs` does so through the kernel, beside the host's own filesystem.

use super::draft::Draft;
use super::types::Ino;
use super::{FileSystem, Result};
use crate::base::metric::labels;
use crate::engine::{self, Tier};

/// An operation of the filesystem; also the tag of its batches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::VariantArray, strum::IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
#[allow(missing_docs)]
pub enum Op {
    Lookup,
    Getattr,
    Setattr,
    Truncate,
    Readlink,
    Mknod,
    Mkdir,
    Unlink,
    Rmdir,
    Symlink,
    Rename,
    Link,
    Open,
    Create,
    Read,
    Write,
    Flush,
    Fsync,
    Release,
    Opendir,
    Readdir,
    Fsyncdir,
    Releasedir,
    Statfs,
    Setxattr,
    Getxattr,
    Listxattr,
    Removexattr,
    Fallocate,
    Lseek,
    CopyFileRange,
    Forget,
    Reclaim,
    Format,
    Counters,
}

labels! { Op "<op>" "op" }

impl Op {
    /// The tag of batches that the operation applies.
    pub fn tag(self) -> u8 {
        self as u8
    }

    /// From now on this thread works for the operation: what it asks of the engine is noted under its tag where somebody notes it.
    pub fn begin(self) {
        engine::asking_for(self.tag());
    }
}

/// Fate of a privilege that a file lends to whoever runs it: set-id bits, or `security.capability`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lent {
    /// It stays.
    Stays,
    /// It goes when somebody without privilege changes the content.
    GoesFromStrangers,
    /// It goes, whoever changes the content.
    Goes,
    /// It goes if the owner or the group is set, whoever sets it; set-id bits of a directory stay.
    GoesWithOwner,
}

/// Times of the operation's inode that become now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// None.
    Kept,
    /// The access time, as the option `atime` says.
    Read,
    /// The time of the last change.
    Changed,
    /// The times of the last change of content and of the last change.
    Written,
    /// All four: it is new.
    Born,
}

/// Condition under which the answer waits until the change is durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durable {
    /// There is nothing to make durable.
    Nothing,
    /// Under `dirsync` and `sync=always`.
    Names,
    /// Under `sync=always`.
    Inode,
    /// Under `sync=always`, and if the file was opened with `O_SYNC` or `O_DSYNC`.
    Content,
    /// Always: this is what the operation is for.
    Asked,
}

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duties {
    /// Set-user-id and set-group-id bits of a file.
    pub set_id: Lent,
    /// `security.capability` of a file.
    pub capability: Lent,
    /// Times of the inode.
    pub times: Times,
    /// Whether the directories whose names change get new times of content and change.
    pub directory_times: bool,
    /// Condition under which it must be durable before it is answered.
    pub durable: Durable,
}

const fn row(
    set_id: Lent,
    capability: Lent,
    times: Times,
    directory_times: bool,
    durable: Durable,
) -> Duties {
    Duties { set_id, capability, times, directory_times, durable }
}

impl Op {
    /// The duties of the operation. Its inode is, of an operation on names, the one that the name stands for; of a copy, the
    /// target, while the source counts as read.
    pub const fn duties(self) -> Duties {
        use {Durable::*, Lent::*, Times::*};
        match self {
            // Chmod sets the bits, and an access control list is a chmod too: there "stays" means "as it says".
            Op::Setattr => row(GoesWithOwner, GoesWithOwner, Changed, false, Inode),
            Op::Setxattr | Op::Removexattr => row(Stays, Stays, Changed, false, Inode),
            Op::Truncate => row(GoesFromStrangers, Goes, Written, false, Inode),
            Op::Write | Op::Fallocate | Op::CopyFileRange => {
                row(GoesFromStrangers, Goes, Written, false, Content)
            }
            Op::Create | Op::Mknod | Op::Mkdir | Op::Symlink => row(Stays, Stays, Born, true, Names),
            Op::Link | Op::Unlink | Op::Rmdir | Op::Rename => row(Stays, Stays, Changed, true, Names),
            Op::Read | Op::Readlink | Op::Readdir => row(Stays, Stays, Read, false, Nothing),
            Op::Fsync | Op::Fsyncdir => row(Stays, Stays, Kept, false, Asked),
            Op::Lookup
            | Op::Getattr
            | Op::Getxattr
            | Op::Listxattr
            | Op::Lseek
            | Op::Statfs
            | Op::Open
            | Op::Flush
            | Op::Release
            | Op::Opendir
            | Op::Releasedir
            | Op::Forget
            | Op::Reclaim
            | Op::Format
            | Op::Counters => row(Stays, Stays, Kept, false, Nothing),
        }
    }
}

impl FileSystem {
    /// Does to `draft` what `op`, which changed the content of `ino`, owes to set-id bits, capability and times.
    /// `privileged` is whether whoever did it keeps set-id bits.
    pub(super) fn settle_content(
        &self,
        op: Op,
        privileged: bool,
        ino: Ino,
        draft: &mut Draft<'_>,
        tier: Tier,
    ) -> Result<()> {
        let duties = op.duties();
        if duties.set_id == Lent::Goes || duties.set_id == Lent::GoesFromStrangers && !privileged {
            draft.record.clear_privileges();
        }
        if duties.capability == Lent::Goes || duties.capability == Lent::GoesFromStrangers && !privileged {
            self.drop_capability(ino, draft, tier)?;
        }
        if duties.times == Times::Written {
            let now = self.now();
            draft.record.mtime = now;
            draft.record.ctime = now;
        }
        Ok(())
    }
}
