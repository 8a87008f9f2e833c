//! What is deleted later: inodes without a name that are still in use, and ranges of blocks.
//!
//! 1. An inode whose last name goes while it is used gets an orphan record in the same batch. When the last user leaves,
//!    background work *buries* it: one batch deletes inode, attributes and orphan record, and its blocks or, if
//!    they are many, leaves a reclaim record for them. An inode that nobody uses is buried at once.
//! 2. A reclaim record `(ino, epoch, from) -> to, bytes` promises that nobody needs the blocks `from..to`. Background
//!    work deletes a thousand at a time and shortens the record in the same batch.
//! 3. A range of a living file's current epoch is part of its [`InodeState`]: reading treats it as a hole, and a write
//!    inside it cuts it in the write's own batch. Reclaim of such a range holds the inode's lock. Ranges of
//!    former epochs and of buried inodes belong to the reclaimer alone.
//! 4. `bytes` of a record is how much is believed to lie in the range. Deleting does not rely on it; it decides whether
//!    absent blocks are worth looking for, and shows the debt.

use std::collections::{HashSet, VecDeque};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use parking_lot::Mutex;

use super::counters::Change;
use super::error::damaged;
use super::handles::{InodeCell, InodeState};
use super::inode::{HAS_PENDING, HAS_XATTRS, Inode};
use super::keys::{self, Key, take_u64};
use super::types::Ino;
use super::{Error, FileSystem, Result};
use crate::engine::{Batch, Class, Engine, Tier};
use crate::fs::meter::Op;

/// Blocks that a call deletes itself; more are left to reclaim.
pub(super) const INLINE_BLOCKS: u64 = 64;
/// Blocks that one unit of reclaim deletes.
const UNIT_BLOCKS: u64 = 1000;

/// Blocks `from..to` that are still to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Range {
    pub from: u64,
    pub to: u64,
    pub bytes: u64,
}

impl Range {
    fn encode(self) -> Vec<u8> {
        [self.to.to_be_bytes(), self.bytes.to_be_bytes()].concat()
    }

    /// Reads the value of a reclaim record whose key says `from`.
    pub fn decode(from: u64, bytes: &[u8]) -> Result<Range> {
        let mut source = bytes;
        let parse =
            |source: &mut &[u8]| Some(Range { from, to: take_u64(source)?, bytes: take_u64(source)? });
        parse(&mut source)
            .filter(|range| source.is_empty() && range.from < range.to)
            .ok_or_else(|| damaged("a reclaim record does not parse"))
    }

    /// What is left after blocks before `next` are gone, in proportion.
    fn after(self, next: u64) -> Range {
        let share = u128::from(self.bytes) * u128::from(self.to - next) / u128::from(self.to - self.from);
        Range { from: next, bytes: share as u64, ..self }
    }

    /// What lies before `end`, in proportion.
    fn before(self, end: u64) -> Range {
        Range { to: end, bytes: self.bytes - self.after(end).bytes, ..self }
    }
}

/// Ranges of one epoch of a file: ascending, apart from each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Ranges(Vec<Range>);

impl Ranges {
    /// Reads those of an epoch.
    pub fn load(engine: &dyn Engine, ino: Ino, epoch: u32, tier: Tier) -> Result<Ranges> {
        let mut ranges = Vec::new();
        let mut problem = None;
        engine.scan(keys::reclaims_of(ino, epoch).range(), tier, &mut |key, value| {
            let Some(Key::Reclaim { from, .. }) = keys::parse(key) else { return ControlFlow::Break(()) };
            match Range::decode(from, value) {
                Ok(range) => ranges.push(range),
                Err(error) => problem = Some(error),
            }
            ControlFlow::Continue(())
        })?;
        problem.map_or(Ok(Ranges(ranges)), Err)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn contains(&self, block: u64) -> bool {
        let index = self.0.partition_point(|range| range.to <= block);
        self.0.get(index).is_some_and(|range| range.from <= block)
    }

    /// The end of the last range.
    pub fn end(&self) -> u64 {
        self.0.last().map_or(0, |range| range.to)
    }

    /// What is believed to lie in all of them.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|range| range.bytes).sum()
    }

    /// Adds a range, joining what touches.
    pub fn add(&mut self, mut added: Range) {
        self.0.retain(|range| {
            let touches = range.from <= added.to && added.from <= range.to;
            if touches {
                added.from = added.from.min(range.from);
                added.to = added.to.max(range.to);
                added.bytes += range.bytes;
            }
            !touches
        });
        let index = self.0.partition_point(|range| range.from < added.from);
        self.0.insert(index, added);
    }

