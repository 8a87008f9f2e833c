//! fsck: walks every key and states each broken invariant.
//!
//! 1. The superblock is there, and no inode has a number that is not given away yet.
//! 2. Every key and every record parses.
//! 3. Each name lies under its own hash in a living directory, and stands for an inode of its kind.
//! 4. An inode's links are its names; a directory's are two and its subdirectories.
//! 5. A directory has one name, in the directory that its record says is above; going up ends at the root.
//! 6. No name is left if and only if there is an orphan record.
//! 7. A block belongs to the current epoch of a file, lies within its size and is no longer than what of the file lies in it,
//!    or else a reclaim record covers it.
//! 8. `stored_bytes` is the sum of the living blocks.
//! 9. Extended attributes and ranges of the current epoch are announced by the inode's flags.
//! 10. Totals that claim to be right are.

use std::collections::HashMap;
use std::ops::ControlFlow;

use bytes::Bytes;

use super::counters::{self, Change};
use super::dirent::Dirent;
use super::inode::{HAS_CAPABILITY, HAS_PENDING, HAS_XATTRS, Inode};
use super::keys::{self, Key, name_hash};
use super::ops::CAPABILITY;
use super::orphans::Range;
use super::superblock::Superblock;
use super::types::{FileKind, Ino, NAME_BYTES_MAX, ROOT};
use super::{FileSystem, Result};
use crate::engine::{Engine, KeyRange, Tier};

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, in one sentence.
    pub what: String,
}

/// What [`FileSystem::check`] saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CheckSummary {
    /// Keys.
    pub keys: u64,
    /// Inodes.
    pub inodes: u64,
    /// Directories among them.
    pub directories: u64,
    /// Names.
    pub names: u64,
    /// Extended attributes.
    pub xattrs: u64,
    /// Blocks of living files.
    pub blocks: u64,
    /// Their bytes.
    pub stored_bytes: u64,
    /// Blocks that wait for reclaim.
    pub reclaim_blocks: u64,
    /// Inodes without a name.
    pub orphans: u64,
    /// Broken invariants.
    pub problems: u64,
}

/// What is known of an inode so far.
struct Seen {
    record: Inode,
    /// Names that stand for it.
    names: u32,
    /// Directories in it.
    subdirectories: u32,
    /// The directory of its last name.
    home: Option<Ino>,
    stored_bytes: u64,
    is_orphan: bool,
}

struct Checker<'a> {
    report: &'a mut dyn FnMut(Problem),
    summary: CheckSummary,
    superblock: Option<Superblock>,
    seen: HashMap<Ino, Seen>,
    ranges: HashMap<(Ino, u32), Vec<Range>>,
    total: Change,
    stored_total: Option<Change>,
}

impl FileSystem {
    /// Reads everything that `engine` holds, which nobody may change meanwhile, and reports each broken invariant. An
    /// error means that the check could not be done.
    pub fn check(engine: &dyn Engine, report: &mut dyn FnMut(Problem)) -> Result<CheckSummary> {
        let mut checker = Checker {
            report,
            summary: CheckSummary::default(),
            superblock: None,
            seen: HashMap::new(),
            ranges: HashMap::new(),
            total: Change::default(),
            stored_total: None,
        };
        match engine.get(&keys::superblock(), Tier::Disk)? {
            Some(bytes) => checker.superblock = Some(Superblock::decode(&bytes)?),
            None => checker.problem("the superblock is missing".to_string()),
        }
        // Ranges come after blocks in the order of keys, but say which blocks may be there.
        engine.scan(keys::reclaims().range(), Tier::Disk, &mut |key, value| {
            checker.range(key, value);
            ControlFlow::Continue(())
        })?;
        engine.scan(KeyRange::ALL, Tier::Disk, &mut |key, value| {
            checker.key(key, value);
            ControlFlow::Continue(())
        })?;
        checker.end();
        Ok(checker.summary)
    }
}

