//! Reads what is left of a table without trusting its index: frames lie one behind the other, and each says by its checksum
//! that it belongs where it is. Behind one that does not check, the next that does is looked for.

use bytes::Bytes;

use super::compression::{expand, is_compressed, may_be_compressed};
use super::{
    Block, KIND_BLOCK, KIND_FOOTER, KIND_LZ4_BLOCK, KIND_TOP_INDEX, KIND_ZSTD_BLOCK, TRAILER_BYTES,
    TableMeta, TableNumber, VERSION,
};
use crate::base::varint;
use crate::engine::frame;

/// A piece of a table file.
pub enum TablePiece {
    /// A block at an offset.
    Block(u64, Block),
    /// A filter, an index or the top-level index: what a new table gets anew.
    Other,
    /// The footer.
    Footer(TableMeta),
    /// From this offset up to the next piece nothing checks.
    Gap(u64),
}

/// Bytes of checksums that did not fit, per byte of a table, after which the search for its next piece is given up.
const SEARCH_FACTOR: u64 = 16;

/// The pieces of table `number`, whose file holds `bytes`, in the order in which they lie.
pub fn pieces(number: TableNumber, bytes: &Bytes) -> Vec<TablePiece> {
    search(number, bytes).0
}

/// The same, and the number of bytes whose checksum was computed and did not fit.
fn search(number: TableNumber, bytes: &Bytes) -> (Vec<TablePiece>, u64) {
    let mut pieces = Vec::new();
    let frames_end = bytes.len().saturating_sub(TRAILER_BYTES as usize);
    let (mut offset, mut gap, mut missed_bytes) = (0, None, 0);
    let missed_bytes_max = bytes.len() as u64 * SEARCH_FACTOR;
    while offset < frames_end {
        let found = frame::unchecked(&bytes[offset..]);
        // Behind a piece comes the next one; in what is damaged that is only likely where something looks like one.
        let found = found.filter(|(kind, payload)| match gap {
            None => (KIND_BLOCK..=KIND_TOP_INDEX).contains(kind),
            Some(_) => missed_bytes < missed_bytes_max && is_plausible(*kind, payload),
        });
        let checked = found.and_then(|(_, payload)| {
            let checked = frame::decode(&bytes[offset..], number.frame_place(offset as u64));
            missed_bytes += if checked.is_none() { (frame::HEADER_BYTES + payload.len()) as u64 } else { 0 };
            checked
        });
        match checked {
            Some((kind, payload)) => {
                pieces.extend(gap.take().map(TablePiece::Gap));
                let length = frame::HEADER_BYTES + payload.len();
                pieces.push(
                    piece(number, bytes, offset, kind, payload).unwrap_or(TablePiece::Gap(offset as u64)),
                );
                offset += length;
            }
            None => {
                gap.get_or_insert(offset as u64);
                offset += 1;
            }
        }
    }
    pieces.extend(gap.map(TablePiece::Gap));
    (pieces, missed_bytes)
}

/// Whether a frame in the middle of damage may be one that is of use, a block or the footer. Before the checksum of what may be
/// megabytes, at each of millions of offsets, a few bytes decide.
fn is_plausible(kind: u8, mut payload: &[u8]) -> bool {
    match kind {
        KIND_BLOCK => Block::may_be(payload),
        KIND_FOOTER => varint::take(&mut payload) == Some(VERSION),
        _ => is_compressed(kind) && may_be_compressed(kind, payload),
    }
}

