//! Unsigned integers in as few bytes as they need: seven bits a byte, low bits first, the top bit says "more".

/// Appends `value` to `target` (1 to 10 bytes).
pub fn put(target: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        target.push(value as u8 | 0x80);
        value >>= 7;
    }
    target.push(value as u8);
}

/// Bytes that [`put`] appends for `value`.
pub fn length(value: u64) -> u64 {
    u64::from((u64::BITS - (value | 1).leading_zeros()).div_ceil(7))
}

/// Takes an integer off the front of `source`; `None` if it is cut short or longer than 64 bits.
pub fn take(source: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for (index, &byte) in source.iter().enumerate().take(10) {
        let bits = u64::from(byte & 0x7f);
        if index == 9 && bits > 1 {
            return None;
        }
        value |= bits << (7 * index);
        if byte & 0x80 == 0 {
            *source = &source[index + 1..];
            return Some(value);
        }
    }
    None
}

/// Appends a length and then the bytes.
pub fn put_bytes(target: &mut Vec<u8>, bytes: &[u8]) {
    put(target, bytes.len() as u64);
    target.extend_from_slice(bytes);
}

/// Takes what [`put_bytes`] wrote off the front of `source`.
pub fn take_bytes<'a>(source: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take(source)?).ok()?;
    let (bytes, rest) = source.split_at_checked(length)?;
    *source = rest;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_comes_back_and_every_cut_is_refused() {
        for value in (0..64).flat_map(|shift| [1u64 << shift, (1u64 << shift) - 1]).chain([u64::MAX]) {
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            let mut source = &bytes[..];
            assert_eq!(take(&mut source), Some(value));
            assert!(source.is_empty());
            for cut in 0..bytes.len() {
                assert_eq!(take(&mut &bytes[..cut]), None);
            }
        }
        assert_eq!(take(&mut &[0xff; 11][..]), None);
        assert_eq!(take_bytes(&mut &[5, 1, 2][..]), None);
    }
}
