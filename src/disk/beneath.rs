//! Files below one directory, whoever else may write there: no link is followed, nothing but a regular file is opened, and
//! all of it relative to the directory's descriptor, so that the directory may get another name meanwhile.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{
    AT_FDCWD, AtFlags, FcntlArg, OFlag, OpenHow, ResolveFlag, fcntl, open, openat, openat2, renameat,
};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};
use nix::sys::statfs::{BTRFS_SUPER_MAGIC, fstatfs};
use nix::unistd::{UnlinkatFlags, fsync, syncfs, unlinkat};

/// Files are for their owner.
const MODE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);
/// Attempts to open a file that somebody else makes and removes meanwhile.
const TRIES: usize = 16;

/// An open directory.
#[derive(Debug)]
pub(super) struct Directory(OwnedFd);

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Directory {
    /// Opens the directory `path`.
    pub fn open(path: &Path) -> io::Result<Directory> {
        Ok(Directory(open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?))
    }

    /// Another descriptor of the same directory.
    pub fn try_clone(&self) -> io::Result<Directory> {
        Ok(Directory(self.0.try_clone()?))
    }

    /// Fails with a sentence unless nobody but the effective user, its group and root can change what is in the directory.
    pub fn require_own(&self) -> io::Result<()> {
        let found = fstat(&self.0)?;
        let (user, group) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let mode = found.st_mode & 0o7777;
        let refuse = |what: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, what));
        if found.st_uid != user && found.st_uid != 0 {
            return refuse(format!(
                "the directory belongs to user {}, not to {user}, and whoever owns it decides what its files hold: let its \
                 owner mount it, give it to this user with chown -R, or insist with -o any_owner",
                found.st_uid
            ));
        }
        if mode & 0o002 != 0 || (mode & 0o020 != 0 && found.st_gid != group) {
            return refuse(format!(
                "the directory has mode {mode:04o}, so others can change its files: chmod go-w, or insist with -o any_owner"
            ));
        }
        Ok(())
    }

    /// Has btrfs write what changes in files that are made from now on where it lies, as other filesystems do anyway: by default it
    /// writes elsewhere, so that overwriting takes new room, which is not there when the disk is full. Such files have no
    /// checksums of its own.
    pub fn write_in_place(&self) -> io::Result<()> {
        if fstatfs(&self.0)?.filesystem_type() != BTRFS_SUPER_MAGIC {
            return Ok(());
        }
        let flags = rustix::fs::ioctl_getflags(&self.0)?;
        Ok(rustix::fs::ioctl_setflags(&self.0, flags | rustix::fs::IFlags::NOCOW)?)
    }

    /// Opens the regular file `name`, which must be there. With `write` also for writing; then it must have no other name.
    pub fn open_file(&self, name: &str, write: bool) -> io::Result<OwnedFd> {
        let access = if write { OFlag::O_RDWR } else { OFlag::O_RDONLY };
        // A device is not even opened: that alone may do something.
        judge(name, &self.look(name)?, write)?;
        // Nobody's lock or lease makes us wait.
        let file = self.open_one(name, access | OFlag::O_NONBLOCK)?;
        judge(name, &fstat(&file)?, write)?;
        fcntl(&file, FcntlArg::F_SETFL(OFlag::empty()))?;
        Ok(file)
    }

    /// Makes the new file `name`; `AlreadyExists` if the name is taken, by whatever.
    pub fn create_file(&self, name: &str) -> io::Result<OwnedFd> {
        self.open_one(name, OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL)
    }

    /// Opens the file `name` for reading and writing, and makes it if it is missing.
    pub fn open_or_create(&self, name: &str) -> io::Result<OwnedFd> {
        for _ in 0..TRIES {
            match self.open_file(name, true) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => return result,
            }
            match self.create_file(name) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                result => return result,
            }
        }
        Err(io::Error::other(format!("{name} is made and removed by another process all the time")))
    }

    /// Gives `from` the name `to`, replacing the file that has it.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(&self.0, one(from)?, &self.0, one(to)?)?)
    }

    /// Removes a name that is no directory's.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.0, one(name)?, UnlinkatFlags::NoRemoveDir)?)
    }

    /// Type of `name`, found without opening it or following a link.
    pub fn look(&self, name: &str) -> io::Result<FileStat> {
        Ok(fstatat(&self.0, one(name)?, AtFlags::AT_SYMLINK_NOFOLLOW)?)
    }

    /// Every name that is text, but `.` and `..`, with what it is; in no order.
    pub fn list(&self) -> io::Result<Vec<(String, FileStat)>> {
        // A descriptor of its own: the place in a listing belongs to the descriptor.
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut entries = Dir::openat(&self.0, ".", flags, Mode::empty())?;
        let mut names = Vec::new();
        for entry in entries.iter() {
            let entry = entry?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            if name == "." || name == ".." {
                continue;
            }
            match self.look(name) {
                // Removed between the listing and the look.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                found => names.push((name.to_string(), found?)),
            }
        }
        Ok(names)
    }

    /// Makes names in the directory durable.
    pub fn sync(&self) -> io::Result<()> {
        Ok(fsync(&self.0)?)
    }

    /// Makes the directory's own name durable.
    pub fn sync_own_name(&self) -> io::Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match openat(&self.0, "..", flags, Mode::empty()) {
            Ok(parent) => Ok(fsync(&parent)?),
            // Who may not read the parent can still sync the whole filesystem.
            Err(Errno::EACCES) => Ok(syncfs(&self.0)?),
            Err(error) => Err(error.into()),
        }
    }

    fn open_one(&self, name: &str, flags: OFlag) -> io::Result<OwnedFd> {
        let name = one(name)?;
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        let mode = if flags.contains(OFlag::O_CREAT) { MODE } else { Mode::empty() };
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let how = OpenHow::new().flags(flags).mode(mode).resolve(resolve);
        match openat2(&self.0, name, how) {
            // Linux before 5.6, or a sandbox that does not know the call: a name of one part cannot lead elsewhere but by being
            // a link.
            Err(Errno::ENOSYS | Errno::EPERM) => Ok(openat(&self.0, name, flags, mode)?),
            result => Ok(result?),
        }
    }
}

