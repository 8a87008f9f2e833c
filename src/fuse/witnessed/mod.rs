//! The requests of a directory that is passed through: each is one call of [`Directory`] or of what it opened, and one reply. What may have to wait
//! for the disk (syncs, reads that are not in memory, direct and synced writes, copies, space) goes to the blocking pool; the rest is answered on the
//! spot.

mod attr;
mod dir;
mod io;
mod names;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fuser::{
    Errno, FileAttr, FileHandle, FileType, INodeNo, InitFlags, Notifier, ReplyAttr, ReplyEntry, Request,
};
use nix::sys::resource::{Resource, getrlimit};
use parking_lot::RwLock;

use super::behind::Behind;
use super::ending::{Connected, UnderWay};
use super::stored::deferred::{Attempted, Deferred};
use super::{GENERATION, convert};
use crate::base::wake::WakeSignal;
use crate::fs::types::{Ino, Time};
use crate::witness::rights::Caller;
use crate::witness::{self, Directory, Found, Inode, OpenDirectory, OpenFile, Stat};

/// Inodes that the kernel may know where nobody says how many descriptors there may be.
const KNOWN_MAX: u64 = 500;

/// What is open, by the number that the kernel is given for it.
struct Handles<T> {
    last: AtomicU64,
    open: RwLock<HashMap<u64, Arc<T>>>,
}

impl<T> Default for Handles<T> {
    fn default() -> Handles<T> {
        Handles { last: AtomicU64::new(0), open: RwLock::default() }
    }
}

impl<T> Handles<T> {
    fn add(&self, open: T) -> FileHandle {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.open.write().insert(number, Arc::new(open));
        FileHandle(number)
    }

    fn get(&self, handle: FileHandle) -> Result<Arc<T>, Errno> {
        self.open.read().get(&handle.0).cloned().ok_or(Errno::EBADF)
    }

    fn remove(&self, handle: FileHandle) {
        let gone = self.open.write().remove(&handle.0);
        // Closed here, without the lock.
        drop(gone);
    }
}

/// State that all requests share.
struct Core {
    directory: Arc<Directory>,
    timeout: Duration,
    threads: usize,
    is_read_only: bool,
    /// Names of the virtual tree in the root, which hide files that have them.
    hidden: Vec<&'static str>,
    files: Handles<OpenFile>,
    directories: Handles<OpenDirectory>,
    notifier: OnceLock<Notifier>,
    under_way: UnderWay,
    /// Inodes from which on the kernel is asked to forget some: each is an open descriptor.
    known_max: u64,
    /// Whether it is being asked.
    is_asking: AtomicBool,
}

/// Serves a directory that is passed through.
pub struct Witnessed {
    core: Arc<Core>,
    deferred: Deferred,
}

impl Witnessed {
    /// Serves `directory`, but for the names that are `hidden` in its root.
    pub(super) fn new(
        directory: Arc<Directory>,
        options: &witness::Options,
        is_read_only: bool,
        hidden: Vec<&'static str>,
    ) -> std::io::Result<Witnessed> {
        // Nothing is ever refused for want of room here, so nobody signals any.
        let deferred = Deferred::start(Arc::new(WakeSignal::new()))?;
        let core = Core {
            directory,
            timeout: options.timeout,
            threads: options.dispatch_threads(),
            is_read_only,
            hidden,
            files: Handles::default(),
            directories: Handles::default(),
            notifier: OnceLock::new(),
            under_way: UnderWay::default(),
            known_max: getrlimit(Resource::RLIMIT_NOFILE).map_or(KNOWN_MAX, |(now, _)| now / 2),
            is_asking: AtomicBool::new(false),
        };
        Ok(Witnessed { core: Arc::new(core), deferred })
    }

    /// Has `call` done by a thread that may sleep.
    fn wait_for(&self, call: impl FnOnce(&Core) + Send + 'static) {
        let core = self.core.clone();
        let under_way = core.under_way.begin();
        self.deferred.defer(Attempted::Blocks(Box::new(move |_| {
            call(&core);
            drop(under_way);
            Attempted::Answered
        })));
    }

