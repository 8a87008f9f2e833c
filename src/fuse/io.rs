//! Requests about the content of files: opened, read, written, made durable.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Instant;

use bytes::Bytes;
use fuser::{
    Errno, FileHandle, FopenFlags, INodeNo, OpenFlags, ReplyCreate, ReplyData, ReplyEmpty, ReplyLseek,
    ReplyOpen, ReplyWrite, Request, WriteFlags,
};

use super::dispatch::{Mover, Outcome};
use super::reply::empty;
use super::{Adapter, GENERATION, caller, convert, is_virtual};
use crate::fs::meter::Op;
use crate::fs::types::{Attributes, NewNode};
use crate::fs::{self, FileSystem};

/// The handle of an open file, which needs none: the kernel names the inode with every request.
const PLAIN: FileHandle = FileHandle(0);
/// The handle of a file that was opened with `O_SYNC` or `O_DSYNC`.
const SYNCED: FileHandle = FileHandle(1);

impl Adapter {
    /// Opens a file; of a virtual one, pins its text.
    pub(super) fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if is_virtual(ino) {
            return match self.core.tree.open(ino.0, caller(request)) {
                Ok(handle) => {
                    let flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_NOFLUSH;
                    reply.opened(FileHandle(handle), flags);
                }
                Err(error) => reply.error(convert::errno(&error)),
            };
        }
        let open_flags = self.core.open_flags();
        let call = move |fs: &FileSystem, tier| fs.open_file(tier, ino.0);
        let (core, thread) = (self.core.clone(), request.pid());
        self.ask(Op::Open, reply, call, move |reply: ReplyOpen, result| match result {
            Ok(()) => {
                if writes(flags.0) {
                    core.fs.meter().attribution().opened(ino.0, thread);
                }
                reply.opened(handle(flags.0), open_flags);
            }
            Err(errno) => reply.error(errno),
        });
    }

    /// Makes a file and opens it.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        if is_virtual(parent) {
            return reply.error(Errno::EPERM);
        }
        let (caller, name) = (caller(request), name.as_bytes().to_vec());
        let (ttl, open_flags) = (self.core.options.timeout, self.core.open_flags());
        // The new file, while opening it must wait.
        let mut made: Option<Attributes> = None;
        let call = move |fs: &FileSystem, tier| {
            let attributes = match made {
                Some(attributes) => attributes,
                None => {
                    let mode = mode & 0o7777;
                    fs.make(tier, Op::Create, caller, parent.0, &name, mode, umask, NewNode::File)?
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
                    core.fs.meter().attribution().opened(new.ino, caller.pid);
                }
                let handle = handle(flags);
                reply.created(&ttl, &convert::attributes(&new), GENERATION, handle, open_flags);
            }
            Err(errno) => reply.error(errno),
        });
    }

    /// Reads.
    pub(super) fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        reply: ReplyData,
    ) {
        let answer = |reply: ReplyData, result: Result<Vec<u8>, Errno>| match result {
            Ok(bytes) => reply.data(&bytes),
            Err(errno) => reply.error(errno),
        };
        if is_virtual(ino) {
            let result = self.core.tree.read(handle.0, offset, size);
            return answer(reply, result.map_err(|error| convert::errno(&error)));
        }
        let mover = Some(Mover { thread: request.pid(), ino: ino.0 });
        let call = move |fs: &FileSystem, tier, _: &mut ReplyData| {
            let bytes = fs.read(tier, ino.0, offset, size)?;
            Ok(Outcome { bytes: bytes.len() as u64, mover, ..Outcome::of(bytes) })
        };
        self.serve(Op::Read, reply, call, answer);
    }

    /// Writes, or gives a command.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn write(
        &self,
        request: &Request,
        ino: INodeNo,
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
        if is_virtual(ino) {
            let done = move |result: fs::Result<()>| match result {
                Ok(()) => reply.written(size),
                Err(error) => reply.error(convert::errno(&error)),
            };
            return self.core.tree.write(ino.0, caller, &data, Box::new(done));
        }
        let clear_suid = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        // A write from the page cache is followed by an fsync where it matters.
        let cached = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let durable = is_synced(flags.0) && !cached;
        // What the kernel writes from its cache it writes for nobody.
        let thread = if cached { 0 } else { caller.pid };
        let thread = if thread == 0 { self.core.fs.meter().attribution().writer(ino.0) } else { thread };
        let mover = Some(Mover { thread, ino: ino.0 });
        let call = move |fs: &FileSystem, tier| {
            fs.write(tier, caller, ino.0, offset, &data, clear_suid)?;
            Ok(Outcome { bytes: u64::from(size), mover, ..Outcome::of(()) })
        };
        let answer = move |reply: ReplyWrite, result: Result<(), Errno>| match result {
            Ok(()) => reply.written(size),
            Err(errno) => reply.error(errno),
        };
        self.change_content(Op::Write, ino, (durable, clear_suid), reply, call, answer);
    }

    /// Closes a file.
    pub(super) fn release(&self, ino: INodeNo, handle: FileHandle, flags: OpenFlags, reply: ReplyEmpty) {
        if is_virtual(ino) {
            self.core.tree.release(handle.0);
        } else {
            let begun = Instant::now();
            if writes(flags.0) {
                self.core.fs.meter().attribution().closed(ino.0);
            }
            self.core.fs.release_file(ino.0);
            self.core.record(Op::Release, begun, 0, false);
        }
        reply.ok();
    }

    /// Makes a file durable.
    pub(super) fn fsync(&self, ino: INodeNo, data_only: bool, reply: ReplyEmpty) {
        self.sync(Op::Fsync, ino, data_only, reply);
    }

    /// Takes or gives back space of a file.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if is_virtual(ino) {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let caller = caller(request);
        let call = move |fs: &FileSystem, tier| {
            fs.allocate(tier, caller, ino.0, (offset, length), mode).map(Outcome::of)
        };
        let duties = (handle == SYNCED, caller.uid != 0);
        self.change_content(Op::Fallocate, ino, duties, reply, call, empty);
    }

    /// Finds data or a hole.
    pub(super) fn lseek(&self, ino: INodeNo, offset: i64, whence: i32, reply: ReplyLseek) {
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
        if is_virtual(ino) {
            return reply.error(Errno::EINVAL);
        }
        let call = move |fs: &FileSystem, tier| fs.seek(tier, ino.0, offset, hole);
        self.ask(Op::Lseek, reply, call, |reply: ReplyLseek, result: Result<u64, Errno>| match result {
            Ok(offset) => reply.offset(offset as i64),
            Err(errno) => reply.error(errno),
        });
    }

    /// Copies inside the filesystem.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn copy_file_range(
        &self,
        request: &Request,
        source: INodeNo,
        from: u64,
        target: INodeNo,
        handle: FileHandle,
        to: u64,
        length: u64,
        reply: ReplyWrite,
    ) {
        if is_virtual(source) || is_virtual(target) {
            // The kernel then copies through read and write.
            return reply.error(Errno::EOPNOTSUPP);
        }
        let caller = caller(request);
        let call = move |fs: &FileSystem, tier| {
            let copied = fs.copy_range(tier, caller, (source.0, from), (target.0, to), length)?;
            let mover = Some(Mover { thread: caller.pid, ino: target.0 });
            Ok(Outcome { bytes: copied.data_bytes, mover, ..Outcome::of(copied.length) })
        };
        let answer = |reply: ReplyWrite, result: Result<u64, Errno>| match result {
            Ok(copied) => reply.written(copied as u32),
            Err(errno) => reply.error(errno),
        };
        let duties = (handle == SYNCED, caller.uid != 0);
        self.change_content(Op::CopyFileRange, target, duties, reply, call, answer);
    }

    pub(super) fn sync(&self, op: Op, ino: INodeNo, data_only: bool, reply: ReplyEmpty) {
        if is_virtual(ino) {
            return reply.ok();
        }
        let call = move |fs: &FileSystem, tier, _: &mut ReplyEmpty| {
            let moment = fs.moment_of(tier, ino.0, data_only)?;
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
