//! The fuse room: speaks the kernel's protocol. The only room that knows `fuser`.
//!
//! [`Adapter`] turns each request into one call of the filesystem and its result into the reply: decode, one call,
//! reply. How a request is served:
//!
//! 1. Names under `/.stats` belong to the virtual tree and are answered on the spot; a command written there is answered
//!    when it has ended, from the thread that ended it.
//! 2. Everything else is tried with [`Tier::Memory`] on the dispatch thread. Most requests end here.
//! 3. What needs the disk, or is refused by a limit, moves with its reply to the waiting lots of [`park`].
//! 4. What must be durable before it is answered (fsync, O_SYNC, `sync=always`, `dirsync`) is answered from the log's
//!    completion.
//!
//! # Invariants
//! 1. No dispatch thread sleeps: not for the disk, not for a limit, not for a sync.
//! 2. Every request but forget is answered once; it is recorded at door 1 just before its answer, so a program that
//!    has its answer finds it counted.
//! 3. ENOSYS is answered only where it tells the kernel for good to do without us: flush (errors are reported by
//!    write and fsync), access (it checks permissions itself), lseek under its writeback cache (it calls all of a file
//!    data), locks (one kernel, so its own locks suffice), poll and bmap.

mod convert;
mod park;
pub mod session;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::mpsc::Sender;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, Notifier, OpenFlags, PollEvents, PollFlags,
    PollNotifier, RenameFlags, ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll,
    ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::engine::{self, Position, Tier};
use crate::fs::attribution::Tally;
use crate::fs::meter::Op;
use crate::fs::types::{Attributes, Caller, FIRST_VIRTUAL, FileKind, Ino, NewNode, ROOT, SetAttributes};
use crate::fs::virtual_file::VirtualTree;
use crate::fs::{self, FileSystem};
use park::{Parking, Turn};

pub use session::Options;

/// Inode numbers are never used twice, so every inode is its own first generation.
const GENERATION: Generation = Generation(0);
/// Largest request; the kernel allows no more.
const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// Requests that the kernel may have outstanding on its own behalf: readahead and writeback.
const BACKGROUND_MAX: u16 = 64;

/// Who moved content of which file.
#[derive(Clone, Copy)]
struct Mover {
    thread: u32,
    ino: Ino,
}

/// What a call gives: its value, the bytes of file content that it moved and for whom, and, if the answer must wait for
/// durability, up to where.
struct Outcome<T> {
    value: T,
    bytes: u64,
    mover: Option<Mover>,
    durable_at: Option<Position>,
}

impl<T> Outcome<T> {
    fn of(value: T) -> Outcome<T> {
        Outcome { value, bytes: 0, mover: None, durable_at: None }
    }
}

/// What all requests share.
struct Core {
    fs: Arc<FileSystem>,
    tree: Arc<VirtualTree>,
    options: Options,
    /// Every change is durable before it is answered.
    sync_always: bool,
    /// Every change of a directory is.
    sync_names: bool,
    /// Set once the kernel answers.
    notifier: OnceLock<Notifier>,
}

impl Core {
    /// Tells the kernel that the mode it remembers is no longer true. With HANDLE_KILLPRIV_V2 it leaves clearing set-id
    /// bits to us, but goes on showing them. Waits for nothing, so it may run before the answer is sent.
    fn mode_changed(&self, ino: INodeNo) {
        if let Some(notifier) = self.notifier.get()
            && let Err(error) = notifier.inval_inode(ino, -1, 0)
        {
            log::debug!("the kernel has no inode {ino}: {error}");
        }
    }

    fn record(&self, op: Op, begun: Instant, bytes: u64, failed: bool) {
        self.fs.meter().record(op, begun.elapsed(), bytes, failed);
    }

    /// Charges what a call moved.
    fn charge(&self, op: Op, bytes: u64, mover: Option<Mover>) {
        if let Some(Mover { thread, ino }) = mover {
            let tally = if op == Op::Read { Tally::read(bytes) } else { Tally::written(bytes) };
            self.fs.meter().attribution().charge(thread, &self.fs.top_name(ino), tally);
        }
    }

    fn open_flags(&self) -> FopenFlags {
        let mut flags = FopenFlags::FOPEN_KEEP_CACHE;
        if self.options.direct_io {
            flags = FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES;
        }
        if !self.options.writeback_cache {
            flags |= FopenFlags::FOPEN_NOFLUSH;
        }
        flags
    }
}

