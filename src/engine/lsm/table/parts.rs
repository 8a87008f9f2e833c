//! Parts of a table: some hundred blocks in a row, with an index of those blocks and a filter of their keys.
//!
//! Only the *top*, the index of the parts, must be in memory while a table is open. The indexes and filters of its parts are
//! either *resident* with it, or come through the cache as blocks do: a store of any size opens with little memory, and what
//! is asked for stays.

use std::ops::{Deref, Range};
use std::sync::Arc;

use super::filter::Filter;
use super::index::Index;
use crate::base::varint;

/// Index of the parts of a table.
pub struct Top {
    /// Fences of the parts, and where the blocks of each begin.
    index: Index,
    /// Where filter and index of each part begin; behind the last index the top begins itself.
    places: Vec<(u64, u64)>,
    end: u64,
}

impl Top {
    /// The top of parts with the fences and blocks of `index`, whose filters and indexes lie at `places`, up to `end`.
    pub fn new(index: Index, places: Vec<(u64, u64)>, end: u64) -> Top {
        Top { index, places, end }
    }

    /// The top of a table that is one part, of which nothing but its blocks is known; they end at `data_bytes`.
    pub fn whole(data_bytes: u64) -> Top {
        let mut index = Index::new(0);
        index.push(b"", b"", data_bytes);
        index.complete();
        Top { index, places: vec![(data_bytes, data_bytes)], end: data_bytes }
    }

    /// How many parts there are.
    pub fn parts(&self) -> usize {
        self.places.len()
    }

    /// The one part that may hold `key`.
    pub fn find(&self, key: &[u8]) -> usize {
        if self.places.len() == 1 { 0 } else { self.index.find(key) }
    }

    /// A key that is above every key before the part, and not above any in it.
    pub fn fence(&self, part: usize) -> &[u8] {
        self.index.fence(part)
    }

    /// Where the blocks of a part begin; for the number of parts, where the last ones end.
    pub fn blocks_start(&self, part: usize) -> u64 {
        self.index.start(part)
    }

    /// Where the filter of a part lies.
    pub fn filter(&self, part: usize) -> Range<u64> {
        let (filter, index) = self.places[part];
        filter..index
    }

    /// Where the index of a part lies.
    pub fn index(&self, part: usize) -> Range<u64> {
        self.places[part].1..self.places.get(part + 1).map_or(self.end, |next| next.0)
    }

    /// Memory it takes.
    pub fn bytes(&self) -> u64 {
        self.index.bytes() + self.places.len() as u64 * 16
    }

    /// Appends the payload.
    pub fn encode(&self, target: &mut Vec<u8>) {
        self.index.encode(target);
        for part in 0..self.parts() {
            for range in [self.filter(part), self.index(part)] {
                varint::put(target, range.end - range.start);
            }
        }
    }

    /// Reads a payload of a top that begins at `end`; `None` if it is none.
    pub fn decode(mut payload: &[u8], end: u64) -> Option<Top> {
        let index = Index::decode(&mut payload, 0)?;
        let mut places = Vec::new();
        let mut at = index.start(index.len());
        for _ in 0..index.len() {
            let filter = at;
            at = at.checked_add(varint::take(&mut payload)?)?;
            places.push((filter, at));
            at = at.checked_add(varint::take(&mut payload)?)?;
        }
        (payload.is_empty() && at == end && !places.is_empty()).then_some(Top { index, places, end })
    }
}

/// Index and filter of a part that is resident.
pub struct Resident {
    /// Of its blocks.
    pub index: Arc<Index>,
    /// Of its keys.
    pub filter: Filter,
}

impl Resident {
    /// Memory it takes.
    pub fn bytes(&self) -> u64 {
        self.index.bytes() + self.filter.bytes()
    }
}

/// Something of a table that is resident or was got from elsewhere.
pub enum Lent<'a, T> {
    /// It is resident.
    Resident(&'a Arc<T>),
    /// It came from the cache or the disk.
    Got(Arc<T>),
}

impl<T> Lent<'_, T> {
    /// To keep.
    pub fn into_shared(self) -> Arc<T> {
        match self {
            Lent::Resident(it) => it.clone(),
            Lent::Got(it) => it,
        }
    }
}

impl<T> Deref for Lent<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        match self {
            Lent::Resident(it) => it,
            Lent::Got(it) => it,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_top_comes_back_and_a_cut_one_is_refused() {
        let mut index = Index::new(0);
        index.push(b"", b"a", 100);
        index.push(b"kiwi", b"lemon", 250);
        index.complete();
        let top = Top::new(index, vec![(250, 260), (265, 280)], 300);
        assert_eq!((top.filter(0), top.index(0)), (250..260, 260..265));
        assert_eq!((top.filter(1), top.index(1)), (265..280, 280..300));
        assert_eq!((top.find(b"kiwi"), top.find(b"l"), top.blocks_start(1)), (0, 1, 100));
        let mut bytes = Vec::new();
        top.encode(&mut bytes);
        let back = Top::decode(&bytes, 300).unwrap();
        assert_eq!((back.index, back.places), (top.index, top.places));
        assert!(Top::decode(&bytes, 301).is_none());
        for cut in 0..bytes.len() {
            assert!(Top::decode(&bytes[..cut], 300).is_none(), "cut {cut}");
        }
    }
}
