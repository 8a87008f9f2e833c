//! The one checked record: log records, table blocks, pages and manifest edits are all framed by it.
//!
//! ```text
//! crc32 u32 | length u32 | kind u8 | payload (length bytes)          integers little-endian
//! ```
//!
//! The checksum covers *place* (8 bytes that are not stored), length, kind and payload. The place is whatever makes this
//! spot unlike any other: file number and offset. A frame that was once valid elsewhere, left over in a recycled
//! segment or a page written to the wrong address, therefore fails its check.

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
    let length = (target.len() - at - HEADER_BYTES) as u32;
    target[at + 4..at + 8].copy_from_slice(&length.to_le_bytes());
    let crc = checksum(place, &target[at + 4..]);
    target[at..at + 4].copy_from_slice(&crc.to_le_bytes());
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
    let length = u32::from_le_bytes(bytes.get(4..8)?.try_into().ok()?) as usize;
    let whole = bytes.get(..HEADER_BYTES.checked_add(length)?)?;
    let crc = u32::from_le_bytes(whole[..4].try_into().ok()?);
    (checksum(place, &whole[4..]) == crc).then(|| (whole[8], &whole[HEADER_BYTES..]))
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
}