    /// Asks the kernel to forget files that nobody has open, where it knows so many that descriptors may run out. By a thread that may wait: the
    /// kernel forgets a name only while no request on its directory is under way.
    fn bound_descriptors(&self) {
        let core = &self.core;
        if core.directory.inodes().known() <= core.known_max || core.is_asking.swap(true, Ordering::AcqRel) {
            return;
        }
        self.wait_for(|core| {
            let inodes = core.directory.inodes();
            let half = usize::try_from(inodes.known() / 2).unwrap_or(usize::MAX);
            for (parent, name) in inodes.idle(half) {
                if let Some(notifier) = core.notifier.get()
                    && let Err(error) = notifier.inval_entry(INodeNo(parent), OsStr::from_bytes(&name))
                {
                    log::debug!("the kernel has no {} in {parent}: {error}", name.escape_ascii());
                }
            }
            core.is_asking.store(false, Ordering::Release);
        });
    }

    fn inode(&self, ino: Ino) -> Result<Arc<Inode>, Errno> {
        self.core.directory.inode(ino.0).map_err(errno)
    }
}

impl Connected for Core {
    fn open_inodes(&self) -> Vec<u64> {
        self.directory.inodes().open_numbers()
    }
    fn is_idle(&self) -> bool {
        self.under_way.is_idle()
    }
    fn notifier(&self) -> &OnceLock<Notifier> {
        &self.notifier
    }
}

impl Behind for Witnessed {
    fn capabilities(&self) -> Vec<InitFlags> {
        // Not READDIRPLUS: each name of a listing would be opened, and most of them nobody asks for.
        Vec::new()
    }
    fn connected(&self) -> Arc<dyn Connected> {
        self.core.clone()
    }
    fn is_read_only(&self) -> bool {
        self.core.is_read_only
    }
    fn threads(&self) -> usize {
        self.core.threads
    }
}

impl Core {
    fn entry(&self, reply: ReplyEntry, result: witness::Result<Found>) {
        match result {
            Ok((inode, stat)) => {
                reply.entry(&self.timeout, &attributes(inode.number(), &stat), GENERATION);
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn attributes(&self, reply: ReplyAttr, number: u64, result: witness::Result<Stat>) {
        match result {
            Ok(stat) => reply.attr(&self.timeout, &attributes(number, &stat)),
            Err(error) => reply.error(errno(error)),
        }
    }

    /// Tells the kernel that set-id bits which it remembers are gone: it leaves clearing them to the filesystem, but goes on showing them. Waits for nothing,
    /// so it may run before the answer is sent.
    fn cleared_set_id(&self, inode: &Inode) {
        if !inode.has_set_id() {
            return;
        }
        // Looked at again, so that the next write does not come here.
        let _ = self.directory.attributes(inode);
        if let Some(notifier) = self.notifier.get()
            && let Err(error) = notifier.inval_inode(INodeNo(inode.number()), -1, 0)
        {
            log::debug!("the kernel has no inode {}: {error}", inode.number());
        }
    }
}

fn errno(error: witness::Errno) -> Errno {
    Errno::from_i32(error.raw_os_error())
}

fn caller(request: &Request, umask: u32) -> Caller {
    Caller { uid: request.uid(), gid: request.gid(), umask }
}

/// The file type in a mode.
fn file_type(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

/// Attributes as the kernel takes them.
fn attributes(number: u64, stat: &Stat) -> FileAttr {
    let time = |seconds: i64, nanos: u64| Time { seconds, nanos: nanos as u32 }.into();
    let changed = time(stat.st_ctime, stat.st_ctime_nsec);
    FileAttr {
        ino: INodeNo(number),
        size: stat.st_size.cast_unsigned(),
        blocks: stat.st_blocks.cast_unsigned(),
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: changed,
        // Only other systems ask for it.
        crtime: changed,
        kind: file_type(stat.st_mode),
        perm: (stat.st_mode & 0o7777) as u16,
        nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        uid: stat.st_uid,
        gid: stat.st_gid,
        // The kernel's own form of a device, which both sides have.
        rdev: stat.st_rdev as u32,
        blksize: stat.st_blksize as u32,
        flags: 0,
    }
}

/// The answer for a name that is not there, which the kernel may remember.
fn absent() -> FileAttr {
    convert::absent()
}