    /// Takes `from..to` out.
    pub fn cut(&mut self, from: u64, to: u64) {
        if self.0.is_empty() {
            return;
        }
        let parts = self.0.drain(..).flat_map(|range| {
            if range.to <= from || to <= range.from {
                return [Some(range), None];
            }
            let before = (range.from < from).then(|| range.before(from));
            let after = (to < range.to).then(|| range.after(to));
            [before, after]
        });
        self.0 = parts.flatten().collect();
    }

    /// Adds to `batch` what turns the stored `old` into `self`.
    fn write_difference(&self, old: &Ranges, ino: Ino, epoch: u32, batch: &mut Batch) {
        for range in old.0.iter().filter(|range| !self.0.iter().any(|kept| kept.from == range.from)) {
            batch.delete(keys::reclaim(ino, epoch, range.from));
        }
        for range in self.0.iter().filter(|range| !old.0.contains(range)) {
            batch.put(keys::reclaim(ino, epoch, range.from), range.encode());
        }
    }
}

/// A change of one inode in the making; nothing of it shows before [`FileSystem::commit`].
pub(super) struct Draft {
    pub record: Inode,
    /// Ranges of the epoch that the inode *had*; if the draft starts a new one, they are no longer its own.
    pub pending: Ranges,
    /// Growth of the inode's extended attributes, keys and values.
    pub xattr_bytes: i64,
}

impl Draft {
    pub fn of(state: &InodeState) -> Draft {
        Draft { record: state.record.clone(), pending: state.pending.clone(), xattr_bytes: 0 }
    }
}

/// Deletes that wait, in memory.
#[derive(Default)]
pub(super) struct Orphans {
    /// Inodes without a name.
    open: AtomicU64,
    /// Those that nobody uses any more.
    unused: Mutex<HashSet<Ino>>,
    /// Reclaim records, by key. One that is no longer there is skipped.
    ranges: Mutex<VecDeque<(Ino, u32, u64)>>,
    pending_bytes: AtomicU64,
    /// Something waits in the two, and the last try at it did not fail.
    gives_space: AtomicBool,
    bell: Option<Arc<crate::engine::Bell>>,
}

impl Orphans {
    pub fn new(bell: Arc<crate::engine::Bell>) -> Orphans {
        Orphans { bell: Some(bell), ..Orphans::default() }
    }

    /// Whether what is deleted will give space back that it takes now.
    pub fn gives_space(&self) -> bool {
        self.gives_space.load(Relaxed)
    }

    /// Background work cannot delete: nobody need wait for it before it has.
    pub fn stop_waiting(&self) {
        self.gives_space.store(false, Relaxed);
    }

    /// Looks whether anything waits.
    pub fn look(&self) {
        // Under both locks, so that nothing comes in between.
        let (unused, ranges) = (self.unused.lock(), self.ranges.lock());
        self.gives_space.store(!unused.is_empty() || !ranges.is_empty(), Relaxed);
    }

    fn ring(&self) {
        if let Some(bell) = &self.bell {
            bell.ring(Class::Reclaim);
        }
    }

    /// An inode lost its last name while it is used.
    pub fn opened(&self) {
        self.open.fetch_add(1, Relaxed);
    }

    /// An inode without a name is no longer used.
    pub fn queue(&self, ino: Ino) {
        let mut unused = self.unused.lock();
        unused.insert(ino);
        self.gives_space.store(true, Relaxed);
        drop(unused);
        self.ring();
    }

    /// Inodes without a name that exist.
    pub fn count(&self) -> u64 {
        self.open.load(Relaxed)
    }

    /// Bytes that reclaim still has to delete.
    pub fn pending_bytes(&self) -> u64 {
        self.pending_bytes.load(Relaxed)
    }

    /// The ranges of an epoch changed from `old` to `new`.
    fn changed(&self, ino: Ino, epoch: u32, old: &Ranges, new: &Ranges) {
        if old == new {
            return;
        }
        self.pending_bytes.fetch_add(new.bytes().wrapping_sub(old.bytes()), Relaxed);
        let mut queue = self.ranges.lock();
        let fresh = new.0.iter().filter(|range| !old.0.iter().any(|known| known.from == range.from));
        queue.extend(fresh.map(|range| (ino, epoch, range.from)));
        self.gives_space.fetch_or(!queue.is_empty(), Relaxed);
        drop(queue);
        self.ring();
    }
}

