//! Reads of a file in order, and what of it is fetched ahead of them.
//!
//! The kernel asks for 128 KiB at a time, for two such pieces at once, in either order. Where the engine's storage is far
//! ([`engine::ReadAhead`](crate::engine::ReadAhead)), whoever reads a file in order would wait for one request after another. So once some of it was read in
//! order more is fetched: the more the longer that lasts, and never beyond the end of the file.

use std::ops::Range;

/// Distance by which a read may come early or late and still be in order.
const SLACK_BYTES: u64 = 512 << 10;
/// Bytes read in order after which more are fetched: what one request of the kernel has at most.
const BEGIN_BYTES: u64 = 128 << 10;
/// What is fetched ahead, in terms of what was read in order.
const GROWTH: u64 = 4;

/// Where the reads of a file are.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sequence {
    /// Where reads in order began.
    begin: u64,
    /// End of what was read since.
    next: u64,
    /// End of what was fetched.
    fetched: u64,
}

impl Sequence {
    /// Notes a read of `length` bytes at `offset` of a file of `size`, and says what is to be fetched now: up to `window` bytes ahead, and on from the
    /// last fetch in whole pieces of `piece` bytes, or up to the end of the file.
    pub fn read(&mut self, (offset, length): (u64, u64), size: u64, piece: u64, window: u64) -> Range<u64> {
        let end = offset.saturating_add(length).min(size);
        let is_in_order = offset <= self.next.saturating_add(SLACK_BYTES)
            && end.saturating_add(SLACK_BYTES) >= self.next
            && offset >= self.begin;
        if !is_in_order {
            *self = Sequence { begin: offset, next: end, fetched: end };
            // Most who begin at the start read on.
            if offset > 0 {
                return end..end;
            }
        }
        self.next = self.next.max(end);
        let run = self.next - self.begin;
        if run < BEGIN_BYTES {
            return end..end;
        }
        let mut until = self.next.saturating_add(window.min(run.saturating_mul(GROWTH))).min(size);
        if until < size && until > piece {
            until -= until % piece;
        }
        let from = self.fetched.max(self.next);
        self.fetched = self.fetched.max(until);
        from..until.max(from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIBIBYTE: u64 = 1 << 10;
    const MEBIBYTE: u64 = 1 << 20;

    /// What is fetched by reads of 128 KiB at `offsets`, in KiB.
    fn fetched(size: u64, offsets: impl IntoIterator<Item = u64>) -> Vec<(u64, u64)> {
        let mut sequence = Sequence::default();
        let reads = offsets
            .into_iter()
            .map(|offset| sequence.read((offset, 128 * KIBIBYTE), size, MEBIBYTE, 8 * MEBIBYTE));
        let fetches = reads.filter(|range| !range.is_empty());
        fetches.map(|range| (range.start / KIBIBYTE, range.end / KIBIBYTE)).collect()
    }

    #[test]
    fn a_file_that_is_read_in_order_is_fetched_once_and_whole() {
        let size = 64 * MEBIBYTE + 5;
        let in_order = (0..size).step_by(128 << 10);
        let fetches = fetched(size, in_order.clone());
        assert_eq!(fetches[..3], [(128, 640), (640, 1024), (1024, 1024 + 1024)]);
        assert!(fetches.windows(2).all(|pair| pair[0].1 == pair[1].0), "{fetches:?}");
        assert_eq!(fetches.last().unwrap().1, size / KIBIBYTE);
        // The kernel's requests come two at a time.
        let pairs: Vec<u64> = in_order.collect();
        let swapped = pairs.chunks(2).flat_map(|pair| pair.iter().rev().copied().collect::<Vec<_>>());
        let fetches = fetched(size, swapped);
        assert!(fetches.windows(2).all(|pair| pair[0].1 == pair[1].0), "{fetches:?}");
        assert_eq!(fetches.last().unwrap().1, size / KIBIBYTE);
    }

    #[test]
    fn no_more_is_fetched_than_a_window_and_than_there_is() {
        assert_eq!(fetched(100 * KIBIBYTE, [0]), []);
        assert_eq!(fetched(MEBIBYTE, [0, 128 * KIBIBYTE]), [(128, 640), (640, 1024)]);
        let fetches = fetched(1 << 40, (0..32 * MEBIBYTE).step_by(128 << 10));
        assert_eq!(fetches.last().unwrap().1 / 1024, 32 + 8);
    }

    #[test]
    fn reads_here_and_there_fetch_nothing() {
        let mut prng = crate::base::prng::Prng::new(1);
        let offsets = (0..1000).map(move |_| 128 * KIBIBYTE * (1 + prng.below(1 << 20)));
        assert_eq!(fetched(1 << 40, offsets), []);
    }
}
