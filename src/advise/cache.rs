//! A cache of which only sizes are known: what was used last stays.

use std::collections::HashMap;

/// Memory of a piece beside its bytes.
const PIECE_BYTES: u64 = 96;
const NONE: u32 = u32::MAX;

struct Piece {
    key: u64,
    bytes: u64,
    before: u32,
    behind: u32,
}

/// Pieces of files, the one used last in front.
pub struct SizedCache {
    bytes_max: u64,
    bytes: u64,
    places: HashMap<u64, u32, foldhash::fast::FixedState>,
    pieces: Vec<Piece>,
    free: Vec<u32>,
    first: u32,
    last: u32,
}

impl SizedCache {
    /// An empty cache of `bytes_max`.
    pub fn new(bytes_max: u64) -> SizedCache {
        let (places, pieces, free) = (HashMap::default(), Vec::new(), Vec::new());
        SizedCache { bytes_max, bytes: 0, places, pieces, free, first: NONE, last: NONE }
    }

    /// Sets its limit.
    pub fn set_bytes_max(&mut self, bytes_max: u64) {
        self.bytes_max = bytes_max;
        self.make_room();
    }

    /// Uses the piece of `key`, which has `bytes`; whether it was there. Afterwards it is.
    pub fn use_piece(&mut self, key: u64, bytes: u64) -> bool {
        if let Some(place) = self.places.get(&key).copied() {
            self.unlink(place);
            self.link(place);
            return true;
        }
        let piece = Piece { key, bytes: bytes + PIECE_BYTES, before: NONE, behind: NONE };
        self.bytes += piece.bytes;
        let place = match self.free.pop() {
            Some(place) => {
                self.pieces[place as usize] = piece;
                place
            }
            None => {
                self.pieces.push(piece);
                self.pieces.len() as u32 - 1
            }
        };
        self.places.insert(key, place);
        self.link(place);
        self.make_room();
        false
    }

    /// Forgets the piece of `key`.
    pub fn forget(&mut self, key: u64) {
        if let Some(place) = self.places.remove(&key) {
            self.unlink(place);
            self.bytes -= self.pieces[place as usize].bytes;
            self.free.push(place);
        }
    }

    fn make_room(&mut self) {
        while self.bytes > self.bytes_max && self.last != NONE {
            self.forget(self.pieces[self.last as usize].key);
        }
    }

    fn link(&mut self, place: u32) {
        let first = std::mem::replace(&mut self.first, place);
        (self.pieces[place as usize].before, self.pieces[place as usize].behind) = (NONE, first);
        match first {
            NONE => self.last = place,
            first => self.pieces[first as usize].before = place,
        }
    }

    fn unlink(&mut self, place: u32) {
        let Piece { before, behind, .. } = self.pieces[place as usize];
        match before {
            NONE => self.first = behind,
            before => self.pieces[before as usize].behind = behind,
        }
        match behind {
            NONE => self.last = before,
            behind => self.pieces[behind as usize].before = before,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_used_longest_ago_leaves_first() {
        let mut cache = SizedCache::new(3 * (100 + PIECE_BYTES));
        let uses =
            [(1, false), (2, false), (3, false), (1, true), (4, false), (2, false), (1, true), (3, false)];
        for (key, is_there) in uses {
            assert_eq!(cache.use_piece(key, 100), is_there, "{key}");
        }
        cache.forget(1);
        assert!(!cache.use_piece(1, 100));
        cache.set_bytes_max(0);
        assert!(!cache.use_piece(1, 100));
        assert_eq!(cache.bytes, 0);
    }
}
