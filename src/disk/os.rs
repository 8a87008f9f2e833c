//! The real disk: files of one directory, which it locks. The only place that touches the operating
//! system's files.

use std::fs;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{FallocateFlags, Flock, FlockArg, fallocate};
use nix::sys::stat::SFlag;
use nix::sys::uio::pwritev;

use super::beneath::{self, Directory};
use super::beside::{LOG, LOG_BEFORE, LogFile, SocketFile};
use super::{Descriptor, Disk, File, FileInfo, Purpose, Space};
use crate::base::metric::metrics;

/// Pieces that the kernel takes at once.
const PIECES_MAX: usize = 1024;
/// Smallest amount that the page cache writes at once.
const PAGE_BYTES: u64 = 4096;
/// Name of the file whose lock keeps a second opener out; its text names the holder.
const LOCK: &str = "LOCK";
/// Bytes read of the text in the lock, which anyone may have written.
const HOLDER_BYTES_MAX: usize = 512;

/// Access to the directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Read and write; at most one opener.
    Write,
    /// Read only, with no other opener that writes. Nothing is written, not even the lock's text.
    Read,
}

/// Terms of opening a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The access wanted.
    pub access: Access,
    /// Also if others than the effective user, its group and root can change what is in it.
    pub any_owner: bool,
}

impl From<Access> for Opening {
    /// Nobody else's to write; to look, anyone's.
    fn from(access: Access) -> Opening {
        Opening { access, any_owner: access == Access::Read }
    }
}

/// Another process has the directory open. Stands in an [`io::Error`] of the kind `ResourceBusy`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("in use by {holder}")]
pub struct InUse {
    /// Text that the process has written into the lock by [`OsDisk::name_holder`], or whatever else is known of it.
    pub holder: String,
}

impl InUse {
    /// The one inside `error`; `None` if that is another error.
    pub fn of(error: &io::Error) -> Option<&InUse> {
        error.get_ref()?.downcast_ref()
    }
}

/// The files of one directory, whatever its name is by now.
pub struct OsDisk {
    path: PathBuf,
    directory: Directory,
    access: Access,
    /// Held for as long as the disk lives; the kernel lets go of it when the process ends, however it ends.
    _lock: Option<Flock<fs::File>>,
}

impl OsDisk {
    /// Opens the directory `path` and locks it. With [`Access::Write`] it is made if missing (mode 0700).
    ///
    /// Fails with `ResourceBusy` and an [`InUse`] if another process has it open, and with `PermissionDenied` and a sentence if it is others' and `any_owner` is not given.
    pub fn open(path: &Path, opening: impl Into<Opening>) -> io::Result<Arc<OsDisk>> {
        let Opening { access, any_owner } = opening.into();
        if access == Access::Write {
            make_directory(path)?;
        }
        let directory = Directory::open(path)?;
        if !any_owner {
            directory.require_own()?;
        }
        let lock = Self::lock(&directory, access)?;
        Ok(Arc::new(OsDisk { path: path.to_path_buf(), directory, access, _lock: lock }))
    }

    fn lock(directory: &Directory, access: Access) -> io::Result<Option<Flock<fs::File>>> {
        let write = access == Access::Write;
        let file = match if write { directory.open_or_create(LOCK) } else { directory.open_file(LOCK, false) }
        {
            // A directory that was never opened for writing has no lock and no holder.
            Err(error) if !write && error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => fs::File::from(other?),
        };
        let how = if write { FlockArg::LockExclusiveNonblock } else { FlockArg::LockSharedNonblock };
        match Flock::lock(file, how) {
            Ok(lock) => Ok(Some(lock)),
            Err((file, nix::errno::Errno::EWOULDBLOCK)) => {
                let mut holder = text_of(&file)?;
                // Who only reads does not write its name there.
                if write && Flock::lock(file, FlockArg::LockSharedNonblock).is_ok() {
                    holder = "one that only reads: kvfs check, or a read-only mount".to_string();
                } else if holder.is_empty() {
                    holder = "another process".to_string();
                }
                Err(io::Error::new(io::ErrorKind::ResourceBusy, InUse { holder }))
            }
            Err((_, error)) => Err(error.into()),
        }
    }

    /// For a store whose files are overwritten where they lie: see [`Directory::write_in_place`]. To be called before there are files.
    pub fn write_in_place(&self) -> io::Result<()> {
        self.directory.write_in_place()
    }

