//! `kvfs fork`: a second store of what a mounted one holds.

use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::{Failure, absolute, code, control};

pub const HELP: &str = "\
NEW is missing or empty, and lies neither in the mount nor in the store's directory. When the command returns 0 the new store is durable and can be
mounted at once, beside the first. It has the same options and an identity of its own. It holds what had been written when the command was
given (engine=lsm), or a moment before it returned (any other engine); files that were deleted and still open are not in it.

engine=lsm takes over its files as they are: where the filesystem below can share blocks between files (btrfs, XFS) that takes no room and, for
a store of any size, about as long as a sync of every hundred of its tables; elsewhere they are copied. Other engines are copied key by key while
writers go on. `kvfs stats MNT` says how far it is (forks in --json), and afterwards what is shared.

Examples:
  kvfs fork /mnt/kv /var/lib/kv.before-upgrade       forked to /var/lib/kv.before-upgrade: 1.2 GiB in 31 files, shared 1.2 GiB, written …
  kvfs mount /var/lib/kv.before-upgrade /mnt/before

Exit codes: 0 done; 1 wrong use, such as a NEW that is not empty; 2 the system refuses, such as a full disk: nothing is left in NEW then.";

#[derive(Debug, clap::Args)]
pub struct ForkArgs {
    /// Mount point
    mount_point: PathBuf,
    /// Directory of the new store, missing or empty
    new: PathBuf,
}

pub fn run(arguments: &ForkArgs) -> Result<(), Failure> {
    let ForkArgs { mount_point, new } = arguments;
    let new = absolute(new)?;
    let Some(path) = new.to_str().filter(|path| !path.contains('\n')) else {
        return Err(Failure::new(
            code::USAGE,
            format!("{}: a path of text in one line is needed", new.display()),
        ));
    };
    // What writers were told is written may still be in the kernel.
    write_back(mount_point).map_err(|errno| {
        Failure::new(code::SYSTEM, format!("{}: {}", mount_point.display(), errno.desc()))
    })?;
    let line = format!("fork {path} wait");
    control(mount_point, &line).map_err(|failure| match failure.text.strip_prefix("fork: ") {
        Some(text) => Failure::new(code::SYSTEM, text),
        // What is wrong with a place begins with it.
        None if failure.text.starts_with(path) => Failure::new(code::USAGE, failure.text),
        None => failure,
    })
}

fn write_back(mount_point: &Path) -> Result<(), Errno> {
    let root = open(mount_point, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    nix::unistd::syncfs(&root)
}
