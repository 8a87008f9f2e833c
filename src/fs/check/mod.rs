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

mod directories;
mod findings;
mod inodes;
mod lost_and_found;
mod records;

use std::collections::{BTreeMap, HashMap};
use std::ops::ControlFlow;

use super::counters::{self, Change};
use super::inode::Inode;
use super::keys;
use super::ranges::Range;
use super::superblock::{Identity, Superblock};
use super::types::{FileKind, Ino, ROOT, Time};
use super::{Error, Result};
use crate::engine::{Engine, KeyRange, Tier};
use findings::Findings;
pub(in crate::fs) use findings::Mend;
use inodes::{Missing, Seen};
use lost_and_found::LostAndFound;

/// A broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Description of the problem, in one sentence.
    pub what: String,
}

/// Facts that a repair uses where the store itself does not say.
pub(super) struct Evidence<'a> {
    /// The block size and the uuid that the store's description gives.
    pub block_bytes: u64,
    pub uuid: [u8; 16],
    /// Whether the record of a key was lost in what could not be read.
    pub is_lost: &'a dyn Fn(&[u8]) -> bool,
}

/// Summary of [`check`].
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

/// Facts about the store so far.
struct Checker<'a> {
    findings: Findings<'a>,
    evidence: Option<&'a Evidence<'a>>,
    summary: CheckSummary,
    superblock: Option<Superblock>,
    /// The highest number that any key has.
    highest_ino: Ino,
    seen: HashMap<Ino, Seen>,
    missing: BTreeMap<Ino, Missing>,
    /// Names of directories: the directory that each name lies in, and its key.
    directory_names: HashMap<Ino, Vec<(Ino, Vec<u8>)>>,
    lost_and_found: LostAndFound,
    ranges: HashMap<(Ino, u32), Vec<Range>>,
    totals: Totals,
}

/// Totals of the filesystem: as they were counted here, and as the store has them, if it claims that they are right.
#[derive(Default)]
struct Totals {
    counted: Change,
    stored: Option<Change>,
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
        findings: Findings::new(report),
        evidence,
        summary: CheckSummary::default(),
        superblock: None,
        highest_ino: ROOT,
        seen: HashMap::new(),
        missing: BTreeMap::new(),
        directory_names: HashMap::new(),
        lost_and_found: LostAndFound::default(),
        ranges: HashMap::new(),
        totals: Totals::default(),
    };
    match engine.get(&keys::superblock(), Tier::Disk)?.map(|bytes| Superblock::decode(&bytes)) {
        Some(Ok(superblock)) => checker.superblock = Some(superblock),
        Some(Err(error @ Error::Engine(_))) => return Err(error),
        Some(Err(error)) => checker.findings.problem(error.to_string()),
        None => checker.findings.problem("the superblock is missing".to_string()),
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
        checker.findings.mends.retain(|mend| mend.changes.iter().any(|(key, _)| *key == keys::superblock()));
    }
    let summary = CheckSummary { problems: checker.findings.problems, ..checker.summary };
    Ok((summary, checker.findings.mends))
}

impl Checker<'_> {
    /// Checks that are possible only after all keys were seen.
    fn end(&mut self) -> Result<()> {
        self.end_numbers()?;
        if !self.seen.get(&ROOT).is_some_and(|seen| seen.record.is_directory()) {
            self.missing.remove(&ROOT);
            let mut root = Inode::new(FileKind::Directory, 0o755, 0, 0, Time::default());
            root.parent = ROOT;
            self.findings
                .mend("make a root directory".to_string(), vec![(keys::inode(ROOT), Some(root.encode()))]);
            self.findings.problem("there is no root directory".to_string());
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
        problems.into_iter().for_each(|what| self.findings.problem(what));
        for (ino, missing) in std::mem::take(&mut self.missing) {
            self.end_missing(ino, missing);
        }
        if self.totals.stored.is_some_and(|stored| stored != self.totals.counted) {
            self.findings.drop_key("count the totals anew".to_string(), keys::counter(counters::TOTAL));
            self.findings.problem("the totals say they are right and are not".to_string());
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
                self.findings.mend(format!("give away numbers from {above} on"), changes);
            }
            (Some(_), _) => {}
            (None, Some(evidence)) => {
                // Names are put under their new hashes afterwards.
                let identity = Identity { uuid: evidence.uuid, ..Identity::random()? };
                let superblock =
                    Superblock { next_ino: above, ..Superblock::new(evidence.block_bytes, identity) };
                let changes = vec![(keys::superblock(), Some(superblock.encode()))];
                self.findings.mend("make a superblock".to_string(), changes);
            }
            (None, None) => {}
        }
        Ok(())
    }
}