/// The filesystem as the kernel sees it.
pub struct Adapter {
    core: Arc<Core>,
    /// Dropped before `_end`, so that no request is under way any more when the end is told.
    parking: Parking,
    _end: End,
}

/// Tells, when it is dropped, that the kernel has gone.
struct End(Sender<session::Event>);

impl Drop for End {
    fn drop(&mut self) {
        // Nobody listens any more if the process is already on its way out.
        let _ = self.0.send(session::Event::Ended);
    }
}

impl Adapter {
    /// Serves `fs` and, under `/.stats`, `tree`. `sync_always` and `sync_names` make changes, or changes of directories,
    /// durable before they are answered. `ended` is told when the session is over.
    pub fn new(
        fs: Arc<FileSystem>,
        tree: Arc<VirtualTree>,
        options: Options,
        sync_always: bool,
        sync_names: bool,
        ended: Sender<session::Event>,
    ) -> std::io::Result<Adapter> {
        let parking = Parking::start(fs.engine().bell().clone())?;
        let core = Core { fs, tree, options, sync_always, sync_names, notifier: OnceLock::new() };
        Ok(Adapter { core: Arc::new(core), parking, _end: End(ended) })
    }

    /// Serves one request: `call` is tried now and, if it must wait, again elsewhere; `answer` ends it.
    fn serve<R, T>(
        &self,
        op: Op,
        reply: R,
        call: impl FnMut(&FileSystem, Tier, &mut R) -> fs::Result<Outcome<T>> + Send + 'static,
        answer: impl FnOnce(R, Result<T, Errno>) + Send + 'static,
    ) where
        R: Send + 'static,
        T: Send + 'static,
    {
        let turn = attempt(self.core.clone(), op, Instant::now(), reply, call, answer, Tier::Memory);
        self.parking.park(turn);
    }

    /// Serves a request that moves no bytes of file content and changes nothing.
    fn ask<R, T>(
        &self,
        op: Op,
        reply: R,
        mut call: impl FnMut(&FileSystem, Tier) -> fs::Result<T> + Send + 'static,
        answer: impl FnOnce(R, Result<T, Errno>) + Send + 'static,
    ) where
        R: Send + 'static,
        T: Send + 'static,
    {
        self.serve(op, reply, move |fs, tier, _| call(fs, tier).map(Outcome::of), answer);
    }

    /// Serves a request that changes names.
    fn change_name<R, T>(
        &self,
        op: Op,
        reply: R,
        mut call: impl FnMut(&FileSystem, Tier) -> fs::Result<T> + Send + 'static,
        answer: impl FnOnce(R, Result<T, Errno>) + Send + 'static,
    ) where
        R: Send + 'static,
        T: Send + 'static,
    {
        let durable = self.core.sync_always || self.core.sync_names;
        let call = move |fs: &FileSystem, tier, _: &mut R| {
            let value = call(fs, tier)?;
            Ok(Outcome { durable_at: durable.then(|| fs.engine().position()), ..Outcome::of(value) })
        };
        self.serve(op, reply, call, answer);
    }