/// Makes the name of the directory `path` durable.
pub(super) fn sync_name_of(path: &Path) -> io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Directory(openat(AT_FDCWD, path, flags, Mode::empty())?).sync_own_name()
}

/// The name, if it has one part.
fn one(name: &str) -> io::Result<&str> {
    if name.is_empty() || name == "." || name == ".." || name.contains(['/', '\0']) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{name:?} is no name of a file")));
    }
    Ok(name)
}

/// Fails with a sentence unless it is a regular file and, to `write` it, one without another name.
fn judge(name: &str, found: &FileStat, write: bool) -> io::Result<()> {
    let what = match SFlag::from_bits_truncate(found.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFREG if write && found.st_nlink > 1 => {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "{name} has {} names (hard links): what is under the others would change with it; copy the store, or \
                     remove the other names",
                    found.st_nlink
                ),
            ));
        }
        SFlag::S_IFREG => return Ok(()),
        SFlag::S_IFLNK => "a symbolic link",
        SFlag::S_IFDIR => "a directory",
        SFlag::S_IFIFO => "a FIFO",
        SFlag::S_IFSOCK => "a socket",
        _ => "a device",
    };
    let text = format!("{name} is {what}; a store holds regular files only");
    Err(io::Error::new(io::ErrorKind::InvalidInput, text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_but_a_regular_file_with_one_name_is_opened() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        std::fs::write(at("file"), "kept").unwrap();
        std::fs::write(at("twice"), "kept").unwrap();
        std::fs::hard_link(at("twice"), at("other")).unwrap();
        symlink("file", at("link")).unwrap();
        symlink("nowhere", at("dangling")).unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        nix::unistd::mkfifo(&at("fifo"), Mode::S_IRWXU).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let directory = Directory::open(home.path()).unwrap();
        for (name, words) in [
            ("twice", "2 names"),
            ("link", "a symbolic link"),
            ("dangling", "a symbolic link"),
            ("folder", "a directory"),
            ("fifo", "a FIFO"),
            ("socket", "a socket"),
            ("../file", "no name"),
            ("folder/file", "no name"),
            ("..", "no name"),
        ] {
            for result in [directory.open_file(name, true), directory.open_or_create(name)] {
                let error = result.unwrap_err().to_string();
                assert!(error.contains(words), "{name}: {error}");
            }
            assert!(directory.create_file(name).is_err(), "{name}");
        }
        assert!(directory.open_file("twice", false).is_ok(), "reading harms nobody");
        assert!(directory.open_file("file", true).is_ok());
        assert_eq!(directory.open_file("missing", true).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(!at("nowhere").exists());
        assert_eq!(std::fs::read(at("file")).unwrap(), b"kept");
    }

    #[test]
    fn a_directory_of_others_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let home = tempfile::tempdir().unwrap();
        let mode =
            |mode| std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(mode)).unwrap();
        let directory = Directory::open(home.path()).unwrap();
        for (bits, is_own) in [(0o700, true), (0o755, true), (0o775, true), (0o757, false), (0o1777, false)] {
            mode(bits);
            let result = directory.require_own();
            assert_eq!(result.is_ok(), is_own, "{bits:o}: {result:?}");
        }
        mode(0o755);
        if nix::unistd::geteuid().is_root() {
            nix::unistd::chown(home.path(), Some(65_534.into()), None).unwrap();
            assert!(directory.require_own().unwrap_err().to_string().contains("user 65534"));
        }
    }
}
