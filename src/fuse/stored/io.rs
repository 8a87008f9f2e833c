//! Requests about the content of files: opened, read, written, made durable.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

use bytes::Bytes;
use fuser::{
    Errno, FileHandle, OpenFlags, ReplyCreate, ReplyData, ReplyEmpty, ReplyLseek, ReplyOpen, ReplyWrite,
    Request, WriteFlags,
};

use super::StoredFiles;
use super::dispatch::{Mover, Outcome};
use crate::fs::FileSystem;
use crate::fs::operation::Op;
use crate::fs::types::{Attributes, Ino, NewNode};
use crate::fuse::behind::Content;
use crate::fuse::reply::empty;
use crate::fuse::{GENERATION, caller, convert};

/// The handle of an open file, which needs none: the kernel names the inode with every request.
const PLAIN: FileHandle = FileHandle(0);
/// The handle of a file that was opened with `O_SYNC` or `O_DSYNC`.
const SYNCED: FileHandle = FileHandle(1);

impl Content for StoredFiles {
    fn open(&self, request: &Request, ino: Ino, flags: OpenFlags, reply: ReplyOpen) {
        let open_flags = self.core.open_flags();
        let call = move |fs: &FileSystem, tier| fs.open_file(tier, ino);
        let (core, thread) = (self.core.clone(), request.pid());
        let fs = self.core.states.hold(ino);
        self.ask_in(fs, Op::Open, reply, call, move |reply: ReplyOpen, result| match result {
            Ok(()) => {
                if writes(flags.0) {
                    core.attribution.opened(ino, thread);
                }
                reply.opened(handle(flags.0), open_flags);
            }
            Err(errno) => {
                core.states.let_go(ino);
                reply.error(errno);
            }
        });
    }

