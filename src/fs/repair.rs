//! Repair: mends what the check finds until it finds nothing, and says what of which file was lost below.
//!
//! 1. Check; every problem yields keys to write or to delete, see `check`.
//! 2. Delete the totals, so that the next mount counts anew, then apply the mends in batches.
//! 3. Again, until a check finds nothing.
//!
//! What is done about what:
//!
//! | problem                                  | mend                                                                      |
//! |------------------------------------------|---------------------------------------------------------------------------|
//! | links, stored bytes, flags, parents      | counted anew                                                              |
//! | a block behind the end of its file       | the file is as long as its blocks                                         |
//! | an inode without a name, not deleted     | named `lost+found/#INODE`                                                 |
//! | a name without an inode                  | dropped; if there are blocks, or the record was lost below, a new record  |
//! | names in a directory without a record    | a new record; without a name of its own, in `lost+found`                  |
//! | blocks or attributes without an inode    | dropped; if the record was lost below, a new one, in `lost+found`         |
//! | a directory with several names           | keeps the one that it knows of                                            |
//! | directories that lie in each other       | one is taken out, to `lost+found`                                         |
//! | no superblock                            | a new one, and every name under its new hash                              |
//!
//! # Invariants
//!
//! 1. No block is dropped that belongs to an inode with a record or a name, unless it is of a former epoch or holds no byte.
//! 2. A mend is one batch, and any prefix of the batches is a store that a later repair completes.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::ControlFlow;

use super::check::{CheckSummary, Evidence, Mend, diagnose};
use super::dirent::Dirent;
use super::inode::Inode;
use super::keys::{self, Key};
use super::superblock::Superblock;
use super::types::{FileKind, Ino, ROOT};
use super::{Result, counters};
use crate::engine::salvage::{Keys, Loss, apply};
use crate::engine::{Batch, Engine, Tier};

/// Checks before the repair gives up; each but the last has mended something.
const PASSES_MAX: usize = 64;
/// Keys changed in one batch, unless one mend has more.
const BATCH_KEYS: usize = 256;
/// Directories above a file that its path shows.
const DEPTH_MAX: usize = 4096;

/// The store's description, for a store whose superblock is lost.
#[derive(Clone, Copy, Debug)]
pub struct Described {
    /// Bytes of a block.
    pub block_bytes: u64,
    /// The store's.
    pub uuid: [u8; 16],
}

/// Result of [`repair`].
#[derive(Clone, Debug, Default)]
pub struct Repaired {
    /// Problems that the first check saw.
    pub problems: Vec<String>,
    /// Changes made, in order.
    pub mends: Vec<String>,
    /// Problems that are left.
    pub left: Vec<String>,
    /// Summary of the last check.
    pub summary: CheckSummary,
}

/// A part of a file that may be missing or older than it was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Affected {
    /// Its path from the root.
    pub path: String,
    /// Its inode.
    pub ino: Ino,
    /// Which part.
    pub part: Part,
}

/// A part of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Owner, permissions, times, size.
    Attributes,
    /// Names in a directory.
    Names,
    /// Extended attributes.
    Xattrs,
    /// Bytes from an offset up to, not including, another.
    Bytes(u64, u64),
}

impl fmt::Display for Affected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.path)?;
        match self.part {
            Part::Attributes => f.write_str("its attributes"),
            Part::Names => f.write_str("names in it"),
            Part::Xattrs => f.write_str("its extended attributes"),
            Part::Bytes(from, to) => write!(f, "bytes {from} to {to}"),
        }
    }
}

