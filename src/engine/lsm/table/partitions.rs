//! Partitions of a table: some hundred blocks in a row each, with an index of those blocks and a filter of their keys.
//!
//! Only the *top-level index*, the index of the partitions, must be in memory while a table is open. The indexes and filters of its
//! partitions are either *pinned*, in memory for as long as the table is open, or come through the cache as blocks do. So a store of any
//! size opens with little memory, and what is asked for stays in the cache.

use std::ops::{Deref, Range};
use std::sync::Arc;

use super::filter::Filter;
use super::index::Index;
use crate::base::varint;

/// The top-level index of a table: where its partitions lie.
pub struct TopIndex {
    /// Fences of the partitions, and where the blocks of each begin.
    index: Index,
    /// Start of the filter and of the index of each partition.
    places: Vec<(u64, u64)>,
    /// End of the last index, where the top-level index itself begins.
    end: u64,
}

impl TopIndex {
    /// The top-level index of partitions with the fences and blocks of `index`, whose filters and indexes lie at `places`, up to `end`.
    pub fn new(index: Index, places: Vec<(u64, u64)>, end: u64) -> TopIndex {
        TopIndex { index, places, end }
    }

    /// The top-level index of a table of one partition, of which nothing is known but that its blocks end at `data_bytes`.
    pub fn whole(data_bytes: u64) -> TopIndex {
        let mut index = Index::new(0);
        index.push(b"", b"", data_bytes);
        index.complete();
        TopIndex { index, places: vec![(data_bytes, data_bytes)], end: data_bytes }
    }

    /// Number of partitions.
    pub fn partitions(&self) -> usize {
        self.places.len()
    }

    /// The one partition that may hold `key`.
    pub fn find(&self, key: &[u8]) -> usize {
        if self.places.len() == 1 { 0 } else { self.index.find(key) }
    }

    /// A key that is above every key before the partition, and not above any in it.
    pub fn fence(&self, partition: usize) -> &[u8] {
        self.index.fence(partition)
    }

    /// Start of the blocks of a partition; for the number of partitions, the end of the last ones.
    pub fn blocks_start(&self, partition: usize) -> u64 {
        self.index.start(partition)
    }

    /// Place of the filter of a partition in the file.
    pub fn filter(&self, partition: usize) -> Range<u64> {
        let (filter, index) = self.places[partition];
        filter..index
    }

    /// Place of the index of a partition in the file.
    pub fn index(&self, partition: usize) -> Range<u64> {
        self.places[partition].1..self.places.get(partition + 1).map_or(self.end, |next| next.0)
    }

    /// Memory it takes.
    pub fn bytes(&self) -> u64 {
        self.index.bytes() + self.places.len() as u64 * 16
    }

    /// Appends the payload.
    pub fn encode(&self, target: &mut Vec<u8>) {
        self.index.encode(target);
        for partition in 0..self.partitions() {
            for range in [self.filter(partition), self.index(partition)] {
                varint::put(target, range.end - range.start);
            }
        }
    }

    /// Reads the payload of a top-level index that begins at `end`; `None` if it is none.
    pub fn decode(mut payload: &[u8], end: u64) -> Option<TopIndex> {
        let index = Index::decode(&mut payload, 0)?;
        let mut places = Vec::new();
        let mut at = index.start(index.len());
        for _ in 0..index.len() {
            let filter = at;
            at = at.checked_add(varint::take(&mut payload)?)?;
            places.push((filter, at));
            at = at.checked_add(varint::take(&mut payload)?)?;
        }
        (payload.is_empty() && at == end && !places.is_empty()).then_some(TopIndex { index, places, end })
    }
}

/// Index and filter of a partition that is pinned.
pub struct PinnedPartition {
    /// Index of its blocks.
    pub index: Arc<Index>,
    /// Filter of its keys.
    pub filter: Filter,
}

impl PinnedPartition {
    /// Memory it takes.
    pub fn bytes(&self) -> u64 {
        self.index.bytes() + self.filter.bytes()
    }
}

/// An index or a filter of a partition, wherever it came from.
pub enum PinnedOrLoaded<'a, T> {
    /// Pinned in memory.
    Pinned(&'a Arc<T>),
    /// Loaded through the cache or from the disk.
    Loaded(Arc<T>),
}

impl<T> PinnedOrLoaded<'_, T> {
    /// To keep.
    pub fn into_shared(self) -> Arc<T> {
        match self {
            PinnedOrLoaded::Pinned(it) => it.clone(),
            PinnedOrLoaded::Loaded(it) => it,
        }
    }
}

impl<T> Deref for PinnedOrLoaded<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        match self {
            PinnedOrLoaded::Pinned(it) => it,
            PinnedOrLoaded::Loaded(it) => it,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_top_level_index_comes_back_and_a_cut_one_is_refused() {
        let mut index = Index::new(0);
        index.push(b"", b"a", 100);
        index.push(b"kiwi", b"lemon", 250);
        index.complete();
        let top = TopIndex::new(index, vec![(250, 260), (265, 280)], 300);
        assert_eq!((top.filter(0), top.index(0)), (250..260, 260..265));
        assert_eq!((top.filter(1), top.index(1)), (265..280, 280..300));
        assert_eq!((top.find(b"kiwi"), top.find(b"l"), top.blocks_start(1)), (0, 1, 100));
        let mut bytes = Vec::new();
        top.encode(&mut bytes);
        let back = TopIndex::decode(&bytes, 300).unwrap();
        assert_eq!((back.index, back.places), (top.index, top.places));
        assert!(TopIndex::decode(&bytes, 301).is_none());
        for cut in 0..bytes.len() {
            assert!(TopIndex::decode(&bytes[..cut], 300).is_none(), "cut {cut}");
        }
    }
}
