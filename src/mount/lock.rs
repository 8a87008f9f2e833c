//! The lock of a store, and what its holder says there.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::below::make_way;
use super::closing::pid_in;
use super::store::ENGINE_DIRECTORY;
use crate::disk::{InUse, Opening, OsDisk};
use crate::fuse::table;

/// Longest wait of a mount for a store that its last user does not seem to close.
pub(super) const BUSY_WAIT: Duration = Duration::from_secs(2);
/// Longest wait for a store whose last user is closing it.
pub(super) const CLOSING_WAIT: Duration = Duration::from_secs(120);
/// Text that a holder writes into the lock while it closes the store.
pub(super) const CLOSING: &str = "closing the store";
/// Text that it writes there at the end.
pub(super) const CLOSED: &str = "closed";
/// Text that it writes there instead if the next mount has to do something first.
pub(super) const LEFT: &str = "left work behind: ";
/// Text that it writes there instead if something that was accepted is lost.
pub(super) const LOST: &str = "lost what was not synced: ";

/// Opens the directory, waiting for a holder that is about to let go, and for the witness of one that has died: a look at what is in the directory would meet it.
pub(super) fn lock(path: &Path, opening: impl Into<Opening>) -> io::Result<Arc<OsDisk>> {
    let begun = Instant::now();
    let opening = opening.into();
    loop {
        let error = match OsDisk::open(path, opening) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => error,
            Err(error) => return Err(error),
            Ok(os) => {
                make_way(&path.join(ENGINE_DIRECTORY))?;
                return Ok(os);
            }
        };
        let holder = InUse::of(&error).map_or("", |in_use| &in_use.holder);
        let patience = if holder.ends_with(CLOSING) { CLOSING_WAIT } else { BUSY_WAIT };
        if begun.elapsed() > patience {
            return Err(io::Error::new(error.kind(), format!("{error}{}", in_other_namespace(holder))));
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Addition to the message of a store that is in use, if its holder's mount cannot be seen from here.
fn in_other_namespace(holder: &str) -> String {
    match pid_in(holder).filter(|pid| table::is_in_other_namespace(*pid)) {
        Some(pid) => format!(", in another mount namespace: nsenter -m -t {pid} shows it"),
        None => String::new(),
    }
}
