//! Totals: inodes and bytes, kept in memory and stored at a clean end.
//!
//! The record `total` holds a byte that says whether it may be believed, then four be64. Opening marks it as not to be
//! believed, in one batch; closing writes the totals and marks them good. After a crash the totals are counted anew
//! from inodes, names and attributes, without reading blocks: each inode knows what it stores.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use super::inode::Inode;
use super::keys::{self, Key, take_u64};
use super::{Result, inode};
use crate::engine::{Engine, Tier};

/// Name of the record.
pub(super) const TOTAL: &[u8] = b"total";

/// A change of the totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Change {
    pub inodes: i64,
    pub apparent_bytes: i64,
    pub stored_bytes: i64,
    pub record_bytes: i64,
}

impl Change {
    /// An inode appears.
    pub fn added(record: &Inode) -> Change {
        Change {
            inodes: 1,
            apparent_bytes: record.size as i64,
            stored_bytes: record.stored_bytes as i64,
            record_bytes: record.record_bytes() as i64,
        }
    }

    /// An inode goes.
    pub fn removed(record: &Inode) -> Change {
        let added = Change::added(record);
        Change {
            inodes: -1,
            apparent_bytes: -added.apparent_bytes,
            stored_bytes: -added.stored_bytes,
            record_bytes: -added.record_bytes,
        }
    }

    /// An inode changes.
    pub fn between(old: &Inode, new: &Inode) -> Change {
        Change::added(new).plus(Change::removed(old))
    }

    /// Names or attributes of so many bytes appear, or go.
    pub fn records(bytes: i64) -> Change {
        Change { record_bytes: bytes, ..Change::default() }
    }

    pub fn plus(self, other: Change) -> Change {
        Change {
            inodes: self.inodes + other.inodes,
            apparent_bytes: self.apparent_bytes.wrapping_add(other.apparent_bytes),
            stored_bytes: self.stored_bytes.wrapping_add(other.stored_bytes),
            record_bytes: self.record_bytes + other.record_bytes,
        }
    }
}

/// The totals.
#[derive(Default)]
pub(super) struct Counters {
    inodes: AtomicI64,
    apparent_bytes: AtomicI64,
    stored_bytes: AtomicI64,
    record_bytes: AtomicI64,
}

impl Counters {
    pub fn add(&self, change: Change) {
        self.inodes.fetch_add(change.inodes, Relaxed);
        self.apparent_bytes.fetch_add(change.apparent_bytes, Relaxed);
        self.stored_bytes.fetch_add(change.stored_bytes, Relaxed);
        self.record_bytes.fetch_add(change.record_bytes, Relaxed);
    }

    /// The totals, as the change from nothing.
    pub fn total(&self) -> Change {
        Change {
            inodes: self.inodes.load(Relaxed),
            apparent_bytes: self.apparent_bytes.load(Relaxed),
            stored_bytes: self.stored_bytes.load(Relaxed),
            record_bytes: self.record_bytes.load(Relaxed),
        }
    }
}

/// The record's bytes; `believable` is whether they will still be right when they are read.
pub(super) fn encode(total: Change, believable: bool) -> Vec<u8> {
    let mut bytes = vec![u8::from(believable)];
    for word in [total.inodes, total.apparent_bytes, total.stored_bytes, total.record_bytes] {
        bytes.extend_from_slice(&word.to_be_bytes());
    }
    bytes
}

/// The totals of a record that may be believed.
pub(super) fn decode(bytes: &[u8]) -> Option<Change> {
    if bytes.first() == Some(&1) { decode_last(bytes) } else { None }
}

/// The totals of a record as they were stored last, which were right then.
pub(super) fn decode_last(bytes: &[u8]) -> Option<Change> {
    let mut source = bytes.get(1..)?;
    let mut word = || take_u64(&mut source).map(|word| word as i64);
    let total =
        Change { inodes: word()?, apparent_bytes: word()?, stored_bytes: word()?, record_bytes: word()? };
    source.is_empty().then_some(total)
}

/// Counts anew.
pub(super) fn recount(engine: &dyn Engine) -> Result<Change> {
    let (mut total, mut problem) = (Change::default(), None);
    for span in [keys::inodes(), keys::dirents(), keys::xattrs()] {
        engine.scan(span.range(), Tier::Disk, &mut |key, value| {
            match keys::parse(key) {
                Some(Key::Inode { ino }) => match inode::Inode::decode(ino, value) {
                    Ok(record) => total = total.plus(Change::added(&record)),
                    Err(error) => problem = Some(error),
                },
                _ => total = total.plus(Change::records((key.len() + value.len()) as i64)),
            }
            ControlFlow::Continue(())
        })?;
    }
    problem.map_or(Ok(total), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_and_every_cut_is_refused() {
        let total = Change { inodes: 1, apparent_bytes: 2, stored_bytes: 3, record_bytes: 4 };
        let bytes = encode(total, true);
        let expected = b"\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04";
        assert_eq!(bytes, expected);
        assert_eq!(decode(&bytes), Some(total));
        assert_eq!(decode(&encode(total, false)), None);
        assert!((0..bytes.len()).all(|cut| decode(&bytes[..cut]).is_none()));
    }
}
