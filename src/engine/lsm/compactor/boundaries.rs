//! Where an output ends on account of the level below its own: with it that table will be merged one day, and the bytes that it covers
//! there are what that costs.
//!
//! 1. *Gaps.* An output that holds keys on both sides of tables, but none in them, would have those written anew for nothing: the keys of
//!    inodes and those of the newest file, say, with the blocks of all other files between them. It ends before the gap if what lies there
//!    is a table or more.
//! 2. *Boundaries.* An output that ends inside a table below shares it with its neighbour, and both have it written anew. So it ends behind
//!    a table below once the next one would probably not fit any more. It is between half full and full by that.

use std::sync::Arc;

use bytes::Bytes;

/// A table of the level below.
#[derive(Clone, Debug)]
pub struct Lower {
    /// Its first key.
    pub smallest: Bytes,
    /// Its last key.
    pub largest: Bytes,
    /// Its bytes.
    pub bytes: u64,
}

/// The tables of the level below, passed through in the order of keys.
pub struct Boundaries {
    lower: Arc<[Lower]>,
    /// The first one that does not lie before the last key.
    at: usize,
    /// Whether the output that is being written has a key in it.
    is_met: bool,
    /// Tables that the output has keys in and has passed.
    passed: u64,
}

impl Boundaries {
    /// Before the first key.
    pub fn new(lower: &Arc<[Lower]>) -> Boundaries {
        Boundaries { lower: lower.clone(), at: 0, is_met: false, passed: 0 }
    }

    /// Whether an output of `bytes` ends before `key` where outputs have `table_bytes`; another one begins with the key then. Keys ascend from
    /// call to call.
    pub fn end_before(&mut self, key: &[u8], bytes: u64, table_bytes: u64) -> bool {
        let mut skipped_bytes = 0;
        let before = self.at;
        while let Some(lower) = self.lower.get(self.at).filter(|lower| &lower.largest[..] < key) {
            match self.is_met {
                true => self.passed += 1,
                false => skipped_bytes += lower.bytes,
            }
            (self.at, self.is_met) = (self.at + 1, false);
        }
        let is_boundary = self.at > before && bytes > 0;
        let is_next_too_much = self.passed > 0 && bytes + bytes / self.passed >= table_bytes;
        let ends = is_boundary && (skipped_bytes >= table_bytes || is_next_too_much);
        if ends {
            self.passed = 0;
        }
        self.is_met |= self.lower.get(self.at).is_some_and(|lower| &lower.smallest[..] <= key);
        ends
    }

    /// The output has ended for another reason.
    pub fn end(&mut self) {
        (self.passed, self.is_met) = (0, false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tables of 100 bytes, each from a key to nine behind it.
    fn boundaries(starts: &[u8]) -> Boundaries {
        let lower = |start: &u8| Lower {
            smallest: Bytes::copy_from_slice(&[*start]),
            largest: Bytes::copy_from_slice(&[*start + 9]),
            bytes: 100,
        };
        Boundaries::new(&starts.iter().map(lower).collect())
    }

    /// The outputs of `keys`, each of which takes `bytes`.
    fn outputs(mut boundaries: Boundaries, keys: &[u8], bytes: u64, table_bytes: u64) -> Vec<Vec<u8>> {
        let mut outputs = vec![Vec::new()];
        for key in keys {
            let written = outputs.last().unwrap().len() as u64 * bytes;
            if boundaries.end_before(&[*key], written, table_bytes) {
                outputs.push(Vec::new());
            }
            let output = outputs.last_mut().unwrap();
            output.push(*key);
            if output.len() as u64 * bytes >= table_bytes {
                outputs.push(Vec::new());
                boundaries.end();
            }
        }
        outputs
    }

    #[test]
    fn an_output_ends_before_a_gap_that_is_worth_a_table() {
        let keys = [1, 2, 95, 96];
        let all: Vec<u8> = (0..10).map(|table| table * 10).collect();
        assert_eq!(outputs(boundaries(&all), &keys, 1, 100), [vec![1, 2], vec![95, 96]]);
        // Between two neighbours there is no gap, nor is one of less than a table worth a file.
        assert_eq!(outputs(boundaries(&[0, 90]), &keys, 1, 100).len(), 1);
        assert_eq!(outputs(boundaries(&[0, 20, 90]), &keys, 1, 101).len(), 1);
        assert_eq!(outputs(boundaries(&[]), &keys, 1, 100).len(), 1);
        // Nothing comes before the first key.
        assert_eq!(outputs(boundaries(&all), &[95, 96], 1, 100), [vec![95, 96]]);
    }

    #[test]
    fn an_output_ends_at_a_boundary_behind_which_the_next_would_not_fit() {
        let all: Vec<u8> = (0..10).map(|table| table * 10).collect();
        let keys: Vec<u8> = (0..100).collect();
        // Thirty bytes a table of the level below: three fit into a hundred.
        let ends: Vec<u8> =
            outputs(boundaries(&all), &keys, 3, 100).iter().map(|output| *output.last().unwrap()).collect();
        assert_eq!(ends, [29, 59, 89, 99]);
        // Where less than one fits, its size ends it.
        let sizes: Vec<usize> = outputs(boundaries(&all), &keys, 50, 100).iter().map(Vec::len).collect();
        assert!(sizes.iter().take(50).all(|keys| *keys == 2), "{sizes:?}");
    }

    #[test]
    fn no_output_is_less_than_half_full_but_before_a_gap_and_at_the_end() {
        let mut prng = crate::base::prng::Prng::new(3);
        for _ in 0..200 {
            let starts: Vec<u8> = (0..25).filter(|_| prng.below(3) > 0).map(|table| table * 10).collect();
            let keys: Vec<u8> = (0..250).filter(|_| prng.below(2) > 0).collect();
            let bytes = 1 + prng.below(20);
            let outputs = outputs(boundaries(&starts), &keys, bytes, 100);
            assert_eq!(outputs.concat(), keys);
            for pair in outputs.windows(2).filter(|pair| !pair[1].is_empty()) {
                let (last, next) = (*pair[0].last().unwrap(), pair[1][0]);
                let is_gap = starts.iter().any(|start| *start > last && *start + 9 < next);
                assert!(is_gap || pair[0].len() as u64 * bytes * 2 >= 100, "{pair:?} {starts:?}");
            }
        }
    }
}
