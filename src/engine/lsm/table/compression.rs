//! Compressed payloads of blocks: the length of the block as a varint, then the compressed bytes.

use super::{KIND_LZ4_BLOCK, KIND_ZSTD_BLOCK};
use crate::base::varint;
use crate::engine::codec::{self, Compression};

/// First bytes of every zstd frame.
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
/// Longest block; one that claims to be longer is damaged.
const BYTES_MAX: u64 = 1 << 32;

/// Replaces `target` by the compressed payload of a block and returns the kind of its frame; `None` if it is better stored
/// as it is: it would not shrink by an eighth.
pub fn compress(compression: Compression, payload: &[u8], target: &mut Vec<u8>) -> Option<u8> {
    target.clear();
    varint::put(target, payload.len() as u64);
    let kind = match compression {
        Compression::None => return None,
        Compression::Lz4 => KIND_LZ4_BLOCK,
        Compression::Zstd => KIND_ZSTD_BLOCK,
    };
    if !codec::compress(compression, payload, target) {
        return None;
    }
    (target.len() < payload.len() - payload.len() / 8).then_some(kind)
}

/// The block in the payload of a compressed frame; `None` if it is none.
pub fn expand(kind: u8, mut payload: &[u8]) -> Option<Vec<u8>> {
    let bytes = usize::try_from(varint::take(&mut payload).filter(|bytes| *bytes <= BYTES_MAX)?).ok()?;
    let compression = match kind {
        KIND_LZ4_BLOCK => Compression::Lz4,
        KIND_ZSTD_BLOCK => Compression::Zstd,
        _ => return None,
    };
    codec::expand(compression, payload, bytes)
}

/// Whether `payload` may be the work of [`compress`], by its beginning alone: nearly nothing else looks like it.
pub fn may_be_compressed(kind: u8, mut payload: &[u8]) -> bool {
    let whole_bytes = payload.len() as u64;
    let shrinks = varint::take(&mut payload).is_some_and(|bytes| bytes > whole_bytes && bytes <= BYTES_MAX);
    shrinks
        && match kind {
            KIND_LZ4_BLOCK => lz4_may_begin(payload).unwrap_or(false),
            KIND_ZSTD_BLOCK => payload.starts_with(&ZSTD_MAGIC),
            _ => false,
        }
}

/// Whether the first copy of LZ4 data repeats something of the literals before it: nothing else is there yet.
fn lz4_may_begin(data: &[u8]) -> Option<bool> {
    let (token, mut rest) = data.split_first()?;
    let mut literals = usize::from(token >> 4);
    if literals == 15 {
        loop {
            let (more, others) = rest.split_first()?;
            (literals, rest) = (literals + usize::from(*more), others);
            if *more < u8::MAX {
                break;
            }
        }
    }
    let distance = rest.get(literals..literals.checked_add(2)?)?;
    let distance = usize::from(u16::from_le_bytes(distance.try_into().ok()?));
    Some((1..=literals).contains(&distance))
}

/// Whether frames of `kind` hold a block that [`expand`] reads.
pub fn is_compressed(kind: u8) -> bool {
    matches!(kind, KIND_LZ4_BLOCK | KIND_ZSTD_BLOCK)
}

#[cfg(test)]
mod tests {
    use super::super::KIND_BLOCK;
    use super::*;
    use crate::base::prng::Prng;

    #[test]
    fn what_shrinks_comes_back_and_the_rest_stays_as_it_is() {
        let mut prng = Prng::new(1);
        let noise: Vec<u8> = (0..4096).map(|_| prng.bits() as u8).collect();
        let text = b"the same again and ".repeat(200);
        let mut target = Vec::new();
        for compression in [Compression::Lz4, Compression::Zstd] {
            assert_eq!(compress(compression, &noise, &mut target), None);
            let kind = compress(compression, &text, &mut target).unwrap();
            assert!(is_compressed(kind) && target.len() < text.len() / 4);
            assert_eq!(expand(kind, &target).as_deref(), Some(&text[..]));
            // The frame's checksum finds damage; here nothing may panic or take memory without bounds.
            for bit in 0..target.len() * 8 {
                let mut damaged = target.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                if varint::take(&mut &damaged[..]).is_some_and(|bytes| bytes < 1 << 20) {
                    let _ = expand(kind, &damaged);
                }
            }
            for cut in 0..target.len() {
                assert_ne!(expand(kind, &target[..cut]).as_deref(), Some(&text[..]));
            }
        }
        assert_eq!(compress(Compression::None, &text, &mut target), None);
        assert_eq!(expand(KIND_BLOCK, &target), None);
    }
}
