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
//!
//! Every broken invariant comes with the *mend* that `repair` applies. A mend may leave the next invariant broken (a name that is
//! dropped changes a count), so a repair checks again until nothing is found.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;

use super::counters::{self, Change};
use super::dirent::Dirent;
use super::inode::{HAS_CAPABILITY, HAS_PENDING, HAS_XATTRS, Inode};
use super::keys::{self, Key, name_hash};
use super::ops::CAPABILITY;
use super::ranges::Range;
use super::superblock::{Identity, Superblock};
use super::types::{FileKind, Ino, NAME_BYTES_MAX, ROOT, SIZE_MAX, STORED_END, Time};
use super::{Error, Result};
use crate::engine::{Engine, KeyRange, Tier};

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong, in one sentence.
    pub what: String,
}

/// Keys to write, or with `None` to delete, all in one batch.
pub(super) type Changes = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// What makes a problem go.
pub(super) struct Mend {
    /// What is done, in one sentence.
    pub what: String,
    pub changes: Changes,
}

/// What a repair goes by where the store itself does not say.
pub(super) struct Evidence<'a> {
    /// The block size and the uuid that the store's description gives.
    pub block_bytes: u64,
    pub uuid: [u8; 16],
    /// Whether the record of a key was lost in what could not be read.
    pub is_lost: &'a dyn Fn(&[u8]) -> bool,
}

/// What [`check`] saw.
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

/// Name of the directory where a repair puts what has no name.
const LOST_AND_FOUND: &[u8] = b"lost+found";

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
    /// Where its last block ends, if that is behind its size.
    end_bytes: u64,
    /// The highest epoch of a block, if it is above its own.
    epoch: u32,
    /// Flags that it should have.
    flags: u8,
    is_orphan: bool,
}

/// What there is of an inode whose record cannot be had.
#[derive(Default)]
struct Missing {
    /// The record is there and does not parse.
    is_unreadable: bool,
    /// What its names say.
    kind: Option<FileKind>,
    /// Their keys.
    names: Vec<Vec<u8>>,
    home: Option<Ino>,
    /// Keys of names that lie in it.
    entries: Vec<Vec<u8>>,
    /// Keys of its attributes and blocks.
    keys: Vec<Vec<u8>>,
    blocks: u64,
    /// The highest epoch of a block, and where the last block of that ends.
    epoch: u32,
    end_bytes: u64,
    is_orphan: bool,
}

struct Checker<'a> {
    report: &'a mut dyn FnMut(Problem),
    evidence: Option<&'a Evidence<'a>>,
    summary: CheckSummary,
    superblock: Option<Superblock>,
    /// The highest number that any key has.
    highest_ino: Ino,
    seen: HashMap<Ino, Seen>,
    missing: BTreeMap<Ino, Missing>,
    /// Of directories, the keys of their names and where those lie.
    directory_names: HashMap<Ino, Vec<(Ino, Vec<u8>)>>,
    /// Names in the root that begin like that of the directory for what has no name.
    root_names: HashSet<Vec<u8>>,
    lost_and_found: Option<Ino>,
    /// Names in there.
    found_names: HashSet<Vec<u8>>,
    ranges: HashMap<(Ino, u32), Vec<Range>>,
    total: Change,
    stored_total: Option<Change>,
    mends: Vec<Mend>,
}

/// Reads everything that `engine` holds, which nobody may change meanwhile, and reports each broken invariant. An
/// error means that the check could not be done.
pub fn check(engine: &dyn Engine, report: &mut dyn FnMut(Problem)) -> Result<CheckSummary> {
    Ok(diagnose(engine, None, report)?.0)
}