    /// Serves a request that changes the inode `ino` and moves `bytes` of file content for `mover`.
    #[allow(clippy::too_many_arguments)]
    fn change_inode<R, T>(
        &self,
        op: Op,
        ino: Ino,
        (bytes, mover): (u64, Option<Mover>),
        durable: bool,
        reply: R,
        mut call: impl FnMut(&FileSystem, Tier) -> fs::Result<T> + Send + 'static,
        answer: impl FnOnce(R, Result<T, Errno>) + Send + 'static,
    ) where
        R: Send + 'static,
        T: Send + 'static,
    {
        let durable = durable || self.core.sync_always;
        // What the change gave, while the question up to where to sync must wait.
        let mut changed = None;
        let call = move |fs: &FileSystem, tier, _: &mut R| {
            let value = match changed.take() {
                Some(value) => value,
                None => call(fs, tier)?,
            };
            if !durable {
                return Ok(Outcome { value, bytes, mover, durable_at: None });
            }
            match fs.durable_position(tier, ino, false) {
                Ok(position) => Ok(Outcome { value, bytes, mover, durable_at: Some(position) }),
                Err(error) => {
                    changed = Some(value);
                    Err(error)
                }
            }
        };
        self.serve(op, reply, call, answer);
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

    /// Makes a node and answers with its entry.
    #[allow(clippy::too_many_arguments)]
    fn make(
        &self,
        op: Op,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        node: Node,
        reply: ReplyEntry,
    ) {
        if is_virtual(parent) {
            return reply.error(Errno::EPERM);
        }
        let (caller, name) = (caller(request), name.as_bytes().to_vec());
        let call = move |fs: &FileSystem, tier| {
            let node = match &node {
                Node::Directory => NewNode::Directory,
                Node::File => NewNode::File,
                Node::Symlink(target) => NewNode::Symlink(target),
                Node::Special(kind, rdev) => NewNode::Special { kind: *kind, rdev: *rdev },
            };
            fs.make(tier, op, caller, parent.0, &name, mode & 0o7777, umask, node)
        };
        self.change_name(op, reply, call, self.entry());
    }

    fn remove(
        &self,
        op: Op,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEmpty,
        remove: fn(&FileSystem, Tier, Ino, &[u8]) -> fs::Result<()>,
    ) {
        if is_virtual(parent) {
            return reply.error(Errno::EPERM);
        }
        let name = name.as_bytes().to_vec();
        self.change_name(op, reply, move |fs, tier| remove(fs, tier, parent.0, &name), empty);
    }

    fn sync(&self, op: Op, ino: INodeNo, data_only: bool, reply: ReplyEmpty) {
        if is_virtual(ino) {
            return reply.ok();
        }
        let call = move |fs: &FileSystem, tier, _: &mut ReplyEmpty| {
            let position = fs.durable_position(tier, ino.0, data_only)?;
            Ok(Outcome { durable_at: Some(position), ..Outcome::of(()) })
        };
        self.serve(op, reply, call, empty);
    }
}

/// What to make, with its own copy of the target.
enum Node {
    File,
    Directory,
    Symlink(Vec<u8>),
    Special(FileKind, u32),
}

/// One try of a request.
fn attempt<R, T, C, A>(
    core: Arc<Core>,
    op: Op,
    begun: Instant,
    mut reply: R,
    mut call: C,
    answer: A,
    tier: Tier,
) -> Turn
where
    R: Send + 'static,
    T: Send + 'static,
    C: FnMut(&FileSystem, Tier, &mut R) -> fs::Result<Outcome<T>> + Send + 'static,
    A: FnOnce(R, Result<T, Errno>) + Send + 'static,
{
    match call(&core.fs, tier, &mut reply) {
        Ok(Outcome { value, bytes, mover, durable_at: None }) => {
            core.record(op, begun, bytes, false);
            core.charge(op, bytes, mover);
            answer(reply, Ok(value));
            Turn::Answered
        }
        Ok(Outcome { value, bytes, mover, durable_at: Some(position) }) => {
            let engine = core.fs.engine().clone();
            let done = move |result: engine::Result<()>| {
                core.record(op, begun, bytes, result.is_err());
                core.charge(op, bytes, mover);
                answer(reply, result.map(|()| value).map_err(|error| convert::errno(&error.into())));
            };
            engine.sync_to(position, Box::new(done));
            Turn::Answered
        }
        Err(fs::Error::Engine(engine::Error::WouldBlock)) if tier == Tier::Memory => {
            Turn::Disk(Box::new(move |tier| attempt(core, op, begun, reply, call, answer, tier)))
        }
        Err(fs::Error::Engine(engine::Error::Busy { retry_after, .. })) => {
            Turn::Room(Box::new(move |tier| attempt(core, op, begun, reply, call, answer, tier)), retry_after)
        }
        Err(error) => {
            core.record(op, begun, 0, true);
            answer(reply, Err(convert::errno(&error)));
            Turn::Answered
        }
    }
}

fn empty(reply: ReplyEmpty, result: Result<(), Errno>) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

/// Answers a question for an extended attribute or the list of their names: the size where `size_max` is 0, else the bytes,
/// if they fit.
fn sized(size_max: u32) -> impl FnOnce(ReplyXattr, Result<Vec<u8>, Errno>) + Send + 'static {
    move |reply, result| match result {
        Ok(bytes) if size_max == 0 => reply.size(bytes.len() as u32),
        Ok(bytes) if bytes.len() > size_max as usize => reply.error(Errno::ERANGE),
        Ok(bytes) => reply.data(&bytes),
        Err(errno) => reply.error(errno),
    }
}

