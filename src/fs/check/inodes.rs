//! Inodes: facts gathered from their keys, and problems found once all keys were seen.

use super::super::inode::{HAS_PENDING, Inode};
use super::super::keys;
use super::super::types::{FileKind, Ino, ROOT, STORED_END, Time};
use super::Checker;

/// Facts about an inode so far.
pub(super) struct Seen {
    pub record: Inode,
    /// Names that stand for it.
    pub names: u32,
    /// Directories in it.
    pub subdirectories: u32,
    /// The directory of its last name.
    pub home: Option<Ino>,
    pub stored_bytes: u64,
    /// End of its last block, if that is behind its size.
    pub end_bytes: u64,
    /// The highest epoch of a block, if it is above its own.
    pub epoch: u32,
    /// Flags that it should have.
    pub flags: u8,
    pub is_orphan: bool,
}

/// Facts about an inode whose record is missing or cannot be read.
#[derive(Default)]
pub(super) struct Missing {
    /// The record is there and does not parse.
    pub is_unreadable: bool,
    /// Its type according to its names.
    pub kind: Option<FileKind>,
    /// Their keys.
    pub names: Vec<Vec<u8>>,
    pub home: Option<Ino>,
    /// Keys of names that lie in it.
    pub entries: Vec<Vec<u8>>,
    /// Keys of its attributes and blocks.
    pub keys: Vec<Vec<u8>>,
    pub blocks: u64,
    /// The highest epoch of a block, and where the last block of that ends.
    pub epoch: u32,
    pub end_bytes: u64,
    pub is_orphan: bool,
}

impl Checker<'_> {
    pub fn end_inode(&mut self, ino: Ino, seen: &Seen, problems: &mut Vec<String>) {
        let record = &seen.record;
        let mut mended = record.clone();
        let directory = record.is_directory();
        let is_nameless = seen.names == 0 && ino != ROOT;
        let expected = match directory {
            true if is_nameless => 0,
            true => 2 + seen.subdirectories,
            false => seen.names,
        };
        if record.links != expected {
            if !is_nameless {
                mended.links = expected;
            }
            problems.push(format!("inode {ino} says {} links and has {expected}", record.links));
        }
        if (record.links == 0) != seen.is_orphan {
            let has = if seen.is_orphan { "an" } else { "no" };
            problems.push(format!("inode {ino} with {} links has {has} orphan record", record.links));
        }
        if seen.is_orphan && (record.links > 0 || !is_nameless) {
            self.findings.drop_key(format!("inode {ino}: it is not deleted"), keys::orphan(ino));
        }
        if is_nameless && record.links == 0 && !seen.is_orphan {
            let changes = vec![(keys::orphan(ino), Some(Vec::new()))];
            self.findings.mend(format!("inode {ino}: delete it at the next mount"), changes);
        }
        if record.kind == FileKind::File {
            mended.size = record.size.max(seen.end_bytes);
            mended.epoch = seen.epoch;
            if record.stored_bytes != seen.stored_bytes {
                mended.stored_bytes = seen.stored_bytes;
                let (said, stored) = (record.stored_bytes, seen.stored_bytes);
                problems.push(format!("inode {ino} says {said} stored bytes and has {stored}"));
            }
        }
        mended.flags |= seen.flags;
        if record.has(HAS_PENDING) && !self.ranges.contains_key(&(ino, record.epoch)) {
            mended.set(HAS_PENDING, false);
            problems.push(format!("inode {ino} announces ranges to reclaim, and there are none"));
        }
        if directory {
            self.end_directory(ino, seen, &mut mended, problems);
        }
        if is_nameless
            && record.links > 0
            && let Some(superblock) = &mut self.superblock
        {
            self.lost_and_found.reconnect(ino, &mut mended, superblock, &mut self.findings);
        }
        if mended != *record {
            let what = differences(record, &mended);
            self.findings
                .mend(format!("inode {ino}: {what}"), vec![(keys::inode(ino), Some(mended.encode()))]);
        }
    }

    /// An inode without a record: made anew where there is something to save, and dropped with all that belongs to it else.
    pub fn end_missing(&mut self, ino: Ino, missing: Missing) {
        let was_lost = self.evidence.is_some_and(|evidence| (evidence.is_lost)(&keys::inode(ino)));
        let was_lost = missing.is_unreadable || was_lost;
        let named = !missing.names.is_empty();
        let is_directory = !missing.entries.is_empty() || missing.kind == Some(FileKind::Directory);
        let kind = match is_directory {
            _ if missing.is_orphan || !(ROOT..STORED_END).contains(&ino) => None,
            true => (!missing.entries.is_empty() || was_lost).then_some(FileKind::Directory),
            false if missing.kind.is_some_and(|kind| kind != FileKind::File) => None,
            false => {
                let is_file = missing.blocks > 0 && named || was_lost && (missing.blocks > 0 || named);
                is_file.then_some(FileKind::File)
            }
        };
        if let Some(kind) = kind {
            let permissions = if kind == FileKind::Directory { 0o700 } else { 0o600 };
            let mut record = Inode::new(kind, permissions, 0, 0, Time::default());
            if kind == FileKind::File {
                (record.epoch, record.size) = (missing.epoch, missing.end_bytes);
            }
            record.parent = if kind == FileKind::Directory { missing.home.unwrap_or(ROOT) } else { Ino(0) };
            let changes = vec![(keys::inode(ino), Some(record.encode()))];
            let what =
                format!("inode {ino}: make a record for {kind:?} of {} bytes, owned by root", record.size);
            return self.findings.mend(what, changes);
        }
        let counts = format!("{} names, {} blocks", missing.names.len(), missing.blocks);
        let own = [keys::inode(ino), keys::orphan(ino)];
        let there = [missing.is_unreadable, missing.is_orphan];
        let own = own.into_iter().zip(there).filter(|(_, is_there)| *is_there).map(|(key, _)| key);
        let all = missing.names.into_iter().chain(missing.entries).chain(missing.keys).chain(own);
        let changes = all.map(|key| (key, None)).collect();
        self.findings.mend(format!("inode {ino}: drop what belongs to it ({counts})"), changes);
    }
}

/// The differences between two records, as text.
fn differences(old: &Inode, new: &Inode) -> String {
    let pairs = [
        ("links", u64::from(old.links), u64::from(new.links)),
        ("size", old.size, new.size),
        ("stored bytes", old.stored_bytes, new.stored_bytes),
        ("epoch", u64::from(old.epoch), u64::from(new.epoch)),
        ("flags", u64::from(old.flags), u64::from(new.flags)),
        ("parent", old.parent.0, new.parent.0),
    ];
    let changed = pairs.iter().filter(|(_, old, new)| old != new);
    changed.map(|(name, old, new)| format!("{name} {old} → {new}")).collect::<Vec<_>>().join(", ")
}
