//! Ranges of blocks that are still to be deleted, and the records that promise it.

use std::ops::ControlFlow;

use crate::engine::{Batch, Engine, Tier};
use crate::fs::Result;
use crate::fs::error::damaged;
use crate::fs::keys::{self, Key, take_u64};
use crate::fs::types::Ino;

/// Blocks `from..to` that are still to be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::fs) struct Range {
    pub from: u64,
    pub to: u64,
    pub bytes: u64,
}

impl Range {
    pub fn encode(self) -> Vec<u8> {
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

    /// The rest of the range after the blocks before `next` are gone; bytes in proportion.
    pub fn after(self, next: u64) -> Range {
        let share = u128::from(self.bytes) * u128::from(self.to - next) / u128::from(self.to - self.from);
        Range { from: next, bytes: share as u64, ..self }
    }

    /// The part of the range before `end`; bytes in proportion.
    fn before(self, end: u64) -> Range {
        Range { to: end, bytes: self.bytes - self.after(end).bytes, ..self }
    }
}

/// Ranges of one epoch of a file: ascending, apart from each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::fs) struct Ranges(Vec<Range>);

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

    /// Each range, ascending.
    pub fn iter(&self) -> impl Iterator<Item = &Range> {
        self.0.iter()
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

    /// Bytes that are believed to lie in all of them.
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
    pub fn write_difference(&self, old: &Ranges, ino: Ino, epoch: u32, batch: &mut Batch) {
        for range in old.0.iter().filter(|range| !self.0.iter().any(|kept| kept.from == range.from)) {
            batch.delete(keys::reclaim(ino, epoch, range.from));
        }
        for range in self.0.iter().filter(|range| !old.0.contains(range)) {
            batch.put(keys::reclaim(ino, epoch, range.from), range.encode());
        }
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
