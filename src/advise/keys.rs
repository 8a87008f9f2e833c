//! The keys of a recording by rank: of each only its length and what it has in common with the one before are kept, two bytes a key.
//!
//! Every reference to a key is first collected with its position. A piece of them is sorted and front-coded when it is full, and all pieces
//! are merged at the end, which gives each reference the rank of its key. So nothing is ever kept of a key twice, and no file is needed.

use crate::base::varint;

/// Bytes of keys that are sorted at once.
const PIECE_BYTES: usize = 16 << 20;
/// References that are sorted at once.
const PIECE_REFERENCES: usize = 1 << 19;

/// Lengths of all keys, in the order of keys.
#[derive(Debug, Default)]
pub struct Keys {
    /// Of each key; what is longer is in `long`.
    lengths: Vec<u8>,
    /// Bytes that each has in common with the one before, 255 for more.
    shared: Vec<u8>,
    /// Keys of 255 bytes and more, by rank.
    long: Vec<(u32, u32)>,
    bytes: u64,
}

impl Keys {
    /// Number of keys.
    pub fn count(&self) -> u32 {
        self.lengths.len() as u32
    }

    /// Bytes of a key on average.
    pub fn mean_bytes(&self) -> u64 {
        self.bytes / u64::from(self.count()).max(1)
    }

    /// Bytes of the key of a rank.
    pub fn bytes(&self, rank: u32) -> u64 {
        match self.lengths[rank as usize] {
            u8::MAX => {
                let found = self.long.binary_search_by_key(&rank, |(rank, _)| *rank);
                found.map_or(u64::from(u8::MAX), |at| u64::from(self.long[at].1))
            }
            length => u64::from(length),
        }
    }

    /// Bytes that the keys of two ranks, one above the other, have in common.
    pub fn shared_bytes(&self, low: u32, high: u32) -> u64 {
        let between = &self.shared[low as usize + 1..=high as usize];
        let mut least = u8::MAX;
        for chunk in between.chunks(64) {
            least = chunk.iter().fold(least, |least, shared| least.min(*shared));
            if least == 0 {
                break;
            }
        }
        u64::from(least)
    }

    fn push(&mut self, key: &[u8], shared: usize) {
        if key.len() >= usize::from(u8::MAX) {
            self.long.push((self.count(), key.len() as u32));
        }
        self.lengths.push(key.len().min(usize::from(u8::MAX)) as u8);
        self.shared.push(shared.min(usize::from(u8::MAX)) as u8);
        self.bytes += key.len() as u64;
    }
}

/// A sorted piece of references: per key, bytes shared with the one before, the rest, and the positions that refer to it, each as the distance
/// from the one before, the first of a key's from the last one of the key before (as for an image, whose positions ascend with its keys).
struct Piece {
    bytes: Vec<u8>,
    at: usize,
    key: Vec<u8>,
    /// Where the positions of the current key begin, and the last position of the key before.
    positions: usize,
    last: u64,
}

impl Piece {
    /// Goes to the next key; whether there is one.
    fn advance(&mut self) -> bool {
        let mut source = &self.bytes[self.at..];
        let Some((shared, rest)) = varint::take(&mut source).zip(varint::take_bytes(&mut source)) else {
            return false;
        };
        self.key.truncate(shared as usize);
        self.key.extend_from_slice(rest);
        self.positions = self.bytes.len() - source.len();
        true
    }

    /// Gives each position of the current key to `visit`.
    fn positions(&mut self, mut visit: impl FnMut(u64)) {
        let mut source = &self.bytes[self.positions..];
        let count = varint::take(&mut source).unwrap_or(0);
        for _ in 0..count {
            // Either way: the lowest bit says which.
            let distance = varint::take(&mut source).unwrap_or(0);
            self.last = match distance % 2 {
                0 => self.last + distance / 2,
                _ => self.last - distance / 2,
            };
            visit(self.last);
        }
        self.at = self.bytes.len() - source.len();
    }
}

/// A reference that is not sorted yet.
struct Reference {
    start: u32,
    length: u32,
    position: u64,
}

/// Collects references to keys.
#[derive(Default)]
pub struct KeyCollector {
    arena: Vec<u8>,
    references: Vec<Reference>,
    pieces: Vec<Piece>,
    count: u64,
}

