//! The requests of the stored filesystem: each is one call of [`FileSystem`] and one reply. How they are tried, deferred, recorded and
//! made durable is `dispatch`'s. Nothing here knows that some inodes are virtual: [`super::router`] keeps those away.

mod attr;
mod deferred;
mod dir;
mod dispatch;
mod io;
mod names;

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use fuser::{Errno, ReplyAttr, ReplyEntry};

use super::{Durability, GENERATION, Options, convert};
use crate::attribution::Attribution;
use crate::fs::FileSystem;
use crate::fs::types::Attributes;
use deferred::Deferred;
pub(super) use dispatch::Core;

/// Serves the store.
pub(super) struct StoredFiles {
    pub(super) core: Arc<Core>,
    deferred: Deferred,
}

impl StoredFiles {
    /// Serves `fs` and charges who moves content to `attribution`.
    pub(super) fn new(
        fs: Arc<FileSystem>,
        attribution: Arc<Attribution>,
        options: Options,
        durability: Durability,
    ) -> std::io::Result<StoredFiles> {
        let deferred = Deferred::start(fs.wake_signal().clone())?;
        let (notifier, under_way) = (OnceLock::new(), AtomicU64::new(0));
        let core = Core { fs, attribution, options, durability, notifier, under_way };
        Ok(StoredFiles { core: Arc::new(core), deferred })
    }

    fn entry(&self) -> impl FnOnce(ReplyEntry, Result<Attributes, Errno>) + Send + 'static {
        let ttl = self.core.options.timeout;
        move |reply, result| match result {
            Ok(found) => reply.entry(&ttl, &convert::attributes(&found), GENERATION),
            Err(errno) => reply.error(errno),
        }
    }

    fn attributes(&self) -> impl FnOnce(ReplyAttr, Result<Attributes, Errno>) + Send + 'static {
        let ttl = self.core.options.timeout;
        move |reply, result| match result {
            Ok(found) => reply.attr(&ttl, &convert::attributes(&found)),
            Err(errno) => reply.error(errno),
        }
    }
}
