//! Files that belong to no store: what the kernel shows of itself, files on a mount, and recordings.

use std::fs;
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc::O_NOFOLLOW;

/// Reads a whole file that belongs to no store, such as the kernel's mount table or a file on a mount.
pub fn read_outside(path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path)
}

/// Opens such a file to read parts of it.
pub fn open_outside(path: &Path) -> io::Result<impl Read + Seek + Send + use<>> {
    let file = fs::File::open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

/// Makes such a file, which its owner alone may read, and which must not be there yet: nothing is ever written over.
pub fn create_outside(path: &Path) -> io::Result<impl Write + Send + use<>> {
    let mut how = fs::OpenOptions::new();
    how.write(true).create_new(true).mode(0o600).custom_flags(O_NOFOLLOW).open(path)
}

/// The name of `path`, which need not be there, without links and dots; its directory must be there.
pub fn resolve_outside(path: &Path) -> io::Result<std::path::PathBuf> {
    let name =
        path.file_name().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no file's name"))?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    Ok(fs::canonicalize(directory)?.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_over_and_no_link_is_followed() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("file");
        create_outside(&path).unwrap().write_all(b"one").unwrap();
        assert_eq!(create_outside(&path).err().unwrap().kind(), io::ErrorKind::AlreadyExists);
        let link = home.path().join("link");
        std::os::unix::fs::symlink(home.path().join("target"), &link).unwrap();
        assert!(create_outside(&link).is_err());
        assert_eq!(read_outside(&path).unwrap(), b"one");
        assert!(open_outside(home.path()).is_err(), "a directory");
        let mut text = String::new();
        open_outside(&path).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "one");
        let around = home.path().join(".").join("new");
        assert_eq!(resolve_outside(&around).unwrap(), home.path().canonicalize().unwrap().join("new"));
        assert!(resolve_outside(&home.path().join("missing/new")).is_err());
    }
}