impl Checker<'_> {
    fn problem(&mut self, what: String) {
        self.summary.problems += 1;
        (self.report)(Problem { what });
    }

    fn range(&mut self, key: &[u8], value: &[u8]) {
        let Some(Key::Reclaim { ino, epoch, from }) = keys::parse(key) else { return };
        match Range::decode(from, value) {
            Ok(range) => self.ranges.entry((ino, epoch)).or_default().push(range),
            Err(error) => self.problem(format!("inode {ino}, epoch {epoch}, from block {from}: {error}")),
        }
    }

    fn key(&mut self, key: &[u8], value: &[u8]) {
        self.summary.keys += 1;
        match keys::parse(key) {
            None => self.problem(format!("a key that is not ours: {}", key.escape_ascii())),
            Some(Key::Super) => {}
            Some(Key::Inode { ino }) => self.inode(ino, value),
            Some(Key::Dirent { dir, hash, name }) => self.name(dir, hash, name, value),
            Some(Key::Xattr { ino, name }) => self.xattr(ino, name, value),
            Some(Key::Block { ino, epoch, block }) => self.block(ino, epoch, block, value),
            Some(Key::Orphan { ino }) => match self.seen.get_mut(&ino) {
                Some(seen) => {
                    seen.is_orphan = true;
                    self.summary.orphans += 1;
                }
                None => self.problem(format!("an orphan record for inode {ino}, which does not exist")),
            },
            Some(Key::Reclaim { ino, epoch, .. }) => match self.seen.get(&ino) {
                Some(seen) if seen.record.epoch < epoch => {
                    self.problem(format!("inode {ino}: a range of epoch {epoch}, which has not begun"));
                }
                Some(seen) if seen.record.epoch == epoch && !seen.record.has(HAS_PENDING) => {
                    self.problem(format!("inode {ino}: its record does not announce a range to reclaim"));
                }
                _ => {}
            },
            Some(Key::Counter { name }) => {
                if name == counters::TOTAL {
                    self.stored_total = counters::decode(value);
                }
            }
        }
    }

    fn inode(&mut self, ino: Ino, value: &[u8]) {
        self.summary.inodes += 1;
        let record = match Inode::decode(ino, &Bytes::copy_from_slice(value)) {
            Ok(record) => record,
            Err(error) => return self.problem(error.to_string()),
        };
        if self.superblock.is_some_and(|superblock| ino >= superblock.next_ino) {
            self.problem(format!("inode {ino} has a number that is not given away yet"));
        }
        self.summary.directories += u64::from(record.is_directory());
        self.total = self.total.plus(Change::added(&record));
        let (names, subdirectories, home, stored_bytes) = (0, 0, None, 0);
        let seen = Seen { record, names, subdirectories, home, stored_bytes, is_orphan: false };
        self.seen.insert(ino, seen);
    }

    fn name(&mut self, dir: Ino, hash: u64, name: &[u8], value: &[u8]) {
        self.summary.names += 1;
        self.total = self.total.plus(Change::records(Dirent::record_bytes(name) as i64));
        let place = format!("directory {dir}, name \"{}\"", name.escape_ascii());
        if self.superblock.is_some_and(|superblock| name_hash(superblock.identity.secret, name) != hash) {
            self.problem(format!("{place}: it lies under the hash of another name"));
        }
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.iter().any(|byte| b"/\0".contains(byte)) {
            self.problem(format!("{place}: no file can have this name"));
        }
        let entry = match Dirent::decode(value) {
            Ok(entry) => entry,
            Err(error) => return self.problem(format!("{place}: {error}")),
        };
        match self.seen.get_mut(&dir) {
            Some(seen) if seen.record.is_directory() => {
                seen.subdirectories += u32::from(entry.kind == FileKind::Directory);
                if seen.record.links == 0 {
                    self.problem(format!("{place}: the directory is removed"));
                }
            }
            Some(_) => self.problem(format!("{place}: inode {dir} is not a directory")),
            None => self.problem(format!("{place}: the directory does not exist")),
        }
        match self.seen.get_mut(&entry.ino) {
            Some(seen) => {
                seen.names += 1;
                seen.home = Some(dir);
                let kind = seen.record.kind;
                if kind != entry.kind {
                    self.problem(format!(
                        "{place}: it says {:?}, inode {} is {kind:?}",
                        entry.kind, entry.ino
                    ));
                }
            }
            None => self.problem(format!("{place}: inode {} does not exist", entry.ino)),
        }
    }

    fn xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) {
        self.summary.xattrs += 1;
        self.total = self.total.plus(Change::records((9 + name.len() + value.len()) as i64));
        let name = name.to_vec();
        match self.seen.get(&ino).map(|seen| &seen.record) {
            Some(record) if record.has(HAS_XATTRS) && (name != CAPABILITY || record.has(HAS_CAPABILITY)) => {}
            Some(_) => {
                let name = name.escape_ascii();
                self.problem(format!("inode {ino}: its record does not announce attribute {name}"));
            }
            None => self.problem(format!("an extended attribute of inode {ino}, which does not exist")),
        }
    }

    fn block(&mut self, ino: Ino, epoch: u32, block: u64, value: &[u8]) {
        let ranges = self.ranges.get(&(ino, epoch));
        if ranges.is_some_and(|ranges| ranges.iter().any(|range| range.from <= block && block < range.to)) {
            self.summary.reclaim_blocks += 1;
            return;
        }
        let length = value.len() as u64;
        let block_bytes = self.superblock.map_or(u64::MAX, |superblock| superblock.block_bytes);
        let Some(seen) = self.seen.get_mut(&ino) else {
            return self.problem(format!("block {block} of inode {ino}, which does not exist"));
        };
        let (kind, current, size) = (seen.record.kind, seen.record.epoch, seen.record.size);
        let room = size.saturating_sub(block.saturating_mul(block_bytes)).min(block_bytes);
        if kind != FileKind::File {
            self.problem(format!("block {block} of inode {ino}, which is not a file"));
        } else if epoch != current {
            self.problem(format!("block {block} of inode {ino} is of epoch {epoch}, not {current}"));
        } else if length == 0 || length > room {
            self.problem(format!("block {block} of inode {ino} has {length} bytes where {room} may be"));
        } else {
            seen.stored_bytes += length;
            self.summary.blocks += 1;
            self.summary.stored_bytes += length;
        }
    }

    /// What can be said only after all keys were seen.
    fn end(&mut self) {
        if !self.seen.get(&ROOT).is_some_and(|seen| seen.record.is_directory()) {
            self.problem("there is no root directory".to_string());
        }
        let mut problems = Vec::new();
        for (&ino, seen) in &self.seen {
            let record = &seen.record;
            let directory = record.is_directory();
            let expected = match directory {
                true if seen.names == 0 && ino != ROOT => 0,
                true => 2 + seen.subdirectories,
                false => seen.names,
            };
            if record.links != expected {
                problems.push(format!("inode {ino} says {} links and has {expected}", record.links));
            }
            if (record.links == 0) != seen.is_orphan {
                let has = if seen.is_orphan { "an" } else { "no" };
                problems.push(format!("inode {ino} with {} links has {has} orphan record", record.links));
            }
            if record.stored_bytes != seen.stored_bytes && record.kind == FileKind::File {
                let (said, stored) = (record.stored_bytes, seen.stored_bytes);
                problems.push(format!("inode {ino} says {said} stored bytes and has {stored}"));
            }
            if record.has(HAS_PENDING) && !self.ranges.contains_key(&(ino, record.epoch)) {
                problems.push(format!("inode {ino} announces ranges to reclaim, and there are none"));
            }
            if directory {
                problems.extend(self.directory_problem(ino, seen));
            }
        }
        problems.sort();
        problems.into_iter().for_each(|what| self.problem(what));
        if self.stored_total.is_some_and(|stored| stored != self.total) {
            self.problem("the totals say they are right and are not".to_string());
        }
    }

    fn directory_problem(&self, ino: Ino, seen: &Seen) -> Option<String> {
        if ino == ROOT {
            let sound = seen.names == 0 && seen.record.parent == ROOT;
            return (!sound).then(|| "the root has a name or a parent".to_string());
        }
        if seen.names > 1 {
            return Some(format!("directory {ino} has {} names", seen.names));
        }
        if seen.home.is_some_and(|home| home != seen.record.parent) {
            return Some(format!("directory {ino} is not in {}, as it says", seen.record.parent));
        }
        // Up to the root in at most as many steps as there are directories.
        let mut above = ino;
        for _ in 0..=self.summary.directories {
            if above == ROOT || self.seen.get(&above).is_none_or(|seen| seen.record.links == 0) {
                return None;
            }
            above = self.seen.get(&above).map_or(ROOT, |seen| seen.record.parent);
        }
        Some(format!("the directories above {ino} form a cycle"))
    }
}
