//! Answers that several requests give.

use fuser::{Errno, ReplyEmpty, ReplyXattr};

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