impl FileSystem {
    /// Applies `batch` with everything that turns the locked `state` of `cell` into `draft`, and then makes it so in
    /// memory. `put` is whether the record must be stored now; if not, only its times may differ, and they wait.
    pub(super) fn commit(
        &self,
        cell: &Arc<InodeCell>,
        state: &mut InodeState,
        mut batch: Batch,
        mut draft: Draft,
        put: bool,
        tier: Tier,
    ) -> Result<()> {
        let epoch = state.record.epoch;
        let kept = draft.record.epoch == epoch;
        draft.pending.write_difference(&state.pending, cell.ino, epoch, &mut batch);
        draft.record.set(HAS_PENDING, kept && !draft.pending.is_empty());
        if put {
            batch.put(keys::inode(cell.ino), draft.record.encode());
        }
        self.apply(&mut batch, tier)?;
        let change = Change::between(&state.record, &draft.record);
        self.counters.add(change.plus(Change::records(draft.xattr_bytes)));
        self.orphans.changed(cell.ino, epoch, &state.pending, &draft.pending);
        state.record = draft.record;
        state.pending = if kept { draft.pending } else { Ranges::default() };
        if put {
            state.deferred = None;
        } else {
            self.defer(cell, state);
        }
        Ok(())
    }

    /// Adds to `batch` the deletion of an inode with all it has. Returns its ranges afterwards.
    pub(super) fn bury(
        &self,
        ino: Ino,
        state: &InodeState,
        batch: &mut Batch,
        tier: Tier,
    ) -> Result<(Ranges, Change)> {
        let mut draft = Draft::of(state);
        self.drop_content(ino, &mut draft, batch, tier)?;
        draft.pending.write_difference(&state.pending, ino, state.record.epoch, batch);
        let mut change = Change::removed(&state.record);
        if state.record.has(HAS_XATTRS) {
            self.engine.scan(keys::xattrs_of(ino).range(), tier, &mut |key, value| {
                batch.delete(key.to_vec());
                change.record_bytes -= (key.len() + value.len()) as i64;
                ControlFlow::Continue(())
            })?;
        }
        batch.delete(keys::inode(ino));
        batch.uses_reserve = true;
        Ok((draft.pending, change))
    }

    /// Makes what [`FileSystem::bury`] prepared true in memory.
    pub(super) fn buried(&self, cell: &InodeCell, state: &mut InodeState, after: (Ranges, Change)) {
        let (pending, change) = after;
        self.orphans.changed(cell.ino, state.record.epoch, &state.pending, &pending);
        self.counters.add(change);
        self.retire(cell, state);
    }