fn caller(request: &Request) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() }
}

/// Whether a file has set-user-id or set-group-id bits.
fn has_set_id(fs: &FileSystem, tier: Tier, ino: INodeNo) -> fs::Result<bool> {
    Ok(fs.getattr(tier, ino.0)?.permissions & 0o6000 != 0)
}

fn writes(flags: i32) -> bool {
    flags & libc::O_ACCMODE != libc::O_RDONLY
}

fn is_virtual(ino: INodeNo) -> bool {
    ino.0 >= FIRST_VIRTUAL
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let options = &self.core.options;
        // Not ATOMIC_O_TRUNC: a program that runs would be emptied before the kernel refuses with ETXTBSY.
        let mut wanted = vec![
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            // The kernel checks lists; that they are inherited, instead of the umask, is ours.
            InitFlags::FUSE_POSIX_ACL,
            InitFlags::FUSE_DONT_MASK,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_CACHE_SYMLINKS,
        ];
        if options.writeback_cache {
            wanted.push(InitFlags::FUSE_WRITEBACK_CACHE);
        }
        if options.direct_io {
            wanted.push(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP);
        }
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                log::info!("this kernel has no {flag:?}");
            }
        }
        // The error is the nearest value that the kernel allows.
        let _ = config.set_max_write(REQUEST_BYTES_MAX).map_err(|nearest| config.set_max_write(nearest));
        let _ =
            config.set_max_readahead(REQUEST_BYTES_MAX).map_err(|nearest| config.set_max_readahead(nearest));
        let _ = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent.0 == ROOT || is_virtual(parent) {
            match self.core.tree.lookup(parent.0, name.as_bytes()) {
                Some(found) => {
                    return reply.entry(&Duration::ZERO, &convert::attributes(&found), GENERATION);
                }
                None if is_virtual(parent) => return reply.error(Errno::ENOENT),
                None => {}
            }
        }
        let ttl = self.core.options.timeout;
        let name = name.as_bytes().to_vec();
        let answer = move |reply: ReplyEntry, result: Result<Attributes, Errno>| match result {
            Ok(found) => reply.entry(&ttl, &convert::attributes(&found), GENERATION),
            // We are the only writer, so the kernel may remember also that a name is not there.
            Err(errno) if errno.code() == libc::ENOENT && !ttl.is_zero() => {
                reply.entry(&ttl, &convert::absent(), GENERATION);
            }
            Err(errno) => reply.error(errno),
        };
        self.ask(Op::Lookup, reply, move |fs, tier| fs.lookup(tier, parent.0, &name), answer);
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        if !is_virtual(ino) {
            let begun = Instant::now();
            self.core.fs.forget(ino.0, lookups);
            self.core.record(Op::Forget, begun, 0, false);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        if is_virtual(ino) {
            return match self.core.tree.getattr(ino.0) {
                Ok(found) => reply.attr(&Duration::ZERO, &convert::attributes(&found)),
                Err(error) => reply.error(convert::errno(&error)),
            };
        }
        self.ask(Op::Getattr, reply, move |fs, tier| fs.getattr(tier, ino.0), self.attributes());
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        if is_virtual(ino) {
            // `echo flush > .stats` cuts the file first: accepted, and without effect. Nothing else may change.
            if mode.is_some() || uid.is_some() || gid.is_some() {
                return reply.error(Errno::EPERM);
            }
            return self.getattr(request, ino, handle, reply);
        }
        let changes = SetAttributes {
            permissions: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
            ctime: ctime.map(convert::time),
        };
        let op = if size.is_some() { Op::Truncate } else { Op::Setattr };
        let caller = caller(request);
        let call = move |fs: &FileSystem, tier| fs.setattr(tier, caller, ino.0, &changes);
        self.change_inode(op, ino.0, (0, None), false, reply, call, self.attributes());
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        if is_virtual(ino) {
            return reply.error(Errno::EINVAL);
        }
        let call = move |fs: &FileSystem, tier| fs.readlink(tier, ino.0);
        self.ask(Op::Readlink, reply, call, |reply, result| match result {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(errno),
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let node = match FileKind::from_mode(mode) {
            Some(FileKind::File) => Node::File,
            Some(kind @ (FileKind::Fifo | FileKind::Socket)) => Node::Special(kind, 0),
            Some(kind @ (FileKind::CharDevice | FileKind::BlockDevice)) => Node::Special(kind, rdev),
            Some(FileKind::Directory | FileKind::Symlink) | None => return reply.error(Errno::EINVAL),
        };
        self.make(Op::Mknod, request, parent, name, mode, umask, node, reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        self.make(Op::Mkdir, request, parent, name, mode, umask, Node::Directory, reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let node = Node::Symlink(target.as_os_str().as_bytes().to_vec());
        self.make(Op::Symlink, request, parent, name, 0o777, 0, node, reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(Op::Unlink, parent, name, reply, |fs, tier, parent, name| fs.unlink(tier, parent, name));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.remove(Op::Rmdir, parent, name, reply, |fs, tier, parent, name| fs.rmdir(tier, parent, name));
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if is_virtual(parent) || is_virtual(new_parent) {
            return reply.error(Errno::EPERM);
        }
        let Some(mode) = convert::rename_mode(flags) else { return reply.error(Errno::EINVAL) };
        let (name, new_name) = (name.as_bytes().to_vec(), new_name.as_bytes().to_vec());
        let call =
            move |fs: &FileSystem, tier| fs.rename(tier, parent.0, &name, new_parent.0, &new_name, mode);
        self.change_name(Op::Rename, reply, call, empty);
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if is_virtual(ino) || is_virtual(parent) {
            return reply.error(Errno::EPERM);
        }
        let name = name.as_bytes().to_vec();
        let call = move |fs: &FileSystem, tier| fs.link(tier, ino.0, parent.0, &name);
        self.change_name(Op::Link, reply, call, self.entry());
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        if is_virtual(ino) {
            return match self.core.tree.open(ino.0) {
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
                reply.opened(FileHandle(0), open_flags);
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn create(
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
                reply.created(&ttl, &convert::attributes(&new), GENERATION, FileHandle(0), open_flags);
            }
            Err(errno) => reply.error(errno),
        });
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
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

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _: Option<LockOwner>,
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
        // O_SYNC contains O_DSYNC. A write from the page cache is followed by an fsync where it matters.
        let cached = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
        let durable = flags.0 & libc::O_DSYNC != 0 && !cached;
        // What the kernel writes from its cache it writes for nobody.
        let thread = if cached { 0 } else { caller.pid };
        let thread = if thread == 0 { self.core.fs.meter().attribution().writer(ino.0) } else { thread };
        let content = (u64::from(size), Some(Mover { thread, ino: ino.0 }));
        let core = self.core.clone();
        let call = move |fs: &FileSystem, tier| {
            let set_id = clear_suid && has_set_id(fs, tier, ino)?;
            fs.write(tier, caller, ino.0, offset, &data, clear_suid).map(|()| set_id)
        };
        let answer = move |reply: ReplyWrite, result: Result<bool, Errno>| match result {
            Ok(set_id) => {
                if set_id {
                    core.mode_changed(ino);
                }
                reply.written(size);
            }
            Err(errno) => reply.error(errno),
        };
        self.change_inode(Op::Write, ino.0, content, durable, reply, call, answer);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        handle: FileHandle,
        flags: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
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

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, data_only: bool, reply: ReplyEmpty) {
        self.sync(Op::Fsync, ino, data_only, reply);
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let flags = if is_virtual(ino) {
            FopenFlags::empty()
        } else {
            FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE
        };
        self.core.record(Op::Opendir, Instant::now(), 0, false);
        reply.opened(FileHandle(0), flags);
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, cookie: u64, mut reply: ReplyDirectory) {
        if is_virtual(ino) {
            let result = self.core.tree.readdir(ino.0, cookie, &mut |entry| {
                let name = OsStr::from_bytes(&entry.name);
                !reply.add(INodeNo(entry.ino), entry.cookie, convert::file_type(entry.kind), name)
            });
            return match result {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(convert::errno(&error)),
            };
        }
        let call = move |fs: &FileSystem, tier, reply: &mut ReplyDirectory| {
            let mut added = false;
            let result = fs.readdir(tier, ino.0, cookie, &mut |entry| {
                let name = OsStr::from_bytes(&entry.name);
                let full = reply.add(INodeNo(entry.ino), entry.cookie, convert::file_type(entry.kind), name);
                added |= !full;
                !full
            });
            // Some entries are an answer: the kernel goes on after the last of them.
            if added { Ok(Outcome::of(())) } else { result.map(Outcome::of) }
        };
        self.serve(Op::Readdir, reply, call, |reply, result| match result {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        });
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        cookie: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        if is_virtual(ino) {
            let tree = &self.core.tree;
            let result = tree.readdir(ino.0, cookie, &mut |entry| {
                let name = OsStr::from_bytes(&entry.name);
                // An entry without attributes (`..`, or a file that is just gone) is listed and looked up later.
                let found =
                    tree.getattr(entry.ino).map_or(convert::absent(), |found| convert::attributes(&found));
                !reply.add(found.ino, entry.cookie, name, &Duration::ZERO, &found, GENERATION)
            });
            return match result {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(convert::errno(&error)),
            };
        }
        let ttl = self.core.options.timeout;
        let call = move |fs: &FileSystem, tier, reply: &mut ReplyDirectoryPlus| {
            let mut added = false;
            let result = fs.readdir_plus(tier, ino.0, cookie, &mut |entry, found| {
                let (name, found) = (OsStr::from_bytes(&entry.name), convert::attributes(found));
                let full = reply.add(INodeNo(entry.ino), entry.cookie, name, &ttl, &found, GENERATION);
                added |= !full;
                !full
            });
            if added { Ok(Outcome::of(())) } else { result.map(Outcome::of) }
        };
        self.serve(Op::Readdir, reply, call, |reply, result| match result {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        });
    }

    fn releasedir(&self, _: &Request, _: INodeNo, _: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        self.core.record(Op::Releasedir, Instant::now(), 0, false);
        reply.ok();
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, _: FileHandle, data_only: bool, reply: ReplyEmpty) {
        self.sync(Op::Fsyncdir, ino, data_only, reply);
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.ask(
            Op::Statfs,
            reply,
            |fs, _| fs.statfs(),
            |reply, result| match result {
                Ok(found) => reply.statfs(
                    found.blocks,
                    found.blocks_free,
                    found.blocks_available,
                    found.files,
                    found.files_free,
                    found.block_bytes,
                    crate::fs::types::NAME_BYTES_MAX as u32,
                    found.block_bytes,
                ),
                Err(errno) => reply.error(errno),
            },
        );
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        if is_virtual(ino) {
            return reply.error(Errno::EPERM);
        }
        let Some(mode) = convert::xattr_mode(flags) else { return reply.error(Errno::EINVAL) };
        let (name, value) = (name.as_bytes().to_vec(), value.to_vec());
        let caller = caller(request);
        let call = move |fs: &FileSystem, tier| fs.setxattr_as(tier, caller, ino.0, &name, &value, mode);
        self.change_inode(Op::Setxattr, ino.0, (0, None), false, reply, call, empty);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if is_virtual(ino) {
            return reply.error(Errno::ENODATA);
        }
        let name = name.as_bytes().to_vec();
        let call = move |fs: &FileSystem, tier| fs.getxattr(tier, ino.0, &name).map(|value| value.to_vec());
        self.ask(Op::Getxattr, reply, call, sized(size));
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        if is_virtual(ino) {
            return sized(size)(reply, Ok(Vec::new()));
        }
        self.ask(Op::Listxattr, reply, move |fs, tier| fs.listxattr(tier, ino.0), sized(size));
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        if is_virtual(ino) {
            return reply.error(Errno::EPERM);
        }
        let name = name.as_bytes().to_vec();
        let call = move |fs: &FileSystem, tier| fs.removexattr(tier, ino.0, &name);
        self.change_inode(Op::Removexattr, ino.0, (0, None), false, reply, call, empty);
    }

    fn access(&self, _: &Request, _: INodeNo, _: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn getlk(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        _: u64,
        _: u64,
        _: i32,
        _: u32,
        reply: ReplyLock,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn setlk(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: LockOwner,
        _: u64,
        _: u64,
        _: i32,
        _: u32,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn bmap(&self, _: &Request, _: INodeNo, _: u32, _: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: IoctlFlags,
        _: u32,
        _: &[u8],
        _: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    fn poll(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: PollNotifier,
        _: PollEvents,
        _: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if is_virtual(ino) {
            return reply.error(Errno::EOPNOTSUPP);
        }
        let call = move |fs: &FileSystem, tier| fs.allocate(tier, ino.0, offset, length, mode);
        self.change_inode(Op::Fallocate, ino.0, (0, None), false, reply, call, empty);
    }

    fn lseek(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
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

    fn copy_file_range(
        &self,
        request: &Request,
        source: INodeNo,
        _: FileHandle,
        from: u64,
        target: INodeNo,
        _: FileHandle,
        to: u64,
        length: u64,
        _: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        if is_virtual(source) || is_virtual(target) {
            // The kernel then copies through read and write.
            return reply.error(Errno::EOPNOTSUPP);
        }
        let caller = caller(request);
        let core = self.core.clone();
        let call = move |fs: &FileSystem, tier, _: &mut ReplyWrite| {
            let set_id = caller.uid != 0 && has_set_id(fs, tier, target)?;
            let copied = fs.copy_range(tier, caller, (source.0, from), (target.0, to), length)?;
            let mover = Some(Mover { thread: caller.pid, ino: target.0 });
            Ok(Outcome { bytes: copied.data_bytes, mover, ..Outcome::of((copied.length, set_id)) })
        };
        self.serve(Op::CopyFileRange, reply, call, move |reply: ReplyWrite, result| match result {
            Ok((copied, set_id)) => {
                if set_id {
                    core.mode_changed(target);
                }
                reply.written(copied as u32);
            }
            Err(errno) => reply.error(errno),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::clock::ManualClock;
    use crate::engine::{Cause, MemEngine};
    use std::sync::mpsc::channel;

    fn core() -> Arc<Core> {
        let clock = Arc::new(ManualClock::default());
        let space = || Ok(crate::disk::Space { total_bytes: 1 << 30, free_bytes: 1 << 30 });
        let options = fs::Options::default();
        let fs =
            FileSystem::open(Arc::new(MemEngine::new()), clock.clone(), options, Arc::new(space)).unwrap();
        let tree = Arc::new(VirtualTree::new(Caller::ROOT, clock));
        Arc::new(Core {
            fs,
            tree,
            options: Options::default(),
            sync_always: false,
            sync_names: false,
            notifier: OnceLock::new(),
        })
    }

    /// A request that is refused once, needs the disk once, and counts its tries.
    #[test]
    fn a_request_that_must_wait_is_answered_once_and_recorded_once() {
        let core = core();
        let (reply, answers) = channel();
        let mut refused = false;
        let call = move |_: &FileSystem, tier, _: &mut _| {
            if !refused {
                refused = true;
                let retry_after = Duration::from_millis(3);
                return Err(engine::Error::Busy { cause: Cause::L0Files, retry_after }.into());
            }
            if tier == Tier::Memory {
                return Err(engine::Error::WouldBlock.into());
            }
            let mover = Some(Mover { thread: 7, ino: ROOT });
            Ok(Outcome { bytes: 9, mover, durable_at: Some(0), ..Outcome::of("done") })
        };
        let answer = |reply: std::sync::mpsc::Sender<_>, result| reply.send(result).unwrap();
        let turn = attempt(core.clone(), Op::Write, Instant::now(), reply, call, answer, Tier::Memory);
        let Turn::Room(task, retry_after) = turn else { panic!("a refused request waits for room") };
        assert_eq!(retry_after, Duration::from_millis(3));
        let Turn::Disk(task) = task(Tier::Memory) else { panic!("what is not in memory waits for the disk") };
        assert_eq!(core.fs.meter().of(Op::Write).count, 0);
        assert!(matches!(task(Tier::Disk), Turn::Answered));
        assert_eq!(answers.try_recv().unwrap().unwrap(), "done");
        let counters = core.fs.meter().of(Op::Write);
        assert_eq!((counters.count, counters.bytes, counters.errors), (1, 9, 0));
        assert_eq!(core.fs.meter().attribution().charges().total(), Tally::written(9));
    }

    #[test]
    fn an_engine_that_needs_the_disk_on_the_disk_is_an_error_and_not_a_circle() {
        let core = core();
        let (reply, answers) = channel();
        let call = |_: &FileSystem, _, _: &mut _| -> fs::Result<Outcome<()>> {
            Err(engine::Error::WouldBlock.into())
        };
        let answer = |reply: std::sync::mpsc::Sender<_>, result: Result<(), Errno>| {
            reply.send(result.is_err()).unwrap()
        };
        let turn = attempt(core.clone(), Op::Read, Instant::now(), reply, call, answer, Tier::Disk);
        assert!(matches!(turn, Turn::Answered) && answers.try_recv().unwrap());
        assert_eq!(core.fs.meter().of(Op::Read).errors, 1);
    }
}
