//! A directory in which somebody else's engine keeps its files, with all that is below it: what it occupies, and how it goes.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

/// The paths of what is in a directory; of one that is missing, none.
pub fn entries(path: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        entries => entries?.map(|entry| Ok(entry?.path())).collect(),
    }
}

/// Calls `visit` with every file below `path`. What is removed meanwhile is left out.
fn walk(path: &Path, visit: &mut dyn FnMut(&Path, &fs::Metadata) -> io::Result<()>) -> io::Result<()> {
    let is_gone = |error: &io::Error| error.kind() == io::ErrorKind::NotFound;
    let entries = match fs::read_dir(path) {
        Err(error) if is_gone(&error) => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        // Of a link itself, never of what it names.
        match fs::symlink_metadata(&path) {
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
            Ok(found) if found.is_dir() => walk(&path, visit)?,
            Ok(found) if found.is_file() => visit(&path, &found)?,
            Ok(_) => {}
        }
    }
    Ok(())
}

/// Bytes that the files below `path` occupy on the device, blocks and not lengths, and how many files they are. None if there is no such
/// directory.
pub fn occupied(path: &Path) -> io::Result<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let (mut bytes, mut files) = (0, 0);
    walk(path, &mut |_, found| {
        bytes += found.blocks() * 512;
        files += 1;
        Ok(())
    })?;
    Ok((bytes, files))
}

/// Writes the files below `path` back and drops them from the page cache, which needs no privilege. What is open or mapped may stay.
pub fn drop_from_cache(path: &Path) -> io::Result<()> {
    walk(path, &mut |path, _| {
        let file = fs::File::open(path)?;
        file.sync_all()?;
        Ok(posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
    })
}

/// Removes the directory `path` and everything below it; nothing if there is none.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_is_measured_in_blocks_forgotten_and_removed() {
        let home = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR").to_string() + "/target").unwrap();
        let (path, outside) = (home.path().join("tree"), home.path().join("outside"));
        assert_eq!(occupied(&path).unwrap(), (0, 0));
        fs::create_dir_all(path.join("below/deeper")).unwrap();
        fs::write(&outside, vec![1; 1 << 20]).unwrap();
        fs::write(path.join("one"), vec![1; 10_000]).unwrap();
        fs::write(path.join("below/deeper/two"), vec![2; 5_000]).unwrap();
        // A hole occupies nothing, and what a link names is elsewhere.
        fs::File::create(path.join("hole")).unwrap().set_len(1 << 30).unwrap();
        std::os::unix::fs::symlink(&outside, path.join("link")).unwrap();
        drop_from_cache(&path).unwrap();
        let (bytes, files) = occupied(&path).unwrap();
        assert!((15_000..200_000).contains(&bytes) && files == 3, "{bytes} in {files}");
        assert_eq!(fs::read(path.join("one")).unwrap(), vec![1; 10_000]);
        remove_tree(&path).unwrap();
        remove_tree(&path).unwrap();
        assert!(!path.exists() && outside.exists());
    }
}
