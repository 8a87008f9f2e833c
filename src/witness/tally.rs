//! Counts by file: who of all the files is written most.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

/// Files that are remembered after the kernel has forgotten them; what more there are is added up.
const DEPARTED_MAX: usize = 10_000;

/// Traffic of one file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileTraffic {
    /// Bytes written.
    pub write_bytes: u64,
    /// Write requests.
    pub writes: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Syncs.
    pub syncs: u64,
}

impl FileTraffic {
    /// Whether nothing passed.
    pub fn is_empty(&self) -> bool {
        *self == FileTraffic::default()
    }

    /// What was added since `earlier`.
    pub fn since(&self, earlier: &FileTraffic) -> FileTraffic {
        FileTraffic {
            write_bytes: self.write_bytes.saturating_sub(earlier.write_bytes),
            writes: self.writes.saturating_sub(earlier.writes),
            read_bytes: self.read_bytes.saturating_sub(earlier.read_bytes),
            syncs: self.syncs.saturating_sub(earlier.syncs),
        }
    }
}

impl std::ops::AddAssign for FileTraffic {
    fn add_assign(&mut self, other: FileTraffic) {
        self.write_bytes += other.write_bytes;
        self.writes += other.writes;
        self.read_bytes += other.read_bytes;
        self.syncs += other.syncs;
    }
}

/// Counts the traffic of one file from many threads.
#[derive(Debug, Default)]
pub struct Tally {
    write_bytes: AtomicU64,
    writes: AtomicU64,
    read_bytes: AtomicU64,
    syncs: AtomicU64,
}

impl Tally {
    /// A write.
    pub fn wrote(&self, bytes: u64) {
        self.writes.fetch_add(1, Relaxed);
        self.write_bytes.fetch_add(bytes, Relaxed);
    }

    /// A read.
    pub fn read(&self, bytes: u64) {
        self.read_bytes.fetch_add(bytes, Relaxed);
    }

    /// A sync.
    pub fn synced(&self) {
        self.syncs.fetch_add(1, Relaxed);
    }

    /// Counts so far.
    pub fn snapshot(&self) -> FileTraffic {
        FileTraffic {
            write_bytes: self.write_bytes.load(Relaxed),
            writes: self.writes.load(Relaxed),
            read_bytes: self.read_bytes.load(Relaxed),
            syncs: self.syncs.load(Relaxed),
        }
    }
}

/// Traffic of files that the kernel has forgotten, by the path that they had last. `None` for all that there is no room for.
#[derive(Clone, Debug, Default)]
pub struct Departed(Arc<Mutex<HashMap<Option<Vec<u8>>, FileTraffic>>>);

impl Departed {
    /// Adds a file.
    pub fn add(&self, path: Vec<u8>, traffic: FileTraffic) {
        let mut files = self.0.lock();
        let path = Some(path);
        let key = if files.contains_key(&path) || files.len() < DEPARTED_MAX { path } else { None };
        *files.entry(key).or_default() += traffic;
    }

    /// All of them.
    pub fn snapshot(&self) -> HashMap<Option<Vec<u8>>, FileTraffic> {
        self.0.lock().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_gone_are_remembered_up_to_a_limit_and_none_of_their_bytes_is_lost() {
        let departed = Departed::default();
        let one = FileTraffic { write_bytes: 3, writes: 1, read_bytes: 2, syncs: 1 };
        for number in 0..DEPARTED_MAX + 5 {
            departed.add(format!("log.{number}").into_bytes(), one);
        }
        departed.add(b"log.0".to_vec(), one);
        let files = departed.snapshot();
        assert_eq!(files.len(), DEPARTED_MAX + 1);
        assert_eq!(files[&Some(b"log.0".to_vec())].write_bytes, 6);
        assert_eq!(files[&None].writes, 5);
        assert_eq!(files[&None].since(&one).writes, 4);
    }
}