    /// The directory `name` below, for whoever reads and writes there in ways of its own; it is made if it is missing. What has that
    /// name and is something else is an error: through a link a store would write elsewhere.
    pub fn directory(&self, name: &str) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        if self.access == Access::Write {
            make_directory(&path)?;
        }
        match fs::symlink_metadata(&path)?.is_dir() {
            true => Ok(path),
            false => Err(io::Error::new(
                io::ErrorKind::NotADirectory,
                format!("{name} is a link or a file: take it away"),
            )),
        }
    }

    /// Makes the directory's own name durable.
    pub fn sync_own_name(&self) -> io::Result<()> {
        self.directory.sync_own_name()
    }

    /// The daemon's log in the directory; made if it is missing.
    pub fn log(&self) -> io::Result<LogFile> {
        self.writable()?;
        LogFile::open(&self.directory)
    }

    /// A listening socket in the directory. To be called before other threads make files, because the mask of permissions is
    /// the process's.
    pub fn socket(&self, name: &'static str) -> io::Result<SocketFile> {
        self.writable()?;
        SocketFile::bind(&self.directory, &self.path, name)
    }

    /// Writes who holds the directory into its lock, for the next one who finds it locked.
    pub fn name_holder(&self, holder: &str) -> io::Result<()> {
        if let Some(lock) = &self._lock {
            // In place, so that it needs no room on a disk that is full, and whoever looks meanwhile finds a whole line.
            let line = format!("{}\n", holder.replace('\n', " "));
            lock.write_all_at(line.as_bytes(), 0)?;
            lock.set_len(line.len() as u64)?;
        }
        Ok(())
    }

    /// Bytes of the files whose blocks other files have, too, wherever these lie; `None` where the filesystem below cannot tell. Each
    /// file is asked, so it may take a while.
    pub fn shared_bytes(&self) -> io::Result<Option<u64>> {
        let mut bytes = 0;
        for info in self.list()? {
            let file = match self.directory.open_file(&info.name, false) {
                // Removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file?,
            };
            match super::extents::shared_bytes(file.as_fd())? {
                Some(shared) => bytes += shared,
                None => return Ok(None),
            }
        }
        Ok(Some(bytes))
    }

    fn writable(&self) -> io::Result<()> {
        match self.access {
            Access::Write => Ok(()),
            Access::Read => Err(io::Error::from_raw_os_error(libc::EROFS)),
        }
    }
}

/// A directory that another process has open for writing, whatever its name is later.
pub struct Held(Directory);

impl Held {
    /// The directory `path`; `None` if nobody has it open for writing.
    pub fn find(path: &Path) -> io::Result<Option<Held>> {
        let held = Held(Directory::open(path)?);
        match held.let_go() {
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(Some(held)),
            Err(error) => Err(error),
        }
    }

    /// What the last one who had it has written into its lock; fails with `ResourceBusy` and an [`InUse`] while somebody has it.
    pub fn let_go(&self) -> io::Result<String> {
        OsDisk::lock(&self.0, Access::Read)?.map_or(Ok(String::new()), |lock| text_of(&lock))
    }
}

/// The first line of a lock's text, or its beginning, fit to show.
fn text_of(lock: &fs::File) -> io::Result<String> {
    let mut bytes = vec![0; HOLDER_BYTES_MAX];
    let count = lock.read_at(&mut bytes, 0)?;
    let line = bytes[..count].split(|byte| *byte == b'\n').next().unwrap_or_default();
    let text = String::from_utf8_lossy(line);
    Ok(text.trim().replace(|c: char| c.is_control(), "?"))
}

/// Makes the directory and its parents where they are missing, and makes their names durable.
fn make_directory(path: &Path) -> io::Result<()> {
    let is_missing = |path: &&Path| {
        let found = fs::symlink_metadata(path);
        found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound) && !path.as_os_str().is_empty()
    };
    let missing: Vec<&Path> = path.ancestors().take_while(is_missing).collect();
    if missing.is_empty() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    missing.into_iter().try_for_each(beneath::sync_name_of)
}

