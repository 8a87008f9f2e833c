//! The keys of the filesystem: the only code that builds or parses one.
//!
//! ```text
//! kind  rest                                   value
//! 0x01  "super"                                superblock: format, block size, name secret, leased inode numbers
//! 0x10  ino:be64                               inode record, see `inode`
//! 0x20  dir:be64 hash:be64 name                ino:be64 type:u8, see `dirent`
//! 0x30  ino:be64 name                          the extended attribute's value
//! 0x40  ino:be64 epoch:be32 block:be64         the block's bytes and nothing else
//! 0x50  ino:be64                               empty: an inode without a name that is still in use
//! 0x51  ino:be64 epoch:be32 from:be64          to:be64 bytes:be64: blocks from..to are still to be deleted
//! 0x60  name                                   counters
//! ```
//!
//! 1. The kind comes first, so metadata stays dense and the churn of blocks never drags inodes through a merge.
//! 2. Integers are big-endian: the order of creation is the order of keys.
//! 3. `hash` is XXH3-64 of the name under the store's secret, cut to 63 bits and above 2. It is the readdir
//!    cookie; the name behind it keeps colliding names apart.
//! 4. A file's `epoch` grows when its content is dropped as a whole, so old blocks never show through new ones.
//! 5. A missing block is a hole.

use crate::engine::{KeyKind, KeyRange};
use crate::fs::types::Ino;

const SUPER: u8 = 0x01;
const INODE: u8 = 0x10;
const DIRENT: u8 = 0x20;
const XATTR: u8 = 0x30;
const BLOCK: u8 = 0x40;
const ORPHAN: u8 = 0x50;
const RECLAIM: u8 = 0x51;
const COUNTER: u8 = 0x60;

/// Bytes of a key before any name: its kind and an inode's number.
pub(super) const NAMELESS_BYTES: usize = 9;

/// Names of the key kinds, indexed by what [`classify`] returns.
pub const KIND_NAMES: [&str; 8] =
    ["super", "inode", "dirent", "xattr", "block", "orphan", "reclaim", "counter"];

/// The kind of a key, for counting; an index into [`KIND_NAMES`]. Unknown keys count as `super`.
pub fn classify(key: &[u8]) -> KeyKind {
    match key.first() {
        Some(&INODE) => 1,
        Some(&DIRENT) => 2,
        Some(&XATTR) => 3,
        Some(&BLOCK) => 4,
        Some(&ORPHAN) => 5,
        Some(&RECLAIM) => 6,
        Some(&COUNTER) => 7,
        _ => 0,
    }
}

/// Whether a key is that of a block.
pub fn is_block(key: &[u8]) -> bool {
    key.first() == Some(&BLOCK)
}

/// A key, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key<'a> {
    /// The superblock.
    Super,
    /// An inode.
    Inode {
        /// Its number.
        ino: Ino,
    },
    /// A name in a directory.
    Dirent {
        /// The directory.
        dir: Ino,
        /// The name's hash.
        hash: u64,
        /// The name.
        name: &'a [u8],
    },
    /// An extended attribute.
    Xattr {
        /// The inode that has it.
        ino: Ino,
        /// Its name with the namespace.
        name: &'a [u8],
    },
    /// A block of a file.
    Block {
        /// The file.
        ino: Ino,
        /// The epoch of its content.
        epoch: u32,
        /// Index of the block.
        block: u64,
    },
    /// An inode without a name.
    Orphan {
        /// Its number.
        ino: Ino,
    },
    /// A range of blocks to delete.
    Reclaim {
        /// The file they belong to.
        ino: Ino,
        /// Their epoch.
        epoch: u32,
        /// The first block of the range.
        from: u64,
    },
    /// Counters.
    Counter {
        /// Which.
        name: &'a [u8],
    },
}

