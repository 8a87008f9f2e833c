//! The record behind a name: `ino:be64 type:u8`, and the cache of names.
//!
//! The cache holds names that exist, keyed by directory and hash. It is filled and changed only under the lock of
//! the directory, so it never disagrees with the engine.

use std::num::NonZeroUsize;

use lru::LruCache;
use parking_lot::Mutex;

use super::error::damaged;
use super::keys::{self, take_u64};
use super::types::{FileKind, Ino};
use crate::fs::Result;

/// Names kept in memory.
const NAMES_MAX: usize = 128 << 10;
const SHARDS: usize = 16;

/// An entry: the inode that a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Dirent {
    pub ino: Ino,
    pub kind: FileKind,
}

impl Dirent {
    /// Key and value bytes of a name's record.
    pub fn record_bytes(name: &[u8]) -> u64 {
        (17 + name.len() + 9) as u64
    }

    /// The record's bytes.
    pub fn encode(self) -> Vec<u8> {
        let mut bytes = self.ino.0.to_be_bytes().to_vec();
        bytes.push((self.kind.mode_bits() >> 12) as u8);
        bytes
    }

    /// Reads a record; `Damaged` if it does not parse.
    pub fn decode(bytes: &[u8]) -> Result<Dirent> {
        Self::parse(bytes).ok_or_else(|| damaged("a directory entry does not parse"))
    }

    fn parse(bytes: &[u8]) -> Option<Dirent> {
        let mut source = bytes;
        let ino = Ino(take_u64(&mut source)?);
        let [kind] = source else { return None };
        let kind = FileKind::from_mode(u32::from(*kind) << 12).filter(|_| (1..16).contains(kind))?;
        Some(Dirent { ino, kind })
    }
}

type Shard = LruCache<(Ino, u64), (Box<[u8]>, Dirent)>;

/// Names that were looked up lately.
pub(super) struct Names {
    /// Keys their hash.
    secret: u64,
    shards: [Mutex<Shard>; SHARDS],
}

impl Names {
    pub fn new(secret: u64) -> Names {
        let capacity = NonZeroUsize::new(NAMES_MAX / SHARDS).expect("a positive constant");
        Names { secret, shards: std::array::from_fn(|_| Mutex::new(LruCache::new(capacity))) }
    }

    /// The hash under which a name is stored.
    pub fn hash(&self, name: &[u8]) -> u64 {
        keys::name_hash(self.secret, name)
    }

    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[hash as usize % SHARDS]
    }

    /// The entry of `name`, if it is in the cache.
    pub fn get(&self, dir: Ino, hash: u64, name: &[u8]) -> Option<Dirent> {
        let mut shard = self.shard(hash).lock();
        shard.get(&(dir, hash)).filter(|(known, _)| **known == *name).map(|(_, entry)| *entry)
    }

    /// Remembers a name.
    pub fn put(&self, dir: Ino, hash: u64, name: &[u8], entry: Dirent) {
        self.shard(hash).lock().put((dir, hash), (name.into(), entry));
    }

    /// Forgets a name, and with it one that has the same hash.
    pub fn remove(&self, dir: Ino, hash: u64) {
        self.shard(hash).lock().pop(&(dir, hash));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_and_every_cut_is_refused() {
        let entry = Dirent { ino: Ino(0x0102), kind: FileKind::Directory };
        let bytes = b"\0\0\0\0\0\0\x01\x02\x04";
        assert_eq!(entry.encode(), bytes);
        assert_eq!(Dirent::decode(bytes).unwrap(), entry);
        assert!((0..bytes.len()).all(|cut| Dirent::decode(&bytes[..cut]).is_err()));
        assert!(Dirent::decode(b"\0\0\0\0\0\0\x01\x02\x04\0").is_err());
        assert!(Dirent::decode(b"\0\0\0\0\0\0\x01\x02\x00").is_err());
        assert!(Dirent::decode(b"\0\0\0\0\0\0\x01\x02\x03").is_err());
    }

    #[test]
    fn names_of_one_hash_are_told_apart() {
        let names = Names::new(0);
        let entry = Dirent { ino: Ino(2), kind: FileKind::File };
        names.put(Ino(1), 9, b"a", entry);
        assert_eq!(names.get(Ino(1), 9, b"a"), Some(entry));
        assert_eq!(names.get(Ino(1), 9, b"b"), None);
        names.remove(Ino(1), 9);
        assert_eq!(names.get(Ino(1), 9, b"a"), None);
    }
}
