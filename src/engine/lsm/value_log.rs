//! Values that stay in the log: large ones are written once, there, and tables hold a pointer instead.
//!
//! 1. The memtable knows where in the log each large value lies. A flush makes the log durable up to there, writes
//!    pointers to the table, and says in the table's metadata which segments it needs, with how many bytes of values.
//! 2. A table holds the segments it needs as [`Segment`]s, so that the log does not use them again when it is
//!    released. What the tables of the manifest need is the whole truth: nothing else is written down. Each version
//!    has the sums.
//! 3. A merge copies pointers. A segment that no table needs any more is free when the last reader is gone.
//! 4. Collection: while less than the option of what is kept lives, the emptiest segments are *sparse*. A merge that meets a pointer
//!    into one moves the value to a file of [survivors](super::survivors). Where no merge comes by, tables that need a sparse segment are
//!    rewritten one by one, the emptiest segment first. The file is synced before the edit that names the outputs. The same goes for
//!    such a file, which holds nothing but what was moved. A segment of which more than the option lives is never sparse, so for each
//!    byte that is moved at least `1 / share - 1` are freed, at the default of a half as many. Where a writer waits for space or a command
//!    compacts, every segment is sparse of which less lives.
//!
//! # Invariants
//!
//! 1. A pointer of a table that a durable edit names leads to bytes of the log that are durable.
//! 2. A segment that such a table needs is not written to, but for appending where it is the log's last.
//! 3. Positions are never used twice below a durable position, so a pointer is also the key of its value in the cache.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use bytes::Bytes;

use super::LsmEngine;
use super::compaction::{Job, Levels};
use super::survivors::Moved;
use super::table::Access;
use super::version::Version;
use crate::base::varint;
use crate::disk::Purpose;
use crate::engine::cache::{BlockCache, CacheKind};
use crate::engine::wal::{self, LogShape, Segment};
use crate::engine::{Error, Position, Result, Tier, ValueLog, Visit};

/// Log records of this kind hold one value that a merge of an earlier version of this program moved; they are no batches.
pub const MOVED_KIND: u8 = wal::FIRST_KIND + 1;
/// File number under which the cache keeps values; no table has it.
const CACHE_NUMBER: u64 = u64::MAX;
/// Values this near to each other are read by one request.
const GAP_BYTES: u64 = 4 << 10;
/// One request reads no more than this, unless one value is larger.
const READ_BYTES: u64 = 512 << 10;
/// Entries that a scan takes together at first, and at most, so that their values can be read together.
const GROUP: std::ops::RangeInclusive<usize> = 8..=128;
/// Bytes of values that a scan takes together.
const GROUP_BYTES: u64 = 512 << 10;

/// Where a value lies in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// The position of its first byte.
    pub position: Position,
    /// Its length.
    pub bytes: u64,
    /// Its CRC-32.
    pub crc: u32,
}

impl Pointer {
    /// The pointer to `value` at `position`.
    pub fn new(position: Position, value: &[u8]) -> Pointer {
        Pointer { position, bytes: value.len() as u64, crc: crc32fast::hash(value) }
    }

    /// Appends position and length as varints and the checksum.
    pub fn encode(&self, target: &mut Vec<u8>) {
        varint::put(target, self.position);
        varint::put(target, self.bytes);
        target.extend_from_slice(&self.crc.to_le_bytes());
    }

    /// Reads what [`Pointer::encode`] wrote.
    pub fn decode(mut source: &[u8]) -> Option<Pointer> {
        let (position, bytes) = (varint::take(&mut source)?, varint::take(&mut source)?);
        Some(Pointer { position, bytes, crc: u32::from_le_bytes(source.try_into().ok()?) })
    }

    fn encoded_bytes(&self) -> usize {
        (varint::length(self.position) + varint::length(self.bytes)) as usize + 4
    }

    /// Reads the value from its segment and checks it.
    pub fn fetch(&self, segment: &Segment, purpose: Purpose) -> Result<Vec<u8>> {
        let bytes = usize::try_from(self.bytes).ok().filter(|_| self.bytes <= segment.capacity_bytes());
        let bytes = bytes.ok_or_else(|| segment.damaged(self.position))?;
        let value = segment.read(purpose, self.position, bytes)?;
        self.check(&value, segment).map(|()| value)
    }

