//! The directory of a comparison: its results, and the place below it where stores are made.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Error;
use super::{matrix, workloads};
use crate::disk::{self, Access, Disk, OsDisk, Purpose};

/// The directory below the given one in which stores are made and removed.
const STORE: &str = "kvfs-compare.tmp";
/// Every file that a comparison leaves.
const NAMES: [&str; 4] = [matrix::CSV, matrix::SVG, workloads::CSV, workloads::JSON];

/// The directory, locked.
pub struct Results {
    path: PathBuf,
    disk: Arc<OsDisk>,
}

impl Results {
    /// Makes the directory `path`, or takes one that holds nothing but what an earlier comparison left.
    pub fn open(path: &Path) -> Result<Results, Error> {
        let failed = |error| Error::io(path.display(), error);
        let disk = OsDisk::open(path, Access::Write).map_err(failed)?;
        let files = disk.list().map_err(failed)?;
        let is_ours = |name: &str| NAMES.contains(&name.trim_end_matches(".new"));
        match files.iter().find(|file| !is_ours(&file.name)) {
            None => Ok(Results { path: path.to_path_buf(), disk }),
            Some(file) => Err(Error::usage(format!(
                "{} holds {}; give a directory that is missing, empty or of an earlier comparison",
                path.display(),
                file.name
            ))),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where stores are made below the directory `path`.
    pub fn store(path: &Path) -> PathBuf {
        path.join(STORE)
    }

    /// Writes a result, whole or not at all.
    pub fn write(&self, name: &str, text: &str) -> Result<(), Error> {
        disk::replace(&*self.disk, Purpose::Manifest, name, text.as_bytes())
            .map_err(|error| Error::io(self.show(name), error))
    }

    /// A result's path, to show.
    pub fn show(&self, name: &str) -> String {
        self.path.join(name).display().to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_with_something_else_is_left_alone() {
        let place = tempfile::tempdir().unwrap();
        for name in NAMES {
            Results::open(place.path()).unwrap().write(name, "a result").unwrap();
        }
        Results::open(place.path()).unwrap().disk.create("holiday.jpg").unwrap();
        let problem = Results::open(place.path()).err().unwrap();
        assert!(
            matches!(problem, Error::Usage(_)) && problem.to_string().contains("holiday.jpg"),
            "{problem}"
        );
    }
}