    #[allow(clippy::too_many_arguments)]
    fn create(
        &self,
        request: &Request,
        parent: Ino,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (caller, name) = (caller(request), name.as_bytes().to_vec());
        let (ttl, open_flags) = (self.core.options.timeout, self.core.open_flags());
        // The new file, while opening it must wait.
        let mut made: Option<Attributes> = None;
        let call = move |fs: &FileSystem, tier| {
            let attributes = match made {
                Some(attributes) => attributes,
                None => {
                    let mode = mode & 0o7777;
                    fs.make(tier, Op::Create, caller, parent, &name, mode, umask, NewNode::File)?
                }
            };
            made = Some(attributes);
            fs.open_file(tier, attributes.ino)?;
            Ok(attributes)
        };
        let core = self.core.clone();
        self.change_name(Op::Create, reply, call, move |reply: ReplyCreate, result| match result {
            Ok(new) => {
                if writes(flags) {
                    core.attribution.opened(new.ino, caller.pid);
                }
                let handle = handle(flags);
                reply.created(&ttl, &convert::attributes(&new), GENERATION, handle, open_flags);
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn read(&self, request: &Request, ino: Ino, _: FileHandle, offset: u64, size: u32, reply: ReplyData) {
        let answer = |reply: ReplyData, result: Result<Vec<u8>, Errno>| match result {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        };
        let mover = Some(Mover { thread: request.pid(), ino });
        let call = move |fs: &FileSystem, tier, _: &mut ReplyData| {
            let bytes = fs.read(tier, ino, offset, size)?;
            Ok(Outcome { bytes: bytes.len() as u64, mover, ..Outcome::of(bytes) })
        };
        self.serve_in(self.core.states.of(ino), Op::Read, reply, call, answer);
    }

    #[allow(clippy::too_many_arguments)]
    fn write(
        &self,
        request: &Request,
        ino: Ino,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        reply: ReplyWrite,
    ) {
        let caller = caller(request);
        // The kernel's buffer is lent for this call only: copied once, and shared from here to the log.
        let data = Bytes::copy_from_slice(data);
        let size = data.len() as u32;
        let clear_suid = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        // A write from the page cache is followed by an fsync where it matters.
        let cached = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let durable = is_synced(flags.0) && !cached;
        // What the kernel writes from its cache it writes for nobody.
        let thread = if cached { 0 } else { caller.pid };
        let thread = if thread == 0 { self.core.attribution.writer(ino) } else { thread };
        let mover = Some(Mover { thread, ino });
        let call = move |fs: &FileSystem, tier| {
            fs.write(tier, caller, ino, offset, &data, clear_suid)?;
            Ok(Outcome { bytes: u64::from(size), mover, ..Outcome::of(()) })
        };
        let answer = move |reply: ReplyWrite, result: Result<(), Errno>| match result {
            Ok(()) => reply.written(size),
            Err(errno) => reply.error(errno),
        };
        self.change_content(Op::Write, ino, (durable, clear_suid), reply, call, answer);
    }

    fn release(&self, ino: Ino, _: FileHandle, flags: OpenFlags, reply: ReplyEmpty) {
        let begun = Instant::now();
        if writes(flags.0) {
            self.core.attribution.closed(ino);
        }
        self.core.states.let_go(ino).release_file(ino);
        self.core.record(Op::Release, begun, 0, false);
        reply.ok();
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: Ino,
        handle: FileHandle,
        (offset, length): (u64, u64),
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let caller = caller(request);
        let call = move |fs: &FileSystem, tier| {
            fs.allocate(tier, caller, ino, (offset, length), mode).map(Outcome::of)
        };
        let duties = (handle == SYNCED, caller.uid != 0);
        self.change_content(Op::Fallocate, ino, duties, reply, call, empty);
    }

    fn lseek(&self, ino: Ino, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        // The kernel does not send what it gathers before it asks, so what is written would be called a hole. Without an
        // answer it calls everything data, which is never wrong.
        if self.core.options.writeback_cache {
            return reply.error(Errno::ENOSYS);
        }
        let hole = match whence {
            libc::SEEK_DATA => false,
            libc::SEEK_HOLE => true,
            _ => return reply.error(Errno::EINVAL),
        };
        let Ok(offset) = u64::try_from(offset) else { return reply.error(Errno::ENXIO) };
        let call = move |fs: &FileSystem, tier| fs.seek(tier, ino, offset, hole);
        self.ask_in(
            self.core.states.of(ino),
            Op::Lseek,
            reply,
            call,
            |reply: ReplyLseek, result: Result<u64, Errno>| match result {
                Ok(offset) => reply.offset(offset as i64),
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn copy_file_range(
        &self,
        request: &Request,
        (source, _, from): (Ino, FileHandle, u64),
        (target, handle, to): (Ino, FileHandle, u64),
        length: u64,
        reply: ReplyWrite,
    ) {
        let caller = caller(request);
        let call = move |fs: &FileSystem, tier| {
            let copied = fs.copy_range(tier, caller, (source, from), (target, to), length)?;
            let mover = Some(Mover { thread: caller.pid, ino: target });
            Ok(Outcome { bytes: copied.data_bytes, mover, ..Outcome::of(copied.length) })
        };
        let answer = |reply: ReplyWrite, result: Result<u64, Errno>| match result {
            Ok(copied) => reply.written(copied as u32),
            Err(errno) => reply.error(errno),
        };
        let duties = (handle == SYNCED, caller.uid != 0);
        self.change_content(Op::CopyFileRange, target, duties, reply, call, answer);
    }

    fn fsync(&self, ino: Ino, _: FileHandle, data_only: bool, reply: ReplyEmpty) {
        self.sync(Op::Fsync, ino, data_only, reply);
    }
}

impl StoredFiles {
    /// Answers when what was done to the inode is durable.
    pub(super) fn sync(&self, op: Op, ino: Ino, data_only: bool, reply: ReplyEmpty) {
        let call = move |fs: &FileSystem, tier, _: &mut ReplyEmpty| {
            let moment = fs.moment_of(tier, ino, data_only)?;
            Ok(Outcome { durable_at: Some(moment), ..Outcome::of(()) })
        };
        self.serve(op, reply, call, empty);
    }
}

/// The handle of a file that was opened with `flags`: requests that tell only the handle tell so whether they must be durable.
fn handle(flags: i32) -> FileHandle {
    if is_synced(flags) { SYNCED } else { PLAIN }
}

/// Whether a file is opened so that what is written is durable at once. `O_SYNC` contains `O_DSYNC`.
fn is_synced(flags: i32) -> bool {
    flags & libc::O_DSYNC != 0
}

fn writes(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}