    fn check(&self, value: &[u8], segment: &Segment) -> Result<()> {
        if crc32fast::hash(value) == self.crc { Ok(()) } else { Err(segment.damaged(self.position)) }
    }
}

/// A value as a cursor meets it.
#[derive(Clone, Copy)]
pub enum Stored<'a> {
    /// Here.
    Value(&'a [u8]),
    /// In the log.
    Pointer(Pointer, &'a Arc<Segment>),
}

impl<'a> Stored<'a> {
    /// The bytes that it takes in a table.
    pub fn len(&self) -> usize {
        match self {
            Stored::Value(value) => value.len(),
            Stored::Pointer(pointer, _) => pointer.encoded_bytes(),
        }
    }

    /// The value if it is here.
    #[cfg(test)]
    pub fn inline(&self) -> Option<&'a [u8]> {
        match self {
            Stored::Value(value) => Some(value),
            Stored::Pointer(..) => None,
        }
    }
}

/// Of segments (start, live bytes, size) those to empty, with the share that lives in thousandths: the emptiest ones of which less than
/// `percent` lives, until that much of all lives, or all of them if `is_thorough`.
fn choose_sparse(
    mut segments: Vec<(Position, u64, u64)>,
    percent: u64,
    is_thorough: bool,
) -> BTreeMap<Position, u64> {
    let share = |live: u64, size: u64| live.saturating_mul(1000) / size.max(1);
    let live_bytes: u64 = segments.iter().map(|(_, live, _)| live).sum();
    let mut bytes: u64 = segments.iter().map(|(.., size)| size).sum();
    segments.retain(|(_, live, size)| live * 100 < size * percent);
    segments.sort_by_key(|(start, live, size)| (share(*live, *size), *start));
    let chosen = segments.into_iter().take_while(|(_, live, size)| {
        let is_wanted = is_thorough || live_bytes * 100 < bytes * percent;
        bytes -= size.saturating_sub(*live).min(bytes);
        is_wanted
    });
    chosen.map(|(start, live, size)| (start, share(live, size))).collect()
}

/// The value behind a pointer, for a point read.
pub fn read(pointer: Pointer, segment: &Segment, access: Access<'_>) -> Result<Bytes> {
    let cached = access.cache.and_then(|cache| cache.get(CacheKind::Value, CACHE_NUMBER, pointer.position));
    if let Some(value) = cached {
        return Ok(value);
    }
    if access.tier == Tier::Memory {
        return Err(Error::WouldBlock);
    }
    access.count(pointer.bytes);
    let value = Bytes::from(pointer.fetch(segment, access.purpose)?);
    if let Some(cache) = access.cache {
        cache.count_miss(CacheKind::Value);
        cache.insert(CACHE_NUMBER, pointer.position, value.clone());
    }
    Ok(value)
}

/// Entries of a scan that wait for the values of some of them, so that neighbours are read together.
pub struct Group<'a> {
    cache: &'a BlockCache,
    tier: Tier,
    entries: Vec<(Vec<u8>, Waiting)>,
    bytes: u64,
    limit: usize,
}

enum Waiting {
    Value(Bytes),
    Pointer(Pointer, Arc<Segment>),
}

