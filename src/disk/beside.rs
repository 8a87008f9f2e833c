//! Files in the store's directory that are not the store's: the daemon's log and its socket.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::{Mode, SFlag, fstat, umask};

use super::beneath::Directory;

/// Name of the daemon's log.
pub const LOG: &str = "kvfs.log";
/// Name of the log before it, when one was full.
pub const LOG_BEFORE: &str = "kvfs.log.1";
/// A log of this length is full.
const LOG_BYTES_MAX: u64 = 4 << 20;

/// The daemon's log. With the one before it, it never takes more than twice [`LOG_BYTES_MAX`] and a line.
#[derive(Debug)]
pub struct LogFile {
    directory: Directory,
    file: OwnedFd,
    bytes: u64,
}

impl LogFile {
    pub(super) fn open(directory: &Directory) -> io::Result<LogFile> {
        let directory = directory.try_clone()?;
        let file = open_log(&directory)?;
        let bytes = u64::try_from(fstat(&file)?.st_size).unwrap_or(0);
        Ok(LogFile { directory, file, bytes })
    }

    /// The file that is written now.
    pub fn file(&self) -> &OwnedFd {
        &self.file
    }

    /// Appends. Returns whether the file has become full, so that another is written now.
    pub fn append(&mut self, text: &[u8]) -> io::Result<bool> {
        let turns = self.bytes >= LOG_BYTES_MAX;
        if turns {
            self.directory.rename(LOG, LOG_BEFORE)?;
            match open_log(&self.directory) {
                Ok(file) => self.file = file,
                // No inode is left for another: this one is begun anew.
                Err(_) => {
                    self.directory.rename(LOG_BEFORE, LOG)?;
                    nix::unistd::ftruncate(&self.file, 0)?;
                }
            }
            self.bytes = 0;
        }
        let mut rest = text;
        while !rest.is_empty() {
            let count = nix::unistd::write(&self.file, rest)?;
            self.bytes += count as u64;
            rest = &rest[count..];
        }
        Ok(turns)
    }
}

fn open_log(directory: &Directory) -> io::Result<OwnedFd> {
    let file = directory.open_or_create(LOG)?;
    fcntl(&file, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
    Ok(file)
}

/// A listening socket in the directory, for the process's user alone; its name goes when this is dropped.
#[derive(Debug)]
pub struct SocketFile {
    directory: Directory,
    name: &'static str,
    listener: UnixListener,
}

impl SocketFile {
    pub(super) fn bind(directory: &Directory, path: &Path, name: &'static str) -> io::Result<SocketFile> {
        let directory = directory.try_clone()?;
        match directory.look(name) {
            // Whoever holds the lock of the directory is the only one with a socket in it.
            Ok(found) if SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK => {
                directory.remove(name)?;
            }
            Ok(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::AlreadyExists,
                    "its name is taken by another kind of file",
                ));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        // Through the descriptor: the directory itself, whatever its name is by now, and a path that is short enough.
        let own = PathBuf::from(format!("/proc/self/fd/{}", directory.as_fd().as_raw_fd()));
        let place =
            if nix::unistd::access(&own, nix::unistd::AccessFlags::F_OK).is_ok() { own } else { path.into() };
        let mask = umask(Mode::from_bits_truncate(0o177));
        let bound = UnixListener::bind(place.join(name));
        umask(mask);
        Ok(SocketFile { directory, name, listener: bound? })
    }

    /// The listening socket.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = self.directory.remove(self.name) {
            log::debug!("removing {}: {error}", self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_is_begun_anew_and_the_one_before_it_kept() {
        let home = tempfile::tempdir().unwrap();
        let directory = Directory::open(home.path()).unwrap();
        let mut log = LogFile::open(&directory).unwrap();
        let line = [b'x'; 64 << 10];
        let mut turns = 0;
        for _ in 0..300 {
            turns += u64::from(log.append(&line).unwrap());
        }
        assert_eq!(turns, 300 * line.len() as u64 / LOG_BYTES_MAX);
        let bytes = |name: &str| home.path().join(name).metadata().unwrap().len();
        assert_eq!(bytes(LOG_BEFORE), LOG_BYTES_MAX);
        assert_eq!(bytes(LOG), 300 * line.len() as u64 - turns * LOG_BYTES_MAX);
        assert_eq!(directory.list().unwrap().len(), 2);
        // It goes on where it was.
        let again = LogFile::open(&directory).unwrap();
        assert_eq!(again.bytes, bytes(LOG));
    }
}
