//! The codecs that engines compress with: blocks of tables, and pages.

use std::cell::RefCell;
use std::io;

use zstd::bulk::{Compressor, Decompressor};

use crate::base::words::words;

/// Speed before size: what is compressed is small.
const ZSTD_LEVEL: i32 = 1;

words! {
    "lowercase"
    /// How blocks of tables or pages are compressed.
    pub enum Compression {
        /// They are stored as they are.
        None,
        /// LZ4: little time, and little saved.
        Lz4,
        /// Zstandard, level 1: more saved.
        Zstd,
    }
}

thread_local! {
    // The tables of Zstandard are kept, since to make them for each page or block takes longer than to compress it.
    static COMPRESSOR: RefCell<Option<Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// Runs `run` with what this thread keeps in `slot`, which is made first if it is not there.
fn with_kept<C, T>(
    slot: &RefCell<Option<C>>,
    make: impl FnOnce() -> io::Result<C>,
    run: impl FnOnce(&mut C) -> io::Result<T>,
) -> io::Result<T> {
    let mut slot = slot.borrow_mut();
    let kept = match slot.take() {
        Some(kept) => kept,
        None => make()?,
    };
    run(slot.insert(kept))
}

/// Appends the compressed form of `bytes` to `target`. False if there is none.
pub fn compress(compression: Compression, bytes: &[u8], target: &mut Vec<u8>) -> bool {
    match compression {
        Compression::None => return false,
        Compression::Lz4 => target.extend_from_slice(&lz4_flex::block::compress(bytes)),
        Compression::Zstd => {
            let compressed = COMPRESSOR.with(|kept| {
                with_kept(kept, || Compressor::new(ZSTD_LEVEL), |compressor| compressor.compress(bytes))
            });
            match compressed {
                Ok(compressed) => target.extend_from_slice(&compressed),
                Err(_) => return false,
            }
        }
    }
    true
}

/// The bytes whose compressed form is `compressed`, if they are `bytes` many; `None` otherwise. The caller has bounded `bytes`, which are
/// allocated.
pub fn expand(compression: Compression, compressed: &[u8], bytes: usize) -> Option<Vec<u8>> {
    let expanded = match compression {
        Compression::None => return None,
        Compression::Lz4 => lz4_flex::block::decompress(compressed, bytes).ok()?,
        Compression::Zstd => DECOMPRESSOR.with(|kept| {
            with_kept(kept, Decompressor::new, |decompressor| decompressor.decompress(compressed, bytes)).ok()
        })?,
    };
    (expanded.len() == bytes).then_some(expanded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_damaged_leaves_no_trace_in_what_comes_next() {
        let text: Vec<u8> =
            (0..900u32).flat_map(|number| format!("{} of {number}, ", number * 31).into_bytes()).collect();
        for compression in [Compression::Lz4, Compression::Zstd] {
            let mut whole = Vec::new();
            assert!(compress(compression, &text, &mut whole));
            assert!(whole.len() < text.len());
            for at in (0..whole.len()).step_by(7) {
                let mut damaged = whole.clone();
                damaged[at] ^= 0x5A;
                let _ = expand(compression, &damaged, text.len());
                assert!(expand(compression, &whole[..at], text.len()).is_none());
                assert_eq!(expand(compression, &whole, text.len()).as_deref(), Some(&text[..]));
            }
            assert!(expand(compression, &whole, text.len() - 1).is_none(), "longer than it may be");
            assert!(expand(compression, &whole, text.len() + 1).is_none(), "shorter than it must be");
            let mut again = Vec::new();
            assert!(compress(compression, &text, &mut again));
            assert_eq!(again, whole, "the same bytes always");
        }
        assert!(!compress(Compression::None, &text, &mut Vec::new()));
    }
}