/// Mends what `engine` holds, which nobody may use meanwhile. `losses` are what a salvage could not read: what seems to be
/// missing there was lost, not deleted. An error means that the repair stopped; it can be begun again.
pub fn repair(engine: &dyn Engine, described: Described, losses: &[Loss]) -> Result<Repaired> {
    let is_lost =
        |key: &[u8]| losses.iter().any(|loss| loss.keys.as_ref().is_none_or(|keys| keys.contains(key)));
    let Described { block_bytes, uuid } = described;
    let evidence = Evidence { block_bytes, uuid, is_lost: &is_lost };
    let mut repaired = Repaired::default();
    for pass in 0..PASSES_MAX {
        let mut problems = Vec::new();
        let (summary, mends) = diagnose(engine, Some(&evidence), &mut |problem| problems.push(problem.what))?;
        repaired.summary = summary;
        if pass == 0 {
            repaired.problems = problems.clone();
        }
        repaired.left = problems;
        if mends.is_empty() {
            break;
        }
        mend(engine, &mends)?;
        repaired.mends.extend(mends.into_iter().map(|mend| mend.what));
    }
    Ok(repaired)
}

/// The uuid in the superblock of `engine`, if that can be read.
pub fn stored_uuid(engine: &dyn Engine) -> Option<[u8; 16]> {
    let bytes = engine.get(&keys::superblock(), Tier::Disk).ok()??;
    Superblock::decode(&bytes).ok().map(|superblock| superblock.identity.uuid)
}

/// Parts of files whose keys are among `losses`, as far as anything is left that says whose they are; ascending.
pub fn affected(engine: &dyn Engine, losses: &[Loss]) -> Result<Vec<Affected>> {
    let ranges: Vec<&Keys> =
        losses.iter().filter_map(|loss| loss.keys.as_ref()).filter(|keys| !keys.is_empty()).collect();
    if ranges.is_empty() {
        return Ok(Vec::new());
    }
    let superblock = engine.get(&keys::superblock(), Tier::Disk)?;
    let superblock = superblock.and_then(|bytes| Superblock::decode(&bytes).ok());
    let block_bytes = superblock.map_or(1, |superblock| superblock.block_bytes);
    let mut names: HashMap<Ino, (Ino, Vec<u8>)> = HashMap::new();
    engine.scan(keys::dirents().range(), Tier::Disk, &mut |key, value| {
        if let (Some(Key::Dirent { dir, name, .. }), Ok(entry)) = (keys::parse(key), Dirent::decode(value)) {
            names.insert(entry.ino, (dir, name.to_vec()));
        }
        ControlFlow::Continue(())
    })?;
    let mut records: BTreeMap<Ino, Inode> = BTreeMap::new();
    engine.scan(keys::inodes().range(), Tier::Disk, &mut |key, value| {
        if let Some(Key::Inode { ino }) = keys::parse(key)
            && let Ok(record) = Inode::decode(ino, value)
        {
            records.insert(ino, record);
        }
        ControlFlow::Continue(())
    })?;
    let mut affected = Vec::new();
    // A name whose record is what was lost.
    for (&ino, _) in names.iter().filter(|(ino, _)| !records.contains_key(ino)) {
        if ranges.iter().any(|range| range.contains(&keys::inode(ino))) {
            affected.push(Affected { path: path_of(ino, &names), ino, part: Part::Attributes });
        }
    }
    for (&ino, record) in &records {
        let mut parts = Vec::new();
        for range in &ranges {
            if range.contains(&keys::inode(ino)) {
                parts.push(Part::Attributes);
            }
            if record.is_directory() && touches(range, &keys::dirent_prefix(ino)) {
                parts.push(Part::Names);
            }
            if touches(range, &keys::xattr(ino, b"")) {
                parts.push(Part::Xattrs);
            }
            if record.kind == FileKind::File
                && let Some((from, to)) = blocks_in(range, ino, record.epoch)
            {
                let from = from.saturating_mul(block_bytes);
                let to = to.saturating_mul(block_bytes).min(record.size);
                parts.extend((from < to).then_some(Part::Bytes(from, to)));
            }
        }
        if !parts.is_empty() {
            let path = path_of(ino, &names);
            affected.extend(parts.into_iter().map(|part| Affected { path: path.clone(), ino, part }));
        }
    }
    affected.sort();
    affected.dedup();
    Ok(affected)
}

