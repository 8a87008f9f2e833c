//! Values that stay in the log: large ones are written once, there, and tables hold a pointer instead.
//!
//! 1. The memtable knows where in the log each large value lies. A flush makes the log durable up to there, writes
//!    pointers to the table, and says in the table's metadata which segments it needs, with how many bytes of values.
//! 2. A table holds the segments it needs as [`Segment`]s, so that the log does not use them again when it is
//!    released. Nothing else is written down of which segments are needed. Each version has the sums.
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
//! 3. LSNs are never used twice below a durable LSN, so a pointer is also the key of its value in the cache.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;

use super::table::ReadOptions;
use crate::base::varint;
use crate::disk::Purpose;
use crate::engine::cache::{BlockCache, CacheKey, CacheKind};
use crate::engine::wal::{self, Segment};
use crate::engine::{Error, Lsn, Result, Tier, Visit};

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

/// Place of a value in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// The LSN of its first byte.
    pub lsn: Lsn,
    /// Its length.
    pub bytes: u64,
    /// Its CRC-32.
    pub crc: u32,
}

impl Pointer {
    /// The pointer to `value` at `lsn`.
    pub fn new(lsn: Lsn, value: &[u8]) -> Pointer {
        Pointer { lsn, bytes: value.len() as u64, crc: crc32fast::hash(value) }
    }

    /// Appends LSN and length as varints and the checksum.
    pub fn encode(&self, target: &mut Vec<u8>) {
        varint::put(target, self.lsn.number());
        varint::put(target, self.bytes);
        target.extend_from_slice(&self.crc.to_le_bytes());
    }

    /// Reads what [`Pointer::encode`] wrote.
    pub fn decode(mut source: &[u8]) -> Option<Pointer> {
        let (lsn, bytes) = (varint::take(&mut source)?, varint::take(&mut source)?);
        Some(Pointer { lsn: Lsn::new(lsn), bytes, crc: u32::from_le_bytes(source.try_into().ok()?) })
    }

    /// The key under which the cache keeps the value.
    fn cache_key(&self) -> CacheKey {
        CacheKey::new(CACHE_NUMBER, self.lsn.number())
    }

    fn encoded_bytes(&self) -> usize {
        (varint::length(self.lsn.number()) + varint::length(self.bytes)) as usize + 4
    }

    /// Reads the value from its segment and checks it.
    pub fn fetch(&self, segment: &Segment, purpose: Purpose) -> Result<Vec<u8>> {
        let bytes = usize::try_from(self.bytes).ok().filter(|_| self.bytes <= segment.capacity_bytes());
        let bytes = bytes.ok_or_else(|| segment.damaged(self.lsn))?;
        let value = segment.read(purpose, self.lsn, bytes)?;
        self.check(&value, segment).map(|()| value)
    }

    fn check(&self, value: &[u8], segment: &Segment) -> Result<()> {
        if crc32fast::hash(value) == self.crc { Ok(()) } else { Err(segment.damaged(self.lsn)) }
    }
}

/// A value as a cursor meets it.
#[derive(Clone, Copy)]
pub enum StoredValue<'a> {
    /// The value itself.
    Value(&'a [u8]),
    /// Its place in the log.
    Pointer(Pointer, &'a Arc<Segment>),
}

impl<'a> StoredValue<'a> {
    /// The bytes that it takes in a table.
    pub fn len(&self) -> usize {
        match self {
            StoredValue::Value(value) => value.len(),
            StoredValue::Pointer(pointer, _) => pointer.encoded_bytes(),
        }
    }

    /// The value if it is here.
    #[cfg(test)]
    pub fn inline(&self) -> Option<&'a [u8]> {
        match self {
            StoredValue::Value(value) => Some(value),
            StoredValue::Pointer(..) => None,
        }
    }
}

/// The value behind a pointer, for a point read.
pub fn read(pointer: Pointer, segment: &Segment, access: ReadOptions<'_>) -> Result<Bytes> {
    let cached = access.cache.and_then(|cache| cache.get(CacheKind::Value, pointer.cache_key()));
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
        cache.insert(pointer.cache_key(), value.clone());
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
    pub fn push(
        &mut self,
        key: &[u8],
        value: StoredValue<'_>,
        visit: &mut Visit<'_>,
    ) -> Result<ControlFlow<()>> {
        let waiting = match value {
            StoredValue::Value(value) if self.entries.is_empty() => return Ok(visit(key, value)),
            StoredValue::Value(value) => Waiting::Value(Bytes::copy_from_slice(value)),
            StoredValue::Pointer(pointer, segment) => {
                match self.cache.get(CacheKind::Value, pointer.cache_key()) {
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
        missing.sort_by_key(|(_, pointer, _)| pointer.lsn);
        let end = |pointer: &Pointer| pointer.lsn.on_by(pointer.bytes);
        let mut rest = &missing[..];
        while let [(_, first, segment), ..] = rest {
            let fits = |pair: &&[(usize, Pointer, Arc<Segment>)]| {
                let (before, after) = (&pair[0], &pair[1]);
                Arc::ptr_eq(&before.2, &after.2)
                    && after.1.lsn <= end(&before.1).on_by(GAP_BYTES)
                    && end(&after.1) - first.lsn <= READ_BYTES
            };
            let count = 1 + rest.windows(2).take_while(fits).count();
            let (near, others) = rest.split_at(count);
            rest = others;
            let bytes = near
                .iter()
                .map(|(_, pointer, _)| end(pointer))
                .max()
                .unwrap_or_default()
                .bytes_since(first.lsn);
            let bytes = usize::try_from(bytes).ok().filter(|_| bytes <= segment.capacity_bytes());
            let bytes = bytes.ok_or_else(|| segment.damaged(first.lsn))?;
            let span = segment.read(Purpose::Scan, first.lsn, bytes)?;
            self.cache.count_miss(CacheKind::Value);
            for (index, pointer, _) in near {
                let from = (pointer.lsn - first.lsn) as usize;
                // A cached value owns its memory: a slice would keep all of what was read.
                let value = Bytes::copy_from_slice(&span[from..from + pointer.bytes as usize]);
                pointer.check(&value, segment)?;
                self.cache.insert(pointer.cache_key(), value.clone());
                self.entries[*index].1 = Waiting::Value(value);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pointers_come_back_and_nothing_else_is_one() {
        for lsn in [1, 300, u64::MAX] {
            let pointer = Pointer::new(Lsn::new(lsn), &vec![7; 5000]);
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