    /// Buries one inode that nobody uses. False if there is none.
    pub(super) fn bury_one(&self) -> Result<bool> {
        let Some(ino) = self.orphans.unused.lock().iter().next().copied() else { return Ok(false) };
        match self.bury_orphan(ino) {
            Ok(()) | Err(Error::Stale) => {
                self.orphans.unused.lock().remove(&ino);
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    fn bury_orphan(&self, ino: Ino) -> Result<()> {
        let cell = self.cell(ino, Tier::Disk)?;
        let mut state = cell.write(Tier::Disk)?;
        if cell.is_referenced() || state.record.links > 0 {
            return Ok(());
        }
        let mut batch = Batch::new(Op::Reclaim.tag());
        let after = self.bury(ino, &state, &mut batch, Tier::Disk)?;
        batch.delete(keys::orphan(ino));
        self.apply(&mut batch, Tier::Disk)?;
        self.buried(&cell, &mut state, after);
        self.orphans.open.fetch_sub(1, Relaxed);
        Ok(())
    }

    /// Deletes one unit of a range. False if there is none.
    pub(super) fn reclaim_unit(&self) -> Result<bool> {
        let Some((ino, epoch, from)) = self.orphans.ranges.lock().front().copied() else { return Ok(false) };
        let next = self.reclaim_blocks(ino, epoch, from)?;
        let mut queue = self.orphans.ranges.lock();
        queue.pop_front();
        if let Some(next) = next {
            queue.push_front((ino, epoch, next));
        }
        Ok(true)
    }

    /// Deletes blocks of the range that begins at `from`; returns where the rest begins.
    fn reclaim_blocks(&self, ino: Ino, epoch: u32, from: u64) -> Result<Option<u64>> {
        let cell = match self.cell(ino, Tier::Disk) {
            Ok(cell) => Some(cell),
            Err(Error::Stale) => None,
            Err(error) => return Err(error),
        };
        let mut state = match cell.as_ref().map(|cell| cell.write(Tier::Disk)).transpose() {
            Ok(state) => state.filter(|state| state.record.epoch == epoch),
            Err(Error::Stale) => None,
            Err(error) => return Err(error),
        };
        // The lock, if the range belongs to a living file, is held from here on; else it is the reclaimer's alone.
        let key = keys::reclaim(ino, epoch, from);
        let Some(value) = self.engine.get(&key, Tier::Disk)? else { return Ok(None) };
        let range = Range::decode(from, &value)?;
        let mut batch = Batch::new(Op::Reclaim.tag());
        batch.uses_reserve = true;
        let next = self.delete_blocks(ino, epoch, range, &mut batch)?;
        let rest = (next < range.to).then(|| range.after(next));
        if let (Some(cell), Some(state)) = (&cell, &mut state) {
            let mut draft = Draft::of(state);
            draft.pending.cut(from, next);
            self.commit(cell, state, batch, draft, true, Tier::Disk)?;
            // What is left is a changed range, which `commit` has queued.
            return Ok(None);
        }
        batch.delete(key);
        if let Some(rest) = rest {
            batch.put(keys::reclaim(ino, epoch, rest.from), rest.encode());
        }
        self.apply(&mut batch, Tier::Disk)?;
        let freed = range.bytes - rest.map_or(0, |rest| rest.bytes);
        self.orphans.pending_bytes.fetch_sub(freed, Relaxed);
        Ok(rest.map(|rest| rest.from))
    }

    /// Adds deletes of up to [`UNIT_BLOCKS`] blocks of `range` to `batch`; returns the first block not covered.
    fn delete_blocks(&self, ino: Ino, epoch: u32, range: Range, batch: &mut Batch) -> Result<u64> {
        // Where most blocks exist, deleting unseen is cheaper than reading them to learn which do.
        let mostly_there = range.bytes / self.options.block_bytes >= (range.to - range.from) / 2;
        if mostly_there {
            let next = range.to.min(range.from + UNIT_BLOCKS);
            (range.from..next).for_each(|block| batch.delete(keys::block(ino, epoch, block)));
            return Ok(next);
        }
        let (mut next, mut left) = (range.to, UNIT_BLOCKS);
        let span = keys::blocks(ino, epoch, range.from, range.to);
        self.engine.scan(span.range(), Tier::Disk, &mut |key, _| {
            let Some(Key::Block { block, .. }) = keys::parse(key) else { return ControlFlow::Break(()) };
            if left == 0 {
                next = block;
                return ControlFlow::Break(());
            }
            left -= 1;
            batch.delete(key.to_vec());
            ControlFlow::Continue(())
        })?;
        Ok(next)
    }

    /// Finds what a former run left: buries its orphans (unless read-only) and queues its ranges.
    pub(super) fn adopt_leftovers(&self) -> Result<()> {
        let mut orphans = Vec::new();
        self.engine.scan(keys::orphans().range(), Tier::Disk, &mut |key, _| {
            if let Some(Key::Orphan { ino }) = keys::parse(key) {
                orphans.push(ino);
            }
            ControlFlow::Continue(())
        })?;
        self.orphans.open.store(orphans.len() as u64, Relaxed);
        let mut problem = None;
        self.engine.scan(keys::reclaims().range(), Tier::Disk, &mut |key, value| {
            if let Some(Key::Reclaim { ino, epoch, from }) = keys::parse(key) {
                match Range::decode(from, value) {
                    Ok(range) => {
                        self.orphans.pending_bytes.fetch_add(range.bytes, Relaxed);
                        self.orphans.ranges.lock().push_back((ino, epoch, from));
                    }
                    Err(error) => problem = Some(error),
                }
            }
            ControlFlow::Continue(())
        })?;
        if let Some(problem) = problem {
            return Err(problem);
        }
        if !self.options.read_only {
            self.orphans.look();
            for ino in orphans {
                match self.patiently(|| self.bury_orphan(ino)) {
                    // A mark without an inode is `check`'s to report; it does not keep the store from opening.
                    Err(Error::Stale) => log::warn!("orphan record of inode {ino}, which does not exist"),
                    result => result?,
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(from: u64, to: u64) -> Range {
        Range { from, to, bytes: to - from }
    }

    #[test]
    fn ranges_join_and_split() {
        let mut ranges = Ranges::default();
        ranges.add(range(10, 20));
        ranges.add(range(30, 40));
        ranges.add(range(5, 8));
        assert_eq!(ranges.0, [range(5, 8), range(10, 20), range(30, 40)]);
        ranges.add(range(20, 30));
        assert_eq!(ranges.0, [range(5, 8), range(10, 40)]);
        ranges.cut(12, 14);
        ranges.cut(0, 6);
        ranges.cut(39, 50);
        assert_eq!(ranges.0, [range(6, 8), range(10, 12), range(14, 39)]);
        let inside: Vec<u64> = (0..50).filter(|&block| ranges.contains(block)).collect();
        let expected: Vec<u64> = (6..8).chain(10..12).chain(14..39).collect();
        assert_eq!((inside, ranges.bytes(), ranges.end()), (expected, 29, 39));
    }

    #[test]
    fn golden_bytes_and_every_cut_is_refused() {
        let bytes = range(3, 5).encode();
        assert_eq!(bytes, b"\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0\x02");
        assert_eq!(Range::decode(3, &bytes).unwrap(), range(3, 5));
        assert!((0..bytes.len()).all(|cut| Range::decode(3, &bytes[..cut]).is_err()));
        assert!(Range::decode(5, &bytes).is_err());
    }
}