/// Checks, and says what would make the problems go; without `evidence` only where nothing has to be made up.
pub(super) fn diagnose(
    engine: &dyn Engine,
    evidence: Option<&Evidence<'_>>,
    report: &mut dyn FnMut(Problem),
) -> Result<(CheckSummary, Vec<Mend>)> {
    let mut checker = Checker {
        report,
        evidence,
        summary: CheckSummary::default(),
        superblock: None,
        highest_ino: ROOT,
        seen: HashMap::new(),
        missing: BTreeMap::new(),
        directory_names: HashMap::new(),
        root_names: HashSet::new(),
        lost_and_found: None,
        found_names: HashSet::new(),
        ranges: HashMap::new(),
        total: Change::default(),
        stored_total: None,
        mends: Vec::new(),
    };
    match engine.get(&keys::superblock(), Tier::Disk)?.map(|bytes| Superblock::decode(&bytes)) {
        Some(Ok(superblock)) => checker.superblock = Some(superblock),
        Some(Err(error @ Error::Engine(_))) => return Err(error),
        Some(Err(error)) => checker.problem(error.to_string()),
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
    checker.end()?;
    if checker.superblock.is_none() {
        // Without the size of a block and the secret of names nothing else can be told.
        checker.mends.retain(|mend| mend.changes.iter().any(|(key, _)| *key == keys::superblock()));
    }
    Ok((checker.summary, checker.mends))
}

impl Checker<'_> {
    fn problem(&mut self, what: String) {
        self.summary.problems += 1;
        (self.report)(Problem { what });
    }

    fn mend(&mut self, what: String, changes: Changes) {
        self.mends.push(Mend { what, changes });
    }

    fn drop_key(&mut self, what: String, key: Vec<u8>) {
        self.mend(what, vec![(key, None)]);
    }

    fn missing(&mut self, ino: Ino) -> &mut Missing {
        self.missing.entry(ino).or_default()
    }

    fn range(&mut self, key: &[u8], value: &[u8]) {
        let Some(Key::Reclaim { ino, epoch, from }) = keys::parse(key) else { return };
        match Range::decode(from, value) {
            Ok(range) => self.ranges.entry((ino, epoch)).or_default().push(range),
            Err(error) => {
                self.drop_key(
                    format!("inode {ino}: drop a range to reclaim that does not parse"),
                    key.to_vec(),
                );
                self.problem(format!("inode {ino}, epoch {epoch}, from block {from}: {error}"));
            }
        }
    }

    fn key(&mut self, key: &[u8], value: &[u8]) {
        self.summary.keys += 1;
        let parsed = keys::parse(key);
        match &parsed {
            Some(
                Key::Inode { ino } | Key::Xattr { ino, .. } | Key::Block { ino, .. } | Key::Orphan { ino },
            )
            | Some(Key::Dirent { dir: ino, .. })
                if *ino < STORED_END =>
            {
                self.highest_ino = self.highest_ino.max(*ino);
            }
            _ => {}
        }
        match parsed {
            None => {
                self.drop_key(format!("drop the key {}", key.escape_ascii()), key.to_vec());
                self.problem(format!("a key that is not ours: {}", key.escape_ascii()));
            }
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
                None => {
                    self.missing(ino).is_orphan = true;
                    self.problem(format!("an orphan record for inode {ino}, which does not exist"));
                }
            },
            Some(Key::Reclaim { ino, epoch, .. }) => match self.seen.get_mut(&ino) {
                Some(seen) if seen.record.epoch < epoch => {
                    self.drop_key(format!("inode {ino}: drop a range of epoch {epoch}"), key.to_vec());
                    self.problem(format!("inode {ino}: a range of epoch {epoch}, which has not begun"));
                }
                Some(seen) if seen.record.epoch == epoch && !seen.record.has(HAS_PENDING) => {
                    // Where the end of the range may be what was lost, the blocks are worth more than their deletion.
                    if self.evidence.is_some_and(|evidence| (evidence.is_lost)(key)) {
                        self.drop_key(format!("inode {ino}: drop a range to reclaim"), key.to_vec());
                    } else {
                        seen.flags |= HAS_PENDING;
                    }
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
        let record = match Inode::decode(ino, value) {
            Ok(record) => record,
            Err(error) => {
                self.missing(ino).is_unreadable = true;
                return self.problem(error.to_string());
            }
        };
        if self.superblock.is_some_and(|superblock| ino >= superblock.next_ino) {
            self.problem(format!("inode {ino} has a number that is not given away yet"));
        }
        self.summary.directories += u64::from(record.is_directory());
        self.total = self.total.plus(Change::added(&record));
        let (epoch, flags) = (record.epoch, record.flags);
        let (names, subdirectories, home, stored_bytes, end_bytes) = (0, 0, None, 0, 0);
        let seen = Seen {
            record,
            names,
            subdirectories,
            home,
            stored_bytes,
            end_bytes,
            epoch,
            flags,
            is_orphan: false,
        };
        self.seen.insert(ino, seen);
    }

    fn name(&mut self, dir: Ino, hash: u64, name: &[u8], value: &[u8]) {
        self.summary.names += 1;
        self.total = self.total.plus(Change::records(Dirent::record_bytes(name) as i64));
        let place = format!("directory {dir}, name \"{}\"", name.escape_ascii());
        let key = keys::dirent(dir, hash, name);
        let dropped = format!("{place}: drop the name");
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.iter().any(|byte| b"/\0".contains(byte)) {
            self.drop_key(dropped.clone(), key.clone());
            self.problem(format!("{place}: no file can have this name"));
        } else if let Some(superblock) = self.superblock
            && name_hash(superblock.identity.secret, name) != hash
        {
            let right = keys::dirent(dir, name_hash(superblock.identity.secret, name), name);
            let changes = vec![(key.clone(), None), (right, Some(value.to_vec()))];
            self.mend(format!("{place}: put it where it can be found"), changes);
            self.problem(format!("{place}: it lies under the hash of another name"));
        }
        if dir == ROOT && name.starts_with(LOST_AND_FOUND) {
            self.root_names.insert(name.to_vec());
        }
        if self.lost_and_found == Some(dir) {
            self.found_names.insert(name.to_vec());
        }
        let entry = match Dirent::decode(value) {
            Ok(entry) => entry,
            Err(error) => {
                self.drop_key(dropped, key);
                return self.problem(format!("{place}: {error}"));
            }
        };
        match self.seen.get_mut(&dir) {
            Some(seen) if seen.record.is_directory() => {
                seen.subdirectories += u32::from(entry.kind == FileKind::Directory);
                if seen.record.links == 0 {
                    self.drop_key(dropped.clone(), key.clone());
                    self.problem(format!("{place}: the directory is removed"));
                }
            }
            Some(_) => {
                self.drop_key(dropped.clone(), key.clone());
                self.problem(format!("{place}: inode {dir} is not a directory"));
            }
            None => {
                self.missing(dir).entries.push(key.clone());
                self.problem(format!("{place}: the directory does not exist"));
            }
        }
        match self.seen.get_mut(&entry.ino) {
            Some(seen) => {
                seen.names += 1;
                seen.home = Some(dir);
                let kind = seen.record.kind;
                if kind == FileKind::Directory {
                    self.directory_names.entry(entry.ino).or_default().push((dir, key.clone()));
                    if dir == ROOT && name == LOST_AND_FOUND && seen.record.links > 0 {
                        self.lost_and_found = Some(entry.ino);
                    }
                }
                if kind != entry.kind {
                    let right = Dirent { kind, ..entry }.encode();
                    self.mend(format!("{place}: say that it is {kind:?}"), vec![(key, Some(right))]);
                    self.problem(format!(
                        "{place}: it says {:?}, inode {} is {kind:?}",
                        entry.kind, entry.ino
                    ));
                }
            }
            None => {
                let missing = self.missing(entry.ino);
                missing.kind = Some(entry.kind);
                missing.home = Some(dir);
                missing.names.push(key);
                self.problem(format!("{place}: inode {} does not exist", entry.ino));
            }
        }
    }

    fn xattr(&mut self, ino: Ino, name: &[u8], value: &[u8]) {
        self.summary.xattrs += 1;
        self.total = self.total.plus(Change::records((9 + name.len() + value.len()) as i64));
        let needed = if name == CAPABILITY { HAS_XATTRS | HAS_CAPABILITY } else { HAS_XATTRS };
        match self.seen.get_mut(&ino) {
            Some(seen) if seen.record.flags & needed == needed => {}
            Some(seen) => {
                seen.flags |= needed;
                let name = name.escape_ascii();
                self.problem(format!("inode {ino}: its record does not announce attribute {name}"));
            }
            None => {
                let key = keys::xattr(ino, name);
                self.missing(ino).keys.push(key);
                self.problem(format!("an extended attribute of inode {ino}, which does not exist"));
            }
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
        let key = keys::block(ino, epoch, block);
        let end = block.checked_mul(block_bytes).and_then(|start| start.checked_add(length.min(block_bytes)));
        let end = end.filter(|end| *end <= SIZE_MAX && length > 0);
        let Some(seen) = self.seen.get_mut(&ino) else {
            let missing = self.missing(ino);
            missing.keys.push(key);
            missing.blocks += 1;
            if let Some(end) = end {
                let before = if missing.epoch == epoch { missing.end_bytes } else { 0 };
                (missing.epoch, missing.end_bytes) = (epoch, end.max(before));
            }
            return self.problem(format!("block {block} of inode {ino}, which does not exist"));
        };
        let (kind, current, size) = (seen.record.kind, seen.record.epoch, seen.record.size);
        let room = size.saturating_sub(block.saturating_mul(block_bytes)).min(block_bytes);
        if kind != FileKind::File {
            self.drop_key(format!("drop block {block} of inode {ino}"), key);
            self.problem(format!("block {block} of inode {ino}, which is not a file"));
        } else if epoch != current {
            match epoch < current {
                true => self.drop_key(format!("drop block {block} of inode {ino}, epoch {epoch}"), key),
                false => seen.epoch = seen.epoch.max(epoch),
            }
            self.problem(format!("block {block} of inode {ino} is of epoch {epoch}, not {current}"));
        } else if length == 0 || length > room {
            match end {
                None => self.drop_key(format!("drop block {block} of inode {ino}"), key),
                Some(_) if length > block_bytes => {
                    let cut = value[..block_bytes as usize].to_vec();
                    self.mend(format!("cut block {block} of inode {ino}"), vec![(key, Some(cut))]);
                }
                Some(end) => seen.end_bytes = seen.end_bytes.max(end),
            }
            self.problem(format!("block {block} of inode {ino} has {length} bytes where {room} may be"));
        } else {
            seen.stored_bytes += length;
            self.summary.blocks += 1;
            self.summary.stored_bytes += length;
        }
    }

    /// What can be said only after all keys were seen.
    fn end(&mut self) -> Result<()> {
        self.end_numbers()?;
        if !self.seen.get(&ROOT).is_some_and(|seen| seen.record.is_directory()) {
            self.missing.remove(&ROOT);
            let mut root = Inode::new(FileKind::Directory, 0o755, 0, 0, Time::default());
            root.parent = ROOT;
            self.mend("make a root directory".to_string(), vec![(keys::inode(ROOT), Some(root.encode()))]);
            self.problem("there is no root directory".to_string());
        }
        let mut inos: Vec<Ino> = self.seen.keys().copied().collect();
        inos.sort_unstable();
        let mut problems = Vec::new();
        for ino in inos {
            let Some(seen) = self.seen.remove(&ino) else { continue };
            self.end_inode(ino, &seen, &mut problems);
            self.seen.insert(ino, seen);
        }
        self.end_directories(&mut problems);
        problems.sort();
        problems.into_iter().for_each(|what| self.problem(what));
        for (ino, missing) in std::mem::take(&mut self.missing) {
            self.end_missing(ino, missing);
        }
        if self.stored_total.is_some_and(|stored| stored != self.total) {
            self.drop_key("count the totals anew".to_string(), keys::counter(counters::TOTAL));
            self.problem("the totals say they are right and are not".to_string());
        }
        Ok(())
    }

    /// The superblock, if it is to be made or no longer true.
    fn end_numbers(&mut self) -> Result<()> {
        let above = self.highest_ino.next();
        match (&mut self.superblock, self.evidence) {
            (Some(superblock), _) if superblock.next_ino < above => {
                superblock.next_ino = above;
                let changes = vec![(keys::superblock(), Some(superblock.encode()))];
                self.mend(format!("give away numbers from {above} on"), changes);
            }
            (Some(_), _) => {}
            (None, Some(evidence)) => {
                // Names are put under their new hashes afterwards.
                let identity = Identity { uuid: evidence.uuid, ..Identity::random()? };
                let superblock =
                    Superblock { next_ino: above, ..Superblock::new(evidence.block_bytes, identity) };
                let changes = vec![(keys::superblock(), Some(superblock.encode()))];
                self.mend("make a superblock".to_string(), changes);
            }
            (None, None) => {}
        }
        Ok(())
    }

    fn end_inode(&mut self, ino: Ino, seen: &Seen, problems: &mut Vec<String>) {
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
            self.drop_key(format!("inode {ino}: it is not deleted"), keys::orphan(ino));
        }
        if is_nameless && record.links == 0 && !seen.is_orphan {
            let changes = vec![(keys::orphan(ino), Some(Vec::new()))];
            self.mend(format!("inode {ino}: delete it at the next mount"), changes);
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
        if is_nameless && record.links > 0 {
            self.reconnect(ino, &mut mended);
        }
        if mended != *record {
            let what = differences(record, &mended);
            self.mend(format!("inode {ino}: {what}"), vec![(keys::inode(ino), Some(mended.encode()))]);
        }
    }

    fn end_directory(&mut self, ino: Ino, seen: &Seen, mended: &mut Inode, problems: &mut Vec<String>) {
        let names = self.directory_names.remove(&ino).unwrap_or_default();
        // One stays: the one that the record knows of, or else the first. Of the root, none.
        let kept = match ino {
            ROOT => None,
            _ => names.iter().find(|(home, _)| *home == seen.record.parent).or(names.first()),
        };
        let kept_key = kept.map(|(_, key)| key.clone());
        mended.parent = if ino == ROOT { ROOT } else { kept.map_or(seen.record.parent, |(home, _)| *home) };
        if ino == ROOT && (!names.is_empty() || seen.record.parent != ROOT) {
            problems.push("the root has a name or a parent".to_string());
        } else if names.len() > 1 {
            problems.push(format!("directory {ino} has {} names", names.len()));
        } else if mended.parent != seen.record.parent {
            problems.push(format!("directory {ino} is not in {}, as it says", seen.record.parent));
        }
        for (home, key) in names.iter().filter(|(_, key)| Some(key) != kept_key.as_ref()) {
            self.drop_key(format!("directory {ino}: drop its name in directory {home}"), key.clone());
        }
        self.directory_names.insert(ino, names);
    }

    /// Directories that lie in themselves.
    fn end_directories(&mut self, problems: &mut Vec<String>) {
        let above = |ino: Ino| {
            let seen = self.seen.get(&ino).filter(|seen| ino != ROOT && seen.record.links > 0)?;
            // A directory without a name is a way out: it gets a name elsewhere.
            (seen.names > 0).then_some(seen.record.parent)
        };
        // Those from which going up ends.
        let mut sound: HashSet<Ino> = HashSet::new();
        let mut cut: BTreeSet<Ino> = BTreeSet::new();
        let directories = self.seen.iter().filter(|(_, seen)| seen.record.is_directory());
        let mut inos: Vec<Ino> = directories.map(|(ino, _)| *ino).collect();
        inos.sort_unstable();
        for ino in inos {
            let (mut way, mut at) = (Vec::new(), Some(ino));
            let mut on_way = HashSet::new();
            while let Some(here) = at.filter(|here| !sound.contains(here) && on_way.insert(*here)) {
                way.push(here);
                at = above(here);
            }
            if let Some(again) = at.filter(|here| on_way.contains(here)) {
                problems.push(format!("the directories above {ino} form a cycle"));
                let from = way.iter().position(|here| *here == again).unwrap_or(0);
                cut.extend(way[from..].iter().min());
            } else {
                sound.extend(way);
            }
        }
        // Only when parents are right: what else is wrong comes first.
        if self.mends.is_empty() {
            for ino in cut {
                let names = self.directory_names.remove(&ino).unwrap_or_default();
                let changes = names.into_iter().map(|(_, key)| (key, None)).collect();
                self.mend(format!("directory {ino}: take it out of the directories below it"), changes);
            }
        }
    }

    /// An inode without a record: made anew where there is something to save, and dropped with all that belongs to it else.
    fn end_missing(&mut self, ino: Ino, missing: Missing) {
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
            return self.mend(what, changes);
        }
        let counts = format!("{} names, {} blocks", missing.names.len(), missing.blocks);
        let own = [keys::inode(ino), keys::orphan(ino)];
        let there = [missing.is_unreadable, missing.is_orphan];
        let own = own.into_iter().zip(there).filter(|(_, is_there)| *is_there).map(|(key, _)| key);
        let all = missing.names.into_iter().chain(missing.entries).chain(missing.keys).chain(own);
        let changes = all.map(|key| (key, None)).collect();
        self.mend(format!("inode {ino}: drop what belongs to it ({counts})"), changes);
    }

    /// Gives an inode without a name one in the directory for those, which is made if there is none.
    fn reconnect(&mut self, ino: Ino, mended: &mut Inode) {
        let Some(superblock) = &mut self.superblock else { return };
        let secret = superblock.identity.secret;
        let mut changes = Changes::new();
        let home = match self.lost_and_found {
            Some(home) => home,
            None => {
                let home = superblock.next_ino;
                superblock.next_ino = home.next();
                let record =
                    Inode { parent: ROOT, ..Inode::new(FileKind::Directory, 0o700, 0, 0, Time::default()) };
                let name = free_name(LOST_AND_FOUND, &self.root_names);
                let entry = Dirent { ino: home, kind: FileKind::Directory };
                changes.push((keys::superblock(), Some(superblock.encode())));
                changes.push((keys::inode(home), Some(record.encode())));
                changes.push((keys::dirent(ROOT, name_hash(secret, &name), &name), Some(entry.encode())));
                self.lost_and_found = Some(home);
                home
            }
        };
        let name = free_name(format!("#{ino}").as_bytes(), &self.found_names);
        let shown = name.escape_ascii().to_string();
        let entry = Dirent { ino, kind: mended.kind };
        changes.push((keys::dirent(home, name_hash(secret, &name), &name), Some(entry.encode())));
        self.found_names.insert(name);
        if mended.is_directory() {
            mended.parent = home;
        }
        self.mend(format!("inode {ino}: name it lost+found/{shown}"), changes);
    }
}

/// `name`, with a number behind it if it is taken.
fn free_name(name: &[u8], taken: &HashSet<Vec<u8>>) -> Vec<u8> {
    let numbered = (1..).map(|number: u64| [name, format!(".{number}").as_bytes()].concat());
    let mut names = std::iter::once(name.to_vec()).chain(numbered);
    names.find(|name| !taken.contains(name)).unwrap_or_default()
}

/// What `new` says otherwise than `old`.
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