impl Disk for OsDisk {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.writable()?;
        Ok(Arc::new(OsFile(self.directory.create_file(name)?.into())))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(OsFile(self.directory.open_file(name, self.access == Access::Write)?.into())))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.writable()?;
        self.directory.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.writable()?;
        self.directory.remove(name)
    }
    fn list(&self) -> io::Result<Vec<FileInfo>> {
        let mut files = Vec::new();
        for (name, found) in self.directory.list()? {
            let is_regular = found.st_mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits();
            if is_regular && ![LOCK, LOG, LOG_BEFORE].contains(&name.as_str()) {
                let bytes = |count: i64| u64::try_from(count).unwrap_or(0);
                files.push(FileInfo {
                    name,
                    bytes: bytes(found.st_size),
                    bytes_allocated: bytes(found.st_blocks) * 512,
                });
            }
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }
    fn sync_names(&self) -> io::Result<()> {
        self.directory.sync()
    }
    fn space(&self) -> io::Result<Space> {
        let found = nix::sys::statvfs::fstatvfs(&self.directory)?;
        let unit = found.fragment_size();
        Ok(Space {
            total_bytes: found.blocks() * unit,
            free_bytes: found.blocks_available() * unit,
            total_files: found.files(),
            free_files: found.files_available(),
        })
    }
}

/// Held while a file takes space. Growing is rare and short, so one lock serves all files.
static GROWING: parking_lot::Mutex<()> = parking_lot::Mutex::new(());

struct OsFile(fs::File);

impl OsFile {
    /// Lets the device begin with bulk bytes that were just written. Without it they wait in the page cache for the sync at the end
    /// of the table or checkpoint, and a sync of the log that falls into that waits behind all of them.
    fn begin_writeback(&self, purpose: Purpose, offset: u64, bytes: usize) {
        // Whole pages only: the rest of the last one is still to come.
        let (start, end) =
            (offset / PAGE_BYTES * PAGE_BYTES, (offset + bytes as u64) / PAGE_BYTES * PAGE_BYTES);
        if !purpose.is_bulk() || end <= start {
            return;
        }
        if let (Ok(start), Ok(bytes)) = (libc::off64_t::try_from(start), libc::off64_t::try_from(end - start))
        {
            // SAFETY: the descriptor is open, and the call takes no memory. A failure is no news here: it starts what the sync would
            // do, and the sync reports every error.
            unsafe { libc::sync_file_range(self.0.as_raw_fd(), start, bytes, libc::SYNC_FILE_RANGE_WRITE) };
        }
    }
}

