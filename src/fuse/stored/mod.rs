//! The requests of the stored filesystem: each is one call of [`FileSystem`](crate::fs::FileSystem) and one reply. How they are tried, deferred, recorded and
//! made durable is `dispatch`'s. Nothing here knows that some inodes are virtual: [`super::router`] keeps those away.

mod attr;
pub(super) mod deferred;
mod dir;
mod dispatch;
mod io;
mod names;

use std::sync::{Arc, OnceLock};

use fuser::{Errno, InitFlags, ReplyAttr, ReplyEntry};

use super::behind::Behind;
use super::ending::{Connected, UnderWay};
use super::{Durability, GENERATION, Options, convert};
use crate::attribution::Attribution;
use crate::fs::states::States;
use crate::fs::types::Attributes;
use deferred::Deferred;
pub(super) use dispatch::Core;

/// Serves the store.
pub struct StoredFiles {
    pub(super) core: Arc<Core>,
    deferred: Deferred,
}

impl StoredFiles {
    /// Serves the filesystem that has `states` and charges who moves content to `attribution`.
    pub(super) fn new(
        states: Arc<States>,
        attribution: Arc<Attribution>,
        options: Options,
        durability: Durability,
    ) -> std::io::Result<StoredFiles> {
        let fs = states.newest();
        let deferred = Deferred::start(fs.wake_signal().clone())?;
        let (notifier, under_way) = (OnceLock::new(), UnderWay::default());
        let meter = fs.meter().clone();
        let core = Core { states, meter, attribution, options, durability, notifier, under_way };
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

impl Behind for StoredFiles {
    fn capabilities(&self) -> Vec<InitFlags> {
        let mut wanted = vec![
            // Files are found by number when the kernel has forgotten them: `.` and `..` are looked up in anything.
            InitFlags::FUSE_EXPORT_SUPPORT,
        ];
        // Attributes of an open file are those of the state that it is held in, which is not the one that is listed.
        if !self.core.states.are_followed() {
            wanted.extend([InitFlags::FUSE_DO_READDIRPLUS, InitFlags::FUSE_READDIRPLUS_AUTO]);
        }
        if self.core.options.writeback_cache {
            wanted.push(InitFlags::FUSE_WRITEBACK_CACHE);
        }
        if self.core.options.direct_io {
            wanted.push(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP);
        }
        wanted
    }
    fn connected(&self) -> Arc<dyn Connected> {
        self.core.clone()
    }
    fn is_read_only(&self) -> bool {
        self.core.states.newest().options().read_only
    }
    fn threads(&self) -> usize {
        self.core.options.threads
    }
}