impl KeyCollector {
    /// Adds a reference to `key`. References are numbered from 0 on.
    pub fn add(&mut self, key: &[u8]) {
        if self.references.len() >= PIECE_REFERENCES || self.arena.len() + key.len() > PIECE_BYTES {
            self.end_piece();
        }
        let start = self.arena.len() as u32;
        self.arena.extend_from_slice(key);
        self.references.push(Reference { start, length: key.len() as u32, position: self.count });
        self.count += 1;
    }

    /// Adds a reference whose rank the caller will set.
    pub fn add_open(&mut self) {
        self.count += 1;
    }

    fn end_piece(&mut self) {
        let arena = std::mem::take(&mut self.arena);
        let mut references = std::mem::take(&mut self.references);
        let key = |reference: &Reference| &arena[reference.start as usize..][..reference.length as usize];
        references.sort_unstable_by(|a, b| key(a).cmp(key(b)).then(a.position.cmp(&b.position)));
        let (mut bytes, mut before, mut last): (Vec<u8>, &[u8], u64) = (Vec::new(), &[], 0);
        for alike in references.chunk_by(|a, b| key(a) == key(b)) {
            let Some(this) = alike.first().map(key) else { continue };
            let shared = common(before, this);
            varint::put(&mut bytes, shared as u64);
            varint::put_bytes(&mut bytes, &this[shared..]);
            varint::put(&mut bytes, alike.len() as u64);
            for reference in alike {
                let is_back = reference.position < last;
                varint::put(&mut bytes, 2 * reference.position.abs_diff(last) + u64::from(is_back));
                last = reference.position;
            }
            before = this;
        }
        bytes.shrink_to_fit();
        self.pieces.push(Piece { bytes, at: 0, key: Vec::new(), positions: 0, last: 0 });
        // Kept for their capacity.
        (self.arena, self.references) = (arena, references);
        self.arena.clear();
        self.references.clear();
    }

    /// The keys, and the rank of each reference; 0 for open ones.
    pub fn finish(mut self) -> (Keys, Vec<u32>) {
        self.end_piece();
        let KeyCollector { pieces, count, .. } = self;
        let (mut keys, mut ranks) = (Keys::default(), vec![0; count as usize]);
        let mut pieces: Vec<Piece> = pieces.into_iter().filter(|piece| !piece.bytes.is_empty()).collect();
        pieces.retain_mut(Piece::advance);
        let mut last: Vec<u8> = Vec::new();
        while let Some(least) = pieces.iter().map(|piece| &piece.key).min().cloned() {
            let (rank, shared) = (keys.count(), common(&last, &least));
            keys.push(&least, shared);
            pieces.retain_mut(|piece| {
                if piece.key != least {
                    return true;
                }
                piece.positions(|position| ranks[position as usize] = rank);
                piece.advance()
            });
            last = least;
        }
        keys.lengths.shrink_to_fit();
        keys.shared.shrink_to_fit();
        (keys, ranks)
    }
}

fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::prng::Prng;

    #[test]
    fn ranks_and_lengths_are_those_of_the_sorted_keys() {
        let mut prng = Prng::new(3);
        let mut all: Vec<Vec<u8>> = Vec::new();
        let mut collector = KeyCollector::default();
        for number in 0..5000 {
            let length = if prng.one_in(50) { 200 + prng.below(200) } else { prng.below(12) };
            let key: Vec<u8> = (0..length).map(|_| b'a' + prng.below(2) as u8).collect();
            collector.add(&key);
            all.push(key);
            // Several pieces.
            if number % 700 == 0 {
                collector.end_piece();
            }
        }
        let (keys, ranks) = collector.finish();
        let mut sorted = all.clone();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(keys.count() as usize, sorted.len());
        for (key, rank) in all.iter().zip(&ranks) {
            assert_eq!((&sorted[*rank as usize], keys.bytes(*rank)), (key, key.len() as u64));
        }
        for _ in 0..2000 {
            let low = prng.below(sorted.len() as u64 - 1) as usize;
            let high = low + 1 + prng.below((sorted.len() - low - 1) as u64) as usize;
            let wanted = common(&sorted[low], &sorted[high]).min(255) as u64;
            assert_eq!(keys.shared_bytes(low as u32, high as u32), wanted);
        }
    }
}
