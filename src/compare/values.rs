//! Values: bytes cut from a pool, so that making them costs the measurement little. They cannot be compressed, but for the share that is to repeat.

use std::sync::Arc;

use crate::base::prng::{Prng, mix};

/// Bytes of the pool at least.
const POOL_BYTES: u64 = 8 << 20;
/// Bytes of the pool of which a share repeats what is before it.
const PIECE_BYTES: usize = 64;
/// Bytes at the beginning of a value that say whose it is.
const MARK_BYTES: usize = 8;

/// Values of one size. All of them follow from the seed.
#[derive(Clone)]
pub struct Values {
    pool: Arc<Vec<u8>>,
    bytes: usize,
}

impl Values {
    /// Values of `bytes` bytes each, of which about `repeat_percent` in a hundred repeat bytes shortly before them.
    pub fn new(seed: u64, bytes: u64, repeat_percent: u64) -> Values {
        let pool_bytes = POOL_BYTES.max(2 * bytes) as usize;
        let mut random = Prng::new(seed.rotate_left(32));
        let mut pool = Vec::with_capacity(pool_bytes);
        while pool.len() < pool_bytes {
            pool.extend_from_slice(&random.bits().to_le_bytes());
        }
        // What is to repeat must be there once.
        let kept = (PIECE_BYTES - PIECE_BYTES * repeat_percent.min(100) as usize / 100).max(1);
        for piece in pool.chunks_mut(PIECE_BYTES) {
            (kept..piece.len()).for_each(|at| piece[at] = at.checked_sub(kept).map_or(0, |from| piece[from]));
        }
        Values { pool: Arc::new(pool), bytes: bytes as usize }
    }

    /// A value of the key `index`, as far as there is room with that number at its beginning. `version` tells the values of one key apart.
    pub fn of(&self, index: u64, version: u64) -> Vec<u8> {
        let start = mix(index ^ version.rotate_left(32)) as usize % (self.pool.len() - self.bytes);
        let mut value = self.pool[start..start + self.bytes].to_vec();
        let mark = self.bytes.min(MARK_BYTES);
        value[..mark].copy_from_slice(&index.to_le_bytes()[..mark]);
        value
    }

    /// Bytes of any length, told apart by `number`.
    pub fn cut(&self, bytes: u64, number: u64) -> Vec<u8> {
        let mut left = bytes as usize;
        let mut value = Vec::with_capacity(left);
        while left > 0 {
            let piece = left.min(self.pool.len() / 2);
            let start = mix(number ^ (left as u64).rotate_left(40)) as usize % (self.pool.len() - piece);
            value.extend_from_slice(&self.pool[start..start + piece]);
            left -= piece;
        }
        value
    }

    /// Whether `value` is one of the key `index`.
    pub fn is_of(&self, index: u64, value: &[u8]) -> bool {
        value.len() == self.bytes && value.starts_with(&index.to_le_bytes()[..self.bytes.min(MARK_BYTES)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_says_whose_it_is_and_follows_from_the_seed() {
        for bytes in [0, 5, 8, 100, 9 << 20] {
            let (values, others) = (Values::new(1, bytes, 0), Values::new(2, bytes, 0));
            let value = values.of(7, 1);
            assert_eq!((value.len() as u64, &value), (bytes, &Values::new(1, bytes, 0).of(7, 1)));
            assert!(values.is_of(7, &value) && !values.is_of(7, &[&value[..], b"more"].concat()));
            if bytes > 8 {
                assert!(!values.is_of(8, &value));
                assert!(value != others.of(7, 1) && value != values.of(7, 2));
            }
        }
    }

    #[test]
    fn values_cannot_be_compressed_but_for_what_repeats() {
        let smaller_percent = |repeat_percent: u64| {
            let values = Values::new(3, 200, repeat_percent);
            let many: Vec<u8> = (0..1000).flat_map(|index| values.of(index, 1)).collect();
            lz4_flex::block::compress(&many).len() * 100 / many.len()
        };
        assert!(smaller_percent(0) >= 95);
        assert!((45..70).contains(&smaller_percent(50)), "{}", smaller_percent(50));
        assert!((20..45).contains(&smaller_percent(80)), "{}", smaller_percent(80));
        assert!(smaller_percent(100) < 20, "{}", smaller_percent(100));
    }
}
