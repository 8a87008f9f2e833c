//! A recording as steps of sizes: which key, by rank, and how many bytes. What does not depend on the design is worked out once: which keys
//! are there, whether a get finds something, and where a scan ends.
//!
//! An image comes first, as puts. Then comes a mark, behind which costs are counted.

use std::sync::Arc;

use super::keys::{KeyCollector, Keys};
use super::rank_set::RankSet;

use crate::base::varint;

/// Bytes of a batch of an image, about.
const IMAGE_BATCH_BYTES: u64 = 1 << 20;

const PUT: u8 = 0;
const DELETE: u8 = 1;
const MISS: u8 = 2;
const GET: u8 = 3;
const SCAN: u8 = 4;
const BATCH: u8 = 5;
const SYNC: u8 = 6;
const MARK: u8 = 7;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A put, part of the batch that ends next.
    Put {
        /// Rank of the key.
        rank: u32,
        /// Bytes of the value.
        value_bytes: u64,
    },
    /// A delete, part of the batch that ends next.
    Delete {
        /// Rank of the key.
        rank: u32,
    },
    /// The end of a batch.
    Batch {
        /// Nanoseconds since the end of the batch before.
        nanos: u64,
    },
    /// A read of a key.
    Get {
        /// Its rank.
        rank: u32,
        /// Whether it is there.
        is_found: bool,
    },
    /// A read of keys in a row.
    Scan {
        /// Rank of the first key that it may show.
        from: u32,
        /// Rank of the last key that it shows.
        to: u32,
    },
    /// A program waits until everything is durable.
    Sync,
    /// The end of the image.
    Mark,
}

/// Sums over the steps behind the mark, the same for every design.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StepTotals {
    /// Batches.
    pub batches: u64,
    /// Puts and deletes.
    pub changes: u64,
    /// Key and value bytes of puts, and key bytes of deletes.
    pub logical_bytes: u64,
    /// Gets and scans.
    pub reads: u64,
    /// Key and value bytes that gets and scans have returned.
    pub returned_bytes: u64,
    /// Syncs.
    pub syncs: u64,
    /// Bytes of keys and values that are there at the end.
    pub live_bytes: u64,
    /// The most that there were at once.
    pub live_bytes_peak: u64,
}

/// A recording as steps.
#[derive(Debug, Default)]
pub struct Steps {
    /// The keys.
    pub keys: Arc<Keys>,
    /// Sums behind the mark.
    pub totals: StepTotals,
    ranks: Vec<u32>,
    kinds: Vec<u8>,
}

/// Makes steps of what a recording says, in its order.
#[derive(Default)]
pub struct StepBuilder {
    keys: KeyCollector,
    kinds: Vec<u8>,
    image_bytes: u64,
    is_marked: bool,
}

impl StepBuilder {
    /// An entry of the image; all of them come before anything else.
    pub fn image(&mut self, key: &[u8], value_bytes: u64) {
        self.put(key, value_bytes);
        self.image_bytes += key.len() as u64 + value_bytes;
        if self.image_bytes >= IMAGE_BATCH_BYTES {
            self.end_batch(0);
            self.image_bytes = 0;
        }
    }

    /// The end of the image.
    pub fn mark(&mut self) {
        if !self.is_marked {
            if self.image_bytes > 0 {
                self.end_batch(0);
            }
            self.kinds.push(MARK);
            self.is_marked = true;
        }
    }

    /// A put of the batch that is open.
    pub fn put(&mut self, key: &[u8], value_bytes: u64) {
        self.keys.add(key);
        self.kinds.push(PUT);
        varint::put(&mut self.kinds, value_bytes);
    }

    /// A delete of the batch that is open.
    pub fn delete(&mut self, key: &[u8]) {
        self.keys.add(key);
        self.kinds.push(DELETE);
    }

    /// The end of a batch, so many nanoseconds after the one before.
    pub fn end_batch(&mut self, nanos: u64) {
        self.kinds.push(BATCH);
        varint::put(&mut self.kinds, nanos);
    }

    /// A read of a key.
    pub fn get(&mut self, key: &[u8]) {
        self.keys.add(key);
        self.kinds.push(MISS);
    }

    /// A read of up to `entries` entries from `key` on.
    pub fn scan(&mut self, key: &[u8], entries: u64) {
        self.keys.add(key);
        self.keys.add_open();
        self.kinds.push(SCAN);
        varint::put(&mut self.kinds, entries);
    }

    /// A sync that a program waits for.
    pub fn sync(&mut self) {
        self.kinds.push(SYNC);
    }

    /// The steps.
    pub fn finish(mut self) -> Steps {
        self.mark();
        let (keys, ranks) = self.keys.finish();
        let keys = Arc::new(keys);
        let mut steps = Steps { keys, totals: StepTotals::default(), ranks, kinds: self.kinds };
        steps.kinds.shrink_to_fit();
        steps.resolve();
        steps
    }
}

/// The keys that are there, while steps are passed through.
struct Live {
    /// One more than the bytes of the value of each key; 0 for one that is not there.
    values: Vec<u32>,
    present: RankSet,
    bytes: u64,
}

impl Live {
    fn set(&mut self, keys: &Keys, rank: u32, value_bytes: Option<u64>) {
        let value = value_bytes.map_or(0, |bytes| u32::try_from(bytes + 1).unwrap_or(u32::MAX));
        self.present.set(rank, value > 0);
        let before = std::mem::replace(&mut self.values[rank as usize], value);
        self.bytes -= self.entry_bytes(keys, rank, before);
        self.bytes += self.entry_bytes(keys, rank, value);
    }

