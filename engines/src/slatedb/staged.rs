//! What a writer to a directory leaves when it dies: objects that it was making.
//!
//! An object in a directory is written to a file of its name, `#` and a number, synced, and given its name then. Whoever lists objects does not see such
//! a file, so nobody else would ever remove it, and it may be as large as a table.

use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Age from which nobody is making it any more: longer than it takes to write the largest object.
const AGE: Duration = Duration::from_secs(3600);

/// Whether a file of this name is an object that was being made.
fn is_staged(name: &str) -> bool {
    let Some((_, number)) = name.split_once('#') else { return false };
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

/// Removes below `directory` what has been left for an hour, and returns how many files and bytes those were.
pub fn sweep(directory: &Path) -> io::Result<(u64, u64)> {
    sweep_older(directory, AGE)
}

fn sweep_older(directory: &Path, age: Duration) -> io::Result<(u64, u64)> {
    let (mut files, mut bytes) = (0, 0);
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        if kind.is_dir() {
            let (files_below, bytes_below) = sweep_older(&entry.path(), age)?;
            (files, bytes) = (files + files_below, bytes + bytes_below);
        } else if kind.is_file() && name.to_str().is_some_and(is_staged) {
            // It may have got its name meanwhile.
            let Ok(metadata) = entry.metadata() else { continue };
            let is_old =
                SystemTime::now().duration_since(metadata.modified()?).is_ok_and(|since| since >= age);
            if is_old && std::fs::remove_file(entry.path()).is_ok() {
                (files, bytes) = (files + 1, bytes + metadata.len());
            }
        }
    }
    Ok((files, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{File, create_dir_all, read_dir};

    #[test]
    fn what_was_left_goes_and_objects_and_what_is_being_made_stay() {
        let home = tempfile::tempdir().unwrap();
        let log = home.path().join("db/wal");
        create_dir_all(&log).unwrap();
        let hours = |hours: u64| SystemTime::now() - Duration::from_secs(hours * 3600);
        for (name, modified) in [
            ("1.sst", hours(2)),
            ("2.sst#1", hours(2)),
            ("3.sst#12", hours(0)),
            ("4.sst#", hours(2)),
            ("a#b", hours(2)),
        ] {
            let file = File::create(log.join(name)).unwrap();
            file.set_len(1000).unwrap();
            file.set_modified(modified).unwrap();
        }
        assert_eq!(sweep(home.path()).unwrap(), (1, 1000));
        let mut left: Vec<_> =
            read_dir(&log).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        left.sort();
        assert_eq!(left, ["1.sst", "3.sst#12", "4.sst#", "a#b"]);
        assert_eq!(sweep(home.path()).unwrap(), (0, 0));
        assert!(sweep(&home.path().join("none")).is_err());
    }

    /// The form of these names is object_store's: what it leaves when it is stopped in the middle is what is swept.
    #[tokio::test]
    async fn an_object_that_is_given_up_half_way_is_of_that_form() {
        use object_store::{ObjectStoreExt, local::LocalFileSystem, path::Path};
        let home = tempfile::tempdir().unwrap();
        let objects = LocalFileSystem::new_with_prefix(home.path()).unwrap();
        let mut upload = objects.put_multipart(&Path::from("db/compacted/1.sst")).await.unwrap();
        upload.put_part(vec![1; 1000].into()).await.unwrap();
        // The process ends.
        std::mem::forget(upload);
        assert_eq!(sweep_older(home.path(), Duration::ZERO).unwrap(), (1, 1000));
    }
}
