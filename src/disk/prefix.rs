//! A second directory inside a flat one: names with a prefix.
//!
//! A repair writes a whole store beside the damaged one, and only then puts it in its place.

use std::io;
use std::sync::Arc;

use super::{Disk, File, FileInfo, Space};

/// The files of `disk` whose names begin with a prefix, without it.
pub struct Prefixed {
    disk: Arc<dyn Disk>,
    prefix: &'static str,
}

impl Prefixed {
    /// The files of `disk` that begin with `prefix`.
    pub fn new(disk: Arc<dyn Disk>, prefix: &'static str) -> Arc<Prefixed> {
        Arc::new(Prefixed { disk, prefix })
    }

    fn below(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

impl Disk for Prefixed {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.disk.create(&self.below(name))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.disk.open(&self.below(name))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(&self.below(from), &self.below(to))
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(&self.below(name))
    }
    fn list(&self) -> io::Result<Vec<FileInfo>> {
        let own = |info: FileInfo| {
            let name = info.name.strip_prefix(self.prefix)?.to_string();
            Some(FileInfo { name, ..info })
        };
        Ok(self.disk.list()?.into_iter().filter_map(own).collect())
    }
    fn sync_names(&self) -> io::Result<()> {
        self.disk.sync_names()
    }
    fn space(&self) -> io::Result<Space> {
        self.disk.space()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SimDisk;

    #[test]
    fn names_are_apart() {
        let below = SimDisk::new();
        let (disk, other) = (Prefixed::new(below.clone(), "a."), Prefixed::new(below.clone(), "b."));
        disk.create("x").unwrap();
        below.create("x").unwrap();
        assert!(other.open("x").is_err() && disk.open("x").is_ok());
        disk.rename("x", "y").unwrap();
        let names = |disk: &dyn Disk| -> Vec<String> {
            disk.list().unwrap().into_iter().map(|info| info.name).collect()
        };
        assert_eq!((names(&*disk), names(&*below)), (vec!["y".into()], vec!["a.y".into(), "x".into()]));
        disk.remove("y").unwrap();
        assert!(disk.open("y").is_err());
    }
}