/// Applies mends, each whole in one batch.
fn mend(engine: &dyn Engine, mends: &[Mend]) -> Result<()> {
    let mut batch = Batch::default();
    batch.uses_reserve = true;
    batch.delete(keys::counter(counters::TOTAL));
    for mend in mends {
        for (key, value) in &mend.changes {
            match value {
                Some(value) => batch.put(key.clone(), value.clone()),
                None => batch.delete(key.clone()),
            }
        }
        if batch.operations().len() >= BATCH_KEYS {
            apply(engine, &std::mem::take(&mut batch))?;
            batch.uses_reserve = true;
        }
    }
    Ok(apply(engine, &batch)?)
}

/// Whether a key that begins with `prefix` is among `keys`.
fn touches(keys: &Keys, prefix: &[u8]) -> bool {
    let begins_after = &keys.start[..] > prefix && !keys.start.starts_with(prefix);
    let ends_before = keys.end.as_deref().is_some_and(|end| end <= prefix);
    !begins_after && !ends_before
}

/// The blocks `from..to` of a file that are among `keys`.
fn blocks_in(keys: &Keys, ino: Ino, epoch: u32) -> Option<(u64, u64)> {
    let first = keys::block(ino, epoch, 0);
    let prefix = &first[..first.len() - 8];
    if !touches(keys, prefix) {
        return None;
    }
    // The first block whose key is not below `key`, which begins with the prefix.
    let index = |key: &[u8]| {
        let mut bytes = [0; 8];
        let rest = &key[prefix.len()..];
        let length = rest.len().min(8);
        bytes[..length].copy_from_slice(&rest[..length]);
        u64::from_be_bytes(bytes).saturating_add(u64::from(rest.len() > 8))
    };
    let from = if keys.start.starts_with(prefix) { index(&keys.start) } else { 0 };
    let end = keys.end.as_deref().filter(|end| end.starts_with(prefix));
    let to = end.map_or(u64::MAX, index);
    (from < to).then_some((from, to))
}

/// The path of an inode from the root; `#INODE` stands for what has no name.
fn path_of(ino: Ino, names: &HashMap<Ino, (Ino, Vec<u8>)>) -> String {
    let mut parts = Vec::new();
    let mut at = ino;
    while at != ROOT && parts.len() < DEPTH_MAX {
        match names.get(&at) {
            Some((dir, name)) => {
                parts.push(name.escape_ascii().to_string());
                at = *dir;
            }
            None => {
                parts.push(format!("#{at}"));
                break;
            }
        }
    }
    parts.reverse();
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::salvage::successor;

    #[test]
    fn a_gap_between_two_blocks_is_the_blocks_between() {
        let gap = |after: (Ino, u64), before: (Ino, u64)| {
            Keys::between(Some(&keys::block(after.0, 0, after.1)), Some(&keys::block(before.0, 0, before.1)))
        };
        assert_eq!(blocks_in(&gap((Ino(5), 7), (Ino(5), 9)), Ino(5), 0), Some((8, 9)));
        assert_eq!(blocks_in(&gap((Ino(5), 7), (Ino(5), 8)), Ino(5), 0), None, "neighbours");
        let across = gap((Ino(5), 7), (Ino(8), 3));
        let found = [4, 5, 6, 8, 9].map(|ino| blocks_in(&across, Ino(ino), 0));
        assert_eq!(found, [None, Some((8, u64::MAX)), Some((0, u64::MAX)), Some((0, 3)), None]);
        assert_eq!(blocks_in(&Keys::one(&keys::block(Ino(5), 2, 7)), Ino(5), 2), Some((7, 8)));
        assert_eq!(blocks_in(&Keys::one(&keys::block(Ino(5), 2, 7)), Ino(5), 1), None);
        assert_eq!(blocks_in(&Keys::ALL, Ino(5), 1), Some((0, u64::MAX)));
    }

    #[test]
    fn a_range_touches_what_begins_inside_it() {
        let range = Keys { start: b"bb".to_vec(), end: Some(successor(b"dd")) };
        let touched =
            [&b"a"[..], b"b", b"bb", b"c", b"dd", b"de", b"bba"].map(|prefix| touches(&range, prefix));
        assert_eq!(touched, [false, true, true, true, true, false, true]);
    }
}
