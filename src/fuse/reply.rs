//! Answers that several requests give.

use fuser::{Errno, ReplyAttr, ReplyEmpty, ReplyEntry, ReplyXattr};

use super::{Adapter, GENERATION, convert};
use crate::fs::types::Attributes;

impl Adapter {
    pub(super) fn entry(&self) -> impl FnOnce(ReplyEntry, Result<Attributes, Errno>) + Send + 'static {
        let ttl = self.core.options.timeout;
        move |reply, result| match result {
            Ok(found) => reply.entry(&ttl, &convert::attributes(&found), GENERATION),
            Err(errno) => reply.error(errno),
        }
    }

    pub(super) fn attributes(&self) -> impl FnOnce(ReplyAttr, Result<Attributes, Errno>) + Send + 'static {
        let ttl = self.core.options.timeout;
        move |reply, result| match result {
            Ok(found) => reply.attr(&ttl, &convert::attributes(&found)),
            Err(errno) => reply.error(errno),
        }
    }
}

pub(super) fn empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// Answers a question for an extended attribute or the list of their names: the size where `size_max` is 0, else the bytes,
/// if they fit.
pub(super) fn sized(size_max: u32) -> impl FnOnce(ReplyXattr, Result<Vec<u8>, Errno>) + Send + 'static {
    move |reply, result| match result {
        Ok(bytes) if size_max == 0 => reply.size(bytes.len() as u32),
        Ok(bytes) if bytes.len() > size_max as usize => reply.error(Errno::ERANGE),
        Ok(bytes) => reply.data(&bytes),
        Err(errno) => reply.error(errno),
    }
}
