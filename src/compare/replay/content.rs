//! Values of a replay: made up, as long and about as compressible as those that were recorded.

use crate::compare::values::Values;
use crate::engine::KeyKind;
use crate::recording::Content;

/// Steps in a hundred in which values are told apart by how they compress.
const STEP_PERCENT: u64 = 5;
/// Bytes that are compressed to see how a pool compresses.
const SAMPLE_BYTES: u64 = 64 << 10;
/// What they follow from.
const SEED: u64 = 1;

/// Values by kind of key.
pub struct Contents {
    kind_of: fn(&[u8]) -> KeyKind,
    /// An index into `pools` by kind of key.
    pool_of: Vec<usize>,
    pools: Vec<Values>,
}

impl Contents {
    /// Of keys whose kind `kind_of` tells; `left` is the share of a value's bytes that is left when it is compressed, by kind, as far as
    /// it is known.
    pub fn new(kind_of: fn(&[u8]) -> KeyKind, left: &[Option<f64>]) -> Contents {
        // The last pool is that of kinds of which nothing is known: they do not compress.
        let known: Vec<f64> = left.iter().map(|share| share.unwrap_or(1.0)).chain([1.0]).collect();
        let mut made: Vec<(u64, Values)> = Vec::new();
        let pool_of = known.iter().map(|share| {
            let percent = repeats_of(*share);
            made.iter().position(|(of, _)| *of == percent).unwrap_or_else(|| {
                made.push((percent, pool(percent)));
                made.len() - 1
            })
        });
        let pool_of = pool_of.collect();
        Contents { kind_of, pool_of, pools: made.into_iter().map(|(_, values)| values).collect() }
    }

    /// A value of `key` for a content that was recorded; `number` tells values apart.
    pub fn of(&self, key: &[u8], content: &Content, number: u64) -> bytes::Bytes {
        let length = match content {
            Content::Bytes(bytes) => return bytes.clone(),
            Content::Length(length) => *length,
        };
        let kind = usize::from((self.kind_of)(key));
        let pool = self.pool_of.get(kind).or(self.pool_of.last()).copied().unwrap_or(0);
        self.pools[pool].cut(length, number).into()
    }
}

fn pool(repeats_percent: u64) -> Values {
    Values::new(SEED, SAMPLE_BYTES, repeats_percent)
}

/// The share that must repeat for `left` of a value's bytes to be left when it is compressed.
fn repeats_of(left: f64) -> u64 {
    let left_of = |percent: u64| {
        let sample = pool(percent).cut(SAMPLE_BYTES, 0);
        lz4_flex::block::compress(&sample).len() as f64 / sample.len() as f64
    };
    if left >= 1.0 {
        return 0;
    }
    // Ascending repeats, descending rests: the first one that is small enough, or the one before it if that is nearer.
    let mut before = (0, 1.0);
    for percent in (STEP_PERCENT..=100).step_by(STEP_PERCENT as usize) {
        let now = (percent, left_of(percent));
        if now.1 <= left {
            return if (now.1 - left).abs() < (before.1 - left).abs() { now.0 } else { before.0 };
        }
        before = now;
    }
    100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_as_long_and_about_as_compressible_as_they_were() {
        let contents = Contents::new(|key| key[0], &[Some(1.0), Some(0.5), None, Some(0.1)]);
        for (kind, wanted) in [(0u8, 1.0), (1, 0.5), (2, 1.0), (3, 0.1), (9, 1.0)] {
            let mut all = Vec::new();
            for number in 0..200 {
                let value = contents.of(&[kind], &Content::Length(4096), number);
                assert_eq!(value.len(), 4096);
                all.push(value);
            }
            assert_ne!(all[0], all[1]);
            let left: usize = all.iter().map(|value| lz4_flex::block::compress(value).len()).sum();
            let left = left as f64 / (200.0 * 4096.0);
            assert!((left - wanted).abs() < 0.12, "kind {kind}: {left} instead of {wanted}");
        }
        let kept = bytes::Bytes::from_static(b"kept");
        assert_eq!(contents.of(b"a", &Content::Bytes(kept.clone()), 3), kept);
        for length in [0, 1, 1 << 20, 20 << 20] {
            assert_eq!(contents.of(&[0], &Content::Length(length), 1).len() as u64, length);
        }
    }
}
