//! Reads what is left of a table without trusting its index: frames lie one behind the other, and each says by its checksum
//! that it belongs where it is. Behind one that does not check, the next that does is looked for.

use bytes::Bytes;

use super::compression::{expand, is_compressed};
use super::{
    Block, KIND_BLOCK, KIND_FOOTER, KIND_LZ4_BLOCK, KIND_TOP, KIND_ZSTD_BLOCK, TRAILER_BYTES, TableMeta,
    VERSION,
};
use crate::base::varint;
use crate::engine::frame;
use crate::engine::lsm::place;

/// A part of a table file.
pub enum Piece {
    /// A block at an offset.
    Block(u64, Block),
    /// A filter, an index or the top: what a new table gets anew.
    Other,
    /// The footer.
    Footer(TableMeta),
    /// Nothing checks from this offset on, up to the next piece.
    Gap(u64),
}

/// The pieces of table `number`, whose file holds `bytes`, in the order in which they lie.
pub fn pieces(number: u64, bytes: &Bytes) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let frames_end = bytes.len().saturating_sub(TRAILER_BYTES as usize);
    let (mut offset, mut gap) = (0, None);
    while offset < frames_end {
        match frame_at(number, bytes, offset) {
            Some((kind, payload)) => {
                pieces.extend(gap.take().map(Piece::Gap));
                let length = frame::HEADER_BYTES + payload.len();
                pieces.push(piece(number, bytes, offset, kind, payload).unwrap_or(Piece::Gap(offset as u64)));
                offset += length;
            }
            None => {
                gap.get_or_insert(offset as u64);
                offset += 1;
            }
        }
    }
    pieces.extend(gap.map(Piece::Gap));
    pieces
}

fn frame_at(number: u64, bytes: &Bytes, offset: usize) -> Option<(u8, &[u8])> {
    let kind = *bytes.get(offset + frame::HEADER_BYTES - 1)?;
    // Before the checksum of what may be megabytes: is this a kind at all?
    let known = (KIND_BLOCK..=KIND_TOP).contains(&kind);
    known.then(|| frame::decode(&bytes[offset..], place(number, offset as u64))).flatten()
}

fn piece(number: u64, bytes: &Bytes, offset: usize, kind: u8, mut payload: &[u8]) -> Option<Piece> {
    Some(match kind {
        KIND_BLOCK => Piece::Block(offset as u64, Block::parse(bytes.slice_ref(payload)).ok()?),
        KIND_LZ4_BLOCK | KIND_ZSTD_BLOCK => {
            debug_assert!(is_compressed(kind));
            Piece::Block(offset as u64, Block::parse(expand(kind, payload)?.into()).ok()?)
        }
        KIND_FOOTER => {
            let version = varint::take(&mut payload)?;
            let meta = TableMeta::decode(&mut payload, bytes.len() as u64)?;
            Piece::Footer(Some(meta).filter(|meta| version == VERSION && meta.number == number)?)
        }
        _ => Piece::Other,
    })
}
