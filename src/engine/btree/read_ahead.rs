//! Read-ahead. A sequential read of a file arrives as many small scans, each beginning where the last one ended.
//!
//! 1. Each scan of a bounded range is compared with the last few: it continues an earlier one if it begins within or right behind its range,
//!    but not at its start. The *window* of the stream doubles then, from [`FIRST_BYTES`] to [`WINDOW_BYTES_MAX`].
//! 2. A scan that continues another one also reads the values in the window behind its end ([`super::scan`]).

use parking_lot::Mutex;

use crate::engine::KeyRange;

/// Bytes of the first window of a scan that continues another.
const FIRST_BYTES: usize = 256 << 10;
/// Bytes of the largest window.
const WINDOW_BYTES_MAX: usize = 1 << 20;
/// Largest share of the pool that a window takes: one part in so many.
const POOL_SHARE: u64 = 16;
/// Number of streams that are remembered.
const STREAMS: usize = 16;
/// Largest number of leaves that one request reads.
const LEAVES_MAX: usize = 32;

struct Stream {
    start: Vec<u8>,
    end: Vec<u8>,
    window_bytes: usize,
}

/// The streams of the last scans, the newest last.
pub struct ReadAhead {
    streams: Mutex<Vec<Stream>>,
    window_bytes_max: usize,
    leaves_max: usize,
}

impl ReadAhead {
    /// Read-ahead for a pool of `pool_bytes` with pages of `page_bytes`.
    pub fn new(pool_bytes: u64, page_bytes: usize) -> ReadAhead {
        let window_bytes_max = (pool_bytes / POOL_SHARE).min(WINDOW_BYTES_MAX as u64) as usize;
        let leaves_max = (window_bytes_max / page_bytes).clamp(1, LEAVES_MAX);
        ReadAhead { streams: Mutex::default(), window_bytes_max, leaves_max }
    }

    /// Largest number of leaves for the next request of a scan whose last request read `leaves`.
    pub fn more_leaves(&self, leaves: usize) -> usize {
        (leaves * 2).min(self.leaves_max)
    }

    /// Notes a scan of `range`; returns the bytes of its window, 0 if it continues no other scan.
    pub fn note(&self, range: KeyRange<'_>) -> usize {
        let Some(end) = range.end else { return 0 };
        let mut streams = self.streams.lock();
        let continued = streams.iter().rposition(|stream| {
            stream.start.as_slice() <= range.start && range.start <= stream.end.as_slice()
        });
        let mut stream = match continued {
            Some(index) => streams.remove(index),
            None => Stream { start: range.start.to_vec(), end: Vec::new(), window_bytes: 0 },
        };
        let moves_on = stream.start.as_slice() < range.start;
        if moves_on {
            stream.window_bytes = (stream.window_bytes * 2).max(FIRST_BYTES).min(self.window_bytes_max);
            stream.start = range.start.to_vec();
        }
        stream.end = end.to_vec();
        let window_bytes = stream.window_bytes;
        if streams.len() == STREAMS {
            streams.remove(0);
        }
        streams.push(stream);
        if moves_on { window_bytes } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_grow_while_scans_go_on_and_others_have_none() {
        let ahead = ReadAhead::new(1 << 30, 8 << 10);
        let note = |from: u32, to: u32| {
            let (start, end) = (from.to_be_bytes(), to.to_be_bytes());
            ahead.note(KeyRange { start: &start, end: Some(&end) })
        };
        assert_eq!(note(0, 32), 0);
        assert_eq!(note(0, 32), 0, "the same again");
        assert_eq!(note(32, 64), FIRST_BYTES);
        assert_eq!(note(1000, 1032), 0, "another place");
        assert_eq!(note(60, 96), 2 * FIRST_BYTES, "the block between two reads is read twice");
        assert_eq!(note(96, 128), WINDOW_BYTES_MAX);
        assert_eq!(note(128, 160), WINDOW_BYTES_MAX);
        assert_eq!(note(1032, 1064), FIRST_BYTES);
        assert_eq!(note(200, 232), 0, "a gap");
        assert_eq!(ahead.note(KeyRange { start: &[0, 0, 0, 232], end: None }), 0);
        for other in 0..100 {
            note(100_000 + other * 50, 100_010 + other * 50);
        }
        assert_eq!(ahead.streams.lock().len(), STREAMS);
        assert_eq!(ReadAhead::new(1 << 20, 8 << 10).window_bytes_max, 64 << 10);
    }
}
