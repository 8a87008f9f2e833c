//! The one checked record: log records, table blocks, pages and manifest edits are all framed by it.
//!
//! ```text
//! crc32 u32 | length u32 | kind u8 | payload (length bytes)          integers little-endian
//! ```
//!
//! The checksum covers *place* (8 bytes that are not stored), length, kind and payload. The place is whatever makes this
//! spot unlike any other: file number and offset. A frame that was once valid elsewhere, left over in a recycled
//! segment or a page written to the wrong address, therefore fails its check.

use bytes::Bytes;

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 9;

/// Checksum of a frame.
fn checksum(place: u64, rest: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&place.to_le_bytes());
    hasher.update(rest);
    hasher.finalize()
}

/// Starts a frame at the end of `target`: append the payload, then call [`finish`] with what this returns.
pub fn start(target: &mut Vec<u8>, kind: u8) -> usize {
    let at = target.len();
    target.extend_from_slice(&[0; HEADER_BYTES]);
    target[at + 8] = kind;
    at
}

/// Fills in length and checksum of the frame that [`start`] began at `at` and that ends with `target`.
pub fn finish(target: &mut [u8], at: usize, place: u64) {
    finish_with(target, at, place, &[]);
}

/// The same for a frame with `inserts`: bytes that belong before a place in `target`, in ascending order of places.
/// [`pieces`] gives the whole.
pub fn finish_with(target: &mut [u8], at: usize, place: u64, inserts: &[(usize, Bytes)]) {
    let inserted: usize = inserts.iter().map(|(_, bytes)| bytes.len()).sum();
    let length = (target.len() - at - HEADER_BYTES + inserted) as u32;
    target[at + 4..at + 8].copy_from_slice(&length.to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&place.to_le_bytes());
    each_piece(target, at + 4, inserts, |piece| hasher.update(piece));
    target[at..at + 4].copy_from_slice(&hasher.finalize().to_le_bytes());
}

/// The bytes of `target` with its `inserts`, in order.
pub fn pieces<'a>(target: &'a [u8], inserts: &'a [(usize, Bytes)]) -> Vec<&'a [u8]> {
    let mut pieces = Vec::with_capacity(2 * inserts.len() + 1);
    each_piece(target, 0, inserts, |piece| pieces.push(piece));
    pieces
}

fn each_piece<'a>(
    target: &'a [u8],
    from: usize,
    inserts: &'a [(usize, Bytes)],
    mut visit: impl FnMut(&'a [u8]),
) {
    let mut done = from;
    for (before, bytes) in inserts {
        visit(&target[done..*before]);
        visit(bytes);
        done = *before;
    }
    visit(&target[done..]);
}

/// A whole frame around `payload`.
pub fn encode(kind: u8, place: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
    let at = start(&mut bytes, kind);
    bytes.extend_from_slice(payload);
    finish(&mut bytes, at, place);
    bytes
}

/// Kind and payload of the frame at the start of `bytes`, if it is whole and its checksum fits `place`; the frame
/// takes `HEADER_BYTES + payload.len()` bytes.
pub fn decode(bytes: &[u8], place: u64) -> Option<(u8, &[u8])> {
    let (kind, payload) = unchecked(bytes)?;
    let crc = u32::from_le_bytes(bytes[..4].try_into().ok()?);
    (checksum(place, &bytes[4..HEADER_BYTES + payload.len()]) == crc).then_some((kind, payload))
}

/// Kind and payload of what looks like a frame at the start of `bytes`, if all of it is there.
pub fn unchecked(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let length = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?) as usize;
    let whole = bytes.get(..HEADER_BYTES.checked_add(length)?)?;
    Some((whole[HEADER_BYTES - 1], &whole[HEADER_BYTES..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flip_cut_and_move_is_refused() {
        let frame = encode(3, 42, b"payload");
        assert_eq!(decode(&frame, 42), Some((3, &b"payload"[..])));
        assert_eq!(decode(&frame, 43), None);
        for bit in 0..frame.len() * 8 {
            let mut damaged = frame.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&damaged, 42), None, "bit {bit}");
        }
        for cut in 0..frame.len() {
            assert_eq!(decode(&frame[..cut], 42), None, "cut {cut}");
        }
        assert_eq!(decode(&[0; 64], 0), None, "zeros are not a frame");
    }

    #[test]
    fn a_frame_in_pieces_is_the_same_frame() {
        let mut target = b"before".to_vec();
        let at = start(&mut target, 3);
        target.extend_from_slice(b"pad");
        let middle = target.len();
        target.extend_from_slice(b"ing");
        let inserts = [(middle, Bytes::from_static(b"large")), (target.len(), Bytes::from_static(b"value"))];
        finish_with(&mut target, at, 42, &inserts);
        assert_eq!(pieces(&target, &inserts).concat()[6..], encode(3, 42, b"padlargeingvalue"));
    }
}
