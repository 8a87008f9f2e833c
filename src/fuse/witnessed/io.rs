//! Requests about the content of files: opened, read, written, made durable.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::time::Instant;

use fuser::{
    FileHandle, FopenFlags, OpenFlags, ReplyCreate, ReplyData, ReplyEmpty, ReplyLseek, ReplyOpen, ReplyWrite,
    Request, WriteFlags,
};

use super::{Witnessed, attributes, caller, errno};
use crate::fs::types::Ino;
use crate::fuse::GENERATION;
use crate::fuse::behind::Content;
use crate::fuse::reply::empty;
use crate::witness::{Bytes, OpenFile};

thread_local! {
    /// Memory for the content that a dispatch thread reads: as large as the largest request it has seen.
    static CONTENT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What the kernel is told of an open file; `is_known` is whether what it keeps of the content is still true.
fn open_flags(is_known: bool) -> FopenFlags {
    let keeps = if is_known { FopenFlags::FOPEN_KEEP_CACHE } else { FopenFlags::empty() };
    // Nothing is to be done when a file is closed: errors are told by write and sync.
    keeps | FopenFlags::FOPEN_NOFLUSH
}

impl Content for Witnessed {
    fn open(&self, _: &Request, ino: Ino, flags: OpenFlags, reply: ReplyOpen) {
        let _under_way = self.core.under_way.begin();
        let directory = &self.core.directory;
        match directory.inode(ino.0).and_then(|inode| directory.open_file(&inode, flags.0)) {
            Ok((file, is_known)) => reply.opened(self.core.files.add(file), open_flags(is_known)),
            Err(error) => reply.error(errno(error)),
        }
    }

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
        let _under_way = self.core.under_way.begin();
        let directory = &self.core.directory;
        let made = directory
            .inode(parent.0)
            .and_then(|parent| directory.create(caller(request, umask), &parent, name, mode, flags));
        self.bound_descriptors();
        match made {
            Ok((inode, stat, file)) => {
                let (attributes, handle) = (attributes(inode.number(), &stat), self.core.files.add(file));
                reply.created(&self.core.timeout, &attributes, GENERATION, handle, open_flags(false));
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn read(&self, _: &Request, _: Ino, handle: FileHandle, offset: u64, size: u32, reply: ReplyData) {
        let under_way = self.core.under_way.begin();
        let file = match self.core.files.get(handle) {
            Ok(file) => file,
            Err(error) => return reply.error(error),
        };
        let directory = &self.core.directory;
        let mut reply = Some(reply);
        if !file.is_direct() {
            CONTENT.with_borrow_mut(|content| {
                if content.len() < size as usize {
                    content.resize(size as usize, 0);
                }
                let content = &mut content[..size as usize];
                if let Some(count) = file.read_cached(directory, offset, content)
                    && let Some(reply) = reply.take()
                {
                    reply.data(&content[..count]);
                }
            });
        }
        if let Some(reply) = reply {
            self.wait_for(move |core| match file.read(&core.directory, offset, size as usize) {
                Ok(content) => reply.data(content.as_ref()),
                Err(error) => reply.error(errno(error)),
            });
        }
        drop(under_way);
    }

    fn write(
        &self,
        _: &Request,
        _: Ino,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _: OpenFlags,
        reply: ReplyWrite,
    ) {
        let _under_way = self.core.under_way.begin();
        let file = match self.core.files.get(handle) {
            Ok(file) => file,
            Err(error) => return reply.error(error),
        };
        let clears = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let mapped = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let write = move |core: &super::Core, file: &OpenFile, data: &[u8], reply: ReplyWrite| match file
            .write(&core.directory, offset, data, mapped, clears)
        {
            Ok(count) => {
                if clears {
                    core.cleared_set_id(file.inode());
                }
                reply.written(count as u32);
            }
            Err(error) => reply.error(errno(error)),
        };
        if file.is_direct() || file.is_synced() {
            // The kernel's memory is lent for this call only, and not aligned.
            let data = Bytes::copied(data);
            self.wait_for(move |core| {
                let begun = Instant::now();
                write(core, &file, data.as_ref(), reply);
                if file.is_synced() && !mapped {
                    file.has_synced(&core.directory, begun.elapsed());
                }
            });
        } else {
            write(&self.core, &file, data, reply);
        }
    }

    fn release(&self, _: Ino, handle: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        let _under_way = self.core.under_way.begin();
        self.core.files.remove(handle);
        reply.ok();
    }

    fn fsync(&self, _: Ino, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        let file = match self.core.files.get(handle) {
            Ok(file) => file,
            Err(error) => return reply.error(error),
        };
        self.wait_for(move |core| {
            let begun = Instant::now();
            let synced = file.sync(data_only);
            match synced {
                Ok(()) => file.has_synced(&core.directory, begun.elapsed()),
                Err(_) => core.directory.meter().failed(file.inode().class()),
            }
            empty(reply, synced.map_err(errno));
        });
    }

    fn fallocate(
        &self,
        request: &Request,
        _: Ino,
        handle: FileHandle,
        (offset, length): (u64, u64),
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let file = match self.core.files.get(handle) {
            Ok(file) => file,
            Err(error) => return reply.error(error),
        };
        let clears = request.uid() != 0;
        self.wait_for(move |core| {
            let done = file.allocate(&core.directory, offset, length, mode, clears);
            if clears && done.is_ok() {
                core.cleared_set_id(file.inode());
            }
            empty(reply, done.map_err(errno));
        });
    }

    fn lseek(&self, _: Ino, handle: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let _under_way = self.core.under_way.begin();
        match self.core.files.get(handle).and_then(|file| file.seek(offset, whence).map_err(errno)) {
            Ok(offset) => reply.offset(offset.cast_signed()),
            Err(error) => reply.error(error),
        }
    }

    fn copy_file_range(
        &self,
        request: &Request,
        (_, source, from): (Ino, FileHandle, u64),
        (_, target, to): (Ino, FileHandle, u64),
        length: u64,
        reply: ReplyWrite,
    ) {
        let files = self.core.files.get(source).and_then(|source| Ok((source, self.core.files.get(target)?)));
        let (source, target) = match files {
            Ok(files) => files,
            Err(error) => return reply.error(error),
        };
        let clears = request.uid() != 0;
        // More than the answer can say is asked for again.
        let length = length.min(1 << 30);
        self.wait_for(move |core| {
            match source.copy_to(&core.directory, from, (&target, to), length, clears) {
                Ok(copied) => {
                    if clears {
                        core.cleared_set_id(target.inode());
                    }
                    reply.written(copied as u32);
                }
                Err(error) => reply.error(errno(error)),
            }
        });
    }
}