fn piece(
    number: TableNumber,
    bytes: &Bytes,
    offset: usize,
    kind: u8,
    mut payload: &[u8],
) -> Option<TablePiece> {
    Some(match kind {
        KIND_BLOCK => TablePiece::Block(offset as u64, Block::parse(bytes.slice_ref(payload)).ok()?),
        KIND_LZ4_BLOCK | KIND_ZSTD_BLOCK => {
            debug_assert!(is_compressed(kind));
            TablePiece::Block(offset as u64, Block::parse(expand(kind, payload)?.into()).ok()?)
        }
        KIND_FOOTER => {
            let version = varint::take(&mut payload)?;
            let meta = TableMeta::decode(&mut payload, bytes.len() as u64)?;
            TablePiece::Footer(Some(meta).filter(|meta| version == VERSION && meta.number == number)?)
        }
        _ => TablePiece::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::super::block::{BlockBuilder, Raw};
    use super::super::compression::compress;
    use super::*;
    use crate::base::prng::Prng;
    use crate::engine::lsm::Compression;

    const NUMBER: TableNumber = TableNumber::new(7);

    /// The payload of a block of many entries that begin alike.
    fn block() -> Vec<u8> {
        let (mut builder, mut payload) = (BlockBuilder::default(), Vec::new());
        builder.start(&payload);
        for number in 0..100 {
            let value = format!("a value like every other, {number}");
            let value = Raw { bytes: value.as_bytes(), is_pointer: false };
            builder.add(&mut payload, 16, format!("key{number:05}").as_bytes(), Some(value));
        }
        builder.finish(&mut payload);
        payload
    }

    /// A table of `bytes` of which nothing checks but one block of each kind, with garbage before, between and behind them.
    fn table(garbage: impl Fn(usize) -> Vec<u8>) -> Bytes {
        let mut bytes = Vec::new();
        for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
            bytes.extend(garbage(bytes.len()));
            let (mut payload, mut kind) = (block(), KIND_BLOCK);
            if compression != Compression::None {
                let mut small = Vec::new();
                kind = compress(compression, &payload, &mut small).unwrap();
                payload = small;
            }
            bytes.extend(frame::encode(kind, NUMBER.frame_place(bytes.len() as u64), &payload));
        }
        bytes.extend(garbage(bytes.len()));
        bytes.into()
    }

    fn blocks(pieces: &[TablePiece]) -> usize {
        pieces.iter().filter(|piece| matches!(piece, TablePiece::Block(..))).count()
    }

    #[test]
    fn blocks_are_found_in_noise_with_few_checksums() {
        let bytes = table(|seed| {
            let mut prng = Prng::new(seed as u64);
            (0..4 << 20).map(|_| prng.bits() as u8).collect()
        });
        let (pieces, missed_bytes) = search(NUMBER, &bytes);
        println!("{missed_bytes} bytes of {}", bytes.len());
        assert_eq!(blocks(&pieces), 3);
        assert!(missed_bytes < bytes.len() as u64, "{missed_bytes} bytes of {}", bytes.len());
    }

    #[test]
    fn blocks_of_another_table_are_read_once() {
        let bytes = table(|seed| {
            let frame = |at: u64| {
                frame::encode(
                    KIND_BLOCK,
                    TableNumber::new(NUMBER.number() + 1).frame_place(seed as u64 + at),
                    &block(),
                )
            };
            (0..100).flat_map(|at| frame(at * 1000)).collect()
        });
        let (pieces, missed_bytes) = search(NUMBER, &bytes);
        assert_eq!(blocks(&pieces), 3);
        assert!(missed_bytes <= bytes.len() as u64, "{missed_bytes} bytes of {}", bytes.len());
    }

    #[test]
    fn what_looks_like_long_frames_everywhere_is_not_read_for_ever() {
        // Each of nine bytes the head of a frame of half a mebibyte.
        let heads = |kind: u8| {
            let head = [1, 2, 3, 4, 0, 0, 8, 0, kind];
            move |_| head.into_iter().cycle().take(1 << 20).collect::<Vec<u8>>()
        };
        for kind in KIND_BLOCK..=KIND_TOP_INDEX {
            let bytes = table(heads(kind));
            let (pieces, missed_bytes) = search(NUMBER, &bytes);
            assert_eq!(blocks(&pieces), 3, "kind {kind}");
            assert!(missed_bytes <= 2 * bytes.len() as u64, "kind {kind}: {missed_bytes} of {}", bytes.len());
        }
        // Made so that each looks like a footer.
        let head = [VERSION as u8, 0, 0, 0, 0, 0, 8, 0, KIND_FOOTER];
        let bytes: Vec<u8> = head.into_iter().cycle().take(1 << 20).collect();
        let (pieces, missed_bytes) = search(NUMBER, &bytes.clone().into());
        assert_eq!(blocks(&pieces), 0);
        let bound = bytes.len() as u64 * SEARCH_FACTOR + (8 << 16) + frame::HEADER_BYTES as u64;
        assert!(missed_bytes > bytes.len() as u64 && missed_bytes <= bound, "{missed_bytes}");
    }
}