/// Takes a key apart; `None` if it is not one of ours.
pub fn parse(key: &[u8]) -> Option<Key<'_>> {
    let (&kind, mut rest) = key.split_first()?;
    let parsed = match kind {
        SUPER => return (rest == b"super").then_some(Key::Super),
        INODE => Key::Inode { ino: Ino(take_u64(&mut rest)?) },
        DIRENT => {
            let (dir, hash) = (Ino(take_u64(&mut rest)?), take_u64(&mut rest)?);
            return Some(Key::Dirent { dir, hash, name: rest });
        }
        XATTR => return Some(Key::Xattr { ino: Ino(take_u64(&mut rest)?), name: rest }),
        BLOCK => Key::Block {
            ino: Ino(take_u64(&mut rest)?),
            epoch: take_u32(&mut rest)?,
            block: take_u64(&mut rest)?,
        },
        ORPHAN => Key::Orphan { ino: Ino(take_u64(&mut rest)?) },
        RECLAIM => Key::Reclaim {
            ino: Ino(take_u64(&mut rest)?),
            epoch: take_u32(&mut rest)?,
            from: take_u64(&mut rest)?,
        },
        COUNTER => return Some(Key::Counter { name: rest }),
        _ => return None,
    };
    rest.is_empty().then_some(parsed)
}

/// Takes eight big-endian bytes off the front.
pub(super) fn take_u64(source: &mut &[u8]) -> Option<u64> {
    let (head, rest) = source.split_first_chunk()?;
    *source = rest;
    Some(u64::from_be_bytes(*head))
}

/// Takes four big-endian bytes off the front.
pub(super) fn take_u32(source: &mut &[u8]) -> Option<u32> {
    let (head, rest) = source.split_first_chunk()?;
    *source = rest;
    Some(u32::from_be_bytes(*head))
}

fn with_ino(kind: u8, ino: Ino, room: usize) -> Vec<u8> {
    let mut key = Vec::with_capacity(9 + room);
    key.push(kind);
    key.extend_from_slice(&ino.0.to_be_bytes());
    key
}

fn with_epoch(kind: u8, ino: Ino, epoch: u32, index: u64) -> Vec<u8> {
    let mut key = with_ino(kind, ino, 12);
    key.extend_from_slice(&epoch.to_be_bytes());
    key.extend_from_slice(&index.to_be_bytes());
    key
}

/// Key of the superblock.
pub fn superblock() -> Vec<u8> {
    b"\x01super".to_vec()
}

/// Key of an inode.
pub fn inode(ino: Ino) -> Vec<u8> {
    with_ino(INODE, ino, 0)
}

/// Key of `name`, whose hash is `hash`, in directory `dir`.
pub fn dirent(dir: Ino, hash: u64, name: &[u8]) -> Vec<u8> {
    let mut key = with_ino(DIRENT, dir, 8 + name.len());
    key.extend_from_slice(&hash.to_be_bytes());
    key.extend_from_slice(name);
    key
}

/// Common prefix of the keys of all names in directory `dir`.
pub fn dirent_prefix(dir: Ino) -> Vec<u8> {
    with_ino(DIRENT, dir, 0)
}

/// Key of an extended attribute.
pub fn xattr(ino: Ino, name: &[u8]) -> Vec<u8> {
    let mut key = with_ino(XATTR, ino, name.len());
    key.extend_from_slice(name);
    key
}

/// Key of a block of a file.
pub fn block(ino: Ino, epoch: u32, block: u64) -> Vec<u8> {
    with_epoch(BLOCK, ino, epoch, block)
}

/// Key that marks an inode without a name.
pub fn orphan(ino: Ino) -> Vec<u8> {
    with_ino(ORPHAN, ino, 0)
}

/// Key of a range of blocks to delete.
pub fn reclaim(ino: Ino, epoch: u32, from: u64) -> Vec<u8> {
    with_epoch(RECLAIM, ino, epoch, from)
}

/// Key of the counters called `name`.
pub fn counter(name: &[u8]) -> Vec<u8> {
    [&[COUNTER], name].concat()
}

/// Largest hash of a name.
pub(super) const HASH_MAX: u64 = u64::MAX >> 1;

/// The cookie of a name: its hash under `secret`, 63 bits, above 2 because 1 and 2 stand for `.` and `..`.
pub fn name_hash(secret: u64, name: &[u8]) -> u64 {
    (xxhash_rust::xxh3::xxh3_64_with_seed(name, secret) >> 1).max(3)
}

/// Keys from `start` up to, not including, `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    start: Vec<u8>,
    end: Vec<u8>,
}

impl Span {
    /// As the engine wants it.
    pub fn range(&self) -> KeyRange<'_> {
        KeyRange { start: &self.start, end: Some(&self.end) }
    }

    fn of_kind(kind: u8) -> Span {
        Span { start: vec![kind], end: vec![kind + 1] }
    }
}

/// All inodes.
pub fn inodes() -> Span {
    Span::of_kind(INODE)
}