    fn entry_bytes(&self, keys: &Keys, rank: u32, value: u32) -> u64 {
        if value == 0 { 0 } else { keys.bytes(rank) + u64::from(value - 1) }
    }
}

impl Steps {
    /// Finds out which gets find something and where scans end, and adds up the totals.
    fn resolve(&mut self) {
        let mut live = Live {
            values: vec![0; self.keys.count() as usize],
            present: RankSet::new(self.keys.count()),
            bytes: 0,
        };
        let mut totals = StepTotals::default();
        let mut at = Position::default();
        loop {
            let (kind_at, rank_at) = (at.kind, at.rank);
            let Some(step) = self.step(&mut at) else { break };
            match step {
                Step::Put { rank, value_bytes } => {
                    live.set(&self.keys, rank, Some(value_bytes));
                    totals.changes += 1;
                    totals.logical_bytes += self.keys.bytes(rank) + value_bytes;
                }
                Step::Delete { rank } => {
                    live.set(&self.keys, rank, None);
                    totals.changes += 1;
                    totals.logical_bytes += self.keys.bytes(rank);
                }
                Step::Batch { .. } => {
                    totals.batches += 1;
                    totals.live_bytes_peak = totals.live_bytes_peak.max(live.bytes);
                }
                Step::Get { rank, .. } => {
                    let value = live.values[rank as usize];
                    self.kinds[kind_at] = if value > 0 { GET } else { MISS };
                    totals.reads += 1;
                    totals.returned_bytes += live.entry_bytes(&self.keys, rank, value);
                }
                Step::Scan { from, .. } => {
                    let mut source = &self.kinds[kind_at + 1..];
                    let entries = varint::take(&mut source).unwrap_or(0);
                    let mut to = from;
                    for rank in live.present.range(from, u32::MAX).take(entries as usize) {
                        to = rank;
                        let value = live.values[rank as usize];
                        totals.returned_bytes += live.entry_bytes(&self.keys, rank, value);
                    }
                    self.ranks[rank_at + 1] = to;
                    totals.reads += 1;
                }
                Step::Sync => totals.syncs += 1,
                Step::Mark => {
                    totals = StepTotals { live_bytes_peak: live.bytes, ..StepTotals::default() };
                }
            }
        }
        totals.live_bytes = live.bytes;
        self.totals = totals;
    }

    /// Memory that they take.
    pub fn memory_bytes(&self) -> u64 {
        (self.ranks.len() * size_of::<u32>() + self.kinds.len()) as u64 + 2 * u64::from(self.keys.count())
    }

    /// The steps in their order.
    pub fn iter(&self) -> impl Iterator<Item = Step> + use<'_> {
        let mut at = Position::default();
        std::iter::from_fn(move || self.step(&mut at))
    }

    /// The step at a place, which moves behind it; `None` at the end.
    fn step(&self, at: &mut Position) -> Option<Step> {
        let kind = *self.kinds.get(at.kind)?;
        let mut source = &self.kinds[at.kind + 1..];
        let mut rank = || {
            let rank = self.ranks.get(at.rank).copied();
            at.rank += 1;
            rank
        };
        let step = match kind {
            PUT => Step::Put { rank: rank()?, value_bytes: varint::take(&mut source)? },
            DELETE => Step::Delete { rank: rank()? },
            MISS | GET => Step::Get { rank: rank()?, is_found: kind == GET },
            SCAN => {
                let step = Step::Scan { from: rank()?, to: rank()? };
                varint::take(&mut source)?;
                step
            }
            BATCH => Step::Batch { nanos: varint::take(&mut source)? },
            SYNC => Step::Sync,
            _ => Step::Mark,
        };
        at.kind = self.kinds.len() - source.len();
        Some(step)
    }
}

/// A place between two steps.
#[derive(Clone, Copy, Default)]
struct Position {
    kind: usize,
    rank: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_know_what_is_there() {
        let mut builder = StepBuilder::default();
        builder.image(b"a", 10);
        builder.image(b"c", 1000);
        builder.mark();
        builder.get(b"b");
        builder.get(b"c");
        builder.put(b"b", 5);
        builder.delete(b"c");
        builder.end_batch(7);
        builder.scan(b"a", 2);
        builder.scan(b"aa", 9);
        builder.sync();
        let steps = builder.finish();
        assert_eq!(steps.keys.count(), 4);
        let all: Vec<Step> = steps.iter().collect();
        let (a, aa, b, c) = (0, 1, 2, 3);
        assert_eq!(
            all,
            [
                Step::Put { rank: a, value_bytes: 10 },
                Step::Put { rank: c, value_bytes: 1000 },
                Step::Batch { nanos: 0 },
                Step::Mark,
                Step::Get { rank: b, is_found: false },
                Step::Get { rank: c, is_found: true },
                Step::Put { rank: b, value_bytes: 5 },
                Step::Delete { rank: c },
                Step::Batch { nanos: 7 },
                Step::Scan { from: a, to: b },
                Step::Scan { from: aa, to: b },
                Step::Sync,
            ]
        );
        let wanted = StepTotals {
            batches: 1,
            changes: 2,
            logical_bytes: 7,
            reads: 4,
            returned_bytes: 1001 + 11 + 6 + 6,
            syncs: 1,
            live_bytes: 17,
            live_bytes_peak: 1012,
        };
        assert_eq!(steps.totals, wanted);
    }
}
