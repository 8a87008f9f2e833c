//! Rebuilds the index of a table from its blocks, where the one in its file is damaged, or the top-level index or footer that lead to it.
//!
//! Blocks lie back to back, and each says by its checksum that it belongs where it is; where they begin and end the manifest or the
//! top-level index of the table knows. So an index that was made from all of them is complete. Where one does not check, the next that does is looked
//! for, and what lies between is a *gap*: the index leads to it for every key that may have been there, and who reads it is told.

use std::ops::Range;

use super::block::BlockCursor;
use super::compression::{expand, is_compressed};
use super::index::Index;
use super::{Block, KIND_BLOCK, TableNumber};
use crate::disk::{File, Purpose};
use crate::engine::salvage::{fill_around, successor};
use crate::engine::{Error, frame};

/// Bytes that are read at once.
const WINDOW_BYTES: u64 = 1 << 20;
/// Longest block that is looked for behind damage: each offset has to be checked for one.
const FOUND_BYTES_MAX: u64 = 1 << 20;
/// A gap is cut into pieces of this size, so that who asks for a key in it reads no more.
const GAP_BYTES_MAX: u64 = 64 << 10;

/// Contents of the blocks of a range.
pub struct Rebuilt {
    /// Leads to every block, and to gaps.
    pub index: Index,
    /// Entries of blocks that check.
    pub entries: u64,
    /// First and last key of those blocks.
    pub keys: Option<(Vec<u8>, Vec<u8>)>,
    /// The first gap, if there is any.
    pub gap: Option<Error>,
}

/// The bytes of a file that were read last.
struct Window<'a> {
    file: &'a dyn File,
    purpose: Purpose,
    end: u64,
    start: u64,
    bytes: Vec<u8>,
}

impl Window<'_> {
    /// At least `bytes` bytes from `offset` on, fewer at the end.
    fn at(&mut self, offset: u64, bytes: u64) -> &[u8] {
        let wanted = offset.saturating_add(bytes).min(self.end);
        if offset < self.start || wanted > self.start + self.bytes.len() as u64 {
            let length = bytes.max(WINDOW_BYTES).min(self.end - offset);
            (self.start, self.bytes) = (offset, vec![0; length as usize]);
            fill_around(self.file, self.purpose, offset, &mut self.bytes);
        }
        &self.bytes[(offset - self.start) as usize..]
    }

    /// The frame at `offset`, if a block of table `number` begins there: the block, and the bytes that its frame takes. One of more than
    /// `bytes_max` is none.
    fn block(&mut self, number: TableNumber, offset: u64, bytes_max: u64) -> Option<(Block, u64)> {
        let head = self.at(offset, frame::HEADER_BYTES as u64).get(..frame::HEADER_BYTES)?;
        let kind = head[frame::HEADER_BYTES - 1];
        let length = u32::from_le_bytes(head[4..8].try_into().ok()?);
        let bytes = frame::HEADER_BYTES as u64 + u64::from(length);
        let is_block = kind == KIND_BLOCK || is_compressed(kind);
        if !is_block || bytes > bytes_max || bytes > self.end - offset {
            return None;
        }
        let (kind, payload) = frame::decode(self.at(offset, bytes), number.frame_place(offset))?;
        let payload = if kind == KIND_BLOCK { payload.to_vec() } else { expand(kind, payload)? };
        Some((Block::parse(payload.into()).ok()?, bytes))
    }
}

/// Number of entries, first and last key of a block whose keys ascend and are above `after`.
fn walk(block: Block, after: Option<&[u8]>) -> Option<(u64, Vec<u8>, Vec<u8>)> {
    let mut cursor = BlockCursor::default();
    let mut more = cursor.enter(block, b"").ok()?;
    let first = cursor.key().to_vec();
    if !more || after.is_some_and(|after| &first[..] <= after) {
        return None;
    }
    let (mut entries, mut last) = (0, Vec::new());
    while more {
        if entries > 0 && cursor.key() <= &last[..] {
            return None;
        }
        entries += 1;
        last.clear();
        last.extend_from_slice(cursor.key());
        more = cursor.advance().ok()?;
    }
    Some((entries, first, last))
}

/// Reads the blocks of table `number` that lie in `range` of `file`.
pub fn rebuild(number: TableNumber, file: &dyn File, range: Range<u64>, purpose: Purpose) -> Rebuilt {
    let mut window = Window { file, purpose, end: range.end, start: range.start, bytes: Vec::new() };
    let mut rebuilt = Rebuilt { index: Index::new(range.start), entries: 0, keys: None, gap: None };
    let (mut offset, mut gap) = (range.start, None);
    while offset < range.end {
        let bytes_max = if gap.is_some() { FOUND_BYTES_MAX } else { u64::MAX };
        let after = rebuilt.keys.as_ref().map(|(_, last)| &last[..]);
        let found = window
            .block(number, offset, bytes_max)
            .and_then(|(block, bytes)| Some((walk(block, after)?, offset + bytes)));
        let Some(((entries, first, last), end)) = found else {
            gap.get_or_insert(offset);
            offset += 1;
            continue;
        };
        if gap.take().is_some() {
            rebuilt.add_gap(number, offset);
            // Anything below its first key may have been in the gap.
            rebuilt.index.push(&first, &first, end);
        } else {
            rebuilt.index.push(after.unwrap_or(b""), &first, end);
        }
        rebuilt.entries += entries;
        match &mut rebuilt.keys {
            Some((_, before)) => *before = last,
            none => *none = Some((first, last)),
        }
        offset = end;
    }
    if gap.is_some() {
        rebuilt.add_gap(number, range.end);
    }
    rebuilt.index.complete();
    rebuilt
}

impl Rebuilt {
    /// Adds what lies behind the last block, up to `end`.
    fn add_gap(&mut self, number: TableNumber, end: u64) {
        let start = self.index.start(self.index.len());
        self.gap
            .get_or_insert_with(|| Error::corrupt(number.file_name(), start, "a block that does not check"));
        let above = self.keys.as_ref().map_or(Vec::new(), |(_, last)| successor(last));
        let mut at = start;
        while at < end {
            at = end.min(at + GAP_BYTES_MAX);
            self.index.push(&above, &above, at);
        }
    }
}