/// All names of all directories.
pub fn dirents() -> Span {
    Span::of_kind(DIRENT)
}

/// All extended attributes.
pub fn xattrs() -> Span {
    Span::of_kind(XATTR)
}

/// All marks of inodes without a name.
pub fn orphans() -> Span {
    Span::of_kind(ORPHAN)
}

/// All ranges to delete.
pub fn reclaims() -> Span {
    Span::of_kind(RECLAIM)
}

/// Names of `dir` whose hash is above `cookie`.
pub fn dirents_after(dir: Ino, cookie: u64) -> Span {
    Span { start: dirent(dir, cookie.saturating_add(1), b""), end: with_ino(DIRENT, dir.next(), 0) }
}

/// Extended attributes of `ino`.
pub fn xattrs_of(ino: Ino) -> Span {
    Span { start: xattr(ino, b""), end: with_ino(XATTR, ino.next(), 0) }
}

/// Blocks `from..to` of a file.
pub fn blocks(ino: Ino, epoch: u32, from: u64, to: u64) -> Span {
    Span { start: block(ino, epoch, from), end: block(ino, epoch, to) }
}

/// Ranges to delete in one epoch of a file.
pub fn reclaims_of(ino: Ino, epoch: u32) -> Span {
    let mut end = reclaim(ino, epoch, u64::MAX);
    end.push(0);
    Span { start: reclaim(ino, epoch, 0), end }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_parses_back_and_every_cut_of_a_fixed_one_is_refused() {
        let keys = [
            (superblock(), Key::Super),
            (inode(Ino(7)), Key::Inode { ino: Ino(7) }),
            (dirent(Ino(7), 9, b"name"), Key::Dirent { dir: Ino(7), hash: 9, name: b"name" }),
            (xattr(Ino(7), b"user.a"), Key::Xattr { ino: Ino(7), name: b"user.a" }),
            (block(Ino(7), 2, 3), Key::Block { ino: Ino(7), epoch: 2, block: 3 }),
            (orphan(Ino(7)), Key::Orphan { ino: Ino(7) }),
            (reclaim(Ino(7), 2, 3), Key::Reclaim { ino: Ino(7), epoch: 2, from: 3 }),
            (counter(b"total"), Key::Counter { name: b"total" }),
        ];
        for (index, (bytes, key)) in keys.iter().enumerate() {
            assert_eq!(parse(bytes), Some(*key));
            assert_eq!(usize::from(classify(bytes)), index, "{}", KIND_NAMES[index]);
            if !matches!(key, Key::Dirent { .. } | Key::Xattr { .. } | Key::Counter { .. }) {
                assert!((0..bytes.len()).all(|cut| parse(&bytes[..cut]).is_none()), "{key:?}");
            }
        }
        assert_eq!(parse(b""), None);
        assert_eq!(parse(b"\x99abc"), None);
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(block(Ino(0x0102), 3, 4), b"\x40\0\0\0\0\0\0\x01\x02\0\0\0\x03\0\0\0\0\0\0\0\x04");
        assert_eq!(dirent(Ino(1), 2, b"x"), b"\x20\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02x");
        // XXH3-64 of "hello" without a seed, as the reference implementation gives it.
        assert_eq!(name_hash(0, b"hello"), 0x9555_e855_5c62_dcfd >> 1);
    }

    #[test]
    fn spans_hold_their_own_and_not_their_neighbours() {
        let holds = |span: &Span, key: &[u8]| key >= span.range().start && span.range().is_before_end(key);
        let names = dirents_after(Ino(5), 2);
        assert!(
            holds(&names, &dirent(Ino(5), 3, b"a")) && holds(&names, &dirent(Ino(5), u64::MAX >> 1, b"\xff"))
        );
        assert!(!holds(&names, &dirent(Ino(5), 2, b"zz")) && !holds(&names, &dirent(Ino(6), 3, b"")));
        assert!(holds(&reclaims_of(Ino(5), 1), &reclaim(Ino(5), 1, u64::MAX)));
        assert!(!holds(&reclaims_of(Ino(5), 1), &reclaim(Ino(5), 2, 0)));
        assert!(!holds(&blocks(Ino(5), 0, 1, 3), &block(Ino(5), 0, 3)));
        assert!(
            holds(&xattrs_of(Ino(5)), &xattr(Ino(5), b"user.x"))
                && !holds(&xattrs_of(Ino(5)), &xattr(Ino(6), b""))
        );
    }
}