impl File for OsFile {
    fn read_at(&self, _: Purpose, offset: u64, target: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(target, offset)
    }
    fn write_at(&self, purpose: Purpose, offset: u64, source: &[u8]) -> io::Result<()> {
        self.0.write_all_at(source, offset)?;
        self.begin_writeback(purpose, offset, source.len());
        Ok(())
    }
    fn write_pieces_at(&self, purpose: Purpose, mut offset: u64, pieces: &[&[u8]]) -> io::Result<()> {
        let start = offset;
        let mut rest: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut rest = &mut rest[..];
        while !rest.is_empty() {
            let at = libc::off_t::try_from(offset).map_err(io::Error::other)?;
            match pwritev(&self.0, &rest[..rest.len().min(PIECES_MAX)], at) {
                // What is left may be empty pieces.
                Ok(0) if rest.iter().any(|piece| !piece.is_empty()) => {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.begin_writeback(purpose, start, (offset - start) as usize);
        Ok(())
    }
    fn sync(&self, _: Purpose) -> io::Result<()> {
        self.0.sync_data()
    }
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
    fn set_size(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        // One at a time: what follows looks at the size before and cuts back to it.
        let _growing = GROWING.lock();
        let old_bytes = self.size()?;
        let Some(growth_bytes) = bytes.checked_sub(old_bytes).filter(|bytes| *bytes > 0) else {
            return Ok(());
        };
        // From the old end on: asked for the whole file, XFS wants as much room again as the file has already.
        let offset = libc::off_t::try_from(old_bytes).map_err(io::Error::other)?;
        let length = libc::off_t::try_from(growth_bytes).map_err(io::Error::other)?;
        let reserved = loop {
            match fallocate(&self.0, FallocateFlags::empty(), offset, length) {
                Err(nix::errno::Errno::EINTR) => {}
                other => break other,
            }
        };
        match reserved {
            Ok(()) => Ok(()),
            // A filesystem that cannot reserve (ext2, some network ones): refuse what surely has no room, grow the file and hope.
            Err(nix::errno::Errno::EOPNOTSUPP) => {
                let found = nix::sys::statvfs::fstatvfs(&self.0)?;
                let free_bytes = found.blocks_available() * found.fragment_size();
                // One without any blocks (ramfs) does not know.
                if found.blocks() > 0 && free_bytes < growth_bytes {
                    return Err(io::Error::from_raw_os_error(libc::ENOSPC));
                }
                self.set_size(bytes)
            }
            Err(error) => {
                // What was taken until then would be missing elsewhere: ext4 keeps it and lets the file grow by it.
                self.set_size(old_bytes)?;
                Err(error.into())
            }
        }
    }
    fn with_descriptor(&self, look: &mut dyn FnMut(Descriptor<'_>)) -> io::Result<()> {
        look(Descriptor::new(self.0.as_fd()));
        Ok(())
    }
}

metrics! {
    /// The kernel's counters of this process.
    #[derive(Copy, Eq)]
    pub struct ProcessIo witness "kvfs::disk::os::tests::the_kernel_counts_what_the_process_writes" {
        /// `write_bytes` of `/proc/self/io`: pages dirtied for the device. Log segments that are preallocated and pages written twice between two write-backs
        /// make it differ from P.
        counter write_bytes: u64 [Bytes];
        /// `read_bytes`: fetched from the device.
        counter read_bytes: u64 [Bytes];
        /// `wchar`: everything the process wrote, answers to the kernel's FUSE requests among them.
        counter asked_write_bytes: u64 [Bytes];
        /// `rchar`: everything it read, from cache or device, requests of the kernel among it.
        counter asked_read_bytes: u64 [Bytes];
    }
}

/// Reads `/proc/self/io`, all threads of this process together. Never waits for a device.
pub fn process_io() -> io::Result<ProcessIo> {
    let text = fs::read_to_string("/proc/self/io")?;
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let missing = || io::Error::new(io::ErrorKind::InvalidData, format!("/proc/self/io has no {name}"));
        line.and_then(|digits| digits.trim().parse().ok()).ok_or_else(missing)
    };
    Ok(ProcessIo {
        asked_read_bytes: value("rchar")?,
        asked_write_bytes: value("wchar")?,
        read_bytes: value("read_bytes")?,
        write_bytes: value("write_bytes")?,
    })
}

/// The process that `thread` belongs to, and its command's name, from `/proc`; `None` if it is gone or not to be seen.
pub fn process_of(thread: u32) -> Option<(u32, String)> {
    let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let pid = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some((pid, String::from_utf8_lossy(&command).trim_end().to_string()))
}

/// Every process that is to be seen.
pub fn processes() -> Vec<u32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::metric::Since;

    #[test]
    fn a_second_opener_learns_who_holds_the_directory() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("store");
        assert_eq!(OsDisk::open(&path, Access::Read).err().map(|e| e.kind()), Some(io::ErrorKind::NotFound));
        let disk = OsDisk::open(&path, Access::Write).unwrap();
        disk.name_holder("kvfs, pid 7, mounted at /mnt/kv").unwrap();
        for access in [Access::Write, Access::Read] {
            let error = OsDisk::open(&path, access).err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
            assert_eq!(error.to_string(), "in use by kvfs, pid 7, mounted at /mnt/kv");
        }
        // Also while another text takes its place.
        let over = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0..20_000 {
                    disk.name_holder(["closing the store", "closed"][round % 2]).unwrap();
                }
                over.store(true, std::sync::atomic::Ordering::Relaxed);
            });
            let held = Held::find(&path).unwrap().unwrap();
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                let holder = held.let_go().unwrap_err().to_string();
                assert!(!holder.contains("another process"), "the lock has no text: {holder}");
            }
        });
        drop(disk);
        OsDisk::open(&path, Access::Read).unwrap();
    }

    #[test]
    fn a_directory_that_gets_another_name_goes_on() {
        let home = tempfile::tempdir().unwrap();
        let (before, after) = (home.path().join("before"), home.path().join("after"));
        let disk = OsDisk::open(&before, Access::Write).unwrap();
        disk.create("a").unwrap();
        fs::rename(&before, &after).unwrap();
        disk.create("b").unwrap();
        disk.rename("b", "c").unwrap();
        disk.remove("a").unwrap();
        disk.sync_names().unwrap();
        disk.open("c").unwrap();
        let socket = disk.socket("s").unwrap();
        disk.log().unwrap().append(b"line\n").unwrap();
        assert_eq!(disk.list().unwrap().iter().map(|file| file.name.as_str()).collect::<Vec<_>>(), ["c"]);
        assert!(
            after.join("c").exists()
                && after.join("s").exists()
                && after.join(LOG).exists()
                && !before.exists()
        );
        drop(socket);
        assert!(!after.join("s").exists());
    }

    #[test]
    fn the_text_of_a_lock_is_anyones() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("store");
        let disk = OsDisk::open(&path, Access::Write).unwrap();
        let file = fs::File::options().write(true).open(path.join(LOCK)).unwrap();
        file.write_all_at(b"\x1b[2Jme\xff", 0).unwrap();
        file.set_len(1 << 40).unwrap();
        let error = OsDisk::open(&path, Access::Read).err().unwrap().to_string();
        assert!(error.starts_with("in use by ?[2Jme") && error.len() < 2000, "{error:?}");
        drop(disk);
    }

    #[test]
    fn pieces_are_written_as_one_however_many_they_are() {
        let home = tempfile::tempdir().unwrap();
        let disk = OsDisk::open(home.path(), Access::Write).unwrap();
        let file = disk.create("a").unwrap();
        let whole: Vec<u8> = (0..10_000u32).map(|n| n as u8).collect();
        for sizes in [vec![10_000], vec![0, 9_999, 0, 0, 1, 0], vec![0; 9], vec![3; 3000]] {
            let mut rest = &whole[..];
            let pieces: Vec<&[u8]> = sizes.iter().filter_map(|size| rest.split_off(..*size)).collect();
            let bytes = sizes.iter().sum::<usize>();
            file.set_size(0).unwrap();
            file.write_pieces_at(Purpose::Wal, 5, &pieces).unwrap();
            let found = super::super::read_all(&*file, Purpose::Wal).unwrap();
            assert_eq!(found, [&vec![0; if bytes > 0 { 5 } else { 0 }], &whole[..bytes]].concat());
        }
    }

    #[test]
    fn the_kernel_counts_what_the_process_writes() {
        const BYTES: u64 = 1 << 20;
        let home = tempfile::tempdir().unwrap();
        let disk = OsDisk::open(home.path(), Access::Write).unwrap();
        let file = disk.create("a").unwrap();
        let before = process_io().unwrap();
        file.write_at(Purpose::Wal, 0, &[7; BYTES as usize]).unwrap();
        // Other tests of this process may read and write at the same time.
        let written = process_io().unwrap().since(&before);
        assert!(written.asked_write_bytes >= BYTES, "{written:?}");
        // Where files are in memory or come over a network, nothing passes a device, and the kernel counts no more than that.
        use nix::sys::statfs::{BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, statfs};
        let kind = statfs(home.path()).unwrap().filesystem_type();
        let on_disk = [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC].contains(&kind);
        assert!(written.write_bytes >= BYTES || !on_disk, "{written:?}");
        file.sync(Purpose::Wal).unwrap();
        let opened = fs::File::open(home.path().join("a")).unwrap();
        nix::fcntl::posix_fadvise(&opened, 0, 0, nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED)
            .unwrap();
        let before = process_io().unwrap();
        file.read_at(Purpose::Get, 0, &mut vec![0; BYTES as usize]).unwrap();
        let read = process_io().unwrap().since(&before);
        assert!(read.asked_read_bytes >= BYTES, "{read:?}");
        assert!(read.read_bytes >= BYTES || !on_disk, "{read:?}");
    }

    #[test]
    fn files_read_back_and_space_is_taken() {
        let home = tempfile::tempdir().unwrap();
        let disk = OsDisk::open(home.path(), Access::Write).unwrap();
        let file = disk.create("a").unwrap();
        file.write_at(Purpose::Wal, 5, b"hello").unwrap();
        file.allocate(1 << 20).unwrap();
        assert_eq!(file.size().unwrap(), 1 << 20);
        let info = &disk.list().unwrap()[0];
        assert_eq!((info.name.as_str(), info.bytes), ("a", 1 << 20));
        assert!(info.bytes_allocated >= 1 << 20, "fallocate took {} bytes", info.bytes_allocated);
        disk.rename("a", "b").unwrap();
        let mut bytes = [1; 10];
        disk.open("b").unwrap().read_at(Purpose::Get, 0, &mut bytes).unwrap();
        assert_eq!(&bytes, b"\0\0\0\0\0hello");
        assert!(disk.create("b").is_err());
    }
}