impl<'a> Group<'a> {
    /// An empty group that reads through `cache` as far as `tier` allows.
    pub fn new(cache: &'a BlockCache, tier: Tier) -> Group<'a> {
        Group { cache, tier, entries: Vec::new(), bytes: 0, limit: *GROUP.start() }
    }

    /// Shows an entry to `visit`, now if nothing waits before it and its value is here, else with its group.
    pub fn push(&mut self, key: &[u8], value: Stored<'_>, visit: &mut Visit<'_>) -> Result<ControlFlow<()>> {
        let waiting = match value {
            Stored::Value(value) if self.entries.is_empty() => return Ok(visit(key, value)),
            Stored::Value(value) => Waiting::Value(Bytes::copy_from_slice(value)),
            Stored::Pointer(pointer, segment) => {
                match self.cache.get(CacheKind::Value, CACHE_NUMBER, pointer.position) {
                    Some(value) if self.entries.is_empty() => return Ok(visit(key, &value)),
                    Some(value) => Waiting::Value(value),
                    None if self.tier == Tier::Memory => return Err(Error::WouldBlock),
                    None => Waiting::Pointer(pointer, segment.clone()),
                }
            }
        };
        self.bytes += match &waiting {
            Waiting::Value(value) => value.len() as u64,
            Waiting::Pointer(pointer, _) => pointer.bytes,
        };
        self.entries.push((key.to_vec(), waiting));
        if self.entries.len() < self.limit && self.bytes < GROUP_BYTES {
            return Ok(ControlFlow::Continue(()));
        }
        self.limit = (self.limit * 4).min(*GROUP.end());
        self.end(visit)
    }

    /// Reads what is missing and shows every entry that waits.
    pub fn end(&mut self, visit: &mut Visit<'_>) -> Result<ControlFlow<()>> {
        self.fill()?;
        self.bytes = 0;
        for (key, waiting) in std::mem::take(&mut self.entries) {
            if let Waiting::Value(value) = waiting
                && visit(&key, &value).is_break()
            {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Reads every missing value, neighbours by one request.
    fn fill(&mut self) -> Result<()> {
        let missing = self.entries.iter().enumerate().filter_map(|(index, (_, waiting))| match waiting {
            Waiting::Pointer(pointer, segment) => Some((index, *pointer, segment.clone())),
            Waiting::Value(_) => None,
        });
        let mut missing: Vec<(usize, Pointer, Arc<Segment>)> = missing.collect();
        missing.sort_by_key(|(_, pointer, _)| pointer.position);
        let end = |pointer: &Pointer| pointer.position.saturating_add(pointer.bytes);
        let mut rest = &missing[..];
        while let [(_, first, segment), ..] = rest {
            let fits = |pair: &&[(usize, Pointer, Arc<Segment>)]| {
                let (before, after) = (&pair[0], &pair[1]);
                Arc::ptr_eq(&before.2, &after.2)
                    && after.1.position <= end(&before.1).saturating_add(GAP_BYTES)
                    && end(&after.1) - first.position <= READ_BYTES
            };
            let count = 1 + rest.windows(2).take_while(fits).count();
            let (near, others) = rest.split_at(count);
            rest = others;
            let bytes = near.iter().map(|(_, pointer, _)| end(pointer)).max().unwrap_or(0) - first.position;
            let bytes = usize::try_from(bytes).ok().filter(|_| bytes <= segment.capacity_bytes());
            let bytes = bytes.ok_or_else(|| segment.damaged(first.position))?;
            let span = segment.read(Purpose::Scan, first.position, bytes)?;
            self.cache.count_miss(CacheKind::Value);
            for (index, pointer, _) in near {
                let from = (pointer.position - first.position) as usize;
                // A cached value owns its memory: a slice would keep all of what was read.
                let value = Bytes::copy_from_slice(&span[from..from + pointer.bytes as usize]);
                pointer.check(&value, segment)?;
                self.cache.insert(CACHE_NUMBER, pointer.position, value.clone());
                self.entries[*index].1 = Waiting::Value(value);
            }
        }
        Ok(())
    }
}

impl LsmEngine {
    /// Where the segments that are to be emptied start, by the share of them that lives, in thousandths, but for those that are set
    /// aside; none while the disk is so full that what deletes need would be used. Of the rest of the reserve it takes what it needs: it
    /// gives more back.
    ///
    /// Only as many as bring the share that lives of all together to the option, the emptiest first: of the others more will have died
    /// by the time they are needed. All of which less than that lives, if `is_thorough`.
    pub(super) fn sparse_segments(&self, version: &Version, is_thorough: bool) -> BTreeMap<Position, u64> {
        let kept_bytes = self.space.release_bytes().saturating_sub(self.space.ballast_bytes());
        let room_bytes = kept_bytes + 2 * self.log.segment_bytes();
        if self.shelf.space().is_ok_and(|space| space.room_bytes() < room_bytes) {
            return BTreeMap::new();
        }
        let now = self.clock.elapsed();
        // Nobody can empty what a table needs that merges go around.
        let aside = self.set_aside.tables(now);
        let tables = version.tables().filter(|(_, table)| aside.contains(&table.number));
        let stuck: Option<BTreeSet<Position>> = (!aside.is_empty())
            .then(|| tables.flat_map(|(_, table)| table.values.iter()).map(|(start, _)| *start).collect());
        // Both in order, so that each merge step goes through them once.
        let mut needed = version.needed().iter().peekable();
        let mut kept = self.log.kept();
        kept.extend(self.survivors.kept());
        kept.retain(|(start, _)| {
            let is_stuck = stuck.as_ref().is_some_and(|stuck| stuck.contains(start));
            !is_stuck && !self.set_aside.has_segment(*start, now)
        });
        kept.sort_unstable();
        let live = kept.into_iter().filter_map(|(start, size)| {
            while needed.next_if(|(before, _)| *before < start).is_some() {}
            needed.next_if(|(at, _)| *at == start).map(|(_, live)| (start, live, size))
        });
        choose_sparse(live.collect(), self.options.value_gc_percent, is_thorough)
    }

    /// A merge of one table with nothing, to move its values out of the segment of which the smallest share lives; one that no merge that
    /// runs is in the way of.
    pub(super) fn collect_job(&self, version: &Version, levels: &Levels) -> Option<Job> {
        let sparse = self.sparse_segments(version, self.shortage.is_refused());
        let mut sparse: Vec<(u64, Position)> =
            sparse.into_iter().map(|(start, share)| (share, start)).collect();
        sparse.sort_unstable();
        sparse.into_iter().find_map(|(_, victim)| {
            let tables = version.tables().filter(|(_, table)| table.needs(victim));
            let mut jobs = tables.map(|(level, table)| Job::rewrite(level, table));
            jobs.find(|job| levels.is_free(job))
        })
    }

    /// Moves a value to the [survivors](super::survivors) if it lies in a segment of `sparse`. One that cannot be read stays where it is, and so from
    /// then on does what lies beside it.
    pub(super) fn move_value(
        &self,
        sparse: &BTreeSet<Position>,
        pointer: Pointer,
        segment: &Arc<Segment>,
    ) -> Result<Option<Moved>> {
        let start = segment.start();
        if !sparse.contains(&start) || self.set_aside.has_segment(start, self.clock.elapsed()) {
            return Ok(None);
        }
        let value = match pointer.fetch(segment, Purpose::ValueLogGc) {
            Ok(value) => value,
            Err(error) => {
                self.set_segment_aside(start, &error);
                return Ok(None);
            }
        };
        let moved = self.survivors.append(&value)?;
        self.meters.moved_value_bytes.fetch_add(pointer.bytes, Relaxed);
        Ok(Some(moved))
    }

    /// What reports say of values in the log.
    pub(super) fn value_log_shape(&self, log: &LogShape, live_bytes: u64) -> ValueLog {
        let (files, bytes) = self.survivors.size();
        ValueLog {
            segments: log.kept_segments + files,
            bytes: log.kept_bytes + bytes,
            live_bytes,
            moved_bytes: self.meters.moved_value_bytes.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_emptiest_segments_are_emptied_until_enough_of_all_lives() {
        let none: [Position; 0] = [];
        let chosen = |segments: &[(u64, u64)], is_thorough| -> Vec<Position> {
            let segments = segments.iter().zip(1..).map(|((live, size), start)| (start, *live, *size));
            choose_sparse(segments.collect(), 50, is_thorough).into_keys().collect()
        };
        // Half of all lives: nothing has to be done, and a command does what it can.
        assert_eq!(chosen(&[(90, 100), (40, 100), (20, 100)], false), none);
        assert_eq!(chosen(&[(90, 100), (40, 100), (20, 100)], true), [2, 3]);
        // The emptiest one is enough, or more are needed; one of which half lives never is.
        assert_eq!(chosen(&[(60, 100), (45, 100), (5, 100)], false), [3]);
        assert_eq!(chosen(&[(20, 100), (90, 100), (5, 100), (5, 100)], false), [3, 4]);
        assert_eq!(chosen(&[(10, 100), (45, 100), (5, 100), (5, 100)], false), [1, 3, 4]);
        assert_eq!(chosen(&[(50, 100), (50, 100)], true), none);
        assert_eq!(choose_sparse(vec![(1, 1, 100)], 0, true), BTreeMap::new());
    }

    #[test]
    fn pointers_come_back_and_nothing_else_is_one() {
        for position in [1, 300, u64::MAX] {
            let pointer = Pointer::new(position, &vec![7; 5000]);
            let mut bytes = Vec::new();
            pointer.encode(&mut bytes);
            assert_eq!(bytes.len(), pointer.encoded_bytes());
            assert_eq!(Pointer::decode(&bytes), Some(pointer));
            for cut in 0..bytes.len() {
                assert_eq!(Pointer::decode(&bytes[..cut]), None);
            }
            bytes.push(0);
            assert_eq!(Pointer::decode(&bytes), None);
        }
    }
}
