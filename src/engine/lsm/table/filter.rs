//! Bloom filter of a partition of a table: says "not here" for about 99 of 100 absent keys and never for a present one.
//!
//! The filter is cut into lines of 512 bits, the size of a cache line. A key sets a few bits of one line, so a question
//! costs one cache miss. Low and high half of the key's XXH3-64 hash are used apart: the low half picks the line, a remix
//! of the whole hash gives nine fresh bits for every probe.
//!
//! Payload on disk: number of probes (1), then the lines, each as eight little-endian words of 64 bits.

use xxhash_rust::xxh3::xxh3_64;

const LINE_BITS: u64 = 512;
const LINE_BYTES: usize = 64;
/// Nine-bit numbers that one remix of 64 bits yields.
const PROBES_PER_MIX: u32 = 7;

#[derive(Clone, Copy, Default, Debug, PartialEq)]
#[repr(align(64))]
struct Line([u64; 8]);

/// The hash of a key that all filters are asked with.
pub fn hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

/// Probes of a key, and lines of a filter of `keys` keys with `bits` a key.
fn shape(keys: u64, bits: u64) -> (u32, u64) {
    // Inside lines slightly fewer probes than ln 2 bits are best.
    let probes = ((bits * 6 + 5) / 10).clamp(1, 16) as u32;
    (probes, (keys * bits).div_ceil(LINE_BITS).max(1))
}

/// Bytes of the payload of a filter of `keys` keys with `bits` a key.
pub fn payload_bytes(keys: u64, bits: u64) -> u64 {
    1 + if bits == 0 { 0 } else { shape(keys, bits).1 * LINE_BYTES as u64 }
}

/// A filter in memory. Without lines it knows nothing and answers "perhaps".
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    probes: u32,
    lines: Vec<Line>,
}

impl Filter {
    /// A filter of the keys with these hashes; `bits` a key, 0 for a filter that knows nothing.
    pub fn build(hashes: &[u64], bits: u64) -> Filter {
        if bits == 0 {
            return Filter::default();
        }
        let (probes, count) = shape(hashes.len() as u64, bits);
        let mut lines = vec![Line::default(); count as usize];
        for &hash in hashes {
            let line = &mut lines[line_of(hash, count)].0;
            each_bit(hash, probes, |bit| {
                line[bit / 64] |= 1 << (bit % 64);
                true
            });
        }
        Filter { probes, lines }
    }

    /// Whether the table may hold a key with this hash.
    pub fn may_contain(&self, hash: u64) -> bool {
        if self.lines.is_empty() {
            return true;
        }
        let line = &self.lines[line_of(hash, self.lines.len() as u64)].0;
        each_bit(hash, self.probes, |bit| line[bit / 64] & (1 << (bit % 64)) != 0)
    }

    /// Memory it takes.
    pub fn bytes(&self) -> u64 {
        (self.lines.len() * LINE_BYTES + size_of::<Filter>()) as u64
    }

    /// Appends the payload.
    pub fn encode(&self, target: &mut Vec<u8>) {
        target.reserve(1 + self.lines.len() * LINE_BYTES);
        target.push(self.probes as u8);
        for word in self.lines.iter().flat_map(|line| line.0) {
            target.extend_from_slice(&word.to_le_bytes());
        }
    }

    /// Reads a payload; `None` if it is none.
    pub fn decode(payload: &[u8]) -> Option<Filter> {
        let (&probes, words) = payload.split_first()?;
        let (lines, rest) = words.as_chunks::<LINE_BYTES>();
        if !rest.is_empty() || probes > 16 || (probes == 0) != lines.is_empty() {
            return None;
        }
        let line = |bytes: &[u8; LINE_BYTES]| {
            let (words, _) = bytes.as_chunks::<8>();
            Line(std::array::from_fn(|index| u64::from_le_bytes(words[index])))
        };
        Some(Filter { probes: u32::from(probes), lines: lines.iter().map(line).collect() })
    }
}

fn line_of(hash: u64, lines: u64) -> usize {
    (((hash & 0xFFFF_FFFF) * lines) >> 32) as usize
}

/// Calls `visit` with each probe's bit in the line until it says false; whether it never did.
fn each_bit(hash: u64, probes: u32, mut visit: impl FnMut(usize) -> bool) -> bool {
    let mut mixed = hash;
    for probe in 0..probes {
        if probe % PROBES_PER_MIX == 0 {
            mixed = (mixed ^ (mixed >> 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            mixed ^= mixed >> 29;
        }
        let bit = (mixed >> (9 * (probe % PROBES_PER_MIX))) as usize % LINE_BITS as usize;
        if !visit(bit) {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(index: u64) -> [u8; 17] {
        let mut key = [b'b'; 17];
        key[1..9].copy_from_slice(&(index / 100).to_be_bytes());
        key[9..].copy_from_slice(&(index % 100).to_be_bytes());
        key
    }

    #[test]
    fn ten_bits_a_key_give_at_most_twelve_false_positives_in_a_thousand() {
        const KEYS: u64 = 40_000;
        let hashes: Vec<u64> = (0..KEYS).map(|index| hash(&key(index))).collect();
        for (bits, worst) in [(10, 0.012), (16, 0.0012), (4, 0.16)] {
            let filter = Filter::build(&hashes, bits);
            assert!(hashes.iter().all(|hash| filter.may_contain(*hash)));
            let wrong = (KEYS..KEYS + 200_000).filter(|index| filter.may_contain(hash(&key(*index)))).count();
            let share = wrong as f64 / 200_000.0;
            assert!(share <= worst, "{bits} bits: {share}");
        }
    }

    #[test]
    fn a_filter_comes_back_and_a_cut_one_is_refused() {
        for filter in
            [Filter::build(&[hash(b"a"), hash(b"b")], 10), Filter::build(&[], 10), Filter::default()]
        {
            let mut bytes = Vec::new();
            filter.encode(&mut bytes);
            assert_eq!(Filter::decode(&bytes), Some(filter.clone()));
            for cut in 0..bytes.len() {
                assert!(Filter::decode(&bytes[..cut]).is_none(), "cut {cut}");
            }
        }
        assert!(Filter::default().may_contain(hash(b"anything")));
    }
}
