//! Merges sorted sources into one: of equal keys only the newest source's entry is seen.
//!
//! A binary heap holds the sources by current key and, for equal keys, by age. The winner stays where it is until the next
//! entry is asked for; only then it and every source with the same key move on. So nothing is read that nobody asks for.

use super::cursor::Cursor;
use super::value_log::StoredValue;
use crate::engine::Result;

/// An entry of a merge.
pub struct MergedEntry<'a> {
    /// The key.
    pub key: &'a [u8],
    /// Its value; `None` for a tombstone.
    pub value: Option<StoredValue<'a>>,
    /// Which source it is from, as they were given.
    pub source: usize,
}

/// The entries of several sources in order.
pub struct MergingCursor {
    /// Newest first.
    sources: Vec<Cursor>,
    /// Indices of sources that are not at their end; each is not behind its two children.
    heap: Vec<usize>,
    /// The key that was given out last.
    key: Vec<u8>,
    started: bool,
    /// A source was lost: the entries that follow are not all there are.
    is_cut: bool,
}

impl MergingCursor {
    /// Merges `sources`, newest first.
    pub fn new(sources: Vec<Cursor>) -> MergingCursor {
        let mut merge =
            MergingCursor { sources, heap: Vec::new(), key: Vec::new(), started: false, is_cut: false };
        merge.order();
        merge
    }

    fn order(&mut self) {
        let sources = &self.sources;
        self.heap.clear();
        self.heap.extend((0..sources.len()).filter(|index| sources[*index].key().is_some()));
        for at in (0..self.heap.len() / 2).rev() {
            self.sink(at);
        }
        self.started = false;
        self.is_cut = self.sources.iter().any(Cursor::is_lost);
    }

    /// Whether the merge ended because what a source goes through is gone. It can be begun again behind [`MergingCursor::passed`].
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Number of sources that it merges.
    pub fn sources(&self) -> usize {
        self.sources.len()
    }

    /// The key that was given out last; empty before the first.
    pub fn passed(&self) -> &[u8] {
        &self.key
    }

    /// Goes on with the first entry at or behind `key`, which must be above every key that was given out.
    pub fn seek(&mut self, key: &[u8]) -> Result<()> {
        for source in &mut self.sources {
            source.seek(key)?;
        }
        self.order();
        Ok(())
    }

    /// The next entry in order of keys. After an error the merge is over, and so when it [is cut](MergingCursor::is_cut).
    pub fn next(&mut self) -> Result<Option<MergedEntry<'_>>> {
        if self.started {
            while let Some(&top) = self.heap.first()
                && self.sources[top].key() == Some(&self.key)
            {
                self.sources[top].advance()?;
                if self.sources[top].key().is_none() {
                    self.is_cut |= self.sources[top].is_lost();
                    self.heap.swap_remove(0);
                }
                self.sink(0);
            }
        }
        self.started = true;
        if self.is_cut {
            return Ok(None);
        }
        let Some(&top) = self.heap.first() else { return Ok(None) };
        let source = &self.sources[top];
        let Some(key) = source.key() else { return Ok(None) };
        self.key.clear();
        self.key.extend_from_slice(key);
        Ok(Some(MergedEntry { key: &self.key, value: source.value(), source: top }))
    }

    /// Whether source `a` comes before source `b`.
    fn before(&self, a: usize, b: usize) -> bool {
        (self.sources[a].key(), a) < (self.sources[b].key(), b)
    }

    fn sink(&mut self, mut at: usize) {
        loop {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let mut first = at;
            if left < self.heap.len() && self.before(self.heap[left], self.heap[first]) {
                first = left;
            }
            if right < self.heap.len() && self.before(self.heap[right], self.heap[first]) {
                first = right;
            }
            if first == at {
                return;
            }
            self.heap.swap(at, first);
            at = first;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::cursor::MemoryCursor;
    use super::super::memtable::Memtable;
    use super::*;
    use crate::base::prng::Prng;
    use crate::engine::{Batch, KeyRange, Lsn};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    #[test]
    fn of_equal_keys_the_newest_is_seen() {
        let mut prng = Prng::new(2);
        for round in 0..100 {
            let mut model = BTreeMap::new();
            let mut memtables = Vec::new();
            for age in 0..prng.below(6) {
                let memtable = Memtable::new(Lsn::ZERO);
                for step in 0..prng.below(80) {
                    let mut batch = Batch::new(0);
                    let (key, value) = (vec![prng.below(120) as u8], vec![age as u8, step as u8]);
                    if prng.one_in(4) {
                        batch.delete(key.clone());
                        model.insert(key, None);
                    } else {
                        batch.put(key.clone(), value.clone());
                        model.insert(key, Some(value));
                    }
                    memtable.apply(&batch, Lsn::new(1), None);
                }
                memtables.insert(0, Arc::new(memtable));
            }
            let start = [prng.below(120) as u8];
            let range = KeyRange { start: &start, end: None };
            let sources =
                memtables.iter().map(|table| Cursor::Memory(MemoryCursor::new(table, range))).collect();
            let mut merge = MergingCursor::new(sources);
            let mut seen = Vec::new();
            while let Some(entry) = merge.next().unwrap() {
                seen.push((entry.key.to_vec(), entry.value.map(|value| value.inline().unwrap().to_vec())));
            }
            let wanted: Vec<_> = model.range(start.to_vec()..).map(|(k, v)| (k.clone(), v.clone())).collect();
            assert_eq!(seen, wanted, "round {round}");
        }
    }
}
